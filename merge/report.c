/* Text and JSON for report.h. */
#include "merge/report.h"
#include "io/json.h"
#include "io/utf8.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Short names of the outcomes for columns and JSON. */
static const char *const words[CK_COUNT_COUNT] = {
    [CK_MIXED] = "mixed",         [CK_KEPT_MISSING] = "kept_missing", [CK_KEPT_TYPE] = "kept_type",
    [CK_KEPT_RULE] = "kept_rule", [CK_KEPT_SAME] = "kept_same",       [CK_COPIED] = "copied",
    [CK_EXTRA] = "extra",         [CK_DROPPED] = "dropped",
};

/* "alpha=0.3" of the expression's root where it was applied to this tensor. */
static void print_values(const ck_plan *plan, const ck_task *task, FILE *out) {
    const ck_node *root = plan->recipe->root;
    if (task->outcome != CK_MIXED || root->kind != CK_NODE_METHOD) return;
    ck_node_values own;
    ck_plan_values(plan, task, root, &own);
    for (const ck_parameter *p = root->method->parameters; p->name; p++) {
        const ck_value *v = &own.values[p - root->method->parameters];
        char number[32];
        fprintf(out, " %s=", p->name);
        for (size_t i = 0; i < v->count; i++)
            fprintf(out, "%s%s", i ? "," : "",
                    ck_parameter_text(p, v->items[i], number, sizeof number));
    }
}

static void print_summary(const ck_report *report, FILE *out) {
    const ck_plan *plan = report->plan;
    char bytes[32];
    for (int i = 0; i < CK_COUNT_COUNT; i++)
        if (plan->counts[i])
            fprintf(out, "%8" PRIu64 " tensors %s\n", plan->counts[i],
                    ck_outcome_text((ck_outcome)i));
    fprintf(out, "%8zu tensors, %s in %s\n", plan->task_count,
            ck_format_bytes(bytes, sizeof bytes, plan->file_size), report->output);
}

void ck_report_plan(const ck_report *report, FILE *out) {
    const ck_plan *plan = report->plan;
    for (size_t i = 0; i < plan->task_count; i++) {
        const ck_task *task = &plan->tasks[i];
        char shape[128], name[1024];
        fprintf(out, "%-12s %-7s %s %s", words[task->outcome], ck_dtype_name(task->out.dtype),
                ck_tensor_shape_text(&task->out, shape, sizeof shape),
                ck_printable(name, sizeof name, task->out.name));
        print_values(plan, task, out);
        if (task->channels) fprintf(out, " first %u input channels", task->channels);
        if (task->rule) fprintf(out, " (rule %s)", ck_rule_text(task->rule, name, sizeof name));
        fputc('\n', out);
    }
    print_summary(report, out);
    fputs("dry run: nothing was written\n", out);
}

void ck_report_result(const ck_report *report, FILE *out) {
    const ck_run_result *result = report->result;
    print_summary(report, out);
    if (report->seconds > 0)
        fprintf(out, "%8.2f s, %.2f GB/s written, %u thread%s\n", report->seconds,
                (double)report->plan->file_size / report->seconds / 1e9, result->threads,
                result->threads == 1 ? "" : "s");
    if (*result->output_sha256) fprintf(out, "sha256  %s\n", result->output_sha256);
    if (report->recipe_written) fprintf(out, "recipe  %s\n", report->recipe_written);
}

/* Adding to a NULL object or adding NULL (out of memory) is noticed by the sum of results. */
static bool number(cJSON *object, const char *name, double value) {
    return cJSON_AddNumberToObject(object, name, value) != NULL;
}

static bool text(cJSON *object, const char *name, const char *value) {
    return cJSON_AddStringToObject(object, name, value) != NULL;
}

