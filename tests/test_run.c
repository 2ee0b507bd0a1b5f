/* Runs: what is in the folder, and that a run which is killed and resumed gives the same bits. */
#include "tests/ok.h"
#include "tests/fault.h"

#include "distill/run/config.h"
#include "distill/run/run.h"
#include "io/hash.h"
#include "io/json.h"
#include "io/os.h"
#include "io/reader.h"
#include "io/writer.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define TEACHER "recipes/distill/checkerboard-teacher.safetensors"

static char folder[64];
static const ck_run_options quietly = {.quiet = true};

static int set_up(void **state) {
    (void)state;
    strcpy(folder, "/tmp/ck_run.XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

static const char *in(char *path, const char *name) {
    snprintf(path, 256, "%s/%s", folder, name);
    return path;
}

/* A config of a method, 40 steps, a checkpoint every 5. */
static const char *config_of(char *path, const char *method, const char *more) {
    char text[1024], here[512];
    assert_non_null(getcwd(here, sizeof here));
    snprintf(text, sizeof text,
             "{\"task\": \"checkerboard\", \"teacher\": \"%s/" TEACHER "\", "
             "\"method\": {\"name\": \"%s\"}, \"steps\": 40, \"batch\": 32, \"save_every\": 5, "
             "\"log_every\": 1, \"accumulate\": 2, \"ema\": 0.9, \"threads\": 1, "
             "\"evaluate\": {\"steps\": [], \"teacher\": false}%s}\n",
             here, method, more);
    in(path, "config.json");
    ok(ck_write_file(path, text, strlen(text), true, &err));
    return path;
}

static void assert_same_file(const char *a, const char *b) {
    char *x, *y, pa[256], pb[256];
    size_t n, m;
    ok(ck_read_file(in(pa, a), 1 << 24, &x, &n, &err));
    ok(ck_read_file(in(pb, b), 1 << 24, &y, &m, &err));
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    free(x), free(y);
}

/* Goes on with the run, or begins it anew if it was killed before its first checkpoint. */
static ck_status go_on(const char *config, const char *run, ck_error *e) {
    char latest[512];
    const ck_run_options anew = {.quiet = true, .force = true};
    snprintf(latest, sizeof latest, "%s/checkpoints/latest", run);
    return access(latest, F_OK) == 0 ? ck_run_resume(run, &quietly, e)
                                     : ck_run_start(config, NULL, 0, run, &anew, e);
}

/* Waits until there is a checkpoint after some steps, or the child has ended. */
static void await_checkpoint(const char *run, pid_t child) {
    char saved[512];
    siginfo_t ended = {0};
    snprintf(saved, sizeof saved, "%s/checkpoints/step-00000010", run);
    while (access(saved, F_OK) != 0 && ended.si_pid == 0) {
        usleep(200);
        waitid(P_PID, (id_t)child, &ended, WEXITED | WNOHANG | WNOWAIT);
    }
}

/* The same in a child that is killed after so many microseconds; 0: never; SAVED: once it has made
 * ten steps. (A card is opened in children alone: what is open there does not outlast a fork.) */
enum { SAVED = 1 };
static void run_and_kill(const char *config, const char *run, useconds_t after) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        ck_error e;
        ck_status s = go_on(config, run, &e);
        if (s != CK_OK) fprintf(stderr, "%s\n", e.message);
        _exit(s == CK_OK ? 0 : 1);
    }
    if (after) {
        if (after == SAVED)
            await_checkpoint(run, child);
        else
            usleep(after);
        kill(child, SIGKILL);
    }
    int status;
    waitpid(child, &status, 0);
    assert_true(after || WIFEXITED(status));
    if (WIFEXITED(status)) assert_int_equal(WEXITSTATUS(status), 0);
}

static void check_killed(const char *method, const char *more) {
    char config[256], whole[256], killed[256], result[512];
    config_of(config, method, more);
    in(whole, "whole"), in(killed, "killed");
    double start = ck_seconds();
    run_and_kill(config, whole, 0);
    /* (A real card takes a second until it does anything.) */
    bool card = access("/dev/nvidiactl", F_OK) == 0;
    unsigned most = card ? (unsigned)(1e6 * (ck_seconds() - start)) : 150000;
    snprintf(result, sizeof result, "%s/metrics.json", killed);
    unsigned random = 12345;
    run_and_kill(config, killed, SAVED); /* however slow the machine is */
    for (int i = 0; i < 20; i++) {
        random = random * 1103515245 + 12345;
        run_and_kill(config, killed, 2000 + (random >> 8) % most);
    }
    if (access(result, F_OK) != 0) run_and_kill(config, killed, 0);
    assert_same_file("whole/student.safetensors", "killed/student.safetensors");
}

