/* cktool swap-vae: a model with another VAE. */
#include "io/layout.h"
#include "io/view.h"
#include "merge/parts.h"
#include "merge/tool.h"

#include <string.h>

static ck_parts_output output;

static const ck_option options[] = {
    {.name = "output",
     .letter = 'o',
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &output.path,
     .help = "the model with the other VAE"},
    CK_PARTS_OPTIONS(output),
    {0},
};

static const ck_command command = {
    .name = "cktool swap-vae",
    .summary = "put another VAE into a model",
    .synopsis = "MODEL VAE -o OUT",
    .details =
        "VAE is a file with a VAE, alone or in a whole model, in the original or diffusers "
        "layout. Every tensor of the model's VAE is replaced; one that the other VAE lacks, or "
        "has in another shape, is an error.",
    .options = options,
    .examples =
        "$ cktool swap-vae model.safetensors vae-ft-mse-840000.safetensors -o better.safetensors",
    .files = true,
};

static ck_status find_vae(const ck_reader *r, const ck_anatomy *a, size_t *component,
                          ck_error *err) {
    for (*component = 0; *component < a->component_count; ++*component)
        if (a->components[*component].part == CK_PART_VAE) return CK_OK;
    return ck_fail(err, CK_INPUT, "%s: no VAE is in it; see `cktool inspect`", ck_reader_path(r));
}

/* Adds the VAE of another file; only the component, without what else the file has. */
static ck_status add_vae(ck_reader *view, const char *path, const char *prefix, ck_error *err) {
    ck_reader *r;
    ck_anatomy a;
    CK_TRY(ck_reader_open(path, &r, err));
    CK_TRY(ck_view_own(view, r, err));
    CK_TRY(ck_anatomy_of(r, &a, err));
    size_t component;
    ck_status status = find_vae(r, &a, &component, err);
    if (status == CK_OK) status = ck_parts_add(view, prefix, r, &a, component, err);
    ck_anatomy_free(&a);
    return status;
}

/* Whether the new model has each tensor of the old one's VAE, in the same shape. */
static ck_status check(const ck_reader *old, const ck_anatomy *a, size_t vae,
                       const ck_reader *fresh, const char *vae_path, ck_error *err) {
    for (size_t i = 0; i < ck_reader_count(old); i++) {
        if (a->component_of[i] != vae) continue;
        const ck_tensor *x = ck_reader_tensor(old, i), *y = ck_reader_find(fresh, x->name);
        char shape[128], other[128];
        if (!y)
            return ck_fail(err, CK_INPUT, "%s: lacks '%s', which the VAE of %s has", vae_path,
                           x->name, ck_reader_path(old));
        if (x->rank != y->rank || memcmp(x->shape, y->shape, x->rank * sizeof *x->shape) != 0)
            return ck_fail(err, CK_INPUT,
                           "%s: '%s' has shape %s, in %s it is %s: not a VAE for this model",
                           vae_path, x->name, ck_tensor_shape_text(y, other, sizeof other),
                           ck_reader_path(old), ck_tensor_shape_text(x, shape, sizeof shape));
    }
    return CK_OK;
}

static ck_status swap(const ck_reader *model, const ck_anatomy *a, const char *vae_path,
                      ck_error *err) {
    size_t vae;
    CK_TRY(find_vae(model, a, &vae, err));
    bool others[CK_PART_COUNT];
    for (int part = 0; part < CK_PART_COUNT; part++) others[part] = part != CK_PART_VAE;
    ck_reader *view, *like = NULL;
    CK_TRY(ck_view_new(ck_reader_path(model), &view, err));
    ck_status status = ck_parts_add_named(view, model, a, others, err);
    if (status == CK_OK) status = add_vae(view, vae_path, a->components[vae].prefix, err);
    if (status == CK_OK) status = ck_view_copy_metadata(view, model, err);
    if (status == CK_OK) status = ck_view_finish(view, err);
    if (status == CK_OK) status = ck_layout_like(view, model, &like, NULL, err);
    if (status == CK_OK) status = check(model, a, vae, like, vae_path, err);
    if (status == CK_OK) status = ck_parts_write(like, output.path, &output, 0, err);
    ck_reader_close(like);
    ck_reader_close(view);
    return status;
}

static ck_status run(const char *const *operands, size_t count, ck_error *err) {
    (void)count;
    if (!output.path) return ck_fail(err, CK_USAGE, "-o OUT is needed");
    ck_reader *model;
    ck_anatomy a;
    CK_TRY(ck_reader_open(operands[0], &model, err));
    ck_status status = ck_anatomy_of(model, &a, err);
    if (status == CK_OK) {
        status = swap(model, &a, operands[1], err);
        ck_anatomy_free(&a);
    }
    ck_reader_close(model);
    return status;
}

const ck_tool ck_tool_swap_vae = {
    .command = &command, .min_operands = 2, .max_operands = 2, .run = run};
