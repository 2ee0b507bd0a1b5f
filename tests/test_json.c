/* Strict JSON: what is refused, and where it says the mistake is. */
#include "io/json.h"
#include "tests/check.h"
#include "tests/fault.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *text, *message; /* NULL: accepted */
} documents[] = {
    {"null", NULL},
    {" {\"a\": [1, -2.5e3, true, \"\\u00e9\\n\"]} \n", NULL},
    {"\"\xc3\xa9\"", NULL},
    {"01", "not a JSON number"},
    {"[01]", "not a JSON number"},
    {"[1.]", "not a JSON number"},
    {"[.5]", "not a JSON value"},
    {"[+1]", "not a JSON value"},
    {"[0x10]", "',' or ']' expected"},
    {"[1e]", "not a JSON number"},
    {"[1e999]", "number too large"},
    {"[-]", "not a JSON number"},
    {"[-01]", "not a JSON number"},
    {"[-0, 0.5e-3, 1E+2, 1e-999]", NULL},
    {"0.1234567890123456789012345678901234567890123456789012345678901", NULL},
    {"0.12345678901234567890123456789012345678901234567890123456789012", "more than 63 characters"},
    {"[NaN]", "not a JSON value"},
    {"[truE]", "not a JSON value"},
    {"[tru", "not a JSON value"},
    {"", "ends too early"},
    {" \n", "x:2: the text ends too early"},
    {"{\"a\":", "ends too early"},
    {"{\"a\"", "':' expected"},
    {"[1,]", "not a JSON value"},
    {"{\"a\":1,}", "field name in quotes"},
    {"{a:1}", "field name in quotes"},
    {"{\"a\" 1}", "':' expected"},
    {"[1 2]", "',' or ']' expected"},
    {"{\n\"a\":\n1 2}", "x:3: ',' or '}' expected"},
    {"[\"a\nb\"]", "control character"},
    {"[\"\\u0000\"]", "NUL character"},
    {"\"\\\\u0000 \\/\\b\\f\\n\\r\\t\\ud83d\\uDE00\"", NULL},
    {"[1,\n\"\\x\"]", "x:2: a bad escape"},
    {"[\"\\u12g4\"]", "bad escape"},
    {"[\"\\u123", "bad escape"},
    {"[\"\\ud800\"]", "surrogate"},
    {"[\"\\ud800\\ud800\"]", "surrogate"},
    {"[\"\\udc00\"]", "surrogate"},
    {"\"abc", "ends within a string"},
    {"\"abc\\", "ends within a string"},
    {"[", "ends too early"},
    {"{} {}", "something follows"},
    {"{}\n\n,", "x:3: something follows"},
    {"[\n\"\xff\"]", "x:2: not UTF-8"},
    {"\"\xc0\x80\"", "not UTF-8"},
    {"\"\xed\xa0\x80\"", "not UTF-8"},
    {"\xef\xbb\xbf{}", "byte order mark"},
    {"{\"a\":1,\"a\":2}", "'a' is there twice"},
    {"{\"a\":1,\"A\":2,\"aa\":3,\"\":4}", NULL},
    {"{\"a\":1,\n\"b\":1,\n\"a\":2}", "x:3: $.a"},
    {"{\"\":1,\"\":2}", "the field '' is there twice"},
    {"[{\"b\":{\"c\":1,\n\"d\":2,\"c\":3}}]", "x:2: $[0].b.c: the field 'c' is there twice"},
    {"{\"\\u0061\":1,\"a\":2}", "'a' is there twice"},
};

static void test_documents(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof documents / sizeof *documents; i++) {
        ck_json doc;
        ck_error err = {0};
        const char *text = documents[i].text, *message = documents[i].message;
        ck_status status = ck_json_parse("x", text, strlen(text), &doc, &err);
        if (!message && status != CK_OK) fail_msg("%s: %s", text, err.message);
        if (message && status == CK_OK) fail_msg("accepted: %s", text);
        if (message && (status != CK_INPUT || !strstr(err.message, message)))
            fail_msg("%s: '%s' lacks '%s'", text, err.message, message);
        if (status == CK_OK) ck_json_free(&doc);
    }
}

/* A NUL ends no document early, wherever it is. */
static void test_nul(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t n;
        const char *message;
    } cases[] = {
        {"{}\0", 3, "something follows"},
        {"[1,\0 2]", 7, "not a JSON value"},
        {"[\"a\0b\"]", 7, "control character"},
        {"\0", 1, "not a JSON value"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_json doc;
        ck_error err = {0};
        assert_int_equal(ck_json_parse("x", cases[i].text, cases[i].n, &doc, &err), CK_INPUT);
        assert_non_null(strstr(err.message, cases[i].message));
    }
}

