/* Three trees: what the file says, what the command line says, and what was given out; see
 * config.h. */
#include "distill/run/config.h"
#include "io/arena.h"
#include "io/cli.h"
#include "io/json.h"
#include "io/os.h"
#include "io/utf8.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_KEY = 256 };

struct ck_config {
    ck_config *whole;   /* itself, or what this is a part of */
    const char *prefix; /* of keys: "" or "method." */
    /* Only of the whole: */
    ck_json file;
    cJSON *sets;            /* by the command line */
    cJSON *used;            /* values given out */
    char *current, *folder; /* absolute: of the process, of the file */
    ck_arena arena;         /* of what is given out */
};

/* ---- Keys ---- */

static void full_key(const ck_config *c, const char *key, char full[MAX_KEY]) {
    snprintf(full, MAX_KEY, "%s%s", c->prefix, key);
}

/* The first field name of a key to name, "" if it has none or a long one; returns the rest of the
 * key, NULL after the last. */
static const char *next_field(const char *key, char name[MAX_KEY]) {
    size_t n = strcspn(key, ".");
    snprintf(name, MAX_KEY, "%.*s", n < MAX_KEY ? (int)n : 0, key);
    return key[n] ? key + n + 1 : NULL;
}

/* The value of a key, or NULL. */
static const cJSON *walk(const cJSON *node, const char *key) {
    char name[MAX_KEY];
    while (key && node) {
        key = next_field(key, name);
        node = cJSON_IsObject(node) ? cJSON_GetObjectItemCaseSensitive(node, name) : NULL;
    }
    return node;
}

/* What the command line or else the file gives; NULL: the default. */
static const cJSON *find(const ck_config *c, const char *key) {
    char full[MAX_KEY];
    full_key(c, key, full);
    const cJSON *node = walk(c->whole->sets, full);
    if (!node) node = walk(c->whole->file.root, full);
    return cJSON_IsNull(node) ? NULL : node;
}

bool ck_config_has(const ck_config *c, const char *key) {
    return find(c, key) != NULL;
}

bool ck_config_has_list(const ck_config *c, const char *key) {
    return cJSON_IsArray(find(c, key));
}

/* Puts value at a key and owns it from here on, also when it fails. Where there is something
 * already, that stays if keep is set. */
static ck_status put(ck_config *whole, cJSON *tree, const char *key, cJSON *value, bool keep,
                     ck_error *err) {
    char name[MAX_KEY];
    const char *rest = next_field(key, name);
    for (; rest; rest = next_field(rest, name)) {
        cJSON *inner = cJSON_GetObjectItemCaseSensitive(tree, name);
        if (!inner) inner = cJSON_AddObjectToObject(tree, name);
        if (inner && !cJSON_IsObject(inner)) {
            cJSON_Delete(value);
            return ck_fail(err, CK_USAGE, "the key '%s' leads into '%s', which is no object", key,
                           name);
        }
        tree = inner;
    }
    bool there = cJSON_GetObjectItemCaseSensitive(tree, name) != NULL;
    if (there && keep) {
        cJSON_Delete(value);
        return value ? CK_OK : ck_fail_memory(err, whole->file.name);
    }
    if (there) cJSON_DeleteItemFromObjectCaseSensitive(tree, name);
    if (cJSON_AddItemToObject(tree, name, value)) return CK_OK;
    cJSON_Delete(value);
    return ck_fail_memory(err, whole->file.name);
}

/* Notes what was given out. */
static ck_status note(ck_config *c, const char *key, cJSON *value, ck_error *err) {
    char full[MAX_KEY];
    full_key(c, key, full);
    return put(c->whole, c->whole->used, full, value, true, err);
}

/* ---- Failures ---- */

__attribute__((format(printf, 5, 0))) static ck_status
fail_list(const ck_config *c, const char *key, const cJSON *in_file, ck_error *err,
          const char *format, va_list args) {
    char full[MAX_KEY], message[512];
    full_key(c, key, full);
    vsnprintf(message, sizeof message, format, args);
    if (walk(c->whole->sets, full)) return ck_fail(err, CK_INPUT, "--set %s: %s", full, message);
    if (in_file) return ck_json_fail(&c->whole->file, in_file, err, "%s", message);
    return ck_fail(err, CK_INPUT, "%s: $.%s: %s", c->whole->file.name, full, message);
}

/* About a key, at this node of it if the file has it. */
__attribute__((format(printf, 5, 6))) static ck_status fail_at(const ck_config *c, const char *key,
                                                               const cJSON *in_file, ck_error *err,
                                                               const char *format, ...) {
    va_list args;
    va_start(args, format);
    ck_status status = fail_list(c, key, in_file, err, format, args);
    va_end(args);
    return status;
}

