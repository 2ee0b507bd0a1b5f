/* Checkpoints as lists of named tensors, whatever the container.
 *
 *   ck_reader *r;
 *   CK_TRY(ck_reader_open("model.safetensors", &r, err));
 *   for (size_t i = 0; i < ck_reader_count(r); i++) {
 *       const ck_tensor *t = ck_reader_tensor(r, i);
 *       CK_TRY(ck_reader_read(r, t, 0, buffer, t->nbytes, err));
 *   }
 *   ck_reader_close(r);
 *
 * Opening reads and checks the whole header; tensor data is read only when asked for. Reads are
 * positional and may come from several threads at once. The format is found from the content, not
 * from the file's name.
 */
#ifndef CK_READER_H
#define CK_READER_H

#include "io/error.h"
#include "kernels/dtype.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ck_reader ck_reader;

typedef struct ck_tensor {
    const char *name; /* UTF-8, without NUL, owned by the reader */
    ck_dtype dtype;
    size_t rank;
    const uint64_t *shape; /* rank dimensions, outermost first; owned by the reader */
    uint64_t elements;     /* product of shape; 1 for a scalar */
    uint64_t nbytes;       /* of the packed little-endian C-order data */
    uint64_t offset;       /* where the data lie in the file, for messages and read-ahead */
} ck_tensor;

/* One entry of a header's metadata. */
typedef struct ck_meta {
    const char *key;
    const char *value;
} ck_meta;

/* Opens a checkpoint and checks everything but the tensors' values. On success *r is owned by the
 * caller. CK_INPUT: malformed, with file, tensor and offset in the message; CK_IO; CK_MEMORY. */
ck_status ck_reader_open(const char *path, ck_reader **r, ck_error *err);
void ck_reader_close(ck_reader *r); /* NULL is allowed */

const char *ck_reader_path(const ck_reader *r);
const char *ck_reader_format(const ck_reader *r); /* "safetensors", ... */

/* Tensors in the order of their data in the file; HDF5: in the order that the file gives its
 * weights or, without one, by name. */
size_t ck_reader_count(const ck_reader *r);
const ck_tensor *ck_reader_tensor(const ck_reader *r, size_t i);

/* "[2,3]" to buf (cut off if too small). Returns buf. */
const char *ck_tensor_shape_text(const ck_tensor *t, char *buf, size_t size);

/* By name, in constant time; NULL if there is none. */
const ck_tensor *ck_reader_find(const ck_reader *r, const char *name);

/* Metadata in the order of the file; *count may be 0. */
const ck_meta *ck_reader_metadata(const ck_reader *r, size_t *count);
/* NULL if the key is not there. */
const char *ck_reader_meta(const ck_reader *r, const char *key);

/* How many entries beside its tensors the file has that are left out: epochs, optimiser states and
 * the like (.ckpt), strings and compounds (HDF5). */
size_t ck_reader_skipped(const ck_reader *r);

/* Copies n bytes of t's data, starting at byte begin of it, to dst. begin and n must be multiples
 * of the element size and lie within the tensor. Thread-safe. */
ck_status ck_reader_read(const ck_reader *r, const ck_tensor *t, uint64_t begin, void *dst,
                         size_t n, ck_error *err);

/* Tells the system that these bytes of t will be read soon. */
void ck_reader_will_need(const ck_reader *r, const ck_tensor *t, uint64_t begin, uint64_t n);

#endif
