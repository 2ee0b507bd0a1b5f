/* Which changes chance lets stay: a function of seed, tensor, model and element alone. */
#ifndef CK_CHANCE_H
#define CK_CHANCE_H

#include "merge/method.h"

/* Sets factors[e] to `scale` for every one of n <= CK_STRIP elements that stays, else to 0; each
 * stays with probability `density` (to 2^-40). The first is element args->first + at of the tensor,
 * and `input` the number of the model. */
void ck_chance(const ck_kernels *k, const ck_arguments *args, size_t input, size_t at,
               double density, float scale, float *factors, size_t n);

/* A random number for one element, evenly from 0 to 2^32 - 1. */
uint32_t ck_chance_word(const ck_arguments *args, size_t input, uint64_t element);

#endif
