/* Recipes: every mistake is named with its place, and what is written reads back the same. */
#include "merge/recipe.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ck_status parse_with(const char *json, const char *const *settings, size_t count,
                            ck_recipe *r, ck_error *err) {
    return ck_recipe_parse("r.json", json, strlen(json), NULL, settings, count, r, err);
}

#define MODELS "\"ckmerge_recipe\":1,\n\"models\":{\"a\":\"a.st\",\"b\":\"b.st\"},\n"
#define MERGE  "\"merge\":{\"method\":\"weighted-sum\",\"inputs\":[\"a\",\"b\"],\"alpha\":0.3}"

static const struct {
    const char *json, *text;
} mistakes[] = {
    {"", "r.json:1: the text ends too early"},
    {"{", "r.json:1:"},
    {"{} x", "something follows"},
    {"[]", "must be an object"},
    {"{\"ckmerge_recipe\":2}", "must be 1"},
    {"{}", "\"ckmerge_recipe\" must be 1"},
    {"{\"ckmerge_recipe\":1}", "\"models\" must be an object"},
    {"{\"ckmerge_recipe\":1,\"models\":{}}", "at least one model"},
    {"{\"ckmerge_recipe\":1,\"models\":{\"a\":1}}", "$.models.a: must be a path"},
    {"{\"ckmerge_recipe\":1,\"models\":{\"a\":{}}}", "$.models.a: \"path\" is missing"},
    {"{\"ckmerge_recipe\":1,\"models\":{\"a\":{\"path\":\"x\",\"sha\":\"y\"}}}",
     "$.models.a.sha: unknown field"},
    {"{\"ckmerge_recipe\":1,\"models\":{\"a\":{\"path\":\"x\",\"sha256\":\"abc\"}}}",
     "64 lower-case hex digits"},
    {"{" MODELS "\"seed\":1}", "\"merge\" is missing"},
    {"{" MODELS MERGE ",\n\"dtyp\":\"f16\"}",
     "r.json:4: $.dtyp: unknown field; did you mean \"dtype\"?"},
    {"{" MODELS MERGE ",\"dtype\":\"f17\"}", "$.dtype: must be one of keep|f32"},
    {"{" MODELS MERGE ",\"dtype\":16}", "$.dtype: must be a text"},
    {"{" MODELS MERGE ",\"seed\":1.5}", "$.seed: must be a whole number"},
    {"{" MODELS MERGE ",\"policies\":{\"missing\":\"maybe\"}}",
     "$.policies.missing: must be one of"},
    {"{" MODELS MERGE ",\"policies\":{\"lost\":\"keep\"}}", "$.policies.lost: unknown field"},
    {"{" MODELS MERGE ",\"policies\":{\"unmatched\":\"keep\"}}",
     "$.policies.unmatched: must be one of error|skip"},
    {"{" MODELS "\"merge\":{\"method\":\"lora\",\"inputs\":[\"a\",1]}}",
     "lora takes a model and the name of a LoRA"},
    {"{" MODELS "\"merge\":{\"method\":\"lora\",\"inputs\":[\"a\",\"a\"]}}",
     "'a' is a LoRA in one place and a model in another"},
    {"{" MODELS "\"merge\":{\"method\":\"lora\",\"inputs\":[\"a\",\"b\"]},\"rules\":"
     "[{\"keys\":\"*\",\"copy\":\"b\"}]}",
     "'b' is a LoRA in one place and a model in another"},
    {"{\"ckmerge_recipe\":1,\"models\":{\"a\":\"a\",\"b\":\"b\",\"c\":\"c\"},\"merge\":{\"method\":"
     "\"weighted-sum\",\"inputs\":[{\"method\":\"lora\",\"inputs\":[\"a\",\"c\"]},{\"method\":"
     "\"lora\",\"inputs\":[\"b\",\"c\"]}]}}",
     "LoRA 'c' is applied to two models"},
    {"{" MODELS "\"merge\":{\"method\":\"ties\",\"inputs\":[\"a\",\"b\"],\"compat\":\"comfy\"}}",
     "$.merge.compat: method ties has no form of its own for 'comfy', only for mecha"},
    {"{" MODELS "\"merge\":{\"method\":\"linear\",\"inputs\":[\"a\",\"b\"],\"compat\":\"mecha\"}}",
     "method linear has no form of its own for 'mecha'; `ckmerge help linear`"},
    {"{" MODELS "\"merge\":\"c\"}", "r.json:3: $.merge: there is no model 'c'"},
    {"{" MODELS "\"merge\":1}", "must lead to a model"},
    {"{" MODELS "\"merge\":null}", "$.merge: must be a model's name"},
    {"{" MODELS "\"merge\":{\"inputs\":[]}}", "\"method\" is missing"},
    {"{" MODELS "\"merge\":{\"method\":\"average\",\"inputs\":[]}}",
     "$.merge.method: there is no method 'average'"},
    {"{" MODELS "\"merge\":{\"method\":\"weighted-sum\"}}", "\"inputs\" must be a list"},
    {"{" MODELS "\"merge\":{\"method\":\"weighted-sum\",\"inputs\":[\"a\"]}}",
     "takes 2 models, 1 given"},
    {"{" MODELS "\"merge\":{\"method\":\"weighted-sum\",\"inputs\":[\"a\",\"b\"],\"alpha\":\"x\"}}",
     "$.merge.alpha: must be a number"},
    {"{" MODELS "\"merge\":{\"method\":\"weighted-sum\",\"inputs\":[\"a\",\"b\"],\"alpha\":[1,2]}}",
     "takes 1 number"},
    {"{" MODELS "\"merge\":{\"method\":\"weighted-sum\",\"inputs\":[\"a\",\"b\"],\"beta\":1}}",
     "$.merge.beta: unknown field"},
    {"{" MODELS
     "\"merge\":{\"method\":\"weighted-sum\",\"inputs\":[\"a\",\"b\"],\"alpha\":\"$x\"}}",
     "no variable 'x'"},
    {"{" MODELS "\"merge\":{\"method\":\"weighted-sum\",\"inputs\":[\"a\",\"b\"],\"alpha\":0.1,"
     "\"alpha\":0.2}}",
     "'alpha' is there twice"},
    {"{" MODELS "\"merge\":{\"method\":\"linear\",\"inputs\":[\"a\",\"b\"],\"weight\":[1]}}",
     "takes 2 numbers"},
    {"{" MODELS "\"merge\":{\"method\":\"linear\",\"inputs\":[\"a\",\"b\"],\"weight\":[1,-1]}}",
     "add up to 0"},
    {"{" MODELS "\"merge\":{\"method\":\"linear\",\"inputs\":[1,\"b\"]}}", "must lead to a model"},
    {"{" MODELS MERGE ",\"rules\":{}}", "$.rules: must be a list"},
    {"{" MODELS MERGE ",\"rules\":[{}]}", "$.rules[0]: \"keys\" is missing"},
    {"{" MODELS MERGE ",\"rules\":[{\"keys\":\"*\"}]}", "a rule has one of"},
    {"{" MODELS MERGE ",\"rules\":[{\"keys\":\"*\",\"drop\":true,\"exclude\":true}]}",
     "a rule has one of"},
    {"{" MODELS MERGE ",\"rules\":[{\"keys\":\"*\",\"copy\":\"z\"}]}",
     "$.rules[0].copy: there is no model 'z'"},
    {"{" MODELS MERGE ",\"rules\":[{\"keys\":\"*\",\"set\":{\"beta\":1}}]}",
     "$.rules[0].set.beta: no such parameter"},
    {"{" MODELS MERGE ",\"rules\":[{\"keys\":\"*\",\"set\":{\"mix.alpha\":1}}]}",
     "no node has the id 'mix'"},
    {"{" MODELS MERGE ",\"rules\":[{\"keys\":\"*\",\"set\":{}}]}",
     "must be an object of parameters"},
    {"{" MODELS MERGE ",\"lock\":{\"models\":{\"z\":\"x\"}}}", "there is no such model"},
    {"{" MODELS MERGE ",\"lock\":{\"models\":{\"a\":\"x\"}}}", "64 lower-case hex digits"},
    {"{\"ckmerge_recipe\":1,\"models\":{\"$a\":\"x\"}}", "must not begin with '$'"},
    {"{" MODELS MERGE ",\"variables\":[]}", "$.variables: must be an object"},
};

