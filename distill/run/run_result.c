/* What comes out of a run: metrics.json and student.safetensors. See run.h. */
#include "distill/run/run_int.h"

#include "distill/run/as_lora.h"
#include "distill/models/export.h"
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
static bool add_rows(cJSON *root, const ck_judged *judged, size_t count, const ck_row **best) {
    cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "rows");
    for (size_t i = 0; i < count; i++) {
        const ck_row *row = &judged[i].row;
        if (!add_row(list, row)) return false;
        if (strcmp(row->who, "student") == 0 && (!*best || row->steps < (*best)->steps))
            *best = row;
    }
    return true;
}

static ck_status write_metrics(const ck_session *r, const ck_judged *student, ck_error *err) {
    cJSON *root = cJSON_CreateObject();
    const ck_row *best = NULL;
    bool ok = cJSON_AddArrayToObject(root, "rows") &&
              cJSON_AddNumberToObject(root, "step", (double)r->done) &&
              add_rows(root, r->teacher, r->teacher_count, &best) &&
              add_rows(root, student, r->judged_count, &best);
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

static void forget(ck_judged *judged, size_t count) {
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < CK_ROW_PICTURES; k++) ck_image_free(&judged[i].pictures[k]);
}

void ck_run_forget(ck_session *r) {
    forget(r->teacher, r->teacher_count);
    r->teacher_count = 0;
}

static ck_status judge_teacher(ck_session *r, ck_walk walk, size_t steps, ck_error *err) {
    ck_judged *j = &r->teacher[r->teacher_count];
    *j = (ck_judged){.row = {.who = "teacher",
                             .how = ck_walk_name(walk),
                             .steps = steps,
                             .guidance = r->d.guidance,
                             .is_reference = r->teacher_count == 0,
                             .follows = true}};
    r->teacher_count++;
    return r->task->kind->judge(r->task, &r->task->teacher, &j->row, j->pictures, err);
}

/* The teacher at many steps, then at those of the student. It does not change: once is enough. */
static ck_status judge_teachers(ck_session *r, ck_error *err) {
    if (!r->judges_teacher || !r->task->teacher.params || r->teacher_count) return CK_OK;
    ck_status s = judge_teacher(r, r->task->teacher_walk, r->task->teacher_steps, err);
    for (size_t i = 0; i < r->judged_count && s == CK_OK; i++) {
        bool same = r->task->teacher_walk == CK_WALK_DDIM && r->judged[i] == r->task->teacher_steps;
        if (!same) s = judge_teacher(r, CK_WALK_DDIM, r->judged[i], err);
    }
    if (s != CK_OK) ck_run_forget(r);
    return s;
}

static ck_status judge_student(ck_session *r, ck_judged *judged, ck_error *err) {
    ck_network student = r->d.student;
    student.params = ck_trainer_result(r->trainer);
    for (size_t i = 0; i < r->judged_count; i++) {
        bool noise = r->walk == CK_WALK_CONSISTENCY && r->judged[i] > 1;
        judged[i].row = (ck_row){.who = "student",
                                 .how = ck_walk_name(r->walk),
                                 .steps = r->judged[i],
                                 .guidance = r->judged_guidance,
                                 .follows = r->d.method->follows && !noise};
        CK_TRY(r->task->kind->judge(r->task, &student, &judged[i].row, judged[i].pictures, err));
    }
    return CK_OK;
}

/* The same noise and captions, column by column: a row of pictures for each row of the table. */
static ck_status draw_grid(const ck_session *r, const ck_judged *student, ck_error *err) {
    enum { ROWS = 2 * CK_RUN_STEPS + 1 };
    ck_image all[ROWS * CK_ROW_PICTURES], grid = {0};
    char labels[ROWS][32];
    const char *label[ROWS];
    size_t rows = r->teacher_count + r->judged_count;
    if (!r->task->kind->pictures || !rows) return CK_OK;
    for (size_t i = 0; i < rows; i++) {
        const ck_judged *j = i < r->teacher_count ? &r->teacher[i] : &student[i - r->teacher_count];
        memcpy(all + i * CK_ROW_PICTURES, j->pictures, sizeof j->pictures);
        snprintf(labels[i], sizeof labels[i], "%s %zu", j->row.who, j->row.steps);
        label[i] = labels[i];
    }
    char *folder = ck_run_path(r, "grids");
    char *path = folder ? ck_sprintf("%s/%08llu.png", folder, (unsigned long long)r->done) : NULL;
    ck_status s = path ? CK_OK : ck_fail_memory(err, r->folder);
    if (s == CK_OK) mkdir(folder, 0777);
    if (s == CK_OK)
        s = ck_image_grid(all, rows * CK_ROW_PICTURES, CK_ROW_PICTURES, label, &grid, err);
    if (s == CK_OK) s = ck_image_write(path, &grid, NULL, 0, true, err);
    ck_image_free(&grid);
    free(folder);
    free(path);
    return s;
}

