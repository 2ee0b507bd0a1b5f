/* Building a recipe piece by piece; the JSON form is in recipe_json.c. */
#include "merge/recipe.h"
#include "io/os.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ck_recipe_init(ck_recipe *r) {
    *r = (ck_recipe){.dtype = CK_DTYPE_COUNT};
}

void ck_recipe_free(ck_recipe *r) {
    free(r->models);
    free(r->rules);
    ck_arena_free(&r->arena);
    ck_recipe_init(r);
}

ck_status ck_recipe_add_model(ck_recipe *r, const char *name, const char *path, const char *sha256,
                              ck_error *err) {
    if (r->model_count == CK_MAX_MODELS)
        return ck_fail(err, CK_USAGE, "more than %d models", CK_MAX_MODELS);
    ck_model *models = ck_grow(r->models, r->model_count, &r->model_capacity, sizeof *r->models);
    if (!models) return ck_fail_memory(err, path);
    r->models = models;
    ck_model m = {.name = ck_arena_strdup(&r->arena, name),
                  .path = ck_arena_strdup(&r->arena, path)};
    if (sha256) m.sha256 = ck_arena_strdup(&r->arena, sha256);
    if (!m.name || !m.path || (sha256 && !m.sha256)) return ck_fail_memory(err, path);
    models[r->model_count++] = m;
    return CK_OK;
}

ck_node *ck_recipe_model_node(ck_recipe *r, size_t model) {
    ck_node *node = ck_arena_alloc(&r->arena, sizeof *node);
    if (node) *node = (ck_node){.kind = CK_NODE_MODEL, .model = model};
    return node;
}

ck_node *ck_recipe_constant_node(ck_recipe *r, double value) {
    ck_node *node = ck_arena_alloc(&r->arena, sizeof *node);
    if (node) *node = (ck_node){.kind = CK_NODE_CONSTANT, .constant = value};
    return node;
}

ck_status ck_recipe_apply(ck_recipe *r, const ck_method *method, ck_node *const *inputs,
                          size_t count, ck_node **out, ck_error *err) {
    if (count < method->min_inputs || (method->max_inputs && count > method->max_inputs) ||
        count > CK_MAX_MODELS) {
        char range[64] = "";
        if (count > CK_MAX_MODELS)
            snprintf(range, sizeof range, "at most %d", CK_MAX_MODELS);
        else if (method->max_inputs == method->min_inputs)
            snprintf(range, sizeof range, "%zu", method->min_inputs);
        else if (method->max_inputs)
            snprintf(range, sizeof range, "%zu to %zu", method->min_inputs, method->max_inputs);
        else
            snprintf(range, sizeof range, "at least %zu", method->min_inputs);
        return ck_fail(err, CK_USAGE, "method %s takes %s models, %zu given", method->name, range,
                       count);
    }
    size_t parameters = 0;
    while (method->parameters[parameters].name) parameters++;
    ck_node *node = ck_arena_alloc(&r->arena, sizeof *node);
    ck_node **copy = ck_arena_alloc(&r->arena, count * sizeof(ck_node *));
    ck_value *values = ck_arena_alloc(&r->arena, parameters * sizeof *values);
    if (!node || !copy || !values) return ck_fail_memory(err, method->name);
    memcpy(copy, inputs, count * sizeof(ck_node *));
    *node = (ck_node){.kind = CK_NODE_METHOD,
                      .method = method,
                      .inputs = copy,
                      .input_count = count,
                      .values = values};
    for (size_t p = 0; p < parameters; p++) {
        size_t items = method->parameters[p].list ? ck_method_list_length(method, count) : 1;
        double *numbers = ck_arena_alloc(&r->arena, items * sizeof *numbers);
        if (!numbers) return ck_fail_memory(err, method->name);
        for (size_t i = 0; i < items; i++) numbers[i] = method->parameters[p].fallback;
        values[p] = (ck_value){.items = numbers, .count = items};
    }
    *out = node;
    return CK_OK;
}

ck_status ck_recipe_value(ck_recipe *r, const ck_node *node, size_t parameter, const double *items,
                          size_t count, ck_value *value, ck_error *err) {
    const ck_parameter *p = &node->method->parameters[parameter];
    size_t wanted = p->list ? ck_method_list_length(node->method, node->input_count) : 1;
    if (count != wanted)
        return ck_fail(err, CK_USAGE, "%s of %s takes %zu number%s (%s), %zu given", p->name,
                       node->method->name, wanted, wanted == 1 ? "" : "s", p->help, count);
    if (p->on_off && items[0] != 0 && items[0] != 1)
        return ck_fail(err, CK_USAGE, "%s of %s must be on or off", p->name, node->method->name);
    double *copy = ck_arena_alloc(&r->arena, count * sizeof *copy);
    if (!copy) return ck_fail_memory(err, p->name);
    memcpy(copy, items, count * sizeof *copy);
    *value = (ck_value){.items = copy, .count = count};
    return CK_OK;
}

