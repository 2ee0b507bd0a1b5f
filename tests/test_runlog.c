/* The log of a run: what is written comes back, whatever happened in between. */
#include "distill/run/runlog.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
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

/* What a log holds, in short: "10:0.5 10!saved(text) 20:nan " */
typedef struct summary {
    char text[4096];
    size_t damaged;
} summary;

static ck_status note(void *context, const ck_log_record *r, ck_error *err) {
    (void)err;
    summary *s = context;
    size_t used = strlen(s->text);
    if (r->event)
        snprintf(s->text + used, sizeof s->text - used, "%d!%s(%s) ", (int)r->step, r->event,
                 r->text ? r->text : "");
    else
        snprintf(s->text + used, sizeof s->text - used, "%d:%g ", (int)r->step,
                 r->count ? r->values[0].value : -1);
    return CK_OK;
}

static summary *summarise(const char *path) {
    static summary s;
    s = (summary){0};
    MUST(ck_runlog_read(path, note, &s, &s.damaged, err));
    return &s;
}

static ck_runlog *open_log(const char *path, uint64_t step) {
    ck_runlog *log;
    MUST(ck_runlog_open(path, step, &log, err));
    return log;
}

static void add_step(ck_runlog *log, uint64_t step, double loss) {
    ck_log_value values[] = {{"loss", loss}, {"lr", 1e-4}};
    MUST(ck_runlog_append(log, &(ck_log_record){.step = step, .values = values, .count = 2}, err));
}

static void add_event(ck_runlog *log, uint64_t step, const char *event, const char *text) {
    MUST(ck_runlog_append(log, &(ck_log_record){.step = step, .event = event, .text = text}, err));
}

/* Steps 10, 20, ... with loss step / 10, and a save after each second. */
static const char *write_log(const fixture *f, const char *name, int steps) {
    static char path[256];
    snprintf(path, sizeof path, "%s", fixture_path(f, name));
    unlink(path);
    ck_runlog *log = open_log(path, 0);
    for (int i = 1; i <= steps; i++) {
        add_step(log, (uint64_t)i * 10, i);
        if (i % 2 == 0) add_event(log, (uint64_t)i * 10, "saved", NULL);
    }
    ck_runlog_close(log);
    return path;
}

/* ---- What is written ---- */

typedef struct full {
    int calls;
    double now;
} full;

static ck_status check_full(void *context, const ck_log_record *r, ck_error *err) {
    (void)err;
    full *f = context;
    if (f->calls++ == 0) {
        assert_true(r->step == ((uint64_t)1 << 49) + 1 && r->time == 1764000000.125);
        assert_null(r->event);
        assert_int_equal(r->count, 4);
        assert_string_equal(r->values[0].name, "loss");
        assert_true(r->values[0].value == 0.1 && r->values[1].value == 1234567890123);
        assert_true(isnan(r->values[2].value) && isnan(r->values[3].value));
        assert_string_equal(r->values[3].name, "grad \"norm\"");
    } else {
        assert_true(fabs(r->time - f->now) < 60);
        assert_string_equal(r->event, "nan");
        assert_string_equal(r->text, "line\nbreak \"quoted\" \xc3\xa4 ?? \x1b[2J");
        assert_int_equal(r->count, 0);
    }
    return CK_OK;
}

static void test_round_trip(void **state) {
    const char *path = fixture_path(*state, "full.jsonl");
    ck_runlog *log = open_log(path, 0);
    ck_log_value values[] = {
        {"loss", 0.1}, {"memory", 1234567890123}, {"lr", INFINITY}, {"grad \"norm\"", NAN}};
    ck_log_record record = {
        .step = ((uint64_t)1 << 49) + 1, .time = 1764000000.125, .values = values, .count = 4};
    MUST(ck_runlog_append(log, &record, err));
    add_event(log, 3, "nan", "line\nbreak \"quoted\" \xc3\xa4 \xff\xfe \x1b[2J");
    ck_runlog_close(log);
    full f = {.now = (double)time(NULL)};
    size_t damaged;
    MUST(ck_runlog_read(path, check_full, &f, &damaged, err));
    assert_true(f.calls == 2 && damaged == 0);

    /* Two lines for people and for other programs. */
    size_t n;
    char *text = (char *)fixture_read(path, &n);
    const char *first = "{\"step\":562949953421313,\"time\":1764000000.125,\"loss\":0.1,"
                        "\"memory\":1234567890123,\"lr\":null,\"grad \\\"norm\\\"\":null}\n";
    assert_memory_equal(text, first, strlen(first));
    assert_ptr_equal(memchr(text + strlen(first), '\n', n - strlen(first)), text + n - 1);
    free(text);
}

