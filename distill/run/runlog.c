/* JSON lines for runlog.h. */
#include "distill/run/runlog.h"
#include "io/json.h"
#include "io/os.h"
#include "io/utf8.h"
#include "io/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Logs are read whole; ten million steps fit. */
enum { MAX_LOG = 1 << 30 };

struct ck_runlog {
    char *path;
    int fd;
};

/* ---- Reading ---- */

/* The line as a record; CK_INPUT when it is none. values has room for capacity. */
static ck_status parse(const ck_json *doc, ck_log_value **values, size_t *capacity,
                       ck_log_record *record, ck_error *err) {
    *record = (ck_log_record){.step = UINT64_MAX};
    if (!cJSON_IsObject(doc->root)) return ck_json_fail(doc, doc->root, err, "not an object");
    CK_TRY(ck_json_count(doc, doc->root, "step", &record->step, err));
    CK_TRY(ck_json_number(doc, doc->root, "time", &record->time, err));
    CK_TRY(ck_json_text(doc, doc->root, "event", &record->event, err));
    CK_TRY(ck_json_text(doc, doc->root, "text", &record->text, err));
    if (record->step == UINT64_MAX) return ck_json_fail(doc, doc->root, err, "no step");
    for (const cJSON *node = doc->root->child; node; node = node->next) {
        static const char *const others[] = {"step", "time", "event", "text"};
        bool other = false;
        for (int i = 0; i < 4; i++) other |= strcmp(node->string, others[i]) == 0;
        if (other) continue;
        if (!cJSON_IsNumber(node) && !cJSON_IsNull(node))
            return ck_json_fail(doc, node, err, "must be a number or null");
        ck_log_value *moved = ck_grow(*values, record->count, capacity, sizeof *moved);
        if (!moved) return ck_fail_memory(err, doc->name);
        *values = moved;
        moved[record->count++] =
            (ck_log_value){node->string, cJSON_IsNull(node) ? NAN : node->valuedouble};
    }
    record->values = *values;
    return CK_OK;
}

/* What a log's text is made of: whole lines one by one, and the records in those that have one. */
typedef struct lines {
    const char *path, *at, *end;
    ck_json doc; /* of the line before at */
    ck_log_value *values;
    size_t capacity;
} lines;

static void free_lines(lines *l) {
    ck_json_free(&l->doc);
    free(l->values);
}

/* To the next line; *start is NULL after the last. *valid: whether it holds this record. */
static ck_status next_line(lines *l, const char **start, bool *valid, ck_log_record *record,
                           ck_error *err) {
    const char *newline = l->at < l->end ? memchr(l->at, '\n', (size_t)(l->end - l->at)) : NULL;
    *start = newline ? l->at : NULL;
    if (!newline) return CK_OK;
    ck_json_free(&l->doc);
    ck_error why;
    ck_status status = ck_json_parse(l->path, l->at, (size_t)(newline - l->at), &l->doc, &why);
    if (status == CK_OK) status = parse(&l->doc, &l->values, &l->capacity, record, &why);
    *valid = status == CK_OK;
    l->at = newline + 1;
    if (status == CK_OK || status == CK_INPUT) return CK_OK;
    *err = why;
    return status;
}

ck_status ck_runlog_read(const char *path,
                         ck_status (*visit)(void *context, const ck_log_record *record,
                                            ck_error *err),
                         void *context, size_t *damaged, ck_error *err) {
    char *text;
    size_t n;
    CK_TRY(ck_read_file(path, MAX_LOG, &text, &n, err));
    lines l = {.path = path, .at = text, .end = text + n};
    ck_status status = CK_OK;
    *damaged = 0;
    while (status == CK_OK) {
        const char *start;
        bool valid;
        ck_log_record record;
        status = next_line(&l, &start, &valid, &record, err);
        if (status != CK_OK || !start) break;
        if (valid)
            status = visit(context, &record, err);
        else
            ++*damaged;
    }
    free_lines(&l);
    free(text);
    return status;
}

/* ---- Going on ---- */

/* Moves what stays of the n bytes of text to its front; *n becomes its size. */
static ck_status take_out(const char *path, char *text, size_t *n, uint64_t step, size_t *damaged,
                          ck_error *err) {
    lines l = {.path = path, .at = text, .end = text + *n};
    size_t kept = 0;
    for (;;) {
        const char *start;
        bool valid;
        ck_log_record record;
        ck_status status = next_line(&l, &start, &valid, &record, err);
        if (status != CK_OK || !start) {
            *n = kept;
            free_lines(&l);
            return status;
        }
        *damaged += !valid;
        if (!valid || (!record.event && record.step > step)) continue;
        memmove(text + kept, start, (size_t)(l.at - start));
        kept += (size_t)(l.at - start);
    }
}

