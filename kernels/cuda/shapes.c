/* Copies, sums and lookups that are about where elements lie, see kernels.h. */
#include "kernels/cuda/gpu.h"

static int64_t count_of(const ck_gpu_walk *w) {
    int64_t n = 1;
    for (int i = 0; i < w->rank; i++) n *= w->d[i];
    return n;
}

/* Element number i of a shape: where it lies. */
CK_GPU_FUNCTION int64_t at(const ck_gpu_walk *w, const int64_t *distance, int64_t i) {
    int64_t place = 0;
    for (int k = w->rank - 1; k >= 0; k--) {
        place += i % w->d[k] * distance[k];
        i /= w->d[k];
    }
    return place;
}

/* ---- Copies and pairs ---- */

typedef struct copy_args {
    float *y;
    const float *x;
    ck_gpu_walk walk;
    int64_t n;
} copy_args;

CK_GPU_KERNEL(copy, copy_args) {
    CK_GPU_UNUSED_SHARED();
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, a->n)
        a->y[at(&a->walk, a->walk.y, i)] = a->x[at(&a->walk, a->walk.x, i)];
    }
}

void ck_gpu_copy(ck_gpu_stream s, float *y, const float *x, const ck_gpu_walk *walk) {
    copy_args a = {y, x, *walk, count_of(walk)};
    copy_launch(s, ck_gpu_blocks(a.n), &a);
}

typedef struct binary_args {
    float *y;
    const float *left, *right;
    ck_gpu_walk walk;
    int64_t n;
    bool add;
} binary_args;

CK_GPU_KERNEL(binary, binary_args) {
    CK_GPU_UNUSED_SHARED();
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, a->n) {
            float right = a->right[at(&a->walk, a->walk.x, i)];
            a->y[i] = a->add ? a->left[i] + right : a->left[i] * right;
        }
    }
}

void ck_gpu_binary(ck_gpu_stream s, bool add, float *y, const float *left, const float *right,
                   const ck_gpu_walk *walk) {
    binary_args a = {y, left, right, *walk, count_of(walk), add};
    binary_launch(s, ck_gpu_blocks(a.n), &a);
}

/* ---- Sums: cut into `splits` that depend on the shapes alone, then added up ---- */

typedef struct sum_args {
    float *y; /* splits rows of n */
    const float *x;
    ck_gpu_walk outer, inner;
    int64_t n, each, splits; /* sums; elements of each; parts of each */
} sum_args;

/* Sums beside each other are read side by side: a thread each. Others: a block each. */
static bool is_wide(const ck_gpu_walk *outer) {
    int last = outer->rank - 1;
    return outer->d[last] > 1 && outer->x[last] == 1;
}

static int64_t splits_of(const ck_gpu_walk *outer, const ck_gpu_walk *inner) {
    enum { THREADS = 1 << 16, BLOCKS = 512, LEAST_WIDE = 32, LEAST = 1024 };
    bool wide = is_wide(outer);
    int64_t n = count_of(outer), each = count_of(inner);
    int64_t want = (wide ? THREADS : BLOCKS) / n, most = each / (wide ? LEAST_WIDE : LEAST);
    int64_t splits = want < most ? want : most;
    return splits < 1 ? 1 : splits;
}

CK_GPU_FUNCTION int64_t split_begin(int64_t each, int64_t splits, int64_t i) {
    return each * i / splits;
}

CK_GPU_KERNEL(sum_wide, sum_args) {
    CK_GPU_UNUSED_SHARED();
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, a->n * a->splits) {
            const float *x = a->x + at(&a->outer, a->outer.x, i % a->n);
            int64_t part = i / a->n, end = split_begin(a->each, a->splits, part + 1);
            float sum = 0;
            for (int64_t k = split_begin(a->each, a->splits, part); k < end; k++)
                sum += x[at(&a->inner, a->inner.x, k)];
            a->y[i] = sum;
        }
    }
}

CK_GPU_KERNEL(sum_narrow, sum_args) {
    for (int64_t i = block; i < a->n * a->splits; i += blocks) {
        const float *x = a->x + at(&a->outer, a->outer.x, i % a->n);
        int64_t part = i / a->n, end = split_begin(a->each, a->splits, part + 1);
        CK_GPU_BARRIER();
        CK_GPU_THREADS(t) {
            float sum = 0;
            for (int64_t k = split_begin(a->each, a->splits, part) + t; k < end; k += CK_GPU_BLOCK)
                sum += x[at(&a->inner, a->inner.x, k)];
            shared[t] = sum;
        }
        ck_gpu_block_sum(shared);
        CK_GPU_THREADS(t) {
            if (t == 0) a->y[i] = shared[0];
        }
    }
}

size_t ck_gpu_sum_scratch(const ck_gpu_walk *outer, const ck_gpu_walk *inner) {
    int64_t splits = splits_of(outer, inner);
    return splits == 1 ? 0 : (size_t)(splits * count_of(outer));
}

