/* Folders that appear whole, see checkpoint.h. */
#include "distill/run/checkpoint.h"
#include "distill/models/export.h"
#include "io/hash.h"
#include "io/json.h"
#include "io/os.h"
#include "io/writer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_PATH = 1024 };

#define MANIFEST "checkpoint.json"
#define STATE    "state.h5"

/* ---- Names ---- */

__attribute__((format(printf, 3, 4))) static ck_status make_path(char path[MAX_PATH], ck_error *err,
                                                                 const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(path, MAX_PATH, format, args);
    va_end(args);
    if (n >= 0 && n < MAX_PATH) return CK_OK;
    return ck_fail(err, CK_USAGE, "%.200s...: this path is too long", path);
}

/* RUN/checkpoints/step-00001200 */
static ck_status step_path(const char *run, uint64_t step, char path[MAX_PATH], ck_error *err) {
    return make_path(path, err, "%s/checkpoints/step-%08" PRIu64, run, step);
}

/* Where it is made and where it is taken apart. */
static ck_status temporary_path(const char *run, uint64_t step, char path[MAX_PATH],
                                ck_error *err) {
    return make_path(path, err, "%s/checkpoints/.step-%08" PRIu64 ".tmp", run, step);
}

/* "step-00001200", and nothing else, as a step. */
static bool parse_step(const char *name, uint64_t *step) {
    char again[64];
    if (sscanf(name, "step-%" SCNu64, step) != 1) return false;
    snprintf(again, sizeof again, "step-%08" PRIu64, *step);
    return strcmp(again, name) == 0;
}

/* ---- Folders ---- */

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static ck_status remove_folder(const char *path, ck_error *err) {
    if (nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS) == 0 || errno == ENOENT) return CK_OK;
    return ck_fail_errno(err, "%s: cannot be removed", path);
}

/* Makes names in a folder durable. */
static ck_status sync_folder(const char *path, ck_error *err) {
    int fd = ck_os.open(path, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0) return ck_fail_errno(err, "%s: open", path);
    ck_status status = CK_OK;
    if (ck_os.fsync(fd) != 0 && errno != EINVAL)
        status = ck_fail_errno(err, "%s: sync to disk", path);
    close(fd);
    return status;
}

/* The steps of a run, in no order. *steps is released with free(). */
static ck_status list_steps(const char *run, uint64_t **steps, size_t *count, ck_error *err) {
    char path[MAX_PATH];
    size_t capacity = 0;
    *steps = NULL;
    *count = 0;
    CK_TRY(make_path(path, err, "%s/checkpoints", run));
    DIR *folder = opendir(path);
    if (!folder && errno == ENOENT) return CK_OK;
    if (!folder) return ck_fail_errno(err, "%s: open", path);
    ck_status status = CK_OK;
    for (struct dirent *e; status == CK_OK && (e = readdir(folder));) {
        uint64_t step;
        if (!parse_step(e->d_name, &step)) continue;
        uint64_t *grown = ck_grow(*steps, *count, &capacity, sizeof *grown);
        if (!grown) {
            status = ck_fail_memory(err, path);
            break;
        }
        *steps = grown;
        grown[(*count)++] = step;
    }
    closedir(folder);
    if (status != CK_OK) free(*steps);
    return status;
}

static ck_status read_latest(const char *run, uint64_t *step, ck_error *err) {
    char path[MAX_PATH], *text;
    size_t n;
    CK_TRY(make_path(path, err, "%s/checkpoints/latest", run));
    CK_TRY(ck_read_file(path, 64, &text, &n, err));
    if (n > 0 && text[n - 1] == '\n') text[--n] = 0;
    bool good = strlen(text) == n && parse_step(text, step);
    free(text);
    return good ? CK_OK : ck_fail(err, CK_INPUT, "%s: does not name a checkpoint", path);
}

/* ---- What is in a checkpoint ---- */

/* The files that it has beside the manifest: those of weights, then the state. */
static size_t file_count(const ck_checkpoint *what) {
    return what->weights_count + 1;
}

static void file_name(const ck_checkpoint *what, size_t i, char name[MAX_PATH]) {
    if (i < what->weights_count)
        snprintf(name, MAX_PATH, "%s.safetensors", what->weights[i].name);
    else
        snprintf(name, MAX_PATH, STATE);
}

