/* Layer by layer, several at a time, the largest first. */
#include "merge/lora_make.h"
#include "io/os.h"
#include "io/view.h"
#include "kernels/kernels.h"
#include "merge/svd.h"

#include <math.h>
#include <omp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What became of a layer: two factors or, whole, one tensor; encoded. */
typedef struct result {
    size_t rank; /* 0: nothing */
    bool whole;
    void *up, *down;
    double all, lost; /* squares */
} result;

typedef struct making {
    const ck_lora_layer *layers;
    ck_status (*read)(void *context, size_t i, float *change, ck_error *err);
    void *context;
    const ck_lora_make_options *options;
    const ck_kernels *kernels;
    result *results;
    size_t *order; /* the largest first */
    size_t count;
    _Atomic size_t next;
    _Atomic bool failed;
    ck_error error; /* the first; in the critical section */
} making;

/* ---- One layer ---- */

static bool is_convolution(const ck_lora_layer *l) {
    return l->dimensions > 2 && l->columns > l->shape[1];
}

static size_t smaller(uint64_t a, uint64_t b) {
    return (size_t)(a < b ? a : b);
}

/* How many singular values the cut lets through; sum: of all of them, for a cumulative cut. */
static size_t choose_rank(const ck_lora_cut *cut, const ck_svd *svd, double sum) {
    size_t n = 0;
    double first = svd->count ? (double)svd->values[0] : 0, so_far = 0;
    /* Smaller ones are rounding. */
    while (n < svd->count && (double)svd->values[n] > 1e-6 * first) {
        double value = (double)svd->values[n];
        if (cut->dynamic == CK_DYNAMIC_RATIO && value <= first / cut->value) break;
        if (cut->dynamic == CK_DYNAMIC_CUMULATIVE && so_far >= cut->value * sum) break;
        if (cut->dynamic == CK_DYNAMIC_FROBENIUS &&
            so_far >= cut->value * cut->value * svd->squares)
            break;
        so_far += cut->dynamic == CK_DYNAMIC_CUMULATIVE ? value : value * value;
        n++;
    }
    return n;
}

static void *encode(const making *m, const float *values, size_t n) {
    ck_dtype dtype = m->options->dtype;
    void *out = ck_alloc_array(n, ck_dtype_bits(dtype) / 8);
    if (out) m->kernels->encode[dtype](out, values, n);
    return out;
}

/* up[rows, rank] = left^T sqrt(S), down[rank, columns] = sqrt(S) right. */
static ck_status store_factors(const making *m, const ck_lora_layer *l, const ck_svd *svd,
                               result *r, ck_error *err) {
    size_t rows = (size_t)l->rows, columns = (size_t)l->columns;
    float *up = ck_alloc_array(rows, r->rank * sizeof *up);
    float *down = ck_alloc_array(r->rank, columns * sizeof *down);
    for (size_t k = 0; k < r->rank && up && down; k++) {
        float root = sqrtf(svd->values[k]);
        for (size_t i = 0; i < rows; i++) up[i * r->rank + k] = root * svd->left[k * rows + i];
        for (size_t j = 0; j < columns; j++)
            down[k * columns + j] = root * svd->right[k * columns + j];
    }
    if (up && down) {
        r->up = encode(m, up, rows * r->rank);
        r->down = encode(m, down, r->rank * columns);
    }
    free(up);
    free(down);
    return r->up && r->down ? CK_OK : ck_fail_memory(err, l->name);
}

