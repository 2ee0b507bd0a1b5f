/* Backends by name, see backend.h. */
#include "distill/engine/backend_int.h"

#include <stdio.h>
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

ck_status ck_backend_fail_memory(const ck_backend *b, const char *what, size_t bytes,
                                 ck_error *err) {
    char there[96] = "";
    if (b->memory) {
        size_t available, all;
        b->memory(&available, &all);
        snprintf(there, sizeof there, ", %.1f of %.1f MiB are free", (double)available / 0x1p20,
                 (double)all / 0x1p20);
    }
    return ck_fail(err, CK_MEMORY,
                   "out of memory: %.1f MiB for %s%s; use a smaller batch or image, or turn "
                   "gradient checkpointing on",
                   (double)bytes / 0x1p20, what, there);
}
