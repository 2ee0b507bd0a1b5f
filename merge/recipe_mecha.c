/* sd-mecha's .mecha texts as recipes; see foreign.h.
 *
 * A line is an instruction, and &N the result of the N-th: a model, a dict, a literal, or a merge
 * of earlier results. Version 0.1.0 (releases from 1.0) begins with a line that says so, wraps
 * numbers in literals and converts them to a model's keys; earlier releases have neither. Blank
 * lines and comments are no instructions.
 *
 * Methods are taken over where they compute what ours do. A difference (subtract) is no tensor set
 * of its own but waits for the method that adds it. Weights by block (dicts with IN00, M00, ...)
 * become rules, with the blocks that sd-mecha makes: BASE is everything that is not in the UNet's
 * blocks, and the last block has the output layers.
 */
#include "io/os.h"
#include "io/utf8.h"
#include "merge/foreign.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LINES = 4096, MAX_TOKENS = 128, MAX_NODES = 1024, MAX_SETTINGS = 32 };

typedef struct token {
    const char *key; /* of key=value; NULL */
    const char *text;
    bool quoted;
    unsigned column; /* from 1 */
} token;

/* A number for each block, or with count 0 one number for all. */
typedef struct numbers {
    double one;
    size_t count;
    const char **blocks;
    double *values;
} numbers;

/* The result of an instruction, or an argument. */
typedef struct item {
    enum { ABSENT, TEXT, NUMBERS, NODE, DIFFERENCE, LORA } kind;
    const char *text;
    numbers numbers;
    ck_node *node;
    ck_node *minus;    /* DIFFERENCE: node - minus */
    size_t model;      /* LORA */
    size_t size;       /* nodes below, each as often as it is used */
    const char *dtype; /* that it was cast to; NULL: none */
    unsigned column;
} item;

/* A parameter with numbers for blocks. */
typedef struct by_block {
    ck_node *node;
    size_t parameter;
    numbers numbers;
} by_block;

typedef struct reading {
    const char *name;
    const ck_foreign *where;
    ck_recipe *recipe;
    unsigned line;
    bool old; /* before version 0.1.0 */
    item *results;
    size_t count, capacity;
    by_block settings[MAX_SETTINGS];
    size_t setting_count;
} reading;

