/* Every operation in plain C, written once. Included by reference_f32.c and reference_f64.c after
 * these macros are defined:
 *
 *   real    float or double: the elements of arrays
 *   TABLE   the name of the table of functions
 *
 * What happens between loading and storing is done in double, sums in the order of the loops. What
 * each operation computes, and how packed results lie, is in graph.h.
 */
#include "distill/engine/convolution.h"
#include "distill/engine/reference.h"

#include <math.h>
#include <string.h>

enum {
    STRIP = 64,      /* channels that are summed side by side */
    ALONE = 1 << 14, /* less work (multiplications or so) is not worth a second thread */
};

static int64_t last_of(const ck_shape *s) {
    return s->d[s->rank - 1];
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static double dot(const real *a, const real *b, int64_t n) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * b[i];
    return sum;
}

/* sum += factor x */
static void add_scaled(double *sum, double factor, const real *x, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) sum[i] += factor * x[i];
}

static void store(real *dst, const double *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) dst[i] = (real)x[i];
}

/* ---- Element by element ---- */

static void run_const(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    int64_t count = ck_shape_count(&n->shape);
    real *y = call->dst;
    for (int64_t i = 0; i < count; i++) y[i] = (real)n->x[0];
}

static double sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

/* P(z < x) of a normal z, and its density. */
static double normal(double x) {
    return 0.5 * erfc(-x * M_SQRT1_2);
}

static double density(double x) {
    return exp(-x * x / 2) * M_2_SQRTPI * M_SQRT1_2 / 2;
}

/* gelu's approximation is x times the sigmoid of this. */
static double tanh_argument(double x) {
    return 2 * M_2_SQRTPI * M_SQRT1_2 * (x + 0.044715 * x * x * x);
}

static double silu_slope(double x) {
    double s = sigmoid(x);
    return s * (1 + x * (1 - s));
}

static double gelu_slope(double x) {
    return normal(x) + x * density(x);
}

static double unary(ck_unary f, double x, double p) {
    switch (f) {
    case CK_SILU:
        return x * sigmoid(x);
    case CK_GELU:
        return x * normal(x);
    case CK_GELU_TANH:
        return x * sigmoid(tanh_argument(x));
    case CK_QUICK_GELU:
        return x * sigmoid(1.702 * x);
    case CK_SQRT:
        return sqrt(x);
    case CK_RECIPROCAL:
        return 1 / x;
    case CK_EXP:
        return exp(x);
    case CK_HUBER:
        return fabs(x) <= p ? x * x / 2 : p * (fabs(x) - p / 2);
    }
    return NAN;
}

static double unary_slope(ck_unary f, double x, double p) {
    double s;
    switch (f) {
    case CK_SILU:
        return silu_slope(x);
    case CK_GELU:
        return gelu_slope(x);
    case CK_GELU_TANH:
        s = sigmoid(tanh_argument(x));
        return s + x * s * (1 - s) * 2 * M_2_SQRTPI * M_SQRT1_2 * (1 + 3 * 0.044715 * x * x);
    case CK_QUICK_GELU:
        s = sigmoid(1.702 * x);
        return s * (1 + 1.702 * x * (1 - s));
    case CK_SQRT:
        return 0.5 / sqrt(x);
    case CK_RECIPROCAL:
        return -1 / (x * x);
    case CK_EXP:
        return exp(x);
    case CK_HUBER:
        return fabs(x) <= p ? x : copysign(p, x);
    }
    return NAN;
}

static void run_unary(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    int64_t count = ck_shape_count(&n->shape);
    const real *x = call->src[0];
    real *y = call->dst;
#pragma omp parallel for if (count > ALONE)
    for (int64_t i = 0; i < count; i++) y[i] = (real)unary((ck_unary)n->i[0], x[i], n->x[0]);
}

static void run_unary_grad(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    int64_t count = ck_shape_count(&n->shape);
    const real *x = call->src[0], *dy = call->src[1];
    real *dx = call->dst;
#pragma omp parallel for if (count > ALONE)
    for (int64_t i = 0; i < count; i++)
        dx[i] = (real)(dy[i] * unary_slope((ck_unary)n->i[0], x[i], n->x[0]));
}

static void run_affine(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    int64_t count = ck_shape_count(&n->shape);
    const real *x = call->src[0];
    real *y = call->dst;
#pragma omp parallel for if (count > ALONE)
    for (int64_t i = 0; i < count; i++) y[i] = (real)(n->x[0] * x[i] + n->x[1]);
}

