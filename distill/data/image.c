/* What does not depend on a file format; see image.h. */
#include "distill/data/image_int.h"
#include "io/os.h"

#include <ctype.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const size_t max_file = (size_t)1 << 28;

ck_status ck_image_make(size_t width, size_t height, size_t channels, ck_image *image,
                        ck_error *err) {
    if (channels != 1 && channels != 3)
        return ck_fail(err, CK_USAGE, "images have 1 or 3 channels, not %zu", channels);
    if (width < 1 || height < 1 || width > CK_IMAGE_SIDE || height > CK_IMAGE_SIDE ||
        width * height > CK_IMAGE_PIXELS)
        return ck_fail(err, CK_USAGE, "images cannot be %zux%zu", width, height);
    uint8_t *pixels = ck_alloc_array(width * height, channels);
    if (!pixels) return ck_fail_memory(err, "an image");
    *image = (ck_image){width, height, channels, pixels};
    return CK_OK;
}

void ck_image_free(ck_image *image) {
    free(image->pixels);
    *image = (ck_image){0};
}

ck_status ck_image__check_size(const char *name, size_t width, size_t height, ck_error *err) {
    if (width <= CK_IMAGE_SIDE && height <= CK_IMAGE_SIDE && width * height <= CK_IMAGE_PIXELS)
        return CK_OK;
    return ck_fail(err, CK_INPUT, "%s: %zux%zu pixels are too many", name, width, height);
}

/* ---- Reading ---- */

/* Brightness as ITU-R BT.601 weighs it; gray stays what it is. */
static uint8_t gray(const uint8_t *rgb) {
    return (uint8_t)((299 * rgb[0] + 587 * rgb[1] + 114 * rgb[2] + 500) / 1000);
}

static ck_status set_channels(ck_image *image, size_t channels, ck_error *err) {
    if (image->channels == channels) return CK_OK;
    ck_image out;
    CK_TRY(ck_image_make(image->width, image->height, channels, &out, err));
    for (size_t i = 0; i < image->width * image->height; i++)
        if (channels == 1)
            out.pixels[i] = gray(image->pixels + 3 * i);
        else
            memset(out.pixels + 3 * i, image->pixels[i], 3);
    ck_image_free(image);
    *image = out;
    return CK_OK;
}

ck_status ck_image_parse(const char *name, const void *data, size_t n, size_t channels,
                         ck_image *out, ck_error *err) {
    ck_image image = {0};
    ck_status status = CK_OK;
    if (n >= 8 && memcmp(data, "\x89PNG\r\n\x1a\n", 8) == 0)
        status = ck_image__parse_png(name, data, n, &image, err);
    else if (n >= 3 && memcmp(data, "\xff\xd8\xff", 3) == 0)
        status = ck_image__parse_jpeg(name, data, n, &image, err);
    else
        status = ck_fail(err, CK_INPUT, "%s: neither PNG nor JPEG", name);
    if (status == CK_OK) status = set_channels(&image, channels, err);
    if (status != CK_OK) {
        ck_image_free(&image);
        return status;
    }
    *out = image;
    return CK_OK;
}

ck_status ck_image_read(const char *path, size_t channels, ck_image *image, ck_error *err) {
    char *data;
    size_t n;
    CK_TRY(ck_read_file(path, max_file, &data, &n, err));
    ck_status status = ck_image_parse(path, data, n, channels, image, err);
    free(data);
    return status;
}

/* ---- Sizes ---- */

static size_t big_endian(const uint8_t *bytes, size_t n) {
    size_t value = 0;
    for (size_t i = 0; i < n; i++) value = value << 8 | bytes[i];
    return value;
}

/* Segment by segment to the one that begins a frame (SOF); ITU-T T.81, table B.1. */
static ck_status find_jpeg_size(int fd, const char *path, size_t *width, size_t *height,
                                ck_error *err) {
    for (uint64_t at = 2;;) {
        uint8_t b[9]; /* ff, marker, length, bits, height, width */
        CK_TRY(ck_pread_all(fd, b, sizeof b, at, path, err));
        uint8_t marker = b[1];
        size_t length = big_endian(b + 2, 2);
        bool fill = marker == 0xff, frame = marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 &&
                                            marker != 0xc8 && marker != 0xcc;
        if (b[0] != 0xff || marker == 0xda || marker == 0xd9 || (!fill && length < 2))
            return ck_fail(err, CK_INPUT, "%s: JPEG, offset %llu: damaged", path,
                           (unsigned long long)at);
        at += fill ? 1 : 2 + length;
        if (!frame) continue;
        *height = big_endian(b + 5, 2);
        *width = big_endian(b + 7, 2);
        return CK_OK;
    }
}

