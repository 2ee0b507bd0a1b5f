/* Plan and engine in one process: values against the reference, every policy, the same bytes
 * however the work is cut up, and outputs that are whole or absent whatever fails. */
#include "io/os.h"
#include "merge/engine.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"
#include "tests/reference.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

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

/* ---- Models ---- */

static size_t bytes(ck_dtype d) {
    return ck_dtype_bits(d) / 8;
}

/* n random values of about 0.1, encoded by the reference; the caller frees. */
static void *random_data(ck_dtype d, size_t n, uint64_t seed) {
    unsigned char *data = malloc(n * bytes(d) + 1);
    for (size_t i = 0; i < n; i++)
        ref_encode(d, fixture_random_float(&seed) * 0.1f, data + i * bytes(d));
    return data;
}

enum { SMALL = 7, ODD = 2049, LARGE = 70001 };

/* A model of four float tensors of odd sizes, one of integers and one empty. */
static const char *make_model(const char *name, ck_dtype d, uint64_t seed) {
    static const int64_t ids[3] = {1, -2, 3};
    void *data[4] = {random_data(d, LARGE, seed), random_data(d, ODD, seed + 1),
                     random_data(d, SMALL, seed + 2), random_data(d, 1, seed + 3)};
    const fixture_tensor tensors[] = {
        {.name = "ids", .dtype = CK_I64, .shape = {3}, .rank = 1, .data = ids},
        {.name = "large", .dtype = d, .shape = {LARGE}, .rank = 1, .data = data[0]},
        {.name = "odd", .dtype = d, .shape = {3, 683}, .rank = 2, .data = data[1]},
        {.name = "part.small", .dtype = d, .shape = {SMALL}, .rank = 1, .data = data[2]},
        {.name = "part.scalar", .dtype = d, .rank = 0, .data = data[3]},
        {.name = "empty", .dtype = CK_F32, .shape = {0}, .rank = 1, .data = data[0]},
    };
    const char *path = fixture_safetensors(&folder, name, tensors, 6, "{\"origin\":\"test\"}");
    for (int i = 0; i < 4; i++) free(data[i]);
    return path;
}

/* ---- Merging ---- */

typedef struct merging {
    ck_recipe recipe;
    ck_reader *readers[CK_MAX_MODELS];
    ck_plan *plan;
    ck_error err;
} merging;

/* Reads a recipe whose models are at paths "a", "b", ... in the folder, opens them, plans. */
static ck_status prepare(merging *m, const char *json) {
    *m = (merging){0};
    CK_TRY(
        ck_recipe_parse("test", json, strlen(json), folder.folder, NULL, 0, &m->recipe, &m->err));
    for (size_t i = 0; i < m->recipe.model_count; i++)
        CK_TRY(ck_reader_open(m->recipe.models[i].path, &m->readers[i], &m->err));
    return ck_plan_make(&m->recipe, m->readers, &m->plan, &m->err);
}

static void release(merging *m) {
    ck_plan_free(m->plan);
    for (size_t i = 0; i < m->recipe.model_count; i++) ck_reader_close(m->readers[i]);
    ck_recipe_free(&m->recipe);
}

static ck_status run_with(const char *json, const char *path, const ck_run_options *o,
                          ck_error *err, uint64_t *clipped) {
    merging m;
    ck_run_result result = {0};
    ck_status status = prepare(&m, json);
    if (status == CK_OK)
        status = ck_run(m.plan, path, o, &result, err);
    else
        *err = m.err;
    if (clipped) *clipped = result.clipped;
    free(result.model_sha256);
    release(&m);
    return status;
}

static const ck_run_options defaults = {.threads = 2, .replace = true};

static void run(const char *json, const char *path) {
    ck_error err;
    if (run_with(json, path, &defaults, &err, NULL) != CK_OK) fail_msg("%s: %s", json, err.message);
}

/* Planning or running must fail with this text in the message. */
static void refused(const char *json, const char *text) {
    ck_error err = {0};
    const char *path = fixture_path(&folder, "refused.out");
    if (run_with(json, path, &defaults, &err, NULL) == CK_OK) fail_msg("%s: was accepted", json);
    if (!strstr(err.message, text)) fail_msg("'%s' lacks '%s'", err.message, text);
    assert_int_not_equal(access(path, F_OK), 0);
}

static ck_reader *open_file(const char *path) {
    ck_reader *r;
    ck_error err;
    if (ck_reader_open(path, &r, &err) != CK_OK) fail_msg("%s", err.message);
    return r;
}

/* A tensor's bytes; the caller frees. */
static void *read_tensor(const ck_reader *r, const char *name) {
    const ck_tensor *t = ck_reader_find(r, name);
    if (!t) fail_msg("%s has no '%s'", ck_reader_path(r), name);
    ck_error err;
    void *data = malloc(t->nbytes + 1);
    if (ck_reader_read(r, t, 0, data, t->nbytes, &err) != CK_OK) fail_msg("%s", err.message);
    return data;
}

