/* AutoencoderKL, see vae.h. */
#include "distill/models/vae.h"

#include "distill/models/layers_int.h"
#include "distill/models/model_config_int.h"

#include <math.h>

static const double EPS = 1e-6;

/* ---- The network ---- */

static ck_node resnet(const ck_scope *s, const char *list, int64_t i, const ck_vae_config *c,
                      ck_node x, int64_t out) {
    ck_scope block = ck_scope__child(s, "%s.%d.", list, (int)i);
    return ck_layer__resnet(&block, x, CK_NONE, out, (int)c->groups, EPS);
}

/* One head over all pixels. Older files call the same layers otherwise. */
static ck_node attention(const ck_scope *s, const ck_vae_config *c, ck_node x) {
    bool old = ck_param_exists(s->params, "%squery.weight", s->name);
    int64_t width = ck_scope__width(s, x);
    ck_node h = ck_layer__group_norm(s, "group_norm", x, (int)c->groups, EPS, false);
    h = ck_layer__tokens(s, h);
    ck_node q = ck_layer__linear(s, old ? "query" : "to_q", h, width, true);
    ck_node k = ck_layer__linear(s, old ? "key" : "to_k", h, width, true);
    ck_node v = ck_layer__linear(s, old ? "value" : "to_v", h, width, true);
    h = ck_attention(s->g, q, k, v, 1, false, 1 / sqrt((double)width));
    h = ck_layer__linear(s, old ? "proj_attn" : "to_out.0", h, width, true);
    return ck_add(s->g, x, ck_layer__image(s, h, x));
}

static ck_node middle(const ck_scope *s, const ck_vae_config *c, ck_node x) {
    ck_scope block = ck_scope__child(s, "mid_block.");
    ck_scope seeing = ck_scope__child(&block, "attentions.0.");
    int64_t width = ck_scope__width(s, x);
    x = resnet(&block, "resnets", 0, c, x, width);
    if (c->attention) x = attention(&seeing, c, x);
    return resnet(&block, "resnets", 1, c, x, width);
}

ck_vae_moments ck_vae_encode(ck_graph *g, ck_params *params, const ck_vae_config *c,
                             ck_node image) {
    ck_scope all = {g, params, ""}, s = ck_scope__child(&all, "encoder.");
    ck_node x = ck_layer__conv3(&s, "conv_in", image, c->channels[0]);
    for (int64_t l = 0; l < c->levels; l++) {
        ck_scope block = ck_scope__child(&s, "down_blocks.%d.", (int)l);
        for (int64_t i = 0; i < c->layers; i++)
            x = resnet(&block, "resnets", i, c, x, c->channels[l]);
        if (l + 1 < c->levels) /* padded below and right only */
            x = ck_layer__conv(&block, "downsamplers.0.conv", x, c->channels[l], 3, 2,
                               (int[4]){0, 0, 1, 1});
    }
    x = middle(&s, c, x);
    x = ck_layer__group_norm(&s, "conv_norm_out", x, (int)c->groups, EPS, true);
    x = ck_layer__conv3(&s, "conv_out", x, 2 * c->latent_channels);
    if (c->quant) x = ck_layer__conv(&all, "quant_conv", x, 2 * c->latent_channels, 1, 1, NULL);
    return (ck_vae_moments){ck_slice(g, x, 3, 0, c->latent_channels),
                            ck_slice(g, x, 3, c->latent_channels, c->latent_channels)};
}

ck_node ck_vae_decode(ck_graph *g, ck_params *params, const ck_vae_config *c, ck_node latents) {
    ck_scope all = {g, params, ""}, s = ck_scope__child(&all, "decoder.");
    ck_node x = latents;
    if (c->post_quant)
        x = ck_layer__conv(&all, "post_quant_conv", x, c->latent_channels, 1, 1, NULL);
    x = ck_layer__conv3(&s, "conv_in", x, c->channels[c->levels - 1]);
    x = middle(&s, c, x);
    for (int64_t l = c->levels; l-- > 0;) {
        ck_scope block = ck_scope__child(&s, "up_blocks.%d.", (int)(c->levels - 1 - l));
        for (int64_t i = 0; i <= c->layers; i++)
            x = resnet(&block, "resnets", i, c, x, c->channels[l]);
        if (l > 0)
            x = ck_layer__conv3(&block, "upsamplers.0.conv", ck_upsample(g, x), c->channels[l]);
    }
    x = ck_layer__group_norm(&s, "conv_norm_out", x, (int)c->groups, EPS, true);
    return ck_layer__conv3(&s, "conv_out", x, c->out_channels);
}

