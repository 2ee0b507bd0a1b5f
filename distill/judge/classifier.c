/* Direct convolution for classifier.h. Activations are kept with their channels last and weights
 * with the outputs last, so that the innermost loop adds an input times a row of weights to a row
 * of outputs. A fully connected layer is a convolution whose kernel is as large as the image. */
#include "distill/judge/classifier.h"
#include "io/os.h"
#include "io/reader.h"
#include "kernels/kernels.h"

#include <math.h>
#include <omp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct layer {
    size_t in, out;           /* channels */
    size_t kernel, stride;    /* square */
    size_t padding;           /* of zeros, on every side */
    size_t side_in, side_out; /* of the square image */
    float *weight;            /* kernel x kernel x in x out */
    float *bias;              /* out */
} layer;

struct ck_classifier {
    layer *layers;
    size_t count, capacity, convolutions;
    size_t largest; /* number of activations between two layers */
};

enum { MAX_SIDE = 4096 }; /* of images, so that sizes do not overflow */

/* ---- Loading ---- */

static ck_status bad(const ck_reader *r, const ck_tensor *t, const char *what, ck_error *err) {
    char shape[128];
    return ck_fail(err, CK_INPUT, "%s: tensor '%s' %s: %s", ck_reader_path(r), t->name,
                   ck_tensor_shape_text(t, shape, sizeof shape), what);
}

static ck_status read_values(const ck_reader *r, const ck_tensor *t, float **values,
                             ck_error *err) {
    if (!ck_dtype_is_float(t->dtype)) return bad(r, t, "not of a float type", err);
    size_t kernel_tables;
    const ck_kernels *k = ck_kernels_all(&kernel_tables)[0];
    void *raw = ck_alloc(t->nbytes);
    *values = ck_alloc_array(t->elements, sizeof **values);
    ck_status status = raw && *values ? ck_reader_read(r, t, 0, raw, t->nbytes, err)
                                      : ck_fail_memory(err, ck_reader_path(r));
    if (status == CK_OK) k->decode[t->dtype](*values, raw, t->elements);
    free(raw);
    return status;
}

/* Torch's order (out, in, row, column) to ours. */
static void reorder(const layer *l, const float *from, float *to) {
    size_t positions = l->kernel * l->kernel;
    for (size_t o = 0; o < l->out; o++)
        for (size_t i = 0; i < l->in; i++)
            for (size_t p = 0; p < positions; p++)
                to[(p * l->in + i) * l->out + o] = from[(o * l->in + i) * positions + p];
}

static ck_status read_layer(const ck_reader *r, const ck_tensor *weight, const char *bias_name,
                            layer *l, ck_error *err) {
    const ck_tensor *bias = ck_reader_find(r, bias_name);
    if (!bias) return ck_fail(err, CK_INPUT, "%s: no tensor '%s'", ck_reader_path(r), bias_name);
    if (bias->rank != 1 || bias->shape[0] != l->out)
        return bad(r, bias, "not one number for every output", err);
    float *values = NULL;
    CK_TRY(read_values(r, bias, &l->bias, err));
    ck_status status = read_values(r, weight, &values, err);
    if (status == CK_OK) {
        l->weight = ck_alloc_array(weight->elements, sizeof *l->weight);
        if (l->weight)
            reorder(l, values, l->weight);
        else
            status = ck_fail_memory(err, ck_reader_path(r));
    }
    free(values);
    return status;
}

/* The zeroed place of another layer at the end of the list. */
static layer *add_layer(ck_classifier *c) {
    layer *moved = ck_grow(c->layers, c->count, &c->capacity, sizeof *moved);
    if (!moved) return NULL;
    c->layers = moved;
    moved[c->count] = (layer){0};
    return &moved[c->count++];
}

