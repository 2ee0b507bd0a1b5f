/* VAE and text encoder against PyTorch, on a real model; see test_unet.c. */
#include "tests/ok.h"
#include "tests/parity.h"

#include "distill/engine/backend.h"
#include "distill/engine/onednn.h"
#include "distill/models/clip_text.h"
#include "distill/models/generate.h"
#include "distill/models/model_network.h"
#include "distill/models/t5_text.h"
#include "distill/models/vae.h"
#include "io/os.h"
#include "kernels/nn.h"
#include "tests/fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL "tests/data/models/base/"

static void check_node(const ck_exec *e, ck_node node, float *want, size_t n, double tolerance) {
    double off = parity_off(e, node, want, n);
    if (!(off < tolerance)) print_error("off by %g\n", off);
    assert_true(off < tolerance);
    free(want);
}

/* f32 sums in another order than torch's, through some twenty layers. */
static const double TOLERANCE = 2e-5;

static void test_vae(void **state) {
    (void)state;
    ck_reader *r;
    ck_vae_config c;
    ck_params *p;
    size_t n, m;
    ok(ck_reader_open("tests/data/parity/vae.safetensors", &r, &err));
    ok(ck_vae_read(MODEL "vae/config.json", &c, &err));
    ok(ck_params_open(MODEL "vae/diffusion_pytorch_model.safetensors", "", &p, &err));
    assert_int_equal(ck_vae_factor(&c), 2);
    assert_true(c.scale == 1.519371747970581);
    float *image = parity_image(r, "image", 1, 1024, &n),
          *latents = parity_image(r, "latents", 4, 256, &m);
    ck_graph *g = ck_graph_new();
    ck_node in = ck_input(g, "image", CK_F32, CK_SHAPE(2, 32, 32, 1));
    ck_node small = ck_input(g, "latents", CK_F32, CK_SHAPE(2, 16, 16, 4));
    ck_vae_moments moments = ck_vae_encode(g, p, &c, in);
    ck_node out = ck_vae_decode(g, p, &c, small);
    ck_node outputs[] = {moments.mean, moments.logvar, out};
    ck_exec *e = parity_run(g, outputs, 3, (ck_node[]){in, small}, (const void *[]){image, latents},
                            (size_t[]){n, m}, 2);
    float *mean = parity_image(r, "mean", 4, 256, &m);
    check_node(e, moments.mean, mean, m, TOLERANCE);
    float *logvar = parity_image(r, "logvar", 4, 256, &m);
    check_node(e, moments.logvar, logvar, m, TOLERANCE);
    float *decoded = parity_image(r, "decoded", 1, 1024, &n);
    check_node(e, out, decoded, n, TOLERANCE);
    free(image), free(latents);
    ck_exec_free(e), ck_graph_free(g), ck_params_free(p), ck_reader_close(r);
}

static void test_clip(void **state) {
    (void)state;
    ck_reader *r;
    ck_clip_config c;
    ck_params *p;
    size_t n;
    ok(ck_reader_open("tests/data/parity/text.safetensors", &r, &err));
    ok(ck_clip_read(MODEL "text_encoder/config.json", &c, &err));
    ok(ck_params_open(MODEL "text_encoder/model.safetensors", "", &p, &err));
    int64_t *wide = parity_tensor(r, "input_ids", &n);
    int32_t ids[64], rows[4];
    assert_int_equal(n, 64);
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)wide[i];
    free(wide);
    ck_clip_ends(&c, ids, 4, 16, rows);
    ck_graph *g = ck_graph_new();
    ck_node in = ck_input(g, "ids", CK_I32, CK_SHAPE(4, 16));
    ck_node ends = ck_input(g, "ends", CK_I32, CK_SHAPE(4));
    ck_clip_text t = ck_clip(g, p, &c, in, ends);
    ck_exec *e =
        parity_run(g, (ck_node[]){t.last, t.penultimate, t.pooled}, 3, (ck_node[]){in, ends},
                   (const void *[]){ids, rows}, (size_t[]){64, 4}, 2);
    float *last = parity_tensor(r, "last_hidden_state", &n);
    check_node(e, t.last, last, n, TOLERANCE);
    float *penultimate = parity_tensor(r, "hidden_state_penultimate", &n);
    check_node(e, t.penultimate, penultimate, n, TOLERANCE);
    float *pooled = parity_tensor(r, "pooler_output", &n);
    check_node(e, t.pooled, pooled, n, TOLERANCE);
    ck_exec_free(e), ck_graph_free(g), ck_params_free(p), ck_reader_close(r);
}

