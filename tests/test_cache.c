/* Encoded data in a file: the same numbers as in memory, whoever dies while it is made. */
#include "distill/data/cache.h"
#include "distill/run/config.h"
#include "distill/data/image.h"
#include "distill/data/latents.h"
#include "distill/run/prefetch.h"
#include "distill/run/run.h"
#include "distill/run/task.h"
#include "io/os.h"
#include "kernels/kernels.h"
#include "tests/fault.h"
#include "tests/folder.h"
#include "tests/program.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CK_HAVE_HDF5

static void test_without(void **state) {
    (void)state;
    ck_cache *c;
    assert_int_equal(ck_cache_open(NULL, "x.h5", &c, &err), CK_USAGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_without)};
    return cmocka_run_group_tests_name("cache", tests, NULL, NULL);
}

#else

/* Ten pictures, broad and high ones, with three captions. */
typedef struct source {
    ck_model model;
    ck_dataset *data;
    ck_buckets buckets;
    ck_encoding e;
} source;

static void make_photos(void) {
    mkdir(fixture_path(&f, "photos"), 0777);
    for (size_t i = 0; i < 10; i++) {
        ck_image image;
        char name[32];
        ok(ck_image_make(i % 2 ? 24 : 48, i % 2 ? 48 : 24, 1, &image, &err));
        for (size_t k = 0; k < image.width * image.height; k++)
            image.pixels[k] = (uint8_t)(k * k * (i + 1));
        snprintf(name, sizeof name, "photos/%zu.png", i);
        ok(ck_image_write(fixture_path(&f, name), &image, NULL, 0, true, &err));
        ck_image_free(&image);
        snprintf(name, sizeof name, "photos/%zu.txt", i);
        fixture_file(&f, name, i % 3 ? "a red shoe" : "a bag", i % 3 ? 10 : 5);
    }
}

static void open_source(source *s) {
    const ck_backend *backend;
    *s = (source){0};
    ok(ck_backend_open("cpu", &backend, &err));
    ok(ck_model_open("tests/data/models/base", NULL, &s->model, &err));
    ok(ck_dataset_open_folder(fixture_path(&f, "photos"), 1, &s->data, &err));
    ok(ck_buckets_make(s->data, 32, 8, &s->buckets, &err));
    assert_int_equal(s->buckets.count, 2);
    s->e = (ck_encoding){&s->model, backend, s->data, &s->buckets};
}

static void close_source(source *s) {
    ck_buckets_free(&s->buckets);
    ck_dataset_close(s->data);
    ck_model_close(&s->model);
}

typedef struct values {
    const ck_encoding *e;
    float *of[32];
    size_t n[32];
} values;

static ck_status keep(void *self, size_t item, const float *x, ck_error *e) {
    values *v = self;
    (void)e;
    v->n[item] = ck_encoding_size(v->e, item);
    v->of[item] = ck_alloc_array(v->n[item], sizeof *x);
    memcpy(v->of[item], x, v->n[item] * sizeof *x);
    return CK_OK;
}

static void check_items(const source *s, const char *path, ck_dtype dtype) {
    values v = {.e = &s->e};
    ck_cache *c;
    size_t items = ck_encoding_items(&s->e);
    assert_int_equal(items, 3 + 10);
    ok(ck_encode(&s->e, 0, keep, &v, &err));
    ok(ck_cache_open(&s->e, path, &c, &err));
    for (size_t i = 0; i < items; i++) {
        size_t item = i * 7 % items; /* in no order */
        float *x = ck_alloc_array(v.n[item], sizeof *x);
        ok(ck_cache_read(c, item, x, &err));
        if (dtype == CK_F16) {
            uint16_t *half = ck_alloc_array(v.n[item], sizeof *half);
            ck_kernels_best()->encode[CK_F16](half, v.of[item], v.n[item]);
            ck_kernels_best()->decode[CK_F16](v.of[item], half, v.n[item]);
            free(half);
        }
        assert_memory_equal(x, v.of[item], v.n[item] * sizeof *x);
        free(x), free(v.of[item]);
    }
    ck_cache_close(c);
}

static void test_same(void **state) {
    (void)state;
    source s;
    make_photos();
    open_source(&s);
    const ck_dtype dtypes[] = {CK_F32, CK_F16};
    for (int i = 0; i < 2; i++) {
        const char *path = fixture_path(&f, "x.h5");
        ok(ck_cache_make(&s.e, path, dtypes[i], &err));
        check_items(&s, path, dtypes[i]);
    }
    assert_int_equal(fixture_entries(&f), 2); /* photos and x.h5: nothing is left over */
    close_source(&s);
}

