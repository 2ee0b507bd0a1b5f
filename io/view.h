/* A checkpoint made of parts of other checkpoints, without copying any: every tensor is described
 * as pieces of tensors of other readers. The result is an ordinary ck_reader (format "view"), so
 * whatever reads checkpoints can rename, take apart, join and convert them.
 *
 *   ck_reader *view;
 *   CK_TRY(ck_view_new("join of u and v", &view, err));
 *   CK_TRY(ck_view_rename(view, "unet.conv_in.weight", u, ck_reader_find(u, "conv_in.weight"),
 * err));
 *   ...
 *   CK_TRY(ck_view_finish(view, err));          from here on it is read like any other
 *   ck_reader_close(view);
 *
 * Sources are borrowed: they must stay open as long as the view, unless they are handed over with
 * ck_view_own(). A source may itself be a view. Reading is thread-safe and needs no memory
 * but for what ck_view_permute says.
 * Tensors come in the order in which they were added; their `offset` is their number. A view whose
 * making failed can only be closed.
 */
#ifndef CK_VIEW_H
#define CK_VIEW_H

#include "io/reader.h"

/* Bytes [begin, begin + nbytes) of a tensor's data. */
typedef struct ck_piece {
    const ck_reader *reader;
    const ck_tensor *tensor;
    uint64_t begin, nbytes;
} ck_piece;

/* An empty view. label is what ck_reader_path() of it says, for messages: usually the path of the
 * source. */
ck_status ck_view_new(const char *label, ck_reader **view, ck_error *err);

/* Hands a source over: it is closed together with the view (at once if this fails). */
ck_status ck_view_own(ck_reader *view, ck_reader *source, ck_error *err);

/* The same tensor under another name. */
ck_status ck_view_rename(ck_reader *view, const char *name, const ck_reader *source,
                         const ck_tensor *t, ck_error *err);

/* The pieces' bytes one after another as a tensor of this dtype and shape: reshapes, slices of
 * rows, fused matrices, swapped halves. The array is copied. CK_USAGE when a piece lies outside its
 * tensor, or the sizes do not add up. */
ck_status ck_view_concat(ck_reader *view, const char *name, ck_dtype dtype, size_t rank,
                         const uint64_t *shape, const ck_piece *pieces, size_t count,
                         ck_error *err);

/* The transposed matrix. t must be of rank 2 (else CK_INPUT). Read in runs of at most a page from
 * every row of t, so it costs many small reads, but no memory. */
ck_status ck_view_transpose(ck_reader *view, const char *name, const ck_reader *source,
                            const ck_tensor *t, ck_error *err);

/* The tensor with its channels in another order: element [i, j, ...] is t's [rows[i], columns[j],
 * ...]. rows and columns are permutations of t's first and second axis, copied; NULL: as they are.
 * CK_USAGE when t has no such axis or packs its elements. Read row by row, in memory for one of t's
 * rows where columns move. */
ck_status ck_view_permute(ck_reader *view, const char *name, const ck_reader *source,
                          const ck_tensor *t, const uint32_t *rows, const uint32_t *columns,
                          ck_error *err);

/* A tensor whose data are given (and copied). */
ck_status ck_view_constant(ck_reader *view, const char *name, ck_dtype dtype, size_t rank,
                           const uint64_t *shape, const void *data, ck_error *err);

/* Adds all metadata of a source; a key that is there already keeps its value. */
ck_status ck_view_copy_metadata(ck_reader *view, const ck_reader *source, ck_error *err);

/* Sets an entry, in place of one with the same key. */
ck_status ck_view_set_metadata(ck_reader *view, const char *key, const char *value, ck_error *err);

/* Ends the adding. Two tensors of the same name are CK_INPUT. */
ck_status ck_view_finish(ck_reader *view, ck_error *err);

#endif
