/* cktool scan: what would a file import if PyTorch or Python loaded it? */
#include "io/scan.h"
#include "merge/tool.h"

#include <inttypes.h>

static bool json;

static const ck_option options[] = {
    {.name = "json", .type = CK_OPT_FLAG, .value = &json, .help = "as one JSON document"},
    {0},
};

static const ck_command command = {
    .name = "cktool scan",
    .summary = "list what the pickles of a file would import, and whether that is dangerous",
    .synopsis = "[--json] FILE...",
    .details =
        "A .ckpt, .pt, .pth or .bin file holds a pickle, and loading a pickle can run anything. "
        "This looks through all pickles of a file without running them, and judges every name they "
        "import: harmless (known, makes a value and no more), unknown (code that you would have to "
        "trust), dangerous (can run commands). The exit status is 1 when something is dangerous, "
        "or when a part of the file could not be looked through.\n"
        "ckmerge and cktool themselves never run anything that a file says, and refuse files with "
        "imports that weights do not need.",
    .options = options,
    .examples = "$ cktool scan downloaded.ckpt && echo fine",
    .files = true,
};

static void print_text(const char *path, const ck_scan *s) {
    for (size_t i = 0; i < s->import_count; i++) {
        const ck_scan_import *import = &s->imports[i];
        printf("%-10s %-48s %s%spickle %" PRIu64 ", offset %" PRIu64 ", %s\n",
               ck_verdict_name(import->verdict), import->name, import->place,
               *import->place ? ", " : "", import->pickle, import->offset, import->opcode);
    }
    for (size_t i = 0; i < s->problem_count; i++) printf("problem    %s\n", s->problems[i]);
    const char *judgement = s->worst == CK_DANGEROUS ? "DANGEROUS, do not load it with Python"
                            : s->problem_count       ? "not to be trusted: not all was understood"
                            : s->worst == CK_UNKNOWN ? "imports code that you would have to trust"
                            : s->pickles             ? "harmless"
                                                     : "no pickles in it";
    printf("%s: %s; pickles: %" PRIu64 ", imports: %zu\n", path, judgement, s->pickles,
           s->import_count);
}

static bool fill_json(cJSON *object, const ck_scan *s) {
    bool ok = cJSON_AddStringToObject(object, "verdict", ck_verdict_name(s->worst)) &&
              cJSON_AddNumberToObject(object, "pickles", (double)s->pickles);
    cJSON *imports = cJSON_AddArrayToObject(object, "imports");
    for (size_t i = 0; ok && i < s->import_count; i++) {
        const ck_scan_import *import = &s->imports[i];
        cJSON *row = ck_tool_add_object(imports);
        ok = cJSON_AddStringToObject(row, "name", import->name) &&
             cJSON_AddStringToObject(row, "verdict", ck_verdict_name(import->verdict)) &&
             cJSON_AddStringToObject(row, "place", import->place) &&
             cJSON_AddNumberToObject(row, "pickle", (double)import->pickle) &&
             cJSON_AddNumberToObject(row, "offset", (double)import->offset) &&
             cJSON_AddStringToObject(row, "opcode", import->opcode);
    }
    cJSON *problems = cJSON_AddArrayToObject(object, "problems");
    for (size_t i = 0; ok && i < s->problem_count; i++)
        ok = cJSON_AddItemToArray(problems, cJSON_CreateString(s->problems[i]));
    return ok && imports && problems;
}

static ck_status run_file(const char *path, cJSON *object, bool *finding, ck_error *err) {
    ck_scan s;
    CK_TRY(ck_scan_file(path, &s, err));
    *finding |= s.worst == CK_DANGEROUS || s.problem_count;
    ck_status status = CK_OK;
    if (!object)
        print_text(path, &s);
    else if (!fill_json(object, &s))
        status = ck_fail_memory(err, path);
    ck_scan_free(&s);
    return status;
}

const ck_tool ck_tool_scan = {
    .command = &command, .min_operands = 1, .run_file = run_file, .json = &json};
