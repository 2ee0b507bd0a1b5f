/* cktool as its users meet it. */
#include "tests/check.h"
#include "tests/fixture.h"
#include "tests/program.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static fixture f;

static int setup(void **state) {
    (void)state;
    fixture_make(&f);
    float a[3000], b[3000];
    uint64_t seed = 5;
    for (int i = 0; i < 3000; i++) {
        a[i] = fixture_random_float(&seed);
        b[i] = a[i] + (i == 1234 ? 0.5f : 0);
    }
    const uint16_t half[4] = {0x3C00, 0x7C00, 0xFC00, 0x7E00}; /* 1, inf, -inf, NaN */
    const int64_t ids[2] = {1, 2};
    fixture_tensor t[] = {
        {.name = "model.diffusion_model.w",
         .dtype = CK_F32,
         .shape = {3, 1000},
         .rank = 2,
         .data = a},
        {.name = "first_stage_model.w", .dtype = CK_F32, .shape = {7}, .rank = 1, .data = a},
        {.name = "ids", .dtype = CK_I64, .shape = {2}, .rank = 1, .data = ids},
        {.name = "only", .dtype = CK_F32, .shape = {2}, .rank = 1, .data = a}};
    fixture_safetensors(&f, "a", t, 4, "{\"k\":\"v\"}");
    t[0].data = b;
    fixture_safetensors(&f, "b", t, 3, NULL);
    t[1].shape[0] = 8;
    fixture_safetensors(&f, "c", t, 3, NULL);
    const fixture_tensor bad = {
        .name = "h", .dtype = CK_F16, .shape = {4}, .rank = 1, .data = half};
    fixture_safetensors(&f, "bad", &bad, 1, NULL);
    const fixture_tensor wide = {
        .name = "h", .dtype = CK_F32, .shape = {4}, .rank = 1, .data = (float[]){1, 0, 0, 0}};
    fixture_safetensors(&f, "wide", &wide, 1, NULL);
    const fixture_tensor narrow = {.name = "h",
                                   .dtype = CK_F16,
                                   .shape = {4},
                                   .rank = 1,
                                   .data = (uint16_t[]){0x3C00, 0, 0, 0}};
    fixture_safetensors(&f, "narrow", &narrow, 1, NULL);
    fixture_file(&f, "broken", "\x02\0\0\0\0\0\0\0{}!", 11);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_remove(&f);
    return 0;
}

/* Formats to write, by the output's ending, and what is said of entries that are no tensors. */
static void test_convert(void **state) {
    (void)state;
    char *model = realpath("tests/data/models/base", NULL);
    char *training = realpath("tests/data/torch/training.pt", NULL);
    program_expect(program_run(f.folder, "cktool convert '%s' model/", model), 0,
                   "model/: 484 tensors", "");
    program_expect(program_run(f.folder, "cktool convert model/ x/ --layout ldm"), 2, NULL,
                   "a folder is in diffusers' layout");
    program_expect(program_run(f.folder, "cktool convert model/ model"), 2, NULL,
                   "remove it first");
    program_expect(program_run(f.folder, "cktool convert b x.h5 --configs model"), 2, NULL,
                   "--configs is for folders");
    program_expect(program_run(f.folder, "cktool convert b b.h5 && cktool diff b b.h5"), 0,
                   "identical", "");
    program_expect(program_run(f.folder, "cktool convert b b2.h5 --max-shard-size 1KB"), 2, NULL,
                   "only safetensors are written in shards");
    program_expect(program_run(f.folder, "cktool inspect '%s'", training), 0,
                   "left out      7 entries that are no tensors", "");
    program_expect(program_run(f.folder, "cktool convert '%s' t.safetensors", training), 0, NULL,
                   "7 entries that are no tensors are left out");
    free(model);
    free(training);
}

static void test_ls(void **state) {
    (void)state;
    program_expect(program_run(f.folder, "cktool ls a"), 0,
                   "F32      [3,1000]             model.diffusion_model.w\n", NULL);
    program_expect(
        program_run(f.folder, "cktool ls a"), 0,
        "metadata k: v\na: safetensors, 4 tensors, 3011 parameters, 12.1 kB; 1 I64 3 F32\n", NULL);
    outcome *o = program_run(f.folder, "cktool ls --json a b");
    program_expect(o, 0, NULL, NULL);
    cJSON *json = cJSON_Parse(o->out), *file = cJSON_GetArrayItem(json, 0);
    assert_int_equal(cJSON_GetArraySize(json), 2);
    assert_string_equal(
        cJSON_GetObjectItem(cJSON_GetObjectItem(file, "metadata"), "k")->valuestring, "v");
    cJSON *tensor = cJSON_GetArrayItem(cJSON_GetObjectItem(file, "tensors"), 0);
    assert_string_equal(cJSON_GetObjectItem(tensor, "name")->valuestring,
                        "model.diffusion_model.w");
    assert_int_equal(cJSON_GetObjectItem(tensor, "bytes")->valueint, 12000);
    cJSON_Delete(json);
    program_expect(program_run(f.folder, "cktool ls a broken"), 1, NULL,
                   "broken: 1 bytes at offset 10");
}

