/* Whole models, see model.h. */
#include "distill/models/model.h"

#include "distill/models/detect_int.h"
#include "io/anatomy.h"
#include "io/json.h"
#include "io/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Opening a folder ---- */

/* "FOLDER/PART/NAME" of the first of these names that exists, else of the first; to be released
 * with free(). */
static char *find_file(const char *folder, const char *part, const char *const *names) {
    for (size_t i = 0; names[i]; i++) {
        char *path = ck_sprintf("%s/%s/%s", folder, part, names[i]);
        if (!path || access(path, F_OK) == 0) return path;
        free(path);
    }
    return ck_sprintf("%s/%s/%s", folder, part, names[0]);
}

static ck_status open_weights(const char *folder, const char *part, const char *const *names,
                              ck_params **params, ck_error *err) {
    char *path = find_file(folder, part, names);
    if (!path) return ck_fail_memory(err, folder);
    ck_status s = ck_params_open(path, "", params, err);
    free(path);
    return s;
}

static const char *const model_files[] = {"diffusion_pytorch_model.safetensors",
                                          "diffusion_pytorch_model.safetensors.index.json",
                                          "diffusion_pytorch_model.fp16.safetensors", NULL};
static const char *const text_files[] = {"model.safetensors", "model.safetensors.index.json",
                                         "model.fp16.safetensors", NULL};

static ck_status open_text(const char *folder, const char *suffix, bool planned, ck_model_text *t,
                           ck_error *err) {
    char part[32];
    snprintf(part, sizeof part, "text_encoder%s", suffix);
    char *config = ck_sprintf("%s/%s/config.json", folder, part);
    if (!config) return ck_fail_memory(err, folder);
    ck_status s = ck_clip_read(config, &t->config, err);
    free(config);
    CK_TRY(s);
    t->tokens = (size_t)t->config.positions;
    if (planned) return CK_OK;
    CK_TRY(ck_tokenizer_open(folder, suffix, &t->tokenizer, err));
    t->tokens = ck_tokenizer_length(t->tokenizer);
    return open_weights(folder, part, text_files, &t->params, err);
}

static bool has_part(const char *folder, const char *part) {
    char *path = ck_sprintf("%s/%s/config.json", folder, part);
    bool has = path && access(path, F_OK) == 0;
    free(path);
    return has;
}

static ck_status read_index(const char *folder, ck_model *m, ck_error *err) {
    char *path = ck_sprintf("%s/model_index.json", folder);
    if (!path) return ck_fail_memory(err, folder);
    ck_json doc;
    ck_status s = ck_json_load(path, &doc, err);
    free(path);
    CK_TRY(s);
    s = ck_json_bool(&doc, doc.root, "force_zeros_for_empty_prompt", &m->zero_empty, err);
    ck_json_free(&doc);
    return s;
}

static ck_status read_schedule(const char *folder, ck_model *m, ck_error *err) {
    char *path = ck_sprintf("%s/scheduler/scheduler_config.json", folder);
    ck_status s = path ? ck_schedule_read(path, &m->schedule, err) : ck_fail_memory(err, folder);
    free(path);
    return s;
}

static ck_status read_vae(const char *folder, ck_model *m, ck_error *err) {
    char *path = ck_sprintf("%s/vae/config.json", folder);
    ck_status s = path ? ck_vae_read(path, &m->vae_config, err) : ck_fail_memory(err, folder);
    free(path);
    return s;
}

/* A transformer's config says by its class which it is. */
static ck_status read_transformer(const char *path, ck_model *m, ck_error *err) {
    ck_json doc;
    const char *class = NULL;
    CK_TRY(ck_json_load(path, &doc, err));
    ck_status s = ck_json_text(&doc, doc.root, "_class_name", &class, err);
    bool flux = class && strcmp(class, "FluxTransformer2DModel") == 0;
    ck_json_free(&doc);
    CK_TRY(s);
    m->kind = flux ? CK_MODEL_FLUX : CK_MODEL_MMDIT;
    return flux ? ck_flux_read(path, &m->flux_config, err)
                : ck_mmdit_read(path, &m->mmdit_config, err);
}

