/* Convolutions and matrix products by oneDNN (version 3), where the build found it.
 *
 *   bool done;
 *   CK_TRY(ck_onednn_prepare(g, n, half, bf16, &kernel, &done, err));
 *   if (!done) ... the node is not for oneDNN ...
 *
 * Activations stay as the engine has them; weights are brought into the order that oneDNN likes
 * best in each run, in scratch memory (they change with every training step, and the copy is a few
 * percent of the product). bf16: sources are rounded to bfloat16 on the way in, sums and results
 * are f32, but for what is stored as bfloat16 (half, by node).
 */
#ifndef CK_ONEDNN_H
#define CK_ONEDNN_H

#include "distill/engine/backend.h"

/* Handles CK_OP_MATMUL, CK_OP_CONV, CK_OP_CONV_DATA_GRAD, CK_OP_CONV_WEIGHT_GRAD; for others, and
 * without oneDNN, *done is false. */
ck_status ck_onednn_prepare(const ck_graph *g, ck_node n, const bool *half, bool bf16,
                            ck_kernel *kernel, bool *done, ck_error *err);

/* "3.2.0", or NULL when it was not found at build time. */
const char *ck_onednn_version(void);

#endif
