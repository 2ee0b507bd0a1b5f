/* Datasets: folders of images with captions, IDX files, and what is wrong with some of them. */
#include "distill/data/dataset.h"
#include "io/os.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DATA "tests/data/images/"

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

#define FILE_OF(f, name, text) fixture_file(f, name, text, strlen(text))

static void copy_to(const fixture *f, const char *from, const char *name) {
    size_t n;
    unsigned char *data = fixture_read(from, &n);
    fixture_file(f, name, data, n);
    free(data);
}

static ck_dataset *must_open(const fixture *f, size_t channels) {
    ck_dataset *d;
    ck_error err = {0};
    if (ck_dataset_open_folder(f->folder, channels, &d, &err) != CK_OK) fail_msg("%s", err.message);
    return d;
}

static void expect_failure(const fixture *f, const char *message) {
    ck_dataset *d;
    ck_error err = {0};
    assert_int_equal(ck_dataset_open_folder(f->folder, 3, &d, &err), CK_INPUT);
    if (!strstr(err.message, message)) fail_msg("not '%s' but '%s'", message, err.message);
}

static void expect_sample(const ck_dataset *d, size_t i, const char *name, const char *caption) {
    const ck_sample *s = ck_dataset_sample(d, i);
    assert_string_equal(s->name, name);
    assert_string_equal(s->caption, caption);
    assert_true(s->width == 16 && s->height == 12);
}

static void write_folder(const fixture *f) {
    assert_int_equal(mkdir(fixture_path(f, "b"), 0777), 0);
    assert_int_equal(mkdir(fixture_path(f, "empty"), 0777), 0);
    copy_to(f, DATA "rgb8.png", "z.PNG");
    copy_to(f, DATA "gray8.png", "b/1.x.png");
    copy_to(f, DATA "rgb.jpg", "a.jpeg");
    FILE_OF(f, "a.txt", "\xef\xbb\xbf  two\r\n\r\nlines,\tone caption \n");
    FILE_OF(f, "b/1.x.txt", "gr\xc3\xa4y");
    FILE_OF(f, "z.txt", " \n");
    FILE_OF(f, "c.webp", "RIFF");
    FILE_OF(f, "b/notes.md", "#");
    FILE_OF(f, ".hidden.png", "");
}

static void test_folder(void **state) {
    const fixture *f = *state;
    write_folder(f);
    for (size_t channels = 1; channels <= 3; channels += 2) {
        ck_dataset *d = must_open(f, channels);
        assert_int_equal(ck_dataset_count(d), 3);
        expect_sample(d, 0, "a.jpeg", "two lines, one caption");
        expect_sample(d, 1, "b/1.x.png", "gr\xc3\xa4y");
        expect_sample(d, 2, "z.PNG", "");
        assert_int_equal(ck_dataset_without_caption(d), 1);
        assert_int_equal(ck_dataset_ignored(d), 2);
        for (size_t i = 0; i < 3; i++) {
            static const char *const files[] = {DATA "rgb.jpg", DATA "gray8.png", DATA "rgb8.png"};
            ck_image image, expected;
            ck_error err = {0};
            assert_int_equal(ck_dataset_read(d, i, &image, &err), CK_OK);
            assert_int_equal(ck_image_read(files[i], channels, &expected, &err), CK_OK);
            assert_int_equal(image.channels, channels);
            assert_memory_equal(image.pixels, expected.pixels, 16 * 12 * channels);
            ck_image_free(&image);
            ck_image_free(&expected);
        }
        ck_dataset_close(d);
    }
    ck_dataset *d;
    ck_error err = {0};
    assert_int_equal(ck_dataset_open_folder(f->folder, 4, &d, &err), CK_USAGE);
}

