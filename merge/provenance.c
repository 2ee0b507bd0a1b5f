/* Metadata for provenance.h. What other files say about themselves is only carried, never trusted:
 * text that is not the JSON it should be is left out. */
#include "merge/provenance.h"
#include "io/json.h"
#include "io/os.h"
#include "merge/save.h"

#include <stdlib.h>
#include <string.h>

/* Keys of the first model that would be wrong in the result, or that are written anew. There is no
 * new date: the same recipe is to give the same bytes tomorrow. */
static bool is_stale(const char *key) {
    static const char *const keys[] = {"ckmerge_recipe",  "sd_merge_recipe",
                                       "sd_merge_models", "modelspec.title",
                                       "modelspec.date",  "modelspec.merged_from"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strcmp(keys[i], key) == 0) return true;
    return ck_save_is_hash_key(key);
}

static const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static const char *label_of(const ck_model *model) {
    return model->label ? model->label : file_name(model->path);
}

/* How a model is called in the web UIs' fields. */
typedef struct identity {
    char legacy[9]; /* "" where there is none, as for folders */
    const char *key;
} identity;

static void identify(const ck_model *model, const ck_reader *reader, identity *id) {
    ck_error ignored; /* a model without a legacy hash is named by its file */
    if (ck_hash_legacy(ck_reader_path(reader), id->legacy, &ignored) != CK_OK) id->legacy[0] = 0;
    id->key = model->sha256 ? model->sha256 : *id->legacy ? id->legacy : label_of(model);
}

/* A metadata text as a JSON object, or NULL. */
static cJSON *object_of(const ck_reader *reader, const char *key) {
    const char *text = ck_reader_meta(reader, key);
    cJSON *json = text ? cJSON_Parse(text) : NULL;
    if (json && !cJSON_IsObject(json)) {
        cJSON_Delete(json);
        json = NULL;
    }
    return json;
}

/* Adds item unless it is NULL (no memory) or the name is there already. False: no memory. */
static bool put(cJSON *object, const char *name, cJSON *item) {
    if (!item) return false;
    if (!cJSON_GetObjectItemCaseSensitive(object, name) &&
        cJSON_AddItemToObject(object, name, item))
        return true;
    bool there = cJSON_GetObjectItemCaseSensitive(object, name) != NULL;
    cJSON_Delete(item);
    return there;
}

static bool add_model(cJSON *models, const ck_model *model, const ck_reader *reader,
                      const identity *id) {
    cJSON *entry = cJSON_CreateObject();
    if (!entry) return false;
    cJSON *parent = object_of(reader, "sd_merge_recipe");
    bool ok = put(entry, "name", cJSON_CreateString(label_of(model))) &&
              put(entry, "legacy_hash",
                  *id->legacy ? cJSON_CreateString(id->legacy) : cJSON_CreateNull()) &&
              put(entry, "sd_merge_recipe", parent ? parent : cJSON_CreateNull());
    ok = put(models, id->key, entry) && ok;

    cJSON *history = object_of(reader, "sd_merge_models");
    while (ok && history && history->child) {
        cJSON *item = cJSON_DetachItemViaPointer(history, history->child);
        char *name = ck_strdup(item->string);
        if (name)
            ok = put(models, name, item);
        else
            cJSON_Delete(item);
        ok = ok && name;
        free(name);
    }
    cJSON_Delete(history);
    return ok;
}

static cJSON *webui_recipe(const ck_recipe *r, const identity *ids) {
    static const char *const places[] = {"primary_model_hash", "secondary_model_hash",
                                         "tertiary_model_hash"};
    cJSON *json = cJSON_CreateObject();
    bool ok = json && put(json, "type", cJSON_CreateString("ckmerge"));
    for (size_t i = 0; i < 3 && ok; i++)
        ok = put(json, places[i],
                 i < r->model_count ? cJSON_CreateString(ids[i].key) : cJSON_CreateNull());
    const ck_node *root = r->root;
    bool method = root->kind == CK_NODE_METHOD;
    bool number = method && root->method->parameters[0].name && !root->method->parameters[0].list;
    ok = ok &&
         put(json, "interp_method",
             cJSON_CreateString(method ? root->method->title : "No interpolation")) &&
         put(json, "multiplier",
             number ? cJSON_CreateNumber(root->values[0].items[0]) : cJSON_CreateNull()) &&
         put(json, "save_as_half", cJSON_CreateBool(r->dtype == CK_F16)) &&
         put(json, "custom_name", cJSON_CreateString("")) &&
         put(json, "config_source", cJSON_CreateNumber(0)) &&
         put(json, "bake_in_vae", cJSON_CreateString("None")) &&
         put(json, "discard_weights", cJSON_CreateString("")) &&
         put(json, "is_inpainting", cJSON_CreateBool(r->shape == CK_SHAPE_INPAINT)) &&
         put(json, "is_instruct_pix2pix", cJSON_CreateFalse());
    if (ok) return json;
    cJSON_Delete(json);
    return NULL;
}

