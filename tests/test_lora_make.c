/* Making LoRAs: ranks chosen by known singular values, what is stored, and that a model, its LoRA
 * and the program that applies it go in a circle. */
#include "io/view.h"
#include "merge/lora_make.h"
#include "merge/svd.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"
#include "tests/program.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static fixture f;

static int setup(void **state) {
    (void)state;
    fixture_make(&f);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_remove(&f);
    return 0;
}

/* ---- Cuts ---- */

enum { ROWS = 12, CHANNELS = 5, KERNEL = 4, COLUMNS = CHANNELS * KERNEL, VALUES = 6 };

/* Diagonal: the singular values are plain to see. Their sum is 20, the sum of squares 150. */
static const float values[VALUES] = {10, 6, 3, 2, 1, 0};

static ck_status diagonal(void *context, size_t i, float *change, ck_error *err) {
    (void)context, (void)err;
    if (i == 2) { /* a bias */
        for (int k = 0; k < ROWS; k++) change[k] = (float)k;
        return CK_OK;
    }
    for (int k = 0; k < VALUES; k++) change[k * COLUMNS + k + 3] = i == 1 ? 0 : values[k];
    return CK_OK;
}

static const ck_lora_layer layers[] = {
    {.name = "conv",
     .rows = ROWS,
     .columns = COLUMNS,
     .dimensions = 4,
     .shape = {ROWS, CHANNELS, 2, 2},
     .rank = 3},
    {.name = "same", .rows = ROWS, .columns = COLUMNS, .dimensions = 2, .shape = {ROWS, COLUMNS}},
    {.name = "conv", .bias = true, .rows = ROWS, .columns = 1, .dimensions = 1, .shape = {ROWS}},
    {.name = "fc",
     .rows = ROWS,
     .columns = COLUMNS,
     .dimensions = 2,
     .shape = {ROWS, COLUMNS},
     .rank = 2},
};

static ck_reader *make(ck_lora_cut cut, ck_lora_made *made) {
    const ck_lora_make_options o = {.cut = cut, .dtype = CK_F32};
    ck_reader *lora;
    ck_error err;
    if (ck_lora_make("made", layers, 4, diagonal, NULL, &o, &lora, made, &err) != CK_OK ||
        ck_view_finish(lora, &err) != CK_OK)
        fail_msg("%s", err.message);
    return lora;
}

/* Rank of a layer; 0 when it is not there. */
static size_t rank_of(ck_lora_cut cut, const char *layer) {
    ck_lora_made made;
    ck_reader *lora = make(cut, &made);
    char name[64];
    snprintf(name, sizeof name, "%s.lora_down.weight", layer);
    const ck_tensor *t = ck_reader_find(lora, name);
    size_t rank = t ? (size_t)t->shape[0] : 0;
    ck_reader_close(lora);
    return rank;
}

#define RANK(layer, ...) rank_of((ck_lora_cut){__VA_ARGS__}, layer)

static void test_cuts(void **state) {
    (void)state;
    assert_int_equal(RANK("fc", .rank = 4, .conv_rank = 4), 4);
    assert_int_equal(RANK("fc", .rank = 30), 5); /* there are not more */
    assert_int_equal(RANK("fc", .rank = 0), 2);
    assert_int_equal(RANK("conv", .rank = 0), 3);
    assert_int_equal(RANK("conv", .rank = 4, .conv_rank = 1), 1);
    assert_int_equal(RANK("conv", .rank = 4, .conv_rank = 0), 0);
    assert_int_equal(RANK("same", .rank = 4), 0);
    assert_int_equal(RANK("fc", .rank = 4, .least_change = 9.9), 4);
    assert_int_equal(RANK("fc", .rank = 4, .least_change = 10), 0);
    /* larger than 10 / 4 = 2.5; than 2: not 2 itself */
    assert_int_equal(RANK("fc", .rank = 9, .dynamic = CK_DYNAMIC_RATIO, .value = 4), 3);
    assert_int_equal(RANK("fc", .rank = 9, .dynamic = CK_DYNAMIC_RATIO, .value = 5), 3);
    assert_int_equal(RANK("fc", .rank = 9, .dynamic = CK_DYNAMIC_RATIO, .value = 5.1), 4);
    /* of 22: 10, 16, 19, 21, 22 */
    assert_int_equal(RANK("fc", .rank = 9, .dynamic = CK_DYNAMIC_CUMULATIVE, .value = 0.7), 2);
    assert_int_equal(RANK("fc", .rank = 9, .dynamic = CK_DYNAMIC_CUMULATIVE, .value = 0.75), 3);
    assert_int_equal(RANK("fc", .rank = 2, .dynamic = CK_DYNAMIC_CUMULATIVE, .value = 0.75), 2);
    /* of 150: 100, 136, 145, 149, 150 */
    assert_int_equal(RANK("fc", .rank = 9, .dynamic = CK_DYNAMIC_FROBENIUS, .value = 0.95), 2);
    assert_int_equal(RANK("fc", .rank = 9, .dynamic = CK_DYNAMIC_FROBENIUS, .value = 0.96), 3);
}

