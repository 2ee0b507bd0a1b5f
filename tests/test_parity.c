/* Every deterministic method beside the tools it comes from, within one unit in the last place of
 * f16: tests/interop/make_merges.py wrote what they make of the models in tests/data/merges. And
 * what the web UIs make of models in half precision, bit for bit (make_halves.py), and by what they
 * find in whole models (make_cosine.py). */
#include "io/json.h"
#include "io/os.h"
#include "merge/engine.h"
#include "tests/check.h"
#include "tests/fixture.h"
#include "tests/reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DATA "tests/data/merges/"
#define WIDE DATA "wide/" /* of two models */

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

/* Merges as the case says; returns a reader of the result. */
static ck_reader *merged(const char *models, const char *dtype, const cJSON *merge) {
    char *node = cJSON_PrintUnformatted(merge);
    char *json =
        ck_sprintf("{\"ckmerge_recipe\":1,\"dtype\":\"%s\",\"models\":"
                   "{\"a\":\"a.safetensors\",\"b\":\"b.safetensors\"%s},\"merge\":%s}",
                   dtype, strcmp(models, WIDE) == 0 ? "" : ",\"c\":\"c.safetensors\"", node);
    ck_recipe recipe;
    ck_reader *readers[3] = {0}, *result = NULL;
    ck_plan *plan = NULL;
    ck_run_result run = {0};
    const ck_run_options options = {.threads = 2, .replace = true};
    const char *out = fixture_path(&f, "out");
    ck_error err;
    ck_status status = ck_recipe_parse("case", json, strlen(json), models, NULL, 0, &recipe, &err);
    for (size_t i = 0; i < 3 && status == CK_OK && i < recipe.model_count; i++)
        status = ck_reader_open(recipe.models[i].path, &readers[i], &err);
    if (status == CK_OK) status = ck_plan_make(&recipe, readers, &plan, &err);
    if (status == CK_OK) status = ck_run(plan, out, &options, &run, &err);
    if (status == CK_OK) status = ck_reader_open(out, &result, &err);
    if (status != CK_OK) fail_msg("%s: %s", node, err.message);
    for (int i = 0; i < 3; i++) ck_reader_close(readers[i]);
    ck_plan_free(plan);
    ck_recipe_free(&recipe);
    free(run.model_sha256);
    free(json);
    cJSON_free(node);
    return result;
}

static uint16_t *halves(const ck_reader *r, const char *name, size_t *n) {
    const ck_tensor *t = ck_reader_find(r, name);
    ck_error err;
    if (!t || t->dtype != CK_F16) fail_msg("no f16 tensor '%s'", name);
    uint16_t *data = malloc(t->nbytes);
    if (ck_reader_read(r, t, 0, data, t->nbytes, &err) != CK_OK) fail_msg("%s", err.message);
    *n = (size_t)t->elements;
    return data;
}

/* Halves in order: neighbours are one apart. */
static int place(uint16_t half) {
    return half & 0x8000 ? -(half & 0x7FFF) : half;
}

/* A sum of larger terms that cancel out has their rounding errors: what counts then is the unit in
 * the last place of f32 at the models' size. */
static bool near(uint16_t mine, uint16_t theirs) {
    double apart = fabs(ref_decode(CK_F16, &mine) - ref_decode(CK_F16, &theirs));
    return abs(place(mine) - place(theirs)) <= 1 || apart <= 4 * 0x1p-24;
}

static void check_halves(const char *models, const cJSON *one, const ck_reader *expected) {
    const char *name = cJSON_GetObjectItem(one, "name")->valuestring;
    ck_reader *r = merged(models, "f16", cJSON_GetObjectItem(one, "merge"));
    assert_true(ck_reader_count(r) >= 3);
    for (size_t i = 0; i < ck_reader_count(r); i++) {
        const char *tensor = ck_reader_tensor(r, i)->name;
        char wanted[128];
        size_t n, same;
        snprintf(wanted, sizeof wanted, "%s/%s", name, tensor);
        uint16_t *mine = halves(r, tensor, &n), *theirs = halves(expected, wanted, &same);
        assert_int_equal(n, same);
        for (size_t e = 0; e < n; e++)
            if (!near(mine[e], theirs[e]))
                fail_msg("%s, element %zu: %g, not %g", wanted, e, ref_decode(CK_F16, &mine[e]),
                         ref_decode(CK_F16, &theirs[e]));
        free(mine);
        free(theirs);
    }
    ck_reader_close(r);
}

static void check_case(const cJSON *one, const ck_reader *expected) {
    check_halves(DATA, one, expected);
}

/* Calls check for every case in a folder; returns how many there are. */
static int each_case(const char *cases_path, const char *expected_path,
                     void (*check)(const cJSON *one, const ck_reader *expected)) {
    char *text;
    size_t n;
    ck_error err;
    ck_reader *expected;
    assert_int_equal(ck_read_file(cases_path, 1 << 20, &text, &n, &err), CK_OK);
    cJSON *cases = cJSON_ParseWithLength(text, n);
    assert_int_equal(ck_reader_open(expected_path, &expected, &err), CK_OK);
    int count = cJSON_GetArraySize(cases);
    const cJSON *one;
    cJSON_ArrayForEach(one, cases) check(one, expected);
    ck_reader_close(expected);
    cJSON_Delete(cases);
    free(text);
    return count;
}

static void test_other_tools(void **state) {
    (void)state;
    assert_true(each_case(DATA "cases.json", DATA "expected.safetensors", check_case) > 30);
}

/* ---- In the types in which models are stored ---- */

#define STORED DATA "stored/"

static void check_stored(const cJSON *one, const ck_reader *expected) {
    const char *name = cJSON_GetObjectItem(one, "name")->valuestring;
    ck_reader *r = merged(STORED, "keep", cJSON_GetObjectItem(one, "merge"));
    ck_error err;
    assert_int_equal(ck_reader_count(r), 6);
    for (size_t i = 0; i < ck_reader_count(r); i++) {
        const ck_tensor *mine = ck_reader_tensor(r, i);
        char wanted[128];
        snprintf(wanted, sizeof wanted, "%s/%s", name, mine->name);
        const ck_tensor *theirs = ck_reader_find(expected, wanted);
        assert_non_null(theirs);
        assert_int_equal(mine->dtype, theirs->dtype);
        unsigned char x[4 * 300], y[4 * 300];
        assert_int_equal(ck_reader_read(r, mine, 0, x, mine->nbytes, &err), CK_OK);
        assert_int_equal(ck_reader_read(expected, theirs, 0, y, theirs->nbytes, &err), CK_OK);
        if (memcmp(x, y, mine->nbytes) != 0) fail_msg("%s differs", wanted);
    }
    ck_reader_close(r);
}

static void test_web_uis(void **state) {
    (void)state;
    assert_int_equal(each_case(STORED "cases.json", STORED "expected.safetensors", check_stored),
                     4);
}

/* ---- Tensors that depend on all others ---- */

static void check_wide(const cJSON *one, const ck_reader *expected) {
    check_halves(WIDE, one, expected);
}

static void test_whole_models(void **state) {
    (void)state;
    assert_int_equal(each_case(WIDE "cases.json", WIDE "expected.safetensors", check_wide), 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_other_tools),
                                       cmocka_unit_test(test_web_uis),
                                       cmocka_unit_test(test_whole_models)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
