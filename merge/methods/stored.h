/* The arithmetic of tools that compute in the type in which weights are stored: every result is
 * rounded to it. Of two types the sum or difference has the wider one. */
#ifndef CK_STORED_H
#define CK_STORED_H

#include "merge/method.h"

/* The type of an input; types that tools cannot compute with are made f32 first. */
static inline ck_dtype ck_stored(const ck_arguments *args, size_t input) {
    ck_dtype d = args->stored ? args->stored[input] : CK_F32;
    return d == CK_F16 || d == CK_BF16 ? d : CK_F32;
}

/* The type of a sum. */
static inline ck_dtype ck_stored_sum(ck_dtype a, ck_dtype b) {
    return a == b ? a : CK_F32;
}

/* Rounds x[n], n <= CK_STRIP. */
static inline void ck_stored_round(const ck_kernels *k, ck_dtype d, float *x, size_t n) {
    float rounded[CK_STRIP];
    k->encode[d](rounded, x, n);
    k->decode[d](x, rounded, n);
}

#endif
