/* cJSON builds the tree; a scan of the text before it refuses what cJSON would let pass, and the
 * same scan later finds the line of a node: the k-th value of the text is the k-th node of the tree
 * in depth-first order. */
#include "io/json.h"
#include "io/cli.h"
#include "io/os.h"
#include "io/utf8.h"

#include <ctype.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Values: the tree takes 30 times the memory of a text that consists of zeros and commas.
 * Numbers: cJSON reads no more of one. */
enum { MAX_SIZE = 16 << 20, MAX_DEPTH = 64, MAX_VALUES = 1 << 20, MAX_NUMBER = 63 };

/* ---- The scan ---- */

typedef struct scan {
    const char *text;
    size_t n, at;
    size_t values;    /* met so far */
    size_t wanted;    /* stop at this value (counted from 1); 0: none */
    size_t wanted_at; /* where it begins */
    const char *problem;
} scan;

static bool fail_scan(scan *s, const char *problem) {
    if (!s->problem) s->problem = problem;
    return false;
}

static char peek(scan *s) {
    while (s->at < s->n && strchr(" \t\r\n", s->text[s->at]) && s->text[s->at]) s->at++;
    return s->at < s->n ? s->text[s->at] : 0;
}

/* "\uXXXX" as a number; false, and not moved, where there is none. */
static bool scan_unit(scan *s, unsigned *unit) {
    if (s->n - s->at < 6 || memcmp(s->text + s->at, "\\u", 2) != 0) return false;
    *unit = 0;
    for (size_t i = s->at + 2; i < s->at + 6; i++) {
        char c = s->text[i];
        if (!isxdigit((unsigned char)c)) return false;
        *unit = *unit * 16 + (unsigned)(c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
    }
    s->at += 6;
    return true;
}

static bool scan_escape(scan *s) {
    unsigned unit, low;
    if (s->n - s->at < 2) return fail_scan(s, "the text ends within a string");
    char letter = s->text[s->at + 1];
    if (letter && strchr("\"\\/bfnrt", letter)) {
        s->at += 2;
        return true;
    }
    if (!scan_unit(s, &unit)) return fail_scan(s, "a bad escape in a string");
    /* cJSON ends its strings at a NUL, and so would see another name than people do. */
    if (unit == 0) return fail_scan(s, "NUL character in a string");
    bool high = (unit & 0xfc00) == 0xd800, alone = (unit & 0xfc00) == 0xdc00;
    if (high) alone = !scan_unit(s, &low) || (low & 0xfc00) != 0xdc00;
    return !alone || fail_scan(s, "half of a surrogate pair in a string");
}

static bool scan_string(scan *s) {
    for (s->at++; s->at < s->n;) {
        unsigned char c = (unsigned char)s->text[s->at];
        if (c < 0x20) return fail_scan(s, "line break or control character in a string");
        if (c == '\\') {
            if (!scan_escape(s)) return false;
            continue;
        }
        s->at++;
        if (c == '"') return true;
    }
    return fail_scan(s, "the text ends within a string");
}

static bool scan_digits(scan *s) {
    size_t first = s->at;
    while (s->at < s->n && s->text[s->at] >= '0' && s->text[s->at] <= '9') s->at++;
    return s->at > first;
}

static bool scan_number(scan *s) {
    size_t start = s->at;
    if (s->text[s->at] == '-') s->at++;
    size_t first = s->at;
    bool ok = scan_digits(s) && !(s->at - first > 1 && s->text[first] == '0');
    if (ok && s->at < s->n && s->text[s->at] == '.') {
        s->at++;
        ok = scan_digits(s);
    }
    if (ok && s->at < s->n && (s->text[s->at] | 32) == 'e') {
        s->at++;
        if (s->at < s->n && (s->text[s->at] == '+' || s->text[s->at] == '-')) s->at++;
        ok = scan_digits(s);
    }
    if (!ok) return fail_scan(s, "not a JSON number");
    if (s->at - start > MAX_NUMBER) return fail_scan(s, "number of more than 63 characters");
    return isfinite(strtod(s->text + start, NULL)) || fail_scan(s, "number too large");
}

static bool scan_word(scan *s) {
    static const char *const words[] = {"true", "false", "null"};
    for (int i = 0; i < 3; i++) {
        size_t len = strlen(words[i]);
        if (s->n - s->at >= len && memcmp(s->text + s->at, words[i], len) == 0) {
            s->at += len;
            return true;
        }
    }
    return fail_scan(s, "not a JSON value");
}

static bool scan_value(scan *s, int depth) {
    char c = peek(s);
    if (++s->values == s->wanted) s->wanted_at = s->at;
    if (s->values > MAX_VALUES) return fail_scan(s, "too many values");
    if (s->at >= s->n) return fail_scan(s, "the text ends too early");
    if (c == '"') return scan_string(s);
    if (c == '-' || (c >= '0' && c <= '9')) return scan_number(s);
    if (c != '{' && c != '[') return scan_word(s);
    if (depth == MAX_DEPTH) return fail_scan(s, "nested too deeply");
    char end = c == '{' ? '}' : ']';
    s->at++;
    if (peek(s) == end) {
        s->at++;
        return true;
    }
    for (;;) {
        if (c == '{') {
            if (peek(s) != '"') return fail_scan(s, "a field name in quotes expected");
            if (!scan_string(s)) return false;
            if (peek(s) != ':') return fail_scan(s, "':' expected");
            s->at++;
        }
        if (!scan_value(s, depth + 1)) return false;
        char next = peek(s);
        if (next != ',' && next != end)
            return fail_scan(s, c == '{' ? "',' or '}' expected" : "',' or ']' expected");
        s->at++;
        if (next == end) return true;
    }
}

static size_t line_of(const char *text, size_t at) {
    size_t line = 1;
    for (size_t i = 0; i < at; i++) line += text[i] == '\n';
    return line;
}

static ck_status check_text(const char *name, const char *text, size_t n, ck_error *err) {
    if (n > MAX_SIZE)
        return ck_fail(err, CK_INPUT, "%s: %zu bytes, more than the %d that are read", name, n,
                       MAX_SIZE);
    size_t bad = ck_utf8_check((const unsigned char *)text, n);
    if (bad != n) return ck_fail(err, CK_INPUT, "%s:%zu: not UTF-8", name, line_of(text, bad));
    if (n >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0)
        return ck_fail(err, CK_INPUT, "%s:1: begins with a byte order mark: save it without", name);
    scan s = {.text = text, .n = n};
    if (scan_value(&s, 0)) {
        peek(&s);
        if (s.at == n) return CK_OK;
        s.problem = "something follows the document";
    }
    return ck_fail(err, CK_INPUT, "%s:%zu: %s", name, line_of(text, s.at), s.problem);
}

/* ---- Documents ---- */

static void *hook_malloc(size_t n) {
    return ck_alloc(n);
}

static void set_hooks(void) {
    cJSON_Hooks hooks = {.malloc_fn = hook_malloc, .free_fn = free};
    cJSON_InitHooks(&hooks);
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const cJSON *const *)a)->string, (*(const cJSON *const *)b)->string);
}

