/* GGUF: the container of ggml programs (llama.cpp, stable-diffusion.cpp, ComfyUI-GGUF), versions 2
 * and 3, little-endian.
 *
 *   "GGUF", u32 version, u64 tensors, u64 entries of metadata
 *   metadata:  string key, u32 kind, value;      a string is a u64 length and bytes
 *   tensors:   string name, u32 rank, u64 dims[] (innermost first), u32 type, u64 offset
 *   padding to the alignment, then data; offsets count from here
 *
 * Tensors keep the names that the file has; shapes are outermost first. Plain types are read as
 * they are. Block-quantised types appear as F32: a read decodes the blocks it touches, so that a
 * tensor is never in memory as a whole. Numbers and strings of the metadata become text; arrays
 * are checked and skipped, except comfy.gguf.orig_shape.<tensor>, the shape of a tensor that was
 * stored reshaped (because its rows did not fill blocks).
 */
#include "io/os.h"
#include "io/reader_int.h"
#include "io/utf8.h"
#include "kernels/dequant.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    MAX_NAME = 65535, /* of keys and names, as the specification has it for keys */
    MAX_TEXT = 16 << 20,
    MAX_RANK = 4,
    MAX_ORIGINAL_RANK = 8,
    MAX_ARRAY_DEPTH = 4,
    DEFAULT_ALIGNMENT = 32,
    SMALLEST_ENTRY = 8 + 4 + 1,      /* bytes of an entry with an empty key and a u8 */
    SMALLEST_TENSOR = 8 + 4 + 4 + 8, /* bytes of a tensor with no name and no dims */
};

/* ---- Types ---- */

typedef struct type {
    uint32_t number;
    const char *name;
    ck_dtype dtype; /* as callers see it; CK_DTYPE_COUNT: not read by this program */
    const ck_quant *quant;
} type;

static const type types[] = {
    {0, "F32", CK_F32, NULL},
    {1, "F16", CK_F16, NULL},
    {24, "I8", CK_I8, NULL},
    {25, "I16", CK_I16, NULL},
    {26, "I32", CK_I32, NULL},
    {27, "I64", CK_I64, NULL},
    {28, "F64", CK_F64, NULL},
    {30, "BF16", CK_BF16, NULL},
    {2, "Q4_0", CK_F32, &ck_quant_q4_0},
    {3, "Q4_1", CK_F32, &ck_quant_q4_1},
    {6, "Q5_0", CK_F32, &ck_quant_q5_0},
    {7, "Q5_1", CK_F32, &ck_quant_q5_1},
    {8, "Q8_0", CK_F32, &ck_quant_q8_0},
    {12, "Q4_K", CK_F32, &ck_quant_q4_k},
    {13, "Q5_K", CK_F32, &ck_quant_q5_k},
    {14, "Q6_K", CK_F32, &ck_quant_q6_k},
    /* Known by name only, for the message. */
    {9, "Q8_1", CK_DTYPE_COUNT, NULL},
    {10, "Q2_K", CK_DTYPE_COUNT, NULL},
    {11, "Q3_K", CK_DTYPE_COUNT, NULL},
    {15, "Q8_K", CK_DTYPE_COUNT, NULL},
    {16, "IQ2_XXS", CK_DTYPE_COUNT, NULL},
    {17, "IQ2_XS", CK_DTYPE_COUNT, NULL},
    {18, "IQ3_XXS", CK_DTYPE_COUNT, NULL},
    {19, "IQ1_S", CK_DTYPE_COUNT, NULL},
    {20, "IQ4_NL", CK_DTYPE_COUNT, NULL},
    {21, "IQ3_S", CK_DTYPE_COUNT, NULL},
    {22, "IQ2_S", CK_DTYPE_COUNT, NULL},
    {23, "IQ4_XS", CK_DTYPE_COUNT, NULL},
    {29, "IQ1_M", CK_DTYPE_COUNT, NULL},
    {34, "TQ1_0", CK_DTYPE_COUNT, NULL},
    {35, "TQ2_0", CK_DTYPE_COUNT, NULL},
    {39, "MXFP4", CK_DTYPE_COUNT, NULL},
    {40, "NVFP4", CK_DTYPE_COUNT, NULL},
};

static const type *find_type(uint32_t number) {
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].number == number) return &types[i];
    return NULL;
}

