/* LoRAs: the changes of every kind against PEFT and LyCORIS, names of every tool in every layout,
 * and what is refused. */
#include "io/layout.h"
#include "io/view.h"
#include "merge/lora_int.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"
#include "tests/layouts.h"
#include "tests/program.h"
#include "tests/reference.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DATA "tests/data/lora/"

static fixture f;

static int setup(void **state) {
    (void)state;
    fixture_make(&f);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_remove(&f);
    return 0;
}

static ck_reader *opened(const char *path) {
    ck_reader *r;
    ck_error err;
    if (ck_reader_open(path, &r, &err) != CK_OK) fail_msg("%s", err.message);
    return r;
}

static ck_reader *changes_of(const ck_reader *file, const ck_reader *model) {
    ck_reader *r;
    ck_error err;
    if (ck_lora_changes(file, model, CK_UNMATCHED_ERROR, &r, NULL, &err) != CK_OK)
        fail_msg("%s", err.message);
    return r;
}

static void *data_of(const ck_reader *r, const char *name) {
    const ck_tensor *t = ck_reader_find(r, name);
    ck_error err;
    if (!t) fail_msg("no tensor '%s'", name);
    void *data = malloc(t->nbytes + 1);
    if (ck_reader_read(r, t, 0, data, t->nbytes, &err) != CK_OK) fail_msg("%s", err.message);
    return data;
}

/* ---- Values ---- */

/* Reading in pieces of any size must give what reading at once does. */
static void check_pieces(const ck_reader *r, const ck_tensor *t, const float *whole) {
    float part[100];
    ck_error err;
    for (size_t n = 1; n <= 100; n = n * 3 + 1)
        for (uint64_t first = 0; first + n <= t->elements; first += n) {
            assert_int_equal(ck_reader_read(r, t, first * 4, part, n * 4, &err), CK_OK);
            assert_memory_equal(part, whole + first, n * 4);
        }
}

/* The libraries' changes: to within f32's rounding of the products and, for DoRA, of the weight. */
static void test_libraries(void **state) {
    (void)state;
    ck_reader *model = opened(DATA "model.safetensors");
    ck_reader *expected = opened(DATA "expected.safetensors");
    size_t compared = 0;
    for (size_t i = 0; i < ck_reader_count(expected); i++) {
        const char *name = ck_reader_tensor(expected, i)->name, *slash = strchr(name, '/');
        char path[128];
        snprintf(path, sizeof path, DATA "%.*s.safetensors", (int)(slash - name), name);
        ck_reader *file = opened(path), *changes = changes_of(file, model);
        const ck_tensor *t = ck_reader_find(changes, slash + 1);
        assert_true(ck_lora_is(file) && !ck_lora_is(model));
        if (!t) fail_msg("%s is not changed", name);
        double *want = data_of(expected, name), largest = 0;
        float *got = data_of(changes, slash + 1), *weight = data_of(model, slash + 1);
        for (uint64_t e = 0; e < t->elements; e++) largest = fmax(largest, fabs(want[e]));
        for (uint64_t e = 0; e < t->elements; e++) {
            double within =
                1.2e-7 * (largest + (strstr(name, "dora") ? fabs((double)weight[e]) : 0));
            if (!(fabs((double)got[e] - want[e]) <= within))
                fail_msg("%s, element %llu: %.9g, want %.9g", name, (unsigned long long)e,
                         (double)got[e], want[e]);
        }
        check_pieces(changes, t, got);
        compared++;
        free(want);
        free(got);
        free(weight);
        ck_reader_close(changes);
        ck_reader_close(file);
    }
    assert_int_equal(compared, 20);
    ck_reader_close(expected);
    ck_reader_close(model);
}

/* A matrix of many panels and a rank that is no multiple of anything. */
static void test_large(void **state) {
    (void)state;
    enum { ROWS = 131, COLUMNS = 1111, RANK = 37 };
    static float w[ROWS * COLUMNS], up[ROWS * RANK], down[RANK * COLUMNS];
    const float alpha = 11;
    uint64_t seed = 8;
    for (int i = 0; i < ROWS * RANK; i++) up[i] = fixture_random_float(&seed);
    for (int i = 0; i < RANK * COLUMNS; i++) down[i] = fixture_random_float(&seed);
    const fixture_tensor base = {"w.weight", CK_F32, {ROWS, COLUMNS}, 2, w};
    const fixture_tensor lora[] = {{"w.lora_up.weight", CK_F32, {ROWS, RANK}, 2, up},
                                   {"w.lora_down.weight", CK_F32, {RANK, COLUMNS}, 2, down},
                                   {"w.alpha", CK_F32, {0}, 0, &alpha}};
    ck_reader *model = opened(fixture_safetensors(&f, "m", &base, 1, NULL));
    ck_reader *file = opened(fixture_safetensors(&f, "l", lora, 3, NULL));
    ck_reader *changes = changes_of(file, model);
    float *got = data_of(changes, "w.weight");
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COLUMNS; j++) {
            double sum = 0;
            for (int k = 0; k < RANK; k++)
                sum += (double)up[i * RANK + k] * (double)down[k * COLUMNS + j];
            sum *= 11.0 / RANK;
            if (!(fabs((double)got[i * COLUMNS + j] - sum) <= 1e-6))
                fail_msg("[%d,%d]: %.9g, want %.9g", i, j, (double)got[i * COLUMNS + j], sum);
        }
    check_pieces(changes, ck_reader_find(changes, "w.weight"), got);
    free(got);
    ck_reader_close(changes);
    ck_reader_close(file);
    ck_reader_close(model);
}

