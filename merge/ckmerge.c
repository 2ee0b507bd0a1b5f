/* ckmerge: merges checkpoints, from flags or from a recipe. */
#include "io/cli.h"
#include "io/layout.h"
#include "io/os.h"
#include "io/reader.h"
#include "io/scaled.h"
#include "io/view.h"
#include "io/writer.h"
#include "merge/block_flags.h"
#include "merge/engine.h"
#include "merge/explain.h"
#include "merge/foreign.h"
#include "merge/model_hash.h"
#include "merge/provenance.h"
#include "merge/rebasin.h"
#include "merge/recipe.h"
#include "merge/replay.h"
#include "merge/report.h"
#include "merge/save.h"
#include "merge/sweep.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_INTERRUPTED = 130 };

/* ---- The command line ---- */

static struct {
    const char *output, *recipe, *replay, *method, *weight, *normalize, *write_recipe, *dtype;
    const char *missing, *extra, *shape, *unmatched, *base, *density, *compat, *sweep;
    double alpha, lambda;
    uint64_t threads, seed;
    bool alpha_given, lambda_given, seed_given;
    bool dry_run, json, force, quiet, lock, hash_models, resume, rebasin;
    ck_text_list set, rules, loras, model_dirs;
    ck_block_flags blocks;
    bool explain; /* not merge, but say what would happen to which block */
    const char *svg;
} flags;

