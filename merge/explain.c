/* Gathering and printing what explain.h describes. */
#include "merge/explain.h"
#include "io/os.h"
#include "io/utf8.h"
#include "io/writer.h"
#include "merge/tool.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- Columns ---- */

/* The name of a number: "alpha", "lora1.strength", of lists with the input's name. */
static void name_column(const ck_recipe *r, ck_column *c) {
    const ck_node *node = c->node;
    const ck_parameter *p = &node->method->parameters[c->parameter];
    bool whole = node == r->root || !node->id;
    int n = snprintf(c->name, sizeof c->name, "%s%s%s", whole ? "" : node->id, whole ? "" : ".",
                     p->name);
    if (!p->list || n < 0 || n >= (int)sizeof c->name) return;
    size_t input = c->item + node->input_count - node->values[c->parameter].count;
    const ck_node *of = node->inputs[input];
    if (of->kind == CK_NODE_MODEL)
        snprintf(c->name + n, sizeof c->name - (size_t)n, " %s", r->models[of->model].name);
    else
        snprintf(c->name + n, sizeof c->name - (size_t)n, " %zu", input + 1);
}

static bool computed(const ck_task *task) {
    return task->outcome == CK_MIXED;
}

/* Whether the number differs between tensors. */
static bool varies(const ck_plan *plan, const ck_column *c, ck_node_values *values) {
    double first = 0;
    bool any = false;
    for (size_t t = 0; t < plan->task_count; t++) {
        if (!computed(&plan->tasks[t])) continue;
        ck_plan_values(plan, &plan->tasks[t], c->node, values);
        double value = values->items[c->parameter][c->item];
        if (any && value != first) return true;
        first = value;
        any = true;
    }
    return false;
}

static void find_columns(ck_explanation *e, const ck_node *node, ck_node_values *values) {
    if (node->kind != CK_NODE_METHOD) return;
    for (size_t p = 0; node->method->parameters[p].name; p++)
        for (size_t i = 0; i < node->values[p].count; i++) {
            ck_column c = {.node = node, .parameter = p, .item = i};
            if (!varies(e->plan, &c, values)) continue;
            if (e->column_count == CK_EXPLAIN_COLUMNS) {
                e->columns_left_out++;
                continue;
            }
            name_column(e->plan->recipe, &c);
            e->columns[e->column_count++] = c;
        }
    for (size_t i = 0; i < node->input_count; i++) find_columns(e, node->inputs[i], values);
}

/* ---- Rows ---- */

static void count_cause(ck_row *row, const char *text, bool mixed) {
    size_t i = 0;
    while (i < row->cause_count && strcmp(row->causes[i].text, text) != 0) i++;
    if (i == CK_EXPLAIN_CAUSES) i--; /* the last one stands for the rest */
    if (i == row->cause_count) {
        snprintf(row->causes[i].text, sizeof row->causes[i].text, "%s", text);
        row->causes[i].mixed = mixed;
        row->cause_count++;
    }
    row->causes[i].tensors++;
}

static void add_cause(const ck_plan *plan, const ck_task *task, ck_row *row) {
    char text[96];
    const char *model = plan->recipe->models[task->leaves[0].model].name;
    if (computed(task) && task->step_count > 0)
        snprintf(text, sizeof text, task->channels ? "mixed, %u input channels" : "mixed",
                 task->channels);
    else if (computed(task) || task->outcome == CK_COPIED)
        snprintf(text, sizeof text, "%.40s's", model);
    else if (task->outcome == CK_EXTRA)
        snprintf(text, sizeof text, "added from %.40s", model);
    else
        snprintf(text, sizeof text, "%s", ck_outcome_text(task->outcome));
    count_cause(row, text, computed(task));
}

static void add_values(const ck_explanation *e, const ck_task *task, ck_row *row,
                       ck_node_values *values) {
    double elements = (double)task->out.elements;
    for (size_t c = 0; c < e->column_count; c++) {
        ck_plan_values(e->plan, task, e->columns[c].node, values);
        double v = values->items[e->columns[c].parameter][e->columns[c].item];
        ck_range *range = &row->ranges[c];
        range->low = row->mixed ? fmin(range->low, v) : v;
        range->high = row->mixed ? fmax(range->high, v) : v;
        range->sum += v * elements;
        range->elements += elements;
    }
    row->mixed++;
}

/* Tasks by the name of their tensor. */
static int by_name(const void *a, const void *b) {
    const ck_task *const *x = a, *const *y = b;
    return strcmp((*x)->out.name, (*y)->out.name);
}

