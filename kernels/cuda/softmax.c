/* Probabilities of scores, and their gradients, see kernels.h. A team of threads takes a row. */
#include "kernels/cuda/gpu.h"

typedef struct softmax_args {
    ck_gpu_array p;
    const float *scores;
    float *sums;
    ck_gpu_rows rows;
    float scale;
    bool causal, known; /* known: the sums are read, not made */
    int team;
} softmax_args;

/* How many scores row i may see: none of one that is not there. */
CK_GPU_FUNCTION int64_t seen_by(const softmax_args *a, int64_t i) {
    const ck_gpu_rows *r = &a->rows;
    if (i >= r->n) return 0;
    return a->causal ? (r->first + i) % r->queries + 1 : r->keys;
}

/* The logarithms of the sums, to `sums`. NaN among the scores must stay one: fmaxf passes it over,
 * the sum does not. */
CK_GPU_FUNCTION void logarithms(const softmax_args *a, int64_t first, float *largest, float *sums) {
    int team = a->team;
    int64_t keys = a->rows.keys;
    CK_GPU_THREADS(t) {
        int64_t i = first + t / team, seen = seen_by(a, i);
        largest[t] = -INFINITY;
        for (int64_t j = t % team; j < seen; j += team)
            largest[t] = fmaxf(largest[t], a->scale * a->scores[i * keys + j]);
    }
    ck_gpu_team_join(largest, team, true);
    CK_GPU_THREADS(t) {
        int64_t i = first + t / team, seen = seen_by(a, i);
        float most = largest[t - t % team], sum = 0;
        for (int64_t j = t % team; j < seen; j += team)
            sum += expf(a->scale * a->scores[i * keys + j] - most);
        sums[t] = sum;
    }
    ck_gpu_team_sum(sums, team);
    CK_GPU_THREADS(t) {
        int64_t i = first + t / team;
        if (t % team == 0 && i < a->rows.n) a->sums[i] = sums[t] = largest[t] + logf(sums[t]);
    }
    CK_GPU_BARRIER();
}

CK_GPU_KERNEL(softmax, softmax_args) {
    int64_t keys = a->rows.keys;
    float *sums = shared + CK_GPU_BLOCK;
    CK_GPU_EACH_TEAM(first, a->team, a->rows.n) {
        CK_GPU_BARRIER();
        if (!a->known) logarithms(a, first, shared, sums);
        CK_GPU_THREADS(t) {
            int64_t i = first + t / a->team, seen = seen_by(a, i), j = t % a->team;
            float sum = !a->known ? sums[t - j] : seen ? a->sums[i] : 0;
            for (; seen && j < keys; j += a->team) {
                float p = j < seen ? expf(a->scale * a->scores[i * keys + j] - sum) : 0;
                ck_gpu_put(&a->p, i * keys + j, p);
            }
        }
    }
}

static void launch(ck_gpu_stream s, softmax_args *a) {
    a->team = ck_gpu_team_for(a->rows.keys);
    softmax_launch(s, ck_gpu_team_blocks(a->rows.n, a->team), a);
}

void ck_gpu_softmax(ck_gpu_stream s, ck_gpu_array p, const float *scores, float *sums,
                    ck_gpu_rows rows, float scale, bool causal) {
    softmax_args a = {p, scores, sums, rows, scale, causal, false, 0};
    launch(s, &a);
}

void ck_gpu_softmax_again(ck_gpu_stream s, ck_gpu_array p, const float *scores, const float *sums,
                          ck_gpu_rows rows, float scale, bool causal) {
    softmax_args a = {p, scores, (float *)sums, rows, scale, causal, true, 0};
    launch(s, &a);
}

typedef struct softmax_grad_args {
    ck_gpu_array dscores, p;
    const float *change;
    ck_gpu_rows rows;
    float scale;
    int team;
} softmax_grad_args;

CK_GPU_KERNEL(softmax_grad, softmax_grad_args) {
    int team = a->team;
    int64_t keys = a->rows.keys, end = a->rows.n * keys;
    CK_GPU_EACH_TEAM(first, team, a->rows.n) {
        CK_GPU_BARRIER();
        CK_GPU_THREADS(t) {
            int64_t row = (first + t / team) * keys;
            float sum = 0;
            for (int64_t j = row + t % team; j < row + keys && j < end; j += team)
                sum += ck_gpu_get(&a->p, j) * a->change[j];
            shared[t] = sum;
        }
        ck_gpu_team_sum(shared, team);
        CK_GPU_THREADS(t) {
            int64_t row = (first + t / team) * keys;
            float sum = shared[t - t % team];
            for (int64_t j = row + t % team; j < row + keys && j < end; j += team)
                ck_gpu_put(&a->dscores, j, a->scale * ck_gpu_get(&a->p, j) * (a->change[j] - sum));
        }
    }
}

void ck_gpu_softmax_grad(ck_gpu_stream s, ck_gpu_array dscores, ck_gpu_array p, const float *change,
                         ck_gpu_rows rows, float scale) {
    softmax_grad_args a = {dscores, p, change, rows, scale, ck_gpu_team_for(rows.keys)};
    softmax_grad_launch(s, ck_gpu_team_blocks(rows.n, a.team), &a);
}
