/* Folders, hashes and the cache of hashes; see find_models.h. */
#include "merge/find_models.h"
#include "io/json.h"
#include "io/os.h"
#include "io/writer.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_DEPTH = 8, MAX_CACHE = 16 << 20 };

/* The legacy hash of files that end before the bytes of which it is made: it says nothing. */
#define OF_SMALL_FILES "e3b0c442"

struct ck_finder {
    char **files; /* by path */
    size_t count, capacity;
    bool (*progress)(void *context, uint64_t bytes);
    void *context;
    char *cache_folder; /* NULL: there is no place for a cache */
    char *cache_path;
    cJSON *cache; /* real path: {"stamp": size and time, "sha256": ..., "autov3": ...} */
    bool cache_changed;
};

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/'), *back = strrchr(path, '\\');
    if (back && (!slash || back > slash)) slash = back;
    return slash ? slash + 1 : path;
}

static bool is_model_name(const char *name) {
    static const char *const endings[] = {".safetensors", ".ckpt", ".pt", ".pth",
                                          ".bin",         ".gguf", ".h5", ".hdf5"};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < sizeof endings / sizeof *endings; i++)
        if (strcmp(dot, endings[i]) == 0) return true;
    return false;
}

static ck_status list(ck_finder *f, const char *folder, int depth, ck_error *err);

static ck_status list_entry(ck_finder *f, const char *folder, const char *name, int depth,
                            ck_error *err) {
    char *path = ck_sprintf("%s/%s", folder, name);
    if (!path) return ck_fail_memory(err, folder);
    struct stat st;
    bool there = stat(path, &st) == 0; /* a link to nothing is nothing */
    ck_status status = CK_OK;
    if (there && S_ISDIR(st.st_mode) && depth < MAX_DEPTH) status = list(f, path, depth + 1, err);
    if (there && S_ISREG(st.st_mode) && is_model_name(name)) {
        char **files = ck_grow(f->files, f->count, &f->capacity, sizeof *files);
        if (files) {
            f->files = files;
            files[f->count++] = path;
            return CK_OK;
        }
        status = ck_fail_memory(err, folder);
    }
    free(path);
    return status;
}

static int not_hidden(const struct dirent *entry) {
    return entry->d_name[0] != '.';
}

static ck_status list(ck_finder *f, const char *folder, int depth, ck_error *err) {
    struct dirent **entries;
    int count = scandir(folder, &entries, not_hidden, alphasort);
    if (count < 0) return ck_fail_errno(err, "%s: cannot be listed", folder);
    ck_status status = CK_OK;
    for (int i = 0; i < count; i++) {
        if (status == CK_OK) status = list_entry(f, folder, entries[i]->d_name, depth, err);
        free(entries[i]);
    }
    free(entries);
    return status;
}

/* ---- The cache ---- */

static void open_cache(ck_finder *f) {
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (base && *base == '/')
        f->cache_folder = ck_sprintf("%s/ckmerge", base);
    else if (home && *home == '/')
        f->cache_folder = ck_sprintf("%s/.cache/ckmerge", home);
    if (f->cache_folder) f->cache_path = ck_sprintf("%s/hashes.json", f->cache_folder);
    char *text = NULL;
    size_t n;
    ck_error ignored;
    if (f->cache_path && ck_read_file(f->cache_path, MAX_CACHE, &text, &n, &ignored) == CK_OK)
        f->cache = cJSON_Parse(text);
    free(text);
    if (cJSON_IsObject(f->cache)) return;
    cJSON_Delete(f->cache);
    f->cache = cJSON_CreateObject();
}

static void write_cache(ck_finder *f) {
    if (!f->cache_changed || !f->cache_path) return;
    char *text = cJSON_Print(f->cache);
    char *slash = strrchr(f->cache_folder, '/');
    *slash = 0;
    mkdir(f->cache_folder, 0777);
    *slash = '/';
    mkdir(f->cache_folder, 0777);
    ck_error ignored;
    if (text) ck_write_file(f->cache_path, text, strlen(text), true, &ignored);
    free(text);
}

/* Size and time, as a text. False when the file is not there any more. */
static bool stamp_of(const char *path, char *stamp, size_t size) {
    struct stat st;
    if (stat(path, &st) != 0) return false;
    snprintf(stamp, size, "%jd %jd.%09ld", (intmax_t)st.st_size, (intmax_t)st.st_mtim.tv_sec,
             st.st_mtim.tv_nsec);
    return true;
}

static bool take_text(const cJSON *entry, const char *field, char *to, size_t size) {
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(entry, field);
    if (!cJSON_IsString(text) || strlen(text->valuestring) >= size) return false;
    strcpy(to, text->valuestring);
    return true;
}

