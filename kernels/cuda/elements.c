/* What is done element by element, see kernels.h. */
#include "kernels/cuda/gpu.h"

typedef struct fill_args {
    float *y;
    float value;
    int64_t n;
} fill_args;

CK_GPU_KERNEL(fill, fill_args) {
    CK_GPU_UNUSED_SHARED();
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, a->n) a->y[i] = a->value;
    }
}

void ck_gpu_fill(ck_gpu_stream s, float *y, float value, int64_t n) {
    fill_args a = {y, value, n};
    fill_launch(s, ck_gpu_blocks(n), &a);
}

/* ---- Functions and their slopes ---- */

/* P(z < x) of a normal z, and its density. */
CK_GPU_FUNCTION float normal(float x) {
    return 0.5f * erfcf(-x * 0.70710678f);
}

CK_GPU_FUNCTION float density(float x) {
    return expf(-x * x / 2) * 0.39894228f;
}

/* gelu's approximation is x times the sigmoid of this. */
CK_GPU_FUNCTION float tanh_argument(float x) {
    return 1.59576912f * (x + 0.044715f * x * x * x);
}

/* x s, where x s' is the rest of its slope. */
CK_GPU_FUNCTION float sigmoid_slope(float x, float s, float inner) {
    return s + x * s * (1 - s) * inner;
}

CK_GPU_FUNCTION float function(int f, float x, float p) {
    switch (f) {
    case CK_GPU_SILU:
        return x * ck_gpu_sigmoid(x);
    case CK_GPU_GELU:
        return x * normal(x);
    case CK_GPU_GELU_TANH:
        return x * ck_gpu_sigmoid(tanh_argument(x));
    case CK_GPU_QUICK_GELU:
        return x * ck_gpu_sigmoid(1.702f * x);
    case CK_GPU_SQRT:
        return sqrtf(x);
    case CK_GPU_RECIPROCAL:
        return 1 / x;
    case CK_GPU_EXP:
        return expf(x);
    case CK_GPU_HUBER:
        return fabsf(x) <= p ? x * x / 2 : p * (fabsf(x) - p / 2);
    }
    return NAN;
}

CK_GPU_FUNCTION float slope(int f, float x, float p) {
    switch (f) {
    case CK_GPU_SILU:
        return sigmoid_slope(x, ck_gpu_sigmoid(x), 1);
    case CK_GPU_GELU:
        return normal(x) + x * density(x);
    case CK_GPU_GELU_TANH:
        return sigmoid_slope(x, ck_gpu_sigmoid(tanh_argument(x)),
                             1.59576912f * (1 + 3 * 0.044715f * x * x));
    case CK_GPU_QUICK_GELU:
        return sigmoid_slope(x, ck_gpu_sigmoid(1.702f * x), 1.702f);
    case CK_GPU_SQRT:
        return 0.5f / sqrtf(x);
    case CK_GPU_RECIPROCAL:
        return -1 / (x * x);
    case CK_GPU_EXP:
        return expf(x);
    case CK_GPU_HUBER:
        return fabsf(x) <= p ? x : copysignf(p, x);
    }
    return NAN;
}

typedef struct unary_args {
    int f;
    float *y;
    const float *x, *dy; /* dy: NULL forward */
    int64_t n;
    float p;
} unary_args;

CK_GPU_KERNEL(unary, unary_args) {
    CK_GPU_UNUSED_SHARED();
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, a->n)
        a->y[i] = a->dy ? a->dy[i] * slope(a->f, a->x[i], a->p) : function(a->f, a->x[i], a->p);
    }
}

void ck_gpu_unary(ck_gpu_stream s, ck_gpu_function f, float *y, const float *x, int64_t n,
                  float p) {
    unary_args a = {f, y, x, NULL, n, p};
    unary_launch(s, ck_gpu_blocks(n), &a);
}

void ck_gpu_unary_grad(ck_gpu_stream s, ck_gpu_function f, float *dx, const float *x,
                       const float *dy, int64_t n, float p) {
    unary_args a = {f, dx, x, dy, n, p};
    unary_launch(s, ck_gpu_blocks(n), &a);
}

typedef struct affine_args {
    float *y;
    const float *x;
    float factor, offset;
    int64_t n;
} affine_args;

CK_GPU_KERNEL(affine, affine_args) {
    CK_GPU_UNUSED_SHARED();
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, a->n) a->y[i] = a->factor * a->x[i] + a->offset;
    }
}

void ck_gpu_affine(ck_gpu_stream s, float *y, const float *x, float factor, float offset,
                   int64_t n) {
    affine_args a = {y, x, factor, offset, n};
    affine_launch(s, ck_gpu_blocks(n), &a);
}

/* ---- GEGLU ---- */

typedef struct geglu_args {
    float *y;
    const float *x, *dy; /* dy: NULL forward */
    int64_t n, c;        /* n: rows c */
} geglu_args;

CK_GPU_KERNEL(geglu, geglu_args) {
    CK_GPU_UNUSED_SHARED();
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, a->n) {
            int64_t first = i / a->c * 2 * a->c + i % a->c, second = first + a->c;
            float value = a->x[first], gate = a->x[second];
            if (!a->dy) {
                a->y[i] = value * gate * normal(gate);
            } else {
                a->y[first] = a->dy[i] * gate * normal(gate);
                a->y[second] = a->dy[i] * value * slope(CK_GPU_GELU, gate, 0);
            }
        }
    }
}

void ck_gpu_geglu(ck_gpu_stream s, float *y, const float *x, int64_t rows, int64_t c) {
    geglu_args a = {y, x, NULL, rows * c, c};
    geglu_launch(s, ck_gpu_blocks(rows * c), &a);
}

void ck_gpu_geglu_grad(ck_gpu_stream s, float *dx, const float *x, const float *dy, int64_t rows,
                       int64_t c) {
    geglu_args a = {dx, x, dy, rows * c, c};
    geglu_launch(s, ck_gpu_blocks(rows * c), &a);
}