static ck_status read_network(const char *folder, const char *part, ck_model *m, ck_error *err) {
    char *path = ck_sprintf("%s/%s/config.json", folder, part);
    if (!path) return ck_fail_memory(err, folder);
    ck_status s = strcmp(part, "unet") == 0 ? ck_unet_read(path, &m->unet_config, err)
                                            : read_transformer(path, m, err);
    free(path);
    return s;
}

static ck_status open_t5(const char *folder, const char *suffix, size_t tokens, bool planned,
                         ck_model_t5 *t, ck_error *err) {
    char part[32];
    snprintf(part, sizeof part, "text_encoder%s", suffix);
    char *config = ck_sprintf("%s/%s/config.json", folder, part);
    char *words = ck_sprintf("%s/tokenizer%s", folder, suffix);
    ck_status s = config && words ? CK_OK : ck_fail_memory(err, folder);
    t->tokens = tokens;
    if (s == CK_OK) s = ck_t5_read(config, &t->config, err);
    if (s == CK_OK && !planned) s = ck_unigram_open(words, &t->tokenizer, err);
    if (s == CK_OK && !planned && ck_unigram_largest(t->tokenizer) >= t->config.vocabulary)
        s = ck_fail(err, CK_INPUT, "%s: has more pieces than the text encoder knows", words);
    free(config);
    free(words);
    return s == CK_OK && !planned ? open_weights(folder, part, text_files, &t->params, err) : s;
}

/* What pipelines of these models do, unless they are told otherwise. */
enum { T5_TOKENS_SD3 = 256, T5_TOKENS_FLUX = 512 };

static ck_status open_texts(const char *folder, ck_model *m, ck_error *err) {
    m->texts = 1;
    CK_TRY(open_text(folder, "", m->planned, &m->text[0], err));
    if (m->kind == CK_MODEL_FLUX)
        return open_t5(folder, "_2", T5_TOKENS_FLUX, m->planned, &m->t5, err);
    if (has_part(folder, "text_encoder_2")) {
        m->texts = 2;
        CK_TRY(open_text(folder, "_2", m->planned, &m->text[1], err));
    }
    if (m->kind != CK_MODEL_MMDIT) return CK_OK;
    m->t5.tokens = T5_TOKENS_SD3;
    return has_part(folder, "text_encoder_3")
               ? open_t5(folder, "_3", T5_TOKENS_SD3, m->planned, &m->t5, err)
               : CK_OK;
}

static int64_t clip_width(const ck_model *m) {
    int64_t width = 0;
    for (size_t i = 0; i < m->texts; i++) width += m->text[i].config.width;
    return width;
}

/* Whether the encoders give what the network takes. */
static ck_status check_texts(const char *folder, const ck_model *m, ck_error *err) {
    int64_t gives = clip_width(m), takes = m->unet_config.context;
    if (m->kind != CK_MODEL_UNET) {
        bool flux = m->kind == CK_MODEL_FLUX;
        gives = (int64_t)ck_model_pooled(m);
        takes = flux ? m->flux_config.pooled : m->mmdit_config.pooled;
    }
    if (gives != takes)
        return ck_fail(err, CK_INPUT,
                       "%s: the network takes text of width %lld, the encoders give %lld", folder,
                       (long long)takes, (long long)gives);
    if (m->kind == CK_MODEL_MMDIT && clip_width(m) > m->mmdit_config.context)
        return ck_fail(err, CK_INPUT, "%s: the encoders give more than the network takes", folder);
    if (m->t5.params && m->t5.config.width != (int64_t)ck_model_width(m))
        return ck_fail(err, CK_INPUT, "%s: the network takes text of width %zu, T5 gives %lld",
                       folder, ck_model_width(m), (long long)m->t5.config.width);
    return CK_OK;
}

/* The network's weights; in a plan as far as they are there. */
static ck_status open_network(const char *folder, const char *part, ck_model *m, ck_error *err) {
    ck_status s = open_weights(folder, part, model_files, &m->unet, err);
    if (s == CK_IO && m->planned) {
        m->unet = ck_params_new(0);
        m->absent = true;
        s = m->unet ? CK_OK : ck_fail_memory(err, folder);
    }
    if (s == CK_OK && m->planned) ck_params_hollow(m->unet);
    return s;
}

