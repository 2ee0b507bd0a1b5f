/* What diffusion transformers with two streams, image and text, have in common: SD3's MMDiT and
 * FLUX. Names are diffusers'. */
#ifndef CK_DIT_INT_H
#define CK_DIT_INT_H

#include "distill/models/layers_int.h"
#include "distill/models/taps.h"

typedef struct ck_dit {
    int64_t heads;
    bool normed;          /* queries and keys go through RMS norms */
    ck_node time;         /* from ck_dit__time */
    ck_node cosine, sine; /* rotation of text, then image: 1 T 1 D/2 1 (D: of a head); or CK_NONE */
} ck_dit;

/* N width: silu of the sum of the embeddings of time (N, up to 1000), pooled text (N P) and, unless
 * CK_NONE, guidance (N, of which a thousand times is embedded). */
ck_node ck_dit__time(const ck_scope *s, ck_node time, ck_node guidance, ck_node pooled,
                     int64_t width);

/* count modulations N 1 width. */
void ck_dit__modulation(const ck_scope *s, const char *name, ck_node time, int64_t width, int count,
                        ck_node *out);
/* norm(x) (1 + scale) + shift */
ck_node ck_dit__modulate(const ck_scope *s, ck_node x, ck_node shift, ck_node scale);
/* x + gate y */
ck_node ck_dit__add_gated(const ck_scope *s, ck_node x, ck_node y, ck_node gate);

typedef struct ck_dit_heads {
    ck_node q, k, v; /* N T C, not yet rotated */
} ck_dit_heads;

/* names: of q, k, v and the norms of q and k. */
ck_dit_heads ck_dit__heads(const ck_scope *s, const ck_dit *d, const char *const names[5],
                           ck_node x);
ck_node ck_dit__attention(const ck_scope *s, const ck_dit *d, ck_dit_heads h);
extern const char *const ck_dit__own[5]; /* "to_q", ... */

/* A block over both streams. dual: the image attends once more, to itself alone (SD3.5 medium).
 * last: the text ends here, *context is left as it was. */
void ck_dit__joint_block(const ck_scope *s, const ck_dit *d, bool dual, bool last, ck_node *x,
                         ck_node *context);

/* The last modulation and projection: N T out. */
ck_node ck_dit__end(const ck_scope *s, const ck_dit *d, ck_node x, int64_t out);

/* The answer of block i of so many is a feature, if it is one of those that are looked at: all, or
 * as many as there is room for, spread evenly. taps: to be filled, or NULL. */
void ck_dit__tap(ck_taps *taps, int64_t i, int64_t blocks, ck_node x);

/* Weights of an embedding of guidance for a network without: its second layer is of zeros, so that
 * it adds nothing until it is trained, its first one that of the time. CK_USAGE: there is one. */
ck_status ck_dit__tell(ck_params *params, int64_t width, ck_error *err);

#endif
