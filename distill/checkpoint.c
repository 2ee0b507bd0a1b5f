/* Checkpoints of a run, see checkpoint.h. */
#include "distill/checkpoint.h"

#include "distill/export.h"
#include "io/hash.h"
#include "io/json.h"
#include "io/os.h"
#include "io/writer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_FILES = 8, PATH_SIZE = 1024, MOST_STEPS = 4096 };

/* ---- Paths and folders ---- */

/* A path that may be too long is an error, never cut. */
static ck_status path_of(char *path, ck_error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static ck_status path_of(char *path, ck_error *err, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(path, PATH_SIZE, format, args);
    va_end(args);
    return n >= 0 && n < PATH_SIZE ? CK_OK
                                   : ck_fail(err, CK_USAGE, "%.100s...: path too long", path);
}

static ck_status sync_folder(const char *path, ck_error *err) {
    int fd = ck_os.open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0) return ck_fail_errno(err, "%s", path);
    bool ok = ck_os.fsync(fd) == 0;
    if (!ok) ck_fail_errno(err, "%s", path);
    close(fd);
    return ok ? CK_OK : CK_IO;
}

/* A checkpoint's folder and the files in it; best effort. */
static void remove_folder(const char *path) {
    DIR *dir = opendir(path);
    if (!dir) return;
    for (struct dirent *e; (e = readdir(dir));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) unlinkat(dirfd(dir), e->d_name, 0);
    closedir(dir);
    rmdir(path);
}

static ck_status make_folder(const char *path, ck_error *err) {
    return mkdir(path, 0777) == 0 || errno == EEXIST ? CK_OK : ck_fail_errno(err, "%s", path);
}

/* ---- The manifest ---- */

typedef struct files {
    char names[MOST_FILES][80];
    size_t count;
} files;

/* The names of the files of a checkpoint, from what is saved in it. */
static ck_status name_files(const ck_checkpoint *what, files *f, ck_error *err) {
    f->count = 0;
    if (what->weights_count >= MOST_FILES)
        return ck_fail(err, CK_USAGE, "a checkpoint of more than %d files", MOST_FILES);
    for (size_t i = 0; i < what->weights_count; i++)
        snprintf(f->names[f->count++], sizeof f->names[0], "%s.safetensors", what->weights[i].name);
    snprintf(f->names[f->count++], sizeof f->names[0], "state.h5");
    return CK_OK;
}

static ck_status add_file(const char *folder, const char *name, cJSON *list, ck_error *err) {
    char path[PATH_SIZE], hex[CK_SHA256_HEX];
    struct stat st;
    CK_TRY(path_of(path, err, "%s/%s", folder, name));
    CK_TRY(ck_hash_sha256(path, hex, NULL, NULL, err));
    if (stat(path, &st) != 0) return ck_fail_errno(err, "%s", path);
    cJSON *o = cJSON_CreateObject();
    bool ok = o && cJSON_AddStringToObject(o, "name", name) &&
              cJSON_AddNumberToObject(o, "bytes", (double)st.st_size) &&
              cJSON_AddStringToObject(o, "sha256", hex) && cJSON_AddItemToArray(list, o);
    if (!ok) cJSON_Delete(o);
    return ok ? CK_OK : ck_fail_memory(err, path);
}

static ck_status write_manifest(const char *folder, uint64_t step, const files *f, ck_error *err) {
    cJSON *root = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(root, "files");
    ck_status s = list && cJSON_AddNumberToObject(root, "step", (double)step)
                      ? CK_OK
                      : ck_fail_memory(err, folder);
    for (size_t i = 0; i < f->count && s == CK_OK; i++)
        s = add_file(folder, f->names[i], list, err);
    char *text = s == CK_OK ? cJSON_Print(root) : NULL, path[PATH_SIZE];
    cJSON_Delete(root);
    if (s == CK_OK)
        s = text ? path_of(path, err, "%s/checkpoint.json", folder) : ck_fail_memory(err, folder);
    if (s == CK_OK) s = ck_write_file(path, text, strlen(text), true, err);
    free(text);
    return s;
}

