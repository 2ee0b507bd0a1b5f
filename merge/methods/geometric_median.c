/* The point with the least sum of distances to all models. */
#include "merge/method.h"

#include <math.h>

enum { MAX_ITERATIONS = 100 };
enum { MECHA = 1 };

/* The distance of input i from the combination c. */
static double distance(const double *c, const double *gram, size_t n, size_t i) {
    double squared = gram[i * n + i];
    for (size_t j = 0; j < n; j++) {
        squared -= 2 * c[j] * gram[i * n + j];
        for (size_t k = 0; k < n; k++) squared += c[j] * c[k] * gram[j * n + k];
    }
    return sqrt(fmax(0, squared));
}

/* Of f32, in the last place of x > 0. */
static double unit(float x) {
    return (double)(nextafterf(x, INFINITY) - x);
}

static void combine(const ck_arguments *args, const double *gram, double *c) {
    size_t n = args->inputs;
    double last = 0;
    for (size_t i = 0; i < n; i++) c[i] = 1 / (double)n;
    for (int iteration = 0; iteration < MAX_ITERATIONS; iteration++) {
        double weights[CK_MAX_INPUTS], sum = 0, total = 0;
        for (size_t i = 0; i < n; i++) {
            double d = distance(c, gram, n, i);
            total += d;
            weights[i] = 1 / fmax(d, 1e-6);
            sum += weights[i];
        }
        /* (total is that of the place before this step.) */
        double least =
            args->compat == MECHA ? unit((float)(total / (double)n)) * (double)n : 1e-12 * total;
        bool stalls = fabs(last - total) <= least;
        if (iteration > 0 && stalls) break;
        for (size_t i = 0; i < n; i++) c[i] = weights[i] / sum;
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
        "Weiszfeld's iteration in f64, at most 100 steps. sd-mecha's, in f32, and --compat mecha, "
        "stops earlier, when the mean distance changes by less than a unit in the last place of "
        "f32. For a tensor that a model lacks, the first stands in.",
    .min_inputs = 2,
    .compat = "mecha",
    .first_stands_in = true,
    .combine = combine,
};
