/* PyTorch checkpoints: a pickle that describes the tensors, and storages that hold their values.
 *
 * Two layouts. Since PyTorch 1.6 a zip archive: FOLDER/data.pkl, and each storage an entry
 * FOLDER/data/KEY. Before that five pickles in a row (a magic number, a protocol number, facts on
 * the system, the object, the list of storage keys), then each storage as i64 length and data.
 *
 * Nothing in the file is executed: the pickle machine builds nodes, and here those few calls that
 * stand for dicts and tensors are understood. An import that is not known to be harmless refuses
 * the file. The dict of tensors is the outermost one, or what it has under one of the names in
 * `wrappers`; entries that are not tensors are skipped and counted, dicts below it too.
 *
 * Storages are read where they lie. Tensors may share them and may be strided views of them.
 * Storages of a deflated entry are inflated once, when first read, into an unnamed temporary file
 * of exactly their size (in $TMPDIR or /tmp). As in PyTorch, checksums of the zip are not checked.
 */
#include "io/globals.h"
#include "io/os.h"
#include "io/pickle.h"
#include "io/reader_int.h"
#include "io/strided.h"
#include "io/utf8.h"
#include "io/zip.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef ck_pickle_node node;

/* What the first pickle of the old layout holds. */
static const unsigned char magic[] = {0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};

/* Names under which the tensors may be found, in the order of preference. */
static const char *const wrappers[] = {"state_dict", "params_ema", "params",
                                       "model",      "module",     "string_to_param"};

enum {
    MAX_NESTING = 8, /* of wrappers, and of a parameter around a tensor */
    /* A deflated pickle may be this much larger than its compressed data (and a mebibyte), so that
     * the memory it takes is in proportion to the file. */
    MAX_PICKLE_RATIO = 64,
};

/* Where a tensor's elements lie. */
typedef struct place {
    const char *name;             /* of the tensor */
    uint64_t offset;              /* of its first element: in the file, or in its storage */
    const uint64_t *strides;      /* in elements; NULL: packed */
    unsigned swap;                /* bytes whose order must be reversed; 1: none */
    const ck_zip_entry *deflated; /* the storage's entry if it is compressed, else NULL */
} place;

/* Deflated entries that have been inflated lie one behind the other in the temporary file. */
typedef struct inflated {
    const ck_zip_entry *entry;
    uint64_t offset;
} inflated;

typedef struct checkpoint {
    ck_zip *zip;   /* NULL: the old layout */
    place *places; /* by the tensor's number */
    size_t place_capacity;
    bool big_endian;
    bool locks; /* lock has been initialised */
    pthread_mutex_t lock;
    inflated *inflated;
    size_t inflated_count, inflated_capacity;
    int temporary; /* -1: none yet */
    uint64_t temporary_size;
} checkpoint;

/* A storage of the old layout. */
typedef struct storage {
    const char *key;
    const ck_global *type;
    uint64_t elements;
    uint64_t offset; /* in the file; 0 until it is found */
} storage;

typedef struct loader {
    ck_reader *r;
    checkpoint *state;
    const char *folder; /* in the zip archive, with its slash */
    size_t folder_length;
    storage *storages; /* of the old layout, by key */
    size_t storage_count;
    const char *tensor; /* at work, for messages */
    ck_error *err;
} loader;

static ck_status fail_tensor(const loader *l, const node *at, const char *what) {
    return ck_fail(l->err, CK_INPUT, "%s: tensor '%s': pickle offset %" PRIu64 ": %s", l->r->path,
                   l->tensor, at->offset, what);
}

static ck_status fail_global(const loader *l, const ck_global *g, const char *what) {
    return ck_fail(l->err, CK_INPUT, "%s: tensor '%s': %s: %s", l->r->path, l->tensor, g->name,
                   what);
}

/* ---- Nodes ---- */

static bool is_text(const node *n, const char *word) {
    return n->kind == CK_PICKLE_TEXT && n->count == strlen(word) &&
           memcmp(n->text, word, n->count) == 0;
}

static const ck_global *global_of(const node *n) {
    return n->kind == CK_PICKLE_GLOBAL ? ck_global_find(n->text) : NULL;
}

