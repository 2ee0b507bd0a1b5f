/* Which changes chance lets stay: a function of seed, tensor, model and element alone. */
#ifndef CK_CHANCE_H
#define CK_CHANCE_H

#include "merge/method.h"

/* changes[e] = (x[e] - base[e]) times `scale` for every one of n <= CK_STRIP elements that stays,
 * times 0 for the others; each stays with probability `density` (to 2^-40). The first is element
 * args->first + at of the tensor, and `input` the number of the model. Cheapest where that is a
 * multiple of 16. */
void ck_chance(const ck_kernels *k, const ck_arguments *args, size_t input, size_t at,
               double density, float scale, const float *x, const float *base, float *changes,
               size_t n);

/* A random number for one element, evenly from 0 to 2^32 - 1. */
uint32_t ck_chance_word(const ck_arguments *args, size_t input, uint64_t element);

#endif
