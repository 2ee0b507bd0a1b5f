/* The card that this process computes on: its memory, its one stream of work, and what went wrong.
 *
 *   CK_TRY(ck_card_open(err));                          once; later calls do nothing
 *   float *x = ck_card_alloc(bytes);                    NULL when the card is full
 *   ck_card_write(x, host, bytes);                      in the stream's order
 *   CK_CARD_NOTE(cudaMemsetAsync(x, 0, bytes, ck_card_stream()));
 *   CK_TRY(ck_card_check(err));                         the first thing that was noted
 *
 * Work is queued and done later, so that functions which queue it cannot say what becomes of it:
 * failures are noted, and said by the next function that can.
 */
#ifndef CK_CARD_H
#define CK_CARD_H

#include "io/error.h"

#include <cuda_runtime_api.h>
#include <stddef.h>

/* CK_USAGE: no driver, no card, one that is too old. With several processes on a machine (Open
 * MPI), each takes the card of its place among them; CK_USAGE where there are too few. */
ck_status ck_card_open(ck_error *err);
cudaStream_t ck_card_stream(void);
const char *ck_card_name(void);
size_t ck_card_shared(void); /* bytes that a block of threads can share */

void *ck_card_alloc(size_t bytes);
void ck_card_free(void *p);
void ck_card_memory(size_t *available, size_t *all);
/* Through pinned memory: the caller's may be used again at once. */
void ck_card_write(void *dst, const void *src, size_t bytes);
/* Waits for it. */
void ck_card_read(void *dst, const void *src, size_t bytes);
void ck_card_zero(void *p, size_t bytes);
void ck_card_copy(void *dst, const void *src, size_t bytes);

/* Notes the first failure; anything else is only its consequence. */
void ck_card_note(const char *what, const char *why);
void ck_card_note_full(const char *what); /* CK_MEMORY then */
ck_status ck_card_check(ck_error *err);
#define CK_CARD_NOTE(call)                                                                         \
    do {                                                                                           \
        cudaError_t ck_card_code = (call);                                                         \
        if (ck_card_code == cudaErrorMemoryAllocation)                                             \
            ck_card_note_full(#call);                                                              \
        else if (ck_card_code != cudaSuccess)                                                      \
            ck_card_note(#call, cudaGetErrorString(ck_card_code));                                 \
    } while (0)

/* Runs nodes(context): the first time as it is, so that libraries make ready; the second time it is
 * recorded as a graph of the card's; then the graph is run, which takes one call for all of them.
 */
ck_status ck_card_run(void (*nodes)(void *context), void *context, void **recording, ck_error *err);
void ck_card_forget(void *recording);

#endif