/* Names and metadata cannot send commands to the terminal. */
static void test_control_characters(void **state) {
    (void)state;
    fixture_raw_safetensors(&f, "evil",
                            "{\"__metadata__\":{\"\\u001b]0;k\":\"\\u001b[2J\\u009b2J\\n\"},"
                            "\"\\u001b[2J.\\u00e9\":{\"dtype\":\"F16\",\"shape\":[1],"
                            "\"data_offsets\":[0,2]}}",
                            "\0\x7E", 2);
    const char *const commands[] = {"ls evil", "verify evil", "diff -t evil evil", "diff -t evil a",
                                    "inspect evil"};
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        outcome *o = program_run(f.folder, "cktool %s", commands[i]);
        assert_null(strpbrk(o->out, "\x1b\x7f\r"));
        assert_null(strstr(o->out, "\xc2\x9b"));
        assert_null(strpbrk(o->err, "\x1b\x7f\r"));
    }
    program_expect(program_run(f.folder, "cktool ls evil"), 0, "?[2J.\xc3\xa9\n", NULL);
    program_expect(program_run(f.folder, "cktool ls evil"), 0, "metadata ?]0;k: ?[2J??2J?\n", NULL);
}

/* A bad file does not keep the others from their turn. */
static void test_several_files(void **state) {
    (void)state;
    program_expect(program_run(f.folder, "cktool verify broken none a"), 1, "a: good, 4 tensors",
                   "cktool verify: broken: 1 bytes");
    program_expect(program_run(f.folder, "cktool verify broken none a"), 1, NULL, "none");
    program_expect(program_run(f.folder, "cktool hash none a"), 1, "a\n  sha256", "none");
    outcome *o = program_run(f.folder, "cktool verify --json broken a");
    program_expect(o, 1, NULL, "broken: 1 bytes");
    cJSON *json = cJSON_Parse(o->out), *first = cJSON_GetArrayItem(json, 0),
          *second = cJSON_GetArrayItem(json, 1);
    assert_string_equal(cJSON_GetObjectItem(first, "path")->valuestring, "broken");
    assert_non_null(strstr(cJSON_GetObjectItem(first, "error")->valuestring, "broken: 1 bytes"));
    assert_null(cJSON_GetObjectItem(second, "error"));
    assert_int_equal(cJSON_GetObjectItem(second, "tensors")->valueint, 4);
    cJSON_Delete(json);
}

static void test_output_lost(void **state) {
    (void)state;
    program_expect(program_run(f.folder, "cktool ls a >/dev/full"), 1, NULL, "No space left");
    program_expect(program_run(f.folder, "cktool ls --json a a a a a a a >/dev/full"), 1, NULL,
                   "standard output");
}

static void test_hash(void **state) {
    (void)state;
    program_expect(program_run(f.folder, "cktool hash broken; sha256sum broken | cut -c1-64"), 0,
                   "broken\n", NULL);
    outcome *o = program_run(f.folder, "cktool hash --json a");
    cJSON *json = cJSON_Parse(o->out);
    char sum[65];
    snprintf(sum, sizeof sum, "%s",
             cJSON_GetObjectItem(cJSON_GetArrayItem(json, 0), "sha256")->valuestring);
    cJSON_Delete(json);
    program_expect(program_run(f.folder, "sha256sum a"), 0, sum, NULL);
    program_expect(program_run(f.folder, "cktool hash ."), 1, NULL, "only single files");
}

static void test_verify(void **state) {
    (void)state;
    program_expect(program_run(f.folder, "cktool verify a b"), 0,
                   "a: good, 4 tensors, 0 NaN, 0 infinite\n", NULL);
    program_expect(program_run(f.folder, "cktool verify bad"), 1, "h: 1 NaN, 2 infinite of 4\n",
                   NULL);
    program_expect(program_run(f.folder, "cktool verify broken"), 1, NULL, "belong to no tensor");
    outcome *o = program_run(f.folder, "cktool verify --json bad");
    assert_int_equal(o->status, 1);
    cJSON *json = cJSON_Parse(o->out);
    assert_int_equal(cJSON_GetObjectItem(cJSON_GetArrayItem(json, 0), "inf")->valueint, 2);
    cJSON_Delete(json);
}

