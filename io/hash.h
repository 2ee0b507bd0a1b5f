/* SHA-256 of files, as the web UIs and model sites name them.
 *
 *   ck_file_hashes h;
 *   CK_TRY(ck_hash_file("m.safetensors", &h, NULL, NULL, err));      h.sha256, h.autov2, ...
 *
 * and of a stream:   ck_sha256 *s = ck_sha256_new(); ck_sha256_update(s, p, n); ck_sha256_hex(s,
 * hex)
 */
#ifndef CK_HASH_H
#define CK_HASH_H

#include "io/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CK_SHA256_HEX = 65 }; /* 64 lower-case hex digits and NUL */

typedef struct ck_sha256 ck_sha256;
ck_sha256 *ck_sha256_new(void); /* NULL when out of memory */
void ck_sha256_update(ck_sha256 *s, const void *data, size_t n);
void ck_sha256_hex(ck_sha256 *s, char hex[CK_SHA256_HEX]); /* finishes; only once */
void ck_sha256_free(ck_sha256 *s);

typedef struct ck_file_hashes {
    char sha256[CK_SHA256_HEX];
    char autov2[11];            /* first 10 digits of sha256 */
    char legacy[9];             /* first 8 digits of sha256 of the 64 KiB at offset 1 MiB */
    char autov3[CK_SHA256_HEX]; /* sha256 of a safetensors file's data section, else "" */
} ck_file_hashes;

/* All hashes of a file in one sequential pass. progress(context, bytes) is told of every block
 * (NULL: nobody) and stops the work with CK_CANCELLED by returning false. */
ck_status ck_hash_file(const char *path, ck_file_hashes *h,
                       bool (*progress)(void *context, uint64_t bytes), void *context,
                       ck_error *err);

/* The SHA-256 of the whole file alone: half the work. */
ck_status ck_hash_sha256(const char *path, char hex[CK_SHA256_HEX],
                         bool (*progress)(void *context, uint64_t bytes), void *context,
                         ck_error *err);

/* The legacy hash alone: reads 64 KiB. */
ck_status ck_hash_legacy(const char *path, char hex[9], ck_error *err);

#endif
