/* Runs on images: where data come from, and what is written down of them. */
#include "distill/data/image.h"
#include "distill/run/run.h"
#include "io/json.h"
#include "io/os.h"
#include "tests/folder.h"
#include "tests/program.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Six colored pictures of several sizes, and captions for four of them. */
static void make_folder(void) {
    mkdir(fixture_path(&f, "photos"), 0777);
    for (size_t i = 0; i < 6; i++) {
        ck_image image;
        char name[32];
        ok(ck_image_make(30 + 9 * i, 60 - 5 * i, 3, &image, &err));
        for (size_t k = 0; k < image.width * image.height * 3; k++)
            image.pixels[k] = (uint8_t)(k * (i + 1));
        snprintf(name, sizeof name, "photos/%zu.png", i);
        ok(ck_image_write(fixture_path(&f, name), &image, NULL, 0, true, &err));
        ck_image_free(&image);
        snprintf(name, sizeof name, "photos/%zu.txt", i);
        if (i < 4) fixture_file(&f, name, i % 2 ? "a red shoe" : "a bag", i % 2 ? 10 : 5);
    }
}

/* A config of two steps with these data and settings. */
static const char *config_of(const char *method, const char *more) {
    char text[2048], here[512];
    assert_non_null(getcwd(here, sizeof here));
    snprintf(text, sizeof text,
             "{\"task\": \"images\", \"teacher\": \"%s/tests/data/models/base\", \"threads\": 1, "
             "\"method\": {\"name\": \"%s\"}, \"steps\": 2, \"batch\": 2, \"log_every\": 1, %s}\n",
             here, method, more);
    return fixture_file(&f, "config.json", text, strlen(text));
}

static ck_status run(const char *method, const char *more) {
    static const ck_run_options anew = {.quiet = true, .force = true};
    const char *config = config_of(method, more);
    return ck_run_start(config, NULL, 0, fixture_path(&f, "run"), &anew, &err);
}

static void read_metrics(ck_json *doc) {
    ok(ck_json_load(fixture_path(&f, "run/metrics.json"), doc, &err));
}

static double number(const cJSON *row, const char *name) {
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(row, name);
    return cJSON_IsNumber(node) ? node->valuedouble : -1;
}

#define JUDGED                                                                                     \
    "\"evaluate\": {\"steps\": [1, 25], \"samples\": 12}, \"guidance\": 2, "                       \
    "\"classifier\": \"%s/recipes/models/classifier.safetensors\""

/* A folder: images of any size and kind are fitted, captions are any text; and the teacher stands
 * once for every number of steps, with all metrics there are. */
static void test_folder(void **state) {
    (void)state;
    char more[1024], here[512];
    assert_non_null(getcwd(here, sizeof here));
    make_folder();
    snprintf(more, sizeof more, "\"data\": {\"images\": \"photos\", \"drop\": 0}, " JUDGED, here);
    ok(run("cd", more));
    ck_json doc;
    read_metrics(&doc);
    const cJSON *rows = cJSON_GetObjectItemCaseSensitive(doc.root, "rows"), *row;
    static const double steps[] = {25, 1, 1, 25};
    static const char *const metrics[] = {"frechet", "kid",       "precision", "recall",
                                          "swd",     "diversity", "sharpness", "ms"};
    assert_int_equal(cJSON_GetArraySize(rows), 4);
    int i = 0;
    cJSON_ArrayForEach(row, rows) {
        assert_string_equal(cJSON_GetObjectItemCaseSensitive(row, "who")->valuestring,
                            i < 2 ? "teacher" : "student");
        assert_true(number(row, "steps") == steps[i] && number(row, "samples") == 12);
        for (size_t k = 0; k < sizeof metrics / sizeof *metrics; k++)
            assert_true(cJSON_HasObjectItem(row, metrics[k]));
        /* Against the teacher's best, where the noise is the same all the way. */
        assert_int_equal(cJSON_HasObjectItem(row, "psnr"), i == 1 || i == 2);
        i++;
    }
    ck_json_free(&doc);

    /* A row of pictures for each of the table. */
    size_t width, height;
    ok(ck_image_size(fixture_path(&f, "run/grids/00000002.png"), &width, &height, &err));
    assert_true(height == 4 * 34 + 2 && width > 10 * 34);
}

/* Captions alone, from a list and from a file, do for methods that need no data. */
static void test_prompts(void **state) {
    (void)state;
    static const char lines[] = "a bag\n\na red shoe\r\n";
    fixture_file(&f, "prompts.txt", lines, sizeof lines - 1);
    const char *const sources[] = {"\"prompts.txt\"", "[\"a bag\", \"a red shoe\"]"};
    unsigned char *student[2];
    size_t n[2];
    for (int i = 0; i < 2; i++) {
        char more[512];
        snprintf(more, sizeof more,
                 "\"data\": {\"prompts\": %s}, "
                 "\"evaluate\": {\"steps\": [1], \"samples\": 12, \"teacher\": false}",
                 sources[i]);
        ok(run("dmd", more));
        student[i] = fixture_read(fixture_path(&f, "run/student.safetensors"), &n[i]);
    }
    assert_true(n[0] == n[1] && memcmp(student[0], student[1], n[0]) == 0);
    free(student[0]), free(student[1]);
    ck_json doc;
    read_metrics(&doc);
    const cJSON *row = cJSON_GetObjectItemCaseSensitive(doc.root, "rows")->child;
    assert_true(number(row, "sharpness") > 0 && number(row, "diversity") > 0);
    assert_false(cJSON_HasObjectItem(row, "swd") || cJSON_HasObjectItem(row, "psnr"));
    ck_json_free(&doc);
}