ck_status ck_recipe_set(ck_recipe *r, ck_node *node, const char *name, const double *items,
                        size_t count, ck_error *err) {
    int p = ck_method_parameter(node->method, name);
    if (p < 0) {
        char known[256] = "";
        for (size_t i = 0, used = 0; node->method->parameters[i].name && used < sizeof known; i++)
            used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "",
                                     node->method->parameters[i].name);
        return ck_fail(err, CK_USAGE, "method %s has no parameter '%s'; it has: %s",
                       node->method->name, name, *known ? known : "none");
    }
    return ck_recipe_value(r, node, (size_t)p, items, count, &node->values[p], err);
}

ck_status ck_recipe_set_compat(ck_node *node, const char *tool, ck_error *err) {
    const char *known = node->method->compat;
    int index = known ? ck_word_index(known, tool) : -1;
    if (index < 0)
        return ck_fail(
            err, CK_USAGE,
            "method %s has no form of its own for '%s'%s%s; `ckmerge help %s` says where "
            "tools differ",
            node->method->name, tool, known ? ", only for " : "", known ? known : "",
            node->method->name);
    node->compat = index + 1;
    return CK_OK;
}

ck_status ck_recipe_set_weights(ck_recipe *r, ck_node *node, const char *name, size_t item,
                                const ck_weights *weights, ck_error *err) {
    int p = ck_method_parameter(node->method, name);
    if (p >= 0 && node->method->parameters[p].on_off)
        return ck_fail(err, CK_USAGE, "%s is on or off, for all blocks", name);
    if (p < 0 || item >= node->values[p].count)
        return ck_fail(err, CK_USAGE, "method %s has no parameter '%s' for block weights",
                       node->method->name, name);
    const ck_value before = node->values[p];
    const ck_weights **all = ck_arena_alloc(&r->arena, before.count * sizeof *all);
    double *items = ck_arena_alloc(&r->arena, before.count * sizeof *items);
    if (!all || !items) return ck_fail_memory(err, name);
    for (size_t i = 0; i < before.count; i++) {
        items[i] = before.items[i];
        all[i] = before.by_block ? before.by_block[i] : NULL;
    }
    if (weights->has_base) items[item] = weights->base;
    all[item] = weights;
    node->values[p] = (ck_value){.items = items, .count = before.count, .by_block = all};
    return CK_OK;
}

static ck_node *node_by_id(ck_node *node, const char *id, size_t length) {
    if (node->kind != CK_NODE_METHOD) return NULL;
    if (node->id && strlen(node->id) == length && memcmp(node->id, id, length) == 0) return node;
    for (size_t i = 0; i < node->input_count; i++) {
        ck_node *found = node_by_id(node->inputs[i], id, length);
        if (found) return found;
    }
    return NULL;
}

ck_node *ck_recipe_node(const ck_recipe *r, const char *id, size_t length) {
    return node_by_id(r->root, id, length);
}

static bool node_by_block(const ck_node *node) {
    if (node->kind != CK_NODE_METHOD) return false;
    if (node->method->for_tensor) return true;
    for (size_t p = 0; node->method->parameters[p].name; p++)
        if (node->values[p].by_block) return true;
    for (size_t i = 0; i < node->input_count; i++)
        if (node_by_block(node->inputs[i])) return true;
    return false;
}

bool ck_recipe_by_block(const ck_recipe *r) {
    bool found = node_by_block(r->root);
    for (size_t i = 0; i < r->rule_count; i++) {
        found |= r->rules[i].blocks || r->rules[i].elements;
        for (size_t s = 0; s < r->rules[i].setting_count; s++)
            found |= r->rules[i].settings[s].value.by_block != NULL;
    }
    return found;
}

/* A copy in the arena, NULL of NULL. */
static bool copy_text(ck_recipe *r, const char **text) {
    if (!*text) return true;
    *text = ck_arena_strdup(&r->arena, *text);
    return *text;
}

ck_status ck_recipe_add_rule(ck_recipe *r, const ck_rule *rule, ck_error *err) {
    ck_rule *rules = ck_grow(r->rules, r->rule_count, &r->rule_capacity, sizeof *r->rules);
    if (!rules) return ck_fail_memory(err, "rule");
    r->rules = rules;
    ck_rule copy = *rule;
    copy.settings = ck_arena_alloc(&r->arena, rule->setting_count * sizeof *rule->settings);
    if (!copy_text(r, &copy.pattern) || !copy_text(r, &copy.blocks) ||
        !copy_text(r, &copy.elements) || !copy.settings)
        return ck_fail_memory(err, "rule");
    if (rule->setting_count)
        memcpy(copy.settings, rule->settings, rule->setting_count * sizeof *rule->settings);
    rules[r->rule_count++] = copy;
    return CK_OK;
}

