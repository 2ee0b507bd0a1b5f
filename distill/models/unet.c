/* UNet2DConditionModel, see unet.h. */
#include "distill/models/unet.h"

#include "distill/models/layers_int.h"
#include "distill/models/model_config_int.h"

#include <math.h>
#include <string.h>

/* ---- The network ---- */

typedef struct unet {
    const ck_unet_config *c;
    ck_node time;    /* silu of its embedding, N E */
    ck_node context; /* N T C */
    ck_taps *taps;   /* to be filled, or NULL */
} unet;

static void tap(const unet *u, ck_node x) {
    if (u->taps) u->taps->node[u->taps->count++] = x;
}

static ck_node attention(const ck_scope *s, ck_node x, ck_node context, int64_t heads) {
    int64_t width = ck_scope__width(s, x);
    ck_node q = ck_layer__linear(s, "to_q", x, width, false);
    ck_node k = ck_layer__linear(s, "to_k", context, width, false);
    ck_node v = ck_layer__linear(s, "to_v", context, width, false);
    double scale = 1 / sqrt((double)width / (double)heads);
    ck_node y = ck_attention(s->g, q, k, v, (int)heads, false, scale);
    return ck_layer__linear(s, "to_out.0", y, width, true);
}

/* diffusers' BasicTransformerBlock. */
static ck_node transformer_block(const ck_scope *s, const unet *u, ck_node x, int64_t heads) {
    ck_scope own = ck_scope__child(s, "attn1."), text = ck_scope__child(s, "attn2.");
    ck_scope ff = ck_scope__child(s, "ff.net.");
    int64_t width = ck_scope__width(s, x);
    ck_node h = ck_layer__layer_norm(s, "norm1", x, 1e-5);
    x = ck_add(s->g, x, attention(&own, h, h, heads));
    h = ck_layer__layer_norm(s, "norm2", x, 1e-5);
    x = ck_add(s->g, x, attention(&text, h, u->context, heads));
    h = ck_layer__layer_norm(s, "norm3", x, 1e-5);
    h = ck_geglu(s->g, ck_layer__linear(&ff, "0.proj", h, 8 * width, true));
    return ck_add(s->g, x, ck_layer__linear(&ff, "2", h, width, true));
}

/* diffusers' Transformer2DModel. A 1x1 convolution is a linear layer on tokens. */
static ck_node transformer(const ck_scope *s, const unet *u, ck_node x, int64_t heads,
                           int64_t depth) {
    int64_t width = ck_scope__width(s, x);
    ck_node h = ck_layer__group_norm(s, "norm", x, (int)u->c->groups, 1e-6, false);
    h = ck_layer__linear(s, "proj_in", ck_layer__tokens(s, h), width, true);
    for (int64_t i = 0; i < depth; i++) {
        ck_scope block = ck_scope__child(s, "transformer_blocks.%d.", (int)i);
        h = transformer_block(&block, u, h, heads);
    }
    h = ck_layer__linear(s, "proj_out", h, width, true);
    return ck_add(s->g, x, ck_layer__image(s, h, x));
}

static ck_node resnet(const ck_scope *s, const char *list, int64_t i, const unet *u, ck_node x,
                      int64_t out) {
    ck_scope block = ck_scope__child(s, "%s.%d.", list, (int)i);
    return ck_layer__resnet(&block, x, u->time, out, (int)u->c->groups, u->c->eps);
}

/* One resnet and, with a depth, one transformer after it. Each is a checkpointed block: what is
 * kept is what goes from one to the next. */
static ck_node layer(const ck_scope *s, const unet *u, int64_t i, ck_node x, int64_t out,
                     int64_t heads, int64_t depth) {
    if (u->c->checkpoint) ck_block_begin(s->g);
    x = resnet(s, "resnets", i, u, x, out);
    ck_scope block = ck_scope__child(s, "attentions.%d.", (int)i);
    if (depth) x = transformer(&block, u, x, heads, depth);
    if (u->c->checkpoint) ck_block_end(s->g);
    return x;
}

enum { MOST_SKIPS = CK_UNET_LEVELS * CK_UNET_LAYERS + 1 };

typedef struct skips {
    ck_node x[MOST_SKIPS];
    int count;
} skips;

