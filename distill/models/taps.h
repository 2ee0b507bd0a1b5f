/* Where features of a network are looked at: what its blocks give.
 *
 *   ck_taps taps = {0};
 *   ... a network is asked with .taps = &taps ...      filled the first time
 */
#ifndef CK_TAPS_H
#define CK_TAPS_H

#include "distill/engine/graph.h"

enum { CK_TAPS = 17 };

/* N H W C, N T C or N C, in the network's order. */
typedef struct ck_taps {
    ck_node node[CK_TAPS];
    size_t count;   /* 0: not yet filled */
    size_t encoder; /* so many of them tell what is seen: a UNet's way down and middle, all others'
                       all */
} ck_taps;

/* The taps where they are to be filled; NULL where there are none, or they are filled. */
static inline ck_taps *ck_taps_to_fill(ck_taps *taps) {
    return taps && !taps->count ? taps : NULL;
}

#endif
