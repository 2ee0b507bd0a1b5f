/* SD3 and FLUX as teachers of runs: the tiny folders of test_pipelines.c, whose answers are those
 * of diffusers. */
#include "distill/data/image.h"
#include "distill/models/model.h"
#include "distill/models/network.h"
#include "distill/run/run.h"
#include "io/json.h"
#include "io/os.h"
#include "io/view.h"
#include "kernels/philox.h"
#include "merge/save.h"
#include "tests/folder.h"
#include "tests/program.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DATA "tests/data/pipelines/"

/* ---- Answers ---- */

enum { N = 2, H = 4, W = 6, TOKENS = 5, SIZE = N * H * W * 4 };

/* The answer of a network whose context is tokens and pooled text in one. */
static float *answer(const ck_network *n, int64_t width, int64_t pooled, double scale) {
    const ck_backend *b;
    ck_exec *e;
    int64_t text = TOKENS * width;
    ck_graph *g = ck_graph_new();
    ck_node x = ck_input(g, "x", CK_F32, CK_SHAPE(N, H, W, 4));
    ck_node time = ck_input(g, "time", CK_F32, CK_SHAPE(N));
    ck_node context = ck_input(g, "context", CK_F32, CK_SHAPE(N, 1, text + pooled));
    ck_node guidance = ck_const(g, CK_SHAPE(N, 1, 1, 1), scale);
    ck_node out = ck_network_answer(g, n, x, time, context, guidance);
    ok(ck_graph_check(g, &err));
    ok(ck_backend_open("cpu", &b, &err));
    ok(ck_exec_new(b, g, &out, 1, &e, &err));
    ok(ck_exec_allocate(e, 0, &err));
    float *in = malloc(SIZE * sizeof *in), *y = malloc(SIZE * sizeof *y);
    float *said = malloc((size_t)(N * (text + pooled)) * sizeof *said);
    ck_philox_fill_normal(1, 0, 0, 0, SIZE, in);
    ck_philox_fill_normal(1, 1, 0, 0, (size_t)(N * (text + pooled)), said);
    ok(ck_exec_write(e, x, in, SIZE, &err));
    ok(ck_exec_write(e, time, (float[]){300, 800}, N, &err));
    ok(ck_exec_write(e, context, said, (size_t)(N * (text + pooled)), &err));
    ok(ck_exec_run(e, &err));
    ok(ck_exec_read(e, out, y, SIZE, &err));
    free(in), free(said);
    ck_exec_free(e), ck_graph_free(g);
    return y;
}

/* What the network itself makes of the same, taken apart by hand. */
static float *answer_apart(const ck_network *n, int64_t width, int64_t pooled, float scale) {
    const ck_backend *b;
    ck_exec *e;
    size_t text = (size_t)(TOKENS * width), whole = text + (size_t)pooled;
    ck_graph *g = ck_graph_new();
    ck_node x = ck_input(g, "x", CK_F32, CK_SHAPE(N, H, W, 4));
    ck_node time = ck_input(g, "time", CK_F32, CK_SHAPE(N));
    ck_node context = ck_input(g, "context", CK_F32, CK_SHAPE(N, TOKENS, width));
    ck_node pool = ck_input(g, "pooled", CK_F32, CK_SHAPE(N, pooled));
    ck_node guidance = ck_input(g, "guidance", CK_F32, CK_SHAPE(N));
    ck_node out = n->flux ? ck_flux(g, n->params, n->flux,
                                    &(ck_flux_inputs){x, time, context, pool, guidance, NULL})
                          : ck_mmdit(g, n->params, n->mmdit,
                                     &(ck_mmdit_inputs){x, time, context, pool, CK_NONE, NULL});
    ck_node outputs[] = {out, guidance};
    ok(ck_graph_check(g, &err));
    ok(ck_backend_open("cpu", &b, &err));
    ok(ck_exec_new(b, g, outputs, 2, &e, &err));
    ok(ck_exec_allocate(e, 0, &err));
    float *in = malloc(SIZE * sizeof *in), *y = malloc(SIZE * sizeof *y);
    float *said = malloc(N * whole * sizeof *said), *tokens = malloc(N * text * sizeof *tokens);
    float *pools = malloc(N * (size_t)pooled * sizeof *pools);
    ck_philox_fill_normal(1, 0, 0, 0, SIZE, in);
    ck_philox_fill_normal(1, 1, 0, 0, N * whole, said);
    for (size_t i = 0; i < N; i++) {
        memcpy(tokens + i * text, said + i * whole, text * sizeof *said);
        memcpy(pools + i * (size_t)pooled, said + i * whole + text, (size_t)pooled * sizeof *said);
    }
    ok(ck_exec_write(e, x, in, SIZE, &err));
    ok(ck_exec_write(e, time, (float[]){300, 800}, N, &err));
    ok(ck_exec_write(e, context, tokens, N * text, &err));
    ok(ck_exec_write(e, pool, pools, N * (size_t)pooled, &err));
    ok(ck_exec_write(e, guidance, (float[]){scale, scale}, N, &err));
    ok(ck_exec_run(e, &err));
    ok(ck_exec_read(e, out, y, SIZE, &err));
    free(in), free(said), free(tokens), free(pools);
    ck_exec_free(e), ck_graph_free(g);
    return y;
}

