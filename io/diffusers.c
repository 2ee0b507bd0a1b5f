/* Folders as diffusers writes them: model_index.json names the components, each in a folder of its
 * own.
 *
 *   {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"],
 *    "safety_checker": [null, null], ...}
 *   unet/diffusion_pytorch_model.safetensors      or an index and shards, or a variant (.fp16.)
 *   text_encoder/model.safetensors
 *   scheduler/scheduler_config.json               no weights; says what the model predicts
 *
 * Tensors are called by component and name: "unet.conv_in.weight". A folder without
 * model_index.json is one component; its tensors keep their names.
 */
#include "io/json.h"
#include "io/os.h"
#include "io/view_int.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Files with weights, by preference. */
static const char *const weight_files[] = {
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors",
    "model.safetensors.index.json",
};
static const char *const old_weight_files[] = {
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
};
enum { WEIGHT_FILES = sizeof weight_files / sizeof *weight_files };

/* Words in the class names of components that have no weights. */
static const char *const weightless[] = {"Scheduler", "Tokenizer", "Processor", "FeatureExtractor"};

static bool probe(const char *path, const unsigned char *head, size_t n, bool is_directory) {
    (void)path, (void)head, (void)n;
    return is_directory;
}

static bool is_file(int folder, const char *name) {
    struct stat st;
    return fstatat(folder, name, &st, 0) == 0 && S_ISREG(st.st_mode);
}

