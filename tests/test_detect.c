/* Models in one file: configs told from shapes are those that were published. */
#include "tests/ok.h"

#include "distill/models/detect_int.h"
#include "distill/models/model.h"
#include "io/layout.h"
#include "io/pipeline.h"
#include "tests/fixture.h"
#include "tests/layouts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static fixture folder;

static int make_folder(void **state) {
    (void)state;
    fixture_make(&folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    fixture_remove(&folder);
    return 0;
}

static void expect(ck_status s, ck_status wanted, const char *message) {
    if (s != wanted || !strstr(err.message, message)) fail_msg("%d: %s", s, err.message);
}

/* What diffusers' folders of these models say. */
#define LEVELS4                                                                                    \
    "\"block_out_channels\":[320,640,1280,1280],\"layers_per_block\":2,"                           \
    "\"down_block_types\":[\"CrossAttnDownBlock2D\",\"CrossAttnDownBlock2D\","                     \
    "\"CrossAttnDownBlock2D\",\"DownBlock2D\"],"                                                   \
    "\"up_block_types\":[\"UpBlock2D\",\"CrossAttnUpBlock2D\",\"CrossAttnUpBlock2D\","             \
    "\"CrossAttnUpBlock2D\"],"
static const struct published {
    const char *file, *unet;
    double vae_scale;
    int64_t clip[2][4]; /* width, inner, heads, layers */
    ck_unary activation;
} published[] = {
    {"sd1 file",
     LEVELS4 "\"cross_attention_dim\":768,\"attention_head_dim\":8",
     0.18215,
     {{768, 3072, 12, 12}},
     CK_QUICK_GELU},
    {"sd1 inpainting file",
     LEVELS4 "\"in_channels\":9,\"cross_attention_dim\":768,\"attention_head_dim\":8",
     0.18215,
     {{768, 3072, 12, 12}},
     CK_QUICK_GELU},
    {"sd2 file",
     LEVELS4 "\"cross_attention_dim\":1024,\"attention_head_dim\":[5,10,20,20],"
             "\"use_linear_projection\":true",
     0.18215,
     {{1024, 4096, 16, 24}},
     CK_GELU},
    {"sdxl file",
     "\"block_out_channels\":[320,640,1280],\"layers_per_block\":2,"
     "\"down_block_types\":[\"DownBlock2D\",\"CrossAttnDownBlock2D\",\"CrossAttnDownBlock2D\"],"
     "\"up_block_types\":[\"CrossAttnUpBlock2D\",\"CrossAttnUpBlock2D\",\"UpBlock2D\"],"
     "\"cross_attention_dim\":2048,\"attention_head_dim\":[5,10,20],"
     "\"transformer_layers_per_block\":[1,2,10],\"addition_embed_type\":\"text_time\","
     "\"addition_time_embed_dim\":256,\"projection_class_embeddings_input_dim\":2816",
     0.13025,
     {{768, 3072, 12, 12}, {1280, 5120, 20, 32}},
     CK_QUICK_GELU},
};

/* A part of the file, seen under diffusers' names. */
static ck_params *part(const ck_reader *view, const char *prefix) {
    ck_params *p;
    ok(ck_params_from(view, prefix, &p, &err));
    return p;
}

static void check_unet(const struct published *model, const ck_reader *view) {
    char json[2048];
    ck_unet_config want, got;
    int n =
        snprintf(json, sizeof json, "{\"_class_name\":\"UNet2DConditionModel\",%s}", model->unet);
    ok(ck_unet_read(fixture_file(&folder, "config.json", json, (size_t)n), &want, &err));
    ck_params *p = part(view, "unet.");
    ok(ck_detect__unet(p, &got, &err));
    assert_int_equal(got.levels, want.levels);
    for (int64_t i = 0; i < want.levels; i++)
        assert_memory_equal(&got.level[i], &want.level[i], sizeof got.level[i]);
    assert_int_equal(got.in_channels, want.in_channels);
    assert_int_equal(got.out_channels, want.out_channels);
    assert_int_equal(got.mid, want.mid);
    assert_int_equal(got.mid_depth, want.mid_depth);
    assert_int_equal(got.context, want.context);
    assert_int_equal(got.groups, want.groups);
    assert_true(got.eps == want.eps && got.flip == want.flip && got.shift == want.shift);
    assert_int_equal(got.guidance, want.guidance);
    assert_int_equal(got.added_time, want.added_time);
    assert_int_equal(got.added_width, want.added_width);
    ck_params_free(p);
}

static void check_vae(const ck_reader *view) {
    ck_vae_config c;
    ck_params *p = part(view, "vae.");
    ok(ck_detect__vae(p, &c, &err));
    const int64_t channels[] = {128, 256, 512, 512};
    assert_int_equal(c.levels, 4);
    assert_memory_equal(c.channels, channels, sizeof channels);
    assert_int_equal(c.layers, 2);
    assert_int_equal(c.in_channels, 3);
    assert_int_equal(c.out_channels, 3);
    assert_int_equal(c.latent_channels, 4);
    assert_int_equal(c.groups, 32);
    assert_true(c.quant && c.post_quant && c.attention);
    ck_params_free(p);
}

static void check_clip(const struct published *model, int which, const ck_reader *view) {
    ck_clip_config c;
    ck_params *p = part(view, which ? "text_encoder_2." : "text_encoder.");
    ok(ck_detect__clip(p, model->activation == CK_QUICK_GELU && !which, &c, &err));
    const int64_t got[] = {c.width, c.inner, c.heads, c.layers};
    assert_memory_equal(got, model->clip[which], sizeof got);
    assert_int_equal(c.vocabulary, 49408);
    assert_int_equal(c.positions, 77);
    assert_int_equal(c.activation, which ? CK_GELU : model->activation);
    if (which) assert_int_equal(c.projection, 1280);
    ck_params_free(p);
}

static void test_configs(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        layout l;
        ck_reader *view;
        layout_make(&l, layout_case_named(published[i].file), false);
        ck_reader *r = layout_reader(&l);
        layout_free(&l);
        ok(ck_layout_convert(r, CK_LAYOUT_DIFFUSERS, CK_UNUSED_KEEP, &view, NULL, &err));
        check_unet(&published[i], view);
        check_vae(view);
        check_clip(&published[i], 0, view);
        if (published[i].clip[1][0]) check_clip(&published[i], 1, view);
        ck_reader_close(view);
        ck_reader_close(r);
    }
}