ck_status ck_config_fail(const ck_config *c, const char *key, ck_error *err, const char *format,
                         ...) {
    char full[MAX_KEY];
    full_key(c, key, full);
    va_list args;
    va_start(args, format);
    ck_status status = fail_list(c, key, walk(c->whole->file.root, full), err, format, args);
    va_end(args);
    return status;
}

/* ---- Loading ---- */

static ck_status add_set(ck_config *c, const char *set, ck_error *err) {
    size_t n = strcspn(set, "=");
    if (!set[n])
        return ck_fail(err, CK_USAGE, "--set %s: KEY=VALUE is expected, such as steps=100", set);
    if (ck_utf8_check((const unsigned char *)set, strlen(set)) != strlen(set))
        return ck_fail(err, CK_USAGE, "--set %.*s: not UTF-8", (int)n, set);
    bool named = n > 0 && n < MAX_KEY && set[n - 1] != '.' && set[0] != '.';
    for (size_t i = 1; i < n; i++) named = named && !(set[i] == '.' && set[i - 1] == '.');
    if (!named)
        return ck_fail(err, CK_USAGE,
                       "--set %s: field names with dots between them are expected before the '='",
                       set);
    const char *text = set + n + 1;
    ck_json doc;
    ck_error why;
    ck_status status = ck_json_parse("--set", text, strlen(text), &doc, &why);
    if (status == CK_MEMORY) return *err = why, status;
    cJSON *value = status == CK_OK ? doc.root : cJSON_CreateString(text);
    doc.root = NULL;
    ck_json_free(&doc);
    char key[MAX_KEY];
    snprintf(key, sizeof key, "%.*s", (int)n, set);
    return put(c, c->sets, key, value, false, err);
}

/* Absolute names of the current folder and the file's. */
static ck_status find_folders(ck_config *c, const char *path, ck_error *err) {
    char *here = getcwd(NULL, 0);
    if (!here) return ck_fail_errno(err, "cannot tell the current folder");
    c->current = ck_strdup(here);
    free(here);
    if (!c->current) return ck_fail_memory(err, path);
    const char *slash = strrchr(path, '/');
    int n = slash ? (int)(slash - path) : 0;
    c->folder = path[0] == '/' ? ck_sprintf("%.*s", n, path)
                : slash        ? ck_sprintf("%s/%.*s", c->current, n, path)
                               : ck_strdup(c->current);
    return c->folder ? CK_OK : ck_fail_memory(err, path);
}

static ck_status load(ck_config *c, const char *path, const char *const *sets, size_t count,
                      ck_error *err) {
    CK_TRY(ck_json_load(path, &c->file, err));
    if (!cJSON_IsObject(c->file.root))
        return ck_json_fail(&c->file, c->file.root, err, "must be an object");
    CK_TRY(find_folders(c, path, err));
    c->sets = cJSON_CreateObject();
    c->used = cJSON_CreateObject();
    if (!c->sets || !c->used) return ck_fail_memory(err, path);
    for (size_t i = 0; i < count; i++) CK_TRY(add_set(c, sets[i], err));
    return CK_OK;
}

ck_status ck_config_load(const char *path, const char *const *sets, size_t count, ck_config **out,
                         ck_error *err) {
    ck_config *c = ck_alloc(sizeof *c);
    if (!c) return ck_fail_memory(err, path);
    c->whole = c;
    c->prefix = "";
    ck_status status = load(c, path, sets, count, err);
    if (status == CK_OK)
        *out = c;
    else
        ck_config_free(c);
    return status;
}

void ck_config_free(ck_config *c) {
    if (!c) return;
    ck_json_free(&c->file);
    cJSON_Delete(c->sets);
    cJSON_Delete(c->used);
    free(c->current);
    free(c->folder);
    ck_arena_free(&c->arena);
    free(c);
}

ck_status ck_config_object(ck_config *c, const char *key, ck_config **part, ck_error *err) {
    char prefix[MAX_KEY];
    snprintf(prefix, sizeof prefix, "%s%s.", c->prefix, key);
    ck_config *made = ck_arena_alloc(&c->whole->arena, sizeof *made);
    char *copy = ck_arena_strdup(&c->whole->arena, prefix);
    if (!made || !copy) return ck_fail_memory(err, c->whole->file.name);
    *made = (ck_config){.whole = c->whole, .prefix = copy};
    *part = made;
    return note(c, key, cJSON_CreateObject(), err);
}

/* ---- Single values ---- */

/* The shortest text that is this number; cJSON's own may be a bit off. What is not finite is null.
 */
static cJSON *number_node(double value) {
    if (!isfinite(value)) return cJSON_CreateNull();
    char text[32];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    return cJSON_CreateRaw(text);
}

