/* A weighted sum undone. */
#include "merge/method.h"

enum { ALPHA, BETA };

static double product(const ck_value *v) {
    return v[ALPHA].items[0] * v[BETA].items[0];
}

static ck_status check(const ck_arguments *args, ck_error *err) {
    const ck_value *v = args->values;
    if (product(v) == 1)
        return ck_fail(err, CK_USAGE,
                       "weighted-subtraction: alpha times beta is 1, which leaves nothing");
    return CK_OK;
}

static int same_as(const ck_value *v, size_t inputs) {
    (void)inputs;
    return product(v) == 0 ? 0 : -1;
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    const ck_value *v = args->values;
    double p = product(v);
    k->scale(out, in[0], (float)(1 / (1 - p)), n);
    k->accumulate(out, in[1], (float)(-p / (1 - p)), n);
}

extern const ck_method ck_weighted_subtraction;
const ck_method ck_weighted_subtraction = {
    .name = "weighted-subtraction",
    .title = "Weighted subtraction",
    .formula = "(A - alpha beta B) / (1 - alpha beta)",
    .doc =
        "The model that, mixed with B at alpha beta, gives A. As meh has it, but alpha beta = 1 is "
        "refused instead of divided by nearly zero. A tensor that B lacks is A's.",
    .min_inputs = 2,
    .max_inputs = 2,
    .parameters = {{.name = "alpha", .fallback = 0.5, .help = "share of B in A"},
                   {.name = "beta", .fallback = 1, .help = "how much of that is taken out"}},
    .check = check,
    .same_as = same_as,
    .block = block,
};
