/* Every merge method against its formula in double, and what makes it exact. */
#include "merge/method.h"
#include "tests/check.h"
#include "tests/fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 513, INPUTS = 4 };

static float data[INPUTS][N], out[N];

static int setup(void **state) {
    (void)state;
    uint64_t seed = 9;
    for (int m = 0; m < INPUTS; m++)
        for (int i = 0; i < N; i++) data[m][i] = fixture_random_float(&seed);
    /* Where models agree, vanish, and are opposite. */
    for (int m = 0; m < INPUTS; m++) data[m][0] = 0.3f, data[m][1] = 0, data[m][2] = m % 2 ? 1 : -1;
    return 0;
}

static double dot(const float *a, const float *b) {
    double sum = 0;
    for (int i = 0; i < N; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* The engine's part: shows the inputs in strips of a size that leaves a rest. */
static ck_status show(const ck_pass *pass, ck_visit *visit, void *context, ck_error *err) {
    enum { STRIP = 100 };
    (void)pass, (void)err;
    for (size_t at = 0; at < N; at += STRIP) {
        const float *in[INPUTS];
        for (int m = 0; m < INPUTS; m++) in[m] = data[m] + at;
        visit(context, in, at, N - at < STRIP ? N - at : STRIP);
    }
    return CK_OK;
}

/* Runs a method with these parameter values (numbers of a list follow one another), on tensors of
 * `shape`, and as `compat` says. */
static uint64_t shape[3] = {N};
static size_t rank = 1;
static int compat;

static void run(const char *name, size_t count, const double *numbers) {
    const ck_method *m = ck_method_find(name);
    assert_non_null(m);
    ck_value values[CK_MAX_PARAMETERS];
    for (size_t p = 0; m->parameters[p].name; p++) {
        values[p].items = numbers;
        values[p].count = m->parameters[p].list ? ck_method_list_length(m, count) : 1;
        numbers += values[p].count;
    }
    memset(out, 0x99, sizeof out);
    ck_arguments args = {.values = values,
                         .inputs = count,
                         .compat = compat,
                         .shape = shape,
                         .rank = rank,
                         .elements = N,
                         .key = 77};
    if (m->block) {
        const ck_pass pass = {show};
        void *found = NULL;
        ck_error err;
        if (m->prepare && m->prepare(&args, &pass, &found, &err) != CK_OK)
            fail_msg("%s: %s", name, err.message);
        args.found = found;
        for (size_t at = 0; at < N; at += 100) {
            const float *in[INPUTS];
            for (int i = 0; i < INPUTS; i++) in[i] = data[i] + at;
            args.first = at;
            m->block(ck_kernels_best(), &args, in, out + at, N - at < 100 ? N - at : 100);
        }
        free(found);
        return;
    }
    double gram[INPUTS * INPUTS], coefficients[INPUTS];
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < count; j++) gram[i * count + j] = dot(data[i], data[j]);
    m->combine(&args, gram, coefficients);
    for (int e = 0; e < N; e++) {
        double sum = 0;
        for (size_t i = 0; i < count; i++) sum += coefficients[i] * (double)data[i][e];
        out[e] = (float)sum;
    }
}

#define A (double)data[0][i]
#define B (double)data[1][i]
#define C (double)data[2][i]
#define D (double)data[3][i]

/* Runs a method and compares with a formula over A, B, C, D; f32 may round every step. */
#define CHECK(name, count, formula, ...)                                                           \
    do {                                                                                           \
        run(name, count, (const double[]){__VA_ARGS__});                                           \
        for (int i = 0; i < N; i++) {                                                              \
            double want = formula;                                                                 \
            if (!(fabs((double)out[i] - want) <= 2e-6 * (1 + fabs(want))))                         \
                fail_msg("%s, element %d: %.9g, want %.9g", name, i, (double)out[i], want);        \
        }                                                                                          \
    } while (0)

static double clamp01(double x) {
    return x < 0 ? 0 : x > 1 ? 1 : x;
}

static double train_share(double a, double b, double c) {
    double both = fabs(b - c) + fabs(b - a);
    return both == 0 ? 0 : fabs(b - a) / both;
}

static double alike(double a, double b) {
    double larger = fmax(fabs(a), fabs(b));
    return larger == 0 ? 1 : (a * b / (larger * larger) + 1) / 2;
}

static double ram(double a, double b, double c, double least) {
    int first = fabs(b - a) > least, second = fabs(c - a) > least;
    return first || second ? (first * (b - a) + second * (c - a)) / (first + second) : 0;
}

static void test_formulas(void **state) {
    (void)state;
    CHECK("weighted-sum", 2, 0.7 * A + 0.3 * B, 0.3);
    CHECK("weighted-sum", 2, 0.2 * A + 0.8 * B, 0.8);
    CHECK("weighted_sum", 2, -0.5 * A + 1.5 * B, 1.5);
    CHECK("add-difference", 3, A + 0.7 * (B - C), 0.7);
    CHECK("linear", 3, (A + 2 * B + 5 * C) / 8, 1, 2, 5, 1);
    CHECK("linear", 3, A + 2 * B - 5 * C, 1, 2, -5, 0);
    CHECK("n-average", 4, (A + B + C + D) / 4, 0);
    CHECK("triple-sum", 3, 0.5 * A + 0.3 * B + 0.2 * C, 0.3, 0.2);
    CHECK("sum-twice", 3, 0.8 * (0.7 * A + 0.3 * B) + 0.2 * C, 0.3, 0.2);
    CHECK("weighted-subtraction", 2, (A - 0.15 * B) / 0.85, 0.3, 0.5);
    CHECK("train-difference", 3, A + 1.8 * 0.7 * train_share(A, B, C) * (B - C), 0.7);
    CHECK("similarity", 3,
          (1 - 0.9 * alike(A, B)) * (A + 0.4 * (B - C)) + 0.9 * alike(A, B) * (0.8 * A + 0.2 * B),
          0.4, 0.9);
    CHECK("near-swap", 2, A + clamp01(0.3 / fmax(fabs(A - B), 1e-6)) * (B - A), 0.3);
    CHECK("clamp", 3, fmin(fmax(A, fmin(B, C)), fmax(B, C)), 0);
    CHECK("clamp", 4, fmin(fmax(A, fmin(fmin(B, C), D)), fmax(fmax(B, C), D)), 0);
    CHECK("scale", 1, -2.5 * A, -2.5);
    CHECK("ram", 3, A + ram(A, B, C, 0.3), 0.3);
    CHECK("task-arithmetic", 3, A + 0.5 * (2 * (B - A) + 3 * (C - A)), 2, 3, 0.5, 0);
    CHECK("task-arithmetic", 3, A + 0.5 * (2 * (B - A) + 3 * (C - A)) / 5, 2, 3, 0.5, 1);
}

static double length(const float *x) {
    return sqrt(dot(x, x));
}

static double angle(const float *x, const float *y) {
    return acos(dot(x, y) / length(x) / length(y));
}

/* Methods on whole tensors: by what defines the result, not by its formula. */
static void test_slerp(void **state) {
    (void)state;
    double w = angle(data[0], data[1]);
    CHECK("slerp", 2, (sin(0.7 * w) * A + sin(0.3 * w) * B) / sin(w), 0.3);
    /* Nearly parallel: the line. */
    float kept[N];
    memcpy(kept, data[1], sizeof kept);
    for (int i = 0; i < N; i++) data[1][i] = data[0][i] * 1.5f + 1e-3f * data[2][i];
    CHECK("slerp", 2, 0.7 * A + 0.3 * B, 0.3);
    memcpy(data[1], kept, sizeof kept);
}

static void test_means_of_directions(void **state) {
    (void)state;
    double lengths = (length(data[0]) + length(data[1]) + length(data[2])) / 3;
    /* For two models both lie in the middle of the arc. */
    for (int k = 0; k < 2; k++) {
        const char *name = k ? "karcher" : "multi-slerp";
        run(name, 2, (const double[]){1, 1});
        assert_true(fabs(angle(out, data[0]) - angle(out, data[1])) < 1e-6);
        assert_true(fabs(angle(out, data[0]) + angle(out, data[1]) - angle(data[0], data[1])) <
                    1e-5);
        run(name, 3, (const double[]){1, 1, 1});
        assert_true(fabs(length(out) - lengths) < 1e-5 * lengths);
    }
    /* The Karcher mean: the directions to all models cancel out. */
    run("karcher", 3, (const double[]){0});
    double residue[N] = {0}, norm = 0;
    for (int m = 0; m < 3; m++) {
        double w = angle(out, data[m]);
        for (int i = 0; i < N; i++)
            residue[i] +=
                w / sin(w) *
                ((double)data[m][i] / length(data[m]) - cos(w) * (double)out[i] / length(out));
    }
    for (int i = 0; i < N; i++) norm += residue[i] * residue[i];
    assert_true(sqrt(norm) < 1e-4);
}

static void test_geometric_median(void **state) {
    (void)state;
    run("geometric-median", 3, (const double[]){0});
    /* There the unit vectors to all models cancel out. */
    double residue[N] = {0}, norm = 0;
    for (int m = 0; m < 3; m++) {
        float apart[N];
        for (int i = 0; i < N; i++) apart[i] = data[m][i] - out[i];
        for (int i = 0; i < N; i++) residue[i] += (double)apart[i] / length(apart);
    }
    for (int i = 0; i < N; i++) norm += residue[i] * residue[i];
    assert_true(sqrt(norm) < 1e-4);
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* Which changes of an input lie at ranks [from, to) by size. */
static void choose(int input, size_t from, size_t to, bool chosen[N]) {
    float sizes[N];
    for (int i = 0; i < N; i++) sizes[i] = fabsf(data[input][i] - data[0][i]);
    float low, high;
    qsort(sizes, N, sizeof *sizes, by_size);
    low = sizes[from], high = sizes[to - 1];
    for (int i = 0; i < N; i++) {
        float change = fabsf(data[input][i] - data[0][i]);
        chosen[i] = change >= low && change <= high;
    }
}

/* The mean (or, with divide false, the sum) of the weighted changes that are chosen and have the
 * sign of their sum. */
static double elected(int i, const bool chosen[2][N], double w1, double w2, bool divide) {
    double x = chosen[0][i] ? w1 * (double)(data[1][i] - data[0][i]) : 0;
    double y = chosen[1][i] ? w2 * (double)(data[2][i] - data[0][i]) : 0;
    double sign = x + y >= 0 ? 1 : -1, sum = 0, weights = 0;
    if (x * sign > 0) sum += x, weights += w1;
    if (y * sign > 0) sum += y, weights += w2;
    return divide ? (weights > 0 ? sum / weights : 0) : sum;
}

static void test_ties(void **state) {
    (void)state;
    bool chosen[2][N];
    choose(1, N - N / 2, N, chosen[0]);
    choose(2, N - N / 5, N, chosen[1]);
    CHECK("ties", 3, A + 0.7 * elected(i, (const bool(*)[N])chosen, 2, 1, true), 0.5, 0.2, 2, 1,
          0.7, 1);
    /* Everything, and nothing. */
    CHECK("ties", 2, B, 1, 1, 1, 1);
    CHECK("ties", 2, A, 0, 1, 1, 1);
}

static void test_breadcrumbs(void **state) {
    (void)state;
    bool chosen[2][N];
    size_t top = N / 10; /* gamma 0.1 */
    choose(1, N - N / 2 - top, N - top, chosen[0]);
    choose(2, N - N / 5 - top, N - top, chosen[1]);
    CHECK("breadcrumbs-ties", 3, A + 0.7 * elected(i, (const bool(*)[N])chosen, 2, 1, false), 0.5,
          0.2, 2, 1, 0.7, 0, 0.1);
    CHECK("breadcrumbs", 3, A + 2 * chosen[0][i] * (B - A) + chosen[1][i] * (C - A), 0.5, 0.2, 2, 1,
          1, 0, 0.1);
    /* More than the share below the outliers: fewer of those go. */
    choose(1, 0, 487, chosen[0]);
    CHECK("breadcrumbs", 2, A + chosen[0][i] * (B - A), 0.95, 1, 1, 0, 0.1);
}

/* What stays is a share of density, the mean is as before, and other models drop others. */
static void test_dare(void **state) {
    (void)state;
    run("dare-linear", 2, (const double[]){0.25, 1, 1, 0});
    int stayed = 0;
    for (int i = 0; i < N; i++) {
        double change = (double)out[i] - (double)data[0][i],
               whole = (double)data[1][i] - (double)data[0][i];
        if (change == 0) continue;
        stayed++;
        assert_true(fabs(change - 4 * whole) < 1e-5);
    }
    assert_true(stayed > N / 4 - 40 && stayed < N / 4 + 40);
    /* Density 1 leaves everything, 0 nothing. */
    CHECK("dare-linear", 3, A + 2 * (B - A) + 3 * (C - A), 1, 1, 2, 3, 1, 0);
    CHECK("dare-linear", 3, A, 0, 0, 2, 3, 1, 0);
    /* With one model nothing is outvoted. */
    float linear[N];
    run("dare-linear", 2, (const double[]){0.5, 1, 1, 0});
    memcpy(linear, out, sizeof linear);
    run("dare-ties", 2, (const double[]){0.5, 1, 1, 0});
    assert_memory_equal(linear, out, sizeof linear);
}

static void test_model_stock(void **state) {
    (void)state;
    float x[N], y[N];
    for (int i = 0; i < N; i++) x[i] = data[1][i] - data[0][i], y[i] = data[2][i] - data[0][i];
    double c = dot(x, y) / length(x) / length(y), t = 2 * c / (1 + c);
    CHECK("model-stock", 3, (1 - t) * A + t * (B + C) / 2, 0);
}

/* On what two models learned over a base. */
static void test_changes_of_two(void **state) {
    (void)state;
    float x[N], y[N];
    for (int i = 0; i < N; i++) x[i] = data[1][i] - data[0][i], y[i] = data[2][i] - data[0][i];
    double w = angle(x, y), along = dot(x, y) / dot(x, x);
    CHECK("nuslerp", 3, A + (sin(0.25 * w) * (B - A) + sin(0.75 * w) * (C - A)) / sin(w), 1, 3);
    CHECK("perpendicular", 3, B + 0.6 * ((C - A) - along * (B - A)), 0.6);
    /* Right angles, and what did not move. */
    for (int i = 0; i < N; i++) x[i] = data[1][i] - data[0][i], y[i] = out[i] - data[1][i];
    assert_true(fabs(dot(x, y)) < 1e-5 * length(x) * length(y));
    float kept[N];
    memcpy(kept, data[1], sizeof kept);
    memcpy(data[1], data[0], sizeof kept);
    CHECK("perpendicular", 3, C, 1);
    CHECK("nuslerp", 3, 0.5 * A + 0.5 * C, 1, 1);
    memcpy(data[1], kept, sizeof kept);
}

/* What the documentation says is exact: where all models agree. */
static void test_agreement_is_exact(void **state) {
    (void)state;
    static const double numbers[] = {0.3, 0.3, 0.3, 0.3, 0.3};
    static const char *const names[] = {"weighted-sum",  "n-average", "sum-twice",
                                        "near-swap",     "clamp",     "train-difference",
                                        "add-difference"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t count = ck_method_find(names[i])->min_inputs;
        run(names[i], count, numbers);
        if (out[0] != 0.3f || out[1] != 0) fail_msg("%s: %a", names[i], (double)out[0]);
    }
}

/* same_as speaks only of what the formula gives. */
static void test_same_as(void **state) {
    (void)state;
    static const struct {
        const char *name;
        double numbers[4];
        int same;
    } cases[] = {
        {"weighted-sum", {0}, 0},     {"weighted-sum", {1}, 1},
        {"weighted-sum", {0.5}, -1},  {"add-difference", {0}, 0},
        {"add-difference", {1}, -1},  {"triple-sum", {0, 0}, 0},
        {"triple-sum", {1, 0}, 1},    {"triple-sum", {0, 1}, 2},
        {"triple-sum", {0.5, 0}, -1}, {"sum-twice", {0.5, 1}, 2},
        {"sum-twice", {0, 0}, 0},     {"sum-twice", {1, 0}, 1},
        {"sum-twice", {0.5, 0}, -1},  {"weighted-subtraction", {0, 1}, 0},
        {"train-difference", {0}, 0}, {"scale", {1}, 0},
        {"scale", {2}, -1},           {"linear", {0, 2, 1}, 1},
        {"linear", {0, 2, 0}, -1},    {"linear", {1, 1, 1}, -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const ck_method *m = ck_method_find(cases[i].name);
        ck_value values[CK_MAX_PARAMETERS];
        const double *next = cases[i].numbers;
        for (size_t p = 0; m->parameters[p].name; p++) {
            values[p].items = next;
            values[p].count = m->parameters[p].list ? 2 : 1;
            next += values[p].count;
        }
        size_t count = m->min_inputs < 2 && m->max_inputs != 1 ? 2 : m->min_inputs;
        assert_int_equal(m->same_as(values, count), cases[i].same);
    }
}

/* Every method has what its users are shown, and a name of its own. */
static void test_table(void **state) {
    (void)state;
    for (size_t i = 0; ck_methods[i]; i++) {
        const ck_method *m = ck_methods[i];
        assert_true(m->name && m->title && m->formula && m->doc && m->min_inputs > 0);
        assert_true((m->block != NULL) != (m->combine != NULL));
        assert_ptr_equal(ck_method_find(m->name), m);
        for (size_t p = 0; m->parameters[p].name; p++)
            assert_int_equal(ck_method_parameter(m, m->parameters[p].name), p);
    }
    assert_null(ck_method_find("average"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formulas),
        cmocka_unit_test(test_slerp),
        cmocka_unit_test(test_means_of_directions),
        cmocka_unit_test(test_geometric_median),
        cmocka_unit_test(test_model_stock),
        cmocka_unit_test(test_changes_of_two),
        cmocka_unit_test(test_ties),
        cmocka_unit_test(test_breadcrumbs),
        cmocka_unit_test(test_dare),
        cmocka_unit_test(test_agreement_is_exact),
        cmocka_unit_test(test_same_as),
        cmocka_unit_test(test_table),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