/* Ten steps with guidance from recorded noise, as diffusers' pipeline took them, and the picture.
 */
static void check_run(const char *path, const char *sampler, ck_spacing spacing, bool karras) {
    ck_reader *r;
    ck_model m;
    const ck_backend *b;
    size_t n, k;
    ok(ck_reader_open(path, &r, &err));
    ok(ck_model_open("tests/data/models/base", NULL, &m, &err));
    ok(ck_backend_open("cpu", &b, &err));
    m.schedule.spacing = spacing;
    m.schedule.karras = karras;
    float *noise = parity_tensor(r, "noise", &n), *states = parity_tensor(r, "trajectory", &k);
    float *picture = parity_image(r, "image", 1, 1024, &k), latents[1024], last[1024], pixels[1024];
    assert_int_equal(n, 1024);
    ck_generate_options o = {.prompt = ck_reader_meta(r, "prompt"),
                             .negative = "",
                             .sampler = sampler,
                             .steps = 10,
                             .count = 1,
                             .cfg = 3,
                             .eta = NAN,
                             .width = 32,
                             .height = 32,
                             .noise = noise};
    ok(ck_generate(&m, b, &o, latents, &err));
    /* Rounding grows along the way; latents are of size 5. */
    for (size_t i = 0; i < 1024; i++) assert_true(fabsf(latents[i] - states[10240 + i]) < 1e-4f);
    ck_to_channels_last(latents, 1, 4, 256, last);
    ok(ck_model_decode(&m, b, last, 1, 16, 16, pixels, &err));
    for (size_t i = 0; i < 1024; i++) assert_true(fabsf(pixels[i] - picture[i]) < 1e-4f);
    /* The encoders are not in memory by now, and come back when they are asked. */
    assert_int_equal(ck_params_count(m.text[0].params), 0);
    ok(ck_generate(&m, b, &o, last, &err));
    assert_memory_equal(last, latents, sizeof latents);
    o.width = 36;
    assert_int_equal(ck_generate(&m, b, &o, latents, &err), CK_USAGE);
    free(noise), free(states), free(picture);
    ck_model_close(&m);
    ck_reader_close(r);
}

/* What is the file's is read again, what was added stays. */
static void test_unloading(void **state) {
    (void)state;
    static const char name[] = "final_layer_norm.weight";
    ck_params *p;
    size_t norm, added;
    ok(ck_params_open("tests/data/models/base/text_encoder/model.safetensors", "", &p, &err));
    const int64_t width = (int64_t)ck_params_tensor(p, name)->shape[0], four = 4;
    ok(ck_params_need(p, name, 1, &width, &norm, &err));
    ok(ck_params_add(p, "added.weight", 1, &four, &err));
    ok(ck_params_need(p, "added.weight", 1, &four, &added, &err));
    float first = ck_params_data(p, norm)[0];
    ck_params_data(p, norm)[0] = ck_params_data(p, added)[0] = 7;
    ck_params_unload(p);
    assert_int_equal(ck_params_count(p), 1);
    ok(ck_params_need(p, name, 1, &width, &norm, &err));
    ok(ck_params_need(p, "added.weight", 1, &four, &added, &err));
    assert_true(ck_params_data(p, norm)[0] == first && first != 7);
    assert_true(ck_params_data(p, added)[0] == 7);
    ck_params_free(p);
}

static bool halves(const ck_backend *b) {
    return b->host && b->takes_half && ck_nn_amx_best();
}

