/* The JSON files of diffusers folders, from tables; see pipeline.h. */
#include "io/pipeline.h"
#include "io/layout_int.h"

#include <stdio.h>
#include <string.h>

/* ---- Tables ---- */

/* Pipelines, by architecture and variant. Others have components that are not known here. */
static const struct {
    ck_architecture_id architecture;
    const char *variant, *class_name;
} pipelines[] = {
    {CK_ARCH_SD1, NULL, "StableDiffusionPipeline"},
    {CK_ARCH_SD1, "inpainting", "StableDiffusionInpaintPipeline"},
    {CK_ARCH_SD1, "instruct-pix2pix", "StableDiffusionInstructPix2PixPipeline"},
    {CK_ARCH_SD2, NULL, "StableDiffusionPipeline"},
    {CK_ARCH_SD2, "inpainting", "StableDiffusionInpaintPipeline"},
    {CK_ARCH_SDXL, NULL, "StableDiffusionXLPipeline"},
    {CK_ARCH_SDXL, "inpainting", "StableDiffusionXLInpaintPipeline"},
    {CK_ARCH_SDXL, "instruct-pix2pix", "StableDiffusionXLInstructPix2PixPipeline"},
    {CK_ARCH_SDXL_REFINER, NULL, "StableDiffusionXLImg2ImgPipeline"},
    {CK_ARCH_SD3_MEDIUM, NULL, "StableDiffusion3Pipeline"},
    {CK_ARCH_SD35_MEDIUM, NULL, "StableDiffusion3Pipeline"},
    {CK_ARCH_SD35_LARGE, NULL, "StableDiffusion3Pipeline"},
    {CK_ARCH_FLUX_DEV, NULL, "FluxPipeline"},
    {CK_ARCH_FLUX_DEV, "fill", "FluxFillPipeline"},
    {CK_ARCH_FLUX_DEV, "canny or depth", "FluxControlPipeline"},
    {CK_ARCH_FLUX_SCHNELL, NULL, "FluxPipeline"},
};

/* Settings of pipelines, besides their components. */
static const struct {
    ck_architecture_id architecture;
    const char *json;
} pipeline_settings[] = {
    {CK_ARCH_SD1, "{\"safety_checker\":[null,null],\"feature_extractor\":[null,null],"
                  "\"image_encoder\":[null,null],\"requires_safety_checker\":false}"},
    {CK_ARCH_SD2, "{\"safety_checker\":[null,null],\"feature_extractor\":[null,null],"
                  "\"image_encoder\":[null,null],\"requires_safety_checker\":false}"},
    {CK_ARCH_SDXL, "{\"feature_extractor\":[null,null],\"image_encoder\":[null,null],"
                   "\"force_zeros_for_empty_prompt\":true}"},
    {CK_ARCH_SDXL_REFINER, "{\"text_encoder\":[null,null],\"tokenizer\":[null,null],"
                           "\"feature_extractor\":[null,null],\"image_encoder\":[null,null],"
                           "\"requires_aesthetics_score\":true,"
                           "\"force_zeros_for_empty_prompt\":false}"},
};

#define CROSS_DOWN "\"CrossAttnDownBlock2D\""
#define CROSS_UP   "\"CrossAttnUpBlock2D\""
#define UNET       "{\"_class_name\":\"UNet2DConditionModel\",\"layers_per_block\":2,"
#define UNET_4                                                                                     \
    UNET "\"down_block_types\":[" CROSS_DOWN "," CROSS_DOWN "," CROSS_DOWN ",\"DownBlock2D\"],"    \
         "\"up_block_types\":[\"UpBlock2D\"," CROSS_UP "," CROSS_UP "," CROSS_UP "],"
#define TEXT_TIME                                                                                  \
    "\"addition_embed_type\":\"text_time\",\"addition_time_embed_dim\":256,"                       \
    "\"use_linear_projection\":true,"
#define MMDIT                                                                                      \
    "{\"_class_name\":\"SD3Transformer2DModel\",\"sample_size\":128,\"patch_size\":2,"             \
    "\"in_channels\":16,\"out_channels\":16,\"attention_head_dim\":64,"                            \
    "\"joint_attention_dim\":4096,\"pooled_projection_dim\":2048,"