/* ---- Names ---- */

static ck_reader *tiny_model(const char *name, bool diffusers) {
    layout l;
    layout_make(&l, layout_case_named(name), true);
    ck_reader *r = layout_reader(&l), *view;
    ck_error err;
    layout_free(&l);
    if (!diffusers) return r;
    if (ck_layout_convert(r, CK_LAYOUT_DIFFUSERS, CK_UNUSED_KEEP, &view, NULL, &err) != CK_OK ||
        ck_view_own(view, r, &err) != CK_OK)
        fail_msg("%s", err.message);
    return view;
}

/* A layer's name, and the tensors whose rows it means: in units of the smallest, how many from
 * where. */
typedef struct meaning {
    const char *model, *layer;
    bool diffusers;
    struct {
        const char *tensor;
        unsigned from, of; /* rows from/of of the tensor on */
    } parts[3];
} meaning;

#define LDM   "model.diffusion_model."
#define BLOCK "transformer_blocks.0.attn1.to_q"

static const meaning meanings[] = {
    /* kohya: diffusers' names for SD1, the original's for SDXL */
    {"sd1 file",
     "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
     false,
     {{LDM "input_blocks.1.1." BLOCK ".weight", 0, 1}}},
    {"sd1 file",
     "lora_unet_mid_block_resnets_1_conv2",
     false,
     {{LDM "middle_block.2.out_layers.3.weight", 0, 1}}},
    {"sd1 file",
     "lora_te_text_model_encoder_layers_11_mlp_fc1",
     false,
     {{"cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc1.weight", 0, 1}}},
    {"sd1 file",
     "lora_te_text_model_encoder_layers_11_mlp_fc1",
     true,
     {{"text_encoder.text_model.encoder.layers.11.mlp.fc1.weight", 0, 1}}},
    {"sd2 file",
     "lora_te_text_model_encoder_layers_3_self_attn_k_proj",
     false,
     {{"cond_stage_model.model.transformer.resblocks.3.attn.in_proj_weight", 1, 3}}},
    {"sdxl file",
     "lora_unet_input_blocks_4_1_"
     "transformer_blocks_0_attn1_to_q",
     false,
     {{LDM "input_blocks.4.1." BLOCK ".weight", 0, 1}}},
    {"sdxl file",
     "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
     true,
     {{"unet.down_blocks.1.attentions.0." BLOCK ".weight", 0, 1}}},
    {"sdxl file",
     "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
     false,
     {{LDM "input_blocks.4.1." BLOCK ".weight", 0, 1}}},
    {"sdxl file",
     "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
     false,
     {{"conditioner.embedders.0.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight", 0,
       1}}},
    {"sdxl file",
     "lora_te2_text_model_encoder_layers_0_self_attn_v_proj",
     false,
     {{"conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight", 2, 3}}},
    {"sdxl file",
     "lora_te2_text_model_encoder_layers_0_mlp_fc2",
     false,
     {{"conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_proj.weight", 0, 1}}},
    {"sd3-medium file",
     "lora_unet_joint_blocks_0_x_block_attn_qkv",
     true,
     {{"transformer.transformer_blocks.0.attn.to_q.weight", 0, 1},
      {"transformer.transformer_blocks.0.attn.to_k.weight", 0, 1},
      {"transformer.transformer_blocks.0.attn.to_v.weight", 0, 1}}},
    {"flux-dev file",
     "lora_unet_double_blocks_0_img_attn_qkv",
     false,
     {{LDM "double_blocks.0.img_attn.qkv.weight", 0, 1}}},
    {"flux-dev file",
     "lora_unet_single_blocks_7_linear2",
     true,
     {{"transformer.single_transformer_blocks.7.proj_out.weight", 0, 1}}},
    {"flux-dev file",
     "lora_te1_text_model_encoder_layers_0_mlp_fc1",
     true,
     {{"text_encoder.text_model.encoder.layers.0.mlp.fc1.weight", 0, 1}}},
    {"flux-dev file",
     "lora_te2_encoder_block_0_layer_0_SelfAttention_q",
     true,
     {{"text_encoder_2.encoder.block.0.layer.0.SelfAttention.q.weight", 0, 1}}},
    /* diffusers and PEFT */
    {"sd1 file",
     "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
     false,
     {{LDM "input_blocks.1.1." BLOCK ".weight", 0, 1}}},
    {"sd1 file",
     "base_model.model.mid_block.resnets.1.conv2",
     false,
     {{LDM "middle_block.2.out_layers.3.weight", 0, 1}}},
    {"sdxl file",
     "text_encoder_2.text_model.encoder.layers.0.self_attn.k_proj",
     false,
     {{"conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight", 1, 3}}},
    {"flux-dev file",
     "transformer.transformer_blocks.0.attn.to_v",
     false,
     {{LDM "double_blocks.0.img_attn.qkv.weight", 2, 3}}},
    {"flux-dev file",
     "transformer.transformer_blocks.0.attn.add_k_proj",
     false,
     {{LDM "double_blocks.0.txt_attn.qkv.weight", 1, 3}}},
    {"flux-dev file",
     "transformer.single_transformer_blocks.0.proj_mlp",
     false,
     {{LDM "single_blocks.0.linear1.weight", 3, 7}}},
    {"flux-dev file",
     "transformer.single_transformer_blocks.0.attn.to_k",
     false,
     {{LDM "single_blocks.0.linear1.weight", 1, 7}}},
    /* ComfyUI, OneTrainer, SimpleTuner, the model's own */
    {"flux-dev file",
     "diffusion_model.double_blocks.0.txt_attn.qkv",
     true,
     {{"transformer.transformer_blocks.0.attn.add_q_proj.weight", 0, 1},
      {"transformer.transformer_blocks.0.attn.add_k_proj.weight", 0, 1},
      {"transformer.transformer_blocks.0.attn.add_v_proj.weight", 0, 1}}},
    {"flux-dev file",
     "lora_transformer_transformer_blocks_0_ff_net_0_proj",
     false,
     {{LDM "double_blocks.0.img_mlp.0.weight", 0, 1}}},
    {"flux-dev file",
     "lycoris_transformer_blocks_0_ff_net_0_proj",
     false,
     {{LDM "double_blocks.0.img_mlp.0.weight", 0, 1}}},
    {"sd1 file",
     LDM "input_blocks.1.1." BLOCK,
     false,
     {{LDM "input_blocks.1.1." BLOCK ".weight", 0, 1}}},
    {"sd1 file", "lora_unet_nothing_of_the_kind", false, {{NULL, 0, 0}}},
};

