/* Diffusers folders: each component to a folder of its own, with the config.json files of the
 * folder that the model comes from, or with what is known of its architecture (io/pipeline.h).
 * Everything is written to a hidden folder beside the target, which then gets its name in one step.
 */
#include "merge/save_int.h"

#include "io/json.h"
#include "io/os.h"
#include "io/pipeline.h"
#include "io/view.h"
#include "io/writer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct folder_writer {
    const ck_reader *r;
    const char *path; /* for messages */
    char *target;     /* without a slash at the end */
    char *temporary;
    const char *configs; /* a diffusers folder, or NULL */
    ck_anatomy anatomy;
    ck_save_options options; /* of its files */
    ck_save_result *result;
} folder_writer;

enum { MAX_SMALL_FILE = 64 << 20 }; /* of tokenizers and configs */

/* ---- Small files ---- */

static ck_status make_folder(const char *path, ck_error *err) {
    return mkdir(path, 0777) == 0 ? CK_OK : ck_fail_errno(err, "%s", path);
}

/* Prints the JSON to temporary/folder/name; releases it. */
static ck_status write_json(const folder_writer *w, const char *folder, const char *name,
                            cJSON *json, ck_error *err) {
    char *path = ck_sprintf("%s/%s%s%s", w->temporary, folder, *folder ? "/" : "", name);
    char *text = cJSON_Print(json), *line = text ? ck_sprintf("%s\n", text) : NULL;
    ck_status status = path && line ? ck_write_file(path, line, strlen(line), false, err)
                                    : ck_fail_memory(err, w->path);
    cJSON_Delete(json);
    free(text);
    free(line);
    free(path);
    return status;
}

/* Configs and vocabularies, but no weights and no list of their shards. */
static bool is_small_file(const char *name) {
    const char *ending = strrchr(name, '.');
    if (!ending || *name == '.' || strstr(name, ".index.")) return false;
    return strcmp(ending, ".json") == 0 || strcmp(ending, ".txt") == 0 ||
           strcmp(ending, ".model") == 0;
}

static ck_status copy_file(const char *from, const char *to, ck_error *err) {
    char *text;
    size_t n;
    CK_TRY(ck_read_file(from, MAX_SMALL_FILE, &text, &n, err));
    ck_status status = ck_write_file(to, text, n, false, err);
    free(text);
    return status;
}

/* The small files of configs/folder; *copied: the config was among them. */
static ck_status copy_small_files(const folder_writer *w, const char *folder, const char *config,
                                  bool *copied, ck_error *err) {
    *copied = false;
    char *from = ck_sprintf("%s/%s", w->configs ? w->configs : "", folder);
    if (!from) return ck_fail_memory(err, w->path);
    DIR *dir = w->configs ? opendir(from) : NULL;
    ck_status status = CK_OK;
    for (struct dirent *entry; dir && status == CK_OK && (entry = readdir(dir));) {
        if (!is_small_file(entry->d_name)) continue;
        char *a = ck_sprintf("%s/%s", from, entry->d_name);
        char *b = ck_sprintf("%s/%s/%s", w->temporary, folder, entry->d_name);
        status = a && b ? copy_file(a, b, err) : ck_fail_memory(err, w->path);
        *copied |= strcmp(entry->d_name, config) == 0;
        free(a);
        free(b);
    }
    if (dir) closedir(dir);
    free(from);
    return status;
}

/* ---- Components ---- */

/* The tensors whose names begin so, without that, as a file of their own. */
static ck_status write_weights(const folder_writer *w, const char *prefix, const char *path,
                               ck_error *err) {
    ck_reader *view;
    size_t skip = strlen(prefix);
    CK_TRY(ck_view_new(w->path, &view, err));
    ck_status status = ck_view_copy_metadata(view, w->r, err);
    for (size_t i = 0; i < ck_reader_count(w->r) && status == CK_OK; i++) {
        const ck_tensor *t = ck_reader_tensor(w->r, i);
        if (strncmp(t->name, prefix, skip) == 0)
            status = ck_view_rename(view, t->name + skip, w->r, t, err);
    }
    if (status == CK_OK) status = ck_view_finish(view, err);
    if (status == CK_OK) status = ck_save__file(view, path, &w->options, w->result, err);
    ck_reader_close(view);
    return status;
}

static ck_status write_component_to(const folder_writer *w, const char *folder, const char *prefix,
                                    const char *library, size_t component, ck_error *err) {
    bool copied, transformers = strcmp(library, "transformers") == 0;
    CK_TRY(copy_small_files(w, folder, "config.json", &copied, err));
    if (!copied && component < w->anatomy.component_count) {
        cJSON *config;
        CK_TRY(ck_pipeline_config(w->r, &w->anatomy, component, &config, err));
        CK_TRY(write_json(w, folder, "config.json", config, err));
    }
    char *path = ck_sprintf("%s/%s/%s.safetensors", w->temporary, folder,
                            transformers ? "model" : "diffusion_pytorch_model");
    ck_status status = path ? write_weights(w, prefix, path, err) : ck_fail_memory(err, w->path);
    free(path);
    return status;
}

