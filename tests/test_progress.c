/* The progress line's text, and that adding from many threads loses nothing. */
#include "io/progress.h"
#include "tests/check.h"

#include <pthread.h>
#include <string.h>

static void test_bytes(void **state) {
    (void)state;
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {{0, "0 B"},
                 {999, "999 B"},
                 {1000, "1.00 kB"},
                 {640000, "640 kB"},
                 {999499, "999 kB"},
                 {999500, "1.00 MB"},
                 {2132625918, "2.13 GB"},
                 {99949999999, "99.9 GB"},
                 {UINT64_MAX, "18.4 EB"}};
    char buf[32];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(ck_format_bytes(buf, sizeof buf, cases[i].bytes), cases[i].text);
}

static void test_line(void **state) {
    (void)state;
    char buf[256];
    ck_progress_line(buf, sizeof buf, "merging", 500000000, 2000000000, 1000000000, 80);
    assert_string_equal(
        buf, "merging [######....................]  25% 500 MB / 2.00 GB, 500 MB/s, 0:03 left");
    assert_int_equal(strlen(buf), 79);
    ck_progress_line(buf, sizeof buf, "merging", 0, 2000000000, 0, 80);
    assert_non_null(strstr(buf, "-:-- left"));
    ck_progress_line(buf, sizeof buf, "merging", 1, 8000, 1000000000, 200);
    assert_non_null(strstr(buf, "2:13:19 left"));
    /* A narrow terminal: no bar, and never longer than the line. */
    ck_progress_line(buf, sizeof buf, "merging", 1, 2, 1, 30);
    assert_true(strlen(buf) < 30);
    assert_null(strchr(buf, '['));
}

static void *adder(void *p) {
    for (int i = 0; i < 10000; i++) ck_progress_add(p, 3);
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
    ck_progress p;
    pthread_t threads[4];
    ck_progress_start(&p, "x", 120000, false);
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, adder, &p);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    ck_progress_end(&p);
    assert_int_equal(p.done, 120000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_line),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
