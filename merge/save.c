/* A plan with one model and no method; for shards, one such plan for each. */
#include "merge/save.h"
#include "io/head.h"
#include "io/json.h"
#include "io/layout.h"
#include "io/os.h"
#include "io/safetensors.h"
#include "io/view.h"
#include "io/writer.h"
#include "merge/engine.h"
#include "merge/save_int.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

bool ck_save_is_hash_key(const char *key) {
    static const char *const keys[] = {"modelspec.hash_sha256", "sshs_model_hash",
                                       "sshs_legacy_hash"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strcmp(keys[i], key) == 0) return true;
    return false;
}

/* The reader's metadata without hashes, and with the "format" that some loaders insist on. */
static ck_status carried_metadata(const ck_reader *r, ck_arena *arena, ck_meta **meta,
                                  size_t *count, ck_error *err) {
    size_t n;
    const ck_meta *old = ck_reader_metadata(r, &n);
    *meta = ck_arena_alloc(arena, (n + 1) * sizeof **meta);
    if (!*meta) return ck_fail_memory(err, "metadata");
    *count = 0;
    for (size_t i = 0; i < n; i++)
        if (!ck_save_is_hash_key(old[i].key)) (*meta)[(*count)++] = old[i];
    if (!ck_reader_meta(r, "format")) (*meta)[(*count)++] = (ck_meta){"format", "pt"};
    return CK_OK;
}

static ck_status save_planned(ck_recipe *recipe, ck_reader *r, const char *path,
                              const ck_save_options *o, ck_save_result *result, ck_error *err) {
    recipe->dtype = o->dtype;
    CK_TRY(ck_recipe_add_model(recipe, "a", ck_reader_path(r), NULL, err));
    if (!(recipe->root = ck_recipe_model_node(recipe, 0))) return ck_fail_memory(err, path);
    ck_plan *plan;
    ck_reader *readers[] = {r};
    CK_TRY(ck_plan_make(recipe, readers, &plan, err));
    ck_meta *meta = NULL;
    size_t count = 0;
    ck_status status = carried_metadata(r, &recipe->arena, &meta, &count, err);
    if (status == CK_OK) status = ck_plan_layout(plan, path, meta, count, err);
    if (status == CK_OK) {
        ck_progress progress;
        ck_run_options run = {.replace = o->replace, .progress = &progress, .cancel = o->cancel};
        ck_run_result done;
        ck_progress_start(&progress, "writing", plan->file_size, o->quiet);
        status = ck_run(plan, path, &run, &done, err);
        ck_progress_end(&progress);
        if (status == CK_OK) {
            result->bytes += plan->file_size;
            result->tensors += plan->task_count;
            result->clipped += done.clipped;
            result->files++;
            free(done.model_sha256);
        }
    }
    ck_plan_free(plan);
    return status;
}

static ck_status save_one(ck_reader *r, const char *path, const ck_save_options *o,
                          ck_save_result *result, ck_error *err) {
    ck_recipe recipe;
    ck_recipe_init(&recipe);
    ck_status status = save_planned(&recipe, r, path, o, result, err);
    ck_recipe_free(&recipe);
    return status;
}

/* ---- Shards ---- */

/* Bytes that a tensor will have. */
static uint64_t written_bytes(const ck_tensor *t, ck_dtype dtype) {
    bool converts = dtype != CK_DTYPE_COUNT && ck_dtype_is_float(t->dtype) && t->elements > 0;
    return converts ? t->elements * ck_dtype_bits(dtype) / 8 : t->nbytes;
}

/* Fills the number of the shard of each tensor, in the reader's order, greedily; returns how many
 * shards there are. A tensor larger than the limit has a shard of its own. */
static size_t assign_shards(const ck_reader *r, const ck_save_options *o, size_t *shard_of) {
    size_t shards = 0;
    uint64_t used = 0;
    for (size_t i = 0; i < ck_reader_count(r); i++) {
        uint64_t bytes = written_bytes(ck_reader_tensor(r, i), o->dtype);
        if (shards == 0 || used + bytes > o->max_shard) {
            shards++;
            used = 0;
        }
        used += bytes;
        shard_of[i] = shards - 1;
    }
    return shards;
}

