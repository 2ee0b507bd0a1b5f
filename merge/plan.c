/* For every tensor of the primary model the expression graph is brought down to a few steps over
 * the tensors that are there; see plan.h for the policies. */
#include "merge/plan.h"
#include "io/head.h"
#include "io/os.h"
#include "io/safetensors.h"
#include "merge/plan_blocks.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where the value of a node is, for one tensor. */
typedef struct operand {
    enum { ABSENT, REGISTER } kind;
    unsigned reg;
    bool step; /* reg counts steps, not leaves */
} operand;

/* The steps of one tensor while they are being collected. */
typedef struct builder {
    ck_plan *plan;
    const ck_tensor *a; /* the primary model's tensor */
    size_t number;      /* its number in the model */
    const ck_task *task;
    ck_leaf leaves[CK_MAX_MODELS];
    unsigned leaf_count;
    ck_step steps[CK_MAX_STEPS];
    operand *inputs[CK_MAX_STEPS];
    unsigned step_count;
    bool missing;      /* an input lacked the tensor */
    bool unchanged;    /* a LoRA does not change it */
    bool applied;      /* some method had all its inputs */
    unsigned channels; /* see ck_task */
} builder;

const char *ck_outcome_text(ck_outcome outcome) {
    static const char *const texts[CK_COUNT_COUNT] = {
        [CK_MIXED] = "mixed",
        [CK_KEPT_MISSING] = "kept: missing in another model",
        [CK_KEPT_TYPE] = "kept: no weights (integers, position_ids)",
        [CK_KEPT_RULE] = "kept: excluded by a rule",
        [CK_KEPT_SAME] = "kept: not changed",
        [CK_COPIED] = "copied by a rule",
        [CK_EXTRA] = "added: not in the first model",
        [CK_DROPPED] = "dropped",
    };
    return texts[outcome];
}

static bool same_shape(const ck_tensor *a, const ck_tensor *b) {
    return a->rank == b->rank && memcmp(a->shape, b->shape, a->rank * sizeof *a->shape) == 0;
}

/* a [o, 8 or 9, h, w] and b [o, 4, h, w]: a model with extra input channels against a plain one. */
static bool inpaint_pair(const ck_tensor *a, const ck_tensor *b) {
    return a->rank == 4 && b->rank == 4 && a->shape[0] == b->shape[0] &&
           a->shape[2] == b->shape[2] && a->shape[3] == b->shape[3] &&
           (a->shape[1] == 9 || a->shape[1] == 8) && b->shape[1] == 4;
}

static ck_status check_leaf(builder *b, size_t model, const ck_tensor *t, ck_error *err) {
    const ck_tensor *a = b->a;
    const char *path = ck_reader_path(b->plan->readers[model]);
    if (!ck_dtype_is_float(t->dtype))
        return ck_fail(err, CK_INPUT,
                       "%s: tensor '%s' is %s, but %s in the first model; exclude it with --rule "
                       "'%s=exclude'",
                       path, t->name, ck_dtype_name(t->dtype), ck_dtype_name(a->dtype), t->name);
    if (same_shape(a, t)) return CK_OK;
    if (b->plan->recipe->shape == CK_SHAPE_INPAINT && inpaint_pair(a, t)) {
        b->channels = 4;
        return CK_OK;
    }
    char mine[128], theirs[128];
    return ck_fail(
        err, CK_INPUT,
        "%s: tensor '%s' has shape %s, but %s in the first model; %s, or exclude it with "
        "--rule '%s=exclude'",
        path, t->name, ck_tensor_shape_text(t, theirs, sizeof theirs),
        ck_tensor_shape_text(a, mine, sizeof mine),
        inpaint_pair(a, t) || inpaint_pair(t, a)
            ? "to mix a plain model into an inpainting one, give the inpainting one first "
              "and --shape inpaint"
            : "these are different architectures",
        t->name);
}

/* The leaf of a model; a model that the expression names twice is read once. */
static operand add_leaf(builder *b, size_t model, const ck_tensor *t) {
    operand leaf = {.kind = REGISTER};
    while (leaf.reg < b->leaf_count && b->leaves[leaf.reg].model != model) leaf.reg++;
    if (leaf.reg == b->leaf_count) b->leaves[b->leaf_count++] = (ck_leaf){model, t};
    return leaf;
}