static const ck_option options[] = {
    {.name = "alpha",
     .letter = 'a',
     .argument = "A",
     .type = CK_OPT_NUMBER,
     .value = &flags.alpha,
     .given = &flags.alpha_given,
     .help = "share of the second model (weighted-sum, default 0.5) or strength of the difference "
             "(add-difference, default 1)"},
    {.name = "method",
     .letter = 'm',
     .argument = "NAME",
     .type = CK_OPT_TEXT,
     .value = &flags.method,
     .help = "how to combine the models: see `ckmerge methods`; default: weighted-sum, or linear "
             "with --weight"},
    {.name = "weight",
     .letter = 'w',
     .argument = "W1,W2,...",
     .type = CK_OPT_TEXT,
     .value = &flags.weight,
     .help = "one weight for each model (linear)"},
    {.name = "density",
     .argument = "D1,D2,...",
     .type = CK_OPT_TEXT,
     .value = &flags.density,
     .help =
         "share of each model's changes that is taken (ties, dare): one number, or one for each"},
    {.name = "lambda",
     .argument = "L",
     .type = CK_OPT_NUMBER,
     .value = &flags.lambda,
     .given = &flags.lambda_given,
     .help = "factor for all changes together (task-arithmetic, ties, dare, della, breadcrumbs)"},
    {.name = "compat",
     .argument = "TOOL",
     .type = CK_OPT_CHOICE,
     .value = &flags.compat,
     .choices = "a1111|supermerger|comfy|mergekit|mecha",
     .help = "give the result of another tool where it differs; `ckmerge help METHOD` says how"},
    {.name = "base",
     .argument = "MODEL",
     .type = CK_OPT_TEXT,
     .value = &flags.base,
     .help = "the model that the others were trained from (task-arithmetic, ties, dare, "
             "model-stock): counts as the first"},
    {.name = "rebasin",
     .type = CK_OPT_FLAG,
     .value = &flags.rebasin,
     .help =
         "first bring the other models' channels into the order nearest to the first one's (git "
         "re-basin: SD1, SD2, SDXL); takes minutes"},
    {.name = "lora",
     .argument = "FILE[:STRENGTH[:lbw=WEIGHTS]]",
     .type = CK_OPT_LIST,
     .value = &flags.loras,
     .help =
         "apply a LoRA to the model, or to what the models are merged to (strength: default 1); "
         "lbw: a factor for each block, as --block-weights has them or as \"LoRA block weight\" "
         "(17 or 12 numbers); may be given several times"},
    CK_BLOCK_OPTIONS(flags.blocks),
    {.name = "normalize",
     .argument = "on|off",
     .type = CK_OPT_CHOICE,
     .value = &flags.normalize,
     .choices = "on|off",
     .help = "divide the weights by their sum (linear; default on)"},
    {.name = "set",
     .argument = "NAME=VALUE",
     .type = CK_OPT_LIST,
     .value = &flags.set,
     .help = "a parameter of the method, or with --recipe a variable of the recipe"},
    {.name = "rule",
     .argument = "PATTERN=WHAT",
     .type = CK_OPT_LIST,
     .value = &flags.rules,
     .help = "for tensors whose names match the glob: a number for the first parameter, exclude "
             "(keep A's), drop, or copy:b (take model b's). The first rule that matches wins; the "
             "models are called a, b, c, ..."},
    {.name = "sweep",
     .argument = "NAME=FROM:TO:STEP",
     .type = CK_OPT_TEXT,
     .value = &flags.sweep,
     .help =
         "one output for each value of a parameter (with --recipe: of a variable), of a range or "
         "of a list VALUE,VALUE,...; the models are read once, and memory is that of one merge"},
    {.name = "output",
     .letter = 'o',
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &flags.output,
     .help = "the merged file; default: named from the models and alpha, in the current folder"},
    {.name = "force",
     .letter = 'f',
     .type = CK_OPT_FLAG,
     .value = &flags.force,
     .help = "replace existing files"},
    {.name = "resume",
     .type = CK_OPT_FLAG,
     .value = &flags.resume,
     .help =
         "keep what is done in OUTPUT.partial when the merge is interrupted or killed; the same "
         "command then goes on with it"},
    {.name = "dtype",
     .argument = "D",
     .type = CK_OPT_CHOICE,
     .value = &flags.dtype,
     .choices = CK_DTYPE_WORDS,
     .help = "type of the result's float tensors: keep (A's, default), f32, f16, bf16, f8_e4m3, "
             "f8_e5m2"},
    {.name = "missing",
     .argument = "P",
     .type = CK_OPT_CHOICE,
     .value = &flags.missing,
     .choices = CK_MISSING_WORDS,
     .help = "tensor of A that another model lacks: keep A's (default), drop, or error"},
    {.name = "extra",
     .argument = "P",
     .type = CK_OPT_CHOICE,
     .value = &flags.extra,
     .choices = CK_EXTRA_WORDS,
     .help = "tensor that only another model has: drop (default) or keep"},
    {.name = "shape",
     .argument = "P",
     .type = CK_OPT_CHOICE,
     .value = &flags.shape,
     .choices = CK_SHAPE_WORDS,
     .help = "shapes that differ: error (default), or inpaint: of a 9- or 8-channel A and "
             "4-channel others, mix the first four input channels"},
    {.name = "unmatched",
     .argument = "P",
     .type = CK_OPT_CHOICE,
     .value = &flags.unmatched,
     .choices = CK_UNMATCHED_WORDS,
     .help = "layers of a LoRA that the model lacks: error (default), or skip, with a warning"},
    {.name = "recipe",
     .letter = 'r',
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &flags.recipe,
     .help = "merge what this recipe says: ours (JSON), mergekit's (YAML) or sd-mecha's (.mecha)"},
    {.name = "replay",
     .argument = "MERGED",
     .type = CK_OPT_TEXT,
     .value = &flags.replay,
     .help = "make this merged file again from what its metadata says: ours, the web UI's, "
             "supermerger's or sd-mecha's. The models are found in --model-dir by their hashes"},
    {.name = "model-dir",
     .argument = "DIR",
     .type = CK_OPT_LIST,
     .value = &flags.model_dirs,
     .help =
         "where the models lie that a recipe of another tool names; may be given several times; "
         "default: beside the recipe, or here"},
    {.name = "write-recipe",
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &flags.write_recipe,
     .help = "write the recipe of this merge"},
    {.name = "lock",
     .type = CK_OPT_FLAG,
     .value = &flags.lock,
     .help = "with --write-recipe: record the sha256 of models and output; replaying the recipe "
             "then checks them"},
    {.name = "hash-models",
     .type = CK_OPT_FLAG,
     .value = &flags.hash_models,
     .help = "hash the models first, so that the output's metadata names them by sha256"},
    {.name = "dry-run",
     .letter = 'n',
     .type = CK_OPT_FLAG,
     .value = &flags.dry_run,
     .help = "print what would become of every tensor, write nothing"},
    {.name = "svg",
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &flags.svg,
     .help = "for explain: write a picture of the numbers of every block"},
    {.name = "json",
     .type = CK_OPT_FLAG,
     .value = &flags.json,
     .help = "report on standard output as one JSON document"},
    {.name = "quiet",
     .letter = 'q',
     .type = CK_OPT_FLAG,
     .value = &flags.quiet,
     .help = "print errors only"},
    {.name = "threads",
     .letter = 't',
     .argument = "N",
     .type = CK_OPT_COUNT,
     .value = &flags.threads,
     .help = "worker threads (default: processors + 4); the result does not depend on it"},
    {.name = "seed",
     .argument = "N",
     .type = CK_OPT_COUNT,
     .value = &flags.seed,
     .given = &flags.seed_given,
     .help = "seed of methods that use random numbers (default 0)"},
    {0},
};

