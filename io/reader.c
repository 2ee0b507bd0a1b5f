/* The part that all containers share: finding the format, the list of tensors, the index. */
#include "io/reader_int.h"
#include "io/os.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* One row per container; the first whose probe says yes opens the file. Those with a signature come
 * before safetensors, which is known only by what it looks like: a GGUF file of 32 tensors does. */
static const ck_format *const formats[] = {
    &ck_format_diffusers, &ck_format_gguf,    &ck_format_hdf5,        &ck_format_keras,
    &ck_format_ckpt,      &ck_format_sharded, &ck_format_safetensors,
};

enum { HEAD_SIZE = 512 };

static bool starts(const unsigned char *head, size_t n, const char *with) {
    size_t len = strlen(with);
    return n >= len && memcmp(head, with, len) == 0;
}

/* What a file that no format knows looks like, as a hint. */
static const char *resemblance(const unsigned char *head, size_t n) {
    if (n == 0) return "the file is empty";
    if (starts(head, n, "version https://git-lfs"))
        return "this is a git-lfs pointer, not the model: fetch it with `git lfs pull`";
    if (starts(head, n, "<!DOCTYPE") || starts(head, n, "<!doctype") || starts(head, n, "<html"))
        return "this is a web page, not a model: the download went wrong";
    if (starts(head, n, "PK\3\4"))
        return "this is a zip archive, but not one that PyTorch or Keras has written";
    if (starts(head, n, "\x80\2"))
        return "this is a pickle, but not of PyTorch's form; `cktool scan` says what loading it "
               "would import";
    if (n > 262 && memcmp(head + 257, "ustar", 5) == 0)
        return "this is a tar archive; PyTorch's checkpoints of before 2017 were such, which are "
               "not read";
    return "this is not a checkpoint of a known format";
}

static ck_status find_format(ck_reader *r, ck_error *err) {
    struct stat st;
    if (stat(r->path, &st) != 0) return ck_fail_errno(err, "%s", r->path);
    unsigned char head[HEAD_SIZE];
    size_t n = 0;
    bool directory = S_ISDIR(st.st_mode);
    if (!directory && !S_ISREG(st.st_mode))
        return ck_fail(err, CK_INPUT, "%s: neither a file nor a folder", r->path);
    if (!directory) {
        r->fd = ck_os.open(r->path, O_RDONLY, 0);
        if (r->fd < 0) return ck_fail_errno(err, "%s: open", r->path);
        n = st.st_size < HEAD_SIZE ? (size_t)st.st_size : HEAD_SIZE;
        CK_TRY(ck_pread_all(r->fd, head, n, 0, r->path, err));
    }
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (formats[i]->probe(r->path, head, n, directory)) {
            r->format = formats[i];
            return CK_OK;
        }
    return ck_fail(err, CK_INPUT, "%s: %s", r->path, resemblance(head, n));
}

ck_status ck_reader_open(const char *path, ck_reader **out, ck_error *err) {
    ck_reader *r = ck_alloc(sizeof *r);
    if (!r) return ck_fail_memory(err, path);
    r->fd = -1;
    r->path = ck_strdup(path);
    ck_status status = r->path ? find_format(r, err) : ck_fail_memory(err, path);
    if (status == CK_OK) status = r->format->open(r, err);
    if (status != CK_OK) {
        ck_reader_close(r);
        return status;
    }
    *out = r;
    return CK_OK;
}

void ck_reader_close(ck_reader *r) {
    if (!r) return;
    if (r->format && r->format->close) r->format->close(r);
    if (r->fd >= 0) close(r->fd);
    free(r->tensors);
    free(r->slots);
    free(r->meta);
    free(r->path);
    ck_arena_free(&r->arena);
    free(r);
}

const char *ck_reader_path(const ck_reader *r) {
    return r->path;
}

size_t ck_reader_skipped(const ck_reader *r) {
    return r->skipped;
}

const char *ck_reader_format(const ck_reader *r) {
    return r->format->name;
}

size_t ck_reader_count(const ck_reader *r) {
    return r->count;
}

const ck_tensor *ck_reader_tensor(const ck_reader *r, size_t i) {
    return &r->tensors[i];
}

const char *ck_tensor_shape_text(const ck_tensor *t, char *buf, size_t size) {
    size_t used = (size_t)snprintf(buf, size, "[");
    for (size_t i = 0; i < t->rank && used < size; i++)
        used += (size_t)snprintf(buf + used, size - used, "%s%llu", i ? "," : "",
                                 (unsigned long long)t->shape[i]);
    if (used < size) snprintf(buf + used, size - used, "]");
    return buf;
}

const ck_meta *ck_reader_metadata(const ck_reader *r, size_t *count) {
    *count = r->meta_count;
    return r->meta;
}

const char *ck_reader_meta(const ck_reader *r, const char *key) {
    for (size_t i = 0; i < r->meta_count; i++)
        if (strcmp(r->meta[i].key, key) == 0) return r->meta[i].value;
    return NULL;
}

