/* libyaml's documents as a tree of ours; see yaml.h. */
#include "io/yaml.h"
#include "io/os.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void ck_yaml_free(ck_yaml *doc) {
    ck_arena_free(&doc->arena);
    doc->root = NULL;
}

ck_status ck_yaml_fail(const ck_yaml *doc, const ck_yaml_node *node, ck_error *err,
                       const char *format, ...) {
    char message[900];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return ck_fail(err, CK_INPUT, "%s:%u:%u: %s", doc->name, node->line, node->column, message);
}

const ck_yaml_node *ck_yaml_get(const ck_yaml_node *node, const char *key) {
    if (!node || node->kind != CK_YAML_MAP) return NULL;
    for (size_t i = 0; i < node->count; i++)
        if (strcmp(node->keys[i], key) == 0) return node->items[i];
    return NULL;
}

/* Whether the word is in the space-separated list. */
static bool in_list(const char *fields, const char *word) {
    size_t n = strlen(word);
    for (const char *f = fields; n && (f = strstr(f, word)); f += n)
        if ((f == fields || f[-1] == ' ') && (f[n] == ' ' || !f[n])) return true;
    return false;
}

ck_status ck_yaml_only(const ck_yaml *doc, const ck_yaml_node *node, const char *fields,
                       ck_error *err) {
    if (node->kind != CK_YAML_MAP)
        return ck_yaml_fail(doc, node, err, "must be a map with fields (%s)", fields);
    for (size_t i = 0; i < node->count; i++)
        if (!in_list(fields, node->keys[i]))
            return ck_yaml_fail(doc, node->items[i], err, "unknown field '%s'; known are: %s",
                                node->keys[i], fields);
    return CK_OK;
}

bool ck_yaml_null(const ck_yaml_node *node) {
    return node->kind == CK_YAML_SCALAR && node->plain &&
           (!*node->text || strcmp(node->text, "~") == 0 || strcasecmp(node->text, "null") == 0);
}

bool ck_yaml_number(const ck_yaml_node *node, double *number) {
    if (node->kind != CK_YAML_SCALAR || !node->plain) return false;
    static const char *const words[2] = {"false no off", "true yes on"};
    char lower[8] = "";
    for (size_t i = 0; node->text[i] && i + 1 < sizeof lower; i++)
        lower[i] = node->text[i] >= 'A' && node->text[i] <= 'Z' ? (char)(node->text[i] + 32)
                                                                : node->text[i];
    for (int i = 0; i < 2; i++)
        if (strlen(node->text) < sizeof lower && in_list(words[i], lower)) {
            *number = i;
            return true;
        }
    if (!*node->text || node->text[strspn(node->text, "0123456789+-.eE")]) return false;
    char *end;
    *number = strtod(node->text, &end);
    return !*end && *number - *number == 0;
}

ck_status ck_yaml_text(const ck_yaml *doc, const ck_yaml_node *node, const char **text,
                       ck_error *err) {
    if (node->kind != CK_YAML_SCALAR || ck_yaml_null(node))
        return ck_yaml_fail(doc, node, err, "must be a text");
    *text = node->text;
    return CK_OK;
}

#ifndef CK_HAVE_YAML

ck_status ck_yaml_parse(const char *name, const char *text, size_t n, ck_yaml *doc, ck_error *err) {
    (void)text, (void)n, (void)doc;
    return ck_fail(err, CK_USAGE, "%s: is YAML, and this build is without libyaml", name);
}

#else

#include <yaml.h>

enum { MAX_BYTES = 1 << 20, MAX_NODES = 100000, MAX_DEPTH = 64 };

typedef struct building {
    ck_yaml *doc;
    yaml_document_t *from;
    size_t nodes; /* that were made, with what aliases repeat */
} building;

static ck_status fail_at(const ck_yaml *doc, yaml_mark_t mark, ck_error *err, const char *what) {
    const ck_yaml_node place = {.line = (unsigned)mark.line + 1,
                                .column = (unsigned)mark.column + 1};
    return ck_yaml_fail(doc, &place, err, "%s", what);
}

static ck_status build(building *b, int index, int depth, const ck_yaml_node **out, ck_error *err);

static ck_status build_text(building *b, const yaml_node_t *from, const char **text,
                            ck_error *err) {
    const char *value = (const char *)from->data.scalar.value;
    if (strlen(value) != from->data.scalar.length)
        return fail_at(b->doc, from->start_mark, err, "a zero byte");
    *text = ck_arena_strdup(&b->doc->arena, value);
    return *text ? CK_OK : ck_fail_memory(err, b->doc->name);
}

