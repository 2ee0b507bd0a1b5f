/* The pickle machine, run leniently over everything in a file that might be a pickle; see scan.h.
 */
#include "io/scan.h"
#include "io/os.h"
#include "io/pickle.h"
#include "io/utf8.h"
#include "io/zip.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    HEAD_SIZE = 512,
    LOCAL_SIZE = 30, /* a zip entry's local header, without its name */
    BLOCK = 1 << 20,
    /* A malformed archive is read at most so many times over: its entries may lie in each other. */
    MAX_PASSES = 4,
};

typedef struct scanner {
    ck_scan *scan;
    const char *path;
    int fd;
    uint64_t size;
    const char *place;
    uint64_t pickle; /* the number of the one at work */
    ck_error *err;
} scanner;

/* A copy for reports: control characters and what is not UTF-8 must reach neither a terminal nor a
 * JSON document. */
static char *printable(scanner *s, const char *text) {
    size_t n = strlen(text);
    bool utf8 = ck_utf8_check((const unsigned char *)text, n) == n;
    char *copy = ck_arena_strdup(&s->scan->arena, text);
    if (!copy) return NULL;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)copy[i] >= 0x80 && !utf8) copy[i] = '?';
    ck_make_printable(copy);
    return copy;
}

static ck_status add_problem(scanner *s, const char *message) {
    const char **problems = ck_grow(s->scan->problems, s->scan->problem_count,
                                    &s->scan->problem_capacity, sizeof *problems);
    if (!problems) return ck_fail_memory(s->err, s->path);
    s->scan->problems = problems;
    char *copy = printable(s, message);
    if (!copy) return ck_fail_memory(s->err, s->path);
    problems[s->scan->problem_count++] = copy;
    return CK_OK;
}

/* What the file has done wrong becomes a problem; what the system did stays an error. */
static ck_status note(scanner *s, ck_status status) {
    return status == CK_INPUT ? add_problem(s, s->err->message) : status;
}

static ck_status add_import(void *context, const ck_pickle_import *i, ck_error *err) {
    scanner *s = context;
    ck_scan *scan = s->scan;
    ck_scan_import *imports =
        ck_grow(scan->imports, scan->import_count, &scan->import_capacity, sizeof *imports);
    if (!imports) return ck_fail_memory(err, s->path);
    scan->imports = imports;
    char *name = i->module ? ck_sprintf("%s.%s", i->module, i->name)
                           : ck_strdup("(a name that is made when the file is loaded)");
    if (!name) return ck_fail_memory(err, s->path);
    char *kept = printable(s, name);
    free(name);
    if (!kept) return ck_fail_memory(err, s->path);
    ck_verdict verdict = i->module ? ck_global_verdict(i->module, i->name) : CK_DANGEROUS;
    imports[scan->import_count++] =
        (ck_scan_import){kept, s->place, s->pickle, i->opcode, i->offset, verdict};
    if (verdict > scan->worst) scan->worst = verdict;
    return CK_OK;
}

/* All pickles at the start of an input. What breaks without having imported anything is most likely
 * the data of a tensor, unless a pickle is expected there or much of it was one. */
static ck_status scan_input(scanner *s, ck_pickle_input *in, bool expected) {
    const ck_pickle_rules rules = {.strict = false, .import = add_import, .context = s};
    ck_status status = CK_OK;
    bool more = true;
    for (s->pickle = 1; status == CK_OK && more; s->pickle++) {
        status = ck_pickle_input_more(in, &more, s->err);
        if (status != CK_OK || !more) break;
        bool first = expected && s->pickle == 1, proto = in->buffer[in->at] == 0x80;
        uint64_t start = in->offset;
        size_t imports = s->scan->import_count;
        ck_pickle pickle;
        status = ck_pickle_load(in, &rules, &pickle, s->err);
        bool imported = s->scan->import_count > imports;
        if (status == CK_OK) {
            ck_pickle_free(&pickle);
            s->scan->pickles += imported || proto || first;
        } else if (status == CK_INPUT) {
            bool real = imported || first || in->offset - start >= CK_PICKLE_MAX_TEXT;
            if (!real) return CK_OK;
            more = false;
            s->scan->pickles++;
            status = add_problem(s, s->err->message);
        }
    }
    return note(s, status);
}

/* A part of the file as it is. *used says how much of it was looked at. */
static ck_status scan_range(scanner *s, uint64_t begin, bool expected, uint64_t *used) {
    ck_pickle_range range = {s->fd, s->path, begin, s->size};
    char *name = *s->place ? ck_sprintf("%s: %s", s->path, s->place) : ck_strdup(s->path);
    if (!name) return ck_fail_memory(s->err, s->path);
    ck_pickle_input in = {.read = ck_pickle_read_range, .context = &range, .name = name};
    ck_status status = scan_input(s, &in, expected);
    *used += in.offset;
    free(name);
    return status;
}

