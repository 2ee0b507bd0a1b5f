/* What a student can be that its teacher is not, on the small real UNet: told the scale of
 * guidance; of fewer blocks; a LoRA beside the teacher's weights. */
#include "tests/ok.h"
#include "tests/program.h"

#include "distill/methods/distill.h"
#include "distill/models/export.h"
#include "distill/models/shrink.h"
#include "distill/run/trainer.h"
#include "io/os.h"
#include "kernels/philox.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODEL "tests/data/models/base/"
enum { N = 2, SIDE = 8, CHANNELS = 4, TOKENS = 3, WIDTH = 64, SIZE = N * SIDE * SIDE * CHANNELS };

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
static ck_status batch(void *self, const ck_batch *b, ck_error *e) {
    (void)self, (void)e;
    ck_philox_fill_normal(1, (uint32_t)b->round, 1, 0, SIZE, b->x0);
    ck_philox_fill_normal(1, (uint32_t)b->round, 2, 0, N * TOKENS * WIDTH, b->context);
    memset(b->no_context, 0, N * TOKENS * WIDTH * sizeof *b->no_context);
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
    ok(ck_process_new(&t->schedule, 0, &t->process, &err));
    t->d = (ck_distill){.method = ck_distill_method_find(method),
                        .guidance = 3,
                        .steps = 10,
                        .process = t->process,
                        .batch = N,
                        .total = N,
                        .shape = CK_SHAPE(N, SIDE, SIDE, CHANNELS),
                        .teacher = teacher,
                        .student = student};
    for (size_t i = 0; t->d.method->settings[i].name; i++)
        t->d.setting[i] = t->d.method->settings[i].fallback;
    ok(ck_distill_build(&t->d, TOKENS, WIDTH, &err));
    ck_trainer_settings settings = {
        .adamw = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8}, .clip = 1, .accumulate = 1};
    ok(ck_backend_open("cpu", &b, &err));
    ok(ck_trainer_new(&t->d, b, &settings, &t->trainer, &err));
    ok(ck_trainer_allocate(t->trainer, 0, &err));
}

