/* What a merge does to which block of the model: `ckmerge explain`.
 *
 *   ck_explanation *e;
 *   CK_TRY(ck_explain(plan, &e, err));
 *   ck_explanation_print(e, stdout);        a table; or ck_explanation_json, ck_explanation_svg
 *   ck_explanation_free(e);
 */
#ifndef CK_EXPLAIN_H
#define CK_EXPLAIN_H

#include "io/blocks.h"
#include "merge/plan.h"

#include <cjson/cJSON.h>
#include <stdio.h>

/* A number that is not the same for all tensors, or the root's first parameter. */
typedef struct ck_column {
    char name[64]; /* "alpha", "lora1.strength", "weight b" */
    const ck_node *node;
    size_t parameter, item;
} ck_column;

/* Over the tensors of a block that are computed with it. */
typedef struct ck_range {
    double low, high;
    double sum, elements; /* of values times elements, for the mean */
} ck_range;

enum { CK_EXPLAIN_COLUMNS = 6, CK_EXPLAIN_CAUSES = 24 };

/* Why tensors of a block are what they are, and how many. */
typedef struct ck_cause {
    char text[96];
    size_t tensors;
    bool mixed;
} ck_cause;

typedef struct ck_row {
    char name[16];
    size_t family; /* see ck_block */
    bool depth;    /* a block of the denoiser */
    size_t tensors;
    uint64_t elements;
    size_t mixed; /* tensors that the numbers are for */
    ck_range ranges[CK_EXPLAIN_COLUMNS];
    ck_cause causes[CK_EXPLAIN_CAUSES];
    size_t cause_count;
} ck_row;

typedef struct ck_explanation {
    const ck_plan *plan;
    ck_blocks blocks;
    ck_column columns[CK_EXPLAIN_COLUMNS];
    size_t column_count;
    size_t columns_left_out; /* there were more */
    ck_row *rows; /* blocks in their order; at the end, where there are any, tensors that only other
                   * models have */
    size_t row_count;
    uint64_t elements;
} ck_explanation;

/* plan is borrowed. */
ck_status ck_explain(const ck_plan *plan, ck_explanation **e, ck_error *err);
void ck_explanation_free(ck_explanation *e); /* NULL is allowed */

/* The expression as text, "weighted-sum(a, b)", to buf. Returns buf. */
const char *ck_explain_expression(const ck_recipe *r, char *buf, size_t size);

void ck_explanation_print(const ck_explanation *e, FILE *out);
ck_status ck_explanation_json(const ck_explanation *e, cJSON **json, ck_error *err);

/* A picture: for every column the values of the blocks as bars along the depth, what is not the
 * denoiser beside them. A whole document. */
void ck_explanation_svg(const ck_explanation *e, FILE *out);

/* The command: the picture, if wanted, to a file, which is written whole or not at all and replaced
 * only when told so; the rest, if wanted, to standard output, as a table or as JSON. */
ck_status ck_explain_plan(const ck_plan *plan, const char *svg, bool replace, bool json, bool quiet,
                          ck_error *err);

#endif
