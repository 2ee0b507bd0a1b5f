/* The page of a run: what is in it, whatever is or is not in the run's folder. */
#include "distill/run/report.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
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

#define FILE_OF(f, name, text) fixture_file(f, name, text, strlen(text))

/* The page of the folder as it is now; to be released with free(). */
static char *make_page(const fixture *f) {
    char out[256];
    snprintf(out, sizeof out, "%s", fixture_path(f, "page.html"));
    ck_error err = {0};
    if (ck_report_write(f->folder, out, &err) != CK_OK) fail_msg("%s", err.message);
    size_t n;
    char *bytes = (char *)fixture_read(out, &n), *page = calloc(n + 1, 1);
    assert_non_null(page);
    memcpy(page, bytes, n);
    assert_int_equal(strlen(page), n);
    free(bytes);
    unlink(out);
    return page;
}

static size_t count(const char *page, const char *part) {
    size_t found = 0;
    for (; (page = strstr(page, part)); page += strlen(part)) found++;
    return found;
}

static void expect(const char *page, const char *part) {
    if (!strstr(page, part)) fail_msg("'%s' is not in the page:\n%.20000s", part, page);
}

static void expect_failure(const fixture *f, ck_status status, const char *message) {
    const char *out = fixture_path(f, "failed.html");
    ck_error err = {0};
    assert_int_equal(ck_report_write(f->folder, out, &err), status);
    if (!strstr(err.message, message)) fail_msg("not '%s' but '%s'", message, err.message);
    assert_int_equal(access(out, F_OK), -1);
}

/* The smallest PNG there is: one gray pixel. */
static const unsigned char png[] = {0x89, 'P', 'N', 'G',  '\r', '\n', 0x1a, '\n', 0,    0, 0, 13,
                                    'I',  'H', 'D', 'R',  0,    0,    0,    1,    0,    0, 0, 1,
                                    8,    0,   0,   0,    0,    0x3a, 0x7e, 0x9b, 0x55, 0, 0, 0,
                                    10,   'I', 'D', 'A',  'T',  0x78, 0x9c, 0x63, 0x60, 0, 0, 0,
                                    2,    0,   1,   0x48, 0xaf, 0xa4, 0x71, 0,    0,    0, 0, 'I',
                                    'E',  'N', 'D', 0xae, 0x42, 0x60, 0x82};

static void write_run(const fixture *f) {
    FILE_OF(f, "config.json", "{\"method\": {\"name\": \"dmd\"}, \"steps\": 400, \"seed\": 7}");
    FILE_OF(f, "run.json",
            "{\"machine\": \"2 cores\", \"elapsed\": 7260, \"peak_memory\": 2130000000, "
            "\"shared\": false}");
    FILE_OF(f, "log.jsonl",
            "{\"step\":1,\"time\":1764000000,\"loss\":0.5,\"lr\":0.001}\n"
            "{\"step\":2,\"time\":1764000060,\"loss\":null,\"lr\":0.001}\n"
            "{\"step\":2,\"time\":1764000061,\"event\":\"rollback\",\"text\":\"to step 1\"}\n"
            "{\"step\":2,\"time\":1764000062,\"event\":\"saved\",\"text\":\"to 2\"}\n"
            "{\"step\":2,\"time\":1764000063,\"event\":\"evaluated\",\"swd_1\":3,\"swd_12\":2}\n"
            "{\"step\":400,\"time\":1764007260,\"loss\":0.25,\"lr\":0.001}\n"
            "{\"step\":400,\"time\":1764007260,\"event\":\"finished\"}\n");
    FILE_OF(f, "metrics.json",
            "{\"rows\": ["
            "{\"who\": \"teacher\", \"steps\": 25, \"cfg\": 2, \"frechet\": 20, \"recall\": 0.5},"
            "{\"who\": \"teacher\", \"steps\": 4, \"cfg\": 2, \"frechet\": 80, \"recall\": 0.25},"
            "{\"who\": \"student\", \"steps\": 4, \"cfg\": 1, \"frechet\": 30, \"recall\": null},"
            "{\"who\": \"student\", \"steps\": 1, \"cfg\": 1, \"frechet\": 60}]}");
    char folder[256];
    snprintf(folder, sizeof folder, "%s", fixture_path(f, "grids"));
    assert_true(mkdir(folder, 0777) == 0 || errno == EEXIST);
    fixture_file(f, "grids/9.png", png, sizeof png);
    fixture_file(f, "grids/10.png", png, sizeof png);
    FILE_OF(f, "grids/notes.txt", "no picture");
}

