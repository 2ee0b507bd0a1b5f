/* Images: every kind of PNG and JPEG (tests/interop/make_images.py), damage, floats, fitting,
 * grids. */
#include "distill/data/image.h"
#include "io/os.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DATA "tests/data/images/"
enum { W = 16, H = 12 };

static ck_image must_make(size_t width, size_t height, size_t channels) {
    ck_image image;
    ck_error err = {0};
    if (ck_image_make(width, height, channels, &image, &err) != CK_OK) fail_msg("%s", err.message);
    return image;
}

static void assert_near(const char *name, const ck_image *image, size_t x, size_t y, size_t c,
                        int expected, int tolerance) {
    int got = image->pixels[(y * image->width + x) * image->channels + c];
    if (abs(got - expected) > tolerance)
        fail_msg("%s: pixel %zu, %zu, channel %zu is %d, not %d", name, x, y, c, got, expected);
}

#if defined(CK_HAVE_PNG) && defined(CK_HAVE_JPEG)

static ck_image must_read(const char *path, size_t channels) {
    ck_image image;
    ck_error err = {0};
    if (ck_image_read(path, channels, &image, &err) != CK_OK) fail_msg("%s", err.message);
    assert_int_equal(image.channels, channels);
    return image;
}

static void test_kinds(void **state) {
    (void)state;
    /* What a gray image has at x, y: 16 x or the given multiple of x, or of x + y modulo 2. */
    static const struct {
        const char *name;
        bool color;
        int step, parity, tolerance;
    } kinds[] = {
        {"rgb8.png", true, 0, 0, 0},
        {"rgb16.png", true, 0, 0, 0},
        {"rgba8.png", true, 0, 0, 0},
        {"rgb8_interlaced.png", true, 0, 0, 0},
        {"rgb8_transparent.png", true, 0, 0, 0},
        {"palette8.png", true, 0, 0, 0},
        {"gray8.png", false, 16, 0, 0},
        {"gray4.png", false, 17, 0, 0},
        {"gray16_alpha.png", false, 16, 0, 0},
        {"gray1.png", false, 0, 255, 0},
        {"rgb.jpg", true, 0, 0, 4},
        {"rgb_progressive.jpg", true, 0, 0, 4},
        {"gray.jpg", false, 16, 0, 3},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (size_t channels = 1; channels <= 3; channels += 2) {
            char path[128];
            snprintf(path, sizeof path, DATA "%s", kinds[i].name);
            ck_image image = must_read(path, channels);
            assert_int_equal(image.width, W);
            assert_int_equal(image.height, H);
            for (size_t y = 0; y < H; y++)
                for (size_t x = 0; x < W; x++) {
                    int gray = kinds[i].step * (int)x + kinds[i].parity * (int)((x + y) % 2);
                    int rgb[3] = {16 * (int)x, 20 * (int)y, 100};
                    double bright = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2];
                    if (kinds[i].color && channels == 1) gray = (int)lround(bright);
                    for (size_t c = 0; c < channels; c++)
                        assert_near(kinds[i].name, &image, x, y, c,
                                    kinds[i].color && channels == 3 ? rgb[c] : gray,
                                    kinds[i].tolerance);
                }
            ck_image_free(&image);
        }
}

static void refuse(const char *what, const void *data, size_t n, const char *message) {
    ck_image image;
    ck_error err = {0};
    ck_status status = ck_image_parse("x", data, n, 3, &image, &err);
    if (status != CK_INPUT || !strstr(err.message, message))
        fail_msg("%s, %zu bytes: status %d, '%s' lacks '%s'", what, n, status, err.message,
                 message);
    assert_memory_equal(err.message, "x: ", 3);
}

static void test_truncated(void **state) {
    (void)state;
    static const char *const names[] = {DATA "rgb8_interlaced.png", DATA "palette8.png",
                                        DATA "rgb.jpg", DATA "rgb_progressive.jpg"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t n;
        unsigned char *data = fixture_read(names[i], &n);
        /* A copy of the right size each time, so that sanitizers see a byte too far. */
        for (size_t cut = 0; cut < n; cut++) {
            unsigned char *copy = malloc(cut ? cut : 1);
            assert_non_null(copy);
            memcpy(copy, data, cut);
            refuse(names[i], copy, cut, "");
            free(copy);
        }
        free(data);
    }
}

