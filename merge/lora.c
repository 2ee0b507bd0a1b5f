/* The layers of a LoRA file: tensors are paired by their layer, and every shape is checked, so that
 * nothing can fail later but reading. What layers amount to is made in lora_rows.c. */
#include "io/os.h"
#include "merge/lora_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool ck_lora_is(const ck_reader *file) {
    char name[CK_LORA_MAX_NAME];
    size_t known = 0;
    for (size_t i = 0; i < ck_reader_count(file); i++)
        known += ck_lora__parse(ck_reader_tensor(file, i)->name, name) != CK_ROLE_COUNT;
    return 2 * known > ck_reader_count(file);
}

/* ---- Layers ---- */

/* The number in a tensor of one element; alphas are stored in any type. */
static ck_status load_number(const ck_lora *lora, const ck_tensor *t, double *number,
                             ck_error *err) {
    unsigned char raw[8];
    bool whole = t->dtype == CK_I64 || t->dtype == CK_I32;
    if (t->elements != 1 || (!whole && !ck_dtype_is_float(t->dtype)))
        return ck_fail(err, CK_INPUT, "%s: tensor '%s' is not one number",
                       ck_reader_path(lora->file), t->name);
    CK_TRY(ck_reader_read(lora->file, t, 0, raw, (size_t)t->nbytes, err));
    if (whole) {
        int64_t wide;
        int32_t narrow;
        memcpy(&wide, raw, sizeof wide);
        memcpy(&narrow, raw, sizeof narrow);
        *number = t->dtype == CK_I64 ? (double)wide : (double)narrow;
    } else {
        float value;
        lora->kernels->decode[t->dtype](&value, raw, 1);
        *number = (double)value;
    }
    if (isfinite(*number)) return CK_OK;
    return ck_fail(err, CK_INPUT, "%s: tensor '%s' is not a finite number",
                   ck_reader_path(lora->file), t->name);
}

static ck_status bad_shape(const ck_lora *lora, const ck_tensor *t, const char *why,
                           ck_error *err) {
    char shape[128];
    return ck_fail(err, CK_INPUT, "%s: tensor '%s' of shape %s %s", ck_reader_path(lora->file),
                   t->name, ck_tensor_shape_text(t, shape, sizeof shape), why);
}

/* A float tensor that is not empty. */
static ck_status check_factor(const ck_lora *lora, const ck_tensor *t, size_t least_rank,
                              ck_error *err) {
    if (!ck_dtype_is_float(t->dtype))
        return ck_fail(err, CK_INPUT, "%s: tensor '%s' is %s, which is no float type",
                       ck_reader_path(lora->file), t->name, ck_dtype_name(t->dtype));
    if (t->rank < least_rank || t->rank > CK_LORA_MAX_DIMENSIONS || t->elements == 0)
        return bad_shape(lora, t, "is no factor of a weight", err);
    return CK_OK;
}

/* Whether only the first two dimensions count. */
static bool is_matrix(const ck_tensor *t) {
    return t->elements == t->shape[0] * t->shape[1];
}

/* transposed: the left factor has the rank first, as LyCORIS stores it beside a core. */
static ck_status check_product(const ck_lora *lora, const ck_tensor *left, const ck_tensor *core,
                               const ck_tensor *right, bool transposed, ck_lora_product *p,
                               ck_error *err) {
    CK_TRY(check_factor(lora, left, 2, err));
    CK_TRY(check_factor(lora, right, 2, err));
    *p = (ck_lora_product){.left = left, .core = core, .right = right, .transposed = transposed};
    p->rows = left->shape[transposed];
    p->rank = left->shape[!transposed];
    if (!is_matrix(left)) return bad_shape(lora, left, "is no matrix", err);
    p->columns = right->elements / right->shape[0];
    if (!core && right->shape[0] != p->rank)
        return bad_shape(lora, right, "does not have the rank of its other factor", err);
    if (!core) return CK_OK;
    CK_TRY(check_factor(lora, core, 3, err));
    if (!is_matrix(right)) return bad_shape(lora, right, "is no matrix", err);
    if (core->shape[0] != p->rank || core->shape[1] != right->shape[0])
        return bad_shape(lora, core, "does not have the ranks of its factors", err);
    uint64_t kernel = core->elements / (core->shape[0] * core->shape[1]);
    if (__builtin_mul_overflow(right->shape[1], kernel, &p->columns))
        return bad_shape(lora, core, "makes too large a weight", err);
    return CK_OK;
}

