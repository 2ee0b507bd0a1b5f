/* The classifier against torch (tests/interop/make_classifier.py), and what is refused. */
#include "distill/judge/classifier.h"
#include "io/reader.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct reference {
    ck_classifier *model;
    ck_reader *answers;
} reference;

static int setup(void **state) {
    static reference r;
    ck_error err;
    if (ck_classifier_open("recipes/models/classifier.safetensors", &r.model, &err) != CK_OK ||
        ck_reader_open("tests/data/classifier_reference.safetensors", &r.answers, &err) != CK_OK)
        fail_msg("%s", err.message);
    *state = &r;
    return 0;
}

static int teardown(void **state) {
    reference *r = *state;
    ck_classifier_close(r->model);
    ck_reader_close(r->answers);
    return 0;
}

/* f32 values of the reference; the caller frees. */
static float *load(const reference *r, const char *name, const ck_tensor **t) {
    *t = ck_reader_find(r->answers, name);
    assert_non_null(*t);
    float *values = malloc((*t)->nbytes);
    ck_error err;
    assert_non_null(values);
    assert_int_equal(ck_reader_read(r->answers, *t, 0, values, (*t)->nbytes, &err), CK_OK);
    return values;
}

static void assert_answers(const reference *r, const char *name, const float *values) {
    const ck_tensor *t;
    float *expected = load(r, name, &t);
    for (size_t i = 0; i < t->elements; i++)
        if (!(fabsf(values[i] - expected[i]) <= 2e-5f * (1 + fabsf(expected[i]))))
            fail_msg("%s[%zu]: %.9g is not %.9g", name, i, values[i], expected[i]);
    free(expected);
}

static ck_images load_images(const reference *r, const char *name, float **pixels) {
    const ck_tensor *t;
    *pixels = load(r, name, &t);
    assert_int_equal(t->rank, 4);
    return (ck_images){*pixels, t->shape[0], t->shape[1], t->shape[2], t->shape[3]};
}

enum { IMAGES = 5, FEATURES = 128, CLASSES = 10 };

static void test_torch(void **state) {
    const reference *r = *state;
    assert_int_equal(ck_classifier_features(r->model), FEATURES);
    assert_int_equal(ck_classifier_classes(r->model), CLASSES);
    static const char *const names[][3] = {{"images", "features", "logits"},
                                           {"small", "small_features", "small_logits"}};
    for (int i = 0; i < 2; i++) {
        float *pixels, features[IMAGES * FEATURES], logits[IMAGES * CLASSES];
        ck_error err;
        ck_images images = load_images(r, names[i][0], &pixels);
        assert_int_equal(images.count, IMAGES);
        assert_int_equal(ck_classifier_run(r->model, images, features, logits, &err), CK_OK);
        assert_answers(r, names[i][1], features);
        assert_answers(r, names[i][2], logits);
        /* The last three were asked for: sneaker, t-shirt, ankle boot. */
        static const int asked[] = {7, 0, 9};
        for (int n = 0; n < 3; n++)
            for (int c = 0; c < CLASSES; c++) {
                const float *mine = logits + (n + 2) * CLASSES;
                assert_true(mine[asked[n]] >= mine[c]);
            }
        free(pixels);
    }
}

/* Each image alone, with one thread and with four, without one or the other output. */
static void test_same_bits(void **state) {
    const reference *r = *state;
    float *pixels, all[IMAGES * FEATURES], features[FEATURES], logits[CLASSES];
    ck_error err;
    ck_images images = load_images(r, "images", &pixels);
    int threads = omp_get_max_threads();
    omp_set_num_threads(4);
    assert_int_equal(ck_classifier_run(r->model, images, all, NULL, &err), CK_OK);
    omp_set_num_threads(1);
    for (size_t i = 0; i < IMAGES; i++) {
        ck_images one = images;
        one.pixels += i * 32 * 32;
        one.count = 1;
        assert_int_equal(ck_classifier_run(r->model, one, features, NULL, &err), CK_OK);
        assert_memory_equal(features, all + i * FEATURES, sizeof features);
        assert_int_equal(ck_classifier_run(r->model, one, NULL, logits, &err), CK_OK);
    }
    omp_set_num_threads(threads);
    images.count = 0;
    assert_int_equal(ck_classifier_run(r->model, images, NULL, NULL, &err), CK_OK);
    free(pixels);
}

