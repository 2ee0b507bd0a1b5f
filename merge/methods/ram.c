/* Keeps what only one of several models changed as it is, and averages what several did. */
#include "merge/method.h"
#include "merge/methods/vectors.h"

#include <math.h>

CK_VECTORS static void add_changes(const float *base, const float *x, float least, float *sum,
                                   float *count, size_t n) {
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        float change = x[i] - base[i], changed = fabsf(change) > least ? 1.0f : 0.0f;
        sum[i] += changed != 0 ? change : 0.0f;
        count[i] += changed;
    }
}

CK_VECTORS static void add_mean(const float *base, const float *sum, const float *count, float *out,
                                size_t n) {
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        out[i] = count[i] > 0 ? base[i] + sum[i] / (count[i] > 0 ? count[i] : 1.0f) : base[i];
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    (void)k;
    float least = (float)args->values[0].items[0];
    _Alignas(64) float sum[CK_STRIP] = {0}, count[CK_STRIP] = {0};
    for (size_t m = 1; m < args->inputs; m++) add_changes(in[0], in[m], least, sum, count, n);
    add_mean(in[0], sum, count, out, n);
}

extern const ck_method ck_ram;
const ck_method ck_ram = {
    .name = "ram",
    .title = "RAM",
    .formula = "BASE + the mean of those changes A - BASE, B - BASE, ... that are larger than "
               "least, 0 if none is",
    .doc = "The base is the first model (or --base). Element by element. As mergekit's ram; its "
           "second form, which makes unique changes larger, is not done. For a tensor that a model "
           "lacks, the base stands in.",
    .min_inputs = 2,
    .parameters = {{.name = "least",
                    .fallback = 1e-5,
                    .help = "a change of at most this counts as none"}},
    .has_base = true,
    .first_stands_in = true,
    .block = block,
};
