/* The recipe that ckmerge's flags make, and the name of its output; see flags.h. */
#include "io/os.h"
#include "merge/flags.h"
#include "merge/foreign.h"
#include "merge/replay.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- From ck_flags to a recipe ---- */

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

/* One number stands for as many as a list has. */
static void spread(const ck_recipe *r, double *items, size_t *count) {
    size_t wanted = ck_method_list_length(r->root->method, r->root->input_count);
    if (*count != 1) return;
    while (*count < wanted) items[(*count)++] = items[0];
}

/* --set NAME=VALUE without a recipe: any parameter of the method. */
static ck_status apply_setting(ck_recipe *r, const char *text, ck_error *err) {
    const char *equals = strchr(text, '=');
    if (!equals || equals == text)
        return ck_fail(err, CK_USAGE, "--set %s: must be NAME=VALUE", text);
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)(equals - text), text);
    double items[CK_MAX_MODELS];
    size_t count = 1;
    int p = ck_method_parameter(r->root->method, name);
    const ck_parameter *of = p < 0 ? NULL : &r->root->method->parameters[p];
    if (!of) return ck_recipe_set(r, r->root, name, NULL, 0, err);
    if (!of->on_off)
        CK_TRY(parse_numbers(name, equals + 1, items, &count, err));
    else if (!ck_on_off(equals + 1, items))
        return ck_fail(err, CK_USAGE, "%s: must be on or off", text);
    if (of->list) spread(r, items, &count);
    return ck_recipe_set(r, r->root, name, items, count, err);
}

