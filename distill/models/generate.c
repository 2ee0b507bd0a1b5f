/* Pictures, see generate.h. */
#include "distill/models/generate.h"

#include "distill/models/model_network.h"
#include "distill/diffusion/sampler.h"
#include "io/os.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void ck_to_channels_last(const float *from, size_t n, size_t channels, size_t area, float *to) {
    for (size_t k = 0; k < n; k++)
        for (size_t i = 0; i < area; i++)
            for (size_t c = 0; c < channels; c++)
                to[(k * area + i) * channels + c] = from[(k * channels + c) * area + i];
}

void ck_to_channels_first(const float *from, size_t n, size_t channels, size_t area, float *to) {
    for (size_t k = 0; k < n; k++)
        for (size_t i = 0; i < area; i++)
            for (size_t c = 0; c < channels; c++)
                to[(k * channels + c) * area + i] = from[(k * area + i) * channels + c];
}

ck_status ck_generate_size(const ck_model *m, const ck_generate_options *o, size_t size[3],
                           ck_error *err) {
    size_t factor = (size_t)ck_vae_factor(&m->vae_config);
    size_t multiple = factor * ck_model_multiple(m);
    if (!o->width || !o->height || o->width % multiple || o->height % multiple)
        return ck_fail(err, CK_USAGE, "size %zux%zu: this model needs multiples of %zu", o->width,
                       o->height, multiple);
    size[0] = (size_t)m->vae_config.latent_channels;
    size[1] = o->height / factor;
    size[2] = o->width / factor;
    return CK_OK;
}

/* The network, for a few images at once. */
enum { MOST = 4 };

typedef struct asker {
    const ck_model *m;
    const ck_generate_options *o;
    size_t batch, size, area, channels; /* images at once; numbers of one */
    ck_graph *graph;
    ck_exec *exec;
    ck_model_inputs in;
    ck_node out;
    float *texts[2], *pools[2]; /* prompt, negative: for the whole batch */
    float *last, *times;
} asker;

/* A prompt's encoding, once for every image of the batch. */
static ck_status encode(asker *a, ck_model *m, const ck_backend *b, int which, const char *prompt,
                        ck_error *err) {
    size_t size = ck_model_tokens(m) * ck_model_width(m), pooled = ck_model_pooled(m);
    float *text = a->texts[which] = ck_alloc_array(a->batch * size, sizeof *text);
    float *pool = a->pools[which] = ck_alloc_array(a->batch * pooled, sizeof *pool);
    if (!text || !pool) return ck_fail_memory(err, "a prompt");
    CK_TRY(ck_model_encode_texts(m, b, &prompt, 1, text, pool, err));
    for (size_t i = 1; i < a->batch; i++) {
        memcpy(text + i * size, text, size * sizeof *text);
        if (pooled) memcpy(pool + i * pooled, pool, pooled * sizeof *pool);
    }
    return CK_OK;
}

static ck_status open_asker(asker *a, ck_model *m, const ck_backend *b,
                            const ck_generate_options *o, const size_t size[3], ck_error *err) {
    a->batch = o->count < MOST ? o->count : MOST;
    a->channels = size[0];
    a->area = size[1] * size[2];
    a->size = a->area * a->channels;
    a->graph = ck_graph_new();
    a->last = ck_alloc_array(a->batch * a->size, sizeof *a->last);
    a->times = ck_alloc_array(a->batch, sizeof *a->times);
    if (!a->graph || !a->last || !a->times) return ck_fail_memory(err, "sampling");
    /* A weight that the network lacks, and too little memory for it, are refused before the text is
     * encoded; its weights are read afterwards, when the encoders have made room for them. */
    ck_params_freeze(m->unet, true);
    a->out = ck_model_network(a->graph, m, a->batch, size[1], size[2], &a->in);
    CK_TRY(ck_exec_new(b, a->graph, &a->out, 1, &a->exec, err));
    CK_TRY(ck_exec_fits(a->exec, err));
    CK_TRY(encode(a, m, b, 0, o->prompt, err));
    if (o->cfg != 1 && !ck_model_guided(m)) CK_TRY(encode(a, m, b, 1, o->negative, err));
    ck_model_unload_texts(m);
    CK_TRY(ck_exec_allocate(a->exec, 0, err));
    return ck_model_write(a->exec, m, &a->in, o->cfg, err);
}

static void close_asker(asker *a) {
    ck_exec_free(a->exec);
    ck_graph_free(a->graph);
    for (int i = 0; i < 2; i++) free(a->texts[i]), free(a->pools[i]);
    free(a->last), free(a->times);
}

