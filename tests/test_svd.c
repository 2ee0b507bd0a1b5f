/* Singular values: of matrices that were made from known ones, wide, tall and square, whole and by
 * iteration; of noise, where iterating is hardest; and what is refused. */
#include "merge/svd.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Cosines are orthogonal: vector i of n. */
static double wave(size_t i, size_t n, size_t at) {
    double scale = i ? sqrt(2.0 / (double)n) : sqrt(1.0 / (double)n);
    return scale * cos(3.14159265358979323846 * (double)i * ((double)at + 0.5) / (double)n);
}

/* The sum of values[k] times the waves k. */
static float *made(size_t rows, size_t columns, size_t count, const double *values) {
    float *a = malloc(rows * columns * sizeof *a);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++) {
            double sum = 0;
            for (size_t k = 0; k < count; k++)
                sum += values[k] * wave(k, rows, i) * wave(k, columns, j);
            a[i * columns + j] = (float)sum;
        }
    return a;
}

static void check_known(size_t rows, size_t columns, size_t asked) {
    enum { KNOWN = 12 };
    const double values[KNOWN] = {100, 50, 49, 20, 5, 4.5, 1, 0.5, 0.3, 0.1, 0.01, 0.003};
    float *a = made(rows, columns, KNOWN, values);
    ck_svd svd;
    ck_error err;
    if (ck_svd_of(a, rows, columns, asked, &svd, &err) != CK_OK) fail_msg("%s", err.message);
    assert_int_equal(svd.count, asked);
    double squares = 0;
    for (size_t k = 0; k < KNOWN; k++) squares += values[k] * values[k];
    assert_true(fabs(svd.squares - squares) < 1e-4 * squares);
    for (size_t k = 0; k < asked; k++) {
        double want = k < KNOWN ? values[k] : 0, left = 0, right = 0;
        if (!(fabs((double)svd.values[k] - want) < 1e-4))
            fail_msg("%zux%zu: value %zu is %g, want %g", rows, columns, k, (double)svd.values[k],
                     want);
        if (want < 0.01) continue; /* the vectors of tiny values are lost in f32 */
        for (size_t i = 0; i < rows; i++) left += (double)svd.left[k * rows + i] * wave(k, rows, i);
        for (size_t j = 0; j < columns; j++)
            right += (double)svd.right[k * columns + j] * wave(k, columns, j);
        /* Both may have turned round, but only together. */
        assert_true(fabs(left * right - 1) < 1e-2);
    }
    double sum, want = 0;
    for (size_t k = 0; k < KNOWN; k++) want += values[k];
    assert_int_equal(ck_svd_sum(a, rows, columns, &sum, &err), CK_OK);
    assert_true(fabs(sum - want) < 1e-2);
    ck_svd_free(&svd);
    free(a);
}

static void test_known(void **state) {
    (void)state;
    check_known(20, 30, 12);
    check_known(30, 20, 20);
    check_known(25, 25, 3);
    check_known(200, 300, 12); /* from here on by iteration */
    check_known(300, 150, 5);
    check_known(180, 1500, 24);
}

/* Of noise, the values by iteration are nearly as large as the largest there are. */
static void test_noise(void **state) {
    (void)state;
    enum { ROWS = 220, COLUMNS = 400, ASKED = 16 };
    float *a = malloc(sizeof(float) * ROWS * COLUMNS);
    uint64_t seed = 5;
    for (int i = 0; i < ROWS * COLUMNS; i++) a[i] = fixture_random_float(&seed);
    ck_svd some, all;
    ck_error err;
    assert_int_equal(ck_svd_of(a, ROWS, COLUMNS, ASKED, &some, &err), CK_OK);
    assert_int_equal(ck_svd_of(a, ROWS, COLUMNS, ROWS, &all, &err), CK_OK);
    double got = 0, best = 0;
    for (int k = 0; k < ASKED; k++) {
        got += (double)some.values[k] * (double)some.values[k];
        best += (double)all.values[k] * (double)all.values[k];
    }
    if (!(got <= best * 1.000001 && got > best * 0.995)) fail_msg("%g of %g", got, best);
    ck_svd_free(&some);
    ck_svd_free(&all);
    free(a);
}

static void test_refused(void **state) {
    (void)state;
    float a[6] = {1, 2, 3, 4, 5, 6};
    ck_svd svd;
    ck_error err;
    for (fault_first(FAULT_CALLOC, ENOMEM); fault_more();) {
        double sum;
        fault_arm();
        ck_status status = ck_svd_of(a, 3, 2, 2, &svd, &err);
        if (status == CK_OK) {
            ck_svd_free(&svd);
            status = ck_svd_sum(a, 3, 2, &sum, &err);
        }
        fault_disarm();
        assert_int_equal(status, fault_hit() ? CK_MEMORY : CK_OK);
    }
    a[4] = NAN;
    assert_int_equal(ck_svd_of(a, 3, 2, 1, &svd, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "NaN"));
    double sum;
    assert_int_equal(ck_svd_sum(a, 3, 2, &sum, &err), CK_INPUT);
}

/* Without LAPACK the rest of the program is to work, and this to say why it does not. */
static void test_absent(void **state) {
    (void)state;
    const float a = 1;
    ck_svd svd;
    ck_error err;
    assert_int_equal(ck_svd_of(&a, 1, 1, 1, &svd, &err), CK_USAGE);
    assert_non_null(strstr(err.message, "LAPACK"));
}

int main(void) {
    const float a = 2;
    ck_svd svd;
    ck_error err;
    bool there = ck_svd_of(&a, 1, 1, 1, &svd, &err) == CK_OK;
    if (there) ck_svd_free(&svd);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known),
        cmocka_unit_test(test_noise),
        cmocka_unit_test(test_refused),
    };
    const struct CMUnitTest absent[] = {cmocka_unit_test(test_absent)};
    return there ? cmocka_run_group_tests(tests, NULL, NULL)
                 : cmocka_run_group_tests(absent, NULL, NULL);
}
