/* Random numbers by Philox, a byte for an element: it decides for all but one element in 256, for
 * whom another 32 bits are drawn, so that the probability is exact. That makes sixteen elements of
 * a block of four words. */
#include "merge/methods/chance.h"
#include "kernels/philox.h"
#include "kernels/random.h"
#include "merge/methods/vectors.h"

#include <string.h>

enum { GROUP = 16, LANES = 16 };
enum { BYTES, WORDS }; /* streams */

uint32_t ck_chance_word(const ck_arguments *args, size_t input, uint64_t element) {
    uint32_t words[4];
    ck_philox(ck_random_key(args->key, input), 0, WORDS, element / 4, words);
    return words[element % 4];
}

/* LANES blocks at once, from this one on: ck_philox, as loops that become vectors. */
CK_VECTORS static void blocks(uint64_t key, uint64_t first, uint32_t c[4][LANES]) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (size_t l = 0; l < LANES; l++) {
        c[0][l] = (uint32_t)(first + l);
        c[1][l] = (uint32_t)((first + l) >> 32);
        c[2][l] = BYTES;
        c[3][l] = 0;
    }
    for (int round = 0; round < 10; round++) {
#pragma omp simd
        for (size_t l = 0; l < LANES; l++) {
            uint64_t p0 = (uint64_t)c[0][l] * 0xd2511f53u, p1 = (uint64_t)c[2][l] * 0xcd9e8d57u;
            c[0][l] = (uint32_t)(p1 >> 32) ^ c[1][l] ^ k0;
            c[1][l] = (uint32_t)p1;
            c[2][l] = (uint32_t)(p0 >> 32) ^ c[3][l] ^ k1;
            c[3][l] = (uint32_t)p0;
        }
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
}

/* The bytes of as many groups as reach to n elements, from group `first` on; up to LANES more. */
static void draw(uint64_t key, uint64_t first, size_t n, uint8_t *bytes) {
    uint32_t words[4][LANES];
    for (size_t g = 0; g * GROUP < n; g += LANES) {
        blocks(key, first + g, words);
        for (size_t l = 0; l < LANES; l++)
            for (size_t w = 0; w < 4; w++) {
                uint8_t *to = bytes + (g + l) * GROUP + 4 * w;
                uint32_t word = words[w][l];
                to[0] = (uint8_t)word, to[1] = (uint8_t)(word >> 8);
                to[2] = (uint8_t)(word >> 16), to[3] = (uint8_t)(word >> 24);
            }
    }
}

/* Returns how many are still to be decided, by the lower bits. */
CK_VECTORS static uint32_t decide(const uint8_t *drawn, uint32_t sure, float scale, float *factors,
                                  size_t n) {
    uint32_t doubtful = 0;
#pragma omp simd reduction(+ : doubtful)
    for (size_t e = 0; e < n; e++) {
        uint32_t byte = drawn[e];
        factors[e] = byte < sure ? scale : 0;
        doubtful += byte == sure;
    }
    return doubtful;
}

void ck_chance(const ck_arguments *args, size_t input, size_t at, double density, float scale,
               float *factors, size_t n) {
    uint8_t bytes[CK_STRIP + (LANES + 1) * GROUP];
    uint64_t key = ck_random_key(args->key, input), first = args->first + at;
    uint64_t limit = (uint64_t)(density * 0x1p40);
    uint32_t sure = (uint32_t)(limit >> 32);
    size_t skip = (size_t)(first % GROUP);
    draw(key, first / GROUP, skip + n, bytes);
    uint32_t doubtful = decide(bytes + skip, sure, scale, factors, n);
    if (!doubtful || !(uint32_t)limit) return;
    const uint8_t *drawn = bytes + skip, *at_limit = drawn;
    while ((at_limit = memchr(at_limit, (int)sure, (size_t)(drawn + n - at_limit)))) {
        size_t e = (size_t)(at_limit++ - drawn);
        if (ck_chance_word(args, input, first + e) < (uint32_t)limit) factors[e] = scale;
    }
}
