/* Functions whose results are the same everywhere, which libm's are not: additions,
 * multiplications and divisions in f64, off by less than 1e-14 relative. */
#ifndef CK_EXACT_H
#define CK_EXACT_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* e^x; 0 below -700, e^700 above. */
static inline double ck_exp(double x) {
    if (!(x > -700)) return x == x ? 0 : x;
    if (x > 700) x = 700;
    /* x = k ln 2 + r; ln 2 in two parts, the first with zeros at its end. */
    double k = floor(x * 0x1.71547652b82fep+0 + 0.5);
    double r = x - k * 0x1.62e42fefap-1 - k * 0x1.cf79abc9e3b3ap-40, sum = 1;
    for (int i = 14; i > 0; i--) sum = 1 + r / i * sum;
    uint64_t bits = (uint64_t)(int64_t)(k + 1023) << 52;
    double power;
    memcpy(&power, &bits, sizeof power);
    return sum * power;
}

/* ln x of a normal x > 0: x = m 2^e with m in [sqrt(1/2), sqrt(2)), ln m = 2 artanh f. */
static inline double ck_log(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int e = (int)(bits >> 52) - 1022;
    bits = (bits & 0xfffffffffffffu) | 0x3fe0000000000000u;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m < 0x1.6a09e667f3bcdp-1) {
        m *= 2;
        e--;
    }
    double f = (m - 1) / (m + 1), s = f * f, sum = 0;
    for (int i = 21; i > 0; i -= 2) sum = 1. / i + s * sum;
    return e * 0x1.62e42fefa39efp-1 + 2 * f * sum;
}

/* Cosine and sine of k / n turns, 0 <= k < n < 2^50: the nearest quarter turn is taken off in whole
 * numbers, the rest goes through Taylor polynomials. */
static inline void ck_cos_sin(uint64_t k, uint64_t n, double *cosine, double *sine) {
    uint64_t quarter = (8 * k + n) / (2 * n);
    double x = ((double)(int64_t)(4 * k - quarter * n)) / (double)n * 0x1.921fb54442d18p+0;
    double s = x * x, c = 1, d = 1;
    for (int i = 16; i > 0; i -= 2) c = 1 - s / (i * (i - 1)) * c;
    for (int i = 17; i > 1; i -= 2) d = 1 - s / (i * (i - 1)) * d;
    d *= x;
    double turned[4] = {c, -d, -c, d}; /* cosines after so many quarters; sines are one behind */
    *cosine = turned[quarter & 3];
    *sine = turned[(quarter + 3) & 3];
}

#endif