/* What a call calls, if that is in the table. */
static const ck_global *callee_of(const node *n) {
    return n->kind == CK_PICKLE_CALL ? global_of(n->items[0]) : NULL;
}

static bool is_dict(const node *n) {
    const ck_global *g = callee_of(n);
    return n->kind == CK_PICKLE_DICT || (g && g->meaning == CK_GLOBAL_DICT);
}

/* Walks the entries of a dict; *i starts at 0. An OrderedDict of Python 2 has them as pairs in the
 * list that is its argument; others are set one by one. */
static bool next_entry(const node *dict, size_t *i, const node **key, const node **value) {
    size_t set = 0;
    const node *pairs = NULL;
    if (dict->kind == CK_PICKLE_CALL) {
        const node *arguments = dict->items[1];
        set = 2;
        if (arguments->kind == CK_PICKLE_TUPLE && arguments->count == 1 &&
            arguments->items[0]->kind == CK_PICKLE_LIST)
            pairs = arguments->items[0];
    }
    size_t pair_count = pairs ? pairs->count : 0;
    while (*i < pair_count) {
        const node *pair = pairs->items[(*i)++];
        if ((pair->kind != CK_PICKLE_LIST && pair->kind != CK_PICKLE_TUPLE) || pair->count != 2)
            continue;
        *key = pair->items[0];
        *value = pair->items[1];
        return true;
    }
    size_t at = set + (*i - pair_count) * 2;
    if (at + 1 >= dict->count) return false;
    *key = dict->items[at];
    *value = dict->items[at + 1];
    ++*i;
    return true;
}

/* The value that a key has last been given, or NULL. */
static const node *dict_get(const node *dict, const char *word) {
    const node *found = NULL, *key, *value;
    for (size_t i = 0; next_entry(dict, &i, &key, &value);)
        if (is_text(key, word)) found = value;
    return found;
}

static size_t dict_size(const node *dict) {
    const node *key, *value;
    size_t n = 0;
    for (size_t i = 0; next_entry(dict, &i, &key, &value);) n++;
    return n;
}

/* A call that makes a tensor, seen through what is wrapped around it. */
typedef struct tensor_call {
    const ck_global *maker;
    const node *arguments;
} tensor_call;

static bool is_tensor(const node *n, tensor_call *call) {
    for (int depth = 0; depth < MAX_NESTING && n->kind == CK_PICKLE_CALL; depth++) {
        const node *callee = n->items[0];
        call->arguments = n->items[1];
        call->maker = global_of(callee);
        if (call->maker && call->maker->meaning == CK_GLOBAL_FROM_TYPE &&
            call->arguments->kind == CK_PICKLE_TUPLE && call->arguments->count >= 3) {
            call->maker = global_of(call->arguments->items[0]);
            call->arguments = call->arguments->items[2];
        }
        if (!call->maker || call->arguments->kind != CK_PICKLE_TUPLE) return false;
        switch (call->maker->meaning) {
        case CK_GLOBAL_TENSOR:
        case CK_GLOBAL_TENSOR_V3:
        case CK_GLOBAL_UNREADABLE:
            return true;
        case CK_GLOBAL_PARAMETER:
            if (call->arguments->count == 0) return false;
            n = call->arguments->items[0];
            break;
        default:
            return false;
        }
    }
    return false;
}

/* ---- Storages ---- */

/* The parts of a storage's id: ('storage', type, key, location, elements[, view]). */
typedef struct storage_id {
    const ck_global *type;
    const char *key;
    uint64_t elements;
    const node *view; /* NULL, or a tuple (key, first element, elements) */
} storage_id;

static bool parse_storage_id(const node *n, storage_id *id) {
    const node *t = n->items[0];
    if (t->kind != CK_PICKLE_TUPLE || t->count < 5 || t->count > 6 ||
        !is_text(t->items[0], "storage") || t->items[2]->kind != CK_PICKLE_TEXT ||
        t->items[4]->kind != CK_PICKLE_INT || t->items[4]->integer < 0)
        return false;
    id->type = global_of(t->items[1]);
    id->key = t->items[2]->text;
    id->elements = (uint64_t)t->items[4]->integer;
    id->view = t->count == 6 && t->items[5]->kind != CK_PICKLE_NONE ? t->items[5] : NULL;
    return id->type && id->type->meaning == CK_GLOBAL_STORAGE;
}

