/* Noise processes: levels, grids and how x0 comes from answers; weights in memory and as files. */
#include "tests/ok.h"

#include "distill/models/export.h"
#include "distill/diffusion/process.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void near(double a, double b, double tolerance) {
    if (!(fabs(a - b) <= tolerance * fabs(b))) print_error("%.9g, not %.9g\n", a, b);
    assert_true(fabs(a - b) <= tolerance * fabs(b));
}

static ck_process *process_of(ck_prediction prediction) {
    ck_schedule s = ck_schedule_sd();
    ck_process *p;
    s.prediction = prediction;
    s.shift = 1;
    ok(ck_process_new(&s, 0, &p, &err));
    return p;
}

/* abar and sigma of Stable Diffusion's schedule; timesteps of a trailing grid. */
static void test_vp(void **state) {
    (void)state;
    ck_process *p = process_of(CK_PREDICT_EPSILON);
    near(ck_process_at_time(p, 999).sigma, 14.614641, 1e-5);
    near(ck_process_at_time(p, 499).sigma, 1.612886, 1e-5);
    near(ck_process_at_time(p, 0).sigma, 0.029167, 1e-4);
    near(ck_process_at_time(p, 19).a, sqrt(.98224399), 1e-6);
    ck_moment grid[5];
    ck_process_grid(p, 4, grid);
    const double times[] = {999, 749, 499, 249};
    for (int i = 0; i < 4; i++) near(grid[i].time, times[i], 0);
    assert_true(grid[4].s == 0 && grid[4].a == 1);
    assert_true(ck_process_last(p).time == 0 && ck_process_last(p).s > 0);
    /* From sigma and back, also between timesteps. */
    for (double t = 0; t < 999; t += 37.25) {
        ck_moment m = ck_process_at_time(p, t), back = ck_process_at(p, m.sigma);
        near(back.time + 1, t + 1, 1e-9);
        near(m.a * m.a + m.s * m.s, 1, 1e-12);
        near(m.s / m.a, m.sigma, 1e-12);
    }
    near(ck_process_at(p, 1e9).time, 999, 0);
    assert_true(ck_process_at(p, 0).time == 0);
    ck_process_free(p);
}

/* The 18 sigmas of Karras et al. */
static void test_edm(void **state) {
    (void)state;
    static const double sigmas[] = {80,     57.586, 40.786, 28.375,  19.352, 12.910,
                                    8.4009, 5.3152, 3.2568, 1.9233,  1.0882, .58535,
                                    .29644, .13952, .05995, .022935, .007528};
    ck_process *p = ck_process_edm(0.5);
    ck_moment grid[18];
    /* Their last is sigma 0.002; here it is none at all. */
    ck_process_grid(p, 17, grid);
    for (int i = 0; i < 17; i++) near(grid[i].sigma, sigmas[i], 2e-4);
    near(ck_process_at(p, 2).time, log(2) / 4, 1e-12);
    ck_wrap w = ck_process_wrap(p, ck_process_at(p, 0.5));
    near(w.skip, 0.5, 1e-12);
    near(w.out, sqrt(0.125), 1e-12);
    near(w.in, sqrt(2), 1e-12);
    near(ck_process_weight(p, ck_process_at(p, 0.5)), 1 / (w.out * w.out), 1e-12);
    /* Draws: the median of ln sigma is -1.2, one deviation up 0. */
    near(ck_process_draw(p, 0.5).sigma, exp(-1.2), 1e-9);
    near(ck_process_draw(p, 0.8413447460685429).sigma, 1, 1e-9);
    near(ck_process_draw(p, 0.022750131948179195).sigma, exp(-3.6), 1e-9);
    ck_process_free(p);
}

