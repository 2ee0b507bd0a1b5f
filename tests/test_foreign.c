/* Recipes of other tools: what they become, every mistake with its place, the way back through
 * JSON; and where gradients run along. */
#include "io/yaml.h"
#include "merge/foreign.h"
#include "merge/layers.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const tensors[] = {"blocks.0.attn.w", "blocks.0.mlp.w",  "blocks.1.attn.w",
                                      "blocks.1.mlp.w",  "blocks.2.attn.w", "blocks.2.mlp.w",
                                      "blocks.3.attn.w", "blocks.3.mlp.w",  "x*y[0].w",
                                      "vae.layers.0.w",  "vae.layers.1.w"};
enum { TENSORS = sizeof tensors / sizeof *tensors };

static const ck_foreign where = {.tensors = tensors, .tensor_count = TENSORS};

#ifdef CK_HAVE_YAML
#define NEEDS_YAML
#else
#define NEEDS_YAML skip()
#endif

typedef ck_status front_end(const char *name, const char *text, size_t n, const ck_foreign *where,
                            ck_recipe *r, ck_error *err);

static void read_with(front_end *read, const char *text, ck_recipe *r) {
    ck_error err;
    if (read("r", text, strlen(text), &where, r, &err) != CK_OK)
        fail_msg("%s\n%s", err.message, text);
}

/* The number of a parameter for one tensor, as the planner takes it. */
static double value_of(const ck_recipe *r, const ck_node *node, const char *parameter, size_t item,
                       const char *tensor) {
    const ck_rule *rule = NULL;
    for (size_t i = r->rule_count; i-- > 0;)
        if (fnmatch(r->rules[i].pattern, tensor, 0) == 0) rule = &r->rules[i];
    ck_value values[CK_MAX_PARAMETERS];
    ck_rule_values(rule, node, values);
    int p = ck_method_parameter(node->method, parameter);
    assert_true(p >= 0);
    assert_true(item < values[p].count);
    return values[p].items[item];
}

/* The recipe as JSON reads back to the same text. */
static void check_round_trip(const ck_recipe *r) {
    ck_error err;
    ck_recipe again;
    char *first, *second;
    assert_int_equal(ck_recipe_text(r, CK_PATH_NAME, NULL, &first, &err), CK_OK);
    if (ck_recipe_parse("r", first, strlen(first), NULL, NULL, 0, &again, &err) != CK_OK)
        fail_msg("%s\n%s", err.message, first);
    assert_int_equal(ck_recipe_text(&again, CK_PATH_NAME, NULL, &second, &err), CK_OK);
    assert_string_equal(first, second);
    free(first), free(second);
    ck_recipe_free(&again);
}

static void check_text(const char *at, const ck_error *err, const char *text) {
    if (!strstr(err->message, text)) fail_msg("%s\n'%s' lacks '%s'", at, err->message, text);
}

/* ---- mergekit ---- */

