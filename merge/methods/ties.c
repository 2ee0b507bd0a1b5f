/* TIES: the largest changes of several models, where they agree on the sign. */
#include "merge/methods/changes.h"

#include <math.h>

static uint64_t keep(const ck_value *v, size_t input, uint64_t elements) {
    return (uint64_t)(v[CK_DENSITY].items[input - 1] * (double)elements);
}

static void take_largest(const ck_arguments *args, size_t input, size_t at, float *changes,
                         size_t n) {
    (void)at;
    float least = (float)args->measured[input];
#pragma omp simd
    for (size_t e = 0; e < n; e++) changes[e] = fabsf(changes[e]) >= least ? changes[e] : 0;
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    (void)k;
    ck_changes_merge(args, in, out, n, true, take_largest);
}

extern const ck_method ck_ties;
const ck_method ck_ties = {
    .name = "ties",
    .title = "TIES",
    .formula =
        "BASE + lambda mean of the w (X - BASE) that are among the largest and have the sign of "
        "their sum",
    .doc =
        "The base is the first model (or --base). Of each model's changes in a tensor the density "
        "share "
        "with the largest magnitude is kept, and all that are as large as the least of these; then "
        "for "
        "every element the sign of the weighted sum is elected, and only changes of that sign "
        "count "
        "(a sum of zero elects plus). As mergekit's ties, per tensor; the paper takes the largest "
        "over the whole model. A tensor that a model lacks adds nothing.",
    .min_inputs = 2,
    .parameters = {CK_CHANGES_PARAMETERS(1)},
    .has_base = true,
    .first_stands_in = true,
    .check = ck_changes_check,
    .keep = keep,
    .block = block,
};
