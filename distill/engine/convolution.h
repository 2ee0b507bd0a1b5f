/* The sizes of a convolution, whichever of its three arrays a node makes: x N H W C, weights
 * K R S C, y N P Q K, with p stride + r - top = h and q stride + s - left = w. */
#ifndef CK_CONVOLUTION_H
#define CK_CONVOLUTION_H

#include "distill/engine/graph.h"

typedef struct ck_convolution {
    int64_t n, h, w, c, k, r, s, p, q, stride, top, left;
} ck_convolution;

/* Of a CK_OP_CONV, CK_OP_CONV_DATA_GRAD or CK_OP_CONV_WEIGHT_GRAD. */
static inline ck_convolution ck_convolution_of(const ck_graph *g, ck_node node) {
    const ck_graph_node *n = &g->nodes[node];
    ck_shape a = ck_node_shape(g, n->src[0]), b = ck_node_shape(g, n->src[1]);
    bool data = n->op == CK_OP_CONV_DATA_GRAD, weight = n->op == CK_OP_CONV_WEIGHT_GRAD;
    ck_shape x = data ? n->shape : a, k = weight ? n->shape : b;
    ck_shape y = data ? a : weight ? b : n->shape;
    return (ck_convolution){.n = x.d[0],
                            .h = x.d[1],
                            .w = x.d[2],
                            .c = x.d[3],
                            .k = k.d[0],
                            .r = k.d[1],
                            .s = k.d[2],
                            .p = y.d[1],
                            .q = y.d[2],
                            .stride = n->i[0],
                            .top = n->i[1],
                            .left = n->i[2]};
}

/* Multiplications. */
static inline int64_t ck_convolution_work(const ck_convolution *v) {
    return v->n * v->p * v->q * v->k * v->r * v->s * v->c;
}

#endif
