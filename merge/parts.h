/* Checkpoints by their components: what cktool's split, join, swap-vae and prune are made of.
 *
 *   CK_TRY(ck_parts_add(view, "vae.", reader, &anatomy, component, err));
 */
#ifndef CK_PARTS_H
#define CK_PARTS_H

#include "io/anatomy.h"
#include "io/cli.h"
#include "merge/save.h"

/* Adds the tensors of one component to a view, with this prefix in place of their own. */
ck_status ck_parts_add(ck_reader *view, const char *prefix, const ck_reader *r, const ck_anatomy *a,
                       size_t component, ck_error *err);

/* Adds every tensor of the parts for which wanted[part] is set, under its own name. */
ck_status ck_parts_add_named(ck_reader *view, const ck_reader *r, const ck_anatomy *a,
                             const bool wanted[CK_PART_COUNT], ck_error *err);

/* Whether a part is a denoiser, a text encoder. */
bool ck_part_is_denoiser(ck_part part);
bool ck_part_is_text_encoder(ck_part part);

/* The options that every command which writes a model has. */
typedef struct ck_parts_output {
    const char *path;
    const char *dtype;   /* a word of CK_DTYPE_WORDS; NULL: keep */
    const char *configs; /* see save.h */
    bool force, quiet, json;
} ck_parts_output;

#define CK_PARTS_OPTIONS(o)                                                                        \
    {.name = "force",                                                                              \
     .letter = 'f',                                                                                \
     .type = CK_OPT_FLAG,                                                                          \
     .value = &(o).force,                                                                          \
     .help = "replace existing files"},                                                            \
        {.name = "dtype",                                                                          \
         .argument = "D",                                                                          \
         .type = CK_OPT_CHOICE,                                                                    \
         .value = &(o).dtype,                                                                      \
         .choices = "keep|f32|f16|bf16|f8_e4m3|f8_e5m2",                                           \
         .help = "type of the float tensors (default: keep)"},                                     \
        {.name = "json",                                                                           \
         .type = CK_OPT_FLAG,                                                                      \
         .value = &(o).json,                                                                       \
         .help = "report as JSON, one line for each file"},                                        \
    {                                                                                              \
        .name = "quiet", .letter = 'q', .type = CK_OPT_FLAG, .value = &(o).quiet,                  \
        .help = "print errors only"                                                                \
    }

/* Finishes the view, writes it to path (in shards of max_shard bytes when that is not 0) and
 * reports. */
ck_status ck_parts_write(ck_reader *r, const char *path, const ck_parts_output *o,
                         uint64_t max_shard, ck_error *err);

#endif