static bool comes_after(const cJSON *a, const cJSON *b) {
    for (; b; b = b->next)
        if (b == a) return true;
    return false;
}

/* The names are sorted: an index of shards has thousands, a hostile one a million. */
static ck_status check_names(const ck_json *doc, const cJSON *object, ck_error *err) {
    size_t count = (size_t)cJSON_GetArraySize(object), i = 0;
    const cJSON **fields = ck_alloc_array(count, sizeof *fields);
    if (!fields) return ck_fail_memory(err, doc->name);
    for (const cJSON *field = object->child; field; field = field->next) fields[i++] = field;
    qsort(fields, count, sizeof *fields, by_name);
    ck_status status = CK_OK;
    for (i = 1; i < count && status == CK_OK; i++) {
        const cJSON *a = fields[i - 1], *b = fields[i];
        if (strcmp(a->string, b->string) == 0)
            status = ck_json_fail(doc, comes_after(a, b) ? a : b, err,
                                  "the field '%s' is there twice", a->string);
    }
    free(fields);
    return status;
}

static ck_status check_all_names(const ck_json *doc, const cJSON *node, ck_error *err) {
    if (cJSON_IsObject(node)) CK_TRY(check_names(doc, node, err));
    for (const cJSON *child = node->child; child; child = child->next)
        CK_TRY(check_all_names(doc, child, err));
    return CK_OK;
}

ck_status ck_json_parse(const char *name, const char *text, size_t n, ck_json *doc, ck_error *err) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, set_hooks);
    *doc = (ck_json){.name = ck_strdup(name), .text = ck_strndup(text, n)};
    /* The copy ends with a NUL, which strtod needs. */
    ck_status status =
        doc->name && doc->text ? check_text(name, doc->text, n, err) : ck_fail_memory(err, name);
    if (status == CK_OK) {
        doc->root = cJSON_ParseWithLength(doc->text, n + 1);
        /* The text is known to be good: only memory can have been missing. */
        status = doc->root ? check_all_names(doc, doc->root, err) : ck_fail_memory(err, name);
    }
    if (status != CK_OK) ck_json_free(doc);
    return status;
}

