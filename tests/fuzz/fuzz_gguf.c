/* Any bytes as a GGUF file: opened and, where that succeeds, read whole in pieces that do not fit
 * the blocks. */
#include "io/reader.h"

#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void read_tensor(const ck_reader *r, const ck_tensor *t) {
    static unsigned char piece[3000 * 8];
    size_t step = 3000 * (ck_dtype_bits(t->dtype) / 8);
    ck_error err;
    for (uint64_t at = 0; at < t->nbytes; at += step) {
        uint64_t left = t->nbytes - at;
        /* What lies within the file can be read. */
        if (ck_reader_read(r, t, at, piece, left < step ? left : step, &err) != CK_OK) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    int fd = memfd_create("fuzz.gguf", 0);
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n) abort();
    ck_reader *r;
    ck_error err;
    if (ck_reader_open(path, &r, &err) == CK_OK) {
        for (size_t i = 0; i < ck_reader_count(r); i++) read_tensor(r, ck_reader_tensor(r, i));
        ck_reader_close(r);
    } else if (!strstr(err.message, path)) {
        abort();
    }
    close(fd);
    return 0;
}