static bool starts_with(const char *s, const char *start) {
    return strncmp(s, start, strlen(start)) == 0;
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* "model.fp16.safetensors", "model.safetensors.index.fp16.json" */
static bool is_variant(const char *name) {
    if (!starts_with(name, "diffusion_pytorch_model.") && !starts_with(name, "model."))
        return false;
    if (strstr(name, ".safetensors.index.")) return ends_with(name, ".json");
    return ends_with(name, ".safetensors") && !strstr(name, "-of-");
}

/* The only variant in a folder, released with free(); NULL where there is none. */
static ck_status find_variant(const char *folder, char **name, ck_error *err) {
    DIR *dir = opendir(folder);
    if (!dir) return ck_fail_errno(err, "%s", folder);
    ck_status status = CK_OK;
    *name = NULL;
    for (struct dirent *entry; status == CK_OK && (entry = readdir(dir));) {
        if (!is_variant(entry->d_name)) continue;
        if (*name)
            status = ck_fail(err, CK_INPUT,
                             "%s: both '%s' and '%s' could be the weights: leave only one there",
                             folder, *name, entry->d_name);
        else if (!(*name = ck_strdup(entry->d_name)))
            status = ck_fail_memory(err, folder);
    }
    closedir(dir);
    if (status != CK_OK) {
        free(*name);
        *name = NULL;
    }
    return status;
}

/* The first of the names that is there, or NULL. */
static const char *first_file(int folder, const char *const *names) {
    for (size_t i = 0; i < WEIGHT_FILES; i++)
        if (is_file(folder, names[i])) return names[i];
    return NULL;
}

/* The path of a folder's weights, released with free(); NULL where there are none. */
static ck_status find_weights(const char *folder, char **path, ck_error *err) {
    *path = NULL;
    int fd = ck_os.open(folder, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0) return ck_fail_errno(err, "%s", folder);
    char *variant = NULL;
    const char *name = first_file(fd, weight_files);
    ck_status status = name ? CK_OK : find_variant(folder, &variant, err);
    if (!name) name = variant ? variant : first_file(fd, old_weight_files);
    close(fd);
    if (status == CK_OK && name && !(*path = ck_sprintf("%s/%s", folder, name)))
        status = ck_fail_memory(err, folder);
    free(variant);
    return status;
}

/* Adds the tensors of a component's folder, their names after the prefix. *found: it has weights.
 */
static ck_status add_folder(ck_reader *r, const char *folder, const char *prefix, bool *found,
                            ck_error *err) {
    char *path;
    CK_TRY(find_weights(folder, &path, err));
    *found = path;
    if (!path) return CK_OK;
    ck_reader *source;
    ck_status status = ck_reader_open(path, &source, err);
    free(path);
    CK_TRY(status);
    CK_TRY(ck_view_own(r, source, err));
    for (size_t i = 0; i < ck_reader_count(source); i++) {
        const ck_tensor *t = ck_reader_tensor(source, i);
        char *name = ck_sprintf("%s%s", prefix, t->name);
        if (!name) return ck_fail_memory(err, r->path);
        status = ck_view_rename(r, name, source, t, err);
        free(name);
        CK_TRY(status);
    }
    return ck_view_copy_metadata(r, source, err);
}

static bool has_weights(const char *class_name) {
    for (size_t i = 0; i < sizeof weightless / sizeof *weightless; i++)
        if (strstr(class_name, weightless[i])) return false;
    return true;
}

static ck_status add_component(ck_reader *r, const ck_json *doc, const cJSON *node, ck_error *err) {
    const cJSON *class_name = cJSON_GetArrayItem(node, 1);
    /* Entries that are no pair of names are settings of the pipeline, or absent components. */
    if (*node->string == '_' || !cJSON_IsArray(node) || !cJSON_IsString(class_name)) return CK_OK;
    if (!has_weights(class_name->valuestring)) return CK_OK;
    if (!*node->string || strchr(node->string, '/') || *node->string == '.')
        return ck_json_fail(doc, node, err, "'%s' cannot be the name of a component", node->string);
    char *folder = ck_sprintf("%s/%s", r->path, node->string);
    char *prefix = ck_sprintf("%s.", node->string);
    bool found = false;
    ck_status status = folder && prefix ? add_folder(r, folder, prefix, &found, err)
                                        : ck_fail_memory(err, r->path);
    if (status == CK_OK && !found)
        status = ck_fail(err, CK_INPUT,
                         "%s: no weights of '%s' in it; where the model does without them, "
                         "model_index.json must have [null, null] for it",
                         folder, class_name->valuestring);
    free(folder);
    free(prefix);
    return status;
}

/* An empty tensor, by which programs know it in files of one piece. */
static ck_status add_marker(ck_reader *r, const char *name, ck_error *err) {
    const uint64_t none = 0;
    return ck_view_constant(r, name, CK_F32, 1, &none, "", err);
}

/* What the scheduler says is kept in ModelSpec's words and, where programs look for them, as
 * markers: v_pred of SDXL, and ztsnr. */
static ck_status take_scheduler(ck_reader *r, const ck_json *doc, bool sdxl, ck_error *err) {
    const char *type = NULL;
    bool zero_snr = false;
    CK_TRY(ck_json_text(doc, doc->root, "prediction_type", &type, err));
    CK_TRY(ck_json_bool(doc, doc->root, "rescale_betas_zero_snr", &zero_snr, err));
    bool v = type && strcmp(type, "v_prediction") == 0;
    if (v || (type && strcmp(type, "epsilon") == 0))
        CK_TRY(ck_view_set_metadata(r, "modelspec.prediction_type", v ? "v" : "epsilon", err));
    if (v && sdxl) CK_TRY(add_marker(r, "v_pred", err));
    return zero_snr ? add_marker(r, "ztsnr", err) : CK_OK;
}

static ck_status add_scheduler(ck_reader *r, bool sdxl, ck_error *err) {
    char *path = ck_sprintf("%s/scheduler/scheduler_config.json", r->path);
    if (!path) return ck_fail_memory(err, r->path);
    ck_json doc = {0};
    ck_status status = CK_OK;
    if (access(path, F_OK) == 0) {
        status = ck_json_load(path, &doc, err);
        if (status == CK_OK) status = take_scheduler(r, &doc, sdxl, err);
    }
    free(path);
    ck_json_free(&doc);
    return status;
}

static ck_status add_pipeline(ck_reader *r, const char *index, ck_error *err) {
    ck_json doc;
    CK_TRY(ck_json_load(index, &doc, err));
    ck_status status = CK_OK;
    if (!cJSON_IsObject(doc.root)) status = ck_json_fail(&doc, doc.root, err, "an object expected");
    for (const cJSON *node = doc.root->child; node && status == CK_OK; node = node->next)
        status = add_component(r, &doc, node, err);
    const char *class_name =
        cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(doc.root, "_class_name"));
    bool sdxl = class_name && strstr(class_name, "XL");
    ck_json_free(&doc);
    CK_TRY(status);
    return add_scheduler(r, sdxl, err);
}

static ck_status open_folder(ck_reader *r, ck_error *err) {
    CK_TRY(ck_view__attach(r, err));
    char *index = ck_sprintf("%s/model_index.json", r->path);
    if (!index) return ck_fail_memory(err, r->path);
    bool found = access(index, F_OK) == 0;
    ck_status status =
        found ? add_pipeline(r, index, err) : add_folder(r, r->path, "", &found, err);
    free(index);
    CK_TRY(status);
    if (!found)
        return ck_fail(err, CK_INPUT,
                       "%s: a folder with neither model_index.json nor weights in it", r->path);
    return ck_view_finish(r, err);
}

const ck_format ck_format_diffusers = {
    .name = "diffusers",
    .probe = probe,
    .open = open_folder,
    .read = ck_view__read,
    .close = ck_view__close,
};
