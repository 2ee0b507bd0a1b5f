/* ckmerge as its users meet it: names, messages, exit statuses, recipes that replay. */
#include "tests/check.h"

#include "kernels/kernels.h"
#include "tests/fixture.h"
#include "tests/program.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static fixture f;

static const char metadata_of_a[] =
    "{\"author\":\"me\",\"modelspec.hash_sha256\":\"0x1\",\"modelspec.sai_model_spec\":\"1.0.1\","
    "\"modelspec.title\":\"Ay\",\"modelspec.date\":\"2024-01-01\",\"modelspec.prediction_type\":"
    "\"v\"}";

/* a, b, c: one float tensor of 1, 2, 4 everywhere, and one of integers; a has metadata. */
static int setup(void **state) {
    (void)state;
    fixture_make(&f);
    static float values[3][1000];
    static const int32_t ids[2] = {7, 8};
    const char *const names[] = {"a.safetensors", "b.safetensors", "c.safetensors"};
    for (int m = 0; m < 3; m++) {
        for (int i = 0; i < 1000; i++) values[m][i] = (float)(1 << m);
        const fixture_tensor t[] = {
            {.name = "unet.w", .dtype = CK_F32, .shape = {10, 100}, .rank = 2, .data = values[m]},
            {.name = "vae.w", .dtype = CK_F32, .shape = {5}, .rank = 1, .data = values[m]},
            {.name = "ids", .dtype = CK_I32, .shape = {2}, .rank = 1, .data = ids}};
        fixture_safetensors(&f, names[m], t, 3, m == 0 ? metadata_of_a : NULL);
    }
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_remove(&f);
    return 0;
}

static float first_value(const char *name, const char *tensor) {
    ck_reader *r;
    ck_error err;
    float value = -1;
    if (ck_reader_open(fixture_path(&f, name), &r, &err) != CK_OK) fail_msg("%s", err.message);
    const ck_tensor *t = ck_reader_find(r, tensor);
    assert_non_null(t);
    assert_int_equal(ck_reader_read(r, t, 0, &value, sizeof value, &err), CK_OK);
    ck_reader_close(r);
    return value;
}

/* A tensor's values, which must be of this type, as f32; the caller frees. */
static float *values_of(const char *path, const char *tensor, ck_dtype dtype, size_t *count) {
    ck_reader *r;
    ck_error err;
    if (ck_reader_open(path, &r, &err) != CK_OK) fail_msg("%s", err.message);
    const ck_tensor *t = ck_reader_find(r, tensor);
    if (!t) fail_msg("%s has no %s", path, tensor);
    assert_int_equal(t->dtype, dtype);
    unsigned char *raw = malloc((size_t)t->nbytes);
    assert_int_equal(ck_reader_read(r, t, 0, raw, (size_t)t->nbytes, &err), CK_OK);
    *count = (size_t)t->nbytes / (ck_dtype_bits(dtype) / 8);
    float *values = malloc(*count * sizeof *values);
    ck_kernels_best()->decode[dtype](values, raw, *count);
    free(raw);
    ck_reader_close(r);
    return values;
}

static bool exists(const char *name) {
    return access(fixture_path(&f, name), F_OK) == 0;
}