static const struct {
    const char *yaml, *text;
} mistakes[] = {
    {"", "r: nothing in it"},
    {"- a", "r:1:1: is neither a recipe of ckmerge"},
    {"a: [", "r:2:1: did not find"},
    {"a: 1\na: 2", "r:2:1: this field is there twice"},
    {"a: 1\n---\nb: 1", "r:3:1: a second document"},
    {"? [a]\n: 1", "a field's name must be a text"},
    {"a: !!python/object:os.system x", "r:1:4: a tag that is not YAML's"},
    {"a: &a [*a]", "nested too deeply"},
    {"a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,"
     "*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]",
     "too many values"},
    {"a: \xff", "r: byte 3: "},
    {"merge_method: linear\nmodel: []", "r:2:8: unknown field 'model'; known are: merge_method"},
    {"merge_method: linear\ntokenizer_source: union", "r:2:19: tokenizer_source is not known here"},
    {"merge_method: linear\ntokenizer: {source: x}", "r:2:12: tokenizer is not known here"},
    {"merge_method: linear\nchat_template: auto", "r:2:16: chat_template is not known here"},
    {"merge_method: linear\nmodules: {a: {}}", "r:2:10: modules is not known here"},
    {"models: []", "r:1:1: \"merge_method\" is missing"},
    {"merge_method: weighted-sum", "r:1:15: there is no method 'weighted-sum'"},
    {"merge_method: ramplus_tl", "there is no method 'ramplus_tl' here"},
    {"merge_method: {}", "r:1:15: must be a text"},
    {"merge_method: linear", "one of \"models\" and \"slices\""},
    {"merge_method: linear\nmodels: []\nslices: []", "one of \"models\" and \"slices\""},
    {"merge_method: linear\nmodels: []", "r:2:9: must be a list of models"},
    {"merge_method: linear\nmodels: [a]", "r:2:10: must be a map with fields"},
    {"merge_method: linear\nmodels: [{parameters: {}}]", "r:2:10: \"model\" is missing"},
    {"merge_method: linear\nmodels: [{model: null}]", "r:2:18: must be a text"},
    {"merge_method: linear\nmodels: [{model: a, weight: 1}]",
     "r:2:29: unknown field 'weight'; known are: model parameters"},
    {"merge_method: linear\nmodels: [{model: a}, {model: a}]", "r:2:30: 'a' is there twice"},
    {"merge_method: linear\nmodels: [{model: a@main}]", "revisions are of a hub"},
    {"merge_method: linear\nmodels: [{model: a}]\nbase_model: b",
     "r:3:13: linear has no base: list 'b' among the models"},
    {"merge_method: ties\nmodels: [{model: a}]", "ties needs \"base_model\""},
    {"merge_method: slerp\nbase_model: a\nmodels: [{model: b}, {model: c}]",
     "takes 2 models, 3 given"},
    {"merge_method: linear\nmodels: [{model: a, parameters: {weight: x}}]",
     "r:2:42: must be a number or a list of numbers"},
    {"merge_method: linear\nmodels: [{model: a, parameters: {weight: \"1\"}}]", "must be a number"},
    {"merge_method: linear\nmodels: [{model: a, parameters: {weight: .inf}}]", "must be a number"},
    {"merge_method: linear\nmodels: [{model: a, parameters: {weight: []}}]", "must be a number"},
    {"merge_method: linear\nmodels: [{model: a, parameters: {weight: [1, {value: 1}]}}]",
     "must be a number"},
    {"merge_method: linear\nmodels: [{model: a, parameters: {weight: [{value: 1}, 1]}}]",
     "must be a map with fields"},
    {"merge_method: linear\nmodels: [{model: a, parameters: {weight: {filter: x}}}]",
     "r:2:42: \"value\" is missing"},
    {"merge_method: linear\nmodels: [{model: a, parameters: {weight: {filter: x, value: {}}}}]",
     "must be a number"},
    {"merge_method: linear\nmodels: [{model: a, parameters: {weight: {filter: [], value: 1}}}]",
     "must be a text"},
    {"merge_method: linear\nmodels: [{model: a, parameters: {density: 1}}]",
     "r:2:43: linear has no parameter 'density' here"},
    {"merge_method: linear\nmodels: [{model: a, parameters: []}]", "must be a map of parameters"},
    {"merge_method: linear\nmodels: [{model: a, parameters: {normalize: true}}, {model: b}]",
     "normalize is a parameter of the whole merge"},
    {"merge_method: linear\nmodels: [{model: a}]\nparameters: {t: 1}", "no parameter 't' here"},
    {"merge_method: slerp\nbase_model: a\nmodels: [{model: b}]\nparameters: {alpha: 1}",
     "no parameter 'alpha' here"},
    {"merge_method: ties\nbase_model: a\nmodels: [{model: b}]\nparameters: {rescale: true}",
     "r:4:23: rescale of ties: only 0 is done here"},
    {"merge_method: linear\nmodels: [{model: a}]\ndtype: int64",
     "r:3:8: dtype: must be one of float32, float16, bfloat16"},
    {"merge_method: linear\nmodels: [{model: a}]\nout_dtype: [f]", "r:3:12: must be a text"},
    {"merge_method: linear\nslices: {}", "must be a list of 1 to"},
    {"merge_method: linear\nslices: [{}]", "\"sources\" is missing"},
    {"merge_method: linear\nslices: [{sources: [{model: a}]}]",
     "\"layer_range\" must be two whole"},
    {"merge_method: linear\nslices: [{sources: [{model: a, layer_range: [2, 1]}]}]",
     "\"layer_range\" must be two whole"},
    {"merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 4], parameters: {q: "
     "1}}]}]",
     "no parameter 'q'"},
    {"merge_method: linear\nslices: [{sources: [{model: a, layer_range: [1, 4]}]}]",
     "layers 1 to 4 would come to another place"},
    {"merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 3]}]}]",
     "the slices have 3 layers, the first model 4"},
    {"merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 4]}, {model: b, "
     "layer_range: [0, 2]}]}]",
     "the models of a slice have different layers"},
    {"merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 2]}]}, {sources: "
     "[{model: b, layer_range: [2, 4]}]}]",
     "'b' is not in the first slice"},
    {"merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 2]}, {model: b, "
     "layer_range: [0, 2]}]}, {sources: [{model: b, layer_range: [2, 4]}]}]",
     "all slices must have the same models"},
    {"merge_method: passthrough\nmodels: [{model: a}, {model: b}]", "passthrough takes one model"},
    {"merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [0, 2]}]}, {sources: "
     "[{model: b, layer_range: [2, 4], parameters: {scale: 2}}]}]",
     "only the first model's can be scaled"},
};

