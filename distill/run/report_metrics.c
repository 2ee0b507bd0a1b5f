/* The report's section on quality, from metrics.json. */
#include "distill/run/report_int.h"
#include "io/os.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Names that have a better direction. */
static const struct direction {
    const char *name;
    bool lower;
} directions[] = {{"frechet", true},    {"kid", true},     {"swd", true},  {"off", true},
                  {"precision", false}, {"recall", false}, {"psnr", false}};

static const struct direction *find_direction(const char *name) {
    for (size_t i = 0; i < sizeof directions / sizeof *directions; i++)
        if (strcmp(directions[i].name, name) == 0) return &directions[i];
    return NULL;
}

/* NaN where the row has no such number. */
static double value_of(const ck_report_row *r, const char *name) {
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(r->json, name);
    return cJSON_IsNumber(node) ? node->valuedouble : NAN;
}

static int by_steps(const void *a, const void *b) {
    const ck_report_row *x = a, *y = b;
    if (x->steps != y->steps) return x->steps < y->steps ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

static ck_status add_row(const ck_json *doc, const cJSON *node, ck_report_table *t, ck_error *err) {
    ck_report_row *r = &t->rows[t->count];
    *r = (ck_report_row){.json = node, .who = NULL, .steps = -1, .place = t->count};
    if (!cJSON_IsObject(node)) return ck_json_fail(doc, node, err, "a row must be an object");
    CK_TRY(ck_json_text(doc, node, "who", &r->who, err));
    CK_TRY(ck_json_number(doc, node, "steps", &r->steps, err));
    if (!r->who || r->steps < 0) return ck_json_fail(doc, node, err, "a row needs who and steps");
    t->count++;
    for (const cJSON *field = node->child; field; field = field->next) {
        if (strcmp(field->string, "who") == 0 || strcmp(field->string, "steps") == 0) continue;
        size_t c = 0;
        while (c < t->column_count && strcmp(t->columns[c], field->string) != 0) c++;
        if (c < t->column_count) continue;
        if (c == CK_REPORT_COLUMNS)
            return ck_json_fail(doc, field, err, "more than %d kinds of fields", CK_REPORT_COLUMNS);
        t->columns[t->column_count++] = field->string;
    }
    return CK_OK;
}

ck_status ck_report__read_table(const ck_json *doc, ck_report_table *t, ck_error *err) {
    *t = (ck_report_table){0};
    if (!doc->root) return CK_OK;
    const cJSON *rows = cJSON_GetObjectItemCaseSensitive(doc->root, "rows"), *node;
    if (!cJSON_IsArray(rows)) return ck_json_fail(doc, doc->root, err, "no list of rows");
    t->rows = ck_alloc_array((size_t)cJSON_GetArraySize(rows), sizeof *t->rows);
    if (!t->rows) return ck_fail_memory(err, doc->name);
    cJSON_ArrayForEach(node, rows) CK_TRY(add_row(doc, node, t, err));
    qsort(t->rows, t->count, sizeof *t->rows, by_steps);
    return CK_OK;
}

/* Whether row i has the best value of a metric among rows of as many steps, not being the only one
 * that has it. */
static bool is_best(const ck_report_table *t, size_t i, const struct direction *d) {
    size_t rivals = 0;
    double mine = d ? value_of(&t->rows[i], d->name) : NAN;
    if (isnan(mine)) return false;
    for (size_t j = 0; j < t->count; j++) {
        if (j == i || t->rows[j].steps != t->rows[i].steps) continue;
        double other = value_of(&t->rows[j], d->name);
        if (isnan(other)) continue;
        if (d->lower ? other < mine : other > mine) return false;
        rivals++;
    }
    return rivals > 0;
}

/* The best row of who for a metric, at these steps (any: negative); NULL if there is none. */
static const ck_report_row *find_best(const ck_report_table *t, const char *who, double steps,
                                      const struct direction *d, double *best) {
    const ck_report_row *found = NULL;
    for (size_t i = 0; i < t->count; i++) {
        const ck_report_row *r = &t->rows[i];
        double value = value_of(r, d->name);
        if (strcmp(r->who, who) != 0 || (steps >= 0 && r->steps != steps)) continue;
        if (isnan(value)) continue;
        if (found && (d->lower ? value >= *best : value <= *best)) continue;
        *best = value;
        found = r;
    }
    return found;
}

void ck_report__compare(ck_page *page, const ck_report_table *t) {
    for (size_t d = 0; d < sizeof directions / sizeof *directions; d++) {
        double best, mine, same;
        const ck_report_row *teacher = find_best(t, "teacher", -1, &directions[d], &best);
        if (!teacher || !find_best(t, "student", -1, &directions[d], &mine)) continue;
        for (size_t i = 0; i < t->count; i++) {
            if (i && t->rows[i].steps == t->rows[i - 1].steps) continue;
            double steps = t->rows[i].steps;
            if (!find_best(t, "student", steps, &directions[d], &mine)) continue;
            char a[32], b[32];
            ck_page__put(page, "<p>The student at <b>%g step%s</b>: %s <b>%s</b>", steps,
                         steps == 1 ? "" : "s", directions[d].name,
                         ck_page__number(a, mine, false));
            if (directions[d].lower && best > 0) ck_page__put(page, ", %.3g times", mine / best);
            ck_page__put(page, "%s the teacher's best (%s at %g)",
                         directions[d].lower && best > 0 ? "" : ";",
                         ck_page__number(b, best, false), teacher->steps);
            if (find_best(t, "teacher", steps, &directions[d], &same))
                ck_page__put(page, "; the teacher at %g: %s", steps,
                             ck_page__number(a, same, false));
            ck_page__put(page, ".</p>\n");
        }
        return;
    }
}

static void put_cell(ck_page *page, const ck_report_table *t, size_t i, const char *column) {
    const struct direction *d = find_direction(column);
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(t->rows[i].json, column);
    char text[32];
    ck_page__put(page, is_best(t, i, d) ? "<td class=best>" : "<td>");
    if (cJSON_IsNumber(node))
        ck_page__put(page, "%s", ck_page__number(text, node->valuedouble, false));
    else
        ck_page__escaped(page, cJSON_GetStringValue(node));
    ck_page__put(page, "</td>");
}

/* Each metric over the number of steps: where the teacher falls off and the student does
 * not. */
static ck_status put_quality(ck_page *page, const ck_report_table *t, ck_error *err) {
    enum { WHO = 2 };
    static const char *const who[WHO] = {"student", "teacher"};
    ck_point *points = ck_alloc_array(t->count, WHO * sizeof *points);
    if (!points) return ck_fail_memory(err, "report");
    for (size_t d = 0; d < sizeof directions / sizeof *directions; d++) {
        ck_chart chart = {
            .title = directions[d].name, .x_title = "sampling steps", .log_x = true, .count = WHO};
        size_t used = 0;
        for (int l = 0; l < WHO; l++) {
            ck_line *line = &chart.lines[l];
            *line = (ck_line){.label = who[l], .points = points + used};
            for (size_t i = 0; i < t->count; i++) {
                double value, steps = t->rows[i].steps;
                if (i && steps == t->rows[i - 1].steps) continue;
                if (!find_best(t, who[l], steps, &directions[d], &value)) continue;
                points[used++] = (ck_point){steps, value};
                line->count++;
            }
        }
        if (chart.lines[0].count && chart.lines[1].count) ck_chart__draw(page, &chart);
    }
    free(points);
    return CK_OK;
}

ck_status ck_report__put_metrics(ck_page *page, const ck_report_table *t, ck_error *err) {
    if (!t->count) return CK_OK;
    ck_page__put(page, "<h2>Quality</h2>\n<div class=wide><table><thead><tr><th class=t>who</th>"
                       "<th>steps</th>");
    for (size_t c = 0; c < t->column_count; c++) {
        const struct direction *d = find_direction(t->columns[c]);
        ck_page__put(page, "<th>");
        ck_page__escaped(page, t->columns[c]);
        ck_page__put(page, "%s</th>", !d ? "" : d->lower ? " &darr;" : " &uarr;");
    }
    ck_page__put(page, "</tr></thead>");
    for (size_t i = 0; i < t->count; i++) {
        const ck_report_row *r = &t->rows[i];
        if (i == 0 || r->steps != t->rows[i - 1].steps) ck_page__put(page, "\n<tbody>");
        ck_page__put(page, "<tr%s><td class=t>", strcmp(r->who, "student") ? "" : " class=s");
        ck_page__escaped(page, r->who);
        ck_page__put(page, "</td><td>%g</td>", r->steps);
        for (size_t c = 0; c < t->column_count; c++) put_cell(page, t, i, t->columns[c]);
        ck_page__put(page, "</tr>");
    }
    ck_page__put(page, "</table></div>\n<p class=q>Marked: the best at that number of steps.</p>\n"
                       "<div class=charts>\n");
    ck_status status = put_quality(page, t, err);
    ck_page__put(page, "</div>\n");
    return status;
}
