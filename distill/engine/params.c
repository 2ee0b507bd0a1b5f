/* Weights in memory, see params.h. */
#include "distill/engine/params.h"

#include "io/layout.h"
#include "io/os.h"
#include "io/reader_int.h"
#include "io/scaled.h"
#include "io/view.h"
#include "kernels/kernels.h"
#include "kernels/philox.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RANK = 5, HASH_BLOCK = 1 << 20 };

typedef struct weight {
    char *name;     /* without prefix */
    float *data;    /* or NULL, as the next: see ck_params_freeze */
    uint16_t *half; /* the same as bfloat16 */
    size_t elements;
    int rank; /* of the engine's shape */
    int64_t shape[MAX_RANK];
    const ck_tensor *tensor; /* in the source; NULL if it was made */
} weight;

/* An opened file, closed by the last of the params that share it. */
typedef struct shared_file {
    ck_reader *reader[3]; /* the first on the file, each on the one before */
    size_t readers;
    size_t users;
    struct shared_file *below; /* what the first reads from, if that is no file */
} shared_file;

struct ck_params {
    shared_file *file;       /* or NULL */
    const ck_reader *source; /* NULL for weights that are made */
    char *prefix;
    size_t *index_of; /* by number of the source's tensor: weight + 1, or 0 */
    weight *weights;
    size_t count, capacity;
    uint64_t seed;
    bool hollow; /* weights have no memory */
    bool frozen; /* they get it when they are fetched */
};

/* ---- Making and releasing ---- */

static ck_params *params_of(const ck_reader *source, const char *prefix) {
    ck_params *p = ck_alloc(sizeof *p);
    if (!p) return NULL;
    p->source = source;
    p->prefix = ck_strdup(prefix);
    if (source) p->index_of = ck_alloc_array(ck_reader_count(source), sizeof *p->index_of);
    if (!p->prefix || (source && !p->index_of)) {
        ck_params_free(p);
        return NULL;
    }
    return p;
}

ck_status ck_params_from(const ck_reader *source, const char *prefix, ck_params **p,
                         ck_error *err) {
    *p = params_of(source, prefix);
    return *p ? CK_OK : ck_fail_memory(err, ck_reader_path(source));
}

static bool has_prefix(const ck_reader *r, const char *prefix) {
    for (size_t i = 0; i < ck_reader_count(r); i++)
        if (strncmp(ck_reader_tensor(r, i)->name, prefix, strlen(prefix)) == 0) return true;
    return false;
}

static ck_status is_original(const ck_reader *r, bool *original, ck_error *err) {
    ck_anatomy a;
    CK_TRY(ck_anatomy_of(r, &a, err));
    *original = false;
    for (size_t i = 0; i < a.component_count; i++)
        *original = *original || a.components[i].layout == CK_LAYOUT_ORIGINAL;
    ck_anatomy_free(&a);
    return CK_OK;
}

/* The file; over it, where it has f8 weights with scales, what they stand for; over that, where
 * names are LDM's, diffusers'. */
static ck_status open_file(shared_file *f, const char *path, ck_error *err) {
    size_t scaled;
    bool original;
    CK_TRY(ck_reader_open(path, &f->reader[f->readers], err));
    ck_reader *top = f->reader[f->readers++];
    CK_TRY(ck_scaled_open(top, &f->reader[f->readers], &scaled, err));
    if (f->reader[f->readers]) top = f->reader[f->readers++];
    CK_TRY(is_original(top, &original, err));
    if (!original) return CK_OK;
    CK_TRY(ck_layout_convert(top, CK_LAYOUT_DIFFUSERS, CK_UNUSED_KEEP, &f->reader[f->readers], NULL,
                             err));
    f->readers++;
    return CK_OK;
}

static void close_file(shared_file *f) {
    while (f && --f->users == 0) {
        shared_file *below = f->below;
        while (f->readers) ck_reader_close(f->reader[--f->readers]);
        free(f);
        f = below;
    }
}