/* What it was made of is in it. */
static void test_stale(void **state) {
    (void)state;
    source s;
    ck_cache *c;
    char path[256];
    make_photos();
    open_source(&s);
    snprintf(path, sizeof path, "%s", fixture_path(&f, "x.h5"));
    assert_int_equal(ck_cache_open(&s.e, path, &c, &err), CK_IO);
    assert_non_null(strstr(err.message, "ckdistill cache"));
    ok(ck_cache_make(&s.e, path, CK_F32, &err));

    s.model.vae_config.scale *= 2;
    assert_int_equal(ck_cache_open(&s.e, path, &c, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "another VAE"));
    s.model.vae_config.scale /= 2;

    ck_params *text = s.model.text[0].params;
    s.model.text[0].params = s.model.vae;
    assert_int_equal(ck_cache_open(&s.e, path, &c, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "other text encoders"));
    s.model.text[0].params = text;

    ck_buckets_free(&s.buckets);
    ok(ck_buckets_make(s.data, 32, 32, &s.buckets, &err));
    assert_int_equal(ck_cache_open(&s.e, path, &c, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "other sizes"));
    close_source(&s);

    fixture_file(&f, "photos/4.txt", "a hat", 5);
    open_source(&s);
    assert_int_equal(ck_cache_open(&s.e, path, &c, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "other images or captions"));
    /* Made anew, not kept. */
    ok(ck_cache_make(&s.e, path, CK_F32, &err));
    ok(ck_cache_open(&s.e, path, &c, &err));
    ck_cache_close(c);
    close_source(&s);
}

/* A bit that changed in the data is found when it is read. */
static void test_damaged(void **state) {
    (void)state;
    source s;
    ck_cache *c;
    size_t n, refused = 0;
    make_photos();
    open_source(&s);
    ok(ck_cache_make(&s.e, fixture_path(&f, "x.h5"), CK_F32, &err));
    unsigned char *bytes = fixture_read(fixture_path(&f, "x.h5"), &n);
    bytes[n / 2] ^= 16; /* among the captions or latents: all but a few KiB are */
    const char *path = fixture_file(&f, "x.h5", bytes, n);
    free(bytes);
    ok(ck_cache_open(&s.e, path, &c, &err));
    float *x = ck_alloc_array(1 << 16, sizeof *x);
    for (size_t i = 0; i < ck_encoding_items(&s.e); i++) {
        ck_status status = ck_cache_read(c, i, x, &err);
        assert_true(status == CK_OK || status == CK_INPUT);
        if (status == CK_INPUT) assert_non_null(strstr(err.message, "x.h5"));
        refused += status == CK_INPUT;
    }
    assert_true(refused > 0);
    free(x);
    ck_cache_close(c);
    close_source(&s);
}

/* Killed again and again, it ends with the same bytes. */
static void test_killed(void **state) {
    (void)state;
    source s;
    char whole[256], killed[256];
    make_photos();
    open_source(&s);
    snprintf(whole, sizeof whole, "%s", fixture_path(&f, "whole.h5"));
    snprintf(killed, sizeof killed, "%s", fixture_path(&f, "killed.h5"));
    ok(ck_cache_make(&s.e, whole, CK_F16, &err));
    close_source(&s);
    unsigned random = 99;
    for (int i = 0; i < 20 && access(killed, F_OK) != 0; i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            open_source(&s);
            _exit(ck_cache_make(&s.e, killed, CK_F16, &err));
        }
        random = random * 1103515245 + 12345;
        usleep(2000 + (random >> 8) % 40000);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    open_source(&s);
    ok(ck_cache_make(&s.e, killed, CK_F16, &err));
    close_source(&s);
    size_t n, m;
    unsigned char *a = fixture_read(whole, &n), *b = fixture_read(killed, &m);
    assert_true(n == m && memcmp(a, b, n) == 0);
    free(a), free(b);
}