static bool same(float *a, float *b) {
    bool equal = memcmp(a, b, SIZE * sizeof *a) == 0;
    free(a), free(b);
    return equal;
}

static void test_context(void **state) {
    (void)state;
    ck_model m;
    ok(ck_model_open(DATA "sd3", NULL, &m, &err));
    ck_network sd3 = {.params = m.unet, .mmdit = &m.mmdit_config};
    assert_true(same(answer(&sd3, 48, 40, 1), answer_apart(&sd3, 48, 40, 1)));
    assert_false(ck_network_guided(&sd3));
    ck_model_close(&m);
    ok(ck_model_open(DATA "flux", NULL, &m, &err));
    ck_network flux = {.params = m.unet, .flux = &m.flux_config};
    assert_true(same(answer(&flux, 48, 16, 3), answer_apart(&flux, 48, 16, 3)));
    assert_false(same(answer(&flux, 48, 16, 3), answer(&flux, 48, 16, 4)));
    assert_true(ck_network_guided(&flux));
    ck_model_close(&m);
}

/* A folder like DATA/flux, of a network that takes no guidance. */
static const char *plain_flux(void) {
    ck_reader *r, *view;
    ck_save_result result;
    const char *to = fixture_path(&f, "plain");
    const char *weights = fixture_path(&f, "plain/transformer/diffusion_pytorch_model.safetensors");
    program_expect(program_run(".", "true; cp -r " DATA "flux %s", to), 0, NULL, NULL);
    ok(ck_reader_open(DATA "flux/transformer/diffusion_pytorch_model.safetensors", &r, &err));
    ok(ck_view_new("plain", &view, &err));
    for (size_t i = 0; i < ck_reader_count(r); i++) {
        const ck_tensor *t = ck_reader_tensor(r, i);
        if (!strstr(t->name, "guidance")) ok(ck_view_rename(view, t->name, r, t, &err));
    }
    ok(ck_view_finish(view, &err));
    ok(ck_save(view, weights, &(ck_save_options){.dtype = CK_F32, .replace = true, .quiet = true},
               &result, &err));
    ck_reader_close(view), ck_reader_close(r);
    const char *config = DATA "flux/transformer/config.json";
    ck_flux_config c = {.guidance = false};
    ok(ck_flux_write(config, &c, fixture_path(&f, "plain/transformer/config.json"), &err));
    return fixture_path(&f, "plain");
}