static void test_diff(void **state) {
    (void)state;
    program_expect(program_run(f.folder, "cktool diff a a"), 0, "identical", NULL);
    outcome *o = program_run(f.folder, "cktool diff a b --json");
    program_expect(o, 0, NULL, NULL);
    cJSON *json = cJSON_Parse(o->out),
          *group = cJSON_GetArrayItem(cJSON_GetObjectItem(json, "groups"), 0);
    assert_string_equal(cJSON_GetObjectItem(group, "name")->valuestring, "unet");
    assert_true(fabs(cJSON_GetObjectItem(group, "max")->valuedouble - 0.5) < 1e-6);
    /* The same sums, plainly. */
    double aa = 0, ab = 0, bb = 0;
    uint64_t seed = 5;
    for (int i = 0; i < 3000; i++) {
        double x = (double)fixture_random_float(&seed),
               y = i == 1234 ? (double)((float)x + 0.5f) : x;
        aa += x * x, bb += y * y, ab += x * y;
    }
    assert_true(fabs(cJSON_GetObjectItem(group, "relative_l2")->valuedouble - 0.5 / sqrt(aa)) <
                1e-6);
    assert_true(fabs(cJSON_GetObjectItem(group, "cosine")->valuedouble - ab / sqrt(aa * bb)) <
                1e-9);
    assert_int_equal(cJSON_GetObjectItem(json, "only_a")->valueint, 1);
    cJSON_Delete(json);
    program_expect(program_run(f.folder, "cktool diff -t a c"), 0,
                   "shape      first_stage_model.w  [7] -> [8]\n", NULL);
    program_expect(program_run(f.folder, "cktool diff a c"), 0, "1 not comparable", NULL);
    program_expect(program_run(f.folder, "cktool diff bad bad"), 0, "identical", NULL);
    program_expect(program_run(f.folder, "cktool diff bad narrow"), 0, "max |d| nan", NULL);
    o = program_run(f.folder, "cktool diff --json bad narrow");
    json = cJSON_Parse(o->out);
    assert_true(cJSON_IsNull(
        cJSON_GetObjectItem(cJSON_GetArrayItem(cJSON_GetObjectItem(json, "groups"), 0), "max")));
    cJSON_Delete(json);
}

/* The same values in another type are not called identical. */
static void test_diff_types(void **state) {
    (void)state;
    outcome *o = program_run(f.folder, "cktool diff -t wide narrow");
    program_expect(o, 0, "1 tensors have another type\nevery tensor has the same values\n", NULL);
    program_expect(o, 0, "h  F32 -> F16\n", NULL);
    assert_null(strstr(o->out, "identical"));
    o = program_run(f.folder, "cktool diff --json wide narrow");
    cJSON *json = cJSON_Parse(o->out),
          *tensor = cJSON_GetArrayItem(cJSON_GetObjectItem(json, "tensors"), 0);
    assert_true(cJSON_IsFalse(cJSON_GetObjectItem(json, "identical")));
    assert_int_equal(cJSON_GetObjectItem(json, "retyped")->valueint, 1);
    assert_string_equal(cJSON_GetObjectItem(tensor, "dtype_b")->valuestring, "F16");
    cJSON_Delete(json);
}

/* Sums do not depend on how the work was shared. */
static void test_diff_threads(void **state) {
    (void)state;
    static char one[sizeof((outcome *)0)->out];
    strcpy(one, program_run(f.folder, "OMP_NUM_THREADS=1 cktool diff --json a b")->out);
    for (int threads = 2; threads < 5; threads++)
        assert_string_equal(
            program_run(f.folder, "OMP_NUM_THREADS=%d cktool diff --json a b", threads)->out, one);
}

static void test_usage(void **state) {
    (void)state;
    program_expect(program_run(f.folder, "cktool"), 2, NULL, "usage: cktool COMMAND");
    program_expect(program_run(f.folder, "cktool lss a"), 2, NULL, "did you mean ls?");
    program_expect(program_run(f.folder, "cktool diff a"), 2, NULL,
                   "1 operand given; usage: cktool diff");
    program_expect(program_run(f.folder, "cktool ls"), 2, NULL, "0 operands given");
    program_expect(program_run(f.folder, "cktool ls --jsn a"), 2, NULL, "did you mean --json?");
    program_expect(program_run(f.folder, "cktool --help"), 0, "verify", NULL);
    program_expect(program_run(f.folder, "cktool diff --help"), 0, "usage: cktool diff", NULL);
    program_expect(program_run(f.folder, "cktool --completion bash | bash -n"), 0, NULL, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_convert),
        cmocka_unit_test(test_ls),
        cmocka_unit_test(test_control_characters),
        cmocka_unit_test(test_several_files),
        cmocka_unit_test(test_output_lost),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_verify),
        cmocka_unit_test(test_diff),
        cmocka_unit_test(test_diff_types),
        cmocka_unit_test(test_diff_threads),
        cmocka_unit_test(test_usage),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
