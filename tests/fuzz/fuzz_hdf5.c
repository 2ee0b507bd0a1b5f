/* Any bytes as an HDF5 file, or as a .keras archive with one in it. libhdf5 itself crashes on some
 * of them: this finds out whether its process contains that, and whether what it says about a
 * damaged file is checked. A process is started for every input, so this is slow; seeds matter more
 * than time.
 *
 * What cannot be found here: faults within the helper's process, libhdf5's or ours, which all end
 * as an error of the reader, as they should. */
#include "io/reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void read_start(const ck_reader *r, const ck_tensor *t) {
    unsigned char piece[4096];
    ck_error err;
    ck_reader_read(r, t, 0, piece, t->nbytes < sizeof piece ? t->nbytes : sizeof piece, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    int fd = memfd_create("fuzz.h5", 0);
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n) abort();
    ck_reader *r;
    ck_error err;
    if (ck_reader_open(path, &r, &err) == CK_OK) {
        for (size_t i = 0; i < ck_reader_count(r); i++) read_start(r, ck_reader_tensor(r, i));
        ck_reader_close(r);
    } else if (!strstr(err.message, path)) {
        abort();
    }
    close(fd);
    return 0;
}