static void test_mergekit_mistakes(void **state) {
    (void)state;
    NEEDS_YAML;
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        ck_recipe r;
        ck_error err = {0};
        const char *text = mistakes[i].yaml;
        if (ck_foreign_mergekit("r", text, strlen(text), &where, &r, &err) == CK_OK)
            fail_msg("accepted: %s", text);
        check_text(text, &err, mistakes[i].text);
    }
}

static void test_mergekit_linear(void **state) {
    (void)state;
    NEEDS_YAML;
    ck_recipe r;
    read_with(
        ck_foreign_mergekit,
        "merge_method: linear\nmodels:\n  - {model: m/a.st, parameters: {weight: 0.25}}\n"
        "  - model: b.st+style.st\nparameters: {normalize: false, int8_mask: true, weight: 2}\n"
        "dtype: float32\nout_dtype: bfloat16\n",
        &r);
    assert_string_equal(r.root->method->name, "linear");
    assert_int_equal(r.model_count, 3);
    assert_string_equal(r.models[0].path, "m/a.st");
    assert_string_equal(r.root->inputs[1]->method->name, "lora");
    assert_int_equal(r.root->inputs[1]->inputs[1]->model, 2);
    assert_true(r.root->values[0].items[0] == 0.25 && r.root->values[0].items[1] == 2);
    assert_true(r.root->values[1].items[0] == 0);
    assert_int_equal(r.dtype, CK_BF16);
    assert_int_equal(r.rule_count, 0);
    check_round_trip(&r);
    ck_recipe_free(&r);
    /* Where mergekit differs, its form is meant. */
    read_with(ck_foreign_mergekit, "merge_method: dare_linear\nbase_model: a\nmodels: [{model: b}]",
              &r);
    assert_int_equal(r.root->compat, 1 + ck_word_index(r.root->method->compat, "mergekit"));
    ck_recipe_free(&r);
}

/* The model's own parameters, then the global ones; filters in their order; gradients. */
static void test_mergekit_by_tensor(void **state) {
    (void)state;
    NEEDS_YAML;
    ck_recipe r;
    read_with(ck_foreign_mergekit,
              "merge_method: ties\nbase_model: base\nmodels:\n"
              "  - model: base\n"
              "  - model: a\n    parameters: {weight: [0, 3], density: {filter: mlp, value: 0.5}}\n"
              "  - model: b\n    parameters:\n      weight: [{filter: attn, value: [1, 2]}, "
              "{value: 9}]\n"
              "parameters: {density: 0.25, lambda: 0.7}\n",
              &r);
    const ck_node *root = r.root;
    assert_int_equal(root->input_count, 3);
    for (int layer = 0; layer < 4; layer++) {
        const char *attn = tensors[2 * layer], *mlp = tensors[2 * layer + 1];
        assert_true(fabs(value_of(&r, root, "weight", 0, attn) - layer) < 1e-12);
        assert_true(fabs(value_of(&r, root, "weight", 1, attn) - (1 + layer / 3.0)) < 1e-12);
        assert_true(value_of(&r, root, "weight", 1, mlp) == 9);
        assert_true(value_of(&r, root, "density", 0, mlp) == 0.5);
        assert_true(value_of(&r, root, "density", 0, attn) == 0.25);
        assert_true(value_of(&r, root, "density", 1, attn) == 0.25);
    }
    /* No layer: at the beginning. Rows of their own length. */
    assert_true(value_of(&r, root, "weight", 0, "x*y[0].w") == 0);
    assert_true(value_of(&r, root, "weight", 1, "x*y[0].w") == 9);
    assert_true(value_of(&r, root, "weight", 0, "vae.layers.1.w") == 3);
    assert_true(value_of(&r, root, "lambda", 0, "blocks.0.mlp.w") == 0.7);
    check_round_trip(&r);
    ck_recipe_free(&r);
}

