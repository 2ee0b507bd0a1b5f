/* Generators for layouts.h: one function per network, with its sizes as parameters. */
#include "tests/layouts.h"
#include "io/hash.h"
#include "io/os.h"
#include "io/reader_int.h"
#include "tests/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

void layout_add(layout *l, const char *name, ck_dtype dtype, size_t rank, const uint64_t *shape) {
    layout_tensor *grown = ck_grow(l->tensors, l->count, &l->capacity, sizeof *grown);
    assert_non_null(grown);
    l->tensors = grown;
    layout_tensor *t = &grown[l->count++];
    *t = (layout_tensor){.dtype = dtype, .rank = rank};
    int n = snprintf(t->name, sizeof t->name, "%s%s", l->prefix ? l->prefix : "", name);
    assert_true(n > 0 && n < (int)sizeof t->name);
    for (size_t i = 0; i < rank; i++) t->shape[i] = shape[i];
}

/* ---- Layers ---- */

#define SHAPE(...)                                                                                 \
    COUNT(((uint64_t[]){__VA_ARGS__})), (uint64_t[]) {                                             \
        __VA_ARGS__                                                                                \
    }

/* printf for names; one of a few buffers in turn. */
__attribute__((format(printf, 1, 2))) static const char *name(const char *format, ...) {
    static char buffers[4][160];
    static unsigned turn;
    char *buf = buffers[turn++ % COUNT(buffers)];
    va_list args;
    va_start(args, format);
    vsnprintf(buf, sizeof buffers[0], format, args);
    va_end(args);
    return buf;
}

static void add(layout *l, const char *tensor, size_t rank, const uint64_t *shape) {
    layout_add(l, tensor, CK_F16, rank, shape);
}

static void matrix(layout *l, const char *p, uint64_t out, uint64_t in) {
    add(l, name("%s.weight", p), SHAPE(out, in));
}

static void linear(layout *l, const char *p, uint64_t out, uint64_t in) {
    matrix(l, p, out, in);
    add(l, name("%s.bias", p), SHAPE(out));
}

static void conv(layout *l, const char *p, uint64_t out, uint64_t in, uint64_t size) {
    add(l, name("%s.weight", p), SHAPE(out, in, size, size));
    add(l, name("%s.bias", p), SHAPE(out));
}

static void norm(layout *l, const char *p, uint64_t n) {
    add(l, name("%s.weight", p), SHAPE(n));
    add(l, name("%s.bias", p), SHAPE(n));
}

/* ---- UNet ---- */

typedef struct unet_sizes {
    uint64_t width, in, context, embedding; /* embedding 0: none */
    unsigned levels, widths[4], depths[4], middle_depth;
    bool matrices; /* the attention's projections are matrices, not convolutions */
} unet_sizes;

static void unet_residual(layout *l, const char *block, uint64_t in, uint64_t out, uint64_t width) {
    char p[64];
    snprintf(p, sizeof p, "%s", block);
    norm(l, name("%s.in_layers.0", p), in);
    conv(l, name("%s.in_layers.2", p), out, in, 3);
    linear(l, name("%s.emb_layers.1", p), out, 4 * width);
    norm(l, name("%s.out_layers.0", p), out);
    conv(l, name("%s.out_layers.3", p), out, out, 3);
    if (in != out) conv(l, name("%s.skip_connection", p), out, in, 1);
}

static void unet_projection(layout *l, const char *p, uint64_t n, bool matrices) {
    if (matrices)
        linear(l, p, n, n);
    else
        conv(l, p, n, n, 1);
}

static void unet_attention(layout *l, const char *block, uint64_t n, unsigned depth,
                           const unet_sizes *s) {
    char p[64], q[96];
    snprintf(p, sizeof p, "%s", block);
    norm(l, name("%s.norm", p), n);
    unet_projection(l, name("%s.proj_in", p), n, s->matrices);
    for (unsigned t = 0; t < depth; t++) {
        snprintf(q, sizeof q, "%s.transformer_blocks.%u", p, t);
        for (int attention = 1; attention <= 2; attention++) {
            uint64_t context = attention == 1 ? n : s->context;
            matrix(l, name("%s.attn%d.to_q", q, attention), n, n);
            matrix(l, name("%s.attn%d.to_k", q, attention), n, context);
            matrix(l, name("%s.attn%d.to_v", q, attention), n, context);
            linear(l, name("%s.attn%d.to_out.0", q, attention), n, n);
        }
        linear(l, name("%s.ff.net.0.proj", q), 8 * n, n);
        linear(l, name("%s.ff.net.2", q), n, 4 * n);
        for (int i = 1; i <= 3; i++) norm(l, name("%s.norm%d", q, i), n);
    }
    unet_projection(l, name("%s.proj_out", p), n, s->matrices);
}

