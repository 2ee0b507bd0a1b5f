/* UNet2DConditionModel, the network of Stable Diffusion 1, 2, XL and their kin.
 *
 *   ck_unet_config c;
 *   CK_TRY(ck_unet_read("model/unet/config.json", &c, err));
 *   ck_node out = ck_unet(g, params, &c, &(ck_unet_inputs){.x = x, .time = t, .context = text});
 *
 * Weights have the names that diffusers gives them. What a config asks for that is not implemented
 * is CK_INPUT with file, line and field.
 */
#ifndef CK_UNET_H
#define CK_UNET_H

#include "distill/models/taps.h"

enum { CK_UNET_LEVELS = 8, CK_UNET_LAYERS = 16 };

typedef struct ck_unet_level {
    int64_t channels, heads;
    int64_t layers; /* on the way down; one more on the way up */
    /* Transformer blocks after each layer's resnet, on both ways; 0: no attention. */
    int64_t depth[CK_UNET_LAYERS], up_depth[CK_UNET_LAYERS];
} ck_unet_level;

typedef struct ck_unet_config {
    int64_t in_channels, out_channels, sample_size;
    ck_unet_level level[CK_UNET_LEVELS]; /* from the largest image down */
    int64_t levels;
    int64_t mid;       /* resnets of the middle block: 0, 1, or 2 with an attention between them */
    int64_t mid_depth; /* transformer blocks of that */
    int64_t context;   /* width of the text */
    int64_t groups;
    double eps;
    bool flip;           /* cosines before sines */
    double shift;        /* of the time's frequencies */
    int64_t guidance;    /* width of the guidance embedding (LCM); 0: none */
    int64_t added_time;  /* SDXL: width of each of the sizes; 0: none */
    int64_t added_width; /* SDXL: of pooled text and sizes together */
    bool checkpoint;     /* blocks are computed again in the backward pass; not in files */
} ck_unet_config;

_Static_assert(2 * CK_UNET_LEVELS + 1 <= CK_TAPS, "a tap for every block");

/* N samples. */
typedef struct ck_unet_inputs {
    ck_node x;             /* N H W in_channels; H and W multiples of 2^(levels - 1) */
    ck_node time;          /* N */
    ck_node context;       /* N T context */
    ck_node guidance;      /* N guidance: embedded, see ck_guidance_embed; only with c->guidance */
    ck_node pooled, sizes; /* SDXL: N P, and N 6 (its refiner: N 5) */
    ck_taps *taps;         /* filled if they are not yet; or NULL */
} ck_unet_inputs;

ck_status ck_unet_read(const char *path, ck_unet_config *c, ck_error *err);

/* What it answers, N H W out_channels. */
ck_node ck_unet(ck_graph *g, ck_params *params, const ck_unet_config *c,
                const ck_unet_inputs *inputs);

/* The embedding of a guidance scale as LCM has it (sines first, period 10000 over width / 2 - 1, of
 * 1000 (scale - 1)), to out[width]. */
void ck_guidance_embed(double scale, size_t width, float *out);
/* The same of a node with a scale per sample: N width. */
ck_node ck_guidance_node(ck_graph *g, ck_node scale, int64_t width);
/* Makes the network take guidance through an embedding of this width (256 in LCM) which, until it
 * is trained, adds nothing: time_embedding.cond_proj.weight is made, of zeros. CK_USAGE: it takes
 * one already. */
ck_status ck_guidance_add(ck_params *params, ck_unet_config *c, int64_t width, ck_error *err);
/* Sets c->guidance by the weights, for those of another model of the same kind. */
void ck_guidance_detect(const ck_params *params, ck_unet_config *c);
/* A copy of a teacher's config.json for a student that is told guidance or has fewer blocks (see
 * shrink.h); replaces what is there. */
ck_status ck_unet_write(const char *from, const ck_unet_config *c, const char *to, ck_error *err);

#endif
