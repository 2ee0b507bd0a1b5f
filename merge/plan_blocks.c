/* Block weights and rules by block, see plan_blocks.h. */
#include "merge/plan_blocks.h"
#include "io/os.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

/* Block weights of the recipe, for the primary model. */
typedef struct bound {
    const ck_weights *weights;
    double of_block[CK_MAX_BLOCKS];
} bound;

struct ck_plan_blocks {
    ck_blocks *models[CK_MAX_MODELS]; /* of each model that is no LoRA */
    bound *bounds;
    size_t bound_count, bound_capacity;
    /* For each model and rule that names blocks, which; rule r of model m is at
     * (m * rule_count + r) * CK_MAX_BLOCKS. */
    bool *chosen;
};

/* ---- Weights ---- */

static ck_status bind_value(ck_plan *plan, const ck_node *node, size_t parameter,
                            const ck_value *value, ck_error *err) {
    struct ck_plan_blocks *b = plan->by_block;
    for (size_t i = 0; value->by_block && i < value->count; i++) {
        if (!value->by_block[i]) continue;
        bound *grown = ck_grow(b->bounds, b->bound_count, &b->bound_capacity, sizeof *grown);
        if (!grown) return ck_fail_memory(err, "plan");
        b->bounds = grown;
        bound *new = &grown[b->bound_count++];
        new->weights = value->by_block[i];
        if (ck_weights_bind(new->weights, value->items[i], node->method->adds_changes,
                            b->models[ck_recipe_primary(plan->recipe)], new->of_block,
                            err) != CK_OK)
            return ck_context(err, "%s", node->method->parameters[parameter].name);
    }
    return CK_OK;
}

static ck_status bind_node(ck_plan *plan, const ck_node *node, ck_error *err) {
    if (node->kind != CK_NODE_METHOD) return CK_OK;
    const ck_blocks *a = plan->by_block->models[ck_recipe_primary(plan->recipe)];
    if (node->method->for_tensor && (!a->depth || a->blocks[0].part != CK_PART_UNET))
        return ck_fail(err, CK_USAGE, "%s: method %s is for the UNet of SD1, SD2 and SDXL", a->path,
                       node->method->name);
    for (size_t p = 0; node->method->parameters[p].name; p++)
        CK_TRY(bind_value(plan, node, p, &node->values[p], err));
    for (size_t i = 0; i < node->input_count; i++) CK_TRY(bind_node(plan, node->inputs[i], err));
    return CK_OK;
}

static double value_of(const ck_plan *plan, const ck_weights *weights, size_t block) {
    const struct ck_plan_blocks *b = plan->by_block;
    size_t i = 0;
    while (b->bounds[i].weights != weights) i++;
    return b->bounds[i].of_block[block];
}

void ck_plan_values(const ck_plan *plan, const ck_task *task, const ck_node *node,
                    ck_node_values *out) {
    ck_rule_values(task->rule, node, out->values);
    for (size_t p = 0; node->method->parameters[p].name; p++) {
        ck_value *v = &out->values[p];
        for (size_t i = 0; i < v->count; i++)
            out->items[p][i] = v->by_block && v->by_block[i]
                                   ? value_of(plan, v->by_block[i], task->block)
                                   : v->items[i];
        *v = (ck_value){.items = out->items[p], .count = v->count};
    }
}

bool ck_plan_blocks__for_tensor(const ck_plan *plan, const ck_method *method,
                                const ck_value *values, size_t tensor,
                                double items[CK_TENSOR_VALUES]) {
    const ck_blocks *a = plan->by_block->models[ck_recipe_primary(plan->recipe)];
    return a->block_of[tensor] < a->depth &&
           method->for_tensor(
               values, a->original[tensor],
               a->architecture == CK_ARCH_SDXL || a->architecture == CK_ARCH_SDXL_REFINER, items);
}

/* ---- Rules ---- */

