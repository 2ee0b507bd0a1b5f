/* A discriminator on features, see heads.h. */
#include "distill/models/heads.h"

#include "distill/models/layers_int.h"

static ck_node answer(ck_graph *g, ck_params *params, int i, ck_node x) {
    ck_scope top = {g, params, ""}, s = ck_scope__child(&top, "%d.", i);
    int64_t width = ck_scope__width(&s, x);
    if (ck_node_shape(g, x).rank != 4) {
        x = ck_unary_op(g, CK_SILU, ck_layer__linear(&s, "in", x, width, true), 0);
        return ck_layer__linear(&s, "out", x, 1, true);
    }
    /* (Groups of 16 channels, where they divide.) */
    int groups = width % 16 ? 1 : (int)(width / 16);
    x = ck_layer__group_norm(&s, "norm", ck_layer__conv3(&s, "in", x, width), groups, 1e-5, true);
    return ck_layer__conv(&s, "out", x, 1, 1, 1, NULL);
}

/* max(0, x), rounded off below 0.01 */
static ck_node positive(ck_graph *g, ck_node x) {
    ck_node size = ck_unary_op(g, CK_SQRT, ck_affine(g, ck_mul(g, x, x), 1, 1e-4), 0);
    return ck_affine(g, ck_add(g, x, size), 0.5, 0);
}

static ck_node mean_of(ck_graph *g, ck_params *params, const ck_taps *taps, double sign) {
    ck_node sum = CK_NONE;
    for (size_t i = 0; i < taps->encoder; i++) {
        ck_node a = answer(g, params, (int)i, taps->node[i]);
        if (sign != 0) a = positive(g, ck_affine(g, a, sign, 1));
        ck_node mean = ck_affine(g, ck_mean(g, a), 1 / (double)taps->encoder, 0);
        sum = i ? ck_add(g, sum, mean) : mean;
    }
    return sum;
}

ck_node ck_heads_hinge(ck_graph *g, ck_params *params, const ck_taps *taps, double sign) {
    return mean_of(g, params, taps, sign);
}

ck_node ck_heads_mean(ck_graph *g, ck_params *params, const ck_taps *taps) {
    return mean_of(g, params, taps, 0);
}
