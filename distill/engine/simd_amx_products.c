/* Products of matrices, and gradients of convolutions' weights, to the kernels of ck_nn_amx; see
 * simd.h. A part of the scratch memory is for each thread. */
#include "distill/engine/simd_amx_int.h"
#include "distill/engine/simd_int.h"

#include "distill/engine/convolution.h"
#include "io/os.h"
#include "kernels/nn.h"

#include <omp.h>
#include <stdlib.h>

ck_status ck_simd__prepare_tiled(const ck_nn_amx *kernels, void (*run)(const ck_call *call),
                                 size_t shared, size_t room, ck_kernel *kernel, ck_error *err) {
    ck_tiled *state = ck_alloc(sizeof *state);
    if (!state) return ck_fail_memory(err, "a product");
    *state = (ck_tiled){kernels, room, omp_get_max_threads()};
    *kernel = (ck_kernel){.run = run,
                          .scratch = shared + (size_t)state->threads * room,
                          .state = state,
                          .release = free};
    return CK_OK;
}

/* ---- Products of matrices ----
 *
 * The right matrix is brought into tiles once, the left one in blocks of rows. */

enum { BLOCK = 64, ALONE = 1 << 16 };

ck_product ck_simd__product_of(const ck_graph *g, ck_node id, const bool *half,
                               const void *const src[CK_MAX_SRC]) {
    const ck_graph_node *n = &g->nodes[id];
    ck_shape a = ck_node_shape(g, n->src[0]);
    ck_product p = {.m = (size_t)n->shape.d[0], .n = (size_t)n->shape.d[1], .k = (size_t)a.d[1]};
    p.a = (ck_nn_side){src[0], p.k, 1, half[n->src[0]]};
    p.b = n->i[1] ? (ck_nn_side){src[1], p.k, 1, half[n->src[1]]}
                  : (ck_nn_side){src[1], 1, p.n, half[n->src[1]]};
    p.bias = src[2];
    return p;
}

/* The matrix from vector i on. */
static ck_nn_side side_at(ck_nn_side x, size_t i) {
    x.at = (const char *)x.at + i * x.row * (x.half ? 2 : 4);
    return x;
}

static ck_nn_tiles tiles_at(const void *at, size_t k) {
    return (ck_nn_tiles){at, 64, 1024, CK_NN_AMX_STEPS(k) * 1024};
}

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

void ck_simd__tile_right(const ck_nn_amx *kernels, const ck_product *p, char *tiles) {
#pragma omp for
    for (size_t j = 0; j < p->n; j += 16)
        kernels->pack((uint32_t *)(tiles + ck_simd__tiles(j, p->k)), side_at(p->b, j), 16, p->k,
                      true);
}

/* Rows of bf16 need not be brought into tiles. */
static bool lies_in_tiles(const ck_product *p) {
    return p->a.half && p->k % 32 == 0;
}

void ck_simd__multiply_rows(const ck_nn_amx *kernels, const ck_product *p, const char *right,
                            size_t first, size_t rows, void *to, bool half, char *memory) {
    ck_nn_side a = side_at(p->a, first);
    ck_nn_tiles left = {a.at, 2 * p->k, 64, 32 * p->k};
    if (!lies_in_tiles(p)) {
        kernels->pack((uint32_t *)memory, a, rows, p->k, false);
        left = tiles_at(memory, p->k);
    }
    kernels->multiply((ck_nn_result){to, p->n, .half = half}, left, tiles_at(right, p->k), rows,
                      p->n, p->k, p->bias);
}

static void run_rows(const ck_call *call) {
    const ck_tiled *s = call->state;
    ck_product p = ck_simd__product_of(call->graph, call->node, call->half, call->src);
    char *right = call->scratch, *left = right + ck_simd__tiles(p.n, p.k);
    bool half = ck_call_half(call, -1);
#pragma omp parallel num_threads(s->threads) if (p.m * p.n * p.k > ALONE)
    {
        ck_simd__tile_right(s->kernels, &p, right);
        char *own = left + (size_t)omp_get_thread_num() * s->room;
#pragma omp for
        for (size_t i = 0; i < p.m; i += BLOCK)
            ck_simd__multiply_rows(s->kernels, &p, right, i, least(BLOCK, p.m - i),
                                   (char *)call->dst + i * p.n * (half ? 2 : 4), half, own);
    }
}

