/* Recipes of other tools, as recipes of ours.
 *
 *   ck_foreign where = {.model_dirs = dirs, .model_dir_count = 1};
 *   CK_TRY(ck_recipe_load_any("merge.yaml", &where, settings, count, &recipe, err));
 *
 * Which language a file is in is told by its content:
 *   JSON        ours (recipe.h)
 *   mergekit    its YAML configurations: methods, weights by model, by filter and by layer, slices
 *               that leave layers where they are. Tokenizers and modules are refused by name.
 *   sd-mecha    its .mecha texts, of version 0.1.0 and of the releases before 1.0
 * Where a language says more than the sum of the tensors (int8_mask, devices, ...) it is without
 * effect; what would change the result and is not known here is refused, with line and column.
 *
 * Models are looked for in the folders of --model-dir, then beside the recipe, then where the
 * program was started; of an absolute path that leads nowhere, the name alone.
 */
#ifndef CK_FOREIGN_H
#define CK_FOREIGN_H

#include "merge/recipe.h"

typedef struct ck_foreign {
    const char *folder; /* of the recipe; NULL: the current one */
    const char *const *model_dirs;
    size_t model_dir_count;
    /* The names of the first model's tensors, on which filters and gradients act. NULL: they are
     * read from it where they matter. */
    const char *const *tensors;
    size_t tensor_count;
} ck_foreign;

/* As ck_recipe_load, for a recipe in any of the languages. settings are for variables of JSON
 * recipes; the others have none (CK_USAGE). where->folder is set here. */
ck_status ck_recipe_load_any(const char *path, const ck_foreign *where, const char *const *settings,
                             size_t count, ck_recipe *r, ck_error *err);

/* One language each, from text; name is for messages. On failure *r is empty. */
ck_status ck_foreign_mergekit(const char *name, const char *text, size_t n, const ck_foreign *where,
                              ck_recipe *r, ck_error *err);
ck_status ck_foreign_mecha(const char *name, const char *text, size_t n, const ck_foreign *where,
                           ck_recipe *r, ck_error *err);

/* Where the model that a recipe calls so lies: the first place at which something is, or else the
 * name itself beside the recipe. In fresh memory; NULL when out of memory. */
char *ck_foreign_path(const ck_foreign *where, const char *model);

/* Adds the model of that path, unless it is there, with the next name of a, b, c, ...; *index is
 * its number. */
ck_status ck_foreign_model(ck_recipe *r, const ck_foreign *where, const char *model, size_t *index,
                           ck_error *err);

/* Has the node compute what this tool does ("mergekit", "mecha"), where that differs. */
void ck_foreign_compat(ck_node *node, const char *tool);

/* A name with everything that means something in a glob escaped, in the arena; NULL: memory. n: its
 * length. */
char *ck_foreign_glob(ck_arena *arena, const char *name, size_t n);

#endif
