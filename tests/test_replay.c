/* Merges made again from what the merged file says: the same bytes from renamed models, the web
 * UIs' recipes, and what is refused. */
#include "io/hash.h"
#include "tests/check.h"
#include "tests/fixture.h"
#include "tests/program.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static fixture f;
static char hashes[3][CK_SHA256_HEX];

/* m/a.st, m/b.st, m/c.st: the blocks of a UNet and a VAE. */
static int setup(void **state) {
    (void)state;
    fixture_make(&f);
    program_expect(program_run(f.folder, "mkdir m"), 0, NULL, NULL);
    static const char *const names[] = {"model.diffusion_model.time_embed.0.w",
                                        "model.diffusion_model.input_blocks.0.w",
                                        "model.diffusion_model.input_blocks.11.w",
                                        "model.diffusion_model.middle_block.0.w",
                                        "model.diffusion_model.output_blocks.11.w",
                                        "model.diffusion_model.out.0.w",
                                        "first_stage_model.w",
                                        "model_ema.w"};
    static float values[8][100];
    for (int m = 0; m < 3; m++) {
        fixture_tensor t[8];
        char name[40];
        for (int i = 0; i < 8; i++) {
            uint64_t seed = (uint64_t)(i + 10 * m + 1);
            for (int e = 0; e < 100; e++) values[i][e] = fixture_random_float(&seed);
            t[i] = (fixture_tensor){
                .name = names[i], .dtype = CK_F32, .shape = {100}, .rank = 1, .data = values[i]};
        }
        snprintf(name, sizeof name, "m/%c.safetensors", 'a' + m);
        const char *path = fixture_safetensors(&f, name, t, 8, m ? NULL : "{\"author\":\"me\"}");
        ck_file_hashes h;
        ck_error err;
        assert_int_equal(ck_hash_file(path, &h, NULL, NULL, &err), CK_OK);
        strcpy(hashes[m], h.sha256);
    }
    setenv("XDG_CACHE_HOME", fixture_path(&f, "cache"), 1);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_remove(&f);
    return 0;
}

/* Every kind of our recipes gives the same bytes again, wherever the models went. */
static void test_ours(void **state) {
    (void)state;
    program_expect(
        program_run(f.folder, "ckmerge m/[abc].safetensors -m add-difference -a 0.7 --rule "
                              "'first*=exclude' --dtype f16 --hash-models -o one -q && mkdir -p "
                              "n/deep && mv m/b.safetensors n/deep/other.ckpt && cp "
                              "m/a.safetensors n/b.safetensors && ckmerge --replay one --model-dir "
                              "m --model-dir n && cmp one one-replay.safetensors && mv "
                              "n/deep/other.ckpt m/b.safetensors"),
        0, "in one-replay.safetensors", "");
    program_expect(program_run(f.folder, "ckmerge m/a.safetensors m/b.safetensors -o two -q && "
                                         "ckmerge --replay two --model-dir m -o again -q && cmp "
                                         "two again"),
                   0, "", "");
    /* Without hashes the name alone is known of files of less than 1 MiB, which is said. */
    program_expect(program_run(f.folder, "ckmerge --replay two --model-dir m -o again -f"), 0, NULL,
                   "a.safetensors was taken for 'a.safetensors' by name or legacy hash");
    program_expect(program_run(f.folder, "mv m/a.safetensors m/z.safetensors; ckmerge --replay two "
                                         "--model-dir m -o again -f; e=$?; "
                                         "mv m/z.safetensors m/a.safetensors; exit $e"),
                   1, NULL, "none of 3 model files in --model-dir is 'a.safetensors'");
    /* Of a merge of merges the last one. */
    program_expect(program_run(f.folder, "cp two m/two.safetensors; ckmerge m/two.safetensors "
                                         "m/c.safetensors -a 0.1 -o three -q && ckmerge --replay "
                                         "three --model-dir m -o again -f -q && cmp three again"),
                   0, "", "");
    program_expect(program_run(f.folder, "rm m/c.safetensors; ckmerge --replay one --model-dir m "
                                         "-o none"),
                   1, NULL, "none of 3 model files in --model-dir is 'c.safetensors'");
    assert_int_not_equal(access(fixture_path(&f, "none"), F_OK), 0);
}

/* A file that says this of itself. */
static void say(const char *key, const char *recipe, const char *models) {
    char metadata[4000], text[1500];
    size_t n = 0;
    for (const char *c = recipe; *c; c++) {
        if (*c == '"' || *c == '\\' || *c == '\n') text[n++] = '\\';
        text[n++] = *c == '\n' ? 'n' : *c;
    }
    text[n] = 0;
    snprintf(metadata, sizeof metadata, "{\"%s\":\"%s\",\"sd_merge_models\":\"%s\"}", key, text,
             models);
    static const float value = 1;
    const fixture_tensor t = {
        .name = "w", .dtype = CK_F32, .shape = {1}, .rank = 1, .data = &value};
    fixture_safetensors(&f, "merged", &t, 1, metadata);
}