/* The weight's shape: rows, and what follows in the tensor that knows most of it. */
static void set_shape(ck_lora_layer *l, uint64_t rows, uint64_t columns, const ck_tensor *like,
                      uint64_t channels) {
    l->rows = rows;
    l->columns = columns;
    l->dimensions = like->rank < 2 ? like->rank : 2;
    l->shape[0] = rows;
    l->shape[1] = columns;
    if (like->rank <= 2) return;
    l->dimensions = like->rank;
    l->shape[1] = channels;
    memcpy(l->shape + 2, like->shape + 2, (like->rank - 2) * sizeof *l->shape);
}

static ck_status missing(const ck_lora *lora, const ck_lora_parts *l, const char *what,
                         ck_error *err) {
    return ck_fail(err, CK_INPUT, "%s: layer '%s' lacks its %s", ck_reader_path(lora->file),
                   l->shown.name, what);
}

/* A tensor of the layer; it must be there. */
#define NEED(role, what)                                                                           \
    do {                                                                                           \
        if (!l->roles[role]) return missing(lora, l, what, err);                                   \
    } while (0)

static ck_status check_lora(const ck_lora *lora, ck_lora_parts *l, ck_error *err) {
    NEED(CK_ROLE_UP, "up matrix");
    NEED(CK_ROLE_DOWN, "down matrix");
    const ck_tensor *mid = l->roles[CK_ROLE_MID], *down = l->roles[CK_ROLE_DOWN];
    ck_lora_product *p = &l->products[0];
    CK_TRY(check_product(lora, l->roles[CK_ROLE_UP], mid, down, false, p, err));
    l->shown.kind = CK_LORA_PRODUCT;
    l->shown.rank = p->rank;
    set_shape(&l->shown, p->rows, p->columns, mid ? mid : down, down->shape[1]);
    return CK_OK;
}

static ck_status check_loha(const ck_lora *lora, ck_lora_parts *l, ck_error *err) {
    NEED(CK_ROLE_HADA_W1_A, "hada_w1_a");
    NEED(CK_ROLE_HADA_W1_B, "hada_w1_b");
    NEED(CK_ROLE_HADA_W2_A, "hada_w2_a");
    NEED(CK_ROLE_HADA_W2_B, "hada_w2_b");
    const ck_tensor *t1 = l->roles[CK_ROLE_HADA_T1], *t2 = l->roles[CK_ROLE_HADA_T2];
    const ck_tensor *right = l->roles[CK_ROLE_HADA_W1_B];
    ck_lora_product *p = l->products;
    CK_TRY(check_product(lora, l->roles[CK_ROLE_HADA_W1_A], t1, right, t1 != NULL, &p[0], err));
    CK_TRY(check_product(lora, l->roles[CK_ROLE_HADA_W2_A], t2, l->roles[CK_ROLE_HADA_W2_B],
                         t2 != NULL, &p[1], err));
    if (p[0].rows != p[1].rows || p[0].columns != p[1].columns)
        return bad_shape(lora, l->roles[CK_ROLE_HADA_W2_B], "does not fit the first product", err);
    l->shown.kind = CK_LORA_HADAMARD;
    l->shown.rank = p[0].rank;
    set_shape(&l->shown, p[0].rows, p[0].columns, t1 ? t1 : right, right->shape[1]);
    return CK_OK;
}