/* What the network answers to x, of some images, with one of the two prompts. */
static ck_status answer(asker *a, int which, size_t some, float *out, ck_error *err) {
    size_t text = a->batch * ck_model_tokens(a->m) * ck_model_width(a->m);
    CK_TRY(ck_exec_write(a->exec, a->in.context, a->texts[which], text, err));
    if (a->in.pooled != CK_NONE)
        CK_TRY(ck_exec_write(a->exec, a->in.pooled, a->pools[which],
                             a->batch * ck_model_pooled(a->m), err));
    CK_TRY(ck_exec_run(a->exec, err));
    CK_TRY(ck_exec_read(a->exec, a->out, a->last, a->batch * a->size, err));
    ck_to_channels_first(a->last, some, a->channels, a->area, out);
    return CK_OK;
}

/* Of all images, with guidance: without + cfg (with - without). input is overwritten. */
static ck_status ask(asker *a, float time, float *input, float *output, ck_error *err) {
    for (size_t i = 0; i < a->batch; i++) a->times[i] = time;
    CK_TRY(ck_exec_write(a->exec, a->in.time, a->times, a->batch, err));
    for (size_t i = 0; i < a->o->count; i += a->batch) {
        size_t some = a->o->count - i < a->batch ? a->o->count - i : a->batch;
        float *x = input + i * a->size, *y = output + i * a->size;
        ck_to_channels_last(x, some, a->channels, a->area, a->last);
        CK_TRY(ck_exec_write(a->exec, a->in.x, a->last, a->batch * a->size, err));
        CK_TRY(answer(a, 0, some, y, err));
        if (!a->texts[1]) continue;
        CK_TRY(answer(a, 1, some, x, err));
        float cfg = (float)a->o->cfg;
        for (size_t k = 0; k < some * a->size; k++) y[k] = x[k] + cfg * (y[k] - x[k]);
    }
    return CK_OK;
}

static ck_status walk(asker *a, ck_sampler *s, float *x, float *input, float *output,
                      ck_error *err) {
    size_t steps = ck_sampler_steps(s);
    ck_sampler_initial(s, x);
    for (size_t i = 0; i < steps; i++) {
        ck_sampler_input(s, i, x, input);
        CK_TRY(ask(a, ck_sampler_timestep(s, i), input, output, err));
        ck_sampler_step(s, i, x, output);
        if (a->o->step) CK_TRY(a->o->step(a->o->context, i + 1, steps, err));
    }
    return CK_OK;
}

/* Weights were numbers; what they amount to need not be. */
static ck_status check_latents(const ck_generate_options *o, const float *latents, size_t n,
                               ck_error *err) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(latents[i]))
            return ck_fail(err, CK_INPUT,
                           "after %zu steps the latents are not numbers: guidance (%g), sampler, "
                           "prediction or weights do not suit the model",
                           o->steps, o->cfg);
    return CK_OK;
}

static ck_status start_sampler(const asker *a, const size_t size[3], ck_sampler **s,
                               ck_error *err) {
    const ck_generate_options *o = a->o;
    ck_sampler_options options = {.images = o->count,
                                  .elements = a->size,
                                  .seed = o->seed,
                                  .eta = o->eta,
                                  .tokens = size[1] * size[2] / 4};
    return ck_sampler_start(&a->m->schedule, o->sampler, o->steps, &options, s, err);
}

ck_status ck_generate(ck_model *m, const ck_backend *b, const ck_generate_options *o,
                      float *latents, ck_error *err) {
    size_t size[3];
    CK_TRY(ck_generate_size(m, o, size, err));
    asker a = {.m = m, .o = o};
    ck_sampler *sampler = NULL;
    ck_status s = open_asker(&a, m, b, o, size, err);
    if (s == CK_OK) s = start_sampler(&a, size, &sampler, err);
    size_t n = o->count * a.size;
    float *input = ck_alloc_array(n, sizeof *input), *output = ck_alloc_array(n, sizeof *output);
    if (s == CK_OK && (!input || !output)) s = ck_fail_memory(err, "sampling");
    if (s == CK_OK) {
        if (o->noise)
            memcpy(latents, o->noise, n * sizeof *latents);
        else
            ck_sampler_noise(sampler, latents);
        s = walk(&a, sampler, latents, input, output, err);
    }
    if (s == CK_OK) s = check_latents(o, latents, n, err);
    free(input);
    free(output);
    ck_sampler_free(sampler);
    close_asker(&a);
    return s;
}
