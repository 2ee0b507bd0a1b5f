/* Sorting pairs of a float and a number by radix. */
#ifndef CK_ORDER_H
#define CK_ORDER_H

#include <stddef.h>
#include <stdint.h>

/* A float (the upper 32 bits, such that they are in the order of the floats, -0 like 0, NaN last)
 * and a number. */
uint64_t ck_order_pair(float x, uint32_t number);
float ck_order_float(uint64_t pair);

/* Sorts n pairs by their floats, equal ones as they were; scratch[n] is used meanwhile. */
void ck_order_sort(uint64_t *pairs, uint64_t *scratch, size_t n);

#endif
