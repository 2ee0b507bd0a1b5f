/* Checkpoints: what was saved comes back, or the one before it, whatever happened in between. */
#include "distill/run/checkpoint.h"
#include "io/os.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Syncing is for power cuts, of which there are none here; it would take most of the time. */
static int no_sync(int fd) {
    (void)fd;
    return 0;
}

static int setup(void **state) {
    static fixture f;
    fixture_make(&f);
    ck_os.fsync = no_sync;
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

/* The call fails so, with a message that has this in it. */
#define REFUSED(call, wanted_status, part)                                                         \
    do {                                                                                           \
        ck_error refused_err = {0}, *err = &refused_err;                                           \
        assert_int_equal(call, wanted_status);                                                     \
        if (!strstr(err->message, part)) fail_msg("'%s' is not in: %s", part, err->message);       \
    } while (0)

/* ---- A run: two models and a state ---- */

enum { MOMENTS = 5000 };

typedef struct run {
    ck_params *student, *ema;
    float moments[MOMENTS];
    uint64_t step;
    double mean;
    ck_checkpoint_weights weights[2];
    ck_state_array arrays[1];
    ck_state_count counts[1];
    ck_state_number numbers[1];
    ck_checkpoint what;
} run;

static ck_params *make_params(uint64_t seed) {
    static const int64_t conv[] = {4, 3, 3, 2}, linear[] = {6, 5}, bias[] = {4};
    ck_params *p = ck_params_new(seed);
    assert_non_null(p);
    size_t index;
    MUST(ck_params_need(p, "conv.weight", 4, conv, &index, err));
    MUST(ck_params_need(p, "conv.bias", 1, bias, &index, err));
    MUST(ck_params_need(p, "linear.weight", 2, linear, &index, err));
    return p;
}

static run *make_run(void) {
    run *r = calloc(1, sizeof *r);
    assert_non_null(r);
    r->student = make_params(1);
    r->ema = make_params(2);
    r->weights[0] = (ck_checkpoint_weights){"student", r->student};
    r->weights[1] = (ck_checkpoint_weights){"ema", r->ema};
    r->arrays[0] = (ck_state_array){"adam.m", r->moments, MOMENTS};
    r->counts[0] = (ck_state_count){"step", &r->step};
    r->numbers[0] = (ck_state_number){"guard.mean", &r->mean};
    r->what = (ck_checkpoint){r->weights, 2, {r->arrays, 1, r->counts, 1, r->numbers, 1}};
    return r;
}

static void free_run(run *r) {
    ck_params_free(r->student);
    ck_params_free(r->ema);
    free(r);
}

/* Every value a function of the step, different in all places. */
static float value_of(uint64_t step, int place, size_t i) {
    return (float)step + (float)place * 0.25f + (float)(i % 1000) * 0x1p-12f;
}

static void set_run(run *r, uint64_t step) {
    for (size_t i = 0; i < ck_params_count(r->student); i++)
        for (size_t j = 0; j < ck_params_elements(r->student, i); j++) {
            ck_params_data(r->student, i)[j] = value_of(step, (int)i, j);
            ck_params_data(r->ema, i)[j] = -value_of(step, (int)i, j);
        }
    for (size_t i = 0; i < MOMENTS; i++) r->moments[i] = value_of(step, 5, i);
    r->step = step;
    r->mean = (double)step / 3;
}

/* A fresh folder for a run; the text is one of a few that are used in turn. */
static const char *make_folder(void **state, const char *name) {
    const char *path = fixture_path(*state, name);
    assert_int_equal(mkdir(path, 0777), 0);
    return path;
}

/* "200 400 " for the checkpoints that are there, in order, and "?" for anything else. */
static const char *list(const char *folder) {
    static char text[512], path[512];
    text[0] = 0;
    snprintf(path, sizeof path, "%s/checkpoints", folder);
    struct dirent **entries;
    int n = scandir(path, &entries, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        unsigned step;
        const char *name = entries[i]->d_name;
        size_t used = strlen(text);
        if (sscanf(name, "step-%8u", &step) == 1 && strlen(name) == 13)
            snprintf(text + used, sizeof text - used, "%u ", step);
        else if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && strcmp(name, "latest") != 0)
            snprintf(text + used, sizeof text - used, "?%s ", name);
        free(entries[i]);
    }
    if (n >= 0) free(entries);
    return text;
}

