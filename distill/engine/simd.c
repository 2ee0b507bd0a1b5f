/* Nodes to the kernels of kernels/nn.h, shared out among threads; see simd.h. */
#include "distill/engine/simd.h"

#include "distill/engine/simd_int.h"
#include "kernels/nn.h"

#include <math.h>
#include <string.h>

/* Elements of a piece of work, small enough that all threads get some and that it stays in a cache;
 * and columns that are summed together. */
enum { PIECE = 1 << 14, STRIP = 1024 };

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* How many pieces of `size` there are in n. */
static int64_t pieces_of(int64_t n, int64_t size) {
    return (n + size - 1) / size;
}

/* Rows of a piece, of c elements each. */
static int64_t rows_of(int64_t c) {
    return c < PIECE ? PIECE / c : 1;
}

static int64_t last_of(const ck_shape *s) {
    return s->d[s->rank - 1];
}

/* Number i of an array, where it is read and where it is written. */
static const void *of(const ck_nn *k, const void *x, int64_t i) {
    return (const char *)x + (size_t)i * k->element;
}

static void *in(const ck_nn *k, void *y, int64_t i) {
    return (char *)y + (size_t)i * k->element;
}

/* ---- Element by element ---- */

/* CK_NN_UNARIES for those that have no kernel. */
static ck_nn_unary unary_of(const ck_graph_node *n) {
    switch ((ck_unary)n->i[0]) {
    case CK_SILU:
        return CK_NN_SILU;
    case CK_GELU:
        return CK_NN_GELU;
    case CK_GELU_TANH:
        return CK_NN_GELU_TANH;
    case CK_QUICK_GELU:
        return CK_NN_QUICK_GELU;
    case CK_EXP:
        return CK_NN_EXP;
    default:
        return CK_NN_UNARIES;
    }
}

static bool takes_unary(const ck_graph *g, ck_node n) {
    return unary_of(&g->nodes[n]) != CK_NN_UNARIES;
}

static void run_unary(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    const ck_nn *k = call->state;
    int64_t count = ck_shape_count(&n->shape);
    ck_nn_unary f = unary_of(n);
#pragma omp parallel for if (count > PIECE)
    for (int64_t at = 0; at < count; at += PIECE) {
        size_t size = (size_t)least(PIECE, count - at);
        if (n->op == CK_OP_UNARY)
            k->unary[f](in(k, call->dst, at), of(k, call->src[0], at), size);
        else
            k->unary_grad[f](in(k, call->dst, at), of(k, call->src[0], at), of(k, call->src[1], at),
                             size);
    }
}

static void run_affine(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    const ck_nn *k = call->state;
    int64_t count = ck_shape_count(&n->shape);
    const float *x = call->src[0];
    float *y = call->dst;
#pragma omp parallel for if (count > PIECE)
    for (int64_t at = 0; at < count; at += PIECE)
        k->affine(y + at, x + at, (float)n->x[0], (float)n->x[1], (size_t)least(PIECE, count - at));
}

/* Along the last dimensions, n elements together, b is either all there or one number for all. */
typedef struct run_length {
    int outer; /* dimensions before those */
    int64_t n;
    bool repeated;
} run_length;

static run_length run_length_of(const ck_shape *a, const ck_shape *b) {
    run_length r = {a->rank, 1, false};
    bool known = false;
    for (; r.outer > 0; r.outer--) {
        int i = r.outer - 1;
        bool repeated = b->d[i] != a->d[i];
        if (a->d[i] != 1 && known && repeated != r.repeated) break;
        if (a->d[i] != 1) r.repeated = repeated, known = true;
        r.n *= a->d[i];
    }
    return r;
}

/* Where run number i of a begins in b. */
static int64_t run_start(const ck_shape *a, const ck_shape *b, int outer, int64_t i) {
    int64_t at = 0, stride = 1;
    for (int k = outer; k < a->rank; k++) stride *= b->d[k];
    for (int k = outer; k-- > 0; i /= a->d[k], stride *= b->d[k])
        if (b->d[k] != 1) at += i % a->d[k] * stride;
    return at;
}

