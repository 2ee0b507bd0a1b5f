/* Settings of a run: where values come from, what is refused and how it is said. */
#include "distill/run/config.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int setup(void **state) {
    static fixture f;
    fixture_make(&f);
    *state = &f;
    return 0;
}

static int teardown(void **state) {
    fixture_remove(*state);
    return 0;
}

#define MUST(call)                                                                                 \
    do {                                                                                           \
        ck_error must_err = {0}, *err = &must_err;                                                 \
        if ((call) != CK_OK) fail_msg("%s", err->message);                                         \
    } while (0)

/* The call fails so, with a message that has this in it. */
#define REFUSED(call, wanted_status, part)                                                         \
    do {                                                                                           \
        ck_error refused_err = {0}, *err = &refused_err;                                           \
        assert_int_equal(call, wanted_status);                                                     \
        if (!strstr(err->message, part)) fail_msg("'%s' is not in: %s", part, err->message);       \
    } while (0)

static const char *write_text(void **state, const char *text) {
    return fixture_file(*state, "c.json", text, strlen(text));
}

/* A config of this text with up to three settings. */
static ck_config *load(void **state, const char *text, const char *a, const char *b,
                       const char *d) {
    const char *sets[] = {a, b, d};
    ck_config *c;
    MUST(ck_config_load(write_text(state, text), sets, (size_t)(!!a + !!b + !!d), &c, err));
    return c;
}

static const char text[] = "{\n"
                           "  \"steps\": 2000,\n"
                           "  \"name\": \"a \\\"b\\\"\",\n"
                           "  \"ema\": true,\n"
                           "  \"method\": {\n"
                           "    \"rate\": 3e-5,\n"
                           "    \"shape\": \"cosine\",\n"
                           "    \"grid\": [1, 2.5, 4],\n"
                           "    \"prompts\": [\"x\", \"y\"],\n"
                           "    \"warmup\": null\n"
                           "  },\n"
                           "  \"teacher\": \"models/base\"\n"
                           "}\n";

/* ---- Where values come from ---- */

static void test_file(void **state) {
    ck_config *c = load(state, text, NULL, NULL, NULL);
    uint64_t count;
    double number;
    bool flag;
    const char *s;
    size_t place, n;
    const double *numbers;
    const char *const *texts;
    MUST(ck_config_count(c, "steps", 1, 0, 10000, &count, err));
    assert_int_equal(count, 2000);
    MUST(ck_config_text(c, "name", "", &s, err));
    assert_string_equal(s, "a \"b\"");
    MUST(ck_config_bool(c, "ema", false, &flag, err));
    assert_true(flag);
    MUST(ck_config_number(c, "method.rate", 1, 0, 1, &number, err));
    assert_true(number == 3e-5);
    MUST(ck_config_choice(c, "method.shape", "constant|linear|cosine", 0, &place, err));
    assert_int_equal(place, 2);
    MUST(ck_config_numbers(c, "method.grid", NULL, 0, 0, 4, &numbers, &n, err));
    assert_true(n == 3 && numbers[0] == 1 && numbers[1] == 2.5 && numbers[2] == 4);
    MUST(ck_config_texts(c, "method.prompts", NULL, 0, &texts, &n, err));
    assert_int_equal(n, 2);
    assert_string_equal(texts[1], "y");
    MUST(ck_config_count(c, "method.warmup", 7, 0, 10, &count, err));
    assert_int_equal(count, 7);
    MUST(ck_config_path(c, "teacher", &s, err));
    char wanted[512];
    snprintf(wanted, sizeof wanted, "%s/models/base", ((fixture *)*state)->folder);
    assert_string_equal(s, wanted);
    assert_true(ck_config_has(c, "steps") && ck_config_has(c, "method.rate"));
    assert_false(ck_config_has(c, "method.warmup") || ck_config_has(c, "steps.x"));
    MUST(ck_config_check(c, err));
    ck_config_free(c);
}

