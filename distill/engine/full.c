/* What is said where memory is full, in the program as in the plugin. See backend.h. */
#include "distill/engine/backend.h"

#include <stdio.h>

ck_status ck_fail_full(void (*memory)(size_t *available, size_t *all), const char *what,
                       size_t bytes, ck_error *err) {
    char there[96] = "";
    size_t available, all;
    memory(&available, &all);
    if (all)
        snprintf(there, sizeof there, ", %.1f of %.1f MiB are free", (double)available / 0x1p20,
                 (double)all / 0x1p20);
    char how_much[32] = "";
    if (bytes) snprintf(how_much, sizeof how_much, "%.1f MiB for ", (double)bytes / 0x1p20);
    return ck_fail(err, CK_MEMORY,
                   "out of memory: %s%s%s; use a smaller batch or image, or turn gradient "
                   "checkpointing on",
                   how_much, what, there);
}

ck_status ck_backend_fail_memory(const ck_backend *b, const char *what, size_t bytes,
                                 ck_error *err) {
    return ck_fail_full(b->memory, what, bytes, err);
}

ck_status ck_backend_fits(const ck_backend *b, const char *what, size_t bytes, ck_error *err) {
    size_t available, all;
    b->memory(&available, &all);
    return !available || bytes <= available ? CK_OK : ck_backend_fail_memory(b, what, bytes, err);
}
