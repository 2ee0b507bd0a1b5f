/* The part of ckmerge's command line that is about blocks: --block-weights, --component,
 * --elemental, --adjust, the ":lbw=" of --lora, and `ckmerge presets`.
 *
 * What they make of the recipe, in the order in which it counts: rules (made by the caller), then
 * elemental rules, then components, then block weights, then the plain numbers.
 */
#ifndef CK_BLOCK_FLAGS_H
#define CK_BLOCK_FLAGS_H

#include "io/cli.h"
#include "merge/recipe.h"

#include <stdio.h>

typedef struct ck_block_flags {
    ck_text_list weights, components, elemental;
    const char *adjust;
} ck_block_flags;

#define CK_BLOCK_OPTIONS(f)                                                                        \
    {.name = "block-weights",                                                                      \
     .letter = 'b',                                                                                \
     .argument = "[PARAMETER[:MODEL]=]WEIGHTS",                                                    \
     .type = CK_OPT_LIST,                                                                          \
     .value = &(f).weights,                                                                        \
     .help =                                                                                       \
         "a number for each block in the place of alpha (or another parameter; weight:b is the "   \
         "weight of model b): a list "                                                             \
         "\"0,0.1,...\" as web UIs have it, with or without BASE first; linear:0,0.5,1, "          \
         "cosine:1,0 or smoothstep:0,1 over the depth; or a preset (see `ckmerge presets`). "      \
         "Without a number of its own, BASE (text encoders, VAE) takes that of --alpha"},          \
        {.name = "component",                                                                      \
         .argument = "NAME=WHAT",                                                                  \
         .type = CK_OPT_LIST,                                                                      \
         .value = &(f).components,                                                                 \
         .help =                                                                                   \
             "for a part of the model (unet, clip, clip_l, clip_g, t5xxl, vae, BASE, or "          \
             "blocks like IN00-IN05): a number for the first parameter, a model's name (vae=b "    \
             "takes b's), exclude or drop"},                                                       \
        {.name = "adjust",                                                                         \
         .argument = "N1,...,N8",                                                                  \
         .type = CK_OPT_TEXT,                                                                      \
         .value = &(f).adjust,                                                                     \
         .help = "change detail (three numbers), contrast, brightness and colour (three) of the "  \
                 "result's pictures, as supermerger does; see `ckmerge help adjust`"},             \
    {                                                                                              \
        .name = "elemental", .argument = "BLOCKS:ELEMENTS:NUMBER,...", .type = CK_OPT_LIST,        \
        .value = &(f).elemental,                                                                   \
        .help = "numbers for some tensors of some blocks, as supermerger has them: "               \
                "\"OUT03 OUT04:attn2:0.5,IN00-IN05:NOT attn:0.2\"; the last that fits counts"      \
    }

void ck_block_flags_free(ck_block_flags *f);

/* Puts the flags into a recipe whose root is the node that they are for. alpha_given: its alpha is
 * what the user said, and so BASE's number also beside a preset that has one. */
ck_status ck_block_flags_apply(const ck_block_flags *f, ck_recipe *r, bool alpha_given,
                               ck_error *err);

/* Puts --adjust, where it is given, around the whole expression. */
ck_status ck_block_flags_adjust(const ck_block_flags *f, ck_recipe *r, ck_error *err);

/* Cuts "FILE:0.8:lbw=WEIGHTS" in two: *file (in the arena) is the text before, the result what
 * follows "lbw=", or NULL. */
const char *ck_block_flags_lora(const char *text, ck_arena *arena, const char **file);

/* Block weights as factors of a LoRA node's strength. */
ck_status ck_block_flags_strength(ck_recipe *r, ck_node *node, const char *weights, ck_error *err);

/* `ckmerge presets`: a line for each, with a picture of its weights. */
ck_status ck_block_flags_presets(FILE *out, ck_error *err);

#endif
