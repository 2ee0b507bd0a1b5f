/* CLIP's text encoders, see clip_text.h. */
#include "distill/models/clip_text.h"

#include "distill/models/layers_int.h"
#include "distill/models/model_config_int.h"

#include <math.h>

/* ---- The network ---- */

static ck_node attention(const ck_scope *s, const ck_clip_config *c, ck_node x) {
    ck_node q = ck_layer__linear(s, "q_proj", x, c->width, true);
    ck_node k = ck_layer__linear(s, "k_proj", x, c->width, true);
    ck_node v = ck_layer__linear(s, "v_proj", x, c->width, true);
    double scale = 1 / sqrt((double)c->width / (double)c->heads);
    ck_node y = ck_attention(s->g, q, k, v, (int)c->heads, true, scale);
    return ck_layer__linear(s, "out_proj", y, c->width, true);
}

static ck_node layer(const ck_scope *s, const ck_clip_config *c, ck_node x) {
    ck_scope self = ck_scope__child(s, "self_attn."), mlp = ck_scope__child(s, "mlp.");
    x = ck_add(s->g, x, attention(&self, c, ck_layer__layer_norm(s, "layer_norm1", x, c->eps)));
    ck_node h = ck_layer__layer_norm(s, "layer_norm2", x, c->eps);
    h = ck_unary_op(s->g, c->activation, ck_layer__linear(&mlp, "fc1", h, c->inner, true), 0);
    return ck_add(s->g, x, ck_layer__linear(&mlp, "fc2", h, c->width, true));
}

static ck_node embed(const ck_scope *s, const ck_clip_config *c, ck_node ids) {
    ck_scope names = ck_scope__child(s, "embeddings.");
    ck_node tokens =
        ck_scope__param(&names, "token_embedding.weight", CK_SHAPE(c->vocabulary, c->width));
    ck_node places =
        ck_scope__param(&names, "position_embedding.weight", CK_SHAPE(c->positions, c->width));
    int64_t length = ck_node_shape(s->g, ids).d[1];
    places = ck_slice(s->g, places, 0, 0, length);
    return ck_add(s->g, ck_embed(s->g, tokens, ids),
                  ck_reshape(s->g, places, CK_SHAPE(1, length, c->width)));
}

ck_clip_text ck_clip(ck_graph *g, ck_params *params, const ck_clip_config *c, ck_node ids,
                     ck_node ends) {
    ck_scope all = {g, params, ""}, s = all;
    if (ck_param_exists(params, "text_model.embeddings.token_embedding.weight"))
        s = ck_scope__child(&all, "text_model.");
    ck_clip_text t = {CK_NONE, CK_NONE, CK_NONE};
    ck_node x = embed(&s, c, ids);
    for (int64_t i = 0; i < c->layers; i++) {
        ck_scope block = ck_scope__child(&s, "encoder.layers.%d.", (int)i);
        if (i + 1 == c->layers) t.penultimate = x;
        x = layer(&block, c, x);
    }
    t.last = ck_layer__layer_norm(&s, "final_layer_norm", x, c->eps);
    if (ends == CK_NONE) return t;
    ck_shape d = ck_node_shape(g, t.last);
    ck_node rows = ck_reshape(g, t.last, CK_SHAPE(d.d[0] * d.d[1], c->width));
    t.pooled = ck_embed(g, rows, ends);
    if (c->projection)
        t.pooled = ck_layer__linear(&all, "text_projection", t.pooled, c->projection, false);
    return t;
}

void ck_clip_ends(const ck_clip_config *c, const int32_t *ids, size_t n, size_t length,
                  int32_t *ends) {
    for (size_t k = 0; k < n; k++) {
        const int32_t *prompt = ids + k * length;
        size_t at = 0;
        for (size_t i = 1; i < length; i++)
            if (c->end == 2 ? prompt[i] > prompt[at] : prompt[i] == c->end && prompt[at] != c->end)
                at = i;
        ends[k] = (int32_t)(k * length + at);
    }
}

/* ---- Its config.json ---- */

static const ck_model_setting settings[] = {
    {"vocab_size max_position_embeddings hidden_size intermediate_size num_attention_heads "
     "num_hidden_layers projection_dim hidden_act layer_norm_eps",
     NULL},
    {"attention_dropout dropout initializer_factor initializer_range", ""}, /* of training */
    {0},
};

static ck_status read_config(const ck_json *doc, ck_clip_config *c, ck_error *err) {
    static const char *const classes[] = {"CLIPTextModel", "CLIPTextModelWithProjection", NULL};
    static const char *const activations[] = {"quick_gelu", "gelu", NULL};
    enum { MOST = 1 << 24 };
    *c = (ck_clip_config){.vocabulary = 49408,
                          .positions = 77,
                          .width = 512,
                          .inner = 2048,
                          .heads = 8,
                          .layers = 12,
                          .eps = 1e-5};
    int which = 0, activation = 0;
    int64_t end = 49407, projection = 512;
    const cJSON *list = ck_model__field(doc, "architectures");
    CK_TRY(ck_model__choice(doc, cJSON_IsArray(list) ? list->child : NULL, classes, &which, err));
    CK_TRY(ck_model__check_text(doc, "clip_text_model", settings, err));
    CK_TRY(
        ck_model__choice(doc, ck_model__field(doc, "hidden_act"), activations, &activation, err));
    CK_TRY(ck_model__size(doc, "vocab_size", 1, MOST, &c->vocabulary, err));
    CK_TRY(ck_model__size(doc, "max_position_embeddings", 1, MOST, &c->positions, err));
    CK_TRY(ck_model__size(doc, "hidden_size", 1, MOST, &c->width, err));
    CK_TRY(ck_model__size(doc, "intermediate_size", 1, MOST, &c->inner, err));
    CK_TRY(ck_model__size(doc, "num_attention_heads", 1, MOST, &c->heads, err));
    CK_TRY(ck_model__size(doc, "num_hidden_layers", 1, 1000, &c->layers, err));
    CK_TRY(ck_model__size(doc, "projection_dim", 1, MOST, &projection, err));
    CK_TRY(ck_model__size(doc, "eos_token_id", 0, MOST, &end, err));
    CK_TRY(ck_model__real(doc, "layer_norm_eps", 0, 1, &c->eps, err));
    if (c->width % c->heads)
        return ck_json_fail(doc, doc->root, err, "hidden_size %lld has no %lld heads",
                            (long long)c->width, (long long)c->heads);
    c->projection = which == 1 ? projection : 0;
    c->activation = activation == 1 ? CK_GELU : CK_QUICK_GELU;
    c->end = (int32_t)end;
    return CK_OK;
}

ck_status ck_clip_read(const char *path, ck_clip_config *c, ck_error *err) {
    ck_json doc;
    CK_TRY(ck_json_load(path, &doc, err));
    ck_status s = read_config(&doc, c, err);
    ck_json_free(&doc);
    return s;
}
