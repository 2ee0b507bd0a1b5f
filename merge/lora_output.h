/* What the commands that write LoRAs share: options, metadata, report. */
#ifndef CK_LORA_OUTPUT_H
#define CK_LORA_OUTPUT_H

#include "io/anatomy.h"
#include "io/cli.h"
#include "merge/lora_make.h"

typedef struct ck_lora_output {
    const char *path, *dynamic, *dtype;
    uint64_t rank, conv_rank, threads;
    bool rank_given, conv_given, force, quiet, json;
} ck_lora_output;

#define CK_LORA_OPTIONS(o)                                                                         \
    {.name = "output",                                                                             \
     .letter = 'o',                                                                                \
     .argument = "FILE",                                                                           \
     .type = CK_OPT_TEXT,                                                                          \
     .value = &(o).path,                                                                           \
     .help = "the LoRA"},                                                                          \
        {.name = "rank",                                                                           \
         .letter = 'r',                                                                            \
         .argument = "N",                                                                          \
         .type = CK_OPT_COUNT,                                                                     \
         .value = &(o).rank,                                                                       \
         .given = &(o).rank_given,                                                                 \
         .help = "rank of every layer, or the most with --dynamic"},                               \
        {.name = "conv-rank",                                                                      \
         .argument = "N",                                                                          \
         .type = CK_OPT_COUNT,                                                                     \
         .value = &(o).conv_rank,                                                                  \
         .given = &(o).conv_given,                                                                 \
         .help = "the same for convolutions larger than 1x1; default: as --rank; 0 leaves them "   \
                 "out"},                                                                           \
        {.name = "dynamic",                                                                        \
         .argument = "KIND=X",                                                                     \
         .type = CK_OPT_TEXT,                                                                      \
         .value = &(o).dynamic,                                                                    \
         .help = "choose each layer's rank by its singular values: ratio=X keeps those larger "    \
                 "than the largest / X, cumulative=X as few as add up to the share X of all, "     \
                 "fro=X as few as have the share X of the change's length"},                       \
        {.name = "dtype",                                                                          \
         .argument = "D",                                                                          \
         .type = CK_OPT_CHOICE,                                                                    \
         .value = &(o).dtype,                                                                      \
         .choices = "f16|bf16|f32",                                                                \
         .help = "type of the LoRA's tensors (default f16)"},                                      \
        {.name = "threads",                                                                        \
         .letter = 't',                                                                            \
         .argument = "N",                                                                          \
         .type = CK_OPT_COUNT,                                                                     \
         .value = &(o).threads,                                                                    \
         .help = "layers at a time (default: processors); each takes memory for its weight in "    \
                 "f32, three times"},                                                              \
        {.name = "force",                                                                          \
         .letter = 'f',                                                                            \
         .type = CK_OPT_FLAG,                                                                      \
         .value = &(o).force,                                                                      \
         .help = "replace existing files"},                                                        \
        {.name = "json", .type = CK_OPT_FLAG, .value = &(o).json, .help = "report as JSON"}, {     \
        .name = "quiet", .letter = 'q', .type = CK_OPT_FLAG, .value = &(o).quiet,                  \
        .help = "print errors only"                                                                \
    }

/* Options as ck_lora_make wants them; refuses what makes no sense, and an output that exists. */
ck_status ck_lora_output_options(const ck_lora_output *o, ck_lora_make_options *options,
                                 ck_error *err);

/* ck_lora_make with progress; then writes with the metadata that kohya's tools would give it, and
 * reports. What it is for: a model's architecture (which may be unknown), or, where that is NULL,
 * what `like`, another LoRA, says. */
ck_status ck_lora_output_write(
    const ck_lora_output *o, ck_lora_make_options *options, const ck_lora_layer *layers,
    size_t count, ck_status (*read)(void *context, size_t i, float *change, ck_error *err),
    void *context, const ck_architecture *architecture, const ck_reader *like, ck_error *err);

#endif
