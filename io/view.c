/* Readers over readers, see view.h. */
#include "io/view.h"
#include "io/os.h"
#include "io/view_int.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Where the bytes of one tensor come from. */
typedef enum origin_kind { PIECES, TRANSPOSED, PERMUTED, CONSTANT } origin_kind;

typedef struct origin {
    origin_kind kind;
    const ck_piece *pieces; /* PIECES; TRANSPOSED, PERMUTED: one */
    size_t piece_count;
    const uint32_t *rows, *columns; /* PERMUTED */
    const void *data;               /* CONSTANT */
} origin;

typedef struct view_state {
    origin *origins; /* of the tensor whose offset is the index */
    size_t count, capacity;
    ck_reader **owned;
    size_t owned_count, owned_capacity;
} view_state;

static const ck_format format_view = {
    .name = "view",
    .read = ck_view__read,
    .close = ck_view__close,
};

ck_status ck_view__attach(ck_reader *r, ck_error *err) {
    r->state = ck_alloc(sizeof(view_state));
    return r->state ? CK_OK : ck_fail_memory(err, r->path);
}

void ck_view__close(ck_reader *r) {
    view_state *state = r->state;
    if (!state) return;
    for (size_t i = 0; i < state->owned_count; i++) ck_reader_close(state->owned[i]);
    free(state->owned);
    free(state->origins);
    free(state);
}

ck_status ck_view_new(const char *label, ck_reader **out, ck_error *err) {
    ck_reader *r = ck_alloc(sizeof *r);
    if (!r) return ck_fail_memory(err, label);
    r->fd = -1;
    r->format = &format_view;
    r->path = ck_strdup(label);
    ck_status status = r->path ? ck_view__attach(r, err) : ck_fail_memory(err, label);
    if (status != CK_OK) {
        ck_reader_close(r);
        return status;
    }
    *out = r;
    return CK_OK;
}

ck_status ck_view_own(ck_reader *view, ck_reader *source, ck_error *err) {
    view_state *state = view->state;
    ck_reader **owned =
        ck_grow(state->owned, state->owned_count, &state->owned_capacity, sizeof *owned);
    if (!owned) {
        ck_reader_close(source);
        return ck_fail_memory(err, view->path);
    }
    state->owned = owned;
    owned[state->owned_count++] = source;
    view->skipped += source->skipped;
    return CK_OK;
}

static ck_status add(ck_reader *view, const char *name, ck_dtype dtype, size_t rank,
                     const uint64_t *shape, const origin *from, ck_error *err) {
    view_state *state = view->state;
    origin *origins = ck_grow(state->origins, state->count, &state->capacity, sizeof *origins);
    if (!origins) return ck_fail_memory(err, view->path);
    state->origins = origins;
    CK_TRY(ck_reader__add(view, name, strlen(name), dtype, rank, shape, state->count, err));
    origins[state->count++] = *from;
    return CK_OK;
}

ck_status ck_view_concat(ck_reader *view, const char *name, ck_dtype dtype, size_t rank,
                         const uint64_t *shape, const ck_piece *pieces, size_t count,
                         ck_error *err) {
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        const ck_piece *p = &pieces[i];
        if (p->begin > p->tensor->nbytes || p->nbytes > p->tensor->nbytes - p->begin ||
            __builtin_add_overflow(sum, p->nbytes, &sum))
            return ck_fail(err, CK_USAGE, "%s: tensor '%s': a piece lies outside of '%s'",
                           view->path, name, p->tensor->name);
    }
    ck_piece *copy = ck_arena_alloc(&view->arena, count * sizeof *copy);
    if (!copy) return ck_fail_memory(err, view->path);
    if (count) memcpy(copy, pieces, count * sizeof *copy);
    CK_TRY(add(view, name, dtype, rank, shape,
               &(origin){.kind = PIECES, .pieces = copy, .piece_count = count}, err));
    uint64_t nbytes = view->tensors[view->count - 1].nbytes;
    if (sum != nbytes)
        return ck_fail(err, CK_USAGE, "%s: tensor '%s': pieces of %llu bytes, %llu expected",
                       view->path, name, (unsigned long long)sum, (unsigned long long)nbytes);
    return CK_OK;
}

