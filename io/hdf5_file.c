/* A file driver for libhdf5 on io/os.h, see hdf5_file.h. */
#ifdef CK_HAVE_HDF5

#include "io/hdf5_file.h"
#include "io/os.h"

#if H5_VERSION_GE(1, 13, 2)
#include <H5FDdevelop.h>
#endif

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- The driver ---- */

/* The library's view of an open file. */
typedef struct driver_file {
    H5FD_t public;
    ck_hdf5_file *file;
    haddr_t used, size; /* the end of what the library has given out, of what is in the file */
} driver_file;

static H5FD_t *driver_open(const char *name, unsigned flags, hid_t access, haddr_t max) {
    (void)name, (void)flags, (void)max;
    ck_hdf5_file *const *file = H5Pget_driver_info(access);
    struct stat st;
    if (!file || fstat((*file)->fd, &st) != 0) return NULL;
    driver_file *d = ck_alloc(sizeof *d);
    if (!d) return NULL;
    d->file = *file;
    d->size = (haddr_t)st.st_size;
    return &d->public;
}

static herr_t driver_close(H5FD_t *f) {
    free(f);
    return 0;
}

static herr_t driver_query(const H5FD_t *f, unsigned long *flags) {
    (void)f;
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
             H5FD_FEAT_AGGREGATE_SMALLDATA;
    return 0;
}

static haddr_t driver_get_eoa(const H5FD_t *f, H5FD_mem_t type) {
    (void)type;
    return ((const driver_file *)f)->used;
}

static herr_t driver_set_eoa(H5FD_t *f, H5FD_mem_t type, haddr_t end) {
    (void)type;
    ((driver_file *)f)->used = end;
    return 0;
}

static haddr_t driver_get_eof(const H5FD_t *f, H5FD_mem_t type) {
    (void)type;
    return ((const driver_file *)f)->size;
}

static herr_t driver_read(H5FD_t *f, H5FD_mem_t type, hid_t transfer, haddr_t at, size_t n,
                          void *out) {
    (void)type, (void)transfer;
    driver_file *d = (driver_file *)f;
    size_t there = at >= d->size ? 0 : n < d->size - at ? n : (size_t)(d->size - at);
    /* Beyond the end of the file is zero, until it is written. */
    memset((char *)out + there, 0, n - there);
    ck_error *failed = &d->file->failed, again;
    ck_status status = ck_pread_all(d->file->fd, out, there, at, d->file->path,
                                    failed->status == CK_OK ? failed : &again);
    return status == CK_OK ? 0 : -1;
}

/* Never fails, as far as the library can see: it could not go on. */
static herr_t driver_write(H5FD_t *f, H5FD_mem_t type, hid_t transfer, haddr_t at, size_t n,
                           const void *data) {
    (void)type, (void)transfer;
    driver_file *d = (driver_file *)f;
    ck_error *failed = &d->file->failed;
    if (failed->status == CK_OK) ck_pwrite_all(d->file->fd, data, n, at, d->file->path, failed);
    if (at + n > d->size) d->size = at + n;
    if (at + n > d->file->written) d->file->written = at + n;
    return 0;
}

static herr_t driver_truncate(H5FD_t *f, hid_t transfer, hbool_t closing) {
    (void)transfer, (void)closing;
    driver_file *d = (driver_file *)f;
    ck_error *failed = &d->file->failed;
    if (failed->status == CK_OK && d->size != d->used &&
        ck_os.ftruncate(d->file->fd, (off_t)d->used) != 0)
        ck_fail_errno(failed, "%s: cannot set its size", d->file->path);
    d->size = d->used;
    return 0;
}

static const H5FD_class_t driver = {
#if H5_VERSION_GE(1, 13, 2)
    .version = H5FD_CLASS_VERSION,
    .value = (H5FD_class_value_t)300, /* of those that are free to use */
#endif
    .name = "ck",
    .maxaddr = INT64_MAX,
    .fc_degree = H5F_CLOSE_STRONG,
    .fapl_size = sizeof(ck_hdf5_file *),
    .open = driver_open,
    .close = driver_close,
    .query = driver_query,
    .get_eoa = driver_get_eoa,
    .set_eoa = driver_set_eoa,
    .get_eof = driver_get_eof,
    .read = driver_read,
    .write = driver_write,
    .truncate = driver_truncate,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

/* ---- Threads ---- */

static pthread_mutex_t library = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

void ck_hdf5_lock(void) {
    pthread_mutex_lock(&library);
}

void ck_hdf5_unlock(void) {
    pthread_mutex_unlock(&library);
}

/* ---- Failures ---- */

/* Takes the innermost. */
static herr_t first_reason(unsigned n, const H5E_error2_t *e, void *text) {
    (void)n;
    snprintf(text, 300, "%s", e->desc);
    return 1;
}

bool ck_hdf5_ok(const ck_hdf5_file *f, int64_t result) {
    return result >= 0 && f->failed.status == CK_OK;
}

ck_status ck_hdf5_fail(const ck_hdf5_file *f, ck_status status, const char *what, ck_error *err) {
    if (f->failed.status != CK_OK) {
        *err = f->failed;
        return err->status;
    }
    char reason[300] = "the HDF5 library gives no reason";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, first_reason, reason);
    return ck_fail(err, status, "%s: %s: %s", f->path, what, reason);
}

