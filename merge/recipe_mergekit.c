/* mergekit's YAML configurations as recipes; see foreign.h.
 *
 * A parameter is looked for in the model's own parameters, then the slice's, then the global ones.
 * It is a number, a gradient (a list of numbers along the layers), or a list of these with filters
 * (texts that a tensor's name contains; the first that fits counts). Where it depends on the
 * tensor, it is worked out for every tensor of the first model: what most have become the method's
 * parameters, the others rules, one for a layer where its tensors agree.
 *
 * Gradients run along every row of layers (layers.h); layer_range means the longest of them.
 * Tensors that are in no layer are at the beginning of a gradient, as mergekit has it.
 */
#include "io/os.h"
#include "io/reader.h"
#include "io/yaml.h"
#include "merge/foreign.h"
#include "merge/layers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SLICES = 256 };

/* What a method wants of base_model. */
typedef enum base_use {
    NO_BASE, /* it is one of the models, if anything */
    BASE,    /* the first input, which the others were made from */
    PAIR,    /* the first of two inputs */
} base_use;

typedef struct kit_method {
    const char *name, *ours;
    base_use base;
    const char *theirs, *renamed; /* a parameter that has another name here */
    const char *otherwise;        /* what it is here where base_model is missing, or is given
                                   * though not wanted; NULL: an error */
} kit_method;

static const kit_method kit_methods[] = {
    {"linear", "linear", NO_BASE, NULL, NULL, NULL},
    {"slerp", "slerp", PAIR, "t", "alpha", NULL},
    {"nuslerp", "nuslerp", BASE, NULL, NULL, "slerp"},
    {"multislerp", "multi-slerp", NO_BASE, NULL, NULL, "multi-slerp-of-changes"},
    {"karcher", "karcher", NO_BASE, NULL, NULL, NULL},
    {"task_arithmetic", "task-arithmetic", BASE, NULL, NULL, NULL},
    {"ties", "ties", BASE, NULL, NULL, NULL},
    {"dare_ties", "dare-ties", BASE, NULL, NULL, NULL},
    {"dare_linear", "dare-linear", BASE, NULL, NULL, NULL},
    {"breadcrumbs", "breadcrumbs", BASE, NULL, NULL, NULL},
    {"breadcrumbs_ties", "breadcrumbs-ties", BASE, NULL, NULL, NULL},
    {"della", "della", BASE, NULL, NULL, NULL},
    {"della_linear", "della-linear", BASE, NULL, NULL, NULL},
    {"model_stock", "model-stock", BASE, NULL, NULL, NULL},
    {"sce", "sce", BASE, "select_topk", "select", NULL},
    {"arcee_fusion", "arcee-fusion", PAIR, NULL, NULL, NULL},
    {"nearswap", "near-swap", PAIR, NULL, NULL, NULL},
    {"ram", "ram", BASE, "epsilon", "least", NULL},
    {"passthrough", "scale", NO_BASE, NULL, NULL, NULL},
};

/* Parameters of mergekit's that are no parameters here: the value that does what is done here, NAN
 * where none changes the result. */
static const struct {
    const char *methods, *name;
    double value;
} fixed[] = {
    {NULL, "int8_mask", NAN},
    {"ties|task_arithmetic|breadcrumbs|breadcrumbs_ties", "rescale", 0},
    {"dare_ties|dare_linear|della|della_linear", "rescale", 1},
    {"multislerp", "normalize_weights", 1},
    {"nuslerp", "nuslerp_flatten", 1},
    {"nuslerp", "nuslerp_row_wise", 0},
    {"model_stock", "filter_wise", 0},
    {"karcher", "max_iter", 10},
    {"karcher", "tol", 1e-5},
};

/* What mergekit takes where nothing is given and we have another fallback. */
static const struct {
    const char *name;
    double value;
} defaults[] = {{"density", 1}, {"weight", 1}, {"lambda", 1}, {"gamma", 0.01}, {"epsilon", 0.15}};

typedef struct slice {
    size_t begin, end; /* layers; end SIZE_MAX: all */
    const ck_yaml_node *parameters;
    const ck_yaml_node *own[CK_MAX_INPUTS]; /* of every input */
    size_t model;                           /* passthrough: from which the slice is */
} slice;

