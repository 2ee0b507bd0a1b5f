/* Arcee fusion: only those changes that matter, by size and by how much their row changed. */
#include "io/os.h"
#include "merge/method.h"
#include "merge/methods/exact.h"
#include "merge/whole.h"

#include <stdlib.h>

/* The importance from which on a change is taken, and what its row has to do with it. */
typedef struct facts {
    float least;
    float rows[]; /* the divergence of each row */
} facts;

typedef struct context {
    const ck_arguments *args;
    facts *facts;
    uint64_t row;  /* elements of one */
    float *a, *b;  /* the row that is being collected */
    uint64_t done; /* rows */
} context;

static uint64_t row_elements(const ck_arguments *args) {
    return args->rank ? args->shape[args->rank - 1] : 1;
}

/* Makes a distribution of a row, by softmax: *largest and *sum are what p(x) needs. */
static void normalise(const float *x, uint64_t n, double *largest, double *sum) {
    *largest = -INFINITY;
    *sum = 0;
    for (uint64_t i = 0; i < n; i++) *largest = fmax(*largest, (double)x[i]);
    for (uint64_t i = 0; i < n; i++) *sum += ck_exp((double)x[i] - *largest);
}

/* The divergence of B's row from A's. */
static double divergence(const float *a, const float *b, uint64_t n) {
    double most_a, most_b, sum_a, sum_b, total = 0;
    normalise(a, n, &most_a, &sum_a);
    normalise(b, n, &most_b, &sum_b);
    for (uint64_t i = 0; i < n; i++) {
        double p = ck_exp((double)b[i] - most_b) / sum_b + 1e-8;
        double q = ck_exp((double)a[i] - most_a) / sum_a + 1e-8;
        total += p * ck_log(p / q);
    }
    return total;
}

static void collect(void *context_, const float *const *in, uint64_t first, size_t n) {
    context *c = context_;
    for (size_t e = 0; e < n; e++) {
        uint64_t at = (first + e) % c->row;
        c->a[at] = in[0][e];
        c->b[at] = in[1][e];
        if (at == c->row - 1) c->facts->rows[c->done++] = (float)divergence(c->a, c->b, c->row);
    }
}

static void importance(const void *context_, size_t quantity, const float *const *in,
                       uint64_t first, size_t n, float *out) {
    const context *c = context_;
    (void)quantity;
    for (size_t e = 0; e < n; e++)
        out[e] = fabsf(in[1][e] - in[0][e]) * c->facts->rows[(first + e) / c->row];
}

static ck_status find(const ck_arguments *args, const ck_pass *pass, context *c, ck_error *err) {
    CK_TRY(pass->run(pass, collect, c, err));
    uint64_t last = args->elements - 1;
    ck_rank quarters[3];
    for (unsigned i = 0; i < 3; i++)
        quarters[i] = (ck_rank){.rank = (uint64_t)(0.25 * (i + 1) * (double)last)};
    CK_TRY(ck_whole_ranks(pass, importance, c, 1, quarters, 3, err));
    c->facts->least = quarters[1].value + 1.5f * (quarters[2].value - quarters[0].value);
    return CK_OK;
}

static ck_status prepare(const ck_arguments *args, const ck_pass *pass, void **found,
                         ck_error *err) {
    uint64_t row = row_elements(args);
    size_t rows = (size_t)(args->elements / row);
    context c = {.args = args,
                 .row = row,
                 .facts = ck_alloc(sizeof(facts) + rows * sizeof(float)),
                 .a = ck_alloc_array((size_t)row, sizeof *c.a),
                 .b = ck_alloc_array((size_t)row, sizeof *c.b)};
    *found = c.facts;
    ck_status status =
        c.facts && c.a && c.b ? find(args, pass, &c, err) : ck_fail_memory(err, "arcee-fusion");
    free(c.a);
    free(c.b);
    return status;
}

static uint64_t needs(const ck_arguments *args) {
    uint64_t row = row_elements(args);
    return (args->elements / row + 2 * row) * sizeof(float);
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    (void)k;
    const facts *f = args->found;
    uint64_t row = row_elements(args);
    for (size_t e = 0; e < n; e++) {
        float change = in[1][e] - in[0][e];
        bool taken = fabsf(change) * f->rows[(args->first + e) / row] >= f->least;
        out[e] = in[0][e] + (taken ? change : 0);
    }
}

extern const ck_method ck_arcee_fusion;
const ck_method ck_arcee_fusion = {
    .name = "arcee-fusion",
    .title = "Arcee Fusion",
    .formula = "A + those B - A for which |B - A| KL >= median + 1.5 (Q3 - Q1) of that, KL the "
               "divergence of softmax(B) from softmax(A) in the row",
    .doc = "A row is what lies along the last axis. As mergekit's arcee_fusion, A being its base; "
           "for tensors of more than a million elements mergekit takes the quartiles of a random "
           "sample, here they are exact. Rows of one element (1x1 kernels) have no divergence, "
           "and all of B's is taken. A tensor that B lacks is A's.",
    .min_inputs = 2,
    .max_inputs = 2,
    .prepare = prepare,
    .needs = needs,
    .block = block,
};
