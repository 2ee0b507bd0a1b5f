/* Neural network kernels, written once. Included by nn_ISA.c after these macros are defined:
 *
 *   SUFFIX       appended to the table's name
 *   HALF         defined if the elements of arrays are bf16
 *   TARGET       function attribute that allows the instruction set
 *   VL           f32 elements in a vector
 *   FMA(a,b,c), VECTOR_FMA(a,b,c)   a * b + c of floats and of vectors, fused where that is one
 *                instruction
 *
 * Loops are plain and branchless; the compiler makes vectors of them (omp simd). Only the product
 * says itself what is in registers.
 */
#include "kernels/nn.h"
#include "kernels/unrolled.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline)) TARGET
#define SIMD   _Pragma("omp simd")

/* ---- Elements of arrays ---- */

#ifdef HALF
typedef uint16_t element;

INLINE float get(const element *x) {
    uint32_t bits = (uint32_t)*x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
#else
typedef float element;

INLINE float get(const element *x) {
    return *x;
}

#endif

/* Sums of a few numbers and of their squares: of bf16, f32 has them all but exactly. */
#ifdef HALF
typedef float few;
#define ROOT sqrtf
enum { LANES = 2 * VL }; /* of elements that fill a vector */
#else
typedef double few;
#define ROOT sqrt
enum { LANES = VL };
#endif

/* Element i of an array. */
#define GET(x, i) get((const element *)(x) + (i))

/* y[i] = VALUE, which reads i, for n elements. Those of bf16 are rounded together, to the nearest,
 * ties to even (NaN stays NaN, numbers below 2^-126 become 0): the processor has an instruction for
 * that, of which the compiler knows nothing. */
#ifdef HALF
enum { SOME = 256 };

#define MAP(y, n, VALUE)                                                                           \
    do {                                                                                           \
        float some_[SOME];                                                                         \
        for (size_t at_ = 0; at_ < (n); at_ += SOME) {                                             \
            size_t count_ = (n)-at_ < SOME ? (n)-at_ : SOME;                                       \
            SIMD for (size_t l_ = 0; l_ < count_; l_++) {                                          \
                size_t i = at_ + l_;                                                               \
                some_[l_] = VALUE;                                                                 \
            }                                                                                      \
            put_some((element *)(y) + at_, some_, count_);                                         \
        }                                                                                          \
    } while (0)

INLINE void put_some(element *y, const float *x, size_t n) {
    size_t i = 0;
    for (; i + 2 * VL <= n; i += 2 * VL) {
        __m512bh rounded = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + i + VL), _mm512_loadu_ps(x + i));
        memcpy(y + i, &rounded, sizeof rounded);
    }
    for (; i < n; i += VL) {
        __mmask16 rest = (__mmask16)(n - i < VL ? (1u << (n - i)) - 1 : 0xffff);
        __m256bh rounded = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(rest, x + i));
        __m256i bits;
        memcpy(&bits, &rounded, sizeof bits);
        _mm256_mask_storeu_epi16(y + i, rest, bits);
    }
}
#else
#define MAP(y, n, VALUE)                                                                           \
    do {                                                                                           \
        SIMD for (size_t i = 0; i < (n); i++)((element *)(y))[i] = VALUE;                          \
    } while (0)
#endif

/* ---- Functions of e ---- */

/* e^x of x up to 89: 2^n e^r, with n the nearest integer to x / ln 2: a polynomial of degree 6 for
 * e^r (fitted; off by 3e-9), and n put into the exponent, one less than it is so that 2^128 can be
 * had. Below e^-87.3 it is 0. Comparisons are those of the processor's min and max, and NaN passes.
 */
INLINE float exponential_up_to_89(float x) {
    x = -87.3f > x ? -87.3f : x;
    float rounded = FMA(x, 1.44269504f, 0x1.8p23f), n = rounded - 0x1.8p23f;
    float r = FMA(n, -0.693115234f, x); /* ln 2 in two parts: the first product is exact */
    r = FMA(n, -3.19461850e-5f, r);
    float p = FMA(r, 0.00138144669f, 0.00836878041f);
    p = FMA(p, r, 0.0416683942f);
    p = FMA(p, r, 0.166665201f);
    p = FMA(p, r, 0.499999934f);
    p = FMA(p * r, r, r) + 1;
    uint32_t bits; /* n stands in the lowest of `rounded` */
    memcpy(&bits, &rounded, sizeof bits);
    bits = (bits << 23) + (126u << 23);
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power * 2;
}

INLINE float exponential(float x) {
    return exponential_up_to_89(89.f < x ? 89.f : x);
}

#ifdef HALF
/* For bf16 fewer digits will do: e^x of x up to 0, off by 5e-6 at most. 2^n 2^r, a polynomial of
 * degree 4 for 2^r (fitted), n added to its exponent. NaN may come out as any number. */
