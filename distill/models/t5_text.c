/* T5's encoder, see t5_text.h. */
#include "distill/models/t5_text.h"

#include "distill/models/layers_int.h"
#include "distill/models/model_config_int.h"

#include <math.h>

/* ---- The network ---- */

/* T (heads head) to heads T head, so that every head lies in one piece. */
static ck_node by_heads(ck_graph *g, ck_node x, int64_t heads) {
    ck_shape d = ck_node_shape(g, x);
    x = ck_reshape(g, x, CK_SHAPE(d.d[0], heads, d.d[1] / heads));
    return ck_permute(g, x, (int[]){1, 0, 2});
}

static ck_node piece(ck_graph *g, ck_node x, int64_t head) {
    ck_shape d = ck_node_shape(g, x);
    return ck_view(g, x, head * d.d[1] * d.d[2], CK_SHAPE(d.d[1], d.d[2]));
}

typedef struct projected {
    ck_node q, k, v, bias; /* heads T head; bias heads T T */
} projected;

/* Answers of heads first to first + n - 1, side by side; joined in pairs of pairs, or else the
 * first would be copied for every other. Scores are not scaled: the weights began that much
 * smaller. */
static ck_node attend(ck_graph *g, const projected *p, int64_t first, int64_t n) {
    if (n > 1) {
        ck_node left = attend(g, p, first, n / 2);
        return ck_concat(g, left, attend(g, p, first + n / 2, n - n / 2), 1);
    }
    ck_node scores =
        ck_matmul(g, piece(g, p->q, first), piece(g, p->k, first), false, true, CK_NONE);
    scores = ck_softmax(g, ck_add(g, scores, piece(g, p->bias, first)));
    return ck_matmul(g, scores, piece(g, p->v, first), false, false, CK_NONE);
}

static ck_node attention(const ck_scope *s, const ck_t5_config *c, ck_node x, ck_node bias) {
    int64_t inner = c->heads * c->head;
    projected p = {.bias = bias};
    p.q = by_heads(s->g, ck_layer__linear(s, "q", x, inner, false), c->heads);
    p.k = by_heads(s->g, ck_layer__linear(s, "k", x, inner, false), c->heads);
    p.v = by_heads(s->g, ck_layer__linear(s, "v", x, inner, false), c->heads);
    return ck_layer__linear(s, "o", attend(s->g, &p, 0, c->heads), c->width, false);
}

static ck_node feed_forward(const ck_scope *s, const ck_t5_config *c, ck_node x) {
    ck_node gate = ck_layer__linear(s, "wi_0", x, c->inner, false);
    ck_node h = ck_layer__linear(s, "wi_1", x, c->inner, false);
    h = ck_inner(s->g, ck_mul(s->g, ck_unary_op(s->g, CK_GELU_TANH, gate, 0), h));
    return ck_layer__linear(s, "wo", h, c->width, false);
}

static ck_node block(const ck_scope *s, const ck_t5_config *c, ck_node x, ck_node bias) {
    ck_scope first = ck_scope__child(s, "layer.0."), second = ck_scope__child(s, "layer.1.");
    ck_scope self = ck_scope__child(&first, "SelfAttention.");
    ck_scope dense = ck_scope__child(&second, "DenseReluDense.");
    ck_node h = ck_layer__rms_norm(&first, "layer_norm", x, c->eps);
    x = ck_add(s->g, x, attention(&self, c, h, bias));
    h = ck_layer__rms_norm(&second, "layer_norm", x, c->eps);
    return ck_add(s->g, x, feed_forward(&dense, c, h));
}

/* One table, the first layer's, for all layers: heads T T. */
static ck_node biases(const ck_scope *s, const ck_t5_config *c, ck_node buckets) {
    ck_scope first = ck_scope__child(s, "block.0.layer.0.SelfAttention.");
    ck_node table =
        ck_scope__param(&first, "relative_attention_bias.weight", CK_SHAPE(c->buckets, c->heads));
    return ck_permute(s->g, ck_embed(s->g, table, buckets), (int[]){2, 0, 1});
}