static void test_names(void **state) {
    (void)state;
    program_expect(program_run(f.folder, "ckmerge a.safetensors b.safetensors --alpha 0.25"), 0,
                   "a-b-0.25.safetensors", NULL);
    assert_true(first_value("a-b-0.25.safetensors", "unet.w") == 1.25f);
    program_expect(program_run(f.folder, "ckmerge ./a.safetensors b.safetensors"), 0,
                   "in a-b-0.5.safetensors", NULL);
    program_expect(program_run(f.folder, "ckmerge a.safetensors b.safetensors c.safetensors -m "
                                         "add_difference --alpha 0.5"),
                   0, "a-b-c-add-difference-0.5.safetensors", NULL);
    assert_true(first_value("a-b-c-add-difference-0.5.safetensors", "unet.w") == 0.0f);
    program_expect(program_run(f.folder, "ckmerge a.safetensors b.safetensors c.safetensors "
                                         "--weight 1,1,2 -o o"),
                   0, "in o", NULL);
    assert_true(first_value("o", "unet.w") == 2.75f);
    program_expect(
        program_run(f.folder, "ckmerge b.safetensors -m scale --set scale=2 -o twice -q"), 0, "",
        NULL);
    assert_true(first_value("twice", "unet.w") == 2 * first_value("b.safetensors", "unet.w"));
    program_expect(program_run(f.folder, "ckmerge b.safetensors -m slerp"), 2, NULL,
                   "takes 2 models, 1 given");
    program_expect(program_run(f.folder, "ckmerge a.safetensors b.safetensors --weight 1,2 "
                                         "--normalize off -o p -q"),
                   0, "", NULL);
    assert_true(first_value("p", "unet.w") == 5.0f);
    program_expect(program_run(f.folder,
                               "ckmerge b.safetensors c.safetensors --base a.safetensors -m "
                               "task-arithmetic --weight 0.5,2 -o t -q"),
                   0, "", NULL);
    assert_true(first_value("t", "unet.w") == 7.5f);
    program_expect(program_run(f.folder,
                               "ckmerge b.safetensors c.safetensors --base a.safetensors -m "
                               "task-arithmetic --weight 0.5,2 --lambda 2 -o u -q"),
                   0, "", NULL);
    assert_true(first_value("u", "unet.w") == 14.0f);
    program_expect(program_run(f.folder, "ckmerge a.safetensors b.safetensors --alpha 0.25 "
                                         "--compat comfy -o v -q --write-recipe v.json && "
                                         "ckmerge --recipe v.json -o w -q"),
                   0, "", NULL);
    assert_true(first_value("v", "unet.w") == 1.75f && first_value("w", "unet.w") == 1.75f);
}

/* One spelling of what is on or off, wherever it is given, written and told. */
static void test_on_off(void **state) {
    (void)state;
    program_expect(program_run(f.folder, "ckmerge help rebasin"), 0, "weight matching", NULL);
    program_expect(program_run(f.folder, "ckmerge help ties"), 0,
                   "on or off: divide by the sum of the weights that count", NULL);
    program_expect(program_run(f.folder, "ckmerge a.safetensors b.safetensors -m linear --weight "
                                         "1,2 --set normalize=off -qo s --write-recipe s.json && "
                                         "grep -q '\"normalize\":.*\"off\"' s.json && "
                                         "ckmerge --recipe s.json -fqo s && "
                                         "ckmerge --recipe s.json -n"),
                   0, "normalize=off", NULL);
    assert_true(first_value("s", "unet.w") == 5.0f);
    program_expect(program_run(f.folder, "ckmerge explain s.json"), 0, "normalize off", NULL);
    program_expect(program_run(f.folder, "sed 's/\"off\"/\"$how\"/; "
                                         "s/\"models\"/\"variables\":{\"how\":\"on\"},&/' "
                                         "s.json > how.json && ckmerge --recipe how.json -fqo s"),
                   0, "", NULL);
    assert_true(fabsf(first_value("s", "unet.w") - 5.0f / 3) < 1e-6f);
    program_expect(program_run(f.folder, "ckmerge --recipe how.json --set how=off -fqo s"), 0, "",
                   NULL);
    assert_true(first_value("s", "unet.w") == 5.0f);
    program_expect(program_run(f.folder, "sed 's/\"off\"/0/' s.json > number.json && "
                                         "ckmerge --recipe number.json"),
                   1, NULL, "must be \"on\" or \"off\"");
}

