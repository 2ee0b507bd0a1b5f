/* The two layouts: names, shapes and counts of every published model against what the diffusers
 * library has, bytes there and back, and what is refused. */
#include "io/layout.h"
#include "io/view.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/layouts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
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

static ck_reader *converted(const ck_reader *r, ck_layout target, ck_unused unused,
                            ck_layout_report *report) {
    ck_error err;
    ck_reader *view;
    if (ck_layout_convert(r, target, unused, &view, report, &err) != CK_OK)
        fail_msg("%s", err.message);
    return view;
}

static unsigned char *bytes_of(const ck_reader *r, const ck_tensor *t) {
    ck_error err;
    unsigned char *data = malloc(t->nbytes + 1);
    if (ck_reader_read(r, t, 0, data, t->nbytes, &err) != CK_OK) fail_msg("%s", err.message);
    return data;
}

/* Tensor name_b of b has the bytes of name_a of a from begin on. */
static void check_bytes(const ck_reader *a, const char *name_a, size_t begin, const ck_reader *b,
                        const char *name_b) {
    const ck_tensor *x = ck_reader_find(a, name_a), *y = ck_reader_find(b, name_b);
    assert_true(x && y && begin + y->nbytes <= x->nbytes);
    unsigned char *p = bytes_of(a, x), *q = bytes_of(b, y);
    assert_memory_equal(p + begin, q, y->nbytes);
    free(p);
    free(q);
}

/* Both have the same tensors: names, types, shapes, bytes. */
static void check_same(const ck_reader *a, const ck_reader *b) {
    assert_int_equal(ck_reader_count(a), ck_reader_count(b));
    for (size_t i = 0; i < ck_reader_count(a); i++) {
        const ck_tensor *x = ck_reader_tensor(a, i), *y = ck_reader_find(b, x->name);
        if (!y) fail_msg("'%s' is missing", x->name);
        assert_int_equal(x->dtype, y->dtype);
        assert_int_equal(x->rank, y->rank);
        assert_memory_equal(x->shape, y->shape, x->rank * sizeof *x->shape);
        check_bytes(a, x->name, 0, b, x->name);
    }
}

/* The generator, against numbers that come from elsewhere. */
static void test_original_names(void **state) {
    (void)state;
    for (size_t i = 0; i < layout_case_count; i++) {
        const layout_case *c = &layout_cases[i];
        ck_reader *r = made(c->name, false);
        char hex[17];
        uint64_t elements = 0;
        for (size_t t = 0; t < ck_reader_count(r); t++)
            elements += ck_reader_tensor(r, t)->elements;
        layout_fingerprint(r, hex);
        assert_int_equal(ck_reader_count(r), c->tensors);
        if (c->fingerprint) {
            assert_int_equal(elements, c->elements);
            assert_string_equal(hex, c->fingerprint);
        }
        ck_reader_close(r);
    }
}

/* Names and shapes in full size are exactly those of the library. */
static void test_diffusers_names(void **state) {
    (void)state;
    for (size_t i = 0; i < layout_case_count; i++) {
        const layout_case *c = &layout_cases[i];
        ck_reader *r = made(c->name, false);
        ck_reader *view = converted(r, CK_LAYOUT_DIFFUSERS, CK_UNUSED_DROP, NULL);
        char hex[17];
        layout_fingerprint(view, hex);
        assert_int_equal(ck_reader_count(view), c->diffusers_tensors);
        if (c->diffusers_fingerprint) assert_string_equal(hex, c->diffusers_fingerprint);
        ck_reader_close(view);
        ck_reader_close(r);
    }
}

static void there_and_back(const char *name, ck_unused unused) {
    ck_reader *r = made(name, true);
    ck_reader *there = converted(r, CK_LAYOUT_DIFFUSERS, unused, NULL);
    ck_reader *back = converted(there, CK_LAYOUT_ORIGINAL, unused, NULL);
    check_same(r, back);
    ck_reader_close(back);
    ck_reader_close(there);
    ck_reader_close(r);
}

