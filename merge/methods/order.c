/* Four passes over eight bits each, from the lowest, each of which keeps the order of equals. */
#include "merge/methods/order.h"

#include <string.h>

uint64_t ck_order_pair(float x, uint32_t number) {
    uint32_t bits;
    x += 0.0f;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) bits &= 0x7FFFFFFF;
    bits ^= (uint32_t)((int32_t)bits >> 31) | 0x80000000u;
    return (uint64_t)bits << 32 | number;
}

float ck_order_float(uint64_t pair) {
    uint32_t bits = (uint32_t)(pair >> 32);
    bits ^= bits >> 31 ? 0x80000000u : 0xFFFFFFFFu;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

void ck_order_sort(uint64_t *pairs, uint64_t *scratch, size_t n) {
    uint64_t *from = pairs, *to = scratch;
    for (int shift = 32; shift < 64; shift += 8) {
        size_t places[256] = {0}, sum = 0;
        for (size_t i = 0; i < n; i++) places[from[i] >> shift & 255]++;
        for (size_t b = 0; b < 256; b++) {
            size_t count = places[b];
            places[b] = sum;
            sum += count;
        }
        for (size_t i = 0; i < n; i++) to[places[from[i] >> shift & 255]++] = from[i];
        uint64_t *other = from;
        from = to;
        to = other;
    }
}