static ck_status open_parts(const char *folder, ck_model *m, ck_error *err) {
    const char *part = has_part(folder, "transformer") ? "transformer" : "unet";
    CK_TRY(read_index(folder, m, err));
    CK_TRY(read_network(folder, part, m, err));
    CK_TRY(read_vae(folder, m, err));
    CK_TRY(read_schedule(folder, m, err));
    /* No file says so; its pipeline does it. */
    if (m->kind == CK_MODEL_FLUX) m->schedule.spacing = CK_SPACING_TRAILING;
    CK_TRY(open_network(folder, part, m, err));
    if (!m->planned) CK_TRY(open_weights(folder, "vae", model_files, &m->vae, err));
    CK_TRY(open_texts(folder, m, err));
    return check_texts(folder, m, err);
}

/* ---- Of one file ---- */

/* What the architecture says and no shape does. */
static ck_status set_published(const ck_anatomy *a, const char *path, ck_model *m, ck_error *err) {
    bool sdxl = a->architecture->id == CK_ARCH_SDXL, v = a->prediction == CK_PREDICTION_V;
    if (a->prediction == CK_PREDICTION_EDM || a->prediction == CK_PREDICTION_EDM_V)
        return ck_fail(err, CK_INPUT, "%s: EDM's noise levels (%s) are not implemented", path,
                       a->prediction_reason);
    m->schedule = ck_schedule_sd();
    if (sdxl) m->schedule.sampler = "euler";
    if (v) m->schedule.prediction = CK_PREDICT_V;
    m->schedule.zero_snr = a->zero_snr;
    m->zero_empty = sdxl;
    m->texts = sdxl ? 2 : 1;
    if (sdxl) m->vae_config.scale = 0.13025;
    m->unet_config.sample_size = sdxl ? 128 : a->architecture->id == CK_ARCH_SD2 && v ? 96 : 64;
    /* Stable Diffusion 2 takes what leaves the last but one layer. */
    if (a->architecture->id == CK_ARCH_SD2 && m->text[0].config.layers == 24)
        m->text[0].config.layers = 23;
    return CK_OK;
}

static ck_status check_file(const ck_anatomy *a, const char *path, ck_error *err) {
    const ck_architecture *kind = a->architecture;
    if (kind->id != CK_ARCH_SD1 && kind->id != CK_ARCH_SD2 && kind->id != CK_ARCH_SDXL)
        return ck_fail(err, CK_INPUT,
                       "%s: %s: of models in one file, Stable Diffusion 1, 2 and XL can be opened; "
                       "others as folders",
                       path, kind->title);
    if (a->unusual)
        return ck_fail(err, CK_INPUT,
                       "%s: a %s of unusual size (%s): the file does not say how many heads and "
                       "groups it has; open it as a folder with config.json files",
                       path, kind->title, a->unusual);
    ck_part text = kind->id == CK_ARCH_SD2 ? CK_PART_CLIP_H : CK_PART_CLIP_L;
    ck_part parts[] = {CK_PART_VAE, text, kind->id == CK_ARCH_SDXL ? CK_PART_CLIP_G : text};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!ck_anatomy_find(a, parts[i]))
            return ck_fail(err, CK_INPUT, "%s: has no %s", path, ck_part_title(parts[i]));
    return CK_OK;
}

/* OpenCLIP's encoders were trained with "!" as padding, OpenAI's with the end token; their
 * vocabularies are the same otherwise, so that a mistake would not show but in the pictures. */
static ck_status check_padding(const ck_model_text *t, const char *tokenizer, ck_error *err) {
    size_t lost, length = ck_tokenizer_length(t->tokenizer);
    int32_t *ids = ck_alloc_array(length, sizeof *ids);
    if (!ids) return ck_fail_memory(err, tokenizer);
    ck_status s = ck_tokenizer_encode(t->tokenizer, "", ids, &lost, err);
    bool ends = s == CK_OK && ids[length - 1] == ck_tokenizer_end(t->tokenizer);
    free(ids);
    if (s == CK_OK && ends != (t->config.activation == CK_QUICK_GELU))
        return ck_fail(err, CK_INPUT,
                       "%s: this is not the tokenizer of this text encoder: it pads with %s; take "
                       "that of a folder of the same model",
                       tokenizer, ends ? "the end token" : "another than the end token");
    return s;
}

