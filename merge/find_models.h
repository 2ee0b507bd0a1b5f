/* Finds the files that a merge was made of, by the hashes that its metadata gives.
 *
 *   ck_finder *f;
 *   CK_TRY(ck_finder_open(dirs, count, keep_going, context, &f, err));
 *   CK_TRY(ck_finder_find(f, &(ck_wanted){.name = "anime.safetensors", .hash = "6ce0161689"},
 * &path, err)); ck_finder_close(f);
 *
 * A hash is a SHA-256 of the file or its first ten or more digits (AutoV2), that of the data
 * section (AutoV3, kohya's sshs_model_hash), or the eight digits of the legacy hash (AutoV1). Files
 * whose name or legacy hash fits are tried first, so that few are read. What was read is remembered
 * in $XDG_CACHE_HOME/ckmerge/hashes.json (default ~/.cache) for as long as the file has its path,
 * size and time. A cache that cannot be read or written is done without.
 */
#ifndef CK_FIND_MODELS_H
#define CK_FIND_MODELS_H

#include "io/hash.h"

typedef struct ck_finder ck_finder;

typedef struct ck_wanted {
    const char *name;   /* of the file, perhaps with folders; NULL: not known */
    const char *hash;   /* NULL: not known */
    const char *legacy; /* NULL: not known */
} ck_wanted;

/* Looks at the folders and those in them, to a depth of 8. progress as for ck_hash_file. */
ck_status ck_finder_open(const char *const *dirs, size_t count,
                         bool (*progress)(void *context, uint64_t bytes), void *context,
                         ck_finder **f, ck_error *err);

/* *path is in fresh memory. Without hash and legacy a file is found by its name. CK_INPUT, naming
 * what was wanted, when there is none, or when several fit and none has the name. */
ck_status ck_finder_find(ck_finder *f, const ck_wanted *wanted, char **path, ck_error *err);

/* Writes the cache; NULL is allowed. */
void ck_finder_close(ck_finder *f);

#endif
