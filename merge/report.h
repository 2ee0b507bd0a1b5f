/* What ckmerge tells about a merge: for people as text, for scripts as one JSON document. */
#ifndef CK_REPORT_H
#define CK_REPORT_H

#include "merge/engine.h"

#include <stdio.h>

/* Everything there is to tell. */
typedef struct ck_report {
    const ck_plan *plan;
    const ck_run_result *result; /* NULL: a dry run */
    const char *output;          /* path */
    const char *recipe_written;  /* path, or NULL */
    double seconds;
    const char *const *warnings;
    size_t warning_count;
} ck_report;

/* One line per tensor: what becomes of it and why; then the summary. */
void ck_report_plan(const ck_report *report, FILE *out);

/* What was done: the output, counts, sizes, hashes. */
void ck_report_result(const ck_report *report, FILE *out);

/* Either as JSON; a dry run lists all tensors. CK_MEMORY only. */
ck_status ck_report_json(const ck_report *report, FILE *out, ck_error *err);

/* The outputs of a sweep: a line each, and all together; or {"outputs": [...]}, each as
 * ck_report_json has it. */
void ck_report_sweep(const ck_report *reports, size_t count, FILE *out);
ck_status ck_report_sweep_json(const ck_report *reports, size_t count, FILE *out, ck_error *err);

#endif
