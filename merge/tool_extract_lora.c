/* cktool extract-lora: what a fine-tune learned over its base, as a LoRA. */
#include "io/layout.h"
#include "io/scaled.h"
#include "merge/lora_difference.h"
#include "merge/lora_output.h"
#include "merge/tool.h"

static ck_lora_output output;
static double least_change;

static const ck_option options[] = {
    CK_LORA_OPTIONS(output),
    {.name = "min-change",
     .argument = "X",
     .type = CK_OPT_NUMBER,
     .value = &least_change,
     .help = "leave out layers in which no value changed by more than this (default 0)"},
    {0},
};

static const ck_command command = {
    .name = "cktool extract-lora",
    .summary = "take what a model learned over its base out as a LoRA",
    .synopsis = "TUNED BASE -o OUT [--rank 32] [--conv-rank N] [--dynamic ratio=20]",
    .details =
        "For every weight of the denoiser and the text encoders the difference is made in f32 and "
        "brought down to its largest singular values, `--rank` of them (default 32). The names "
        "are those of kohya's tools, which every program reads. `ckmerge BASE --lora OUT` gives "
        "back TUNED as far as the ranks hold it; the report says how far: the share of the "
        "changes' length (root of the sum of squares) that is in the LoRA. Norms, biases and VAE "
        "are not taken out. The models may be in different layouts.",
    .options = options,
    .examples = "$ cktool extract-lora tuned.safetensors base.safetensors -o style.safetensors\n"
                "$ cktool extract-lora tuned.safetensors base.safetensors -o style.safetensors "
                "--rank 128 --dynamic fro=0.95\n"
                "  as small as 95% of the changes allow, rank 128 at most",
    .files = true,
};

/* A model as plain numbers, in another's layout. */
typedef struct model {
    ck_reader *file, *plain, *view;
} model;

static const ck_reader *reader_of(const model *m) {
    return m->view ? m->view : m->plain ? m->plain : m->file;
}

static void close_model(model *m) {
    ck_reader_close(m->view);
    ck_reader_close(m->plain);
    ck_reader_close(m->file);
}

static ck_status open_model(const char *path, const ck_reader *like, model *m, ck_error *err) {
    size_t scaled, missing = 0;
    CK_TRY(ck_reader_open(path, &m->file, err));
    CK_TRY(ck_scaled_open(m->file, &m->plain, &scaled, err));
    const ck_reader *r = reader_of(m);
    for (size_t i = 0; like && i < ck_reader_count(like); i++)
        missing += ck_reader_find(r, ck_reader_tensor(like, i)->name) == NULL;
    return missing ? ck_layout_like(r, like, &m->view, NULL, err) : CK_OK;
}

typedef struct extraction {
    model tuned, base;
    ck_lora_difference difference;
} extraction;

static ck_status extract(extraction *x, const char *const *paths, ck_lora_make_options *make,
                         ck_error *err) {
    CK_TRY(open_model(paths[1], NULL, &x->base, err));
    CK_TRY(open_model(paths[0], reader_of(&x->base), &x->tuned, err));
    ck_lora_difference *d = &x->difference;
    CK_TRY(ck_lora_difference_of(reader_of(&x->tuned), reader_of(&x->base), d, err));
    ck_anatomy a;
    CK_TRY(ck_anatomy_of(reader_of(&x->base), &a, err));
    ck_status status = ck_lora_output_write(&output, make, d->layers, d->count,
                                            ck_lora_difference_read, d, a.architecture, NULL, err);
    ck_anatomy_free(&a);
    return status;
}

static ck_status run(const char *const *operands, size_t count, ck_error *err) {
    (void)count;
    ck_lora_make_options make;
    if (!output.rank_given && !output.conv_given) {
        output.rank = 32;
        output.rank_given = true;
    }
    CK_TRY(ck_lora_output_options(&output, &make, err));
    make.cut.least_change = least_change;
    extraction x = {0};
    ck_status status = extract(&x, operands, &make, err);
    ck_lora_difference_free(&x.difference);
    close_model(&x.tuned);
    close_model(&x.base);
    return status;
}

const ck_tool ck_tool_extract_lora = {
    .command = &command, .min_operands = 2, .max_operands = 2, .run = run};