/* One rule for a layer in which all agree; names with glob characters are meant as they are. */
static void test_mergekit_rules(void **state) {
    (void)state;
    NEEDS_YAML;
    ck_recipe r;
    read_with(
        ck_foreign_mergekit,
        "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\n"
        "parameters: {t: [{filter: blocks, value: [0, 0.5, 0.5, 0.5]}, {filter: \"*y\", value: "
        "0.1}, {value: 0.5}]}\n",
        &r);
    assert_int_equal(r.rule_count, 2);
    assert_string_equal(r.rules[0].pattern, "blocks.0.*");
    assert_string_equal(r.rules[1].pattern, "x\\*y\\[0\\].w");
    assert_true(value_of(&r, r.root, "alpha", 0, "x*y[0].w") == 0.1);
    assert_true(value_of(&r, r.root, "alpha", 0, "blocks.0.mlp.w") == 0);
    assert_true(value_of(&r, r.root, "alpha", 0, "blocks.3.mlp.w") == 0.5);
    check_round_trip(&r);
    ck_recipe_free(&r);
}

static void test_mergekit_slices(void **state) {
    (void)state;
    NEEDS_YAML;
    ck_recipe r;
    read_with(ck_foreign_mergekit,
              "merge_method: slerp\nbase_model: a\nslices:\n"
              "- sources: [{model: a, layer_range: [0, 3]}, {model: b, layer_range: [0, 3]}]\n"
              "  parameters: {t: [0, 1]}\n"
              "- sources: [{model: b, layer_range: [3, 4]}, {model: a, layer_range: [3, 4]}]\n"
              "parameters: {t: [0.25, 0.75]}\n",
              &r);
    const double expected[4] = {0, 0.5, 1, 0.75}; /* a single layer is at the end */
    for (int layer = 0; layer < 4; layer++)
        assert_true(value_of(&r, r.root, "alpha", 0, tensors[2 * layer]) == expected[layer]);
    assert_int_equal(r.root->inputs[0]->model, 0);
    check_round_trip(&r);
    ck_recipe_free(&r);

    read_with(ck_foreign_mergekit,
              "merge_method: passthrough\nslices:\n"
              "- sources: [{model: a, layer_range: [0, 1]}]\n"
              "- sources: [{model: b, layer_range: [1, 3]}]\n"
              "- sources: [{model: a, layer_range: [3, 4], parameters: {scale: 2}}]\n",
              &r);
    assert_string_equal(r.root->method->name, "scale");
    assert_int_equal(r.rule_count, 3);
    assert_string_equal(r.rules[0].pattern, "blocks.1.*");
    assert_int_equal(r.rules[0].action, CK_RULE_COPY);
    assert_int_equal(r.rules[0].model, 1);
    assert_string_equal(r.rules[2].pattern, "blocks.3.*");
    assert_true(value_of(&r, r.root, "scale", 0, "blocks.3.mlp.w") == 2);
    assert_true(value_of(&r, r.root, "scale", 0, "vae.layers.0.w") == 1);
    check_round_trip(&r);
    ck_recipe_free(&r);
}

/* Parameters that are called otherwise here. */
static void test_mergekit_renamed(void **state) {
    (void)state;
    NEEDS_YAML;
    ck_recipe r;
    read_with(ck_foreign_mergekit,
              "merge_method: sce\nbase_model: c\nmodels: [{model: a}, {model: b}]\n"
              "parameters: {select_topk: 0.25}",
              &r);
    assert_true(value_of(&r, r.root, "select", 0, "blocks.0.mlp.w") == 0.25);
    ck_recipe_free(&r);
}