void ck_recipe_rules_first(ck_recipe *r, size_t first) {
    for (size_t i = first, to = 0; i < r->rule_count; i++, to++) {
        ck_rule one = r->rules[i];
        memmove(r->rules + to + 1, r->rules + to, (i - to) * sizeof *r->rules);
        r->rules[to] = one;
    }
}

static ck_status find_model(const ck_recipe *r, const char *name, size_t *model, ck_error *err) {
    for (size_t i = 0; i < r->model_count; i++)
        if (strcmp(r->models[i].name, name) == 0) {
            *model = i;
            return CK_OK;
        }
    return ck_fail(err, CK_USAGE, "there is no model '%s'; the models are called %s to %s", name,
                   r->models[0].name, r->models[r->model_count - 1].name);
}

ck_status ck_recipe_parse_rule(ck_recipe *r, const char *text, ck_error *err) {
    const char *equals = strrchr(text, '=');
    if (!equals || equals == text || !equals[1])
        return ck_fail(err, CK_USAGE,
                       "--rule '%s': must be PATTERN=NUMBER, PATTERN=exclude, PATTERN=drop or "
                       "PATTERN=copy:MODEL",
                       text);
    char *pattern = ck_arena_strndup(&r->arena, text, (size_t)(equals - text));
    if (!pattern) return ck_fail_memory(err, text);
    return ck_recipe_add_action(r, (ck_rule){.pattern = pattern}, equals + 1, "--rule", text, err);
}

ck_status ck_recipe_add_action(ck_recipe *r, ck_rule rule, const char *action, const char *option,
                               const char *text, ck_error *err) {
    ck_setting setting = {.node = r->root};
    if (strcmp(action, "exclude") == 0) {
        rule.action = CK_RULE_EXCLUDE;
    } else if (strcmp(action, "drop") == 0) {
        rule.action = CK_RULE_DROP;
    } else if (strncmp(action, "copy:", 5) == 0) {
        rule.action = CK_RULE_COPY;
        if (find_model(r, action + 5, &rule.model, err) != CK_OK)
            return ck_context(err, "%s '%s'", option, text);
    } else {
        char *end;
        double number = strtod(action, &end);
        if (end == action || *end || number - number != 0)
            return ck_fail(err, CK_USAGE,
                           "%s '%s': '%s' is not a number, exclude, drop or copy:MODEL", option,
                           text, action);
        if (r->root->kind != CK_NODE_METHOD || !r->root->method->parameters[0].name)
            return ck_fail(err, CK_USAGE, "%s '%s': nothing here takes a number", option, text);
        if (ck_recipe_value(r, r->root, 0, &number, 1, &setting.value, err) != CK_OK)
            return ck_context(err, "%s '%s'", option, text);
        rule.settings = &setting;
        rule.setting_count = 1;
    }
    return ck_recipe_add_rule(r, &rule, err);
}

const char *ck_rule_text(const ck_rule *rule, char *buf, size_t size) {
    const char *const parts[] = {rule->blocks, rule->elements, rule->pattern};
    size_t used = 0;
    *buf = 0;
    for (size_t i = 0; i < 3 && used < size; i++)
        if (parts[i])
            used += (size_t)snprintf(buf + used, size - used, "%s%s", used ? ":" : "", parts[i]);
    return buf;
}

int ck_word_index(const char *words, const char *word) {
    size_t n = strlen(word);
    int index = 0;
    for (const char *w = words; *w; index++) {
        size_t len = strcspn(w, "|");
        if (len == n && strncmp(w, word, n) == 0) return index;
        w += len + (w[len] == '|');
    }
    return -1;
}

ck_dtype ck_recipe_dtype(const char *word) {
    static const ck_dtype dtypes[] = {CK_DTYPE_COUNT, CK_F32,     CK_F16,
                                      CK_BF16,        CK_F8_E4M3, CK_F8_E5M2};
    return dtypes[ck_word_index(CK_DTYPE_WORDS, word)];
}

/* Follows first inputs down to a leaf. */
static const ck_node *primary_below(const ck_node *node) {
    while (node->kind == CK_NODE_METHOD) node = node->inputs[0];
    return node;
}

size_t ck_recipe_primary(const ck_recipe *r) {
    return primary_below(r->root)->model;
}

/* Looks for nodes that use a model as a LoRA (*base: what for) or as a model (*plain). False when
 * it is the LoRA of two models. */
