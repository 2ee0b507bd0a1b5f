/* See fold.h. */
#include "distill/engine/fold.h"

void ck_fold_choose(const ck_backend *b, const ck_graph *g, const bool *needed,
                    const ck_readers *readers, const bool *half, bool *folded) {
    for (ck_node i = 0; i < (ck_node)g->count && b->folding; i++) {
        const ck_readers *r = &readers[i];
        folded[i] = needed[i] && r->count >= 1 && r->count <= CK_MOST_READERS &&
                    b->folding->folds(g, half, i, r->nodes, r->count);
    }
}
