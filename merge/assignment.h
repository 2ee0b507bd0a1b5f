/* The linear assignment problem: who goes with whom, so that the whole gains most.
 *
 *   uint32_t column[n];
 *   CK_TRY(ck_assign(gain, n, n, column, err));       row i goes with column[i]
 *
 * By shortest augmenting paths (Jonker and Volgenant, "A shortest augmenting path algorithm for
 * dense and sparse linear assignment problems", 1987; in the form of Crouse, "On implementing 2D
 * rectangular assignment algorithms", 2016): the best of all n! assignments, in O(n^3) at worst
 * and much less when most rows have a column of their own that suits them best. Prices are f64 and
 * sums are made in one order, so that the answer is the same everywhere, also where several are
 * equally good.
 */
#ifndef CK_ASSIGNMENT_H
#define CK_ASSIGNMENT_H

#include "io/error.h"

#include <stddef.h>
#include <stdint.h>

/* column[n] becomes the permutation with the largest sum of gain[i * stride + column[i]]. The gains
 * must be finite. Needs 7 arrays of n numbers. CK_MEMORY. */
ck_status ck_assign(const float *gain, size_t n, size_t stride, uint32_t *column, ck_error *err);

#endif
