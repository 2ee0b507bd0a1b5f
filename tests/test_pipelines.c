/* Tiny SD3 and FLUX folders through `ckdistill sample`, against diffusers' pipelines. See
 * tests/interop/make_pipelines.py. */
#include "tests/ok.h"
#include "tests/program.h"

#include "distill/engine/params.h"
#include "io/os.h"
#include "io/writer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DATA "tests/data/pipelines/"

/* ---- Whole models ---- */

static float *latents(const char *path, ck_params **p) {
    size_t index;
    ok(ck_params_open(path, "", p, &err));
    ok(ck_params_need(*p, "latents", 4, (int64_t[]){2, 8, 12, 4}, &index, &err));
    return ck_params_data(*p, index);
}

/* Text encoders, four steps of the transformer, guidance: f32 sums in another order. */
static void check_model(const char *name) {
    char folder[] = "/tmp/ck_pipelines.XXXXXX", path[256];
    ck_params *ours, *theirs;
    assert_non_null(mkdtemp(folder));
    outcome *o =
        program_run(".",
                    "ckdistill sample --model " DATA "%s --prompt 'a photo of a cat' --negative "
                    "'bad, 8k' --steps 4 --cfg 5 --size 24x16 -n 2 -q --latents-in " DATA
                    "%s/noise.safetensors --latents-out %s/latents.safetensors -o %s/grid.png",
                    name, name, folder, folder);
    program_expect(o, 0, NULL, NULL);
    snprintf(path, sizeof path, "%s/latents.safetensors", folder);
    float *got = latents(path, &ours);
    snprintf(path, sizeof path, DATA "%s/latents.safetensors", name);
    float *want = latents(path, &theirs);
    float off = 0;
    for (size_t i = 0; i < 768; i++) off = fmaxf(off, fabsf(got[i] - want[i]));
    if (!(off < 1e-4f)) print_error("%s is off by %g\n", name, (double)off);
    assert_true(off < 1e-4f);
    snprintf(path, sizeof path, "%s/grid.png", folder);
    assert_int_equal(access(path, F_OK), 0);
    ck_params_free(ours), ck_params_free(theirs);
    snprintf(path, sizeof path, "rm -rf %s", folder);
    assert_int_equal(system(path), 0);
}

static void test_sd3(void **state) {
    (void)state;
    check_model("sd3");
}

static void test_flux(void **state) {
    (void)state;
    check_model("flux");
}

/* A recorded run's noise as a file of latents. */
static void write_noise(const char *path, const ck_reader *r) {
    static const char head[] =
        "{\"latents\":{\"dtype\":\"F32\",\"shape\":[1,4,16,16],\"data_offsets\":[0,4096]}}";
    char file[8 + sizeof head - 1 + 4096] = {0};
    file[0] = (char)(sizeof head - 1);
    memcpy(file + 8, head, sizeof head - 1);
    const ck_tensor *t = ck_reader_find(r, "noise");
    assert_int_equal(t->nbytes, 4096);
    ok(ck_reader_read(r, t, 0, file + 8 + sizeof head - 1, 4096, &err));
    ok(ck_write_file(path, file, sizeof file, true, &err));
}

/* Ten steps of diffusers' pipeline: settings of the scheduler come from the command line. */
static void check_flags(const char *recorded, const char *flags) {
    char folder[] = "/tmp/ck_pipelines.XXXXXX", path[256];
    ck_reader *r, *out;
    float want[1024], got[1024];
    assert_non_null(mkdtemp(folder));
    ok(ck_reader_open(recorded, &r, &err));
    snprintf(path, sizeof path, "%s/noise.safetensors", folder);
    write_noise(path, r);
    outcome *o = program_run(".",
                             "ckdistill sample --model tests/data/models/base --prompt '%s' "
                             "--steps 10 --cfg 3 --size 32x32 -q --latents-in %s/noise.safetensors "
                             "--latents-out %s/latents.safetensors -o %s/picture.png %s",
                             ck_reader_meta(r, "prompt"), folder, folder, folder, flags);
    program_expect(o, 0, NULL, NULL);
    snprintf(path, sizeof path, "%s/latents.safetensors", folder);
    ok(ck_reader_open(path, &out, &err));
    ok(ck_reader_read(out, ck_reader_find(out, "latents"), 0, got, sizeof got, &err));
    ok(ck_reader_read(r, ck_reader_find(r, "trajectory"), 10 * sizeof want, want, sizeof want,
                      &err));
    for (size_t i = 0; i < 1024; i++) assert_true(fabsf(got[i] - want[i]) < 1e-4f);
    /* How it was made, in the picture. */
    char *png;
    size_t n;
    snprintf(path, sizeof path, "%s/picture.png", folder);
    ok(ck_read_file(path, 1 << 20, &png, &n, &err));
    assert_non_null(memmem(png, n, "parameters", 10));
    assert_non_null(memmem(png, n, "Steps: 10, Sampler: ", 20));
    free(png);
    ck_reader_close(r), ck_reader_close(out);
    snprintf(path, sizeof path, "rm -rf %s", folder);
    assert_int_equal(system(path), 0);
}

