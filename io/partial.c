/* The journal: a line that names the work, then a line for every piece; see partial.h. */
#include "io/partial.h"
#include "io/os.h"
#include "io/writer_int.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    NOTE_EVERY = 32, /* pieces: 128 MiB of the engine's chunks */
    MAX_LINE = 128,
    MAX_JOURNAL = 1 << 30,
};

/* The first line: the version of the journal, the work, the unit. */
#define HEADING "ckmerge partial 1 %s "

struct ck_partial {
    ck_writer *writer;
    char *path; /* of the .partial */
    char *journal_path;
    int journal;
    uint64_t journal_size; /* its good part */
    uint64_t size;
    bool fresh;     /* nothing was there */
    uint64_t *done; /* a bit for each page of the file; never changes after opening */
    pthread_mutex_t lock;
    char notes[NOTE_EVERY * MAX_LINE]; /* that are not yet written; under lock, as what follows */
    size_t notes_size;
    unsigned noted;
};

/* FNV-1a: tells a line that was cut off or never written from a whole one. */
static uint64_t check_sum(const char *text, size_t n) {
    uint64_t sum = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) sum = (sum ^ (unsigned char)text[i]) * 0x100000001b3u;
    return sum;
}

/* ---- Reading ---- */

static void mark(ck_partial *p, const ck_partial_piece *piece) {
    for (uint64_t page = piece->begin / CK_PAGE; page * CK_PAGE < piece->end; page++)
        p->done[page / 64] |= (uint64_t)1 << page % 64;
}

/* One line of n bytes without its end; false when it is no whole note. */
static bool parse_note(const ck_partial *p, const char *line, size_t n, ck_partial_piece *piece) {
    char copy[MAX_LINE], again[MAX_LINE];
    if (n >= sizeof copy) return false;
    memcpy(copy, line, n);
    copy[n] = 0;
    uint64_t sum;
    if (sscanf(copy, "%" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNx64, &piece->begin,
               &piece->end, &piece->item, &piece->count, &sum) != 5)
        return false;
    int length = snprintf(again, sizeof again, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64,
                          piece->begin, piece->end, piece->item, piece->count);
    return sum == check_sum(again, (size_t)length) && piece->begin < piece->end &&
           piece->end <= p->size && piece->begin % CK_PAGE == 0 &&
           (piece->end % CK_PAGE == 0 || piece->end == p->size);
}

/* Everything up to the first line that is not whole. */
static void read_notes(ck_partial *p, const char *text, size_t n,
                       void (*each)(void *context, const ck_partial_piece *piece), void *context) {
    for (;;) {
        const char *line = text + p->journal_size;
        const char *end = memchr(line, '\n', n - p->journal_size);
        ck_partial_piece piece;
        if (!end || !parse_note(p, line, (size_t)(end - line), &piece)) return;
        mark(p, &piece);
        each(context, &piece);
        p->journal_size = (uint64_t)(end + 1 - text);
    }
}

/* ---- Opening ---- */

static ck_status foreign(const ck_partial *p, ck_error *err, const char *what) {
    return ck_fail(err, CK_USAGE, "%s %s; remove it, or give another output", p->path, what);
}

/* Begins a journal: over one whose .partial is gone or empty, nothing is lost. */
static ck_status new_journal(ck_partial *p, const char *fingerprint, uint64_t unit, ck_error *err) {
    char heading[256];
    int n = snprintf(heading, sizeof heading, HEADING "%" PRIu64 "\n", fingerprint, unit);
    p->journal = ck_os.open(p->journal_path, O_CREAT | O_TRUNC | O_RDWR | O_NOFOLLOW, 0666);
    if (p->journal < 0) return ck_fail_errno(err, "%s: cannot create it", p->journal_path);
    CK_TRY(ck_pwrite_all(p->journal, heading, (size_t)n, 0, p->journal_path, err));
    if (ck_os.fsync(p->journal) != 0)
        return ck_fail_errno(err, "%s: sync to disk", p->journal_path);
    p->journal_size = (uint64_t)n;
    return CK_OK;
}

static ck_status old_journal(ck_partial *p, const char *fingerprint, uint64_t *unit,
                             void (*each)(void *context, const ck_partial_piece *piece),
                             void *context, ck_error *err) {
    char heading[256], *text;
    size_t n, length = (size_t)snprintf(heading, sizeof heading, HEADING, fingerprint);
    if (access(p->journal_path, F_OK) != 0)
        return foreign(p, err, "is there without its journal and cannot be gone on with");
    CK_TRY(ck_read_file(p->journal_path, MAX_JOURNAL, &text, &n, err));
    bool mine = n >= length && memcmp(text, heading, length) == 0;
    if (mine) {
        *unit = strtoull(text + length, NULL, 10);
        p->journal_size = length + strcspn(text + length, "\n") + 1;
        mine = p->journal_size <= n && *unit > 0;
    }
    if (mine) read_notes(p, text, n, each, context);
    free(text);
    if (!mine)
        return foreign(p, err,
                       "is of another merge: models, recipe or the version of ckmerge changed");
    p->journal = ck_os.open(p->journal_path, O_RDWR | O_NOFOLLOW, 0);
    if (p->journal < 0) return ck_fail_errno(err, "%s: cannot be opened", p->journal_path);
    if (ck_os.ftruncate(p->journal, (off_t)p->journal_size) != 0)
        return ck_fail_errno(err, "%s: cannot set its size", p->journal_path);
    return CK_OK;
}