/* One pass of the base model's network on backend b; the bytes of weights that it reads. */
static size_t ask_network(const ck_backend *b, bool frozen, float *answer) {
    ck_model m;
    ck_model_inputs in;
    ck_exec *e;
    ok(ck_model_open("tests/data/models/base", NULL, &m, &err));
    ck_params_freeze(m.unet, frozen);
    ck_graph *g = ck_graph_new();
    ck_node out = ck_model_network(g, &m, 1, 16, 16, &in);
    ok(ck_exec_new(b, g, &out, 1, &e, &err));
    ok(ck_exec_allocate(e, 0, &err));
    size_t texts = ck_model_tokens(&m) * ck_model_width(&m);
    float *context = ck_alloc_array(texts, sizeof *context), x[1024], time = 500;
    for (size_t i = 0; i < texts; i++) context[i] = sinf((float)i);
    for (size_t i = 0; i < 1024; i++) x[i] = cosf((float)i);
    ok(ck_exec_write(e, in.x, x, 1024, &err));
    ok(ck_exec_write(e, in.time, &time, 1, &err));
    ok(ck_exec_write(e, in.context, context, texts, &err));
    ok(ck_exec_run(e, &err));
    ok(ck_exec_read(e, out, answer, 1024, &err));
    size_t bytes = ck_exec_weights(e), index;
    /* Those that are read as bfloat16 are in memory as that alone. */
    const ck_tensor *t = ck_params_tensor(m.unet, "mid_block.resnets.0.conv1.weight");
    const int64_t krsc[] = {(int64_t)t->shape[0], 3, 3, (int64_t)t->shape[1]};
    ok(ck_params_need(m.unet, "mid_block.resnets.0.conv1.weight", 4, krsc, &index, &err));
    bool takes = halves(b) && ck_onednn_version(); /* which has the kernel of convolutions */
    if (strcmp(b->name, "cuda-bf16") == 0) takes = true; /* and so has the host */
    assert_true((frozen && takes) == !ck_params_data(m.unet, index));
    ck_exec_free(e);
    ck_graph_free(g);
    free(context);
    ck_model_close(&m);
    return bytes;
}

/* Weights that are only read take half the memory where products take them so, and give the same.
 */
static void test_frozen(void **state) {
    (void)state;
    static const char *const backends[] = {"cpu-bf16", "cpu", "reference64", "cuda-bf16"};
    for (int i = 0; i < 4; i++) {
        const ck_backend *b;
        float trained[1024], frozen[1024];
        if (ck_backend_open(backends[i], &b, &err) != CK_OK) continue;
        size_t whole = ask_network(b, false, trained), half = ask_network(b, true, frozen);
        assert_memory_equal(trained, frozen, sizeof frozen);
        if (halves(b))
            assert_true(half < whole * (ck_onednn_version() ? 6 : 9) / 10);
        else
            assert_int_equal(half, whole);
    }
}

/* What is frozen is read when it is fetched; what is wrong with its values is said then. */
static void test_fetching(void **state) {
    (void)state;
    float row[] = {1, 1.00390625f, 3}, bad[] = {1, NAN, 3};
    fixture_tensor tensors[] = {{"a", CK_F32, {3}, 1, row}, {"b", CK_F32, {3}, 1, bad}};
    fixture f;
    fixture_make(&f);
    const char *path = fixture_safetensors(&f, "model.safetensors", tensors, 2, NULL);
    const int64_t three = 3;
    ck_params *p, *copy;
    ck_reader *r;
    size_t a, b;
    void *at, *again;
    ok(ck_params_open(path, "", &p, &err));
    ck_params_freeze(p, true);
    ok(ck_params_need(p, "a", 1, &three, &a, &err));
    ok(ck_params_check(p, &err));
    assert_null(ck_params_data(p, a));
    ok(ck_params_fetch(p, a, true, &at, &err));
    assert_memory_equal(at, ((uint16_t[]){0x3f80, 0x3f80, 0x4040}), 6);
    assert_null(ck_params_data(p, a));
    /* A copy and a checkpoint have what is in the file, not the copy of bfloat16. */
    float back[3];
    ok(ck_params_copy(p, &copy, &err));
    ok(ck_params_reader(copy, &r, &err));
    ok(ck_reader_read(r, ck_reader_find(r, "a"), 0, back, sizeof back, &err));
    assert_memory_equal(back, row, sizeof row);
    ck_reader_close(r);
    ck_params_free(copy);
    ok(ck_params_fetch(p, a, false, &at, &err));
    ok(ck_params_fetch(p, a, false, &again, &err));
    assert_memory_equal(at, row, sizeof row);
    assert_true(at == again && at == ck_params_data(p, a));

    ok(ck_params_need(p, "b", 1, &three, &b, &err));
    for (int half = 0; half < 2; half++)
        for (int twice = 0; twice < 2; twice++) {
            assert_int_equal(ck_params_fetch(p, b, half, &at, &err), CK_INPUT);
            assert_non_null(strstr(err.message, "tensor 'b': a value is not a number"));
        }
    assert_int_equal(ck_params_check(p, &err), CK_INPUT);
    ck_params_free(p);
    fixture_remove(&f);
}

