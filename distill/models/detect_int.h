/* The configs of networks, told from the shapes of their weights: for models in one file, which
 * hold no config. What shapes do not say (heads, groups of norms) is taken to be what all published
 * models have; the caller makes sure that it is one of them.
 *
 * params have diffusers' names. CK_INPUT when a tensor that everything begins with is not there. */
#ifndef CK_DETECT_INT_H
#define CK_DETECT_INT_H

#include "distill/models/clip_text.h"
#include "distill/models/unet.h"
#include "distill/models/vae.h"

/* sample_size is left 0. */
ck_status ck_detect__unet(const ck_params *p, ck_unet_config *c, ck_error *err);
/* scale and shift are left as Stable Diffusion 1's. */
ck_status ck_detect__vae(const ck_params *p, ck_vae_config *c, ck_error *err);
ck_status ck_detect__clip(const ck_params *p, ck_clip_config *c, ck_error *err);

#endif
