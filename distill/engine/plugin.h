/* What libck-cuda.so exports: a table by the name CK_PLUGIN_SYMBOL.
 *
 * The program looks for the library beside itself, in ../lib/ckmerge (where it is installed) and
 * where the system looks, when a backend of it is asked for. Its first field is read before
 * anything else is, so that a library of another version is refused and not called.
 */
#ifndef CK_PLUGIN_H
#define CK_PLUGIN_H

#include "distill/engine/backend.h"

#define CK_PLUGIN_FILE   "libck-cuda.so"
#define CK_PLUGIN_SYMBOL "ck_cuda_plugin"

typedef struct ck_plugin {
    uint32_t abi_version; /* CK_BACKEND_ABI; stays the first field for ever */
    /* "cuda", ...: opens the card if it is not open yet. CK_USAGE where there is none. */
    ck_status (*open)(const char *name, const ck_backend **b, ck_error *err);
} ck_plugin;

/* The library defines it: CK_PLUGIN_EXPORT = {CK_BACKEND_ABI, open}; */
#define CK_PLUGIN_EXPORT                                                                           \
    extern const ck_plugin ck_cuda_plugin;                                                         \
    __attribute__((visibility("default"))) const ck_plugin ck_cuda_plugin

#endif