typedef struct reading {
    const ck_yaml *doc;
    const ck_foreign *where;
    ck_recipe *recipe;
    const kit_method *kit;
    const ck_method *method;
    const ck_yaml_node *parameters;   /* global */
    const char *texts[CK_MAX_INPUTS]; /* the inputs, as the file calls them */
    ck_node *inputs[CK_MAX_INPUTS];
    size_t input_count;
    bool base_is_input; /* the first */
    slice *slices;
    size_t slice_count;
    bool passthrough;      /* takes slices as they are, from one model or several */
    bool alpha_of_weights; /* nuslerp without a base: slerp, at the share of the second weight */
    bool by_tensor;        /* some parameter is no plain number, or there are slices */
    const char *const *names;
    size_t name_count;
    ck_layer *layers;
    size_t main_row, main_length; /* the row that layer_range is about */
} reading;

/* ---- Parameters ---- */

/* Our parameter of their name, or -1. */
static int our_parameter(const reading *in, const char *theirs) {
    if (in->kit->theirs && strcmp(theirs, in->kit->theirs) == 0)
        return ck_method_parameter(in->method, in->kit->renamed);
    if (in->alpha_of_weights) return strcmp(theirs, "weight") == 0 ? 0 : -1;
    if (in->kit->renamed && strcmp(theirs, in->kit->renamed) == 0) return -1;
    return ck_method_parameter(in->method, theirs);
}

/* Their name of our parameter. */
static void their_name(const reading *in, size_t parameter, char *name, size_t size) {
    const char *ours = in->method->parameters[parameter].name;
    if (in->kit->theirs && strcmp(ours, in->kit->renamed) == 0) ours = in->kit->theirs;
    if (in->alpha_of_weights) ours = "weight";
    size_t i = 0;
    for (; ours[i] && i + 1 < size; i++) name[i] = ours[i] == '-' ? '_' : ours[i];
    name[i] = 0;
}

static ck_status check_number(reading *in, const ck_yaml_node *node, ck_error *err) {
    double number;
    if (node->kind == CK_YAML_LIST) in->by_tensor |= node->count > 1;
    if (node->kind == CK_YAML_LIST && node->count) {
        for (size_t i = 0; i < node->count; i++)
            if (!ck_yaml_number(node->items[i], &number))
                return ck_yaml_fail(in->doc, node->items[i], err, "must be a number");
        return CK_OK;
    }
    if (ck_yaml_number(node, &number)) return CK_OK;
    return ck_yaml_fail(in->doc, node, err, "must be a number or a list of numbers");
}

static ck_status check_filter(reading *in, const ck_yaml_node *node, ck_error *err) {
    CK_TRY(ck_yaml_only(in->doc, node, "filter value", err));
    const ck_yaml_node *filter = ck_yaml_get(node, "filter"), *value = ck_yaml_get(node, "value");
    const char *text;
    if (filter && !ck_yaml_null(filter)) CK_TRY(ck_yaml_text(in->doc, filter, &text, err));
    if (!value) return ck_yaml_fail(in->doc, node, err, "\"value\" is missing");
    in->by_tensor = true;
    return check_number(in, value, err);
}

static ck_status check_setting(reading *in, const ck_yaml_node *node, ck_error *err) {
    if (node->kind == CK_YAML_MAP) return check_filter(in, node, err);
    if (node->kind != CK_YAML_LIST || node->count == 0 || node->items[0]->kind != CK_YAML_MAP)
        return check_number(in, node, err);
    for (size_t i = 0; i < node->count; i++) CK_TRY(check_filter(in, node->items[i], err));
    return CK_OK;
}

/* A parameter that is none here: fine where it is without effect or says what is done anyway. */
static ck_status check_unknown(const reading *in, const char *name, const ck_yaml_node *node,
                               ck_error *err) {
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) {
        double value;
        if (strcmp(fixed[i].name, name) != 0 ||
            (fixed[i].methods && ck_word_index(fixed[i].methods, in->kit->name) < 0))
            continue;
        if (ck_yaml_number(node, &value) && (isnan(fixed[i].value) || value == fixed[i].value))
            return CK_OK;
        return ck_yaml_fail(in->doc, node, err, "%s of %s: only %g is done here", name,
                            in->kit->name, fixed[i].value);
    }
    return ck_yaml_fail(in->doc, node, err, "%s has no parameter '%s' here; see `ckmerge help %s`",
                        in->kit->name, name, in->method->name);
}

