/* Errors are values: a status that functions return and a message that travels up with it.
 *
 *   ck_status f(const char *path, ck_error *err) {
 *       if (bad) return ck_fail(err, CK_INPUT, "%s: tensor '%s': ...", path, name);
 *       CK_TRY(g(path, err));
 *       return CK_OK;
 *   }
 *
 * The first failure writes the message; callers only pass it on (or add context with ck_context).
 * A message names the file, the tensor and the offset where there is one, and ends without a
 * full stop or newline.
 */
#ifndef CK_ERROR_H
#define CK_ERROR_H

typedef enum ck_status {
    CK_OK = 0,
    CK_INPUT,     /* a file or recipe is not what it should be */
    CK_IO,        /* the system refused: read, write, disk full */
    CK_MEMORY,    /* allocation failed */
    CK_USAGE,     /* the caller (or user) asked for something impossible */
    CK_CANCELLED, /* stopped on request; nothing was left behind */
} ck_status;

typedef struct ck_error {
    ck_status status;
    char message[1024];
} ck_error;

/* Sets status and message (truncated if too long); returns status. err may not be NULL. */
ck_status ck_fail(ck_error *err, ck_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* As ck_fail with CK_IO and ": " plus the text of errno appended. */
ck_status ck_fail_errno(ck_error *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* CK_MEMORY, naming what needed the memory, usually a file. */
ck_status ck_fail_memory(ck_error *err, const char *what);

/* Puts "prefix: " before the message that is there; returns the status that is there. */
ck_status ck_context(ck_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define CK_TRY(call)                                                                               \
    do {                                                                                           \
        ck_status ck_try_status = (call);                                                          \
        if (ck_try_status != CK_OK) return ck_try_status;                                          \
    } while (0)

#endif
