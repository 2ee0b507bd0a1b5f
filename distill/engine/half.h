/* Which results are stored as bfloat16, where a backend can.
 *
 *   ck_half_choose(backend, graph, needed, outputs, count, half);
 *   if (half[n]) ... node n's numbers take two bytes ...
 *
 * A result is where the operation that makes it and all that read it can; the caller's inputs and
 * outputs never are. Of a weight a copy is, if the backend says so. Recomputed nodes
 * (checkpointing) are stored as their originals, so that bits stay the same.
 */
#ifndef CK_HALF_H
#define CK_HALF_H

#include "distill/engine/backend.h"

/* needed, half: by node; all of half is set. Of a view it says how what it shows is stored. */
void ck_half_choose(const ck_backend *b, const ck_graph *g, const bool *needed,
                    const ck_node *outputs, size_t count, bool *half);

#endif
