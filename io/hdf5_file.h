/* HDF5 files of our own, on disks that may fail. libhdf5 cannot bear a write that fails: after a
 * full disk, closing the file fails too, and the end of the process loops or crashes. So here the
 * library believes that every write was good, and the file knows better.
 *
 *   ck_hdf5_file f;
 *   CK_TRY(ck_hdf5_create("state.h5", &f, err));
 *   hid_t set = H5Dcreate2(f.id, ...);
 *   if (!ck_hdf5_ok(&f, H5Dwrite(set, ...))) status = ck_hdf5_fail(&f, CK_IO, "adam.m", err);
 *   ck_status closed = ck_hdf5_close(&f, &other);           also says what failed before it
 *
 * All bytes go through io/os.h. Whatever is open in the file is closed with it. One thread at a
 * time; the library prints nothing while a file is open. Only for files that are known to be what
 * was written: others are read in a process of its own (io/hdf5.c). Without HDF5 in the build there
 * is none of this.
 */
#ifndef CK_HDF5_FILE_H
#define CK_HDF5_FILE_H
#ifdef CK_HAVE_HDF5

/* One interface for all versions from 1.10 on. */
#define H5_USE_110_API
#include <hdf5.h>

#include "io/error.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct ck_hdf5_file {
    hid_t id;
    /* Private: */
    const char *path;
    int fd;
    hid_t driver; /* must live as long as id */
    bool writes, borrowed_fd;
    uint64_t written;        /* the end of what the library has written */
    ck_error failed;         /* the first failure of the disk; status CK_OK: none */
    H5E_auto2_t print_error; /* what the library did with its errors before */
    void *print_context;
} ck_hdf5_file;

/* The library is not made for threads: whoever uses it, from create or open on to close, and every
 * time in between when the file stays open longer, does so between these two. May be nested. */
void ck_hdf5_lock(void);
void ck_hdf5_unlock(void);

/* A new file, in the place of one that may be there. path is borrowed and f stays where it is until
 * it is closed. */
ck_status ck_hdf5_create(const char *path, ck_hdf5_file *f, ck_error *err);

/* The same in a file that is open already, empty, and stays the caller's: label is its name in
 * messages. The library's own records go to the first `metadata` bytes while they have room
 * there. */
ck_status ck_hdf5_create_on(int fd, const char *label, size_t metadata, ck_hdf5_file *f,
                            ck_error *err);

/* For reading. */
ck_status ck_hdf5_open(const char *path, ck_hdf5_file *f, ck_error *err);
ck_status ck_hdf5_open_on(int fd, const char *label, ck_hdf5_file *f, ck_error *err);

/* Whether a call of the library was good (not negative), and so was the disk until now. */
bool ck_hdf5_ok(const ck_hdf5_file *f, int64_t result);

/* The disk's failure or, when it has none, status and the library's reason: "FILE: what: reason".
 * To be called right after what failed: the next call of the library forgets it. */
ck_status ck_hdf5_fail(const ck_hdf5_file *f, ck_status status, const char *what, ck_error *err);

/* Closes it; what was written is on the disk after that. Fails when anything was not. */
ck_status ck_hdf5_close(ck_hdf5_file *f, ck_error *err);

#endif
#endif