static void test_mistakes(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        ck_recipe r;
        ck_error err = {0};
        if (parse_with(mistakes[i].json, NULL, 0, &r, &err) == CK_OK)
            fail_msg("accepted: %s", mistakes[i].json);
        if (!strstr(err.message, mistakes[i].text))
            fail_msg("%s: '%s' lacks '%s'", mistakes[i].json, err.message, mistakes[i].text);
        if (!strstr(err.message, "r.json")) fail_msg("'%s' names no file", err.message);
    }
}

static const char full[] =
    "{" MODELS
    "\"merge\":{\"method\":\"add_difference\",\"inputs\":[{\"method\":\"weighted-sum\",\"id\":"
    "\"mix\",\"inputs\":[\"a\",\"b\"],\"alpha\":\"$s\"},\"b\",0.25],\"alpha\":0.1},\n"
    "\"rules\":[{\"keys\":\"x.*\",\"set\":{\"mix.alpha\":0.7,\"alpha\":\"$s\"}},"
    "{\"keys\":\"y\",\"exclude\":true},{\"keys\":\"z\",\"drop\":true},{\"keys\":\"w\",\"copy\":"
    "\"b\"}],"
    "\"policies\":{\"missing\":\"drop\",\"extra\":\"keep\",\"shape\":\"inpaint\",\"unmatched\":"
    "\"skip\"},\"dtype\":"
    "\"bf16\","
    "\"seed\":7,\"variables\":{\"s\":0.5,\"unused\":\"x\"},\"description\":\"all there is\"}";

