/* Fourier transforms of any length. */
#ifndef CK_FOURIER_H
#define CK_FOURIER_H

#include "io/error.h"

#include <stddef.h>
#include <stdint.h>

/* Transforms z[2 n] (real and imaginary parts, f32) along all axes of the shape, in place: forward
 * (sign -1) or back (sign 1), which is not divided by n. In f64 a line at a time. CK_MEMORY. */
ck_status ck_fourier(float *z, const uint64_t *shape, size_t rank, int sign, ck_error *err);

/* Bytes that it takes besides. */
uint64_t ck_fourier_needs(const uint64_t *shape, size_t rank);

#endif