static ck_status factorise(const making *m, const ck_lora_layer *l, const float *change, result *r,
                           ck_error *err) {
    const ck_lora_cut *cut = &m->options->cut;
    size_t most = is_convolution(l) ? cut->conv_rank : cut->rank;
    if (!cut->rank) most = (size_t)l->rank;
    if (most > smaller(l->rows, l->columns)) most = smaller(l->rows, l->columns);
    double sum = 0;
    if (cut->dynamic == CK_DYNAMIC_CUMULATIVE)
        CK_TRY(ck_svd_sum(change, (size_t)l->rows, (size_t)l->columns, &sum, err));
    ck_svd svd;
    CK_TRY(ck_svd_of(change, (size_t)l->rows, (size_t)l->columns, most, &svd, err));
    r->rank = choose_rank(cut, &svd, sum);
    r->all = r->lost = svd.squares;
    for (size_t k = 0; k < r->rank; k++) r->lost -= (double)svd.values[k] * (double)svd.values[k];
    if (r->lost < 0) r->lost = 0;
    ck_status status = r->rank ? store_factors(m, l, &svd, r, err) : CK_OK;
    ck_svd_free(&svd);
    return status;
}

static double largest(const float *values, size_t n) {
    float most = 0;
    for (size_t i = 0; i < n; i++) {
        float size = fabsf(values[i]);
        if (!(size <= most)) most = size; /* NaN stays */
    }
    return (double)most;
}

static ck_status make_layer(making *m, size_t i, ck_error *err) {
    const ck_lora_layer *l = &m->layers[i];
    const ck_lora_cut *cut = &m->options->cut;
    result *r = &m->results[i];
    size_t n = (size_t)(l->rows * l->columns);
    bool left_out = is_convolution(l) && cut->rank && !cut->conv_rank;
    float *change = left_out ? NULL : ck_alloc_array(n, sizeof *change);
    if (left_out) return CK_OK;
    ck_status status = change ? m->read(m->context, i, change, err) : ck_fail_memory(err, l->name);
    if (status == CK_OK && !(largest(change, n) <= cut->least_change)) {
        r->whole = l->bias || l->dimensions < 2;
        if (r->whole) {
            r->rank = 1;
            r->up = encode(m, change, n);
            status = r->up ? CK_OK : ck_fail_memory(err, l->name);
        } else {
            status = factorise(m, l, change, r, err);
            if (status == CK_INPUT) ck_context(err, "layer '%s'", l->name);
        }
    }
    free(change);
    if (m->options->progress) ck_progress_add(m->options->progress, n * sizeof *change);
    return status;
}

/* ---- All of them ---- */

static void work(making *m) {
    ck_error err;
    for (;;) {
        size_t i = atomic_fetch_add(&m->next, 1);
        if (i >= m->count || m->failed) return;
        ck_status status = make_layer(m, m->order[i], &err);
        if (status == CK_OK) continue;
#pragma omp critical(ck_lora_make)
        {
            if (!m->failed) m->error = err;
            m->failed = true;
        }
    }
}

static int by_size(const void *a, const void *b, void *layers) {
    const ck_lora_layer *all = layers;
    size_t i = *(const size_t *)a, j = *(const size_t *)b;
    uint64_t x = all[i].rows * all[i].columns, y = all[j].rows * all[j].columns;
    if (x != y) return x > y ? -1 : 1;
    return (i > j) - (i < j);
}

static ck_status make_all(making *m, ck_error *err) {
    unsigned threads = m->options->threads ? m->options->threads : (unsigned)omp_get_max_threads();
    if (threads > m->count) threads = m->count ? (unsigned)m->count : 1;
    for (size_t i = 0; i < m->count; i++) m->order[i] = i;
    qsort_r(m->order, m->count, sizeof *m->order, by_size, (void *)(uintptr_t)m->layers);
#pragma omp parallel num_threads(threads)
    work(m);
    if (!m->failed) return CK_OK;
    *err = m->error;
    return err->status;
}

/* Adds a tensor and releases its data. */
static ck_status add(ck_reader *lora, const char *layer, const char *what, ck_dtype dtype,
                     size_t rank, const uint64_t *shape, void **data, ck_error *err) {
    char *name = ck_sprintf("%s.%s", layer, what);
    ck_status status = name ? ck_view_constant(lora, name, dtype, rank, shape, *data, err)
                            : ck_fail_memory(err, layer);
    free(name);
    free(*data);
    *data = NULL;
    return status;
}

