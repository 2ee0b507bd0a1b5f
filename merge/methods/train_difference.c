/* Add difference, stronger where A and B differ from C in the same measure. */
#include "merge/method.h"
#include "merge/methods/vectors.h"

#include <math.h>

static int same_as(const ck_value *v, size_t inputs) {
    (void)inputs;
    return v[0].items[0] == 0 ? 0 : -1;
}

CK_VECTORS static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in,
                             float *out, size_t n) {
    const ck_value *v = args->values;
    (void)k;
    float strength = (float)(1.8 * v[0].items[0]);
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        float a = in[0][i], b = in[1][i], c = in[2][i];
        float learned = fabsf(b - c), apart = fabsf(b - a), both = learned + apart;
        float share = both == 0 ? 0 : apart / both;
        out[i] = a + strength * share * (b - c);
    }
}

extern const ck_method ck_train_difference;
const ck_method ck_train_difference = {
    .name = "train-difference",
    .title = "Train difference",
    .formula = "A + 1.8 alpha s (B - C), s = |B - A| / (|B - C| + |B - A|)",
    .doc =
        "Adds what B learned over C as if A had been trained on it: less where A is there already. "
        "As supermerger has it. A tensor that B or C lacks is A's.",
    .min_inputs = 3,
    .max_inputs = 3,
    .parameters = {{.name = "alpha", .fallback = 1, .help = "strength of the difference"}},
    .same_as = same_as,
    .block = block,
};
