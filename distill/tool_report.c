/* ckdistill report: a run as a page to read in the morning. */
#include "distill/run/report.h"
#include "distill/tools.h"

#include "io/os.h"

#include <stdlib.h>

static const char *output;

static const ck_option options[] = {
    {.name = "output",
     .letter = 'o',
     .argument = "FILE",
     .type = CK_OPT_TEXT,
     .value = &output,
     .help = "the page (default: RUN/report.html); replaced if it is there"},
    {0},
};

static const ck_command command = {
    .name = "ckdistill report",
    .summary = "a run as one page: curves, pictures, student beside teacher",
    .synopsis = "RUN [-o FILE.html]",
    .details = "One file with everything in it, for any browser; nothing is loaded from elsewhere. "
               "It can be made while the run goes on.",
    .options = options,
    .examples = "$ ckdistill report pd && xdg-open pd/report.html",
    .files = true,
};

static ck_status run(const char *const *operands, size_t count, ck_error *err) {
    (void)count;
    char *own = output ? NULL : ck_sprintf("%s/report.html", operands[0]);
    if (!output && !own) return ck_fail_memory(err, operands[0]);
    ck_status s = ck_report_write(operands[0], output ? output : own, err);
    free(own);
    return s;
}

const ck_tool ck_tool_report = {
    .command = &command, .min_operands = 1, .max_operands = 1, .run = run};