static int by_key(const void *a, const void *b) {
    return strcmp(((const storage *)a)->key, ((const storage *)b)->key);
}

static storage *find_storage(const loader *l, const char *key) {
    storage wanted = {.key = key};
    return l->storage_count ? bsearch(&wanted, l->storages, l->storage_count, sizeof wanted, by_key)
                            : NULL;
}

/* Where a storage lies in the archive: p->offset and p->deflated. */
static ck_status locate_entry(const loader *l, const storage_id *id, const node *at, place *p) {
    char *name = ck_sprintf("%.*sdata/%s", (int)l->folder_length, l->folder, id->key);
    if (!name) return ck_fail_memory(l->err, l->r->path);
    const ck_zip_entry *e = ck_zip_find(l->state->zip, name);
    ck_status status = CK_OK;
    uint64_t wanted;
    if (!e)
        status = ck_fail(l->err, CK_INPUT, "%s: tensor '%s': the archive has no '%s'", l->r->path,
                         l->tensor, name);
    else if (__builtin_mul_overflow(id->elements, (uint64_t)id->type->bytes, &wanted) ||
             e->size != wanted)
        status =
            ck_fail(l->err, CK_INPUT,
                    "%s: tensor '%s': pickle offset %" PRIu64 ": %" PRIu64
                    " elements of %s, but '%s' has %" PRIu64 " bytes",
                    l->r->path, l->tensor, at->offset, id->elements, id->type->name, name, e->size);
    free(name);
    CK_TRY(status);
    p->offset = e->deflated ? 0 : e->offset;
    p->deflated = e->deflated ? e : NULL;
    return CK_OK;
}

/* The same for the old layout. A view, as if it were a storage, narrows the elements. */
static ck_status locate_old(const loader *l, storage_id *id, const node *at, place *p) {
    const storage *s = find_storage(l, id->key);
    if (!s || s->offset == 0 || s->elements != id->elements)
        return fail_tensor(l, at, "its storage is not in the list at the end of the pickles");
    p->offset = s->offset;
    p->deflated = NULL;
    if (!id->view) return CK_OK;
    const node *v = id->view;
    if (v->kind != CK_PICKLE_TUPLE || v->count != 3 || v->items[1]->kind != CK_PICKLE_INT ||
        v->items[2]->kind != CK_PICKLE_INT || v->items[1]->integer < 0 ||
        v->items[2]->integer < 0 || (uint64_t)v->items[1]->integer > id->elements ||
        (uint64_t)v->items[2]->integer > id->elements - (uint64_t)v->items[1]->integer)
        return fail_tensor(l, at, "a view that is not within its storage");
    id->elements = (uint64_t)v->items[2]->integer;
    p->offset += (uint64_t)v->items[1]->integer * id->type->bytes;
    return CK_OK;
}

/* ---- Tensors ---- */

/* A tuple of numbers, or a torch.Size of one, as uint64_t[*n] in the reader's arena. */
static ck_status parse_numbers(const loader *l, const node *n, const char *what, uint64_t **numbers,
                               size_t *count) {
    const ck_global *g = callee_of(n);
    if (g && g->meaning == CK_GLOBAL_SIZE && n->items[1]->kind == CK_PICKLE_TUPLE &&
        n->items[1]->count == 1)
        n = n->items[1]->items[0];
    if (n->kind != CK_PICKLE_TUPLE) return fail_tensor(l, n, what);
    if (n->count > CK_STRIDED_MAX_RANK) return fail_tensor(l, n, "more than 64 dimensions");
    *count = n->count;
    *numbers = ck_arena_alloc(&l->r->arena, n->count * sizeof **numbers);
    if (!*numbers) return ck_fail_memory(l->err, l->r->path);
    for (size_t i = 0; i < n->count; i++) {
        if (n->items[i]->kind != CK_PICKLE_INT || n->items[i]->integer < 0)
            return fail_tensor(l, n, what);
        (*numbers)[i] = (uint64_t)n->items[i]->integer;
    }
    return CK_OK;
}

