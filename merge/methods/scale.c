/* A model times a number. */
#include "merge/method.h"

static int same_as(const ck_value *v, size_t inputs) {
    (void)inputs;
    return v[0].items[0] == 1 ? 0 : -1;
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    const ck_value *v = args->values;
    k->scale(out, in[0], (float)v[0].items[0], n);
}

extern const ck_method ck_scale, ck_passthrough;
const ck_method ck_scale = {
    .name = "scale",
    .title = "Scale",
    .formula = "scale A",
    .doc =
        "With scale 1 (the default) A as it is, which together with rules passes parts of models "
        "through. For use inside expressions.",
    .min_inputs = 1,
    .max_inputs = 1,
    .parameters = {{.name = "scale", .fallback = 1, .help = "the factor"}},
    .same_as = same_as,
    .block = block,
};

/* Under the name that mergekit has for it. */
const ck_method ck_passthrough = {
    .name = "passthrough",
    .title = "Passthrough",
    .formula = "scale A",
    .doc = "The same as scale, under mergekit's name.",
    .min_inputs = 1,
    .max_inputs = 1,
    .parameters = {{.name = "scale", .fallback = 1, .help = "the factor"}},
    .same_as = same_as,
    .block = block,
};