static void same_tensor(const ck_reader *a, const char *in_a, const ck_reader *b,
                        const char *in_b) {
    const ck_tensor *x = ck_reader_find(a, in_a), *y = ck_reader_find(b, in_b);
    assert_non_null(x);
    assert_non_null(y);
    assert_int_equal(x->nbytes, y->nbytes);
    void *p = read_tensor(a, in_a), *q = read_tensor(b, in_b);
    assert_memory_equal(p, q, x->nbytes);
    free(p);
    free(q);
}

static void same_file(const char *a, const char *b) {
    size_t n, m;
    unsigned char *x = fixture_read(a, &n), *y = fixture_read(b, &m);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    free(x);
    free(y);
}

#define TWO(rest) "{\"ckmerge_recipe\":1,\"models\":{\"a\":\"a\",\"b\":\"b\"},\"merge\":" rest "}"
#define THREE(rest)                                                                                \
    "{\"ckmerge_recipe\":1,\"models\":{\"a\":\"a\",\"b\":\"b\",\"c\":\"c\"},\"merge\":" rest "}"
#define WS(alpha) "{\"method\":\"weighted-sum\",\"inputs\":[\"a\",\"b\"],\"alpha\":" alpha "}"
#define AD(alpha)                                                                                  \
    "{\"method\":\"add-difference\",\"inputs\":[\"a\",\"b\",\"c\"],\"alpha\":" alpha "}"

/* ---- Values ---- */

static float value(ck_dtype d, const unsigned char *data, size_t i) {
    return (float)ref_decode(d, data + i * bytes(d));
}

/* Every dtype of A with every dtype of B, in A's dtype and in another. */
static void test_weighted_sum_of_all_dtypes(void **state) {
    (void)state;
    static const ck_dtype dtypes[] = {CK_F32, CK_F16, CK_BF16, CK_F8_E4M3, CK_F8_E5M2, CK_F64};
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < 6; j++)
            for (int half = 0; half < 2; half++) {
                ck_reader *a = open_file(make_model("a", dtypes[i], 1));
                ck_reader *b = open_file(make_model("b", dtypes[j], 100));
                const char *out = fixture_path(&folder, "out");
                run(half ? TWO(WS("0.3") ",\"dtype\":\"f16\"") : TWO(WS("0.3")), out);
                ck_reader *o = open_file(out);
                ck_dtype want_type = half ? CK_F16 : dtypes[i];
                const char *const names[] = {"large", "odd", "part.small", "part.scalar"};
                for (int t = 0; t < 4; t++) {
                    const ck_tensor *tensor = ck_reader_find(o, names[t]);
                    assert_int_equal(tensor->dtype, want_type);
                    unsigned char *x = read_tensor(a, names[t]), *y = read_tensor(b, names[t]),
                                  *z = read_tensor(o, names[t]), want[8];
                    for (size_t e = 0; e < tensor->elements; e++) {
                        ref_encode(
                            want_type,
                            ref_weighted_sum(value(dtypes[i], x, e), value(dtypes[j], y, e), 0.3f),
                            want);
                        assert_memory_equal(z + e * bytes(want_type), want, bytes(want_type));
                    }
                    free(x), free(y), free(z);
                }
                same_tensor(a, "ids", o, "ids");
                assert_int_equal(ck_reader_find(o, "empty")->dtype, CK_F32);
                ck_reader_close(a), ck_reader_close(b), ck_reader_close(o);
            }
}

/* alpha 0 gives A's bytes even where B would turn them into NaN; alpha 1 B's. */
static void test_ends_are_exact(void **state) {
    (void)state;
    const uint16_t a[] = {0x7C01, 0x8000, 0xFFFF, 0x3C00}, b[] = {0x7C00, 0xFC00, 0x7E01, 0x8001};
    fixture_tensor t = {.name = "x", .dtype = CK_F16, .shape = {4}, .rank = 1, .data = a};
    fixture_safetensors(&folder, "a", &t, 1, NULL);
    t.data = b;
    fixture_safetensors(&folder, "b", &t, 1, NULL);
    const char *out = fixture_path(&folder, "out");
    for (int alpha = 0; alpha < 2; alpha++) {
        run(alpha ? TWO(WS("1")) : TWO(WS("0")), out);
        ck_reader *o = open_file(out);
        void *x = read_tensor(o, "x");
        assert_memory_equal(x, alpha ? b : a, sizeof a);
        free(x);
        ck_reader_close(o);
    }
}

