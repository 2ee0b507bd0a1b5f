/* See readers.h. */
#include "distill/engine/readers.h"

#include "io/os.h"

static void add_reader(const ck_graph *g, ck_readers *all, ck_node reader, ck_node source) {
    ck_node n = ck_shown(g, source);
    ck_readers *r = &all[n];
    bool whole = ck_shape_count(&g->nodes[source].shape) == ck_shape_count(&g->nodes[n].shape);
    if (!whole || r->count >= CK_MOST_READERS)
        r->count = CK_MOST_READERS + 1;
    else
        r->nodes[r->count++] = reader;
}

ck_readers *ck_readers_of(const ck_graph *g, const bool *needed, const ck_node *outputs,
                          size_t count) {
    ck_readers *all = ck_alloc_array(g->count, sizeof *all);
    if (!all) return NULL;
    for (ck_node i = 0; i < (ck_node)g->count; i++) {
        const ck_graph_node *n = &g->nodes[i];
        for (int s = 0; s < CK_MAX_SRC && needed[i] && n->op != CK_OP_VIEW; s++)
            if (n->src[s] != CK_NONE) add_reader(g, all, i, n->src[s]);
    }
    for (size_t i = 0; i < count; i++) all[ck_shown(g, outputs[i])].count = CK_MOST_READERS + 1;
    return all;
}
