/* What the commands of cktool share; see tool.h. */
#include "merge/tool.h"

#include <stdlib.h>
#include <string.h>

ck_status ck_tool_print_json(cJSON *json, bool ok, ck_error *err) {
    char *text = json && ok ? cJSON_Print(json) : NULL;
    cJSON_Delete(json);
    if (!text) return ck_fail_memory(err, "report");
    puts(text);
    free(text);
    return CK_OK;
}

cJSON *ck_tool_add_object(cJSON *list) {
    cJSON *object = cJSON_CreateObject();
    if (object && list && cJSON_AddItemToArray(list, object)) return object;
    cJSON_Delete(object);
    return NULL;
}

const char *ck_tool_group(const char *tensor, char *buf, size_t size) {
    static const struct {
        const char *prefix, *group;
    } groups[] = {
        {"model.diffusion_model.", "unet"},    {"first_stage_model.", "vae"},
        {"cond_stage_model.", "text encoder"}, {"conditioner.", "text encoder"},
        {"text_encoders.", "text encoder"},    {"model_ema.", "ema"},
    };
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
        if (strncmp(tensor, groups[i].prefix, strlen(groups[i].prefix)) == 0)
            return groups[i].group;
    snprintf(buf, size, "%.*s", (int)strcspn(tensor, "."), tensor);
    return buf;
}
