/* SD3 and FLUX in one file, and in a file for each part, beside the same in a folder: the same
 * pictures, to the bit. The models are small, of random weights, with heads and groups as published
 * ones have them, so that their configs can be told from shapes. */
#include "distill/data/image.h"
#include "distill/models/export.h"
#include "distill/models/model.h"
#include "tests/folder.h"
#include "tests/program.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define WORDS "tests/data/tokenizer"

/* ---- Folders ---- */

/* Of what a network in g asks for. */
static void save_weights(ck_graph *g, ck_params *p, const char *file) {
    ok(ck_graph_check(g, &err));
    ok(ck_export(p, fixture_path(&f, file), CK_DTYPE_COUNT, NULL, 0, &err));
    ck_graph_free(g);
    ck_params_free(p);
}

static const char *write(const char *name, const char *text) {
    return fixture_file(&f, name, text, strlen(text));
}

static void make_clip(const char *suffix, int width, const char *activation, bool projected) {
    char name[64], json[512];
    ck_clip_config c;
    ck_params *p = ck_params_new((uint64_t)width);
    ck_graph *g = ck_graph_new();
    snprintf(name, sizeof name, "m/text_encoder%s/config.json", suffix);
    snprintf(json, sizeof json,
             "{\"architectures\": [\"CLIPTextModel%s\"], \"vocab_size\": 694, \"hidden_size\": %d, "
             "\"projection_dim\": %d, \"intermediate_size\": 96, \"num_attention_heads\": %d, "
             "\"num_hidden_layers\": 2, \"hidden_act\": \"%s\", \"eos_token_id\": 2}",
             projected ? "WithProjection" : "", width, width, width / 64, activation);
    ok(ck_clip_read(write(name, json), &c, &err));
    ck_node ids = ck_input(g, "ids", CK_I32, CK_SHAPE(1, 77));
    ck_clip(g, p, &c, ids, ck_input(g, "ends", CK_I32, CK_SHAPE(1)));
    snprintf(name, sizeof name, "m/text_encoder%s/model.safetensors", suffix);
    save_weights(g, p, name);
}

static void make_t5(const char *suffix) {
    char name[64];
    ck_t5_config c;
    ck_params *p = ck_params_new(3);
    ck_graph *g = ck_graph_new();
    snprintf(name, sizeof name, "m/text_encoder%s/config.json", suffix);
    ok(ck_t5_read(write(name, "{\"architectures\": [\"T5EncoderModel\"], \"vocab_size\": 304, "
                              "\"d_model\": 192, \"d_kv\": 10, \"d_ff\": 64, \"num_layers\": 2, "
                              "\"num_heads\": 3, \"feed_forward_proj\": \"gated-gelu\"}"),
                  &c, &err));
    ck_node ids = ck_input(g, "ids", CK_I32, CK_SHAPE(5));
    ck_t5(g, p, &c, ids, ck_input(g, "buckets", CK_I32, CK_SHAPE(5, 5)));
    snprintf(name, sizeof name, "m/text_encoder%s/model.safetensors", suffix);
    save_weights(g, p, name);
}

static void make_vae(const char *numbers) {
    char json[512];
    ck_vae_config c;
    ck_params *p = ck_params_new(4);
    ck_graph *g = ck_graph_new();
    snprintf(json, sizeof json,
             "{\"_class_name\": \"AutoencoderKL\", \"block_out_channels\": [32, 64], "
             "\"down_block_types\": [\"DownEncoderBlock2D\", \"DownEncoderBlock2D\"], "
             "\"up_block_types\": [\"UpDecoderBlock2D\", \"UpDecoderBlock2D\"], "
             "\"layers_per_block\": 1, \"latent_channels\": 4, \"use_quant_conv\": false, "
             "\"use_post_quant_conv\": false, %s}",
             numbers);
    ok(ck_vae_read(write("m/vae/config.json", json), &c, &err));
    ck_vae_encode(g, p, &c, ck_input(g, "image", CK_F32, CK_SHAPE(1, 8, 8, 3)));
    ck_vae_decode(g, p, &c, ck_input(g, "latents", CK_F32, CK_SHAPE(1, 4, 4, 4)));
    save_weights(g, p, "m/vae/diffusion_pytorch_model.safetensors");
}

