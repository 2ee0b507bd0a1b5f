/* The names of every supported network in both layouts: data for layout_int.h. A new network is a
 * table here, a row in ck_naming_of(), and its clues in anatomy_tables.c. */
#include "io/layout_int.h"

#define SAME(original, diffusers)                                                                  \
    { original, {diffusers}, CK_NUMBERS_SAME, CK_CHANGE_NONE, {0}, NULL, NULL }
#define CHANGED(original, diffusers, change)                                                       \
    { original, {diffusers}, CK_NUMBERS_SAME, change, {0}, NULL, NULL }
#define NUMBERED(original, diffusers, numbering)                                                   \
    { original, {diffusers}, numbering, CK_CHANGE_NONE, {0}, NULL, NULL }
/* Three matrices of equal height, fused in the original. */
#define FUSED3(original, a, b, c)                                                                  \
    { original, {a, b, c}, CK_NUMBERS_SAME, CK_CHANGE_SPLIT, {0}, NULL, NULL }

/* ---- UNet of SD1, SD2, SDXL ---- */

#define RESIDUAL(original, diffusers, numbering)                                                   \
    NUMBERED(original ".in_layers.0.*", diffusers ".norm1.*", numbering),                          \
        NUMBERED(original ".in_layers.2.*", diffusers ".conv1.*", numbering),                      \
        NUMBERED(original ".emb_layers.1.*", diffusers ".time_emb_proj.*", numbering),             \
        NUMBERED(original ".out_layers.0.*", diffusers ".norm2.*", numbering),                     \
        NUMBERED(original ".out_layers.3.*", diffusers ".conv2.*", numbering),                     \
        NUMBERED(original ".skip_connection.*", diffusers ".conv_shortcut.*", numbering)

/* The embedding of SD2 unCLIP goes by another name than that of SDXL, whose first level has no
 * attention. */
#define IF_UNCLIP .if_original = "input_blocks.1.1.norm.weight"

static const ck_name_row unet_rows[] = {
    SAME("time_embed.0.*", "time_embedding.linear_1.*"),
    SAME("time_embed.2.*", "time_embedding.linear_2.*"),
    SAME("time_embed.cond_proj.*", "time_embedding.cond_proj.*"),
    {.original = "label_emb.0.0.*", .diffusers = {"class_embedding.linear_1.*"}, IF_UNCLIP},
    {.original = "label_emb.0.2.*", .diffusers = {"class_embedding.linear_2.*"}, IF_UNCLIP},
    SAME("label_emb.0.0.*", "add_embedding.linear_1.*"),
    SAME("label_emb.0.2.*", "add_embedding.linear_2.*"),
    SAME("label_emb.weight", "class_embedding.weight"),
    SAME("input_blocks.0.0.*", "conv_in.*"),
    NUMBERED("input_blocks.#.0.op.*", "down_blocks.#.downsamplers.0.conv.*", CK_NUMBERS_DOWN),
    RESIDUAL("input_blocks.#.0", "down_blocks.#.resnets.#", CK_NUMBERS_INPUT),
    NUMBERED("input_blocks.#.1.*", "down_blocks.#.attentions.#.*", CK_NUMBERS_INPUT),
    RESIDUAL("middle_block.0", "mid_block.resnets.0", CK_NUMBERS_SAME),
    SAME("middle_block.1.*", "mid_block.attentions.0.*"),
    RESIDUAL("middle_block.2", "mid_block.resnets.1", CK_NUMBERS_SAME),
    /* The upsampler comes after the attention, where there is one. */
    {.original = "output_blocks.#.2.conv.*",
     .diffusers = {"up_blocks.#.upsamplers.0.conv.*"},
     .numbering = CK_NUMBERS_UP,
     .if_diffusers = "up_blocks.#.attentions.0.norm.weight"},
    NUMBERED("output_blocks.#.1.conv.*", "up_blocks.#.upsamplers.0.conv.*", CK_NUMBERS_UP),
    RESIDUAL("output_blocks.#.0", "up_blocks.#.resnets.#", CK_NUMBERS_OUTPUT),
    NUMBERED("output_blocks.#.1.*", "up_blocks.#.attentions.#.*", CK_NUMBERS_OUTPUT),
    SAME("out.0.*", "conv_norm_out.*"),
    SAME("out.2.*", "conv_out.*"),
    SAME("scaled_fp8", "scaled_fp8"),
    {0},
};

