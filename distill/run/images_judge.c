/* How good the samples of a network are, beside images of the data. See task_images.c. */
#include "distill/data/image.h"
#include "distill/run/images_int.h"
#include "distill/judge/metrics.h"
#include "distill/data/shuffle.h"
#include "io/os.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* REFERENCE: images of the data that samples are compared with. REMEMBERED: samples of which the
 * teacher's pixels are kept. FLOATS: that a batch of latents, or a block of pixels, is about. */
enum { REFERENCE = 20000, REMEMBERED = 40, BATCH_FLOATS = 1 << 16, BLOCK_FLOATS = 1 << 22 };
enum { SOME_LATENTS = 1 << 24, SOME_FEATURES = 2000, DIRECTIONS = 64 };

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

static size_t fit(size_t floats, size_t each, size_t most) {
    size_t n = floats / each;
    return n < 1 ? 1 : least(n, most);
}

static ck_images_task *of(const ck_task *t) {
    return t->own;
}

void ck_images__forget(ck_images_task *o) {
    ck_gaussian_free(&o->real);
    free(o->real_features), free(o->real_latents), free(o->reference);
}

/* What is found out about the samples of a row. */
typedef struct samples {
    size_t n;
    float *latents, *features, *logits;
    double sharpness, milliseconds;
    float *first; /* pixels of the first ones */
} samples;

/* ---- The data ---- */

/* Images channels last as the metrics have them; changed in place where there is one channel. */
static void to_planes(const float *pixels, size_t count, size_t area, size_t channels, float *to) {
    for (size_t i = 0; i < count * area; i++)
        for (size_t c = 0; c < channels; c++)
            to[(i / area * channels + c) * area + i % area] = pixels[i * channels + c];
}

static ck_images images_of(const ck_images_task *o, const float *planes, size_t count) {
    return (ck_images){planes, count, o->channels, o->height, o->width};
}

/* The i-th of the images that samples are compared with: a fixed choice of the data. */
static size_t chosen(const ck_images_task *o, size_t i) {
    return (size_t)ck_shuffle(0, ck_dataset_count(o->data), i);
}

static ck_status classify_data(ck_images_task *o, ck_error *err) {
    size_t image = o->height * o->width * o->channels, n = o->reference_count;
    size_t dim = ck_classifier_features(o->classifier), block = fit(BLOCK_FLOATS, image, 512);
    float *pixels = ck_alloc_array(2 * block * image, sizeof *pixels);
    o->real_features = ck_alloc_array(n * dim, sizeof *o->real_features);
    ck_status s = pixels && o->real_features ? CK_OK : ck_fail_memory(err, "data");
    for (size_t i = 0; i < n && s == CK_OK; i += block) {
        size_t some = least(block, n - i);
        float *planes = pixels + block * image;
        for (size_t k = 0; k < some && s == CK_OK; k++)
            s = ck_encoding_pixels(o->data, chosen(o, i + k), o->width, o->height,
                                   pixels + k * image, err);
        to_planes(pixels, some, o->height * o->width, o->channels, planes);
        if (s == CK_OK)
            s = ck_classifier_run(o->classifier, images_of(o, planes, some),
                                  o->real_features + i * dim, NULL, err);
    }
    free(pixels);
    return s == CK_OK ? ck_gaussian_fit((ck_points){o->real_features, n, dim}, &o->real, err) : s;
}

/* The bucket whose latents have the size of samples; SIZE_MAX: none has. */
static size_t like_samples(const ck_images_task *o) {
    for (size_t b = 0; b < o->buckets.count; b++)
        if (o->buckets.buckets[b].width == o->width && o->buckets.buckets[b].height == o->height)
            return b;
    return SIZE_MAX;
}

static ck_status copy_latents(ck_images_task *o, size_t bucket, ck_error *err) {
    size_t count = o->buckets.buckets[bucket].count;
    size_t n = least(least(count, o->samples), fit(SOME_LATENTS, o->latent, SIZE_MAX));
    o->real_latents = ck_alloc_array(n * o->latent, sizeof *o->real_latents);
    if (!o->real_latents) return ck_fail_memory(err, "data");
    for (size_t i = 0; i < n; i++) {
        size_t item = ck_encoding_image(&o->encoding, bucket, (size_t)ck_shuffle(0, count, i));
        CK_TRY(ck_latents_read(o->latents, item, o->real_latents + i * o->latent, err));
    }
    o->latents_count = n;
    return CK_OK;
}

/* What the data look like; found out once. */
static ck_status know_data(ck_images_task *o, ck_error *err) {
    if (!o->data) return CK_OK;
    size_t bucket = like_samples(o);
    o->reference_count = least(ck_dataset_count(o->data), REFERENCE);
    if (o->classifier && !o->real_features) CK_TRY(classify_data(o, err));
    return o->real_latents || bucket == SIZE_MAX ? CK_OK : copy_latents(o, bucket, err);
}

/* ---- Samples ---- */