/* w1 or w2 of LoKr, a matrix or a product; *rank stays when it is no product. */
static ck_status check_block(const ck_lora *lora, ck_lora_parts *l, int which, uint64_t *rows,
                             uint64_t *columns, ck_error *err) {
    const ck_tensor *whole = l->roles[which ? CK_ROLE_LOKR_W2 : CK_ROLE_LOKR_W1];
    if (whole) {
        CK_TRY(check_factor(lora, whole, 2, err));
        if (!which && !is_matrix(whole)) return bad_shape(lora, whole, "is no matrix", err);
        l->matrices[which] = whole;
        *rows = whole->shape[0];
        *columns = whole->elements / whole->shape[0];
        return CK_OK;
    }
    ck_lora_role a = which ? CK_ROLE_LOKR_W2_A : CK_ROLE_LOKR_W1_A, b = a + 1;
    const ck_tensor *core = which ? l->roles[CK_ROLE_LOKR_T2] : NULL;
    NEED(a, which ? "lokr_w2" : "lokr_w1");
    NEED(b, which ? "lokr_w2_b" : "lokr_w1_b");
    ck_lora_product *p = &l->products[which];
    CK_TRY(check_product(lora, l->roles[a], core, l->roles[b], core != NULL, p, err));
    l->shown.rank = p->rank;
    *rows = p->rows;
    *columns = p->columns;
    return CK_OK;
}

static ck_status check_lokr(const ck_lora *lora, ck_lora_parts *l, ck_error *err) {
    uint64_t rows[2], columns[2], all_rows, all_columns;
    for (int i = 0; i < 2; i++) CK_TRY(check_block(lora, l, i, &rows[i], &columns[i], err));
    const ck_tensor *core = l->roles[CK_ROLE_LOKR_T2];
    const ck_tensor *like = l->matrices[1] ? l->matrices[1] : core ? core : l->products[1].right;
    if (__builtin_mul_overflow(rows[0], rows[1], &all_rows) ||
        __builtin_mul_overflow(columns[0], columns[1], &all_columns))
        return bad_shape(lora, like, "makes too large a weight", err);
    uint64_t kernel = 1;
    for (size_t i = 2; i < like->rank; i++) kernel *= like->shape[i];
    l->shown.kind = CK_LORA_KRONECKER;
    set_shape(&l->shown, all_rows, all_columns, like, all_columns / kernel);
    return CK_OK;
}

static ck_status check_full(const ck_lora *lora, ck_lora_parts *l, const ck_tensor *t,
                            ck_error *err) {
    CK_TRY(check_factor(lora, t, 1, err));
    l->shown.kind = CK_LORA_FULL;
    l->matrices[0] = t;
    set_shape(&l->shown, t->shape[0], t->elements / t->shape[0], t, t->rank > 1 ? t->shape[1] : 1);
    return CK_OK;
}

/* s: alpha / rank where there is a product, times the scalar. */
static ck_status find_scale(const ck_lora *lora, ck_lora_parts *l, const ck_lora_peft *peft,
                            ck_error *err) {
    double *scale = &l->shown.scale, factor = 1;
    const ck_tensor *alpha = l->roles[CK_ROLE_ALPHA], *scalar = l->roles[CK_ROLE_SCALAR];
    *scale = 1;
    if (l->shown.rank && alpha) {
        CK_TRY(load_number(lora, alpha, scale, err));
        *scale /= (double)l->shown.rank;
    } else {
        ck_lora__peft_scale(peft, l->shown.name, l->shown.rank, scale);
    }
    if (scalar) CK_TRY(load_number(lora, scalar, &factor, err));
    *scale *= factor;
    return CK_OK;
}

static ck_status check_magnitudes(const ck_lora *lora, ck_lora_parts *l, ck_error *err) {
    const ck_tensor *dora = l->roles[CK_ROLE_DORA_SCALE], *peft = l->roles[CK_ROLE_MAGNITUDE];
    const ck_tensor *t = dora ? dora : peft;
    if (!t) return CK_OK;
    CK_TRY(check_factor(lora, t, 1, err));
    bool of_inputs = dora && t->rank > 1 && t->shape[0] == 1 && l->shown.rows > 1;
    if (of_inputs ? t->elements != t->shape[1] || l->shown.columns % t->elements
                  : t->elements != l->shown.rows)
        return bad_shape(lora, t, "is neither one magnitude for each row nor for each input", err);
    l->shown.magnitude = true;
    l->shown.inputs = of_inputs ? t->elements : 0;
    return CK_OK;
}