static ck_status open_file_parts(const ck_anatomy *a, const char *path, const char *tokenizer,
                                 ck_model *m, ck_error *err) {
    static const char *const texts[] = {"text_encoder.", "text_encoder_2."};
    CK_TRY(check_file(a, path, err));
    CK_TRY(ck_params_open(path, "unet.", &m->unet, err));
    CK_TRY(ck_params_open(path, "vae.", &m->vae, err));
    CK_TRY(ck_detect__unet(m->unet, &m->unet_config, err));
    CK_TRY(ck_detect__vae(m->vae, &m->vae_config, err));
    for (size_t i = 0; i < (a->architecture->id == CK_ARCH_SDXL ? 2 : 1); i++) {
        ck_model_text *t = &m->text[i];
        CK_TRY(ck_params_open(path, texts[i], &t->params, err));
        CK_TRY(ck_detect__clip(t->params, &t->config, err));
        t->tokens = (size_t)t->config.positions;
        if (m->planned) continue;
        CK_TRY(ck_tokenizer_open(tokenizer, i ? "_2" : "", &t->tokenizer, err));
        CK_TRY(check_padding(t, tokenizer, err));
        t->tokens = ck_tokenizer_length(t->tokenizer);
    }
    if (m->planned) ck_params_hollow(m->unet);
    return set_published(a, path, m, err);
}

static ck_status open_file(const char *path, const char *tokenizer, ck_model *m, ck_error *err) {
    ck_reader *r;
    ck_anatomy a;
    if (!tokenizer && !m->planned)
        return ck_fail(err, CK_USAGE,
                       "%s: a model in one file has no vocabulary: --tokenizer (a config's "
                       "tokenizer) names a folder with vocab.json and merges.txt, such as any "
                       "Stable Diffusion folder has",
                       path);
    CK_TRY(ck_reader_open(path, &r, err));
    ck_status s = ck_anatomy_of(r, &a, err);
    if (s == CK_OK) {
        s = open_file_parts(&a, path, tokenizer, m, err);
        ck_anatomy_free(&a);
    }
    ck_reader_close(r);
    return s;
}

static ck_status open_model(const char *path, const char *tokenizer, ck_model *m, ck_error *err) {
    struct stat st;
    bool file = stat(path, &st) == 0 && S_ISREG(st.st_mode);
    ck_status s = file ? open_file(path, tokenizer, m, err) : open_parts(path, m, err);
    if (s != CK_OK) ck_model_close(m);
    return s;
}

ck_status ck_model_open(const char *path, const char *tokenizer, ck_model *m, ck_error *err) {
    *m = (ck_model){0};
    return open_model(path, tokenizer, m, err);
}

ck_status ck_model_plan(const char *path, ck_model *m, ck_error *err) {
    *m = (ck_model){.planned = true};
    return open_model(path, NULL, m, err);
}

void ck_model_close(ck_model *m) {
    ck_params_free(m->unet);
    ck_params_free(m->vae);
    for (size_t i = 0; i < 2; i++) {
        ck_params_free(m->text[i].params);
        ck_tokenizer_close(m->text[i].tokenizer);
    }
    ck_params_free(m->t5.params);
    ck_unigram_close(m->t5.tokenizer);
    *m = (ck_model){0};
}

/* ---- Sizes ---- */

int64_t ck_model_channels(const ck_model *m) {
    return m->kind == CK_MODEL_FLUX    ? m->flux_config.in_channels
           : m->kind == CK_MODEL_MMDIT ? m->mmdit_config.in_channels
                                       : m->unet_config.in_channels;
}

size_t ck_model_side(const ck_model *m) {
    return m->kind == CK_MODEL_FLUX    ? 128
           : m->kind == CK_MODEL_MMDIT ? (size_t)m->mmdit_config.sample_size
                                       : (size_t)m->unet_config.sample_size;
}

