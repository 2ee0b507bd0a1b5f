/* Copies, sums and lookups that are about where elements lie, see kernels.h. */
#include "kernels/cuda/gpu.h"

static int64_t count_of(const ck_gpu_walk *w) {
    int64_t n = 1;
    for (int i = 0; i < w->rank; i++) n *= w->d[i];
    return n;
}

/* The same walk with as few dimensions as it can be told in: those of 1 are left out, and those
 * joined that lie as one does. */
static ck_gpu_walk shortened(const ck_gpu_walk *walk) {
    ck_gpu_walk w = {.rank = 0};
    for (int i = 0; i < walk->rank; i++) {
        int64_t d = walk->d[i], y = walk->y[i], x = walk->x[i];
        int last = w.rank - 1;
        if (d == 1) continue;
        if (w.rank && w.y[last] == d * y && w.x[last] == d * x)
            d *= w.d[last];
        else
            last = w.rank++;
        w.d[last] = d, w.y[last] = y, w.x[last] = x;
    }
    if (!w.rank) w.d[w.rank++] = 1;
    return w;
}

/* Whether eight numbers lie side by side, at multiples of eight, wherever such a walk goes. */
static bool goes_by_eight(const ck_gpu_walk *w, const int64_t *distance) {
    int last = w->rank - 1;
    for (int i = 0; i < last; i++)
        if (distance[i] % CK_GPU_SOME != 0) return false;
    return w->d[last] % CK_GPU_SOME == 0 && distance[last] == 1;
}

/* Element number i of a shape: where it lies in y and in x. */
CK_GPU_FUNCTION void at(const ck_gpu_walk *w, int64_t i, int64_t *y, int64_t *x) {
    *y = *x = 0;
    for (int k = w->rank - 1; k > 0; k--) {
        int64_t rest = ck_gpu_divide(&i, w->d[k]);
        *y += rest * w->y[k];
        *x += rest * w->x[k];
    }
    *y += i * w->y[0];
    *x += i * w->x[0];
}

/* ---- Copies and pairs ---- */

typedef struct copy_args {
    ck_gpu_array y, x;
    ck_gpu_walk walk;
    int64_t n;
    int some; /* numbers at once */
} copy_args;

CK_GPU_KERNEL(copy, copy_args) {
    CK_GPU_UNUSED_SHARED();
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, a->n / a->some) {
            int64_t y, x;
            float v[CK_GPU_SOME];
            at(&a->walk, i * a->some, &y, &x);
            ck_gpu_get_some(&a->x, x, a->some, v);
            ck_gpu_put_some(&a->y, y, a->some, v);
        }
    }
}

void ck_gpu_copy(ck_gpu_stream s, ck_gpu_array y, ck_gpu_array x, const ck_gpu_walk *walk) {
    copy_args a = {y, x, shortened(walk), count_of(walk), 1};
    if (goes_by_eight(&a.walk, a.walk.y) && goes_by_eight(&a.walk, a.walk.x)) a.some = CK_GPU_SOME;
    copy_launch(s, ck_gpu_blocks(a.n / a.some), &a);
}

typedef struct binary_args {
    ck_gpu_array y, left, right;
    ck_gpu_walk walk;
    int64_t n;
    int some;
    bool add, single; /* single: all that are done at once have the same right */
} binary_args;

CK_GPU_KERNEL(binary, binary_args) {
    CK_GPU_UNUSED_SHARED();
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(group, t, a->n / a->some) {
            int64_t i = group * a->some, y, x;
            float left[CK_GPU_SOME], right[CK_GPU_SOME];
            at(&a->walk, i, &y, &x);
            ck_gpu_get_some(&a->left, i, a->some, left);
            ck_gpu_get_some(&a->right, x, a->single ? 1 : a->some, right);
            for (int k = 0; k < CK_GPU_SOME; k++) {
                float r = right[a->single ? 0 : k];
                left[k] = a->add ? left[k] + r : left[k] * r;
            }
            ck_gpu_put_some(&a->y, i, a->some, left);
        }
    }
}