/* Each byte of a file in turn is damaged. What of that is not noticed may only be outside of the
 * image: PNG has a checksum for everything. */
static void test_damaged_png(void **state) {
    (void)state;
    size_t n, unnoticed = 0;
    unsigned char *data = fixture_read(DATA "rgb8.png", &n);
    for (size_t i = 0; i < n; i++) {
        data[i] ^= 0x55;
        ck_image image;
        ck_error err = {0};
        if (ck_image_parse("x", data, n, 3, &image, &err) == CK_OK) {
            unnoticed++;
            ck_image_free(&image);
        }
        data[i] ^= 0x55;
    }
    assert_int_equal(unnoticed, 0);
    free(data);
}

static void put32(unsigned char *to, uint32_t value) {
    for (int i = 0; i < 4; i++) to[i] = (unsigned char)(value >> (24 - 8 * i));
}

static uint32_t crc32_of(const unsigned char *data, size_t n) {
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < n; i++) {
        crc ^= data[i];
        for (int k = 0; k < 8; k++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

static void test_huge(void **state) {
    (void)state;
    size_t n;
    unsigned char *data = fixture_read(DATA "rgb8.png", &n);
    static const struct {
        uint32_t width, height;
        const char *message;
    } sizes[] = {{16384, 4096, "16384x4096 pixels cannot be in"},
                 {16384, 16384, "16384x16384 pixels are too many"},
                 {16385, 1, "PNG, before offset"},
                 {0x7fffffff, 0x7fffffff, "PNG, before offset"},
                 {0, 5, "PNG, before offset"}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        put32(data + 16, sizes[i].width);
        put32(data + 20, sizes[i].height);
        put32(data + 29, crc32_of(data + 12, 17));
        refuse("png", data, n, sizes[i].message);
    }
    free(data);
    data = fixture_read(DATA "rgb.jpg", &n);
    for (size_t i = 0; i + 9 < n; i++)
        if (data[i] == 0xff && data[i + 1] == 0xc0) /* SOF0: length, precision, height, width */
            put32(data + i + 5, 0xff00ff00);
    refuse("jpeg", data, n, "65280x65280 pixels are too many");
    free(data);
}

static void test_others(void **state) {
    (void)state;
    ck_image image;
    ck_error err = {0};
    size_t n;
    unsigned char *data = fixture_read(DATA "cmyk.jpg", &n);
    refuse("cmyk", data, n, "JPEG with 4 channels");
    free(data);
    refuse("gif", "GIF89a...........", 17, "neither PNG nor JPEG");
    refuse("nothing", "", 0, "neither PNG nor JPEG");
    assert_int_equal(ck_image_read("/nonexistent.png", 3, &image, &err), CK_IO);
}

/* Whether these bytes are in a file. */
static bool contains(const unsigned char *data, size_t n, const char *bytes, size_t m) {
    return memmem(data, n, bytes, m) != NULL;
}

static void test_write(void **state) {
    (void)state;
    fixture f;
    fixture_make(&f);
    char path[128];
    snprintf(path, sizeof path, "%s", fixture_path(&f, "out.png"));
    const ck_image_text texts[] = {{"prompt", "a cat"}, {"parameters", "un \xc3\xa9t\xc3\xa9"}};
    ck_error err = {0};
    for (size_t channels = 1; channels <= 3; channels += 2) {
        /* Larger than libpng writes at once; noise, so that it does not get small. */
        ck_image image = must_make(200, 150, channels);
        uint64_t seed = 1;
        for (size_t i = 0; i < 200 * 150 * channels; i++)
            image.pixels[i] = (uint8_t)(fixture_random(&seed) >> 32);
        if (ck_image_write(path, &image, texts, 2, channels == 3, &err) != CK_OK)
            fail_msg("%s", err.message);
        ck_image back = must_read(path, channels);
        assert_int_equal(back.width, 200);
        assert_memory_equal(back.pixels, image.pixels, 200 * 150 * channels);
        ck_image_free(&back);
        size_t n;
        unsigned char *data = fixture_read(path, &n);
        assert_true(contains(data, n, "tEXtprompt\0a cat", 16));
        assert_true(contains(data, n, "iTXtparameters\0\0\0\0\0un \xc3\xa9t\xc3\xa9", 27));
        free(data);
        assert_int_equal(ck_image_write(path, &image, NULL, 0, false, &err), CK_USAGE);
        assert_non_null(strstr(err.message, "exists; --force"));
        ck_image_free(&image);
    }
    fixture_remove(&f);
}

static void test_write_faults(void **state) {
    (void)state;
    static const fault_kind kinds[] = {FAULT_CALLOC, FAULT_REALLOC, FAULT_OPEN, FAULT_PWRITE,
                                       FAULT_FSYNC};
    fixture f;
    fixture_make(&f);
    char path[128];
    snprintf(path, sizeof path, "%s", fixture_path(&f, "out.png"));
    ck_image image = must_make(W, H, 3);
    const ck_image_text text = {"prompt", "a cat"};
    for (int k = 0; k < 5; k++) {
        size_t faults = 0;
        for (fault_first(kinds[k], k < 2 ? ENOMEM : EIO); fault_more();) {
            ck_error err = {0};
            fault_arm();
            ck_status status = ck_image_write(path, &image, &text, 1, false, &err);
            fault_disarm();
            faults += fault_hit();
            if (!fault_hit())
                assert_int_equal(status, CK_OK);
            else if (status != (k < 2 ? CK_MEMORY : CK_IO))
                fail_msg("%s: status %d, %s", fault_name(kinds[k]), status, err.message);
            /* "written, but ..." comes after the file is whole. */
            bool there = fixture_entries(&f) > 0;
            assert_int_equal(there, !fault_hit() || strstr(err.message, "written, but") != NULL);
            if (there) assert_int_equal(remove(path), 0);
        }
        assert_true(faults > 0);
    }
    ck_image_free(&image);
    fixture_remove(&f);
}

static void test_read_faults(void **state) {
    (void)state;
    static const char *const names[] = {DATA "rgb8.png", DATA "gray8.png", DATA "rgb.jpg"};
    static const fault_kind kinds[] = {FAULT_CALLOC, FAULT_OPEN, FAULT_PREAD};
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 3; k++) {
            size_t faults = 0;
            for (fault_first(kinds[k], k ? EIO : ENOMEM); fault_more();) {
                ck_image image = {0};
                ck_error err = {0};
                fault_arm();
                ck_status status = ck_image_read(names[i], 3, &image, &err);
                fault_disarm();
                faults += fault_hit();
                assert_int_equal(status, !fault_hit() ? CK_OK : k ? CK_IO : CK_MEMORY);
                ck_image_free(&image);
            }
            assert_true(faults > 0);
        }
}

#endif

/* The size of every kind, of files cut off anywhere, and with a byte changed: no surprises. */
static void test_size_alone(void **state) {
    (void)state;
    static const char *const names[] = {
        DATA "rgb8.png", DATA "gray16_alpha.png",    DATA "rgb.jpg",   DATA "rgb_progressive.jpg",
        DATA "gray.jpg", DATA "rgb8_interlaced.png", DATA "gray1.png", DATA "cmyk.jpg"};
    fixture f;
    fixture_make(&f);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t n, width = 0, height = 0, least = 0;
        ck_error err = {0};
        if (ck_image_size(names[i], &width, &height, &err) != CK_OK) fail_msg("%s", err.message);
        assert_true(width == W && height == H);
        unsigned char *data = fixture_read(names[i], &n);
        for (size_t cut = 0; cut < n; cut++) {
            const char *path = fixture_file(&f, "cut", data, cut);
            ck_status status = ck_image_size(path, &width, &height, &err);
            assert_true(status == CK_OK || status == CK_INPUT);
            if (status == CK_OK && !least) least = cut;
            assert_int_equal(status == CK_OK, least != 0);
            if (status == CK_OK) assert_true(width == W && height == H);
        }
        assert_true(least >= 24 && least < n);
        for (size_t at = 0; at < least; at++) {
            data[at] ^= 0xff;
            const char *path = fixture_file(&f, "changed", data, n);
            ck_status status = ck_image_size(path, &width, &height, &err);
            assert_true(status == CK_OK || status == CK_INPUT);
            data[at] ^= 0xff;
        }
        free(data);
    }
    size_t width, height;
    ck_error err = {0};
    static const char text[] = "GIF89a, and more that is no image";
    const char *path = fixture_file(&f, "gif", text, sizeof text);
    assert_int_equal(ck_image_size(path, &width, &height, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "neither PNG nor JPEG"));
    static const unsigned char none[] = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\0\0\0\0\1";
    path = fixture_file(&f, "none", none, sizeof none);
    assert_int_equal(ck_image_size(path, &width, &height, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "no pixels"));
    assert_int_equal(ck_image_size("/nonexistent.png", &width, &height, &err), CK_IO);
    fixture_remove(&f);
}