size_t ck_model_multiple(const ck_model *m) {
    return m->kind == CK_MODEL_FLUX    ? 2
           : m->kind == CK_MODEL_MMDIT ? (size_t)m->mmdit_config.patch
                                       : (size_t)1 << (m->unet_config.levels - 1);
}

bool ck_model_guided(const ck_model *m) {
    return m->kind == CK_MODEL_FLUX ? m->flux_config.guidance : m->unet_config.guidance != 0;
}

/* ---- Text ---- */

size_t ck_model_tokens(const ck_model *m) {
    if (m->kind == CK_MODEL_FLUX) return m->t5.tokens;
    return m->text[0].tokens + m->t5.tokens;
}

size_t ck_model_width(const ck_model *m) {
    return m->kind == CK_MODEL_FLUX    ? (size_t)m->flux_config.context
           : m->kind == CK_MODEL_MMDIT ? (size_t)m->mmdit_config.context
                                       : (size_t)clip_width(m);
}

/* Of one CLIP encoder, as far as the network takes it. */
static size_t pooled_of(const ck_model *m, size_t which) {
    const ck_clip_config *c = &m->text[which].config;
    if (m->kind == CK_MODEL_UNET && (m->texts < 2 || which == 0)) return 0;
    return (size_t)(c->projection ? c->projection : c->width);
}

size_t ck_model_pooled(const ck_model *m) {
    size_t width = 0;
    for (size_t i = 0; i < m->texts; i++) width += pooled_of(m, i);
    return width;
}

/* A graph that is run once. */
typedef struct once {
    ck_graph *graph;
    ck_exec *exec;
} once;

static ck_status plan(once *o, const ck_backend *b, const ck_node *outputs, size_t n,
                      ck_error *err) {
    CK_TRY(ck_exec_new(b, o->graph, outputs, n, &o->exec, err));
    return ck_exec_allocate(o->exec, 0, err);
}

static void end(once *o) {
    ck_exec_free(o->exec);
    ck_graph_free(o->graph);
}

/* One prompt through one encoder; its numbers go to context at every stride. */
static ck_status run_text(const ck_model *m, size_t which, const int32_t *ids, once *o,
                          const ck_backend *b, float *states, float *pooled, ck_error *err) {
    const ck_model_text *t = &m->text[which];
    int64_t length = (int64_t)t->tokens;
    int32_t row;
    ck_clip_ends(&t->config, ids, 1, (size_t)length, &row);
    o->graph = ck_graph_new();
    if (!o->graph) return ck_fail_memory(err, "a text");
    ck_node in = ck_input(o->graph, "ids", CK_I32, CK_SHAPE(1, length));
    ck_node at = ck_input(o->graph, "end", CK_I32, CK_SHAPE(1));
    ck_clip_text text = ck_clip(o->graph, t->params, &t->config, in, at);
    CK_TRY(ck_graph_check(o->graph, err));
    /* Models with two encoders take what enters the last layers. */
    size_t pools = pooled_of(m, which);
    ck_node outputs[] = {m->texts == 2 ? text.penultimate : text.last, text.pooled};
    CK_TRY(plan(o, b, outputs, pools ? 2 : 1, err));
    CK_TRY(ck_exec_write(o->exec, in, ids, (size_t)length, err));
    CK_TRY(ck_exec_write(o->exec, at, &row, 1, err));
    CK_TRY(ck_exec_run(o->exec, err));
    size_t n = (size_t)(length * t->config.width);
    CK_TRY(ck_exec_read(o->exec, outputs[0], states, n, err));
    return pools ? ck_exec_read(o->exec, text.pooled, pooled, pools, err) : CK_OK;
}

static ck_status encode_text(ck_model *m, size_t which, const ck_backend *b, const char *prompt,
                             float *states, float *pooled, ck_error *err) {
    int32_t *ids = ck_alloc_array(m->text[which].tokens, sizeof *ids);
    if (!ids) return ck_fail_memory(err, "a text");
    size_t lost = 0;
    ck_status s = ck_tokenizer_encode(m->text[which].tokenizer, prompt, ids, &lost, err);
    m->lost += lost;
    once o = {0};
    if (s == CK_OK) s = run_text(m, which, ids, &o, b, states, pooled, err);
    end(&o);
    free(ids);
    return s;
}

