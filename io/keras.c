/* Keras' .keras archives: a zip file of metadata.json, config.json and model.weights.h5. The latter
 * is copied to a file without a name and read as HDF5 there. What config.json says of layers, code
 * in it included, is never looked at. */
#include "io/reader_int.h"
#include "io/zip.h"

#include <string.h>
#include <unistd.h>

#define WEIGHTS "model.weights.h5"

/* As for single tensors of HDF5 files: deflated weights hardly get smaller. */
#define BOMB_BYTES ((uint64_t)4 << 30)
enum { BOMB_RATIO = 100 };

/* By the first entry's name. */
static bool probe(const char *path, const unsigned char *head, size_t n, bool is_directory) {
    (void)path;
    static const char *const names[] = {"metadata.json", "config.json", WEIGHTS};
    if (is_directory || n < 30 || memcmp(head, "PK\3\4", 4) != 0) return false;
    size_t length = (size_t)head[26] | (size_t)head[27] << 8;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (length == strlen(names[i]) && length <= n - 30 &&
            memcmp(head + 30, names[i], length) == 0)
            return true;
    return false;
}

static ck_status extract(const ck_reader *r, const ck_zip *zip, int *fd, ck_error *err) {
    const ck_zip_entry *e = ck_zip_find(zip, WEIGHTS);
    if (!e) return ck_fail(err, CK_INPUT, "%s: no " WEIGHTS " in the archive", r->path);
    if (e->size > BOMB_BYTES && e->size / BOMB_RATIO > e->packed)
        return ck_fail(err, CK_INPUT, "%s: " WEIGHTS ": %llu bytes deflated to %llu: a bomb",
                       r->path, (unsigned long long)e->size, (unsigned long long)e->packed);
    CK_TRY(ck_zip_temporary(r->path, fd, err));
    ck_status status = ck_zip_extract(r->fd, r->path, e, *fd, 0, err);
    if (status != CK_OK) close(*fd);
    return status;
}

static ck_status open_keras(ck_reader *r, ck_error *err) {
    ck_zip *zip;
    int fd = -1;
    CK_TRY(ck_zip_open(r->fd, r->path, &zip, err));
    ck_status status = extract(r, zip, &fd, err);
    ck_zip_close(zip);
    if (status != CK_OK) return status;
    close(r->fd);
    r->fd = fd;
    return ck_format_hdf5.open(r, err);
}

static ck_status read_keras(const ck_reader *r, const ck_tensor *t, uint64_t begin, void *dst,
                            size_t n, ck_error *err) {
    return ck_format_hdf5.read(r, t, begin, dst, n, err);
}

static void close_keras(ck_reader *r) {
    if (ck_format_hdf5.close) ck_format_hdf5.close(r);
}

const ck_format ck_format_keras = {
    .name = "Keras",
    .probe = probe,
    .open = open_keras,
    .read = read_keras,
    .close = close_keras,
};
