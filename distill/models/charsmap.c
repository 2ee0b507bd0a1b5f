/* See charsmap.h. */
#include "distill/models/charsmap.h"

#include "distill/models/unicode.h"
#include "io/os.h"
#include "io/utf8.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 256 }; /* the children of a node lie in one block of units */

static const uint32_t LEAF = 1u << 31;

static uint32_t read_u32(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t unit(const ck_charsmap *m, size_t at) {
    return read_u32(m->units + 4 * at);
}

static size_t offset(uint32_t u) {
    return (size_t)(u >> 10) << (u & 1u << 9 ? 8 : 0);
}

static bool has_leaf(uint32_t u) {
    return u >> 8 & 1;
}

/* Whether every way leads to units that are there, and every leaf to a text. */
static bool stays_inside(const ck_charsmap *m, size_t text_bytes) {
    for (size_t i = 0; i < m->count; i++) {
        uint32_t u = unit(m, i);
        size_t to = u & LEAF ? u & ~LEAF : (i ^ offset(u)) | (BLOCK - 1);
        if (to >= (u & LEAF ? text_bytes : m->count)) return false;
    }
    return true;
}

ck_status ck_charsmap_parse(const char *name, const void *blob, size_t n, ck_charsmap *map,
                            ck_error *err) {
    *map = (ck_charsmap){0};
    if (n == 0) return CK_OK;
    size_t trie = n < 4 ? 0 : read_u32(blob), texts = n - 4 - trie;
    if (n < 4 || trie > n - 4 || trie == 0 || trie % (4 * BLOCK))
        return ck_fail(err, CK_INPUT, "%s: the charsmap's trie has no size that it can have", name);
    map->units = (const unsigned char *)blob + 4;
    map->count = trie / 4;
    map->texts = (const char *)map->units + trie;
    if (texts && !map->texts[texts - 1] && stays_inside(map, texts)) return CK_OK;
    return ck_fail(err, CK_INPUT, "%s: the charsmap leads outside of itself", name);
}

/* What stands for the longest beginning of the text that is in the table, and how long that is;
 * NULL if there is none. */
static const char *find(const ck_charsmap *m, const char *text, size_t n, size_t *length) {
    const char *found = NULL;
    size_t at = m->count ? offset(unit(m, 0)) : 0;
    for (size_t i = 0; i < n && m->count; i++) {
        unsigned char label = (unsigned char)text[i];
        at ^= label;
        uint32_t u = unit(m, at);
        if ((u & (LEAF | 0xff)) != label) break;
        at ^= offset(u);
        uint32_t leaf = has_leaf(u) ? unit(m, at) : 0;
        if (!(leaf & LEAF)) continue;
        found = m->texts + (leaf & ~LEAF);
        *length = i + 1;
    }
    return found;
}

static ck_status check(const char *text, size_t n, ck_error *err) {
    if (ck_utf8_check((const unsigned char *)text, n) == n) return CK_OK;
    return ck_fail(err, CK_INPUT, "prompt: the tokenizer's charsmap makes no UTF-8 of it");
}

ck_status ck_charsmap_apply(const ck_charsmap *m, const char *text, size_t n, char **out,
                            ck_error *err) {
    size_t most = 64 * n + 1, used = 0;
    char *to = ck_alloc(most);
    if (!to) return ck_fail_memory(err, "prompt");
    for (size_t at = 0, one = 0; at < n; at += one) {
        const char *other = find(m, text + at, n - at, &one);
        if (!other) {
            size_t next = at;
            ck_unicode_next(text, &next);
            one = next - at;
        }
        size_t length = other ? strlen(other) : one;
        if (length >= most - used) {
            free(to);
            return ck_fail(err, CK_INPUT, "prompt: the tokenizer's charsmap makes far more of it");
        }
        memcpy(to + used, other ? other : text + at, length);
        used += length;
    }
    to[used] = 0;
    ck_status s = check(to, used, err);
    if (s == CK_OK)
        *out = to;
    else
        free(to);
    return s;
}
