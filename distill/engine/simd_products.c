/* Products of matrices, and convolutions as sums of them, where oneDNN is not.
 *
 * Results are made in blocks of HEIGHT rows and WIDTH columns that stay in the L1 cache while all
 * that belongs to them is added. What is read as the right matrix is first brought into blocks of
 * as many columns, one after the other and padded with zeros to a multiple of 16 columns.
 */
#include "distill/engine/simd_int.h"

#include "distill/engine/convolution.h"
#include "kernels/nn.h"

#include <string.h>

enum { HEIGHT = 64, WIDTH = 64, ALONE = 1 << 16 /* multiplications that one thread does */ };

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static int64_t padded(int64_t n) {
    return (n + 15) / 16 * 16;
}

/* ---- Blocks ---- */

/* Columns first to first + n - 1, padded to width. */
typedef struct block {
    int64_t first, n, width;
} block;

static block block_at(int64_t first, int64_t columns) {
    int64_t n = least(WIDTH, columns - first);
    return (block){first, n, padded(n)};
}

/* The right matrix, `depth` rows, in a block's order. */
static void pack(float *to, ck_nn_matrix b, block t, int64_t depth) {
    for (int64_t k = 0; k < depth; k++)
        for (int64_t i = t.n; i < t.width; i++) to[k * t.width + i] = 0;
    for (int64_t i = 0; i < t.n; i++) {
        const float *from = b.at + (size_t)(t.first + i) * b.column;
        for (int64_t k = 0; k < depth; k++) to[k * t.width + i] = from[(size_t)k * b.row];
    }
}

/* Every row of a result block begins as zero, or as the bias. */
static void begin(float *sums, int64_t rows, block t, const float *bias) {
    memset(sums, 0, (size_t)(rows * t.width) * sizeof *sums);
    for (int64_t i = 0; bias && i < rows; i++)
        memcpy(sums + i * t.width, bias + t.first, (size_t)t.n * sizeof *sums);
}

/* Rows of the result are `stride` apart. */
static void finish(float *to, int64_t stride, const float *sums, int64_t rows, block t) {
    for (int64_t i = 0; i < rows; i++)
        memcpy(to + i * stride + t.first, sums + i * t.width, (size_t)t.n * sizeof *to);
}

/* ---- Matrix product ---- */

size_t ck_simd__matmul_scratch(const ck_graph *g, ck_node n) {
    ck_shape a = ck_node_shape(g, g->nodes[n].src[0]);
    return (size_t)(a.d[!g->nodes[n].i[0]] * padded(g->nodes[n].shape.d[1])) * sizeof(float);
}

void ck_simd__matmul(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    const ck_nn *nn = call->state;
    int64_t rows = n->shape.d[0], columns = n->shape.d[1];
    int64_t depth = ck_call_shape(call, 0).d[!n->i[0]];
    ck_nn_matrix a = {call->src[0], (size_t)depth, 1}, b = {call->src[1], (size_t)columns, 1};
    if (n->i[0]) a.row = 1, a.column = (size_t)rows;
    if (n->i[1]) b.row = 1, b.column = (size_t)depth;
    float *packed = call->scratch, *y = call->dst;
#pragma omp parallel if (rows * columns * depth > ALONE)
    {
#pragma omp for
        for (int64_t j = 0; j < columns; j += WIDTH)
            pack(packed + j * depth, b, block_at(j, columns), depth);
#pragma omp for collapse(2)
        for (int64_t i = 0; i < rows; i += HEIGHT)
            for (int64_t j = 0; j < columns; j += WIDTH) {
                float sums[HEIGHT * WIDTH];
                block t = block_at(j, columns);
                int64_t height = least(HEIGHT, rows - i);
                ck_nn_matrix part = {a.at + (size_t)i * a.row, a.row, a.column};
                begin(sums, height, t, call->src[2]);
                nn->product(sums, (size_t)t.width, part, packed + j * depth, (size_t)t.width,
                            (size_t)height, (size_t)t.width, (size_t)depth, true);
                finish(y + i * columns, columns, sums, height, t);
            }
    }
}

/* ---- Convolution ----
 *
 * Forward and to the data, pixels of one line are the rows of the result and the sums go over the
 * elements (r, s) of the kernel. Weights are packed: for each block those of every (r, s). */

