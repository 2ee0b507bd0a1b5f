/* Neural network kernels for GPUs: what no library does. gpu.h says how they are written.
 *
 *   ck_gpu_array x = {at, true}, y = {there, true};
 *   ck_gpu_unary(stream, CK_GPU_SILU, y, x, n, 0);
 *
 * All arrays are the card's. Calls return at once; the stream keeps their order. Compiled as plain
 * C they run on the processor, before they return, and the stream is not looked at. Results overlap
 * no sources, unless they are the same array, which element by element is allowed.
 */
#ifndef CK_GPU_KERNELS_H
#define CK_GPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef void *ck_gpu_stream; /* a cudaStream_t */

/* Numbers, of f32 or (half) of bfloat16, each array as it likes: arithmetic is in f32, and results
 * are rounded once. */
typedef struct ck_gpu_array {
    void *at;
    bool half;
} ck_gpu_array;

/* ---- elements.c ---- */

typedef enum ck_gpu_function {
    CK_GPU_SILU,
    CK_GPU_GELU,
    CK_GPU_GELU_TANH,
    CK_GPU_QUICK_GELU,
    CK_GPU_SQRT,
    CK_GPU_RECIPROCAL,
    CK_GPU_EXP,
    CK_GPU_HUBER, /* of parameter p */
} ck_gpu_function;

void ck_gpu_fill(ck_gpu_stream s, ck_gpu_array y, float value, int64_t n);
/* y = f(x); dx = dy f'(x) */
void ck_gpu_unary(ck_gpu_stream s, ck_gpu_function f, ck_gpu_array y, ck_gpu_array x, int64_t n,
                  float p);
void ck_gpu_unary_grad(ck_gpu_stream s, ck_gpu_function f, ck_gpu_array dx, ck_gpu_array x,
                       ck_gpu_array dy, int64_t n, float p);
/* y = factor x + offset */
void ck_gpu_affine(ck_gpu_stream s, ck_gpu_array y, ck_gpu_array x, float factor, float offset,
                   int64_t n);
/* x: rows of 2 c, a value and a gate; y: rows of c, value gelu(gate) */
void ck_gpu_geglu(ck_gpu_stream s, ck_gpu_array y, ck_gpu_array x, int64_t rows, int64_t c);
void ck_gpu_geglu_grad(ck_gpu_stream s, ck_gpu_array dx, ck_gpu_array x, ck_gpu_array dy,
                       int64_t rows, int64_t c);

/* ---- shapes.c ---- */

/* How elements are found: those of a shape of `rank` dimensions, at these distances. A distance of
 * 0 repeats. */
enum { CK_GPU_DIMS = 5 };
typedef struct ck_gpu_walk {
    int rank;
    int64_t d[CK_GPU_DIMS], y[CK_GPU_DIMS], x[CK_GPU_DIMS];
} ck_gpu_walk;

/* y and x at the distances of the walk: permuting, repeating, cutting, putting side by side. */
void ck_gpu_copy(ck_gpu_stream s, ck_gpu_array y, ck_gpu_array x, const ck_gpu_walk *walk);
/* y = a + b, or a b, where a and y are contiguous, and b lies at the walk's distances x. */
void ck_gpu_binary(ck_gpu_stream s, bool add, ck_gpu_array y, ck_gpu_array a, ck_gpu_array b,
                   const ck_gpu_walk *walk);
/* Sums over `inner`: element k of y, found by `outer` (its distances x), is the sum of all x of
 * `inner` (its distances x) from there. partial: ck_gpu_sum_scratch floats. */
void ck_gpu_sum(ck_gpu_stream s, float *y, ck_gpu_array x, const ck_gpu_walk *outer,
                const ck_gpu_walk *inner, float *partial);
size_t ck_gpu_sum_scratch(const ck_gpu_walk *outer, const ck_gpu_walk *inner);
/* Images of rows x w pixels (rows: N H) of c channels, each pixel four times; and back, summed. */
void ck_gpu_upsample(ck_gpu_stream s, ck_gpu_array y, ck_gpu_array x, int64_t rows, int64_t w,
                     int64_t c);
void ck_gpu_upsample_grad(ck_gpu_stream s, ck_gpu_array dx, ck_gpu_array dy, int64_t rows,
                          int64_t w, int64_t c);
/* Rows of a table of `rows` x c by n ids; not a number for ids outside. */
void ck_gpu_embed(ck_gpu_stream s, float *y, const float *table, const int32_t *ids, int64_t n,
                  int64_t rows, int64_t c);
void ck_gpu_embed_grad(ck_gpu_stream s, float *table, const int32_t *ids, const float *dy,
                       int64_t n, int64_t rows, int64_t c);
/* n rows of 2 half numbers, sine and cosine of t times period^(-k / (half - shift)); cosines first
 * if flip. */
void ck_gpu_timestep(ck_gpu_stream s, float *y, const float *t, int64_t n, int64_t half, bool flip,
                     float shift, float period);

/* ---- norms.c ---- */

