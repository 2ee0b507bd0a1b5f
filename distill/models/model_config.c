/* See model_config_int.h. */
#include "distill/models/model_config_int.h"

#include "io/writer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ck_status check_model_setting(const ck_json *doc, const cJSON *node,
                                     const ck_model_setting *setting, ck_error *err) {
    if (!setting->accepted || !*setting->accepted) return CK_OK;
    cJSON *accepted = cJSON_Parse(setting->accepted);
    if (!accepted) return ck_fail_memory(err, doc->name);
    bool good = false;
    for (const cJSON *value = accepted->child; value; value = value->next)
        good = good || cJSON_Compare(value, node, true);
    cJSON_Delete(accepted);
    if (good) return CK_OK;
    return ck_json_fail(doc, node, err, "not implemented; implemented is: %s", setting->accepted);
}

ck_status ck_model__check(const ck_json *doc, const char *class_name,
                          const ck_model_setting *settings, ck_error *err) {
    if (!cJSON_IsObject(doc->root)) return ck_json_fail(doc, doc->root, err, "must be an object");
    const char *class_here = NULL;
    CK_TRY(ck_json_text(doc, doc->root, "_class_name", &class_here, err));
    if (!class_here || strcmp(class_here, class_name) != 0)
        return ck_json_fail(doc, cJSON_GetObjectItemCaseSensitive(doc->root, "_class_name"), err,
                            "the class is '%s', not %s", class_here ? class_here : "", class_name);
    for (const cJSON *node = doc->root->child; node; node = node->next) {
        const ck_model_setting *s = settings;
        while (s->name && strcmp(s->name, node->string) != 0) s++;
        if (!s->name)
            return ck_json_fail(doc, node, err,
                                "a setting of %s that is not known; it may make another network of "
                                "it (take it out if it does not)",
                                class_name);
        CK_TRY(check_model_setting(doc, node, s, err));
    }
    return CK_OK;
}

ck_status ck_model__accept(const ck_json *doc, const ck_model_setting *setting, ck_error *err) {
    const cJSON *node = ck_model__field(doc, setting->name);
    return node ? check_model_setting(doc, node, setting, err) : CK_OK;
}

const cJSON *ck_model__field(const ck_json *doc, const char *name) {
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(doc->root, name);
    return cJSON_IsNull(node) ? NULL : node;
}

ck_status ck_model__whole(const ck_json *doc, const cJSON *node, int64_t low, int64_t high,
                          int64_t *value, ck_error *err) {
    if (!node) return CK_OK;
    double x = cJSON_IsNumber(node) ? node->valuedouble : NAN;
    if (!(x >= (double)low && x <= (double)high) || x != floor(x))
        return ck_json_fail(doc, node, err, "must be a whole number from %lld to %lld",
                            (long long)low, (long long)high);
    *value = (int64_t)x;
    return CK_OK;
}

ck_status ck_model__size(const ck_json *doc, const char *name, int64_t low, int64_t high,
                         int64_t *value, ck_error *err) {
    return ck_model__whole(doc, ck_model__field(doc, name), low, high, value, err);
}

ck_status ck_model__sizes(const ck_json *doc, const char *name, int64_t low, int64_t high, size_t n,
                          int64_t *values, ck_error *err) {
    const cJSON *node = ck_model__field(doc, name);
    if (!node) return CK_OK;
    if (cJSON_IsArray(node) && (size_t)cJSON_GetArraySize(node) != n)
        return ck_json_fail(doc, node, err, "must be one number or a list of %zu", n);
    const cJSON *item = cJSON_IsArray(node) ? node->child : node;
    for (size_t i = 0; i < n; i++) {
        CK_TRY(ck_model__whole(doc, item, low, high, &values[i], err));
        if (cJSON_IsArray(node)) item = item->next;
    }
    return CK_OK;
}

ck_status ck_model__real(const ck_json *doc, const char *name, double low, double high,
                         double *value, ck_error *err) {
    const cJSON *node = ck_model__field(doc, name);
    if (!node) return CK_OK;
    if (!cJSON_IsNumber(node) || !(node->valuedouble >= low && node->valuedouble <= high))
        return ck_json_fail(doc, node, err, "must be a number from %g to %g", low, high);
    *value = node->valuedouble;
    return CK_OK;
}

ck_status ck_model__flag(const ck_json *doc, const char *name, bool *value, ck_error *err) {
    return ck_model__field(doc, name) ? ck_json_bool(doc, doc->root, name, value, err) : CK_OK;
}

ck_status ck_model__choice(const ck_json *doc, const cJSON *node, const char *const *names,
                           int *choice, ck_error *err) {
    if (!node) return CK_OK;
    for (int i = 0; names[i]; i++)
        if (cJSON_IsString(node) && strcmp(node->valuestring, names[i]) == 0) {
            *choice = i;
            return CK_OK;
        }
    char known[256] = "";
    for (int i = 0; names[i]; i++) {
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s\"%s\"", i ? ", " : "", names[i]);
    }
    return ck_json_fail(doc, node, err, "not implemented; implemented is: %s", known);
}

ck_status ck_model__write(const char *from, const ck_model_change *changes, size_t count,
                          const char *to, ck_error *err) {
    ck_json doc = {0};
    ck_status s = ck_json_load(from, &doc, err);
    bool memory = true;
    for (size_t i = 0; i < count; i++) {
        cJSON_DeleteItemFromObjectCaseSensitive(doc.root, changes[i].name);
        if (!changes[i].value || !doc.root ||
            !cJSON_AddItemToObject(doc.root, changes[i].name, changes[i].value)) {
            cJSON_Delete(changes[i].value);
            memory = false;
        }
    }
    char *text = s == CK_OK && memory ? cJSON_Print(doc.root) : NULL;
    if (s == CK_OK)
        s = text ? ck_write_file(to, text, strlen(text), true, err) : ck_fail_memory(err, to);
    free(text);
    ck_json_free(&doc);
    return s;
}