static ck_status refuse(void *context, const ck_log_record *r, ck_error *err) {
    (void)r;
    ++*(int *)context;
    return ck_fail(err, CK_CANCELLED, "enough");
}

static void test_visitor_stops(void **state) {
    const char *path = write_log(*state, "stop.jsonl", 3);
    int calls = 0;
    size_t damaged;
    ck_error err = {0};
    assert_int_equal(ck_runlog_read(path, refuse, &calls, &damaged, &err), CK_CANCELLED);
    assert_int_equal(calls, 1);
}

/* Another process adds lines at the same time: none is lost or cut. */
static void test_two_writers(void **state) {
    enum { LINES = 200 };
    const char *path = write_log(*state, "two.jsonl", 0);
    ck_runlog *log = open_log(path, UINT64_MAX);
    pid_t child = fork();
    assert_true(child >= 0);
    ck_runlog *other = child ? log : open_log(path, UINT64_MAX);
    for (int i = 1; i <= LINES; i++) add_step(other, (uint64_t)i, child ? 1 : 2);
    if (!child) _exit(0);
    int status;
    assert_true(waitpid(child, &status, 0) == child && status == 0);
    ck_runlog_close(log);
    const summary *s = summarise(path);
    size_t lines = 0;
    for (const char *p = s->text; (p = strchr(p, ' ')); p++) lines++;
    assert_int_equal(lines, 2 * LINES);
    assert_int_equal(s->damaged, 0);
}

/* ---- Going on ---- */

static void test_go_on(void **state) {
    const char *path = write_log(*state, "on.jsonl", 5);
    assert_string_equal(summarise(path)->text, "10:1 20:2 20!saved() 30:3 40:4 40!saved() 50:5 ");
    ck_runlog_close(open_log(path, UINT64_MAX));
    assert_string_equal(summarise(path)->text, "10:1 20:2 20!saved() 30:3 40:4 40!saved() 50:5 ");
    ck_runlog *log = open_log(path, 20);
    add_event(log, 20, "rollback", "from 50");
    add_step(log, 30, 33);
    ck_runlog_close(log);
    assert_string_equal(summarise(path)->text,
                        "10:1 20:2 20!saved() 40!saved() 20!rollback(from 50) 30:33 ");
    ck_runlog_close(open_log(path, 0));
    assert_string_equal(summarise(path)->text, "20!saved() 40!saved() 20!rollback(from 50) ");
}

/* The file cut at every byte: readable up to the last whole line, and continued there. */
static void test_torn(void **state) {
    const char *path = write_log(*state, "torn.jsonl", 3);
    size_t n;
    char *text = (char *)fixture_read(path, &n);
    for (size_t cut = 0; cut <= n; cut++) {
        const char *torn = fixture_file(*state, "cut.jsonl", text, cut);
        char before[4096];
        snprintf(before, sizeof before, "%s", summarise(torn)->text);
        size_t lines = 0;
        for (size_t i = 0; i < cut; i++) lines += text[i] == '\n';
        static const char *const expected[] = {"", "10:1 ", "10:1 20:2 ", "10:1 20:2 20!saved() ",
                                               "10:1 20:2 20!saved() 30:3 "};
        assert_string_equal(before, expected[lines]);
        ck_runlog *log = open_log(torn, UINT64_MAX);
        add_step(log, 99, 9);
        ck_runlog_close(log);
        const summary *s = summarise(torn);
        assert_int_equal(s->damaged, 0);
        assert_true(strncmp(s->text, before, strlen(before)) == 0);
        assert_string_equal(s->text + strlen(before), "99:9 ");
    }
    free(text);
}

