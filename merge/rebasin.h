/* Git re-basin: finds the order of one model's channels that is nearest to another model, so that
 * the two can be mixed channel by channel.
 *
 *   ck_channels *c;
 *   CK_TRY(ck_channels_open(b, NULL, &c, err));
 *   CK_TRY(ck_rebasin(c, a, &options, &result, err));
 *   CK_TRY(ck_channels_view(c, &view, err));           b in a's order
 *
 * Weight matching (Ainsworth, Hayase, Srinivasa, "Git Re-Basin: merging models modulo permutation
 * symmetries", 2022): the sum of a's weights times b's, permuted, shall be largest, which is the
 * least distance between the two. For one group of channels, all others being as they are, the best
 * order is the solution of an assignment problem over the products of channels (assignment.h); of
 * blocks within which channels change places it is exact too: every pair of blocks is solved, then
 * the pairing of blocks. Groups are gone through until no order gets better (at most 100 times).
 * Other than the paper's, groups are taken in the order of the table, not at random, and what faces
 * channels that no order was found for yet does not count in the first round. So a model that is
 * the other but for a permutation gives back the other (unless channels are alike).
 *
 * Products are f32 sums in a fixed order: the same orders come out with any number of threads and
 * on any processor. Memory: for the largest group a product for each pair of channels, which is 105
 * MB in SD1, SD2 and SDXL (feed-forwards of 5120), and some 50 MB for blocks of weights.
 */
#ifndef CK_REBASIN_H
#define CK_REBASIN_H

#include "io/progress.h"
#include "merge/channels.h"

typedef struct ck_rebasin_options {
    unsigned threads;           /* 0: one for each processor */
    ck_progress *progress;      /* NULL: none; started with ck_rebasin_bytes */
    const volatile int *cancel; /* becomes not 0: stop with CK_CANCELLED. NULL: never */
} ck_rebasin_options;

typedef struct ck_rebasin_result {
    uint64_t channels, moved; /* of all groups; how many stand in another place */
    unsigned rounds;
} ck_rebasin_result;

/* What the first round reads of the model, in bytes. */
uint64_t ck_rebasin_bytes(const ck_channels *c);

/* Sets the orders of c's groups to those nearest to `like`, in which tensors are named as in c's
 * model; what it lacks does not count. CK_INPUT when shapes differ or a weight is not finite. */
ck_status ck_rebasin(ck_channels *c, const ck_reader *like, const ck_rebasin_options *o,
                     ck_rebasin_result *result, ck_error *err);

#endif
