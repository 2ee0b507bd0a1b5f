/* bfloat16: the upper half of an f32. The same functions on processors and, compiled by nvcc, on
 * cards.
 *
 *   uint16_t h = ck_half(x);               to the nearest, ties to even
 *   uint16_t h = ck_half_random(x, r);     up with the probability of what is cut off
 *   float x = ck_half_value(h);
 */
#ifndef CK_HALF_NUMBER_H
#define CK_HALF_NUMBER_H

#include "kernels/anywhere.h"

#include <stdint.h>
#include <string.h>

CK_ANYWHERE float ck_half_value(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Of x with `more`, up to 2^16 - 1, added below its last digit. NaN stays NaN. */
CK_ANYWHERE uint16_t ck_half_random(float x, uint32_t more) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((x == x ? bits + more : bits | 0x400000) >> 16);
}

CK_ANYWHERE uint16_t ck_half(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return ck_half_random(x, 0x7fff + (bits >> 16 & 1));
}

#endif