static ck_status add_step(builder *b, ck_step step, const operand *inputs, operand *out,
                          ck_error *err) {
    if (b->step_count == CK_MAX_STEPS)
        return ck_fail(err, CK_USAGE, "more than %d operations in one expression", CK_MAX_STEPS);
    operand *copy = ck_arena_alloc(&b->plan->arena, step.input_count * sizeof *copy);
    if (!copy) return ck_fail_memory(err, "plan");
    if (step.input_count) memcpy(copy, inputs, step.input_count * sizeof *copy);
    *out = (operand){.kind = REGISTER, .reg = b->step_count, .step = true};
    b->inputs[b->step_count] = copy;
    b->steps[b->step_count++] = step;
    return CK_OK;
}

static ck_status reduce(builder *b, const ck_node *node, operand *out, ck_error *err);

static bool has_own_values(const builder *b, const ck_node *node) {
    const ck_rule *rule = b->task->rule;
    for (size_t i = 0; rule && i < rule->setting_count; i++)
        if (rule->settings[i].node == node) return true;
    for (size_t p = 0; node->method->parameters[p].name; p++)
        if (node->values[p].by_block) return true;
    return false;
}

/* The values of a method node for this tensor; they live in the recipe or the plan. Those of blocks
 * are only now known, and so checked. */
static ck_status values_of(builder *b, const ck_node *node, const ck_value **values,
                           ck_error *err) {
    if (!has_own_values(b, node)) {
        *values = node->values;
        return CK_OK;
    }
    ck_node_values *found = ck_alloc(sizeof *found);
    if (!found) return ck_fail_memory(err, "plan");
    ck_plan_values(b->plan, b->task, node, found);
    ck_value *own = ck_arena_alloc(&b->plan->arena, CK_MAX_PARAMETERS * sizeof *own);
    ck_status status = own ? CK_OK : ck_fail_memory(err, "plan");
    for (size_t p = 0; status == CK_OK && node->method->parameters[p].name; p++) {
        size_t count = found->values[p].count;
        double *items = ck_arena_alloc(&b->plan->arena, count * sizeof *items);
        if (!items) {
            status = ck_fail_memory(err, "plan");
            break;
        }
        memcpy(items, found->values[p].items, count * sizeof *items);
        own[p] = (ck_value){.items = items, .count = count};
    }
    free(found);
    if (status == CK_OK && ck_recipe_check_values(node, own, err) != CK_OK)
        status = ck_context(err, "tensor '%s'", b->a->name);
    *values = own;
    return status;
}

/* Puts the numbers for this tensor in the parameters' place. */
static ck_status values_for_tensor(builder *b, const ck_method *method, const ck_value **values,
                                   bool *changes, ck_error *err) {
    double items[CK_TENSOR_VALUES];
    *changes = ck_plan_blocks__for_tensor(b->plan, method, *values, b->number, items);
    if (!*changes) return CK_OK;
    ck_value *own = ck_arena_alloc(&b->plan->arena, sizeof *own);
    double *copy = ck_arena_alloc(&b->plan->arena, sizeof items);
    if (!own || !copy) return ck_fail_memory(err, "plan");
    memcpy(copy, items, sizeof items);
    *own = (ck_value){.items = copy, .count = CK_TENSOR_VALUES};
    *values = own;
    return CK_OK;
}

/* One for all tensors of a node. */
static ck_status survey_of(ck_plan *plan, const ck_node *node, ck_survey **out, ck_error *err) {
    ck_node_survey *s = plan->surveys;
    while (s && s->node != node) s = s->next;
    if (!s) {
        if (!(s = ck_arena_alloc(&plan->arena, sizeof *s))) return ck_fail_memory(err, "plan");
        *s = (ck_node_survey){.node = node, .next = plan->surveys};
        plan->surveys = s;
    }
    *out = &s->survey;
    return CK_OK;
}

