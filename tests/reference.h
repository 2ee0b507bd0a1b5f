/* Reference implementations, written to be obviously right: scalar, through double where that is
 * exact, by comparison with neighbours where it is a matter of rounding. They share no code with
 * kernels/ and merge/.
 */
#ifndef CK_TESTS_REFERENCE_H
#define CK_TESTS_REFERENCE_H

#include "kernels/dtype.h"

#include <stddef.h>
#include <stdint.h>

/* The value of an element of a float dtype; NaN for NaN. */
double ref_decode(ck_dtype dtype, const void *element);

/* Rounds to nearest even into the dtype; saturation, infinities, canonical NaN and the count of
 * finite values that do not fit are as kernels.h says. Returns 1 when x did not fit. */
int ref_encode(ck_dtype dtype, float x, void *element);

/* The methods of the merge, element by element. */
float ref_weighted_sum(float a, float b, float alpha);
float ref_add_difference(float a, float b, float c, float alpha);
float ref_multiply_difference(float a, float b, float c, float beta);

/* |x|^(1-w) |y|^w */
long double ref_geometric_mean(float x, float y, double w);

#endif
