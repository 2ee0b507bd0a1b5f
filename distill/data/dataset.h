/* Images with captions, from where people keep them: a folder, or IDX files (MNIST and its
 * relatives).
 *
 *   ck_dataset *d;
 *   CK_TRY(ck_dataset_open_folder("photos", 3, &d, err));
 *   for (size_t i = 0; i < ck_dataset_count(d); i++) {
 *       const ck_sample *s = ck_dataset_sample(d, i);           name, caption, size
 *       CK_TRY(ck_dataset_read(d, i, &image, err));
 *   }
 *   ck_dataset_close(d);
 *
 * A folder is one of two kinds:
 *
 *   photos/metadata.jsonl       {"file_name": "a/1.png", "text": "a cat"}, a line an image; exactly
 *                               these images are taken
 *   photos/a/1.png, a/1.txt     without that file: every PNG and JPEG (by its name's ending) in it
 *                               and the folders in it, with the caption in the .txt beside it
 *
 * Samples have the order of their names or of the lines. The order to train in is
 * distill/data/shuffle.h's.
 */
#ifndef CK_DATASET_H
#define CK_DATASET_H

#include "distill/data/image.h"
#include "io/hash.h"

typedef struct ck_dataset ck_dataset;

typedef struct ck_sample {
    const char *name;    /* of the file, within the folder; IDX: "#17" */
    const char *caption; /* UTF-8 in one line; "" where there is none */
    size_t width, height;
} ck_sample;

/* Lists the folder and reads captions and the images' headers; channels (1 or 3) is what images are
 * brought to. CK_INPUT: there are none, or some are damaged or missing: how many, and the first
 * ones' names; a line of metadata.jsonl that is not as above; a caption that is not UTF-8 or longer
 * than 16 KiB; a file_name that leaves the folder. */
ck_status ck_dataset_open_folder(const char *folder, size_t channels, ck_dataset **d,
                                 ck_error *err);

/* Images of IDX shape [count, height, width]; sides that are shorter than `side` get black pixels,
 * evenly on both ends (as for models of 32x32 that learn from images of 28x28). labels: an IDX file
 * of shape [count], whose label k has the caption names[k]; NULL: no captions. CK_INPUT: shapes or
 * labels that do not fit. */
ck_status ck_dataset_open_idx(const char *images, const char *labels, const char *const *names,
                              size_t name_count, size_t side, size_t channels, ck_dataset **d,
                              ck_error *err);
void ck_dataset_close(ck_dataset *d); /* NULL is allowed */

/* Leaves out all but the first n; n is at least 1. */
void ck_dataset_limit(ck_dataset *d, size_t n);
/* Leaves out all samples whose captions are not among these. CK_INPUT: it would be all of them; the
 * dataset is as it was then. */
ck_status ck_dataset_only(ck_dataset *d, const char *const *captions, size_t n, ck_error *err);

size_t ck_dataset_count(const ck_dataset *d); /* at least 1 */
const ck_sample *ck_dataset_sample(const ck_dataset *d, size_t i);

/* How many samples have no caption, and how many files of the folder are neither images that can be
 * read nor captions (WebP, for one): both are worth a word to the user. */
size_t ck_dataset_without_caption(const ck_dataset *d);
size_t ck_dataset_ignored(const ck_dataset *d);

/* The image of a sample; to be released. From any thread. CK_INPUT with its name: it is damaged, or
 * no longer has the size that it had. */
ck_status ck_dataset_read(const ck_dataset *d, size_t i, ck_image *image, ck_error *err);

/* Decodes every image, on all threads, so that a damaged one is known before a long work and not in
 * the middle of the night. CK_INPUT: how many are damaged, and the first ones' names. progress is
 * told of each image (NULL: nobody), by one thread at a time, and stops with CK_CANCELLED by
 * returning false. */
ck_status ck_dataset_check(const ck_dataset *d, bool (*progress)(void *context), void *context,
                           ck_error *err);

/* What identifies the data: the SHA-256 of the samples' names, captions and sizes, and of the sizes
 * of their files or (IDX) all pixels. */
ck_status ck_dataset_hash(const ck_dataset *d, char hex[CK_SHA256_HEX], ck_error *err);

#endif
