/* TIES: the largest changes of several models, where they agree on the sign. */
#include "io/os.h"
#include "merge/methods/changes.h"
#include "merge/methods/vectors.h"
#include "merge/whole.h"

#include <math.h>

enum { MECHA = 1 };

/* Finds the least change of each input that counts. */
static ck_status prepare(const ck_arguments *args, const ck_pass *pass, void **found,
                         ck_error *err) {
    ck_rank ranks[CK_MAX_INPUTS];
    size_t count = 0;
    float *least = ck_alloc_array(args->inputs, sizeof *least);
    if (!(*found = least)) return ck_fail_memory(err, "ties");
    for (size_t i = 1; i < args->inputs; i++) {
        double density = args->values[CK_DENSITY].items[i - 1], n = (double)args->elements;
        uint64_t keep = (uint64_t)(density * n);
        /* It counts what is dropped, and always drops but one. */
        if (args->compat == MECHA) keep = args->elements + 1 - (uint64_t)fmax((1 - density) * n, 1);
        least[i] = keep == args->elements ? 0 : INFINITY;
        if (keep > 0 && keep < args->elements)
            ranks[count++] = (ck_rank){.quantity = i - 1, .rank = args->elements - keep};
    }
    CK_TRY(ck_whole_ranks(pass, ck_whole_changes, NULL, args->inputs - 1, ranks, count, err));
    for (size_t r = 0; r < count; r++) least[ranks[r].quantity + 1] = ranks[r].value;
    return CK_OK;
}

CK_VECTORS static void take_largest(const ck_kernels *k, const ck_arguments *args, size_t input,
                                    size_t at, const float *x, const float *base, float *changes,
                                    size_t n) {
    (void)k, (void)at;
    float least = ((const float *)args->found)[input];
#pragma omp simd
    for (size_t e = 0; e < n; e++) {
        float change = x[e] - base[e];
        changes[e] = fabsf(change) >= least ? change : 0;
    }
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    ck_election election = args->compat == MECHA ? CK_ELECT_MOST : CK_ELECT_SUM;
    ck_changes_merge(k, args, in, out, n, election, take_largest);
}

extern const ck_method ck_ties;
const ck_method ck_ties = {
    .name = "ties",
    .title = "TIES",
    .formula =
        "BASE + lambda mean of the w (X - BASE) that are among the largest and have the sign of "
        "their sum",
    .doc =
        "The base is the first model (or --base). Of each model's changes in a tensor the density "
        "share "
        "with the largest magnitude is kept, and all that are as large as the least of these; then "
        "for "
        "every element the sign of the weighted sum is elected, and only changes of that sign "
        "count "
        "(a sum of zero elects plus). As mergekit's ties, per tensor; the paper takes the largest "
        "over the whole model. With "
        "--compat mecha as sd-mecha's ties_sum: the sign that most changes have is elected, none "
        "where it is a draw, and the share is counted from the smallest. A tensor that a model "
        "lacks adds nothing.",
    .min_inputs = 2,
    .parameters = {CK_CHANGES_PARAMETERS(1)},
    .compat = "mecha",
    .has_base = true,
    .first_stands_in = true,
    .check = ck_changes_check,
    .prepare = prepare,
    .block = block,
};