/* What is said before is what is allocated: texts, decoder. */
static void test_memory(void **state) {
    (void)state;
    ck_model m, planned;
    const ck_backend *b;
    size_t text, decoder, four, same;
    ok(ck_backend_open("cpu", &b, &err));
    ok(ck_model_open("tests/data/models/base", NULL, &m, &err));
    ok(ck_model_plan("tests/data/models/base", NULL, &planned, &err));
    ok(ck_model_text_memory(&m, b, &text, &err));
    ok(ck_model_text_memory(&planned, b, &same, &err));
    assert_int_equal(text, same);
    ok(ck_model_decode_memory(&m, b, 1, 16, 16, &decoder, &err));
    ok(ck_model_decode_memory(&planned, b, 1, 16, 16, &same, &err));
    assert_int_equal(decoder, same);
    ok(ck_model_decode_memory(&m, b, 4, 16, 16, &four, &err));
    assert_true(four > 2 * decoder);
    /* Large images are decoded one by one. */
    ok(ck_model_decode_memory(&m, b, 1, 1024, 1024, &decoder, &err));
    ok(ck_model_decode_memory(&m, b, 4, 1024, 1024, &four, &err));
    assert_int_equal(four, decoder);
    /* What does not fit is refused, whatever the system promises. */
    assert_int_equal(ck_model_check_decoder(&m, b, 1, 1 << 14, 1 << 14, &err), CK_MEMORY);
    assert_non_null(strstr(err.message, "MiB for a graph and its weights, "));
    /* Weights alone: every tensor of the encoder, as f32. */
    size_t weights = 0;
    ck_reader *r;
    ok(ck_reader_open("tests/data/models/base/text_encoder/model.safetensors", &r, &err));
    for (size_t i = 0; i < ck_reader_count(r); i++)
        if (ck_dtype_is_float(ck_reader_tensor(r, i)->dtype))
            weights += 4 * (size_t)ck_reader_tensor(r, i)->elements;
    ck_reader_close(r);
    assert_true(text > weights && text < weights + (1 << 20));
    ck_model_close(&m);
    ck_model_close(&planned);
}

static void test_generate(void **state) {
    (void)state;
    check_run("tests/data/parity/sample_ddim10_trailing.safetensors", "ddim", CK_SPACING_TRAILING,
              false);
    check_run("tests/data/parity/sample_dpmpp2m_karras10.safetensors", "dpmpp_2m",
              CK_SPACING_LINSPACE, true);
}

/* What pooling takes: the first end token, or (2, as old configs have it) the largest. */
static void test_ends(void **state) {
    (void)state;
    ck_clip_config c = {.end = 9};
    int32_t ids[] = {1, 5, 9, 9, 1, 9, 3, 9}, ends[2];
    ck_clip_ends(&c, ids, 2, 4, ends);
    assert_int_equal(ends[0], 2);
    assert_int_equal(ends[1], 5);
    c.end = 2;
    int32_t letters[] = {1, 5, 7, 2, 1, 3, 2, 2};
    ck_clip_ends(&c, letters, 2, 4, ends);
    assert_int_equal(ends[0], 2);
    assert_int_equal(ends[1], 5);
}

/* ---- Configs of text encoders ---- */

/* What Stable Diffusion 1's, SDXL's and SD3's folders have, and all that older versions of
 * transformers write when asked for everything. */
static const char old_clip[] =
    "{\"_name_or_path\": \"openai/clip-vit-large-patch14\", \"architectures\": "
    "[\"CLIPTextModel\"], \"attention_dropout\": 0.0, \"bos_token_id\": 0, \"dropout\": 0.0, "
    "\"eos_token_id\": 2, \"hidden_act\": \"quick_gelu\", \"hidden_size\": 768, "
    "\"initializer_factor\": 1.0, \"initializer_range\": 0.02, \"intermediate_size\": 3072, "
    "\"layer_norm_eps\": 1e-05, \"max_position_embeddings\": 77, \"model_type\": "
    "\"clip_text_model\", \"num_attention_heads\": 12, \"num_hidden_layers\": 12, "
    "\"pad_token_id\": 1, \"projection_dim\": 768, \"torch_dtype\": \"float32\", "
    "\"transformers_version\": \"4.22.0.dev0\", \"vocab_size\": 49408%s}";
