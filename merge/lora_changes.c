/* A LoRA as a reader: the changes that it makes to a model, under the names of the model's tensors
 * and in their shapes, computed as they are read. */
#include "io/os.h"
#include "io/reader_int.h"
#include "merge/lora_int.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Rows of a tensor that a layer changes. */
typedef struct piece {
    const ck_tensor *tensor; /* of the model */
    size_t layer;
    uint64_t layer_row, tensor_row, rows;
    /* DoRA: magnitude / length of each row of the piece, or of each input channel; NULL until it is
     * needed, and only looked at under the lock. */
    float *factors;
} piece;

/* A tensor of the changes; its ck_tensor's offset is its number. Its pieces are in the order of
 * their rows. */
typedef struct change {
    const ck_tensor *like; /* the model's tensor */
    piece *pieces;
    size_t count;
} change;

typedef struct changes_state {
    const ck_reader *model;
    const ck_kernels *kernels;
    ck_lora *lora;
    piece *pieces;
    size_t piece_count, piece_capacity;
    change *changes;
    size_t change_count;
    pthread_mutex_t lock;
} changes_state;

static uint64_t row_length(const ck_tensor *t) {
    return t->rank ? t->elements / t->shape[0] : 1;
}

/* ---- Pairing ---- */

static ck_status does_not_fit(const changes_state *s, const ck_lora_layer *l, const ck_tensor *t,
                              ck_error *err) {
    char shape[128];
    return ck_fail(err, CK_INPUT,
                   "%s: layer '%s' changes a %s of %llu rows and %llu columns, but tensor '%s' of "
                   "%s has shape %s: the LoRA is for another model",
                   ck_reader_path(s->lora->file), l->name, l->bias ? "bias" : "weight",
                   (unsigned long long)l->rows, (unsigned long long)l->columns, t->name,
                   ck_reader_path(s->model), ck_tensor_shape_text(t, shape, sizeof shape));
}

static ck_status add_piece(changes_state *s, size_t layer, const ck_lora_place *place,
                           ck_error *err) {
    const ck_tensor *t = place->tensor;
    const ck_lora_layer *l = ck_lora_layer_of(s->lora, layer);
    if (row_length(t) != l->columns) return does_not_fit(s, l, t, err);
    if (!ck_dtype_is_float(t->dtype))
        return ck_fail(err, CK_INPUT,
                       "%s: tensor '%s' is %s, to which the LoRA %s cannot be added; convert the "
                       "model to a float type first",
                       ck_reader_path(s->model), t->name, ck_dtype_name(t->dtype),
                       ck_reader_path(s->lora->file));
    piece *pieces = ck_grow(s->pieces, s->piece_count, &s->piece_capacity, sizeof *pieces);
    if (!pieces) return ck_fail_memory(err, ck_reader_path(s->lora->file));
    s->pieces = pieces;
    pieces[s->piece_count++] = (piece){.tensor = t,
                                       .layer = layer,
                                       .layer_row = place->name_row,
                                       .tensor_row = place->tensor_row,
                                       .rows = place->rows};
    return CK_OK;
}

/* The rows of a layer at their places, each once. */
static ck_status add_layer(changes_state *s, size_t layer, const ck_lora_place *places,
                           size_t count, ck_error *err) {
    const ck_lora_layer *l = ck_lora_layer_of(s->lora, layer);
    uint64_t row = 0;
    for (size_t i = 0; i < count; i++) {
        if (places[i].name_row < row)
            return ck_fail(err, CK_INPUT, "%s: layer '%s' may be '%s' or '%s' of %s",
                           ck_reader_path(s->lora->file), l->name, places[i - 1].tensor->name,
                           places[i].tensor->name, ck_reader_path(s->model));
        row = places[i].name_row + places[i].rows;
        if (row > l->rows) return does_not_fit(s, l, places[i].tensor, err);
        CK_TRY(add_piece(s, layer, &places[i], err));
    }
    if (row != l->rows) return does_not_fit(s, l, places[0].tensor, err);
    const ck_tensor *t = places[0].tensor;
    if (l->inputs && (count > 1 || t->rank < 2 || t->shape[1] != l->inputs))
        return ck_fail(err, CK_INPUT,
                       "%s: layer '%s' has magnitudes of %llu inputs, which are not those of one "
                       "tensor of %s; use a model in the layout that the LoRA was made for",
                       ck_reader_path(s->lora->file), l->name, (unsigned long long)l->inputs,
                       ck_reader_path(s->model));
    return CK_OK;
}

