/* What the parts of the report share: the page's text (report_page.c), charts (report_chart.c),
 * what the run's folder holds (report_run.c), and the table of metrics (report_metrics.c). */
#ifndef CK_REPORT_INT_H
#define CK_REPORT_INT_H

#include "io/error.h"
#include "io/json.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Text that grows. Once memory is missing it stays failed, and nothing more is added. */
typedef struct ck_page {
    char *text; /* n bytes, not NUL-terminated; released with free() */
    size_t n, capacity;
    bool failed;
} ck_page;

void ck_page__bytes(ck_page *page, const char *bytes, size_t n);
void ck_page__put(ck_page *page, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Text from anywhere, as text: nothing in it is markup. NULL is nothing. */
void ck_page__escaped(ck_page *page, const char *text);

/* "0.0123", "1.5M" to buf; as memory "2.13 GB". Returns buf. */
const char *ck_page__number(char buf[32], double value, bool bytes);

/* "7 h 12 min" */
void ck_page__duration(ck_page *page, double seconds);
/* "2026-11-24 03:12 UTC", of seconds since 1970 */
void ck_page__time(ck_page *page, double seconds);
void ck_page__base64(ck_page *page, const unsigned char *bytes, size_t n);

/* ---- Charts ---- */

typedef struct ck_point {
    double x, y;
} ck_point;

typedef struct ck_line {
    const char *label; /* NULL where there is only one line */
    const ck_point *points;
    size_t count;
} ck_line;

/* A vertical line with a word on what happened there. */
typedef struct ck_mark {
    double x;
    const char *label;
} ck_mark;

enum { CK_CHART_LINES = 6 };

typedef struct ck_chart {
    const char *title, *x_title;
    bool log_x; /* else linear */
    bool bytes; /* y is memory */
    ck_line lines[CK_CHART_LINES];
    size_t count;
    const ck_mark *marks;
    size_t mark_count;
} ck_chart;

/* As an inline SVG of a size that does not depend on the number of points: many become a line of
 * means with a band around it. Where all values are positive and far apart, y is logarithmic.
 * Points that are not finite are left out and counted in the caption. */
void ck_chart__draw(ck_page *page, const ck_chart *chart);

/* ---- The run ---- */

/* More kinds of values are counted, more columns refused. */
enum { CK_REPORT_CURVES = 96, CK_REPORT_COLUMNS = 32 };

typedef struct ck_report_curve {
    char *name;
    ck_point *points;
    size_t count, capacity;
} ck_report_curve;

typedef struct ck_report_event {
    uint64_t step;
    double time;
    char *event, *text;
} ck_report_event;

typedef struct ck_report_run {
    const char *folder;
    ck_json config, metrics, machine; /* root NULL where there is no such file */
    ck_report_curve curves[CK_REPORT_CURVES];
    size_t curve_count, names_left_out;
    ck_report_event *events;
    size_t event_count, event_capacity;
    double first_time, last_time;
    uint64_t last_step;
    size_t records, damaged;
} ck_report_run;

/* Fills a zeroed run that has its folder set; it is to be freed also after an error. */
ck_status ck_report__load(ck_report_run *r, ck_error *err);
void ck_report__free(ck_report_run *r);

/* folder/name in fresh memory where there is such a file; else NULL, and CK_OK. */
ck_status ck_report__find(const ck_report_run *r, const char *name, char **path, ck_error *err);

/* ---- Metrics ---- */

typedef struct ck_report_row {
    const cJSON *json;
    const char *who;
    double steps;
    size_t place; /* in the file */
} ck_report_row;

typedef struct ck_report_table {
    ck_report_row *rows; /* by steps, then in the order of the file */
    size_t count;
    const char *columns[CK_REPORT_COLUMNS]; /* but for who and steps */
    size_t column_count;
} ck_report_table;

/* Of metrics.json, which may not be there. rows is released with free(), also after an error. */
ck_status ck_report__read_table(const ck_json *doc, ck_report_table *t, ck_error *err);

/* What one wants to know first: the student at each number of steps beside the teacher at its best,
 * in the first metric that both have. */
void ck_report__compare(ck_page *page, const ck_report_table *t);

/* The section on quality: table and charts. */
ck_status ck_report__put_metrics(ck_page *page, const ck_report_table *t, ck_error *err);

#endif