static ck_status open_all(ck_partial *p, const char *path, bool replace, const char *fingerprint,
                          uint64_t *unit,
                          void (*each)(void *context, const ck_partial_piece *piece), void *context,
                          ck_error *err) {
    uint64_t pages = p->size / CK_PAGE + 1;
    p->done = ck_alloc_array((size_t)(pages / 64 + 1), sizeof *p->done);
    if (!p->done) return ck_fail_memory(err, path);
    CK_TRY(ck_writer__open_partial(path, p->size, replace, &p->writer, err));
    p->path = ck_strdup(ck_writer__partial_path(p->writer));
    p->journal_path = p->path ? ck_sprintf("%s.journal", p->path) : NULL;
    if (!p->journal_path) return ck_fail_memory(err, path);
    int fd = ck_writer__fd(p->writer);
    struct stat st;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        return ck_fail(err, CK_USAGE, "%s: another process is writing it", p->path);
    if (fstat(fd, &st) != 0) return ck_fail_errno(err, "%s: cannot be opened", p->path);
    p->fresh = st.st_size == 0;
    CK_TRY(p->fresh ? new_journal(p, fingerprint, *unit, err)
                    : old_journal(p, fingerprint, unit, each, context, err));
    CK_TRY(ck_writer__reserve(p->writer, err));
    /* Not every file system reserves, and one byte makes the .partial one that is worked at. */
    if (p->fresh && ck_os.ftruncate(fd, (off_t)p->size) != 0)
        return ck_fail_errno(err, "%s: cannot set its size", p->path);
    return CK_OK;
}

static void release(ck_partial *p) {
    ck_writer_abort(p->writer);
    if (p->journal >= 0) close(p->journal);
    pthread_mutex_destroy(&p->lock);
    free(p->journal_path);
    free(p->path);
    free(p->done);
    free(p);
}

ck_status ck_partial_open(const char *path, uint64_t size, bool replace, const char *fingerprint,
                          uint64_t *unit,
                          void (*each)(void *context, const ck_partial_piece *piece), void *context,
                          ck_partial **out, ck_error *err) {
    ck_partial *p = ck_alloc(sizeof *p);
    if (!p) return ck_fail_memory(err, path);
    p->size = size;
    p->journal = -1;
    pthread_mutex_init(&p->lock, NULL);
    ck_status status = open_all(p, path, replace, fingerprint, unit, each, context, err);
    if (status == CK_OK) {
        *out = p;
        return CK_OK;
    }
    if (p->fresh) {
        unlink(p->path);
        unlink(p->journal_path);
    }
    release(p);
    return status;
}

ck_writer *ck_partial_writer(const ck_partial *p) {
    return p->writer;
}

const char *ck_partial_path(const ck_partial *p) {
    return p->path;
}

bool ck_partial_has(const ck_partial *p, uint64_t begin, uint64_t end) {
    for (uint64_t page = begin / CK_PAGE; page * CK_PAGE < end; page++)
        if (!(p->done[page / 64] >> page % 64 & 1)) return false;
    return true;
}

/* ---- Noting ---- */

/* Data first, then the notes about them. */
static ck_status write_notes(ck_partial *p, ck_error *err) {
    if (!p->notes_size) return CK_OK;
    if (ck_os.fsync(ck_writer__fd(p->writer)) != 0)
        return ck_fail_errno(err, "%s: sync to disk", p->path);
    CK_TRY(
        ck_pwrite_all(p->journal, p->notes, p->notes_size, p->journal_size, p->journal_path, err));
    if (ck_os.fsync(p->journal) != 0)
        return ck_fail_errno(err, "%s: sync to disk", p->journal_path);
    p->journal_size += p->notes_size;
    p->notes_size = 0;
    p->noted = 0;
    return CK_OK;
}

ck_status ck_partial_add(ck_partial *p, const ck_partial_piece *piece, ck_error *err) {
    pthread_mutex_lock(&p->lock);
    /* Where notes could not be written, the error was told, and no more are taken. */
    ck_status status = CK_OK;
    if (p->noted < NOTE_EVERY) {
        char *line = p->notes + p->notes_size;
        int n = snprintf(line, MAX_LINE, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64,
                         piece->begin, piece->end, piece->item, piece->count);
        n += snprintf(line + n, MAX_LINE - (size_t)n, " %016" PRIx64 "\n",
                      check_sum(line, (size_t)n));
        p->notes_size += (size_t)n;
        p->noted++;
    }
    if (p->noted == NOTE_EVERY) status = write_notes(p, err);
    pthread_mutex_unlock(&p->lock);
    return status;
}

ck_status ck_partial_commit(ck_partial *p, ck_error *err) {
    ck_error ignored; /* without these notes a little is done again, if it comes to that */
    write_notes(p, &ignored);
    ck_writer *writer = p->writer;
    p->writer = NULL;
    ck_status status = ck_writer_commit(writer, err);
    /* (Committing may fail after the file has its name: "written, but ...".) */
    if (access(p->path, F_OK) != 0) unlink(p->journal_path);
    release(p);
    return status;
}

void ck_partial_keep(ck_partial *p) {
    if (!p) return;
    ck_error ignored; /* what could not be noted is done again */
    write_notes(p, &ignored);
    release(p);
}
