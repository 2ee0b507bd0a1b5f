/* Which container a path means, see head.h. */
#include "io/head.h"
#include "io/safetensors.h"

#include <string.h>

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

ck_make_head *ck_head_for(const char *path) {
    bool hdf5 = ends_with(path, ".h5") || ends_with(path, ".hdf5");
    return hdf5 ? ck_hdf5_head : ck_safetensors_header;
}
