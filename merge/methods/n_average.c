/* The mean of any number of models. */
#include "merge/method.h"

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    k->scale(out, in[0], 1, n);
    for (size_t i = 1; i < args->inputs; i++) k->lerp(out, out, in[i], 1.0f / (float)(i + 1), n);
}

extern const ck_method ck_n_average;
const ck_method ck_n_average = {
    .name = "n-average",
    .title = "N average",
    .formula = "(A + B + C + ...) / n",
    .doc = "As a running mean, like sd-mecha's n_average: where all models agree the result is "
           "exactly "
           "what they say. For a tensor that a model lacks, the first stands in.",
    .min_inputs = 2,
    .first_stands_in = true,
    .block = block,
};
