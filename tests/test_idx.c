/* IDX files: what is read, what is refused. */
#include "distill/data/idx.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* Two images of 2 x 3. */
static const uint8_t good[] = {0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0,   2,  0,  0,
                               0, 3, 1, 2, 3, 4, 5, 6, 7, 8, 255, 10, 11, 12};

/* gzip of n bytes; the caller frees. */
static uint8_t *compress_gzip(const void *data, size_t n, size_t *size) {
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
    *size = deflateBound(&z, n);
    uint8_t *out = malloc(*size);
    assert_non_null(out);
    z.next_in = (z_const Bytef *)data;
    z.avail_in = (uInt)n;
    z.next_out = out;
    z.avail_out = (uInt)*size;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    *size = z.total_out;
    deflateEnd(&z);
    return out;
}

static void check_good(const ck_idx *idx) {
    assert_int_equal(idx->rank, 3);
    assert_int_equal(idx->shape[0], 2);
    assert_int_equal(idx->shape[1], 2);
    assert_int_equal(idx->shape[2], 3);
    assert_int_equal(idx->count, 12);
    assert_memory_equal(idx->data, good + 16, 12);
}

static void test_read(void **state) {
    (void)state;
    fixture f;
    fixture_make(&f);
    size_t n;
    uint8_t *packed = compress_gzip(good, sizeof good, &n);
    for (int gzip = 0; gzip < 2; gzip++) {
        const char *path = gzip ? fixture_file(&f, "images.gz", packed, n)
                                : fixture_file(&f, "images", good, sizeof good);
        ck_idx idx;
        ck_error err = {0};
        if (ck_idx_read(path, &idx, &err) != CK_OK) fail_msg("%s", err.message);
        check_good(&idx);
        ck_idx_free(&idx);
    }
    free(packed);
    fixture_remove(&f);
}

static void test_empty_array(void **state) {
    (void)state;
    static const uint8_t none[] = {0, 0, 8, 1, 0, 0, 0, 0};
    ck_idx idx;
    ck_error err = {0};
    assert_int_equal(ck_idx_parse("x", none, sizeof none, &idx, &err), CK_OK);
    assert_int_equal(idx.count, 0);
    ck_idx_free(&idx);
}

static void refuse(const void *data, size_t n, const char *message) {
    ck_idx idx;
    ck_error err = {0};
    ck_status status = ck_idx_parse("x", data, n, &idx, &err);
    if (status != CK_INPUT || !strstr(err.message, message))
        fail_msg("'%s' lacks '%s'", err.message, message);
    assert_memory_equal(err.message, "x: ", 3);
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        uint8_t bytes[20];
        size_t n;
        const char *message;
    } bad[] = {
        {{0}, 0, "ends within its header, 4 bytes too early"},
        {{0, 0, 8}, 3, "ends within its header, 1 bytes"},
        {{1, 0, 8, 1}, 4, "not an IDX file"},
        {{0, 0, 13, 1}, 4, "type 0x0d"},
        {{0, 0, 8, 0}, 4, "rank 0"},
        {{0, 0, 8, 5}, 4, "rank 5"},
        {{0, 0, 8, 2, 0, 0, 0, 1, 0, 0}, 10, "ends within its header, 2 bytes"},
        {{0, 0, 8, 1, 0, 0, 0, 2, 7}, 9, "2 elements cannot be in a file of 9 bytes"},
        {{0, 0, 8, 1, 0, 0, 0, 1, 7, 7}, 10, "more follows after its 1 elements"},
        {{0, 0, 8, 1, 0x80, 0, 0, 1}, 8, "more than 2147483648 elements"},
        {{0,   0,   8,   4,   255, 255, 255, 255, 255, 255,
          255, 255, 255, 255, 255, 255, 255, 255, 255, 255},
         20,
         "more than 2147483648 elements"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refuse(bad[i].bytes, bad[i].n, bad[i].message);
}

static void test_gzip_refused(void **state) {
    (void)state;
    size_t n, more;
    uint8_t *packed = compress_gzip(good, sizeof good, &n);
    for (size_t cut = 2; cut < n; cut++) refuse(packed, cut, "ends within");
    packed[n - 8] ^= 1; /* the checksum */
    refuse(packed, n, "damaged");
    packed[n - 8] ^= 1;
    uint8_t *twice = malloc(2 * n);
    assert_non_null(twice);
    memcpy(twice, packed, n);
    memcpy(twice + n, packed, n);
    refuse(twice, 2 * n, "more follows after its 12 elements");
    free(twice);
    free(packed);
    /* Two gigabytes claimed by a hundred bytes: refused before memory is taken. */
    uint8_t bomb[1000] = {0, 0, 8, 1, 0x7f, 0xff, 0xff, 0xff};
    packed = compress_gzip(bomb, sizeof bomb, &more);
    refuse(packed, more, "2147483647 elements cannot be in a file of");
    free(packed);
    packed = compress_gzip(good, 20, &n);
    refuse(packed, n, "ends within its elements, 8 bytes too early");
    free(packed);
}

static void test_faults(void **state) {
    (void)state;
    static const fault_kind kinds[] = {FAULT_CALLOC, FAULT_OPEN, FAULT_PREAD};
    fixture f;
    fixture_make(&f);
    size_t n;
    uint8_t *packed = compress_gzip(good, sizeof good, &n);
    char path[256];
    snprintf(path, sizeof path, "%s", fixture_file(&f, "images.gz", packed, n));
    for (int k = 0; k < 3; k++) {
        size_t faults = 0;
        for (fault_first(kinds[k], k ? EIO : ENOMEM); fault_more();) {
            ck_idx idx = {0};
            ck_error err = {0};
            fault_arm();
            ck_status status = ck_idx_read(path, &idx, &err);
            fault_disarm();
            faults += fault_hit();
            assert_int_equal(status, !fault_hit() ? CK_OK : k ? CK_IO : CK_MEMORY);
            ck_idx_free(&idx);
        }
        assert_true(faults > 0);
    }
    free(packed);
    fixture_remove(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),    cmocka_unit_test(test_empty_array),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_gzip_refused),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
