/* What several models learned over a base, added to it. */
#include "merge/method.h"

enum { WEIGHT, LAMBDA, NORMALIZE };

static double weight_sum(const ck_value *v) {
    double sum = 0;
    for (size_t i = 0; i < v[WEIGHT].count; i++) sum += v[WEIGHT].items[i];
    return sum;
}

static ck_status check(const ck_arguments *args, ck_error *err) {
    const ck_value *v = args->values;
    if (v[NORMALIZE].items[0] != 0 && weight_sum(v) == 0)
        return ck_fail(err, CK_USAGE,
                       "task-arithmetic: the weights add up to 0, so they cannot be normalised");
    return CK_OK;
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    const ck_value *v = args->values;
    double factor = v[LAMBDA].items[0];
    if (v[NORMALIZE].items[0] != 0) factor /= weight_sum(v);
    k->scale(out, in[0], 1, n);
    for (size_t i = 1; i < args->inputs; i++)
        k->add_difference(out, out, in[i], in[0], (float)(factor * v[WEIGHT].items[i - 1]), n);
}

extern const ck_method ck_task_arithmetic;
const ck_method ck_task_arithmetic = {
    .name = "task-arithmetic",
    .title = "Task arithmetic",
    .formula = "BASE + lambda (w1 (A - BASE) + w2 (B - BASE) + ...)",
    .doc = "The base is the first model (or --base). As mergekit's task_arithmetic: weights are "
           "used as "
           "they are unless normalize is on. A tensor that a model lacks adds nothing.",
    .min_inputs = 2,
    .parameters = {{.name = "weight",
                    .fallback = 1,
                    .list = true,
                    .help = "one weight per model, none for the base"},
                   {.name = "lambda", .fallback = 1, .help = "factor for all differences"},
                   {.name = "normalize",
                    .fallback = 0,
                    .on_off = true,
                    .help = "divide by the sum of the weights"}},
    .has_base = true,
    .first_stands_in = true,
    .check = check,
    .block = block,
};