static ck_node down(const ck_scope *s, const unet *u, ck_node x, skips *kept) {
    for (int64_t l = 0; l < u->c->levels; l++) {
        const ck_unet_level *level = &u->c->level[l];
        ck_scope block = ck_scope__child(s, "down_blocks.%d.", (int)l);
        for (int64_t i = 0; i < level->layers; i++)
            kept->x[kept->count++] = x =
                layer(&block, u, i, x, level->channels, level->heads, level->depth[i]);
        if (l + 1 < u->c->levels)
            kept->x[kept->count++] = x = ck_layer__conv(
                &block, "downsamplers.0.conv", x, level->channels, 3, 2, (int[4]){1, 1, 1, 1});
        tap(u, x);
    }
    return x;
}

static ck_node middle(const ck_scope *s, const unet *u, ck_node x) {
    const ck_unet_level *last = &u->c->level[u->c->levels - 1];
    ck_scope block = ck_scope__child(s, "mid_block.");
    x = layer(&block, u, 0, x, last->channels, last->heads, u->c->mid == 2 ? u->c->mid_depth : 0);
    return u->c->mid == 2 ? resnet(&block, "resnets", 1, u, x, last->channels) : x;
}

static ck_node up(const ck_scope *s, const unet *u, ck_node x, skips *kept) {
    for (int64_t l = u->c->levels; l-- > 0;) {
        const ck_unet_level *level = &u->c->level[l];
        ck_scope block = ck_scope__child(s, "up_blocks.%d.", (int)(u->c->levels - 1 - l));
        for (int64_t i = 0; i <= level->layers; i++) {
            x = ck_concat(s->g, x, kept->x[--kept->count], 3);
            x = layer(&block, u, i, x, level->channels, level->heads, level->up_depth[i]);
        }
        if (l > 0)
            x = ck_layer__conv3(&block, "upsamplers.0.conv", ck_upsample(s->g, x), level->channels);
        tap(u, x);
    }
    return x;
}

/* The embedding of time and of what is added to it. */
static ck_node embed(const ck_scope *s, const ck_unet_config *c, const ck_unet_inputs *in) {
    ck_graph *g = s->g;
    int64_t first = c->level[0].channels, width = 4 * first;
    ck_scope time = ck_scope__child(s, "time_embedding.");
    ck_node sines = ck_timestep(g, in->time, (int)first, c->flip, c->shift, 10000);
    if (c->guidance)
        sines = ck_add(g, sines, ck_layer__linear(&time, "cond_proj", in->guidance, first, false));
    ck_node e = ck_layer__embedding(&time, sines, width);
    if (!c->added_time) return e;
    ck_shape d = ck_node_shape(g, in->sizes);
    ck_scope added = ck_scope__child(s, "add_embedding.");
    ck_node flat = ck_reshape(g, in->sizes, CK_SHAPE(d.d[0] * d.d[1]));
    ck_node sizes = ck_timestep(g, flat, (int)c->added_time, c->flip, c->shift, 10000);
    sizes = ck_reshape(g, sizes, CK_SHAPE(d.d[0], d.d[1] * c->added_time));
    ck_node both = ck_concat(g, in->pooled, sizes, 1);
    return ck_add(g, e, ck_layer__embedding(&added, both, width));
}

/* Mistakes that would else be told of as shapes somewhere inside. */
static void check_inputs(ck_graph *g, const ck_unet_config *c, const ck_unet_inputs *in) {
    ck_shape x = ck_node_shape(g, in->x), context = ck_node_shape(g, in->context);
    int64_t multiple = (int64_t)1 << (c->levels - 1);
    if (x.d[1] % multiple || x.d[2] % multiple)
        ck_graph_fail(g, CK_USAGE, "the UNet takes heights and widths that are multiples of %lld",
                      (long long)multiple);
    if (x.d[3] != c->in_channels || context.d[2] != c->context)
        ck_graph_fail(g, CK_USAGE,
                      "the UNet takes %lld channels and text of width %lld, not %lld and %lld",
                      (long long)c->in_channels, (long long)c->context, (long long)x.d[3],
                      (long long)context.d[2]);
}

