/* Helpers for the commands that take models apart; see parts.h. */
#include "merge/parts.h"
#include "io/os.h"
#include "io/progress.h"
#include "io/utf8.h"
#include "io/view.h"
#include "merge/recipe.h"
#include "merge/tool.h"

#include <stdlib.h>
#include <string.h>

ck_status ck_parts_add(ck_reader *view, const char *prefix, const ck_reader *r, const ck_anatomy *a,
                       size_t component, ck_error *err) {
    size_t skip = strlen(a->components[component].prefix);
    for (size_t i = 0; i < ck_reader_count(r); i++) {
        if (a->component_of[i] != component) continue;
        const ck_tensor *t = ck_reader_tensor(r, i);
        char *name = ck_sprintf("%s%s", prefix, t->name + skip);
        if (!name) return ck_fail_memory(err, ck_reader_path(r));
        ck_status status = ck_view_rename(view, name, r, t, err);
        free(name);
        CK_TRY(status);
    }
    return CK_OK;
}

ck_status ck_parts_add_named(ck_reader *view, const ck_reader *r, const ck_anatomy *a,
                             const bool wanted[CK_PART_COUNT], ck_error *err) {
    for (size_t i = 0; i < ck_reader_count(r); i++) {
        const ck_tensor *t = ck_reader_tensor(r, i);
        if (wanted[a->components[a->component_of[i]].part])
            CK_TRY(ck_view_rename(view, t->name, r, t, err));
    }
    return CK_OK;
}

bool ck_part_is_denoiser(ck_part part) {
    return part == CK_PART_UNET || part == CK_PART_MMDIT || part == CK_PART_FLUX;
}

bool ck_part_is_text_encoder(ck_part part) {
    return part == CK_PART_CLIP_L || part == CK_PART_CLIP_H || part == CK_PART_CLIP_G ||
           part == CK_PART_T5;
}

static ck_status report_json(const char *path, const ck_save_result *result, ck_error *err) {
    cJSON *json = cJSON_CreateObject();
    bool ok = cJSON_AddStringToObject(json, "output", path) &&
              cJSON_AddNumberToObject(json, "tensors", (double)result->tensors) &&
              cJSON_AddNumberToObject(json, "bytes", (double)result->bytes) &&
              cJSON_AddNumberToObject(json, "files", (double)result->files) &&
              cJSON_AddNumberToObject(json, "left_out", (double)result->left_out) &&
              cJSON_AddNumberToObject(json, "clipped", (double)result->clipped);
    char *text = ok ? cJSON_PrintUnformatted(json) : NULL;
    cJSON_Delete(json);
    if (!text) return ck_fail_memory(err, path);
    puts(text);
    free(text);
    return CK_OK;
}

ck_status ck_parts_write(ck_reader *r, const char *path, const ck_parts_output *o,
                         uint64_t max_shard, ck_error *err) {
    ck_save_options options = {.dtype = o->dtype ? ck_recipe_dtype(o->dtype) : CK_DTYPE_COUNT,
                               .replace = o->force,
                               .quiet = o->quiet || o->json,
                               .configs = o->configs,
                               .max_shard = max_shard};
    ck_save_result result;
    CK_TRY(ck_save(r, path, &options, &result, err));
    if (result.clipped && !o->quiet)
        fprintf(stderr, "cktool: warning: %llu values were too large for the type of %s\n",
                (unsigned long long)result.clipped, path);
    char name[256];
    if (result.left_out && !o->quiet)
        fprintf(stderr,
                "cktool: warning: %zu tensors belong to no component and are left out, '%s' "
                "the first of them\n",
                result.left_out, ck_printable(name, sizeof name, result.first_left_out));
    if (o->json) return report_json(path, &result, err);
    char bytes[32];
    if (!o->quiet)
        printf("%s: %zu tensors, %s%s\n", path, result.tensors,
               ck_format_bytes(bytes, sizeof bytes, result.bytes),
               result.files > 1 ? ", in several files" : "");
    return CK_OK;
}
