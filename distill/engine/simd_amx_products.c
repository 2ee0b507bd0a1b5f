/* Products of matrices, and gradients of convolutions' weights, to the kernels of ck_nn_amx; see
 * simd.h. A part of the scratch memory is for each thread. */
#include "distill/engine/simd_int.h"

#include "distill/engine/convolution.h"
#include "io/os.h"
#include "kernels/nn.h"

#include <omp.h>
#include <stdlib.h>

typedef struct tiled {
    const ck_nn_amx *kernels;
    size_t room; /* bytes of a thread */
    int threads; /* that there is room for */
} tiled;

/* A kernel with `shared` bytes of scratch memory, and `room` for each thread. */
static ck_status prepare(const ck_nn_amx *kernels, void (*run)(const ck_call *call), size_t shared,
                         size_t room, ck_kernel *kernel, ck_error *err) {
    tiled *state = ck_alloc(sizeof *state);
    if (!state) return ck_fail_memory(err, "a product");
    *state = (tiled){kernels, room, omp_get_max_threads()};
    *kernel = (ck_kernel){.run = run,
                          .scratch = shared + (size_t)state->threads * room,
                          .state = state,
                          .release = free};
    return CK_OK;
}

/* Tiles of so many vectors of so many numbers, in bytes. */
static size_t tiles(size_t vectors, size_t numbers) {
    return vectors / 16 * CK_NN_AMX_STEPS(numbers) * 1024;
}

/* ---- Products of matrices ----
 *
 * The right matrix is brought into tiles once, the left one in blocks of rows. Where the sums are
 * long (gradients of weights: over all tokens) they are made in pieces, which are added up. */

enum { BLOCK = 64, PIECE = 512, PIECES = 16, MANY = 4, STEP = 256, ALONE = 1 << 16 };

typedef struct product {
    size_t m, n, k;
    ck_nn_side a, b;       /* vectors of k numbers, m and n of them */
    size_t length, pieces; /* of k; one piece unless both matrices are transposed to it */
} product;

static product product_of(const ck_graph *g, ck_node id) {
    const ck_graph_node *n = &g->nodes[id];
    ck_shape a = ck_node_shape(g, n->src[0]);
    bool ta = n->i[0], tb = n->i[1];
    product p = {.m = (size_t)n->shape.d[0], .n = (size_t)n->shape.d[1], .k = (size_t)a.d[!ta]};
    p.a = ta ? (ck_nn_side){.row = 1, .column = p.m} : (ck_nn_side){.row = p.k, .column = 1};
    p.b = tb ? (ck_nn_side){.row = p.k, .column = 1} : (ck_nn_side){.row = 1, .column = p.n};
    p.length = p.k / PIECES > PIECE ? (p.k / PIECES + STEP - 1) / STEP * STEP : PIECE;
    p.pieces = (p.k + p.length - 1) / p.length;
    return p;
}

static product product_of_call(const ck_call *call) {
    product p = product_of(call->graph, call->node);
    p.a.at = call->src[0], p.a.half = ck_call_half(call, 0);
    p.b.at = call->src[1], p.b.half = ck_call_half(call, 1);
    return p;
}

/* The matrix from vector i, number k on. */
static ck_nn_side side_at(ck_nn_side x, size_t i, size_t k) {
    x.at = (const char *)x.at + (i * x.row + k * x.column) * (x.half ? 2 : 4);
    return x;
}

static ck_nn_tiles tiles_at(const void *at, size_t k) {
    return (ck_nn_tiles){at, 64, 1024, CK_NN_AMX_STEPS(k) * 1024};
}

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

/* Rows of bf16 need not be brought into tiles. */
static bool lies_in_tiles(const product *p) {
    return p->a.half && p->a.column == 1 && p->k % 32 == 0;
}

static void run_rows(const ck_call *call) {
    const tiled *s = call->state;
    product p = product_of_call(call);
    char *right = call->scratch, *left = right + tiles(p.n, p.k);
    bool half = ck_call_half(call, -1);
#pragma omp parallel num_threads(s->threads) if (p.m * p.n * p.k > ALONE)
    {
#pragma omp for
        for (size_t j = 0; j < p.n; j += 16)
            s->kernels->pack((uint32_t *)(right + tiles(j, p.k)), side_at(p.b, j, 0), 16, p.k,
                             true);
        char *own = left + (size_t)omp_get_thread_num() * s->room;
#pragma omp for
        for (size_t i = 0; i < p.m; i += BLOCK) {
            ck_nn_side a = side_at(p.a, i, 0);
            size_t rows = least(BLOCK, p.m - i);
            ck_nn_tiles l = {a.at, 2 * p.k, 64, 32 * p.k};
            if (!lies_in_tiles(&p)) {
                s->kernels->pack((uint32_t *)own, a, rows, p.k, false);
                l = tiles_at(own, p.k);
            }
            ck_nn_result c = {(char *)call->dst + i * p.n * (half ? 2 : 4), p.n, .half = half};
            s->kernels->multiply(c, l, tiles_at(right, p.k), rows, p.n, p.k, call->src[2]);
        }
    }
}

