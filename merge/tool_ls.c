/* cktool ls: what is in a file. */
#include "io/progress.h"
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
    char buf[256];
    uint64_t bytes = 0, elements = 0, by_type[CK_DTYPE_COUNT] = {0};
    for (size_t i = 0; i < ck_reader_count(r); i++) {
        const ck_tensor *t = ck_reader_tensor(r, i);
        printf("%-8s %-20s %s\n", ck_dtype_name(t->dtype), ck_tensor_shape_text(t, buf, sizeof buf),
               t->name);
        bytes += t->nbytes;
        elements += t->elements;
        by_type[t->dtype]++;
    }
    size_t count;
    const ck_meta *meta = ck_reader_metadata(r, &count);
    for (size_t i = 0; i < count; i++) {
        /* A picture or a long history would bury the rest; --json has it whole. */
        printf("metadata %s: %.200s\n", meta[i].key, meta[i].value);
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

static bool add_file(cJSON *files, const ck_reader *r) {
    cJSON *object = ck_tool_add_object(files);
    bool ok = cJSON_AddStringToObject(object, "path", ck_reader_path(r)) &&
              cJSON_AddStringToObject(object, "format", ck_reader_format(r));
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

static ck_status run(const char *const *operands, size_t count, bool *finding, ck_error *err) {
    (void)finding;
    cJSON *files = json ? cJSON_CreateArray() : NULL;
    bool ok = true;
    for (size_t i = 0; i < count; i++) {
        ck_reader *r;
        ck_status status = ck_reader_open(operands[i], &r, err);
        if (status != CK_OK) {
            cJSON_Delete(files);
            return status;
        }
        if (json)
            ok = ok && add_file(files, r);
        else
            print_text(r);
        ck_reader_close(r);
    }
    return json ? ck_tool_print_json(files, ok, err) : CK_OK;
}

const ck_tool ck_tool_ls = {.command = &command, .min_operands = 1, .run = run};
