/* What a run's folder holds, for the report. */
#include "distill/run/report_int.h"
#include "distill/run/runlog.h"
#include "io/os.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void ck_report__free(ck_report_run *r) {
    ck_json_free(&r->config);
    ck_json_free(&r->metrics);
    ck_json_free(&r->machine);
    for (size_t i = 0; i < r->curve_count; i++) {
        free(r->curves[i].name);
        free(r->curves[i].points);
    }
    for (size_t i = 0; i < r->event_count; i++) {
        free(r->events[i].event);
        free(r->events[i].text);
    }
    free(r->events);
}

static ck_status add_point(ck_report_run *r, const ck_log_value *v, uint64_t step, ck_error *err) {
    ck_report_curve *c = r->curves, *end = r->curves + r->curve_count;
    while (c < end && strcmp(c->name, v->name) != 0) c++;
    if (c == end) {
        if (r->curve_count == CK_REPORT_CURVES) {
            r->names_left_out++;
            return CK_OK;
        }
        *c = (ck_report_curve){.name = ck_strdup(v->name)};
        if (!c->name) return ck_fail_memory(err, r->folder);
        r->curve_count++;
    }
    ck_point *moved = ck_grow(c->points, c->count, &c->capacity, sizeof *moved);
    if (!moved) return ck_fail_memory(err, r->folder);
    c->points = moved;
    moved[c->count++] = (ck_point){(double)step, v->value};
    return CK_OK;
}

static ck_status add_record(void *context, const ck_log_record *record, ck_error *err) {
    ck_report_run *r = context;
    if (r->records++ == 0) r->first_time = record->time;
    r->last_time = record->time;
    r->last_step = record->step;
    for (size_t i = 0; i < record->count; i++)
        CK_TRY(add_point(r, &record->values[i], record->step, err));
    if (!record->event) return CK_OK;
    ck_report_event *moved = ck_grow(r->events, r->event_count, &r->event_capacity, sizeof *moved);
    if (!moved) return ck_fail_memory(err, r->folder);
    r->events = moved;
    ck_report_event *e = &moved[r->event_count++];
    *e = (ck_report_event){.step = record->step,
                           .time = record->time,
                           .event = ck_strdup(record->event),
                           .text = ck_strdup(record->text ? record->text : "")};
    return e->event && e->text ? CK_OK : ck_fail_memory(err, r->folder);
}

ck_status ck_report__find(const ck_report_run *r, const char *name, char **path, ck_error *err) {
    *path = ck_sprintf("%s/%s", r->folder, name);
    if (!*path) return ck_fail_memory(err, r->folder);
    if (access(*path, F_OK) == 0 || errno != ENOENT) return CK_OK;
    free(*path);
    *path = NULL;
    return CK_OK;
}

static ck_status load_json(const ck_report_run *r, const char *name, bool required, ck_json *doc,
                           ck_error *err) {
    char *path;
    CK_TRY(ck_report__find(r, name, &path, err));
    if (!path && !required) return CK_OK;
    if (!path)
        return ck_fail(err, CK_INPUT, "%s: no %s in it: not the folder of a run", r->folder, name);
    ck_status status = ck_json_load(path, doc, err);
    if (status == CK_OK && !cJSON_IsObject(doc->root))
        status = ck_json_fail(doc, doc->root, err, "must be an object");
    free(path);
    return status;
}

ck_status ck_report__load(ck_report_run *r, ck_error *err) {
    CK_TRY(load_json(r, "config.json", true, &r->config, err));
    CK_TRY(load_json(r, "metrics.json", false, &r->metrics, err));
    CK_TRY(load_json(r, "run.json", false, &r->machine, err));
    char *path;
    CK_TRY(ck_report__find(r, "log.jsonl", &path, err));
    if (!path) return CK_OK;
    ck_status status = ck_runlog_read(path, add_record, r, &r->damaged, err);
    free(path);
    return status;
}