static void test_add_difference(void **state) {
    (void)state;
    ck_reader *a = open_file(make_model("a", CK_F16, 1)),
              *b = open_file(make_model("b", CK_F16, 9)),
              *c = open_file(make_model("c", CK_BF16, 17));
    const char *out = fixture_path(&folder, "out");
    run(THREE(AD("0.7")), out);
    ck_reader *o = open_file(out);
    unsigned char *x = read_tensor(a, "large"), *y = read_tensor(b, "large"),
                  *z = read_tensor(c, "large"), *r = read_tensor(o, "large"), want[2];
    for (size_t e = 0; e < LARGE; e++) {
        ref_encode(CK_F16,
                   ref_add_difference(value(CK_F16, x, e), value(CK_F16, y, e),
                                      value(CK_BF16, z, e), 0.7f),
                   want);
        assert_memory_equal(r + 2 * e, want, 2);
    }
    free(x), free(y), free(z), free(r);
    ck_reader_close(a), ck_reader_close(b), ck_reader_close(c), ck_reader_close(o);
}

static void test_linear(void **state) {
    (void)state;
    ck_reader *a = open_file(make_model("a", CK_F32, 1)),
              *b = open_file(make_model("b", CK_F32, 9)),
              *c = open_file(make_model("c", CK_F32, 17));
    const char *out = fixture_path(&folder, "out");
    run(THREE("{\"method\":\"linear\",\"inputs\":[\"a\",\"b\",\"c\"],\"weight\":[1,2,5]}"), out);
    ck_reader *o = open_file(out);
    float *x = read_tensor(a, "odd"), *y = read_tensor(b, "odd"), *z = read_tensor(c, "odd"),
          *r = read_tensor(o, "odd");
    for (size_t e = 0; e < ODD; e++) {
        float want = fmaf(0.625f, z[e], fmaf(0.25f, y[e], 0.125f * x[e]));
        assert_memory_equal(&r[e], &want, sizeof want);
    }
    free(x), free(y), free(z), free(r);
    ck_reader_close(a), ck_reader_close(b), ck_reader_close(c), ck_reader_close(o);
}

/* A nested expression is one pass, and the same as two passes over an f32 file. */
static void test_nested(void **state) {
    (void)state;
    make_model("a", CK_F16, 1), make_model("b", CK_F16, 9), make_model("c", CK_F16, 17);
    const char *one = fixture_path(&folder, "one"), *two = fixture_path(&folder, "two");
    run(THREE(
            "{\"method\":\"add-difference\",\"inputs\":[" WS("0.4") ",\"b\",\"c\"],\"alpha\":0.5},"
                                                                    "\"dtype\":\"f16\""),
        one);
    run(TWO(WS("0.4") ",\"dtype\":\"f32\""), fixture_path(&folder, "middle"));
    run("{\"ckmerge_recipe\":1,\"models\":{\"a\":\"middle\",\"b\":\"b\",\"c\":\"c\"},\"merge\":" AD(
            "0.5") ",\"dtype\":\"f16\"}",
        two);
    same_file(one, two);
}

/* A method that looks at whole tensors, inside an expression: the same bytes however the work is
 * cut up, and what the inner products say. */
static void test_whole_tensors(void **state) {
    (void)state;
    ck_reader *a = open_file(make_model("a", CK_F32, 1)),
              *b = open_file(make_model("b", CK_F32, 9));
    const char *out = fixture_path(&folder, "out"), *again = fixture_path(&folder, "again");
    run(TWO("{\"method\":\"slerp\",\"inputs\":[\"a\",\"b\"],\"alpha\":0.25}"), out);
    ck_reader *o = open_file(out);
    float *x = read_tensor(a, "large"), *y = read_tensor(b, "large"), *r = read_tensor(o, "large");
    double xx = 0, yy = 0, xy = 0;
    for (size_t e = 0; e < LARGE; e++) {
        xx += (double)x[e] * (double)x[e];
        yy += (double)y[e] * (double)y[e];
        xy += (double)x[e] * (double)y[e];
    }
    double w = acos(xy / sqrt(xx) / sqrt(yy));
    for (size_t e = 0; e < LARGE; e++) {
        double want = (sin(0.75 * w) * (double)x[e] + sin(0.25 * w) * (double)y[e]) / sin(w);
        assert_true(fabs((double)r[e] - want) < 1e-7);
    }
    free(x), free(y), free(r);
    ck_reader_close(a), ck_reader_close(b), ck_reader_close(o);
    const char *nested =
        TWO("{\"method\":\"slerp\",\"inputs\":[{\"method\":\"slerp\",\"inputs\":[\"a\","
            "\"b\"],\"alpha\":0.25},\"b\"],\"alpha\":0.5}");
    run(nested, out);
    const unsigned threads[] = {1, 2, 7};
    for (int t = 0; t < 3; t++)
        for (size_t chunk = 4096; chunk <= 65536; chunk *= 16) {
            ck_error err;
            ck_run_options options = {.threads = threads[t], .chunk_bytes = chunk, .replace = true};
            assert_int_equal(run_with(nested, again, &options, &err, NULL), CK_OK);
            same_file(out, again);
        }
}

