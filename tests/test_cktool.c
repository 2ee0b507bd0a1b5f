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
    fixture_file(&f, "broken", "\x02\0\0\0\0\0\0\0{}!", 11);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_remove(&f);
    return 0;
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
                   "shape      first_stage_model.w\n", NULL);
    program_expect(program_run(f.folder, "cktool diff a c"), 0, "1 not comparable", NULL);
    program_expect(program_run(f.folder, "cktool diff bad bad"), 0, "identical", NULL);
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
        cmocka_unit_test(test_ls),   cmocka_unit_test(test_hash),  cmocka_unit_test(test_verify),
        cmocka_unit_test(test_diff), cmocka_unit_test(test_usage),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
