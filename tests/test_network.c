/* What a student can be that its teacher is not, on the small real UNet: told the scale of
 * guidance. */
#include "tests/check.h"

#include "distill/distill.h"
#include "distill/trainer.h"
#include "io/os.h"
#include "kernels/philox.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODEL "tests/data/models/base/"
enum { N = 2, SIDE = 8, CHANNELS = 4, TOKENS = 3, WIDTH = 64, SIZE = N * SIDE * SIDE * CHANNELS };

static ck_error err;

static void ok(ck_status s) {
    if (s != CK_OK) print_error("%s\n", err.message);
    assert_int_equal(s, CK_OK);
}

static ck_params *open_weights(void) {
    ck_params *p;
    ok(ck_params_open(MODEL "unet/diffusion_pytorch_model.safetensors", "", &p, &err));
    return p;
}

static float *noise(uint32_t which, size_t n) {
    float *x = malloc(n * sizeof *x);
    ck_philox_fill_normal(7, which, 0, 0, n, x);
    return x;
}

/* The network's answer to fixed noise, at a scale; to be released with free(). */
static float *answer(const ck_network *n, double scale) {
    const ck_backend *b;
    ck_exec *e;
    ck_graph *g = ck_graph_new();
    ck_node x = ck_input(g, "x", CK_F32, CK_SHAPE(N, SIDE, SIDE, CHANNELS));
    ck_node time = ck_input(g, "time", CK_F32, CK_SHAPE(N));
    ck_node context = ck_input(g, "context", CK_F32, CK_SHAPE(N, TOKENS, WIDTH));
    ck_node out = ck_network_answer(g, n, x, time, context, ck_const(g, CK_SHAPE(N), scale));
    ok(ck_graph_check(g, &err));
    ok(ck_backend_open("cpu", &b, &err));
    ok(ck_exec_new(b, g, &out, 1, &e, &err));
    ok(ck_exec_allocate(e, 0, &err));
    float *in = noise(1, SIZE), *text = noise(2, N * TOKENS * WIDTH), *y = malloc(SIZE * sizeof *y);
    ok(ck_exec_write(e, x, in, SIZE, &err));
    ok(ck_exec_write(e, time, (float[]){500, 20}, N, &err));
    ok(ck_exec_write(e, context, text, N * TOKENS * WIDTH, &err));
    ok(ck_exec_run(e, &err));
    ok(ck_exec_read(e, out, y, SIZE, &err));
    free(in), free(text);
    ck_exec_free(e), ck_graph_free(g);
    return y;
}

static bool same(float *a, float *b) {
    bool equal = memcmp(a, b, SIZE * sizeof *a) == 0;
    free(a), free(b);
    return equal;
}

/* Fixed data and captions. */
static ck_status batch(void *self, const ck_distill *d, float *x0, float *context,
                       float *no_context, ck_error *e) {
    (void)self, (void)e;
    ck_philox_fill_normal(1, (uint32_t)d->round, 1, 0, SIZE, x0);
    ck_philox_fill_normal(1, (uint32_t)d->round, 2, 0, N * TOKENS * WIDTH, context);
    memset(no_context, 0, N * TOKENS * WIDTH * sizeof *no_context);
    return CK_OK;
}

/* Some steps of a method. */
typedef struct training {
    ck_schedule schedule;
    ck_process *process;
    ck_distill d;
    ck_trainer *trainer;
} training;

static void begin(training *t, const char *method, ck_network teacher, ck_network student) {
    const ck_backend *b;
    *t = (training){.schedule = ck_schedule_sd()};
    ok(ck_process_new(&t->schedule, &t->process, &err));
    t->d = (ck_distill){.method = ck_distill_method_find(method),
                        .guidance = 3,
                        .steps = 10,
                        .process = t->process,
                        .batch = N,
                        .shape = CK_SHAPE(N, SIDE, SIDE, CHANNELS),
                        .teacher = teacher,
                        .student = student};
    ok(ck_distill_build(&t->d, TOKENS, WIDTH, &err));
    ck_trainer_settings settings = {
        .adamw = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8}, .clip = 1, .accumulate = 1};
    ok(ck_backend_open("cpu", &b, &err));
    ok(ck_trainer_new(&t->d, b, &settings, &t->trainer, &err));
    ok(ck_trainer_allocate(t->trainer, 0, &err));
}

