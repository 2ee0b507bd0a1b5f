/* The plugin for cards: where it is looked for, what is said where it does not work, and what a
 * card that is full says. (That it computes what it should is test_ops's and test_run's.) */
#include "tests/check.h"
#include "tests/fixture.h"
#include "tests/program.h"

#include "distill/engine/backend.h"
#include "distill/engine/resident.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHECKERBOARD "recipes/distill/checkerboard-ecd.json"

static fixture folder;
static char here[PATH_MAX], build[PATH_MAX];

static int set_up(void **state) {
    (void)state;
    const char *name = getenv("CK_BUILD");
    fixture_make(&folder);
    return getcwd(here, sizeof here) && realpath(name ? name : "build", build) ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    fixture_remove(&folder);
    return 0;
}

/* ckdistill alone in a folder, or with a plugin of the build folder beside it. */
static outcome *run_with(const char *plugin, const char *device) {
    char copy[2 * PATH_MAX] = "";
    if (plugin) snprintf(copy, sizeof copy, "cp '%s/%s' at/libck-cuda.so &&", build, plugin);
    return program_run(folder.folder,
                       "rm -rf at run && mkdir at && cp '%s/ckdistill' at/ && %s "
                       "at/ckdistill run '%s/" CHECKERBOARD "' -o run --device %s -q "
                       "--set steps=2 --set 'evaluate.steps=[1]' --set evaluate.teacher=false "
                       "--set save_every=2",
                       build, copy, here, device);
}

static void test_not_there(void **state) {
    (void)state;
    program_expect(run_with(NULL, "cuda"), 2, NULL, "make cuda");
    program_expect(run_with(NULL, "auto"), 0, NULL, NULL);
    program_expect(program_run(folder.folder, "grep backend run/config.json"), 0, "\"cpu\"", NULL);
}

static void test_other_version(void **state) {
    (void)state;
    program_expect(run_with("tests/old/libck-cuda.so", "cuda"), 2, NULL, "is of version");
}

static void test_no_plugin(void **state) {
    (void)state;
    program_expect(run_with("ckdistill", "cuda"), 2, NULL, "cannot be loaded");
}

static void test_used(void **state) {
    (void)state;
    program_expect(run_with("tests/libck-cuda.so", "auto"), 0, NULL, NULL);
    program_expect(program_run(folder.folder, "grep backend run/config.json run/run.json"), 0,
                   "\"cuda\"", NULL);
    program_expect(program_run(folder.folder, "cat run/run.json"), 0, "\"waited_for_card\"", NULL);
    program_expect(program_run(folder.folder, "at/ckdistill eval run -q"), 0, NULL, NULL);
}

/* Of the real one, where it was made. */
static void test_no_card(void **state) {
    (void)state;
    char real[2 * PATH_MAX];
    snprintf(real, sizeof real, "%s/libck-cuda.so", build);
    if (access(real, F_OK) != 0 || access("/dev/nvidiactl", F_OK) == 0) skip();
    program_expect(run_with("libck-cuda.so", "cuda"), 2, NULL, "no NVIDIA driver on this machine");
    program_expect(run_with("libck-cuda.so", "auto"), 0, NULL, NULL);
    program_expect(program_run(folder.folder, "grep backend run/config.json"), 0, "\"cpu\"", NULL);
}

/* The program's own card, that of this test, has so much. */
static void test_full_card(void **state) {
    (void)state;
    const ck_backend *b;
    ck_resident *r;
    ck_error err;
    void *weight;
    size_t index;
    assert_int_equal(ck_backend_open("cuda", &b, &err), CK_OK);
    setenv("CK_GPU_HOST_MEMORY", "1048576", 1);
    ck_params *p = ck_params_new(1);
    assert_int_equal(ck_params_need(p, "w", 2, (int64_t[]){1024, 512}, &index, &err), CK_OK);
    assert_int_equal(ck_resident_new(b, &r, &err), CK_OK);
    assert_int_equal(ck_resident_need(r, p, index, false, &weight, &err), CK_MEMORY);
    assert_non_null(strstr(err.message, "2.0 MiB for w, 1.0 of 1.0 MiB are free"));
    unsetenv("CK_GPU_HOST_MEMORY");
    assert_int_equal(ck_resident_need(r, p, index, false, &weight, &err), CK_OK);
    assert_ptr_equal(ck_resident_at(r, p, index), weight);
    assert_int_equal(ck_resident_bytes(r), 1024 * 512 * 4);
    assert_int_equal(ck_resident_need(r, p, index, true, &weight, &err), CK_OK);
    assert_int_equal(ck_resident_bytes(r), 1024 * 512 * (4 + 2));
    ck_resident_free(r);
    ck_params_free(p);
}

/* ckdistill with the card of the tests, which is told something, in the folder "at". */
static outcome *run_told(const char *told, const char *method, const char *sets) {
    return program_run(folder.folder,
                       "mkdir -p at && cp '%s/ckdistill' '%s/tests/libck-cuda.so' at/ && %s "
                       "at/ckdistill run '%s/recipes/distill/checkerboard-%s.json' -f -o run "
                       "--device cuda -q --set batch=16 --set threads=1 --set evaluate.every=0 "
                       "--set evaluate.teacher=false %s",
                       build, build, told, here, method, sets);
}

/* Whichever piece of memory the card does not give: how much of what there was, and what to do. */
static void test_every_piece(void **state) {
    (void)state;
    for (int n = 1;; n++) {
        char told[64];
        snprintf(told, sizeof told, "CK_GPU_HOST_FAIL=%d", n);
        const outcome *o = run_told(told, "dmd2", "--set steps=1 --set 'evaluate.steps=[1]'");
        if (strstr(o->err, "not given back")) fail_msg("piece %d: %s", n, o->err);
        if (o->status == 0) {
            assert_true(n > 20); /* and not because nobody is refused anything */
            return;
        }
        program_expect(o, 1, NULL, " MiB for ");
        program_expect(o, 1, NULL, " MiB are free; use a smaller batch or image, or turn gradient");
    }
}

/* How often a run waits for the card. */
static long waits_of(const char *method, int steps, int accumulate) {
    char sets[128];
    snprintf(sets, sizeof sets, "--set steps=%d --set accumulate=%d --set 'evaluate.steps=[]'",
             steps, accumulate);
    program_expect(run_told("CK_GPU_HOST_WAITS=waits", method, sets), 0, NULL, NULL);
    return strtol(program_run(folder.folder, "cat waits")->out, NULL, 10);
}

/* Once a step, to look at its losses; and where samples go from one round to the next, that often.
 */
static void test_waits(void **state) {
    (void)state;
    assert_int_equal(waits_of("lcm", 12, 1) - waits_of("lcm", 2, 1), 10);
    assert_int_equal(waits_of("lcm", 12, 3) - waits_of("lcm", 2, 3), 10);
    assert_int_equal(waits_of("dmd2", 12, 1) - waits_of("dmd2", 2, 1), 10);
    assert_int_equal(waits_of("dmd2", 12, 3) - waits_of("dmd2", 2, 3), 30);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_not_there),   cmocka_unit_test(test_other_version),
        cmocka_unit_test(test_no_plugin),   cmocka_unit_test(test_used),
        cmocka_unit_test(test_no_card),     cmocka_unit_test(test_full_card),
        cmocka_unit_test(test_every_piece), cmocka_unit_test(test_waits),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
