/* Writes any reader to safetensors, to HDF5 where the path ends in .h5 or .hdf5, or to a diffusers
 * folder: a checkpoint
 * of another format, a view, a part. The same engine as merging, with the same promises: whole or
 * absent, constant memory, the same bytes every time.
 *
 *   ck_save_options o = {.dtype = CK_DTYPE_COUNT, .replace = force};
 *   CK_TRY(ck_save(reader, "out.safetensors", &o, &result, err));
 */
#ifndef CK_SAVE_H
#define CK_SAVE_H

#include "io/reader.h"

#include <stdbool.h>

typedef struct ck_save_options {
    ck_dtype dtype;      /* of float tensors; CK_DTYPE_COUNT: as they are */
    bool replace;        /* existing files */
    bool quiet;          /* no progress */
    uint64_t max_shard;  /* bytes of tensor data in one file; 0: all in one. More than one file is
                          * needed: "out-00001-of-00003.safetensors", ... and the index
                          * "out.safetensors.index.json", which is written last */
    const char *configs; /* of a folder: a diffusers folder whose configs and tokenizers are
                          * taken; NULL: the one that the reader comes from, if any */
    const volatile int *cancel; /* see engine.h */
} ck_save_options;

typedef struct ck_save_result {
    uint64_t bytes; /* of all files */
    size_t tensors;
    size_t files;     /* with tensors, without the index */
    uint64_t clipped; /* values that overflowed the dtype */
    size_t left_out;  /* of a folder: tensors that belong to no component */
    char first_left_out[256];
} ck_save_result;

/* Whether a path means a diffusers folder: it ends in a slash, or there is a folder. */
bool ck_save_is_folder(const char *path);

/* path: the file, or a folder, which must not be there or be empty. In a folder every component has
 * one of its own with weights and config.json, in diffusers' layout, by model_index.json; a
 * component that stands alone goes to the folder itself. Configs that no folder gives are made, for
 * models of published sizes (io/pipeline.h). The reader's metadata go along, except for hashes that
 * are no longer true. */
ck_status ck_save(ck_reader *r, const char *path, const ck_save_options *options,
                  ck_save_result *result, ck_error *err);

/* Whether a metadata key holds a hash of the data, which no other file may carry on. */
bool ck_save_is_hash_key(const char *key);

#endif
