/* The point with the least sum of distances to all models. */
#include "merge/method.h"

#include <math.h>

enum { MAX_ITERATIONS = 100 };

/* The distance of input i from the combination c. */
static double distance(const double *c, const double *gram, size_t n, size_t i) {
    double squared = gram[i * n + i];
    for (size_t j = 0; j < n; j++) {
        squared -= 2 * c[j] * gram[i * n + j];
        for (size_t k = 0; k < n; k++) squared += c[j] * c[k] * gram[j * n + k];
    }
    return sqrt(fmax(0, squared));
}

static void combine(const ck_arguments *args, const double *gram, double *c) {
    size_t n = args->inputs;
    double last = INFINITY;
    for (size_t i = 0; i < n; i++) c[i] = 1 / (double)n;
    for (int iteration = 0; iteration < MAX_ITERATIONS; iteration++) {
        double weights[CK_MAX_INPUTS], sum = 0, total = 0;
        for (size_t i = 0; i < n; i++) {
            double d = distance(c, gram, n, i);
            total += d;
            weights[i] = 1 / fmax(d, 1e-6);
            sum += weights[i];
        }
        for (size_t i = 0; i < n; i++) c[i] = weights[i] / sum;
        if (fabs(last - total) <= 1e-12 * total) break;
        last = total;
    }
}

extern const ck_method ck_geometric_median;
const ck_method ck_geometric_median = {
    .name = "geometric-median",
    .title = "Geometric median",
    .formula = "the X with the least |A - X| + |B - X| + ...",
    .doc =
        "Each tensor as one vector: a mean that one model far off cannot drag along. By "
        "Weiszfeld's "
        "iteration in f64, at most 100 steps. sd-mecha's stops earlier, when the f32 sum does not "
        "change. For a tensor that a model lacks, the first stands in.",
    .min_inputs = 2,
    .first_stands_in = true,
    .combine = combine,
};