static void check_full(const ck_recipe *r, double s) {
    assert_int_equal(r->model_count, 2);
    assert_string_equal(r->root->method->name, "add-difference");
    assert_true(r->root->values[0].items[0] == 0.1);
    const ck_node *mix = r->root->inputs[0];
    assert_string_equal(mix->id, "mix");
    assert_true(mix->values[0].items[0] == s);
    assert_int_equal(r->root->inputs[2]->kind, CK_NODE_CONSTANT);
    assert_true(r->root->inputs[2]->constant == 0.25);
    assert_int_equal(r->rule_count, 4);
    assert_ptr_equal(r->rules[0].settings[0].node, mix);
    assert_true(r->rules[0].settings[1].value.items[0] == s);
    assert_int_equal(r->rules[1].action, CK_RULE_EXCLUDE);
    assert_int_equal(r->rules[2].action, CK_RULE_DROP);
    assert_int_equal(r->rules[3].action, CK_RULE_COPY);
    assert_int_equal(r->rules[3].model, 1);
    assert_int_equal(r->missing, CK_MISSING_DROP);
    assert_int_equal(r->extra, CK_EXTRA_KEEP);
    assert_int_equal(r->shape, CK_SHAPE_INPAINT);
    assert_int_equal(r->unmatched, CK_UNMATCHED_SKIP);
    assert_int_equal(r->dtype, CK_BF16);
    assert_int_equal(r->seed, 7);
    assert_int_equal(ck_recipe_primary(r), 0);
}