/* x: n images of `pixels` of `channels`, in groups of channels. A layer norm: its rows are images
 * of one pixel in one group. gain and bias may be NULL. statistics: mean and 1 / deviation of every
 * group, side by side. */
typedef struct ck_gpu_norm {
    int64_t n, pixels, channels, groups;
    ck_gpu_array x;
    const float *gain, *bias;
    bool silu;
} ck_gpu_norm;

/* partial: ck_gpu_norm_scratch floats. */
void ck_gpu_norm_forward(ck_gpu_stream s, const ck_gpu_norm *v, float eps, ck_gpu_array y,
                         float *statistics, float *partial);
void ck_gpu_norm_backward(ck_gpu_stream s, const ck_gpu_norm *v, const float *statistics,
                          ck_gpu_array dy, ck_gpu_array dx, float *dgain, float *dbias,
                          float *partial);
size_t ck_gpu_norm_scratch(const ck_gpu_norm *v);

/* ---- softmax.c: attention by products of matrices, and softmax between them ---- */

/* n rows of `keys` scores. Causal: of `queries` rows each, of which the first here is row `first`,
 * row i sees keys 0 to i. */
typedef struct ck_gpu_rows {
    int64_t n, queries, keys, first;
} ck_gpu_rows;

/* Probabilities: p = exp(scale x - sum), where sums is the logarithm of the sum of a row's
 * exponentials. p may be the scores. */
void ck_gpu_softmax(ck_gpu_stream s, ck_gpu_array p, const float *scores, float *sums,
                    ck_gpu_rows rows, float scale, bool causal);
/* The same where the sums are known. */
void ck_gpu_softmax_again(ck_gpu_stream s, ck_gpu_array p, const float *scores, const float *sums,
                          ck_gpu_rows rows, float scale, bool causal);
/* Gradients of scores, of those of p (change): scale p (change - the sum of p change over the row).
 * dscores may be p. */
void ck_gpu_softmax_grad(ck_gpu_stream s, ck_gpu_array dscores, ck_gpu_array p, const float *change,
                         ck_gpu_rows rows, float scale);

/* ---- attention.c: fused attention of bf16 ---- */

/* n images of `queries` and of `keys` tokens of so many channels, those of each head beside each
 * other; q, k, v: of bf16. Scores are of scale; causal: query i sees keys 0 to i. */
typedef struct ck_gpu_attention {
    int64_t n, queries, keys, channels, heads;
    float scale;
    bool causal;
    const void *q, *k, *v;
} ck_gpu_attention;

/* Bytes that a block shares, for heads of so many channels; 0: there is no kernel for them. A card
 * may have less. */
size_t ck_gpu_attention_shared(int64_t width, bool gradients);
/* sums: logarithms of sums of exponentials, for each image, head, query. */
void ck_gpu_attention_forward(ck_gpu_stream s, const ck_gpu_attention *v, ck_gpu_array y,
                              float *sums);
/* dy: of bf16. change: a float for each of the sums. */
void ck_gpu_attention_backward(ck_gpu_stream s, const ck_gpu_attention *v, ck_gpu_array y,
                               const float *sums, const void *dy, ck_gpu_array dq, ck_gpu_array dk,
                               ck_gpu_array dv, float *change);

/* ---- update.c: many arrays in one launch ---- */

/* n numbers each of some arrays; which, each function says. count: 1 to CK_GPU_PIECES. */
enum { CK_GPU_PIECES = 512 };
typedef struct ck_gpu_piece {
    void *to;
    const float *from;
    float *first, *second;
    int64_t n;
    uint32_t stream;
} ck_gpu_piece;

/* See distill/engine/optimizer.h; step, root, keep as it derives them. to: weights; from:
 * gradients; first, second: their moments. */
typedef struct ck_gpu_adamw {
    float beta1, beta2, eps, keep, step, root, scale;
} ck_gpu_adamw;
void ck_gpu_adamw_step(ck_gpu_stream s, const ck_gpu_adamw *a, const ck_gpu_piece *pieces,
                       int count);
/* to += change (from - to); to += factor from */
void ck_gpu_average(ck_gpu_stream s, const ck_gpu_piece *pieces, int count, float change);
void ck_gpu_add_scaled(ck_gpu_stream s, const ck_gpu_piece *pieces, int count, float factor);
/* to: bf16 of `from`; how NULL: to the nearest; else up or down by chance, right on average, by
 * bits that are a function of seed, step, stream and element (philox.h). */
typedef struct ck_gpu_rounding {
    uint64_t seed;
    uint32_t step;
} ck_gpu_rounding;
void ck_gpu_round(ck_gpu_stream s, const ck_gpu_piece *pieces, int count,
                  const ck_gpu_rounding *how);
/* The sum of squares of `from`, to the one double at `to`. partial: CK_GPU_SQUARES floats. */
enum { CK_GPU_SUMMANDS = 256, CK_GPU_SQUARES = CK_GPU_PIECES * CK_GPU_SUMMANDS };
void ck_gpu_squares(ck_gpu_stream s, const ck_gpu_piece *pieces, int count, float *partial);

#ifdef __cplusplus
}
#endif
#endif