#define FLUX                                                                                       \
    "{\"_class_name\":\"FluxTransformer2DModel\",\"patch_size\":1,\"out_channels\":64,"            \
    "\"num_layers\":19,\"num_single_layers\":38,\"attention_head_dim\":128,"                       \
    "\"num_attention_heads\":24,\"joint_attention_dim\":4096,\"pooled_projection_dim\":768,"       \
    "\"axes_dims_rope\":[16,56,56],"
#define VAE                                                                                        \
    "{\"_class_name\":\"AutoencoderKL\",\"in_channels\":3,\"out_channels\":3,"                     \
    "\"down_block_types\":[\"DownEncoderBlock2D\",\"DownEncoderBlock2D\","                         \
    "\"DownEncoderBlock2D\",\"DownEncoderBlock2D\"],\"up_block_types\":[\"UpDecoderBlock2D\","     \
    "\"UpDecoderBlock2D\",\"UpDecoderBlock2D\",\"UpDecoderBlock2D\"],"                             \
    "\"block_out_channels\":[128,256,512,512],\"layers_per_block\":2,"
#define VAE_SD                                                                                     \
    VAE "\"latent_channels\":4,\"sample_size\":512,\"scaling_factor\":0.18215,"                    \
        "\"force_upcast\":false}"
#define VAE_XL VAE "\"latent_channels\":4,\"sample_size\":1024,\"scaling_factor\":0.13025}"
#define VAE_16                                                                                     \
    VAE "\"latent_channels\":16,\"sample_size\":1024,\"use_quant_conv\":false,"                    \
        "\"use_post_quant_conv\":false,"
#define VAE_SD3  VAE_16 "\"scaling_factor\":1.5305,\"shift_factor\":0.0609}"
#define VAE_FLUX VAE_16 "\"scaling_factor\":0.3611,\"shift_factor\":0.1159}"
#define CLIP                                                                                       \
    "{\"model_type\":\"clip_text_model\",\"vocab_size\":49408,\"max_position_embeddings\":77,"     \
    "\"layer_norm_eps\":1e-05,\"bos_token_id\":0,\"eos_token_id\":2,\"pad_token_id\":1,"

/* Configs by architecture (unknown: of any) and part. SD2's text encoder has the 23 layers that
 * are used. */
