/* The one-line progress display of long work: bytes, rate, time left. On standard error, only when
 * that is a terminal, redrawn at most six times a second.
 *
 *   ck_progress p;
 *   ck_progress_start(&p, "merging", total_bytes, quiet);
 *   ck_progress_add(&p, n);              from any thread
 *   ck_progress_end(&p);                 clears the line
 */
#ifndef CK_PROGRESS_H
#define CK_PROGRESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ck_progress {
    const char *label;
    uint64_t total;
    _Atomic uint64_t done;
    _Atomic uint64_t next_draw_ns; /* monotonic time before which nothing is drawn */
    uint64_t start_ns;
    bool active;
} ck_progress;

void ck_progress_start(ck_progress *p, const char *label, uint64_t total, bool quiet);
void ck_progress_add(ck_progress *p, uint64_t bytes);
void ck_progress_end(ck_progress *p);

/* "2.13 GB", "640 kB": decimal units, three digits. Returns buf. */
const char *ck_format_bytes(char *buf, size_t size, uint64_t bytes);

/* The line without terminal control, for drawing and for tests: label, bar, done/total, rate, ETA
 * after elapsed_ns. Returns buf. */
const char *ck_progress_line(char *buf, size_t size, const char *label, uint64_t done,
                             uint64_t total, uint64_t elapsed_ns, int width);

#endif
