/* Small convolutional classifiers: what kind of thing an image shows, and features in which the
 * metrics of distill/judge/metrics.h are measured.
 *
 *   ck_classifier *c;
 *   CK_TRY(ck_classifier_open("classifier.safetensors", &c, err));
 *   float *features = ck_alloc_array(images.count, ck_classifier_features(c) * sizeof *features);
 *   CK_TRY(ck_classifier_run(c, images, features, NULL, err));
 *   ck_classifier_close(c);
 *
 * A classifier is a checkpoint with conv1 to convN and fc1 to fcM (weight and bias, as torch has
 * them) and nothing else. Convolutions have square kernels of odd size k, stride 2 and a padding of
 * k / 2; then all that is left, channel by channel, goes through the fully connected layers. There
 * is a SiLU after every layer but the last. Features are what enters the last layer, logits what
 * leaves it.
 */
#ifndef CK_CLASSIFIER_H
#define CK_CLASSIFIER_H

#include "distill/judge/metrics.h"
#include "io/error.h"

#include <stddef.h>

typedef struct ck_classifier ck_classifier;

/* CK_INPUT: not such a checkpoint, with the tensor in the message. */
ck_status ck_classifier_open(const char *path, ck_classifier **c, ck_error *err);
void ck_classifier_close(ck_classifier *c); /* NULL is allowed */

size_t ck_classifier_features(const ck_classifier *c); /* how many numbers */
size_t ck_classifier_classes(const ck_classifier *c);

/* To features[count x features] and logits[count x classes]; either may be NULL. Pixels are what
 * the classifier was trained on, mostly in [-1, 1]. Smaller images are padded evenly with -1 (28 x
 * 28 by 2 where it takes 32 x 32); larger ones and other channels are CK_USAGE. The bits do not
 * depend on the number of threads, nor an image's on the others. */
ck_status ck_classifier_run(const ck_classifier *c, ck_images images, float *features,
                            float *logits, ck_error *err);

#endif
