/* safetensors: u64 LE header length, JSON header, data that tile the rest of the file.
 *
 * The reader is stricter than the reference where that one lets an attacker hide something: a name
 * or key that occurs twice, a tensor description that is not an object, and a name with a NUL are
 * refused. Members of a tensor's description that are not known are checked as JSON and ignored.
 */
#include "io/safetensors.h"
#include "io/os.h"
#include "io/reader_int.h"
#include "io/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { LENGTH_BYTES = 8, MAX_DEPTH = 128 };

/* ---- Reading ---- */

typedef struct parser {
    ck_reader *reader;
    char *text; /* the header; strings are unescaped in place */
    size_t n, at;
    uint64_t file_size;
    uint64_t *dimensions; /* scratch for shapes */
    size_t dimension_capacity;
    ck_error *err;
} parser;

typedef struct text {
    char *start;
    size_t length;
} text;

/* Every JSON error names the byte of the file where it was found. */
static ck_status fail_at(parser *p, size_t at, const char *what) {
    return ck_fail(p->err, CK_INPUT, "%s: invalid header at offset %zu: %s", p->reader->path,
                   at + LENGTH_BYTES, what);
}

static void skip_space(parser *p) {
    while (p->at < p->n && strchr(" \t\n\r", p->text[p->at]) && p->text[p->at]) p->at++;
}

/* Skips white space; true and past the character if it is the next one. */
static bool take(parser *p, char c) {
    skip_space(p);
    if (p->at >= p->n || p->text[p->at] != c) return false;
    p->at++;
    return true;
}

static ck_status expect(parser *p, char c) {
    if (take(p, c)) return CK_OK;
    char what[] = "'?' expected";
    what[1] = c;
    return fail_at(p, p->at, p->at >= p->n ? "the header ends too early" : what);
}

static ck_status hex4(parser *p, uint32_t *value) {
    *value = 0;
    for (int i = 0; i < 4; i++, p->at++) {
        char c = p->at < p->n ? p->text[p->at] : 0;
        uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                         : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                                : 16;
        if (digit == 16) return fail_at(p, p->at, "\\u takes four hex digits");
        *value = *value * 16 + digit;
    }
    return CK_OK;
}

/* The code point after "\u", which may need a second escape. */
static ck_status escaped_code_point(parser *p, uint32_t *code) {
    size_t start = p->at;
    CK_TRY(hex4(p, code));
    if (*code < 0xD800 || *code > 0xDFFF) return CK_OK;
    uint32_t low = 0;
    if (*code <= 0xDBFF && p->n - p->at >= 6 && memcmp(p->text + p->at, "\\u", 2) == 0) {
        p->at += 2;
        CK_TRY(hex4(p, &low));
    }
    if (low < 0xDC00 || low > 0xDFFF) return fail_at(p, start, "half of a surrogate pair");
    *code = 0x10000 + ((*code - 0xD800) << 10) + (low - 0xDC00);
    return CK_OK;
}

static ck_status parse_string(parser *p, text *s) {
    CK_TRY(expect(p, '"'));
    char *out = p->text + p->at;
    *s = (text){out, 0};
    for (;;) {
        if (p->at >= p->n) return fail_at(p, p->at, "the header ends within a string");
        unsigned char c = (unsigned char)p->text[p->at];
        if (c < 0x20) return fail_at(p, p->at, "control character in a string");
        p->at++;
        if (c == '"') break;
        if (c != '\\') {
            *out++ = (char)c;
            continue;
        }
        static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
        char escape = p->at < p->n ? p->text[p->at] : 0;
        const char *known = escape ? strchr(names, escape) : NULL;
        if (known) {
            *out++ = values[known - names];
            p->at++;
        } else if (escape == 'u') {
            uint32_t code;
            p->at++;
            CK_TRY(escaped_code_point(p, &code));
            if (code == 0) return fail_at(p, p->at, "NUL character in a string");
            out += ck_utf8_encode(code, out); /* never longer than its escape */
        } else {
            return fail_at(p, p->at, "unknown escape in a string");
        }
    }
    s->length = (size_t)(out - s->start);
    return CK_OK;
}

/* A plain unsigned integer: no sign, fraction, exponent or leading zero. */
static ck_status parse_integer(parser *p, uint64_t *value) {
    skip_space(p);
    size_t start = p->at;
    *value = 0;
    while (p->at < p->n && p->text[p->at] >= '0' && p->text[p->at] <= '9') {
        uint64_t digit = (uint64_t)(p->text[p->at] - '0');
        if (__builtin_mul_overflow(*value, 10, value) ||
            __builtin_add_overflow(*value, digit, value))
            return fail_at(p, start, "number larger than 64 bits");
        p->at++;
    }
    bool ends = p->at >= p->n || !strchr("+-.eE0123456789", p->text[p->at]);
    bool leading_zero = p->at - start > 1 && p->text[start] == '0';
    if (p->at == start || !ends || leading_zero)
        return fail_at(p, start, "not a plain unsigned integer");
    return CK_OK;
}

