/* Weights of a model in memory: named f32 arrays in the engine's layout, shared by the graphs that
 * use them (sampling, training, teacher and student).
 *
 *   ck_params *p;
 *   CK_TRY(ck_params_open("model.safetensors", "unet.", &p, err));
 *   ... models ask for weights by name while they build their graph (ck_param) ...
 *   CK_TRY(ck_params_reader(p, &r, err));      a checkpoint again: to save, convert, compare
 *   ck_params_free(p);
 *
 * A weight is read from the file when a model first asks for it, and checked: a name that is not
 * there, a shape that does not fit, a value that is not finite are CK_INPUT with file and tensor.
 * Four-dimensional weights are K C R S in files and K R S C here; a 1x1 convolution and a linear
 * weight stand for each other.
 */
#ifndef CK_PARAMS_H
#define CK_PARAMS_H

#include "io/error.h"
#include "io/hash.h"
#include "io/reader.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ck_params ck_params;

/* Weights of a file. part: "unet.", "vae.", "text_encoder.", ... as the folders of a diffusers
 * model are called: of a file with whole models (in LDM's layout or diffusers'), that part; models
 * ask for weights without it. A file without such names is taken to be the part. f8 weights that
 * are stored with scales are what they stand for. */
ck_status ck_params_open(const char *path, const char *part, ck_params **p, ck_error *err);
/* Of those tensors of a reader whose names begin with prefix. The reader is borrowed: it must
 * outlive the params and their copies. */
ck_status ck_params_from(const ck_reader *source, const char *prefix, ck_params **p, ck_error *err);
/* Weights that are made when first asked for: those named *.bias zero; one-dimensional *.weight
 * one; others uniform in +-1/sqrt(fan in) (torch's default), by Philox from the seed and the
 * weight's place in the order of asking. NULL when out of memory. */
ck_params *ck_params_new(uint64_t seed);
/* What a file has for p under other names, for a network with fewer layers. rename writes the new
 * name (name, both without prefix; 256 bytes) or leaves the weight out (false). */
ck_status ck_params_renamed(const ck_params *p,
                            bool (*rename)(const void *context, const char *name, char *new_name),
                            const void *context, ck_params **renamed, ck_error *err);
void ck_params_free(ck_params *p); /* NULL is allowed */
/* From here on weights that are asked for have a shape, which is checked, but no memory: their data
 * are NULL, nothing is read. For planning; what is made of p (copies, renamed) is hollow, too. */
void ck_params_hollow(ck_params *p);
/* From here on weights are only computed with, not trained: those that are asked for are checked
 * but for their values, and read where a plan gets its memory (ck_params_fetch), as bfloat16 if
 * that is all that is read of them. Copies and checkpoints take from the file what is not there as
 * f32. false: weights that are asked for from then on are read at once again. */
void ck_params_freeze(ck_params *p, bool frozen);
bool ck_params_frozen(const ck_params *p);

/* The index of the weight, loading (or making) it. shape is the engine's, rank 1 to 5. */
ck_status ck_params_need(ck_params *p, const char *name, int rank, const int64_t *shape,
                         size_t *index, ck_error *err);
/* Frees the weights that are the file's, to be read again when they are asked for: no graph may
 * have them. Indices of others change. */
void ck_params_unload(ck_params *p);
/* A weight that the file lacks, of zeros, for what a student has and its teacher has not; to be
 * asked for afterwards like those of the file, after which checkpoints have it. CK_USAGE when there
 * is one of this name. */
ck_status ck_params_add(ck_params *p, const char *name, int rank, const int64_t *shape,
                        ck_error *err);
/* Where the weight lies, as f32 or (half) as a copy of bfloat16; it is read, and its values
 * checked, if it is not there so. */
ck_status ck_params_fetch(ck_params *p, size_t index, bool half, void **at, ck_error *err);
/* Whether it is there so. */
bool ck_params_holds(const ck_params *p, size_t index, bool half);
/* Checks the values of all weights that were asked for, without keeping any. */
ck_status ck_params_check(ck_params *p, ck_error *err);
/* CK_INPUT if the file has weights of this part, tensors of numbers within layers, that nothing
 * asked for: they are another network's than the one that was built. */
ck_status ck_params_check_asked(const ck_params *p, ck_error *err);
/* Of the file, or what stands for one in messages. */
const char *ck_params_path(const ck_params *p);
/* Whether the file has it, or it was made. */
bool ck_params_has(const ck_params *p, const char *name);
/* The tensor in the file, for finding out a model's shape; NULL if there is none. */
const ck_tensor *ck_params_tensor(const ck_params *p, const char *name);

/* Weights that were asked for so far, 0 to count - 1. Data stay where they are until free. */
size_t ck_params_count(const ck_params *p);
const char *ck_params_name(const ck_params *p, size_t index);
float *ck_params_data(const ck_params *p, size_t index);     /* NULL: not there as f32 */
uint16_t *ck_params_half(const ck_params *p, size_t index);  /* NULL: not there as bfloat16 */
size_t ck_params_elements(const ck_params *p, size_t index); /* of one weight */

/* A deep copy, for a student that begins as its teacher; it can load what was not asked for yet. */
ck_status ck_params_copy(const ck_params *p, ck_params **copy, ck_error *err);

/* Reads all weights that were asked for so far anew, from another checkpoint with the same names
 * and shapes. After a failure some may have been read. */
ck_status ck_params_load(ck_params *p, const ck_reader *from, ck_error *err);

/* The SHA-256 of the file's tensors that belong to p: names, types, shapes, bytes. */
ck_status ck_params_hash(const ck_params *p, char hex[CK_SHA256_HEX], ck_error *err);

/* Overwrites the weights of p with those of the same name and size in from. */
void ck_params_assign(ck_params *p, const ck_params *from);

/* The weights as a checkpoint: the source file's tensors in their order, names (with prefix) and
 * shapes; F32 from memory where a weight was asked for, as in the file where not. It reads from p,
 * which must outlive it and be asked for nothing new meanwhile. To be closed with ck_reader_close.
 */
ck_status ck_params_reader(const ck_params *p, ck_reader **r, ck_error *err);

#endif
