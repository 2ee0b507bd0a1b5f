/* Add difference, stronger where A and B differ from C in the same measure. */
#include "merge/method.h"
#include "merge/methods/stored.h"
#include "merge/methods/vectors.h"

#include <math.h>

static int same_as(const ck_value *v, size_t inputs) {
    (void)inputs;
    return v[0].items[0] == 0 ? 0 : -1;
}

CK_VECTORS static void add(const float *const *in, float strength, float *out, size_t n) {
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        float a = in[0][i], b = in[1][i], c = in[2][i];
        float learned = fabsf(b - c), apart = fabsf(b - a), both = learned + apart;
        float share = both == 0 ? 0 : apart / both;
        out[i] = a + strength * share * (b - c);
    }
}

/* As supermerger computes it: what is added, and the sum, are rounded to A's type. */
static void rounded(const ck_kernels *k, const ck_arguments *args, const float *const *in,
                    float strength, float *out, size_t n) {
    for (size_t i = 0; i < n; i++) {
        float a = in[0][i], b = in[1][i], c = in[2][i];
        float learned = fabsf(b - c), apart = fabsf(b - a), both = learned + apart;
        out[i] = (both == 0 ? 0 : apart / both) * (b - c) * strength;
    }
    ck_stored_round(k, ck_stored(args, 0), out, n);
    for (size_t i = 0; i < n; i++) out[i] += in[0][i];
    ck_stored_round(k, ck_stored(args, 0), out, n);
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    float strength = (float)(1.8 * args->values[0].items[0]);
    if (args->compat)
        rounded(k, args, in, strength, out, n);
    else
        add(in, strength, out, n);
}

extern const ck_method ck_train_difference;
const ck_method ck_train_difference = {
    .name = "train-difference",
    .title = "Train difference",
    .formula = "A + 1.8 alpha s (B - C), s = |B - A| / (|B - C| + |B - A|)",
    .doc =
        "Adds what B learned over C as if A had been trained on it: less where A is there already. "
        "As supermerger has it, which, as --compat supermerger, rounds what is added and the sum "
        "to "
        "the type in which A is stored. A tensor that B or C lacks is A's.",
    .min_inputs = 3,
    .max_inputs = 3,
    .parameters = {{.name = "alpha", .fallback = 1, .help = "strength of the difference"}},
    .compat = "supermerger",
    .same_as = same_as,
    .block = block,
};
