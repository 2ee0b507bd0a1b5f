/* Signals as requests: what a process does that is sent one, two, or none that counts. */
#include "io/interrupt.h"
#include "tests/check.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOTICE "finishing the step\n"

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

/* The status with which a child that runs f ends; what it writes to standard error goes to said. */
static int child(int (*f)(int), int argument, char *said, size_t size) {
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(ends[1], STDERR_FILENO);
        /* The shell may have ignored some: those of jobs in the background. */
        for (int i = 0; i < 3; i++) signal(signals[i], SIG_DFL);
        alarm(10);
        _exit(f(argument));
    }
    close(ends[1]);
    ssize_t n = 0, got;
    while ((got = read(ends[0], said + n, size - 1 - (size_t)n)) > 0) n += got;
    said[n] = 0;
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static int ask_once(int number) {
    ck_interrupt_begin(NOTICE);
    if (ck_interrupt_asked() != 0) return 1;
    raise(number);
    if (ck_interrupt_asked() != number) return 2;
    ck_interrupt_end();
    return ck_interrupt_asked() == 0 ? 7 : 3;
}

static void test_first_is_a_request(void **state) {
    (void)state;
    char said[256];
    for (int i = 0; i < 3; i++) {
        int status = child(ask_once, signals[i], said, sizeof said);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 7);
        assert_string_equal(said, NOTICE);
    }
}

static int ask_twice(int number) {
    ck_interrupt_begin(NOTICE);
    raise(SIGINT);
    raise(number);
    return 1;
}

static void test_second_stops(void **state) {
    (void)state;
    char said[256];
    for (int i = 0; i < 3; i++) {
        int status = child(ask_twice, signals[i], said, sizeof said);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 128 + signals[i]);
        assert_string_equal(said, NOTICE);
    }
}

static int ask_after_end(int number) {
    ck_interrupt_begin(NULL);
    raise(number);
    ck_interrupt_end();
    raise(number);
    return 1;
}

static void test_end_restores(void **state) {
    (void)state;
    char said[256];
    for (int i = 0; i < 3; i++) {
        int status = child(ask_after_end, signals[i], said, sizeof said);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), signals[i]);
        assert_string_equal(said, "");
    }
}

/* As under nohup, which ignores SIGHUP. */
static int ask_what_is_ignored(int number) {
    signal(number, SIG_IGN);
    ck_interrupt_begin(NOTICE);
    raise(number);
    raise(number);
    if (ck_interrupt_asked()) return 1;
    ck_interrupt_end();
    raise(number);
    return 7;
}

static void test_ignored_stays_ignored(void **state) {
    (void)state;
    char said[256];
    for (int i = 0; i < 3; i++) {
        int status = child(ask_what_is_ignored, signals[i], said, sizeof said);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 7);
        assert_string_equal(said, "");
    }
}

/* A second run in the same process starts without the request that ended the first. */
static int ask_again(int number) {
    for (int run = 0; run < 2; run++) {
        ck_interrupt_begin(NULL);
        if (ck_interrupt_asked()) return 1;
        raise(number);
        if (ck_interrupt_asked() != number) return 2;
        ck_interrupt_end();
    }
    return 7;
}

static void test_again(void **state) {
    (void)state;
    char said[256];
    int status = child(ask_again, SIGTERM, said, sizeof said);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 7);
}

/* A read that waits is not broken off by a request: the step goes on as if nothing had come. */
static int read_on(int number) {
    int ends[2];
    char byte = 0;
    if (pipe(ends) != 0) return 1;
    ck_interrupt_begin(NULL);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        usleep(20000);
        kill(parent, number);
        usleep(20000);
        _exit(write(ends[1], "x", 1) != 1);
    }
    ssize_t got = read(ends[0], &byte, 1);
    int status, asked = ck_interrupt_asked();
    ck_interrupt_end();
    if (waitpid(pid, &status, 0) != pid || status != 0) return 2;
    return got == 1 && byte == 'x' && asked == number ? 7 : 3;
}

static void test_calls_go_on(void **state) {
    (void)state;
    char said[256];
    int status = child(read_on, SIGINT, said, sizeof said);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 7);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_is_a_request),
        cmocka_unit_test(test_second_stops),
        cmocka_unit_test(test_end_restores),
        cmocka_unit_test(test_ignored_stays_ignored),
        cmocka_unit_test(test_again),
        cmocka_unit_test(test_calls_go_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
