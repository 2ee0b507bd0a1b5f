/* Products of small matrices by a card's tensor cores, in the words of gpu.h; compiled as plain C,
 * the same products by loops, of numbers that lie with the same threads.
 *
 *   CK_GPU_OWN(float, sums, 8);                 numbers that each thread has,
 * sums[CK_GPU_MINE(t)][i] CK_GPU_OWN(uint32_t, a, 4); CK_GPU_OWN(uint32_t, b, 4); CK_GPU_THREADS(t)
 * { ck_gpu_load(a[CK_GPU_MINE(t)], at, stride, CK_GPU_A, t); ck_gpu_load(b[CK_GPU_MINE(t)], at,
 * stride, CK_GPU_B_BY_ROWS, t);
 *   }
 *   CK_GPU_PRODUCT(sums, 0, a, b, 0);           columns 0 to 7; of every warp, outside of
 *   CK_GPU_PRODUCT(sums, 4, a, b, 2);           CK_GPU_THREADS: columns 8 to 15
 *
 * A warp multiplies a (16 x 16) by b (16 x 8) of bf16, and adds to sums (16 x 8) of f32
 * (mma.m16n8k16 of PTX's manual). Of sums, thread t of 32 has, in this order, columns 2 (t % 4) and
 * the next of row t / 4, and of row t / 4 + 8. Pairs of such sums, rounded, are an `a` of 16
 * columns (ck_gpu_pack): so that what one product made goes into the next without memory in
 * between.
 */
#ifndef CK_GPU_TENSOR_H
#define CK_GPU_TENSOR_H

#include "kernels/cuda/gpu.h"

/* How 16 x 16 numbers in shared memory become an `a`, or two `b` beside each other: row by row; or,
 * where memory has columns of b one after the other, or rows. */
typedef enum ck_gpu_lying { CK_GPU_A, CK_GPU_B_BY_COLUMNS, CK_GPU_B_BY_ROWS } ck_gpu_lying;

/* Such a matrix is four of 8 x 8: where row t % 8 of number t / 8 begins. */
CK_GPU_FUNCTION const uint16_t *ck_gpu_row_of(const uint16_t *at, int stride, ck_gpu_lying how,
                                              int t) {
    if (how == CK_GPU_B_BY_COLUMNS) return at + (t / 16 * 8 + t % 8) * stride + t / 8 % 2 * 8;
    return at + t % 16 * stride + t / 16 * 8;
}

#ifdef __CUDACC__

#define CK_GPU_UNROLL                 _Pragma("unroll")
#define CK_GPU_OWN(type, name, n)     type name[1][n]
#define CK_GPU_MINE(t)                ((t)*0)
#define CK_GPU_PRODUCT(c, i, a, b, j) ck_gpu_product_of(&(c)[0][i], (a)[0], &(b)[0][j])

CK_GPU_FUNCTION void ck_gpu_product_of(float *c, const uint32_t *a, const uint32_t *b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

CK_GPU_FUNCTION void ck_gpu_load(uint32_t x[4], const uint16_t *at, int stride, ck_gpu_lying how,
                                 int t) {
    const uint16_t *row = ck_gpu_row_of(at, stride, how, t % CK_GPU_WARP);
    uint32_t place = (uint32_t)__cvta_generic_to_shared(row);
    if (how == CK_GPU_B_BY_ROWS)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                     : "r"(place)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                     : "r"(place)
                     : "memory");
}

/* Two numbers, rounded to the nearest; the first in the lower half. */
CK_GPU_FUNCTION uint32_t ck_gpu_pack(float first, float second) {
    uint32_t x;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(x) : "f"(second), "f"(first));
    return x;
}

/* Four threads that follow each other: all have what joins their numbers. */
#define CK_GPU_JOIN_FOURS(x, i, largest)                                                           \
    do {                                                                                           \
        (x)[0][i] = ck_gpu_join((x)[0][i], __shfl_xor_sync(~0u, (x)[0][i], 1), largest);           \
        (x)[0][i] = ck_gpu_join((x)[0][i], __shfl_xor_sync(~0u, (x)[0][i], 2), largest);           \
    } while (0)

/* 16 bytes, or 4, into shared memory, there after ck_gpu_arrived and a barrier. */
CK_GPU_FUNCTION void ck_gpu_send(void *shared, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(shared)),
                 "l"(from)
                 : "memory");
}

