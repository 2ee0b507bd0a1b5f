/* What the files of the cache share. See cache.h. */
#ifndef CK_CACHE_INT_H
#define CK_CACHE_INT_H

#include "distill/data/cache.h"

enum { CK_CACHE_KEYS = 4 };
extern const char *const ck_cache__names[CK_CACHE_KEYS];    /* of the attributes */
extern const char *const ck_cache__meanings[CK_CACHE_KEYS]; /* "made ...", if it differs */

typedef struct ck_cache_key {
    char hex[CK_CACHE_KEYS][CK_SHA256_HEX];
} ck_cache_key;

/* cache_key.c: reads all weights of the encoders, but not the images. */
ck_status ck_cache__key(const ck_encoding *e, ck_cache_key *key, ck_error *err);

/* cache_part.c: the records of what is encoded so far. */
typedef struct ck_cache_part {
    const ck_encoding *e;
    char *path; /* owned */
    ck_dtype dtype;
    int fd;
    size_t items; /* that are in it, from the first on */
    uint64_t at;  /* where the next record begins */
    void *raw;    /* a record */
} ck_cache_part;

/* Makes it, or goes on with one that was made of the same. */
ck_status ck_cache_part__open(ck_cache_part *p, const ck_encoding *e, const char *cache,
                              const ck_cache_key *key, ck_dtype dtype, ck_error *err);
/* Encodes what is missing. */
ck_status ck_cache_part__fill(ck_cache_part *p, ck_error *err);
/* From the first record on, one after the other: rewind, then read each item to p->raw. */
void ck_cache_part__rewind(ck_cache_part *p);
ck_status ck_cache_part__read(ck_cache_part *p, size_t item, ck_error *err);
void ck_cache_part__close(ck_cache_part *p, bool remove);

#endif
