/* Messages for error.h. */
#include "io/error.h"
#include "io/utf8.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

ck_status ck_fail(ck_error *err, ck_status status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    err->status = status;
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    ck_make_printable(err->message);
    return status;
}

ck_status ck_fail_errno(ck_error *err, const char *format, ...) {
    int cause = errno;
    va_list args;
    va_start(args, format);
    err->status = CK_IO;
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    size_t used = strlen(err->message);
    snprintf(err->message + used, sizeof err->message - used, ": %s", strerror(cause));
    ck_make_printable(err->message);
    return CK_IO;
}

ck_status ck_fail_memory(ck_error *err, const char *what) {
    return ck_fail(err, CK_MEMORY, "%s: out of memory", what);
}

ck_status ck_context(ck_error *err, const char *format, ...) {
    char inner[sizeof err->message];
    memcpy(inner, err->message, sizeof inner);
    va_list args;
    va_start(args, format);
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    size_t used = strlen(err->message);
    snprintf(err->message + used, sizeof err->message - used, ": %s", inner);
    return err->status;
}