size_t ck_simd__conv_scratch(const ck_graph *g, ck_node n) {
    ck_convolution v = ck_convolution_of(g, n);
    return (size_t)(v.r * v.s * v.c * padded(v.k)) * sizeof(float);
}

size_t ck_simd__conv_data_grad_scratch(const ck_graph *g, ck_node n) {
    ck_convolution v = ck_convolution_of(g, n);
    return (size_t)(v.r * v.s * v.k * padded(v.c)) * sizeof(float);
}

/* Multiples of stride, from 0 on, that are less than n. */
static int64_t below(int64_t n, int64_t stride) {
    return n <= 0 ? 0 : (n + stride - 1) / stride;
}

/* weights.at: of element (0, 0); the others are v->c apart. */
static void pack_weights(const ck_convolution *v, float *packed, ck_nn_matrix weights,
                         int64_t columns, int64_t depth) {
    int64_t area = v->r * v->s;
#pragma omp for collapse(2)
    for (int64_t j = 0; j < columns; j += WIDTH)
        for (int64_t i = 0; i < area; i++) {
            block t = block_at(j, columns);
            ck_nn_matrix element = {weights.at + i * v->c, weights.row, weights.column};
            pack(packed + (j * area + i * t.width) * depth, element, t, depth);
        }
}

/* sums: pixels q to q + n - 1 of line `line` (of all images) of y. */
static void conv_block(const ck_convolution *v, const ck_nn *nn, const float *x,
                       const float *packed, block t, int64_t line, int64_t q, int64_t n,
                       float *sums) {
    for (int64_t i = 0; i < v->r * v->s; i++) {
        int64_t s = i % v->s, h = line % v->p * v->stride + i / v->s - v->top;
        int64_t first = most(q, below(v->left - s, v->stride));
        int64_t end = least(q + n, below(v->w + v->left - s, v->stride));
        if (h < 0 || h >= v->h || first >= end) continue;
        int64_t from = (line / v->p * v->h + h) * v->w + first * v->stride + s - v->left;
        ck_nn_matrix a = {x + from * v->c, (size_t)(v->stride * v->c), 1};
        nn->product(sums + (first - q) * t.width, (size_t)t.width, a, packed + i * t.width * v->c,
                    (size_t)t.width, (size_t)(end - first), (size_t)t.width, (size_t)v->c, true);
    }
}

void ck_simd__conv(const ck_call *call) {
    const ck_nn *nn = call->state;
    ck_convolution v = ck_convolution_of(call->graph, call->node);
    size_t area = (size_t)(v.r * v.s);
    ck_nn_matrix weights = {call->src[1], 1, area * (size_t)v.c};
    float *packed = call->scratch, *y = call->dst;
#pragma omp parallel if (ck_convolution_work(&v) > ALONE)
    {
        pack_weights(&v, packed, weights, v.k, v.c);
#pragma omp for collapse(3)
        for (int64_t line = 0; line < v.n * v.p; line++)
            for (int64_t q = 0; q < v.q; q += HEIGHT)
                for (int64_t j = 0; j < v.k; j += WIDTH) {
                    float sums[HEIGHT * WIDTH];
                    block t = block_at(j, v.k);
                    int64_t n = least(HEIGHT, v.q - q);
                    begin(sums, n, t, call->src[2]);
                    conv_block(&v, nn, call->src[0], packed + j * (int64_t)area * v.c, t, line, q,
                               n, sums);
                    finish(y + (line * v.q + q) * v.k, v.k, sums, n, t);
                }
    }
}

/* sums: pixels w to w + n - 1 of line `line` (of all images) of x. */
static void data_grad_block(const ck_convolution *v, const ck_nn *nn, const float *dy,
                            const float *packed, block t, int64_t line, int64_t w, int64_t n,
                            float *sums) {
    for (int64_t i = 0; i < v->r * v->s; i++) {
        int64_t shift = v->left - i % v->s, p = line % v->h + v->top - i / v->s;
        int64_t first = below(w + shift, v->stride);
        int64_t end = least(v->q, below(w + n + shift, v->stride));
        if (p < 0 || p % v->stride || p / v->stride >= v->p || first >= end) continue;
        int64_t from = (line / v->h * v->p + p / v->stride) * v->q + first;
        ck_nn_matrix a = {dy + from * v->k, (size_t)v->k, 1};
        nn->product(sums + (first * v->stride - shift - w) * t.width, (size_t)(v->stride * t.width),
                    a, packed + i * t.width * v->k, (size_t)t.width, (size_t)(end - first),
                    (size_t)t.width, (size_t)v->k, true);
    }
}