static void test_whole_run(void **state) {
    write_run(*state);
    char *page = make_page(*state);
    static const char *const parts[] = {
        "<!DOCTYPE html>",
        "dmd, started 2025-11-24 16:00 UTC, last heard of 2025-11-24 18:01 UTC",
        "<b>finished</b>",
        "<b>400 of 400</b>",
        "<b>2 h 1 min</b>",
        "<b>2.13 GB</b>",
        "<span class=q>Rollbacks</span><b>1</b>",
        "The student at <b>4 steps</b>: frechet <b>30</b>, 1.5 times the teacher's best",
        " the teacher's best (20 at 25); the teacher at 4: 80.",
        "The student at <b>1 step</b>: frechet <b>60</b>, 3 times the teacher's best (20 at 25).",
        "<td>4</td><td>1</td><td class=best>30</td><td></td>",
        "<td>4</td><td>2</td><td>80</td><td>0.25</td>",
        "<th>frechet &darr;</th><th>recall &uarr;</th>",
        "<b>Loss</b> <span class=q>last 0.25</span> <span class=w>1 not finite</span>",
        "<b>Learning rate</b>",
        "<b>swd</b> <span class=c0>&#9679; 1 step</span> <span class=c1>&#9679; 12 steps</span>",
        "<title>rollback</title>",
        "<td>1 min 1 s</td><td>2</td><td class=t>rollback</td><td class='t long'>to step 1</td>",
        "Saved 1 times.",
        "machine</th><td class='t long'>2 cores</td>",
        "shared</th><td class='t long'>no</td>",
        "&quot;steps&quot;:\t400",
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) expect(page, parts[i]);
    assert_null(strstr(page, "to 2<")); /* saved is not told */

    /* Pictures by number, the last first, and each as base64 of its bytes. */
    char *last = strstr(page, "After step 10<"), *first = strstr(page, "After step 9<");
    assert_true(last && first && last < first);
    assert_int_equal(
        count(page, "src='data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAA"
                    "CklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=='"),
        2);

    /* Nothing outside the page is needed, nothing in it runs. */
    static const char *const foreign[] = {"<script", "http://", "https://", "<link", "url("};
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        assert_null(strstr(page, foreign[i]));

    char *again = make_page(*state);
    assert_string_equal(page, again);
    free(again);
    free(page);
}

/* A run that has just begun, and folders that are none. */
static void test_missing_files(void **state) {
    expect_failure(*state, CK_INPUT, "no config.json in it: not the folder of a run");
    FILE_OF(*state, "config.json", "{}");
    char *page = make_page(*state);
    expect(page, "<b>not started</b>");
    assert_int_equal(count(page, "<h2>"), 1);
    free(page);
    FILE_OF(*state, "log.jsonl", "");
    FILE_OF(*state, "metrics.json", "{\"rows\": []}");
    page = make_page(*state);
    expect(page, "<b>not started</b>");
    assert_int_equal(count(page, "<h2>"), 1);
    free(page);
    FILE_OF(*state, "log.jsonl", "{\"step\":3,\"time\":5}\nnonsense\n{\"step\":4,\"ti");
    page = make_page(*state);
    expect(page, "<b>not finished</b>");
    expect(page, "1 lines of the log could not be read");
    free(page);
}

