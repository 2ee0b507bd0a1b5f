/* Own kernels in vectors (kernels/nn.h) for what oneDNN does not do, or not as well.
 *
 *   bool done;
 *   CK_TRY(ck_simd_prepare(g, n, &kernel, &done, err));
 *   if (!done) ... the node is not for them ...
 *
 * Sums are cut into pieces by the shapes alone, so the bits do not depend on the number of threads.
 */
#ifndef CK_SIMD_H
#define CK_SIMD_H

#include "distill/engine/backend.h"

/* Unary functions but roots and the like, affine, add, mul, sums, copies, products of matrices,
 * convolutions, norms, GEGLU, attention, and their gradients; for others *done is false. half: by
 * node, what is stored as bfloat16. CK_USAGE when CK_ISA asks for an instruction set that the
 * processor has not. */
ck_status ck_simd_prepare(const ck_graph *g, ck_node n, const bool *half, ck_kernel *kernel,
                          bool *done, ck_error *err);

/* The same of what is rounded to bfloat16 before it is multiplied: products of matrices, gradients
 * of convolutions' weights, CK_OP_ATTENTION and CK_OP_ATTENTION_GRAD, where the processor has AMX.
 */
ck_status ck_simd_prepare_bf16(const ck_graph *g, ck_node n, ck_kernel *kernel, bool *done,
                               ck_error *err);

/* What may be stored as bfloat16 (takes_half of a ck_backend): nothing where the processor has no
 * AMX. Loss and schedule are computed with operations that do not (mul, affine, roots). */
bool ck_simd_takes_half(const ck_graph *g, ck_node n, int source);

/* Products that only GEGLU and its gradient read, as bfloat16. */
extern const ck_folding ck_simd_folding;

#endif