static cJSON *text_node(const char *text) {
    return text ? cJSON_CreateString(text) : cJSON_CreateNull();
}

static ck_status read_number(const ck_config *c, const char *key, const cJSON *node, double least,
                             double most, double *value, ck_error *err) {
    if (!cJSON_IsNumber(node)) return fail_at(c, key, node, err, "must be a number");
    *value = node->valuedouble;
    if (*value >= least && *value <= most) return CK_OK;
    if (isinf(most)) return fail_at(c, key, node, err, "must be at least %.16g", least);
    if (isinf(least)) return fail_at(c, key, node, err, "must be at most %.16g", most);
    return fail_at(c, key, node, err, "must be between %.16g and %.16g", least, most);
}

/* The default, which may be out of range, is as good in the file: print writes it there. */
static bool is_number(const cJSON *node, double fallback) {
    return cJSON_IsNumber(node) && node->valuedouble == fallback;
}

ck_status ck_config_number(ck_config *c, const char *key, double fallback, double least,
                           double most, double *value, ck_error *err) {
    const cJSON *node = find(c, key);
    *value = fallback;
    if (node && !is_number(node, fallback))
        CK_TRY(read_number(c, key, node, least, most, value, err));
    return note(c, key, number_node(*value), err);
}

ck_status ck_config_count(ck_config *c, const char *key, uint64_t fallback, uint64_t least,
                          uint64_t most, uint64_t *value, ck_error *err) {
    const cJSON *node = find(c, key);
    *value = fallback;
    if (node && !is_number(node, (double)fallback)) {
        double number = 0;
        if (!cJSON_IsNumber(node) || node->valuedouble != floor(node->valuedouble))
            return fail_at(c, key, node, err, "must be a whole number");
        CK_TRY(
            read_number(c, key, node, (double)least, fmin((double)most, 0x1p53 - 1), &number, err));
        *value = (uint64_t)number;
    }
    return note(c, key, number_node((double)*value), err);
}

ck_status ck_config_bool(ck_config *c, const char *key, bool fallback, bool *value, ck_error *err) {
    const cJSON *node = find(c, key);
    if (node && !cJSON_IsBool(node)) return fail_at(c, key, node, err, "must be true or false");
    *value = node ? cJSON_IsTrue(node) : fallback;
    return note(c, key, cJSON_CreateBool(*value), err);
}

ck_status ck_config_text(ck_config *c, const char *key, const char *fallback, const char **value,
                         ck_error *err) {
    const cJSON *node = find(c, key);
    if (node && !cJSON_IsString(node)) return fail_at(c, key, node, err, "must be a text");
    *value = node ? node->valuestring : fallback;
    return note(c, key, text_node(*value), err);
}

ck_status ck_config_decide(ck_config *c, const char *key, const char *value, ck_error *err) {
    char full[MAX_KEY];
    full_key(c, key, full);
    return put(c->whole, c->whole->used, full, text_node(value), false, err);
}

/* The word at a place of "a|b|c", not ended by NUL, and its size; NULL after the last. */
static const char *word_at(const char *words, size_t place, size_t *size) {
    for (; place > 0 && words; place--) {
        words = strchr(words, '|');
        if (words) words++;
    }
    if (words) *size = strcspn(words, "|");
    return words;
}

ck_status ck_config_choice(ck_config *c, const char *key, const char *words, size_t fallback,
                           size_t *value, ck_error *err) {
    const cJSON *node = find(c, key);
    const char *word;
    size_t n = 0, place = node ? 0 : fallback;
    if (node && !cJSON_IsString(node)) return fail_at(c, key, node, err, "must be a text");
    while ((word = word_at(words, place, &n)) && node &&
           (strlen(node->valuestring) != n || memcmp(word, node->valuestring, n) != 0))
        place++;
    if (!word) return fail_at(c, key, node, err, "must be one of %s", words);
    *value = place;
    char *copy = ck_arena_strndup(&c->whole->arena, word, n);
    if (!copy) return ck_fail_memory(err, c->whole->file.name);
    return note(c, key, text_node(copy), err);
}

ck_status ck_config_path(ck_config *c, const char *key, const char **value, ck_error *err) {
    const char *text;
    const cJSON *node = find(c, key);
    *value = NULL;
    if (!node) return note(c, key, text_node(NULL), err);
    if (!cJSON_IsString(node)) return fail_at(c, key, node, err, "must be a path");
    text = node->valuestring;
    if (!*text) return fail_at(c, key, node, err, "must be a path, is empty");
    if (text[0] != '/') {
        char full[MAX_KEY];
        full_key(c, key, full);
        bool set = walk(c->whole->sets, full) != NULL;
        char *joined = ck_sprintf("%s/%s", set ? c->whole->current : c->whole->folder, text);
        text = joined ? ck_arena_strdup(&c->whole->arena, joined) : NULL;
        free(joined);
        if (!text) return ck_fail_memory(err, c->whole->file.name);
    }
    *value = text;
    return note(c, key, text_node(text), err);
}

