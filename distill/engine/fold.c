/* See fold.h. */
#include "distill/engine/fold.h"

#include "io/os.h"

#include <stdlib.h>

enum { MOST = 4 }; /* readers of a result that is folded */

typedef struct readers {
    ck_node nodes[MOST];
    size_t count; /* more than MOST: of what is stored in any case */
} readers;

static void add_reader(const ck_graph *g, readers *all, ck_node reader, ck_node source) {
    ck_node n = ck_shown(g, source);
    readers *r = &all[n];
    bool whole = ck_shape_count(&g->nodes[source].shape) == ck_shape_count(&g->nodes[n].shape);
    if (!whole || r->count >= MOST)
        r->count = MOST + 1;
    else
        r->nodes[r->count++] = reader;
}

bool ck_fold_choose(const ck_backend *b, const ck_graph *g, const bool *needed,
                    const ck_node *outputs, size_t count, const bool *half, bool *folded) {
    if (!b->folding) return true;
    readers *all = ck_alloc_array(g->count, sizeof *all);
    if (!all) return false;
    for (ck_node i = 0; i < (ck_node)g->count; i++) {
        const ck_graph_node *n = &g->nodes[i];
        for (int s = 0; s < CK_MAX_SRC && needed[i] && n->op != CK_OP_VIEW; s++)
            if (n->src[s] != CK_NONE) add_reader(g, all, i, n->src[s]);
    }
    for (size_t i = 0; i < count; i++) all[ck_shown(g, outputs[i])].count = MOST + 1;
    for (ck_node i = 0; i < (ck_node)g->count; i++)
        folded[i] = needed[i] && all[i].count >= 1 && all[i].count <= MOST &&
                    b->folding->folds(g, half, i, all[i].nodes, all[i].count);
    free(all);
    return true;
}
