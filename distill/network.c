/* Networks, see network.h. */
#include "distill/network.h"

#include <stdio.h>

enum { TIMES = 16, HIDDEN = 128 };

static ck_node layer(ck_graph *g, ck_params *params, const char *name, ck_node x, int64_t out) {
    char weight[64], bias[64];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    ck_shape in = ck_node_shape(g, x);
    ck_node w = ck_param(g, params, weight, CK_SHAPE(out, in.d[in.rank - 1]));
    return ck_linear(g, x, w, ck_param(g, params, bias, CK_SHAPE(out)));
}

/* time is ln(sigma) / 4, between -1.6 and 1.1: 16 times that goes through the sines. */
static ck_node perceptron(ck_graph *g, ck_params *params, ck_node x, ck_node time) {
    static const char *const names[] = {"in", "hidden1", "hidden2"};
    ck_node sines = ck_timestep(g, ck_affine(g, time, 16, 0), TIMES, true, 0, 100);
    ck_node h = ck_concat(g, x, sines, 1);
    for (int i = 0; i < 3; i++)
        h = ck_unary_op(g, CK_SILU, layer(g, params, names[i], h, HIDDEN), 0);
    return layer(g, params, "out", h, ck_node_shape(g, x).d[1]);
}

bool ck_network_guided(const ck_network *n) {
    return n->unet && n->unet->guidance;
}

ck_node ck_network_answer(ck_graph *g, const ck_network *n, ck_node x, ck_node time,
                          ck_node context, ck_node guidance) {
    if (!n->unet) return perceptron(g, n->params, x, time);
    ck_unet_inputs in = {.x = x, .time = time, .context = context, .guidance = CK_NONE};
    if (ck_network_guided(n)) in.guidance = ck_guidance_node(g, guidance, n->unet->guidance);
    return ck_unet(g, n->params, n->unet, &in);
}
