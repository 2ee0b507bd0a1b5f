/* The HDF5 reader on files that h5py wrote (tests/interop/make_hdf5.py), whole, refused, damaged
 * and cut off; and what it does when the system or libhdf5 fails. */
#include "tests/check.h"

#include "io/reader.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOLDER "tests/data/hdf5/"

#ifdef CK_HAVE_HDF5

static ck_reader *open_whole(const char *path) {
    ck_reader *r = NULL;
    ck_error err;
    if (ck_reader_open(path, &r, &err) != CK_OK) fail_msg("%s", err.message);
    return r;
}

/* Element i of most tensors is i - 3. */
static double expected(size_t i) {
    return (double)i - 3;
}

static double element(ck_dtype dtype, const unsigned char *p) {
    uint64_t bits = 0;
    unsigned width = ck_dtype_bits(dtype);
    for (unsigned i = 0; i < width / 8; i++) bits |= (uint64_t)p[i] << (8 * i);
    /* Sign extension by shifting up and down. */
    int64_t integer = (int64_t)(bits << (64 - width)) >> (64 - width);
    float f32;
    double f64;
    uint32_t low = (uint32_t)bits;
    switch (dtype) {
    case CK_F64:
        memcpy(&f64, &bits, sizeof f64);
        return f64;
    case CK_BF16:
        low <<= 16;
        /* fall through */
    case CK_F32:
        memcpy(&f32, &low, sizeof f32);
        return (double)f32;
    case CK_F16:
        /* Small integers are normal numbers: no other case is needed. */
        low = low & 0x7FFF ? ((low & 0x8000) << 16 | (low & 0x7FFF) << 13) + (112u << 23) : 0;
        memcpy(&f32, &low, sizeof f32);
        return (double)f32;
    default:
        return (double)integer; /* -3 wraps in unsigned types, and comes back here */
    }
}

static void check_values(const ck_reader *r, const ck_tensor *t) {
    ck_error err;
    unsigned size = ck_dtype_bits(t->dtype) / 8;
    unsigned char *data = malloc(t->nbytes + 1);
    assert_non_null(data);
    if (ck_reader_read(r, t, 0, data, t->nbytes, &err) != CK_OK) fail_msg("%s", err.message);
    for (size_t i = 0; i < t->elements; i++)
        if (element(t->dtype, data + i * size) != expected(i))
            fail_msg("%s[%zu] is %g", t->name, i, element(t->dtype, data + i * size));
    free(data);
}

/* ---- Layouts of Keras ---- */

typedef struct wanted {
    const char *name;
    ck_dtype dtype;
    size_t rank;
    uint64_t shape[4];
} wanted;

static void check_tensors(const char *path, const wanted *list, size_t count) {
    ck_reader *r = open_whole(path);
    assert_string_equal(ck_reader_format(r), "HDF5");
    assert_int_equal(ck_reader_count(r), count);
    for (size_t i = 0; i < count; i++) {
        const ck_tensor *t = ck_reader_tensor(r, i);
        assert_string_equal(t->name, list[i].name);
        assert_ptr_equal(ck_reader_find(r, t->name), t);
        assert_int_equal(t->dtype, list[i].dtype);
        assert_int_equal(t->rank, list[i].rank);
        assert_memory_equal(t->shape, list[i].shape, t->rank * sizeof *t->shape);
        if (strcmp(t->name, "optimizer_weights.iteration:0") != 0) check_values(r, t);
    }
    ck_reader_close(r);
}

static void test_keras2_weights(void **state) {
    (void)state;
    static const wanted list[] = {
        {"zoom.zoom.kernel:0", CK_F32, 2, {3, 2}},       {"zoom.zoom.bias:0", CK_F32, 1, {2}},
        {"conv.conv.kernel:0", CK_F32, 4, {3, 3, 1, 2}}, {"conv.conv.bias:0", CK_F32, 1, {2}},
        {"conv.conv.alpha:0", CK_F32, 0, {0}},
    };
    check_tensors(FOLDER "keras2_weights.h5", list, sizeof list / sizeof *list);
}

