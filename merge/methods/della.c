/* DELLA: of each row's changes some stay by chance, the larger more likely. */
#include "io/os.h"
#include "merge/methods/chance.h"
#include "merge/methods/changes.h"
#include "merge/methods/order.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { EPSILON = CK_NORMALIZE + 1 };
enum { MERGEKIT = 1, MECHA };

/* Ranks are taken along the second axis: for kernels, among the input channels of each place. What
 * lies under one place of the first axis, a slab, is collected, and merged when it is there. */
typedef struct work {
    ck_arguments args;
    ck_election election;
    size_t slab, line, stride; /* elements of a slab, of a line of ranks, and between these */
    float *in[CK_MAX_INPUTS];  /* the slab of each input */
    float *factors[CK_MAX_INPUTS];
    uint64_t *pairs, *scratch; /* for sorting a line */
    double *before, *after;    /* sums of magnitudes, where these are wanted, one for each input */
    const double *scales;      /* mergekit's, one for each input; NULL: 1 / probability */
    float *out;                /* the merged tensor; NULL while sums are made */
} work;

static ck_status check(const ck_arguments *args, ck_error *err) {
    const ck_value *v = args->values;
    double epsilon = v[EPSILON].items[0];
    CK_TRY(ck_changes_check(args, err));
    for (size_t i = 0; i < v[CK_DENSITY].count; i++) {
        double density = v[CK_DENSITY].items[i];
        if (args->compat != MECHA && density > 0 && density < 1 &&
            !(epsilon >= 0 && density - epsilon > 0 && density + epsilon < 1))
            return ck_fail(err, CK_USAGE,
                           "della: density %g plus and minus epsilon %g must stay between 0 and 1",
                           density, epsilon);
    }
    return CK_OK;
}

/* The probability that the change of this rank, from 0, stays. */
static double probability(const work *w, double density, size_t rank) {
    double epsilon = w->args.values[EPSILON].items[0], n = (double)w->line;
    if (w->args.compat == MECHA)
        return fmin(1, fmax(0, density + epsilon * ((double)rank + 1 - (n + 1) / 2) / n));
    return n == 1 ? density : density - epsilon + 2 * epsilon * (double)rank / (n - 1);
}

/* The factors of one line of an input's changes, which begins at element `at` of the slab. */
static void choose_line(work *w, size_t input, size_t at, uint64_t first) {
    double density = w->args.values[CK_DENSITY].items[input - 1];
    const float *base = w->in[0] + at, *x = w->in[input] + at;
    for (size_t i = 0; i < w->line; i++)
        w->pairs[i] = ck_order_pair(fabsf(x[i * w->stride] - base[i * w->stride]), (uint32_t)i);
    ck_order_sort(w->pairs, w->scratch, w->line);
    for (size_t rank = 0; rank < w->line; rank++) {
        size_t e = at + (uint32_t)w->pairs[rank] * w->stride;
        double p = probability(w, density, rank);
        bool stays = ck_chance_word(&w->args, input, first + e) < p * 0x1p32;
        w->factors[input][e] = !stays      ? 0
                               : w->scales ? (float)w->scales[input]
                                           : (float)(1 / (w->args.compat == MECHA ? density : p));
    }
}

static void choose(work *w, size_t input, uint64_t first) {
    double density = w->args.values[CK_DENSITY].items[input - 1];
    if (density <= 0 || density >= 1) {
        for (size_t e = 0; e < w->slab; e++) w->factors[input][e] = density > 0 ? 1 : 0;
        return;
    }
    for (size_t block = 0; block < w->slab; block += w->line * w->stride)
        for (size_t i = 0; i < w->stride; i++) choose_line(w, input, block + i, first);
}

/* (args->found is the work while a slab is merged.) */
static void take_chosen(const ck_kernels *k, const ck_arguments *args, size_t input, size_t at,
                        const float *x, const float *base, float *changes, size_t n) {
    (void)k;
    const work *w = args->found;
    size_t left = w->slab - at;
    for (size_t e = 0; e < n; e++)
        changes[e] = e < left ? (x[e] - base[e]) * w->factors[input][at + e] : 0;
}

static void finish_slab(work *w, uint64_t first) {
    ck_arguments args = w->args;
    args.found = w;
    for (size_t i = 1; i < args.inputs; i++) {
        choose(w, i, first);
        for (size_t e = 0; e < w->slab && w->before; e++) {
            double size = fabs((double)(w->in[i][e] - w->in[0][e]));
            w->before[i] += size;
            w->after[i] += w->factors[i][e] > 0 ? size : 0;
        }
    }
    if (w->out)
        ck_changes_merge(ck_kernels_best(), &args, (const float *const *)w->in, w->out + first,
                         w->slab, w->election, take_chosen);
}

static void collect(void *context, const float *const *in, uint64_t first, size_t n) {
    work *w = context;
    for (size_t done = 0; done < n;) {
        size_t at = (size_t)((first + done) % w->slab), count = w->slab - at;
        if (count > n - done) count = n - done;
        for (size_t i = 0; i < w->args.inputs; i++)
            memcpy(w->in[i] + at, in[i] + done, count * sizeof(float));
        done += count;
        if (at + count == w->slab) finish_slab(w, first + done - w->slab);
    }
}

