/* Encoding a dataset, see encoding.h. */
#include "distill/data/encoding.h"

#include "io/os.h"
#include "io/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- What is where ---- */

size_t ck_encoding_items(const ck_encoding *e) {
    return ck_encoding_image(e, e->buckets->count, 0);
}

size_t ck_encoding_image(const ck_encoding *e, size_t bucket, size_t i) {
    size_t item = e->buckets->caption_count + i;
    for (size_t b = 0; b < bucket; b++) item += e->buckets->buckets[b].count;
    return item;
}

size_t ck_encoding_text(const ck_encoding *e) {
    return ck_model_tokens(e->model) * ck_model_width(e->model) + ck_model_pooled(e->model);
}

size_t ck_encoding_latent(const ck_encoding *e, size_t bucket) {
    const ck_bucket *b = &e->buckets->buckets[bucket];
    size_t factor = (size_t)ck_vae_factor(&e->model->vae_config);
    return b->height / factor * (b->width / factor) * (size_t)e->model->vae_config.latent_channels;
}

/* The bucket and place of an item that is an image. */
static size_t bucket_of(const ck_encoding *e, size_t item, size_t *i) {
    size_t b = 0;
    for (item -= e->buckets->caption_count; item >= e->buckets->buckets[b].count; b++)
        item -= e->buckets->buckets[b].count;
    *i = item;
    return b;
}

size_t ck_encoding_size(const ck_encoding *e, size_t item) {
    size_t i;
    return item < e->buckets->caption_count ? ck_encoding_text(e)
                                            : ck_encoding_latent(e, bucket_of(e, item, &i));
}

static size_t pixels_of(const ck_encoding *e, size_t bucket) {
    const ck_bucket *b = &e->buckets->buckets[bucket];
    return b->width * b->height * (size_t)e->model->vae_config.in_channels;
}

/* So many images that they take 16 MiB. */
static size_t block_of(const ck_encoding *e, size_t bucket) {
    size_t n = ((size_t)4 << 20) / pixels_of(e, bucket);
    return n < 1 ? 1 : n > 512 ? 512 : n;
}

size_t ck_encoding_block(const ck_encoding *e, size_t item) {
    if (item < e->buckets->caption_count || item >= ck_encoding_items(e)) return item;
    size_t i, b = bucket_of(e, item, &i);
    return item - i % block_of(e, b);
}

/* ---- Doing it ---- */

typedef struct work {
    const ck_encoding *e;
    ck_status (*put)(void *self, size_t item, const float *values, ck_error *err);
    void *self;
    ck_progress progress;
    size_t bad; /* items that cannot be used */
    char names[700];
} work;

static void note_bad(work *w, const char *name, const char *why) {
    size_t used = strlen(w->names), left = sizeof w->names - used;
    w->bad++;
    if (used == 0 || strlen(name) + strlen(why) + 5 < left)
        snprintf(w->names + used, left, "%s%s: %s", used ? "; " : "", name, why);
}

static ck_status put_item(work *w, size_t item, const char *name, const float *values,
                          ck_error *err) {
    size_t n = ck_encoding_size(w->e, item);
    for (size_t k = 0; k < n; k++)
        if (!isfinite(values[k])) {
            note_bad(w, name, "the encoder's answer is not finite");
            return CK_OK;
        }
    return w->put(w->self, item, values, err);
}

static ck_status encode_captions(work *w, size_t first, ck_error *err) {
    const ck_encoding *e = w->e;
    size_t text = ck_encoding_text(e), pooled = ck_model_pooled(e->model);
    float *values = ck_alloc_array(text, sizeof *values);
    ck_status s = values ? CK_OK : ck_fail_memory(err, "captions");
    for (size_t i = first; i < e->buckets->caption_count && s == CK_OK; i++) {
        s = ck_model_encode_texts(e->model, e->backend, &e->buckets->captions[i], 1, values,
                                  pooled ? values + text - pooled : NULL, err);
        if (s == CK_OK) s = put_item(w, i, e->buckets->captions[i], values, err);
        ck_progress_add(&w->progress, 1);
    }
    free(values);
    return s;
}

