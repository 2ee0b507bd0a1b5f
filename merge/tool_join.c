/* cktool join: one model from components in files of their own. */
#include "io/layout.h"
#include "io/view.h"
#include "merge/parts.h"
#include "merge/tool.h"

#include <stdlib.h>

/* The files, by what is taken from them. Prefixes are only for telling the components apart: the
 * layout's own come when they are put together. */
enum { UNET, CLIP, CLIP2, T5, VAE, REST, FILES };
static const char *files[FILES];
static const char *const prefixes[FILES] = {"unet.",           "text_encoder.", "text_encoder_2.",
                                            "text_encoder_3.", "vae.",          ""};
static ck_parts_output output;

static const ck_option options[] = {
    {.name = "unet",
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &files[UNET],
     .help = "the denoiser: UNet or transformer"},
    {.name = "clip",
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &files[CLIP],
     .help = "a text encoder"},
    {.name = "clip2",
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &files[CLIP2],
     .help = "a second text encoder (SDXL, SD3)"},
    {.name = "t5",
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &files[T5],
     .help = "a third text encoder (SD3), or FLUX's T5"},
    {.name = "vae",
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &files[VAE],
     .help = "the VAE"},
    {.name = "rest",
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &files[REST],
     .help = "what `cktool split` found besides; taken under its full names"},
    {.name = "output",
     .letter = 'o',
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &output.path,
     .help = "the model"},
    CK_PARTS_OPTIONS(output),
    {0},
};

static const ck_command command = {
    .name = "cktool join",
    .summary = "put components together to one model",
    .synopsis =
        "--unet FILE [--clip FILE] [--clip2 FILE] [--t5 FILE] [--vae FILE] [--rest FILE] -o OUT",
    .details =
        "Each file may hold more than the component that is taken from it: a whole model gives "
        "its UNet to --unet and its VAE to --vae. Names are those of the original layout "
        "(LDM, SGM, BFL) of the architecture that the UNet has.",
    .options = options,
    .examples = "$ cktool join --unet parts/unet.safetensors --clip parts/clip_l.safetensors \\\n"
                "      --vae other.safetensors -o model.safetensors\n"
                "  one model's UNet and text encoder with another one's VAE",
    .files = true,
};

static bool fits(int file, ck_part part) {
    return file == UNET   ? ck_part_is_denoiser(part)
           : file == VAE  ? part == CK_PART_VAE
           : file == REST ? false
                          : ck_part_is_text_encoder(part);
}

static const char *wanted_text(int file) {
    return file == UNET ? "UNet or transformer" : file == VAE ? "VAE" : "text encoder";
}

/* The one component of the file that fits its option. A whole model has two text encoders: the
 * first is taken by --clip, the second by --clip2, T5 by --t5. */
static ck_status choose(int file, const ck_reader *r, const ck_anatomy *a, size_t *component,
                        ck_error *err) {
    size_t found = 0;
    for (size_t c = 0; c < a->component_count; c++)
        if (fits(file, a->components[c].part)) {
            bool takes = found == 0 || (file == CLIP2 && found == 1) ||
                         (file == T5 && a->components[c].part == CK_PART_T5);
            if (takes) *component = c;
            found++;
        }
    if (found) return CK_OK;
    return ck_fail(err, CK_INPUT, "%s: no %s is in it; see `cktool inspect`", ck_reader_path(r),
                   wanted_text(file));
}

static ck_status add_file(ck_reader *view, int file, ck_error *err) {
    static const bool markers[CK_PART_COUNT] = {[CK_PART_MARKER] = true};
    ck_reader *r;
    ck_anatomy a;
    CK_TRY(ck_reader_open(files[file], &r, err));
    CK_TRY(ck_view_own(view, r, err));
    if (file == REST) {
        for (size_t i = 0; i < ck_reader_count(r); i++)
            CK_TRY(
                ck_view_rename(view, ck_reader_tensor(r, i)->name, r, ck_reader_tensor(r, i), err));
        return CK_OK;
    }
    CK_TRY(ck_anatomy_of(r, &a, err));
    size_t component = 0;
    ck_status status = choose(file, r, &a, &component, err);
    if (status == CK_OK) status = ck_parts_add(view, prefixes[file], r, &a, component, err);
    if (status == CK_OK && file == UNET) status = ck_parts_add_named(view, r, &a, markers, err);
    if (status == CK_OK) status = ck_view_copy_metadata(view, r, err);
    ck_anatomy_free(&a);
    return status;
}

static ck_status join(ck_reader *view, ck_error *err) {
    for (int f = 0; f < FILES; f++)
        if (files[f]) CK_TRY(add_file(view, f, err));
    CK_TRY(ck_view_finish(view, err));
    ck_reader *whole;
    CK_TRY(ck_layout_convert(view, CK_LAYOUT_ORIGINAL, CK_UNUSED_KEEP, &whole, NULL, err));
    ck_status status = ck_parts_write(whole, output.path, &output, 0, err);
    ck_reader_close(whole);
    return status;
}

static ck_status run(const char *const *operands, size_t count, ck_error *err) {
    (void)operands, (void)count;
    if (!files[UNET] || !output.path)
        return ck_fail(err, CK_USAGE,
                       "--unet FILE and -o OUT are needed; see `cktool join --help`");
    ck_reader *view;
    CK_TRY(ck_view_new(files[UNET], &view, err));
    ck_status status = join(view, err);
    ck_reader_close(view);
    return status;
}

const ck_tool ck_tool_join = {
    .command = &command, .min_operands = 0, .max_operands = 0, .run = run};