/* Bytes that a tensor takes in the file. */
static uint64_t stored_bytes(const ck_tensor *t, const ck_quant *quant) {
    return quant ? t->elements / quant->elements * quant->bytes : t->nbytes;
}

/* ---- A cursor over the header ---- */

/* From the metadata: the shape that the tensor had before it was reshaped for storing. */
typedef struct original_shape {
    const char *tensor;
    size_t rank;
    uint64_t shape[MAX_ORIGINAL_RANK];
} original_shape;

/* From the list of tensors, in the file's order. */
typedef struct stored {
    const char *tensor;
    const ck_quant *quant;
} stored;

typedef struct header {
    ck_reader *reader;
    uint64_t at, file_size;
    unsigned char window[16384]; /* the file's bytes from window_at */
    uint64_t window_at;
    size_t window_size;
    uint64_t alignment;
    const char **keys; /* all of them, in the arena, to find duplicates */
    size_t key_count, key_capacity;
    original_shape *originals;
    size_t original_count, original_capacity;
    stored *stored;
    size_t stored_count, stored_capacity;
    ck_error *err;
} header;

static ck_status fail_at(const header *h, uint64_t at, const char *what) {
    return ck_fail(h->err, CK_INPUT, "%s: invalid GGUF header at offset %" PRIu64 ": %s",
                   h->reader->path, at, what);
}

static uint64_t left(const header *h) {
    return h->file_size - h->at;
}

static ck_status skip(header *h, uint64_t n) {
    if (n > left(h)) return fail_at(h, h->at, "the file ends too early");
    h->at += n;
    return CK_OK;
}

static ck_status take(header *h, void *dst, size_t n) {
    if (n > left(h)) return fail_at(h, h->at, "the file ends too early");
    if (n > sizeof h->window) {
        CK_TRY(ck_pread_all(h->reader->fd, dst, n, h->at, h->reader->path, h->err));
        h->at += n;
        return CK_OK;
    }
    uint64_t ahead = h->at - h->window_at;
    if (ahead > h->window_size || h->window_size - ahead < n) {
        h->window_size = left(h) < sizeof h->window ? (size_t)left(h) : sizeof h->window;
        h->window_at = h->at;
        ahead = 0;
        CK_TRY(
            ck_pread_all(h->reader->fd, h->window, h->window_size, h->at, h->reader->path, h->err));
    }
    memcpy(dst, h->window + ahead, n);
    h->at += n;
    return CK_OK;
}

/* n bytes, little-endian. */
static ck_status take_number(header *h, size_t n, uint64_t *value) {
    unsigned char bytes[8];
    CK_TRY(take(h, bytes, n));
    *value = 0;
    while (n--) *value = *value << 8 | bytes[n];
    return CK_OK;
}

static ck_status take_u32(header *h, uint32_t *value) {
    uint64_t wide;
    CK_TRY(take_number(h, 4, &wide));
    *value = (uint32_t)wide;
    return CK_OK;
}

/* A string into fresh memory, released by the caller with free(). */
static ck_status take_string(header *h, size_t limit, char **text, size_t *length) {
    uint64_t n, at = h->at;
    CK_TRY(take_number(h, 8, &n));
    if (n > left(h)) return fail_at(h, at, "a string is longer than the file");
    if (n > limit) return fail_at(h, at, "a string is longer than this program takes");
    char *s = ck_alloc((size_t)n + 1);
    if (!s) return ck_fail_memory(h->err, h->reader->path);
    ck_status status = take(h, s, (size_t)n);
    if (status == CK_OK && memchr(s, 0, (size_t)n))
        status = fail_at(h, at, "a string with a NUL character");
    if (status == CK_OK && ck_utf8_check((const unsigned char *)s, (size_t)n) != n)
        status = fail_at(h, at, "a string that is not UTF-8");
    if (status != CK_OK) {
        free(s);
        return status;
    }
    *text = s;
    *length = (size_t)n;
    return CK_OK;
}

/* ---- Metadata ---- */

typedef enum kind {
    KIND_U8,
    KIND_I8,
    KIND_U16,
    KIND_I16,
    KIND_U32,
    KIND_I32,
    KIND_F32,
    KIND_BOOL,
    KIND_STRING,
    KIND_ARRAY,
    KIND_U64,
    KIND_I64,
    KIND_F64,
    KIND_COUNT
} kind;

