/* Images from latents, by a UNet that reads captions. Config:
 *
 *   "teacher"        a model folder; the student begins as its UNet, and uses its VAE and text
 *   "student"        weights of another UNet to begin with (optional)
 *   "data.images"    an IDX file (MNIST and its kin), "data.labels" another, "data.names" what the
 *                    labels are called: these are the captions
 *   "data.drop"      share of captions that are left empty, so that guidance can be had
 *   "data.most"      so many images at most; 0: all
 *   "classifier"     weights of a small classifier, in whose features samples are measured
 *   "evaluate.samples"
 *
 * Metrics, against the data: frechet distance; kid; precision and recall; accuracy, the
 * share of samples that the classifier takes for what they were asked to be; sharpness.
 */
#include "distill/classifier.h"
#include "distill/export.h"
#include "distill/idx.h"
#include "distill/image.h"
#include "distill/metrics.h"
#include "distill/model.h"
#include "distill/shuffle.h"
#include "distill/tasks.h"
#include "io/os.h"
#include "io/progress.h"
#include "kernels/philox.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_CLASSES = 256, REFERENCE = 20000, COLUMNS = 10, PICTURED = 40 };

/* Streams of the seed apart from those of training (distill.h) and of points. */
enum { DROP_STREAM = 2 };

typedef struct own {
    ck_model model;
    ck_unet_config student;
    const char *folder;                 /* of the teacher */
    size_t height, width, h, w, latent; /* images, latents, numbers of one latent */
    float *latents;                     /* all data */
    uint8_t *labels;
    size_t count;
    double drop;
    const char *const *names;
    size_t classes;
    float *contexts; /* of the names, then of the empty caption */
    /* Evaluation */
    ck_classifier *classifier;
    size_t samples;
    ck_idx images;
    ck_gaussian real;
    float *real_features; /* of the first `samples` data */
} own;

static own *of(const ck_task *t) {
    return t->own;
}

/* ---- Opening ---- */

/* Images to floats in [-1, 1] of the size that the model takes: padded evenly with -1. */
static void padded(const ck_idx *images, size_t i, size_t height, size_t width, float *out) {
    size_t rows = images->shape[1], columns = images->shape[2];
    size_t top = (height - rows) / 2, left = (width - columns) / 2;
    for (size_t k = 0; k < height * width; k++) out[k] = -1;
    for (size_t y = 0; y < rows; y++)
        for (size_t x = 0; x < columns; x++)
            out[(y + top) * width + x + left] =
                (float)images->data[(i * rows + y) * columns + x] / 127.5f - 1;
}

static ck_status encode_data(ck_task *t, ck_error *err) {
    own *o = of(t);
    enum { SOME = 512 };
    size_t pixels = o->height * o->width;
    o->latents = ck_alloc_array(o->count * o->latent, sizeof *o->latents);
    float *block = ck_alloc_array(SOME * pixels, sizeof *block);
    ck_status s = o->latents && block ? CK_OK : ck_fail_memory(err, "data");
    ck_progress progress;
    ck_progress_start(&progress, "encoding", o->count, false);
    for (size_t i = 0; i < o->count && s == CK_OK; i += SOME) {
        size_t n = o->count - i < SOME ? o->count - i : SOME;
        for (size_t k = 0; k < n; k++)
            padded(&o->images, i + k, o->height, o->width, block + k * pixels);
        s = ck_model_encode(&o->model, t->backend, block, n, o->height, o->width,
                            o->latents + i * o->latent, err);
        ck_progress_add(&progress, n);
    }
    ck_progress_end(&progress);
    free(block);
    return s;
}

static ck_status read_data(ck_task *t, ck_config *c, ck_error *err) {
    own *o = of(t);
    const char *images, *labels;
    uint64_t most;
    ck_idx l = {0};
    CK_TRY(ck_config_path(c, "data.images", &images, err));
    CK_TRY(ck_config_path(c, "data.labels", &labels, err));
    CK_TRY(ck_config_texts(c, "data.names", NULL, 0, &o->names, &o->classes, err));
    CK_TRY(ck_config_number(c, "data.drop", 0.1, 0, 1, &o->drop, err));
    CK_TRY(ck_config_count(c, "data.most", 0, 0, UINT32_MAX, &most, err));
    if (!images || !labels || !o->classes || o->classes > MOST_CLASSES)
        return ck_config_fail(c, "data", err, "needs images, labels and up to %d names",
                              MOST_CLASSES);
    CK_TRY(ck_idx_read(images, &o->images, err));
    if (o->images.rank != 3 || o->images.shape[1] > o->height || o->images.shape[2] > o->width)
        return ck_config_fail(c, "data.images", err, "not gray images of at most %zu x %zu",
                              o->width, o->height);
    CK_TRY(ck_idx_read(labels, &l, err));
    o->count = o->images.shape[0];
    if (most && most < o->count) o->count = most;
    bool good = l.count >= o->count && o->count > 0;
    for (size_t i = 0; i < o->count && good; i++) good = l.data[i] < o->classes;
    o->labels = l.data;
    return good ? CK_OK
                : ck_config_fail(c, "data.labels", err,
                                 "fewer labels than images, or one without a name");
}

