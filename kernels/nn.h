/* Neural network kernels in f32: one table of functions per instruction set, and one for arrays of
 * bf16 (what is computed is f32 there, too).
 *
 *   const ck_nn *k = ck_nn_best();
 *   k->unary[CK_NN_SILU](y, x, n);
 *
 * Each runs on one thread over what it is given; who calls shares out rows, images and heads. The
 * bits are the same in every run but not in every table. Functions of e are off by 2e-7 relative at
 * most, for arrays of bf16 by 5e-5; NaN stays NaN. Arrays need no alignment; results overlap no
 * sources, unless they are the same array, which element by element is allowed.
 */
#ifndef CK_NN_H
#define CK_NN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum ck_nn_unary {
    CK_NN_SILU,       /* x / (1 + e^-x) */
    CK_NN_GELU,       /* x P(z < x), z normal */
    CK_NN_GELU_TANH,  /* x / (1 + e^-u), u = sqrt(8 / pi) (x + 0.044715 x^3) */
    CK_NN_QUICK_GELU, /* x / (1 + e^(-1.702 x)) */
    CK_NN_EXP,
    CK_NN_UNARIES
} ck_nn_unary;

/* What a norm does to each of n channels: (x - mean) scale gain + bias, then silu if that is set.
 */
typedef struct ck_nn_norm {
    const float *mean, *scale, *gain, *bias;
    size_t n;
    bool silu;
} ck_nn_norm;

/* Attention: image after image, tokens of `channels` numbers, of which a head has `width`, at most
 * CK_NN_HEAD. Row t of sums is the logarithm of the sum of exponentials of query t's scores; there
 * is one for each image, head and query. Causal: query t sees keys 0 to t. */
enum { CK_NN_HEAD = 512 };

typedef struct ck_nn_attention {
    size_t queries, keys, channels, heads, width;
    bool half; /* the arrays are bf16 (those of ck_nn_amx only), else f32; sums is f32 */
    const void *q, *k, *v; /* tokens x channels for each image */
    float scale;
    bool causal;
    void *y; /* written forward, read backward, as sums */
    float *sums;
    const void *dy; /* backward only, as the rest */
    void *dq, *dk, *dv;
} ck_nn_attention;

/* Its kernels, for heads of at most `widest` channels. memory: of a thread, as many bytes as `room`
 * says (it reads queries, keys and width), aligned to 64. */
typedef struct ck_nn_attend {
    size_t widest, queries;
    size_t (*room)(const ck_nn_attention *a, bool backward);
    /* So many queries of a head, from `first` on (or as many as there are). */
    void (*forward)(const ck_nn_attention *a, size_t image, size_t head, size_t first,
                    void *memory);
    /* All of dq, dk and dv of one head. */
    void (*backward)(const ck_nn_attention *a, size_t image, size_t head, void *memory);
} ck_nn_attend;

/* A matrix whose element (i, j) is at[i * row + j * column]. */
typedef struct ck_nn_matrix {
    const float *at;
    size_t row, column;
} ck_nn_matrix;

/* The same, of f32 or (half) of bf16. */
typedef struct ck_nn_side {
    const void *at;
    size_t row, column;
    bool half;
} ck_nn_side;
/* A side as the matrix unit reads it, in bytes from one to the next: rows of a tile, tiles of the
 * next 32 numbers, tiles of the next 16 vectors. As `pack` makes them: 64, 1024, 1024
 * CK_NN_AMX_STEPS(k). */
typedef struct ck_nn_tiles {
    const void *at;
    size_t row, step, group;
} ck_nn_tiles;

/* Where inner products go, rows `stride` numbers apart. */
typedef struct ck_nn_result {
    void *at;
    size_t stride;
    bool half; /* of bf16, else f32 */
    bool add;  /* to what is there; of f32 */
    bool last; /* nothing is added to them any more and they are read much later: they go past the
                  caches; of f32, in rows that are aligned to 64 bytes */
} ck_nn_result;