static void test_stored(void **state) {
    (void)state;
    ck_lora_made made;
    ck_reader *view = make((ck_lora_cut){.rank = 4, .conv_rank = 2}, &made);
    assert_int_equal(made.layers, 3);
    assert_int_equal(made.unchanged, 1);
    assert_int_equal(made.least_rank, 2);
    assert_int_equal(made.most_rank, 4);
    assert_true(fabs(made.kept - sqrt((149.0 + 136) / 300)) < 1e-6);
    assert_true(fabs(made.worst_kept - sqrt(136.0 / 150)) < 1e-6);
    assert_string_equal(made.worst, "conv");
    char shape[64];
    assert_string_equal(
        ck_tensor_shape_text(ck_reader_find(view, "conv.lora_up.weight"), shape, sizeof shape),
        "[12,2,1,1]");
    assert_string_equal(
        ck_tensor_shape_text(ck_reader_find(view, "conv.lora_down.weight"), shape, sizeof shape),
        "[2,5,2,2]");
    ck_lora *lora;
    ck_error err;
    assert_int_equal(ck_lora_open(view, &lora, &err), CK_OK);
    assert_int_equal(ck_lora_count(lora), 3);
    for (size_t i = 0; i < 3; i++) {
        const ck_lora_layer *l = ck_lora_layer_of(lora, i);
        float got[ROWS * COLUMNS], want[ROWS * COLUMNS] = {0};
        size_t n = (size_t)(l->rows * l->columns);
        assert_int_equal(ck_lora_rows(lora, i, 0, l->rows, 0, l->columns, got, l->columns, &err),
                         CK_OK);
        diagonal(NULL, l->bias ? 2 : 0, want, &err);
        for (size_t k = l->rank; !l->bias && k < VALUES; k++) want[k * COLUMNS + k + 3] = 0;
        for (size_t e = 0; e < n; e++) assert_true(fabsf(got[e] - want[e]) < 1e-5f);
    }
    ck_lora_close(lora);
    ck_reader_close(view);
}

static ck_status broken(void *context, size_t i, float *change, ck_error *err) {
    CK_TRY(diagonal(context, i, change, err));
    if (i == 3) change[0] = NAN;
    return CK_OK;
}

static void test_failures(void **state) {
    (void)state;
    const ck_lora_make_options o = {
        .cut = {.rank = 2, .conv_rank = 2, .dynamic = CK_DYNAMIC_CUMULATIVE, .value = 0.9},
        .dtype = CK_F16,
        .threads = 1};
    ck_reader *lora;
    ck_lora_made made;
    ck_error err;
    assert_int_equal(ck_lora_make("made", layers, 4, broken, NULL, &o, &lora, &made, &err),
                     CK_INPUT);
    assert_non_null(strstr(err.message, "layer 'fc': a matrix with NaN"));
    for (fault_first(FAULT_CALLOC, ENOMEM); fault_more();) {
        fault_arm();
        ck_status status = ck_lora_make("made", layers, 4, diagonal, NULL, &o, &lora, &made, &err);
        fault_disarm();
        assert_int_equal(status, fault_hit() ? CK_MEMORY : CK_OK);
        if (status == CK_OK) ck_reader_close(lora);
    }
}

/* ---- Programs ---- */