INLINE float decay(float x) {
    x = -87 > x ? -87 : x;
    float rounded = FMA(x, 1.44269504f, 0x1.8p23f), r = FMA(x, 1.44269504f, 0x1.8p23f - rounded);
    float p = FMA(r, 0.00958285574f, 0.0559064373f);
    p = FMA(p, r, 0.240240991f);
    p = FMA(p, r, 0.693124175f);
    p = FMA(p, r, 1.f);
    uint32_t n, bits;
    memcpy(&n, &rounded, sizeof n);
    memcpy(&bits, &p, sizeof bits);
    bits += n << 23;
    memcpy(&p, &bits, sizeof p);
    return p;
}

/* As below, off by 5e-5. */
INLINE float tail_factor(float x, float *t_of_x) {
    float t = *t_of_x = 1 / FMA(x, 0.25f, 1.f);
    float p = FMA(t, 0.241726369f, -0.104193173f);
    p = FMA(p, t, 0.180666968f);
    p = FMA(p, t, 0.0804193988f);
    return FMA(p, t, 0.101361223f);
}
#else
INLINE float decay(float x) {
    return exponential_up_to_89(x);
}

/* A normal z is above x >= 0 with the probability e^(-x^2 / 2) p t, t = 1 / (1 + 0.3 x), p a
 * polynomial in t, which is returned: the form of Abramowitz and Stegun 26.2.17, fitted for an
 * error of 1.5e-7 relative. */
INLINE float tail_factor(float x, float *t_of_x) {
    float t = *t_of_x = 1 / FMA(x, 0.3f, 1.f);
    float p = FMA(t, 0.0356746806f, -0.157202671f);
    p = FMA(p, t, 0.206352762f);
    p = FMA(p, t, -0.0536829311f);
    p = FMA(p, t, 0.128561236f);
    p = FMA(p, t, 0.0999136138f);
    p = FMA(p, t, 0.120753936f);
    return FMA(p, t, 0.1196293f);
}
#endif

INLINE float sigmoid(float x) {
    float e = decay(-fabsf(x));
    return (x < 0 ? e : 1) / (1 + e);
}

/* P(z < x) of a normal z, and its density. */
INLINE float normal(float x, float *density) {
    float t, p = tail_factor(fabsf(x), &t), e = decay(-0.5f * x * x), tail = e * p * t;
    *density = e * 0.398942280f;
    return x > 0 ? 1 - tail : tail;
}

/* ---- Element by element ---- */

INLINE float silu(float x) {
    return x * sigmoid(x);
}

INLINE float silu_slope(float x) {
    float s = sigmoid(x);
    return s * FMA(x, 1 - s, 1.f);
}

INLINE float gelu(float x) {
    float density;
    return x * normal(x, &density);
}

INLINE float gelu_slope(float x) {
    float density, p = normal(x, &density);
    return FMA(x, density, p);
}

INLINE float gelu_tanh(float x) {
    return x * sigmoid(1.59576912f * FMA(0.044715f * x * x, x, x));
}

INLINE float gelu_tanh_slope(float x) {
    float s = sigmoid(1.59576912f * FMA(0.044715f * x * x, x, x));
    return FMA(x * s * (1 - s), 1.59576912f * FMA(3 * 0.044715f * x, x, 1.f), s);
}

INLINE float quick_gelu(float x) {
    return x * sigmoid(1.702f * x);
}

INLINE float quick_gelu_slope(float x) {
    float s = sigmoid(1.702f * x);
    return s * FMA(1.702f * x, 1 - s, 1.f);
}

#define UNARY(NAME, SLOPE)                                                                         \
    TARGET static void run_##NAME(void *y, const void *x, size_t n) {                              \
        MAP(y, n, NAME(GET(x, i)));                                                                \
    }                                                                                              \
    TARGET static void run_##NAME##_grad(void *dx, const void *x, const void *dy, size_t n) {      \
        MAP(dx, n, GET(dy, i) * SLOPE(GET(x, i)));                                                 \
    }

UNARY(silu, silu_slope)
UNARY(gelu, gelu_slope)
UNARY(gelu_tanh, gelu_tanh_slope)
UNARY(quick_gelu, quick_gelu_slope)
UNARY(exponential, exponential)

TARGET static void affine(void *y, const void *x, float factor, float offset, size_t n) {
    MAP(y, n, FMA(GET(x, i), factor, offset));
}

TARGET static void add(void *y, const void *a, const void *b, size_t n) {
    MAP(y, n, GET(a, i) + GET(b, i));
}

TARGET static void multiply(void *y, const void *a, const void *b, size_t n) {
    MAP(y, n, GET(a, i) * GET(b, i));
}

