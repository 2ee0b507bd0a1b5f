/* What happens to weights after the gradients are there, see kernels.h. One launch works on many
 * arrays: its blocks find which by a list among the arguments. */
#include "kernels/cuda/gpu.h"
#include "kernels/philox.h"

/* ---- Pieces ---- */

/* (CUDA has room for arguments of 32764 bytes.) */
typedef struct piece_list {
    int count;
    uint32_t begin[CK_GPU_PIECES + 1]; /* the first block of each, and one past the last */
    ck_gpu_piece at[CK_GPU_PIECES];
} piece_list;

/* A thread's numbers in each array, where there are blocks enough. */
enum { NUMBERS = 32 };

static int64_t blocks_for(int64_t n) {
    return ck_gpu_blocks((n + NUMBERS - 1) / NUMBERS);
}

/* Blocks of a sum of squares, whose order they decide. */
static int64_t blocks_of_squares(int64_t n) {
    int64_t blocks = ck_gpu_blocks(n);
    return blocks < CK_GPU_SUMMANDS ? blocks : CK_GPU_SUMMANDS;
}

/* Returns how many blocks all of them take. */
static int64_t list_pieces(piece_list *list, const ck_gpu_piece *pieces, int count,
                           int64_t (*blocks)(int64_t n)) {
    uint32_t next = 0;
    memcpy(list->at, pieces, (size_t)count * sizeof *pieces);
    for (int i = 0; i < count; i++) {
        list->begin[i] = next;
        next += (uint32_t)blocks(pieces[i].n);
    }
    list->begin[count] = next;
    list->count = count;
    return next;
}

/* The piece that a block works on. */
CK_GPU_FUNCTION int piece_of(const piece_list *list, int64_t block) {
    int low = 0, high = list->count;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (list->begin[middle] <= block)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* In a kernel: `p` is the block's piece, and `block` and `blocks` count those of the piece. */
#define OF_PIECE(list)                                                                             \
    const int index = piece_of(list, block);                                                       \
    const ck_gpu_piece *p = &(list)->at[index];                                                    \
    blocks = (list)->begin[index + 1] - (list)->begin[index];                                      \
    block -= (list)->begin[index]

/* ---- AdamW and averages ---- */

typedef struct adamw_args {
    ck_gpu_adamw with;
    piece_list list;
} adamw_args;

CK_GPU_KERNEL(adamw, adamw_args) {
    CK_GPU_UNUSED_SHARED();
    const ck_gpu_adamw *o = &a->with;
    OF_PIECE(&a->list);
    float *weights = (float *)p->to;
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, p->n) {
            float x = o->scale * p->from[i];
            float m = o->beta1 * p->first[i] + (1 - o->beta1) * x;
            float v = o->beta2 * p->second[i] + (1 - o->beta2) * x * x;
            p->first[i] = m;
            p->second[i] = v;
            weights[i] = o->keep * weights[i] - o->step * m / (sqrtf(v) * o->root + o->eps);
        }
    }
}

void ck_gpu_adamw_step(ck_gpu_stream s, const ck_gpu_adamw *with, const ck_gpu_piece *pieces,
                       int count) {
    adamw_args a;
    a.with = *with;
    adamw_launch(s, list_pieces(&a.list, pieces, count, blocks_for), &a);
}

/* y += factor x, or y += factor (x - y). */
typedef struct blend_args {
    float factor;
    bool average;
    piece_list list;
} blend_args;

CK_GPU_KERNEL(blend, blend_args) {
    CK_GPU_UNUSED_SHARED();
    OF_PIECE(&a->list);
    float *values = (float *)p->to;
    CK_GPU_THREADS(t) {
        CK_GPU_EACH(i, t, p->n) {
            float y = values[i], x = p->from[i];
            values[i] = y + a->factor * (a->average ? x - y : x);
        }
    }
}

static void blend_all(ck_gpu_stream s, bool average, float factor, const ck_gpu_piece *pieces,
                      int count) {
    blend_args a;
    a.factor = factor, a.average = average;
    blend_launch(s, list_pieces(&a.list, pieces, count, blocks_for), &a);
}

void ck_gpu_average(ck_gpu_stream s, const ck_gpu_piece *pieces, int count, float change) {
    blend_all(s, true, change, pieces, count);
}

void ck_gpu_add_scaled(ck_gpu_stream s, const ck_gpu_piece *pieces, int count, float factor) {
    blend_all(s, false, factor, pieces, count);
}

/* ---- Copies of bfloat16 ---- */

typedef struct round_args {
    ck_gpu_rounding how;
    bool random;
    piece_list list;
} round_args;

/* Groups of eight share a block of random bits. */
CK_GPU_KERNEL(round_weights, round_args) {
    CK_GPU_UNUSED_SHARED();
    const ck_gpu_rounding *how = &a->how;
    OF_PIECE(&a->list);
    const ck_gpu_array values = {(void *)p->from, false};
    uint16_t *copy = (uint16_t *)p->to;
    CK_GPU_THREADS(t) {
        CK_GPU_EACH_SOME(i, t, p->n) {
            uint32_t word[4];
            float x[CK_GPU_SOME];
            if (a->random)
                ck_philox(how->seed, how->step, p->stream, (uint64_t)(i / CK_GPU_SOME), word);
            ck_gpu_get_some(&values, i, p->n - i, x);
            for (int k = 0; k < CK_GPU_SOME && i + k < p->n; k++)
                copy[i + k] = a->random ? ck_half_random(x[k], word[k / 2] >> 16 * (k % 2) & 0xffff)
                                        : ck_half(x[k]);
        }
    }
}

void ck_gpu_round(ck_gpu_stream s, const ck_gpu_piece *pieces, int count,
                  const ck_gpu_rounding *how) {
    round_args a;
    a.how = how ? *how : (ck_gpu_rounding){0, 0};
    a.random = how != NULL;
    round_weights_launch(s, list_pieces(&a.list, pieces, count, blocks_for), &a);
}

/* ---- Sums of squares, in two steps ---- */

typedef struct squares_args {
    float *partial; /* CK_GPU_SUMMANDS for each piece, one for each of its blocks */
    piece_list list;
} squares_args;

CK_GPU_KERNEL(squares, squares_args) {
    OF_PIECE(&a->list);
    CK_GPU_THREADS(t) {
        float sum = 0;
        CK_GPU_EACH(i, t, p->n) sum += p->from[i] * p->from[i];
        shared[t] = sum;
    }
    ck_gpu_block_sum(shared);
    CK_GPU_THREADS(t) {
        if (t == 0) a->partial[(int64_t)index * CK_GPU_SUMMANDS + block] = shared[0];
    }
}

/* A block for each piece. */
CK_GPU_KERNEL(squares_total, squares_args) {
    (void)blocks;
    const piece_list *list = &a->list;
    uint32_t made = list->begin[block + 1] - list->begin[block];
    CK_GPU_THREADS(t) {
        shared[t] = (uint32_t)t < made ? a->partial[block * CK_GPU_SUMMANDS + t] : 0;
    }
    ck_gpu_block_sum(shared);
    CK_GPU_THREADS(t) {
        if (t == 0) *(double *)list->at[block].to = shared[0];
    }
}

void ck_gpu_squares(ck_gpu_stream s, const ck_gpu_piece *pieces, int count, float *partial) {
    squares_args a;
    a.partial = partial;
    squares_launch(s, list_pieces(&a.list, pieces, count, blocks_of_squares), &a);
    squares_total_launch(s, count, &a);
}
