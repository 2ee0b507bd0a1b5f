/* The GPU's kernels for weights, run on the processor, against the optimiser. (Those of the
 * graph's operations are in test_ops.c, as the backend cuda.) */
#include "tests/check.h"

#include "distill/engine/cuda/updates.h"
#include "distill/engine/optimizer.h"
#include "kernels/cuda/kernels.h"
#include "kernels/half.h"
#include "kernels/philox.h"

#include <math.h>
#include <stdlib.h>
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
        const ck_gpu_piece p = {same_weights, gradient, first, second, N, 0};
        ck_gpu_adamw_step(NULL, &a, &p, 1);
    }
    expect_near(same_weights, weights, 1e-6);
    expect_near(first, o->slices[0].first, 1e-6);
    expect_near(second, o->slices[0].second, 1e-6);
    ck_optimizer_free(o);
}

static void test_average(void **state) {
    (void)state;
    make();
    const ck_gpu_piece p = {.to = same_weights, .from = gradient, .n = N};
    cpu()->updates->average(&(ck_pair){weights, gradient, N}, 1, 1 - 0.9f);
    ck_gpu_average(NULL, &p, 1, 1 - 0.9f);
    expect_near(same_weights, weights, 1e-6);
    for (size_t i = 0; i < N; i++) weights[i] += 0.25f * gradient[i];
    ck_gpu_add_scaled(NULL, &p, 1, 0.25f);
    expect_near(same_weights, weights, 1e-6);
}

static void test_squares(void **state) {
    (void)state;
    make();
    static float partial[CK_GPU_SQUARES];
    double sum, want = 0;
    const ck_gpu_piece p = {.to = &sum, .from = gradient, .n = N};
    ck_gpu_squares(NULL, &p, 1, partial);
    for (size_t i = 0; i < N; i++) want += (double)gradient[i] * gradient[i];
    assert_true(fabs(sum - want) < 1e-6 * want);
    gradient[N - 1] = NAN; /* must not be lost */
    ck_gpu_squares(NULL, &p, 1, partial);
    assert_true(isnan(sum));
}

/* Weights of all sizes in one call, more of them than go into a launch, have the bits that each has
 * alone. */
enum { MANY = CK_GPU_PIECES + 75 };

static size_t size_of_weight(size_t i) {
    return i % 7 == 0 ? 70000 : i % 5 == 0 ? 1 : 37 * i % 600 + 1;
}

typedef struct many {
    ck_trained slices[MANY];
    ck_pair pairs[MANY];
    ck_copied copies[MANY];
    float *numbers;
    uint16_t *halves;
    size_t total;
} many;

static many *make_many(void) {
    many *m = calloc(1, sizeof *m);
    assert_non_null(m);
    for (size_t i = 0; i < MANY; i++) m->total += size_of_weight(i);
    m->numbers = malloc(5 * m->total * sizeof *m->numbers);
    m->halves = calloc(m->total, sizeof *m->halves);
    assert_true(m->numbers && m->halves);
    ck_philox_fill_normal(3, 0, 0, 0, 5 * m->total, m->numbers);
    float *next = m->numbers;
    for (size_t i = 0; i < 3 * m->total; i++)
        next[i + 2 * m->total] = fabsf(next[i + 2 * m->total]);
    uint16_t *half = m->halves;
    for (size_t i = 0, n; i < MANY; i++, next += n, half += n) {
        n = size_of_weight(i);
        m->slices[i] =
            (ck_trained){next, next + m->total, next + 2 * m->total, next + 3 * m->total, n};
        m->pairs[i] = (ck_pair){next + 4 * m->total, next, n};
        m->copies[i] = (ck_copied){half, next, n, (uint32_t)(3 * i)};
    }
    return m;
}

static void free_many(many *m) {
    free(m->numbers), free(m->halves), free(m);
}