ck_node ck_unet(ck_graph *g, ck_params *params, const ck_unet_config *c, const ck_unet_inputs *in) {
    check_inputs(g, c, in);
    ck_scope s = {g, params, ""};
    unet u = {.c = c, .context = in->context};
    u.taps = ck_taps_to_fill(in->taps);
    u.time = ck_unary_op(g, CK_SILU, embed(&s, c, in), 0);
    ck_node x = ck_layer__conv3(&s, "conv_in", in->x, c->level[0].channels);
    skips kept = {.x = {x}, .count = 1};
    x = down(&s, &u, x, &kept);
    if (c->mid) tap(&u, x = middle(&s, &u, x));
    if (u.taps) u.taps->encoder = u.taps->count;
    x = up(&s, &u, x, &kept);
    x = ck_layer__group_norm(&s, "conv_norm_out", x, (int)c->groups, c->eps, true);
    return ck_layer__conv3(&s, "conv_out", x, c->out_channels);
}

void ck_guidance_embed(double scale, size_t width, float *out) {
    size_t half = width / 2;
    for (size_t i = 0; i < half; i++) {
        double f = 1000 * (scale - 1) * exp(-log(10000) * (double)i / ((double)half - 1));
        out[i] = (float)sin(f);
        out[half + i] = (float)cos(f);
    }
}

ck_node ck_guidance_node(ck_graph *g, ck_node scale, int64_t width) {
    ck_shape s = ck_node_shape(g, scale);
    ck_node each = ck_reshape(g, scale, CK_SHAPE(ck_shape_count(&s)));
    return ck_timestep(g, ck_affine(g, each, 1000, -1000), (int)width, false, 1, 10000);
}

#define GUIDANCE_WEIGHT "time_embedding.cond_proj.weight"

ck_status ck_guidance_add(ck_params *params, ck_unet_config *c, int64_t width, ck_error *err) {
    const int64_t shape[] = {c->level[0].channels, width};
    CK_TRY(ck_params_add(params, GUIDANCE_WEIGHT, 2, shape, err));
    c->guidance = width;
    return CK_OK;
}

void ck_guidance_detect(const ck_params *params, ck_unet_config *c) {
    const ck_tensor *t = ck_params_tensor(params, GUIDANCE_WEIGHT);
    c->guidance = t && t->rank == 2 ? (int64_t)t->shape[1] : 0;
}

static bool is_even(const ck_unet_config *c) {
    for (int64_t l = 1; l < c->levels; l++)
        if (c->level[l].layers != c->level[0].layers) return false;
    return true;
}

ck_status ck_unet_write(const char *from, const ck_unet_config *c, const char *to, ck_error *err) {
    ck_model_change changes[3];
    size_t n = 0;
    if (c->guidance)
        changes[n++] =
            (ck_model_change){"time_cond_proj_dim", cJSON_CreateNumber((double)c->guidance)};
    if (is_even(c))
        changes[n++] =
            (ck_model_change){"layers_per_block", cJSON_CreateNumber((double)c->level[0].layers)};
    if (!c->mid) changes[n++] = (ck_model_change){"mid_block_type", cJSON_CreateNull()};
    return ck_model__write(from, changes, n, to, err);
}

/* ---- Its config.json ---- */

static const ck_model_setting settings[] = {
    {"sample_size in_channels out_channels block_out_channels down_block_types "
     "up_block_types mid_block_type layers_per_block attention_head_dim "
     "transformer_layers_per_block reverse_transformer_layers_per_block cross_attention_dim "
     "norm_num_groups norm_eps flip_sin_to_cos freq_shift time_cond_proj_dim "
     "addition_embed_type addition_time_embed_dim projection_class_embeddings_input_dim",
     NULL},
    {"num_attention_heads", "[null]"},
    {"use_linear_projection", ""}, /* a 1x1 convolution is the same */
    {"addition_embed_type_num_heads", ""},
    {"act_fn", "[\"silu\", \"swish\"]"},
    {"attention_type", "[\"default\"]"},
    {"center_input_sample", "[false]"},
    {"class_embed_type", "[null]"},
    {"class_embeddings_concat", "[false]"},
    {"conv_in_kernel", "[3]"},
    {"conv_out_kernel", "[3]"},
    {"cross_attention_norm", "[null]"},
    {"downsample_padding", "[1]"},
    {"dropout", "[0, 0.0]"},
    {"dual_cross_attention", "[false]"},
    {"encoder_hid_dim", "[null]"},
    {"encoder_hid_dim_type", "[null]"},
    {"mid_block_only_cross_attention", "[null, false]"},
    {"mid_block_scale_factor", "[1]"},
    {"num_class_embeds", "[null]"},
    {"only_cross_attention", "[false]"},
    {"resnet_out_scale_factor", "[1]"},
    {"resnet_skip_time_act", "[false]"},
    {"resnet_time_scale_shift", "[\"default\"]"},
    {"time_embedding_act_fn", "[null]"},
    {"time_embedding_dim", "[null]"},
    {"time_embedding_type", "[\"positional\"]"},
    {"timestep_post_act", "[null]"},
    {"upcast_attention", ""}, /* attention is f32 here in any case */
    /* Of weights averaged in training. */
    {"decay inv_gamma min_decay optimization_step power update_after_step use_ema_warmup", ""},
    {0},
};

