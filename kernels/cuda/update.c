/* What happens to weights after the gradients are there, see kernels.h. */
#include "kernels/cuda/gpu.h"
#include "kernels/philox.h"

typedef struct adamw_args {
    ck_gpu_adamw with;
    float *w, *m, *v;
    const float *gradient;
    int64_t n;
} adamw_args;

CK_GPU_KERNEL(adamw, adamw_args) {
    CK_GPU_UNUSED_SHARED();
    const ck_gpu_adamw *o = &a->with;
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, a->n) {
            float x = o->scale * a->gradient[i];
            float m = o->beta1 * a->m[i] + (1 - o->beta1) * x;
            float v = o->beta2 * a->v[i] + (1 - o->beta2) * x * x;
            a->m[i] = m;
            a->v[i] = v;
            a->w[i] = o->keep * a->w[i] - o->step * m / (sqrtf(v) * o->root + o->eps);
        }
    }
}

void ck_gpu_adamw_step(ck_gpu_stream s, const ck_gpu_adamw *with, float *w, float *m, float *v,
                       const float *gradient, int64_t n) {
    adamw_args a = {*with, w, m, v, gradient, n};
    adamw_launch(s, ck_gpu_blocks(n), &a);
}

/* y += factor x, or y += factor (x - y). */
typedef struct blend_args {
    float *y;
    const float *x;
    float factor;
    bool average;
    int64_t n;
} blend_args;

CK_GPU_KERNEL(blend, blend_args) {
    CK_GPU_UNUSED_SHARED();
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, a->n) {
            float y = a->y[i], x = a->x[i];
            a->y[i] = y + a->factor * (a->average ? x - y : x);
        }
    }
}

void ck_gpu_average(ck_gpu_stream s, float *average, const float *value, float change, int64_t n) {
    blend_args a = {average, value, change, true, n};
    blend_launch(s, ck_gpu_blocks(n), &a);
}

void ck_gpu_add_scaled(ck_gpu_stream s, float *sum, const float *x, float factor, int64_t n) {
    blend_args a = {sum, x, factor, false, n};
    blend_launch(s, ck_gpu_blocks(n), &a);
}

typedef struct round_args {
    uint16_t *copy;
    const float *value;
    int64_t n;
    ck_gpu_rounding how;
    bool random;
} round_args;

/* Groups of eight share a block of random bits. */
CK_GPU_KERNEL(round_weights, round_args) {
    CK_GPU_UNUSED_SHARED();
    const ck_gpu_rounding *how = &a->how;
    CK_GPU_THREADS(t) {
        CK_GPU_EACH_SOME(i, t, a->n) {
            uint32_t word[4];
            if (a->random)
                ck_philox(how->seed, how->step, how->stream, (uint64_t)(i / CK_GPU_SOME), word);
            for (int k = 0; k < CK_GPU_SOME && i + k < a->n; k++) {
                float x = a->value[i + k];
                a->copy[i + k] = a->random ? ck_half_random(x, word[k / 2] >> 16 * (k % 2) & 0xffff)
                                           : ck_half(x);
            }
        }
    }
}

void ck_gpu_round(ck_gpu_stream s, uint16_t *copy, const float *value, int64_t n,
                  const ck_gpu_rounding *how) {
    round_args a = {copy, value, n, {0, 0, 0}, how != NULL};
    if (how) a.how = *how;
    round_weights_launch(s, ck_gpu_blocks((n + CK_GPU_SOME - 1) / CK_GPU_SOME), &a);
}

/* ---- The sum of squares, in two steps ---- */

typedef struct squares_args {
    float *sums; /* one for each block */
    const float *x;
    int64_t n;
    double *total; /* where x are sums of squares already: of all of them; else NULL */
} squares_args;

CK_GPU_KERNEL(squares, squares_args) {
    CK_GPU_THREADS(t) {
        float sum = 0;
        CK_GPU_EACH(i, t, a->n) sum += a->total ? a->x[i] : a->x[i] * a->x[i];
        shared[t] = sum;
    }
    ck_gpu_block_sum(shared);
    CK_GPU_THREADS(t) {
        if (t == 0 && a->total) *a->total = shared[0];
        if (t == 0 && !a->total) a->sums[block] = shared[0];
    }
}

void ck_gpu_squares(ck_gpu_stream s, double *sum, const float *x, int64_t n, float *partial) {
    squares_args first = {partial, x, n, NULL}, second = {NULL, partial, CK_GPU_SQUARES, sum};
    squares_launch(s, CK_GPU_SQUARES, &first);
    squares_launch(s, 1, &second);
}
