/* Probabilities of scores, and their gradients, see kernels.h. A block takes a row. */
#include "kernels/cuda/gpu.h"

typedef struct softmax_args {
    ck_gpu_array p;
    const float *scores;
    float *sums;
    ck_gpu_rows rows;
    float scale;
    bool causal, known; /* known: the sums are read, not made */
} softmax_args;

/* The largest of shared[0..BLOCK-1], to shared[0]. */
CK_GPU_FUNCTION void block_largest(float *x) {
    for (int half = CK_GPU_BLOCK / 2; half > 0; half /= 2) {
        CK_GPU_BARRIER();
        CK_GPU_THREADS(t) {
            if (t < half) x[t] = fmaxf(x[t], x[t + half]);
        }
    }
    CK_GPU_BARRIER();
}

/* NaN among the scores must stay one: fmaxf passes it over, the sum does not. */
CK_GPU_FUNCTION float logarithm_of_sum(const softmax_args *a, const float *row, int64_t seen,
                                       float *shared) {
    CK_GPU_THREADS(t) {
        float largest = -INFINITY;
        for (int64_t j = t; j < seen; j += CK_GPU_BLOCK)
            largest = fmaxf(largest, a->scale * row[j]);
        shared[t] = largest;
    }
    block_largest(shared);
    float largest = shared[0];
    CK_GPU_BARRIER();
    CK_GPU_THREADS(t) {
        float sum = 0;
        for (int64_t j = t; j < seen; j += CK_GPU_BLOCK) sum += expf(a->scale * row[j] - largest);
        shared[t] = sum;
    }
    ck_gpu_block_sum(shared);
    return largest + logf(shared[0]);
}

CK_GPU_KERNEL(softmax, softmax_args) {
    int64_t keys = a->rows.keys;
    for (int64_t i = block; i < a->rows.n; i += blocks) {
        const float *row = a->scores + i * keys;
        int64_t seen = a->causal ? (a->rows.first + i) % a->rows.queries + 1 : keys;
        float sum = a->known ? a->sums[i] : logarithm_of_sum(a, row, seen, shared);
        CK_GPU_BARRIER();
        CK_GPU_THREADS(t) {
            for (int64_t j = t; j < keys; j += CK_GPU_BLOCK)
                ck_gpu_put(&a->p, i * keys + j, j < seen ? expf(a->scale * row[j] - sum) : 0);
            if (t == 0 && !a->known) a->sums[i] = sum;
        }
    }
}

static void launch(ck_gpu_stream s, const softmax_args *a) {
    softmax_launch(s, a->rows.n < CK_GPU_MOST_BLOCKS ? a->rows.n : CK_GPU_MOST_BLOCKS, a);
}

void ck_gpu_softmax(ck_gpu_stream s, ck_gpu_array p, const float *scores, float *sums,
                    ck_gpu_rows rows, float scale, bool causal) {
    softmax_args a = {p, scores, sums, rows, scale, causal, false};
    launch(s, &a);
}

void ck_gpu_softmax_again(ck_gpu_stream s, ck_gpu_array p, const float *scores, const float *sums,
                          ck_gpu_rows rows, float scale, bool causal) {
    softmax_args a = {p, scores, (float *)sums, rows, scale, causal, true};
    launch(s, &a);
}

typedef struct softmax_grad_args {
    ck_gpu_array dscores, p;
    const float *change;
    ck_gpu_rows rows;
    float scale;
} softmax_grad_args;

CK_GPU_KERNEL(softmax_grad, softmax_grad_args) {
    for (int64_t i = block; i < a->rows.n; i += blocks) {
        int64_t row = i * a->rows.keys, end = row + a->rows.keys;
        CK_GPU_BARRIER();
        CK_GPU_THREADS(t) {
            float sum = 0;
            for (int64_t j = row + t; j < end; j += CK_GPU_BLOCK)
                sum += ck_gpu_get(&a->p, j) * a->change[j];
            shared[t] = sum;
        }
        ck_gpu_block_sum(shared);
        CK_GPU_THREADS(t) {
            for (int64_t j = row + t; j < end; j += CK_GPU_BLOCK)
                ck_gpu_put(&a->dscores, j,
                           a->scale * ck_gpu_get(&a->p, j) * (a->change[j] - shared[0]));
        }
    }
}

void ck_gpu_softmax_grad(ck_gpu_stream s, ck_gpu_array dscores, ck_gpu_array p, const float *change,
                         ck_gpu_rows rows, float scale) {
    softmax_grad_args a = {dscores, p, change, rows, scale};
    softmax_grad_launch(s, rows.n < CK_GPU_MOST_BLOCKS ? rows.n : CK_GPU_MOST_BLOCKS, &a);
}
