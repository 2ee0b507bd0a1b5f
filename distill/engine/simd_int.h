/* Between simd.c and simd_*.c. */
#ifndef CK_SIMD_INT_H
#define CK_SIMD_INT_H

#include "distill/engine/backend.h"
#include "kernels/nn.h"

/* Products of matrices and convolutions: kernels, with a ck_nn as their state, and the bytes of
 * scratch memory that they need. */
void ck_simd__matmul(const ck_call *call);
void ck_simd__conv(const ck_call *call);
void ck_simd__conv_data_grad(const ck_call *call);
void ck_simd__conv_weight_grad(const ck_call *call);
size_t ck_simd__matmul_scratch(const ck_graph *g, ck_node n);
size_t ck_simd__conv_scratch(const ck_graph *g, ck_node n);
size_t ck_simd__conv_data_grad_scratch(const ck_graph *g, ck_node n);

/* Numbers that are copied, whatever their size: concat, slice, pad, upsample; the same state. */
void ck_simd__concat(const ck_call *call);
void ck_simd__slice(const ck_call *call);
void ck_simd__pad(const ck_call *call);
void ck_simd__upsample(const ck_call *call);

/* Whether there is a kernel for arrays of bf16. */
bool ck_simd__takes_half(const ck_graph *g, ck_node n);

/* CK_OP_ATTENTION and CK_OP_ATTENTION_GRAD: *done is false where heads are too wide for such
 * kernels. */
ck_status ck_simd__attention(const ck_nn_attend *kernels, const ck_graph *g, ck_node n,
                             ck_kernel *kernel, bool *done, ck_error *err);
bool ck_simd__takes_attention(const ck_nn_attend *kernels, const ck_graph *g, ck_node n);

/* CK_OP_MATMUL and CK_OP_CONV_WEIGHT_GRAD of numbers rounded to bf16, where they are taken. */
bool ck_simd__takes_product(const ck_graph *g, ck_node n);
ck_status ck_simd__product(const ck_nn_amx *kernels, const ck_graph *g, ck_node n,
                           ck_kernel *kernel, ck_error *err);

#endif
