/* Images from latents, by a UNet or transformer that reads captions. Config:
 *
 *   "teacher"           a model folder; the student begins as its network, uses its VAE and text
 *   "tokenizer"         of a teacher in one file: a folder with vocab.json and merges.txt, and T5's
 *                       tokenizer.json or spiece.model; or with diffusers' folders tokenizer, ...
 *   "parts.clip", "parts.clip2", "parts.t5", "parts.vae"
 *                       other files with these parts of the teacher, or those that its file lacks
 *   "student"           weights of another network to begin with (optional)
 *   "student_layers"    of the teacher's, so many layers a level (default: all)
 *   "student_middle"    of the teacher's, whether the middle block (default: if it has one)
 *   "data.images"       a folder of images with captions (see dataset.h), or an IDX file (MNIST
 *                       and its kin) with "data.labels", another, and "data.names", what the
 *                       labels are called
 *   "data.only"         a list of captions: others are left out (default: all are taken)
 *   "data.most"         so many images at most; 0: all
 *   "data.size"         of the square that images are fitted to (default: the model's)
 *   "data.buckets"      true: to rectangles of about that area, by their shape; a batch is of one
 *   "data.prompts"      captions alone, for methods that need no data: a list, or a file with one
 *                       a line
 *   "data.drop"         share of captions that are left empty, so that guidance can be had
 *   "classifier"        weights of a small classifier, in whose features samples are measured
 *   "evaluate.samples"
 *   "evaluate.prompts"  what they are asked to be, in turn (default: the names; else captions of
 *                       the data)
 *
 * Metrics, against 20,000 images of the data: frechet distance; kid; precision and recall; swd, the
 * sliced Wasserstein distance of latents; accuracy, the share of samples that the classifier takes
 * for what they were asked to be; diversity, the distance of samples of one caption; sharpness;
 * psnr, how near samples are to the teacher's of the same noise; ms, milliseconds a sample.
 */
#include "distill/data/cache.h"
#include "distill/models/export.h"
#include "distill/run/images_int.h"
#include "distill/models/shrink.h"
#include "distill/data/shuffle.h"
#include "io/os.h"
#include "io/utf8.h"
#include "kernels/philox.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_CLASSES = 256, MOST_PROMPTS = 1 << 28, ASKED_FLOATS = 1 << 24 };

/* Streams of the seed apart from those of training (distill.h) and of points. */
enum { DROP_STREAM = 2 };

typedef ck_images_task own;

static own *of(const ck_task *t) {
    return t->own;
}

/* ---- Data ---- */

static ck_status open_images(own *o, ck_config *c, const char *images, const char *const *names,
                             size_t name_count, ck_error *err) {
    const char *labels;
    struct stat st;
    CK_TRY(ck_config_path(c, "data.labels", &labels, err));
    if (name_count > MOST_CLASSES || (labels && !name_count))
        return ck_config_fail(c, "data.names", err, "1 to %d names of labels are needed",
                              MOST_CLASSES);
    if (stat(images, &st) == 0 && S_ISDIR(st.st_mode) && !labels)
        return ck_dataset_open_folder(images, o->channels, &o->data, err);
    return ck_dataset_open_idx(images, labels, names, name_count, o->width, o->channels, &o->data,
                               err);
}

static ck_status fit_images(own *o, ck_config *c, ck_error *err) {
    const char *const *only;
    size_t only_count;
    uint64_t most;
    bool several;
    CK_TRY(ck_config_texts(c, "data.only", NULL, 0, &only, &only_count, err));
    CK_TRY(ck_config_count(c, "data.most", 0, 0, UINT32_MAX, &most, err));
    CK_TRY(ck_config_bool(c, "data.buckets", false, &several, err));
    if (only_count) CK_TRY(ck_dataset_only(o->data, only, only_count, err));
    if (most) ck_dataset_limit(o->data, most);
    o->captions = ck_dataset_count(o->data);
    return ck_buckets_make(o->data, o->width, several ? o->step : o->width, &o->buckets, err);
}

