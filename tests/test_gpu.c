/* The GPU's kernels for weights, run on the processor, against the optimiser. (Those of the
 * graph's operations are in test_ops.c, as the backend cuda.) */
#include "tests/check.h"

#include "distill/engine/optimizer.h"
#include "kernels/cuda/kernels.h"
#include "kernels/half.h"
#include "kernels/philox.h"

#include <math.h>
#include <string.h>

enum { N = 5003 }; /* no multiple of a block */

static float weights[N], same_weights[N], gradient[N], first[N], second[N];

static void make(void) {
    ck_philox_fill_normal(1, 0, 0, 0, N, weights);
    ck_philox_fill_normal(1, 0, 1, 0, N, gradient);
    memcpy(same_weights, weights, sizeof weights);
    memset(first, 0, sizeof first);
    memset(second, 0, sizeof second);
}

static const ck_backend *cpu(void) {
    const ck_backend *b;
    ck_error err;
    assert_int_equal(ck_backend_open("cpu", &b, &err), CK_OK);
    return b;
}

static void expect_near(const float *a, const float *b, double most) {
    for (size_t i = 0; i < N; i++)
        if (!(fabs((double)a[i] - b[i]) <= most * (1 + fabs((double)b[i]))))
            fail_msg("element %zu is %.9g, not %.9g", i, a[i], b[i]);
}

/* The same arithmetic in another order of roundings: a few 6e-8. */
static void test_adamw(void **state) {
    (void)state;
    make();
    const ck_adamw with = {0.9, 0.99, 1e-8, 0.1};
    const double rate = 0.01, scale = 0.5;
    ck_trained slice = {.value = weights, .gradient = gradient, .n = N};
    ck_optimizer *o = ck_optimizer_new(cpu(), &slice, 1, with);
    assert_non_null(o);
    for (int step = 1; step <= 3; step++) {
        ck_optimizer_step(o, rate, scale);
        ck_gpu_adamw a = {.beta1 = (float)with.beta1,
                          .beta2 = (float)with.beta2,
                          .eps = (float)with.eps,
                          .keep = (float)(1 - rate * with.decay),
                          .step = (float)(rate / (1 - pow(with.beta1, step))),
                          .root = (float)(1 / sqrt(1 - pow(with.beta2, step))),
                          .scale = (float)scale};
        ck_gpu_adamw_step(NULL, &a, same_weights, first, second, gradient, N);
    }
    expect_near(same_weights, weights, 1e-6);
    expect_near(first, o->slices[0].first, 1e-6);
    expect_near(second, o->slices[0].second, 1e-6);
    ck_optimizer_free(o);
}

static void test_average(void **state) {
    (void)state;
    make();
    cpu()->updates->average(weights, gradient, N, 1 - 0.9f);
    ck_gpu_average(NULL, same_weights, gradient, 1 - 0.9f, N);
    expect_near(same_weights, weights, 1e-6);
    for (size_t i = 0; i < N; i++) weights[i] += 0.25f * gradient[i];
    ck_gpu_add_scaled(NULL, same_weights, gradient, 0.25f, N);
    expect_near(same_weights, weights, 1e-6);
}

static void test_squares(void **state) {
    (void)state;
    make();
    float partial[CK_GPU_SQUARES];
    double sum, want = 0;
    ck_gpu_squares(NULL, &sum, gradient, N, partial);
    for (size_t i = 0; i < N; i++) want += (double)gradient[i] * gradient[i];
    assert_true(fabs(sum - want) < 1e-6 * want);
    gradient[N - 1] = NAN; /* must not be lost */
    ck_gpu_squares(NULL, &sum, gradient, N, partial);
    assert_true(isnan(sum));
}

/* Rounded by chance a number is one of its two neighbours, and on average itself; the same bits of
 * chance come again, others at another step. */
static void test_rounding(void **state) {
    (void)state;
    enum { TIMES = 4096 };
    static const float x[] = {1 + 0x1p-10f, -1 - 0x1.8p-8f, 0x1.23456p-20f, 1.5f, -0.f, 3e38f};
    static uint16_t copy[N], same[N];
    for (size_t k = 0; k < sizeof x / sizeof *x; k++) {
        double sum = 0, gap = fabs(x[k]) * 0x1p-7;
        for (int step = 0; step < TIMES; step++) {
            const ck_gpu_rounding how = {7, (uint32_t)step, 3};
            for (int i = 0; i < 11; i++) weights[i] = x[k];
            ck_gpu_round(NULL, copy, weights, 11, &how);
            assert_true(fabs(ck_half_value(copy[10]) - x[k]) < gap + 1e-45);
            sum += ck_half_value(copy[step % 11]) - x[k];
        }
        /* The mean of TIMES draws, each off by gap / 2 at most on average: five deviations. */
        assert_true(fabs(sum / TIMES) <= 5 * gap / 2 / sqrt(TIMES));
    }
    make();
    const ck_gpu_rounding how = {7, 1, 3}, later = {7, 2, 3}, other = {7, 1, 4};
    ck_gpu_round(NULL, copy, weights, N, &how);
    ck_gpu_round(NULL, same, weights, N, &how);
    assert_memory_equal(copy, same, sizeof copy);
    ck_gpu_round(NULL, same, weights, N, &later);
    assert_memory_not_equal(copy, same, sizeof copy);
    ck_gpu_round(NULL, same, weights, N, &other);
    assert_memory_not_equal(copy, same, sizeof copy);
    weights[0] = NAN, weights[1] = 1 + 0x1p-8f, weights[2] = 1 + 0x1.8p-7f; /* ties to even */
    ck_gpu_round(NULL, copy, weights, N, NULL);
    assert_true(isnan(ck_half_value(copy[0])));
    assert_true(ck_half_value(copy[1]) == 1 && ck_half_value(copy[2]) == 1 + 0x1p-6f);
    for (size_t i = 3; i < N; i++)
        assert_true(fabsf(ck_half_value(copy[i]) - weights[i]) <= fabsf(weights[i]) * 0x1p-8f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_adamw), cmocka_unit_test(test_average),
                                       cmocka_unit_test(test_squares),
                                       cmocka_unit_test(test_rounding)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