static int descending(const void *a, const void *b) {
    float x = fabsf(*(const float *)a), y = fabsf(*(const float *)b);
    return x < y ? 1 : x > y ? -1 : 0;
}

/* TIES of one model keeps exactly the largest changes; nor do DARE and what holds whole tensors, in
 * rounds, depend on the work. */
static void test_largest_changes(void **state) {
    (void)state;
    ck_reader *a = open_file(make_model("a", CK_F32, 1)),
              *b = open_file(make_model("b", CK_F32, 9));
    const char *out = fixture_path(&folder, "out"), *again = fixture_path(&folder, "again");
    run(TWO("{\"method\":\"ties\",\"inputs\":[\"a\",\"b\"],\"density\":[0.1]}"), out);
    ck_reader *o = open_file(out);
    float *x = read_tensor(a, "large"), *y = read_tensor(b, "large"), *r = read_tensor(o, "large");
    float *sorted = malloc(LARGE * sizeof *sorted);
    for (size_t e = 0; e < LARGE; e++) sorted[e] = y[e] - x[e];
    qsort(sorted, LARGE, sizeof *sorted, descending);
    float least = fabsf(sorted[LARGE / 10 - 1]);
    for (size_t e = 0; e < LARGE; e++) {
        float change = y[e] - x[e], want = fabsf(change) >= least ? x[e] + change : x[e];
        assert_memory_equal(&r[e], &want, sizeof want);
    }
    free(x), free(y), free(r), free(sorted);
    ck_reader_close(a), ck_reader_close(b), ck_reader_close(o);
    const char *const jsons[] = {
        TWO("{\"method\":\"ties\",\"inputs\":[\"a\",\"b\"],\"density\":[0.3]}"),
        TWO("{\"method\":\"dare-ties\",\"inputs\":[\"a\",\"b\"],\"density\":[0.3]},\"seed\":7"),
        TWO("{\"method\":\"top-k-tensor-sum\",\"inputs\":[\"a\",{\"method\":"
            "\"top-k-tensor-sum\",\"inputs\":[\"b\",\"a\"]}],\"alpha\":0.3}")};
    for (int j = 0; j < 3; j++) {
        run(jsons[j], out);
        const unsigned threads[] = {1, 2, 7};
        for (int t = 0; t < 3; t++)
            for (size_t chunk = 4096; chunk <= 65536; chunk *= 16) {
                ck_error err;
                ck_run_options options = {
                    .threads = threads[t], .chunk_bytes = chunk, .replace = true};
                assert_int_equal(run_with(jsons[j], again, &options, &err, NULL), CK_OK);
                same_file(out, again);
            }
    }
}

static void test_constants(void **state) {
    (void)state;
    ck_reader *a = open_file(make_model("a", CK_F32, 1));
    const char *out = fixture_path(&folder, "out");
    run("{\"ckmerge_recipe\":1,\"models\":{\"a\":\"a\"},\"merge\":{\"method\":\"linear\","
        "\"inputs\":"
        "[\"a\",2.5],\"weight\":[3,1],\"normalize\":\"off\"}}",
        out);
    ck_reader *o = open_file(out);
    float *x = read_tensor(a, "odd"), *r = read_tensor(o, "odd");
    for (size_t e = 0; e < ODD; e++) {
        float want = fmaf(1.0f, 2.5f, 3.0f * x[e]);
        assert_memory_equal(&r[e], &want, sizeof want);
    }
    free(x), free(r);
    ck_reader_close(a), ck_reader_close(o);
}

/* ---- Policies ---- */

static const char *one_tensor(const char *file, const char *name, ck_dtype d, const uint64_t *shape,
                              size_t rank, const void *data) {
    fixture_tensor t = {.name = name, .dtype = d, .rank = rank, .data = data};
    memcpy(t.shape, shape, rank * sizeof *shape);
    return fixture_safetensors(&folder, file, &t, 1, NULL);
}

static void test_missing_and_extra(void **state) {
    (void)state;
    const float v[4] = {1, 2, 3, 4};
    const fixture_tensor in_a[] = {
        {.name = "both", .dtype = CK_F32, .shape = {4}, .rank = 1, .data = v},
        {.name = "only_a", .dtype = CK_F32, .shape = {4}, .rank = 1, .data = v}};
    const fixture_tensor in_b[] = {
        {.name = "both", .dtype = CK_F32, .shape = {4}, .rank = 1, .data = v},
        {.name = "only_b", .dtype = CK_F16, .shape = {4}, .rank = 1, .data = v}};
    ck_reader *a = open_file(fixture_safetensors(&folder, "a", in_a, 2, NULL));
    ck_reader *b = open_file(fixture_safetensors(&folder, "b", in_b, 2, NULL));
    const char *out = fixture_path(&folder, "out");

    run(TWO(WS("0.5")), out);
    ck_reader *o = open_file(out);
    same_tensor(a, "only_a", o, "only_a");
    assert_null(ck_reader_find(o, "only_b"));
    ck_reader_close(o);

    run(TWO(WS("0.5") ",\"policies\":{\"missing\":\"drop\",\"extra\":\"keep\"}"), out);
    o = open_file(out);
    assert_null(ck_reader_find(o, "only_a"));
    same_tensor(b, "only_b", o, "only_b");
    assert_int_equal(ck_reader_find(o, "only_b")->dtype, CK_F16);
    ck_reader_close(o);

    refused(TWO(WS("0.5") ",\"policies\":{\"missing\":\"error\"}"), "'only_a'");
    ck_reader_close(a), ck_reader_close(b);
}

