/* Random numbers by Philox, a byte for an element: it decides for all but one element in 256, for
 * whom another 32 bits are drawn, so that the probability is exact. That makes sixteen elements of
 * a block of four words. */
#include "merge/methods/chance.h"
#include "kernels/philox.h"
#include "kernels/random.h"

#include <string.h>

enum { GROUP = 16 };
enum { BYTES, WORDS }; /* streams */

uint32_t ck_chance_word(const ck_arguments *args, size_t input, uint64_t element) {
    uint32_t words[4];
    ck_philox(ck_random_key(args->key, input), 0, WORDS, element / 4, words);
    return words[element % 4];
}

void ck_chance(const ck_arguments *args, size_t input, size_t at, double density, float scale,
               float *factors, size_t n) {
    uint8_t bytes[CK_STRIP + 2 * GROUP];
    uint64_t key = ck_random_key(args->key, input), first = args->first + at;
    uint64_t limit = (uint64_t)(density * 0x1p40);
    uint32_t sure = (uint32_t)(limit >> 32), doubtful = 0;
    size_t skip = (size_t)(first % GROUP);
    for (size_t g = 0; g * GROUP < skip + n; g++) {
        uint32_t words[4];
        ck_philox(key, 0, BYTES, first / GROUP + g, words);
        for (size_t b = 0; b < GROUP; b++)
            bytes[g * GROUP + b] = (uint8_t)(words[b / 4] >> b % 4 * 8);
    }
    const uint8_t *drawn = bytes + skip;
#pragma omp simd reduction(+ : doubtful)
    for (size_t e = 0; e < n; e++) {
        uint32_t byte = drawn[e];
        factors[e] = byte < sure ? scale : 0;
        doubtful += byte == sure;
    }
    if (!doubtful || !(uint32_t)limit) return;
    for (size_t e = 0; e < n; e++)
        if (drawn[e] == sure && ck_chance_word(args, input, first + e) < (uint32_t)limit)
            factors[e] = scale;
}
