/* The end record, the central directory, the local headers, in that order; see zip.h. */
#include "io/zip.h"
#include "io/arena.h"
#include "io/os.h"
#include "io/utf8.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum {
    LOCAL_SIZE = 30,
    CENTRAL_SIZE = 46,
    END_SIZE = 22,
    LOCATOR64_SIZE = 20,
    END64_SIZE = 56,
    MAX_COMMENT = 65535,
    MAX_NAME = 65535,
    MAX_DIRECTORY = 64 << 20,
    /* Traditional and strong encryption, and a directory with masked values. Bit 5, patched data,
     * changes what the bytes mean, too. */
    REFUSED_FLAGS = 0x0001 | 0x0040 | 0x2000 | 0x0020,
    STORED = 0,
    DEFLATED = 8,
    /* A deflate block gives at most 258 bytes for two bits. */
    MAX_RATIO = 1032,
    STREAM_BUFFER = 32 * 1024,
};

struct ck_zip {
    int fd;
    char *path;
    ck_arena arena;        /* names */
    ck_zip_entry *entries; /* in the directory's order */
    size_t count, capacity;
    const ck_zip_entry **by_name;
};

/* Where an entry's record begins and ends, for the check that no two overlap. */
typedef struct span {
    uint64_t begin, end;
    const ck_zip_entry *entry;
} span;

typedef struct directory {
    uint64_t offset, size, count;
} directory;

static uint64_t little(const unsigned char *p, int bytes) {
    uint64_t value = 0;
    for (int i = bytes - 1; i >= 0; i--) value = value << 8 | p[i];
    return value;
}

static bool has_signature(const unsigned char *p, const char *two) {
    return p[0] == 'P' && p[1] == 'K' && p[2] == (unsigned char)two[0] &&
           p[3] == (unsigned char)two[1];
}

/* ---- The end record ---- */

/* A field of the end record is right when it agrees with the zip64 record, or is all ones. */
static bool agrees(uint64_t value, uint64_t value64, int bytes) {
    return value == value64 || value == (UINT64_C(1) << (8 * bytes)) - 1;
}

/* The zip64 end record, if there is one; *end becomes its offset, where the directory must end. */
static ck_status read_end64(const ck_zip *zip, uint64_t *end, directory *d, ck_error *err) {
    unsigned char locator[LOCATOR64_SIZE], record[END64_SIZE];
    if (*end < sizeof locator) return CK_OK;
    uint64_t at = *end - sizeof locator;
    CK_TRY(ck_pread_all(zip->fd, locator, sizeof locator, at, zip->path, err));
    if (!has_signature(locator, "\6\7")) return CK_OK;
    uint64_t record_at = little(locator + 8, 8);
    if (at < sizeof record || record_at > at - sizeof record)
        return ck_fail(err, CK_INPUT,
                       "%s: zip64 locator at offset %" PRIu64 ": points outside the file",
                       zip->path, at);
    CK_TRY(ck_pread_all(zip->fd, record, sizeof record, record_at, zip->path, err));
    directory big = {.count = little(record + 32, 8),
                     .size = little(record + 40, 8),
                     .offset = little(record + 48, 8)};
    if (!has_signature(record, "\6\6") || little(record + 24, 8) != big.count ||
        !agrees(d->count, big.count, 2) || !agrees(d->size, big.size, 4) ||
        !agrees(d->offset, big.offset, 4))
        return ck_fail(err, CK_INPUT,
                       "%s: zip64 end record at offset %" PRIu64 ": contradicts the zip end record",
                       zip->path, record_at);
    *d = big;
    *end = record_at;
    return CK_OK;
}

