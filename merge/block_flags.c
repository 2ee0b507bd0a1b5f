/* Flags about blocks, see block_flags.h. */
#include "merge/block_flags.h"
#include "merge/presets.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void ck_block_flags_free(ck_block_flags *f) {
    free(f->weights.items);
    free(f->components.items);
    free(f->elemental.items);
    *f = (ck_block_flags){0};
}

static bool is_model(const ck_recipe *r, const char *name, size_t *model) {
    for (*model = 0; *model < r->model_count; ++*model)
        if (strcmp(r->models[*model].name, name) == 0) return true;
    return false;
}

/* "beta=GRAD_V", "weight:b=GRAD_V": the names of the parameter and of the model to buf and *model
 * ("" without), and what follows; the first parameter without. */
static const char *parameter_of(const ck_node *node, const char *text, char buf[64],
                                const char **model) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz_-",
                      names[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    size_t n = strspn(text, letters);
    if (n > 0 && text[n] == ':') n += 1 + strspn(text + n + 1, names);
    *model = "";
    if (n == 0 || n >= 64 || text[n] != '=') {
        snprintf(buf, 64, "%s", node->method->parameters[0].name);
        return text;
    }
    snprintf(buf, 64, "%.*s", (int)n, text);
    char *colon = strchr(buf, ':');
    if (colon) *colon = 0, *model = colon + 1;
    return text + n + 1;
}

/* Which number of a list is that of a model, which must be one of the node's inputs. */
static ck_status find_item(const ck_recipe *r, const ck_node *node, const char *name,
                           const char *model, size_t *item, ck_error *err) {
    size_t wanted;
    if (!*model)
        return ck_fail(err, CK_USAGE,
                       "%s of %s has a number for each model: %s:%s=... is that of %s", name,
                       node->method->name, name, r->models[r->model_count - 1].name,
                       r->models[r->model_count - 1].name);
    for (size_t i = node->method->has_base; i < node->input_count; i++)
        if (is_model(r, model, &wanted) && node->inputs[i]->kind == CK_NODE_MODEL &&
            node->inputs[i]->model == wanted) {
            *item = i - node->method->has_base;
            return CK_OK;
        }
    return ck_fail(err, CK_USAGE, "%s:%s: %s has no input '%s' with a number of its own", name,
                   model, node->method->name, model);
}

static ck_status apply_weights(ck_recipe *r, const char *text, bool alpha_given, ck_error *err) {
    ck_node *node = r->root;
    if (node->kind != CK_NODE_METHOD || !node->method->parameters[0].name)
        return ck_fail(err, CK_USAGE, "there is no parameter here for block weights");
    char name[64];
    const char *model, *spec = parameter_of(node, text, name, &model);
    int p = ck_method_parameter(node->method, name);
    size_t item = 0;
    if (p >= 0 && node->method->parameters[p].list)
        CK_TRY(find_item(r, node, name, model, &item, err));
    else if (*model)
        return ck_fail(err, CK_USAGE, "%s has one number for all models: %s=...", name, name);
    ck_weights *w;
    CK_TRY(ck_weights_parse(spec, &r->arena, &w, err));
    if (alpha_given && strcmp(name, "alpha") == 0 && p >= 0) {
        w->has_base = true;
        w->base = node->values[p].items[0];
    }
    return ck_recipe_set_weights(r, node, name, item, w, err);
}

/* "OUT03 OUT04:attn2:0.5" */
static ck_status apply_element(ck_recipe *r, const char *text, size_t n, ck_error *err) {
    char *line = ck_arena_strndup(&r->arena, text, n);
    if (!line) return ck_fail_memory(err, text);
    char *elements = strchr(line, ':'), *ratio = elements ? strchr(elements + 1, ':') : NULL;
    if (!ratio)
        return ck_fail(err, CK_USAGE, "--elemental '%s': must be BLOCKS:ELEMENTS:NUMBER", line);
    const char *whole = ck_arena_strdup(&r->arena, line);
    if (!whole) return ck_fail_memory(err, text);
    *elements++ = 0;
    *ratio++ = 0;
    ratio += strspn(ratio, " \t\r");
    ratio[strcspn(ratio, " \t\r")] = 0;
    char *end;
    double number = strtod(ratio, &end);
    if (end == ratio || *end || !isfinite(number))
        return ck_fail(err, CK_USAGE, "--elemental '%s': '%s' is no number", whole, ratio);
    return ck_recipe_add_action(r, (ck_rule){.blocks = line, .elements = elements}, ratio,
                                "--elemental", whole, err);
}

/* The pieces between commas and line breaks, last first: of recipes' rules the first counts. */
static ck_status apply_elemental(ck_recipe *r, const char *text, ck_error *err) {
    size_t end = strlen(text);
    for (;;) {
        size_t start = end;
        while (start > 0 && !strchr(",\n", text[start - 1])) start--;
        size_t blank = strspn(text + start, " \t\r");
        if (start + blank < end)
            CK_TRY(apply_element(r, text + start + blank, end - start - blank, err));
        if (start == 0) return CK_OK;
        end = start - 1;
    }
}

