/* The GGUF reader: a file of the reference writer with its own decoded values, files built here for
 * what is refused, and every allocation and system call failing in turn. */
#include "tests/check.h"

#include "io/reader.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static fixture folder;

/* ---- A file, built byte by byte ---- */

enum { U8 = 0, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };

static unsigned char file[8192];
static size_t size;

static void put(const void *bytes, size_t n) {
    assert_true(size + n <= sizeof file);
    memcpy(file + size, bytes, n);
    size += n;
}

static void put32(uint32_t value) {
    put(&value, 4);
}

static void put64(uint64_t value) {
    put(&value, 8);
}

static void put_string(const char *s) {
    put64(strlen(s));
    put(s, strlen(s));
}

static void start(uint64_t tensors, uint64_t entries) {
    size = 0;
    put("GGUF", 4);
    put32(3);
    put64(tensors);
    put64(entries);
}

static void put_key(const char *key, uint32_t kind) {
    put_string(key);
    put32(kind);
}

/* dims: innermost first, as in the file. */
static void put_tensor(const char *name, uint32_t rank, const uint64_t *dims, uint32_t type,
                       uint64_t offset) {
    put_string(name);
    put32(rank);
    put(dims, rank * 8);
    put32(type);
    put64(offset);
}

static void pad(size_t alignment) {
    while (size % alignment) put("", 1);
}

static void put_data(size_t n) {
    for (size_t i = 0; i < n; i++) put(&(unsigned char){(unsigned char)(i * 7)}, 1);
}

static ck_status open_file(ck_reader **r, ck_error *err) {
    return ck_reader_open(fixture_file(&folder, "built.gguf", file, size), r, err);
}

static void check_refused(const char *because) {
    ck_reader *r = NULL;
    ck_error err;
    assert_int_equal(open_file(&r, &err), CK_INPUT);
    if (!strstr(err.message, because)) fail_msg("'%s' lacks '%s'", err.message, because);
    if (!strstr(err.message, "built.gguf")) fail_msg("'%s' names no file", err.message);
}

/* The whole of a small tensor; released by the caller. */
static unsigned char *read_all(const ck_reader *r, const ck_tensor *t) {
    ck_error err;
    unsigned char *data = malloc(t->nbytes + 1);
    assert_non_null(data);
    if (ck_reader_read(r, t, 0, data, t->nbytes, &err) != CK_OK) fail_msg("%s", err.message);
    return data;
}

/* ---- What the reference writes ---- */

static ck_reader *open_reference(void) {
    ck_reader *r = NULL;
    ck_error err;
    if (ck_reader_open("tests/data/gguf/reference.gguf", &r, &err) != CK_OK)
        fail_msg("%s", err.message);
    return r;
}

static void test_reference_values(void **state) {
    (void)state;
    ck_reader *r = open_reference();
    assert_string_equal(ck_reader_format(r), "GGUF");
    assert_int_equal(ck_reader_count(r), 23);
    static const char *const quantised[] = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0",
                                            "Q4_K", "Q5_K", "Q6_K", "conv"};
    for (size_t i = 0; i < sizeof quantised / sizeof *quantised; i++) {
        char name[32];
        snprintf(name, sizeof name, "%s.expected", quantised[i]);
        const ck_tensor *t = ck_reader_find(r, quantised[i]), *e = ck_reader_find(r, name);
        assert_non_null(t);
        assert_non_null(e);
        assert_int_equal(t->dtype, CK_F32);
        assert_int_equal(t->nbytes, e->nbytes);
        unsigned char *values = read_all(r, t), *expected = read_all(r, e);
        if (memcmp(values, expected, t->nbytes) != 0) fail_msg("%s differs", t->name);
        free(values);
        free(expected);
    }
    ck_reader_close(r);
}

static void test_reference_plain_types(void **state) {
    (void)state;
    ck_reader *r = open_reference();
    const ck_tensor *t = ck_reader_find(r, "BF16"), *e = ck_reader_find(r, "BF16.expected");
    assert_int_equal(t->dtype, CK_BF16);
    assert_int_equal(t->rank, 3);
    assert_int_equal(t->shape[0], 2);
    assert_int_equal(t->shape[1], 3);
    assert_int_equal(t->shape[2], 5);
    unsigned char *values = read_all(r, t), *expected = read_all(r, e);
    for (size_t i = 0; i < t->elements; i++)
        assert_memory_equal(values + 2 * i, expected + 4 * i + 2, 2);
    free(values);
    free(expected);
    assert_int_equal(ck_reader_find(r, "F16")->dtype, CK_F16);
    t = ck_reader_find(r, "I32");
    assert_int_equal(t->dtype, CK_I32);
    values = read_all(r, t);
    int32_t integers[7];
    memcpy(integers, values, sizeof integers);
    for (int i = 0; i < 7; i++) assert_int_equal(integers[i], i - 3);
    free(values);
    ck_reader_close(r);
}