/* Lines of a file that are not empty, as a list of texts that belong to o->prompts. */
static ck_status read_lines(own *o, const char *path, const char ***lines, size_t *count,
                            ck_error *err) {
    size_t n, valid, most = 1;
    CK_TRY(ck_read_file(path, MOST_PROMPTS, &o->prompts, &n, err));
    valid = ck_utf8_check((const unsigned char *)o->prompts, strnlen(o->prompts, n));
    if (valid < n) return ck_fail(err, CK_INPUT, "%s: not text in UTF-8 (offset %zu)", path, valid);
    for (size_t i = 0; i < n; i++) most += o->prompts[i] == '\n';
    *lines = ck_alloc_array(most, sizeof **lines);
    if (!*lines) return ck_fail_memory(err, path);
    *count = 0;
    for (char *rest = o->prompts, *line; (line = strsep(&rest, "\r\n"));)
        if (*line) (*lines)[(*count)++] = line;
    return CK_OK;
}

static ck_status open_prompts(own *o, ck_config *c, ck_error *err) {
    const char *path, *const *list, **lines = NULL;
    size_t n;
    if (ck_config_has_list(c, "data.prompts")) {
        CK_TRY(ck_config_texts(c, "data.prompts", NULL, 0, &list, &n, err));
    } else {
        CK_TRY(ck_config_path(c, "data.prompts", &path, err));
        CK_TRY(read_lines(o, path, &lines, &n, err));
        list = lines;
    }
    ck_status s = n ? ck_buckets_of_texts(list, n, &o->buckets, err)
                    : ck_config_fail(c, "data.prompts", err, "no prompts in it");
    o->captions = n;
    free(lines);
    return s;
}

static ck_status open_data(own *o, ck_config *c, const char *const *names, size_t name_count,
                           ck_error *err) {
    const char *images;
    CK_TRY(ck_config_path(c, "data.images", &images, err));
    CK_TRY(ck_config_number(c, "data.drop", 0.1, 0, 1, &o->drop, err));
    bool prompts = ck_config_has(c, "data.prompts");
    if (!images == !prompts)
        return ck_config_fail(c, "data", err, "needs either images or prompts");
    if (prompts) return open_prompts(o, c, err);
    CK_TRY(open_images(o, c, images, names, name_count, err));
    return fit_images(o, c, err);
}

/* Sizes of images and latents: the model's own, unless the config says another. */
static ck_status find_sizes(ck_task *t, ck_config *c, ck_error *err) {
    own *o = of(t);
    const ck_vae_config *v = &o->model.vae_config;
    uint64_t factor = (uint64_t)ck_vae_factor(v), size;
    uint64_t step = factor * ck_model_multiple(&o->model);
    uint64_t usual = factor * ck_model_side(&o->model);
    CK_TRY(ck_config_count(c, "data.size", usual, step, CK_IMAGE_SIDE / 2, &size, err));
    if (size % step)
        return ck_config_fail(c, "data.size", err, "must be a multiple of %zu", (size_t)step);
    o->height = o->width = size;
    o->step = step;
    o->channels = (size_t)v->in_channels;
    o->h = o->w = size / factor;
    o->latent = o->h * o->w * (size_t)v->latent_channels;
    t->shape = CK_SHAPE(t->shape.d[0], (int64_t)o->h, (int64_t)o->w, v->latent_channels);
    t->tokens = ck_model_tokens(&o->model);
    t->width = ck_model_width(&o->model);
    o->encoding = (ck_encoding){&o->model, t->backend, NULL, &o->buckets};
    o->text = ck_encoding_text(&o->encoding);
    if (!ck_model_pooled(&o->model)) return CK_OK;
    /* The pooled text goes with the rest, see network.h. */
    t->tokens = 1;
    t->width = o->text;
    const ck_unet_config *u = &o->model.unet_config;
    if (u->added_width != (int64_t)ck_model_pooled(&o->model) + 6 * u->added_time &&
        o->model.kind == CK_MODEL_UNET)
        return ck_config_fail(c, "teacher", err,
                              "its UNet takes other things than SDXL's (a refiner?): it cannot be "
                              "trained");
    return CK_OK;
}

