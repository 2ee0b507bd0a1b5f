/* Convolutions and their gradients by cuDNN. A plan is made once for every kind of convolution, of
 * the first engine that the library proposes which gives the same bits every time, and which one it
 * was is kept (choices.h). Bias and residual are part of it where there is such an engine.
 */
#ifndef CK_CUDA_CONVOLUTIONS_H
#define CK_CUDA_CONVOLUTIONS_H

#include "distill/engine/cuda/products.h"

ck_status ck_cuda_convolutions_open(ck_error *err);
/* In its place, without a card: plans are made for one that cuDNN has described so (JSON), and
 * cannot be run. */
ck_status ck_cuda_convolutions_plan_for(const char *card, ck_error *err);
size_t ck_cuda_convolutions_version(void);
/* Whether a text is the choice of an engine. */
bool ck_cuda_is_convolution_choice(const char *choice);
/* See ck_gpu_library. CK_USAGE: no engine can do it. */
ck_status ck_cuda_convolution(ck_cuda_precision precision, const ck_graph *g, ck_node n,
                              ck_gpu_added *added, void **plan, size_t *workspace, ck_error *err);
void ck_cuda_convolve(const void *plan, const void *first, const void *second, const void *bias,
                      const void *residual, void *dst, void *workspace);

#endif
