/* SD3's transformer, see mmdit.h. */
#include "distill/models/mmdit.h"

#include "distill/models/dit_int.h"
#include "distill/models/model_config_int.h"

/* ---- The network ---- */

/* The middle of the table of places, as many as there are patches. */
static ck_node places(const ck_scope *s, const ck_mmdit_config *c, int64_t h, int64_t w) {
    int64_t side = c->positions;
    ck_node table = ck_scope__param(s, "pos_embed", CK_SHAPE(1, side * side, c->width));
    table = ck_reshape(s->g, ck_detach(s->g, table), CK_SHAPE(side, side, c->width));
    table = ck_slice(s->g, table, 0, (side - h) / 2, h);
    table = ck_slice(s->g, table, 1, (side - w) / 2, w);
    return ck_reshape(s->g, table, CK_SHAPE(1, h * w, c->width));
}

static ck_node to_patches(const ck_scope *s, const ck_mmdit_config *c, ck_node x) {
    ck_scope embed = ck_scope__child(s, "pos_embed.");
    x = ck_layer__conv(&embed, "proj", x, c->width, (int)c->patch, (int)c->patch, NULL);
    ck_shape d = ck_node_shape(s->g, x);
    return ck_add(s->g, ck_layer__tokens(s, x), places(&embed, c, d.d[1], d.d[2]));
}

/* Every token's patch x patch x channels to where it lies in the image. */
static ck_node to_image(const ck_scope *s, const ck_mmdit_config *c, ck_node x, ck_shape image) {
    int64_t p = c->patch, h = image.d[1] / p, w = image.d[2] / p, row = p * c->out_channels;
    x = ck_reshape(s->g, x, CK_SHAPE(image.d[0] * h, w, p, row));
    x = ck_permute(s->g, x, (int[]){0, 2, 1, 3});
    return ck_reshape(s->g, x, CK_SHAPE(image.d[0], image.d[1], image.d[2], c->out_channels));
}

static void check_inputs(ck_graph *g, const ck_mmdit_config *c, const ck_mmdit_inputs *in) {
    ck_shape x = ck_node_shape(g, in->x), context = ck_node_shape(g, in->context);
    if (x.d[1] % c->patch || x.d[2] % c->patch)
        ck_graph_fail(g, CK_USAGE,
                      "the transformer takes heights and widths that are multiples of "
                      "%lld",
                      (long long)c->patch);
    if (x.d[1] > c->positions * c->patch || x.d[2] > c->positions * c->patch)
        ck_graph_fail(g, CK_USAGE, "the transformer takes latents of up to %lld by %lld",
                      (long long)(c->positions * c->patch), (long long)(c->positions * c->patch));
    if (x.d[3] != c->in_channels || context.d[2] != c->context)
        ck_graph_fail(g, CK_USAGE,
                      "the transformer takes %lld channels and text of width %lld, not %lld and "
                      "%lld",
                      (long long)c->in_channels, (long long)c->context, (long long)x.d[3],
                      (long long)context.d[2]);
}

ck_node ck_mmdit(ck_graph *g, ck_params *params, const ck_mmdit_config *c,
                 const ck_mmdit_inputs *in) {
    ck_scope s = {g, params, ""};
    ck_dit d = {.heads = c->heads, .normed = c->normed, .cosine = CK_NONE, .sine = CK_NONE};
    check_inputs(g, c, in);
    d.time = ck_dit__time(&s, in->time, c->guidance ? in->guidance : CK_NONE, in->pooled, c->width);
    ck_node x = to_patches(&s, c, in->x);
    ck_node context = ck_layer__linear(&s, "context_embedder", in->context, c->width, true);
    ck_taps *taps = ck_taps_to_fill(in->taps);
    for (int64_t i = 0; i < c->layers; i++) {
        ck_scope block = ck_scope__child(&s, "transformer_blocks.%d.", (int)i);
        if (c->checkpoint) ck_block_begin(g);
        ck_dit__joint_block(&block, &d, c->dual[i], i + 1 == c->layers, &x, &context);
        if (c->checkpoint) ck_block_end(g);
        ck_dit__tap(taps, i, c->layers, x);
    }
    x = ck_dit__end(&s, &d, x, c->patch * c->patch * c->out_channels);
    return to_image(&s, c, x, ck_node_shape(g, in->x));
}

