/* Networks, see network.h. */
#include "distill/network.h"

#include "distill/layers_int.h"

enum { TIMES = 16, HIDDEN = 128, TOLD = 16 };

static ck_node told(const ck_scope *s, ck_node number) {
    ck_node w = ck_scope__param(s, "told.weight", CK_SHAPE(HIDDEN, TOLD));
    return ck_linear(s->g, ck_guidance_node(s->g, number, TOLD), w, CK_NONE);
}

/* time is ln(sigma) / 4, between -1.6 and 1.1: 16 times that goes through the sines. */
static ck_node perceptron(const ck_scope *s, const ck_network *n, ck_node x, ck_node time,
                          ck_node guidance) {
    static const char *const names[] = {"in", "hidden1", "hidden2"};
    ck_graph *g = s->g;
    ck_taps *taps = n->taps;
    ck_node sines = ck_timestep(g, ck_affine(g, time, 16, 0), TIMES, true, 0, 100);
    ck_node h = ck_concat(g, x, sines, 1);
    bool tapped = taps && !taps->count;
    for (int i = 0; i < 3; i++) {
        h = ck_layer__linear(s, names[i], h, HIDDEN, true);
        if (i == 0 && ck_network_guided(n)) h = ck_add(g, h, told(s, guidance));
        h = ck_unary_op(g, CK_SILU, h, 0);
        if (tapped) taps->node[taps->count++] = h;
    }
    if (tapped) taps->encoder = taps->count;
    return ck_layer__linear(s, "out", h, ck_scope__width(s, x), true);
}

/* Height, width, from where it is cut, and how high and wide it is to be. */
static ck_node sizes_of(ck_graph *g, ck_shape x, int64_t factor) {
    double height = (double)(x.d[1] * factor), width = (double)(x.d[2] * factor);
    const double values[] = {height, width, 0, 0, height, width};
    ck_node sizes = ck_const(g, CK_SHAPE(x.d[0], 1), values[0]);
    for (int i = 1; i < 6; i++)
        sizes = ck_concat(g, sizes, ck_const(g, CK_SHAPE(x.d[0], 1), values[i]), 1);
    return sizes;
}

/* What SDXL takes besides, out of the context. */
static void add_pooled(ck_graph *g, const ck_network *n, ck_unet_inputs *in) {
    ck_shape s = ck_node_shape(g, in->context);
    int64_t pooled = n->unet->added_width - 6 * n->unet->added_time, text = s.d[2] - pooled;
    ck_node whole = in->context;
    in->context = ck_reshape(g, ck_slice(g, whole, 2, 0, text),
                             CK_SHAPE(s.d[0], text / n->unet->context, n->unet->context));
    in->pooled = ck_reshape(g, ck_slice(g, whole, 2, text, pooled), CK_SHAPE(s.d[0], pooled));
    in->sizes = sizes_of(g, ck_node_shape(g, in->x), n->factor);
}

/* With weights that are its own, or those that it has factors to. */
static ck_node ask(ck_graph *g, const ck_network *n, ck_params *weights, ck_node x, ck_node time,
                   ck_node context, ck_node guidance) {
    ck_scope s = {g, weights, ""};
    if (!n->unet) return perceptron(&s, n, x, time, guidance);
    ck_unet_inputs in = {
        .x = x, .time = time, .context = context, .guidance = CK_NONE, .taps = n->taps};
    if (ck_network_guided(n)) in.guidance = ck_guidance_node(g, guidance, n->unet->guidance);
    if (n->unet->added_time) add_pooled(g, n, &in);
    return ck_unet(g, weights, n->unet, &in);
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
    if (!n->adapter) return ask(g, n, n->params, x, time, context, guidance);
    ck_adapting adapting = {n->adapter, n->params};
    ck_adapter_use(g, &adapting);
    ck_node answer = ask(g, n, n->adapter->base, x, time, context, guidance);
    ck_adapter_use(g, NULL);
    return answer;
}
