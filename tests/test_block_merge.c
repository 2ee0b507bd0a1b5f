/* Merges by block as users meet them: models a (0), b (1) and c (3) of a few tensors a block, so
 * that the result shows the weights. */
#include "tests/check.h"
#include "tests/fixture.h"
#include "tests/program.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static fixture f;

enum { MAX_TENSORS = 128 };
static char names[MAX_TENSORS][96];
static fixture_tensor tensors[MAX_TENSORS];
static size_t count;

static void add(const char *name, float *value) {
    snprintf(names[count], sizeof names[count], "%s", name);
    tensors[count] = (fixture_tensor){
        .name = names[count], .dtype = CK_F32, .shape = {4}, .rank = 1, .data = value};
    count++;
}

static void add_original(float *value) {
    char name[96];
    static const char p[] = "model.diffusion_model.";
    for (int i = 0; i < 12; i++) {
        snprintf(name, sizeof name, "%sinput_blocks.%d.0.in_layers.0.weight", p, i);
        add(name, value);
        snprintf(name, sizeof name, "%soutput_blocks.%d.0.in_layers.0.weight", p, i);
        add(name, value);
        snprintf(name, sizeof name, "%soutput_blocks.%d.1.attn2.to_k.weight", p, i);
        add(name, value);
    }
    snprintf(name, sizeof name, "%smiddle_block.0.in_layers.0.weight", p);
    add(name, value);
    add("first_stage_model.decoder.up.0.block.0.conv1.weight", value);
    add("cond_stage_model.transformer.text_model.encoder.layers.0.layer_norm1.weight", value);
    add("other.weight", value);
}

/* Two blocks a level, no attention: 3 input blocks a level in the original. */
static void add_diffusers(float *value) {
    char name[96];
    for (int level = 0; level < 4; level++) {
        for (int i = 0; i < 2; i++) {
            snprintf(name, sizeof name, "down_blocks.%d.resnets.%d.norm1.weight", level, i);
            add(name, value);
        }
        for (int i = 0; i < 3; i++) {
            snprintf(name, sizeof name, "up_blocks.%d.resnets.%d.norm1.weight", level, i);
            add(name, value);
        }
        if (level == 3) continue;
        snprintf(name, sizeof name, "down_blocks.%d.downsamplers.0.conv.weight", level);
        add(name, value);
    }
    add("conv_in.weight", value);
    add("mid_block.resnets.0.norm1.weight", value);
}

static int setup(void **state) {
    (void)state;
    fixture_make(&f);
    static float values[3][4] = {{0, 0, 0, 0}, {1, 1, 1, 1}, {3, 3, 3, 3}};
    for (int m = 0; m < 3; m++) {
        char name[32];
        count = 0;
        add_original(values[m]);
        snprintf(name, sizeof name, "%c.safetensors", 'a' + m);
        fixture_safetensors(&f, name, tensors, count, NULL);
        count = 0;
        add_diffusers(values[m]);
        snprintf(name, sizeof name, "%cd.safetensors", 'a' + m);
        fixture_safetensors(&f, name, tensors, count, NULL);
    }
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_remove(&f);
    return 0;
}

static float value(const char *file, const char *tensor) {
    ck_reader *r;
    ck_error err;
    float v = -1;
    if (ck_reader_open(fixture_path(&f, file), &r, &err) != CK_OK) fail_msg("%s", err.message);
    const ck_tensor *t = ck_reader_find(r, tensor);
    if (!t) fail_msg("no tensor %s", tensor);
    assert_int_equal(ck_reader_read(r, t, 0, &v, sizeof v, &err), CK_OK);
    ck_reader_close(r);
    return v;
}

#define IN(n)   "model.diffusion_model.input_blocks." #n ".0.in_layers.0.weight"
#define OUT(n)  "model.diffusion_model.output_blocks." #n ".0.in_layers.0.weight"
#define ATTN(n) "model.diffusion_model.output_blocks." #n ".1.attn2.to_k.weight"
#define VAE     "first_stage_model.decoder.up.0.block.0.conv1.weight"
#define CLIP    "cond_stage_model.transformer.text_model.encoder.layers.0.layer_norm1.weight"

static void merge(const char *arguments) {
    program_expect(program_run(f.folder, "ckmerge %s -f -q -o o", arguments), 0, "", NULL);
}

static void expect(const char *tensor, double wanted) {
    float found = value("o", tensor);
    if (found != (float)wanted) fail_msg("%s is %g, not %g", tensor, found, wanted);
}