static void test_floats(void **state) {
    (void)state;
    ck_image image = must_make(256, 1, 1), back;
    float x[256];
    ck_error err = {0};
    for (int i = 0; i < 256; i++) image.pixels[i] = (uint8_t)i;
    ck_image_to_floats(&image, x);
    assert_true(x[0] == -1 && x[255] == 1 && fabsf(x[128] - 1 / 255.f) < 1e-6f);
    assert_int_equal(ck_image_from_floats(x, 256, 1, 1, &back, &err), CK_OK);
    assert_memory_equal(back.pixels, image.pixels, 256);
    ck_image_free(&back);
    ck_image_free(&image);
    const float odd[] = {-7, 7, NAN, INFINITY, -INFINITY, 0};
    static const uint8_t expected[] = {0, 255, 0, 255, 0, 128};
    assert_int_equal(ck_image_from_floats(odd, 2, 1, 3, &back, &err), CK_OK);
    assert_memory_equal(back.pixels, expected, 6);
    ck_image_free(&back);
}

static ck_image must_fit(const ck_image *image, size_t width, size_t height) {
    ck_image out;
    ck_error err = {0};
    if (ck_image_fit(image, width, height, &out, &err) != CK_OK) fail_msg("%s", err.message);
    assert_int_equal(out.width, width);
    assert_int_equal(out.height, height);
    return out;
}

