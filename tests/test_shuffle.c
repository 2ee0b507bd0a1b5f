/* The order of samples: complete, different in every pass, and without a pattern. */
#include "distill/data/shuffle.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void test_every_sample_once(void **state) {
    (void)state;
    static const uint64_t sizes[] = {1, 2, 3, 4, 5, 15, 16, 17, 64, 65, 1000, 4096, 4097, 60000};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        uint64_t n = sizes[s];
        char *seen = malloc(n);
        assert_non_null(seen);
        for (uint64_t pass = 0; pass < 3; pass++) {
            memset(seen, 0, n);
            for (uint64_t i = 0; i < n; i++) {
                uint64_t sample = ck_shuffle(7, n, pass * n + i);
                assert_true(sample < n && !seen[sample]);
                seen[sample] = 1;
            }
        }
        free(seen);
    }
}

/* Runs that were begun long ago go on in the same order. */
static void test_stays_the_same(void **state) {
    (void)state;
    static const uint64_t expected[] = {9, 4, 0, 1, 7, 6, 5, 8, 2, 3};
    for (uint64_t i = 0; i < 10; i++) assert_int_equal(ck_shuffle(1, 10, i), expected[i]);
    assert_int_equal(ck_shuffle(0x123456789abcdef, (uint64_t)1 << 40, 5), 897390913568);
    assert_int_equal(ck_shuffle(3, 60000, 123456789012), 54179);
}

/* How far counts are from equal, in units of what chance would give: chi squared of `cells` cells,
 * as a normal. */
static double surprise(const int *counts, int cells, double expected) {
    double chi = 0;
    for (int i = 0; i < cells; i++) chi += pow(counts[i] - expected, 2) / expected;
    return (chi - (cells - 1)) / sqrt(2.0 * (cells - 1));
}

/* Over many passes every sample comes at every place, and before every other, equally often; over
 * seeds as well. */
static void test_no_pattern(void **state) {
    (void)state;
    enum { N = 11, PASSES = 20000 };
    for (int by_seed = 0; by_seed < 2; by_seed++) {
        static int places[N * N], pairs[N * N];
        memset(places, 0, sizeof places);
        memset(pairs, 0, sizeof pairs);
        for (uint64_t pass = 0; pass < PASSES; pass++) {
            uint64_t seed = by_seed ? pass : 5, before = N, first = by_seed ? 0 : pass * N;
            for (uint64_t i = 0; i < N; i++) {
                uint64_t sample = ck_shuffle(seed, N, first + i);
                places[i * N + sample]++;
                if (before < N) pairs[before * N + sample]++;
                before = sample;
            }
        }
        assert_true(fabs(surprise(places, N * N, PASSES / (double)N)) < 5);
        int used = 0;
        for (int i = 0; i < N * N; i++)
            if (i / N != i % N) pairs[used++] = pairs[i];
        assert_int_equal(used, N * (N - 1));
        assert_true(fabs(surprise(pairs, used, PASSES / (double)N)) < 5);
    }
}

/* All 24 orders of four samples, odd and even ones. */
static void test_all_orders(void **state) {
    (void)state;
    enum { PASSES = 24000 };
    int counts[256] = {0}, orders[24], used = 0;
    for (uint64_t pass = 0; pass < PASSES; pass++) {
        unsigned order = 0;
        for (uint64_t i = 0; i < 4; i++)
            order = order << 2 | (unsigned)ck_shuffle(9, 4, pass * 4 + i);
        counts[order]++;
    }
    for (int i = 0; i < 256; i++)
        if (counts[i]) {
            assert_true(used < 24);
            orders[used++] = counts[i];
        }
    assert_int_equal(used, 24);
    assert_true(fabs(surprise(orders, 24, PASSES / 24.)) < 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_sample_once),
        cmocka_unit_test(test_stays_the_same),
        cmocka_unit_test(test_no_pattern),
        cmocka_unit_test(test_all_orders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
