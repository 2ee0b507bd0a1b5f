/* Metadata back to a recipe; see replay.h. */
#include "merge/replay.h"
#include "io/json.h"
#include "io/os.h"
#include "io/reader.h"
#include "merge/find_models.h"
#include "merge/foreign.h"

#include <math.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct replay {
    const ck_reader *merged;
    ck_finder *finder;
    const char *const *dirs;
    size_t dir_count;
    ck_recipe *recipe;
    const ck_json *doc; /* sd_merge_recipe */
    cJSON *models;      /* sd_merge_models, or NULL */
} replay;

static const char *last_part(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static const char *text_in(const cJSON *object, const char *field) {
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(object, field);
    return cJSON_IsString(text) && *text->valuestring ? text->valuestring : NULL;
}

/* ---- Ours ---- */

/* The entry of a model of that file name. */
static const cJSON *entry_of(const replay *p, const char *name) {
    const cJSON *entry;
    cJSON_ArrayForEach(entry, p->models) {
        const char *its = text_in(entry, "name");
        if (its && strcmp(last_part(its), name) == 0) return entry;
    }
    return NULL;
}

/* A path of the recipe becomes that of the file found, which may be called otherwise by now. */
static ck_status find_ours(replay *p, ck_model *model, ck_error *err) {
    const char *name = last_part(model->path);
    const cJSON *entry = entry_of(p, name);
    const ck_wanted wanted = {.name = name,
                              .hash = model->sha256,
                              .legacy = entry ? text_in(entry, "legacy_hash") : NULL};
    char *path = NULL;
    if (!wanted.hash && !wanted.legacy) { /* a folder: nothing but its name is known */
        const ck_foreign where = {.model_dirs = p->dirs, .model_dir_count = p->dir_count};
        path = ck_foreign_path(&where, name);
        if (path && access(path, F_OK) != 0) {
            free(path);
            return ck_fail(err, CK_INPUT,
                           "a folder '%s', which is one of the models, is neither in --model-dir "
                           "nor here; folders are looked for by name",
                           name);
        }
    } else {
        CK_TRY(ck_finder_find(p->finder, &wanted, &path, err));
    }
    model->by_legacy = !wanted.hash;
    model->label = ck_arena_strdup(&p->recipe->arena, name);
    model->path = path ? ck_arena_strdup(&p->recipe->arena, path) : NULL;
    free(path);
    return model->label && model->path ? CK_OK : ck_fail_memory(err, name);
}

static ck_status load_ours(replay *p, const char *name, const char *text, ck_error *err) {
    CK_TRY(ck_recipe_parse(name, text, strlen(text), NULL, NULL, 0, p->recipe, err));
    for (size_t i = 0; i < p->recipe->model_count; i++)
        CK_TRY(find_ours(p, &p->recipe->models[i], err));
    return CK_OK;
}

/* ---- The web UIs' ---- */

/* Adds the model that the field names by its hash. */
static ck_status add_model(replay *p, const char *field, ck_node **node, ck_error *err) {
    const cJSON *hash = cJSON_GetObjectItemCaseSensitive(p->doc->root, field);
    if (!cJSON_IsString(hash) || strlen(hash->valuestring) < 8)
        return ck_json_fail(p->doc, hash ? hash : p->doc->root, err, "\"%s\" must be a hash",
                            field);
    const cJSON *entry = cJSON_GetObjectItemCaseSensitive(p->models, hash->valuestring);
    const ck_wanted wanted = {.name = entry ? text_in(entry, "name") : NULL,
                              .hash = hash->valuestring,
                              .legacy = entry ? text_in(entry, "legacy_hash") : NULL};
    char *path, name[2] = {(char)('a' + p->recipe->model_count), 0};
    CK_TRY(ck_finder_find(p->finder, &wanted, &path, err));
    ck_status status = ck_recipe_add_model(p->recipe, name, path, NULL, err);
    free(path);
    CK_TRY(status);
    size_t added = p->recipe->model_count - 1;
    p->recipe->models[added].by_legacy = strlen(hash->valuestring) < 10;
    *node = ck_recipe_model_node(p->recipe, added);
    return *node ? CK_OK : ck_fail_memory(err, "recipe");
}

/* A method over the models of these fields. */
static ck_status apply(replay *p, const char *method, const char *const *fields, size_t count,
                       const char *tool, ck_error *err) {
    ck_node *inputs[3];
    for (size_t i = 0; i < count; i++) CK_TRY(add_model(p, fields[i], &inputs[i], err));
    CK_TRY(
        ck_recipe_apply(p->recipe, ck_method_find(method), inputs, count, &p->recipe->root, err));
    ck_foreign_compat(p->recipe->root, tool);
    return CK_OK;
}

static ck_status set_number(replay *p, const char *parameter, const char *field, ck_error *err) {
    double number = NAN;
    CK_TRY(ck_json_number(p->doc, p->doc->root, field, &number, err));
    if (isnan(number)) return ck_json_fail(p->doc, p->doc->root, err, "\"%s\" is missing", field);
    return ck_recipe_set(p->recipe, p->recipe->root, parameter, &number, 1, err);
}

/* A text field that must be empty, or this. */
static ck_status must_be(const replay *p, const char *field, const char *only, const char *why,
                         ck_error *err) {
    const char *text = text_in(p->doc->root, field);
    if (!text || strcmp(text, only) == 0) return CK_OK;
    return ck_json_fail(p->doc, cJSON_GetObjectItemCaseSensitive(p->doc->root, field), err,
                        "'%s': %s", text, why);
}

/* discard_weights: every tensor of the first model that the regular expression finds is dropped. */
static ck_status discard(replay *p, ck_error *err) {
    const char *pattern = text_in(p->doc->root, "discard_weights");
    const cJSON *place = cJSON_GetObjectItemCaseSensitive(p->doc->root, "discard_weights");
    if (!pattern) return CK_OK;
    /* What Python and POSIX read differently. */
    for (const char *c = pattern; *c; c++)
        if ((*c == '\\' && ((c[1] >= 'a' && c[1] <= 'z') || (c[1] >= 'A' && c[1] <= 'Z'))) ||
            (*c == '(' && c[1] == '?') || (strchr("*+?}", *c) && c[1] == '?'))
            return ck_json_fail(p->doc, place, err, "'%s' has forms that only Python knows",
                                pattern);
    regex_t regex;
    if (regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB) != 0)
        return ck_json_fail(p->doc, place, err, "'%s' is no regular expression", pattern);
    ck_reader *reader = NULL;
    ck_status status = ck_reader_open(p->recipe->models[0].path, &reader, err);
    for (size_t i = 0; status == CK_OK && i < ck_reader_count(reader); i++) {
        const char *name = ck_reader_tensor(reader, i)->name;
        if (regexec(&regex, name, 0, NULL, 0) != 0) continue;
        const ck_rule rule = {.pattern = ck_foreign_glob(&p->recipe->arena, name, strlen(name)),
                              .action = CK_RULE_DROP};
        status = rule.pattern ? ck_recipe_add_rule(p->recipe, &rule, err)
                              : ck_fail_memory(err, "recipe");
    }
    ck_reader_close(reader);
    regfree(&regex);
    return status;
}

