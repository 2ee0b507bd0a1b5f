/* Where backends are found: in the program, and in the plugin. */
#ifndef CK_BACKEND_INT_H
#define CK_BACKEND_INT_H

#include "distill/engine/backend.h"

/* backend_cpu.c; NULL if it has none of this name. */
const ck_backend *ck_backend__cpu(const char *name);
/* backend_plugin.c: opens the plugin, and the card. CK_USAGE where there is no plugin, none of this
 * version, no driver, no card. */
ck_status ck_backend__plugin(const char *name, const ck_backend **b, ck_error *err);

#endif
