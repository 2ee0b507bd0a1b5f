/* A shell, two files for what is printed; see program.h. */
#include "tests/program.h"
#include "tests/check.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void read_text(const char *folder, const char *name, char *text, size_t size) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    text[fread(text, 1, size - 1, file)] = 0;
    fclose(file);
    unlink(path);
}

outcome *program_run(const char *folder, const char *format, ...) {
    static outcome o;
    char arguments[2048], build[PATH_MAX], line[8192];
    va_list args;
    va_start(args, format);
    vsnprintf(arguments, sizeof arguments, format, args);
    va_end(args);
    const char *name = getenv("CK_BUILD");
    assert_non_null(realpath(name ? name : "build", build));
    snprintf(line, sizeof line, "cd '%s' && PATH='%s':\"$PATH\" && { %s; } >.out 2>.err", folder,
             build, arguments);
    int status = system(line);
    o.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    read_text(folder, ".out", o.out, sizeof o.out);
    read_text(folder, ".err", o.err, sizeof o.err);
    return &o;
}

void program_expect(const outcome *o, int status, const char *out, const char *err) {
    if (o->status != status)
        fail_msg("exit status %d, want %d\n%s%s", o->status, status, o->out, o->err);
    if (out && !strstr(o->out, out)) fail_msg("output lacks '%s':\n%s%s", out, o->out, o->err);
    if (err && !strstr(o->err, err)) fail_msg("errors lack '%s':\n%s", err, o->err);
}
