/* The first bytes of a file that is to be written, and where its tensors' data go behind them: all
 * that the engine needs to know of a container.
 *
 *   CK_TRY(ck_head_for("out.h5")(tensors, n, meta, meta_count, &head, &head_size, offsets,
 *                                &file_size, err));
 *   ... write head[head_size] at 0 and tensor i's bytes at offsets[i] ...
 *
 * Of each tensor name, dtype, shape and nbytes are used. offsets[i] becomes the file offset of
 * tensors[i]; the data lie one behind the other, in this order, from head_size to *file_size. *head
 * is released by the caller with free(). The same tensors and metadata always give the same bytes.
 * CK_USAGE for what the container has no room for.
 */
#ifndef CK_HEAD_H
#define CK_HEAD_H

#include "io/reader.h"

#include <stdbool.h>

typedef ck_status ck_make_head(const ck_tensor *const *tensors, size_t n, const ck_meta *meta,
                               size_t meta_count, char **head, size_t *head_size, uint64_t *offsets,
                               uint64_t *file_size, ck_error *err);

/* The container that a path's ending stands for: .h5 and .hdf5 are HDF5, all others safetensors. */
ck_make_head *ck_head_for(const char *path);

/* HDF5, as io/hdf5.c reads it back: every tensor a contiguous dataset in little-endian order, with
 * the dots of its name as groups ("vae.encoder.conv_in.weight" is
 * /vae/encoder/conv_in/weight), except where the part before the dot is a tensor too: there the dot
 * stays. Metadata are the root's attributes, one UTF-8 string each. Types that HDF5 does not have
 * are stored as unsigned integers of their size, with numpy's name of the type in the dataset's
 * attribute "dtype": bfloat16 (as Keras has it), float8_e4m3fn, float8_e5m2, float8_e8m0fnu,
 * float8_e4m3fnuz, float8_e5m2fnuz. */
ck_make_head ck_hdf5_head;

#endif
