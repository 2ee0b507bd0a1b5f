/* ckmerge: merges checkpoints, from flags or from a recipe. */
#include "io/cli.h"
#include "io/layout.h"
#include "io/os.h"
#include "io/reader.h"
#include "io/scaled.h"
#include "io/view.h"
#include "io/writer.h"
#include "merge/engine.h"
#include "merge/explain.h"
#include "merge/flags.h"
#include "merge/model_hash.h"
#include "merge/provenance.h"
#include "merge/rebasin.h"
#include "merge/recipe.h"
#include "merge/report.h"
#include "merge/save.h"
#include "merge/sweep.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

static volatile int cancelled;

static bool keep_hashing(void *context, uint64_t bytes) {
    (void)context, (void)bytes;
    return !cancelled;
}

static void cancel(int signal) {
    (void)signal;
    cancelled = 1;
}

/* The first Ctrl-C stops the work in order; a second one kills at once, and that too leaves
 * nothing behind. */
static void catch_signals(void) {
    struct sigaction action = {.sa_handler = cancel, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

/* --hash-models: the recipe states the models' hashes, as if the user had. */
static ck_status hash_models(ck_recipe *r, ck_error *err) {
    for (size_t i = 0; i < r->model_count; i++) {
        char sha256[CK_SHA256_HEX];
        if (r->models[i].sha256) continue;
        CK_TRY(ck_model_hash(r->models[i].path, sha256, keep_hashing, NULL, err));
        if (!(r->models[i].sha256 = ck_arena_strdup(&r->arena, sha256)))
            return ck_fail_memory(err, r->models[i].path);
    }
    return CK_OK;
}

static ck_status lock_recipe(ck_recipe *r, const ck_run_result *result, ck_error *err) {
    r->lock_tool = "ckmerge " CK_VERSION;
    r->lock_models = ck_arena_alloc(&r->arena, r->model_count * sizeof *r->lock_models);
    if (!r->lock_models) return ck_fail_memory(err, "recipe");
    for (size_t i = 0; i < r->model_count; i++)
        if (!(r->lock_models[i] = ck_arena_strdup(&r->arena, result->model_sha256[i])))
            return ck_fail_memory(err, "recipe");
    r->lock_output = ck_arena_strdup(&r->arena, result->output_sha256);
    return r->lock_output ? CK_OK : ck_fail_memory(err, "recipe");
}

static ck_status write_recipe(ck_recipe *r, const ck_run_result *result, ck_error *err) {
    if (ck_flags.lock) CK_TRY(lock_recipe(r, result, err));
    char folder[4096] = ".";
    const char *slash = strrchr(ck_flags.write_recipe, '/');
    if (slash)
        snprintf(folder, sizeof folder, "%.*s", (int)(slash - ck_flags.write_recipe + 1),
                 ck_flags.write_recipe);
    char *text;
    CK_TRY(ck_recipe_text(r, CK_PATH_RELATIVE, folder, &text, err));
    char *line = ck_sprintf("%s\n", text);
    free(text);
    if (!line) return ck_fail_memory(err, ck_flags.write_recipe);
    ck_status status =
        ck_write_file(ck_flags.write_recipe, line, strlen(line), ck_flags.force, err);
    free(line);
    return status;
}

/* ---- The merge ---- */

typedef struct merge {
    ck_recipe recipe;
    ck_reader *files[CK_MAX_MODELS];   /* as they were opened */
    ck_reader *plain[CK_MAX_MODELS];   /* views without f8 scales, where there are any; or NULL */
    ck_reader *readers[CK_MAX_MODELS]; /* the same, or views in the first model's layout; of LoRAs
                                        * their changes */
    ck_plan *plan;
    ck_arena arena;
    ck_run_result result;
    char *output;
    const char *warnings[8];
    size_t warning_count;
    bool borrowed; /* the readers are another merge's */
} merge;

static void warn(merge *m, const char *text) {
    if (!text || m->warning_count == sizeof m->warnings / sizeof *m->warnings) return;
    m->warnings[m->warning_count++] = text;
    if (!ck_flags.quiet) fprintf(stderr, "ckmerge: warning: %s\n", text);
}

static void warn_before(merge *m) {
    const ck_node *root = m->recipe.root;
    if (root->kind == CK_NODE_METHOD && strcmp(root->method->name, "weighted-sum") == 0) {
        double alpha = root->values[0].items[0];
        if (alpha < 0 || alpha > 1)
            warn(m, "alpha is outside 0..1: the result goes beyond both models");
    }
}

/* Rules that name nothing are most often misspelt. */
static void warn_rules(merge *m) {
    char text[600], rule[100];
    size_t used = 0, count = 0;
    for (size_t i = 0; i < m->recipe.rule_count; i++) {
        if (m->plan->rule_fits[i]) continue;
        if (++count > 3) continue;
        used += (size_t)snprintf(text + used, sizeof text - used, "%s '%s'", count > 1 ? "," : "",
                                 ck_rule_text(&m->recipe.rules[i], rule, sizeof rule));
    }
    if (!count) return;
    if (count > 3) snprintf(text + used, sizeof text - used, " and %zu more", count - 3);
    char *whole = ck_sprintf("no tensor fits the rule%s%s", count > 1 ? "s" : "", text);
    if (whole) warn(m, ck_arena_strdup(&m->arena, whole));
    free(whole);
}

static void warn_after(merge *m) {
    if (!m->result.clipped) return;
    char *text =
        ck_sprintf("%llu values were too large for the result's type, first in tensor '%s'; "
                   "--dtype bf16 or f32 has room for them",
                   (unsigned long long)m->result.clipped, m->result.clipped_tensor);
    if (text) warn(m, ck_arena_strdup(&m->arena, text));
    free(text);
}

static size_t names_in_common(const ck_reader *a, const ck_reader *b) {
    size_t n = 0;
    for (size_t i = 0; i < ck_reader_count(b); i++)
        n += ck_reader_find(a, ck_reader_tensor(b, i)->name) != NULL;
    return n;
}

/* A model whose tensors are named otherwise than A's is read in A's layout, if that brings names
 * together. */
static ck_status align(merge *m, size_t i, const ck_reader *a, ck_error *err) {
    ck_reader *b = m->readers[i], *view;
    size_t before = names_in_common(a, b);
    if (before == ck_reader_count(b) || before == ck_reader_count(a)) return CK_OK;
    ck_layout_report report;
    CK_TRY(ck_layout_like(b, a, &view, &report, err));
    size_t after = names_in_common(a, view);
    if (after <= before) {
        ck_reader_close(view);
        return CK_OK;
    }
    m->readers[i] = view;
    char *text =
        ck_sprintf("%s names its tensors otherwise than %s and is read in its layout: %zu "
                   "names in common instead of %zu, %zu tensors cut or joined",
                   m->recipe.models[i].path, ck_reader_path(a), after, before, report.converted);
    if (text) warn(m, ck_arena_strdup(&m->arena, text));
    free(text);
    return CK_OK;
}

static void warn_scaled(merge *m, size_t i, size_t count) {
    char *text =
        ck_sprintf("%s: %zu scaled f8 weights are read as their real values, in f32; --dtype "
                   "f16 or bf16 keeps the result small",
                   m->recipe.models[i].path, count);
    if (text) warn(m, ck_arena_strdup(&m->arena, text));
    free(text);
}

static void warn_skipped(merge *m, const ck_reader *r) {
    if (!ck_reader_skipped(r)) return;
    char *text = ck_sprintf("%s: %zu entries that are no tensors are left out", ck_reader_path(r),
                            ck_reader_skipped(r));
    if (text) warn(m, ck_arena_strdup(&m->arena, text));
    free(text);
}

/* Whether a file is used as what it is. */
static ck_status check_kind(const merge *m, size_t i, size_t base, ck_error *err) {
    const char *path = m->recipe.models[i].path;
    bool lora = ck_lora_is(m->files[i]);
    if (lora && base == SIZE_MAX)
        return ck_fail(err, CK_INPUT,
                       "%s is a LoRA, not a model; --lora %s applies it to one, and `cktool "
                       "merge-loras` merges several",
                       path, path);
    if (!lora && base != SIZE_MAX)
        return ck_fail(err, CK_INPUT, "%s is no LoRA: its tensors are not named as a LoRA's are",
                       path);
    return CK_OK;
}

/* Reads a LoRA as changes to the model that it is applied to. */
static ck_status open_lora(merge *m, size_t i, const ck_reader *model, ck_error *err) {
    ck_lora_report report;
    ck_reader *changes;
    CK_TRY(ck_lora_changes(m->files[i], model, m->recipe.unmatched, &changes, &report, err));
    m->readers[i] = changes;
    if (!report.skipped) return CK_OK;
    char *text = ck_sprintf("%s: %zu of its layers are not in %s and are left out, first '%s'",
                            m->recipe.models[i].path, report.skipped, ck_reader_path(model),
                            report.first_skipped);
    if (text) warn(m, ck_arena_strdup(&m->arena, text));
    free(text);
    return CK_OK;
}

/* Matches the channels of a model with A's; before a dry run it is only seen whether they can be.
 */
static ck_status match_channels(merge *m, size_t i, ck_channels *c, const ck_reader *a,
                                ck_error *err) {
    ck_progress progress;
    ck_rebasin_options o = {.threads =
                                (unsigned)(ck_flags.threads > 1000 ? 1000 : ck_flags.threads),
                            .progress = &progress,
                            .cancel = &cancelled};
    ck_rebasin_result result;
    if (ck_flags.dry_run) return CK_OK;
    ck_progress_start(&progress, "matching", ck_rebasin_bytes(c), ck_flags.quiet || ck_flags.json);
    ck_status status = ck_rebasin(c, a, &o, &result, err);
    ck_progress_end(&progress);
    CK_TRY(status);
    char *text = ck_sprintf("%s: re-basin moved %llu of %llu channels", m->recipe.models[i].path,
                            (unsigned long long)result.moved, (unsigned long long)result.channels);
    if (text) warn(m, ck_arena_strdup(&m->arena, text));
    free(text);
    return CK_OK;
}

/* Reads a model with its channels in A's order. */
static ck_status rebasin(merge *m, size_t i, const ck_reader *a, ck_error *err) {
    ck_reader *b = m->readers[i], *view;
    bool borrowed = b == m->files[i] || b == m->plain[i];
    ck_channels *c;
    CK_TRY(ck_channels_open(b, NULL, &c, err));
    ck_status status = match_channels(m, i, c, a, err);
    if (status == CK_OK) status = ck_channels_view(c, &view, err);
    ck_channels_free(c);
    CK_TRY(status);
    m->readers[i] = view;
    return borrowed ? CK_OK : ck_view_own(view, b, err);
}

static ck_status open_models(merge *m, ck_error *err) {
    const ck_recipe *r = &m->recipe;
    for (size_t i = 0; i < r->model_count; i++) {
        CK_TRY(ck_reader_open(r->models[i].path, &m->files[i], err));
        warn_skipped(m, m->files[i]);
        size_t scaled;
        CK_TRY(ck_scaled_open(m->files[i], &m->plain[i], &scaled, err));
        m->readers[i] = m->plain[i] ? m->plain[i] : m->files[i];
        if (m->plain[i]) warn_scaled(m, i, scaled);
    }
    size_t primary = ck_recipe_primary(r), base[CK_MAX_MODELS];
    for (size_t i = 0; i < r->model_count; i++) {
        base[i] = ck_recipe_lora_base(r, i);
        CK_TRY(check_kind(m, i, base[i], err));
        if (i != primary && base[i] == SIZE_MAX) CK_TRY(align(m, i, m->readers[primary], err));
        if (r->models[i].rebasin) CK_TRY(rebasin(m, i, m->readers[primary], err));
    }
    for (size_t i = 0; i < r->model_count; i++)
        if (base[i] != SIZE_MAX) CK_TRY(open_lora(m, i, m->readers[base[i]], err));
    return CK_OK;
}

/* What must fail before hours of work, not after. */
static ck_status check_targets(const merge *m, ck_error *err) {
    if (ck_flags.lock && !ck_flags.write_recipe)
        return ck_fail(err, CK_USAGE, "--lock needs --write-recipe FILE, where the lock is kept");
    if (ck_save_is_folder(m->output))
        return ck_fail(err, CK_USAGE,
                       "%s: a merge is written to one file (.safetensors or .h5); `cktool convert "
                       "FILE FOLDER/` makes a diffusers folder of it",
                       m->output);
    const char *targets[] = {m->output, ck_flags.write_recipe};
    for (int i = 0; i < 2; i++)
        if (targets[i] && !ck_flags.force && !ck_flags.dry_run && access(targets[i], F_OK) == 0)
            return ck_fail(err, CK_USAGE, "%s exists; --force replaces it", targets[i]);
    return CK_OK;
}

/* Of a sweep, all merges read through the readers of the first. */
static void borrow_models(merge *m, const merge *first) {
    m->borrowed = true;
    memcpy(m->readers, first->readers, sizeof m->readers);
    for (size_t i = 0; i < m->recipe.model_count; i++)
        m->recipe.models[i].sha256 = first->recipe.models[i].sha256;
}

/* Fine-tunes with the same text encoder can have the same legacy hash. */
static void warn_found(merge *m) {
    for (size_t i = 0; i < m->recipe.model_count; i++) {
        const ck_model *model = &m->recipe.models[i];
        if (!model->by_legacy) continue;
        char *text =
            ck_sprintf("%s was taken for '%s' by name or legacy hash, which another model "
                       "can have too; compare the result with %s by `cktool diff`",
                       model->path, model->label ? model->label : model->name, ck_flags.replay);
        if (text) warn(m, ck_arena_strdup(&m->arena, text));
        free(text);
    }
}

/* value: of a sweep, whose first merge is `first`; NULL: there is none. */
static ck_status prepare(merge *m, const char *const *paths, size_t count, const ck_sweep *sweep,
                         size_t value, const merge *first, ck_error *err) {
    CK_TRY(ck_flags_recipe(&m->recipe, paths, count, keep_hashing, err));
    m->output = ck_flags.output ? ck_strdup(ck_flags.output) : ck_flags_output(&m->recipe);
    if (m->output && sweep) {
        char *named = ck_sweep_path(m->output, sweep, value);
        free(m->output);
        m->output = named;
    }
    if (!m->output) return ck_fail_memory(err, "output");
    CK_TRY(check_targets(m, err));
    if (first) {
        borrow_models(m, first);
    } else {
        CK_TRY(open_models(m, err));
        if (ck_flags.hash_models) CK_TRY(hash_models(&m->recipe, err));
    }
    CK_TRY(ck_plan_make(&m->recipe, m->readers, &m->plan, err));
    ck_meta *meta;
    size_t meta_count;
    CK_TRY(ck_provenance(&m->recipe, m->readers, &m->arena, &meta, &meta_count, err));
    CK_TRY(ck_plan_layout(m->plan, m->output, meta, meta_count, err));
    warn_before(m);
    warn_found(m);
    if (!first) warn_rules(m);
    return CK_OK;
}

static ck_run_options run_options(const ck_recipe *r, ck_progress *progress) {
    return (ck_run_options){.threads =
                                (unsigned)(ck_flags.threads > 1000 ? 1000 : ck_flags.threads),
                            .replace = ck_flags.force,
                            .resume = ck_flags.resume,
                            .hash_models = ck_flags.lock,
                            .hash_output = ck_flags.lock || r->lock_output,
                            .progress = progress,
                            .cancel = &cancelled};
}

static void warn_resumed(merge *m) {
    if (!m->result.resumed) return;
    char bytes[32];
    char *text = ck_sprintf("went on with %s.partial, of which %s were done", m->output,
                            ck_format_bytes(bytes, sizeof bytes, m->result.resumed));
    if (text) warn(m, ck_arena_strdup(&m->arena, text));
    free(text);
}

/* Runs the merges, one or those of a sweep, and says what they did. */
static ck_status execute(merge *all, size_t count, ck_error *err) {
    if (ck_flags.explain)
        return ck_explain_plan(all->plan, ck_flags.svg, ck_flags.force, ck_flags.json,
                               ck_flags.quiet, err);
    ck_report reports[CK_MAX_SWEEP] = {0};
    const ck_plan *plans[CK_MAX_SWEEP];
    const char *outputs[CK_MAX_SWEEP];
    ck_run_result results[CK_MAX_SWEEP];
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        plans[i] = all[i].plan;
        outputs[i] = all[i].output;
        bytes += all[i].plan->file_size;
        reports[i] = (ck_report){.plan = all[i].plan, .output = all[i].output};
    }
    if (!ck_flags.dry_run) {
        ck_progress progress;
        ck_run_options o = run_options(&all->recipe, &progress);
        double start = ck_seconds();
        ck_progress_start(&progress, "merging", bytes, ck_flags.quiet || ck_flags.json);
        ck_status status = ck_run_several(plans, outputs, count, &o, results, err);
        ck_progress_end(&progress);
        CK_TRY(status);
        double taken = ck_seconds() - start;
        for (size_t i = 0; i < count; i++) {
            all[i].result = results[i];
            reports[i].seconds = taken;
            reports[i].result = &all[i].result;
            reports[i].recipe_written = ck_flags.write_recipe;
            warn_resumed(&all[i]);
            warn_after(&all[i]);
        }
        if (ck_flags.write_recipe) CK_TRY(write_recipe(&all->recipe, &all->result, err));
    }
    for (size_t i = 0; i < count; i++) {
        reports[i].warnings = all[i].warnings;
        reports[i].warning_count = all[i].warning_count;
        if (ck_flags.dry_run && !ck_flags.json) ck_report_plan(&reports[i], stdout);
    }
    if (ck_flags.json)
        return ck_flags.sweep ? ck_report_sweep_json(reports, count, stdout, err)
                              : ck_report_json(reports, stdout, err);
    if (!ck_flags.dry_run && !ck_flags.quiet) {
        if (ck_flags.sweep)
            ck_report_sweep(reports, count, stdout);
        else
            ck_report_result(reports, stdout);
    }
    return CK_OK;
}

static void release(merge *m) {
    ck_plan_free(m->plan);
    for (size_t i = 0; i < m->recipe.model_count && !m->borrowed; i++) {
        if (m->readers[i] != m->files[i] && m->readers[i] != m->plain[i])
            ck_reader_close(m->readers[i]);
        ck_reader_close(m->plain[i]);
        ck_reader_close(m->files[i]);
    }
    ck_recipe_free(&m->recipe);
    ck_arena_free(&m->arena);
    free(m->result.model_sha256);
    free(m->output);
}

/* ---- `ckmerge methods` and `ckmerge help NAME` ---- */

static void print_method(const ck_method *m, bool whole) {
    enum { COLUMN = 17 };
    printf("%-16s ", m->name);
    int at = (int)strlen(m->name) + 1;
    ck_cli_wrap(stdout, m->formula, at > COLUMN ? at : COLUMN);
    for (size_t i = 0; m->parameters[i].name; i++) {
        const ck_parameter *p = &m->parameters[i];
        char help[256], number[32];
        snprintf(help, sizeof help, "%s%s (default %s)", p->on_off ? "on or off: " : "", p->help,
                 ck_parameter_text(p, p->fallback, number, sizeof number));
        printf("    %-12s ", p->name);
        ck_cli_wrap(stdout, help, COLUMN);
    }
    if (whole && m->compat) printf("    --compat     %s\n", m->compat);
    if (!whole) return;
    putchar('\n');
    ck_cli_wrap(stdout, m->doc, 0);
}

/* What is no method, as it looks at all tensors of a model before anything is merged. */
static const char rebasin_doc[] =
    "Git re-basin (Ainsworth, Hayase, Srinivasa 2022) by weight matching, of SD1, SD2 and SDXL: "
    "the order of B's channels for which the sum of A's weights times B's is largest, group "
    "after group until no order gets better. Goes with every method, for all models but the "
    "first; in recipes \"rebasin\": true of a model. Channels of blocks (attention heads, norm "
    "groups) change places within blocks, and blocks with each other. sd-mecha and meh take "
    "groups at random, so that their results differ from run to run.";

static int print_help(const char *name) {
    const ck_method *m;
    ck_error err;
    if (strcmp(name, "rebasin") == 0 || strcmp(name, "git-rebasin") == 0) {
        puts("--rebasin        B's channels in the order that is nearest to A, before the merge\n");
        ck_cli_wrap(stdout, rebasin_doc, 0);
        return EXIT_DONE;
    }
    if (ck_flags_method(name, &m, &err) == CK_OK) {
        print_method(m, true);
        return EXIT_DONE;
    }
    fprintf(stderr, "ckmerge: %s\n", err.message);
    return EXIT_USAGE;
}

static int exit_status(ck_status status) {
    return status == CK_OK          ? EXIT_DONE
           : status == CK_USAGE     ? EXIT_USAGE
           : status == CK_CANCELLED ? EXIT_INTERRUPTED
                                    : EXIT_FAILED;
}

/* True when the words were one of these commands; *status is then what main returns. */
static bool method_commands(int argc, char **argv, int *status) {
    const char *word = argc > 1 ? argv[1] : "";
    bool listing = strcmp(word, "methods") == 0 || strcmp(word, "presets") == 0;
    if ((listing && argc != 2) || (strcmp(word, "help") == 0 && argc != 3)) {
        if (listing)
            fprintf(stderr, "ckmerge: `ckmerge %s` takes nothing else\n", word);
        else
            fputs("ckmerge: say `ckmerge help METHOD` (`ckmerge methods` lists them), or "
                  "`ckmerge --help`\n",
                  stderr);
        *status = EXIT_USAGE;
        return true;
    }
    if (strcmp(word, "methods") == 0) {
        for (size_t i = 0; ck_methods[i]; i++) print_method(ck_methods[i], false);
        puts("--rebasin        with any of these: B's channels first in A's order (git re-basin;\n"
             "                 `ckmerge help rebasin`)");
        *status = EXIT_DONE;
        return true;
    }
    if (strcmp(word, "presets") == 0) {
        ck_error err;
        ck_status printed = ck_block_flags_presets(stdout, &err);
        if (printed != CK_OK) fprintf(stderr, "ckmerge: %s\n", err.message);
        *status = exit_status(printed);
        return true;
    }
    if (strcmp(word, "help") == 0) {
        *status = print_help(argv[2]);
        return true;
    }
    return false;
}

/* One merge for each value: as if it was given with --set. */
static ck_status prepare_sweep(merge *all, const ck_sweep *sweep, const char *const *paths,
                               size_t count, ck_error *err) {
    if (ck_flags.lock || ck_flags.write_recipe || ck_flags.explain)
        return ck_fail(err, CK_USAGE,
                       "explain, --lock and --write-recipe are for one output, not for a sweep");
    const char **items =
        ck_grow(ck_flags.set.items, ck_flags.set.count, &ck_flags.set.capacity, sizeof *items);
    if (!items) return ck_fail_memory(err, "--sweep");
    ck_flags.set.items = items;
    size_t last = ck_flags.set.count++;
    for (size_t i = 0; i < sweep->count; i++) {
        ck_flags.set.items[last] = sweep->settings[i];
        CK_TRY(prepare(&all[i], paths, count, sweep, i, i ? all : NULL, err));
    }
    return CK_OK;
}

/* From the command line to the result. */
static ck_status run(const char *const *paths, size_t count, ck_error *err) {
    ck_sweep sweep = {0};
    if (ck_flags.sweep) CK_TRY(ck_sweep_parse(ck_flags.sweep, &sweep, err));
    size_t merges = ck_flags.sweep ? sweep.count : 1;
    merge *all = ck_alloc_array(merges, sizeof *all);
    ck_status status = all ? CK_OK : ck_fail_memory(err, "merge");
    for (size_t i = 0; all && i < merges; i++) ck_recipe_init(&all[i].recipe);
    if (status == CK_OK)
        status = ck_flags.sweep ? prepare_sweep(all, &sweep, paths, count, err)
                                : prepare(all, paths, count, NULL, 0, NULL, err);
    if (status == CK_OK) status = execute(all, merges, err);
    if (status == CK_OK && (fflush(stdout) != 0 || ferror(stdout)))
        status = ck_fail_errno(err, "standard output");
    for (size_t i = merges; all && i-- > 0;) release(&all[i]);
    free(all);
    ck_sweep_free(&sweep);
    return status;
}

int main(int argc, char **argv) {
    int done;
    if (ck_cli_standard(&ck_flags_program, &ck_flags_command, argc, argv, stdout)) return EXIT_DONE;
    if (method_commands(argc, argv, &done)) return done;

    if (argc > 1 && strcmp(argv[1], "explain") == 0) {
        ck_flags.explain = ck_flags.dry_run = true;
        argv++, argc--;
        if (ck_cli_standard(&ck_flags_program, &ck_flags_command, argc, argv, stdout))
            return EXIT_DONE;
    }

    ck_error err;
    const char **paths = NULL;
    size_t count = 0;
    ck_status status = ck_cli_parse(&ck_flags_command, argc, argv, &paths, &count, &err);
    if (status == CK_OK) {
        catch_signals();
        status = run(paths, count, &err);
    }
    if (status != CK_OK) fprintf(stderr, "ckmerge: %s\n", err.message);
    free(paths);
    ck_flags_free();
    return exit_status(status);
}
