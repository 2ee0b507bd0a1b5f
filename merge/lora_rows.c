/* The changes that layers amount to.
 *
 * DESIGN
 * Factors are loaded when a layer is first asked for, as f32: the left one row by row with the
 * scale in it, the right one in panels for the product's kernel, a Tucker core multiplied out. As
 * all threads work on neighbouring places of a model, the factors of a few layers are enough for
 * everybody: they are shared, counted, and kept until newer ones need the room. The first thread
 * that asks for a layer loads it; those that want the same wait, others do not.
 */
#include "io/os.h"
#include "merge/lora_int.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* A product ready to be made, left times panels; or a matrix. */
typedef struct factor {
    float *left, *panels, *matrix;
    uint64_t rows, columns, rank;
} factor;

/* A layer in memory. */
typedef struct loaded {
    size_t layer;
    unsigned users;
    uint64_t last_use;
    pthread_mutex_t loading; /* of what is below */
    bool ready;
    factor factors[2];
    struct loaded *next;
} loaded;

enum { KEPT = 2 }; /* loaded layers that nobody uses */

struct ck_lora_cache {
    pthread_mutex_t lock;
    loaded *first;
    uint64_t clock;
};

/* ---- Layers in memory ---- */

/* The bytes of a tensor, released with free(). */
static ck_status load_bytes(const ck_lora *lora, const ck_tensor *t, void **bytes, ck_error *err) {
    *bytes = ck_alloc((size_t)t->nbytes);
    if (!*bytes) return ck_fail_memory(err, ck_reader_path(lora->file));
    ck_status status = ck_reader_read(lora->file, t, 0, *bytes, (size_t)t->nbytes, err);
    if (status == CK_OK) return CK_OK;
    free(*bytes);
    *bytes = NULL;
    return status;
}

/* All elements of a tensor as f32, released with free(). */
static ck_status load(const ck_lora *lora, const ck_tensor *t, float **values, ck_error *err) {
    void *bytes;
    *values = NULL;
    CK_TRY(load_bytes(lora, t, &bytes, err));
    *values = ck_alloc_array((size_t)t->elements, sizeof **values);
    if (*values) lora->kernels->decode[t->dtype](*values, bytes, (size_t)t->elements);
    free(bytes);
    return *values ? CK_OK : ck_fail_memory(err, ck_reader_path(lora->file));
}

static void free_factors(loaded *l) {
    for (int i = 0; i < 2; i++) {
        free(l->factors[i].left);
        free(l->factors[i].panels);
        free(l->factors[i].matrix);
        l->factors[i] = (factor){0};
    }
}

static void unload(loaded *l) {
    if (!l) return;
    free_factors(l);
    pthread_mutex_destroy(&l->loading);
    free(l);
}

/* flat[p, i, y] = sum over q of core[p, q, y] right[q, i] */
static ck_status multiply_core(const ck_lora *lora, const ck_lora_product *p, const float *right,
                               float *flat, ck_error *err) {
    uint64_t inner = p->right->shape[0], channels = p->right->shape[1];
    uint64_t kernel = p->columns / channels;
    float *core = NULL, *sum = ck_alloc_array((size_t)channels, sizeof *sum);
    ck_status status =
        sum ? load(lora, p->core, &core, err) : ck_fail_memory(err, ck_reader_path(lora->file));
    for (uint64_t r = 0; r < p->rank && status == CK_OK; r++)
        for (uint64_t y = 0; y < kernel; y++) {
            memset(sum, 0, channels * sizeof *sum);
            for (uint64_t q = 0; q < inner; q++)
                lora->kernels->accumulate(sum, right + q * channels,
                                          core[(r * inner + q) * kernel + y], channels);
            for (uint64_t i = 0; i < channels; i++) flat[r * p->columns + i * kernel + y] = sum[i];
        }
    free(core);
    free(sum);
    return status;
}

static uint64_t panel_count(uint64_t columns) {
    return (columns + CK_PANEL - 1) / CK_PANEL;
}