/* The JSON in one line, in the arena; json is released. NULL when out of memory. */
static const char *line_of(cJSON *json, ck_arena *arena) {
    char *text = json ? cJSON_PrintUnformatted(json) : NULL;
    cJSON_Delete(json);
    const char *line = text ? ck_arena_strdup(arena, text) : NULL;
    free(text);
    return line;
}

static const char *models_line(const ck_recipe *r, ck_reader *const *readers, const identity *ids,
                               ck_arena *arena) {
    cJSON *models = cJSON_CreateObject();
    bool ok = models != NULL;
    for (size_t i = 0; i < r->model_count && ok; i++)
        ok = add_model(models, &r->models[i], readers[i], &ids[i]);
    if (!ok) {
        cJSON_Delete(models);
        return NULL;
    }
    return line_of(models, arena);
}

/* The models' ModelSpec titles, or else their files' names, with this between them; in the arena.
 * NULL when out of memory. */
static const char *titles(const ck_recipe *r, ck_reader *const *readers, const char *between,
                          ck_arena *arena) {
    char *all = ck_strdup("");
    for (size_t i = 0; i < r->model_count && all; i++) {
        const char *title = ck_reader_meta(readers[i], "modelspec.title");
        char *longer =
            ck_sprintf("%s%s%s", all, i ? between : "", title ? title : label_of(&r->models[i]));
        free(all);
        all = longer;
    }
    const char *copy = all ? ck_arena_strdup(arena, all) : NULL;
    free(all);
    return copy;
}

ck_status ck_provenance(const ck_recipe *r, ck_reader *const *readers, ck_arena *arena,
                        ck_meta **meta, size_t *count, ck_error *err) {
    identity ids[CK_MAX_MODELS];
    for (size_t i = 0; i < r->model_count; i++) identify(&r->models[i], readers[i], &ids[i]);

    size_t old_count;
    const ck_meta *old = ck_reader_metadata(readers[ck_recipe_primary(r)], &old_count);
    ck_meta *all = ck_arena_alloc(arena, (old_count + 6) * sizeof *all);
    char *recipe_text;
    CK_TRY(ck_recipe_text(r, CK_PATH_NAME, NULL, &recipe_text, err));
    const char *recipe = ck_arena_strdup(arena, recipe_text);
    free(recipe_text);
    const char *webui = line_of(webui_recipe(r, ids), arena);
    const char *models = models_line(r, readers, ids, arena);
    const char *title = titles(r, readers, " + ", arena), *from = titles(r, readers, ", ", arena);
    if (!all || !recipe || !webui || !models || !title || !from)
        return ck_fail_memory(err, "metadata");

    size_t n = 0;
    bool format = false;
    for (size_t i = 0; i < old_count; i++) {
        if (is_stale(old[i].key)) continue;
        format |= strcmp(old[i].key, "format") == 0;
        all[n++] = old[i];
    }
    /* Some loaders refuse files that do not name a framework. */
    if (!format) all[n++] = (ck_meta){"format", "pt"};
    /* ModelSpec is carried on where the first model has it, not made up. */
    if (ck_reader_meta(readers[ck_recipe_primary(r)], "modelspec.sai_model_spec")) {
        all[n++] = (ck_meta){"modelspec.title", title};
        all[n++] = (ck_meta){"modelspec.merged_from", from};
    }
    all[n++] = (ck_meta){"ckmerge_recipe", recipe};
    all[n++] = (ck_meta){"sd_merge_recipe", webui};
    all[n++] = (ck_meta){"sd_merge_models", models};
    *meta = all;
    *count = n;
    return CK_OK;
}