static void test_there_and_back(void **state) {
    (void)state;
    for (size_t i = 0; i < layout_case_count; i++) {
        const char *name = layout_cases[i].name;
        /* On its own a tiny OpenCLIP is not known by its width, and SD2's loses its last layer. */
        bool alone = strcmp(name, "clip-h") == 0 || strcmp(name, "clip-g") == 0;
        if (!alone) there_and_back(name, CK_UNUSED_KEEP);
        if (!alone && strcmp(name, "sd2 file") != 0) there_and_back(name, CK_UNUSED_DROP);
    }
}

/* Text encoders that stand alone are told by their width, which needs the full size; so only the
 * smallest tensors are compared. */
static void test_openclip_alone(void **state) {
    (void)state;
    static const char *const names[] = {"clip-h", "clip-g"};
    for (size_t i = 0; i < 2; i++) {
        ck_reader *r = made(names[i], false);
        ck_reader *there = converted(r, CK_LAYOUT_DIFFUSERS, CK_UNUSED_KEEP, NULL);
        ck_reader *back = converted(there, CK_LAYOUT_ORIGINAL, CK_UNUSED_KEEP, NULL);
        assert_int_equal(ck_reader_count(back), ck_reader_count(r));
        for (size_t t = 0; t < ck_reader_count(r); t++) {
            const ck_tensor *tensor = ck_reader_tensor(r, t);
            assert_non_null(ck_reader_find(back, tensor->name));
            if (tensor->nbytes < 5000) check_bytes(r, tensor->name, 0, back, tensor->name);
        }
        ck_reader_close(back);
        ck_reader_close(there);
        ck_reader_close(r);
    }
}

static void test_sd2_drops(void **state) {
    (void)state;
    ck_reader *r = made("sd2 file", true);
    ck_layout_report report;
    ck_reader *there = converted(r, CK_LAYOUT_DIFFUSERS, CK_UNUSED_DROP, &report);
    assert_int_equal(report.dropped, 14); /* 12 of the last layer, projection, scale */
    assert_non_null(report.first_dropped);
    assert_null(ck_reader_find(there, "text_encoder.text_model.encoder.layers.23.mlp.fc1.weight"));
    assert_null(ck_reader_find(there, "text_encoder.text_projection.weight"));
    ck_reader *back = converted(there, CK_LAYOUT_ORIGINAL, CK_UNUSED_DROP, &report);
    assert_int_equal(report.made, 1);
    check_bytes(r, "cond_stage_model.model.logit_scale", 0, back,
                "cond_stage_model.model.logit_scale");
    assert_int_equal(ck_reader_count(back), ck_reader_count(r) - 13);
    ck_reader_close(back);
    ck_reader_close(there);
    ck_reader_close(r);
}

/* What goes where inside of tensors. */
static void test_cuts(void **state) {
    (void)state;
    ck_reader *r = made("flux-dev", true);
    ck_reader *d = converted(r, CK_LAYOUT_DIFFUSERS, CK_UNUSED_DROP, NULL);
    /* Width 2, F16: rows of 4 bytes, q, k, v of 2 rows, the rest 8 rows. */
    const char *fused = "single_blocks.7.linear1.weight";
    check_bytes(r, fused, 0, d, "single_transformer_blocks.7.attn.to_q.weight");
    check_bytes(r, fused, 8, d, "single_transformer_blocks.7.attn.to_k.weight");
    check_bytes(r, fused, 16, d, "single_transformer_blocks.7.attn.to_v.weight");
    check_bytes(r, fused, 24, d, "single_transformer_blocks.7.proj_mlp.weight");
    check_bytes(r, "double_blocks.3.txt_attn.qkv.bias", 8, d,
                "transformer_blocks.3.attn.add_v_proj.bias");
    unsigned char *x = bytes_of(r, ck_reader_find(r, "final_layer.adaLN_modulation.1.weight"));
    unsigned char *y = bytes_of(d, ck_reader_find(d, "norm_out.linear.weight"));
    assert_memory_equal(x, y + 8, 8); /* 4 rows of 4 bytes, halves swapped */
    assert_memory_equal(x + 8, y, 8);
    free(x);
    free(y);
    ck_reader_close(d);
    ck_reader_close(r);
}

