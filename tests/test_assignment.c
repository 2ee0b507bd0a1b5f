/* Assignments against every permutation there is, and what an assignment of any size must be. */
#include "merge/assignment.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

static ck_error err;

static double sum_of(const float *gain, size_t n, size_t stride, const uint32_t *column) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += gain[i * stride + column[i]];
    return sum;
}

/* The best sum over rows row to n - 1 with the columns that are left. */
static double best_of(const float *gain, size_t n, size_t stride, size_t row, unsigned used) {
    if (row == n) return 0;
    double best = -1e30;
    for (size_t j = 0; j < n; j++) {
        if (used >> j & 1) continue;
        double sum = gain[row * stride + j] + best_of(gain, n, stride, row + 1, used | 1u << j);
        if (sum > best) best = sum;
    }
    return best;
}

static void check_permutation(const uint32_t *column, size_t n) {
    bool *used = calloc(n, sizeof *used);
    for (size_t i = 0; i < n; i++) {
        assert_true(column[i] < n && !used[column[i]]);
        used[column[i]] = true;
    }
    free(used);
}

/* Whole numbers, so that sums are exact and many assignments are equally good. */
static void test_brute_force(void **state) {
    (void)state;
    uint64_t seed = 1;
    for (int run = 0; run < 600; run++) {
        size_t n = 1 + (size_t)run % 7, stride = n + (size_t)run % 3;
        uint64_t spread = run % 2 ? 5 : 1000;
        float gain[7 * 9];
        uint32_t column[7];
        for (size_t i = 0; i < n * stride; i++)
            gain[i] = (float)(fixture_random(&seed) % spread) - (float)(spread / 2);
        assert_int_equal(ck_assign(gain, n, stride, column, &err), CK_OK);
        check_permutation(column, n);
        assert_true(sum_of(gain, n, stride, column) == best_of(gain, n, stride, 0, 0));
    }
    assert_int_equal(ck_assign(NULL, 0, 0, NULL, &err), CK_OK);
}

/* A hidden permutation that is better in every row than anything else, by a little. */
static void test_large(void **state) {
    (void)state;
    enum { N = 300 };
    float *gain = malloc(sizeof(float) * N * N);
    uint32_t hidden[N], column[N];
    uint64_t seed = 7;
    for (uint32_t i = 0; i < N; i++) hidden[i] = i;
    for (size_t i = N - 1; i > 0; i--) {
        size_t j = fixture_random(&seed) % (i + 1);
        uint32_t t = hidden[i];
        hidden[i] = hidden[j], hidden[j] = t;
    }
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++)
            gain[i * N + j] = fixture_random_float(&seed) + (hidden[i] == j ? 1.0f : 0.0f);
    for (size_t i = 0; i < N; i++) gain[i * N + hidden[i]] = 1.01f;
    assert_int_equal(ck_assign(gain, N, N, column, &err), CK_OK);
    assert_memory_equal(column, hidden, sizeof hidden);
    /* Worst for greed: every row likes the first columns best. */
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++) gain[i * N + j] = -(float)(i + 1) * (float)(j + 1);
    assert_int_equal(ck_assign(gain, N, N, column, &err), CK_OK);
    for (size_t i = 0; i < N; i++) assert_int_equal(column[i], N - 1 - i);
    free(gain);
}

static void test_memory(void **state) {
    (void)state;
    const float gain[] = {1, 2, 3, 4};
    uint32_t column[2];
    for (fault_first(FAULT_CALLOC, ENOMEM); fault_more();) {
        fault_arm();
        ck_status status = ck_assign(gain, 2, 2, column, &err);
        fault_disarm();
        assert_int_equal(status, fault_hit() ? CK_MEMORY : CK_OK);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_brute_force),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