static int find_name(const void *name, const void *task) {
    return strcmp(name, (*(const ck_task *const *)task)->out.name);
}

static void fill_rows(ck_explanation *e, const ck_task **tasks, ck_node_values *values) {
    const ck_plan *plan = e->plan;
    const ck_reader *a = plan->readers[ck_recipe_primary(plan->recipe)];
    for (size_t i = 0; i < e->blocks.count; i++) {
        const ck_block *b = &e->blocks.blocks[i];
        ck_row *row = &e->rows[i];
        *row = (ck_row){.family = b->family,
                        .depth = i < e->blocks.depth,
                        .tensors = b->tensors,
                        .elements = b->elements};
        snprintf(row->name, sizeof row->name, "%s", b->name);
        e->elements += b->elements;
    }
    for (size_t i = 0; i < ck_reader_count(a); i++) {
        const char *name = ck_reader_tensor(a, i)->name;
        ck_row *row = &e->rows[e->blocks.block_of[i]];
        const ck_task **found = bsearch(name, tasks, plan->task_count, sizeof *tasks, find_name);
        if (!found) {
            count_cause(row, "dropped", false);
            continue;
        }
        add_cause(plan, *found, row);
        if (computed(*found)) add_values(e, *found, row, values);
    }
    ck_row *others = &e->rows[e->blocks.count];
    *others = (ck_row){.name = "others"};
    for (size_t i = 0; i < plan->task_count; i++) {
        if (ck_reader_find(a, tasks[i]->out.name)) continue;
        others->tensors++;
        others->elements += tasks[i]->out.elements;
        add_cause(plan, tasks[i], others);
    }
    e->elements += others->elements;
    e->row_count = e->blocks.count + (others->tensors > 0);
}

static ck_status gather(ck_explanation *e, ck_error *err) {
    const ck_plan *plan = e->plan;
    const ck_reader *a = plan->readers[ck_recipe_primary(plan->recipe)];
    CK_TRY(ck_blocks_of(a, &e->blocks, err));
    e->rows = ck_alloc_array(e->blocks.count + 1, sizeof *e->rows);
    const ck_task **tasks = ck_alloc_array(plan->task_count, sizeof(ck_task *));
    ck_node_values *values = ck_alloc(sizeof *values);
    ck_status status = e->rows && tasks && values ? CK_OK : ck_fail_memory(err, "explain");
    if (status == CK_OK) {
        const ck_node *root = plan->recipe->root;
        find_columns(e, root, values);
        if (!e->column_count && root->kind == CK_NODE_METHOD && root->method->parameters[0].name) {
            e->columns[0] = (ck_column){.node = root};
            name_column(plan->recipe, &e->columns[0]);
            e->column_count = 1;
        }
        for (size_t i = 0; i < plan->task_count; i++) tasks[i] = &plan->tasks[i];
        qsort(tasks, plan->task_count, sizeof *tasks, by_name);
        fill_rows(e, tasks, values);
    }
    free(tasks);
    free(values);
    return status;
}

ck_status ck_explain(const ck_plan *plan, ck_explanation **out, ck_error *err) {
    ck_explanation *e = ck_alloc(sizeof *e);
    if (!e) return ck_fail_memory(err, "explain");
    e->plan = plan;
    ck_status status = gather(e, err);
    if (status != CK_OK) {
        ck_explanation_free(e);
        return status;
    }
    *out = e;
    return CK_OK;
}

void ck_explanation_free(ck_explanation *e) {
    if (!e) return;
    ck_blocks_free(&e->blocks);
    free(e->rows);
    free(e);
}

/* ---- Text ---- */

/* Appends to buf[size], of which *used are; what does not fit is cut off. */
__attribute__((format(printf, 4, 5))) static void append(char *buf, size_t size, size_t *used,
                                                         const char *format, ...) {
    va_list args;
    va_start(args, format);
    if (*used < size) *used += (size_t)vsnprintf(buf + *used, size - *used, format, args);
    va_end(args);
}

static void append_node(const ck_recipe *r, const ck_node *node, char *buf, size_t size,
                        size_t *used) {
    if (node->kind == CK_NODE_MODEL) {
        append(buf, size, used, "%s", r->models[node->model].name);
    } else if (node->kind == CK_NODE_CONSTANT) {
        append(buf, size, used, "%g", node->constant);
    } else {
        append(buf, size, used, "%s(", node->method->name);
        for (size_t i = 0; i < node->input_count; i++) {
            if (i) append(buf, size, used, ", ");
            append_node(r, node->inputs[i], buf, size, used);
        }
        append(buf, size, used, ")");
    }
}