/* Puts the right factor, rows of the rank, into panels. */
static ck_status fill_panels(const ck_lora *lora, ck_dtype dtype, const void *rows, factor *f,
                             ck_error *err) {
    size_t panel = (size_t)f->rank * CK_PANEL, size = ck_dtype_bits(dtype) / 8;
    float *to = f->panels =
        ck_alloc_array((size_t)panel_count(f->columns), panel * sizeof *f->panels);
    if (!to) return ck_fail_memory(err, ck_reader_path(lora->file));
    for (uint64_t j = 0; j < f->columns; j += CK_PANEL) {
        size_t n = f->columns - j < CK_PANEL ? (size_t)(f->columns - j) : CK_PANEL;
        for (uint64_t r = 0; r < f->rank; r++, to += CK_PANEL)
            lora->kernels->decode[dtype](to, (const char *)rows + (r * f->columns + j) * size, n);
    }
    return CK_OK;
}

/* The right factor behind a Tucker core. */
static ck_status load_behind_core(const ck_lora *lora, const ck_lora_product *p, factor *f,
                                  ck_error *err) {
    float *right, *flat;
    CK_TRY(load(lora, p->right, &right, err));
    flat = ck_alloc_array((size_t)p->rank, (size_t)p->columns * sizeof *flat);
    ck_status status = flat ? multiply_core(lora, p, right, flat, err)
                            : ck_fail_memory(err, ck_reader_path(lora->file));
    free(right);
    if (status == CK_OK) status = fill_panels(lora, CK_F32, flat, f, err);
    free(flat);
    return status;
}

static ck_status load_panels(const ck_lora *lora, const ck_lora_product *p, factor *f,
                             ck_error *err) {
    if (p->core) return load_behind_core(lora, p, f, err);
    void *rows;
    CK_TRY(load_bytes(lora, p->right, &rows, err));
    ck_status status = fill_panels(lora, p->right->dtype, rows, f, err);
    free(rows);
    return status;
}

static ck_status load_left(const ck_lora *lora, const ck_lora_product *p, double scale, factor *f,
                           ck_error *err) {
    size_t n = (size_t)(p->rows * p->rank);
    CK_TRY(load(lora, p->left, &f->left, err));
    lora->kernels->scale(f->left, f->left, (float)scale, n);
    if (!p->transposed) return CK_OK;
    float *rows = ck_alloc_array(n, sizeof *rows);
    if (!rows) return ck_fail_memory(err, ck_reader_path(lora->file));
    for (uint64_t i = 0; i < p->rows; i++)
        for (uint64_t r = 0; r < p->rank; r++) rows[i * p->rank + r] = f->left[r * p->rows + i];
    free(f->left);
    f->left = rows;
    return CK_OK;
}

static ck_status load_product(const ck_lora *lora, const ck_lora_product *p, double scale,
                              factor *f, ck_error *err) {
    f->rows = p->rows;
    f->columns = p->columns;
    f->rank = p->rank;
    CK_TRY(load_left(lora, p, scale, f, err));
    return load_panels(lora, p, f, err);
}

/* Rows [row, row + rows) of a product, the columns of one panel, to out[rows][CK_PANEL]. */
static void make_panel(const ck_kernels *k, const factor *f, uint64_t row, size_t rows,
                       uint64_t panel, float *out) {
    k->panels(out, CK_PANEL, f->left + row * f->rank, f->panels + panel * f->rank * CK_PANEL, rows,
              (size_t)f->rank, 1);
}

enum { ROWS = 64 }; /* at a time, in buffers on the stack */

/* Turns a product into its matrix: a block of LoKr, which is small. */
static ck_status make_matrix(const ck_lora *lora, factor *f, ck_error *err) {
    f->matrix = ck_alloc_array((size_t)f->rows, (size_t)f->columns * sizeof *f->matrix);
    if (!f->matrix) return ck_fail_memory(err, ck_reader_path(lora->file));
    float made[CK_PANEL];
    for (uint64_t row = 0; row < f->rows; row++)
        for (uint64_t j = 0; j < f->columns; j += CK_PANEL) {
            uint64_t n = f->columns - j < CK_PANEL ? f->columns - j : CK_PANEL;
            make_panel(lora->kernels, f, row, 1, j / CK_PANEL, made);
            memcpy(f->matrix + row * f->columns + j, made, n * sizeof *made);
        }
    return CK_OK;
}

/* w1 (with the scale) and w2 of LoKr. */
static ck_status load_block(const ck_lora *lora, const ck_lora_parts *l, int which, factor *f,
                            ck_error *err) {
    double scale = which ? 1 : l->shown.scale;
    const ck_tensor *t = l->matrices[which];
    if (!t) {
        CK_TRY(load_product(lora, &l->products[which], scale, f, err));
        return make_matrix(lora, f, err);
    }
    f->rows = t->shape[0];
    f->columns = t->elements / t->shape[0];
    CK_TRY(load(lora, t, &f->matrix, err));
    lora->kernels->scale(f->matrix, f->matrix, (float)scale, (size_t)t->elements);
    return CK_OK;
}

