/* SHA-256 through OpenSSL's EVP, which uses the processor's SHA instructions. */
#include "io/hash.h"
#include "io/os.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 1 << 20, LEGACY_BEGIN = 0x100000, LEGACY_END = 0x110000, LENGTH_BYTES = 8 };

struct ck_sha256 {
    EVP_MD_CTX *context;
};

ck_sha256 *ck_sha256_new(void) {
    ck_sha256 *s = ck_alloc(sizeof *s);
    if (!s) return NULL;
    s->context = EVP_MD_CTX_new();
    if (s->context && EVP_DigestInit_ex(s->context, EVP_sha256(), NULL) == 1) return s;
    ck_sha256_free(s);
    return NULL;
}

void ck_sha256_update(ck_sha256 *s, const void *data, size_t n) {
    EVP_DigestUpdate(s->context, data, n);
}

void ck_sha256_hex(ck_sha256 *s, char hex[CK_SHA256_HEX]) {
    unsigned char digest[32];
    EVP_DigestFinal_ex(s->context, digest, NULL);
    for (size_t i = 0; i < sizeof digest; i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

void ck_sha256_free(ck_sha256 *s) {
    if (!s) return;
    EVP_MD_CTX_free(s->context);
    free(s);
}

/* The part of a block at [at, at + n) that lies in [begin, end), to the hash. */
static void update_range(ck_sha256 *s, const unsigned char *block, uint64_t at, size_t n,
                         uint64_t begin, uint64_t end) {
    uint64_t from = at > begin ? at : begin, to = at + n < end ? at + n : end;
    if (from < to) ck_sha256_update(s, block + (from - at), (size_t)(to - from));
}

/* Where the data section of a safetensors file begins, or 0 if it cannot be one. */
static uint64_t data_section(const unsigned char *head, size_t n, uint64_t size) {
    if (n < LENGTH_BYTES + 1) return 0;
    uint64_t length = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--) length = length << 8 | head[i];
    return length <= 100000000 && length <= size - LENGTH_BYTES && head[LENGTH_BYTES] == '{'
               ? LENGTH_BYTES + length
               : 0;
}

typedef struct hashing {
    ck_sha256 *whole, *legacy, *data;
    unsigned char *block;
    uint64_t size, data_begin;
} hashing;

/* Adds a block to all hashes. The two long ones take the time: a thread for each. */
static void update_all(hashing *h, uint64_t at, size_t n) {
#pragma omp parallel sections num_threads(2) if (h->data_begin)
    {
#pragma omp section
        ck_sha256_update(h->whole, h->block, n);
#pragma omp section
        if (h->data_begin) update_range(h->data, h->block, at, n, h->data_begin, h->size);
    }
    if (h->legacy) update_range(h->legacy, h->block, at, n, LEGACY_BEGIN, LEGACY_END);
}

static ck_status hash_fd(int fd, hashing *h, const char *path,
                         bool (*progress)(void *context, uint64_t bytes), void *context,
                         ck_error *err) {
    posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    for (uint64_t at = 0; at < h->size;) {
        size_t n = h->size - at < BLOCK ? (size_t)(h->size - at) : BLOCK;
        CK_TRY(ck_pread_all(fd, h->block, n, at, path, err));
        if (at == 0 && h->data) h->data_begin = data_section(h->block, n, h->size);
        update_all(h, at, n);
        at += n;
        if (progress && !progress(context, n)) return ck_fail(err, CK_CANCELLED, "stopped");
    }
    return CK_OK;
}

static ck_status open_file(const char *path, int *fd, uint64_t *size, ck_error *err) {
    *fd = ck_os.open(path, O_RDONLY, 0);
    if (*fd < 0) return ck_fail_errno(err, "%s: open", path);
    struct stat st;
    ck_status status = CK_OK;
    if (fstat(*fd, &st) != 0)
        status = ck_fail_errno(err, "%s", path);
    else if (!S_ISREG(st.st_mode))
        status = ck_fail(err, CK_INPUT, "%s: only single files have these hashes", path);
    if (status != CK_OK)
        close(*fd);
    else
        *size = (uint64_t)st.st_size;
    return status;
}

/* all: legacy and autov3 too, else only what depends on the whole file. */
static ck_status hash_path(const char *path, bool all, ck_file_hashes *out,
                           bool (*progress)(void *context, uint64_t bytes), void *context,
                           ck_error *err) {
    int fd;
    hashing h = {0};
    CK_TRY(open_file(path, &fd, &h.size, err));
    h.whole = ck_sha256_new();
    h.legacy = all ? ck_sha256_new() : NULL;
    h.data = all ? ck_sha256_new() : NULL;
    h.block = ck_alloc(BLOCK);
    bool enough = h.whole && h.block && (!all || (h.legacy && h.data));
    ck_status status =
        enough ? hash_fd(fd, &h, path, progress, context, err) : ck_fail_memory(err, path);
    *out = (ck_file_hashes){0};
    if (status == CK_OK) {
        ck_sha256_hex(h.whole, out->sha256);
        snprintf(out->autov2, sizeof out->autov2, "%.10s", out->sha256);
    }
    if (status == CK_OK && all) {
        char legacy[CK_SHA256_HEX];
        ck_sha256_hex(h.legacy, legacy);
        snprintf(out->legacy, sizeof out->legacy, "%.8s", legacy);
        if (h.data_begin) ck_sha256_hex(h.data, out->autov3);
    }
    ck_sha256_free(h.whole);
    ck_sha256_free(h.legacy);
    ck_sha256_free(h.data);
    free(h.block);
    close(fd);
    return status;
}

ck_status ck_hash_file(const char *path, ck_file_hashes *h,
                       bool (*progress)(void *context, uint64_t bytes), void *context,
                       ck_error *err) {
    return hash_path(path, true, h, progress, context, err);
}

ck_status ck_hash_sha256(const char *path, char hex[CK_SHA256_HEX],
                         bool (*progress)(void *context, uint64_t bytes), void *context,
                         ck_error *err) {
    ck_file_hashes h;
    CK_TRY(hash_path(path, false, &h, progress, context, err));
    memcpy(hex, h.sha256, CK_SHA256_HEX);
    return CK_OK;
}

ck_status ck_hash_legacy(const char *path, char hex[9], ck_error *err) {
    int fd;
    uint64_t size;
    CK_TRY(open_file(path, &fd, &size, err));
    uint64_t end = size < LEGACY_END ? size : LEGACY_END;
    size_t n = end > LEGACY_BEGIN ? (size_t)(end - LEGACY_BEGIN) : 0;
    unsigned char *block = ck_alloc(n);
    ck_sha256 *s = ck_sha256_new();
    ck_status status = block && s ? ck_pread_all(fd, block, n, LEGACY_BEGIN, path, err)
                                  : ck_fail_memory(err, path);
    if (status == CK_OK) {
        char whole[CK_SHA256_HEX];
        ck_sha256_update(s, block, n);
        ck_sha256_hex(s, whole);
        snprintf(hex, 9, "%.8s", whole);
    }
    ck_sha256_free(s);
    free(block);
    close(fd);
    return status;
}