/* A tensor that C alone lacks: the difference is zero, A stays. */
static void test_missing_in_c(void **state) {
    (void)state;
    const float v[2] = {1, 2}, w[2] = {5, 5};
    const fixture_tensor both[] = {
        {.name = "x", .dtype = CK_F32, .shape = {2}, .rank = 1, .data = v},
        {.name = "y", .dtype = CK_F32, .shape = {2}, .rank = 1, .data = v}};
    fixture_tensor b[2] = {both[0], both[1]};
    b[0].data = b[1].data = w;
    fixture_safetensors(&folder, "a", both, 2, NULL);
    fixture_safetensors(&folder, "b", b, 2, NULL);
    fixture_safetensors(&folder, "c", both, 1, NULL);
    const char *out = fixture_path(&folder, "out");
    run(THREE(AD("1")), out);
    ck_reader *o = open_file(out);
    float *x = read_tensor(o, "x"), *y = read_tensor(o, "y");
    assert_memory_equal(x, w, sizeof w);
    assert_memory_equal(y, v, sizeof v);
    free(x), free(y);
    ck_reader_close(o);
}

static void test_shapes(void **state) {
    (void)state;
    const float v[12] = {0};
    one_tensor("a", "x", CK_F32, (uint64_t[]){3, 4}, 2, v);
    one_tensor("b", "x", CK_F32, (uint64_t[]){4, 3}, 2, v);
    refused(TWO(WS("0.5")), "tensor 'x' has shape [4,3], but [3,4] in the first model");
    one_tensor("b", "x", CK_F32, (uint64_t[]){12}, 1, v);
    refused(TWO(WS("0.5")), "has shape [12]");
    one_tensor("b", "x", CK_F32, (uint64_t[]){1, 4}, 2, v);
    refused(TWO(WS("0.5") ",\"policies\":{\"shape\":\"inpaint\"}"), "has shape [1,4]");
    one_tensor("b", "x", CK_I32, (uint64_t[]){3, 4}, 2, v);
    refused(TWO(WS("0.5")), "is I32, but F32");
}

/* A has 9 (or 8) input channels, B and C 4: the first four are mixed, the others are A's bits. */
static void test_inpaint(void **state) {
    (void)state;
    enum { OUT = 5, PLANE = 9 };
    for (int channels = 8; channels <= 9; channels++) {
        float *a = random_data(CK_F32, OUT * 9 * PLANE, 1),
              *b = random_data(CK_F32, OUT * 4 * PLANE, 2),
              *c = random_data(CK_F32, OUT * 4 * PLANE, 3);
        one_tensor("a", "w", CK_F32, (uint64_t[]){OUT, (uint64_t)channels, 3, 3}, 4, a);
        one_tensor("b", "w", CK_F32, (uint64_t[]){OUT, 4, 3, 3}, 4, b);
        one_tensor("c", "w", CK_F32, (uint64_t[]){OUT, 4, 3, 3}, 4, c);
        refused(THREE(AD("0.5")), "--shape inpaint");
        const char *out = fixture_path(&folder, "out");
        run(THREE(AD("0.5") ",\"policies\":{\"shape\":\"inpaint\"}"), out);
        ck_reader *o = open_file(out);
        float *r = read_tensor(o, "w");
        for (int i = 0; i < OUT * channels * PLANE; i++) {
            int row = i / (channels * PLANE), rest = i % (channels * PLANE);
            float want = a[i];
            if (rest < 4 * PLANE) {
                int j = row * 4 * PLANE + rest;
                want = ref_add_difference(a[i], b[j], c[j], 0.5f);
            }
            assert_memory_equal(&r[i], &want, sizeof want);
        }
        free(r), free(a), free(b), free(c);
        ck_reader_close(o);
    }
}

/* What is mixed comes out as with an A of four channels, also by methods that look at whole tensors
 * and by those that draw random numbers. */
