/* Who reads each result of a graph, through views of it.
 *
 *   ck_readers *readers = ck_readers_of(graph, needed, outputs, count);
 *   if (readers[n].count == 1) ... nobody but readers[n].nodes[0] needs it ...
 *   free(readers);
 */
#ifndef CK_READERS_H
#define CK_READERS_H

#include "distill/engine/graph.h"

enum { CK_MOST_READERS = 4 };

/* count is more than CK_MOST_READERS where there are more, where one reads a part only, and of the
 * caller's outputs. */
typedef struct ck_readers {
    ck_node nodes[CK_MOST_READERS]; /* one that reads it twice is there twice */
    size_t count;
} ck_readers;

/* By node, of what is needed; of a view it says nothing. NULL: no memory. */
ck_readers *ck_readers_of(const ck_graph *g, const bool *needed, const ck_node *outputs,
                          size_t count);

#endif
