/* What checkpoints are recognised by: data for anatomy_int.h. */
#include "io/anatomy_int.h"

const char *const ck_prefixes[] = {
    "model.diffusion_model.",
    "first_stage_model.",
    "cond_stage_model.transformer.",
    "cond_stage_model.model.",
    "conditioner.embedders.0.transformer.",
    "conditioner.embedders.0.model.",
    "conditioner.embedders.1.model.",
    "text_encoders.clip_l.transformer.",
    "text_encoders.clip_g.transformer.",
    "text_encoders.t5xxl.transformer.",
    "unet.",
    "transformer.",
    "vae.",
    "text_encoder.",
    "text_encoder_2.",
    "text_encoder_3.",
    "",
    NULL,
};

/* CLIP text encoders are all CK_PART_CLIP_L here; their width tells which one it is. */
const ck_sign ck_signs[] = {
    {CK_PART_UNET, CK_LAYOUT_ORIGINAL, false, {"output_blocks.0.0.in_layers.0.weight", NULL}},
    {CK_PART_UNET, CK_LAYOUT_DIFFUSERS, false, {"up_blocks.0.resnets.0.norm1.weight", NULL}},
    {CK_PART_MMDIT, CK_LAYOUT_ORIGINAL, false, {"joint_blocks.0.x_block.attn.qkv.weight", NULL}},
    {CK_PART_MMDIT,
     CK_LAYOUT_DIFFUSERS,
     false,
     {"transformer_blocks.0.attn.add_q_proj.weight", "pos_embed.proj.weight"}},
    {CK_PART_FLUX,
     CK_LAYOUT_ORIGINAL,
     false,
     {"double_blocks.0.img_attn.qkv.weight", "img_in.weight"}},
    {CK_PART_FLUX,
     CK_LAYOUT_DIFFUSERS,
     false,
     {"single_transformer_blocks.0.proj_mlp.weight", "x_embedder.weight"}},
    {CK_PART_VAE, CK_LAYOUT_ORIGINAL, false, {"decoder.up.0.block.0.conv1.weight", NULL}},
    {CK_PART_VAE, CK_LAYOUT_DIFFUSERS, false, {"decoder.up_blocks.0.resnets.0.conv1.weight", NULL}},
    {CK_PART_VAE, CK_LAYOUT_ORIGINAL, false, {"encoder.down.0.block.0.conv1.weight", NULL}},
    {CK_PART_VAE,
     CK_LAYOUT_DIFFUSERS,
     false,
     {"encoder.down_blocks.0.resnets.0.conv1.weight", NULL}},
    {CK_PART_CLIP_L, CK_LAYOUT_ORIGINAL, false, {"transformer.resblocks.0.ln_1.weight", NULL}},
    {CK_PART_CLIP_L,
     CK_LAYOUT_DIFFUSERS,
     false,
     {"text_model.encoder.layers.0.layer_norm1.weight", NULL}},
    {CK_PART_CLIP_L, CK_LAYOUT_DIFFUSERS, true, {"encoder.layers.0.layer_norm1.weight", NULL}},
    {CK_PART_T5,
     CK_LAYOUT_UNKNOWN,
     false,
     {"encoder.block.0.layer.0.SelfAttention.q.weight", NULL}},
    {.part = CK_PART_OTHER},
};

