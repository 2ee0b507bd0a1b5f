/* An evaluation for people: a line for each row of metrics.json, a column for each number. */
#include "distill/run/run_int.h"

#include <math.h>
#include <string.h>

/* Not all rows have all numbers: the reference is not compared with itself. */
typedef struct columns {
    const char *names[CK_ROW_VALUES];
    size_t count;
} columns;

static void note_columns(columns *c, const ck_row *row) {
    for (size_t i = 0; i < row->count; i++) {
        size_t at = 0;
        while (at < c->count && strcmp(c->names[at], row->names[i]) != 0) at++;
        if (at == c->count && at < CK_ROW_VALUES) c->names[c->count++] = row->names[i];
    }
}

static double value_of(const ck_row *row, const char *name) {
    for (size_t i = 0; i < row->count; i++)
        if (strcmp(row->names[i], name) == 0) return row->values[i];
    return NAN;
}

static int width_of(const char *name) {
    return (int)strlen(name) < 7 ? 9 : (int)strlen(name) + 2;
}

static void show_row(FILE *out, const columns *c, const ck_row *row) {
    fprintf(out, "%-8s %-11s %5zu %5g", row->who, row->how, row->steps, row->guidance);
    for (size_t i = 0; i < c->count; i++) {
        double value = value_of(row, c->names[i]);
        if (isnan(value))
            fprintf(out, "%*s", width_of(c->names[i]), "-");
        else
            fprintf(out, "%*.4g", width_of(c->names[i]), value);
    }
    fputc('\n', out);
}

void ck_run_show(const ck_session *r, const ck_judged *student, FILE *out) {
    columns c = {.count = 0};
    for (size_t i = 0; i < r->teacher_count; i++) note_columns(&c, &r->teacher[i].row);
    for (size_t i = 0; i < r->judged_count; i++) note_columns(&c, &student[i].row);
    if (!c.count) return;
    fprintf(out, "%-8s %-11s %5s %5s", "who", "how", "steps", "cfg");
    for (size_t i = 0; i < c.count; i++) fprintf(out, "%*s", width_of(c.names[i]), c.names[i]);
    fputc('\n', out);
    for (size_t i = 0; i < r->teacher_count; i++) show_row(out, &c, &r->teacher[i].row);
    for (size_t i = 0; i < r->judged_count; i++) show_row(out, &c, &student[i].row);
    fflush(out);
}
