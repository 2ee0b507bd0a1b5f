/* Geometric means of f32, for kernels/merge_template.h, which includes this: less than 0.7 units in
 * the last place off, and exact where both are equal. Logarithms and powers are table entries times
 * short polynomials, in f32 with what its roundings leave; on every instruction set the same.
 */

/* The logarithm of a mantissa m, to base 2: m times reciprocals[j], j its first four bits, is 1 + r
 * with |r| < 1/31, whose logarithm is a polynomial (off by 2^-30). Reciprocals are such that their
 * own logarithms are, but for 2^-30, multiples of 2^-15, so that sums with exponents are exact. */
static const float reciprocals[16] = {
    0x1.efa46ep-1f, 0x1.d39f74p-1f, 0x1.ba6bc8p-1f, 0x1.a4657ep-1f, 0x1.8fb8cep-1f, 0x1.7c270cp-1f,
    0x1.6b7b36p-1f, 0x1.5d0968p-1f, 0x1.4efd30p-1f, 0x1.41109ep-1f, 0x1.3525fep-1f, 0x1.29d684p-1f,
    0x1.1ef8bep-1f, 0x1.15375ep-1f, 0x1.0d2da4p-1f, 0x1.038f88p-1f};
#define U 0x1p-15f
static const float logarithms[16] = {
    1535 * U,  4286 * U,  6905 * U,  9319 * U,  11703 * U, 14076 * U, 16196 * U, 18113 * U,
    20055 * U, 22062 * U, 23850 * U, 25612 * U, 27369 * U, 29004 * U, 30395 * U, 32115 * U};
#undef U

/* log2 of the mantissa (1 to 2) is *high + the result. */
INLINE vf log_of_mantissa(vf mantissa, vf *high) {
    vu j = as_u(mantissa) >> 19;
    *high = LOOKUP16(logarithms, j);
    vf r = FMA(mantissa, LOOKUP16(reciprocals, j), splat(-1));
    vf p = FMA(r, splat(-0x1.74221p-2f), splat(0x1.ecb24ep-2f));
    p = FMA(r, p, splat(-0x1.71544ap-1f));
    return r * FMA(r, p, splat(0x1.715476p+0f));
}

/* 2^(j/16), and what f32 lacks of it. */
static const float powers[16] = {0x1.000000p+0f, 0x1.0b5586p+0f, 0x1.172b84p+0f, 0x1.2387a6p+0f,
                                 0x1.306fe0p+0f, 0x1.3dea64p+0f, 0x1.4bfdaep+0f, 0x1.5ab07ep+0f,
                                 0x1.6a09e6p+0f, 0x1.7a1148p+0f, 0x1.8ace54p+0f, 0x1.9c4918p+0f,
                                 0x1.ae89fap+0f, 0x1.c199bep+0f, 0x1.d5818ep+0f, 0x1.ea4afap+0f};
static const float powers_rest[16] = {0,
                                      0x1.9f3122p-25f,
                                      -0x1.c15742p-27f,
                                      0x1.ceac48p-25f,
                                      0x1.4636e2p-25f,
                                      0x1.824684p-25f,
                                      -0x1.593abcp-25f,
                                      -0x1.5bd5ecp-27f,
                                      0x1.9fcef4p-26f,
                                      -0x1.829fd0p-25f,
                                      0x1.15506ep-27f,
                                      0x1.51f848p-27f,
                                      -0x1.a94b14p-26f,
                                      -0x1.3d56b2p-27f,
                                      -0x1.822dbcp-27f,
                                      0x1.52486cp-27f};

/* m 2^(j/16 + f), |f| <= 1/32, m from 1 to 2. */
INLINE vf times_power(vf m, vu j, vf f) {
    vf p = FMA(f, splat(0x1.c6ae94p-5f), splat(0x1.ebfffap-3f));
    p = f * FMA(f, p, splat(0x1.62e43p-1f)); /* 2^f - 1 */
    vf t = LOOKUP16(powers, j), product = m * t;
    vf rest = FMA(m, LOOKUP16(powers_rest, j), FMA(m, t, -product));
    return product + FMA(product, p, rest);
}