/* A "parameters" field; own: of one model. */
static ck_status check_parameters(reading *in, const ck_yaml_node *node, bool own, ck_error *err) {
    if (!node || ck_yaml_null(node)) return CK_OK;
    if (node->kind != CK_YAML_MAP)
        return ck_yaml_fail(in->doc, node, err, "must be a map of parameters");
    for (size_t i = 0; i < node->count; i++) {
        int p = our_parameter(in, node->keys[i]);
        if (p < 0) {
            CK_TRY(check_unknown(in, node->keys[i], node->items[i], err));
            continue;
        }
        if (own && !in->method->parameters[p].list && in->input_count > 1 && !in->alpha_of_weights)
            return ck_yaml_fail(in->doc, node->items[i], err,
                                "%s is a parameter of the whole merge, not of one model",
                                node->keys[i]);
        CK_TRY(check_setting(in, node->items[i], err));
    }
    return CK_OK;
}

/* The number that a setting has for a tensor at t along its layers; false: none of its filters
 * fits. Settings were checked. */
static bool evaluate(const ck_yaml_node *node, const char *tensor, double t, double *value) {
    if (node->kind == CK_YAML_MAP) {
        const ck_yaml_node *filter = ck_yaml_get(node, "filter");
        if (filter && !ck_yaml_null(filter) && strcmp(filter->text, "*") != 0 &&
            !(tensor && strstr(tensor, filter->text)))
            return false;
        return evaluate(ck_yaml_get(node, "value"), tensor, t, value);
    }
    if (node->kind == CK_YAML_SCALAR) return ck_yaml_number(node, value);
    if (node->items[0]->kind == CK_YAML_MAP) {
        for (size_t i = 0; i < node->count; i++)
            if (evaluate(node->items[i], tensor, t, value)) return true;
        return false;
    }
    double place = t * (double)(node->count - 1), a, b;
    size_t first = (size_t)place, second = first + 1 < node->count ? first + 1 : node->count - 1;
    ck_yaml_number(node->items[first], &a);
    ck_yaml_number(node->items[second], &b);
    double part = place - (double)first;
    *value = (1 - part) * a + part * b;
    return true;
}

/* The parameter for one input (SIZE_MAX: of the whole merge). */
static double resolve(const reading *in, const slice *s, size_t input, size_t parameter,
                      const char *tensor, double t) {
    const ck_yaml_node *from[3] = {input != SIZE_MAX ? s->own[input] : NULL, s->parameters,
                                   in->parameters};
    char name[64];
    double value;
    their_name(in, parameter, name, sizeof name);
    for (int i = 0; i < 3; i++) {
        const ck_yaml_node *setting = ck_yaml_get(from[i], name);
        if (setting && evaluate(setting, tensor, t, &value)) return value;
    }
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++)
        if (strcmp(defaults[i].name, name) == 0) return defaults[i].value;
    return in->method->parameters[parameter].fallback;
}

/* How many numbers the parameter has. */
static size_t numbers_of(const reading *in, size_t parameter) {
    return in->method->parameters[parameter].list
               ? ck_method_list_length(in->method, in->input_count)
               : 1;
}

static size_t numbers_of_all(const reading *in) {
    size_t n = 0;
    for (size_t p = 0; in->method->parameters[p].name; p++) n += numbers_of(in, p);
    return n;
}

/* All parameters' numbers for one tensor, one after another. */
static void resolve_all(const reading *in, const slice *s, const char *tensor, double t,
                        double *numbers) {
    if (in->alpha_of_weights) {
        double a = resolve(in, s, 0, 0, tensor, t), b = resolve(in, s, 1, 0, tensor, t);
        *numbers = fabs(a + b) < 1e-6 ? 0.5 : b / (a + b);
        return;
    }
    for (size_t p = 0; in->method->parameters[p].name; p++) {
        bool list = in->method->parameters[p].list;
        size_t n = numbers_of(in, p), base = in->input_count - n;
        for (size_t i = 0; i < n; i++)
            *numbers++ = resolve(in, s,
                                 list                   ? base + i
                                 : in->input_count == 1 ? 0
                                                        : SIZE_MAX,
                                 p, tensor, t);
    }
}

/* ---- Models ---- */

