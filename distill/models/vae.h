/* AutoencoderKL: images to latents and back.
 *
 *   ck_vae_config c;
 *   CK_TRY(ck_vae_read("model/vae/config.json", &c, err));
 *   ck_vae_moments m = ck_vae_encode(g, params, &c, image);      mean and log of the variance
 *   ck_node image = ck_vae_decode(g, params, &c, latents);
 *
 * Images are in [-1, 1]. What the UNet works on is (latents - shift) * scale.
 */
#ifndef CK_VAE_H
#define CK_VAE_H

#include "distill/engine/graph.h"

enum { CK_VAE_LEVELS = 8 };

typedef struct ck_vae_config {
    int64_t in_channels, out_channels, latent_channels;
    int64_t channels[CK_VAE_LEVELS], levels, layers, groups;
    bool quant, post_quant; /* 1x1 convolutions around the latents */
    bool attention;         /* in the middle */
    double scale, shift;
} ck_vae_config;

typedef struct ck_vae_moments {
    ck_node mean, logvar; /* N h w latent_channels; logvar is to be cut to -30 ... 20 */
} ck_vae_moments;

ck_status ck_vae_read(const char *path, ck_vae_config *c, ck_error *err);

/* How many times smaller latents are than images, along a side. */
int64_t ck_vae_factor(const ck_vae_config *c);

/* image: N H W in_channels, H and W multiples of the factor. */
ck_vae_moments ck_vae_encode(ck_graph *g, ck_params *params, const ck_vae_config *c, ck_node image);
/* N h w latent_channels, not scaled, to N H W out_channels. */
ck_node ck_vae_decode(ck_graph *g, ck_params *params, const ck_vae_config *c, ck_node latents);

#endif
