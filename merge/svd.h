/* The largest singular values of a matrix with their vectors, by LAPACK, which is loaded when it is
 * first needed: programs start without it, and run where it is not installed.
 *
 *   ck_svd svd;
 *   CK_TRY(ck_svd_of(a, rows, columns, 64, &svd, err));
 *   ... a is nearly the sum over i < svd.count of svd.values[i] left[i] right[i]^T ...
 *   ck_svd_free(&svd);
 *
 * Small matrices are taken apart completely. For others the space of the largest singular vectors
 * is found by block iteration from random vectors (Halko, Martinsson, Tropp, "Finding structure
 * with randomness", 2011), until an iteration gains less than 1e-5 of what is captured. LAPACK
 * works in one thread here; call from several for several matrices. Results are the same for the
 * same library on the same processor, whatever the threads.
 */
#ifndef CK_SVD_H
#define CK_SVD_H

#include "io/error.h"

#include <stddef.h>

typedef struct ck_svd {
    size_t count;        /* of singular values, the largest first */
    float *values;       /* [count] */
    float *left, *right; /* unit vectors as rows: [count, rows], [count, columns] */
    double squares;      /* the sum of the squares of all singular values: of all elements */
} ck_svd;

/* Of a [rows, columns], row by row; at most `count` of them. CK_INPUT when an element is not a
 * finite number, CK_USAGE when LAPACK is not there, CK_MEMORY. */
ck_status ck_svd_of(const float *a, size_t rows, size_t columns, size_t count, ck_svd *svd,
                    ck_error *err);
void ck_svd_free(ck_svd *svd); /* a zeroed one is allowed */

/* The sum of all singular values; errors as above. */
ck_status ck_svd_sum(const float *a, size_t rows, size_t columns, double *sum, ck_error *err);

#endif