typedef struct ck_nn {
    const char *isa; /* "portable", "avx2", "avx512" */
    size_t element;  /* bytes of a number of the arrays that are void here: 4 (f32) or 2 (bf16) */

    /* y = f(x); dx = dy f'(x); n elements */
    void (*unary[CK_NN_UNARIES])(void *y, const void *x, size_t n);
    void (*unary_grad[CK_NN_UNARIES])(void *dx, const void *x, const void *dy, size_t n);

    /* y = factor x + offset */
    void (*affine)(void *y, const void *x, float factor, float offset, size_t n);
    void (*add)(void *y, const void *a, const void *b, size_t n);
    void (*multiply)(void *y, const void *a, const void *b, size_t n);
    /* y = a + b + c + d */
    void (*add_four)(void *y, const void *a, const void *b, const void *c, const void *d, size_t n);

    /* y = value gelu(gate), n elements */
    void (*geglu)(void *y, const void *value, const void *gate, size_t n);
    void (*geglu_grad)(void *dvalue, void *dgate, const void *value, const void *gate,
                       const void *dy, size_t n);

    /* The sum of n elements. */
    double (*total)(const void *x, size_t n);
    /* sum[c] += the sum of column c, squares[c] (if it is not NULL) that of its squares; n columns,
     * rows `stride` elements apart. */
    void (*columns)(double *sum, double *squares, const void *x, size_t rows, size_t n,
                    size_t stride);

    /* Rows of v->n elements, one after the other. */
    void (*norm)(const ck_nn_norm *v, void *y, const void *x, size_t rows);
    /* dz, the gradient of what silu is applied to, from dy, that of the result. */
    void (*norm_slope)(const ck_nn_norm *v, void *dz, const void *x, const void *dy, size_t rows);
    /* With xhat = (x - mean) scale: sum[c] += dz, product[c] += dz xhat. */
    void (*norm_sums)(const ck_nn_norm *v, double *sum, double *product, const void *x,
                      const void *dz, size_t rows);
    /* dx = scale (gain dz - first - xhat second), all by channel. */
    void (*norm_grad)(const ck_nn_norm *v, void *dx, const void *x, const void *dz,
                      const float *first, const float *second, size_t rows);

    /* Layer norm of rows of n elements: y = (x - mean) scale gain + bias with
     * scale = 1 / sqrt(variance + eps); mean and scale of each go to statistics. */
    void (*layer_norm)(void *y, float *statistics, const void *x, const float *gain,
                       const float *bias, double eps, size_t rows, size_t n);
    /* dx; dgain += dy xhat, dbias += dy. */
    void (*layer_norm_grad)(void *dx, double *dgain, double *dbias, const void *x, const void *dy,
                            const float *gain, const float *statistics, size_t rows, size_t n);

    /* The rest is there for f32 only.
     * c = a b + (add ? c : 0): c has m x n elements, n a multiple of 16, rows c_stride apart; a has
     * m x k, b k x n, rows b_stride apart. */
    void (*product)(float *c, size_t c_stride, ck_nn_matrix a, const float *b, size_t b_stride,
                    size_t m, size_t n, size_t k, bool add);

    ck_nn_attend attention;
} ck_nn;

/* In tiles of the processor's matrix unit (AMX): attention and products, what is multiplied rounded
 * to bfloat16, sums f32. */
typedef struct ck_nn_amx {
    const ck_nn *half; /* the kernels for arrays of bf16 */
    ck_nn_attend attention;
    /* Brings m vectors of k numbers into tiles: vector i at x.at + i * x.row, its numbers x.column
     * apart; one of both is 1. m and k are multiples of 16. It takes m / 16 times
     * CK_NN_AMX_STEPS(k) KiB. right: for the right side of a product. */
    void (*pack)(uint32_t *to, ck_nn_side x, size_t m, size_t k, bool right);
    /* The same of numbers that lie anywhere: number k of the first vector at x + at[k], or zero
     * where at[k] < 0, that of the next beside it, and so on. half: x is of bf16. group: see
     * ck_nn_tiles. There are 32 CK_NN_AMX_STEPS(k) places. */
    void (*gather)(uint32_t *to, size_t group, const void *x, bool half, const int64_t *at,
                   size_t m, size_t k, bool right);
    /* The inner products of m left and n right vectors, + bias (of n) unless that is NULL. */
    void (*multiply)(ck_nn_result c, ck_nn_tiles left, ck_nn_tiles right, size_t m, size_t n,
                     size_t k, const float *bias);
    /* Numbers of a and b side by side, rounded: to[i] = a[i], b[i]; n a multiple of 16. */
    void (*pair)(uint32_t *to, const float *a, const float *b, size_t n);
} ck_nn_amx;

#define CK_NN_AMX_STEPS(k) (((k) + 31) / 32)

/* NULL where there is no such unit or CK_ISA asks for less than avx512. */
const ck_nn_amx *ck_nn_amx_best(void);

/* As ck_kernels_all and ck_kernels_best. */
const ck_nn *const *ck_nn_all(size_t *count);
const ck_nn *ck_nn_best(void);

#endif