static void test_usage(void **state) {
    (void)state;
    static const char *const lines[][2] = {
        {"ckmerge", "at least two models"},
        {"ckmerge a.safetensors", "at least two models"},
        {"ckmerge a.safetensors b.safetensors c.safetensors", "3 models need --method"},
        {"ckmerge a.safetensors b.safetensors --alhpa 1", "did you mean --alpha?"},
        {"ckmerge a.safetensors b.safetensors -m weihgted-sum", "did you mean weighted-sum?"},
        {"ckmerge a.safetensors b.safetensors -m add-difference", "takes 3 models, 2 given"},
        {"ckmerge a.safetensors b.safetensors --weight 1,x", "must be numbers"},
        {"ckmerge a.safetensors b.safetensors --weight 1", "takes 2 numbers"},
        {"ckmerge a.safetensors b.safetensors -m linear --alpha 1",
         "no parameter 'alpha'; it has: weight, normalize"},
        {"ckmerge a.safetensors b.safetensors --set beta=1", "no parameter 'beta'"},
        {"ckmerge a.safetensors b.safetensors --set alpha", "must be NAME=VALUE"},
        {"ckmerge a.safetensors b.safetensors --rule x", "PATTERN=NUMBER"},
        {"ckmerge a.safetensors b.safetensors --rule x=y", "'y' is not a number"},
        {"ckmerge a.safetensors b.safetensors --rule x=copy:z", "there is no model 'z'"},
        {"ckmerge a.safetensors b.safetensors --dtype f64", "must be one of keep|f32"},
        {"ckmerge a.safetensors b.safetensors --lock", "needs --write-recipe"},
        {"ckmerge a.safetensors b.safetensors -o a.safetensors", "a.safetensors exists; --force"},
        {"ckmerge a.safetensors b.safetensors -o folder/", "is written to one file"},
        {"ckmerge --recipe r.json a.safetensors", "names its models itself"},
        {"ckmerge --recipe r.json --alpha 1", "do not go with --recipe"},
        {"ckmerge a.safetensors b.safetensors --base c.safetensors", "3 models need --method"},
        {"ckmerge a.safetensors b.safetensors --base c.safetensors -m linear",
         "linear has no base"},
        {"ckmerge a.safetensors b.safetensors --compat mergekit",
         "weighted-sum has no form of its own for 'mergekit', only for comfy"},
        {"ckmerge a.safetensors b.safetensors --lambda 1", "no parameter 'lambda'"},
        {"ckmerge a.safetensors b.safetensors -m linear --normalize 1", "must be one of on|off"},
        {"ckmerge a.safetensors b.safetensors -m linear --set normalize=1", "must be on or off"},
        {"ckmerge a.safetensors b.safetensors -m linear -b normalize=cosine:0,1",
         "normalize is on or off, for all blocks"},
        {"ckmerge help nothing", "there is no method"},
        {"ckmerge help model-stok", "did you mean model-stock?"},
        {"ckmerge help", "`ckmerge help METHOD`"},
        {"ckmerge a.safetensors b.safetensors --sweep block-weights=GRAD_V,GRAD_A",
         "no parameter 'block-weights'"},
        {"ckmerge methods --json", "`ckmerge methods` takes nothing else"},
        {"CK_ISA=none ckmerge a.safetensors b.safetensors", "CK_ISA='none'"},
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        program_expect(program_run(f.folder, "%s", lines[i][0]), 2, NULL, lines[i][1]);
    assert_false(exists("a-b-0.5.safetensors"));
}

static void test_input_errors(void **state) {
    (void)state;
    fixture_file(&f, "bad.safetensors", "\x04\0\0\0\0\0\0\0[  ]", 12);
    program_expect(program_run(f.folder, "ckmerge a.safetensors bad.safetensors -o o"), 1, NULL,
                   "bad.safetensors: invalid header at offset 8: must be a JSON object");
    program_expect(program_run(f.folder, "ckmerge a.safetensors none.safetensors -o o"), 1, NULL,
                   "none.safetensors: No such file");
    program_expect(program_run(f.folder, "ckmerge a.safetensors b.safetensors -o no/o"), 1, NULL,
                   "no/o: ");
    program_expect(program_run(f.folder, "ckmerge a.safetensors b.safetensors -o /dev/full"), 2,
                   NULL, "/dev/full");
    assert_false(exists("o"));
}

static void test_dry_run(void **state) {
    (void)state;
    int entries = fixture_entries(&f);
    program_expect(program_run(f.folder, "ckmerge a.safetensors b.safetensors -n --rule "
                                         "'vae.*=exclude' --rule 'un*=0.75'"),
                   0, "mixed        F32     [10,100] unet.w alpha=0.75 (rule un*)", NULL);
    outcome *o = program_run(f.folder, "ckmerge a.safetensors b.safetensors --dry-run --json");
    program_expect(o, 0, NULL, NULL);
    cJSON *json = cJSON_Parse(o->out);
    assert_non_null(json);
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(json, "dry_run")));
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(json, "plan")), 3);
    cJSON *counts = cJSON_GetObjectItem(json, "counts");
    assert_int_equal(cJSON_GetObjectItem(counts, "mixed")->valueint, 2);
    assert_int_equal(cJSON_GetObjectItem(counts, "kept_type")->valueint, 1);
    int planned = cJSON_GetObjectItem(json, "bytes")->valueint;
    cJSON_Delete(json);
    assert_int_equal(fixture_entries(&f), entries);
    /* The size that was planned is the size that it gets. */
    o = program_run(f.folder, "ckmerge a.safetensors b.safetensors --json");
    json = cJSON_Parse(o->out);
    assert_int_equal(cJSON_GetObjectItem(json, "bytes")->valueint, planned);
    cJSON_Delete(json);
    size_t n;
    free(fixture_read(fixture_path(&f, "a-b-0.5.safetensors"), &n));
    assert_int_equal(n, planned);
}

