/* Group and layer norms, see kernels.h. What goes through images is done by threads that each walk
 * down some pixels, a slab, and have eight channels beside each other there (or one, where channels
 * do not come in eights): memory is read in whole lines, and nothing is divided on the way. Groups
 * are put together from what slabs amount to, by a team of threads each. A layer norm's rows are
 * short: a team takes a row, and slabs are only walked down for the gradients of its weights. */
#include "kernels/cuda/gpu.h"

typedef struct norm_args {
    ck_gpu_norm v;
    int64_t width;                 /* channels of a group */
    int64_t images, pixels, slabs; /* of each image; a layer norm's rows are pixels of one */
    int64_t chunks;                /* of `some` channels */
    int some, team;
    bool rows; /* a layer norm: every pixel has statistics of its own */
    float eps;
    ck_gpu_array y, dy;
    float *statistics;
    float *partial; /* 2 x (images x slabs) x channels */
    float *means;   /* 2 of each group: of the gradient, and of it times x */
} norm_args;

/* ---- Walking down a slab ---- */

typedef struct slab {
    int64_t part, image;    /* number of the slab, and whose it is */
    int64_t first, end;     /* pixels, of all images */
    int64_t channel, group; /* the first channel; the group of the image's first one */
} slab;

CK_GPU_FUNCTION int64_t slab_begin(const norm_args *a, int64_t i) {
    return a->pixels * i / a->slabs;
}

CK_GPU_FUNCTION slab slab_of(const norm_args *a, int64_t i) {
    slab s;
    s.channel = ck_gpu_divide(&i, a->chunks) * a->some;
    s.part = i;
    int64_t number = ck_gpu_divide(&i, a->slabs);
    s.image = i;
    s.first = i * a->pixels + slab_begin(a, number);
    s.end = i * a->pixels + slab_begin(a, number + 1);
    s.group = a->rows ? s.first : i * a->v.groups;
    return s;
}

#define EACH_CHANNEL(k) for (int k = 0; k < CK_GPU_SOME; k++)

/* Of channels side by side. */
typedef struct factors {
    float mean[CK_GPU_SOME], scale[CK_GPU_SOME], gain[CK_GPU_SOME], bias[CK_GPU_SOME];
} factors;

CK_GPU_FUNCTION void set_group(const norm_args *a, int64_t first, int64_t channel, factors *f) {
    EACH_CHANNEL(k) {
        int64_t c = channel + (k < a->some ? k : 0), group = c;
        if (a->rows)
            group = 0;
        else
            ck_gpu_divide(&group, a->width);
        f->mean[k] = a->statistics[2 * (first + group)];
        f->scale[k] = a->statistics[2 * (first + group) + 1];
    }
}

CK_GPU_FUNCTION void set_weights(const norm_args *a, int64_t channel, factors *f) {
    EACH_CHANNEL(k) {
        int64_t c = channel + (k < a->some ? k : 0);
        f->gain[k] = a->v.gain ? a->v.gain[c] : 1;
        f->bias[k] = a->v.bias ? a->v.bias[c] : 0;
    }
}

/* x normalised. */
CK_GPU_FUNCTION float normal_of(const factors *f, int k, float x) {
    return (x - f->mean[k]) * f->scale[k];
}

/* The gradient of what gain and bias are of; xhat: x normalised. */
CK_GPU_FUNCTION float inner_gradient(const norm_args *a, const factors *f, int k, float xhat,
                                     float dy) {
    if (!a->v.silu) return dy;
    float z = xhat * f->gain[k] + f->bias[k], s = ck_gpu_sigmoid(z);
    return dy * s * (1 + z * (1 - s));
}

/* ---- Forward: groups ---- */

/* Of each channel of a slab: the mean, and squares of what is off it, summed. (Off the first pixel
 * first, as numbers may be large and near each other.) */
