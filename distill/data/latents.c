/* Encoded data, see latents.h. */
#include "distill/data/latents.h"

#include "distill/data/cache.h"
#include "io/os.h"

#include <stdlib.h>
#include <string.h>

struct ck_latents {
    const ck_encoding *e;
    ck_cache *cache; /* or, without one: */
    float *values;   /* of all items */
    size_t *at;      /* where an item's begin */
};

static ck_status put(void *self, size_t item, const float *values, ck_error *err) {
    ck_latents *l = self;
    (void)err;
    memcpy(l->values + l->at[item], values, ck_encoding_size(l->e, item) * sizeof *values);
    return CK_OK;
}

static ck_status encode(ck_latents *l, ck_error *err) {
    size_t items = ck_encoding_items(l->e);
    l->at = ck_alloc_array(items + 1, sizeof *l->at);
    if (!l->at) return ck_fail_memory(err, "data");
    for (size_t i = 0; i < items; i++) l->at[i + 1] = l->at[i] + ck_encoding_size(l->e, i);
    l->values = ck_alloc_array(l->at[items], sizeof *l->values);
    if (!l->values)
        return ck_fail(err, CK_MEMORY,
                       "data: %.1f GiB of latents and captions do not fit into memory; `ckdistill "
                       "cache` puts them into a file",
                       (double)l->at[items] * sizeof(float) / 0x1p30);
    return ck_encode(l->e, 0, put, l, err);
}

static ck_status make(const ck_encoding *e, const char *cache, ck_latents **out, ck_error *err) {
    ck_latents *l = ck_alloc(sizeof *l);
    if (!l) return ck_fail_memory(err, "data");
    l->e = e;
    ck_status s = cache ? ck_cache_open(e, cache, &l->cache, err) : encode(l, err);
    if (s != CK_OK)
        ck_latents_close(l);
    else
        *out = l;
    return s;
}

ck_status ck_latents_encode(const ck_encoding *e, ck_latents **l, ck_error *err) {
    return make(e, NULL, l, err);
}

ck_status ck_latents_open(const ck_encoding *e, const char *cache, ck_latents **l, ck_error *err) {
    return make(e, cache, l, err);
}

void ck_latents_close(ck_latents *l) {
    if (!l) return;
    ck_cache_close(l->cache);
    free(l->values);
    free(l->at);
    free(l);
}

ck_status ck_latents_read(const ck_latents *l, size_t item, float *values, ck_error *err) {
    if (l->cache) return ck_cache_read(l->cache, item, values, err);
    memcpy(values, l->values + l->at[item], ck_encoding_size(l->e, item) * sizeof *values);
    return CK_OK;
}