static void test_rules(void **state) {
    (void)state;
    program_expect(program_run(f.folder,
                               "ckmerge a.safetensors b.safetensors c.safetensors -m "
                               "add-difference -o o --rule 'vae.*=copy:c' --rule 'ids=drop'"
                               " --rule '*=2'"),
                   0, "copied by a rule", NULL);
    assert_true(first_value("o", "vae.w") == 4);
    assert_true(first_value("o", "unet.w") == -3);
}

/* position_ids of which a tool has made floats are not mixed, with whatever the other model has. */
static void test_position_ids(void **state) {
    (void)state;
    static const float w[2] = {1, 2}, broken[3] = {0, 1.5f, 2};
    static const int64_t whole[3] = {0, 1, 2};
    const fixture_tensor t[] = {
        {.name = "w", .dtype = CK_F32, .shape = {2}, .rank = 1, .data = w},
        {.name = "te.position_ids", .dtype = CK_F32, .shape = {3}, .rank = 1, .data = broken},
        {.name = "te.position_ids", .dtype = CK_I64, .shape = {3}, .rank = 1, .data = whole}};
    const fixture_tensor other[] = {t[0], t[2]};
    fixture_safetensors(&f, "floats.safetensors", t, 2, NULL);
    fixture_safetensors(&f, "integers.safetensors", other, 2, NULL);
    program_expect(program_run(f.folder,
                               "ckmerge floats.safetensors integers.safetensors -o o --dtype f16; "
                               "ckmerge integers.safetensors floats.safetensors -q -o p; "
                               "ckmerge floats.safetensors integers.safetensors -q -o healed "
                               "--rule '*position_ids=copy:b'"),
                   0, "1 tensors kept: no weights", NULL);
    size_t n;
    float *kept = values_of(fixture_path(&f, "o"), "te.position_ids", CK_F32, &n);
    assert_memory_equal(kept, broken, sizeof broken);
    free(kept);
    static const char *const good[] = {"p", "healed"};
    for (size_t i = 0; i < 2; i++) {
        ck_reader *r;
        ck_error err;
        int64_t ids[3];
        assert_int_equal(ck_reader_open(fixture_path(&f, good[i]), &r, &err), CK_OK);
        const ck_tensor *found = ck_reader_find(r, "te.position_ids");
        assert_int_equal(found->dtype, CK_I64);
        assert_int_equal(ck_reader_read(r, found, 0, ids, sizeof ids, &err), CK_OK);
        assert_memory_equal(ids, whole, sizeof whole);
        ck_reader_close(r);
    }
}