/* "path" or "path+lora" as an input. */
static ck_status add_input(reading *in, const ck_yaml_node *node, ck_error *err) {
    const char *text;
    CK_TRY(ck_yaml_text(in->doc, node, &text, err));
    if (in->input_count == CK_MAX_INPUTS)
        return ck_yaml_fail(in->doc, node, err, "more than %d models", CK_MAX_INPUTS);
    ck_recipe *r = in->recipe;
    size_t model, lora;
    const char *plus = strchr(text, '+');
    char *base = ck_arena_strndup(&r->arena, text, plus ? (size_t)(plus - text) : strlen(text));
    if (!base) return ck_fail_memory(err, in->doc->name);
    if (strchr(text, '@'))
        return ck_yaml_fail(in->doc, node, err,
                            "'%s': revisions are of a hub that nothing is fetched from here; give "
                            "the path of a file or folder",
                            text);
    CK_TRY(ck_foreign_model(r, in->where, base, &model, err));
    ck_node *input = ck_recipe_model_node(r, model);
    if (!input) return ck_fail_memory(err, in->doc->name);
    if (plus) {
        CK_TRY(ck_foreign_model(r, in->where, plus + 1, &lora, err));
        ck_node *both[2] = {input, ck_recipe_model_node(r, lora)};
        if (!both[1]) return ck_fail_memory(err, in->doc->name);
        CK_TRY(ck_recipe_apply(r, ck_method_find("lora"), both, 2, &input, err));
    }
    in->inputs[in->input_count] = input;
    in->texts[in->input_count++] = text;
    return CK_OK;
}

/* The number of the input that the file calls so; SIZE_MAX: none. */
static size_t find_input(const reading *in, const char *text) {
    for (size_t i = 0; i < in->input_count; i++)
        if (strcmp(in->texts[i], text) == 0) return i;
    return SIZE_MAX;
}

/* The "model" of an entry of models or sources. */
static ck_status model_of(const reading *in, const ck_yaml_node *entry, const ck_yaml_node **model,
                          const char **text, ck_error *err) {
    *model = ck_yaml_get(entry, "model");
    if (!*model) return ck_yaml_fail(in->doc, entry, err, "\"model\" is missing");
    return ck_yaml_text(in->doc, *model, text, err);
}

/* The entries of models, or of the sources of a slice: inputs that are not yet there are added for
 * the first slice, and refused in later ones. */
static ck_status read_sources(reading *in, const ck_yaml_node *list, slice *s, bool first,
                              const char *fields, ck_error *err) {
    if (list->kind != CK_YAML_LIST || list->count == 0)
        return ck_yaml_fail(in->doc, list, err, "must be a list of models");
    bool through = in->passthrough;
    if (through && list->count > 1)
        return ck_yaml_fail(in->doc, list->items[1], err, "passthrough takes one model");
    for (size_t i = 0; i < list->count; i++) {
        const ck_yaml_node *entry = list->items[i], *model;
        const char *text;
        CK_TRY(ck_yaml_only(in->doc, entry, fields, err));
        CK_TRY(model_of(in, entry, &model, &text, err));
        size_t input = find_input(in, text);
        bool twice = false;
        for (size_t k = 0; k < i; k++)
            twice |= strcmp(ck_yaml_get(list->items[k], "model")->text, text) == 0;
        if (twice) return ck_yaml_fail(in->doc, model, err, "'%s' is there twice", text);
        if (input == SIZE_MAX) {
            if (!first && !through)
                return ck_yaml_fail(in->doc, model, err,
                                    "'%s' is not in the first slice; all slices must have the same "
                                    "models",
                                    text);
            CK_TRY(add_input(in, model, err));
            input = in->input_count - 1;
        }
        s->model = input;
        s->own[through ? 0 : input] = ck_yaml_get(entry, "parameters");
    }
    if (!first && !through && list->count + in->base_is_input < in->input_count)
        return ck_yaml_fail(in->doc, list, err, "all slices must have the same models");
    return CK_OK;
}

static ck_status read_range(const reading *in, const ck_yaml_node *entry, slice *s, bool first,
                            ck_error *err) {
    const ck_yaml_node *range = ck_yaml_get(entry, "layer_range");
    double begin, end;
    if (!range || range->kind != CK_YAML_LIST || range->count != 2 ||
        !ck_yaml_number(range->items[0], &begin) || !ck_yaml_number(range->items[1], &end) ||
        begin < 0 || end <= begin || end > 10000 || begin != floor(begin) || end != floor(end))
        return ck_yaml_fail(
            in->doc, range ? range : entry, err,
            "\"layer_range\" must be two whole numbers, the first layer and the one "
            "behind the last");
    if (!first && ((size_t)begin != s->begin || (size_t)end != s->end))
        return ck_yaml_fail(in->doc, range, err,
                            "the models of a slice have different layers; layers can only be mixed "
                            "with the layer at the same place");
    s->begin = (size_t)begin;
    s->end = (size_t)end;
    return CK_OK;
}