#define LIST                                                                                       \
    "0.01,0.02,0.03,0.04,0.05,0.06,0.07,0.08,0.09,0.1,0.11,0.12,0.5,"                              \
    "0.21,0.22,0.23,0.24,0.25,0.26,0.27,0.28,0.29,0.3,0.31,0.32"

static void test_list(void **state) {
    (void)state;
    merge("a.safetensors b.safetensors --block-weights " LIST);
    expect(IN(0), 0.01);
    expect(IN(11), 0.12);
    expect("model.diffusion_model.middle_block.0.in_layers.0.weight", 0.5);
    expect(OUT(0), 0.21);
    expect(ATTN(11), 0.32);
    expect(VAE, 0.5); /* alpha's default */
    expect("other.weight", 0.5);
    merge("a.safetensors b.safetensors --alpha 0.9 -b " LIST);
    expect(IN(0), 0.01);
    expect(CLIP, 0.9);
    merge("a.safetensors b.safetensors -b 0.7," LIST);
    expect(IN(0), 0.01);
    expect(CLIP, 0.7);
    merge("a.safetensors b.safetensors --alpha 0.4 -b OUT12"); /* a preset, but alpha was said */
    expect(IN(0), 0);
    expect(OUT(3), 1);
    expect(VAE, 0.4);
}

/* The same tensors by their other names. */
static void test_diffusers(void **state) {
    (void)state;
    merge("ad.safetensors bd.safetensors -b " LIST);
    expect("conv_in.weight", 0.01);
    expect("down_blocks.0.resnets.0.norm1.weight", 0.02);
    expect("down_blocks.0.downsamplers.0.conv.weight", 0.04);
    expect("down_blocks.3.resnets.1.norm1.weight", 0.12);
    expect("mid_block.resnets.0.norm1.weight", 0.5);
    expect("up_blocks.0.resnets.0.norm1.weight", 0.21);
    expect("up_blocks.3.resnets.2.norm1.weight", 0.32);
    /* Elements are named as in the original layout. */
    merge("ad.safetensors bd.safetensors --alpha 0 --elemental 'IN:in_layers.0:0.6'");
    expect("down_blocks.0.resnets.0.norm1.weight", 0.6);
    expect("conv_in.weight", 0);
}

static void test_parameters(void **state) {
    (void)state;
    merge("a.safetensors b.safetensors c.safetensors -m triple-sum --set alpha=0.5 --set beta=0 "
          "-b linear:0,1 -b beta=linear:0.25");
    expect(IN(0), 0.75); /* 0 of b, a quarter of c */
    expect(OUT(11), 1 + 0.75);
    expect(VAE, 0.5);
}

static void test_precedence(void **state) {
    (void)state;
    static const char line[] =
        "a.safetensors b.safetensors -b linear:0.1 --component IN=0.2 --component vae=b "
        "--component clip=a --elemental 'OUT03-OUT05:attn:0.3,OUT04:to_k:0.4,OUT05::0.5' "
        "--rule '*output_blocks.5.1*=0.6' --alpha 0.7";
    merge(line);
    expect(OUT(2), 0.1);
    expect(IN(2), 0.2);
    expect(VAE, 1);
    expect(CLIP, 0);
    expect(OUT(3), 0.1);
    expect(ATTN(3), 0.3);
    expect(ATTN(4), 0.4); /* the later one */
    expect(OUT(5), 0.5);
    expect(ATTN(5), 0.6); /* --rule goes before all */
    expect("other.weight", 0.7);
    /* The recipe that is written says the same. */
    program_expect(program_run(f.folder, "ckmerge %s -f -q -o p --write-recipe r.json", line), 0,
                   "", NULL);
    program_expect(
        program_run(f.folder, "ckmerge --recipe r.json -f -q -o q && cmp p q && cmp o q"), 0, "",
        NULL);
}

static void test_elements(void **state) {
    (void)state;
    merge("a.safetensors b.safetensors --alpha 0 --elemental 'NOT OUT03:NOT attn2 none:0.3\n"
          "OUT03 OUT04: in_layers.0 :0.4, :other:0.9'");
    expect(IN(0), 0.3);
    expect(ATTN(0), 0);
    expect(ATTN(3), 0);
    expect(OUT(3), 0.4);
    expect(OUT(4), 0.4);
    expect("other.weight", 0.9);
}