const ck_group ck_groups[] = {
    {CK_PART_EMA, "model_ema.*"},
    {CK_PART_SAFETY, "safety_checker.*"},
    {CK_PART_TRAINING, "betas"},
    {CK_PART_TRAINING, "alphas_cumprod"},
    {CK_PART_TRAINING, "alphas_cumprod_prev"},
    {CK_PART_TRAINING, "sqrt_alphas_cumprod"},
    {CK_PART_TRAINING, "sqrt_one_minus_alphas_cumprod"},
    {CK_PART_TRAINING, "log_one_minus_alphas_cumprod"},
    {CK_PART_TRAINING, "sqrt_recip_alphas_cumprod"},
    {CK_PART_TRAINING, "sqrt_recipm1_alphas_cumprod"},
    {CK_PART_TRAINING, "posterior_variance"},
    {CK_PART_TRAINING, "posterior_log_variance_clipped"},
    {CK_PART_TRAINING, "posterior_mean_coef1"},
    {CK_PART_TRAINING, "posterior_mean_coef2"},
    {CK_PART_TRAINING, "scale_factor"},
    {CK_PART_TRAINING, "logvar"},
    {CK_PART_TRAINING, "denoiser.sigmas"},
    {CK_PART_TRAINING, "first_stage_model.loss.*"},
    {CK_PART_TRAINING, "loss.*"},
    {CK_PART_TRAINING, "embedding_manager.*"},
    {CK_PART_MARKER, "v_pred"},
    {CK_PART_MARKER, "ztsnr"},
    {CK_PART_MARKER, "edm_mean"},
    {CK_PART_MARKER, "edm_std"},
    {CK_PART_MARKER, "edm_vpred.sigma_max"},
    {CK_PART_MARKER, "edm_vpred.sigma_min"},
    {.part = CK_PART_OTHER},
};

/* ---- Architectures ---- */

#define MID_CONTEXT "middle_block.1.transformer_blocks.0.attn2.to_k.weight"

/* Attention in the first level of the UNet. */
#define FIRST_LEVEL_ATTENTION "input_blocks.1.1.norm.weight"
/* The downsampler into it. */
#define FOURTH_LEVEL "input_blocks.9.0.op.weight"

#define UNET_USUAL(width, context)                                                                 \
    {                                                                                              \
        {"width", "input_blocks.0.0.weight", 0, width}, {                                          \
            "context width", MID_CONTEXT, 1, context                                               \
        }                                                                                          \
    }
#define SD1                                                                                        \
    .architecture = {CK_ARCH_SD1, "sd1", "Stable Diffusion 1.x", "stable-diffusion-v1"},           \
    .part = CK_PART_UNET, .usual = UNET_USUAL(320, 768), .needed_original = 686,                   \
    .needed_diffusers = 686
#define SD2                                                                                        \
    .architecture = {CK_ARCH_SD2, "sd2", "Stable Diffusion 2.x", "stable-diffusion-v2-512"},       \
    .part = CK_PART_UNET, .usual = UNET_USUAL(320, 1024), .needed_original = 686,                  \
    .needed_diffusers = 686

/* The first row that fits counts. SD1 and SD2 are told by the width of the text context; where it
 * is neither's, by whether the attention's projections are convolutions or matrices. */
