/* Texts for settings and names; see sweep.h. */
#include "merge/sweep.h"
#include "io/os.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ck_sweep_free(ck_sweep *s) {
    for (size_t i = 0; i < s->count; i++) free(s->settings[i]);
    s->count = 0;
}

static ck_status add(ck_sweep *s, const char *text, int name, const char *value, size_t n,
                     ck_error *err) {
    if (s->count == CK_MAX_SWEEP)
        return ck_fail(err, CK_USAGE, "--sweep %s: more than %d values", text, CK_MAX_SWEEP);
    char *setting = ck_sprintf("%.*s=%.*s", name, text, (int)n, value);
    if (!setting) return ck_fail_memory(err, "--sweep");
    for (size_t i = 0; i < s->count; i++)
        if (strcmp(s->settings[i], setting) == 0) {
            free(setting);
            return ck_fail(err, CK_USAGE, "--sweep %s: '%.*s' is there twice", text, (int)n, value);
        }
    s->settings[s->count++] = setting;
    return CK_OK;
}

/* "0:1:0.1". The end counts when rounding is all that keeps the last step from it. */
static ck_status add_range(ck_sweep *s, const char *text, int name, const char *range,
                           ck_error *err) {
    double number[3];
    const char *p = range;
    for (int i = 0; i < 3; i++) {
        char *end;
        number[i] = strtod(p, &end);
        if (end == p || *end != (i < 2 ? ':' : 0) || !isfinite(number[i]))
            return ck_fail(err, CK_USAGE, "--sweep %s: a range is FROM:TO:STEP", text);
        p = end + 1;
    }
    double steps = (number[1] - number[0]) / number[2];
    if (!(steps >= 0)) return ck_fail(err, CK_USAGE, "--sweep %s: leads nowhere", text);
    if (!(steps < CK_MAX_SWEEP))
        return ck_fail(err, CK_USAGE, "--sweep %s: more than %d values", text, CK_MAX_SWEEP);
    for (int i = 0; i <= (int)(steps + 1e-6); i++) {
        char value[32];
        double at = number[0] + i * number[2];
        /* (Zero with the error of the steps before it is zero.) */
        if (fabs(at) < fabs(number[2]) * 1e-9) at = 0;
        int n = snprintf(value, sizeof value, "%.12g", at);
        CK_TRY(add(s, text, name, value, (size_t)n, err));
    }
    return CK_OK;
}

/* "0.2,0.5", or lists separated by ';'. Whether they are numbers is for the parameter to say. */
static ck_status add_list(ck_sweep *s, const char *text, int name, const char *list,
                          ck_error *err) {
    const char *between = strchr(list, ';') ? ";" : ",";
    for (const char *p = list;; p++) {
        size_t n = strcspn(p, between);
        if (n == 0) return ck_fail(err, CK_USAGE, "--sweep %s: an empty value", text);
        CK_TRY(add(s, text, name, p, n, err));
        p += n;
        if (!*p) return CK_OK;
    }
}

ck_status ck_sweep_parse(const char *text, ck_sweep *s, ck_error *err) {
    *s = (ck_sweep){0};
    const char *equals = strchr(text, '=');
    if (!equals || equals == text || !equals[1])
        return ck_fail(err, CK_USAGE,
                       "--sweep %s: must be NAME=FROM:TO:STEP or NAME=VALUE,VALUE,...", text);
    int name = (int)(equals - text);
    ck_status status = strchr(equals, ':') ? add_range(s, text, name, equals + 1, err)
                                           : add_list(s, text, name, equals + 1, err);
    if (status != CK_OK) ck_sweep_free(s);
    return status;
}

char *ck_sweep_path(const char *path, const ck_sweep *s, size_t i) {
    char *setting = ck_strdup(s->settings[i]);
    if (!setting) return NULL;
    for (char *c = setting; *c; c++)
        if (*c == '=' || *c == ',' || *c == '/') *c = '-';
    const char *slash = strrchr(path, '/'), *dot = strrchr(path, '.');
    if (!dot || dot == path || (slash && dot < slash + 2)) dot = path + strlen(path);
    char *named = ck_sprintf("%.*s-%s%s", (int)(dot - path), path, setting, dot);
    free(setting);
    return named;
}