static const unsigned char kind_bytes[KIND_COUNT] = {
    [KIND_U8] = 1,  [KIND_I8] = 1,   [KIND_U16] = 2, [KIND_I16] = 2, [KIND_U32] = 4, [KIND_I32] = 4,
    [KIND_F32] = 4, [KIND_BOOL] = 1, [KIND_U64] = 8, [KIND_I64] = 8, [KIND_F64] = 8,
};

static bool starts(const char *text, const char *with) {
    return strncmp(text, with, strlen(with)) == 0;
}

static ck_status skip_string(header *h) {
    uint64_t n;
    CK_TRY(take_number(h, 8, &n));
    return skip(h, n);
}

static ck_status skip_array(header *h, int depth) {
    uint32_t element;
    uint64_t n, at = h->at;
    if (depth > MAX_ARRAY_DEPTH) return fail_at(h, at, "arrays nested too deeply");
    CK_TRY(take_u32(h, &element));
    CK_TRY(take_number(h, 8, &n));
    if (element >= KIND_COUNT) return fail_at(h, at, "an array of an unknown kind");
    /* Every element takes at least a byte, which bounds the loops and the product. */
    if (n > left(h)) return fail_at(h, at, "an array with more elements than the file has bytes");
    if (kind_bytes[element]) {
        if (n > left(h) / kind_bytes[element]) return fail_at(h, at, "an array beyond the file");
        return skip(h, n * kind_bytes[element]);
    }
    for (uint64_t i = 0; i < n; i++)
        CK_TRY(element == KIND_STRING ? skip_string(h) : skip_array(h, depth + 1));
    return CK_OK;
}

/* An array of i32, outermost dimension first. */
static ck_status take_original_shape(header *h, const char *tensor) {
    uint32_t element;
    uint64_t n, at = h->at;
    CK_TRY(take_u32(h, &element));
    CK_TRY(take_number(h, 8, &n));
    if (element != KIND_I32 || n > MAX_ORIGINAL_RANK)
        return fail_at(h, at, "an original shape must be an array of at most 8 i32");
    original_shape *originals =
        ck_grow(h->originals, h->original_count, &h->original_capacity, sizeof *originals);
    if (!originals) return ck_fail_memory(h->err, h->reader->path);
    h->originals = originals;
    original_shape *o = &originals[h->original_count];
    *o = (original_shape){.tensor = tensor, .rank = (size_t)n};
    for (size_t i = 0; i < o->rank; i++) {
        CK_TRY(take_number(h, 4, &o->shape[i]));
        if (o->shape[i] > INT32_MAX) return fail_at(h, at, "an original shape is negative");
    }
    h->original_count++;
    return CK_OK;
}

/* A number as text, exact enough to give the same number when read again. */
static ck_status take_scalar(header *h, kind k, uint64_t *value, char text[32]) {
    CK_TRY(take_number(h, kind_bytes[k], value));
    uint32_t low = (uint32_t)*value;
    float f32;
    double f64;
    switch (k) {
    case KIND_BOOL:
        if (*value > 1) return fail_at(h, h->at - 1, "a bool that is neither 0 nor 1");
        snprintf(text, 32, "%s", *value ? "true" : "false");
        break;
    case KIND_F32:
        memcpy(&f32, &low, sizeof f32);
        snprintf(text, 32, "%.9g", (double)f32);
        break;
    case KIND_F64:
        memcpy(&f64, value, sizeof f64);
        snprintf(text, 32, "%.17g", f64);
        break;
    case KIND_I8:
        snprintf(text, 32, "%d", (int8_t)low);
        break;
    case KIND_I16:
        snprintf(text, 32, "%d", (int16_t)low);
        break;
    case KIND_I32:
        snprintf(text, 32, "%" PRId32, (int32_t)low);
        break;
    case KIND_I64:
        snprintf(text, 32, "%" PRId64, (int64_t)*value);
        break;
    default:
        snprintf(text, 32, "%" PRIu64, *value);
        break;
    }
    return CK_OK;
}

