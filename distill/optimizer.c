/* AdamW, see optimizer.h. */
#include "distill/optimizer.h"

#include "io/os.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

ck_optimizer *ck_optimizer_new(const ck_trained *slices, size_t count, ck_adamw settings) {
    ck_optimizer *o = ck_alloc(sizeof *o);
    if (!o) return NULL;
    o->settings = settings;
    o->count = count;
    o->slices = ck_alloc_array(count, sizeof *o->slices);
    for (size_t i = 0; i < count; i++) o->moment_count += 2 * slices[i].n;
    o->moments = ck_alloc_array(o->moment_count, sizeof *o->moments);
    if (!o->slices || !o->moments) {
        ck_optimizer_free(o);
        return NULL;
    }
    float *next = o->moments;
    for (size_t i = 0; i < count; i++) {
        o->slices[i] = slices[i];
        o->slices[i].first = next;
        o->slices[i].second = next + slices[i].n;
        next += 2 * slices[i].n;
    }
    return o;
}

void ck_optimizer_free(ck_optimizer *o) {
    if (!o) return;
    free(o->slices);
    free(o->moments);
    free(o);
}

void ck_optimizer_reset(ck_optimizer *o) {
    memset(o->moments, 0, o->moment_count * sizeof *o->moments);
    o->steps = 0;
}

/* Blocks of fixed size: the sum is the same however many threads share them. */
enum { BLOCK = 4096 };

static double square_sum(const float *x, size_t n) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
    return sum;
}

double ck_optimizer_norm(const ck_optimizer *o) {
    double total = 0;
    for (size_t i = 0; i < o->count; i++)
        for (size_t at = 0; at < o->slices[i].n; at += BLOCK) {
            size_t left = o->slices[i].n - at;
            total += square_sum(o->slices[i].gradient + at, left < BLOCK ? left : BLOCK);
        }
    return sqrt(total);
}

void ck_optimizer_step(ck_optimizer *o, double rate, double scale) {
    const ck_adamw *a = &o->settings;
    o->steps++;
    double correct1 = 1 - pow(a->beta1, (double)o->steps);
    double correct2 = 1 - pow(a->beta2, (double)o->steps);
    float b1 = (float)a->beta1, b2 = (float)a->beta2, g = (float)scale, eps = (float)a->eps;
    float keep = (float)(1 - rate * a->decay), step = (float)(rate / correct1);
    float root = (float)(1 / sqrt(correct2));
    for (size_t k = 0; k < o->count; k++) {
        const ck_trained *s = &o->slices[k];
        float *w = s->value, *m = s->first, *v = s->second;
        const float *d = s->gradient;
#pragma omp parallel for simd if (s->n > BLOCK)
        for (size_t i = 0; i < s->n; i++) {
            float x = g * d[i];
            m[i] = b1 * m[i] + (1 - b1) * x;
            v[i] = b2 * v[i] + (1 - b2) * x * x;
            w[i] = keep * w[i] - step * m[i] / (sqrtf(v[i]) * root + eps);
        }
    }
}

void ck_average(float *average, const float *value, size_t n, double keep) {
    float change = (float)(1 - keep);
#pragma omp parallel for simd if (n > BLOCK)
    for (size_t i = 0; i < n; i++) average[i] += change * (value[i] - average[i]);
}