static void unet(layout *l, const unet_sizes *s) {
    uint64_t w = s->width, n = w, skips[12];
    unsigned skip = 0, block = 1;
    linear(l, "time_embed.0", 4 * w, w);
    linear(l, "time_embed.2", 4 * w, 4 * w);
    if (s->embedding) {
        linear(l, "label_emb.0.0", 4 * w, s->embedding);
        linear(l, "label_emb.0.2", 4 * w, 4 * w);
    }
    conv(l, "input_blocks.0.0", w, s->in, 3);
    skips[skip++] = w;
    for (unsigned level = 0; level < s->levels; level++) {
        for (int i = 0; i < 2; i++, block++) {
            uint64_t out = s->widths[level] * w;
            unet_residual(l, name("input_blocks.%u.0", block), n, out, w);
            n = out;
            if (s->depths[level])
                unet_attention(l, name("input_blocks.%u.1", block), n, s->depths[level], s);
            skips[skip++] = n;
        }
        if (level + 1 == s->levels) break;
        conv(l, name("input_blocks.%u.0.op", block++), n, n, 3);
        skips[skip++] = n;
    }
    unet_residual(l, "middle_block.0", n, n, w);
    unet_attention(l, "middle_block.1", n, s->middle_depth, s);
    unet_residual(l, "middle_block.2", n, n, w);
    block = 0;
    for (unsigned level = s->levels; level-- > 0;)
        for (int i = 0; i < 3; i++, block++) {
            uint64_t out = s->widths[level] * w;
            unet_residual(l, name("output_blocks.%u.0", block), n + skips[--skip], out, w);
            n = out;
            if (s->depths[level])
                unet_attention(l, name("output_blocks.%u.1", block), n, s->depths[level], s);
            if (level && i == 2)
                conv(l, name("output_blocks.%u.%d.conv", block, s->depths[level] ? 2 : 1), n, n, 3);
        }
    norm(l, "out.0", n);
    conv(l, "out.2", 4, w, 3);
}

static void sd1_unet_of(layout *l, bool tiny, uint64_t in) {
    unet(l, &(unet_sizes){
                tiny ? 2 : 320, in, tiny ? 3 : 768, 0, 4, {1, 2, 4, 4}, {1, 1, 1, 0}, 1, false});
}

static void sd1_unet(layout *l, bool tiny) {
    sd1_unet_of(l, tiny, 4);
}

static void sd2_unet(layout *l, bool tiny) {
    unet(l, &(unet_sizes){
                tiny ? 2 : 320, 4, tiny ? 3 : 1024, 0, 4, {1, 2, 4, 4}, {1, 1, 1, 0}, 1, true});
}

static void sdxl_unet(layout *l, bool tiny) {
    unet(l, &(unet_sizes){tiny ? 2 : 320,
                          4,
                          tiny ? 3 : 2048,
                          tiny ? 5 : 2816,
                          3,
                          {1, 2, 4},
                          {0, 2, 10},
                          10,
                          true});
}

static void refiner_unet(layout *l, bool tiny) {
    unet(l, &(unet_sizes){tiny ? 2 : 384,
                          4,
                          tiny ? 3 : 1280,
                          tiny ? 5 : 2560,
                          4,
                          {1, 2, 4, 4},
                          {0, 4, 4, 0},
                          4,
                          true});
}

/* ---- VAE ---- */

static void vae_residual(layout *l, const char *block, uint64_t in, uint64_t out) {
    char p[64];
    snprintf(p, sizeof p, "%s", block);
    norm(l, name("%s.norm1", p), in);
    conv(l, name("%s.conv1", p), out, in, 3);
    norm(l, name("%s.norm2", p), out);
    conv(l, name("%s.conv2", p), out, out, 3);
    if (in != out) conv(l, name("%s.nin_shortcut", p), out, in, 1);
}

