/* The header is read first; memory is taken only for what the file can hold. See idx.h. */
#include "distill/data/idx.h"
#include "io/os.h"

#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* Deflate makes of one byte at most this many. */
enum { MOST_INFLATED = 1032 };
static const size_t max_file = (size_t)1 << 30, max_count = (size_t)1 << 31;

typedef struct source {
    const char *name;
    const uint8_t *data;
    size_t n, at; /* at: without gzip */
    bool gzip, ended;
    z_stream z;
} source;

static voidpf allocate(voidpf opaque, uInt count, uInt size) {
    (void)opaque;
    return ck_alloc_array(count, size);
}

static void release(voidpf opaque, voidpf p) {
    (void)opaque;
    free(p);
}

/* At most n bytes to dst; *got is less only at the end. */
static ck_status inflate_some(source *s, uint8_t *dst, size_t n, size_t *got, ck_error *err) {
    *got = 0;
    while (*got < n && !s->ended) {
        size_t room = n - *got < INT_MAX ? n - *got : INT_MAX;
        s->z.next_out = dst + *got;
        s->z.avail_out = (uInt)room;
        int result = inflate(&s->z, Z_NO_FLUSH);
        *got += room - s->z.avail_out;
        s->ended = result == Z_STREAM_END;
        if (result == Z_MEM_ERROR) return ck_fail_memory(err, s->name);
        if (result == Z_BUF_ERROR) return CK_OK; /* no more input */
        if (result != Z_OK && result != Z_STREAM_END)
            return ck_fail(err, CK_INPUT, "%s: gzip data at offset %zu: damaged", s->name,
                           s->n - s->z.avail_in);
    }
    return CK_OK;
}

static ck_status read_some(source *s, uint8_t *dst, size_t n, size_t *got, ck_error *err) {
    if (s->gzip) return inflate_some(s, dst, n, got, err);
    *got = s->n - s->at < n ? s->n - s->at : n;
    if (*got) memcpy(dst, s->data + s->at, *got);
    s->at += *got;
    return CK_OK;
}

static ck_status read_all(source *s, uint8_t *dst, size_t n, const char *what, ck_error *err) {
    size_t got;
    CK_TRY(read_some(s, dst, n, &got, err));
    if (got == n) return CK_OK;
    return ck_fail(err, CK_INPUT, "%s: ends within its %s, %zu bytes too early", s->name, what,
                   n - got);
}

static ck_status read_header(source *s, ck_idx *idx, ck_error *err) {
    uint8_t magic[4], size[4 * CK_IDX_RANK];
    CK_TRY(read_all(s, magic, sizeof magic, "header", err));
    if (magic[0] || magic[1]) return ck_fail(err, CK_INPUT, "%s: not an IDX file", s->name);
    if (magic[2] != 8)
        return ck_fail(err, CK_INPUT,
                       "%s: elements of type 0x%02x; only 0x08, unsigned bytes, are "
                       "read",
                       s->name, magic[2]);
    idx->rank = magic[3];
    if (idx->rank < 1 || idx->rank > CK_IDX_RANK)
        return ck_fail(err, CK_INPUT, "%s: rank %zu is not 1 to %d", s->name, idx->rank,
                       CK_IDX_RANK);
    CK_TRY(read_all(s, size, 4 * idx->rank, "header", err));
    idx->count = 1;
    for (size_t i = 0; i < idx->rank; i++) {
        const uint8_t *b = size + 4 * i;
        idx->shape[i] = (size_t)b[0] << 24 | (size_t)b[1] << 16 | (size_t)b[2] << 8 | b[3];
        if (__builtin_mul_overflow(idx->count, idx->shape[i], &idx->count) ||
            idx->count > max_count)
            return ck_fail(err, CK_INPUT, "%s: more than %zu elements", s->name, max_count);
    }
    return CK_OK;
}

static ck_status read_elements(source *s, ck_idx *idx, ck_error *err) {
    size_t possible = s->gzip ? s->n * MOST_INFLATED : s->n - s->at, extra;
    uint8_t one;
    if (idx->count > possible)
        return ck_fail(err, CK_INPUT, "%s: %zu elements cannot be in a file of %zu bytes", s->name,
                       idx->count, s->n);
    idx->data = ck_alloc(idx->count);
    if (!idx->data) return ck_fail_memory(err, s->name);
    CK_TRY(read_all(s, idx->data, idx->count, "elements", err));
    CK_TRY(read_some(s, &one, 1, &extra, err));
    if (extra || (s->gzip && s->z.avail_in))
        return ck_fail(err, CK_INPUT, "%s: more follows after its %zu elements", s->name,
                       idx->count);
    /* gzip's checksum is behind the elements. */
    if (s->gzip && !s->ended)
        return ck_fail(err, CK_INPUT, "%s: ends within the gzip data", s->name);
    return CK_OK;
}

ck_status ck_idx_parse(const char *name, const void *data, size_t n, ck_idx *out, ck_error *err) {
    source s = {.name = name, .data = data, .n = n};
    s.gzip = n >= 2 && s.data[0] == 0x1f && s.data[1] == 0x8b;
    if (n > max_file) return ck_fail(err, CK_INPUT, "%s: larger than %zu bytes", name, max_file);
    if (s.gzip) {
        s.z = (z_stream){.zalloc = allocate, .zfree = release};
        s.z.next_in = (z_const Bytef *)data;
        s.z.avail_in = (uInt)n;
        if (inflateInit2(&s.z, 16 + MAX_WBITS) != Z_OK) return ck_fail_memory(err, name);
    }
    ck_idx idx = {0};
    ck_status status = read_header(&s, &idx, err);
    if (status == CK_OK) status = read_elements(&s, &idx, err);
    if (s.gzip) inflateEnd(&s.z);
    if (status != CK_OK) {
        ck_idx_free(&idx);
        return status;
    }
    *out = idx;
    return CK_OK;
}

ck_status ck_idx_read(const char *path, ck_idx *idx, ck_error *err) {
    char *data;
    size_t n;
    CK_TRY(ck_read_file(path, max_file, &data, &n, err));
    ck_status status = ck_idx_parse(path, data, n, idx, err);
    free(data);
    return status;
}

void ck_idx_free(ck_idx *idx) {
    free(idx->data);
    *idx = (ck_idx){0};
}
