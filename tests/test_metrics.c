/* Metrics against closed forms and against numpy and scipy (tests/interop/make_metrics.py). */
#include "distill/judge/metrics.h"
#include "io/json.h"
#include "kernels/philox.h"
#include "kernels/random.h"
#include "tests/check.h"
#include "tests/fault.h"

#include <errno.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

static int setup(void **state) {
    static ck_json doc;
    ck_error err;
    if (ck_json_load("tests/data/metrics.json", &doc, &err) != CK_OK) fail_msg("%s", err.message);
    *state = &doc;
    return 0;
}

static int teardown(void **state) {
    ck_json_free(*state);
    return 0;
}

static double expected(void **state, const char *field) {
    const ck_json *doc = *state;
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(doc->root, field);
    assert_non_null(node);
    return node->valuedouble;
}

/* What numpy's functions of the same names make. */
static float *uniform(uint64_t key, size_t n) {
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) x[i] = (float)ck_random_24(key, i) * 0x1p-24f;
    return x;
}

static float *stretched(uint64_t key, size_t count, size_t dim) {
    float *x = uniform(key, count * dim);
    for (size_t n = 0; n < count; n++)
        for (size_t i = dim - 1; i > 0; i--) x[n * dim + i] += x[n * dim + i - 1] * 0.5f;
    return x;
}

static void assert_near(double value, double exact, double tolerance) {
    if (!(fabs(value - exact) <= tolerance)) fail_msg("%.17g is not %.17g", value, exact);
}

#define MUST(call)                                                                                 \
    do {                                                                                           \
        ck_error must_err = {0}, *err = &must_err;                                                 \
        if ((call) != CK_OK) fail_msg("%s", err->message);                                         \
    } while (0)

/* ---- Frechet ---- */

/* Normal distributions whose covariances have the same eigenvectors (a rotation): the distance is
 * |m1 - m2|^2 + sum (sqrt(w1) - sqrt(w2))^2 over their eigenvalues. */
static void test_frechet_closed_form(void **state) {
    (void)state;
    double c = cos(0.3), s = sin(0.3), m1[] = {1, 2}, m2[] = {0, 4};
    static const double w[][4] = {{4, 9, 1, 16}, {4, 9, 4, 9}, {4, 0, 1, 16},   {0, 0, 1, 2},
                                  {4, 0, 0, 9},  {1, 1, 1, 1}, {1e8, 1, 1e8, 4}};
    for (size_t i = 0; i < sizeof w / sizeof *w; i++) {
        double c1[4], c2[4], distance, exact = 5;
        for (int k = 0; k < 2; k++) {
            double *to = k ? c2 : c1, p = w[i][2 * k], q = w[i][2 * k + 1];
            to[0] = c * c * p + s * s * q;
            to[1] = to[2] = c * s * (p - q);
            to[3] = s * s * p + c * c * q;
            exact += pow(sqrt(w[i][k]) - sqrt(w[i][2 + k]), 2);
        }
        ck_gaussian a = {2, m1, c1}, b = {2, m2, c2};
        MUST(ck_frechet_gaussians(&a, &b, &distance, err));
        assert_near(distance, exact, 1e-7 * (1 + w[i][0]));
        MUST(ck_frechet_gaussians(&b, &a, &distance, err));
        assert_near(distance, exact, 1e-7 * (1 + w[i][0]));
    }
}

static void test_frechet_scipy(void **state) {
    const ck_json *doc = *state;
    const cJSON *one;
    int cases = 0;
    cJSON_ArrayForEach(one, cJSON_GetObjectItemCaseSensitive(doc->root, "frechet")) {
        double v[4], distance;
        for (int i = 0; i < 4; i++) v[i] = cJSON_GetArrayItem(one, i)->valuedouble;
        size_t n = (size_t)v[0], m = (size_t)v[1], dim = (size_t)v[2];
        float *x = stretched(1, n, dim), *y = uniform(2, m * dim);
        MUST(ck_frechet((ck_points){x, n, dim}, (ck_points){y, m, dim}, &distance, err));
        assert_near(distance, v[3], 1e-7 * v[3]);
        MUST(ck_frechet((ck_points){x, n, dim}, (ck_points){x, n, dim}, &distance, err));
        assert_near(distance, 0, 1e-6);
        free(x);
        free(y);
        cases++;
    }
    assert_int_equal(cases, 4);
}