static ck_status build_map(building *b, const yaml_node_t *from, int depth, ck_yaml_node *node,
                           ck_error *err) {
    const yaml_node_pair_t *pairs = from->data.mapping.pairs.start;
    node->count = (size_t)(from->data.mapping.pairs.top - pairs);
    node->keys = ck_arena_alloc(&b->doc->arena, node->count * sizeof *node->keys);
    node->items = ck_arena_alloc(&b->doc->arena, node->count * sizeof *node->items);
    if (!node->keys || !node->items) return ck_fail_memory(err, b->doc->name);
    for (size_t i = 0; i < node->count; i++) {
        const yaml_node_t *key = yaml_document_get_node(b->from, pairs[i].key);
        if (key->type != YAML_SCALAR_NODE)
            return fail_at(b->doc, key->start_mark, err, "a field's name must be a text");
        CK_TRY(build_text(b, key, &node->keys[i], err));
        for (size_t k = 0; k < i; k++)
            if (strcmp(node->keys[k], node->keys[i]) == 0)
                return fail_at(b->doc, key->start_mark, err, "this field is there twice");
        CK_TRY(build(b, pairs[i].value, depth + 1, &node->items[i], err));
    }
    return CK_OK;
}

static ck_status build_list(building *b, const yaml_node_t *from, int depth, ck_yaml_node *node,
                            ck_error *err) {
    const yaml_node_item_t *items = from->data.sequence.items.start;
    node->count = (size_t)(from->data.sequence.items.top - items);
    node->items = ck_arena_alloc(&b->doc->arena, node->count * sizeof *node->items);
    if (!node->items) return ck_fail_memory(err, b->doc->name);
    for (size_t i = 0; i < node->count; i++)
        CK_TRY(build(b, items[i], depth + 1, &node->items[i], err));
    return CK_OK;
}

/* YAML's own tags say what the text says already; others (!!python/object) want more than data. */
static bool plain_tag(const yaml_node_t *from) {
    const char *tag = (const char *)from->tag;
    return !tag || strcmp(tag, YAML_STR_TAG) == 0 || strcmp(tag, YAML_MAP_TAG) == 0 ||
           strcmp(tag, YAML_SEQ_TAG) == 0 || strcmp(tag, YAML_INT_TAG) == 0 ||
           strcmp(tag, YAML_FLOAT_TAG) == 0 || strcmp(tag, YAML_BOOL_TAG) == 0 ||
           strcmp(tag, YAML_NULL_TAG) == 0;
}

static ck_status build(building *b, int index, int depth, const ck_yaml_node **out, ck_error *err) {
    const yaml_node_t *from = yaml_document_get_node(b->from, index);
    if (depth > MAX_DEPTH) return fail_at(b->doc, from->start_mark, err, "nested too deeply");
    if (++b->nodes > MAX_NODES) return fail_at(b->doc, from->start_mark, err, "too many values");
    if (!plain_tag(from)) return fail_at(b->doc, from->start_mark, err, "a tag that is not YAML's");
    ck_yaml_node *node = ck_arena_alloc(&b->doc->arena, sizeof *node);
    if (!node) return ck_fail_memory(err, b->doc->name);
    node->line = (unsigned)from->start_mark.line + 1;
    node->column = (unsigned)from->start_mark.column + 1;
    *out = node;
    switch (from->type) {
    case YAML_MAPPING_NODE:
        node->kind = CK_YAML_MAP;
        return build_map(b, from, depth, node, err);
    case YAML_SEQUENCE_NODE:
        node->kind = CK_YAML_LIST;
        return build_list(b, from, depth, node, err);
    default:
        node->kind = CK_YAML_SCALAR;
        node->plain = from->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
        return build_text(b, from, &node->text, err);
    }
}

static ck_status parser_failed(const ck_yaml *doc, const yaml_parser_t *p, ck_error *err) {
    if (p->error == YAML_MEMORY_ERROR) return ck_fail_memory(err, doc->name);
    if (p->error == YAML_READER_ERROR)
        return ck_fail(err, CK_INPUT, "%s: byte %zu: %s", doc->name, p->problem_offset, p->problem);
    return fail_at(doc, p->problem_mark, err, p->problem ? p->problem : "not YAML");
}

/* The text must hold one document and nothing after it. */
static ck_status load(ck_yaml *doc, yaml_parser_t *parser, ck_error *err) {
    yaml_document_t first, second;
    if (!yaml_parser_load(parser, &first)) return parser_failed(doc, parser, err);
    building b = {.doc = doc, .from = &first};
    ck_status status = CK_OK;
    if (!yaml_document_get_root_node(&first))
        status = ck_fail(err, CK_INPUT, "%s: nothing in it", doc->name);
    if (status == CK_OK) status = build(&b, 1, 0, &doc->root, err);
    yaml_document_delete(&first);
    if (status != CK_OK) return status;
    if (!yaml_parser_load(parser, &second)) return parser_failed(doc, parser, err);
    const yaml_node_t *more = yaml_document_get_root_node(&second);
    if (more) status = fail_at(doc, more->start_mark, err, "a second document");
    yaml_document_delete(&second);
    return status;
}

ck_status ck_yaml_parse(const char *name, const char *text, size_t n, ck_yaml *doc, ck_error *err) {
    *doc = (ck_yaml){.name = name};
    if (n > MAX_BYTES) return ck_fail(err, CK_INPUT, "%s: larger than 1 MiB", name);
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser)) return ck_fail_memory(err, name);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, n);
    ck_status status = load(doc, &parser, err);
    yaml_parser_delete(&parser);
    if (status != CK_OK) ck_yaml_free(doc);
    return status;
}

#endif
