/* The page of report.h: what the run's files say, section by section. Charts are drawn by
 * report_chart.c, the section on quality is in report_metrics.c. */
#include "distill/run/report.h"
#include "distill/run/report_int.h"
#include "io/os.h"
#include "io/writer.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a page can hold and a person look at; what is beyond is counted and said. */
enum { MAX_EVENTS = 200, MAX_GRIDS = 24, MAX_PNG = 32 << 20 };

/* ---- Sections ---- */

static const char head[] =
    "<!DOCTYPE html>\n<html lang=en>\n<meta charset=utf-8>\n"
    "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; img-src data:; "
    "style-src 'unsafe-inline'\">\n"
    "<meta name=viewport content='width=device-width'>\n"
    "<style>\n"
    ":root{color-scheme:light dark;--back:#fbfbfa;--card:#fff;--text:#1d2129;--quiet:#69707d;"
    "--rule:#e3e4e8;--c0:#2563c9;--c1:#c2570c;--c2:#15803d;--c3:#a21caf;--c4:#a16207;--c5:#0e7490;-"
    "-warn:#b42318;--mark:#e3f0e6}\n"
    "@media(prefers-color-scheme:dark){:root{--back:#15171b;--card:#1d2026;--text:#e4e6ea;"
    "--quiet:#979eab;--rule:#333842;--c0:#79a8f5;--c1:#f09a58;--c2:#6cc58b;--c3:#dd8ae6;--c4:#"
    "d9b44a;--c5:#62c0d6;--warn:#f48a7e;--mark:#21402c}}\n"
    "body{margin:0 auto;padding:1.5rem;max-width:76rem;background:var(--back);color:var(--text);"
    "font:15px/1.5 system-ui,sans-serif}\n"
    "h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2.2rem 0 .7rem}\n"
    "p{margin:.3rem 0}.q,figcaption span.q{color:var(--quiet)}.w{color:var(--warn)}\n"
    ".cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.8rem;"
    "margin-top:1.2rem}\n"
    ".card,figure,pre{background:var(--card);border:1px solid var(--rule);border-radius:8px}\n"
    ".card{padding:.6rem .9rem}.card b{display:block;font-size:1.25rem;font-weight:600}\n"
    ".charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,30rem),1fr));"
    "gap:.8rem}\n"
    "figure{margin:0;padding:.7rem .9rem}figcaption{font-size:.9rem}figcaption span{margin-left:"
    ".6rem}\n"
    "svg{display:block;width:100%;height:auto}svg text{font-size:12px;fill:var(--quiet)}"
    ".x{text-anchor:middle}.y{text-anchor:end}\n"
    ".g{stroke:var(--rule);fill:none}.l{fill:none;stroke-width:1.8;stroke-linejoin:round}"
    ".b{opacity:.2}.m{stroke:var(--warn);stroke-dasharray:4 3;fill:none}\n"
    ".l.c0{stroke:var(--c0)}.b.c0,circle.c0{fill:var(--c0)}span.c0{color:var(--c0)}\n"
    ".l.c1{stroke:var(--c1)}.b.c1,circle.c1{fill:var(--c1)}span.c1{color:var(--c1)}\n"
    ".l.c2{stroke:var(--c2)}.b.c2,circle.c2{fill:var(--c2)}span.c2{color:var(--c2)}\n"
    ".l.c3{stroke:var(--c3)}.b.c3,circle.c3{fill:var(--c3)}span.c3{color:var(--c3)}\n"
    ".l.c4{stroke:var(--c4)}.b.c4,circle.c4{fill:var(--c4)}span.c4{color:var(--c4)}\n"
    ".l.c5{stroke:var(--c5)}.b.c5,circle.c5{fill:var(--c5)}span.c5{color:var(--c5)}\n"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-size:.93rem;font-variant-numeric:"
    "tabular-nums}"
    "th,td{padding:.28rem .45rem;text-align:right;white-space:nowrap}"
    "th{font-weight:600;color:var(--quiet)}td.t,th.t{text-align:left}"
    "td.long{white-space:normal;overflow-wrap:anywhere}\n"
    "tbody{border-top:1px solid var(--rule)}tr.s td:first-child{font-weight:600}"
    "td.best{background:var(--mark);font-weight:600;border-radius:4px}\n"
    ".grids figure{margin-bottom:.8rem;overflow-x:auto}.grids img{display:block;margin-top:.5rem;"
    "max-width:100%;min-width:min(100%,36rem);image-rendering:pixelated}\n"
    "pre{padding:.8rem 1rem;overflow-x:auto;font-size:13px}\n"
    "</style>\n";

static void begin_card(ck_page *page, const char *title) {
    ck_page__put(page, "<div class=card><span class=q>%s</span><b>", title);
}

