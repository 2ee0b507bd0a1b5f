/* Where a merged file comes from, written into its metadata the way other tools read it:
 *   ckmerge_recipe     the recipe, models named by their files' names
 *   sd_merge_recipe    as the web UIs write it: hashes of the models, method, multiplier
 *   sd_merge_models    for every model and, flattened in, every model those were merged from: name,
 *                      legacy hash, its own sd_merge_recipe
 * The first model's other metadata is carried over (what it predicts, its licence, ...), except
 * hashes that are no longer true. Where it has ModelSpec keys, title and merged_from are written
 * anew and the date is left out, as it would make every result differ. A model
 * is named by its SHA-256 where the recipe states it, else by its legacy hash, which is cheap.
 *
 *   ck_meta *meta; size_t count;
 *   CK_TRY(ck_provenance(recipe, readers, &arena, &meta, &count, err));
 */
#ifndef CK_PROVENANCE_H
#define CK_PROVENANCE_H

#include "io/reader.h"
#include "merge/recipe.h"

/* The metadata of the output; everything lives in the arena or in the readers. */
ck_status ck_provenance(const ck_recipe *recipe, ck_reader *const *readers, ck_arena *arena,
                        ck_meta **meta, size_t *count, ck_error *err);

#endif