/* A network that is told a number answers as before, until it is trained. */
static void test_telling(void **state) {
    (void)state;
    ck_model m;
    ck_network_config config;
    const char *folders[] = {DATA "sd3", plain_flux()};
    for (int i = 0; i < 2; i++) {
        ok(ck_model_open(folders[i], NULL, &m, &err));
        ck_network n = {.params = m.unet};
        if (i) n.flux = &m.flux_config;
        if (!i) n.mmdit = &m.mmdit_config;
        int64_t pooled = i ? 16 : 40;
        assert_false(ck_network_guided(&n));
        float *before = answer(&n, 48, pooled, 1);
        ok(ck_network_tell(&n, &config, &err));
        assert_true(ck_network_guided(&n));
        assert_true(same(before, answer(&n, 48, pooled, 7)));
        assert_int_equal(ck_network_tell(&n, &config, &err), CK_USAGE);
        ck_model_close(&m);
    }
}

/* ---- Runs ---- */

static void make_photos(void) {
    mkdir(fixture_path(&f, "photos"), 0777);
    for (size_t i = 0; i < 4; i++) {
        ck_image image;
        char name[32];
        ok(ck_image_make(16, 16, 3, &image, &err));
        for (size_t k = 0; k < 16 * 16 * 3; k++) image.pixels[k] = (uint8_t)(k * (i + 1));
        snprintf(name, sizeof name, "photos/%zu.png", i);
        ok(ck_image_write(fixture_path(&f, name), &image, NULL, 0, true, &err));
        ck_image_free(&image);
        snprintf(name, sizeof name, "photos/%zu.txt", i);
        fixture_file(&f, name, i % 2 ? "a photo" : "a cat", i % 2 ? 7 : 5);
    }
}

/* more: the rest of the config, from within the method on. */
static void run(const char *teacher, const char *method, const char *more) {
    char text[2048], here[512];
    static const ck_run_options anew = {.quiet = true, .force = true};
    assert_non_null(getcwd(here, sizeof here));
    snprintf(text, sizeof text,
             "{\"task\": \"images\", \"teacher\": \"%s%s%s\", \"threads\": 1, \"batch\": 2, "
             "\"guidance\": 3, \"log_every\": 1, \"data\": {\"images\": \"photos\", \"size\": 16}, "
             "\"evaluate\": {\"steps\": [1], \"samples\": 10, \"teacher\": false}, "
             "\"method\": {\"name\": \"%s\"%s}\n",
             teacher[0] == '/' ? "" : here, teacher[0] == '/' ? "" : "/", teacher, method, more);
    const char *config = fixture_file(&f, "config.json", text, strlen(text));
    ok(ck_run_start(config, NULL, 0, fixture_path(&f, "run"), &anew, &err));
}

/* The mean loss of `count` steps from the one that is `from` on. */
static double mean_loss(size_t from, size_t count) {
    double sum = 0;
    size_t n, at = 0;
    char *log = (char *)fixture_read(fixture_path(&f, "run/log.jsonl"), &n), *rest = log, *line;
    log[n - 1] = 0;
    while ((line = strsep(&rest, "\n"))) {
        const char *loss = strstr(line, "\"loss\":");
        if (!loss) continue;
        if (at >= from && at < from + count) sum += strtod(loss + 7, NULL) / (double)count;
        at++;
    }
    assert_true(at >= from + count);
    free(log);
    return sum;
}

/* Two passes into one: the student's answer becomes that of the guided teacher. */
static void test_guidance(void **state) {
    (void)state;
    make_photos();
    run(DATA "sd3", "guidance",
        "}, \"steps\": 60, \"rate\": {\"peak\": 3e-3, \"shape\": \"constant\"}");
    double before = mean_loss(0, 15), after = mean_loss(45, 15);
    if (!(after < 0.5 * before)) print_error("loss from %g to %g\n", before, after);
    assert_true(after < 0.5 * before);
    program_expect(program_run(f.folder,
                               "ckdistill sample --model $OLDPWD/" DATA
                               "sd3 --unet run/student.safetensors --steps 2 --cfg 1 --size 16x16 "
                               "-q -p 'a cat' -o cat.png"),
                   0, NULL, NULL);
}