static ck_status verify_file(const char *folder, const ck_json *doc, const cJSON *node,
                             ck_error *err) {
    const char *name = NULL, *sha256 = NULL;
    char path[PATH_SIZE], hex[CK_SHA256_HEX];
    CK_TRY(ck_json_text(doc, node, "name", &name, err));
    CK_TRY(ck_json_text(doc, node, "sha256", &sha256, err));
    if (!name || !sha256 || strchr(name, '/')) return ck_json_fail(doc, node, err, "not a file");
    CK_TRY(path_of(path, err, "%s/%s", folder, name));
    CK_TRY(ck_hash_sha256(path, hex, NULL, NULL, err));
    return strcmp(hex, sha256) == 0
               ? CK_OK
               : ck_fail(err, CK_INPUT, "%s: damaged: it is not what was written", path);
}

/* Whether all files are what was written, and which step they are of. */
static ck_status verify(const char *folder, uint64_t *step, ck_error *err) {
    char path[PATH_SIZE];
    ck_json doc;
    CK_TRY(path_of(path, err, "%s/checkpoint.json", folder));
    CK_TRY(ck_json_load(path, &doc, err));
    *step = UINT64_MAX;
    ck_status s = ck_json_count(&doc, doc.root, "step", step, err);
    if (s == CK_OK && *step == UINT64_MAX)
        s = ck_fail(err, CK_INPUT, "%s: not a checkpoint's", path);
    const cJSON *node;
    cJSON_ArrayForEach(node, cJSON_GetObjectItemCaseSensitive(doc.root, "files")) if (s == CK_OK)
        s = verify_file(folder, &doc, node, err);
    ck_json_free(&doc);
    return s;
}

/* ---- Saving ---- */

static ck_status check_finite(const ck_checkpoint *what, ck_error *err) {
    for (size_t i = 0; i < what->weights_count; i++) {
        const ck_params *p = what->weights[i].params;
        for (size_t k = 0; k < ck_params_count(p); k++) {
            const float *x = ck_params_data(p, k);
            for (size_t n = 0; n < ck_params_elements(p, k); n++)
                if (!isfinite(x[n]))
                    return ck_fail(err, CK_INPUT, "not saved: a value of %s '%s' is no number",
                                   what->weights[i].name, ck_params_name(p, k));
        }
    }
    for (size_t i = 0; i < what->state.array_count; i++)
        for (size_t n = 0; n < what->state.arrays[i].n; n++)
            if (!isfinite(what->state.arrays[i].data[n]))
                return ck_fail(err, CK_INPUT, "not saved: a value of '%s' is no number",
                               what->state.arrays[i].name);
    return CK_OK;
}

static ck_status write_files(const char *folder, uint64_t step, const ck_checkpoint *what,
                             ck_error *err) {
    files f;
    char path[PATH_SIZE];
    CK_TRY(name_files(what, &f, err));
    for (size_t i = 0; i < what->weights_count; i++) {
        CK_TRY(path_of(path, err, "%s/%s", folder, f.names[i]));
        CK_TRY(ck_export(what->weights[i].params, path, CK_DTYPE_COUNT, NULL, 0, err));
    }
    CK_TRY(path_of(path, err, "%s/state.h5", folder));
    CK_TRY(ck_state_write(path, &what->state, err));
    CK_TRY(write_manifest(folder, step, &f, err));
    return sync_folder(folder, err);
}

/* Gives the new checkpoint its name; one that has it already goes away afterwards. */
static ck_status put(const char *from, const char *to, const char *old, ck_error *err) {
    remove_folder(old);
    if (access(to, F_OK) == 0 && rename(to, old) != 0) return ck_fail_errno(err, "%s", to);
    if (rename(from, to) != 0) {
        ck_fail_errno(err, "%s", to);
        if (rename(old, to) != 0) return CK_IO;
        return CK_IO;
    }
    remove_folder(old);
    return CK_OK;
}