/* A change of rank three comes back whole, and the LoRA has no more than that. */
static void test_circle(void **state) {
    (void)state;
    enum { M = 70, N = 90, RANK = 3 };
    static float base[M * N], tuned[M * N];
    float u[RANK][M], v[RANK][N];
    uint64_t seed = 4;
    for (int k = 0; k < RANK; k++) {
        for (int i = 0; i < M; i++) u[k][i] = fixture_random_float(&seed);
        for (int j = 0; j < N; j++) v[k][j] = fixture_random_float(&seed) / 16;
    }
    for (int i = 0; i < M * N; i++) {
        base[i] = tuned[i] = fixture_random_float(&seed);
        for (int k = 0; k < RANK; k++) tuned[i] += u[k][i / N] * v[k][i % N];
    }
    const fixture_tensor a[] = {{"w.weight", CK_F32, {M, N}, 2, base},
                                {"w.bias", CK_F32, {M}, 1, base},
                                {"same.weight", CK_F32, {5, 6}, 2, base}};
    const fixture_tensor b[] = {{"w.weight", CK_F32, {M, N}, 2, tuned},
                                {"w.bias", CK_F32, {M}, 1, base},
                                {"same.weight", CK_F32, {5, 6}, 2, base}};
    fixture_safetensors(&f, "base", a, 3, NULL);
    fixture_safetensors(&f, "tuned", b, 3, NULL);
    program_expect(program_run(f.folder, "cktool extract-lora tuned base -o lora --dtype f32 && "
                                         "cktool ls lora"),
                   0, "F32      [70,3]               w.lora_up.weight\n", NULL);
    program_expect(program_run(f.folder, "ckmerge base --lora lora -o back && cktool diff --json "
                                         "tuned back"),
                   0, "\"state\"", NULL);
    ck_reader *back;
    ck_error err;
    assert_int_equal(ck_reader_open(fixture_path(&f, "back"), &back, &err), CK_OK);
    assert_int_equal(
        ck_reader_read(back, ck_reader_find(back, "w.weight"), 0, base, sizeof base, &err), CK_OK);
    for (int i = 0; i < M * N; i++) assert_true(fabsf(base[i] - tuned[i]) < 2e-6f);
    ck_reader_close(back);

    program_expect(program_run(f.folder, "cktool extract-lora tuned base -o lora"), 2, NULL,
                   "lora exists");
    program_expect(program_run(f.folder, "cktool extract-lora base base -o none"), 1, NULL,
                   "no layer has a change");
    program_expect(program_run(f.folder, "cktool extract-lora tuned base -o x --dynamic half=1"), 2,
                   NULL, "must be ratio=X, cumulative=X or fro=X");
    program_expect(program_run(f.folder, "cktool extract-lora tuned base -o x --dynamic fro=1.5"),
                   2, NULL, "larger than 0 and at most 1");
    program_expect(program_run(f.folder, "cktool extract-lora tuned base -o x --rank 0"), 2, NULL,
                   "a rank must be");
    assert_int_equal(fixture_entries(&f), 4);
}

/* Real models, in two layouts, under kohya's names. */
static void test_models(void **state) {
    (void)state;
    char data[512];
    assert_non_null(realpath("recipes/models", data));
    program_expect(program_run(f.folder,
                               "cktool convert %s/base ldm --layout ldm -q && "
                               "cktool extract-lora %s/clothes ldm -o lora --rank 8 "
                               "--dynamic fro=0.9 --json",
                               data, data),
                   0, "\"most_rank\":\t8", NULL);
    program_expect(program_run(f.folder, "cktool ls lora"), 0,
                   "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.alpha",
                   NULL);
    program_expect(program_run(f.folder, "cktool ls lora"), 0,
                   "modelspec.architecture: stable-diffusion-v1/lora", NULL);
    program_expect(program_run(f.folder, "ckmerge %s/base --lora lora -o out", data), 0,
                   "mixed", NULL);
    /* The same bytes with any number of threads. */
    program_expect(program_run(f.folder,
                               "cktool extract-lora %s/clothes ldm -o again --rank 8 "
                               "--dynamic fro=0.9 -q -t 3 && cmp lora again",
                               data),
                   0, "", NULL);
}

static void check_close(const char *a, const char *b, float within) {
    ck_reader *x, *y;
    ck_error err;
    assert_int_equal(ck_reader_open(fixture_path(&f, a), &x, &err), CK_OK);
    assert_int_equal(ck_reader_open(fixture_path(&f, b), &y, &err), CK_OK);
    for (size_t i = 0; i < ck_reader_count(x); i++) {
        const ck_tensor *t = ck_reader_tensor(x, i), *u = ck_reader_find(y, t->name);
        float *p = malloc(t->nbytes), *q = malloc(t->nbytes);
        assert_int_equal(ck_reader_read(x, t, 0, p, t->nbytes, &err), CK_OK);
        assert_int_equal(ck_reader_read(y, u, 0, q, t->nbytes, &err), CK_OK);
        for (uint64_t e = 0; e < t->elements; e++)
            if (!(fabsf(p[e] - q[e]) <= within))
                fail_msg("%s, '%s', element %llu: %g, want %g", a, t->name, (unsigned long long)e,
                         (double)p[e], (double)q[e]);
        free(p);
        free(q);
    }
    ck_reader_close(x);
    ck_reader_close(y);
}