/* layer_names in two parts, the weights in a group, something behind them. */
static void test_keras2_model(void **state) {
    (void)state;
    static const wanted list[] = {
        {"model_weights.zoom.zoom.kernel:0", CK_F32, 2, {3, 2}},
        {"model_weights.zoom.zoom.bias:0", CK_F32, 1, {2}},
        {"model_weights.conv.conv.kernel:0", CK_F32, 4, {3, 3, 1, 2}},
        {"model_weights.conv.conv.bias:0", CK_F32, 1, {2}},
        {"model_weights.conv.conv.alpha:0", CK_F32, 0, {0}},
        {"optimizer_weights.iteration:0", CK_I64, 0, {0}},
    };
    check_tensors(FOLDER "keras2_model.h5", list, sizeof list / sizeof *list);
    ck_reader *r = open_whole(FOLDER "keras2_model.h5");
    assert_string_equal(ck_reader_meta(r, "keras_version"), "2.11.0");
    assert_non_null(strstr(ck_reader_meta(r, "model_config"), "Functional"));
    ck_reader_close(r);
}

/* The archives hold keras3.weights.h5. */
static void test_keras_archives(void **state) {
    (void)state;
    static const char *const files[] = {FOLDER "stored.keras", FOLDER "deflated.keras"};
    ck_reader *want = open_whole(FOLDER "keras3.weights.h5");
    for (size_t i = 0; i < 2; i++) {
        ck_reader *r = open_whole(files[i]);
        assert_string_equal(ck_reader_format(r), "Keras");
        assert_int_equal(ck_reader_count(r), ck_reader_count(want));
        for (size_t t = 0; t < ck_reader_count(want); t++) {
            const ck_tensor *a = ck_reader_tensor(want, t), *b = ck_reader_tensor(r, t);
            char x[4096], y[4096];
            ck_error err;
            assert_string_equal(a->name, b->name);
            assert_int_equal(a->nbytes, b->nbytes);
            assert_true(a->nbytes <= sizeof x);
            assert_int_equal(ck_reader_read(want, a, 0, x, a->nbytes, &err), CK_OK);
            assert_int_equal(ck_reader_read(r, b, 0, y, a->nbytes, &err), CK_OK);
            assert_memory_equal(x, y, a->nbytes);
        }
        ck_reader_close(r);
    }
    ck_reader_close(want);
}

static void test_keras3_weights(void **state) {
    (void)state;
    static const wanted list[] = {
        {"layers.conv2d.vars.0", CK_F32, 4, {3, 3, 1, 2}},
        {"layers.conv2d.vars.1", CK_F32, 1, {2}},
        {"layers.dense_1.vars.0", CK_F32, 2, {2, 2}},
        {"vars.0", CK_BF16, 1, {4}},
    };
    check_tensors(FOLDER "keras3.weights.h5", list, sizeof list / sizeof *list);
}

/* ---- Types ---- */

static void check_types(const char *path) {
    static const struct {
        const char *name;
        ck_dtype dtype;
    } kinds[] = {{"f2", CK_F16}, {"f4", CK_F32}, {"f8", CK_F64}, {"i1", CK_I8},
                 {"i2", CK_I16}, {"i4", CK_I32}, {"i8", CK_I64}, {"u1", CK_U8},
                 {"u2", CK_U16}, {"u4", CK_U32}, {"u8", CK_U64}};
    ck_reader *r = open_whole(path);
    ck_error err;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (int big = 0; big < 2; big++) {
            char name[32];
            snprintf(name, sizeof name, "%s.%s", big ? "big" : "little", kinds[i].name);
            const ck_tensor *t = ck_reader_find(r, name);
            assert_non_null(t);
            assert_int_equal(t->dtype, kinds[i].dtype);
            assert_int_equal(t->elements, 10);
            check_values(r, t);
        }
    unsigned char flags[3];
    const ck_tensor *t = ck_reader_find(r, "bool");
    assert_int_equal(t->dtype, CK_BOOL);
    assert_int_equal(ck_reader_read(r, t, 0, flags, 3, &err), CK_OK);
    assert_memory_equal(flags, "\1\0\1", 3);
    t = ck_reader_find(r, "opaque");
    assert_int_equal(t->dtype, CK_BF16);
    check_values(r, t);
    t = ck_reader_find(r, "empty");
    assert_int_equal(t->nbytes, 0);
    assert_int_equal(t->shape[1], 3);
    float fill[5];
    t = ck_reader_find(r, "unwritten");
    assert_int_equal(ck_reader_read(r, t, 0, fill, sizeof fill, &err), CK_OK);
    for (int i = 0; i < 5; i++) assert_true(fill[i] == 1.5f);
    assert_int_equal(ck_reader_count(r), 26);
    assert_string_equal(ck_reader_meta(r, "hdf5.skipped.words"), "strings");
    assert_string_equal(ck_reader_meta(r, "hdf5.skipped.pairs"), "compounds");
    assert_string_equal(ck_reader_meta(r, "hdf5.skipped.nothing"), "nothing");
    ck_reader_close(r);
}