static void test_gaussian(void **state) {
    (void)state;
    static const float x[] = {1, 2, 3, 6, 5, 1};
    ck_gaussian g;
    MUST(ck_gaussian_fit((ck_points){x, 3, 2}, &g, err));
    assert_true(g.mean[0] == 3 && g.mean[1] == 3);
    assert_true(g.covariance[0] == 4 && g.covariance[3] == 7);
    assert_true(g.covariance[1] == -1 && g.covariance[2] == -1);
    ck_gaussian_free(&g);
}

/* ---- KID, sliced Wasserstein ---- */

/* Subsets of all points are all points, in any order. */
static void test_kid(void **state) {
    enum { N = 40, DIM = 13 };
    float *x = stretched(1, N, DIM), *y = uniform(2, N * DIM);
    ck_kid_result kid;
    ck_points a = {x, N, DIM}, b = {y, N, DIM};
    MUST(ck_kid(a, b, 3, N, 7, &kid, err));
    assert_near(kid.mean, expected(state, "kid"), 1e-12);
    assert_near(kid.deviation, 0, 1e-12);

    /* Parts of them: other numbers around the same, others for another seed. */
    ck_kid_result other, again;
    MUST(ck_kid(a, b, 400, 10, 7, &kid, err));
    MUST(ck_kid(a, b, 400, 10, 7, &again, err));
    MUST(ck_kid(a, b, 400, 10, 8, &other, err));
    assert_true(kid.mean == again.mean && kid.mean != other.mean);
    assert_true(kid.deviation > 0);
    assert_near(kid.mean, expected(state, "kid"), 5 * kid.deviation / sqrt(400));
    free(x);
    free(y);
}

/* Two halves of one distribution: unbiased means 0 within the error of the mean. */
static void test_kid_of_equals(void **state) {
    (void)state;
    enum { N = 2000, DIM = 8 };
    float *x = malloc(2 * N * DIM * sizeof *x);
    assert_non_null(x);
    ck_philox_fill_normal(3, 0, 0, 0, 2 * N * DIM, x);
    ck_kid_result kid;
    MUST(ck_kid((ck_points){x, N, DIM}, (ck_points){x + N * DIM, N, DIM}, 20, 100, 1, &kid, err));
    assert_true(kid.deviation > 0);
    assert_near(kid.mean, 0, 4 * kid.deviation / sqrt(20));
    free(x);
}

static void test_wasserstein_line(void **state) {
    enum { N = 30, M = 42 };
    float *x = uniform(1, N), *y = uniform(2, M);
    for (int i = 0; i < M; i++) y[i] *= 2;
    double distance;
    MUST(ck_sliced_wasserstein((ck_points){x, N, 1}, (ck_points){y, M, 1}, 3, 5, &distance, err));
    assert_near(distance, expected(state, "wasserstein"), 1e-12);
    free(x);
    free(y);
}

/* Points moved by s are |s|^2 / dim away in the mean square over directions; of equal ones, in any
 * order, nothing. */
