/* A Feistel network over the smallest 4^b that holds n, whose round function is Philox; numbers of
 * n and more are sent through again until one is below it (Black and Rogaway 2002: cycle walking),
 * which it takes fewer than four times on average. b is at least 3: with halves of fewer bits the
 * orders of a few samples would not be equally likely. See shuffle.h. */
#include "distill/data/shuffle.h"
#include "kernels/philox.h"

/* Streams of Philox that belong to shuffles: SHUFFLE plus the number of the round. */
enum { ROUNDS = 6, SHUFFLE = 0x73680000 };

static uint64_t permute(uint64_t seed, uint32_t pass, unsigned bits, uint64_t x) {
    uint64_t mask = ((uint64_t)1 << bits) - 1, left = x >> bits, right = x & mask;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint32_t words[4];
        ck_philox(seed, pass, SHUFFLE + round, right, words);
        uint64_t next = left ^ (words[0] & mask);
        left = right;
        right = next;
    }
    return left << bits | right;
}

uint64_t ck_shuffle(uint64_t seed, uint64_t n, uint64_t position) {
    unsigned bits = 3;
    while ((uint64_t)1 << 2 * bits < n) bits++;
    uint64_t x = position % n;
    uint32_t pass = (uint32_t)(position / n);
    do x = permute(seed, pass, bits, x);
    while (x >= n);
    return x;
}
