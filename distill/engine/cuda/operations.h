/* Operations on a GPU: the kernels of kernels/cuda, and products of matrices and convolutions by
 * whatever library there is.
 *
 *   static const ck_gpu_library library = {NULL, false, 1 << 25, matmul, prepare_convolution,
 * convolve}; CK_TRY(ck_gpu_prepare(&library, g, n, half, residual, &kernel, err));
 *
 * The plugin (plugin.c) brings NVIDIA's libraries; the tests (gpu_host.c) bring the reference, and
 * so run every line of this, and of the kernels, without a card.
 */
#ifndef CK_GPU_OPERATIONS_H
#define CK_GPU_OPERATIONS_H

#include "distill/engine/backend.h"
#include "kernels/cuda/kernels.h"

/* `batch` products c = op(a) op(b) + row + more (row: one for all rows; more: like c, and may be c;
 * NULL: none), with op(a) m x k, op(b) k x n, c m x n, each array's next matrix right behind the
 * last. All contiguous, rows first. */
typedef struct ck_gpu_product {
    bool ta, tb; /* a lies as k x m, b as n x k */
    int64_t m, n, k, batch;
    bool half_c; /* c, row and more are of bf16 */
} ck_gpu_product;

/* What is added to a convolution. */
typedef struct ck_gpu_added {
    bool bias, residual;
} ck_gpu_added;

typedef struct ck_gpu_library {
    ck_gpu_stream stream;
    bool half;           /* products and convolutions are of bf16, with sums in f32 */
    int64_t most_scores; /* of attention in scratch memory, at least one query's */
    size_t shared;       /* bytes that a block of the card's threads can share */
    void (*matmul)(const struct ck_gpu_library *l, const ck_gpu_product *p, const void *a,
                   const void *b, const void *row, const void *more, void *c);
    /* A convolution, or one of its gradients. *added: what is to be added to it, and then what of
     * that the library adds. *plan is never released; workspace: bytes that convolve needs. */
    ck_status (*prepare_convolution)(const struct ck_gpu_library *l, const ck_graph *g, ck_node n,
                                     ck_gpu_added *added, void **plan, size_t *workspace,
                                     ck_error *err);
    /* first, second: the node's sources; all arrays are of bf16 where the library is. bias,
     * residual: NULL where they are not the library's. */
    void (*convolve)(const ck_call *call, const void *plan, const void *first, const void *second,
                     const void *bias, const void *residual, void *dst, void *workspace);
} ck_gpu_library;

/* What backends of bf16 can store so. */
bool ck_gpu_takes_half(const ck_graph *g, ck_node n, int source);

/* Products of matrices and convolutions add residuals. */
bool ck_gpu_takes_residual(const ck_graph *g, ck_node n);

/* How a node will be run; the library must outlive the kernel. half, residual: see ck_backend. */
ck_status ck_gpu_prepare(const ck_gpu_library *l, const ck_graph *g, ck_node n, const bool *half,
                         bool residual, ck_kernel *kernel, ck_error *err);

#endif