static void run_geglu(const ck_call *call) {
    ck_shape s = ck_call_node(call)->shape;
    int64_t c = last_of(&s), rows = ck_shape_count(&s) / c;
    const real *x = call->src[0];
    real *y = call->dst;
#pragma omp parallel for if (rows * c > ALONE)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < c; i++) {
            double value = x[2 * r * c + i], gate = x[(2 * r + 1) * c + i];
            y[r * c + i] = (real)(value * gate * normal(gate));
        }
}

static void run_geglu_grad(const ck_call *call) {
    ck_shape s = ck_call_shape(call, 1);
    int64_t c = last_of(&s), rows = ck_shape_count(&s) / c;
    const real *x = call->src[0], *dy = call->src[1];
    real *dx = call->dst;
#pragma omp parallel for if (rows * c > ALONE)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < c; i++) {
            int64_t first = 2 * r * c + i, second = first + c;
            double value = x[first], gate = x[second], d = dy[r * c + i];
            dx[first] = (real)(d * gate * normal(gate));
            dx[second] = (real)(d * value * gelu_slope(gate));
        }
}

/* ---- Shapes: rows along the last dimension, found by the strides of the others ---- */

typedef struct strides {
    int64_t d[CK_MAX_DIMS];
} strides;

static strides strides_of(const ck_shape *s) {
    strides t = {{0}};
    int64_t n = 1;
    for (int i = s->rank; i-- > 0; n *= s->d[i]) t.d[i] = n;
    return t;
}

/* The same, but standing still along dimensions of 1: for an array that is repeated there. */
static strides repeated(const ck_shape *s) {
    strides t = strides_of(s);
    for (int i = 0; i < s->rank; i++)
        if (s->d[i] == 1) t.d[i] = 0;
    return t;
}

/* Where row number r of an array of shape s begins in an array of these strides. */
static int64_t row_start(const ck_shape *s, const strides *t, int64_t r) {
    int64_t at = 0;
    for (int i = s->rank - 1; i-- > 0; r /= s->d[i]) at += r % s->d[i] * t->d[i];
    return at;
}

static void run_binary(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    ck_shape b_shape = ck_call_shape(call, 1);
    strides t = repeated(&b_shape);
    int64_t c = last_of(&n->shape), count = ck_shape_count(&n->shape);
    int64_t step = t.d[n->shape.rank - 1];
    const real *a = call->src[0], *b = call->src[1];
    real *y = call->dst;
#pragma omp parallel for if (count > ALONE)
    for (int64_t r = 0; r < count / c; r++) {
        const real *from = b + row_start(&n->shape, &t, r);
        for (int64_t i = 0; i < c; i++) {
            double x = a[r * c + i], other = from[i * step];
            y[r * c + i] = (real)(n->op == CK_OP_ADD ? x + other : x * other);
        }
    }
}

/* y's elements are those that lie at these strides in the source. */
static void gather(const ck_call *call, const strides *t) {
    ck_shape s = ck_call_node(call)->shape;
    int64_t c = last_of(&s), count = ck_shape_count(&s), step = t->d[s.rank - 1];
    const real *x = call->src[0];
    real *y = call->dst;
#pragma omp parallel for if (count > ALONE)
    for (int64_t r = 0; r < count / c; r++) {
        const real *from = x + row_start(&s, t, r);
        if (step == 1) {
            memcpy(y + r * c, from, (size_t)c * sizeof *y);
            continue;
        }
        for (int64_t i = 0; i < c; i++) y[r * c + i] = from[i * step];
    }
}

static void run_expand(const ck_call *call) {
    ck_shape s = ck_call_shape(call, 0);
    strides t = repeated(&s);
    gather(call, &t);
}

static void run_permute(const ck_call *call) {
    ck_shape s = ck_call_shape(call, 0);
    strides from = strides_of(&s), t = {{0}};
    for (int i = 0; i < s.rank; i++) t.d[i] = from.d[ck_call_node(call)->i[i]];
    gather(call, &t);
}

static void run_sum_to(const ck_call *call) {
    ck_shape s = ck_call_node(call)->shape, a = ck_call_shape(call, 0), summed = a;
    strides t = strides_of(&a);
    int64_t c = last_of(&a), width = last_of(&s), rows = ck_shape_count(&s) / width, each = 1;
    for (int i = 0; i < s.rank - 1; i++) {
        if (s.d[i] != 1) summed.d[i] = 1;
        each *= summed.d[i];
    }
    const real *x = call->src[0];
    real *y = call->dst;
#pragma omp parallel for collapse(2) if (ck_shape_count(&a) > ALONE)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t begin = 0; begin < width; begin += STRIP) {
            int64_t n = least(STRIP, width - begin);
            double sum[STRIP] = {0};
            for (int64_t k = 0; k < each; k++) {
                const real *from = x + row_start(&s, &t, r) + row_start(&summed, &t, k) + begin;
                if (width == c)
                    add_scaled(sum, 1, from, n);
                else
                    for (int64_t i = 0; i < c; i++) sum[0] += from[i];
            }
            store(y + r * width + begin, sum, n);
        }
}