static ck_status encode_names(ck_task *t, ck_error *err) {
    own *o = of(t);
    size_t size = t->tokens * t->width;
    o->contexts = ck_alloc_array((o->classes + 1) * size, sizeof *o->contexts);
    if (!o->contexts) return ck_fail_memory(err, "captions");
    const char *empty = "";
    CK_TRY(
        ck_model_encode_texts(&o->model, t->backend, o->names, o->classes, o->contexts, NULL, err));
    return ck_model_encode_texts(&o->model, t->backend, &empty, 1, o->contexts + o->classes * size,
                                 NULL, err);
}

static ck_status batch(void *self, const ck_distill *d, float *x0, float *context,
                       float *no_context, ck_error *err) {
    const own *o = self;
    size_t size = (size_t)ck_node_shape(d->graph, d->context).d[1] *
                  (size_t)ck_node_shape(d->graph, d->context).d[2];
    (void)err;
    for (size_t i = 0; i < d->batch; i++) {
        size_t at = (size_t)ck_shuffle(d->seed, o->count, d->round * d->batch + i);
        uint32_t words[4];
        ck_philox(d->seed, (uint32_t)d->round, DROP_STREAM, i, words);
        size_t caption = ck_philox_uniform(words[0]) < o->drop ? o->classes : o->labels[at];
        memcpy(x0 + i * o->latent, o->latents + at * o->latent, o->latent * sizeof *x0);
        memcpy(context + i * size, o->contexts + caption * size, size * sizeof *context);
        memcpy(no_context + i * size, o->contexts + o->classes * size, size * sizeof *context);
    }
    return CK_OK;
}

static ck_status open_classifier(ck_task *t, ck_config *c, ck_error *err) {
    own *o = of(t);
    const char *path;
    uint64_t samples;
    CK_TRY(ck_config_path(c, "classifier", &path, err));
    CK_TRY(ck_config_count(c, "evaluate.samples", 1000, 50, 100000, &samples, err));
    o->samples = samples;
    return path ? ck_classifier_open(path, &o->classifier, err) : CK_OK;
}

/* A file's network, or a copy of the teacher's; told the scale of guidance if it was or is to be.
 */
static ck_status open_student(ck_task *t, ck_config *c, const char *path, int64_t guidance,
                              ck_error *err) {
    own *o = of(t);
    o->student = o->model.unet_config;
    t->student.unet = &o->student;
    if (path) {
        CK_TRY(ck_params_open(path, "unet.", &t->student.params, err));
        ck_guidance_detect(t->student.params, &o->student);
    } else {
        CK_TRY(ck_params_copy(t->teacher.params, &t->student.params, err));
    }
    if (guidance % 2 || (o->student.guidance && guidance && o->student.guidance != guidance))
        return ck_config_fail(c, "guidance_width", err, "must be even, and what the student has");
    return guidance && !o->student.guidance
               ? ck_guidance_add(t->student.params, &o->student, guidance, err)
               : CK_OK;
}

static ck_status open_task(ck_task *t, ck_config *c, ck_error *err) {
    own *o = t->own = ck_alloc(sizeof *o);
    if (!o) return ck_fail_memory(err, "a task");
    const char *teacher, *student;
    uint64_t guidance;
    bool checkpoint;
    CK_TRY(ck_config_path(c, "teacher", &teacher, err));
    CK_TRY(ck_config_path(c, "student", &student, err));
    CK_TRY(ck_config_bool(c, "checkpointing", false, &checkpoint, err));
    CK_TRY(ck_config_count(c, "guidance_width", 0, 2, 4096, &guidance, err));
    if (!teacher) return ck_config_fail(c, "teacher", err, "the folder of a model is needed");
    CK_TRY(ck_model_open(teacher, NULL, &o->model, err));
    o->folder = teacher;
    o->model.unet_config.checkpoint = checkpoint;
    if (o->model.unet_config.added_time)
        return ck_config_fail(c, "teacher", err, "SDXL cannot be trained yet");
    const ck_vae_config *v = &o->model.vae_config;
    o->h = o->w = (size_t)o->model.unet_config.sample_size;
    o->height = o->width = o->h * (size_t)ck_vae_factor(v);
    o->latent = o->h * o->w * (size_t)v->latent_channels;
    t->shape = CK_SHAPE(t->shape.d[0], (int64_t)o->h, (int64_t)o->w, v->latent_channels);
    t->tokens = ck_model_tokens(&o->model);
    t->width = ck_model_width(&o->model);
    t->data = (ck_data){o, batch};
    t->teacher_steps = 25;
    t->teacher_walk = CK_WALK_DDIM;
    CK_TRY(ck_process_new(&o->model.schedule, &t->process, err));
    CK_TRY(read_data(t, c, err));
    CK_TRY(encode_names(t, err));
    CK_TRY(encode_data(t, err));
    CK_TRY(open_classifier(t, c, err));
    t->teacher = (ck_network){o->model.unet, &o->model.unet_config};
    o->model.unet = NULL; /* the task's from here on */
    return open_student(t, c, student, (int64_t)guidance, err);
}

