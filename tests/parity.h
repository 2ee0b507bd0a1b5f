/* Networks against what PyTorch had of them (tests/data/parity): its numbers, and how far a graph
 * is from them.
 *
 *   float *x = parity_image(r, "sample", 4, 256, &n), *want = parity_image(r, "out", 4, 256, &m);
 *   ck_exec *e = parity_run(g, &out, 1, (ck_node[]){x_node}, (const void *[]){x}, &n, 1);
 *   assert_true(parity_off(e, out, want, m) < 2e-5);
 *
 * Whatever goes wrong fails the test. Arrays are the caller's, to be released with free().
 */
#ifndef CK_TESTS_PARITY_H
#define CK_TESTS_PARITY_H

#include "distill/engine/backend.h"
#include "io/reader.h"

/* A tensor as it is in the file; *n: its elements. */
void *parity_tensor(const ck_reader *r, const char *name, size_t *n);
/* The same of f32 N C H W, as N H W C; area: H W. */
float *parity_image(const ck_reader *r, const char *name, size_t c, size_t area, size_t *n);

/* The graph, run once on "cpu" with data[i], n[i] numbers, in inputs[i]. */
ck_exec *parity_run(ck_graph *g, const ck_node *outputs, size_t count, const ck_node *inputs,
                    const void *const *data, const size_t *n, size_t input_count);
/* The largest difference between a node and what it should be, of the latter's largest. */
double parity_off(const ck_exec *e, ck_node node, const float *want, size_t n);

#endif