static ck_status scan_entry(scanner *s, const ck_zip_entry *e, uint64_t *used) {
    size_t n = strlen(e->name);
    bool expected = n >= 4 && strcmp(e->name + n - 4, ".pkl") == 0;
    ck_zip_stream *stream = NULL;
    char *name = ck_sprintf("%s: %s", s->path, e->name);
    if (!name) return ck_fail_memory(s->err, s->path);
    ck_status status = ck_zip_stream_open(s->fd, s->path, e, &stream, s->err);
    ck_pickle_input in = {.read = ck_pickle_read_zip, .context = stream, .name = name};
    if (status == CK_OK) status = scan_input(s, &in, expected);
    *used += in.offset;
    ck_zip_stream_close(stream);
    free(name);
    return status;
}

static ck_status scan_zip(scanner *s, const ck_zip *zip) {
    uint64_t used = 0;
    for (size_t i = 0; i < ck_zip_count(zip); i++) {
        const ck_zip_entry *e = ck_zip_at(zip, i);
        if (!(s->place = printable(s, e->name))) return ck_fail_memory(s->err, s->path);
        CK_TRY(scan_entry(s, e, &used));
    }
    return CK_OK;
}

/* ---- Archives that break the rules ---- */

/* What follows a local header, which is believed in nothing but the lengths in it: looked through
 * as it is and, if it says that it is compressed in any way, inflated. */
static ck_status scan_header(scanner *s, uint64_t at, uint64_t *used) {
    unsigned char header[LOCAL_SIZE];
    CK_TRY(ck_pread_all(s->fd, header, sizeof header, at, s->path, s->err));
    size_t name_length = (size_t)header[26] | (size_t)header[27] << 8;
    size_t extra_length = (size_t)header[28] | (size_t)header[29] << 8;
    uint64_t data = at + LOCAL_SIZE + name_length + extra_length;
    if (data > s->size) return CK_OK;
    char *name = ck_alloc(name_length + 1);
    if (!name) return ck_fail_memory(s->err, s->path);
    ck_status status = ck_pread_all(s->fd, name, name_length, at + LOCAL_SIZE, s->path, s->err);
    s->place = status == CK_OK ? printable(s, name) : NULL;
    free(name);
    CK_TRY(status);
    if (!s->place) return ck_fail_memory(s->err, s->path);
    CK_TRY(scan_range(s, data, false, used));
    if (header[8] == 0 && header[9] == 0) return CK_OK;
    ck_zip_entry e = {.name = s->place,
                      .offset = data,
                      .packed = s->size - data,
                      .size = UINT64_MAX,
                      .deflated = true};
    return scan_entry(s, &e, used);
}

/* Everything behind something that looks like a local header. */
static ck_status scan_headers(scanner *s) {
    unsigned char *block = ck_alloc(BLOCK);
    if (!block) return ck_fail_memory(s->err, s->path);
    ck_status status = CK_OK;
    uint64_t used = 0;
    for (uint64_t at = 0; status == CK_OK && s->size - at >= LOCAL_SIZE;) {
        size_t n = s->size - at < BLOCK ? (size_t)(s->size - at) : BLOCK;
        status = ck_pread_all(s->fd, block, n, at, s->path, s->err);
        size_t i = 0;
        for (; status == CK_OK && i + LOCAL_SIZE <= n; i++) {
            unsigned char *found = memmem(block + i, n - i, "PK\3\4", 4);
            if (!found) {
                i = n - LOCAL_SIZE + 1;
                break;
            }
            i = (size_t)(found - block);
            if (i + LOCAL_SIZE > n) break;
            if (used / MAX_PASSES > s->size) {
                ck_fail(s->err, CK_INPUT, "%s: its zip entries lie in each other: given up",
                        s->path);
                free(block);
                return add_problem(s, s->err->message);
            }
            status = scan_header(s, at + i, &used);
        }
        at += i;
    }
    free(block);
    return status;
}

/* Whether there is something like a zip archive's end record at the file's end. */
static ck_status ends_as_zip(scanner *s, bool *yes) {
    enum { MAX_END = 22 + 65535 };
    size_t n = s->size < MAX_END ? (size_t)s->size : MAX_END;
    unsigned char *tail = ck_alloc(n);
    if (!tail) return ck_fail_memory(s->err, s->path);
    ck_status status = ck_pread_all(s->fd, tail, n, s->size - n, s->path, s->err);
    *yes = status == CK_OK && memmem(tail, n, "PK\5\6", 4);
    free(tail);
    return status;
}

