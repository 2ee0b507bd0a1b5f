/* Strict reading of JSON documents that people write: cJSON underneath, and on top of it what cJSON
 * does not check. Every error names the file, the line and the field.
 *
 *   ck_json doc;
 *   CK_TRY(ck_json_load("recipe.json", &doc, err));
 *   CK_TRY(ck_json_only(&doc, doc.root, "version models merge", err));     unknown field: error
 *   CK_TRY(ck_json_number(&doc, doc.root, "alpha", &alpha, err));          absent: unchanged
 *   ck_json_free(&doc);
 *
 * Duplicate field names, text after the document, numbers of more than 63 characters, a depth over
 * 64, and documents over 16 MiB or of more than a million values are errors.
 */
#ifndef CK_JSON_H
#define CK_JSON_H

#include "io/error.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ck_json {
    char *name; /* for messages: usually the path */
    char *text;
    cJSON *root;
} ck_json;

ck_status ck_json_load(const char *path, ck_json *doc, ck_error *err);
/* text is copied; n bytes. */
ck_status ck_json_parse(const char *name, const char *text, size_t n, ck_json *doc, ck_error *err);
void ck_json_free(ck_json *doc); /* a zeroed doc is allowed */

/* CK_INPUT "name:LINE: $.path.to.node: message" (the node's line and JSONPath-like place). */
ck_status ck_json_fail(const ck_json *doc, const cJSON *node, ck_error *err, const char *format,
                       ...) __attribute__((format(printf, 4, 5)));

/* node must be an object with no fields but those in the space-separated list. */
ck_status ck_json_only(const ck_json *doc, const cJSON *node, const char *fields, ck_error *err);

/* Fields of an object, by type. An absent field leaves *value as it is; a wrong type is an error.
 * Text belongs to the document. Counts are whole numbers below 2^53; larger ones would
 * be rounded without a word. */
ck_status ck_json_number(const ck_json *doc, const cJSON *object, const char *field, double *value,
                         ck_error *err);
ck_status ck_json_count(const ck_json *doc, const cJSON *object, const char *field, uint64_t *value,
                        ck_error *err);
ck_status ck_json_text(const ck_json *doc, const cJSON *object, const char *field,
                       const char **value, ck_error *err);
ck_status ck_json_bool(const ck_json *doc, const cJSON *object, const char *field, bool *value,
                       ck_error *err);

#endif
