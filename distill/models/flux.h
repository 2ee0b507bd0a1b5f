/* FluxTransformer2DModel, the network of FLUX.1.
 *
 *   ck_flux_config c;
 *   CK_TRY(ck_flux_read("model/transformer/config.json", &c, err));
 *   ck_node v = ck_flux(g, params, &c, &(ck_flux_inputs){x, time, context, pooled, guidance});
 *
 * Weights have the names that diffusers gives them. What a config asks for that is not implemented
 * is CK_INPUT with file, line and field.
 */
#ifndef CK_FLUX_H
#define CK_FLUX_H

#include "distill/models/taps.h"

enum { CK_FLUX_GUIDANCE = 256 }; /* width of its sines */

typedef struct ck_flux_config {
    int64_t in_channels, out_channels; /* of latents; a token is four pixels of them */
    int64_t layers, single_layers;     /* with two streams, then with one */
    int64_t heads, width;
    int64_t context, pooled; /* widths of the text, token by token and as a whole */
    int64_t axes[3];         /* how many numbers of a head turn with each axis of a place */
    bool guidance;           /* takes a guidance scale (dev) */
    bool checkpoint;         /* blocks are computed again in the backward pass; not in files */
} ck_flux_config;

/* N samples. */
typedef struct ck_flux_inputs {
    ck_node x;        /* N H W in_channels, H and W even */
    ck_node time;     /* N, 0 to 1000 */
    ck_node context;  /* N T context */
    ck_node pooled;   /* N pooled */
    ck_node guidance; /* N; only with c->guidance */
    ck_taps *taps;    /* filled if they are not yet; or NULL */
} ck_flux_inputs;

ck_status ck_flux_read(const char *path, ck_flux_config *c, ck_error *err);

/* The velocity, N H W out_channels. */
ck_node ck_flux(ck_graph *g, ck_params *params, const ck_flux_config *c, const ck_flux_inputs *in);

/* Makes a network without guidance take it, as FLUX.1 dev does; until it is trained that adds
 * nothing: the embedding's second layer is of zeros, its first one that of the time. CK_USAGE: it
 * takes guidance already. */
ck_status ck_flux_tell(ck_params *params, ck_flux_config *c, ck_error *err);
/* Sets c->guidance by the weights, for those of another model of the same kind. */
void ck_flux_detect(const ck_params *params, ck_flux_config *c);
/* A copy of a config.json for such a network; replaces what is there. */
ck_status ck_flux_write(const char *from, const ck_flux_config *c, const char *to, ck_error *err);

#endif
