/* The JSON form of block weights, see weights.h. */
#include "merge/presets.h"
#include "merge/weights.h"

#include <string.h>

/* What reads a document's numbers, and where what is read goes. */
typedef struct reading {
    const ck_json *doc;
    ck_weights_number number;
    const void *context;
    ck_arena *arena;
} reading;

static ck_status read_list(const reading *in, const cJSON *list, ck_weights *w, ck_error *err) {
    double numbers[CK_MAX_WEIGHTS];
    size_t count = 0;
    const cJSON *item;
    if (!cJSON_IsArray(list) || !list->child)
        return ck_json_fail(in->doc, list, err, "must be a list of numbers");
    cJSON_ArrayForEach(item, list) {
        if (count == CK_MAX_WEIGHTS)
            return ck_json_fail(in->doc, list, err, "more than %d numbers", CK_MAX_WEIGHTS);
        CK_TRY(in->number(in->context, item, &numbers[count++], err));
    }
    double *copy = ck_arena_alloc(in->arena, count * sizeof *copy);
    if (!copy) return ck_fail_memory(err, in->doc->name);
    memcpy(copy, numbers, count * sizeof *copy);
    w->numbers = copy;
    w->count = count;
    return CK_OK;
}

static ck_status read_curve(const reading *in, const cJSON *object, ck_weights *w, ck_error *err) {
    const cJSON *field = cJSON_GetObjectItemCaseSensitive(object, "curve");
    const char *word = "linear";
    CK_TRY(ck_json_text(in->doc, object, "curve", &word, err));
    w->curve = strcmp(word, "linear") == 0       ? CK_CURVE_LINEAR
               : strcmp(word, "cosine") == 0     ? CK_CURVE_COSINE
               : strcmp(word, "smoothstep") == 0 ? CK_CURVE_SMOOTHSTEP
                                                 : CK_CURVE_LIST;
    if (w->curve == CK_CURVE_LIST)
        return ck_json_fail(in->doc, field, err, "must be one of %s", CK_CURVE_WORDS);
    return CK_OK;
}

static ck_status read_overrides(const reading *in, const cJSON *blocks, ck_weights *w,
                                ck_error *err) {
    if (!cJSON_IsObject(blocks))
        return ck_json_fail(in->doc, blocks, err,
                            "must be an object: {\"IN00-IN05\": 0.5, \"vae\": 0}");
    size_t count = (size_t)cJSON_GetArraySize(blocks);
    ck_weights_override *overrides = ck_arena_alloc(in->arena, count * sizeof *overrides);
    if (!overrides) return ck_fail_memory(err, in->doc->name);
    const cJSON *item;
    cJSON_ArrayForEach(item, blocks) {
        ck_weights_override *o = &overrides[w->override_count++];
        if (!(o->blocks = ck_arena_strdup(in->arena, item->string)))
            return ck_fail_memory(err, in->doc->name);
        CK_TRY(in->number(in->context, item, &o->value, err));
    }
    w->overrides = overrides;
    return CK_OK;
}

ck_status ck_weights_read(const ck_json *doc, const cJSON *object, ck_weights_number number,
                          const void *context, const char *folder, ck_arena *arena,
                          ck_weights **out, ck_error *err) {
    const reading in = {doc, number, context, arena};
    const cJSON *weights = cJSON_GetObjectItemCaseSensitive(object, "weights");
    const cJSON *gradient = cJSON_GetObjectItemCaseSensitive(object, "gradient");
    const cJSON *base = cJSON_GetObjectItemCaseSensitive(object, "base");
    const cJSON *blocks = cJSON_GetObjectItemCaseSensitive(object, "blocks");
    const char *preset = NULL;
    CK_TRY(ck_json_text(doc, object, "preset", &preset, err));
    if ((weights != NULL) + (gradient != NULL) + (preset != NULL) > 1)
        return ck_json_fail(doc, object, err,
                            "block weights have one of \"weights\", \"gradient\", \"preset\"");
    if (!gradient && cJSON_GetObjectItemCaseSensitive(object, "curve"))
        return ck_json_fail(doc, object, err, "\"curve\" goes with \"gradient\"");
    ck_weights *w;
    ck_error inner;
    if (preset) {
        if (ck_preset_load(preset, folder, arena, &w, &inner) != CK_OK)
            return inner.status == CK_MEMORY ? (*err = inner, CK_MEMORY)
                                             : ck_json_fail(doc, object, err, "%s", inner.message);
    } else if (!(w = ck_arena_alloc(arena, sizeof *w))) {
        return ck_fail_memory(err, doc->name);
    }
    if (gradient) CK_TRY(read_curve(&in, object, w, err));
    if (weights || gradient) CK_TRY(read_list(&in, weights ? weights : gradient, w, err));
    if (base) CK_TRY(number(context, base, &w->base, err));
    w->has_base |= base != NULL;
    if (blocks) {
        w->override_count = 0;
        CK_TRY(read_overrides(&in, blocks, w, err));
    }
    *out = w;
    return CK_OK;
}

cJSON *ck_weights_json(const ck_weights *w, double base) {
    static const char *const curves[] = {NULL, "linear", "cosine", "smoothstep"};
    cJSON *json = cJSON_CreateObject(), *list = NULL;
    bool ok = json != NULL;
    if (w->count) {
        list = cJSON_CreateDoubleArray(w->numbers, (int)w->count);
        ok = ok && list &&
             cJSON_AddItemToObject(json, curves[w->curve] ? "gradient" : "weights", list);
        if (!ok) cJSON_Delete(list);
    }
    if (ok && w->curve > CK_CURVE_LINEAR)
        ok = cJSON_AddStringToObject(json, "curve", curves[w->curve]);
    if (ok) ok = cJSON_AddNumberToObject(json, "base", w->has_base ? w->base : base);
    cJSON *blocks = ok && w->override_count ? cJSON_AddObjectToObject(json, "blocks") : NULL;
    for (size_t i = 0; i < w->override_count && ok; i++)
        ok = cJSON_AddNumberToObject(blocks, w->overrides[i].blocks, w->overrides[i].value);
    if (ok) return json;
    cJSON_Delete(json);
    return NULL;
}
