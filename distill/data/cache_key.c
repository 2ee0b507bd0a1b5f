/* What a cache depends on, as hashes. See cache_int.h. */
#include "distill/data/cache_int.h"

#include <stdio.h>
#include <string.h>

static ck_status hash_text(const ck_encoding *e, char hex[CK_SHA256_HEX], ck_error *err) {
    ck_sha256 *sha = ck_sha256_new();
    if (!sha) return ck_fail_memory(err, "a cache");
    ck_status s = CK_OK;
    for (size_t i = 0; i < e->model->texts && s == CK_OK; i++) {
        char one[CK_SHA256_HEX];
        s = ck_params_hash(e->model->text[i].params, one, err);
        if (s == CK_OK) ck_sha256_update(sha, one, sizeof one);
    }
    char shape[96];
    int n = snprintf(shape, sizeof shape, "%zu %zu %zu %d", ck_model_tokens(e->model),
                     ck_model_width(e->model), ck_model_pooled(e->model), e->model->zero_empty);
    ck_sha256_update(sha, shape, (size_t)n);
    ck_sha256_hex(sha, hex);
    ck_sha256_free(sha);
    return s;
}

static ck_status hash_vae(const ck_encoding *e, char hex[CK_SHA256_HEX], ck_error *err) {
    char weights[CK_SHA256_HEX], scale[96];
    CK_TRY(ck_params_hash(e->model->vae, weights, err));
    ck_sha256 *sha = ck_sha256_new();
    if (!sha) return ck_fail_memory(err, "a cache");
    int n = snprintf(scale, sizeof scale, "%.17g %.17g", e->model->vae_config.scale,
                     e->model->vae_config.shift);
    ck_sha256_update(sha, weights, sizeof weights);
    ck_sha256_update(sha, scale, (size_t)n);
    ck_sha256_hex(sha, hex);
    ck_sha256_free(sha);
    return CK_OK;
}

static ck_status hash_data(const ck_encoding *e, char hex[CK_SHA256_HEX], ck_error *err) {
    if (e->data) return ck_dataset_hash(e->data, hex, err);
    ck_sha256 *sha = ck_sha256_new();
    if (!sha) return ck_fail_memory(err, "a cache");
    for (size_t i = 0; i < e->buckets->caption_count; i++)
        ck_sha256_update(sha, e->buckets->captions[i], strlen(e->buckets->captions[i]) + 1);
    ck_sha256_hex(sha, hex);
    ck_sha256_free(sha);
    return CK_OK;
}

static ck_status hash_sizes(const ck_encoding *e, char hex[CK_SHA256_HEX], ck_error *err) {
    ck_sha256 *sha = ck_sha256_new();
    if (!sha) return ck_fail_memory(err, "a cache");
    for (size_t b = 0; b < e->buckets->count; b++) {
        const ck_bucket *k = &e->buckets->buckets[b];
        char size[80];
        int n = snprintf(size, sizeof size, "%zux%zu:%zu;", k->width, k->height, k->count);
        ck_sha256_update(sha, size, (size_t)n);
    }
    ck_sha256_hex(sha, hex);
    ck_sha256_free(sha);
    return CK_OK;
}

const char *const ck_cache__names[CK_CACHE_KEYS] = {"vae", "text", "data", "sizes"};
const char *const ck_cache__meanings[CK_CACHE_KEYS] = {
    "by another VAE", "by other text encoders", "of other images or captions", "in other sizes"};

ck_status ck_cache__key(const ck_encoding *e, ck_cache_key *key, ck_error *err) {
    CK_TRY(hash_vae(e, key->hex[0], err));
    CK_TRY(hash_text(e, key->hex[1], err));
    CK_TRY(hash_data(e, key->hex[2], err));
    return hash_sizes(e, key->hex[3], err);
}