static void test_inpaint_whole(void **state) {
    (void)state;
    enum { OUT = 50, PLANE = 9, WIDE = 9 * PLANE, NARROW = 4 * PLANE };
    static const char *const merges[] = {
        "{\"method\":\"slerp\",\"inputs\":[\"a\",\"b\"],\"alpha\":0.25}",
        "{\"method\":\"ties\",\"inputs\":[\"a\",\"b\"],\"density\":[0.3]}",
        "{\"method\":\"dare-linear\",\"inputs\":[\"a\",\"b\"],\"density\":[0.5]}",
        "{\"method\":\"perpendicular\",\"inputs\":[\"a\",\"b\",\"c\"]}",
    };
    float *a = random_data(CK_F32, OUT * WIDE, 1), *b = random_data(CK_F32, OUT * NARROW, 2),
          *c = random_data(CK_F32, OUT * NARROW, 3), narrow[OUT * NARROW];
    for (int o = 0; o < OUT; o++)
        memcpy(narrow + o * NARROW, a + o * WIDE, NARROW * sizeof *narrow);
    one_tensor("b", "w", CK_F32, (uint64_t[]){OUT, 4, 3, 3}, 4, b);
    one_tensor("c", "w", CK_F32, (uint64_t[]){OUT, 4, 3, 3}, 4, c);
    for (size_t i = 0; i < sizeof merges / sizeof *merges; i++) {
        char json[512];
        snprintf(json, sizeof json,
                 "{\"ckmerge_recipe\":1,\"models\":{\"a\":\"a\",\"b\":\"b\",\"c\":\"c\"},"
                 "\"merge\":%s,\"policies\":{\"shape\":\"inpaint\"}}",
                 merges[i]);
        one_tensor("a", "w", CK_F32, (uint64_t[]){OUT, 4, 3, 3}, 4, narrow);
        run(json, fixture_path(&folder, "plain"));
        one_tensor("a", "w", CK_F32, (uint64_t[]){OUT, 9, 3, 3}, 4, a);
        run(json, fixture_path(&folder, "out"));
        ck_reader *want = open_file(fixture_path(&folder, "plain")),
                  *got = open_file(fixture_path(&folder, "out"));
        float *x = read_tensor(want, "w"), *y = read_tensor(got, "w");
        for (int o = 0; o < OUT; o++) {
            assert_memory_equal(x + o * NARROW, y + o * WIDE, NARROW * sizeof *x);
            assert_memory_equal(a + o * WIDE + NARROW, y + o * WIDE + NARROW,
                                (WIDE - NARROW) * sizeof *x);
        }
        free(x), free(y);
        ck_reader_close(want), ck_reader_close(got);
    }
    free(a), free(b), free(c);
}

static void test_rules(void **state) {
    (void)state;
    ck_reader *a = open_file(make_model("a", CK_F16, 1)),
              *b = open_file(make_model("b", CK_BF16, 9));
    const char *out = fixture_path(&folder, "out");
    run(TWO(WS("0.3") ",\"rules\":[{\"keys\":\"part.s*r\",\"copy\":\"b\"},"
                      "{\"keys\":\"part.*\",\"exclude\":true},{\"keys\":\"od?\",\"set\":{\"alpha\":"
                      "1}},"
                      "{\"keys\":\"ids\",\"drop\":true}],\"dtype\":\"f32\""),
        out);
    ck_reader *o = open_file(out);
    assert_null(ck_reader_find(o, "ids"));
    uint16_t *x = read_tensor(a, "part.small"), *y = read_tensor(b, "part.scalar"),
             *z = read_tensor(b, "odd");
    float *small = read_tensor(o, "part.small"), *scalar = read_tensor(o, "part.scalar"),
          *odd = read_tensor(o, "odd");
    assert_true(small[3] == (float)ref_decode(CK_F16, &x[3]));
    assert_true(scalar[0] == (float)ref_decode(CK_BF16, y));
    assert_true(odd[77] == (float)ref_decode(CK_BF16, &z[77]));
    free(x), free(y), free(z), free(small), free(scalar), free(odd);
    ck_reader_close(a), ck_reader_close(b), ck_reader_close(o);
    refused(TWO(WS("0.3") ",\"rules\":[{\"keys\":\"*\",\"exclude\":true}]"), "nothing was mixed");
}

static void test_nothing_in_common(void **state) {
    (void)state;
    const float v[2] = {1, 2};
    one_tensor("a", "model.x", CK_F32, (uint64_t[]){2}, 1, v);
    one_tensor("b", "other.x", CK_F32, (uint64_t[]){2}, 1, v);
    refused(TWO(WS("0.5")), "nothing was mixed");
}

static void test_scaled_f8_is_refused(void **state) {
    (void)state;
    const float v[2] = {1, 2};
    one_tensor("a", "x.weight", CK_F32, (uint64_t[]){2}, 1, v);
    one_tensor("b", "x.scale_weight", CK_F32, (uint64_t[]){2}, 1, v);
    refused(TWO(WS("0.5")), "quantised weights that need their scales (tensor 'x.scale_weight')");
}

