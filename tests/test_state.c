/* The state of a run: bits that come back, or a word that says why not. */
#include "distill/run/state.h"
#include "io/os.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static int setup(void **state) {
    static fixture f;
    fixture_make(&f);
    *state = &f;
    return 0;
}

static int teardown(void **state) {
    fixture_remove(*state);
    return 0;
}

#define MUST(call)                                                                                 \
    do {                                                                                           \
        ck_error must_err = {0}, *err = &must_err;                                                 \
        if ((call) != CK_OK) fail_msg("%s", err->message);                                         \
    } while (0)

#ifdef CK_HAVE_HDF5

enum { BIG = 300000, SMALL = 5 };

/* A state with places for its values. */
typedef struct places {
    float *big, small[SMALL];
    uint64_t step, seed;
    double mean;
    ck_state_array arrays[4];
    ck_state_count counts[2];
    ck_state_number numbers[1];
    ck_state state;
} places;

static places *make(uint64_t seed) {
    places *p = ck_alloc(sizeof *p);
    assert_non_null(p);
    p->big = ck_alloc_array(BIG, sizeof *p->big);
    assert_non_null(p->big);
    for (size_t i = 0; seed && i < BIG; i++) p->big[i] = fixture_random_float(&seed);
    if (seed) {
        static const uint32_t bits[SMALL] = {0x80000000, 1, 0x7f800000, 0x7fc01234, 0xff7fffff};
        memcpy(p->small, bits, sizeof bits);
        p->step = UINT64_MAX - 1;
        p->seed = seed;
        p->mean = 0.1;
    }
    p->arrays[0] = (ck_state_array){"adam.m.conv.weight", p->big, BIG};
    p->arrays[1] = (ck_state_array){"adam.m.conv.bias", p->small, SMALL};
    p->arrays[2] = (ck_state_array){"last one", p->small, 1};
    p->arrays[3] = (ck_state_array){"none", NULL, 0};
    p->counts[0] = (ck_state_count){"step", &p->step};
    p->counts[1] = (ck_state_count){"random seed", &p->seed};
    p->numbers[0] = (ck_state_number){"guard.mean", &p->mean};
    p->state = (ck_state){p->arrays, 4, p->counts, 2, p->numbers, 1};
    return p;
}

static void drop(places *p) {
    free(p->big);
    free(p);
}

static bool same(const places *a, const places *b) {
    return memcmp(a->big, b->big, BIG * sizeof *a->big) == 0 &&
           memcmp(a->small, b->small, sizeof a->small) == 0 && a->step == b->step &&
           a->seed == b->seed && a->mean == b->mean;
}

static void test_round_trip(void **state) {
    const char *path = fixture_path(*state, "state.h5");
    places *in = make(7), *out = make(0);
    MUST(ck_state_write(path, &in->state, err));
    MUST(ck_state_read(path, &out->state, err));
    assert_true(same(in, out));
    /* Over an old file, and the same state gives the same bytes. */
    const char *other = fixture_path(*state, "other.h5");
    places *third = make(8);
    MUST(ck_state_write(other, &third->state, err));
    sleep(1); /* so that a time in the file would show */
    MUST(ck_state_write(other, &in->state, err));
    size_t n, m;
    unsigned char *a = fixture_read(path, &n), *b = fixture_read(other, &m);
    assert_true(n == m && memcmp(a, b, n) == 0);
    free(a);
    free(b);
    drop(in);
    drop(out);
    drop(third);
}

static void test_empty(void **state) {
    const char *path = fixture_path(*state, "empty.h5");
    ck_state none = {0};
    MUST(ck_state_write(path, &none, err));
    MUST(ck_state_read(path, &none, err));
}

/* A state that asks for something else than was written. */
static void test_another_run(void **state) {
    const char *path = fixture_path(*state, "state.h5");
    places *in = make(7);
    MUST(ck_state_write(path, &in->state, err));
    static const struct {
        int what;
        const char *message;
    } cases[] = {
        {0, "array 'adam.m.conv.bias' has 5 elements, this run's has 4: it is of another run"},
        {1, "adam.m.conv: "},
        {2, "steps: "},
        {3, "mean: "},
        {4, "has 7 values, this run has 6: it is of another run"},
        {5, "has 7 values, this run has 5: it is of another run"},
        {6, "adam.m: "}, /* a group */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        places *out = make(0);
        if (cases[i].what == 0) out->arrays[1].n = 4;
        if (cases[i].what == 1) out->arrays[0].name = "adam.m.conv";
        if (cases[i].what == 2) out->counts[0].name = "steps";
        if (cases[i].what == 3) out->numbers[0].name = "mean";
        if (cases[i].what == 4) out->state.array_count = 3;
        if (cases[i].what == 5) out->state.count_count = 0;
        if (cases[i].what == 6) out->arrays[0].name = "adam.m";
        ck_error err = {0};
        assert_int_equal(ck_state_read(path, &out->state, &err), CK_INPUT);
        if (!strstr(err.message, cases[i].message) || !strstr(err.message, "state.h5: "))
            fail_msg("'%s' is not in: %s", cases[i].message, err.message);
        drop(out);
    }
    drop(in);
}

