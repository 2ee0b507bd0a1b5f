/* What a container format implements: one file and one row in the table of reader.c.
 *
 * open() gets a reader whose path is set (and fd, for a file); it adds tensors and metadata with
 * the functions below, then calls ck_reader__finish(). Its own state is in r->state, which close()
 * releases, also after a failed open().
 */
#ifndef CK_READER_INT_H
#define CK_READER_INT_H

#include "io/arena.h"
#include "io/reader.h"

#include <stdbool.h>

typedef struct ck_format {
    const char *name;
    /* head: the first n bytes of the file (n <= 512); none for a directory. */
    bool (*probe)(const char *path, const unsigned char *head, size_t n, bool is_directory);
    ck_status (*open)(ck_reader *r, ck_error *err);
    ck_status (*read)(const ck_reader *r, const ck_tensor *t, uint64_t begin, void *dst, size_t n,
                      ck_error *err);
    void (*close)(ck_reader *r);
} ck_format;

struct ck_reader {
    const ck_format *format;
    char *path;
    ck_tensor *tensors;
    size_t count, capacity;
    uint32_t *slots; /* open-addressing index: tensor number + 1, 0 is free; power of two */
    size_t slot_mask;
    ck_meta *meta;
    size_t meta_count, meta_capacity;
    ck_arena arena; /* names, shapes, metadata */
    size_t skipped; /* see ck_reader_skipped */
    int fd;      /* of a single-file format; -1 where there is none. Closed by ck_reader_close. */
    void *state; /* the format's own */
};

/* Adds a tensor; name[name_len] and shape are copied. nbytes and elements are computed here from
 * dtype and shape with every product checked (CK_INPUT on overflow or a size that is not whole
 * bytes). The tensor's number is r->count - 1 afterwards. */
ck_status ck_reader__add(ck_reader *r, const char *name, size_t name_len, ck_dtype dtype,
                         size_t rank, const uint64_t *shape, uint64_t offset, ck_error *err);

/* Adds a metadata entry; key and value are copied. */
ck_status ck_reader__add_meta(ck_reader *r, const char *key, size_t key_len, const char *value,
                              size_t value_len, ck_error *err);

/* Sorts by offset (then name), builds the index, refuses duplicate names. */
ck_status ck_reader__finish(ck_reader *r, ck_error *err);

/* The same without sorting: for formats where the order of the tensors means something. */
ck_status ck_reader__index(ck_reader *r, ck_error *err);

/* The read() of formats whose data lie packed at t->offset of r->fd. */
ck_status ck_reader__pread(const ck_reader *r, const ck_tensor *t, uint64_t begin, void *dst,
                           size_t n, ck_error *err);

extern const ck_format ck_format_safetensors;
extern const ck_format ck_format_gguf;
extern const ck_format ck_format_ckpt;
extern const ck_format ck_format_hdf5;
extern const ck_format ck_format_keras;
extern const ck_format ck_format_sharded;
extern const ck_format ck_format_diffusers;

#endif
