/* Block types against an oracle that computes one element at a time in double, from the formats'
 * definitions: rounded to f32 after each step, doubles give the bits that f32 arithmetic gives. */
#include "tests/check.h"

#include "kernels/dequant.h"

#include <math.h>
#include <string.h>

static unsigned bits(const unsigned char *p, unsigned first, unsigned n) {
    unsigned value = 0;
    for (unsigned k = 0; k < n; k++)
        value |= (unsigned)(p[(first + k) / 8] >> (first + k) % 8 & 1) << k;
    return value;
}

static double half(const unsigned char *p) {
    int sign = bits(p, 15, 1) ? -1 : 1, exponent = (int)bits(p, 10, 5);
    double fraction = bits(p, 0, 10);
    if (exponent == 31) return fraction > 0 ? (double)NAN : sign * (double)INFINITY;
    return sign * (exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24));
}

static double f32(double x) {
    return (double)(float)x;
}

/* Element i of a type of 32: fields at byte offsets; fifth or minimum 0 where there is none. */
static float small_element(const unsigned char *b, unsigned i, unsigned minimum, unsigned fifth,
                           unsigned packed, int zero) {
    int q = (int)bits(b + packed + i % 16, i / 16 * 4, 4);
    if (fifth) q += 16 * (int)bits(b + fifth, i, 1);
    double product = f32((q - zero) * half(b));
    return (float)(minimum ? product + half(b + minimum) : product);
}

static float q4_0(const unsigned char *b, unsigned i) {
    return small_element(b, i, 0, 0, 2, 8);
}

static float q4_1(const unsigned char *b, unsigned i) {
    return small_element(b, i, 2, 0, 4, 0);
}

static float q5_0(const unsigned char *b, unsigned i) {
    return small_element(b, i, 0, 2, 6, 16);
}

static float q5_1(const unsigned char *b, unsigned i) {
    return small_element(b, i, 2, 4, 8, 0);
}

static float q8_0(const unsigned char *b, unsigned i) {
    int q = b[2 + i] < 128 ? b[2 + i] : b[2 + i] - 256;
    return (float)(q * half(b));
}

/* The sub-scales of Q4_K, Q5_K as the format's table has them. */
static unsigned six_bits(const unsigned char *s, unsigned group, int minimum) {
    unsigned j = group & 3;
    if (group < 4) return bits(s + j + (minimum ? 4 : 0), 0, 6);
    return bits(s + 8 + j, minimum ? 4 : 0, 4) + 16 * bits(s + j + (minimum ? 4 : 0), 6, 2);
}

static float k_element(const unsigned char *b, unsigned i, unsigned fifth, unsigned packed) {
    unsigned group = i / 32, within = i % 32;
    unsigned q = bits(b + packed + group / 2 * 32 + within, group & 1 ? 4 : 0, 4);
    if (fifth) q += 16 * bits(b + fifth + within, group, 1);
    double scale = f32(half(b) * six_bits(b + 4, group, 0));
    double minimum = f32(half(b + 2) * six_bits(b + 4, group, 1));
    return (float)(f32(scale * q) - minimum);
}

static float q4_k(const unsigned char *b, unsigned i) {
    return k_element(b, i, 0, 16);
}

static float q5_k(const unsigned char *b, unsigned i) {
    return k_element(b, i, 16, 48);
}

static float q6_k(const unsigned char *b, unsigned i) {
    static const struct {
        unsigned low_at, low_bit, high_bit;
    } runs[4] = {{0, 0, 0}, {32, 0, 2}, {0, 4, 4}, {32, 4, 6}};
    unsigned upper = i / 128, run = i / 32 % 4, within = i % 32;
    unsigned q = bits(b + upper * 64 + runs[run].low_at + within, runs[run].low_bit, 4);
    q += 16 * bits(b + 128 + upper * 32 + within, runs[run].high_bit, 2);
    int scale = b[192 + i / 16] < 128 ? b[192 + i / 16] : b[192 + i / 16] - 256;
    return (float)(f32(half(b + 208) * scale) * ((int)q - 32));
}

static const struct {
    const ck_quant *quant;
    float (*oracle)(const unsigned char *block, unsigned i);
    unsigned scale_at, minimum_at;
} cases[] = {
    {&ck_quant_q4_0, q4_0, 0, 0}, {&ck_quant_q4_1, q4_1, 0, 2},     {&ck_quant_q5_0, q5_0, 0, 0},
    {&ck_quant_q5_1, q5_1, 0, 2}, {&ck_quant_q8_0, q8_0, 0, 0},     {&ck_quant_q4_k, q4_k, 0, 2},
    {&ck_quant_q5_k, q5_k, 0, 2}, {&ck_quant_q6_k, q6_k, 208, 208},
};

static uint32_t next(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 16;
}

static void check_block(size_t c, const unsigned char *block) {
    float values[CK_QUANT_MAX_ELEMENTS + 1];
    const ck_quant *quant = cases[c].quant;
    values[quant->elements] = 12345.0f;
    quant->decode(values, block);
    for (unsigned i = 0; i < quant->elements; i++) {
        float expected = cases[c].oracle(block, i);
        if (isnan(expected) && isnan(values[i])) continue;
        if (memcmp(&expected, &values[i], sizeof expected) != 0)
            fail_msg("%s element %u: %a, expected %a", quant->name, i, (double)values[i],
                     (double)expected);
    }
    assert_true(values[quant->elements] == 12345.0f);
}

static void test_random_blocks(void **state) {
    (void)state;
    uint32_t seed = 1;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (int repeat = 0; repeat < 200; repeat++) {
            unsigned char block[256];
            for (size_t i = 0; i < cases[c].quant->bytes; i++)
                block[i] = (unsigned char)next(&seed);
            check_block(c, block);
        }
}

/* Every f16 as scale and as minimum, special values included, over a block of all digits. */
static void test_all_scales(void **state) {
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (unsigned scale = 0; scale < 65536; scale += c < 5 ? 1 : 7) {
            unsigned char block[256];
            for (unsigned i = 0; i < sizeof block; i++) block[i] = (unsigned char)(i * 73);
            block[cases[c].minimum_at] = (unsigned char)(scale >> 8);
            block[cases[c].minimum_at + 1] = (unsigned char)scale;
            block[cases[c].scale_at] = (unsigned char)scale;
            block[cases[c].scale_at + 1] = (unsigned char)(scale >> 8);
            check_block(c, block);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_blocks),
        cmocka_unit_test(test_all_scales),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
