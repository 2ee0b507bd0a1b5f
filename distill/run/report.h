/* A run as one page that a person reads in the morning: RUN to a single HTML file with nothing
 * outside it and no scripts, light or dark as the reader's system is.
 *
 *   CK_TRY(ck_report_write("RUN", "RUN/report.html", err));
 *
 * Of the run's folder it reads:
 *
 *   config.json   the resolved configuration, which makes a folder a run; "steps": how many there
 *                 will be
 *   log.jsonl     distill/run/runlog.h: a curve for every value, the events
 *   metrics.json  {"rows": [{"who": "student", "steps": 4, "cfg": 1, "samples": 10000, "frechet":
 *                 25.1, ...}, ...]}: a table, grouped by steps. Names that have a better direction:
 *                 frechet, kid, swd, off (lower), precision, recall, psnr (higher)
 *   grids/        *.png, shown in the order of their names
 *   run.json      {"machine": ..., "threads": ..., "elapsed": seconds, "peak_memory": bytes, ...}:
 *                 shown as it is
 *
 * Only config.json has to be there: a run that still goes on can be looked at. Nothing in these
 * files can become a tag, a script or a link. The same run gives the same page.
 */
#ifndef CK_DISTILL_REPORT_H
#define CK_DISTILL_REPORT_H

#include "io/error.h"

/* Writes the page whole or not at all; an existing file is replaced. CK_INPUT: a file of the run is
 * not what it should be, with its name and line. */
ck_status ck_report_write(const char *run, const char *out, ck_error *err);

#endif
