/* cktool ls: what is in a file. */
#include "io/progress.h"
#include "io/utf8.h"
#include "merge/tool.h"

#include <inttypes.h>
#include <stdlib.h>

static bool json;

static const ck_option options[] = {
    {.name = "json", .type = CK_OPT_FLAG, .value = &json, .help = "as one JSON document"},
    {0},
};

static const ck_command command = {
    .name = "cktool ls",
    .summary = "list the tensors and metadata of checkpoints",
    .synopsis = "[--json] FILE...",
    .details = "Reads only the header: quick whatever the size of the file.",
    .options = options,
    .examples = "$ cktool ls model.safetensors\n"
                "$ cktool ls --json model.safetensors | jq '.[0].tensors | length'",
    .files = true,
};

static void print_text(const ck_reader *r) {
    char buf[256], name[1024];
    uint64_t bytes = 0, elements = 0, by_type[CK_DTYPE_COUNT] = {0};
    for (size_t i = 0; i < ck_reader_count(r); i++) {
        const ck_tensor *t = ck_reader_tensor(r, i);
        printf("%-8s %-20s %s\n", ck_dtype_name(t->dtype), ck_tensor_shape_text(t, buf, sizeof buf),
               ck_printable(name, sizeof name, t->name));
        bytes += t->nbytes;
        elements += t->elements;
        by_type[t->dtype]++;
    }
    size_t count;
    const ck_meta *meta = ck_reader_metadata(r, &count);
    for (size_t i = 0; i < count; i++) {
        /* A picture or a long history would bury the rest; --json has it whole. */
        printf("metadata %s: %s\n", ck_printable(name, sizeof name, meta[i].key),
               ck_printable(buf, 200, meta[i].value));
    }
    printf("%s: %s, %zu tensors, %" PRIu64 " parameters, %s;", ck_reader_path(r),
           ck_reader_format(r), ck_reader_count(r), elements,
           ck_format_bytes(buf, sizeof buf, bytes));
    for (int d = CK_DTYPE_COUNT - 1; d >= 0; d--)
        if (by_type[d]) printf(" %" PRIu64 " %s", by_type[d], ck_dtype_name((ck_dtype)d));
    putchar('\n');
}

static bool add_tensor(cJSON *list, const ck_tensor *t) {
    cJSON *object = ck_tool_add_object(list);
    bool ok = cJSON_AddStringToObject(object, "name", t->name) &&
              cJSON_AddStringToObject(object, "dtype", ck_dtype_name(t->dtype)) &&
              cJSON_AddNumberToObject(object, "bytes", (double)t->nbytes) &&
              cJSON_AddNumberToObject(object, "offset", (double)t->offset);
    cJSON *shape = cJSON_AddArrayToObject(object, "shape");
    for (size_t i = 0; i < t->rank && ok; i++) {
        cJSON *dimension = cJSON_CreateNumber((double)t->shape[i]);
        ok = dimension && cJSON_AddItemToArray(shape, dimension);
    }
    return ok && shape;
}

static bool fill_json(cJSON *object, const ck_reader *r) {
    bool ok = cJSON_AddStringToObject(object, "format", ck_reader_format(r));
    cJSON *metadata = cJSON_AddObjectToObject(object, "metadata");
    size_t count;
    const ck_meta *meta = ck_reader_metadata(r, &count);
    for (size_t i = 0; i < count && ok; i++)
        ok = cJSON_AddStringToObject(metadata, meta[i].key, meta[i].value);
    cJSON *tensors = cJSON_AddArrayToObject(object, "tensors");
    for (size_t i = 0; i < ck_reader_count(r) && ok; i++)
        ok = add_tensor(tensors, ck_reader_tensor(r, i));
    return ok && metadata && tensors;
}

static ck_status run_file(const char *path, cJSON *object, bool *finding, ck_error *err) {
    (void)finding;
    ck_reader *r;
    CK_TRY(ck_reader_open(path, &r, err));
    ck_status status = CK_OK;
    if (!object)
        print_text(r);
    else if (!fill_json(object, r))
        status = ck_fail_memory(err, path);
    ck_reader_close(r);
    return status;
}

const ck_tool ck_tool_ls = {
    .command = &command, .min_operands = 1, .run_file = run_file, .json = &json};
