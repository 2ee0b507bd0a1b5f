/* What the files of the task of images share: all that it has open. See task_images.c. */
#ifndef CK_IMAGES_INT_H
#define CK_IMAGES_INT_H

#include "distill/judge/classifier.h"
#include "distill/data/latents.h"
#include "distill/run/tasks.h"

typedef struct ck_images_task {
    const char *folder; /* of the teacher */
    ck_model model;
    ck_network_config teacher, student; /* of the model's kind */
    size_t height, width, channels;     /* of images */
    size_t step;                        /* of what their sides are multiples */
    size_t h, w, latent;                /* of latents; numbers of one */
    size_t text;                        /* numbers of a caption */
    ck_dataset *data;                   /* NULL: captions alone */
    char *prompts;                      /* a file of them, cut into lines */
    ck_buckets buckets;
    ck_encoding encoding;
    ck_latents *latents;
    size_t captions; /* how many caption_of there are: samples, or prompts */
    double drop;

    /* Evaluation: sample k is asked to be asked[k % asked_count]. */
    float *asked;
    size_t asked_count;
    bool classes; /* asked are the classifier's classes */
    ck_classifier *classifier;
    size_t samples;
    ck_gaussian real;
    float *real_features, *real_latents; /* of reference_count images */
    size_t reference_count, latents_count;
    float *reference; /* pixels of the teacher's first samples at many steps */
} ck_images_task;

/* images_judge.c; see task.h. */
ck_status ck_images__judge(ck_task *t, const ck_network *n, ck_row *row, ck_image *pictures,
                           ck_error *err);
void ck_images__forget(ck_images_task *o); /* releases what judging remembers */

#endif
