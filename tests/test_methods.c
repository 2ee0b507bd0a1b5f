/* Every merge method against its formula in double, and what makes it exact. */
#include "kernels/philox.h"
#include "kernels/random.h"
#include "merge/methods/chance.h"
#include "merge/methods/exact.h"
#include "merge/methods/fourier.h"
#include "merge/recipe.h"
#include "merge/whole.h"
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
static uint64_t key = 77;

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
                         .key = key};
    ck_error err;
    if (m->check && m->check(&args, &err) != CK_OK) fail_msg("%s: %s", name, err.message);
    if (!m->combine || (compat && m->prepare)) {
        const ck_pass pass = {show};
        void *found = NULL;
        bool prepares = m->prepare && (compat || !m->prepares_for_compat);
        if (prepares && m->prepare(&args, &pass, &found, &err) != CK_OK)
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
    double a = length(data[0]), b = length(data[1]), mean = a + 0.3 * (b - a);
    compat = 1; /* unit vectors, and then the mean length */
    CHECK("slerp", 2, mean * (sin(0.7 * w) * A / a + sin(0.3 * w) * B / b) / sin(w), 0.3);
    assert_true(fabs(length(out) - mean) < 1e-5);
    CHECK("weighted-sum", 2, 0.3 * A + 0.7 * B, 0.3); /* comfy's share is A's */
    compat = 0;
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
    /* mecha: what most say, half a share from the smallest on. */
    compat = 1;
    choose(1, N / 2 - 1, N, chosen[0]);
    choose(2, 409, N, chosen[1]); /* int(0.8 * 513) = 410 */
    run("ties", 3, (const double[]){0.5, 0.2, 1, 1, 0.7, 1});
    for (int i = 0; i < N; i++) {
        double x = chosen[0][i] ? B - A : 0, y = chosen[1][i] ? C - A : 0;
        double want = x * y < 0 ? 0 : x == 0 || y == 0 ? x + y : (x + y) / 2;
        assert_true(fabs((double)out[i] - (A + 0.7 * want)) < 2e-6);
    }
    compat = 0;
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

static void set_shape(uint64_t a, uint64_t b, uint64_t c) {
    shape[0] = a, shape[1] = b, shape[2] = c;
    rank = c ? 3 : b ? 2 : 1;
}

static void test_tensor_sum(void **state) {
    (void)state;
    set_shape(27, 19, 0);                                                  /* 27 rows of 19 */
    CHECK("tensor-sum", 2, i / 19 >= 5 && i / 19 < 13 ? B : A, 0.3, 0.2);  /* int(5.4), int(13.5) */
    CHECK("tensor-sum", 2, i / 19 >= 13 && i / 19 < 18 ? A : B, 0.8, 0.7); /* int(13.5), (18.9) */
    compat = 1;
    CHECK("tensor-sum", 2, i / 19 >= 14 && i / 19 < 19 ? A : B, 0.8, 0.7); /* the nearest */
    compat = 0;
    CHECK("tensor-sum", 2, A, 0, 0.5);
    CHECK("tensor-sum", 2, B, 1, 0);
    set_shape(N, 0, 0);
}

/* How many are smaller, or equal and before: the place in a stable sort. */
static size_t place(const float *x, int i) {
    size_t smaller = 0;
    for (int j = 0; j < N; j++) smaller += x[j] < x[i] || (x[j] == x[i] && j < i);
    return smaller;
}

static void test_top_k_tensor_sum(void **state) {
    (void)state;
    static float sorted[N], sizes[N];
    for (int i = 0; i < N; i++) sizes[i] = fabsf(data[0][i]);
    memcpy(sorted, data[0], sizeof sorted);
    qsort(sorted, N, sizeof *sorted, by_size);
    qsort(sizes, N, sizeof *sizes, by_size);
    /* 0.3 of 513 from 0.2 on: sizes of ranks 103 to 256. */
    float low = sizes[102], high = sizes[255];
    for (compat = 0; compat < 2; compat++) {
        run("top-k-tensor-sum", 2, (const double[]){0.3, 0.2});
        for (int i = 0; i < N; i++) {
            float value = sorted[place(data[1], i)], size = fabsf(value);
            bool moved = (compat ? size >= low : size > low) && size <= high;
            assert_true(out[i] == (moved ? value : data[0][i]));
        }
    }
    compat = 0;
    /* All: A's values in the order of B's. */
    run("top-k-tensor-sum", 2, (const double[]){1, 0});
    for (int i = 0; i < N; i++) assert_true(out[i] == sorted[place(data[1], i)]);
}

static double column_cosine(int column, int columns) {
    double aa = 0, bb = 0, ab = 0;
    for (int i = column; i < N; i += columns) aa += A * A, bb += B * B, ab += A * B;
    return ab / sqrt(aa) / sqrt(bb);
}

static void test_cosine(void **state) {
    (void)state;
    double all = dot(data[0], data[1]) / length(data[0]) / length(data[1]);
    set_shape(27, 19, 0);
    CHECK("cosine-a", 2, A + (1 - clamp01(column_cosine(i % 19, 19) + 0.4)) * (B - A), -0.4);
    CHECK("cosine-b", 2, A + (1 - clamp01((column_cosine(i % 19, 19) + all) / 2 + 0.4)) * (B - A),
          -0.4);
    CHECK("cosine-a", 2, B, 1);
    set_shape(N, 0, 0);
    CHECK("cosine-a", 2, A + (1 - clamp01(all + 0.4)) * (B - A), -0.4);
}

static void test_multiply_difference(void **state) {
    (void)state;
    CHECK("multiply-difference", 3,
          C + copysign(pow(fabs(A - C), 0.7) * pow(fabs(B - C), 0.3), 0.4 * A + 0.6 * B - C), 0.3,
          0.6);
    CHECK("multiply-difference", 3,
          C + copysign(sqrt(fabs(A - C) * fabs(B - C)), 0.4 * A + 0.6 * B - C), 0.5, 0.6);

    /* The smallest and largest, and what is no number. */
    const ck_method *m = ck_method_find("multiply-difference");
    const float a[6] = {0x1p-149f, 0x1p127f, 3, NAN, INFINITY, 1};
    const float b[6] = {0x1p127f, 0x1p-149f, 3, 1, 1, 0}, c[6] = {0};
    const float *const in[3] = {a, b, c};
    for (double alpha = 0.25; alpha < 1; alpha += 0.25) {
        float got[6];
        const double beta = 0.5;
        const ck_value v[2] = {{.items = &alpha, .count = 1}, {.items = &beta, .count = 1}};
        const ck_arguments args = {.values = v, .inputs = 3};
        m->block(ck_kernels_best(), &args, in, got, 6);
        for (int i = 0; i < 3; i++) {
            double want = pow((double)a[i], 1 - alpha) * pow((double)b[i], alpha);
            assert_true(fabs((double)got[i] / want - 1) < 0x1p-23);
        }
        assert_true(isnan(got[3]) && isinf(got[4]) && got[5] == 0);
    }
}

/* Shares are mean squares where the models vary most, and the outvoted do not count. */
static void test_sce(void **state) {
    (void)state;
    static float variances[N], sorted[N];
    int varying = 0;
    for (int i = 0; i < N; i++) {
        double x = (double)(data[1][i] - data[0][i]), y = (double)(data[2][i] - data[0][i]);
        sorted[i] = variances[i] = (float)((x - y) * (x - y) / 4);
        varying += variances[i] != 0;
    }
    qsort(sorted, N, sizeof *sorted, by_size);
    float least = sorted[N - (int)(varying * 0.4)];
    double first = 0, second = 0;
    for (int i = 0; i < N; i++)
        if (variances[i] >= least) first += (B - A) * (B - A), second += (C - A) * (C - A);
    double w = first / (first + second);
    run("sce", 3, (const double[]){0.4});
    for (int i = 0; i < N; i++) {
        double x = B - A, y = C - A, sign = x + y >= 0 ? 1 : -1, want = A;
        bool b = x * sign > 0, c = y * sign > 0;
        if (variances[i] >= least && (b || c))
            want += (b * w * x + c * (1 - w) * y) / (b * w + c * (1 - w));
        assert_true(fabs((double)out[i] - want) < 1e-5);
    }
}

static void test_arcee_fusion(void **state) {
    (void)state;
    static float importance[N], sorted[N];
    set_shape(27, 19, 0);
    for (int row = 0; row < 27; row++) {
        double sum_a = 0, sum_b = 0, divergence = 0;
        for (int i = 19 * row; i < 19 * row + 19; i++) sum_a += exp(A), sum_b += exp(B);
        for (int i = 19 * row; i < 19 * row + 19; i++) {
            double p = exp(B) / sum_b + 1e-8, q = exp(A) / sum_a + 1e-8;
            divergence += p * log(p / q);
        }
        for (int i = 19 * row; i < 19 * row + 19; i++)
            sorted[i] = importance[i] = fabsf(data[1][i] - data[0][i]) * (float)divergence;
    }
    qsort(sorted, N, sizeof *sorted, by_size);
    float least = sorted[256] + 1.5f * (sorted[384] - sorted[128]);
    CHECK("arcee-fusion", 2, importance[i] >= least ? B : A, 0);
    set_shape(N, 0, 0);
}

/* Against the definition: every frequency of a 27 x 19 tensor, there and back. */
static void test_crossover(void **state) {
    (void)state;
    enum { ROWS = 27, COLUMNS = 19 };
    static double real[N], imaginary[N];
    const double turn = 2 * acos(-1);
    set_shape(ROWS, COLUMNS, 0);
    for (int tilted = 0; tilted < 2; tilted++) {
        memset(real, 0, sizeof real), memset(imaginary, 0, sizeof imaginary);
        for (int k = 0; k < N; k++) {
            double u = fmin(k / COLUMNS, ROWS - k / COLUMNS) / (ROWS / 2),
                   v = fmin(k % COLUMNS, COLUMNS - k % COLUMNS) / (COLUMNS / 2);
            double away = sqrt((u * u + v * v) / 2), slope = 1 / tan(acos(-1) * 0.3 / 2);
            double f = tilted ? clamp01((away - 0.6) * slope + 0.4) : away > 0.6;
            for (int i = 0; i < N; i++) {
                double w = turn * ((double)(k / COLUMNS * (i / COLUMNS)) / ROWS +
                                   (double)(k % COLUMNS * (i % COLUMNS)) / COLUMNS);
                real[k] += (A + f * (B - A)) * cos(w);
                imaginary[k] -= (A + f * (B - A)) * sin(w);
            }
        }
        run("crossover", 2, (const double[]){0.4, tilted ? 0.3 : 0});
        for (int i = 0; i < N; i++) {
            double want = 0;
            for (int k = 0; k < N; k++) {
                double w = turn * ((double)(k / COLUMNS * (i / COLUMNS)) / ROWS +
                                   (double)(k % COLUMNS * (i % COLUMNS)) / COLUMNS);
                want += (real[k] * cos(w) - imaginary[k] * sin(w)) / N;
            }
            assert_true(fabs((double)out[i] - want) < 2e-6);
        }
    }
    CHECK("crossover", 2, 0.6 * A + 0.4 * B, 0.4, 1);
    set_shape(N, 0, 0);
}

/* Lines of small factors, of large ones, of both, and of a prime whose square would take minutes;
 * forward beside the sums themselves (of the long one, some), and back. */
static void test_fourier(void **state) {
    (void)state;
    static const uint64_t lengths[] = {1, 2, 8, 27, 31, 37, 74, 97, 3 * 53, 1009, 41 * 43, 200003};
    const double turn = 2 * acos(-1);
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
        uint64_t n = lengths[l], sizes[2] = {n, 3};
        float *z = malloc(6 * n * sizeof *z), *x = malloc(6 * n * sizeof *x);
        uint64_t seed = n;
        for (uint64_t i = 0; i < 6 * n; i++) x[i] = z[i] = fixture_random_float(&seed);
        ck_error err;
        assert_int_equal(ck_fourier(z, sizes, 2, -1, &err), CK_OK);
        for (uint64_t k = 0; k < 3 * n; k += 1 + n / 5) {
            double real = 0, imaginary = 0;
            for (uint64_t i = 0; i < 3 * n; i++) {
                double w = -turn * ((double)(i / 3 * (k / 3) % n) / (double)n +
                                    (double)(i % 3 * (k % 3)) / 3);
                double re = (double)x[2 * i], im = (double)x[2 * i + 1];
                real += re * cos(w) - im * sin(w);
                imaginary += re * sin(w) + im * cos(w);
            }
            double off = hypot((double)z[2 * k] - real, (double)z[2 * k + 1] - imaginary);
            assert_true(off < 1e-6 * sqrt(3 * (double)n));
        }
        assert_int_equal(ck_fourier(z, sizes, 2, 1, &err), CK_OK);
        for (uint64_t i = 0; i < 6 * n; i++)
            assert_true(fabsf(z[i] / (float)(3 * n) - x[i]) < 1e-6f);
        free(z), free(x);
    }
}