static void test_warnings(void **state) {
    (void)state;
    program_expect(program_run(f.folder, "ckmerge a.safetensors b.safetensors --alpha 1.5 -o o"), 0,
                   NULL, "alpha is outside 0..1");
    program_expect(
        program_run(f.folder, "ckmerge a.safetensors b.safetensors --alpha 99999 --dtype f16 "
                              "-o p"),
        0, NULL, "1005 values were too large for the result's type, first in tensor 'unet.w'");
    program_expect(
        program_run(f.folder, "ckmerge a.safetensors b.safetensors --alpha 1.5 -q -fo o"), 0, "",
        "");
}

static char *metadata(const char *name, const char *key) {
    ck_reader *r;
    ck_error err;
    assert_int_equal(ck_reader_open(fixture_path(&f, name), &r, &err), CK_OK);
    const char *value = ck_reader_meta(r, key);
    char *copy = value ? strdup(value) : NULL;
    ck_reader_close(r);
    return copy;
}

static void test_metadata(void **state) {
    (void)state;
    program_expect(program_run(f.folder, "ckmerge a.safetensors b.safetensors -o ab --alpha 0.25"),
                   0, NULL, NULL);
    program_expect(program_run(f.folder, "ckmerge ab c.safetensors -o abc --hash-models"), 0, NULL,
                   NULL);
    char *author = metadata("abc", "author"), *format = metadata("abc", "format"),
         *recipe = metadata("abc", "sd_merge_recipe"), *models = metadata("abc", "sd_merge_models"),
         *own = metadata("abc", "ckmerge_recipe");
    assert_string_equal(author, "me");
    assert_string_equal(format, "pt");
    assert_null(metadata("abc", "modelspec.hash_sha256"));
    assert_null(metadata("abc", "modelspec.date"));
    char *title = metadata("abc", "modelspec.title"),
         *from = metadata("abc", "modelspec.merged_from"),
         *prediction = metadata("abc", "modelspec.prediction_type");
    assert_string_equal(title, "Ay + b.safetensors + c.safetensors");
    assert_string_equal(from, "Ay + b.safetensors, c.safetensors");
    assert_string_equal(prediction, "v");
    free(title), free(from), free(prediction);
    cJSON *r = cJSON_Parse(recipe), *m = cJSON_Parse(models);
    assert_string_equal(cJSON_GetObjectItem(r, "interp_method")->valuestring, "Weighted sum");
    assert_true(cJSON_GetObjectItem(r, "multiplier")->valuedouble == 0.5);
    const char *hash = cJSON_GetObjectItem(r, "primary_model_hash")->valuestring;
    assert_int_equal(strlen(hash), 64);
    /* ab, c and, flattened in, what ab was made of. */
    cJSON *ab = cJSON_GetObjectItem(m, hash);
    assert_string_equal(cJSON_GetObjectItem(ab, "name")->valuestring, "ab");
    cJSON *parent = cJSON_GetObjectItem(ab, "sd_merge_recipe");
    assert_true(cJSON_GetObjectItem(parent, "multiplier")->valuedouble == 0.25);
    const char *grandparent = cJSON_GetObjectItem(parent, "primary_model_hash")->valuestring;
    assert_string_equal(
        cJSON_GetObjectItem(cJSON_GetObjectItem(m, grandparent), "name")->valuestring,
        "a.safetensors");
    assert_non_null(strstr(own, "\"alpha\":0.5"));
    cJSON_Delete(r), cJSON_Delete(m);
    free(author), free(format), free(recipe), free(models), free(own);
}

