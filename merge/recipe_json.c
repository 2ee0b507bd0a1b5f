/* The JSON form of recipes: strict reading, and writing such that the same recipe always gives the
 * same text. */
#include "io/json.h"
#include "io/os.h"
#include "merge/recipe.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FORMAT_VERSION = 1, MAX_LIST = CK_MAX_MODELS };

typedef struct reading {
    ck_recipe *recipe;
    const ck_json *doc;
    const cJSON *variables; /* object or NULL */
    const char *const *settings;
    size_t setting_count;
    const char *folder;
} reading;

/* "$name" -> the text that stands for it, from the settings or the variables. *node becomes the
 * variable's JSON value unless a setting gave *text. */
static ck_status resolve(const reading *in, const cJSON **node, const char **text, ck_error *err) {
    *text = NULL;
    if (!cJSON_IsString(*node) || (*node)->valuestring[0] != '$') return CK_OK;
    if ((*node)->valuestring[1] == '$') return CK_OK; /* a path that begins with '$' */
    const char *name = (*node)->valuestring + 1;
    const cJSON *variable = cJSON_GetObjectItemCaseSensitive(in->variables, name);
    if (!variable)
        return ck_json_fail(in->doc, *node, err, "there is no variable '%s' under \"variables\"",
                            name);
    for (size_t i = 0; i < in->setting_count; i++) {
        const char *equals = strchr(in->settings[i], '=');
        if ((size_t)(equals - in->settings[i]) == strlen(name) &&
            strncmp(in->settings[i], name, strlen(name)) == 0)
            *text = equals + 1;
    }
    *node = variable;
    return CK_OK;
}

/* (in is a reading: as ck_weights_number.) */
static ck_status read_number(const void *context, const cJSON *node, double *number,
                             ck_error *err) {
    const reading *in = context;
    const cJSON *place = node;
    const char *text;
    CK_TRY(resolve(in, &node, &text, err));
    if (text) {
        char *end;
        *number = strtod(text, &end);
        if (end == text || *end || *number - *number != 0)
            return ck_json_fail(in->doc, place, err, "must be a number, --set gave '%s'", text);
        return CK_OK;
    }
    if (!cJSON_IsNumber(node)) return ck_json_fail(in->doc, place, err, "must be a number");
    *number = node->valuedouble;
    return CK_OK;
}

/* "on" or "off". */
static ck_status read_on_off(const reading *in, const cJSON *node, double *number, ck_error *err) {
    const cJSON *place = node;
    const char *text;
    CK_TRY(resolve(in, &node, &text, err));
    if (!text && cJSON_IsString(node)) text = node->valuestring;
    if (text && ck_on_off(text, number)) return CK_OK;
    return ck_json_fail(in->doc, place, err, "must be \"on\" or \"off\"");
}

/* A number, or block weights; *number is then their base, where they have one. */
static ck_status read_item(const reading *in, const cJSON *node, double *number,
                           const ck_weights **weights, ck_error *err) {
    const cJSON *place = node;
    const char *text;
    ck_weights *w = NULL;
    ck_error inner;
    CK_TRY(resolve(in, &node, &text, err));
    *weights = NULL;
    if (text && ck_weights_is_text(text)) {
        if (ck_weights_parse(text, &in->recipe->arena, &w, &inner) != CK_OK)
            return inner.status == CK_MEMORY
                       ? (*err = inner, CK_MEMORY)
                       : ck_json_fail(in->doc, place, err,
                                      "must be a number or block weights, --set gave '%s': %s",
                                      text, inner.message);
    } else if (!text && cJSON_IsObject(node)) {
        CK_TRY(ck_json_only(in->doc, node, CK_WEIGHTS_FIELDS, err));
        CK_TRY(ck_weights_read(in->doc, node, read_number, in, in->folder, &in->recipe->arena, &w,
                               err));
    } else {
        return read_number(in, place, number, err);
    }
    *weights = w;
    if (w->has_base) *number = w->base;
    return CK_OK;
}