ck_status ck_view_rename(ck_reader *view, const char *name, const ck_reader *source,
                         const ck_tensor *t, ck_error *err) {
    return ck_view_concat(view, name, t->dtype, t->rank, t->shape,
                          &(ck_piece){source, t, 0, t->nbytes}, 1, err);
}

ck_status ck_view_transpose(ck_reader *view, const char *name, const ck_reader *source,
                            const ck_tensor *t, ck_error *err) {
    if (t->rank != 2 || ck_dtype_bits(t->dtype) % 8)
        return ck_fail(err, CK_INPUT, "%s: tensor '%s' is not a matrix that can be transposed",
                       source->path, t->name);
    ck_piece *copy = ck_arena_alloc(&view->arena, sizeof *copy);
    if (!copy) return ck_fail_memory(err, view->path);
    *copy = (ck_piece){source, t, 0, t->nbytes};
    uint64_t shape[2] = {t->shape[1], t->shape[0]};
    return add(view, name, t->dtype, 2, shape,
               &(origin){.kind = TRANSPOSED, .pieces = copy, .piece_count = 1}, err);
}

/* The order of an axis of n channels, copied; one of NULL is NULL. */
static ck_status copy_order(ck_reader *view, const uint32_t *order, uint64_t n,
                            const uint32_t **copy, ck_error *err) {
    *copy = NULL;
    if (!order) return CK_OK;
    uint32_t *own = ck_arena_alloc(&view->arena, n * sizeof *own);
    if (!own) return ck_fail_memory(err, view->path);
    memcpy(own, order, n * sizeof *own);
    *copy = own;
    return CK_OK;
}

ck_status ck_view_permute(ck_reader *view, const char *name, const ck_reader *source,
                          const ck_tensor *t, const uint32_t *rows, const uint32_t *columns,
                          ck_error *err) {
    if (t->rank < (columns ? 2 : 1) || ck_dtype_bits(t->dtype) % 8)
        return ck_fail(err, CK_USAGE, "%s: tensor '%s' has no channels that can be permuted",
                       source->path, t->name);
    origin from = {.kind = PERMUTED};
    ck_piece *piece = ck_arena_alloc(&view->arena, sizeof *piece);
    if (!piece) return ck_fail_memory(err, view->path);
    *piece = (ck_piece){source, t, 0, t->nbytes};
    from.pieces = piece;
    from.piece_count = 1;
    CK_TRY(copy_order(view, rows, t->shape[0], &from.rows, err));
    CK_TRY(copy_order(view, columns, t->rank > 1 ? t->shape[1] : 0, &from.columns, err));
    return add(view, name, t->dtype, t->rank, t->shape, &from, err);
}

ck_status ck_view_constant(ck_reader *view, const char *name, ck_dtype dtype, size_t rank,
                           const uint64_t *shape, const void *data, ck_error *err) {
    CK_TRY(add(view, name, dtype, rank, shape, &(origin){.kind = CONSTANT}, err));
    size_t n = view->tensors[view->count - 1].nbytes;
    void *copy = ck_arena_alloc(&view->arena, n);
    if (!copy) return ck_fail_memory(err, view->path);
    if (n) memcpy(copy, data, n);
    view_state *state = view->state;
    state->origins[state->count - 1].data = copy;
    return CK_OK;
}

ck_status ck_view_copy_metadata(ck_reader *view, const ck_reader *source, ck_error *err) {
    for (size_t i = 0; i < source->meta_count; i++) {
        const ck_meta *m = &source->meta[i];
        if (!ck_reader_meta(view, m->key))
            CK_TRY(ck_view_set_metadata(view, m->key, m->value, err));
    }
    return CK_OK;
}

ck_status ck_view_set_metadata(ck_reader *view, const char *key, const char *value, ck_error *err) {
    for (size_t i = 0; i < view->meta_count; i++) {
        if (strcmp(view->meta[i].key, key) != 0) continue;
        char *copy = ck_arena_strdup(&view->arena, value);
        if (!copy) return ck_fail_memory(err, view->path);
        view->meta[i].value = copy;
        return CK_OK;
    }
    return ck_reader__add_meta(view, key, strlen(key), value, strlen(value), err);
}

ck_status ck_view_finish(ck_reader *view, ck_error *err) {
    return ck_reader__finish(view, err);
}