/* Whether every element lies within a storage of so many elements. */
static bool fits(uint64_t first, size_t rank, const uint64_t *shape, const uint64_t *strides,
                 uint64_t elements) {
    uint64_t last = first, reach;
    for (size_t i = 0; i < rank; i++)
        if (shape[i] == 0) return true;
    for (size_t i = 0; i < rank; i++)
        if (__builtin_mul_overflow(shape[i] - 1, strides[i], &reach) ||
            __builtin_add_overflow(last, reach, &last))
            return false;
    return last < elements;
}

static bool is_packed(size_t rank, const uint64_t *shape, const uint64_t *strides) {
    uint64_t step = 1;
    for (size_t i = rank; i > 0; i--) {
        if (shape[i - 1] == 0) return true;
        if (shape[i - 1] != 1 && strides[i - 1] != step) return false;
        step *= shape[i - 1];
    }
    return true;
}

/* The element type; bytes of an element of it are in *size. */
static ck_status parse_dtype(const loader *l, const tensor_call *call, const storage_id *id,
                             const ck_global **type) {
    *type = id->type;
    if (call->maker->meaning == CK_GLOBAL_TENSOR_V3) {
        const node *a = call->arguments;
        *type = a->count >= 7 ? global_of(a->items[6]) : NULL;
        if (!*type || (*type)->meaning != CK_GLOBAL_DTYPE)
            return fail_tensor(l, a, "its element type is missing");
    }
    if ((*type)->dtype == CK_DTYPE_COUNT)
        return fail_global(l, *type, "elements of this type cannot be read");
    return CK_OK;
}

static ck_status parse_tensor(loader *l, const tensor_call *call, const node *key) {
    const node *a = call->arguments;
    if (call->maker->meaning == CK_GLOBAL_UNREADABLE)
        return fail_global(l, call->maker, "tensors of this kind cannot be read");
    storage_id id;
    if (a->count < 4 || a->items[0]->kind != CK_PICKLE_PERSISTENT ||
        !parse_storage_id(a->items[0], &id))
        return fail_tensor(l, a, "its storage is not described as PyTorch does");
    if (a->items[1]->kind != CK_PICKLE_INT || a->items[1]->integer < 0)
        return fail_tensor(l, a, "a bad offset in the storage");
    uint64_t first = (uint64_t)a->items[1]->integer, *shape, *strides;
    size_t rank, stride_count;
    const ck_global *type;
    place p = {.name = NULL};
    CK_TRY(parse_numbers(l, a->items[2], "a bad shape", &shape, &rank));
    CK_TRY(parse_numbers(l, a->items[3], "bad strides", &strides, &stride_count));
    if (stride_count != rank) return fail_tensor(l, a, "shape and strides differ in length");
    CK_TRY(parse_dtype(l, call, &id, &type));
    CK_TRY(l->state->zip ? locate_entry(l, &id, a->items[0], &p)
                         : locate_old(l, &id, a->items[0], &p));
    /* The storage's size in bytes is known to be that of something in the file. */
    uint64_t elements = id.elements * id.type->bytes / type->bytes;
    if (!fits(first, rank, shape, strides, elements))
        return fail_tensor(l, a, "it reaches beyond the end of its storage");
    ck_reader *r = l->r;
    uint64_t storage_offset = p.deflated ? p.deflated->offset : p.offset;
    CK_TRY(
        ck_reader__add(r, key->text, key->count, type->dtype, rank, shape, storage_offset, l->err));
    ck_tensor *t = &r->tensors[r->count - 1];
    if (t->elements) p.offset += first * type->bytes;
    if (!p.deflated) t->offset = p.offset;
    p.name = t->name;
    p.strides = is_packed(rank, shape, strides) ? NULL : strides;
    p.swap = l->state->big_endian ? id.type->dtype == CK_C64 ? 4 : id.type->bytes : 1;
    place *places =
        ck_grow(l->state->places, r->count - 1, &l->state->place_capacity, sizeof *places);
    if (!places) return ck_fail_memory(l->err, r->path);
    l->state->places = places;
    places[r->count - 1] = p;
    return CK_OK;
}

