/* libFuzzer: any bytes as the index of a sharded checkpoint, beside two files it may name: "a" with
 * the tensors x and y, "b" with z. */
#include "io/reader.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static char folder[] = "/tmp/ck-fuzz-XXXXXX";

static void write_file(const char *name, const void *data, size_t n) {
    char path[64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n) abort();
    close(fd);
}

static void write_tensors(const char *name, const char *header) {
    char file[512] = {(char)strlen(header)};
    memcpy(file + 8, header, strlen(header));
    write_file(name, file, 8 + strlen(header) + 2);
}

static void clean_up(void) {
    static const char *const names[] = {"a", "b", "index"};
    char path[64];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

static void prepare(void) {
    if (!mkdtemp(folder)) abort();
    atexit(clean_up);
    write_tensors("a", "{\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                       "\"y\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}");
    write_tensors("b", "{\"z\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[0,2]}}");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static bool prepared;
    if (!prepared) prepare();
    prepared = true;
    write_file("index", data, n);
    char path[64];
    snprintf(path, sizeof path, "%s/index", folder);
    ck_reader *r;
    ck_error err;
    if (ck_reader_open(path, &r, &err) != CK_OK) return 0;
    for (size_t i = 0; i < ck_reader_count(r); i++) {
        const ck_tensor *t = ck_reader_tensor(r, i);
        char value[16];
        if (ck_reader_find(r, t->name) != t || t->nbytes > sizeof value ||
            ck_reader_read(r, t, 0, value, t->nbytes, &err) != CK_OK)
            abort();
    }
    ck_reader_close(r);
    return 0;
}
