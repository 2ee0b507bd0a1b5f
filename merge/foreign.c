/* What the front ends for other tools' recipes share; see foreign.h. */
#include "merge/foreign.h"
#include "io/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *ck_foreign_path(const ck_foreign *where, const char *model) {
    const char *folder = where->folder ? where->folder : ".";
    const char *slash = strrchr(model, '/');
    if (*model == '/') {
        /* A path of another machine: the file may be in one of the folders. */
        if (access(model, F_OK) == 0 || !slash[1] || !where->model_dir_count)
            return ck_strdup(model);
        char *path = ck_foreign_path(where, slash + 1);
        if (!path || access(path, F_OK) == 0) return path;
        free(path);
        return ck_strdup(model);
    }
    for (size_t i = 0; i <= where->model_dir_count; i++) {
        char *path =
            ck_sprintf("%s/%s", i < where->model_dir_count ? where->model_dirs[i] : folder, model);
        if (!path || access(path, F_OK) == 0) return path;
        free(path);
    }
    if (access(model, F_OK) == 0) return ck_strdup(model);
    return where->folder ? ck_sprintf("%s/%s", folder, model) : ck_strdup(model);
}

ck_status ck_foreign_model(ck_recipe *r, const ck_foreign *where, const char *model, size_t *index,
                           ck_error *err) {
    char *path = ck_foreign_path(where, model), name[8];
    if (!path) return ck_fail_memory(err, model);
    for (*index = 0; *index < r->model_count; ++*index)
        if (strcmp(r->models[*index].path, path) == 0) break;
    int letter = (int)r->model_count;
    snprintf(name, sizeof name, letter < 26 ? "%c" : "m%d",
             letter < 26 ? 'a' + letter : letter + 1);
    ck_status status =
        *index < r->model_count ? CK_OK : ck_recipe_add_model(r, name, path, NULL, err);
    free(path);
    return status;
}

void ck_foreign_compat(ck_node *node, const char *tool) {
    ck_error none; /* most methods have no form of their own for the tool */
    ck_recipe_set_compat(node, tool, &none);
}

char *ck_foreign_glob(ck_arena *arena, const char *name, size_t n) {
    char *glob = ck_arena_alloc(arena, 2 * n + 3); /* room for a ".*" of the caller's */
    if (!glob) return NULL;
    char *to = glob;
    for (size_t i = 0; i < n; i++) {
        if (strchr("*?[]\\", name[i])) *to++ = '\\';
        *to++ = name[i];
    }
    *to = 0;
    return glob;
}

/* The first line that is neither empty nor a comment. */
static const char *first_line(const char *text) {
    for (;;) {
        text += strspn(text, " \t\r\n");
        if (*text != '#') return text;
        text += strcspn(text, "\n");
    }
}

static bool is_mecha(const char *line) {
    static const char *const words[] = {"version ", "model ",     "dict ", "literal ",
                                        "merge ",   "parameter ", "lora "};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strncmp(line, words[i], strlen(words[i])) == 0) return true;
    return false;
}

typedef ck_status front_end(const char *name, const char *text, size_t n, const ck_foreign *where,
                            ck_recipe *r, ck_error *err);

static ck_status load(const char *path, const char *text, size_t n, const ck_foreign *where,
                      const char *const *settings, size_t count, ck_recipe *r, ck_error *err) {
    const char *line = first_line(text);
    if (*line == '{' || !*line)
        return ck_recipe_parse(path, text, n, where->folder, settings, count, r, err);
    if (count)
        return ck_fail(err, CK_USAGE,
                       "--set %s: %s has no variables; --write-recipe FILE.json makes a recipe of "
                       "it that can have some",
                       settings[0], path);
    front_end *read = is_mecha(line) ? ck_foreign_mecha : ck_foreign_mergekit;
    CK_TRY(read(path, text, n, where, r, err));
    ck_status status = ck_recipe_check(r, err);
    if (status == CK_OK) return CK_OK;
    ck_recipe_free(r);
    return ck_context(err, "%s", path);
}

ck_status ck_recipe_load_any(const char *path, const ck_foreign *where, const char *const *settings,
                             size_t count, ck_recipe *r, ck_error *err) {
    ck_recipe_init(r);
    char *text;
    size_t n;
    CK_TRY(ck_read_file(path, 16u << 20, &text, &n, err));
    const char *slash = strrchr(path, '/');
    char *folder = slash ? ck_strndup(path, slash == path ? 1 : (size_t)(slash - path)) : NULL;
    ck_foreign place = *where;
    place.folder = folder;
    ck_status status = slash && !folder ? ck_fail_memory(err, path)
                                        : load(path, text, n, &place, settings, count, r, err);
    free(folder);
    free(text);
    return status;
}