static void test_flags(void **state) {
    (void)state;
    check_flags("tests/data/parity/sample_ddim10_trailing.safetensors",
                "--sampler ddim --spacing trailing");
    check_flags("tests/data/parity/sample_dpmpp2m_karras10.safetensors",
                "--sampler dpmpp_2m --spacing linspace --karras");
}

/* The first numbers of a part's weights, or all (SIZE_MAX), become this one. */
static void check_broken(const char *part, const char *option, size_t numbers, float value,
                         int steps, const char *says) {
    char folder[] = "/tmp/ck_pipelines.XXXXXX", path[256], *file;
    size_t n;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, DATA "sd3/%s", part);
    ok(ck_read_file(path, 1 << 20, &file, &n, &err));
    uint64_t head;
    memcpy(&head, file, sizeof head);
    for (size_t i = 0; i < numbers && 8 + head + (i + 1) * sizeof value <= n; i++)
        memcpy(file + 8 + head + i * sizeof value, &value, sizeof value);
    snprintf(path, sizeof path, "%s/broken.safetensors", folder);
    ok(ck_write_file(path, file, n, true, &err));
    free(file);
    outcome *o = program_run(".",
                             "ckdistill sample --model " DATA "sd3 --prompt x --steps %d --size "
                             "16x16 -o %s/x.png --%s %s",
                             steps, folder, option, path);
    program_expect(o, 1, NULL, says);
    if (isnan(value)) assert_non_null(strstr(o->err, "broken.safetensors: tensor"));
    snprintf(path, sizeof path, "rm -rf %s", folder);
    assert_int_equal(system(path), 0);
}

static void test_broken(void **state) {
    (void)state;
    static const char says[] = "not a number";
    static const char transformer[] = "transformer/diffusion_pytorch_model.safetensors";
    /* Before the first of a thousand steps. */
    check_broken("vae/diffusion_pytorch_model.safetensors", "vae", 1, NAN, 1000, says);
    check_broken(transformer, "unet", 1, NAN, 1000, says);
    check_broken("text_encoder_3/model.safetensors", "t5", 1, NAN, 1000, says);
    /* A number, of which none can be made. */
    check_broken(transformer, "unet", SIZE_MAX, 3e38f, 2,
                 "after 2 steps the latents are not numbers");
}

