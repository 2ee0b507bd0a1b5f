/* A large file in the making that outlives its process: kill it, and the next one goes on.
 *
 *   ck_partial *p;
 *   CK_TRY(ck_partial_open("out.safetensors", size, false, fingerprint, each, context, &p, err));
 *   if (!ck_partial_has(p, begin, end)) {
 *       CK_TRY(ck_writer_write(ck_partial_writer(p), begin, pages, n, err));
 *       CK_TRY(ck_partial_add(p, &(ck_partial_piece){begin, end}, err));
 *   }
 *   CK_TRY(ck_partial_commit(p, err));                          or ck_partial_keep(p)
 *
 * The bytes lie in "out.safetensors.partial", and "out.safetensors.partial.journal" says for which
 * work they are (the fingerprint) and which pieces are done. A piece is noted when its bytes are
 * known to be on the disk: every so many megabytes the data are synced, then the notes are written,
 * then these are synced. So after a power cut, too, what is noted is there; what is not noted is
 * done again. A note that was cut off does not count, and nothing behind it.
 *
 * A .partial that belongs to other work, or to none that is known, is refused and left as it is.
 */
#ifndef CK_PARTIAL_H
#define CK_PARTIAL_H

#include "io/writer.h"

typedef struct ck_partial ck_partial;

/* Bytes [begin, end) of the file; begin is a multiple of CK_PAGE, and end is, or the file's end.
 * The rest is the caller's, and comes back when the work goes on. */
typedef struct ck_partial_piece {
    uint64_t begin, end;
    uint64_t item, count;
} ck_partial_piece;

/* Starts a file of size bytes, or goes on with one of the same fingerprint (a word without spaces):
 * each(context, piece) is then told of every piece that is done, and *unit, on which the pieces'
 * ends depend, becomes what it was when the file was started. Errors as ck_writer_create; CK_USAGE
 * for a .partial that is not of this work, or that another process is at. */
ck_status ck_partial_open(const char *path, uint64_t size, bool replace, const char *fingerprint,
                          uint64_t *unit,
                          void (*each)(void *context, const ck_partial_piece *piece), void *context,
                          ck_partial **p, ck_error *err);

/* Where the pieces are written; belongs to p. */
ck_writer *ck_partial_writer(const ck_partial *p);

/* The file's name while it is not whole. */
const char *ck_partial_path(const ck_partial *p);

/* Whether these bytes were done when the file was opened. Thread-safe. */
bool ck_partial_has(const ck_partial *p, uint64_t begin, uint64_t end);

/* Says that a piece was written. Thread-safe. */
ck_status ck_partial_add(ck_partial *p, const ck_partial_piece *piece, ck_error *err);

/* As ck_writer_commit, and the journal goes. On failure everything stays for another try, unless
 * the message says "written, but ...". Releases p. */
ck_status ck_partial_commit(ck_partial *p, ck_error *err);

/* Notes what is done and leaves it. Releases p; NULL is allowed. */
void ck_partial_keep(ck_partial *p);

#endif
