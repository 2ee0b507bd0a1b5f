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

/* Where sums begin. */
static const elements zeros;

CK_VECTORS static void subtract(const float *x, const float *base, elements *change) {
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) change->f[e] = x[e] - base[e];
}

/* sum = from + weight * changes */
CK_VECTORS static void add_weighted(const elements *from, const elements *changes, float weight,
                                    elements *sum) {
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) sum->f[e] = from->f[e] + changes->f[e] * weight;
}

/* Weighs changes and adds what they have to say in an election to all = from + ... */
CK_VECTORS static void weigh(elements *changes, float weight, ck_election election,
                             const elements *from, elements *all) {
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) changes->f[e] *= weight;
    if (election == CK_ELECT_SUM)
#pragma omp simd
        for (size_t e = 0; e < RUN; e++) all->f[e] = from->f[e] + changes->f[e];
    if (election == CK_ELECT_MOST)
#pragma omp simd
        for (size_t e = 0; e < RUN; e++)
            all->f[e] = from->f[e] + (float)((changes->f[e] > 0) - (changes->f[e] < 0));
}

/* Takes out the changes of elements for which as many are positive as negative. */
CK_VECTORS static void drop_draws(elements *changes, const elements *all) {
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) changes->f[e] = all->f[e] != 0 ? changes->f[e] : 0.0f;
}

/* Adds up the changes that count and, unless counted is NULL, their weights: those that are not
 * zero and have the sign of `elected`. */
CK_VECTORS static void add_up(const elements *changes, const elements *elected, float weight,
                              elements *sum, elements *counted) {
    elements counts, weights, one_weight;
#pragma omp simd
    for (size_t e = 0; e < RUN; e++)
        counts.u[e] = changes->u[e] & ~(0u - ((changes->u[e] ^ elected->u[e]) >> 31));
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) sum->f[e] += counts.f[e];
    if (!counted) return;
    for (size_t e = 0; e < RUN; e++) one_weight.f[e] = weight;
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) {
        uint32_t other_sign = 0u - ((changes->u[e] ^ elected->u[e]) >> 31);
        uint32_t zero = 0u - (uint32_t)((changes->u[e] & 0x7FFFFFFF) == 0);
        weights.u[e] = one_weight.u[e] & ~(other_sign | zero);
    }
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) counted->f[e] += weights.f[e];
}

CK_VECTORS static void divide(elements *sum, const elements *counted) {
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) sum->f[e] /= counted->f[e] != 0 ? counted->f[e] : 1.0f;
}

CK_VECTORS static void add_to(const float *base, const elements *sum, float lambda, float *out) {
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) out[e] = base[e] + lambda * sum->f[e];
}

/* What of the weighed changes counts, to *sum. */
static void elect(const ck_arguments *args, elements *changes, const elements *all,
                  ck_election election, elements *sum) {
    const ck_value *v = args->values;
    bool normalize = v[CK_NORMALIZE].items[0] != 0;
    elements elected = zeros, counted = zeros;
    *sum = zeros;
    /* A sum of zero elects plus, also a negative zero. */
    if (election == CK_ELECT_SUM) add_weighted(&zeros, all, 1, &elected);
    if (election == CK_ELECT_MOST) elected = *all;
    for (size_t i = 1; i < args->inputs; i++) {
        if (election == CK_ELECT_MOST) drop_draws(&changes[i], all);
        add_up(&changes[i], election ? &elected : &changes[i], (float)v[CK_WEIGHT].items[i - 1],
               sum, normalize ? &counted : NULL);
    }
    if (normalize) divide(sum, &counted);
}

static void merge_run(const ck_kernels *k, const ck_arguments *args, const float *const *in,
                      size_t at, elements *changes, ck_election election, ck_changes_take *take,
                      float *out) {
    const ck_value *v = args->values;
    bool plain = election == CK_ALL_COUNT && v[CK_NORMALIZE].items[0] == 0;
    elements all, sum;
    const elements *so_far = &zeros;
    for (size_t i = 1; i < args->inputs; i++) {
        float weight = (float)v[CK_WEIGHT].items[i - 1];
        subtract(in[i], in[0], &changes[i]);
        take(k, args, i, at, changes[i].f, RUN);
        if (plain)
            add_weighted(so_far, &changes[i], weight, &sum), so_far = &sum;
        else
            weigh(&changes[i], weight, election, so_far, &all), so_far = &all;
    }
    if (!plain) elect(args, changes, so_far, election, &sum);
    add_to(in[0], &sum, (float)v[CK_LAMBDA].items[0], out);
}

void ck_changes_merge(const ck_kernels *k, const ck_arguments *args, const float *const *in,
                      float *out, size_t n, ck_election election, ck_changes_take *take) {
    elements changes[CK_MAX_INPUTS], last;
    const float *run[CK_MAX_INPUTS];
    size_t whole = n / RUN * RUN;
    for (size_t at = 0; at < whole; at += RUN) {
        for (size_t i = 0; i < args->inputs; i++) run[i] = in[i] + at;
        merge_run(k, args, run, at, changes, election, take, out + at);
    }
    if (whole == n) return;
    /* The last run goes on with zeros, which are computed and thrown away. */
    for (size_t i = 0; i < args->inputs; i++) {
        changes[i] = zeros;
        run[i] = memcpy(changes[i].f, in[i] + whole, (n - whole) * sizeof(float));
    }
    merge_run(k, args, run, whole, changes, election, take, last.f);
    memcpy(out + whole, last.f, (n - whole) * sizeof(float));
}
