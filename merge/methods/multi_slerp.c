/* The mean direction of any number of models, with their mean length. */
#include "merge/method.h"

#include <math.h>

enum { WEIGHT };

static ck_status check(const ck_arguments *args, ck_error *err) {
    const ck_value *v = args->values;
    double sum = 0;
    for (size_t i = 0; i < args->inputs; i++) sum += v[WEIGHT].items[i];
    if (sum == 0) return ck_fail(err, CK_USAGE, "multi-slerp: the weights add up to 0");
    return CK_OK;
}

static void combine(const ck_arguments *args, const double *gram, double *c) {
    const ck_value *v = args->values;
    size_t inputs = args->inputs;
    double sum = 0, length = 0, squared = 0;
    for (size_t i = 0; i < inputs; i++) sum += v[WEIGHT].items[i];
    for (size_t i = 0; i < inputs; i++) {
        double norm = sqrt(gram[i * inputs + i]), weight = v[WEIGHT].items[i] / sum;
        length += weight * norm;
        c[i] = norm > 0 ? weight / norm : 0;
    }
    for (size_t i = 0; i < inputs; i++)
        for (size_t j = 0; j < inputs; j++) squared += c[i] * c[j] * gram[i * inputs + j];
    /* Directions that cancel out have no mean: the weighted sum instead. */
    if (squared < 1e-16)
        for (size_t i = 0; i < inputs; i++) c[i] = v[WEIGHT].items[i] / sum;
    else
        for (size_t i = 0; i < inputs; i++) c[i] *= length / sqrt(squared);
}

extern const ck_method ck_multi_slerp;
const ck_method ck_multi_slerp = {
    .name = "multi-slerp",
    .title = "Multi-SLERP",
    .formula =
        "m / |m| (w1 |A| + w2 |B| + ...), m = w1 A / |A| + w2 B / |B| + ..., weights of sum 1",
    .doc = "Each tensor as one vector. As mergekit's multislerp without a base, whose further step "
           "in the "
           "tangent plane is zero up to rounding. Directions that cancel out give the weighted "
           "sum. For "
           "a tensor that a model lacks, the first stands in.",
    .min_inputs = 2,
    .parameters = {{.name = "weight", .fallback = 1, .list = true, .help = "one weight per model"}},
    .first_stands_in = true,
    .check = check,
    .combine = combine,
};
