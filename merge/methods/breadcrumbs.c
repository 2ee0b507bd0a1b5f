/* Breadcrumbs: neither the largest nor the smallest changes of several models. */
#include "io/os.h"
#include "merge/methods/changes.h"
#include "merge/methods/vectors.h"
#include "merge/whole.h"

#include <math.h>

enum { GAMMA = CK_NORMALIZE + 1 };

/* The sizes between which the changes of an input count. */
typedef struct range {
    float least, most;
} range;

static ck_status check(const ck_arguments *args, ck_error *err) {
    const ck_value *v = args->values;
    double gamma = v[GAMMA].items[0];
    if (!(gamma >= 0 && gamma <= 1))
        return ck_fail(err, CK_USAGE, "gamma %g: must be from 0 to 1", gamma);
    return ck_changes_check(args, err);
}

/* The ranks [*from, *to) that count, by size from the smallest; nothing when *from >= *to. */
static void choose(const ck_arguments *args, size_t input, uint64_t *from, uint64_t *to) {
    double density = args->values[CK_DENSITY].items[input - 1], n = (double)args->elements;
    uint64_t keep = (uint64_t)(density * n), top = (uint64_t)(args->values[GAMMA].items[0] * n);
    /* Where the share cannot be had without the largest, some of these stay. */
    if (keep + top > args->elements) top = args->elements - keep;
    *to = args->elements - top;
    *from = *to - keep;
}

static ck_status prepare(const ck_arguments *args, const ck_pass *pass, void **found,
                         ck_error *err) {
    ck_rank ranks[2 * CK_MAX_INPUTS];
    size_t count = 0;
    range *ranges = ck_alloc_array(args->inputs, sizeof *ranges);
    if (!(*found = ranges)) return ck_fail_memory(err, "breadcrumbs");
    for (size_t i = 1; i < args->inputs; i++) {
        uint64_t from, to;
        choose(args, i, &from, &to);
        ranges[i] = (range){INFINITY, -INFINITY};
        if (from >= to) continue;
        ranks[count++] = (ck_rank){.quantity = i - 1, .rank = from};
        ranks[count++] = (ck_rank){.quantity = i - 1, .rank = to - 1};
    }
    CK_TRY(ck_whole_ranks(pass, ck_whole_changes, NULL, args->inputs - 1, ranks, count, err));
    for (size_t r = 0; r < count; r += 2)
        ranges[ranks[r].quantity + 1] = (range){ranks[r].value, ranks[r + 1].value};
    return CK_OK;
}

CK_VECTORS static void take_middle(const ck_kernels *k, const ck_arguments *args, size_t input,
                                   size_t at, const float *x, const float *base, float *changes,
                                   size_t n) {
    (void)k, (void)at;
    range r = ((const range *)args->found)[input];
#pragma omp simd
    for (size_t e = 0; e < n; e++) {
        float change = x[e] - base[e], size = fabsf(change);
        changes[e] = ((size >= r.least) & (size <= r.most)) ? change : 0;
    }
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    ck_changes_merge(k, args, in, out, n, CK_ALL_COUNT, take_middle);
}

static void ties_block(const ck_kernels *k, const ck_arguments *args, const float *const *in,
                       float *out, size_t n) {
    ck_changes_merge(k, args, in, out, n, CK_ELECT_SUM, take_middle);
}

#define GAMMA_ROW                                                                                  \
    { .name = "gamma", .fallback = 0.01, .help = "share of the largest changes that is left out" }

extern const ck_method ck_breadcrumbs, ck_breadcrumbs_ties;

const ck_method ck_breadcrumbs = {
    .name = "breadcrumbs",
    .title = "Model Breadcrumbs",
    .formula = "BASE + lambda sum of the w (X - BASE) that are neither outliers nor small",
    .doc =
        "The base is the first model (or --base). Of each model's changes in a tensor the gamma "
        "share with the largest magnitude is left out, and of the others the density share (of "
        "all) with the largest is kept, with all that are as large as these. Davari and "
        "Belilovsky 2023; as mergekit's breadcrumbs. (Before 0.1.5, mergekit left out everything "
        "in "
        "tensors so small that no change counts as an outlier.) A tensor that a model lacks adds "
        "nothing.",
    .min_inputs = 2,
    .parameters = {CK_CHANGES_PARAMETERS(0), GAMMA_ROW},
    .has_base = true,
    .first_stands_in = true,
    .check = check,
    .prepare = prepare,
    .block = block,
};

const ck_method ck_breadcrumbs_ties = {
    .name = "breadcrumbs-ties",
    .title = "Model Breadcrumbs TIES",
    .formula = "BASE + lambda sum of the w (X - BASE) that are neither outliers nor small and that "
               "have the sign of their sum",
    .doc = "As breadcrumbs, and of what is kept only the changes count whose sign is that of their "
           "sum, as in ties.",
    .min_inputs = 2,
    .parameters = {CK_CHANGES_PARAMETERS(0), GAMMA_ROW},
    .has_base = true,
    .first_stands_in = true,
    .check = check,
    .prepare = prepare,
    .block = ties_block,
};