/* How an array looks from a dimension: `outer` times `n` times `inner` contiguous elements. */
typedef struct sliced {
    int64_t outer, n, inner;
} sliced;

static sliced slice_at(ck_shape s, int64_t axis) {
    sliced v = {1, s.d[axis], 1};
    for (int64_t i = 0; i < axis; i++) v.outer *= s.d[i];
    for (int64_t i = axis + 1; i < s.rank; i++) v.inner *= s.d[i];
    return v;
}

static void run_concat(const ck_call *call) {
    int64_t axis = ck_call_node(call)->i[0];
    sliced a = slice_at(ck_call_shape(call, 0), axis), b = slice_at(ck_call_shape(call, 1), axis);
    int64_t first = a.n * a.inner, second = b.n * b.inner;
    const real *x = call->src[0], *z = call->src[1];
    real *y = call->dst;
#pragma omp parallel for if (a.outer * (first + second) > ALONE)
    for (int64_t o = 0; o < a.outer; o++) {
        real *to = y + o * (first + second);
        memcpy(to, x + o * first, (size_t)first * sizeof *to);
        memcpy(to + first, z + o * second, (size_t)second * sizeof *to);
    }
}

static void run_slice(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    sliced a = slice_at(ck_call_shape(call, 0), n->i[0]), s = slice_at(n->shape, n->i[0]);
    const real *x = (const real *)call->src[0] + n->i[1] * a.inner;
    real *y = call->dst;
    int64_t taken = s.n * s.inner;
#pragma omp parallel for if (s.outer * taken > ALONE)
    for (int64_t o = 0; o < s.outer; o++)
        memcpy(y + o * taken, x + o * a.n * a.inner, (size_t)taken * sizeof *y);
}

static void run_pad(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    sliced a = slice_at(ck_call_shape(call, 0), n->i[0]), s = slice_at(n->shape, n->i[0]);
    const real *x = call->src[0];
    real *y = call->dst;
    int64_t before = n->i[1] * a.inner, taken = a.n * a.inner, all = s.n * s.inner;
#pragma omp parallel for if (s.outer * all > ALONE)
    for (int64_t o = 0; o < s.outer; o++) {
        real *to = y + o * all;
        memset(to, 0, (size_t)before * sizeof *to);
        memcpy(to + before, x + o * taken, (size_t)taken * sizeof *to);
        memset(to + before + taken, 0, (size_t)(all - before - taken) * sizeof *to);
    }
}

static void run_upsample(const ck_call *call) {
    ck_shape s = ck_call_shape(call, 0);
    int64_t rows = s.d[0] * s.d[1], w = s.d[2], c = s.d[3];
    const real *x = call->src[0];
    real *y = call->dst;
#pragma omp parallel for if (4 * rows * w * c > ALONE)
    for (int64_t r = 0; r < rows; r++) {
        real *to = y + 4 * r * w * c;
        for (int64_t q = 0; q < 2 * w; q++)
            memcpy(to + q * c, x + (r * w + q / 2) * c, (size_t)c * sizeof *to);
        memcpy(to + 2 * w * c, to, (size_t)(2 * w * c) * sizeof *to);
    }
}

static void run_upsample_grad(const ck_call *call) {
    ck_shape s = ck_call_node(call)->shape;
    int64_t rows = s.d[0] * s.d[1], w = s.d[2], c = s.d[3];
    const real *dy = call->src[0];
    real *dx = call->dst;
#pragma omp parallel for if (4 * rows * w * c > ALONE)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t q = 0; q < w; q++) {
            const real *upper = dy + (4 * r * w + 2 * q) * c, *lower = upper + 2 * w * c;
            real *to = dx + (r * w + q) * c;
            for (int64_t i = 0; i < c; i++)
                to[i] = (real)((double)upper[i] + upper[c + i] + lower[i] + lower[c + i]);
        }
}

/* ---- Matrix product ---- */

