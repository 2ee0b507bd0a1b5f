/* What methods share that take some of the changes of several models over a base: the base, input
 * 0, plus lambda times the changes that are left, summed up or by election of signs.
 *
 * Parameters in this order: density, weight, lambda, normalize; then those of the method.
 */
#ifndef CK_CHANGES_H
#define CK_CHANGES_H

#include "merge/method.h"

enum { CK_DENSITY, CK_WEIGHT, CK_LAMBDA, CK_NORMALIZE };

/* The table rows of these parameters. */
#define CK_CHANGES_PARAMETERS(normalize_default)                                                   \
    {.name = "density",                                                                            \
     .fallback = 0.5,                                                                              \
     .list = true,                                                                                 \
     .help = "share of the changes that is taken, one number per model"},                          \
        {.name = "weight", .fallback = 1, .list = true, .help = "one weight per model"},           \
        {.name = "lambda", .fallback = 1, .help = "factor for what is added to the base"}, {       \
        .name = "normalize", .fallback = normalize_default, .on_off = true,                        \
        .help = "divide by the sum of the weights that count"                                      \
    }

/* Refuses densities outside 0..1. */
ck_status ck_changes_check(const ck_arguments *args, ck_error *err);

/* Fills changes[n] with x - base, rescaled perhaps, where a change of this input is taken, and with
 * zero where it is not. The first is element args->first + at of the tensor. */
typedef void ck_changes_take(const ck_kernels *k, const ck_arguments *args, size_t input, size_t at,
                             const float *x, const float *base, float *changes, size_t n);

/* Whether of every element only the changes count whose sign is that of their sum (0 counts as
 * plus), or that of most of them (none counts when there are as many of each). */
typedef enum ck_election { CK_ALL_COUNT, CK_ELECT_SUM, CK_ELECT_MOST } ck_election;

/* out = base + lambda * sum of the weighted changes that take() leaves and that are elected. */
void ck_changes_merge(const ck_kernels *k, const ck_arguments *args, const float *const *in,
                      float *out, size_t n, ck_election election, ck_changes_take *take);

#endif