static void test_defaults(void **state) {
    ck_config *c = load(state, "{}", NULL, NULL, NULL);
    uint64_t count;
    double number;
    bool flag;
    const char *s;
    size_t place, n;
    const double *numbers, two[] = {1, 2};
    const char *const *texts, *const prompt[] = {"p"};
    MUST(ck_config_count(c, "a", 5, 10, 20, &count, err)); /* 5 means off */
    MUST(ck_config_number(c, "b.c", 0.1 + 0.2, 0, 1, &number, err));
    MUST(ck_config_bool(c, "b.d", true, &flag, err));
    MUST(ck_config_text(c, "e", "t", &s, err));
    assert_string_equal(s, "t");
    MUST(ck_config_text(c, "f", NULL, &s, err));
    assert_null(s);
    MUST(ck_config_path(c, "g", &s, err));
    assert_null(s);
    MUST(ck_config_choice(c, "h", "x|yy|z", 1, &place, err));
    MUST(ck_config_numbers(c, "i", two, 2, 0, 9, &numbers, &n, err));
    assert_true(numbers == two && n == 2);
    MUST(ck_config_texts(c, "j", prompt, 1, &texts, &n, err));
    assert_true(texts == prompt && n == 1);
    assert_true(count == 5 && number == 0.1 + 0.2 && flag && place == 1);
    char *printed = ck_config_print(c);
    assert_string_equal(printed, "{\n"
                                 "\t\"a\":\t5,\n"
                                 "\t\"b\":\t{\n"
                                 "\t\t\"c\":\t0.30000000000000004,\n"
                                 "\t\t\"d\":\ttrue\n"
                                 "\t},\n"
                                 "\t\"e\":\t\"t\",\n"
                                 "\t\"f\":\tnull,\n"
                                 "\t\"g\":\tnull,\n"
                                 "\t\"h\":\t\"yy\",\n"
                                 "\t\"i\":\t[1, 2],\n"
                                 "\t\"j\":\t[\"p\"]\n"
                                 "}\n");
    free(printed);
    ck_config_free(c);
}

static void test_command_line(void **state) {
    ck_config *c = load(state, text, "steps=3", "method={\"rate\": 0.5, \"more\": {\"x\": [1]}}",
                        "name=two words = 2");
    uint64_t count;
    double number;
    const char *s;
    size_t place, n;
    const double *numbers;
    MUST(ck_config_count(c, "steps", 1, 0, 10000, &count, err));
    MUST(ck_config_text(c, "name", "", &s, err));
    assert_int_equal(count, 3);
    assert_string_equal(s, "two words = 2");
    /* The object goes over the file's, field by field. */
    MUST(ck_config_number(c, "method.rate", 1, 0, 1, &number, err));
    MUST(ck_config_choice(c, "method.shape", "constant|linear|cosine", 0, &place, err));
    MUST(ck_config_numbers(c, "method.more.x", NULL, 0, 0, 4, &numbers, &n, err));
    assert_true(number == 0.5 && place == 2 && n == 1 && numbers[0] == 1);
    ck_config_free(c);

    /* A later setting wins; quotes make a text of what would be a number; null is the default. */
    c = load(state, text, "steps=3", "steps=4", "name=\"5\"");
    MUST(ck_config_count(c, "steps", 1, 0, 10000, &count, err));
    MUST(ck_config_text(c, "name", "", &s, err));
    assert_int_equal(count, 4);
    assert_string_equal(s, "5");
    ck_config_free(c);
    c = load(state, text, "steps=null", "method.rate=0.25", "method.new=");
    MUST(ck_config_count(c, "steps", 1, 0, 10000, &count, err));
    MUST(ck_config_number(c, "method.rate", 1, 0, 1, &number, err));
    MUST(ck_config_text(c, "method.new", "x", &s, err));
    assert_true(count == 1 && number == 0.25 && !*s);
    ck_config_free(c);
}

