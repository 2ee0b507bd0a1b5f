/* Takes more of B where it points elsewhere than A. */
#include "io/os.h"
#include "merge/method.h"

#include <math.h>
#include <stdlib.h>

/* A column is all elements with the same place in every axis but the first. */
typedef struct columns {
    uint64_t count;
    double *aa, *bb, *ab; /* inner products, one for each column */
} columns;

static uint64_t column_count(const ck_arguments *args) {
    return args->rank ? args->elements / args->shape[0] : 1;
}

static void add_products(void *context, const float *const *in, uint64_t first, size_t n) {
    columns *c = context;
    for (size_t e = 0; e < n; e++) {
        uint64_t i = (first + e) % c->count;
        double a = (double)in[0][e], b = (double)in[1][e];
        c->aa[i] += a * a;
        c->bb[i] += b * b;
        c->ab[i] += a * b;
    }
}

static double cosine(double aa, double bb, double ab) {
    double lengths = sqrt(aa) * sqrt(bb);
    return lengths > 0 ? ab / lengths : 0;
}

/* Leaves B's share for every column. */
static void find_shares(const columns *c, bool whole, double alpha, float *shares) {
    double aa = 0, bb = 0, ab = 0;
    for (uint64_t i = 0; i < c->count; i++) aa += c->aa[i], bb += c->bb[i], ab += c->ab[i];
    double all = cosine(aa, bb, ab);
    for (uint64_t i = 0; i < c->count; i++) {
        double own = cosine(c->aa[i], c->bb[i], c->ab[i]);
        double alike = (whole ? (own + all) / 2 : own) - alpha;
        shares[i] = (float)(1 - fmax(0, fmin(1, alike)));
    }
}

static ck_status find(const ck_arguments *args, const ck_pass *pass, bool whole, void **found,
                      ck_error *err) {
    uint64_t n = column_count(args);
    double *sums = ck_alloc_array(3 * (size_t)n, sizeof *sums);
    float *shares = ck_alloc_array((size_t)n, sizeof *shares);
    *found = shares;
    ck_status status = sums && shares ? CK_OK : ck_fail_memory(err, "cosine");
    columns c = {n, sums, sums + n, sums + 2 * n};
    if (status == CK_OK) status = pass->run(pass, add_products, &c, err);
    if (status == CK_OK) find_shares(&c, whole, args->values[0].items[0], shares);
    free(sums);
    return status;
}

static ck_status prepare_a(const ck_arguments *args, const ck_pass *pass, void **found,
                           ck_error *err) {
    return find(args, pass, false, found, err);
}

static ck_status prepare_b(const ck_arguments *args, const ck_pass *pass, void **found,
                           ck_error *err) {
    return find(args, pass, true, found, err);
}

static uint64_t needs(const ck_arguments *args) {
    return column_count(args) * (3 * sizeof(double) + sizeof(float));
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    (void)k;
    const float *shares = args->found;
    uint64_t count = column_count(args), i = args->first % count;
    for (size_t e = 0; e < n; e++) {
        out[e] = shares[i] == 1 ? in[1][e] : in[0][e] + shares[i] * (in[1][e] - in[0][e]);
        if (++i == count) i = 0;
    }
}

extern const ck_method ck_cosine_a, ck_cosine_b;

const ck_method ck_cosine_a = {
    .name = "cosine-a",
    .title = "Cosine A",
    .formula = "(1 - k) A + k B, k = 1 - (cos(A, B) - alpha) within 0..1, column by column",
    .doc = "A column is what lies along the first axis; one where A and B point the same way is "
           "A's, for alpha 0. As sd-mecha's add_cosine_a. supermerger's cosineA spreads the "
           "cosines of the whole model over 0..1 first, without the lowest and highest hundredth, "
           "and leaves the VAE alone: a share then depends on all other tensors. A tensor that B "
           "lacks is A's.",
    .min_inputs = 2,
    .max_inputs = 2,
    .parameters = {{.name = "alpha", .fallback = 0.5, .help = "how much more of B"}},
    .prepare = prepare_a,
    .needs = needs,
    .block = block,
};

const ck_method ck_cosine_b = {
    .name = "cosine-b",
    .title = "Cosine B",
    .formula = "(1 - k) A + k B, k = 1 - ((cos(A, B) of the column + of the tensor) / 2 - alpha) "
               "within 0..1",
    .doc = "As cosine-a, with the mean of the column's cosine and the whole tensor's.",
    .min_inputs = 2,
    .max_inputs = 2,
    .parameters = {{.name = "alpha", .fallback = 0.5, .help = "how much more of B"}},
    .prepare = prepare_b,
    .needs = needs,
    .block = block,
};
