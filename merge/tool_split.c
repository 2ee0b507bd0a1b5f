/* cktool split: each component of a model to a file of its own. */
#include "io/os.h"
#include "io/view.h"
#include "merge/parts.h"
#include "merge/tool.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

static const char *folder;
static ck_parts_output output;

static const ck_option options[] = {
    {.name = "dir",
     .letter = 'd',
     .argument = "DIR",
     .type = CK_OPT_TEXT,
     .value = &folder,
     .help = "the folder for the files, made if it is not there (default: the current one)"},
    CK_PARTS_OPTIONS(output),
    {0},
};

static const ck_command command = {
    .name = "cktool split",
    .summary = "write each component of a model to a file of its own",
    .synopsis = "MODEL -d DIR",
    .details =
        "unet.safetensors (or transformer), clip_l, clip_g, clip_h, t5xxl, vae: what is there, "
        "with "
        "the names that programs expect which load components from files of their own. What "
        "belongs "
        "to no component (averaged weights, leftovers of training) goes to rest.safetensors under "
        "its full names. `cktool join` puts the same model together again.",
    .options = options,
    .examples = "$ cktool split sd15.safetensors -d parts",
    .files = true,
};

/* Markers such as v_pred say how the denoiser is to be used: they stay with it. */
static const bool with_denoiser[CK_PART_COUNT] = {[CK_PART_MARKER] = true};
static const bool rest[CK_PART_COUNT] = {[CK_PART_SAFETY] = true,
                                         [CK_PART_EMA] = true,
                                         [CK_PART_TRAINING] = true,
                                         [CK_PART_OTHER] = true};

static ck_status write_view(const ck_reader *r, ck_reader *view, const char *name, ck_error *err) {
    CK_TRY(ck_view_copy_metadata(view, r, err));
    CK_TRY(ck_view_finish(view, err));
    char *path = ck_sprintf("%s/%s.safetensors", folder, name);
    if (!path) return ck_fail_memory(err, name);
    ck_status status = ck_parts_write(view, path, &output, 0, err);
    free(path);
    return status;
}

static ck_status split_component(const ck_reader *r, const ck_anatomy *a, size_t c, ck_error *err) {
    ck_reader *view;
    ck_part part = a->components[c].part;
    CK_TRY(ck_view_new(ck_reader_path(r), &view, err));
    ck_status status = ck_parts_add(view, "", r, a, c, err);
    if (status == CK_OK && ck_part_is_denoiser(part))
        status = ck_parts_add_named(view, r, a, with_denoiser, err);
    if (status == CK_OK) status = write_view(r, view, ck_part_name(part), err);
    ck_reader_close(view);
    return status;
}

static ck_status split_rest(const ck_reader *r, const ck_anatomy *a, ck_error *err) {
    bool any = false;
    for (size_t c = 0; c < a->component_count; c++) any |= rest[a->components[c].part];
    if (!any) return CK_OK;
    ck_reader *view;
    CK_TRY(ck_view_new(ck_reader_path(r), &view, err));
    ck_status status = ck_parts_add_named(view, r, a, rest, err);
    if (status == CK_OK) status = write_view(r, view, "rest", err);
    ck_reader_close(view);
    return status;
}

static ck_status split(const ck_reader *r, const ck_anatomy *a, ck_error *err) {
    size_t models = 0;
    for (size_t c = 0; c < a->component_count; c++)
        models += ck_part_is_model(a->components[c].part);
    if (models == 0)
        return ck_fail(err, CK_INPUT, "%s: no component of a known model is in it; see `cktool ls`",
                       ck_reader_path(r));
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) return ck_fail_errno(err, "%s", folder);
    for (size_t c = 0; c < a->component_count; c++)
        if (ck_part_is_model(a->components[c].part)) CK_TRY(split_component(r, a, c, err));
    return split_rest(r, a, err);
}

static ck_status run(const char *const *operands, size_t count, ck_error *err) {
    (void)count;
    if (!folder) folder = ".";
    ck_reader *r;
    ck_anatomy a;
    CK_TRY(ck_reader_open(operands[0], &r, err));
    ck_status status = ck_anatomy_of(r, &a, err);
    if (status == CK_OK) {
        status = split(r, &a, err);
        ck_anatomy_free(&a);
    }
    ck_reader_close(r);
    return status;
}

const ck_tool ck_tool_split = {
    .command = &command, .min_operands = 1, .max_operands = 1, .run = run};