#ifdef CK_HAVE_HDF5

static const char *path_in(const char *folder, uint64_t step, const char *name) {
    static char path[1024];
    snprintf(path, sizeof path, "%s/checkpoints/step-%08llu/%s", folder, (unsigned long long)step,
             name);
    return path;
}

static void check_run(const run *r, uint64_t step) {
    for (size_t i = 0; i < ck_params_count(r->student); i++)
        for (size_t j = 0; j < ck_params_elements(r->student, i); j++) {
            assert_true(ck_params_data(r->student, i)[j] == value_of(step, (int)i, j));
            assert_true(ck_params_data(r->ema, i)[j] == -value_of(step, (int)i, j));
        }
    for (size_t i = 0; i < MOMENTS; i++) assert_true(r->moments[i] == value_of(step, 5, i));
    assert_true(r->step == step && r->mean == (double)step / 3);
}

/* The step that a load gives, its values checked. */
static uint64_t load_step(const char *folder, ck_checkpoint_found *found) {
    run *r = make_run();
    MUST(ck_checkpoint_load(folder, &r->what, found, err));
    check_run(r, found->step);
    free_run(r);
    return found->step;
}

static void save_step(const char *folder, uint64_t step) {
    run *r = make_run();
    set_run(r, step);
    MUST(ck_checkpoint_save(folder, step, &r->what, err));
    free_run(r);
}

/* ---- Saving and loading ---- */

static void test_round_trip(void **state) {
    const char *folder = make_folder(state, "round");
    ck_checkpoint_found found;
    save_step(folder, 7);
    assert_int_equal(load_step(folder, &found), 7);
    assert_string_equal(found.warning, "");
    assert_string_equal(strrchr(found.path, '/'), "/step-00000007");
    save_step(folder, 1200);
    save_step(folder, 123456789012);
    assert_int_equal(load_step(folder, &found), 123456789012);
    assert_string_equal(found.warning, "");
    size_t n;
    char *latest = (char *)fixture_read(fixture_path(*state, "round/checkpoints/latest"), &n);
    assert_int_equal(n, 18);
    assert_memory_equal(latest, "step-123456789012\n", n);
    free(latest);
    /* A folder that others may read, as far as the user's umask goes. */
    struct stat st, parent;
    assert_int_equal(stat(path_in(folder, 7, ""), &st) | stat(folder, &parent), 0);
    assert_int_equal(st.st_mode, parent.st_mode);
}

/* The same state gives the same files. */
static void test_same_bytes(void **state) {
    const char *a = make_folder(state, "same_a"), *b = make_folder(state, "same_b");
    save_step(a, 5);
    save_step(b, 5);
    size_t n, m;
    char *x = (char *)fixture_read(path_in(a, 5, "checkpoint.json"), &n);
    char *y = (char *)fixture_read(path_in(b, 5, "checkpoint.json"), &m);
    assert_true(n == m && memcmp(x, y, n) == 0);
    free(x);
    free(y);
}

/* Twice at one step, as after a rollback: the second one counts. */
static void test_again(void **state) {
    const char *folder = make_folder(state, "again");
    ck_checkpoint_found found;
    run *r = make_run();
    set_run(r, 99);
    MUST(ck_checkpoint_save(folder, 10, &r->what, err));
    MUST(ck_checkpoint_rate(folder, 10, 1, err));
    set_run(r, 10);
    MUST(ck_checkpoint_save(folder, 10, &r->what, err));
    assert_int_equal(load_step(folder, &found), 10);
    assert_int_not_equal(access(path_in(folder, 10, "metric"), F_OK), 0);
    assert_string_equal(list(folder), "10 ");
    free_run(r);
}

