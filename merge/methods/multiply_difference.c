/* The geometric mean of two differences. */
#include "merge/method.h"
#include "merge/methods/exact.h"
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

/* y (x / y)^w of positive f32 (which as f64 are never subnormal), 0 <= w <= 1, off by less than
 * 1e-10 relative, with one division: x / y = 2^e (1 + f) / (1 - f), whose logarithm is e ln 2 + 2
 * artanh f. */
CK_INLINE double between(double x, double y, double w) {
    double mx, my, ex, ey;
    ck_split(x, &mx, &ex);
    ck_split(y, &my, &ey);
    bool small = mx < my * 0x1.6a09e667f3bcdp-1;
    bool large = mx * 0x1.6a09e667f3bcdp-1 > my;
    double e = ex - ey;
    mx = small ? mx * 2 : mx;
    e = small ? e - 1 : e;
    mx = large ? mx * 0.5 : mx;
    e = large ? e + 1 : e;
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

/* x^(1 - alpha) y^alpha of distances */
CK_INLINE double mean(double x, double y, double alpha) {
    double sum = x + y, product = between(x, y, 1 - alpha);
    product = sum - sum == 0 ? product : sum; /* infinite, or no number */
    return ((x == 0) | (y == 0)) ? 0 : product;
}

CK_INLINE float change(float a, float b, float c, double size, float beta) {
    return c + copysignf((float)size, (1 - beta) * a + beta * b - c);
}

/* At the ends the size is one of the distances, also where the other is 0. */
CK_VECTORS static void end(const float *a, const float *b, const float *c, const float *nearest,
                           float beta, float *out, size_t n) {
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        out[i] = change(a[i], b[i], c[i], (double)fabsf(nearest[i] - c[i]), beta);
}

CK_VECTORS static void inside(const float *a, const float *b, const float *c, double alpha,
                              float beta, float *out, size_t n) {
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        double x = (double)fabsf(a[i] - c[i]), y = (double)fabsf(b[i] - c[i]);
        out[i] = change(a[i], b[i], c[i], mean(x, y, alpha), beta);
    }
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
        inside(in[0], in[1], in[2], alpha, beta, out, n);
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
