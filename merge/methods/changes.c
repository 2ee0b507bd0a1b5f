/* The arithmetic of changes.h, in plain loops over short runs of elements that compilers turn into
 * vectors. */
#include "merge/methods/changes.h"
#include "merge/methods/vectors.h"

#include <string.h>

enum { RUN = 256 };

ck_status ck_changes_check(const ck_arguments *args, ck_error *err) {
    const ck_value *values = args->values;
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
    _Alignas(64) float f[RUN];
    uint32_t u[RUN];
} elements;

/* Where sums begin. */
static const elements zeros;

/* sum = from + weight * changes */
CK_VECTORS static void add_weighted(const elements *from, const elements *changes, float weight,
                                    elements *sum) {
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) sum->f[e] = from->f[e] + changes->f[e] * weight;
}

/* Weighs changes and adds them up: all = from + ... */
CK_VECTORS static void weigh(elements *changes, float weight, const elements *from, elements *all) {
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) {
        float weighed = changes->f[e] * weight;
        changes->f[e] = weighed;
        all->f[e] = from->f[e] + weighed;
    }
}

/* Weighs changes and adds up their signs. */
CK_VECTORS static void vote(elements *changes, float weight, const elements *from, elements *all) {
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) {
        float weighed = changes->f[e] * weight;
        changes->f[e] = weighed;
        all->f[e] = from->f[e] + (float)((weighed > 0) - (weighed < 0));
    }
}

/* Takes out the changes of elements for which as many are positive as negative. */
CK_VECTORS static void drop_draws(elements *changes, const elements *all) {
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) changes->f[e] = all->f[e] != 0 ? changes->f[e] : 0.0f;
}

/* The changes that have the sign of `elected`: sum = from + ... */
CK_VECTORS static void add_up(const elements *changes, const elements *elected,
                              const elements *from, elements *sum) {
    elements counts;
#pragma omp simd
    for (size_t e = 0; e < RUN; e++)
        counts.u[e] = changes->u[e] & ~(0u - ((changes->u[e] ^ elected->u[e]) >> 31));
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) sum->f[e] = from->f[e] + counts.f[e];
}

/* The weights of those that have the sign of `elected` and are not zero. */
CK_VECTORS static void add_up_weights(const elements *changes, const elements *elected,
                                      float weight, const elements *from, elements *counted) {
    elements weights, one_weight;
    for (size_t e = 0; e < RUN; e++) one_weight.f[e] = weight;
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) {
        uint32_t other_sign = 0u - ((changes->u[e] ^ elected->u[e]) >> 31);
        uint32_t zero = 0u - (uint32_t)((changes->u[e] & 0x7FFFFFFF) == 0);
        weights.u[e] = one_weight.u[e] & ~(other_sign | zero);
    }
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) counted->f[e] = from->f[e] + weights.f[e];
}

CK_VECTORS static void divide(elements *sum, const elements *counted) {
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) sum->f[e] /= counted->f[e] != 0 ? counted->f[e] : 1.0f;
}

CK_VECTORS static void add_to(const float *base, const elements *sum, float lambda, float *out) {
#pragma omp simd
    for (size_t e = 0; e < RUN; e++) out[e] = base[e] + lambda * sum->f[e];
}

/* What of the weighed changes counts, to *sum. (A sum of zero, `all`, is never negative, and so
 * elects plus: sums begin with +0.) */
static void elect(const ck_arguments *args, elements *changes, const elements *all,
                  ck_election election, elements *sum) {
    const ck_value *v = args->values;
    bool normalize = v[CK_NORMALIZE].items[0] != 0;
    elements counted;
    const elements *sum_so_far = &zeros, *counted_so_far = &zeros;
    for (size_t i = 1; i < args->inputs; i++) {
        float weight = (float)v[CK_WEIGHT].items[i - 1];
        const elements *elected = election == CK_ALL_COUNT ? &changes[i] : all;
        if (election == CK_ELECT_MOST) drop_draws(&changes[i], all);
        add_up(&changes[i], elected, sum_so_far, sum);
        sum_so_far = sum;
        if (!normalize) continue;
        add_up_weights(&changes[i], elected, weight, counted_so_far, &counted);
        counted_so_far = &counted;
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
        take(k, args, i, at, in[i], in[0], changes[i].f, RUN);
        if (plain)
            add_weighted(so_far, &changes[i], weight, &sum), so_far = &sum;
        else if (election == CK_ELECT_MOST)
            vote(&changes[i], weight, so_far, &all), so_far = &all;
        else
            weigh(&changes[i], weight, so_far, &all), so_far = &all;
    }
    if (!plain) elect(args, changes, so_far, election, &sum);
    add_to(in[0], &sum, (float)v[CK_LAMBDA].items[0], out);
}

void ck_changes_merge(const ck_kernels *k, const ck_arguments *args, const float *const *in,
                      float *out, size_t n, ck_election election, ck_changes_take *take) {
    elements changes[CK_MAX_INPUTS], last[CK_MAX_INPUTS], result;
    const float *run[CK_MAX_INPUTS];
    size_t whole = n / RUN * RUN;
    for (size_t at = 0; at < whole; at += RUN) {
        for (size_t i = 0; i < args->inputs; i++) run[i] = in[i] + at;
        merge_run(k, args, run, at, changes, election, take, out + at);
    }
    if (whole == n) return;
    /* The last run goes on with zeros, which are computed and thrown away. */
    for (size_t i = 0; i < args->inputs; i++) {
        last[i] = zeros;
        run[i] = memcpy(last[i].f, in[i] + whole, (n - whole) * sizeof(float));
    }
    merge_run(k, args, run, whole, changes, election, take, result.f);
    memcpy(out + whole, result.f, (n - whole) * sizeof(float));
}