/* "dir/model-00002-of-00003.safetensors"; NULL when out of memory. */
static char *shard_path(const char *path, size_t shard, size_t shards) {
    size_t n = strlen(path), ending = strlen(".safetensors");
    if (n > ending && strcmp(path + n - ending, ".safetensors") == 0) n -= ending;
    return ck_sprintf("%.*s-%05zu-of-%05zu.safetensors", (int)n, path, shard + 1, shards);
}

static ck_status save_shard(ck_reader *r, const char *path, const size_t *shard_of, size_t shard,
                            const ck_save_options *o, ck_save_result *result, ck_error *err) {
    ck_reader *view;
    CK_TRY(ck_view_new(ck_reader_path(r), &view, err));
    ck_status status = ck_view_copy_metadata(view, r, err);
    for (size_t i = 0; i < ck_reader_count(r) && status == CK_OK; i++) {
        const ck_tensor *t = ck_reader_tensor(r, i);
        if (shard_of[i] == shard) status = ck_view_rename(view, t->name, r, t, err);
    }
    if (status == CK_OK) status = ck_view_finish(view, err);
    if (status == CK_OK) status = save_one(view, path, o, result, err);
    ck_reader_close(view);
    return status;
}

static ck_status write_index(const ck_reader *r, const char *path, const size_t *shard_of,
                             size_t shards, const ck_save_options *o, ck_error *err) {
    cJSON *root = cJSON_CreateObject();
    cJSON *metadata = cJSON_AddObjectToObject(root, "metadata");
    uint64_t total = 0;
    for (size_t i = 0; i < ck_reader_count(r); i++)
        total += written_bytes(ck_reader_tensor(r, i), o->dtype);
    bool ok = cJSON_AddNumberToObject(metadata, "total_size", (double)total) != NULL;
    cJSON *map = cJSON_AddObjectToObject(root, "weight_map");
    for (size_t i = 0; i < ck_reader_count(r) && ok; i++) {
        char *name = shard_path(path, shard_of[i], shards);
        const char *slash = name ? strrchr(name, '/') : NULL;
        ok = name &&
             cJSON_AddStringToObject(map, ck_reader_tensor(r, i)->name, slash ? slash + 1 : name);
        free(name);
    }
    char *text = ok ? cJSON_Print(root) : NULL, *line = text ? ck_sprintf("%s\n", text) : NULL,
         *index = ck_sprintf("%s.index.json", path);
    ck_status status = line && index ? ck_write_file(index, line, strlen(line), o->replace, err)
                                     : ck_fail_memory(err, path);
    cJSON_Delete(root);
    free(text);
    free(line);
    free(index);
    return status;
}

ck_status ck_save__file(ck_reader *r, const char *path, const ck_save_options *o,
                        ck_save_result *result, ck_error *err) {
    if (!o->max_shard) return save_one(r, path, o, result, err);
    if (ck_head_for(path) != ck_safetensors_header)
        return ck_fail(err, CK_USAGE, "%s: only safetensors are written in shards", path);
    size_t *shard_of = ck_alloc_array(ck_reader_count(r), sizeof *shard_of);
    if (!shard_of) return ck_fail_memory(err, path);
    size_t shards = assign_shards(r, o, shard_of);
    ck_status status = CK_OK;
    if (shards < 2) {
        status = save_one(r, path, o, result, err);
    } else {
        for (size_t s = 0; s < shards && status == CK_OK; s++) {
            char *name = shard_path(path, s, shards);
            status =
                name ? save_shard(r, name, shard_of, s, o, result, err) : ck_fail_memory(err, path);
            free(name);
        }
        if (status == CK_OK) status = write_index(r, path, shard_of, shards, o, err);
    }
    free(shard_of);
    return status;
}

bool ck_save_is_folder(const char *path) {
    struct stat st;
    size_t n = strlen(path);
    return (n && path[n - 1] == '/') || (stat(path, &st) == 0 && S_ISDIR(st.st_mode));
}

ck_status ck_save(ck_reader *r, const char *path, const ck_save_options *o, ck_save_result *result,
                  ck_error *err) {
    *result = (ck_save_result){0};
    if (!ck_save_is_folder(path)) return ck_save__file(r, path, o, result, err);
    ck_reader *view;
    CK_TRY(ck_layout_convert(r, CK_LAYOUT_DIFFUSERS, CK_UNUSED_KEEP, &view, NULL, err));
    ck_status status = ck_save__folder(view, path, o, result, err);
    ck_reader_close(view);
    return status;
}