/* (One number for all is f32: see ck_simd_takes_half.) */
static void combine(const ck_nn *k, ck_op op, bool repeated, void *y, const void *a, const void *b,
                    int64_t n) {
    if (repeated && op == CK_OP_ADD)
        k->affine(y, a, 1, *(const float *)b, (size_t)n);
    else if (repeated)
        k->affine(y, a, *(const float *)b, 0, (size_t)n);
    else if (op == CK_OP_ADD)
        k->add(y, a, b, (size_t)n);
    else
        k->multiply(y, a, b, (size_t)n);
}

static void run_binary(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    const ck_nn *k = call->state;
    ck_shape shape = ck_call_shape(call, 1);
    int64_t count = ck_shape_count(&n->shape);
    run_length r = run_length_of(&n->shape, &shape);
#pragma omp parallel for collapse(2) if (count > PIECE)
    for (int64_t i = 0; i < count / r.n; i++)
        for (int64_t begin = 0; begin < r.n; begin += PIECE) {
            int64_t at = i * r.n + begin, from = run_start(&n->shape, &shape, r.outer, i);
            combine(k, n->op, r.repeated, in(k, call->dst, at), of(k, call->src[0], at),
                    of(k, call->src[1], from + (r.repeated ? 0 : begin)),
                    least(PIECE, r.n - begin));
        }
}

static void run_geglu(const ck_call *call) {
    ck_shape s = ck_call_node(call)->shape;
    const ck_nn *k = call->state;
    int64_t c = last_of(&s), count = ck_shape_count(&s);
#pragma omp parallel for if (count > PIECE)
    for (int64_t r = 0; r < count / c; r++)
        k->geglu(in(k, call->dst, r * c), of(k, call->src[0], 2 * r * c),
                 of(k, call->src[0], (2 * r + 1) * c), (size_t)c);
}

static void run_geglu_grad(const ck_call *call) {
    ck_shape s = ck_call_shape(call, 1);
    const ck_nn *k = call->state;
    int64_t c = last_of(&s), count = ck_shape_count(&s);
    const void *x = call->src[0];
    void *dx = call->dst;
#pragma omp parallel for if (count > PIECE)
    for (int64_t r = 0; r < count / c; r++) {
        int64_t value = 2 * r * c, gate = value + c;
        k->geglu_grad(in(k, dx, value), in(k, dx, gate), of(k, x, value), of(k, x, gate),
                      of(k, call->src[1], r * c), (size_t)c);
    }
}

/* ---- Sums: over the middle of three dimensions ---- */

typedef struct summing {
    int64_t outer, n, inner;
    int64_t rows, pieces; /* of n */
} summing;

/* False when what is summed does not lie together. */
static bool find_summing(const ck_shape *a, const ck_shape *s, summing *v) {
    int first = 0, last = a->rank - 1;
    while (first < last && a->d[first] == s->d[first]) first++;
    while (last > first && a->d[last] == s->d[last]) last--;
    *v = (summing){.outer = 1, .n = 1, .inner = 1};
    for (int i = 0; i < a->rank; i++) {
        if (i >= first && i <= last && s->d[i] != 1) return false;
        *(i < first ? &v->outer : i > last ? &v->inner : &v->n) *= a->d[i];
    }
    v->rows = rows_of(least(v->inner, STRIP));
    v->pieces = pieces_of(v->n, v->rows);
    return true;
}

static bool takes_sum_to(const ck_graph *g, ck_node n) {
    summing v;
    ck_shape a = ck_node_shape(g, g->nodes[n].src[0]);
    return find_summing(&a, &g->nodes[n].shape, &v);
}

static size_t sum_to_scratch(const ck_graph *g, ck_node n) {
    summing v;
    ck_shape a = ck_node_shape(g, g->nodes[n].src[0]);
    find_summing(&a, &g->nodes[n].shape, &v);
    return (size_t)(v.outer * v.pieces * v.inner) * sizeof(double);
}