/* ---- Transformers ---- */

/* The config that was published, as a file. */
static const char *published_config(const ck_anatomy *a, ck_part part) {
    const char *text = ck_pipeline_published(a, part);
    assert_non_null(text);
    return fixture_file(&folder, "config.json", text, strlen(text));
}

static void check_mmdit(const ck_anatomy *a, const ck_reader *view) {
    ck_mmdit_config want, got;
    ok(ck_mmdit_read(published_config(a, CK_PART_MMDIT), &want, &err));
    ck_params *p = part(view, "transformer.");
    ok(ck_detect__mmdit(p, &got, &err));
    assert_int_equal(got.in_channels, want.in_channels);
    assert_int_equal(got.out_channels, want.out_channels);
    assert_int_equal(got.patch, want.patch);
    assert_int_equal(got.layers, want.layers);
    assert_int_equal(got.heads, want.heads);
    assert_int_equal(got.width, want.width);
    assert_int_equal(got.context, want.context);
    assert_int_equal(got.pooled, want.pooled);
    assert_int_equal(got.positions, want.positions);
    assert_int_equal(got.normed, want.normed);
    assert_memory_equal(got.dual, want.dual, sizeof got.dual);
    ck_params_free(p);
}

static void check_flux(const ck_anatomy *a, const ck_reader *view) {
    ck_flux_config want, got;
    ok(ck_flux_read(published_config(a, CK_PART_FLUX), &want, &err));
    ck_params *p = part(view, "transformer.");
    ok(ck_detect__flux(p, &got, &err));
    assert_int_equal(got.in_channels, want.in_channels);
    assert_int_equal(got.out_channels, want.out_channels);
    assert_int_equal(got.layers, want.layers);
    assert_int_equal(got.single_layers, want.single_layers);
    assert_int_equal(got.heads, want.heads);
    assert_int_equal(got.width, want.width);
    assert_int_equal(got.context, want.context);
    assert_int_equal(got.pooled, want.pooled);
    assert_memory_equal(got.axes, want.axes, sizeof got.axes);
    assert_int_equal(got.guidance, want.guidance);
    ck_params_free(p);
}

static void check_t5(const ck_anatomy *a, const ck_reader *view) {
    ck_t5_config want, got;
    ok(ck_t5_read(published_config(a, CK_PART_T5), &want, &err));
    ck_params *p = part(view, "text_encoder_2.");
    ok(ck_detect__t5(p, &got, &err));
    const int64_t wanted[] = {want.vocabulary, want.width,  want.inner,   want.heads,
                              want.head,       want.layers, want.buckets, want.distance};
    const int64_t found[] = {got.vocabulary, got.width,  got.inner,   got.heads,
                             got.head,       got.layers, got.buckets, got.distance};
    assert_memory_equal(found, wanted, sizeof found);
    assert_true(got.eps == want.eps);
    ck_params_free(p);
}