static ck_status read_slices(reading *in, const ck_yaml_node *list, ck_error *err) {
    if (list->kind != CK_YAML_LIST || list->count == 0 || list->count > MAX_SLICES)
        return ck_yaml_fail(in->doc, list, err, "must be a list of 1 to %d slices", MAX_SLICES);
    in->slices = ck_arena_alloc(&in->recipe->arena, list->count * sizeof *in->slices);
    if (!in->slices) return ck_fail_memory(err, in->doc->name);
    in->by_tensor = true;
    for (size_t i = 0; i < list->count; i++) {
        const ck_yaml_node *entry = list->items[i], *sources = ck_yaml_get(entry, "sources");
        slice *s = &in->slices[i];
        CK_TRY(ck_yaml_only(in->doc, entry, "sources parameters", err));
        if (!sources) return ck_yaml_fail(in->doc, entry, err, "\"sources\" is missing");
        CK_TRY(read_sources(in, sources, s, i == 0, "model layer_range parameters", err));
        for (size_t k = 0; k < sources->count; k++)
            CK_TRY(read_range(in, sources->items[k], s, k == 0, err));
        if (s->begin != (i ? in->slices[i - 1].end : 0))
            return ck_yaml_fail(in->doc, entry, err,
                                "layers %zu to %zu would come to another place than they have in "
                                "their model: a model with moved, missing or repeated layers is "
                                "another architecture",
                                s->begin, s->end);
        s->parameters = ck_yaml_get(entry, "parameters");
        in->slice_count++;
    }
    return CK_OK;
}

/* The base first, where the method has one; then the models. */
static ck_status read_models(reading *in, const ck_yaml_node *root, ck_error *err) {
    const ck_yaml_node *models = ck_yaml_get(root, "models"), *slices = ck_yaml_get(root, "slices");
    const ck_yaml_node *base = ck_yaml_get(root, "base_model");
    if (!models == !slices)
        return ck_yaml_fail(in->doc, slices ? slices : root, err,
                            "one of \"models\" and \"slices\" must be there");
    if (base && ck_yaml_null(base)) base = NULL;
    in->base_is_input = in->kit->base != NO_BASE;
    if (in->kit->otherwise && in->base_is_input != (base != NULL)) {
        in->base_is_input = base != NULL;
        in->method = ck_method_find(in->kit->otherwise);
        in->alpha_of_weights = !base;
    }
    if (in->base_is_input && !base)
        return ck_yaml_fail(in->doc, root, err, "%s needs \"base_model\"", in->kit->name);
    if (in->base_is_input) CK_TRY(add_input(in, base, err));
    if (slices) {
        CK_TRY(read_slices(in, slices, err));
    } else {
        in->slices = ck_arena_alloc(&in->recipe->arena, sizeof *in->slices);
        if (!in->slices) return ck_fail_memory(err, in->doc->name);
        in->slices->end = SIZE_MAX;
        in->slice_count = 1;
        CK_TRY(read_sources(in, models, in->slices, true, "model parameters", err));
    }
    const char *text;
    if (base) CK_TRY(ck_yaml_text(in->doc, base, &text, err));
    if (base && find_input(in, text) == SIZE_MAX)
        return ck_yaml_fail(in->doc, base, err,
                            "%s has no base: list '%s' among the models if it is to be merged",
                            in->kit->name, text);
    return CK_OK;
}

/* ---- Along the tensors ---- */

static ck_status names_of_reader(reading *in, const ck_reader *reader, ck_error *err) {
    ck_arena *arena = &in->recipe->arena;
    in->name_count = ck_reader_count(reader);
    const char **names = ck_arena_alloc(arena, in->name_count * sizeof *names);
    if (!names) return ck_fail_memory(err, in->doc->name);
    for (size_t i = 0; i < in->name_count; i++) {
        names[i] = ck_arena_strdup(arena, ck_reader_tensor(reader, i)->name);
        if (!names[i]) return ck_fail_memory(err, in->doc->name);
    }
    in->names = names;
    return CK_OK;
}

