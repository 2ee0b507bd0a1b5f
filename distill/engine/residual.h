/* Which additions are made by one of their sources: a product of matrices or a convolution, of a
 * backend that can (takes_residual), that nothing else reads. Then its result alone never is in
 * memory, and nothing has to read it there.
 *
 *   ck_residual_choose(backend, graph, needed, readers, half, product);
 *   if (product[n] != CK_NONE) ... product[n] is run in the place of n, and not before ...
 *
 * Recomputed nodes (checkpointing) are made as their originals, so that bits stay the same.
 */
#ifndef CK_RESIDUAL_H
#define CK_RESIDUAL_H

#include "distill/engine/backend.h"
#include "distill/engine/readers.h"

/* needed, half, product: by node; all of product is set. */
void ck_residual_choose(const ck_backend *b, const ck_graph *g, const bool *needed,
                        const ck_readers *readers, const bool *half, ck_node *product);
/* The source of n that is added to the product. */
ck_node ck_residual_of(const ck_graph *g, ck_node n, ck_node product);

#endif