static void test_depth(void **state) {
    (void)state;
    char text[130];
    for (size_t depth = 64; depth <= 65; depth++) {
        ck_json doc;
        ck_error err = {0};
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        ck_status status = ck_json_parse("x", text, 2 * depth, &doc, &err);
        assert_int_equal(status, depth == 64 ? CK_OK : CK_INPUT);
        if (status == CK_OK)
            ck_json_free(&doc);
        else
            assert_string_equal(err.message, "x:1: nested too deeply");
    }
}

/* Documents that would take very long or very much memory if they were read naively. */
static void test_large(void **state) {
    (void)state;
    enum { FIELDS = 100000, ZEROS = 1100000, TOO_LARGE = (16 << 20) + 1 };
    char *text = malloc(TOO_LARGE);
    ck_json doc;
    ck_error err = {0};
    size_t n = 0;
    for (int i = 0; i < FIELDS; i++)
        n += (size_t)sprintf(text + n, "%c\n\"f%d\":0", i ? ',' : '{', i);
    n += (size_t)sprintf(text + n, ",\n\"f77\":1}");
    assert_int_equal(ck_json_parse("x", text, n, &doc, &err), CK_INPUT);
    assert_string_equal(err.message, "x:100002: $.f77: the field 'f77' is there twice");

    n = 0;
    for (int i = 0; i < ZEROS; i++) n += (size_t)sprintf(text + n, "%c0", i ? ',' : '[');
    assert_int_equal(ck_json_parse("x", text, n, &doc, &err), CK_INPUT);
    assert_string_equal(err.message, "x:1: too many values");

    memset(text, ' ', TOO_LARGE);
    assert_int_equal(ck_json_parse("x", text, TOO_LARGE, &doc, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "16777217 bytes"));
    free(text);
}

/* Lines and places of nodes, in a document with every kind of value before them. */
static void test_places(void **state) {
    (void)state;
    const char *text = "{\n\"rules\": [\n\"[{,\\\"\",\n{\"alpha\": null},\n{\"alpha\":\n\"x\"}],\n"
                       "\"deep\": [[], {}, [1, [2,\n3]]]\n}";
    ck_json doc;
    ck_error err;
    double number;
    assert_int_equal(ck_json_parse("r.json", text, strlen(text), &doc, &err), CK_OK);
    const cJSON *rules = cJSON_GetObjectItemCaseSensitive(doc.root, "rules");
    const cJSON *deep = cJSON_GetObjectItemCaseSensitive(doc.root, "deep");
    assert_int_equal(ck_json_number(&doc, cJSON_GetArrayItem(rules, 1), "alpha", &number, &err),
                     CK_INPUT);
    assert_string_equal(err.message, "r.json:4: $.rules[1].alpha: must be a number");
    assert_int_equal(ck_json_number(&doc, cJSON_GetArrayItem(rules, 2), "alpha", &number, &err),
                     CK_INPUT);
    assert_string_equal(err.message, "r.json:6: $.rules[2].alpha: must be a number");
    const cJSON *three = cJSON_GetArrayItem(cJSON_GetArrayItem(cJSON_GetArrayItem(deep, 2), 1), 1);
    ck_json_fail(&doc, three, &err, "is %d", three->valueint);
    assert_string_equal(err.message, "r.json:8: $.deep[2][1][1]: is 3");
    ck_json_fail(&doc, doc.root, &err, "all");
    assert_string_equal(err.message, "r.json:1: $: all");
    ck_json_free(&doc);
}

/* A place that is longer than any message is cut, and what was said remains. */
static void test_long_place(void **state) {
    (void)state;
    char text[2048], name[901];
    ck_json doc;
    ck_error err;
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    snprintf(text, sizeof text, "{\"%s\":{\"%s\":1}}", name, name);
    assert_int_equal(ck_json_parse("x", text, strlen(text), &doc, &err), CK_OK);
    ck_json_fail(&doc, doc.root->child->child, &err, "bad");
    assert_non_null(strstr(err.message, "x:1: $.nnn"));
    assert_non_null(strstr(err.message, "nn: bad"));
    ck_json_free(&doc);
}