static void end_card(ck_page *page) {
    ck_page__put(page, "</b></div>\n");
}

static size_t count_events(const ck_report_run *r, const char *event) {
    size_t count = 0;
    for (size_t i = 0; i < r->event_count; i++) count += strcmp(r->events[i].event, event) == 0;
    return count;
}

/* How it ended: the last record, if it says that. */
static const char *state_of(const ck_report_run *r) {
    const ck_report_event *last = r->event_count ? &r->events[r->event_count - 1] : NULL;
    if (last && last->time >= r->last_time)
        if (strcmp(last->event, "finished") == 0 || strcmp(last->event, "stopped") == 0)
            return last->event;
    return r->records ? "not finished" : "not started";
}

/* A field of an object; 0 where it is not there or of another type. */
static double number_field(const ck_json *doc, const char *name) {
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(doc->root, name);
    return cJSON_IsNumber(node) ? node->valuedouble : 0;
}

/* "cd", wherever the config has it. */
static const char *method_of(const ck_report_run *r) {
    const cJSON *method = cJSON_GetObjectItemCaseSensitive(r->config.root, "method");
    if (cJSON_IsString(method)) return method->valuestring;
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(method, "name"));
}

static void put_summary(ck_page *page, const ck_report_run *r, const ck_report_table *t) {
    const char *name = strrchr(r->folder, '/'), *method = method_of(r);
    name = name && name[1] ? name + 1 : r->folder;
    ck_page__put(page, "<title>");
    ck_page__escaped(page, name);
    ck_page__put(page, "</title>\n<h1>");
    ck_page__escaped(page, name);
    ck_page__put(page, "</h1>\n<p class=q>");
    ck_page__escaped(page, method);
    if (r->records) {
        ck_page__put(page, method ? ", started " : "started ");
        ck_page__time(page, r->first_time);
        ck_page__put(page, ", last heard of ");
        ck_page__time(page, r->last_time);
    }
    ck_page__put(page, "</p>\n");
    ck_report__compare(page, t);

    ck_page__put(page, "<div class=cards>\n");
    begin_card(page, "State");
    ck_page__put(page, "%s", state_of(r));
    end_card(page);
    char text[32];
    double steps = number_field(&r->config, "steps");
    begin_card(page, "Steps");
    ck_page__put(page, "%llu", (unsigned long long)r->last_step);
    if (steps > 0) ck_page__put(page, " of %.15g", steps);
    end_card(page);
    double elapsed = number_field(&r->machine, "elapsed");
    begin_card(page, "Time");
    ck_page__duration(page, elapsed > 0 ? elapsed : r->last_time - r->first_time);
    end_card(page);
    double memory = number_field(&r->machine, "peak_memory");
    if (memory > 0) {
        begin_card(page, "Peak memory");
        ck_page__put(page, "%s", ck_page__number(text, memory, true));
        end_card(page);
    }
    begin_card(page, "Rollbacks");
    ck_page__put(page, "%zu", count_events(r, "rollback"));
    end_card(page);
    ck_page__put(page, "</div>\n");
    if (r->damaged)
        ck_page__put(page, "<p class=w>%zu lines of the log could not be read.</p>\n", r->damaged);
}

/* What curves are called, and in which order they come; others follow by their own names. */
static const char *const titles[][2] = {
    {"loss", "Loss"},        {"grad_norm", "Gradient norm"},
    {"lr", "Learning rate"}, {"samples_per_s", "Samples per second"},
    {"memory", "Memory"},
};
enum { TITLES = sizeof titles / sizeof *titles };

static void put_curve(ck_page *page, const ck_report_curve *c, const char *title,
                      const ck_mark *marks, size_t mark_count) {
    ck_chart chart = {.title = title,
                      .x_title = "step",
                      .bytes = strcmp(c->name, "memory") == 0,
                      .lines = {{.points = c->points, .count = c->count}},
                      .count = 1,
                      .marks = marks,
                      .mark_count = mark_count};
    ck_chart__draw(page, &chart);
}

/* How much of a name is that of a metric, if it ends with a number of sampling steps, as in
 * "frechet_4"; else 0. */
static size_t metric_length(const char *name) {
    const char *end = strrchr(name, '_');
    if (!end || !end[1] || strspn(end + 1, "0123456789") != strlen(end + 1)) return 0;
    return (size_t)(end - name);
}