TARGET static void add_four(void *y, const void *a, const void *b, const void *c, const void *d,
                            size_t n) {
    MAP(y, n, (GET(a, i) + GET(b, i)) + (GET(c, i) + GET(d, i)));
}

TARGET static void geglu(void *y, const void *value, const void *gate, size_t n) {
    MAP(y, n, GET(value, i) * gelu(GET(gate, i)));
}

/* dvalue, and *dgate. */
INLINE float geglu_change(float value, float gate, float dy, float *dgate) {
    float density, p = normal(gate, &density);
    *dgate = dy * value * FMA(gate, density, p);
    return dy * gate * p;
}

TARGET static void geglu_grad(void *dvalue, void *dgate, const void *value, const void *gate,
                              const void *dy, size_t n) {
#ifdef HALF
    float change[SOME];
    for (size_t at = 0; at < n; at += SOME) {
        size_t count = n - at < SOME ? n - at : SOME;
        const element *v = (const element *)value + at, *x = (const element *)gate + at;
        const element *d = (const element *)dy + at;
        MAP((element *)dvalue + at, count,
            geglu_change(GET(v, i), GET(x, i), GET(d, i), change + i));
        MAP((element *)dgate + at, count, change[i]);
    }
#else
    MAP(dvalue, n, geglu_change(GET(value, i), GET(gate, i), GET(dy, i), (element *)dgate + i));
#endif
}

/* ---- Sums, in double ---- */

TARGET static double total(const void *x, size_t n) {
    double sum = 0;
    _Pragma("omp simd reduction(+ : sum)") for (size_t i = 0; i < n; i++) sum += (double)GET(x, i);
    return sum;
}

/* Of eight rows (sums are loaded and stored less often), or of one. */
INLINE void add_columns(double *sum, double *squares, const element *x, bool eight, size_t n,
                        size_t stride) {
    SIMD for (size_t i = 0; i < n; i++) {
        few a = GET(x, i), s = a, t = a * a;
        if (eight) {
            few b = GET(x, i + stride), c = GET(x, i + 2 * stride), d = GET(x, i + 3 * stride);
            few e = GET(x, i + 4 * stride), f = GET(x, i + 5 * stride);
            few g = GET(x, i + 6 * stride), h = GET(x, i + 7 * stride);
            s = ((a + b) + (c + d)) + ((e + f) + (g + h));
            t = ((t + b * b) + (c * c + d * d)) + ((e * e + f * f) + (g * g + h * h));
        }
        sum[i] += (double)s;
        if (squares) squares[i] += (double)t;
    }
}

TARGET static void columns(double *sum, double *squares, const void *from, size_t rows, size_t n,
                           size_t stride) {
    const element *x = from;
    size_t r = 0;
    for (; r + 8 <= rows; r += 8, x += 8 * stride)
        if (squares)
            add_columns(sum, squares, x, true, n, stride);
        else
            add_columns(sum, NULL, x, true, n, stride);
    for (; r < rows; r++, x += stride) add_columns(sum, squares, x, false, n, stride);
}

/* Two sums over rows, in lanes. (What the compiler makes of reductions adds up lanes one by one:
 * twice the time of rows of 64.) */
typedef struct two_sums {
    few a[LANES], b[LANES];
} two_sums;

INLINE void add_lanes(two_sums *s) {
#ifdef HALF
    s->a[0] = _mm512_reduce_add_ps(_mm512_loadu_ps(s->a) + _mm512_loadu_ps(s->a + VL));
    s->b[0] = _mm512_reduce_add_ps(_mm512_loadu_ps(s->b) + _mm512_loadu_ps(s->b + VL));
#else
    UNROLLED for (size_t w = VL / 2; w > 0; w /= 2) {
        SIMD for (size_t l = 0; l < w; l++) s->a[l] += s->a[l + w], s->b[l] += s->b[l + w];
    }
#endif
}

/* ---- Norms by channel ---- */

TARGET static void norm(const ck_nn_norm *v, void *to, const void *from, size_t rows) {
    const float *mean = v->mean, *scale = v->scale, *gain = v->gain, *bias = v->bias;
    const element *x = from;
    element *y = to;
    size_t n = v->n;
    for (size_t r = 0; r < rows; r++, x += n, y += n)
        if (v->silu) {
            MAP(y, n, silu(FMA((GET(x, i) - mean[i]) * scale[i], gain[i], bias[i])));
        } else {
            MAP(y, n, FMA((GET(x, i) - mean[i]) * scale[i], gain[i], bias[i]));
        }
}

