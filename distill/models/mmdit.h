/* SD3Transformer2DModel (MMDiT), the network of Stable Diffusion 3 and 3.5.
 *
 *   ck_mmdit_config c;
 *   CK_TRY(ck_mmdit_read("model/transformer/config.json", &c, err));
 *   ck_node v = ck_mmdit(g, params, &c, &(ck_mmdit_inputs){.x = x, .time = time, ...});
 *
 * Weights have the names that diffusers gives them. What a config asks for that is not implemented
 * is CK_INPUT with file, line and field.
 */
#ifndef CK_MMDIT_H
#define CK_MMDIT_H

#include "distill/models/taps.h"

enum { CK_MMDIT_LAYERS = 64 };

typedef struct ck_mmdit_config {
    int64_t in_channels, out_channels, sample_size, patch;
    int64_t layers, heads, width;
    int64_t context, pooled;    /* widths of the text, token by token and as a whole */
    int64_t positions;          /* of the table of places, along a side */
    bool normed;                /* queries and keys go through RMS norms (3.5) */
    bool dual[CK_MMDIT_LAYERS]; /* layers in which the image attends once more, to itself */
    bool checkpoint;            /* blocks are computed again in the backward pass; not in files */
    bool guidance;              /* is told a number, as FLUX dev is; not in files */
} ck_mmdit_config;

/* N samples. */
typedef struct ck_mmdit_inputs {
    ck_node x;        /* N H W in_channels; H and W multiples of the patch */
    ck_node time;     /* N, 0 to 1000 */
    ck_node context;  /* N T context */
    ck_node pooled;   /* N pooled */
    ck_node guidance; /* N; only with c->guidance */
    ck_taps *taps;    /* filled if they are not yet; or NULL */
} ck_mmdit_inputs;

ck_status ck_mmdit_read(const char *path, ck_mmdit_config *c, ck_error *err);

/* The velocity, N H W out_channels. The table of places is a weight in files, but not trained. */
ck_node ck_mmdit(ck_graph *g, ck_params *params, const ck_mmdit_config *c,
                 const ck_mmdit_inputs *in);

/* Makes a network take a number, see ck_flux_tell. */
ck_status ck_mmdit_tell(ck_params *params, ck_mmdit_config *c, ck_error *err);

#endif
