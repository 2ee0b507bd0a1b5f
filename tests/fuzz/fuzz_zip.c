/* Any bytes as a file: as a zip archive, whose entries are streamed; as a checkpoint, which is
 * read; and looked through by the scan. */
#include "io/reader.h"
#include "io/scan.h"
#include "io/zip.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { MOST = 1 << 20 }; /* of an entry or a tensor: they may be much larger than the file */

static ck_error err;

static void stream(int fd, const char *path, const ck_zip_entry *e) {
    static unsigned char piece[3001];
    ck_zip_stream *s;
    size_t got = 1;
    if (ck_zip_stream_open(fd, path, e, &s, &err) != CK_OK) abort();
    for (uint64_t done = 0; got > 0 && done < MOST; done += got) {
        if (ck_zip_stream_read(s, piece, sizeof piece, &got, &err) != CK_OK) break;
        if (done + got > e->size) abort();
    }
    ck_zip_stream_close(s);
}

static void read_tensor(const ck_reader *r, const ck_tensor *t) {
    static unsigned char piece[3000 * 8];
    size_t step = 3000 * (ck_dtype_bits(t->dtype) / 8);
    for (uint64_t at = 0; at < t->nbytes && at < MOST; at += step) {
        uint64_t left = t->nbytes - at;
        ck_reader_read(r, t, at, piece, left < step ? (size_t)left : step, &err);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    int fd = memfd_create("fuzz", 0);
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n) abort();

    ck_zip *zip;
    if (ck_zip_open(fd, path, &zip, &err) == CK_OK) {
        for (size_t i = 0; i < ck_zip_count(zip); i++) stream(fd, path, ck_zip_at(zip, i));
        ck_zip_close(zip);
    } else if (!strstr(err.message, path)) {
        abort();
    }
    ck_reader *r;
    if (ck_reader_open(path, &r, &err) == CK_OK) {
        for (size_t i = 0; i < ck_reader_count(r); i++) read_tensor(r, ck_reader_tensor(r, i));
        ck_reader_close(r);
    } else if (!strstr(err.message, path)) {
        abort();
    }
    ck_scan scan;
    if (ck_scan_file(path, &scan, &err) != CK_OK) abort();
    ck_scan_free(&scan);
    close(fd);
    return 0;
}