/* SHA-256 and AutoV3 of a file, from the cache or by reading it. */
static ck_status hashes_of(ck_finder *f, const char *path, ck_file_hashes *h, ck_error *err) {
    char *real = realpath(path, NULL), stamp[96], old[96];
    if (!real || !stamp_of(real, stamp, sizeof stamp)) {
        free(real);
        return ck_hash_file(path, h, f->progress, f->context, err);
    }
    const cJSON *entry = cJSON_GetObjectItemCaseSensitive(f->cache, real);
    if (take_text(entry, "stamp", old, sizeof old) && strcmp(old, stamp) == 0 &&
        take_text(entry, "sha256", h->sha256, sizeof h->sha256) &&
        take_text(entry, "autov3", h->autov3, sizeof h->autov3)) {
        free(real);
        return CK_OK;
    }
    ck_status status = ck_hash_file(path, h, f->progress, f->context, err);
    if (status == CK_OK) {
        cJSON_DeleteItemFromObjectCaseSensitive(f->cache, real);
        cJSON *new = cJSON_AddObjectToObject(f->cache, real);
        if (cJSON_AddStringToObject(new, "stamp", stamp) &&
            cJSON_AddStringToObject(new, "sha256", h->sha256) &&
            cJSON_AddStringToObject(new, "autov3", h->autov3))
            f->cache_changed = true;
        else
            cJSON_DeleteItemFromObjectCaseSensitive(f->cache, real);
    }
    free(real);
    return status;
}

/* ---- Finding ---- */

ck_status ck_finder_open(const char *const *dirs, size_t count,
                         bool (*progress)(void *context, uint64_t bytes), void *context,
                         ck_finder **out, ck_error *err) {
    ck_finder *f = ck_alloc(sizeof *f);
    if (!f) return ck_fail_memory(err, "models");
    f->progress = progress;
    f->context = context;
    open_cache(f);
    ck_status status = f->cache ? CK_OK : ck_fail_memory(err, "models");
    for (size_t i = 0; i < count && status == CK_OK; i++) status = list(f, dirs[i], 0, err);
    if (status == CK_OK)
        *out = f;
    else
        ck_finder_close(f);
    return status;
}

static bool has_name(const ck_wanted *wanted, const char *path) {
    return wanted->name && strcmp(base_name(wanted->name), base_name(path)) == 0;
}

/* Whether this file is the wanted one. The cheap questions come first. */
static ck_status fits(ck_finder *f, const ck_wanted *wanted, const char *path, bool *fit,
                      ck_error *err) {
    size_t digits = wanted->hash ? strlen(wanted->hash) : 0;
    const char *legacy = digits == 8 ? wanted->hash : wanted->legacy;
    if (legacy && strcmp(legacy, OF_SMALL_FILES) == 0) legacy = NULL;
    *fit = false;
    if (legacy) {
        char mine[9];
        CK_TRY(ck_hash_legacy(path, mine, err));
        if (strcmp(mine, legacy) != 0) return CK_OK;
    }
    if (digits >= 10) {
        ck_file_hashes h;
        CK_TRY(hashes_of(f, path, &h, err));
        *fit = strncmp(h.sha256, wanted->hash, digits) == 0 || strcmp(h.autov3, wanted->hash) == 0;
    } else {
        *fit = legacy || has_name(wanted, path);
    }
    return CK_OK;
}

static ck_status not_found(const ck_finder *f, const ck_wanted *wanted, size_t fitting,
                           ck_error *err) {
    const char *hash = wanted->hash ? wanted->hash : wanted->legacy ? wanted->legacy : "not known";
    return ck_fail(err, CK_INPUT, "%s of %zu model files in --model-dir %s '%s' (hash %s)",
                   fitting ? "several" : "none", f->count, fitting ? "fit" : "is",
                   wanted->name ? base_name(wanted->name) : "?", hash);
}

static ck_status same_content(ck_finder *f, const char *a, const char *b, bool *same,
                              ck_error *err) {
    ck_file_hashes x, y;
    CK_TRY(hashes_of(f, a, &x, err));
    CK_TRY(hashes_of(f, b, &y, err));
    *same = strcmp(x.sha256, y.sha256) == 0;
    return CK_OK;
}

ck_status ck_finder_find(ck_finder *f, const ck_wanted *wanted, char **path, ck_error *err) {
    const char *found = NULL;
    size_t fitting = 0;
    for (int round = 0; round < 2; round++) { /* those of that name, then all others */
        for (size_t i = 0; i < f->count; i++) {
            bool fit;
            if (has_name(wanted, f->files[i]) != (round == 0)) continue;
            CK_TRY(fits(f, wanted, f->files[i], &fit, err));
            if (!fit) continue;
            bool copy = false;
            if (found) CK_TRY(same_content(f, found, f->files[i], &copy, err));
            if (copy) continue;
            found = f->files[i];
            fitting++;
            /* A long hash says it all; a short one may fit two. */
            if (wanted->hash && strlen(wanted->hash) >= 10) break;
        }
        if (found) break;
    }
    if (fitting != 1) return not_found(f, wanted, fitting, err);
    *path = ck_strdup(found);
    return *path ? CK_OK : ck_fail_memory(err, found);
}

void ck_finder_close(ck_finder *f) {
    if (!f) return;
    write_cache(f);
    for (size_t i = 0; i < f->count; i++) free(f->files[i]);
    free(f->files);
    cJSON_Delete(f->cache);
    free(f->cache_folder);
    free(f->cache_path);
    free(f);
}