ck_status ck_flags_method(const char *name, const ck_method **method, ck_error *err) {
    const char *names[64];
    size_t count = 0;
    *method = ck_method_find(name);
    if (*method) return CK_OK;
    for (; ck_methods[count] && count < 64; count++) names[count] = ck_methods[count]->name;
    const char *near = ck_cli_nearest(name, names, count);
    return ck_fail(err, CK_USAGE, "there is no method '%s'%s%s%s; see `ckmerge methods`", name,
                   near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

static ck_status choose_method(size_t models, const ck_method **method, ck_error *err) {
    const char *name = ck_flags.method   ? ck_flags.method
                       : ck_flags.weight ? "linear"
                       : models == 2     ? "weighted-sum"
                                         : NULL;
    if (!name)
        return ck_fail(err, CK_USAGE,
                       "%zu models need --method, such as add-difference for A + alpha (B - C), or "
                       "--weight W1,W2,... for their weighted sum",
                       models);
    return ck_flags_method(name, method, err);
}

/* Models are called a, b, c, ... as in formulas; after z: m27, m28, ... A base comes first. */
static ck_status add_models(ck_recipe *r, const char *const *paths, size_t count, ck_error *err) {
    if (ck_flags.base) CK_TRY(ck_recipe_add_model(r, "base", ck_flags.base, NULL, err));
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
    for (size_t i = 0; i < ck_flags.loras.count; i++)
        CK_TRY(add_lora(r, i + 1, ck_flags.loras.items[i], err));
    return CK_OK;
}

static ck_status add_rules(ck_recipe *r, ck_error *err) {
    for (size_t i = 0; i < ck_flags.rules.count; i++)
        CK_TRY(ck_recipe_parse_rule(r, ck_flags.rules.items[i], err));
    return ck_block_flags_apply(&ck_flags.blocks, r, ck_flags.alpha_given, err);
}

/* One model and LoRAs, or an adjustment: numbers in rules are strengths of the last LoRA. */
static ck_status lora_recipe(ck_recipe *r, const char *path, ck_error *err) {
    if (ck_flags.method || ck_flags.weight || ck_flags.normalize || ck_flags.alpha_given ||
        ck_flags.density || ck_flags.lambda_given || ck_flags.compat)
        return ck_fail(
            err, CK_USAGE,
            "--method, --compat, --alpha, --lambda, --weight, --density and --normalize "
            "are for two models or more; a LoRA's strength is given as --lora FILE:STRENGTH");
    CK_TRY(ck_recipe_add_model(r, "a", path, NULL, err));
    if (!(r->root = ck_recipe_model_node(r, 0))) return ck_fail_memory(err, path);
    CK_TRY(add_loras(r, err));
    if (ck_flags.set.count && !ck_flags.loras.count)
        return ck_fail(err, CK_USAGE, "--set: there is nothing here that has parameters");
    for (size_t i = 0; i < ck_flags.set.count; i++)
        CK_TRY(apply_setting(r, ck_flags.set.items[i], err));
    return add_rules(r, err);
}

static ck_status recipe_from_flags(ck_recipe *r, const char *const *paths, size_t count,
                                   ck_error *err) {
    size_t total = count + (ck_flags.base != NULL);
    if (total == 1 && (ck_flags.loras.count || ck_flags.blocks.adjust))
        return lora_recipe(r, count ? paths[0] : ck_flags.base, err);
    if (total == 0 || (total == 1 && !ck_flags.method))
        return ck_fail(err, CK_USAGE,
                       "give at least two models, one and --lora FILE, or --recipe FILE; `ckmerge "
                       "--help` has examples");
    const ck_method *method = NULL;
    CK_TRY(choose_method(total, &method, err));
    if (ck_flags.base && !method->has_base)
        return ck_fail(err, CK_USAGE,
                       "method %s has no base; give it all models in the order of its formula: %s",
                       method->name, method->formula);
    CK_TRY(add_models(r, paths, count, err));
    ck_node *inputs[CK_MAX_MODELS];
    for (size_t i = 0; i < total; i++)
        if (!(inputs[i] = ck_recipe_model_node(r, i))) return ck_fail_memory(err, "recipe");
    CK_TRY(ck_recipe_apply(r, method, inputs, total, &r->root, err));
    if (ck_flags.compat) CK_TRY(ck_recipe_set_compat(r->root, ck_flags.compat, err));
    if (ck_flags.alpha_given) CK_TRY(ck_recipe_set(r, r->root, "alpha", &ck_flags.alpha, 1, err));
    if (ck_flags.lambda_given)
        CK_TRY(ck_recipe_set(r, r->root, "lambda", &ck_flags.lambda, 1, err));
    if (ck_flags.weight) {
        double items[CK_MAX_MODELS];
        size_t n;
        CK_TRY(parse_numbers("--weight", ck_flags.weight, items, &n, err));
        CK_TRY(ck_recipe_set(r, r->root, "weight", items, n, err));
    }
    if (ck_flags.density) {
        double items[CK_MAX_MODELS];
        size_t n;
        CK_TRY(parse_numbers("--density", ck_flags.density, items, &n, err));
        spread(r, items, &n);
        CK_TRY(ck_recipe_set(r, r->root, "density", items, n, err));
    }
    if (ck_flags.normalize) {
        double on;
        ck_on_off(ck_flags.normalize, &on);
        CK_TRY(ck_recipe_set(r, r->root, "normalize", &on, 1, err));
    }
    for (size_t i = 0; i < ck_flags.set.count; i++)
        CK_TRY(apply_setting(r, ck_flags.set.items[i], err));
    CK_TRY(add_rules(r, err)); /* numbers in them are for the method, whatever LoRAs follow */
    if (ck_flags.loras.count) r->root->id = "merge";
    return add_loras(r, err);
}

static ck_status replay(ck_recipe *r, bool (*keep_going)(void *context, uint64_t bytes),
                        ck_error *err) {
    if (ck_flags.recipe || ck_flags.set.count)
        return ck_fail(err, CK_USAGE,
                       "--recipe, --set and --sweep do not go with --replay; --write-recipe makes "
                       "a recipe of it that can be changed");
    const char *const here[] = {"."};
    bool given = ck_flags.model_dirs.count > 0;
    return ck_replay_load(ck_flags.replay, given ? ck_flags.model_dirs.items : here,
                          given ? ck_flags.model_dirs.count : 1, keep_going, NULL, r, err);
}

/* --block-weights and the like on a recipe: for its outermost method, and before its own rules. */
static ck_status apply_blocks(ck_recipe *r, ck_error *err) {
    size_t own = r->rule_count;
    CK_TRY(ck_block_flags_apply(&ck_flags.blocks, r, false, err));
    ck_recipe_rules_first(r, own);
    return ck_block_flags_adjust(&ck_flags.blocks, r, err);
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

ck_status ck_flags_recipe(ck_recipe *r, const char *const *paths, size_t count,
                          bool (*keep_going)(void *context, uint64_t bytes), ck_error *err) {
    if (ck_flags.svg && !ck_flags.explain)
        return ck_fail(err, CK_USAGE, "--svg is for `ckmerge explain`");
    if (ck_flags.explain && count == 1 && !ck_flags.recipe && !ck_flags.loras.count &&
        !ck_flags.blocks.adjust && !ck_flags.base && !ck_flags.replay) {
        ck_flags.recipe = paths[0];
        count = 0;
    }
    if (!ck_flags.recipe && !ck_flags.replay) {
        CK_TRY(recipe_from_flags(r, paths, count, err));
        CK_TRY(ck_block_flags_adjust(&ck_flags.blocks, r, err));
    } else {
        if (count)
            return ck_fail(err, CK_USAGE, "a recipe names its models itself: '%s' is too much",
                           paths[0]);
        if (ck_flags.method || ck_flags.weight || ck_flags.normalize || ck_flags.alpha_given ||
            ck_flags.rules.count || ck_flags.base || ck_flags.density || ck_flags.loras.count ||
            ck_flags.lambda_given || ck_flags.compat || ck_flags.rebasin)
            return ck_fail(
                err, CK_USAGE,
                "--method, --compat, --base, --alpha, --lambda, --weight, --density, "
                "--normalize, --rule, --lora and --rebasin do not go with --recipe: edit the "
                "recipe, or give it variables and use --set");
        ck_foreign where = {.model_dirs = ck_flags.model_dirs.items,
                            .model_dir_count = ck_flags.model_dirs.count};
        if (ck_flags.replay)
            CK_TRY(replay(r, keep_going, err));
        else
            CK_TRY(ck_recipe_load_any(ck_flags.recipe, &where, ck_flags.set.items,
                                      ck_flags.set.count, r, err));
    }
    if (ck_flags.recipe || ck_flags.replay) CK_TRY(apply_blocks(r, err));
    if (ck_flags.rebasin) CK_TRY(rebasin_all(r, err));
    if (ck_flags.dtype) r->dtype = ck_recipe_dtype(ck_flags.dtype);
    if (ck_flags.missing)
        r->missing = (ck_missing)ck_word_index(CK_MISSING_WORDS, ck_flags.missing);
    if (ck_flags.extra) r->extra = (ck_extra)ck_word_index(CK_EXTRA_WORDS, ck_flags.extra);
    if (ck_flags.shape) r->shape = (ck_shape)ck_word_index(CK_SHAPE_WORDS, ck_flags.shape);
    if (ck_flags.unmatched)
        r->unmatched = (ck_unmatched)ck_word_index(CK_UNMATCHED_WORDS, ck_flags.unmatched);
    if (ck_flags.seed_given) r->seed = ck_flags.seed;
    return ck_recipe_check(r, err);
}

/* ---- Names ---- */

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

char *ck_flags_output(const ck_recipe *r) {
    char name[200] = "", part[200];
    size_t used = 0;
    if (ck_flags.replay)
        return ck_sprintf("%s-replay.safetensors", stem(ck_flags.replay, part, sizeof part));
    if (ck_flags.recipe)
        return ck_sprintf("%s.safetensors", stem(ck_flags.recipe, part, sizeof part));
    for (size_t i = 0; i < r->model_count && used < sizeof name; i++)
        used += (size_t)snprintf(name + used, sizeof name - used, "%s%s", i ? "-" : "",
                                 stem(r->models[i].path, part, sizeof part));
    if (ck_flags.sweep) return ck_sprintf("%s.safetensors", name); /* the value comes to it */
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
