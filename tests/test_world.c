/* Several processes by mpirun: the same losses as one, the same bits after a process was killed; on
 * the processor, and on cards (beside tests: such that are none, see gpu_host.c and nccl_host.c).
 * As `test_world BACKEND`, which mpirun starts, it shares a few numbers. */
#include "distill/run/shard.h"
#include "io/os.h"
#include "tests/folder.h"
#include "tests/program.h"

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

/* Whether there are no cards for so many processes. */
static bool lacks_cards(int processes) {
    char command[128];
    if (access("/dev/nvidiactl", F_OK) != 0) return false;
    snprintf(command, sizeof command, "test $(nvidia-smi -L | wc -l) -lt %d", processes);
    if (system(command) != 0) return false;
    print_message("fewer than %d cards: left out\n", processes);
    return true;
}

/* This many processes of a program, in the foreground or as a child of ours. */
static const char *start_of(int processes, const char *program, const char *words) {
    static char command[16384];
    char mpirun[256] = "";
    if (processes > 1)
        snprintf(mpirun, sizeof mpirun,
                 "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
                 "mpirun --oversubscribe -n %d",
                 processes);
    snprintf(command, sizeof command,
             "cd %s && ASAN_OPTIONS=detect_leaks=0 OMP_WAIT_POLICY=passive exec env %s "
             "%s %s >log 2>&1",
             f.folder, mpirun, program, words);
    return command;
}

/* The program with the card of the tests beside it, which it takes before any other. */
static void bring_program(const char *build) {
    char command[16384];
    snprintf(command, sizeof command,
             "cd %s && test -e ckdistill || cp %s/ckdistill %s/tests/libck-cuda.so "
             "%s/tests/libnccl.so.2 .",
             f.folder, build, build, build);
    assert_int_equal(system(command), 0);
}

/* `ckdistill run` or `resume`. */
static const char *command_of(int processes, const char *words) {
    char build[4096], program[4200], card[4200], all[512];
    assert_non_null(realpath(getenv("CK_BUILD") ? getenv("CK_BUILD") : "build", build));
    snprintf(card, sizeof card, "%s/tests/libck-cuda.so", build);
    snprintf(program, sizeof program, "%s/ckdistill", build);
    if (access(card, F_OK) == 0) {
        bring_program(build);
        strcpy(program, "./ckdistill");
    }
    snprintf(all, sizeof all, "%s -q", words);
    return start_of(processes, program, all);
}

static void must(int processes, const char *words) {
    int status = system(command_of(processes, words));
    if (status == 0) return;
    size_t n;
    unsigned char *log = fixture_read(fixture_path(&f, "log"), &n);
    fail_msg("%s: %.*s", words, (int)n, log);
}

