/* Decoders behind ck_image_parse. Both give an image of 1 or 3 channels, as the file has it; what
 * they do not give they release. */
#ifndef CK_IMAGE_INT_H
#define CK_IMAGE_INT_H

#include "distill/data/image.h"

ck_status ck_image__parse_png(const char *name, const uint8_t *data, size_t n, ck_image *image,
                              ck_error *err);
ck_status ck_image__parse_jpeg(const char *name, const uint8_t *data, size_t n, ck_image *image,
                               ck_error *err);

/* CK_INPUT where a file says that its image is larger than allowed. */
ck_status ck_image__check_size(const char *name, size_t width, size_t height, ck_error *err);

#endif
