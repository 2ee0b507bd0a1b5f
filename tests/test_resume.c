/* Merges that are killed and go on: at every system call, by every signal, with notes cut off; the
 * result has the bytes of a merge that was never interrupted. And several outputs at once. */
#include "io/os.h"
#include "merge/engine.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHUNK = CK_PAGE, LARGE = 75000, SMALL = 5000 };

static fixture folder;

/* Nothing here cuts the power, and waiting for the disk would take minutes. */
static int no_sync(int fd) {
    (void)fd;
    return 0;
}

/* Two models of f32; values large enough to overflow f16 here and there. */
static int setup(void **state) {
    (void)state;
    /* In memory where there is such a place: thousands of little files are written. */
    snprintf(folder.folder, sizeof folder.folder, "/dev/shm/ck-resume-XXXXXX");
    if (!mkdtemp(folder.folder)) fixture_make(&folder);
    ck_os.fsync = no_sync;
    static float values[LARGE];
    for (int m = 0; m < 2; m++) {
        uint64_t seed = 7 + (uint64_t)m;
        for (int i = 0; i < LARGE; i++) values[i] = fixture_random_float(&seed) * 80000;
        const fixture_tensor t[] = {
            {.name = "large", .dtype = CK_F32, .shape = {LARGE}, .rank = 1, .data = values},
            {.name = "small", .dtype = CK_F32, .shape = {SMALL}, .rank = 1, .data = values},
            {.name = "zmall", .dtype = CK_F32, .shape = {SMALL}, .rank = 1, .data = values + 9}};
        fixture_safetensors(&folder, m ? "b" : "a", t, 3, NULL);
    }
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_remove(&folder);
    return 0;
}

#define MODELS "{\"ckmerge_recipe\":1,\"models\":{\"a\":\"a\",\"b\":\"b\"},\"dtype\":\"f16\","
static const char *const recipes[] = {
    MODELS "\"merge\":{\"method\":\"weighted-sum\",\"inputs\":[\"a\",\"b\"],\"alpha\":0.3}}",
    MODELS "\"merge\":{\"method\":\"slerp\",\"inputs\":[\"a\",\"b\"],\"alpha\":0.3}}",
};

typedef struct merging {
    ck_recipe recipe;
    ck_reader *readers[2];
    ck_plan *plan;
    bool borrowed; /* readers */
} merging;

/* share: whose readers are used; NULL: its own. */
static ck_status prepare(merging *m, const char *json, const merging *share, ck_error *err) {
    *m = (merging){.borrowed = share != NULL};
    CK_TRY(ck_recipe_parse("test", json, strlen(json), folder.folder, NULL, 0, &m->recipe, err));
    for (size_t i = 0; i < 2; i++) {
        if (share)
            m->readers[i] = share->readers[i];
        else
            CK_TRY(ck_reader_open(m->recipe.models[i].path, &m->readers[i], err));
    }
    return ck_plan_make(&m->recipe, m->readers, &m->plan, err);
}

static void release(merging *m) {
    ck_plan_free(m->plan);
    for (size_t i = 0; i < 2 && !m->borrowed; i++) ck_reader_close(m->readers[i]);
    ck_recipe_free(&m->recipe);
}

static ck_run_options resuming(unsigned threads) {
    return (ck_run_options){
        .threads = threads, .resume = true, .hash_output = true, .chunk_bytes = CHUNK};
}

static bool faulty; /* arm when the merge itself begins */

static ck_status merge(const char *json, const char *name, const ck_run_options *o,
                       ck_run_result *result, ck_error *err) {
    merging m;
    *result = (ck_run_result){0};
    ck_status status = prepare(&m, json, NULL, err);
    if (faulty) fault_arm();
    if (status == CK_OK) status = ck_run(m.plan, fixture_path(&folder, name), o, result, err);
    if (faulty) fault_disarm();
    faulty = false;
    free(result->model_sha256);
    result->model_sha256 = NULL;
    result->clipped_tensor = NULL; /* went with the plan */
    release(&m);
    return status;
}

static bool exists(const char *name) {
    return access(fixture_path(&folder, name), F_OK) == 0;
}