static void close_task(ck_task *t) {
    own *o = of(t);
    if (!o) return;
    ck_model_close(&o->model);
    ck_classifier_close(o->classifier);
    ck_idx_free(&o->images);
    ck_gaussian_free(&o->real);
    free(o->latents), free(o->labels), free(o->contexts), free(o->real_features);
    free(o);
}

/* ---- Judging ---- */

/* Samples of a network, sample k of class k modulo classes, to pixels. */
static ck_status sample(ck_task *t, const ck_network *n, const ck_row *row, float *pixels,
                        ck_error *err) {
    enum { SOME = 50 };
    own *o = of(t);
    size_t size = t->tokens * t->width, image = o->height * o->width;
    float *x = ck_alloc_array(SOME * o->latent, sizeof *x);
    float *context = ck_alloc_array(2 * SOME * size, sizeof *context);
    ck_walker_options options = {
        .backend = t->backend,
        .process = t->process,
        .network = n,
        .shape = CK_SHAPE(SOME, (int64_t)o->h, (int64_t)o->w, o->model.vae_config.latent_channels),
        .tokens = t->tokens,
        .width = t->width,
        .guidance = row->guidance};
    ck_walker *w = NULL;
    ck_status s = x && context ? ck_walker_new(&options, &w, err) : ck_fail_memory(err, "samples");
    float *empty = o->contexts + o->classes * size;
    for (size_t i = 0; i < o->samples && s == CK_OK; i += SOME) {
        size_t some = o->samples - i < SOME ? o->samples - i : SOME;
        for (size_t k = 0; k < SOME; k++) {
            memcpy(context + k * size, o->contexts + (i + k) % o->classes * size,
                   size * sizeof *context);
            memcpy(context + (SOME + k) * size, empty, size * sizeof *context);
        }
        s = ck_walker_sample(w, ck_walk_named(row->how), row->steps, t->seed, i, x, context,
                             context + SOME * size, err);
        if (s == CK_OK)
            s = ck_model_decode(&o->model, t->backend, x, some, o->h, o->w, pixels + i * image,
                                err);
    }
    ck_walker_free(w);
    free(x);
    free(context);
    return s;
}

/* What the data look like to the classifier; measured once. */
static ck_status know_data(ck_task *t, ck_error *err) {
    own *o = of(t);
    if (o->real_features) return CK_OK;
    size_t n = o->count < REFERENCE ? o->count : REFERENCE, image = o->height * o->width;
    size_t dim = ck_classifier_features(o->classifier);
    if (n < o->samples) o->samples = n;
    float *pixels = ck_alloc_array(n * image, sizeof *pixels);
    o->real_features = ck_alloc_array(n * dim, sizeof *o->real_features);
    ck_status s = pixels && o->real_features ? CK_OK : ck_fail_memory(err, "data");
    for (size_t i = 0; i < n && s == CK_OK; i++)
        padded(&o->images, i, o->height, o->width, pixels + i * image);
    if (s == CK_OK)
        s = ck_classifier_run(o->classifier, (ck_images){pixels, n, 1, o->height, o->width},
                              o->real_features, NULL, err);
    free(pixels);
    if (s == CK_OK) s = ck_gaussian_fit((ck_points){o->real_features, n, dim}, &o->real, err);
    return s;
}

static void note(ck_row *row, const char *name, double value) {
    row->names[row->count] = name;
    row->values[row->count++] = value;
}

static double accuracy(const own *o, const float *logits) {
    size_t classes = ck_classifier_classes(o->classifier), right = 0;
    for (size_t i = 0; i < o->samples; i++) {
        size_t best = 0;
        for (size_t k = 1; k < classes; k++)
            if (logits[i * classes + k] > logits[i * classes + best]) best = k;
        right += best == i % o->classes;
    }
    return (double)right / (double)o->samples;
}