/* Batches of a bucket in a pass over all of them: as many as it has, rounded. */
static uint64_t batches_of(const own *o, size_t bucket, size_t total) {
    uint64_t n = (o->buckets.buckets[bucket].count + total / 2) / total;
    return n ? n : 1;
}

/* The bucket of a round, and the first of the round's positions in the bucket's own order. In every
 * pass over the buckets their batches come in another order. */
static size_t choose_bucket(const own *o, uint64_t seed, uint64_t round, size_t total,
                            uint64_t *position) {
    uint64_t all = 0, at;
    size_t bucket = 0;
    for (size_t b = 0; b < o->buckets.count; b++) all += batches_of(o, b, total);
    for (at = ck_shuffle(seed, all, round); at >= batches_of(o, bucket, total); bucket++)
        at -= batches_of(o, bucket, total);
    *position = (round / all * batches_of(o, bucket, total) + at) * total;
    return bucket;
}

static size_t size_of(void *self, uint64_t seed, uint64_t round, size_t total) {
    uint64_t position;
    return choose_bucket(self, seed, round, total, &position);
}

static ck_status batch(void *self, const ck_batch *b, ck_error *err) {
    const own *o = self;
    size_t bucket = 0, count = o->captions;
    uint64_t position = b->round * b->total;
    if (!o->latents) return CK_OK; /* a dry run: everything is zero */
    if (o->buckets.count > 1) {
        bucket = choose_bucket(o, b->seed, b->round, b->total, &position);
        count = o->buckets.buckets[bucket].count;
    }
    size_t latent = o->data ? ck_encoding_latent(&o->encoding, bucket) : 0;
    for (size_t i = 0; i < b->count; i++) {
        size_t at = (size_t)ck_shuffle(b->seed + bucket, count, position + b->first + i);
        size_t sample = o->data ? o->buckets.buckets[bucket].samples[at] : at;
        uint32_t words[4];
        ck_philox(b->seed, (uint32_t)b->round, DROP_STREAM, b->first + i, words);
        if (o->data)
            CK_TRY(ck_latents_read(o->latents, ck_encoding_image(&o->encoding, bucket, at),
                                   b->x0 + i * latent, err));
        size_t caption = ck_philox_uniform(words[0]) < o->drop ? 0 : o->buckets.caption_of[sample];
        CK_TRY(ck_latents_read(o->latents, caption, b->context + i * o->text, err));
        CK_TRY(ck_latents_read(o->latents, 0, b->no_context + i * o->text, err));
    }
    return CK_OK;
}

/* ---- Evaluation ---- */

/* Texts that are the config's, encoded now. */
static ck_status ask_texts(ck_task *t, const char *const *texts, size_t n, ck_error *err) {
    own *o = of(t);
    o->asked_count = n;
    o->asked = ck_alloc_array(n * o->text, sizeof *o->asked);
    if (!o->asked) return ck_fail_memory(err, "captions");
    size_t pooled = ck_model_pooled(&o->model);
    for (size_t i = 0; i < n; i++) {
        float *to = o->asked + i * o->text;
        CK_TRY(ck_model_encode_texts(&o->model, t->backend, &texts[i], 1, to,
                                     pooled ? to + o->text - pooled : NULL, err));
    }
    return CK_OK;
}

/* As many captions of the data, as they come, as are no burden to memory. */
static ck_status ask_captions(own *o, ck_error *err) {
    size_t n = ASKED_FLOATS / o->text + 1;
    if (n > o->captions) n = o->captions;
    if (n > o->samples) n = o->samples;
    o->asked_count = n;
    o->asked = ck_alloc_array(n * o->text, sizeof *o->asked);
    if (!o->asked) return ck_fail_memory(err, "captions");
    for (size_t i = 0; i < n; i++) {
        size_t caption = o->buckets.caption_of[ck_shuffle(0, o->captions, i)];
        CK_TRY(ck_latents_read(o->latents, caption, o->asked + i * o->text, err));
    }
    return CK_OK;
}