static ck_status reduce_method(builder *b, const ck_node *node, operand *out, ck_error *err) {
    const ck_method *method = node->method;
    operand inputs[CK_MAX_MODELS];
    bool missing = false;
    for (size_t i = 0; i < node->input_count; i++) {
        CK_TRY(reduce(b, node->inputs[i], &inputs[i], err));
        if (inputs[i].kind != ABSENT) continue;
        if (i == 0) {
            *out = inputs[0];
            return CK_OK;
        }
        if (method->adds_changes) {
            b->unchanged = true;
            *out = inputs[0];
            return CK_OK;
        }
        missing = true;
        inputs[i] = inputs[0];
    }
    b->missing |= missing;
    if (missing && !method->first_stands_in) {
        *out = inputs[0];
        return CK_OK;
    }
    const ck_value *values = NULL;
    CK_TRY(values_of(b, node, &values, err));
    if (method->for_tensor) {
        bool changes;
        CK_TRY(values_for_tensor(b, method, &values, &changes, err));
        if (!changes) {
            b->unchanged = true;
            *out = inputs[0];
            return CK_OK;
        }
    }
    if (node->compat && method->covers && !method->covers(b->a->name)) {
        b->unchanged = true;
        *out = inputs[0];
        return CK_OK;
    }
    b->applied = true;
    bool knows = method->same_as && node->compat == 0;
    int same = knows ? method->same_as(values, node->input_count) : -1;
    if (same >= 0) {
        *out = inputs[same];
        return CK_OK;
    }
    ck_step step = {.method = method,
                    .values = values,
                    .input_count = (unsigned)node->input_count,
                    .compat = node->compat};
    if (node->compat && method->survey) CK_TRY(survey_of(b->plan, node, &step.survey, err));
    return add_step(b, step, inputs, out, err);
}

/* Brings a node down to an operand for the current tensor. */
static ck_status reduce(builder *b, const ck_node *node, operand *out, ck_error *err) {
    switch (node->kind) {
    case CK_NODE_CONSTANT:
        return add_step(b, (ck_step){.constant = node->constant}, NULL, out, err);
    case CK_NODE_METHOD:
        return reduce_method(b, node, out, err);
    case CK_NODE_MODEL: {
        const ck_tensor *t = ck_reader_find(b->plan->readers[node->model], b->a->name);
        *out = (operand){.kind = ABSENT};
        if (!t) return CK_OK;
        CK_TRY(check_leaf(b, node->model, t, err));
        *out = add_leaf(b, node->model, t);
        return CK_OK;
    }
    }
    return CK_OK;
}

/* Marks what the operand needs, from the result backwards. */
static void mark(const builder *b, operand o, bool *leaf_used, bool *step_used) {
    if (!o.step) {
        leaf_used[o.reg] = true;
        return;
    }
    if (step_used[o.reg]) return;
    step_used[o.reg] = true;
    for (unsigned i = 0; i < b->steps[o.reg].input_count; i++)
        mark(b, b->inputs[o.reg][i], leaf_used, step_used);
}

/* Whether a step needs a pass over the whole tensor first, and what for. */
static bool looks_at_all(ck_step *step) {
    const ck_method *m = step->method; /* NULL: a constant */
    bool prepares = m && m->prepare && (step->compat || !m->prepares_for_compat);
    step->combines = m && m->combine && !prepares;
    return prepares || step->combines;
}

/* Makes it a task that mixes only the first input channels. */
static ck_status set_channels(const builder *b, ck_task *task, ck_error *err) {
    size_t bytes = b->a->rank * sizeof *b->a->shape;
    uint64_t *shape = ck_arena_alloc(&b->plan->arena, bytes);
    if (!shape) return ck_fail_memory(err, "plan");
    memcpy(shape, b->a->shape, bytes);
    shape[1] = b->channels;
    task->channels = b->channels;
    task->mixed_shape = shape;
    task->mixed_elements = b->a->elements / b->a->shape[1] * b->channels;
    return CK_OK;
}

