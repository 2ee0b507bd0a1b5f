/* Weighted sum of two models. */
#include "merge/method.h"

enum { COMFY = 1 };

static int same_as(const ck_value *values, size_t inputs) {
    (void)inputs;
    double alpha = values[0].items[0];
    return alpha == 0 ? 0 : alpha == 1 ? 1 : -1;
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    double alpha = args->values[0].items[0];
    k->lerp(out, in[0], in[1], (float)(args->compat == COMFY ? 1 - alpha : alpha), n);
}

extern const ck_method ck_weighted_sum;
const ck_method ck_weighted_sum = {
    .name = "weighted-sum",
    .title = "Weighted sum",
    .formula = "(1 - alpha) A + alpha B",
    .doc =
        "alpha is the share of B. alpha 0 gives A's bytes, alpha 1 gives B's values in A's dtype, "
        "and where A and B agree the result is exactly that value. Computed as torch.lerp does, "
        "in f32. The same as 'Weighted sum' of the web UIs; node-graph tools count the other way "
        "round (their ratio is the share of A), and so does --compat comfy.",
    .min_inputs = 2,
    .max_inputs = 2,
    .parameters = {{.name = "alpha", .fallback = 0.5, .help = "share of B; 0 is A, 1 is B"}},
    .compat = "comfy",
    .same_as = same_as,
    .block = block,
};
