/* The noise process that a model belongs to, in one form for all of them: a noisy sample is
 * x = a x0 + s noise, and sigma = s / a tells how noisy it is.
 *
 *   ck_process *p;
 *   CK_TRY(ck_process_new(&schedule, 0, &p, err));         or ck_process_edm()
 *   ck_moment m = ck_process_at(p, sigma);
 *   ck_wrap w = ck_process_wrap(p, m);        x0 = w.skip x + w.out network(w.in x, m.time)
 *
 * Methods are written in terms of moments, so they work for epsilon, v, x0 and flow models alike,
 * and for networks with the preconditioning of Karras et al. (2022).
 */
#ifndef CK_PROCESS_H
#define CK_PROCESS_H

#include "distill/diffusion/schedule.h"

typedef struct ck_process ck_process;

/* A place on the way from data (sigma 0) to noise (sigma up to infinity, where a is 0). */
typedef struct ck_moment {
    double a, s, sigma;
    double time; /* what the network is told */
} ck_moment;

/* x0 = skip x + out F(in x, time) */
typedef struct ck_wrap {
    double in, skip, out;
} ck_wrap;

/* Of a model's schedule; it is copied. tokens: of an image, which decide how flow models with a
 * dynamic shift (FLUX) space their moments; others do not ask. */
ck_status ck_process_new(const ck_schedule *schedule, size_t tokens, ck_process **p, ck_error *err);
/* x = x0 + sigma noise with sigma from 0.002 to 80 and F preconditioned for data of standard
 * deviation data (Karras et al., table 1). NULL when out of memory. */
ck_process *ck_process_edm(double data);
void ck_process_free(ck_process *p); /* NULL is allowed */

/* The noisiest moment that the model was trained on. */
ck_moment ck_process_first(const ck_process *p);
/* The least noisy one: timestep 0; of EDM and flow models no noise at all. */
ck_moment ck_process_last(const ck_process *p);
/* The standard deviation of the data: EDM's setting, else 1. */
double ck_process_data(const ck_process *p);
/* No noise at all. */
ck_moment ck_process_clean(void);

/* The moment of a sigma; of a timestep (0 to train_steps - 1, or a fraction; not for EDM). Beyond
 * the ends it is the end. */
ck_moment ck_process_at(const ck_process *p, double sigma);
ck_moment ck_process_at_time(const ck_process *p, double time);

/* The moment of a draw u in [0, 1), as models are trained: any timestep alike; EDM: ln sigma normal
 * with mean -1.2 and deviation 1.2. */
ck_moment ck_process_draw(const ck_process *p, double u);

/* n steps from the first moment to no noise: n + 1 moments, the last clean. Timesteps spaced
 * trailing; EDM: rho 7. Grids of n and of 2 n steps share every second moment (EDM: they do if the
 * finer is asked for and the coarser taken from it). */
void ck_process_grid(const ck_process *p, size_t n, ck_moment *grid);

/* How x0 comes from the network's answer. Of no noise: x0 = x. */
ck_wrap ck_process_wrap(const ck_process *p, ck_moment m);

/* A weight of squared errors of x0 under which all moments matter alike: EDM 1/sigma^2 + 1/data^2
 * (the error of F), others max(1/sigma^2, 1) (Salimans and Ho, 2022, truncated SNR). */
double ck_process_weight(const ck_process *p, ck_moment m);

#endif
