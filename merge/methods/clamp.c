/* A kept within what the other models say. */
#include "merge/method.h"
#include "merge/methods/vectors.h"

#include <string.h>

/* Makes low and high hold x[n] too. */
CK_VECTORS static void widen(float *low, float *high, const float *x, size_t n) {
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        low[i] = x[i] < low[i] ? x[i] : low[i];
        high[i] = x[i] > high[i] ? x[i] : high[i];
    }
}

CK_VECTORS static void limit(float *out, const float *x, const float *low, const float *high,
                             size_t n) {
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        float raised = x[i] < low[i] ? low[i] : x[i];
        out[i] = raised > high[i] ? high[i] : raised;
    }
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    (void)k;
    _Alignas(64) float low[CK_STRIP], high[CK_STRIP];
    memcpy(low, in[1], n * sizeof *low);
    memcpy(high, in[1], n * sizeof *high);
    for (size_t m = 2; m < args->inputs; m++) widen(low, high, in[m], n);
    limit(out, in[0], low, high, n);
}

extern const ck_method ck_clamp;
const ck_method ck_clamp = {
    .name = "clamp",
    .title = "Clamp",
    .formula = "min(max(A, min(B, C, ...)), max(B, C, ...))",
    .doc =
        "Limits the first input, usually an expression, to the range of the others: what meh calls "
        "weights_clip when they are the models that were merged. For a tensor that another model "
        "lacks, the first stands in.",
    .min_inputs = 3,
    .first_stands_in = true,
    .block = block,
};