/* The teacher changes roles on the way. */
static void test_killed_pd(void **state) {
    (void)state;
    check_killed("pd", "");
}

/* Where they have come to is carried from step to step. */
static void test_killed_sfd(void **state) {
    (void)state;
    check_killed("sfd", "");
}

/* Two networks and a discriminator in training, samples on their way. */
static void test_killed_dmd2(void **state) {
    (void)state;
    check_killed("dmd2", "");
}

#define LORA ", \"lora\": {\"rank\": 4, \"targets\": [\"hidden*\"]}"

/* Weights, moments and averages in another memory, which checkpoints come from and go to. */
#define CUDA ", \"backend\": \"cuda\""

static void test_killed_pd_on_cuda(void **state) {
    (void)state;
    check_killed("pd", CUDA);
}

static void test_killed_dmd2_on_cuda(void **state) {
    (void)state;
    check_killed("dmd2", CUDA);
}

/* Copies of bfloat16 for products, rounded by chance: made anew when a run goes on. */
#define BF16 ", \"backend\": \"cuda-bf16\", \"adamw\": {\"rounding\": \"stochastic\"}"

static void test_killed_pd_on_cuda_bf16(void **state) {
    (void)state;
    check_killed("pd", BF16);
}

static void test_killed_dmd2_on_cuda_bf16(void **state) {
    (void)state;
    check_killed("dmd2", BF16);
}

static void read_losses(const char *run, double losses[6]) {
    char path[300], *log;
    size_t n;
    snprintf(path, sizeof path, "%s/log.jsonl", run);
    ok(ck_read_file(path, 1 << 20, &log, &n, &err));
    const char *p = log;
    for (int i = 0; i < 6; i++) {
        p = strstr(p, "\"loss\":");
        assert_non_null(p);
        losses[i] = strtod(p += 7, NULL);
    }
    free(log);
}

static void expect_near(const double *got, const double *want, double most) {
    for (int k = 0; k < 6; k++) assert_true(fabs(got[k] - want[k]) <= most * fabs(want[k]));
}

/* The same losses as on the processor: rounding makes them differ more from step to step. */
static void test_same_on_cuda(void **state) {
    (void)state;
    static const char *const methods[] = {"finetune", "ecd", "pd", "dmd2"};
    const char *sets[] = {"steps=6", "rate.peak=1e-3", "method.from=4", "backend=cuda"};
    char config[256], run[256];
    double want[6], got[6];
    const ck_run_options anew = {.quiet = true, .force = true};
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        const char **first = i == 2 ? sets : (const char *[]){sets[0], sets[1], sets[3]};
        size_t count = i == 2 ? 3 : 2;
        config_of(config, methods[i], i % 2 ? LORA : "");
        ok(ck_run_start(config, first, count, in(run, "cpu"), &anew, &err));
        read_losses(run, want);
        ok(ck_run_start(config, first, count + 1, in(run, "cuda"), &anew, &err));
        read_losses(run, got);
        expect_near(got, want, 1e-3);
        first[count] = "backend=cuda-bf16";
        ok(ck_run_start(config, first, count + 1, in(run, "bf16"), &anew, &err));
        read_losses(run, got);
        first[count] = "backend=cuda";
        expect_near(got, want, 5e-2);
    }
}

/* The student says what it is, what it came from, and how to sample it. */
static void test_metadata(void **state) {
    (void)state;
    char config[256], run[256], path[256], hex[CK_SHA256_HEX];
    config_of(config, "ecd", "");
    in(run, "run");
    const char *sets[] = {"steps=2", "evaluate.steps=[1, 2]", "guidance=1.5"};
    ok(ck_run_start(config, sets, 3, run, &quietly, &err));
    ck_reader *r;
    ok(ck_reader_open(in(path, "run/student.safetensors"), &r, &err));
    ok(ck_hash_sha256(TEACHER, hex, NULL, NULL, &err));
    const char *const facts[][2] = {{"distilled.method", "ecd"},
                                    {"distilled.teacher", "checkerboard-teacher.safetensors"},
                                    {"distilled.teacher_sha256", hex},
                                    {"distilled.steps", "1,2"},
                                    {"distilled.sampler", "lcm"},
                                    {"distilled.guidance_inside", "1.5"},
                                    {"distilled.sampling_guidance", "1"},
                                    /* ln(sigma) / 4 of the first moment and the middle one. */
                                    {"distilled.timesteps", "1.096,0.2306"}};
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++) {
        const char *value = ck_reader_meta(r, facts[i][0]);
        assert_non_null(value);
        assert_string_equal(value, facts[i][1]);
    }
    ck_reader_close(r);
}