/* What a few keys say about the file itself. */
static ck_status obey(header *h, const char *key, kind k, uint64_t value, uint64_t at) {
    if (strcmp(key, "general.alignment") == 0) {
        if (k != KIND_U32 || value == 0 || (value & (value - 1)))
            return fail_at(h, at, "general.alignment must be a u32 and a power of two");
        h->alignment = value;
    }
    if (strcmp(key, "split.count") == 0 && value > 1)
        return ck_fail(h->err, CK_INPUT,
                       "%s: one of the %" PRIu64 " files of a split model: join them first with "
                       "`llama-gguf-split --merge`",
                       h->reader->path, value);
    return CK_OK;
}

static ck_status take_value(header *h, const char *key, size_t key_length) {
    static const char original[] = "comfy.gguf.orig_shape.";
    uint32_t k;
    uint64_t value, at = h->at;
    CK_TRY(take_u32(h, &k));
    if (k >= KIND_COUNT) return fail_at(h, at, "metadata of an unknown kind");
    if (k == KIND_ARRAY && starts(key, original))
        return take_original_shape(h, key + strlen(original));
    if (k == KIND_ARRAY) return skip_array(h, 1);
    if (k == KIND_STRING) {
        char *text;
        size_t length;
        CK_TRY(take_string(h, MAX_TEXT, &text, &length));
        ck_status status = ck_reader__add_meta(h->reader, key, key_length, text, length, h->err);
        free(text);
        return status;
    }
    char text[32];
    CK_TRY(take_scalar(h, (kind)k, &value, text));
    CK_TRY(obey(h, key, (kind)k, value, at));
    return ck_reader__add_meta(h->reader, key, key_length, text, strlen(text), h->err);
}

static ck_status take_entry(header *h) {
    char *text;
    size_t length;
    const char **keys = ck_grow(h->keys, h->key_count, &h->key_capacity, sizeof *keys);
    if (!keys) return ck_fail_memory(h->err, h->reader->path);
    h->keys = keys;
    CK_TRY(take_string(h, MAX_NAME, &text, &length));
    const char *key = ck_arena_strndup(&h->reader->arena, text, length);
    free(text);
    if (!key) return ck_fail_memory(h->err, h->reader->path);
    keys[h->key_count++] = key;
    return take_value(h, key, length);
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static ck_status refuse_duplicate_keys(header *h) {
    if (h->key_count) qsort(h->keys, h->key_count, sizeof *h->keys, by_text);
    for (size_t i = 1; i < h->key_count; i++)
        if (strcmp(h->keys[i - 1], h->keys[i]) == 0)
            return ck_fail(h->err, CK_INPUT, "%s: metadata key '%s' is there twice",
                           h->reader->path, h->keys[i]);
    return CK_OK;
}

/* ---- Tensors ---- */

static ck_status take_type(header *h, const char *name, const type **t) {
    uint32_t number;
    CK_TRY(take_u32(h, &number));
    *t = find_type(number);
    if (*t && (*t)->dtype != CK_DTYPE_COUNT) return CK_OK;
    char unknown[24];
    snprintf(unknown, sizeof unknown, "number %" PRIu32, number);
    return ck_fail(h->err, CK_INPUT,
                   "%s: tensor '%s': type %s is not supported; take a file in F16, Q8_0, Q6_K, "
                   "Q5_K, Q4_K, Q5_0 or Q4_0",
                   h->reader->path, name, *t ? (*t)->name : unknown);
}

/* What follows a tensor's name. Its offset stays relative: where the data begin is not known yet.
 */
static ck_status take_tensor(header *h, const char *name, size_t length) {
    ck_reader *r = h->reader;
    uint32_t rank;
    uint64_t shape[MAX_RANK], offset, at = h->at;
    CK_TRY(take_u32(h, &rank));
    if (rank > MAX_RANK)
        return ck_fail(h->err, CK_INPUT,
                       "%s: tensor '%s' at offset %" PRIu64 ": %" PRIu32
                       " dimensions, more than the %d that GGUF has",
                       r->path, name, at, rank, MAX_RANK);
    for (uint32_t i = 0; i < rank; i++) CK_TRY(take_number(h, 8, &shape[rank - 1 - i]));
    const type *t;
    CK_TRY(take_type(h, name, &t));
    CK_TRY(take_number(h, 8, &offset));
    if (offset % h->alignment)
        return ck_fail(h->err, CK_INPUT,
                       "%s: tensor '%s': offset %" PRIu64 " is not a multiple of %" PRIu64, r->path,
                       name, offset, h->alignment);
    if (t->quant && (rank == 0 || shape[rank - 1] % t->quant->elements))
        return ck_fail(h->err, CK_INPUT, "%s: tensor '%s': its rows are not whole blocks of %s",
                       r->path, name, t->name);
    stored *list = ck_grow(h->stored, h->stored_count, &h->stored_capacity, sizeof *list);
    if (!list) return ck_fail_memory(h->err, r->path);
    h->stored = list;
    CK_TRY(ck_reader__add(r, name, length, t->dtype, rank, shape, offset, h->err));
    list[h->stored_count++] = (stored){r->tensors[r->count - 1].name, t->quant};
    return CK_OK;
}

static ck_status take_tensors(header *h, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        char *name;
        size_t length;
        CK_TRY(take_string(h, MAX_NAME, &name, &length));
        ck_status status = take_tensor(h, name, length);
        free(name);
        if (status != CK_OK) return status;
    }
    return CK_OK;
}

