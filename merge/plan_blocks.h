/* What a plan knows about blocks: the models' blocks, the recipe's block weights as numbers, and
 * which tensors a rule's conditions fit. Private to plan.c. */
#ifndef CK_PLAN_BLOCKS_H
#define CK_PLAN_BLOCKS_H

#include "merge/plan.h"

/* Fills plan->by_block, which stays NULL when the recipe does not ask for blocks. CK_USAGE for
 * weights and rules that do not fit the primary model. */
ck_status ck_plan_blocks__make(ck_plan *plan, ck_error *err);
void ck_plan_blocks__free(struct ck_plan_blocks *b); /* NULL is allowed */

/* The block of a tensor of the primary model; 0 without blocks. */
size_t ck_plan_blocks__of(const ck_plan *plan, size_t tensor);

/* The values of a method with for_tensor for tensor number i of the primary model; false: it does
 * nothing to that one. */
bool ck_plan_blocks__for_tensor(const ck_plan *plan, const ck_method *method,
                                const ck_value *values, size_t tensor,
                                double items[CK_TENSOR_VALUES]);

/* The first rule whose conditions all fit tensor number i of this model, or NULL. */
const ck_rule *ck_plan_blocks__rule(const ck_plan *plan, size_t model, size_t i);

#endif