static void train(training *t, uint64_t steps) {
    ck_data data = {NULL, batch, NULL};
    ck_trainer_report report;
    for (uint64_t end = t->d.step + steps; t->d.step < end; t->d.step++) {
        ok(ck_trainer_run(t->trainer, &data, &report, &err));
        assert_true(isfinite(report.loss) && report.norm > 0);
        ok(ck_trainer_update(t->trainer, 1e-3, &err));
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
    ok(ck_unet_write(MODEL "unet/config.json", &told, path, &err));
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

/* ---- Smaller than its teacher ---- */

/* What the network asks for, made or from the file. */
static void ask_for_all(const ck_network *n) {
    free(answer(n, 1));
}

static const float *weight_named(const ck_params *p, const char *name, size_t *n) {
    for (size_t i = 0; i < ck_params_count(p); i++)
        if (strcmp(ck_params_name(p, i), name) == 0) {
            *n = ck_params_elements(p, i);
            return ck_params_data(p, i);
        }
    return NULL;
}

static void assert_from(const ck_params *student, const char *name, const ck_params *teacher,
                        const char *from) {
    size_t n = 0, m = 0;
    const float *a = weight_named(student, name, &n), *b = weight_named(teacher, from, &m);
    assert_true(a && b && n == m);
    assert_memory_equal(a, b, n * sizeof *a);
}

/* A teacher with two layers a level, as Stable Diffusion has; its student has one, and no middle:
 * on the way up the last layer is the teacher's last. */
static void test_shrink(void **state) {
    (void)state;
    char folder[] = "/tmp/ck_shrink.XXXXXX", path[64], command[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/m.safetensors", folder);
    ck_unet_config large, small;
    ok(ck_unet_read(MODEL "unet/config.json", &large, &err));
    for (int64_t l = 0; l < large.levels; l++) {
        large.level[l].layers = 2;
        large.level[l].depth[1] = large.level[l].depth[0];
        large.level[l].up_depth[2] = large.level[l].up_depth[1];
    }
    ck_network made = {.params = ck_params_new(3), .unet = &large};
    ask_for_all(&made);
    ok(ck_export(made.params, path, CK_DTYPE_COUNT, NULL, 0, &err));
    ck_params_free(made.params);

    ck_network teacher = {.unet = &large}, student = {.unet = &small};
    ok(ck_params_open(path, "unet.", &teacher.params, &err));
    small = large;
    assert_int_equal(ck_shrink(teacher.params, &small, 3, true, &student.params, &err), CK_USAGE);
    ok(ck_shrink(teacher.params, &small, 1, false, &student.params, &err));
    assert_true(small.level[0].layers == 1 && small.mid == 0);
    ask_for_all(&teacher), ask_for_all(&student);
    const ck_params *s = student.params, *t = teacher.params;
    assert_from(s, "down_blocks.0.resnets.0.conv1.weight", t,
                "down_blocks.0.resnets.0.conv1.weight");
    assert_from(s, "down_blocks.0.downsamplers.0.conv.weight", t,
                "down_blocks.0.downsamplers.0.conv.weight");
    assert_from(s, "up_blocks.0.resnets.0.conv1.weight", t, "up_blocks.0.resnets.0.conv1.weight");
    assert_from(s, "up_blocks.0.resnets.1.conv1.weight", t, "up_blocks.0.resnets.2.conv1.weight");
    assert_from(s, "up_blocks.2.attentions.1.proj_in.weight", t,
                "up_blocks.2.attentions.2.proj_in.weight");
    const char *const gone[] = {"down_blocks.0.resnets.1.conv1.weight",
                                "up_blocks.0.resnets.2.conv1.weight",
                                "mid_block.resnets.0.conv1.weight"};
    for (int i = 0; i < 3; i++) assert_false(ck_params_has(s, gone[i]));

    /* It is trained on what both have, and its config says what it is. */
    training run;
    begin(&run, "bk", teacher, student);
    train(&run, 2);
    end(&run);
    ck_unet_config read;
    snprintf(path, sizeof path, "%s/config.json", folder);
    ok(ck_unet_write(MODEL "unet/config.json", &small, path, &err));
    ok(ck_unet_read(path, &read, &err));
    assert_true(read.level[0].layers == 1 && read.mid == 0);
    ck_params_free(teacher.params); /* the student reads on from the same file */
    ck_reader *r;
    ok(ck_params_reader(student.params, &r, &err));
    assert_null(ck_reader_find(r, gone[1]));
    assert_non_null(ck_reader_find(r, "up_blocks.0.resnets.1.conv1.weight"));
    ck_reader_close(r);
    ck_params_free(student.params);
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

/* ---- LoRA ---- */

static float largest_difference(float *a, float *b) {
    float most = 0;
    for (size_t i = 0; i < SIZE; i++) most = fmaxf(most, fabsf(a[i] - b[i]));
    free(a), free(b);
    return most;
}

static size_t elements(const ck_params *p) {
    size_t n = 0;
    for (size_t i = 0; i < ck_params_count(p); i++) n += ck_params_elements(p, i);
    return n;
}

/* The LoRA as a file, put into the model by ckmerge. */
static ck_params *merged(const ck_adapter *a, const ck_params *factors, const ck_unet_config *c) {
    char folder[] = "/tmp/ck_network.XXXXXX", path[64], command[64];
    ck_params *p;
    const ck_meta facts[] = {{"distilled.method", "cd"}};
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/lora.safetensors", folder);
    ok(ck_adapter_export(a, factors, path, CK_DTYPE_COUNT, facts, 1, &err));
    outcome *o = program_run(".",
                             "ckmerge " MODEL "unet/diffusion_pytorch_model.safetensors --lora "
                             "%s -o %s/merged.safetensors --dtype f32",
                             path, folder);
    program_expect(o, 0, NULL, NULL);
    snprintf(path, sizeof path, "%s/merged.safetensors", folder);
    ok(ck_params_open(path, "", &p, &err));
    /* Weights are read when they are asked for. */
    free(answer(&(ck_network){.params = p, .unet = c}, 1));
    snprintf(command, sizeof command, "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
    return p;
}

static void test_lora(void **state) {
    (void)state;
    ck_unet_config c;
    ok(ck_unet_read(MODEL "unet/config.json", &c, &err));
    ck_network teacher = {.params = open_weights(), .unet = &c};
    ck_adapter a = {.base = teacher.params, .rank = 4, .alpha = 2};
    a.targets = ck_adapter_targets(&a.target_count);
    ck_network student = {.params = ck_params_new(5), .unet = &c, .adapter = &a};
    float *before = answer(&teacher, 1);
    assert_true(same(answer(&teacher, 1), answer(&student, 1)));

    training t;
    begin(&t, "guidance", teacher, student);
    assert_int_equal(ck_trainer_trained(t.trainer), elements(student.params));
    train(&t, 3);
    end(&t);
    assert_true(same(before, answer(&teacher, 1)));
    assert_true(largest_difference(answer(&teacher, 1), answer(&student, 1)) > 1e-3f);

    /* Linear layers, convolutions of 1x1 and of 3x3, with a stride: all of them are in the file. */
    ck_network whole = {.params = merged(&a, student.params, &c), .unet = &c};
    assert_true(largest_difference(answer(&whole, 1), answer(&student, 1)) < 2e-5f);
    ck_params_free(whole.params);
    ck_params_free(teacher.params), ck_params_free(student.params);
}

/* Factors and their steps have the same bits when blocks are computed again. */
static void test_lora_checkpointing(void **state) {
    (void)state;
    ck_unet_config c, again;
    ok(ck_unet_read(MODEL "unet/config.json", &c, &err));
    again = c;
    again.checkpoint = true;
    ck_network teacher = {.params = open_weights(), .unet = &c};
    ck_adapter a = {.base = teacher.params, .rank = 2, .alpha = 2};
    a.targets = ck_adapter_targets(&a.target_count);
    ck_network students[] = {{.params = ck_params_new(5), .unet = &c, .adapter = &a},
                             {.params = ck_params_new(5), .unet = &again, .adapter = &a}};
    for (int i = 0; i < 2; i++) {
        training t;
        begin(&t, "guidance", teacher, students[i]);
        train(&t, 2);
        end(&t);
    }
    assert_true(same(answer(&students[0], 1), answer(&students[1], 1)));
    ck_params_free(students[0].params), ck_params_free(students[1].params);
    ck_params_free(teacher.params);
}

/* ---- Losses ---- */

/* Two samples of two numbers, the first weighted by 1 and the second by 3; c = 0.5. */
static void test_losses(void **state) {
    (void)state;
    const double off[2][2] = {{0.25, -2}, {1, 0}}, weight[2] = {1, 3}, c = 0.5;
    for (int loss = CK_LOSS_L2; loss <= CK_LOSS_SMOOTH; loss++) {
        ck_distill d = {.shape = CK_SHAPE(2, 2), .loss = (ck_loss)loss, .huber = c};
        double want = 0;
        for (int i = 0; i < 2; i++) {
            double square = off[i][0] * off[i][0] + off[i][1] * off[i][1];
            for (int k = 0; k < 2; k++) {
                double x = fabs(off[i][k]), smooth = x <= c ? x * x / 2 : c * (x - c / 2);
                const double values[] = {x * x, sqrt(x * x + 1e-8) - 1e-4, sqrt(x * x + c * c) - c,
                                         sqrt(square + c * c) - c, smooth};
                want += weight[i] * values[loss] / 4;
            }
        }
        const ck_backend *b;
        ck_exec *e;
        float got;
        d.graph = ck_graph_new();
        ck_node x = ck_input(d.graph, "x", CK_F32, CK_SHAPE(2, 2));
        ck_node w = ck_input(d.graph, "weight", CK_F32, CK_SHAPE(2, 1));
        ck_node y = ck_distill_distance(&d, x, ck_const(d.graph, CK_SHAPE(2, 2), 1), w);
        ok(ck_graph_check(d.graph, &err));
        ok(ck_backend_open("cpu", &b, &err));
        ok(ck_exec_new(b, d.graph, &y, 1, &e, &err));
        ok(ck_exec_allocate(e, 0, &err));
        ok(ck_exec_write(e, x, (float[]){1.25f, -1, 2, 1}, 4, &err));
        ok(ck_exec_write(e, w, (float[]){1, 3}, 2, &err));
        ok(ck_exec_run(e, &err));
        ok(ck_exec_read(e, y, &got, 1, &err));
        assert_true(fabs((double)got - want) < 1e-6);
        ck_exec_free(e), ck_graph_free(d.graph);
    }
}

/* ---- SDXL ---- */

enum { POOLED = 5, TEXT = TOKENS * WIDTH + POOLED };

/* A UNet of random weights that takes pooled text and sizes. */
static ck_params *make_sdxl(ck_unet_config *c) {
    ok(ck_unet_read(MODEL "unet/config.json", c, &err));
    c->added_time = 6;
    c->added_width = POOLED + 6 * c->added_time;
    ck_params *p = ck_params_new(3);
    assert_non_null(p);
    return p;
}

/* The same text, as the UNet takes it and as training has it. */
static float *answer_sdxl(const ck_network *n, bool apart) {
    const ck_backend *b;
    ck_exec *e;
    ck_graph *g = ck_graph_new();
    ck_unet_inputs in = {.x = ck_input(g, "x", CK_F32, CK_SHAPE(N, SIDE, SIDE, CHANNELS)),
                         .time = ck_input(g, "time", CK_F32, CK_SHAPE(N)),
                         .guidance = CK_NONE};
    ck_node text = ck_input(g, "text", CK_F32, CK_SHAPE(N, 1, TEXT)), out;
    if (apart) {
        in.context = ck_input(g, "context", CK_F32, CK_SHAPE(N, TOKENS, WIDTH));
        in.pooled = ck_input(g, "pooled", CK_F32, CK_SHAPE(N, POOLED));
        in.sizes = ck_input(g, "sizes", CK_F32, CK_SHAPE(N, 6));
        out = ck_unet(g, n->params, n->unet, &in);
    } else {
        out = ck_network_answer(g, n, in.x, in.time, text, ck_const(g, CK_SHAPE(N), 1));
    }
    ok(ck_graph_check(g, &err));
    ok(ck_backend_open("cpu", &b, &err));
    ok(ck_exec_new(b, g, &out, 1, &e, &err));
    ok(ck_exec_allocate(e, 0, &err));
    float *x = noise(1, SIZE), *t = noise(2, N * TEXT), *y = malloc(SIZE * sizeof *y);
    ok(ck_exec_write(e, in.x, x, SIZE, &err));
    ok(ck_exec_write(e, in.time, (float[]){500, 20}, N, &err));
    if (apart) {
        float context[N * TOKENS * WIDTH], pooled[N * POOLED], sizes[N * 6];
        const float size[] = {8 * SIDE, 8 * SIDE, 0, 0, 8 * SIDE, 8 * SIDE};
        for (int i = 0; i < N; i++) {
            memcpy(context + i * TOKENS * WIDTH, t + i * TEXT, TOKENS * WIDTH * sizeof *t);
            memcpy(pooled + i * POOLED, t + i * TEXT + TOKENS * WIDTH, POOLED * sizeof *t);
            memcpy(sizes + i * 6, size, sizeof size);
        }
        ok(ck_exec_write(e, in.context, context, N * TOKENS * WIDTH, &err));
        ok(ck_exec_write(e, in.pooled, pooled, N * POOLED, &err));
        ok(ck_exec_write(e, in.sizes, sizes, N * 6, &err));
    } else {
        ok(ck_exec_write(e, text, t, N * TEXT, &err));
    }
    ok(ck_exec_run(e, &err));
    ok(ck_exec_read(e, out, y, SIZE, &err));
    free(x), free(t);
    ck_exec_free(e), ck_graph_free(g);
    return y;
}

static void test_sdxl(void **state) {
    (void)state;
    ck_unet_config c;
    ck_network n = {.params = make_sdxl(&c), .unet = &c, .factor = 8};
    assert_true(same(answer_sdxl(&n, false), answer_sdxl(&n, true)));
    n.factor = 4;
    assert_false(same(answer_sdxl(&n, false), answer_sdxl(&n, true)));
    ck_params_free(n.params);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_embedding), cmocka_unit_test(test_guidance),
        cmocka_unit_test(test_shrink),    cmocka_unit_test(test_losses),
        cmocka_unit_test(test_lora),      cmocka_unit_test(test_lora_checkpointing),
        cmocka_unit_test(test_sdxl),
    };
    return cmocka_run_group_tests_name("network", tests, NULL, NULL);
}