/* mergekit's scales, which give what stays the sum of magnitudes that all had, need a run. */
static ck_status merge(work *w, const ck_pass *pass, float *merged, ck_error *err) {
    double before[CK_MAX_INPUTS] = {0}, after[CK_MAX_INPUTS] = {0}, scales[CK_MAX_INPUTS] = {0};
    if (w->args.compat == MERGEKIT) {
        w->before = before, w->after = after;
        CK_TRY(pass->run(pass, collect, w, err));
        for (size_t i = 1; i < w->args.inputs; i++)
            scales[i] = before[i] < 1e-7 || after[i] < 1e-7 ? 1 : before[i] / after[i];
        w->before = NULL;
        w->scales = scales;
    }
    w->out = merged;
    return pass->run(pass, collect, w, err);
}

static void measure(const ck_arguments *args, work *w) {
    bool whole = args->rank < 2 || args->compat == MECHA;
    w->slab = (size_t)(whole ? args->elements : args->elements / args->shape[0]);
    w->line = (size_t)(whole ? args->elements : args->shape[1]);
    w->stride = w->slab / w->line;
}

static ck_status prepare(const ck_arguments *args, const ck_pass *pass, ck_election election,
                         void **found, ck_error *err) {
    work w = {.args = *args, .election = election};
    measure(args, &w);
    float *merged = ck_alloc_array((size_t)args->elements, sizeof *merged);
    float *slabs = ck_alloc_array(2 * args->inputs * w.slab, sizeof *slabs);
    w.pairs = ck_alloc_array(2 * w.line, sizeof *w.pairs);
    *found = merged;
    ck_status status = merged && slabs && w.pairs ? CK_OK : ck_fail_memory(err, "della");
    if (status == CK_OK && w.line > UINT32_MAX)
        status = ck_fail(err, CK_INPUT, "della: a row of %zu elements is too long", w.line);
    if (status == CK_OK) {
        w.scratch = w.pairs + w.line;
        for (size_t i = 0; i < args->inputs; i++) {
            w.in[i] = slabs + i * w.slab;
            w.factors[i] = slabs + (args->inputs + i) * w.slab;
        }
        status = merge(&w, pass, merged, err);
    }
    free(slabs);
    free(w.pairs);
    return status;
}

static ck_status prepare_linear(const ck_arguments *args, const ck_pass *pass, void **found,
                                ck_error *err) {
    return prepare(args, pass, CK_ALL_COUNT, found, err);
}

static ck_status prepare_ties(const ck_arguments *args, const ck_pass *pass, void **found,
                              ck_error *err) {
    return prepare(args, pass, args->compat == MECHA ? CK_ELECT_MOST : CK_ELECT_SUM, found, err);
}

static uint64_t needs(const ck_arguments *args) {
    work w = {0};
    measure(args, &w);
    return (args->elements + 2 * args->inputs * w.slab) * sizeof(float) +
           2 * w.line * sizeof(uint64_t);
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    (void)k, (void)in;
    memcpy(out, (const float *)args->found + args->first, n * sizeof *out);
}

#define EPSILON_ROW                                                                                \
    {                                                                                              \
        .name = "epsilon", .fallback = 0.15,                                                       \
        .help = "how much likelier the largest, and less likely the smallest, stay"                \
    }

extern const ck_method ck_della, ck_della_linear;

const ck_method ck_della = {
    .name = "della",
    .title = "DELLA",
    .formula =
        "BASE + lambda mean of the w (X - BASE) / p that chance lets stay and that have the "
        "sign of their sum, p from density - epsilon to density + epsilon by rank in the row",
    .doc =
        "The base is the first model (or --base). Deep and others 2024. A row lies along the "
        "second axis; a tensor of one axis is one row. Every change is divided by its own "
        "probability, as in the paper, so that the mean is what it was; mergekit, and --compat "
        "mergekit, scale what stayed to the old L1 norm of the tensor instead. sd-mecha, and "
        "--compat mecha, ranks the whole tensor (which then is held with all models), lets p go "
        "from density - epsilon / 2 to density + epsilon / 2, cut to 0..1, divides by the density, "
        "and elects the sign that most have. Chance is a function of --seed, the tensor's name, "
        "the model and the "
        "element. Holds one tensor at a time, 4 bytes for an element. A tensor that a model lacks "
        "adds nothing.",
    .min_inputs = 2,
    .parameters = {CK_CHANGES_PARAMETERS(1), EPSILON_ROW},
    .compat = "mergekit|mecha",
    .has_base = true,
    .first_stands_in = true,
    .check = check,
    .prepare = prepare_ties,
    .needs = needs,
    .block = block,
};

const ck_method ck_della_linear = {
    .name = "della-linear",
    .title = "DELLA linear",
    .formula = "BASE + lambda sum of the w (X - BASE) / p that chance lets stay, p as in della",
    .doc = "As della, without the election of signs.",
    .min_inputs = 2,
    .parameters = {CK_CHANGES_PARAMETERS(0), EPSILON_ROW},
    .compat = "mergekit|mecha",
    .has_base = true,
    .first_stands_in = true,
    .check = check,
    .prepare = prepare_linear,
    .needs = needs,
    .block = block,
};