CK_GPU_FUNCTION void ck_gpu_send_one(float *shared, const float *from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(shared)),
                 "l"(from)
                 : "memory");
}

/* What was sent so far is a group; waits for all groups but the last. */
CK_GPU_FUNCTION void ck_gpu_sent(void) {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

CK_GPU_FUNCTION void ck_gpu_arrived(void) {
    asm volatile("cp.async.wait_group 1;" ::: "memory");
}

#else

#define CK_GPU_UNROLL
#define CK_GPU_OWN(type, name, n) type name[CK_GPU_BLOCK][n]
#define CK_GPU_MINE(t)            (t)
#define CK_GPU_PRODUCT(c, i, a, b, j)                                                              \
    ck_gpu_product_of(&(c)[0][i], sizeof(c)[0] / sizeof(float), (a)[0], &(b)[0][j],                \
                      sizeof(b)[0] / sizeof(uint32_t))

CK_GPU_FUNCTION float ck_gpu_half_of(uint32_t pair, int which) {
    return ck_half_value((uint16_t)(pair >> 16 * which));
}

/* c, b: how many numbers lie between a thread's and the next one's. */
CK_GPU_FUNCTION void ck_gpu_product_of(float *c, size_t next_c, const uint32_t *a,
                                       const uint32_t *b, size_t next_b) {
    for (int warp = 0; warp < CK_GPU_BLOCK; warp += CK_GPU_WARP) {
        float left[16][16], right[16][8];
        for (int t = 0; t < CK_GPU_WARP; t++) {
            const uint32_t *mine = a + (warp + t) * 4, *other = b + (size_t)(warp + t) * next_b;
            for (int i = 0; i < 8; i++)
                left[t / 4 + i / 2 % 2 * 8][t % 4 * 2 + i % 2 + i / 4 * 8] =
                    ck_gpu_half_of(mine[i / 2], i % 2);
            for (int i = 0; i < 4; i++)
                right[t % 4 * 2 + i % 2 + i / 2 * 8][t / 4] = ck_gpu_half_of(other[i / 2], i % 2);
        }
        for (int t = 0; t < CK_GPU_WARP; t++)
            for (int i = 0; i < 4; i++) {
                float *sum = c + (size_t)(warp + t) * next_c + i;
                for (int k = 0; k < 16; k++)
                    *sum += left[t / 4 + i / 2 * 8][k] * right[k][t % 4 * 2 + i % 2];
            }
    }
}

/* (ldmatrix: of matrix i a thread has two numbers of a row, or of a column.) */
CK_GPU_FUNCTION void ck_gpu_load(uint32_t x[4], const uint16_t *at, int stride, ck_gpu_lying how,
                                 int t) {
    int row = t % CK_GPU_WARP / 4, pair = t % 4 * 2;
    for (int i = 0; i < 4; i++) {
        uint16_t both[2];
        for (int k = 0; k < 2; k++)
            both[k] = how == CK_GPU_B_BY_ROWS
                          ? ck_gpu_row_of(at, stride, how, 8 * i + pair + k)[row]
                          : ck_gpu_row_of(at, stride, how, 8 * i + row)[pair + k];
        x[i] = both[0] | (uint32_t)both[1] << 16;
    }
}

CK_GPU_FUNCTION uint32_t ck_gpu_pack(float first, float second) {
    return ck_half(first) | (uint32_t)ck_half(second) << 16;
}

#define CK_GPU_JOIN_FOURS(x, i, largest)                                                           \
    for (int ck_t = 0; ck_t < CK_GPU_BLOCK; ck_t += 4) {                                           \
        float ck_all =                                                                             \
            ck_gpu_join(ck_gpu_join((x)[ck_t][i], (x)[ck_t + 1][i], largest),                      \
                        ck_gpu_join((x)[ck_t + 2][i], (x)[ck_t + 3][i], largest), largest);        \
        for (int ck_k = 0; ck_k < 4; ck_k++) (x)[ck_t + ck_k][i] = ck_all;                         \
    }

CK_GPU_FUNCTION void ck_gpu_send(void *shared, const void *from) {
    memcpy(shared, from, 16);
}

CK_GPU_FUNCTION void ck_gpu_send_one(float *shared, const float *from) {
    *shared = *from;
}

CK_GPU_FUNCTION void ck_gpu_sent(void) {
}

CK_GPU_FUNCTION void ck_gpu_arrived(void) {
}

#endif

#endif