static void test_names(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof meanings / sizeof *meanings; i++) {
        const meaning *m = &meanings[i];
        ck_reader *model = tiny_model(m->model, m->diffusers);
        ck_lora_places places;
        ck_error err;
        assert_int_equal(ck_lora__places(model, &places, &err), CK_OK);
        size_t count, wanted = 0;
        const ck_lora_place *p = ck_lora__find(&places, m->layer, false, &count);
        uint64_t row = 0;
        while (wanted < 3 && m->parts[wanted].tensor) wanted++;
        if (count != wanted) fail_msg("'%s': %zu places, want %zu", m->layer, count, wanted);
        for (size_t k = 0; k < count; k++) {
            if (strcmp(p[k].tensor->name, m->parts[k].tensor) != 0)
                fail_msg("'%s' is '%s', want '%s'", m->layer, p[k].tensor->name,
                         m->parts[k].tensor);
            assert_int_equal(p[k].tensor_row * m->parts[k].of,
                             p[k].tensor->shape[0] * m->parts[k].from);
            assert_int_equal(p[k].name_row, row);
            row += p[k].rows;
        }
        ck_lora__places_free(&places);
        ck_reader_close(model);
    }
}

/* Old spellings. */
static void test_spellings(void **state) {
    (void)state;
    static const struct {
        const char *tensor, *layer;
        ck_lora_role role;
    } cases[] = {
        {"lora_unet_x.lora_up.weight", "lora_unet_x", CK_ROLE_UP},
        {"unet.x.lora_A.default.weight", "unet.x", CK_ROLE_DOWN},
        {"unet.x.lora_B.style_0.weight", "unet.x", CK_ROLE_UP},
        {"unet.x.lora_B.style_0.bias", "unet.x", CK_ROLE_UP_BIAS},
        {"unet.x.lora_magnitude_vector.style_0.weight", "unet.x", CK_ROLE_MAGNITUDE},
        {"unet.a.attn1.processor.to_q_lora.up.weight", "unet.a.attn1.to_q", CK_ROLE_UP},
        {"a.attn1.processor.to_out_lora.down.weight", "a.attn1.to_out.0", CK_ROLE_DOWN},
        {"text_encoder.l.self_attn.to_out_lora.up.weight", "text_encoder.l.self_attn.out_proj",
         CK_ROLE_UP},
        {"text_encoder.l.mlp.fc1.lora_linear_layer.up.weight", "text_encoder.l.mlp.fc1",
         CK_ROLE_UP},
        {"unet.x.lora.down.weight", "unet.x", CK_ROLE_DOWN},
        {"double_blocks.0.processor.qkv_lora2.up.weight", "double_blocks.0.txt_attn.qkv",
         CK_ROLE_UP},
        {"double_blocks.0.processor.proj_lora1.down.weight", "double_blocks.0.img_attn.proj",
         CK_ROLE_DOWN},
        {"x.lora_magnitude_vector.weight", "x", CK_ROLE_MAGNITUDE},
        {"x.b_norm", "x", CK_ROLE_DIFF_BIAS},
        {"x.oft_blocks", "x", CK_ROLE_FOREIGN},
    };
    char layer[CK_LORA_MAX_NAME];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(ck_lora__parse(cases[i].tensor, layer), cases[i].role);
        assert_string_equal(layer, cases[i].layer);
    }
    assert_int_equal(ck_lora__parse("down_blocks.0.weight", layer), CK_ROLE_COUNT);
    assert_int_equal(ck_lora__parse(".alpha", layer), CK_ROLE_COUNT);
    assert_int_equal(ck_lora__parse("x.lora_B.a.b.weight", layer), CK_ROLE_COUNT);
}

