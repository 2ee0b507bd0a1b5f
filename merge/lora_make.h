/* Makes LoRA files: changes of weights are brought down to products of small matrices by their
 * singular values.
 *
 *   ck_lora_cut cut = {.rank = 64, .conv_rank = 32};
 *   CK_TRY(ck_lora_make("tuned - base", layers, count, read, context, &options, &lora, &made,
 * err));
 *   ... lora is a reader with the names of kohya's tools, to be written like any other ...
 *
 * The change U S V of a layer is stored as lora_up = U sqrt(S), lora_down = sqrt(S) V and alpha =
 * rank. (kohya's tools put all of S into lora_up, and then clamp both to a quantile of their
 * values, which loses the largest changes; in f16 the halves keep more of small ones.) Biases and
 * norms are stored whole, as diff_b and diff.
 */
#ifndef CK_LORA_MAKE_H
#define CK_LORA_MAKE_H

#include "io/progress.h"
#include "merge/lora.h"

/* How many singular values s_0 >= s_1 >= ... of a layer are kept, within its rank. */
typedef enum ck_lora_dynamic {
    CK_DYNAMIC_NONE,       /* the rank */
    CK_DYNAMIC_RATIO,      /* those larger than s_0 / value */
    CK_DYNAMIC_CUMULATIVE, /* as few as add up to `value` of the sum of all */
    CK_DYNAMIC_FROBENIUS, /* as few as have `value` of the length, the root of the sum of squares */
} ck_lora_dynamic;

/* The words for these, in enum order. */
#define CK_DYNAMIC_WORDS "none|ratio|cumulative|fro"

typedef struct ck_lora_cut {
    size_t rank;      /* most; 0: the layer's own `rank` */
    size_t conv_rank; /* of kernels larger than 1x1 */
    ck_lora_dynamic dynamic;
    double value;
    double least_change; /* layers without a larger change are left out */
} ck_lora_cut;

typedef struct ck_lora_make_options {
    ck_lora_cut cut;
    ck_dtype dtype;   /* of the result: F32, F16, BF16 */
    bool peft;        /* lora_A and lora_B instead of lora_down, lora_up and alpha */
    unsigned threads; /* 0: as many as there are processors; each holds a layer, twice at worst */
    ck_progress *progress; /* is told of every element, as 4 bytes; NULL: nobody */
} ck_lora_make_options;

typedef struct ck_lora_made {
    size_t layers, unchanged; /* stored; left out */
    size_t least_rank, most_rank;
    double kept;       /* share of the changes' length: sqrt(1 - lost squares / all) */
    double worst_kept; /* of the layer of which least is kept */
    const char *worst; /* its name, or NULL */
} ck_lora_made;

/* `layers` say names (without "_bias"), shapes, whether it is a bias and, where the cut has no
 * rank, ranks. read fills change[rows * columns] of layer i; it is called from several threads.
 * label is what messages call the result. *lora is a view that owns its data, to which metadata can
 * be added; ck_view_finish() it. */
ck_status ck_lora_make(const char *label, const ck_lora_layer *layers, size_t count,
                       ck_status (*read)(void *context, size_t i, float *change, ck_error *err),
                       void *context, const ck_lora_make_options *options, ck_reader **lora,
                       ck_lora_made *made, ck_error *err);

#endif
