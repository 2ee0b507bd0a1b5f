/* Preset files, see presets.h. */
#include "merge/presets.h"
#include "io/cli.h"
#include "io/json.h"
#include "io/os.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { FORMAT_VERSION = 1, MAX_PRESETS = 200 };
#define ENDING ".json"

/* The folder of presets: the user's own; where `make install` put them; or the source tree's, in
 * whose build folder the program lies (sanitizers' builds and tests lie deeper). */
static ck_status find_folder(char folder[PATH_MAX], ck_error *err) {
    static const char *const places[] = {"/../share/ckmerge/recipes/presets", "/../recipes/presets",
                                         "/../../recipes/presets", "/../../../recipes/presets"};
    const char *own = getenv("CK_PRESETS");
    if (own && *own) {
        snprintf(folder, PATH_MAX, "%s", own);
        return CK_OK;
    }
    char program[PATH_MAX - 64];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n < 0) return ck_fail_errno(err, "/proc/self/exe");
    program[n] = 0;
    *strrchr(program, '/') = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(folder, PATH_MAX, "%s%s", program, places[i]);
        if (access(folder, R_OK) == 0) return CK_OK;
    }
    return ck_fail(err, CK_INPUT, "%s%s: the folder of presets is not there", program, places[0]);
}

static ck_status plain_number(const void *context, const cJSON *node, double *number,
                              ck_error *err) {
    if (!cJSON_IsNumber(node)) return ck_json_fail(context, node, err, "must be a number");
    *number = node->valuedouble;
    return CK_OK;
}

static ck_status read_preset(const ck_json *doc, ck_arena *arena, ck_preset *preset,
                             ck_error *err) {
    uint64_t version = 0;
    const char *description = "";
    CK_TRY(ck_json_only(doc, doc->root,
                        "ckmerge_preset description weights gradient curve base blocks", err));
    CK_TRY(ck_json_count(doc, doc->root, "ckmerge_preset", &version, err));
    if (version != FORMAT_VERSION)
        return ck_json_fail(doc, doc->root, err, "\"ckmerge_preset\" must be %d", FORMAT_VERSION);
    CK_TRY(ck_json_text(doc, doc->root, "description", &description, err));
    preset->description = ck_arena_strdup(arena, description);
    if (!preset->description) return ck_fail_memory(err, doc->name);
    return ck_weights_read(doc, doc->root, plain_number, doc, NULL, arena, &preset->weights, err);
}

static ck_status load_file(const char *path, ck_arena *arena, ck_preset *preset, ck_error *err) {
    ck_json doc;
    CK_TRY(ck_json_load(path, &doc, err));
    ck_status status = read_preset(&doc, arena, preset, err);
    ck_json_free(&doc);
    return status;
}

static bool has_ending(const char *name) {
    size_t n = strlen(name), m = strlen(ENDING);
    return n > m && strcmp(name + n - m, ENDING) == 0;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The names of the presets in a folder, sorted; they live in the arena. */
static ck_status list_names(const char *folder, ck_arena *arena, const char *names[MAX_PRESETS],
                            size_t *count, ck_error *err) {
    DIR *dir = opendir(folder);
    if (!dir) return ck_fail_errno(err, "%s", folder);
    ck_status status = CK_OK;
    *count = 0;
    for (struct dirent *entry; status == CK_OK && *count < MAX_PRESETS && (entry = readdir(dir));) {
        if (entry->d_name[0] == '.' || !has_ending(entry->d_name)) continue;
        char *name = ck_arena_strndup(arena, entry->d_name, strlen(entry->d_name) - strlen(ENDING));
        if (!name) status = ck_fail_memory(err, folder);
        names[(*count)++] = name;
    }
    closedir(dir);
    if (status == CK_OK) qsort(names, *count, sizeof *names, by_name);
    return status;
}

static ck_status load_named(const char *folder, const char *name, ck_arena *arena,
                            ck_preset *preset, ck_error *err) {
    char *path = ck_sprintf("%s/%s%s", folder, name, ENDING);
    ck_status status = path ? load_file(path, arena, preset, err) : ck_fail_memory(err, name);
    free(path);
    preset->name = name;
    return status;
}

/* A preset of the user's own. */
static ck_status load_path(const char *path, const char *folder, ck_arena *arena, ck_preset *preset,
                           ck_error *err) {
    if (!folder || path[0] == '/') return load_file(path, arena, preset, err);
    char *full = ck_sprintf("%s/%s", folder, path);
    ck_status status = full ? load_file(full, arena, preset, err) : ck_fail_memory(err, path);
    free(full);
    return status;
}

ck_status ck_preset_load(const char *name, const char *folder, ck_arena *arena, ck_weights **w,
                         ck_error *err) {
    ck_preset preset;
    ck_status status;
    if (strchr(name, '/') || has_ending(name)) {
        status = load_path(name, folder, arena, &preset, err);
    } else {
        char presets[PATH_MAX];
        const char *names[MAX_PRESETS];
        size_t count, i = 0;
        CK_TRY(find_folder(presets, err));
        CK_TRY(list_names(presets, arena, names, &count, err));
        while (i < count && strcasecmp(names[i], name) != 0) i++;
        if (i == count) {
            const char *near = ck_cli_nearest(name, names, count);
            return ck_fail(err, CK_USAGE, "there is no preset '%s'%s%s%s; see `ckmerge presets`",
                           name, near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
        }
        status = load_named(presets, names[i], arena, &preset, err);
    }
    if (status == CK_OK) *w = preset.weights;
    return status;
}

ck_status ck_presets_list(ck_arena *arena, ck_preset **presets, size_t *count, ck_error *err) {
    char folder[PATH_MAX];
    const char *names[MAX_PRESETS];
    CK_TRY(find_folder(folder, err));
    CK_TRY(list_names(folder, arena, names, count, err));
    *presets = ck_arena_alloc(arena, *count * sizeof **presets);
    if (!*presets) return ck_fail_memory(err, folder);
    for (size_t i = 0; i < *count; i++)
        CK_TRY(load_named(folder, names[i], arena, &(*presets)[i], err));
    return CK_OK;
}