/* Better known now than after the night: that samples fit the classifier. */
static ck_status try_classifier(const own *o, ck_error *err) {
    if (!o->classifier) return CK_OK;
    float *blank = ck_alloc_array(o->channels * o->height * o->width, sizeof *blank);
    if (!blank) return ck_fail_memory(err, "the classifier");
    ck_images images = {blank, 1, o->channels, o->height, o->width};
    ck_status s = ck_classifier_run(o->classifier, images, NULL, NULL, err);
    free(blank);
    return s;
}

static ck_status open_evaluation(ck_task *t, ck_config *c, const char *const *names,
                                 size_t name_count, ck_error *err) {
    own *o = of(t);
    const char *path, *const *prompts;
    uint64_t samples;
    size_t count;
    CK_TRY(ck_config_path(c, "classifier", &path, err));
    CK_TRY(ck_config_count(c, "evaluate.samples", 1000, 10, 100000, &samples, err));
    CK_TRY(ck_config_texts(c, "evaluate.prompts", NULL, 0, &prompts, &count, err));
    o->samples = samples;
    if (path) CK_TRY(ck_classifier_open(path, &o->classifier, err));
    CK_TRY(try_classifier(o, err));
    o->classes = path && !count && name_count == ck_classifier_classes(o->classifier);
    if (t->how != CK_OPEN_WHOLE) return CK_OK;
    if (count) return ask_texts(t, prompts, count, err);
    return name_count ? ask_texts(t, names, name_count, err) : ask_captions(o, err);
}

/* ---- Opening ---- */

/* The teacher's network, or a part of it. */
static ck_status open_copy(ck_task *t, ck_config *c, ck_error *err) {
    ck_unet_config *u = &of(t)->student.unet;
    uint64_t layers;
    bool middle;
    if (!t->student.unet) return ck_params_copy(t->teacher.params, &t->student.params, err);
    CK_TRY(ck_config_count(c, "student_layers", (uint64_t)u->level[0].layers, 1, 16, &layers, err));
    CK_TRY(ck_config_bool(c, "student_middle", u->mid > 0, &middle, err));
    if ((int64_t)layers == u->level[0].layers && middle == (u->mid > 0))
        return ck_params_copy(t->teacher.params, &t->student.params, err);
    return ck_shrink(t->teacher.params, u, (int64_t)layers, middle, &t->student.params, err);
}

/* A network of the model's kind; config: of that kind, filled in. */
static ck_network network_of(const own *o, ck_network_config *config) {
    ck_network n = {.factor = ck_vae_factor(&o->model.vae_config)};
    switch (o->model.kind) {
    case CK_MODEL_MMDIT:
        config->mmdit = o->model.mmdit_config;
        n.mmdit = &config->mmdit;
        return n;
    case CK_MODEL_FLUX:
        config->flux = o->model.flux_config;
        n.flux = &config->flux;
        return n;
    default:
        config->unet = o->model.unet_config;
        n.unet = &config->unet;
        return n;
    }
}

static void detect_guidance(ck_network *student, ck_network_config *config) {
    if (student->unet) ck_guidance_detect(student->params, &config->unet);
    if (student->flux) ck_flux_detect(student->params, &config->flux);
}

/* The student is to be told the scale through an embedding of this width. */
static ck_status tell_student(ck_task *t, ck_config *c, int64_t width, ck_error *err) {
    ck_network_config *config = &of(t)->student;
    bool told = ck_network_guided(&t->student);
    if (t->student.mmdit)
        return ck_config_fail(c, "guidance_width", err, "SD3 has no embedding of guidance");
    if (t->student.flux && width != CK_FLUX_GUIDANCE)
        return ck_config_fail(c, "guidance_width", err, "FLUX has %d", CK_FLUX_GUIDANCE);
    if (width % 2 || (told && t->student.unet && config->unet.guidance != width))
        return ck_config_fail(c, "guidance_width", err, "must be even, and what the student has");
    if (told) return CK_OK;
    return t->student.flux ? ck_flux_tell(t->student.params, &config->flux, err)
                           : ck_guidance_add(t->student.params, &config->unet, width, err);
}

