/* Batches made ahead: while a step is computed, a thread makes the batch of the next round.
 *
 *   ck_prefetch *p;
 *   CK_TRY(ck_prefetch_new(&source, most numbers of x0, numbers of context, &p, err));
 *   ck_data data = ck_prefetch_data(p);           gives what source gives
 *   ck_prefetch_free(p);                          before what source needs
 */
#ifndef CK_PREFETCH_H
#define CK_PREFETCH_H

#include "distill/run/trainer.h"

typedef struct ck_prefetch ck_prefetch;

/* source's batch function is called from both threads, never at the same time. context: 0 for
 * networks that take none. */
ck_status ck_prefetch_new(const ck_data *source, size_t x0, size_t context, ck_prefetch **p,
                          ck_error *err);
void ck_prefetch_free(ck_prefetch *p); /* NULL is allowed */

/* What training takes; p is borrowed. A batch that was not foreseen (after a rollback) is made when
 * it is asked for. */
ck_data ck_prefetch_data(ck_prefetch *p);

#endif
