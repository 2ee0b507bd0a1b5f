/* Pictures of a model for people: prompts, any sampler, guidance.
 *
 *   ck_generate_options o = {.prompt = "a cat", .negative = "", .steps = 20, .sampler = "ddim",
 *                            .cfg = 7, .width = 512, .height = 512, .count = 4};
 *   CK_TRY(ck_generate(&model, backend, &o, latents, err));
 *   CK_TRY(ck_model_decode(&model, backend, latents, 4, 64, 64, pixels, err));
 */
#ifndef CK_GENERATE_H
#define CK_GENERATE_H

#include "distill/models/model.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct ck_generate_options {
    const char *prompt, *negative;
    const char *sampler; /* of distill/diffusion/sampler.h */
    size_t steps, count;
    double cfg; /* 1: without the negative prompt, one pass a step */
    double eta; /* NAN: as the sampler usually is */
    uint64_t seed;
    size_t width, height; /* of images: multiples of what the model needs */
    /* Unit noise to begin with, count x C x h x w; NULL: of the seed. */
    const float *noise;
    /* Called after every step; not CK_OK ends it. May be NULL. */
    ck_status (*step)(void *context, size_t done, size_t steps, ck_error *err);
    void *context;
} ck_generate_options;

/* C, h, w of the latents of such images. CK_USAGE: the size does not go. */
ck_status ck_generate_size(const ck_model *m, const ck_generate_options *o, size_t size[3],
                           ck_error *err);

/* latents: count x C x h x w, of the UNet's scale. Of the model's weights only the network's are in
 * memory afterwards. */
ck_status ck_generate(ck_model *m, const ck_backend *b, const ck_generate_options *o,
                      float *latents, ck_error *err);

/* n arrays of C x area to area x C, and back. */
void ck_to_channels_last(const float *from, size_t n, size_t channels, size_t area, float *to);
void ck_to_channels_first(const float *from, size_t n, size_t channels, size_t area, float *to);

#endif