/* Latents of all samples, a batch at a time. The last batch is a whole one too: what is too much of
 * it is left out. */
static ck_status walk(ck_task *t, ck_walker *w, const ck_row *row, size_t batch, samples *made,
                      ck_error *err) {
    ck_images_task *o = of(t);
    size_t text = o->text, n = made->n;
    float *x = ck_alloc_array(batch * o->latent, sizeof *x);
    float *contexts = ck_alloc_array(2 * batch * text, sizeof *contexts);
    ck_status s = x && contexts ? CK_OK : ck_fail_memory(err, "samples");
    for (size_t k = 0; k < batch && s == CK_OK; k++)
        s = ck_latents_read(o->latents, 0, contexts + (batch + k) * text, err);
    for (size_t i = 0; i < n && s == CK_OK; i += batch) {
        for (size_t k = 0; k < batch; k++)
            memcpy(contexts + k * text, o->asked + (i + k) % o->asked_count * text,
                   text * sizeof *contexts);
        s = ck_walker_sample(w, ck_walk_named(row->how), row->steps, t->seed, i, x, contexts,
                             contexts + batch * text, err);
        if (s == CK_OK)
            memcpy(made->latents + i * o->latent, x,
                   least(batch, n - i) * o->latent * sizeof *made->latents);
    }
    free(x);
    free(contexts);
    return s;
}

static ck_status sample(ck_task *t, const ck_network *n, const ck_row *row, samples *made,
                        ck_error *err) {
    ck_images_task *o = of(t);
    size_t batch = fit(BATCH_FLOATS, o->latent, made->n);
    ck_walker_options options = {.backend = t->backend,
                                 .process = t->process,
                                 .network = n,
                                 .shape = t->shape,
                                 .tokens = t->tokens,
                                 .width = t->width,
                                 .guidance = row->guidance};
    options.shape.d[0] = (int64_t)batch;
    ck_walker *w;
    CK_TRY(ck_walker_new(&options, &w, err));
    double start = ck_seconds();
    ck_status s = walk(t, w, row, batch, made, err);
    made->milliseconds = 1e3 * (ck_seconds() - start) / (double)made->n;
    ck_walker_free(w);
    return s;
}

static ck_status look_at(ck_images_task *o, const float *planes, size_t at, size_t count,
                         samples *made, ck_error *err) {
    ck_images images = images_of(o, planes, count);
    double sharpness;
    CK_TRY(ck_sharpness(images, &sharpness, err));
    made->sharpness += sharpness * (double)count / (double)made->n;
    if (!o->classifier) return CK_OK;
    return ck_classifier_run(o->classifier, images,
                             made->features + at * ck_classifier_features(o->classifier),
                             made->logits + at * ck_classifier_classes(o->classifier), err);
}

/* Decodes all samples, a block at a time, and looks at them. */
static ck_status see(ck_task *t, samples *made, ck_error *err) {
    ck_images_task *o = of(t);
    size_t image = o->height * o->width * o->channels, block = fit(BLOCK_FLOATS, image, 512);
    float *pixels = ck_alloc_array(2 * block * image, sizeof *pixels);
    ck_status s = pixels ? CK_OK : ck_fail_memory(err, "samples");
    for (size_t i = 0; i < made->n && s == CK_OK; i += block) {
        size_t some = least(block, made->n - i);
        float *planes = pixels + block * image;
        s = ck_model_decode(&o->model, t->backend, made->latents + i * o->latent, some, o->h, o->w,
                            pixels, err);
        if (s != CK_OK) break;
        for (size_t k = i; k < least(i + some, REMEMBERED); k++)
            memcpy(made->first + k * image, pixels + (k - i) * image, image * sizeof *pixels);
        to_planes(pixels, some, o->height * o->width, o->channels, planes);
        s = look_at(o, planes, i, some, made, err);
    }
    free(pixels);
    return s;
}

/* ---- Numbers ---- */

static void note(ck_row *row, const char *name, double value) {
    row->names[row->count] = name;
    row->values[row->count++] = value;
}

static double accuracy(const ck_images_task *o, const samples *made) {
    size_t classes = ck_classifier_classes(o->classifier), right = 0;
    for (size_t i = 0; i < made->n; i++) {
        const float *logits = made->logits + i * classes;
        size_t best = 0;
        for (size_t k = 1; k < classes; k++)
            if (logits[k] > logits[best]) best = k;
        right += best == i % o->asked_count;
    }
    return (double)right / (double)made->n;
}

static ck_status compare_features(const ck_images_task *o, const samples *made, ck_row *row,
                                  ck_error *err) {
    size_t dim = ck_classifier_features(o->classifier), n = least(made->n, o->reference_count);
    ck_points mine = {made->features, made->n, dim}, data = {o->real_features, n, dim};
    ck_gaussian g = {0};
    double fd = 0;
    ck_kid_result kid;
    ck_precision_recall_result pr;
    CK_TRY(ck_gaussian_fit(mine, &g, err));
    ck_status s = ck_frechet_gaussians(&o->real, &g, &fd, err);
    ck_gaussian_free(&g);
    CK_TRY(s);
    CK_TRY(ck_kid(data, mine, 10, least(n, 1000), 1, &kid, err));
    mine.count = data.count = least(n, SOME_FEATURES);
    CK_TRY(ck_precision_recall(data, mine, 5, &pr, err));
    note(row, "frechet", fd);
    note(row, "kid", kid.mean);
    note(row, "precision", pr.precision);
    note(row, "recall", pr.recall);
    return CK_OK;
}

