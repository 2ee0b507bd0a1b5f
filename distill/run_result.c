/* What comes out of a run: metrics.json and student.safetensors. See run.h. */
#include "distill/run_int.h"

#include "distill/export.h"
#include "io/hash.h"
#include "io/json.h"
#include "io/os.h"
#include "io/writer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <omp.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* ---- metrics.json ---- */

static bool add_row(cJSON *rows, const ck_row *row) {
    cJSON *o = cJSON_CreateObject();
    bool ok = o && cJSON_AddStringToObject(o, "who", row->who) &&
              cJSON_AddStringToObject(o, "how", row->how) &&
              cJSON_AddNumberToObject(o, "steps", (double)row->steps) &&
              cJSON_AddNumberToObject(o, "cfg", row->guidance) &&
              cJSON_AddNumberToObject(o, "samples", (double)row->samples);
    for (size_t i = 0; i < row->count && ok; i++)
        ok = cJSON_AddNumberToObject(o, row->names[i], row->values[i]) != NULL;
    if (ok) ok = cJSON_AddItemToArray(rows, o);
    if (!ok) cJSON_Delete(o);
    return ok;
}

/* The rows, and beside them the metrics of the student at its fewest steps. */
static ck_status write_metrics(const ck_session *r, const ck_row *rows, size_t count,
                               ck_error *err) {
    cJSON *root = cJSON_CreateObject();
    cJSON *list = cJSON_AddArrayToObject(root, "rows");
    bool ok = list && cJSON_AddNumberToObject(root, "step", (double)r->done);
    const ck_row *best = NULL;
    for (size_t i = 0; i < count && ok; i++) {
        ok = add_row(list, &rows[i]);
        if (strcmp(rows[i].who, "student") == 0 && (!best || rows[i].steps < best->steps))
            best = &rows[i];
    }
    for (size_t i = 0; best && i < best->count && ok; i++)
        ok = cJSON_AddNumberToObject(root, best->names[i], best->values[i]) != NULL;
    char *text = ok ? cJSON_Print(root) : NULL, *line = text ? ck_sprintf("%s\n", text) : NULL;
    char *path = ck_run_path(r, "metrics.json");
    cJSON_Delete(root);
    ck_status s = line && path ? ck_write_file(path, line, strlen(line), true, err)
                               : ck_fail_memory(err, "metrics.json");
    free(text);
    free(line);
    free(path);
    return s;
}

/* ---- Judging ---- */

/* With which scale the student is asked: guidance is inside. */
static double told_guidance(const ck_session *r) {
    return ck_network_guided(&r->d.student) ? r->d.guidance : 1;
}

static ck_status judge_row(ck_session *r, const ck_network *n, ck_row *row, ck_error *err) {
    char *folder = ck_run_path(r, "grids");
    char *picture = ck_sprintf("%s/grids/%08llu-%02zu-%s.png", r->folder,
                               (unsigned long long)r->done, row->steps, row->who);
    ck_status s = folder && picture ? CK_OK : ck_fail_memory(err, r->folder);
    if (s == CK_OK && r->task->kind->pictures) mkdir(folder, 0777);
    if (s == CK_OK) s = r->task->kind->judge(r->task, n, row, picture, err);
    free(folder);
    free(picture);
    return s;
}

static ck_status log_rows(ck_session *r, const ck_row *rows, size_t count, ck_error *err) {
    ck_log_value values[CK_RUN_STEPS * CK_ROW_VALUES];
    char names[CK_RUN_STEPS * CK_ROW_VALUES][48];
    size_t n = 0;
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < rows[i].count && strcmp(rows[i].who, "student") == 0; k++, n++) {
            snprintf(names[n], sizeof names[n], "%s_%zu", rows[i].names[k], rows[i].steps);
            values[n] = (ck_log_value){names[n], rows[i].values[k]};
        }
    return ck_runlog_append(
        r->log,
        &(ck_log_record){.step = r->done, .event = "evaluated", .values = values, .count = n}, err);
}

