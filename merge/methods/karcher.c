/* The Karcher mean: the direction with the least squared angles to all models. */
#include "merge/method.h"

#include <math.h>

enum { MAX_ITERATIONS = 10 };
static const double tolerance = 1e-5;

/* sum of a[i] b[j] cosines[i][j]: the inner product of two combinations of unit vectors. */
static double product(const double *a, const double *b, const double *gram, const double *norms,
                      size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            if (norms[i] > 0 && norms[j] > 0)
                sum += a[i] * b[j] * gram[i * n + j] / (norms[i] * norms[j]);
    return sum;
}

/* One step along the mean of the directions to all models; returns its length. */
static double step(double *mean, const double *gram, const double *norms, size_t n, double share) {
    double tangent[CK_MAX_INPUTS] = {0};
    for (size_t i = 0; i < n; i++) {
        double unit[CK_MAX_INPUTS] = {0};
        unit[i] = 1;
        if (norms[i] == 0) continue;
        double cosine = fmax(-1, fmin(1, product(mean, unit, gram, norms, n)));
        double angle = acos(cosine);
        if (angle < tolerance) continue;
        double factor = share * angle / sin(angle);
        for (size_t j = 0; j < n; j++) tangent[j] += factor * (unit[j] - cosine * mean[j]);
    }
    double length = sqrt(fmax(0, product(tangent, tangent, gram, norms, n)));
    if (length < tolerance) return length;
    for (size_t j = 0; j < n; j++)
        mean[j] = cos(length) * mean[j] + sin(length) * tangent[j] / length;
    double again = sqrt(product(mean, mean, gram, norms, n));
    for (size_t j = 0; j < n; j++) mean[j] /= again;
    return length;
}

static void combine(const ck_arguments *args, const double *gram, double *c) {
    size_t n = args->inputs;
    double norms[CK_MAX_INPUTS] = {0}, length = 0;
    size_t counted = 0;
    for (size_t i = 0; i < n; i++) {
        norms[i] = sqrt(gram[i * n + i]);
        length += norms[i];
        counted += norms[i] > 0;
    }
    for (size_t i = 0; i < n; i++) c[i] = norms[i] > 0 ? 1 : 0;
    double start = sqrt(fmax(0, product(c, c, gram, norms, n)));
    /* All zero, or directions that cancel out: the mean. */
    if (start < 1e-8) {
        for (size_t i = 0; i < n; i++) c[i] = 1 / (double)n;
        return;
    }
    for (size_t i = 0; i < n; i++) c[i] /= start;
    for (int i = 0; i < MAX_ITERATIONS; i++)
        if (step(c, gram, norms, n, 1 / (double)counted) < tolerance) break;
    for (size_t i = 0; i < n; i++)
        c[i] = norms[i] > 0 ? c[i] * length / (double)counted / norms[i] : 0;
}

extern const ck_method ck_karcher;
const ck_method ck_karcher = {
    .name = "karcher",
    .title = "Karcher mean",
    .formula = "u (|A| + |B| + ...) / n, u the unit vector with the least squared angles to all",
    .doc =
        "Each tensor as one vector; tensors of zeros do not count. As mergekit's karcher: at most "
        "10 "
        "steps, until one is shorter than 1e-5. For a tensor that a model lacks, the first stands "
        "in.",
    .min_inputs = 2,
    .first_stands_in = true,
    .combine = combine,
};