static void test_recipe(void **state) {
    (void)state;
    static const char text[] =
        "{\"ckmerge_recipe\":1,\"models\":{\"a\":\"a.safetensors\",\"b\":\"b.safetensors\","
        "\"c\":\"c.safetensors\"},"
        "\"merge\":{\"method\":\"linear\",\"inputs\":[\"a\",\"b\","
        "{\"method\":\"scale\",\"id\":\"s\",\"inputs\":[\"c\"],\"scale\":\"$w\"}],"
        "\"normalize\":\"off\",\"weight\":[1,{\"gradient\":[0,1],\"base\":0.25},1]},"
        "\"rules\":[{\"blocks\":\"OUT11\",\"elements\":\"attn2\",\"set\":{\"s.scale\":"
        "{\"preset\":\"ALL_A\",\"blocks\":{\"OUT11\":2}}}},"
        "{\"blocks\":\"vae\",\"exclude\":true}],"
        "\"variables\":{\"w\":{\"weights\":[%s]}}}";
    char recipe[2048];
    int n = snprintf(recipe, sizeof recipe, text, LIST);
    fixture_file(&f, "r.json", recipe, (size_t)n);
    merge("--recipe r.json");
    expect(IN(0), 0.01f * 3);
    expect("model.diffusion_model.middle_block.0.in_layers.0.weight", 0.5 + 0.5 * 3);
    expect(ATTN(11), 1 + 2 * 3);
    expect(VAE, 0);
    merge("--recipe r.json --set w=linear:0");
    expect(OUT(11), 1);
    merge("--recipe r.json --set w=2");
    expect(IN(0), 6);
    /* Flags are for its outermost method; their rules come before its own. */
    merge("--recipe r.json --set w=0 -b weight:b=linear:1,0 --component vae=b");
    expect(IN(1), 1 - 1 / 24.);
    expect(OUT(11), 0);
    expect(VAE, 1);
    program_expect(program_run(f.folder,
                               "ckmerge --recipe r.json -f -q -o p --write-recipe w.json && "
                               "ckmerge --recipe w.json -f -q -o q && cmp p q"),
                   0, "", NULL);
    /* A preset of one's own lies beside the recipe. */
    static const char preset[] = "{\"ckmerge_preset\":1,\"gradient\":[0.5],\"base\":1}";
    static const char with[] = "{\"ckmerge_recipe\":1,\"models\":{\"a\":\"a.safetensors\",\"b\":"
                               "\"b.safetensors\"},\"merge\":{\"method\":\"weighted-sum\","
                               "\"inputs\":[\"a\",\"b\"],\"alpha\":{\"preset\":\"mine.json\"}}}";
    fixture_file(&f, "mine.json", preset, sizeof preset - 1);
    fixture_file(&f, "p.json", with, sizeof with - 1);
    program_expect(program_run(f.folder, "p=\"$PWD\" && cd / && ckmerge --recipe \"$p\"/p.json -f "
                                         "-q -o \"$p\"/o"),
                   0, "", NULL);
    expect(IN(0), 0.5);
    expect(VAE, 1);
}

static void test_dry_run(void **state) {
    (void)state;
    program_expect(program_run(f.folder, "ckmerge a.safetensors b.safetensors -n -b " LIST
                                         " --elemental 'OUT03:attn2:0.75'"),
                   0, ATTN(3) " alpha=0.75 (rule OUT03:attn2)", NULL);
    program_expect(program_run(f.folder, "ckmerge a.safetensors b.safetensors -n -b " LIST), 0,
                   ATTN(3) " alpha=0.24\n", NULL);
}