/* The element at i of an axis of n elements, mirrored beyond its ends. */
static int mirrored(int i, int n) {
    while (i < 0 || i >= n) i = i < 0 ? -1 - i : 2 * n - 1 - i;
    return i;
}

/* A Gaussian along an axis of n elements, `stride` apart. */
static void blur(double x[N], int n, int stride) {
    double y[N], sum = 0;
    for (int k = -4; k <= 4; k++) sum += exp(-0.5 * k * k);
    for (int i = 0; i < N; i++) {
        int at = i / stride % n;
        y[i] = 0;
        for (int k = -4; k <= 4; k++)
            y[i] += exp(-0.5 * k * k) / sum * x[i + (mirrored(at + k, n) - at) * stride];
    }
    memcpy(x, y, sizeof y);
}

static void test_smooth_add(void **state) {
    (void)state;
    double smooth[N];
    set_shape(3, 19, 9);
    for (int i = 0; i < N; i++) {
        float window[27];
        int count = 0;
        for (int p = 0; p < 27; p++) {
            int x = mirrored(i / 171 + p / 9 - 1, 3), y = mirrored(i / 9 % 19 + p / 3 % 3 - 1, 19),
                z = mirrored(i % 9 + p % 3 - 1, 9), at = x * 171 + y * 9 + z;
            window[count++] = data[1][at] - data[2][at];
        }
        qsort(window, 27, sizeof *window, by_size);
        smooth[i] = (double)window[13];
    }
    blur(smooth, 3, 171);
    blur(smooth, 19, 9);
    blur(smooth, 9, 1);
    CHECK("smooth-add", 3, A + 0.7 * smooth[i], 0.7);
    set_shape(N, 0, 0);
}

