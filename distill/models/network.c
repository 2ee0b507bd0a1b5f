/* Networks, see network.h. */
#include "distill/models/network.h"

#include "distill/models/layers_int.h"

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
    ck_taps *taps = ck_taps_to_fill(n->taps);
    ck_node sines = ck_timestep(g, ck_affine(g, time, 16, 0), TIMES, true, 0, 100);
    ck_node h = ck_concat(g, x, sines, 1);
    for (int i = 0; i < 3; i++) {
        h = ck_layer__linear(s, names[i], h, HIDDEN, true);
        if (i == 0 && ck_network_guided(n)) h = ck_add(g, h, told(s, guidance));
        h = ck_unary_op(g, CK_SILU, h, 0);
        if (taps) taps->node[taps->count++] = h;
    }
    if (taps) taps->encoder = taps->count;
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

/* Tokens and pooled text, of a context that has both. */
static void split(ck_graph *g, ck_node whole, int64_t width, int64_t pooled, ck_node *context,
                  ck_node *pool) {
    ck_shape s = ck_node_shape(g, whole);
    int64_t text = s.d[2] - pooled;
    *context = ck_reshape(g, ck_slice(g, whole, 2, 0, text), CK_SHAPE(s.d[0], text / width, width));
    *pool = ck_reshape(g, ck_slice(g, whole, 2, text, pooled), CK_SHAPE(s.d[0], pooled));
}

static ck_node unet(ck_graph *g, const ck_network *n, ck_params *weights, ck_unet_inputs in) {
    const ck_unet_config *c = n->unet;
    if (c->guidance) in.guidance = ck_guidance_node(g, in.guidance, c->guidance);
    if (c->added_time) {
        split(g, in.context, c->context, c->added_width - 6 * c->added_time, &in.context,
              &in.pooled);
        in.sizes = sizes_of(g, ck_node_shape(g, in.x), n->factor);
    }
    return ck_unet(g, weights, c, &in);
}

static ck_node mmdit(ck_graph *g, const ck_network *n, ck_params *weights, ck_mmdit_inputs in) {
    split(g, in.context, n->mmdit->context, n->mmdit->pooled, &in.context, &in.pooled);
    return ck_mmdit(g, weights, n->mmdit, &in);
}

static ck_node flux(ck_graph *g, const ck_network *n, ck_params *weights, ck_flux_inputs in) {
    split(g, in.context, n->flux->context, n->flux->pooled, &in.context, &in.pooled);
    return ck_flux(g, weights, n->flux, &in);
}

/* With weights that are its own, or those that it has factors to. */
static ck_node ask(ck_graph *g, const ck_network *n, ck_params *weights, ck_node x, ck_node time,
                   ck_node context, ck_node guidance) {
    ck_scope s = {g, weights, ""};
    if (guidance != CK_NONE) guidance = ck_reshape(g, guidance, CK_SHAPE(ck_node_shape(g, x).d[0]));
    if (n->unet)
        return unet(
            g, n, weights,
            (ck_unet_inputs){
                .x = x, .time = time, .context = context, .guidance = guidance, .taps = n->taps});
    if (n->mmdit)
        return mmdit(
            g, n, weights,
            (ck_mmdit_inputs){
                .x = x, .time = time, .context = context, .guidance = guidance, .taps = n->taps});
    if (n->flux)
        return flux(
            g, n, weights,
            (ck_flux_inputs){
                .x = x, .time = time, .context = context, .guidance = guidance, .taps = n->taps});
    return perceptron(&s, n, x, time, guidance);
}

bool ck_network_guided(const ck_network *n) {
    if (n->unet) return n->unet->guidance;
    if (n->mmdit) return n->mmdit->guidance;
    return n->flux ? n->flux->guidance : ck_params_has(n->params, "told.weight");
}

bool ck_network_same_blocks(const ck_network *student, const ck_network *teacher) {
    const ck_unet_config *s = student->unet, *t = teacher->unet;
    return !s || !t || (s->mid == t->mid && s->level[0].layers == t->level[0].layers);
}

ck_status ck_network_tell(ck_network *n, ck_network_config *config, ck_error *err) {
    static const int64_t shape[] = {HIDDEN, TOLD};
    if (n->unet) {
        config->unet = *n->unet;
        n->unet = &config->unet;
        return ck_guidance_add(n->params, &config->unet, TOLD, err);
    }
    if (n->mmdit) {
        config->mmdit = *n->mmdit;
        n->mmdit = &config->mmdit;
        return ck_mmdit_tell(n->params, &config->mmdit, err);
    }
    if (n->flux) {
        config->flux = *n->flux;
        n->flux = &config->flux;
        return ck_flux_tell(n->params, &config->flux, err);
    }
    return ck_params_add(n->params, "told.weight", 2, shape, err);
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