static void test_object(void **state) {
    ck_config *c = load(state, text, "method.more.x=1", NULL, NULL), *method, *more, *none;
    double number;
    uint64_t count;
    MUST(ck_config_object(c, "method", &method, err));
    MUST(ck_config_object(method, "more", &more, err));
    MUST(ck_config_object(method, "none", &none, err));
    MUST(ck_config_number(method, "rate", 1, 0, 1, &number, err));
    MUST(ck_config_count(more, "x", 0, 0, 1, &count, err));
    assert_true(number == 3e-5 && count == 1);
    MUST(ck_config_count(none, "x", 9, 0, 1, &count, err));
    assert_int_equal(count, 9);
    assert_true(ck_config_has(more, "x") && !ck_config_has(c, "x"));
    REFUSED(ck_config_bool(method, "rate", 0, &(bool){0}, err), CK_INPUT,
            "c.json:6: $.method.rate: must be true or false");
    char *printed = ck_config_print(more);
    assert_string_equal(printed, "{\n"
                                 "\t\"method\":\t{\n"
                                 "\t\t\"more\":\t{\n"
                                 "\t\t\t\"x\":\t1\n"
                                 "\t\t},\n"
                                 "\t\t\"none\":\t{\n"
                                 "\t\t\t\"x\":\t9\n"
                                 "\t\t},\n"
                                 "\t\t\"rate\":\t3e-05\n"
                                 "\t}\n"
                                 "}\n");
    free(printed);
    ck_config_free(c);
}

/* Paths of the file are beside it, those of the command line where the user is. */
static void test_paths(void **state) {
    const char *s, *folder = ((fixture *)*state)->folder;
    char wanted[600], here[400];
    assert_non_null(getcwd(here, sizeof here));
    ck_config *c =
        load(state, "{\"a\": \"x/y\", \"b\": \"/x\", \"c\": \"z\"}", "c=../m", NULL, NULL);
    MUST(ck_config_path(c, "a", &s, err));
    snprintf(wanted, sizeof wanted, "%s/x/y", folder);
    assert_string_equal(s, wanted);
    MUST(ck_config_path(c, "b", &s, err));
    assert_string_equal(s, "/x");
    MUST(ck_config_path(c, "c", &s, err));
    snprintf(wanted, sizeof wanted, "%s/../m", here);
    assert_string_equal(s, wanted);
    ck_config_free(c);

    /* A config that is named relative to the current folder, in it or elsewhere. */
    static const char *const names[] = {"c.json", "./c.json", "sub/../c.json"};
    static const char *const folders[] = {"", "/.", "/sub/.."};
    write_text(state, "{\"a\": \"x\"}");
    assert_int_equal(chdir(folder), 0);
    assert_int_equal(mkdir("sub", 0777), 0);
    for (int i = 0; i < 3; i++) {
        MUST(ck_config_load(names[i], NULL, 0, &c, err));
        MUST(ck_config_path(c, "a", &s, err));
        snprintf(wanted, sizeof wanted, "%s%s/x", folder, folders[i]);
        assert_string_equal(s, wanted);
        ck_config_free(c);
    }
    assert_int_equal(chdir(here), 0);
}

/* What is printed, when loaded from elsewhere, gives the same values and is printed the same. */
static char *ask_everything(ck_config *c) {
    static const double grid[] = {1. / 3};
    uint64_t count;
    double number;
    bool flag;
    const char *s;
    size_t place, n;
    const double *numbers;
    const char *const *texts;
    MUST(ck_config_count(c, "steps", ((uint64_t)1 << 53) - 1, 0, UINT64_MAX, &count, err));
    MUST(ck_config_number(c, "method.rate", 0.1, -INFINITY, INFINITY, &number, err));
    MUST(ck_config_number(c, "method.tiny", 5e-324, 0, 1, &number, err));
    MUST(ck_config_number(c, "method.third", 1. / 3, 0, 1, &number, err));
    MUST(ck_config_number(c, "method.none", NAN, 0, 1, &number, err));
    MUST(ck_config_number(c, "method.off", -1, 0, 1, &number, err));
    MUST(ck_config_count(c, "every", 0, 10, 20, &count, err));
    MUST(ck_config_bool(c, "ema", false, &flag, err));
    MUST(ck_config_text(c, "name", "tab\t\"\xc3\xa4", &s, err));
    MUST(ck_config_text(c, "nothing", NULL, &s, err));
    MUST(ck_config_path(c, "teacher", &s, err));
    MUST(ck_config_choice(c, "method.shape", "constant|linear|cosine", 1, &place, err));
    MUST(ck_config_numbers(c, "method.grid", grid, 1, 0, 4, &numbers, &n, err));
    MUST(ck_config_texts(c, "method.prompts", NULL, 0, &texts, &n, err));
    MUST(ck_config_count(c, "method.warmup", 7, 0, 10, &count, err));
    MUST(ck_config_check(c, err));
    char *printed = ck_config_print(c);
    assert_non_null(printed);
    ck_config_free(c);
    return printed;
}