static ck_status fail(const reading *in, unsigned column, ck_error *err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static ck_status fail(const reading *in, unsigned column, ck_error *err, const char *format, ...) {
    char message[900];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    return ck_fail(err, CK_INPUT, "%s:%u:%u: %s", in->name, in->line, column, message);
}

/* ---- Tokens ---- */

/* One token from *p on; quotes may begin after "key=". */
static ck_status next_token(const reading *in, const char *line, const char **p, token *t,
                            ck_error *err) {
    const char *s = *p;
    char *out = ck_arena_alloc(&in->recipe->arena, strlen(s) + 1);
    if (!out) return ck_fail_memory(err, in->name);
    *t = (token){.text = out, .column = (unsigned)(s - line) + 1};
    bool inside = false;
    for (; *s && (inside || *s != ' '); s++) {
        if (*s == '"') {
            inside = !inside;
            t->quoted = true;
            if (!inside) {
                s++;
                break;
            }
        } else if (*s == '\\' && s[1] && !in->old) {
            *out++ = *++s;
        } else if (*s == '=' && !inside && !t->key) {
            *out++ = 0;
            t->key = t->text;
            t->text = out;
        } else {
            *out++ = *s;
        }
    }
    if (inside) return fail(in, t->column, err, "a quote that does not end");
    *p = s;
    return CK_OK;
}

static ck_status tokens_of(const reading *in, const char *line, token *tokens, size_t *count,
                           ck_error *err) {
    *count = 0;
    for (const char *p = line; *(p += strspn(p, " \t\r"));) {
        if (*count == MAX_TOKENS)
            return fail(in, (unsigned)(p - line) + 1, err, "more than %d words", MAX_TOKENS);
        CK_TRY(next_token(in, line, &p, &tokens[(*count)++], err));
    }
    return CK_OK;
}

static ck_status value_of(const reading *in, const token *t, item *value, ck_error *err) {
    *value = (item){.column = t->column};
    if (t->quoted) {
        value->kind = TEXT;
        value->text = t->text;
        return CK_OK;
    }
    if (strcmp(t->text, "null") == 0 || strcmp(t->text, "None") == 0) return CK_OK;
    char *end;
    if (t->text[0] == '&') {
        unsigned long index = strtoul(t->text + 1, &end, 10);
        if (t->text[1] < '0' || t->text[1] > '9' || *end || index >= in->count)
            return fail(in, t->column, err, "'%s' is not the result of an earlier line", t->text);
        *value = in->results[index];
        value->column = t->column;
        return CK_OK;
    }
    value->kind = NUMBERS;
    int word = ck_word_index("false|true|False|True", t->text);
    value->numbers.one = word >= 0 ? word % 2 : strtod(t->text, &end);
    if (word < 0 && (!*t->text || *end || !isfinite(value->numbers.one)))
        return fail(in, t->column, err, "'%s' is no number, text or result (&N)", t->text);
    return CK_OK;
}

/* ---- Nodes ---- */

static ck_status apply(reading *in, const char *method, ck_node *const *inputs, size_t count,
                       const item *at, ck_node **node, ck_error *err) {
    ck_error inner;
    if (ck_recipe_apply(in->recipe, ck_method_find(method), inputs, count, node, &inner) == CK_OK) {
        ck_foreign_compat(*node, "mecha");
        return CK_OK;
    }
    if (inner.status == CK_MEMORY) return *err = inner, CK_MEMORY;
    return fail(in, at->column, err, "%s", inner.message);
}

/* The expression of an argument. */
static ck_status node_of(reading *in, const item *value, ck_node **node, ck_error *err) {
    if (value->dtype && strstr(value->dtype, "float16"))
        return fail(in, value->column, err,
                    "a cast to %s within the merge; here all arithmetic is f32 and only the result "
                    "is rounded",
                    value->dtype);
    if (value->kind == NODE) {
        *node = value->node;
        return CK_OK;
    }
    if (value->kind != DIFFERENCE)
        return fail(in, value->column, err,
                    value->kind == LORA ? "a LoRA can only be added (add_difference)"
                                        : "must be a model or the result of a merge");
    double minus_one = -1;
    ck_node *inputs[3] = {value->node, value->minus, ck_recipe_constant_node(in->recipe, 0)};
    if (!inputs[2]) return ck_fail_memory(err, in->name);
    CK_TRY(apply(in, "add-difference", inputs, 3, value, node, err));
    return ck_recipe_set(in->recipe, *node, "alpha", &minus_one, 1, err);
}

/* Sets a parameter; ABSENT: to `fallback`. */
static ck_status set(reading *in, ck_node *node, const char *parameter, const item *value,
                     double fallback, ck_error *err) {
    double number = fallback;
    if (value->kind == NUMBERS) number = value->numbers.one;
    if (value->kind != NUMBERS && value->kind != ABSENT)
        return fail(in, value->column, err, "%s must be a number", parameter);
    if (value->kind == NUMBERS && value->numbers.count) {
        if (in->setting_count == MAX_SETTINGS)
            return fail(in, value->column, err, "more than %d parameters by block", MAX_SETTINGS);
        char id[32];
        snprintf(id, sizeof id, "merge%zu", in->count);
        node->id = ck_arena_strdup(&in->recipe->arena, id);
        if (!node->id) return ck_fail_memory(err, in->name);
        int p = ck_method_parameter(node->method, parameter);
        in->settings[in->setting_count++] =
            (by_block){.node = node, .parameter = (size_t)p, .numbers = value->numbers};
    }
    return ck_recipe_set(in->recipe, node, parameter, &number, 1, err);
}

/* ---- Methods. Arguments are in the order of the table's names; the models of one that takes any
 * number follow them. ---- */

typedef struct call {
    const struct mecha_method *method;
    item args[8];
    item models[MAX_TOKENS];
    size_t model_count;
} call;

typedef struct mecha_method {
    const char *name;
    const char *arguments; /* "a|b|alpha" */
    size_t needed;         /* of these */
    bool models;           /* any number of models in front */
    ck_status (*build)(reading *in, const call *c, item *out, ck_error *err);
    const char *ours;
    double fallback; /* of the last argument */
} mecha_method;

/* A method of ours over two or three models, with alpha. */
static ck_status build_plain(reading *in, const call *c, item *out, ck_error *err) {
    ck_node *inputs[3];
    size_t count = c->method->needed;
    for (size_t i = 0; i < count; i++) CK_TRY(node_of(in, &c->args[i], &inputs[i], err));
    CK_TRY(apply(in, c->method->ours, inputs, count, &c->args[0], &out->node, err));
    const char *parameter = out->node->method->parameters[0].name;
    return set(in, out->node, parameter, &c->args[count], c->method->fallback, err);
}

static ck_status build_many(reading *in, const call *c, item *out, ck_error *err) {
    ck_node *inputs[MAX_TOKENS];
    for (size_t i = 0; i < c->model_count; i++) CK_TRY(node_of(in, &c->models[i], &inputs[i], err));
    return apply(in, c->method->ours, inputs, c->model_count, &c->models[0], &out->node, err);
}

static ck_status build_clamp(reading *in, const call *c, item *out, ck_error *err) {
    if (c->args[0].kind != ABSENT && c->args[0].numbers.one != 0)
        return fail(in, c->args[0].column, err, "clamp: only stiffness 0 is done here");
    return build_many(in, c, out, err);
}

static ck_status build_subtract(reading *in, const call *c, item *out, ck_error *err) {
    out->kind = DIFFERENCE;
    CK_TRY(node_of(in, &c->args[0], &out->node, err));
    return node_of(in, &c->args[1], &out->minus, err);
}

static ck_status build_add(reading *in, const call *c, item *out, ck_error *err) {
    const item *b = &c->args[1];
    ck_node *inputs[3];
    CK_TRY(node_of(in, &c->args[0], &inputs[0], err));
    if (b->kind == LORA) {
        if (!(inputs[1] = ck_recipe_model_node(in->recipe, b->model)))
            return ck_fail_memory(err, in->name);
        CK_TRY(apply(in, "lora", inputs, 2, b, &out->node, err));
        return set(in, out->node, "strength", &c->args[2], 1, err);
    }
    if (b->kind == DIFFERENCE && !b->dtype) {
        inputs[1] = b->node;
        inputs[2] = b->minus;
    } else {
        CK_TRY(node_of(in, b, &inputs[1], err));
        if (!(inputs[2] = ck_recipe_constant_node(in->recipe, 0)))
            return ck_fail_memory(err, in->name);
    }
    CK_TRY(apply(in, "add-difference", inputs, 3, b, &out->node, err));
    return set(in, out->node, "alpha", &c->args[2], 1, err);
}

/* What is missing in a is the default's: here it always is the first model's. */
static ck_status build_fallback(reading *in, const call *c, item *out, ck_error *err) {
    ck_node *first, *other;
    CK_TRY(node_of(in, &c->args[0], &first, err));
    CK_TRY(node_of(in, &c->args[1], &other, err));
    *out = c->args[0];
    while (first->kind == CK_NODE_METHOD) first = first->inputs[0];
    if (first->kind == CK_NODE_MODEL && other->kind == CK_NODE_MODEL &&
        first->model == other->model)
        return CK_OK;
    return fail(in, c->args[1].column, err,
                "fallback: only the first model of a merge can stand in for what is missing");
}

static ck_status build_cast(reading *in, const call *c, item *out, ck_error *err) {
    *out = c->args[0];
    const item *dtype = &c->args[2];
    if (dtype->kind == ABSENT) return CK_OK;
    if (dtype->kind != TEXT || ck_word_index("float16|bfloat16|float32|float64", dtype->text) < 0)
        return fail(in, dtype->column, err,
                    "cast: must be to float16, bfloat16, float32 or float64");
    if (c->args[0].kind != NUMBERS) out->dtype = dtype->text;
    return CK_OK;
}

static const mecha_method methods[] = {
    {"weighted_sum", "a|b|alpha", 2, false, build_plain, "weighted-sum", 0.5},
    {"slerp", "a|b|alpha", 2, false, build_plain, "slerp", 0.5},
    {"add_cosine_a", "a|b|alpha", 2, false, build_plain, "cosine-a", 1},
    {"add_cosine_b", "a|b|alpha", 2, false, build_plain, "cosine-b", 1},
    {"scale", "a|alpha", 1, false, build_plain, "scale", 1},
    {"train_difference", "a|b|c|alpha", 3, false, build_plain, "train-difference", 1},
    {"add_difference", "a|b|alpha", 2, false, build_add, NULL, 1},
    {"subtract", "a|b", 2, false, build_subtract, NULL, 0},
    {"n_average", "", 0, true, build_many, "n-average", 0},
    {"geometric_median", "", 0, true, build_many, "geometric-median", 0},
    {"clamp", "stiffness", 0, true, build_clamp, "clamp", 0},
    {"fallback", "a|default", 2, false, build_fallback, NULL, 0},
    {"cast", "a|device|dtype", 1, false, build_cast, NULL, 0},
};

/* ---- Instructions ---- */

/* Puts positional and named arguments where the method wants them. */
static ck_status arrange(const reading *in, const token *tokens, size_t count, call *c,
                         ck_error *err) {
    size_t place = 0;
    for (size_t i = 0; i < count; i++) {
        const token *t = &tokens[i];
        if (!t->key && c->method->models) {
            CK_TRY(value_of(in, t, &c->models[c->model_count++], err));
            continue;
        }
        int at = t->key ? ck_word_index(c->method->arguments, t->key) : (int)place++;
        size_t known = *c->method->arguments != 0;
        for (const char *p = c->method->arguments; *p; p++) known += *p == '|';
        if (at < 0 || (size_t)at >= known)
            return fail(in, t->column, err, "%s has no argument '%s' here", c->method->name,
                        t->key ? t->key : t->text);
        if (c->args[at].column) return fail(in, t->column, err, "this argument is there twice");
        CK_TRY(value_of(in, t, &c->args[at], err));
    }
    for (size_t i = 0; i < c->method->needed; i++)
        if (c->args[i].kind == ABSENT)
            return fail(in, tokens[0].column, err, "%s needs %zu arguments", c->method->name,
                        c->method->needed);
    return CK_OK;
}

/* Conversions between key names: of numbers to a model's keys, of a model to another layout, which
 * are brought together here anyway. */
static ck_status convert(const reading *in, const token *tokens, size_t count, item *out,
                         ck_error *err) {
    if (count != 1 || tokens[0].key)
        return fail(in, tokens[-1].column, err, "%s needs one argument", tokens[-1].text);
    return value_of(in, &tokens[0], out, err);
}

static ck_status merge(reading *in, const token *tokens, size_t count, item *out, ck_error *err) {
    if (count < 1 || !tokens[0].quoted || tokens[0].key)
        return fail(in, count ? tokens[0].column : 1, err, "merge needs the name of a method");
    const char *name = tokens[0].text;
    if (strncmp(name, "convert_", 8) == 0) return convert(in, tokens + 1, count - 1, out, err);
    call c = {0};
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (strcmp(methods[i].name, name) == 0) c.method = &methods[i];
    if (!c.method)
        return fail(in, tokens[0].column, err, "sd-mecha's method '%s' is not known here", name);
    if (count == 1) return fail(in, tokens[0].column, err, "%s needs models", name);
    CK_TRY(arrange(in, tokens + 1, count - 1, &c, err));
    size_t size = 2; /* with a constant */
    for (size_t i = 0; i < c.model_count; i++) size += c.models[i].size;
    for (size_t i = 0; i < sizeof c.args / sizeof *c.args; i++) size += c.args[i].size;
    if (size > MAX_NODES)
        return fail(in, tokens[0].column, err, "an expression of more than %d nodes", MAX_NODES);
    *out = (item){.kind = NODE};
    CK_TRY(c.method->build(in, &c, out, err));
    out->size = size;
    return CK_OK;
}

static ck_status model(reading *in, const token *tokens, size_t count, item *out, ck_error *err) {
    if (count < 1 || !tokens[0].quoted || tokens[0].key || !*tokens[0].text)
        return fail(in, count ? tokens[0].column : 1, err, "model needs a path");
    bool lora = false;
    for (size_t i = 1; i < count; i++) {
        if (tokens[i].key &&
            ck_word_index("model_config|merge_space|model_arch|model_type", tokens[i].key) < 0)
            return fail(in, tokens[i].column, err, "model has no argument '%s' here",
                        tokens[i].key);
        const char *value = tokens[i].text;
        size_t n = strlen(value);
        lora |= n >= 4 && strcmp(value + n - 4, "lora") == 0;
    }
    const char *path = tokens[0].text, *slash = strrchr(path, '/');
    if (in->old && !strchr(slash ? slash : path, '.')) {
        char *longer = ck_arena_alloc(&in->recipe->arena, strlen(path) + sizeof ".safetensors");
        if (!longer) return ck_fail_memory(err, in->name);
        path = strcat(strcpy(longer, path), ".safetensors");
    }
    size_t index;
    CK_TRY(ck_foreign_model(in->recipe, in->where, path, &index, err));
    *out = (item){.kind = lora ? LORA : NODE, .model = index, .size = 1};
    if (!lora && !(out->node = ck_recipe_model_node(in->recipe, index)))
        return ck_fail_memory(err, in->name);
    return CK_OK;
}

static ck_status dict(const reading *in, const token *tokens, size_t count, item *out,
                      ck_error *err) {
    ck_arena *arena = &in->recipe->arena;
    *out = (item){.kind = NUMBERS};
    out->numbers.blocks = ck_arena_alloc(arena, count * sizeof *out->numbers.blocks);
    out->numbers.values = ck_arena_alloc(arena, count * sizeof *out->numbers.values);
    if (!out->numbers.blocks || !out->numbers.values) return ck_fail_memory(err, in->name);
    if (count == 0) return fail(in, 1, err, "dict needs key=value");
    for (size_t i = 0; i < count; i++) {
        item value;
        if (!tokens[i].key) return fail(in, tokens[i].column, err, "dict needs key=value");
        CK_TRY(value_of(in, &tokens[i], &value, err));
        if (value.kind != NUMBERS || value.numbers.count)
            return fail(in, tokens[i].column, err, "'%s' must be a number", tokens[i].key);
        out->numbers.blocks[i] = tokens[i].key;
        out->numbers.values[i] = value.numbers.one;
        if (strcmp(tokens[i].key, "BASE") == 0) out->numbers.one = value.numbers.one;
    }
    out->numbers.count = count;
    /* sd-mecha's way to write one number for all tensors. */
    if (count == 1 && strcmp(tokens[0].key, "key") == 0) {
        out->numbers.one = out->numbers.values[0];
        out->numbers.count = 0;
    }
    return CK_OK;
}

static ck_status literal(const reading *in, const token *tokens, size_t count, item *out,
                         ck_error *err) {
    if (count < 1 || tokens[0].key) return fail(in, 1, err, "literal needs a value");
    for (size_t i = 1; i < count; i++)
        if (!tokens[i].key || ck_word_index("model_config|merge_space", tokens[i].key) < 0)
            return fail(in, tokens[i].column, err, "literal has no argument '%s' here",
                        tokens[i].key ? tokens[i].key : tokens[i].text);
    CK_TRY(value_of(in, &tokens[0], out, err));
    if (out->kind == NUMBERS || out->kind == TEXT || out->kind == ABSENT) return CK_OK;
    return fail(in, tokens[0].column, err, "literal needs a number or a dict");
}

static ck_status instruction(reading *in, const char *line, ck_error *err) {
    token tokens[MAX_TOKENS];
    size_t count;
    CK_TRY(tokens_of(in, line, tokens, &count, err));
    const char *verb = tokens[0].text;
    if (tokens[0].key || tokens[0].quoted) verb = "";
    item *results = ck_grow(in->results, in->count, &in->capacity, sizeof *results);
    if (!results) return ck_fail_memory(err, in->name);
    in->results = results;
    item out = {0};
    if (strcmp(verb, "merge") == 0)
        CK_TRY(merge(in, tokens + 1, count - 1, &out, err));
    else if (strcmp(verb, "model") == 0)
        CK_TRY(model(in, tokens + 1, count - 1, &out, err));
    else if (strcmp(verb, "dict") == 0)
        CK_TRY(dict(in, tokens + 1, count - 1, &out, err));
    else if (strcmp(verb, "literal") == 0 && !in->old)
        CK_TRY(literal(in, tokens + 1, count - 1, &out, err));
    else if (strcmp(verb, "parameter") == 0 && in->old)
        return fail(in, tokens[0].column, err, "a recipe with parameters has no models yet");
    else
        return fail(in, tokens[0].column, err, "'%s' is no instruction of sd-mecha's",
                    tokens[0].text);
    in->results[in->count++] = out;
    return CK_OK;
}

/* ---- Blocks ---- */

/* The tensors of a block, as a glob; false for a name that is none. last: OUT11 or OUT08. */
static bool block_pattern(const char *block, char *pattern, size_t size) {
    char *end;
    const char *number = block;
    const char *part = NULL;
    if (strcmp(block, "M00") == 0 || strcmp(block, "VAE") == 0) {
        snprintf(pattern, size, "%s",
                 *block == 'M' ? "model.diffusion_model.middle_block.*" : "first_stage_model.*");
        return true;
    }
    if (strncmp(block, "IN", 2) == 0) part = "input", number += 2;
    if (strncmp(block, "OUT", 3) == 0) part = "output", number += 3;
    if (!part || strlen(number) != 2 || strspn(number, "0123456789") != 2) return false;
    snprintf(pattern, size, "model.diffusion_model.%s_blocks.%lu.*", part,
             strtoul(number, &end, 10));
    return true;
}

/* What a parameter has in a block; false: the block is not among its numbers. */
static bool number_in(const numbers *n, const char *block, double *value) {
    for (size_t i = 0; i < n->count; i++)
        if (strcmp(n->blocks[i], block) == 0) {
            *value = n->values[i];
            return true;
        }
    return false;
}

static ck_status add_block(reading *in, const char *block, const char *pattern, ck_error *err) {
    ck_setting settings[MAX_SETTINGS];
    for (size_t i = 0; i < in->setting_count; i++) {
        const by_block *b = &in->settings[i];
        double value;
        if (!number_in(&b->numbers, block, &value))
            return ck_fail(err, CK_INPUT,
                           "%s: there is no number for block '%s' in one of the dicts", in->name,
                           block);
        settings[i] = (ck_setting){.node = b->node, .parameter = b->parameter};
        CK_TRY(
            ck_recipe_value(in->recipe, b->node, b->parameter, &value, 1, &settings[i].value, err));
    }
    return ck_recipe_add_rule(
        in->recipe,
        &(ck_rule){.pattern = pattern, .settings = settings, .setting_count = in->setting_count},
        err);
}

/* How often a node is used below another. */
static size_t uses_of(const ck_node *node, const ck_node *below) {
    if (below == node) return 1;
    size_t uses = 0;
    for (size_t i = 0; below->kind == CK_NODE_METHOD && i < below->input_count; i++)
        uses += uses_of(node, below->inputs[i]);
    return uses;
}

/* All parameters by block become one rule a block. */
static ck_status add_blocks(reading *in, ck_error *err) {
    if (!in->setting_count) return CK_OK;
    const numbers *n = &in->settings[0].numbers;
    const char *last = NULL;
    double value;
    for (size_t i = 0; i < n->count; i++) {
        const char *block = n->blocks[i];
        char pattern[96];
        if (strcmp(block, "BASE") == 0) continue;
        if (!block_pattern(block, pattern, sizeof pattern))
            return ck_fail(err, CK_INPUT, "%s: '%s' is no block (BASE, IN00, ..., M00, ..., VAE)",
                           in->name, block);
        CK_TRY(add_block(in, block, pattern, err));
        if (strncmp(block, "OUT", 3) == 0 && (!last || strcmp(block, last) > 0)) last = block;
    }
    for (size_t i = 0; i < in->setting_count; i++)
        if (uses_of(in->settings[i].node, in->recipe->root) != 1)
            return ck_fail(err, CK_INPUT,
                           "%s: a merge with numbers by block must be used once, and no more",
                           in->name);
    for (size_t i = 0; i < in->setting_count; i++)
        if (in->settings[i].numbers.count != n->count ||
            !number_in(&in->settings[i].numbers, "BASE", &value))
            return ck_fail(err, CK_INPUT,
                           "%s: all dicts must have numbers for the same blocks, BASE among them",
                           in->name);
    return last ? add_block(in, last, "model.diffusion_model.out.*", err) : CK_OK;
}

/* ---- The whole ---- */

static ck_status finish(reading *in, ck_error *err) {
    if (!in->count) return ck_fail(err, CK_INPUT, "%s: has no instruction", in->name);
    item root = in->results[in->count - 1];
    if (root.dtype && strcmp(root.dtype, "float64") == 0)
        return ck_fail(err, CK_INPUT, "%s: results of type float64 are not written", in->name);
    if (root.dtype)
        in->recipe->dtype = strcmp(root.dtype, "float16") == 0    ? CK_F16
                            : strcmp(root.dtype, "bfloat16") == 0 ? CK_BF16
                                                                  : CK_F32;
    root.dtype = NULL;
    CK_TRY(node_of(in, &root, &in->recipe->root, err));
    return add_blocks(in, err);
}

static ck_status read_line(reading *in, char *line, ck_error *err) {
    size_t n = strlen(line), skip = strspn(line, " \t\r");
    while (n > skip && strchr(" \t\r", line[n - 1])) line[--n] = 0;
    if (!line[skip] || line[skip] == '#') return CK_OK;
    if (strncmp(line + skip, "version ", 8) == 0) {
        if (in->count || !in->old) return fail(in, 1, err, "the version must come first");
        in->old = false;
        if (strcmp(line + skip + 8, "0.1.0") == 0) return CK_OK;
        return fail(in, 9, err, "version %s of the format is not known here, only 0.1.0",
                    line + skip + 8);
    }
    if (in->count == MAX_LINES) return fail(in, 1, err, "more than %d instructions", MAX_LINES);
    return instruction(in, line, err);
}

static ck_status read_lines(reading *in, char *text, ck_error *err) {
    in->old = true;
    for (char *line = text; line; in->line++) {
        char *end = strchr(line, '\n');
        if (end) *end = 0;
        CK_TRY(read_line(in, line, err));
        line = end ? end + 1 : NULL;
    }
    return finish(in, err);
}

ck_status ck_foreign_mecha(const char *name, const char *text, size_t n, const ck_foreign *where,
                           ck_recipe *r, ck_error *err) {
    ck_recipe_init(r);
    size_t good = ck_utf8_check((const unsigned char *)text, n);
    if (good < n) return ck_fail(err, CK_INPUT, "%s: byte %zu: not UTF-8", name, good);
    if (memchr(text, 0, n)) return ck_fail(err, CK_INPUT, "%s: a zero byte", name);
    if (n > 1 << 20) return ck_fail(err, CK_INPUT, "%s: larger than 1 MiB", name);
    char *copy = ck_strndup(text, n);
    if (!copy) return ck_fail_memory(err, name);
    reading in = {.name = name, .where = where, .recipe = r, .line = 1};
    ck_status status = read_lines(&in, copy, err);
    free(in.results);
    free(copy);
    if (status != CK_OK) ck_recipe_free(r);
    return status;
}
