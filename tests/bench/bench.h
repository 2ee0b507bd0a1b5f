/* What the programs that time the engine share: err, ok(), which ends the program with the message
 * in it, and the median. */
#ifndef CK_TESTS_BENCH_H
#define CK_TESTS_BENCH_H

#include "distill/engine/backend.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static ck_error err;

static inline void ok(ck_status s) {
    if (s == CK_OK) return;
    fprintf(stderr, "%s: %s\n", program_invocation_short_name, err.message);
    exit(1);
}

static inline int by_time(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* From the shortest to the longest: the best is the first, the median in the middle. */
static inline void sort_times(double *seconds, size_t n) {
    qsort(seconds, n, sizeof *seconds, by_time);
}

/* ", of the card 123 MiB taken", where there is one. */
static inline void print_taken(const ck_backend *b) {
    size_t available, all;
    if (b->host) return;
    b->memory(&available, &all);
    printf(", of the card %.0f MiB taken", (double)(all - available) / 0x1p20);
}

#endif