static void run_sum_to(const ck_call *call) {
    const ck_nn *k = call->state;
    ck_shape s = ck_call_shape(call, 0);
    summing v;
    find_summing(&s, &ck_call_node(call)->shape, &v);
    float *y = call->dst;
    double *sums = call->scratch;
#pragma omp parallel for collapse(2) if (v.outer * v.n * v.inner > PIECE)
    for (int64_t i = 0; i < v.outer * v.pieces; i++)
        for (int64_t begin = 0; begin < v.inner; begin += STRIP) {
            int64_t row = i % v.pieces * v.rows, rows = least(v.rows, v.n - row);
            const void *from = of(k, call->src[0], (i / v.pieces * v.n + row) * v.inner + begin);
            double *sum = sums + i * v.inner + begin;
            size_t width = (size_t)least(STRIP, v.inner - begin);
            memset(sum, 0, width * sizeof *sum);
            if (v.inner == 1)
                *sum = k->total(from, (size_t)rows);
            else
                k->columns(sum, NULL, from, (size_t)rows, width, (size_t)v.inner);
        }
#pragma omp parallel for if (v.outer * v.pieces * v.inner > PIECE)
    for (int64_t i = 0; i < v.outer * v.inner; i++) {
        const double *from = sums + i / v.inner * v.pieces * v.inner + i % v.inner;
        double sum = 0;
        for (int64_t p = 0; p < v.pieces; p++) sum += from[p * v.inner];
        y[i] = (float)sum;
    }
}

/* ---- Group norm ----
 *
 * Sums by channel for each piece of an image, then for each image, then for its groups. Scratch
 * memory: those sums, and what each channel of each image is to be normalised with. */

typedef struct groups {
    int64_t n, pixels, c, groups, width;  /* width: channels in a group */
    int64_t rows, pieces;                 /* of an image */
    double *sums;                         /* images x pieces x 2 x c */
    float *mean, *scale, *first, *second; /* images x c */
    float *zero;                          /* c: where there is no bias */
} groups;

static groups groups_of(const ck_graph *g, ck_node node) {
    const ck_graph_node *n = &g->nodes[node];
    ck_shape s = ck_node_shape(g, n->src[0]);
    int64_t c = last_of(&s);
    groups v = {.n = s.d[0], .c = c, .groups = n->i[0], .width = c / n->i[0], .rows = rows_of(c)};
    v.pixels = ck_shape_count(&s) / s.d[0] / c;
    v.pieces = pieces_of(v.pixels, v.rows);
    return v;
}

static size_t group_norm_scratch(const ck_graph *g, ck_node n) {
    groups v = groups_of(g, n);
    return (size_t)(v.n * v.pieces * 2 * v.c) * sizeof(double) +
           (size_t)((4 * v.n + 1) * v.c) * sizeof(float);
}

static groups groups_of_call(const ck_call *call) {
    groups v = groups_of(call->graph, call->node);
    v.sums = call->scratch;
    v.mean = (float *)(v.sums + v.n * v.pieces * 2 * v.c);
    v.scale = v.mean + v.n * v.c;
    v.first = v.scale + v.n * v.c;
    v.second = v.first + v.n * v.c;
    v.zero = v.second + v.n * v.c;
    memset(v.zero, 0, (size_t)v.c * sizeof *v.zero);
    return v;
}

static double *sums_of(const groups *v, int64_t piece) {
    return v->sums + piece * 2 * v->c;
}

/* Where a piece begins, and its rows. */
static int64_t piece_at(const groups *v, int64_t piece, size_t *rows) {
    int64_t row = piece % v->pieces * v->rows;
    *rows = (size_t)least(v->rows, v->pixels - row);
    return (piece / v->pieces * v->pixels + row) * v->c;
}

static ck_nn_norm norm_of(const ck_call *call, const groups *v, int64_t image) {
    const float *bias = call->src[2];
    return (ck_nn_norm){.mean = v->mean + image * v->c,
                        .scale = v->scale + image * v->c,
                        .gain = call->src[1],
                        .bias = bias ? bias : v->zero,
                        .n = (size_t)v->c,
                        .silu = ck_call_node(call)->i[1]};
}

/* The sums of an image's pieces, all added to those of its first. */
static double *gather_sums(const groups *v, int64_t image) {
    double *all = sums_of(v, image * v->pieces);
    for (int64_t p = 1; p < v->pieces; p++)
        for (int64_t i = 0; i < 2 * v->c; i++) all[i] += all[p * 2 * v->c + i];
    return all;
}

static void set_statistics(const groups *v, int64_t image, const float *statistics) {
    for (int64_t i = 0; i < v->c; i++) {
        const float *group = statistics + 2 * (image * v->groups + i / v->width);
        v->mean[image * v->c + i] = group[0];
        v->scale[image * v->c + i] = group[1];
    }
}

