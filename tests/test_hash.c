/* Hashes against values from sha256sum. */
#include "io/hash.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static fixture folder;

static int setup(void **state) {
    (void)state;
    fixture_make(&folder);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_remove(&folder);
    return 0;
}

static const char *const of_nothing =
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
static const char *const of_abc =
    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

static void test_small_files(void **state) {
    (void)state;
    ck_file_hashes h;
    ck_error err;
    char legacy[9];
    const char *path = fixture_file(&folder, "empty", "", 0);
    assert_int_equal(ck_hash_file(path, &h, NULL, NULL, &err), CK_OK);
    assert_string_equal(h.sha256, of_nothing);
    assert_string_equal(h.autov2, "e3b0c44298");
    assert_string_equal(h.legacy, "e3b0c442");
    assert_string_equal(h.autov3, "");
    path = fixture_file(&folder, "abc", "abc", 3);
    assert_int_equal(ck_hash_file(path, &h, NULL, NULL, &err), CK_OK);
    assert_string_equal(h.sha256, of_abc);
    assert_int_equal(ck_hash_legacy(path, legacy, &err), CK_OK);
    assert_string_equal(legacy, "e3b0c442");
}

/* AutoV3 is that of the data alone. */
static void test_data_section(void **state) {
    (void)state;
    ck_file_hashes h;
    ck_error err;
    const char *path = fixture_raw_safetensors(
        &folder, "d", "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}", "abc", 3);
    assert_int_equal(ck_hash_file(path, &h, NULL, NULL, &err), CK_OK);
    assert_string_equal(h.autov3, of_abc);
}

/* The data begins in the third block of reading. */
static void test_long_header(void **state) {
    (void)state;
    enum { HEADER = 0x200005 };
    static char header[HEADER + 1];
    memset(header, ' ', HEADER);
    header[0] = '{';
    header[HEADER - 1] = '}';
    ck_file_hashes h;
    ck_error err;
    const char *path = fixture_raw_safetensors(&folder, "long", header, "abc", 3);
    assert_int_equal(ck_hash_file(path, &h, NULL, NULL, &err), CK_OK);
    assert_string_equal(h.autov3, of_abc);
}

/* No header of the length that the first 8 bytes say. */
static void test_not_safetensors(void **state) {
    (void)state;
    const struct {
        const char *bytes;
        size_t n;
    } files[] = {{"\2\0\0\0\0\0\0\0", 8}, /* ends before the header */
                 {"\3\0\0\0\0\0\0\0{}", 10},
                 {"\2\0\0\0\0\0\0\0[]", 10},
                 {"\377\377\377\377\377\377\377\377{}", 10}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        ck_file_hashes h;
        ck_error err;
        const char *path = fixture_file(&folder, "not", files[i].bytes, files[i].n);
        assert_int_equal(ck_hash_file(path, &h, NULL, NULL, &err), CK_OK);
        assert_string_equal(h.autov3, "");
        assert_int_equal(strlen(h.sha256), 64);
    }
}

/* The legacy hash covers [1 MiB, 1 MiB + 64 KiB), or what there is of it. */
static void test_legacy_range(void **state) {
    (void)state;
    enum { BEGIN = 0x100000, END = 0x110000, SIZE = 0x2F0001 };
    unsigned char *data = calloc(1, SIZE);
    memset(data, 1, BEGIN);
    memset(data + END, 2, SIZE - END);
    ck_file_hashes h;
    ck_error err;
    char legacy[9];
    /* 64 KiB of zeros. */
    const char *path = fixture_file(&folder, "l", data, SIZE);
    assert_int_equal(ck_hash_file(path, &h, NULL, NULL, &err), CK_OK);
    assert_int_equal(ck_hash_legacy(path, legacy, &err), CK_OK);
    assert_string_equal(h.legacy, "de2f2560");
    assert_string_equal(legacy, h.legacy);
    /* "abc" behind 1 MiB, and the file ends. */
    memcpy(data + BEGIN, "abc", 3);
    path = fixture_file(&folder, "s", data, BEGIN + 3);
    assert_int_equal(ck_hash_file(path, &h, NULL, NULL, &err), CK_OK);
    assert_int_equal(ck_hash_legacy(path, legacy, &err), CK_OK);
    assert_string_equal(h.legacy, "ba7816bf");
    assert_string_equal(legacy, h.legacy);
    free(data);
}

static bool stop(void *context, uint64_t bytes) {
    *(uint64_t *)context += bytes;
    return false;
}

static void test_stopping(void **state) {
    (void)state;
    ck_file_hashes h;
    ck_error err;
    uint64_t seen = 0;
    const char *path = fixture_file(&folder, "abc", "abc", 3);
    assert_int_equal(ck_hash_file(path, &h, stop, &seen, &err), CK_CANCELLED);
    assert_int_equal(seen, 3);
}

static void test_faults(void **state) {
    (void)state;
    const char *path = fixture_file(&folder, "abc", "abc", 3);
    const fault_kind kinds[] = {FAULT_CALLOC, FAULT_OPEN, FAULT_PREAD};
    for (int k = 0; k < 3; k++)
        for (fault_first(kinds[k], EIO); fault_more();) {
            ck_file_hashes h;
            ck_error err = {0};
            fault_arm();
            ck_status status = ck_hash_file(path, &h, NULL, NULL, &err);
            fault_disarm();
            assert_int_equal(status != CK_OK, fault_hit());
            if (status != CK_OK) assert_non_null(strstr(err.message, path));
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_files),  cmocka_unit_test(test_data_section),
        cmocka_unit_test(test_long_header),  cmocka_unit_test(test_not_safetensors),
        cmocka_unit_test(test_legacy_range), cmocka_unit_test(test_stopping),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