/* Sorts the tensors; then the places in the same way. */
static ck_status finish(loader *l) {
    ck_reader *r = l->r;
    CK_TRY(ck_reader__finish(r, l->err));
    place *sorted = ck_alloc_array(r->count, sizeof *sorted);
    if (!sorted) return ck_fail_memory(l->err, r->path);
    for (size_t i = 0; i < r->count; i++)
        sorted[ck_reader_find(r, l->state->places[i].name) - r->tensors] = l->state->places[i];
    free(l->state->places);
    l->state->places = sorted;
    return CK_OK;
}

/* The dict of tensors within what the file holds. */
static ck_status find_dict(loader *l, const node *root, const node **dict) {
    if (!is_dict(root))
        return ck_fail(l->err, CK_INPUT,
                       "%s: holds no dict of tensors (a model saved whole, with its code, can only "
                       "be loaded by that code)",
                       l->r->path);
    *dict = root;
    for (int depth = 0; depth < MAX_NESTING; depth++) {
        const node *inner = NULL;
        for (size_t i = 0; i < sizeof wrappers / sizeof *wrappers && !inner; i++) {
            inner = dict_get(*dict, wrappers[i]);
            if (inner && !is_dict(inner)) inner = NULL;
        }
        if (!inner) break;
        l->r->skipped += dict_size(*dict) - 1;
        *dict = inner;
    }
    return CK_OK;
}

static ck_status add_tensors(loader *l, const node *root) {
    const node *dict = NULL, *key, *value;
    CK_TRY(find_dict(l, root, &dict));
    for (size_t i = 0; next_entry(dict, &i, &key, &value);) {
        tensor_call call;
        if (key->kind != CK_PICKLE_TEXT || !is_tensor(value, &call)) {
            l->r->skipped++;
            continue;
        }
        l->tensor = key->text;
        if (memchr(key->text, 0, key->count) ||
            ck_utf8_check((const unsigned char *)key->text, key->count) != key->count)
            return fail_tensor(l, key, "its name is not UTF-8, or contains a NUL");
        CK_TRY(parse_tensor(l, &call, key));
    }
    if (l->r->count == 0)
        return ck_fail(l->err, CK_INPUT, "%s: holds no tensors under names", l->r->path);
    return finish(l);
}

/* ---- Opening ---- */

/* Refuses to go on after an import that weights do not need. */
static ck_status check_import(void *context, const ck_pickle_import *i, ck_error *err) {
    const ck_pickle_input *in = context;
    char full[256];
    int n = snprintf(full, sizeof full, "%s.%s", i->module, i->name);
    if (n > 0 && (size_t)n < sizeof full && ck_global_find(full)) return CK_OK;
    return ck_fail(
        err, CK_INPUT,
        "%s: pickle opcode %s at offset %" PRIu64 " imports '%s', which %s: refused. Nothing "
        "was run; `cktool scan` lists all that the file would import",
        in->name, i->opcode, i->offset, full,
        ck_global_verdict(i->module, i->name) == CK_DANGEROUS ? "can run code" : "no weights need");
}

/* Refuses every import: there is no object in these pickles. */
static ck_status refuse_import(void *context, const ck_pickle_import *i, ck_error *err) {
    const ck_pickle_input *in = context;
    return ck_fail(err, CK_INPUT,
                   "%s: pickle opcode %s at offset %" PRIu64 " imports '%s.%s' where only numbers "
                   "belong: refused",
                   in->name, i->opcode, i->offset, i->module, i->name);
}

static ck_status load(ck_pickle_input *in, bool imports, ck_pickle *pickle, ck_error *err) {
    ck_pickle_rules rules = {
        .strict = true, .import = imports ? check_import : refuse_import, .context = in};
    return ck_pickle_load(in, &rules, pickle, err);
}

