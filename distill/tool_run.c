/* ckdistill run, finetune, resume, eval: training runs in a folder; see run.h. */
#include "distill/run/run.h"
#include "distill/tools.h"
#include "io/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool quiet, dry_run, force;
static const char *folder, *device;
static ck_text_list sets;
static uint64_t as_lora;

#define QUIET                                                                                      \
    { .name = "quiet", .letter = 'q', .type = CK_OPT_FLAG, .value = &quiet, .help = "no progress" }
#define OUTPUT                                                                                     \
    {                                                                                              \
        .name = "output", .letter = 'o', .argument = "RUN", .type = CK_OPT_TEXT, .value = &folder, \
        .help = "the run's folder (default: the config's name without .json)"                      \
    }
#define SET                                                                                        \
    {                                                                                              \
        .name = "set", .argument = "KEY=VALUE", .type = CK_OPT_LIST, .value = &sets,               \
        .help = "a setting over the config's, such as rate.peak=3e-5; can be given again"          \
    }
#define DEVICE                                                                                     \
    CK_OPTION_DEVICE(device,                                                                       \
                     "what computes, over the config's backend, a processor, a card, or a card "   \
                     "if there is one")
#define FORCE                                                                                      \
    {                                                                                              \
        .name = "force", .letter = 'f', .type = CK_OPT_FLAG, .value = &force,                      \
        .help = "begin anew in a folder that holds a run"                                          \
    }
#define DRY_RUN                                                                                    \
    {                                                                                              \
        .name = "dry-run", .type = CK_OPT_FLAG, .value = &dry_run,                                 \
        .help = "say what it takes of memory and time, and stop; the model's configs are enough"   \
    }

static ck_run_options run_options(void) {
    return (ck_run_options){
        .quiet = quiet, .dry_run = dry_run, .force = force, .table = quiet ? NULL : stdout};
}

/* ---- run ---- */

static const ck_option options_run[] = {
    OUTPUT,
    SET,
    {.name = "as-lora",
     .argument = "RANK",
     .type = CK_OPT_COUNT,
     .value = &as_lora,
     .help = "at the end make RUN/student.lora.safetensors as well: the student's difference from "
             "its teacher as a LoRA (setting as_lora)"},
    DEVICE,
    DRY_RUN,
    FORCE,
    QUIET,
    {0},
};

static const ck_command command_run = {
    .name = "ckdistill run",
    .summary = "train or distil as a config says, until it is done or stopped",
    .synopsis = "CONFIG.json [-o RUN] [--set KEY=VALUE]...",
    .details =
        "Everything goes to the folder RUN: the config with all defaults filled in, a log, "
        "checkpoints, metrics, and at the end student.safetensors.\n\n"
        "Ctrl-C finishes the step and saves; `ckdistill resume RUN` goes on as if nothing had "
        "been. A loss that is no number, or that stays far above what it was, goes back to the "
        "last checkpoint; after three times the run gives up.\n\n"
        "With lora.rank the student is a LoRA beside its teacher's weights, and "
        "student.safetensors is one that `ckmerge BASE --lora` applies; with --as-lora whole "
        "weights "
        "are trained, and their difference becomes one.",
    .options = options_run,
    .examples = "$ ckdistill run recipes/distill/checkerboard-pd.json -o pd\n"
                "  a student that needs one step where its teacher needs 32, in seconds\n"
                "$ ckdistill run recipes/distill/fashion-lcm.json --set batch=8 --dry-run\n"
                "  what it would take",
    .files = true,
};

/* "recipes/pd.json" to "pd". */
static char *default_folder(const char *config) {
    const char *slash = strrchr(config, '/'), *name = slash ? slash + 1 : config;
    size_t n = strlen(name);
    if (n > 5 && strcmp(name + n - 5, ".json") == 0) n -= 5;
    return strndup(name, n);
}

static ck_status add_set(const char *set, ck_error *err) {
    const char **grown = ck_grow(sets.items, sets.count, &sets.capacity, sizeof *grown);
    if (!grown) return ck_fail_memory(err, set);
    sets.items = grown;
    sets.items[sets.count++] = set;
    return CK_OK;
}

typedef ck_status begin(const char *config, const char *const *set, size_t set_count,
                        const char *run, const ck_run_options *options, ck_error *err);