static ck_status load_webui(replay *p, ck_error *err) {
    static const char *const fields[] = {"primary_model_hash", "secondary_model_hash",
                                         "tertiary_model_hash"};
    static const struct {
        const char *name, *method, *parameter;
        size_t models;
    } methods[] = {{"Weighted sum", "weighted-sum", "alpha", 2},
                   {"Add difference", "add-difference", "alpha", 3},
                   {"No interpolation", "scale", NULL, 1}};
    const char *method = NULL;
    bool half = false, inpaint = false, pix2pix = false;
    CK_TRY(ck_json_only(p->doc, p->doc->root,
                        "type primary_model_hash secondary_model_hash tertiary_model_hash "
                        "interp_method multiplier save_as_half custom_name config_source "
                        "bake_in_vae discard_weights is_inpainting is_instruct_pix2pix",
                        err));
    CK_TRY(ck_json_text(p->doc, p->doc->root, "interp_method", &method, err));
    CK_TRY(ck_json_bool(p->doc, p->doc->root, "save_as_half", &half, err));
    CK_TRY(ck_json_bool(p->doc, p->doc->root, "is_inpainting", &inpaint, err));
    CK_TRY(ck_json_bool(p->doc, p->doc->root, "is_instruct_pix2pix", &pix2pix, err));
    CK_TRY(must_be(p, "bake_in_vae", "None",
                   "a VAE that was baked in is not known by hash; `cktool swap-vae` puts one in",
                   err));
    for (size_t i = 0; method && i < sizeof methods / sizeof *methods; i++) {
        if (strcmp(methods[i].name, method) != 0) continue;
        CK_TRY(apply(p, methods[i].method, fields, methods[i].models, "a1111", err));
        if (methods[i].parameter) CK_TRY(set_number(p, methods[i].parameter, "multiplier", err));
        if (half) p->recipe->dtype = CK_F16;
        if (inpaint || pix2pix) p->recipe->shape = CK_SHAPE_INPAINT;
        return discard(p, err);
    }
    return ck_json_fail(p->doc, p->doc->root, err, "\"interp_method\" '%s' is not known here",
                        method ? method : "");
}