static void same_file(const char *a, const char *b) {
    size_t n, k;
    unsigned char *x = fixture_read(fixture_path(&folder, a), &n);
    unsigned char *y = fixture_read(fixture_path(&folder, b), &k);
    assert_int_equal(n, k);
    assert_memory_equal(x, y, n);
    free(x), free(y);
}

/* The merge without interruption, as "whole". */
static void make_whole(const char *json, ck_run_result *result) {
    ck_error err;
    const ck_run_options o = {.threads = 2, .replace = true, .hash_output = true};
    if (merge(json, "whole", &o, result, &err) != CK_OK) fail_msg("%s", err.message);
    assert_true(result->clipped > 100);
}

/* Goes on with "out" to the end; returns how many bytes were there. */
static uint64_t go_on(const char *json, const ck_run_result *whole) {
    ck_error err;
    ck_run_result result;
    const ck_run_options o = resuming(2);
    if (merge(json, "out", &o, &result, &err) != CK_OK) fail_msg("%s", err.message);
    same_file("out", "whole");
    assert_string_equal(result.output_sha256, whole->output_sha256);
    assert_int_equal(result.clipped, whole->clipped);
    assert_false(exists("out.partial"));
    assert_false(exists("out.partial.journal"));
    unlink(fixture_path(&folder, "out"));
    return result.resumed;
}

/* Every system call of every kind fails once; the next run makes the same file. */
static void test_faults(void **state) {
    (void)state;
    const int errors[FAULT_KINDS] = {
        [FAULT_CALLOC] = ENOMEM, [FAULT_REALLOC] = ENOMEM, [FAULT_OPEN] = EMFILE,
        [FAULT_PREAD] = EIO,     [FAULT_PWRITE] = ENOSPC,  [FAULT_FALLOCATE] = ENOSPC,
        [FAULT_FTRUNCATE] = EIO, [FAULT_FSYNC] = EIO,      [FAULT_LINK] = EIO,
        [FAULT_RENAME] = EIO};
    for (size_t r = 0; r < 2; r++) {
        ck_run_result whole;
        make_whole(recipes[r], &whole);
        int entries = fixture_entries(&folder);
        uint64_t resumed = 0;
        for (int kind = 0; kind < FAULT_KINDS; kind++)
            for (fault_first(kind, errors[kind]); fault_more();) {
                ck_error err = {0};
                ck_run_result result;
                const ck_run_options o = resuming(1);
                faulty = true;
                ck_status status = merge(recipes[r], "out", &o, &result, &err);
                bool written = strstr(err.message, "written, but") != NULL;
                if (status != CK_OK && !written) {
                    assert_false(exists("out"));
                    resumed += go_on(recipes[r], &whole);
                } else {
                    same_file("out", "whole");
                    unlink(fixture_path(&folder, "out"));
                }
                assert_int_equal(fixture_entries(&folder), entries);
            }
        assert_true(resumed >= 100 * CHUNK);
    }
}

static unsigned writes_left;

static ssize_t write_or_die(int fd, const void *data, size_t n, off_t offset) {
    if (writes_left-- == 0) raise(SIGKILL);
    return pwrite(fd, data, n, offset);
}

/* Runs the merge in a child that dies at the N-th write; true: it came to its end before. */
static bool killed_at(const char *json, unsigned n, unsigned threads) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        ck_error err;
        ck_run_result result;
        const ck_run_options o = resuming(threads);
        writes_left = n;
        ck_os.pwrite = write_or_die;
        _exit(merge(json, "out", &o, &result, &err) == CK_OK ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status)) {
        assert_int_equal(WEXITSTATUS(status), 0);
        return true;
    }
    assert_int_equal(WTERMSIG(status), SIGKILL);
    return false;
}

static void test_kill(void **state) {
    (void)state;
    for (size_t r = 0; r < 2; r++) {
        ck_run_result whole;
        uint64_t most = 0;
        make_whole(recipes[r], &whole);
        unsigned n = 0;
        for (; !killed_at(recipes[r], n, 1); n += 3) {
            if (n % 2) killed_at(recipes[r], 5, 1); /* and once more */
            uint64_t resumed = go_on(recipes[r], &whole);
            if (resumed > most) most = resumed;
            if (n > 1000) fail();
        }
        assert_true(n > 30);
        assert_true(most >= 32 * CHUNK); /* the first notes were used */
        unlink(fixture_path(&folder, "out"));
    }
}