/* In rows of 19 the larger changes stay more often; what stays is divided by its probability. */
static void test_della(void **state) {
    (void)state;
    set_shape(27, 19, 0);
    int stayed[2] = {0};
    run("della-linear", 2, (const double[]){0.5, 1, 1, 0, 0.4});
    for (int i = 0; i < N; i++) {
        int above = 0;
        for (int j = i / 19 * 19; j < i / 19 * 19 + 19; j++)
            above += fabsf(data[1][j] - data[0][j]) < fabsf(data[1][i] - data[0][i]) ||
                     (fabsf(data[1][j] - data[0][j]) == fabsf(data[1][i] - data[0][i]) && j < i);
        double p = 0.1 + 0.8 * above / 18;
        if (out[i] == data[0][i]) continue;
        stayed[above > 9]++;
        assert_true(fabs((double)out[i] - (A + (B - A) / p)) < 1e-5 * (1 + fabs((B - A) / p)));
    }
    /* 27 rows of 10 of mean 0.3 and of 9 of 0.72 */
    assert_true(stayed[0] > 50 && stayed[0] < 112 && stayed[1] > 145 && stayed[1] < 205);
    /* mergekit's keep the sum of magnitudes. */
    double before = 0, after = 0;
    compat = 1;
    run("della-linear", 2, (const double[]){0.5, 1, 1, 0, 0.4});
    for (int i = 0; i < N; i++) before += fabs(B - A), after += fabs((double)out[i] - A);
    assert_true(fabs(before - after) < 1e-4 * before);
    run("dare-linear", 2, (const double[]){0.5, 1, 1, 0});
    for (int i = 0; i < N; i++) before += fabs(B - A), after += fabs((double)out[i] - A);
    assert_true(fabs(before - after) < 1e-4 * before);
    compat = 0;
    CHECK("della-linear", 3, A + 2 * (B - A + C - A), 1, 1, 1, 1, 2, 0, 0.1);
    bool all[2][N];
    memset(all, true, sizeof all);
    CHECK("della", 3, A + 2 * elected(i, (const bool(*)[N])all, 1, 1, true), 1, 1, 1, 1, 2, 1, 0.1);
    set_shape(N, 0, 0);
}