/* Any JSON value, checked and ignored. */
static ck_status skip_number(parser *p) {
    size_t start = p->at;
    if (p->at < p->n && p->text[p->at] == '-') p->at++;
    size_t digits = p->at;
    for (int part = 0; part < 3; part++) {
        size_t first = p->at;
        while (p->at < p->n && p->text[p->at] >= '0' && p->text[p->at] <= '9') p->at++;
        if (p->at == first) return fail_at(p, start, "not a JSON value");
        char c = p->at < p->n ? p->text[p->at] : 0;
        if (part == 0 && p->at - digits > 1 && p->text[digits] == '0')
            return fail_at(p, start, "not a JSON number");
        if (c == '.' && part == 0) {
            p->at++;
        } else if ((c == 'e' || c == 'E') && part < 2) {
            p->at++;
            if (p->at < p->n && (p->text[p->at] == '+' || p->text[p->at] == '-')) p->at++;
            part = 1;
        } else {
            return CK_OK;
        }
    }
    return CK_OK;
}

static ck_status skip_value(parser *p, int depth) {
    text ignored;
    if (depth > MAX_DEPTH) return fail_at(p, p->at, "nested too deeply");
    skip_space(p);
    if (p->at >= p->n) return fail_at(p, p->at, "the header ends too early");
    char c = p->text[p->at];
    if (c == '"') return parse_string(p, &ignored);
    if (c == '{' || c == '[') {
        char end = c == '{' ? '}' : ']';
        p->at++;
        if (take(p, end)) return CK_OK;
        do {
            if (c == '{') {
                skip_space(p);
                CK_TRY(parse_string(p, &ignored));
                CK_TRY(expect(p, ':'));
            }
            CK_TRY(skip_value(p, depth + 1));
        } while (take(p, ','));
        return expect(p, end);
    }
    static const char *const words[] = {"true", "false", "null"};
    for (int i = 0; i < 3; i++) {
        size_t len = strlen(words[i]);
        if (p->n - p->at >= len && memcmp(p->text + p->at, words[i], len) == 0) {
            p->at += len;
            return CK_OK;
        }
    }
    return skip_number(p);
}

static bool is(text s, const char *word) {
    return s.length == strlen(word) && memcmp(s.start, word, s.length) == 0;
}

static int by_key(const void *a, const void *b) {
    return strcmp(((const ck_meta *)a)->key, ((const ck_meta *)b)->key);
}

static ck_status check_metadata_keys(parser *p) {
    const ck_reader *r = p->reader;
    ck_meta *sorted = ck_alloc_array(r->meta_count, sizeof *sorted);
    if (!sorted) return ck_fail_memory(p->err, r->path);
    if (r->meta_count) memcpy(sorted, r->meta, r->meta_count * sizeof *sorted);
    qsort(sorted, r->meta_count, sizeof *sorted, by_key);
    ck_status status = CK_OK;
    for (size_t i = 1; i < r->meta_count && status == CK_OK; i++)
        if (strcmp(sorted[i - 1].key, sorted[i].key) == 0)
            status = ck_fail(p->err, CK_INPUT, "%s: metadata key '%s' is there twice", r->path,
                             sorted[i].key);
    free(sorted);
    return status;
}

static ck_status parse_metadata(parser *p) {
    skip_space(p);
    if (p->n - p->at >= 4 && memcmp(p->text + p->at, "null", 4) == 0) {
        p->at += 4;
        return CK_OK;
    }
    if (!take(p, '{')) return fail_at(p, p->at, "__metadata__ must be an object of strings");
    if (take(p, '}')) return CK_OK;
    do {
        text key, value;
        skip_space(p);
        CK_TRY(parse_string(p, &key));
        CK_TRY(expect(p, ':'));
        skip_space(p);
        if (p->at < p->n && p->text[p->at] != '"')
            return fail_at(p, p->at, "a value in __metadata__ must be a string");
        CK_TRY(parse_string(p, &value));
        CK_TRY(ck_reader__add_meta(p->reader, key.start, key.length, value.start, value.length,
                                   p->err));
    } while (take(p, ','));
    CK_TRY(expect(p, '}'));
    return check_metadata_keys(p);
}

