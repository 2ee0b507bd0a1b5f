/* Slow and plain; see reference.h. */
#include "tests/reference.h"

#include <math.h>
#include <string.h>

/* A binary floating-point format of up to 16 bits. */
typedef struct small_format {
    int exponent_bits, mantissa_bits, bias;
    bool has_infinity; /* else only the all-ones code is NaN */
} small_format;

static small_format format_of(ck_dtype dtype) {
    switch (dtype) {
    case CK_F16:
        return (small_format){5, 10, 15, true};
    case CK_BF16:
        return (small_format){8, 7, 127, true};
    case CK_F8_E5M2:
        return (small_format){5, 2, 15, true};
    default:
        return (small_format){4, 3, 7, false}; /* CK_F8_E4M3 */
    }
}

/* The magnitude of a code without sign; infinity and NaN as such. */
static double magnitude(small_format f, unsigned code) {
    int exponent = (int)(code >> f.mantissa_bits);
    unsigned mantissa = code & ((1u << f.mantissa_bits) - 1);
    int top = (1 << f.exponent_bits) - 1;
    if (f.has_infinity && exponent == top) return mantissa ? NAN : INFINITY;
    if (!f.has_infinity && exponent == top && mantissa == (1u << f.mantissa_bits) - 1) return NAN;
    if (exponent == 0) return ldexp(mantissa, 1 - f.bias - f.mantissa_bits);
    return ldexp((1u << f.mantissa_bits) + mantissa, exponent - f.bias - f.mantissa_bits);
}

double ref_decode(ck_dtype dtype, const void *element) {
    if (dtype == CK_F64) {
        double x;
        memcpy(&x, element, sizeof x);
        return x;
    }
    if (dtype == CK_F32) {
        float x;
        memcpy(&x, element, sizeof x);
        return (double)x;
    }
    unsigned code = 0;
    int bits = (int)ck_dtype_bits(dtype);
    memcpy(&code, element, (size_t)bits / 8);
    double m = magnitude(format_of(dtype), code & ((1u << (bits - 1)) - 1));
    return code >> (bits - 1) ? -m : m;
}

static int encode_small(ck_dtype dtype, float x, void *element) {
    small_format f = format_of(dtype);
    int bits = (int)ck_dtype_bits(dtype), lost = 0;
    unsigned sign = signbit(x) ? 1u << (bits - 1) : 0, code;
    unsigned infinity = ((1u << f.exponent_bits) - 1) << f.mantissa_bits;
    unsigned largest = f.has_infinity ? infinity - 1 : (1u << (bits - 1)) - 2;
    double m = fabs((double)x);
    if (isnan(x)) {
        sign = 0;
        code = f.has_infinity ? infinity | 1u << (f.mantissa_bits - 1) : largest + 1;
    } else {
        /* The largest code that is not above m, by bisection over the codes, which are in order. */
        unsigned low = 0, high = largest;
        while (low < high) {
            unsigned middle = (low + high + 1) / 2;
            if (magnitude(f, middle) <= m)
                low = middle;
            else
                high = middle - 1;
        }
        code = low;
        double below = magnitude(f, low);
        /* What would follow the largest code, were there room. */
        double step = below - magnitude(f, low - (low > 0));
        double above = low < largest ? magnitude(f, low + 1) : below + step;
        double to_below = m - below, to_above = above - m;
        if (to_above < to_below || (to_above == to_below && (low & 1))) code = low + 1;
        if (code > largest || isinf(x)) {
            bool saturates = dtype == CK_F8_E4M3 || (dtype == CK_F8_E5M2 && !isinf(x));
            lost = !isinf(x) || dtype == CK_F8_E4M3;
            code = saturates ? largest : infinity;
        }
    }
    code |= sign;
    memcpy(element, &code, (size_t)bits / 8);
    return lost;
}

int ref_encode(ck_dtype dtype, float x, void *element) {
    if (dtype == CK_F32) {
        uint32_t nan = 0x7FC00000u;
        memcpy(element, isnan(x) ? (void *)&nan : (void *)&x, sizeof x);
        return 0;
    }
    if (dtype == CK_F64) {
        double wide = (double)x;
        uint64_t nan = 0x7FF8000000000000u;
        memcpy(element, isnan(x) ? (void *)&nan : (void *)&wide, sizeof wide);
        return 0;
    }
    return encode_small(dtype, x, element);
}

float ref_weighted_sum(float a, float b, float alpha) {
    return fabsf(alpha) < 0.5f ? fmaf(alpha, b - a, a) : fmaf(alpha - 1, b - a, b);
}

float ref_multiply_difference(float a, float b, float c, float beta) {
    long double size = sqrtl((long double)fabsf(a - c) * (long double)fabsf(b - c));
    return c + copysignf((float)size, (1 - beta) * a + beta * b - c);
}

long double ref_geometric_mean(float x, float y, double w) {
    return powl(fabsl((long double)x), 1 - (long double)w) * powl(fabsl((long double)y), w);
}

float ref_add_difference(float a, float b, float c, float alpha) {
    return fmaf(alpha, b - c, a);
}