int64_t ck_vae_factor(const ck_vae_config *c) {
    return (int64_t)1 << (c->levels - 1);
}

/* ---- Its config.json ---- */

static const ck_model_setting settings[] = {
    {"in_channels out_channels latent_channels block_out_channels layers_per_block "
     "norm_num_groups use_quant_conv use_post_quant_conv mid_block_add_attention "
     "scaling_factor shift_factor down_block_types up_block_types",
     NULL},
    {"act_fn", "[\"silu\"]"},
    {"force_upcast", ""},
    {"latents_mean", "[null]"},
    {"latents_std", "[null]"},
    {"sample_size", ""},
    {0},
};

enum { MOST = 1 << 20 };

static ck_status read_levels(const ck_json *doc, ck_vae_config *c, ck_error *err) {
    static const char *const down[] = {"DownEncoderBlock2D", NULL};
    static const char *const up[] = {"UpDecoderBlock2D", NULL};
    const cJSON *channels = ck_model__field(doc, "block_out_channels");
    size_t n = cJSON_IsArray(channels) ? (size_t)cJSON_GetArraySize(channels) : 0;
    if (n < 1 || n > CK_VAE_LEVELS)
        return ck_json_fail(doc, channels ? channels : doc->root, err,
                            "block_out_channels must be a list of 1 to %d", CK_VAE_LEVELS);
    c->levels = (int64_t)n;
    CK_TRY(ck_model__sizes(doc, "block_out_channels", 1, MOST, n, c->channels, err));
    int which;
    const cJSON *block;
    cJSON_ArrayForEach(block, ck_model__field(doc, "down_block_types"))
        CK_TRY(ck_model__choice(doc, block, down, &which, err));
    cJSON_ArrayForEach(block, ck_model__field(doc, "up_block_types"))
        CK_TRY(ck_model__choice(doc, block, up, &which, err));
    for (size_t i = 0; i < n; i++)
        if (c->channels[i] % c->groups)
            return ck_json_fail(doc, channels, err, "%lld channels do not go into %lld groups",
                                (long long)c->channels[i], (long long)c->groups);
    return CK_OK;
}

static ck_status read_config(const ck_json *doc, ck_vae_config *c, ck_error *err) {
    *c = (ck_vae_config){.in_channels = 3,
                         .out_channels = 3,
                         .latent_channels = 4,
                         .layers = 1,
                         .groups = 32,
                         .quant = true,
                         .post_quant = true,
                         .attention = true,
                         .scale = 0.18215};
    CK_TRY(ck_model__check(doc, "AutoencoderKL", settings, err));
    CK_TRY(ck_model__size(doc, "in_channels", 1, MOST, &c->in_channels, err));
    CK_TRY(ck_model__size(doc, "out_channels", 1, MOST, &c->out_channels, err));
    CK_TRY(ck_model__size(doc, "latent_channels", 1, MOST, &c->latent_channels, err));
    CK_TRY(ck_model__size(doc, "layers_per_block", 1, 15, &c->layers, err));
    CK_TRY(ck_model__size(doc, "norm_num_groups", 1, MOST, &c->groups, err));
    CK_TRY(ck_model__flag(doc, "use_quant_conv", &c->quant, err));
    CK_TRY(ck_model__flag(doc, "use_post_quant_conv", &c->post_quant, err));
    CK_TRY(ck_model__flag(doc, "mid_block_add_attention", &c->attention, err));
    CK_TRY(ck_model__real(doc, "scaling_factor", 1e-6, 1e6, &c->scale, err));
    CK_TRY(ck_model__real(doc, "shift_factor", -1e6, 1e6, &c->shift, err));
    return read_levels(doc, c, err);
}

ck_status ck_vae_read(const char *path, ck_vae_config *c, ck_error *err) {
    ck_json doc;
    CK_TRY(ck_json_load(path, &doc, err));
    ck_status s = read_config(&doc, c, err);
    ck_json_free(&doc);
    return s;
}
