/* Random numbers by Philox, a byte for an element: it decides for all but one element in 256, for
 * whom another 32 bits are drawn, so that the probability is exact. That makes sixteen elements of
 * a block of four words. */
#include "merge/methods/chance.h"
#include "kernels/philox.h"
#include "kernels/random.h"

#include <string.h>

enum { GROUP = 16, WORD = 4 }; /* elements */
enum { BYTES, WORDS };         /* streams */

uint32_t ck_chance_word(const ck_arguments *args, size_t input, uint64_t element) {
    uint32_t words[4];
    ck_philox(ck_random_key(args->key, input), 0, WORDS, element / 4, words);
    return words[element % 4];
}

/* The bytes of as many groups as reach to n elements, from group `first` on, and a few more. A
 * word's lowest byte comes first. */
static void draw(const ck_kernels *k, uint64_t key, uint64_t first, size_t n, uint32_t *words) {
    size_t groups = (n + GROUP - 1) / GROUP;
    groups = (groups + CK_PHILOX_BLOCKS - 1) / CK_PHILOX_BLOCKS * CK_PHILOX_BLOCKS;
    k->philox(words, key, BYTES, first, groups);
}

void ck_chance(const ck_kernels *k, const ck_arguments *args, size_t input, size_t at,
               double density, float scale, const float *x, const float *base, float *changes,
               size_t n) {
    uint32_t words[(CK_STRIP / GROUP + CK_PHILOX_BLOCKS) * (GROUP / WORD)];
    uint64_t key = ck_random_key(args->key, input), first = args->first + at;
    uint64_t limit = (uint64_t)(density * 0x1p40);
    uint32_t sure = (uint32_t)(limit >> 32);
    size_t skip = (size_t)(first % GROUP);
    draw(k, key, first / GROUP, skip + n, words);
    const uint8_t *drawn = (const uint8_t *)words + skip, *at_limit = drawn;
    k->thin(changes, x, base, drawn, sure, scale, n);
    if (!(uint32_t)limit) return;
    while ((at_limit = memchr(at_limit, (int)sure, (size_t)(drawn + n - at_limit)))) {
        size_t e = (size_t)(at_limit++ - drawn);
        if (ck_chance_word(args, input, first + e) < (uint32_t)limit)
            changes[e] = (x[e] - base[e]) * scale;
    }
}