/* One convolution of one 3 x 3 kernel on 2 x 2 images, and one layer of two classes: by hand. */
static void test_by_hand(void **state) {
    (void)state;
    static const float kernel[] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, kernel_bias[] = {0.5f};
    static const float weight[] = {2, -3}, bias[] = {1, 0}, image[] = {1, 0, 0, 2};
    const fixture_tensor tensors[] = {
        {"conv1.weight", CK_F32, {1, 1, 3, 3}, 4, kernel},
        {"conv1.bias", CK_F32, {1}, 1, kernel_bias},
        {"fc1.weight", CK_F32, {2, 1}, 2, weight},
        {"fc1.bias", CK_F32, {2}, 1, bias},
    };
    fixture f;
    fixture_make(&f);
    ck_classifier *c;
    ck_error err = {0};
    const char *path = fixture_safetensors(&f, "tiny.safetensors", tensors, 4, NULL);
    if (ck_classifier_open(path, &c, &err) != CK_OK) fail_msg("%s", err.message);
    assert_int_equal(ck_classifier_features(c), 1);
    float feature, logits[2];
    assert_int_equal(ck_classifier_run(c, (ck_images){image, 1, 1, 2, 2}, &feature, logits, &err),
                     CK_OK);
    float sum = 5 * 1 + 9 * 2 + 0.5f; /* the kernel's middle is on the first pixel */
    assert_true(fabsf(feature - sum / (1 + expf(-sum))) < 1e-5f);
    assert_true(fabsf(logits[0] - (2 * feature + 1)) < 1e-5f);
    assert_true(fabsf(logits[1] + 3 * feature) < 1e-5f);
    /* A single pixel is padded on the right and below. */
    assert_int_equal(ck_classifier_run(c, (ck_images){image, 1, 1, 1, 1}, &feature, NULL, &err),
                     CK_OK);
    sum = 5 - 6 - 8 - 9 + 0.5f;
    assert_true(fabsf(feature - sum / (1 + expf(-sum))) < 1e-5f);
    ck_classifier_close(c);
    fixture_remove(&f);
}

static void test_refused_images(void **state) {
    const reference *r = *state;
    static const ck_images images[] = {
        {NULL, 1, 3, 32, 32}, {NULL, 1, 1, 33, 32}, {NULL, 1, 1, 28, 64}};
    for (int i = 0; i < 3; i++) {
        ck_error err = {0};
        assert_int_equal(ck_classifier_run(r->model, images[i], NULL, NULL, &err), CK_USAGE);
        assert_non_null(strstr(err.message, "of 1 and at most 32 x 32"));
    }
}

static void test_refused_files(void **state) {
    (void)state;
    static const float zeros[1024];
    static const struct {
        fixture_tensor tensors[5];
        size_t count;
        const char *message;
    } files[] = {
        {{{"a", CK_F32, {1}, 1, zeros}}, 1, "no tensor 'conv1.weight'"},
        {{{"conv1.weight", CK_F32, {1, 1, 3, 3}, 4, zeros}}, 1, "no tensor 'conv1.bias'"},
        {{{"conv1.weight", CK_F32, {1, 1, 3, 3}, 4, zeros}, {"conv1.bias", CK_F32, {2}, 1, zeros}},
         2,
         "'conv1.bias' [2]: not one number"},
        {{{"conv1.weight", CK_F32, {1, 1, 2, 2}, 4, zeros}}, 1, "[1,1,2,2]: not [out, in, k, k]"},
        {{{"conv1.weight", CK_F32, {1, 1, 3, 1}, 4, zeros}}, 1, "not [out, in, k, k]"},
        {{{"conv1.weight", CK_F32, {3, 3}, 2, zeros}}, 1, "not [out, in, k, k]"},
        {{{"conv1.weight", CK_F32, {0, 1, 3, 3}, 4, zeros}}, 1, "is empty"},
        {{{"conv1.weight", CK_I32, {1, 1, 3, 3}, 4, zeros}, {"conv1.bias", CK_F32, {1}, 1, zeros}},
         2,
         "'conv1.weight' [1,1,3,3]: not of a float type"},
        {{{"conv1.weight", CK_F32, {2, 1, 3, 3}, 4, zeros},
          {"conv1.bias", CK_F32, {2}, 1, zeros},
          {"conv2.weight", CK_F32, {1, 1, 3, 3}, 4, zeros}},
         3,
         "'conv2.weight' [1,1,3,3]: does not take"},
        {{{"conv1.weight", CK_F32, {2, 1, 3, 3}, 4, zeros}, {"conv1.bias", CK_F32, {2}, 1, zeros}},
         2,
         "no tensor 'fc1.weight'"},
        {{{"conv1.weight", CK_F32, {2, 1, 3, 3}, 4, zeros},
          {"conv1.bias", CK_F32, {2}, 1, zeros},
          {"fc1.weight", CK_F32, {1, 6}, 2, zeros}},
         3,
         "'fc1.weight' [1,6]: does not take"},
        {{{"conv1.weight", CK_F32, {2, 1, 3, 3}, 4, zeros},
          {"conv1.bias", CK_F32, {2}, 1, zeros},
          {"fc1.weight", CK_F32, {8}, 1, zeros}},
         3,
         "not [out, in]"},
        {{{"conv1.weight", CK_F32, {2, 1, 3, 3}, 4, zeros},
          {"conv1.bias", CK_F32, {2}, 1, zeros},
          {"fc1.weight", CK_F32, {1, 8}, 2, zeros},
          {"fc1.bias", CK_F32, {1}, 1, zeros},
          {"norm.weight", CK_F32, {1}, 1, zeros}},
         5,
         "5 tensors, not just weight and bias of 2 layers"},
    };
    fixture f;
    fixture_make(&f);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        ck_classifier *c;
        ck_error err = {0};
        const char *path =
            fixture_safetensors(&f, "bad.safetensors", files[i].tensors, files[i].count, NULL);
        assert_int_equal(ck_classifier_open(path, &c, &err), CK_INPUT);
        if (!strstr(err.message, files[i].message)) fail_msg("%zu: %s", i, err.message);
    }
    fixture_remove(&f);
}

