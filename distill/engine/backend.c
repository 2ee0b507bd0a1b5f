/* Backends by name, see backend.h. */
#include "distill/engine/backend_int.h"

#include <string.h>

static bool is_cuda(const char *name) {
    return strncmp(name, "cuda", 4) == 0;
}

ck_status ck_backend_open(const char *name, const ck_backend **b, ck_error *err) {
    if (is_cuda(name)) return ck_backend__plugin(name, b, err);
    if (strcmp(name, "auto") == 0) {
        ck_error none;
        if (ck_backend__plugin("cuda", b, &none) == CK_OK) return CK_OK;
        name = "cpu";
    }
    *b = ck_backend__cpu(name);
    if (*b) return CK_OK;
    return ck_fail(err, CK_USAGE,
                   "no backend '%s'; there are cpu, cpu-bf16, cuda, cuda-tf32, cuda-bf16, auto, "
                   "reference, reference64",
                   name);
}