/* A bit of an array's values that has turned. */
static void test_damaged(void **state) {
    const char *path = fixture_path(*state, "state.h5");
    places *in = make(7), *out = make(0);
    MUST(ck_state_write(path, &in->state, err));
    size_t n;
    unsigned char *bytes = fixture_read(path, &n);
    unsigned char *values = memmem(bytes, n, in->big + BIG - 8, 8 * sizeof(float));
    assert_non_null(values);
    values[9] ^= 4;
    fixture_file(*state, "state.h5", bytes, n);
    ck_error why = {0};
    assert_int_equal(ck_state_read(path, &out->state, &why), CK_INPUT);
    assert_non_null(strstr(why.message, "state.h5: adam.m.conv.weight: "));
    /* Cut short, empty, and no such file at all. */
    values[9] ^= 4;
    size_t cuts[] = {0, 1, 100, n / 2, n - 1};
    for (int i = 0; i < 5; i++) {
        fixture_file(*state, "state.h5", bytes, cuts[i]);
        assert_int_equal(ck_state_read(path, &out->state, &why), CK_INPUT);
    }
    assert_int_equal(ck_state_read("/nowhere/state.h5", &out->state, &why), CK_IO);
    fixture_file(*state, "state.h5", bytes, n);
    MUST(ck_state_read(path, &out->state, err));
    assert_true(same(in, out));
    free(bytes);
    drop(in);
    drop(out);
}

/* ---- Failures ---- */

static void test_faults_of_writing(void **state) {
    const char *path = fixture_path(*state, "faults.h5");
    places *in = make(7), *out = make(0);
    static const fault_kind kinds[] = {FAULT_CALLOC, FAULT_OPEN,      FAULT_PREAD,
                                       FAULT_PWRITE, FAULT_FTRUNCATE, FAULT_FSYNC};
    for (int k = 0; k < 6; k++) {
        int faults = 0;
        for (fault_first(kinds[k], k ? EIO : ENOMEM); fault_more();) {
            ck_error err = {0};
            fault_arm();
            ck_status status = ck_state_write(path, &in->state, &err);
            fault_disarm();
            faults += fault_hit();
            if (fault_hit())
                assert_int_not_equal(status, CK_OK);
            else
                assert_int_equal(status, CK_OK);
        }
        if (kinds[k] == FAULT_PWRITE) assert_true(faults > 5);
        if (kinds[k] != FAULT_PREAD && kinds[k] != FAULT_FTRUNCATE) assert_true(faults > 0);
    }
    MUST(ck_state_read(path, &out->state, err));
    assert_true(same(in, out));
    ck_error err = {0};
    assert_int_equal(ck_state_write("/nowhere/state.h5", &in->state, &err), CK_IO);
    assert_non_null(strstr(err.message, "/nowhere/state.h5: open: "));
    drop(in);
    drop(out);
}

static void test_faults_of_reading(void **state) {
    const char *path = fixture_path(*state, "faults.h5");
    places *in = make(7);
    MUST(ck_state_write(path, &in->state, err));
    static const fault_kind kinds[] = {FAULT_CALLOC, FAULT_OPEN, FAULT_PREAD};
    for (int k = 0; k < 3; k++) {
        int faults = 0;
        for (fault_first(kinds[k], k ? EIO : ENOMEM); fault_more();) {
            places *out = make(0);
            ck_error err = {0};
            fault_arm();
            ck_status status = ck_state_read(path, &out->state, &err);
            fault_disarm();
            faults += fault_hit();
            if (fault_hit() && k) assert_int_equal(status, CK_IO);
            if (fault_hit()) assert_int_not_equal(status, CK_OK);
            if (!fault_hit()) assert_true(status == CK_OK && same(in, out));
            drop(out);
        }
        assert_true(faults > 0);
    }
    drop(in);
}

/* A disk that is full at some size, told by a limit on the file's. The process that meets it goes
 * on, writes elsewhere, and ends as any other. */
static void test_full_disk(void **state) {
    const char *path = fixture_path(*state, "full.h5");
    places *in = make(7), *out = make(0);
    MUST(ck_state_write(path, &in->state, err));
    size_t n;
    free(fixture_read(path, &n));
    size_t limits[] = {0, 100, 1000, 4096, n / 3, n / 2, n - 5000, n - 500, n - 1};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        fflush(NULL);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            struct rlimit before, limit;
            signal(SIGXFSZ, SIG_IGN);
            getrlimit(RLIMIT_FSIZE, &before);
            limit = before;
            limit.rlim_cur = limits[i];
            setrlimit(RLIMIT_FSIZE, &limit);
            ck_error err = {0};
            ck_status status = ck_state_write(path, &in->state, &err);
            setrlimit(RLIMIT_FSIZE, &before);
            if (status != CK_IO || !strstr(err.message, "File too large")) _exit(1);
            if (ck_state_write(path, &in->state, &err) != CK_OK) _exit(2);
            drop(in);
            drop(out);
            exit(0); /* not _exit: the library tidies up */
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (status) fail_msg("limit %zu: status %x", limits[i], (unsigned)status);
        MUST(ck_state_read(path, &out->state, err));
        assert_true(same(in, out));
    }
    drop(in);
    drop(out);
}

#else

static void test_without_hdf5(void **state) {
    ck_state none = {0};
    ck_error err = {0};
    const char *path = fixture_path(*state, "state.h5");
    assert_int_equal(ck_state_write(path, &none, &err), CK_USAGE);
    assert_non_null(strstr(err.message, "built without HDF5"));
    assert_int_equal(ck_state_read(path, &none, &err), CK_USAGE);
    assert_int_equal(fixture_entries(*state), 0);
}

#endif

int main(void) {
    const struct CMUnitTest tests[] = {
#ifdef CK_HAVE_HDF5
        cmocka_unit_test(test_round_trip),        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_another_run),       cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_faults_of_writing), cmocka_unit_test(test_faults_of_reading),
        cmocka_unit_test(test_full_disk),
#else
        cmocka_unit_test(test_without_hdf5),
#endif
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
