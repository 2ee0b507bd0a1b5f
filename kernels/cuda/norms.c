/* Group and layer norms, see kernels.h. A team of threads takes a group of an
 * image. */
#include "kernels/cuda/gpu.h"

typedef struct norm_args {
    ck_gpu_norm v;
    int64_t width; /* channels of a group */
    int team;
    float eps;
    ck_gpu_array y;
    float *statistics;
    ck_gpu_array dy; /* of the gradients only, as the rest */
    float *partial;  /* 2 x splits x channels */
    int64_t splits;
} norm_args;

/* Where element k of group g of an image lies, k from 0 to pixels width - 1, and its channel. */
CK_GPU_FUNCTION int64_t place(const norm_args *a, int64_t g, int64_t k, int64_t *channel) {
    int64_t image = g, group = ck_gpu_divide(&image, a->v.groups);
    int64_t within = ck_gpu_divide(&k, a->width);
    *channel = group * a->width + within;
    return (image * a->v.pixels + k) * a->v.channels + *channel;
}

CK_GPU_FUNCTION float gained(const norm_args *a, int64_t channel, float xhat) {
    return xhat * (a->v.gain ? a->v.gain[channel] : 1) + (a->v.bias ? a->v.bias[channel] : 0);
}

CK_GPU_KERNEL(norm_forward, norm_args) {
    const ck_gpu_norm *v = &a->v;
    int64_t each = v->pixels * a->width, groups = v->n * v->groups, channel;
    int team = a->team;
    float *squares = shared + CK_GPU_BLOCK;
    CK_GPU_EACH_TEAM(first, team, groups) {
        CK_GPU_BARRIER();
        CK_GPU_THREADS(t) {
            int64_t g = first + t / team;
            float sum = 0;
            for (int64_t k = t % team; g < groups && k < each; k += team)
                sum += ck_gpu_get(&v->x, place(a, g, k, &channel));
            shared[t] = sum;
        }
        ck_gpu_team_sum(shared, team);
        CK_GPU_THREADS(t) {
            int64_t g = first + t / team;
            float sum = 0, mean = shared[t - t % team] / (float)each;
            for (int64_t k = t % team; g < groups && k < each; k += team) {
                float off = ck_gpu_get(&v->x, place(a, g, k, &channel)) - mean;
                sum += off * off;
            }
            squares[t] = sum;
        }
        ck_gpu_team_sum(squares, team);
        CK_GPU_THREADS(t) {
            int64_t g = first + t / team;
            float mean = shared[t - t % team] / (float)each;
            float scale = 1 / sqrtf(squares[t - t % team] / (float)each + a->eps);
            for (int64_t k = t % team; g < groups && k < each; k += team) {
                int64_t i = place(a, g, k, &channel);
                float z = gained(a, channel, (ck_gpu_get(&v->x, i) - mean) * scale);
                ck_gpu_put(&a->y, i, v->silu ? z * ck_gpu_sigmoid(z) : z);
            }
            if (t % team == 0 && g < groups) {
                a->statistics[2 * g] = mean;
                a->statistics[2 * g + 1] = scale;
            }
        }
    }
}

/* Element i of group g: x normalised, and the gradient of that times gain plus bias. */
CK_GPU_FUNCTION float normalised(const norm_args *a, int64_t g, int64_t i, int64_t channel,
                                 float *dz) {
    float x = ck_gpu_get(&a->v.x, i);
    float xhat = (x - a->statistics[2 * g]) * a->statistics[2 * g + 1];
    *dz = ck_gpu_get(&a->dy, i);
    if (a->v.silu) {
        float z = gained(a, channel, xhat), s = ck_gpu_sigmoid(z);
        *dz *= s * (1 + z * (1 - s));
    }
    return xhat;
}

/* With g = dz gain: dx = scale (g - mean(g) - xhat mean(g xhat)). */
CK_GPU_KERNEL(norm_data_grad, norm_args) {
    const ck_gpu_norm *v = &a->v;
    int64_t each = v->pixels * a->width, groups = v->n * v->groups, channel;
    int team = a->team;
    float *products = shared + CK_GPU_BLOCK;
    CK_GPU_EACH_TEAM(first, team, groups) {
        CK_GPU_BARRIER();
        CK_GPU_THREADS(t) {
            int64_t g = first + t / team;
            float sum = 0, product = 0, dz;
            for (int64_t k = t % team; g < groups && k < each; k += team) {
                int64_t i = place(a, g, k, &channel);
                float xhat = normalised(a, g, i, channel, &dz);
                dz *= v->gain ? v->gain[channel] : 1;
                sum += dz;
                product += dz * xhat;
            }
            shared[t] = sum;
            products[t] = product;
        }
        ck_gpu_team_sum(shared, team);
        ck_gpu_team_sum(products, team);
        CK_GPU_THREADS(t) {
            int64_t g = first + t / team;
            float mean = shared[t - t % team] / (float)each, dz;
            float along = products[t - t % team] / (float)each;
            for (int64_t k = t % team; g < groups && k < each; k += team) {
                int64_t i = place(a, g, k, &channel);
                float xhat = normalised(a, g, i, channel, &dz);
                dz *= v->gain ? v->gain[channel] : 1;
                ck_gpu_put(&a->y, i, a->statistics[2 * g + 1] * (dz - mean - xhat * along));
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
            int64_t part = i, channel = ck_gpu_divide(&part, v->channels);
            int64_t group = channel / a->width, end = rows * (part + 1) / a->splits;
            float gain = 0, bias = 0, dz;
            for (int64_t r = rows * part / a->splits; r < end; r++) {
                int64_t image = r;
                ck_gpu_divide(&image, v->pixels);
                float xhat = normalised(a, image * v->groups + group, r * v->channels + channel,
                                        channel, &dz);
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
    a.team = ck_gpu_team_for(v->pixels * a.width);
    a.splits = splits_of(v);
    return a;
}

static int64_t group_blocks(const norm_args *a) {
    return ck_gpu_team_blocks(a->v.n * a->v.groups, a->team);
}

void ck_gpu_norm_forward(ck_gpu_stream s, const ck_gpu_norm *v, float eps, ck_gpu_array y,
                         float *statistics) {
    norm_args a = args_of(v);
    a.eps = eps;
    a.y = y;
    a.statistics = statistics;
    norm_forward_launch(s, group_blocks(&a), &a);
}

size_t ck_gpu_norm_scratch(const ck_gpu_norm *v) {
    return (size_t)(2 * splits_of(v) * v->channels);
}

void ck_gpu_norm_backward(ck_gpu_stream s, const ck_gpu_norm *v, const float *statistics,
                          ck_gpu_array dy, ck_gpu_array dx, float *dgain, float *dbias,
                          float *partial) {
    norm_args a = args_of(v);
    a.statistics = (float *)statistics;
    a.dy = dy;
    a.y = dx;
    a.partial = partial;
    norm_data_grad_launch(s, group_blocks(&a), &a);
    norm_weight_grad_launch(s, ck_gpu_blocks(a.splits * v->channels), &a);
    ck_gpu_walk columns = {.rank = 1, .d = {v->channels}, .x = {1}};
    ck_gpu_walk rows = {.rank = 1, .d = {a.splits}, .x = {v->channels}};
    ck_gpu_array gain = {partial, false}, bias = {partial + a.splits * v->channels, false};
    float *rest = partial + 2 * a.splits * v->channels;
    ck_gpu_sum(s, dgain, gain, &columns, &rows, rest);
    ck_gpu_sum(s, dbias, bias, &columns, &rows, rest);
}
