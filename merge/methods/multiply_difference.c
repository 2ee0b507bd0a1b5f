/* The geometric mean of two differences. */
#include "merge/method.h"
#include "merge/methods/exact.h"
#include "merge/methods/vectors.h"

#include <math.h>

enum { ALPHA, BETA };

static ck_status check(const ck_value *v, size_t inputs, ck_error *err) {
    (void)inputs;
    double alpha = v[ALPHA].items[0];
    if (!(alpha >= 0 && alpha <= 1))
        return ck_fail(err, CK_USAGE, "multiply-difference: alpha %g: must be from 0 to 1", alpha);
    return CK_OK;
}

enum { RUN = 256 };

/* y (x / y)^w of positive f32 (which as f64 are never subnormal), 0 <= w <= 1, off by less than
 * 1e-10 relative, with one division: x / y = 2^e (1 + f) / (1 - f), whose logarithm is e ln 2 + 2
 * artanh f. */
CK_INLINE double between(double x, double y, double w) {
    double mx, my, ex, ey;
    ck_split(x, &mx, &ex);
    ck_split(y, &my, &ey);
    bool small = mx<my * 0x1.6a09e667f3bcdp-1, large = mx * 0x1.6a09e667f3bcdp-1> my;
    mx = small ? mx * 2 : large ? mx * 0.5 : mx;
    double e = ex - ey + (small ? -1.0 : large ? 1.0 : 0.0);
    double f = (mx - my) / (mx + my), s = f * f, s2 = s * s;
    double p = (1 + s * (1. / 3)) + s2 * ((1. / 5 + s * (1. / 7)) + s2 * (1. / 9 + s * (1. / 11)));
    double t = w * (e * 0x1.62e42fefa39efp-1 + 2 * f * p);
    /* e^t = 2^k e^r */
    double k = floor(t * 0x1.71547652b82fep+0 + 0.5), r = t - k * 0x1.62e42fefa39efp-1;
    double r2 = r * r, r4 = r2 * r2;
    double q = (1 + r) + r2 * (1. / 2 + r * (1. / 6)) +
               r4 * ((1. / 24 + r * (1. / 120)) + r2 * (1. / 720 + r * (1. / 5040)) +
                     r4 * (1. / 40320 + r * (1. / 362880)));
    return y * (q * ck_power_of_two(k));
}

/* size = x^(1 - alpha) y^alpha, for x and y >= 0 */
CK_VECTORS static void mean(const double *x, const double *y, double alpha, double *size) {
#pragma omp simd
    for (size_t i = 0; i < RUN; i++) {
        double sum = x[i] + y[i], product = between(x[i], y[i], 1 - alpha);
        product = sum - sum == 0 ? product : sum; /* infinite, or no number */
        size[i] = ((x[i] == 0) | (y[i] == 0)) ? 0 : product;
    }
}

/* The same for alpha 1/2, twice as fast. (The product of two f32 is exact in f64.) */
CK_VECTORS static void middle(const double *x, const double *y, double *size) {
#pragma omp simd
    for (size_t i = 0; i < RUN; i++) size[i] = sqrt(x[i] * y[i]);
}

CK_VECTORS static void distance(const float *a, const float *c, double *size, size_t n) {
#pragma omp simd
    for (size_t i = 0; i < n; i++) size[i] = (double)fabsf(a[i] - c[i]);
}

CK_VECTORS static void step(const float *a, const float *b, const float *c, const double *size,
                            float beta, float *out, size_t n) {
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        out[i] = c[i] + copysignf((float)size[i], (1 - beta) * a[i] + beta * b[i] - c[i]);
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    (void)k;
    double alpha = args->values[ALPHA].items[0];
    double x[RUN] = {0}, y[RUN] = {0}, both[RUN];
    for (size_t at = 0; at < n; at += RUN) {
        size_t count = n - at < RUN ? n - at : RUN;
        const float *a = in[0] + at, *b = in[1] + at, *c = in[2] + at;
        distance(a, c, x, count);
        distance(b, c, y, count);
        if (alpha == 0.5)
            middle(x, y, both);
        else
            mean(x, y, alpha, both);
        /* At the ends it is one of them, also where the other is 0. */
        const double *size = alpha == 0 ? x : alpha == 1 ? y : both;
        step(a, b, c, size, (float)args->values[BETA].items[0], out + at, count);
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