/* The archive's FOLDER/byteorder, if there is one, must be a word that we know. */
static ck_status read_byte_order(loader *l) {
    char name[512], word[8] = "";
    if (l->folder_length > sizeof name - 16)
        return ck_fail(l->err, CK_INPUT, "%s: the name of the archive's folder is too long",
                       l->r->path);
    snprintf(name, sizeof name, "%.*sbyteorder", (int)l->folder_length, l->folder);
    const ck_zip_entry *e = ck_zip_find(l->state->zip, name);
    if (!e) return CK_OK;
    ck_zip_stream *stream;
    size_t got = 0;
    CK_TRY(ck_zip_stream_open(l->r->fd, l->r->path, e, &stream, l->err));
    ck_status status = ck_zip_stream_read(stream, word, sizeof word - 1, &got, l->err);
    ck_zip_stream_close(stream);
    CK_TRY(status);
    l->state->big_endian = strcmp(word, "big") == 0;
    if (!l->state->big_endian && strcmp(word, "little") != 0)
        return ck_fail(l->err, CK_INPUT, "%s: '%s' is neither 'little' nor 'big'", l->r->path,
                       name);
    return CK_OK;
}

static ck_status read_zip_pickle(loader *l, const ck_zip_entry *e) {
    if (e->deflated && e->size > (1 << 20) && (e->size - (1 << 20)) / MAX_PICKLE_RATIO > e->packed)
        return ck_fail(l->err, CK_INPUT,
                       "%s: '%s' grows from %" PRIu64 " to %" PRIu64
                       " bytes: not the pickle of a checkpoint",
                       l->r->path, e->name, e->packed, e->size);
    ck_zip_stream *stream = NULL;
    char *name = ck_sprintf("%s: %s", l->r->path, e->name);
    ck_status status = name ? ck_zip_stream_open(l->r->fd, l->r->path, e, &stream, l->err)
                            : ck_fail_memory(l->err, l->r->path);
    ck_pickle pickle = {.root = NULL};
    ck_pickle_input in = {.read = ck_pickle_read_zip, .context = stream, .name = name};
    if (status == CK_OK) status = load(&in, true, &pickle, l->err);
    if (status == CK_OK) status = add_tensors(l, pickle.root);
    /* To the end, where it turns out whether the compressed data are whole. */
    char rest[512];
    for (size_t got = 1; status == CK_OK && got > 0;)
        status = ck_zip_stream_read(stream, rest, sizeof rest, &got, l->err);
    ck_pickle_free(&pickle);
    ck_zip_stream_close(stream);
    free(name);
    return status;
}

static ck_status open_zip(loader *l) {
    ck_reader *r = l->r;
    CK_TRY(ck_zip_open(r->fd, r->path, &l->state->zip, l->err));
    const char *first = ck_zip_count(l->state->zip) ? ck_zip_at(l->state->zip, 0)->name : "";
    const char *slash = strchr(first, '/');
    l->folder = first;
    l->folder_length = slash ? (size_t)(slash - first) + 1 : 0;
    CK_TRY(read_byte_order(l));
    char name[512];
    snprintf(name, sizeof name, "%.*sdata.pkl", (int)l->folder_length, l->folder);
    const ck_zip_entry *e = ck_zip_find(l->state->zip, name);
    if (!e)
        return ck_fail(l->err, CK_INPUT, "%s: a zip archive without '%s': not from PyTorch",
                       r->path, name);
    return read_zip_pickle(l, e);
}

/* The storages that the object's pickle speaks of, by key. */
static ck_status collect_storages(loader *l, const ck_pickle *pickle) {
    l->storages = ck_alloc_array(pickle->persistent_count, sizeof *l->storages);
    if (!l->storages) return ck_fail_memory(l->err, l->r->path);
    size_t n = 0;
    for (size_t i = 0; i < pickle->persistent_count; i++) {
        storage_id id;
        if (parse_storage_id(pickle->persistent[i], &id))
            l->storages[n++] = (storage){id.key, id.type, id.elements, 0};
    }
    qsort(l->storages, n, sizeof *l->storages, by_key);
    for (size_t i = 0; i < n; i++) {
        storage s = l->storages[i];
        const storage *kept = l->storage_count ? &l->storages[l->storage_count - 1] : NULL;
        if (!kept || strcmp(kept->key, s.key) != 0)
            l->storages[l->storage_count++] = s;
        else if (kept->type->bytes != s.type->bytes || kept->elements != s.elements)
            return ck_fail(l->err, CK_INPUT, "%s: storage '%s' has two sizes", l->r->path, s.key);
    }
    return CK_OK;
}