ck_status ck_reader_read(const ck_reader *r, const ck_tensor *t, uint64_t begin, void *dst,
                         size_t n, ck_error *err) {
    if (n == 0) return CK_OK;
    return r->format->read(r, t, begin, dst, n, err);
}

ck_status ck_reader__pread(const ck_reader *r, const ck_tensor *t, uint64_t begin, void *dst,
                           size_t n, ck_error *err) {
    if (ck_pread_all(r->fd, dst, n, t->offset + begin, r->path, err) == CK_OK) return CK_OK;
    return ck_context(err, "tensor '%s'", t->name);
}

void ck_reader_will_need(const ck_reader *r, const ck_tensor *t, uint64_t begin, uint64_t n) {
    if (r->fd >= 0) posix_fadvise(r->fd, (off_t)(t->offset + begin), (off_t)n, POSIX_FADV_WILLNEED);
}

ck_status ck_reader__add(ck_reader *r, const char *name, size_t name_len, ck_dtype dtype,
                         size_t rank, const uint64_t *shape, uint64_t offset, ck_error *err) {
    ck_tensor *tensors = ck_grow(r->tensors, r->count, &r->capacity, sizeof *tensors);
    if (!tensors) return ck_fail_memory(err, r->path);
    r->tensors = tensors;
    char *name_copy = ck_arena_strndup(&r->arena, name, name_len);
    uint64_t *shape_copy = ck_arena_alloc(&r->arena, rank * sizeof *shape);
    if (!name_copy || !shape_copy) return ck_fail_memory(err, r->path);
    if (rank) memcpy(shape_copy, shape, rank * sizeof *shape);

    uint64_t elements = 1, bits;
    bool overflow = false;
    for (size_t i = 0; i < rank; i++)
        overflow |= __builtin_mul_overflow(elements, shape[i], &elements);
    overflow |= __builtin_mul_overflow(elements, (uint64_t)ck_dtype_bits(dtype), &bits);
    if (overflow)
        return ck_fail(err, CK_INPUT, "%s: tensor '%s': its shape is too large for any file",
                       r->path, name_copy);
    if (bits % 8)
        return ck_fail(err, CK_INPUT,
                       "%s: tensor '%s': %llu elements of %s are not a whole number of bytes",
                       r->path, name_copy, (unsigned long long)elements, ck_dtype_name(dtype));
    tensors[r->count++] = (ck_tensor){.name = name_copy,
                                      .dtype = dtype,
                                      .rank = rank,
                                      .shape = shape_copy,
                                      .elements = elements,
                                      .nbytes = bits / 8,
                                      .offset = offset};
    return CK_OK;
}

ck_status ck_reader__add_meta(ck_reader *r, const char *key, size_t key_len, const char *value,
                              size_t value_len, ck_error *err) {
    ck_meta *meta = ck_grow(r->meta, r->meta_count, &r->meta_capacity, sizeof *meta);
    if (!meta) return ck_fail_memory(err, r->path);
    r->meta = meta;
    ck_meta entry = {ck_arena_strndup(&r->arena, key, key_len),
                     ck_arena_strndup(&r->arena, value, value_len)};
    if (!entry.key || !entry.value) return ck_fail_memory(err, r->path);
    meta[r->meta_count++] = entry;
    return CK_OK;
}

static int by_offset(const void *a, const void *b) {
    const ck_tensor *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    if (x->nbytes != y->nbytes) return x->nbytes < y->nbytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* FNV-1a over 64 bits, folded. Tables are at most half full, and a header can hold only so many
 * names that collide: the worst case is slow for its author's own file alone. */
static uint64_t hash_name(const char *name) {
    uint64_t h = 0xcbf29ce484222325u;
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 0x100000001b3u;
    return h ^ (h >> 32);
}

/* The slot that holds the name, or the free one where it belongs. */
static size_t find_slot(const ck_reader *r, const char *name) {
    size_t slot = hash_name(name) & r->slot_mask;
    while (r->slots[slot] && strcmp(r->tensors[r->slots[slot] - 1].name, name) != 0)
        slot = (slot + 1) & r->slot_mask;
    return slot;
}

ck_status ck_reader__finish(ck_reader *r, ck_error *err) {
    if (r->count) qsort(r->tensors, r->count, sizeof *r->tensors, by_offset);
    return ck_reader__index(r, err);
}

ck_status ck_reader__index(ck_reader *r, ck_error *err) {
    size_t slots = 4;
    while (slots < r->count * 2) slots *= 2;
    r->slots = ck_alloc_array(slots, sizeof *r->slots);
    if (!r->slots) return ck_fail_memory(err, r->path);
    r->slot_mask = slots - 1;
    for (size_t i = 0; i < r->count; i++) {
        size_t slot = find_slot(r, r->tensors[i].name);
        if (r->slots[slot])
            return ck_fail(err, CK_INPUT, "%s: tensor '%s' is there twice", r->path,
                           r->tensors[i].name);
        r->slots[slot] = (uint32_t)(i + 1);
    }
    return CK_OK;
}

const ck_tensor *ck_reader_find(const ck_reader *r, const char *name) {
    uint32_t number = r->slots[find_slot(r, name)];
    return number ? &r->tensors[number - 1] : NULL;
}
