/* What a card's libraries choose is kept with a run, RUN/plans.json: one that goes on takes the
 * same, whatever they like by then; and where it cannot, it says so. The card is none (gpu_host.c),
 * and likes what CK_GPU_HOST_TASTE says. */
#include "tests/check.h"
#include "tests/fixture.h"
#include "tests/program.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static fixture folder;

/* Beside the program the card of the tests; a run of four steps in one piece, and one of two, of
 * which others go on. */
static int set_up(void **state) {
    (void)state;
    char here[PATH_MAX], build[PATH_MAX], text[2 * PATH_MAX];
    const char *name = getenv("CK_BUILD");
    fixture_make(&folder);
    if (!getcwd(here, sizeof here) || !realpath(name ? name : "build", build)) return -1;
    snprintf(text, sizeof text,
             "{\"task\": \"checkerboard\", \"backend\": \"cuda\", \"teacher\": "
             "\"%s/recipes/distill/checkerboard-teacher.safetensors\", \"method\": {\"name\": "
             "\"finetune\"}, \"rate\": {\"shape\": \"constant\"}, \"steps\": 4, \"batch\": 8, "
             "\"evaluate\": {\"steps\": [], \"teacher\": false}}\n",
             here);
    fixture_file(&folder, "c.json", text, strlen(text));
    program_expect(program_run(folder.folder,
                               "cp '%s/ckdistill' '%s/tests/libck-cuda.so' . && "
                               "./ckdistill run c.json -o whole -q && "
                               "./ckdistill run c.json -o half -q --set steps=2 && "
                               "sed -i 's/\"steps\":[[:space:]]*2/\"steps\": 4/' half/config.json",
                               build, build),
                   0, NULL, NULL);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    fixture_remove(&folder);
    return 0;
}

/* A copy of the half, with which something is done first, goes on with this card. */
static outcome *go_on(const char *first, const char *card) {
    return program_run(folder.folder,
                       "rm -rf run && cp -r half run && { %s; } && %s ./ckdistill resume run",
                       first, card);
}

static bool same_as_whole(void) {
    return program_run(folder.folder, "cmp run/student.safetensors whole/student.safetensors")
               ->status == 0;
}

static void test_kept(void **state) {
    (void)state;
    const outcome *o = go_on("true", "CK_GPU_HOST_TASTE=1");
    program_expect(o, 0, NULL, NULL);
    assert_null(strstr(o->err, "bits may differ"));
    assert_true(same_as_whole());
}

/* (As it would be if nothing were kept: so the test above can fail.) */
static void test_gone(void **state) {
    (void)state;
    program_expect(go_on("rm run/plans.json", "CK_GPU_HOST_TASTE=1"), 0, NULL,
                   "there is no run/plans.json any more: its bits may differ");
    assert_false(same_as_whole());
    program_expect(program_run(folder.folder, "cat run/plans.json"), 0, "backwards", NULL);
    program_expect(program_run(folder.folder, "cat run/log.jsonl"), 0, "\"changed\"", NULL);
}

static void test_other_card(void **state) {
    (void)state;
    program_expect(go_on("true", "CK_GPU_HOST_TASTE=1 CK_GPU_HOST_NAME='another card'"), 0, NULL,
                   "the run was computed by a card that is none, and goes on by another card: its "
                   "bits may differ");
    assert_false(same_as_whole());
    /* It is another card's run from here on. */
    const outcome *o = program_run(folder.folder, "cat run/plans.json");
    program_expect(o, 0, "\"another card\"", NULL);
    assert_null(strstr(o->out, "forwards"));
}

#define BY "{\"by\": \"a card that is none\", "

static void test_damaged(void **state) {
    (void)state;
    static const char *const files[][2] = {
        {"{}", "'by' and 'choices' are expected"},
        {"{", "run/plans.json"},
        {"{\"by\": 1, \"choices\": {}}", "$.by"},
        {BY "\"choices\": []}", "are expected"},
        {BY "\"choices\": {\"product\": 1}}", "$.choices.product"},
        {BY "\"choices\": {\"product\": \"sideways\"}}", "'sideways' is no choice"},
        {BY "\"choices\": {}, \"more\": 1}", "more"},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char first[256];
        snprintf(first, sizeof first, "echo '%s' >run/plans.json", files[i][0]);
        program_expect(go_on(first, ""), 1, NULL, files[i][1]);
    }
}

/* The processor computes in one way, and keeps nothing. */
static void test_nothing_to_choose(void **state) {
    (void)state;
    program_expect(program_run(folder.folder, "./ckdistill run c.json -o cpu -q --device cpu && "
                                              "test ! -e cpu/plans.json && ./ckdistill resume cpu"),
                   0, NULL, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kept),
        cmocka_unit_test(test_gone),
        cmocka_unit_test(test_other_card),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_nothing_to_choose),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