static ck_status parse_shape(parser *p, size_t *rank) {
    *rank = 0;
    CK_TRY(expect(p, '['));
    if (take(p, ']')) return CK_OK;
    do {
        uint64_t *grown =
            ck_grow(p->dimensions, *rank, &p->dimension_capacity, sizeof *p->dimensions);
        if (!grown) return ck_fail_memory(p->err, p->reader->path);
        p->dimensions = grown;
        CK_TRY(parse_integer(p, &p->dimensions[(*rank)++]));
    } while (take(p, ','));
    return expect(p, ']');
}

static ck_status add_tensor(parser *p, text name, ck_dtype dtype, size_t rank,
                            const uint64_t range[2]) {
    ck_reader *r = p->reader;
    uint64_t data = LENGTH_BYTES + p->n, size = p->file_size - data;
    if (range[1] < range[0])
        return ck_fail(p->err, CK_INPUT,
                       "%s: tensor '%.*s': data_offsets end (%llu) before they begin (%llu)",
                       r->path, (int)name.length, name.start, (unsigned long long)range[1],
                       (unsigned long long)range[0]);
    if (range[1] > size)
        return ck_fail(p->err, CK_INPUT,
                       "%s: tensor '%.*s': its data end at offset %llu of the data section, which "
                       "has only %llu bytes: the file is cut off (an incomplete download?)",
                       r->path, (int)name.length, name.start, (unsigned long long)range[1],
                       (unsigned long long)size);
    CK_TRY(ck_reader__add(r, name.start, name.length, dtype, rank, p->dimensions, data + range[0],
                          p->err));
    const ck_tensor *t = &r->tensors[r->count - 1];
    if (t->nbytes != range[1] - range[0])
        return ck_fail(p->err, CK_INPUT,
                       "%s: tensor '%s' at offset %llu: %llu bytes, but its shape and type %s make "
                       "%llu",
                       r->path, t->name, (unsigned long long)t->offset,
                       (unsigned long long)(range[1] - range[0]), ck_dtype_name(dtype),
                       (unsigned long long)t->nbytes);
    return CK_OK;
}

static ck_status parse_tensor(parser *p, text name) {
    enum { DTYPE = 1, SHAPE = 2, OFFSETS = 4 };
    unsigned seen = 0;
    ck_dtype dtype = CK_DTYPE_COUNT;
    size_t rank = 0, start = p->at;
    uint64_t range[2] = {0, 0};
    if (!take(p, '{')) return fail_at(p, p->at, "a tensor must be described by an object");
    if (!take(p, '}')) {
        do {
            text key;
            skip_space(p);
            size_t key_at = p->at;
            CK_TRY(parse_string(p, &key));
            CK_TRY(expect(p, ':'));
            unsigned field = is(key, "dtype")          ? DTYPE
                             : is(key, "shape")        ? SHAPE
                             : is(key, "data_offsets") ? OFFSETS
                                                       : 0;
            if (seen & field) return fail_at(p, key_at, "this field is there twice");
            seen |= field;
            if (field == DTYPE) {
                text word;
                skip_space(p);
                size_t at = p->at;
                CK_TRY(parse_string(p, &word));
                dtype = ck_dtype_from_name(word.start, word.length);
                if (dtype == CK_DTYPE_COUNT) return fail_at(p, at, "unknown dtype");
            } else if (field == SHAPE) {
                CK_TRY(parse_shape(p, &rank));
            } else if (field == OFFSETS) {
                CK_TRY(expect(p, '['));
                CK_TRY(parse_integer(p, &range[0]));
                CK_TRY(expect(p, ','));
                CK_TRY(parse_integer(p, &range[1]));
                CK_TRY(expect(p, ']'));
            } else {
                CK_TRY(skip_value(p, 2));
            }
        } while (take(p, ','));
        CK_TRY(expect(p, '}'));
    }
    if (seen != (DTYPE | SHAPE | OFFSETS))
        return fail_at(p, start, "a tensor needs dtype, shape and data_offsets");
    return add_tensor(p, name, dtype, rank, range);
}

static ck_status parse_header(parser *p) {
    bool metadata = false;
    if (!take(p, '{')) return fail_at(p, p->at, "must be a JSON object");
    if (!take(p, '}')) {
        do {
            text name;
            skip_space(p);
            size_t at = p->at;
            CK_TRY(parse_string(p, &name));
            CK_TRY(expect(p, ':'));
            if (!is(name, "__metadata__")) {
                CK_TRY(parse_tensor(p, name));
                continue;
            }
            if (metadata) return fail_at(p, at, "__metadata__ is there twice");
            metadata = true;
            CK_TRY(parse_metadata(p));
        } while (take(p, ','));
        CK_TRY(expect(p, '}'));
    }
    skip_space(p);
    return p->at == p->n ? CK_OK : fail_at(p, p->at, "something follows the JSON object");
}