/* Largest difference of weights of two or more dimensions. */
static double farthest(const char *a, const char *b) {
    ck_reader *x, *y;
    double off = 0;
    size_t compared = 0;
    ok(ck_reader_open(a, &x, &err));
    ok(ck_reader_open(b, &y, &err));
    for (size_t i = 0; i < ck_reader_count(x); i++) {
        const ck_tensor *t = ck_reader_tensor(x, i), *u = ck_reader_find(y, t->name);
        if (t->rank < 2) continue;
        assert_true(u && t->dtype == CK_F32 && u->dtype == CK_F32 && t->nbytes == u->nbytes);
        float *p = malloc(t->nbytes), *q = malloc(t->nbytes);
        ok(ck_reader_read(x, t, 0, p, t->nbytes, &err));
        ok(ck_reader_read(y, u, 0, q, t->nbytes, &err));
        for (size_t k = 0; k < t->elements; k++) off = fmax(off, fabs((double)p[k] - q[k]));
        free(p), free(q);
        compared++;
    }
    assert_true(compared > 50);
    ck_reader_close(x), ck_reader_close(y);
    return off;
}

/* The student's difference as a LoRA: at full rank the teacher with it is the student. */
static void test_as_lora(void **state) {
    (void)state;
    make_folder();
    ok(run("cd", "\"data\": {\"images\": \"photos\"}, \"ema\": 0, \"as_lora\": 512, "
                 "\"rate\": {\"peak\": 1e-3, \"shape\": \"constant\"}, "
                 "\"evaluate\": {\"steps\": [], \"teacher\": false}"));
    const char *base = "$OLDPWD/tests/data/models/base/unet/diffusion_pytorch_model.safetensors";
    program_expect(program_run(f.folder,
                               "ckmerge %s --lora run/student.lora.safetensors --dtype f32 -o "
                               "with.safetensors; ckmerge %s --lora "
                               "run/student.lora.safetensors:0 --dtype f32 -o without.safetensors",
                               base, base),
                   0, NULL, NULL);
    char student[256], with[256], without[256];
    snprintf(student, sizeof student, "%s/run/student.safetensors", f.folder);
    snprintf(with, sizeof with, "%s/with.safetensors", f.folder);
    snprintf(without, sizeof without, "%s/without.safetensors", f.folder);
    double moved = farthest(student, without), left = farthest(student, with);
    if (!(moved > 1e-3 && left < 0.01 * moved)) print_error("moved %g, left %g\n", moved, left);
    assert_true(moved > 1e-3 && left < 0.01 * moved);
}

static void refused(const char *method, const char *more, ck_status status, const char *word) {
    assert_int_equal(run(method, more), status);
    if (!strstr(err.message, word)) fail_msg("'%s' is not in: %s", word, err.message);
}

static void test_refusals(void **state) {
    (void)state;
    make_folder();
    refused("cd", "\"data\": {\"prompts\": [\"a bag\"]}", CK_INPUT, "needs images");
    refused("dmd", "\"data\": {\"prompts\": []}", CK_INPUT, "no prompts");
    refused("dmd", "\"data\": {\"prompts\": \"nowhere.txt\"}", CK_IO, "nowhere.txt");
    refused("cd", "\"data\": {}", CK_INPUT, "images or prompts");
    refused("cd", "\"data\": {\"images\": \"photos\", \"prompts\": [\"x\"]}", CK_INPUT,
            "images or prompts");
    refused("cd", "\"data\": {\"images\": \"photos\", \"size\": 30}", CK_INPUT, "multiple of 8");
    refused("cd", "\"data\": {\"images\": \"nowhere\"}", CK_IO, "nowhere");
    refused("lcm", "\"data\": {\"images\": \"photos\"}, \"as_lora\": 8, \"lora\": {\"rank\": 8}",
            CK_INPUT, "the student is one");
    refused("lcm", "\"data\": {\"images\": \"photos\"}, \"as_lora\": 8, \"guidance_width\": 16",
            CK_INPUT, "other weights than its teacher");
    /* Pixels that are damaged behind a good header are found while encoding, and named. */
    size_t n;
    unsigned char *bytes = fixture_read(fixture_path(&f, "photos/3.png"), &n);
    for (size_t i = 60; i < n; i++) bytes[i] ^= 0x55;
    fixture_file(&f, "photos/3.png", bytes, n);
    free(bytes);
    refused("cd", "\"data\": {\"images\": \"photos\"}", CK_INPUT, "1 of 9");
    assert_non_null(strstr(err.message, "3.png"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_folder, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_prompts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refusals, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_as_lora, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("images", tests, NULL, NULL);
}