/* A file's network, or a copy of the teacher's; told the scale of guidance if it was or is to be.
 */
static ck_status open_student(ck_task *t, ck_config *c, const char *path, int64_t guidance,
                              ck_error *err) {
    own *o = of(t);
    t->student = network_of(o, &o->student);
    if (path) {
        const char *part = t->student.unet ? "unet." : "transformer.";
        CK_TRY(ck_params_open(path, part, &t->student.params, err));
        if (t->how == CK_OPEN_PLAN) ck_params_hollow(t->student.params);
        detect_guidance(&t->student, &o->student);
    } else {
        CK_TRY(open_copy(t, c, err));
    }
    return guidance ? tell_student(t, c, guidance, err) : CK_OK;
}

/* What an encoding needs: the model and the lists of images and captions. */
static ck_status open_source(ck_task *t, ck_config *c, const char *const *names, size_t name_count,
                             ck_error *err) {
    own *o = t->own = ck_alloc(sizeof *o);
    if (!o) return ck_fail_memory(err, "a task");
    const char *teacher;
    ck_model_parts parts = {0};
    CK_TRY(ck_config_path(c, "tokenizer", &parts.tokenizer, err));
    CK_TRY(ck_config_path(c, "parts.clip", &parts.clip, err));
    CK_TRY(ck_config_path(c, "parts.clip2", &parts.clip2, err));
    CK_TRY(ck_config_path(c, "parts.t5", &parts.t5, err));
    CK_TRY(ck_config_path(c, "parts.vae", &parts.vae, err));
    CK_TRY(ck_config_path(c, "teacher", &teacher, err));
    if (!teacher)
        return ck_config_fail(c, "teacher", err, "a model is needed: a folder, or a file");
    CK_TRY(t->how == CK_OPEN_PLAN ? ck_model_plan(teacher, &parts, &o->model, err)
                                  : ck_model_open(teacher, &parts, &o->model, err));
    t->absent = o->model.absent;
    o->folder = teacher;
    CK_TRY(find_sizes(t, c, err));
    CK_TRY(open_data(o, c, names, name_count, err));
    o->encoding.data = o->data;
    t->has_data = o->data;
    return CK_OK;
}

static ck_status read_cache(ck_config *c, const char **path, ck_dtype *dtype, ck_error *err) {
    size_t half;
    CK_TRY(ck_config_path(c, "data.cache", path, err));
    CK_TRY(ck_config_choice(c, "data.cache_dtype", "f32|f16", 0, &half, err));
    *dtype = half ? CK_F16 : CK_F32;
    return CK_OK;
}

static ck_status make_cache(ck_task *t, ck_config *c, ck_error *err) {
    const char *path, *const *names;
    size_t name_count;
    ck_dtype dtype;
    CK_TRY(ck_config_texts(c, "data.names", NULL, 0, &names, &name_count, err));
    CK_TRY(read_cache(c, &path, &dtype, err));
    if (!path) return ck_config_fail(c, "data.cache", err, "the file to make is needed");
    CK_TRY(open_source(t, c, names, name_count, err));
    return ck_cache_make(&of(t)->encoding, path, dtype, err);
}

/* A size of each bucket, where there are several. */
static ck_status list_sizes(ck_task *t, ck_error *err) {
    const own *o = of(t);
    size_t factor = (size_t)ck_vae_factor(&o->model.vae_config);
    if (o->buckets.count < 2) return CK_OK;
    t->data.size = size_of;
    t->sizes = ck_alloc_array(o->buckets.count, sizeof *t->sizes);
    if (!t->sizes) return ck_fail_memory(err, "sizes");
    for (size_t i = 0; i < o->buckets.count; i++) {
        ck_size *s = &t->sizes[t->size_count++];
        size_t h = o->buckets.buckets[i].height / factor, w = o->buckets.buckets[i].width / factor;
        s->shape = t->shape;
        s->shape.d[1] = (int64_t)h, s->shape.d[2] = (int64_t)w;
        CK_TRY(ck_process_new(&o->model.schedule, h * w / 4, &s->process, err));
    }
    return CK_OK;
}