/* Puts what of items are block weights beside the value's numbers. */
static ck_status keep_weights(const reading *in, const ck_weights *const *items, size_t count,
                              ck_value *value, ck_error *err) {
    bool any = false;
    for (size_t i = 0; i < count; i++) any |= items[i] != NULL;
    if (!any) return CK_OK;
    const ck_weights **copy = ck_arena_alloc(&in->recipe->arena, count * sizeof *copy);
    if (!copy) return ck_fail_memory(err, in->doc->name);
    memcpy(copy, items, count * sizeof *copy);
    value->by_block = copy;
    return CK_OK;
}

/* A number or a list of numbers, or on or off. In the place of each there may be block weights,
 * whose base, when they have none, is the number that the parameter has. */
static ck_status read_value(const reading *in, const ck_node *of, size_t parameter,
                            const cJSON *node, ck_value *value, ck_error *err) {
    double numbers[MAX_LIST];
    const ck_weights *weights[MAX_LIST];
    const ck_value before = of->values[parameter];
    if (of->method->parameters[parameter].on_off) {
        CK_TRY(read_on_off(in, node, numbers, err));
        return ck_recipe_value(in->recipe, of, parameter, numbers, 1, value, err);
    }
    for (size_t i = 0; i < MAX_LIST; i++) numbers[i] = i < before.count ? before.items[i] : 0;
    size_t count = 0;
    if (cJSON_IsArray(node)) {
        const cJSON *item;
        cJSON_ArrayForEach(item, node) {
            if (count == MAX_LIST)
                return ck_json_fail(in->doc, node, err, "more than %d numbers", MAX_LIST);
            CK_TRY(read_item(in, item, &numbers[count], &weights[count], err));
            count++;
        }
    } else {
        CK_TRY(read_item(in, node, &numbers[count], &weights[count], err));
        count++;
    }
    ck_error inner;
    if (ck_recipe_value(in->recipe, of, parameter, numbers, count, value, &inner) != CK_OK)
        return inner.status == CK_MEMORY ? (*err = inner, CK_MEMORY)
                                         : ck_json_fail(in->doc, node, err, "%s", inner.message);
    return keep_weights(in, weights, count, value, err);
}

/* A model's name, a number, or {"method": ..., "inputs": [...]}. */
static ck_status read_node(const reading *in, const cJSON *json, ck_node **out, ck_error *err) {
    ck_recipe *r = in->recipe;
    if (cJSON_IsString(json) && json->valuestring[0] != '$') {
        for (size_t i = 0; i < r->model_count; i++)
            if (strcmp(r->models[i].name, json->valuestring) == 0) {
                *out = ck_recipe_model_node(r, i);
                return *out ? CK_OK : ck_fail_memory(err, in->doc->name);
            }
        return ck_json_fail(in->doc, json, err, "there is no model '%s' under \"models\"",
                            json->valuestring);
    }
    if (cJSON_IsNumber(json) || cJSON_IsString(json)) {
        double number;
        CK_TRY(read_number(in, json, &number, err));
        *out = ck_recipe_constant_node(r, number);
        return *out ? CK_OK : ck_fail_memory(err, in->doc->name);
    }
    if (!cJSON_IsObject(json))
        return ck_json_fail(
            in->doc, json, err,
            "must be a model's name, a number or {\"method\": ..., \"inputs\": [...]}");

    const char *name = NULL, *id = NULL, *compat = NULL;
    CK_TRY(ck_json_text(in->doc, json, "method", &name, err));
    CK_TRY(ck_json_text(in->doc, json, "compat", &compat, err));
    CK_TRY(ck_json_text(in->doc, json, "id", &id, err));
    if (!name) return ck_json_fail(in->doc, json, err, "\"method\" is missing");
    const ck_method *method = ck_method_find(name);
    if (!method)
        return ck_json_fail(in->doc, cJSON_GetObjectItemCaseSensitive(json, "method"), err,
                            "there is no method '%s'; see `ckmerge methods`", name);
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(json, "inputs");
    if (!cJSON_IsArray(list))
        return ck_json_fail(in->doc, list ? list : json, err, "\"inputs\" must be a list");

    ck_node *inputs[MAX_LIST];
    size_t count = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, list) {
        if (count == MAX_LIST)
            return ck_json_fail(in->doc, list, err, "more than %d inputs", MAX_LIST);
        CK_TRY(read_node(in, item, &inputs[count++], err));
    }
    ck_error inner;
    if (ck_recipe_apply(r, method, inputs, count, out, &inner) != CK_OK)
        return inner.status == CK_MEMORY ? (*err = inner, CK_MEMORY)
                                         : ck_json_fail(in->doc, list, err, "%s", inner.message);
    if (id && !((*out)->id = ck_arena_strdup(&r->arena, id)))
        return ck_fail_memory(err, in->doc->name);

    if (compat && ck_recipe_set_compat(*out, compat, &inner) != CK_OK)
        return ck_json_fail(in->doc, cJSON_GetObjectItemCaseSensitive(json, "compat"), err, "%s",
                            inner.message);

    char fields[512] = "method inputs id compat";
    for (size_t p = 0; method->parameters[p].name; p++) {
        const char *field = method->parameters[p].name;
        size_t used = strlen(fields);
        snprintf(fields + used, sizeof fields - used, " %s", field);
        const cJSON *value = cJSON_GetObjectItemCaseSensitive(json, field);
        if (value) CK_TRY(read_value(in, *out, p, value, &(*out)->values[p], err));
    }
    return ck_json_only(in->doc, json, fields, err);
}