ck_status ck_run_judge(ck_session *r, bool teacher, ck_error *err) {
    ck_row rows[2 * CK_RUN_STEPS + 1] = {0};
    size_t count = 0;
    ck_network student = r->d.student;
    student.params = ck_trainer_result(r->trainer);
    if (teacher && r->judges_teacher && r->task->teacher.params) {
        rows[count] = (ck_row){.who = "teacher",
                               .how = ck_walk_name(r->task->teacher_walk),
                               .steps = r->task->teacher_steps,
                               .guidance = r->d.guidance};
        CK_TRY(judge_row(r, &r->task->teacher, &rows[count++], err));
        for (size_t i = 0; i < r->judged_count; i++) {
            rows[count] = (ck_row){.who = "teacher",
                                   .how = ck_walk_name(CK_WALK_DDIM),
                                   .steps = r->judged[i],
                                   .guidance = r->d.guidance};
            CK_TRY(judge_row(r, &r->task->teacher, &rows[count++], err));
        }
    }
    for (size_t i = 0; i < r->judged_count; i++) {
        rows[count] = (ck_row){.who = "student",
                               .how = ck_walk_name(r->walk),
                               .steps = r->judged[i],
                               .guidance = told_guidance(r)};
        CK_TRY(judge_row(r, &student, &rows[count++], err));
    }
    CK_TRY(write_metrics(r, rows, count, err));
    const ck_row *first = &rows[count - r->judged_count];
    if (r->judged_count && first->count && r->done)
        CK_TRY(ck_checkpoint_rate(r->folder, r->done, first->values[0], err));
    return log_rows(r, rows, count, err);
}

/* ---- run.json ---- */

/* "AMD EPYC 9R14", or "" where the system does not say. */
static void name_machine(char *name, size_t size) {
    FILE *f = fopen("/proc/cpuinfo", "re");
    char line[256];
    name[0] = 0;
    while (f && !name[0] && fgets(line, sizeof line, f))
        if (strncmp(line, "model name", 10) == 0 && strchr(line, ':')) {
            snprintf(name, size, "%s", strchr(line, ':') + 2);
            name[strcspn(name, "\n")] = 0;
        }
    if (f) fclose(f);
}

ck_status ck_run_describe(const ck_session *r, double seconds, ck_error *err) {
    char machine[256];
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    name_machine(machine, sizeof machine);
    cJSON *root = cJSON_CreateObject();
    bool ok = root && cJSON_AddStringToObject(root, "machine", machine) &&
              cJSON_AddStringToObject(root, "backend", r->task->backend->name) &&
              cJSON_AddNumberToObject(root, "threads", omp_get_max_threads()) &&
              cJSON_AddNumberToObject(root, "elapsed", seconds) &&
              cJSON_AddNumberToObject(root, "peak_memory", (double)usage.ru_maxrss * 1024);
    char *text = ok ? cJSON_Print(root) : NULL, *path = ck_run_path(r, "run.json");
    cJSON_Delete(root);
    ck_status s = text && path ? ck_write_file(path, text, strlen(text), true, err)
                               : ck_fail_memory(err, "run.json");
    free(text);
    free(path);
    return s;
}

/* ---- The student ---- */

ck_status ck_run_export(ck_session *r, ck_error *err) {
    char steps[96] = "", guidance[32], told[32];
    for (size_t i = 0; i < r->judged_count; i++)
        snprintf(steps + strlen(steps), sizeof steps - strlen(steps), "%s%zu", i ? "," : "",
                 r->judged[i]);
    snprintf(guidance, sizeof guidance, "%g", r->d.guidance);
    snprintf(told, sizeof told, "%g", told_guidance(r));
    const ck_meta facts[] = {
        {"distilled.method", r->d.method->name},
        {"distilled.sampler", ck_walk_name(r->walk)},
        {"distilled.steps", steps},
        {"distilled.guidance_inside", guidance},
        {"distilled.sampling_guidance", told},
    };
    char *path = ck_run_path(r, "student.safetensors");
    if (!path) return ck_fail_memory(err, r->folder);
    ck_status s = r->task->kind->export(r->task, ck_trainer_result(r->trainer), path, r->dtype,
                                        facts, sizeof facts / sizeof *facts, err);
    free(path);
    return s;
}
