/* See detect_int.h. */
#include "distill/models/detect_int.h"

#include <stdarg.h>
#include <stdio.h>

/* A dimension of a tensor; 0 where there is none. */
static int64_t dimension(const ck_params *p, size_t axis, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static int64_t dimension(const ck_params *p, size_t axis, const char *format, ...) {
    char name[160];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    const ck_tensor *t = ck_params_tensor(p, name);
    return t && axis < t->rank ? (int64_t)t->shape[axis] : 0;
}

static ck_status incomplete(const ck_params *p, const char *what, ck_error *err) {
    return ck_fail(
        err, CK_INPUT,
        "%s: its %s is not complete, or of a kind not known (cktool inspect tells what is "
        "there)",
        ck_params_path(p), what);
}

/* ---- UNet ---- */

static int64_t depth_of(const ck_params *p, const char *block, int64_t layer) {
    int64_t n = 0;
    while (dimension(p, 0, "%s.attentions.%d.transformer_blocks.%d.norm1.weight", block, (int)layer,
                     (int)n))
        n++;
    return n;
}

static bool detect_level(const ck_params *p, int64_t l, int64_t levels, ck_unet_level *level) {
    char down[32], up[32];
    snprintf(down, sizeof down, "down_blocks.%d", (int)l);
    snprintf(up, sizeof up, "up_blocks.%d", (int)(levels - 1 - l));
    level->channels = dimension(p, 0, "%s.resnets.0.conv1.weight", down);
    level->layers = 0;
    while (level->layers < CK_UNET_LAYERS &&
           dimension(p, 0, "%s.resnets.%d.conv1.weight", down, (int)level->layers))
        level->layers++;
    if (level->layers == 0 || level->layers == CK_UNET_LAYERS) return false;
    for (int64_t i = 0; i < level->layers; i++) level->depth[i] = depth_of(p, down, i);
    for (int64_t i = 0; i <= level->layers; i++) level->up_depth[i] = depth_of(p, up, i);
    return true;
}

/* The width of the text: of any attention to it. */
static int64_t context_of(const ck_params *p, int64_t levels) {
    int64_t width = 0;
    for (int64_t l = 0; l < levels && !width; l++)
        width = dimension(
            p, 1, "down_blocks.%d.attentions.0.transformer_blocks.0.attn2.to_k.weight", (int)l);
    return width;
}

/* Models whose attention's projections are convolutions have 8 heads, the others heads of 64. */
static bool eight_heads(const ck_params *p, int64_t levels) {
    for (int64_t l = 0; l < levels; l++)
        if (dimension(p, 3, "down_blocks.%d.attentions.0.proj_in.weight", (int)l)) return true;
    return false;
}

ck_status ck_detect__unet(const ck_params *p, ck_unet_config *c, ck_error *err) {
    *c = (ck_unet_config){.in_channels = dimension(p, 1, "conv_in.weight"),
                          .out_channels = dimension(p, 0, "conv_out.weight"),
                          .groups = 32,
                          .eps = 1e-5,
                          .flip = true};
    while (c->levels < CK_UNET_LEVELS &&
           dimension(p, 0, "down_blocks.%d.resnets.0.conv1.weight", (int)c->levels))
        c->levels++;
    bool eight = eight_heads(p, c->levels), good = c->levels && c->in_channels && c->out_channels;
    for (int64_t l = 0; l < c->levels && good; l++) {
        good = detect_level(p, l, c->levels, &c->level[l]);
        c->level[l].heads = eight ? 8 : c->level[l].channels / 64;
    }
    c->context = context_of(p, c->levels);
    for (int i = 0; i < 2 && dimension(p, 0, "mid_block.resnets.%d.conv1.weight", i); i++) c->mid++;
    c->mid_depth = depth_of(p, "mid_block", 0);
    c->guidance = dimension(p, 1, "time_embedding.cond_proj.weight");
    c->added_width = dimension(p, 1, "add_embedding.linear_1.weight");
    c->added_time = c->added_width ? 256 : 0;
    return good && c->context ? CK_OK : incomplete(p, "UNet", err);
}

/* ---- VAE ---- */

ck_status ck_detect__vae(const ck_params *p, ck_vae_config *c, ck_error *err) {
    *c = (ck_vae_config){.in_channels = dimension(p, 1, "encoder.conv_in.weight"),
                         .out_channels = dimension(p, 0, "decoder.conv_out.weight"),
                         .latent_channels = dimension(p, 1, "decoder.conv_in.weight"),
                         .groups = 32,
                         .quant = ck_params_has(p, "quant_conv.weight"),
                         .post_quant = ck_params_has(p, "post_quant_conv.weight"),
                         .attention =
                             ck_params_has(p, "decoder.mid_block.attentions.0.group_norm.weight"),
                         .scale = 0.18215};
    for (; c->levels < CK_VAE_LEVELS; c->levels++) {
        int64_t width =
            dimension(p, 0, "encoder.down_blocks.%d.resnets.0.conv1.weight", (int)c->levels);
        if (!width) break;
        c->channels[c->levels] = width;
    }
    while (dimension(p, 0, "encoder.down_blocks.0.resnets.%d.conv1.weight", (int)c->layers))
        c->layers++;
    bool good = c->in_channels && c->out_channels && c->latent_channels && c->levels;
    for (int64_t l = 0; l < c->levels; l++)
        if (c->channels[l] % c->groups)
            return ck_fail(err, CK_INPUT,
                           "%s: a VAE of unusual size (%lld channels): the file does not say how "
                           "many groups it has; open the model as a folder with config.json files",
                           ck_params_path(p), (long long)c->channels[l]);
    return good ? CK_OK : incomplete(p, "VAE", err);
}

/* ---- Text ---- */

ck_status ck_detect__clip(const ck_params *p, bool openai, ck_clip_config *c, ck_error *err) {
    const char *in = ck_params_has(p, "text_model.final_layer_norm.weight") ? "text_model." : "";
    *c =
        (ck_clip_config){.vocabulary = dimension(p, 0, "%sembeddings.token_embedding.weight", in),
                         .width = dimension(p, 1, "%sembeddings.token_embedding.weight", in),
                         .positions = dimension(p, 0, "%sembeddings.position_embedding.weight", in),
                         .inner = dimension(p, 0, "%sencoder.layers.0.mlp.fc1.weight", in),
                         .projection = dimension(p, 0, "text_projection.weight"),
                         .end = 2,
                         .eps = 1e-5};
    while (dimension(p, 0, "%sencoder.layers.%d.layer_norm1.weight", in, (int)c->layers))
        c->layers++;
    c->heads = c->width / 64;
    c->activation = openai ? CK_QUICK_GELU : CK_GELU;
    bool good = c->vocabulary && c->heads && c->positions && c->inner && c->layers;
    return good ? CK_OK : incomplete(p, "text encoder", err);
}

ck_status ck_detect__t5(const ck_params *p, ck_t5_config *c, ck_error *err) {
    const char *self = "encoder.block.0.layer.0.SelfAttention";
    bool shared = ck_params_has(p, "shared.weight");
    const char *table = shared ? "shared.weight" : "encoder.embed_tokens.weight";
    *c = (ck_t5_config){.vocabulary = dimension(p, 0, "%s", table),
                        .width = dimension(p, 1, "%s", table),
                        .inner =
                            dimension(p, 0, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"),
                        .buckets = dimension(p, 0, "%s.relative_attention_bias.weight", self),
                        .heads = dimension(p, 1, "%s.relative_attention_bias.weight", self),
                        .distance = 128,
                        .eps = 1e-6};
    while (dimension(p, 0, "encoder.block.%d.layer.0.layer_norm.weight", (int)c->layers))
        c->layers++;
    if (c->heads) c->head = dimension(p, 0, "%s.q.weight", self) / c->heads;
    bool good = c->vocabulary && c->inner && c->buckets >= 4 && c->buckets < 4 * c->distance &&
                c->head && c->layers;
    return good ? CK_OK : incomplete(p, "T5 encoder", err);
}

/* ---- Transformers ---- */

#define POOLED "time_text_embed.text_embedder.linear_1.weight"

ck_status ck_detect__mmdit(const ck_params *p, ck_mmdit_config *c, ck_error *err) {
    *c = (ck_mmdit_config){.in_channels = dimension(p, 1, "pos_embed.proj.weight"),
                           .patch = dimension(p, 2, "pos_embed.proj.weight"),
                           .width = dimension(p, 0, "pos_embed.proj.weight"),
                           .context = dimension(p, 1, "context_embedder.weight"),
                           .pooled = dimension(p, 1, POOLED),
                           .normed = ck_params_has(p, "transformer_blocks.0.attn.norm_q.weight")};
    int64_t places = dimension(p, 1, "pos_embed.pos_embed"),
            out = dimension(p, 0, "proj_out.weight");
    while (c->positions * c->positions < places) c->positions++;
    while (c->layers < CK_MMDIT_LAYERS &&
           dimension(p, 0, "transformer_blocks.%d.attn.to_q.weight", (int)c->layers)) {
        c->dual[c->layers] =
            dimension(p, 0, "transformer_blocks.%d.attn2.to_q.weight", (int)c->layers);
        c->layers++;
    }
    /* Heads of all published models are of 64. */
    c->heads = c->width / 64;
    if (c->patch) c->out_channels = out / (c->patch * c->patch);
    bool good = c->in_channels && c->heads && c->width % 64 == 0 && c->context && c->pooled &&
                places && c->positions * c->positions == places && c->layers && c->out_channels;
    return good ? CK_OK : incomplete(p, "SD3 transformer", err);
}

ck_status ck_detect__flux(const ck_params *p, ck_flux_config *c, ck_error *err) {
    int64_t head = dimension(p, 0, "single_transformer_blocks.0.attn.norm_q.weight");
    *c = (ck_flux_config){.in_channels = dimension(p, 1, "x_embedder.weight") / 4,
                          .out_channels = dimension(p, 0, "proj_out.weight") / 4,
                          .width = dimension(p, 0, "x_embedder.weight"),
                          .context = dimension(p, 1, "context_embedder.weight"),
                          .pooled = dimension(p, 1, POOLED),
                          .axes = {16, 56, 56}};
    while (dimension(p, 0, "transformer_blocks.%d.attn.to_q.weight", (int)c->layers)) c->layers++;
    while (dimension(p, 0, "single_transformer_blocks.%d.attn.to_q.weight", (int)c->single_layers))
        c->single_layers++;
    ck_flux_detect(p, c);
    if (head && head != 128)
        return ck_fail(
            err, CK_INPUT,
            "%s: a FLUX transformer with heads of %lld, not 128: the file does not say how "
            "many numbers of them turn with each axis (axes_dims_rope); open it as a "
            "folder with config.json files",
            ck_params_path(p), (long long)head);
    c->heads = head ? c->width / head : 0;
    bool good = c->in_channels && c->out_channels && c->heads && c->width % head == 0 &&
                c->context && c->pooled;
    return good ? CK_OK : incomplete(p, "FLUX transformer", err);
}
