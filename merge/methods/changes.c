/* The arithmetic of changes.h, in plain loops over short runs of elements that compilers turn into
 * vectors. */
#include "merge/methods/changes.h"
#include "merge/methods/vectors.h"

#include <string.h>

enum { RUN = 256 };

ck_status ck_changes_check(const ck_value *values, size_t inputs, ck_error *err) {
    (void)inputs;
    for (size_t i = 0; i < values[CK_DENSITY].count; i++) {
        double density = values[CK_DENSITY].items[i];
        if (!(density >= 0 && density <= 1))
            return ck_fail(err, CK_USAGE, "density %g: must be from 0 to 1", density);
    }
    return CK_OK;
}

/* Some elements, as numbers and as bits: what depends on signs is done with masks, since branches
 * on them cannot be foreseen. */
typedef union elements {
    float f[RUN];
    uint32_t u[RUN];
} elements;

/* Adds up the changes that count and their weights: those that are not zero and, if there is an
 * election, have the sign of `elected`. */
CK_VECTORS static void add_up(const elements *changes, const elements *elected, float weight,
                              elements *sum, elements *counted) {
    elements counts, weights;
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) {
        uint32_t other_sign = 0u - ((changes->u[e] ^ elected->u[e]) >> 31);
        uint32_t zero = 0u - (uint32_t)((changes->u[e] & 0x7FFFFFFF) == 0);
        counts.u[e] = changes->u[e] & ~other_sign;
        weights.u[e] = ~(other_sign | zero);
    }
    elements one_weight;
    for (size_t e = 0; e < RUN; e++) one_weight.f[e] = weight;
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) weights.u[e] &= one_weight.u[e];
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) {
        sum->f[e] += counts.f[e];
        counted->f[e] += weights.f[e];
    }
}

/* Takes out the changes of elements for which as many are positive as negative; the others' votes
 * are in `all`. */
CK_VECTORS static void elect_most(elements *changes, size_t inputs, elements *all) {
    for (size_t i = 1; i < inputs; i++)
#pragma omp simd
        for (size_t e = 0; e < RUN; e++)
            all->f[e] += (float)(changes[i].f[e] > 0) - (float)(changes[i].f[e] < 0);
    for (size_t i = 1; i < inputs; i++)
#pragma omp simd
        for (size_t e = 0; e < RUN; e++) changes[i].f[e] = all->f[e] != 0 ? changes[i].f[e] : 0.0f;
}

CK_VECTORS static void elect_sum(const elements *changes, size_t inputs, elements *all) {
    for (size_t i = 1; i < inputs; i++)
#pragma omp simd
        for (size_t e = 0; e < RUN; e++) all->f[e] += changes[i].f[e];
            /* A sum of zero elects plus, also a negative zero. */
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) all->f[e] += 0.0f;
}

CK_VECTORS static void divide(elements *sum, const elements *counted) {
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) sum->f[e] /= counted->f[e] != 0 ? counted->f[e] : 1.0f;
}

CK_VECTORS static void add_to(const elements *base, const elements *sum, float lambda,
                              elements *out) {
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) out->f[e] = base->f[e] + lambda * sum->f[e];
}

static void merge_run(const ck_arguments *args, const elements *base, elements *changes,
                      ck_election election, elements *out) {
    const ck_value *v = args->values;
    elements all = {{0}}, sum = {{0}}, counted = {{0}};
    if (election == CK_ELECT_SUM) elect_sum(changes, args->inputs, &all);
    if (election == CK_ELECT_MOST) elect_most(changes, args->inputs, &all);
    for (size_t i = 1; i < args->inputs; i++)
        add_up(&changes[i], election ? &all : &changes[i], (float)v[CK_WEIGHT].items[i - 1], &sum,
               &counted);
    if (v[CK_NORMALIZE].items[0] != 0) divide(&sum, &counted);
    add_to(base, &sum, (float)v[CK_LAMBDA].items[0], out);
}

CK_VECTORS static void subtract(const elements *x, const elements *base, elements *change) {
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) change->f[e] = x->f[e] - base->f[e];
}

CK_VECTORS static void multiply(elements *x, float weight) {
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) x->f[e] *= weight;
}

void ck_changes_merge(const ck_arguments *args, const float *const *in, float *out, size_t n,
                      ck_election election, ck_changes_take *take) {
    elements changes[CK_MAX_INPUTS], base = {{0}}, input = {{0}}, result;
    for (size_t at = 0; at < n; at += RUN) {
        /* What lies behind the end of the last run is computed with what was there before, and
         * thrown away. */
        size_t bytes = (n - at < RUN ? n - at : RUN) * sizeof(float);
        memcpy(base.f, in[0] + at, bytes);
        for (size_t i = 1; i < args->inputs; i++) {
            float weight = (float)args->values[CK_WEIGHT].items[i - 1];
            memcpy(input.f, in[i] + at, bytes);
            subtract(&input, &base, &changes[i]);
            take(args, i, at, changes[i].f, RUN);
            multiply(&changes[i], weight);
        }
        merge_run(args, &base, changes, election, &result);
        memcpy(out + at, result.f, bytes);
    }
}