enum { MOST = 1 << 20 };

/* Whether each level has attention, of the list of block types. */
static ck_status read_blocks(const ck_json *doc, const char *field, const char *plain,
                             const char *crossed, size_t n, bool *attends, ck_error *err) {
    const cJSON *list = ck_model__field(doc, field);
    if (!cJSON_IsArray(list) || (size_t)cJSON_GetArraySize(list) != n)
        return ck_json_fail(doc, list ? list : doc->root, err, "%s must be a list of %zu blocks",
                            field, n);
    const char *names[] = {plain, crossed, NULL};
    const cJSON *item = list->child;
    for (size_t i = 0; i < n; i++, item = item->next) {
        int which = 0;
        CK_TRY(ck_model__choice(doc, item, names, &which, err));
        attends[i] = which == 1;
    }
    return CK_OK;
}

/* Each layer's number of transformer blocks: one number for all levels, or a list with a number or
 * a list of numbers for each. */
static ck_status read_depths(const ck_json *doc, const cJSON *node, size_t levels, size_t level,
                             size_t layers, int64_t *depths, ck_error *err) {
    for (size_t i = 0; i < layers; i++) depths[i] = 1;
    if (!node) return CK_OK;
    if (cJSON_IsArray(node)) {
        if ((size_t)cJSON_GetArraySize(node) != levels)
            return ck_json_fail(doc, node, err, "must be one number or a list of %zu", levels);
        node = cJSON_GetArrayItem(node, (int)level);
    }
    if (cJSON_IsArray(node) && (size_t)cJSON_GetArraySize(node) != layers)
        return ck_json_fail(doc, node, err, "must be one number or a list of %zu", layers);
    const cJSON *item = cJSON_IsArray(node) ? node->child : node;
    for (size_t i = 0; i < layers; i++) {
        CK_TRY(ck_model__whole(doc, item, 0, 100, &depths[i], err));
        if (cJSON_IsArray(node)) item = item->next;
    }
    return CK_OK;
}

/* Level l of n; up blocks are listed from the smallest image. */
static ck_status read_attention(const ck_json *doc, ck_unet_level *level, size_t l, size_t n,
                                bool down, bool up, ck_error *err) {
    const cJSON *depths = ck_model__field(doc, "transformer_layers_per_block");
    const cJSON *reverse = ck_model__field(doc, "reverse_transformer_layers_per_block");
    size_t layers = (size_t)level->layers;
    if (down) CK_TRY(read_depths(doc, depths, n, l, layers, level->depth, err));
    if (!up) return CK_OK;
    return reverse ? read_depths(doc, reverse, n, n - 1 - l, layers + 1, level->up_depth, err)
                   : read_depths(doc, depths, n, l, layers + 1, level->up_depth, err);
}

