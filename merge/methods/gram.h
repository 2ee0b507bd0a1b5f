/* For methods that are made of inner products (combine in merge/method.h) and whose input 0 is a
 * base. */
#ifndef CK_METHODS_GRAM_H
#define CK_METHODS_GRAM_H

#include <stddef.h>

/* The inner product of input i - base and input j - base, of those of n inputs. */
static inline double ck_change_product(const double *gram, size_t n, size_t i, size_t j) {
    return gram[i * n + j] - gram[i * n] - gram[j * n] + gram[0];
}

#endif
