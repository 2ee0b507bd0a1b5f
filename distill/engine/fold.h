/* Which results are stored nowhere, because all that read them make them themselves, piece by
 * piece, where a backend can (ck_folding): so large arrays are neither written nor read.
 *
 *   ck_fold_choose(backend, graph, needed, readers, half, folded);
 *   if (folded[n]) ... node n is not run, and its sources live as long as its readers ...
 */
#ifndef CK_FOLD_H
#define CK_FOLD_H

#include "distill/engine/backend.h"
#include "distill/engine/readers.h"

/* needed, half, folded: by node; all of folded is set. */
void ck_fold_choose(const ck_backend *b, const ck_graph *g, const bool *needed,
                    const ck_readers *readers, const bool *half, bool *folded);

#endif
