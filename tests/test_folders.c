/* Checkpoints of several files: shards with an index, and diffusers folders. */
#include "io/reader.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const float numbers[] = {1, 2, 3, 4, 5, 6, 7, 8};

/* A file of F32 tensors "name" [2] of the given names, whose values are the first letter's. */
static void write_tensors(const fixture *f, const char *file, const char *const *names,
                          size_t count, const char *metadata) {
    fixture_tensor tensors[4] = {0};
    for (size_t i = 0; i < count; i++)
        tensors[i] = (fixture_tensor){names[i], CK_F32, {2}, 1, numbers + (names[i][0] - 'a')};
    fixture_safetensors(f, file, tensors, count, metadata);
}

static void write_text(const fixture *f, const char *file, const char *text) {
    fixture_file(f, file, text, strlen(text));
}

static void folder(const fixture *f, const char *name) {
    assert_int_equal(mkdir(fixture_path(f, name), 0700), 0);
}

static void check_value(const ck_reader *r, const char *name, float first) {
    ck_error err;
    float values[2];
    const ck_tensor *t = ck_reader_find(r, name);
    assert_non_null(t);
    assert_int_equal(t->nbytes, sizeof values);
    assert_int_equal(ck_reader_read(r, t, 0, values, sizeof values, &err), CK_OK);
    assert_true(values[0] == first && values[1] == first + 1);
    assert_int_equal(ck_reader_read(r, t, 4, values, 4, &err), CK_OK);
    assert_true(values[0] == first + 1);
}

static ck_reader *opened(const char *path) {
    ck_error err;
    ck_reader *r;
    if (ck_reader_open(path, &r, &err) != CK_OK) fail_msg("%s", err.message);
    return r;
}

static void check_refused(const char *path, const char *message) {
    ck_error err;
    ck_reader *r;
    if (ck_reader_open(path, &r, &err) == CK_OK) fail_msg("accepted; expected '%s'", message);
    if (!strstr(err.message, message)) fail_msg("'%s' instead of '%s'", err.message, message);
}

/* ---- Shards ---- */

/* Tensors a, b in m-1 and c in m-2. */
static void make_shards(fixture *f) {
    fixture_make(f);
    write_tensors(f, "m-1.safetensors", (const char *const[]){"a", "b"}, 2,
                  "{\"format\":\"pt\",\"x\":\"y\"}");
    write_tensors(f, "m-2.safetensors", (const char *const[]){"c"}, 1, NULL);
}

#define INDEX(map) "{\"metadata\": {\"total_size\": 24}, \"weight_map\": {" map "}}\n"
#define GOOD       "\"c\": \"m-2.safetensors\", \"a\": \"m-1.safetensors\", \"b\": \"m-1.safetensors\""

static void test_shards(void **state) {
    (void)state;
    fixture f;
    make_shards(&f);
    write_text(&f, "m.safetensors.index.json", INDEX(GOOD));
    ck_reader *r = opened(fixture_path(&f, "m.safetensors.index.json"));
    assert_string_equal(ck_reader_format(r), "sharded");
    assert_int_equal(ck_reader_count(r), 3);
    check_value(r, "a", 1);
    check_value(r, "b", 2);
    check_value(r, "c", 3);
    ck_reader_close(r);
    /* Seen by content, whatever the name. */
    write_text(&f, "weights", " \n" INDEX(GOOD));
    r = opened(fixture_path(&f, "weights"));
    assert_int_equal(ck_reader_count(r), 3);
    ck_reader_close(r);
    fixture_remove(&f);
}

