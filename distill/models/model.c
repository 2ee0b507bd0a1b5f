/* Whole models, see model.h. How they are opened: model_folder.c, model_file.c. */
#include "distill/models/model.h"

#include "distill/models/model_int.h"
#include "distill/models/model_network.h"
#include "io/os.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- Opening ---- */

ck_status ck_model__open_tokenizer(const char *folder, const char *suffix, ck_model_text *t,
                                   ck_error *err) {
    CK_TRY(ck_tokenizer_open(folder, suffix, &t->tokenizer, err));
    t->tokens = ck_tokenizer_length(t->tokenizer);
    if (ck_tokenizer_largest(t->tokenizer) < t->config.vocabulary) return CK_OK;
    return ck_fail(
        err, CK_INPUT,
        "%s: the tokenizer%s is not this text encoder's, which knows %lld tokens: it has "
        "a token %d",
        folder, suffix, (long long)t->config.vocabulary, (int)ck_tokenizer_largest(t->tokenizer));
}

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
                       "%s: the network takes text of width %lld, the encoders give %lld: one is "
                       "missing, or another model's",
                       path, (long long)takes, (long long)gives);
    if (m->kind == CK_MODEL_MMDIT && clip_width(m) > m->mmdit_config.context)
        return ck_fail(err, CK_INPUT, "%s: the encoders give more than the network takes", path);
    if (m->t5.params && m->t5.config.width != (int64_t)ck_model_width(m))
        return ck_fail(err, CK_INPUT, "%s: the network takes text of width %zu, T5 gives %lld",
                       path, ck_model_width(m), (long long)m->t5.config.width);
    return CK_OK;
}

/* Whether the file has the weights that the config asks for, of their shapes, and no others. */
static ck_status check_network(ck_model *m, ck_error *err) {
    ck_model_inputs in;
    size_t side = ck_model_multiple(m);
    ck_graph *g = ck_graph_new();
    if (!g) return ck_fail_memory(err, "a model");
    ck_params_freeze(m->unet, true);
    ck_model_network(g, m, 1, side, side, &in);
    ck_status s = ck_graph_check(g, err);
    if (s == CK_OK) s = ck_params_check_asked(m->unet, err);
    ck_params_unload(m->unet);
    ck_params_freeze(m->unet, false);
    ck_graph_free(g);
    return s;
}