/* What a perfect network answers gives x0 back, for every prediction. */
static void test_wraps(void **state) {
    (void)state;
    const double x0 = 0.7, noise = -1.3;
    for (int k = CK_PREDICT_EPSILON; k <= CK_PREDICT_FLOW; k++) {
        ck_process *p = process_of((ck_prediction)k);
        for (double u = 0.05; u < 1; u += 0.1) {
            ck_moment m = ck_process_draw(p, u);
            double x = m.a * x0 + m.s * noise;
            const double answers[] = {noise, x0, m.a * noise - m.s * x0, noise - x0};
            ck_wrap w = ck_process_wrap(p, m);
            near(w.skip * x + w.out * answers[k], x0, 1e-9);
        }
        ck_wrap clean = ck_process_wrap(p, ck_process_clean());
        assert_true(clean.skip == 1 && clean.out == 0);
        ck_process_free(p);
    }
    ck_process *flow = process_of(CK_PREDICT_FLOW);
    near(ck_process_first(flow).s, 1, 0);
    assert_true(ck_process_first(flow).a == 0 && isinf(ck_process_first(flow).sigma));
    near(ck_process_at(flow, 1).time, 500, 1e-12);
    assert_true(ck_process_last(flow).s == 0);
    ck_process_free(flow);
}

/* Out to a file and in again: the same weights, in the file's order of dimensions. */
static void test_weights(void **state) {
    (void)state;
    char path[] = "/tmp/ck_weights.XXXXXX";
    close(mkstemp(path));
    ck_params *p = ck_params_new(7), *copy, *back;
    size_t conv, line, i;
    const int64_t krsc[] = {2, 3, 3, 4}, matrix[] = {5, 6}, narrow[] = {5, 1, 1, 6};
    assert_non_null(p);
    ok(ck_params_need(p, "conv.weight", 4, krsc, &conv, &err));
    ok(ck_params_need(p, "line.weight", 2, matrix, &line, &err));
    ok(ck_params_need(p, "line.weight", 2, matrix, &i, &err));
    assert_int_equal(i, line);
    assert_int_equal(ck_params_elements(p, conv), 72);
    const ck_meta fact = {"k", "v"};
    ok(ck_export(p, path, CK_DTYPE_COUNT, &fact, 1, &err));
    ck_reader *r;
    ok(ck_reader_open(path, &r, &err));
    assert_string_equal(ck_reader_meta(r, "k"), "v");
    const ck_tensor *t = ck_reader_find(r, "conv.weight");
    assert_true(t->rank == 4 && t->shape[0] == 2 && t->shape[1] == 4 && t->shape[2] == 3);
    float kcrs[72];
    ok(ck_reader_read(r, t, 0, kcrs, sizeof kcrs, &err));
    const float *data = ck_params_data(p, conv);
    for (int k = 0; k < 2; k++)
        for (int c = 0; c < 4; c++)
            for (int a = 0; a < 9; a++)
                assert_true(kcrs[(k * 4 + c) * 9 + a] == data[(k * 9 + a) * 4 + c]);
    ck_reader_close(r);
    ok(ck_params_open(path, "", &back, &err));
    ok(ck_params_need(back, "conv.weight", 4, krsc, &i, &err));
    assert_memory_equal(ck_params_data(back, i), data, sizeof kcrs);
    /* A matrix stands for a 1x1 convolution, nothing else for anything. */
    ok(ck_params_need(back, "line.weight", 4, narrow, &i, &err));
    const int64_t wrong[] = {6, 5};
    ck_params_free(back);
    ok(ck_params_open(path, "", &back, &err));
    assert_int_equal(ck_params_need(back, "line.weight", 2, wrong, &i, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "line.weight"));
    assert_int_equal(ck_params_need(back, "other.weight", 2, wrong, &i, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "other.weight"));
    ok(ck_params_copy(p, &copy, &err));
    ck_params_data(copy, conv)[0] += 1;
    assert_true(ck_params_data(copy, conv)[0] != data[0]);
    ck_params_assign(copy, p);
    assert_memory_equal(ck_params_data(copy, conv), data, sizeof kcrs);
    ck_params_free(copy), ck_params_free(back), ck_params_free(p);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vp),
        cmocka_unit_test(test_edm),
        cmocka_unit_test(test_wraps),
        cmocka_unit_test(test_weights),
    };
    return cmocka_run_group_tests_name("process", tests, NULL, NULL);
}
