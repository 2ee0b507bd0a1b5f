/* A kept within what the other models say. */
#include "merge/method.h"

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    (void)k;
    for (size_t i = 0; i < n; i++) {
        float low = in[1][i], high = in[1][i], x = in[0][i];
        for (size_t m = 2; m < args->inputs; m++) {
            low = in[m][i] < low ? in[m][i] : low;
            high = in[m][i] > high ? in[m][i] : high;
        }
        out[i] = x < low ? low : x > high ? high : x;
    }
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