static void test_fit(void **state) {
    (void)state;
    ck_image image = must_make(40, 20, 3);
    for (size_t i = 0; i < 40 * 20; i++) {
        image.pixels[3 * i] = (uint8_t)(6 * (i % 40));
        image.pixels[3 * i + 1] = (uint8_t)(12 * (i / 40));
        image.pixels[3 * i + 2] = 77;
    }
    ck_image same = must_fit(&image, 40, 20);
    assert_memory_equal(same.pixels, image.pixels, 40 * 20 * 3);
    ck_image_free(&same);
    /* A square is cut from the middle: columns 10 to 29. */
    ck_image middle = must_fit(&image, 20, 20);
    for (size_t x = 0; x < 20; x++) assert_near("middle", &middle, x, 7, 0, 6 * (int)(x + 10), 0);
    ck_image_free(&middle);
    /* Half the size: a slope stays one, between the borders; the mean of two neighbours. */
    ck_image half = must_fit(&image, 20, 10);
    for (size_t x = 1; x < 19; x++)
        for (size_t y = 1; y < 9; y++) {
            assert_near("half", &half, x, y, 0, (int)(12 * x + 3), 0);
            assert_near("half", &half, x, y, 1, (int)(24 * y + 6), 0);
            assert_near("half", &half, x, y, 2, 77, 0);
        }
    ck_image_free(&half);
    ck_image twice = must_fit(&image, 80, 40);
    for (size_t x = 1; x < 79; x++) assert_near("twice", &twice, x, 9, 0, (int)(3 * x) - 1, 1);
    ck_image_free(&twice);
    ck_image dot = must_fit(&image, 1, 1);
    assert_near("dot", &dot, 0, 0, 0, 117, 1);
    ck_image_free(&dot);
    ck_image back = must_make(1, 1, 3), large;
    back.pixels[1] = 200;
    large = must_fit(&back, 30, 20);
    for (size_t x = 0; x < 30; x++) assert_near("large", &large, x, 19, 1, 200, 0);
    ck_image_free(&large);
    ck_image_free(&back);
    ck_image_free(&image);
}