static void test_reference_metadata(void **state) {
    (void)state;
    ck_reader *r = open_reference();
    static const char *const expected[][2] = {
        {"general.architecture", "flux"},
        {"test.f64", "0.10000000000000001"},
        {"test.i8", "-5"},
        {"test.bool", "true"},
        {"general.file_type", "7"},
    };
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        const char *value = ck_reader_meta(r, expected[i][0]);
        assert_non_null(value);
        assert_string_equal(value, expected[i][1]);
    }
    assert_null(ck_reader_meta(r, "tokenizer.ggml.tokens"));
    ck_reader_close(r);
}

static void test_original_shape(void **state) {
    (void)state;
    ck_reader *r = open_reference();
    const ck_tensor *t = ck_reader_find(r, "conv");
    static const uint64_t shape[] = {16, 2, 4, 2};
    assert_int_equal(t->rank, 4);
    assert_memory_equal(t->shape, shape, sizeof shape);
    ck_reader_close(r);
}

/* Ranges that start and end anywhere give what the whole tensor has there. */
static void test_ranges(void **state) {
    (void)state;
    ck_reader *r = open_reference();
    const ck_tensor *t = ck_reader_find(r, "Q4_K");
    unsigned char *whole = read_all(r, t), *part = malloc(t->nbytes);
    ck_error err;
    for (uint64_t begin = 0; begin < t->nbytes; begin += 4 * 37)
        for (uint64_t n = 4; begin + n <= t->nbytes; n += 4 * 53) {
            assert_int_equal(ck_reader_read(r, t, begin, part, n, &err), CK_OK);
            assert_memory_equal(part, whole + begin, n);
        }
    free(whole);
    free(part);
    ck_reader_close(r);
}

/* ---- Versions and sizes ---- */

static const uint64_t two[] = {2, 2};

static void test_versions(void **state) {
    (void)state;
    ck_reader *r;
    ck_error err;
    start(1, 0);
    put_tensor("a", 2, two, 0, 0);
    pad(32);
    put_data(16);
    file[4] = 2;
    assert_int_equal(open_file(&r, &err), CK_OK);
    ck_reader_close(r);
    file[4] = 1;
    check_refused("version 1");
    file[4] = 4;
    check_refused("version 4");
    memcpy(file + 4, "\0\0\0\3", 4);
    check_refused("big-endian");
}

static void test_nothing_inside(void **state) {
    (void)state;
    ck_reader *r;
    ck_error err;
    start(0, 0);
    assert_int_equal(open_file(&r, &err), CK_OK);
    assert_int_equal(ck_reader_count(r), 0);
    ck_reader_close(r);
}

/* 32 tensors: the number makes the file look like safetensors to one who looks at byte 8 only. */
static void test_32_tensors_are_gguf(void **state) {
    (void)state;
    ck_reader *r;
    ck_error err;
    start(32, 0);
    for (unsigned i = 0; i < 32; i++) {
        char name[] = {(char)('A' + i), 0};
        put_tensor(name, 0, two, 0, 32 * i);
    }
    pad(32);
    put_data(32 * 32);
    assert_int_equal(open_file(&r, &err), CK_OK);
    assert_int_equal(ck_reader_count(r), 32);
    ck_reader_close(r);
}

static void test_scalars_and_empty_tensors(void **state) {
    (void)state;
    ck_reader *r;
    ck_error err;
    start(2, 0);
    put_tensor("scalar", 0, two, 28, 0);
    put_tensor("empty", 2, (uint64_t[]){0, 5}, 1, 32);
    pad(32);
    put_data(8);
    if (open_file(&r, &err) != CK_OK) fail_msg("%s", err.message);
    assert_int_equal(ck_reader_find(r, "scalar")->nbytes, 8);
    assert_int_equal(ck_reader_find(r, "scalar")->rank, 0);
    const ck_tensor *t = ck_reader_find(r, "empty");
    assert_int_equal(t->nbytes, 0);
    assert_int_equal(t->shape[0], 5);
    assert_int_equal(t->shape[1], 0);
    ck_reader_close(r);
}

/* Every prefix of a good file is refused: whatever is cut off is missed. */
static void test_cut_off_anywhere(void **state) {
    (void)state;
    start(1, 2);
    put_key("key", STRING);
    put_string("value");
    put_key("list", ARRAY);
    put32(STRING);
    put64(2);
    put_string("x");
    put_string("yz");
    put_tensor("a", 2, two, 0, 0);
    pad(32);
    put_data(16);
    while (--size >= 4) check_refused("");
}

/* ---- Metadata ---- */