/* Finds the end record: the last one in the file, at most a comment away from its end. */
static ck_status find_directory(const ck_zip *zip, directory *d, ck_error *err) {
    struct stat st;
    if (fstat(zip->fd, &st) != 0) return ck_fail_errno(err, "%s", zip->path);
    uint64_t file_size = (uint64_t)st.st_size;
    size_t n = file_size < END_SIZE + MAX_COMMENT ? (size_t)file_size : END_SIZE + MAX_COMMENT;
    unsigned char *tail = ck_alloc(n);
    if (!tail) return ck_fail_memory(err, zip->path);
    ck_status status = ck_pread_all(zip->fd, tail, n, file_size - n, zip->path, err);
    size_t at = n < END_SIZE ? 0 : n - END_SIZE + 1;
    while (status == CK_OK && at > 0 && !has_signature(tail + at - 1, "\5\6")) at--;
    unsigned char record[END_SIZE];
    if (at > 0) memcpy(record, tail + at - 1, sizeof record);
    free(tail);
    CK_TRY(status);
    if (at == 0)
        return ck_fail(err, CK_INPUT,
                       "%s: the zip archive has no directory at its end: the file is cut off (an "
                       "incomplete download?)",
                       zip->path);
    uint64_t end = file_size - n + at - 1;
    *d = (directory){.count = little(record + 10, 2),
                     .size = little(record + 12, 4),
                     .offset = little(record + 16, 4)};
    if (little(record + 4, 2) != 0 || little(record + 6, 2) != 0 ||
        little(record + 8, 2) != d->count)
        return ck_fail(err, CK_INPUT, "%s: a part of a zip archive of several disks", zip->path);
    CK_TRY(read_end64(zip, &end, d, err));
    /* Readers disagree about what a directory elsewhere means. */
    if (d->size > end || d->offset != end - d->size)
        return ck_fail(err, CK_INPUT,
                       "%s: zip directory of %" PRIu64 " bytes at offset %" PRIu64
                       ": it should end at %" PRIu64,
                       zip->path, d->size, d->offset, end);
    if (d->size > MAX_DIRECTORY)
        return ck_fail(err, CK_INPUT,
                       "%s: zip directory of %" PRIu64 " bytes, more than the %d that are read",
                       zip->path, d->size, MAX_DIRECTORY);
    return CK_OK;
}

/* ---- The directory's entries ---- */

/* NULL when the name is a fit one. */
static const char *bad_name(const char *name, size_t n) {
    if (n == 0) return "it is empty";
    if (memchr(name, 0, n)) return "it contains a NUL";
    if (ck_utf8_check((const unsigned char *)name, n) != n) return "it is not UTF-8";
    if (name[0] == '/') return "it is absolute";
    for (size_t i = 0; i < n; i++) {
        bool starts = i == 0 || name[i - 1] == '/';
        if (starts && n - i >= 2 && name[i] == '.' && name[i + 1] == '.' &&
            (n - i == 2 || name[i + 2] == '/'))
            return "it climbs out with '..'";
    }
    return NULL;
}

/* Takes the 64-bit value of a field that is all ones from the entry's zip64 extra. */
static bool widen(uint64_t *value, const unsigned char **extra, size_t *left) {
    if (*value != UINT32_MAX) return true;
    if (*left < 8) return false;
    *value = little(*extra, 8);
    *extra += 8;
    *left -= 8;
    return true;
}

/* The body of the zip64 extra field, if there is one; *size its length. */
static const unsigned char *find_extra64(const unsigned char *extra, size_t n, size_t *size) {
    while (n >= 4) {
        size_t length = (size_t)little(extra + 2, 2);
        if (length > n - 4) break;
        if (little(extra, 2) == 1) {
            *size = length;
            return extra + 4;
        }
        extra += 4 + length;
        n -= 4 + length;
    }
    *size = 0;
    return extra;
}

/* Reads the local header of an entry: *data becomes where its content lies. */
static ck_status check_local(const ck_zip *zip, const ck_zip_entry *e, uint64_t at,
                             unsigned char *buffer, uint64_t *data, ck_error *err) {
    size_t name_length = strlen(e->name);
    CK_TRY(ck_pread_all(zip->fd, buffer, LOCAL_SIZE + name_length, at, zip->path, err));
    const char *wrong = NULL;
    if (!has_signature(buffer, "\3\4"))
        wrong = "there is none";
    else if (little(buffer + 6, 2) & REFUSED_FLAGS)
        wrong = "it says the entry is encrypted";
    else if (little(buffer + 8, 2) != (e->deflated ? DEFLATED : STORED))
        wrong = "another compression than in the directory";
    else if (little(buffer + 26, 2) != name_length ||
             memcmp(buffer + LOCAL_SIZE, e->name, name_length) != 0)
        wrong = "another name than in the directory";
    if (wrong)
        return ck_fail(err, CK_INPUT, "%s: zip entry '%s': local header at offset %" PRIu64 ": %s",
                       zip->path, e->name, at, wrong);
    *data = at + LOCAL_SIZE + name_length + little(buffer + 28, 2);
    return CK_OK;
}