ck_node ck_t5(ck_graph *g, ck_params *params, const ck_t5_config *c, ck_node ids, ck_node buckets) {
    ck_scope all = {g, params, ""}, s = ck_scope__child(&all, "encoder.");
    bool shared = ck_param_exists(params, "shared.weight");
    ck_node table = ck_scope__param(&all, shared ? "shared.weight" : "encoder.embed_tokens.weight",
                                    CK_SHAPE(c->vocabulary, c->width));
    ck_node x = ck_embed(g, table, ids), bias = biases(&s, c, buckets);
    for (int64_t i = 0; i < c->layers; i++) {
        ck_scope one = ck_scope__child(&s, "block.%d.", (int)i);
        x = block(&one, c, x, bias);
    }
    return ck_layer__rms_norm(&s, "final_layer_norm", x, c->eps);
}

void ck_t5_buckets(const ck_t5_config *c, size_t tokens, int32_t *out) {
    int64_t half = c->buckets / 2, exact = half / 2;
    for (size_t i = 0; i < tokens; i++)
        for (size_t k = 0; k < tokens; k++) {
            int64_t away = (int64_t)k - (int64_t)i, far = away < 0 ? -away : away;
            if (far >= exact) {
                /* In f32, as torch has it: at the edges of buckets it matters. */
                float share = logf((float)far / (float)exact) /
                              (float)log((double)c->distance / (double)exact);
                far = exact + (int64_t)(share * (float)(half - exact));
            }
            if (far > half - 1) far = half - 1;
            out[i * tokens + k] = (int32_t)(far + (away > 0 ? half : 0));
        }
}

/* ---- Its config.json ---- */

static const ck_model_setting settings[] = {
    {"vocab_size d_model d_ff d_kv num_heads num_layers relative_attention_num_buckets "
     "relative_attention_max_distance layer_norm_epsilon",
     NULL},
    {"feed_forward_proj", "[\"gated-gelu\"]"},
    {"dense_act_fn", "[\"gelu_new\"]"},
    {"is_gated_act", "[true]"},
    /* Of its decoder, and of training. */
    {"num_decoder_layers scale_decoder_outputs n_positions output_past classifier_dropout "
     "dropout_rate initializer_factor",
     ""},
    {0},
};

static ck_status check(const ck_json *doc, ck_error *err) {
    static const char *const classes[] = {"T5EncoderModel", NULL};
    int which = 0;
    const cJSON *list = ck_model__field(doc, "architectures");
    CK_TRY(ck_model__choice(doc, cJSON_IsArray(list) ? list->child : NULL, classes, &which, err));
    if (!ck_model__field(doc, "feed_forward_proj"))
        return ck_json_fail(doc, doc->root, err,
                            "feed_forward_proj is missing: the first T5 is not implemented, only "
                            "v1.1 with gated-gelu");
    return ck_model__check_text(doc, "t5", settings, err);
}

static ck_status read_config(const ck_json *doc, ck_t5_config *c, ck_error *err) {
    enum { MOST = 1 << 24 };
    *c = (ck_t5_config){.vocabulary = 32128,
                        .width = 512,
                        .inner = 2048,
                        .heads = 8,
                        .head = 64,
                        .layers = 6,
                        .buckets = 32,
                        .distance = 128,
                        .eps = 1e-6};
    CK_TRY(check(doc, err));
    CK_TRY(ck_model__size(doc, "vocab_size", 1, MOST, &c->vocabulary, err));
    CK_TRY(ck_model__size(doc, "d_model", 1, MOST, &c->width, err));
    CK_TRY(ck_model__size(doc, "d_ff", 1, MOST, &c->inner, err));
    CK_TRY(ck_model__size(doc, "num_heads", 1, 4096, &c->heads, err));
    CK_TRY(ck_model__size(doc, "d_kv", 1, MOST, &c->head, err));
    CK_TRY(ck_model__size(doc, "num_layers", 1, 1000, &c->layers, err));
    CK_TRY(ck_model__size(doc, "relative_attention_num_buckets", 4, 4096, &c->buckets, err));
    CK_TRY(ck_model__size(doc, "relative_attention_max_distance", 1, MOST, &c->distance, err));
    CK_TRY(ck_model__real(doc, "layer_norm_epsilon", 0, 1, &c->eps, err));
    if (c->distance <= c->buckets / 4)
        return ck_json_fail(doc, doc->root, err,
                            "relative_attention_max_distance %lld is too near for %lld buckets",
                            (long long)c->distance, (long long)c->buckets);
    return CK_OK;
}

ck_status ck_t5_read(const char *path, ck_t5_config *c, ck_error *err) {
    ck_json doc;
    CK_TRY(ck_json_load(path, &doc, err));
    ck_status s = read_config(&doc, c, err);
    ck_json_free(&doc);
    return s;
}