/* The same where folders cannot be exchanged, and each of the renames fails in turn. */
static void test_without_exchange(void **state) {
    const char *folder = make_folder(state, "exchange");
    run *r = make_run();
    int done = 0;
    for (fault_first(FAULT_RENAME, EINVAL); fault_more();) {
        ck_checkpoint_found found;
        ck_error err = {0};
        save_step(folder, 10);
        set_run(r, 10);
        r->mean = 5;
        fault_arm();
        ck_status status = ck_checkpoint_save(folder, 10, &r->what, &err);
        fault_disarm();
        run *loaded = make_run();
        ck_error why = {0};
        assert_int_equal(ck_checkpoint_load(folder, &loaded->what, &found, &why), CK_OK);
        assert_true(found.step == 10 && !*found.warning);
        /* Also after a failure to write `latest`, which named it before. */
        assert_true(loaded->mean == 5 || (status != CK_OK && loaded->mean == 10. / 3));
        done += fault_hit() && status == CK_OK;
        assert_string_equal(list(folder), "10 ");
        free_run(loaded);
    }
    assert_int_equal(done, 1); /* the exchange */
    free_run(r);
}

/* Weights that come from a file with more in it, under a prefix. */
static void test_params_of_a_file(void **state) {
    float conv[2 * 2 * 3 * 3], vae[2] = {7, 8}, *data;
    for (int i = 0; i < 36; i++) conv[i] = (float)i;
    fixture_tensor tensors[] = {{"unet.conv.weight", CK_F32, {2, 2, 3, 3}, 4, conv},
                                {"vae.bias", CK_F32, {2}, 1, vae}};
    static const int64_t krsc[] = {2, 3, 3, 2};
    const char *folder = make_folder(state, "file");
    const char *path = fixture_safetensors(*state, "model.safetensors", tensors, 2, NULL);
    ck_reader *r;
    ck_params *p;
    size_t index;
    MUST(ck_reader_open(path, &r, err));
    MUST(ck_params_from(r, "unet.", &p, err));
    MUST(ck_params_need(p, "conv.weight", 4, krsc, &index, err));
    data = ck_params_data(p, index);
    assert_true(data[1] == 9); /* the second channel */
    data[1] = 0.5f;
    ck_checkpoint_weights weights[] = {{"student", p}};
    ck_checkpoint what = {.weights = weights, .weights_count = 1};
    ck_checkpoint_found found;
    MUST(ck_checkpoint_save(folder, 1, &what, err));
    data[1] = 100;
    data[2] = 100;
    MUST(ck_checkpoint_load(folder, &what, &found, err));
    assert_true(ck_params_data(p, index) == data && data[1] == 0.5f && data[2] == 1);

    /* A weight that this checkpoint does not have, or not so. */
    ck_params *other = ck_params_new(1);
    static const int64_t eight[] = {8};
    MUST(ck_params_need(other, "unet.conv.weight", 1, eight, &index, err));
    weights[0].params = other;
    REFUSED(ck_checkpoint_load(folder, &what, &found, err), CK_INPUT,
            "tensor 'unet.conv.weight' has shape [2,2,3,3], the model needs [8]");
    ck_params_free(other);
    other = ck_params_new(1);
    MUST(ck_params_need(other, "conv.bias", 1, eight, &index, err));
    weights[0].params = other;
    REFUSED(ck_checkpoint_load(folder, &what, &found, err), CK_INPUT, "no tensor 'conv.bias'");
    ck_params_free(other);
    ck_params_free(p);
    ck_reader_close(r);
}

