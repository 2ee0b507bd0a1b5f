/* Random numbers without state for training and sampling: Philox4x32-10 (Salmon et al., "Parallel
 * random numbers: as easy as 1, 2, 3", 2011). What comes out is a function of seed, step, stream
 * and index alone, so that recomputation, resuming, threads and devices all meet the same numbers.
 *
 *   float z[4];
 *   ck_philox_normals(seed, step, stream, i / 4, z);       element i has z[i % 4]
 *   ck_philox_fill_normal(seed, step, stream, 0, n, noise);     the same for elements 0 to n - 1
 *
 * A step is one of training or sampling; a stream tells apart what needs numbers within it, such as
 * the nodes of a graph; an index counts blocks of four within the stream.
 *
 * The normals are exact in this sense: they are made by additions, multiplications, divisions and
 * square roots in f64, in the order written here, and rounded once to f32. These operations have
 * one result everywhere (libm's log and cos do not), so every machine has the same bits.
 */
#ifndef CK_PHILOX_H
#define CK_PHILOX_H

#include "kernels/anywhere.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Four words of 32 random bits. Key: seed, low word first. Counter: index, low word first, stream,
 * step. */
CK_ANYWHERE void ck_philox(uint64_t seed, uint32_t step, uint32_t stream, uint64_t index,
                           uint32_t out[4]) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32), c2 = stream, c3 = step;
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)c0 * 0xd2511f53u, p1 = (uint64_t)c2 * 0xcd9e8d57u;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* A word as a number in [0, 1): its upper 24 bits over 2^24, without rounding. */
static inline float ck_philox_uniform(uint32_t word) {
    return (float)(word >> 8) * 0x1p-24f;
}

/* ln of u in (0, 1]: u = m 2^e with m in [sqrt(1/2), sqrt(2)), ln m = 2 artanh f with
 * f = (m - 1) / (m + 1), as a series to f^17; off by less than 4e-15 relative. */
static inline double ck_philox__log(double u) {
    uint64_t bits;
    memcpy(&bits, &u, sizeof bits);
    int e = (int)(bits >> 52) - 1022;
    bits = (bits & 0xfffffffffffffu) | 0x3fe0000000000000u;
    double m;
    memcpy(&m, &bits, sizeof m); /* in [1/2, 1) */
    if (m < 0x1.6a09e667f3bcdp-1) {
        m *= 2;
        e--;
    }
    double f = (m - 1) / (m + 1), s = f * f;
    double p = 1. / 13 + s * (1. / 15 + s * (1. / 17));
    p = 1. / 7 + s * (1. / 9 + s * (1. / 11 + s * p));
    p = 1 + s * (1. / 3 + s * (1. / 5 + s * p));
    return e * 0x1.62e42fefa39efp-1 + 2 * f * p;
}

/* Cosine and sine of word / 2^32 turns: the nearest quarter turn is taken off in whole numbers; the
 * rest, at most an eighth, goes through Taylor polynomials, off by less than 1e-14. */
static inline void ck_philox__cos_sin(uint32_t word, double *cosine, double *sine) {
    uint32_t quarter = (word + 0x20000000u) >> 30;
    double x = (int32_t)(word - (quarter << 30)) * 0x1.921fb54442d18p-30, s = x * x;
    double c = 1 - s * (1. / 90) * (1 - s * (1. / 132) * (1 - s * (1. / 182)));
    c = 1 - s * (1. / 2) * (1 - s * (1. / 12) * (1 - s * (1. / 30) * (1 - s * (1. / 56) * c)));
    double n = 1 - s * (1. / 110) * (1 - s * (1. / 156) * (1 - s * (1. / 210)));
    n = x *
        (1 - s * (1. / 6) * (1 - s * (1. / 20) * (1 - s * (1. / 42) * (1 - s * (1. / 72) * n))));
    double turned[4] = {c, -n, -c, n}; /* cosines after so many quarters; sines are one behind */
    *cosine = turned[quarter & 3];
    *sine = turned[(quarter + 3) & 3];
}

/* Two normals (mean 0, variance 1) from two words, by Box and Muller: with u = (a + 1/2) / 2^32,
 * sqrt(-2 ln u) times cosine and sine of b / 2^32 turns. None is beyond 6.8. */
static inline void ck_philox__box_muller(uint32_t a, uint32_t b, float out[2]) {
    double radius = sqrt(-2 * ck_philox__log((a + 0.5) * 0x1p-32)), cosine, sine;
    ck_philox__cos_sin(b, &cosine, &sine);
    out[0] = (float)(radius * cosine);
    out[1] = (float)(radius * sine);
}

/* Four normals from the block at index: words 0 and 1 make the first two, 2 and 3 the others. */
static inline void ck_philox_normals(uint64_t seed, uint32_t step, uint32_t stream, uint64_t index,
                                     float out[4]) {
    uint32_t w[4];
    ck_philox(seed, step, stream, index, w);
    ck_philox__box_muller(w[0], w[1], out);
    ck_philox__box_muller(w[2], w[3], out + 2);
}

/* The normals of elements first to first + n - 1 (element i: number i % 4 of block i / 4). */
static inline void ck_philox_fill_normal(uint64_t seed, uint32_t step, uint32_t stream,
                                         uint64_t first, size_t n, float *out) {
    float z[4];
    for (size_t i = 0; i < n; i++) {
        uint64_t element = first + i;
        if (i == 0 || element % 4 == 0) ck_philox_normals(seed, step, stream, element / 4, z);
        out[i] = z[element % 4];
    }
}

#endif
