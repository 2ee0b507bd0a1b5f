/* Views: every way of describing a tensor, read whole and in parts, and everything refused. */
#include "io/view.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/layouts.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SHAPE(...)                                                                                 \
    (uint64_t[]) {                                                                                 \
        __VA_ARGS__                                                                                \
    }

/* A source: "m" [6,4] and "wide" [5,3000] of F16, "b" [4] of F32, "s" a scalar. */
static ck_reader *make_source(void) {
    layout l = {0};
    layout_add(&l, "m", CK_F16, 2, SHAPE(6, 4));
    layout_add(&l, "wide", CK_F16, 2, SHAPE(5, 3000));
    layout_add(&l, "b", CK_F32, 1, SHAPE(4));
    layout_add(&l, "s", CK_F32, 0, NULL);
    ck_reader *r = layout_reader(&l);
    layout_free(&l);
    return r;
}

static unsigned char *read_all(const ck_reader *r, const char *name, size_t *n) {
    ck_error err;
    const ck_tensor *t = ck_reader_find(r, name);
    assert_non_null(t);
    unsigned char *data = malloc(t->nbytes + 1);
    assert_int_equal(ck_reader_read(r, t, 0, data, t->nbytes, &err), CK_OK);
    *n = t->nbytes;
    return data;
}

/* Reads the tensor in parts of each size and compares with reading it whole. */
static void check_parts(const ck_reader *r, const char *name, size_t element) {
    size_t n;
    unsigned char *whole = read_all(r, name, &n), *part = malloc(n);
    ck_error err;
    for (size_t size = element; size <= n; size = size * 5 / 3 / element * element + element)
        for (size_t begin = 0; begin < n; begin += size) {
            size_t here = n - begin < size ? n - begin : size;
            memset(part, 0xEE, here);
            assert_int_equal(ck_reader_read(r, ck_reader_find(r, name), begin, part, here, &err),
                             CK_OK);
            assert_memory_equal(part, whole + begin, here);
        }
    free(whole);
    free(part);
}

static void check_same(const ck_reader *a, const char *name_a, size_t begin_a, const ck_reader *b,
                       const char *name_b, size_t begin_b, size_t n) {
    size_t na, nb;
    unsigned char *x = read_all(a, name_a, &na), *y = read_all(b, name_b, &nb);
    assert_true(begin_a + n <= na && begin_b + n <= nb);
    assert_memory_equal(x + begin_a, y + begin_b, n);
    free(x);
    free(y);
}

static void test_rename(void **state) {
    (void)state;
    ck_error err;
    ck_reader *source = make_source(), *view;
    assert_int_equal(ck_view_new("renamed", &view, &err), CK_OK);
    assert_int_equal(ck_view_rename(view, "x.m", source, ck_reader_find(source, "m"), &err), CK_OK);
    assert_int_equal(ck_view_rename(view, "a.s", source, ck_reader_find(source, "s"), &err), CK_OK);
    assert_int_equal(ck_view_own(view, source, &err), CK_OK);
    assert_int_equal(ck_view_finish(view, &err), CK_OK);
    assert_string_equal(ck_reader_format(view), "view");
    assert_string_equal(ck_reader_path(view), "renamed");
    assert_int_equal(ck_reader_count(view), 2);
    assert_string_equal(ck_reader_tensor(view, 0)->name, "x.m"); /* in the order of adding */
    const ck_tensor *t = ck_reader_find(view, "x.m");
    assert_int_equal(t->dtype, CK_F16);
    assert_int_equal(t->rank, 2);
    assert_int_equal(t->shape[0], 6);
    assert_int_equal(t->nbytes, 48);
    assert_null(ck_reader_find(view, "m"));
    check_same(view, "x.m", 0, source, "m", 0, 48);
    check_same(view, "a.s", 0, source, "s", 0, 4);
    check_parts(view, "x.m", 2);
    ck_reader_close(view);
}