/* The tensors, sorted by offset, must tile the data section: no hole, no overlap, nothing behind.
 */
static ck_status check_tiling(const parser *p) {
    const ck_reader *r = p->reader;
    uint64_t at = LENGTH_BYTES + p->n;
    for (size_t i = 0; i < r->count; i++) {
        const ck_tensor *t = &r->tensors[i];
        if (t->offset != at)
            return ck_fail(p->err, CK_INPUT, "%s: tensor '%s' at offset %llu: %s offset %llu",
                           r->path, t->name, (unsigned long long)t->offset,
                           t->offset < at ? "overlaps the data before it, which end at"
                                          : "there is a hole before it, from",
                           (unsigned long long)at);
        at += t->nbytes;
    }
    if (at != p->file_size)
        return ck_fail(p->err, CK_INPUT, "%s: %llu bytes at offset %llu belong to no tensor",
                       r->path, (unsigned long long)(p->file_size - at), (unsigned long long)at);
    return CK_OK;
}

static ck_status read_header(parser *p) {
    ck_reader *r = p->reader;
    size_t bad = ck_utf8_check((const unsigned char *)p->text, p->n);
    if (bad != p->n) return fail_at(p, bad, "not UTF-8");
    if (p->n >= 3 && memcmp(p->text, "\xEF\xBB\xBF", 3) == 0)
        return fail_at(p, 0, "byte order mark");
    CK_TRY(parse_header(p));
    CK_TRY(ck_reader__finish(r, p->err));
    return check_tiling(p);
}

static ck_status open_safetensors(ck_reader *r, ck_error *err) {
    struct stat st;
    if (fstat(r->fd, &st) != 0) return ck_fail_errno(err, "%s", r->path);
    uint64_t file_size = (uint64_t)st.st_size, n;
    if (file_size < LENGTH_BYTES)
        return ck_fail(err, CK_INPUT, "%s: %llu bytes: too short for a safetensors file", r->path,
                       (unsigned long long)file_size);
    unsigned char bytes[LENGTH_BYTES];
    CK_TRY(ck_pread_all(r->fd, bytes, sizeof bytes, 0, r->path, err));
    n = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--) n = n << 8 | bytes[i];
    if (n > CK_SAFETENSORS_MAX_HEADER)
        return ck_fail(
            err, CK_INPUT,
            "%s: header of %llu bytes, more than the %u that safetensors allows; is this "
            "a safetensors file?",
            r->path, (unsigned long long)n, CK_SAFETENSORS_MAX_HEADER);
    if (n > file_size - LENGTH_BYTES)
        return ck_fail(err, CK_INPUT,
                       "%s: header of %llu bytes in a file of %llu: the file is cut off (an "
                       "incomplete download?)",
                       r->path, (unsigned long long)n, (unsigned long long)file_size);
    parser p = {.reader = r, .n = (size_t)n, .file_size = file_size, .err = err};
    p.text = ck_alloc(p.n + 1);
    ck_status status = p.text ? ck_pread_all(r->fd, p.text, p.n, LENGTH_BYTES, r->path, err)
                              : ck_fail_memory(err, r->path);
    if (status == CK_OK) status = read_header(&p);
    free(p.text);
    free(p.dimensions);
    return status;
}

/* A length and the start of a JSON object; or a file that is called so, for the better message. */
static bool probe(const char *path, const unsigned char *head, size_t n, bool is_directory) {
    if (is_directory) return false;
    size_t length = strlen(path), ending = strlen(".safetensors");
    if (length >= ending && strcmp(path + length - ending, ".safetensors") == 0) {
        /* What is plainly something else is better called by its name. */
        return !(n > 8 && (memcmp(head, "version ", 8) == 0 || head[0] == '<'));
    }
    return n > LENGTH_BYTES && memcmp(head + 5, "\0\0\0", 3) == 0 && strchr("{ \t\n\r", head[8]) &&
           head[8];
}

const ck_format ck_format_safetensors = {
    .name = "safetensors",
    .probe = probe,
    .open = open_safetensors,
    .read = ck_reader__pread,
};

/* ---- Writing ---- */

static int by_file_order(const void *a, const void *b) {
    const ck_tensor *x = *(const ck_tensor *const *)a, *y = *(const ck_tensor *const *)b;
    if (x->dtype != y->dtype) return x->dtype > y->dtype ? -1 : 1;
    return strcmp(x->name, y->name);
}

