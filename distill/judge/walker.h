/* Samples of a network on its process, many at a time: what evaluation looks at. (Pictures for
 * people, with all samplers there are, come from distill/diffusion/sampler.h.)
 *
 *   ck_walker *w;
 *   CK_TRY(ck_walker_new(&(ck_walker_options){...}, &w, err));
 *   CK_TRY(ck_walker_sample(w, CK_WALK_DDIM, 4, seed, first, x, context, no_context, err));
 *   ck_walker_free(w);
 *
 * Sample i begins with the noise of (seed, i), whatever batch it is in and whoever walks: students
 * and teachers can be compared sample by sample.
 */
#ifndef CK_WALKER_H
#define CK_WALKER_H

#include "distill/engine/backend.h"
#include "distill/models/network.h"
#include "distill/diffusion/process.h"

typedef enum ck_walk {
    CK_WALK_DDIM,        /* Euler in sigma, one pass a step */
    CK_WALK_HEUN,        /* two passes a step, but for the last */
    CK_WALK_CONSISTENCY, /* to x0, then new noise, one pass a step */
} ck_walk;

typedef struct ck_walker ck_walker;

typedef struct ck_walker_options {
    const ck_backend *backend;
    const ck_process *process;
    const ck_network *network; /* its weights may change between samples */
    ck_shape shape;            /* of a batch */
    size_t tokens, width;      /* of the context; 0: none */
    /* 1: none; otherwise every pass is two, unless the network is told the scale. */
    double guidance;
} ck_walker_options;

ck_status ck_walker_new(const ck_walker_options *options, ck_walker **w, ck_error *err);
void ck_walker_free(ck_walker *w); /* NULL is allowed */

/* A batch of samples first to first + N - 1, to x of the shape. context and no_context: N T C. */
ck_status ck_walker_sample(ck_walker *w, ck_walk walk, size_t steps, uint64_t seed, uint64_t first,
                           float *x, const float *context, const float *no_context, ck_error *err);

#endif