/* ---- supermerger ---- */

/* The tensors of a block, two globs at most. count: numbers without BASE, 25 or 19. */
static void block_globs(size_t block, size_t count, char globs[3][80], size_t *n) {
    size_t in = (count - 1) / 2;
    *n = 1;
    if (block < in)
        snprintf(globs[0], 80, "model.diffusion_model.input_blocks.%zu.*", block);
    else if (block == in)
        snprintf(globs[0], 80, "model.diffusion_model.middle_block.*");
    else
        snprintf(globs[0], 80, "model.diffusion_model.output_blocks.%zu.*", block - in - 1);
    if (block == 0) {
        snprintf(globs[(*n)++], 80, "model.diffusion_model.time_embed.*");
        snprintf(globs[(*n)++], 80, "model.diffusion_model.label_emb.*");
    }
    if (block == count - 1) snprintf(globs[(*n)++], 80, "model.diffusion_model.out.*");
}

enum { MAX_BLOCKS = 26 };

/* "0.1,0.2,...": weights by block of one parameter; BASE, where it is among them, is dropped, as
 * supermerger keeps it in a field of its own. */
static ck_status read_blocks(const replay *p, const char *field, double *items, size_t *count,
                             ck_error *err) {
    const char *text = text_in(p->doc->root, field);
    *count = 0;
    for (const char *c = text; c; c++) {
        char *end;
        double number = strtod(c, &end);
        if (end == c || (*end && *end != ',') || !isfinite(number) || *count == MAX_BLOCKS) break;
        items[(*count)++] = number;
        c = end;
        if (*c) continue;
        if (*count == 26 || *count == 20) memmove(items, items + 1, --*count * sizeof *items);
        if (*count == 25 || *count == 19) return CK_OK;
        break;
    }
    return ck_json_fail(p->doc, p->doc->root, err, "\"%s\" must be 19, 20, 25 or 26 numbers",
                        field);
}

static ck_status add_block_rules(replay *p, bool beta, ck_error *err) {
    double alphas[MAX_BLOCKS], betas[MAX_BLOCKS];
    size_t count, beta_count;
    CK_TRY(read_blocks(p, "weights_alpha", alphas, &count, err));
    if (beta) CK_TRY(read_blocks(p, "weights_beta", betas, &beta_count, err));
    if (beta && beta_count != count)
        return ck_json_fail(p->doc, p->doc->root, err, "weights_alpha and weights_beta differ");
    for (size_t b = 0; b < count; b++) {
        char globs[3][80];
        size_t n;
        block_globs(b, count, globs, &n);
        ck_setting settings[2] = {{.node = p->recipe->root, .parameter = 0},
                                  {.node = p->recipe->root, .parameter = 1}};
        CK_TRY(
            ck_recipe_value(p->recipe, p->recipe->root, 0, &alphas[b], 1, &settings[0].value, err));
        if (beta)
            CK_TRY(ck_recipe_value(p->recipe, p->recipe->root, 1, &betas[b], 1, &settings[1].value,
                                   err));
        for (size_t i = 0; i < n; i++)
            CK_TRY(ck_recipe_add_rule(p->recipe,
                                      &(ck_rule){.pattern = globs[i],
                                                 .settings = settings,
                                                 .setting_count = beta ? 2 : 1},
                                      err));
    }
    return CK_OK;
}