const ck_architecture_row ck_architectures[] = {
    {.architecture = {CK_ARCH_SDXL, "sdxl-base", "Stable Diffusion XL base",
                      "stable-diffusion-xl-v1-base"},
     .part = CK_PART_UNET,
     .clues = {{CK_HAS, "label_emb.0.0.weight", 0, 0},
               {CK_LACKS, FIRST_LEVEL_ATTENTION, 0, 0},
               {CK_LACKS, FOURTH_LEVEL, 0, 0}},
     .usual = UNET_USUAL(320, 2048),
     .needed_original = 1680,
     .needed_diffusers = 1680},
    {.architecture = {CK_ARCH_SDXL_REFINER, "sdxl-refiner", "Stable Diffusion XL refiner",
                      "stable-diffusion-xl-v1-refiner"},
     .part = CK_PART_UNET,
     .clues = {{CK_HAS, "label_emb.0.0.weight", 0, 0}, {CK_LACKS, FIRST_LEVEL_ATTENTION, 0, 0}},
     .usual = UNET_USUAL(384, 1280),
     .needed_original = 1220,
     .needed_diffusers = 1220},
    {.architecture = {CK_ARCH_SD2_UNCLIP, "sd2-unclip", "Stable Diffusion 2.1 unCLIP",
                      "stable-diffusion-v2-unclip-h"},
     .part = CK_PART_UNET,
     .clues = {{CK_HAS, "label_emb.0.0.weight", 0, 0}},
     .usual = UNET_USUAL(320, 1024),
     .needed_original = 690,
     .needed_diffusers = 690},
    {SD1, .clues = {{CK_SIZE, MID_CONTEXT, 1, 768}}},
    {SD2, .clues = {{CK_SIZE, MID_CONTEXT, 1, 1024}}},
    {SD1, .clues = {{CK_RANK, "middle_block.1.proj_in.weight", 0, 4}}},
    {SD2, .clues = {{CK_RANK, "middle_block.1.proj_in.weight", 0, 2}}},
    {.architecture = {CK_ARCH_SD35_MEDIUM, "sd3.5-medium", "Stable Diffusion 3.5 medium",
                      "stable-diffusion-3.5-medium"},
     .part = CK_PART_MMDIT,
     .clues = {{CK_HAS, "joint_blocks.0.x_block.attn2.qkv.weight", 0, 0}},
     .usual = {{"width", "x_embedder.proj.weight", 0, 1536}, {"positions", "pos_embed", 1, 147456}},
     .needed_original = 665,
     .needed_diffusers = 909},
    {.architecture = {CK_ARCH_SD35_LARGE, "sd3.5-large", "Stable Diffusion 3.5 large",
                      "stable-diffusion-3.5-large"},
     .part = CK_PART_MMDIT,
     .clues = {{CK_HAS, "joint_blocks.0.x_block.attn.ln_q.weight", 0, 0}},
     .usual = {{"width", "x_embedder.proj.weight", 0, 2432}, {"positions", "pos_embed", 1, 36864}},
     .needed_original = 923,
     .needed_diffusers = 1227},
    {.architecture = {CK_ARCH_SD3_MEDIUM, "sd3-medium", "Stable Diffusion 3 medium",
                      "stable-diffusion-v3-medium"},
     .part = CK_PART_MMDIT,
     .clues = {{CK_HAS, "joint_blocks.0.x_block.attn.qkv.weight", 0, 0}},
     .usual = {{"width", "x_embedder.proj.weight", 0, 1536}, {"positions", "pos_embed", 1, 36864}},
     .needed_original = 491,
     .needed_diffusers = 683},
    {.architecture = {CK_ARCH_FLUX_DEV, "flux-dev", "FLUX.1 dev", "flux-1-dev"},
     .part = CK_PART_FLUX,
     .clues = {{CK_HAS, "guidance_in.in_layer.weight", 0, 0},
               {CK_HAS, "vector_in.in_layer.weight", 0, 0}},
     .usual = {{"width", "img_in.weight", 0, 3072}},
     .needed_original = 780,
     .needed_diffusers = 1160},
    {.architecture = {CK_ARCH_FLUX_SCHNELL, "flux-schnell", "FLUX.1 schnell", "flux-1-schnell"},
     .part = CK_PART_FLUX,
     .clues = {{CK_HAS, "time_in.in_layer.weight", 0, 0},
               {CK_HAS, "vector_in.in_layer.weight", 0, 0}},
     .usual = {{"width", "img_in.weight", 0, 3072}},
     .needed_original = 776,
     .needed_diffusers = 1156,
     .mark = {"distilled", "FLUX.1 schnell is distilled to few steps"}},
    {.architecture = {CK_ARCH_UNKNOWN, "unknown", "unknown", NULL}, .part = CK_PART_OTHER},
};

/* OpenCLIP's logit_scale does not count: it is often left out. Neither do a VAE's quantisation
 * layers, which those of 16 channels do not have. */
const ck_needed ck_needed_tensors[] = {
    {CK_PART_VAE, 244, 244},    {CK_PART_CLIP_L, 196, 196}, {CK_PART_CLIP_H, 293, 372},
    {CK_PART_CLIP_G, 389, 517}, {CK_PART_T5, 219, 219},     {CK_PART_OTHER, 0, 0},
};

const ck_variant ck_variants[] = {
    {CK_PART_UNET, "input_blocks.0.0.weight", 1, 9, "inpainting"},
    {CK_PART_UNET, "input_blocks.0.0.weight", 1, 8, "instruct-pix2pix"},
    {CK_PART_UNET, "input_blocks.0.0.weight", 1, 7, "upscaler"},
    {CK_PART_UNET, "input_blocks.0.0.weight", 1, 5, "depth"},
    {CK_PART_FLUX, "img_in.weight", 1, 384, "fill"},
    {CK_PART_FLUX, "img_in.weight", 1, 128, "canny or depth"},
    {.part = CK_PART_OTHER},
};

