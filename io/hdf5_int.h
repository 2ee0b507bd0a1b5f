/* HDF5 files are read through libhdf5, which was not made for hostile files: damaged ones make it
 * crash, loop, write beyond its memory and allocate without bound. So it runs in a helper, a forked
 * process that can do little but read the file, with limits on memory and time, and a crash becomes
 * an error. (Under sanitizers the limits on memory and system calls are off.) What such a file can
 * still do is lie about its own tensors. Reader (hdf5.c) and helper (hdf5_helper.c) talk over a
 * pair of sockets:
 *
 *   1. the helper lists the file: items up to CK_HDF5_END or CK_HDF5_ERROR;
 *   2. it ends, unless there is a tensor that only libhdf5 can read (chunked, compressed,
 *      big-endian); then it answers requests with replies until the reader kills it.
 *
 * The reader believes nothing of what the helper says before it has checked it.
 */
#ifndef CK_HDF5_INT_H
#define CK_HDF5_INT_H

#include "io/error.h"
#include "kernels/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CK_HDF5_MAX_RANK = 32, /* as in libhdf5 */
    CK_HDF5_MAX_NAME = 4096,
    CK_HDF5_MAX_TEXT = 16 << 20,
    CK_HDF5_CPU_SECONDS = 4, /* of processor time, for listing the file and for each reply */
};

enum ck_hdf5_kind { CK_HDF5_TENSOR, CK_HDF5_META, CK_HDF5_END, CK_HDF5_ERROR };

/* Metadata of datasets that are left out: this, the name, and why. */
#define CK_HDF5_SKIPPED "hdf5.skipped."

/* Followed by name_size and value_size bytes. Tensors come in the reader's order. */
typedef struct ck_hdf5_item {
    uint32_t kind;   /* of enum ck_hdf5_kind */
    uint32_t status; /* ERROR: a ck_status */
    uint32_t name_size;
    uint32_t value_size; /* META: its value; ERROR: the message */
    uint32_t dtype;
    uint32_t rank;
    uint32_t served; /* TENSOR: to be asked of the helper; else the data lie packed at offset */
    uint64_t offset;
    uint64_t shape[CK_HDF5_MAX_RANK];
} ck_hdf5_item;

/* For elements [begin, begin + count) of a tensor, by its number in the list. */
typedef struct ck_hdf5_request {
    uint64_t tensor, begin, count;
} ck_hdf5_request;

/* One or more answer a request, until all bytes are there or one has another status than CK_OK.
 * Followed by size bytes: data or a message. */
typedef struct ck_hdf5_reply {
    uint32_t status;
    uint32_t size;
} ck_hdf5_reply;

/* Types that HDF5 does not have are stored as unsigned integers (or, by others, as opaque bytes)
 * with their name in an attribute "dtype" of the dataset: numpy's name, "bfloat16"; NULL for types
 * that HDF5 has, and for those of which no file is known. */
const char *ck_hdf5__type_name(ck_dtype dtype);

/* All n bytes, or false: the other side is gone. */
bool ck_hdf5__send(int fd, const void *data, size_t n);
bool ck_hdf5__receive(int fd, void *data, size_t n);

/* The helper's whole life, in the forked process. fd is the file, path its name for messages. */
_Noreturn void ck_hdf5__help(int fd, const char *path, int peer);

#endif