/* Row i of op(a) times columns begin to begin + n - 1 of op(b). */
static void matmul_strip(const ck_call *call, int64_t i, int64_t begin, int64_t n, double *sum) {
    ck_shape s = ck_call_shape(call, 0), t = ck_call_shape(call, 1);
    bool ta = ck_call_node(call)->i[0], tb = ck_call_node(call)->i[1];
    int64_t depth = s.d[!ta], step = ta ? s.d[1] : 1;
    const real *a = (const real *)call->src[0] + (ta ? i : i * depth), *b = call->src[1];
    if (!tb) {
        for (int64_t k = 0; k < depth; k++) add_scaled(sum, a[k * step], b + k * t.d[1] + begin, n);
        return;
    }
    for (int64_t j = 0; j < n; j++) {
        const real *row = b + (begin + j) * depth;
        if (!ta)
            sum[j] += dot(a, row, depth);
        else
            for (int64_t k = 0; k < depth; k++) sum[j] += (double)a[k * step] * row[k];
    }
}

static void run_matmul(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    ck_shape a = ck_call_shape(call, 0);
    int64_t rows = n->shape.d[0], columns = n->shape.d[1], depth = a.d[!n->i[0]];
    const real *c = call->src[2];
    real *y = call->dst;
#pragma omp parallel for collapse(2) if (rows * columns * depth > ALONE)
    for (int64_t i = 0; i < rows; i++)
        for (int64_t begin = 0; begin < columns; begin += STRIP) {
            int64_t width = least(STRIP, columns - begin);
            double sum[STRIP] = {0};
            if (c) add_scaled(sum, 1, c + begin, width);
            matmul_strip(call, i, begin, width, sum);
            store(y + i * columns + begin, sum, width);
        }
}

/* ---- Convolution ---- */

/* One pixel of y, channel k: the pixels of x that lie beside each other in a row of the kernel are
 * one after the other, as their weights are. */
static double conv_pixel(const ck_convolution *v, const real *x, const real *w, int64_t p,
                         int64_t q, int64_t k) {
    int64_t left = q * v->stride - v->left, first = left < 0 ? -left : 0;
    int64_t count = least(v->s, v->w - left) - first;
    double sum = 0;
    for (int64_t r = 0; r < v->r && count > 0; r++) {
        int64_t h = p * v->stride + r - v->top;
        if (h < 0 || h >= v->h) continue;
        sum += dot(x + (h * v->w + left + first) * v->c, w + ((k * v->r + r) * v->s + first) * v->c,
                   count * v->c);
    }
    return sum;
}

static void run_conv(const ck_call *call) {
    ck_convolution v = ck_convolution_of(call->graph, call->node);
    const real *x = call->src[0], *w = call->src[1], *bias = call->src[2];
    real *y = call->dst;
#pragma omp parallel for collapse(3) if (ck_convolution_work(&v) > ALONE)
    for (int64_t n = 0; n < v.n; n++)
        for (int64_t p = 0; p < v.p; p++)
            for (int64_t q = 0; q < v.q; q++)
                for (int64_t k = 0; k < v.k; k++) {
                    double sum = conv_pixel(&v, x + n * v.h * v.w * v.c, w, p, q, k);
                    y[((n * v.p + p) * v.q + q) * v.k + k] = (real)(sum + (bias ? bias[k] : 0.));
                }
}

/* The pixel of y that reads pixel i of x by kernel element r, or -1: i = p stride + r - pad. */
static int64_t reader(int64_t i, int64_t r, int64_t pad, int64_t stride, int64_t count) {
    int64_t at = i + pad - r;
    return at >= 0 && at % stride == 0 && at / stride < count ? at / stride : -1;
}

static void run_conv_data_grad(const ck_call *call) {
    ck_convolution v = ck_convolution_of(call->graph, call->node);
    const real *dy = call->src[0], *w = call->src[1];
    real *dx = call->dst;
#pragma omp parallel for if (ck_convolution_work(&v) > ALONE)
    for (int64_t i = 0; i < v.n * v.h * v.w; i++) {
        int64_t n = i / (v.h * v.w), h = i / v.w % v.h, col = i % v.w;
        for (int64_t begin = 0; begin < v.c; begin += STRIP) {
            int64_t width = least(STRIP, v.c - begin);
            double sum[STRIP] = {0};
            for (int64_t r = 0; r < v.r; r++)
                for (int64_t s = 0; s < v.s; s++) {
                    int64_t p = reader(h, r, v.top, v.stride, v.p);
                    int64_t q = reader(col, s, v.left, v.stride, v.q);
                    if (p < 0 || q < 0) continue;
                    const real *d = dy + ((n * v.p + p) * v.q + q) * v.k;
                    for (int64_t k = 0; k < v.k; k++)
                        add_scaled(sum, d[k], w + ((k * v.r + r) * v.s + s) * v.c + begin, width);
                }
            store(dx + i * v.c + begin, sum, width);
        }
    }
}

