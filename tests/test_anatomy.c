/* What checkpoints are recognised as. */
#include "io/anatomy.h"
#include "io/layout.h"
#include "io/view.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/layouts.h"

#include <errno.h>
#include <string.h>

#define SHAPE(...)                                                                                 \
    (uint64_t[]) {                                                                                 \
        __VA_ARGS__                                                                                \
    }

static ck_reader *made(const char *name, bool tiny) {
    layout l;
    layout_make(&l, layout_case_named(name), tiny);
    ck_reader *r = layout_reader(&l);
    layout_free(&l);
    return r;
}

static void look(const ck_reader *r, ck_anatomy *a) {
    ck_error err;
    if (ck_anatomy_of(r, a, &err) != CK_OK) fail_msg("%s", err.message);
}

typedef struct expected {
    const char *name;
    ck_architecture_id architecture;
    const char *variant;
    ck_part parts[5]; /* ends with CK_PART_COUNT where there are fewer */
    ck_predicted prediction;
} expected;

#define END CK_PART_COUNT

static const expected cases[] = {
    {"sd1 file",
     CK_ARCH_SD1,
     NULL,
     {CK_PART_UNET, CK_PART_VAE, CK_PART_CLIP_L, END},
     CK_PREDICTION_EPSILON},
    {"sd1 inpainting file",
     CK_ARCH_SD1,
     "inpainting",
     {CK_PART_UNET, CK_PART_VAE, CK_PART_CLIP_L, END},
     CK_PREDICTION_EPSILON},
    /* Of made-up values the spread says nothing: see test_sd2_prediction. */
    {"sd2 file",
     CK_ARCH_SD2,
     NULL,
     {CK_PART_UNET, CK_PART_VAE, CK_PART_CLIP_H, END},
     CK_PREDICTION_UNKNOWN},
    {"sdxl file",
     CK_ARCH_SDXL,
     NULL,
     {CK_PART_UNET, CK_PART_VAE, CK_PART_CLIP_L, CK_PART_CLIP_G, END},
     CK_PREDICTION_EPSILON},
    {"refiner file",
     CK_ARCH_SDXL_REFINER,
     NULL,
     {CK_PART_UNET, CK_PART_VAE, CK_PART_CLIP_G, END},
     CK_PREDICTION_EPSILON},
    {"sd3-medium file",
     CK_ARCH_SD3_MEDIUM,
     NULL,
     {CK_PART_MMDIT, CK_PART_VAE, END},
     CK_PREDICTION_FLOW},
    {"sd3.5-medium file",
     CK_ARCH_SD35_MEDIUM,
     NULL,
     {CK_PART_MMDIT, CK_PART_VAE, END},
     CK_PREDICTION_FLOW},
    {"sd3.5-large file",
     CK_ARCH_SD35_LARGE,
     NULL,
     {CK_PART_MMDIT, CK_PART_VAE, END},
     CK_PREDICTION_FLOW},
    {"flux-dev", CK_ARCH_FLUX_DEV, NULL, {CK_PART_FLUX, END}, CK_PREDICTION_FLOW},
    {"flux-schnell", CK_ARCH_FLUX_SCHNELL, NULL, {CK_PART_FLUX, END}, CK_PREDICTION_FLOW},
    {"flux fill", CK_ARCH_FLUX_DEV, "fill", {CK_PART_FLUX, END}, CK_PREDICTION_FLOW},
    {"flux-dev file",
     CK_ARCH_FLUX_DEV,
     NULL,
     {CK_PART_FLUX, CK_PART_VAE, CK_PART_CLIP_L, CK_PART_T5, END},
     CK_PREDICTION_FLOW},
    {"sd1 unet", CK_ARCH_SD1, NULL, {CK_PART_UNET, END}, CK_PREDICTION_EPSILON},
    {"vae4", CK_ARCH_UNKNOWN, NULL, {CK_PART_VAE, END}, CK_PREDICTION_UNKNOWN},
    {"clip-l", CK_ARCH_UNKNOWN, NULL, {CK_PART_CLIP_L, END}, CK_PREDICTION_UNKNOWN},
    {"clip-h", CK_ARCH_UNKNOWN, NULL, {CK_PART_CLIP_H, END}, CK_PREDICTION_UNKNOWN},
    {"clip-g", CK_ARCH_UNKNOWN, NULL, {CK_PART_CLIP_G, END}, CK_PREDICTION_UNKNOWN},
    {"t5", CK_ARCH_UNKNOWN, NULL, {CK_PART_T5, END}, CK_PREDICTION_UNKNOWN},
};