static ck_status find_layers(reading *in, ck_error *err) {
    in->names = in->where->tensors;
    in->name_count = in->where->tensor_count;
    if (!in->names) {
        ck_reader *reader;
        const ck_node *first = in->inputs[0];
        while (first->kind == CK_NODE_METHOD) first = first->inputs[0];
        CK_TRY(ck_reader_open(in->recipe->models[first->model].path, &reader, err));
        ck_status status = names_of_reader(in, reader, err);
        ck_reader_close(reader);
        CK_TRY(status);
    }
    in->layers = ck_layers_find(in->names, in->name_count, &in->recipe->arena);
    if (!in->layers) return ck_fail_memory(err, in->doc->name);
    in->main_row = SIZE_MAX;
    for (size_t i = 0; i < in->name_count; i++)
        if (in->layers[i].row != SIZE_MAX && in->layers[i].length > in->main_length) {
            in->main_row = in->layers[i].row;
            in->main_length = in->layers[i].length;
        }
    size_t end = in->slices[in->slice_count - 1].end;
    if (end != SIZE_MAX && end != in->main_length)
        return ck_fail(err, CK_INPUT,
                       "%s: the slices have %zu layers, the first model %zu: a model with missing "
                       "or repeated layers is another architecture",
                       in->doc->name, end, in->main_length);
    return CK_OK;
}

/* Which slice a tensor is in, and where along its layers. */
static const slice *slice_of(const reading *in, const ck_layer *layer, double *t) {
    const slice *s = in->slices;
    *t = 0;
    if (layer->row == SIZE_MAX) return s;
    size_t index = layer->index, length = layer->length;
    if (s->end != SIZE_MAX) {
        if (layer->row != in->main_row) return s;
        while (index >= s->end) s++;
        index -= s->begin;
        length = s->end - s->begin;
    }
    *t = length > 1 ? (double)index / (double)(length - 1) : 1;
    return s;
}

/* What tensors can have: numbers for all parameters and, of passthrough, a model. */
typedef struct variant {
    double *numbers;
    size_t model;
    size_t tensors; /* that have it */
} variant;

typedef struct variants {
    variant *items;
    size_t count, capacity;
    size_t *of; /* the variant of every tensor */
    size_t most;
} variants;

static ck_status find_variant(const reading *in, variants *v, const double *numbers, size_t model,
                              size_t *index, ck_error *err) {
    size_t bytes = numbers_of_all(in) * sizeof *numbers;
    for (*index = 0; *index < v->count; ++*index)
        if (v->items[*index].model == model &&
            memcmp(v->items[*index].numbers, numbers, bytes) == 0)
            break;
    if (*index == v->count) {
        variant *items = ck_grow(v->items, v->count, &v->capacity, sizeof *items);
        if (!items) return ck_fail_memory(err, in->doc->name);
        v->items = items;
        variant new = {.numbers = ck_arena_alloc(&in->recipe->arena, bytes), .model = model};
        if (!new.numbers) return ck_fail_memory(err, in->doc->name);
        memcpy(new.numbers, numbers, bytes);
        items[v->count++] = new;
    }
    v->items[*index].tensors++;
    return CK_OK;
}

static ck_status find_variants(reading *in, variants *v, ck_error *err) {
    double numbers[CK_MAX_PARAMETERS * CK_MAX_INPUTS];
    v->of = ck_arena_alloc(&in->recipe->arena, in->name_count * sizeof *v->of);
    if (!v->of) return ck_fail_memory(err, in->doc->name);
    for (size_t i = 0; i < in->name_count; i++) {
        double t;
        const slice *s = slice_of(in, &in->layers[i], &t);
        resolve_all(in, s, in->names[i], t, numbers);
        CK_TRY(find_variant(in, v, numbers, in->passthrough ? s->model : 0, &v->of[i], err));
    }
    /* Of passthrough the model of the first slice stays the first, whatever the others bring. */
    for (size_t i = 0; i < v->count; i++)
        if (v->items[i].model == 0 &&
            (v->items[v->most].model != 0 || v->items[i].tensors > v->items[v->most].tensors))
            v->most = i;
    return CK_OK;
}