/* Finds the storages of the listed keys, one behind the other from `at` on. */
static ck_status place_storages(loader *l, const node *keys, uint64_t at, uint64_t file_size) {
    const char *path = l->r->path;
    if (keys->kind != CK_PICKLE_LIST)
        return ck_fail(l->err, CK_INPUT, "%s: the fifth pickle is not a list of storages", path);
    for (size_t i = 0; i < keys->count; i++) {
        const node *key = keys->items[i];
        storage *s = key->kind == CK_PICKLE_TEXT ? find_storage(l, key->text) : NULL;
        if (!s || s->offset)
            return ck_fail(l->err, CK_INPUT,
                           "%s: storage %zu of the list at offset %" PRIu64
                           " is one that no tensor has, or is there twice",
                           path, i, key->offset);
        unsigned char raw[8];
        uint64_t elements = 0, bytes;
        CK_TRY(ck_pread_all(l->r->fd, raw, sizeof raw, at, path, l->err));
        for (int k = 7; k >= 0; k--) elements = elements << 8 | raw[k];
        at += sizeof raw;
        if (elements != s->elements ||
            __builtin_mul_overflow(elements, (uint64_t)s->type->bytes, &bytes) ||
            bytes > file_size - at)
            return ck_fail(l->err, CK_INPUT,
                           "%s: storage '%s' at offset %" PRIu64 ": %" PRIu64
                           " elements, where the pickle says %" PRIu64 " and the file has %" PRIu64
                           " bytes left",
                           path, s->key, at, elements, s->elements, file_size - at);
        s->offset = at;
        at += bytes;
    }
    return CK_OK;
}

/* The facts on the system that wrote the file: its bytes must be in our order. */
static bool is_little_endian(const node *facts) {
    const node *value = is_dict(facts) ? dict_get(facts, "little_endian") : NULL;
    return value && value->kind == CK_PICKLE_BOOL && value->integer == 1;
}

static ck_status open_old(loader *l) {
    ck_reader *r = l->r;
    struct stat st;
    if (fstat(r->fd, &st) != 0) return ck_fail_errno(l->err, "%s", r->path);
    ck_pickle_range range = {r->fd, r->path, 0, (uint64_t)st.st_size};
    ck_pickle_input in = {.read = ck_pickle_read_range, .context = &range, .name = r->path};
    enum { MAGIC, PROTOCOL, SYSTEM, OBJECT, KEYS, PICKLES };
    ck_pickle pickles[PICKLES] = {{.root = NULL}};
    ck_status status = CK_OK;
    for (int i = 0; i < PICKLES && status == CK_OK; i++)
        status = load(&in, i == OBJECT, &pickles[i], l->err);
    if (status == CK_OK &&
        (pickles[PROTOCOL].root->kind != CK_PICKLE_INT || pickles[PROTOCOL].root->integer != 1001))
        status = ck_fail(l->err, CK_INPUT, "%s: not PyTorch's protocol 1001", r->path);
    if (status == CK_OK && !is_little_endian(pickles[SYSTEM].root))
        status = ck_fail(l->err, CK_INPUT, "%s: written on a big-endian system", r->path);
    if (status == CK_OK) status = collect_storages(l, &pickles[OBJECT]);
    if (status == CK_OK)
        status = place_storages(l, pickles[KEYS].root, in.offset, (uint64_t)st.st_size);
    if (status == CK_OK) status = add_tensors(l, pickles[OBJECT].root);
    free(l->storages);
    for (int i = 0; i < PICKLES; i++) ck_pickle_free(&pickles[i]);
    return status;
}

