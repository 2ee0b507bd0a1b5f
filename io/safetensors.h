/* The safetensors container: u64 length, JSON header, data. Reading goes through reader.h; this is
 * the writing side: the header for a list of tensors, in the reference serializer's order.
 *
 *   ck_safetensors_sort(list, n);                       the order of the file
 *   CK_TRY(ck_safetensors_header(list, n, meta, m, &head, &head_size, offsets, err));
 *   ... write head[head_size] at 0 and tensor i's bytes at offsets[i] ...
 *
 * The same tensors and metadata always give the same bytes.
 */
#ifndef CK_SAFETENSORS_H
#define CK_SAFETENSORS_H

#include "io/reader.h"

/* Largest header that is read or written, as in the reference implementation. */
#define CK_SAFETENSORS_MAX_HEADER 100000000u

/* Sorts pointers to tensors by dtype (descending enum), then name (bytes ascending). */
void ck_safetensors_sort(const ck_tensor **tensors, size_t n);

/* Makes the file's first bytes: length, JSON, padding with spaces so that data starts at a multiple
 * of 8. Of each tensor name, dtype, shape and nbytes are used. Metadata is written sorted by key.
 * offsets[i] becomes the file offset of tensors[i]; *file_size the size of the whole file. *head is
 * released by the caller with free(). CK_USAGE when the header would be too large. */
ck_status ck_safetensors_header(const ck_tensor *const *tensors, size_t n, const ck_meta *meta,
                                size_t meta_count, char **head, size_t *head_size,
                                uint64_t *offsets, uint64_t *file_size, ck_error *err);

#endif