/* Turns the builder's leaves and steps into a task's, leaving out what the result does not need. */
static ck_status finish_task(const builder *b, operand result, ck_task *task, ck_error *err) {
    bool leaf_used[CK_MAX_MODELS] = {false}, step_used[CK_MAX_STEPS] = {false};
    unsigned leaf_reg[CK_MAX_MODELS], step_reg[CK_MAX_STEPS];
    mark(b, result, leaf_used, step_used);
    if (b->channels) leaf_used[0] = true; /* A fills the other channels */

    ck_arena *arena = &b->plan->arena;
    task->leaves = ck_arena_alloc(arena, b->leaf_count * sizeof *task->leaves);
    task->steps = ck_arena_alloc(arena, b->step_count * sizeof *task->steps);
    if (!task->leaves || !task->steps) return ck_fail_memory(err, "plan");
    for (unsigned i = 0; i < b->leaf_count; i++) {
        if (!leaf_used[i]) continue;
        leaf_reg[i] = task->leaf_count;
        task->leaves[task->leaf_count++] = b->leaves[i];
    }
    for (unsigned s = 0; s < b->step_count; s++) {
        if (!step_used[s]) continue;
        ck_step step = b->steps[s];
        unsigned *inputs = ck_arena_alloc(arena, step.input_count * sizeof *inputs);
        ck_dtype *stored = ck_arena_alloc(arena, step.input_count * sizeof *stored);
        if (!inputs || !stored) return ck_fail_memory(err, "plan");
        for (unsigned i = 0; i < step.input_count; i++) {
            operand o = b->inputs[s][i];
            inputs[i] = o.step ? step_reg[o.reg] : leaf_reg[o.reg];
            stored[i] = o.step ? CK_F32 : b->leaves[o.reg].tensor->dtype;
        }
        step.inputs = inputs;
        step.stored = stored;
        if (looks_at_all(&step)) {
            step.found = ck_arena_alloc(arena, sizeof *step.found);
            if (!step.found) return ck_fail_memory(err, "plan");
        }
        step_reg[s] = task->leaf_count + task->step_count;
        task->steps[task->step_count++] = step;
    }
    task->result = result.step ? step_reg[result.reg] : leaf_reg[result.reg];
    return b->channels ? set_channels(b, task, err) : CK_OK;
}

/* A task that takes one model's tensor. */
static ck_status copy_task(ck_plan *plan, size_t model, const ck_tensor *t, ck_task *task,
                           ck_error *err) {
    task->leaves = ck_arena_alloc(&plan->arena, sizeof *task->leaves);
    if (!task->leaves) return ck_fail_memory(err, "plan");
    task->leaves[0] = (ck_leaf){model, t};
    task->leaf_count = 1;
    return CK_OK;
}

/* FNV-1a of the name, and the seed. */
static uint64_t random_key(uint64_t seed, const char *name) {
    uint64_t key = 0xcbf29ce484222325u ^ seed;
    for (; *name; name++) key = (key ^ (unsigned char)*name) * 0x100000001b3u;
    return key;
}

/* CLIP's position_ids are the numbers 0 to 76, but some tools have made floats of them. Mixed as
 * such they drift, and the text encoder with them. */
static bool is_weight(const ck_tensor *t) {
    static const char ids[] = "position_ids";
    size_t n = strlen(t->name);
    bool numbers = n >= sizeof ids - 1 && strcmp(t->name + n - (sizeof ids - 1), ids) == 0;
    return ck_dtype_is_float(t->dtype) && t->elements > 0 && !numbers;
}

/* Adds a finished task: its output takes name and shape of `like`, and the dtype that the recipe
 * wants. */
static void add_task(ck_plan *plan, ck_task task, const ck_tensor *like, ck_dtype keep) {
    task.out = *like;
    bool converts = is_weight(like);
    ck_dtype wanted = plan->recipe->dtype == CK_DTYPE_COUNT ? keep : plan->recipe->dtype;
    task.out.dtype = converts ? wanted : like->dtype;
    task.out.nbytes = converts ? like->elements * ck_dtype_bits(wanted) / 8 : like->nbytes;
    task.raw = task.step_count == 0 && task.channels == 0 &&
               task.leaves[0].tensor->dtype == task.out.dtype;
    if (!task.channels) {
        task.mixed_shape = like->shape;
        task.mixed_elements = like->elements;
    }
    size_t leaf_bytes = 0;
    for (unsigned i = 0; i < task.leaf_count; i++)
        leaf_bytes += (ck_dtype_bits(task.leaves[i].tensor->dtype) + 7) / 8;
    if (leaf_bytes > plan->max_leaf_bytes) plan->max_leaf_bytes = leaf_bytes;
    unsigned registers = task.leaf_count + task.step_count;
    if (registers > plan->max_registers) plan->max_registers = registers;
    task.key = random_key(plan->recipe->seed, like->name);
    plan->counts[task.outcome]++;
    plan->tasks[plan->task_count++] = task;
}