TARGET static void norm_slope(const ck_nn_norm *v, void *to, const void *from, const void *change,
                              size_t rows) {
    const float *mean = v->mean, *scale = v->scale, *gain = v->gain, *bias = v->bias;
    const element *x = from, *dy = change;
    element *dz = to;
    size_t n = v->n;
    for (size_t r = 0; r < rows; r++, x += n, dy += n, dz += n)
        MAP(dz, n,
            GET(dy, i) * silu_slope(FMA((GET(x, i) - mean[i]) * scale[i], gain[i], bias[i])));
}

/* dz, and dz xhat to *product. */
INLINE float slope(float x, float dz, float mean, float scale, float *product) {
    *product += dz * ((x - mean) * scale);
    return dz;
}

/* Four rows, or one. */
INLINE void slopes(const ck_nn_norm *v, double *sum, double *product, const element *x,
                   const element *dz, bool four) {
    const float *mean = v->mean, *scale = v->scale;
    size_t n = v->n;
    SIMD for (size_t i = 0; i < n; i++) {
        float m = mean[i], f = scale[i], p = 0, s = slope(GET(x, i), GET(dz, i), m, f, &p);
        if (four) {
            s += slope(GET(x, i + n), GET(dz, i + n), m, f, &p);
            s += slope(GET(x, i + 2 * n), GET(dz, i + 2 * n), m, f, &p);
            s += slope(GET(x, i + 3 * n), GET(dz, i + 3 * n), m, f, &p);
        }
        sum[i] += (double)s;
        product[i] += (double)p;
    }
}

TARGET static void norm_sums(const ck_nn_norm *v, double *sum, double *product, const void *from,
                             const void *change, size_t rows) {
    const element *x = from, *dz = change;
    size_t r = 0;
    for (; r + 4 <= rows; r += 4, x += 4 * v->n, dz += 4 * v->n)
        slopes(v, sum, product, x, dz, true);
    for (; r < rows; r++, x += v->n, dz += v->n) slopes(v, sum, product, x, dz, false);
}

TARGET static void norm_grad(const ck_nn_norm *v, void *to, const void *from, const void *change,
                             const float *first, const float *second, size_t rows) {
    const float *mean = v->mean, *scale = v->scale, *gain = v->gain;
    const element *x = from, *dz = change;
    element *dx = to;
    size_t n = v->n;
    for (size_t r = 0; r < rows; r++, x += n, dz += n, dx += n)
        MAP(dx, n,
            scale[i] * (FMA(GET(dz, i), gain[i], -first[i]) -
                        (GET(x, i) - mean[i]) * scale[i] * second[i]));
}

/* ---- Layer norm ---- */

TARGET static void layer_norm(void *to, float *statistics, const void *from, const float *gain,
                              const float *bias, double eps, size_t rows, size_t n) {
    const element *x = from;
    element *y = to;
    double each = 1 / (double)n;
    for (size_t r = 0; r < rows; r++, x += n, y += n, statistics += 2) {
        two_sums s = {{0}, {0}};
        size_t k = 0;
        for (; k + LANES <= n; k += LANES) {
            SIMD for (size_t l = 0; l < LANES; l++) {
                few a = GET(x, k + l);
                s.a[l] += a;
                s.b[l] += a * a;
            }
        }
        for (; k < n; k++) {
            few a = GET(x, k);
            s.a[0] += a;
            s.b[0] += a * a;
        }
        add_lanes(&s);
        double average = (double)s.a[0] * each;
        double variance = (double)s.b[0] * each - average * average;
        float mean = (float)average;
        float scale = (float)(1 / ROOT((few)((variance > 0 ? variance : 0) + eps)));
        MAP(y, n, FMA((GET(x, i) - mean) * scale, gain[i], bias[i]));
        statistics[0] = mean;
        statistics[1] = scale;
    }
}

/* dx of a row. */
INLINE void layer_norm_row(element *dx, const element *x, const element *dy, const float *gain,
                           const float *statistics, size_t n) {
    float mean = statistics[0], scale = statistics[1];
    two_sums s = {{0}, {0}};
    size_t k = 0;
    for (; k + LANES <= n; k += LANES) {
        SIMD for (size_t l = 0; l < LANES; l++) {
            float xhat = (GET(x, k + l) - mean) * scale, d = GET(dy, k + l) * gain[k + l];
            s.a[l] += (few)d;
            s.b[l] += (few)d * xhat;
        }
    }
    for (; k < n; k++) {
        float xhat = (GET(x, k) - mean) * scale, d = GET(dy, k) * gain[k];
        s.a[0] += (few)d;
        s.b[0] += (few)d * xhat;
    }
    add_lanes(&s);
    float first = (float)(s.a[0] / (few)n), second = (float)(s.b[0] / (few)n);
    MAP(dx, n, scale * (FMA(GET(dy, i), gain[i], -first) - (GET(x, i) - mean) * scale * second));
}

INLINE float layer_slope(float x, float dy, const float *statistics, float *product) {
    *product += dy * ((x - statistics[0]) * statistics[1]);
    return dy;
}