void ck_safetensors_sort(const ck_tensor **tensors, size_t n) {
    if (n) qsort(tensors, n, sizeof *tensors, by_file_order);
}

/* Text that grows. After an allocation failed, nothing more is added and failed is set. */
typedef struct output {
    char *text;
    size_t n, capacity;
    bool failed;
} output;

static void put(output *o, const char *s, size_t n) {
    if (o->failed) return;
    if (o->capacity - o->n < n) {
        size_t capacity = (o->n + n) * 2 + 4096;
        char *grown = ck_os.realloc(o->text, capacity);
        if (!grown) {
            o->failed = true;
            return;
        }
        o->text = grown;
        o->capacity = capacity;
    }
    memcpy(o->text + o->n, s, n);
    o->n += n;
}

static void put_number(output *o, uint64_t value) {
    char digits[24];
    put(o, digits, (size_t)snprintf(digits, sizeof digits, "%llu", (unsigned long long)value));
}

/* Escapes what JSON demands and nothing else, as the reference serializer does. */
static void put_string(output *o, const char *s) {
    put(o, "\"", 1);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        static const char values[] = "\"\\\b\f\n\r\t", names[] = "\"\\bfnrt";
        const char *known = strchr(values, c);
        char escape[8];
        if (known) {
            snprintf(escape, sizeof escape, "\\%c", names[known - values]);
            put(o, escape, 2);
        } else if (c < 0x20) {
            snprintf(escape, sizeof escape, "\\u%04x", c);
            put(o, escape, 6);
        } else {
            put(o, s, 1);
        }
    }
    put(o, "\"", 1);
}

static void put_text(output *o, const char *s) {
    put(o, s, strlen(s));
}

static ck_status put_metadata(output *o, const ck_meta *meta, size_t n, ck_error *err) {
    ck_meta *sorted = ck_alloc_array(n, sizeof *sorted);
    if (!sorted) return ck_fail_memory(err, "header");
    memcpy(sorted, meta, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_key);
    put_text(o, "\"__metadata__\":{");
    for (size_t i = 0; i < n; i++) {
        if (i) put(o, ",", 1);
        put_string(o, sorted[i].key);
        put(o, ":", 1);
        put_string(o, sorted[i].value);
    }
    put(o, "}", 1);
    free(sorted);
    return CK_OK;
}

static void put_tensor(output *o, const ck_tensor *t, uint64_t begin) {
    put_string(o, t->name);
    put_text(o, ":{\"dtype\":\"");
    put_text(o, ck_dtype_name(t->dtype));
    put_text(o, "\",\"shape\":[");
    for (size_t i = 0; i < t->rank; i++) {
        if (i) put(o, ",", 1);
        put_number(o, t->shape[i]);
    }
    put_text(o, "],\"data_offsets\":[");
    put_number(o, begin);
    put(o, ",", 1);
    put_number(o, begin + t->nbytes);
    put_text(o, "]}");
}

ck_status ck_safetensors_header(const ck_tensor *const *tensors, size_t n, const ck_meta *meta,
                                size_t meta_count, char **head, size_t *head_size,
                                uint64_t *offsets, uint64_t *file_size, ck_error *err) {
    output o = {0};
    uint64_t begin = 0;
    put(&o, "\0\0\0\0\0\0\0\0{", LENGTH_BYTES + 1);
    ck_status status = meta_count ? put_metadata(&o, meta, meta_count, err) : CK_OK;
    for (size_t i = 0; i < n; i++) {
        if (i || meta_count) put(&o, ",", 1);
        put_tensor(&o, tensors[i], begin);
        offsets[i] = begin;
        begin += tensors[i]->nbytes;
    }
    put(&o, "}", 1);
    while (o.n % 8 && !o.failed) put(&o, " ", 1);
    if (status == CK_OK && o.failed) status = ck_fail_memory(err, "header");
    if (status == CK_OK && o.n - LENGTH_BYTES > CK_SAFETENSORS_MAX_HEADER)
        status = ck_fail(err, CK_USAGE,
                         "the header would have %zu bytes, more than the %u that "
                         "safetensors allows: too many tensors or too much metadata",
                         o.n - LENGTH_BYTES, CK_SAFETENSORS_MAX_HEADER);
    if (status != CK_OK) {
        free(o.text);
        return status;
    }
    uint64_t length = o.n - LENGTH_BYTES;
    for (int i = 0; i < LENGTH_BYTES; i++) o.text[i] = (char)(length >> (8 * i) & 0xFF);
    for (size_t i = 0; i < n; i++) offsets[i] += o.n;
    *head = o.text;
    *head_size = o.n;
    *file_size = o.n + begin;
    return CK_OK;
}