const char *ck_explain_expression(const ck_recipe *r, char *buf, size_t size) {
    size_t used = 0;
    *buf = 0;
    append_node(r, r->root, buf, size, &used);
    return buf;
}

/* The numbers of all nodes that are the same everywhere: "alpha 0.5, normalize on". */
static void append_constants(const ck_explanation *e, const ck_node *node, char *buf, size_t size,
                             size_t *used) {
    if (node->kind != CK_NODE_METHOD) return;
    for (size_t p = 0; node->method->parameters[p].name; p++)
        for (size_t i = 0; i < node->values[p].count; i++) {
            ck_column c = {.node = node, .parameter = p, .item = i};
            size_t k = 0;
            while (k < e->column_count && (e->columns[k].node != node ||
                                           e->columns[k].parameter != p || e->columns[k].item != i))
                k++;
            if (k < e->column_count || node->values[p].by_block) continue;
            name_column(e->plan->recipe, &c);
            char number[32];
            append(buf, size, used, "%s%s %s", *used ? ", " : "", c.name,
                   ck_parameter_text(&node->method->parameters[p], node->values[p].items[i], number,
                                     sizeof number));
        }
    for (size_t i = 0; i < node->input_count; i++)
        append_constants(e, node->inputs[i], buf, size, used);
}

static void print_head(const ck_explanation *e, FILE *out) {
    const ck_recipe *r = e->plan->recipe;
    char text[1024];
    for (size_t i = 0; i < r->model_count; i++)
        fprintf(out, "%-6s %s%s\n", r->models[i].name,
                ck_printable(text, sizeof text, r->models[i].path),
                i == ck_recipe_primary(r) ? "  (decides names, shapes, types)" : "");
    fprintf(out, "result %s\n", ck_explain_expression(r, text, sizeof text));
    size_t used = 0;
    *text = 0;
    append_constants(e, r->root, text, sizeof text, &used);
    if (*text) fprintf(out, "with   %s\n", text);
    if (e->columns_left_out)
        fprintf(out, "       and %zu more numbers that differ between tensors\n",
                e->columns_left_out);
    fputc('\n', out);
}

/* "0.3", "0.1..0.8" */
static const char *range_text(const ck_range *range, bool any, char buf[40]) {
    if (!any)
        snprintf(buf, 40, "-");
    else if (range->low == range->high)
        snprintf(buf, 40, "%.4g", range->low);
    else
        snprintf(buf, 40, "%.4g..%.4g", range->low, range->high);
    return buf;
}

enum { BAR = 10 };

/* The mean as a bar between 0 and 1. */
static void print_bar(const ck_range *range, bool any, FILE *out) {
    static const char *const eighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    double mean = any && range->elements > 0 ? range->sum / range->elements : 0;
    int filled = (int)lround(fmin(fmax(mean, 0), 1) * BAR * 8);
    fputs("  ", out);
    for (int i = 0; i < filled / 8; i++) fputs("█", out);
    fputs(eighths[filled % 8], out);
    for (int i = (filled + 7) / 8; i < BAR; i++) fputc(' ', out);
}

static int column_width(const ck_explanation *e, size_t c) {
    size_t width = strlen(e->columns[c].name);
    for (size_t i = 0; i < e->row_count; i++) {
        char text[40];
        size_t n = strlen(range_text(&e->rows[i].ranges[c], e->rows[i].mixed, text));
        if (n > width) width = n;
    }
    return (int)width;
}

static void print_row(const ck_explanation *e, const ck_row *row, const int *widths, FILE *out) {
    char text[40];
    fprintf(out, "%-14s %8zu %7.2f%%", row->name, row->tensors,
            e->elements ? 100 * (double)row->elements / (double)e->elements : 0);
    for (size_t c = 0; c < e->column_count; c++) {
        fprintf(out, "  %*s", widths[c], range_text(&row->ranges[c], row->mixed, text));
        if (c == 0) print_bar(&row->ranges[c], row->mixed, out);
    }
    fputs("  ", out);
    for (size_t i = 0; i < row->cause_count; i++) {
        fputs(i ? ", " : "", out);
        if (row->cause_count > 1) fprintf(out, "%zu ", row->causes[i].tensors);
        fputs(row->causes[i].text, out);
    }
    if (!row->cause_count) fputs("no tensors", out);
    fputc('\n', out);
}