static void test_overflow_is_counted(void **state) {
    (void)state;
    const float v[6] = {70000, -70000, INFINITY, 65519, 65520, 1},
                w[6] = {70000, -70000, INFINITY, 65519, 65520, 1};
    one_tensor("a", "x", CK_F32, (uint64_t[]){6}, 1, v);
    one_tensor("b", "x", CK_F32, (uint64_t[]){6}, 1, w);
    uint64_t clipped;
    ck_error err;
    const char *out = fixture_path(&folder, "out");
    assert_int_equal(run_with(TWO(WS("0") ",\"dtype\":\"f16\""), out, &defaults, &err, &clipped),
                     CK_OK);
    assert_int_equal(clipped, 3);
    assert_int_equal(
        run_with(TWO(WS("0") ",\"dtype\":\"f8_e4m3\""), out, &defaults, &err, &clipped), CK_OK);
    assert_int_equal(clipped, 5);
    ck_reader *o = open_file(out);
    unsigned char *r = read_tensor(o, "x");
    assert_int_equal(r[0], 0x7E);
    assert_int_equal(r[1], 0xFE);
    free(r);
    ck_reader_close(o);
}

/* ---- The same bytes ---- */

static void test_bytes_do_not_depend_on_the_work(void **state) {
    (void)state;
    make_model("a", CK_F16, 1), make_model("b", CK_BF16, 9), make_model("c", CK_F32, 17);
    const char *json = THREE(
        "{\"method\":\"add-difference\",\"inputs\":[" WS("0.4") ",\"b\",\"c\"],\"alpha\":0.5}");
    const char *first = fixture_path(&folder, "first"), *again = fixture_path(&folder, "again");
    run(json, first);
    const unsigned threads[] = {1, 2, 7};
    const size_t chunks[] = {4096, 20480, 1 << 20};
    size_t tables;
    const ck_kernels *const *all = ck_kernels_all(&tables);
    for (size_t k = 0; k < tables; k++)
        for (int t = 0; t < 3; t++)
            for (int c = 0; c < 3; c++)
                for (int hash = 0; hash < 2; hash++) {
                    ck_error err;
                    ck_run_options o = {.threads = threads[t],
                                        .chunk_bytes = chunks[c],
                                        .replace = true,
                                        .hash_output = hash};
                    setenv("CK_ISA", all[k]->isa, 1);
                    assert_int_equal(run_with(json, again, &o, &err, NULL), CK_OK);
                    unsetenv("CK_ISA");
                    same_file(first, again);
                }
}

static void test_hashes(void **state) {
    (void)state;
    make_model("a", CK_F16, 1), make_model("b", CK_F16, 9);
    merging m;
    ck_run_result result;
    assert_int_equal(prepare(&m, TWO(WS("0.4"))), CK_OK);
    ck_run_options o = {.threads = 3,
                        .chunk_bytes = 8192,
                        .hash_models = true,
                        .hash_output = true,
                        .replace = true};
    const char *out = fixture_path(&folder, "out");
    assert_int_equal(ck_run(m.plan, out, &o, &result, &m.err), CK_OK);
    char sha256[CK_SHA256_HEX];
    assert_int_equal(ck_hash_sha256(out, sha256, NULL, NULL, &m.err), CK_OK);
    assert_string_equal(result.output_sha256, sha256);
    for (int i = 0; i < 2; i++) {
        ck_hash_sha256(ck_reader_path(m.readers[i]), sha256, NULL, NULL, &m.err);
        assert_string_equal(result.model_sha256[i], sha256);
    }
    free(result.model_sha256);
    release(&m);
}

static void test_wrong_hash_is_refused(void **state) {
    (void)state;
    make_model("a", CK_F16, 1), make_model("b", CK_F16, 9);
    const char *zeros = "0000000000000000000000000000000000000000000000000000000000000000";
    char json[1024];
    snprintf(
        json, sizeof json,
        "{\"ckmerge_recipe\":1,\"models\":{\"a\":\"a\",\"b\":{\"path\":\"b\",\"sha256\":\"%s\"}},"
        "\"merge\":" WS("0.5") "}",
        zeros);
    refused(json, "not the file that the recipe was made with");
    snprintf(json, sizeof json,
             "{\"ckmerge_recipe\":1,\"models\":{\"a\":\"a\",\"b\":\"b\"},\"merge\":" WS(
                 "0.5") ",\"lock\":{\"models\":{\"a\":\"%s\"}}}",
             zeros);
    refused(json, "not the file that the recipe was made with");
}

/* ---- Whole or absent ---- */