CK_GPU_KERNEL(norm_slabs, norm_args) {
    CK_GPU_UNUSED_SHARED();
    const int64_t channels = a->v.channels, all = a->images * a->slabs;
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, all * a->chunks) {
            slab s = slab_of(a, i);
            float first[CK_GPU_SOME], sum[CK_GPU_SOME] = {0}, square[CK_GPU_SOME] = {0};
            float x[CK_GPU_SOME], n = (float)(s.end - s.first);
            ck_gpu_get_some(&a->v.x, s.first * channels + s.channel, a->some, first);
            for (int64_t r = s.first; r < s.end; r++) {
                ck_gpu_get_some(&a->v.x, r * channels + s.channel, a->some, x);
                EACH_CHANNEL(k) {
                    float off = x[k] - first[k];
                    sum[k] += off;
                    square[k] += off * off;
                }
            }
            float *mean = a->partial + s.part * channels + s.channel;
            float *squares = mean + all * channels;
            EACH_CHANNEL(k) {
                if (k >= a->some) continue;
                mean[k] = first[k] + sum[k] / n;
                float rest = square[k] - sum[k] * sum[k] / n;
                squares[k] = rest < 0 ? 0 : rest;
            }
        }
    }
}

/* Entry k of group g among what slabs amount to: where its number lies, how many pixels it is of.
 */
CK_GPU_FUNCTION int64_t entry(const norm_args *a, int64_t g, int64_t k, float *pixels,
                              int64_t *channel) {
    int64_t image = g, group = ck_gpu_divide(&image, a->v.groups);
    *channel = group * a->width + ck_gpu_divide(&k, a->width);
    *pixels = (float)(slab_begin(a, k + 1) - slab_begin(a, k));
    return (image * a->slabs + k) * a->v.channels + *channel;
}

CK_GPU_KERNEL(norm_groups, norm_args) {
    const int64_t groups = a->v.n * a->v.groups, entries = a->slabs * a->width;
    const float all = (float)(a->pixels * a->width);
    const float *squares = a->partial + a->images * a->slabs * a->v.channels;
    int team = a->team;
    float *sums = shared + CK_GPU_BLOCK, n;
    int64_t channel;
    CK_GPU_EACH_TEAM(first, team, groups) {
        CK_GPU_BARRIER();
        CK_GPU_THREADS(t) {
            int64_t g = first + t / team;
            float sum = 0;
            for (int64_t k = t % team; g < groups && k < entries; k += team) {
                int64_t at = entry(a, g, k, &n, &channel);
                sum += n * a->partial[at];
            }
            shared[t] = sum;
        }
        ck_gpu_team_sum(shared, team);
        CK_GPU_THREADS(t) {
            int64_t g = first + t / team;
            float sum = 0, mean = shared[t - t % team] / all;
            for (int64_t k = t % team; g < groups && k < entries; k += team) {
                int64_t at = entry(a, g, k, &n, &channel);
                float off = a->partial[at] - mean;
                sum += squares[at] + n * off * off;
            }
            sums[t] = sum;
        }
        ck_gpu_team_sum(sums, team);
        CK_GPU_THREADS(t) {
            int64_t g = first + t / team;
            if (t % team == 0 && g < groups) {
                a->statistics[2 * g] = shared[t] / all;
                a->statistics[2 * g + 1] = 1 / sqrtf(sums[t] / all + a->eps);
            }
        }
    }
}

CK_GPU_KERNEL(norm_apply, norm_args) {
    CK_GPU_UNUSED_SHARED();
    const int64_t channels = a->v.channels;
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, a->images * a->slabs * a->chunks) {
            slab s = slab_of(a, i);
            factors f;
            float x[CK_GPU_SOME];
            set_group(a, s.group, s.channel, &f);
            set_weights(a, s.channel, &f);
            for (int64_t r = s.first; r < s.end; r++) {
                ck_gpu_get_some(&a->v.x, r * channels + s.channel, a->some, x);
                EACH_CHANNEL(k) {
                    float z = normal_of(&f, k, x[k]) * f.gain[k] + f.bias[k];
                    x[k] = a->v.silu ? z * ck_gpu_sigmoid(z) : z;
                }
                ck_gpu_put_some(&a->y, r * channels + s.channel, a->some, x);
            }
        }
    }
}

/* ---- Forward: rows ---- */