static void test_concat(void **state) {
    (void)state;
    ck_error err;
    ck_reader *source = make_source(), *view;
    const ck_tensor *m = ck_reader_find(source, "m");
    assert_int_equal(ck_view_new("cut", &view, &err), CK_OK);
    /* Rows 4-5, nothing, rows 0-1: slices in another order. */
    ck_piece pieces[] = {{source, m, 32, 16}, {source, m, 7, 0}, {source, m, 0, 16}};
    assert_int_equal(ck_view_concat(view, "cut", CK_F16, 2, SHAPE(4, 4), pieces, 3, &err), CK_OK);
    /* The same bytes in another shape. */
    ck_piece whole = {source, m, 0, m->nbytes};
    assert_int_equal(ck_view_concat(view, "flat", CK_F16, 4, SHAPE(6, 4, 1, 1), &whole, 1, &err),
                     CK_OK);
    assert_int_equal(ck_view_concat(view, "none", CK_F16, 2, SHAPE(0, 4), NULL, 0, &err), CK_OK);
    assert_int_equal(ck_view_finish(view, &err), CK_OK);
    check_same(view, "cut", 0, source, "m", 32, 16);
    check_same(view, "cut", 16, source, "m", 0, 16);
    check_same(view, "flat", 0, source, "m", 0, 48);
    check_parts(view, "cut", 2);
    assert_int_equal(ck_reader_find(view, "none")->nbytes, 0);
    ck_reader_close(view);
    ck_reader_close(source);
}

static void test_transpose(void **state) {
    (void)state;
    ck_error err;
    ck_reader *source = make_source(), *view, *back;
    const ck_tensor *wide = ck_reader_find(source, "wide");
    assert_int_equal(ck_view_new("t", &view, &err), CK_OK);
    assert_int_equal(ck_view_transpose(view, "t", source, wide, &err), CK_OK);
    assert_int_equal(ck_view_finish(view, &err), CK_OK);
    const ck_tensor *t = ck_reader_find(view, "t");
    assert_int_equal(t->shape[0], 3000);
    assert_int_equal(t->shape[1], 5);
    size_t n;
    unsigned char *x = read_all(source, "wide", &n), *y = read_all(view, "t", &n);
    for (size_t i = 0; i < 3000; i++)
        for (size_t j = 0; j < 5; j++)
            assert_memory_equal(y + (i * 5 + j) * 2, x + (j * 3000 + i) * 2, 2);
    free(x);
    free(y);
    check_parts(view, "t", 2);
    /* A view of a view; twice transposed is the source. */
    assert_int_equal(ck_view_new("tt", &back, &err), CK_OK);
    assert_int_equal(ck_view_transpose(back, "wide", view, t, &err), CK_OK);
    assert_int_equal(ck_view_finish(back, &err), CK_OK);
    check_same(back, "wide", 0, source, "wide", 0, 30000);
    check_parts(back, "wide", 2);
    ck_reader_close(back);
    ck_reader_close(view);
    ck_reader_close(source);
}

