/* Products of matrices to the kernels of ck_nn_amx, and what may be stored as bf16; see simd.h. A
 * part of the scratch memory is for each thread. */
#include "distill/engine/simd.h"

#include "distill/engine/onednn.h"
#include "distill/engine/simd_int.h"
#include "io/os.h"
#include "kernels/nn.h"

#include <omp.h>
#include <stdlib.h>

typedef struct tiled {
    const ck_nn_amx *kernels;
    size_t room; /* bytes of a thread */
    int threads; /* that there is room for */
} tiled;

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

/* Tiles of so many vectors of so many numbers, in bytes. */
static size_t tiles(size_t vectors, size_t numbers) {
    return vectors / 16 * CK_NN_AMX_STEPS(numbers) * 1024;
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
            s->kernels->multiply((char *)call->dst + i * p.n * (half ? 2 : 4), p.n, half, l,
                                 tiles_at(right, p.k), rows, p.n, p.k, call->src[2], false);
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
            s->kernels->multiply(sums + m * p->n, p->n, false, tiles_at(left, depth),
                                 tiles_at(right, depth), some, p->n, depth, NULL, k > begin);
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

static bool takes_product(const ck_graph *g, ck_node id) {
    const ck_graph_node *n = &g->nodes[id];
    product p = product_of(g, id);
    bool sums = is_sums(n);
    return p.m % 16 == 0 && p.n % 16 == 0 && p.k % 16 == 0 && n->i[0] == sums &&
           (!sums || n->src[2] == CK_NONE);
}

static ck_status prepare_product(const ck_nn_amx *kernels, const ck_graph *g, ck_node id,
                                 ck_kernel *kernel, bool *done, ck_error *err) {
    const ck_graph_node *n = &g->nodes[id];
    product p = product_of(g, id);
    bool sums = is_sums(n);
    if (!takes_product(g, id)) return CK_OK;
    tiled *state = ck_alloc(sizeof *state);
    if (!state) return ck_fail_memory(err, ck_op_name(n->op));
    size_t room = sums ? tiles(BLOCK, STEP) + tiles(p.n, STEP) : tiles(BLOCK, p.k);
    size_t shared = sums ? p.pieces * p.m * p.n * sizeof(float) : tiles(p.n, p.k);
    *state = (tiled){kernels, room, omp_get_max_threads()};
    *kernel = (ck_kernel){.run = sums ? run_sums : run_rows,
                          .scratch = shared + (size_t)state->threads * room,
                          .state = state,
                          .release = free};
    *done = true;
    return CK_OK;
}

ck_status ck_simd_prepare_bf16(const ck_graph *g, ck_node n, ck_kernel *kernel, bool *done,
                               ck_error *err) {
    *done = false;
    const ck_nn_amx *kernels = ck_nn_amx_best();
    ck_op op = g->nodes[n].op;
    if (kernels && (op == CK_OP_ATTENTION || op == CK_OP_ATTENTION_GRAD))
        return ck_simd__attention(&kernels->attention, g, n, kernel, done, err);
    if (kernels && op == CK_OP_MATMUL) return prepare_product(kernels, g, n, kernel, done, err);
    return CK_OK;
}

/* ---- What may be stored as bf16 ---- */

enum { RESULT = 1, A = 2, B = 4, C = 8, D = 16, E = 32 };

/* Of operations whose kernels take all (that are named) or none. (Of sums the result is f32.) */
static const unsigned alike[CK_OP_COUNT] = {
    [CK_OP_ADD] = RESULT | A | B,
    [CK_OP_SUM_TO] = A,
    [CK_OP_UNARY] = RESULT | A,
    [CK_OP_UNARY_GRAD] = RESULT | A | B,
    [CK_OP_CONCAT] = RESULT | A | B,
    [CK_OP_SLICE] = RESULT | A,
    [CK_OP_PAD] = RESULT | A,
    [CK_OP_UPSAMPLE] = RESULT | A,
    [CK_OP_UPSAMPLE_GRAD] = RESULT | A,
    [CK_OP_GROUP_NORM] = RESULT | A,
    [CK_OP_GROUP_NORM_GRAD] = RESULT | A | D | E,
    [CK_OP_LAYER_NORM] = RESULT | A,
    [CK_OP_LAYER_NORM_GRAD] = RESULT | A | B | C,
    [CK_OP_GEGLU] = RESULT | A,
    [CK_OP_GEGLU_GRAD] = RESULT | A | B,
};

static unsigned half_of(const ck_graph *g, ck_node n) {
    ck_op op = g->nodes[n].op;
    switch (op) {
    case CK_OP_MATMUL:
        if (takes_product(g, n)) return is_sums(&g->nodes[n]) ? A | B : RESULT | A | B;
        return ck_onednn_version() ? RESULT | A : 0;
    case CK_OP_CONV:
    case CK_OP_CONV_DATA_GRAD:
        return ck_onednn_version() ? RESULT | A : 0;
    case CK_OP_CONV_WEIGHT_GRAD:
        return ck_onednn_version() ? A | B : 0;
    case CK_OP_ATTENTION:
        return ck_simd__takes_attention(&ck_nn_amx_best()->attention, g, n) ? RESULT | A | B | C
                                                                            : 0;
    case CK_OP_ATTENTION_GRAD:
        return ck_simd__takes_attention(&ck_nn_amx_best()->attention, g, n)
                   ? RESULT | A | B | C | D | E
                   : 0;
    default:
        return ck_simd__takes_half(g, n) ? alike[op] : 0;
    }
}

bool ck_simd_takes_half(const ck_graph *g, ck_node n, int source) {
    return ck_nn_amx_best() && half_of(g, n) >> (source + 1) & 1;
}
