/* See half.h. All that can be is assumed to be; what does not fit is taken back until all fits. */
#include "distill/engine/half.h"

typedef struct choice {
    const ck_backend *backend;
    const ck_graph *graph;
    bool *half;
    bool changed;
} choice;

/* Views show either a result or the numbers behind it, which are f32. */
static bool shows_result(const ck_graph *g, ck_node view) {
    const ck_graph_node *n = &g->nodes[view];
    return n->i[0] < ck_node_main(g, n->src[0]);
}

/* Node n is not stored as bf16; of a view: what it shows. */
static void take_back(choice *c, ck_node n) {
    if (!c->half[n]) return;
    c->half[n] = false;
    c->changed = true;
    if (c->graph->nodes[n].op == CK_OP_VIEW) take_back(c, c->graph->nodes[n].src[0]);
}

/* Weights are copied only for products: what is added to them would be rounded with them. */
static bool is_weight(const ck_graph *g, ck_node n) {
    return g->nodes[ck_shown(g, n)].op == CK_OP_PARAM;
}

static bool can(const choice *c, ck_node n, int source) {
    return c->backend->takes_half(c->graph, n, source);
}

/* Of these, result and sources are each stored as they like; of others all (that can be) or none.
 */
static bool mixes(ck_op op) {
    return op == CK_OP_MATMUL || op == CK_OP_SUM_TO || op == CK_OP_CONV ||
           op == CK_OP_CONV_DATA_GRAD || op == CK_OP_CONV_WEIGHT_GRAD;
}

/* The second factor is stored as it likes, too. */
static bool mixes_source(ck_op op, int source) {
    return mixes(op) || (op == CK_OP_MUL && source == 1);
}

static void settle(choice *c, ck_node id) {
    const ck_graph_node *n = &c->graph->nodes[id];
    bool all = c->half[id];
    for (int s = 0; s < CK_MAX_SRC; s++) {
        if (n->src[s] == CK_NONE) continue;
        if (!can(c, id, s) || (is_weight(c->graph, n->src[s]) && !mixes(n->op)))
            take_back(c, n->src[s]);
        else if (!mixes_source(n->op, s))
            all = all && c->half[n->src[s]];
    }
    if (all || mixes(n->op)) return;
    take_back(c, id);
    for (int s = 0; s < CK_MAX_SRC; s++)
        if (n->src[s] != CK_NONE && !mixes_source(n->op, s)) take_back(c, n->src[s]);
}

void ck_half_choose(const ck_backend *b, const ck_graph *g, const bool *needed,
                    const ck_node *outputs, size_t count, bool *half) {
    choice c = {b, g, half, b->takes_half != NULL};
    ck_node end = (ck_node)g->count;
    for (ck_node i = 0; i < end; i++) {
        const ck_graph_node *n = &g->nodes[i];
        half[i] = c.changed && needed[i] && n->dtype == CK_F32 &&
                  (n->op == CK_OP_VIEW ? half[n->src[0]] && shows_result(g, i) : can(&c, i, -1));
    }
    for (size_t i = 0; i < count; i++) take_back(&c, outputs[i]);
    while (c.changed) {
        c.changed = false;
        for (ck_node i = 0; i < end; i++) {
            const ck_graph_node *n = &g->nodes[i];
            if (!needed[i]) continue;
            if (n->op == CK_OP_VIEW) {
                if (!half[n->src[0]]) take_back(&c, i);
            } else {
                settle(&c, i);
            }
            if (half[i] != half[n->original] && needed[n->original])
                take_back(&c, i), take_back(&c, n->original);
        }
    }
}