/* nuslerp has a base or is slerp at the second's share. */
static void test_mergekit_nuslerp(void **state) {
    (void)state;
    NEEDS_YAML;
    ck_recipe r;
    read_with(ck_foreign_mergekit,
              "merge_method: nuslerp\nmodels: [{model: a, parameters: {weight: 3}}, {model: b, "
              "parameters: {weight: 1}}]\nparameters: {nuslerp_flatten: true}\n",
              &r);
    assert_string_equal(r.root->method->name, "slerp");
    assert_true(r.root->values[0].items[0] == 0.25);
    ck_recipe_free(&r);
    read_with(ck_foreign_mergekit,
              "merge_method: nuslerp\nbase_model: c\nmodels: [{model: a, parameters: {weight: 3}}, "
              "{model: b, parameters: {weight: [1, 1]}}]\n",
              &r);
    assert_string_equal(r.root->method->name, "nuslerp");
    assert_int_equal(r.root->input_count, 3);
    assert_true(value_of(&r, r.root, "weight", 0, "blocks.1.mlp.w") == 3);
    ck_recipe_free(&r);
}

/* multislerp of changes where it has a base. */
static void test_mergekit_multislerp(void **state) {
    (void)state;
    NEEDS_YAML;
    ck_recipe r;
    read_with(ck_foreign_mergekit,
              "merge_method: multislerp\nmodels: [{model: a}, {model: b}, {model: c}]\n", &r);
    assert_string_equal(r.root->method->name, "multi-slerp");
    assert_int_equal(r.root->input_count, 3);
    ck_recipe_free(&r);
    read_with(ck_foreign_mergekit,
              "merge_method: multislerp\nbase_model: c\nmodels: [{model: a, parameters: {weight: "
              "3}}, {model: b}]\n",
              &r);
    assert_string_equal(r.root->method->name, "multi-slerp-of-changes");
    assert_int_equal(r.root->input_count, 3);
    assert_string_equal(r.models[r.root->inputs[0]->model].path, "c");
    assert_true(value_of(&r, r.root, "weight", 0, "blocks.1.mlp.w") == 3);
    ck_recipe_free(&r);
}

/* ---- sd-mecha ---- */

#define VERSION "version 0.1.0\n"
#define TWO     VERSION "model \"a\" model_config=null merge_space=\"weight\"\nmodel \"b\"\n"

static const struct {
    const char *text, *message;
} mecha_mistakes[] = {
    {"", "r: has no instruction"},
    {VERSION "model \"\xff\"", "r: byte 21: not UTF-8"},
    {"version 0.2.0\n", "r:1:9: version 0.2.0 of the format is not known"},
    {TWO VERSION, "r:4:1: the version must come first"},
    {VERSION "sing \"a\"", "r:2:1: 'sing' is no instruction"},
    {VERSION "\"merge\"", "r:2:1: 'merge' is no instruction"},
    {VERSION "model \"a", "r:2:7: a quote that does not end"},
    {VERSION "model", "model needs a path"},
    {VERSION "model a", "model needs a path"},
    {VERSION "model \"a\" device=\"cpu\"", "r:2:11: model has no argument 'device' here"},
    {"literal 1", "'literal' is no instruction"},
    {"parameter \"a\" \"BASE\"", "a recipe with parameters has no models yet"},
    {VERSION "literal", "literal needs a value"},
    {TWO "literal &0", "literal needs a number or a dict"},
    {VERSION "dict", "dict needs key=value"},
    {VERSION "dict 1", "dict needs key=value"},
    {VERSION "dict a=\"x\"", "r:2:6: 'a' must be a number"},
    {VERSION "dict a=nan", "'nan' is no number"},
    {VERSION "dict a=&0", "'&0' is not the result of an earlier line"},
    {TWO "merge", "merge needs the name of a method"},
    {TWO "merge weighted_sum", "merge needs the name of a method"},
    {TWO "merge \"weighted_sum\"", "weighted_sum needs models"},
    {TWO "merge \"rotate\" &0 &1", "r:4:7: sd-mecha's method 'rotate' is not known here"},
    {TWO "merge \"weighted_sum\" &0 &2", "r:4:25: '&2' is not the result"},
    {TWO "merge \"weighted_sum\" &0 &-1", "'&-1' is not the result"},
    {TWO "merge \"weighted_sum\" &0 &1x", "'&1x' is not the result"},
    {TWO "merge \"weighted_sum\" &0", "weighted_sum needs 2 arguments"},
    {TWO "merge \"weighted_sum\" &0 null", "weighted_sum needs 2 arguments"},
    {TWO "merge \"weighted_sum\" &0 &1 0.5 0.5", "weighted_sum has no argument '0.5'"},
    {TWO "merge \"weighted_sum\" &0 &1 0.5 alpha=0.5", "this argument is there twice"},
    {TWO "merge \"weighted_sum\" &0 &1 beta=0.5", "weighted_sum has no argument 'beta'"},
    {TWO "merge \"weighted_sum\" &0 &1 alpha=\"x\"", "alpha must be a number"},
    {TWO "merge \"weighted_sum\" &0 &1 alpha=&1", "alpha must be a number"},
    {TWO "merge \"weighted_sum\" &0 0.5", "must be a model or the result"},
    {TWO "merge \"clamp\" &0 &1 stiffness=0.5", "only stiffness 0"},
    {TWO "merge \"fallback\" &0 &1", "only the first model of a merge can stand in"},
    {TWO "merge \"cast\" &0 null \"int8\"", "cast: must be to float16"},
    {TWO "merge \"cast\" &0 null \"float16\"\nmerge \"weighted_sum\" &2 &1",
     "a cast to float16 within the merge"},
    {TWO "merge \"cast\" &0 dtype=\"float64\"", "results of type float64"},
    {TWO "model \"l\" model_config=\"sd1-kohya_kohya_lora\"\nmerge \"weighted_sum\" &0 &2",
     "a LoRA can only be added"},
    {VERSION "literal 1", "must be a model or the result"},
    {TWO "dict BASE=0 IN0=1\nmerge \"weighted_sum\" &0 &1 &2", "'IN0' is no block"},
    {TWO "dict IN00=1\nmerge \"weighted_sum\" &0 &1 &2", "BASE among them"},
    {TWO "dict BASE=0 IN00=1\ndict BASE=0 IN01=1\nmerge \"weighted_sum\" &0 &1 &2\nmerge "
         "\"weighted_sum\" &4 &1 &3",
     "no number for block 'IN00'"},
    {TWO "dict BASE=0 IN00=1\nmerge \"weighted_sum\" &0 &1 &2\nmerge \"weighted_sum\" &3 &3",
     "must be used once"},
};