static const struct {
    ck_architecture_id architecture;
    ck_part part;
    const char *json;
} configs[] = {
    {CK_ARCH_SD1, CK_PART_UNET,
     UNET_4 "\"block_out_channels\":[320,640,1280,1280],\"attention_head_dim\":8,"
            "\"cross_attention_dim\":768,\"sample_size\":64}"},
    {CK_ARCH_SD2, CK_PART_UNET,
     UNET_4 "\"block_out_channels\":[320,640,1280,1280],\"attention_head_dim\":[5,10,20,20],"
            "\"cross_attention_dim\":1024,\"use_linear_projection\":true,\"sample_size\":64}"},
    {CK_ARCH_SDXL, CK_PART_UNET,
     UNET TEXT_TIME "\"down_block_types\":[\"DownBlock2D\"," CROSS_DOWN "," CROSS_DOWN "],"
                    "\"up_block_types\":[" CROSS_UP "," CROSS_UP ",\"UpBlock2D\"],"
                    "\"block_out_channels\":[320,640,1280],\"attention_head_dim\":[5,10,20],"
                    "\"transformer_layers_per_block\":[1,2,10],\"cross_attention_dim\":2048,"
                    "\"projection_class_embeddings_input_dim\":2816,\"sample_size\":128}"},
    {CK_ARCH_SDXL_REFINER, CK_PART_UNET,
     UNET TEXT_TIME "\"down_block_types\":[\"DownBlock2D\"," CROSS_DOWN "," CROSS_DOWN
                    ",\"DownBlock2D\"],"
                    "\"up_block_types\":[\"UpBlock2D\"," CROSS_UP "," CROSS_UP ",\"UpBlock2D\"],"
                    "\"block_out_channels\":[384,768,1536,1536],"
                    "\"attention_head_dim\":[6,12,24,24],\"transformer_layers_per_block\":4,"
                    "\"cross_attention_dim\":1280,"
                    "\"projection_class_embeddings_input_dim\":2560,\"sample_size\":128}"},
    {CK_ARCH_SD3_MEDIUM, CK_PART_MMDIT,
     MMDIT "\"num_layers\":24,\"num_attention_heads\":24,\"caption_projection_dim\":1536,"
           "\"pos_embed_max_size\":192}"},
    {CK_ARCH_SD35_MEDIUM, CK_PART_MMDIT,
     MMDIT "\"num_layers\":24,\"num_attention_heads\":24,\"caption_projection_dim\":1536,"
           "\"pos_embed_max_size\":384,\"qk_norm\":\"rms_norm\","
           "\"dual_attention_layers\":[0,1,2,3,4,5,6,7,8,9,10,11,12]}"},
    {CK_ARCH_SD35_LARGE, CK_PART_MMDIT,
     MMDIT "\"num_layers\":38,\"num_attention_heads\":38,\"caption_projection_dim\":2432,"
           "\"pos_embed_max_size\":192,\"qk_norm\":\"rms_norm\"}"},
    {CK_ARCH_FLUX_DEV, CK_PART_FLUX, FLUX "\"in_channels\":64,\"guidance_embeds\":true}"},
    {CK_ARCH_FLUX_SCHNELL, CK_PART_FLUX, FLUX "\"in_channels\":64,\"guidance_embeds\":false}"},
    {CK_ARCH_SD1, CK_PART_VAE, VAE_SD},
    {CK_ARCH_SD2, CK_PART_VAE, VAE_SD},
    {CK_ARCH_SDXL, CK_PART_VAE, VAE_XL},
    {CK_ARCH_SDXL_REFINER, CK_PART_VAE, VAE_XL},
    {CK_ARCH_SD3_MEDIUM, CK_PART_VAE, VAE_SD3},
    {CK_ARCH_SD35_MEDIUM, CK_PART_VAE, VAE_SD3},
    {CK_ARCH_SD35_LARGE, CK_PART_VAE, VAE_SD3},
    {CK_ARCH_FLUX_DEV, CK_PART_VAE, VAE_FLUX},
    {CK_ARCH_FLUX_SCHNELL, CK_PART_VAE, VAE_FLUX},
    {CK_ARCH_UNKNOWN, CK_PART_CLIP_L,
     CLIP "\"hidden_size\":768,\"intermediate_size\":3072,\"num_hidden_layers\":12,"
          "\"num_attention_heads\":12,\"hidden_act\":\"quick_gelu\",\"projection_dim\":768}"},
    {CK_ARCH_UNKNOWN, CK_PART_CLIP_H,
     CLIP "\"hidden_size\":1024,\"intermediate_size\":4096,\"num_hidden_layers\":23,"
          "\"num_attention_heads\":16,\"hidden_act\":\"gelu\",\"projection_dim\":512}"},
    {CK_ARCH_UNKNOWN, CK_PART_CLIP_G,
     CLIP "\"hidden_size\":1280,\"intermediate_size\":5120,\"num_hidden_layers\":32,"
          "\"num_attention_heads\":20,\"hidden_act\":\"gelu\",\"projection_dim\":1280}"},
    {CK_ARCH_UNKNOWN, CK_PART_T5,
     "{\"model_type\":\"t5\",\"vocab_size\":32128,\"d_model\":4096,\"d_kv\":64,\"d_ff\":10240,"
     "\"num_layers\":24,\"num_heads\":64,\"relative_attention_num_buckets\":32,"
     "\"relative_attention_max_distance\":128,\"feed_forward_proj\":\"gated-gelu\","
     "\"is_encoder_decoder\":true,\"tie_word_embeddings\":false,\"pad_token_id\":0,"
     "\"eos_token_id\":1,\"decoder_start_token_id\":0}"},
};

#define DIFFUSION                                                                                  \
    "{\"beta_start\":0.00085,\"beta_end\":0.012,\"beta_schedule\":\"scaled_linear\","              \
    "\"num_train_timesteps\":1000,\"steps_offset\":1,\"timestep_spacing\":\"leading\","            \
    "\"prediction_type\":\"epsilon\""
#define DDIM DIFFUSION ",\"clip_sample\":false,\"set_alpha_to_one\":false}"
#define FLOW "{\"num_train_timesteps\":1000,"

