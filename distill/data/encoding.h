/* The work of encoding a dataset once: every caption through the text encoders, every image through
 * the VAE, as a list of items that are made one after the other, from any block of it on.
 *
 *   ck_encoding e = {&model, backend, data, &buckets};
 *   CK_TRY(ck_encode(&e, 0, put, self, err));            put is given every item, in order
 *
 * Items 0 to caption_count - 1 are the captions of the buckets: tokens x width numbers, then the
 * pooled ones. After them come the images, bucket by bucket: the mean of their latents, height x
 * width x channels, scaled for the UNet. An item's bits depend on the block that it is in, and on
 * nothing before it.
 */
#ifndef CK_ENCODING_H
#define CK_ENCODING_H

#include "distill/data/bucket.h"
#include "distill/models/model.h"

typedef struct ck_encoding {
    ck_model *model;
    const ck_backend *backend;
    const ck_dataset *data; /* NULL where buckets has captions alone */
    const ck_buckets *buckets;
} ck_encoding;

size_t ck_encoding_items(const ck_encoding *e);
/* The item of the i-th sample of a bucket. */
size_t ck_encoding_image(const ck_encoding *e, size_t bucket, size_t i);
/* Numbers of a caption; of an image in a bucket; of an item. */
size_t ck_encoding_text(const ck_encoding *e);
size_t ck_encoding_latent(const ck_encoding *e, size_t bucket);
size_t ck_encoding_size(const ck_encoding *e, size_t item);
/* The first item of the block that this one is in; items are made a block at a time. */
size_t ck_encoding_block(const ck_encoding *e, size_t item);

/* Encodes all items from `first` (of a block) on. put's values are gone after the call; when it
 * fails, so does this. Images that cannot be read, and items that come out with a value that is not
 * finite, are not put; at the end they are CK_INPUT: how many, and the first ones' names. */
ck_status ck_encode(const ck_encoding *e, size_t first,
                    ck_status (*put)(void *self, size_t item, const float *values, ck_error *err),
                    void *self, ck_error *err);

/* Image i of the dataset as its bucket has it, channels last, in [-1, 1]. */
ck_status ck_encoding_pixels(const ck_dataset *data, size_t i, size_t width, size_t height,
                             float *pixels, ck_error *err);

#endif
