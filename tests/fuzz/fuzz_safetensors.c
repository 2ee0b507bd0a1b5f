/* libFuzzer: any bytes as a safetensors file must open or be refused, nothing else. */
#include "io/reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    int fd = memfd_create("x.safetensors", 0);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n) abort();
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ck_reader *r;
    ck_error err;
    if (ck_reader_open(path, &r, &err) == CK_OK) {
        /* What was accepted can be found and read to its last byte. */
        for (size_t i = 0; i < ck_reader_count(r); i++) {
            const ck_tensor *t = ck_reader_tensor(r, i);
            char byte[8];
            size_t size = ck_dtype_bits(t->dtype) / 8 ? ck_dtype_bits(t->dtype) / 8 : 1;
            if (ck_reader_find(r, t->name) != t) abort();
            if (t->nbytes >= size &&
                ck_reader_read(r, t, t->nbytes - size, byte, size, &err) != CK_OK)
                abort();
        }
        ck_reader_close(r);
    }
    close(fd);
    return 0;
}