/* "wide" with both axes in another order, "b" with its only one, and kernels that stay whole. */
static void test_permute(void **state) {
    (void)state;
    ck_error err;
    ck_reader *source = make_source(), *view;
    const ck_tensor *wide = ck_reader_find(source, "wide");
    const uint32_t rows[5] = {3, 0, 4, 1, 2}, four[4] = {2, 3, 1, 0};
    uint32_t columns[3000];
    for (uint32_t i = 0; i < 3000; i++) columns[i] = i * 7 % 3000;
    assert_int_equal(ck_view_new("p", &view, &err), CK_OK);
    assert_int_equal(ck_view_permute(view, "both", source, wide, rows, columns, &err), CK_OK);
    assert_int_equal(ck_view_permute(view, "rows", source, wide, rows, NULL, &err), CK_OK);
    assert_int_equal(
        ck_view_permute(view, "b", source, ck_reader_find(source, "b"), four, NULL, &err), CK_OK);
    ck_piece piece = {source, wide, 0, 2 * 4 * 5 * 2};
    ck_reader *kernels;
    assert_int_equal(ck_view_new("k", &kernels, &err), CK_OK);
    assert_int_equal(ck_view_concat(kernels, "conv", CK_F16, 3, SHAPE(2, 4, 5), &piece, 1, &err),
                     CK_OK);
    assert_int_equal(ck_view_finish(kernels, &err), CK_OK);
    assert_int_equal(
        ck_view_permute(view, "conv", kernels, ck_reader_find(kernels, "conv"), NULL, four, &err),
        CK_OK);
    assert_int_equal(ck_view_finish(view, &err), CK_OK);
    size_t n;
    unsigned char *x = read_all(source, "wide", &n), *both = read_all(view, "both", &n);
    unsigned char *moved = read_all(view, "rows", &n), *conv = read_all(view, "conv", &n);
    for (size_t i = 0; i < 5; i++) {
        assert_memory_equal(moved + i * 6000, x + rows[i] * 6000, 6000);
        for (size_t j = 0; j < 3000; j++)
            assert_memory_equal(both + (i * 3000 + j) * 2, x + (rows[i] * 3000 + columns[j]) * 2,
                                2);
    }
    for (size_t i = 0; i < 2; i++)
        for (size_t j = 0; j < 4; j++)
            assert_memory_equal(conv + (i * 4 + j) * 10, x + (i * 4 + four[j]) * 10, 10);
    for (size_t i = 0; i < 4; i++) check_same(view, "b", i * 4, source, "b", four[i] * 4, 4);
    check_parts(view, "both", 2);
    check_parts(view, "rows", 2);
    check_parts(view, "conv", 2);
    check_parts(view, "b", 4);
    assert_int_equal(
        ck_view_permute(view, "s", source, ck_reader_find(source, "s"), four, NULL, &err),
        CK_USAGE);
    assert_int_equal(
        ck_view_permute(view, "s", source, ck_reader_find(source, "b"), NULL, four, &err),
        CK_USAGE);
    assert_non_null(strstr(err.message, "'b' has no channels that can be permuted"));
    free(x), free(both), free(moved), free(conv);
    ck_reader_close(view);
    ck_reader_close(kernels);
    ck_reader_close(source);
}

static void test_constant_and_metadata(void **state) {
    (void)state;
    ck_error err;
    ck_reader *first, *view;
    const float value = 4.5f;
    assert_int_equal(ck_view_new("first", &first, &err), CK_OK);
    assert_int_equal(ck_view_set_metadata(first, "format", "pt", &err), CK_OK);
    assert_int_equal(ck_view_set_metadata(first, "title", "old", &err), CK_OK);
    assert_int_equal(ck_view_finish(first, &err), CK_OK);
    assert_int_equal(ck_view_new("view", &view, &err), CK_OK);
    assert_int_equal(ck_view_constant(view, "logit_scale", CK_F32, 0, NULL, &value, &err), CK_OK);
    assert_int_equal(ck_view_constant(view, "marker", CK_F32, 1, SHAPE(0), NULL, &err), CK_OK);
    assert_int_equal(ck_view_set_metadata(view, "title", "new", &err), CK_OK);
    assert_int_equal(ck_view_copy_metadata(view, first, &err), CK_OK);
    assert_int_equal(ck_view_finish(view, &err), CK_OK);
    assert_string_equal(ck_reader_meta(view, "format"), "pt");
    assert_string_equal(ck_reader_meta(view, "title"), "new"); /* what is there stays */
    size_t n;
    unsigned char *data = read_all(view, "logit_scale", &n);
    assert_int_equal(n, sizeof value);
    assert_memory_equal(data, &value, n);
    free(data);
    assert_int_equal(ck_reader_find(view, "marker")->nbytes, 0);
    ck_reader_close(view);
    ck_reader_close(first);
}