static size_t component_with(const ck_anatomy *a, const char *prefix) {
    size_t i = 0;
    while (i < a->component_count && (!ck_part_is_model(a->components[i].part) ||
                                      strcmp(a->components[i].prefix, prefix) != 0))
        i++;
    return i;
}

static size_t count_prefix(const ck_reader *r, const char *prefix) {
    size_t n = 0;
    for (size_t i = 0; i < ck_reader_count(r); i++)
        n += strncmp(ck_reader_tensor(r, i)->name, prefix, strlen(prefix)) == 0;
    return n;
}

#define SCHEDULER_CONFIG "scheduler_config.json"

/* A copied one, if it does not say what the model's markers say. */
static ck_status mark_scheduler(const folder_writer *w, ck_error *err) {
    char *path = ck_sprintf("%s/scheduler/" SCHEDULER_CONFIG, w->temporary);
    if (!path) return ck_fail_memory(err, w->path);
    ck_json doc;
    bool changed = false;
    char *text = NULL;
    ck_status status = ck_json_load(path, &doc, err);
    if (status == CK_OK) {
        if (cJSON_IsObject(doc.root))
            status = ck_pipeline_mark(&w->anatomy, doc.root, &changed, err);
        if (changed && !(text = cJSON_Print(doc.root))) status = ck_fail_memory(err, path);
        if (text && status == CK_OK) status = ck_write_file(path, text, strlen(text), true, err);
        ck_json_free(&doc);
    }
    free(text);
    free(path);
    return status;
}

static ck_status write_scheduler(const folder_writer *w, bool copied, ck_error *err) {
    if (copied) return mark_scheduler(w, err);
    cJSON *config;
    CK_TRY(ck_pipeline_scheduler(w->r, &w->anatomy, &config, err));
    return write_json(w, "scheduler", SCHEDULER_CONFIG, config, err);
}

/* What goes without weights: scheduler, tokenizer. An entry for which there is nothing, or a
 * network whose weights are not there, becomes null. */
static ck_status write_weightless(const folder_writer *w, cJSON *entry, const char *to,
                                  ck_error *err) {
    const char *folder = entry->string;
    bool scheduler = strcmp(folder, "scheduler") == 0, copied;
    CK_TRY(copy_small_files(w, folder, scheduler ? SCHEDULER_CONFIG : "config.json", &copied, err));
    if (scheduler) return write_scheduler(w, copied, err);
    if (!copied && rmdir(to) != 0) return CK_OK;
    return cJSON_ReplaceItemInArray(entry, 0, cJSON_CreateNull()) &&
                   cJSON_ReplaceItemInArray(entry, 1, cJSON_CreateNull())
               ? CK_OK
               : ck_fail_memory(err, w->path);
}

/* One entry of model_index.json. */
static ck_status write_entry(const folder_writer *w, cJSON *entry, ck_error *err) {
    const char *folder = entry->string;
    const char *library = cJSON_GetStringValue(cJSON_GetArrayItem(entry, 0));
    if (!cJSON_IsArray(entry) || !library) return CK_OK; /* a setting, or null */
    if (!*folder || *folder == '.' || strchr(folder, '/'))
        return ck_fail(err, CK_INPUT, "%s: '%s' in model_index.json cannot be a component's name",
                       w->configs, folder);
    char *to = ck_sprintf("%s/%s", w->temporary, folder), *prefix = ck_sprintf("%s.", folder);
    ck_status status = to && prefix ? make_folder(to, err) : ck_fail_memory(err, w->path);
    if (status == CK_OK)
        status = count_prefix(w->r, prefix)
                     ? write_component_to(w, folder, prefix, library,
                                          component_with(&w->anatomy, prefix), err)
                     : write_weightless(w, entry, to, err);
    free(to);
    free(prefix);
    return status;
}

static ck_status load_index(const folder_writer *w, cJSON **index, ck_error *err) {
    char *path = w->configs ? ck_sprintf("%s/model_index.json", w->configs) : NULL;
    if (w->configs && !path) return ck_fail_memory(err, w->path);
    if (!path || access(path, F_OK) != 0) {
        free(path);
        return ck_pipeline_index(w->r, &w->anatomy, index, err);
    }
    ck_json doc = {0};
    ck_status status = ck_json_load(path, &doc, err);
    if (status == CK_OK && !cJSON_IsObject(doc.root))
        status = ck_fail(err, CK_INPUT, "%s: an object expected", path);
    else if (status == CK_OK && !(*index = cJSON_Duplicate(doc.root, true)))
        status = ck_fail_memory(err, path);
    ck_json_free(&doc);
    free(path);
    return status;
}

/* Tensors of no component: averaged weights, leftovers of training. (The scheduler's config says
 * what markers say.) */