void ck_explanation_print(const ck_explanation *e, FILE *out) {
    int widths[CK_EXPLAIN_COLUMNS];
    print_head(e, out);
    fprintf(out, "%-14s %8s %8s", "block", "tensors", "share");
    for (size_t c = 0; c < e->column_count; c++) {
        widths[c] = column_width(e, c);
        fprintf(out, "  %*s", widths[c], e->columns[c].name);
        if (c == 0) fprintf(out, "  %*s", BAR, "");
    }
    fputs("  what happens\n", out);
    for (size_t i = 0; i < e->row_count; i++) {
        if (i && (e->rows[i].family != e->rows[i - 1].family) &&
            (e->rows[i].depth || e->rows[i - 1].depth))
            fputc('\n', out);
        print_row(e, &e->rows[i], widths, out);
    }
}

/* ---- JSON ---- */

static bool number(cJSON *object, const char *name, double value) {
    return cJSON_AddNumberToObject(object, name, value) != NULL;
}

static bool fill_row(const ck_explanation *e, const ck_row *row, cJSON *json) {
    bool ok = cJSON_AddStringToObject(json, "name", row->name) &&
              number(json, "tensors", (double)row->tensors) &&
              number(json, "elements", (double)row->elements);
    cJSON *values = cJSON_AddObjectToObject(json, "parameters");
    for (size_t c = 0; c < e->column_count && ok && row->mixed; c++) {
        const ck_range *range = &row->ranges[c];
        cJSON *value = cJSON_AddObjectToObject(values, e->columns[c].name);
        ok = number(value, "min", range->low) && number(value, "max", range->high);
        if (ok && range->elements > 0) ok = number(value, "mean", range->sum / range->elements);
    }
    cJSON *causes = cJSON_AddObjectToObject(json, "outcomes");
    for (size_t i = 0; i < row->cause_count && ok; i++)
        ok = number(causes, row->causes[i].text, (double)row->causes[i].tensors);
    return ok && values && causes;
}

static bool fill_json(const ck_explanation *e, cJSON *root) {
    const ck_recipe *r = e->plan->recipe;
    char text[1024];
    bool ok =
        cJSON_AddStringToObject(root, "expression", ck_explain_expression(r, text, sizeof text)) &&
        cJSON_AddStringToObject(root, "blocks_of", r->models[ck_recipe_primary(r)].path);
    cJSON *models = cJSON_AddObjectToObject(root, "models");
    for (size_t i = 0; i < r->model_count && ok; i++)
        ok = cJSON_AddStringToObject(models, r->models[i].name, r->models[i].path);
    cJSON *blocks = cJSON_AddArrayToObject(root, "blocks");
    for (size_t i = 0; i < e->row_count && ok; i++) {
        cJSON *json = cJSON_CreateObject();
        ok = json && cJSON_AddItemToArray(blocks, json) && fill_row(e, &e->rows[i], json);
    }
    return ok;
}

ck_status ck_explanation_json(const ck_explanation *e, cJSON **json, ck_error *err) {
    *json = cJSON_CreateObject();
    if (*json && fill_json(e, *json)) return CK_OK;
    cJSON_Delete(*json);
    *json = NULL;
    return ck_fail_memory(err, "explain");
}

/* ---- The command ---- */

static ck_status write_svg(const ck_explanation *e, const char *path, bool replace, ck_error *err) {
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    if (out) ck_explanation_svg(e, out);
    bool ok = out && !ferror(out);
    ok = (!out || fclose(out) == 0) && ok;
    ck_status status = ok ? ck_write_file(path, text, n, replace, err) : ck_fail_memory(err, path);
    free(text);
    return status;
}

ck_status ck_explain_plan(const ck_plan *plan, const char *svg, bool replace, bool json, bool quiet,
                          ck_error *err) {
    if (svg && !replace && access(svg, F_OK) == 0)
        return ck_fail(err, CK_USAGE, "%s exists; --force replaces it", svg);
    ck_explanation *e;
    CK_TRY(ck_explain(plan, &e, err));
    ck_status status = svg ? write_svg(e, svg, replace, err) : CK_OK;
    cJSON *document = NULL;
    if (status == CK_OK && json) {
        status = ck_explanation_json(e, &document, err);
        if (status == CK_OK) status = ck_tool_print_json(document, true, err);
    } else if (status == CK_OK && !quiet) {
        ck_explanation_print(e, stdout);
    }
    ck_explanation_free(e);
    return status;
}