static bool has(const ck_lora_parts *l, ck_lora_role first, ck_lora_role last) {
    for (unsigned role = first; role <= last; role++)
        if (l->roles[role]) return true;
    return false;
}

/* Finds the kind of a layer's weight and checks it; *none: it has only a bias. */
static ck_status check_weight(const ck_lora *lora, ck_lora_parts *l, bool *none, ck_error *err) {
    bool low_rank = has(l, CK_ROLE_UP, CK_ROLE_MID);
    bool loha = has(l, CK_ROLE_HADA_W1_A, CK_ROLE_HADA_T2);
    bool lokr = has(l, CK_ROLE_LOKR_W1, CK_ROLE_LOKR_T2);
    const ck_tensor *diff = l->roles[CK_ROLE_DIFF];
    int kinds = low_rank + loha + lokr + (diff != NULL);
    *none = kinds == 0 && has(l, CK_ROLE_DIFF_BIAS, CK_ROLE_DIFF_BIAS);
    if (*none) return CK_OK;
    if (kinds != 1)
        return ck_fail(err, CK_INPUT, "%s: layer '%s' %s", ck_reader_path(lora->file),
                       l->shown.name, kinds ? "is changed in more than one way" : "has no factors");
    return low_rank ? check_lora(lora, l, err)
           : loha   ? check_loha(lora, l, err)
           : lokr   ? check_lokr(lora, l, err)
                    : check_full(lora, l, diff, err);
}

static ck_status add_layer(ck_lora *lora, const ck_lora_parts *l, ck_error *err) {
    /* Small factors can make what no memory holds. */
    uint64_t elements;
    if (__builtin_mul_overflow(l->shown.rows, l->shown.columns, &elements) || elements >> 48)
        return ck_fail(err, CK_INPUT, "%s: layer '%s' makes too large a weight",
                       ck_reader_path(lora->file), l->shown.name);
    ck_lora_parts *layers = ck_grow(lora->layers, lora->count, &lora->capacity, sizeof *layers);
    if (!layers) return ck_fail_memory(err, ck_reader_path(lora->file));
    lora->layers = layers;
    layers[lora->count++] = *l;
    return CK_OK;
}

/* A layer whose tensors are gathered: its weight and its bias. */
static ck_status finish_layer(ck_lora *lora, ck_lora_parts *l, const ck_lora_peft *peft,
                              ck_error *err) {
    bool none;
    CK_TRY(check_weight(lora, l, &none, err));
    CK_TRY(find_scale(lora, l, peft, err));
    if (!none) {
        CK_TRY(check_magnitudes(lora, l, err));
        CK_TRY(add_layer(lora, l, err));
    }
    const ck_tensor *diff = l->roles[CK_ROLE_DIFF_BIAS], *up = l->roles[CK_ROLE_UP_BIAS];
    if (!diff && !up) return CK_OK;
    ck_lora_parts bias = {
        .shown = {.name = l->shown.name, .bias = true, .scale = diff ? 1 : l->shown.scale}};
    CK_TRY(check_full(lora, &bias, diff ? diff : up, err));
    return add_layer(lora, &bias, err);
}

/* ---- Opening ---- */

/* A tensor of the file, taken apart. */
typedef struct entry {
    const char *layer;
    ck_lora_role role;
    const ck_tensor *tensor;
} entry;

static int by_layer(const void *a, const void *b) {
    const entry *x = a, *y = b;
    int order = strcmp(x->layer, y->layer);
    return order ? order : strcmp(x->tensor->name, y->tensor->name);
}