/* A LoRA of one fused matrix on a model that splits it, and of the parts on one that fuses them. */
static void test_fused(void **state) {
    (void)state;
    enum { D = 2 };
    static const float qkv[3 * D][2] = {{1, 2}, {3, 4}, {5, 6}, {7, 8}, {9, 10}, {11, 12}};
    static const float up[2] = {1, 2}, down[2] = {10, 1};
    /* As much of FLUX as it is recognised by. */
    const fixture_tensor split[] = {
        {"x_embedder.weight", CK_F32, {D, 2}, 2, qkv},
        {"single_transformer_blocks.0.proj_mlp.weight", CK_F32, {D, 2}, 2, qkv},
        {"transformer_blocks.0.attn.to_q.weight", CK_F32, {D, 2}, 2, qkv},
        {"transformer_blocks.0.attn.to_k.weight", CK_F32, {D, 2}, 2, qkv},
        {"transformer_blocks.0.attn.to_v.weight", CK_F32, {D, 2}, 2, qkv}};
    const fixture_tensor fused[] = {
        {"img_in.weight", CK_F32, {D, 2}, 2, qkv},
        {"double_blocks.0.img_attn.qkv.weight", CK_F32, {3 * D, 2}, 2, qkv}};
    const fixture_tensor whole = {
        "lora_unet_double_blocks_0_img_attn_qkv.diff", CK_F32, {3 * D, 2}, 2, qkv};
    const fixture_tensor part[] = {
        {"transformer.transformer_blocks.0.attn.to_k.lora_B.weight", CK_F32, {D, 1}, 2, up},
        {"transformer.transformer_blocks.0.attn.to_k.lora_A.weight", CK_F32, {1, 2}, 2, down}};
    ck_reader *a = opened(fixture_safetensors(&f, "split", split, 5, NULL));
    ck_reader *b = opened(fixture_safetensors(&f, "fused", fused, 2, NULL));
    ck_reader *c = opened(fixture_safetensors(&f, "whole", &whole, 1, NULL));
    ck_reader *d = opened(fixture_safetensors(&f, "part", part, 2, NULL));
    ck_reader *on_split = changes_of(c, a), *on_fused = changes_of(d, b);
    float *v = data_of(on_split, "transformer_blocks.0.attn.to_v.weight");
    assert_memory_equal(v, qkv[2 * D], sizeof qkv / 3);
    assert_int_equal(ck_reader_count(on_split), 3);
    static const float wanted[3 * D][2] = {{0, 0}, {0, 0}, {10, 1}, {20, 2}, {0, 0}, {0, 0}};
    float *k = data_of(on_fused, "double_blocks.0.img_attn.qkv.weight");
    assert_memory_equal(k, wanted, sizeof wanted);
    check_pieces(on_fused, ck_reader_tensor(on_fused, 0), k);
    free(v);
    free(k);
    ck_reader *all[] = {on_split, on_fused, a, b, c, d};
    for (int i = 0; i < 6; i++) ck_reader_close(all[i]);
}

/* PEFT's own files have their alpha beside them. */
static void test_adapter_config(void **state) {
    (void)state;
    static const float up[] = {1, 2, 3, 4}, down[] = {1, 0, 0, 1}, weight[4];
    const fixture_tensor base = {"w.weight", CK_F32, {2, 2}, 2, weight};
    const fixture_tensor lora[] = {{"base_model.model.w.lora_B.weight", CK_F32, {2, 2}, 2, up},
                                   {"base_model.model.w.lora_A.weight", CK_F32, {2, 2}, 2, down}};
    static const char *const configs[] = {"{\"r\":2,\"lora_alpha\":8}",
                                          "{\"lora_alpha\":8,\"alpha_pattern\":{\"w\":1,\"v\":9}}",
                                          "{\"r\":2}", "{\"lora_alpha\":"};
    const float wanted[] = {4, 0.5f, 1};
    const char *path = fixture_safetensors(&f, "adapter_model.safetensors", lora, 2, NULL);
    ck_reader *model = opened(fixture_safetensors(&f, "m", &base, 1, NULL));
    for (int i = 0; i < 4; i++) {
        fixture_file(&f, "adapter_config.json", configs[i], strlen(configs[i]));
        ck_reader *file = opened(path), *changes;
        ck_error err;
        ck_status status = ck_lora_changes(file, model, CK_UNMATCHED_ERROR, &changes, NULL, &err);
        assert_int_equal(status, i < 3 ? CK_OK : CK_INPUT);
        if (i == 3) {
            assert_non_null(strstr(err.message, "adapter_config.json"));
        } else {
            float *got = data_of(changes, "w.weight");
            for (int e = 0; e < 4; e++) assert_true(got[e] == wanted[i] * up[e]);
            free(got);
            ck_reader_close(changes);
        }
        ck_reader_close(file);
    }
    ck_reader_close(model);
}

