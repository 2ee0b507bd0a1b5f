/* Products by the processor's matrix unit (ck_nn_amx), for the nodes that are made of them. */
#ifndef CK_SIMD_AMX_INT_H
#define CK_SIMD_AMX_INT_H

#include "distill/engine/backend.h"
#include "kernels/nn.h"

/* The state of a kernel that has scratch memory for all threads, then `room` bytes for each. */
typedef struct ck_tiled {
    const ck_nn_amx *kernels;
    size_t room;
    int threads; /* that there is room for */
} ck_tiled;

/* A kernel with such a state, and `shared` bytes for all threads. */
ck_status ck_simd__prepare_tiled(const ck_nn_amx *kernels, void (*run)(const ck_call *call),
                                 size_t shared, size_t room, ck_kernel *kernel, ck_error *err);

/* Bytes of the tiles of so many vectors of so many numbers. */
static inline size_t ck_simd__tiles(size_t vectors, size_t numbers) {
    return vectors / 16 * CK_NN_AMX_STEPS(numbers) * 1024;
}

/* m x n inner products of vectors of k numbers, + bias (of n) unless that is NULL. */
typedef struct ck_product {
    size_t m, n, k;
    ck_nn_side a, b; /* vectors of k numbers, m and n of them */
    const float *bias;
} ck_product;

/* What node n, a CK_OP_MATMUL that ck_simd__takes_product takes, makes of sources that lie at src.
 */
ck_product ck_simd__product_of(const ck_graph *g, ck_node n, const bool *half,
                               const void *const src[CK_MAX_SRC]);

/* By all threads of a team: the right matrix to tiles, ck_simd__tiles(n, k) bytes of them. */
void ck_simd__tile_right(const ck_nn_amx *kernels, const ck_product *p, char *tiles);

/* By one thread: rows first to first + rows - 1 of the result, one after the other, as bf16 (half)
 * or f32. memory: ck_simd__tiles(rows, k) bytes. */
void ck_simd__multiply_rows(const ck_nn_amx *kernels, const ck_product *p, const char *right,
                            size_t first, size_t rows, void *to, bool half, char *memory);

#endif