static bool is_sha256(const char *hex) {
    return strspn(hex, "0123456789abcdef") == CK_SHA256_HEX - 1 && hex[CK_SHA256_HEX - 1] == 0;
}

static ck_status read_hash(const reading *in, const cJSON *object, const char *field,
                           const char **hash, ck_error *err) {
    CK_TRY(ck_json_text(in->doc, object, field, hash, err));
    if (*hash && !is_sha256(*hash))
        return ck_json_fail(in->doc, cJSON_GetObjectItemCaseSensitive(object, field), err,
                            "must be 64 lower-case hex digits");
    return CK_OK;
}

static ck_status read_model(const reading *in, const cJSON *json, ck_error *err) {
    const cJSON *path = json;
    const char *sha256 = NULL;
    bool rebasin = false;
    if (json->string[0] == '$')
        return ck_json_fail(in->doc, json, err, "a model's name must not begin with '$'");
    if (cJSON_IsObject(json)) {
        CK_TRY(ck_json_only(in->doc, json, "path sha256 rebasin", err));
        CK_TRY(read_hash(in, json, "sha256", &sha256, err));
        CK_TRY(ck_json_bool(in->doc, json, "rebasin", &rebasin, err));
        path = cJSON_GetObjectItemCaseSensitive(json, "path");
        if (!path) return ck_json_fail(in->doc, json, err, "\"path\" is missing");
    }
    const cJSON *place = path;
    const char *text;
    CK_TRY(resolve(in, &path, &text, err));
    bool from_recipe = !text;
    if (!text) {
        if (!cJSON_IsString(path) || !*path->valuestring)
            return ck_json_fail(in->doc, place, err, "must be a path or {\"path\": ...}");
        text = path->valuestring + (path->valuestring[0] == '$');
    }
    /* A path on the command line means what it means there; one in the recipe, beside the recipe.
     */
    char *full = from_recipe && in->folder && text[0] != '/' ? ck_sprintf("%s/%s", in->folder, text)
                                                             : ck_strdup(text);
    if (!full) return ck_fail_memory(err, in->doc->name);
    ck_status status = ck_recipe_add_model(in->recipe, json->string, full, sha256, err);
    if (status == CK_OK) in->recipe->models[in->recipe->model_count - 1].rebasin = rebasin;
    free(full);
    return status;
}