static void test_damaged(void **state) {
    static const char *const bad[] = {
        "",
        "{",
        "[1]",
        "{}",
        "{\"step\":-1}",
        "{\"step\":1.5}",
        "{\"step\":\"1\"}",
        "{\"step\":1,\"event\":7}",
        "{\"step\":1,\"loss\":\"1\"}",
        "{\"step\":1,\"step\":2}",
        "{\"step\":1} {\"step\":2}",
        "{\"step\":1,\"text\":\"\xff\"}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[256];
        int n = snprintf(text, sizeof text, "{\"step\":1}\n%s\n{\"step\":2}\n", bad[i]);
        const char *path = fixture_file(*state, "damaged.jsonl", text, (size_t)n);
        const summary *s = summarise(path);
        assert_string_equal(s->text, "1:-1 2:-1 ");
        assert_int_equal(s->damaged, 1);
        ck_runlog_close(open_log(path, 7));
        s = summarise(path);
        assert_string_equal(s->text, "1:-1 2:-1 7!damaged(1 unreadable lines taken out) ");
        assert_int_equal(s->damaged, 0);
    }
    /* Blocks that a power cut has left as zeros. */
    static const char zeros[] = "{\"step\":1}\n\0\0\0\0\0\0}\n{\"step\":2}\n\0\0\0";
    const char *path = fixture_file(*state, "zeros.jsonl", zeros, sizeof zeros - 1);
    const summary *s = summarise(path);
    assert_string_equal(s->text, "1:-1 2:-1 ");
    assert_int_equal(s->damaged, 1);
}

/* ---- Failures ---- */

/* A line is there whole, or not at all and append says so. */
static void test_faults_of_append(void **state) {
    static const struct {
        fault_kind kind;
        int error;
    } kinds[] = {{FAULT_CALLOC, ENOMEM}, {FAULT_PWRITE, ENOSPC}, {FAULT_FSYNC, EIO}};
    for (int k = 0; k < 3; k++) {
        size_t faults = 0;
        for (fault_first(kinds[k].kind, kinds[k].error); fault_more();) {
            const char *path = write_log(*state, "faults.jsonl", 1);
            ck_runlog *log = open_log(path, UINT64_MAX);
            ck_error err = {0};
            fault_arm();
            ck_log_record record = {.step = 10, .event = "saved"};
            ck_status status = ck_runlog_append(log, &record, &err);
            fault_disarm();
            bool hit = fault_hit();
            faults += hit;
            assert_int_equal(status, !hit ? CK_OK : k ? CK_IO : CK_MEMORY);
            bool there = !hit || kinds[k].kind == FAULT_FSYNC;
            assert_string_equal(summarise(path)->text, there ? "10:1 10!saved() " : "10:1 ");
            add_step(log, 20, 2);
            assert_string_equal(summarise(path)->text,
                                there ? "10:1 10!saved() 20:2 " : "10:1 20:2 ");
            ck_runlog_close(log);
        }
        assert_true(faults > 0);
    }
}

/* A disk that is full after half a line: a limit on the file's size is that, too. */
static void test_full_disk(void **state) {
    const char *path = write_log(*state, "full_disk.jsonl", 1);
    ck_runlog *log = open_log(path, UINT64_MAX);
    size_t n;
    free(fixture_read(path, &n));
    struct rlimit before, limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = n + 20;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    ck_error err = {0};
    ck_status status = ck_runlog_append(log, &(ck_log_record){.step = 10, .event = "saved"}, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(status, CK_IO);
    size_t after;
    free(fixture_read(path, &after));
    assert_int_equal(after, n);
    add_step(log, 20, 2);
    ck_runlog_close(log);
    assert_string_equal(summarise(path)->text, "10:1 20:2 ");
}

/* A log that cannot be cut is as it was. */
static void test_faults_of_open(void **state) {
    for (int kind = 0; kind < FAULT_KINDS; kind++) {
        bool memory = kind == FAULT_CALLOC || kind == FAULT_REALLOC;
        for (fault_first((fault_kind)kind, memory ? ENOMEM : EIO); fault_more();) {
            const char *path = write_log(*state, "open.jsonl", 3);
            ck_runlog *log = NULL;
            ck_error err = {0};
            fault_arm();
            ck_status status = ck_runlog_open(path, 20, &log, &err);
            fault_disarm();
            if (status != CK_OK) assert_true(fault_hit());
            ck_runlog_close(log);
            const char *text = summarise(path)->text;
            bool whole = strcmp(text, "10:1 20:2 20!saved() 30:3 ") == 0;
            bool cut = strcmp(text, "10:1 20:2 20!saved() ") == 0;
            assert_true(cut || (whole && status != CK_OK));
        }
    }
    ck_runlog *log;
    ck_error err = {0};
    size_t damaged;
    int calls = 0;
    assert_int_equal(ck_runlog_open("/nowhere/log.jsonl", 0, &log, &err), CK_IO);
    assert_int_equal(ck_runlog_read("/nowhere/log.jsonl", refuse, &calls, &damaged, &err), CK_IO);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_visitor_stops),
        cmocka_unit_test(test_two_writers),
        cmocka_unit_test(test_go_on),
        cmocka_unit_test(test_torn),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_faults_of_append),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_faults_of_open),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