/* Makes offsets count from the file's start and checks that the data lie within the file. */
static ck_status place_tensors(header *h) {
    ck_reader *r = h->reader;
    uint64_t padding = (h->alignment - h->at % h->alignment) % h->alignment;
    uint64_t data = h->at + padding;
    for (size_t i = 0; i < r->count; i++) {
        ck_tensor *t = &r->tensors[i];
        uint64_t end;
        if (__builtin_add_overflow(t->offset, data, &t->offset) ||
            __builtin_add_overflow(t->offset, stored_bytes(t, h->stored[i].quant), &end) ||
            (end > h->file_size && t->elements))
            return ck_fail(h->err, CK_INPUT,
                           "%s: tensor '%s' at offset %" PRIu64 ": its data go beyond the file's "
                           "%" PRIu64 " bytes: the file is cut off (an incomplete download?)",
                           r->path, t->name, t->offset, h->file_size);
    }
    return CK_OK;
}

/* The block type of each tensor, in the reader's order: r->state. */
static ck_status keep_quants(header *h) {
    ck_reader *r = h->reader;
    const ck_quant **quants = ck_alloc_array(r->count, sizeof *quants);
    if (!quants) return ck_fail_memory(h->err, r->path);
    r->state = quants;
    for (size_t i = 0; i < h->stored_count; i++)
        quants[ck_reader_find(r, h->stored[i].tensor) - r->tensors] = h->stored[i].quant;
    return CK_OK;
}

static ck_status refuse_overlaps(const header *h) {
    const ck_reader *r = h->reader;
    const ck_quant *const *quants = r->state;
    uint64_t end = 0;
    for (size_t i = 0; i < r->count; i++) {
        const ck_tensor *t = &r->tensors[i];
        if (t->offset < end)
            return ck_fail(h->err, CK_INPUT,
                           "%s: tensor '%s' at offset %" PRIu64 " overlaps the data before it, "
                           "which end at %" PRIu64,
                           r->path, t->name, t->offset, end);
        end = t->offset + stored_bytes(t, quants[i]);
    }
    return CK_OK;
}

/* Gives tensors that were stored reshaped their own shapes back. A shape for a tensor that is not
 * in the file means nothing. */
static ck_status restore_shapes(header *h) {
    ck_reader *r = h->reader;
    for (size_t i = 0; i < h->original_count; i++) {
        const original_shape *o = &h->originals[i];
        const ck_tensor *found = ck_reader_find(r, o->tensor);
        if (!found) continue;
        uint64_t elements = 1;
        bool overflow = false;
        for (size_t d = 0; d < o->rank; d++)
            overflow |= __builtin_mul_overflow(elements, o->shape[d], &elements);
        if (overflow || elements != found->elements)
            return ck_fail(h->err, CK_INPUT,
                           "%s: tensor '%s': comfy.gguf.orig_shape does not have its %" PRIu64
                           " elements",
                           r->path, o->tensor, found->elements);
        uint64_t *shape = ck_arena_alloc(&r->arena, o->rank * sizeof *shape);
        if (!shape) return ck_fail_memory(h->err, r->path);
        memcpy(shape, o->shape, o->rank * sizeof *shape);
        ck_tensor *t = &r->tensors[found - r->tensors];
        t->rank = o->rank;
        t->shape = shape;
    }
    return CK_OK;
}