static ck_status read_levels(const ck_json *doc, ck_unet_config *c, ck_error *err) {
    const cJSON *channels = ck_model__field(doc, "block_out_channels");
    size_t n = cJSON_IsArray(channels) ? (size_t)cJSON_GetArraySize(channels) : 0;
    if (n < 1 || n > CK_UNET_LEVELS)
        return ck_json_fail(doc, channels ? channels : doc->root, err,
                            "block_out_channels must be a list of 1 to %d", CK_UNET_LEVELS);
    int64_t sizes[CK_UNET_LEVELS], layers[CK_UNET_LEVELS], heads[CK_UNET_LEVELS];
    bool down[CK_UNET_LEVELS], up[CK_UNET_LEVELS];
    for (size_t i = 0; i < n; i++) layers[i] = 2, heads[i] = 8;
    CK_TRY(ck_model__sizes(doc, "block_out_channels", 1, MOST, n, sizes, err));
    CK_TRY(ck_model__sizes(doc, "layers_per_block", 1, CK_UNET_LAYERS - 1, n, layers, err));
    /* In all published models it is the number of heads that is called attention_head_dim. */
    CK_TRY(ck_model__sizes(doc, "attention_head_dim", 1, MOST, n, heads, err));
    CK_TRY(
        read_blocks(doc, "down_block_types", "DownBlock2D", "CrossAttnDownBlock2D", n, down, err));
    CK_TRY(read_blocks(doc, "up_block_types", "UpBlock2D", "CrossAttnUpBlock2D", n, up, err));
    for (size_t i = 0; i < n; i++) {
        bool attends = down[i] || up[n - 1 - i] || (i == n - 1 && c->mid == 2);
        if (sizes[i] % c->groups || (attends && sizes[i] % heads[i]))
            return ck_json_fail(doc, channels, err,
                                "%lld channels do not go into groups of %lld, heads of %lld",
                                (long long)sizes[i], (long long)c->groups, (long long)heads[i]);
        c->level[i] = (ck_unet_level){.channels = sizes[i], .heads = heads[i], .layers = layers[i]};
        CK_TRY(read_attention(doc, &c->level[i], i, n, down[i], up[n - 1 - i], err));
    }
    c->levels = (int64_t)n;
    if (c->mid < 2) return CK_OK;
    const cJSON *depths = ck_model__field(doc, "transformer_layers_per_block");
    return read_depths(doc, depths, n, n - 1, 1, &c->mid_depth, err);
}

static ck_status read_middle(const ck_json *doc, ck_unet_config *c, ck_error *err) {
    static const char *const names[] = {"UNetMidBlock2DCrossAttn", "UNetMidBlock2D", NULL};
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(doc->root, "mid_block_type");
    int which = 0;
    if (cJSON_IsNull(node)) return CK_OK;
    CK_TRY(ck_model__choice(doc, node, names, &which, err));
    c->mid = which == 1 ? 1 : 2;
    return CK_OK;
}

static ck_status read_added(const ck_json *doc, ck_unet_config *c, ck_error *err) {
    static const char *const names[] = {"text_time", NULL};
    const cJSON *node = ck_model__field(doc, "addition_embed_type");
    int which;
    CK_TRY(ck_model__size(doc, "time_cond_proj_dim", 2, MOST, &c->guidance, err));
    if (!node) return CK_OK;
    CK_TRY(ck_model__choice(doc, node, names, &which, err));
    c->added_time = 256;
    CK_TRY(ck_model__size(doc, "addition_time_embed_dim", 2, MOST, &c->added_time, err));
    return ck_model__size(doc, "projection_class_embeddings_input_dim", 1, MOST, &c->added_width,
                          err);
}

static ck_status read_config(const ck_json *doc, ck_unet_config *c, ck_error *err) {
    *c = (ck_unet_config){.in_channels = 4,
                          .out_channels = 4,
                          .context = 1280,
                          .groups = 32,
                          .eps = 1e-5,
                          .flip = true};
    CK_TRY(ck_model__check(doc, "UNet2DConditionModel", settings, err));
    CK_TRY(ck_model__size(doc, "in_channels", 1, MOST, &c->in_channels, err));
    CK_TRY(ck_model__size(doc, "out_channels", 1, MOST, &c->out_channels, err));
    CK_TRY(ck_model__size(doc, "sample_size", 1, MOST, &c->sample_size, err));
    CK_TRY(ck_model__size(doc, "cross_attention_dim", 1, MOST, &c->context, err));
    CK_TRY(ck_model__size(doc, "norm_num_groups", 1, MOST, &c->groups, err));
    CK_TRY(ck_model__real(doc, "norm_eps", 0, 1, &c->eps, err));
    CK_TRY(ck_model__real(doc, "freq_shift", 0, 1, &c->shift, err));
    CK_TRY(ck_model__flag(doc, "flip_sin_to_cos", &c->flip, err));
    CK_TRY(read_middle(doc, c, err));
    CK_TRY(read_levels(doc, c, err));
    return read_added(doc, c, err);
}

ck_status ck_unet_read(const char *path, ck_unet_config *c, ck_error *err) {
    ck_json doc;
    CK_TRY(ck_json_load(path, &doc, err));
    ck_status s = read_config(&doc, c, err);
    ck_json_free(&doc);
    return s;
}
