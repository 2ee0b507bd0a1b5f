/* See residual.h. */
#include "distill/engine/residual.h"

typedef struct choice {
    const ck_backend *backend;
    const ck_graph *graph;
    const bool *needed, *half;
    const ck_readers *readers;
    ck_node *product;
} choice;

static bool is_like(const choice *c, ck_node a, ck_node b) {
    ck_shape x = ck_node_shape(c->graph, a), y = ck_node_shape(c->graph, b);
    return ck_shape_count(&x) == ck_shape_count(&y) && c->half[a] == c->half[b];
}

/* Whether source `source` of addition n shows all of a product that can make it. */
static bool can_make(const choice *c, ck_node n, int source, ck_node product) {
    ck_node other = c->graph->nodes[n].src[1 - source];
    return c->readers[product].count == 1 && c->backend->takes_residual(c->graph, product) &&
           is_like(c, product, n) && is_like(c, other, n);
}

/* (The later one, whose sources are kept for the shortest time.) */
static ck_node choose(const choice *c, ck_node n) {
    ck_node best = CK_NONE;
    for (int s = 0; s < 2; s++) {
        ck_node product = ck_shown(c->graph, c->graph->nodes[n].src[s]);
        if (product > best && can_make(c, n, s, product)) best = product;
    }
    return best;
}

/* Whether n is made as the node that it recomputes; else neither is by a product. */
static bool agree(choice *c, ck_node n) {
    ck_node original = c->graph->nodes[n].original, *mine = &c->product[n];
    ck_node *theirs = &c->product[original];
    if (original == n || !c->needed[n] || !c->needed[original]) return true;
    if (*mine == CK_NONE ? *theirs == CK_NONE : c->graph->nodes[*mine].original == *theirs)
        return true;
    *mine = *theirs = CK_NONE;
    return false;
}

void ck_residual_choose(const ck_backend *b, const ck_graph *g, const bool *needed,
                        const ck_readers *readers, const bool *half, ck_node *product) {
    ck_node end = (ck_node)g->count;
    choice c = {b, g, needed, half, readers, product};
    for (ck_node i = 0; i < end; i++) product[i] = CK_NONE;
    if (!b->takes_residual) return;
    for (ck_node i = 0; i < end; i++)
        if (needed[i] && g->nodes[i].op == CK_OP_ADD) product[i] = choose(&c, i);
    for (bool all = false; !all;) {
        all = true;
        for (ck_node i = 0; i < end; i++) all = agree(&c, i) && all;
    }
}

ck_node ck_residual_of(const ck_graph *g, ck_node n, ck_node product) {
    const ck_graph_node *at = &g->nodes[n];
    return at->src[ck_shown(g, at->src[0]) == product ? 1 : 0];
}
