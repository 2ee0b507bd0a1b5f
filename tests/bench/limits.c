/* What the machine can do, as a yardstick: seconds to read both files from the page cache, and to
 * write as much as one of them with direct I/O.
 *
 *   limits A B OUT THREADS
 */
#include "io/os.h"
#include "io/writer.h"

#include <fcntl.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CHUNK = 4 << 20, READ = 128 << 10 };

static double read_all(const char *path, int threads) {
    int fd = open(path, O_RDONLY);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0) return -1;
    double start = ck_seconds();
#pragma omp parallel num_threads(threads)
    {
        char *buffer = malloc(READ);
#pragma omp for schedule(dynamic, 64)
        for (off_t at = 0; at < st.st_size; at += READ)
            if (pread(fd, buffer, READ, at) < 0) abort();
        free(buffer);
    }
    close(fd);
    return ck_seconds() - start;
}

static double write_all(const char *path, uint64_t size, int threads) {
    ck_writer *w;
    ck_error err;
    double start = ck_seconds();
    if (ck_writer_create(path, size, true, &w, &err) != CK_OK) return -1;
#pragma omp parallel num_threads(threads)
    {
        char *pages = ck_alloc_pages(CHUNK);
        memset(pages, 1, CHUNK);
#pragma omp for schedule(dynamic, 1)
        for (uint64_t at = 0; at < size; at += CHUNK)
            if (ck_writer_write(w, at, pages, size - at < CHUNK ? size - at : CHUNK, &err) != CK_OK)
                abort();
        free(pages);
    }
    if (ck_writer_commit(w, &err) != CK_OK) return -1;
    return ck_seconds() - start;
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    struct stat st;
    int threads = atoi(argv[4]);
    if (stat(argv[1], &st) != 0) return 1;
    double reading = read_all(argv[1], threads) + read_all(argv[2], threads);
    printf("%.3f %.3f\n", reading, write_all(argv[3], (uint64_t)st.st_size, threads + 4));
    return 0;
}
