/* Add difference: what B learned over C, added to A. */
#include "merge/method.h"

static int same_as(const ck_value *values, size_t inputs) {
    (void)inputs;
    return values[0].items[0] == 0 ? 0 : -1;
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    const ck_value *values = args->values;
    k->add_difference(out, in[0], in[1], in[2], (float)values[0].items[0], n);
}

extern const ck_method ck_add_difference;
const ck_method ck_add_difference = {
    .name = "add-difference",
    .title = "Add difference",
    .formula = "A + alpha (B - C)",
    .doc = "C is usually the model that B was trained from. Difference and sum are made in f32 and "
           "rounded once; the web UIs round the difference to the stored type first, which costs "
           "up to 2 units in the last place of f16. A tensor that B or C lacks is A's.",
    .min_inputs = 3,
    .max_inputs = 3,
    .parameters = {{.name = "alpha", .fallback = 1, .help = "strength of the difference"}},
    .same_as = same_as,
    .block = block,
};
