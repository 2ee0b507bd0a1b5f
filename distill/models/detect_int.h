/* The configs of networks, told from the shapes of their weights: for models in one file, which
 * hold no config. What shapes do not say (heads, groups of norms) is taken to be what all published
 * models have; the caller makes sure that it is one of them.
 *
 * params have diffusers' names. CK_INPUT when a tensor that everything begins with is not there. */
#ifndef CK_DETECT_INT_H
#define CK_DETECT_INT_H

#include "distill/models/clip_text.h"
#include "distill/models/flux.h"
#include "distill/models/mmdit.h"
#include "distill/models/t5_text.h"
#include "distill/models/unet.h"
#include "distill/models/vae.h"

/* sample_size is left 0. */
ck_status ck_detect__unet(const ck_params *p, ck_unet_config *c, ck_error *err);
/* scale and shift are left as Stable Diffusion 1's. */
ck_status ck_detect__vae(const ck_params *p, ck_vae_config *c, ck_error *err);
/* openai: CLIP-L, whose activation is the quick form; OpenCLIP's is not. */
ck_status ck_detect__clip(const ck_params *p, bool openai, ck_clip_config *c, ck_error *err);
ck_status ck_detect__t5(const ck_params *p, ck_t5_config *c, ck_error *err);
/* sample_size is left 0. */
ck_status ck_detect__mmdit(const ck_params *p, ck_mmdit_config *c, ck_error *err);
/* CK_INPUT also for heads of another size than 128: how they are divided among the axes is not in
 * the file. */
ck_status ck_detect__flux(const ck_params *p, ck_flux_config *c, ck_error *err);

#endif