/* The names of what was not found, for a message. */
typedef struct unmatched {
    size_t count;
    const char *first;
    char names[400];
} unmatched;

static void note(unmatched *u, const char *name) {
    size_t used = strlen(u->names);
    if (!u->count) u->first = name;
    if (u->count < 3)
        snprintf(u->names + used, sizeof u->names - used, "%s'%.100s'", u->count ? ", " : "", name);
    u->count++;
}

static ck_status pair(changes_state *s, const ck_lora_places *places, unmatched *u, ck_error *err) {
    for (size_t i = 0; i < ck_lora_count(s->lora); i++) {
        const ck_lora_layer *l = ck_lora_layer_of(s->lora, i);
        size_t count;
        const ck_lora_place *first = ck_lora__find(places, l->name, l->bias, &count);
        if (first)
            CK_TRY(add_layer(s, i, first, count, err));
        else
            note(u, l->name);
    }
    size_t strangers;
    const char *const *names = ck_lora_strangers(s->lora, &strangers);
    for (size_t i = 0; i < strangers; i++) note(u, names[i]);
    return CK_OK;
}

static ck_status check_unmatched(const changes_state *s, const unmatched *u, ck_unmatched policy,
                                 ck_error *err) {
    const char *path = ck_reader_path(s->lora->file), *model = ck_reader_path(s->model);
    if (s->piece_count == 0)
        return ck_fail(err, CK_INPUT,
                       "%s: none of its %zu layers is in %s (first %s): the LoRA is for another "
                       "model",
                       path, u->count, model, u->count ? u->names : "none");
    if (u->count == 0 || policy == CK_UNMATCHED_SKIP) return CK_OK;
    char more[48] = "";
    if (u->count > 3) snprintf(more, sizeof more, " and %zu more", u->count - 3);
    return ck_fail(err, CK_INPUT,
                   "%s: %zu of its layers %s not in %s: %s%s; --unmatched skip leaves them out",
                   path, u->count, u->count == 1 ? "is" : "are", model, u->names, more);
}

static int by_tensor(const void *a, const void *b) {
    const piece *x = a, *y = b;
    if (x->tensor != y->tensor) return x->tensor < y->tensor ? -1 : 1;
    return (x->tensor_row > y->tensor_row) - (x->tensor_row < y->tensor_row);
}

/* Makes tensors of the pieces. */
static ck_status add_tensors(ck_reader *r, ck_error *err) {
    changes_state *s = r->state;
    qsort(s->pieces, s->piece_count, sizeof *s->pieces, by_tensor);
    s->changes = ck_alloc_array(s->piece_count, sizeof *s->changes);
    if (!s->changes) return ck_fail_memory(err, r->path);
    for (size_t i = 0; i < s->piece_count; i++) {
        piece *p = &s->pieces[i], *last = i ? p - 1 : NULL;
        if (last && last->tensor == p->tensor) {
            if (p->tensor_row < last->tensor_row + last->rows)
                return ck_fail(err, CK_INPUT,
                               "%s: layers '%s' and '%s' change the same tensor '%s'", r->path,
                               ck_lora_layer_of(s->lora, last->layer)->name,
                               ck_lora_layer_of(s->lora, p->layer)->name, p->tensor->name);
            s->changes[s->change_count - 1].count++;
            continue;
        }
        const ck_tensor *t = p->tensor;
        CK_TRY(ck_reader__add(r, t->name, strlen(t->name), CK_F32, t->rank, t->shape,
                              s->change_count, err));
        s->changes[s->change_count++] = (change){.like = t, .pieces = p, .count = 1};
    }
    return ck_reader__finish(r, err);
}

/* ---- DoRA ---- */

enum { BAND = 16 }; /* rows at a time */

/* How many input channels have magnitudes; 0: the rows do. */
static uint64_t inputs_of(const changes_state *s, const piece *p) {
    return ck_lora_layer_of(s->lora, p->layer)->inputs;
}

/* n elements of the model's tensor as f32, n <= CK_STRIP. */
static ck_status read_weight(const changes_state *s, const ck_tensor *t, uint64_t first, size_t n,
                             float *values, ck_error *err) {
    unsigned char raw[CK_STRIP * 8];
    size_t size = ck_dtype_bits(t->dtype) / 8;
    CK_TRY(ck_reader_read(s->model, t, first * size, raw, n * size, err));
    s->kernels->decode[t->dtype](values, raw, n);
    return CK_OK;
}

