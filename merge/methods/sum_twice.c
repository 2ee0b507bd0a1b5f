/* Weighted sum of a weighted sum. */
#include "merge/method.h"

enum { ALPHA, BETA };

static int same_as(const ck_value *v, size_t inputs) {
    (void)inputs;
    double alpha = v[ALPHA].items[0], beta = v[BETA].items[0];
    return beta == 1 ? 2 : beta == 0 && alpha == 0 ? 0 : beta == 0 && alpha == 1 ? 1 : -1;
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    const ck_value *v = args->values;
    k->lerp(out, in[0], in[1], (float)v[ALPHA].items[0], n);
    k->lerp(out, out, in[2], (float)v[BETA].items[0], n);
}

extern const ck_method ck_sum_twice;
const ck_method ck_sum_twice = {
    .name = "sum-twice",
    .title = "Sum twice",
    .formula = "(1 - beta) ((1 - alpha) A + alpha B) + beta C",
    .doc = "As supermerger and meh have it: B is mixed into A, then C into that. For a tensor that "
           "B or "
           "C lacks, A stands in for it.",
    .min_inputs = 3,
    .max_inputs = 3,
    .parameters = {{.name = "alpha", .fallback = 0.5, .help = "share of B in the first sum"},
                   {.name = "beta", .fallback = 0.5, .help = "share of C in the second"}},
    .first_stands_in = true,
    .same_as = same_as,
    .block = block,
};