static void test_explain(void **state) {
    (void)state;
    static const char line[] = "ckmerge explain a.safetensors b.safetensors --alpha 0.5 -b " LIST
                               " --component vae=b --component clip=a --elemental "
                               "'OUT03:attn2:0.75' --rule '*out*blocks.4.*=drop'";
    program_expect(program_run(f.folder, "%s", line), 0, "result weighted-sum(a, b)\n", NULL);
    program_expect(program_run(f.folder, "%s", line), 0,
                   "\nIN00                  1    2.50%        0.01  ▏           mixed\n", NULL);
    program_expect(program_run(f.folder, "%s", line), 0,
                   "\nOUT03                 2    5.00%  0.24..0.75  █████       mixed\n", NULL);
    program_expect(program_run(f.folder, "%s", line), 0,
                   "\nOUT04                 2    5.00%           -              dropped\n", NULL);
    program_expect(program_run(f.folder, "%s", line), 0,
                   "\nvae                   1    2.50%           -              b's\n", NULL);
    /* Without blocks in the recipe, too, and from a recipe. */
    program_expect(program_run(f.folder, "ckmerge explain a.safetensors b.safetensors --alpha 0"),
                   0, "\nM00                   1    2.50%      0              a's\n", NULL);
    static const char recipe[] =
        "{\"ckmerge_recipe\":1,\"models\":{\"a\":\"a.safetensors\",\"b\":"
        "\"b.safetensors\"},\"merge\":{\"method\":\"linear\",\"inputs\":[\"a\",\"b\"],"
        "\"weight\":[1,{\"gradient\":[0,1]}]}}";
    fixture_file(&f, "e.json", recipe, sizeof recipe - 1);
    outcome *o = program_run(f.folder, "ckmerge explain e.json --json");
    program_expect(o, 0, NULL, NULL);
    cJSON *json = cJSON_Parse(o->out), *blocks = cJSON_GetObjectItem(json, "blocks");
    assert_int_equal(cJSON_GetArraySize(blocks), 25 + 3);
    cJSON *middle = cJSON_GetArrayItem(blocks, 12);
    assert_string_equal(cJSON_GetObjectItem(middle, "name")->valuestring, "M00");
    cJSON *weight = cJSON_GetObjectItem(cJSON_GetObjectItem(middle, "parameters"), "weight b");
    assert_true(cJSON_GetObjectItem(weight, "min")->valuedouble == 0.5);
    assert_int_equal(
        cJSON_GetObjectItem(cJSON_GetObjectItem(middle, "outcomes"), "mixed")->valueint, 1);
    cJSON_Delete(json);
}

static size_t count_of(const char *text, const char *what) {
    size_t n = 0;
    for (; (text = strstr(text, what)); text++) n++;
    return n;
}

static void test_svg(void **state) {
    (void)state;
    static const char line[] = "ckmerge explain a.safetensors b.safetensors c.safetensors -m "
                               "triple-sum -b linear:0,1 -b beta=linear:-1 --component vae=b "
                               "--svg e.svg";
    program_expect(program_run(f.folder, "%s -q", line), 0, "", NULL);
    program_expect(program_run(f.folder, "%s", line), 2, NULL, "e.svg exists; --force");
    size_t n;
    char *svg = (char *)fixture_read(fixture_path(&f, "e.svg"), &n);
    char *text = strndup(svg, n);
    free(svg);
    assert_non_null(strstr(text, ">triple-sum(a, b, c)</text>"));
    assert_int_equal(count_of(text, "class='b'"), 2 * 25); /* bars of two panels */
    assert_int_equal(count_of(text, "class='o'"), 2 * 2);  /* clip_l, other */
    assert_int_equal(count_of(text, "class='e'"), 2);      /* the VAE is not mixed */
    assert_int_equal(count_of(text, "class='d'"), 1);      /* IN00's alpha is 0 */
    assert_non_null(strstr(text, "<title>OUT11: 1; 2 mixed</title>"));
    assert_int_equal(count_of(text, "<text"), count_of(text, "</text>"));
    assert_string_equal(text + n - 7, "</svg>\n");
    free(text);
    program_expect(program_run(f.folder, "ckmerge a.safetensors b.safetensors --svg x.svg -o x"), 2,
                   NULL, "--svg is for `ckmerge explain`");
}