static void test_fields(void **state) {
    (void)state;
    const char *text = "{\"n\":1.5,\n\"c\":7,\"t\":\"x\",\"b\":true,\n\"o\":{\"typo\":1}}";
    ck_json doc;
    ck_error err;
    double number = 0;
    uint64_t count = 9;
    const char *word = "absent";
    bool flag = false;
    assert_int_equal(ck_json_parse("x", text, strlen(text), &doc, &err), CK_OK);
    assert_int_equal(ck_json_number(&doc, doc.root, "n", &number, &err), CK_OK);
    assert_true(number == 1.5);
    assert_int_equal(ck_json_count(&doc, doc.root, "c", &count, &err), CK_OK);
    assert_int_equal(count, 7);
    assert_int_equal(ck_json_text(&doc, doc.root, "none", &word, &err), CK_OK);
    assert_string_equal(word, "absent");
    assert_int_equal(ck_json_bool(&doc, doc.root, "b", &flag, &err), CK_OK);
    assert_true(flag);
    assert_int_equal(ck_json_count(&doc, doc.root, "n", &count, &err), CK_INPUT);
    assert_string_equal(err.message, "x:1: $.n: must be a whole number below 2^53");
    assert_int_equal(ck_json_bool(&doc, doc.root, "t", &flag, &err), CK_INPUT);
    assert_string_equal(err.message, "x:2: $.t: must be true or false");
    const cJSON *object = cJSON_GetObjectItemCaseSensitive(doc.root, "o");
    assert_int_equal(ck_json_only(&doc, object, "type other", &err), CK_INPUT);
    assert_string_equal(err.message, "x:3: $.o.typo: unknown field; did you mean \"type\"?");
    assert_int_equal(ck_json_only(&doc, object, "alpha beta", &err), CK_INPUT);
    assert_string_equal(err.message, "x:3: $.o.typo: unknown field; known are: alpha beta");
    assert_int_equal(ck_json_only(&doc, object, "alpha typo", &err), CK_OK);
    assert_int_equal(ck_json_only(&doc, object->child, "alpha", &err), CK_INPUT);
    assert_string_equal(err.message, "x:3: $.o.typo: must be an object");
    /* Names are exact: "N" is another field. */
    assert_int_equal(ck_json_number(&doc, doc.root, "N", &number, &err), CK_OK);
    assert_true(number == 1.5);
    assert_int_equal(ck_json_text(&doc, doc.root, "c", &word, &err), CK_INPUT);
    assert_string_equal(err.message, "x:2: $.c: must be a text in quotes");
    ck_json_free(&doc);
}

static void test_counts(void **state) {
    (void)state;
    static const struct {
        const char *text;
        ck_status status;
        uint64_t value;
    } cases[] = {{"{\"c\":0}", CK_OK, 0},
                 {"{\"c\":1e3}", CK_OK, 1000},
                 {"{\"c\":9007199254740991}", CK_OK, 9007199254740991},
                 {"{\"c\":9007199254740993}", CK_INPUT, 0},
                 {"{\"c\":-1}", CK_INPUT, 0},
                 {"{\"c\":\"1\"}", CK_INPUT, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_json doc;
        ck_error err;
        uint64_t value = 0;
        assert_int_equal(ck_json_parse("x", cases[i].text, strlen(cases[i].text), &doc, &err),
                         CK_OK);
        assert_int_equal(ck_json_count(&doc, doc.root, "c", &value, &err), cases[i].status);
        assert_int_equal(value, cases[i].value);
        ck_json_free(&doc);
    }
}

static void test_load(void **state) {
    (void)state;
    char path[] = "/tmp/ckmerge-json-XXXXXX", message[128];
    ck_json doc;
    ck_error err;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "{\"a\":1}\n", 8), 8);
    assert_int_equal(ck_json_load(path, &doc, &err), CK_OK);
    assert_string_equal(doc.name, path);
    ck_json_free(&doc);
    assert_int_equal(pwrite(fd, "(", 1, 0), 1);
    close(fd);
    assert_int_equal(ck_json_load(path, &doc, &err), CK_INPUT);
    snprintf(message, sizeof message, "%s:1: not a JSON value", path);
    assert_string_equal(err.message, message);
    remove(path);
    assert_int_equal(ck_json_load(path, &doc, &err), CK_IO);
    ck_json_free(&doc); /* zeroed */
}

/* A backslash in the text: want of memory must not be taken for a bad escape. */
static void test_faults(void **state) {
    (void)state;
    static const char *const texts[] = {"{\"a\":[1,2,{\"b\":\"c\\n\"}],\"\\u0062\":{}}",
                                        "{\"a\":1,\"b\":2,\"a\":3}"};
    for (int i = 0; i < 2; i++) {
        size_t faults = 0;
        for (fault_first(FAULT_CALLOC, ENOMEM); fault_more();) {
            ck_json doc = {0};
            ck_error err = {0};
            fault_arm();
            ck_status status = ck_json_parse("x", texts[i], strlen(texts[i]), &doc, &err);
            fault_disarm();
            faults += fault_hit();
            assert_int_equal(status, fault_hit() ? CK_MEMORY : i == 0 ? CK_OK : CK_INPUT);
            ck_json_free(&doc);
        }
        assert_true(faults > 6);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_documents), cmocka_unit_test(test_nul),
        cmocka_unit_test(test_depth),     cmocka_unit_test(test_large),
        cmocka_unit_test(test_places),    cmocka_unit_test(test_long_place),
        cmocka_unit_test(test_fields),    cmocka_unit_test(test_counts),
        cmocka_unit_test(test_load),      cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