/* ---- What is refused ---- */

static const float numbers[64];

static void refused(const fixture_tensor *tensors, size_t count, ck_unmatched policy,
                    const char *text) {
    const fixture_tensor base[] = {{"w.weight", CK_F32, {4, 6}, 2, numbers},
                                   {"x.y.weight", CK_F32, {4, 6}, 2, numbers},
                                   {"ids.weight", CK_I64, {2, 2}, 2, numbers}};
    ck_reader *model = opened(fixture_safetensors(&f, "m", base, 3, NULL)), *changes;
    ck_reader *file = opened(fixture_safetensors(&f, "l", tensors, count, NULL));
    ck_error err;
    ck_status status = ck_lora_changes(file, model, policy, &changes, NULL, &err);
    if (status == CK_OK) fail_msg("accepted, want '%s'", text);
    assert_int_equal(status, CK_INPUT);
    if (!strstr(err.message, text) || !strstr(err.message, ck_reader_path(file)))
        fail_msg("'%s' lacks '%s' or the path", err.message, text);
    ck_reader_close(file);
    ck_reader_close(model);
}

#define T(name, ...)                                                                               \
    { name, CK_F32, {__VA_ARGS__}, sizeof((uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t), numbers }
#define REFUSED(text, ...)                                                                         \
    do {                                                                                           \
        const fixture_tensor tensors[] = {__VA_ARGS__};                                            \
        refused(tensors, sizeof tensors / sizeof *tensors, CK_UNMATCHED_ERROR, text);              \
    } while (0)

static void test_refusals(void **state) {
    (void)state;
    REFUSED("layer 'w' lacks its down matrix", T("w.lora_up.weight", 4, 2));
    REFUSED("layer 'w' lacks its up matrix", T("w.lora_down.weight", 2, 6));
    REFUSED("'w.lora_B.weight' and 'w.lora_up.weight' are the same", T("w.lora_up.weight", 4, 2),
            T("w.lora_B.weight", 4, 2));
    REFUSED("'w.lora_down.weight' of shape [3,6] does not have the rank",
            T("w.lora_up.weight", 4, 2), T("w.lora_down.weight", 3, 6));
    REFUSED("'w.lora_up.weight' of shape [4,2,3,1] is no matrix", T("w.lora_up.weight", 4, 2, 3, 1),
            T("w.lora_down.weight", 2, 6));
    REFUSED("'w.lora_up.weight' of shape [0,2] is no factor", T("w.lora_up.weight", 0, 2),
            T("w.lora_down.weight", 2, 6));
    REFUSED("'w.lora_mid.weight' of shape [2,3,1] does not have the ranks",
            T("w.lora_up.weight", 4, 2), T("w.lora_down.weight", 2, 6),
            T("w.lora_mid.weight", 2, 3, 1));
    REFUSED("a weight of 4 rows and 5 columns, but tensor 'w.weight'", T("w.lora_up.weight", 4, 2),
            T("w.lora_down.weight", 2, 5));
    REFUSED("a weight of 3 rows and 6 columns, but tensor 'w.weight'", T("w.lora_up.weight", 3, 2),
            T("w.lora_down.weight", 2, 6));
    REFUSED("changed in more than one way", T("w.lora_up.weight", 4, 2),
            T("w.lora_down.weight", 2, 6), T("w.diff", 4, 6));
    REFUSED("has no factors", T("w.alpha", 1), T("w.dora_scale", 4, 1));
    REFUSED("'w.alpha' is not one number", T("w.lora_up.weight", 4, 2),
            T("w.lora_down.weight", 2, 6), T("w.alpha", 2));
    REFUSED("'w.dora_scale' of shape [5,1] is neither", T("w.lora_up.weight", 4, 2),
            T("w.lora_down.weight", 2, 6), T("w.dora_scale", 5, 1));
    REFUSED("layer 'w' has magnitudes of 3 inputs", T("w.lora_up.weight", 4, 2),
            T("w.lora_down.weight", 2, 6), T("w.dora_scale", 1, 3));
    REFUSED("layer 'w' lacks its hada_w2_b", T("w.hada_w1_a", 4, 2), T("w.hada_w1_b", 2, 6),
            T("w.hada_w2_a", 4, 2));
    REFUSED("'w.hada_w2_b' of shape [2,5] does not fit the first product", T("w.hada_w1_a", 4, 2),
            T("w.hada_w1_b", 2, 6), T("w.hada_w2_a", 4, 2), T("w.hada_w2_b", 2, 5));
    REFUSED("layer 'w' lacks its lokr_w1", T("w.lokr_w2", 2, 3));
    REFUSED("a weight of 4 rows and 9 columns", T("w.lokr_w1", 2, 3), T("w.lokr_w2", 2, 3));
    REFUSED("'w.oft_blocks' belongs to a change of a kind that is not read",
            T("w.oft_blocks", 2, 3, 3));
    REFUSED("none of its 1 layers is in", T("v.diff", 4, 6));
    REFUSED("2 of its layers are not in", T("w.diff", 4, 6), T("v.diff", 4, 6), T("u.diff_b", 4));
    REFUSED("'ids.weight' is I64", T("ids.diff", 2, 2));
    REFUSED("layers 'x.y' and 'x_y' change the same", T("x.y.diff", 4, 6), T("x_y.diff", 4, 6));
}

/* Factors of 64 MiB (a hole in the file) whose Kronecker product no memory holds. */
static void test_too_large(void **state) {
    (void)state;
    static const char header[] =
        "{\"w.lokr_w1\":{\"dtype\":\"F8_E4M3\",\"shape\":[67108864,1],\"data_offsets\":[0,67108864]"
        "},"
        "\"w.lokr_w2\":{\"dtype\":\"F8_E4M3\",\"shape\":[1,67108864],\"data_offsets\":[67108864,"
        "134217728]}}  ";
    const char *path = fixture_raw_safetensors(&f, "l", header, NULL, 0);
    assert_int_equal(truncate(path, 8 + (off_t)strlen(header) + 134217728), 0);
    ck_reader *file = opened(path);
    ck_lora *lora;
    ck_error err;
    assert_int_equal(ck_lora_open(file, &lora, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "layer 'w' makes too large a weight"));
    ck_reader_close(file);
}

static void test_unmatched(void **state) {
    (void)state;
    const fixture_tensor base = T("w.weight", 4, 6);
    const fixture_tensor lora[] = {T("w.diff", 4, 6), T("v.diff", 4, 6), T("emb_params", 3)};
    ck_reader *model = opened(fixture_safetensors(&f, "m", &base, 1, NULL)), *changes;
    ck_reader *file = opened(fixture_safetensors(&f, "l", lora, 3, "{\"ss_network_dim\":\"8\"}"));
    ck_lora_report report;
    ck_error err;
    assert_int_equal(ck_lora_changes(file, model, CK_UNMATCHED_SKIP, &changes, &report, &err),
                     CK_OK);
    assert_int_equal(report.layers, 2);
    assert_int_equal(report.skipped, 2);
    assert_string_equal(report.first_skipped, "v");
    assert_int_equal(ck_reader_count(changes), 1);
    assert_string_equal(ck_reader_meta(changes, "ss_network_dim"), "8");
    assert_string_equal(ck_reader_format(changes), "lora");
    ck_reader_close(changes);
    ck_reader_close(file);
    ck_reader_close(model);
}

/* Every allocation and read may fail, in opening and in reading. */
static void test_faults(void **state) {
    (void)state;
    static const char *const files[] = {DATA "loha.safetensors", DATA "lokr.safetensors",
                                        DATA "dora.safetensors", DATA "peft.safetensors",
                                        DATA "full.safetensors"};
    const fault_kind kinds[] = {FAULT_CALLOC, FAULT_REALLOC, FAULT_PREAD};
    ck_reader *model = opened(DATA "model.safetensors");
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        for (int k = 0; k < 3; k++) {
            ck_reader *file = opened(files[i]);
            for (fault_first(kinds[k], EIO); fault_more();) {
                ck_reader *changes = NULL;
                float values[480];
                ck_error err;
                fault_arm();
                ck_status status =
                    ck_lora_changes(file, model, CK_UNMATCHED_ERROR, &changes, NULL, &err);
                for (size_t t = 0; status == CK_OK && t < ck_reader_count(changes); t++) {
                    const ck_tensor *tensor = ck_reader_tensor(changes, t);
                    status = ck_reader_read(changes, tensor, 0, values, tensor->nbytes, &err);
                }
                fault_disarm();
                assert_int_equal(status != CK_OK, fault_hit());
                ck_reader_close(changes);
            }
            ck_reader_close(file);
        }
    ck_reader_close(model);
}

/* A layer that could not be loaded is loaded when it is wanted again. */
static void test_again_after_fault(void **state) {
    (void)state;
    ck_reader *model = opened(DATA "model.safetensors"), *file = opened(DATA "loha.safetensors");
    ck_reader *changes = changes_of(file, model);
    const ck_tensor *t = ck_reader_tensor(changes, 0);
    float *want = data_of(changes, t->name), values[480];
    ck_error err;
    ck_reader_close(changes);
    for (fault_first(FAULT_CALLOC, ENOMEM); fault_more();) {
        changes = changes_of(file, model);
        t = ck_reader_tensor(changes, 0);
        fault_arm();
        ck_status status = ck_reader_read(changes, t, 0, values, t->nbytes, &err);
        fault_disarm();
        assert_int_equal(status != CK_OK, fault_hit());
        assert_int_equal(ck_reader_read(changes, t, 0, values, t->nbytes, &err), CK_OK);
        assert_memory_equal(values, want, t->nbytes);
        ck_reader_close(changes);
    }
    free(want);
    ck_reader_close(file);
    ck_reader_close(model);
}

enum { LAYERS = 6, WIDTH = 40, READERS = 4 };

typedef struct reading {
    const ck_reader *changes;
    float *const *want; /* of each layer */
    size_t first;
    bool alike;
} reading;

static void *read_layers(void *argument) {
    reading *r = argument;
    float got[WIDTH * WIDTH];
    ck_error err;
    r->alike = true;
    for (size_t i = 0; i < 20 * LAYERS; i++) {
        size_t layer = (r->first + i) % LAYERS;
        const ck_tensor *t = ck_reader_tensor(r->changes, layer);
        r->alike &= ck_reader_read(r->changes, t, 0, got, sizeof got, &err) == CK_OK &&
                    memcmp(got, r->want[layer], sizeof got) == 0;
    }
    return NULL;
}

/* Threads that want the same layers, and others; more layers than are kept. */
static void test_threads(void **state) {
    (void)state;
    static float weight[WIDTH * WIDTH], factors[LAYERS][2][8 * WIDTH];
    static char names[LAYERS][3][32];
    fixture_tensor base[LAYERS], lora[2 * LAYERS];
    uint64_t seed = 3;
    for (size_t i = 0; i < LAYERS; i++) {
        snprintf(names[i][0], 32, "w%zu.weight", i);
        snprintf(names[i][1], 32, "w%zu.lora_up.weight", i);
        snprintf(names[i][2], 32, "w%zu.lora_down.weight", i);
        for (size_t e = 0; e < 8 * WIDTH; e++) {
            factors[i][0][e] = fixture_random_float(&seed);
            factors[i][1][e] = fixture_random_float(&seed);
        }
        base[i] = (fixture_tensor){names[i][0], CK_F32, {WIDTH, WIDTH}, 2, weight};
        lora[2 * i] = (fixture_tensor){names[i][1], CK_F32, {WIDTH, 8}, 2, factors[i][0]};
        lora[2 * i + 1] = (fixture_tensor){names[i][2], CK_F32, {8, WIDTH}, 2, factors[i][1]};
    }
    ck_reader *model = opened(fixture_safetensors(&f, "m", base, LAYERS, NULL));
    ck_reader *file = opened(fixture_safetensors(&f, "l", lora, 2 * LAYERS, NULL));
    ck_reader *changes = changes_of(file, model);
    float *want[LAYERS];
    for (size_t i = 0; i < LAYERS; i++)
        want[i] = data_of(changes, ck_reader_tensor(changes, i)->name);
    reading readings[READERS];
    pthread_t threads[READERS];
    for (size_t i = 0; i < READERS; i++) {
        readings[i] = (reading){changes, want, i / 2, false};
        assert_int_equal(pthread_create(&threads[i], NULL, read_layers, &readings[i]), 0);
    }
    for (size_t i = 0; i < READERS; i++) pthread_join(threads[i], NULL);
    for (size_t i = 0; i < READERS; i++) assert_true(readings[i].alike);
    for (size_t i = 0; i < LAYERS; i++) free(want[i]);
    ck_reader_close(changes);
    ck_reader_close(file);
    ck_reader_close(model);
}

/* ---- Applied ---- */

/* One unit in the last place of this f16 value. */
static double unit_of(double x) {
    int exponent;
    frexp(fmax(fabs(x), 0x1p-14), &exponent);
    return ldexp(1, exponent - 11);
}

/* W + strength (W' - W) as the libraries have it, to within a unit of the result's type. */
static void test_applied(void **state) {
    (void)state;
    static const char *const kinds[] = {"lora", "core", "dora",     "loha",
                                        "lokr", "full", "peft_dora"};
    char here[512];
    assert_non_null(realpath(DATA, here));
    ck_reader *model = opened(DATA "model.safetensors");
    ck_reader *expected = opened(DATA "expected.safetensors");
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        program_expect(program_run(f.folder,
                                   "ckmerge %s/model.safetensors --lora %s/%s.safetensors:0.75 "
                                   "--dtype f16 -o out -f",
                                   here, here, kinds[k]),
                       0, "mixed", NULL);
        ck_reader *out = opened(fixture_path(&f, "out"));
        for (size_t i = 0; i < ck_reader_count(out); i++) {
            const ck_tensor *t = ck_reader_tensor(out, i);
            char name[256];
            snprintf(name, sizeof name, "%s/%s", kinds[k], t->name);
            double *change = ck_reader_find(expected, name) ? data_of(expected, name) : NULL;
            float *weight = data_of(model, t->name);
            unsigned char *got = data_of(out, t->name);
            for (uint64_t e = 0; e < t->elements; e++) {
                double want = (double)weight[e] + (change ? 0.75 * change[e] : 0);
                double is = ref_decode(CK_F16, got + 2 * e);
                if (!(fabs(is - want) <= 0.501 * unit_of(want)))
                    fail_msg("%s, element %llu: %.9g, want %.9g", name, (unsigned long long)e, is,
                             want);
            }
            free(change);
            free(weight);
            free(got);
        }
        ck_reader_close(out);
    }
    ck_reader_close(expected);
    ck_reader_close(model);
}