/* supermerger's numbers for SD1, worked out by hand. */
static void test_adjust(void **state) {
    (void)state;
    static float ones[4] = {1, 1, 1, 1};
    count = 0;
    add_original(ones);
    add("model.diffusion_model.input_blocks.0.0.weight", ones);
    add("model.diffusion_model.input_blocks.0.0.bias", ones);
    add("model.diffusion_model.out.0.weight", ones);
    add("model.diffusion_model.out.0.bias", ones);
    add("model.diffusion_model.out.2.weight", ones);
    add("model.diffusion_model.out.2.bias", ones);
    fixture_safetensors(&f, "x.safetensors", tensors, count, NULL);
    merge("x.safetensors --adjust 1,2,-3,4,0.5,1,2,3");
    expect("model.diffusion_model.input_blocks.0.0.weight", 0.99);
    expect("model.diffusion_model.input_blocks.0.0.bias", 1.02);
    expect("model.diffusion_model.out.0.weight", 0.98);
    expect("model.diffusion_model.out.0.bias", 1.04);
    expect("model.diffusion_model.out.2.weight", 1.03);
    expect(IN(0), 1);
    expect(VAE, 1);
    /* 0.5 [-1,1/3,2/3] + 1 [1,1,0] + 2 [0,-1,-1] + 3 [1,0,1] = [3.5, -5/6, 4/3] */
    static const double added[4] = {0.08, 0.07, -0.02 * 5 / 6, 0.02 * 4 / 3};
    ck_reader *r;
    ck_error err;
    float bias[4];
    assert_int_equal(ck_reader_open(fixture_path(&f, "o"), &r, &err), CK_OK);
    const ck_tensor *t = ck_reader_find(r, "model.diffusion_model.out.2.bias");
    assert_int_equal(ck_reader_read(r, t, 0, bias, sizeof bias, &err), CK_OK);
    ck_reader_close(r);
    for (int i = 0; i < 4; i++)
        if (bias[i] - 1 > added[i] + 1e-7 || bias[i] - 1 < added[i] - 1e-7)
            fail_msg("%d: %g", i, bias[i]);
    /* On top of a merge, whose rules still reach it. */
    program_expect(program_run(f.folder, "ckmerge x.safetensors a.safetensors --adjust "
                                         "1,0,0,0,0,0,0,0 --alpha 1 --rule '*input_blocks.3.*=0' "
                                         "-f -q -o o --write-recipe j.json && ckmerge --recipe "
                                         "j.json -f -q -o p && cmp o p"),
                   0, NULL, NULL);
    expect(IN(3), 1);
    expect(IN(4), 0);
    expect("model.diffusion_model.input_blocks.0.0.weight", 0.99);
    merge("--recipe j.json --adjust 1,0,0,0,0,0,0,0"); /* once more */
    expect("model.diffusion_model.input_blocks.0.0.weight", 0.99f * 0.99f);
    const fixture_tensor v = {.name = "decoder.up.0.block.0.conv1.weight",
                              .dtype = CK_F32,
                              .shape = {4},
                              .rank = 1,
                              .data = ones};
    fixture_safetensors(&f, "v.safetensors", &v, 1, NULL);
    static const char *const lines[][2] = {
        {"x.safetensors --adjust 1,2", "must be eight numbers"},
        {"x.safetensors --adjust 1,2,3,4,5,6,7,8,9", "must be eight numbers"},
        {"x.safetensors --adjust 1,2,3,4,5,6,7,8 --set a=1", "nothing here that has parameters"},
        {"x.safetensors --adjust 1,2,3,4,5,6,7,8 -b linear", "no parameter here for block weights"},
        {"v.safetensors --adjust 1,2,3,4,5,6,7,8", "is for the UNet of SD1, SD2 and SDXL"},
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        program_expect(program_run(f.folder, "ckmerge %s -o none", lines[i][0]), 2, NULL,
                       lines[i][1]);
}

/* A LoRA that adds 1 to a few layers, by block. */
static void test_lora(void **state) {
    (void)state;
    static const float ones[4] = {1, 1, 1, 1};
    static const char *const layers[] = {
        "lora_unet_input_blocks_0_0_in_layers_0.diff",
        "lora_unet_input_blocks_1_0_in_layers_0.diff",
        "lora_unet_output_blocks_3_0_in_layers_0.diff",
        "lora_unet_output_blocks_11_0_in_layers_0.diff",
        "lora_te_text_model_encoder_layers_0_layer_norm1.diff",
    };
    fixture_tensor t[5];
    for (size_t i = 0; i < 5; i++)
        t[i] = (fixture_tensor){
            .name = layers[i], .dtype = CK_F32, .shape = {4}, .rank = 1, .data = ones};
    fixture_safetensors(&f, "l.safetensors", t, 5, NULL);
    /* BASE, IN01, IN02, IN04, IN05, IN07, IN08, MID, OUT03, ... OUT11; the others are 0 */
    merge("b.safetensors --lora l.safetensors:0.5:lbw=0.1,0.2,0,0,0,0,0,0,0.3,0,0,0,0,0,0,0,-0.4");
    expect(IN(0), 1);
    expect(IN(1), 1 + 0.1);
    expect(IN(2), 1);
    expect(OUT(3), 1 + 0.15);
    expect(OUT(11), 1 - 0.2);
    expect(CLIP, 1 + 0.05);
    /* A curve leaves BASE at the strength; beside a merge, with two LoRAs. */
    merge("a.safetensors b.safetensors --alpha 0.25 --lora l.safetensors:2:lbw=linear:0,1 --lora "
          "l.safetensors");
    expect(IN(0), 0.25 + 1);
    expect(OUT(11), 0.25 + 2 + 1);
    expect(CLIP, 0.25 + 2 + 1);
    program_expect(
        program_run(f.folder, "ckmerge explain b.safetensors --lora l.safetensors:0.5:lbw=OUT12"),
        0, "0.5  █████       1 mixed, 1 kept: not changed", NULL);
    program_expect(program_run(f.folder, "ckmerge b.safetensors -o none --lora "
                                         "l.safetensors:0.5:lbw=1,2"),
                   2, NULL, "strength: 2 block weights given, but b.safetensors has 25 blocks");
    program_expect(program_run(f.folder, "ckmerge b.safetensors -o none --lora "
                                         "l.safetensors:0.5:lbw=none"),
                   2, NULL, "there is no preset 'none'");
}

/* One model's weights; and rules that name nothing, which is said. */
static void test_model_weights(void **state) {
    (void)state;
    merge("a.safetensors b.safetensors c.safetensors -m linear --normalize off --weight 1,1,0.5 "
          "-b weight:b=linear:0,1");
    expect(IN(0), 0.5 * 3);
    expect(IN(11), 11. / 24 + 0.5 * 3);
    expect(OUT(11), 1 + 0.5 * 3);
    merge("b.safetensors c.safetensors --base a.safetensors -m task-arithmetic -b "
          "weight:b=linear:0,1");
    expect(IN(0), 1);
    expect(OUT(11), 1 + 3);
    program_expect(program_run(f.folder, "ckmerge a.safetensors b.safetensors -f -o o --rule "
                                         "'*atn*=0' --rule '*=1' --rule 'first*=1' --elemental "
                                         "IN01:nothing:0.5 >log"),
                   0, "", "no tensor fits the rules '*atn*', 'IN01:nothing'\n");
}

static void test_usage(void **state) {
    (void)state;
    static const char *const lines[][2] = {
        {"a.safetensors b.safetensors -b 1,2,3",
         "alpha: 3 block weights given, but a.safetensors has 25 blocks: IN00-IN11, M00, "
         "OUT00-OUT11; give 25 numbers, or 26"},
        {"a.safetensors b.safetensors -b beta=linear", "no parameter 'beta'"},
        {"a.safetensors b.safetensors -b none", "--block-weights: there is no preset 'none'"},
        {"a.safetensors b.safetensors -m linear -b linear",
         "weight of linear has a number for each"},
        {"a.safetensors b.safetensors --component vea=b", "there is no block 'vea'"},
        {"a.safetensors b.safetensors --component vae=z", "--component 'vae=z': 'z' is not"},
        {"a.safetensors b.safetensors --component vae", "must be NAME=NUMBER"},
        {"a.safetensors b.safetensors --elemental IN00:0.5", "must be BLOCKS:ELEMENTS:NUMBER"},
        {"a.safetensors b.safetensors --elemental IN12::0.5", "no block 'IN12'"},
        {"a.safetensors b.safetensors --elemental IN00::x", "'x' is no number"},
        {"a.safetensors b.safetensors -m linear -b weight:z=linear", "has no input 'z'"},
        {"a.safetensors b.safetensors -b alpha:b=linear", "alpha has one number for all models"},
        {"a.safetensors --base b.safetensors -m ties -b weight:base=linear", "no input 'base'"},
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        program_expect(program_run(f.folder, "ckmerge %s -o none", lines[i][0]), 2, NULL,
                       lines[i][1]);
    program_expect(program_run(f.folder, "ckmerge presets"), 0, "GRAD_V               ██▇", NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_list),          cmocka_unit_test(test_diffusers),
        cmocka_unit_test(test_parameters),    cmocka_unit_test(test_precedence),
        cmocka_unit_test(test_elements),      cmocka_unit_test(test_recipe),
        cmocka_unit_test(test_model_weights), cmocka_unit_test(test_dry_run),
        cmocka_unit_test(test_usage),         cmocka_unit_test(test_explain),
        cmocka_unit_test(test_svg),           cmocka_unit_test(test_adjust),
        cmocka_unit_test(test_lora),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