static void test_not_finite(void **state) {
    const char *folder = make_folder(state, "finite");
    ck_checkpoint_found found;
    run *r = make_run();
    save_step(folder, 1);
    set_run(r, 2);
    r->moments[MOMENTS - 1] = INFINITY;
    REFUSED(ck_checkpoint_save(folder, 2, &r->what, err), CK_INPUT,
            "array 'adam.m' has a value that is infinite");
    set_run(r, 2);
    ck_params_data(r->ema, 2)[0] = NAN;
    REFUSED(ck_checkpoint_save(folder, 2, &r->what, err), CK_INPUT,
            "tensor 'linear.weight' has a value that is not a number");
    assert_string_equal(list(folder), "1 ");
    assert_int_equal(load_step(folder, &found), 1);
    free_run(r);
}

static void test_another_run(void **state) {
    const char *folder = make_folder(state, "another");
    save_step(folder, 1);
    ck_checkpoint_found found;
    run *r = make_run();
    r->arrays[0].n--;
    REFUSED(ck_checkpoint_load(folder, &r->what, &found, err), CK_INPUT,
            "another: none of its checkpoints can be used: ");
    REFUSED(ck_checkpoint_load(folder, &r->what, &found, err), CK_INPUT,
            "state.h5: array 'adam.m' has 5000 elements, this run's has 4999: it is of another");
    r->arrays[0].n++;
    r->weights[1].name = "average";
    REFUSED(ck_checkpoint_load(folder, &r->what, &found, err), CK_INPUT,
            "checkpoint.json:3: $.files: has no average.safetensors: it is of another run");
    r->what.weights_count = 1;
    REFUSED(ck_checkpoint_load(folder, &r->what, &found, err), CK_INPUT,
            "$.files: has more than 2 files: it is of another run");
    REFUSED(ck_checkpoint_load("/nowhere", &r->what, &found, err), CK_INPUT,
            "/nowhere: has no checkpoints to go on from");
    REFUSED(ck_checkpoint_save("/nowhere", 1, &r->what, err), CK_IO, "/nowhere/checkpoints");
    free_run(r);
}

/* ---- Damage ---- */

static void write_bytes(const char *path, const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* Any file of the last checkpoint cut anywhere or with any bit turned: the one before it. */
static void test_damaged(void **state) {
    static const char *const names[] = {"student.safetensors", "ema.safetensors", "state.h5",
                                        "checkpoint.json"};
    enum { PLACES = 12 };
    const char *folder = make_folder(state, "damaged");
    ck_checkpoint_found found;
    uint64_t random = 5;
    save_step(folder, 10);
    save_step(folder, 20);
    for (int i = 0; i < 4; i++) {
        size_t n;
        unsigned char *bytes = fixture_read(path_in(folder, 20, names[i]), &n);
        for (int k = 0; k < 2 * PLACES; k++) {
            size_t at = k < 2 ? (size_t)k * (n - 1) : fixture_random(&random) % n;
            unsigned char bit = (unsigned char)(1 << fixture_random(&random) % 8);
            if (k % 2) write_bytes(path_in(folder, 20, names[i]), bytes, at);
            bytes[at] ^= bit;
            if (k % 2 == 0) write_bytes(path_in(folder, 20, names[i]), bytes, n);
            bytes[at] ^= bit;
            if (load_step(folder, &found) != 10) {
                /* White space of the manifest is not missed. */
                if (i == 3 && found.step == 20) continue;
                fail_msg("%s, %d at %zu of %zu: step %d", names[i], k, at, n, (int)found.step);
            }
            if (i < 3 && !strstr(found.warning, names[i])) fail_msg("%s", found.warning);
        }
        assert_int_equal(unlink(path_in(folder, 20, names[i])), 0);
        assert_int_equal(load_step(folder, &found), 10);
        write_bytes(path_in(folder, 20, names[i]), bytes, n);
        free(bytes);
    }
    assert_int_equal(load_step(folder, &found), 20);
    assert_string_equal(found.warning, "");
}

/* The pointer itself: lost or damaged, it is the newest; of an older one, that. */
static void test_latest(void **state) {
    static const struct {
        const char *text;
        uint64_t step;
        const char *warning;
    } cases[] = {
        {"step-00000010\n", 10, ""},
        {"step-00000010", 10, ""},
        {"step-0000001", 20, "latest: does not name a checkpoint"},
        {"step-00000010\n\n", 20, "latest: does not name a checkpoint"},
        {"step-10\n", 20, "latest: does not name a checkpoint"},
        {"", 20, "latest: does not name a checkpoint"},
        {"step-0000001\0\n", 20, "latest: does not name a checkpoint"},
        {"../../etc/passwd\n", 20, "latest: does not name a checkpoint"},
        {"step-00000030\n", 20, "latest: names step 30, which is not there"},
    };
    const char *folder = make_folder(state, "latest");
    const char *latest = fixture_path(*state, "latest/checkpoints/latest");
    ck_checkpoint_found found;
    save_step(folder, 10);
    save_step(folder, 20);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_bytes(latest, cases[i].text, i == 6 ? 14 : strlen(cases[i].text));
        assert_int_equal(load_step(folder, &found), cases[i].step);
        if (*cases[i].warning ? !strstr(found.warning, cases[i].warning) : *found.warning)
            fail_msg("%zu: %s", i, found.warning);
    }
    assert_int_equal(unlink(latest), 0);
    assert_int_equal(load_step(folder, &found), 20);
    assert_non_null(strstr(found.warning, "latest: open: No such file"));
}