/* `at once` of them in a call. */
static void update_many(many *m, size_t at_once, double *sums) {
    static float partial[CK_GPU_SQUARES];
    const ck_adamw_step step = {0.9f, 0.99f, 1e-8f, 0.5f, 0.999f, 0.01f, 1.5f};
    const ck_rounding how = {11, 5};
    for (size_t i = 0; i < MANY; i += at_once) {
        size_t n = MANY - i < at_once ? MANY - i : at_once;
        ck_gpu_squares_of(NULL, m->slices + i, n, sums + i, partial);
        ck_gpu_adamw_of(NULL, &step, m->slices + i, n);
        ck_gpu_average_of(NULL, m->pairs + i, n, 0.25f);
        ck_gpu_add_of(NULL, m->pairs + i, n, 0.5f);
        ck_gpu_round_of(NULL, m->copies + i, n, &how);
    }
}

static void test_many(void **state) {
    (void)state;
    many *one = make_many(), *all = make_many();
    double sums[MANY], want[MANY];
    update_many(one, 1, want);
    update_many(all, MANY, sums);
    assert_memory_equal(sums, want, sizeof sums);
    assert_memory_equal(all->numbers, one->numbers, 5 * one->total * sizeof(float));
    assert_memory_equal(all->halves, one->halves, one->total * sizeof(uint16_t));
    free_many(one), free_many(all);
}

/* The sum of squares as it always was: its bits decide about clipping, and a run that goes on has
 * had them before. 256 blocks of 256, each thread's numbers 65536 apart; then the blocks' sums. */
static float tree(float x[256]) {
    for (int half = 128; half > 0; half /= 2)
        for (int t = 0; t < half; t++) x[t] += x[t + half];
    return x[0];
}

static void test_order_of_squares(void **state) {
    (void)state;
    many *m = make_many();
    static float partial[CK_GPU_SQUARES];
    double sum;
    const ck_trained all = {.gradient = m->numbers, .n = 5 * m->total};
    ck_gpu_squares_of(NULL, &all, 1, &sum, partial);
    float blocks[256];
    for (size_t b = 0; b < 256; b++) {
        float threads[256] = {0};
        for (size_t t = 0; t < 256; t++)
            for (size_t i = b * 256 + t; i < all.n; i += 65536)
                threads[t] += all.gradient[i] * all.gradient[i];
        blocks[b] = tree(threads);
    }
    assert_true(sum == tree(blocks));
    free_many(m);
}

static void round_some(uint16_t *copy, int64_t n, uint32_t stream, const ck_gpu_rounding *how) {
    const ck_gpu_piece p = {.to = copy, .from = weights, .n = n, .stream = stream};
    ck_gpu_round(NULL, &p, 1, how);
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
            const ck_gpu_rounding how = {7, (uint32_t)step};
            for (int i = 0; i < 11; i++) weights[i] = x[k];
            round_some(copy, 11, 3, &how);
            assert_true(fabs(ck_half_value(copy[10]) - x[k]) < gap + 1e-45);
            sum += ck_half_value(copy[step % 11]) - x[k];
        }
        /* The mean of TIMES draws, each off by gap / 2 at most on average: five deviations. */
        assert_true(fabs(sum / TIMES) <= 5 * gap / 2 / sqrt(TIMES));
    }
    make();
    const ck_gpu_rounding how = {7, 1}, later = {7, 2};
    round_some(copy, N, 3, &how);
    round_some(same, N, 3, &how);
    assert_memory_equal(copy, same, sizeof copy);
    round_some(same, N, 3, &later);
    assert_memory_not_equal(copy, same, sizeof copy);
    round_some(same, N, 4, &how);
    assert_memory_not_equal(copy, same, sizeof copy);
    weights[0] = NAN, weights[1] = 1 + 0x1p-8f, weights[2] = 1 + 0x1.8p-7f; /* ties to even */
    round_some(copy, N, 0, NULL);
    assert_true(isnan(ck_half_value(copy[0])));
    assert_true(ck_half_value(copy[1]) == 1 && ck_half_value(copy[2]) == 1 + 0x1p-6f);
    for (size_t i = 3; i < N; i++)
        assert_true(fabsf(ck_half_value(copy[i]) - weights[i]) <= fabsf(weights[i]) * 0x1p-8f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_adamw),
                                       cmocka_unit_test(test_average),
                                       cmocka_unit_test(test_squares),
                                       cmocka_unit_test(test_many),
                                       cmocka_unit_test(test_order_of_squares),
                                       cmocka_unit_test(test_rounding)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