static void test_variables(void **state) {
    (void)state;
    ck_recipe r;
    ck_error err;
    assert_int_equal(parse_with(full, NULL, 0, &r, &err), CK_OK);
    check_full(&r, 0.5);
    ck_recipe_free(&r);
    const char *const set[] = {"s=-2.5"};
    assert_int_equal(parse_with(full, set, 1, &r, &err), CK_OK);
    check_full(&r, -2.5);
    ck_recipe_free(&r);
    const char *const wrong[][2] = {{"t=1", "no variable of that name"},
                                    {"s", "must be NAME=VALUE"},
                                    {"s=x", "--set gave 'x'"}};
    for (int i = 0; i < 3; i++) {
        assert_int_not_equal(parse_with(full, &wrong[i][0], 1, &r, &err), CK_OK);
        assert_non_null(strstr(err.message, wrong[i][1]));
    }
}

/* Written, read, written again: the same text. */
static void test_round_trip(void **state) {
    (void)state;
    ck_recipe r, again;
    ck_error err;
    char *first, *second;
    assert_int_equal(parse_with(full, NULL, 0, &r, &err), CK_OK);
    assert_int_equal(ck_recipe_text(&r, CK_PATH_RELATIVE, NULL, &first, &err), CK_OK);
    assert_int_equal(parse_with(first, NULL, 0, &again, &err), CK_OK);
    check_full(&again, 0.5);
    assert_int_equal(ck_recipe_text(&again, CK_PATH_RELATIVE, NULL, &second, &err), CK_OK);
    assert_string_equal(first, second);
    free(first), free(second);
    ck_recipe_free(&r), ck_recipe_free(&again);
}

/* Paths: beside the recipe when reading; only names in metadata. */
static void test_paths(void **state) {
    (void)state;
    fixture f;
    fixture_make(&f);
    const char *json =
        "{\"ckmerge_recipe\":1,\"variables\":{\"p\":\"other.st\"},\"models\":{\"a\":"
        "\"sub/a.st\",\"b\":\"/abs/b.st\",\"c\":\"$p\",\"d\":\"$$d.st\",\"e\":\"//\"},"
        "\"merge\":\"a\"}";
    const char *path = fixture_file(&f, "r.json", json, strlen(json));
    ck_recipe r;
    ck_error err;
    const char *const set[] = {"p=here.st"};
    assert_int_equal(ck_recipe_load(path, set, 1, &r, &err), CK_OK);
    assert_string_equal(r.models[0].path, fixture_path(&f, "sub/a.st"));
    assert_string_equal(r.models[1].path, "/abs/b.st");
    assert_string_equal(r.models[2].path, "here.st");
    assert_string_equal(r.models[3].path, fixture_path(&f, "$d.st"));
    char *text;
    assert_int_equal(ck_recipe_text(&r, CK_PATH_NAME, NULL, &text, &err), CK_OK);
    assert_non_null(strstr(text, "{\"path\":\"a.st\"}"));
    assert_non_null(strstr(text, "{\"path\":\"$$d.st\"}"));
    assert_non_null(strstr(text, "{\"path\":\"/\"}"));
    assert_null(strstr(text, "abs/"));
    free(text);
    ck_recipe_free(&r);
    fixture_remove(&f);
}

static void test_faults(void **state) {
    (void)state;
    const fault_kind kinds[] = {FAULT_CALLOC, FAULT_REALLOC};
    for (int k = 0; k < 2; k++)
        for (fault_first(kinds[k], ENOMEM); fault_more();) {
            ck_recipe r;
            ck_error err = {0};
            char *text = NULL;
            fault_arm();
            ck_status status = parse_with(full, NULL, 0, &r, &err);
            bool parsed = status == CK_OK;
            if (parsed) status = ck_recipe_text(&r, CK_PATH_NAME, NULL, &text, &err);
            fault_disarm();
            if (parsed) ck_recipe_free(&r);
            assert_int_equal(status == CK_OK, text != NULL);
            if (status != CK_OK) assert_true(*err.message);
            free(text);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mistakes),   cmocka_unit_test(test_variables),
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_paths),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
