/* FLUX's transformer, see flux.h. */
#include "distill/models/flux.h"

#include "distill/models/dit_int.h"
#include "distill/models/model_config_int.h"

/* ---- The network ---- */

/* N H W C to N (H/2 W/2) (C 2 2) and back. */
static ck_node pack(ck_graph *g, ck_node x) {
    ck_shape d = ck_node_shape(g, x);
    int64_t h = d.d[1] / 2, w = d.d[2] / 2, c = d.d[3];
    x = ck_reshape(g, x, CK_SHAPE(d.d[0] * h, 2, w, 2, c));
    x = ck_permute(g, x, (int[]){0, 2, 4, 1, 3});
    return ck_reshape(g, x, CK_SHAPE(d.d[0], h * w, 4 * c));
}

static ck_node unpack(ck_graph *g, ck_node x, ck_shape image, int64_t c) {
    int64_t h = image.d[1] / 2, w = image.d[2] / 2;
    x = ck_reshape(g, x, CK_SHAPE(image.d[0] * h, w, c, 2, 2));
    x = ck_permute(g, x, (int[]){0, 3, 1, 4, 2});
    return ck_reshape(g, x, CK_SHAPE(image.d[0], 2 * h, 2 * w, c));
}

/* 0 to n - 1. */
static ck_node count_to(ck_graph *g, int64_t n) {
    ck_node all = ck_const(g, CK_SHAPE(1), 0);
    for (int64_t have = 1; have < n; have *= 2) {
        int64_t more = n - have < have ? n - have : have;
        all = ck_concat(g, all, ck_affine(g, ck_slice(g, all, 0, 0, more), 1, (double)have), 0);
    }
    return all;
}

/* Where every token is: text at 0, 0, 0; a patch of the image at 0, row, column. */
static void find_places(ck_graph *g, int64_t text, ck_shape image, ck_node places[3]) {
    int64_t h = image.d[1] / 2, w = image.d[2] / 2;
    ck_node row = ck_reshape(g, count_to(g, h), CK_SHAPE(h, 1));
    ck_node column = ck_reshape(g, count_to(g, w), CK_SHAPE(1, w));
    places[0] = ck_const(g, CK_SHAPE(text + h * w), 0);
    places[1] = ck_reshape(g, ck_expand(g, row, CK_SHAPE(h, w)), CK_SHAPE(h * w));
    places[2] = ck_reshape(g, ck_expand(g, column, CK_SHAPE(h, w)), CK_SHAPE(h * w));
    for (int i = 1; i < 3; i++)
        places[i] = ck_concat(g, ck_const(g, CK_SHAPE(text), 0), places[i], 0);
}

/* By which angles the pairs of a head's numbers turn at every place (rotary embedding over three
 * axes): their cosines and sines. */
static void find_angles(ck_graph *g, const ck_flux_config *c, const ck_node places[3], ck_dit *d) {
    int64_t tokens = ck_node_shape(g, places[0]).d[0], pairs = 0;
    for (int axis = 0; axis < 3; axis++) {
        int64_t half = c->axes[axis] / 2;
        ck_node both = ck_timestep(g, places[axis], (int)c->axes[axis], true, 0, 10000);
        ck_node cosine = ck_slice(g, both, 1, 0, half), sine = ck_slice(g, both, 1, half, half);
        d->cosine = axis ? ck_concat(g, d->cosine, cosine, 1) : cosine;
        d->sine = axis ? ck_concat(g, d->sine, sine, 1) : sine;
        pairs += half;
    }
    d->cosine = ck_reshape(g, d->cosine, CK_SHAPE(1, tokens, 1, pairs, 1));
    d->sine = ck_reshape(g, d->sine, CK_SHAPE(1, tokens, 1, pairs, 1));
}

/* Attention and feed forward side by side, over text and image as one. */
static ck_node single_block(const ck_scope *s, const ck_dit *d, ck_node x) {
    ck_scope attn = ck_scope__child(s, "attn.");
    int64_t width = ck_scope__width(s, x);
    ck_node m[3]; /* shift, scale, gate */
    ck_dit__modulation(s, "norm.linear", d->time, width, 3, m);
    ck_node h = ck_dit__modulate(s, x, m[0], m[1]);
    ck_node y = ck_dit__attention(s, d, ck_dit__heads(&attn, d, ck_dit__own, h));
    ck_node inner = ck_layer__linear(s, "proj_mlp", h, 4 * width, true);
    y = ck_concat(s->g, y, ck_unary_op(s->g, CK_GELU_TANH, inner, 0), 2);
    y = ck_layer__linear(s, "proj_out", y, width, true);
    return ck_dit__add_gated(s, x, y, m[2]);
}

static void check_inputs(ck_graph *g, const ck_flux_config *c, const ck_flux_inputs *in) {
    ck_shape x = ck_node_shape(g, in->x), context = ck_node_shape(g, in->context);
    if (x.d[1] % 2 || x.d[2] % 2)
        ck_graph_fail(g, CK_USAGE, "the transformer takes even heights and widths");
    if (x.d[3] != c->in_channels || context.d[2] != c->context)
        ck_graph_fail(g, CK_USAGE,
                      "the transformer takes %lld channels and text of width %lld, not %lld and "
                      "%lld",
                      (long long)c->in_channels, (long long)c->context, (long long)x.d[3],
                      (long long)context.d[2]);
}

