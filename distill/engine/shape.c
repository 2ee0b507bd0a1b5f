/* Names and shapes of nodes: what backends ask of a graph, also those in a plugin. See graph.h. */
#include "distill/engine/graph.h"

#include <stdio.h>

static const char *const op_names[CK_OP_COUNT] = {"input",
                                                  "param",
                                                  "const",
                                                  "view",
                                                  "unary",
                                                  "unary_grad",
                                                  "affine",
                                                  "add",
                                                  "mul",
                                                  "sum_to",
                                                  "expand",
                                                  "permute",
                                                  "concat",
                                                  "slice",
                                                  "pad",
                                                  "matmul",
                                                  "conv",
                                                  "conv_data_grad",
                                                  "conv_weight_grad",
                                                  "group_norm",
                                                  "group_norm_grad",
                                                  "layer_norm",
                                                  "layer_norm_grad",
                                                  "geglu",
                                                  "geglu_grad",
                                                  "attention",
                                                  "attention_grad",
                                                  "softmax",
                                                  "upsample",
                                                  "upsample_grad",
                                                  "embed",
                                                  "embed_grad",
                                                  "timestep"};

const char *ck_op_name(ck_op op) {
    return op_names[op];
}

bool ck_op_packed(ck_op op) {
    return op == CK_OP_GROUP_NORM || op == CK_OP_LAYER_NORM || op == CK_OP_ATTENTION;
}

ck_node ck_shown(const ck_graph *g, ck_node n) {
    while (g->nodes[n].op == CK_OP_VIEW) n = g->nodes[n].src[0];
    return n;
}

int64_t ck_node_main(const ck_graph *g, ck_node n) {
    ck_op op = g->nodes[n].op;
    bool behind = ck_op_packed(op) || op == CK_OP_GROUP_NORM_GRAD || op == CK_OP_LAYER_NORM_GRAD;
    ck_shape s = behind ? ck_node_shape(g, g->nodes[n].src[0]) : g->nodes[n].shape;
    return ck_shape_count(&s);
}

/* ---- Shapes ---- */

int64_t ck_shape_count(const ck_shape *s) {
    int64_t n = 1;
    for (int i = 0; i < s->rank; i++) n *= s->d[i];
    return n;
}

bool ck_shape_equal(const ck_shape *a, const ck_shape *b) {
    if (a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (a->d[i] != b->d[i]) return false;
    return true;
}

const char *ck_shape_text(const ck_shape *s, char *buf, size_t size) {
    size_t n = 0;
    if (size) buf[0] = 0;
    for (int i = 0; i < s->rank && n < size; i++)
        n += (size_t)snprintf(buf + n, size - n, "%s%lld", i ? "," : "[", (long long)s->d[i]);
    if (n < size) snprintf(buf + n, size - n, "]");
    return buf;
}

ck_shape ck_node_shape(const ck_graph *g, ck_node n) {
    return n == CK_NONE ? CK_SHAPE(0) : g->nodes[n].shape;
}
