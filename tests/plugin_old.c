/* A plugin of another version, for tests/test_plugin.c: nothing of it may be called. */
#include "distill/engine/plugin.h"

CK_PLUGIN_EXPORT = {CK_BACKEND_ABI + 1, NULL};
