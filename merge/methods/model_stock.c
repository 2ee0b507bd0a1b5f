/* Model stock: as far from the base as several fine-tunes agree. */
#include "merge/method.h"

#include <math.h>

/* The inner product of x_i - base and x_j - base; the base is input 0. */
static double difference(const double *gram, size_t n, size_t i, size_t j) {
    return gram[i * n + j] - gram[i * n] - gram[j * n] + gram[0];
}

static void combine(const ck_arguments *args, const double *gram, double *c) {
    size_t n = args->inputs;
    size_t models = n - 1, pairs = 0;
    double cosine = 0;
    for (size_t i = 1; i < n; i++)
        for (size_t j = 1; j < i; j++, pairs++) {
            double lengths =
                sqrt(fmax(0, difference(gram, n, i, i))) * sqrt(fmax(0, difference(gram, n, j, j)));
            if (lengths > 0) cosine += fmax(-1, fmin(1, difference(gram, n, i, j) / lengths));
        }
    cosine /= (double)pairs;
    double divisor = 1 + (double)(models - 1) * cosine;
    double t = divisor > 0 ? (double)models * cosine / divisor : 0;
    c[0] = 1 - t;
    for (size_t i = 1; i < n; i++) c[i] = t / (double)models;
}

extern const ck_method ck_model_stock;
const ck_method ck_model_stock = {
    .name = "model-stock",
    .title = "Model Stock",
    .formula = "t mean(A, B, ...) + (1 - t) BASE, t = n c / (1 + (n - 1) c), c the mean cosine of "
               "A - BASE, "
               "B - BASE, ...",
    .doc = "The base is the first model (or --base). Each tensor as one vector; the cosine is the "
           "mean over "
           "all pairs, as in the paper and mergekit (sd-mecha takes neighbours only). For a tensor "
           "that "
           "a model lacks, the base stands in.",
    .min_inputs = 3,
    .has_base = true,
    .first_stands_in = true,
    .combine = combine,
};