static ck_status open_checkpoint(ck_reader *r, ck_error *err) {
    checkpoint *c = r->state = ck_alloc(sizeof *c);
    if (!c) return ck_fail_memory(err, r->path);
    c->temporary = -1;
    if (pthread_mutex_init(&c->lock, NULL) != 0) return ck_fail_memory(err, r->path);
    c->locks = true;
    loader l = {.r = r, .state = c, .err = err};
    char head[2];
    CK_TRY(ck_pread_all(r->fd, head, sizeof head, 0, r->path, err));
    return memcmp(head, "PK", 2) == 0 ? open_zip(&l) : open_old(&l);
}

static void close_checkpoint(ck_reader *r) {
    checkpoint *c = r->state;
    if (!c) return;
    if (c->temporary >= 0) close(c->temporary);
    if (c->locks) pthread_mutex_destroy(&c->lock);
    ck_zip_close(c->zip);
    free(c->places);
    free(c->inflated);
    free(c);
}

/* An archive whose entries lie in a folder, or the old layout's magic number near the start. */
static bool probe(const char *path, const unsigned char *head, size_t n, bool is_directory) {
    (void)path;
    if (is_directory || n < 30) return false;
    if (memcmp(head, "PK\3\4", 4) == 0) {
        size_t length = (size_t)head[26] | (size_t)head[27] << 8;
        return memchr(head + 30, '/', length < n - 30 ? length : n - 30) != NULL;
    }
    return head[0] == 0x80 && memmem(head, 30, magic, sizeof magic) != NULL;
}

/* ---- Reading ---- */

/* The offset of an entry's content in the temporary file, inflating it first when it is not there.
 */
static ck_status inflate_entry(const ck_reader *r, const ck_zip_entry *e, uint64_t *offset,
                               ck_error *err) {
    checkpoint *c = r->state;
    for (size_t i = 0; i < c->inflated_count; i++)
        if (c->inflated[i].entry == e) {
            *offset = c->inflated[i].offset;
            return CK_OK;
        }
    inflated *all = ck_grow(c->inflated, c->inflated_count, &c->inflated_capacity, sizeof *all);
    if (!all) return ck_fail_memory(err, r->path);
    c->inflated = all;
    if (c->temporary < 0) CK_TRY(ck_zip_temporary(r->path, &c->temporary, err));
    CK_TRY(ck_zip_extract(r->fd, r->path, e, c->temporary, c->temporary_size, err));
    *offset = c->temporary_size;
    all[c->inflated_count++] = (inflated){e, c->temporary_size};
    c->temporary_size += e->size;
    return CK_OK;
}

static void reverse(unsigned char *p, size_t n, unsigned size) {
    for (size_t i = 0; i < n; i += size)
        for (size_t a = i, b = i + size - 1; a < b; a++, b--) {
            unsigned char byte = p[a];
            p[a] = p[b];
            p[b] = byte;
        }
}

static ck_status read_checkpoint(const ck_reader *r, const ck_tensor *t, uint64_t begin, void *dst,
                                 size_t n, ck_error *err) {
    checkpoint *c = r->state;
    const place *p = &c->places[t - r->tensors];
    int fd = r->fd;
    uint64_t offset = p->offset;
    ck_status status = CK_OK;
    if (p->deflated) {
        uint64_t base = 0;
        pthread_mutex_lock(&c->lock);
        status = inflate_entry(r, p->deflated, &base, err);
        fd = c->temporary;
        pthread_mutex_unlock(&c->lock);
        offset += base;
    }
    size_t size = ck_dtype_bits(t->dtype) / 8;
    if (status == CK_OK && p->strides) {
        ck_strided view = {fd, r->path, offset, size, t->rank, t->shape, p->strides};
        status = ck_strided_read(&view, begin / size, n / size, dst, err);
    } else if (status == CK_OK) {
        status = ck_pread_all(fd, dst, n, offset + begin, r->path, err);
    }
    if (status != CK_OK) return ck_context(err, "tensor '%s'", t->name);
    if (p->swap > 1) reverse(dst, n, p->swap);
    return CK_OK;
}

const ck_format ck_format_ckpt = {
    .name = "ckpt",
    .probe = probe,
    .open = open_checkpoint,
    .read = read_checkpoint,
    .close = close_checkpoint,
};
