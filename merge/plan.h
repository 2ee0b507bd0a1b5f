/* The plan of a merge: what becomes of every tensor, decided before a byte is written.
 *
 *   ck_plan *plan;
 *   CK_TRY(ck_plan_make(&recipe, readers, &plan, err));     refuses what cannot be merged
 *   for (size_t i = 0; i < plan->task_count; i++) ... plan->tasks[i].outcome ...
 *   ck_plan_free(plan);
 *
 * Policies (see recipe.h for their flags' and fields' words):
 *   missing in an input but the first   keep: the first input (A) stays; drop: not in the output;
 *                                       error. Some methods let the first input stand in instead.
 *   only in other models                drop (default) or keep
 *   shapes differ                       error; inpaint: of a 9- or 8-channel A and 4-channel others
 *                                       the first four input channels are mixed, the rest is A's
 *   not a float type, or empty          A's, bit for bit
 *   not changed by a LoRA               what the LoRA is applied to
 * A tensor whose expression comes down to one model's tensor of the output's dtype is copied bit
 * for bit. A merge in which no tensor was mixed is an error.
 */
#ifndef CK_PLAN_H
#define CK_PLAN_H

#include "io/blocks.h"
#include "io/reader.h"
#include "merge/recipe.h"

/* Most operations for one tensor. */
enum { CK_MAX_STEPS = 256 };

typedef enum ck_outcome {
    CK_MIXED,        /* the expression was applied */
    CK_KEPT_MISSING, /* A's: an input lacks it */
    CK_KEPT_TYPE,    /* A's: not a float type, empty, or position_ids */
    CK_KEPT_RULE,    /* A's: an exclude rule */
    CK_KEPT_SAME,    /* A's: no LoRA or adjustment changes it */
    CK_COPIED,       /* another model's: a copy rule */
    CK_EXTRA,        /* another model's: A lacks it */
    CK_OUTCOME_COUNT,
    CK_DROPPED = CK_OUTCOME_COUNT, /* only in counts */
    CK_COUNT_COUNT,
} ck_outcome;

/* "mixed", "kept: missing in another model", ... */
const char *ck_outcome_text(ck_outcome outcome);

/* A tensor that a task reads. */
typedef struct ck_leaf {
    size_t model;
    const ck_tensor *tensor;
} ck_leaf;

/* One operation on registers. Registers 0..leaf_count-1 are the leaves as f32; step s writes
 * register leaf_count + s. */
typedef struct ck_step {
    const ck_method *method; /* NULL: fill with constant */
    double constant;
    const ck_value *values;
    const unsigned *inputs;
    const ck_dtype *stored; /* of the inputs; F32 of steps */
    unsigned input_count;
    int compat;
    ck_survey *survey; /* NULL: its method needs none */
    bool combines;     /* what was found are the coefficients of a sum */
    void **found; /* for a method that looks at whole tensors: where the engine keeps what it found
                   * while it runs */
} ck_step;

/* What a node's method learns from all of its tensors; the engine fills it first. */
typedef struct ck_node_survey {
    const ck_node *node;
    ck_survey survey;
    struct ck_node_survey *next;
} ck_node_survey;

typedef struct ck_task {
    ck_tensor out; /* name and shape as in the model it comes from; offset unused */
    ck_outcome outcome;
    const ck_rule *rule; /* that matched, or NULL */
    size_t block;        /* of the primary model's blocks, where the plan has them */
    ck_leaf *leaves;
    unsigned leaf_count;
    ck_step *steps;
    unsigned step_count;
    unsigned result;   /* register of the result */
    bool raw;          /* the output's bytes are those of leaf 0 */
    unsigned channels; /* not 0: only these first input channels of shape[1] are mixed, and leaf 0
                        * is A's tensor */
    const uint64_t *mixed_shape; /* of what is mixed: out's, or with `channels` for shape[1] */
    uint64_t mixed_elements;
    uint64_t key;    /* of the tensor's random numbers: made of the seed and its name */
    uint64_t offset; /* in the output file */
} ck_task;

typedef struct ck_plan {
    const ck_recipe *recipe;
    ck_reader *const *readers; /* one for each model of the recipe */
    ck_task *tasks;            /* in the order of the output file */
    size_t task_count;
    uint64_t counts[CK_COUNT_COUNT]; /* tensors by outcome */
    bool *rule_fits;                 /* of each rule: some tensor, even if an earlier rule wins */
    char *head;                      /* the first bytes of the output file */
    size_t head_size;
    uint64_t file_size;
    ck_node_survey *surveys; /* a list */
    unsigned max_registers;
    size_t max_leaf_bytes;           /* of one element of all leaves of a task */
    struct ck_plan_blocks *by_block; /* blocks, bound weights and rules; NULL where the recipe has
                                      * nothing of the kind */
    ck_arena arena;
} ck_plan;

/* Decides everything. recipe and readers are borrowed and must outlive the plan. CK_INPUT for
 * models that do not fit together (shapes, quantised weights, nothing mixed). */
ck_status ck_plan_make(const ck_recipe *recipe, ck_reader *const *readers, ck_plan **plan,
                       ck_error *err);

/* Makes the head for this metadata (replaces an earlier one) and lays out the file, in the
 * container that its path stands for (ck_head_for). */
ck_status ck_plan_layout(ck_plan *plan, const char *path, const ck_meta *meta, size_t meta_count,
                         ck_error *err);

void ck_plan_free(ck_plan *plan); /* NULL is allowed */

/* The values of a node's parameters for one tensor: by its rule, else by its block. */
typedef struct ck_node_values {
    ck_value values[CK_MAX_PARAMETERS];
    double items[CK_MAX_PARAMETERS][CK_MAX_INPUTS]; /* behind values */
} ck_node_values;
void ck_plan_values(const ck_plan *plan, const ck_task *task, const ck_node *node,
                    ck_node_values *out);

#endif