static ck_status run_t5(const ck_model_t5 *t, const int32_t *ids, const int32_t *buckets, once *o,
                        const ck_backend *b, float *states, ck_error *err) {
    int64_t n = (int64_t)t->tokens;
    o->graph = ck_graph_new();
    if (!o->graph) return ck_fail_memory(err, "a text");
    ck_node in = ck_input(o->graph, "ids", CK_I32, CK_SHAPE(n));
    ck_node pairs = ck_input(o->graph, "buckets", CK_I32, CK_SHAPE(n, n));
    ck_node out = ck_t5(o->graph, t->params, &t->config, in, pairs);
    CK_TRY(ck_graph_check(o->graph, err));
    CK_TRY(plan(o, b, &out, 1, err));
    CK_TRY(ck_exec_write(o->exec, in, ids, t->tokens, err));
    CK_TRY(ck_exec_write(o->exec, pairs, buckets, t->tokens * t->tokens, err));
    CK_TRY(ck_exec_run(o->exec, err));
    return ck_exec_read(o->exec, out, states, t->tokens * (size_t)t->config.width, err);
}

static ck_status encode_t5(ck_model *m, const ck_backend *b, const char *prompt, float *states,
                           ck_error *err) {
    const ck_model_t5 *t = &m->t5;
    size_t lost = 0;
    int32_t *ids = ck_alloc_array(t->tokens, sizeof *ids);
    int32_t *buckets = ck_alloc_array(t->tokens * t->tokens, sizeof *buckets);
    once o = {0};
    ck_status s = ids && buckets ? CK_OK : ck_fail_memory(err, "a text");
    if (s == CK_OK) s = ck_unigram_encode(t->tokenizer, prompt, t->tokens, ids, &lost, err);
    m->lost += lost;
    if (s == CK_OK) {
        ck_t5_buckets(&t->config, t->tokens, buckets);
        s = run_t5(t, ids, buckets, &o, b, states, err);
    }
    end(&o);
    free(ids);
    free(buckets);
    return s;
}

/* All encoders: CLIP's states side by side (FLUX takes but the pooled output), below them T5's.
 * What an encoder does not fill is zero. */
static ck_status encode_prompt(ck_model *m, const ck_backend *b, const char *prompt, float *states,
                               float *context, float *pooled, ck_error *err) {
    size_t width = ck_model_width(m), at = 0;
    memset(context, 0, ck_model_tokens(m) * width * sizeof *context);
    if (m->zero_empty && !*prompt) {
        memset(pooled, 0, ck_model_pooled(m) * sizeof *pooled);
        return CK_OK;
    }
    for (size_t i = 0; i < m->texts; i++) {
        size_t own = (size_t)m->text[i].config.width;
        size_t tokens = m->text[i].tokens;
        CK_TRY(encode_text(m, i, b, prompt, states, pooled, err));
        for (size_t t = 0; t < tokens && m->kind != CK_MODEL_FLUX; t++)
            memcpy(context + t * width + at, states + t * own, own * sizeof *states);
        at += own;
        if (pooled) pooled += pooled_of(m, i);
    }
    if (!m->t5.params) return CK_OK;
    return encode_t5(m, b, prompt, context + (ck_model_tokens(m) - m->t5.tokens) * width, err);
}

/* The most that one of CLIP's encoders says. */
static size_t most_states(const ck_model *m) {
    size_t most = 0;
    for (size_t i = 0; i < m->texts; i++) {
        size_t n = m->text[i].tokens * (size_t)m->text[i].config.width;
        if (n > most) most = n;
    }
    return most;
}

ck_status ck_model_encode_texts(ck_model *m, const ck_backend *b, const char *const *prompts,
                                size_t n, float *context, float *pooled, ck_error *err) {
    size_t size = ck_model_tokens(m) * ck_model_width(m);
    float *states = ck_alloc_array(most_states(m), sizeof *states);
    if (!states) return ck_fail_memory(err, "a text");
    ck_status s = CK_OK;
    for (size_t i = 0; i < n && s == CK_OK; i++)
        s = encode_prompt(m, b, prompts[i], states, context + i * size,
                          pooled ? pooled + i * ck_model_pooled(m) : NULL, err);
    free(states);
    return s;
}

