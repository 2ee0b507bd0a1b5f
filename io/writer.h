/* A file that exists whole or not at all.
 *
 *   ck_writer *w;
 *   CK_TRY(ck_writer_create("out.safetensors", size, false, &w, err));
 *   CK_TRY(ck_writer_write(w, offset, pages, n, err));         any order, any thread
 *   CK_TRY(ck_writer_commit(w, err));                          or ck_writer_abort(w)
 *
 * The bytes go to an unnamed file in the target's directory (a named temporary where the file
 * system has no unnamed ones), past the page cache where the file system allows it (direct I/O:
 * measured at about twice the speed of buffered writing for multi-gigabyte files), with the space
 * reserved up front so that a full disk is known before work starts. Commit syncs and then gives
 * the file its name in one step; a process that dies before leaves nothing behind.
 */
#ifndef CK_WRITER_H
#define CK_WRITER_H

#include "io/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ck_writer ck_writer;

/* Starts a file of size bytes. An existing path is refused (CK_USAGE, saying --force) unless
 * replace is set; it is not touched before commit, and its permissions stay. Where path is a
 * symbolic link, the file that it leads to is meant. Folders, devices and links to nothing are
 * CK_USAGE, not enough disk space is CK_IO. */
ck_status ck_writer_create(const char *path, uint64_t size, bool replace, ck_writer **w,
                           ck_error *err);

/* Refuses what ck_writer_create would refuse, for a file that is written after long work. */
ck_status ck_writer_check(const char *path, bool replace, ck_error *err);

/* Writes n bytes at offset. offset and data are multiples of CK_PAGE; n is too, except for a block
 * that ends at the file's end, which must have room up to the next multiple (what lies there is
 * overwritten with zeros). Thread-safe for blocks that do not overlap. */
ck_status ck_writer_write(ck_writer *w, uint64_t offset, void *data, size_t n, ck_error *err);

/* Reads back n bytes that were written. */
ck_status ck_writer_read(ck_writer *w, uint64_t offset, void *data, size_t n, ck_error *err);

/* Overwrites n bytes at any offset: for what is known only at the end, such as hashes in a header.
 * Only after all ck_writer_write calls have returned. */
ck_status ck_writer_patch(ck_writer *w, uint64_t offset, const void *data, size_t n, ck_error *err);

/* Makes the file durable, then visible under its name. Releases w in any case; on failure nothing
 * is left and a file that was to be replaced is as it was. One failure comes later: when the folder
 * cannot be synced, the message says "written, but ...", and the whole file is in place. */
ck_status ck_writer_commit(ck_writer *w, ck_error *err);

/* Drops everything. Releases w; NULL is allowed. */
void ck_writer_abort(ck_writer *w);

/* A small text file, whole or absent, by the same steps. */
ck_status ck_write_file(const char *path, const char *text, size_t n, bool replace, ck_error *err);

#endif