/* dgain and dbias of four rows, or of one. */
INLINE void layer_slopes(double *dgain, double *dbias, const element *x, const element *dy,
                         const float *statistics, bool four, size_t n) {
    SIMD for (size_t i = 0; i < n; i++) {
        float p = 0, s = layer_slope(GET(x, i), GET(dy, i), statistics, &p);
        if (four) {
            s += layer_slope(GET(x, i + n), GET(dy, i + n), statistics + 2, &p);
            s += layer_slope(GET(x, i + 2 * n), GET(dy, i + 2 * n), statistics + 4, &p);
            s += layer_slope(GET(x, i + 3 * n), GET(dy, i + 3 * n), statistics + 6, &p);
        }
        dgain[i] += (double)p;
        dbias[i] += (double)s;
    }
}

TARGET static void layer_norm_grad(void *to, double *dgain, double *dbias, const void *from,
                                   const void *change, const float *gain, const float *statistics,
                                   size_t rows, size_t n) {
    const element *x = from, *dy = change;
    element *dx = to;
    for (size_t r = 0; r < rows; r++)
        layer_norm_row(dx + r * n, x + r * n, dy + r * n, gain, statistics + 2 * r, n);
    size_t r = 0;
    for (; r + 4 <= rows; r += 4)
        layer_slopes(dgain, dbias, x + r * n, dy + r * n, statistics + 2 * r, true, n);
    for (; r < rows; r++)
        layer_slopes(dgain, dbias, x + r * n, dy + r * n, statistics + 2 * r, false, n);
}

#ifndef HALF
/* ---- Products of small matrices ---- */

typedef float vf __attribute__((vector_size(4 * VL)));

INLINE vf load(const float *p) {
    vf x;
    memcpy(&x, p, sizeof x);
    return x;
}

/* tile_ROWS_WIDTH: so many rows of so many vectors, the sums in registers: c = a b + (add ? c : 0),
 * over k. (A macro, because clang unrolls loops before it knows what an inline function is given.)
 */