static void test_mecha_mistakes(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof mecha_mistakes / sizeof *mecha_mistakes; i++) {
        ck_recipe r;
        ck_error err = {0};
        const char *text = mecha_mistakes[i].text;
        if (ck_foreign_mecha("r", text, strlen(text), &where, &r, &err) == CK_OK)
            fail_msg("accepted: %s", text);
        check_text(text, &err, mecha_mistakes[i].message);
    }
    /* Expressions that double with every line. */
    char text[4096] = TWO "merge \"weighted_sum\" &0 &1\n";
    for (int i = 2; i < 60; i++)
        sprintf(text + strlen(text), "merge \"weighted_sum\" &%d &%d\n", i, i);
    ck_recipe r;
    ck_error err;
    assert_int_equal(ck_foreign_mecha("r", text, strlen(text), &where, &r, &err), CK_INPUT);
    check_text(text, &err, "more than 1024 nodes");
}

/* As sd-mecha 1.1.8 writes add_difference(a, b, c, alpha=0.3). */
static void test_mecha_difference(void **state) {
    (void)state;
    ck_recipe r;
    read_with(ck_foreign_mecha,
              VERSION "# a comment\n\nmodel \"m/a.safetensors\" model_config=null "
                      "merge_space=\"weight\"\nmodel \"b.safetensors\" model_config=null "
                      "merge_space=\"weight\"\nmodel \"c \\\"x.safetensors\" model_config=null "
                      "merge_space=\"weight\"\nmerge \"subtract\" &1 &2\ndict key=0.3\nliteral &4 "
                      "model_config=\"singleton-mecha\" merge_space=null\nmerge "
                      "\"convert_singleton\" &5\nmerge \"add_difference\" &0 &3 &6\nmerge "
                      "\"fallback\" &7 &0\nmerge \"cast\" &8 null \"float16\"",
              &r);
    assert_string_equal(r.root->method->name, "add-difference");
    assert_true(r.root->values[0].items[0] == 0.3);
    assert_int_equal(r.root->inputs[2]->model, 2);
    assert_string_equal(r.models[2].path, "c \"x.safetensors");
    assert_int_equal(r.dtype, CK_F16);
    check_round_trip(&r);
    ck_recipe_free(&r);
}

