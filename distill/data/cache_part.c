/* The journal of a cache that is being made: a header that says of what, then a record an item, its
 * values and their CRC-32. See cache_int.h. */
#include "distill/data/cache_int.h"

#include "io/interrupt.h"
#include "io/os.h"
#include "kernels/kernels.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum { HEADER = 512 };

static size_t values_bytes(const ck_cache_part *p, size_t item) {
    return ck_encoding_size(p->e, item) * (ck_dtype_bits(p->dtype) / 8);
}

static size_t largest_record(const ck_cache_part *p) {
    size_t most = ck_encoding_text(p->e);
    for (size_t b = 0; b < p->e->buckets->count; b++)
        if (ck_encoding_latent(p->e, b) > most) most = ck_encoding_latent(p->e, b);
    return most * (ck_dtype_bits(p->dtype) / 8) + sizeof(uint32_t);
}

static uint32_t checksum(const void *data, size_t n) {
    return (uint32_t)crc32_z(0, data, n);
}

void ck_cache_part__rewind(ck_cache_part *p) {
    p->at = HEADER;
}

ck_status ck_cache_part__read(ck_cache_part *p, size_t item, ck_error *err) {
    size_t n = values_bytes(p, item);
    uint32_t sum;
    CK_TRY(ck_pread_all(p->fd, p->raw, n + sizeof sum, p->at, p->path, err));
    memcpy(&sum, (char *)p->raw + n, sizeof sum);
    if (sum != checksum(p->raw, n))
        return ck_fail(err, CK_INPUT, "%s: record %zu at offset %llu is damaged", p->path, item,
                       (unsigned long long)p->at);
    p->at += n + sizeof sum;
    return CK_OK;
}

/* How many records are good, down to the beginning of a block: from there on the same is made as if
 * it had never been interrupted. */
static ck_status count_items(ck_cache_part *p, uint64_t size, ck_error *err) {
    size_t items = ck_encoding_items(p->e), good = 0;
    ck_cache_part__rewind(p);
    for (; good < items; good++) {
        uint64_t end = p->at + values_bytes(p, good) + sizeof(uint32_t);
        ck_error damaged;
        if (end > size) break;
        ck_status s = ck_cache_part__read(p, good, &damaged);
        if (s == CK_INPUT) break;
        if (s != CK_OK) *err = damaged;
        CK_TRY(s);
    }
    p->items = ck_encoding_block(p->e, good);
    ck_cache_part__rewind(p);
    for (size_t i = 0; i < p->items; i++) p->at += values_bytes(p, i) + sizeof(uint32_t);
    return ck_os.ftruncate(p->fd, (off_t)p->at) == 0
               ? CK_OK
               : ck_fail_errno(err, "%s: cannot set its size", p->path);
}

static ck_status start_part(ck_cache_part *p, const ck_cache_key *key, ck_error *err) {
    char header[HEADER] = "", there[HEADER] = "";
    struct stat st;
    snprintf(header, sizeof header, "ckdistill cache 1 %s %s %s %s %s\n", ck_dtype_name(p->dtype),
             key->hex[0], key->hex[1], key->hex[2], key->hex[3]);
    p->fd = ck_os.open(p->path, O_RDWR | O_CREAT, 0666);
    if (p->fd < 0 || fstat(p->fd, &st) != 0) return ck_fail_errno(err, "%s: open", p->path);
    if (st.st_size >= HEADER) {
        CK_TRY(ck_pread_all(p->fd, there, HEADER, 0, p->path, err));
        if (memcmp(header, there, HEADER) == 0) return count_items(p, (uint64_t)st.st_size, err);
    }
    if (ck_os.ftruncate(p->fd, 0) != 0)
        return ck_fail_errno(err, "%s: cannot set its size", p->path);
    p->at = HEADER;
    return ck_pwrite_all(p->fd, header, HEADER, 0, p->path, err);
}

ck_status ck_cache_part__open(ck_cache_part *p, const ck_encoding *e, const char *cache,
                              const ck_cache_key *key, ck_dtype dtype, ck_error *err) {
    *p = (ck_cache_part){.e = e, .dtype = dtype, .fd = -1};
    p->path = ck_sprintf("%s.part", cache);
    p->raw = ck_alloc(largest_record(p));
    ck_status s = p->path && p->raw ? start_part(p, key, err) : ck_fail_memory(err, cache);
    if (s != CK_OK) ck_cache_part__close(p, false);
    return s;
}

void ck_cache_part__close(ck_cache_part *p, bool remove) {
    if (p->fd >= 0) close(p->fd);
    if (remove) unlink(p->path);
    free(p->path);
    free(p->raw);
    *p = (ck_cache_part){.fd = -1};
}

/* An item is written with one call: a process that is killed leaves whole ones or a short last. */
static ck_status put(void *self, size_t item, const float *values, ck_error *err) {
    ck_cache_part *p = self;
    size_t count = ck_encoding_size(p->e, item), n = values_bytes(p, item);
    if (ck_interrupt_asked())
        return ck_fail(err, CK_CANCELLED, "stopped; the same command goes on where it was");
    if (ck_kernels_best()->encode[p->dtype](p->raw, values, count))
        return ck_fail(err, CK_INPUT, "item %zu does not fit f16: set data.cache_dtype to f32",
                       item);
    uint32_t sum = checksum(p->raw, n);
    memcpy((char *)p->raw + n, &sum, sizeof sum);
    CK_TRY(ck_pwrite_all(p->fd, p->raw, n + sizeof sum, p->at, p->path, err));
    p->at += n + sizeof sum;
    p->items++;
    return CK_OK;
}

ck_status ck_cache_part__fill(ck_cache_part *p, ck_error *err) {
    return ck_encode(p->e, p->items, put, p, err);
}
