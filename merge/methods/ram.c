/* Keeps what only one of several models changed as it is, and averages what several did. */
#include "merge/method.h"

#include <math.h>

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    (void)k;
    float least = (float)args->values[0].items[0];
    for (size_t i = 0; i < n; i++) {
        float base = in[0][i], sum = 0, count = 0;
        for (size_t m = 1; m < args->inputs; m++) {
            float change = in[m][i] - base;
            bool changed = fabsf(change) > least;
            sum += changed ? change : 0;
            count += changed;
        }
        out[i] = count > 0 ? base + sum / count : base;
    }
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