ck_status ck_json_load(const char *path, ck_json *doc, ck_error *err) {
    char *text;
    size_t n;
    *doc = (ck_json){0};
    CK_TRY(ck_read_file(path, MAX_SIZE, &text, &n, err));
    ck_status status = ck_json_parse(path, text, n, doc, err);
    free(text);
    return status;
}

void ck_json_free(ck_json *doc) {
    cJSON_Delete(doc->root);
    free(doc->text);
    free(doc->name);
    *doc = (ck_json){0};
}

/* Counts nodes in document order until `node`; writes its path. False while it is not found. */
static bool locate(const cJSON *at, const cJSON *node, size_t *number, char *path, size_t size) {
    ++*number;
    if (at == node) return true;
    size_t used = strlen(path), index = 0;
    for (const cJSON *child = at->child; child; child = child->next, index++) {
        if (cJSON_IsObject(at))
            snprintf(path + used, size - used, ".%s", child->string);
        else
            snprintf(path + used, size - used, "[%zu]", index);
        if (locate(child, node, number, path, size)) return true;
        path[used] = 0;
    }
    return false;
}

ck_status ck_json_fail(const ck_json *doc, const cJSON *node, ck_error *err, const char *format,
                       ...) {
    char path[256] = "$";
    size_t number = 0;
    locate(doc->root, node, &number, path, sizeof path);
    scan s = {.text = doc->text, .n = strlen(doc->text), .wanted = number};
    scan_value(&s, 0);
    char message[512];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return ck_fail(err, CK_INPUT, "%s:%zu: %s: %s", doc->name, line_of(doc->text, s.wanted_at),
                   path, message);
}

/* ---- Fields ---- */

enum { MAX_FIELDS = 64 };

ck_status ck_json_only(const ck_json *doc, const cJSON *node, const char *fields, ck_error *err) {
    if (!cJSON_IsObject(node)) return ck_json_fail(doc, node, err, "must be an object");
    char words[1024];
    const char *known[MAX_FIELDS];
    size_t count = 0;
    snprintf(words, sizeof words, "%s", fields);
    char *rest = NULL;
    for (char *word = strtok_r(words, " ", &rest); word && count < MAX_FIELDS;
         word = strtok_r(NULL, " ", &rest))
        known[count++] = word;
    for (const cJSON *field = node->child; field; field = field->next) {
        size_t i = 0;
        while (i < count && strcmp(known[i], field->string) != 0) i++;
        if (i < count) continue;
        const char *near = ck_cli_nearest(field->string, known, count);
        if (near) return ck_json_fail(doc, field, err, "unknown field; did you mean \"%s\"?", near);
        return ck_json_fail(doc, field, err, "unknown field; known are: %s", fields);
    }
    return CK_OK;
}

ck_status ck_json_number(const ck_json *doc, const cJSON *object, const char *field, double *value,
                         ck_error *err) {
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(object, field);
    if (!node) return CK_OK;
    if (!cJSON_IsNumber(node)) return ck_json_fail(doc, node, err, "must be a number");
    *value = node->valuedouble;
    return CK_OK;
}

ck_status ck_json_count(const ck_json *doc, const cJSON *object, const char *field, uint64_t *value,
                        ck_error *err) {
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(object, field);
    if (!node) return CK_OK;
    double number = cJSON_IsNumber(node) ? node->valuedouble : -1;
    if (number < 0 || number >= 0x1p53 || number != floor(number))
        return ck_json_fail(doc, node, err, "must be a whole number below 2^53");
    *value = (uint64_t)number;
    return CK_OK;
}

ck_status ck_json_text(const ck_json *doc, const cJSON *object, const char *field,
                       const char **value, ck_error *err) {
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(object, field);
    if (!node) return CK_OK;
    if (!cJSON_IsString(node)) return ck_json_fail(doc, node, err, "must be a text in quotes");
    *value = node->valuestring;
    return CK_OK;
}

ck_status ck_json_bool(const ck_json *doc, const cJSON *object, const char *field, bool *value,
                       ck_error *err) {
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(object, field);
    if (!node) return CK_OK;
    if (!cJSON_IsBool(node)) return ck_json_fail(doc, node, err, "must be true or false");
    *value = cJSON_IsTrue(node);
    return CK_OK;
}