/* Decides tensor number i of the primary model. */
static ck_status plan_tensor(ck_plan *plan, size_t primary, size_t i, ck_error *err) {
    const ck_recipe *r = plan->recipe;
    const ck_tensor *a = ck_reader_tensor(plan->readers[primary], i);
    const ck_rule *rule = ck_plan_blocks__rule(plan, primary, i);
    ck_task task = {.rule = rule, .block = ck_plan_blocks__of(plan, i)};
    if (rule && rule->action == CK_RULE_DROP) {
        plan->counts[CK_DROPPED]++;
        return CK_OK;
    }
    bool movable = is_weight(a);
    if (rule && rule->action == CK_RULE_COPY) {
        const ck_tensor *t = ck_reader_find(plan->readers[rule->model], a->name);
        task.outcome = t ? CK_COPIED : CK_KEPT_MISSING;
        CK_TRY(copy_task(plan, t ? rule->model : primary, t ? t : a, &task, err));
        if (!t) t = a;
        add_task(plan, task, t, movable && ck_dtype_is_float(t->dtype) ? a->dtype : t->dtype);
        return CK_OK;
    }
    if (!movable || (rule && rule->action == CK_RULE_EXCLUDE)) {
        task.outcome = movable ? CK_KEPT_RULE : CK_KEPT_TYPE;
        CK_TRY(copy_task(plan, primary, a, &task, err));
        add_task(plan, task, a, a->dtype);
        return CK_OK;
    }

    builder *b = ck_alloc(sizeof *b);
    if (!b) return ck_fail_memory(err, "plan");
    b->plan = plan;
    b->a = a;
    b->number = i;
    b->task = &task;
    operand result = {0};
    ck_status status = reduce(b, r->root, &result, err);
    if (status == CK_OK) status = finish_task(b, result, &task, err);
    bool mixed = b->applied, missing = b->missing, unchanged = b->unchanged;
    free(b);
    CK_TRY(status);

    if (missing && r->missing == CK_MISSING_ERROR)
        return ck_fail(
            err, CK_INPUT,
            "tensor '%s' of %s is missing in another model; --missing keep takes it from "
            "the first",
            a->name, ck_reader_path(plan->readers[primary]));
    if (missing && !mixed && r->missing == CK_MISSING_DROP) {
        plan->counts[CK_DROPPED]++;
        return CK_OK;
    }
    task.outcome = mixed       ? CK_MIXED
                   : missing   ? CK_KEPT_MISSING
                   : unchanged ? CK_KEPT_SAME
                               : CK_COPIED;
    add_task(plan, task, a, a->dtype);
    return CK_OK;
}

/* LoRAs have no tensors of their own. */
static bool is_lora(const ck_recipe *r, size_t model) {
    return ck_recipe_lora_base(r, model) != SIZE_MAX;
}

static bool in_earlier_model(const ck_plan *plan, size_t model, const char *name) {
    for (size_t m = 0; m < model; m++)
        if (!is_lora(plan->recipe, m) && ck_reader_find(plan->readers[m], name)) return true;
    return false;
}

/* Decides tensor number i of a model, which the primary model lacks: kept by policy, from the first
 * model that has it, or by a copy rule, from the model that the rule names. */
static ck_status plan_extra(ck_plan *plan, size_t model, size_t i, ck_error *err) {
    const ck_recipe *r = plan->recipe;
    const ck_tensor *t = ck_reader_tensor(plan->readers[model], i);
    const ck_rule *rule = ck_plan_blocks__rule(plan, model, i);
    ck_task task = {.rule = rule, .outcome = CK_EXTRA};
    bool wanted = r->extra == CK_EXTRA_KEEP && !(rule && rule->action == CK_RULE_DROP);
    if (rule && rule->action == CK_RULE_COPY) {
        if (rule->model != model) return CK_OK;
        task.outcome = CK_COPIED;
    } else if (in_earlier_model(plan, model, t->name)) {
        return CK_OK;
    } else if (!wanted) {
        plan->counts[CK_DROPPED]++;
        return CK_OK;
    }
    CK_TRY(copy_task(plan, model, t, &task, err));
    add_task(plan, task, t, t->dtype);
    return CK_OK;
}

/* Weights that only mean something together with their scale tensors must not be mixed raw. */
static ck_status refuse_quantised(const ck_reader *reader, ck_error *err) {
    static const char *const endings[] = {"scaled_fp8",   ".scale_weight", ".weight_scale",
                                          ".comfy_quant", ".absmax",       ".SCB"};
    for (size_t i = 0; i < ck_reader_count(reader); i++) {
        const char *name = ck_reader_tensor(reader, i)->name;
        size_t n = strlen(name);
        for (size_t e = 0; e < sizeof endings / sizeof *endings; e++) {
            size_t len = strlen(endings[e]);
            if (n >= len && strcmp(name + n - len, endings[e]) == 0)
                return ck_fail(err, CK_INPUT,
                               "%s: holds quantised weights that need their scales (tensor '%s'); "
                               "mixing them as they are would give noise. Convert the model to f16 "
                               "first",
                               ck_reader_path(reader), name);
        }
    }
    return CK_OK;
}

