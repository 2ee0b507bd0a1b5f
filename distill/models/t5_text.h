/* T5EncoderModel (v1.1: gated gelu, no biases), the second text encoder of FLUX and the third of
 * SD3.
 *
 *   ck_t5_config c;
 *   CK_TRY(ck_t5_read("model/text_encoder_2/config.json", &c, err));
 *   ck_node states = ck_t5(g, params, &c, ids, buckets);
 *   ck_t5_buckets(&c, T, numbers);             what goes to buckets
 *
 * Weights have the names that transformers gives them. What a config asks for that is not
 * implemented is CK_INPUT with file, line and field.
 */
#ifndef CK_T5_TEXT_H
#define CK_T5_TEXT_H

#include "distill/engine/graph.h"

typedef struct ck_t5_config {
    int64_t vocabulary, width, inner, heads, head, layers;
    int64_t buckets, distance; /* of relative places; farther than distance is all the same */
    double eps;
} ck_t5_config;

ck_status ck_t5_read(const char *path, ck_t5_config *c, ck_error *err);
/* The states of one prompt, T width. ids: T; padding is attended to, as these models do. buckets:
 * T T of I32. */
ck_node ck_t5(ck_graph *g, ck_params *params, const ck_t5_config *c, ck_node ids, ck_node buckets);

/* To which bucket each pair of places belongs, out[tokens tokens], the asking one first: those
 * before and after apart; near ones each for themselves, far ones in steps of the logarithm. */
void ck_t5_buckets(const ck_t5_config *c, size_t tokens, int32_t *out);

#endif
