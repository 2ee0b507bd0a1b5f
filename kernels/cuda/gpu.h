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
 * Arrays of activations are of f32 or of bf16 (ck_gpu_array), read by ck_gpu_get and written by
 * ck_gpu_put, or eight at a time; arithmetic is in f32.
 *
 * What threads of a block tell each other goes through `shared` (CK_GPU_SHARED floats), and
 * CK_GPU_BARRIER lies between writing and reading; a barrier never stands inside CK_GPU_THREADS.
 * Sums are made by ck_gpu_block_sum and ck_gpu_team_sum, fixed trees, and nothing is added
 * atomically: so the bits do not depend on chance, and are the same on card and processor but for
 * exp, sin and their like.
 */
#ifndef CK_GPU_H
#define CK_GPU_H

#include "kernels/cuda/kernels.h"
#include "kernels/half.h"

#include <math.h>
#include <string.h>

enum {
    CK_GPU_BLOCK = 256,   /* threads of a block; a power of two */
    CK_GPU_SHARED = 1024, /* floats that a block shares */
    CK_GPU_MOST_BLOCKS = 4096,
};

#ifdef __CUDACC__

#define CK_GPU_FUNCTION   static __device__ __forceinline__
#define CK_GPU_THREADS(t) for (int t = threadIdx.x, t##_once = 1; t##_once; t##_once = 0)
#define CK_GPU_BARRIER()  __syncthreads()
#define CK_GPU_ALIGNED(n) __align__(n)
#define CK_GPU_KERNEL(name, args)                                                                  \
    static __device__ void name##_block(const args *a, int64_t block, int64_t blocks,              \
                                        float *shared);                                            \
    static __global__ void name##_grid(const __grid_constant__ args a) {                           \
        __shared__ float shared[CK_GPU_SHARED];                                                    \
        name##_block(&a, blockIdx.x, gridDim.x, shared);                                           \
    }                                                                                              \
    static void name##_launch(ck_gpu_stream stream, int64_t blocks, const args *a) {               \
        name##_grid<<<(unsigned)blocks, CK_GPU_BLOCK, 0, (cudaStream_t)stream>>>(*a);              \
    }                                                                                              \
    static __device__ void name##_block(const args *a, int64_t block, int64_t blocks, float *shared)
/* One whose blocks share `bytes`, more than that, where the card has it, and of which so many are
 * to find room at once on one of its processors. */
#define CK_GPU_LARGE_KERNEL_(name, args, bytes, at_once)                                           \
    static __device__ void name##_block(const args *a, int64_t block, int64_t blocks,              \
                                        float *shared);                                            \
    static __global__ void __launch_bounds__(CK_GPU_BLOCK, at_once)                                \
        name##_grid(const __grid_constant__ args a) {                                              \
        extern __shared__ __align__(16) float ck_gpu_shared[];                                     \
        name##_block(&a, blockIdx.x, gridDim.x, ck_gpu_shared);                                    \
    }                                                                                              \
    static void name##_launch(ck_gpu_stream stream, int64_t blocks, const args *a) {               \
        cudaFuncSetAttribute(name##_grid, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);     \
        name##_grid<<<(unsigned)blocks, CK_GPU_BLOCK, bytes, (cudaStream_t)stream>>>(*a);          \
    }                                                                                              \
    static __device__ void name##_block(const args *a, int64_t block, int64_t blocks, float *shared)

#else

#define CK_GPU_FUNCTION   static inline
#define CK_GPU_THREADS(t) for (int t = 0; t < CK_GPU_BLOCK; t++)
#define CK_GPU_BARRIER()  ((void)0)
#define CK_GPU_ALIGNED(n) __attribute__((aligned(n), may_alias))
#define CK_GPU_KERNEL(name, args)                                                                  \
    static void name##_block(const args *a, int64_t block, int64_t blocks, float *shared);         \
    static void name##_launch(ck_gpu_stream stream, int64_t blocks, const args *a) {               \
        float shared[CK_GPU_SHARED];                                                               \
        (void)stream;                                                                              \
        for (int64_t block = 0; block < blocks; block++) name##_block(a, block, blocks, shared);   \
    }                                                                                              \
    static void name##_block(const args *a, int64_t block, int64_t blocks, float *shared)