static const ck_naming unet = {
    .rows = unet_rows,
    .count_original = "output_blocks.#.0.in_layers.0.weight",
    .count_diffusers = "up_blocks.0.resnets.#.norm1.weight",
    .divisor_original = "input_blocks.#.0.op.weight",
};

/* ---- VAE, of 4 and of 16 channels ---- */

/* The second names of the attention's matrices are those of old diffusers files. */
#define VAE_MIDDLE(side)                                                                           \
    SAME(side ".mid.block_1.*", side ".mid_block.resnets.0.*"),                                    \
        SAME(side ".mid.block_2.*", side ".mid_block.resnets.1.*"),                                \
        SAME(side ".mid.attn_1.norm.*", side ".mid_block.attentions.0.group_norm.*"),              \
        CHANGED(side ".mid.attn_1.q.*", side ".mid_block.attentions.0.to_q.*", CK_CHANGE_MATRIX),  \
        CHANGED(side ".mid.attn_1.k.*", side ".mid_block.attentions.0.to_k.*", CK_CHANGE_MATRIX),  \
        CHANGED(side ".mid.attn_1.v.*", side ".mid_block.attentions.0.to_v.*", CK_CHANGE_MATRIX),  \
        CHANGED(side ".mid.attn_1.proj_out.*", side ".mid_block.attentions.0.to_out.0.*",          \
                CK_CHANGE_MATRIX),                                                                 \
        CHANGED(side ".mid.attn_1.q.*", side ".mid_block.attentions.0.query.*", CK_CHANGE_MATRIX), \
        CHANGED(side ".mid.attn_1.k.*", side ".mid_block.attentions.0.key.*", CK_CHANGE_MATRIX),   \
        CHANGED(side ".mid.attn_1.v.*", side ".mid_block.attentions.0.value.*", CK_CHANGE_MATRIX), \
        CHANGED(side ".mid.attn_1.proj_out.*", side ".mid_block.attentions.0.proj_attn.*",         \
                CK_CHANGE_MATRIX)

/* Inside of a block only the shortcut is named differently. */
#define VAE_BLOCK(original, diffusers, numbering)                                                  \
    NUMBERED(original ".nin_shortcut.*", diffusers ".conv_shortcut.*", numbering),                 \
        NUMBERED(original ".*", diffusers ".*", numbering)

static const ck_name_row vae_rows[] = {
    SAME("encoder.conv_in.*", "encoder.conv_in.*"),
    VAE_BLOCK("encoder.down.#.block.#", "encoder.down_blocks.#.resnets.#", CK_NUMBERS_SAME),
    SAME("encoder.down.#.downsample.conv.*", "encoder.down_blocks.#.downsamplers.0.conv.*"),
    VAE_MIDDLE("encoder"),
    SAME("encoder.norm_out.*", "encoder.conv_norm_out.*"),
    SAME("encoder.conv_out.*", "encoder.conv_out.*"),
    SAME("decoder.conv_in.*", "decoder.conv_in.*"),
    VAE_MIDDLE("decoder"),
    VAE_BLOCK("decoder.up.#.block.#", "decoder.up_blocks.#.resnets.#", CK_NUMBERS_REVERSE),
    NUMBERED("decoder.up.#.upsample.conv.*", "decoder.up_blocks.#.upsamplers.0.conv.*",
             CK_NUMBERS_REVERSE),
    SAME("decoder.norm_out.*", "decoder.conv_norm_out.*"),
    SAME("decoder.conv_out.*", "decoder.conv_out.*"),
    SAME("quant_conv.*", "quant_conv.*"),
    SAME("post_quant_conv.*", "post_quant_conv.*"),
    {0},
};