static ck_status check_finite(const char *kind, const char *name, const float *data, size_t n,
                              ck_error *err) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(data[i]))
            return ck_fail(err, CK_INPUT,
                           "%s '%s' has a value that is %s: not saved, the checkpoint before it "
                           "stays",
                           kind, name, isnan(data[i]) ? "not a number" : "infinite");
    return CK_OK;
}

static ck_status check_values(const ck_checkpoint *what, ck_error *err) {
    for (size_t i = 0; i < what->weights_count; i++) {
        const ck_params *p = what->weights[i].params;
        for (size_t j = 0; j < ck_params_count(p); j++)
            CK_TRY(check_finite("tensor", ck_params_name(p, j), ck_params_data(p, j),
                                ck_params_elements(p, j), err));
    }
    for (size_t i = 0; i < what->state.array_count; i++) {
        const ck_state_array *a = &what->state.arrays[i];
        CK_TRY(check_finite("array", a->name, a->data, a->n, err));
    }
    return CK_OK;
}

/* ---- Saving ---- */

static ck_status add_file(cJSON *files, const char *folder, const char *name, ck_error *err) {
    char path[MAX_PATH], sha256[CK_SHA256_HEX];
    struct stat st;
    CK_TRY(make_path(path, err, "%s/%s", folder, name));
    if (stat(path, &st) != 0) return ck_fail_errno(err, "%s: stat", path);
    CK_TRY(ck_hash_sha256(path, sha256, NULL, NULL, err));
    cJSON *file = cJSON_CreateObject();
    bool done = cJSON_AddStringToObject(file, "name", name) &&
                cJSON_AddNumberToObject(file, "bytes", (double)st.st_size) &&
                cJSON_AddStringToObject(file, "sha256", sha256) &&
                cJSON_AddItemToArray(files, file);
    if (!done) cJSON_Delete(file);
    return done ? CK_OK : ck_fail_memory(err, path);
}

static ck_status write_manifest(const char *folder, uint64_t step, const ck_checkpoint *what,
                                ck_error *err) {
    char path[MAX_PATH], name[MAX_PATH];
    CK_TRY(make_path(path, err, "%s/" MANIFEST, folder));
    cJSON *root = cJSON_CreateObject();
    bool done = cJSON_AddNumberToObject(root, "step", (double)step) != NULL;
    cJSON *files = cJSON_AddArrayToObject(root, "files");
    ck_status status = done && files ? CK_OK : ck_fail_memory(err, path);
    for (size_t i = 0; i < file_count(what) && status == CK_OK; i++) {
        file_name(what, i, name);
        status = add_file(files, folder, name, err);
    }
    char *text = status == CK_OK ? cJSON_Print(root) : NULL;
    if (text)
        status = ck_write_file(path, text, strlen(text), false, err);
    else if (status == CK_OK)
        status = ck_fail_memory(err, path);
    free(text);
    cJSON_Delete(root);
    return status;
}

/* Everything into a folder; the manifest comes last, and its writing makes all names durable. */
static ck_status fill(const char *folder, uint64_t step, const ck_checkpoint *what, ck_error *err) {
    char path[MAX_PATH], name[MAX_PATH];
    for (size_t i = 0; i < file_count(what); i++) {
        file_name(what, i, name);
        CK_TRY(make_path(path, err, "%s/%s", folder, name));
        if (i < what->weights_count)
            CK_TRY(ck_export(what->weights[i].params, path, CK_DTYPE_COUNT, NULL, 0, err));
        else
            CK_TRY(ck_state_write(path, &what->state, err));
    }
    return write_manifest(folder, step, what, err);
}

/* Where the file system cannot exchange two folders (NFS): the older one is out of the way for an
 * instant. */
static bool exchange_slowly(const char *temporary, const char *path, ck_error *err) {
    char aside[MAX_PATH];
    if (make_path(aside, err, "%s.old.tmp", temporary) != CK_OK) return false;
    if (ck_os.rename(path, aside, 0) != 0) return false;
    if (ck_os.rename(temporary, path, 0) == 0) return true;
    int saved = errno;
    ck_os.rename(aside, path, 0);
    errno = saved;
    return false;
}

/* Gives a finished folder its name, perhaps instead of an older one, which then has one that ends
 * in ".tmp". */
