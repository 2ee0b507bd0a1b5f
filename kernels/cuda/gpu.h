/* The words that kernels for GPUs are written in. The same source is compiled twice: by nvcc for
 * the card, and as plain C, where blocks and threads are loops, for the tests and for machines
 * without a card.
 *
 *   typedef struct scale_args { float *y; const float *x; float factor; size_t n; } scale_args;
 *
 *   CK_GPU_KERNEL(scale, scale_args) {                    in scope: a, block, blocks, shared
 *       CK_GPU_THREADS(t) {                               every thread of the block
 *           CK_GPU_EACH(i, t, a->n) a->y[i] = a->factor * a->x[i];
 *       }
 *   }
 *   void ck_gpu_scale(...) { scale_args a = {...}; scale_launch(stream, ck_gpu_blocks(n), &a); }
 *
 * What threads of a block tell each other goes through `shared` (CK_GPU_SHARED floats), and
 * CK_GPU_BARRIER lies between writing and reading; a barrier never stands inside CK_GPU_THREADS.
 * Sums are made by ck_gpu_block_sum, a fixed tree, and nothing is added atomically: so the bits do
 * not depend on chance, and are the same on card and processor but for exp, sin and their like.
 */
#ifndef CK_GPU_H
#define CK_GPU_H

#include "kernels/cuda/kernels.h"

#include <math.h>

enum {
    CK_GPU_BLOCK = 256,   /* threads of a block; a power of two */
    CK_GPU_SHARED = 1024, /* floats that a block shares */
    CK_GPU_MOST_BLOCKS = 4096,
};

#ifdef __CUDACC__

#define CK_GPU_FUNCTION   static __device__ __forceinline__
#define CK_GPU_THREADS(t) for (int t = threadIdx.x, t##_once = 1; t##_once; t##_once = 0)
#define CK_GPU_BARRIER()  __syncthreads()
#define CK_GPU_KERNEL(name, args)                                                                  \
    static __device__ void name##_block(const args *a, int64_t block, int64_t blocks,              \
                                        float *shared);                                            \
    static __global__ void name##_grid(args a) {                                                   \
        __shared__ float shared[CK_GPU_SHARED];                                                    \
        name##_block(&a, blockIdx.x, gridDim.x, shared);                                           \
    }                                                                                              \
    static void name##_launch(ck_gpu_stream stream, int64_t blocks, const args *a) {               \
        name##_grid<<<(unsigned)blocks, CK_GPU_BLOCK, 0, (cudaStream_t)stream>>>(*a);              \
    }                                                                                              \
    static __device__ void name##_block(const args *a, int64_t block, int64_t blocks, float *shared)

#else

#define CK_GPU_FUNCTION   static inline
#define CK_GPU_THREADS(t) for (int t = 0; t < CK_GPU_BLOCK; t++)
#define CK_GPU_BARRIER()  ((void)0)
#define CK_GPU_KERNEL(name, args)                                                                  \
    static void name##_block(const args *a, int64_t block, int64_t blocks, float *shared);         \
    static void name##_launch(ck_gpu_stream stream, int64_t blocks, const args *a) {               \
        float shared[CK_GPU_SHARED];                                                               \
        (void)stream;                                                                              \
        for (int64_t block = 0; block < blocks; block++) name##_block(a, block, blocks, shared);   \
    }                                                                                              \
    static void name##_block(const args *a, int64_t block, int64_t blocks, float *shared)

#endif

/* The elements 0 to n - 1 that thread t of this block has, spread over the grid. */
#define CK_GPU_EACH(i, t, n)                                                                       \
    for (int64_t i = block * CK_GPU_BLOCK + (t); i < (n); i += blocks * CK_GPU_BLOCK)

/* A kernel that needs none of these says so. */
#define CK_GPU_UNUSED_SHARED() ((void)shared)

/* Blocks for n elements, one each thread or more. */
static inline int64_t ck_gpu_blocks(int64_t n) {
    int64_t blocks = (n + CK_GPU_BLOCK - 1) / CK_GPU_BLOCK;
    return blocks < 1 ? 1 : blocks > CK_GPU_MOST_BLOCKS ? CK_GPU_MOST_BLOCKS : blocks;
}

/* Each thread has put a number into x[t]; afterwards x[0] is their sum. */
CK_GPU_FUNCTION void ck_gpu_block_sum(float *x) {
    for (int half = CK_GPU_BLOCK / 2; half > 0; half /= 2) {
        CK_GPU_BARRIER();
        CK_GPU_THREADS(t) {
            if (t < half) x[t] += x[t + half];
        }
    }
    CK_GPU_BARRIER();
}

CK_GPU_FUNCTION float ck_gpu_sigmoid(float x) {
    return 1 / (1 + expf(-x));
}

#endif