static void test_shards_refused(void **state) {
    (void)state;
    static const struct {
        const char *index, *message;
    } bad[] = {
        {"{\"weight_map\": {\"a\": \"m-1.safetensors\"", "bad.json"},
        {"{\"metadata\": {}}", "no weight_map"},
        {"{\"weight_map\": []}", "no weight_map"},
        {INDEX("\"a\": 1"), "a file name expected"},
        {INDEX("\"a\": \"../m-1.safetensors\""), "in the same folder expected"},
        {INDEX("\"a\": \"/etc/passwd\""), "in the same folder expected"},
        {INDEX("\"a\": \"x\\\\m-1.safetensors\""), "in the same folder expected"},
        {INDEX("\"a\": \"\""), "in the same folder expected"},
        {INDEX("\"a\": \".\""), "in the same folder expected"},
        {INDEX("\"a\": \"m-3.safetensors\""), "m-3.safetensors"},
        {INDEX("\"a\": \"bad.json\""), "an index where a file with tensors should be"},
        {INDEX("\"a\": \"sub\""), "not a file"},
        {INDEX("\"d\": \"m-1.safetensors\""), "has no such tensor"},
        {INDEX("\"a\": \"m-1.safetensors\", \"c\": \"m-2.safetensors\""),
         "tensor 'b' of file 'm-1.safetensors' is not in the index"},
        {INDEX("\"a\": \"m-1.safetensors\", \"a\": \"m-1.safetensors\""), "a"},
        {INDEX("\"a\": \"twin.safetensors\", \"b\": \"m-1.safetensors\""),
         "tensor 'a' of file 'm-1.safetensors' is in another file in the index"},
        {"{\"weight_map\": {}} {}", "bad.json"},
    };
    fixture f;
    make_shards(&f);
    folder(&f, "sub");
    write_tensors(&f, "twin.safetensors", (const char *const[]){"a"}, 1, NULL);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_text(&f, "bad.json", bad[i].index);
        check_refused(fixture_path(&f, "bad.json"), bad[i].message);
    }
    fixture_remove(&f);
}

/* Every file stays open, so there is a limit. */
static void test_too_many_shards(void **state) {
    (void)state;
    fixture f;
    fixture_make(&f);
    size_t size = 1 << 16, n = 0;
    char *text = malloc(size);
    n += (size_t)snprintf(text, size, "{\"weight_map\": {");
    for (int i = 0; i <= 512; i++) {
        char file[32], name[32];
        snprintf(file, sizeof file, "s%d", i);
        snprintf(name, sizeof name, "t%d", i);
        fixture_safetensors(&f, file, &(fixture_tensor){name, CK_F32, {0}, 0, numbers}, 1, NULL);
        n += (size_t)snprintf(text + n, size - n, "%s\"%s\": \"%s\"", i ? ", " : "", name, file);
    }
    snprintf(text + n, size - n, "}}");
    write_text(&f, "many.json", text);
    check_refused(fixture_path(&f, "many.json"), "more than 512 files");
    free(text);
    fixture_remove(&f);
}

/* ---- Folders ---- */

#define PIPELINE(scheduler)                                                                        \
    "{\"_class_name\": \"StableDiffusionPipeline\", \"_diffusers_version\": \"0.42.1\", "          \
    "\"unet\": [\"diffusers\", \"UNet2DConditionModel\"], "                                        \
    "\"text_encoder\": [\"transformers\", \"CLIPTextModel\"], "                                    \
    "\"tokenizer\": [\"transformers\", \"CLIPTokenizer\"], "                                       \
    "\"safety_checker\": [null, null], \"requires_safety_checker\": false, " scheduler "}"

static void make_folder(fixture *f) {
    fixture_make(f);
    folder(f, "unet");
    folder(f, "text_encoder");
    folder(f, "scheduler");
    write_tensors(f, "unet/diffusion_pytorch_model.safetensors", (const char *const[]){"a", "b"}, 2,
                  "{\"format\":\"pt\"}");
    write_tensors(f, "text_encoder/model.safetensors", (const char *const[]){"a"}, 1, NULL);
    write_text(f, "scheduler/scheduler_config.json", "{\"prediction_type\": \"v_prediction\"}");
    write_text(f, "model_index.json",
               PIPELINE("\"scheduler\": [\"diffusers\", \"DDIMScheduler\"]"));
}

static void test_folder(void **state) {
    (void)state;
    fixture f;
    make_folder(&f);
    ck_reader *r = opened(f.folder);
    assert_string_equal(ck_reader_format(r), "diffusers");
    assert_int_equal(ck_reader_count(r), 3);
    check_value(r, "unet.a", 1);
    check_value(r, "unet.b", 2);
    check_value(r, "text_encoder.a", 1);
    assert_string_equal(ck_reader_meta(r, "format"), "pt");
    assert_string_equal(ck_reader_meta(r, "modelspec.prediction_type"), "v");
    ck_reader_close(r);

    /* One component's folder alone. */
    r = opened(fixture_path(&f, "unet"));
    assert_int_equal(ck_reader_count(r), 2);
    check_value(r, "a", 1);
    ck_reader_close(r);
    fixture_remove(&f);
}

