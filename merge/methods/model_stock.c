/* Model stock: as far from the base as several fine-tunes agree. */
#include "io/os.h"
#include "merge/method.h"
#include "merge/methods/gram.h"

#include <float.h>
#include <math.h>

static void combine(const ck_arguments *args, const double *gram, double *c) {
    size_t n = args->inputs;
    size_t models = n - 1, pairs = 0;
    double cosine = 0;
    for (size_t i = 1; i < n; i++)
        for (size_t j = 1; j < i; j++, pairs++) {
            double lengths = sqrt(fmax(0, ck_change_product(gram, n, i, i))) *
                             sqrt(fmax(0, ck_change_product(gram, n, j, j)));
            if (lengths > 0)
                cosine += fmax(-1, fmin(1, ck_change_product(gram, n, i, j) / lengths));
        }
    cosine /= (double)pairs;
    double divisor = 1 + (double)(models - 1) * cosine;
    double t = divisor > 0 ? (double)models * cosine / divisor : 0;
    c[0] = 1 - t;
    for (size_t i = 1; i < n; i++) c[i] = t / (double)models;
}

/* ---- sd-mecha's: row by row, and of the pairs only neighbours count ---- */

/* A row lies along the last axis. */
static uint64_t row_length(const ck_arguments *args) {
    return args->rank ? args->shape[args->rank - 1] : 1;
}

typedef struct rows {
    size_t inputs;
    uint64_t length;
    double squares[CK_MAX_INPUTS];  /* of the row's changes, by input */
    double products[CK_MAX_INPUTS]; /* of those with the next input's */
    float *t;                       /* of the row */
} rows;

static void end_row(rows *r) {
    double cosine = 0, models = (double)(r->inputs - 1);
    for (size_t i = 1; i + 1 < r->inputs; i++)
        cosine += r->products[i] /
                  (fmax(sqrt(r->squares[i]), 1e-6) * fmax(sqrt(r->squares[i + 1]), 1e-6));
    cosine /= models - 1;
    *r->t++ = (float)(models * cosine / (1 + (models - 1) * cosine));
    for (size_t i = 0; i < r->inputs; i++) r->squares[i] = r->products[i] = 0;
}

static void add_elements(void *context, const float *const *in, uint64_t first, size_t n) {
    rows *r = context;
    for (size_t e = 0; e < n; e++) {
        for (size_t i = 1; i < r->inputs; i++) {
            double change = (double)(in[i][e] - in[0][e]);
            r->squares[i] += change * change;
            if (i + 1 < r->inputs) r->products[i] += change * (double)(in[i + 1][e] - in[0][e]);
        }
        if ((first + e + 1) % r->length == 0) end_row(r);
    }
}

static ck_status prepare(const ck_arguments *args, const ck_pass *pass, void **found,
                         ck_error *err) {
    rows r = {.inputs = args->inputs, .length = row_length(args)};
    r.t = *found = ck_alloc_array((size_t)(args->elements / r.length), sizeof *r.t);
    if (!r.t) return ck_fail_memory(err, "model-stock");
    return pass->run(pass, add_elements, &r, err);
}

static uint64_t needs(const ck_arguments *args) {
    return args->compat ? args->elements / row_length(args) * sizeof(float) : 0;
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    (void)k;
    const float *t = args->found;
    uint64_t length = row_length(args);
    for (size_t e = 0; e < n; e++) {
        float mean = 0;
        for (size_t i = 1; i < args->inputs; i++) mean += in[i][e] - in[0][e];
        float change = t[(args->first + e) / length] * (mean / (float)(args->inputs - 1));
        change = change != change ? 0 : fmaxf(-FLT_MAX, fminf(FLT_MAX, change));
        out[e] = in[0][e] + change;
    }
}

extern const ck_method ck_model_stock;
const ck_method ck_model_stock = {
    .name = "model-stock",
    .title = "Model Stock",
    .formula = "t mean(A, B, ...) + (1 - t) BASE, t = n c / (1 + (n - 1) c), c the mean cosine of "
               "A - BASE, "
               "B - BASE, ...",
    .doc = "The base is the first model (or --base). Each tensor as one vector; the cosine is the "
           "mean over "
           "all pairs, as in the paper and mergekit; sd-mecha, and --compat mecha, takes every row "
           "along "
           "the last axis as a vector, and the mean over neighbours in the order of the models. "
           "For a tensor "
           "that "
           "a model lacks, the base stands in.",
    .min_inputs = 3,
    .compat = "mecha",
    .has_base = true,
    .first_stands_in = true,
    .combine = combine,
    .prepare = prepare,
    .prepares_for_compat = true,
    .needs = needs,
    .block = block,
};
