/* See model_network.h. */
#include "distill/models/model_network.h"

#include "io/os.h"

#include <stdlib.h>
#include <string.h>

static ck_node unet(ck_graph *g, const ck_model *m, int64_t n, ck_model_inputs *in) {
    const ck_unet_config *c = &m->unet_config;
    if (c->guidance) in->guidance = ck_input(g, "guidance", CK_F32, CK_SHAPE(n, c->guidance));
    if (c->added_time) in->sizes = ck_input(g, "sizes", CK_F32, CK_SHAPE(n, 6));
    return ck_unet(g, m->unet, c,
                   &(ck_unet_inputs){.x = in->x,
                                     .time = in->time,
                                     .context = in->context,
                                     .guidance = in->guidance,
                                     .pooled = in->pooled,
                                     .sizes = in->sizes});
}

static ck_node mmdit(ck_graph *g, const ck_model *m, ck_model_inputs *in) {
    return ck_mmdit(
        g, m->unet, &m->mmdit_config,
        &(ck_mmdit_inputs){
            .x = in->x, .time = in->time, .context = in->context, .pooled = in->pooled});
}

static ck_node flux(ck_graph *g, const ck_model *m, int64_t n, ck_model_inputs *in) {
    const ck_flux_config *c = &m->flux_config;
    if (c->guidance) in->guidance = ck_input(g, "guidance", CK_F32, CK_SHAPE(n));
    return ck_flux(g, m->unet, c,
                   &(ck_flux_inputs){.x = in->x,
                                     .time = in->time,
                                     .context = in->context,
                                     .pooled = in->pooled,
                                     .guidance = in->guidance});
}

ck_node ck_model_network(ck_graph *g, const ck_model *m, size_t n, size_t h, size_t w,
                         ck_model_inputs *in) {
    int64_t batch = (int64_t)n, channels = ck_model_channels(m);
    int64_t tokens = (int64_t)ck_model_tokens(m), width = (int64_t)ck_model_width(m);
    *in = (ck_model_inputs){.n = n, .h = h, .w = w};
    in->guidance = in->sizes = in->pooled = CK_NONE;
    in->x = ck_input(g, "x", CK_F32, CK_SHAPE(batch, (int64_t)h, (int64_t)w, channels));
    in->time = ck_input(g, "time", CK_F32, CK_SHAPE(batch));
    in->context = ck_input(g, "context", CK_F32, CK_SHAPE(batch, tokens, width));
    if (ck_model_pooled(m))
        in->pooled = ck_input(g, "pooled", CK_F32, CK_SHAPE(batch, (int64_t)ck_model_pooled(m)));
    switch (m->kind) {
    case CK_MODEL_MMDIT:
        return mmdit(g, m, in);
    case CK_MODEL_FLUX:
        return flux(g, m, batch, in);
    default:
        return unet(g, m, batch, in);
    }
}

/* ---- What stays the same ---- */

static ck_status write_guidance(ck_exec *e, const ck_model *m, const ck_model_inputs *in,
                                double scale, ck_error *err) {
    size_t width = m->kind == CK_MODEL_FLUX ? 1 : (size_t)m->unet_config.guidance;
    float *w = ck_alloc_array(in->n * width, sizeof *w);
    if (!w) return ck_fail_memory(err, "guidance");
    for (size_t i = 0; i < in->n; i++) {
        if (m->kind == CK_MODEL_FLUX)
            w[i] = (float)scale;
        else
            ck_guidance_embed(scale, width, w + i * width);
    }
    ck_status s = ck_exec_write(e, in->guidance, w, in->n * width, err);
    free(w);
    return s;
}

static ck_status write_sizes(ck_exec *e, const ck_model *m, const ck_model_inputs *in,
                             ck_error *err) {
    float factor = (float)ck_vae_factor(&m->vae_config);
    float *sizes = ck_alloc_array(in->n * 6, sizeof *sizes);
    if (!sizes) return ck_fail_memory(err, "sizes");
    const float h = factor * (float)in->h, w = factor * (float)in->w, one[6] = {h, w, 0, 0, h, w};
    for (size_t i = 0; i < in->n; i++) memcpy(sizes + 6 * i, one, sizeof one);
    ck_status s = ck_exec_write(e, in->sizes, sizes, in->n * 6, err);
    free(sizes);
    return s;
}

ck_status ck_model_write(ck_exec *e, const ck_model *m, const ck_model_inputs *in, double guidance,
                         ck_error *err) {
    if (in->guidance != CK_NONE) CK_TRY(write_guidance(e, m, in, guidance, err));
    if (in->sizes != CK_NONE) CK_TRY(write_sizes(e, m, in, err));
    return CK_OK;
}