static const struct {
    ck_architecture_id architecture;
    const char *class_name, *json;
} schedulers[] = {
    {CK_ARCH_SD1, "DDIMScheduler", DDIM},
    {CK_ARCH_SD2, "DDIMScheduler", DDIM},
    {CK_ARCH_SDXL, "EulerDiscreteScheduler", DIFFUSION "}"},
    {CK_ARCH_SDXL_REFINER, "EulerDiscreteScheduler", DIFFUSION "}"},
    {CK_ARCH_SD3_MEDIUM, "FlowMatchEulerDiscreteScheduler", FLOW "\"shift\":3.0}"},
    {CK_ARCH_SD35_MEDIUM, "FlowMatchEulerDiscreteScheduler", FLOW "\"shift\":3.0}"},
    {CK_ARCH_SD35_LARGE, "FlowMatchEulerDiscreteScheduler", FLOW "\"shift\":3.0}"},
    {CK_ARCH_FLUX_DEV, "FlowMatchEulerDiscreteScheduler",
     FLOW "\"shift\":3.0,\"use_dynamic_shifting\":true,\"base_shift\":0.5,\"max_shift\":1.15,"
          "\"base_image_seq_len\":256,\"max_image_seq_len\":4096}"},
    {CK_ARCH_FLUX_SCHNELL, "FlowMatchEulerDiscreteScheduler", FLOW "\"shift\":1.0}"},
};
enum { SCHEDULERS = sizeof schedulers / sizeof *schedulers };

/* ---- Making JSON of them ---- */

static bool is_sd3(ck_architecture_id id) {
    return id == CK_ARCH_SD3_MEDIUM || id == CK_ARCH_SD35_MEDIUM || id == CK_ARCH_SD35_LARGE;
}

const char *ck_pipeline_library(ck_part part) {
    bool text = part == CK_PART_CLIP_L || part == CK_PART_CLIP_H || part == CK_PART_CLIP_G ||
                part == CK_PART_T5 || part == CK_PART_SAFETY;
    return text ? "transformers" : "diffusers";
}

static const char *class_of(ck_architecture_id id, ck_part part) {
    switch (part) {
    case CK_PART_UNET:
        return "UNet2DConditionModel";
    case CK_PART_MMDIT:
        return "SD3Transformer2DModel";
    case CK_PART_FLUX:
        return "FluxTransformer2DModel";
    case CK_PART_VAE:
        return "AutoencoderKL";
    case CK_PART_T5:
        return "T5EncoderModel";
    case CK_PART_CLIP_G:
        return "CLIPTextModelWithProjection";
    default:
        return is_sd3(id) ? "CLIPTextModelWithProjection" : "CLIPTextModel";
    }
}

static ck_status fail_unknown(const ck_reader *r, const ck_anatomy *a, const char *what,
                              ck_error *err) {
    const char *more = a->unusual ? a->unusual : a->variant ? a->variant : "";
    return ck_fail(err, CK_INPUT,
                   "%s: %s%s%s: no %s is known for it; take it from a diffusers folder of the same "
                   "kind with --configs FOLDER",
                   ck_reader_path(r), a->architecture->title, *more ? ", " : "", more, what);
}

static bool add_pair(cJSON *index, const char *name, const char *library, const char *class_name) {
    cJSON *pair = cJSON_AddArrayToObject(index, name);
    return pair &&
           cJSON_AddItemToArray(pair, library ? cJSON_CreateString(library) : cJSON_CreateNull()) &&
           cJSON_AddItemToArray(pair,
                                library ? cJSON_CreateString(class_name) : cJSON_CreateNull());
}

/* Every seat of the architecture, with null where the file has nothing for it; and its tokenizer.
 */
static bool add_seats(const ck_anatomy *a, cJSON *index) {
    bool ok = true;
    for (const ck_seat *s = ck_seats; s->architecture != CK_ARCH_UNKNOWN && ok; s++) {
        if (s->architecture != a->architecture->id) continue;
        char folder[32], tokenizer[32] = "tokenizer";
        snprintf(folder, sizeof folder, "%.*s", (int)strlen(s->diffusers) - 1, s->diffusers);
        bool there = ck_anatomy_find(a, s->part) != NULL;
        ok = add_pair(index, folder, there ? ck_pipeline_library(s->part) : NULL,
                      class_of(s->architecture, s->part));
        if (!ok || strncmp(folder, "text_encoder", 12) != 0) continue;
        snprintf(tokenizer + 9, sizeof tokenizer - 9, "%.8s", folder + 12);
        ok = add_pair(index, tokenizer, NULL, NULL);
    }
    return ok;
}