static ck_status find_size(int fd, const char *path, size_t *width, size_t *height, ck_error *err) {
    uint8_t b[24]; /* PNG: signature, length, "IHDR", width, height */
    CK_TRY(ck_pread_all(fd, b, sizeof b, 0, path, err));
    if (memcmp(b, "\xff\xd8\xff", 3) == 0) {
        CK_TRY(find_jpeg_size(fd, path, width, height, err));
    } else if (memcmp(b, "\x89PNG\r\n\x1a\n", 8) == 0 && memcmp(b + 12, "IHDR", 4) == 0) {
        *width = big_endian(b + 16, 4);
        *height = big_endian(b + 20, 4);
    } else {
        return ck_fail(err, CK_INPUT, "%s: neither PNG nor JPEG", path);
    }
    if (*width == 0 || *height == 0) return ck_fail(err, CK_INPUT, "%s: no pixels", path);
    return ck_image__check_size(path, *width, *height, err);
}

ck_status ck_image_size(const char *path, size_t *width, size_t *height, ck_error *err) {
    int fd = ck_os.open(path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return ck_fail_errno(err, "%s", path);
    ck_status status = find_size(fd, path, width, height, err);
    close(fd);
    return status;
}

/* ---- Floats ---- */

void ck_image_to_floats(const ck_image *image, float *x) {
    size_t n = image->width * image->height * image->channels;
    for (size_t i = 0; i < n; i++) x[i] = (float)image->pixels[i] / 127.5f - 1;
}

ck_status ck_image_from_floats(const float *x, size_t width, size_t height, size_t channels,
                               ck_image *image, ck_error *err) {
    CK_TRY(ck_image_make(width, height, channels, image, err));
    for (size_t i = 0; i < width * height * channels; i++) {
        float byte = rintf((x[i] + 1) * 127.5f);
        image->pixels[i] = byte > 255 ? 255 : byte > 0 ? (uint8_t)byte : 0;
    }
    return CK_OK;
}

/* ---- Fitting ---- */

/* One direction of resampling: output i covers inputs from position begin + i * scale. */
typedef struct axis {
    size_t n, out;
    double begin, scale;
} axis;

/* The inputs that output i depends on, first to *end, and their weights, which add up to 1: a
 * triangle over the middle of the output pixel, at least one pixel to each side. */
static size_t triangle(const axis *a, size_t i, float *weights, size_t *end) {
    double radius = fmax(a->scale, 1), center = a->begin + ((double)i + 0.5) * a->scale;
    double low = floor(center - radius), high = ceil(center + radius), sum = 0;
    size_t first = low > 0 ? (size_t)low : 0;
    *end = high < (double)a->n ? (size_t)high : a->n;
    for (size_t j = first; j < *end; j++) {
        double away = fabs((double)j + 0.5 - center) / radius;
        weights[j - first] = away < 1 ? (float)(1 - away) : 0;
        sum += weights[j - first];
    }
    for (size_t j = first; j < *end; j++) weights[j - first] = (float)(weights[j - first] / sum);
    return first;
}

/* Rows of a->n pixels to rows of a->out, which stay floats. weights: room for a->n. */
static void resample_rows(const ck_image *in, const axis *a, float *weights, float *out) {
    size_t channels = in->channels;
    for (size_t i = 0; i < a->out; i++) {
        size_t end, first = triangle(a, i, weights, &end);
        for (size_t y = 0; y < in->height; y++)
            for (size_t c = 0; c < channels; c++) {
                float sum = 0;
                for (size_t j = first; j < end; j++)
                    sum += weights[j - first] * in->pixels[(y * a->n + j) * channels + c];
                out[(y * a->out + i) * channels + c] = sum;
            }
    }
}

/* The same for columns, rounded to bytes. */
static void resample_columns(const float *in, const axis *a, float *weights, ck_image *out) {
    size_t row = out->width * out->channels;
    for (size_t i = 0; i < a->out; i++) {
        size_t end, first = triangle(a, i, weights, &end);
        for (size_t x = 0; x < row; x++) {
            float sum = 0.5f;
            for (size_t j = first; j < end; j++) sum += weights[j - first] * in[j * row + x];
            out->pixels[i * row + x] = sum < 255 ? (uint8_t)sum : 255;
        }
    }
}

ck_status ck_image_fit(const ck_image *image, size_t width, size_t height, ck_image *out,
                       ck_error *err) {
    CK_TRY(ck_image_make(width, height, image->channels, out, err));
    double w = (double)image->width, h = (double)image->height;
    double scale = fmin(w / (double)width, h / (double)height);
    axis x = {image->width, width, (w - scale * (double)width) / 2, scale};
    axis y = {image->height, height, (h - scale * (double)height) / 2, scale};
    /* Never more inputs for one output than there are. */
    size_t longest = image->width > image->height ? image->width : image->height;
    float *weights = ck_alloc_array(longest, sizeof *weights);
    float *rows = ck_alloc_array(image->height * width, image->channels * sizeof *rows);
    ck_status status = CK_OK;
    if (weights && rows) {
        resample_rows(image, &x, weights, rows);
        resample_columns(rows, &y, weights, out);
    } else {
        status = ck_fail_memory(err, "an image");
        ck_image_free(out);
    }
    free(weights);
    free(rows);
    return status;
}

/* ---- Grids ---- */

enum {
    GAP = 2,
    LETTER_SCALE = 2,
    LETTER_WIDTH = 4 * LETTER_SCALE,
    LETTER_HEIGHT = 5 * LETTER_SCALE
};

/* Letters of 3 by 5 dots: a digit of octal per row, its bits from left to right. */
static uint16_t letter(char c) {
    static const uint16_t letters[] = {
        025755, 065656, 034443, 065556, 074647, 074644, 034553, 055755, /* A to H */
        072227, 011152, 055655, 044447, 057755, 065555, 025552, 065644, /* I to P */
        025573, 065655, 034216, 072222, 055557, 055552, 055775, 055255, /* Q to X */
        055222, 071247,                                                 /* Y Z */
    };
    static const uint16_t digits[] = {
        025552, 026227, 061247, 061216, 055711, 074616, 034757, 071222, 075757, 075716,
    };
    static const struct {
        char sign;
        uint16_t dots;
    } signs[] = {{' ', 0},      {'-', 000700}, {'.', 000002}, {',', 000024}, {':', 002020},
                 {'/', 011244}, {'=', 007070}, {'(', 024442}, {')', 021112}, {'%', 051245},
                 {'+', 002720}, {'_', 000007}, {'\'', 022000}};
    if (isalpha((unsigned char)c)) return letters[(c | 32) - 'a'];
    if (isdigit((unsigned char)c)) return digits[c - '0'];
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if (signs[i].sign == c) return signs[i].dots;
    return 075557;
}

static void draw_letter(ck_image *image, size_t left, size_t top, char c) {
    uint16_t dots = letter(c);
    for (size_t y = 0; y < LETTER_HEIGHT; y++)
        for (size_t x = 0; x < 3 * LETTER_SCALE; x++) {
            size_t bit = (4 - y / LETTER_SCALE) * 3 + (2 - x / LETTER_SCALE);
            size_t at = (top + y) * image->width + left + x;
            if (dots >> bit & 1 && top + y < image->height)
                memset(image->pixels + at * image->channels, 0, image->channels);
        }
}

static void draw_image(ck_image *out, size_t left, size_t top, const ck_image *in) {
    size_t row = in->width * in->channels;
    for (size_t y = 0; y < in->height; y++)
        memcpy(out->pixels + ((top + y) * out->width + left) * out->channels, in->pixels + y * row,
               row);
}

ck_status ck_image_grid(const ck_image *images, size_t count, size_t columns,
                        const char *const *row_labels, ck_image *out, ck_error *err) {
    if (count == 0 || columns == 0) return ck_fail(err, CK_USAGE, "a grid of no images");
    const ck_image *first = &images[0];
    for (size_t i = 1; i < count; i++)
        if (images[i].width != first->width || images[i].height != first->height ||
            images[i].channels != first->channels)
            return ck_fail(err, CK_USAGE, "image %zu of a grid differs in size from the first", i);
    if (count < columns) columns = count;
    size_t rows = (count + columns - 1) / columns, label = 0, width, height;
    for (size_t r = 0; row_labels && r < rows; r++)
        if (strlen(row_labels[r]) > label) label = strlen(row_labels[r]);
    if (label > CK_IMAGE_SIDE) label = CK_IMAGE_SIDE; /* too wide in any case */
    size_t margin = GAP + (label ? label * LETTER_WIDTH + GAP : 0);
    if (__builtin_mul_overflow(columns, first->width + GAP, &width) ||
        __builtin_mul_overflow(rows, first->height + GAP, &height))
        return ck_fail(err, CK_USAGE, "a grid of too many images");
    CK_TRY(ck_image_make(width + margin, height + GAP, first->channels, out, err));
    memset(out->pixels, 255, out->width * out->height * out->channels);
    for (size_t i = 0; i < count; i++)
        draw_image(out, margin + i % columns * (first->width + GAP),
                   GAP + i / columns * (first->height + GAP), &images[i]);
    for (size_t r = 0; row_labels && r < rows; r++)
        for (size_t k = 0; row_labels[r][k]; k++) {
            size_t down = first->height > LETTER_HEIGHT ? (first->height - LETTER_HEIGHT) / 2 : 0;
            draw_letter(out, GAP + k * LETTER_WIDTH, GAP + r * (first->height + GAP) + down,
                        row_labels[r][k]);
        }
    return CK_OK;
}
