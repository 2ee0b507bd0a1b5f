/* Random numbers without state: the n-th number of a stream is a function of the stream's key and
 * n, so that it does not matter who asks for it and when.
 *
 *   if (ck_random_24(ck_random_key(key, model), element) < density * 0x1p24) ...
 */
#ifndef CK_RANDOM_H
#define CK_RANDOM_H

#include <stdint.h>

/* The finishing steps of SplitMix64 (Steele, Lea, Flood 2014). */
static inline uint64_t ck_random_mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* The key of a stream within a stream. */
static inline uint64_t ck_random_key(uint64_t key, uint64_t stream) {
    return ck_random_mix(key + 0x9e3779b97f4a7c15u * (stream + 1));
}

/* The n-th number, evenly from 0 to 2^24 - 1. */
static inline uint32_t ck_random_24(uint64_t key, uint64_t n) {
    return (uint32_t)(ck_random_mix(key + 0x9e3779b97f4a7c15u * (n + 1)) >> 40);
}

#endif
