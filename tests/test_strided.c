/* Strided reading against the plainest loop, for many shapes, strides and parts. */
#include "tests/check.h"

#include "io/os.h"
#include "io/strided.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BYTES = 1 << 16, OFFSET = 100 };

static fixture folder;
static int fd;
static unsigned char file[BYTES + OFFSET];

static int setup(void **state) {
    (void)state;
    fixture_make(&folder);
    uint64_t seed = 1;
    for (size_t i = 0; i < sizeof file; i++) file[i] = (unsigned char)fixture_random(&seed);
    fd = open(fixture_file(&folder, "array", file, sizeof file), O_RDONLY);
    return fd < 0;
}

static int teardown(void **state) {
    (void)state;
    close(fd);
    fixture_remove(&folder);
    return 0;
}

static uint64_t count(const ck_strided *v) {
    uint64_t n = 1;
    for (size_t i = 0; i < v->rank; i++) n *= v->shape[i];
    return n;
}

/* Reads elements [first, first + n) and compares each with where it must come from. */
static void check(const ck_strided *v, uint64_t first, uint64_t n) {
    ck_error err;
    unsigned char *got = malloc((size_t)n * v->size + 1);
    got[n * v->size] = 0x99;
    if (ck_strided_read(v, first, n, got, &err) != CK_OK) fail_msg("%s", err.message);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t rest = first + i, at = 0;
        for (size_t k = v->rank; k > 0; k--) {
            at += rest % v->shape[k - 1] * v->strides[k - 1];
            rest /= v->shape[k - 1];
        }
        assert_memory_equal(got + i * v->size, file + OFFSET + at * v->size, v->size);
    }
    assert_int_equal(got[n * v->size], 0x99);
    free(got);
}

static void check_parts(const ck_strided *v) {
    uint64_t n = count(v), seed = n;
    check(v, 0, n);
    check(v, 0, 0);
    for (int i = 0; i < 30; i++) {
        uint64_t first = fixture_random(&seed) % n;
        check(v, first, 1 + fixture_random(&seed) % (n - first));
    }
}

#define VIEW(element, shape, strides)                                                              \
    (&(ck_strided){fd, "array", OFFSET, element, sizeof(shape) / 8, shape, strides})
#define U(...) ((const uint64_t[]){__VA_ARGS__})

static void test_shapes(void **state) {
    (void)state;
    check_parts(&(ck_strided){fd, "array", OFFSET, 4, 0, NULL, NULL});
    check_parts(VIEW(4, U(7), U(1)));
    check_parts(VIEW(2, U(50), U(3)));
    check_parts(VIEW(2, U(5), U(6000)));
    check_parts(VIEW(1, U(9), U(0)));
    check_parts(VIEW(4, U(30, 40), U(1, 30)));
    check_parts(VIEW(2, U(200, 100), U(1, 200)));
    check_parts(VIEW(8, U(10, 20), U(0, 1)));
    check_parts(VIEW(8, U(10, 20), U(1, 0)));
    check_parts(VIEW(8, U(3, 4), U(0, 0)));
    check_parts(VIEW(2, U(4, 1, 3, 1), U(3, 77, 1, 99)));
    check_parts(VIEW(2, U(6, 5, 3, 3), U(45, 1, 15, 5)));
    check_parts(VIEW(4, U(3, 5000), U(5100, 1)));
    check_parts(VIEW(16, U(5, 7), U(1, 5)));
    check_parts(VIEW(1, U(2, 3, 2, 3, 2, 3), U(1, 2, 6, 12, 36, 72)));
}

static void test_random_views(void **state) {
    (void)state;
    uint64_t seed = 7;
    for (int i = 0; i < 300; i++) {
        uint64_t shape[5], strides[5], last = 0;
        size_t rank = 1 + fixture_random(&seed) % 5;
        size_t size = (size_t)1 << fixture_random(&seed) % 4;
        for (size_t k = 0; k < rank; k++) {
            shape[k] = 1 + fixture_random(&seed) % 8;
            strides[k] = fixture_random(&seed) % 150;
            last += (shape[k] - 1) * strides[k];
        }
        assert_true((last + 1) * size <= BYTES);
        check_parts(&(ck_strided){fd, "array", OFFSET, size, rank, shape, strides});
    }
}

static void test_faults(void **state) {
    (void)state;
    const ck_strided *v = VIEW(4, U(30, 40), U(1, 30));
    unsigned char got[30 * 40 * 4];
    ck_error err;
    fault_short_io(7);
    fault_arm();
    check(v, 11, 500);
    fault_disarm();
    fault_short_io(0);
    for (fault_first(FAULT_PREAD, EIO); fault_more();) {
        fault_arm();
        ck_status status = ck_strided_read(v, 0, 1200, got, &err);
        fault_disarm();
        assert_int_equal(status, fault_hit() ? CK_IO : CK_OK);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_random_views),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
