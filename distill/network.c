/* Networks, see network.h. */
#include "distill/network.h"

#include <stdio.h>

enum { TIMES = 16, HIDDEN = 128, TOLD = 16 };

static ck_node layer(ck_graph *g, ck_params *params, const char *name, ck_node x, int64_t out) {
    char weight[64], bias[64];
    snprintf(weight, sizeof weight, "%s.weight", name);
    snprintf(bias, sizeof bias, "%s.bias", name);
    ck_shape in = ck_node_shape(g, x);
    ck_node w = ck_param(g, params, weight, CK_SHAPE(out, in.d[in.rank - 1]));
    return ck_linear(g, x, w, ck_param(g, params, bias, CK_SHAPE(out)));
}

static ck_node told(ck_graph *g, ck_params *params, ck_node number) {
    ck_node w = ck_param(g, params, "told.weight", CK_SHAPE(HIDDEN, TOLD));
    return ck_linear(g, ck_guidance_node(g, number, TOLD), w, CK_NONE);
}

/* time is ln(sigma) / 4, between -1.6 and 1.1: 16 times that goes through the sines. */
static ck_node perceptron(ck_graph *g, ck_params *params, ck_node x, ck_node time, ck_node guidance,
                          ck_taps *taps) {
    static const char *const names[] = {"in", "hidden1", "hidden2"};
    ck_node sines = ck_timestep(g, ck_affine(g, time, 16, 0), TIMES, true, 0, 100);
    ck_node h = ck_concat(g, x, sines, 1);
    bool tapped = taps && !taps->count;
    for (int i = 0; i < 3; i++) {
        h = layer(g, params, names[i], h, HIDDEN);
        if (i == 0 && ck_params_has(params, "told.weight"))
            h = ck_add(g, h, told(g, params, guidance));
        h = ck_unary_op(g, CK_SILU, h, 0);
        if (tapped) taps->node[taps->count++] = h;
    }
    if (tapped) taps->encoder = taps->count;
    return layer(g, params, "out", h, ck_node_shape(g, x).d[1]);
}

bool ck_network_guided(const ck_network *n) {
    return n->unet ? n->unet->guidance : ck_params_has(n->params, "told.weight");
}

ck_status ck_network_tell(ck_network *n, ck_unet_config *config, ck_error *err) {
    static const int64_t shape[] = {HIDDEN, TOLD};
    if (!n->unet) return ck_params_add(n->params, "told.weight", 2, shape, err);
    *config = *n->unet;
    n->unet = config;
    return ck_guidance_add(n->params, config, TOLD, err);
}

ck_node ck_network_answer(ck_graph *g, const ck_network *n, ck_node x, ck_node time,
                          ck_node context, ck_node guidance) {
    if (!n->unet) return perceptron(g, n->params, x, time, guidance, n->taps);
    ck_unet_inputs in = {
        .x = x, .time = time, .context = context, .guidance = CK_NONE, .taps = n->taps};
    if (ck_network_guided(n)) in.guidance = ck_guidance_node(g, guidance, n->unet->guidance);
    return ck_unet(g, n->params, n->unet, &in);
}