/* Several LoRAs, beside a merge, in recipes and rules; and what users get wrong. */
static void test_programs(void **state) {
    (void)state;
    static float one[12], two[12];
    static const float up[] = {1, 2, 3}, down[] = {1, 10, 100, 1000};
    for (int i = 0; i < 12; i++) one[i] = 1, two[i] = 3;
    const fixture_tensor a[] = {{"w.weight", CK_F32, {3, 4}, 2, one},
                                {"v.weight", CK_F32, {12}, 1, one}};
    const fixture_tensor b[] = {{"w.weight", CK_F32, {3, 4}, 2, two},
                                {"v.weight", CK_F32, {12}, 1, two}};
    const fixture_tensor lora[] = {{"w.lora_up.weight", CK_F32, {3, 1}, 2, up},
                                   {"w.lora_down.weight", CK_F32, {1, 4}, 2, down}};
    const fixture_tensor full[] = {{"v.diff", CK_F32, {12}, 1, two},
                                   {"nowhere.diff", CK_F32, {12}, 1, two}};
    fixture_safetensors(&f, "a", a, 2, NULL);
    fixture_safetensors(&f, "b", b, 2, NULL);
    fixture_safetensors(&f, "l:1", lora, 2, NULL);
    fixture_safetensors(&f, "full", full, 2, NULL);

    program_expect(program_run(f.folder, "ckmerge a --lora l:1:0.5 -o o --write-recipe r.json && "
                                         "ckmerge --recipe r.json -o p && cmp o p && "
                                         "ckmerge a --lora ./l:1:0.5 -o q -t 1 && cmp o q"),
                   0, "1 tensors kept: not changed", NULL);
    ck_reader *o = opened(fixture_path(&f, "o"));
    float *w = data_of(o, "w.weight");
    assert_true(w[0] == 1.5f && w[7] == 1001 && w[11] == 1501);
    free(w);
    ck_reader_close(o);

    program_expect(program_run(f.folder, "ckmerge a --lora full -o o -f"), 1, NULL,
                   "full: 1 of its layers is not in a: 'nowhere'; --unmatched skip");
    program_expect(program_run(f.folder, "ckmerge a b --alpha 0.5 --rule 'v*=0' --lora l:1:2 "
                                         "--lora full:10 --unmatched skip -o o -f --write-recipe "
                                         "r.json --force && ckmerge --recipe r.json -o p -f && "
                                         "cmp o p"),
                   0, NULL, "1 of its layers are not in a and are left out, first 'nowhere'");
    o = opened(fixture_path(&f, "o"));
    w = data_of(o, "w.weight");
    float *v = data_of(o, "v.weight");
    assert_true(w[0] == 4 && w[11] == 6002 && v[0] == 31);
    free(w);
    free(v);
    ck_reader_close(o);

    program_expect(program_run(f.folder, "ckmerge a --lora l:1 --rule 'w*=0' -o o -f && cktool "
                                         "diff o a"),
                   0, "identical", NULL);
    program_expect(program_run(f.folder, "ckmerge a l:1 -o o -f"), 1, NULL,
                   "l:1 is a LoRA, not a model; --lora l:1 applies it");
    program_expect(program_run(f.folder, "ckmerge l:1 --lora l:1 -o o -f"), 1, NULL,
                   "l:1 is a LoRA, not a model");
    program_expect(program_run(f.folder, "ckmerge a --lora b -o o -f"), 1, NULL, "b is no LoRA");
    program_expect(program_run(f.folder, "ckmerge a --lora l:1:nan -o o -f"), 2, NULL,
                   "the strength must be a number");
    program_expect(program_run(f.folder, "ckmerge a --lora l:1 --alpha 1 -o o -f"), 2, NULL,
                   "a LoRA's strength is given as --lora FILE:STRENGTH");
    program_expect(program_run(f.folder, "ckmerge a -o o -f"), 2, NULL, "one and --lora FILE");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_libraries),
        cmocka_unit_test_setup_teardown(test_large, setup, teardown),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_spellings),
        cmocka_unit_test_setup_teardown(test_fused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_adapter_config, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_large, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unmatched, setup, teardown),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_again_after_fault),
        cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
        cmocka_unit_test_setup_teardown(test_applied, setup, teardown),
        cmocka_unit_test_setup_teardown(test_programs, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