static void test_onto_an_input(void **state) {
    (void)state;
    make_model("a", CK_F16, 1), make_model("b", CK_F16, 9);
    const char *elsewhere = fixture_path(&folder, "elsewhere"), *a = fixture_path(&folder, "a");
    run(TWO(WS("0.4")), elsewhere);
    ck_error err;
    ck_run_options o = {.threads = 2};
    assert_int_equal(run_with(TWO(WS("0.4")), a, &o, &err, NULL), CK_USAGE);
    assert_non_null(strstr(err.message, "--force"));
    run(TWO(WS("0.4")), a);
    same_file(a, elsewhere);
}

static void test_cancel(void **state) {
    (void)state;
    make_model("a", CK_F16, 1), make_model("b", CK_F16, 9);
    volatile int cancel = 1;
    ck_run_options o = {.threads = 2, .cancel = &cancel};
    ck_error err;
    const char *out = fixture_path(&folder, "cancelled");
    int entries = fixture_entries(&folder);
    assert_int_equal(run_with(TWO(WS("0.4")), out, &o, &err, NULL), CK_CANCELLED);
    assert_int_equal(fixture_entries(&folder), entries);
}

/* The N-th call of each kind fails: no output and no leftovers, or a whole one; a message that
 * names a file; and the file that was to be replaced is untouched. */
static void test_faults(void **state) {
    (void)state;
    make_model("a", CK_F16, 1), make_model("b", CK_F16, 9);
    const char *good = fixture_path(&folder, "good"), *out = fixture_path(&folder, "fault.out");
    run(TWO(WS("0.4")), good);
    for (int replace = 0; replace < 2; replace++)
        for (int kind = 0; kind < FAULT_KINDS; kind++)
            for (fault_first((fault_kind)kind, EIO); fault_more();) {
                unlink(out);
                if (replace) fixture_file(&folder, "fault.out", "old", 3);
                int entries = fixture_entries(&folder);
                ck_error err = {0};
                ck_run_options o = {.threads = 2,
                                    .chunk_bytes = 65536,
                                    .replace = replace,
                                    .hash_output = true,
                                    .hash_models = true};
                fault_arm();
                ck_status status = run_with(TWO(WS("0.4")), out, &o, &err, NULL);
                fault_disarm();
                if (status == CK_OK) {
                    same_file(out, good);
                    continue;
                }
                assert_true(fault_hit());
                if (!*err.message) fail_msg("%s: no message", fault_name((fault_kind)kind));
                if (status == CK_IO && !strstr(err.message, folder.folder))
                    fail_msg("%s: '%s' names no file", fault_name((fault_kind)kind), err.message);
                /* After the file has its name only the folder's sync can fail. */
                if (strstr(err.message, "written, but")) {
                    same_file(out, good);
                    continue;
                }
                assert_int_equal(fixture_entries(&folder), entries);
                if (!replace) continue;
                size_t n;
                unsigned char *old = fixture_read(out, &n);
                assert_int_equal(n, 3);
                assert_memory_equal(old, "old", 3);
                free(old);
            }
}

static ssize_t slow_pwrite(int fd, const void *buf, size_t n, off_t offset) {
    usleep(200000);
    return pwrite(fd, buf, n, offset);
}

/* Kill -9 in mid-merge: nothing is left, not even a temporary file. */
static void test_killed(void **state) {
    (void)state;
    make_model("a", CK_F16, 1), make_model("b", CK_F16, 9);
    int entries = fixture_entries(&folder);
    const char *out = fixture_path(&folder, "killed.out");
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        ck_error err;
        ck_run_options o = {.threads = 2, .chunk_bytes = 4096};
        ck_os.pwrite = slow_pwrite;
        _exit(run_with(TWO(WS("0.4")), out, &o, &err, NULL) == CK_OK ? 0 : 1);
    }
    usleep(300000);
    kill(child, SIGKILL);
    int status;
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(fixture_entries(&folder), entries);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        /* Before any other thread exists: a child of a threaded process cannot start a team. */
        cmocka_unit_test_setup_teardown(test_killed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_weighted_sum_of_all_dtypes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ends_are_exact, setup, teardown),
        cmocka_unit_test_setup_teardown(test_add_difference, setup, teardown),
        cmocka_unit_test_setup_teardown(test_linear, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nested, setup, teardown),
        cmocka_unit_test_setup_teardown(test_whole_tensors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_largest_changes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_constants, setup, teardown),
        cmocka_unit_test_setup_teardown(test_missing_and_extra, setup, teardown),
        cmocka_unit_test_setup_teardown(test_missing_in_c, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shapes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_inpaint, setup, teardown),
        cmocka_unit_test_setup_teardown(test_inpaint_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rules, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_in_common, setup, teardown),
        cmocka_unit_test_setup_teardown(test_scaled_f8_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_overflow_is_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bytes_do_not_depend_on_the_work, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hashes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_hash_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_onto_an_input, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cancel, setup, teardown),
        cmocka_unit_test_setup_teardown(test_faults, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