/* ---- Gradients of weights ----
 *
 * Of each element (r, s) of a convolution's kernel, the product of dy, its channels the rows, and
 * of the pixels of x that it meets, both in tiles along the pixels of y. Those of a linear layer
 * are the same with one element and tokens for pixels. One side is brought into tiles as a whole
 * ("still"), the other ("moving") as it is needed, some vectors of it at a time. A part of the
 * pixels is multiplied with all that it meets while it is in the L2 cache.
 *
 * Of smaller results sums of some stretches of pixels are made apart and added up afterwards: there
 * are few vectors to share out, and a thread finds more of a stretch of its own in its cache, as it
 * made it of the same images. (As many as the shapes say, not the threads: the bits stay the same.)
 */

enum { VECTORS = 64, PIXELS = 512, SOME = 64 };

static int64_t stretches_of(int64_t results, int64_t parts) {
    int64_t most = results <= 3 << 14 ? 8 : results <= 3 << 17 ? 2 : 1;
    return parts < most ? parts : most;
}

/* An array of pixels; vectors: how many numbers each has. */
typedef struct pixels {
    const char *at;
    bool half;
    int64_t vectors;
} pixels;

/* meeting: still as y, moving as x. */
typedef struct sums {
    ck_convolution meeting;
    pixels still, moving;
    bool moves_right;  /* the moving side is the right one */
    int64_t width;     /* vectors of it at a time */
    int64_t stretches; /* whose sums are made apart */
} sums;

static int64_t pixels_of(const sums *s) {
    return s->meeting.n * s->meeting.p * s->meeting.q;
}

static int64_t parts_of(const sums *s) {
    return (pixels_of(s) + PIXELS - 1) / PIXELS;
}

static int64_t results_of(const sums *s) {
    return s->meeting.k * s->meeting.r * s->meeting.s * s->meeting.c;
}

static sums sums_of(const ck_graph *g, ck_node id) {
    const ck_graph_node *n = &g->nodes[id];
    sums s = {.moves_right = true, .width = VECTORS};
    if (n->op == CK_OP_CONV_WEIGHT_GRAD) {
        s.meeting = ck_convolution_of(g, id);
    } else {
        /* The side with more vectors moves: there is more to share out among threads. */
        int64_t m = n->shape.d[0], k = n->shape.d[1];
        int64_t tokens = ck_node_shape(g, n->src[0]).d[0];
        s.moves_right = k > m;
        s.meeting = (ck_convolution){.n = 1,
                                     .h = 1,
                                     .w = tokens,
                                     .p = 1,
                                     .q = tokens,
                                     .c = k > m ? k : m,
                                     .k = k > m ? m : k,
                                     .r = 1,
                                     .s = 1,
                                     .stride = 1};
        if (s.meeting.c <= VECTORS) s.width = VECTORS / 2;
    }
    s.still.vectors = s.meeting.k;
    s.moving.vectors = s.meeting.c;
    s.stretches = stretches_of(results_of(&s), parts_of(&s));
    return s;
}

static sums sums_of_call(const ck_call *call) {
    sums s = sums_of(call->graph, call->node);
    /* A product has its left side first, a convolution its right one. */
    bool first = s.moves_right == (ck_call_node(call)->op == CK_OP_CONV_WEIGHT_GRAD);
    s.moving.at = call->src[!first], s.moving.half = ck_call_half(call, !first);
    s.still.at = call->src[first], s.still.half = ck_call_half(call, first);
    return s;
}

static const char *vector_at(const pixels *x, int64_t i) {
    return x->at + i * (x->half ? 2 : 4);
}

/* Where y's pixels first to first + n - 1 meet x with element i of the kernel, or -1 for outside;
 * and -1 up to PIXELS. */