void ck_simd__conv_data_grad(const ck_call *call) {
    const ck_nn *nn = call->state;
    ck_convolution v = ck_convolution_of(call->graph, call->node);
    size_t area = (size_t)(v.r * v.s);
    ck_nn_matrix weights = {call->src[1], area * (size_t)v.c, 1};
    float *packed = call->scratch, *dx = call->dst;
#pragma omp parallel if (ck_convolution_work(&v) > ALONE)
    {
        pack_weights(&v, packed, weights, v.c, v.k);
#pragma omp for collapse(3)
        for (int64_t line = 0; line < v.n * v.h; line++)
            for (int64_t w = 0; w < v.w; w += HEIGHT)
                for (int64_t j = 0; j < v.c; j += WIDTH) {
                    float sums[HEIGHT * WIDTH];
                    block t = block_at(j, v.c);
                    int64_t n = least(HEIGHT, v.w - w);
                    begin(sums, n, t, NULL);
                    data_grad_block(&v, nn, call->src[0], packed + j * (int64_t)area * v.k, t, line,
                                    w, n, sums);
                    finish(dx + (line * v.w + w) * v.c, v.c, sums, n, t);
                }
    }
}

/* ---- To the weights: channels of y are the rows, the sums go over all pixels ---- */

/* Adds what pixels q to q + n - 1 of a line of y give, the first of which reads x at `from`. a:
 * their dy. */
static void weight_grad_pixels(const ck_convolution *v, const ck_nn *nn, ck_nn_matrix a,
                               const float *from, block t, int64_t rows, int64_t n, float *sums) {
    float copy[HEIGHT * WIDTH];
    size_t width = (size_t)t.width, stride = (size_t)(v->stride * v->c);
    if (t.n == t.width) {
        nn->product(sums, width, a, from, stride, (size_t)rows, width, (size_t)n, true);
        return;
    }
    for (int64_t q = 0; q < n; q += HEIGHT) {
        int64_t some = least(HEIGHT, n - q);
        pack(copy, (ck_nn_matrix){from + (size_t)q * stride, stride, 1}, (block){0, t.n, t.width},
             some);
        nn->product(sums, width, a, copy, width, (size_t)rows, width, (size_t)some, true);
        a.at += (size_t)some * a.column;
    }
}

/* sums: weights of channels k to k + rows - 1, element i of the kernel, channels t. */
static void weight_grad_block(const ck_convolution *v, const ck_nn *nn, const float *x,
                              const float *dy, block t, int64_t k, int64_t rows, int64_t i,
                              float *sums) {
    int64_t shift = v->left - i % v->s, first = below(shift, v->stride);
    int64_t end = least(v->q, below(v->w + shift, v->stride));
    for (int64_t line = 0; line < v->n * v->p && first < end; line++) {
        int64_t h = line % v->p * v->stride + i / v->s - v->top;
        if (h < 0 || h >= v->h) continue;
        int64_t from = (line / v->p * v->h + h) * v->w + first * v->stride - shift;
        ck_nn_matrix a = {dy + (line * v->q + first) * v->k + k, 1, (size_t)v->k};
        weight_grad_pixels(v, nn, a, x + from * v->c + t.first, t, rows, end - first, sums);
    }
}

void ck_simd__conv_weight_grad(const ck_call *call) {
    const ck_nn *nn = call->state;
    ck_convolution v = ck_convolution_of(call->graph, call->node);
    int64_t area = v.r * v.s;
    float *dw = call->dst;
#pragma omp parallel for collapse(3) if (ck_convolution_work(&v) > ALONE)
    for (int64_t i = 0; i < area; i++)
        for (int64_t k = 0; k < v.k; k += HEIGHT)
            for (int64_t j = 0; j < v.c; j += WIDTH) {
                float sums[HEIGHT * WIDTH];
                block t = block_at(j, v.c);
                int64_t rows = least(HEIGHT, v.k - k);
                begin(sums, rows, t, NULL);
                weight_grad_block(&v, nn, call->src[0], call->src[1], t, k, rows, i, sums);
                finish(dw + (k * area + i) * v.c, area * v.c, sums, rows, t);
            }
}