#define CK_GPU_LARGE_KERNEL_(name, args, bytes, at_once)                                           \
    static void name##_block(const args *a, int64_t block, int64_t blocks, float *shared);         \
    static void name##_launch(ck_gpu_stream stream, int64_t blocks, const args *a) {               \
        static CK_GPU_ALIGNED(16) float shared[(bytes) / sizeof(float)];                           \
        (void)stream;                                                                              \
        for (int64_t block = 0; block < blocks; block++) name##_block(a, block, blocks, shared);   \
    }                                                                                              \
    static void name##_block(const args *a, int64_t block, int64_t blocks, float *shared)

#endif

/* (Of names that are macros, what they stand for.) */
#define CK_GPU_LARGE_KERNEL(name, args, bytes, at_once)                                            \
    CK_GPU_LARGE_KERNEL_(name, args, bytes, at_once)

/* The elements 0 to n - 1 that thread t of this block has, spread over the grid. */
#define CK_GPU_EACH(i, t, n)                                                                       \
    for (int64_t i = block * CK_GPU_BLOCK + (t); i < (n); i += blocks * CK_GPU_BLOCK)

/* A kernel that needs none of these says so. */
#define CK_GPU_UNUSED_SHARED() ((void)shared)

/* Blocks for n elements, or groups of them, one each thread or more. */
static inline int64_t ck_gpu_blocks(int64_t n) {
    int64_t blocks = (n + CK_GPU_BLOCK - 1) / CK_GPU_BLOCK;
    return blocks < 1 ? 1 : blocks > CK_GPU_MOST_BLOCKS ? CK_GPU_MOST_BLOCKS : blocks;
}

/* *i by d: the rest, and *i is what it goes. (Numbers of 64 bits take a card much longer.) */
CK_GPU_FUNCTION int64_t ck_gpu_divide(int64_t *i, int64_t d) {
    int64_t whole = *i;
    if ((whole | d) >> 32 == 0)
        *i = (uint32_t)whole / (uint32_t)d;
    else
        *i = whole / d;
    return whole - *i * d;
}

/* ---- Sums ---- */

/* Each thread has put a number into x[t]; afterwards the first x of every team, of so many threads
 * that follow each other, is the team's sum, or the largest. A team is a warp, or the block: 32
 * threads or CK_GPU_BLOCK. (Within warps numbers meet in the same order, without barriers.) */
enum { CK_GPU_WARP = 32, CK_GPU_WARPS = CK_GPU_BLOCK / 32 };

CK_GPU_FUNCTION float ck_gpu_join(float a, float b, bool largest) {
    return largest ? fmaxf(a, b) : a + b;
}

CK_GPU_FUNCTION void ck_gpu_team_join(float *x, int team, bool largest) {
#ifdef __CUDACC__
    enum { LAST = CK_GPU_WARP };
#else
    enum { LAST = 1 };
#endif
    for (int half = team / 2; half >= LAST; half /= 2) {
        CK_GPU_BARRIER();
        CK_GPU_THREADS(t) {
            if (t % team < half) x[t] = ck_gpu_join(x[t], x[t + half], largest);
        }
    }
    CK_GPU_BARRIER();
#ifdef __CUDACC__
    float mine = x[threadIdx.x];
    for (int half = LAST / 2; half > 0; half /= 2)
        mine = ck_gpu_join(mine, __shfl_down_sync(~0u, mine, half), largest);
    if (threadIdx.x % team == 0) x[threadIdx.x] = mine;
    CK_GPU_BARRIER();
#endif
}

CK_GPU_FUNCTION void ck_gpu_team_sum(float *x, int team) {
    ck_gpu_team_join(x, team, false);
}

CK_GPU_FUNCTION void ck_gpu_block_sum(float *x) {
    ck_gpu_team_join(x, CK_GPU_BLOCK, false);
}