static void vae_middle(layout *l, const char *side, uint64_t n) {
    static const char *const matrices[] = {"q", "k", "v", "proj_out"};
    vae_residual(l, name("%s.mid.block_1", side), n, n);
    norm(l, name("%s.mid.attn_1.norm", side), n);
    for (size_t i = 0; i < COUNT(matrices); i++)
        conv(l, name("%s.mid.attn_1.%s", side, matrices[i]), n, n, 1);
    vae_residual(l, name("%s.mid.block_2", side), n, n);
}

static void vae(layout *l, bool tiny, uint64_t channels) {
    static const unsigned widths[] = {1, 2, 4, 4};
    const uint64_t w = tiny ? 2 : 128;
    uint64_t n = w;
    conv(l, "encoder.conv_in", w, 3, 3);
    for (unsigned level = 0; level < 4; level++) {
        for (int i = 0; i < 2; i++, n = widths[level] * w)
            vae_residual(l, name("encoder.down.%u.block.%d", level, i), n, widths[level] * w);
        if (level < 3) conv(l, name("encoder.down.%u.downsample.conv", level), n, n, 3);
    }
    vae_middle(l, "encoder", n);
    norm(l, "encoder.norm_out", n);
    conv(l, "encoder.conv_out", 2 * channels, n, 3);
    conv(l, "decoder.conv_in", n, channels, 3);
    vae_middle(l, "decoder", n);
    for (unsigned level = 4; level-- > 0;) {
        for (int i = 0; i < 3; i++, n = widths[level] * w)
            vae_residual(l, name("decoder.up.%u.block.%d", level, i), n, widths[level] * w);
        if (level > 0) conv(l, name("decoder.up.%u.upsample.conv", level), n, n, 3);
    }
    norm(l, "decoder.norm_out", n);
    conv(l, "decoder.conv_out", 3, n, 3);
    if (channels == 16) return;
    conv(l, "quant_conv", 2 * channels, 2 * channels, 1);
    conv(l, "post_quant_conv", channels, channels, 1);
}

static void vae4(layout *l, bool tiny) {
    vae(l, tiny, 4);
}

static void vae16(layout *l, bool tiny) {
    vae(l, tiny, 16);
}

/* ---- Text encoders ---- */

static void clip_l_of(layout *l, bool tiny, bool position_ids) {
    static const char *const attention[] = {"k_proj", "v_proj", "q_proj", "out_proj"};
    const uint64_t w = tiny ? 2 : 768;
    const char *e = "text_model.embeddings";
    if (position_ids) layout_add(l, name("%s.position_ids", e), CK_I64, SHAPE(1, 77));
    matrix(l, name("%s.token_embedding", e), tiny ? 5 : 49408, w);
    matrix(l, name("%s.position_embedding", e), 77, w);
    for (int i = 0; i < 12; i++) {
        char p[64];
        snprintf(p, sizeof p, "text_model.encoder.layers.%d", i);
        for (size_t k = 0; k < COUNT(attention); k++)
            linear(l, name("%s.self_attn.%s", p, attention[k]), w, w);
        norm(l, name("%s.layer_norm1", p), w);
        linear(l, name("%s.mlp.fc1", p), 4 * w, w);
        linear(l, name("%s.mlp.fc2", p), w, 4 * w);
        norm(l, name("%s.layer_norm2", p), w);
    }
    norm(l, "text_model.final_layer_norm", w);
}

static void clip_l(layout *l, bool tiny) {
    clip_l_of(l, tiny, false);
}