/* A tar header's checksum in every form that Python takes: big-endian, or octal digits. */
static bool tar_checksum(const unsigned char *field, size_t n, int64_t *value) {
    bool minus = field[0] == 0xFF;
    *value = minus ? -1 : 0;
    if (minus || field[0] == 0x80) {
        for (size_t i = 1; i < n; i++) *value = (int64_t)((uint64_t)*value << 8 | field[i]);
        return true;
    }
    for (size_t i = 0; i < n && field[i]; i++) {
        minus |= field[i] == '-';
        if (field[i] >= '0' && field[i] < '8')
            *value = *value * 8 + (field[i] - '0');
        else if (!strchr(" \t\n\v\f\r+-_oO", field[i]))
            return false;
    }
    if (minus) *value = -*value;
    return true;
}

/* Whether a block of 512 bytes is the header of a file in a tar archive. The oldest have no
 * signature, but all have a checksum: the sum of the bytes, unsigned or signed, with spaces in the
 * checksum's place. */
static bool is_tar(const unsigned char *block) {
    enum { AT = 148, END = 156 };
    int64_t sum = 0, sum_signed = 0, said;
    for (int i = 0; i < HEAD_SIZE; i++) {
        unsigned char byte = i >= AT && i < END ? ' ' : block[i];
        sum += byte;
        sum_signed += (signed char)byte;
    }
    if (!tar_checksum(block + AT, END - AT, &said)) return false;
    return said == sum || said == sum_signed;
}

/* Containers of other kinds, in which pickles might lie that are not found. */
static const char *other_archive(const unsigned char *head, size_t n) {
    static const struct {
        const char *name, *signature;
        size_t length, offset;
    } known[] = {
        {"7z", "7z\xBC\xAF\x27\x1C", 6, 0},
        {"tar", "ustar", 5, 257},
        {"gzip", "\x1F\x8B", 2, 0},
        {"xz",
         "\xFD"
         "7zXZ",
         5, 0},
        {"bzip2", "BZh", 3, 0},
        {"rar", "Rar!", 4, 0},
        {"zstd", "\x28\xB5\x2F\xFD", 4, 0},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (n >= known[i].offset + known[i].length &&
            memcmp(head + known[i].offset, known[i].signature, known[i].length) == 0)
            return known[i].name;
    return n == HEAD_SIZE && is_tar(head) ? "tar" : NULL;
}

/* Whether a file begins as pickles do since protocol 2. So does a safetensors file whose header's
 * length has that first byte; behind the length comes what is no opcode. */
static bool starts_as_pickle(const unsigned char *head, size_t n) {
    bool safetensors = n > 8 && memcmp(head + 4, "\0\0\0\0{", 5) == 0;
    return n > 0 && head[0] == 0x80 && !safetensors;
}

static ck_status scan_open_file(scanner *s) {
    struct stat st;
    if (fstat(s->fd, &st) != 0) return ck_fail_errno(s->err, "%s", s->path);
    if (!S_ISREG(st.st_mode)) {
        ck_fail(s->err, CK_INPUT, "%s: not a regular file", s->path);
        return add_problem(s, s->err->message);
    }
    s->size = (uint64_t)st.st_size;
    unsigned char head[HEAD_SIZE];
    size_t n = s->size < sizeof head ? (size_t)s->size : sizeof head;
    CK_TRY(ck_pread_all(s->fd, head, n, 0, s->path, s->err));
    const char *archive = other_archive(head, n);
    if (archive) {
        ck_fail(s->err, CK_INPUT, "%s: a %s archive, which cannot be looked into", s->path,
                archive);
        return add_problem(s, s->err->message);
    }
    /* What ends as a zip archive is one to those who look at the end first. */
    ck_zip *zip = NULL;
    bool starts_as_zip = n >= 4 && memcmp(head, "PK\3\4", 4) == 0, is_zip = starts_as_zip;
    if (!is_zip) CK_TRY(ends_as_zip(s, &is_zip));
    ck_status status = is_zip ? ck_zip_open(s->fd, s->path, &zip, s->err) : CK_OK;
    if (status == CK_INPUT) {
        status = starts_as_zip ? note(s, status) : CK_OK;
        if (status == CK_OK) status = scan_headers(s);
    } else if (status == CK_OK && is_zip) {
        status = scan_zip(s, zip);
        ck_zip_close(zip);
    }
    if (status != CK_OK || starts_as_zip) return status;
    uint64_t used = 0;
    s->place = "";
    return scan_range(s, 0, starts_as_pickle(head, n), &used);
}

ck_status ck_scan_file(const char *path, ck_scan *scan, ck_error *err) {
    *scan = (ck_scan){.worst = CK_HARMLESS};
    scanner s = {.scan = scan, .path = path, .place = "", .err = err};
    s.fd = ck_os.open(path, O_RDONLY, 0);
    if (s.fd < 0) return ck_fail_errno(err, "%s: open", path);
    ck_status status = scan_open_file(&s);
    close(s.fd);
    if (status != CK_OK) ck_scan_free(scan);
    return status;
}

void ck_scan_free(ck_scan *scan) {
    ck_arena_free(&scan->arena);
    free(scan->imports);
    free(scan->problems);
    *scan = (ck_scan){.worst = CK_HARMLESS};
}