/* A journal that was cut or damaged anywhere is of use up to there. */
static void test_part(void **state) {
    (void)state;
    source s;
    char path[256];
    make_photos();
    open_source(&s);
    snprintf(path, sizeof path, "%s", fixture_path(&f, "x.h5"));
    ok(ck_cache_make(&s.e, path, CK_F32, &err));
    size_t n, m, part_size;
    unsigned char *good = fixture_read(path, &n);
    /* A disk that is full at the end leaves the journal. */
    unlink(path);
    for (fault_first(FAULT_RENAME, ENOSPC); fault_more();) {
        fault_arm();
        ck_status status = ck_cache_make(&s.e, path, CK_F32, &err);
        fault_disarm();
        if (!fault_hit()) break;
        assert_int_equal(status, CK_IO);
        assert_int_equal(access(path, F_OK), -1);
        unsigned char *part = fixture_read(fixture_path(&f, "x.h5.part"), &part_size);
        for (int i = 0; i < 4; i++) {
            size_t at = (size_t)i * part_size / 4 + 100;
            part[at] ^= 1;
            fixture_file(&f, "x.h5.part", part, i % 2 ? at + 1 : part_size);
            part[at] ^= 1;
            ok(ck_cache_make(&s.e, path, CK_F32, &err));
            unsigned char *again = fixture_read(path, &m);
            assert_true(n == m && memcmp(good, again, n) == 0);
            free(again);
            unlink(path);
        }
        free(part);
    }
    free(good);
    close_source(&s);
}

/* The disk is full at every instant: the file is whole or absent, and the next call makes it. */
static void test_full_disk(void **state) {
    (void)state;
    source s;
    char path[256];
    int faults = 0;
    make_photos();
    open_source(&s);
    snprintf(path, sizeof path, "%s", fixture_path(&f, "x.h5"));
    for (fault_first(FAULT_PWRITE, ENOSPC); fault_more();) {
        unlink(fixture_path(&f, "x.h5.part"));
        fault_arm();
        ck_status status = ck_cache_make(&s.e, path, CK_F32, &err);
        fault_disarm();
        assert_int_equal(status, fault_hit() ? CK_IO : CK_OK);
        assert_int_equal(access(path, F_OK), fault_hit() ? -1 : 0);
        faults += fault_hit();
    }
    assert_true(faults > 20);
    close_source(&s);
}

/* ---- Runs ---- */

static const char *config(const char *more) {
    char text[1024], here[512];
    assert_non_null(getcwd(here, sizeof here));
    snprintf(text, sizeof text,
             "{\"task\": \"images\", \"teacher\": \"%s/tests/data/models/base\", \"threads\": 1, "
             "\"method\": {\"name\": \"finetune\"}, \"steps\": 6, \"batch\": 4, "
             "\"accumulate\": 2, \"save_every\": 2, \"evaluate\": {\"steps\": [], \"teacher\": "
             "false}, \"data\": {\"images\": \"photos\"%s}}\n",
             here, more);
    return fixture_file(&f, "config.json", text, strlen(text));
}

static unsigned char *run(const char *name, const char *more, size_t *n) {
    static const ck_run_options quietly = {.quiet = true};
    char path[300];
    ok(ck_run_start(config(more), NULL, 0, fixture_path(&f, name), &quietly, &err));
    snprintf(path, sizeof path, "%s/student.safetensors", fixture_path(&f, name));
    return fixture_read(path, n);
}

/* With a cache and a thread that reads it ahead, training gives the same bits. */
static void test_run(void **state) {
    (void)state;
    static const char with[] = ", \"cache\": \"x.h5\"";
    const ck_backend *backend;
    ck_config *c;
    size_t n, m;
    make_photos();
    unsigned char *without = run("a", "", &n);
    ok(ck_backend_open("cpu", &backend, &err));
    ok(ck_config_load(config(with), NULL, 0, &c, &err));
    ok(ck_task_cache(c, backend, &err));
    ck_config_free(c);
    unsigned char *cached = run("b", with, &m);
    assert_true(n == m && memcmp(without, cached, n) == 0);
    free(without), free(cached);
}

/* ---- Several sizes ---- */

#define SIZES ", \"buckets\": true"

/* Of every pass over the data each bucket's batches are their share, and each of its images comes
 * as often as the others. Told by data whose latents are known: a bucket's x0 are its items. */
