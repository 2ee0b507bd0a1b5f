/* Text of files made fit to print. */
#include "io/utf8.h"
#include "tests/check.h"

static void test_printable(void **state) {
    (void)state;
    char buf[12];
    assert_string_equal(ck_printable(buf, sizeof buf, "a.b-\xc3\xa9"), "a.b-\xc3\xa9");
    assert_string_equal(ck_printable(buf, sizeof buf, "\x1b[2J\n\x7f\t"), "?[2J???");
    /* U+009B is what ESC [ is, U+00A0 the first after the control characters. */
    assert_string_equal(ck_printable(buf, sizeof buf, "\xc2\x9b\xc2\xa0"), "??\xc2\xa0");
}

static void test_too_long(void **state) {
    (void)state;
    char buf[12];
    assert_string_equal(ck_printable(buf, sizeof buf, "12345678901"), "12345678901");
    assert_string_equal(ck_printable(buf, sizeof buf, "123456789012"), "12345678...");
    /* Cut between characters, not within one. */
    assert_string_equal(ck_printable(buf, sizeof buf, "1234567\xc3\xa9-123"), "1234567...");
    assert_string_equal(ck_printable(buf, sizeof buf, "123456\xc3\xa9-123"), "123456\xc3\xa9...");
    assert_string_equal(ck_printable(buf, 4, "\xe2\x82\xac\xe2\x82\xac"), "...");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_printable),
        cmocka_unit_test(test_too_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
