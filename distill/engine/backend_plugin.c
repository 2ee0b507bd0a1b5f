/* Backends in a library that is opened when one is asked for, see plugin.h. */
#include "distill/engine/backend_int.h"

#include "distill/engine/plugin.h"
#include "io/os.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The folder of the program that runs; "" where the system does not say. */
static void program_folder(char folder[PATH_MAX]) {
    ssize_t n = readlink("/proc/self/exe", folder, PATH_MAX - 1);
    folder[n < 0 ? 0 : n] = 0;
    char *slash = strrchr(folder, '/');
    if (slash) *slash = 0;
}

/* A library that is there but cannot be loaded is the answer, not the next place. */
static void *open_library(char why[256]) {
    static const char *const places[] = {"", "/../lib/ckmerge"};
    char folder[PATH_MAX];
    void *library = NULL;
    bool found = false;
    program_folder(folder);
    for (size_t i = 0; i < 2 && !found; i++) {
        char *path = ck_sprintf("%s%s/%s", folder, places[i], CK_PLUGIN_FILE);
        found = path && access(path, F_OK) == 0;
        if (found) library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        free(path);
    }
    if (!found) library = dlopen(CK_PLUGIN_FILE, RTLD_NOW | RTLD_LOCAL);
    if (library) return library;
    const char *reason = dlerror();
    strncpy(why, reason ? reason : "unknown reason", 255);
    return NULL;
}

/* Opened once, by the first thread that asks, and kept. */
static const ck_plugin *load(char why[256]) {
    static void *library;
    if (!library) library = open_library(why);
    const ck_plugin *plugin = library ? dlsym(library, CK_PLUGIN_SYMBOL) : NULL;
    if (library && !plugin) strncpy(why, "it has no " CK_PLUGIN_SYMBOL, 255);
    return plugin;
}

ck_status ck_backend__plugin(const char *name, const ck_backend **b, ck_error *err) {
    char why[256] = "";
    const ck_plugin *plugin = load(why);
    if (!plugin)
        return ck_fail(err, CK_USAGE,
                       "%s needs " CK_PLUGIN_FILE ", which cannot be loaded (%s); `make cuda` "
                       "makes it where NVIDIA's compiler is, and `--device cpu` does without",
                       name, why);
    if (plugin->abi_version != CK_BACKEND_ABI)
        return ck_fail(err, CK_USAGE,
                       CK_PLUGIN_FILE " is of version %u, this program needs %d: `make cuda` and "
                                      "`make install` again",
                       plugin->abi_version, CK_BACKEND_ABI);
    return plugin->open(name, b, err);
}