static ck_status parse_all(ck_lora *lora, entry *entries, size_t *count, ck_error *err) {
    for (size_t i = 0; i < ck_reader_count(lora->file); i++) {
        const ck_tensor *t = ck_reader_tensor(lora->file, i);
        char name[CK_LORA_MAX_NAME];
        ck_lora_role role = ck_lora__parse(t->name, name);
        if (role == CK_ROLE_COUNT) {
            lora->strangers[lora->stranger_count++] = t->name;
            continue;
        }
        if (role == CK_ROLE_FOREIGN)
            return ck_fail(err, CK_INPUT,
                           "%s: tensor '%s' belongs to a change of a kind that is not read (OFT, "
                           "BOFT, GLoRA, IA3, replaced weights, embeddings)",
                           ck_reader_path(lora->file), t->name);
        char *copy = ck_arena_strdup(&lora->arena, name);
        if (!copy) return ck_fail_memory(err, ck_reader_path(lora->file));
        entries[(*count)++] = (entry){copy, role, t};
    }
    qsort(entries, *count, sizeof *entries, by_layer);
    return CK_OK;
}

static ck_status gather(ck_lora *lora, const entry *entries, size_t count, const ck_lora_peft *peft,
                        ck_error *err) {
    for (size_t i = 0; i < count;) {
        ck_lora_parts l = {.shown.name = entries[i].layer};
        for (; i < count && strcmp(entries[i].layer, l.shown.name) == 0; i++) {
            const ck_tensor **role = &l.roles[entries[i].role];
            if (*role)
                return ck_fail(err, CK_INPUT, "%s: tensors '%s' and '%s' are the same thing",
                               ck_reader_path(lora->file), (*role)->name, entries[i].tensor->name);
            *role = entries[i].tensor;
        }
        CK_TRY(finish_layer(lora, &l, peft, err));
    }
    return CK_OK;
}

static ck_status fill(ck_lora *lora, ck_error *err) {
    const ck_reader *file = lora->file;
    size_t total = ck_reader_count(file), count = 0;
    lora->kernels = ck_kernels_best();
    if (!lora->kernels)
        return ck_fail(err, CK_USAGE, "CK_ISA names no instruction set of this processor");
    lora->cache = ck_lora__cache_new();
    if (!lora->cache) return ck_fail_memory(err, ck_reader_path(file));
    lora->strangers = ck_arena_alloc(&lora->arena, total * sizeof *lora->strangers);
    entry *entries = ck_alloc_array(total, sizeof *entries);
    ck_lora_peft *peft = NULL;
    ck_status status = lora->strangers && entries ? ck_lora__peft_open(file, &peft, err)
                                                  : ck_fail_memory(err, ck_reader_path(file));
    if (status == CK_OK) status = parse_all(lora, entries, &count, err);
    if (status == CK_OK) status = gather(lora, entries, count, peft, err);
    ck_lora__peft_close(peft);
    free(entries);
    return status;
}

void ck_lora_close(ck_lora *lora) {
    if (!lora) return;
    ck_lora__cache_free(lora->cache);
    free(lora->layers);
    ck_arena_free(&lora->arena);
    free(lora);
}

ck_status ck_lora_open(const ck_reader *file, ck_lora **out, ck_error *err) {
    ck_lora *lora = ck_alloc(sizeof *lora);
    if (!lora) return ck_fail_memory(err, ck_reader_path(file));
    lora->file = file;
    ck_status status = fill(lora, err);
    if (status != CK_OK) {
        ck_lora_close(lora);
        return status;
    }
    *out = lora;
    return CK_OK;
}

size_t ck_lora_count(const ck_lora *lora) {
    return lora->count;
}

const ck_lora_layer *ck_lora_layer_of(const ck_lora *lora, size_t i) {
    return &lora->layers[i].shown;
}

const char *const *ck_lora_strangers(const ck_lora *lora, size_t *count) {
    *count = lora->stranger_count;
    return lora->strangers;
}

ck_status ck_lora_argument(const char *text, char **path, double *strength, ck_error *err) {
    const char *colon = strrchr(text, ':');
    char *end = NULL;
    *strength = colon && colon != text ? strtod(colon + 1, &end) : 1;
    bool given = end && end != colon + 1 && !*end && access(text, F_OK) != 0;
    if (!given) *strength = 1;
    if (!isfinite(*strength))
        return ck_fail(err, CK_USAGE, "%s: the strength must be a number", text);
    *path = given ? ck_strndup(text, (size_t)(colon - text)) : ck_strdup(text);
    return *path ? CK_OK : ck_fail_memory(err, text);
}
