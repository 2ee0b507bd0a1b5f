/* A merge as a value: which models, how they are combined, and what happens to the odd tensor.
 *
 *   ck_recipe r;
 *   CK_TRY(ck_recipe_load("mix.json", variables, count, &r, err));
 *       or: ck_recipe_init(&r), ck_recipe_add_model(...), r.root = ck_recipe_apply(...)
 *   ... ck_plan_make(&r, readers, ...) ...
 *   ck_recipe_free(&r);
 *
 * The combination is an expression graph: leaves are models or constants, inner nodes are methods.
 * The model reached from the root over first inputs is the primary one ("A"): the result has its
 * tensors, shapes and, unless told otherwise, dtypes.
 *
 * The JSON form (strict: unknown fields and wrong types are errors with their place):
 *   {
 *     "ckmerge_recipe": 1,
 *     "models": {"a": "a.safetensors", "b": {"path": "b.safetensors", "sha256": "<64 hex>"}},
 *     "merge": {"method": "weighted-sum", "inputs": ["a", "b"], "alpha": 0.3},
 *     "rules": [{"keys": "first_stage_model.*", "exclude": true},
 *               {"keys": "*attn2*", "set": {"alpha": "$strength"}},
 *               {"blocks": "OUT00-OUT03 vae", "elements": "NOT attn", "set": {"alpha": 0.8}},
 *               {"keys": "cond_stage_model.*", "copy": "b"},
 *               {"keys": "model_ema.*", "drop": true}],
 *     "policies": {"missing": "keep", "extra": "drop", "shape": "error",
 *                  "unmatched": "error"},
 *     "dtype": "keep", "seed": 0,
 *     "variables": {"strength": 0.5},
 *     "lock": {"tool": "ckmerge 0.1.0", "models": {"a": "<hex>", "b": "<hex>"}, "output": "<hex>"}
 *   }
 * A node may have "compat": "mergekit" or another tool whose result it shall give, where that
 * differs. A model with "rebasin": true is read with its channels in the order nearest to A's
 * (merge/rebasin.h). An input is a model's name, a number (a constant), or another {"method": ...};
 * the second input of "lora" is the name of a LoRA among the models. A node may have an "id" so
 * that rules reach it ("set": {"id.alpha": 0.5}). In the place of a parameter's number there may be
 * block weights: "alpha": {"gradient": [0, 1], "base": 0.3} (merge/weights.h). Paths are relative
 * to the recipe's folder. A text "$name" in the place of a number or a path is the variable of that
 * name.
 */
#ifndef CK_RECIPE_H
#define CK_RECIPE_H

#include "io/arena.h"
#include "io/hash.h"
#include "merge/lora.h"
#include "merge/method.h"
#include "merge/weights.h"

#include <stdint.h>

#define CK_VERSION "0.1.0"

/* Most models in a recipe, and most inputs of one node. */
enum { CK_MAX_MODELS = CK_MAX_INPUTS };

typedef enum ck_node_kind { CK_NODE_MODEL, CK_NODE_CONSTANT, CK_NODE_METHOD } ck_node_kind;

typedef struct ck_node {
    ck_node_kind kind;
    size_t model;    /* CK_NODE_MODEL: index into the recipe's models */
    double constant; /* CK_NODE_CONSTANT */
    const ck_method *method;
    struct ck_node **inputs;
    size_t input_count;
    ck_value *values; /* one for each parameter of the method */
    int compat;       /* 0, or the number, from 1, of the tool in the method's compat */
    const char *id;   /* NULL: none */
} ck_node;

typedef struct ck_model {
    const char *name; /* in the recipe: "a" */
    const char *path;
    const char *sha256; /* that the file must have, or NULL; goes into the output's metadata */
    const char *label;  /* what the file is called in metadata; NULL: as its path ends */
    bool by_legacy;     /* found by no more than its legacy hash, or its name */
    bool rebasin;       /* its channels are first brought into the order nearest to the primary
                         * model's (merge/rebasin.h) */
} ck_model;