/* What sd-mecha's own tests expect, as they print it (tests/merge_methods, numbers of four
 * decimals): three models of four rows, of some of which the differences from zero are merged. */
enum { PUBLISHED = 16 };
static const float *const *published; /* the inputs */

static ck_status show_published(const ck_pass *pass, ck_visit *visit, void *context,
                                ck_error *err) {
    (void)pass, (void)err;
    visit(context, published, 0, PUBLISHED);
    return CK_OK;
}

static void check_published(const char *name, const float *const *in, size_t inputs,
                            const ck_value *values, const float *expected) {
    const ck_method *m = ck_method_find(name);
    const uint64_t square[2] = {4, 4};
    ck_arguments args = {.values = values,
                         .inputs = inputs,
                         .compat = ck_word_index(m->compat, "mecha") + 1,
                         .shape = square,
                         .rank = 2,
                         .elements = PUBLISHED};
    float got[PUBLISHED] = {0};
    assert_true(args.compat > 0);
    if (m->block) {
        const ck_pass pass = {show_published};
        void *found = NULL;
        ck_error err;
        published = in;
        assert_int_equal(m->prepare(&args, &pass, &found, &err), CK_OK);
        args.found = found;
        m->block(ck_kernels_best(), &args, in, got, PUBLISHED);
        free(found);
    } else {
        double gram[INPUTS * INPUTS] = {0}, coefficients[INPUTS];
        for (size_t i = 0; i < inputs; i++)
            for (size_t j = 0; j < inputs; j++)
                for (int e = 0; e < PUBLISHED; e++)
                    gram[i * inputs + j] += (double)in[i][e] * (double)in[j][e];
        m->combine(&args, gram, coefficients);
        for (size_t i = 0; i < inputs; i++)
            for (int e = 0; e < PUBLISHED; e++) got[e] += (float)coefficients[i] * in[i][e];
    }
    for (int e = 0; e < PUBLISHED; e++)
        if (fabsf(got[e] - expected[e]) > 1e-4f)
            fail_msg("%s, element %d: %g, not %g", name, e, (double)got[e], (double)expected[e]);
}