CK_GPU_KERNEL(norm_rows, norm_args) {
    const ck_gpu_norm *v = &a->v;
    const int64_t c = v->channels, next = a->team * a->some;
    int team = a->team;
    float *squares = shared + CK_GPU_BLOCK, x[CK_GPU_SOME];
    CK_GPU_EACH_TEAM(first, team, v->n) {
        CK_GPU_BARRIER();
        CK_GPU_THREADS(t) {
            int64_t row = first + t / team;
            float sum = 0;
            for (int64_t i = t % team * a->some; row < v->n && i < c; i += next) {
                ck_gpu_get_some(&v->x, row * c + i, a->some, x);
                EACH_CHANNEL(k) sum += x[k];
            }
            shared[t] = sum;
        }
        ck_gpu_team_sum(shared, team);
        CK_GPU_THREADS(t) {
            int64_t row = first + t / team;
            float sum = 0, mean = shared[t - t % team] / (float)c;
            for (int64_t i = t % team * a->some; row < v->n && i < c; i += next) {
                ck_gpu_get_some(&v->x, row * c + i, a->some, x);
                EACH_CHANNEL(k) {
                    if (k < a->some) sum += (x[k] - mean) * (x[k] - mean);
                }
            }
            squares[t] = sum;
        }
        ck_gpu_team_sum(squares, team);
        CK_GPU_THREADS(t) {
            int64_t row = first + t / team;
            float mean = shared[t - t % team] / (float)c;
            float scale = 1 / sqrtf(squares[t - t % team] / (float)c + a->eps);
            factors f;
            for (int64_t i = t % team * a->some; row < v->n && i < c; i += next) {
                set_weights(a, i, &f);
                ck_gpu_get_some(&v->x, row * c + i, a->some, x);
                EACH_CHANNEL(k) x[k] = (x[k] - mean) * scale * f.gain[k] + f.bias[k];
                ck_gpu_put_some(&a->y, row * c + i, a->some, x);
            }
            if (t % team == 0 && row < v->n) {
                a->statistics[2 * row] = mean;
                a->statistics[2 * row + 1] = scale;
            }
        }
    }
}

/* ---- Gradients ---- */

/* Of each channel of a slab: what gain's gradient sums up, and bias's. */
CK_GPU_KERNEL(norm_grad_slabs, norm_args) {
    CK_GPU_UNUSED_SHARED();
    const int64_t channels = a->v.channels, all = a->images * a->slabs;
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, all * a->chunks) {
            slab s = slab_of(a, i);
            factors f;
            float gain[CK_GPU_SOME] = {0}, bias[CK_GPU_SOME] = {0};
            float x[CK_GPU_SOME], dy[CK_GPU_SOME];
            set_group(a, s.group, s.channel, &f);
            set_weights(a, s.channel, &f);
            for (int64_t r = s.first; r < s.end; r++) {
                if (a->rows) set_group(a, r, s.channel, &f);
                ck_gpu_get_some(&a->v.x, r * channels + s.channel, a->some, x);
                ck_gpu_get_some(&a->dy, r * channels + s.channel, a->some, dy);
                EACH_CHANNEL(k) {
                    float xhat = normal_of(&f, k, x[k]);
                    float dz = inner_gradient(a, &f, k, xhat, dy[k]);
                    gain[k] += dz * xhat;
                    bias[k] += dz;
                }
            }
            float *to = a->partial + s.part * channels + s.channel;
            EACH_CHANNEL(k) {
                if (k < a->some) to[k] = gain[k], to[all * channels + k] = bias[k];
            }
        }
    }
}