static void check(const expected *e, const ck_reader *r, bool usual) {
    ck_anatomy a;
    look(r, &a);
    assert_int_equal(a.architecture->id, e->architecture);
    if (e->variant)
        assert_string_equal(a.variant, e->variant);
    else
        assert_null(a.variant);
    if (e->prediction != CK_PREDICTION_UNKNOWN) assert_int_equal(a.prediction, e->prediction);
    size_t parts = 0, tensors = 0;
    uint64_t bytes = 0;
    for (; parts < 5 && e->parts[parts] != END; parts++) {
        const ck_component *c = ck_anatomy_find(&a, e->parts[parts]);
        assert_non_null(c);
        assert_int_equal(c->needed > 0, usual);
        if (!usual) continue;
        assert_in_range(c->tensors, c->needed,
                        c->needed + 5); /* ids, scales, quantisation layers */
    }
    assert_int_equal(a.component_count, parts);
    for (size_t i = 0; i < a.component_count; i++) {
        size_t of_dtypes = 0;
        for (int d = 0; d < CK_DTYPE_COUNT; d++) of_dtypes += a.components[i].by_dtype[d];
        assert_int_equal(of_dtypes, a.components[i].tensors);
        tensors += a.components[i].tensors;
        bytes += a.components[i].nbytes;
    }
    assert_int_equal(tensors, ck_reader_count(r));
    for (size_t i = 0; i < ck_reader_count(r); i++) bytes -= ck_reader_tensor(r, i)->nbytes;
    assert_int_equal(bytes, 0);
    assert_int_equal(a.unusual == NULL, usual);
    ck_anatomy_free(&a);
}

/* The same is told from either layout. */
static void test_architectures(void **state) {
    (void)state;
    ck_error err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_reader *r = made(cases[i].name, false), *view;
        check(&cases[i], r, true);
        assert_int_equal(
            ck_layout_convert(r, CK_LAYOUT_DIFFUSERS, CK_UNUSED_DROP, &view, NULL, &err), CK_OK);
        check(&cases[i], view, true);
        ck_reader_close(view);
        ck_reader_close(r);
    }
}

/* A model of the same structure, but of other sizes, is recognised and said to be unusual. */
static void test_unusual_sizes(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (cases[i].architecture == CK_ARCH_UNKNOWN) continue;
        ck_reader *r = made(cases[i].name, true);
        check(&cases[i], r, false);
        ck_reader_close(r);
    }
    ck_reader *r = made("sd1 unet", true);
    ck_anatomy a;
    look(r, &a);
    assert_string_equal(a.unusual, "width 2 instead of 320");
    ck_anatomy_free(&a);
    ck_reader_close(r);
}

static void test_layouts(void **state) {
    (void)state;
    ck_error err;
    ck_anatomy a;
    ck_reader *r = made("sdxl file", true), *view;
    look(r, &a);
    assert_int_equal(a.layout, CK_LAYOUT_ORIGINAL);
    assert_string_equal(ck_anatomy_find(&a, CK_PART_VAE)->prefix, "first_stage_model.");
    ck_anatomy_free(&a);
    assert_int_equal(ck_layout_convert(r, CK_LAYOUT_DIFFUSERS, CK_UNUSED_DROP, &view, NULL, &err),
                     CK_OK);
    look(view, &a);
    assert_int_equal(a.layout, CK_LAYOUT_DIFFUSERS);
    assert_string_equal(ck_anatomy_find(&a, CK_PART_VAE)->prefix, "vae.");
    ck_anatomy_free(&a);
    ck_reader_close(view);
    ck_reader_close(r);
}

/* A made-up file with one more tensor. */
static ck_reader *with(const char *name, const char *extra, size_t rank, const uint64_t *shape) {
    layout l;
    layout_make(&l, layout_case_named(name), true);
    layout_add(&l, extra, CK_F32, rank, shape);
    ck_reader *r = layout_reader(&l);
    layout_free(&l);
    return r;
}

static bool has_mark(const ck_anatomy *a, const char *place) {
    for (size_t i = 0; i < a->mark_count; i++)
        if (strcmp(a->marks[i].place, place) == 0) return true;
    return false;
}

