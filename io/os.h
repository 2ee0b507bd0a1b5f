/* The one seam between us and the operating system: every allocation and every file operation of
 * the library goes through here, so that tests can make the N-th one fail.
 *
 *   char *p = ck_alloc(n);               zeroed, NULL when out of memory
 *   CK_TRY(ck_pread_all(fd, p, n, offset, path, err));
 *
 * Tests replace members of ck_os; nothing else may.
 */
#ifndef CK_OS_H
#define CK_OS_H

#include "io/error.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct ck_os {
    void *(*calloc)(size_t count, size_t size);
    void *(*realloc)(void *p, size_t size);
    int (*open)(const char *path, int flags, mode_t mode);
    ssize_t (*pread)(int fd, void *buf, size_t n, off_t offset);
    ssize_t (*pwrite)(int fd, const void *buf, size_t n, off_t offset);
    int (*fallocate)(int fd, off_t size);
    int (*ftruncate)(int fd, off_t size);
    int (*fsync)(int fd);
    int (*link)(const char *from, const char *to); /* follows /proc/self/fd links */
    int (*rename)(const char *from, const char *to, unsigned flags); /* RENAME_NOREPLACE or 0 */
};
extern struct ck_os ck_os;

/* n zeroed bytes, to be released with free(); NULL when there is no memory (n 0 gives one byte). */
void *ck_alloc(size_t n);

/* count * size zeroed bytes; NULL also when the product overflows. */
void *ck_alloc_array(size_t count, size_t size);

/* Makes room for one more element in a growing array: doubles *capacity when *count reaches it.
 * Returns the array (perhaps moved) or NULL, the old one then being untouched. */
void *ck_grow(void *array, size_t count, size_t *capacity, size_t size);

/* A copy to be released with free(), or NULL. */
char *ck_strdup(const char *s);
char *ck_strndup(const char *s, size_t n);

/* printf into fresh memory, to be released with free(); NULL when out of memory. */
char *ck_sprintf(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Memory aligned for direct I/O and SIMD (CK_PAGE), released with free(). */
enum { CK_PAGE = 4096 };
void *ck_alloc_pages(size_t n);

/* Reads exactly n bytes at offset; a short file is CK_INPUT, a refused read CK_IO. */
ck_status ck_pread_all(int fd, void *buf, size_t n, uint64_t offset, const char *path,
                       ck_error *err);

/* Writes exactly n bytes at offset. */
ck_status ck_pwrite_all(int fd, const void *buf, size_t n, uint64_t offset, const char *path,
                        ck_error *err);

/* The whole file as a NUL-terminated string of *n bytes, released with free(). Refused (CK_INPUT)
 * when it is larger than limit bytes. */
ck_status ck_read_file(const char *path, size_t limit, char **text, size_t *n, ck_error *err);

/* The number after a word in a file of the system's, such as "VmRSS:" in /proc/self/status, in KiB
 * there, in bytes here; 0 where the system does not say. */
uint64_t ck_proc_bytes(const char *path, const char *word);

/* Seconds since some moment in the past, by a clock that nobody sets. */
double ck_seconds(void);

#endif
