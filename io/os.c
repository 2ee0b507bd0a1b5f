/* The real operating system behind os.h. */
#include "io/os.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int os_open(const char *path, int flags, mode_t mode) {
    return open(path, flags | O_CLOEXEC, mode);
}

static int os_fallocate(int fd, off_t size) {
    return fallocate(fd, 0, 0, size);
}

static int os_link(const char *from, const char *to) {
    return linkat(AT_FDCWD, from, AT_FDCWD, to, AT_SYMLINK_FOLLOW);
}

static int os_rename(const char *from, const char *to, unsigned flags) {
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, flags);
}

struct ck_os ck_os = {
    .calloc = calloc,
    .realloc = realloc,
    .open = os_open,
    .pread = pread,
    .pwrite = pwrite,
    .fallocate = os_fallocate,
    .ftruncate = ftruncate,
    .fsync = fsync,
    .link = os_link,
    .rename = os_rename,
};

void *ck_alloc(size_t n) {
    return ck_os.calloc(n ? n : 1, 1);
}

void *ck_alloc_array(size_t count, size_t size) {
    return ck_os.calloc(count ? count : 1, size);
}

void *ck_grow(void *array, size_t count, size_t *capacity, size_t size) {
    if (count < *capacity) return array;
    size_t wanted = *capacity ? *capacity * 2 : 16;
    if (wanted > SIZE_MAX / size) return NULL;
    void *moved = ck_os.realloc(array, wanted * size);
    if (moved) *capacity = wanted;
    return moved;
}

char *ck_strndup(const char *s, size_t n) {
    char *copy = ck_alloc(n + 1);
    if (copy) memcpy(copy, s, n);
    return copy;
}

char *ck_strdup(const char *s) {
    return ck_strndup(s, strlen(s));
}

char *ck_sprintf(const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = n < 0 ? NULL : ck_alloc((size_t)n + 1);
    if (!text) return NULL;
    va_start(args, format);
    vsnprintf(text, (size_t)n + 1, format, args);
    va_end(args);
    return text;
}

enum { HUGE_PAGE = 2 << 20 };

void *ck_alloc_pages(size_t n) {
    /* Through the seam, so that its failure can be tested; the spare page is for the alignment. */
    size_t rounded = (n + CK_PAGE - 1) / CK_PAGE * CK_PAGE;
    void *probe = ck_os.calloc(1, 1);
    if (!probe) return NULL;
    free(probe);
    if (rounded < HUGE_PAGE) return aligned_alloc(CK_PAGE, rounded ? rounded : CK_PAGE);
    /* In pages of 2 MiB, where the system has them: far fewer translations to look up. What does
     * not fill one is in small ones, or much of a model's memory would be such remainders. */
    void *p;
    if (posix_memalign(&p, HUGE_PAGE, rounded) != 0) return NULL;
    madvise(p, rounded / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    return p;
}

ck_status ck_pread_all(int fd, void *buf, size_t n, uint64_t offset, const char *path,
                       ck_error *err) {
    char *p = buf;
    while (n > 0) {
        ssize_t got = ck_os.pread(fd, p, n, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return ck_fail_errno(err, "%s: read at offset %llu", path, (unsigned long long)offset);
        if (got == 0)
            return ck_fail(err, CK_INPUT, "%s: the file ends at offset %llu, %zu bytes too early",
                           path, (unsigned long long)offset, n);
        p += got;
        offset += (uint64_t)got;
        n -= (size_t)got;
    }
    return CK_OK;
}

ck_status ck_pwrite_all(int fd, const void *buf, size_t n, uint64_t offset, const char *path,
                        ck_error *err) {
    const char *p = buf;
    while (n > 0) {
        ssize_t put = ck_os.pwrite(fd, p, n, (off_t)offset);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0)
            return ck_fail_errno(err, "%s: write at offset %llu", path, (unsigned long long)offset);
        p += put;
        offset += (uint64_t)put;
        n -= (size_t)put;
    }
    return CK_OK;
}

ck_status ck_read_file(const char *path, size_t limit, char **text, size_t *n, ck_error *err) {
    int fd = ck_os.open(path, O_RDONLY, 0);
    if (fd < 0) return ck_fail_errno(err, "%s: open", path);
    struct stat st;
    ck_status status = CK_OK;
    char *buf = NULL;
    if (fstat(fd, &st) != 0)
        status = ck_fail_errno(err, "%s: stat", path);
    else if (!S_ISREG(st.st_mode))
        status = ck_fail(err, CK_INPUT, "%s: not a regular file", path);
    else if ((uint64_t)st.st_size > limit)
        status =
            ck_fail(err, CK_INPUT, "%s: %llu bytes, more than the %zu that such a file may have",
                    path, (unsigned long long)st.st_size, limit);
    else if (!(buf = ck_alloc((size_t)st.st_size + 1)))
        status = ck_fail_memory(err, path);
    else
        status = ck_pread_all(fd, buf, (size_t)st.st_size, 0, path, err);
    close(fd);
    if (status != CK_OK) {
        free(buf);
        return status;
    }
    *text = buf;
    *n = (size_t)st.st_size;
    return CK_OK;
}

uint64_t ck_proc_bytes(const char *path, const char *word) {
    char line[256];
    uint64_t kib = 0;
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, word, strlen(word)) == 0) kib = strtoull(line + strlen(word), NULL, 10);
    if (f) fclose(f);
    return kib * 1024;
}

double ck_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