static void test_published(void **state) {
    (void)state;
    static const float zero[PUBLISHED];
    static const float first[PUBLISHED] = {3, 4, 1, -2, 2, 1, -4, 3, -1, 2, 3, 4, 4, -3, 2, 1};
    static const float second[PUBLISHED] = {-1, 3, 4, 2, 4, 2, -3, 1, 3, -1, 2, 4, 2, 4, 1, -3};
    static const float third[PUBLISHED] = {-1, 2, 3, 4, 4, -3, 2, 1, 3, 4, 1, -2, 2, 1, -4, 3};
    static const float fourth[PUBLISHED] = {-1, 3, 2, 0, 3, 0, 2, 1, -1, 3, 1, 0, 3, 0, -4, 3};
    const double half[2] = {0.5, 0.5}, one[2] = {1, 1};
    const ck_value ties[4] = {{half, 2, NULL}, {one, 2, NULL}, {one, 1, NULL}, {one, 1, NULL}};
    const float *const of_ties[] = {zero, third, first};
    check_published("ties", of_ties, 3, ties,
                    (const float[]){3, 3, 3, 0, 3, -3, 0, 3, 3, 3, 3, 0, 3, -3, 0, 3});
    const float *const of_stock[] = {zero, first, second, third};
    check_published("model-stock", of_stock, 4, NULL,
                    (const float[]){0.2727f, 2.4545f, 2.1818f, 1.0909f, 2.5f, 0, -1.25f, 1.25f,
                                    0.8696f, 0.8696f, 1.0435f, 1.0435f, -2, -0.5f, 0.25f, -0.25f});
    const float *const of_median[] = {first, second, fourth};
    check_published("geometric-median", of_median, 3, NULL,
                    (const float[]){0.4791f, 3.3698f, 2.2343f, -0.1354f, 2.9323f, 0.9739f, -1.7289f,
                                    1.7395f, 0.2082f, 1.4220f, 2.0416f, 2.6873f, 3.0677f, 0.0989f,
                                    -0.2711f, 0.4481f});
}