/* Whether all tensors of a layer are of one variant. */
static bool layer_agrees(const reading *in, const variants *v, size_t tensor) {
    const ck_layer *layer = &in->layers[tensor];
    for (size_t i = 0; i < in->name_count; i++)
        if (in->layers[i].row == layer->row && in->layers[i].index == layer->index &&
            v->of[i] != v->of[tensor])
            return false;
    return true;
}

static ck_status set_numbers(reading *in, const variant *v, const variant *other,
                             ck_setting *settings, size_t *count, ck_error *err) {
    const double *a = v->numbers, *b = other ? other->numbers : NULL;
    *count = 0;
    for (size_t p = 0; in->method->parameters[p].name; p++) {
        size_t n = numbers_of(in, p);
        if (!b || memcmp(a, b, n * sizeof *a) != 0) {
            settings[*count] = (ck_setting){.node = in->recipe->root, .parameter = p};
            CK_TRY(ck_recipe_value(in->recipe, in->recipe->root, p, a, n,
                                   &settings[(*count)++].value, err));
        }
        a += n;
        b = b ? b + n : NULL;
    }
    return CK_OK;
}

static ck_status add_rule(reading *in, const variants *v, size_t tensor, ck_error *err) {
    const ck_layer *layer = &in->layers[tensor];
    const variant *mine = &v->items[v->of[tensor]], *most = &v->items[v->most];
    bool whole = layer->row != SIZE_MAX && layer_agrees(in, v, tensor);
    for (size_t i = 0; whole && i < tensor; i++) /* it has its rule already */
        if (in->layers[i].row == layer->row && in->layers[i].index == layer->index) return CK_OK;
    const char *name = in->names[tensor];
    char *pattern = ck_foreign_glob(&in->recipe->arena, name, whole ? layer->end : strlen(name));
    if (!pattern) return ck_fail_memory(err, in->doc->name);
    if (whole) strcat(pattern, ".*");
    ck_setting settings[CK_MAX_PARAMETERS];
    ck_rule rule = {.pattern = pattern, .settings = settings};
    if (mine->model != most->model) {
        if (mine->numbers[0] != 1 || in->inputs[mine->model]->kind != CK_NODE_MODEL)
            return ck_fail(
                err, CK_INPUT,
                "%s: of slices from different models only the first model's can be scaled "
                "or have a LoRA",
                in->doc->name);
        rule.action = CK_RULE_COPY;
        rule.model = in->inputs[mine->model]->model;
    } else {
        CK_TRY(set_numbers(in, mine, most, settings, &rule.setting_count, err));
    }
    return ck_recipe_add_rule(in->recipe, &rule, err);
}

static ck_status spread(reading *in, variants *v, ck_error *err) {
    CK_TRY(find_layers(in, err));
    CK_TRY(find_variants(in, v, err));
    ck_setting settings[CK_MAX_PARAMETERS];
    size_t count;
    if (!v->count) return CK_OK; /* a model without tensors */
    CK_TRY(set_numbers(in, &v->items[v->most], NULL, settings, &count, err));
    for (size_t i = 0; i < count; i++)
        in->recipe->root->values[settings[i].parameter] = settings[i].value;
    for (size_t i = 0; i < in->name_count; i++)
        if (v->of[i] != v->most) CK_TRY(add_rule(in, v, i, err));
    return CK_OK;
}

static ck_status set_parameters(reading *in, ck_error *err) {
    if (in->by_tensor) {
        variants v = {0};
        ck_status status = spread(in, &v, err);
        free(v.items);
        return status;
    }
    double numbers[CK_MAX_PARAMETERS * CK_MAX_INPUTS];
    resolve_all(in, in->slices, NULL, 0, numbers);
    ck_setting settings[CK_MAX_PARAMETERS];
    size_t count;
    CK_TRY(set_numbers(in, &(variant){.numbers = numbers}, NULL, settings, &count, err));
    for (size_t i = 0; i < count; i++)
        in->recipe->root->values[settings[i].parameter] = settings[i].value;
    return CK_OK;
}

/* ---- The whole ---- */