static void test_metadata(void **state) {
    const fixture *f = *state;
    write_folder(f);
    FILE_OF(f, "metadata.jsonl",
            "{\"file_name\": \"z.PNG\", \"text\": \"last \\n first\", \"width\": 7}\n\n"
            "{\"file_name\": \"b/1.x.png\"}\r\n"
            "{\"text\": \"again\", \"file_name\": \"z.PNG\"}");
    ck_dataset *d = must_open(f, 3);
    assert_int_equal(ck_dataset_count(d), 3);
    expect_sample(d, 0, "z.PNG", "last first");
    expect_sample(d, 1, "b/1.x.png", "");
    expect_sample(d, 2, "z.PNG", "again");
    assert_int_equal(ck_dataset_without_caption(d), 1);
    ck_dataset_close(d);

    static const struct {
        const char *line, *message;
    } bad[] = {
        {"{", "metadata.jsonl, line 2:1"},
        {"[]", "line 2:1: $: must be an object"},
        {"{\"text\": \"x\"}", "no file_name"},
        {"{\"file_name\": \"\"}", "no file_name"},
        {"{\"file_name\": 3}", "$.file_name"},
        {"{\"file_name\": \"z.PNG\", \"text\": [1]}", "$.text"},
        {"{\"file_name\": \"/etc/passwd\"}", "file_name leaves the folder"},
        {"{\"file_name\": \"b/../../x.png\"}", "file_name leaves the folder"},
        {"{\"file_name\": \"..\"}", "file_name leaves the folder"},
        {"{\"file_name\": \"none.png\"}", "1 of 2 images cannot be read"},
        {"{\"file_name\": \"a.txt\"}", "a.txt: neither PNG nor JPEG"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[256];
        snprintf(text, sizeof text, "{\"file_name\": \"z.PNG\"}\n%s\n", bad[i].line);
        FILE_OF(f, "metadata.jsonl", text);
        expect_failure(f, bad[i].message);
    }
    FILE_OF(f, "metadata.jsonl", "\n");
    expect_failure(f, "no images (PNG or JPEG) in it");
    char *text = malloc(20000);
    assert_non_null(text);
    snprintf(text, 20000, "{\"file_name\": \"z.PNG\", \"text\": \"%016400d\"}", 0);
    FILE_OF(f, "metadata.jsonl", text);
    expect_failure(f, "a caption of more than 16384 bytes");
    free(text);
}

static void test_bad_files(void **state) {
    const fixture *f = *state;
    expect_failure(f, "no images (PNG or JPEG) in it");
    copy_to(f, DATA "rgb8.png", "1.png");
    FILE_OF(f, "2.png", "not an image, but long enough to be one");
    FILE_OF(f, "3.jpg", "");
    for (int i = 10; i < 60; i++) {
        char name[32];
        snprintf(name, sizeof name, "%d.png", i);
        FILE_OF(f, name, "nor this one, which is also too long");
    }
    expect_failure(f, "52 of 53 images cannot be read; repair or remove them: ");
    expect_failure(f, "/10.png: neither PNG nor JPEG; ");
    for (int i = 10; i < 60; i++) {
        char name[32];
        snprintf(name, sizeof name, "%d.png", i);
        unlink(fixture_path(f, name));
    }
    expect_failure(f, "2.png: neither PNG nor JPEG; ");
    expect_failure(f, "3.jpg: the file ends at offset 0");
    unlink(fixture_path(f, "2.png"));
    unlink(fixture_path(f, "3.jpg"));
    FILE_OF(f, "1.txt", "\xff");
    expect_failure(f, "1.txt: the caption is not text in UTF-8 (offset 0)");
    fixture_file(f, "1.txt", "ab\0c", 4);
    expect_failure(f, "1.txt: the caption is not text in UTF-8 (offset 2)");
    unlink(fixture_path(f, "1.txt"));
    assert_int_equal(symlink(".", fixture_path(f, "loop")), 0);
    expect_failure(f, "more than 16 folders deep: a link to itself?");
    unlink(fixture_path(f, "loop"));
    ck_dataset *d;
    ck_error err = {0};
    assert_int_equal(ck_dataset_open_folder("/nonexistent", 3, &d, &err), CK_IO);
}

static bool count_images(void *context) {
    return ++*(int *)context != 3;
}

/* What the header does not tell. */
static void test_check(void **state) {
    const fixture *f = *state;
    size_t n;
    unsigned char *data = fixture_read(DATA "rgb8.png", &n);
    for (int i = 0; i < 40; i++) {
        char name[32];
        snprintf(name, sizeof name, "%02d.png", i);
        fixture_file(f, name, data, n);
    }
    ck_dataset *d = must_open(f, 3);
    ck_error err = {0};
    int seen = 3;
    assert_int_equal(ck_dataset_check(d, count_images, &seen, &err), CK_OK);
    assert_int_equal(seen, 43);
    seen = 0;
    assert_int_equal(ck_dataset_check(d, count_images, &seen, &err), CK_CANCELLED);
    assert_int_equal(seen, 3);
    char before[CK_SHA256_HEX], after[CK_SHA256_HEX];
    assert_int_equal(ck_dataset_hash(d, before, &err), CK_OK);

    fixture_file(f, "07.png", data, n - 20);
    data[n / 2] ^= 1;
    fixture_file(f, "21.png", data, n);
    assert_int_equal(ck_dataset_check(d, NULL, NULL, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "2 of 40 images cannot be read"));
    assert_non_null(strstr(err.message, "/07.png: PNG"));
    assert_non_null(strstr(err.message, "/21.png: PNG"));
    free(data);
    ck_image image, other;
    assert_int_equal(ck_image_make(3, 2, 3, &other, &err), CK_OK);
    assert_int_equal(ck_image_write(fixture_path(f, "09.png"), &other, NULL, 0, true, &err), CK_OK);
    ck_image_free(&other);
    assert_int_equal(ck_dataset_read(d, 9, &image, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "/09.png: changed: it is 3x2 and was 16x12"));
    unlink(fixture_path(f, "30.png"));
    assert_int_equal(ck_dataset_check(d, NULL, NULL, &err), CK_IO);
    ck_dataset_close(d);

    /* Another list has another hash, and so have other captions. */
    d = must_open(f, 3);
    assert_int_equal(ck_dataset_hash(d, after, &err), CK_OK);
    assert_string_not_equal(before, after);
    ck_dataset_close(d);
    FILE_OF(f, "11.txt", "new");
    d = must_open(f, 3);
    assert_int_equal(ck_dataset_hash(d, before, &err), CK_OK);
    assert_string_not_equal(before, after);
    ck_dataset_close(d);
}

/* ---- IDX ---- */

static const uint8_t idx_images[] = {0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0,
                                     1, 0, 0, 0, 2, 1, 2, 3, 4, 5, 6};
static const uint8_t idx_labels[] = {0, 0, 8, 1, 0, 0, 0, 3, 1, 0, 1};
static const char *const idx_names[] = {"shoe", "shirt"};

static void test_idx(void **state) {
    const fixture *f = *state;
    const char *images = fixture_file(f, "images", idx_images, sizeof idx_images);
    const char *labels = fixture_file(f, "labels", idx_labels, sizeof idx_labels);
    ck_dataset *d;
    ck_error err = {0};
    ck_image image;
    assert_int_equal(ck_dataset_open_idx(images, labels, idx_names, 2, 4, 1, &d, &err), CK_OK);
    assert_int_equal(ck_dataset_count(d), 3);
    assert_string_equal(ck_dataset_sample(d, 0)->caption, "shirt");
    assert_string_equal(ck_dataset_sample(d, 1)->caption, "shoe");
    assert_string_equal(ck_dataset_sample(d, 2)->name, "#2");
    assert_int_equal(ck_dataset_without_caption(d), 0);
    assert_true(ck_dataset_sample(d, 2)->width == 4 && ck_dataset_sample(d, 2)->height == 4);
    assert_int_equal(ck_dataset_read(d, 2, &image, &err), CK_OK);
    static const uint8_t padded[] = {0, 0, 0, 0, 0, 5, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    assert_true(image.width == 4 && image.height == 4 && image.channels == 1);
    assert_memory_equal(image.pixels, padded, 16);
    ck_image_free(&image);
    assert_int_equal(ck_dataset_check(d, NULL, NULL, &err), CK_OK);
    char before[CK_SHA256_HEX], after[CK_SHA256_HEX];
    assert_int_equal(ck_dataset_hash(d, before, &err), CK_OK);
    const char *const boots[] = {"boots", ""}, *const shirts[] = {"shirt", "boots"};
    assert_int_equal(ck_dataset_only(d, boots, 2, &err), CK_INPUT);
    assert_int_equal(ck_dataset_count(d), 3);
    assert_int_equal(ck_dataset_only(d, shirts, 2, &err), CK_OK);
    assert_int_equal(ck_dataset_count(d), 2);
    assert_string_equal(ck_dataset_sample(d, 0)->name, "#0");
    assert_string_equal(ck_dataset_sample(d, 1)->name, "#2");
    assert_int_equal(ck_dataset_read(d, 1, &image, &err), CK_OK);
    assert_memory_equal(image.pixels, padded, 16);
    ck_image_free(&image);
    ck_dataset_close(d);

    assert_int_equal(ck_dataset_open_idx(images, NULL, NULL, 0, 0, 3, &d, &err), CK_OK);
    assert_string_equal(ck_dataset_sample(d, 1)->caption, "");
    assert_int_equal(ck_dataset_without_caption(d), 3);
    assert_int_equal(ck_dataset_read(d, 1, &image, &err), CK_OK);
    static const uint8_t colored[] = {3, 3, 3, 4, 4, 4};
    assert_memory_equal(image.pixels, colored, 6);
    ck_image_free(&image);
    ck_dataset_limit(d, 2);
    assert_int_equal(ck_dataset_count(d), 2);
    assert_int_equal(ck_dataset_without_caption(d), 2);
    ck_dataset_close(d);

    uint8_t changed[sizeof idx_images];
    memcpy(changed, idx_images, sizeof changed);
    changed[sizeof changed - 1] ^= 1;
    images = fixture_file(f, "images", changed, sizeof changed);
    assert_int_equal(ck_dataset_open_idx(images, labels, idx_names, 2, 4, 1, &d, &err), CK_OK);
    assert_int_equal(ck_dataset_hash(d, after, &err), CK_OK);
    assert_string_not_equal(before, after);
    ck_dataset_close(d);

    assert_int_equal(ck_dataset_open_idx(images, labels, idx_names, 1, 0, 1, &d, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "labels: label 0 is 1, and there are 1 names"));
    assert_int_equal(ck_dataset_open_idx(labels, labels, idx_names, 2, 0, 1, &d, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "not a list of images, which has rank 3"));
    assert_int_equal(ck_dataset_open_idx(images, images, idx_names, 2, 0, 1, &d, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "not one label for each of 3 images"));
    assert_int_equal(ck_dataset_open_idx(images, NULL, NULL, 0, SIZE_MAX, 1, &d, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "too large"));
}

/* ---- Failures ---- */

static void test_faults(void **state) {
    const fixture *f = *state;
    write_folder(f);
    char images[256], labels[256];
    snprintf(images, sizeof images, "%s", fixture_file(f, "images", idx_images, sizeof idx_images));
    snprintf(labels, sizeof labels, "%s", fixture_file(f, "labels", idx_labels, sizeof idx_labels));
    static const fault_kind kinds[] = {FAULT_CALLOC, FAULT_REALLOC, FAULT_OPEN, FAULT_PREAD};
    for (int idx = 0; idx < 2; idx++)
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
            size_t faults = 0;
            for (fault_first(kinds[k], k < 2 ? ENOMEM : EIO); fault_more();) {
                ck_dataset *d = NULL;
                ck_error err = {0};
                fault_arm();
                ck_status status =
                    idx ? ck_dataset_open_idx(images, labels, idx_names, 2, 0, 3, &d, &err)
                        : ck_dataset_open_folder(f->folder, 3, &d, &err);
                if (status == CK_OK) status = ck_dataset_check(d, NULL, NULL, &err);
                fault_disarm();
                faults += fault_hit();
                assert_int_equal(status, !fault_hit() ? CK_OK : k < 2 ? CK_MEMORY : CK_IO);
                ck_dataset_close(d);
            }
            assert_true(faults > 0);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
#if defined(CK_HAVE_PNG) && defined(CK_HAVE_JPEG)
        cmocka_unit_test_setup_teardown(test_folder, setup, teardown),
        cmocka_unit_test_setup_teardown(test_check, setup, teardown),
        cmocka_unit_test_setup_teardown(test_faults, setup, teardown),
#endif
        cmocka_unit_test_setup_teardown(test_metadata, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_idx, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
