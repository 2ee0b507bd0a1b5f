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

/* The value of a parameter: a number (count 1) or, for list parameters, one number per input. */
typedef struct ck_value {
    const double *items;
    size_t count;
} ck_value;

typedef struct ck_parameter {
    const char *name;
    const char *help;
    double fallback; /* when not given; a list then has this number for every input */
    bool list;       /* one number for each input, but for a base */
} ck_parameter;

enum { CK_MAX_PARAMETERS = 8, CK_MAX_INPUTS = 64 };

/* What a method gets besides its inputs. */
typedef struct ck_arguments {
    const ck_value *values; /* one for each parameter */
    size_t inputs;
    const double *measured; /* one for each input: see measures; NULL without */
    uint64_t key;           /* made of the seed and the tensor's name, for random numbers */
    uint64_t first;         /* number of the first element in its tensor */
} ck_arguments;

typedef struct ck_method {
    const char *name;    /* "weighted-sum"; '_' is accepted for '-' on input */
    const char *title;   /* "Weighted sum": what merge tools write into sd_merge_recipe */
    const char *formula; /* one line */
    const char *doc;     /* source of the formula, where implementations differ, exact cases */
    size_t min_inputs, max_inputs;                  /* max_inputs 0: no limit */
    ck_parameter parameters[CK_MAX_PARAMETERS + 1]; /* ends with a zeroed row */

    /* The first input is the base that the others were made from; it has no number in lists. */
    bool has_base;

    /* The second input is a LoRA, which is no model but changes to one: a tensor that it lacks is
     * the first input's, and is not missing. */
    bool adds_changes;

    /* What an input other than the first means when a tensor is missing in it: false, the result
     * is the first input; true, the first input stands in for the missing one. */
    bool first_stands_in;

    /* Refuses parameter values that make no sense (CK_USAGE); NULL: all are fine. */
    ck_status (*check)(const ck_value *values, size_t inputs, ck_error *err);

    /* The number of the input that the result equals bit for bit whatever the inputs hold, or -1.
     * NULL: never. */
    int (*same_as)(const ck_value *values, size_t inputs);

    /* Either: out[n] from in[0..inputs-1][n], element by element, all f32, n <= CK_STRIP. out
     * overlaps no input. */
    void (*block)(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n);

    /* For a block that takes only the largest changes: how many of the tensor's elements with the
     * largest |input - base| count. args->measured[input] is then the least of these, and exact; it
     * is infinite for none. The tensor is read twice more. */
    uint64_t (*keep)(const ck_value *values, size_t input, uint64_t elements);

    /* Or: the result is a linear combination of the inputs, with coefficients that depend on the
     * tensor as a whole: fills coefficients[inputs] from the inner products of the inputs,
     * gram[i * inputs + j]. The tensor is read once more for these. */
    void (*combine)(const ck_value *values, const double *gram, size_t inputs,
                    double *coefficients);
} ck_method;

/* All methods, in the order of the help; ends with NULL. */
extern const ck_method *const ck_methods[];

/* By name; NULL if there is none. */
const ck_method *ck_method_find(const char *name);

/* How many numbers a list parameter has for so many inputs. */
size_t ck_method_list_length(const ck_method *m, size_t inputs);

/* The position of a parameter, or -1. */
int ck_method_parameter(const ck_method *m, const char *name);

#endif