static void test_refused(void **state) {
    (void)state;
    ck_error err;
    ck_reader *source = make_source(), *view;
    const ck_tensor *m = ck_reader_find(source, "m"), *b = ck_reader_find(source, "b");
    const struct {
        ck_piece piece;
        const char *message;
    } bad[] = {
        {{source, m, 0, 49}, "lies outside of 'm'"},
        {{source, m, 49, 0}, "lies outside of 'm'"},
        {{source, m, 40, UINT64_MAX - 4}, "lies outside of 'm'"},
        {{source, m, 0, 46}, "46 bytes, 48 expected"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(ck_view_new("bad", &view, &err), CK_OK);
        assert_int_equal(ck_view_concat(view, "x", CK_F16, 2, SHAPE(6, 4), &bad[i].piece, 1, &err),
                         CK_USAGE);
        assert_non_null(strstr(err.message, bad[i].message));
        ck_reader_close(view);
    }
    assert_int_equal(ck_view_new("bad", &view, &err), CK_OK);
    assert_int_equal(ck_view_transpose(view, "x", source, b, &err), CK_INPUT);
    assert_int_equal(ck_view_rename(view, "x", source, m, &err), CK_OK);
    assert_int_equal(ck_view_rename(view, "x", source, b, &err), CK_OK);
    assert_int_equal(ck_view_finish(view, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "'x' is there twice"));
    ck_reader_close(view);
    ck_reader_close(source);
}

typedef struct reading {
    const ck_reader *view;
    const unsigned char *whole;
    bool wrong;
} reading;

static void *read_parts(void *argument) {
    reading *r = argument;
    for (size_t i = 0; i < 300; i++) {
        unsigned char part[100];
        ck_error err;
        r->wrong |= ck_reader_read(r->view, ck_reader_find(r->view, "t"), i * 100, part,
                                   sizeof part, &err) != CK_OK ||
                    memcmp(part, r->whole + i * 100, sizeof part) != 0;
    }
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
    ck_error err;
    ck_reader *source = make_source(), *view;
    assert_int_equal(ck_view_new("t", &view, &err), CK_OK);
    assert_int_equal(ck_view_transpose(view, "t", source, ck_reader_find(source, "wide"), &err),
                     CK_OK);
    assert_int_equal(ck_view_finish(view, &err), CK_OK);
    size_t n;
    unsigned char *whole = read_all(view, "t", &n);
    pthread_t threads[4];
    reading readings[4];
    for (int i = 0; i < 4; i++) {
        readings[i] = (reading){view, whole, false};
        assert_int_equal(pthread_create(&threads[i], NULL, read_parts, &readings[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_false(readings[i].wrong);
    }
    free(whole);
    ck_reader_close(view);
    ck_reader_close(source);
}

/* Everything that allocates. */
static ck_status build(ck_reader *source, ck_reader **view, ck_error *err) {
    const ck_tensor *m = ck_reader_find(source, "m");
    const float value = 1;
    CK_TRY(ck_view_new("built", view, err));
    ck_reader *inner;
    CK_TRY(ck_view_new("inner", &inner, err));
    CK_TRY(ck_view_own(*view, inner, err));
    CK_TRY(ck_view_rename(*view, "m", source, m, err));
    CK_TRY(ck_view_transpose(*view, "t", source, m, err));
    CK_TRY(ck_view_permute(*view, "p", source, m, (const uint32_t[]){5, 4, 3, 2, 1, 0},
                           (const uint32_t[]){3, 2, 1, 0}, err));
    CK_TRY(ck_view_constant(*view, "c", CK_F32, 0, NULL, &value, err));
    CK_TRY(ck_view_set_metadata(*view, "k", "v", err));
    CK_TRY(ck_view_set_metadata(*view, "k", "w", err));
    return ck_view_finish(*view, err);
}

static void test_out_of_memory(void **state) {
    (void)state;
    ck_reader *source = make_source();
    for (fault_kind kind = FAULT_CALLOC; kind <= FAULT_REALLOC; kind++)
        for (fault_first(kind, ENOMEM); fault_more();) {
            ck_error err;
            ck_reader *view = NULL;
            fault_arm();
            ck_status status = build(source, &view, &err);
            fault_disarm();
            assert_int_equal(status, fault_hit() ? CK_MEMORY : CK_OK);
            ck_reader_close(view);
        }
    ck_reader_close(source);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rename),
        cmocka_unit_test(test_concat),
        cmocka_unit_test(test_transpose),
        cmocka_unit_test(test_permute),
        cmocka_unit_test(test_constant_and_metadata),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