/* Adds the squares of W + D, for rows of the piece in a band of columns, to the sums of rows or of
 * inputs. */
static ck_status add_squares(const changes_state *s, const piece *p, uint64_t row, uint64_t rows,
                             uint64_t column, size_t columns, float *changes, double *sums,
                             ck_error *err) {
    float weight[CK_STRIP];
    uint64_t inputs = inputs_of(s, p), length = row_length(p->tensor);
    CK_TRY(ck_lora_rows(s->lora, p->layer, p->layer_row + row, rows, column, columns, changes,
                        CK_STRIP, err));
    for (uint64_t i = 0; i < rows; i++) {
        uint64_t first = (p->tensor_row + row + i) * length + column;
        CK_TRY(read_weight(s, p->tensor, first, columns, weight, err));
        for (size_t j = 0; j < columns; j++) {
            double sum = (double)weight[j] + (double)changes[i * CK_STRIP + j];
            sums[inputs ? (column + j) / (length / inputs) : row + i] += sum * sum;
        }
    }
    return CK_OK;
}

static ck_status sum_squares(const changes_state *s, const piece *p, double *sums, ck_error *err) {
    uint64_t columns = row_length(p->tensor);
    float *changes = ck_alloc_array(BAND * CK_STRIP, sizeof *changes);
    ck_status status = changes ? CK_OK : ck_fail_memory(err, ck_reader_path(s->lora->file));
    for (uint64_t row = 0; row < p->rows; row += BAND)
        for (uint64_t column = 0; column < columns && status == CK_OK; column += CK_STRIP) {
            uint64_t rows = p->rows - row < BAND ? p->rows - row : BAND;
            uint64_t n = columns - column < CK_STRIP ? columns - column : CK_STRIP;
            status = add_squares(s, p, row, rows, column, (size_t)n, changes, sums, err);
        }
    free(changes);
    return status;
}

/* Fills in the piece's factors. Under the lock. */
static ck_status find_factors(const changes_state *s, piece *p, ck_error *err) {
    if (p->factors) return CK_OK;
    const char *path = ck_reader_path(s->lora->file);
    float *magnitudes;
    CK_TRY(ck_lora__magnitudes(s->lora, p->layer, &magnitudes, err));
    uint64_t inputs = inputs_of(s, p), n = inputs ? inputs : p->rows;
    double *sums = ck_alloc_array((size_t)n, sizeof *sums);
    float *factors = ck_alloc_array((size_t)n, sizeof *factors);
    ck_status status = sums && factors ? sum_squares(s, p, sums, err) : ck_fail_memory(err, path);
    for (uint64_t i = 0; i < n && status == CK_OK; i++) {
        double magnitude = (double)magnitudes[inputs ? i : p->layer_row + i];
        factors[i] = sums[i] > 0 ? (float)(magnitude / sqrt(sums[i])) : 1;
    }
    free(magnitudes);
    free(sums);
    if (status == CK_OK)
        p->factors = factors;
    else
        free(factors);
    return status;
}

/* D in out[columns] of one row becomes factor (W + D) - W. */
static ck_status decompose(const changes_state *s, const piece *p, uint64_t row, uint64_t column,
                           uint64_t columns, float *out, ck_error *err) {
    float weight[CK_STRIP];
    uint64_t inputs = inputs_of(s, p), length = row_length(p->tensor);
    for (uint64_t done = 0; done < columns; done += CK_STRIP) {
        size_t n = columns - done < CK_STRIP ? (size_t)(columns - done) : CK_STRIP;
        uint64_t first = (p->tensor_row + row) * length + column + done;
        CK_TRY(read_weight(s, p->tensor, first, n, weight, err));
        for (size_t j = 0; j < n; j++) {
            uint64_t which = inputs ? (column + done + j) / (length / inputs) : row;
            float factor = p->factors[which];
            out[done + j] = fmaf(factor, weight[j] + out[done + j], -weight[j]);
        }
    }
    return CK_OK;
}

/* ---- Reading ---- */

/* Rows and columns of a piece to out, without gaps. */
static ck_status read_rows(changes_state *s, piece *p, uint64_t row, uint64_t rows, uint64_t column,
                           uint64_t columns, float *out, ck_error *err) {
    CK_TRY(ck_lora_rows(s->lora, p->layer, p->layer_row + row, rows, column, columns, out, columns,
                        err));
    if (!ck_lora_layer_of(s->lora, p->layer)->magnitude) return CK_OK;
    pthread_mutex_lock(&s->lock);
    ck_status status = find_factors(s, p, err);
    pthread_mutex_unlock(&s->lock);
    for (uint64_t i = 0; i < rows && status == CK_OK; i++)
        status = decompose(s, p, row + i, column, columns, out + i * columns, err);
    return status;
}