#define FRACTION 0x007FFFFF
#define ONE      0x3F800000

/* A share, as the sum of two f32. */
typedef struct share {
    vf high, low;
} share;

INLINE share share_of(double w) {
    float high = (float)w;
    return (share){splat(high), splat((float)(w - (double)high))};
}

/* How much larger y's exponent is than x's, times 2^23. */
INLINE vf exponents(vf x, vf y) {
    return __builtin_convertvector((vi)((as_u(y) & INFINITE) - (as_u(x) & INFINITE)), vf);
}

/* |x|^(1-w) |y|^w = |x| |y / x|^w of normal x and y whose exponents differ by e / 2^23, still to be
 * multiplied by two to the power of x's exponent and of *sixteenths / 16, rounded down, of which
 * only the lower 19 bits are given. */
INLINE vf mean_of_normal(vf x, vf y, vf e, share w, vu *sixteenths) {
    vf mx = as_f((as_u(x) & FRACTION) | ONE), my = as_f((as_u(y) & FRACTION) | ONE), tx, ty;
    vf rest = log_of_mantissa(my, &ty);
    rest -= log_of_mantissa(mx, &tx);
    vf whole = FMA(e, splat(0x1p-23f), ty - tx);
    vf t = w.high * whole;
    rest = FMA(w.high, rest, FMA(w.low, whole, FMA(w.high, whole, -t)));
    vf to_sixteenths = splat(0x1.8p19f), rounded = (t + rest) + to_sixteenths;
    *sixteenths = as_u(rounded);
    return times_power(mx, *sixteenths, (t - (rounded - to_sixteenths)) + rest);
}

/* The same of any x and y: subnormals are taken 2^24 times first; where one is 0 the mean is, and
 * what is not finite stays that. */
INLINE vf mean_of_any(vf x, vf y, share w) {
    vi tiny_x = magnitude_of(x) < 0x00800000, tiny_y = magnitude_of(y) < 0x00800000;
    vf normal_x = as_f(pick(tiny_x, as_u(x * 0x1p24f), as_u(x)));
    vf normal_y = as_f(pick(tiny_y, as_u(y * 0x1p24f), as_u(y)));
    vf more = __builtin_convertvector((tiny_x & 24) - (tiny_y & 24), vf);
    vu sixteenths;
    vf size = mean_of_normal(normal_x, normal_y, exponents(normal_x, normal_y) + more * 0x1p23f, w,
                             &sixteenths);
    vi whole = (vi)(sixteenths << 13) >> 17;
    vi e = (vi)((as_u(normal_x) & INFINITE) >> 23) + whole - 127 - (tiny_x & 24);
    /* In two steps, since the power of two may be smaller than any f32. */
    vi half = e >> 1;
    size = size * as_f((vu)(half + 127) << 23) * as_f((vu)(e - half + 127) << 23);
    vf product = x * y;
    vi none = (x == 0) | (y == 0);
    vi finite = (magnitude_of(x) < INFINITE) & (magnitude_of(y) < INFINITE);
    return as_f(pick(finite, as_u(size) & ~(vu)none, as_u(product)));
}

/* |x|^(1-w) |y|^w */
INLINE vf mean(vf x, vf y, share w) {
    vu ex = as_u(x) & INFINITE, ey = as_u(y) & INFINITE, least = all(1 << 23);
    vu special = all(INFINITE) - least; /* those of 0 and subnormals wrap around */
    if (ANY((ex - least >= special) | (ey - least >= special))) return mean_of_any(x, y, w);
    vu sixteenths;
    vf size = mean_of_normal(x, y, exponents(x, y), w, &sixteenths);
    return as_f(as_u(size) + (sixteenths << 19 & ~FRACTION) + ex - ONE);
}