ck_status ck_params_open(const char *path, const char *part, ck_params **out, ck_error *err) {
    shared_file *file = ck_alloc(sizeof *file);
    if (!file) return ck_fail_memory(err, path);
    file->users = 1;
    ck_status s = open_file(file, path, err);
    if (s == CK_OK) {
        const ck_reader *top = file->reader[file->readers - 1];
        *out = params_of(top, has_prefix(top, part) ? part : "");
        if (!*out) s = ck_fail_memory(err, path);
    }
    if (s != CK_OK) {
        close_file(file);
        return s;
    }
    (*out)->file = file;
    return CK_OK;
}

static ck_status add_renamed(ck_reader *view, const ck_params *p,
                             bool (*rename)(const void *, const char *, char *),
                             const void *context, ck_error *err) {
    size_t start = strlen(p->prefix);
    for (size_t i = 0; i < ck_reader_count(p->source); i++) {
        const ck_tensor *t = ck_reader_tensor(p->source, i);
        char name[256], full[512];
        if (strncmp(t->name, p->prefix, start) != 0 || !rename(context, t->name + start, name))
            continue;
        snprintf(full, sizeof full, "%.250s%s", p->prefix, name);
        CK_TRY(ck_view_rename(view, full, p->source, t, err));
    }
    CK_TRY(ck_view_copy_metadata(view, p->source, err));
    return ck_view_finish(view, err);
}

ck_status ck_params_renamed(const ck_params *p, bool (*rename)(const void *, const char *, char *),
                            const void *context, ck_params **out, ck_error *err) {
    if (!p->file && p->hollow) return ck_params_copy(p, out, err);
    if (!p->file) return ck_fail(err, CK_USAGE, "only weights of a file can be renamed");
    shared_file *file = ck_alloc(sizeof *file);
    if (!file) return ck_fail_memory(err, ck_reader_path(p->source));
    file->users = 1;
    file->below = p->file;
    file->below->users++;
    ck_status s = ck_view_new(ck_reader_path(p->source), &file->reader[0], err);
    if (s == CK_OK) {
        file->readers = 1;
        s = add_renamed(file->reader[0], p, rename, context, err);
    }
    if (s == CK_OK) {
        *out = params_of(file->reader[0], p->prefix);
        if (*out) (*out)->hollow = p->hollow;
        if (!*out) s = ck_fail_memory(err, ck_reader_path(p->source));
    }
    if (s != CK_OK)
        close_file(file);
    else
        (*out)->file = file;
    return s;
}

ck_params *ck_params_new(uint64_t seed) {
    ck_params *p = params_of(NULL, "");
    if (p) p->seed = seed;
    return p;
}

void ck_params_hollow(ck_params *p) {
    p->hollow = true;
}

void ck_params_freeze(ck_params *p, bool frozen) {
    p->frozen = frozen;
}

bool ck_params_frozen(const ck_params *p) {
    return p->frozen;
}

static void release(weight *w) {
    free(w->name);
    free(w->data);
    free(w->half);
}

static size_t number_of(const ck_reader *source, const ck_tensor *t) {
    return (size_t)(t - ck_reader_tensor(source, 0));
}

void ck_params_unload(ck_params *p) {
    size_t kept = 0;
    for (size_t i = 0; i < p->count; i++) {
        weight *w = &p->weights[i];
        if (!w->tensor) {
            p->weights[kept++] = *w;
            continue;
        }
        p->index_of[number_of(p->source, w->tensor)] = 0;
        release(w);
    }
    p->count = kept;
}

void ck_params_free(ck_params *p) {
    if (!p) return;
    for (size_t i = 0; i < p->count; i++) release(&p->weights[i]);
    free(p->weights);
    free(p->index_of);
    free(p->prefix);
    close_file(p->file);
    free(p);
}

/* ---- Finding ---- */

