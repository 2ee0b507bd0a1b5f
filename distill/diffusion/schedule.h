/* Noise schedules: how much of a noisy sample is noise at which timestep, and what a model
 * predicts.
 *
 *   ck_schedule s;
 *   CK_TRY(ck_schedule_read("model/scheduler/scheduler_config.json", &s, err));
 *   float *abar = ck_alloc_array(s.train_steps, sizeof *abar);
 *   ck_schedule_alphas(&s, abar);
 *   ck_level level = ck_level_vp(abar[t]);                  noisy = level.a * x0 + level.s * noise
 *   ck_mix target = ck_level_target(s.prediction, level);   what the model is to answer
 *
 * All of it follows diffusers 0.42 number for number, which is what models are published with; the
 * tables are f32 there, and so they are here.
 */
#ifndef CK_SCHEDULE_H
#define CK_SCHEDULE_H

#include "io/error.h"

#include <stdbool.h>
#include <stddef.h>

typedef enum ck_betas { CK_BETAS_LINEAR, CK_BETAS_SCALED_LINEAR, CK_BETAS_SQUAREDCOS } ck_betas;

typedef enum ck_spacing { CK_SPACING_LEADING, CK_SPACING_TRAILING, CK_SPACING_LINSPACE } ck_spacing;

typedef enum ck_prediction {
    CK_PREDICT_EPSILON, /* the noise */
    CK_PREDICT_SAMPLE,  /* the clean sample */
    CK_PREDICT_V,       /* a noise - s x0 (Salimans and Ho, 2022) */
    CK_PREDICT_FLOW,    /* noise - x0, where a = 1 - s (rectified flow) */
} ck_prediction;

/* The settings of a scheduler_config.json. */
typedef struct ck_schedule {
    const char *sampler; /* the row of distill/diffusion/sampler.h that the file's class means;
                            NULL: none */
    size_t train_steps;  /* timesteps are 0 to train_steps - 1 */
    ck_prediction prediction;
    ck_spacing spacing;
    size_t steps_offset; /* added to timesteps, leading only */

    /* Every prediction but flow. */
    ck_betas betas;
    double beta_start, beta_end;
    bool zero_snr;        /* rescaled so that the last timestep is pure noise */
    bool final_one;       /* DDIM: the last step goes to no noise at all, not to timestep 0 */
    bool final_sigma_min; /* Euler, DPM++: the last step goes to timestep 0, not to no noise */
    bool clip;            /* DDIM, LCM: the predicted x0 is cut to -clip_range ... clip_range */
    double clip_range;
    bool karras;             /* Euler, DPM++: sigmas as Karras et al. (2022) space them, rho 7 */
    size_t lcm_steps;        /* LCM, TCD: how many timesteps the distillation knew */
    double timestep_scaling; /* LCM: of the boundary condition */

    /* Flow. */
    double shift;                 /* t' = shift t / (1 + (shift - 1) t) */
    bool dynamic_shift;           /* by the number of image tokens instead: */
    bool linear_shift;            /* t' = m / (m + 1/t - 1) with m = mu, not exp(mu) */
    double base_shift, max_shift; /* mu at ... */
    size_t base_tokens, max_tokens;
} ck_schedule;

/* Stable Diffusion 1's: 1000 steps, scaled-linear betas from 0.00085 to 0.012, epsilon, leading
 * with offset 1, DDIM. */
ck_schedule ck_schedule_sd(void);

/* A diffusers scheduler_config.json; what it leaves out is what its class takes. CK_INPUT, with
 * file, line and field: settings that are unknown or not implemented, values that make no sense. */
ck_status ck_schedule_read(const char *path, ck_schedule *s, ck_error *err);
/* The same of its text; name is for messages. */
ck_status ck_schedule_parse(const char *name, const char *text, size_t n, ck_schedule *s,
                            ck_error *err);

/* The product of 1 - beta up to every timestep, to abar[train_steps]. Not for flow. */
void ck_schedule_alphas(const ck_schedule *s, float *abar);

/* n descending timesteps of 0 to train_steps - 1, rounded to whole numbers where round is set
 * (linspace is whole only then). n is at most train_steps. */
void ck_spacing_timesteps(ck_spacing spacing, size_t train_steps, size_t steps_offset, size_t n,
                          bool round, double *t);

/* n sigmas from max down to min, evenly spaced in their rho-th roots, rho 7. */
void ck_karras_sigmas(double max, double min, size_t n, double *sigma);

/* Flow time t in (0, 1] shifted towards noise; tokens (of the image) matter only to dynamic_shift.
 */
double ck_flow_shift(const ck_schedule *s, size_t tokens, double t);

/* ---- Levels and predictions ---- */

/* A noisy sample x = a x0 + s noise. */
typedef struct ck_level {
    double a, s;
} ck_level;

ck_level ck_level_vp(double abar);   /* a^2 + s^2 = 1 */
ck_level ck_level_ve(double sigma);  /* a = 1 */
ck_level ck_level_flow(double time); /* a + s = 1 */

/* first * p + second * q, elementwise. */
typedef struct ck_mix {
    double first, second;
} ck_mix;

/* What a model of this prediction is trained to answer, of x0 and noise. */
ck_mix ck_level_target(ck_prediction prediction, ck_level level);

/* What its answer says about x0 and about the noise, of the noisy sample and the answer. Inverse of
 * the target; infinite where the answer does not say: epsilon at a = 0, sample at s = 0. */
ck_mix ck_level_x0(ck_prediction prediction, ck_level level);
ck_mix ck_level_noise(ck_prediction prediction, ck_level level);

#endif