static ck_status rewind_to(const char *path, uint64_t step, size_t *damaged, ck_error *err) {
    char *text;
    size_t n;
    *damaged = 0;
    if (access(path, F_OK) != 0 && errno == ENOENT) return CK_OK;
    CK_TRY(ck_read_file(path, MAX_LOG, &text, &n, err));
    size_t kept = n;
    ck_status status = take_out(path, text, &kept, step, damaged, err);
    if (status == CK_OK && kept < n) status = ck_write_file(path, text, kept, true, err);
    free(text);
    return status;
}

ck_status ck_runlog_open(const char *path, uint64_t step, ck_runlog **log, ck_error *err) {
    size_t damaged;
    CK_TRY(rewind_to(path, step, &damaged, err));
    ck_runlog *made = ck_alloc(sizeof *made);
    if (!made || !(made->path = ck_strdup(path))) {
        free(made);
        return ck_fail_memory(err, path);
    }
    made->fd = ck_os.open(path, O_WRONLY | O_APPEND | O_CREAT, 0666);
    ck_status status = made->fd < 0 ? ck_fail_errno(err, "%s: open", path) : CK_OK;
    if (status == CK_OK && damaged) {
        char text[64];
        snprintf(text, sizeof text, "%zu unreadable lines taken out", damaged);
        status = ck_runlog_append(
            made, &(ck_log_record){.step = step, .event = "damaged", .text = text}, err);
    }
    if (status == CK_OK)
        *log = made;
    else
        ck_runlog_close(made);
    return status;
}

void ck_runlog_close(ck_runlog *log) {
    if (!log) return;
    if (log->fd >= 0) close(log->fd);
    free(log->path);
    free(log);
}

/* ---- Adding ---- */

/* Text that came from anywhere as UTF-8 that JSON can hold, in fresh memory; NULL: none left. */
static char *clean(const char *text) {
    char *copy = ck_strdup(text);
    if (!copy) return NULL;
    for (size_t n = strlen(copy), at = 0; at < n;) {
        at += ck_utf8_check((unsigned char *)copy + at, n - at);
        if (at < n) copy[at++] = '?';
    }
    return copy;
}

static bool add_text(cJSON *json, const char *name, const char *text) {
    char *copy = clean(text);
    bool ok = copy && cJSON_AddStringToObject(json, name, copy);
    free(copy);
    return ok;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)(t.tv_nsec / 1000000) / 1000;
}

/* The record as a line, to be released with free(); NULL when out of memory. */
static char *format(const ck_log_record *record) {
    cJSON *json = cJSON_CreateObject();
    double time = record->time != 0 ? record->time : now();
    bool ok = json && cJSON_AddNumberToObject(json, "step", (double)record->step) &&
              cJSON_AddNumberToObject(json, "time", time);
    if (record->event) ok = ok && add_text(json, "event", record->event);
    if (record->text) ok = ok && add_text(json, "text", record->text);
    for (size_t i = 0; i < record->count; i++)
        ok = ok && cJSON_AddNumberToObject(json, record->values[i].name, record->values[i].value);
    char *text = ok ? cJSON_PrintUnformatted(json) : NULL;
    cJSON_Delete(json);
    char *line = text ? ck_sprintf("%s\n", text) : NULL;
    free(text);
    return line;
}

ck_status ck_runlog_append(ck_runlog *log, const ck_log_record *record, ck_error *err) {
    struct stat st;
    if (fstat(log->fd, &st) != 0) return ck_fail_errno(err, "%s: stat", log->path);
    char *line = format(record);
    if (!line) return ck_fail_memory(err, log->path);
    /* The file is open for appending: the offset is only for messages. */
    ck_status status =
        ck_pwrite_all(log->fd, line, strlen(line), (uint64_t)st.st_size, log->path, err);
    free(line);
    if (status != CK_OK) {
        /* A full disk may have taken half of it. If that cannot be undone either, it is a line
         * that cannot be read. */
        if (ck_os.ftruncate(log->fd, st.st_size) != 0) ck_context(err, "half a line is left");
        return status;
    }
    if (record->event && ck_os.fsync(log->fd) != 0)
        return ck_fail_errno(err, "%s: fsync", log->path);
    return CK_OK;
}
