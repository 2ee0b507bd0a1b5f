/* Several processes by mpirun: the same losses as one, the same bits after a process was killed. */
#include "io/os.h"
#include "tests/folder.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Leaks of Open MPI's are not ours; and ThreadSanitizer cannot see into it at all. */
static void need_mpirun(void) {
    if (system("command -v mpirun >/dev/null") != 0 || getenv("TSAN_OPTIONS")) {
        print_message("mpirun is not there, or cannot be looked into: left out\n");
        skip();
    }
}

/* `ckdistill run` or `resume` of this many processes, in the foreground or as a child of ours. */
static const char *command_of(int processes, const char *words) {
    static char command[8192];
    char build[4096], mpirun[256] = "";
    assert_non_null(realpath(getenv("CK_BUILD") ? getenv("CK_BUILD") : "build", build));
    if (processes > 1)
        snprintf(mpirun, sizeof mpirun,
                 "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
                 "mpirun --oversubscribe -n %d",
                 processes);
    snprintf(command, sizeof command,
             "cd %s && ASAN_OPTIONS=detect_leaks=0 OMP_WAIT_POLICY=passive exec env %s "
             "%s/ckdistill %s -q >log 2>&1",
             f.folder, mpirun, build, words);
    return command;
}

static void must(int processes, const char *words) {
    int status = system(command_of(processes, words));
    if (status == 0) return;
    size_t n;
    unsigned char *log = fixture_read(fixture_path(&f, "log"), &n);
    fail_msg("%s: %.*s", words, (int)n, log);
}

static void write_config(const char *method, int steps) {
    char text[1024], here[512];
    assert_non_null(getcwd(here, sizeof here));
    snprintf(text, sizeof text,
             "{\"task\": \"checkerboard\", \"teacher\": "
             "\"%s/recipes/distill/checkerboard-teacher.safetensors\", \"method\": {\"name\": "
             "\"%s\"}, \"steps\": %d, \"batch\": 12, \"save_every\": 10, \"log_every\": 1, "
             "\"accumulate\": 2, \"ema\": 0.9, \"threads\": 1, "
             "\"evaluate\": {\"steps\": [], \"teacher\": false}}\n",
             here, method, steps);
    fixture_file(&f, "c.json", text, strlen(text));
}

/* The values of a name in a run's log, in order. */
static size_t read_values(const char *run, const char *name, double *values, size_t most) {
    char path[64], key[64];
    size_t n, count = 0;
    snprintf(path, sizeof path, "%s/log.jsonl", run);
    snprintf(key, sizeof key, "\"%s\":", name);
    char *log = (char *)fixture_read(fixture_path(&f, path), &n);
    log = realloc(log, n + 1);
    log[n] = 0;
    for (char *p = log; (p = strstr(p, key)) && count < most; p++)
        values[count++] = strtod(p + strlen(key), NULL);
    free(log);
    return count;
}

static void assert_near(const char *name) {
    double one[64], more[64];
    size_t n = read_values("one", name, one, 64);
    assert_int_equal(n, read_values("more", name, more, 64));
    assert_int_equal(n, 20);
    for (size_t i = 0; i < n; i++)
        if (!(fabs(one[i] - more[i]) <= 1e-4 * (fabs(one[i]) + 1e-3)))
            fail_msg("%s of step %zu: %.9g of one process, %.9g of more", name, i + 1, one[i],
                     more[i]);
}

/* Roles that change, trajectories that are carried on, two networks in training. */
static void test_losses(void **state) {
    (void)state;
    static const char *const methods[] = {"pd", "sfd", "dmd"};
    need_mpirun();
    for (size_t i = 0; i < 3; i++) {
        write_config(methods[i], 20);
        must(1, "run c.json -f -o one");
        must(i == 1 ? 3 : 2, "run c.json -f -o more");
        assert_near("loss");
        assert_near("grad_norm");
    }
    /* What one process saved, two go on with: it is whole. */
    must(2, "resume one");
    must(1, "resume more");
}

/* (What was said may be lost on the way through mpirun, which ends the others at once.) */
static void test_refused(void **state) {
    (void)state;
    need_mpirun();
    write_config("pd", 20);
    assert_int_not_equal(system(command_of(2, "run c.json -o r --set batch=5")), 0);
    assert_int_equal(access(fixture_path(&f, "r"), F_OK), -1);
}

/* One of two is killed at any instant: mpirun ends, and two that go on end with the same bits. */
static void test_killed(void **state) {
    (void)state;
    need_mpirun();
    write_config("dmd", 300);
    must(2, "run c.json -o whole");
    unsigned random = 7;
    for (int i = 0; i < 2; i++) {
        const char *words = access(fixture_path(&f, "run/checkpoints/latest"), F_OK) == 0
                                ? "resume run"
                                : "run c.json -f -o run";
        const char *command = command_of(2, words);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            execl("/bin/sh", "sh", "-c", command, (char *)NULL);
            _exit(127);
        }
        random = random * 1103515245 + 12345;
        usleep(400000 + (random >> 8) % 600000);
        /* The last one of mpirun's children. */
        char kill_one[128];
        snprintf(kill_one, sizeof kill_one, "pkill -9 -n -P %d", (int)child);
        bool killed = system(kill_one) == 0;
        int status;
        waitpid(child, &status, 0);
        if (killed) assert_true(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
    }
    if (access(fixture_path(&f, "run/student.safetensors"), F_OK) != 0)
        must(2, access(fixture_path(&f, "run/checkpoints/latest"), F_OK) == 0
                    ? "resume run"
                    : "run c.json -f -o run");
    size_t n, m;
    unsigned char *a = fixture_read(fixture_path(&f, "whole/student.safetensors"), &n);
    unsigned char *b = fixture_read(fixture_path(&f, "run/student.safetensors"), &m);
    assert_true(n == m && memcmp(a, b, n) == 0);
    free(a), free(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_losses, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("world", tests, NULL, NULL);
}
