/* Reading zip archives as PyTorch and Keras write them: entries stored as they are or deflated,
 * zip64, no encryption. Strict where two readers of the same file could see different things.
 *
 *   ck_zip *zip;
 *   CK_TRY(ck_zip_open(fd, path, &zip, err));
 *   const ck_zip_entry *e = ck_zip_find(zip, "archive/data.pkl");
 *   if (!e->deflated) ... the bytes lie at e->offset of the file ...
 *   CK_TRY(ck_zip_extract(fd, path, e, other_fd, 0, err));          or, piece by piece,
 * ck_zip_stream ck_zip_close(zip);
 *
 * Sizes come from the central directory alone; local headers (and the data's place behind them) are
 * checked against it. Refused: names that differ between the two, occur twice, are absolute or
 * climb out with ".."; entries that overlap each other or the directory; encryption. Checksums are
 * not checked: PyTorch does not either, and a model would have to be read whole for it.
 *
 * Memory is in proportion to the central directory's real size, which may be at most 64 MiB.
 */
#ifndef CK_ZIP_H
#define CK_ZIP_H

#include "io/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct ck_zip ck_zip;

typedef struct ck_zip_entry {
    const char *name; /* UTF-8, without NUL, owned by the archive; ends with '/' for a folder */
    uint64_t offset;  /* of the data in the file */
    uint64_t packed;  /* bytes of the data in the file */
    uint64_t size;    /* bytes after inflating; the same as packed when not deflated */
    bool deflated;
} ck_zip_entry;

/* Reads and checks all headers. fd is borrowed and must stay open; path is for messages (copied).
 */
ck_status ck_zip_open(int fd, const char *path, ck_zip **zip, ck_error *err);
void ck_zip_close(ck_zip *zip); /* NULL is allowed */

/* Entries in the order of the central directory. */
size_t ck_zip_count(const ck_zip *zip);
const ck_zip_entry *ck_zip_at(const ck_zip *zip, size_t i);
/* NULL if there is none. */
const ck_zip_entry *ck_zip_find(const ck_zip *zip, const char *name);

/* An entry's content from its first byte to its last, in constant memory. Of the archive only its
 * file is needed; fd, path and entry are borrowed. Each stream belongs to one thread; several may
 * be open at once. */
typedef struct ck_zip_stream ck_zip_stream;
ck_status ck_zip_stream_open(int fd, const char *path, const ck_zip_entry *entry,
                             ck_zip_stream **stream, ck_error *err);
/* Up to n bytes; *got is 0 only at the end. Content that is damaged, or is shorter or longer than
 * the directory says, is CK_INPUT, but only after all that came before has been handed out. */
ck_status ck_zip_stream_read(ck_zip_stream *stream, void *dst, size_t n, size_t *got,
                             ck_error *err);
void ck_zip_stream_close(ck_zip_stream *stream); /* NULL is allowed */

/* Writes an entry's content to another file, from offset on. */
ck_status ck_zip_extract(int fd, const char *path, const ck_zip_entry *entry, int to,
                         uint64_t offset, ck_error *err);

/* A file without a name in $TMPDIR (or /tmp), for content that must be inflated before it can be
 * read at any place. It is gone when fd is closed. The error names path, whose content it is for.
 */
ck_status ck_zip_temporary(const char *path, int *fd, ck_error *err);

#endif
