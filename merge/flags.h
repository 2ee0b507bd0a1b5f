/* ckmerge's command line: what can be said on it, and the recipe that this makes.
 *
 *   CK_TRY(ck_cli_parse(&ck_flags_command, argc, argv, &paths, &count, err));     fills ck_flags
 *   CK_TRY(ck_flags_recipe(&recipe, paths, count, keep_going, err));
 *   char *output = ck_flags_output(&recipe);
 *   ck_flags_free();
 */
#ifndef CK_FLAGS_H
#define CK_FLAGS_H

#include "io/cli.h"
#include "merge/block_flags.h"
#include "merge/recipe.h"

typedef struct ck_merge_flags {
    const char *output, *recipe, *replay, *method, *weight, *normalize, *write_recipe, *dtype;
    const char *missing, *extra, *shape, *unmatched, *base, *density, *compat, *sweep;
    double alpha, lambda;
    uint64_t threads, seed;
    bool alpha_given, lambda_given, seed_given;
    bool dry_run, json, force, quiet, lock, hash_models, resume, rebasin;
    ck_text_list set, rules, loras, model_dirs;
    ck_block_flags blocks;
    bool explain; /* not merge, but say what would happen to which block */
    const char *svg;
} ck_merge_flags;

/* What was said; NULL, 0 or false where nothing was. */
extern ck_merge_flags ck_flags;

extern const ck_command ck_flags_command;
extern const ck_program ck_flags_program;

void ck_flags_free(void);

/* Makes the recipe, from the models and flags or from the recipe or merged file that they name.
 * keep_going is asked while models are searched by their hashes; false: stop with CK_CANCELLED. */
ck_status ck_flags_recipe(ck_recipe *r, const char *const *paths, size_t count,
                          bool (*keep_going)(void *context, uint64_t bytes), ck_error *err);

/* The output where none is named, in fresh memory: "a-b-0.3.safetensors",
 * "a-b-c-add-difference-0.7.safetensors", or the recipe's name. NULL: out of memory. */
char *ck_flags_output(const ck_recipe *r);

/* The method of this name. CK_USAGE: there is none; the error has the one that is spelled most like
 * it. */
ck_status ck_flags_method(const char *name, const ck_method **method, ck_error *err);

#endif
