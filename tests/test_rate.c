/* Learning rates, against what torch 2 gives. */
#include "distill/run/rate.h"
#include "tests/check.h"

#include <math.h>

/* As rate.h says; for example the fourth row:
 *   warm = LinearLR(o, start_factor=1/8, total_iters=7)
 *   rest = CosineAnnealingLR(o, T_max=50 - 8, eta_min=1e-3 * 0.05)
 *   SequentialLR(o, [warm, rest], [8])
 */
static const struct {
    ck_rate rate;
    uint64_t steps[7];
    double rates[7];
} torch[] = {
    {{CK_RATE_CONSTANT, 1e-4, 5, 40, 0},
     {0, 1, 4, 6, 20, 39, 40},
     {2e-05, 4e-05, 0.0001, 0.0001, 0.0001, 0.0001, 0.0001}},
    {{CK_RATE_LINEAR, 1e-4, 0, 40, 0.1},
     {0, 1, 2, 3, 20, 39, 40},
     {0.0001, 9.775e-05, 9.55e-05, 9.325e-05, 5.5e-05, 1.225e-05, 1e-05}},
    {{CK_RATE_LINEAR, 3e-5, 10, 100, 0},
     {0, 1, 9, 11, 50, 99, 100},
     {3e-06, 6e-06, 3e-05, 2.96666666666667e-05, 1.66666666666667e-05, 3.33333333333334e-07, 0}},
    {{CK_RATE_COSINE, 1e-3, 8, 50, 0.05},
     {0, 1, 7, 9, 25, 49, 50},
     {0.000125, 0.00025, 0.001, 0.00099867180366106, 0.000665008707845179, 5.13281963389394e-05,
      5e-05}},
    {{CK_RATE_COSINE, 2e-4, 0, 30, 0},
     {0, 1, 2, 3, 15, 29, 30},
     {0.0002, 0.000199452189536827, 0.000197814760073381, 0.000195105651629515, 0.0001,
      5.4781046317266e-07, 0}},
    {{CK_RATE_COSINE, 1e-4, 1, 20, 0},
     {0, 1, 2, 3, 10, 19, 20},
     {0.0001, 0.0001, 9.93180651701361e-05, 9.72908620850317e-05, 5.41289672736166e-05,
      6.81934829863884e-07, 0}},
};

static void test_torch(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof torch / sizeof *torch; i++)
        for (size_t j = 0; j < 7; j++) {
            double rate = ck_rate_at(&torch[i].rate, torch[i].steps[j]);
            if (fabs(rate - torch[i].rates[j]) > 1e-13 * torch[i].rate.peak)
                fail_msg("row %zu, step %d: %.15g, not %.15g", i, (int)torch[i].steps[j], rate,
                         torch[i].rates[j]);
        }
}

/* torch's cosine rises again after its end; a run that is made longer must not. */
static void test_beyond_the_end(void **state) {
    (void)state;
    for (int shape = CK_RATE_LINEAR; shape <= CK_RATE_COSINE; shape++) {
        ck_rate rate = {(ck_rate_shape)shape, 1e-3, 5, 20, 0.25};
        assert_true(ck_rate_at(&rate, 21) == 0.25e-3);
        assert_true(ck_rate_at(&rate, UINT64_MAX) == 0.25e-3);
    }
}

/* A run that ends within its warm-up, or with it. */
static void test_warmup_is_all(void **state) {
    (void)state;
    ck_rate rate = {CK_RATE_COSINE, 1, 10, 5, 0.1};
    assert_true(ck_rate_at(&rate, 4) == 0.5 && ck_rate_at(&rate, 9) == 1);
    assert_true(ck_rate_at(&rate, 10) == 0.1);
    rate.steps = 10;
    assert_true(ck_rate_at(&rate, 9) == 1 && ck_rate_at(&rate, 10) == 0.1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_torch),
        cmocka_unit_test(test_beyond_the_end),
        cmocka_unit_test(test_warmup_is_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
