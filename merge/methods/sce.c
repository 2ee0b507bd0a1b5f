/* SCE: select where the models vary, calculate their shares, erase the outvoted. */
#include "io/os.h"
#include "merge/method.h"
#include "merge/whole.h"

#include <math.h>

enum { MERGEKIT = 1 };

/* The variance of the changes from which on an element is selected, and the models' shares. */
typedef struct facts {
    float least;
    float shares[CK_MAX_INPUTS];
} facts;

typedef struct context {
    size_t inputs;
    uint64_t varying;
    float least;
    double squares[CK_MAX_INPUTS];
} context;

static ck_status check(const ck_arguments *args, ck_error *err) {
    const ck_value *v = args->values;
    double select = v[0].items[0];
    if (!(select >= 0 && select <= 1))
        return ck_fail(err, CK_USAGE, "sce: select %g: must be from 0 to 1", select);
    return CK_OK;
}

static float variance(const float *const *in, size_t inputs, size_t e) {
    double sum = 0, squares = 0, models = (double)(inputs - 1);
    for (size_t i = 1; i < inputs; i++) sum += (double)(in[i][e] - in[0][e]);
    for (size_t i = 1; i < inputs; i++) {
        double apart = (double)(in[i][e] - in[0][e]) - sum / models;
        squares += apart * apart;
    }
    return (float)(squares / models);
}

static void quantity(const void *context_, size_t which, const float *const *in, uint64_t first,
                     size_t n, float *out) {
    const context *c = context_;
    (void)which, (void)first;
    for (size_t e = 0; e < n; e++) out[e] = variance(in, c->inputs, e);
}

static void count_varying(void *context_, const float *const *in, uint64_t first, size_t n) {
    context *c = context_;
    (void)first;
    for (size_t e = 0; e < n; e++) c->varying += variance(in, c->inputs, e) != 0;
}

static void add_squares(void *context_, const float *const *in, uint64_t first, size_t n) {
    context *c = context_;
    (void)first;
    for (size_t e = 0; e < n; e++) {
        if (c->least > 0 && !(variance(in, c->inputs, e) >= c->least)) continue;
        for (size_t i = 1; i < c->inputs; i++) {
            double change = (double)(in[i][e] - in[0][e]);
            c->squares[i] += change * change;
        }
    }
}

/* least stays 0 where everything is selected, and becomes infinite where nothing is. */
static ck_status select_elements(const ck_arguments *args, const ck_pass *pass, context *c,
                                 ck_error *err) {
    double share = args->values[0].items[0];
    if (share >= 1) return CK_OK;
    CK_TRY(pass->run(pass, count_varying, c, err));
    uint64_t keep = (uint64_t)((double)c->varying * share);
    c->least = INFINITY;
    if (keep == 0) return CK_OK;
    ck_rank rank = {.rank = args->elements - keep};
    CK_TRY(ck_whole_ranks(pass, quantity, c, 1, &rank, 1, err));
    c->least = rank.value;
    return CK_OK;
}

static ck_status prepare(const ck_arguments *args, const ck_pass *pass, void **found,
                         ck_error *err) {
    context c = {.inputs = args->inputs};
    facts *f = ck_alloc(sizeof *f);
    if (!(*found = f)) return ck_fail_memory(err, "sce");
    CK_TRY(select_elements(args, pass, &c, err));
    CK_TRY(pass->run(pass, add_squares, &c, err));
    double sum = 0, elements = (double)args->elements;
    for (size_t i = 1; i < args->inputs; i++) sum += c.squares[i] / elements;
    bool equal = args->compat == MERGEKIT ? sum < 1e-6 : sum == 0;
    f->least = c.least;
    for (size_t i = 1; i < args->inputs; i++)
        f->shares[i] =
            (float)(equal ? 1 / (double)(args->inputs - 1) : c.squares[i] / elements / sum);
    return CK_OK;
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    (void)k;
    const facts *f = args->found;
    for (size_t e = 0; e < n; e++) {
        float base = in[0][e], all = 0, sum = 0, shares = 0;
        out[e] = base;
        if (f->least > 0 && !(variance(in, args->inputs, e) >= f->least)) continue;
        for (size_t i = 1; i < args->inputs; i++) all += in[i][e] - base;
        for (size_t i = 1; i < args->inputs; i++) {
            float change = in[i][e] - base;
            if (!(all >= 0 ? change > 0 : change < 0)) continue;
            sum += change * f->shares[i];
            shares += f->shares[i];
        }
        if (shares > 0) out[e] = base + sum / fmaxf(shares, 1e-6f);
    }
}

extern const ck_method ck_sce;
const ck_method ck_sce = {
    .name = "sce",
    .title = "SCE",
    .formula = "BASE + mean of those X - BASE that have the sign of their sum, weighted by mean "
               "(X - BASE)^2, where the models vary most",
    .doc = "The base is the first model (or --base). Wan and others 2024. Of the elements in which "
           "the models differ the select share with the largest variance is taken; a model's "
           "weight is its mean squared change there. As mergekit's sce, which counts all models "
           "the same where the mean squares add up to less than 1e-6, as those of most fine-tunes "
           "do: --compat mergekit does so too. For a tensor that a model lacks, the base stands "
           "in.",
    .min_inputs = 2,
    .parameters = {{.name = "select", .fallback = 1, .help = "share of the elements taken"}},
    .compat = "mergekit",
    .has_base = true,
    .first_stands_in = true,
    .check = check,
    .prepare = prepare,
    .block = block,
};