static const ck_naming vae = {
    .rows = vae_rows,
    .count_original = "decoder.up.#.block.0.conv1.weight",
    .count_diffusers = "decoder.up_blocks.#.resnets.0.conv1.weight",
};

/* ---- CLIP text encoders: OpenCLIP's names and transformers' ---- */

#define LAYER "text_model.encoder.layers.#"

static const ck_name_row clip_rows[] = {
    SAME("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    SAME("token_embedding.*", "text_model.embeddings.token_embedding.*"),
    SAME("transformer.resblocks.#.ln_1.*", LAYER ".layer_norm1.*"),
    SAME("transformer.resblocks.#.ln_2.*", LAYER ".layer_norm2.*"),
    SAME("transformer.resblocks.#.mlp.c_fc.*", LAYER ".mlp.fc1.*"),
    SAME("transformer.resblocks.#.mlp.c_proj.*", LAYER ".mlp.fc2.*"),
    FUSED3("transformer.resblocks.#.attn.in_proj_weight", LAYER ".self_attn.q_proj.weight",
           LAYER ".self_attn.k_proj.weight", LAYER ".self_attn.v_proj.weight"),
    FUSED3("transformer.resblocks.#.attn.in_proj_bias", LAYER ".self_attn.q_proj.bias",
           LAYER ".self_attn.k_proj.bias", LAYER ".self_attn.v_proj.bias"),
    SAME("transformer.resblocks.#.attn.out_proj.*", LAYER ".self_attn.out_proj.*"),
    SAME("ln_final.*", "text_model.final_layer_norm.*"),
    CHANGED("text_projection", "text_projection.weight", CK_CHANGE_TRANSPOSE),
    SAME("logit_scale", "logit_scale"),
    /* Only to be known: OpenCLIP has no such tensors. */
    SAME("text_model.embeddings.position_ids", "text_model.embeddings.position_ids"),
    SAME("scaled_fp8", "scaled_fp8"),
    {0},
};

static const char *const clip_unused_diffusers[] = {"text_model.embeddings.position_ids", NULL};
static const char *const clip_unused_original[] = {"logit_scale", NULL};

static const ck_naming clip = {
    .rows = clip_rows,
    .unused_original = clip_unused_original,
    .unused_diffusers = clip_unused_diffusers,
};

/* SD2 uses the output of the layer before the last and no projection: its diffusers form has only
 * 23 layers. */
static const char *const clip_h_unused_original[] = {"logit_scale", "text_projection",
                                                     "transformer.resblocks.23.*", NULL};

static const ck_naming clip_h = {
    .rows = clip_rows,
    .unused_original = clip_h_unused_original,
    .unused_diffusers = clip_unused_diffusers,
};

/* ---- T5: one naming ---- */

static const ck_name_row t5_rows[] = {
    SAME("shared.*", "shared.*"),
    SAME("encoder.block.#.*", "encoder.block.#.*"),
    SAME("encoder.final_layer_norm.*", "encoder.final_layer_norm.*"),
    SAME("encoder.embed_tokens.*", "encoder.embed_tokens.*"),
    SAME("scaled_fp8", "scaled_fp8"),
    {0},
};

static const ck_naming t5 = {.rows = t5_rows};

/* ---- SD3 and SD3.5 ---- */

static const ck_name_row mmdit_rows[] = {
    SAME("pos_embed", "pos_embed.pos_embed"),
    SAME("x_embedder.proj.*", "pos_embed.proj.*"),
    SAME("t_embedder.mlp.0.*", "time_text_embed.timestep_embedder.linear_1.*"),
    SAME("t_embedder.mlp.2.*", "time_text_embed.timestep_embedder.linear_2.*"),
    SAME("y_embedder.mlp.0.*", "time_text_embed.text_embedder.linear_1.*"),
    SAME("y_embedder.mlp.2.*", "time_text_embed.text_embedder.linear_2.*"),
    SAME("context_embedder.*", "context_embedder.*"),
    FUSED3("joint_blocks.#.x_block.attn.qkv.*", "transformer_blocks.#.attn.to_q.*",
           "transformer_blocks.#.attn.to_k.*", "transformer_blocks.#.attn.to_v.*"),
    FUSED3("joint_blocks.#.context_block.attn.qkv.*", "transformer_blocks.#.attn.add_q_proj.*",
           "transformer_blocks.#.attn.add_k_proj.*", "transformer_blocks.#.attn.add_v_proj.*"),
    FUSED3("joint_blocks.#.x_block.attn2.qkv.*", "transformer_blocks.#.attn2.to_q.*",
           "transformer_blocks.#.attn2.to_k.*", "transformer_blocks.#.attn2.to_v.*"),
    SAME("joint_blocks.#.x_block.attn.ln_q.*", "transformer_blocks.#.attn.norm_q.*"),
    SAME("joint_blocks.#.x_block.attn.ln_k.*", "transformer_blocks.#.attn.norm_k.*"),
    SAME("joint_blocks.#.x_block.attn.proj.*", "transformer_blocks.#.attn.to_out.0.*"),
    SAME("joint_blocks.#.context_block.attn.ln_q.*", "transformer_blocks.#.attn.norm_added_q.*"),
    SAME("joint_blocks.#.context_block.attn.ln_k.*", "transformer_blocks.#.attn.norm_added_k.*"),
    SAME("joint_blocks.#.context_block.attn.proj.*", "transformer_blocks.#.attn.to_add_out.*"),
    SAME("joint_blocks.#.x_block.attn2.ln_q.*", "transformer_blocks.#.attn2.norm_q.*"),
    SAME("joint_blocks.#.x_block.attn2.ln_k.*", "transformer_blocks.#.attn2.norm_k.*"),
    SAME("joint_blocks.#.x_block.attn2.proj.*", "transformer_blocks.#.attn2.to_out.0.*"),
    SAME("joint_blocks.#.x_block.adaLN_modulation.1.*", "transformer_blocks.#.norm1.linear.*"),
    /* The last block's context ends in a plain scale and shift, which diffusers has the other way
     * round, as in the final layer. */
    {.original = "joint_blocks.#.context_block.adaLN_modulation.1.*",
     .diffusers = {"transformer_blocks.#.norm1_context.linear.*"},
     .numbering = CK_NUMBERS_LAST,
     .change = CK_CHANGE_SWAP},
    SAME("joint_blocks.#.context_block.adaLN_modulation.1.*",
         "transformer_blocks.#.norm1_context.linear.*"),
    SAME("joint_blocks.#.x_block.mlp.fc1.*", "transformer_blocks.#.ff.net.0.proj.*"),
    SAME("joint_blocks.#.x_block.mlp.fc2.*", "transformer_blocks.#.ff.net.2.*"),
    SAME("joint_blocks.#.context_block.mlp.fc1.*", "transformer_blocks.#.ff_context.net.0.proj.*"),
    SAME("joint_blocks.#.context_block.mlp.fc2.*", "transformer_blocks.#.ff_context.net.2.*"),
    SAME("final_layer.linear.*", "proj_out.*"),
    CHANGED("final_layer.adaLN_modulation.1.*", "norm_out.linear.*", CK_CHANGE_SWAP),
    SAME("scaled_fp8", "scaled_fp8"),
    {0},
};

static const ck_naming mmdit = {
    .rows = mmdit_rows,
    .count_original = "joint_blocks.#.x_block.attn.qkv.weight",
    .count_diffusers = "transformer_blocks.#.attn.to_q.weight",
};

/* ---- FLUX.1 ---- */

static const ck_name_row flux_rows[] = {
    SAME("img_in.*", "x_embedder.*"),
    SAME("txt_in.*", "context_embedder.*"),
    SAME("time_in.in_layer.*", "time_text_embed.timestep_embedder.linear_1.*"),
    SAME("time_in.out_layer.*", "time_text_embed.timestep_embedder.linear_2.*"),
    SAME("vector_in.in_layer.*", "time_text_embed.text_embedder.linear_1.*"),
    SAME("vector_in.out_layer.*", "time_text_embed.text_embedder.linear_2.*"),
    SAME("guidance_in.in_layer.*", "time_text_embed.guidance_embedder.linear_1.*"),
    SAME("guidance_in.out_layer.*", "time_text_embed.guidance_embedder.linear_2.*"),
    SAME("double_blocks.#.img_mod.lin.*", "transformer_blocks.#.norm1.linear.*"),
    SAME("double_blocks.#.txt_mod.lin.*", "transformer_blocks.#.norm1_context.linear.*"),
    FUSED3("double_blocks.#.img_attn.qkv.*", "transformer_blocks.#.attn.to_q.*",
           "transformer_blocks.#.attn.to_k.*", "transformer_blocks.#.attn.to_v.*"),
    FUSED3("double_blocks.#.txt_attn.qkv.*", "transformer_blocks.#.attn.add_q_proj.*",
           "transformer_blocks.#.attn.add_k_proj.*", "transformer_blocks.#.attn.add_v_proj.*"),
    SAME("double_blocks.#.img_attn.norm.query_norm.scale",
         "transformer_blocks.#.attn.norm_q.weight"),
    SAME("double_blocks.#.img_attn.norm.key_norm.scale", "transformer_blocks.#.attn.norm_k.weight"),
    SAME("double_blocks.#.txt_attn.norm.query_norm.scale",
         "transformer_blocks.#.attn.norm_added_q.weight"),
    SAME("double_blocks.#.txt_attn.norm.key_norm.scale",
         "transformer_blocks.#.attn.norm_added_k.weight"),
    SAME("double_blocks.#.img_attn.proj.*", "transformer_blocks.#.attn.to_out.0.*"),
    SAME("double_blocks.#.txt_attn.proj.*", "transformer_blocks.#.attn.to_add_out.*"),
    SAME("double_blocks.#.img_mlp.0.*", "transformer_blocks.#.ff.net.0.proj.*"),
    SAME("double_blocks.#.img_mlp.2.*", "transformer_blocks.#.ff.net.2.*"),
    SAME("double_blocks.#.txt_mlp.0.*", "transformer_blocks.#.ff_context.net.0.proj.*"),
    SAME("double_blocks.#.txt_mlp.2.*", "transformer_blocks.#.ff_context.net.2.*"),
    {.original = "single_blocks.#.linear1.*",
     .diffusers = {"single_transformer_blocks.#.attn.to_q.*",
                   "single_transformer_blocks.#.attn.to_k.*",
                   "single_transformer_blocks.#.attn.to_v.*",
                   "single_transformer_blocks.#.proj_mlp.*"},
     .change = CK_CHANGE_SPLIT,
     .shares = {1, 1, 1, 4}},
    SAME("single_blocks.#.linear2.*", "single_transformer_blocks.#.proj_out.*"),
    SAME("single_blocks.#.modulation.lin.*", "single_transformer_blocks.#.norm.linear.*"),
    SAME("single_blocks.#.norm.query_norm.scale", "single_transformer_blocks.#.attn.norm_q.weight"),
    SAME("single_blocks.#.norm.key_norm.scale", "single_transformer_blocks.#.attn.norm_k.weight"),
    SAME("final_layer.linear.*", "proj_out.*"),
    CHANGED("final_layer.adaLN_modulation.1.*", "norm_out.linear.*", CK_CHANGE_SWAP),
    /* Newer exports call the norms' scale a weight. */
    SAME("double_blocks.#.img_attn.norm.query_norm.weight",
         "transformer_blocks.#.attn.norm_q.weight"),
    SAME("double_blocks.#.img_attn.norm.key_norm.weight",
         "transformer_blocks.#.attn.norm_k.weight"),
    SAME("double_blocks.#.txt_attn.norm.query_norm.weight",
         "transformer_blocks.#.attn.norm_added_q.weight"),
    SAME("double_blocks.#.txt_attn.norm.key_norm.weight",
         "transformer_blocks.#.attn.norm_added_k.weight"),
    SAME("single_blocks.#.norm.query_norm.weight",
         "single_transformer_blocks.#.attn.norm_q.weight"),
    SAME("single_blocks.#.norm.key_norm.weight", "single_transformer_blocks.#.attn.norm_k.weight"),
    SAME("scaled_fp8", "scaled_fp8"),
    {0},
};

static const ck_naming flux = {.rows = flux_rows};

const ck_naming *ck_naming_of(ck_part part) {
    switch (part) {
    case CK_PART_UNET:
        return &unet;
    case CK_PART_MMDIT:
        return &mmdit;
    case CK_PART_FLUX:
        return &flux;
    case CK_PART_VAE:
        return &vae;
    case CK_PART_CLIP_L:
    case CK_PART_CLIP_G:
        return &clip;
    case CK_PART_CLIP_H:
        return &clip_h;
    case CK_PART_T5:
        return &t5;
    default:
        return NULL;
    }
}

/* ---- Where components stand in whole files ---- */

#define SEATS_SD3(architecture)                                                                    \
    {architecture, CK_PART_MMDIT, "model.diffusion_model.", "transformer.", false},                \
        {architecture, CK_PART_VAE, "first_stage_model.", "vae.", false},                          \
        {architecture, CK_PART_CLIP_L, "text_encoders.clip_l.transformer.", "text_encoder.",       \
         true},                                                                                    \
        {architecture, CK_PART_CLIP_G, "text_encoders.clip_g.transformer.", "text_encoder_2.",     \
         true},                                                                                    \
    {                                                                                              \
        architecture, CK_PART_T5, "text_encoders.t5xxl.transformer.", "text_encoder_3.", true      \
    }

#define SEATS_FLUX(architecture)                                                                   \
    {architecture, CK_PART_FLUX, "model.diffusion_model.", "transformer.", false},                 \
        {architecture, CK_PART_VAE, "vae.", "vae.", false},                                        \
        {architecture, CK_PART_CLIP_L, "text_encoders.clip_l.transformer.", "text_encoder.",       \
         true},                                                                                    \
    {                                                                                              \
        architecture, CK_PART_T5, "text_encoders.t5xxl.transformer.", "text_encoder_2.", true      \
    }

#define SEATS_UNET(architecture)                                                                   \
    {architecture, CK_PART_UNET, "model.diffusion_model.", "unet.", false}, {                      \
        architecture, CK_PART_VAE, "first_stage_model.", "vae.", false                             \
    }

const ck_seat ck_seats[] = {
    SEATS_UNET(CK_ARCH_SD1),
    {CK_ARCH_SD1, CK_PART_CLIP_L, "cond_stage_model.transformer.", "text_encoder.", true},
    SEATS_UNET(CK_ARCH_SD2),
    {CK_ARCH_SD2, CK_PART_CLIP_H, "cond_stage_model.model.", "text_encoder.", false},
    SEATS_UNET(CK_ARCH_SD2_UNCLIP),
    {CK_ARCH_SD2_UNCLIP, CK_PART_CLIP_H, "cond_stage_model.model.", "text_encoder.", false},
    SEATS_UNET(CK_ARCH_SDXL),
    {CK_ARCH_SDXL, CK_PART_CLIP_L, "conditioner.embedders.0.transformer.", "text_encoder.", true},
    {CK_ARCH_SDXL, CK_PART_CLIP_G, "conditioner.embedders.1.model.", "text_encoder_2.", false},
    SEATS_UNET(CK_ARCH_SDXL_REFINER),
    {CK_ARCH_SDXL_REFINER, CK_PART_CLIP_G, "conditioner.embedders.0.model.", "text_encoder_2.",
     false},
    SEATS_SD3(CK_ARCH_SD3_MEDIUM),
    SEATS_SD3(CK_ARCH_SD35_MEDIUM),
    SEATS_SD3(CK_ARCH_SD35_LARGE),
    SEATS_FLUX(CK_ARCH_FLUX_DEV),
    SEATS_FLUX(CK_ARCH_FLUX_SCHNELL),
    {CK_ARCH_UNKNOWN, CK_PART_OTHER, "", "", false},
};