static void find_statistics(const groups *v, int64_t image, double eps, float *statistics) {
    const double *sum = gather_sums(v, image), *squares = sum + v->c;
    double count = (double)(v->pixels * v->width);
    for (int64_t g = 0; g < v->groups; g++) {
        double mean = 0, square = 0;
        for (int64_t i = g * v->width; i < (g + 1) * v->width; i++) {
            mean += sum[i] / count;
            square += squares[i] / count;
        }
        float *to = statistics + 2 * (image * v->groups + g);
        to[0] = (float)mean;
        to[1] = (float)(1 / sqrt(fmax(square - mean * mean, 0) + eps));
    }
    set_statistics(v, image, statistics);
}

static void run_group_norm(const ck_call *call) {
    const ck_nn *k = call->state;
    groups v = groups_of_call(call);
    int64_t count = v.n * v.pixels * v.c;
    float *statistics = ck_packed_rest(call->dst, count, k->element);
#pragma omp parallel if (count > PIECE)
    {
#pragma omp for
        for (int64_t p = 0; p < v.n * v.pieces; p++) {
            size_t rows;
            int64_t at = piece_at(&v, p, &rows);
            double *sum = sums_of(&v, p);
            memset(sum, 0, (size_t)(2 * v.c) * sizeof *sum);
            k->columns(sum, sum + v.c, of(k, call->src[0], at), rows, (size_t)v.c, (size_t)v.c);
        }
#pragma omp for
        for (int64_t n = 0; n < v.n; n++)
            find_statistics(&v, n, ck_call_node(call)->x[0], statistics);
#pragma omp for
        for (int64_t p = 0; p < v.n * v.pieces; p++) {
            size_t rows;
            int64_t at = piece_at(&v, p, &rows);
            ck_nn_norm norm = norm_of(call, &v, p / v.pieces);
            k->norm(&norm, in(k, call->dst, at), of(k, call->src[0], at), rows);
        }
    }
}

/* The means, by group, of gain dz and gain dz xhat. */
static void find_means(const groups *v, int64_t image, const float *gain) {
    const double *sum = gather_sums(v, image), *product = sum + v->c;
    double count = (double)(v->pixels * v->width);
    for (int64_t g = 0; g < v->groups; g++) {
        double first = 0, second = 0;
        for (int64_t i = g * v->width; i < (g + 1) * v->width; i++) {
            first += sum[i] * gain[i];
            second += product[i] * gain[i];
        }
        for (int64_t i = g * v->width; i < (g + 1) * v->width; i++) {
            v->first[image * v->c + i] = (float)(first / count);
            v->second[image * v->c + i] = (float)(second / count);
        }
    }
}

static void run_group_norm_grad(const ck_call *call) {
    const ck_nn *k = call->state;
    groups v = groups_of_call(call);
    int64_t count = v.n * v.pixels * v.c;
    bool silu = ck_call_node(call)->i[1];
    const void *x = call->src[0], *dy = call->src[4];
    const void *dz = silu ? call->dst : dy; /* kept where dx will be */
    const float *statistics = ck_packed_rest(call->src[3], count, k->element);
    float *dgain = ck_packed_rest(call->dst, count, k->element), *dbias = dgain + v.c;
#pragma omp parallel if (count > PIECE)
    {
#pragma omp for
        for (int64_t n = 0; n < v.n; n++) set_statistics(&v, n, statistics);
#pragma omp for
        for (int64_t p = 0; p < v.n * v.pieces; p++) {
            size_t rows;
            int64_t at = piece_at(&v, p, &rows);
            ck_nn_norm norm = norm_of(call, &v, p / v.pieces);
            double *sum = sums_of(&v, p);
            memset(sum, 0, (size_t)(2 * v.c) * sizeof *sum);
            if (silu) k->norm_slope(&norm, in(k, call->dst, at), of(k, x, at), of(k, dy, at), rows);
            k->norm_sums(&norm, sum, sum + v.c, of(k, x, at), of(k, dz, at), rows);
        }
#pragma omp for
        for (int64_t n = 0; n < v.n; n++) find_means(&v, n, call->src[1]);
#pragma omp for
        for (int64_t i = 0; i < v.c; i++) {
            double gain = 0, bias = 0;
            for (int64_t n = 0; n < v.n; n++) {
                bias += sums_of(&v, n * v.pieces)[i];
                gain += sums_of(&v, n * v.pieces)[v.c + i];
            }
            dgain[i] = (float)gain;
            dbias[i] = (float)bias;
        }
#pragma omp for
        for (int64_t p = 0; p < v.n * v.pieces; p++) {
            size_t rows;
            int64_t at = piece_at(&v, p, &rows), image = p / v.pieces;
            ck_nn_norm norm = norm_of(call, &v, image);
            k->norm_grad(&norm, in(k, call->dst, at), of(k, x, at), of(k, dz, at),
                         v.first + image * v.c, v.second + image * v.c, rows);
        }
    }
}