const ck_tensor *ck_params_tensor(const ck_params *p, const char *name) {
    if (!p->source) return NULL;
    char full[512];
    int n = snprintf(full, sizeof full, "%s%s", p->prefix, name);
    return n > 0 && (size_t)n < sizeof full ? ck_reader_find(p->source, full) : NULL;
}

/* SIZE_MAX if it was not asked for. */
static size_t weight_of(const ck_params *p, const char *name) {
    const ck_tensor *t = ck_params_tensor(p, name);
    if (t) return p->index_of[number_of(p->source, t)] - 1;
    for (size_t i = 0; i < p->count; i++)
        if (!p->weights[i].tensor && strcmp(p->weights[i].name, name) == 0) return i;
    return SIZE_MAX;
}

bool ck_params_has(const ck_params *p, const char *name) {
    return ck_params_tensor(p, name) != NULL || weight_of(p, name) != SIZE_MAX;
}

const char *ck_params_path(const ck_params *p) {
    return p->source ? ck_reader_path(p->source) : "weights in memory";
}

size_t ck_params_count(const ck_params *p) {
    return p->count;
}

const char *ck_params_name(const ck_params *p, size_t index) {
    return p->weights[index].name;
}

float *ck_params_data(const ck_params *p, size_t index) {
    return p->weights[index].data;
}

uint16_t *ck_params_half(const ck_params *p, size_t index) {
    return p->weights[index].half;
}

size_t ck_params_elements(const ck_params *p, size_t index) {
    return p->weights[index].elements;
}

/* ---- Loading ---- */

/* "[1,2]" of the engine's shape as files have it. */
static void file_shape(int rank, const int64_t *shape, uint64_t *out) {
    static const int kcrs[4] = {0, 3, 1, 2};
    for (int i = 0; i < rank; i++) out[i] = (uint64_t)shape[rank == 4 ? kcrs[i] : i];
}

/* Equal, or one a matrix and the other a 1x1 convolution. */
static bool fits(const ck_tensor *t, int rank, const uint64_t *shape) {
    size_t common = t->rank < (size_t)rank ? t->rank : (size_t)rank;
    if (t->rank != (size_t)rank && (common != 2 || t->rank + (size_t)rank != 6)) return false;
    for (size_t i = 0; i < common; i++)
        if (t->shape[i] != shape[i]) return false;
    for (size_t i = common; i < t->rank; i++)
        if (t->shape[i] != 1) return false;
    for (size_t i = common; i < (size_t)rank; i++)
        if (shape[i] != 1) return false;
    return true;
}

static ck_status check_tensor(const ck_reader *source, const ck_tensor *t, int rank,
                              const int64_t *shape, ck_error *err) {
    if (!ck_dtype_is_float(t->dtype))
        return ck_fail(err, CK_INPUT, "%s: tensor '%s' is %s; a weight is expected",
                       ck_reader_path(source), t->name, ck_dtype_name(t->dtype));
    ck_tensor want = {.rank = (size_t)rank};
    uint64_t dims[MAX_RANK];
    file_shape(rank, shape, dims);
    want.shape = dims;
    if (fits(t, rank, dims)) return CK_OK;
    char has[96], needs[96];
    return ck_fail(err, CK_INPUT,
                   "%s: tensor '%s' has shape %s, the model needs %s: config and weights are not "
                   "of the same model",
                   ck_reader_path(source), t->name, ck_tensor_shape_text(t, has, sizeof has),
                   ck_tensor_shape_text(&want, needs, sizeof needs));
}

/* Element i of a K R S C array in the order K C R S: as files have it, or back. */
static size_t krsc_at(const int64_t *shape, size_t i) {
    size_t area = (size_t)(shape[1] * shape[2]), c = (size_t)shape[3];
    return i / (area * c) * (area * c) + i % area * c + i / area % c;
}