/* Elements [first, end) of a piece: the rest of a row, whole rows, the beginning of a row. */
static ck_status read_piece(changes_state *s, piece *p, uint64_t first, uint64_t end, float *out,
                            ck_error *err) {
    uint64_t length = row_length(p->tensor);
    while (first < end) {
        uint64_t row = first / length, column = first % length, left = end - first;
        uint64_t rows = column == 0 && left >= length ? left / length : 1;
        uint64_t columns = length - column < left ? length - column : left;
        CK_TRY(read_rows(s, p, row, rows, column, columns, out, err));
        first += rows * columns;
        out += rows * columns;
    }
    return CK_OK;
}

/* The pieces in their order; rows between them are not changed. */
static ck_status read_changes(const ck_reader *r, const ck_tensor *t, uint64_t begin, void *dst,
                              size_t n, ck_error *err) {
    changes_state *s = r->state;
    const change *c = &s->changes[t->offset];
    uint64_t at = begin / sizeof(float), end = at + n / sizeof(float), length = row_length(c->like);
    float *out = dst;
    for (size_t i = 0; i < c->count && at < end; i++) {
        piece *p = &c->pieces[i];
        uint64_t first = p->tensor_row * length, stop = first + p->rows * length;
        uint64_t from = first < at ? at : first < end ? first : end, to = stop < end ? stop : end;
        memset(out, 0, (size_t)(from - at) * sizeof *out);
        out += from - at;
        at = from;
        if (at >= to) continue;
        CK_TRY(read_piece(s, p, at - first, to - first, out, err));
        out += to - at;
        at = to;
    }
    memset(out, 0, (size_t)(end - at) * sizeof *out);
    return CK_OK;
}

static void close_changes(ck_reader *r) {
    changes_state *s = r->state;
    if (!s) return;
    for (size_t i = 0; i < s->piece_count; i++) free(s->pieces[i].factors);
    free(s->pieces);
    free(s->changes);
    ck_lora_close(s->lora);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static const ck_format format_lora = {.name = "lora", .read = read_changes, .close = close_changes};

/* ---- Opening ---- */

static ck_status copy_metadata(ck_reader *r, const ck_reader *file, ck_error *err) {
    size_t n;
    const ck_meta *meta = ck_reader_metadata(file, &n);
    for (size_t i = 0; i < n; i++)
        CK_TRY(ck_reader__add_meta(r, meta[i].key, strlen(meta[i].key), meta[i].value,
                                   strlen(meta[i].value), err));
    return CK_OK;
}

static ck_status fill(ck_reader *r, const ck_reader *file, const ck_reader *model,
                      ck_unmatched policy, ck_lora_report *report, ck_error *err) {
    changes_state *s = r->state = ck_alloc(sizeof *s);
    if (!s) return ck_fail_memory(err, r->path);
    pthread_mutex_init(&s->lock, NULL);
    s->model = model;
    CK_TRY(ck_lora_open(file, &s->lora, err));
    s->kernels = s->lora->kernels;
    ck_lora_places places;
    CK_TRY(ck_lora__places(model, &places, err));
    unmatched u = {0};
    ck_status status = pair(s, &places, &u, err);
    ck_lora__places_free(&places);
    if (status == CK_OK) status = check_unmatched(s, &u, policy, err);
    CK_TRY(status);
    CK_TRY(add_tensors(r, err));
    CK_TRY(copy_metadata(r, file, err));
    if (report) *report = (ck_lora_report){ck_lora_count(s->lora), u.count, u.first};
    return CK_OK;
}

ck_status ck_lora_changes(const ck_reader *file, const ck_reader *model, ck_unmatched policy,
                          ck_reader **changes, ck_lora_report *report, ck_error *err) {
    ck_reader *r = ck_alloc(sizeof *r);
    if (!r) return ck_fail_memory(err, ck_reader_path(file));
    r->fd = -1;
    r->format = &format_lora;
    r->path = ck_strdup(ck_reader_path(file));
    ck_status status = r->path ? fill(r, file, model, policy, report, err)
                               : ck_fail_memory(err, ck_reader_path(file));
    if (status != CK_OK) {
        ck_reader_close(r);
        return status;
    }
    *changes = r;
    return CK_OK;
}
