/* Makes a merge again from what the merged file says about itself.
 *
 *   CK_TRY(ck_replay_load("merged.safetensors", dirs, count, keep_going, context, &recipe, err));
 *
 * Read are, the first that is there: "ckmerge_recipe" (ours; the result has the same bytes),
 * "mecha_recipe" (sd-mecha's) and "sd_merge_recipe" of the web UI and of supermerger. The models
 * are found in the folders by the hashes in "sd_merge_models" (find_models.h), whatever they are
 * called now; sd-mecha's, which has no hashes, by name.
 *
 * The web UI adds in the files' own type, and rounds after every step; here arithmetic is f32 with
 * one rounding. Refused by name are a VAE that was baked in, calculation modes that are not plain,
 * elemental weights, and everything else that would make another model.
 */
#ifndef CK_REPLAY_H
#define CK_REPLAY_H

#include "merge/recipe.h"

/* progress as for ck_hash_file. On failure *r is empty. */
ck_status ck_replay_load(const char *path, const char *const *dirs, size_t count,
                         bool (*progress)(void *context, uint64_t bytes), void *context,
                         ck_recipe *r, ck_error *err);

#endif