/* One member of "set": "alpha" belongs to the root, "id.alpha" to the node of that id. */
static ck_status read_setting(const reading *in, const cJSON *json, ck_setting *setting,
                              ck_error *err) {
    const char *name = json->string, *dot = strrchr(name, '.');
    ck_node *node = in->recipe->root;
    if (dot) node = ck_recipe_node(in->recipe, name, (size_t)(dot - name));
    if (!node)
        return ck_json_fail(in->doc, json, err, "no node has the id '%.*s'", (int)(dot - name),
                            name);
    int p =
        node->kind == CK_NODE_METHOD ? ck_method_parameter(node->method, dot ? dot + 1 : name) : -1;
    if (p < 0) return ck_json_fail(in->doc, json, err, "no such parameter of that node");
    *setting = (ck_setting){.node = node, .parameter = (size_t)p};
    return read_value(in, node, (size_t)p, json, &setting->value, err);
}

static ck_status read_rule(const reading *in, const cJSON *json, ck_error *err) {
    CK_TRY(ck_json_only(in->doc, json, "keys blocks elements set exclude drop copy", err));
    ck_rule rule = {0};
    bool exclude = false, drop = false;
    const char *copy = NULL;
    CK_TRY(ck_json_text(in->doc, json, "keys", &rule.pattern, err));
    CK_TRY(ck_json_text(in->doc, json, "blocks", &rule.blocks, err));
    CK_TRY(ck_json_text(in->doc, json, "elements", &rule.elements, err));
    CK_TRY(ck_json_bool(in->doc, json, "exclude", &exclude, err));
    CK_TRY(ck_json_bool(in->doc, json, "drop", &drop, err));
    CK_TRY(ck_json_text(in->doc, json, "copy", &copy, err));
    const cJSON *set = cJSON_GetObjectItemCaseSensitive(json, "set");
    if (!rule.pattern && !rule.blocks && !rule.elements)
        return ck_json_fail(in->doc, json, err,
                            "\"keys\" is missing (or \"blocks\", or \"elements\")");
    if (exclude + drop + (copy != NULL) + (set != NULL) != 1)
        return ck_json_fail(
            in->doc, json, err,
            "a rule has one of \"set\", \"exclude\": true, \"drop\": true, \"copy\"");
    rule.action = exclude ? CK_RULE_EXCLUDE
                  : drop  ? CK_RULE_DROP
                  : copy  ? CK_RULE_COPY
                          : CK_RULE_SET;
    if (copy) {
        while (rule.model < in->recipe->model_count &&
               strcmp(in->recipe->models[rule.model].name, copy) != 0)
            rule.model++;
        if (rule.model == in->recipe->model_count)
            return ck_json_fail(in->doc, cJSON_GetObjectItemCaseSensitive(json, "copy"), err,
                                "there is no model '%s' under \"models\"", copy);
    }
    ck_setting settings[MAX_LIST];
    if (set) {
        if (!cJSON_IsObject(set) || !set->child)
            return ck_json_fail(in->doc, set, err, "must be an object of parameters");
        const cJSON *item;
        cJSON_ArrayForEach(item, set) {
            if (rule.setting_count == MAX_LIST)
                return ck_json_fail(in->doc, set, err, "more than %d parameters", MAX_LIST);
            CK_TRY(read_setting(in, item, &settings[rule.setting_count++], err));
        }
        rule.settings = settings;
    }
    return ck_recipe_add_rule(in->recipe, &rule, err);
}

/* A field that holds one of the words "a|b|c"; absent leaves *index. */
static ck_status read_word(const reading *in, const cJSON *object, const char *field,
                           const char *words, int *index, ck_error *err) {
    const char *word = NULL;
    CK_TRY(ck_json_text(in->doc, object, field, &word, err));
    if (!word) return CK_OK;
    int i = ck_word_index(words, word);
    if (i < 0)
        return ck_json_fail(in->doc, cJSON_GetObjectItemCaseSensitive(object, field), err,
                            "must be one of %s", words);
    *index = i;
    return CK_OK;
}