static void run_conv_weight_grad(const ck_call *call) {
    ck_convolution v = ck_convolution_of(call->graph, call->node);
    const real *x = call->src[0], *dy = call->src[1];
    real *dw = call->dst;
#pragma omp parallel for if (ck_convolution_work(&v) > ALONE)
    for (int64_t i = 0; i < v.k * v.r * v.s; i++) {
        int64_t k = i / (v.r * v.s), r = i / v.s % v.r, s = i % v.s;
        for (int64_t begin = 0; begin < v.c; begin += STRIP) {
            int64_t width = least(STRIP, v.c - begin);
            double sum[STRIP] = {0};
            for (int64_t row = 0; row < v.n * v.p; row++) {
                int64_t h = row % v.p * v.stride + r - v.top;
                if (h < 0 || h >= v.h) continue;
                const real *from = x + (row / v.p * v.h + h) * v.w * v.c + begin;
                for (int64_t q = 0; q < v.q; q++) {
                    int64_t col = q * v.stride + s - v.left;
                    if (col < 0 || col >= v.w) continue;
                    add_scaled(sum, dy[(row * v.q + q) * v.k + k], from + col * v.c, width);
                }
            }
            store(dw + i * v.c + begin, sum, width);
        }
    }
}

/* ---- Norms ---- */

/* x N P C in groups of channels; a layer norm is one where rows are the images, of one pixel, and
 * there is one group. */
typedef struct norm {
    int64_t n, pixels, channels, groups, width; /* width: channels in a group */
    const real *x, *gain, *bias, *statistics, *dy;
    bool silu;
} norm;

static norm group_norm_of(const ck_call *call) {
    ck_shape s = ck_call_shape(call, 0);
    int64_t c = last_of(&s), groups = ck_call_node(call)->i[0];
    return (norm){.n = s.d[0],
                  .pixels = ck_shape_count(&s) / s.d[0] / c,
                  .channels = c,
                  .groups = groups,
                  .width = c / groups,
                  .x = call->src[0],
                  .gain = call->src[1],
                  .bias = call->src[2],
                  .silu = ck_call_node(call)->i[1]};
}

static norm layer_norm_of(const ck_call *call) {
    ck_shape s = ck_call_shape(call, 0);
    int64_t c = last_of(&s);
    return (norm){.n = ck_shape_count(&s) / c,
                  .pixels = 1,
                  .channels = c,
                  .groups = 1,
                  .width = c,
                  .x = call->src[0]};
}

static int64_t norm_count(const norm *v) {
    return v->n * v->pixels * v->channels;
}

/* Where pixel p of group i (of n * groups) begins. */
static int64_t norm_at(const norm *v, int64_t i, int64_t p) {
    return (i / v->groups * v->pixels + p) * v->channels + i % v->groups * v->width;
}

static void group_statistics(const norm *v, int64_t i, double eps, real *mean, real *scale) {
    double sum = 0, squares = 0, n = (double)(v->pixels * v->width);
    for (int64_t p = 0; p < v->pixels; p++)
        for (int64_t k = 0; k < v->width; k++) sum += v->x[norm_at(v, i, p) + k];
    for (int64_t p = 0; p < v->pixels; p++)
        for (int64_t k = 0; k < v->width; k++) {
            double off = v->x[norm_at(v, i, p) + k] - sum / n;
            squares += off * off;
        }
    *mean = (real)(sum / n);
    *scale = (real)(1 / sqrt(squares / n + eps));
}

/* Channel c's gain and bias on what is normalised. */
static double gained(const norm *v, int64_t c, double xhat) {
    return xhat * (v->gain ? v->gain[c] : 1.) + (v->bias ? v->bias[c] : 0.);
}

static void norm_forward(const norm *v, double eps, real *y) {
    real *statistics = y + norm_count(v);
#pragma omp parallel for if (norm_count(v) > ALONE)
    for (int64_t i = 0; i < v->n * v->groups; i++) {
        real *mean = &statistics[2 * i], *scale = mean + 1;
        group_statistics(v, i, eps, mean, scale);
        for (int64_t p = 0; p < v->pixels; p++)
            for (int64_t k = 0; k < v->width; k++) {
                int64_t at = norm_at(v, i, p) + k, c = i % v->groups * v->width + k;
                double z = gained(v, c, ((double)v->x[at] - *mean) * *scale);
                y[at] = (real)(v->silu ? z * sigmoid(z) : z);
            }
    }
}

/* Of element k of pixel p of group i: x normalised, and the gradient of that times gain plus bias.
 */
static double normalised(const norm *v, int64_t i, int64_t p, int64_t k, double *dz) {
    int64_t at = norm_at(v, i, p) + k, c = i % v->groups * v->width + k;
    double xhat = ((double)v->x[at] - v->statistics[2 * i]) * v->statistics[2 * i + 1];
    *dz = v->dy[at];
    if (v->silu) *dz *= silu_slope(gained(v, c, xhat));
    return xhat;
}