/* No dots of the gap or the label's row are touched by the images, and the other way round. */
static void test_grid(void **state) {
    (void)state;
    ck_image images[5], out;
    ck_error err = {0};
    for (int i = 0; i < 5; i++) {
        images[i] = must_make(8, 12, 1);
        memset(images[i].pixels, 10 * (i + 1), 8 * 12);
    }
    assert_int_equal(ck_image_grid(images, 5, 3, NULL, &out, &err), CK_OK);
    assert_int_equal(out.width, 3 * 10 + 2);
    assert_int_equal(out.height, 2 * 14 + 2);
    assert_near("gap", &out, 1, 1, 0, 255, 0);
    assert_near("first", &out, 2, 2, 0, 10, 0);
    assert_near("first", &out, 9, 13, 0, 10, 0);
    assert_near("gap", &out, 10, 13, 0, 255, 0);
    assert_near("third", &out, 22, 2, 0, 30, 0);
    assert_near("fourth", &out, 2, 16, 0, 40, 0);
    assert_near("none", &out, 22, 16, 0, 255, 0);
    ck_image_free(&out);

    const char *labels[] = {"I", "t=1"};
    assert_int_equal(ck_image_grid(images, 5, 3, labels, &out, &err), CK_OK);
    assert_int_equal(out.width, 3 * 8 + 2 + 3 * 10 + 2);
    assert_near("I, top", &out, 2, 3, 0, 0, 0);
    assert_near("I, top", &out, 7, 3, 0, 0, 0);
    assert_near("I, middle", &out, 2, 7, 0, 255, 0);
    assert_near("I, middle", &out, 4, 7, 0, 0, 0);
    assert_near("beside I", &out, 12, 3, 0, 255, 0);
    assert_near("first", &out, 28, 2, 0, 10, 0);
    ck_image_free(&out);

    assert_int_equal(ck_image_grid(images, 0, 3, NULL, &out, &err), CK_USAGE);
    assert_int_equal(ck_image_grid(images, 3, 0, NULL, &out, &err), CK_USAGE);
    ck_image_free(&images[4]);
    images[4] = must_make(9, 12, 1);
    assert_int_equal(ck_image_grid(images, 5, 3, NULL, &out, &err), CK_USAGE);
    assert_non_null(strstr(err.message, "image 4 of a grid differs"));
    for (int i = 0; i < 5; i++) ck_image_free(&images[i]);
}

static void test_sizes(void **state) {
    (void)state;
    static const size_t bad[][3] = {
        {0, 1, 1},     {1, 0, 1},     {1, 1, 2},       {1, 1, 4},
        {16385, 1, 1}, {1, 16385, 1}, {8192, 8193, 1}, {SIZE_MAX, SIZE_MAX, 1}};
    ck_image image;
    ck_error err = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(ck_image_make(bad[i][0], bad[i][1], bad[i][2], &image, &err), CK_USAGE);
}

static void test_memory_faults(void **state) {
    (void)state;
    ck_image image = must_make(8, 8, 3);
    const char *label = "A";
    float x[8 * 8 * 3] = {0};
    for (int what = 0; what < 3; what++) {
        size_t faults = 0;
        for (fault_first(FAULT_CALLOC, ENOMEM); fault_more();) {
            ck_image out = {0};
            ck_error err = {0};
            fault_arm();
            ck_status status = what == 0   ? ck_image_fit(&image, 4, 4, &out, &err)
                               : what == 1 ? ck_image_grid(&image, 1, 1, &label, &out, &err)
                                           : ck_image_from_floats(x, 8, 8, 3, &out, &err);
            fault_disarm();
            faults += fault_hit();
            assert_int_equal(status, fault_hit() ? CK_MEMORY : CK_OK);
            ck_image_free(&out);
        }
        assert_true(faults > 0);
    }
    ck_image_free(&image);
}

int main(void) {
    const struct CMUnitTest tests[] = {
#if defined(CK_HAVE_PNG) && defined(CK_HAVE_JPEG)
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_damaged_png),
        cmocka_unit_test(test_huge),
        cmocka_unit_test(test_others),
        cmocka_unit_test(test_write),
        cmocka_unit_test(test_write_faults),
        cmocka_unit_test(test_read_faults),
#endif
        cmocka_unit_test(test_size_alone),
        cmocka_unit_test(test_floats),
        cmocka_unit_test(test_fit),
        cmocka_unit_test(test_grid),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_memory_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
