/* Takes more of B where it points elsewhere than A. */
#include "io/os.h"
#include "merge/method.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

/* The whole tensor's cosine. With normalised columns it is the mean one, but for those that are
 * zero in one model only. */
static double cosine_of_all(const columns *c, bool normalised) {
    double aa = 0, bb = 0, ab = 0;
    for (uint64_t i = 0; i < c->count; i++) {
        aa += normalised ? c->aa[i] > 0 : c->aa[i];
        bb += normalised ? c->bb[i] > 0 : c->bb[i];
        ab += normalised ? cosine(c->aa[i], c->bb[i], c->ab[i]) : c->ab[i];
    }
    return cosine(aa, bb, ab);
}

/* What is alike in column i; all: the whole tensor's cosine, or NULL. */
static double likeness(const columns *c, uint64_t i, const double *all) {
    double own = cosine(c->aa[i], c->bb[i], c->ab[i]);
    return all ? (own + *all) / 2 : own;
}

static ck_status sum_columns(const ck_arguments *args, const ck_pass *pass, columns *c,
                             ck_error *err) {
    uint64_t n = column_count(args);
    double *sums = ck_alloc_array(3 * (size_t)n, sizeof *sums);
    *c = (columns){n, sums, sums + n, sums + 2 * n};
    return sums ? pass->run(pass, add_products, c, err) : ck_fail_memory(err, "cosine");
}

/* Leaves B's share for every column. */
static ck_status find(const ck_arguments *args, const ck_pass *pass, bool whole, void **found,
                      ck_error *err) {
    const double *spread = args->survey;
    double alpha = args->values[0].items[0];
    float *shares = ck_alloc_array((size_t)column_count(args), sizeof *shares);
    columns c = {0};
    *found = shares;
    ck_status status = shares ? sum_columns(args, pass, &c, err) : ck_fail_memory(err, "cosine");
    if (status == CK_OK) {
        double all = cosine_of_all(&c, spread && !whole);
        for (uint64_t i = 0; i < c.count; i++) {
            double alike = likeness(&c, i, whole || spread ? &all : NULL);
            if (spread) alike = (alike - spread[0]) / (spread[1] - spread[0]);
            alike -= spread && !whole ? fabs(alpha) : alpha;
            shares[i] = (float)(1 - fmax(0, fmin(1, alike)));
        }
    }
    free(c.aa);
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

/* ---- supermerger: cosines spread over those of the whole model ---- */

static bool covers(const char *name) {
    return strstr(name, "model") && !strstr(name, "first_stage_model");
}

static ck_status survey(const ck_arguments *args, const ck_pass *pass, bool whole, ck_survey *to,
                        ck_error *err) {
    columns c;
    ck_status status = sum_columns(args, pass, &c, err);
    double all = status == CK_OK ? cosine_of_all(&c, false) : 0;
    for (uint64_t i = 0; i < c.count && status == CK_OK; i++) {
        float alike = (float)likeness(&c, i, whole ? &all : NULL);
        if (alike == alike && !ck_survey_add(to, alike)) status = ck_fail_memory(err, "cosine");
    }
    free(c.aa);
    return status;
}

static ck_status survey_a(const ck_arguments *args, const ck_pass *pass, ck_survey *to,
                          ck_error *err) {
    return survey(args, pass, false, to, err);
}

static ck_status survey_b(const ck_arguments *args, const ck_pass *pass, ck_survey *to,
                          ck_error *err) {
    return survey(args, pass, true, to, err);
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* The middle between the two numbers, of n sorted ones, that this share lies between. */
static double percentile(const float *sorted, size_t n, double share) {
    double at = share * (double)(n - 1);
    return ((double)sorted[(size_t)floor(at)] + (double)sorted[(size_t)ceil(at)]) / 2;
}

/* The least and the largest, without the lowest hundredth and then the highest. */
static void conclude(float *numbers, size_t count, double found[2]) {
    found[0] = 0, found[1] = 1;
    if (!count) return;
    qsort(numbers, count, sizeof *numbers, by_size);
    double low = percentile(numbers, count, 0.01);
    while ((double)*numbers < low) numbers++, count--;
    double high = percentile(numbers, count, 0.99);
    while ((double)numbers[count - 1] > high) count--;
    found[0] = (double)numbers[0];
    found[1] = (double)numbers[count - 1];
    if (found[0] == found[1]) found[1] = found[0] + 1; /* all are alike */
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
           "takes the mean with the tensor's cosine, and leaves the VAE alone (and whatever has no "
           "'model' in its name); so does --compat supermerger, which reads the models once more. "
           "A tensor that B "
           "lacks is A's.",
    .min_inputs = 2,
    .max_inputs = 2,
    .parameters = {{.name = "alpha", .fallback = 0.5, .help = "how much more of B"}},
    .compat = "supermerger",
    .covers = covers,
    .survey = survey_a,
    .conclude = conclude,
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
    .compat = "supermerger",
    .covers = covers,
    .survey = survey_b,
    .conclude = conclude,
    .prepare = prepare_b,
    .needs = needs,
    .block = block,
};
