/* Fused attention, see kernels.h: scores never reach memory. What it does is FlashAttention's (Dao,
 * 2023): sums of exponentials are kept as they grow, and made again from their logarithms in the
 * backward pass, which has a kernel for queries and one for keys, so that nothing is added up in an
 * order that chance decides. Products are of bf16 with sums in f32; probabilities and gradients of
 * scores are rounded between products. */
#include "kernels/cuda/tensor.h"

enum {
    ROWS = CK_GPU_BLOCK / 2, /* a block's own: 16 a warp */
    TILE = 32,               /* others at once, in the backward pass */
};

#define LOG2E 1.44269504f
#define LN2   0.693147181f

typedef struct attention_args {
    const uint16_t *q, *k, *v, *dy;
    ck_gpu_array y, dq, dk, dv;
    float *sums, *change;
    int64_t queries, keys, channels, heads;
    int64_t rows; /* queries of all heads */
    int width;
    float scale; /* for powers of 2 */
    bool causal;
    bool wide; /* eight numbers lie so that they can be read at once */
} attention_args;

/* Which rows a block has, and where its head begins in arrays of queries, of keys, of sums. */
typedef struct place {
    int64_t first, query, key, row;
} place;

CK_ANYWHERE int64_t tiles_of(int64_t n, int64_t tile) {
    return (n + tile - 1) / tile;
}

CK_GPU_FUNCTION int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

CK_GPU_FUNCTION place place_of(const attention_args *a, int64_t block, int64_t rows) {
    int64_t of_head = tiles_of(rows, ROWS), head = block / of_head;
    int64_t image = head / a->heads, begin = head % a->heads * a->width;
    place p;
    p.first = block % of_head * ROWS;
    p.query = image * a->queries * a->channels + begin;
    p.key = image * a->keys * a->channels + begin;
    p.row = head * a->queries;
    return p;
}

/* Of a block's own rows and a tile's, those of number i of thread t (tensor.h). */
CK_GPU_FUNCTION int row_of(int t, int i) {
    return t / CK_GPU_WARP * 16 + t % CK_GPU_WARP / 4 + i / 2 % 2 * 8;
}

CK_GPU_FUNCTION int column_of(int t, int i) {
    return i / 4 * 8 + t % 4 * 2 + i % 2;
}

CK_GPU_FUNCTION bool is_seen(const attention_args *a, int64_t query, int64_t key) {
    return key < a->keys && (!a->causal || key <= query);
}

/* The kernels for heads of up to `width` channels, and the bytes that they share: forward,
 * backward.
 */
typedef struct fused {
    int width;
    size_t bytes[2];
    void (*launch[3])(ck_gpu_stream s, int64_t blocks, const attention_args *a);
} fused;

#define CK_WIDTH 32
#include "kernels/cuda/attention_template.h"
#define CK_WIDTH 48
#include "kernels/cuda/attention_template.h"
#define CK_WIDTH 64
#include "kernels/cuda/attention_template.h"
#define CK_WIDTH 80
#include "kernels/cuda/attention_template.h"
#define CK_WIDTH 128
#include "kernels/cuda/attention_template.h"
#define CK_WIDTH 160
#include "kernels/cuda/attention_template.h"

static const fused *fused_of(int64_t width) {
    static const fused *const all[] = {&fused_32, &fused_48,  &fused_64,
                                       &fused_80, &fused_128, &fused_160};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (width <= all[i]->width) return all[i];
    return NULL;
}

size_t ck_gpu_attention_shared(int64_t width, bool gradients) {
    const fused *f = fused_of(width);
    return f ? f->bytes[gradients] : 0;
}

/* ---- What changes of probabilities of a query sum up to: dy y ---- */

CK_GPU_KERNEL(attention_change, attention_args) {
    CK_GPU_UNUSED_SHARED();
    const int64_t per_image = a->heads * a->queries;
    const ck_gpu_array dy = {(void *)a->dy, true};
    const int some = a->wide ? CK_GPU_SOME : 1;
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, a->rows) {
            int64_t head = i % a->heads, row = i / a->heads % a->queries, image = i / per_image;
            int64_t at = i / a->heads * a->channels + head * a->width;
            float sum = 0, y[CK_GPU_SOME], change[CK_GPU_SOME];
            for (int k = 0; k < a->width; k += some) {
                ck_gpu_get_some(&a->y, at + k, some, y);
                ck_gpu_get_some(&dy, at + k, some, change);
                for (int j = 0; j < some; j++) sum += change[j] * y[j];
            }
            a->change[(image * a->heads + head) * a->queries + row] = sum;
        }
    }
}

/* ---- Launching ---- */

static attention_args args_of(const ck_gpu_attention *v) {
    attention_args a = {0};
    a.q = (const uint16_t *)v->q, a.k = (const uint16_t *)v->k, a.v = (const uint16_t *)v->v;
    a.queries = v->queries, a.keys = v->keys;
    a.channels = v->channels, a.heads = v->heads;
    a.width = (int)(v->channels / v->heads);
    a.scale = v->scale * LOG2E;
    a.causal = v->causal;
    return a;
}

/* Rows of 16 bytes, if arrays begin at a multiple of that. */
static bool is_wide(const attention_args *a) {
    uintptr_t bits = (uintptr_t)a->q | (uintptr_t)a->k | (uintptr_t)a->v | (uintptr_t)a->dy;
    return a->width % 8 == 0 && bits % 16 == 0;
}

void ck_gpu_attention_forward(ck_gpu_stream s, const ck_gpu_attention *v, ck_gpu_array y,
                              float *sums) {
    attention_args a = args_of(v);
    a.y = y, a.sums = sums;
    a.wide = is_wide(&a);
    fused_of(a.width)->launch[0](s, v->n * v->heads * tiles_of(v->queries, ROWS), &a);
}

void ck_gpu_attention_backward(ck_gpu_stream s, const ck_gpu_attention *v, ck_gpu_array y,
                               const float *sums, const void *dy, ck_gpu_array dq, ck_gpu_array dk,
                               ck_gpu_array dv, float *change) {
    attention_args a = args_of(v);
    const fused *f = fused_of(a.width);
    a.y = y, a.sums = (float *)sums, a.dy = (const uint16_t *)dy, a.change = change;
    a.dq = dq, a.dk = dk, a.dv = dv;
    a.wide = is_wide(&a);
    a.rows = v->n * v->heads * v->queries;
    attention_change_launch(s, ck_gpu_blocks(a.rows), &a);
    f->launch[1](s, v->n * v->heads * tiles_of(v->queries, ROWS), &a);
    f->launch[2](s, v->n * v->heads * tiles_of(v->keys, ROWS), &a);
}
