/* The geometric mean of two differences. */
#include "merge/method.h"
#include "merge/methods/exact.h"
#include "merge/methods/vectors.h"

enum { ALPHA, BETA };

static ck_status check(const ck_value *v, size_t inputs, ck_error *err) {
    (void)inputs;
    double alpha = v[ALPHA].items[0];
    if (!(alpha >= 0 && alpha <= 1))
        return ck_fail(err, CK_USAGE, "multiply-difference: alpha %g: must be from 0 to 1", alpha);
    return CK_OK;
}

enum { RUN = 256 };

/* size = x^(1 - alpha) y^alpha, for x and y >= 0 */
CK_VECTORS static void mean(const double *x, const double *y, double alpha, double *size) {
#pragma omp simd
    for (size_t i = 0; i < RUN; i++) {
        double between = ck_exp((1 - alpha) * ck_log(x[i]) + alpha * ck_log(y[i]));
        size[i] = ((x[i] == 0) | (y[i] == 0)) ? 0 : between;
    }
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    (void)k;
    double alpha = args->values[ALPHA].items[0];
    float beta = (float)args->values[BETA].items[0];
    double x[RUN] = {0}, y[RUN] = {0}, between[RUN];
    for (size_t at = 0; at < n; at += RUN) {
        size_t count = n - at < RUN ? n - at : RUN;
        const float *a = in[0] + at, *b = in[1] + at, *c = in[2] + at;
        for (size_t i = 0; i < count; i++) x[i] = fabs((double)(a[i] - c[i]));
        for (size_t i = 0; i < count; i++) y[i] = fabs((double)(b[i] - c[i]));
        mean(x, y, alpha, between);
        /* At the ends it is one of them, also where the other is 0. */
        const double *size = alpha == 0 ? x : alpha == 1 ? y : between;
        for (size_t i = 0; i < count; i++)
            out[at + i] = c[i] + copysignf((float)size[i], (1 - beta) * a[i] + beta * b[i] - c[i]);
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