static void test_print_means_the_same(void **state) {
    static const char *const texts[] = {"{}", text};
    for (int i = 0; i < 2; i++) {
        char *first = ask_everything(
            load(state, texts[i], "method.rate=-1.7976931348623157e308", NULL, NULL));
        assert_non_null(strstr(first, "-1.7976931348623157e+308"));
        if (i == 0) assert_non_null(strstr(first, "9007199254740991"));
        ck_config *c;
        MUST(ck_config_load(fixture_file(*state, "resolved.json", first, strlen(first)), NULL, 0,
                            &c, err));
        char *second = ask_everything(c);
        assert_string_equal(first, second);
        free(first);
        free(second);
    }
}

/* Asking twice gives the same and is noted once. */
static void test_twice(void **state) {
    ck_config *c = load(state, "{\"p\": \"x\"}", NULL, NULL, NULL);
    const char *first, *second;
    MUST(ck_config_path(c, "p", &first, err));
    MUST(ck_config_path(c, "p", &second, err));
    assert_string_equal(first, second);
    MUST(ck_config_text(c, "q", "d", &first, err));
    MUST(ck_config_text(c, "q", "d", &second, err));
    char *printed = ck_config_print(c);
    assert_ptr_equal(strstr(strstr(printed, "\"q\"") + 1, "\"q\""), NULL);
    free(printed);
    /* A program that takes a value for an object. */
    REFUSED(ck_config_text(c, "q.r", "d", &second, err), CK_USAGE,
            "the key 'q.r' leads into 'q', which is no object");
    ck_config_free(c);
}

/* ---- What is refused ---- */

static void test_types_and_ranges(void **state) {
    ck_config *c = load(state, text, "x=word", "y=[1, \"2\"]", "z=1.5");
    uint64_t u;
    double d;
    bool b;
    const char *s;
    size_t n;
    const double *ds;
    const char *const *ts;
    static const char shapes[] = "constant|linear|cosin|cosines";
    REFUSED(ck_config_number(c, "name", 0, 0, 1, &d, err), CK_INPUT,
            "c.json:3: $.name: must be a number");
    REFUSED(ck_config_number(c, "steps", 0, 0, 1.5, &d, err), CK_INPUT,
            "c.json:2: $.steps: must be between 0 and 1.5");
    REFUSED(ck_config_number(c, "steps", 0, 1e9, INFINITY, &d, err), CK_INPUT,
            "$.steps: must be at least 1000000000");
    REFUSED(ck_config_number(c, "steps", 0, -INFINITY, 0.1, &d, err), CK_INPUT,
            "$.steps: must be at most 0.1");
    REFUSED(ck_config_number(c, "x", 0, 0, 1, &d, err), CK_INPUT, "--set x: must be a number");
    REFUSED(ck_config_number(c, "method", 0, 0, 1, &d, err), CK_INPUT,
            "c.json:5: $.method: must be a number");
    REFUSED(ck_config_count(c, "method.rate", 0, 0, 9, &u, err), CK_INPUT,
            "c.json:6: $.method.rate: must be a whole number");
    REFUSED(ck_config_count(c, "z", 0, 0, 9, &u, err), CK_INPUT, "--set z: must be a whole number");
    REFUSED(ck_config_count(c, "steps", 0, 0, 1999, &u, err), CK_INPUT,
            "must be between 0 and 1999");
    REFUSED(ck_config_count(c, "ema", 0, 0, 9, &u, err), CK_INPUT, "must be a whole number");
    REFUSED(ck_config_bool(c, "steps", 0, &b, err), CK_INPUT, "$.steps: must be true or false");
    REFUSED(ck_config_text(c, "steps", "", &s, err), CK_INPUT, "$.steps: must be a text");
    REFUSED(ck_config_choice(c, "steps", shapes, 0, &n, err), CK_INPUT, "must be a text");
    REFUSED(ck_config_choice(c, "method.shape", shapes, 0, &n, err), CK_INPUT,
            "c.json:7: $.method.shape: must be one of constant|linear|cosin|cosines");
    REFUSED(ck_config_path(c, "ema", &s, err), CK_INPUT, "$.ema: must be a path");
    REFUSED(ck_config_numbers(c, "steps", NULL, 0, 0, 9, &ds, &n, err), CK_INPUT,
            "$.steps: must be a list");
    REFUSED(ck_config_numbers(c, "method.grid", NULL, 0, 0, 3, &ds, &n, err), CK_INPUT,
            "c.json:8: $.method.grid[2]: must be between 0 and 3");
    REFUSED(ck_config_numbers(c, "y", NULL, 0, 0, 3, &ds, &n, err), CK_INPUT,
            "--set y: must be a number");
    REFUSED(ck_config_texts(c, "method.grid", NULL, 0, &ts, &n, err), CK_INPUT,
            "c.json:8: $.method.grid[0]: must be a text");
    REFUSED(ck_config_fail(c, "steps", err, "is %s", "odd"), CK_INPUT, "c.json:2: $.steps: is odd");
    REFUSED(ck_config_fail(c, "x", err, "is odd"), CK_INPUT, "--set x: is odd");
    REFUSED(ck_config_fail(c, "data", err, "is missing"), CK_INPUT, "c.json: $.data: is missing");
    ck_config_free(c);
    c = load(state, "{\"big\": 9007199254740992, \"low\": -1, \"path\": \"\"}", NULL, NULL, NULL);
    REFUSED(ck_config_count(c, "big", 0, 0, UINT64_MAX, &u, err), CK_INPUT,
            "must be between 0 and 9007199254740991");
    REFUSED(ck_config_count(c, "low", 0, 0, 5, &u, err), CK_INPUT, "must be between 0 and 5");
    REFUSED(ck_config_path(c, "path", &s, err), CK_INPUT, "must be a path, is empty");
    ck_config_free(c);
}

