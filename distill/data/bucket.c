/* Sizes for images, and lists of what has which; see bucket.h. */
#include "distill/data/bucket.h"
#include "io/os.h"

#include <stdlib.h>
#include <string.h>

void ck_bucket_size(size_t width, size_t height, size_t resolution, size_t step,
                    size_t *bucket_width, size_t *bucket_height) {
    double best = 0;
    *bucket_width = *bucket_height = 0;
    for (size_t a = step; a <= 2 * resolution; a += step) {
        size_t b = resolution * resolution / a / step * step;
        if (b < step || b > 2 * resolution) continue;
        for (int turned = 0; turned < 2; turned++) {
            size_t w = turned ? b : a, h = turned ? a : b;
            double x = (double)(w * height), y = (double)(h * width);
            double likeness = x < y ? x / y : y / x;
            bool larger = w * h > *bucket_width * *bucket_height;
            if (likeness < best || (likeness == best && !larger)) continue;
            best = likeness;
            *bucket_width = w;
            *bucket_height = h;
        }
    }
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static ck_status list_captions(const char *const *texts, size_t n, ck_buckets *b, ck_error *err) {
    size_t used = 1;
    b->captions = ck_alloc_array(n + 1, sizeof *b->captions);
    b->caption_of = ck_alloc_array(n, sizeof *b->caption_of);
    if (!b->captions || !b->caption_of) return ck_fail_memory(err, "a dataset");
    b->captions[0] = "";
    for (size_t i = 0; i < n; i++) b->captions[i + 1] = texts[i];
    qsort(b->captions, n + 1, sizeof *b->captions, by_text);
    for (size_t i = 1; i <= n; i++)
        if (strcmp(b->captions[i], b->captions[used - 1]) != 0)
            b->captions[used++] = b->captions[i];
    b->caption_count = used;
    for (size_t i = 0; i < n; i++) {
        const char **found = bsearch(&texts[i], b->captions, used, sizeof *b->captions, by_text);
        b->caption_of[i] = (uint32_t)(found - b->captions);
    }
    return CK_OK;
}

typedef struct sized {
    size_t width, height, sample;
} sized;

static int by_size(const void *a, const void *b) {
    const sized *x = a, *y = b;
    if (x->width != y->width) return x->width < y->width ? -1 : 1;
    if (x->height != y->height) return x->height < y->height ? -1 : 1;
    return x->sample < y->sample ? -1 : x->sample > y->sample;
}

/* The first n samples of the list, which all have one size, as a bucket. */
static ck_status add_bucket(ck_buckets *b, const sized *list, size_t n, ck_error *err) {
    ck_bucket *made = &b->buckets[b->count];
    *made = (ck_bucket){.width = list->width, .height = list->height, .count = n};
    made->samples = ck_alloc_array(n, sizeof *made->samples);
    if (!made->samples) return ck_fail_memory(err, "a dataset");
    for (size_t i = 0; i < n; i++) made->samples[i] = list[i].sample;
    b->count++;
    return CK_OK;
}

static ck_status sort_samples(const ck_dataset *d, size_t resolution, size_t step, sized *list,
                              ck_buckets *b, ck_error *err) {
    size_t n = ck_dataset_count(d), sizes = 0;
    for (size_t i = 0; i < n; i++) {
        const ck_sample *s = ck_dataset_sample(d, i);
        list[i].sample = i;
        ck_bucket_size(s->width, s->height, resolution, step, &list[i].width, &list[i].height);
    }
    qsort(list, n, sizeof *list, by_size);
    for (size_t i = 0; i < n; i++)
        sizes +=
            i == 0 || list[i].width != list[i - 1].width || list[i].height != list[i - 1].height;
    b->buckets = ck_alloc_array(sizes, sizeof *b->buckets);
    if (!b->buckets) return ck_fail_memory(err, "a dataset");
    for (size_t first = 0, end; first < n; first = end) {
        for (end = first + 1; end < n && list[end].width == list[first].width &&
                              list[end].height == list[first].height;)
            end++;
        CK_TRY(add_bucket(b, list + first, end - first, err));
    }
    return CK_OK;
}

ck_status ck_buckets_make(const ck_dataset *d, size_t resolution, size_t step, ck_buckets *out,
                          ck_error *err) {
    if (step < 1 || resolution < step || resolution > CK_IMAGE_SIDE / 2)
        return ck_fail(err, CK_USAGE, "a resolution of %zu in steps of %zu: must be %zu to %d",
                       resolution, step, step, CK_IMAGE_SIDE / 2);
    size_t n = ck_dataset_count(d);
    ck_buckets b = {0};
    sized *list = ck_alloc_array(n, sizeof *list);
    const char **texts = ck_alloc_array(n, sizeof *texts);
    for (size_t i = 0; texts && i < n; i++) texts[i] = ck_dataset_sample(d, i)->caption;
    ck_status status =
        list && texts ? list_captions(texts, n, &b, err) : ck_fail_memory(err, "a dataset");
    if (status == CK_OK) status = sort_samples(d, resolution, step, list, &b, err);
    free(list);
    free(texts);
    if (status == CK_OK)
        *out = b;
    else
        ck_buckets_free(&b);
    return status;
}

ck_status ck_buckets_of_texts(const char *const *texts, size_t n, ck_buckets *b, ck_error *err) {
    *b = (ck_buckets){0};
    ck_status status = list_captions(texts, n, b, err);
    if (status != CK_OK) ck_buckets_free(b);
    return status;
}

void ck_buckets_free(ck_buckets *b) {
    for (size_t i = 0; i < b->count; i++) free(b->buckets[i].samples);
    free(b->buckets);
    free(b->captions);
    free(b->caption_of);
    *b = (ck_buckets){0};
}