static ck_status log_rows(ck_session *r, const ck_judged *judged, ck_error *err) {
    ck_log_value values[CK_RUN_STEPS * CK_ROW_VALUES];
    char names[CK_RUN_STEPS * CK_ROW_VALUES][48];
    size_t n = 0;
    for (size_t i = 0; i < r->judged_count; i++)
        for (size_t k = 0; k < judged[i].row.count; k++, n++) {
            snprintf(names[n], sizeof names[n], "%s_%zu", judged[i].row.names[k],
                     judged[i].row.steps);
            values[n] = (ck_log_value){names[n], judged[i].row.values[k]};
        }
    return ck_runlog_append(
        r->log,
        &(ck_log_record){.step = r->done, .event = "evaluated", .values = values, .count = n}, err);
}

/* The distance from the data at the fewest steps says which checkpoint is the best. */
static ck_status rate(const ck_session *r, const ck_judged *judged, ck_error *err) {
    const ck_row *row = &judged->row;
    for (size_t i = 0; i < row->count && r->done; i++)
        if (strcmp(row->names[i], "frechet") == 0 || strcmp(row->names[i], "swd") == 0)
            return ck_checkpoint_rate(r->folder, r->done, row->values[i], err);
    return CK_OK;
}

ck_status ck_run_judge(ck_session *r, ck_error *err) {
    ck_judged student[CK_RUN_STEPS] = {0};
    CK_TRY(judge_teachers(r, err));
    ck_status s = judge_student(r, student, err);
    if (s == CK_OK) s = write_metrics(r, student, err);
    if (s == CK_OK) s = draw_grid(r, student, err);
    if (s == CK_OK) s = rate(r, student, err);
    if (s == CK_OK) s = log_rows(r, student, err);
    if (s == CK_OK && r->options->table) ck_run_show(r, student, r->options->table);
    forget(student, r->judged_count);
    return s;
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

/* Of the steps that this process made: how many, how long they took, and how many times as long
 * as the operations in them (1: nothing is lost between them). */
static bool add_costs(cJSON *root, const ck_session *r) {
    double seconds[CK_OP_COUNT], all = 0;
    ck_trainer_seconds(r->trainer, seconds);
    for (int i = 0; i < CK_OP_COUNT; i++) all += seconds[i];
    return cJSON_AddNumberToObject(root, "steps", (double)r->stepped) &&
           cJSON_AddNumberToObject(root, "seconds_a_step", r->stepping / (double)r->stepped) &&
           cJSON_AddNumberToObject(root, "samples_per_s",
                                   (double)(r->d.total * r->settings.accumulate * r->stepped) /
                                       r->stepping) &&
           (all <= 0 || cJSON_AddNumberToObject(root, "overhead", r->stepping / all)) &&
           (r->task->backend->host ||
            cJSON_AddNumberToObject(root, "waited_for_card",
                                    ck_trainer_waited(r->trainer) / r->stepping));
}

ck_status ck_run_describe(const ck_session *r, double seconds, ck_error *err) {
    char machine[256];
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    name_machine(machine, sizeof machine);
    cJSON *root = cJSON_CreateObject();
    bool ok = root && cJSON_AddStringToObject(root, "machine", machine) &&
              cJSON_AddStringToObject(root, "backend", r->task->backend->name) &&
              cJSON_AddNumberToObject(root, "processes", (double)r->world.size) &&
              cJSON_AddNumberToObject(root, "threads", omp_get_max_threads()) &&
              cJSON_AddNumberToObject(root, "elapsed", seconds) &&
              (!r->stepped || add_costs(root, r)) &&
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

/* The student beside itself, as a LoRA of the teacher that it began as. */
static ck_status export_lora(const ck_session *r, const ck_run_facts *told, ck_error *err) {
    ck_lora_made made;
    char *path = ck_run_path(r, "student.lora.safetensors");
    if (!path) return ck_fail_memory(err, r->folder);
    ck_status s = ck_as_lora(ck_trainer_result(r->trainer), r->task->teacher.params, r->as_lora,
                             path, r->dtype, told->facts, told->count, &made, err);
    if (s == CK_OK && !r->options->quiet)
        fprintf(stderr, "\n%s has %.1f%% of the student's difference from its teacher\n", path,
                100 * made.kept);
    free(path);
    return s;
}

ck_status ck_run_export(ck_session *r, ck_error *err) {
    ck_run_facts told;
    CK_TRY(ck_run_tell(r, &told, err));
    char *path = ck_run_path(r, "student.safetensors");
    if (!path) return ck_fail_memory(err, r->folder);
    const ck_params *result = ck_trainer_result(r->trainer);
    ck_status s =
        r->adapter.rank
            ? ck_adapter_export(&r->adapter, result, path, r->dtype, told.facts, told.count, err)
            : r->task->kind->export(r->task, result, path, r->dtype, told.facts, told.count, err);
    free(path);
    return s == CK_OK && r->as_lora ? export_lora(r, &told, err) : s;
}
