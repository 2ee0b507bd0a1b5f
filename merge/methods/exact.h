/* Functions whose results are the same everywhere, which libm's are not: additions,
 * multiplications and divisions in f64, off by less than 1e-14 relative. */
#ifndef CK_EXACT_H
#define CK_EXACT_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define CK_INLINE static inline __attribute__((always_inline))

/* x = *m 2^*e with m in [1/2, 1), of a normal x > 0. */
CK_INLINE void ck_split(double x, double *m, double *e) {
    uint64_t bits, exponent;
    memcpy(&bits, &x, sizeof bits);
    exponent = (bits >> 52) | 0x4330000000000000u; /* 2^52 + it */
    bits = (bits & 0xfffffffffffffu) | 0x3fe0000000000000u;
    memcpy(m, &bits, sizeof bits);
    memcpy(e, &exponent, sizeof exponent);
    *e -= 0x1p52 + 1022;
}

/* 2^k of a whole k, where it is normal. */
CK_INLINE double ck_power_of_two(double k) {
    /* The lowest bits of 2^52 + i are those of i. */
    double biased = k + (0x1p52 + 1023), power;
    uint64_t bits;
    memcpy(&bits, &biased, sizeof bits);
    bits <<= 52;
    memcpy(&power, &bits, sizeof power);
    return power;
}

/* e^x; 0 below -700, e^700 above. (Without branches, so that loops of it become vectors.) */
CK_INLINE double ck_exp(double x) {
    double within = x > -700 ? x : -700;
    within = within < 700 ? within : 700;
    /* within = k ln 2 + r; ln 2 in two parts, the first with zeros at its end. */
    double k = floor(within * 0x1.71547652b82fep+0 + 0.5), sum = 1;
    double r = within - k * 0x1.62e42fefap-1 - k * 0x1.cf79abc9e3b3ap-40;
    static const double inverse[15] = {0,       1,       1. / 2,  1. / 3,  1. / 4,
                                       1. / 5,  1. / 6,  1. / 7,  1. / 8,  1. / 9,
                                       1. / 10, 1. / 11, 1. / 12, 1. / 13, 1. / 14};
#pragma GCC unroll 14
    for (int i = 14; i > 0; i--) sum = 1 + r * inverse[i] * sum;
    return x > -700 ? sum * ck_power_of_two(k) : x == x ? 0 : x;
}

/* ln x of a normal x > 0: x = m 2^e with m in [sqrt(1/2), sqrt(2)), ln m = 2 artanh f. */
CK_INLINE double ck_log(double x) {
    double e, m;
    ck_split(x, &m, &e);
    bool small = m < 0x1.6a09e667f3bcdp-1;
    m = small ? m * 2 : m;
    e -= small ? 1 : 0;
    double f = (m - 1) / (m + 1), s = f * f, sum = 0;
    static const double inverse[11] = {1,       1. / 3,  1. / 5,  1. / 7,  1. / 9, 1. / 11,
                                       1. / 13, 1. / 15, 1. / 17, 1. / 19, 1. / 21};
#pragma GCC unroll 11
    for (int i = 10; i >= 0; i--) sum = inverse[i] + s * sum;
    return e * 0x1.62e42fefa39efp-1 + 2 * f * sum;
}

/* Cosine and sine of k / n turns, 0 <= k < n < 2^50: the nearest quarter turn is taken off in whole
 * numbers, the rest goes through Taylor polynomials. */
CK_INLINE void ck_cos_sin(uint64_t k, uint64_t n, double *cosine, double *sine) {
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