static ck_status add_convolution(ck_classifier *c, const ck_reader *r, const ck_tensor *t,
                                 const char *bias, ck_error *err) {
    if (t->rank != 4 || t->shape[2] != t->shape[3] || t->shape[2] % 2 == 0)
        return bad(r, t, "not [out, in, k, k] with an odd k", err);
    if (c->count && t->shape[1] != c->layers[c->count - 1].out)
        return bad(r, t, "does not take what the layer before gives", err);
    layer *l = add_layer(c);
    if (!l) return ck_fail_memory(err, ck_reader_path(r));
    l->out = t->shape[0];
    l->in = t->shape[1];
    l->kernel = t->shape[2];
    l->stride = 2;
    l->padding = l->kernel / 2;
    c->convolutions = c->count;
    return read_layer(r, t, bias, l, err);
}

static ck_status add_connected(ck_classifier *c, const ck_reader *r, const ck_tensor *t,
                               const char *bias, ck_error *err) {
    bool first = c->count == c->convolutions;
    size_t in = c->layers[c->count - 1].out, kernel = 1;
    if (t->rank != 2) return bad(r, t, "not [out, in]", err);
    if (first)
        while (kernel * kernel * in < t->shape[1]) kernel++;
    if (kernel * kernel * in != t->shape[1])
        return bad(r, t, "does not take what the layer before gives", err);
    layer *l = add_layer(c);
    if (!l) return ck_fail_memory(err, ck_reader_path(r));
    l->out = t->shape[0];
    l->in = in;
    l->kernel = kernel;
    l->stride = 1;
    return read_layer(r, t, bias, l, err);
}

/* Adds NAME1, NAME2, ... as far as there are any. */
static ck_status add_layers(ck_classifier *c, const ck_reader *r, const char *name,
                            ck_status (*add)(ck_classifier *, const ck_reader *, const ck_tensor *,
                                             const char *, ck_error *),
                            ck_error *err) {
    for (unsigned i = 1;; i++) {
        char weight[32], bias[32];
        snprintf(weight, sizeof weight, "%s%u.weight", name, i);
        snprintf(bias, sizeof bias, "%s%u.bias", name, i);
        const ck_tensor *t = ck_reader_find(r, weight);
        if (!t && i > 1) return CK_OK;
        if (!t) return ck_fail(err, CK_INPUT, "%s: no tensor '%s'", ck_reader_path(r), weight);
        if (!t->elements) return bad(r, t, "is empty", err);
        CK_TRY(add(c, r, t, bias, err));
    }
}

/* From the first fully connected layer, which takes a whole image, back to the largest side that
 * the convolutions, each halving it and rounding up, make that of. */
static ck_status find_sides(ck_classifier *c, const ck_reader *r, ck_error *err) {
    size_t side = c->layers[c->convolutions].kernel;
    c->layers[c->convolutions].side_in = side;
    for (size_t i = c->convolutions; i-- > 0;) {
        c->layers[i].side_out = side;
        c->layers[i].side_in = side *= 2;
        if (side > MAX_SIDE)
            return ck_fail(err, CK_INPUT, "%s: for images of more than %d pixels a side",
                           ck_reader_path(r), MAX_SIDE);
    }
    for (size_t i = c->convolutions; i < c->count; i++) {
        c->layers[i].side_out = 1;
        if (i > c->convolutions) c->layers[i].side_in = 1;
    }
    c->largest = 0;
    for (size_t i = 0; i < c->count; i++) {
        const layer *l = &c->layers[i];
        size_t in = l->side_in * l->side_in * l->in, out = l->side_out * l->side_out * l->out;
        if (in > c->largest) c->largest = in;
        if (out > c->largest) c->largest = out;
    }
    return CK_OK;
}

static ck_status load(ck_classifier *c, const ck_reader *r, ck_error *err) {
    CK_TRY(add_layers(c, r, "conv", add_convolution, err));
    CK_TRY(add_layers(c, r, "fc", add_connected, err));
    if (ck_reader_count(r) != 2 * c->count)
        return ck_fail(err, CK_INPUT, "%s: %zu tensors, not just weight and bias of %zu layers",
                       ck_reader_path(r), ck_reader_count(r), c->count);
    return find_sides(c, r, err);
}