static ck_status read_pieces(const origin *from, uint64_t begin, char *dst, size_t n,
                             ck_error *err) {
    for (const ck_piece *p = from->pieces; n > 0; p++) {
        if (begin >= p->nbytes) {
            begin -= p->nbytes;
            continue;
        }
        size_t here = p->nbytes - begin < n ? (size_t)(p->nbytes - begin) : n;
        CK_TRY(ck_reader_read(p->reader, p->tensor, p->begin + begin, dst, here, err));
        begin = 0;
        dst += here;
        n -= here;
    }
    return CK_OK;
}

/* Element k of the result is at row k % rows, column k / rows of the source. Every source row gives
 * those of its columns that fall into the range, a buffer at a time. */
static ck_status read_transposed(const origin *from, uint64_t begin, char *dst, size_t n,
                                 ck_error *err) {
    const ck_piece *p = from->pieces;
    const uint64_t rows = p->tensor->shape[0], columns = p->tensor->shape[1];
    const size_t size = ck_dtype_bits(p->tensor->dtype) / 8;
    const uint64_t first = begin / size, end = first + n / size;
    char run[CK_PAGE];
    for (uint64_t row = 0; row < rows; row++) {
        uint64_t column = first > row ? (first - row + rows - 1) / rows : 0;
        uint64_t last = end > row ? (end - row + rows - 1) / rows : 0;
        while (column < last) {
            size_t count = last - column < sizeof run / size ? last - column : sizeof run / size;
            CK_TRY(ck_reader_read(p->reader, p->tensor, (row * columns + column) * size, run,
                                  count * size, err));
            for (size_t i = 0; i < count; i++)
                memcpy(dst + ((column + i) * rows + row - first) * size, run + i * size, size);
            column += count;
        }
    }
    return CK_OK;
}

/* Bytes [begin, begin + n) of a row whose channels, of `size` bytes each, are those of `row` in
 * this order. */
static void pick(const char *row, const uint32_t *order, size_t size, uint64_t begin, char *dst,
                 size_t n) {
    while (n > 0) {
        size_t within = begin % size, here = size - within < n ? size - within : n;
        memcpy(dst, row + order[begin / size] * size + within, here);
        begin += here;
        dst += here;
        n -= here;
    }
}

/* A vector is a row whose channels are its elements. */
static ck_status read_permuted(const origin *from, uint64_t begin, char *dst, size_t n,
                               ck_error *err) {
    const ck_piece *p = from->pieces;
    const ck_tensor *t = p->tensor;
    bool vector = t->rank == 1;
    const uint32_t *rows = vector ? NULL : from->rows,
                   *columns = vector ? from->rows : from->columns;
    uint64_t row_bytes = vector ? t->nbytes : t->nbytes / t->shape[0];
    char *row = columns ? ck_alloc(row_bytes) : NULL;
    if (columns && !row) return ck_fail_memory(err, t->name);
    ck_status status = CK_OK;
    while (n > 0 && status == CK_OK) {
        uint64_t i = begin / row_bytes, within = begin % row_bytes;
        uint64_t at = (rows ? rows[i] : i) * row_bytes;
        size_t here = row_bytes - within < n ? (size_t)(row_bytes - within) : n;
        if (columns) {
            status = ck_reader_read(p->reader, t, at, row, row_bytes, err);
            if (status == CK_OK)
                pick(row, columns, row_bytes / t->shape[!vector], within, dst, here);
        } else {
            status = ck_reader_read(p->reader, t, at + within, dst, here, err);
        }
        begin += here;
        dst += here;
        n -= here;
    }
    free(row);
    return status;
}

ck_status ck_view__read(const ck_reader *r, const ck_tensor *t, uint64_t begin, void *dst, size_t n,
                        ck_error *err) {
    const view_state *state = r->state;
    const origin *from = &state->origins[t->offset];
    switch (from->kind) {
    case PIECES:
        return read_pieces(from, begin, dst, n, err);
    case TRANSPOSED:
        return read_transposed(from, begin, dst, n, err);
    case PERMUTED:
        return read_permuted(from, begin, dst, n, err);
    case CONSTANT:
        memcpy(dst, (const char *)from->data + begin, n);
        break;
    }
    return CK_OK;
}
