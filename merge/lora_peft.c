/* Where PEFT keeps the alpha of its LoRAs: not in a tensor, but in the file's metadata (diffusers
 * since 0.33: "lora_adapter_metadata", fields named "unet.lora_alpha" or, for one network,
 * "lora_alpha") or in adapter_config.json beside a file whose layers begin with
 * "base_model.model.". */
#include "io/json.h"
#include "io/os.h"
#include "merge/lora_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define METADATA "lora_adapter_metadata"
#define MODEL    "base_model.model."

struct ck_lora_peft {
    ck_json doc;
    bool bare; /* its fields are named without a prefix */
};

static bool starts_with(const char *text, const char *start) {
    return strncmp(text, start, strlen(start)) == 0;
}

static bool names_model(const ck_reader *file) {
    for (size_t i = 0; i < ck_reader_count(file); i++)
        if (starts_with(ck_reader_tensor(file, i)->name, MODEL)) return true;
    return false;
}

/* adapter_config.json in the file's folder; *found is false when there is none. */
static ck_status load_beside(const ck_reader *file, ck_json *doc, bool *found, ck_error *err) {
    const char *path = ck_reader_path(file), *slash = strrchr(path, '/');
    char *config = ck_sprintf("%.*sadapter_config.json", slash ? (int)(slash + 1 - path) : 0, path);
    if (!config) return ck_fail_memory(err, path);
    *found = access(config, F_OK) == 0;
    ck_status status = *found ? ck_json_load(config, doc, err) : CK_OK;
    free(config);
    return status;
}

ck_status ck_lora__peft_open(const ck_reader *file, ck_lora_peft **out, ck_error *err) {
    const char *text = ck_reader_meta(file, METADATA);
    *out = NULL;
    if (!text && !names_model(file)) return CK_OK;
    ck_lora_peft *peft = ck_alloc(sizeof *peft);
    if (!peft) return ck_fail_memory(err, ck_reader_path(file));
    bool found = true;
    ck_status status = text ? ck_json_parse(METADATA, text, strlen(text), &peft->doc, err)
                            : load_beside(file, &peft->doc, &found, err);
    if (status != CK_OK || !found) {
        ck_lora__peft_close(peft);
        return status == CK_OK || !text ? status : ck_context(err, "%s", ck_reader_path(file));
    }
    peft->bare = cJSON_GetObjectItemCaseSensitive(peft->doc.root, "lora_alpha") != NULL;
    *out = peft;
    return CK_OK;
}

void ck_lora__peft_close(ck_lora_peft *peft) {
    if (!peft) return;
    ck_json_free(&peft->doc);
    free(peft);
}

/* The field of this name under a prefix ("unet."), or NULL. */
static const cJSON *field(const ck_lora_peft *peft, const char *prefix, int length,
                          const char *name) {
    char full[CK_LORA_MAX_NAME + 32];
    snprintf(full, sizeof full, "%.*s%s", length, prefix, name);
    return cJSON_GetObjectItemCaseSensitive(peft->doc.root, full);
}

/* Whether the key of a pattern is the layer's name or its end from a dot on. */
static bool matches(const char *layer, const char *key) {
    size_t n = strlen(layer), m = strlen(key);
    return n >= m && strcmp(layer + n - m, key) == 0 && (n == m || layer[n - m - 1] == '.');
}

void ck_lora__peft_scale(const ck_lora_peft *peft, const char *layer, uint64_t rank,
                         double *scale) {
    if (!peft) return;
    /* The prefix ends with the first dot: "unet.", "text_encoder_2.". */
    int length = peft->bare ? 0 : (int)strcspn(layer, ".") + 1;
    if (length >= CK_LORA_MAX_NAME) return;
    const cJSON *alpha = field(peft, layer, length, "lora_alpha"), *item;
    cJSON_ArrayForEach(item, field(peft, layer, length, "alpha_pattern")) {
        if (matches(layer, item->string)) alpha = item;
    }
    if (!cJSON_IsNumber(alpha) || rank == 0) return;
    bool square_root = cJSON_IsTrue(field(peft, layer, length, "use_rslora"));
    *scale = alpha->valuedouble / (square_root ? sqrt((double)rank) : (double)rank);
}