static void openclip(layout *l, bool tiny, uint64_t width, int layers) {
    const uint64_t w = tiny ? 3 : width;
    add(l, "positional_embedding", SHAPE(77, w));
    add(l, "text_projection", SHAPE(w, tiny ? 4 : width));
    layout_add(l, "logit_scale", CK_F16, 0, NULL);
    for (int i = 0; i < layers; i++) {
        char p[64];
        snprintf(p, sizeof p, "transformer.resblocks.%d", i);
        norm(l, name("%s.ln_1", p), w);
        add(l, name("%s.attn.in_proj_weight", p), SHAPE(3 * w, w));
        add(l, name("%s.attn.in_proj_bias", p), SHAPE(3 * w));
        linear(l, name("%s.attn.out_proj", p), w, w);
        norm(l, name("%s.ln_2", p), w);
        linear(l, name("%s.mlp.c_fc", p), 4 * w, w);
        linear(l, name("%s.mlp.c_proj", p), w, 4 * w);
    }
    matrix(l, "token_embedding", tiny ? 5 : 49408, w);
    norm(l, "ln_final", w);
}

static void clip_h(layout *l, bool tiny) {
    openclip(l, tiny, 1024, 24);
}

static void clip_g(layout *l, bool tiny) {
    openclip(l, tiny, 1280, 32);
}

static void t5(layout *l, bool tiny) {
    static const char *const attention[] = {"q", "k", "v", "o"};
    const uint64_t w = tiny ? 2 : 4096, wide = tiny ? 5 : 10240;
    matrix(l, "shared", tiny ? 5 : 32128, w);
    for (int i = 0; i < 24; i++) {
        char p[64];
        snprintf(p, sizeof p, "encoder.block.%d.layer", i);
        for (size_t k = 0; k < COUNT(attention); k++)
            matrix(l, name("%s.0.SelfAttention.%s", p, attention[k]), w, w);
        if (i == 0)
            matrix(l, name("%s.0.SelfAttention.relative_attention_bias", p), 32, tiny ? 1 : 64);
        add(l, name("%s.0.layer_norm.weight", p), SHAPE(w));
        matrix(l, name("%s.1.DenseReluDense.wi_0", p), wide, w);
        matrix(l, name("%s.1.DenseReluDense.wi_1", p), wide, w);
        matrix(l, name("%s.1.DenseReluDense.wo", p), w, wide);
        add(l, name("%s.1.layer_norm.weight", p), SHAPE(w));
    }
    add(l, "encoder.final_layer_norm.weight", SHAPE(w));
}

/* ---- SD3 ---- */

static void mmdit_norms(layout *l, const char *p, uint64_t head) {
    add(l, name("%s.ln_q.weight", p), SHAPE(head));
    add(l, name("%s.ln_k.weight", p), SHAPE(head));
}

/* dual: so many blocks have a second attention. */
static void mmdit(layout *l, bool tiny, int depth, uint64_t positions, int dual, bool norms) {
    static const char *const sides[] = {"context_block", "x_block"};
    const uint64_t w = tiny ? 2 : 64 * (uint64_t)depth, head = tiny ? 2 : 64;
    add(l, "pos_embed", SHAPE(1, tiny ? 9 : positions, w));
    conv(l, "x_embedder.proj", w, 16, 2);
    linear(l, "t_embedder.mlp.0", w, tiny ? 3 : 256);
    linear(l, "t_embedder.mlp.2", w, w);
    linear(l, "y_embedder.mlp.0", w, tiny ? 3 : 2048);
    linear(l, "y_embedder.mlp.2", w, w);
    linear(l, "context_embedder", w, tiny ? 3 : 4096);
    for (int i = 0; i < depth; i++)
        for (int x = 0; x <= 1; x++) {
            bool last = !x && i == depth - 1, second = x && i < dual;
            char p[64];
            snprintf(p, sizeof p, "joint_blocks.%d.%s", i, sides[x]);
            linear(l, name("%s.attn.qkv", p), 3 * w, w);
            if (norms) mmdit_norms(l, name("%s.attn", p), head);
            if (!last) linear(l, name("%s.attn.proj", p), w, w);
            if (second) {
                linear(l, name("%s.attn2.qkv", p), 3 * w, w);
                mmdit_norms(l, name("%s.attn2", p), head);
                linear(l, name("%s.attn2.proj", p), w, w);
            }
            if (!last) {
                linear(l, name("%s.mlp.fc1", p), 4 * w, w);
                linear(l, name("%s.mlp.fc2", p), w, 4 * w);
            }
            linear(l, name("%s.adaLN_modulation.1", p), (last ? 2 : second ? 9 : 6) * w, w);
        }
    linear(l, "final_layer.linear", tiny ? 3 : 64, w);
    linear(l, "final_layer.adaLN_modulation.1", 2 * w, w);
}