static const char *webui(const char *method, const char *more) {
    static char text[1000];
    snprintf(text, sizeof text,
             "{\"type\": \"webui\", \"primary_model_hash\": \"%s\", \"secondary_model_hash\": "
             "\"%s\", \"tertiary_model_hash\": \"%s\", \"interp_method\": \"%s\", \"multiplier\": "
             "0.3, \"save_as_half\": %s, \"custom_name\": \"\", \"config_source\": 0%s}",
             hashes[0], hashes[1], hashes[2], method, more[0] == 'H' ? "true" : "false",
             more + (more[0] == 'H'));
    return text;
}

static void test_webui(void **state) {
    (void)state;
    static const struct {
        const char *method, *more, *same;
    } cases[] = {
        {"Weighted sum", "", "m/[ab].safetensors --alpha 0.3"},
        {"Weighted sum", "H", "m/[ab].safetensors --alpha 0.3 --dtype f16"},
        {"Add difference", ", \"is_inpainting\": true",
         "m/[abc].safetensors -m add-difference --alpha 0.3 --shape inpaint"},
        {"Weighted sum", ", \"bake_in_vae\": \"None\", \"discard_weights\": \"model_ema.*|^first\"",
         "m/[ab].safetensors --alpha 0.3 --rule 'first_stage_model.w=drop' --rule "
         "'model_ema.w=drop'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        say("sd_merge_recipe", webui(cases[i].method, cases[i].more), "{}");
        program_expect(program_run(f.folder,
                                   "ckmerge --replay merged --model-dir m -o again -f -q "
                                   "&& ckmerge %s --compat a1111 -o plain -f -q && cmp again plain",
                                   cases[i].same),
                       0, "", "");
    }
    say("sd_merge_recipe", webui("No interpolation", ""), "not JSON");
    program_expect(
        program_run(f.folder, "ckmerge --replay merged --model-dir m -n | grep -c mixed"), 0, "9\n",
        "");
}

/* What was hashed is not hashed again while path, size and time are the same. */
static void test_cache(void **state) {
    (void)state;
    say("sd_merge_recipe", webui("Weighted sum", ""), "{}");
    program_expect(program_run(f.folder,
                               "ckmerge --replay merged --model-dir m -n >/dev/null && grep -c "
                               "sha256 cache/ckmerge/hashes.json"),
                   0, "2\n", NULL);
    program_expect(program_run(f.folder,
                               "cp -p m/b.safetensors b; printf x | dd of=m/b.safetensors "
                               "bs=1 seek=900 conv=notrunc status=none; touch -r b "
                               "m/b.safetensors; ckmerge --replay merged --model-dir m "
                               "-o again -q"),
                   0, NULL, NULL);
    program_expect(program_run(f.folder, "touch m/b.safetensors; ckmerge --replay merged "
                                         "--model-dir m -o other -q"),
                   1, NULL, "none of 3 model files");
    /* A damaged cache is none. */
    program_expect(program_run(f.folder, "cp b m/b.safetensors; echo '{' > "
                                         "cache/ckmerge/hashes.json; ckmerge --replay merged "
                                         "--model-dir m -o other -q && head -c 1 "
                                         "cache/ckmerge/hashes.json"),
                   0, "{", NULL);
}

static const char *supermerger(const char *mode, const char *more) {
    static char text[1400];
    snprintf(text, sizeof text,
             "{\"type\":\"sd-webui-supermerger\",\"weights_alpha\":null,\"weights_beta\":null,"
             "\"model_a\":\"%.10s\",\"model_b\":\"%s\",\"model_c\":\"%s\",\"base_alpha\":0.25,"
             "\"base_beta\":0.5,\"mode\":\"%s\",\"Off\":[]%s}",
             hashes[0], hashes[1], hashes[2], mode, more);
    return text;
}

static void test_supermerger(void **state) {
    (void)state;
    say("sd_merge_recipe", supermerger("Triple sum:A*(1-alpha-beta)+B*alpha+C*beta", ""), "{}");
    program_expect(program_run(f.folder,
                               "ckmerge --replay merged --model-dir m -o again -q && "
                               "ckmerge m/[abc].safetensors -m triple-sum --set "
                               "alpha=0.25 --set beta=0.5 -o plain -q && cmp again plain"),
                   0, "", "");
    char text[1400];
    snprintf(
        text, sizeof text,
        "{\"type\":\"sd-webui-supermerger\",\"weights_alpha\":\"0.01,0.02,0.03,0.04,0.05,0.06,"
        "0.07,0.08,0.09,0.1,0.11,0.12,0.13,0.14,0.15,0.16,0.17,0.18,0.19,0.2,0.21,0.22,0.23,"
        "0.24,0.26\",\"model_a\":\"%s\",\"model_b\":\"%s\",\"base_alpha\":0.5,\"mode\":\"Weight "
        "sum:A*(1-alpha)+B*alpha\",\"mbw\":true,\"calcmode\":\"normal\"}",
        hashes[0], hashes[1]);
    say("sd_merge_recipe", text, "{}");
    static const char *const lines[] = {
        "time_embed.0.w alpha=0.01 ",     "input_blocks.0.w alpha=0.01 ",
        "input_blocks.11.w alpha=0.12 ",  "middle_block.0.w alpha=0.13 ",
        "output_blocks.11.w alpha=0.26 ", "diffusion_model.out.0.w alpha=0.26 ",
        "first_stage_model.w alpha=0.5\n"};
    outcome *o = program_run(f.folder, "ckmerge --replay merged --model-dir m -n");
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) program_expect(o, 0, lines[i], NULL);
}

