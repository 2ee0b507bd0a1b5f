/* What the kernels of ck_nn_amx are for, and what may be stored as bf16; see simd.h. */
#include "distill/engine/simd.h"

#include "distill/engine/onednn.h"
#include "distill/engine/simd_int.h"
#include "kernels/nn.h"

ck_status ck_simd_prepare_bf16(const ck_graph *g, ck_node n, ck_kernel *kernel, bool *done,
                               ck_error *err) {
    *done = false;
    const ck_nn_amx *kernels = ck_nn_amx_best();
    ck_op op = g->nodes[n].op;
    if (kernels && (op == CK_OP_ATTENTION || op == CK_OP_ATTENTION_GRAD))
        return ck_simd__attention(&kernels->attention, g, n, kernel, done, err);
    if (!kernels || !ck_simd__takes_product(g, n)) return CK_OK;
    *done = true;
    return ck_simd__product(kernels, g, n, kernel, err);
}

/* ---- What may be stored as bf16 ---- */

enum { RESULT = 1, A = 2, B = 4, C = 8, D = 16, E = 32 };

/* Of operations whose kernels take all (that are named) or none. (Of sums the result is f32.) */
static const unsigned alike[CK_OP_COUNT] = {
    [CK_OP_ADD] = RESULT | A | B,
    [CK_OP_SUM_TO] = A,
    [CK_OP_UNARY] = RESULT | A,
    [CK_OP_UNARY_GRAD] = RESULT | A | B,
    [CK_OP_CONCAT] = RESULT | A | B,
    [CK_OP_SLICE] = RESULT | A,
    [CK_OP_PAD] = RESULT | A,
    [CK_OP_UPSAMPLE] = RESULT | A,
    [CK_OP_UPSAMPLE_GRAD] = RESULT | A,
    [CK_OP_GROUP_NORM] = RESULT | A,
    [CK_OP_GROUP_NORM_GRAD] = RESULT | A | D | E,
    [CK_OP_LAYER_NORM] = RESULT | A,
    [CK_OP_LAYER_NORM_GRAD] = RESULT | A | B | C,
    [CK_OP_GEGLU] = RESULT | A,
    [CK_OP_GEGLU_GRAD] = RESULT | A | B,
};

/* What oneDNN is given as right side may be a weight that is kept as bf16. */
static unsigned kept(const ck_graph *g, ck_node n) {
    return g->nodes[ck_shown(g, n)].op == CK_OP_PARAM ? B : 0;
}

static unsigned half_of(const ck_graph *g, ck_node n) {
    ck_op op = g->nodes[n].op;
    const ck_node *src = g->nodes[n].src;
    switch (op) {
    case CK_OP_PARAM:
        return ck_params_frozen(g->nodes[n].params) ? RESULT : 0;
    case CK_OP_MATMUL:
        if (ck_simd__takes_product(g, n)) return g->nodes[n].i[0] ? A | B : RESULT | A | B;
        return ck_onednn_version() ? RESULT | A | kept(g, src[1]) : 0;
    case CK_OP_CONV:
        return ck_onednn_version() ? RESULT | A | kept(g, src[1]) : 0;
    case CK_OP_CONV_DATA_GRAD:
        return ck_onednn_version() ? RESULT | A : 0;
    case CK_OP_CONV_WEIGHT_GRAD:
        return ck_onednn_version() || ck_simd__takes_product(g, n) ? A | B : 0;
    case CK_OP_ATTENTION:
        return ck_simd__takes_attention(&ck_nn_amx_best()->attention, g, n) ? RESULT | A | B | C
                                                                            : 0;
    case CK_OP_ATTENTION_GRAD:
        return ck_simd__takes_attention(&ck_nn_amx_best()->attention, g, n)
                   ? RESULT | A | B | C | D | E
                   : 0;
    default:
        return ck_simd__takes_half(g, n) ? alike[op] : 0;
    }
}

bool ck_simd_takes_half(const ck_graph *g, ck_node n, int source) {
    return ck_nn_amx_best() && half_of(g, n) >> (source + 1) & 1;
}