static bool find_uses(const ck_node *node, size_t model, size_t *base, bool *plain) {
    if (node->kind == CK_NODE_MODEL) *plain |= node->model == model;
    if (node->kind != CK_NODE_METHOD) return true;
    bool one = true;
    for (size_t i = 0; i < node->input_count; i++) {
        const ck_node *input = node->inputs[i];
        if (!node->method->adds_changes || i != 1) {
            one &= find_uses(input, model, base, plain);
        } else if (input->kind == CK_NODE_MODEL && input->model == model) {
            const ck_node *first = primary_below(node->inputs[0]);
            one &= *base == SIZE_MAX || *base == first->model;
            *base = first->model;
        }
    }
    return one;
}

size_t ck_recipe_lora_base(const ck_recipe *r, size_t model) {
    size_t base = SIZE_MAX;
    bool plain = false;
    find_uses(r->root, model, &base, &plain);
    return base;
}

static ck_status check_model(const ck_recipe *r, size_t model, ck_error *err) {
    size_t base = SIZE_MAX;
    bool plain = false;
    if (!find_uses(r->root, model, &base, &plain))
        return ck_fail(err, CK_USAGE,
                       "LoRA '%s' is applied to two models; list it twice, under two names",
                       r->models[model].name);
    for (size_t i = 0; i < r->rule_count; i++)
        plain |= r->rules[i].action == CK_RULE_COPY && r->rules[i].model == model;
    if (base != SIZE_MAX && plain)
        return ck_fail(err, CK_USAGE,
                       "'%s' is a LoRA in one place and a model in another; a LoRA can only be the "
                       "second input of lora",
                       r->models[model].name);
    return CK_OK;
}

/* Whether a model can be brought into the primary one's order: LoRAs were made for the order that
 * their model is in. */
static ck_status check_rebasin(const ck_recipe *r, size_t model, ck_error *err) {
    const char *name = r->models[model].name;
    if (!r->models[model].rebasin) return CK_OK;
    if (model == ck_recipe_primary(r))
        return ck_fail(err, CK_USAGE, "'%s' is the first model, whose order re-basin keeps", name);
    if (ck_recipe_lora_base(r, model) != SIZE_MAX)
        return ck_fail(err, CK_USAGE, "'%s' is a LoRA; re-basin is for models", name);
    for (size_t i = 0; i < r->model_count; i++)
        if (ck_recipe_lora_base(r, i) == model)
            return ck_fail(
                err, CK_USAGE,
                "LoRA '%s' does not fit '%s' after re-basin; apply it before, in a merge "
                "of its own",
                r->models[i].name, name);
    return CK_OK;
}

ck_status ck_recipe_check_values(const ck_node *node, const ck_value *values, ck_error *err) {
    const ck_arguments args = {
        .values = values, .inputs = node->input_count, .compat = node->compat};
    return node->method->check ? node->method->check(&args, err) : CK_OK;
}

static ck_status check_node(const ck_node *node, ck_error *err) {
    if (node->kind != CK_NODE_METHOD) return CK_OK;
    for (size_t i = 0; i < node->input_count; i++) CK_TRY(check_node(node->inputs[i], err));
    if (node->method->adds_changes && (node->inputs[1]->kind != CK_NODE_MODEL ||
                                       primary_below(node->inputs[0])->kind != CK_NODE_MODEL))
        return ck_fail(err, CK_USAGE, "%s takes a model and the name of a LoRA",
                       node->method->name);
    return ck_recipe_check_values(node, node->values, err);
}

/* A rule's settings may be wrong only together with the values they leave alone. */
static ck_status check_rule(const ck_rule *rule, ck_error *err) {
    for (size_t i = 0; i < rule->setting_count; i++) {
        const ck_node *node = rule->settings[i].node;
        ck_value values[CK_MAX_PARAMETERS];
        char text[256];
        ck_rule_values(rule, node, values);
        if (ck_recipe_check_values(node, values, err) != CK_OK)
            return ck_context(err, "rule '%s'", ck_rule_text(rule, text, sizeof text));
    }
    return CK_OK;
}

ck_status ck_recipe_check(const ck_recipe *r, ck_error *err) {
    if (primary_below(r->root)->kind != CK_NODE_MODEL)
        return ck_fail(err, CK_USAGE,
                       "the first input must lead to a model, not to a constant: the result takes "
                       "its tensors from there");
    CK_TRY(check_node(r->root, err));
    for (size_t i = 0; i < r->model_count; i++) CK_TRY(check_model(r, i, err));
    for (size_t i = 0; i < r->model_count; i++) CK_TRY(check_rebasin(r, i, err));
    for (size_t i = 0; i < r->rule_count; i++) CK_TRY(check_rule(&r->rules[i], err));
    return CK_OK;
}

void ck_rule_values(const ck_rule *rule, const ck_node *node, ck_value values[CK_MAX_PARAMETERS]) {
    for (size_t p = 0; node->method->parameters[p].name; p++) values[p] = node->values[p];
    for (size_t i = 0; rule && i < rule->setting_count; i++)
        if (rule->settings[i].node == node)
            values[rule->settings[i].parameter] = rule->settings[i].value;
}
