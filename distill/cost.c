/* Operations and their speed, see cost.h. */
#include "distill/cost.h"

double ck_cost_node(const ck_graph *g, ck_node at) {
    const ck_graph_node *n = &g->nodes[at];
    ck_shape a = ck_node_shape(g, n->src[0]), b = ck_node_shape(g, n->src[1]);
    double out = (double)ck_shape_count(&n->shape);
    switch (n->op) {
    case CK_OP_MATMUL:
        return 2 * out * (double)a.d[!n->i[0]];
    case CK_OP_CONV:
        return 2 * out * (double)(b.d[1] * b.d[2] * b.d[3]);
    case CK_OP_CONV_DATA_GRAD:
        return 2 * (double)ck_shape_count(&a) * (double)(b.d[1] * b.d[2] * b.d[3]);
    case CK_OP_CONV_WEIGHT_GRAD:
        return 2 * (double)ck_shape_count(&b) *
               (double)(n->shape.d[1] * n->shape.d[2] * n->shape.d[3]);
    case CK_OP_ATTENTION:
        return 4 * (double)(a.d[0] * a.d[1] * a.d[2] * b.d[1]);
    case CK_OP_ATTENTION_GRAD:
        return 10 * (double)(a.d[0] * a.d[1] * a.d[2] * b.d[1]);
    default:
        return 0;
    }
}

ck_status ck_cost_speed(const ck_backend *b, double *speed, ck_error *err) {
    enum { SIZE = 1024, TIMES = 4 };
    ck_graph *g = ck_graph_new();
    ck_exec *e = NULL;
    if (!g) return ck_fail_memory(err, "a graph");
    ck_node x = ck_const(g, CK_SHAPE(SIZE, SIZE), 1), y = ck_matmul(g, x, x, false, true, CK_NONE);
    ck_status s = ck_exec_new(b, g, &y, 1, &e, err);
    if (s == CK_OK) s = ck_exec_allocate(e, 0, err);
    double best = 1e9, before = 0;
    for (int i = 0; i < TIMES && s == CK_OK; i++) {
        s = ck_exec_run(e, err);
        double after = s == CK_OK ? ck_exec_seconds(e)[CK_OP_MATMUL] : 0;
        if (after - before < best) best = after - before;
        before = after;
    }
    ck_exec_free(e);
    ck_graph_free(g);
    *speed = 2. * SIZE * SIZE * SIZE / best;
    return s;
}