/* A metric over training, a line for every number of sampling steps. */
static void put_metric(ck_page *page, const ck_report_run *r, size_t first, bool *drawn) {
    size_t n = metric_length(r->curves[first].name);
    char title[64], labels[CK_CHART_LINES][32];
    snprintf(title, sizeof title, "%.*s", (int)n, r->curves[first].name);
    ck_chart chart = {.title = title, .x_title = "step"};
    for (size_t i = first; i < r->curve_count && chart.count < CK_CHART_LINES; i++) {
        const ck_report_curve *c = &r->curves[i];
        if (metric_length(c->name) != n || strncmp(c->name, title, n) != 0) continue;
        snprintf(labels[chart.count], sizeof labels[0], "%s step%s", c->name + n + 1,
                 strcmp(c->name + n + 1, "1") ? "s" : "");
        chart.lines[chart.count] =
            (ck_line){.label = labels[chart.count], .points = c->points, .count = c->count};
        chart.count++;
        drawn[i] = true;
    }
    ck_chart__draw(page, &chart);
}

/* Rollbacks, resumes and the like are marked in the curves. */
static ck_status find_marks(const ck_report_run *r, ck_mark **marks, size_t *count, ck_error *err) {
    static const char *const shown[] = {"nan", "spike", "rollback", "resumed"};
    *count = 0;
    *marks = ck_alloc_array(r->event_count, sizeof **marks);
    if (!*marks) return ck_fail_memory(err, "report");
    for (size_t i = 0; i < r->event_count && *count < MAX_EVENTS; i++)
        for (size_t k = 0; k < sizeof shown / sizeof *shown; k++)
            if (strcmp(r->events[i].event, shown[k]) == 0)
                (*marks)[(*count)++] = (ck_mark){(double)r->events[i].step, r->events[i].event};
    return CK_OK;
}

static ck_status put_curves(ck_page *page, const ck_report_run *r, ck_error *err) {
    if (!r->curve_count) return CK_OK;
    ck_mark *marks;
    size_t mark_count;
    CK_TRY(find_marks(r, &marks, &mark_count, err));
    ck_page__put(page, "<h2>Training</h2>\n<div class=charts>\n");
    bool drawn[CK_REPORT_CURVES] = {false};
    for (size_t k = 0; k < TITLES; k++)
        for (size_t i = 0; i < r->curve_count; i++)
            if (strcmp(r->curves[i].name, titles[k][0]) == 0) {
                put_curve(page, &r->curves[i], titles[k][1], marks, mark_count);
                drawn[i] = true;
            }
    for (size_t i = 0; i < r->curve_count; i++)
        if (!drawn[i] && metric_length(r->curves[i].name))
            put_metric(page, r, i, drawn);
        else if (!drawn[i])
            put_curve(page, &r->curves[i], r->curves[i].name, marks, mark_count);
    ck_page__put(page, "</div>\n");
    if (r->names_left_out)
        ck_page__put(page, "<p class=w>Only the first %d kinds of values are drawn.</p>\n",
                     CK_REPORT_CURVES);
    free(marks);
    return CK_OK;
}

/* All but "saved", which would bury the others. */
static void put_events(ck_page *page, const ck_report_run *r) {
    size_t saved = count_events(r, "saved"), told = r->event_count - saved;
    size_t skip = told > MAX_EVENTS ? told - MAX_EVENTS : 0;
    if (!r->event_count) return;
    ck_page__put(page, "<h2>Events</h2>\n<p class=q>Saved %zu times.", saved);
    if (skip) ck_page__put(page, " Only the last %d other events are listed.", MAX_EVENTS);
    ck_page__put(page, "</p>\n<div class=wide><table><thead><tr><th>after</th><th>step</th>"
                       "<th class=t>event</th><th class=t></th></tr></thead><tbody>\n");
    for (size_t i = 0; i < r->event_count; i++) {
        const ck_report_event *e = &r->events[i];
        if (strcmp(e->event, "saved") == 0) continue;
        if (skip) {
            skip--;
            continue;
        }
        ck_page__put(page, "<tr><td>");
        ck_page__duration(page, e->time - r->first_time);
        ck_page__put(page, "</td><td>%llu</td><td class=t>", (unsigned long long)e->step);
        ck_page__escaped(page, e->event);
        ck_page__put(page, "</td><td class='t long'>");
        ck_page__escaped(page, e->text);
        ck_page__put(page, "</td></tr>\n");
    }
    ck_page__put(page, "</tbody></table></div>\n");
}

/* ---- Pictures ---- */

static ck_status put_picture(ck_page *page, const char *folder, const char *name, ck_error *err) {
    char *path = ck_sprintf("%s/%s", folder, name), *bytes = NULL;
    size_t n = 0;
    if (!path) return ck_fail_memory(err, folder);
    ck_status status = ck_read_file(path, MAX_PNG, &bytes, &n, err);
    if (status == CK_OK && (n < 8 || memcmp(bytes, "\x89PNG\r\n\x1a\n", 8) != 0))
        status = ck_fail(err, CK_INPUT, "%s: not a PNG picture", path);
    if (status == CK_OK) {
        ck_page__put(page, "<figure><figcaption>");
        if (strspn(name, "0123456789") == strlen(name) - 4)
            ck_page__put(page, "After step %llu", strtoull(name, NULL, 10));
        else
            ck_page__escaped(page, name);
        ck_page__put(page, "</figcaption><img alt='' src='data:image/png;base64,");
        ck_page__base64(page, (unsigned char *)bytes, n);
        ck_page__put(page, "'></figure>\n");
    }
    free(bytes);
    free(path);
    return status;
}