static void test_order(void **state) {
    (void)state;
    enum { BATCH = 2, ROUNDS = 40 };
    const ck_backend *backend;
    ck_config *c;
    ck_task *t;
    ck_latents *known;
    source s;
    int seen[2][10] = {{0}};
    make_photos();
    for (int i = 0; i < 4; i++) {
        char name[32];
        snprintf(name, sizeof name, "photos/%d.png", 2 * i);
        unlink(fixture_path(&f, name));
    }
    open_source(&s);
    assert_true(s.buckets.buckets[0].count == 5 && s.buckets.buckets[1].count == 1);
    ok(ck_latents_encode(&s.e, &known, &err));
    ok(ck_backend_open("cpu", &backend, &err));
    ok(ck_config_load(config(SIZES), NULL, 0, &c, &err));
    ok(ck_task_open(c, backend, 3, BATCH, CK_OPEN_WHOLE, &t, &err));
    assert_int_equal(t->size_count, 2);
    size_t text = ck_encoding_text(&s.e), n = ck_encoding_latent(&s.e, 0);
    assert_int_equal(n, ck_encoding_latent(&s.e, 1));
    float *x0 = malloc(BATCH * n * sizeof *x0), *one = malloc(n * sizeof *one);
    float *said = malloc(2 * BATCH * text * sizeof *said);
    for (uint64_t round = 0; round < ROUNDS; round++) {
        ck_batch b = {.seed = 3, .round = round, .total = BATCH, .count = BATCH};
        b.numbers = BATCH * n, b.x0 = x0, b.context = said, b.no_context = said + BATCH * text;
        size_t bucket = t->data.size(t->data.self, b.seed, round, BATCH);
        ok(t->data.batch(t->data.self, &b, &err));
        for (size_t k = 0; k < BATCH; k++) {
            size_t i = 0;
            for (; i < s.buckets.buckets[bucket].count; i++) {
                ok(ck_latents_read(known, ck_encoding_image(&s.e, bucket, i), one, &err));
                if (memcmp(one, x0 + k * n, n * sizeof *one) == 0) break;
            }
            assert_true(i < s.buckets.buckets[bucket].count);
            seen[bucket][i]++;
        }
    }
    /* 5 / 2, rounded, and 1 batch a pass: 10 passes of 3 and 1. */
    for (int i = 0; i < 5; i++) assert_int_equal(seen[0][i], 10 * 3 * BATCH / 5);
    assert_int_equal(seen[1][0], 10 * BATCH);
    free(x0), free(one), free(said);
    ck_latents_close(known);
    ck_task_close(t);
    ck_config_free(c);
    close_source(&s);
}

/* With two sizes training gives the same bits from a cache, and after it was interrupted. */
static void test_sizes(void **state) {
    (void)state;
    static const char with[] = SIZES ", \"cache\": \"x.h5\"";
    const ck_run_options quietly = {.quiet = true};
    const ck_backend *backend;
    ck_config *c;
    size_t n, m, k;
    make_photos();
    unsigned char *one = run("one", "", &n);
    unsigned char *whole = run("whole", SIZES, &m);
    assert_true(n == m && memcmp(one, whole, n) != 0);
    ok(ck_backend_open("cpu", &backend, &err));
    ok(ck_config_load(config(with), NULL, 0, &c, &err));
    ok(ck_task_cache(c, backend, &err));
    ck_config_free(c);
    unsigned char *cached = run("cached", with, &k);
    assert_true(k == m && memcmp(whole, cached, m) == 0);
    /* From the middle on, as if it had been killed. */
    unlink(fixture_path(&f, "cached/student.safetensors"));
    program_expect(program_run(f.folder, "rm -r cached/checkpoints/*6 cached/checkpoints/latest"),
                   0, NULL, NULL);
    ok(ck_run_resume(fixture_path(&f, "cached"), &quietly, &err));
    unsigned char *resumed = fixture_read(fixture_path(&f, "cached/student.safetensors"), &k);
    assert_true(k == m && memcmp(whole, resumed, m) == 0);
    free(one), free(whole), free(cached), free(resumed);
}

/* ---- Ahead ---- */

typedef struct counter {
    int calls;
    uint64_t fails; /* this round does */
} counter;

static ck_status count(void *self, const ck_batch *b, ck_error *e) {
    counter *c = self;
    c->calls++;
    if (b->round == c->fails) return ck_fail(e, CK_IO, "round %d", (int)b->round);
    b->x0[0] = (float)(b->seed * 100 + b->round);
    return CK_OK;
}

static void test_prefetch(void **state) {
    (void)state;
    counter c = {.fails = 5};
    ck_prefetch *p;
    float x;
    ck_batch b = {.seed = 1, .total = 1, .count = 1, .numbers = 1, .x0 = &x};
    const ck_data from = {&c, count, NULL};
    ok(ck_prefetch_new(&from, 1, 0, &p, &err));
    ck_data data = ck_prefetch_data(p);
    for (; b.round < 5; b.round++) {
        ok(data.batch(data.self, &b, &err));
        assert_true(x == 100 + (float)b.round);
    }
    assert_int_equal(data.batch(data.self, &b, &err), CK_IO);
    assert_string_equal(err.message, "round 5");
    /* Back, with another seed. */
    b.round = 2, b.seed = 3;
    ok(data.batch(data.self, &b, &err));
    assert_true(x == 302);
    ck_prefetch_free(p);
    assert_true(c.calls >= 7 && c.calls <= 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_same, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_stale, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_damaged, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_part, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_full_disk, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_run, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_sizes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_prefetch, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("cache", tests, NULL, NULL);
}

#endif
