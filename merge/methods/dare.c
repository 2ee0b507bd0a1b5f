/* DARE: some of the changes of several models, by chance, the others made up for. */
#include "kernels/random.h"
#include "merge/methods/changes.h"

/* Each change stays with the probability of its model's density, divided by it. */
static void drop_and_rescale(const ck_arguments *args, const float *const *in, float *out, size_t n,
                             bool elect) {
    float changes[CK_MAX_INPUTS];
    for (size_t e = 0; e < n; e++) {
        for (size_t i = 1; i < args->inputs; i++) {
            float density = (float)args->values[CK_DENSITY].items[i - 1];
            float weight = (float)args->values[CK_WEIGHT].items[i - 1];
            bool stays = ck_random_unit(ck_random_key(args->key, i), args->first + e) < density;
            changes[i] = stays ? weight * (in[i][e] - in[0][e]) / density : 0;
        }
        out[e] = ck_changes_sum(args, in[0][e], changes, elect);
    }
}

static void linear_block(const ck_kernels *k, const ck_arguments *args, const float *const *in,
                         float *out, size_t n) {
    (void)k;
    drop_and_rescale(args, in, out, n, false);
}

static void ties_block(const ck_kernels *k, const ck_arguments *args, const float *const *in,
                       float *out, size_t n) {
    (void)k;
    drop_and_rescale(args, in, out, n, true);
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