static ck_status load_supermerger(replay *p, ck_error *err) {
    static const char *const fields[] = {"model_a", "model_b", "model_c"};
    static const struct {
        const char *begins, *method;
        size_t models;
        bool beta;
    } modes[] = {{"Weight sum", "weighted-sum", 2, false},
                 {"Add difference", "add-difference", 3, false},
                 {"Triple sum", "triple-sum", 3, true},
                 {"sum Twice", "sum-twice", 3, true}};
    const char *mode = text_in(p->doc->root, "mode");
    bool blocks = false;
    CK_TRY(ck_json_bool(p->doc, p->doc->root, "mbw", &blocks, err));
    CK_TRY(must_be(p, "calcmode", "normal", "only the calculation mode normal is replayed", err));
    CK_TRY(must_be(p, "elemental_merge", "", "elemental weights are not replayed", err));
    const char *const selections[] = {"Include", "Exclude"};
    for (int i = 0; i < 2; i++) {
        const cJSON *list = cJSON_GetObjectItemCaseSensitive(p->doc->root, selections[i]);
        if (list && !(cJSON_IsArray(list) && !list->child))
            return ck_json_fail(p->doc, list, err, "a choice of tensors is not replayed");
    }
    for (size_t i = 0; mode && i < sizeof modes / sizeof *modes; i++) {
        if (strncmp(modes[i].begins, mode, strlen(modes[i].begins)) != 0) continue;
        CK_TRY(apply(p, modes[i].method, fields, modes[i].models, "supermerger", err));
        CK_TRY(set_number(p, "alpha", "base_alpha", err));
        if (modes[i].beta) CK_TRY(set_number(p, "beta", "base_beta", err));
        return blocks ? add_block_rules(p, modes[i].beta, err) : CK_OK;
    }
    return ck_json_fail(p->doc, p->doc->root, err, "\"mode\" '%s' is not known here",
                        mode ? mode : "");
}

/* ---- Any ---- */

static ck_status load_sd(replay *p, const char *name, const char *text, ck_error *err) {
    ck_json doc;
    CK_TRY(ck_json_parse(name, text, strlen(text), &doc, err));
    p->doc = &doc;
    const char *type = text_in(doc.root, "type");
    ck_status status =
        type && strcmp(type, "webui") == 0 ? load_webui(p, err)
        : type && strcmp(type, "sd-webui-supermerger") == 0
            ? load_supermerger(p, err)
            : ck_json_fail(&doc, doc.root, err, "a recipe of type '%s' is not known here",
                           type ? type : "");
    ck_json_free(&doc);
    return status;
}

static ck_status load(replay *p, const char *path, ck_error *err) {
    static const char *const keys[] = {"ckmerge_recipe", "mecha_recipe", "sd_merge_recipe"};
    for (int i = 0; i < 3; i++) {
        const char *text = ck_reader_meta(p->merged, keys[i]);
        if (!text) continue;
        char *name = ck_sprintf("%s: %s", path, keys[i]);
        if (!name) return ck_fail_memory(err, path);
        const ck_foreign where = {.model_dirs = p->dirs, .model_dir_count = p->dir_count};
        ck_status status = i == 0 ? load_ours(p, name, text, err)
                           : i == 1
                               ? ck_foreign_mecha(name, text, strlen(text), &where, p->recipe, err)
                               : load_sd(p, name, text, err);
        free(name);
        return status;
    }
    return ck_fail(err, CK_INPUT,
                   "%s: says nothing of how it was merged (ckmerge_recipe, mecha_recipe, "
                   "sd_merge_recipe)",
                   path);
}

ck_status ck_replay_load(const char *path, const char *const *dirs, size_t count,
                         bool (*progress)(void *context, uint64_t bytes), void *context,
                         ck_recipe *r, ck_error *err) {
    ck_recipe_init(r);
    ck_reader *merged;
    CK_TRY(ck_reader_open(path, &merged, err));
    replay p = {.merged = merged, .dirs = dirs, .dir_count = count, .recipe = r};
    const char *models = ck_reader_meta(merged, "sd_merge_models");
    p.models = models ? cJSON_Parse(models) : NULL;
    ck_status status = ck_finder_open(dirs, count, progress, context, &p.finder, err);
    if (status == CK_OK) status = load(&p, path, err);
    ck_finder_close(p.finder);
    cJSON_Delete(p.models);
    ck_reader_close(merged);
    if (status != CK_OK) ck_recipe_free(r);
    return status;
}