/* Text encoders and VAE are never trained. */
static void freeze(ck_model *m) {
    for (size_t i = 0; i < m->texts; i++)
        if (m->text[i].params) ck_params_freeze(m->text[i].params, true);
    if (m->t5.params) ck_params_freeze(m->t5.params, true);
    if (m->vae) ck_params_freeze(m->vae, true);
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
    if (s == CK_OK && !m->planned) s = check_network(m, err);
    if (s != CK_OK)
        ck_model_close(m);
    else
        freeze(m);
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

void ck_model_checkpoint(ck_model *m, bool on) {
    m->unet_config.checkpoint = m->mmdit_config.checkpoint = m->flux_config.checkpoint = on;
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

typedef struct text_graph {
    once o;
    ck_node ids, end; /* inputs */
    ck_node outputs[2];
    size_t count; /* of these: states, and pooled where the network takes it */
} text_graph;

/* params: of the encoder, or hollow ones for a plan. */
static ck_status build_text(const ck_model *m, size_t which, ck_params *params, text_graph *t,
                            ck_error *err) {
    const ck_model_text *of = &m->text[which];
    ck_graph *g = t->o.graph = ck_graph_new();
    if (!g) return ck_fail_memory(err, "a text");
    t->ids = ck_input(g, "ids", CK_I32, CK_SHAPE(1, (int64_t)of->tokens));
    t->end = ck_input(g, "end", CK_I32, CK_SHAPE(1));
    ck_clip_text text = ck_clip(g, params, &of->config, t->ids, t->end);
    /* Models with two encoders take what enters the last layers. */
    t->outputs[0] = m->texts == 2 ? text.penultimate : text.last;
    t->outputs[1] = text.pooled;
    t->count = pooled_of(m, which) ? 2 : 1;
    return ck_graph_check(g, err);
}

/* One prompt through one encoder; its numbers go to states[tokens width] and pooled. */
static ck_status run_text(const ck_model *m, size_t which, const int32_t *ids, text_graph *t,
                          const ck_backend *b, float *states, float *pooled, ck_error *err) {
    const ck_model_text *of = &m->text[which];
    int32_t row;
    ck_clip_ends(&of->config, ids, 1, of->tokens, &row);
    CK_TRY(build_text(m, which, of->params, t, err));
    CK_TRY(plan(&t->o, b, t->outputs, t->count, err));
    CK_TRY(ck_exec_write(t->o.exec, t->ids, ids, of->tokens, err));
    CK_TRY(ck_exec_write(t->o.exec, t->end, &row, 1, err));
    CK_TRY(ck_exec_run(t->o.exec, err));
    size_t n = of->tokens * (size_t)of->config.width;
    CK_TRY(ck_exec_read(t->o.exec, t->outputs[0], states, n, err));
    return t->count == 2 ? ck_exec_read(t->o.exec, t->outputs[1], pooled, pooled_of(m, which), err)
                         : CK_OK;
}

static ck_status encode_text(ck_model *m, size_t which, const ck_backend *b, const char *prompt,
                             float *states, float *pooled, ck_error *err) {
    int32_t *ids = ck_alloc_array(m->text[which].tokens, sizeof *ids);
    if (!ids) return ck_fail_memory(err, "a text");
    size_t lost = 0;
    ck_status s = ck_tokenizer_encode(m->text[which].tokenizer, prompt, ids, &lost, err);
    m->lost += lost;
    text_graph t = {0};
    if (s == CK_OK) s = run_text(m, which, ids, &t, b, states, pooled, err);
    end(&t.o);
    free(ids);
    return s;
}

/* As build_text; `end`: the buckets of pairs of tokens. */
static ck_status build_t5(const ck_model *m, ck_params *params, text_graph *t, ck_error *err) {
    int64_t n = (int64_t)m->t5.tokens;
    ck_graph *g = t->o.graph = ck_graph_new();
    if (!g) return ck_fail_memory(err, "a text");
    t->ids = ck_input(g, "ids", CK_I32, CK_SHAPE(n));
    t->end = ck_input(g, "buckets", CK_I32, CK_SHAPE(n, n));
    t->outputs[0] = ck_t5(g, params, &m->t5.config, t->ids, t->end);
    t->count = 1;
    return ck_graph_check(g, err);
}

static ck_status run_t5(const ck_model *m, const int32_t *ids, const int32_t *buckets,
                        text_graph *t, const ck_backend *b, float *states, ck_error *err) {
    size_t n = m->t5.tokens;
    CK_TRY(build_t5(m, m->t5.params, t, err));
    CK_TRY(plan(&t->o, b, t->outputs, t->count, err));
    CK_TRY(ck_exec_write(t->o.exec, t->ids, ids, n, err));
    CK_TRY(ck_exec_write(t->o.exec, t->end, buckets, n * n, err));
    CK_TRY(ck_exec_run(t->o.exec, err));
    return ck_exec_read(t->o.exec, t->outputs[0], states, n * (size_t)m->t5.config.width, err);
}

static ck_status encode_t5(ck_model *m, const ck_backend *b, const char *prompt, float *states,
                           ck_error *err) {
    const ck_model_t5 *t = &m->t5;
    size_t lost = 0;
    int32_t *ids = ck_alloc_array(t->tokens, sizeof *ids);
    int32_t *buckets = ck_alloc_array(t->tokens * t->tokens, sizeof *buckets);
    text_graph graph = {0};
    ck_status s = ids && buckets ? CK_OK : ck_fail_memory(err, "a text");
    if (s == CK_OK) s = ck_unigram_encode(t->tokenizer, prompt, t->tokens, ids, &lost, err);
    m->lost += lost;
    if (s == CK_OK) {
        ck_t5_buckets(&t->config, t->tokens, buckets);
        s = run_t5(m, ids, buckets, &graph, b, states, err);
    }
    end(&graph.o);
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

/* Images at once: not so many that large ones take more memory than the network. */
enum { BATCH = 16, PIXELS = BATCH * 256 * 256 };

static size_t batch_of(size_t n, size_t height, size_t width) {
    size_t most = height * width < PIXELS / BATCH ? BATCH : PIXELS / (height * width);
    return n < most ? n : most ? most : 1;
}

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
    ck_shape in = ck_node_shape(c->o.graph, c->in), out = ck_node_shape(c->o.graph, c->out);
    c->in_size = (size_t)ck_shape_count(&in) / batch;
    c->out_size = (size_t)ck_shape_count(&out) / batch;
    CK_TRY(plan(&c->o, b, &c->out, 1, err));
    return code_all(c, batch, from, n, to, err);
}

ck_status ck_model_encode(ck_model *m, const ck_backend *b, const float *pixels, size_t n,
                          size_t height, size_t width, float *latents, ck_error *err) {
    const ck_vae_config *v = &m->vae_config;
    size_t batch = batch_of(n, height, width);
    coder c = {.o.graph = ck_graph_new()};
    if (!c.o.graph) return ck_fail_memory(err, "images");
    c.in = ck_input(c.o.graph, "image", CK_F32,
                    CK_SHAPE((int64_t)batch, (int64_t)height, (int64_t)width, v->in_channels));
    ck_node mean = ck_vae_encode(c.o.graph, m->vae, v, c.in).mean;
    c.out = ck_affine(c.o.graph, mean, v->scale, -v->shift * v->scale);
    ck_status s = ck_graph_check(c.o.graph, err);
    if (s == CK_OK) s = code(&c, b, batch, pixels, n, latents, err);
    end(&c.o);
    return s;
}

/* Of as many of n images as are decoded at once; *batch is that number. vae: the weights. */
static ck_status build_decoder(coder *c, const ck_model *m, ck_params *vae, size_t n, size_t h,
                               size_t w, size_t *batch, ck_error *err) {
    const ck_vae_config *v = &m->vae_config;
    size_t factor = (size_t)ck_vae_factor(v);
    ck_graph *g = c->o.graph = ck_graph_new();
    if (!g) return ck_fail_memory(err, "images");
    *batch = batch_of(n, h * factor, w * factor);
    c->in = ck_input(g, "latents", CK_F32,
                     CK_SHAPE((int64_t)*batch, (int64_t)h, (int64_t)w, v->latent_channels));
    c->out = ck_vae_decode(g, vae, v, ck_affine(g, c->in, 1 / v->scale, v->shift));
    return ck_graph_check(g, err);
}

ck_status ck_model_check_decoder(ck_model *m, const ck_backend *b, size_t n, size_t h, size_t w,
                                 ck_error *err) {
    coder c = {0};
    size_t batch;
    ck_status s = build_decoder(&c, m, m->vae, n, h, w, &batch, err);
    if (s == CK_OK) s = ck_params_check(m->vae, err);
    if (s == CK_OK) s = ck_exec_new(b, c.o.graph, &c.out, 1, &c.o.exec, err);
    if (s == CK_OK) s = ck_exec_fits(c.o.exec, err);
    end(&c.o);
    ck_params_unload(m->vae);
    return s;
}

ck_status ck_model_decode(ck_model *m, const ck_backend *b, const float *latents, size_t n,
                          size_t h, size_t w, float *pixels, ck_error *err) {
    coder c = {0};
    size_t batch;
    ck_status s = build_decoder(&c, m, m->vae, n, h, w, &batch, err);
    if (s == CK_OK) s = code(&c, b, batch, latents, n, pixels, err);
    end(&c.o);
    return s;
}

/* ---- Memory ---- */

/* Weights of no file, which have shapes alone. */
static ck_status new_hollow(ck_params **p, ck_error *err) {
    *p = ck_params_new(0);
    if (!*p) return ck_fail_memory(err, "a plan");
    ck_params_hollow(*p);
    ck_params_freeze(*p, true);
    return CK_OK;
}

static ck_status plan_text(const ck_model *m, const ck_backend *b, size_t which, ck_params *p,
                           size_t *arena, size_t *weights, ck_error *err) {
    text_graph t = {0};
    ck_status s = which < m->texts ? build_text(m, which, p, &t, err) : build_t5(m, p, &t, err);
    if (s == CK_OK) s = ck_exec_new(b, t.o.graph, t.outputs, t.count, &t.o.exec, err);
    if (s == CK_OK) {
        if (*arena < ck_exec_peak(t.o.exec)) *arena = ck_exec_peak(t.o.exec);
        *weights += ck_exec_weights(t.o.exec);
    }
    end(&t.o);
    return s;
}

ck_status ck_model_text_memory(const ck_model *m, const ck_backend *b, size_t *bytes,
                               ck_error *err) {
    size_t arena = 0, weights = 0;
    for (size_t i = 0; i <= m->texts; i++) {
        if (!(i < m->texts ? m->text[i].config.width : m->t5.config.width)) continue;
        ck_params *p;
        CK_TRY(new_hollow(&p, err));
        ck_status s = plan_text(m, b, i, p, &arena, &weights, err);
        ck_params_free(p);
        CK_TRY(s);
    }
    *bytes = arena + weights;
    return CK_OK;
}

ck_status ck_model_decode_memory(const ck_model *m, const ck_backend *b, size_t n, size_t h,
                                 size_t w, size_t *bytes, ck_error *err) {
    ck_params *p;
    coder c = {0};
    size_t batch;
    CK_TRY(new_hollow(&p, err));
    ck_status s = build_decoder(&c, m, p, n, h, w, &batch, err);
    if (s == CK_OK) s = ck_exec_new(b, c.o.graph, &c.out, 1, &c.o.exec, err);
    if (s == CK_OK) *bytes = ck_exec_peak(c.o.exec) + ck_exec_weights(c.o.exec);
    end(&c.o);
    ck_params_free(p);
    return s;
}