CK_GPU_KERNEL(norm_grad_groups, norm_args) {
    const int64_t groups = a->v.n * a->v.groups, entries = a->slabs * a->width;
    const float all = (float)(a->pixels * a->width);
    const float *biases = a->partial + a->images * a->slabs * a->v.channels;
    int team = a->team;
    float *products = shared + CK_GPU_BLOCK, n;
    int64_t channel;
    CK_GPU_EACH_TEAM(first, team, groups) {
        CK_GPU_BARRIER();
        CK_GPU_THREADS(t) {
            int64_t g = first + t / team;
            float sum = 0, product = 0;
            for (int64_t k = t % team; g < groups && k < entries; k += team) {
                int64_t at = entry(a, g, k, &n, &channel);
                float gain = a->v.gain ? a->v.gain[channel] : 1;
                sum += gain * biases[at];
                product += gain * a->partial[at];
            }
            shared[t] = sum;
            products[t] = product;
        }
        ck_gpu_team_sum(shared, team);
        ck_gpu_team_sum(products, team);
        CK_GPU_THREADS(t) {
            int64_t g = first + t / team;
            if (t % team == 0 && g < groups) {
                a->means[2 * g] = shared[t] / all;
                a->means[2 * g + 1] = products[t] / all;
            }
        }
    }
}

/* With g = dz gain: dx = scale (g - mean(g) - xhat mean(g xhat)). */
CK_GPU_KERNEL(norm_grad_apply, norm_args) {
    CK_GPU_UNUSED_SHARED();
    const int64_t channels = a->v.channels;
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, a->images * a->slabs * a->chunks) {
            slab s = slab_of(a, i);
            factors f;
            float x[CK_GPU_SOME], dy[CK_GPU_SOME], mean[CK_GPU_SOME], along[CK_GPU_SOME];
            set_group(a, s.group, s.channel, &f);
            set_weights(a, s.channel, &f);
            EACH_CHANNEL(k) {
                int64_t group = s.channel + (k < a->some ? k : 0);
                ck_gpu_divide(&group, a->width);
                mean[k] = a->means[2 * (s.group + group)];
                along[k] = a->means[2 * (s.group + group) + 1];
            }
            for (int64_t r = s.first; r < s.end; r++) {
                ck_gpu_get_some(&a->v.x, r * channels + s.channel, a->some, x);
                ck_gpu_get_some(&a->dy, r * channels + s.channel, a->some, dy);
                EACH_CHANNEL(k) {
                    float xhat = normal_of(&f, k, x[k]);
                    float g = inner_gradient(a, &f, k, xhat, dy[k]) * f.gain[k];
                    x[k] = f.scale[k] * (g - mean[k] - xhat * along[k]);
                }
                ck_gpu_put_some(&a->y, r * channels + s.channel, a->some, x);
            }
        }
    }
}

/* The same of rows, which have no silu. */
CK_GPU_KERNEL(norm_grad_rows, norm_args) {
    const ck_gpu_norm *v = &a->v;
    const int64_t c = v->channels, next = a->team * a->some;
    int team = a->team;
    float *products = shared + CK_GPU_BLOCK, x[CK_GPU_SOME], dy[CK_GPU_SOME];
    factors f;
    CK_GPU_EACH_TEAM(first, team, v->n) {
        CK_GPU_BARRIER();
        CK_GPU_THREADS(t) {
            int64_t row = first + t / team;
            float sum = 0, product = 0;
            for (int64_t i = t % team * a->some; row < v->n && i < c; i += next) {
                set_group(a, row, i, &f);
                set_weights(a, i, &f);
                ck_gpu_get_some(&v->x, row * c + i, a->some, x);
                ck_gpu_get_some(&a->dy, row * c + i, a->some, dy);
                EACH_CHANNEL(k) {
                    float g = dy[k] * f.gain[k];
                    sum += g;
                    product += g * normal_of(&f, k, x[k]);
                }
            }
            shared[t] = sum;
            products[t] = product;
        }
        ck_gpu_team_sum(shared, team);
        ck_gpu_team_sum(products, team);
        CK_GPU_THREADS(t) {
            int64_t row = first + t / team;
            float mean = shared[t - t % team] / (float)c;
            float along = products[t - t % team] / (float)c;
            for (int64_t i = t % team * a->some; row < v->n && i < c; i += next) {
                set_group(a, row, i, &f);
                set_weights(a, i, &f);
                ck_gpu_get_some(&v->x, row * c + i, a->some, x);
                ck_gpu_get_some(&a->dy, row * c + i, a->some, dy);
                EACH_CHANNEL(k) {
                    float xhat = normal_of(&f, k, x[k]);
                    x[k] = f.scale[k] * (dy[k] * f.gain[k] - mean - xhat * along);
                }
                ck_gpu_put_some(&a->y, row * c + i, a->some, x);
            }
        }
    }
}

