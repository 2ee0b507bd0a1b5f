/* Weights in the program's memory, see update.h. */
#include "distill/engine/update.h"

#include <math.h>

/* Blocks of fixed size, a thread for each weight: the sum is the same however many there are. */
enum { BLOCK = 4096 };

static double square_sum(const float *x, size_t n) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
    return sum;
}

static void squares(const ck_trained *slices, size_t count, double *sums) {
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < count; i++) {
        sums[i] = 0;
        for (size_t at = 0; at < slices[i].n; at += BLOCK) {
            size_t left = slices[i].n - at;
            sums[i] += square_sum(slices[i].gradient + at, left < BLOCK ? left : BLOCK);
        }
    }
}

static void adamw(const ck_adamw_step *with, const ck_trained *slices, size_t count) {
    const ck_adamw_step a = *with;
    for (size_t k = 0; k < count; k++) {
        const ck_trained *s = &slices[k];
        float *w = s->value, *m = s->first, *v = s->second;
        const float *d = s->gradient;
#pragma omp parallel for simd if (s->n > BLOCK)
        for (size_t i = 0; i < s->n; i++) {
            float x = a.scale * d[i];
            m[i] = a.beta1 * m[i] + (1 - a.beta1) * x;
            v[i] = a.beta2 * v[i] + (1 - a.beta2) * x * x;
            w[i] = a.keep * w[i] - a.step * m[i] / (sqrtf(v[i]) * a.root + a.eps);
        }
    }
}

static void average(const ck_pair *pairs, size_t count, float change) {
    for (size_t k = 0; k < count; k++) {
        float *y = pairs[k].to;
        const float *x = pairs[k].from;
        size_t n = pairs[k].n;
#pragma omp parallel for simd if (n > BLOCK)
        for (size_t i = 0; i < n; i++) y[i] += change * (x[i] - y[i]);
    }
}

static void add(const ck_pair *pairs, size_t count, float factor) {
    for (size_t k = 0; k < count; k++) {
        float *y = pairs[k].to;
        const float *x = pairs[k].from;
        for (size_t i = 0; i < pairs[k].n; i++) y[i] += factor * x[i];
    }
}

const ck_updates ck_updates_host = {squares, adamw, average, add, NULL};