static ck_node run_blocks(const ck_scope *s, const ck_flux_config *c, const ck_dit *d, ck_node x,
                          ck_node context, ck_taps *taps) {
    int64_t text = ck_node_shape(s->g, context).d[1], image = ck_node_shape(s->g, x).d[1];
    int64_t blocks = c->layers + c->single_layers;
    for (int64_t i = 0; i < c->layers; i++) {
        ck_scope block = ck_scope__child(s, "transformer_blocks.%d.", (int)i);
        if (c->checkpoint) ck_block_begin(s->g);
        ck_dit__joint_block(&block, d, false, false, &x, &context);
        if (c->checkpoint) ck_block_end(s->g);
        ck_dit__tap(taps, i, blocks, x);
    }
    ck_node both = ck_concat(s->g, context, x, 1);
    for (int64_t i = 0; i < c->single_layers; i++) {
        ck_scope block = ck_scope__child(s, "single_transformer_blocks.%d.", (int)i);
        if (c->checkpoint) ck_block_begin(s->g);
        both = single_block(&block, d, both);
        if (c->checkpoint) ck_block_end(s->g);
        ck_dit__tap(taps, c->layers + i, blocks, both);
    }
    return ck_slice(s->g, both, 1, text, image);
}

ck_node ck_flux(ck_graph *g, ck_params *params, const ck_flux_config *c, const ck_flux_inputs *in) {
    ck_scope s = {g, params, ""};
    ck_dit d = {.heads = c->heads, .normed = true, .cosine = CK_NONE, .sine = CK_NONE};
    check_inputs(g, c, in);
    ck_node places[3], guidance = c->guidance ? in->guidance : CK_NONE;
    d.time = ck_dit__time(&s, in->time, guidance, in->pooled, c->width);
    find_places(g, ck_node_shape(g, in->context).d[1], ck_node_shape(g, in->x), places);
    find_angles(g, c, places, &d);
    ck_node x = ck_layer__linear(&s, "x_embedder", pack(g, in->x), c->width, true);
    ck_node context = ck_layer__linear(&s, "context_embedder", in->context, c->width, true);
    x = run_blocks(&s, c, &d, x, context, ck_taps_to_fill(in->taps));
    x = ck_dit__end(&s, &d, x, 4 * c->out_channels);
    return unpack(g, x, ck_node_shape(g, in->x), c->out_channels);
}

ck_status ck_flux_tell(ck_params *params, ck_flux_config *c, ck_error *err) {
    CK_TRY(ck_dit__tell(params, c->width, err));
    c->guidance = true;
    return CK_OK;
}

void ck_flux_detect(const ck_params *params, ck_flux_config *c) {
    c->guidance = ck_params_has(params, "time_text_embed.guidance_embedder.linear_1.weight");
}

/* ---- Its config.json ---- */

static const ck_model_setting settings[] = {
    {"in_channels out_channels num_layers num_single_layers attention_head_dim "
     "num_attention_heads joint_attention_dim pooled_projection_dim guidance_embeds "
     "axes_dims_rope",
     NULL},
    {"patch_size", "[1]"},
    {0},
};

enum { MOST = 1 << 20 };

static ck_status read_channels(const ck_json *doc, const char *field, int64_t *channels,
                               ck_error *err) {
    int64_t packed = 4 * *channels;
    CK_TRY(ck_model__size(doc, field, 1, MOST, &packed, err));
    if (packed % 4)
        return ck_json_fail(doc, ck_model__field(doc, field), err, "must be a multiple of 4");
    *channels = packed / 4;
    return CK_OK;
}

static ck_status read_config(const ck_json *doc, ck_flux_config *c, ck_error *err) {
    *c = (ck_flux_config){.in_channels = 16,
                          .layers = 19,
                          .single_layers = 38,
                          .heads = 24,
                          .context = 4096,
                          .pooled = 768,
                          .axes = {16, 56, 56}};
    int64_t head = 128;
    CK_TRY(ck_model__check(doc, "FluxTransformer2DModel", settings, err));
    CK_TRY(read_channels(doc, "in_channels", &c->in_channels, err));
    c->out_channels = c->in_channels;
    CK_TRY(read_channels(doc, "out_channels", &c->out_channels, err));
    CK_TRY(ck_model__size(doc, "num_layers", 0, 1000, &c->layers, err));
    CK_TRY(ck_model__size(doc, "num_single_layers", 0, 1000, &c->single_layers, err));
    CK_TRY(ck_model__size(doc, "num_attention_heads", 1, 4096, &c->heads, err));
    CK_TRY(ck_model__size(doc, "attention_head_dim", 1, CK_MAX_HEAD, &head, err));
    CK_TRY(ck_model__size(doc, "joint_attention_dim", 1, MOST, &c->context, err));
    CK_TRY(ck_model__size(doc, "pooled_projection_dim", 1, MOST, &c->pooled, err));
    CK_TRY(ck_model__sizes(doc, "axes_dims_rope", 2, CK_MAX_HEAD, 3, c->axes, err));
    CK_TRY(ck_model__flag(doc, "guidance_embeds", &c->guidance, err));
    c->width = head * c->heads;
    for (int i = 0; i < 3; i++) head -= c->axes[i] % 2 ? CK_MAX_HEAD : c->axes[i];
    if (head != 0)
        return ck_json_fail(doc, ck_model__field(doc, "axes_dims_rope"), err,
                            "must be three even numbers that add up to attention_head_dim");
    return CK_OK;
}

ck_status ck_flux_write(const char *from, const ck_flux_config *c, const char *to, ck_error *err) {
    return ck_model__write(
        from, (ck_model_change[]){{"guidance_embeds", cJSON_CreateBool(c->guidance)}}, 1, to, err);
}

ck_status ck_flux_read(const char *path, ck_flux_config *c, ck_error *err) {
    ck_json doc;
    CK_TRY(ck_json_load(path, &doc, err));
    ck_status s = read_config(&doc, c, err);
    ck_json_free(&doc);
    return s;
}