/* FLUX as pro's to dev's: the student takes the scale as an input. */
static void test_guidance_flux(void **state) {
    (void)state;
    make_photos();
    const char *teacher = plain_flux();
    run(teacher, "guidance",
        ", \"least\": 1, \"most\": 5}, \"steps\": 200, \"guidance_width\": 256, "
        "\"rate\": {\"peak\": 3e-3, \"shape\": \"constant\"}");
    double before = mean_loss(0, 30), after = mean_loss(150, 50);
    if (!(after < 0.5 * before)) print_error("loss from %g to %g\n", before, after);
    assert_true(after < 0.5 * before);
    ck_flux_config c;
    ok(ck_flux_read(fixture_path(&f, "run/config.transformer.json"), &c, &err));
    assert_true(c.guidance);
    /* One pass, with the scale as a dial. */
    ck_params *p;
    ok(ck_params_open(fixture_path(&f, "run/student.safetensors"), "", &p, &err));
    ck_network student = {.params = p, .flux = &c};
    assert_false(same(answer(&student, 48, 16, 1), answer(&student, 48, 16, 5)));
    ck_params_free(p);
}

/* Every method takes a flow: nothing is lost but what a transformer has not. */
static void test_methods(void **state) {
    (void)state;
    static const char *const methods[] = {"finetune", "pd",  "cd",  "lcm",  "pcm",
                                          "ecd",      "sfd", "dmd", "dmd2", "scm"};
    make_photos();
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        bool dmd = strncmp(methods[i], "dmd", 3) == 0;
        char more[128];
        snprintf(more, sizeof more, "%s}, \"steps\": 3, \"checkpointing\": %s",
                 dmd ? ", \"steps\": 2, \"every\": 1" : "", i % 2 ? "true" : "false");
        run(DATA "sd3", methods[i], more);
        double loss = mean_loss(0, 3);
        if (!(isfinite(loss) && loss > 0)) print_error("%s: %g\n", methods[i], loss);
        assert_true(isfinite(loss) && loss > 0);
    }
}

/* As a LoRA, under names that ckmerge and others know. */
static void test_lora(void **state) {
    (void)state;
    static const char *const folders[] = {DATA "sd3", DATA "flux"};
    static const int layers[] = {21, 17};
    make_photos();
    for (int i = 0; i < 2; i++) {
        run(folders[i], "lcm", "}, \"steps\": 2, \"lora\": {\"rank\": 4}");
        outcome *o = program_run(f.folder,
                                 "ckmerge $OLDPWD/%s/transformer/"
                                 "diffusion_pytorch_model.safetensors "
                                 "--lora run/student.safetensors -o merged%d.safetensors",
                                 folders[i], i);
        program_expect(o, 0, NULL, NULL);
        ck_reader *r;
        int found = 0;
        ok(ck_reader_open(fixture_path(&f, "run/student.safetensors"), &r, &err));
        for (size_t k = 0; k < ck_reader_count(r); k++)
            found += strstr(ck_reader_tensor(r, k)->name, ".lora_up.weight") != NULL;
        ck_reader_close(r);
        assert_int_equal(found, layers[i]);
    }
}

static void test_refusals(void **state) {
    (void)state;
    static const ck_run_options anew = {.quiet = true, .force = true};
    static const struct {
        const char *set, *says;
    } wrong[] = {{"teacher=%s/" DATA "sd3", "SD3 has no"},
                 {"teacher=%s/" DATA "flux", "FLUX has 256"}};
    make_photos();
    run(DATA "sd3", "finetune", "}, \"steps\": 1");
    for (int i = 0; i < 2; i++) {
        char set[512], here[256];
        assert_non_null(getcwd(here, sizeof here));
        snprintf(set, sizeof set, wrong[i].set, here);
        const char *sets[] = {set, "guidance_width=64"};
        const char *config = fixture_path(&f, "config.json"), *folder = fixture_path(&f, "run");
        assert_int_equal(ck_run_start(config, sets, 2, folder, &anew, &err), CK_INPUT);
        if (!strstr(err.message, wrong[i].says)) fail_msg("%s", err.message);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_context),
        cmocka_unit_test_setup_teardown(test_telling, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_guidance, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_guidance_flux, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_methods, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_lora, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refusals, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("teachers", tests, NULL, NULL);
}