static void sd3_medium(layout *l, bool tiny) {
    mmdit(l, tiny, 24, 36864, 0, false);
}

static void sd35_medium(layout *l, bool tiny) {
    mmdit(l, tiny, 24, 147456, 13, true);
}

static void sd35_large(layout *l, bool tiny) {
    mmdit(l, tiny, 38, 36864, 0, true);
}

/* ---- FLUX ---- */

static void flux_embedder(layout *l, const char *p, uint64_t w, uint64_t in) {
    linear(l, name("%s.in_layer", p), w, in);
    linear(l, name("%s.out_layer", p), w, w);
}

static void flux_norms(layout *l, const char *p, uint64_t head) {
    add(l, name("%s.query_norm.scale", p), SHAPE(head));
    add(l, name("%s.key_norm.scale", p), SHAPE(head));
}

static void flux(layout *l, bool tiny, bool guidance, uint64_t in) {
    static const char *const sides[] = {"img", "txt"};
    const uint64_t w = tiny ? 2 : 3072, head = tiny ? 2 : 128;
    linear(l, "img_in", w, in);
    flux_embedder(l, "time_in", w, tiny ? 3 : 256);
    flux_embedder(l, "vector_in", w, tiny ? 3 : 768);
    if (guidance) flux_embedder(l, "guidance_in", w, tiny ? 3 : 256);
    linear(l, "txt_in", w, tiny ? 3 : 4096);
    for (int i = 0; i < 19; i++)
        for (size_t side = 0; side < 2; side++) {
            char p[64];
            snprintf(p, sizeof p, "double_blocks.%d.%s", i, sides[side]);
            linear(l, name("%s_mod.lin", p), 6 * w, w);
            linear(l, name("%s_attn.qkv", p), 3 * w, w);
            flux_norms(l, name("%s_attn.norm", p), head);
            linear(l, name("%s_attn.proj", p), w, w);
            linear(l, name("%s_mlp.0", p), 4 * w, w);
            linear(l, name("%s_mlp.2", p), w, 4 * w);
        }
    for (int i = 0; i < 38; i++) {
        char p[64];
        snprintf(p, sizeof p, "single_blocks.%d", i);
        linear(l, name("%s.linear1", p), 7 * w, w);
        linear(l, name("%s.linear2", p), w, 5 * w);
        flux_norms(l, name("%s.norm", p), head);
        linear(l, name("%s.modulation.lin", p), 3 * w, w);
    }
    linear(l, "final_layer.linear", tiny ? 3 : 64, w);
    linear(l, "final_layer.adaLN_modulation.1", 2 * w, w);
}

static void flux_dev(layout *l, bool tiny) {
    flux(l, tiny, true, tiny ? 3 : 64);
}

static void flux_schnell(layout *l, bool tiny) {
    flux(l, tiny, false, tiny ? 3 : 64);
}

static void flux_fill(layout *l, bool tiny) {
    flux(l, tiny, true, 384);
}

/* ---- Whole files ---- */

static void at(layout *l, const char *prefix, void (*make)(layout *, bool), bool tiny) {
    l->prefix = prefix;
    make(l, tiny);
    l->prefix = "";
}

static void clip_l_with_ids(layout *l, bool tiny) {
    clip_l_of(l, tiny, true);
}

static void sd1(layout *l, bool tiny) {
    at(l, "model.diffusion_model.", sd1_unet, tiny);
    at(l, "first_stage_model.", vae4, tiny);
    at(l, "cond_stage_model.transformer.", clip_l_with_ids, tiny);
}

static void inpainting_unet(layout *l, bool tiny) {
    sd1_unet_of(l, tiny, 9);
}

static void sd1_inpainting(layout *l, bool tiny) {
    at(l, "model.diffusion_model.", inpainting_unet, tiny);
    at(l, "first_stage_model.", vae4, tiny);
    at(l, "cond_stage_model.transformer.", clip_l_with_ids, tiny);
}

static void sd2(layout *l, bool tiny) {
    at(l, "model.diffusion_model.", sd2_unet, tiny);
    at(l, "first_stage_model.", vae4, tiny);
    at(l, "cond_stage_model.model.", clip_h, tiny);
}