static void count_left_out(folder_writer *w, const cJSON *index) {
    for (size_t i = 0; i < ck_reader_count(w->r); i++) {
        const char *name = ck_reader_tensor(w->r, i)->name;
        if (w->anatomy.components[w->anatomy.component_of[i]].part == CK_PART_MARKER) continue;
        size_t n = strcspn(name, ".");
        const cJSON *entry = name[n] ? index->child : NULL;
        while (entry && (strncmp(entry->string, name, n) != 0 || entry->string[n]))
            entry = entry->next;
        if (cJSON_IsArray(entry)) continue;
        if (!w->result->left_out++)
            snprintf(w->result->first_left_out, sizeof w->result->first_left_out, "%s", name);
    }
}

static ck_status write_pipeline(folder_writer *w, ck_error *err) {
    cJSON *index;
    CK_TRY(load_index(w, &index, err));
    count_left_out(w, index);
    ck_status status = CK_OK;
    for (cJSON *entry = index->child; entry && status == CK_OK; entry = entry->next)
        status = write_entry(w, entry, err);
    if (status == CK_OK) return write_json(w, "", "model_index.json", index, err);
    cJSON_Delete(index);
    return status;
}

static ck_status write_all(folder_writer *w, ck_error *err) {
    CK_TRY(make_folder(w->temporary, err));
    size_t alone = component_with(&w->anatomy, "");
    if (alone == w->anatomy.component_count) return write_pipeline(w, err);
    return write_component_to(w, ".", "", ck_pipeline_library(w->anatomy.components[alone].part),
                              alone, err);
}

/* ---- The folder ---- */

/* Whether it can be put there: nothing, or an empty folder. */
static ck_status check_target(const folder_writer *w, ck_error *err) {
    DIR *dir = opendir(w->target);
    if (!dir) {
        if (errno == ENOENT) return CK_OK;
        return ck_fail_errno(err, "%s", w->target);
    }
    size_t entries = 0;
    while (readdir(dir)) entries++;
    closedir(dir);
    if (entries <= 2) return CK_OK;
    return ck_fail(err, CK_USAGE,
                   "%s exists and is not empty; a folder is never replaced: remove it first",
                   w->target);
}

static ck_status name_folders(folder_writer *w, ck_error *err) {
    size_t n = strlen(w->path);
    while (n > 1 && w->path[n - 1] == '/') n--;
    if (!(w->target = ck_strndup(w->path, n))) return ck_fail_memory(err, w->path);
    unsigned random = 0;
    getrandom(&random, sizeof random, 0);
    const char *slash = strrchr(w->target, '/');
    int folder = slash ? (int)(slash - w->target) + 1 : 0;
    w->temporary =
        ck_sprintf("%.*s.%.200s.%08x.tmp", folder, w->target, w->target + folder, random);
    return w->temporary ? CK_OK : ck_fail_memory(err, w->path);
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *place) {
    (void)st, (void)kind, (void)place;
    return remove(path);
}

static bool sync_folder(const char *path) {
    int fd = ck_os.open(path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0) return false;
    bool ok = ck_os.fsync(fd) == 0 || errno == EINVAL;
    close(fd);
    return ok;
}

/* The files in it are durable; the writer has also synced the folders that they are in. */
static ck_status publish(const folder_writer *w, ck_error *err) {
    if (!sync_folder(w->temporary)) return ck_fail_errno(err, "%s: sync to disk", w->path);
    /* In the place of an empty folder; the system refuses any other. */
    if (ck_os.rename(w->temporary, w->target, 0) != 0)
        return ck_fail_errno(err, "%s: cannot name the finished folder", w->path);
    char *slash = strrchr(w->target, '/');
    if (slash) *(slash == w->target ? slash + 1 : slash) = 0;
    if (!sync_folder(slash ? w->target : "."))
        return ck_fail_errno(err, "%s: written, but its folder cannot be synced", w->path);
    return CK_OK;
}

/* The folder that the model comes from, if it is one that has configs. */
static bool has_configs(const char *folder) {
    static const char *const names[] = {"model_index.json", "config.json"};
    bool has = false;
    for (size_t i = 0; i < 2; i++) {
        char *path = ck_sprintf("%s/%s", folder, names[i]);
        has |= path && access(path, F_OK) == 0;
        free(path);
    }
    return has;
}

ck_status ck_save__folder(const ck_reader *r, const char *path, const ck_save_options *o,
                          ck_save_result *result, ck_error *err) {
    folder_writer w = {
        .r = r, .path = path, .options = *o, .result = result, .configs = o->configs};
    if (w.configs && !has_configs(w.configs))
        return ck_fail(err, CK_USAGE, "%s: neither model_index.json nor config.json is in it",
                       w.configs);
    if (!w.configs && has_configs(ck_reader_path(r))) w.configs = ck_reader_path(r);
    CK_TRY(ck_anatomy_of(r, &w.anatomy, err));
    ck_status status = name_folders(&w, err);
    if (status == CK_OK) status = check_target(&w, err);
    if (status == CK_OK) {
        status = write_all(&w, err);
        if (status == CK_OK) status = publish(&w, err);
        if (status != CK_OK) nftw(w.temporary, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    }
    free(w.temporary);
    free(w.target);
    ck_anatomy_free(&w.anatomy);
    return status;
}