/* Leaves "out.partial" of the first recipe, half done. */
static void leave_half(void) {
    assert_false(killed_at(recipes[0], 40, 1));
    assert_true(exists("out.partial") && exists("out.partial.journal") && !exists("out"));
}

static void remove_partial(void) {
    unlink(fixture_path(&folder, "out.partial"));
    unlink(fixture_path(&folder, "out.partial.journal"));
}

/* What is done is not done again: a byte that was changed meanwhile stays changed. */
static void test_not_redone(void **state) {
    (void)state;
    ck_run_result whole, result;
    ck_error err;
    make_whole(recipes[0], &whole);
    leave_half();
    FILE *file = fopen(fixture_path(&folder, "out.partial"), "r+b");
    fseek(file, 10000, SEEK_SET);
    int old = fgetc(file);
    fseek(file, 10000, SEEK_SET);
    fputc(old ^ 1, file);
    fclose(file);
    const ck_run_options o = resuming(2);
    assert_int_equal(merge(recipes[0], "out", &o, &result, &err), CK_OK);
    size_t n, k, different = 0;
    unsigned char *x = fixture_read(fixture_path(&folder, "out"), &n);
    unsigned char *y = fixture_read(fixture_path(&folder, "whole"), &k);
    assert_int_equal(n, k);
    for (size_t i = 0; i < n; i++) different += x[i] != y[i];
    assert_int_equal(different, 1);
    assert_int_equal(x[10000], old ^ 1);
    free(x), free(y);
    unlink(fixture_path(&folder, "out"));
}

/* Notes that a power cut left in part. */
static void test_torn_journal(void **state) {
    (void)state;
    ck_run_result whole;
    make_whole(recipes[0], &whole);
    leave_half();
    size_t n, data_size;
    const char *path = fixture_path(&folder, "out.partial.journal");
    char journal[256];
    snprintf(journal, sizeof journal, "%s", path);
    char *text = (char *)fixture_read(journal, &n);
    unsigned char *data = fixture_read(fixture_path(&folder, "out.partial"), &data_size);
    size_t head = (size_t)(strchr(text, '\n') - text) + 1;
    for (size_t cut = head; cut <= n; cut += 37)
        for (int kind = 0; kind < 3; kind++) {
            fixture_file(&folder, "out.partial", data, data_size);
            FILE *file = fopen(journal, "wb");
            fwrite(text, 1, cut, file);
            /* cut off; zeros; or a wrong number where the text goes on */
            for (size_t i = cut; kind && i < n; i++) fputc(kind == 1 ? 0 : text[i] ^ 1, file);
            fclose(file);
            assert_true(go_on(recipes[0], &whole) <= 32 * CHUNK);
        }
    free(text), free(data);
}

/* Refuses this; the .partial stays as it was. */
static void refused(const char *json, ck_status expected, const char *message) {
    ck_error err = {0};
    ck_run_result result;
    size_t n = 0, k;
    unsigned char *before = fixture_read(fixture_path(&folder, "out.partial"), &n);
    const ck_run_options o = resuming(2);
    assert_int_equal(merge(json, "out", &o, &result, &err), expected);
    if (!strstr(err.message, message)) fail_msg("'%s' lacks '%s'", err.message, message);
    unsigned char *after = fixture_read(fixture_path(&folder, "out.partial"), &k);
    assert_int_equal(n, k);
    assert_memory_equal(before, after, n);
    free(before), free(after);
}