ck_status ck_checkpoint_save(const char *run, uint64_t step, const ck_checkpoint *what,
                             ck_error *err) {
    char all[PATH_SIZE], now[PATH_SIZE], to[PATH_SIZE], old[PATH_SIZE], latest[PATH_SIZE];
    char name[32];
    CK_TRY(check_finite(what, err));
    snprintf(name, sizeof name, "step-%08llu", (unsigned long long)step);
    CK_TRY(path_of(all, err, "%s/checkpoints", run));
    CK_TRY(path_of(now, err, "%s/.new", all));
    CK_TRY(path_of(old, err, "%s/.old", all));
    CK_TRY(path_of(to, err, "%s/%s", all, name));
    CK_TRY(path_of(latest, err, "%s/latest", all));
    CK_TRY(make_folder(all, err));
    remove_folder(now); /* what a process that died left */
    CK_TRY(make_folder(now, err));
    ck_status s = write_files(now, step, what, err);
    if (s == CK_OK) s = put(now, to, old, err);
    if (s != CK_OK) {
        remove_folder(now);
        return s;
    }
    CK_TRY(sync_folder(all, err));
    return ck_write_file(latest, name, strlen(name), true, err);
}

/* ---- Listing ---- */

static int newest_first(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* The steps that there are checkpoints of, the newest first. */
static ck_status list_steps(const char *run, uint64_t *steps, size_t *count, ck_error *err) {
    char all[PATH_SIZE];
    *count = 0;
    CK_TRY(path_of(all, err, "%s/checkpoints", run));
    DIR *dir = opendir(all);
    if (!dir) return ck_fail_errno(err, "%s", all);
    for (struct dirent *e; (e = readdir(dir)) && *count < MOST_STEPS;) {
        unsigned long long step;
        char end;
        if (sscanf(e->d_name, "step-%llu%c", &step, &end) == 1) steps[(*count)++] = step;
    }
    closedir(dir);
    qsort(steps, *count, sizeof *steps, newest_first);
    return CK_OK;
}

/* The step that `latest` names; UINT64_MAX if it names none. */
static uint64_t latest_step(const char *run) {
    char path[PATH_SIZE], *text = NULL;
    size_t n;
    unsigned long long step = UINT64_MAX;
    ck_error ignored;
    if (path_of(path, &ignored, "%s/checkpoints/latest", run) != CK_OK) return UINT64_MAX;
    if (ck_read_file(path, 64, &text, &n, &ignored) != CK_OK) return UINT64_MAX;
    if (sscanf(text, "step-%llu", &step) != 1) step = UINT64_MAX;
    free(text);
    return step;
}

/* ---- Loading ---- */

static ck_status load_weights(const char *folder, const ck_checkpoint_weights *w, ck_error *err) {
    char path[PATH_SIZE];
    ck_reader *r;
    CK_TRY(path_of(path, err, "%s/%s.safetensors", folder, w->name));
    CK_TRY(ck_reader_open(path, &r, err));
    ck_status s = ck_params_load(w->params, r, err);
    ck_reader_close(r);
    return s;
}

static ck_status load(const char *folder, const ck_checkpoint *what, uint64_t *step,
                      ck_error *err) {
    char path[PATH_SIZE];
    CK_TRY(verify(folder, step, err));
    for (size_t i = 0; i < what->weights_count; i++)
        CK_TRY(load_weights(folder, &what->weights[i], err));
    CK_TRY(path_of(path, err, "%s/state.h5", folder));
    return ck_state_read(path, &what->state, err);
}

static ck_status load_newest(const char *run, const uint64_t *steps, size_t count,
                             const ck_checkpoint *what, ck_checkpoint_found *found, ck_error *err) {
    for (size_t i = 0; i < count; i++) {
        CK_TRY(path_of(found->path, err, "%s/checkpoints/step-%08llu", run,
                       (unsigned long long)steps[i]));
        ck_status s = load(found->path, what, &found->step, err);
        if (s == CK_OK || s == CK_MEMORY || s == CK_USAGE) return s;
        size_t used = strlen(found->warning);
        snprintf(found->warning + used, sizeof found->warning - used,
                 "%spassed over a damaged checkpoint: %s", used ? "\n" : "", err->message);
    }
    return ck_fail(err, CK_INPUT, "%s: no checkpoint is whole%s%s", run, count ? ": " : "",
                   found->warning);
}

ck_status ck_checkpoint_load(const char *run, const ck_checkpoint *what, ck_checkpoint_found *found,
                             ck_error *err) {
    *found = (ck_checkpoint_found){0};
    uint64_t *steps = ck_alloc_array(MOST_STEPS + 1, sizeof *steps);
    size_t count;
    if (!steps) return ck_fail_memory(err, run);
    ck_status s = list_steps(run, steps + 1, &count, err);
    /* The one that `latest` names goes first: a newer one may be what a rollback left behind. */
    uint64_t latest = latest_step(run), *first = steps + 1;
    for (size_t i = 0; s == CK_OK && i < count; i++)
        if (steps[1 + i] == latest) {
            memmove(steps + 1 + i, steps + 2 + i, (count - i - 1) * sizeof *steps);
            steps[0] = latest;
            first = steps;
            break;
        }
    if (s == CK_OK) s = load_newest(run, first, count, what, found, err);
    free(steps);
    return s;
}

/* ---- Rotation ---- */

ck_status ck_checkpoint_rate(const char *run, uint64_t step, double metric, ck_error *err) {
    char path[PATH_SIZE], text[64];
    if (!isfinite(metric)) return CK_OK;
    CK_TRY(path_of(path, err, "%s/checkpoints/step-%08llu/metric", run, (unsigned long long)step));
    snprintf(text, sizeof text, "%.17g\n", metric);
    return ck_write_file(path, text, strlen(text), true, err);
}

static double metric_of(const char *run, uint64_t step) {
    char path[PATH_SIZE], *text;
    size_t n;
    ck_error ignored;
    if (path_of(path, &ignored, "%s/checkpoints/step-%08llu/metric", run,
                (unsigned long long)step) != CK_OK ||
        ck_read_file(path, 64, &text, &n, &ignored) != CK_OK)
        return INFINITY;
    double metric = strtod(text, NULL);
    free(text);
    return metric;
}

/* How many checkpoints have a better metric than the i-th. */
static size_t place_of(const double *metrics, size_t count, size_t i) {
    size_t place = 0;
    for (size_t k = 0; k < count; k++)
        place += metrics[k] < metrics[i] || (metrics[k] == metrics[i] && k < i);
    return place;
}

ck_status ck_checkpoint_rotate(const char *run, const ck_keep *keep, ck_error *err) {
    uint64_t *steps = ck_alloc_array(MOST_STEPS, sizeof *steps), latest = latest_step(run);
    double *metrics = ck_alloc_array(MOST_STEPS, sizeof *metrics);
    size_t count = 0;
    ck_status s = steps && metrics ? list_steps(run, steps, &count, err) : ck_fail_memory(err, run);
    for (size_t i = 0; i < count; i++) metrics[i] = metric_of(run, steps[i]);
    for (size_t i = 0; i < count && s == CK_OK; i++) {
        bool best = isfinite(metrics[i]) && place_of(metrics, count, i) < keep->best;
        bool every = keep->every && steps[i] % keep->every == 0;
        if (i < (keep->last ? keep->last : 1) || best || every || steps[i] == latest) continue;
        char path[PATH_SIZE];
        s = path_of(path, err, "%s/checkpoints/step-%08llu", run, (unsigned long long)steps[i]);
        if (s == CK_OK) remove_folder(path);
    }
    free(steps);
    free(metrics);
    return s;
}