static const ck_command command = {
    .name = "ckmerge",
    .summary = "merge checkpoints of image-generation models",
    .synopsis = "A B [-o OUT] --alpha 0.3\n"
                "A B C [-o OUT] --method add-difference --alpha 0.7\n"
                "MODEL... [-o OUT] --weight W1,W2,...\n"
                "MODEL [-o OUT] --lora FILE:0.8 [--lora FILE...]\n"
                "--recipe FILE [-o OUT] [--model-dir DIR]\n"
                "--replay MERGED --model-dir DIR [-o OUT]\n"
                "explain RECIPE | MODEL... [--svg FILE]\n"
                "methods\n"
                "presets\n"
                "help METHOD",
    .details =
        "The first model, A, decides which tensors the result has, their shapes and, unless "
        "--dtype "
        "says otherwise, their types. Models are read and the result is written block by block: "
        "memory stays below 64 MiB whatever their size (--rebasin: 150 MB). The result is written "
        "whole or not at all, "
        "and may replace one of the models (--force). Models may be of any format that can be "
        "read, and of "
        "different layouts: names are mapped to A's. The same recipe gives the same bytes with "
        "any "
        "number of threads on any processor.\n"
        "What is said about a tensor in several ways counts in this order: --rule, --elemental, "
        "--component, --block-weights, --alpha.\n"
        "Arithmetic is f32 with one rounding to the type of the result. Integer tensors and "
        "position_ids are A's, bit for bit. Values too large for the result's type become infinite "
        "(f8: the largest "
        "value) and are counted.",
    .options = options,
    .examples = "$ ckmerge anime.safetensors photo.safetensors --alpha 0.3\n"
                "  30% photo, 70% anime, to anime-photo-0.3.safetensors\n"
                "$ ckmerge mine.safetensors tuned.safetensors base.safetensors -m add-difference\n"
                "  what tuned learned over base, added to mine\n"
                "$ ckmerge a.safetensors b.safetensors --rule 'first_stage_model.*=exclude' -n\n"
                "  what would happen if the VAE stayed a's\n"
                "$ ckmerge base.safetensors --lora style.safetensors:0.8 --lora hands.safetensors\n"
                "  the model with two LoRAs in it\n"
                "$ ckmerge a.safetensors b.safetensors --sweep alpha=0:1:0.1\n"
                "  eleven mixes, a-b-alpha-0.safetensors to a-b-alpha-1.safetensors\n"
                "$ ckmerge --replay merged.safetensors --model-dir ~/models\n"
                "  the same merge again, from the models that its metadata names\n"
                "$ ckmerge a.safetensors b.safetensors --write-recipe mix.json --lock\n"
                "  and remember how it was made",
    .files = true,
};

static const ck_command *const commands[] = {&command};
static const ck_program program = {
    .name = "ckmerge",
    .summary = "merge checkpoints of image-generation models",
    .version = CK_VERSION,
    .commands = commands,
    .command_count = 1,
    .exit_status =
        "0 done; 1 a model, recipe or disk failed; 2 wrong usage; 130 interrupted. "
        "Whatever happens, no partial output is left, but for OUTPUT.partial with --resume.",
};

/* ---- From flags to a recipe ---- */

/* "1,0.5,2" to numbers. */
static ck_status parse_numbers(const char *option, const char *text, double *items, size_t *count,
                               ck_error *err) {
    *count = 0;
    for (const char *p = text;; p++) {
        char *end;
        double number = strtod(p, &end);
        if (end == p || (*end && *end != ',') || !isfinite(number))
            return ck_fail(err, CK_USAGE, "%s %s: must be numbers separated by commas", option,
                           text);
        if (*count == CK_MAX_MODELS)
            return ck_fail(err, CK_USAGE, "%s: more than %d numbers", option, CK_MAX_MODELS);
        items[(*count)++] = number;
        p = end;
        if (!*p) return CK_OK;
    }
}