static const struct {
    const char *text, *set, *message; /* NULL: accepted */
} unknown[] = {
    {"{\"steps\": 1, \"method\": {\"rate\": 1}}", "method.grid=[]", NULL},
    {"{\"method\": {}, \"none\": {}}", "method=null", NULL},
    {"{\n\"step\": 1}", NULL, "c.json:2: $.step: unknown field; did you mean \"steps\"?"},
    {"{\"method\": {\n\n\"rat\": 1}}", NULL, "c.json:3: $.method.rat: unknown field; did you mean"},
    {"{\"method\": {\"banana\": 1}}", NULL, "unknown field; known are: rate grid"},
    {"{\"bananas\": null}", NULL, "unknown field; known are: steps method none"},
    {"{\"method\": 1}", NULL, "$.method: must be an object"},
    {"{\"method.rate\": 1}", NULL, "$.method.rate: unknown field"},
    {"{}", "stepps=1", "--set stepps: unknown field; did you mean \"steps\"?"},
    {"{}", "method.rote=1", "--set method.rote: unknown field; did you mean \"rate\"?"},
    {"{}", "method={\"rote\": 1}", "--set method.rote: unknown field; did you mean \"rate\"?"},
    {"{}", "method=lcm", "--set method: must be an object"},
    {"{\"none\": {\"x\": 1}}", NULL, "$.none.x: unknown field; known are:"},
};

static void test_unknown(void **state) {
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        ck_config *c = load(state, unknown[i].text, unknown[i].set, NULL, NULL), *none;
        uint64_t count;
        double number;
        size_t n;
        const double *numbers;
        MUST(ck_config_count(c, "steps", 1, 0, 10000, &count, err));
        MUST(ck_config_number(c, "method.rate", 1, 0, 1, &number, err));
        MUST(ck_config_numbers(c, "method.grid", NULL, 0, 0, 4, &numbers, &n, err));
        MUST(ck_config_object(c, "none", &none, err));
        if (unknown[i].message)
            REFUSED(ck_config_check(c, err), CK_INPUT, unknown[i].message);
        else
            MUST(ck_config_check(c, err));
        ck_config_free(c);
    }
}