/* With xhat = (x - mean) scale and g = dz gain: dx = scale (g - mean(g) - xhat mean(g xhat)). */
static void norm_data_grad(const norm *v, real *dx) {
#pragma omp parallel for if (norm_count(v) > ALONE)
    for (int64_t i = 0; i < v->n * v->groups; i++) {
        const real *gain = v->gain ? v->gain + i % v->groups * v->width : NULL;
        double sum = 0, product = 0, dz, n = (double)(v->pixels * v->width);
        for (int64_t p = 0; p < v->pixels; p++)
            for (int64_t k = 0; k < v->width; k++) {
                double xhat = normalised(v, i, p, k, &dz), g = dz * (gain ? gain[k] : 1.);
                sum += g;
                product += g * xhat;
            }
        for (int64_t p = 0; p < v->pixels; p++)
            for (int64_t k = 0; k < v->width; k++) {
                double xhat = normalised(v, i, p, k, &dz), g = dz * (gain ? gain[k] : 1.);
                dx[norm_at(v, i, p) + k] =
                    (real)(v->statistics[2 * i + 1] * (g - sum / n - xhat * (product / n)));
            }
    }
}

static void norm_weight_grad(const norm *v, real *dgain, real *dbias) {
#pragma omp parallel for collapse(2) if (norm_count(v) > ALONE)
    for (int64_t g = 0; g < v->groups; g++)
        for (int64_t begin = 0; begin < v->width; begin += STRIP) {
            int64_t width = least(STRIP, v->width - begin);
            double gain[STRIP] = {0}, bias[STRIP] = {0}, dz;
            for (int64_t n = 0; n < v->n; n++)
                for (int64_t p = 0; p < v->pixels; p++)
                    for (int64_t k = 0; k < width; k++) {
                        double xhat = normalised(v, n * v->groups + g, p, begin + k, &dz);
                        gain[k] += dz * xhat;
                        bias[k] += dz;
                    }
            store(dgain + g * v->width + begin, gain, width);
            store(dbias + g * v->width + begin, bias, width);
        }
}

static void norm_grad(const norm *v, real *dx) {
    norm_data_grad(v, dx);
    norm_weight_grad(v, dx + norm_count(v), dx + norm_count(v) + v->channels);
}

static void run_group_norm(const ck_call *call) {
    norm v = group_norm_of(call);
    norm_forward(&v, ck_call_node(call)->x[0], call->dst);
}

static void run_group_norm_grad(const ck_call *call) {
    norm v = group_norm_of(call);
    v.statistics = (const real *)call->src[3] + norm_count(&v);
    v.dy = call->src[4];
    norm_grad(&v, call->dst);
}

static void run_layer_norm(const ck_call *call) {
    norm v = layer_norm_of(call);
    v.gain = call->src[1];
    v.bias = call->src[2];
    norm_forward(&v, ck_call_node(call)->x[0], call->dst);
}

static void run_layer_norm_grad(const ck_call *call) {
    norm v = layer_norm_of(call);
    v.statistics = (const real *)call->src[1] + norm_count(&v);
    v.dy = call->src[2];
    v.gain = call->src[3];
    norm_grad(&v, call->dst);
}

/* ---- Attention: N T C, heads are slices of C ---- */

typedef struct attention {
    int64_t n, queries, keys, channels, heads, width; /* width: channels of a head */
    const real *q, *k, *v;
    const real *y, *sums, *dy; /* of the backward pass; sums: logarithms of sums of exponentials */
    double scale;
    bool causal;
} attention;

static attention attention_of(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    ck_shape q = ck_call_shape(call, 0), k = ck_call_shape(call, 1);
    return (attention){.n = q.d[0],
                       .queries = q.d[1],
                       .keys = k.d[1],
                       .channels = q.d[2],
                       .heads = n->i[0],
                       .width = q.d[2] / n->i[0],
                       .q = call->src[0],
                       .k = call->src[1],
                       .v = call->src[2],
                       .scale = n->x[0],
                       .causal = n->i[1]};
}

static int64_t attention_work(const attention *a) {
    return a->n * a->queries * a->keys * a->channels;
}

/* Where head h of query (key) t of image n begins. */
static int64_t query_at(const attention *a, int64_t n, int64_t h, int64_t t) {
    return (n * a->queries + t) * a->channels + h * a->width;
}

static int64_t key_at(const attention *a, int64_t n, int64_t h, int64_t t) {
    return (n * a->keys + t) * a->channels + h * a->width;
}