static void same_file(const char *a, const char *b) {
    size_t n, m;
    unsigned char *x = fixture_read(fixture_path(&f, a), &n),
                  *y = fixture_read(fixture_path(&f, b), &m);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    free(x), free(y);
}

/* The recipe of any command line gives the same bytes again; a locked one also from another folder,
 * and not from other models. */
static void test_replay(void **state) {
    (void)state;
    program_expect(program_run(f.folder,
                               "ckmerge a.safetensors b.safetensors c.safetensors -m "
                               "add-difference --alpha 0.7 -o one --rule 'vae*=0.1' --dtype "
                               "bf16 --write-recipe r.json --lock"),
                   0, "recipe  r.json", NULL);
    program_expect(program_run(f.folder, "ckmerge --recipe r.json -o two"), 0, NULL, NULL);
    same_file("one", "two");
    program_expect(program_run(f.folder, "mkdir sub && cd sub && ckmerge --recipe ../r.json -t 1"),
                   0, "r.safetensors", NULL);
    same_file("one", "sub/r.safetensors");
    program_expect(program_run(f.folder, "cp b.safetensors sub/; cp a.safetensors b.safetensors; "
                                         "ckmerge --recipe r.json -o three"),
                   1, NULL, "not the file that the recipe was made with");
    assert_false(exists("three"));
    program_expect(program_run(f.folder, "cp sub/b.safetensors .; ckmerge --recipe r.json -o three "
                                         "--dtype f16"),
                   1, NULL, "differs from what the recipe's lock says");
    assert_false(exists("three"));
    program_expect(
        program_run(f.folder, "ckmerge a.safetensors b.safetensors --write-recipe r.json"), 2, NULL,
        "r.json exists; --force");
}

/* Every recipe that we ship runs. */
static void test_shipped_recipes(void **state) {
    (void)state;
    char root[4096];
    assert_non_null(getcwd(root, sizeof root));
#ifndef CK_HAVE_YAML
    skip();
#endif
    program_expect(program_run(f.folder,
                               "for r in '%s'/recipes/*.*[nla]; do ckmerge --recipe \"$r\" -q "
                               "|| exit 9; done; ls *.safetensors | wc -l",
                               root),
                   0, "13\n", NULL);
    program_expect(program_run(f.folder,
                               "ckmerge --recipe '%s'/recipes/weighted-sum.json -o w --set "
                               "alpha=0.9 -n | grep -c alpha=0.9",
                               root),
                   0, "484\n", NULL);
}

/* Ctrl-C in the midst of two gigabytes (of zeros that take no space): nothing is left. */
static void test_interrupt(void **state) {
    (void)state;
    program_expect(program_run(f.folder, "for m in x y; do printf '%%b' "
                                         "'\\0110\\0\\0\\0\\0\\0\\0\\0' > $m; "
                                         "printf '%%-72s' '{\"w\":{\"dtype\":\"F16\",\"shape\":["
                                         "1000000000],\"data_offsets\":[0,2000000000]}}' >> $m; "
                                         "truncate -s 2000000080 $m; done"),
                   0, NULL, NULL);
    int entries = fixture_entries(&f);
    outcome *o =
        program_run(f.folder, "CK_ISA=portable timeout --preserve-status -s INT 0.3 ckmerge x y "
                              "-o o -t 1");
    program_expect(o, 130, "", NULL);
    assert_int_equal(fixture_entries(&f), entries);
}

/* With --resume what is done stays, and the message says how to go on. */
static void test_resume(void **state) {
    (void)state;
    outcome *o =
        program_run(f.folder, "for m in x y; do printf '%%b' "
                              "'\\0110\\0\\0\\0\\0\\0\\0\\0' > $m; "
                              "printf '%%-72s' '{\"w\":{\"dtype\":\"F16\",\"shape\":["
                              "100000000],\"data_offsets\":[0,200000000]}}' >> $m; "
                              "truncate -s 200000080 $m; done; "
                              "CK_ISA=portable timeout --preserve-status -s INT 0.02 "
                              "ckmerge x y -o o -t 1 --resume; ls o* || ckmerge x y -o o --resume");
    /* (It may have been stopped before it began, and cannot be so fast as to be done.) */
    if (strstr(o->err, "stopped"))
        program_expect(o, 0, "o.partial\no.partial.journal\n", "stopped; what is done is kept in ");
    program_expect(program_run(f.folder, "ckmerge x y -o o --resume -q; ckmerge x y -o p -q; "
                                         "cmp o p && ls o*; rm o p"),
                   0, "o\n", "");
}

