/* Block maps of the published models, and block weights put on them. */
#include "io/blocks.h"
#include "io/layout.h"
#include "merge/presets.h"
#include "merge/weights.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/layouts.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

static ck_reader *made(const char *name) {
    layout l;
    layout_make(&l, layout_case_named(name), true);
    ck_reader *r = layout_reader(&l);
    layout_free(&l);
    return r;
}

static ck_reader *in_diffusers(ck_reader *source) {
    ck_reader *view;
    ck_error err;
    if (ck_layout_convert(source, CK_LAYOUT_DIFFUSERS, CK_UNUSED_KEEP, &view, NULL, &err) != CK_OK)
        fail_msg("%s", err.message);
    return view;
}

static void look(const ck_reader *r, ck_blocks *b) {
    ck_error err;
    if (ck_blocks_of(r, b, &err) != CK_OK) fail_msg("%s", err.message);
}

/* The block of a tensor. */
static const char *block_of(const ck_reader *r, const ck_blocks *b, const char *tensor) {
    for (size_t i = 0; i < ck_reader_count(r); i++)
        if (strcmp(ck_reader_tensor(r, i)->name, tensor) == 0)
            return b->blocks[b->block_of[i]].name;
    fail_msg("no tensor %s", tensor);
    return NULL;
}

static void test_lists(void **state) {
    (void)state;
    static const struct {
        const char *model, *blocks;
        size_t depth;
    } cases[] = {
        {"sd1 file", "IN00-IN11, M00, OUT00-OUT11", 25},
        {"sd2 file", "IN00-IN11, M00, OUT00-OUT11", 25},
        {"sdxl file", "IN00-IN08, M00, OUT00-OUT08", 19},
        {"refiner file", "IN00-IN11, M00, OUT00-OUT11", 25},
        {"sd3-medium", "IN, J00-J23, OUT", 26},
        {"sd3.5-large", "IN, J00-J37, OUT", 40},
        {"flux-dev file", "IN, D00-D18, S00-S37, OUT", 59},
        {"vae4", "none", 0},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        ck_reader *original = made(cases[i].model), *diffusers = in_diffusers(original);
        ck_blocks a, b;
        char text[CK_MAX_BLOCKS_TEXT];
        look(original, &a);
        look(diffusers, &b);
        assert_string_equal(ck_blocks_text(&a, text), cases[i].blocks);
        assert_string_equal(ck_blocks_text(&b, text), cases[i].blocks);
        assert_int_equal(a.depth, cases[i].depth);
        for (size_t k = 0; k < a.depth; k++) {
            if (a.blocks[k].tensors == 0)
                fail_msg("%s: %s is empty", cases[i].model, a.blocks[k].name);
            if (a.blocks[k].elements != b.blocks[k].elements)
                fail_msg("%s: %s differs between the layouts", cases[i].model, a.blocks[k].name);
        }
        for (size_t k = a.depth; k < a.count; k++)
            if (a.blocks[k].part <= CK_PART_FLUX)
                fail_msg("%s: tensors of the denoiser are in no block", cases[i].model);
        ck_blocks_free(&a);
        ck_blocks_free(&b);
        ck_reader_close(diffusers);
        ck_reader_close(original);
    }
}