/* Only the last context block of SD3 has its halves swapped. */
static void test_sd3_last_block(void **state) {
    (void)state;
    ck_reader *r = made("sd3-medium", true);
    ck_reader *d = converted(r, CK_LAYOUT_DIFFUSERS, CK_UNUSED_DROP, NULL);
    check_bytes(r, "joint_blocks.22.context_block.adaLN_modulation.1.weight", 0, d,
                "transformer_blocks.22.norm1_context.linear.weight");
    unsigned char *x =
        bytes_of(r, ck_reader_find(r, "joint_blocks.23.context_block.adaLN_modulation.1.bias"));
    unsigned char *y =
        bytes_of(d, ck_reader_find(d, "transformer_blocks.23.norm1_context.linear.bias"));
    assert_memory_equal(x, y + 4, 4);
    assert_memory_equal(x + 4, y, 4);
    free(x);
    free(y);
    ck_reader_close(d);
    ck_reader_close(r);
}

static void test_reshape_and_transpose(void **state) {
    (void)state;
    ck_reader *r = made("sdxl file", true);
    ck_reader *d = converted(r, CK_LAYOUT_DIFFUSERS, CK_UNUSED_DROP, NULL);
    const ck_tensor *q = ck_reader_find(d, "vae.decoder.mid_block.attentions.0.to_q.weight");
    assert_int_equal(q->rank, 2);
    check_bytes(r, "first_stage_model.decoder.mid.attn_1.q.weight", 0, d, q->name);
    const ck_tensor *p = ck_reader_find(d, "text_encoder_2.text_projection.weight");
    const char *original = "conditioner.embedders.1.model.text_projection"; /* [3,4] */
    assert_int_equal(p->shape[0], 4);
    assert_int_equal(p->shape[1], 3);
    unsigned char *x = bytes_of(r, ck_reader_find(r, original)), *y = bytes_of(d, p);
    for (size_t i = 0; i < 3; i++)
        for (size_t j = 0; j < 4; j++)
            assert_memory_equal(x + (i * 4 + j) * 2, y + (j * 3 + i) * 2, 2);
    free(x);
    free(y);
    /* CLIP-L has the same names in both. */
    check_bytes(r, "conditioner.embedders.0.transformer.text_model.embeddings.position_ids", 0, d,
                "text_encoder.text_model.embeddings.position_ids");
    ck_reader_close(d);
    ck_reader_close(r);
}

/* A layout of a few tensors for what foreign files do differently. */
static ck_reader *few(const char *const *names, size_t count) {
    layout l = {0};
    for (size_t i = 0; i < count; i++) layout_add(&l, names[i], CK_F16, 2, SHAPE(6, 6));
    ck_reader *r = layout_reader(&l);
    layout_free(&l);
    return r;
}

static void test_names_of_old_files(void **state) {
    (void)state;
    static const char *const old_vae[] = {
        "decoder.up_blocks.0.resnets.0.conv1.weight",
        "decoder.mid_block.attentions.0.query.weight",
        "decoder.mid_block.attentions.0.key.weight",
        "decoder.mid_block.attentions.0.value.weight",
        "decoder.mid_block.attentions.0.proj_attn.weight",
    };
    static const char *const new_vae[] = {
        "decoder.up.0.block.0.conv1.weight",  "decoder.mid.attn_1.q.weight",
        "decoder.mid.attn_1.k.weight",        "decoder.mid.attn_1.v.weight",
        "decoder.mid.attn_1.proj_out.weight",
    };
    ck_reader *r = few(old_vae, 5);
    ck_reader *view = converted(r, CK_LAYOUT_ORIGINAL, CK_UNUSED_DROP, NULL);
    for (size_t i = 0; i < 5; i++) check_bytes(r, old_vae[i], 0, view, new_vae[i]);
    ck_reader_close(view);
    ck_reader_close(r);
}