static void test_refused(void **state) {
    (void)state;
    ck_run_result whole;
    make_whole(recipes[0], &whole);
    leave_half();
    refused(recipes[1], CK_USAGE, "out.partial is of another merge");
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 5}};
    struct stat st;
    assert_int_equal(stat(fixture_path(&folder, "b"), &st), 0);
    assert_int_equal(utimensat(AT_FDCWD, fixture_path(&folder, "b"), times, 0), 0);
    refused(recipes[0], CK_USAGE, "out.partial is of another merge");
    const struct timespec back[2] = {{.tv_nsec = UTIME_OMIT}, st.st_mtim};
    assert_int_equal(utimensat(AT_FDCWD, fixture_path(&folder, "b"), back, 0), 0);
    int fd = open(fixture_path(&folder, "out.partial"), O_RDONLY);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    refused(recipes[0], CK_USAGE, "another process is writing it");
    close(fd);
    assert_true(go_on(recipes[0], &whole) > 0);

    fixture_file(&folder, "out.partial", "mine", 4);
    refused(recipes[0], CK_USAGE, "is there without its journal");
    fixture_file(&folder, "out.partial.journal", "x\n", 2);
    refused(recipes[0], CK_USAGE, "out.partial is of another merge");
    remove_partial();
    /* A journal alone is of something that is gone. */
    fixture_file(&folder, "out.partial.journal", "x\n", 2);
    assert_int_equal(go_on(recipes[0], &whole), 0);
    /* Without resume a .partial is nobody's business. */
    leave_half();
    ck_run_result result;
    ck_error err;
    const ck_run_options plain = {.threads = 2};
    assert_int_equal(merge(recipes[0], "out", &plain, &result, &err), CK_OK);
    same_file("out", "whole");
    assert_true(exists("out.partial"));
    /* And an output that is there is not replaced by one that goes on. */
    refused(recipes[0], CK_USAGE, "out exists; --force");
    unlink(fixture_path(&folder, "out"));
    remove_partial();
}

/* Ctrl-C says how to go on. */
static void test_cancel(void **state) {
    (void)state;
    ck_run_result whole, result;
    ck_error err;
    make_whole(recipes[0], &whole);
    leave_half();
    const int cancel = 1;
    ck_run_options o = resuming(2);
    o.cancel = &cancel;
    assert_int_equal(merge(recipes[0], "out", &o, &result, &err), CK_CANCELLED);
    assert_non_null(strstr(err.message, "stopped; what is done is kept in "));
    assert_non_null(strstr(err.message, "out.partial, and the same command goes on"));
    assert_true(go_on(recipes[0], &whole) > 0);
}

/* ---- Several outputs ---- */

enum { OUTPUTS = 4 };

static ck_status several(const char *format, const ck_run_options *o, ck_run_result *results,
                         ck_error *err) {
    static const double alphas[OUTPUTS] = {0, 0.25, 1, 0.5};
    merging all[OUTPUTS];
    const ck_plan *plans[OUTPUTS];
    char paths[OUTPUTS][128];
    const char *names[OUTPUTS];
    ck_status status = CK_OK;
    memset(all, 0, sizeof all);
    for (int i = 0; i < OUTPUTS; i++) {
        char json[400];
        snprintf(json, sizeof json, format, alphas[i]);
        if (status == CK_OK) status = prepare(&all[i], json, i ? all : NULL, err);
        plans[i] = all[i].plan;
        snprintf(paths[i], sizeof paths[i], "%s", fixture_path(&folder, "many0"));
        paths[i][strlen(paths[i]) - 1] = (char)('0' + i);
        names[i] = paths[i];
    }
    if (faulty) fault_arm();
    if (status == CK_OK) status = ck_run_several(plans, names, OUTPUTS, o, results, err);
    if (faulty) fault_disarm();
    faulty = false;
    for (int i = OUTPUTS; i-- > 0;) release(&all[i]);
    return status;
}

static const char *const formats[] = {
    MODELS "\"merge\":{\"method\":\"weighted-sum\",\"inputs\":[\"a\",\"b\"],\"alpha\":%g}}",
    MODELS "\"merge\":{\"method\":\"slerp\",\"inputs\":[\"a\",\"b\"],\"alpha\":%g}}",
};

static const ck_run_options hashing = {.threads = 2, .chunk_bytes = CHUNK, .hash_models = true};

/* Each is what it would be alone. */
static void check_several(const char *format, ck_run_result *results) {
    const double alphas[OUTPUTS] = {0, 0.25, 1, 0.5};
    for (int i = 0; i < OUTPUTS; i++) {
        ck_run_result one;
        ck_error err;
        char json[400], name[16];
        snprintf(json, sizeof json, format, alphas[i]);
        snprintf(name, sizeof name, "many%d", i);
        const ck_run_options o = {.replace = true};
        assert_int_equal(merge(json, "one", &o, &one, &err), CK_OK);
        same_file(name, "one");
        assert_int_equal(results[i].clipped, one.clipped);
        free(results[i].model_sha256);
        unlink(fixture_path(&folder, name));
    }
    unlink(fixture_path(&folder, "one"));
}

