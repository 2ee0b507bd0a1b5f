/* The judge of steps: what it lets pass, skips, undoes and gives up on. */
#include "distill/run/guard.h"
#include "tests/check.h"
#include "tests/fixture.h"

#include <math.h>
#include <string.h>

static const ck_guard_rules rules = {
    .skips = 3, .factor = 2, .high = 4, .warmup = 10, .window = 5, .rollbacks = 2};

/* Verdicts for "." (loss 1), "h" (loss 2.01), "n" (NaN loss), "g" (infinite gradient), as letters:
 * o, s, R, G. */
static const char *judge(ck_guard *g, const char *steps) {
    static char verdicts[256];
    size_t n = strlen(steps);
    for (size_t i = 0; i < n; i++) {
        double loss = steps[i] == '.' ? 1 : steps[i] == 'h' ? 2.01 : steps[i] == 'n' ? NAN : 1;
        ck_verdict v = ck_guard_judge(g, loss, steps[i] == 'g' ? INFINITY : 1);
        verdicts[i] = "osRG"[v];
    }
    verdicts[n] = 0;
    return verdicts;
}

static void test_not_finite(void **state) {
    (void)state;
    ck_guard g = {.rules = rules};
    assert_string_equal(judge(&g, ".n.g.nnn.ggg."), "osososssossso");
    assert_string_equal(judge(&g, "nngn"), "sssR");
    assert_true(g.rollbacks == 1 && g.skipped == 0);
    /* Nothing of them came into the mean. */
    assert_true(g.mean == 1 && g.seen == 5);
    ck_guard infinite = {.rules = rules};
    assert_int_equal(ck_guard_judge(&infinite, -INFINITY, 1), CK_GUARD_SKIP);
    assert_int_equal(ck_guard_judge(&infinite, 1, NAN), CK_GUARD_SKIP);
}

static void test_high(void **state) {
    (void)state;
    ck_guard g = {.rules = rules};
    /* Nine losses are no warm-up yet: the first high one still goes into the mean. */
    assert_string_equal(judge(&g, ".........h"), "oooooooooo");
    assert_true(g.seen == 10 && g.high == 0);
    ck_guard warm = {.rules = rules};
    judge(&warm, "..........");
    assert_string_equal(judge(&warm, "hhh.hhhnhh"), "ooooooosRo");
    /* Exactly factor * mean is not high. */
    ck_guard edge = {.rules = rules};
    judge(&edge, "..........");
    assert_int_equal(ck_guard_judge(&edge, 2, 1), CK_GUARD_OK);
    assert_true(edge.high == 0);
}

static void test_mean(void **state) {
    (void)state;
    ck_guard g = {.rules = rules};
    double losses[] = {4, 2, 3, 7, 4, 9, -1};
    double means[] = {4, 3, 3, 4, 4, 5, 4.2};
    for (int i = 0; i < 7; i++) {
        ck_guard_judge(&g, losses[i], 1);
        assert_true(fabs(g.mean - means[i]) < 1e-12);
    }
}

/* A loss that goes around zero has a size that it can exceed, on either side. */
static void test_around_zero(void **state) {
    (void)state;
    ck_guard g = {.rules = rules};
    for (int i = 0; i < 100; i++)
        assert_int_equal(ck_guard_judge(&g, i % 3 ? 1 : -1, 1), CK_GUARD_OK);
    assert_true(g.mean == 1 && g.high == 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(ck_guard_judge(&g, i % 2 ? 3 : -3, 1),
                         i < 3 ? CK_GUARD_OK : CK_GUARD_ROLLBACK);
}

static void test_gives_up(void **state) {
    (void)state;
    ck_guard g = {.rules = rules};
    judge(&g, "..........");
    assert_string_equal(judge(&g, "hhhhnnnnhhhh"), "oooRsssRoooG");
    assert_true(g.rollbacks == 2);
}

/* The rules that a run has when nobody sets them. */
static void test_defaults(void **state) {
    (void)state;
    ck_guard g = {.rules = ck_guard_rules_default()};
    for (int i = 0; i < 200; i++) assert_int_equal(ck_guard_judge(&g, 1, 1), CK_GUARD_OK);
    for (int rollback = 0; rollback < 4; rollback++) {
        for (int i = 0; i < 19; i++) assert_int_equal(ck_guard_judge(&g, 3.1, 1), CK_GUARD_OK);
        assert_int_equal(ck_guard_judge(&g, 3.1, 1),
                         rollback < 3 ? CK_GUARD_ROLLBACK : CK_GUARD_GIVE_UP);
    }
    for (int i = 0; i < 10; i++) assert_int_equal(ck_guard_judge(&g, NAN, 1), CK_GUARD_SKIP);
    assert_int_equal(ck_guard_judge(&g, NAN, 1), CK_GUARD_GIVE_UP);
}

static void test_forget(void **state) {
    (void)state;
    ck_guard g = {.rules = rules};
    judge(&g, "..........hhhh.hh");
    ck_guard_forget(&g);
    assert_true(g.rollbacks == 1);
    for (int i = 0; i < 20; i++) assert_int_equal(ck_guard_judge(&g, 50, 1), CK_GUARD_OK);
    assert_true(g.mean == 50);
}

/* Saved and restored at any step, through its doubles alone, it goes on the same. */
static void test_resume(void **state) {
    (void)state;
    enum { STEPS = 400 };
    uint64_t seed = 7;
    double losses[STEPS];
    for (int i = 0; i < STEPS; i++) {
        float u = fixture_random_float(&seed);
        losses[i] = u > 0.8f ? NAN : i % 60 > 52 ? 5 : 1 + 0.5 * (double)u;
    }
    ck_guard whole = {.rules = rules}, parts = {.rules = rules};
    whole.rules.rollbacks = parts.rules.rollbacks = 1000;
    for (int i = 0; i < STEPS; i++) {
        double saved[] = {parts.mean, parts.seen, parts.skipped, parts.high, parts.rollbacks};
        parts = (ck_guard){parts.rules, saved[0], saved[1], saved[2], saved[3], saved[4]};
        assert_int_equal(ck_guard_judge(&whole, losses[i], 1),
                         ck_guard_judge(&parts, losses[i], 1));
    }
    assert_true(whole.rollbacks > 3 && whole.mean == parts.mean);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_not_finite), cmocka_unit_test(test_high),
        cmocka_unit_test(test_mean),       cmocka_unit_test(test_around_zero),
        cmocka_unit_test(test_gives_up),   cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_forget),     cmocka_unit_test(test_resume),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