static bool mixes_models(const ck_recipe *r) {
    return r->root->kind == CK_NODE_METHOD;
}

static ck_status fill_plan(ck_plan *plan, ck_error *err) {
    const ck_recipe *r = plan->recipe;
    size_t primary = ck_recipe_primary(r), total = 0;
    for (size_t m = 0; m < r->model_count; m++) {
        if (mixes_models(r)) CK_TRY(refuse_quantised(plan->readers[m], err));
        total += ck_reader_count(plan->readers[m]);
    }
    plan->tasks = ck_alloc_array(total, sizeof *plan->tasks);
    if (!plan->tasks) return ck_fail_memory(err, "plan");
    CK_TRY(ck_plan_blocks__make(plan, err));
    const ck_reader *a = plan->readers[primary];
    for (size_t i = 0; i < ck_reader_count(a); i++) CK_TRY(plan_tensor(plan, primary, i, err));
    for (size_t m = 0; m < r->model_count; m++) {
        bool model = m != primary && !is_lora(r, m);
        for (size_t i = 0; model && i < ck_reader_count(plan->readers[m]); i++) {
            const ck_tensor *t = ck_reader_tensor(plan->readers[m], i);
            if (!ck_reader_find(a, t->name)) CK_TRY(plan_extra(plan, m, i, err));
        }
    }
    if (plan->counts[CK_MIXED] == 0 && mixes_models(r))
        return ck_fail(
            err, CK_INPUT,
            "nothing was mixed: the models have no float tensor in common that a rule "
            "did not exclude. Compare their names with `cktool diff`; %s has %zu tensors, "
            "the first of them '%s'",
            ck_reader_path(a), ck_reader_count(a),
            ck_reader_count(a) ? ck_reader_tensor(a, 0)->name : "");
    return CK_OK;
}

ck_status ck_plan_make(const ck_recipe *recipe, ck_reader *const *readers, ck_plan **out,
                       ck_error *err) {
    ck_plan *plan = ck_alloc(sizeof *plan);
    if (!plan) return ck_fail_memory(err, "plan");
    plan->recipe = recipe;
    plan->readers = readers;
    plan->rule_fits = ck_arena_alloc(&plan->arena, recipe->rule_count * sizeof *plan->rule_fits);
    ck_status status = plan->rule_fits ? fill_plan(plan, err) : ck_fail_memory(err, "plan");
    if (status == CK_OK) status = ck_plan_layout(plan, "", NULL, 0, err);
    if (status != CK_OK) {
        ck_plan_free(plan);
        return status;
    }
    *out = plan;
    return CK_OK;
}

void ck_plan_free(ck_plan *plan) {
    if (!plan) return;
    ck_plan_blocks__free(plan->by_block);
    free(plan->tasks);
    free(plan->head);
    ck_arena_free(&plan->arena);
    free(plan);
}

static int by_offset(const void *a, const void *b) {
    const ck_task *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return x->out.nbytes < y->out.nbytes ? -1 : x->out.nbytes > y->out.nbytes;
}

ck_status ck_plan_layout(ck_plan *plan, const char *path, const ck_meta *meta, size_t meta_count,
                         ck_error *err) {
    size_t n = plan->task_count;
    const ck_tensor **order = ck_alloc_array(n, sizeof(ck_tensor *));
    uint64_t *offsets = ck_alloc_array(n, sizeof *offsets);
    ck_status status = order && offsets ? CK_OK : ck_fail_memory(err, "plan");
    if (status == CK_OK) {
        for (size_t i = 0; i < n; i++) order[i] = &plan->tasks[i].out;
        ck_safetensors_sort(order, n);
        free(plan->head);
        plan->head = NULL;
        status = ck_head_for(path)(order, n, meta, meta_count, &plan->head, &plan->head_size,
                                   offsets, &plan->file_size, err);
    }
    if (status == CK_OK) {
        for (size_t i = 0; i < n; i++) {
            /* order[i] is the `out` of some task: step back to the task itself. */
            ck_task *task = (ck_task *)((char *)order[i] - offsetof(ck_task, out));
            task->offset = offsets[i];
        }
        qsort(plan->tasks, n, sizeof *plan->tasks, by_offset);
    }
    free(order);
    free(offsets);
    return status;
}