static void sdxl(layout *l, bool tiny) {
    at(l, "model.diffusion_model.", sdxl_unet, tiny);
    at(l, "first_stage_model.", vae4, tiny);
    at(l, "conditioner.embedders.0.transformer.", clip_l_with_ids, tiny);
    at(l, "conditioner.embedders.1.model.", clip_g, tiny);
}

static void refiner(layout *l, bool tiny) {
    at(l, "model.diffusion_model.", refiner_unet, tiny);
    at(l, "first_stage_model.", vae4, tiny);
    at(l, "conditioner.embedders.0.model.", clip_g, tiny);
}

static void sd3_file(layout *l, bool tiny, void (*transformer)(layout *, bool)) {
    at(l, "model.diffusion_model.", transformer, tiny);
    at(l, "first_stage_model.", vae16, tiny);
}

static void sd3_medium_file(layout *l, bool tiny) {
    sd3_file(l, tiny, sd3_medium);
}

static void sd35_medium_file(layout *l, bool tiny) {
    sd3_file(l, tiny, sd35_medium);
}

static void sd35_large_file(layout *l, bool tiny) {
    sd3_file(l, tiny, sd35_large);
}

static void flux_dev_file(layout *l, bool tiny) {
    at(l, "model.diffusion_model.", flux_dev, tiny);
    at(l, "vae.", vae16, tiny);
    at(l, "text_encoders.clip_l.transformer.", clip_l, tiny);
    at(l, "text_encoders.t5xxl.transformer.", t5, tiny);
}

/* The original form's fingerprints were made by a generator in another language whose output the
 * diffusers library's converters accept whole; those of the diffusers form are of the state
 * dictionaries of diffusers 0.42.1 and transformers 5.23.0. */
const layout_case layout_cases[] = {
    {"sd1 unet", sd1_unet, 686, 859520964, "5440e5ee45fc9982", 686, "15576c288e64c99d"},
    {"sd2 unet", sd2_unet, 686, 865910724, "190badf335159750", 686, "13a377e799fc6937"},
    {"sdxl unet", sdxl_unet, 1680, 2567463684, "19c31fb397315128", 1680, "ac0c7e44db3da062"},
    {"refiner unet", refiner_unet, 1220, 2259526660, "23a39b3e3c0f85f0", 1220, "610d3dd5312e4909"},
    {"vae4", vae4, 248, 83653863, "fec7616c69c6c82d", 248, "ac3b2bf6b3f520a3"},
    {"vae16", vae16, 244, 83819683, "312604292a540d82", 244, "58c28b377ec3c519"},
    {"clip-l", clip_l, 196, 123060480, "2bf08036a32f0468", 196, "2bf08036a32f0468"},
    {"clip-h", clip_h, 294, 354032641, "8ceb7faa0472b9d3", 372, "0270f339f627c264"},
    {"clip-g", clip_g, 390, 694659841, "305f5e85de6cdd42", 517, "6e1a5a22ac581cde"},
    {"sd3-medium", sd3_medium, 491, 2084951104, "5d71d0eb4a86034a", 683, "c8c29829cd6f5883"},
    {"sd3.5-large", sd35_large, 923, 8146280768, "406d2afc8e804472", 1227, "2f64563862cf0d26"},
    {"sd3.5-medium", sd35_medium, 665, 2469663936, "4a037486bfcb84de", 909, "ff944825f6ff02cc"},
    {"flux-dev", flux_dev, 780, 11901408320, "54f41176ae5ce6f9", 1160, "0f61dca335b3d46f"},
    {"flux-schnell", flux_schnell, 776, 11891178560, "c07962851a81b0ba", 1156, "699b2d640563ec7a"},
    {"t5", t5, 219, 4762310656, "22eeda6401f40673", 219, "22eeda6401f40673"},
    {"sd1 file", sd1, 1131, 1066235384, "83e16a9445532698", 1131, NULL},
    {"sd2 file", sd2, 1228, 1303597228, "fc8d1cb1496f4f98", 1306, NULL},
    {"sdxl file", sdxl, 2515, 3468837945, "684901dd331a77bb", 2642, NULL},
    {"refiner file", refiner, 1858, 3037840364, "c06ca04f58fdc45b", 1985, NULL},
    {"sd3-medium file", sd3_medium_file, 735, 2168770787, "dd2da905c9bce78e", 927, NULL},
    {"sd3.5-medium file", sd35_medium_file, 909, 2553483619, "6db3206a94ded647", 1153, NULL},
    {"sd3.5-large file", sd35_large_file, 1167, 8230100451, "1a521a6f68df7a40", 1471, NULL},
    {"sd1 inpainting file", sd1_inpainting, 1131, 0, NULL, 1131, NULL},
    {"flux-dev file", flux_dev_file, 1439, 0, NULL, 1819, NULL},
    {"flux fill", flux_fill, 780, 0, NULL, 1160, NULL},
};
const size_t layout_case_count = COUNT(layout_cases);