static void test_alignment(void **state) {
    (void)state;
    ck_reader *r;
    ck_error err;
    for (uint32_t alignment = 0; alignment <= 256; alignment += 64) {
        start(2, 1);
        put_key("general.alignment", U32);
        put32(alignment);
        put_tensor("a", 2, two, 0, 0);
        put_tensor("b", 2, two, 0, alignment);
        if (alignment) pad(alignment);
        put_data(alignment + 16);
        if (alignment == 0 || alignment == 192) {
            check_refused("power of two");
            continue;
        }
        if (open_file(&r, &err) != CK_OK) fail_msg("%s", err.message);
        assert_int_equal(ck_reader_find(r, "b")->offset % alignment, 0);
        ck_reader_close(r);
    }
    start(1, 0);
    put_tensor("a", 2, two, 0, 16);
    pad(32);
    put_data(64);
    check_refused("not a multiple of 32");
}

static void test_bad_metadata(void **state) {
    (void)state;
    start(0, 1);
    put_key("k", 13);
    put64(0);
    check_refused("unknown kind");

    start(0, 1);
    put_key("k", BOOL);
    put("\2", 1);
    put64(0);
    check_refused("bool");

    start(0, 2);
    put_key("k", U8);
    put("\2", 1);
    put_key("k", U8);
    put("\2", 1);
    check_refused("'k' is there twice");

    start(0, 1);
    put_key("k", STRING);
    put64(UINT64_MAX);
    put64(0);
    check_refused("longer than the file");

    start(0, 1);
    put_key("k\xff", U32);
    put64(0);
    check_refused("not UTF-8");

    start(0, 1);
    put_key("k", STRING);
    put64(3);
    put("a\0b", 3);
    check_refused("NUL");

    start(0, 1);
    put_key("split.count", U16);
    put("\2", 2);
    check_refused("split model");

    start(0, (uint64_t)1 << 60);
    put_data(100);
    check_refused("more metadata");
}