static void test_groups(void **state) {
    (void)state;
    static const struct {
        const char *name;
        ck_part part;
    } extras[] = {
        {"model_ema.diffusion_modelout2bias", CK_PART_EMA},
        {"alphas_cumprod", CK_PART_TRAINING},
        {"first_stage_model.loss.logvar", CK_PART_TRAINING},
        {"safety_checker.concept_embeds", CK_PART_SAFETY},
        {"ztsnr", CK_PART_MARKER},
        {"model.diffusion_model.no_such.weight", CK_PART_OTHER},
        {"model.diffusion_model.input_blocks.01.0.in_layers.0.weight", CK_PART_OTHER},
    };
    for (size_t i = 0; i < sizeof extras / sizeof *extras; i++) {
        ck_reader *r = with("sd1 file", extras[i].name, 1, SHAPE(3));
        ck_anatomy a;
        look(r, &a);
        const ck_component *c = ck_anatomy_find(&a, extras[i].part);
        assert_non_null(c);
        assert_int_equal(c->tensors, 1);
        assert_int_equal(c->elements, 3);
        assert_int_equal(c->nbytes, 12);
        assert_ptr_equal(&a.components[a.component_of[ck_reader_count(r) - 1]], c);
        assert_int_equal(a.zero_snr, strcmp(extras[i].name, "ztsnr") == 0);
        ck_anatomy_free(&a);
        ck_reader_close(r);
    }
}

static void test_markers(void **state) {
    (void)state;
    static const struct {
        const char *name;
        ck_predicted prediction;
    } markers[] = {
        {"v_pred", CK_PREDICTION_V},
        {"edm_mean", CK_PREDICTION_EDM},
        {"edm_vpred.sigma_max", CK_PREDICTION_EDM_V},
    };
    for (size_t i = 0; i < sizeof markers / sizeof *markers; i++) {
        ck_reader *r = with("sdxl file", markers[i].name, 1, SHAPE(0));
        ck_anatomy a;
        look(r, &a);
        assert_int_equal(a.prediction, markers[i].prediction);
        assert_non_null(strstr(a.prediction_reason, markers[i].name));
        ck_anatomy_free(&a);
        ck_reader_close(r);
    }
}

static void test_marks(void **state) {
    (void)state;
    static const struct {
        const char *key, *value, *place;
    } metadata[] = {
        {"ckmerge_recipe", "{}", "merged"},
        {"sd_merge_recipe", "{}", "merged"},
        {"modelspec.architecture", "stable-diffusion-xl-turbo-v1", "distilled"},
        {"modelspec.title", "My LCM mix", "distilled"},
        {"ss_sd_model_name", "x.safetensors", "finetuned"},
        {"distilled.method", "lcm", "distilled"},
        {"trained.method", "finetune", "finetuned"},
    };
    ck_error err;
    ck_anatomy a;
    for (size_t i = 0; i < sizeof metadata / sizeof *metadata; i++) {
        ck_reader *view;
        assert_int_equal(ck_view_new("v", &view, &err), CK_OK);
        assert_int_equal(ck_view_set_metadata(view, metadata[i].key, metadata[i].value, &err),
                         CK_OK);
        assert_int_equal(ck_view_finish(view, &err), CK_OK);
        look(view, &a);
        assert_int_equal(a.mark_count, 1);
        assert_string_equal(a.marks[0].place, metadata[i].place);
        ck_anatomy_free(&a);
        ck_reader_close(view);
    }
    static const struct {
        const char *model, *name, *place;
    } tensors[] = {
        {"sd1 unet", "time_embed.cond_proj.weight", "distilled"},
        {"vae4", "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "lora"},
        {"vae4", "unet.mid_block.attentions.0.proj_in.lora_A.weight", "lora"},
        {"vae4", "lora_unet_x.hada_w1_a", "lora"},
        {"vae4", "control_model.time_embed.0.weight", "controlnet"},
        {"vae4", "emb_params", "embedding"},
    };
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        ck_reader *plain = made(tensors[i].model, true);
        look(plain, &a);
        assert_int_equal(a.mark_count, 0);
        ck_anatomy_free(&a);
        ck_reader_close(plain);
        ck_reader *r = with(tensors[i].model, tensors[i].name, 2, SHAPE(2, 2));
        look(r, &a);
        assert_true(has_mark(&a, tensors[i].place));
        ck_anatomy_free(&a);
        ck_reader_close(r);
    }
    ck_reader *r = made("flux-schnell", true);
    look(r, &a);
    assert_true(has_mark(&a, "distilled"));
    ck_anatomy_free(&a);
    ck_reader_close(r);
}

