/* Operations and their speed, see cost.h. */
#include "distill/engine/cost.h"
#include "io/os.h"

#include <math.h>

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

/* (A card computes on its own time, but what can be read is done.) */
static ck_status measure(ck_exec *e, ck_node result, double *best, ck_error *err) {
    enum { TIMES = 4 };
    float value;
    *best = INFINITY;
    for (int i = 0; i < TIMES; i++) {
        double start = ck_seconds();
        CK_TRY(ck_exec_run(e, err));
        CK_TRY(ck_exec_read(e, result, &value, 1, err));
        *best = fmin(*best, ck_seconds() - start);
    }
    return CK_OK;
}

ck_status ck_cost_speed(const ck_backend *b, double *speed, ck_error *err) {
    int64_t size = b->host ? 1024 : 8192;
    double best = INFINITY;
    ck_graph *g = ck_graph_new();
    ck_exec *e = NULL;
    if (!g) return ck_fail_memory(err, "a graph");
    ck_node x = ck_const(g, CK_SHAPE(size, size), 1), y = ck_matmul(g, x, x, false, true, CK_NONE);
    ck_node corner = ck_slice(g, ck_slice(g, y, 0, 0, 1), 1, 0, 1);
    ck_status s = ck_exec_new(b, g, &corner, 1, &e, err);
    if (s == CK_OK) s = ck_exec_allocate(e, 0, err);
    if (s == CK_OK) s = measure(e, corner, &best, err);
    ck_exec_free(e);
    ck_graph_free(g);
    *speed = 2. * (double)(size * size * size) / best;
    return s;
}