/* Quantised weights mixed with plain ones, in either order: the values that the gguf package gives
 * stand beside them in the file. */
static void test_gguf(void **state) {
    (void)state;
    enum { WIDE = 3 * 512, NARROW = 3 * 64 };
    static const char gguf[] = "tests/data/gguf/reference.gguf";
    static const char *const names[] = {"Q4_0", "Q5_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K"};
    uint16_t half[WIDE];
    for (size_t i = 0; i < WIDE; i++) half[i] = 0x3C00; /* 1 */
    fixture_tensor tensors[6];
    for (size_t i = 0; i < 6; i++)
        tensors[i] = (fixture_tensor){.name = names[i],
                                      .dtype = CK_F16,
                                      .shape = {3, i < 3 ? NARROW / 3 : WIDE / 3},
                                      .rank = 2,
                                      .data = half};
    fixture_safetensors(&f, "plain.safetensors", tensors, 6, NULL);
    char root[4096];
    assert_non_null(getcwd(root, sizeof root));
    program_expect(program_run(f.folder,
                               "cp '%s/%s' q.gguf; ckmerge plain.safetensors q.gguf --alpha 0.25 "
                               "-q -o plain && ckmerge q.gguf plain.safetensors --alpha 0.25 -q "
                               "-o quantised",
                               root, gguf),
                   0, NULL, NULL);
    for (size_t i = 0; i < 6; i++) {
        size_t n, m;
        char name[32];
        snprintf(name, sizeof name, "%s.expected", names[i]);
        float *q = values_of(gguf, name, CK_F32, &n);
        float *a = values_of(fixture_path(&f, "plain"), names[i], CK_F16, &m);
        float *b = values_of(fixture_path(&f, "quantised"), names[i], CK_F32, &m);
        assert_int_equal(n, m);
        for (size_t k = 0; k < n; k++) {
            float mixed = fmaf(0.25f, q[k] - 1, 1);
            assert_true(fabsf(a[k] - mixed) <= fabsf(mixed) * 0x1p-11f + 0x1p-25f);
            assert_true(b[k] == fmaf(0.25f, 1 - q[k], q[k]));
        }
        free(q), free(a), free(b);
    }
}