static ck_status compare(const own *o, const float *features, ck_row *row, ck_error *err) {
    size_t dim = ck_classifier_features(o->classifier), n = o->samples;
    ck_points made = {features, n, dim}, data = {o->real_features, n, dim};
    ck_gaussian g = {0};
    double fd = 0;
    ck_kid_result kid;
    ck_precision_recall_result pr;
    CK_TRY(ck_gaussian_fit(made, &g, err));
    ck_status s = ck_frechet_gaussians(&o->real, &g, &fd, err);
    ck_gaussian_free(&g);
    CK_TRY(s);
    size_t subset = n < 1000 ? n : 1000, some = n < 2000 ? n : 2000;
    CK_TRY(ck_kid(data, made, 10, subset, 1, &kid, err));
    made.count = data.count = some;
    CK_TRY(ck_precision_recall(data, made, 5, &pr, err));
    note(row, "frechet", fd);
    note(row, "kid", kid.mean);
    note(row, "precision", pr.precision);
    note(row, "recall", pr.recall);
    return CK_OK;
}

static ck_status measure(ck_task *t, const float *pixels, ck_row *row, ck_error *err) {
    own *o = of(t);
    ck_images images = {pixels, o->samples, 1, o->height, o->width};
    double sharpness;
    row->samples = o->samples;
    if (o->classifier) {
        size_t dim = ck_classifier_features(o->classifier);
        size_t classes = ck_classifier_classes(o->classifier);
        float *features = ck_alloc_array(o->samples * dim, sizeof *features);
        float *logits = ck_alloc_array(o->samples * classes, sizeof *logits);
        ck_status s = features && logits
                          ? ck_classifier_run(o->classifier, images, features, logits, err)
                          : ck_fail_memory(err, "features");
        if (s == CK_OK) s = compare(o, features, row, err);
        if (s == CK_OK) note(row, "accuracy", accuracy(o, logits));
        free(features);
        free(logits);
        CK_TRY(s);
    }
    CK_TRY(ck_sharpness(images, &sharpness, err));
    note(row, "sharpness", sharpness);
    return CK_OK;
}

static ck_status draw(const own *o, const float *pixels, const char *path, ck_error *err) {
    ck_image images[PICTURED] = {0}, grid = {0};
    size_t n = o->samples < PICTURED ? o->samples : PICTURED, image = o->height * o->width;
    ck_status s = CK_OK;
    for (size_t i = 0; i < n && s == CK_OK; i++)
        s = ck_image_from_floats(pixels + i * image, o->width, o->height, 1, &images[i], err);
    if (s == CK_OK) s = ck_image_grid(images, n, COLUMNS, NULL, &grid, err);
    if (s == CK_OK) s = ck_image_write(path, &grid, NULL, 0, true, err);
    for (size_t i = 0; i < n; i++) ck_image_free(&images[i]);
    ck_image_free(&grid);
    return s;
}

static ck_status judge(ck_task *t, const ck_network *n, ck_row *row, const char *picture,
                       ck_error *err) {
    own *o = of(t);
    if (o->classifier) CK_TRY(know_data(t, err));
    float *pixels = ck_alloc_array(o->samples * o->height * o->width, sizeof *pixels);
    if (!pixels) return ck_fail_memory(err, "samples");
    ck_status s = sample(t, n, row, pixels, err);
    if (s == CK_OK) s = measure(t, pixels, row, err);
    if (s == CK_OK && picture) s = draw(o, pixels, picture, err);
    free(pixels);
    return s;
}

/* The UNet's config.json, for those who look there how wide the embedding of guidance is, beside a
 * student that has another than its teacher. (A teacher in one file has no config.) */
static ck_status write_config(const own *o, const char *student, ck_error *err) {
    char *from = ck_sprintf("%s/unet/config.json", o->folder);
    char *to = ck_sprintf("%.*s/config.unet.json", (int)(strrchr(student, '/') - student), student);
    ck_status s = from && to ? CK_OK : ck_fail_memory(err, student);
    if (s == CK_OK && access(from, F_OK) == 0)
        s = ck_guidance_write(from, o->student.guidance, to, err);
    free(from);
    free(to);
    return s;
}

static ck_status export(ck_task *t, const ck_params *weights, const char *path, ck_dtype dtype,
                        const ck_meta *facts, size_t count, ck_error *err) {
    const own *o = of(t);
    CK_TRY(ck_export(weights, path, dtype, facts, count, err));
    if (o->student.guidance == o->model.unet_config.guidance) return CK_OK;
    return write_config(o, path, err);
}

const ck_task_kind ck_task_images = {
    .name = "images",
    .summary = "images from latents, by a UNet with captions",
    .open = open_task,
    .close = close_task,
    .judge = judge,
    .pictures = true,
    .export = export,
};
