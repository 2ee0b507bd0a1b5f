/* Any bytes as pickles: run by the machine, strictly and leniently; and as the pickle of an archive
 * with one storage of 16 bytes, of which every tensor must be readable. */
#include "io/pickle.h"
#include "io/reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static ck_error err;

typedef struct memory {
    const uint8_t *data;
    size_t left;
} memory;

static ck_status read_memory(void *context, void *dst, size_t n, size_t *got, ck_error *e) {
    memory *m = context;
    (void)e;
    *got = n < m->left ? n : m->left;
    if (*got) memcpy(dst, m->data, *got);
    m->data += *got;
    m->left -= *got;
    return CK_OK;
}

static void run(const uint8_t *data, size_t n, bool strict) {
    memory m = {data, n};
    ck_pickle_input in = {.read = read_memory, .context = &m, .name = "f"};
    ck_pickle_rules rules = {.strict = strict};
    ck_pickle pickle;
    while (ck_pickle_load(&in, &rules, &pickle, &err) == CK_OK) ck_pickle_free(&pickle);
    if (err.status != CK_INPUT) abort();
}

/* ---- An archive around the pickle ---- */

static unsigned char directory[512];
static size_t directory_size, entry_count;
static uint32_t at;

static void put(unsigned char **p, uint32_t value, int bytes) {
    for (int i = 0; i < bytes; i++) *(*p)++ = (unsigned char)(value >> (8 * i));
}

static void add(int fd, const char *name, const void *data, size_t n) {
    unsigned char local[30] = "PK\3\4", *p = local + 18;
    size_t length = strlen(name);
    put(&p, (uint32_t)n, 4);
    put(&p, (uint32_t)n, 4);
    put(&p, (uint32_t)length, 2);
    if (write(fd, local, 30) != 30 || write(fd, name, length) != (ssize_t)length ||
        write(fd, data, n) != (ssize_t)n)
        abort();
    p = directory + directory_size;
    memset(p, 0, 46);
    memcpy(p, "PK\1\2", 4);
    p += 20;
    put(&p, (uint32_t)n, 4);
    put(&p, (uint32_t)n, 4);
    put(&p, (uint32_t)length, 2);
    p += 12;
    put(&p, at, 4);
    memcpy(p, name, length);
    directory_size += 46 + length;
    entry_count++;
    at += (uint32_t)(30 + length + n);
}

static void finish(int fd) {
    unsigned char end[22] = "PK\5\6", *p = end + 8;
    put(&p, (uint32_t)entry_count, 2);
    put(&p, (uint32_t)entry_count, 2);
    put(&p, (uint32_t)directory_size, 4);
    put(&p, at, 4);
    if (write(fd, directory, directory_size) != (ssize_t)directory_size ||
        write(fd, end, sizeof end) != sizeof end)
        abort();
}

static void read_start(const ck_reader *r, const ck_tensor *t) {
    static unsigned char piece[3000 * 8];
    size_t most = 3000 * (ck_dtype_bits(t->dtype) / 8);
    if (ck_reader_read(r, t, 0, piece, t->nbytes < most ? (size_t)t->nbytes : most, &err) != CK_OK)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    run(data, n, true);
    run(data, n, false);

    static const unsigned char storage[16];
    int fd = memfd_create("fuzz", 0);
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    directory_size = entry_count = at = 0;
    add(fd, "a/data.pkl", data, n);
    add(fd, "a/data/0", storage, sizeof storage);
    finish(fd);
    ck_reader *r;
    if (ck_reader_open(path, &r, &err) == CK_OK) {
        for (size_t i = 0; i < ck_reader_count(r); i++) read_start(r, ck_reader_tensor(r, i));
        ck_reader_close(r);
    } else if (err.status != CK_INPUT || !strstr(err.message, path)) {
        abort();
    }
    close(fd);
    return 0;
}