static void test_arrays(void **state) {
    (void)state;
    ck_reader *r;
    ck_error err;
    static const struct {
        uint32_t element;
        uint64_t n;
        const char *because;
    } bad[] = {{13, 1, "unknown kind"},
               {U8, UINT64_MAX, "more elements"},
               {U64, 9, "beyond the file"},
               {U64, (uint64_t)1 << 61, "more elements"},
               {STRING, 40, "too early"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        start(0, 1);
        put_key("k", ARRAY);
        put32(bad[i].element);
        put64(bad[i].n);
        for (int k = 0; k < 8; k++) put64(0);
        check_refused(bad[i].because);
    }
    for (int depth = 1; depth <= 5; depth++) {
        start(0, 1);
        put_key("k", ARRAY);
        for (int i = 1; i < depth; i++) {
            put32(ARRAY);
            put64(1);
        }
        put32(U16);
        put64(1);
        put("ab", 2);
        if (depth == 5) {
            check_refused("nested");
            continue;
        }
        assert_int_equal(open_file(&r, &err), CK_OK);
        ck_reader_close(r);
    }
}

static void put_original_shape(const char *tensor, uint32_t element, uint64_t n,
                               const uint32_t *shape) {
    char key[64];
    snprintf(key, sizeof key, "comfy.gguf.orig_shape.%s", tensor);
    put_key(key, ARRAY);
    put32(element);
    put64(n);
    put(shape, n * 4);
}

static void test_bad_original_shapes(void **state) {
    (void)state;
    static const struct {
        const char *tensor;
        uint32_t element;
        uint64_t n;
        uint32_t shape[9];
        const char *because; /* NULL: accepted */
    } cases[] = {
        {"a", I32, 3, {2, 1, 2}, NULL},
        {"absent", I32, 1, {7}, NULL},
        {"a", I32, 1, {5}, "4 elements"},
        {"a", I32, 0, {0}, "4 elements"},
        {"a", I32, 2, {0x80000004u, 2}, "negative"},
        {"a", I32, 8, {1 << 30, 1 << 30, 1 << 30, 1 << 30, 1, 1, 1, 1}, "4 elements"},
        {"a", I32, 9, {2, 2, 1, 1, 1, 1, 1, 1, 1}, "at most 8"},
        {"a", U32, 2, {2, 2}, "at most 8 i32"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_reader *r;
        ck_error err;
        start(1, 1);
        put_original_shape(cases[i].tensor, cases[i].element, cases[i].n, cases[i].shape);
        put_tensor("a", 2, two, 0, 0);
        pad(32);
        put_data(16);
        if (cases[i].because) {
            check_refused(cases[i].because);
            continue;
        }
        if (open_file(&r, &err) != CK_OK) fail_msg("%s", err.message);
        assert_int_equal(ck_reader_find(r, "a")->rank, i == 0 ? 3 : 2);
        ck_reader_close(r);
    }
}

/* ---- Tensors ---- */

static void test_bad_tensors(void **state) {
    (void)state;
    static const struct {
        uint32_t rank;
        uint64_t dims[5];
        uint32_t type;
        uint64_t offset;
        const char *because;
    } cases[] = {
        {5, {1, 1, 1, 1, 1}, 0, 0, "more than the 4"},
        {UINT32_MAX, {1}, 0, 0, "more than the 4"},
        {2, {(uint64_t)1 << 33, (uint64_t)1 << 33}, 0, 0, "too large"},
        {2, {2, (uint64_t)1 << 62}, 0, 0, "too large"},
        {1, {1 << 20}, 0, 0, "cut off"},
        {1, {1}, 0, UINT64_MAX - 31, "cut off"},
        {1, {1}, 0, (uint64_t)1 << 40, "cut off"},
        {1, {33}, 8, 0, "whole blocks of Q8_0"},
        {0, {0}, 8, 0, "whole blocks of Q8_0"},
        {2, {128, 2}, 12, 0, "whole blocks of Q4_K"},
        {1, {256}, 10, 0, "Q2_K is not supported"},
        {1, {256}, 23, 0, "IQ4_XS is not supported"},
        {1, {256}, 39, 0, "MXFP4 is not supported"},
        {1, {256}, 31, 0, "number 31 is not supported"},
        {1, {256}, UINT32_MAX, 0, "is not supported"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        start(1, 0);
        put_string("tensor");
        put32(cases[i].rank);
        put(cases[i].dims, (cases[i].rank < 5 ? cases[i].rank : 5) * 8);
        put32(cases[i].type);
        put64(cases[i].offset);
        pad(32);
        put_data(1024);
        check_refused(cases[i].because);
    }
    start((uint64_t)1 << 60, 0);
    put_data(100);
    check_refused("more tensors");
}

static void test_names_and_places(void **state) {
    (void)state;
    start(2, 0);
    put_tensor("a", 2, two, 0, 0);
    put_tensor("a", 2, two, 0, 32);
    pad(32);
    put_data(64);
    check_refused("'a' is there twice");

    /* A block of Q8_0 has 34 bytes: more than a tensor at 32 leaves. */
    start(2, 0);
    put_tensor("a", 1, (uint64_t[]){32}, 8, 0);
    put_tensor("b", 2, two, 0, 32);
    pad(32);
    put_data(64);
    check_refused("'b' at offset 160 overlaps");

    start(2, 0);
    put_tensor("a", 2, two, 0, 0);
    put_tensor("b", 2, two, 0, 0);
    pad(32);
    put_data(64);
    check_refused("overlaps");
}

/* ---- Failures of the system ---- */

static ck_status open_and_read(ck_error *err) {
    ck_reader *r;
    CK_TRY(ck_reader_open("tests/data/gguf/reference.gguf", &r, err));
    float values[256];
    ck_status status = ck_reader_read(r, ck_reader_find(r, "conv"), 0, values, sizeof values, err);
    ck_reader_close(r);
    return status;
}

/* Leaks are for the sanitizer to find. */
static void test_every_call_fails(void **state) {
    (void)state;
    static const fault_kind kinds[] = {FAULT_CALLOC, FAULT_REALLOC, FAULT_OPEN, FAULT_PREAD};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (fault_first(kinds[i], EIO); fault_more();) {
            ck_error err = {0};
            fault_arm();
            ck_status status = open_and_read(&err);
            fault_disarm();
            assert_int_equal(status, !fault_hit() ? CK_OK : i < 2 ? CK_MEMORY : CK_IO);
            if (fault_hit()) assert_non_null(strstr(err.message, "reference.gguf"));
        }
}

static void test_short_reads(void **state) {
    (void)state;
    ck_error err;
    fault_short_io(7);
    fault_arm();
    ck_status status = open_and_read(&err);
    fault_disarm();
    fault_short_io(0);
    assert_int_equal(status, CK_OK);
}

static int make_folder(void **state) {
    (void)state;
    fixture_make(&folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    fixture_remove(&folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_values),
        cmocka_unit_test(test_reference_plain_types),
        cmocka_unit_test(test_reference_metadata),
        cmocka_unit_test(test_original_shape),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_nothing_inside),
        cmocka_unit_test(test_32_tensors_are_gguf),
        cmocka_unit_test(test_scalars_and_empty_tensors),
        cmocka_unit_test(test_cut_off_anywhere),
        cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_bad_metadata),
        cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_bad_original_shapes),
        cmocka_unit_test(test_bad_tensors),
        cmocka_unit_test(test_names_and_places),
        cmocka_unit_test(test_every_call_fails),
        cmocka_unit_test(test_short_reads),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