/* Keys that a query sees. */
static int64_t seen(const attention *a, int64_t t) {
    return a->causal ? t + 1 : a->keys;
}

/* The logarithm of the sum of exponentials of a query's scores, without overflow. */
static double score_sum(const attention *a, const real *q, const real *keys, int64_t count) {
    double largest = -INFINITY, sum = 0;
    for (int64_t j = 0; j < count; j++) {
        double s = a->scale * dot(q, keys + j * a->channels, a->width);
        if (s > largest) {
            sum *= exp(largest - s);
            largest = s;
        }
        sum += exp(s - largest);
    }
    return largest + log(sum);
}

static void run_attention(const ck_call *call) {
    attention a = attention_of(call);
    real *y = call->dst, *sums = y + a.n * a.queries * a.channels;
#pragma omp parallel for if (attention_work(&a) > ALONE)
    for (int64_t i = 0; i < a.n * a.heads * a.queries; i++) {
        int64_t n = i / a.queries / a.heads, h = i / a.queries % a.heads, t = i % a.queries;
        const real *q = a.q + query_at(&a, n, h, t);
        int64_t keys = key_at(&a, n, h, 0), count = seen(&a, t);
        double sum = score_sum(&a, q, a.k + keys, count), out[CK_MAX_HEAD] = {0};
        for (int64_t j = 0; j < count; j++) {
            double s = a.scale * dot(q, a.k + keys + j * a.channels, a.width);
            add_scaled(out, exp(s - sum), a.v + keys + j * a.channels, a.width);
        }
        store(y + query_at(&a, n, h, t), out, a.width);
        sums[i] = (real)sum;
    }
}

/* For query t and key j (with p the probability, y the result): the gradient of the score is
 * p (dy v - dy y), times scale. */
static double score_grad(const attention *a, int64_t n, int64_t h, int64_t t, int64_t j,
                         double *p) {
    int64_t query = query_at(a, n, h, t), key = key_at(a, n, h, j);
    double s = a->scale * dot(a->q + query, a->k + key, a->width);
    *p = exp(s - a->sums[(n * a->heads + h) * a->queries + t]);
    double change = dot(a->dy + query, a->v + key, a->width);
    return a->scale * *p * (change - dot(a->dy + query, a->y + query, a->width));
}

static void attention_query_grad(const attention *a, real *dq) {
#pragma omp parallel for if (attention_work(a) > ALONE)
    for (int64_t i = 0; i < a->n * a->heads * a->queries; i++) {
        int64_t n = i / a->queries / a->heads, h = i / a->queries % a->heads, t = i % a->queries;
        double sum[CK_MAX_HEAD] = {0}, p;
        for (int64_t j = 0; j < seen(a, t); j++) {
            double ds = score_grad(a, n, h, t, j, &p);
            add_scaled(sum, ds, a->k + key_at(a, n, h, j), a->width);
        }
        store(dq + query_at(a, n, h, t), sum, a->width);
    }
}

static void attention_key_grad(const attention *a, real *dk, real *dv) {
#pragma omp parallel for if (attention_work(a) > ALONE)
    for (int64_t i = 0; i < a->n * a->heads * a->keys; i++) {
        int64_t n = i / a->keys / a->heads, h = i / a->keys % a->heads, j = i % a->keys;
        double keys[CK_MAX_HEAD] = {0}, values[CK_MAX_HEAD] = {0}, p;
        for (int64_t t = a->causal ? j : 0; t < a->queries; t++) {
            double ds = score_grad(a, n, h, t, j, &p);
            add_scaled(keys, ds, a->q + query_at(a, n, h, t), a->width);
            add_scaled(values, p, a->dy + query_at(a, n, h, t), a->width);
        }
        store(dk + key_at(a, n, h, j), keys, a->width);
        store(dv + key_at(a, n, h, j), values, a->width);
    }
}

static void run_attention_grad(const ck_call *call) {
    attention a = attention_of(call);
    int64_t queries = a.n * a.queries * a.channels, keys = a.n * a.keys * a.channels;
    a.y = call->src[3];
    a.sums = a.y + queries;
    a.dy = call->src[4];
    real *dq = call->dst;
    attention_query_grad(&a, dq);
    attention_key_grad(&a, dq + queries, dq + queries + keys);
}

/* ---- Embeddings ---- */

static void run_embed(const ck_call *call) {
    ck_shape table = ck_call_shape(call, 0), ids = ck_call_shape(call, 1);
    int64_t count = ck_shape_count(&ids), c = table.d[1];
    const real *rows = call->src[0];
    const int32_t *id = call->src[1];
    real *y = call->dst;
    for (int64_t i = 0; i < count; i++)
        for (int64_t k = 0; k < c; k++)
            y[i * c + k] = id[i] >= 0 && id[i] < table.d[0] ? rows[id[i] * c + k] : (real)NAN;
}

