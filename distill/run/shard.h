/* Which weights of a part each process takes the optimiser's steps for (and so keeps the moments
 * of), and how gradients come to it: ZeRO's first stage (Rajbhandari et al., 2020).
 *
 *   CK_TRY(ck_shard_join(world, backend, err));                  once a process
 *   ck_shard *s;
 *   CK_TRY(ck_shard_new(world, backend, sizes, count, piece, &s, err));
 *   CK_TRY(ck_shard_reduce(s, gradients, err));                  those of mine are sums now
 *   ... the optimiser's step of weights first to first + own - 1; then all weights into one array,
 *   CK_TRY(ck_shard_share(s, array, err));                       where mine were right
 *   ck_shard_leave(backend);                                     not after an error
 *
 * Arrays are in the backend's memory, of all weights one after the other. Where that is the
 * program's they go through MPI, otherwise from card to card. Sums are in the order of ranks either
 * way, and made here: the bits depend on no network, and on no library that knows better orders.
 */
#ifndef CK_SHARD_H
#define CK_SHARD_H

#include "distill/engine/backend.h"
#include "distill/run/world.h"

typedef struct ck_shard {
    const ck_world *world;
    const ck_backend *backend;
    size_t first, own;       /* weights of this process, one after the other */
    size_t *counts;          /* elements of each process */
    size_t before, elements; /* of the processes before this one, and of this one */
    size_t piece;
    float *parts; /* what everybody has for a piece of this one's */
} ck_shard;

/* Makes cards of several processes known to each other, and at the end forgets them (joined or
 * not): as ck_world_close it waits for the others, so that it is left out after an error. */
ck_status ck_shard_join(const ck_world *world, const ck_backend *backend, ck_error *err);
void ck_shard_leave(const ck_backend *backend);

/* sizes: elements of count weights. piece: as many elements of each process go around at a time. */
ck_status ck_shard_new(const ck_world *world, const ck_backend *backend, const size_t *sizes,
                       size_t count, size_t piece, ck_shard **s, ck_error *err);
void ck_shard_free(ck_shard *s); /* NULL is allowed */

/* This process's gradients become everybody's, summed. */
ck_status ck_shard_reduce(ck_shard *s, float *gradients, ck_error *err);
/* Everybody's part of the array, where each has filled in its own, to everybody. */
ck_status ck_shard_share(const ck_shard *s, float *array, ck_error *err);

#endif