/* sd-mecha's DELLA: ranks of the whole tensor, the probabilities of a window of epsilon around the
 * density; what stays is divided by the density. */
static void test_della_mecha(void **state) {
    (void)state;
    set_shape(27, 19, 0);
    compat = ck_word_index(ck_method_find("della-linear")->compat, "mecha") + 1;
    int larger = 0, stayed = 0, stayed_larger = 0;
    for (unsigned seed = 0; seed < 40; seed++) {
        key = seed;
        run("della-linear", 2, (const double[]){0.5, 1, 1, 0, 0.4});
        double middle = 0;
        for (int i = 0; i < N; i++) middle += fabs(B - A) / N;
        for (int i = 0; i < N; i++) {
            bool stays = fabs((double)out[i] - A) > 1e-9, large = fabs(B - A) > middle;
            if (stays) assert_true(fabs((double)out[i] - (A + 2 * (B - A))) < 1e-5);
            larger += large, stayed += stays, stayed_larger += stays && large;
        }
    }
    double share = (double)stayed / (40 * N), of_larger = (double)stayed_larger / larger;
    assert_true(fabs(share - 0.5) < 0.02);
    /* About the larger half has probabilities from 0.5 to 0.7. */
    assert_true(of_larger > 0.55 && of_larger < 0.68);
    /* A window may go beyond 1, unlike that of others: from 0.7 to 1.1 the largest quarter stays.
     */
    double largest = 0;
    for (int i = 0; i < N; i++) largest = fmax(largest, fabs(B - A));
    run("della-linear", 2, (const double[]){0.9, 1, 1, 0, 0.4});
    for (int i = 0; i < N; i++)
        if (fabs(B - A) > 0.97 * largest) assert_true(fabs((double)out[i] - A) > 1e-9);
    const double density = 0.9, epsilon = 0.4;
    ck_value values[5] = {{&density, 1, NULL}, [4] = {&epsilon, 1, NULL}};
    ck_error err;
    const ck_arguments own = {.values = values, .inputs = 2};
    assert_int_equal(ck_method_find("della-linear")->check(&own, &err), CK_USAGE);
    key = 77;
    compat = 0;
    set_shape(N, 0, 0);
}

/* Chance does not depend on how a tensor is cut up, and densities finer than a byte are met. */
static void test_chance(void **state) {
    (void)state;
    static float ones[2048], zeros[2048], factors[2048], parts[2048];
    const ck_arguments args = {.key = 5};
    int stayed = 0;
    for (int i = 0; i < 2048; i++) ones[i] = 1;
    for (int k = 0; k < 200; k++) {
        ck_arguments at = args;
        at.first = 2048u * (unsigned)k;
        ck_chance(ck_kernels_best(), &at, 1, 0, 0.3 / 256, 2, ones, zeros, factors, 2048);
        for (int i = 0; i < 2048; i++) stayed += factors[i] == 2;
        if (k) continue;
        ck_chance(ck_kernels_best(), &args, 1, 0, 0.5, 1, ones, zeros, factors, 2048);
        ck_chance(ck_kernels_best(), &args, 1, 0, 0.5, 1, ones, zeros, parts, 37);
        ck_chance(ck_kernels_best(), &args, 1, 37, 0.5, 1, ones, zeros, parts + 37, 2011);
        assert_memory_equal(factors, parts, sizeof parts);
        ck_chance(ck_kernels_best(), &args, 2, 0, 0.5, 1, ones, zeros, parts, 2048);
        assert_memory_not_equal(factors, parts, sizeof parts);
    }
    /* It is a byte of Philox's that decides. */
    ck_chance(ck_kernels_best(), &args, 1, 0, 0.25, 1, ones, zeros, factors, 2048);
    for (unsigned i = 0; i < 2048; i++) {
        uint32_t words[4];
        ck_philox(ck_random_key(5, 1), 0, 0, i / 16, words);
        assert_int_equal(factors[i] == 1, (words[i / 4 % 4] >> i % 4 * 8 & 255) < 64);
    }
    /* 409,600 times 0.3 / 256 is 480, give or take 22. */
    assert_true(stayed > 370 && stayed < 590);
}

