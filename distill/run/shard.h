/* Which weights of a part each process takes the optimiser's steps for (and so keeps the moments
 * of), and how gradients come to it: ZeRO's first stage (Rajbhandari et al., 2020).
 *
 *   ck_shard *s;
 *   CK_TRY(ck_shard_new(world, sizes, count, &s, err));          weights first to first + own - 1
 *   CK_TRY(ck_shard_reduce(s, gradients, err));                  s->gradient: of those, summed
 *   ... the optimiser's step on them; then all weights into one array, and
 *   CK_TRY(ck_world_share(world, array, s->counts, err));
 */
#ifndef CK_SHARD_H
#define CK_SHARD_H

#include "distill/run/world.h"

typedef struct ck_shard {
    const ck_world *world;
    size_t first, own; /* weights of this process, one after the other */
    size_t *counts;    /* elements of each process */
    size_t elements;   /* of this one */
    float *parts;      /* what everybody has for this one */
    float *gradient;
} ck_shard;

/* sizes: elements of count weights. */
ck_status ck_shard_new(const ck_world *world, const size_t *sizes, size_t count, ck_shard **s,
                       ck_error *err);
void ck_shard_free(ck_shard *s); /* NULL is allowed */

/* gradients: of all weights, one after the other; summed in the order of ranks. */
ck_status ck_shard_reduce(ck_shard *s, const float *gradients, ck_error *err);

#endif