static void test_several(void **state) {
    (void)state;
    for (int f = 0; f < 2; f++) {
        ck_run_result results[OUTPUTS];
        ck_error err;
        if (several(formats[f], &hashing, results, &err) != CK_OK) fail_msg("%s", err.message);
        assert_int_equal(strlen(results[0].model_sha256[1]), 64);
        check_several(formats[f], results);
    }
}

static _Atomic uint64_t bytes_read;

static ssize_t count_and_read(int fd, void *data, size_t n, off_t offset) {
    bytes_read += n;
    return pread(fd, data, n, offset);
}

/* Whatever the sizes of chunks, the models are read once for all outputs, by methods that look at
 * whole tensors too. */
static void test_several_read_once(void **state) {
    (void)state;
    const size_t sizes[] = {CHUNK, 5 * CHUNK, 0};
    for (int i = 0; i < 6; i++) {
        const ck_run_options o = {.threads = 2, .chunk_bytes = sizes[i / 2]};
        const char *format = formats[i % 2];
        ck_run_result results[OUTPUTS];
        ck_error err;
        ssize_t (*usual)(int, void *, size_t, off_t) = ck_os.pread;
        bytes_read = 0;
        ck_os.pread = count_and_read;
        ck_status status = several(format, &o, results, &err);
        ck_os.pread = usual;
        assert_int_equal(status, CK_OK);
        /* With headers, and a little at the ends of chunks. */
        const uint64_t once = 2 * 4 * (LARGE + 2 * SMALL);
        assert_true(bytes_read >= once && bytes_read < once + once / 10);
        check_several(format, results);
    }
}

/* Killed at a write, they all go on. */
static void test_several_kill(void **state) {
    (void)state;
    const ck_run_options o = resuming(1); /* (OpenMP has no threads in a child) */
    for (int f = 0; f < 2; f++)
        for (unsigned n = 5; n < 160; n += 25) {
            pid_t pid = fork();
            assert_true(pid >= 0);
            ck_run_result results[OUTPUTS];
            ck_error err = {0};
            if (pid == 0) {
                writes_left = n;
                ck_os.pwrite = write_or_die;
                _exit(several(formats[f], &o, results, &err) == CK_OK ? 0 : 1);
            }
            int status;
            assert_int_equal(waitpid(pid, &status, 0), pid);
            assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
            assert_false(exists("many0") || exists("many3"));
            if (several(formats[f], &o, results, &err) != CK_OK) fail_msg("%s", err.message);
            uint64_t resumed = 0;
            for (int i = 0; i < OUTPUTS; i++) resumed += results[i].resumed;
            assert_true(n < 140 || resumed > 0);
            check_several(formats[f], results);
            assert_false(exists("many0.partial") || exists("many3.partial.journal"));
        }
}

/* A full disk leaves none of them. */
static void test_several_faults(void **state) {
    (void)state;
    int entries = fixture_entries(&folder);
    const fault_kind kinds[] = {FAULT_PWRITE, FAULT_CALLOC, FAULT_OPEN};
    for (int k = 0; k < 3; k++)
        for (fault_first(kinds[k], k == 1 ? ENOMEM : EMFILE); fault_more();) {
            ck_run_result results[OUTPUTS];
            ck_error err = {0};
            faulty = true;
            ck_status status = several(formats[1], &hashing, results, &err);
            if (fault_hit() && !strstr(err.message, "written, but"))
                assert_int_not_equal(status, CK_OK);
            for (int i = 0; i < OUTPUTS; i++) {
                char name[16];
                snprintf(name, sizeof name, "many%d", i);
                if (status == CK_OK) free(results[i].model_sha256);
                if (kinds[k] == FAULT_PWRITE && status != CK_OK) assert_false(exists(name));
                unlink(fixture_path(&folder, name));
            }
            assert_int_equal(fixture_entries(&folder), entries);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_kill),
        cmocka_unit_test(test_not_redone),
        cmocka_unit_test(test_torn_journal),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_several),
        cmocka_unit_test(test_several_faults),
        cmocka_unit_test(test_several_read_once),
        cmocka_unit_test(test_several_kill),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