/* ---- The format ---- */

static ck_status parse(header *h) {
    uint32_t magic, version;
    uint64_t tensors, entries;
    CK_TRY(take_u32(h, &magic)); /* checked by probe() */
    CK_TRY(take_u32(h, &version));
    if (version == 2u << 24 || version == 3u << 24)
        return fail_at(h, 4, "a big-endian file, which is not supported");
    if (version != 2 && version != 3)
        return ck_fail(h->err, CK_INPUT, "%s: GGUF version %" PRIu32 "; only 2 and 3 are supported",
                       h->reader->path, version);
    CK_TRY(take_number(h, 8, &tensors));
    CK_TRY(take_number(h, 8, &entries));
    if (tensors > left(h) / SMALLEST_TENSOR)
        return fail_at(h, 8, "more tensors than the file has room for");
    if (entries > left(h) / SMALLEST_ENTRY)
        return fail_at(h, 16, "more metadata than the file has room for");
    for (uint64_t i = 0; i < entries; i++) CK_TRY(take_entry(h));
    CK_TRY(refuse_duplicate_keys(h));
    CK_TRY(take_tensors(h, tensors));
    CK_TRY(place_tensors(h));
    CK_TRY(ck_reader__finish(h->reader, h->err));
    CK_TRY(keep_quants(h));
    CK_TRY(refuse_overlaps(h));
    return restore_shapes(h);
}

static ck_status open_gguf(ck_reader *r, ck_error *err) {
    struct stat st;
    if (fstat(r->fd, &st) != 0) return ck_fail_errno(err, "%s", r->path);
    header *h = ck_alloc(sizeof *h);
    if (!h) return ck_fail_memory(err, r->path);
    h->reader = r;
    h->file_size = (uint64_t)st.st_size;
    h->alignment = DEFAULT_ALIGNMENT;
    h->err = err;
    ck_status status = parse(h);
    free(h->keys);
    free(h->originals);
    free(h->stored);
    free(h);
    return status;
}

/* n bytes of the decoded tensor, a batch of blocks at a time. */
static ck_status read_blocks(const ck_reader *r, const ck_tensor *t, const ck_quant *quant,
                             uint64_t begin, unsigned char *dst, size_t n, ck_error *err) {
    enum { BATCH_BYTES = 32768 };
    unsigned char batch[BATCH_BYTES];
    float values[CK_QUANT_MAX_ELEMENTS];
    const size_t decoded = quant->elements * sizeof(float);
    const uint64_t batch_blocks = BATCH_BYTES / quant->bytes;
    uint64_t block = begin / decoded, last = (begin + n - 1) / decoded;
    size_t skipped = (size_t)(begin % decoded);
    while (n) {
        uint64_t blocks = last - block + 1 < batch_blocks ? last - block + 1 : batch_blocks;
        if (ck_pread_all(r->fd, batch, (size_t)blocks * quant->bytes,
                         t->offset + block * quant->bytes, r->path, err) != CK_OK)
            return ck_context(err, "tensor '%s'", t->name);
        for (uint64_t i = 0; i < blocks; i++) {
            quant->decode(values, batch + i * quant->bytes);
            size_t wanted = n < decoded - skipped ? n : decoded - skipped;
            memcpy(dst, (unsigned char *)values + skipped, wanted);
            dst += wanted;
            n -= wanted;
            skipped = 0;
        }
        block += blocks;
    }
    return CK_OK;
}

static ck_status read_gguf(const ck_reader *r, const ck_tensor *t, uint64_t begin, void *dst,
                           size_t n, ck_error *err) {
    const ck_quant *const *quants = r->state;
    const ck_quant *quant = quants[t - r->tensors];
    if (quant) return read_blocks(r, t, quant, begin, dst, n, err);
    return ck_reader__pread(r, t, begin, dst, n, err);
}

static void close_gguf(ck_reader *r) {
    free(r->state);
}

static bool probe(const char *path, const unsigned char *head, size_t n, bool is_directory) {
    (void)path;
    return !is_directory && n >= 4 && memcmp(head, "GGUF", 4) == 0;
}

const ck_format ck_format_gguf = {
    .name = "GGUF",
    .probe = probe,
    .open = open_gguf,
    .read = read_gguf,
    .close = close_gguf,
};