static void test_mecha(void **state) {
    (void)state;
    say("mecha_recipe",
        "version 0.1.0\nmodel \"/gone/a.safetensors\" model_config=\"sd1-ldm\"\nmodel "
        "\"b.safetensors\"\nmerge \"n_average\" &0 &1",
        "{}");
    program_expect(program_run(f.folder, "ckmerge --replay merged --model-dir m -o again -q && "
                                         "ckmerge m/[ab].safetensors -m n-average -o plain -q && "
                                         "cmp again plain"),
                   0, "", "");
}

static void test_refused(void **state) {
    (void)state;
    const struct {
        const char *recipe, *message;
    } cases[] = {
        {"{", "sd_merge_recipe:1:"},
        {"{}", "a recipe of type '' is not known here"},
        {"{\"type\":\"x\"}", "a recipe of type 'x' is not known here"},
        {"{\"type\":\"webui\",\"models\":1}", "unknown field"},
        {"{\"type\":\"webui\",\"interp_method\":\"Weighted sum\",\"primary_model_hash\":null}",
         "\"primary_model_hash\" must be a hash"},
        {"{\"type\":\"webui\",\"interp_method\":\"Cosine\"}", "'Cosine' is not known here"},
        {"{\"type\":\"webui\",\"bake_in_vae\":\"x.vae.pt\"}",
         "'x.vae.pt': a VAE that was baked in"},
        {"{\"type\":\"webui\",\"save_as_half\":1}", "save_as_half"},
        {"{\"type\":\"sd-webui-supermerger\",\"mode\":\"x\"}", "\"mode\" 'x' is not known"},
        {"{\"type\":\"sd-webui-supermerger\",\"calcmode\":\"cosineA\"}", "'cosineA': only the"},
        {"{\"type\":\"sd-webui-supermerger\",\"elemental_merge\":\"x\"}", "elemental weights"},
        {"{\"type\":\"sd-webui-supermerger\",\"Include\":[\"x\"]}", "a choice of tensors"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        say("sd_merge_recipe", cases[i].recipe, "{}");
        program_expect(program_run(f.folder, "ckmerge --replay merged --model-dir m -o no"), 1,
                       NULL, cases[i].message);
    }
    static const char *const wrong[] = {", \"discard_weights\": \"(\"",
                                        ", \"discard_weights\": \"a(?:b)\"",
                                        ", \"discard_weights\": \"\\\\d\""};
    static const char *const messages[] = {"is no regular expression", "that only Python knows",
                                           "that only Python knows"};
    for (int i = 0; i < 3; i++) {
        say("sd_merge_recipe", webui("Weighted sum", wrong[i]), "{}");
        program_expect(program_run(f.folder, "ckmerge --replay merged --model-dir m -o no"), 1,
                       NULL, messages[i]);
    }
    say("sd_merge_recipe", supermerger("Weight sum", ",\"mbw\":true"), "{}");
    program_expect(program_run(f.folder, "ckmerge --replay merged --model-dir m -o no"), 1, NULL,
                   "\"weights_alpha\" must be 19, 20, 25 or 26 numbers");
    say("ckmerge_recipe",
        "{\"ckmerge_recipe\":1,\"models\":{\"a\":\"gone\"},\"merge\":{\"method\":\"scale\","
        "\"inputs\":"
        "[\"a\"]}}",
        "{}");
    program_expect(program_run(f.folder, "ckmerge --replay merged --model-dir m -o no"), 1, NULL,
                   "a folder 'gone', which is one of the models, is neither in --model-dir");
    say("nothing", "{}", "{}");
    program_expect(program_run(f.folder, "ckmerge --replay merged --model-dir m -o no"), 1, NULL,
                   "says nothing of how it was merged");
    program_expect(program_run(f.folder, "ckmerge --replay merged --model-dir none -o no"), 1, NULL,
                   "none: cannot be listed");
    program_expect(program_run(f.folder, "ckmerge --replay merged --set a=1"), 2, NULL,
                   "do not go with --replay");
    program_expect(program_run(f.folder, "ckmerge --replay merged m/a.safetensors"), 2, NULL,
                   "a recipe names its models itself");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_ours, setup, teardown),
        cmocka_unit_test_setup_teardown(test_webui, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cache, setup, teardown),
        cmocka_unit_test_setup_teardown(test_supermerger, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mecha, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
