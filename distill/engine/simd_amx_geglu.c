/* GEGLU, and its gradient, of products of matrices that are stored nowhere (fold.h): in
 * feed-forward networks these are the largest arrays of all. They are made some rows at a time,
 * which stay in the caches; the bits are those of stored ones. A part of the scratch memory is for
 * each thread.
 */
#include "distill/engine/simd.h"

#include "distill/engine/simd_amx_int.h"
#include "distill/engine/simd_int.h"

#include <omp.h>

/* Rows that are made at a time; and of how many numbers vectors are at most whose products are made
 * more than once: of longer ones that takes longer than to store them. */
enum { ROWS = 64, DEPTH = 128 };

/* Sources that may be folded. */
enum { SOURCES = 2 };

/* Whether a node can make what it reads of product n, of which it reads rows as rows. */
static bool reads_rows(const ck_graph *g, ck_node reader, ck_node n) {
    const ck_graph_node *at = &g->nodes[reader];
    if (at->op != CK_OP_GEGLU && at->op != CK_OP_GEGLU_GRAD) return false;
    for (int s = 0; s < SOURCES && at->src[s] != CK_NONE; s++) {
        ck_shape shape = ck_node_shape(g, at->src[s]);
        if (ck_shown(g, at->src[s]) == n) return shape.d[shape.rank - 1] == g->nodes[n].shape.d[1];
    }
    return false;
}

static bool folds(const ck_graph *g, const bool *half, ck_node n, const ck_node *readers,
                  size_t count) {
    const ck_graph_node *at = &g->nodes[n];
    if (at->op != CK_OP_MATMUL || at->i[0] || !half[n] || !ck_simd__takes_product(g, n))
        return false;
    if (count > 1 && ck_node_shape(g, at->src[0]).d[1] > DEPTH) return false;
    for (size_t i = 0; i < count; i++)
        if (!reads_rows(g, readers[i], n)) return false;
    return true;
}

/* A source of the node: where it lies, or what it is made of. */
typedef struct rows {
    const void *at; /* NULL: it is made */
    ck_product product;
    size_t width;       /* bytes of a row */
    char *right, *left; /* tiles: of the right matrix, for all threads; and of some rows */
    char *made;         /* ROWS rows */
} rows;

/* Bytes of what is made of it: tiles for all threads, and the rest for each of them. */
static size_t shared_bytes(const ck_product *p) {
    return ck_simd__tiles(p->n, p->k);
}

static size_t own_bytes(const ck_product *p) {
    return ck_simd__tiles(ROWS, p->k) + ROWS * p->n * 2;
}

/* Of a call: the node's sources. Returns the bytes for all threads. */
static size_t find_rows(const ck_call *call, rows of[SOURCES]) {
    size_t shared = 0;
    for (int s = 0; s < SOURCES && ck_call_node(call)->src[s] != CK_NONE; s++) {
        rows *r = &of[s];
        ck_shape shape = ck_call_shape(call, s);
        *r = (rows){.at = call->src[s], .width = (size_t)shape.d[shape.rank - 1] * 2};
        if (r->at) continue;
        r->product =
            ck_simd__product_of(call->graph, ck_shown(call->graph, ck_call_node(call)->src[s]),
                                call->half, call->folded[s]);
        r->right = (char *)call->scratch + shared;
        shared += shared_bytes(&r->product);
    }
    return shared;
}

/* A thread's own memory, behind what is for all. */
static void find_own(rows of[SOURCES], char *memory) {
    for (int s = 0; s < SOURCES; s++) {
        if (!of[s].right) continue;
        of[s].left = memory;
        of[s].made = memory + ck_simd__tiles(ROWS, of[s].product.k);
        memory += own_bytes(&of[s].product);
    }
}

/* Rows first to first + n - 1. */
static const char *get(const ck_nn_amx *kernels, const rows *r, size_t first, size_t n) {
    if (r->at) return (const char *)r->at + first * r->width;
    ck_simd__multiply_rows(kernels, &r->product, r->right, first, n, r->made, true, r->left);
    return r->made;
}

static void run_rows(const ck_call *call, const ck_nn_amx *kernels, const rows of[SOURCES],
                     size_t first, size_t n) {
    const ck_nn *k = kernels->half;
    bool grad = ck_call_node(call)->op == CK_OP_GEGLU_GRAD;
    size_t wide = of[0].width, one = wide / 2;
    const char *x = get(kernels, &of[0], first, n);
    const char *dy = grad ? get(kernels, &of[1], first, n) : NULL;
    char *to = (char *)call->dst + first * (grad ? wide : one);
    for (size_t i = 0; i < n; i++, x += wide) {
        if (!grad)
            k->geglu(to + i * one, x, x + one, one / 2);
        else
            k->geglu_grad(to + i * wide, to + i * wide + one, x, x + one, dy + i * one, one / 2);
    }
}

static void run(const ck_call *call) {
    const ck_tiled *t = call->state;
    rows of[SOURCES] = {0};
    size_t shared = find_rows(call, of);
    ck_shape s = ck_call_shape(call, 0);
    size_t count = (size_t)(ck_shape_count(&s) / s.d[s.rank - 1]);
#pragma omp parallel num_threads(t->threads) firstprivate(of)
    {
        find_own(of, (char *)call->scratch + shared + (size_t)omp_get_thread_num() * t->room);
        for (int i = 0; i < SOURCES; i++)
            if (of[i].right) ck_simd__tile_right(t->kernels, &of[i].product, of[i].right);
#pragma omp for
        for (size_t i = 0; i < count; i += ROWS)
            run_rows(call, t->kernels, of, i, count - i < ROWS ? count - i : ROWS);
    }
}

static ck_status prepare(const ck_graph *g, ck_node n, const bool *half, const bool *folded,
                         ck_kernel *kernel, ck_error *err) {
    static const void *const nowhere[CK_MAX_SRC];
    size_t shared = 0, own = 0;
    for (int s = 0; s < SOURCES && g->nodes[n].src[s] != CK_NONE; s++) {
        ck_node source = ck_shown(g, g->nodes[n].src[s]);
        if (!folded[source]) continue;
        ck_product p = ck_simd__product_of(g, source, half, nowhere);
        shared += shared_bytes(&p);
        own += own_bytes(&p);
    }
    return ck_simd__prepare_tiled(ck_nn_amx_best(), run, shared, own, kernel, err);
}

const ck_folding ck_simd_folding = {folds, prepare};
