/* The geometric mean of two differences. */
#include "merge/method.h"
#include "merge/methods/vectors.h"

#include <math.h>

enum { ALPHA, BETA };

static ck_status check(const ck_arguments *args, ck_error *err) {
    const ck_value *v = args->values;
    double alpha = v[ALPHA].items[0];
    if (!(alpha >= 0 && alpha <= 1))
        return ck_fail(err, CK_USAGE, "multiply-difference: alpha %g: must be from 0 to 1", alpha);
    return CK_OK;
}

/* At the ends the size is one of the distances, also where the other is 0. */
CK_VECTORS static void end(const float *a, const float *b, const float *c, const float *nearest,
                           float beta, float *out, size_t n) {
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        out[i] = c[i] + copysignf(nearest[i] - c[i], (1 - beta) * a[i] + beta * b[i] - c[i]);
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    double alpha = args->values[ALPHA].items[0];
    float beta = (float)args->values[BETA].items[0];
    if (alpha == 0.5)
        k->multiply_difference(out, in[0], in[1], in[2], beta, n);
    else if (alpha == 0 || alpha == 1)
        end(in[0], in[1], in[2], in[(int)alpha], beta, out, n);
    else
        k->geometric_difference(out, in[0], in[1], in[2], alpha, beta, n);
}

extern const ck_method ck_multiply_difference;
const ck_method ck_multiply_difference = {
    .name = "multiply-difference",
    .title = "Multiply difference",
    .formula = "C + s |A - C|^(1 - alpha) |B - C|^alpha, s the sign of (1 - beta) A + beta B - C",
    .doc = "Element by element: what both models changed of C stays, what only one changed goes. "
           "As meh has it. A tensor that B or C lacks is A's.",
    .min_inputs = 3,
    .max_inputs = 3,
    .parameters = {{.name = "alpha", .fallback = 0.5, .help = "share of B in the size"},
                   {.name = "beta", .fallback = 0.5, .help = "share of B in the sign"}},
    .check = check,
    .block = block,
};