static void test_nothing_whole(void **state) {
    const char *folder = make_folder(state, "nothing");
    save_step(folder, 10);
    save_step(folder, 20);
    assert_int_equal(truncate(path_in(folder, 20, "student.safetensors"), 100), 0);
    assert_int_equal(truncate(path_in(folder, 10, "state.h5"), 100), 0);
    ck_checkpoint_found found;
    run *r = make_run();
    REFUSED(ck_checkpoint_load(folder, &r->what, &found, err), CK_INPUT,
            "step-00000020/student.safetensors: damaged: has 100 bytes, not ");
    REFUSED(ck_checkpoint_load(folder, &r->what, &found, err), CK_INPUT,
            "step-00000010/state.h5: damaged: has 100 bytes, not ");
    free_run(r);
}

/* ---- Rotation ---- */

static void test_rotate(void **state) {
    static const struct {
        ck_keep keep;
        const char *left;
    } cases[] = {
        {{.last = 3}, "5 6 7 "},
        {{.last = 0}, "7 "},
        {{.last = 100}, "1 2 3 4 5 6 7 "},
        {{.last = 1, .best = 1}, "4 7 "},
        {{.last = 1, .best = 2}, "3 4 7 "}, /* 2 and 3 are equally good */
        {{.last = 1, .best = 9}, "2 3 4 6 7 "},
        {{.last = 2, .every = 3}, "3 6 7 "},
        {{.last = 2, .best = 1, .every = 5}, "4 5 6 7 "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[32];
        snprintf(name, sizeof name, "rotate%zu", i);
        const char *folder = make_folder(state, name);
        ck_checkpoint_found found;
        /* Folders are enough, but for the last. */
        for (uint64_t step = 1; step <= 7; step++) {
            save_step(folder, 7);
            assert_int_equal(mkdir(path_in(folder, step, ""), 0777) != 0, step == 7);
        }
        static const double metrics[] = {0, 0, 5.5, 5.5, 1e-3, NAN, 7};
        for (uint64_t step = 2; step <= 6; step++)
            MUST(ck_checkpoint_rate(folder, step, metrics[step], err));
        write_bytes(path_in(folder, 5, "metric"), "0.001", 5); /* a torn one counts for nothing */
        MUST(ck_checkpoint_rotate(folder, &cases[i].keep, err));
        assert_string_equal(list(folder), cases[i].left);
        assert_int_equal(load_step(folder, &found), 7);
    }
}

/* What `latest` names is what a resume needs, even if it is not the newest. */
static void test_rotate_keeps_latest(void **state) {
    const char *folder = make_folder(state, "keeps");
    save_step(folder, 30);
    save_step(folder, 10);
    save_step(folder, 20);
    MUST(ck_checkpoint_rotate(folder, &(ck_keep){.last = 1}, err));
    assert_string_equal(list(folder), "20 30 ");
    REFUSED(ck_checkpoint_rate(folder, 40, 1, err), CK_IO, "step-00000040/metric");
    /* Without it nobody knows what may go. */
    unlink(fixture_path(*state, "keeps/checkpoints/latest"));
    REFUSED(ck_checkpoint_rotate(folder, &(ck_keep){.last = 1}, err), CK_IO, "latest");
    assert_string_equal(list(folder), "20 30 ");
}

/* ---- Failures ---- */

/* Each system call of a save fails once: the run goes on from this step or the one before. */
static void test_faults_of_save(void **state) {
    const char *folder = make_folder(state, "faults");
    uint64_t step = 1;
    save_step(folder, step);
    for (int kind = 0; kind < FAULT_KINDS; kind++) {
        bool memory = kind == FAULT_CALLOC || kind == FAULT_REALLOC;
        int faults = 0;
        for (fault_first((fault_kind)kind, memory ? ENOMEM : EIO); fault_more();) {
            ck_checkpoint_found found;
            ck_error why = {0};
            run *r = make_run();
            set_run(r, step + 1);
            fault_arm();
            ck_status status = ck_checkpoint_save(folder, step + 1, &r->what, &why);
            fault_disarm();
            faults += fault_hit();
            if (status != CK_OK) assert_true(fault_hit() && why.message[0]);
            /* (The name of the new one may be in place before its durability fails.) */
            uint64_t got = load_step(folder, &found);
            assert_true(got == step + 1 || (got == step && status != CK_OK));
            assert_string_equal(found.warning, "");
            assert_null(strchr(list(folder), '?'));
            step = got;
            free_run(r);
            MUST(ck_checkpoint_rotate(folder, &(ck_keep){.last = 1}, err));
        }
        if (kind != FAULT_REALLOC && kind != FAULT_FALLOCATE) assert_true(faults > 0);
    }
}

/* Reads that fail are passed over, memory that is missing is told. */
static void test_faults_of_load(void **state) {
    const char *folder = make_folder(state, "load");
    save_step(folder, 10);
    save_step(folder, 20);
    static const fault_kind kinds[] = {FAULT_CALLOC, FAULT_REALLOC, FAULT_OPEN, FAULT_PREAD};
    for (int k = 0; k < 4; k++)
        for (fault_first(kinds[k], k < 2 ? ENOMEM : EIO); fault_more();) {
            ck_checkpoint_found found;
            ck_error err = {0};
            run *r = make_run();
            fault_arm();
            ck_status status = ck_checkpoint_load(folder, &r->what, &found, &err);
            fault_disarm();
            if (k < 2 && status != CK_OK) assert_int_equal(status, CK_MEMORY);
            if (k >= 2) assert_int_equal(status, CK_OK);
            if (status == CK_OK) check_run(r, found.step);
            if (status == CK_OK) assert_true(*found.warning || found.step == 20);
            if (!fault_hit()) assert_true(!*found.warning && found.step == 20);
            free_run(r);
        }
}

static void test_faults_of_rotate(void **state) {
    const char *folder = make_folder(state, "rotated");
    for (int kind = 0; kind < FAULT_KINDS; kind++)
        for (fault_first((fault_kind)kind, EIO); fault_more();) {
            ck_checkpoint_found found;
            ck_error why = {0};
            for (uint64_t step = 1; step <= 3; step++) save_step(folder, step);
            MUST(ck_checkpoint_rate(folder, 1, 4, err));
            fault_arm();
            ck_status status = ck_checkpoint_rotate(folder, &(ck_keep){.best = 1}, &why);
            fault_disarm();
            assert_int_equal(status == CK_OK, !fault_hit());
            if (status == CK_OK) assert_string_equal(list(folder), "1 3 ");
            assert_int_equal(load_step(folder, &found), 3);
        }
}

/* A disk that is full at some point of a save. */
static void test_full_disk(void **state) {
    const char *folder = make_folder(state, "disk");
    ck_checkpoint_found found;
    struct rlimit before, limit;
    save_step(folder, 1);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    static const rlim_t limits[] = {0, 10, 300, 700, 2000, 12000, 20000, 22000};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        run *r = make_run();
        set_run(r, 2);
        limit = before;
        limit.rlim_cur = limits[i];
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        ck_error err = {0};
        ck_status status = ck_checkpoint_save(folder, 2, &r->what, &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_int_equal(status, CK_IO);
        assert_string_equal(list(folder), "1 ");
        free_run(r);
    }
    signal(SIGXFSZ, handler);
    save_step(folder, 2);
    assert_int_equal(load_step(folder, &found), 2);
}

/* ---- Killed ---- */

/* Saves steps on and on, telling of each; never returns. */
static void save_for_ever(const char *folder, uint64_t step, int tell) {
    run *r = make_run();
    for (;; step++) {
        ck_error err = {0};
        set_run(r, step);
        if (ck_checkpoint_save(folder, step, &r->what, &err) != CK_OK ||
            ck_checkpoint_rate(folder, step, (double)(step % 7), &err) != CK_OK ||
            write(tell, &step, sizeof step) != sizeof step ||
            ck_checkpoint_rotate(folder, &(ck_keep){.last = 2, .best = 1}, &err) != CK_OK)
            _exit(1);
    }
}

static void test_killed(void **state) {
    const char *folder = make_folder(state, "killed");
    uint64_t random = (uint64_t)time(NULL), step = 1;
    save_step(folder, step);
    for (int i = 0; i < 20; i++) {
        ck_checkpoint_found found;
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        fflush(NULL);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) save_for_ever(folder, step + 1, ends[1]);
        close(ends[1]);
        usleep((useconds_t)(fixture_random(&random) % 60000));
        assert_int_equal(kill(pid, SIGKILL), 0);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        uint64_t told = step;
        while (read(ends[0], &told, sizeof told) == sizeof told) {
        }
        close(ends[0]);
        uint64_t got = load_step(folder, &found);
        if (got != told && got != told + 1) fail_msg("saved %d, got %d", (int)told, (int)got);
        assert_string_equal(found.warning, "");
        step = got;
    }
    save_step(folder, step + 1);
    assert_null(strchr(list(folder), '?'));
    assert_true(step > 3); /* it did save in between */
}

#else

static void test_without_hdf5(void **state) {
    const char *folder = make_folder(state, "without");
    run *r = make_run();
    set_run(r, 1);
    REFUSED(ck_checkpoint_save(folder, 1, &r->what, err), CK_USAGE, "built without HDF5");
    assert_string_equal(list(folder), "");
    free_run(r);
}

#endif

int main(void) {
    const struct CMUnitTest tests[] = {
#ifdef CK_HAVE_HDF5
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_again),
        cmocka_unit_test(test_without_exchange),
        cmocka_unit_test(test_params_of_a_file),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_another_run),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_latest),
        cmocka_unit_test(test_nothing_whole),
        cmocka_unit_test(test_rotate),
        cmocka_unit_test(test_rotate_keeps_latest),
        cmocka_unit_test(test_faults_of_save),
        cmocka_unit_test(test_faults_of_load),
        cmocka_unit_test(test_faults_of_rotate),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_killed),
#else
        cmocka_unit_test(test_without_hdf5),
#endif
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