static ck_status publish(const char *temporary, const char *path, ck_error *err) {
    bool done = ck_os.rename(temporary, path, 0) == 0;
    /* A folder that is not empty is not renamed over. */
    if (!done && (errno == EEXIST || errno == ENOTEMPTY)) {
        done = ck_os.rename(temporary, path, RENAME_EXCHANGE) == 0;
        if (!done && (errno == EINVAL || errno == ENOSYS))
            done = exchange_slowly(temporary, path, err);
    }
    return done ? CK_OK : ck_fail_errno(err, "%s: cannot put the checkpoint in place", path);
}

static ck_status save_in(const char *checkpoints, const char *temporary, const char *path,
                         uint64_t step, const ck_checkpoint *what, ck_error *err) {
    char latest[MAX_PATH], text[64];
    CK_TRY(remove_folder(temporary, err));
    if (mkdir(temporary, 0777) != 0) return ck_fail_errno(err, "%s: cannot be made", temporary);
    CK_TRY(fill(temporary, step, what, err));
    CK_TRY(publish(temporary, path, err));
    CK_TRY(sync_folder(checkpoints, err));
    CK_TRY(make_path(latest, err, "%s/latest", checkpoints));
    int n = snprintf(text, sizeof text, "%s\n", strrchr(path, '/') + 1);
    return ck_write_file(latest, text, (size_t)n, true, err);
}

/* What processes that were killed have left. */
static void remove_leftovers(const char *checkpoints) {
    DIR *folder = opendir(checkpoints);
    if (!folder) return;
    for (struct dirent *e; (e = readdir(folder));) {
        char path[MAX_PATH];
        ck_error ignored;
        size_t n = strlen(e->d_name);
        if (e->d_name[0] == '.' && n > 4 && strcmp(e->d_name + n - 4, ".tmp") == 0 &&
            make_path(path, &ignored, "%s/%s", checkpoints, e->d_name) == CK_OK)
            remove_folder(path, &ignored);
    }
    closedir(folder);
}

ck_status ck_checkpoint_save(const char *run, uint64_t step, const ck_checkpoint *what,
                             ck_error *err) {
    char checkpoints[MAX_PATH], temporary[MAX_PATH], path[MAX_PATH];
    CK_TRY(check_values(what, err));
    CK_TRY(make_path(checkpoints, err, "%s/checkpoints", run));
    CK_TRY(temporary_path(run, step, temporary, err));
    CK_TRY(step_path(run, step, path, err));
    if (mkdir(checkpoints, 0777) == 0)
        CK_TRY(sync_folder(run, err));
    else if (errno != EEXIST)
        return ck_fail_errno(err, "%s: cannot be made", checkpoints);
    remove_leftovers(checkpoints);
    ck_status status = save_in(checkpoints, temporary, path, step, what, err);
    /* This one, when it could not be made, or the one that it replaces. */
    remove_leftovers(checkpoints);
    return status;
}

/* ---- Loading ---- */

static const cJSON *find_file(const cJSON *files, const char *name) {
    const cJSON *file;
    cJSON_ArrayForEach(file, files) {
        const char *its = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(file, "name"));
        if (its && strcmp(its, name) == 0) return file;
    }
    return NULL;
}

static ck_status check_file(const ck_json *doc, const cJSON *files, const char *folder,
                            const char *name, ck_error *err) {
    char path[MAX_PATH], sha256[CK_SHA256_HEX];
    const cJSON *file = find_file(files, name);
    if (!file) return ck_json_fail(doc, files, err, "has no %s: it is of another run", name);
    uint64_t bytes = UINT64_MAX;
    const char *wanted = NULL;
    CK_TRY(ck_json_only(doc, file, "name bytes sha256", err));
    CK_TRY(ck_json_count(doc, file, "bytes", &bytes, err));
    CK_TRY(ck_json_text(doc, file, "sha256", &wanted, err));
    if (!wanted || bytes == UINT64_MAX)
        return ck_json_fail(doc, file, err, "must have \"bytes\" and \"sha256\"");
    CK_TRY(make_path(path, err, "%s/%s", folder, name));
    struct stat st;
    if (stat(path, &st) != 0) return ck_fail_errno(err, "%s: stat", path);
    if ((uint64_t)st.st_size != bytes)
        return ck_fail(err, CK_INPUT, "%s: damaged: has %lld bytes, not %" PRIu64, path,
                       (long long)st.st_size, bytes);
    CK_TRY(ck_hash_sha256(path, sha256, NULL, NULL, err));
    if (strcmp(sha256, wanted) == 0) return CK_OK;
    return ck_fail(err, CK_INPUT, "%s: damaged: its SHA-256 is not the one in " MANIFEST, path);
}

