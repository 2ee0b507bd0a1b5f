/* What methods ask about a tensor as a whole, for their prepare (method.h).
 *
 *   ck_rank least = {.quantity = 0, .rank = args->elements - k};
 *   CK_TRY(ck_whole_ranks(pass, ck_whole_changes, NULL, 1, &least, 1, err));
 *   ... least.value is the k-th largest |B - A| ...
 *
 * Everything is exact or always summed in the same order, in memory that does not grow with the
 * tensor.
 */
#ifndef CK_WHOLE_H
#define CK_WHOLE_H

#include "merge/method.h"

/* The inner products of the inputs: gram[i * inputs + j]. One run. */
ck_status ck_whole_products(const ck_pass *pass, size_t inputs, double *gram, ck_error *err);

/* A number for every element, one of several that are asked about: writes n of them to out. */
typedef void ck_quantity(const void *context, size_t quantity, const float *const *in,
                         uint64_t first, size_t n, float *out);

/* |input - base| of input `quantity` + 1; input 0 is the base. */
void ck_whole_changes(const void *context, size_t quantity, const float *const *in, uint64_t first,
                      size_t n, float *out);

/* Which element in the order of a quantity, counted from 0 at the smallest. */
typedef struct ck_rank {
    size_t quantity;
    uint64_t rank;
    float value; /* is filled in: the quantity there */
} ck_rank;

/* Finds the values at `count` ranks of `quantities` quantities. NaN count as the largest (or, with
 * a sign, the smallest). Two runs. */
ck_status ck_whole_ranks(const ck_pass *pass, ck_quantity *quantity, const void *context,
                         size_t quantities, ck_rank *ranks, size_t count, ck_error *err);

#endif