/* "vae=b", "unet=0.3" */
static ck_status apply_component(ck_recipe *r, const char *text, ck_error *err) {
    const char *equals = strchr(text, '=');
    if (!equals || equals == text || !equals[1])
        return ck_fail(
            err, CK_USAGE,
            "--component '%s': must be NAME=NUMBER, NAME=MODEL, NAME=exclude or NAME=drop", text);
    ck_rule rule = {.blocks = ck_arena_strndup(&r->arena, text, (size_t)(equals - text))};
    if (!rule.blocks) return ck_fail_memory(err, text);
    if (!is_model(r, equals + 1, &rule.model))
        return ck_recipe_add_action(r, rule, equals + 1, "--component", text, err);
    rule.action = rule.model == ck_recipe_primary(r) ? CK_RULE_EXCLUDE : CK_RULE_COPY;
    return ck_recipe_add_rule(r, &rule, err);
}

ck_status ck_block_flags_apply(const ck_block_flags *f, ck_recipe *r, bool alpha_given,
                               ck_error *err) {
    for (size_t i = 0; i < f->weights.count; i++)
        if (apply_weights(r, f->weights.items[i], alpha_given, err) != CK_OK)
            return ck_context(err, "--block-weights");
    for (size_t i = f->elemental.count; i-- > 0;)
        CK_TRY(apply_elemental(r, f->elemental.items[i], err));
    for (size_t i = 0; i < f->components.count; i++)
        CK_TRY(apply_component(r, f->components.items[i], err));
    return CK_OK;
}

enum { ADJUSTMENTS = 8 };

ck_status ck_block_flags_adjust(const ck_block_flags *f, ck_recipe *r, ck_error *err) {
    if (!f->adjust) return CK_OK;
    const ck_method *method = ck_method_find("adjust");
    ck_node *inner = r->root;
    CK_TRY(ck_recipe_apply(r, method, &inner, 1, &r->root, err));
    if (inner->kind == CK_NODE_METHOD && !inner->id) inner->id = "merge"; /* rules may name it */
    const char *p = f->adjust;
    for (size_t i = 0; i < ADJUSTMENTS; i++) {
        char *end;
        double number = strtod(p, &end);
        if (end == p || !isfinite(number) || *end != (i + 1 < ADJUSTMENTS ? ',' : 0))
            return ck_fail(err, CK_USAGE,
                           "--adjust %s: must be eight numbers: three of detail, contrast, "
                           "brightness, three of colour",
                           f->adjust);
        CK_TRY(ck_recipe_set(r, r->root, method->parameters[i].name, &number, 1, err));
        p = end + 1;
    }
    return CK_OK;
}

/* ---- LoRAs ---- */

const char *ck_block_flags_lora(const char *text, ck_arena *arena, const char **file) {
    static const char mark[] = ":lbw=";
    const char *at = NULL;
    for (const char *p = text; (p = strstr(p, mark)); p++) at = p;
    *file = at ? ck_arena_strndup(arena, text, (size_t)(at - text)) : text;
    return at ? at + sizeof mark - 1 : NULL;
}

ck_status ck_block_flags_strength(ck_recipe *r, ck_node *node, const char *weights, ck_error *err) {
    ck_weights *w;
    CK_TRY(ck_weights_parse(weights, &r->arena, &w, err));
    if (!ck_weights_scale(w, node->values[0].items[0], &r->arena))
        return ck_fail_memory(err, weights);
    return ck_recipe_set_weights(r, node, node->method->parameters[0].name, 0, w, err);
}

/* ---- Presets ---- */

enum { INPUTS = 12, DEPTH = 2 * INPUTS + 1 };

/* The blocks of SD1, to draw presets. */
static ck_blocks sd1_blocks(void) {
    ck_blocks b = {.count = DEPTH + 1, .depth = DEPTH, .path = "SD1"};
    for (unsigned i = 0; i < DEPTH; i++) {
        b.blocks[i].part = CK_PART_UNET;
        if (i == INPUTS) {
            snprintf(b.blocks[i].name, sizeof b.blocks[i].name, "M00");
        } else {
            bool in = i < INPUTS;
            snprintf(b.blocks[i].name, sizeof b.blocks[i].name, "%s%02u", in ? "IN" : "OUT",
                     in ? i : (i - INPUTS - 1) % INPUTS);
        }
    }
    b.blocks[DEPTH].part = CK_PART_OTHER;
    return b;
}

static void put_bars(const double *values, FILE *out) {
    static const char *const bars[] = {"·", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    for (size_t i = 0; i < DEPTH; i++) {
        double v = values[i] < 0 ? 0 : values[i] > 1 ? 1 : values[i];
        fputs(bars[v > 0 ? (size_t)ceil(v * 8) : 0], out);
        if (i == INPUTS - 1 || i == INPUTS) fputc(' ', out);
    }
}

ck_status ck_block_flags_presets(FILE *out, ck_error *err) {
    ck_arena arena = {0};
    ck_preset *presets;
    size_t count = 0;
    const ck_blocks b = sd1_blocks();
    ck_status status = ck_presets_list(&arena, &presets, &count, err);
    for (size_t i = 0; i < count && status == CK_OK; i++) {
        double values[CK_MAX_BLOCKS];
        status = ck_weights_bind(presets[i].weights, 0, true, &b, values, err);
        if (status != CK_OK) break;
        fprintf(out, "%-20s ", presets[i].name);
        put_bars(values, out);
        fprintf(out, "  %s\n", presets[i].description);
    }
    ck_arena_free(&arena);
    return status;
}
