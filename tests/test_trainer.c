/* A step on a card: what the program does while the card computes. (What a step computes is
 * test_distill's, what is waited for test_plugin's. The card is none, see gpu_host.c.) */
#include "tests/check.h"

#include "distill/run/trainer.h"
#include "kernels/philox.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL "tests/data/models/base/"
enum { N = 1, SIDE = 8, CHANNELS = 4, TOKENS = 3, WIDTH = 64, STEPS = 4, MOST = 32 };

static ck_error err;

static void ok(ck_status s) {
    if (s != CK_OK) print_error("%s\n", err.message);
    assert_int_equal(s, CK_OK);
}

/* The rounds that were asked for. */
typedef struct asked {
    uint64_t rounds[MOST];
    size_t count;
} asked;

static ck_status batch(void *self, const ck_batch *b, ck_error *e) {
    asked *a = self;
    (void)e;
    assert_true(a->count < MOST);
    a->rounds[a->count++] = b->round;
    ck_philox_fill_normal(b->seed, (uint32_t)b->round, 1, 0, b->numbers, b->x0);
    memset(b->context, 0, N * TOKENS * WIDTH * sizeof *b->context);
    memset(b->no_context, 0, N * TOKENS * WIDTH * sizeof *b->no_context);
    return CK_OK;
}

typedef struct training {
    ck_schedule schedule;
    ck_process *process;
    ck_unet_config unet;
    ck_distill d;
    ck_trainer *trainer;
    asked asked;
} training;

static void begin(training *t, const char *backend, size_t accumulate) {
    const ck_backend *b;
    *t = (training){.schedule = ck_schedule_sd()};
    ok(ck_process_new(&t->schedule, 0, &t->process, &err));
    ok(ck_unet_read(MODEL "unet/config.json", &t->unet, &err));
    ck_network student = {.unet = &t->unet};
    ok(ck_params_open(MODEL "unet/diffusion_pytorch_model.safetensors", "", &student.params, &err));
    t->d = (ck_distill){.method = ck_distill_method_find("finetune"),
                        .guidance = 1,
                        .seed = 3,
                        .steps = STEPS,
                        .process = t->process,
                        .batch = N,
                        .total = N,
                        .shape = CK_SHAPE(N, SIDE, SIDE, CHANNELS),
                        .student = student};
    ok(ck_distill_build(&t->d, TOKENS, WIDTH, &err));
    ck_trainer_settings settings = {.adamw = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8},
                                    .accumulate = accumulate};
    ok(ck_backend_open(backend, &b, &err));
    ok(ck_trainer_new(&t->d, b, &settings, &t->trainer, &err));
    ok(ck_trainer_allocate(t->trainer, 0, &err));
}

static double take_step(training *t) {
    const ck_data data = {&t->asked, batch, NULL};
    ck_trainer_report report;
    ok(ck_trainer_run(t->trainer, &data, &report, &err));
    return report.loss;
}

static void end(training *t) {
    ck_trainer_free(t->trainer);
    ck_params_free(t->d.student.params);
    ck_distill_clear(&t->d);
    ck_process_free(t->process);
}

/* The next step's first round is asked for in this one, once, and the last step asks for no more.
 */
static void test_ahead(void **state) {
    (void)state;
    static const size_t after[STEPS] = {3, 5, 7, 8};
    training t;
    begin(&t, "cuda", 2);
    for (t.d.step = 0; t.d.step < STEPS; t.d.step++) {
        take_step(&t);
        assert_int_equal(t.asked.count, after[t.d.step]);
    }
    for (size_t i = 0; i < t.asked.count; i++) assert_int_equal(t.asked.rounds[i], i);
    end(&t);
}

/* What was made ahead is the same step's, and not used where another is asked for: after a rollback
 * with another seed, or again. */
static void test_other_step(void **state) {
    (void)state;
    static const struct {
        uint64_t step, seed;
    } asked_for[] = {{0, 3}, {1, 3}, {1, 3}, {2, 4}, {0, 3}, {1, 4}};
    training card, processor;
    begin(&card, "cuda", 1);
    begin(&processor, "cpu", 1);
    for (size_t i = 0; i < sizeof asked_for / sizeof *asked_for; i++) {
        card.d.step = processor.d.step = asked_for[i].step;
        card.d.seed = processor.d.seed = asked_for[i].seed;
        double got = take_step(&card), want = take_step(&processor);
        if (!(fabs(got - want) <= 1e-4 * want)) fail_msg("%zu: %g, not %g", i, got, want);
    }
    end(&card), end(&processor);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ahead),
                                       cmocka_unit_test(test_other_step)};
    return cmocka_run_group_tests_name("trainer", tests, NULL, NULL);
}
