/* Merge methods: what one is, and the table of all.
 *
 *   const ck_method *m = ck_method_find("add-difference");
 *   m->block(kernels, values, inputs, 3, out, n);
 *
 * A new method is one file in merge/methods/ that defines a ck_method, and one row in methods.c.
 * The command line, recipes, help and the planner know it from there.
 */
#ifndef CK_METHOD_H
#define CK_METHOD_H

#include "io/error.h"
#include "kernels/kernels.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The value of a parameter: a number (count 1) or, for list parameters, one number per input. In a
 * recipe block weights (merge/weights.h) may stand for a number; methods only see numbers. */
typedef struct ck_value {
    const double *items;
    size_t count;
    const struct ck_weights *const *by_block; /* one for each item, or NULL; NULL: none has any */
} ck_value;

typedef struct ck_parameter {
    const char *name;
    const char *help;
    double fallback; /* when not given; a list then has this number for every input */
    bool list;       /* one number for each input, but for a base */
    bool on_off;     /* 1 or 0, which people write as on and off */
} ck_parameter;

enum { CK_MAX_PARAMETERS = 8, CK_MAX_INPUTS = 64, CK_TENSOR_VALUES = 8 };

/* What a method gets besides its inputs. */
typedef struct ck_arguments {
    const ck_value *values; /* one for each parameter */
    size_t inputs;
    int compat;            /* 0, or the number, from 1, of the word in the method's compat */
    const uint64_t *shape; /* of the tensor: rank dimensions, outermost first */
    size_t rank;
    uint64_t elements;
    const ck_dtype *stored; /* the types in which the inputs are kept, F32 for one that was
                             * computed; NULL: F32 all */
    uint64_t key;           /* made of the seed and the tensor's name, for random numbers */
    uint64_t first;         /* number of the first element in its tensor */
    const void *found;      /* what prepare left; NULL without */
    const double *survey;   /* what conclude left, of all tensors together; NULL without */
} ck_arguments;

/* Numbers that tensors leave for all others; see survey below. */
typedef struct ck_survey {
    float *numbers;
    size_t count, capacity;
    double found[2];
} ck_survey;

/* A tensor as a method's prepare sees it: all of its inputs, from start to end, in strips of at
 * most CK_STRIP elements that begin at multiples of CK_STRIP; as often as one calls it. The strips
 * of a run are visited one after another by one thread, so that sums have always the same order. */
typedef void ck_visit(void *context, const float *const *in, uint64_t first, size_t n);
typedef struct ck_pass {
    ck_status (*run)(const struct ck_pass *pass, ck_visit *visit, void *context, ck_error *err);
} ck_pass;

typedef struct ck_method {
    const char *name;    /* "weighted-sum"; '_' is accepted for '-' on input */
    const char *title;   /* "Weighted sum": what merge tools write into sd_merge_recipe */
    const char *formula; /* one line */
    const char *doc;     /* source of the formula, where implementations differ, exact cases */
    size_t min_inputs, max_inputs;                  /* max_inputs 0: no limit */
    ck_parameter parameters[CK_MAX_PARAMETERS + 1]; /* ends with a zeroed row */

    /* Tools whose results can be had instead, where they differ: "mergekit|mecha", in the words of
     * --compat; NULL: none. The doc says how they differ. same_as does not hold then. */
    const char *compat;

    /* The first input is the base that the others were made from; it has no number in lists. */
    bool has_base;

    /* The second input is a LoRA, which is no model but changes to one: a tensor that it lacks is
     * the first input's, and is not missing. */
    bool adds_changes;

    /* What an input other than the first means when a tensor is missing in it: false, the result
     * is the first input; true, the first input stands in for the missing one. */
    bool first_stands_in;

    /* Refuses parameter values that make no sense (CK_USAGE); NULL: all are fine. Of the arguments
     * it has values, inputs and compat. */
    ck_status (*check)(const ck_arguments *args, ck_error *err);

    /* The number of the input that the result equals bit for bit whatever the inputs hold, or -1.
     * NULL: never. */
    int (*same_as)(const ck_value *values, size_t inputs);

    /* For a method that does to some tensors of a UNet what depends on which they are: the numbers
     * for the tensor of this name in the original layout (without prefix), which block gets as the
     * only value in the parameters' place; false: the result is the first input. NULL: the same to
     * every tensor of every model. */
    bool (*for_tensor)(const ck_value *values, const char *name, bool sdxl,
                       double items[CK_TENSOR_VALUES]);

    /* Either: out[n] from in[0..inputs-1][n], element by element, all f32, n <= CK_STRIP. out
     * overlaps no input. */
    void (*block)(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n);

    /* For a block that must know the tensor as a whole: looks at it and leaves what it found, which
     * the blocks get as args->found; the engine releases it with free(). args->first is 0. Helpers
     * are in whole.h. */
    ck_status (*prepare)(const ck_arguments *args, const ck_pass *pass, void **found,
                         ck_error *err);

    bool prepares_for_compat; /* only where the node asks for another tool's result */

    /* The most bytes that prepare allocates for a tensor, where that grows with its elements. NULL:
     * of no account. Such tensors are prepared few at a time. */
    uint64_t (*needs)(const ck_arguments *args);

    /* For the form of another tool in which a tensor's result depends on all tensors of the model:
     * survey looks at each tensor and appends what counts of it (with ck_survey_add); then conclude
     * makes of the numbers of all, which it may reorder, what prepare and block get as
     * args->survey. Only where compat is given, and for tensors whose names `covers` accepts; the
     * others stay the first input's. */
    bool (*covers)(const char *name);
    ck_status (*survey)(const ck_arguments *args, const ck_pass *pass, ck_survey *all,
                        ck_error *err);
    void (*conclude)(float *numbers, size_t count, double found[2]);

    /* Or, except where prepares_for_compat holds: the result is a linear combination of the inputs,
     * with coefficients that depend on the tensor as a whole: fills coefficients[args->inputs] from
     * the inner products of the inputs, gram[i * inputs + j]. The tensor is read once more for
     * these. */
    void (*combine)(const ck_arguments *args, const double *gram, double *coefficients);
} ck_method;

/* False: no memory. */
bool ck_survey_add(ck_survey *s, float number);

/* All methods, in the order of the help; ends with NULL. */
extern const ck_method *const ck_methods[];

/* By name; NULL if there is none. */
const ck_method *ck_method_find(const char *name);

/* How many numbers a list parameter has for so many inputs. */
size_t ck_method_list_length(const ck_method *m, size_t inputs);

/* The position of a parameter, or -1. */
int ck_method_parameter(const ck_method *m, const char *name);

/* A number as people write it: "0.3", or "on". Returns buf. */
const char *ck_parameter_text(const ck_parameter *p, double number, char *buf, size_t size);

/* "on" to 1, "off" to 0; false for anything else. */
bool ck_on_off(const char *text, double *number);

#endif