static void test_bad_settings(void **state) {
    static const char *const bad[] = {"steps", "=1", ".a=1", "a.=1", "a..b=1", "", "a=\xff"};
    const char *path = write_text(state, "{}");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ck_config *c;
        REFUSED(ck_config_load(path, &bad[i], 1, &c, err), CK_USAGE, "--set ");
    }
    const char *clash[] = {"a=1", "a.b=2"};
    ck_config *c;
    REFUSED(ck_config_load(path, clash, 2, &c, err), CK_USAGE,
            "the key 'a.b' leads into 'a', which is no object");
}

static void test_bad_files(void **state) {
    ck_config *c;
    REFUSED(ck_config_load(write_text(state, "[1]"), NULL, 0, &c, err), CK_INPUT,
            "c.json:1: $: must be an object");
    REFUSED(ck_config_load(write_text(state, "{\n\"a\": 1,\n\"a\": 2}"), NULL, 0, &c, err),
            CK_INPUT, "c.json:3: $.a: the field 'a' is there twice");
    REFUSED(ck_config_load("/nowhere/c.json", NULL, 0, &c, err), CK_IO, "/nowhere/c.json");
}

/* ---- Failures ---- */

static ck_status whole_use(const char *path, ck_error *err) {
    static const char *const sets[] = {"steps=5", "method.new=x", "method={\"rate\":1}"};
    ck_config *c, *method;
    CK_TRY(ck_config_load(path, sets, 3, &c, err));
    uint64_t count;
    double number;
    const char *s;
    size_t place, n;
    const double *numbers, grid[] = {1};
    const char *const *texts;
    ck_status status = ck_config_count(c, "steps", 1, 0, 10, &count, err);
    if (status == CK_OK) status = ck_config_object(c, "method", &method, err);
    if (status == CK_OK) status = ck_config_number(method, "rate", 1, 0, 1, &number, err);
    if (status == CK_OK) status = ck_config_text(c, "name", "", &s, err);
    if (status == CK_OK) status = ck_config_path(c, "teacher", &s, err);
    if (status == CK_OK) status = ck_config_bool(c, "ema", false, &(bool){0}, err);
    if (status == CK_OK)
        status = ck_config_choice(method, "shape", "linear|cosine", 0, &place, err);
    if (status == CK_OK)
        status = ck_config_numbers(method, "grid", NULL, 0, 0, 9, &numbers, &n, err);
    if (status == CK_OK)
        status = ck_config_numbers(method, "other", grid, 1, 0, 9, &numbers, &n, err);
    if (status == CK_OK) status = ck_config_texts(method, "prompts", NULL, 0, &texts, &n, err);
    if (status == CK_OK) status = ck_config_check(c, err); /* finds "new", unless memory fails */
    char *printed = status == CK_INPUT ? ck_config_print(c) : NULL;
    if (status == CK_INPUT && !printed) status = CK_MEMORY;
    free(printed);
    ck_config_free(c);
    return status;
}

static void test_faults(void **state) {
    const char *path = write_text(state, text);
    static const fault_kind kinds[] = {FAULT_CALLOC, FAULT_REALLOC, FAULT_OPEN, FAULT_PREAD};
    for (int k = 0; k < 4; k++) {
        int faults = 0;
        for (fault_first(kinds[k], k < 2 ? ENOMEM : EIO); fault_more();) {
            ck_error err = {0};
            fault_arm();
            ck_status status = whole_use(path, &err);
            fault_disarm();
            faults += fault_hit();
            assert_int_equal(status, !fault_hit() ? CK_INPUT : k < 2 ? CK_MEMORY : CK_IO);
        }
        if (kinds[k] == FAULT_CALLOC) assert_true(faults > 50);
        if (k >= 2) assert_true(faults > 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file),         cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_command_line), cmocka_unit_test(test_object),
        cmocka_unit_test(test_paths),        cmocka_unit_test(test_print_means_the_same),
        cmocka_unit_test(test_twice),        cmocka_unit_test(test_types_and_ranges),
        cmocka_unit_test(test_unknown),      cmocka_unit_test(test_bad_settings),
        cmocka_unit_test(test_bad_files),    cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
