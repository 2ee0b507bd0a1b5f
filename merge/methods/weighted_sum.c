/* Weighted sum of two models. */
#include "merge/method.h"
#include "merge/methods/stored.h"

enum { COMFY = 1, A1111 };

static int same_as(const ck_value *values, size_t inputs) {
    (void)inputs;
    double alpha = values[0].items[0];
    return alpha == 0 ? 0 : alpha == 1 ? 1 : -1;
}

/* As the web UI computes it: both products and the sum are rounded. */
static void rounded(const ck_kernels *k, const ck_arguments *args, const float *const *in,
                    float *out, size_t n) {
    double alpha = args->values[0].items[0];
    ck_dtype a = ck_stored(args, 0), b = ck_stored(args, 1);
    float product[CK_STRIP];
    k->scale(out, in[0], (float)(1 - alpha), n);
    k->scale(product, in[1], (float)alpha, n);
    ck_stored_round(k, a, out, n);
    ck_stored_round(k, b, product, n);
    k->accumulate(out, product, 1, n);
    ck_stored_round(k, ck_stored_sum(a, b), out, n);
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    double alpha = args->values[0].items[0];
    if (args->compat == A1111)
        rounded(k, args, in, out, n);
    else
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
        "in f32. The same as 'Weighted sum' of the web UIs, but that the first of them, and "
        "--compat "
        "a1111, rounds both products and the sum to the type in which the models are stored; "
        "node-graph tools count the other way round (their ratio is the share of A), and so does "
        "--compat comfy.",
    .min_inputs = 2,
    .max_inputs = 2,
    .parameters = {{.name = "alpha", .fallback = 0.5, .help = "share of B; 0 is A, 1 is B"}},
    .compat = "comfy|a1111",
    .same_as = same_as,
    .block = block,
};
