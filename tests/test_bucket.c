/* Buckets: which size an image gets, and that every image and caption is in one place. */
#include "distill/data/bucket.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void test_known_sizes(void **state) {
    (void)state;
    static const size_t known[][6] = {
        /* image, resolution, step, bucket */
        {1000, 1000, 1024, 64, 1024, 1024},
        {1920, 1080, 1024, 64, 1344, 768},
        {1080, 1920, 1024, 64, 768, 1344},
        {4000, 500, 1024, 64, 2048, 512},
        {1, 16384, 1024, 64, 512, 2048},
        {32, 32, 32, 8, 32, 32},
        {5, 5, 1, 1, 1, 1},
        {640, 480, 512, 64, 576, 448},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const size_t *k = known[i];
        size_t w, h;
        ck_bucket_size(k[0], k[1], k[2], k[3], &w, &h);
        if (w != k[4] || h != k[5]) fail_msg("%zux%zu: %zux%zu", k[0], k[1], w, h);
    }
}

/* No allowed size that cannot grow fits better. */
static void test_best_ratio(void **state) {
    (void)state;
    uint64_t random = 3;
    for (int round = 0; round < 300; round++) {
        size_t width = 1 + fixture_random(&random) % 2000;
        size_t height = 1 + fixture_random(&random) % 2000;
        size_t step = 8 << fixture_random(&random) % 3;
        size_t resolution = step + fixture_random(&random) % 200, area = resolution * resolution;
        size_t w, h;
        ck_bucket_size(width, height, resolution, step, &w, &h);
        assert_true(w >= step && h >= step && w % step == 0 && h % step == 0);
        assert_true(w * h <= area && w <= 2 * resolution && h <= 2 * resolution);
        double mine = (double)(w * height) / (double)(h * width);
        if (mine > 1) mine = 1 / mine;
        for (size_t a = step; a <= 2 * resolution; a += step)
            for (size_t b = step; b <= 2 * resolution && a * b <= area; b += step) {
                if ((a + step) * b <= area || a * (b + step) <= area) continue;
                double other = (double)(a * height) / (double)(b * width);
                if (other > 1) other = 1 / other;
                assert_true(other <= mine);
            }
        size_t tall, wide; /* turned images get turned buckets */
        ck_bucket_size(height, width, resolution, step, &wide, &tall);
        assert_true(w != h ? tall == w && wide == h : tall == wide);
    }
}

/* As much of a PNG as tells its size. */
static void write_png(const fixture *f, const char *name, unsigned width, unsigned height,
                      const char *caption) {
    unsigned char bytes[24] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
    bytes[18] = (unsigned char)(width >> 8), bytes[19] = (unsigned char)width;
    bytes[22] = (unsigned char)(height >> 8), bytes[23] = (unsigned char)height;
    char path[64];
    snprintf(path, sizeof path, "%s.png", name);
    fixture_file(f, path, bytes, sizeof bytes);
    snprintf(path, sizeof path, "%s.txt", name);
    if (caption) fixture_file(f, path, caption, strlen(caption));
}

static ck_dataset *make_dataset(const fixture *f) {
    write_png(f, "0", 640, 480, "b");
    write_png(f, "1", 480, 640, NULL);
    write_png(f, "2", 700, 700, "a");
    write_png(f, "3", 64, 48, "b");
    write_png(f, "4", 30, 30, "a");
    ck_dataset *d;
    ck_error err = {0};
    if (ck_dataset_open_folder(f->folder, 3, &d, &err) != CK_OK) fail_msg("%s", err.message);
    return d;
}

static void test_lists(void **state) {
    (void)state;
    fixture f;
    fixture_make(&f);
    ck_dataset *d = make_dataset(&f);
    ck_buckets b;
    ck_error err = {0};
    assert_int_equal(ck_buckets_make(d, 512, 64, &b, &err), CK_OK);
    static const size_t sizes[3][2] = {{448, 576}, {512, 512}, {576, 448}};
    static const size_t samples[3][3] = {{1, 1}, {2, 2, 4}, {2, 0, 3}}; /* count, which */
    assert_int_equal(b.count, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_true(b.buckets[i].width == sizes[i][0] && b.buckets[i].height == sizes[i][1]);
        assert_int_equal(b.buckets[i].count, samples[i][0]);
        assert_memory_equal(b.buckets[i].samples, samples[i] + 1, samples[i][0] * sizeof(size_t));
    }
    assert_int_equal(b.caption_count, 3);
    assert_string_equal(b.captions[0], "");
    assert_string_equal(b.captions[1], "a");
    assert_string_equal(b.captions[2], "b");
    static const uint32_t of[] = {2, 0, 1, 2, 1};
    assert_memory_equal(b.caption_of, of, sizeof of);
    ck_buckets_free(&b);

    static const size_t bad[][2] = {{512, 0}, {63, 64}, {16384, 64}};
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(ck_buckets_make(d, bad[i][0], bad[i][1], &b, &err), CK_USAGE);
    ck_dataset_close(d);
    fixture_remove(&f);
}

static void test_faults(void **state) {
    (void)state;
    fixture f;
    fixture_make(&f);
    ck_dataset *d = make_dataset(&f);
    size_t faults = 0;
    for (fault_first(FAULT_CALLOC, ENOMEM); fault_more();) {
        ck_buckets b = {0};
        ck_error err = {0};
        fault_arm();
        ck_status status = ck_buckets_make(d, 512, 64, &b, &err);
        fault_disarm();
        faults += fault_hit();
        assert_int_equal(status, fault_hit() ? CK_MEMORY : CK_OK);
        ck_buckets_free(&b);
    }
    assert_int_equal(faults, 8); /* two lists, captions, their numbers, buckets, three lists */
    ck_dataset_close(d);
    fixture_remove(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_sizes),
        cmocka_unit_test(test_best_ratio),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