/* ---- Images ---- */

enum { BATCH = 16 };

typedef struct coder {
    once o;
    ck_node in, out;
    size_t in_size, out_size; /* numbers of one image */
} coder;

/* All n items in batches; the last one is filled up with what the buffer had before. */
static ck_status code_all(coder *c, size_t batch, const float *from, size_t n, float *to,
                          ck_error *err) {
    float *in = ck_alloc_array(batch * c->in_size, sizeof *in);
    float *out = ck_alloc_array(batch * c->out_size, sizeof *out);
    ck_status s = in && out ? CK_OK : ck_fail_memory(err, "images");
    for (size_t i = 0; i < n && s == CK_OK; i += batch) {
        size_t some = n - i < batch ? n - i : batch;
        memcpy(in, from + i * c->in_size, some * c->in_size * sizeof *in);
        s = ck_exec_write(c->o.exec, c->in, in, batch * c->in_size, err);
        if (s == CK_OK) s = ck_exec_run(c->o.exec, err);
        if (s == CK_OK) s = ck_exec_read(c->o.exec, c->out, out, batch * c->out_size, err);
        if (s == CK_OK) memcpy(to + i * c->out_size, out, some * c->out_size * sizeof *out);
    }
    free(in);
    free(out);
    return s;
}

static ck_status code(coder *c, const ck_backend *b, size_t batch, const float *from, size_t n,
                      float *to, ck_error *err) {
    CK_TRY(ck_graph_check(c->o.graph, err));
    ck_shape in = ck_node_shape(c->o.graph, c->in), out = ck_node_shape(c->o.graph, c->out);
    c->in_size = (size_t)ck_shape_count(&in) / batch;
    c->out_size = (size_t)ck_shape_count(&out) / batch;
    CK_TRY(plan(&c->o, b, &c->out, 1, err));
    return code_all(c, batch, from, n, to, err);
}

ck_status ck_model_encode(ck_model *m, const ck_backend *b, const float *pixels, size_t n,
                          size_t height, size_t width, float *latents, ck_error *err) {
    const ck_vae_config *v = &m->vae_config;
    size_t batch = n < BATCH ? n : BATCH;
    coder c = {.o.graph = ck_graph_new()};
    if (!c.o.graph) return ck_fail_memory(err, "images");
    c.in = ck_input(c.o.graph, "image", CK_F32,
                    CK_SHAPE((int64_t)batch, (int64_t)height, (int64_t)width, v->in_channels));
    ck_node mean = ck_vae_encode(c.o.graph, m->vae, v, c.in).mean;
    c.out = ck_affine(c.o.graph, mean, v->scale, -v->shift * v->scale);
    ck_status s = code(&c, b, batch, pixels, n, latents, err);
    end(&c.o);
    return s;
}

static void build_decoder(coder *c, ck_model *m, size_t batch, size_t h, size_t w) {
    const ck_vae_config *v = &m->vae_config;
    ck_graph *g = c->o.graph;
    c->in = ck_input(g, "latents", CK_F32,
                     CK_SHAPE((int64_t)batch, (int64_t)h, (int64_t)w, v->latent_channels));
    c->out = ck_vae_decode(g, m->vae, v, ck_affine(g, c->in, 1 / v->scale, v->shift));
}

ck_status ck_model_check_decoder(ck_model *m, size_t h, size_t w, ck_error *err) {
    coder c = {.o.graph = ck_graph_new()};
    if (!c.o.graph) return ck_fail_memory(err, "images");
    build_decoder(&c, m, 1, h, w);
    ck_status s = ck_graph_check(c.o.graph, err);
    end(&c.o);
    return s;
}

ck_status ck_model_decode(ck_model *m, const ck_backend *b, const float *latents, size_t n,
                          size_t h, size_t w, float *pixels, ck_error *err) {
    size_t batch = n < BATCH ? n : BATCH;
    coder c = {.o.graph = ck_graph_new()};
    if (!c.o.graph) return ck_fail_memory(err, "images");
    build_decoder(&c, m, batch, h, w);
    ck_status s = code(&c, b, batch, latents, n, pixels, err);
    end(&c.o);
    return s;
}