static ck_status add_result(ck_reader *lora, const making *m, size_t i, ck_error *err) {
    const ck_lora_layer *l = &m->layers[i];
    result *r = &m->results[i];
    ck_dtype dtype = m->options->dtype;
    bool peft = m->options->peft;
    if (!r->rank) return CK_OK;
    if (r->whole)
        return add(lora, l->name, l->bias ? "diff_b" : "diff", dtype, l->dimensions, l->shape,
                   &r->up, err);
    uint64_t up[CK_LORA_MAX_DIMENSIONS], down[CK_LORA_MAX_DIMENSIONS];
    for (size_t d = 0; d < l->dimensions; d++) {
        up[d] = d == 0 ? l->rows : d == 1 ? r->rank : 1;
        down[d] = d == 0 ? r->rank : l->shape[d];
    }
    CK_TRY(add(lora, l->name, peft ? "lora_B.weight" : "lora_up.weight", dtype, l->dimensions, up,
               &r->up, err));
    CK_TRY(add(lora, l->name, peft ? "lora_A.weight" : "lora_down.weight", dtype, l->dimensions,
               down, &r->down, err));
    if (peft) return CK_OK; /* alpha is the rank anyway */
    float rank = (float)r->rank;
    void *alpha = ck_alloc(sizeof rank);
    if (!alpha) return ck_fail_memory(err, l->name);
    memcpy(alpha, &rank, sizeof rank);
    return add(lora, l->name, "alpha", CK_F32, 0, NULL, &alpha, err);
}

static void sum_up(const making *m, ck_lora_made *made) {
    double all = 0, lost = 0;
    *made = (ck_lora_made){.worst_kept = 1};
    for (size_t i = 0; i < m->count; i++) {
        const result *r = &m->results[i];
        made->layers += r->rank > 0;
        made->unchanged += r->rank == 0;
        if (!r->rank || r->whole) continue;
        all += r->all;
        lost += r->lost;
        double kept = sqrt(1 - r->lost / r->all);
        if (!made->worst || kept < made->worst_kept) {
            made->worst_kept = kept;
            made->worst = m->layers[i].name;
        }
        if (!made->least_rank || r->rank < made->least_rank) made->least_rank = r->rank;
        if (r->rank > made->most_rank) made->most_rank = r->rank;
    }
    made->kept = all > 0 ? sqrt(1 - lost / all) : 1;
}

static ck_status make_view(const char *label, const making *m, ck_reader **lora, ck_error *err) {
    ck_reader *view;
    CK_TRY(ck_view_new(label, &view, err));
    ck_status status = CK_OK;
    for (size_t i = 0; i < m->count && status == CK_OK; i++) status = add_result(view, m, i, err);
    if (status != CK_OK) {
        ck_reader_close(view);
        return status;
    }
    *lora = view;
    return CK_OK;
}

ck_status ck_lora_make(const char *label, const ck_lora_layer *layers, size_t count,
                       ck_status (*read)(void *context, size_t i, float *change, ck_error *err),
                       void *context, const ck_lora_make_options *options, ck_reader **lora,
                       ck_lora_made *made, ck_error *err) {
    making m = {.layers = layers,
                .read = read,
                .context = context,
                .options = options,
                .kernels = ck_kernels_best(),
                .results = ck_alloc_array(count, sizeof *m.results),
                .order = ck_alloc_array(count, sizeof *m.order),
                .count = count};
    ck_status status = !m.kernels ? ck_fail(err, CK_USAGE, "CK_ISA names no instruction set")
                       : m.results && m.order ? make_all(&m, err)
                                              : ck_fail_memory(err, label);
    if (status == CK_OK) sum_up(&m, made);
    if (status == CK_OK) status = make_view(label, &m, lora, err);
    for (size_t i = 0; i < count && m.results; i++) {
        free(m.results[i].up);
        free(m.results[i].down);
    }
    free(m.results);
    free(m.order);
    return status;
}
