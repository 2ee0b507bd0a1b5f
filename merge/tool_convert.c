/* cktool convert: a checkpoint of any format as safetensors, HDF5 or a diffusers folder, in another
 * layout or type. */
#include "io/layout.h"
#include "io/scaled.h"
#include "io/utf8.h"
#include "merge/parts.h"
#include "merge/tool.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *layout, *shard_size;
static bool drop_unused;
static ck_parts_output output;

static const ck_option options[] = {
    {.name = "layout",
     .argument = "L",
     .type = CK_OPT_CHOICE,
     .value = &layout,
     .choices = "ldm|original|diffusers",
     .help = "names and cuts of the tensors: ldm (or original: as the model was published) or "
             "diffusers; default: as they are"},
    {.name = "drop-unused",
     .type = CK_OPT_FLAG,
     .value = &drop_unused,
     .help = "leave out tensors that programs of the other layout do not load; without this, "
             "converting there and back gives the same file"},
    {.name = "max-shard-size",
     .argument = "SIZE",
     .type = CK_OPT_TEXT,
     .value = &shard_size,
     .help = "several files of at most this size, and an index: 5GB, 500MB"},
    {.name = "configs",
     .argument = "FOLDER",
     .type = CK_OPT_TEXT,
     .value = &output.configs,
     .help = "a diffusers folder whose configs, tokenizers and scheduler the new one gets "
             "(default: those of IN, if it is one)"},
    CK_PARTS_OPTIONS(output),
    {0},
};

static const ck_command command = {
    .name = "cktool convert",
    .summary = "convert a checkpoint to safetensors, HDF5 or a folder, another layout or type",
    .synopsis = "[--layout ldm|diffusers] [--dtype D] IN OUT.safetensors|OUT.h5|OUT/",
    .details =
        "IN is anything that can be read: safetensors, a sharded index, a diffusers folder, .ckpt "
        "(nothing in it is executed), GGUF, HDF5, .keras. OUT is written as HDF5 where it ends in "
        ".h5 or "
        ".hdf5, and as a diffusers folder where it ends in / or is an empty folder: its configs "
        "are "
        "those of IN or of --configs, or are made for models of published sizes; a tokenizer is "
        "never made. Quantised weights become the values they stand "
        "for: "
        "choose a type with --dtype.",
    .options = options,
    .examples = "$ cktool convert old.ckpt model.safetensors --dtype f16\n"
                "$ cktool convert folder/ model.safetensors --layout ldm\n"
                "$ cktool convert model.safetensors model.h5\n"
                "$ cktool convert sdxl.safetensors folder/ --configs stable-diffusion-xl-base-1.0\n"
                "$ cktool convert flux.gguf flux.safetensors --dtype bf16 --max-shard-size 5GB",
    .files = true,
};

/* "5GB", "500MB", "1000000" to bytes. */
static ck_status parse_size(const char *text, uint64_t *bytes, ck_error *err) {
    static const struct {
        const char *unit;
        double factor;
    } units[] = {{"", 1},     {"B", 1},      {"KB", 1e3},      {"MB", 1e6},
                 {"GB", 1e9}, {"KiB", 1024}, {"MiB", 1048576}, {"GiB", 1073741824}};
    char *end;
    double number = strtod(text, &end);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (end != text && strcasecmp(end, units[i].unit) == 0 && number * units[i].factor >= 1 &&
            number * units[i].factor < 1e18) {
            *bytes = (uint64_t)(number * units[i].factor);
            return CK_OK;
        }
    return ck_fail(err, CK_USAGE, "--max-shard-size %s: must be a size such as 5GB or 500MB", text);
}

static ck_status convert(ck_reader *in, const char *path, uint64_t shard, ck_error *err) {
    if (ck_save_is_folder(path)) {
        if (layout && strcmp(layout, "diffusers") != 0)
            return ck_fail(err, CK_USAGE, "%s: a folder is in diffusers' layout, not in %s", path,
                           layout);
        layout = "diffusers";
    } else if (output.configs) {
        return ck_fail(err, CK_USAGE, "--configs is for folders; %s is a file", path);
    }
    if (!layout) return ck_parts_write(in, path, &output, shard, err);
    ck_reader *view;
    ck_layout_report report;
    ck_layout target = strcmp(layout, "diffusers") == 0 ? CK_LAYOUT_DIFFUSERS : CK_LAYOUT_ORIGINAL;
    CK_TRY(ck_layout_convert(in, target, drop_unused ? CK_UNUSED_DROP : CK_UNUSED_KEEP, &view,
                             &report, err));
    char name[1024];
    if (report.dropped && !output.quiet && !output.json)
        printf("%zu tensors left out, '%s' the first of them\n", report.dropped,
               ck_printable(name, sizeof name, report.first_dropped));
    ck_status status = ck_parts_write(view, path, &output, shard, err);
    ck_reader_close(view);
    return status;
}

static ck_status run(const char *const *operands, size_t count, ck_error *err) {
    (void)count;
    uint64_t shard = 0;
    if (shard_size) CK_TRY(parse_size(shard_size, &shard, err));
    ck_reader *in, *plain = NULL;
    size_t scaled;
    CK_TRY(ck_reader_open(operands[0], &in, err));
    if (ck_reader_skipped(in) && !output.quiet)
        fprintf(stderr, "cktool: warning: %s: %zu entries that are no tensors are left out\n",
                operands[0], ck_reader_skipped(in));
    ck_status status = ck_scaled_open(in, &plain, &scaled, err);
    if (status == CK_OK) status = convert(plain ? plain : in, operands[1], shard, err);
    ck_reader_close(plain);
    ck_reader_close(in);
    return status;
}

const ck_tool ck_tool_convert = {
    .command = &command, .min_operands = 2, .max_operands = 2, .run = run};