/* The mean distance of two samples of the same caption, of their features or (without a
 * classifier) their latents; over all captions. */
static ck_status measure_diversity(const ck_images_task *o, const samples *made, ck_row *row,
                                   ck_error *err) {
    const float *from = o->classifier ? made->features : made->latents;
    size_t dim = o->classifier ? ck_classifier_features(o->classifier) : o->latent;
    size_t n = least(made->n, SOME_FEATURES), pairs = 0;
    float *alike = ck_alloc_array(n * dim, sizeof *alike);
    double all = 0, one;
    ck_status s = alike ? CK_OK : ck_fail_memory(err, "diversity");
    for (size_t c = 0; c + o->asked_count < n && c < o->asked_count && s == CK_OK; c++, pairs++) {
        size_t count = 0;
        for (size_t i = c; i < n; i += o->asked_count)
            memcpy(alike + count++ * dim, from + i * dim, dim * sizeof *alike);
        s = ck_diversity((ck_points){alike, count, dim}, &one, err);
        if (s == CK_OK) all += one;
    }
    free(alike);
    if (s == CK_OK && pairs) note(row, "diversity", all / (double)pairs);
    return s;
}

static ck_status measure(ck_task *t, const samples *made, ck_row *row, ck_error *err) {
    ck_images_task *o = of(t);
    if (o->real_features) CK_TRY(compare_features(o, made, row, err));
    if (o->real_latents) {
        double swd;
        ck_points mine = {made->latents, least(made->n, o->latents_count), o->latent};
        ck_points data = {o->real_latents, mine.count, o->latent};
        CK_TRY(ck_sliced_wasserstein(data, mine, DIRECTIONS, 0, &swd, err));
        note(row, "swd", swd);
    }
    if (o->classes) note(row, "accuracy", accuracy(o, made));
    CK_TRY(measure_diversity(o, made, row, err));
    note(row, "sharpness", made->sharpness);
    note(row, "ms", made->milliseconds);
    return CK_OK;
}

/* Remembers the first samples of the teacher, or compares with them. */
static ck_status compare_noise(ck_images_task *o, samples *made, ck_row *row, ck_error *err) {
    if (row->is_reference) {
        free(o->reference);
        o->reference = made->first;
        made->first = NULL;
    } else if (row->follows && o->reference) {
        double psnr;
        size_t n = least(made->n, REMEMBERED) * o->height * o->width * o->channels;
        CK_TRY(ck_psnr(o->reference, made->first, n, 2, &psnr, err));
        note(row, "psnr", psnr);
    }
    return CK_OK;
}

static ck_status take_pictures(const ck_images_task *o, const samples *made, ck_image *pictures,
                               ck_error *err) {
    size_t image = o->height * o->width * o->channels;
    for (size_t i = 0; i < least(made->n, CK_ROW_PICTURES); i++)
        CK_TRY(ck_image_from_floats(made->first + i * image, o->width, o->height, o->channels,
                                    &pictures[i], err));
    return CK_OK;
}

static ck_status judge(ck_task *t, const ck_network *n, ck_row *row, ck_image *pictures,
                       samples *made, ck_error *err) {
    ck_images_task *o = of(t);
    size_t dim = o->classifier ? ck_classifier_features(o->classifier) : 0;
    size_t classes = o->classifier ? ck_classifier_classes(o->classifier) : 0;
    made->n = row->samples = o->samples;
    made->latents = ck_alloc_array(made->n * o->latent, sizeof *made->latents);
    made->features = ck_alloc_array(made->n * dim, sizeof *made->features);
    made->logits = ck_alloc_array(made->n * classes, sizeof *made->logits);
    made->first =
        ck_alloc_array(REMEMBERED * o->height * o->width * o->channels, sizeof *made->first);
    if (!made->latents || !made->features || !made->logits || !made->first)
        return ck_fail_memory(err, "samples");
    CK_TRY(sample(t, n, row, made, err));
    CK_TRY(see(t, made, err));
    if (pictures) CK_TRY(take_pictures(o, made, pictures, err));
    CK_TRY(know_data(o, err));
    CK_TRY(measure(t, made, row, err));
    return compare_noise(o, made, row, err);
}

ck_status ck_images__judge(ck_task *t, const ck_network *n, ck_row *row, ck_image *pictures,
                           ck_error *err) {
    samples made = {0};
    ck_status s = judge(t, n, row, pictures, &made, err);
    free(made.latents), free(made.features), free(made.logits), free(made.first);
    return s;
}