/* ---- Lists ---- */

/* Adds an item, owned from here on, to a list; frees the list and returns NULL when it cannot. */
static cJSON *add_item(cJSON *list, cJSON *item) {
    if (list && item && cJSON_AddItemToArray(list, item)) return list;
    cJSON_Delete(item);
    cJSON_Delete(list);
    return NULL;
}

/* Room for the items of a list. */
static ck_status list_room(ck_config *c, const char *key, const cJSON *node, size_t item_size,
                           void *items, size_t *count, ck_error *err) {
    if (!cJSON_IsArray(node)) return fail_at(c, key, node, err, "must be a list");
    *count = (size_t)cJSON_GetArraySize(node);
    void *made = ck_arena_alloc(&c->whole->arena, *count * item_size);
    memcpy(items, &made, sizeof made);
    return made ? CK_OK : ck_fail_memory(err, c->whole->file.name);
}

ck_status ck_config_numbers(ck_config *c, const char *key, const double *fallback,
                            size_t fallback_count, double least, double most, const double **values,
                            size_t *count, ck_error *err) {
    const cJSON *node = find(c, key), *item;
    *values = fallback;
    *count = fallback_count;
    if (node) {
        double *made;
        CK_TRY(list_room(c, key, node, sizeof *made, &made, count, err));
        *values = made;
        cJSON_ArrayForEach(item, node) {
            CK_TRY(read_number(c, key, item, least, most, made++, err));
        }
    }
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < *count && list; i++) list = add_item(list, number_node((*values)[i]));
    return note(c, key, list, err);
}

ck_status ck_config_texts(ck_config *c, const char *key, const char *const *fallback,
                          size_t fallback_count, const char *const **values, size_t *count,
                          ck_error *err) {
    const cJSON *node = find(c, key), *item;
    *values = fallback;
    *count = fallback_count;
    if (node) {
        const char **made;
        CK_TRY(list_room(c, key, node, sizeof *made, &made, count, err));
        *values = made;
        cJSON_ArrayForEach(item, node) {
            if (!cJSON_IsString(item)) return fail_at(c, key, item, err, "must be a text");
            *made++ = item->valuestring;
        }
    }
    cJSON *list = cJSON_CreateArray();
    for (size_t i = 0; i < *count && list; i++) list = add_item(list, text_node((*values)[i]));
    return note(c, key, list, err);
}

/* ---- The end ---- */

static ck_status fail_unknown(const ck_config *c, const char *key, const cJSON *field,
                              const cJSON *used, ck_error *err) {
    size_t count = 0;
    const char **known = ck_alloc_array((size_t)cJSON_GetArraySize(used), sizeof *known);
    if (!known) return ck_fail_memory(err, c->file.name);
    for (const cJSON *node = used->child; node; node = node->next) known[count++] = node->string;
    const char *near = ck_cli_nearest(field->string, known, count);
    char text[400] = "";
    for (size_t i = 0, n = 0; i < count && !near && n < sizeof text; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, " %s", known[i]);
    free(known);
    if (near) return fail_at(c, key, field, err, "unknown field; did you mean \"%s\"?", near);
    return fail_at(c, key, field, err, "unknown field; known are:%s", text);
}

/* Every field of a tree must be among those used; key is the object's, with room for MAX_KEY. */
static ck_status check_tree(const ck_config *c, const cJSON *object, const cJSON *used, char *key,
                            ck_error *err) {
    size_t n = strlen(key);
    for (const cJSON *field = object->child; field; field = field->next) {
        snprintf(key + n, MAX_KEY - n, "%s%s", n ? "." : "", field->string);
        const cJSON *known = cJSON_GetObjectItemCaseSensitive(used, field->string);
        if (!known) return fail_unknown(c, key, field, used, err);
        if (cJSON_IsObject(known) && !cJSON_IsNull(field)) {
            if (!cJSON_IsObject(field)) return fail_at(c, key, field, err, "must be an object");
            CK_TRY(check_tree(c, field, known, key, err));
        }
        key[n] = 0;
    }
    return CK_OK;
}

ck_status ck_config_check(const ck_config *c, ck_error *err) {
    char key[MAX_KEY] = "";
    CK_TRY(check_tree(c->whole, c->whole->sets, c->whole->used, key, err));
    return check_tree(c->whole, c->whole->file.root, c->whole->used, key, err);
}

char *ck_config_print(const ck_config *c) {
    char *text = cJSON_Print(c->whole->used);
    char *line = text ? ck_sprintf("%s\n", text) : NULL;
    free(text);
    return line;
}
