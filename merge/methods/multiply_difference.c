/* The geometric mean of two differences. */
#include "merge/method.h"
#include "merge/methods/exact.h"

enum { ALPHA, BETA };

static ck_status check(const ck_value *v, size_t inputs, ck_error *err) {
    (void)inputs;
    double alpha = v[ALPHA].items[0];
    if (!(alpha >= 0 && alpha <= 1))
        return ck_fail(err, CK_USAGE, "multiply-difference: alpha %g: must be from 0 to 1", alpha);
    return CK_OK;
}

/* x^(1 - alpha) y^alpha, where 0^0 is 1. */
static double mean(double x, double y, double alpha) {
    if (alpha == 0) return x;
    if (alpha == 1) return y;
    if (x == 0 || y == 0) return 0;
    return ck_exp((1 - alpha) * ck_log(x) + alpha * ck_log(y));
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    (void)k;
    double alpha = args->values[ALPHA].items[0];
    float beta = (float)args->values[BETA].items[0];
    for (size_t i = 0; i < n; i++) {
        float a = in[0][i], b = in[1][i], c = in[2][i];
        float size = (float)mean(fabs((double)(a - c)), fabs((double)(b - c)), alpha);
        out[i] = c + copysignf(size, (1 - beta) * a + beta * b - c);
    }
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