/* ---- Launching ---- */

static norm_args args_of(const ck_gpu_norm *v) {
    enum { THREADS = 1 << 17, LEAST = 16 }; /* of slabs: as many threads, and pixels */
    norm_args a = {.v = *v};
    a.rows = v->pixels == 1 && v->groups == 1 && !v->silu;
    a.width = v->channels / v->groups;
    a.images = a.rows ? 1 : v->n;
    a.pixels = a.rows ? v->n : v->pixels;
    a.some = v->channels % CK_GPU_SOME == 0 ? CK_GPU_SOME : 1;
    a.chunks = v->channels / a.some;
    int64_t want = THREADS / (a.images * a.chunks), most = a.pixels / LEAST;
    a.slabs = want < most ? want : most;
    if (a.slabs < 1) a.slabs = 1;
    a.team = ck_gpu_team_for(a.rows ? a.chunks : a.slabs * a.width);
    return a;
}

static int64_t slab_blocks(const norm_args *a) {
    return ck_gpu_blocks(a->images * a->slabs * a->chunks);
}

static int64_t group_blocks(const norm_args *a) {
    return ck_gpu_team_blocks(a->v.n * a->v.groups, a->team);
}

void ck_gpu_norm_forward(ck_gpu_stream s, const ck_gpu_norm *v, float eps, ck_gpu_array y,
                         float *statistics, float *partial) {
    norm_args a = args_of(v);
    a.eps = eps, a.y = y, a.statistics = statistics, a.partial = partial;
    if (a.rows) {
        norm_rows_launch(s, group_blocks(&a), &a);
        return;
    }
    norm_slabs_launch(s, slab_blocks(&a), &a);
    norm_groups_launch(s, group_blocks(&a), &a);
    norm_apply_launch(s, slab_blocks(&a), &a);
}

/* Sums of what slabs amount to, of channels beside each other. */
static void walks_of(const norm_args *a, ck_gpu_walk *columns, ck_gpu_walk *rows) {
    *columns = (ck_gpu_walk){.rank = 1, .d = {a->v.channels}, .x = {1}};
    *rows = (ck_gpu_walk){.rank = 1, .d = {a->images * a->slabs}, .x = {a->v.channels}};
}

size_t ck_gpu_norm_scratch(const ck_gpu_norm *v) {
    norm_args a = args_of(v);
    ck_gpu_walk columns, rows;
    walks_of(&a, &columns, &rows);
    return (size_t)(2 * a.images * a.slabs * v->channels + 2 * v->n * v->groups) +
           ck_gpu_sum_scratch(&columns, &rows);
}

void ck_gpu_norm_backward(ck_gpu_stream s, const ck_gpu_norm *v, const float *statistics,
                          ck_gpu_array dy, ck_gpu_array dx, float *dgain, float *dbias,
                          float *partial) {
    norm_args a = args_of(v);
    int64_t numbers = a.images * a.slabs * v->channels;
    ck_gpu_walk columns, rows;
    a.statistics = (float *)statistics;
    a.dy = dy, a.y = dx, a.partial = partial, a.means = partial + 2 * numbers;
    norm_grad_slabs_launch(s, slab_blocks(&a), &a);
    if (a.rows) {
        norm_grad_rows_launch(s, group_blocks(&a), &a);
    } else {
        norm_grad_groups_launch(s, group_blocks(&a), &a);
        norm_grad_apply_launch(s, slab_blocks(&a), &a);
    }
    walks_of(&a, &columns, &rows);
    float *rest = a.means + 2 * v->n * v->groups;
    ck_gpu_sum(s, dgain, (ck_gpu_array){partial, false}, &columns, &rows, rest);
    ck_gpu_sum(s, dbias, (ck_gpu_array){partial + numbers, false}, &columns, &rows, rest);
}