/* As 0.0.29 writes it: no version, no literals, types as places. */
static void test_mecha_old(void **state) {
    (void)state;
    ck_recipe r;
    read_with(ck_foreign_mecha,
              "model \"a\" \"sd1\" \"base\"\nmodel \"b.safetensors\" \"sd1\" \"base\"\nmodel "
              "\"l\" \"sd1\" \"lora\"\nmerge \"weighted_sum\" &0 &1 alpha=0.3\nmerge "
              "\"add_difference\" &3 &2 alpha=1e-1\nmerge \"clamp\" &4 &0 &1 stiffness=0.0\n",
              &r);
    assert_string_equal(r.models[0].path, "a.safetensors");
    assert_string_equal(r.root->method->name, "clamp");
    const ck_node *lora = r.root->inputs[0];
    assert_string_equal(lora->method->name, "lora");
    assert_true(lora->values[0].items[0] == 0.1);
    assert_true(lora->inputs[0]->values[0].items[0] == 0.3);
    check_round_trip(&r);
    ck_recipe_free(&r);
}

/* Where sd-mecha differs, its form is meant. */
static void test_mecha_slerp(void **state) {
    (void)state;
    ck_recipe r;
    read_with(ck_foreign_mecha, TWO "merge \"slerp\" &0 &1\nmerge \"add_cosine_a\" &2 &1 0.2", &r);
    assert_string_equal(r.root->method->name, "cosine-a");
    const ck_node *slerp = r.root->inputs[0];
    assert_true(slerp->values[0].items[0] == 0.5);
    assert_int_equal(slerp->compat, 1 + ck_word_index(slerp->method->compat, "mecha"));
    check_round_trip(&r);
    ck_recipe_free(&r);
}

static void test_mecha_blocks(void **state) {
    (void)state;
    ck_recipe r;
    read_with(ck_foreign_mecha,
              TWO "dict BASE=0.1 IN00=0.2 M00=0.5 OUT10=0.8 OUT11=0.9 VAE=0\nliteral &2 "
                  "model_config=\"sd1-supermerger_blocks\" merge_space=null\nmerge "
                  "\"weighted_sum\" &0 &1 &3\nmerge \"scale\" &4 alpha=2",
              &r);
    const ck_node *mix = r.root->inputs[0];
    const struct {
        const char *tensor;
        double value;
    } expected[] = {{"model.diffusion_model.input_blocks.0.0.weight", 0.2},
                    {"model.diffusion_model.middle_block.1.x", 0.5},
                    {"model.diffusion_model.output_blocks.10.0.x", 0.8},
                    {"model.diffusion_model.output_blocks.11.0.x", 0.9},
                    {"model.diffusion_model.out.2.weight", 0.9},
                    {"model.diffusion_model.time_embed.0.weight", 0.1},
                    {"cond_stage_model.x", 0.1},
                    {"first_stage_model.x", 0}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        assert_true(value_of(&r, mix, "alpha", 0, expected[i].tensor) == expected[i].value);
    check_round_trip(&r);
    ck_recipe_free(&r);
}

/* ---- Both ---- */

static void test_layers(void **state) {
    (void)state;
    static const struct {
        const char *name;
        size_t index, length, end;
    } expected[] = {
        {"model.diffusion_model.input_blocks.11.0.w", 11, 25, 37},
        {"model.diffusion_model.middle_block.1.transformer_blocks.0.w", 12, 25, 34},
        {"model.diffusion_model.output_blocks.11.0.w", 24, 25, 38},
        {"model.diffusion_model.time_embed.0.w", 0, 0, 0},
        {"te.text_model.encoder.layers.3.mlp.w", 3, 4, 30},
        {"double_blocks.1.img.w", 1, 2, 15},
        {"single_blocks.2.img.w", 2, 3, 15},
        {"encoder.down_blocks.1.resnets.0.w", 1, 3, 21},
        {"encoder.mid_block.resnets.0.w", 2, 3, 17},
        {"layers.12345.w", 0, 0, 0},
        {"layers.2", 0, 0, 0},
    };
    enum { COUNT = sizeof expected / sizeof *expected };
    const char *names[COUNT];
    for (size_t i = 0; i < COUNT; i++) names[i] = expected[i].name;
    ck_arena arena = {0};
    const ck_layer *layers = ck_layers_find(names, COUNT, &arena);
    assert_non_null(layers);
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(layers[i].length, expected[i].length);
        assert_int_equal(layers[i].row == SIZE_MAX, expected[i].length == 0);
        assert_int_equal(layers[i].index, expected[i].index);
        assert_int_equal(layers[i].end, expected[i].end);
    }
    assert_int_equal(layers[0].row, layers[2].row);
    assert_int_not_equal(layers[5].row, layers[6].row);
    ck_arena_free(&arena);
}