/* Whether an id stands for the first time at i. */
static bool is_first(const int32_t *id, int64_t i) {
    for (int64_t j = 0; j < i; j++)
        if (id[j] == id[i]) return false;
    return true;
}

static void run_embed_grad(const ck_call *call) {
    ck_shape ids = ck_call_shape(call, 0), table = ck_call_node(call)->shape;
    int64_t count = ck_shape_count(&ids), c = table.d[1];
    const int32_t *id = call->src[0];
    const real *dy = call->src[1];
    real *rows = call->dst;
    memset(rows, 0, (size_t)ck_shape_count(&table) * sizeof *rows);
#pragma omp parallel for if (count * c > ALONE)
    for (int64_t i = 0; i < count; i++) {
        if (id[i] < 0 || id[i] >= table.d[0] || !is_first(id, i)) continue;
        for (int64_t begin = 0; begin < c; begin += STRIP) {
            int64_t width = least(STRIP, c - begin);
            double sum[STRIP] = {0};
            for (int64_t j = i; j < count; j++)
                if (id[j] == id[i]) add_scaled(sum, 1, dy + j * c + begin, width);
            store(rows + id[i] * c + begin, sum, width);
        }
    }
}

static void run_softmax(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    int64_t c = n->shape.d[n->shape.rank - 1], rows = ck_shape_count(&n->shape) / c;
#pragma omp parallel for
    for (int64_t r = 0; r < rows; r++) {
        const real *x = (const real *)call->src[0] + r * c;
        real *y = (real *)call->dst + r * c;
        double most = x[0], sum = 0;
        for (int64_t i = 1; i < c; i++) most = fmax(most, x[i]);
        for (int64_t i = 0; i < c; i++) sum += exp(x[i] - most);
        for (int64_t i = 0; i < c; i++) y[i] = (real)(exp(x[i] - most) / sum);
    }
}

static void run_timestep(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    int64_t count = n->shape.d[0], half = n->shape.d[1] / 2;
    const real *t = call->src[0];
    real *y = call->dst;
    for (int64_t i = 0; i < count; i++)
        for (int64_t k = 0; k < half; k++) {
            double angle = t[i] * exp(-log(n->x[1]) * (double)k / ((double)half - n->x[0]));
            real *sine = y + (2 * i + n->i[0]) * half + k;
            real *cosine = y + (2 * i + !n->i[0]) * half + k;
            *sine = (real)sin(angle);
            *cosine = (real)cos(angle);
        }
}

ck_run *const TABLE[CK_OP_COUNT] = {
    [CK_OP_CONST] = run_const,
    [CK_OP_UNARY] = run_unary,
    [CK_OP_UNARY_GRAD] = run_unary_grad,
    [CK_OP_AFFINE] = run_affine,
    [CK_OP_ADD] = run_binary,
    [CK_OP_MUL] = run_binary,
    [CK_OP_SUM_TO] = run_sum_to,
    [CK_OP_EXPAND] = run_expand,
    [CK_OP_PERMUTE] = run_permute,
    [CK_OP_CONCAT] = run_concat,
    [CK_OP_SLICE] = run_slice,
    [CK_OP_PAD] = run_pad,
    [CK_OP_MATMUL] = run_matmul,
    [CK_OP_CONV] = run_conv,
    [CK_OP_CONV_DATA_GRAD] = run_conv_data_grad,
    [CK_OP_CONV_WEIGHT_GRAD] = run_conv_weight_grad,
    [CK_OP_GROUP_NORM] = run_group_norm,
    [CK_OP_GROUP_NORM_GRAD] = run_group_norm_grad,
    [CK_OP_LAYER_NORM] = run_layer_norm,
    [CK_OP_LAYER_NORM_GRAD] = run_layer_norm_grad,
    [CK_OP_GEGLU] = run_geglu,
    [CK_OP_GEGLU_GRAD] = run_geglu_grad,
    [CK_OP_ATTENTION] = run_attention,
    [CK_OP_ATTENTION_GRAD] = run_attention_grad,
    [CK_OP_SOFTMAX] = run_softmax,
    [CK_OP_UPSAMPLE] = run_upsample,
    [CK_OP_UPSAMPLE_GRAD] = run_upsample_grad,
    [CK_OP_EMBED] = run_embed,
    [CK_OP_EMBED_GRAD] = run_embed_grad,
    [CK_OP_TIMESTEP] = run_timestep,
};