const layout_case *layout_case_named(const char *wanted) {
    for (size_t i = 0; i < layout_case_count; i++)
        if (strcmp(layout_cases[i].name, wanted) == 0) return &layout_cases[i];
    fail_msg("no layout '%s'", wanted);
    return NULL;
}

void layout_make(layout *l, const layout_case *c, bool tiny) {
    *l = (layout){.prefix = ""};
    c->make(l, tiny);
}

void layout_free(layout *l) {
    free(l->tensors);
    *l = (layout){0};
}

/* ---- Readers ---- */

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static ck_status read_made_up(const ck_reader *r, const ck_tensor *t, uint64_t begin, void *dst,
                              size_t n, ck_error *err) {
    static const unsigned char ln_100[2] = {0x9B, 0x44};
    (void)r, (void)err;
    uint64_t seed = 0;
    for (const char *c = t->name; *c; c++) seed = mix(seed + (unsigned char)*c);
    const char *dot = strrchr(t->name, '.');
    bool scale = strcmp(dot ? dot + 1 : t->name, "logit_scale") == 0;
    unsigned char *bytes = dst;
    for (size_t i = 0; i < n; i++) {
        uint64_t place = begin + i;
        bytes[i] =
            scale ? ln_100[place] : (unsigned char)(mix(seed + place / 8) >> (place % 8 * 8));
    }
    return CK_OK;
}

static const ck_format made_up = {.name = "made up", .read = read_made_up};

ck_reader *layout_reader(const layout *l) {
    ck_error err;
    ck_reader *r = ck_alloc(sizeof *r);
    assert_non_null(r);
    r->fd = -1;
    r->format = &made_up;
    r->path = ck_strdup("made-up");
    for (size_t i = 0; i < l->count; i++) {
        const layout_tensor *t = &l->tensors[i];
        assert_int_equal(
            ck_reader__add(r, t->name, strlen(t->name), t->dtype, t->rank, t->shape, i, &err),
            CK_OK);
    }
    assert_int_equal(ck_reader__finish(r, &err), CK_OK);
    return r;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const ck_tensor *const *)a)->name, (*(const ck_tensor *const *)b)->name);
}

void layout_fingerprint(const ck_reader *r, char hex[17]) {
    size_t n = ck_reader_count(r);
    const ck_tensor **sorted = ck_alloc_array(n, sizeof *sorted);
    ck_sha256 *s = ck_sha256_new();
    assert_true(sorted && s);
    for (size_t i = 0; i < n; i++) sorted[i] = ck_reader_tensor(r, i);
    qsort(sorted, n, sizeof *sorted, by_name);
    for (size_t i = 0; i < n; i++) {
        char line[512];
        int length = snprintf(line, sizeof line, "%s\t", sorted[i]->name);
        for (size_t k = 0; k < sorted[i]->rank; k++)
            length += snprintf(line + length, sizeof line - (size_t)length, "%s%llu", k ? "," : "",
                               (unsigned long long)sorted[i]->shape[k]);
        length += snprintf(line + length, sizeof line - (size_t)length, "\n");
        ck_sha256_update(s, line, (size_t)length);
    }
    char full[CK_SHA256_HEX];
    ck_sha256_hex(s, full);
    memcpy(hex, full, 16);
    hex[16] = 0;
    ck_sha256_free(s);
    free(sorted);
}