/* Told by content; models found in their folders. */
static void test_load(void **state) {
    (void)state;
    NEEDS_YAML;
    fixture f;
    fixture_make(&f);
    static const float value = 1;
    const fixture_tensor t[] = {
        {.name = "blocks.0.w", .dtype = CK_F32, .shape = {1}, .rank = 1, .data = &value},
        {.name = "blocks.1.w", .dtype = CK_F32, .shape = {1}, .rank = 1, .data = &value}};
    fixture_safetensors(&f, "here.st", t, 2, NULL);
    char dir[] = "/tmp/ck-foreign-XXXXXX", other[64];
    assert_non_null(mkdtemp(dir));
    snprintf(other, sizeof other, "%s/there.st", dir);
    assert_int_equal(rename(fixture_safetensors(&f, "there.st", t, 2, NULL), other), 0);
    const char *const dirs[] = {dir};
    const ck_foreign places = {.model_dirs = dirs, .model_dir_count = 1};
    static const char *const texts[] = {
        "# x\nmerge_method: linear\nmodels: [{model: here.st, parameters: {weight: [1, 2]}}, "
        "{model: there.st}]",
        VERSION "model \"here.st\"\nmodel \"/no/such/there.st\"\nmerge \"n_average\" &0 &1",
        "model \"here.st\" \"sd1\" \"base\"\nmodel \"there.st\"\nmerge \"n_average\" &0 &1"};
    for (int i = 0; i < 3; i++) {
        ck_recipe r;
        ck_error err;
        const char *path = fixture_file(&f, "recipe", texts[i], strlen(texts[i]));
        if (ck_recipe_load_any(path, &places, NULL, 0, &r, &err) != CK_OK)
            fail_msg("%s", err.message);
        assert_string_equal(r.models[0].path, fixture_path(&f, "here.st"));
        assert_string_equal(r.models[1].path, other);
        assert_int_equal(r.rule_count, i == 0 ? 1 : 0);
        ck_recipe_free(&r);
        const char *const set[] = {"a=1"};
        assert_int_equal(ck_recipe_load_any(path, &places, set, 1, &r, &err), CK_USAGE);
        check_text(texts[i], &err, "has no variables");
    }
    unlink(other);
    rmdir(dir);
    fixture_remove(&f);
}

static void test_faults(void **state) {
    (void)state;
    NEEDS_YAML;
    const struct {
        front_end *read;
        const char *text;
    } cases[] = {
        {ck_foreign_mergekit,
         "merge_method: linear\nmodels: [{model: a+l, parameters: {weight: [0, 1]}}, {model: b, "
         "parameters: {weight: {filter: y, value: 2}}}]"},
        {ck_foreign_mecha, TWO "dict BASE=1 IN00=1\nmerge \"subtract\" &0 &1\nmerge "
                               "\"add_difference\" &0 &3 &2"}};
    const fault_kind kinds[] = {FAULT_CALLOC, FAULT_REALLOC};
    for (int c = 0; c < 2; c++)
        for (int k = 0; k < 2; k++)
            for (fault_first(kinds[k], ENOMEM); fault_more();) {
                ck_recipe r;
                ck_error err = {0};
                fault_arm();
                ck_status status =
                    cases[c].read("r", cases[c].text, strlen(cases[c].text), &where, &r, &err);
                fault_disarm();
                assert_int_equal(status, fault_hit() ? CK_MEMORY : CK_OK);
                if (status == CK_OK) ck_recipe_free(&r);
            }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mergekit_mistakes),
        cmocka_unit_test(test_mergekit_linear),
        cmocka_unit_test(test_mergekit_by_tensor),
        cmocka_unit_test(test_mergekit_rules),
        cmocka_unit_test(test_mergekit_slices),
        cmocka_unit_test(test_mergekit_nuslerp),
        cmocka_unit_test(test_mergekit_multislerp),
        cmocka_unit_test(test_mergekit_renamed),
        cmocka_unit_test(test_mecha_mistakes),
        cmocka_unit_test(test_mecha_difference),
        cmocka_unit_test(test_mecha_old),
        cmocka_unit_test(test_mecha_blocks),
        cmocka_unit_test(test_mecha_slerp),
        cmocka_unit_test(test_layers),
        cmocka_unit_test(test_load),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