static ck_status check_finite(const ck_reader *source, const ck_tensor *t, const weight *w,
                              ck_error *err) {
    for (size_t i = 0; i < w->elements; i++)
        if (!isfinite(w->data[i]))
            return ck_fail(err, CK_INPUT,
                           "%s: tensor '%s': a value is %s; the file is damaged or was trained "
                           "into the ground (cktool verify counts such values)",
                           ck_reader_path(source), t->name,
                           isnan(w->data[i]) ? "not a number" : "infinite");
    return CK_OK;
}

static ck_status decode(const ck_reader *source, const ck_tensor *t, weight *w, void *raw,
                        float *flat, ck_error *err) {
    CK_TRY(ck_reader_read(source, t, 0, raw, t->nbytes, err));
    const ck_kernels *k = ck_kernels_best();
    if (!k) return ck_fail(err, CK_USAGE, "CK_ISA names no instruction set of this processor");
    k->decode[t->dtype](flat, raw, w->elements);
    if (flat != w->data)
        for (size_t i = 0; i < w->elements; i++) w->data[krsc_at(w->shape, i)] = flat[i];
    return check_finite(source, t, w, err);
}

static ck_status load(const ck_reader *source, const ck_tensor *t, weight *w, ck_error *err) {
    bool moves = w->rank == 4 && w->shape[1] * w->shape[2] > 1;
    void *raw = ck_alloc(t->nbytes);
    float *flat = moves ? ck_alloc_array(w->elements, sizeof *flat) : w->data;
    ck_status s = raw && flat ? decode(source, t, w, raw, flat, err) : ck_fail_memory(err, t->name);
    free(raw);
    if (moves) free(flat);
    return s;
}

ck_status ck_params_load(ck_params *p, const ck_reader *from, ck_error *err) {
    for (size_t i = 0; i < p->count; i++) {
        weight *w = &p->weights[i];
        char full[512];
        snprintf(full, sizeof full, "%s%s", p->prefix, w->name);
        const ck_tensor *t = ck_reader_find(from, full);
        if (!t)
            return ck_fail(err, CK_INPUT, "%s: no tensor '%s', which the model needs",
                           ck_reader_path(from), full);
        CK_TRY(check_tensor(from, t, w->rank, w->shape, err));
        CK_TRY(load(from, t, w, err));
    }
    return CK_OK;
}

/* ---- Making ---- */

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* index: the weight's. */
static void make(const ck_params *p, size_t index, weight *w) {
    if (ends_with(w->name, ".bias")) return; /* zero */
    if (w->rank == 1) {
        for (size_t i = 0; i < w->elements; i++) w->data[i] = 1;
        return;
    }
    float bound = 1 / sqrtf((float)(w->elements / (size_t)w->shape[0]));
    uint32_t words[4];
    for (size_t i = 0; i < w->elements; i++) {
        if (i % 4 == 0) ck_philox(p->seed, 0, (uint32_t)index, i / 4, words);
        w->data[i] = bound * (2 * ck_philox_uniform(words[i % 4]) - 1);
    }
}

/* ---- Asking ---- */

static ck_status fill(const ck_params *p, size_t index, weight *w, ck_error *err) {
    w->data = ck_alloc_pages(w->elements * sizeof *w->data);
    if (!w->data) return ck_fail_memory(err, w->name);
    memset(w->data, 0, w->elements * sizeof *w->data);
    if (!p->source) make(p, index, w);
    ck_status s = w->tensor ? load(p->source, w->tensor, w, err) : CK_OK;
    if (s != CK_OK) {
        free(w->data);
        w->data = NULL;
    }
    return s;
}

/* The copy of bfloat16, of what is there or is made or read for it alone. (What stays is allocated
 * before what goes, so that no holes are left between weights.) */
static ck_status fill_half(const ck_params *p, size_t index, weight *w, ck_error *err) {
    weight whole = *w;
    uint16_t *half = ck_alloc_pages(w->elements * sizeof *half);
    ck_status s = half ? CK_OK : ck_fail_memory(err, w->name);
    if (s == CK_OK && !w->data) s = fill(p, index, &whole, err);
    if (s == CK_OK) {
        ck_kernels_best()->encode[CK_BF16](half, whole.data, w->elements);
        w->half = half;
    } else {
        free(half);
    }
    if (!w->data) free(whole.data);
    return s;
}

