/* The SHA-256 by which recipes know a model.
 *
 *   char hex[CK_SHA256_HEX];
 *   CK_TRY(ck_model_hash(path, hex, keep_going, context, err));
 *
 * Of a single file it is the file's own, as sha256sum prints it. A model in several files (a
 * folder, a sharded index) has that of its content: for every tensor, in the reader's order, its
 * name, a zero byte, its dtype and shape as cktool ls prints them, a zero byte, and its data.
 */
#ifndef CK_MODEL_HASH_H
#define CK_MODEL_HASH_H

#include "io/hash.h"

/* progress as for ck_hash_file. */
ck_status ck_model_hash(const char *path, char hex[CK_SHA256_HEX],
                        bool (*progress)(void *context, uint64_t bytes), void *context,
                        ck_error *err);

/* What changes when a model does, without reading it: sizes and times of its files, fed to a hash.
 */
ck_status ck_model_stamp(const char *path, ck_sha256 *hash, ck_error *err);

#endif