static ck_status start(begin *what, const char *config, ck_error *err) {
    char backend[64];
    ck_run_options options = run_options();
    snprintf(backend, sizeof backend, "backend=%s", device ? device : "");
    if (device) CK_TRY(add_set(backend, err));
    char *own = folder ? NULL : default_folder(config);
    ck_status s = folder || own
                      ? what(config, sets.items, sets.count, folder ? folder : own, &options, err)
                      : ck_fail_memory(err, config);
    free(own);
    free(sets.items);
    return s;
}

static ck_status add_as_lora(ck_error *err) {
    static char set[48];
    snprintf(set, sizeof set, "as_lora=%llu", (unsigned long long)as_lora);
    return as_lora ? add_set(set, err) : CK_OK;
}

static ck_status run(const char *const *operands, size_t count, ck_error *err) {
    (void)count;
    CK_TRY(add_as_lora(err));
    return start(ck_run_start, operands[0], err);
}

const ck_tool ck_tool_run = {
    .command = &command_run, .min_operands = 1, .max_operands = 1, .run = run};

/* ---- finetune ---- */

static const ck_command command_finetune = {
    .name = "ckdistill finetune",
    .summary = "train a model on: plain diffusion training, without a teacher",
    .synopsis = "CONFIG.json [-o RUN] [--set KEY=VALUE]...",
    .details =
        "The same as `ckdistill run` of a config whose method is finetune, whatever it says.",
    .options = options_run,
    .examples = "$ ckdistill finetune recipes/distill/fashion-teacher.json -o teacher\n"
                "  ten thousand steps more for a tiny model of clothes",
    .files = true,
};

static ck_status finetune(const char *const *operands, size_t count, ck_error *err) {
    (void)count;
    CK_TRY(add_as_lora(err));
    CK_TRY(add_set("method.name=finetune", err));
    return start(ck_run_start, operands[0], err);
}

const ck_tool ck_tool_finetune = {
    .command = &command_finetune, .min_operands = 1, .max_operands = 1, .run = finetune};

/* ---- resume ---- */

static const ck_option options_resume[] = {DRY_RUN, QUIET, {0}};

static const ck_command command_resume = {
    .name = "ckdistill resume",
    .summary = "go on with a run from its last checkpoint",
    .synopsis = "RUN",
    .details = "With the same number of threads the result has the same bits as if the run had "
               "never been interrupted.",
    .options = options_resume,
    .examples = "$ ckdistill resume pd\n"
                "  goes on where it was stopped, or killed",
    .files = true,
};

static ck_status resume(const char *const *operands, size_t count, ck_error *err) {
    (void)count;
    ck_run_options options = run_options();
    return ck_run_resume(operands[0], &options, err);
}

const ck_tool ck_tool_resume = {
    .command = &command_resume, .min_operands = 1, .max_operands = 1, .run = resume};

/* ---- eval ---- */

static const ck_option options_eval[] = {OUTPUT, SET, DEVICE, FORCE, QUIET, {0}};

static const ck_command command_eval = {
    .name = "ckdistill eval",
    .summary = "measure a run's student, or any model, beside its teacher",
    .synopsis = "RUN | CONFIG.json [-o RUN] [--set KEY=VALUE]...",
    .details =
        "Of a run: its last checkpoint. Of a config: its \"student\", or without one its teacher, "
        "as a run would begin with it; nothing is trained. Shows a table, and writes it to "
        "RUN/metrics.json, and a grid of pictures to RUN/grids, as the end of a run does.",
    .options = options_eval,
    .examples = "$ ckdistill eval pd\n"
                "  the teacher at many steps and at the student's, and the student\n"
                "$ ckdistill eval recipes/distill/fashion-turbo.json -o table \\\n"
                "    --set student=recipes/models/turbo.safetensors --set evaluate.samples=10000\n"
                "  the same of a student that was made earlier",
    .files = true,
};

static ck_status eval(const char *const *operands, size_t count, ck_error *err) {
    (void)count;
    struct stat st;
    if (stat(operands[0], &st) != 0 || !S_ISDIR(st.st_mode))
        return start(ck_run_evaluate, operands[0], err);
    if (folder || sets.count || device)
        return ck_fail(err, CK_USAGE, "%s is a run, which has its folder and its settings",
                       operands[0]);
    ck_run_options options = run_options();
    return ck_run_evaluate(NULL, NULL, 0, operands[0], &options, err);
}

const ck_tool ck_tool_eval = {
    .command = &command_eval, .min_operands = 1, .max_operands = 1, .run = eval};
