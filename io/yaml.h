/* Strict reading of YAML documents that people write: libyaml underneath, and on top of it a tree
 * that knows where everything stood.
 *
 *   ck_yaml doc;
 *   CK_TRY(ck_yaml_parse("merge.yaml", text, n, &doc, err));
 *   CK_TRY(ck_yaml_only(&doc, doc.root, "models dtype", err));            unknown field: error
 *   const ck_yaml_node *dtype = ck_yaml_get(doc.root, "dtype");           NULL: not there
 *   ck_yaml_free(&doc);
 *
 * Every error names file, line and column. Refused are: field names that are not plain texts or
 * that are there twice, more than one document, tags of programming languages, a depth over 64, and
 * documents over 1 MiB or of more than 100,000 values (aliases count each time they are used).
 * Without libyaml at build time parsing is CK_USAGE, with a word.
 */
#ifndef CK_YAML_H
#define CK_YAML_H

#include "io/arena.h"
#include "io/error.h"

#include <stdbool.h>
#include <stddef.h>

typedef enum ck_yaml_kind { CK_YAML_SCALAR, CK_YAML_LIST, CK_YAML_MAP } ck_yaml_kind;

typedef struct ck_yaml_node {
    ck_yaml_kind kind;
    unsigned line, column; /* from 1 */
    const char *text;      /* scalar */
    bool plain;            /* scalar without quotes: may be a number, true, null, ... */
    size_t count;          /* items of a list, fields of a map */
    const char **keys;     /* map */
    const struct ck_yaml_node **items;
} ck_yaml_node;

typedef struct ck_yaml {
    const char *name; /* for messages: usually the path; borrowed */
    const ck_yaml_node *root;
    ck_arena arena;
} ck_yaml;

/* text is not kept. */
ck_status ck_yaml_parse(const char *name, const char *text, size_t n, ck_yaml *doc, ck_error *err);
void ck_yaml_free(ck_yaml *doc); /* a zeroed doc is allowed */

/* CK_INPUT "name:LINE:COLUMN: message". */
ck_status ck_yaml_fail(const ck_yaml *doc, const ck_yaml_node *node, ck_error *err,
                       const char *format, ...) __attribute__((format(printf, 4, 5)));

/* A field of a map; NULL when it is not there or node is no map. */
const ck_yaml_node *ck_yaml_get(const ck_yaml_node *node, const char *key);

/* node must be a map with no fields but those in the space-separated list. */
ck_status ck_yaml_only(const ck_yaml *doc, const ck_yaml_node *node, const char *fields,
                       ck_error *err);

/* True, and *number, for a scalar that is a finite number; true and false are 1 and 0. */
bool ck_yaml_number(const ck_yaml_node *node, double *number);

/* A scalar's text; null and everything else are errors. */
ck_status ck_yaml_text(const ck_yaml *doc, const ck_yaml_node *node, const char **text,
                       ck_error *err);

/* Whether it is the absence of a value: nothing, ~ or null. */
bool ck_yaml_null(const ck_yaml_node *node);

#endif