static ck_status check_manifest(const ck_json *doc, const char *folder, uint64_t step,
                                const ck_checkpoint *what, ck_error *err) {
    uint64_t its = UINT64_MAX;
    char name[MAX_PATH];
    CK_TRY(ck_json_only(doc, doc->root, "step files", err));
    CK_TRY(ck_json_count(doc, doc->root, "step", &its, err));
    if (its != step) return ck_json_fail(doc, doc->root, err, "is of another step");
    const cJSON *files = cJSON_GetObjectItemCaseSensitive(doc->root, "files");
    if (!cJSON_IsArray(files)) return ck_json_fail(doc, doc->root, err, "has no list of files");
    for (size_t i = 0; i < file_count(what); i++) {
        file_name(what, i, name);
        CK_TRY(check_file(doc, files, folder, name, err));
    }
    if ((size_t)cJSON_GetArraySize(files) == file_count(what)) return CK_OK;
    return ck_json_fail(doc, files, err, "has more than %zu files: it is of another run",
                        file_count(what));
}

/* Whether every file is what was written. */
static ck_status check_whole(const char *folder, uint64_t step, const ck_checkpoint *what,
                             ck_error *err) {
    char path[MAX_PATH];
    ck_json doc;
    CK_TRY(make_path(path, err, "%s/" MANIFEST, folder));
    CK_TRY(ck_json_load(path, &doc, err));
    ck_status status = check_manifest(&doc, folder, step, what, err);
    ck_json_free(&doc);
    return status;
}

static ck_status load_weights(ck_params *params, const char *path, ck_error *err) {
    ck_reader *r;
    CK_TRY(ck_reader_open(path, &r, err));
    ck_status status = ck_params_load(params, r, err);
    ck_reader_close(r);
    return status;
}

static ck_status load_from(const char *folder, uint64_t step, const ck_checkpoint *what,
                           ck_error *err) {
    char path[MAX_PATH], name[MAX_PATH];
    CK_TRY(check_whole(folder, step, what, err));
    for (size_t i = 0; i < file_count(what); i++) {
        file_name(what, i, name);
        CK_TRY(make_path(path, err, "%s/%s", folder, name));
        if (i < what->weights_count)
            CK_TRY(load_weights(what->weights[i].params, path, err));
        else
            CK_TRY(ck_state_read(path, &what->state, err));
    }
    return CK_OK;
}

