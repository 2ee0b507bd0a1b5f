/* Group and layer norms, see kernels.h. A block takes a group of an image. */
#include "kernels/cuda/gpu.h"

typedef struct norm_args {
    ck_gpu_norm v;
    int64_t width; /* channels of a group */
    float eps;
    float *y, *statistics;
    const float *dy; /* of the gradients only, as the rest */
    float *partial;  /* 2 x splits x channels */
    int64_t splits;
} norm_args;

/* Where element k of group g of an image lies, k from 0 to pixels width - 1. */
CK_GPU_FUNCTION int64_t place(const norm_args *a, int64_t g, int64_t k) {
    return (g / a->v.groups * a->v.pixels + k / a->width) * a->v.channels +
           g % a->v.groups * a->width + k % a->width;
}

CK_GPU_FUNCTION float gained(const norm_args *a, int64_t channel, float xhat) {
    return xhat * (a->v.gain ? a->v.gain[channel] : 1) + (a->v.bias ? a->v.bias[channel] : 0);
}

CK_GPU_KERNEL(norm_forward, norm_args) {
    const ck_gpu_norm *v = &a->v;
    int64_t each = v->pixels * a->width;
    for (int64_t g = block; g < v->n * v->groups; g += blocks) {
        CK_GPU_BARRIER();
        CK_GPU_THREADS(t) {
            float sum = 0;
            for (int64_t k = t; k < each; k += CK_GPU_BLOCK) sum += v->x[place(a, g, k)];
            shared[t] = sum;
        }
        ck_gpu_block_sum(shared);
        float mean = shared[0] / (float)each;
        CK_GPU_BARRIER();
        CK_GPU_THREADS(t) {
            float sum = 0;
            for (int64_t k = t; k < each; k += CK_GPU_BLOCK) {
                float off = v->x[place(a, g, k)] - mean;
                sum += off * off;
            }
            shared[t] = sum;
        }
        ck_gpu_block_sum(shared);
        float scale = 1 / sqrtf(shared[0] / (float)each + a->eps);
        CK_GPU_THREADS(t) {
            for (int64_t k = t; k < each; k += CK_GPU_BLOCK) {
                int64_t i = place(a, g, k);
                float z = gained(a, i % v->channels, (v->x[i] - mean) * scale);
                a->y[i] = v->silu ? z * ck_gpu_sigmoid(z) : z;
            }
            if (t == 0) {
                a->statistics[2 * g] = mean;
                a->statistics[2 * g + 1] = scale;
            }
        }
    }
}

/* Element i of group g: x normalised, and the gradient of that times gain plus bias. */
CK_GPU_FUNCTION float normalised(const norm_args *a, int64_t g, int64_t i, float *dz) {
    float xhat = (a->v.x[i] - a->statistics[2 * g]) * a->statistics[2 * g + 1];
    *dz = a->dy[i];
    if (a->v.silu) {
        float z = gained(a, i % a->v.channels, xhat), s = ck_gpu_sigmoid(z);
        *dz *= s * (1 + z * (1 - s));
    }
    return xhat;
}

/* With g = dz gain: dx = scale (g - mean(g) - xhat mean(g xhat)). */
CK_GPU_KERNEL(norm_data_grad, norm_args) {
    const ck_gpu_norm *v = &a->v;
    int64_t each = v->pixels * a->width;
    float *products = shared + CK_GPU_BLOCK;
    for (int64_t g = block; g < v->n * v->groups; g += blocks) {
        CK_GPU_BARRIER();
        CK_GPU_THREADS(t) {
            float sum = 0, product = 0, dz;
            for (int64_t k = t; k < each; k += CK_GPU_BLOCK) {
                int64_t i = place(a, g, k);
                float xhat = normalised(a, g, i, &dz);
                dz *= v->gain ? v->gain[i % v->channels] : 1;
                sum += dz;
                product += dz * xhat;
            }
            shared[t] = sum;
            products[t] = product;
        }
        ck_gpu_block_sum(shared);
        ck_gpu_block_sum(products);
        CK_GPU_THREADS(t) {
            float mean = shared[0] / (float)each, along = products[0] / (float)each, dz;
            for (int64_t k = t; k < each; k += CK_GPU_BLOCK) {
                int64_t i = place(a, g, k);
                float xhat = normalised(a, g, i, &dz);
                dz *= v->gain ? v->gain[i % v->channels] : 1;
                a->y[i] = a->statistics[2 * g + 1] * (dz - mean - xhat * along);
            }
        }
    }
}

/* Pixels of all images cut into splits, by the shapes alone. */
static int64_t splits_of(const ck_gpu_norm *v) {
    enum { THREADS = 1 << 16, LEAST = 32 };
    int64_t want = THREADS / v->channels, most = v->n * v->pixels / LEAST;
    int64_t splits = want < most ? want : most;
    return splits < 1 ? 1 : splits;
}

CK_GPU_KERNEL(norm_weight_grad, norm_args) {
    CK_GPU_UNUSED_SHARED();
    const ck_gpu_norm *v = &a->v;
    int64_t rows = v->n * v->pixels;
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, a->splits * v->channels) {
            int64_t channel = i % v->channels, part = i / v->channels;
            int64_t end = rows * (part + 1) / a->splits;
            float gain = 0, bias = 0, dz;
            for (int64_t r = rows * part / a->splits; r < end; r++) {
                int64_t g = r / v->pixels * v->groups + channel / a->width;
                float xhat = normalised(a, g, r * v->channels + channel, &dz);
                gain += dz * xhat;
                bias += dz;
            }
            a->partial[i] = gain;
            a->partial[a->splits * v->channels + i] = bias;
        }
    }
}

static norm_args args_of(const ck_gpu_norm *v) {
    norm_args a = {.v = *v};
    a.width = v->channels / v->groups;
    a.splits = splits_of(v);
    return a;
}

static int64_t group_blocks(const ck_gpu_norm *v) {
    int64_t groups = v->n * v->groups;
    return groups < CK_GPU_MOST_BLOCKS ? groups : CK_GPU_MOST_BLOCKS;
}

void ck_gpu_norm_forward(ck_gpu_stream s, const ck_gpu_norm *v, float eps, float *y,
                         float *statistics) {
    norm_args a = args_of(v);
    a.eps = eps;
    a.y = y;
    a.statistics = statistics;
    norm_forward_launch(s, group_blocks(v), &a);
}

size_t ck_gpu_norm_scratch(const ck_gpu_norm *v) {
    return (size_t)(2 * splits_of(v) * v->channels);
}

void ck_gpu_norm_backward(ck_gpu_stream s, const ck_gpu_norm *v, const float *statistics,
                          const float *dy, float *dx, float *dgain, float *dbias, float *partial) {
    norm_args a = args_of(v);
    a.statistics = (float *)statistics;
    a.dy = dy;
    a.y = dx;
    a.partial = partial;
    norm_data_grad_launch(s, group_blocks(v), &a);
    norm_weight_grad_launch(s, ck_gpu_blocks(a.splits * v->channels), &a);
    ck_gpu_walk columns = {.rank = 1, .d = {v->channels}, .x = {1}};
    ck_gpu_walk rows = {.rank = 1, .d = {a.splits}, .x = {v->channels}};
    const float *bias = partial + a.splits * v->channels;
    float *rest = partial + 2 * a.splits * v->channels;
    ck_gpu_sum(s, dgain, partial, &columns, &rows, rest);
    ck_gpu_sum(s, dbias, bias, &columns, &rows, rest);
}
