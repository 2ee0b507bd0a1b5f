/* libFuzzer: any bytes as a JSON document must be read or refused. What is read must be what cJSON
 * reads as a whole, every node of it must have a line and a place, and every field, asked for as
 * every type, an answer. */
#include "io/json.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void ask(const ck_json *doc, const cJSON *object, const char *field) {
    ck_error err;
    double number;
    uint64_t count;
    const char *text;
    bool flag;
    int types = 0;
    types += ck_json_number(doc, object, field, &number, &err) == CK_OK;
    types += ck_json_text(doc, object, field, &text, &err) == CK_OK;
    types += ck_json_bool(doc, object, field, &flag, &err) == CK_OK;
    if (types > 1) abort();
    if (ck_json_count(doc, object, field, &count, &err) == CK_OK && count >= 1ull << 53) abort();
}

static void visit(const ck_json *doc, const cJSON *node) {
    ck_error err;
    if (ck_json_fail(doc, node, &err, "here") != CK_INPUT || !strstr(err.message, ": here"))
        abort();
    if (cJSON_IsObject(node) && node->child) {
        if (ck_json_only(doc, node, "alpha models", &err) == CK_OK && cJSON_GetArraySize(node) > 2)
            abort();
        for (const cJSON *field = node->child; field; field = field->next)
            ask(doc, node, field->string);
    }
    for (const cJSON *child = node->child; child; child = child->next) visit(doc, child);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    ck_json doc;
    ck_error err;
    /* Places take a walk over the document for each of its nodes. */
    if (n > 4096) return 0;
    ck_status status = ck_json_parse("x", (const char *)data, n, &doc, &err);
    /* Memory was not short. */
    if (status != CK_OK && status != CK_INPUT) abort();
    if (status != CK_OK) return 0;
    cJSON *again = cJSON_ParseWithOpts(doc.text, NULL, true);
    if (!cJSON_Compare(doc.root, again, true)) abort();
    cJSON_Delete(again);
    visit(&doc, doc.root);
    ck_json_free(&doc);
    return 0;
}