static void test_tensors(void **state) {
    (void)state;
    static const char *const cases[][4] = {
        {"sd1 file", "model.diffusion_model.time_embed.0.weight",
         "unet.time_embedding.linear_1.weight", "IN00"},
        {"sd1 file", "model.diffusion_model.input_blocks.0.0.bias", "unet.conv_in.bias", "IN00"},
        {"sd1 file", "model.diffusion_model.input_blocks.3.0.op.weight",
         "unet.down_blocks.0.downsamplers.0.conv.weight", "IN03"},
        {"sd1 file", "model.diffusion_model.input_blocks.11.0.in_layers.0.weight",
         "unet.down_blocks.3.resnets.1.norm1.weight", "IN11"},
        {"sd1 file", "model.diffusion_model.middle_block.1.norm.weight",
         "unet.mid_block.attentions.0.norm.weight", "M00"},
        {"sd1 file", "model.diffusion_model.output_blocks.5.2.conv.weight",
         "unet.up_blocks.1.upsamplers.0.conv.weight", "OUT05"},
        {"sd1 file", "model.diffusion_model.out.2.bias", "unet.conv_out.bias", "OUT11"},
        {"sd1 file", "first_stage_model.decoder.conv_in.weight", "vae.decoder.conv_in.weight",
         "vae"},
        {"sdxl file", "model.diffusion_model.label_emb.0.2.bias",
         "unet.add_embedding.linear_2.bias", "IN00"},
        {"sdxl file", "model.diffusion_model.out.0.weight", "unet.conv_norm_out.weight", "OUT08"},
        {"sdxl file", "conditioner.embedders.1.model.token_embedding.weight",
         "text_encoder_2.text_model.embeddings.token_embedding.weight", "clip_g"},
        {"flux-dev", "double_blocks.18.img_attn.qkv.weight",
         "transformer_blocks.18.attn.to_q.weight", "D18"},
        {"flux-dev", "single_blocks.0.linear1.weight",
         "single_transformer_blocks.0.proj_mlp.weight", "S00"},
        {"sd3-medium", "pos_embed", "pos_embed.pos_embed", "IN"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        ck_reader *original = made(cases[i][0]), *diffusers = in_diffusers(original);
        ck_blocks b;
        look(original, &b);
        assert_string_equal(block_of(original, &b, cases[i][1]), cases[i][3]);
        ck_blocks_free(&b);
        look(diffusers, &b);
        assert_string_equal(block_of(diffusers, &b, cases[i][2]), cases[i][3]);
        ck_blocks_free(&b);
        ck_reader_close(diffusers);
        ck_reader_close(original);
    }
}

/* "IN00 IN01 vae": the names that a text chooses. */
static void expect_choice(const ck_blocks *b, const char *text, const char *names) {
    bool chosen[CK_MAX_BLOCKS];
    ck_error err;
    char found[1024] = "";
    if (ck_blocks_select(b, text, chosen, &err) != CK_OK) fail_msg("%s", err.message);
    for (size_t i = 0; i < b->count; i++)
        if (chosen[i]) sprintf(found + strlen(found), "%s%s", *found ? " " : "", b->blocks[i].name);
    assert_string_equal(found, names);
}

static void test_choices(void **state) {
    (void)state;
    ck_reader *r = made("sdxl file");
    ck_blocks b;
    look(r, &b);
    expect_choice(&b, "IN04", "IN04");
    expect_choice(&b, "in07-OUT01, vae", "IN07 IN08 M00 OUT00 OUT01 vae");
    expect_choice(&b, "MID clip", "M00 clip_l clip_g");
    expect_choice(&b, "IN", "IN00 IN01 IN02 IN03 IN04 IN05 IN06 IN07 IN08");
    expect_choice(&b, "BASE", "vae clip_l clip_g");
    expect_choice(&b, "t5xxl", "");
    expect_choice(&b, "NOT unet vae", "clip_l clip_g");
    expect_choice(&b, " clip_g", "clip_g");
    bool chosen[CK_MAX_BLOCKS];
    ck_error err;
    static const char *const bad[] = {"IN09", "IN05-IN02", "IN00-vae", "attn", "IN-OUT"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        assert_int_equal(ck_blocks_select(&b, bad[i], chosen, &err), CK_USAGE);
        if (!strstr(err.message, "its blocks are IN00-IN08, M00, OUT00-OUT08; others are BASE"))
            fail_msg("%s", err.message);
    }
    ck_blocks_free(&b);
    ck_reader_close(r);
}

/* ---- Weights ---- */

static ck_arena arena;

static ck_status bind(const char *model, const char *text, bool lora, double *values, size_t *count,
                      ck_error *err) {
    ck_reader *r = made(model);
    ck_blocks b;
    look(r, &b);
    ck_weights *w;
    ck_status status = ck_weights_parse(text, &arena, &w, err);
    if (status == CK_OK) status = ck_weights_bind(w, 0.5, lora, &b, values, err);
    *count = b.count;
    ck_blocks_free(&b);
    ck_reader_close(r);
    return status;
}

static void expect_weights(const char *model, const char *text, bool lora, const double *expected,
                           size_t count) {
    double values[CK_MAX_BLOCKS];
    size_t found;
    ck_error err;
    if (bind(model, text, lora, values, &found, &err) != CK_OK) fail_msg("%s", err.message);
    if (found < count) fail_msg("%zu values, not %zu", found, count);
    for (size_t i = 0; i < count; i++)
        if (fabs(values[i] - expected[i]) > 1e-12)
            fail_msg("%s on %s: value %zu is %.15g, not %.15g", text, model, i, values[i],
                     expected[i]);
}

/* "start, start + 1, ..." */
static const char *list(int start, int count) {
    static char text[1024];
    *text = 0;
    for (int i = 0; i < count; i++) sprintf(text + strlen(text), "%s%d", i ? "," : "", start + i);
    return text;
}

static void test_list_weights(void **state) {
    (void)state;
    double e[CK_MAX_BLOCKS];
    for (int i = 0; i < 25; i++) e[i] = i + 1;
    e[25] = 0.5;
    expect_weights("sd1 file", list(1, 25), false, e, 26);
    e[25] = e[26] = 0; /* with BASE first: vae and clip_l */
    expect_weights("sd1 file", list(0, 26), false, e, 27);
    /* Lists of SD1 on SDXL, as supermerger takes them. */
    double xl[22];
    for (int i = 0; i < 9; i++) xl[i] = i + 1;
    for (int i = 9; i < 19; i++) xl[i] = i + 4;
    xl[19] = xl[20] = xl[21] = 0;
    expect_weights("sdxl file", list(0, 26), false, xl, 22);
    for (int i = 0; i < 19; i++) xl[i] = i + 1;
    expect_weights("sdxl file", list(0, 20), false, xl, 22);
    expect_weights("flux-dev", list(1, 59), false, (double[]){1, 2}, 2);
    /* CLIP, T5, IN, ... */
    double flux[CK_MAX_BLOCKS] = {0};
    for (int i = 0; i < 59; i++) flux[i] = i + 3;
    expect_weights("flux-dev file", list(1, 61), false, flux, 59);
}

static void test_lora_lists(void **state) {
    (void)state;
    /* BASE, IN01, IN02, IN04, IN05, IN07, IN08, MID, OUT03-OUT11 */
    double e[27] = {[1] = 2,   [2] = 3,   [4] = 4,   [5] = 5,   [7] = 6,   [8] = 7,
                    [12] = 8,  [16] = 9,  [17] = 10, [18] = 11, [19] = 12, [20] = 13,
                    [21] = 14, [22] = 15, [23] = 16, [24] = 17, [25] = 1,  [26] = 1};
    expect_weights("sd1 file", list(1, 17), true, e, 27);
    /* BASE, IN04, IN05, IN07, IN08, MID, OUT00-OUT05 */
    double xl[20] = {[4] = 2,  [5] = 3,  [7] = 4,   [8] = 5,   [9] = 6,   [10] = 7,
                     [11] = 8, [12] = 9, [13] = 10, [14] = 11, [15] = 12, [19] = 1};
    expect_weights("sdxl file", list(1, 12), true, xl, 20);
}

/* Numbers that web UIs' preset files have for these names, without their BASE, which is 0. */
static void test_curves(void **state) {
    (void)state;
    static const struct {
        const char *text;
        double values[7]; /* of IN00, IN01, IN06, IN11, M00, OUT05, OUT11 */
    } cases[] = {
        {"GRAD_V", {1, 0.9166666666666667, 0.5, 0.0833333333333333, 0, 0.5, 1}},
        {"linear:0,1,0", {0, 0.0833333333333333, 0.5, 0.9166666666666667, 1, 0.5, 0}},
        {"SMOOTHSTEP", {0, 0.00506365740740741, 0.15625, 0.437644675925926, 0.5, 0.84375, 1}},
        {"smoothstep_2", {0, 0.0196759259259259, 0.5, 0.980324074074074, 1, 0.5, 0}},
        {"R_SMOOTHSTEP_3", {1, 0.95703125, 0.15625, 0.31640625, 0.5, 0.84375, 0}},
        {"cosine:1,0",
         {1, 0.995722430686905, 0.853553390593274, 0.565263096110026, 0.5, 0.146446609406726, 0}},
        {"OUT12_5", {0, 0, 0, 0, 0.5, 1, 1}},
        {"MID12_50", {0, 0, 0.5, 0.5, 0.5, 0.5, 0}},
        {"linear", {0, 1 / 24., 0.25, 11 / 24., 0.5, 0.75, 1}},
        {"linear:0.25", {0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.25}},
    };
    static const size_t places[7] = {0, 1, 6, 11, 12, 18, 24};
    for (size_t c = 0; c < COUNT(cases); c++) {
        double values[CK_MAX_BLOCKS];
        size_t count;
        ck_error err;
        if (bind("sd1 file", cases[c].text, false, values, &count, &err) != CK_OK)
            fail_msg("%s", err.message);
        for (size_t i = 0; i < 7; i++)
            if (fabs(values[places[i]] - cases[c].values[i]) > 1e-12)
                fail_msg("%s: block %zu is %.15g, not %.15g", cases[c].text, places[i],
                         values[places[i]], cases[c].values[i]);
        bool preset = cases[c].text[0] != 'l' && cases[c].text[0] != 'c';
        assert_true(values[25] == (preset ? 0 : 0.5));
    }
}

static void test_bad_weights(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        {"sd1 file", "0.1,0.2",
         "2 block weights given, but made-up has 25 blocks: IN00-IN11, M00, OUT00-OUT11; give 25 "
         "numbers, or 26 with that of BASE"},
        {"sdxl file", "1,1,1", "19 blocks: IN00-IN08, M00, OUT00-OUT08; give 19"},
        {"flux-dev", "1,1,1", "59 blocks: IN, D00-D18, S00-S37, OUT"},
        {"vae4", "linear:0,1", "no blocks that are known"},
        {"sd1 file", "1,x", "must be numbers separated by commas"},
        {"sd1 file", "cosine:", "must be numbers separated by commas"},
        {"sd1 file", "1,nan", "must be numbers separated by commas"},
        {"sd1 file", "GRAD_W", "no preset 'GRAD_W'; did you mean GRAD_"},
        {"sd1 file", "./none.json", "./none.json: open: No such file"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        double values[CK_MAX_BLOCKS];
        size_t count;
        ck_error err;
        assert_int_not_equal(bind(cases[i][0], cases[i][1], false, values, &count, &err), CK_OK);
        if (!strstr(err.message, cases[i][2])) fail_msg("%s: %s", cases[i][1], err.message);
    }
    /* Lists of LoRAs are for LoRAs. */
    double values[CK_MAX_BLOCKS];
    size_t count;
    ck_error err;
    assert_int_equal(bind("sd1 file", list(1, 17), false, values, &count, &err), CK_USAGE);
}

static ck_status number(const void *context, const cJSON *node, double *value, ck_error *err) {
    if (!cJSON_IsNumber(node)) return ck_json_fail(context, node, err, "must be a number");
    *value = node->valuedouble;
    return CK_OK;
}

static ck_status read_json(const char *text, ck_weights **w, ck_error *err) {
    ck_json doc;
    CK_TRY(ck_json_parse("text", text, strlen(text), &doc, err));
    ck_status status = ck_weights_read(&doc, doc.root, number, &doc, NULL, &arena, w, err);
    ck_json_free(&doc);
    return status;
}

static void test_json(void **state) {
    (void)state;
    ck_weights *w, *again;
    ck_error err;
    static const char text[] = "{\"gradient\":[0,1],\"curve\":\"cosine\",\"base\":0.25,"
                               "\"blocks\":{\"IN00\":2,\"IN00-IN05 vae\":3}}";
    if (read_json(text, &w, &err) != CK_OK) fail_msg("%s", err.message);
    cJSON *json = ck_weights_json(w, 7);
    char *written = cJSON_PrintUnformatted(json);
    assert_string_equal(written, text);
    free(written);
    cJSON_Delete(json);

    ck_reader *r = made("sd1 file");
    ck_blocks b;
    look(r, &b);
    double values[CK_MAX_BLOCKS];
    assert_int_equal(ck_weights_bind(w, 0.5, false, &b, values, &err), CK_OK);
    assert_true(values[0] == 2 && values[1] == 3 && values[5] == 3); /* the first match wins */
    assert_true(values[24] == 1);
    for (size_t i = 25; i < b.count; i++)
        assert_true(values[i] == (b.blocks[i].part == CK_PART_VAE ? 3 : 0.25));
    assert_true(ck_weights_scale(w, 0.5, &arena));
    assert_int_equal(ck_weights_bind(w, 0.5, false, &b, values, &err), CK_OK);
    assert_true(values[0] == 1 && values[24] == 0.5);
    ck_blocks_free(&b);
    ck_reader_close(r);

    static const char *const bad[][2] = {
        {"{\"gradient\":[0,1],\"weights\":[1]}", "one of"},
        {"{\"weights\":[1],\"curve\":\"cosine\"}", "goes with"},
        {"{\"gradient\":[0],\"curve\":\"wave\"}", "must be one of linear|cosine|smoothstep"},
        {"{\"weights\":[]}", "must be a list of numbers"},
        {"{\"weights\":[\"a\"]}", "must be a number"},
        {"{\"blocks\":[1]}", "must be an object"},
        {"{\"preset\":\"none\"}", "no preset 'none'"},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        assert_int_equal(read_json(bad[i][0], &again, &err), CK_INPUT);
        if (!strstr(err.message, bad[i][1])) fail_msg("%s: %s", bad[i][0], err.message);
    }
}

/* Every preset is one for SD1, between 0 and 1. */
static void test_presets(void **state) {
    (void)state;
    ck_preset *presets;
    size_t count;
    ck_error err;
    if (ck_presets_list(&arena, &presets, &count, &err) != CK_OK) fail_msg("%s", err.message);
    assert_true(count > 20);
    ck_reader *r = made("sd1 unet");
    ck_blocks b;
    look(r, &b);
    for (size_t i = 0; i < count; i++) {
        double values[CK_MAX_BLOCKS];
        if (ck_weights_bind(presets[i].weights, 0.5, false, &b, values, &err) != CK_OK)
            fail_msg("%s: %s", presets[i].name, err.message);
        for (size_t k = 0; k < b.depth; k++) assert_true(values[k] >= 0 && values[k] <= 1);
        assert_true(*presets[i].description);
    }
    ck_blocks_free(&b);
    ck_reader_close(r);
}

static void test_no_memory(void **state) {
    (void)state;
    ck_reader *original = made("sd1 unet"), *r = in_diffusers(original);
    for (fault_first(FAULT_CALLOC, ENOMEM); fault_more();) {
        ck_blocks b;
        ck_error err;
        fault_arm();
        ck_status status = ck_blocks_of(r, &b, &err);
        fault_disarm();
        assert_int_equal(status, fault_hit() ? CK_MEMORY : CK_OK);
        if (status == CK_OK) ck_blocks_free(&b);
    }
    ck_reader_close(r);
    ck_reader_close(original);
}

static int release(void **state) {
    (void)state;
    ck_arena_free(&arena);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lists),       cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_choices),     cmocka_unit_test(test_list_weights),
        cmocka_unit_test(test_lora_lists),  cmocka_unit_test(test_curves),
        cmocka_unit_test(test_bad_weights), cmocka_unit_test(test_json),
        cmocka_unit_test(test_presets),     cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, release);
}
