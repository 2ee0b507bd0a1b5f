/* Strict JSON: what is refused, and where it says the mistake is. */
#include "io/json.h"
#include "tests/check.h"
#include "tests/fault.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

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
    {"[NaN]", "not a JSON value"},
    {"[1,]", "not a JSON value"},
    {"{\"a\":1,}", "field name in quotes"},
    {"{a:1}", "field name in quotes"},
    {"{\"a\" 1}", "':' expected"},
    {"[1 2]", "',' or ']' expected"},
    {"{\n\"a\":\n1 2}", "x:3: ',' or '}' expected"},
    {"[\"a\nb\"]", "control character"},
    {"[\"\\u0000\"]", "NUL character"},
    {"[\"\\x\"]", "bad escape"},
    {"[\"\\ud800\"]", "bad escape"},
    {"\"abc", "ends within a string"},
    {"\"abc\\", "ends within a string"},
    {"[", "ends too early"},
    {"{} {}", "something follows"},
    {"\xff", "not UTF-8"},
    {"\xef\xbb\xbf{}", "byte order mark"},
    {"{\"a\":1,\"a\":2}", "'a' is there twice"},
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
        if (message && !strstr(err.message, message))
            fail_msg("%s: '%s' lacks '%s'", text, err.message, message);
        if (status == CK_OK) ck_json_free(&doc);
    }
}

static void test_depth(void **state) {
    (void)state;
    char text[201];
    for (int depth = 60; depth <= 70; depth += 10) {
        ck_json doc;
        ck_error err;
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        ck_status status = ck_json_parse("x", text, 2 * (size_t)depth, &doc, &err);
        assert_int_equal(status, depth == 60 ? CK_OK : CK_INPUT);
        if (status == CK_OK) ck_json_free(&doc);
    }
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
    assert_string_equal(err.message, "x:1: $.n: must be a whole number from 0 to 2^53");
    assert_int_equal(ck_json_bool(&doc, doc.root, "t", &flag, &err), CK_INPUT);
    assert_string_equal(err.message, "x:2: $.t: must be true or false");
    const cJSON *object = cJSON_GetObjectItemCaseSensitive(doc.root, "o");
    assert_int_equal(ck_json_only(&doc, object, "type other", &err), CK_INPUT);
    assert_string_equal(err.message, "x:3: $.o.typo: unknown field; did you mean \"type\"?");
    ck_json_free(&doc);
}

static void test_faults(void **state) {
    (void)state;
    const char *text = "{\"a\":[1,2,{\"b\":\"c\"}]}";
    for (fault_first(FAULT_CALLOC, ENOMEM); fault_more();) {
        ck_json doc = {0};
        ck_error err = {0};
        fault_arm();
        ck_status status = ck_json_parse("x", text, strlen(text), &doc, &err);
        fault_disarm();
        assert_int_equal(status, fault_hit() ? CK_MEMORY : CK_OK);
        ck_json_free(&doc);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_documents),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