static void write_config(const char *backend, const char *method, int steps) {
    char text[1024], here[512];
    assert_non_null(getcwd(here, sizeof here));
    snprintf(text, sizeof text,
             "{\"task\": \"checkerboard\", \"backend\": \"%s\", \"teacher\": "
             "\"%s/recipes/distill/checkerboard-teacher.safetensors\", \"method\": {\"name\": "
             "\"%s\"}, \"steps\": %d, \"batch\": 12, \"save_every\": 10, \"log_every\": 1, "
             "\"accumulate\": 2, \"ema\": 0.9, \"threads\": 1, "
             "\"evaluate\": {\"steps\": [], \"teacher\": false}}\n",
             backend, here, method, steps);
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

static void check_losses(const char *backend, const char *method, int processes) {
    need_mpirun();
    write_config(backend, method, 20);
    must(1, "run c.json -f -o one");
    must(processes, "run c.json -f -o more");
    assert_near("loss");
    assert_near("grad_norm");
}

/* Roles that change, trajectories that are carried on, two networks in training. */
static void test_losses(void **state) {
    (void)state;
    check_losses("cpu", "pd", 2);
    check_losses("cpu", "sfd", 3);
    check_losses("cpu", "dmd", 2);
    /* What one process saved, two go on with: it is whole. */
    must(2, "resume one");
    must(1, "resume more");
}

static void test_losses_on_cards(void **state) {
    (void)state;
    if (lacks_cards(2)) skip();
    check_losses("cuda", "pd", 2);
    check_losses("cuda", "dmd", 2);
    must(2, "resume one");
    must(1, "resume more");
}

/* (What was said may be lost on the way through mpirun, which ends the others at once.) */
static void test_refused(void **state) {
    (void)state;
    need_mpirun();
    write_config("cpu", "pd", 20);
    assert_int_not_equal(system(command_of(2, "run c.json -o r --set batch=5")), 0);
    assert_int_equal(access(fixture_path(&f, "r"), F_OK), -1);
}

/* (Open MPI itself may hang, having ended all its processes.) */
static int wait_for(pid_t mpirun) {
    int status;
    for (int i = 0; i < 1200; i++) {
        if (waitpid(mpirun, &status, WNOHANG) == mpirun) return status;
        usleep(50000);
    }
    kill(mpirun, SIGKILL);
    waitpid(mpirun, &status, 0);
    return status;
}

/* One of two is killed at any instant: mpirun ends, and two that go on end with the same bits. */
static void check_killed(const char *backend, int steps) {
    need_mpirun();
    write_config(backend, "dmd", steps);
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
        int status = wait_for(child);
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

static void test_killed(void **state) {
    (void)state;
    check_killed("cpu", 300);
}

static void test_killed_on_cards(void **state) {
    (void)state;
    if (lacks_cards(2)) skip();
    check_killed("cuda", 40);
}

/* ---- Numbers that go around ---- */

/* Weights that cannot be shared evenly, in pieces that fit none: of each number the sum in the
 * order of ranks, then everybody has all of them. */
static ck_status share_numbers(const char *backend, ck_error *e) {
    enum { COUNT = 5, ELEMENTS = 43 };
    static const size_t sizes[COUNT] = {7, 1, 19, 3, 13};
    float numbers[ELEMENTS];
    const ck_backend *b;
    ck_world w;
    ck_shard *s;
    CK_TRY(ck_world_open(&w, e));
    CK_TRY(ck_backend_open(backend, &b, e));
    CK_TRY(ck_shard_join(&w, b, e));
    CK_TRY(ck_shard_new(&w, b, sizes, COUNT, 4, &s, e));
    float *there = b->alloc(sizeof numbers);
    if (!there) return ck_fail_memory(e, "numbers");
    for (int i = 0; i < ELEMENTS; i++) numbers[i] = 1 / (float)(3 + i + 50 * (int)w.rank);
    b->write(there, numbers, sizeof numbers);
    CK_TRY(ck_shard_reduce(s, there, e));
    CK_TRY(ck_shard_share(s, there, e));
    b->read(numbers, there, sizeof numbers);
    for (int i = 0; i < ELEMENTS; i++) {
        float sum = 0;
        for (int r = 0; r < (int)w.size; r++) sum += 1 / (float)(3 + i + 50 * r);
        if (numbers[i] != sum)
            return ck_fail(e, CK_INPUT, "number %d is %.9g in process %zu, not %.9g", i, numbers[i],
                           w.rank, sum);
    }
    b->free(there);
    ck_shard_free(s);
    ck_shard_leave(b);
    ck_world_close(&w);
    return CK_OK;
}

static void check_shared(const char *backend, int processes) {
    char program[4096];
    if (processes > 1) need_mpirun();
    assert_non_null(realpath("/proc/self/exe", program));
    if (system(start_of(processes, program, backend)) == 0) return;
    size_t n;
    unsigned char *log = fixture_read(fixture_path(&f, "log"), &n);
    fail_msg("%d of %s: %.*s", processes, backend, (int)n, log);
}

static void test_shared(void **state) {
    (void)state;
    check_shared("cpu", 3);
}

/* More processes than there are weights; what one card alone can show: NCCL is found and a card
 * swaps numbers with itself. */
static void test_shared_on_cards(void **state) {
    (void)state;
    check_shared("cuda", 1);
    check_shared("cuda", !lacks_cards(6) ? 6 : !lacks_cards(2) ? 2 : 1);
}

/* One process finds its card full, and goes without waiting for the other. */
static void test_one_fails(void **state) {
    (void)state;
    need_mpirun();
    if (access("/dev/nvidiactl", F_OK) == 0) skip();
    write_config("cuda", "dmd", 20);
    command_of(1, ""); /* brings the program */
    const outcome *o =
        program_run(f.folder, "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
                              "ASAN_OPTIONS=detect_leaks=0; timeout 60 mpirun --oversubscribe "
                              "-n 1 ./ckdistill run c.json -o r -q : "
                              "-n 1 env CK_GPU_HOST_FAIL=20 ./ckdistill run c.json -o r -q");
    assert_int_not_equal(o->status, 0);
    assert_int_not_equal(o->status, 124);
}

/* What is said where NCCL is not beside the card of the tests (but perhaps on this machine, where
 * there is no real card for it), and where cards are full. */
static void test_no_nccl(void **state) {
    (void)state;
    char self[4096], command[16384];
    outcome *o;
    if (access("/dev/nvidiactl", F_OK) == 0) skip();
    assert_non_null(realpath("/proc/self/exe", self));
    snprintf(command, sizeof command, "cp %s $(dirname %s)/libck-cuda.so .", self, self);
    program_expect(program_run(f.folder, "%s", command), 0, NULL, NULL);
    o = program_run(f.folder, "./test_world cuda");
    assert_int_not_equal(o->status, 0);
    assert_non_null(strstr(o->err, "NCCL"));
    o = program_run(f.folder, "CK_NCCL_HOST_FULL=1 %s cuda", self);
    program_expect(o, 1, NULL, "out of memory");
    program_expect(o, 1, NULL, "use a smaller batch");
}

int main(int argc, char **argv) {
    if (argc > 1) {
        ck_status s = share_numbers(argv[1], &err);
        if (s != CK_OK) fprintf(stderr, "%s\n", err.message);
        return s == CK_OK ? 0 : 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_losses, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_losses_on_cards, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed_on_cards, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_shared, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_shared_on_cards, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_one_fails, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_nccl, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("world", tests, NULL, NULL);
}