static bool add_tensor(cJSON *list, const ck_task *task) {
    cJSON *json = cJSON_CreateObject();
    if (!json || !cJSON_AddItemToArray(list, json)) {
        cJSON_Delete(json);
        return false;
    }
    bool ok = text(json, "name", task->out.name) && text(json, "outcome", words[task->outcome]) &&
              text(json, "dtype", ck_dtype_name(task->out.dtype)) &&
              number(json, "bytes", (double)task->out.nbytes);
    cJSON *shape = cJSON_AddArrayToObject(json, "shape");
    for (size_t i = 0; i < task->out.rank && ok; i++) {
        cJSON *dimension = cJSON_CreateNumber((double)task->out.shape[i]);
        ok = dimension && cJSON_AddItemToArray(shape, dimension);
    }
    char rule[1024];
    if (task->rule) ok = ok && text(json, "rule", ck_rule_text(task->rule, rule, sizeof rule));
    return ok && shape;
}

static bool add_models(cJSON *root, const ck_report *report) {
    const ck_recipe *recipe = report->plan->recipe;
    cJSON *list = cJSON_AddArrayToObject(root, "models");
    bool ok = list != NULL;
    for (size_t i = 0; i < recipe->model_count && ok; i++) {
        cJSON *model = cJSON_CreateObject();
        ok = model && cJSON_AddItemToArray(list, model) &&
             text(model, "name", recipe->models[i].name) &&
             text(model, "path", recipe->models[i].path);
        if (ok && report->result && *report->result->model_sha256[i])
            ok = text(model, "sha256", report->result->model_sha256[i]);
    }
    return ok;
}

static bool fill_json(cJSON *root, const ck_report *report) {
    const ck_plan *plan = report->plan;
    const ck_run_result *result = report->result;
    bool ok = text(root, "output", report->output) &&
              cJSON_AddBoolToObject(root, "dry_run", result == NULL) &&
              number(root, "bytes", (double)plan->file_size) &&
              number(root, "tensors", (double)plan->task_count);
    cJSON *counts = cJSON_AddObjectToObject(root, "counts");
    for (int i = 0; i < CK_COUNT_COUNT; i++)
        ok = ok && number(counts, words[i], (double)plan->counts[i]);
    ok = ok && add_models(root, report);
    if (result) {
        ok = ok && number(root, "seconds", report->seconds) &&
             number(root, "threads", result->threads) &&
             number(root, "clipped", (double)result->clipped);
        if (*result->output_sha256) ok = ok && text(root, "sha256", result->output_sha256);
        if (report->recipe_written) ok = ok && text(root, "recipe", report->recipe_written);
    } else {
        cJSON *plans = cJSON_AddArrayToObject(root, "plan");
        for (size_t i = 0; i < plan->task_count && ok; i++) ok = add_tensor(plans, &plan->tasks[i]);
    }
    cJSON *warnings = cJSON_AddArrayToObject(root, "warnings");
    for (size_t i = 0; i < report->warning_count && ok; i++) {
        cJSON *warning = cJSON_CreateString(report->warnings[i]);
        ok = warning && cJSON_AddItemToArray(warnings, warning);
    }
    return ok;
}

static ck_status print_json(cJSON *root, bool ok, FILE *out, ck_error *err) {
    char *printed = ok ? cJSON_Print(root) : NULL;
    cJSON_Delete(root);
    if (!printed) return ck_fail_memory(err, "report");
    fprintf(out, "%s\n", printed);
    free(printed);
    return CK_OK;
}

ck_status ck_report_json(const ck_report *report, FILE *out, ck_error *err) {
    cJSON *root = cJSON_CreateObject();
    return print_json(root, root && fill_json(root, report), out, err);
}

ck_status ck_report_sweep_json(const ck_report *reports, size_t count, FILE *out, ck_error *err) {
    cJSON *root = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(root, "outputs");
    bool ok = list != NULL;
    for (size_t i = 0; i < count && ok; i++) {
        cJSON *item = cJSON_CreateObject();
        ok = item && cJSON_AddItemToArray(list, item) && fill_json(item, &reports[i]);
    }
    return print_json(root, ok, out, err);
}

void ck_report_sweep(const ck_report *reports, size_t count, FILE *out) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        bytes += reports[i].plan->file_size;
        fprintf(out, "%s\n", reports[i].output);
    }
    char text[32];
    unsigned threads = reports->result->threads;
    fprintf(out, "%zu outputs, %s, %.2f s, %u thread%s\n", count,
            ck_format_bytes(text, sizeof text, bytes), reports->seconds, threads,
            threads == 1 ? "" : "s");
}