static ck_status read_lock(const reading *in, const cJSON *lock, ck_error *err) {
    ck_recipe *r = in->recipe;
    CK_TRY(ck_json_only(in->doc, lock, "tool models output", err));
    const char *tool = NULL, *output = NULL;
    CK_TRY(ck_json_text(in->doc, lock, "tool", &tool, err));
    CK_TRY(read_hash(in, lock, "output", &output, err));
    r->lock_tool = tool ? ck_arena_strdup(&r->arena, tool) : NULL;
    r->lock_output = output ? ck_arena_strdup(&r->arena, output) : NULL;
    r->lock_models = ck_arena_alloc(&r->arena, r->model_count * sizeof *r->lock_models);
    if ((tool && !r->lock_tool) || (output && !r->lock_output) || !r->lock_models)
        return ck_fail_memory(err, in->doc->name);
    const cJSON *models = cJSON_GetObjectItemCaseSensitive(lock, "models");
    if (!cJSON_IsObject(models))
        return ck_json_fail(in->doc, models ? models : lock, err, "\"models\" must be an object");
    const cJSON *item;
    cJSON_ArrayForEach(item, models) {
        size_t m = 0;
        while (m < r->model_count && strcmp(r->models[m].name, item->string) != 0) m++;
        if (m == r->model_count) return ck_json_fail(in->doc, item, err, "there is no such model");
        const char *hash = NULL;
        CK_TRY(read_hash(in, models, item->string, &hash, err));
        if (!(r->lock_models[m] = ck_arena_strdup(&r->arena, hash)))
            return ck_fail_memory(err, in->doc->name);
    }
    return CK_OK;
}

/* Every --set must name a variable, or a misspelt one would be without effect. */
static ck_status check_settings(const reading *in, ck_error *err) {
    for (size_t i = 0; i < in->setting_count; i++) {
        const char *text = in->settings[i], *equals = strchr(text, '=');
        if (!equals || equals == text)
            return ck_fail(err, CK_USAGE, "--set '%s': must be NAME=VALUE", text);
        char name[128];
        snprintf(name, sizeof name, "%.*s", (int)(equals - text), text);
        if (!cJSON_GetObjectItemCaseSensitive(in->variables, name))
            return ck_fail(err, CK_USAGE, "--set %s: %s has no variable of that name", text,
                           in->doc->name);
    }
    return CK_OK;
}

static ck_status read_recipe(reading *in, ck_error *err) {
    const ck_json *doc = in->doc;
    const cJSON *root = doc->root, *item;
    ck_recipe *r = in->recipe;
    CK_TRY(ck_json_only(
        doc, root,
        "ckmerge_recipe models merge rules policies dtype seed variables lock description", err));
    uint64_t version = 0;
    CK_TRY(ck_json_count(doc, root, "ckmerge_recipe", &version, err));
    if (version != FORMAT_VERSION)
        return ck_json_fail(doc, root, err,
                            "\"ckmerge_recipe\" must be %d: the version of the recipe's format",
                            FORMAT_VERSION);
    in->variables = cJSON_GetObjectItemCaseSensitive(root, "variables");
    if (in->variables && !cJSON_IsObject(in->variables))
        return ck_json_fail(doc, in->variables, err, "must be an object");
    CK_TRY(check_settings(in, err));

    const cJSON *models = cJSON_GetObjectItemCaseSensitive(root, "models");
    if (!cJSON_IsObject(models) || !models->child)
        return ck_json_fail(doc, models ? models : root, err,
                            "\"models\" must be an object with at least one model");
    cJSON_ArrayForEach(item, models) CK_TRY(read_model(in, item, err));

    const cJSON *merge = cJSON_GetObjectItemCaseSensitive(root, "merge");
    if (!merge) return ck_json_fail(doc, root, err, "\"merge\" is missing");
    CK_TRY(read_node(in, merge, &r->root, err));

    const cJSON *rules = cJSON_GetObjectItemCaseSensitive(root, "rules");
    if (rules && !cJSON_IsArray(rules)) return ck_json_fail(doc, rules, err, "must be a list");
    cJSON_ArrayForEach(item, rules) CK_TRY(read_rule(in, item, err));

    int missing = CK_MISSING_KEEP, extra = CK_EXTRA_DROP, shape = CK_SHAPE_ERROR, dtype = 0;
    int unmatched = CK_UNMATCHED_ERROR;
    const cJSON *policies = cJSON_GetObjectItemCaseSensitive(root, "policies");
    if (policies) {
        CK_TRY(ck_json_only(doc, policies, "missing extra shape unmatched", err));
        CK_TRY(read_word(in, policies, "missing", CK_MISSING_WORDS, &missing, err));
        CK_TRY(read_word(in, policies, "extra", CK_EXTRA_WORDS, &extra, err));
        CK_TRY(read_word(in, policies, "shape", CK_SHAPE_WORDS, &shape, err));
        CK_TRY(read_word(in, policies, "unmatched", CK_UNMATCHED_WORDS, &unmatched, err));
    }
    r->missing = (ck_missing)missing;
    r->extra = (ck_extra)extra;
    r->shape = (ck_shape)shape;
    r->unmatched = (ck_unmatched)unmatched;
    CK_TRY(read_word(in, root, "dtype", CK_DTYPE_WORDS, &dtype, err));
    const char *word = "keep";
    CK_TRY(ck_json_text(doc, root, "dtype", &word, err));
    r->dtype = ck_recipe_dtype(word);
    CK_TRY(ck_json_count(doc, root, "seed", &r->seed, err));
    const char *description = NULL;
    CK_TRY(ck_json_text(doc, root, "description", &description, err));

    const cJSON *lock = cJSON_GetObjectItemCaseSensitive(root, "lock");
    if (lock) CK_TRY(read_lock(in, lock, err));
    if (ck_recipe_check(r, err) != CK_OK) return ck_context(err, "%s", doc->name);
    return CK_OK;
}