static void find_places(const ck_convolution *v, int64_t i, int64_t first, int64_t n,
                        int64_t at[PIXELS]) {
    int64_t r = i / v->s, shift = v->left - i % v->s, step = v->stride * v->c, begin = 0;
    while (begin * v->stride < shift) begin++;
    int64_t end = (v->w + shift + v->stride - 1) / v->stride;
    for (int64_t k = 0; k < PIXELS; k++) at[k] = -1;
    for (int64_t k = 0; k < n;) {
        int64_t line = (first + k) / v->q, q = (first + k) % v->q;
        int64_t h = line % v->p * v->stride + r - v->top;
        int64_t start = ((line / v->p * v->h + h) * v->w - shift) * v->c;
        int64_t *to = at + k - q, rest = q + n - k < v->q ? q + n - k : v->q;
        k = to + rest - at;
        if (h < 0 || h >= v->h) continue;
        if (q < begin) q = begin;
        if (rest > end) rest = end;
        for (; q < rest; q++) to[q] = start + q * step;
    }
}

/* Some pixels, from `first` on. */
typedef struct part {
    int64_t first, n;
    bool add, last; /* see ck_nn_result */
} part;

/* Number `round` of a stretch's parts; n is 0 where there are fewer. */
static part part_of(const sums *s, int64_t stretch, int64_t round) {
    int64_t parts = parts_of(s), at = stretch * parts / s->stretches + round;
    int64_t end = (stretch + 1) * parts / s->stretches, first = at * PIXELS;
    if (at >= end) return (part){0};
    return (part){.first = first,
                  .n = least(PIXELS, pixels_of(s) - first),
                  .add = round > 0,
                  .last = s->stretches == 1 && at + 1 == end};
}

/* Some pixels of a part, of the still side: numbers first to first + SOME - 1. */
static void tile_still(const ck_tiled *t, const sums *s, part p, char *still, int64_t first,
                       int64_t at[PIXELS]) {
    int64_t n = least(SOME, p.n - first);
    for (int64_t k = 0; k < SOME; k++)
        at[k] = k < n ? (p.first + first + k) * s->still.vectors : -1;
    t->kernels->gather((uint32_t *)(still + ck_simd__tiles(16, first)), ck_simd__tiles(16, p.n),
                       s->still.at, s->still.half, at, s->still.vectors, n, !s->moves_right);
}

/* Bytes of places and tiles of the moving side. */
enum { SUMS_ROOM = PIXELS * sizeof(int64_t) + VECTORS / 16 * (PIXELS / 32) * 1024 };

/* Adds what a part gives for element i of the kernel and vectors from c on of the moving side.
 * memory: SUMS_ROOM. */
static void add_sums(const ck_tiled *t, const sums *s, part p, const char *still, float *dw,
                     int64_t i, int64_t c, char *memory) {
    const ck_convolution *v = &s->meeting;
    int64_t *at = (int64_t *)memory, width = least(s->width, v->c - c);
    uint32_t *moving = (uint32_t *)(at + PIXELS);
    find_places(v, i, p.first, p.n, at);
    t->kernels->gather(moving, ck_simd__tiles(16, p.n), vector_at(&s->moving, c), s->moving.half,
                       at, width, p.n, s->moves_right);
    ck_nn_tiles one = tiles_at(still, p.n), other = tiles_at(moving, p.n);
    ck_nn_result to = {.add = p.add, .last = p.last};
    if (s->moves_right) {
        to.at = dw + i * v->c + c, to.stride = v->r * v->s * v->c;
        t->kernels->multiply(to, one, other, v->k, width, p.n, NULL);
    } else {
        to.at = dw + c * v->k, to.stride = v->k;
        t->kernels->multiply(to, other, one, width, v->k, p.n, NULL);
    }
}

/* A part of each stretch, by all threads of a team. still: its tiles, one stretch's after the
 * other; dw: their sums. */