/* Parses the record p of the directory (n bytes are left); *used becomes its length. */
static ck_status add_entry(ck_zip *zip, const unsigned char *p, size_t n, const directory *d,
                           unsigned char *buffer, span *s, size_t *used, ck_error *err) {
    if (n < CENTRAL_SIZE || !has_signature(p, "\1\2"))
        return ck_fail(err, CK_INPUT, "%s: zip directory at offset %" PRIu64 ": no entry there",
                       zip->path, d->offset + d->size - n);
    size_t name_length = (size_t)little(p + 28, 2), extra_length = (size_t)little(p + 30, 2);
    *used = CENTRAL_SIZE + name_length + extra_length + (size_t)little(p + 32, 2);
    if (*used > n)
        return ck_fail(err, CK_INPUT,
                       "%s: zip directory at offset %" PRIu64 ": the entry is cut off", zip->path,
                       d->offset + d->size - n);
    const char *name = (const char *)p + CENTRAL_SIZE;
    const char *bad = bad_name(name, name_length);
    if (bad)
        return ck_fail(err, CK_INPUT, "%s: zip entry '%.*s': the name is refused: %s", zip->path,
                       (int)name_length, name, bad);
    unsigned flags = (unsigned)little(p + 8, 2), method = (unsigned)little(p + 10, 2);
    ck_zip_entry e = {.packed = little(p + 20, 4), .size = little(p + 24, 4)};
    s->begin = little(p + 42, 4);
    size_t left;
    const unsigned char *extra = find_extra64(p + CENTRAL_SIZE + name_length, extra_length, &left);
    if (!widen(&e.size, &extra, &left) || !widen(&e.packed, &extra, &left) ||
        !widen(&s->begin, &extra, &left))
        return ck_fail(err, CK_INPUT, "%s: zip entry '%.*s': its zip64 field is too short",
                       zip->path, (int)name_length, name);
    if (flags & REFUSED_FLAGS)
        return ck_fail(err, CK_INPUT, "%s: zip entry '%.*s' is encrypted or patched (flags 0x%x)",
                       zip->path, (int)name_length, name, flags);
    if (method != STORED && method != DEFLATED)
        return ck_fail(err, CK_INPUT,
                       "%s: zip entry '%.*s': compression method %u; only stored and deflated "
                       "entries can be read",
                       zip->path, (int)name_length, name, method);
    e.deflated = method == DEFLATED;
    if (e.deflated ? e.size / MAX_RATIO > e.packed : e.size != e.packed)
        return ck_fail(err, CK_INPUT,
                       "%s: zip entry '%.*s': %" PRIu64 " bytes cannot come from %" PRIu64,
                       zip->path, (int)name_length, name, e.size, e.packed);
    if (s->begin > d->offset || d->offset - s->begin < LOCAL_SIZE + name_length)
        return ck_fail(err, CK_INPUT,
                       "%s: zip entry '%.*s': its place, offset %" PRIu64 ", is not before the "
                       "directory",
                       zip->path, (int)name_length, name, s->begin);
    if (!(e.name = ck_arena_strndup(&zip->arena, name, name_length)))
        return ck_fail_memory(err, zip->path);
    CK_TRY(check_local(zip, &e, s->begin, buffer, &e.offset, err));
    if (e.offset > d->offset || e.packed > d->offset - e.offset)
        return ck_fail(err, CK_INPUT,
                       "%s: zip entry '%s': its %" PRIu64 " bytes at offset %" PRIu64
                       " reach into the directory",
                       zip->path, e.name, e.packed, e.offset);
    s->end = e.offset + e.packed;
    s->entry = &zip->entries[zip->count];
    zip->entries[zip->count++] = e;
    return CK_OK;
}

static int by_begin(const void *a, const void *b) {
    const span *x = a, *y = b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const ck_zip_entry *const *)a)->name, (*(const ck_zip_entry *const *)b)->name);
}

static ck_status check_entries(ck_zip *zip, span *spans, ck_error *err) {
    for (size_t i = 0; i < zip->count; i++) zip->by_name[i] = &zip->entries[i];
    if (zip->count < 2) return CK_OK;
    qsort(zip->by_name, zip->count, sizeof *zip->by_name, by_name);
    qsort(spans, zip->count, sizeof *spans, by_begin);
    for (size_t i = 1; i < zip->count; i++) {
        if (strcmp(zip->by_name[i - 1]->name, zip->by_name[i]->name) == 0)
            return ck_fail(err, CK_INPUT, "%s: zip entry '%s' is there twice", zip->path,
                           zip->by_name[i]->name);
        if (spans[i].begin < spans[i - 1].end)
            return ck_fail(err, CK_INPUT,
                           "%s: zip entries '%s' and '%s' overlap at offset %" PRIu64, zip->path,
                           spans[i - 1].entry->name, spans[i].entry->name, spans[i].begin);
    }
    return CK_OK;
}