ck_status ck_recipe_parse(const char *name, const char *text, size_t n, const char *folder,
                          const char *const *settings, size_t count, ck_recipe *r, ck_error *err) {
    ck_recipe_init(r);
    ck_json doc = {0};
    CK_TRY(ck_json_parse(name, text, n, &doc, err));
    reading in = {
        .recipe = r, .doc = &doc, .settings = settings, .setting_count = count, .folder = folder};
    ck_status status = read_recipe(&in, err);
    ck_json_free(&doc);
    if (status != CK_OK) ck_recipe_free(r);
    return status;
}

ck_status ck_recipe_load(const char *path, const char *const *settings, size_t count, ck_recipe *r,
                         ck_error *err) {
    ck_recipe_init(r);
    char *text;
    size_t n;
    CK_TRY(ck_read_file(path, 16u << 20, &text, &n, err));
    const char *slash = strrchr(path, '/');
    char *folder = slash ? ck_strndup(path, slash == path ? 1 : (size_t)(slash - path)) : NULL;
    ck_status status = slash && !folder
                           ? ck_fail_memory(err, path)
                           : ck_recipe_parse(path, text, n, folder, settings, count, r, err);
    free(folder);
    free(text);
    return status;
}

/* ---- Writing. Every cJSON call may fail for want of memory; `ok` gathers that. ---- */

static cJSON *add(cJSON *object, const char *name, cJSON *item, bool *ok) {
    if (!item || !cJSON_AddItemToObject(object, name, item)) {
        cJSON_Delete(item);
        *ok = false;
        return NULL;
    }
    return item;
}

/* "b" of "a|b|c" at index 1. */
static cJSON *word_json(const char *words, int index) {
    while (index-- > 0) words += strcspn(words, "|") + 1;
    char word[16];
    snprintf(word, sizeof word, "%.*s", (int)strcspn(words, "|"), words);
    return cJSON_CreateString(word);
}

static cJSON *item_json(const ck_value *v, size_t i) {
    const ck_weights *weights = v->by_block ? v->by_block[i] : NULL;
    return weights ? ck_weights_json(weights, v->items[i]) : cJSON_CreateNumber(v->items[i]);
}