ck_status ck_classifier_open(const char *path, ck_classifier **c, ck_error *err) {
    ck_reader *r;
    CK_TRY(ck_reader_open(path, &r, err));
    ck_classifier *made = ck_alloc(sizeof *made);
    ck_status status = made ? load(made, r, err) : ck_fail_memory(err, path);
    ck_reader_close(r);
    if (status == CK_OK)
        *c = made;
    else
        ck_classifier_close(made);
    return status;
}

void ck_classifier_close(ck_classifier *c) {
    if (!c) return;
    for (size_t i = 0; i < c->count; i++) {
        free(c->layers[i].weight);
        free(c->layers[i].bias);
    }
    free(c->layers);
    free(c);
}

size_t ck_classifier_features(const ck_classifier *c) {
    return c->layers[c->count - 1].in;
}

size_t ck_classifier_classes(const ck_classifier *c) {
    return c->layers[c->count - 1].out;
}

/* ---- Running ---- */

static void silu(float *x, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] /= 1 + expf(-x[i]);
}

/* to += the sum of n inputs, each times its row of out weights. */
static void add_rows(const float *x, size_t n, const float *weight, size_t out, float *to) {
    for (size_t i = 0; i < n; i++) {
        float value = x[i];
        const float *row = weight + i * out;
#pragma omp simd
        for (size_t o = 0; o < out; o++) to[o] += value * row[o];
    }
}

static void apply(const layer *l, const float *in, float *out) {
    for (size_t y = 0; y < l->side_out; y++)
        for (size_t x = 0; x < l->side_out; x++) {
            float *to = out + (y * l->side_out + x) * l->out;
            memcpy(to, l->bias, l->out * sizeof *to);
            for (size_t ky = 0; ky < l->kernel; ky++)
                for (size_t kx = 0; kx < l->kernel; kx++) {
                    /* Beyond the top or left these wrap around and are too large as well. */
                    size_t iy = y * l->stride + ky - l->padding;
                    size_t ix = x * l->stride + kx - l->padding;
                    if (iy >= l->side_in || ix >= l->side_in) continue;
                    add_rows(in + (iy * l->side_in + ix) * l->in, l->in,
                             l->weight + (ky * l->kernel + kx) * l->in * l->out, l->out, to);
                }
        }
}

/* An image (channels x height x width) to channels last, padded with -1 to a square. */
static void pad(ck_images images, size_t index, size_t side, float *to) {
    size_t channels = images.channels, height = images.height, width = images.width;
    size_t top = (side - height) / 2, left = (side - width) / 2;
    const float *from = images.pixels + index * channels * height * width;
    for (size_t i = 0; i < side * side * channels; i++) to[i] = -1;
    for (size_t c = 0; c < channels; c++)
        for (size_t y = 0; y < height; y++)
            for (size_t x = 0; x < width; x++)
                to[((y + top) * side + x + left) * channels + c] =
                    from[(c * height + y) * width + x];
}

ck_status ck_classifier_run(const ck_classifier *c, ck_images images, float *features,
                            float *logits, ck_error *err) {
    const layer *first = &c->layers[0], *last = &c->layers[c->count - 1];
    if (images.channels != first->in || images.height > first->side_in ||
        images.width > first->side_in)
        return ck_fail(err, CK_USAGE,
                       "images of %zu channels and %zu x %zu pixels for a classifier of %zu and at "
                       "most %zu x %zu",
                       images.channels, images.height, images.width, first->in, first->side_in,
                       first->side_in);
    float *space = ck_alloc_array((size_t)omp_get_max_threads(), 2 * c->largest * sizeof *space);
    if (!space) return ck_fail_memory(err, "classifier");
#pragma omp parallel for schedule(static)
    for (size_t n = 0; n < images.count; n++) {
        float *in = space + (size_t)omp_get_thread_num() * 2 * c->largest;
        float *out = in + c->largest;
        pad(images, n, first->side_in, in);
        for (const layer *l = first; l < last; l++) {
            apply(l, in, out);
            silu(out, l->side_out * l->side_out * l->out);
            float *t = in;
            in = out;
            out = t;
        }
        if (features) memcpy(features + n * last->in, in, last->in * sizeof *in);
        if (logits) apply(last, in, logits + n * last->out);
    }
    free(space);
    return CK_OK;
}
