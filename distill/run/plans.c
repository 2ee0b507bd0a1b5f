/* See plans.h. */
#include "distill/run/plans.h"

#include "io/json.h"
#include "io/os.h"
#include "io/writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- Taking ---- */

static ck_status take_all(const ck_choices *c, const ck_json *doc, const cJSON *choices,
                          ck_error *err) {
    for (const cJSON *one = choices->child; one; one = one->next) {
        if (!cJSON_IsString(one)) return ck_json_fail(doc, one, err, "a text is expected");
        if (c->take(one->string, one->valuestring, err) != CK_OK)
            return ck_context(err, "%s", doc->name);
    }
    return CK_OK;
}

static ck_status take(const ck_choices *c, const ck_json *doc, char change[512], ck_error *err) {
    const char *by = NULL;
    const cJSON *choices = cJSON_GetObjectItemCaseSensitive(doc->root, "choices");
    CK_TRY(ck_json_only(doc, doc->root, "by choices", err));
    CK_TRY(ck_json_text(doc, doc->root, "by", &by, err));
    if (!by || !cJSON_IsObject(choices))
        return ck_json_fail(doc, doc->root, err, "'by' and 'choices' are expected");
    if (strcmp(by, c->by()) == 0) return take_all(c, doc, choices, err);
    snprintf(change, 512, "the run was computed by %.160s, and goes on by %.160s", by, c->by());
    return CK_OK;
}

ck_status ck_plans_take(ck_plans *p, const char *path, char change[512], ck_error *err) {
    const ck_choices *c = p->backend->choices;
    change[0] = 0;
    p->kept = 0;
    if (!c) return CK_OK;
    if (access(path, F_OK) != 0) {
        snprintf(change, 512, "there is no %.400s any more", path);
        return CK_OK;
    }
    ck_json doc = {0};
    ck_status s = ck_json_load(path, &doc, err);
    if (s == CK_OK) s = take(c, &doc, change, err);
    ck_json_free(&doc);
    return s;
}

/* ---- Keeping ---- */

static bool add_all(const ck_choices *c, cJSON *root, size_t *count) {
    const char *kind, *choice;
    cJSON *choices = NULL;
    bool done = cJSON_AddStringToObject(root, "by", c->by()) &&
                (choices = cJSON_AddObjectToObject(root, "choices"));
    for (*count = 0; done && c->at(*count, &kind, &choice); ++*count)
        done = cJSON_AddStringToObject(choices, kind, choice);
    return done;
}

ck_status ck_plans_begin(ck_plans *p, const char *path, ck_error *err) {
    const ck_choices *c = p->backend->choices;
    size_t count = 0;
    if (!c) return CK_OK;
    cJSON *root = cJSON_CreateObject();
    char *text = root && add_all(c, root, &count) ? cJSON_Print(root) : NULL;
    ck_status s =
        text ? ck_write_file(path, text, strlen(text), true, err) : ck_fail_memory(err, path);
    cJSON_free(text);
    cJSON_Delete(root);
    if (s == CK_OK) p->kept = count;
    return s;
}

ck_status ck_plans_keep(ck_plans *p, const char *path, ck_error *err) {
    const ck_choices *c = p->backend->choices;
    const char *kind, *choice;
    return c && c->at(p->kept, &kind, &choice) ? ck_plans_begin(p, path, err) : CK_OK;
}