static cJSON *value_json(const ck_value *v, const ck_parameter *p, bool *ok) {
    if (p->on_off) return cJSON_CreateString(v->items[0] != 0 ? "on" : "off");
    if (!p->list) return item_json(v, 0);
    cJSON *json = cJSON_CreateArray();
    for (size_t i = 0; i < v->count && *ok; i++) {
        cJSON *item = item_json(v, i);
        if (item && json && cJSON_AddItemToArray(json, item)) continue;
        cJSON_Delete(item);
        *ok = false;
    }
    return json;
}

static cJSON *node_json(const ck_recipe *r, const ck_node *node, bool *ok) {
    if (node->kind == CK_NODE_MODEL) return cJSON_CreateString(r->models[node->model].name);
    if (node->kind == CK_NODE_CONSTANT) return cJSON_CreateNumber(node->constant);
    cJSON *json = cJSON_CreateObject();
    add(json, "method", cJSON_CreateString(node->method->name), ok);
    cJSON *inputs = add(json, "inputs", cJSON_CreateArray(), ok);
    for (size_t i = 0; i < node->input_count && *ok; i++) {
        cJSON *input = node_json(r, node->inputs[i], ok);
        if (!input || !cJSON_AddItemToArray(inputs, input)) {
            cJSON_Delete(input);
            *ok = false;
        }
    }
    if (node->id) add(json, "id", cJSON_CreateString(node->id), ok);
    if (node->compat) add(json, "compat", word_json(node->method->compat, node->compat - 1), ok);
    for (size_t p = 0; node->method->parameters[p].name; p++)
        add(json, node->method->parameters[p].name,
            value_json(&node->values[p], &node->method->parameters[p], ok), ok);
    return json;
}

static void rule_json(const ck_recipe *r, const ck_rule *rule, cJSON *json, bool *ok) {
    if (rule->pattern) add(json, "keys", cJSON_CreateString(rule->pattern), ok);
    if (rule->blocks) add(json, "blocks", cJSON_CreateString(rule->blocks), ok);
    if (rule->elements) add(json, "elements", cJSON_CreateString(rule->elements), ok);
    switch (rule->action) {
    case CK_RULE_EXCLUDE:
        add(json, "exclude", cJSON_CreateTrue(), ok);
        break;
    case CK_RULE_DROP:
        add(json, "drop", cJSON_CreateTrue(), ok);
        break;
    case CK_RULE_COPY:
        add(json, "copy", cJSON_CreateString(r->models[rule->model].name), ok);
        break;
    case CK_RULE_SET: {
        cJSON *set = add(json, "set", cJSON_CreateObject(), ok);
        for (size_t i = 0; i < rule->setting_count && *ok; i++) {
            const ck_setting *s = &rule->settings[i];
            const ck_parameter *p = &s->node->method->parameters[s->parameter];
            char name[256];
            snprintf(name, sizeof name, "%s%s%s", s->node->id ? s->node->id : "",
                     s->node->id ? "." : "", p->name);
            add(set, name, value_json(&s->value, p, ok), ok);
        }
    }
    }
}

static const char *dtype_word(ck_dtype dtype) {
    switch (dtype) {
    case CK_F32:
        return "f32";
    case CK_F16:
        return "f16";
    case CK_BF16:
        return "bf16";
    case CK_F8_E4M3:
        return "f8_e4m3";
    case CK_F8_E5M2:
        return "f8_e5m2";
    default:
        return "keep";
    }
}

/* Where a path goes: only its name; or relative to folder when it lies in or below it; or absolute.
 * NULL when out of memory. */
static char *styled_path(const char *path, ck_path_style style, const char *folder) {
    if (style == CK_PATH_NAME) {
        size_t n = strlen(path);
        while (n > 1 && path[n - 1] == '/') n--; /* a folder may be given as "model/" */
        size_t start = n ? n - 1 : 0;            /* ("/" is a name as well) */
        while (start > 0 && path[start - 1] != '/') start--;
        return ck_strndup(path + start, n - start);
    }
    char real_path[PATH_MAX], real_folder[PATH_MAX];
    if (!realpath(path, real_path) || !realpath(folder ? folder : ".", real_folder))
        return ck_strdup(path);
    size_t n = strlen(real_folder);
    if (strncmp(real_path, real_folder, n) == 0 && real_path[n] == '/')
        return ck_strdup(real_path + n + 1);
    return ck_strdup(real_path);
}

