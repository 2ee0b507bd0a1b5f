/* DARE: some of the changes of several models, by chance, the others made up for. */
#include "io/os.h"
#include "merge/methods/chance.h"
#include "merge/methods/changes.h"

#include <math.h>

/* Each change stays with the probability of its model's density, divided by it; or, as mergekit has
 * it, times what prepare found. */
static void take_by_chance(const ck_kernels *k, const ck_arguments *args, size_t input, size_t at,
                           const float *x, const float *base, float *changes, size_t n) {
    double density = args->values[CK_DENSITY].items[input - 1];
    const float *scales = args->found;
    float scale = density > 0 ? (float)(1 / density) : 0;
    ck_chance(k, args, input, at, density, scales ? scales[input] : scale, x, base, changes, n);
}

/* Sums of magnitudes before and after chance. */
typedef struct sums {
    const ck_kernels *k;
    ck_arguments args;
    double *before, *after;
} sums;

static void add_magnitudes(void *context, const float *const *in, uint64_t first, size_t n) {
    sums *s = context;
    float stay[CK_STRIP];
    s->args.first = first;
    for (size_t i = 1; i < s->args.inputs; i++) {
        ck_chance(s->k, &s->args, i, 0, s->args.values[CK_DENSITY].items[i - 1], 1, in[i], in[0],
                  stay, n);
        for (size_t e = 0; e < n; e++) {
            s->before[i] += fabs((double)(in[i][e] - in[0][e]));
            s->after[i] += fabs((double)stay[e]);
        }
    }
}

/* For mergekit's scale: what stays gets the sum of magnitudes that all had. */
static ck_status prepare(const ck_arguments *args, const ck_pass *pass, void **found,
                         ck_error *err) {
    double before[CK_MAX_INPUTS] = {0}, after[CK_MAX_INPUTS] = {0};
    sums s = {.k = ck_kernels_best(), .args = *args, .before = before, .after = after};
    float *scales = ck_alloc_array(args->inputs, sizeof *scales);
    if (!(*found = scales)) return ck_fail_memory(err, "dare");
    CK_TRY(pass->run(pass, add_magnitudes, &s, err));
    for (size_t i = 1; i < args->inputs; i++)
        scales[i] = before[i] < 1e-7 || after[i] < 1e-7 ? 1 : (float)(before[i] / after[i]);
    return CK_OK;
}

static void linear_block(const ck_kernels *k, const ck_arguments *args, const float *const *in,
                         float *out, size_t n) {
    ck_changes_merge(k, args, in, out, n, CK_ALL_COUNT, take_by_chance);
}

static void ties_block(const ck_kernels *k, const ck_arguments *args, const float *const *in,
                       float *out, size_t n) {
    ck_changes_merge(k, args, in, out, n, CK_ELECT_SUM, take_by_chance);
}

extern const ck_method ck_dare_linear, ck_dare_ties;

const ck_method ck_dare_linear = {
    .name = "dare-linear",
    .title = "DARE linear",
    .formula = "BASE + lambda sum of the w (X - BASE) / density that chance lets stay",
    .doc =
        "The base is the first model (or --base). Every change stays with probability density and "
        "is divided by it, as in the paper (Yu and others 2023), so that the mean is what it was; "
        "mergekit, and --compat mergekit, scale what stayed to the old L1 norm instead. (Other "
        "tools call the share that is dropped the probability.) Chance is a function of --seed, "
        "the tensor's name, the model and the element: the same in every run. A tensor that a "
        "model lacks adds nothing.",
    .min_inputs = 2,
    .parameters = {CK_CHANGES_PARAMETERS(0)},
    .compat = "mergekit",
    .has_base = true,
    .first_stands_in = true,
    .check = ck_changes_check,
    .prepare = prepare,
    .prepares_for_compat = true,
    .block = linear_block,
};

const ck_method ck_dare_ties = {
    .name = "dare-ties",
    .title = "DARE TIES",
    .formula = "BASE + lambda sum of the w (X - BASE) / density that chance lets stay and that "
               "have the sign "
               "of their sum",
    .doc = "As dare-linear, and of what stayed only the changes count whose sign is that of their "
           "sum, as in ties.",
    .min_inputs = 2,
    .parameters = {CK_CHANGES_PARAMETERS(0)},
    .compat = "mergekit",
    .has_base = true,
    .first_stands_in = true,
    .check = ck_changes_check,
    .prepare = prepare,
    .prepares_for_compat = true,
    .block = ties_block,
};