static void test_types(void **state) {
    (void)state;
    check_types(FOLDER "types.h5");
}

/* The newer structures of version 1.10, behind a user block, which moves every offset. */
static void test_types_v110(void **state) {
    (void)state;
    check_types(FOLDER "types_v110.h5");
}

/* ---- Chunks ---- */

/* Every range of every chunked tensor. */
static void test_chunked_ranges(void **state) {
    (void)state;
    static const char *const names[] = {"plain", "gzip", "shuffle", "big"};
    ck_reader *r = open_whole(FOLDER "chunked.h5");
    ck_error err;
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        const ck_tensor *t = ck_reader_find(r, names[k]);
        assert_int_equal(t->elements, 210);
        for (size_t begin = 0; begin < 210; begin += 13)
            for (size_t n = 1; begin + n <= 210; n += 17) {
                float values[210];
                if (ck_reader_read(r, t, begin * 4, values, n * 4, &err) != CK_OK)
                    fail_msg("%s", err.message);
                for (size_t i = 0; i < n; i++)
                    assert_true((double)values[i] == expected(begin + i));
            }
    }
    ck_reader_close(r);
}

/* A chunk that was never written has the fill value. */
static void test_missing_chunks(void **state) {
    (void)state;
    ck_reader *r = open_whole(FOLDER "chunked.h5");
    ck_error err;
    float values[210];
    const ck_tensor *t = ck_reader_find(r, "growing");
    assert_int_equal(ck_reader_read(r, t, 0, values, sizeof values, &err), CK_OK);
    for (size_t i = 0; i < 210; i++)
        assert_true((double)values[i] == (i / 30 == 2 ? expected(i) : 9));
    ck_reader_close(r);
}

typedef struct job {
    const ck_reader *r; /* NULL: the thread opens one of its own */
    const char *name;
    bool ok;
} job;

static void *read_often(void *argument) {
    job *j = argument;
    ck_reader *own = NULL;
    ck_error err;
    if (!j->r && ck_reader_open(FOLDER "chunked.h5", &own, &err) != CK_OK) return NULL;
    const ck_reader *r = j->r ? j->r : own;
    const ck_tensor *t = ck_reader_find(r, j->name);
    j->ok = true;
    for (int repeat = 0; repeat < 20; repeat++) {
        float values[210];
        if (ck_reader_read(r, t, 0, values, sizeof values, &err) != CK_OK) j->ok = false;
        for (size_t i = 0; i < 210; i++) j->ok &= (double)values[i] == expected(i);
    }
    ck_reader_close(own);
    return NULL;
}

/* A sanitizer's allocator may be locked by another thread at the moment of the fork that opens a
 * file, and is so for ever in the helper (glibc's is unlocked there): then all are opened before
 * there are threads. */
static void test_threads(void **state) {
    (void)state;
    ck_reader *r = open_whole(FOLDER "chunked.h5");
    ck_reader *other = is_watched() ? open_whole(FOLDER "chunked.h5") : NULL;
    job jobs[] = {
        {r, "plain", false}, {r, "gzip", false}, {r, "big", false}, {other, "gzip", false}};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_often, &jobs[i]), 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 4; i++) assert_true(jobs[i].ok);
    ck_reader_close(other);
    ck_reader_close(r);
}

/* ---- What is refused ---- */

static void test_refused(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"soft_link.h5", "link by name"},
        {"empty.keras", "no model.weights.h5 in the archive"},
        {"external_link.h5", "link to another file"},
        {"external_storage.h5", "data are in another file"},
        {"virtual.h5", "other files or datasets"},
        {"two_names.h5", "two names"},
        {"missing_weight.h5", "not in the file"},
        {"lzf.h5", "filter 32000"},
        {"bomb.h5", "bomb"},
        {"big_chunk.h5", "more than 64 MiB"},
        {"same_name.h5", "'a.b' is there twice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[128];
        ck_reader *r;
        ck_error err;
        snprintf(path, sizeof path, FOLDER "%s", cases[i][0]);
        assert_int_equal(ck_reader_open(path, &r, &err), CK_INPUT);
        if (!strstr(err.message, cases[i][1]))
            fail_msg("'%s' lacks '%s'", err.message, cases[i][1]);
        assert_non_null(strstr(err.message, cases[i][0]));
    }
}

static void test_not_hdf5(void **state) {
    (void)state;
    fixture f;
    fixture_make(&f);
    ck_reader *r;
    ck_error err;
    assert_int_equal(ck_reader_open(fixture_file(&f, "x.h5", "hello", 5), &r, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "cannot be opened as HDF5"));
    assert_int_equal(ck_reader_open(fixture_file(&f, "y.h5", "<html>", 6), &r, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "web page"));
    fixture_remove(&f);
}