/* A path that begins with '$' gets a second one, or else it would be read as a variable. */
static char *written_path(const char *path, ck_path_style style, const char *folder) {
    char *styled = styled_path(path, style, folder);
    if (!styled || styled[0] != '$') return styled;
    char *doubled = ck_sprintf("$%s", styled);
    free(styled);
    return doubled;
}

static void models_json(const ck_recipe *r, ck_path_style style, const char *folder, cJSON *models,
                        bool *ok) {
    for (size_t i = 0; i < r->model_count && *ok; i++) {
        const ck_model *m = &r->models[i];
        char *path =
            written_path(style == CK_PATH_NAME && m->label ? m->label : m->path, style, folder);
        if (!path) {
            *ok = false;
            return;
        }
        cJSON *model = add(models, r->models[i].name, cJSON_CreateObject(), ok);
        if (model) add(model, "path", cJSON_CreateString(path), ok);
        if (model && r->models[i].sha256)
            add(model, "sha256", cJSON_CreateString(r->models[i].sha256), ok);
        if (model && m->rebasin) add(model, "rebasin", cJSON_CreateTrue(), ok);
        free(path);
    }
}

static void lock_json(const ck_recipe *r, cJSON *lock, bool *ok) {
    if (r->lock_tool) add(lock, "tool", cJSON_CreateString(r->lock_tool), ok);
    cJSON *models = add(lock, "models", cJSON_CreateObject(), ok);
    for (size_t i = 0; i < r->model_count && *ok; i++)
        if (r->lock_models[i])
            add(models, r->models[i].name, cJSON_CreateString(r->lock_models[i]), ok);
    if (r->lock_output) add(lock, "output", cJSON_CreateString(r->lock_output), ok);
}

ck_status ck_recipe_text(const ck_recipe *r, ck_path_style style, const char *folder, char **text,
                         ck_error *err) {
    bool ok = true;
    cJSON *root = cJSON_CreateObject();
    add(root, "ckmerge_recipe", cJSON_CreateNumber(FORMAT_VERSION), &ok);
    cJSON *models = add(root, "models", cJSON_CreateObject(), &ok);
    if (models) models_json(r, style, folder, models, &ok);
    add(root, "merge", node_json(r, r->root, &ok), &ok);
    if (r->rule_count) {
        cJSON *rules = add(root, "rules", cJSON_CreateArray(), &ok);
        for (size_t i = 0; i < r->rule_count && ok; i++) {
            cJSON *rule = cJSON_CreateObject();
            if (rule && cJSON_AddItemToArray(rules, rule))
                rule_json(r, &r->rules[i], rule, &ok);
            else
                ok = false;
        }
    }
    cJSON *policies = add(root, "policies", cJSON_CreateObject(), &ok);
    if (policies) {
        add(policies, "missing", word_json(CK_MISSING_WORDS, (int)r->missing), &ok);
        add(policies, "extra", word_json(CK_EXTRA_WORDS, (int)r->extra), &ok);
        add(policies, "shape", word_json(CK_SHAPE_WORDS, (int)r->shape), &ok);
        add(policies, "unmatched", word_json(CK_UNMATCHED_WORDS, (int)r->unmatched), &ok);
    }
    add(root, "dtype", cJSON_CreateString(dtype_word(r->dtype)), &ok);
    add(root, "seed", cJSON_CreateNumber((double)r->seed), &ok);
    if (style == CK_PATH_RELATIVE && r->lock_models) {
        cJSON *lock = add(root, "lock", cJSON_CreateObject(), &ok);
        if (lock) lock_json(r, lock, &ok);
    }
    *text = !ok                         ? NULL
            : style == CK_PATH_RELATIVE ? cJSON_Print(root)
                                        : cJSON_PrintUnformatted(root);
    cJSON_Delete(root);
    return *text ? CK_OK : ck_fail_memory(err, "recipe");
}
