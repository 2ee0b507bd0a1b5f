/* Random numbers: known answers, the normals' bits, and that they are normal. */
#include "kernels/philox.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

/* From the tests of Random123, the authors' library; in the order of its counter and key. */
static void test_known_answers(void **state) {
    (void)state;
    static const struct {
        uint64_t seed;
        uint32_t step, stream;
        uint64_t index;
        uint32_t answer[4];
    } known[] = {
        {0, 0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX,
         UINT32_MAX,
         UINT32_MAX,
         UINT64_MAX,
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822,
         0x03707344,
         0x13198a2e,
         0x85a308d3243f6a88,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t out[4];
        ck_philox(known[i].seed, known[i].step, known[i].stream, known[i].index, out);
        assert_memory_equal(out, known[i].answer, sizeof out);
    }
}

static void test_uniform(void **state) {
    (void)state;
    assert_true(ck_philox_uniform(0) == 0 && ck_philox_uniform(255) == 0);
    assert_true(ck_philox_uniform(0x80000000) == 0.5f);
    assert_true(ck_philox_uniform(UINT32_MAX) == 1 - 0x1p-24f);
}

/* Against libm in long double, over all of the range and at its ends. */
static void test_functions(void **state) {
    (void)state;
    const long double pi = acosl(-1);
    for (uint64_t i = 0; i <= 0x10000; i++) {
        uint32_t word = i == 0x10000 ? UINT32_MAX : (uint32_t)(i << 16);
        double u = (word + 0.5) * 0x1p-32, cosine, sine;
        long double exact = logl(u), turn = 2 * pi * word / 0x1p32L;
        assert_true(fabsl(ck_philox__log(u) / exact - 1) < 4e-15L);
        ck_philox__cos_sin(word, &cosine, &sine);
        assert_true(fabsl(cosine - cosl(turn)) < 1e-14L);
        assert_true(fabsl(sine - sinl(turn)) < 1e-14L);
    }
}

/* These bits are part of the format of a run: what is resumed elsewhere needs the same. */
static void test_normal_bits(void **state) {
    (void)state;
    static const float expected[2][4] = {
        {0x1.fb7666p-1f, -0x1.d96d6p-1f, -0x1.3c373ep-1f, -0x1.eda364p-2f},
        {-0x1.7491d2p-1f, -0x1.232724p-1f, 0x1.96b0ecp-4f, -0x1.264e78p+1f},
    };
    float z[4];
    ck_philox_normals(0, 0, 0, 0, z);
    assert_memory_equal(z, expected[0], sizeof z);
    ck_philox_normals(42, 7, 3, 1000, z);
    assert_memory_equal(z, expected[1], sizeof z);
}

static void test_fill(void **state) {
    (void)state;
    enum { N = 41 };
    float all[N], parts[N];
    ck_philox_fill_normal(5, 1, 2, 0, N, all);
    for (size_t first = 0, n = 1; first < N; first += n, n++)
        ck_philox_fill_normal(5, 1, 2, first, n < N - first ? n : N - first, parts + first);
    assert_memory_equal(all, parts, sizeof all);
    for (int i = 0; i < N; i++) {
        float z[4];
        ck_philox_normals(5, 1, 2, (uint64_t)i / 4, z);
        assert_true(all[i] == z[i % 4]);
    }
}

/* Moments of a million, and that neighbouring seeds, steps and streams have nothing in common: each
 * bound is five standard deviations of what it bounds. */
static void test_distribution(void **state) {
    (void)state;
    enum { N = 1 << 20 };
    float *z = malloc(N * sizeof *z), *other = malloc(N * sizeof *other);
    assert_true(z && other);
    ck_philox_fill_normal(1, 0, 0, 0, N, z);
    double mean = 0, square = 0, cube = 0, fourth = 0, inside = 0, next = 0;
    for (int i = 0; i < N; i++) {
        double x = z[i];
        mean += x / N;
        square += x * x / N;
        cube += x * x * x / N;
        fourth += x * x * x * x / N;
        inside += (fabs(x) < 1) / (double)N;
        if (i) next += x * z[i - 1] / N;
    }
    double unit = 5 / sqrt(N);
    assert_true(fabs(mean) < unit);
    assert_true(fabs(square - 1) < unit * sqrt(2));
    assert_true(fabs(cube) < unit * sqrt(15));
    assert_true(fabs(fourth - 3) < unit * sqrt(96));
    assert_true(fabs(inside - erf(sqrt(0.5))) < unit * 0.47);
    assert_true(fabs(next) < unit);
    for (int which = 0; which < 3; which++) {
        ck_philox_fill_normal(1 + (which == 0), which == 1, which == 2, 0, N, other);
        double product = 0;
        for (int i = 0; i < N; i++) product += (double)z[i] * other[i] / N;
        assert_true(fabs(product) < unit);
    }
    free(z);
    free(other);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers), cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_functions),     cmocka_unit_test(test_normal_bits),
        cmocka_unit_test(test_fill),          cmocka_unit_test(test_distribution),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
