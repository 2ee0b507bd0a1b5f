/* Presets of block weights: files NAME.json beside the programs.
 *
 *   {"ckmerge_preset": 1, "description": "...", "gradient": [1, 0, 1], "base": 0}
 *
 * with the fields of block weights (merge/weights.h) but for "preset". They lie in the folder that
 * the environment variable CK_PRESETS names; else in ../share/ckmerge/recipes/presets from the
 * program's folder, or in the source tree in recipes/presets.
 */
#ifndef CK_PRESETS_H
#define CK_PRESETS_H

#include "merge/weights.h"

/* A preset by name (letter case apart) or, when it holds a '/' or ends in ".json", by path, which
 * is relative to folder (NULL: the current one). CK_USAGE with the nearest name when there is none.
 */
ck_status ck_preset_load(const char *name, const char *folder, ck_arena *arena, ck_weights **w,
                         ck_error *err);

typedef struct ck_preset {
    const char *name, *description;
    ck_weights *weights;
} ck_preset;

/* All presets, sorted by name; everything lives in the arena. */
ck_status ck_presets_list(ck_arena *arena, ck_preset **presets, size_t *count, ck_error *err);

#endif