bool ck_params_holds(const ck_params *p, size_t index, bool half) {
    const weight *w = &p->weights[index];
    return half ? w->half != NULL : w->data != NULL;
}

ck_status ck_params_fetch(ck_params *p, size_t index, bool half, void **at, ck_error *err) {
    weight *w = &p->weights[index];
    if (half && !w->half) CK_TRY(fill_half(p, index, w, err));
    if (!half && !w->data) CK_TRY(fill(p, index, w, err));
    *at = half ? (void *)w->half : w->data;
    return CK_OK;
}

ck_status ck_params_check(ck_params *p, ck_error *err) {
    for (size_t i = 0; i < p->count; i++) {
        weight w = p->weights[i];
        if (w.data || w.half) continue;
        ck_status s = fill(p, i, &w, err);
        free(w.data);
        CK_TRY(s);
    }
    return CK_OK;
}

ck_status ck_params_check_asked(const ck_params *p, ck_error *err) {
    const ck_tensor *first = NULL;
    size_t others = 0, start = strlen(p->prefix);
    for (size_t i = 0; p->source && i < ck_reader_count(p->source); i++) {
        const ck_tensor *t = ck_reader_tensor(p->source, i);
        bool ours = strncmp(t->name, p->prefix, start) == 0 && strchr(t->name + start, '.');
        if (!ours || p->index_of[i] || !ck_dtype_is_float(t->dtype)) continue;
        others += first != NULL;
        if (!first) first = t;
    }
    if (!first) return CK_OK;
    char more[40] = "";
    if (others) snprintf(more, sizeof more, " (and %zu more)", others);
    return ck_fail(err, CK_INPUT,
                   "%s: tensor '%s'%s has no place in the network: the config is another model's, "
                   "or an adapter's weights are among the model's (cktool inspect tells)",
                   ck_reader_path(p->source), first->name, more);
}

static ck_status add(ck_params *p, weight *w, ck_error *err) {
    weight *grown = ck_grow(p->weights, p->count, &p->capacity, sizeof *grown);
    if (!grown) return ck_fail_memory(err, w->name);
    p->weights = grown;
    w->elements = 1;
    for (int i = 0; i < w->rank; i++) w->elements *= (size_t)w->shape[i];
    if (!p->hollow && !p->frozen) CK_TRY(fill(p, p->count, w, err));
    if (w->tensor) p->index_of[number_of(p->source, w->tensor)] = p->count + 1;
    p->weights[p->count++] = *w;
    return CK_OK;
}

static ck_status add_named(ck_params *p, const char *name, int rank, const int64_t *shape,
                           const ck_tensor *t, ck_error *err) {
    weight w = {.name = ck_strdup(name), .rank = rank, .tensor = t};
    for (int i = 0; i < rank; i++) w.shape[i] = shape[i];
    ck_status s = w.name ? add(p, &w, err) : ck_fail_memory(err, name);
    if (s != CK_OK) release(&w);
    return s;
}

ck_status ck_params_need(ck_params *p, const char *name, int rank, const int64_t *shape,
                         size_t *index, ck_error *err) {
    const ck_tensor *t = ck_params_tensor(p, name);
    *index = weight_of(p, name);
    if (p->source && !t && *index == SIZE_MAX)
        return ck_fail(err, CK_INPUT,
                       "%s: no tensor '%s%s', which the model needs: is this another part, or "
                       "another model's? (cktool inspect tells)",
                       ck_reader_path(p->source), p->prefix, name);
    if (t) CK_TRY(check_tensor(p->source, t, rank, shape, err));
    if (*index != SIZE_MAX) return CK_OK;
    CK_TRY(add_named(p, name, rank, shape, t, err));
    *index = p->count - 1;
    return CK_OK;
}