/* ---- Layer norm: scratch memory holds gain and bias where there are none, and the sums ---- */

typedef struct layer {
    int64_t n, c, rows, pieces;
    float *one, *zero; /* c */
    double *sums;      /* pieces x 2 x c */
} layer;

static layer layer_of(const ck_graph *g, ck_node n) {
    ck_shape s = ck_node_shape(g, g->nodes[n].src[0]);
    int64_t c = last_of(&s);
    layer v = {.n = ck_shape_count(&s) / c, .c = c, .rows = rows_of(c)};
    v.pieces = pieces_of(v.n, v.rows);
    return v;
}

static size_t layer_norm_scratch(const ck_graph *g, ck_node n) {
    layer v = layer_of(g, n);
    return (size_t)(v.pieces * 2 * v.c) * sizeof(double) + (size_t)(2 * v.c) * sizeof(float);
}

static layer layer_of_call(const ck_call *call) {
    layer v = layer_of(call->graph, call->node);
    v.sums = call->scratch;
    v.one = (float *)(v.sums + v.pieces * 2 * v.c);
    v.zero = v.one + v.c;
    for (int64_t i = 0; i < v.c; i++) v.one[i] = 1, v.zero[i] = 0;
    return v;
}

static void run_layer_norm(const ck_call *call) {
    const ck_nn *k = call->state;
    layer v = layer_of_call(call);
    double eps = ck_call_node(call)->x[0];
    const float *gain = call->src[1], *bias = call->src[2];
    float *statistics = ck_packed_rest(call->dst, v.n * v.c, k->element);
#pragma omp parallel for if (v.n * v.c > PIECE)
    for (int64_t r = 0; r < v.n; r += v.rows)
        k->layer_norm(in(k, call->dst, r * v.c), statistics + 2 * r, of(k, call->src[0], r * v.c),
                      gain ? gain : v.one, bias ? bias : v.zero, eps,
                      (size_t)least(v.rows, v.n - r), (size_t)v.c);
}

static void run_layer_norm_grad(const ck_call *call) {
    const ck_nn *k = call->state;
    layer v = layer_of_call(call);
    const float *gain = call->src[3];
    const float *statistics = ck_packed_rest(call->src[1], v.n * v.c, k->element);
    float *dgain = ck_packed_rest(call->dst, v.n * v.c, k->element), *dbias = dgain + v.c;
#pragma omp parallel for if (v.n * v.c > PIECE)
    for (int64_t p = 0; p < v.pieces; p++) {
        double *sum = v.sums + p * 2 * v.c;
        memset(sum, 0, (size_t)(2 * v.c) * sizeof *sum);
        int64_t r = p * v.rows, at = r * v.c;
        k->layer_norm_grad(in(k, call->dst, at), sum, sum + v.c, of(k, call->src[0], at),
                           of(k, call->src[2], at), gain ? gain : v.one, statistics + 2 * r,
                           (size_t)least(v.rows, v.n - r), (size_t)v.c);
    }
    for (int64_t i = 0; i < v.c; i++) {
        double products = 0, sums = 0;
        for (int64_t p = 0; p < v.pieces; p++) {
            products += v.sums[p * 2 * v.c + i];
            sums += v.sums[(p * 2 + 1) * v.c + i];
        }
        dgain[i] = (float)products;
        dbias[i] = (float)sums;
    }
}

/* ---- Sums of 2 x 2 pixels ---- */

static void run_upsample_grad(const ck_call *call) {
    const ck_nn *k = call->state;
    ck_shape s = ck_call_node(call)->shape;
    int64_t w = s.d[2], c = s.d[3], rows = s.d[0] * s.d[1];
#pragma omp parallel for if (4 * rows * w * c > PIECE)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t q = 0; q < w; q++) {
            int64_t upper = (4 * r * w + 2 * q) * c, lower = upper + 2 * w * c;
            const void *dy = call->src[0];
            k->add_four(in(k, call->dst, (r * w + q) * c), of(k, dy, upper), of(k, dy, upper + c),
                        of(k, dy, lower), of(k, dy, lower + c), (size_t)c);
        }
}