ck_status ck_encoding_pixels(const ck_dataset *data, size_t i, size_t width, size_t height,
                             float *pixels, ck_error *err) {
    ck_image image = {0}, fitted = {0};
    CK_TRY(ck_dataset_read(data, i, &image, err));
    bool fits = image.width == width && image.height == height;
    ck_status s = fits ? CK_OK : ck_image_fit(&image, width, height, &fitted, err);
    if (s == CK_OK) ck_image_to_floats(fits ? &image : &fitted, pixels);
    ck_image_free(&image);
    ck_image_free(&fitted);
    return s;
}

/* Images first to first + n - 1 of a bucket. One that cannot be read is left as it was before, and
 * noted. */
static ck_status encode_block(work *w, size_t bucket, size_t first, size_t n, float *pixels,
                              float *latents, ck_error *err) {
    const ck_encoding *e = w->e;
    const ck_bucket *b = &e->buckets->buckets[bucket];
    size_t image = pixels_of(e, bucket), latent = ck_encoding_latent(e, bucket);
    bool *bad = ck_alloc_array(n, sizeof *bad);
    ck_status s = bad ? CK_OK : ck_fail_memory(err, "images");
    for (size_t k = 0; k < n && s == CK_OK; k++) {
        s = ck_encoding_pixels(e->data, b->samples[first + k], b->width, b->height,
                               pixels + k * image, err);
        if (s != CK_INPUT) continue;
        note_bad(w, ck_dataset_sample(e->data, b->samples[first + k])->name, err->message);
        bad[k] = true;
        s = CK_OK;
    }
    if (s == CK_OK)
        s = ck_model_encode(e->model, e->backend, pixels, n, b->height, b->width, latents, err);
    for (size_t k = 0; k < n && s == CK_OK; k++)
        if (!bad[k])
            s = put_item(w, ck_encoding_image(e, bucket, first + k),
                         ck_dataset_sample(e->data, b->samples[first + k])->name,
                         latents + k * latent, err);
    ck_progress_add(&w->progress, n);
    free(bad);
    return s;
}

static ck_status encode_bucket(work *w, size_t bucket, size_t first, ck_error *err) {
    const ck_encoding *e = w->e;
    size_t count = e->buckets->buckets[bucket].count, block = block_of(e, bucket);
    float *pixels = ck_alloc_array(block * pixels_of(e, bucket), sizeof *pixels);
    float *latents = ck_alloc_array(block * ck_encoding_latent(e, bucket), sizeof *latents);
    ck_status s = pixels && latents ? CK_OK : ck_fail_memory(err, "images");
    for (size_t i = first; i < count && s == CK_OK; i += block)
        s = encode_block(w, bucket, i, count - i < block ? count - i : block, pixels, latents, err);
    free(pixels);
    free(latents);
    return s;
}

static ck_status encode_all(work *w, size_t first, ck_error *err) {
    const ck_encoding *e = w->e;
    if (first < e->buckets->caption_count) CK_TRY(encode_captions(w, first, err));
    for (size_t b = 0; b < e->buckets->count; b++) {
        size_t begin = ck_encoding_image(e, b, 0), n = e->buckets->buckets[b].count;
        if (first < begin + n) CK_TRY(encode_bucket(w, b, first > begin ? first - begin : 0, err));
    }
    if (w->bad == 0) return CK_OK;
    return ck_fail(err, CK_INPUT, "%zu of %zu images and captions cannot be used: %s", w->bad,
                   ck_encoding_items(e), w->names);
}

ck_status ck_encode(const ck_encoding *e, size_t first,
                    ck_status (*put)(void *self, size_t item, const float *values, ck_error *err),
                    void *self, ck_error *err) {
    work w = {.e = e, .put = put, .self = self};
    size_t items = ck_encoding_items(e);
    ck_progress_start(&w.progress, "encoding", items, false);
    ck_progress_add(&w.progress, first < items ? first : items);
    ck_status s = encode_all(&w, first, err);
    ck_progress_end(&w.progress);
    return s;
}