#define TILE(ROWS, WIDTH)                                                                          \
    INLINE void tile_##ROWS##_##WIDTH(float *c, size_t stride, ck_nn_matrix a, const float *b,     \
                                      size_t b_stride, size_t k, bool add) {                       \
        vf sum[ROWS][WIDTH], right[WIDTH];                                                         \
        UNROLLED for (size_t i = 0; i < ROWS; i++) {                                               \
            UNROLLED for (size_t j = 0; j < WIDTH; j++) {                                          \
                sum[i][j] = add ? load(c + i * stride + j * VL) : (vf){0};                         \
            }                                                                                      \
        }                                                                                          \
        for (size_t x = 0; x < k; x++) {                                                           \
            UNROLLED for (size_t j = 0; j < WIDTH; j++) {                                          \
                right[j] = load(b + x * b_stride + j * VL);                                        \
            }                                                                                      \
            UNROLLED for (size_t i = 0; i < ROWS; i++) {                                           \
                vf left = a.at[i * a.row + x * a.column] - (vf){0};                                \
                UNROLLED for (size_t j = 0; j < WIDTH; j++) {                                      \
                    sum[i][j] = VECTOR_FMA(left, right[j], sum[i][j]);                             \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
        UNROLLED for (size_t i = 0; i < ROWS; i++) {                                               \
            UNROLLED for (size_t j = 0; j < WIDTH; j++) {                                          \
                memcpy(c + i * stride + j * VL, &sum[i][j], sizeof(vf));                           \
            }                                                                                      \
        }                                                                                          \
    }

/* tiles_WIDTH: m rows of so many vectors. */
#define TILES(ROWS, WIDTH)                                                                         \
    TILE(ROWS, WIDTH)                                                                              \
    TILE(1, WIDTH)                                                                                 \
    INLINE void tiles_##WIDTH(float *c, size_t stride, ck_nn_matrix a, const float *b,             \
                              size_t b_stride, size_t m, size_t k, bool add) {                     \
        size_t i = 0;                                                                              \
        for (; i + ROWS <= m; i += ROWS, a.at += ROWS * a.row)                                     \
            tile_##ROWS##_##WIDTH(c + i * stride, stride, a, b, b_stride, k, add);                 \
        for (; i < m; i++, a.at += a.row)                                                          \
            tile_1_##WIDTH(c + i * stride, stride, a, b, b_stride, k, add);                        \
    }

/* As many sums as hide the latency of an addition, and not more than there are registers. */
#if VL == 16
TILES(4, 4)
TILES(8, 1)
#endif
TILES(4, 2)

TARGET static void product(float *c, size_t stride, ck_nn_matrix a, const float *b, size_t b_stride,
                           size_t m, size_t n, size_t k, bool add) {
    size_t j = 0;
#if VL == 16
    for (; j + 4 * VL <= n; j += 4 * VL) tiles_4(c + j, stride, a, b + j, b_stride, m, k, add);
#endif
    for (; j + 2 * VL <= n; j += 2 * VL) tiles_2(c + j, stride, a, b + j, b_stride, m, k, add);
#if VL == 16
    if (j < n) tiles_1(c + j, stride, a, b + j, b_stride, m, k, add);
#endif
}

/* ---- Attention ----
 *
 * Scores are made for a block of keys and a block of queries at a time and never stored; the
 * largest and the sum of powers of each query are kept up to date along the keys (Milakov and
 * Gimelshein, 2018; Dao et al., 2022). Backwards they are made again, from the logarithms of the
 * sums. They are powers of two: scores are multiplied by log2(e), too.
 *
 * Forward queries are side by side in vectors and keys stay where they are, backward it is the
 * other way round. What is side by side is transposed, block by block, and padded to a multiple of
 * 16. */

enum { BLOCK = 64, AREA = BLOCK * 128, SHARE = 64 /* queries that are given together */ };

#define ALIGNED __attribute__((aligned(64)))
#define LN2     0.693147181f

typedef struct part {
    size_t first, n; /* tokens */
} part;

INLINE size_t padded(size_t n) {
    return (n + 15) / 16 * 16;
}

INLINE part part_at(size_t first, size_t block, size_t count) {
    return (part){first, count - first < block ? count - first : block};
}

/* 2^x for x < 128, 0 below 2^-127: a polynomial of degree 5 (fitted; off by 7.5e-8) for the rest
 * that is left of x by the nearest integer. NaN passes, as in `exponential`. */
INLINE float power(float x) {
    x = -127.f > x ? -127.f : x;
    float rounded = x + (0x1.8p23f + 127), r = x - (rounded - (0x1.8p23f + 127));
    float p = FMA(r, 0.00132764719f, 0.00967554096f);
    p = FMA(p, r, 0.0555071309f);
    p = FMA(p, r, 0.240221202f);
    p = FMA(p, r, 0.693146944f);
    p = FMA(p, r, 1.f);
    uint32_t bits; /* the integer + 127 stands in the lowest of `rounded` */
    memcpy(&bits, &rounded, sizeof bits);
    bits <<= 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

/* A head's numbers of some tokens, times a factor: channel after channel. */
INLINE void copy_columns(float *to, const float *from, part t, const ck_nn_attention *a,
                         float factor) {
    size_t n = padded(t.n);
    for (size_t c = 0; c < a->width; c++)
        for (size_t i = t.n; i < n; i++) to[c * n + i] = 0;
    for (size_t i = 0; i < t.n; i++)
        for (size_t c = 0; c < a->width; c++)
            to[c * n + i] = factor * from[(t.first + i) * a->channels + c];
}

/* What copy_columns brought, back. */
INLINE void put_columns(float *to, const float *from, part t, const ck_nn_attention *a,
                        float factor) {
    size_t n = padded(t.n);
    for (size_t i = 0; i < t.n; i++)
        for (size_t c = 0; c < a->width; c++)
            to[(t.first + i) * a->channels + c] = factor * from[c * n + i];
}

INLINE bool unseen(const ck_nn_attention *a, part queries, part keys) {
    return a->causal && queries.first + queries.n <= keys.first;
}

/* Scores, a row of n queries for each key: those that come before a key do not see it, and 2^ makes
 * 0 of their score. */
INLINE void hide(const ck_nn_attention *a, float *scores, part queries, part keys, size_t n) {
    for (size_t j = 0; a->causal && j < keys.n; j++)
        for (size_t i = 0; i < n && queries.first + i < keys.first + j; i++)
            scores[j * n + i] = -INFINITY;
}

/* Scores become powers, less the largest of their query; what was gathered in `out`, a row for each
 * channel, is scaled to the new largest. */
INLINE void take_scores(float *scores, size_t keys, size_t n, float *largest, float *sum,
                        float *out, size_t width) {
    ALIGNED float keep[BLOCK];
    memcpy(keep, largest, n * sizeof *keep);
    for (size_t j = 0; j < keys; j++) {
        const float *x = scores + j * n;
        SIMD for (size_t i = 0; i < n; i++) largest[i] = x[i] > largest[i] ? x[i] : largest[i];
    }
    SIMD for (size_t i = 0; i < n; i++) {
        keep[i] = power(keep[i] - largest[i]);
        sum[i] *= keep[i];
    }
    for (size_t j = 0; j < keys; j++) {
        float *x = scores + j * n;
        SIMD for (size_t i = 0; i < n; i++) {
            x[i] = power(x[i] - largest[i]);
            sum[i] += x[i];
        }
    }
    for (size_t c = 0; c < width; c++) {
        SIMD for (size_t i = 0; i < n; i++) out[c * n + i] *= keep[i];
    }
}

/* A block of queries against all keys of the head, whose first numbers q, k and v point to. */
TARGET static void attend(const ck_nn_attention *a, const float *q, const float *k, const float *v,
                          part queries, float *y, float *sums) {
    ALIGNED float columns_q[AREA], out[AREA], scores[BLOCK * BLOCK], largest[BLOCK], sum[BLOCK];
    size_t n = padded(queries.n);
    copy_columns(columns_q, q, queries, a, a->scale / LN2);
    memset(out, 0, a->width * n * sizeof *out);
    for (size_t i = 0; i < n; i++) largest[i] = -INFINITY, sum[i] = 0;
    for (size_t first = 0; first < a->keys; first += BLOCK) {
        part t = part_at(first, BLOCK, a->keys);
        if (unseen(a, queries, t)) break;
        ck_nn_matrix keys = {k + first * a->channels, a->channels, 1};
        ck_nn_matrix values = {v + first * a->channels, 1, a->channels};
        product(scores, n, keys, columns_q, n, t.n, n, a->width, false);
        hide(a, scores, queries, t, n);
        take_scores(scores, t.n, n, largest, sum, out, a->width);
        product(out, n, values, scores, n, a->width, n, t.n, true);
    }
    for (size_t i = 0; i < n; i++) {
        if (i < queries.n) sums[queries.first + i] = LN2 * largest[i] + logf(sum[i]);
        sum[i] = 1 / sum[i];
    }
    for (size_t c = 0; c < a->width; c++) {
        SIMD for (size_t i = 0; i < n; i++) out[c * n + i] *= sum[i];
    }
    put_columns(y, out, queries, a, 1);
}

TARGET static void forward(const ck_nn_attention *a, size_t image, size_t head, size_t first,
                           void *memory) {
    (void)memory;
    size_t q = image * a->queries * a->channels + head * a->width;
    size_t k = image * a->keys * a->channels + head * a->width;
    size_t end = a->queries - first < SHARE ? a->queries : first + SHARE;
    /* Such that the numbers of a block are at most AREA. */
    size_t block = a->width <= 128 ? BLOCK : a->width <= 256 ? BLOCK / 2 : BLOCK / 4;
    float *sums = a->sums + (image * a->heads + head) * a->queries;
    for (; first < end; first += block)
        attend(a, (const float *)a->q + q, (const float *)a->k + k, (const float *)a->v + k,
               part_at(first, block, end), (float *)a->y + q, sums);
}

/* ---- Backward ---- */

/* A head: where the numbers of its queries begin; of its keys, blocks of BLOCK, channel after
 * channel, but rows: key after key, padded to a multiple of 16 channels, as dq, of a block of
 * queries. */
typedef struct head_grad {
    const float *q, *dy, *y, *sums;
    float *k, *v, *dk, *dv, *rows, *dq;
} head_grad;

INLINE float inner(const float *x, const float *y, size_t n) {
    float sum = 0;
    _Pragma("omp simd reduction(+ : sum)") for (size_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

/* Of a query, that sees some of n keys: scores become probabilities p, changes p (dy v - dy y). */
INLINE void differentiate(float *scores, float *changes, size_t seen, size_t n, float sum,
                          float dy_y) {
    SIMD for (size_t j = 0; j < seen; j++) {
        scores[j] = power(scores[j] - sum);
        changes[j] = scores[j] * (changes[j] - dy_y);
    }
    for (size_t j = seen; j < n; j++) scores[j] = changes[j] = 0;
}

/* A block of queries against all keys: their dq, and their part of dk and dv. */
TARGET static void attend_back(const ck_nn_attention *a, const head_grad *h, part queries,
                               float *to) {
    ALIGNED float scores[BLOCK * BLOCK], changes[BLOCK * BLOCK], sum[BLOCK], dy_y[BLOCK];
    size_t at = queries.first * a->channels, row = padded(a->width), width = a->width;
    ck_nn_matrix q = {h->q + at, a->channels, 1}, dy = {h->dy + at, a->channels, 1};
    ck_nn_matrix q_turned = {q.at, 1, a->channels}, dy_turned = {dy.at, 1, a->channels};
    memset(h->dq, 0, queries.n * row * sizeof *h->dq);
    for (size_t i = 0; i < queries.n; i++) {
        sum[i] = h->sums[queries.first + i] / LN2;
        dy_y[i] = inner(dy.at + i * a->channels, h->y + at + i * a->channels, width);
    }
    for (size_t first = 0; first < a->keys; first += BLOCK) {
        part t = part_at(first, BLOCK, a->keys);
        if (unseen(a, queries, t)) break;
        size_t n = padded(t.n), block = first * width;
        product(scores, n, q, h->k + block, n, queries.n, n, width, false);
        product(changes, n, dy, h->v + block, n, queries.n, n, width, false);
        for (size_t i = 0; i < queries.n; i++) {
            size_t before = queries.first + i + 1, seen = before < first ? 0 : before - first;
            if (!a->causal || seen > n) seen = n;
            differentiate(scores + i * n, changes + i * n, seen, n, sum[i], dy_y[i]);
        }
        product(h->dv + block, n, dy_turned, scores, n, width, n, queries.n, true);
        product(h->dk + block, n, q_turned, changes, n, width, n, queries.n, true);
        product(h->dq, row, (ck_nn_matrix){changes, n, 1}, h->rows + first * row, row, queries.n,
                row, t.n, true);
    }
    for (size_t i = 0; i < queries.n; i++)
        for (size_t c = 0; c < width; c++)
            to[at + i * a->channels + c] = a->scale * h->dq[i * row + c];
}

TARGET static size_t room(const ck_nn_attention *a, bool backward) {
    size_t keys = padded(a->keys), row = padded(a->width);
    return backward ? (4 * keys * a->width + (keys + BLOCK) * row) * sizeof(float) : 0;
}

TARGET static void backward(const ck_nn_attention *a, size_t image, size_t head, void *memory) {
    size_t q = image * a->queries * a->channels + head * a->width;
    size_t k = image * a->keys * a->channels + head * a->width;
    size_t size = padded(a->keys) * a->width, row = padded(a->width);
    const float *from_k = (const float *)a->k + k, *from_v = (const float *)a->v + k;
    head_grad h = {.q = (const float *)a->q + q,
                   .dy = (const float *)a->dy + q,
                   .y = (const float *)a->y + q,
                   .sums = a->sums + (image * a->heads + head) * a->queries,
                   .k = memory};
    h.v = h.k + size, h.dk = h.v + size, h.dv = h.dk + size, h.rows = h.dv + size;
    h.dq = h.rows + padded(a->keys) * row;
    memset(h.dk, 0, 2 * size * sizeof(float));
    for (size_t first = 0; first < a->keys; first += BLOCK) {
        part t = part_at(first, BLOCK, a->keys);
        copy_columns(h.k + first * a->width, from_k, t, a, a->scale / LN2);
        copy_columns(h.v + first * a->width, from_v, t, a, 1);
    }
    for (size_t i = 0; i < a->keys; i++)
        for (size_t c = 0; c < row; c++)
            h.rows[i * row + c] = c < a->width ? from_k[i * a->channels + c] : 0;
    for (size_t first = 0; first < a->queries; first += BLOCK)
        attend_back(a, &h, part_at(first, BLOCK, a->queries), (float *)a->dq + q);
    for (size_t first = 0; first < a->keys; first += BLOCK) {
        part t = part_at(first, BLOCK, a->keys);
        put_columns((float *)a->dk + k, h.dk + first * a->width, t, a, a->scale);
        put_columns((float *)a->dv + k, h.dv + first * a->width, t, a, 1);
    }
}

#endif /* HALF */

#define TABLE_NAME_(suffix) ck_nn_##suffix
#define TABLE_NAME(suffix)  TABLE_NAME_(suffix)
#define STRING_(x)          #x
#define STRING(x)           STRING_(x)

extern const ck_nn TABLE_NAME(SUFFIX);
const ck_nn TABLE_NAME(SUFFIX) = {
    .isa = STRING(SUFFIX),
    .element = sizeof(element),
    .unary = {[CK_NN_SILU] = run_silu,
              [CK_NN_GELU] = run_gelu,
              [CK_NN_GELU_TANH] = run_gelu_tanh,
              [CK_NN_QUICK_GELU] = run_quick_gelu,
              [CK_NN_EXP] = run_exponential},
    .unary_grad = {[CK_NN_SILU] = run_silu_grad,
                   [CK_NN_GELU] = run_gelu_grad,
                   [CK_NN_GELU_TANH] = run_gelu_tanh_grad,
                   [CK_NN_QUICK_GELU] = run_quick_gelu_grad,
                   [CK_NN_EXP] = run_exponential_grad},
    .affine = affine,
    .add = add,
    .multiply = multiply,
    .add_four = add_four,
    .geglu = geglu,
    .geglu_grad = geglu_grad,
    .total = total,
    .columns = columns,
    .norm = norm,
    .norm_slope = norm_slope,
    .norm_sums = norm_sums,
    .norm_grad = norm_grad,
    .layer_norm = layer_norm,
    .layer_norm_grad = layer_norm_grad,
#ifndef HALF
    .product = product,
    .attention = {CK_NN_HEAD, SHARE, room, forward, backward},
#endif
};