static void test_wasserstein_moved(void **state) {
    (void)state;
    enum { N = 100, DIM = 5, DIRECTIONS = 4000 };
    float *x = uniform(1, N * DIM), *y = malloc(N * DIM * sizeof *y);
    assert_non_null(y);
    double distance;
    for (int n = 0; n < N; n++) memcpy(y + n * DIM, x + (N - 1 - n) * DIM, DIM * sizeof *y);
    ck_points a = {x, N, DIM}, b = {y, N, DIM};
    MUST(ck_sliced_wasserstein(a, b, 10, 5, &distance, err));
    assert_true(distance == 0);
    for (int i = 0; i < N * DIM; i++) y[i] += i % DIM == 2 ? 3 : 0;
    MUST(ck_sliced_wasserstein(a, b, DIRECTIONS, 5, &distance, err));
    assert_near(distance * distance, 9. / DIM, 9 * 5 * 0.27 / sqrt(DIRECTIONS));
    free(x);
    free(y);
}

static void test_wasserstein_numpy(void **state) {
    float *x = stretched(1, 200, 10), *y = uniform(2, 300 * 10);
    double distance, exact = expected(state, "sliced");
    ck_points a = {x, 200, 10}, b = {y, 300, 10};
    MUST(ck_sliced_wasserstein(a, b, 20000, 1, &distance, err));
    assert_near(distance, exact, 0.02 * exact);
    free(x);
    free(y);
}

/* ---- Precision, recall, diversity ---- */

static void test_precision_recall(void **state) {
    enum { N = 300, M = 200 };
    float *x = uniform(1, N * 3), *y = stretched(2, M, 3);
    ck_precision_recall_result r;
    MUST(ck_precision_recall((ck_points){x, N, 3}, (ck_points){y, M, 3}, 5, &r, err));
    const cJSON *list =
        cJSON_GetObjectItemCaseSensitive(((ck_json *)*state)->root, "precision_recall");
    assert_near(r.precision, cJSON_GetArrayItem(list, 0)->valuedouble, 1e-12);
    assert_near(r.recall, cJSON_GetArrayItem(list, 1)->valuedouble, 1e-12);
    free(x);
    free(y);
}

/* On a line: real points 0, 1, 2, 3 reach 1 each; made points 0 and 0.5 reach half. */
static void test_precision_recall_line(void **state) {
    (void)state;
    static const float real[] = {3, 0, 2, 1}, made[] = {0, 0.5}, far[] = {4, 4.1f, -9, 0.1f};
    ck_precision_recall_result r;
    MUST(ck_precision_recall((ck_points){real, 4, 1}, (ck_points){made, 2, 1}, 1, &r, err));
    assert_true(r.precision == 1 && r.recall == 0.5);
    MUST(ck_precision_recall((ck_points){real, 4, 1}, (ck_points){far, 4, 1}, 1, &r, err));
    assert_true(r.precision == 0.5 && r.recall == 1);
}

static void test_diversity(void **state) {
    float *x = stretched(1, 70, 11);
    double distance;
    MUST(ck_diversity((ck_points){x, 70, 11}, &distance, err));
    assert_near(distance, expected(state, "diversity"), 1e-12);
    free(x);
    static const float triangle[] = {0, 0, 3, 0, 3, 4};
    MUST(ck_diversity((ck_points){triangle, 3, 2}, &distance, err));
    assert_true(distance == 4);
}

/* ---- Images ---- */

static void test_images(void **state) {
    enum { SIZE = 6 * 9 * 12 };
    float *x = uniform(3, SIZE), *y = uniform(4, SIZE);
    double value;
    MUST(ck_sharpness((ck_images){x, 6, 1, 9, 12}, &value, err));
    assert_near(value, expected(state, "sharpness"), 1e-12);
    MUST(ck_sharpness((ck_images){x, 2, 3, 9, 12}, &value, err));
    assert_near(value, expected(state, "sharpness"), 1e-12);
    MUST(ck_psnr(x, y, SIZE, 2, &value, err));
    assert_near(value, expected(state, "psnr"), 1e-12);
    MUST(ck_psnr(x, x, SIZE, 2, &value, err));
    assert_true(value == INFINITY);

    /* A slope has no second derivative; one bump has a known one. */
    for (int i = 0; i < SIZE; i++) x[i] = (float)(3 * (i % 12) + (i / 12) % 9);
    MUST(ck_sharpness((ck_images){x, 6, 1, 9, 12}, &value, err));
    assert_true(value == 0);
    x[5 * 12 + 5] += 1; /* in 77 - 7 = 70 inner pixels: -4 once, 1 four times */
    MUST(ck_sharpness((ck_images){x, 1, 1, 9, 12}, &value, err));
    assert_near(value, 20. / 70, 1e-12);
    free(x);
    free(y);
}