static ck_status load_layer(const ck_lora *lora, const ck_lora_parts *l, loaded *into,
                            ck_error *err) {
    switch (l->shown.kind) {
    case CK_LORA_PRODUCT:
        return load_product(lora, &l->products[0], l->shown.scale, &into->factors[0], err);
    case CK_LORA_HADAMARD:
        CK_TRY(load_product(lora, &l->products[0], l->shown.scale, &into->factors[0], err));
        return load_product(lora, &l->products[1], 1, &into->factors[1], err);
    case CK_LORA_KRONECKER:
        CK_TRY(load_block(lora, l, 0, &into->factors[0], err));
        return load_block(lora, l, 1, &into->factors[1], err);
    case CK_LORA_FULL: /* read where it lies */
        break;
    }
    return CK_OK;
}

ck_lora_cache *ck_lora__cache_new(void) {
    ck_lora_cache *c = ck_alloc(sizeof *c);
    if (c) pthread_mutex_init(&c->lock, NULL);
    return c;
}

void ck_lora__cache_free(ck_lora_cache *c) {
    if (!c) return;
    while (c->first) {
        loaded *l = c->first;
        c->first = l->next;
        unload(l);
    }
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* Takes the layer out that was unused for longest, while there are too many; else NULL. Under the
 * lock. */
static loaded *make_room(ck_lora_cache *c) {
    loaded **oldest = NULL;
    size_t unused = 0;
    for (loaded **l = &c->first; *l; l = &(*l)->next) {
        if ((*l)->users) continue;
        unused++;
        if (!oldest || (*l)->last_use < (*oldest)->last_use) oldest = l;
    }
    if (unused <= KEPT) return NULL;
    loaded *dropped = *oldest;
    *oldest = dropped->next;
    return dropped;
}

/* The layer of this number, which may have to be loaded yet. NULL: no memory. Under the lock. */
static loaded *find_or_add(ck_lora_cache *c, size_t i) {
    loaded *l = c->first;
    while (l && l->layer != i) l = l->next;
    if (!l) {
        l = ck_alloc(sizeof *l);
        if (!l) return NULL;
        pthread_mutex_init(&l->loading, NULL);
        l->layer = i;
        l->next = c->first;
        c->first = l;
    }
    l->users++;
    return l;
}

static void give_back(const ck_lora *lora, loaded *l) {
    pthread_mutex_lock(&lora->cache->lock);
    l->users--;
    l->last_use = ++lora->cache->clock;
    loaded *dropped = make_room(lora->cache);
    pthread_mutex_unlock(&lora->cache->lock);
    unload(dropped);
}

/* A layer is loaded by the first that wants it, while others load other ones; where that fails the
 * next one tries again. */
static ck_status take(const ck_lora *lora, size_t i, loaded **out, ck_error *err) {
    pthread_mutex_lock(&lora->cache->lock);
    loaded *l = *out = find_or_add(lora->cache, i);
    pthread_mutex_unlock(&lora->cache->lock);
    if (!l) return ck_fail_memory(err, ck_reader_path(lora->file));
    pthread_mutex_lock(&l->loading);
    ck_status status = l->ready ? CK_OK : load_layer(lora, &lora->layers[i], l, err);
    l->ready = status == CK_OK;
    if (!l->ready) free_factors(l);
    pthread_mutex_unlock(&l->loading);
    if (status != CK_OK) give_back(lora, l);
    return status;
}

/* ---- Changes ---- */

/* Rows and columns of a layer that are wanted, and where. */
typedef struct part {
    uint64_t row, rows, column, columns;
    float *out;
    size_t stride;
} part;

/* The columns [from, to) of a product, which lie in one panel, through a buffer. */
static void make_part(const ck_kernels *k, const loaded *l, bool hadamard, part w, uint64_t from,
                      uint64_t to) {
    float made[ROWS * CK_PANEL], other[ROWS * CK_PANEL];
    uint64_t panel = from / CK_PANEL;
    for (uint64_t row = 0; row < w.rows; row += ROWS) {
        size_t rows = w.rows - row < ROWS ? (size_t)(w.rows - row) : ROWS;
        make_panel(k, &l->factors[0], w.row + row, rows, panel, made);
        if (hadamard) {
            make_panel(k, &l->factors[1], w.row + row, rows, panel, other);
            for (size_t i = 0; i < rows * CK_PANEL; i++) made[i] *= other[i];
        }
        for (size_t i = 0; i < rows; i++)
            memcpy(w.out + (row + i) * w.stride + (from - w.column),
                   made + i * CK_PANEL + from % CK_PANEL, (to - from) * sizeof *made);
    }
}

/* Panels that are wanted whole are made where they are wanted. */
static void make_products(const ck_kernels *k, const loaded *l, bool hadamard, part w) {
    const factor *f = &l->factors[0];
    uint64_t end = w.column + w.columns;
    for (uint64_t from = w.column; from < end;) {
        uint64_t count = hadamard || from % CK_PANEL ? 0 : (end - from) / CK_PANEL;
        uint64_t next = (from / CK_PANEL + 1) * CK_PANEL, to = next < end ? next : end;
        if (count) {
            to = from + count * CK_PANEL;
            k->panels(w.out + (from - w.column), w.stride, f->left + w.row * f->rank,
                      f->panels + from * f->rank, (size_t)w.rows, (size_t)f->rank, (size_t)count);
        } else {
            make_part(k, l, hadamard, w, from, to);
        }
        from = to;
    }
}

/* Row (i1, i2) of kron(w1, w2) is row i2 of w2 times each element of row i1 of w1. */
static void make_kronecker(const ck_kernels *k, const loaded *l, part w) {
    const factor *w1 = &l->factors[0], *w2 = &l->factors[1];
    for (uint64_t i = 0; i < w.rows; i++) {
        uint64_t row = w.row + i;
        const float *outer = w1->matrix + row / w2->rows * w1->columns;
        const float *inner = w2->matrix + row % w2->rows * w2->columns;
        for (uint64_t j = 0; j < w.columns;) {
            uint64_t block = (w.column + j) / w2->columns, at = (w.column + j) % w2->columns;
            uint64_t left = w2->columns - at;
            size_t n = (size_t)(left < w.columns - j ? left : w.columns - j);
            k->scale(w.out + i * w.stride + j, inner + at, outer[block], n);
            j += n;
        }
    }
}

static ck_status read_full(const ck_lora *lora, const ck_lora_parts *l, part w, ck_error *err) {
    const ck_tensor *t = l->matrices[0];
    unsigned char raw[CK_STRIP * 8];
    size_t size = ck_dtype_bits(t->dtype) / 8;
    /* Whole rows without gaps are one. */
    if (w.columns == l->shown.columns && w.stride == w.columns)
        w = (part){0, 1, w.row * w.columns, w.rows * w.columns, w.out, 0};
    for (uint64_t i = 0; i < w.rows; i++)
        for (uint64_t j = 0; j < w.columns; j += CK_STRIP) {
            size_t n = w.columns - j < CK_STRIP ? (size_t)(w.columns - j) : CK_STRIP;
            uint64_t first = (w.row + i) * l->shown.columns + w.column + j;
            float *out = w.out + i * w.stride + j;
            CK_TRY(ck_reader_read(lora->file, t, first * size, raw, n * size, err));
            lora->kernels->decode[t->dtype](out, raw, n);
            lora->kernels->scale(out, out, (float)l->shown.scale, n);
        }
    return CK_OK;
}

ck_status ck_lora_rows(const ck_lora *lora, size_t i, uint64_t row, uint64_t rows, uint64_t column,
                       uint64_t columns, float *out, size_t stride, ck_error *err) {
    const ck_lora_parts *l = &lora->layers[i];
    part w = {row, rows, column, columns, out, stride};
    if (l->shown.kind == CK_LORA_FULL) return read_full(lora, l, w, err);
    loaded *in_memory = NULL;
    CK_TRY(take(lora, i, &in_memory, err));
    if (l->shown.kind == CK_LORA_KRONECKER)
        make_kronecker(lora->kernels, in_memory, w);
    else
        make_products(lora->kernels, in_memory, l->shown.kind == CK_LORA_HADAMARD, w);
    give_back(lora, in_memory);
    return CK_OK;
}

ck_status ck_lora__magnitudes(const ck_lora *lora, size_t i, float **items, ck_error *err) {
    const ck_lora_parts *l = &lora->layers[i];
    const ck_tensor *dora = l->roles[CK_ROLE_DORA_SCALE];
    return load(lora, dora ? dora : l->roles[CK_ROLE_MAGNITUDE], items, err);
}