/* Thirteen halvings: 8192 pixels a side. */
static void test_refused_depth(void **state) {
    (void)state;
    enum { DEPTH = 13 };
    static const float one[] = {1};
    fixture_tensor tensors[2 * DEPTH + 2];
    char names[2 * DEPTH][32];
    for (int i = 0; i < DEPTH; i++) {
        snprintf(names[2 * i], 32, "conv%d.weight", i + 1);
        snprintf(names[2 * i + 1], 32, "conv%d.bias", i + 1);
        tensors[2 * i] = (fixture_tensor){names[2 * i], CK_F32, {1, 1, 1, 1}, 4, one};
        tensors[2 * i + 1] = (fixture_tensor){names[2 * i + 1], CK_F32, {1}, 1, one};
    }
    tensors[2 * DEPTH] = (fixture_tensor){"fc1.weight", CK_F32, {1, 1}, 2, one};
    tensors[2 * DEPTH + 1] = (fixture_tensor){"fc1.bias", CK_F32, {1}, 1, one};
    fixture f;
    fixture_make(&f);
    ck_classifier *c;
    ck_error err = {0};
    const char *path = fixture_safetensors(&f, "deep.safetensors", tensors, 2 * DEPTH + 2, NULL);
    assert_int_equal(ck_classifier_open(path, &c, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "more than 4096 pixels a side"));
    fixture_remove(&f);
}

static void test_faults(void **state) {
    const reference *r = *state;
    float *pixels, features[IMAGES * FEATURES];
    ck_images images = load_images(r, "images", &pixels);
    static const fault_kind kinds[] = {FAULT_CALLOC, FAULT_REALLOC, FAULT_OPEN, FAULT_PREAD};
    for (int k = 0; k < 4; k++) {
        size_t faults = 0;
        for (fault_first(kinds[k], k < 2 ? ENOMEM : EIO); fault_more();) {
            ck_classifier *c = NULL;
            ck_error err = {0};
            fault_arm();
            ck_status status = ck_classifier_open("recipes/models/classifier.safetensors", &c, &err);
            if (status == CK_OK) status = ck_classifier_run(c, images, features, NULL, &err);
            fault_disarm();
            faults += fault_hit();
            assert_int_equal(status, !fault_hit() ? CK_OK : k < 2 ? CK_MEMORY : CK_IO);
            ck_classifier_close(c);
        }
        assert_true(faults > 0);
    }
    free(pixels);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_torch),         cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_by_hand),       cmocka_unit_test(test_refused_images),
        cmocka_unit_test(test_refused_files), cmocka_unit_test(test_refused_depth),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