/* The SD2 UNet with this spread of the bias that tells, in either layout. */
static void check_sd2(uint16_t magnitude, ck_layout target, ck_predicted prediction) {
    static const char bias[] =
        "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias";
    ck_error err;
    ck_reader *r = made("sd2 file", false), *view, *other;
    uint16_t values[320];
    for (int i = 0; i < 320; i++) values[i] = i % 2 ? magnitude : magnitude | 0x8000;
    assert_int_equal(ck_view_new("sd2", &view, &err), CK_OK);
    for (size_t i = 0; i < ck_reader_count(r); i++) {
        const ck_tensor *t = ck_reader_tensor(r, i);
        if (strcmp(t->name, bias) == 0)
            assert_int_equal(ck_view_constant(view, bias, CK_F16, 1, SHAPE(320), values, &err),
                             CK_OK);
        else
            assert_int_equal(ck_view_rename(view, t->name, r, t, &err), CK_OK);
    }
    assert_int_equal(ck_view_finish(view, &err), CK_OK);
    assert_int_equal(ck_layout_convert(view, target, CK_UNUSED_KEEP, &other, NULL, &err), CK_OK);
    ck_anatomy a;
    look(other, &a);
    assert_int_equal(a.prediction, prediction);
    ck_anatomy_free(&a);
    ck_reader_close(other);
    ck_reader_close(view);
    ck_reader_close(r);
}

static void test_sd2_prediction(void **state) {
    (void)state;
    const uint16_t tenth = 0x2E66, twentieth = 0x2A66; /* 0.1, 0.05 as F16 */
    check_sd2(tenth, CK_LAYOUT_ORIGINAL, CK_PREDICTION_V);
    check_sd2(tenth, CK_LAYOUT_DIFFUSERS, CK_PREDICTION_V);
    check_sd2(twentieth, CK_LAYOUT_ORIGINAL, CK_PREDICTION_EPSILON);
    check_sd2(twentieth, CK_LAYOUT_DIFFUSERS, CK_PREDICTION_EPSILON);
}

/* Names that only begin like something known do not make it known; nor does an empty file. */
static void test_unknown(void **state) {
    (void)state;
    static const char *const names[] = {
        "model.diffusion_model.input_blocks.0.0.weight",
        "double_blocks.0.img_attn.qkv.weight",
        "x",
    };
    layout l = {0};
    for (size_t i = 0; i < 3; i++) layout_add(&l, names[i], CK_F32, 0, NULL);
    ck_anatomy a;
    ck_reader *r = layout_reader(&l);
    look(r, &a);
    assert_int_equal(a.architecture->id, CK_ARCH_UNKNOWN);
    assert_int_equal(a.component_count, 1);
    assert_int_equal(a.components[0].part, CK_PART_OTHER);
    assert_int_equal(a.components[0].tensors, 3);
    ck_anatomy_free(&a);
    ck_reader_close(r);
    layout_free(&l);
    r = layout_reader(&l);
    look(r, &a);
    assert_int_equal(a.component_count, 0);
    ck_anatomy_free(&a);
    ck_reader_close(r);
}

/* Signs of a model whose tensors have strange shapes. */
static void test_strange_shapes(void **state) {
    (void)state;
    static const char *const names[] = {
        "output_blocks.0.0.in_layers.0.weight",
        "up_blocks.0.resnets.0.norm1.weight",
        "joint_blocks.0.x_block.attn.qkv.weight",
        "decoder.up.0.block.0.conv1.weight",
        "transformer.resblocks.0.ln_1.weight",
        "encoder.layers.0.layer_norm1.weight",
        "encoder.block.0.layer.0.SelfAttention.q.weight",
        "double_blocks.0.img_attn.qkv.weight",
        "img_in.weight",
        "token_embedding.weight",
        "label_emb.0.0.weight",
        "pos_embed",
    };
    layout l = {0};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        layout_add(&l, names[i], CK_F32, 0, NULL);
    ck_reader *r = layout_reader(&l);
    ck_anatomy a;
    look(r, &a);
    size_t tensors = 0;
    for (size_t i = 0; i < a.component_count; i++) tensors += a.components[i].tensors;
    assert_int_equal(tensors, ck_reader_count(r));
    ck_anatomy_free(&a);
    ck_reader_close(r);
    layout_free(&l);
}

static void test_out_of_memory(void **state) {
    (void)state;
    ck_reader *r = made("sd2 file", false);
    for (fault_first(FAULT_CALLOC, ENOMEM); fault_more();) {
        ck_error err;
        ck_anatomy a;
        fault_arm();
        ck_status status = ck_anatomy_of(r, &a, &err);
        fault_disarm();
        assert_int_equal(status, fault_hit() ? CK_MEMORY : CK_OK);
        ck_anatomy_free(&a);
    }
    ck_reader_close(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_architectures),  cmocka_unit_test(test_unusual_sizes),
        cmocka_unit_test(test_layouts),        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_markers),        cmocka_unit_test(test_marks),
        cmocka_unit_test(test_sd2_prediction), cmocka_unit_test(test_unknown),
        cmocka_unit_test(test_strange_shapes), cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