static void test_folder_of_shards_and_variants(void **state) {
    (void)state;
    fixture f;
    make_folder(&f);
    unlink(fixture_path(&f, "unet/diffusion_pytorch_model.safetensors"));
    write_tensors(&f, "unet/s-1.safetensors", (const char *const[]){"b"}, 1, NULL);
    write_text(&f, "unet/diffusion_pytorch_model.safetensors.index.json",
               INDEX("\"b\": \"s-1.safetensors\""));
    unlink(fixture_path(&f, "text_encoder/model.safetensors"));
    write_tensors(&f, "text_encoder/model.fp16.safetensors", (const char *const[]){"d"}, 1, NULL);
    ck_reader *r = opened(f.folder);
    assert_int_equal(ck_reader_count(r), 2);
    check_value(r, "unet.b", 2);
    check_value(r, "text_encoder.d", 4);
    ck_reader_close(r);
    /* With the plain file there the variant does not count; with two of them nobody knows. */
    write_tensors(&f, "text_encoder/model.non_ema.safetensors", (const char *const[]){"c"}, 1,
                  NULL);
    check_refused(f.folder, "could be the weights");
    write_tensors(&f, "text_encoder/model.safetensors", (const char *const[]){"e"}, 1, NULL);
    r = opened(f.folder);
    check_value(r, "text_encoder.e", 5);
    ck_reader_close(r);
    fixture_remove(&f);
}

static void test_folder_refused(void **state) {
    (void)state;
    fixture f;
    make_folder(&f);
    unlink(fixture_path(&f, "text_encoder/model.safetensors"));
    check_refused(f.folder, "no weights of 'CLIPTextModel'");
    write_text(&f, "model_index.json", "{\"../unet\": [\"diffusers\", \"UNet\"]}");
    check_refused(f.folder, "cannot be the name of a component");
    write_text(&f, "model_index.json", "[]");
    check_refused(f.folder, "an object expected");
    write_text(&f, "model_index.json", "{\"unet\": [\"diffusers\", \"UNet\"]");
    check_refused(f.folder, "model_index.json");
    write_text(&f, "model_index.json", "{\"unet\": [\"diffusers\", \"UNet\"]}");
    write_text(&f, "scheduler/scheduler_config.json", "{\"prediction_type\": 1}");
    check_refused(f.folder, "prediction_type");
    unlink(fixture_path(&f, "model_index.json"));
    check_refused(f.folder, "neither model_index.json nor weights");
    fixture_remove(&f);
}

/* Whatever fails, an error names a file and nothing is lost. */
static void test_failures(void **state) {
    (void)state;
    fixture f;
    make_folder(&f);
    write_tensors(&f, "unet/s-1.safetensors", (const char *const[]){"b"}, 1, NULL);
    unlink(fixture_path(&f, "unet/diffusion_pytorch_model.safetensors"));
    write_text(&f, "unet/diffusion_pytorch_model.safetensors.index.json",
               INDEX("\"b\": \"s-1.safetensors\""));
    static const fault_kind kinds[] = {FAULT_CALLOC, FAULT_REALLOC, FAULT_OPEN, FAULT_PREAD};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (fault_first(kinds[i], i < 2 ? ENOMEM : EIO); fault_more();) {
            ck_error err;
            ck_reader *r = NULL;
            fault_arm();
            ck_status status = ck_reader_open(f.folder, &r, &err);
            fault_disarm();
            if (fault_hit()) {
                assert_int_not_equal(status, CK_OK);
                assert_non_null(strchr(err.message, ':'));
            } else {
                assert_int_equal(status, CK_OK);
                ck_reader_close(r);
            }
        }
    fixture_remove(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_shards_refused),
        cmocka_unit_test(test_too_many_shards),
        cmocka_unit_test(test_folder),
        cmocka_unit_test(test_folder_of_shards_and_variants),
        cmocka_unit_test(test_folder_refused),
        cmocka_unit_test(test_failures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