/* ---- The table ---- */

static const struct {
    void (*run)(const ck_call *call);
    bool (*takes)(const ck_graph *g, ck_node n);     /* NULL: all */
    size_t (*scratch)(const ck_graph *g, ck_node n); /* NULL: none */
    bool half_only;                                  /* of f32 the reference does it */
} own[CK_OP_COUNT] = {
    [CK_OP_UNARY] = {run_unary, takes_unary, NULL, false},
    [CK_OP_UNARY_GRAD] = {run_unary, takes_unary, NULL, false},
    [CK_OP_AFFINE] = {run_affine, NULL, NULL, false},
    [CK_OP_ADD] = {run_binary, NULL, NULL, false},
    [CK_OP_MUL] = {run_binary, NULL, NULL, false},
    [CK_OP_SUM_TO] = {run_sum_to, takes_sum_to, sum_to_scratch, false},
    [CK_OP_CONCAT] = {ck_simd__concat, NULL, NULL, false},
    [CK_OP_SLICE] = {ck_simd__slice, NULL, NULL, false},
    [CK_OP_PAD] = {ck_simd__pad, NULL, NULL, false},
    [CK_OP_UPSAMPLE] = {ck_simd__upsample, NULL, NULL, false},
    [CK_OP_UPSAMPLE_GRAD] = {run_upsample_grad, NULL, NULL, .half_only = true},
    [CK_OP_MATMUL] = {ck_simd__matmul, NULL, ck_simd__matmul_scratch, false},
    [CK_OP_CONV] = {ck_simd__conv, NULL, ck_simd__conv_scratch, false},
    [CK_OP_CONV_DATA_GRAD] = {ck_simd__conv_data_grad, NULL, ck_simd__conv_data_grad_scratch,
                              false},
    [CK_OP_CONV_WEIGHT_GRAD] = {ck_simd__conv_weight_grad, NULL, NULL, false},
    [CK_OP_GROUP_NORM] = {run_group_norm, NULL, group_norm_scratch, false},
    [CK_OP_GROUP_NORM_GRAD] = {run_group_norm_grad, NULL, group_norm_scratch, false},
    [CK_OP_LAYER_NORM] = {run_layer_norm, NULL, layer_norm_scratch, false},
    [CK_OP_LAYER_NORM_GRAD] = {run_layer_norm_grad, NULL, layer_norm_scratch, false},
    [CK_OP_GEGLU] = {run_geglu, NULL, NULL, false},
    [CK_OP_GEGLU_GRAD] = {run_geglu_grad, NULL, NULL, false},
};

bool ck_simd__takes_half(const ck_graph *g, ck_node n) {
    const ck_graph_node *at = &g->nodes[n];
    if (at->op == CK_OP_ADD) {
        ck_shape b = ck_node_shape(g, at->src[1]);
        return !run_length_of(&at->shape, &b).repeated;
    }
    return own[at->op].run && (!own[at->op].takes || own[at->op].takes(g, n));
}

ck_status ck_simd_prepare(const ck_graph *g, ck_node n, const bool *half, ck_kernel *kernel,
                          bool *done, ck_error *err) {
    ck_op op = g->nodes[n].op;
    ck_node source = g->nodes[n].src[0];
    bool halves = half && source != CK_NONE && half[source],
         attention = op == CK_OP_ATTENTION || op == CK_OP_ATTENTION_GRAD;
    *done = attention || (own[op].run && (!own[op].takes || own[op].takes(g, n)) &&
                          (halves || !own[op].half_only));
    if (!*done) return CK_OK;
    const ck_nn *k = halves ? ck_nn_amx_best()->half : ck_nn_best();
    if (!k) return ck_fail(err, CK_USAGE, "CK_ISA names no instruction set of this processor");
    if (attention) return ck_simd__attention(&k->attention, g, n, kernel, done, err);
    *kernel = (ck_kernel){.run = own[op].run,
                          .scratch = own[op].scratch ? own[op].scratch(g, n) : 0,
                          .state = (void *)k};
    return CK_OK;
}