const ck_width ck_clip_widths[] = {
    {768, CK_PART_CLIP_L},
    {1024, CK_PART_CLIP_H},
    {1280, CK_PART_CLIP_G},
    {0, CK_PART_OTHER},
};

/* ---- Where it stands ---- */

#define META   CK_EVIDENCE_METADATA
#define SUFFIX CK_EVIDENCE_SUFFIX

const ck_mark_row ck_mark_rows[] = {
    {META, "ckmerge_recipe", NULL, {"merged", "ckmerge_recipe in the metadata"}},
    {META, "sd_merge_recipe", NULL, {"merged", "sd_merge_recipe in the metadata"}},
    {META, "mecha_recipe", NULL, {"merged", "mecha_recipe in the metadata"}},
    {META, "modelspec.merged_from", NULL, {"merged", "modelspec.merged_from in the metadata"}},
    {META, "ss_sd_model_name", NULL, {"finetuned", "ss_sd_model_name in the metadata"}},
    {META, "ss_network_module", NULL, {"lora", "ss_network_module in the metadata"}},
    {META, "distilled.method", NULL, {"distilled", "distilled.method in the metadata"}},
    {META, "trained.method", NULL, {"finetuned", "trained.method in the metadata"}},
    {META, "modelspec.architecture", "turbo", {"distilled", "modelspec.architecture says Turbo"}},
    {META, "modelspec.title", "turbo", {"distilled", "the title says Turbo"}},
    {META, "modelspec.title", "lightning", {"distilled", "the title says Lightning"}},
    {META, "modelspec.title", "lcm", {"distilled", "the title says LCM"}},
    {CK_EVIDENCE_DENOISER,
     "time_embed.cond_proj.weight",
     NULL,
     {"distilled", "the guidance scale is an input of the time embedding (LCM)"}},
    {CK_EVIDENCE_DENOISER,
     "guidance_in.in_layer.weight",
     NULL,
     {"distilled", "the guidance scale is an input (guidance distillation)"}},
    {SUFFIX, ".lora_down.weight", NULL, {"lora", "lora_down and lora_up tensors"}},
    {SUFFIX, ".lora_A.weight", NULL, {"lora", "lora_A and lora_B tensors"}},
    {SUFFIX, "_lora.down.weight", NULL, {"lora", "lora.down and lora.up tensors"}},
    {SUFFIX, ".lora.down.weight", NULL, {"lora", "lora.down and lora.up tensors"}},
    {SUFFIX, ".hada_w1_a", NULL, {"lora", "LoHa tensors"}},
    {SUFFIX, ".lokr_w1", NULL, {"lora", "LoKr tensors"}},
    {SUFFIX, ".lokr_w1_a", NULL, {"lora", "LoKr tensors"}},
    {CK_EVIDENCE_TENSOR, "control_model.*", NULL, {"controlnet", "control_model tensors"}},
    {CK_EVIDENCE_TENSOR,
     "controlnet_cond_embedding.*",
     NULL,
     {"controlnet", "controlnet_cond_embedding tensors"}},
    {CK_EVIDENCE_TENSOR, "emb_params", NULL, {"embedding", "a textual inversion"}},
    {CK_EVIDENCE_TENSOR, "string_to_param.*", NULL, {"embedding", "a textual inversion"}},
    {.evidence = CK_EVIDENCE_END},
};

const ck_prediction_row ck_prediction_rows[] = {
    {CK_EVIDENCE_TENSOR, "edm_vpred.sigma_max", NULL, CK_PREDICTION_EDM_V,
     "the marker edm_vpred.sigma_max"},
    {CK_EVIDENCE_TENSOR, "edm_mean", NULL, CK_PREDICTION_EDM, "the marker edm_mean"},
    {CK_EVIDENCE_TENSOR, "v_pred", NULL, CK_PREDICTION_V, "the marker v_pred"},
    {META, "modelspec.prediction_type", "v", CK_PREDICTION_V, "modelspec.prediction_type"},
    {META, "modelspec.prediction_type", "epsilon", CK_PREDICTION_EPSILON,
     "modelspec.prediction_type"},
    {CK_EVIDENCE_END, NULL, NULL, CK_PREDICTION_UNKNOWN, NULL},
};
