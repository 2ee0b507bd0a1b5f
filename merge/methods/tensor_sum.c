/* Slices of one model in the other: of rows, or of values by their size. */
#include "io/os.h"
#include "merge/method.h"
#include "merge/methods/order.h"
#include "merge/whole.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ALPHA, BETA };
enum { MECHA = 1 };

/* What of n things is B's: [start, end), or all but these. */
typedef struct region {
    uint64_t start, end;
    bool others;
} region;

static region choose(const ck_arguments *args, uint64_t n, bool round) {
    double width = args->values[ALPHA].items[0], offset = args->values[BETA].items[0];
    region r = {.others = width + offset > 1};
    double start = r.others ? (width + offset - 1) * (double)n : (double)n * offset;
    double end = r.others ? (double)n * offset : (double)n * (width + offset);
    r.start = (uint64_t)(round ? nearbyint(start) : start);
    r.end = (uint64_t)(round ? nearbyint(end) : end);
    return r;
}

static ck_status check(const ck_arguments *args, ck_error *err) {
    const ck_value *v = args->values;
    for (int p = ALPHA; p <= BETA; p++)
        if (!(v[p].items[0] >= 0 && v[p].items[0] <= 1))
            return ck_fail(err, CK_USAGE, "tensor sum: alpha and beta must be from 0 to 1, not %g",
                           v[p].items[0]);
    return CK_OK;
}

static void rows_block(const ck_kernels *k, const ck_arguments *args, const float *const *in,
                       float *out, size_t n) {
    (void)k;
    uint64_t rows = args->rank ? args->shape[0] : 1, row = args->elements / rows;
    region r = choose(args, rows, args->compat == MECHA);
    for (size_t e = 0; e < n; e++) {
        uint64_t at = args->first + e;
        bool inside = at >= r.start * row && at < r.end * row;
        out[e] = in[inside != r.others][e];
    }
}

/* ---- By size: everything is sorted, and so the tensor is held ---- */

typedef struct held {
    float *a;
    uint64_t *a_pairs, *b_pairs;
} held;

static void take(void *context, const float *const *in, uint64_t first, size_t n) {
    held *h = context;
    memcpy(h->a + first, in[0], n * sizeof *in[0]);
    for (size_t e = 0; e < n; e++) {
        h->a_pairs[first + e] = ck_order_pair(in[0][e], 0);
        h->b_pairs[first + e] = ck_order_pair(in[1][e], (uint32_t)(first + e));
    }
}

static void magnitude(const void *context, size_t quantity, const float *const *in, uint64_t first,
                      size_t n, float *out) {
    (void)context, (void)quantity, (void)first;
    for (size_t e = 0; e < n; e++) out[e] = fabsf(in[0][e]);
}

/* The sizes between which values of A are spread: above low (mecha: from low on), up to high. */
static ck_status find_limits(const ck_arguments *args, const ck_pass *pass, region r, float *low,
                             float *high, ck_error *err) {
    (void)args;
    uint64_t at[2] = {r.start, r.end};
    float *limits[2] = {low, high};
    ck_rank ranks[2];
    size_t count = 0;
    for (int i = 0; i < 2; i++) {
        *limits[i] = -1;
        if (at[i] > 0) ranks[count++] = (ck_rank){.rank = at[i] - 1};
    }
    CK_TRY(ck_whole_ranks(pass, magnitude, NULL, 1, ranks, count, err));
    for (int i = 2; i-- > 0;)
        if (at[i] > 0) *limits[i] = ranks[--count].value;
    return CK_OK;
}

static ck_status spread(const ck_arguments *args, const ck_pass *pass, held *h, uint64_t *scratch,
                        ck_error *err) {
    size_t n = (size_t)args->elements;
    region r = choose(args, n, true);
    float low, high;
    CK_TRY(find_limits(args, pass, r, &low, &high, err));
    CK_TRY(pass->run(pass, take, h, err));
    ck_order_sort(h->a_pairs, scratch, n);
    ck_order_sort(h->b_pairs, scratch, n);
    for (size_t i = 0; i < n; i++) {
        float value = ck_order_float(h->a_pairs[i]), size = fabsf(value);
        bool inside = (args->compat == MECHA ? size >= low : size > low) && size <= high;
        if (inside != r.others) h->a[(uint32_t)h->b_pairs[i]] = value;
    }
    return CK_OK;
}

static ck_status prepare(const ck_arguments *args, const ck_pass *pass, void **found,
                         ck_error *err) {
    if (args->elements > UINT32_MAX)
        return ck_fail(err, CK_INPUT, "top-k-tensor-sum: a tensor of %llu elements is too large",
                       (unsigned long long)args->elements);
    size_t n = (size_t)args->elements;
    held h = {ck_alloc_array(n, sizeof *h.a), ck_alloc_array(n, sizeof *h.a_pairs),
              ck_alloc_array(n, sizeof *h.b_pairs)};
    uint64_t *scratch = ck_alloc_array(n, sizeof *scratch);
    *found = h.a;
    ck_status status = h.a && h.a_pairs && h.b_pairs && scratch
                           ? spread(args, pass, &h, scratch, err)
                           : ck_fail_memory(err, "top-k-tensor-sum");
    free(h.a_pairs);
    free(h.b_pairs);
    free(scratch);
    return status;
}

static uint64_t needs(const ck_arguments *args) {
    return args->elements * (sizeof(float) + 3 * sizeof(uint64_t));
}

static void spread_block(const ck_kernels *k, const ck_arguments *args, const float *const *in,
                         float *out, size_t n) {
    (void)k, (void)in;
    memcpy(out, (const float *)args->found + args->first, n * sizeof *out);
}

extern const ck_method ck_tensor_sum, ck_top_k_tensor_sum;

const ck_method ck_tensor_sum = {
    .name = "tensor-sum",
    .title = "Tensor sum",
    .formula = "B's rows from beta on, as many as alpha says, the others A's",
    .doc =
        "Rows along the first axis, n of them: B's are those from int(n beta) to int(n (alpha + "
        "beta)); where that goes beyond the last row it goes on from the first. As supermerger's "
        "'tensor' and meh have it; sd-mecha, and --compat mecha, round to the nearest row. A "
        "tensor that B lacks is A's.",
    .min_inputs = 2,
    .max_inputs = 2,
    .parameters = {{.name = "alpha", .fallback = 0.5, .help = "share of the rows that is B's"},
                   {.name = "beta", .fallback = 0, .help = "where they begin, from 0 to 1"}},
    .compat = "mecha",
    .check = check,
    .block = rows_block,
};

const ck_method ck_top_k_tensor_sum = {
    .name = "top-k-tensor-sum",
    .title = "Top-k tensor sum",
    .formula = "A's values, those in a range of sizes put where B's of the same rank are",
    .doc = "A's values are sorted; where B has its k-th smallest value goes A's k-th, if its "
           "magnitude is among those from beta on, as many as alpha says; elsewhere A's own value "
           "stays. Works on one tensor at a time, 28 bytes of memory for an element. As meh has "
           "it; sd-mecha, and --compat mecha, take the one at the lower end of the range too. A "
           "tensor that B lacks is A's.",
    .min_inputs = 2,
    .max_inputs = 2,
    .parameters = {{.name = "alpha", .fallback = 1, .help = "share of the values that is moved"},
                   {.name = "beta", .fallback = 0, .help = "the smallest of these, by rank, 0..1"}},
    .compat = "mecha",
    .check = check,
    .prepare = prepare,
    .needs = needs,
    .block = spread_block,
};