/* One file for each value, with the bytes of a merge of its own. */
static void test_sweep(void **state) {
    (void)state;
    program_expect(program_run(f.folder, "ckmerge a.safetensors b.safetensors --sweep "
                                         "alpha=-0.1:1:0.1"),
                   0, "a-b-alpha-0.safetensors\na-b-alpha-0.1.safetensors\n",
                   "alpha is outside 0..1");
    program_expect(program_run(f.folder,
                               "ls a-b-alpha-*.safetensors | wc -l; for v in -0.1 0 0.3 "
                               "0.7 1; do ckmerge a.safetensors b.safetensors --alpha=$v "
                               "-q -f -o one; cmp one a-b-alpha-$v.safetensors || exit 9; "
                               "done"),
                   0, "12\n", NULL);
    outcome *o = program_run(f.folder, "ckmerge b.safetensors c.safetensors --base a.safetensors "
                                       "-m ties --sweep 'weight=1,2;2,1' -o d/t.st -q; mkdir d; "
                                       "ckmerge b.safetensors c.safetensors --base a.safetensors "
                                       "-m ties --sweep 'weight=1,2;2,1' -o d/t.st --json");
    program_expect(o, 0, NULL, "d/t-weight-1-2.st");
    cJSON *json = cJSON_Parse(o->out);
    const cJSON *outputs = cJSON_GetObjectItem(json, "outputs");
    assert_int_equal(cJSON_GetArraySize(outputs), 2);
    const cJSON *second = cJSON_GetArrayItem(outputs, 1);
    assert_string_equal(cJSON_GetObjectItem(second, "output")->valuestring, "d/t-weight-2-1.st");
    cJSON_Delete(json);
    /* One number of a range stands for all of a list. */
    program_expect(program_run(f.folder, "B='b.safetensors c.safetensors --base a.safetensors -m "
                                         "ties' && ckmerge $B --sweep density=0.25:0.75:0.5 -qo l "
                                         "&& ckmerge $B --density 0.75 -qo m && "
                                         "cmp l-density-0.75 m"),
                   0, "", NULL);
    static const char *const lines[][2] = {
        {"--sweep alpha", "must be NAME=FROM:TO:STEP"},
        {"--sweep alpha=0:1", "a range is FROM:TO:STEP"},
        {"--sweep alpha=0:1:x", "a range is FROM:TO:STEP"},
        {"--sweep alpha=1:0:0.1", "leads nowhere"},
        {"--sweep alpha=0:1:0", "more than 100 values"},
        {"--sweep alpha=0:1:0.001", "more than 100 values"},
        {"--sweep alpha=0.5,,1", "an empty value"},
        {"--sweep alpha=0.5,0.5", "'0.5' is there twice"},
        {"--sweep alpha=x,y", "must be numbers"},
        {"--sweep beta=1,2", "no parameter 'beta'"},
        {"--sweep alpha=0.3,0.5", "a-b-alpha-0.3.safetensors exists; --force"},
        {"--sweep alpha=0.35,0.5 --write-recipe r", "are for one output"},
    };
    int entries = fixture_entries(&f);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        program_expect(program_run(f.folder, "ckmerge a.safetensors b.safetensors %s", lines[i][0]),
                       2, NULL, lines[i][1]);
    assert_int_equal(fixture_entries(&f), entries);
}

static void test_help(void **state) {
    (void)state;
    program_expect(program_run(f.folder, "ckmerge --help"), 0, "usage: ckmerge A B", NULL);
    program_expect(program_run(f.folder, "ckmerge --version"), 0, "ckmerge 0.", NULL);
    program_expect(program_run(f.folder, "ckmerge methods"), 0,
                   "add-difference   A + alpha (B - C)", NULL);
    program_expect(program_run(f.folder, "ckmerge help linear"), 0, "The weights are divided by",
                   NULL);
    program_expect(
        program_run(f.folder, "COLUMNS=60 ckmerge help della | awk 'length > 60' | wc -l"), 0,
        "0\n", NULL);
    program_expect(program_run(f.folder, "ckmerge --man | head -1"), 0, ".TH \"ckmerge\" 1", NULL);
    program_expect(program_run(f.folder, "ckmerge --completion bash | bash -n"), 0, NULL, NULL);
    /* A full disk on standard output is an error too. */
    program_expect(program_run(f.folder, "ckmerge a.safetensors b.safetensors -o o > /dev/full"), 1,
                   NULL, "standard output");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_on_off, setup, teardown),
        cmocka_unit_test_setup_teardown(test_usage, setup, teardown),
        cmocka_unit_test_setup_teardown(test_input_errors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dry_run, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rules, setup, teardown),
        cmocka_unit_test_setup_teardown(test_position_ids, setup, teardown),
        cmocka_unit_test_setup_teardown(test_warnings, setup, teardown),
        cmocka_unit_test_setup_teardown(test_metadata, setup, teardown),
        cmocka_unit_test_setup_teardown(test_replay, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shipped_recipes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_interrupt, setup, teardown),
        cmocka_unit_test_setup_teardown(test_resume, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gguf, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sweep, setup, teardown),
        cmocka_unit_test_setup_teardown(test_help, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
