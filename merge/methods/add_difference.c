/* Add difference: what B learned over C, added to A. */
#include "merge/method.h"
#include "merge/methods/stored.h"

enum { A1111 = 1, SUPERMERGER };

static int same_as(const ck_value *values, size_t inputs) {
    (void)inputs;
    return values[0].items[0] == 0 ? 0 : -1;
}

/* As the web UIs compute it: the difference, its product and the sum are rounded. */
static void rounded(const ck_kernels *k, const ck_arguments *args, const float *const *in,
                    float *out, size_t n) {
    ck_dtype a = ck_stored(args, 0), b = ck_stored(args, 1), c = ck_stored(args, 2);
    ck_dtype d = args->compat == A1111 ? ck_stored_sum(b, c) : b;
    for (size_t i = 0; i < n; i++) out[i] = in[1][i] - in[2][i];
    ck_stored_round(k, d, out, n);
    k->scale(out, out, (float)args->values[0].items[0], n);
    ck_stored_round(k, d, out, n);
    for (size_t i = 0; i < n; i++) out[i] += in[0][i];
    ck_stored_round(k, ck_stored_sum(a, d), out, n);
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    const ck_value *values = args->values;
    if (args->compat)
        rounded(k, args, in, out, n);
    else
        k->add_difference(out, in[0], in[1], in[2], (float)values[0].items[0], n);
}

extern const ck_method ck_add_difference;
const ck_method ck_add_difference = {
    .name = "add-difference",
    .title = "Add difference",
    .formula = "A + alpha (B - C)",
    .doc =
        "C is usually the model that B was trained from. Difference and sum are made in f32 and "
        "rounded once; the web UIs, and --compat a1111 and supermerger, round the difference, its "
        "product with alpha and the sum to the type in which the models are stored, which costs "
        "up to 2 units in the last place of f16. (The two differ where B and C are of different "
        "types: the difference then is f32, or of B's type.) A tensor that B or C lacks is A's.",
    .min_inputs = 3,
    .max_inputs = 3,
    .parameters = {{.name = "alpha", .fallback = 1, .help = "strength of the difference"}},
    .compat = "a1111|supermerger",
    .same_as = same_as,
    .block = block,
};