static ck_status read_directory(ck_zip *zip, ck_error *err) {
    directory d = {0};
    CK_TRY(find_directory(zip, &d, err));
    if (d.count > d.size / CENTRAL_SIZE)
        return ck_fail(err, CK_INPUT,
                       "%s: zip directory of %" PRIu64 " bytes for %" PRIu64 " entries: too small",
                       zip->path, d.size, d.count);
    size_t size = (size_t)d.size, count = (size_t)d.count, at = 0;
    unsigned char *bytes = ck_alloc(size), *buffer = ck_alloc(LOCAL_SIZE + MAX_NAME);
    span *spans = ck_alloc_array(count, sizeof *spans);
    zip->entries = ck_alloc_array(count, sizeof *zip->entries);
    zip->by_name = ck_alloc_array(count, sizeof *zip->by_name);
    ck_status status = CK_OK;
    if (!bytes || !buffer || !spans || !zip->entries || !zip->by_name)
        status = ck_fail_memory(err, zip->path);
    else
        status = ck_pread_all(zip->fd, bytes, size, d.offset, zip->path, err);
    for (size_t i = 0; i < count && status == CK_OK; i++) {
        size_t used = 0;
        status = add_entry(zip, bytes + at, size - at, &d, buffer, &spans[i], &used, err);
        if (status == CK_OK) at += used;
    }
    if (status == CK_OK && at != size)
        status = ck_fail(err, CK_INPUT,
                         "%s: zip directory at offset %" PRIu64 ": %zu bytes belong to no entry",
                         zip->path, d.offset + at, size - at);
    if (status == CK_OK) status = check_entries(zip, spans, err);
    free(spans);
    free(buffer);
    free(bytes);
    return status;
}

ck_status ck_zip_open(int fd, const char *path, ck_zip **out, ck_error *err) {
    ck_zip *zip = ck_alloc(sizeof *zip);
    if (!zip) return ck_fail_memory(err, path);
    zip->fd = fd;
    zip->path = ck_strdup(path);
    ck_status status = zip->path ? read_directory(zip, err) : ck_fail_memory(err, path);
    if (status != CK_OK) {
        ck_zip_close(zip);
        return status;
    }
    *out = zip;
    return CK_OK;
}

void ck_zip_close(ck_zip *zip) {
    if (!zip) return;
    ck_arena_free(&zip->arena);
    free(zip->entries);
    free(zip->by_name);
    free(zip->path);
    free(zip);
}

size_t ck_zip_count(const ck_zip *zip) {
    return zip->count;
}

const ck_zip_entry *ck_zip_at(const ck_zip *zip, size_t i) {
    return &zip->entries[i];
}

const ck_zip_entry *ck_zip_find(const ck_zip *zip, const char *name) {
    ck_zip_entry wanted = {.name = name};
    const ck_zip_entry *key = &wanted;
    const ck_zip_entry **found = bsearch(&key, zip->by_name, zip->count, sizeof key, by_name);
    return found ? *found : NULL;
}

/* ---- Content ---- */

struct ck_zip_stream {
    int fd;
    const char *path;
    const ck_zip_entry *entry;
    uint64_t packed_at, at; /* how much has been read from the file, and handed out */
    bool ended;             /* deflate has said so */
    z_stream z;
    unsigned char buffer[STREAM_BUFFER];
};

static void *allocate(void *context, unsigned count, unsigned size) {
    (void)context;
    return ck_alloc_array(count, size);
}

static void release(void *context, void *p) {
    (void)context;
    free(p);
}

ck_status ck_zip_stream_open(int fd, const char *path, const ck_zip_entry *entry,
                             ck_zip_stream **out, ck_error *err) {
    ck_zip_stream *s = ck_alloc(sizeof *s);
    if (!s) return ck_fail_memory(err, path);
    s->fd = fd;
    s->path = path;
    s->entry = entry;
    s->z.zalloc = allocate;
    s->z.zfree = release;
    if (entry->deflated && inflateInit2(&s->z, -MAX_WBITS) != Z_OK) {
        free(s);
        return ck_fail_memory(err, path);
    }
    *out = s;
    return CK_OK;
}