void ck_gpu_binary(ck_gpu_stream s, bool add, ck_gpu_array y, ck_gpu_array left, ck_gpu_array right,
                   const ck_gpu_walk *walk) {
    binary_args a = {y, left, right, shortened(walk), count_of(walk), 1, add, false};
    int last = a.walk.rank - 1;
    a.single = a.walk.x[last] == 0;
    if (goes_by_eight(&a.walk, a.walk.x) || (a.single && a.walk.d[last] % CK_GPU_SOME == 0))
        a.some = CK_GPU_SOME;
    binary_launch(s, ck_gpu_blocks(a.n / a.some), &a);
}

/* ---- Sums: cut into `splits` that depend on the shapes alone, then added up ---- */

typedef struct sum_args {
    float *y; /* splits rows of n */
    ck_gpu_array x;
    ck_gpu_walk outer, inner;
    int64_t n, each, splits; /* sums; elements of each; parts of each */
    int some;                /* sums at once, of those beside each other */
} sum_args;

/* Sums beside each other are read side by side: a thread for eight of them, or each. Others: a
 * block each. */
static bool is_wide(const ck_gpu_walk *outer) {
    int last = outer->rank - 1;
    return outer->d[last] > 1 && outer->x[last] == 1;
}

static int some_sums(const ck_gpu_walk *outer, const ck_gpu_walk *inner) {
    for (int i = 0; i < inner->rank; i++)
        if (inner->d[i] > 1 && inner->x[i] % CK_GPU_SOME != 0) return 1;
    return goes_by_eight(outer, outer->x) ? CK_GPU_SOME : 1;
}

static int64_t splits_of(const ck_gpu_walk *outer, const ck_gpu_walk *inner) {
    enum { THREADS = 1 << 16, BLOCKS = 512, LEAST_WIDE = 32, LEAST = 1024 };
    bool wide = is_wide(outer);
    int64_t n = count_of(outer), each = count_of(inner);
    int64_t want = wide ? THREADS / (n / some_sums(outer, inner)) : BLOCKS / n,
            most = each / (wide ? LEAST_WIDE : LEAST);
    int64_t splits = want < most ? want : most;
    return splits < 1 ? 1 : splits;
}

/* Element number i of a shape: where it lies in x. */
CK_GPU_FUNCTION int64_t place(const ck_gpu_walk *w, int64_t i) {
    int64_t y, x;
    at(w, i, &y, &x);
    return x;
}

CK_GPU_FUNCTION int64_t split_begin(int64_t each, int64_t splits, int64_t i) {
    return each * i / splits;
}

CK_GPU_KERNEL(sum_wide, sum_args) {
    CK_GPU_UNUSED_SHARED();
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, a->n / a->some * a->splits) {
            int64_t part = i, which = ck_gpu_divide(&part, a->n / a->some) * a->some;
            int64_t first = place(&a->outer, which),
                    end = split_begin(a->each, a->splits, part + 1);
            float sum[CK_GPU_SOME] = {0}, x[CK_GPU_SOME];
            for (int64_t k = split_begin(a->each, a->splits, part); k < end; k++) {
                ck_gpu_get_some(&a->x, first + place(&a->inner, k), a->some, x);
                for (int j = 0; j < CK_GPU_SOME; j++) sum[j] += x[j];
            }
            for (int j = 0; j < CK_GPU_SOME && j < a->some; j++)
                a->y[part * a->n + which + j] = sum[j];
        }
    }
}

/* Rows of n sums each, added up: a warp's columns by all warps of a block, which are then joined.
 * (There are few columns, and what a single thread reads one after the other takes long.) */
CK_GPU_KERNEL(sum_parts, sum_args) {
    const float *x = (const float *)a->x.at;
    for (int64_t first = block * CK_GPU_WARP; first < a->n; first += blocks * CK_GPU_WARP) {
        CK_GPU_BARRIER();
        CK_GPU_THREADS(t) {
            int64_t i = first + t % CK_GPU_WARP;
            float sum = 0;
            for (int64_t k = t / CK_GPU_WARP; i < a->n && k < a->each; k += CK_GPU_WARPS)
                sum += x[k * a->n + i];
            shared[t] = sum;
        }
        CK_GPU_BARRIER();
        CK_GPU_THREADS(t) {
            float sum = shared[t];
            if (t >= CK_GPU_WARP || first + t >= a->n) continue;
            for (int k = 1; k < CK_GPU_WARPS; k++) sum += shared[t + k * CK_GPU_WARP];
            a->y[first + t] = sum;
        }
    }
}

