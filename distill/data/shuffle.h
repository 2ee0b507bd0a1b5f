/* The order in which training takes its samples: every pass over them is another permutation, and
 * the sample at a position is a function of the position. So all that a run must remember of its
 * data is one counter.
 *
 *   size_t i = ck_shuffle(seed, count, position++);
 *
 * Processes that share the work take positions from the same order.
 */
#ifndef CK_SHUFFLE_H
#define CK_SHUFFLE_H

#include <stdint.h>

/* The sample at a position: positions p n to p n + n - 1 give each of 0 to n - 1 once, in an order
 * that depends on seed and p. n from 1 to 2^40. The same on every machine. */
uint64_t ck_shuffle(uint64_t seed, uint64_t n, uint64_t position);

#endif
