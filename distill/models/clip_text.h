/* CLIP's text encoders: CLIP-L, OpenCLIP-G and -H, and small ones.
 *
 *   ck_clip_config c;
 *   CK_TRY(ck_clip_read("model/text_encoder/config.json", &c, err));
 *   ck_clip_text t = ck_clip(g, params, &c, ids, ends);
 *   CK_TRY(ck_clip_ends(&c, ids, n, length, ends, err));
 */
#ifndef CK_CLIP_TEXT_H
#define CK_CLIP_TEXT_H

#include "distill/engine/graph.h"

typedef struct ck_clip_config {
    int64_t vocabulary, positions, width, inner, heads, layers;
    int64_t projection; /* width of the projected pooled output; 0: not projected */
    int32_t end;        /* the token that pooling takes; 2: the largest, as old configs mean it */
    ck_unary activation;
    double eps;
} ck_clip_config;

typedef struct ck_clip_text {
    ck_node last;        /* N T width, after the last norm */
    ck_node penultimate; /* N T width, what enters the last layer */
    ck_node pooled;      /* N width, or N projection */
} ck_clip_text;

ck_status ck_clip_read(const char *path, ck_clip_config *c, ck_error *err);

/* ids: N T, I32; ends: N, I32, from ck_clip_ends; CK_NONE: pooled is CK_NONE. Names may begin with
 * "text_model.", or not. */
ck_clip_text ck_clip(ck_graph *g, ck_params *params, const ck_clip_config *c, ck_node ids,
                     ck_node ends);

/* Where the pooled token of each of n prompts is among all n length tokens. */
void ck_clip_ends(const ck_clip_config *c, const int32_t *ids, size_t n, size_t length,
                  int32_t *ends);

#endif