static const char old_t5[] =
    "{\"architectures\": [\"T5EncoderModel\"], \"classifier_dropout\": 0.0, \"d_ff\": 10240, "
    "\"d_kv\": 64, \"d_model\": 4096, \"decoder_start_token_id\": 0, \"dense_act_fn\": "
    "\"gelu_new\", \"dropout_rate\": 0.1, \"eos_token_id\": 1, \"feed_forward_proj\": "
    "\"gated-gelu\", \"initializer_factor\": 1.0, \"is_encoder_decoder\": true, "
    "\"is_gated_act\": true, \"layer_norm_epsilon\": 1e-06, \"model_type\": \"t5\", "
    "\"num_decoder_layers\": 24, \"num_heads\": 64, \"num_layers\": 24, \"output_past\": true, "
    "\"pad_token_id\": 0, \"relative_attention_max_distance\": 128, "
    "\"relative_attention_num_buckets\": 32, \"tie_word_embeddings\": false, \"torch_dtype\": "
    "\"float16\", \"transformers_version\": \"4.41.2\", \"use_cache\": true, "
    "\"vocab_size\": 32128%s}";
static const char leftovers[] =
    ", \"return_dict\": true, \"output_attentions\": false, \"pruned_heads\": {}, \"is_decoder\": "
    "false, \"add_cross_attention\": false, \"max_length\": 20, \"num_beams\": 1, \"top_p\": 1.0, "
    "\"bad_words_ids\": null, \"id2label\": {\"0\": \"LABEL_0\"}, \"prefix\": null, "
    "\"task_specific_params\": {\"summarization\": {\"num_beams\": 4}}, \"_commit_hash\": null, "
    "\"_attn_implementation_autoset\": true, \"begin_suppress_tokens\": null";

/* Of the config with `more` at its end. */
static ck_status read_text_config(bool t5, const char *more) {
    fixture f;
    ck_clip_config clip;
    ck_t5_config t;
    fixture_make(&f);
    char *text = ck_sprintf(t5 ? old_t5 : old_clip, more);
    assert_non_null(text);
    const char *path = fixture_file(&f, "config.json", text, strlen(text));
    ck_status s = t5 ? ck_t5_read(path, &t, &err) : ck_clip_read(path, &clip, &err);
    free(text);
    fixture_remove(&f);
    return s;
}

static void test_text_configs(void **state) {
    (void)state;
    static const struct {
        bool t5;
        const char *more, *says;
    } refused[] = {
        {false, "\"text_config\": {}", "$.text_config: a setting of clip_text_model that is not"},
        {false, "\"hidden\": 1", "$.hidden: a setting of clip_text_model that is not known"},
        {false, "\"\": 1", "that is not known"},
        {false, "\"is_decoder\": true", "$.is_decoder: not implemented"},
        {false, "\"pruned_heads\": {\"1\": [0, 2]}", "$.pruned_heads: not implemented"},
        {true, "\"quantization_config\": {}", "$.quantization_config: a setting of t5 that is not"},
        {true, "\"dropout\": 0.1", "$.dropout: a setting of t5 that is not known"},
        {true, "\"add_cross_attention\": true", "$.add_cross_attention: not implemented"},
    };
    for (int t5 = 0; t5 < 2; t5++) {
        ok(read_text_config(t5, ""));
        ok(read_text_config(t5, leftovers));
    }
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        char more[128];
        snprintf(more, sizeof more, ", %s", refused[i].more);
        assert_int_equal(read_text_config(refused[i].t5, more), CK_INPUT);
        if (!strstr(err.message, refused[i].says)) print_error("%s\n", err.message);
        assert_non_null(strstr(err.message, refused[i].says));
    }
}

/* (UMT5's layers each have a table of places.) */
static void test_other_encoders(void **state) {
    (void)state;
    static const char umt5[] = "{\"model_type\": \"umt5\", \"feed_forward_proj\": \"gated-gelu\"}";
    fixture f;
    ck_clip_config clip;
    ck_t5_config t5;
    fixture_make(&f);
    const char *path = fixture_file(&f, "config.json", umt5, sizeof umt5 - 1);
    assert_int_equal(ck_t5_read(path, &t5, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "the text encoder is 'umt5', not t5"));
    assert_int_equal(ck_clip_read(path, &clip, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "the text encoder is 'umt5', not clip_text_model"));
    fixture_remove(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vae),          cmocka_unit_test(test_clip),
        cmocka_unit_test(test_ends),         cmocka_unit_test(test_generate),
        cmocka_unit_test(test_unloading),    cmocka_unit_test(test_frozen),
        cmocka_unit_test(test_fetching),     cmocka_unit_test(test_memory),
        cmocka_unit_test(test_text_configs), cmocka_unit_test(test_other_encoders),
    };
    return cmocka_run_group_tests_name("models", tests, NULL, NULL);
}
