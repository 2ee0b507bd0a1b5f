/* Images of 8 bits: read from PNG and JPEG, written as PNG, fitted, laid out in a grid, and turned
 * into the floats that models take.
 *
 *   ck_image image, fitted;
 *   CK_TRY(ck_image_read("photo.jpg", 3, &image, err));
 *   CK_TRY(ck_image_fit(&image, 512, 512, &fitted, err));
 *   ck_image_to_floats(&fitted, x);                                  NHWC, one image
 *
 *   CK_TRY(ck_image_from_floats(x, 512, 512, 3, &image, err));
 *   CK_TRY(ck_image_write("out.png", &image, texts, 2, false, err));
 *   ck_image_free(&image);
 */
#ifndef CK_IMAGE_H
#define CK_IMAGE_H

#include "io/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ck_image {
    size_t width, height;
    size_t channels; /* 1: gray, 3: red, green, blue */
    uint8_t *pixels; /* height rows of width pixels of channels bytes; owned */
} ck_image;

/* No image may be wider or higher, or have more pixels in all. */
enum { CK_IMAGE_SIDE = 1 << 14, CK_IMAGE_PIXELS = 1 << 26 };

/* Zeroed pixels. CK_USAGE: no size, too large, channels other than 1 and 3. */
ck_status ck_image_make(size_t width, size_t height, size_t channels, ck_image *image,
                        ck_error *err);
void ck_image_free(ck_image *image); /* a zeroed one is allowed */

/* Which of the two is found by content. channels: 1 or 3, to which the image is brought. Alpha is
 * dropped, 16 bits become 8, rotation in EXIF is ignored. CK_INPUT: damaged, too large, or neither;
 * CK_USAGE: made without libpng or libjpeg. */
ck_status ck_image_read(const char *path, size_t channels, ck_image *image, ck_error *err);

/* The same from n bytes of memory; name is for messages. */
ck_status ck_image_parse(const char *name, const void *data, size_t n, size_t channels,
                         ck_image *image, ck_error *err);

/* The size alone, from the first bytes of the file: that it can be decoded is not known then. Also
 * without libpng and libjpeg. */
ck_status ck_image_size(const char *path, size_t *width, size_t *height, ck_error *err);

/* A text in a PNG file: key of 1 to 79 characters of ASCII, value in UTF-8. */
typedef struct ck_image_text {
    const char *key, *value;
} ck_image_text;

/* As PNG, whole or absent; replace as for ck_writer_create. */
ck_status ck_image_write(const char *path, const ck_image *image, const ck_image_text *texts,
                         size_t text_count, bool replace, ck_error *err);

/* Bytes 0 to 255 as floats -1 to 1, in the same order (height, width, channels). */
void ck_image_to_floats(const ck_image *image, float *x);

/* Back, rounded to the nearest; what is beyond is cut off, NaN is black. */
ck_status ck_image_from_floats(const float *x, size_t width, size_t height, size_t channels,
                               ck_image *image, ck_error *err);

/* The largest part from the middle that has the wanted shape, resampled to the wanted size: linear
 * interpolation, over as many pixels as fall on one where it gets smaller. */
ck_status ck_image_fit(const ck_image *image, size_t width, size_t height, ck_image *out,
                       ck_error *err);

/* Images of one size and number of channels in rows of columns, two pixels apart, on white. Where
 * row_labels is not NULL it has a text for each row, which is written to the left of it (letters,
 * digits and some signs; what else there is shows as a box). */
ck_status ck_image_grid(const ck_image *images, size_t count, size_t columns,
                        const char *const *row_labels, ck_image *out, ck_error *err);

#endif