typedef enum ck_rule_action {
    CK_RULE_SET,
    CK_RULE_EXCLUDE,
    CK_RULE_COPY,
    CK_RULE_DROP
} ck_rule_action;

/* A parameter of one node, set for the tensors of a rule. */
typedef struct ck_setting {
    const ck_node *node;
    size_t parameter;
    ck_value value;
} ck_setting;

/* What to do with tensors that fit all conditions; the first rule that fits wins. */
typedef struct ck_rule {
    const char *pattern; /* shell glob over the whole name: * ? [...]; NULL: any */
    const char *blocks;  /* see ck_blocks_select; NULL: any */
    /* Words, one of which must be in the name that the tensor has in the original layout; after a
     * first word NOT none may. NULL: any. */
    const char *elements;
    ck_rule_action action;
    size_t model; /* CK_RULE_COPY: from which */
    ck_setting *settings;
    size_t setting_count;
} ck_rule;

typedef enum ck_missing { CK_MISSING_KEEP, CK_MISSING_DROP, CK_MISSING_ERROR } ck_missing;
typedef enum ck_extra { CK_EXTRA_DROP, CK_EXTRA_KEEP } ck_extra;
typedef enum ck_shape { CK_SHAPE_ERROR, CK_SHAPE_INPAINT } ck_shape;

/* The words for these in flags and recipes, "a|b|c" in enum order. */
#define CK_MISSING_WORDS   "keep|drop|error"
#define CK_EXTRA_WORDS     "drop|keep"
#define CK_SHAPE_WORDS     "error|inpaint"
#define CK_UNMATCHED_WORDS "error|skip"
#define CK_DTYPE_WORDS     "keep|f32|f16|bf16|f8_e4m3|f8_e5m2"

typedef struct ck_recipe {
    ck_model *models;
    size_t model_count, model_capacity;
    ck_node *root;
    ck_rule *rules;
    size_t rule_count, rule_capacity;
    ck_missing missing;
    ck_extra extra;
    ck_shape shape;
    ck_unmatched unmatched; /* layers of LoRAs that their model lacks */
    ck_dtype dtype;         /* CK_DTYPE_COUNT: keep A's */
    uint64_t seed;
    /* The lock: what the inputs were and the output became; NULL where not locked. One entry for
     * each model. */
    const char *lock_tool;
    const char **lock_models;
    const char *lock_output;
    ck_arena arena; /* everything above that is not an array of its own */
} ck_recipe;

void ck_recipe_init(ck_recipe *r);
void ck_recipe_free(ck_recipe *r);

/* Building blocks; text is copied. */
ck_status ck_recipe_add_model(ck_recipe *r, const char *name, const char *path, const char *sha256,
                              ck_error *err);
ck_node *ck_recipe_model_node(ck_recipe *r, size_t model); /* NULL when out of memory */
ck_node *ck_recipe_constant_node(ck_recipe *r, double value);

/* A method over inputs (the array is copied), all parameters at their fallbacks. CK_USAGE when the
 * method does not take that many. */
ck_status ck_recipe_apply(ck_recipe *r, const ck_method *method, ck_node *const *inputs,
                          size_t count, ck_node **node, ck_error *err);

/* Makes a checked value for a parameter: one number, or as many as the node has inputs for a list.
 */
ck_status ck_recipe_value(ck_recipe *r, const ck_node *node, size_t parameter, const double *items,
                          size_t count, ck_value *value, ck_error *err);

/* Sets a parameter of a node by name. */
ck_status ck_recipe_set(ck_recipe *r, ck_node *node, const char *name, const double *items,
                        size_t count, ck_error *err);

/* Has a node give the result of another tool, one of its method's compat. */
ck_status ck_recipe_set_compat(ck_node *node, const char *tool, ck_error *err);

/* Puts block weights (in the recipe's arena) in the place of an item of a node's parameter. Where
 * they have no base, it is the number that was there. */