/* Piece number i of the sums of `rows` rows, from `row` on. */
static void sum_piece(const tiled *s, const product *p, size_t i, size_t row, size_t rows,
                      char *memory, float *sums) {
    size_t begin = i * p->length, end = least(begin + p->length, p->k);
    uint32_t *left = (uint32_t *)memory, *right = (uint32_t *)(memory + tiles(BLOCK, STEP));
    for (size_t k = begin; k < end; k += STEP) {
        size_t depth = least(STEP, end - k);
        s->kernels->pack(right, side_at(p->b, 0, k), p->n, depth, true);
        for (size_t m = 0; m < rows; m += BLOCK) {
            size_t some = least(BLOCK, rows - m);
            s->kernels->pack(left, side_at(p->a, row + m, k), some, depth, false);
            ck_nn_result c = {sums + m * p->n, p->n, .add = k > begin,
                              .last = p->pieces == 1 && k + depth == end};
            s->kernels->multiply(c, tiles_at(left, depth), tiles_at(right, depth), some, p->n,
                                 depth, NULL);
        }
    }
}

static void run_sums(const ck_call *call) {
    const tiled *s = call->state;
    product p = product_of_call(call);
    /* Enough work for all threads lies in many pieces, or else in blocks of rows. */
    size_t size = p.m * p.n, rows = p.pieces < MANY ? BLOCK : p.m;
    float *y = call->dst, *sums = p.pieces > 1 ? call->scratch : y;
    char *memory = (char *)call->scratch + p.pieces * size * sizeof(float);
#pragma omp parallel num_threads(s->threads) if (size * p.k > ALONE)
    {
        char *own = memory + (size_t)omp_get_thread_num() * s->room;
#pragma omp for collapse(2)
        for (size_t i = 0; i < p.pieces; i++)
            for (size_t row = 0; row < p.m; row += rows)
                sum_piece(s, &p, i, row, least(rows, p.m - row), own, sums + i * size + row * p.n);
#pragma omp for
        for (size_t j = 0; j < size; j += 16)
            for (size_t i = p.pieces > 1 ? 0 : 1; i < p.pieces; i++)
                for (size_t k = j; k < j + 16; k++) y[k] = i ? y[k] + sums[i * size + k] : sums[k];
    }
}

/* Products with both matrices transposed to the sums, over rows that is. */
static bool is_sums(const ck_graph_node *n) {
    return n->i[0] && !n->i[1];
}

static bool takes_matmul(const ck_graph *g, ck_node id) {
    const ck_graph_node *n = &g->nodes[id];
    product p = product_of(g, id);
    bool sums = is_sums(n);
    return p.m % 16 == 0 && p.n % 16 == 0 && p.k % 16 == 0 && n->i[0] == sums &&
           (!sums || n->src[2] == CK_NONE);
}

static ck_status prepare_matmul(const ck_nn_amx *kernels, const ck_graph *g, ck_node id,
                                ck_kernel *kernel, ck_error *err) {
    product p = product_of(g, id);
    if (is_sums(&g->nodes[id]))
        return prepare(kernels, run_sums, p.pieces * p.m * p.n * sizeof(float),
                       tiles(BLOCK, STEP) + tiles(p.n, STEP), kernel, err);
    return prepare(kernels, run_rows, tiles(p.n, p.k), tiles(BLOCK, p.k), kernel, err);
}

/* ---- Gradients of a convolution's weights ----
 *
 * Of each element (r, s) of the kernel, the product of dy, its channels the rows, and of the pixels
 * of x that it meets, both in tiles along the pixels of y: dy once, x as it is needed. A part of
 * the pixels at a time is multiplied with all that it meets, while it is in the L2 cache. */

enum { CHANNELS = 64, PIXELS = 512 };

/* Where y's pixels first to first + n - 1 meet x with element (r, s) of the kernel, or -1 for
 * outside; and -1 up to PIXELS. */
static void find_places(const ck_convolution *v, int64_t r, int64_t s, int64_t first, int64_t n,
                        int64_t at[PIXELS]) {
    int64_t step = v->stride * v->c, shift = v->left - s, begin = 0;
    while (begin * v->stride < shift) begin++;
    int64_t end = (v->w + shift + v->stride - 1) / v->stride;
    for (int64_t i = 0; i < PIXELS; i++) at[i] = -1;
    for (int64_t i = 0; i < n;) {
        int64_t line = (first + i) / v->q, q = (first + i) % v->q;
        int64_t h = line % v->p * v->stride + r - v->top;
        int64_t start = ((line / v->p * v->h + h) * v->w - shift) * v->c;
        int64_t *to = at + i - q, rest = q + n - i < v->q ? q + n - i : v->q;
        i = to + rest - at;
        if (h < 0 || h >= v->h) continue;
        if (q < begin) q = begin;
        if (rest > end) rest = end;
        for (; q < rest; q++) to[q] = start + q * step;
    }
}