/* Newer transformers leave out the level "text_model."; it is put back. */
static void test_bare_text_encoder(void **state) {
    (void)state;
    layout l = {0};
    layout_add(&l, "unet.up_blocks.0.resnets.0.norm1.weight", CK_F16, 1, SHAPE(4));
    layout_add(&l, "unet.mid_block.attentions.0.proj_in.weight", CK_F16, 4, SHAPE(4, 4, 1, 1));
    layout_add(&l, "text_encoder.encoder.layers.0.layer_norm1.weight", CK_F16, 1, SHAPE(4));
    layout_add(&l, "text_encoder.final_layer_norm.weight", CK_F16, 1, SHAPE(4));
    ck_reader *r = layout_reader(&l);
    layout_free(&l);
    ck_reader *view = converted(r, CK_LAYOUT_ORIGINAL, CK_UNUSED_DROP, NULL);
    check_bytes(r, "text_encoder.final_layer_norm.weight", 0, view,
                "cond_stage_model.transformer.text_model.final_layer_norm.weight");
    check_bytes(r, "text_encoder.encoder.layers.0.layer_norm1.weight", 0, view,
                "cond_stage_model.transformer.text_model.encoder.layers.0.layer_norm1.weight");
    ck_reader_close(view);
    ck_reader_close(r);
}

/* Extra tensors in an SD1 file: what is kept, dropped, refused. */
static ck_reader *sd1_with(const char *extra) {
    layout l;
    layout_make(&l, layout_case_named("sd1 file"), true);
    layout_add(&l, extra, CK_F32, 1, SHAPE(1));
    ck_reader *r = layout_reader(&l);
    layout_free(&l);
    return r;
}

static void test_extra_tensors(void **state) {
    (void)state;
    ck_error err;
    ck_layout_report report;
    ck_reader *view, *r = sd1_with("v_pred");
    view = converted(r, CK_LAYOUT_DIFFUSERS, CK_UNUSED_DROP, &report);
    assert_int_equal(report.dropped, 0);
    check_bytes(r, "v_pred", 0, view, "v_pred");
    ck_reader_close(view);
    ck_reader_close(r);

    r = sd1_with("model_ema.diffusion_modelout2weight");
    view = converted(r, CK_LAYOUT_DIFFUSERS, CK_UNUSED_DROP, &report);
    assert_int_equal(report.dropped, 1);
    assert_string_equal(report.first_dropped, "model_ema.diffusion_modelout2weight");
    ck_reader_close(view);
    view = converted(r, CK_LAYOUT_ORIGINAL, CK_UNUSED_DROP, &report);
    check_same(r, view); /* in that layout already: all of it stays */
    ck_reader_close(view);
    ck_reader_close(r);

    static const char *const unknown[] = {"model.diffusion_model.surprise.weight", "surprise"};
    for (size_t i = 0; i < 2; i++) {
        r = sd1_with(unknown[i]);
        assert_int_equal(
            ck_layout_convert(r, CK_LAYOUT_DIFFUSERS, CK_UNUSED_KEEP, &view, NULL, &err), CK_INPUT);
        assert_non_null(strstr(err.message, unknown[i]));
        ck_reader_close(r);
    }
}

