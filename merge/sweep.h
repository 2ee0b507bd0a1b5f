/* A sweep: one merge for each of several values of a parameter.
 *
 *   ck_sweep s;
 *   CK_TRY(ck_sweep_parse("alpha=0:1:0.1", &s, err));      or "alpha=0.2,0.5", "weight=1,2;3,1"
 *   s.settings[3] is "alpha=0.3", as for --set; ck_sweep_path("mix.safetensors", &s, 3) is
 *   "mix-alpha-0.3.safetensors"
 *   ck_sweep_free(&s);
 *
 * A range has its end in it. Its numbers are what one would write, so that a merge with --set gives
 * the same bytes. Lists for parameters that take several numbers are separated by ';'.
 */
#ifndef CK_SWEEP_H
#define CK_SWEEP_H

#include "io/error.h"

#include <stddef.h>

enum { CK_MAX_SWEEP = 100 };

typedef struct ck_sweep {
    char *settings[CK_MAX_SWEEP]; /* "NAME=VALUE" */
    size_t count;
} ck_sweep;

/* CK_USAGE for what is no sweep, or one of more than CK_MAX_SWEEP values or of one value twice. */
ck_status ck_sweep_parse(const char *text, ck_sweep *s, ck_error *err);
void ck_sweep_free(ck_sweep *s); /* a zeroed one is allowed */

/* The output for one value: the path with the setting before its ending. In fresh memory; NULL when
 * out of memory. */
char *ck_sweep_path(const char *path, const ck_sweep *s, size_t i);

#endif