ck_status ck_params_add(ck_params *p, const char *name, int rank, const int64_t *shape,
                        ck_error *err) {
    if (ck_params_has(p, name))
        return ck_fail(err, CK_USAGE, "there is a weight '%s' already", name);
    CK_TRY(add_named(p, name, rank, shape, NULL, err));
    weight *w = &p->weights[p->count - 1];
    if (w->data) memset(w->data, 0, w->elements * sizeof *w->data);
    return CK_OK;
}

ck_status ck_params_copy(const ck_params *p, ck_params **copy, ck_error *err) {
    ck_params *c = params_of(p->source, p->prefix);
    if (!c) return ck_fail_memory(err, "a copy of the weights");
    c->seed = p->seed;
    c->hollow = p->hollow;
    c->frozen = p->frozen;
    c->file = p->file;
    if (c->file) c->file->users++;
    for (size_t i = 0; i < p->count; i++) {
        weight w = p->weights[i];
        weight *grown = ck_grow(c->weights, c->count, &c->capacity, sizeof *grown);
        if (grown) c->weights = grown;
        w.name = ck_strdup(w.name);
        w.data = w.data ? ck_alloc_pages(w.elements * sizeof *w.data) : NULL;
        w.half = NULL;
        if (!grown || !w.name || (!w.data && p->weights[i].data)) {
            release(&w);
            ck_params_free(c);
            return ck_fail_memory(err, "a copy of the weights");
        }
        if (w.data) memcpy(w.data, p->weights[i].data, w.elements * sizeof *w.data);
        c->weights[c->count++] = w;
    }
    for (size_t i = 0; p->source && i < ck_reader_count(p->source); i++)
        c->index_of[i] = p->index_of[i];
    *copy = c;
    return CK_OK;
}

static ck_status hash_tensor(const ck_params *p, const ck_tensor *t, void *block, ck_sha256 *sha,
                             ck_error *err) {
    char shape[128];
    ck_sha256_update(sha, t->name, strlen(t->name) + 1);
    ck_sha256_update(sha, ck_dtype_name(t->dtype), strlen(ck_dtype_name(t->dtype)) + 1);
    ck_tensor_shape_text(t, shape, sizeof shape);
    ck_sha256_update(sha, shape, strlen(shape) + 1);
    for (uint64_t at = 0; at < t->nbytes; at += HASH_BLOCK) {
        size_t n = t->nbytes - at < HASH_BLOCK ? (size_t)(t->nbytes - at) : HASH_BLOCK;
        CK_TRY(ck_reader_read(p->source, t, at, block, n, err));
        ck_sha256_update(sha, block, n);
    }
    return CK_OK;
}

ck_status ck_params_hash(const ck_params *p, char hex[CK_SHA256_HEX], ck_error *err) {
    ck_sha256 *sha = ck_sha256_new();
    void *block = ck_alloc(HASH_BLOCK);
    ck_status s = sha && block ? CK_OK : ck_fail_memory(err, "weights");
    for (size_t i = 0; p->source && i < ck_reader_count(p->source) && s == CK_OK; i++) {
        const ck_tensor *t = ck_reader_tensor(p->source, i);
        if (strncmp(t->name, p->prefix, strlen(p->prefix)) == 0)
            s = hash_tensor(p, t, block, sha, err);
    }
    if (sha) ck_sha256_hex(sha, hex);
    ck_sha256_free(sha);
    free(block);
    return s;
}

void ck_params_assign(ck_params *p, const ck_params *from) {
    for (size_t i = 0; i < from->count; i++) {
        const weight *w = &from->weights[i];
        size_t at = weight_of(p, w->name);
        if (at != SIZE_MAX && p->weights[at].elements == w->elements)
            memcpy(p->weights[at].data, w->data, w->elements * sizeof *w->data);
    }
}

/* ---- As a checkpoint ---- */

