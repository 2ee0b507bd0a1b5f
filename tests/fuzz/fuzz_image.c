/* libFuzzer: any bytes as a PNG or JPEG file are read or refused; what is read has all its pixels.
 */
#include "distill/data/image.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    ck_image image;
    ck_error err = {0};
    if (n == 0 || ck_image_parse("fuzz", data, n, 1 + 2 * (data[n - 1] & 1), &image, &err) != CK_OK)
        return 0;
    volatile uint8_t sum = 0;
    size_t bytes = image.width * image.height * image.channels;
    for (size_t i = 0; i < bytes; i++) sum = (uint8_t)(sum + image.pixels[i]);
    ck_image_free(&image);
    return 0;
}
