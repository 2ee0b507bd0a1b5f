/* What a graph takes of time before it is run: the operations of its nodes, over what this machine
 * does of a large matrix product.
 *
 *   CK_TRY(ck_cost_speed(backend, &speed, err));
 *   printf("about %g s\n", ck_exec_operations(e) / speed);
 */
#ifndef CK_COST_H
#define CK_COST_H

#include "distill/engine/backend.h"

/* Multiplications and additions of a node, if it is one of those that take the time: products,
 * convolutions, attention, and their gradients. */
double ck_cost_node(const ck_graph *g, ck_node n);
/* Of all that a plan runs. */
double ck_exec_operations(const ck_exec *e);

/* Operations per second of a large matrix product: the best of a few. */
ck_status ck_cost_speed(const ck_backend *b, double *speed, ck_error *err);

#endif