static int is_png(const struct dirent *entry) {
    size_t n = strlen(entry->d_name);
    return entry->d_name[0] != '.' && n > 4 && strcmp(entry->d_name + n - 4, ".png") == 0;
}

/* All of them, or as many as MAX_GRIDS, evenly chosen, with the first and the last. The last comes
 * first: it is what the night was for. */
static ck_status put_grids(ck_page *page, const ck_report_run *r, ck_error *err) {
    struct dirent **list = NULL;
    char *folder;
    CK_TRY(ck_report__find(r, "grids", &folder, err));
    if (!folder) return CK_OK;
    int found = scandir(folder, &list, is_png, versionsort);
    ck_status status = found < 0 ? ck_fail_errno(err, "%s", folder) : CK_OK;
    int shown = found < MAX_GRIDS ? found : MAX_GRIDS;
    if (shown > 0) ck_page__put(page, "<h2>Samples</h2>\n");
    if (shown < found)
        ck_page__put(page, "<p class=q>%d of %d, evenly chosen.</p>\n", shown, found);
    ck_page__put(page, "<div class=grids>\n");
    for (int i = shown - 1; i >= 0 && status == CK_OK; i--) {
        int index = shown > 1 ? (int)((long)i * (found - 1) / (shown - 1)) : 0;
        status = put_picture(page, folder, list[index]->d_name, err);
    }
    ck_page__put(page, "</div>\n");
    for (int i = 0; i < found; i++) free(list[i]);
    free(list);
    free(folder);
    return status;
}

/* ---- Machine and configuration ---- */

static void put_machine(ck_page *page, const ck_report_run *r) {
    if (!r->machine.root) return;
    ck_page__put(page, "<h2>Machine and cost</h2>\n<div class=wide><table><tbody>\n");
    for (const cJSON *node = r->machine.root->child; node; node = node->next) {
        char text[32];
        ck_page__put(page, "<tr><th class=t>");
        ck_page__escaped(page, node->string);
        ck_page__put(page, "</th><td class='t long'>");
        if (cJSON_IsNumber(node) && strcmp(node->string, "elapsed") == 0)
            ck_page__duration(page, node->valuedouble);
        else if (cJSON_IsNumber(node) && strstr(node->string, "memory"))
            ck_page__put(page, "%s", ck_page__number(text, node->valuedouble, true));
        else if (cJSON_IsNumber(node))
            ck_page__put(page, "%.15g", node->valuedouble);
        else if (cJSON_IsBool(node))
            ck_page__put(page, cJSON_IsTrue(node) ? "yes" : "no");
        else
            ck_page__escaped(page, cJSON_GetStringValue(node));
        ck_page__put(page, "</td></tr>\n");
    }
    ck_page__put(page, "</tbody></table></div>\n");
}

static ck_status put_config(ck_page *page, const ck_report_run *r, ck_error *err) {
    char *text = cJSON_Print(r->config.root);
    if (!text) return ck_fail_memory(err, "report");
    ck_page__put(page, "<h2>Configuration</h2>\n<pre>");
    ck_page__escaped(page, text);
    ck_page__put(page, "</pre>\n");
    free(text);
    return CK_OK;
}

static ck_status put_page(ck_page *page, const ck_report_run *r, ck_error *err) {
    ck_report_table t;
    ck_status status = ck_report__read_table(&r->metrics, &t, err);
    ck_page__bytes(page, head, sizeof head - 1);
    if (status == CK_OK) put_summary(page, r, &t);
    if (status == CK_OK) status = ck_report__put_metrics(page, &t, err);
    if (status == CK_OK) status = put_grids(page, r, err);
    if (status == CK_OK) status = put_curves(page, r, err);
    if (status == CK_OK) put_events(page, r);
    if (status == CK_OK) put_machine(page, r);
    if (status == CK_OK) status = put_config(page, r, err);
    if (status == CK_OK && page->failed) status = ck_fail_memory(err, "report");
    free(t.rows);
    return status;
}

ck_status ck_report_write(const char *folder, const char *out, ck_error *err) {
    ck_report_run r = {.folder = folder};
    ck_page page = {0};
    ck_status status = ck_report__load(&r, err);
    if (status == CK_OK) status = put_page(&page, &r, err);
    if (status == CK_OK) status = ck_write_file(out, page.text, page.n, true, err);
    free(page.text);
    ck_report__free(&r);
    return status;
}
