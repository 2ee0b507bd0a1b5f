/* cktool hash: the names that web UIs and model sites give to a file. */
#include "io/hash.h"
#include "io/progress.h"
#include "merge/tool.h"

#include <sys/stat.h>

static bool json, quiet;

static const ck_option options[] = {
    {.name = "json", .type = CK_OPT_FLAG, .value = &json, .help = "as one JSON document"},
    {.name = "quiet", .letter = 'q', .type = CK_OPT_FLAG, .value = &quiet, .help = "no progress"},
    {0},
};

static const ck_command command = {
    .name = "cktool hash",
    .summary = "sha256, AutoV2, legacy (AutoV1) and AutoV3 hashes of files",
    .synopsis = "[--json] FILE...",
    .details =
        "sha256 is that of the whole file and AutoV2 its first 10 digits. The legacy hash "
        "(AutoV1, the old web UI's) covers only 64 KiB at offset 1 MiB. AutoV3 covers the data "
        "section of a safetensors file, so that editing metadata does not change it.",
    .options = options,
    .examples = "$ cktool hash model.safetensors",
    .files = true,
};

static bool told(void *progress, uint64_t bytes) {
    ck_progress_add(progress, bytes);
    return true;
}

static ck_status hash_one(const char *path, ck_file_hashes *h, ck_error *err) {
    struct stat st;
    ck_progress progress;
    ck_progress_start(&progress, "hashing", stat(path, &st) == 0 ? (uint64_t)st.st_size : 0, quiet);
    ck_status status = ck_hash_file(path, h, told, &progress, err);
    ck_progress_end(&progress);
    return status;
}

static bool fill_json(cJSON *object, const ck_file_hashes *h) {
    return cJSON_AddStringToObject(object, "sha256", h->sha256) &&
           cJSON_AddStringToObject(object, "autov2", h->autov2) &&
           cJSON_AddStringToObject(object, "legacy", h->legacy) &&
           (*h->autov3 ? cJSON_AddStringToObject(object, "autov3", h->autov3)
                       : cJSON_AddNullToObject(object, "autov3"));
}

static ck_status run_file(const char *path, cJSON *object, bool *finding, ck_error *err) {
    (void)finding;
    ck_file_hashes h;
    CK_TRY(hash_one(path, &h, err));
    if (object) return fill_json(object, &h) ? CK_OK : ck_fail_memory(err, path);
    printf("%s\n  sha256  %s\n  AutoV2  %s\n  legacy  %s\n  AutoV3  %s\n", path, h.sha256, h.autov2,
           h.legacy, *h.autov3 ? h.autov3 : "- (not safetensors)");
    return CK_OK;
}

const ck_tool ck_tool_hash = {
    .command = &command, .min_operands = 1, .run_file = run_file, .json = &json};