static int newest_first(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

/* Notes why a checkpoint is passed over; false when err tells of something else. */
static bool pass_over(ck_checkpoint_found *found, const ck_error *err) {
    if (err->status != CK_INPUT && err->status != CK_IO) return false;
    size_t used = strlen(found->warning);
    snprintf(found->warning + used, sizeof found->warning - used, "%s%s", used ? "; " : "",
             err->message);
    return true;
}

/* Steps newest first, but the one that `latest` names before them. */
static ck_status order(const char *run, uint64_t *steps, size_t count, ck_error *err) {
    uint64_t latest;
    if (count) qsort(steps, count, sizeof *steps, newest_first);
    CK_TRY(read_latest(run, &latest, err));
    size_t i = 0;
    while (i < count && steps[i] != latest) i++;
    if (i == count)
        return ck_fail(err, CK_INPUT,
                       "%s/checkpoints/latest: names step %" PRIu64 ", which is not there", run,
                       latest);
    memmove(steps + 1, steps, i * sizeof *steps);
    steps[0] = latest;
    return CK_OK;
}

static ck_status load_first(const char *run, uint64_t *steps, size_t count,
                            const ck_checkpoint *what, ck_checkpoint_found *found, ck_error *err) {
    if (count == 0) return ck_fail(err, CK_INPUT, "%s: has no checkpoints to go on from", run);
    found->warning[0] = 0;
    ck_status status = order(run, steps, count, err);
    if (status != CK_OK && !pass_over(found, err)) return status;
    for (size_t i = 0; i < count; i++) {
        found->step = steps[i];
        CK_TRY(step_path(run, steps[i], found->path, err));
        status = load_from(found->path, steps[i], what, err);
        if (status == CK_OK || !pass_over(found, err)) return status;
    }
    return ck_fail(err, CK_INPUT, "%s: none of its checkpoints can be used: %s", run,
                   found->warning);
}

ck_status ck_checkpoint_load(const char *run, const ck_checkpoint *what, ck_checkpoint_found *found,
                             ck_error *err) {
    uint64_t *steps;
    size_t count;
    CK_TRY(list_steps(run, &steps, &count, err));
    ck_status status = load_first(run, steps, count, what, found, err);
    free(steps);
    return status;
}

/* ---- Rotation ---- */

ck_status ck_checkpoint_rate(const char *run, uint64_t step, double metric, ck_error *err) {
    char path[MAX_PATH], text[64];
    if (!isfinite(metric)) return CK_OK;
    CK_TRY(make_path(path, err, "%s/checkpoints/step-%08" PRIu64 "/metric", run, step));
    int n = snprintf(text, sizeof text, "%.17g\n", metric);
    return ck_write_file(path, text, (size_t)n, true, err);
}

typedef struct saved {
    uint64_t step;
    double metric; /* INFINITY: none was measured */
    bool kept;
} saved;

static ck_status read_metric(const char *run, saved *s, ck_error *err) {
    char path[MAX_PATH], *text, *end;
    size_t n;
    s->metric = INFINITY;
    CK_TRY(make_path(path, err, "%s/checkpoints/step-%08" PRIu64 "/metric", run, s->step));
    if (access(path, F_OK) != 0) return CK_OK;
    CK_TRY(ck_read_file(path, 64, &text, &n, err));
    double metric = strtod(text, &end);
    if (end > text && strcmp(end, "\n") == 0 && isfinite(metric)) s->metric = metric;
    free(text);
    return CK_OK;
}

/* Of two with the same metric, the newer one. */
static int best_first(const void *a, const void *b) {
    const saved *x = a, *y = b;
    if (x->metric != y->metric) return (x->metric > y->metric) - (x->metric < y->metric);
    return (x->step < y->step) - (x->step > y->step);
}

/* Marks what the rules keep of what is saved, sorted newest first; sorts it otherwise. */
static void mark(saved *s, size_t count, const ck_keep *keep) {
    uint64_t last = keep->last ? keep->last : 1;
    for (size_t i = 0; i < count; i++)
        s[i].kept = i < last || (keep->every && s[i].step % keep->every == 0);
    qsort(s, count, sizeof *s, best_first);
    for (size_t i = 0; i < count && i < keep->best; i++) s[i].kept |= isfinite(s[i].metric);
}

static ck_status remove_step(const char *run, uint64_t step, ck_error *err) {
    char path[MAX_PATH], temporary[MAX_PATH];
    CK_TRY(step_path(run, step, path, err));
    CK_TRY(temporary_path(run, step, temporary, err));
    /* Taken apart under another name: half of one must not look like one. */
    if (ck_os.rename(path, temporary, 0) != 0)
        return ck_fail_errno(err, "%s: cannot be removed", path);
    return remove_folder(temporary, err);
}

static ck_status rotate(const char *run, const uint64_t *steps, saved *s, size_t count,
                        const ck_keep *keep, ck_error *err) {
    uint64_t latest;
    CK_TRY(read_latest(run, &latest, err));
    for (size_t i = 0; i < count; i++) {
        s[i].step = steps[i];
        CK_TRY(read_metric(run, &s[i], err));
    }
    mark(s, count, keep);
    for (size_t i = 0; i < count; i++)
        if (!s[i].kept && s[i].step != latest) CK_TRY(remove_step(run, s[i].step, err));
    return CK_OK;
}

ck_status ck_checkpoint_rotate(const char *run, const ck_keep *keep, ck_error *err) {
    uint64_t *steps;
    size_t count;
    CK_TRY(list_steps(run, &steps, &count, err));
    if (count) qsort(steps, count, sizeof *steps, newest_first);
    saved *s = ck_alloc_array(count, sizeof *s);
    ck_status status = s ? rotate(run, steps, s, count, keep, err) : ck_fail_memory(err, run);
    free(s);
    free(steps);
    return status;
}