static ck_status choose_blocks(ck_plan *plan, ck_error *err) {
    struct ck_plan_blocks *b = plan->by_block;
    const ck_recipe *r = plan->recipe;
    size_t primary = ck_recipe_primary(r);
    b->chosen = ck_alloc_array(r->model_count * r->rule_count, CK_MAX_BLOCKS);
    if (!b->chosen) return ck_fail_memory(err, "plan");
    for (size_t m = 0; m < r->model_count; m++)
        for (size_t i = 0; i < r->rule_count; i++) {
            bool *chosen = b->chosen + (m * r->rule_count + i) * CK_MAX_BLOCKS;
            ck_error other; /* what is no block of another model fits none of its tensors */
            if (!r->rules[i].blocks || !b->models[m]) continue;
            if (ck_blocks_select(b->models[m], r->rules[i].blocks, chosen,
                                 m == primary ? err : &other) == CK_OK)
                continue;
            if (m == primary) return ck_context(err, "rule '%s'", r->rules[i].blocks);
            memset(chosen, 0, CK_MAX_BLOCKS);
        }
    return CK_OK;
}

/* "attn1 attn2" or "NOT attn": whether (no) word is in the name. */
static bool elements_fit(const char *elements, const char *name) {
    static const char spaces[] = " \t\n";
    bool inverted = false, any = false, found = false;
    for (const char *word = elements + strspn(elements, spaces); *word;) {
        size_t n = strcspn(word, spaces);
        if (!any && !inverted && n == 3 && strncmp(word, "NOT", n) == 0) {
            inverted = true;
        } else {
            any = true;
            found |= memmem(name, strlen(name), word, n) != NULL;
        }
        word += n + strspn(word + n, spaces);
    }
    return !any || found != inverted;
}

const ck_rule *ck_plan_blocks__rule(const ck_plan *plan, size_t model, size_t tensor) {
    const ck_recipe *r = plan->recipe;
    const struct ck_plan_blocks *b = plan->by_block;
    const char *name = ck_reader_tensor(plan->readers[model], tensor)->name;
    const ck_rule *first = NULL;
    for (size_t i = 0; i < r->rule_count; i++) {
        const ck_rule *rule = &r->rules[i];
        if (first && plan->rule_fits[i]) continue;
        if (rule->pattern && fnmatch(rule->pattern, name, 0) != 0) continue;
        if (rule->blocks && !b->chosen[(model * r->rule_count + i) * CK_MAX_BLOCKS +
                                       b->models[model]->block_of[tensor]])
            continue;
        if (rule->elements && !elements_fit(rule->elements, b->models[model]->original[tensor]))
            continue;
        plan->rule_fits[i] = true;
        if (!first) first = rule;
    }
    return first;
}

/* ---- All ---- */

size_t ck_plan_blocks__of(const ck_plan *plan, size_t tensor) {
    return plan->by_block
               ? plan->by_block->models[ck_recipe_primary(plan->recipe)]->block_of[tensor]
               : 0;
}

ck_status ck_plan_blocks__make(ck_plan *plan, ck_error *err) {
    const ck_recipe *r = plan->recipe;
    if (!ck_recipe_by_block(r)) return CK_OK;
    struct ck_plan_blocks *b = plan->by_block = ck_alloc(sizeof *b);
    if (!b) return ck_fail_memory(err, "plan");
    for (size_t m = 0; m < r->model_count; m++) {
        if (ck_recipe_lora_base(r, m) != SIZE_MAX) continue;
        if (!(b->models[m] = ck_alloc(sizeof *b->models[m]))) return ck_fail_memory(err, "plan");
        CK_TRY(ck_blocks_of(plan->readers[m], b->models[m], err));
    }
    CK_TRY(bind_node(plan, r->root, err));
    for (size_t i = 0; i < r->rule_count; i++)
        for (size_t s = 0; s < r->rules[i].setting_count; s++) {
            const ck_setting *setting = &r->rules[i].settings[s];
            CK_TRY(bind_value(plan, setting->node, setting->parameter, &setting->value, err));
        }
    return choose_blocks(plan, err);
}

void ck_plan_blocks__free(struct ck_plan_blocks *b) {
    if (!b) return;
    for (size_t m = 0; m < CK_MAX_MODELS; m++) {
        if (b->models[m]) ck_blocks_free(b->models[m]);
        free(b->models[m]);
    }
    free(b->bounds);
    free(b->chosen);
    free(b);
}
