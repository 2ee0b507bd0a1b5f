/* cktool inspect: what a checkpoint is and what it is made of. */
#include "io/anatomy.h"
#include "io/progress.h"
#include "merge/tool.h"

#include <inttypes.h>

static bool json;

static const ck_option options[] = {
    {.name = "json", .type = CK_OPT_FLAG, .value = &json, .help = "as one JSON document"},
    {0},
};

static const ck_command command = {
    .name = "cktool inspect",
    .summary = "tell what checkpoints are and what is in them",
    .synopsis = "[--json] FILE...",
    .details =
        "Architecture, variant and prediction of the denoiser, the components with their tensors, "
        "parameters, bytes and types, and where the model stands as far as its metadata or tensors "
        "tell: merged, finetuned, distilled, an adapter.\n"
        "Reads headers, and for Stable Diffusion 2 one small tensor: quick whatever the size.",
    .options = options,
    .examples = "$ cktool inspect model.safetensors\n"
                "$ cktool inspect --json diffusers-folder/ | jq '.[0].architecture'",
    .files = true,
};

static void print_component(const ck_component *c) {
    char bytes[32];
    printf("  %-28s %6zu tensors %12" PRIu64 " parameters %9s ", ck_part_title(c->part), c->tensors,
           c->elements, ck_format_bytes(bytes, sizeof bytes, c->nbytes));
    for (int d = CK_DTYPE_COUNT - 1; d >= 0; d--) {
        if (!c->by_dtype[d]) continue;
        printf(" %s", ck_dtype_name((ck_dtype)d));
        if (c->by_dtype[d] != c->tensors) printf(" (%zu)", c->by_dtype[d]);
    }
    if (c->tensors < c->needed) printf("; incomplete: %zu are usual", c->needed);
    putchar('\n');
}

static void print_text(const ck_reader *r, const ck_anatomy *a) {
    uint64_t nbytes = 0, elements = 0;
    char bytes[32];
    for (size_t i = 0; i < a->component_count; i++) {
        nbytes += a->components[i].nbytes;
        elements += a->components[i].elements;
    }
    printf("%s: %s, %zu tensors, %" PRIu64 " parameters, %s\n", ck_reader_path(r),
           ck_reader_format(r), ck_reader_count(r), elements,
           ck_format_bytes(bytes, sizeof bytes, nbytes));
    if (ck_reader_skipped(r))
        printf("left out      %zu entries that are no tensors\n", ck_reader_skipped(r));
    printf("architecture  %s", a->architecture->title);
    if (a->variant) printf(", %s", a->variant);
    if (a->unusual) printf("; unusual size: %s", a->unusual);
    printf("\nlayout        %s\n", ck_layout_name(a->layout));
    printf("prediction    %s", ck_prediction_name(a->prediction));
    if (a->prediction_reason) printf(" (%s)", a->prediction_reason);
    if (a->zero_snr) printf(", zero terminal SNR (the marker ztsnr)");
    putchar('\n');
    for (size_t i = 0; i < a->mark_count; i++)
        printf("%-13s %s (%s)\n", i ? "" : "stands as", a->marks[i].place, a->marks[i].text);
    if (!a->mark_count) printf("stands as     not known: nothing in the file says\n");
    printf("components\n");
    for (size_t i = 0; i < a->component_count; i++) print_component(&a->components[i]);
}

static cJSON *add_text(cJSON *object, const char *name, const char *text) {
    return text ? cJSON_AddStringToObject(object, name, text) : cJSON_AddNullToObject(object, name);
}

static bool add_component(cJSON *list, const ck_component *c) {
    cJSON *object = ck_tool_add_object(list);
    bool ok = add_text(object, "part", ck_part_name(c->part)) &&
              add_text(object, "title", ck_part_title(c->part)) &&
              add_text(object, "prefix", c->prefix) &&
              add_text(object, "layout", ck_layout_name(c->layout)) &&
              cJSON_AddNumberToObject(object, "tensors", (double)c->tensors) &&
              cJSON_AddNumberToObject(object, "parameters", (double)c->elements) &&
              cJSON_AddNumberToObject(object, "bytes", (double)c->nbytes) &&
              (!c->needed || cJSON_AddBoolToObject(object, "complete", c->tensors >= c->needed));
    cJSON *dtypes = cJSON_AddObjectToObject(object, "dtypes");
    for (int d = 0; d < CK_DTYPE_COUNT && ok; d++)
        ok = !c->by_dtype[d] ||
             cJSON_AddNumberToObject(dtypes, ck_dtype_name((ck_dtype)d), (double)c->by_dtype[d]);
    return ok && dtypes;
}

static bool fill_json(cJSON *object, const ck_reader *r, const ck_anatomy *a) {
    bool ok = add_text(object, "format", ck_reader_format(r)) &&
              cJSON_AddNumberToObject(object, "skipped", (double)ck_reader_skipped(r)) &&
              add_text(object, "architecture", a->architecture->name) &&
              add_text(object, "modelspec_architecture", a->architecture->modelspec) &&
              add_text(object, "variant", a->variant) && add_text(object, "unusual", a->unusual) &&
              add_text(object, "layout", ck_layout_name(a->layout)) &&
              add_text(object, "prediction", ck_prediction_name(a->prediction)) &&
              add_text(object, "prediction_reason", a->prediction_reason) &&
              cJSON_AddBoolToObject(object, "zero_snr", a->zero_snr);
    cJSON *marks = cJSON_AddArrayToObject(object, "marks");
    for (size_t i = 0; i < a->mark_count && ok; i++) {
        cJSON *mark = ck_tool_add_object(marks);
        ok = add_text(mark, "place", a->marks[i].place) &&
             add_text(mark, "reason", a->marks[i].text);
    }
    cJSON *components = cJSON_AddArrayToObject(object, "components");
    for (size_t i = 0; i < a->component_count && ok; i++)
        ok = add_component(components, &a->components[i]);
    return ok && marks && components;
}

static ck_status run_file(const char *path, cJSON *object, bool *finding, ck_error *err) {
    (void)finding;
    ck_reader *r;
    ck_anatomy a;
    CK_TRY(ck_reader_open(path, &r, err));
    ck_status status = ck_anatomy_of(r, &a, err);
    if (status == CK_OK) {
        if (!object)
            print_text(r, &a);
        else if (!fill_json(object, r, &a))
            status = ck_fail_memory(err, path);
        ck_anatomy_free(&a);
    }
    ck_reader_close(r);
    return status;
}

const ck_tool ck_tool_inspect = {
    .command = &command, .min_operands = 1, .run_file = run_file, .json = &json};