/* Settings that make no sense are refused before the first of many steps. */
static void test_settings(void **state) {
    (void)state;
    static const struct {
        const char *options;
        int status;
        const char *says;
    } cases[] = {
        {"--size -8x8", 2, "--size -8x8: write it as 512x512"},
        {"--size 99999999999x8", 2, "write it as 512x512"},
        {"--size 15x16", 2, "size 15x16: this model needs multiples of 4"},
        {"--count 4097", 2, "--count must be 1 to 4096"},
        {"--steps 0", 2, "--steps must be at least 1"},
        {"cat", 2, "1 operand given"},
        {"-o /no/such/folder/x.png", 1, "/no/such/folder/x.png: cannot create a file there"},
        {"--latents-out /no/such/x", 1, "/no/such/x: cannot create a file there"},
        {"-o tests", 2, "tests: is a folder"},
        {"-m /no/such/model", 1, "/no/such/model: there is no such folder or file"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        program_expect(program_run(".",
                                   "ckdistill sample --model " DATA "sd3 -p a --steps 1000 "
                                   "-fo /tmp/ck_settings.png %s",
                                   cases[i].options),
                       cases[i].status, NULL, cases[i].says);
    assert_int_equal(access("/tmp/ck_settings.png", F_OK), -1);
    program_expect(program_run(".", "ckdistill info --model " DATA "sd3 cat"), 2, NULL,
                   "1 operand given");
    program_expect(program_run(".", "ckdistill methods cat"), 2, NULL, "1 operand given");
}

/* What does not fit is refused with numbers, not begun. */
static void test_too_much(void **state) {
    (void)state;
    static const struct {
        const char *options, *says;
    } cases[] = {
        {"--size 65536x65536", "are free"},
        {"--count 4096 --size 16384x16384", "4096 pictures of 16384x16384 take"},
        {"--unet no.safetensors", "no.safetensors"},
        {"--unet " DATA "sd3/vae/diffusion_pytorch_model.safetensors", "another model's?"},
        {"--vae " DATA "flux/vae/diffusion_pytorch_model.safetensors --t5 " DATA
         "sd3/vae/diffusion_pytorch_model.safetensors",
         "sd3/vae/diffusion_pytorch_model.safetensors: no tensor 'encoder.embed_tokens"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        program_expect(program_run(".",
                                   "ckdistill sample --model " DATA "sd3 -p x --steps 1 --cfg 1 "
                                   "-fo /tmp/ck_too_much.png %s",
                                   cases[i].options),
                       1, NULL, cases[i].says);
    assert_int_equal(access("/tmp/ck_too_much.png", F_OK), -1);
}

/* Parts of a folder that are not there, or of another class. */
static void test_lacking(void **state) {
    (void)state;
    static const struct {
        const char *change, *says;
    } cases[] = {
        {"rm transformer/diffusion_pytorch_model.safetensors",
         "transformer/diffusion_pytorch_model.safetensors: there is no such file: download it"},
        {"rm text_encoder_3/model.safetensors", "text_encoder_3/model.safetensors: there is no"},
        {"rm model_index.json", "model_index.json: there is no such file, which the folder of"},
        {"rm -r vae", "vae/config.json: there is no such file, which the folder of a whole"},
        {"rm -r text_encoder", "text_encoder/config.json: there is no such file, which the"},
        {"rm -r scheduler", "scheduler_config.json: there is no such file, which the folder"},
        {"rm -r text_encoder_2", "the encoders give 16: one is missing, or another model's"},
        {"sed -i 's/\"!\": 0/\"!\": 694/' tokenizer/vocab.json",
         "the tokenizer is not this text encoder's, which knows 694 tokens: it has a token 694"},
        {"sed -i s/SD3Transformer2DModel/Other/ transformer/config.json", "config.json: the class"},
        {"sed -i 's/\"patch_size\"/\"patches\"/' transformer/config.json",
         "$.patches: a setting of SD3Transformer2DModel that is not known"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        program_expect(program_run(".",
                                   "M=$(mktemp -d) && cp -rL " DATA "sd3/* $M && (cd $M && %s) && "
                                   "ckdistill sample --model $M -p x -o $M/x.png; S=$?; "
                                   "rm -r $M; exit $S",
                                   cases[i].change),
                       1, NULL, cases[i].says);
}

/* The file has more than its config says. */
static void test_besides(void **state) {
    (void)state;
    program_expect(program_run(".",
                               "M=$(mktemp -d) && cp -rL " DATA "flux/* $M && "
                               "sed -i 's/\"num_single_layers\": 1/\"num_single_layers\": 0/' "
                               "$M/transformer/config.json && ckdistill sample --model $M -p x -o "
                               "$M/x.png; S=$?; rm -r $M; exit $S"),
                   1, NULL, "more) has no place in the network: the config is another model's");
}

static void test_lost(void **state) {
    (void)state;
    outcome *o = program_run(".", "ckdistill sample --model " DATA "sd3 --steps 1 --cfg 1 --size "
                                  "16x16 -f -o /tmp/ck_lost.png --prompt \"$(yes cat | head -n 400 "
                                  "| tr '\\n' ' ')\"");
    program_expect(o, 0, NULL, "found no place");
    unlink("/tmp/ck_lost.png");
}

/* What they take, and parts that they do not have. */
static void test_info(void **state) {
    (void)state;
    program_expect(program_run(".", "ckdistill info --model " DATA "sd3 --json"), 0, "parameters",
                   NULL);
    program_expect(program_run(".", "ckdistill sample --model " DATA "flux --clip2 x"), 2, NULL,
                   "--clip2");
    program_expect(
        program_run(".", "ckdistill sample --model " DATA "flux --sampler ddim -o /tmp/x.png"), 2,
        NULL, "flow_euler");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sd3),      cmocka_unit_test(test_flux),
        cmocka_unit_test(test_info),     cmocka_unit_test(test_flags),
        cmocka_unit_test(test_broken),   cmocka_unit_test(test_lost),
        cmocka_unit_test(test_settings), cmocka_unit_test(test_too_much),
        cmocka_unit_test(test_lacking),  cmocka_unit_test(test_besides),
    };
    return cmocka_run_group_tests_name("pipelines", tests, NULL, NULL);
}