static void test_exact_functions(void **state) {
    (void)state;
    for (double x = -690; x < 690; x += 0.37) assert_true(fabs(ck_exp(x) / exp(x) - 1) < 1e-13);
    for (double x = 1e-300; x < 1e300; x *= 1.7)
        assert_true(fabs(ck_log(x) - log(x)) < 1e-14 * (1 + fabs(log(x))));
    for (unsigned k = 0; k < 1000; k++) {
        double c, s, w = 2 * acos(-1) * k / 1000;
        ck_cos_sin(k, 1000, &c, &s);
        assert_true(fabs(c - cos(w)) < 1e-14 && fabs(s - sin(w)) < 1e-14);
    }
    assert_true(ck_exp(-800) == 0 && ck_exp(0) == 1 && ck_log(1) == 0);
}

static void signed_numbers(const void *context, size_t quantity, const float *const *in,
                           uint64_t first, size_t n, float *to) {
    (void)context, (void)first;
    memcpy(to, in[quantity], n * sizeof *to);
}

static void test_ranks(void **state) {
    (void)state;
    const ck_pass pass = {show};
    ck_rank ranks[] = {{1, 0, 0}, {0, 77, 0}, {1, 200, 0}, {1, N - 1, 0}};
    ck_error err;
    assert_int_equal(ck_whole_ranks(&pass, signed_numbers, NULL, 2, ranks, 4, &err), CK_OK);
    for (int r = 0; r < 4; r++) {
        float sorted[N];
        memcpy(sorted, data[ranks[r].quantity], sizeof sorted);
        qsort(sorted, N, sizeof *sorted, by_size);
        assert_true(ranks[r].value == sorted[ranks[r].rank]);
    }
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
    double lx = length(x), ly = length(y), m = 0, share = 0.25 * lx + 0.75 * ly;
    for (int i = 0; i < N; i++) {
        double d = 0.25 * (double)x[i] / lx + 0.75 * (double)y[i] / ly;
        m += d * d;
    }
    CHECK("multi-slerp-of-changes", 3,
          A + share / sqrt(m) * (0.25 / lx * (B - A) + 0.75 / ly * (C - A)), 1, 3);
    CHECK("perpendicular", 3, B + 0.6 * ((C - A) - along * (B - A)), 0.6);
    /* Right angles, and what did not move. */
    for (int i = 0; i < N; i++) x[i] = data[1][i] - data[0][i], y[i] = out[i] - data[1][i];
    assert_true(fabs(dot(x, y)) < 1e-5 * length(x) * length(y));
    float kept[N];
    memcpy(kept, data[1], sizeof kept);
    memcpy(data[1], data[0], sizeof kept);
    CHECK("perpendicular", 3, C, 1);
    CHECK("nuslerp", 3, 0.5 * A + 0.5 * C, 1, 1);
    CHECK("multi-slerp-of-changes", 3, 0.5 * A + 0.5 * C, 1, 1);
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
        assert_true((m->block != NULL) != (m->combine && !m->prepares_for_compat));
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
        cmocka_unit_test(test_tensor_sum),
        cmocka_unit_test(test_top_k_tensor_sum),
        cmocka_unit_test(test_cosine),
        cmocka_unit_test(test_multiply_difference),
        cmocka_unit_test(test_sce),
        cmocka_unit_test(test_arcee_fusion),
        cmocka_unit_test(test_fourier),
        cmocka_unit_test(test_crossover),
        cmocka_unit_test(test_smooth_add),
        cmocka_unit_test(test_della),
        cmocka_unit_test(test_published),
        cmocka_unit_test(test_della_mecha),
        cmocka_unit_test(test_chance),
        cmocka_unit_test(test_exact_functions),
        cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_dare),
        cmocka_unit_test(test_agreement_is_exact),
        cmocka_unit_test(test_same_as),
        cmocka_unit_test(test_table),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