/* Merged and applied is the same as applied one after the other; by names and by the model. */
static void test_merged(void **state) {
    (void)state;
    char d[512];
    assert_non_null(realpath("tests/data/lora", d));
    program_expect(
        program_run(f.folder,
                    "D=%s; ckmerge $D/model.safetensors --lora $D/lora.safetensors:0.5 "
                    "--lora $D/loha.safetensors:-2 --lora $D/full.safetensors -o each && "
                    "cktool merge-loras $D/lora.safetensors:0.5 $D/loha.safetensors:-2 "
                    "$D/full.safetensors -o lora --dtype f32 && ckmerge "
                    "$D/model.safetensors --lora lora -o once",
                    d),
        0, "100.00 % of the changes' length kept", NULL);
    check_close("once", "each", 4e-6f);
    program_expect(program_run(f.folder,
                               "D=%s; ckmerge $D/model.safetensors --lora $D/dora.safetensors "
                               "--lora $D/lokr.safetensors:0.5 -o each -f && cktool merge-loras "
                               "$D/dora.safetensors $D/lokr.safetensors:0.5 -o lora --dtype f32 "
                               "--model $D/model.safetensors -f && ckmerge $D/model.safetensors "
                               "--lora lora -o once -f",
                               d),
                   0, "100.00 % of the changes' length kept", NULL);
    check_close("once", "each", 4e-6f);
    /* One alone is brought to another rank, in its own names. */
    program_expect(program_run(f.folder,
                               "cktool merge-loras %s/peft.safetensors -o small --rank 2 -q && "
                               "cktool ls small",
                               d),
                   0, "F16      [2,40]               net.fc.lora_A.weight\n", NULL);
}

static void test_merging_refused(void **state) {
    (void)state;
    char d[512];
    assert_non_null(realpath("tests/data/lora", d));
    static const float numbers[64];
    const fixture_tensor other = {"else.diff", CK_F32, {4, 6}, 2, numbers};
    const fixture_tensor larger = {"net_fc.diff", CK_F32, {4, 6}, 2, numbers};
    fixture_safetensors(&f, "other", &other, 1, NULL);
    fixture_safetensors(&f, "larger", &larger, 1, NULL);
    const struct {
        const char *arguments, *text;
    } cases[] = {
        {"$D/lora.safetensors $D/dora.safetensors", "give the model with --model"},
        {"$D/lora.safetensors other", "have no layer of the same name ('net_conv', 'else')"},
        {"$D/lora.safetensors larger", "is 12 by 40 in"},
        {"$D/lora.safetensors $D/model.safetensors", "is no LoRA"},
        {"$D/lora.safetensors other --model $D/model.safetensors", "none of its 1 layers is in"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        program_expect(
            program_run(f.folder, "D=%s; cktool merge-loras -o out %s", d, cases[i].arguments), 1,
            NULL, cases[i].text);
    program_expect(program_run(f.folder, "cktool merge-loras -o out a:inf"), 2, NULL,
                   "the strength must be a number");
    program_expect(program_run(f.folder, "cktool merge-loras other --conv-rank 3 -o out"), 2, NULL,
                   "--conv-rank needs --rank");
}

int main(void) {
    const float a = 2;
    ck_svd svd;
    ck_error err;
    if (ck_svd_of(&a, 1, 1, 1, &svd, &err) != CK_OK) {
        printf("without LAPACK no LoRA can be made: %s\n", err.message);
        return 0;
    }
    ck_svd_free(&svd);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_stored),
        cmocka_unit_test(test_failures),
        cmocka_unit_test_setup_teardown(test_circle, setup, teardown),
        cmocka_unit_test_setup_teardown(test_models, setup, teardown),
        cmocka_unit_test_setup_teardown(test_merged, setup, teardown),
        cmocka_unit_test_setup_teardown(test_merging_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