/* Moves the fields of a JSON text into an object. */
static bool add_fields(cJSON *object, const char *json) {
    cJSON *fields = cJSON_Parse(json);
    bool ok = fields != NULL;
    while (ok && fields->child) {
        cJSON *field = cJSON_DetachItemViaPointer(fields, fields->child);
        ok = cJSON_AddItemToObject(object, field->string, field);
    }
    cJSON_Delete(fields);
    return ok;
}

static const ck_component *denoiser_of(const ck_anatomy *a) {
    const ck_component *c = ck_anatomy_find(a, CK_PART_UNET);
    if (!c) c = ck_anatomy_find(a, CK_PART_MMDIT);
    return c ? c : ck_anatomy_find(a, CK_PART_FLUX);
}

/* A dimension of a tensor of a component; 0 where there is none. */
static uint64_t size_of(const ck_reader *r, const ck_component *c, const char *name, size_t axis) {
    ck_names names;
    ck_names_init(&names, r, c);
    const ck_tensor *t = ck_names_find(&names, name);
    return t && axis < t->rank ? t->shape[axis] : 0;
}

/* The width of the guidance scale's embedding, of LCM's UNets; else 0. */
static uint64_t guidance_width(const ck_reader *r, const ck_anatomy *a) {
    const ck_component *unet = ck_anatomy_find(a, CK_PART_UNET);
    return unet ? size_of(r, unet, "time_embed.cond_proj.weight", 1) : 0;
}

/* Its row of the table, or SCHEDULERS. */
static size_t scheduler_of(const ck_anatomy *a) {
    size_t i = 0;
    if (a->prediction == CK_PREDICTION_EDM || a->prediction == CK_PREDICTION_EDM_V)
        return SCHEDULERS;
    while (i < SCHEDULERS && schedulers[i].architecture != a->architecture->id) i++;
    return i;
}

static const char *scheduler_class(const ck_reader *r, const ck_anatomy *a, size_t row) {
    return guidance_width(r, a) ? "LCMScheduler" : schedulers[row].class_name;
}

static const char *pipeline_of(const ck_anatomy *a) {
    for (size_t i = 0; i < sizeof pipelines / sizeof *pipelines; i++) {
        const char *v = pipelines[i].variant;
        if (pipelines[i].architecture == a->architecture->id &&
            (v && a->variant ? strcmp(v, a->variant) == 0 : v == a->variant))
            return pipelines[i].class_name;
    }
    return NULL;
}

static bool fill_index(const ck_reader *r, const ck_anatomy *a, const char *class_name,
                       cJSON *index) {
    bool ok = index && cJSON_AddStringToObject(index, "_class_name", class_name) &&
              add_seats(a, index) &&
              add_pair(index, "scheduler", "diffusers", scheduler_class(r, a, scheduler_of(a)));
    for (size_t i = 0; i < sizeof pipeline_settings / sizeof *pipeline_settings && ok; i++)
        if (pipeline_settings[i].architecture == a->architecture->id)
            ok = add_fields(index, pipeline_settings[i].json);
    return ok;
}

ck_status ck_pipeline_index(const ck_reader *r, const ck_anatomy *a, cJSON **index, ck_error *err) {
    const char *class_name = pipeline_of(a);
    if (!class_name || scheduler_of(a) == SCHEDULERS)
        return fail_unknown(r, a, "pipeline of diffusers", err);
    *index = cJSON_CreateObject();
    if (fill_index(r, a, class_name, *index)) return CK_OK;
    cJSON_Delete(*index);
    return ck_fail_memory(err, ck_reader_path(r));
}

/* Sets a field, unless it has the value. */
static bool set_field(cJSON *config, const char *name, cJSON *value, bool *changed) {
    const cJSON *old = cJSON_GetObjectItemCaseSensitive(config, name);
    if (!value || cJSON_Compare(old, value, true)) {
        bool ok = value != NULL;
        cJSON_Delete(value);
        return ok;
    }
    *changed = true;
    cJSON_DeleteItemFromObjectCaseSensitive(config, name);
    return cJSON_AddItemToObject(config, name, value);
}