static void train(training *t, uint64_t steps) {
    ck_data data = {NULL, batch};
    ck_trainer_report report;
    for (uint64_t end = t->d.step + steps; t->d.step < end; t->d.step++) {
        ok(ck_trainer_run(t->trainer, &data, &report, &err));
        assert_true(isfinite(report.loss) && report.norm > 0);
        ck_trainer_update(t->trainer, 1e-3);
    }
}

static void end(training *t) {
    ck_trainer_free(t->trainer);
    ck_distill_clear(&t->d);
    ck_process_free(t->process);
}

/* ---- Told the scale of guidance ---- */

static void test_guidance(void **state) {
    (void)state;
    ck_unet_config plain, told;
    ok(ck_unet_read(MODEL "unet/config.json", &plain, &err));
    ck_network teacher = {.params = open_weights(), .unet = &plain}, student = {.unet = &told};
    told = plain;
    ok(ck_params_copy(teacher.params, &student.params, &err));
    ok(ck_guidance_add(student.params, &told, 256, &err));
    assert_int_equal(ck_guidance_add(student.params, &told, 256, &err), CK_USAGE);
    assert_true(ck_network_guided(&student) && !ck_network_guided(&teacher));
    /* Nothing, until it is trained. */
    assert_true(same(answer(&teacher, 3), answer(&student, 3)));
    assert_true(same(answer(&student, 3), answer(&student, 8)));

    training t;
    begin(&t, "guidance", teacher, student);
    train(&t, 2);
    end(&t);
    assert_false(same(answer(&student, 3), answer(&student, 8)));

    /* In the file, and found there. */
    ck_reader *r;
    ck_params *again;
    ck_unet_config found = plain;
    ok(ck_params_reader(student.params, &r, &err));
    ok(ck_params_from(r, "", &again, &err));
    ck_guidance_detect(again, &found);
    assert_int_equal(found.guidance, 256);
    ck_network saved = {.params = again, .unet = &found};
    assert_true(same(answer(&student, 5), answer(&saved, 5)));
    ck_guidance_detect(teacher.params, &found);
    assert_int_equal(found.guidance, 0);
    char path[] = "/tmp/ck_network.XXXXXX";
    close(mkstemp(path));
    ok(ck_guidance_write(MODEL "unet/config.json", 256, path, &err));
    ok(ck_unet_read(path, &found, &err));
    assert_int_equal(found.guidance, 256);
    unlink(path);
    ck_params_free(again), ck_reader_close(r);
    ck_params_free(teacher.params), ck_params_free(student.params);
}

/* The node says what LCM's function says. */
static void test_embedding(void **state) {
    (void)state;
    enum { WIDE = 256 };
    const double scales[N] = {1, 7.5};
    const ck_backend *b;
    ck_exec *e;
    float got[N * WIDE], want[WIDE];
    ck_graph *g = ck_graph_new();
    ck_node in = ck_input(g, "scale", CK_F32, CK_SHAPE(N, 1, 1, 1));
    ck_node out = ck_guidance_node(g, in, WIDE);
    ok(ck_graph_check(g, &err));
    ok(ck_backend_open("cpu", &b, &err));
    ok(ck_exec_new(b, g, &out, 1, &e, &err));
    ok(ck_exec_allocate(e, 0, &err));
    ok(ck_exec_write(e, in, (float[]){1, 7.5f}, N, &err));
    ok(ck_exec_run(e, &err));
    ok(ck_exec_read(e, out, got, N * WIDE, &err));
    for (int i = 0; i < N; i++) {
        ck_guidance_embed(scales[i], WIDE, want);
        for (int k = 0; k < WIDE; k++) assert_true(fabsf(got[i * WIDE + k] - want[k]) < 1e-3f);
    }
    ck_exec_free(e), ck_graph_free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embedding),
        cmocka_unit_test(test_guidance),
    };
    return cmocka_run_group_tests_name("network", tests, NULL, NULL);
}
