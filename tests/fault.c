/* Replaces the members of ck_os; see fault.h. */
#include "tests/fault.h"
#include "io/os.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>

static struct ck_os real;
static fault_kind kind;
static int fault_errno;
static unsigned nth, short_bytes;
static atomic_uint calls;
static atomic_bool hit;
static bool started, done;

const char *fault_name(fault_kind k) {
    static const char *const names[] = {"calloc",    "realloc",   "open",  "pread", "pwrite",
                                        "fallocate", "ftruncate", "fsync", "link",  "rename"};
    return names[k];
}

/* Whether this call is the one that fails. */
static bool fails(fault_kind k) {
    if (k != kind || atomic_fetch_add(&calls, 1) + 1 != nth) return false;
    hit = true;
    errno = fault_errno;
    return true;
}

static size_t cut(size_t n) {
    return short_bytes && n > short_bytes ? short_bytes : n;
}

static void *faulty_calloc(size_t count, size_t size) {
    return fails(FAULT_CALLOC) ? NULL : real.calloc(count, size);
}

static void *faulty_realloc(void *p, size_t size) {
    return fails(FAULT_REALLOC) ? NULL : real.realloc(p, size);
}

static int faulty_open(const char *path, int flags, mode_t mode) {
    return fails(FAULT_OPEN) ? -1 : real.open(path, flags, mode);
}

static ssize_t faulty_pread(int fd, void *buf, size_t n, off_t offset) {
    return fails(FAULT_PREAD) ? -1 : real.pread(fd, buf, cut(n), offset);
}

static ssize_t faulty_pwrite(int fd, const void *buf, size_t n, off_t offset) {
    return fails(FAULT_PWRITE) ? -1 : real.pwrite(fd, buf, cut(n), offset);
}

static int faulty_fallocate(int fd, off_t size) {
    return fails(FAULT_FALLOCATE) ? -1 : real.fallocate(fd, size);
}

static int faulty_ftruncate(int fd, off_t size) {
    return fails(FAULT_FTRUNCATE) ? -1 : real.ftruncate(fd, size);
}

static int faulty_fsync(int fd) {
    return fails(FAULT_FSYNC) ? -1 : real.fsync(fd);
}

static int faulty_link(const char *from, const char *to) {
    return fails(FAULT_LINK) ? -1 : real.link(from, to);
}

static int faulty_rename(const char *from, const char *to, unsigned flags) {
    return fails(FAULT_RENAME) ? -1 : real.rename(from, to, flags);
}

void fault_first(fault_kind k, int error) {
    kind = k;
    fault_errno = error;
    nth = 0;
    started = done = false;
}

bool fault_more(void) {
    if (started && !hit) done = true;
    started = true;
    nth++;
    return !done;
}

void fault_arm(void) {
    real = ck_os;
    calls = 0;
    hit = false;
    ck_os = (struct ck_os){.calloc = faulty_calloc,
                           .realloc = faulty_realloc,
                           .open = faulty_open,
                           .pread = faulty_pread,
                           .pwrite = faulty_pwrite,
                           .fallocate = faulty_fallocate,
                           .ftruncate = faulty_ftruncate,
                           .fsync = faulty_fsync,
                           .link = faulty_link,
                           .rename = faulty_rename};
}

void fault_disarm(void) {
    ck_os = real;
}

bool fault_hit(void) {
    return hit;
}

void fault_short_io(unsigned bytes) {
    short_bytes = bytes;
    if (bytes) kind = FAULT_KINDS;
}