/* --set NAME=VALUE without a recipe: any parameter of the method. */
static ck_status apply_setting(ck_recipe *r, const char *text, ck_error *err) {
    const char *equals = strchr(text, '=');
    if (!equals || equals == text)
        return ck_fail(err, CK_USAGE, "--set %s: must be NAME=VALUE", text);
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)(equals - text), text);
    double items[CK_MAX_MODELS];
    size_t count;
    CK_TRY(parse_numbers("--set", equals + 1, items, &count, err));
    return ck_recipe_set(r, r->root, name, items, count, err);
}

static ck_status choose_method(size_t models, const ck_method **method, ck_error *err) {
    const char *name = flags.method   ? flags.method
                       : flags.weight ? "linear"
                       : models == 2  ? "weighted-sum"
                                      : NULL;
    if (!name)
        return ck_fail(err, CK_USAGE,
                       "%zu models need --method, such as add-difference for A + alpha (B - C), or "
                       "--weight W1,W2,... for their weighted sum",
                       models);
    *method = ck_method_find(name);
    if (*method) return CK_OK;
    const char *names[64];
    size_t count = 0;
    for (; ck_methods[count] && count < 64; count++) names[count] = ck_methods[count]->name;
    const char *near = ck_cli_nearest(name, names, count);
    return ck_fail(err, CK_USAGE, "there is no method '%s'%s%s%s; see `ckmerge methods`", name,
                   near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

/* Models are called a, b, c, ... as in formulas; after z: m27, m28, ... A base comes first. */
static ck_status add_models(ck_recipe *r, const char *const *paths, size_t count, ck_error *err) {
    if (flags.base) CK_TRY(ck_recipe_add_model(r, "base", flags.base, NULL, err));
    for (size_t i = 0; i < count; i++) {
        char name[8];
        snprintf(name, sizeof name, i < 26 ? "%c" : "m%d", i < 26 ? 'a' + (int)i : (int)i + 1);
        CK_TRY(ck_recipe_add_model(r, name, paths[i], NULL, err));
    }
    return CK_OK;
}

/* Puts a LoRA around the expression; it and its node are called lora1, lora2, ... */
static ck_status add_lora(ck_recipe *r, size_t number, const char *text, ck_error *err) {
    char *path, name[32];
    double strength;
    snprintf(name, sizeof name, "lora%zu", number);
    const char *file, *weights = ck_block_flags_lora(text, &r->arena, &file);
    if (!file) return ck_fail_memory(err, text);
    if (ck_lora_argument(file, &path, &strength, err) != CK_OK) return ck_context(err, "--lora");
    ck_status status = ck_recipe_add_model(r, name, path, NULL, err);
    free(path);
    CK_TRY(status);
    ck_node *inputs[2] = {r->root, ck_recipe_model_node(r, r->model_count - 1)}, *node = NULL;
    if (!inputs[1]) return ck_fail_memory(err, text);
    CK_TRY(ck_recipe_apply(r, ck_method_find("lora"), inputs, 2, &node, err));
    CK_TRY(ck_recipe_set(r, node, "strength", &strength, 1, err));
    if (weights && ck_block_flags_strength(r, node, weights, err) != CK_OK)
        return ck_context(err, "--lora %s", text);
    node->id = ck_arena_strdup(&r->arena, name);
    r->root = node;
    return node->id ? CK_OK : ck_fail_memory(err, text);
}

static ck_status add_loras(ck_recipe *r, ck_error *err) {
    for (size_t i = 0; i < flags.loras.count; i++)
        CK_TRY(add_lora(r, i + 1, flags.loras.items[i], err));
    return CK_OK;
}

static ck_status add_rules(ck_recipe *r, ck_error *err) {
    for (size_t i = 0; i < flags.rules.count; i++)
        CK_TRY(ck_recipe_parse_rule(r, flags.rules.items[i], err));
    return ck_block_flags_apply(&flags.blocks, r, flags.alpha_given, err);
}

/* One model and LoRAs, or an adjustment: numbers in rules are strengths of the last LoRA. */
static ck_status lora_recipe(ck_recipe *r, const char *path, ck_error *err) {
    if (flags.method || flags.weight || flags.normalize || flags.alpha_given || flags.density ||
        flags.lambda_given || flags.compat)
        return ck_fail(
            err, CK_USAGE,
            "--method, --compat, --alpha, --lambda, --weight, --density and --normalize "
            "are for two models or more; a LoRA's strength is given as --lora FILE:STRENGTH");
    CK_TRY(ck_recipe_add_model(r, "a", path, NULL, err));
    if (!(r->root = ck_recipe_model_node(r, 0))) return ck_fail_memory(err, path);
    CK_TRY(add_loras(r, err));
    if (flags.set.count && !flags.loras.count)
        return ck_fail(err, CK_USAGE, "--set: there is nothing here that has parameters");
    for (size_t i = 0; i < flags.set.count; i++) CK_TRY(apply_setting(r, flags.set.items[i], err));
    return add_rules(r, err);
}

static ck_status recipe_from_flags(ck_recipe *r, const char *const *paths, size_t count,
                                   ck_error *err) {
    size_t total = count + (flags.base != NULL);
    if (total == 1 && (flags.loras.count || flags.blocks.adjust))
        return lora_recipe(r, count ? paths[0] : flags.base, err);
    if (total < 2)
        return ck_fail(err, CK_USAGE,
                       "give at least two models, one and --lora FILE, or --recipe FILE; `ckmerge "
                       "--help` has examples");
    const ck_method *method = NULL;
    CK_TRY(choose_method(total, &method, err));
    if (flags.base && !method->has_base)
        return ck_fail(err, CK_USAGE,
                       "method %s has no base; give it all models in the order of its formula: %s",
                       method->name, method->formula);
    CK_TRY(add_models(r, paths, count, err));
    ck_node *inputs[CK_MAX_MODELS];
    for (size_t i = 0; i < total; i++)
        if (!(inputs[i] = ck_recipe_model_node(r, i))) return ck_fail_memory(err, "recipe");
    CK_TRY(ck_recipe_apply(r, method, inputs, total, &r->root, err));
    if (flags.compat) CK_TRY(ck_recipe_set_compat(r->root, flags.compat, err));
    if (flags.alpha_given) CK_TRY(ck_recipe_set(r, r->root, "alpha", &flags.alpha, 1, err));
    if (flags.lambda_given) CK_TRY(ck_recipe_set(r, r->root, "lambda", &flags.lambda, 1, err));
    if (flags.weight) {
        double items[CK_MAX_MODELS];
        size_t n;
        CK_TRY(parse_numbers("--weight", flags.weight, items, &n, err));
        CK_TRY(ck_recipe_set(r, r->root, "weight", items, n, err));
    }
    if (flags.density) {
        double items[CK_MAX_MODELS];
        size_t n, wanted = ck_method_list_length(method, total);
        CK_TRY(parse_numbers("--density", flags.density, items, &n, err));
        if (n == 1)
            while (n < wanted) items[n++] = items[0];
        CK_TRY(ck_recipe_set(r, r->root, "density", items, n, err));
    }
    if (flags.normalize) {
        double on = strcmp(flags.normalize, "on") == 0;
        CK_TRY(ck_recipe_set(r, r->root, "normalize", &on, 1, err));
    }
    for (size_t i = 0; i < flags.set.count; i++) CK_TRY(apply_setting(r, flags.set.items[i], err));
    CK_TRY(add_rules(r, err)); /* numbers in them are for the method, whatever LoRAs follow */
    if (flags.loras.count) r->root->id = "merge";
    return add_loras(r, err);
}

static volatile int cancelled;

static bool keep_hashing(void *context, uint64_t bytes) {
    (void)context, (void)bytes;
    return !cancelled;
}

static ck_status replay(ck_recipe *r, ck_error *err) {
    if (flags.recipe || flags.set.count)
        return ck_fail(err, CK_USAGE,
                       "--recipe, --set and --sweep do not go with --replay; --write-recipe makes "
                       "a recipe of it that can be changed");
    const char *const here[] = {"."};
    bool given = flags.model_dirs.count > 0;
    return ck_replay_load(flags.replay, given ? flags.model_dirs.items : here,
                          given ? flags.model_dirs.count : 1, keep_hashing, NULL, r, err);
}

/* All models come into the order of the first. */
static ck_status rebasin_all(ck_recipe *r, ck_error *err) {
    bool any = false;
    for (size_t i = 0; i < r->model_count; i++) {
        bool other = i != ck_recipe_primary(r) && ck_recipe_lora_base(r, i) == SIZE_MAX;
        r->models[i].rebasin = other;
        any |= other;
    }
    if (any) return CK_OK;
    return ck_fail(err, CK_USAGE, "--rebasin: there is only one model");
}

static ck_status make_recipe(ck_recipe *r, const char *const *paths, size_t count, ck_error *err) {
    if (flags.svg && !flags.explain)
        return ck_fail(err, CK_USAGE, "--svg is for `ckmerge explain`");
    if (flags.explain && count == 1 && !flags.recipe && !flags.loras.count &&
        !flags.blocks.adjust && !flags.base && !flags.replay) {
        flags.recipe = paths[0];
        count = 0;
    }
    if (!flags.recipe && !flags.replay) {
        CK_TRY(recipe_from_flags(r, paths, count, err));
        CK_TRY(ck_block_flags_adjust(&flags.blocks, r, err));
    } else {
        if (count)
            return ck_fail(err, CK_USAGE, "a recipe names its models itself: '%s' is too much",
                           paths[0]);
        if (flags.method || flags.weight || flags.normalize || flags.alpha_given ||
            flags.rules.count || flags.base || flags.density || flags.loras.count ||
            flags.lambda_given || flags.compat || flags.rebasin)
            return ck_fail(
                err, CK_USAGE,
                "--method, --compat, --base, --alpha, --lambda, --weight, --density, "
                "--normalize, --rule, --lora and --rebasin do not go with --recipe: edit the "
                "recipe, or give it variables and use --set");
        if (ck_block_flags_given(&flags.blocks))
            return ck_fail(err, CK_USAGE, "%s does not go with --recipe: edit the recipe",
                           ck_block_flags_given(&flags.blocks));
        ck_foreign where = {.model_dirs = flags.model_dirs.items,
                            .model_dir_count = flags.model_dirs.count};
        if (flags.replay)
            CK_TRY(replay(r, err));
        else
            CK_TRY(
                ck_recipe_load_any(flags.recipe, &where, flags.set.items, flags.set.count, r, err));
    }
    if (flags.rebasin) CK_TRY(rebasin_all(r, err));
    if (flags.dtype) r->dtype = ck_recipe_dtype(flags.dtype);
    if (flags.missing) r->missing = (ck_missing)ck_word_index(CK_MISSING_WORDS, flags.missing);
    if (flags.extra) r->extra = (ck_extra)ck_word_index(CK_EXTRA_WORDS, flags.extra);
    if (flags.shape) r->shape = (ck_shape)ck_word_index(CK_SHAPE_WORDS, flags.shape);
    if (flags.unmatched)
        r->unmatched = (ck_unmatched)ck_word_index(CK_UNMATCHED_WORDS, flags.unmatched);
    if (flags.seed_given) r->seed = flags.seed;
    return ck_recipe_check(r, err);
}

/* ---- Names and files ---- */

/* The file's name without folder and known endings, to buf. */
static const char *stem(const char *path, char *buf, size_t size) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t start = n;
    while (start > 0 && path[start - 1] != '/') start--;
    snprintf(buf, size, "%.*s", (int)(n - start), path + start);
    char *dot = strrchr(buf, '.');
    if (dot && dot != buf) *dot = 0;
    return buf;
}

/* "a-b-0.3.safetensors", "a-b-c-add-difference-0.7.safetensors", or the recipe's name. */
static char *default_output(const ck_recipe *r) {
    char name[200] = "", part[200];
    size_t used = 0;
    if (flags.replay)
        return ck_sprintf("%s-replay.safetensors", stem(flags.replay, part, sizeof part));
    if (flags.recipe) return ck_sprintf("%s.safetensors", stem(flags.recipe, part, sizeof part));
    for (size_t i = 0; i < r->model_count && used < sizeof name; i++)
        used += (size_t)snprintf(name + used, sizeof name - used, "%s%s", i ? "-" : "",
                                 stem(r->models[i].path, part, sizeof part));
    if (flags.sweep) return ck_sprintf("%s.safetensors", name); /* the value comes to it */
    const ck_method *method = r->root->method;
    bool plain = strcmp(method->name, "weighted-sum") == 0;
    const ck_value *value = &r->root->values[0];
    char numbers[200] = "";
    used = 0;
    for (size_t i = 0; i < value->count && used < sizeof numbers; i++)
        used += (size_t)snprintf(numbers + used, sizeof numbers - used, "-%g", value->items[i]);
    return ck_sprintf("%s%s%s%s.safetensors", name, plain ? "" : "-", plain ? "" : method->name,
                      numbers);
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
    if (flags.lock) CK_TRY(lock_recipe(r, result, err));
    char folder[4096] = ".";
    const char *slash = strrchr(flags.write_recipe, '/');
    if (slash)
        snprintf(folder, sizeof folder, "%.*s", (int)(slash - flags.write_recipe + 1),
                 flags.write_recipe);
    char *text;
    CK_TRY(ck_recipe_text(r, CK_PATH_RELATIVE, folder, &text, err));
    char *line = ck_sprintf("%s\n", text);
    free(text);
    if (!line) return ck_fail_memory(err, flags.write_recipe);
    ck_status status = ck_write_file(flags.write_recipe, line, strlen(line), flags.force, err);
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
    if (!flags.quiet) fprintf(stderr, "ckmerge: warning: %s\n", text);
}

static void warn_before(merge *m) {
    const ck_node *root = m->recipe.root;
    if (root->kind == CK_NODE_METHOD && strcmp(root->method->name, "weighted-sum") == 0) {
        double alpha = root->values[0].items[0];
        if (alpha < 0 || alpha > 1)
            warn(m, "alpha is outside 0..1: the result goes beyond both models");
    }
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
    ck_rebasin_options o = {.threads = (unsigned)(flags.threads > 1000 ? 1000 : flags.threads),
                            .progress = &progress,
                            .cancel = &cancelled};
    ck_rebasin_result result;
    if (flags.dry_run) return CK_OK;
    ck_progress_start(&progress, "matching", ck_rebasin_bytes(c), flags.quiet || flags.json);
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
    if (flags.lock && !flags.write_recipe)
        return ck_fail(err, CK_USAGE, "--lock needs --write-recipe FILE, where the lock is kept");
    if (ck_save_is_folder(m->output))
        return ck_fail(err, CK_USAGE,
                       "%s: a merge is written to one file (.safetensors or .h5); `cktool convert "
                       "FILE FOLDER/` makes a diffusers folder of it",
                       m->output);
    const char *targets[] = {m->output, flags.write_recipe};
    for (int i = 0; i < 2; i++)
        if (targets[i] && !flags.force && !flags.dry_run && access(targets[i], F_OK) == 0)
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

/* value: of a sweep, whose first merge is `first`; NULL: there is none. */
static ck_status prepare(merge *m, const char *const *paths, size_t count, const ck_sweep *sweep,
                         size_t value, const merge *first, ck_error *err) {
    CK_TRY(make_recipe(&m->recipe, paths, count, err));
    m->output = flags.output ? ck_strdup(flags.output) : default_output(&m->recipe);
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
        if (flags.hash_models) CK_TRY(hash_models(&m->recipe, err));
    }
    CK_TRY(ck_plan_make(&m->recipe, m->readers, &m->plan, err));
    ck_meta *meta;
    size_t meta_count;
    CK_TRY(ck_provenance(&m->recipe, m->readers, &m->arena, &meta, &meta_count, err));
    CK_TRY(ck_plan_layout(m->plan, m->output, meta, meta_count, err));
    warn_before(m);
    return CK_OK;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static ck_run_options run_options(const ck_recipe *r, ck_progress *progress) {
    return (ck_run_options){.threads = (unsigned)(flags.threads > 1000 ? 1000 : flags.threads),
                            .replace = flags.force,
                            .resume = flags.resume,
                            .hash_models = flags.lock,
                            .hash_output = flags.lock || r->lock_output,
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
    if (flags.explain)
        return ck_explain_plan(all->plan, flags.svg, flags.force, flags.json, flags.quiet, err);
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
    if (!flags.dry_run) {
        ck_progress progress;
        ck_run_options o = run_options(&all->recipe, &progress);
        double start = seconds();
        ck_progress_start(&progress, "merging", bytes, flags.quiet || flags.json);
        ck_status status = ck_run_several(plans, outputs, count, &o, results, err);
        ck_progress_end(&progress);
        CK_TRY(status);
        double taken = seconds() - start;
        for (size_t i = 0; i < count; i++) {
            all[i].result = results[i];
            reports[i].seconds = taken;
            reports[i].result = &all[i].result;
            reports[i].recipe_written = flags.write_recipe;
            warn_resumed(&all[i]);
            warn_after(&all[i]);
        }
        if (flags.write_recipe) CK_TRY(write_recipe(&all->recipe, &all->result, err));
    }
    for (size_t i = 0; i < count; i++) {
        reports[i].warnings = all[i].warnings;
        reports[i].warning_count = all[i].warning_count;
        if (flags.dry_run && !flags.json) ck_report_plan(&reports[i], stdout);
    }
    if (flags.json)
        return flags.sweep ? ck_report_sweep_json(reports, count, stdout, err)
                           : ck_report_json(reports, stdout, err);
    if (!flags.dry_run && !flags.quiet) {
        if (flags.sweep)
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
    printf("%-16s %s\n", m->name, m->formula);
    for (size_t i = 0; m->parameters[i].name; i++)
        printf("    %-12s %s (default %g)\n", m->parameters[i].name, m->parameters[i].help,
               m->parameters[i].fallback);
    if (whole && m->compat) printf("    --compat     %s\n", m->compat);
    if (whole) printf("\n%s\n", m->doc);
}

static int exit_status(ck_status status) {
    return status == CK_OK          ? EXIT_DONE
           : status == CK_USAGE     ? EXIT_USAGE
           : status == CK_CANCELLED ? EXIT_INTERRUPTED
                                    : EXIT_FAILED;
}

/* True when the words were one of these commands; *status is then what main returns. */
static bool method_commands(int argc, char **argv, int *status) {
    if (argc == 2 && strcmp(argv[1], "methods") == 0) {
        for (size_t i = 0; ck_methods[i]; i++) print_method(ck_methods[i], false);
        *status = EXIT_DONE;
        return true;
    }
    if (argc == 2 && strcmp(argv[1], "presets") == 0) {
        ck_error err;
        ck_status printed = ck_block_flags_presets(stdout, &err);
        if (printed != CK_OK) fprintf(stderr, "ckmerge: %s\n", err.message);
        *status = exit_status(printed);
        return true;
    }
    if (argc == 3 && strcmp(argv[1], "help") == 0) {
        const ck_method *m = ck_method_find(argv[2]);
        if (m)
            print_method(m, true);
        else
            fprintf(stderr, "ckmerge: there is no method '%s'; see `ckmerge methods`\n", argv[2]);
        *status = m ? EXIT_DONE : EXIT_USAGE;
        return true;
    }
    return false;
}

/* One merge for each value: as if it was given with --set. */
static ck_status prepare_sweep(merge *all, const ck_sweep *sweep, const char *const *paths,
                               size_t count, ck_error *err) {
    if (flags.lock || flags.write_recipe || flags.explain)
        return ck_fail(err, CK_USAGE,
                       "explain, --lock and --write-recipe are for one output, not for a sweep");
    const char **items =
        ck_grow(flags.set.items, flags.set.count, &flags.set.capacity, sizeof *items);
    if (!items) return ck_fail_memory(err, "--sweep");
    flags.set.items = items;
    size_t last = flags.set.count++;
    for (size_t i = 0; i < sweep->count; i++) {
        flags.set.items[last] = sweep->settings[i];
        CK_TRY(prepare(&all[i], paths, count, sweep, i, i ? all : NULL, err));
    }
    return CK_OK;
}

/* From the command line to the result. */
static ck_status run(const char *const *paths, size_t count, ck_error *err) {
    ck_sweep sweep = {0};
    if (flags.sweep) CK_TRY(ck_sweep_parse(flags.sweep, &sweep, err));
    size_t merges = flags.sweep ? sweep.count : 1;
    merge *all = ck_alloc_array(merges, sizeof *all);
    ck_status status = all ? CK_OK : ck_fail_memory(err, "merge");
    for (size_t i = 0; all && i < merges; i++) ck_recipe_init(&all[i].recipe);
    if (status == CK_OK)
        status = flags.sweep ? prepare_sweep(all, &sweep, paths, count, err)
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
    if (ck_cli_standard(&program, &command, argc, argv, stdout)) return EXIT_DONE;
    if (method_commands(argc, argv, &done)) return done;

    if (argc > 1 && strcmp(argv[1], "explain") == 0) {
        flags.explain = flags.dry_run = true;
        argv++, argc--;
        if (ck_cli_standard(&program, &command, argc, argv, stdout)) return EXIT_DONE;
    }

    ck_error err;
    const char **paths = NULL;
    size_t count = 0;
    ck_status status = ck_cli_parse(&command, argc, argv, &paths, &count, &err);
    if (status == CK_OK) {
        catch_signals();
        status = run(paths, count, &err);
    }
    if (status != CK_OK) fprintf(stderr, "ckmerge: %s\n", err.message);
    free(paths);
    free(flags.set.items);
    free(flags.rules.items);
    free(flags.loras.items);
    free(flags.model_dirs.items);
    ck_block_flags_free(&flags.blocks);
    return exit_status(status);
}