/* ---- Checkerboard ---- */

static void test_checkerboard(void **state) {
    (void)state;
    static const float on[] = {-1, -1, -0.6f, -0.9f, -0.4f, -0.4f, 0.99f, 0.99f,
                               0,  0,  0.1f,  0.9f,  0,     -1,    -1,    0};
    static const float off[] = {-0.4f, -0.9f, 1, 1, 0.99f, 0.4f, -1.01f,   -1.01f,
                                0.6f,  0.1f,  0, 2, NAN,   0,    INFINITY, 0};
    double share;
    MUST(ck_checkerboard_off((ck_points){on, 5, 2}, &share, err));
    assert_true(share == 0);
    MUST(ck_checkerboard_off((ck_points){on, 8, 2}, &share, err));
    assert_true(share == 1. / 8); /* (0.1, 0.9) */
    MUST(ck_checkerboard_off((ck_points){off, 8, 2}, &share, err));
    assert_true(share == 1);

    enum { N = 20480 };
    float *x = malloc(2 * N * sizeof *x), *y = malloc(2 * N * sizeof *y);
    assert_true(x && y);
    ck_checkerboard_fill(1, 0, N, x);
    ck_checkerboard_fill(2, 0, N, y);
    ck_points a = {x, N, 2}, b = {y, N, 2};
    MUST(ck_checkerboard_off(a, &share, err));
    assert_true(share == 0);
    int squares[16] = {0};
    for (int i = 0; i < N; i++)
        squares[(int)(2 * x[2 * i] + 2) * 4 + (int)(2 * x[2 * i + 1] + 2)]++;
    for (int i = 0; i < 16; i++)
        assert_near(squares[i], (i / 4 + i % 4) % 2 ? 0 : N / 8, 5 * sqrt(N / 8));

    /* Data against data, what no student can beat: 0.007 to 0.012; against a point, sqrt(1/3). */
    double distance;
    MUST(ck_sliced_wasserstein(a, b, 64, 1, &distance, err));
    assert_true(distance > 0.004 && distance < 0.018);
    memset(y, 0, 2 * N * sizeof *y);
    MUST(ck_sliced_wasserstein(a, b, 64, 1, &distance, err));
    assert_near(distance, sqrt(1. / 3), 0.03);
    free(x);
    free(y);
}

/* ---- All ---- */

enum { ALL = 5, COUNT = 60, DIM = 9 };

static ck_status measure(int which, ck_points a, ck_points b, double out[2], ck_error *err) {
    ck_kid_result kid = {0};
    ck_precision_recall_result pr = {0};
    ck_status status = CK_OK;
    out[1] = 0;
    switch (which) {
    case 0:
        return ck_frechet(a, b, out, err);
    case 1:
        status = ck_kid(a, b, 5, 20, 1, &kid, err);
        out[0] = kid.mean, out[1] = kid.deviation;
        return status;
    case 2:
        return ck_sliced_wasserstein(a, b, 16, 1, out, err);
    case 3:
        status = ck_precision_recall(a, b, 3, &pr, err);
        out[0] = pr.precision, out[1] = pr.recall;
        return status;
    default:
        return ck_diversity(b, out, err);
    }
}