/* ---- Damage ---- */

/* Opens and reads everything, whatever comes of it; a failure has to name the file. */
static void try_to_read(const char *path) {
    ck_reader *r = NULL;
    ck_error err = {0};
    unsigned char data[4096];
    ck_status status = ck_reader_open(path, &r, &err);
    for (size_t i = 0; status == CK_OK && i < ck_reader_count(r); i++) {
        const ck_tensor *t = ck_reader_tensor(r, i);
        size_t n = t->nbytes < sizeof data ? (size_t)t->nbytes : sizeof data / 8 * 8;
        status = ck_reader_read(r, t, 0, data, n, &err);
    }
    ck_reader_close(r);
    if (status != CK_OK && !strstr(err.message, path)) fail_msg("'%s' names no file", err.message);
}

static void test_damaged(void **state) {
    (void)state;
    fixture f;
    fixture_make(&f);
    uint64_t seed = 5;
    static const char *const files[] = {"keras2_weights.h5", "types_v110.h5", "chunked.h5"};
    for (size_t k = 0; k < sizeof files / sizeof *files; k++) {
        char path[128];
        size_t n;
        snprintf(path, sizeof path, FOLDER "%s", files[k]);
        unsigned char *whole = fixture_read(path, &n);
        for (int repeat = 0; repeat < 25; repeat++) {
            /* Mostly where the structure is: wherever bytes are not zero. */
            size_t at;
            do at = fixture_random(&seed) % n;
            while (whole[at] == 0);
            unsigned char was = whole[at];
            whole[at] = (unsigned char)fixture_random(&seed);
            try_to_read(fixture_file(&f, "damaged.h5", whole, n));
            whole[at] = was;
        }
        for (int part = 0; part < 6; part++) {
            const char *cut = fixture_file(&f, "cut.h5", whole, n * (size_t)part / 6);
            ck_reader *r = NULL;
            ck_error err;
            assert_int_equal(ck_reader_open(cut, &r, &err), CK_INPUT);
        }
        free(whole);
    }
    fixture_remove(&f);
}

/* Found by mutating the files above: in libhdf5 1.10.8 the first divides by zero, the second loops.
 * Other versions may find out what is wrong with them. */
static void test_hostile(void **state) {
    (void)state;
    ck_reader *r;
    ck_error err;
    assert_int_equal(ck_reader_open(FOLDER "hostile_crash.h5", &r, &err), CK_INPUT);
    assert_int_equal(ck_reader_open(FOLDER "hostile_endless.h5", &r, &err), CK_INPUT);
}

/* ---- Failures of the system ---- */

static ck_status open_and_read(ck_error *err) {
    ck_reader *r;
    CK_TRY(ck_reader_open(FOLDER "chunked.h5", &r, err));
    float values[210];
    ck_status status = ck_reader_read(r, ck_reader_find(r, "gzip"), 0, values, sizeof values, err);
    ck_reader_close(r);
    return status;
}

/* The helper counts for itself: a fault in it is not hit here, but its failure arrives. */
static void test_every_call_fails(void **state) {
    (void)state;
    static const fault_kind kinds[] = {FAULT_CALLOC, FAULT_REALLOC, FAULT_OPEN, FAULT_PREAD};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (fault_first(kinds[i], EIO); fault_more();) {
            ck_error err = {0};
            fault_arm();
            ck_status status = open_and_read(&err);
            fault_disarm();
            if (fault_hit()) assert_int_equal(status, i < 2 ? CK_MEMORY : CK_IO);
            if (status != CK_OK) assert_non_null(strstr(err.message, "chunked.h5"));
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keras_archives), cmocka_unit_test(test_keras2_weights),
        cmocka_unit_test(test_keras2_model),   cmocka_unit_test(test_keras3_weights),
        cmocka_unit_test(test_types),          cmocka_unit_test(test_types_v110),
        cmocka_unit_test(test_chunked_ranges), cmocka_unit_test(test_missing_chunks),
        cmocka_unit_test(test_threads),        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_not_hdf5),       cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_hostile),        cmocka_unit_test(test_every_call_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

static void test_says_what_is_missing(void **state) {
    (void)state;
    ck_reader *r;
    ck_error err;
    assert_int_equal(ck_reader_open(FOLDER "types.h5", &r, &err), CK_USAGE);
    assert_non_null(strstr(err.message, "built without HDF5"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_says_what_is_missing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