static ck_status read_dtype(reading *in, const ck_yaml_node *root, ck_error *err) {
    static const char *const words[][2] = {
        {"float32", "f32"}, {"float16", "f16"}, {"bfloat16", "bf16"}};
    const char *const fields[] = {"out_dtype", "dtype"};
    for (int f = 0; f < 2; f++) {
        const ck_yaml_node *node = ck_yaml_get(root, fields[f]);
        const char *text;
        if (!node || ck_yaml_null(node)) continue;
        CK_TRY(ck_yaml_text(in->doc, node, &text, err));
        int i = 0;
        while (i < 3 && strcmp(words[i][0], text) != 0) i++;
        if (i == 3)
            return ck_yaml_fail(in->doc, node, err, "%s: must be one of float32, float16, bfloat16",
                                fields[f]);
        if (in->recipe->dtype == CK_DTYPE_COUNT) in->recipe->dtype = ck_recipe_dtype(words[i][1]);
    }
    return CK_OK;
}

static ck_status refuse_surgery(const reading *in, const ck_yaml_node *root, ck_error *err) {
    static const char *const fields[][2] = {
        {"tokenizer_source", "tokenizers are not merged here"},
        {"tokenizer", "tokenizers are not merged here"},
        {"chat_template", "models here do not chat"},
        {"modules", "merge one module (\"models\" or \"slices\") at a time"},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const ck_yaml_node *node = ck_yaml_get(root, fields[i][0]);
        if (node && !ck_yaml_null(node))
            return ck_yaml_fail(in->doc, node, err, "%s is not known here: %s", fields[i][0],
                                fields[i][1]);
    }
    return CK_OK;
}

static ck_status read_method(reading *in, const ck_yaml_node *root, ck_error *err) {
    const ck_yaml_node *node = ck_yaml_get(root, "merge_method");
    const char *name;
    if (!node) return ck_yaml_fail(in->doc, root, err, "\"merge_method\" is missing");
    CK_TRY(ck_yaml_text(in->doc, node, &name, err));
    for (size_t i = 0; i < sizeof kit_methods / sizeof *kit_methods; i++)
        if (strcmp(kit_methods[i].name, name) == 0) in->kit = &kit_methods[i];
    in->method = in->kit ? ck_method_find(in->kit->ours) : NULL;
    in->passthrough = in->kit && strcmp(in->kit->name, "passthrough") == 0;
    if (!in->method)
        return ck_yaml_fail(in->doc, node, err,
                            "there is no method '%s' here; see `ckmerge methods`", name);
    return CK_OK;
}

static ck_status read_config(reading *in, ck_error *err) {
    const ck_yaml_node *root = in->doc->root;
    if (root->kind != CK_YAML_MAP)
        return ck_yaml_fail(in->doc, root, err,
                            "is neither a recipe of ckmerge (JSON) nor one of mergekit (YAML) or "
                            "sd-mecha");
    CK_TRY(refuse_surgery(in, root, err));
    CK_TRY(ck_yaml_only(in->doc, root,
                        "merge_method models slices base_model parameters dtype out_dtype "
                        "tokenizer_source tokenizer chat_template modules",
                        err));
    CK_TRY(read_method(in, root, err));
    CK_TRY(read_models(in, root, err));
    if (in->passthrough) in->input_count = 1; /* the others are only copied from */
    in->parameters = ck_yaml_get(root, "parameters");
    CK_TRY(check_parameters(in, in->parameters, false, err));
    for (size_t s = 0; s < in->slice_count; s++) {
        CK_TRY(check_parameters(in, in->slices[s].parameters, false, err));
        for (size_t i = 0; i < in->input_count; i++)
            CK_TRY(check_parameters(in, in->slices[s].own[i], true, err));
    }
    CK_TRY(read_dtype(in, root, err));
    ck_error inner;
    if (ck_recipe_apply(in->recipe, in->method, in->inputs, in->input_count, &in->recipe->root,
                        &inner) != CK_OK)
        return inner.status == CK_MEMORY ? (*err = inner, CK_MEMORY)
                                         : ck_yaml_fail(in->doc, root, err, "%s", inner.message);
    ck_foreign_compat(in->recipe->root, "mergekit");
    return set_parameters(in, err);
}

ck_status ck_foreign_mergekit(const char *name, const char *text, size_t n, const ck_foreign *where,
                              ck_recipe *r, ck_error *err) {
    ck_recipe_init(r);
    ck_yaml doc;
    CK_TRY(ck_yaml_parse(name, text, n, &doc, err));
    reading in = {.doc = &doc, .where = where, .recipe = r};
    ck_status status = read_config(&in, err);
    ck_yaml_free(&doc);
    if (status != CK_OK) ck_recipe_free(r);
    return status;
}