/* Pixels from `first` on, element i of the kernel, channels from c on. memory: places and tiles. */
static void add_weight_grad(const ck_call *call, const ck_convolution *v, int64_t first, int64_t i,
                            int64_t c, char *memory) {
    const tiled *t = call->state;
    int64_t *at = (int64_t *)memory, area = v->r * v->s;
    size_t pixels = (size_t)(v->n * v->p * v->q), n = least(PIXELS, pixels - (size_t)first);
    size_t width = least(CHANNELS, (size_t)(v->c - c));
    uint32_t *right = (uint32_t *)(at + PIXELS);
    bool half = ck_call_half(call, 0);
    const char *x = (const char *)call->src[0] + c * (half ? 2 : 4), *left = call->scratch;
    find_places(v, i / v->s, i % v->s, first, (int64_t)n, at);
    t->kernels->gather(right, x, half, at, width, n, true);
    ck_nn_result dw = {(float *)call->dst + i * v->c + c, (size_t)(area * v->c), .add = first > 0,
                       .last = (size_t)first + n == pixels};
    t->kernels->multiply(dw, tiles_at(left + tiles(16, (size_t)first), pixels), tiles_at(right, n),
                         (size_t)v->k, width, n, NULL);
}

/* A part of dy's pixels and 16 of its channels. */
static void tile_changes(const ck_call *call, const ck_convolution *v, int64_t first, int64_t k,
                         int64_t at[PIXELS]) {
    const tiled *t = call->state;
    size_t pixels = (size_t)(v->n * v->p * v->q), n = least(PIXELS, pixels - (size_t)first);
    char *left = (char *)call->scratch + tiles((size_t)k, pixels);
    bool half = ck_call_half(call, 1);
    for (int64_t i = 0; i < PIXELS; i++) at[i] = (size_t)i < n ? (first + i) * v->k : -1;
    t->kernels->gather((uint32_t *)(left + tiles(16, (size_t)first)),
                       (const char *)call->src[1] + k * (half ? 2 : 4), half, at, 16, n, false);
}

static void run_weight_grad(const ck_call *call) {
    const tiled *t = call->state;
    ck_convolution v = ck_convolution_of(call->graph, call->node);
    int64_t pixels = v.n * v.p * v.q;
    char *memory = (char *)call->scratch + tiles((size_t)v.k, (size_t)pixels);
#pragma omp parallel num_threads(t->threads) if (ck_convolution_work(&v) > ALONE)
    {
        char *own = memory + (size_t)omp_get_thread_num() * t->room;
#pragma omp for collapse(2)
        for (int64_t first = 0; first < pixels; first += PIXELS)
            for (int64_t k = 0; k < v.k; k += 16) tile_changes(call, &v, first, k, (int64_t *)own);
        /* (Each thread has the same share of every part: none need wait for another.) */
        for (int64_t first = 0; first < pixels; first += PIXELS) {
#pragma omp for collapse(2) schedule(static) nowait
            for (int64_t i = 0; i < v.r * v.s; i++)
                for (int64_t c = 0; c < v.c; c += CHANNELS)
                    add_weight_grad(call, &v, first, i, c, own);
        }
    }
}

static bool takes_weight_grad(const ck_graph *g, ck_node n) {
    ck_convolution v = ck_convolution_of(g, n);
    return v.k % 16 == 0 && v.c % 16 == 0;
}

static ck_status prepare_weight_grad(const ck_nn_amx *kernels, const ck_graph *g, ck_node n,
                                     ck_kernel *kernel, ck_error *err) {
    ck_convolution v = ck_convolution_of(g, n);
    size_t room = PIXELS * sizeof(int64_t) + tiles(CHANNELS, PIXELS);
    return prepare(kernels, run_weight_grad, tiles((size_t)v.k, (size_t)(v.n * v.p * v.q)), room,
                   kernel, err);
}

/* ---- Nodes ---- */

bool ck_simd__takes_product(const ck_graph *g, ck_node n) {
    ck_op op = g->nodes[n].op;
    return op == CK_OP_MATMUL ? takes_matmul(g, n)
                              : op == CK_OP_CONV_WEIGHT_GRAD && takes_weight_grad(g, n);
}

ck_status ck_simd__product(const ck_nn_amx *kernels, const ck_graph *g, ck_node n,
                           ck_kernel *kernel, ck_error *err) {
    bool matmul = g->nodes[n].op == CK_OP_MATMUL;
    return (matmul ? prepare_matmul : prepare_weight_grad)(kernels, g, n, kernel, err);
}