/* How many threads share a row of so many numbers, and blocks for so many rows. */
static inline int ck_gpu_team_for(int64_t numbers) {
    enum { MOST = 32 * CK_GPU_WARP };
    return numbers <= MOST ? (int)CK_GPU_WARP : (int)CK_GPU_BLOCK;
}

static inline int64_t ck_gpu_team_blocks(int64_t rows, int team) {
    return ck_gpu_blocks(rows * team);
}

/* The rows, of n, that the block's teams have: from `first` on, one each. */
#define CK_GPU_EACH_TEAM(first, team, n)                                                           \
    for (int64_t first = block * (CK_GPU_BLOCK / (team)); first < (n);                             \
         first += blocks * (CK_GPU_BLOCK / (team)))

/* ---- Numbers in memory ---- */

CK_GPU_FUNCTION float ck_gpu_get(const ck_gpu_array *x, int64_t i) {
    return x->half ? ck_half_value(((const uint16_t *)x->at)[i]) : ((const float *)x->at)[i];
}

CK_GPU_FUNCTION void ck_gpu_put(const ck_gpu_array *y, int64_t i, float value) {
    if (y->half)
        ((uint16_t *)y->at)[i] = ck_half(value);
    else
        ((float *)y->at)[i] = value;
}

/* Eight numbers at once, of the n from element i on (the rest of v is zero), i a multiple of eight:
 * where the array lies as it should, in one access or two. */
enum { CK_GPU_SOME = 8 };
typedef struct CK_GPU_ALIGNED(16) ck_gpu_wide {
    uint32_t word[4];
} ck_gpu_wide;

CK_GPU_FUNCTION bool ck_gpu_is_wide(const ck_gpu_array *x, int64_t n) {
    return n >= CK_GPU_SOME && (uintptr_t)x->at % sizeof(ck_gpu_wide) == 0;
}

CK_GPU_FUNCTION void ck_gpu_get_some(const ck_gpu_array *x, int64_t i, int64_t n,
                                     float v[CK_GPU_SOME]) {
    if (!ck_gpu_is_wide(x, n)) {
        for (int k = 0; k < CK_GPU_SOME; k++) v[k] = k < n ? ck_gpu_get(x, i + k) : 0;
    } else if (x->half) {
        ck_gpu_wide w = *(const ck_gpu_wide *)((const uint16_t *)x->at + i);
        for (int k = 0; k < CK_GPU_SOME; k++)
            v[k] = ck_half_value((uint16_t)(w.word[k / 2] >> 16 * (k % 2)));
    } else {
        const ck_gpu_wide *at = (const ck_gpu_wide *)((const float *)x->at + i);
        ck_gpu_wide w[2] = {at[0], at[1]};
        memcpy(v, w, sizeof w);
    }
}

CK_GPU_FUNCTION void ck_gpu_put_some(const ck_gpu_array *y, int64_t i, int64_t n,
                                     const float v[CK_GPU_SOME]) {
    if (!ck_gpu_is_wide(y, n)) {
        for (int k = 0; k < CK_GPU_SOME && k < n; k++) ck_gpu_put(y, i + k, v[k]);
    } else if (y->half) {
        ck_gpu_wide w = {{0}};
        for (int k = 0; k < CK_GPU_SOME; k++)
            w.word[k / 2] |= (uint32_t)ck_half(v[k]) << 16 * (k % 2);
        *(ck_gpu_wide *)((uint16_t *)y->at + i) = w;
    } else {
        ck_gpu_wide w[2], *at = (ck_gpu_wide *)((float *)y->at + i);
        memcpy(w, v, sizeof w);
        at[0] = w[0], at[1] = w[1];
    }
}

/* The groups of eight of n elements that thread t has: from i on. */
#define CK_GPU_EACH_SOME(i, t, n)                                                                  \
    for (int64_t i = (block * CK_GPU_BLOCK + (t)) * CK_GPU_SOME; i < (n);                          \
         i += blocks * CK_GPU_BLOCK * CK_GPU_SOME)

CK_GPU_FUNCTION float ck_gpu_sigmoid(float x) {
    return 1 / (1 + expf(-x));
}

#endif
