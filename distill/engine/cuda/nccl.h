/* Arrays of several cards by NVIDIA's NCCL: what a ck_peers of a card is made of (backend.h).
 *
 *   CK_TRY(ck_nccl_invite(id, err));                       in one process
 *   CK_TRY(ck_nccl_join(id, rank, size, err));             in all, with the same id
 *   CK_TRY(ck_nccl_share(stream, array, counts, err));     queued, as the card's other work is
 *   ck_nccl_leave();
 *
 * The library is loaded when it is asked for. It only carries bytes: nothing is summed by it, so
 * that results depend neither on how cards are connected nor on its version.
 */
#ifndef CK_NCCL_H
#define CK_NCCL_H

#include "io/error.h"
#include "kernels/cuda/kernels.h"

/* See ck_peers. CK_USAGE: there is no NCCL; CK_MEMORY, CK_IO: it fails, and what it says. */
ck_status ck_nccl_invite(void *id, ck_error *err);
ck_status ck_nccl_join(const void *id, size_t rank, size_t size, ck_error *err);
void ck_nccl_leave(void);
ck_status ck_nccl_exchange(ck_gpu_stream s, const float *array, const size_t *counts, size_t at,
                           size_t n, float *parts, ck_error *err);
ck_status ck_nccl_share(ck_gpu_stream s, float *array, const size_t *counts, ck_error *err);

#endif
