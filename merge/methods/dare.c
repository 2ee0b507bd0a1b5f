/* DARE: some of the changes of several models, by chance, the others made up for. */
#include "kernels/random.h"
#include "merge/methods/changes.h"

/* Each change stays with the probability of its model's density, divided by it. */
static void take_by_chance(const ck_arguments *args, size_t input, size_t at, float *changes,
                           size_t n) {
    double density = args->values[CK_DENSITY].items[input - 1];
    uint32_t limit = (uint32_t)(density * 0x1p24);
    uint64_t key = ck_random_key(args->key, input), first = args->first + at;
    float scale = density > 0 ? (float)(1 / density) : 0;
    for (size_t e = 0; e < n; e++) {
        /* A factor instead of a branch, which could not be foreseen. */
        float stays = (float)(ck_random_24(key, first + e) < limit);
        changes[e] *= scale * stays;
    }
}

static void linear_block(const ck_kernels *k, const ck_arguments *args, const float *const *in,
                         float *out, size_t n) {
    (void)k;
    ck_changes_merge(args, in, out, n, false, take_by_chance);
}

static void ties_block(const ck_kernels *k, const ck_arguments *args, const float *const *in,
                       float *out, size_t n) {
    (void)k;
    ck_changes_merge(args, in, out, n, true, take_by_chance);
}

extern const ck_method ck_dare_linear, ck_dare_ties;

const ck_method ck_dare_linear = {
    .name = "dare-linear",
    .title = "DARE linear",
    .formula = "BASE + lambda sum of the w (X - BASE) / density that chance lets stay",
    .doc =
        "The base is the first model (or --base). Every change stays with probability density and "
        "is "
        "divided by it, as in the paper; mergekit scales what stayed to the old L1 norm instead. "
        "Chance is a function of --seed, the tensor's name, the model and the element: the same in "
        "every run. A tensor that a model lacks adds nothing.",
    .min_inputs = 2,
    .parameters = {CK_CHANGES_PARAMETERS(0)},
    .has_base = true,
    .first_stands_in = true,
    .check = ck_changes_check,
    .block = linear_block,
};

const ck_method ck_dare_ties = {
    .name = "dare-ties",
    .title = "DARE TIES",
    .formula = "BASE + lambda sum of the w (X - BASE) / density that chance lets stay and that "
               "have the sign "
               "of their sum",
    .doc = "As dare-linear, and of what stayed only the changes count whose sign is that of their "
           "sum, as "
           "in ties.",
    .min_inputs = 2,
    .parameters = {CK_CHANGES_PARAMETERS(0)},
    .has_base = true,
    .first_stands_in = true,
    .check = ck_changes_check,
    .block = ties_block,
};
