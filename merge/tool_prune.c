/* cktool prune: a model without what no program loads. */
#include "io/os.h"
#include "io/view.h"
#include "merge/parts.h"
#include "merge/tool.h"

#include <stdlib.h>
#include <string.h>

static bool keep_ema, use_ema;
static ck_parts_output output;

static const ck_option options[] = {
    {.name = "output",
     .letter = 'o',
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &output.path,
     .help = "the pruned model"},
    {.name = "keep-ema",
     .type = CK_OPT_FLAG,
     .value = &keep_ema,
     .help = "keep the averaged copies of the weights"},
    {.name = "use-ema",
     .type = CK_OPT_FLAG,
     .value = &use_ema,
     .help = "put the averaged copies in the place of the weights"},
    CK_PARTS_OPTIONS(output),
    {0},
};

static const ck_command command = {
    .name = "cktool prune",
    .summary = "drop averaged weights and leftovers of training from a model",
    .synopsis = "MODEL -o OUT [--keep-ema | --use-ema] [--dtype f16]",
    .details =
        "Dropped are averaged copies of the weights (model_ema.*), noise schedules, and other "
        "tensors that training leaves behind and no program loads. Markers that say what the "
        "model predicts (v_pred, ztsnr) stay.",
    .options = options,
    .examples = "$ cktool prune v1-5-full.ckpt -o v1-5.safetensors --use-ema --dtype f16",
    .files = true,
};

/* The averaged copy of a weight: "model_ema." and the name behind its first dot without dots. */
static ck_status find_ema(const ck_reader *r, const char *name, const ck_tensor **ema,
                          ck_error *err) {
    *ema = NULL;
    const char *rest = strchr(name, '.');
    if (!rest || strncmp(name, "model.", 6) != 0) return CK_OK;
    char *copy = ck_sprintf("model_ema.%s", rest + 1);
    if (!copy) return ck_fail_memory(err, name);
    char *to = copy + strlen("model_ema.");
    for (const char *from = to; *from; from++)
        if (*from != '.') *to++ = *from;
    *to = 0;
    *ema = ck_reader_find(r, copy);
    free(copy);
    return CK_OK;
}

static ck_status add_all(ck_reader *view, const ck_reader *r, const ck_anatomy *a, size_t *averaged,
                         ck_error *err) {
    for (size_t i = 0; i < ck_reader_count(r); i++) {
        const ck_tensor *t = ck_reader_tensor(r, i), *source = t;
        ck_part part = a->components[a->component_of[i]].part;
        if (part == CK_PART_TRAINING || (part == CK_PART_EMA && !keep_ema)) continue;
        if (use_ema) {
            const ck_tensor *ema;
            CK_TRY(find_ema(r, t->name, &ema, err));
            if (ema && ema->nbytes / (ck_dtype_bits(ema->dtype) / 8) == t->elements) {
                source = ema;
                ++*averaged;
            }
        }
        CK_TRY(ck_view_rename(view, t->name, r, source, err));
    }
    return CK_OK;
}

static ck_status prune(const ck_reader *r, const ck_anatomy *a, ck_error *err) {
    ck_reader *view;
    size_t averaged = 0;
    CK_TRY(ck_view_new(ck_reader_path(r), &view, err));
    ck_status status = add_all(view, r, a, &averaged, err);
    if (status == CK_OK && use_ema && averaged == 0)
        status =
            ck_fail(err, CK_INPUT, "%s: has no averaged weights (model_ema.*)", ck_reader_path(r));
    if (status == CK_OK) status = ck_view_copy_metadata(view, r, err);
    if (status == CK_OK) status = ck_view_finish(view, err);
    if (status == CK_OK && !output.quiet && !output.json)
        printf("%zu of %zu tensors dropped, %zu replaced by their averages\n",
               ck_reader_count(r) - ck_reader_count(view), ck_reader_count(r), averaged);
    if (status == CK_OK) status = ck_parts_write(view, output.path, &output, 0, err);
    ck_reader_close(view);
    return status;
}

static ck_status run(const char *const *operands, size_t count, ck_error *err) {
    (void)count;
    if (!output.path) return ck_fail(err, CK_USAGE, "-o OUT is needed");
    if (keep_ema && use_ema) return ck_fail(err, CK_USAGE, "--keep-ema or --use-ema, not both");
    ck_reader *r;
    ck_anatomy a;
    CK_TRY(ck_reader_open(operands[0], &r, err));
    ck_status status = ck_anatomy_of(r, &a, err);
    if (status == CK_OK) {
        status = prune(r, &a, err);
        ck_anatomy_free(&a);
    }
    ck_reader_close(r);
    return status;
}

const ck_tool ck_tool_prune = {
    .command = &command, .min_operands = 1, .max_operands = 1, .run = run};
