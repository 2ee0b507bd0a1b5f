/* What of a dataset has to be encoded: its images in a few sizes (buckets), so that those of a
 * batch are alike, and every caption that occurs, once.
 *
 *   ck_buckets b;
 *   CK_TRY(ck_buckets_make(d, 1024, 64, &b, err));
 *   for each of b.buckets: width, height and the samples whose images are fitted to it
 *   ck_buckets_free(&b);
 */
#ifndef CK_BUCKET_H
#define CK_BUCKET_H

#include "distill/data/dataset.h"

typedef struct ck_bucket {
    size_t width, height;
    size_t count;    /* at least 1 */
    size_t *samples; /* ascending numbers in the dataset */
} ck_bucket;

typedef struct ck_buckets {
    size_t count;
    ck_bucket *buckets; /* by width, then height */
    size_t caption_count;
    const char **captions; /* sorted; the first is "". The texts are the dataset's. */
    uint32_t *caption_of;  /* the number of each sample's caption */
} ck_buckets;

/* The size that an image is fitted to: of those whose sides are multiples of step, at most twice
 * resolution, and whose area is as large as it gets within resolution^2, the one with the nearest
 * ratio of width to height. resolution >= step >= 1, resolution at most CK_IMAGE_SIDE / 2. */
void ck_bucket_size(size_t width, size_t height, size_t resolution, size_t step,
                    size_t *bucket_width, size_t *bucket_height);

/* CK_USAGE: a resolution or step out of range. */
ck_status ck_buckets_make(const ck_dataset *d, size_t resolution, size_t step, ck_buckets *b,
                          ck_error *err);
/* Of captions alone: no buckets, and caption_of the number of each text. The texts are borrowed. */
ck_status ck_buckets_of_texts(const char *const *texts, size_t n, ck_buckets *b, ck_error *err);
void ck_buckets_free(ck_buckets *b); /* a zeroed one is allowed */

#endif
