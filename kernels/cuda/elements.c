/* What is done element by element, see kernels.h. */
#include "kernels/cuda/gpu.h"

/* Blocks for groups of eight. */
static int64_t blocks_for(int64_t n) {
    return ck_gpu_blocks((n + CK_GPU_SOME - 1) / CK_GPU_SOME);
}

typedef struct fill_args {
    ck_gpu_array y;
    float value;
    int64_t n;
} fill_args;

CK_GPU_KERNEL(fill, fill_args) {
    CK_GPU_UNUSED_SHARED();
    CK_GPU_THREADS(t) {
        CK_GPU_EACH_SOME(i, t, a->n) {
            float y[CK_GPU_SOME];
            for (int k = 0; k < CK_GPU_SOME; k++) y[k] = a->value;
            ck_gpu_put_some(&a->y, i, a->n - i, y);
        }
    }
}

void ck_gpu_fill(ck_gpu_stream s, ck_gpu_array y, float value, int64_t n) {
    fill_args a = {y, value, n};
    fill_launch(s, blocks_for(n), &a);
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
    ck_gpu_array y, x, dy; /* dy: at NULL forward */
    int64_t n;
    float p;
} unary_args;

CK_GPU_KERNEL(unary, unary_args) {
    CK_GPU_UNUSED_SHARED();
    CK_GPU_THREADS(t) {
        CK_GPU_EACH_SOME(i, t, a->n) {
            float x[CK_GPU_SOME], dy[CK_GPU_SOME] = {0};
            ck_gpu_get_some(&a->x, i, a->n - i, x);
            if (a->dy.at) ck_gpu_get_some(&a->dy, i, a->n - i, dy);
            for (int k = 0; k < CK_GPU_SOME; k++)
                x[k] = a->dy.at ? dy[k] * slope(a->f, x[k], a->p) : function(a->f, x[k], a->p);
            ck_gpu_put_some(&a->y, i, a->n - i, x);
        }
    }
}

void ck_gpu_unary(ck_gpu_stream s, ck_gpu_function f, ck_gpu_array y, ck_gpu_array x, int64_t n,
                  float p) {
    unary_args a = {f, y, x, {NULL, false}, n, p};
    unary_launch(s, blocks_for(n), &a);
}

void ck_gpu_unary_grad(ck_gpu_stream s, ck_gpu_function f, ck_gpu_array dx, ck_gpu_array x,
                       ck_gpu_array dy, int64_t n, float p) {
    unary_args a = {f, dx, x, dy, n, p};
    unary_launch(s, blocks_for(n), &a);
}

typedef struct affine_args {
    ck_gpu_array y, x;
    float factor, offset;
    int64_t n;
} affine_args;

CK_GPU_KERNEL(affine, affine_args) {
    CK_GPU_UNUSED_SHARED();
    CK_GPU_THREADS(t) {
        CK_GPU_EACH_SOME(i, t, a->n) {
            float x[CK_GPU_SOME];
            ck_gpu_get_some(&a->x, i, a->n - i, x);
            for (int k = 0; k < CK_GPU_SOME; k++) x[k] = a->factor * x[k] + a->offset;
            ck_gpu_put_some(&a->y, i, a->n - i, x);
        }
    }
}

void ck_gpu_affine(ck_gpu_stream s, ck_gpu_array y, ck_gpu_array x, float factor, float offset,
                   int64_t n) {
    affine_args a = {y, x, factor, offset, n};
    affine_launch(s, blocks_for(n), &a);
}

/* ---- GEGLU ---- */

typedef struct geglu_args {
    ck_gpu_array y, x, dy; /* dy: at NULL forward */
    int64_t n, c;          /* n: rows c */
    int some;              /* gates at once: 8, or 1 where c is no multiple of that */
} geglu_args;

CK_GPU_KERNEL(geglu, geglu_args) {
    CK_GPU_UNUSED_SHARED();
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(group, t, a->n / a->some) {
            int64_t i = group * a->some, row = i / a->c, first = i + row * a->c;
            int64_t second = first + a->c;
            float value[CK_GPU_SOME], gate[CK_GPU_SOME], dy[CK_GPU_SOME] = {0};
            ck_gpu_get_some(&a->x, first, a->some, value);
            ck_gpu_get_some(&a->x, second, a->some, gate);
            if (a->dy.at) ck_gpu_get_some(&a->dy, i, a->some, dy);
            for (int k = 0; k < CK_GPU_SOME; k++) {
                float gelu = gate[k] * normal(gate[k]);
                if (a->dy.at) gate[k] = dy[k] * value[k] * slope(CK_GPU_GELU, gate[k], 0);
                value[k] = a->dy.at ? dy[k] * gelu : value[k] * gelu;
            }
            ck_gpu_put_some(&a->y, a->dy.at ? first : i, a->some, value);
            if (a->dy.at) ck_gpu_put_some(&a->y, second, a->some, gate);
        }
    }
}

static void launch_geglu(ck_gpu_stream s, geglu_args *a) {
    a->some = a->c % CK_GPU_SOME == 0 ? CK_GPU_SOME : 1;
    geglu_launch(s, ck_gpu_blocks(a->n / a->some), a);
}

void ck_gpu_geglu(ck_gpu_stream s, ck_gpu_array y, ck_gpu_array x, int64_t rows, int64_t c) {
    geglu_args a = {y, x, {NULL, false}, rows * c, c, 0};
    launch_geglu(s, &a);
}

void ck_gpu_geglu_grad(ck_gpu_stream s, ck_gpu_array dx, ck_gpu_array x, ck_gpu_array dy,
                       int64_t rows, int64_t c) {
    geglu_args a = {dx, x, dy, rows * c, c, 0};
    launch_geglu(s, &a);
}