static void test_threads(void **state) {
    (void)state;
    float *x = stretched(1, COUNT, DIM), *y = uniform(2, COUNT * DIM);
    ck_points a = {x, COUNT, DIM}, b = {y, COUNT, DIM};
    int threads = omp_get_max_threads();
    for (int which = 0; which < ALL; which++) {
        double one[2], four[2];
        omp_set_num_threads(1);
        MUST(measure(which, a, b, one, err));
        omp_set_num_threads(4);
        MUST(measure(which, a, b, four, err));
        omp_set_num_threads(threads);
        assert_memory_equal(one, four, sizeof one);
    }
    free(x);
    free(y);
}

static void test_refused(void **state) {
    (void)state;
    float *x = stretched(1, COUNT, DIM), *y = uniform(2, COUNT * DIM);
    ck_points a = {x, COUNT, DIM}, b = {y, COUNT, DIM}, few = {y, 1, DIM}, other = {y, COUNT, 1};
    ck_error err;
    double out[2];
    for (int which = 0; which < ALL; which++) {
        /* One point is enough only for the sliced distance, and diversity takes one set. */
        if (which != 2) assert_int_equal(measure(which, a, few, out, &err), CK_USAGE);
        if (which < 4) assert_int_equal(measure(which, a, other, out, &err), CK_USAGE);
        y[3 * DIM + 2] = NAN;
        assert_int_equal(measure(which, a, b, out, &err), CK_INPUT);
        assert_string_equal(err.message, "number 2 of point 3 is nan");
        y[3 * DIM + 2] = 0;
    }
    assert_int_equal(ck_kid(a, b, 0, 20, 1, &(ck_kid_result){0}, &err), CK_USAGE);
    assert_int_equal(ck_kid(a, b, 1, COUNT + 1, 1, &(ck_kid_result){0}, &err), CK_USAGE);
    assert_int_equal(ck_sliced_wasserstein(a, b, 0, 1, out, &err), CK_USAGE);
    assert_int_equal(ck_precision_recall(a, b, 0, &(ck_precision_recall_result){0}, &err),
                     CK_USAGE);
    assert_int_equal(ck_checkerboard_off(a, out, &err), CK_USAGE);
    assert_int_equal(ck_sharpness((ck_images){x, 1, 1, 2, 9}, out, &err), CK_USAGE);
    assert_int_equal(ck_psnr(x, y, 0, 2, out, &err), CK_USAGE);
    x[0] = INFINITY;
    assert_int_equal(ck_psnr(x, y, 9, 2, out, &err), CK_INPUT);
    x[0] = NAN;
    x[1] = NAN;
    assert_int_equal(ck_sharpness((ck_images){x, 1, 1, 3, 9}, out, &err), CK_INPUT);
    free(x);
    free(y);
}

static void test_faults(void **state) {
    (void)state;
    float *x = stretched(1, COUNT, DIM), *y = uniform(2, COUNT * DIM);
    ck_points a = {x, COUNT, DIM}, b = {y, COUNT, DIM};
    for (int which = 0; which < ALL; which++) {
        size_t faults = 0;
        for (fault_first(FAULT_CALLOC, ENOMEM); fault_more();) {
            ck_error err = {0};
            double out[2];
            fault_arm();
            ck_status status = measure(which, a, b, out, &err);
            fault_disarm();
            faults += fault_hit();
            assert_int_equal(status, fault_hit() ? CK_MEMORY : CK_OK);
        }
        assert_true(faults > 1);
    }
    free(x);
    free(y);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frechet_closed_form),
        cmocka_unit_test(test_frechet_scipy),
        cmocka_unit_test(test_gaussian),
        cmocka_unit_test(test_kid),
        cmocka_unit_test(test_kid_of_equals),
        cmocka_unit_test(test_wasserstein_line),
        cmocka_unit_test(test_wasserstein_moved),
        cmocka_unit_test(test_wasserstein_numpy),
        cmocka_unit_test(test_precision_recall),
        cmocka_unit_test(test_precision_recall_line),
        cmocka_unit_test(test_diversity),
        cmocka_unit_test(test_images),
        cmocka_unit_test(test_checkerboard),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
