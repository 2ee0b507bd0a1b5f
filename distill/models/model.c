/* Whole models, see model.h. How they are opened: model_folder.c, model_file.c. */
#include "distill/models/model.h"

#include "distill/models/model_int.h"
#include "io/os.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- Opening ---- */

ck_status ck_model__open_unigram(const char *folder, const char *suffix, ck_model_t5 *t,
                                 ck_error *err) {
    CK_TRY(ck_unigram_open(folder, suffix, &t->tokenizer, err));
    if (ck_unigram_largest(t->tokenizer) < t->config.vocabulary) return CK_OK;
    return ck_fail(err, CK_INPUT, "%s: has more pieces than the text encoder knows", folder);
}

void ck_model__detect_guidance(ck_model *m) {
    if (m->kind == CK_MODEL_UNET) ck_guidance_detect(m->unet, &m->unet_config);
    if (m->kind == CK_MODEL_FLUX) ck_flux_detect(m->unet, &m->flux_config);
}

static int64_t clip_width(const ck_model *m) {
    int64_t width = 0;
    for (size_t i = 0; i < m->texts; i++) width += m->text[i].config.width;
    return width;
}

/* Of one CLIP encoder, as far as the network takes it. */
static size_t pooled_of(const ck_model *m, size_t which) {
    const ck_clip_config *c = &m->text[which].config;
    if (m->kind == CK_MODEL_UNET && (m->texts < 2 || which == 0)) return 0;
    return (size_t)(c->projection ? c->projection : c->width);
}

static size_t all_pooled(const ck_model *m) {
    size_t width = 0;
    for (size_t i = 0; i < m->texts; i++) width += pooled_of(m, i);
    return width;
}

/* Whether the encoders give what the network takes; a plan may be without them. */
static ck_status check_texts(const char *path, const ck_model *m, ck_error *err) {
    int64_t gives = clip_width(m), takes = m->unet_config.context;
    if (!gives && m->planned) return CK_OK;
    if (m->kind != CK_MODEL_UNET) {
        gives = (int64_t)all_pooled(m);
        takes = (int64_t)ck_model_pooled(m);
    }
    if (gives != takes)
        return ck_fail(err, CK_INPUT,
                       "%s: the network takes text of width %lld, the encoders give %lld", path,
                       (long long)takes, (long long)gives);
    if (m->kind == CK_MODEL_MMDIT && clip_width(m) > m->mmdit_config.context)
        return ck_fail(err, CK_INPUT, "%s: the encoders give more than the network takes", path);
    if (m->t5.params && m->t5.config.width != (int64_t)ck_model_width(m))
        return ck_fail(err, CK_INPUT, "%s: the network takes text of width %zu, T5 gives %lld",
                       path, ck_model_width(m), (long long)m->t5.config.width);
    return CK_OK;
}

static ck_status open_model(const char *path, const ck_model_parts *parts, ck_model *m,
                            ck_error *err) {
    static const ck_model_parts none;
    struct stat st;
    bool file = stat(path, &st) == 0 && S_ISREG(st.st_mode);
    if (!parts) parts = &none;
    ck_status s = file ? ck_model__open_file(path, parts, m, err)
                       : ck_model__open_folder(path, parts, m, err);
    /* No file says so; its pipeline does it. */
    if (m->kind == CK_MODEL_FLUX) m->schedule.spacing = CK_SPACING_TRAILING;
    if (s == CK_OK) s = check_texts(path, m, err);
    if (s != CK_OK) ck_model_close(m);
    return s;
}

ck_status ck_model_open(const char *path, const ck_model_parts *parts, ck_model *m, ck_error *err) {
    *m = (ck_model){0};
    return open_model(path, parts, m, err);
}

ck_status ck_model_plan(const char *path, const ck_model_parts *parts, ck_model *m, ck_error *err) {
    *m = (ck_model){.planned = true};
    return open_model(path, parts, m, err);
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

size_t ck_model_pooled(const ck_model *m) {
    return m->kind == CK_MODEL_FLUX    ? (size_t)m->flux_config.pooled
           : m->kind == CK_MODEL_MMDIT ? (size_t)m->mmdit_config.pooled
                                       : all_pooled(m);
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

void ck_model_unload_texts(ck_model *m) {
    for (size_t i = 0; i < m->texts; i++) ck_params_unload(m->text[i].params);
    if (m->t5.params) ck_params_unload(m->t5.params);
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
    ck_params_unload(m->vae);
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