/* ---- Opening and closing ---- */

/* Opens the library's side of f->fd. */
static void open_id(ck_hdf5_file *f, size_t metadata) {
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), how = H5Pcreate(H5P_FILE_CREATE);
    f->driver = H5FDregister(&driver);
    H5Pset_driver(access, f->driver, &f);
    H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
    /* The library's own records have checksums only in its newer forms. */
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_LATEST);
    H5Pset_obj_track_times(how, 0);
    if (metadata) {
        H5Pset_meta_block_size(access, metadata);
        H5Pset_small_data_block_size(access, 0);
    }
    f->id = f->writes ? H5Fcreate(f->path, H5F_ACC_TRUNC, how, access)
                      : H5Fopen(f->path, H5F_ACC_RDONLY, access);
    hid_t reason = f->id < 0 ? H5Eget_current_stack() : -1; /* closing would clear it */
    H5Pclose(how);
    H5Pclose(access);
    if (reason >= 0) H5Eset_current_stack(reason);
}

/* Opens the library's side of f, whose fd is open. */
static ck_status start(ck_hdf5_file *f, size_t metadata, ck_error *err) {
    /* What it loses when a file is damaged keeps it from tidying up at the end of the process,
     * which is of no use to anybody. */
    H5dont_atexit();
    H5Eget_auto2(H5E_DEFAULT, &f->print_error, &f->print_context);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    open_id(f, metadata);
    if (ck_hdf5_ok(f, f->id)) return CK_OK;
    ck_status status = ck_hdf5_fail(f, CK_INPUT, "cannot be opened as HDF5", err);
    ck_error closing;
    ck_hdf5_close(f, &closing);
    return status;
}

static ck_status start_path(const char *path, bool writes, ck_hdf5_file *f, ck_error *err) {
    *f = (ck_hdf5_file){.path = path, .writes = writes, .id = -1};
    f->fd = ck_os.open(path, writes ? O_RDWR | O_CREAT | O_TRUNC : O_RDONLY, 0666);
    return f->fd < 0 ? ck_fail_errno(err, "%s: open", path) : start(f, 0, err);
}

ck_status ck_hdf5_create(const char *path, ck_hdf5_file *f, ck_error *err) {
    return start_path(path, true, f, err);
}

ck_status ck_hdf5_create_on(int fd, const char *label, size_t metadata, ck_hdf5_file *f,
                            ck_error *err) {
    *f = (ck_hdf5_file){.path = label, .writes = true, .borrowed_fd = true, .id = -1, .fd = fd};
    return start(f, metadata, err);
}

ck_status ck_hdf5_open(const char *path, ck_hdf5_file *f, ck_error *err) {
    return start_path(path, false, f, err);
}

ck_status ck_hdf5_open_on(int fd, const char *label, ck_hdf5_file *f, ck_error *err) {
    *f = (ck_hdf5_file){.path = label, .borrowed_fd = true, .id = -1, .fd = fd};
    return start(f, 0, err);
}

ck_status ck_hdf5_close(ck_hdf5_file *f, ck_error *err) {
    ck_status status = CK_OK;
    if (!ck_hdf5_ok(f, f->id >= 0 ? H5Fclose(f->id) : 0))
        status = ck_hdf5_fail(f, CK_IO, "cannot be closed", err);
    if (status == CK_OK && f->writes && !f->borrowed_fd && ck_os.fsync(f->fd) != 0)
        status = ck_fail_errno(err, "%s: sync to disk", f->path);
    H5FDunregister(f->driver);
    if (!f->borrowed_fd) close(f->fd);
    H5Eset_auto2(H5E_DEFAULT, f->print_error, f->print_context);
    return status;
}

#endif
