/* AdamW (Loshchilov and Hutter, 2019) and clipping, on weights in a backend's memory.
 *
 *   ck_optimizer *o = ck_optimizer_new(backend, slices, count, &settings);
 *   double squares[count];
 *   ck_optimizer_squares(o, there);                     in the backend's memory, read into squares
 *   double norm = ck_optimizer_norm(o, squares);        of all gradients together
 *   ck_optimizer_step(o, rate, norm > clip ? clip / norm : 1);
 *
 * All sums are in an order that does not depend on the number of threads.
 */
#ifndef CK_OPTIMIZER_H
#define CK_OPTIMIZER_H

#include "distill/engine/backend.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ck_adamw {
    double beta1, beta2, eps, decay;
} ck_adamw;

typedef struct ck_optimizer {
    const ck_backend *backend;
    ck_adamw settings;
    ck_trained *slices;
    size_t count;
    uint64_t steps; /* taken so far: for the correction of the moments' bias */
    float *moments; /* of all slices, 2 n floats each: what a checkpoint keeps; the backend's */
    size_t moment_count;
} ck_optimizer;

/* slices: value, gradient and n of count weights; copied, their moments begin at zero. NULL when
 * out of memory. */
ck_optimizer *ck_optimizer_new(const ck_backend *b, const ck_trained *slices, size_t count,
                               ck_adamw settings);
void ck_optimizer_free(ck_optimizer *o); /* NULL is allowed */

/* Forgets all moments. */
void ck_optimizer_reset(ck_optimizer *o);

/* Of each slice's gradient the sum of squares, to there[count] in the backend's memory. */
void ck_optimizer_squares(const ck_optimizer *o, double *there);
/* The Euclidean norm of all gradients as one vector, by their squares, in the program's memory; not
 * finite if any of them is not. */
double ck_optimizer_norm(const ck_optimizer *o, const double *squares);

/* w <- w - rate (m' / (sqrt(v') + eps) + decay w), with the moments of scale * gradient, and decay
 * before the step, as torch.optim.AdamW does. */
void ck_optimizer_step(ck_optimizer *o, double rate, double scale);

#endif