static void test_transformers(void **state) {
    (void)state;
    static const char *const files[] = {"sd3-medium file", "sd3.5-medium file", "sd3.5-large file",
                                        "flux-dev file"};
    for (int i = 0; i < 4; i++) {
        layout l;
        ck_reader *view;
        ck_anatomy a;
        layout_make(&l, layout_case_named(files[i]), false);
        ck_reader *r = layout_reader(&l);
        layout_free(&l);
        ok(ck_layout_convert(r, CK_LAYOUT_DIFFUSERS, CK_UNUSED_KEEP, &view, NULL, &err));
        ok(ck_anatomy_of(view, &a, &err));
        if (i < 3) check_mmdit(&a, view);
        if (i == 3) check_flux(&a, view), check_t5(&a, view);
        ck_anatomy_free(&a);
        ck_reader_close(view);
        ck_reader_close(r);
    }
}

/* ---- Opening ---- */

/* A file of that model's size with nothing but zeros in it, of which the disk keeps only the
 * header. */
static const char *write_model(const char *name, const char *file, bool tiny) {
    layout l;
    layout_make(&l, layout_case_named(name), tiny);
    char *header = malloc(l.count * 256);
    uint64_t at = 0;
    size_t n = (size_t)sprintf(header, "{");
    for (size_t i = 0; i < l.count; i++) {
        const layout_tensor *t = &l.tensors[i];
        bool whole = !ck_dtype_is_float(t->dtype);
        uint64_t bytes = whole ? 8 : 2;
        n += (size_t)sprintf(header + n, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "",
                             t->name, whole ? "I64" : "F16");
        for (size_t k = 0; k < t->rank; k++) {
            n += (size_t)sprintf(header + n, "%s%llu", k ? "," : "",
                                 (unsigned long long)t->shape[k]);
            bytes *= t->shape[k];
        }
        n += (size_t)sprintf(header + n, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at,
                             (unsigned long long)(at + bytes));
        at += bytes;
    }
    n += (size_t)sprintf(header + n, "}");
    const char *path = fixture_raw_safetensors(&folder, file, header, NULL, 0);
    assert_int_equal(truncate(path, (off_t)(8 + n + at)), 0);
    free(header);
    layout_free(&l);
    return path;
}

static void test_open(void **state) {
    (void)state;
    const ck_model_parts parts = {.tokenizer = "tests/data/tokenizer"};
    const char *path = write_model("sd1 file", "sd1", false);
    ck_model m;
    ok(ck_model_open(path, &parts, &m, &err));
    assert_int_equal(m.texts, 1);
    assert_int_equal(ck_model_width(&m), 768);
    assert_int_equal(ck_model_tokens(&m), 77);
    assert_int_equal(m.unet_config.sample_size, 64);
    assert_string_equal(m.schedule.sampler, "ddim");
    assert_int_equal(m.schedule.prediction, CK_PREDICT_EPSILON);
    assert_true(m.vae_config.scale == 0.18215 && !m.zero_empty);
    ck_model_close(&m);
    expect(ck_model_open(path, NULL, &m, &err), CK_USAGE, "has no vocabulary");
}

/* One vocabulary for both encoders of SDXL, of which the second was trained with another padding.
 */
static void test_padding(void **state) {
    (void)state;
    const ck_model_parts parts = {.tokenizer = "tests/data/tokenizer"};
    int32_t ids[77];
    size_t lost;
    ck_model m;
    ok(ck_model_open(write_model("sdxl file", "sdxl", false), &parts, &m, &err));
    assert_int_equal(m.texts, 2);
    for (int i = 0; i < 2; i++) {
        ok(ck_tokenizer_encode(m.text[i].tokenizer, "a cat", ids, &lost, &err));
        assert_int_equal(ids[76], i ? 0 : ck_tokenizer_end(m.text[i].tokenizer));
    }
    ck_model_close(&m);
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *layout;
        bool tiny;
        const char *message;
    } cases[] = {
        {"sd1 unet", false, "has no VAE"},
        {"sd1 file", true, "a Stable Diffusion 1.x of unusual size (width"},
        {"flux-schnell", false, "has no VAE: --vae"},
        {"flux-schnell", true, "heads of 2, not 128"},
        {"vae4", true, "has no UNet and no transformer"},
    };
    const ck_model_parts parts = {.tokenizer = "tests/data/tokenizer"};
    ck_model m;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = write_model(cases[i].layout, "model", cases[i].tiny);
        expect(ck_model_open(path, &parts, &m, &err), CK_INPUT, cases[i].message);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_configs), cmocka_unit_test(test_transformers),
        cmocka_unit_test(test_open),    cmocka_unit_test(test_padding),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("detect", tests, make_folder, remove_folder);
}