ck_status ck_mmdit_tell(ck_params *params, ck_mmdit_config *c, ck_error *err) {
    CK_TRY(ck_dit__tell(params, c->width, err));
    c->guidance = true;
    return CK_OK;
}

/* ---- Its config.json ---- */

static const ck_model_setting settings[] = {
    {"sample_size patch_size in_channels out_channels num_layers attention_head_dim "
     "num_attention_heads joint_attention_dim caption_projection_dim pooled_projection_dim "
     "pos_embed_max_size dual_attention_layers",
     NULL},
    {"qk_norm", "[null, \"rms_norm\"]"},
    {0},
};

enum { MOST = 1 << 20 };

static ck_status read_dual(const ck_json *doc, ck_mmdit_config *c, ck_error *err) {
    const cJSON *list = ck_model__field(doc, "dual_attention_layers"), *item;
    if (list && !cJSON_IsArray(list)) return ck_json_fail(doc, list, err, "must be a list");
    cJSON_ArrayForEach(item, list) {
        int64_t layer;
        CK_TRY(ck_model__whole(doc, item, 0, c->layers - 1, &layer, err));
        c->dual[layer] = true;
    }
    return CK_OK;
}

static ck_status read_config(const ck_json *doc, ck_mmdit_config *c, ck_error *err) {
    *c = (ck_mmdit_config){.in_channels = 16,
                           .out_channels = 16,
                           .sample_size = 128,
                           .patch = 2,
                           .layers = 18,
                           .heads = 18,
                           .context = 4096,
                           .pooled = 2048,
                           .positions = 96};
    int64_t head = 64, caption = 1152;
    CK_TRY(ck_model__check(doc, "SD3Transformer2DModel", settings, err));
    CK_TRY(ck_model__size(doc, "in_channels", 1, MOST, &c->in_channels, err));
    CK_TRY(ck_model__size(doc, "out_channels", 1, MOST, &c->out_channels, err));
    CK_TRY(ck_model__size(doc, "sample_size", 1, MOST, &c->sample_size, err));
    CK_TRY(ck_model__size(doc, "patch_size", 1, 64, &c->patch, err));
    CK_TRY(ck_model__size(doc, "num_layers", 1, CK_MMDIT_LAYERS, &c->layers, err));
    CK_TRY(ck_model__size(doc, "num_attention_heads", 1, 4096, &c->heads, err));
    CK_TRY(ck_model__size(doc, "attention_head_dim", 1, CK_MAX_HEAD, &head, err));
    CK_TRY(ck_model__size(doc, "joint_attention_dim", 1, MOST, &c->context, err));
    CK_TRY(ck_model__size(doc, "caption_projection_dim", 1, MOST, &caption, err));
    CK_TRY(ck_model__size(doc, "pooled_projection_dim", 1, MOST, &c->pooled, err));
    CK_TRY(ck_model__size(doc, "pos_embed_max_size", 1, 4096, &c->positions, err));
    c->width = head * c->heads;
    c->normed = ck_model__field(doc, "qk_norm") != NULL;
    if (caption != c->width)
        return ck_json_fail(doc, ck_model__field(doc, "caption_projection_dim"), err,
                            "must be what the heads have together, %lld", (long long)c->width);
    return read_dual(doc, c, err);
}

ck_status ck_mmdit_read(const char *path, ck_mmdit_config *c, ck_error *err) {
    ck_json doc;
    CK_TRY(ck_json_load(path, &doc, err));
    ck_status s = read_config(&doc, c, err);
    ck_json_free(&doc);
    return s;
}