ck_status ck_pipeline_mark(const ck_anatomy *a, cJSON *config, bool *changed, ck_error *err) {
    *changed = false;
    bool ok = true;
    if (a->prediction == CK_PREDICTION_V)
        ok = set_field(config, "prediction_type", cJSON_CreateString("v_prediction"), changed);
    if (ok && a->zero_snr)
        ok = set_field(config, "rescale_betas_zero_snr", cJSON_CreateTrue(), changed) &&
             set_field(config, "timestep_spacing", cJSON_CreateString("trailing"), changed);
    return ok ? CK_OK : ck_fail_memory(err, "scheduler_config.json");
}

ck_status ck_pipeline_scheduler(const ck_reader *r, const ck_anatomy *a, cJSON **config,
                                ck_error *err) {
    size_t row = scheduler_of(a);
    if (row == SCHEDULERS) return fail_unknown(r, a, "scheduler", err);
    *config = cJSON_CreateObject();
    bool changed;
    if (*config && cJSON_AddStringToObject(*config, "_class_name", scheduler_class(r, a, row)) &&
        add_fields(*config, schedulers[row].json) &&
        ck_pipeline_mark(a, *config, &changed, err) == CK_OK)
        return CK_OK;
    cJSON_Delete(*config);
    return ck_fail_memory(err, ck_reader_path(r));
}

/* ---- Configs of components ---- */

/* The numbers that tensors tell. */
static bool add_denoiser_sizes(const ck_reader *r, const ck_anatomy *a, const ck_component *c,
                               cJSON *config) {
    if (c->part == CK_PART_FLUX) {
        cJSON_DeleteItemFromObject(config, "in_channels");
        return cJSON_AddNumberToObject(config, "in_channels",
                                       (double)size_of(r, c, "img_in.weight", 1));
    }
    if (c->part != CK_PART_UNET) return true;
    uint64_t guidance = guidance_width(r, a);
    if (guidance && !cJSON_AddNumberToObject(config, "time_cond_proj_dim", (double)guidance))
        return false;
    if (a->architecture->id == CK_ARCH_SD2 && a->prediction == CK_PREDICTION_V) {
        cJSON_DeleteItemFromObject(config, "sample_size");
        if (!cJSON_AddNumberToObject(config, "sample_size", 96) ||
            !cJSON_AddTrueToObject(config, "upcast_attention"))
            return false;
    }
    return cJSON_AddNumberToObject(config, "in_channels",
                                   (double)size_of(r, c, "input_blocks.0.0.weight", 1)) &&
           cJSON_AddNumberToObject(config, "out_channels",
                                   (double)size_of(r, c, "out.2.weight", 0));
}

/* Whether it is the published network: of its sizes, as far as they are looked at, and with as many
 * tensors. */
static bool is_published(const ck_reader *r, const ck_anatomy *a, const ck_component *c) {
    if (c != denoiser_of(a)) return true;
    size_t more = guidance_width(r, a) ? 1 : 0;
    return !a->unusual && c->tensors == c->needed + more;
}

const char *ck_pipeline_published(const ck_anatomy *a, ck_part part) {
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++)
        if (configs[i].part == part && (configs[i].architecture == CK_ARCH_UNKNOWN ||
                                        configs[i].architecture == a->architecture->id))
            return configs[i].json;
    return NULL;
}

static bool add_class(const ck_anatomy *a, ck_part part, cJSON *config) {
    if (strcmp(ck_pipeline_library(part), "diffusers") == 0) return true;
    cJSON *list = cJSON_AddArrayToObject(config, "architectures");
    return list &&
           cJSON_AddItemToArray(list, cJSON_CreateString(class_of(a->architecture->id, part)));
}

ck_status ck_pipeline_config(const ck_reader *r, const ck_anatomy *a, size_t component,
                             cJSON **config, ck_error *err) {
    const ck_component *c = &a->components[component];
    const char *json = is_published(r, a, c) ? ck_pipeline_published(a, c->part) : NULL;
    if (!json) {
        char what[64];
        snprintf(what, sizeof what, "config.json of the %s", ck_part_title(c->part));
        return fail_unknown(r, a, what, err);
    }
    *config = cJSON_CreateObject();
    if (*config && add_fields(*config, json) && add_class(a, c->part, *config) &&
        add_denoiser_sizes(r, a, c, *config))
        return CK_OK;
    cJSON_Delete(*config);
    return ck_fail_memory(err, ck_reader_path(r));
}