static void share_round(const ck_tiled *t, const sums *s, int64_t round, char *still, float *dw,
                        char *own) {
    const ck_convolution *v = &s->meeting;
    size_t size = ck_simd__tiles(s->still.vectors, PIXELS);
#pragma omp for collapse(2) schedule(static)
    for (int64_t k = 0; k < s->stretches; k++)
        for (int64_t some = 0; some < PIXELS; some += SOME) {
            part p = part_of(s, k, round);
            if (some < p.n) tile_still(t, s, p, still + (size_t)k * size, some, (int64_t *)own);
        }
        /* (The same share of every part, so that none is added to by two threads.) */
#pragma omp for collapse(3) schedule(static) nowait
    for (int64_t k = 0; k < s->stretches; k++)
        for (int64_t i = 0; i < v->r * v->s; i++)
            for (int64_t c = 0; c < v->c; c += s->width) {
                part p = part_of(s, k, round);
                if (p.n)
                    add_sums(t, s, p, still + (size_t)k * size, dw + k * results_of(s), i, c, own);
            }
}

static void add_up(const sums *s, const float *each, float *dw) {
    int64_t n = results_of(s);
#pragma omp for
    for (int64_t k = 0; k < n; k += 16)
        for (int64_t j = k; j < k + 16; j++) {
            float sum = each[j];
            for (int64_t i = 1; i < s->stretches; i++) sum += each[i * n + j];
            dw[j] = sum;
        }
}

/* Bytes of the stretches' sums, if there are several. */
static size_t apart(const sums *s) {
    return s->stretches > 1 ? (size_t)(s->stretches * results_of(s)) * sizeof(float) : 0;
}

/* Memory: the stretches' sums; tiles of the still side, two for each; and for each thread what
 * add_sums needs. */
static void run_sums(const ck_call *call) {
    const ck_tiled *t = call->state;
    sums s = sums_of_call(call);
    size_t still = (size_t)s.stretches * ck_simd__tiles(s.still.vectors, PIXELS);
    char *tiled_still = (char *)call->scratch + apart(&s);
    float *each = s.stretches > 1 ? call->scratch : call->dst;
    int64_t rounds = (parts_of(&s) + s.stretches - 1) / s.stretches;
#pragma omp parallel num_threads(t->threads) if (ck_convolution_work(&s.meeting) > ALONE)
    {
        char *own = tiled_still + 2 * still + (size_t)omp_get_thread_num() * t->room;
        /* In turns: some threads may be one part ahead of others. */
        for (int64_t i = 0; i < rounds; i++)
            share_round(t, &s, i, tiled_still + (size_t)(i % 2) * still, each, own);
#pragma omp barrier
        if (s.stretches > 1) add_up(&s, each, call->dst);
    }
}

/* ---- Nodes ---- */

/* Gradients of weights: both matrices are transposed to the sums. */
static bool is_sums(const ck_graph_node *n) {
    return n->op == CK_OP_CONV_WEIGHT_GRAD ||
           (n->op == CK_OP_MATMUL && n->i[0] && !n->i[1] && n->src[2] == CK_NONE);
}

bool ck_simd__takes_product(const ck_graph *g, ck_node id) {
    const ck_graph_node *n = &g->nodes[id];
    if (is_sums(n)) {
        sums s = sums_of(g, id);
        return s.still.vectors % 16 == 0 && s.moving.vectors % 16 == 0;
    }
    if (n->op != CK_OP_MATMUL || n->i[0]) return false;
    return n->shape.d[0] % 16 == 0 && n->shape.d[1] % 16 == 0 &&
           ck_node_shape(g, n->src[0]).d[1] % 16 == 0;
}

ck_status ck_simd__product(const ck_nn_amx *kernels, const ck_graph *g, ck_node id,
                           ck_kernel *kernel, ck_error *err) {
    if (is_sums(&g->nodes[id])) {
        sums s = sums_of(g, id);
        size_t still = (size_t)s.stretches * ck_simd__tiles(s.still.vectors, PIXELS);
        return ck_simd__prepare_tiled(kernels, run_sums, apart(&s) + 2 * still, SUMS_ROOM, kernel,
                                      err);
    }
    const ck_graph_node *n = &g->nodes[id];
    size_t k = (size_t)ck_node_shape(g, n->src[0]).d[1];
    return ck_simd__prepare_tiled(kernels, run_rows, ck_simd__tiles((size_t)n->shape.d[1], k),
                                  ck_simd__tiles(BLOCK, k), kernel, err);
}