static void test_missing_parts(void **state) {
    (void)state;
    static const char *const names[] = {
        "pos_embed.proj.weight",
        "transformer_blocks.0.attn.add_q_proj.weight",
        "transformer_blocks.0.attn.add_k_proj.weight",
        "transformer_blocks.0.attn.add_v_proj.weight",
        "transformer_blocks.0.attn.to_k.weight",
    };
    ck_error err;
    ck_reader *view, *r = few(names, 5); /* the first part of q, k, v is missing */
    assert_int_equal(ck_layout_convert(r, CK_LAYOUT_ORIGINAL, CK_UNUSED_DROP, &view, NULL, &err),
                     CK_INPUT);
    assert_non_null(strstr(err.message, "'transformer_blocks.0.attn.to_q.weight' is missing"));
    ck_reader_close(r);
    r = few(names, 3); /* the last one is */
    assert_int_equal(ck_layout_convert(r, CK_LAYOUT_ORIGINAL, CK_UNUSED_DROP, &view, NULL, &err),
                     CK_INPUT);
    assert_non_null(
        strstr(err.message, "'transformer_blocks.0.attn.add_v_proj.weight' is missing"));
    ck_reader_close(r);
}

/* Sizes that do not divide, packed values, parts that do not fit. */
static void test_refused(void **state) {
    (void)state;
    ck_error err;
    ck_reader *view;
    static const struct {
        ck_dtype dtype;
        size_t rank;
        uint64_t shape[2];
        const char *name, *message;
    } bad[] = {
        {CK_F16, 2, {7, 4}, "double_blocks.0.img_attn.qkv.weight", "no multiple of 3"},
        {CK_F16, 2, {5, 4}, "final_layer.adaLN_modulation.1.weight", "odd number of rows"},
        {CK_U8, 2, {6, 4}, "double_blocks.1.img_attn.qkv.weight", "quantised"},
        {CK_F32, 0, {0}, "double_blocks.1.img_attn.qkv.scale_weight", "quantised"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        layout l = {0};
        layout_add(&l, "img_in.weight", CK_F16, 2, SHAPE(4, 4));
        if (i) layout_add(&l, "double_blocks.0.img_attn.qkv.weight", CK_F16, 2, SHAPE(6, 4));
        layout_add(&l, bad[i].name, bad[i].dtype, bad[i].rank, bad[i].shape);
        ck_reader *r = layout_reader(&l);
        layout_free(&l);
        assert_int_equal(
            ck_layout_convert(r, CK_LAYOUT_DIFFUSERS, CK_UNUSED_DROP, &view, NULL, &err), CK_INPUT);
        if (!strstr(err.message, bad[i].message)) fail_msg("%s", err.message);
        assert_non_null(strstr(err.message, bad[i].name));
        ck_reader_close(r);
    }

    layout l = {0};
    layout_add(&l, "x_embedder.weight", CK_F16, 2, SHAPE(4, 4));
    layout_add(&l, "single_transformer_blocks.0.attn.to_q.weight", CK_F16, 2, SHAPE(2, 4));
    layout_add(&l, "single_transformer_blocks.0.attn.to_k.weight", CK_F16, 2, SHAPE(2, 4));
    layout_add(&l, "single_transformer_blocks.0.attn.to_v.weight", CK_F16, 2, SHAPE(2, 4));
    layout_add(&l, "single_transformer_blocks.0.proj_mlp.weight", CK_F16, 2, SHAPE(6, 4));
    ck_reader *r = layout_reader(&l);
    layout_free(&l);
    assert_int_equal(ck_layout_convert(r, CK_LAYOUT_ORIGINAL, CK_UNUSED_DROP, &view, NULL, &err),
                     CK_INPUT);
    assert_non_null(strstr(err.message, "do not fit together"));
    ck_reader_close(r);
}

/* Names as another model has them: a UNet alone in diffusers' names to a whole LDM file's. */
static void test_like(void **state) {
    (void)state;
    ck_error err;
    ck_reader *whole = made("sd1 file", true), *alone = made("sd1 unet", true), *view;
    ck_reader *diffusers = converted(alone, CK_LAYOUT_DIFFUSERS, CK_UNUSED_KEEP, NULL);
    assert_int_equal(ck_layout_like(diffusers, whole, &view, NULL, &err), CK_OK);
    assert_int_equal(ck_reader_count(view), 686);
    for (size_t i = 0; i < ck_reader_count(view); i++) {
        const ck_tensor *t = ck_reader_tensor(view, i);
        assert_non_null(ck_reader_find(whole, t->name));
        check_bytes(alone, t->name + strlen("model.diffusion_model."), 0, view, t->name);
    }
    ck_reader_close(view);
    /* And the other way: a whole file to the names of the lone UNet; the rest comes too. */
    assert_int_equal(ck_layout_like(whole, diffusers, &view, NULL, &err), CK_OK);
    for (size_t i = 0; i < ck_reader_count(diffusers); i++)
        assert_non_null(ck_reader_find(view, ck_reader_tensor(diffusers, i)->name));
    assert_int_equal(ck_reader_count(view), ck_reader_count(whole));
    ck_reader_close(view);
    ck_reader_close(diffusers);
    ck_reader_close(alone);
    ck_reader_close(whole);
}

/* What the other model does not have comes along, known or not. */
static void test_like_with_more(void **state) {
    (void)state;
    ck_error err;
    ck_reader *r = sd1_with("surprise"), *vae = made("vae16", true), *view;
    assert_int_equal(ck_layout_like(r, vae, &view, NULL, &err), CK_OK);
    assert_int_equal(ck_reader_count(view), ck_reader_count(r));
    assert_non_null(ck_reader_find(view, "decoder.conv_in.weight"));
    assert_non_null(ck_reader_find(view, "surprise"));
    ck_reader_close(view);
    ck_reader_close(vae);
    ck_reader_close(r);
}

/* A really trained UNet of another structure: one residual block less in every level, three levels.
 */
static void test_real_model(void **state) {
    (void)state;
    ck_error err;
    ck_reader *r;
    assert_int_equal(ck_reader_open("recipes/models/base/unet/diffusion_pytorch_model.safetensors", &r, &err), CK_OK);
    ck_reader *there = converted(r, CK_LAYOUT_ORIGINAL, CK_UNUSED_DROP, NULL);
    check_bytes(r, "up_blocks.0.upsamplers.0.conv.weight", 0, there,
                "output_blocks.1.1.conv.weight");
    check_bytes(r, "up_blocks.1.upsamplers.0.conv.weight", 0, there,
                "output_blocks.3.2.conv.weight");
    check_bytes(r, "down_blocks.2.resnets.0.conv1.weight", 0, there,
                "input_blocks.5.0.in_layers.2.weight");
    ck_reader *back = converted(there, CK_LAYOUT_DIFFUSERS, CK_UNUSED_DROP, NULL);
    check_same(r, back);
    ck_reader_close(back);
    ck_reader_close(there);
    ck_reader_close(r);
}

static void test_out_of_memory(void **state) {
    (void)state;
    static const char *const names[] = {
        "transformer.resblocks.0.ln_1.weight",
        "transformer.resblocks.0.attn.in_proj_weight",
        "text_projection",
        "token_embedding.weight",
    };
    ck_reader *r = few(names, 4);
    for (fault_kind kind = FAULT_CALLOC; kind <= FAULT_REALLOC; kind++)
        for (fault_first(kind, ENOMEM); fault_more();) {
            ck_error err;
            ck_reader *view = NULL;
            fault_arm();
            ck_status status =
                ck_layout_convert(r, CK_LAYOUT_DIFFUSERS, CK_UNUSED_DROP, &view, NULL, &err);
            fault_disarm();
            assert_int_equal(status, fault_hit() ? CK_MEMORY : CK_OK);
            ck_reader_close(view);
        }
    ck_reader_close(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_original_names),
        cmocka_unit_test(test_diffusers_names),
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_openclip_alone),
        cmocka_unit_test(test_sd2_drops),
        cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_sd3_last_block),
        cmocka_unit_test(test_reshape_and_transpose),
        cmocka_unit_test(test_names_of_old_files),
        cmocka_unit_test(test_bare_text_encoder),
        cmocka_unit_test(test_extra_tensors),
        cmocka_unit_test(test_missing_parts),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_like),
        cmocka_unit_test(test_like_with_more),
        cmocka_unit_test(test_real_model),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