ck_status ck_recipe_set_weights(ck_recipe *r, ck_node *node, const char *name, size_t item,
                                const ck_weights *weights, ck_error *err);

/* The node with this id, of that length, below the root; NULL if there is none. */
ck_node *ck_recipe_node(const ck_recipe *r, const char *id, size_t length);

/* Whether the model's blocks need to be known: for block weights, rules that name blocks or
 * elements, and methods that look for tensors of the UNet. */
bool ck_recipe_by_block(const ck_recipe *r);

/* Appends a rule (its texts and arrays are copied). */
ck_status ck_recipe_add_rule(ck_recipe *r, const ck_rule *rule, ck_error *err);

/* Puts the rules from number `first` on before the others. */
void ck_recipe_rules_first(ck_recipe *r, size_t first);

/* The command line's form of a rule: "PATTERN=0.5" sets the first parameter of the root,
 * "PATTERN=exclude", "PATTERN=drop", "PATTERN=copy:b". */
ck_status ck_recipe_parse_rule(ck_recipe *r, const char *text, ck_error *err);

/* A rule for the conditions in *rule and an action as above; option and text are for messages. */
ck_status ck_recipe_add_action(ck_recipe *r, ck_rule rule, const char *action, const char *option,
                               const char *text, ck_error *err);

/* Its conditions in one line, to buf: "*attn*", "OUT00-OUT03:attn2". Returns buf. */
const char *ck_rule_text(const ck_rule *rule, char *buf, size_t size);

/* The values of a node's parameters for the tensors of a rule (NULL: of no rule). */
void ck_rule_values(const ck_rule *rule, const ck_node *node, ck_value values[CK_MAX_PARAMETERS]);

/* The index of the word in "a|b|c", or -1. */
int ck_word_index(const char *words, const char *word);
/* "keep", "f16", ... to a dtype (CK_DTYPE_COUNT for keep); the word must be one of CK_DTYPE_WORDS.
 */
ck_dtype ck_recipe_dtype(const char *word);

/* The model whose tensors the result has. */
size_t ck_recipe_primary(const ck_recipe *r);

/* For a model that is the LoRA of some node: the model that it is applied to, which is reached from
 * that node over first inputs. SIZE_MAX for every other model. */
size_t ck_recipe_lora_base(const ck_recipe *r, size_t model);

/* Asks a node's method whether these values, one for each parameter, make sense. */
ck_status ck_recipe_check_values(const ck_node *node, const ck_value *values, ck_error *err);

/* Checks what can be checked without opening a model: a primary model, parameter values, that
 * LoRAs are used as such and for one model, and that what is to be brought into A's order can be.
 */
ck_status ck_recipe_check(const ck_recipe *r, ck_error *err);

/* Reads a recipe file. settings are "NAME=VALUE" texts that override its variables; one that names
 * no variable is CK_USAGE. On failure *r is empty. */
ck_status ck_recipe_load(const char *path, const char *const *settings, size_t count, ck_recipe *r,
                         ck_error *err);
/* The same from text; name is for messages, folder is what paths are relative to (NULL: nothing).
 */
ck_status ck_recipe_parse(const char *name, const char *text, size_t n, const char *folder,
                          const char *const *settings, size_t count, ck_recipe *r, ck_error *err);

/* How ck_recipe_text writes models' paths. */
typedef enum ck_path_style {
    CK_PATH_NAME,     /* only the file's name: for the output's metadata, which must not depend on
                       * where the files lie. The lock is left out for the same reason. */
    CK_PATH_RELATIVE, /* relative to folder where the file lies in or below it, else absolute */
} ck_path_style;

/* The JSON form, indented for CK_PATH_RELATIVE, in one line for CK_PATH_NAME. The caller releases
 * *text with free(). */
ck_status ck_recipe_text(const ck_recipe *r, ck_path_style style, const char *folder, char **text,
                         ck_error *err);

#endif