/* Factors alone are kept; the base is read from its file again. */
static void test_killed_lora(void **state) {
    (void)state;
    char path[256];
    ck_reader *r;
    check_killed("dmd2", LORA);
    ok(ck_reader_open(in(path, "whole/student.safetensors"), &r, &err));
    assert_int_equal(ck_reader_count(r), 6);
    assert_non_null(ck_reader_find(r, "lora_unet_hidden1.alpha"));
    ck_reader_close(r);
}

/* The student becomes the teacher: its factors do. */
static void test_lora_promoted(void **state) {
    (void)state;
    char config[256], run[256];
    const char *sets[] = {"method.from=4", "lora.targets=[\"nothing\"]"};
    config_of(config, "pd", LORA);
    ok(ck_run_start(config, sets, 1, in(run, "run"), &quietly, &err));
    assert_int_equal(ck_run_start(config, sets, 2, in(run, "other"), &quietly, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "lora.targets"));
}

static void test_refusals(void **state) {
    (void)state;
    char config[256], run[256];
    config_of(config, "pd", "");
    in(run, "run");
    const char *sets[] = {"rate.peek=1"};
    assert_int_equal(ck_run_start(config, sets, 1, run, &quietly, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "peek"));
    assert_non_null(strstr(err.message, "peak"));
    assert_int_equal(access(run, F_OK), -1);
    const char *odd[] = {"method.to=3"};
    assert_int_equal(ck_run_start(config, odd, 1, run, &quietly, &err), CK_USAGE);
    const char *wide[] = {"backend=reference64"};
    assert_int_equal(ck_run_start(config, wide, 1, run, &quietly, &err), CK_USAGE);
    assert_non_null(strstr(err.message, "reference64"));
    const char *little[] = {"memory=1e-6"};
    assert_int_equal(ck_run_start(config, little, 1, run, &quietly, &err), CK_MEMORY);
    assert_non_null(strstr(err.message, "batch"));
    assert_int_equal(ck_run_resume(run, &quietly, &err), CK_IO);
}

/* A loss that stays too high goes back, three times, and then the run gives up with good weights.
 * (Here any loss is: above a hundredth of what it was.) */
static void test_astray(void **state) {
    (void)state;
    char config[256], run[256];
    config_of(config, "finetune", "");
    in(run, "run");
    const char *sets[] = {"guard.factor=0.01", "guard.warmup=6", "guard.high=3"};
    assert_int_equal(ck_run_start(config, sets, 3, run, &quietly, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "astray"));
    char *log, path[256];
    size_t n;
    ok(ck_read_file(in(path, "run/log.jsonl"), 1 << 24, &log, &n, &err));
    int rollbacks = 0;
    for (char *p = log; (p = strstr(p, "\"rollback\"")); p++) rollbacks++;
    assert_int_equal(rollbacks, 3);
    free(log);
}

/* The disk is full at the N-th write, for every N: what was saved is whole, and the run goes on
 * from there to the same bits. */
static void test_full_disk(void **state) {
    (void)state;
    char config[256], whole[256], run[256];
    const ck_run_options anew = {.quiet = true, .force = true};
    const char *sets[] = {"steps=6", "save_every=2", "log_every=2"};
    int faults = 0;
    config_of(config, "dmd", "");
    in(whole, "whole"), in(run, "run");
    ok(ck_run_start(config, sets, 3, whole, &anew, &err));
    for (fault_first(FAULT_PWRITE, ENOSPC); fault_more(); faults++) {
        char command[300], latest[300];
        snprintf(command, sizeof command, "rm -rf %s", run);
        assert_int_equal(system(command), 0);
        fault_arm();
        ck_status s = ck_run_start(config, sets, 3, run, &anew, &err);
        fault_disarm();
        assert_int_equal(s, fault_hit() ? CK_IO : CK_OK);
        snprintf(latest, sizeof latest, "%s/checkpoints/latest", run);
        if (access(latest, F_OK) == 0)
            ok(ck_run_resume(run, &quietly, &err));
        else
            ok(ck_run_start(config, sets, 3, run, &anew, &err));
        assert_same_file("whole/student.safetensors", "run/student.safetensors");
    }
    assert_true(faults > 10);
}