static ck_status open_task(ck_task *t, ck_config *c, ck_error *err) {
    const char *student, *cache, *const *names;
    size_t name_count;
    uint64_t guidance;
    bool checkpoint;
    ck_dtype dtype;
    CK_TRY(ck_config_path(c, "student", &student, err));
    CK_TRY(ck_config_bool(c, "checkpointing", false, &checkpoint, err));
    CK_TRY(ck_config_count(c, "guidance_width", 0, 2, 4096, &guidance, err));
    CK_TRY(ck_config_texts(c, "data.names", NULL, 0, &names, &name_count, err));
    CK_TRY(read_cache(c, &cache, &dtype, err));
    CK_TRY(open_source(t, c, names, name_count, err));
    own *o = of(t);
    ck_model_checkpoint(&o->model, checkpoint);
    t->data = (ck_data){o, batch, NULL};
    CK_TRY(list_sizes(t, err));
    t->teacher_steps = 25;
    t->teacher_walk = CK_WALK_DDIM;
    CK_TRY(ck_process_new(&o->model.schedule, o->h * o->w / 4, &t->process, err));
    t->from_file = cache;
    if (t->how == CK_OPEN_WHOLE)
        CK_TRY(cache ? ck_latents_open(&o->encoding, cache, &o->latents, err)
                     : ck_latents_encode(&o->encoding, &o->latents, err));
    CK_TRY(open_evaluation(t, c, names, name_count, err));
    t->teacher = network_of(o, &o->teacher);
    t->teacher.params = o->model.unet;
    o->model.unet = NULL; /* the task's from here on */
    return open_student(t, c, student, (int64_t)guidance, err);
}

static void close_task(ck_task *t) {
    own *o = of(t);
    if (!o) return;
    ck_images__forget(o);
    ck_classifier_close(o->classifier);
    ck_latents_close(o->latents);
    ck_buckets_free(&o->buckets);
    ck_dataset_close(o->data);
    ck_model_close(&o->model);
    free(o->asked);
    free(o->prompts);
    free(o);
}

/* The network's config.json beside a student that has an embedding of guidance or blocks other than
 * its teacher's. (A teacher in one file has no config.) */
static ck_status write_config(const own *o, const char *student, ck_error *err) {
    const char *part = o->model.kind == CK_MODEL_UNET ? "unet" : "transformer";
    char *from = ck_sprintf("%s/%s/config.json", o->folder, part);
    char *to =
        ck_sprintf("%.*s/config.%s.json", (int)(strrchr(student, '/') - student), student, part);
    ck_status s = from && to ? CK_OK : ck_fail_memory(err, student);
    if (s == CK_OK && access(from, F_OK) == 0)
        s = o->model.kind == CK_MODEL_FLUX ? ck_flux_write(from, &o->student.flux, to, err)
                                           : ck_unet_write(from, &o->student.unet, to, err);
    free(from);
    free(to);
    return s;
}

/* Whether the teacher's config.json is true of the student. */
static bool is_alike(const ck_task *t) {
    const ck_unet_config *mine = t->student.unet, *theirs = t->teacher.unet;
    if (!mine) return ck_network_guided(&t->student) == ck_network_guided(&t->teacher);
    return mine->guidance == theirs->guidance && ck_network_same_blocks(&t->student, &t->teacher);
}

static ck_status export(ck_task *t, const ck_params *weights, const char *path, ck_dtype dtype,
                        const ck_meta *facts, size_t count, ck_error *err) {
    CK_TRY(ck_export(weights, path, dtype, facts, count, err));
    return is_alike(t) ? CK_OK : write_config(of(t), path, err);
}

const ck_task_kind ck_task_images = {
    .name = "images",
    .summary = "images from latents, by a UNet or transformer with captions",
    .open = open_task,
    .close = close_task,
    .judge = ck_images__judge,
    .pictures = true,
    .cache = make_cache,
    .export = export,
};