void ck_zip_stream_close(ck_zip_stream *s) {
    if (!s) return;
    if (s->entry->deflated) inflateEnd(&s->z);
    free(s);
}

static ck_status bad_content(const ck_zip_stream *s, const char *what, ck_error *err) {
    return ck_fail(err, CK_INPUT, "%s: zip entry '%s': compressed data at offset %" PRIu64 ": %s",
                   s->path, s->entry->name, s->entry->offset + s->packed_at - s->z.avail_in, what);
}

/* Gives inflate its next input and n bytes of room; *got says how much of that it filled. */
static ck_status inflate_some(ck_zip_stream *s, void *dst, size_t n, size_t *got, ck_error *err) {
    s->z.next_out = dst;
    s->z.avail_out = n > UINT32_MAX / 2 ? UINT32_MAX / 2 : (uInt)n;
    uInt room = s->z.avail_out;
    if (s->z.avail_in == 0) {
        uint64_t left = s->entry->packed - s->packed_at;
        size_t more = left < sizeof s->buffer ? (size_t)left : sizeof s->buffer;
        CK_TRY(ck_pread_all(s->fd, s->buffer, more, s->entry->offset + s->packed_at, s->path, err));
        s->packed_at += more;
        s->z.next_in = s->buffer;
        s->z.avail_in = (uInt)more;
    }
    int result = inflate(&s->z, Z_NO_FLUSH);
    *got = room - s->z.avail_out;
    if (result == Z_MEM_ERROR) return ck_fail_memory(err, s->path);
    if (result == Z_BUF_ERROR) return bad_content(s, "ends too early", err);
    if (result != Z_OK && result != Z_STREAM_END) return bad_content(s, "damaged", err);
    s->ended = result == Z_STREAM_END;
    return CK_OK;
}

/* After the last byte: nothing more may come, and nothing may be left over. */
static ck_status check_end(ck_zip_stream *s, ck_error *err) {
    unsigned char extra;
    size_t got = 0;
    while (!s->ended && got == 0) CK_TRY(inflate_some(s, &extra, 1, &got, err));
    if (got || s->z.avail_in || s->packed_at != s->entry->packed)
        return bad_content(s, "longer than the directory says", err);
    return CK_OK;
}

ck_status ck_zip_stream_read(ck_zip_stream *s, void *dst, size_t n, size_t *got, ck_error *err) {
    const ck_zip_entry *e = s->entry;
    if (n > e->size - s->at) n = (size_t)(e->size - s->at);
    *got = n;
    if (!e->deflated) {
        CK_TRY(ck_pread_all(s->fd, dst, n, e->offset + s->at, s->path, err));
        s->at += n;
        return CK_OK;
    }
    if (n == 0) return check_end(s, err);
    size_t done = 0;
    ck_status status = CK_OK;
    while (done < n && status == CK_OK) {
        size_t some = 0;
        if (s->ended)
            status = bad_content(s, "shorter than the directory says", err);
        else
            status = inflate_some(s, (char *)dst + done, n - done, &some, err);
        done += some;
        s->at += some;
    }
    *got = done;
    /* The next call meets the same damage. */
    return done > 0 && status == CK_INPUT ? CK_OK : status;
}

ck_status ck_zip_extract(int fd, const char *path, const ck_zip_entry *entry, int to,
                         uint64_t offset, ck_error *err) {
    enum { BLOCK = 64 * 1024 };
    ck_zip_stream *s = NULL;
    char *block = ck_alloc(BLOCK);
    ck_status status =
        block ? ck_zip_stream_open(fd, path, entry, &s, err) : ck_fail_memory(err, path);
    for (size_t got = 1; status == CK_OK && got > 0; offset += got) {
        status = ck_zip_stream_read(s, block, BLOCK, &got, err);
        if (status == CK_OK) status = ck_pwrite_all(to, block, got, offset, path, err);
    }
    ck_zip_stream_close(s);
    free(block);
    return status;
}

ck_status ck_zip_temporary(const char *path, int *fd, ck_error *err) {
    const char *folder = getenv("TMPDIR");
    if (!folder || !*folder) folder = "/tmp";
    *fd = ck_os.open(folder, O_TMPFILE | O_RDWR, 0600);
    if (*fd >= 0) return CK_OK;
    return ck_fail_errno(err,
                         "%s: needs a temporary file, which %s does not give (TMPDIR may name "
                         "another folder)",
                         path, folder);
}