CK_GPU_KERNEL(sum_narrow, sum_args) {
    for (int64_t i = block; i < a->n * a->splits; i += blocks) {
        int64_t part = i, first = place(&a->outer, ck_gpu_divide(&part, a->n));
        int64_t end = split_begin(a->each, a->splits, part + 1);
        CK_GPU_BARRIER();
        CK_GPU_THREADS(t) {
            float sum = 0;
            for (int64_t k = split_begin(a->each, a->splits, part) + t; k < end; k += CK_GPU_BLOCK)
                sum += ck_gpu_get(&a->x, first + place(&a->inner, k));
            shared[t] = sum;
        }
        ck_gpu_block_sum(shared);
        CK_GPU_THREADS(t) {
            if (t == 0) a->y[i] = shared[0];
        }
    }
}

size_t ck_gpu_sum_scratch(const ck_gpu_walk *outer, const ck_gpu_walk *inner) {
    ck_gpu_walk apart = shortened(outer), along = shortened(inner);
    int64_t splits = splits_of(&apart, &along);
    return splits == 1 ? 0 : (size_t)(splits * count_of(outer));
}

void ck_gpu_sum(ck_gpu_stream s, float *y, ck_gpu_array x, const ck_gpu_walk *outer,
                const ck_gpu_walk *inner, float *partial) {
    ck_gpu_walk apart = shortened(outer), along = shortened(inner);
    int64_t n = count_of(outer), splits = splits_of(&apart, &along);
    int some = is_wide(&apart) ? some_sums(&apart, &along) : 1;
    sum_args a = {splits == 1 ? y : partial, x, apart, along, n, count_of(inner), splits, some};
    if (is_wide(&apart))
        sum_wide_launch(s, ck_gpu_blocks(n / some * splits), &a);
    else
        sum_narrow_launch(s, n * splits < CK_GPU_MOST_BLOCKS ? n * splits : CK_GPU_MOST_BLOCKS, &a);
    if (splits == 1) return;
    sum_args second = {.y = y, .x = {partial, false}, .n = n, .each = splits};
    sum_parts_launch(s, ck_gpu_blocks(n * CK_GPU_WARPS), &second);
}

/* ---- Images ---- */

typedef struct upsample_args {
    ck_gpu_array y, x;
    int64_t n, w, c; /* n: elements of the small image */
    int some;        /* numbers at once */
    bool back;
} upsample_args;

CK_GPU_KERNEL(upsample, upsample_args) {
    CK_GPU_UNUSED_SHARED();
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(group, t, a->n / a->some) {
            int64_t i = group * a->some, r = i, k = ck_gpu_divide(&r, a->c);
            int64_t q = ck_gpu_divide(&r, a->w), upper = (4 * r * a->w + 2 * q) * a->c + k;
            int64_t lower = upper + 2 * a->w * a->c;
            const int64_t four[] = {upper, upper + a->c, lower, lower + a->c};
            float v[CK_GPU_SOME], next[CK_GPU_SOME];
            ck_gpu_get_some(&a->x, a->back ? four[0] : i, a->some, v);
            for (int j = 0; j < 4; j++) {
                if (!a->back) ck_gpu_put_some(&a->y, four[j], a->some, v);
                if (!a->back || j == 0) continue;
                ck_gpu_get_some(&a->x, four[j], a->some, next);
                for (int e = 0; e < CK_GPU_SOME; e++) v[e] += next[e];
            }
            if (a->back) ck_gpu_put_some(&a->y, i, a->some, v);
        }
    }
}

static void launch_upsample(ck_gpu_stream s, upsample_args *a) {
    a->some = a->c % CK_GPU_SOME == 0 ? CK_GPU_SOME : 1;
    upsample_launch(s, ck_gpu_blocks(a->n / a->some), a);
}

void ck_gpu_upsample(ck_gpu_stream s, ck_gpu_array y, ck_gpu_array x, int64_t rows, int64_t w,
                     int64_t c) {
    upsample_args a = {y, x, rows * w * c, w, c, 0, false};
    launch_upsample(s, &a);
}

void ck_gpu_upsample_grad(ck_gpu_stream s, ck_gpu_array dx, ck_gpu_array dy, int64_t rows,
                          int64_t w, int64_t c) {
    upsample_args a = {dx, dy, rows * w * c, w, c, 0, true};
    launch_upsample(s, &a);
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
