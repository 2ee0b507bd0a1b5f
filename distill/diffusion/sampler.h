/* Samplers: from noise to a sample, by asking a model a few times.
 *
 *   ck_sampler *s;
 *   CK_TRY(ck_sampler_start(&schedule, "ddim", 20, &options, &s, err));
 *   ck_sampler_noise(s, x);                          or unit noise from elsewhere
 *   ck_sampler_initial(s, x);
 *   for (size_t i = 0; i < ck_sampler_steps(s); i++) {
 *       ck_sampler_input(s, i, x, input);
 *       ... output = model(input, ck_sampler_timestep(s, i), ...), with guidance already applied
 * ... ck_sampler_step(s, i, x, output);
 *   }
 *   ck_sampler_free(s);
 *
 * x, input and output are options.images times options.elements floats; what the elements mean and
 * how they lie does not matter. Results agree with diffusers 0.42 but for rounding.
 */
#ifndef CK_SAMPLER_H
#define CK_SAMPLER_H

#include "distill/diffusion/schedule.h"

#include <stdint.h>

typedef struct ck_sampler ck_sampler;

typedef struct ck_sampler_options {
    size_t images, elements; /* of a batch, of an image */
    uint64_t seed;           /* image k takes its noise from seed + k, whatever batch it is in */
    double eta;              /* how random: 0 (not) to 1; NAN: as the sampler usually is */
    size_t tokens;           /* of an image; only for schedules with dynamic_shift */
} ck_sampler_options;

/* The table of samplers, for help and messages: name and summary of the i-th, NULL past the last.
 */
const char *ck_sampler_name(size_t i);
const char *ck_sampler_summary(size_t i);

/* Prepares all steps. name: of the table. CK_USAGE, saying what to change: no such sampler, a
 * number of steps it cannot do, a schedule or an option that does not go with it. */
ck_status ck_sampler_start(const ck_schedule *schedule, const char *name, size_t steps,
                           const ck_sampler_options *options, ck_sampler **s, ck_error *err);
void ck_sampler_free(ck_sampler *s); /* NULL is allowed */

size_t ck_sampler_steps(const ck_sampler *s);

/* Unit noise (mean 0, variance 1) to x: ck_philox_normals of (image's seed, step 0, stream 0). The
 * noise of step i is that of step i + 1. */
void ck_sampler_noise(const ck_sampler *s, float *x);

/* Makes unit noise the state before step 0. */
void ck_sampler_initial(const ck_sampler *s, float *x);

/* What the model takes as time in step i; a fraction for some samplers. */
float ck_sampler_timestep(const ck_sampler *s, size_t i);

/* The model's input of the state x. input may be x. */
void ck_sampler_input(const ck_sampler *s, size_t i, const float *x, float *input);

/* The state after step i, in place. Steps are taken in their order, from 0. After the last, x is
 * the sample. */
void ck_sampler_step(ck_sampler *s, size_t i, float *x, const float *output);

#endif