/* Where the data of a tensor are: its offset is the index into this. */
typedef struct place {
    const weight *in_memory; /* or NULL */
    const ck_tensor *in_file;
} place;

typedef struct params_state {
    const ck_reader *source;
    place *places;
} params_state;

static ck_status read_params(const ck_reader *r, const ck_tensor *t, uint64_t begin, void *dst,
                             size_t n, ck_error *err) {
    const params_state *state = r->state;
    const place *from = &state->places[t->offset];
    const weight *w = from->in_memory;
    if (!w) return ck_reader_read(state->source, from->in_file, begin, dst, n, err);
    if (w->rank != 4) {
        memcpy(dst, (const char *)w->data + begin, n);
        return CK_OK;
    }
    float *out = dst;
    size_t first = begin / sizeof *out;
    for (size_t i = 0; i < n / sizeof *out; i++) out[i] = w->data[krsc_at(w->shape, first + i)];
    return CK_OK;
}

static void close_params(ck_reader *r) {
    params_state *state = r->state;
    if (state) free(state->places);
    free(state);
}

static const ck_format format_params = {
    .name = "params", .read = read_params, .close = close_params};

static ck_status add_place(ck_reader *r, const char *prefix, const weight *w, const ck_tensor *t,
                           ck_error *err) {
    params_state *state = r->state;
    uint64_t dims[MAX_RANK];
    ck_tensor as = {.dtype = CK_F32, .rank = 0, .shape = dims};
    if (t) {
        as = *t;
    } else {
        as.rank = (size_t)w->rank;
        file_shape(w->rank, w->shape, dims);
    }
    char *name = t ? ck_strdup(t->name) : ck_sprintf("%s%s", prefix, w->name);
    if (!name) return ck_fail_memory(err, r->path);
    state->places[r->count] = (place){w, t};
    ck_status s = ck_reader__add(r, name, strlen(name), w ? CK_F32 : as.dtype, as.rank, as.shape,
                                 r->count, err);
    free(name);
    return s;
}

static ck_status add_places(const ck_params *p, ck_reader *r, ck_error *err) {
    size_t in_file = p->source ? ck_reader_count(p->source) : 0, n = strlen(p->prefix);
    params_state *state = r->state = ck_alloc(sizeof *state);
    if (!state) return ck_fail_memory(err, r->path);
    state->source = p->source;
    state->places = ck_alloc_array(in_file + p->count, sizeof *state->places);
    if (!state->places) return ck_fail_memory(err, r->path);
    for (size_t i = 0; i < in_file; i++) {
        const ck_tensor *t = ck_reader_tensor(p->source, i);
        if (strncmp(t->name, p->prefix, n)) continue;
        size_t w = p->index_of[i];
        bool there = w && p->weights[w - 1].data;
        CK_TRY(add_place(r, p->prefix, there ? &p->weights[w - 1] : NULL, t, err));
    }
    for (size_t i = 0; i < p->count; i++)
        if (!p->weights[i].tensor) CK_TRY(add_place(r, p->prefix, &p->weights[i], NULL, err));
    size_t count = 0;
    const ck_meta *meta = p->source ? ck_reader_metadata(p->source, &count) : NULL;
    for (size_t i = 0; i < count; i++)
        CK_TRY(ck_reader__add_meta(r, meta[i].key, strlen(meta[i].key), meta[i].value,
                                   strlen(meta[i].value), err));
    return ck_reader__index(r, err);
}

ck_status ck_params_reader(const ck_params *p, ck_reader **out, ck_error *err) {
    const char *path = ck_params_path(p);
    ck_reader *r = ck_alloc(sizeof *r);
    if (!r) return ck_fail_memory(err, path);
    r->fd = -1;
    r->format = &format_params;
    r->path = ck_strdup(path);
    ck_status s = r->path ? add_places(p, r, err) : ck_fail_memory(err, path);
    if (s != CK_OK)
        ck_reader_close(r);
    else
        *out = r;
    return s;
}