/* Of CLIP, the second with its own padding, and of T5. */
static void make_words(const char *t5) {
    const char *m = fixture_path(&f, "m");
    outcome *o = program_run(
        ".",
        "cp -r " WORDS " %s/tokenizer && cp -r " WORDS " %s/tokenizer_2 && "
        "mkdir -p %s/tokenizer%s && cp tests/data/pipelines/sd3/tokenizer_3/tokenizer.json "
        "%s/tokenizer%s",
        m, m, m, t5, m, t5);
    program_expect(o, 0, NULL, NULL);
    write("m/tokenizer_2/tokenizer_config.json", "{\"pad_token\": \"!\"}");
}

static void make_folders(void) {
    static const char *const names[] = {
        "m",     "m/text_encoder", "m/text_encoder_2", "m/text_encoder_3", "m/transformer",
        "m/vae", "m/scheduler"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_int_equal(mkdir(fixture_path(&f, names[i]), 0777), 0);
}

static void make_sd3(void) {
    ck_mmdit_config c;
    ck_params *p = ck_params_new(1);
    ck_graph *g = ck_graph_new();
    make_folders();
    write("m/model_index.json",
          "{\"_class_name\": \"StableDiffusion3Pipeline\", \"transformer\": [\"diffusers\", "
          "\"SD3Transformer2DModel\"], \"vae\": [\"diffusers\", \"AutoencoderKL\"], "
          "\"text_encoder\": [\"transformers\", \"CLIPTextModelWithProjection\"], "
          "\"text_encoder_2\": [\"transformers\", \"CLIPTextModelWithProjection\"], "
          "\"text_encoder_3\": [\"transformers\", \"T5EncoderModel\"]}");
    write("m/scheduler/scheduler_config.json",
          "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"shift\": 3.0}");
    ok(ck_mmdit_read(
        write("m/transformer/config.json",
              "{\"_class_name\": \"SD3Transformer2DModel\", \"num_layers\": 3, "
              "\"num_attention_heads\": 2, \"caption_projection_dim\": 128, \"in_channels\": 4, "
              "\"out_channels\": 4, \"joint_attention_dim\": 192, \"pooled_projection_dim\": 192, "
              "\"pos_embed_max_size\": 64, \"qk_norm\": \"rms_norm\", "
              "\"dual_attention_layers\": [0, 1]}"),
        &c, &err));
    ck_mmdit(g, p, &c,
             &(ck_mmdit_inputs){.x = ck_input(g, "x", CK_F32, CK_SHAPE(1, 4, 4, 4)),
                                .time = ck_input(g, "time", CK_F32, CK_SHAPE(1)),
                                .context = ck_input(g, "context", CK_F32, CK_SHAPE(1, 5, 192)),
                                .pooled = ck_input(g, "pooled", CK_F32, CK_SHAPE(1, 192))});
    save_weights(g, p, "m/transformer/diffusion_pytorch_model.safetensors");
    make_clip("", 64, "quick_gelu", true);
    make_clip("_2", 128, "gelu", true);
    make_t5("_3");
    make_vae("\"scaling_factor\": 1.5305, \"shift_factor\": 0.0609");
    make_words("_3");
}

static void make_flux(void) {
    ck_flux_config c;
    ck_params *p = ck_params_new(1);
    ck_graph *g = ck_graph_new();
    make_folders();
    write("m/model_index.json",
          "{\"_class_name\": \"FluxPipeline\", \"transformer\": [\"diffusers\", "
          "\"FluxTransformer2DModel\"], \"vae\": [\"diffusers\", \"AutoencoderKL\"], "
          "\"text_encoder\": [\"transformers\", \"CLIPTextModel\"], "
          "\"text_encoder_2\": [\"transformers\", \"T5EncoderModel\"]}");
    write("m/scheduler/scheduler_config.json",
          "{\"_class_name\": \"FlowMatchEulerDiscreteScheduler\", \"shift\": 3.0, "
          "\"use_dynamic_shifting\": true}");
    ok(ck_flux_read(
        write("m/transformer/config.json",
              "{\"_class_name\": \"FluxTransformer2DModel\", \"in_channels\": 16, "
              "\"num_layers\": 2, \"num_single_layers\": 2, \"num_attention_heads\": 1, "
              "\"joint_attention_dim\": 192, \"pooled_projection_dim\": 64, "
              "\"guidance_embeds\": true}"),
        &c, &err));
    ck_flux(g, p, &c,
            &(ck_flux_inputs){.x = ck_input(g, "x", CK_F32, CK_SHAPE(1, 4, 4, 4)),
                              .time = ck_input(g, "time", CK_F32, CK_SHAPE(1)),
                              .context = ck_input(g, "context", CK_F32, CK_SHAPE(1, 5, 192)),
                              .pooled = ck_input(g, "pooled", CK_F32, CK_SHAPE(1, 64)),
                              .guidance = ck_input(g, "guidance", CK_F32, CK_SHAPE(1))});
    save_weights(g, p, "m/transformer/diffusion_pytorch_model.safetensors");
    make_clip("", 64, "quick_gelu", false);
    make_t5("_2");
    make_vae("\"scaling_factor\": 0.3611, \"shift_factor\": 0.1159");
    make_words("_2");
}

/* ---- Pictures ---- */

/* Of what is called m at the moment; the picture's text says so. */
static void sample(const char *to, const char *options) {
    outcome *o = program_run(f.folder,
                             "ckdistill sample --model m %s -p 'a photo of a cat' --negative bad "
                             "--steps 2 --cfg 3 --size 16x24 -q -o %s.png "
                             "--latents-out %s.safetensors",
                             options, to, to);
    program_expect(o, 0, NULL, NULL);
}

static void check_same(const char *a, const char *b) {
    program_expect(program_run(f.folder,
                               "cmp %s.png %s.png && "
                               "cmp %s.safetensors %s.safetensors",
                               a, b, a, b),
                   0, NULL, NULL);
}

static void check_differ(const char *a, const char *b) {
    program_expect(program_run(f.folder, "cmp -s %s.safetensors %s.safetensors", a, b), 1, NULL,
                   NULL);
}

/* What is called m is from now on called that; the other becomes m. */
static void become(const char *m, const char *other) {
    program_expect(program_run(f.folder, "mv m %s && mv %s m", m, other), 0, NULL, NULL);
}

/* The folder, one file under its makers' names, and a transformer with the rest beside it. parts:
 * options for the latter. */
static void check_model(const char *transformer, const char *parts) {
    program_expect(program_run(f.folder, "cktool convert m one --layout original -q"), 0, NULL,
                   NULL);
    program_expect(program_run(".",
                               "cp tests/data/models/base/vae/*.safetensors "
                               "%s/small.safetensors",
                               f.folder),
                   0, NULL, NULL);
    program_expect(program_run(f.folder, "cktool split one -d parts -q"), 0, NULL, NULL);
    sample("folder", "");
    become("dir", "one");
    sample("file", "--tokenizer dir");
    check_same("folder", "file");
    become("one", transformer);
    sample("parts", parts);
    check_same("folder", "parts");
    /* Every part says something. */
    program_expect(program_run(f.folder, "ckdistill sample --model m --tokenizer dir"), 1, NULL,
                   "has no");
    program_expect(program_run(f.folder, "ckdistill sample --model parts/vae.safetensors "
                                         "--tokenizer dir"),
                   1, NULL, "vae.safetensors: has no UNet and no transformer: --model");
    program_expect(program_run(f.folder,
                               "ckdistill sample --model m --tokenizer dir %s "
                               "--vae small.safetensors",
                               parts),
                   1, NULL, "small.safetensors: a VAE of unusual size (16 channels)");
    program_expect(program_run(f.folder,
                               "ckdistill sample --model m --tokenizer dir %s "
                               "--clip small.safetensors",
                               parts),
                   1, NULL, "small.safetensors: its text encoder is not complete");
    /* A plan needs the transformer alone. */
    program_expect(program_run(f.folder, "ckdistill info --model m"), 0, "million parameters",
                   NULL);
}

static void test_sd3(void **state) {
    (void)state;
    make_sd3();
    const char *clips = "--tokenizer dir --clip parts/clip_l.safetensors --clip2 "
                        "parts/clip_g.safetensors --vae parts/vae.safetensors";
    char all[256];
    snprintf(all, sizeof all, "%s --t5 parts/t5xxl.safetensors", clips);
    check_model("parts/transformer.safetensors", all);
    sample("without", clips); /* T5 */
    check_differ("folder", "without");
    /* All words in one place, which cannot say with what both of CLIP's encoders pad. */
    program_expect(program_run(f.folder,
                               "mkdir words && cp dir/tokenizer/* dir/tokenizer_3/* words && "
                               "mv m transformer && mv one m"),
                   0, NULL, NULL);
    sample("words", "--tokenizer words");
    check_same("folder", "words");
    write("dir/tokenizer_2/tokenizer_config.json", "{\"pad_token\": \"<|endoftext|>\"}");
    program_expect(program_run(f.folder, "ckdistill sample --model m --tokenizer dir"), 1, NULL,
                   "it pads with the end token");
}

static void test_flux(void **state) {
    (void)state;
    make_flux();
    check_model("parts/transformer.safetensors",
                "--tokenizer dir --clip parts/clip_l.safetensors --t5 parts/t5xxl.safetensors "
                "--vae parts/vae.safetensors");
    program_expect(program_run(f.folder, "ckdistill sample --model m --tokenizer dir --clip2 one"),
                   1, NULL, "has no VAE");
}

/* ---- Training ---- */

static void make_photo(void) {
    ck_image image;
    assert_int_equal(mkdir(fixture_path(&f, "photos"), 0777), 0);
    ok(ck_image_make(16, 16, 3, &image, &err));
    for (size_t k = 0; k < 16 * 16 * 3; k++) image.pixels[k] = (uint8_t)(k * 7);
    ok(ck_image_write(fixture_path(&f, "photos/a.png"), &image, NULL, 0, true, &err));
    ck_image_free(&image);
    write("photos/a.txt", "a cat");
}

/* Two steps of a teacher, and its students' pictures. */
static void train(const char *to, const char *more) {
    outcome *o = program_run(f.folder, "ckdistill run config.json -o run_%s -q --set teacher=m %s",
                             to, more);
    program_expect(o, 0, NULL, NULL);
    program_expect(program_run(f.folder, "mv run_%s/student.safetensors student", to), 0, NULL,
                   NULL);
}

static void test_training(void **state) {
    (void)state;
    char options[128];
    make_flux();
    make_photo();
    write("config.json",
          "{\"task\": \"images\", \"threads\": 1, \"batch\": 1, \"steps\": 2, \"data\": "
          "{\"images\": \"photos\", \"size\": 16}, \"evaluate\": {\"steps\": [1], \"samples\": 10, "
          "\"teacher\": false}, \"method\": {\"name\": \"finetune\"}}");
    program_expect(program_run(f.folder, "cktool convert m one --layout original -q && "
                                         "cktool split one -d parts -q"),
                   0, NULL, NULL);
    train("folder", "");
    snprintf(options, sizeof options, "--unet student");
    sample("folder", options);
    become("dir", "parts/transformer.safetensors");
    train("parts", "--set tokenizer=dir --set parts.clip=parts/clip_l.safetensors --set "
                   "parts.t5=parts/t5xxl.safetensors --set parts.vae=one");
    become("transformer", "dir");
    sample("parts", options);
    check_same("folder", "parts");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_sd3, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_flux, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_training, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("one_file", tests, NULL, NULL);
}