static double last_number(const char *log, const char *key) {
    const char *found = NULL;
    for (const char *p = log; (p = strstr(p, key)); p++) found = p;
    assert_non_null(found);
    return strtod(found + strlen(key), NULL);
}

/* After ten thousand steps a run has no more memory than after a thousand (that what is freed is
 * kept for a while by those who watch, is not ours); and its time goes into the operations of its
 * graphs, not in between. */
static void test_long(void **state) {
    (void)state;
    char config[256], run[256], path[256], *log, *described;
    size_t n;
    const char *sets[] = {"steps=10000", "save_every=1000", "log_every=1000", "batch=4",
                          "accumulate=1"};
    config_of(config, "finetune", "");
    in(run, "run");
    ok(ck_run_start(config, sets, 5, run, &quietly, &err));
    ok(ck_read_file(in(path, "run/log.jsonl"), 1 << 24, &log, &n, &err));
    double last = last_number(log, "\"memory\":");
    *strstr(log, "\"step\":2000") = 0;
    double first = last_number(log, "\"memory\":");
    assert_true(first > 1e6);
    if (!is_watched() && !(last <= first + (1 << 20)))
        fail_msg("%.0f bytes, later %.0f", first, last);
    free(log);
    ok(ck_read_file(in(path, "run/run.json"), 1 << 20, &described, &n, &err));
    assert_true(last_number(described, "\"steps\":") == 10000);
    assert_true(last_number(described, "\"overhead\":") >= 1);
    free(described);
}

static double judged(const char *metrics) {
    char path[256], *text;
    size_t n;
    ok(ck_read_file(in(path, metrics), 1 << 20, &text, &n, &err));
    double swd = last_number(text, "\"swd\":");
    free(text);
    return swd;
}

/* A student is judged as at the end of its run, and nothing is trained, whether it is asked for by
 * its run or is a file that a config names. */
static void test_judged_again(void **state) {
    (void)state;
    char config[256], run[256], again[256], student[300], path[256];
    const char *sets[] = {"evaluate.steps=[1]", student};
    config_of(config, "ecd", "");
    in(run, "run"), in(again, "again");
    ok(ck_run_start(config, sets, 1, run, &quietly, &err));
    double swd = judged("run/metrics.json");
    assert_true(swd > 0);
    assert_int_equal(remove(in(path, "run/metrics.json")), 0);
    char *table;
    size_t size;
    ck_run_options shown = {.quiet = true, .table = open_memstream(&table, &size)};
    ok(ck_run_evaluate(NULL, NULL, 0, run, &shown, &err));
    assert_true(judged("run/metrics.json") == swd);
    fclose(shown.table);
    char student_row[160], number[32];
    const char *row = strstr(table, "\nstudent ");
    assert_non_null(row);
    snprintf(student_row, sizeof student_row, "%.*s", (int)strcspn(row + 1, "\n"), row + 1);
    snprintf(number, sizeof number, " %.4g ", swd);
    assert_non_null(strstr(student_row, number));
    assert_int_equal(strncmp(table, "who ", 4), 0);
    free(table);

    snprintf(student, sizeof student, "student=%s/student.safetensors", run);
    ok(ck_run_evaluate(config, sets, 2, again, &quietly, &err));
    assert_true(judged("again/metrics.json") == swd);
    assert_int_equal(access(in(path, "again/student.safetensors"), F_OK), -1);
    assert_int_equal(ck_run_evaluate(config, sets, 2, again, &quietly, &err), CK_USAGE);
}

/* A dry run makes steps, but nothing that stays. */
static void test_dry(void **state) {
    (void)state;
    char config[256], run[256];
    const ck_run_options dry = {.quiet = true, .dry_run = true};
    config_of(config, "sfd", "");
    in(run, "run");
    ok(ck_run_start(config, NULL, 0, run, &dry, &err));
    assert_int_equal(access(run, F_OK), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_killed_pd, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed_sfd, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed_dmd2, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed_pd_on_cuda, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed_dmd2_on_cuda, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed_pd_on_cuda_bf16, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed_dmd2_on_cuda_bf16, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_same_on_cuda, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_metadata, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed_lora, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_lora_promoted, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refusals, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_astray, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_full_disk, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_long, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_judged_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_dry, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("run", tests, NULL, NULL);
}
