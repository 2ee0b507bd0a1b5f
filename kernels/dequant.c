/* One function for each block type of dequant.h; the comment before it shows the block's bytes. */
#include "kernels/dequant.h"

#include <stdint.h>
#include <string.h>

/* The f16 at p. Exponent and mantissa move into f32's places; 2^112 corrects the bias and makes
 * subnormals right as well. */
static float f16_at(const unsigned char *p) {
    uint32_t half = (uint32_t)p[0] | (uint32_t)p[1] << 8;
    uint32_t bits = (half & 0x7FFF) << 13, sign = (half & 0x8000) << 16;
    float x;
    if ((half & 0x7C00) == 0x7C00) {
        bits |= 0x7F800000;
    } else {
        memcpy(&x, &bits, sizeof x);
        x *= 0x1p112f;
        memcpy(&bits, &x, sizeof bits);
    }
    bits |= sign;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t u32_at(const unsigned char *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* f16 scale, i8 q[32] */
static void decode_q8_0(float *values, const unsigned char *block) {
    float scale = f16_at(block);
    for (int i = 0; i < 32; i++) values[i] = (float)(int8_t)block[2 + i] * scale;
}

/* Types of 32 elements with 4 bits of each in 16 bytes: elements 0..15 in the low halves, 16..31 in
 * the high ones. */
static int low_half(const unsigned char *packed, int i) {
    return i < 16 ? packed[i] & 15 : packed[i - 16] >> 4;
}

/* f16 scale, u8 q[16] */
static void decode_q4_0(float *values, const unsigned char *block) {
    float scale = f16_at(block);
    for (int i = 0; i < 32; i++) values[i] = (float)(low_half(block + 2, i) - 8) * scale;
}

/* f16 scale, f16 minimum, u8 q[16] */
static void decode_q4_1(float *values, const unsigned char *block) {
    float scale = f16_at(block), minimum = f16_at(block + 2);
    for (int i = 0; i < 32; i++) values[i] = (float)low_half(block + 4, i) * scale + minimum;
}

/* f16 scale, u32 fifth bits (bit i is element i's), u8 q[16] */
static void decode_q5_0(float *values, const unsigned char *block) {
    float scale = f16_at(block);
    uint32_t fifth = u32_at(block + 2);
    for (int i = 0; i < 32; i++) {
        int q = low_half(block + 6, i) | (int)(fifth >> i & 1) << 4;
        values[i] = (float)(q - 16) * scale;
    }
}

/* f16 scale, f16 minimum, u32 fifth bits, u8 q[16] */
static void decode_q5_1(float *values, const unsigned char *block) {
    float scale = f16_at(block), minimum = f16_at(block + 2);
    uint32_t fifth = u32_at(block + 4);
    for (int i = 0; i < 32; i++) {
        int q = low_half(block + 8, i) | (int)(fifth >> i & 1) << 4;
        values[i] = (float)q * scale + minimum;
    }
}

/* Q4_K and Q5_K: 8 groups of 32 elements, each with a 6-bit scale and a 6-bit minimum in 12 bytes.
 * Groups 0..3 have theirs in the low 6 bits of bytes 0..3 and 4..7; groups 4..7 have the low 4 bits
 * in bytes 8..11 and the high 2 bits on top of the other groups' bytes. */
static void group_scale(const unsigned char *packed, int group, float *scale, float *minimum) {
    int s, m;
    if (group < 4) {
        s = packed[group] & 63;
        m = packed[group + 4] & 63;
    } else {
        s = (packed[group + 4] & 15) | packed[group - 4] >> 6 << 4;
        m = packed[group + 4] >> 4 | packed[group] >> 6 << 4;
    }
    *scale *= (float)s;
    *minimum *= (float)m;
}

/* f16 scale, f16 minimum, u8 scales[12], u8 q[128]: each 32 bytes hold an even group in their low
 * halves and the odd group after it in the high ones */
static void decode_q4_k(float *values, const unsigned char *block) {
    for (int group = 0; group < 8; group++) {
        float scale = f16_at(block), minimum = f16_at(block + 2);
        group_scale(block + 4, group, &scale, &minimum);
        const unsigned char *q = block + 16 + group / 2 * 32;
        int shift = group % 2 * 4;
        for (int i = 0; i < 32; i++)
            values[group * 32 + i] = scale * (float)(q[i] >> shift & 15) - minimum;
    }
}

/* f16 scale, f16 minimum, u8 scales[12], u8 fifth[32], u8 q[128]: as Q4_K; group g's fifth bits are
 * bits g of fifth */
static void decode_q5_k(float *values, const unsigned char *block) {
    const unsigned char *fifth = block + 16;
    for (int group = 0; group < 8; group++) {
        float scale = f16_at(block), minimum = f16_at(block + 2);
        group_scale(block + 4, group, &scale, &minimum);
        const unsigned char *q = block + 48 + group / 2 * 32;
        int shift = group % 2 * 4;
        for (int i = 0; i < 32; i++) {
            int value = (q[i] >> shift & 15) | (fifth[i] >> group & 1) << 4;
            values[group * 32 + i] = scale * (float)value - minimum;
        }
    }
}

/* u8 low[128], u8 high[64], i8 scales[16], f16 scale. Each half of 128 elements is 4 runs of 32:
 * run r has its low 4 bits in 32 bytes of low (runs 0, 1 in the low halves of the first and second
 * 32 bytes, runs 2, 3 in their high halves), its 2 upper bits at bit 2r of high, and a scale for
 * every 16 elements. */
static void decode_q6_k(float *values, const unsigned char *block) {
    float scale = f16_at(block + 208);
    for (int half = 0; half < 2; half++) {
        const unsigned char *low = block + half * 64, *high = block + 128 + half * 32;
        const unsigned char *scales = block + 192 + half * 8;
        for (int i = 0; i < 128; i++) {
            int run = i / 32, at = i % 32;
            int q = low[run % 2 * 32 + at] >> run / 2 * 4 & 15;
            q |= (high[at] >> 2 * run & 3) << 4;
            values[half * 128 + i] = scale * (float)(int8_t)scales[i / 16] * (float)(q - 32);
        }
    }
}

const ck_quant ck_quant_q4_0 = {"Q4_0", 32, 18, decode_q4_0};
const ck_quant ck_quant_q4_1 = {"Q4_1", 32, 20, decode_q4_1};
const ck_quant ck_quant_q5_0 = {"Q5_0", 32, 22, decode_q5_0};
const ck_quant ck_quant_q5_1 = {"Q5_1", 32, 24, decode_q5_1};
const ck_quant ck_quant_q8_0 = {"Q8_0", 32, 34, decode_q8_0};
const ck_quant ck_quant_q4_k = {"Q4_K", 256, 144, decode_q4_k};
const ck_quant ck_quant_q5_k = {"Q5_K", 256, 176, decode_q5_k};
const ck_quant ck_quant_q6_k = {"Q6_K", 256, 210, decode_q6_k};
