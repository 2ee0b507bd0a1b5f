/* Weighted sum of three models. */
#include "merge/method.h"

enum { ALPHA, BETA };

static int same_as(const ck_value *v, size_t inputs) {
    (void)inputs;
    double alpha = v[ALPHA].items[0], beta = v[BETA].items[0];
    return alpha == 0 && beta == 0   ? 0
           : alpha == 1 && beta == 0 ? 1
           : alpha == 0 && beta == 1 ? 2
                                     : -1;
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    const ck_value *v = args->values;
    double alpha = v[ALPHA].items[0], beta = v[BETA].items[0];
    k->scale(out, in[0], (float)(1 - alpha - beta), n);
    k->accumulate(out, in[1], (float)alpha, n);
    k->accumulate(out, in[2], (float)beta, n);
}

extern const ck_method ck_triple_sum;
const ck_method ck_triple_sum = {
    .name = "triple-sum",
    .title = "Triple sum",
    .formula = "(1 - alpha - beta) A + alpha B + beta C",
    .doc =
        "As supermerger has it: alpha is the share of B, beta that of C. For a tensor that B or C "
        "lacks, A stands in for it.",
    .min_inputs = 3,
    .max_inputs = 3,
    .parameters = {{.name = "alpha", .fallback = 0.33, .help = "share of B"},
                   {.name = "beta", .fallback = 0.33, .help = "share of C"}},
    .first_stands_in = true,
    .same_as = same_as,
    .block = block,
};
