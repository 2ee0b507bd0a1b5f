/* Operations on a GPU: the kernels of kernels/cuda, and products of matrices and convolutions by
 * whatever library there is.
 *
 *   static const ck_gpu_library library = {matmul, prepare_convolution};
 *   CK_TRY(ck_gpu_prepare(&library, g, n, &kernel, err));
 *
 * The plugin (plugin.c) brings NVIDIA's libraries; the tests (gpu_host.c) bring the reference, and
 * so run every line of this, and of the kernels, without a card.
 */
#ifndef CK_GPU_OPERATIONS_H
#define CK_GPU_OPERATIONS_H

#include "distill/engine/backend.h"
#include "kernels/cuda/kernels.h"

/* `batch` products c = op(a) op(b) + row (one for all rows, NULL: none), with op(a) m x k, op(b) k
 * x n, c m x n, each array's next matrix right behind the last. All contiguous, rows first. */
typedef struct ck_gpu_product {
    bool ta, tb; /* a lies as k x m, b as n x k */
    int64_t m, n, k, batch;
} ck_gpu_product;

typedef struct ck_gpu_library {
    ck_gpu_stream stream;
    void (*matmul)(const struct ck_gpu_library *l, const ck_gpu_product *p, const float *a,
                   const float *b, const float *row, float *c);
    /* A convolution or one of its gradients. */
    ck_status (*prepare_convolution)(const struct ck_gpu_library *l, const ck_graph *g, ck_node n,
                                     ck_kernel *kernel, ck_error *err);
} ck_gpu_library;

/* How a node will be run; the library must outlive the kernel. */
ck_status ck_gpu_prepare(const ck_gpu_library *l, const ck_graph *g, ck_node n, ck_kernel *kernel,
                         ck_error *err);

#endif
