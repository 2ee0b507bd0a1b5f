/* Runs the built programs as a user would, for tests of what they print and return. */
#ifndef CK_TESTS_PROGRAM_H
#define CK_TESTS_PROGRAM_H

typedef struct outcome {
    int status;      /* exit status; 128 + signal when killed */
    char out[65536]; /* standard output */
    char err[4096];  /* standard error */
} outcome;

/* Runs "PROGRAM ARGUMENTS" (printf-like, interpreted by a shell) in this folder. PROGRAM is a name
 * such as ckmerge, taken from the build folder that the environment variable CK_BUILD names. */
outcome *program_run(const char *folder, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Fails the test unless the status is this and out (err) contains the text (NULL: anything). */
void program_expect(const outcome *o, int status, const char *out, const char *err);

#endif
