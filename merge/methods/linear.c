/* Weighted sum of any number of models. */
#include "merge/method.h"

enum { WEIGHT, NORMALIZE };

/* The factor of input i: its weight, divided by the sum of all when normalising. */
static double share(const ck_value *values, size_t inputs, size_t i) {
    const double *weight = values[WEIGHT].items;
    if (values[NORMALIZE].items[0] == 0) return weight[i];
    double sum = 0;
    for (size_t j = 0; j < inputs; j++) sum += weight[j];
    return weight[i] / sum;
}

static ck_status check(const ck_arguments *args, ck_error *err) {
    const ck_value *values = args->values;
    double sum = 0;
    for (size_t i = 0; i < args->inputs; i++) sum += values[WEIGHT].items[i];
    if (values[NORMALIZE].items[0] != 0 && sum == 0)
        return ck_fail(err, CK_USAGE,
                       "linear: the weights add up to 0, so they cannot be normalised; set "
                       "switch normalize off to use them as they are");
    return CK_OK;
}

static int same_as(const ck_value *values, size_t inputs) {
    int only = -1;
    for (size_t i = 0; i < inputs; i++) {
        if (values[WEIGHT].items[i] == 0) continue;
        if (only >= 0) return -1;
        only = (int)i;
    }
    return only >= 0 && share(values, inputs, (size_t)only) == 1 ? only : -1;
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    const ck_value *values = args->values;
    k->scale(out, in[0], (float)share(values, args->inputs, 0), n);
    for (size_t i = 1; i < args->inputs; i++) {
        float w = (float)share(values, args->inputs, i);
        if (w != 0) k->accumulate(out, in[i], w, n);
    }
}

extern const ck_method ck_linear_method;
const ck_method ck_linear_method = {
    .name = "linear",
    .title = "Linear",
    .formula = "(w1 A + w2 B + w3 C + ...) / (w1 + w2 + w3 + ...)",
    .doc =
        "Weighted sum of any number of models, one weight each, in the order of the models; equal "
        "weights give the average. The weights are divided by their sum unless normalize is off. "
        "For a tensor that a model lacks, the first model stands in for it.",
    .min_inputs = 1,
    .parameters = {{.name = "weight", .fallback = 1, .list = true, .help = "one weight per model"},
                   {.name = "normalize",
                    .fallback = 1,
                    .on_off = true,
                    .help = "divide by the sum of the weights"}},
    .first_stands_in = true,
    .check = check,
    .same_as = same_as,
    .block = block,
};