static void test_malformed_files(void **state) {
    static const struct {
        const char *name, *text, *message;
    } bad[] = {
        {"config.json", "[]", "config.json:1: $: must be an object"},
        {"config.json", "{", "config.json:1"},
        {"metrics.json", "{}", "no list of rows"},
        {"metrics.json", "{\"rows\": [7]}", "$.rows[0]: a row must be an object"},
        {"metrics.json", "{\"rows\": [{\"who\": \"student\"}]}", "a row needs who and steps"},
        {"metrics.json", "{\"rows\": [{\"who\": 1, \"steps\": 1}]}", "$.rows[0].who"},
        {"run.json", "3", "run.json:1: $: must be an object"},
        {"grids/9.png", "GIF89a", "9.png: not a PNG picture"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_run(*state);
        FILE_OF(*state, bad[i].name, bad[i].text);
        expect_failure(*state, CK_INPUT, bad[i].message);
    }
}

/* Text from the run's files stays text, wherever it is shown. */
static void test_escaping(void **state) {
    static const char evil[] = "<script>alert('1')</script>\\\"&\\u0001";
    char text[1024];
    write_run(*state);
    snprintf(text, sizeof text, "{\"method\":\"%s\",\"%s\":\"%s\"}", evil, evil, evil);
    FILE_OF(*state, "config.json", text);
    snprintf(text, sizeof text, "{\"%s\":\"%s\"}", evil, evil);
    FILE_OF(*state, "run.json", text);
    snprintf(text, sizeof text,
             "{\"step\":1,\"%s\":0.5}\n{\"step\":2,\"event\":\"%s\",\"text\":\"%s\"}\n", evil, evil,
             evil);
    FILE_OF(*state, "log.jsonl", text);
    snprintf(text, sizeof text, "{\"rows\":[{\"who\":\"%s\",\"steps\":1,\"%s\":\"%s\"}]}", evil,
             evil, evil);
    FILE_OF(*state, "metrics.json", text);
    fixture_file(*state, "grids/<script>.png", png, sizeof png);
    fixture_file(*state, "grids/\xff'\".png", png, sizeof png);
    char *page = make_page(*state);
    assert_null(strstr(page, "<script"));
    assert_null(strstr(page, "\x01"));
    /* method, configuration twice and method again; machine twice; curve; event twice; a row's
     * three. */
    static const char shown[] = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;";
    assert_int_equal(count(page, shown), 12);
    expect(page, "<figcaption>?&#39;&quot;.png</figcaption>");
    free(page);
    unlink(fixture_path(*state, "grids/<script>.png"));
    unlink(fixture_path(*state, "grids/\xff'\".png"));
}

/* Numbers that no axis can hold are left out and counted; none reaches a coordinate. */
static void test_numbers(void **state) {
    static const char *const logs[] = {
        "{\"step\":1,\"x\":null}\n",
        "{\"step\":1,\"x\":1e300}\n{\"step\":2,\"x\":-1e300}\n",
        "{\"step\":1,\"x\":5}\n",
        "{\"step\":1,\"x\":0}\n{\"step\":2,\"x\":0}\n",
        "{\"step\":1,\"x\":1e-300}\n{\"step\":2,\"x\":1e90}\n",
        "{\"step\":1,\"x\":1}\n{\"step\":1,\"x\":1.0000000000000002}\n",
        "{\"step\":999999999999999,\"x\":-3}\n{\"step\":0,\"x\":7,\"time\":-1e300}\n",
        "{\"step\":0,\"x\":1,\"memory\":-1}\n{\"step\":1,\"x\":1,\"memory\":1e99,\"time\":1e300}\n",
    };
    write_run(*state);
    for (size_t i = 0; i < sizeof logs / sizeof *logs; i++) {
        FILE_OF(*state, "log.jsonl", logs[i]);
        char *page = make_page(*state);
        expect(page, "<b>x</b>");
        char *training = strstr(page, "<h2>Training</h2>"), *end = strstr(training, "<h2>Config");
        *end = 0;
        assert_null(strstr(training, "nan"));
        assert_null(strstr(training, "inf<"));
        assert_null(strstr(training, "inf'"));
        assert_int_equal(count(training, " not finite</span>"), i == 0 ? 2 : i == 1);
        assert_int_equal(count(training, "<svg"), i < 2 ? 0 : i == 7 ? 2 : 1);
        free(page);
    }
}

/* A long night's log gives a page of the same size, with every spike still in it. */
static void test_long_log(void **state) {
    enum { SHORT = 2000, LONG = 100000 };
    size_t sizes[2];
    write_run(*state);
    for (int round = 0; round < 2; round++) {
        int steps = round ? LONG : SHORT;
        FILE *file = fopen(fixture_path(*state, "log.jsonl"), "w");
        assert_non_null(file);
        for (int i = 0; i < steps; i++)
            fprintf(file, "{\"step\":%d,\"time\":%d,\"loss\":%d}\n", i, i, i == steps / 2 ? 9 : 1);
        for (int i = 0; i < steps; i++)
            fprintf(file, "{\"step\":%d,\"event\":\"nan\",\"time\":%d}\n", i, i);
        assert_int_equal(fclose(file), 0);
        char *page = make_page(*state);
        sizes[round] = strlen(page);
        expect(page, "Only the last 200 other events");
        expect(page, "<path class='b c0'");
        expect(page, " 20.5L"); /* near the top: the spike in the band */
        free(page);
    }
    assert_in_range(sizes[1], sizes[0] - sizes[0] / 10, sizes[0] + sizes[0] / 10);
}

/* Whole or absent, and what was there before stays. */
static void test_faults(void **state) {
    write_run(*state);
    const char *out = FILE_OF(*state, "page.html", "before");
    for (int kind = 0; kind < FAULT_KINDS; kind++)
        for (fault_first((fault_kind)kind, kind <= FAULT_REALLOC ? ENOMEM : EIO); fault_more();) {
            FILE_OF(*state, "page.html", "before");
            ck_error err = {0};
            fault_arm();
            ck_status status = ck_report_write(((fixture *)*state)->folder, out, &err);
            fault_disarm();
            size_t n;
            char *text = (char *)fixture_read(out, &n);
            bool whole = n > 1000 && memcmp(text + n - 7, "</pre>\n", 7) == 0;
            bool before = n == 6 && memcmp(text, "before", 6) == 0;
            free(text);
            if (status == CK_OK || strstr(err.message, "written, but"))
                assert_true(whole);
            else
                assert_true(before && fault_hit() && err.message[0]);
        }
    unlink(out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_whole_run, setup, teardown),
        cmocka_unit_test_setup_teardown(test_missing_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_malformed_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_escaping, setup, teardown),
        cmocka_unit_test_setup_teardown(test_numbers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_log, setup, teardown),
        cmocka_unit_test_setup_teardown(test_faults, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