void ck_gpu_sum(ck_gpu_stream s, float *y, const float *x, const ck_gpu_walk *outer,
                const ck_gpu_walk *inner, float *partial) {
    int64_t n = count_of(outer), splits = splits_of(outer, inner);
    sum_args a = {splits == 1 ? y : partial, x, *outer, *inner, n, count_of(inner), splits};
    if (is_wide(outer))
        sum_wide_launch(s, ck_gpu_blocks(n * splits), &a);
    else
        sum_narrow_launch(s, n * splits < CK_GPU_MOST_BLOCKS ? n * splits : CK_GPU_MOST_BLOCKS, &a);
    if (splits == 1) return;
    ck_gpu_walk columns = {.rank = 1, .d = {n}, .x = {1}};
    ck_gpu_walk rows = {.rank = 1, .d = {splits}, .x = {n}};
    sum_args second = {y, partial, columns, rows, n, splits, 1};
    sum_wide_launch(s, ck_gpu_blocks(n), &second);
}

/* ---- Images ---- */

typedef struct upsample_args {
    float *y;
    const float *x;
    int64_t n, w, c; /* n: elements of the small image */
    bool back;
} upsample_args;

CK_GPU_KERNEL(upsample, upsample_args) {
    CK_GPU_UNUSED_SHARED();
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, a->n) {
            int64_t k = i % a->c, q = i / a->c % a->w, r = i / a->c / a->w;
            int64_t upper = (4 * r * a->w + 2 * q) * a->c + k, lower = upper + 2 * a->w * a->c;
            if (a->back) {
                a->y[i] = a->x[upper] + a->x[upper + a->c] + a->x[lower] + a->x[lower + a->c];
            } else {
                a->y[upper] = a->y[upper + a->c] = a->x[i];
                a->y[lower] = a->y[lower + a->c] = a->x[i];
            }
        }
    }
}

void ck_gpu_upsample(ck_gpu_stream s, float *y, const float *x, int64_t rows, int64_t w,
                     int64_t c) {
    upsample_args a = {y, x, rows * w * c, w, c, false};
    upsample_launch(s, ck_gpu_blocks(a.n), &a);
}

void ck_gpu_upsample_grad(ck_gpu_stream s, float *dx, const float *dy, int64_t rows, int64_t w,
                          int64_t c) {
    upsample_args a = {dx, dy, rows * w * c, w, c, true};
    upsample_launch(s, ck_gpu_blocks(a.n), &a);
}

/* ---- Tables ---- */

typedef struct embed_args {
    float *y;
    const float *x; /* the table; gradients of what was looked up */
    const int32_t *ids;
    int64_t n, rows, c;
} embed_args;

CK_GPU_KERNEL(embed, embed_args) {
    CK_GPU_UNUSED_SHARED();
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, a->n * a->c) {
            int32_t id = a->ids[i / a->c];
            a->y[i] = id >= 0 && id < a->rows ? a->x[id * a->c + i % a->c] : NAN;
        }
    }
}

/* Every element of the table looks for its row among the ids: nothing is added out of order. */
CK_GPU_KERNEL(embed_grad, embed_args) {
    CK_GPU_UNUSED_SHARED();
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, a->rows * a->c) {
            float sum = 0;
            for (int64_t j = 0; j < a->n; j++)
                if (a->ids[j] == i / a->c) sum += a->x[j * a->c + i % a->c];
            a->y[i] = sum;
        }
    }
}

void ck_gpu_embed(ck_gpu_stream s, float *y, const float *table, const int32_t *ids, int64_t n,
                  int64_t rows, int64_t c) {
    embed_args a = {y, table, ids, n, rows, c};
    embed_launch(s, ck_gpu_blocks(n * c), &a);
}

void ck_gpu_embed_grad(ck_gpu_stream s, float *table, const int32_t *ids, const float *dy,
                       int64_t n, int64_t rows, int64_t c) {
    embed_args a = {table, dy, ids, n, rows, c};
    embed_grad_launch(s, ck_gpu_blocks(rows * c), &a);
}

typedef struct timestep_args {
    float *y;
    const float *t;
    int64_t n, half;
    bool flip;
    float shift, period;
} timestep_args;

/* (The angle in f64: at t = 1000 an f32 one is off in the fourth digit of its sine.) */
CK_GPU_KERNEL(timestep, timestep_args) {
    CK_GPU_UNUSED_SHARED();
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, a->n * a->half) {
            int64_t row = i / a->half, k = i % a->half;
            double slow = (double)k / ((double)a->half - a->shift);
            double angle = a->t[row] * exp(-log((double)a->period) * slow);
            float *y = a->y + 2 * row * a->half + k;
            y[a->flip ? a->half : 0] = (float)sin(angle);
            y[a->flip ? 0 : a->half] = (float)cos(angle);
        }
    }
}

void ck_gpu_timestep(ck_gpu_stream s, float *y, const float *t, int64_t n, int64_t half, bool flip,
                     float shift, float period) {
    timestep_args a = {y, t, n, half, flip, shift, period};
    timestep_launch(s, ck_gpu_blocks(n * half), &a);
}
