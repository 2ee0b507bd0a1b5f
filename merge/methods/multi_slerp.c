/* The mean direction of any number of models, with their mean length; or of what they learned over
 * a base. */
#include "merge/method.h"
#include "merge/methods/gram.h"

#include <math.h>

enum { WEIGHT };

static ck_status check(const ck_arguments *args, ck_error *err) {
    const ck_value *v = args->values;
    double sum = 0;
    for (size_t i = 0; i < v[WEIGHT].count; i++) sum += v[WEIGHT].items[i];
    if (sum == 0) return ck_fail(err, CK_USAGE, "multi-slerp: the weights add up to 0");
    return CK_OK;
}

/* The coefficients of so many vectors, whose products of pairs are in gram. */
static void mean_direction(const double *weights, size_t vectors, const double *gram, double *c) {
    double sum = 0, length = 0, squared = 0;
    for (size_t i = 0; i < vectors; i++) sum += weights[i];
    for (size_t i = 0; i < vectors; i++) {
        double norm = sqrt(fmax(gram[i * vectors + i], 0)), weight = weights[i] / sum;
        length += weight * norm;
        c[i] = norm > 0 ? weight / norm : 0;
    }
    for (size_t i = 0; i < vectors; i++)
        for (size_t j = 0; j < vectors; j++) squared += c[i] * c[j] * gram[i * vectors + j];
    /* Directions that cancel out have no mean: the weighted sum instead. */
    if (squared < 1e-16)
        for (size_t i = 0; i < vectors; i++) c[i] = weights[i] / sum;
    else
        for (size_t i = 0; i < vectors; i++) c[i] *= length / sqrt(squared);
}

static void combine(const ck_arguments *args, const double *gram, double *c) {
    mean_direction(args->values[WEIGHT].items, args->inputs, gram, c);
}

/* Of what the models are away from the base, which is input 0. */
static void combine_changes(const ck_arguments *args, const double *gram, double *c) {
    double changes[CK_MAX_INPUTS * CK_MAX_INPUTS] = {0};
    size_t n = args->inputs, models = n - 1;
    for (size_t i = 0; i < models; i++)
        for (size_t j = 0; j < models; j++)
            changes[i * models + j] = ck_change_product(gram, n, i + 1, j + 1);
    mean_direction(args->values[WEIGHT].items, models, changes, c + 1);
    c[0] = 1;
    for (size_t i = 1; i < n; i++) c[0] -= c[i];
}

#define WEIGHTS                                                                                    \
    {                                                                                              \
        { .name = "weight", .fallback = 1, .list = true, .help = "one weight per model" }          \
    }

extern const ck_method ck_multi_slerp;
const ck_method ck_multi_slerp = {
    .name = "multi-slerp",
    .title = "Multi-SLERP",
    .formula =
        "m / |m| (w1 |A| + w2 |B| + ...), m = w1 A / |A| + w2 B / |B| + ..., weights of sum 1",
    .doc = "Each tensor as one vector. As mergekit's multislerp without a base, whose further step "
           "in the tangent plane is zero up to rounding. Directions that cancel out give the "
           "weighted sum. For a tensor that a model lacks, the first stands in.",
    .min_inputs = 2,
    .parameters = WEIGHTS,
    .first_stands_in = true,
    .check = check,
    .combine = combine,
};

extern const ck_method ck_multi_slerp_of_changes;
const ck_method ck_multi_slerp_of_changes = {
    .name = "multi-slerp-of-changes",
    .title = "Multi-SLERP of changes",
    .formula = "BASE + multi-slerp(A - BASE, B - BASE, ...)",
    .doc = "The base is the first model (or --base). As mergekit's multislerp with a base; see "
           "multi-slerp. For a tensor that a model lacks, the base stands in.",
    .min_inputs = 3,
    .parameters = WEIGHTS,
    .has_base = true,
    .first_stands_in = true,
    .check = check,
    .combine = combine_changes,
};
