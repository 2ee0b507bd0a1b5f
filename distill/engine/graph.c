/* Building the graph: every function checks shapes and appends one node (or a few). */
#include "distill/engine/graph.h"

#include "io/os.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t count_of(const ck_graph *g, ck_node n) {
    return ck_shape_count(&g->nodes[n].shape);
}

static int64_t last_of(const ck_graph *g, ck_node n) {
    return g->nodes[n].shape.d[g->nodes[n].shape.rank - 1];
}

/* Whether b's dimensions are a's or 1. */
static bool repeats(const ck_shape *a, const ck_shape *b) {
    if (a->rank != b->rank) return false;
    for (int i = 0; i < a->rank; i++)
        if (b->d[i] != a->d[i] && b->d[i] != 1) return false;
    return true;
}

static bool has_axis(const ck_graph *g, ck_node n, int axis) {
    return axis >= 0 && axis < g->nodes[n].shape.rank;
}

/* Whether an optional gain or bias has one number for each channel. */
static bool per_channel(const ck_graph *g, ck_node n, int64_t channels) {
    return n == CK_NONE || count_of(g, n) == channels;
}

/* ---- The graph ---- */

ck_graph *ck_graph_new(void) {
    return ck_alloc(sizeof(ck_graph));
}

void ck_graph_free(ck_graph *g) {
    if (!g) return;
    for (size_t i = 0; i < g->count; i++) free((char *)g->nodes[i].name);
    free(g->weights);
    free(g->nodes);
    free(g);
}

ck_status ck_graph_check(const ck_graph *g, ck_error *err) {
    if (g->error.status != CK_OK) *err = g->error;
    return g->error.status;
}

ck_node ck_graph_fail(ck_graph *g, ck_status status, const char *format, ...) {
    if (g->error.status == CK_OK) {
        va_list args;
        va_start(args, format);
        g->error.status = status;
        vsnprintf(g->error.message, sizeof g->error.message, format, args);
        va_end(args);
    }
    return CK_NONE;
}

static bool bad(const ck_graph *g) {
    return g->error.status != CK_OK;
}

static ck_node misfit(ck_graph *g, ck_op op, ck_node a, ck_node b) {
    char sa[64], sb[64];
    ck_shape x = ck_node_shape(g, a), y = ck_node_shape(g, b);
    return ck_graph_fail(g, CK_INPUT, "%s: shapes %s and %s do not fit", ck_op_name(op),
                         ck_shape_text(&x, sa, sizeof sa), ck_shape_text(&y, sb, sizeof sb));
}

/* Whether every dimension counts something, and the bytes of it all can be counted. */
static bool is_shape(const ck_shape *s) {
    int64_t n = 16; /* more than the bytes of an element */
    if (s->rank < 1 || s->rank > CK_MAX_DIMS) return false;
    for (int i = 0; i < s->rank; i++)
        if (s->d[i] < 1 || __builtin_mul_overflow(n, s->d[i], &n)) return false;
    return true;
}

/* Ids are looked up and shown in other shapes; all else is done to numbers. */
static bool takes_ids(ck_op op, int source) {
    return op == CK_OP_VIEW || (op == CK_OP_EMBED && source == 1) ||
           (op == CK_OP_EMBED_GRAD && source == 0);
}

ck_node ck_append(ck_graph *g, ck_graph_node node) {
    if (bad(g)) return CK_NONE;
    char text[96];
    if (!is_shape(&node.shape))
        return ck_graph_fail(g, CK_INPUT, "%s: a result of shape %s", ck_op_name(node.op),
                             ck_shape_text(&node.shape, text, sizeof text));
    for (int s = 0; s < CK_MAX_SRC; s++)
        if (node.src[s] != CK_NONE && g->nodes[node.src[s]].dtype == CK_I32 &&
            !takes_ids(node.op, s))
            return ck_graph_fail(g, CK_INPUT, "%s: of ids, not of numbers", ck_op_name(node.op));
    ck_graph_node *grown = ck_grow(g->nodes, g->count, &g->capacity, sizeof *grown);
    if (!grown || g->count >= INT32_MAX)
        return ck_graph_fail(g, CK_MEMORY, "out of memory: graph of %zu nodes", g->count);
    g->nodes = grown;
    node.block = g->block;
    node.original = (ck_node)g->count;
    g->nodes[g->count] = node;
    return (ck_node)g->count++;
}

/* A node with sources only; the caller fills in the rest. */
static ck_graph_node node_of(ck_op op, ck_shape shape, ck_node a, ck_node b, ck_node c) {
    return (ck_graph_node){
        .op = op, .dtype = CK_F32, .shape = shape, .src = {a, b, c, CK_NONE, CK_NONE, CK_NONE}};
}

/* What is given is never recomputed: no block. */
static ck_node leaf(ck_graph *g, ck_graph_node node, const char *name) {
    if (bad(g)) return CK_NONE;
    node.name = ck_strdup(name);
    if (!node.name) return ck_graph_fail(g, CK_MEMORY, "out of memory: '%s'", name);
    int block = g->block;
    g->block = 0;
    ck_node n = ck_append(g, node);
    g->block = block;
    if (n == CK_NONE) free((char *)node.name);
    return n;
}

ck_node ck_input(ck_graph *g, const char *name, ck_dtype dtype, ck_shape shape) {
    ck_graph_node n = node_of(CK_OP_INPUT, shape, CK_NONE, CK_NONE, CK_NONE);
    n.dtype = dtype;
    return leaf(g, n, name);
}

ck_node ck_param(ck_graph *g, ck_params *params, const char *name, ck_shape shape) {
    if (bad(g)) return CK_NONE;
    ck_graph_node n = node_of(CK_OP_PARAM, shape, CK_NONE, CK_NONE, CK_NONE);
    n.params = params;
    if (ck_params_need(params, name, shape.rank, shape.d, &n.param, &g->error) != CK_OK)
        return CK_NONE;
    for (size_t i = 0; i < g->weight_count; i++)
        if (g->weights[i].params == params && g->weights[i].param == n.param)
            return g->weights[i].node;
    ck_graph_weight *grown =
        ck_grow(g->weights, g->weight_count, &g->weight_capacity, sizeof *grown);
    if (!grown) return ck_graph_fail(g, CK_MEMORY, "out of memory: '%s'", name);
    g->weights = grown;
    ck_node node = leaf(g, n, name);
    if (node != CK_NONE) grown[g->weight_count++] = (ck_graph_weight){params, n.param, node};
    return node;
}

bool ck_graph_trains(const ck_graph *g, ck_node weight) {
    for (size_t i = (size_t)weight + 1; i < g->count; i++)
        for (int k = 0; k < CK_MAX_SRC; k++)
            if (g->nodes[i].src[k] == weight && !g->nodes[i].detached) return true;
    return false;
}

bool ck_param_exists(const ck_params *params, const char *format, ...) {
    char name[256];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    return ck_params_has(params, name);
}

ck_node ck_const(ck_graph *g, ck_shape shape, double value) {
    ck_graph_node n = node_of(CK_OP_CONST, shape, CK_NONE, CK_NONE, CK_NONE);
    n.x[0] = value;
    return ck_append(g, n);
}

void ck_block_begin(ck_graph *g) {
    g->block = ++g->blocks;
}

void ck_block_end(ck_graph *g) {
    g->block = 0;
}

/* ---- Shapes of arrays ---- */

ck_node ck_view(ck_graph *g, ck_node a, int64_t offset, ck_shape shape) {
    if (bad(g)) return CK_NONE;
    ck_graph_node n = node_of(CK_OP_VIEW, shape, a, CK_NONE, CK_NONE);
    if (offset < 0 || offset + ck_shape_count(&shape) > count_of(g, a))
        return misfit(g, CK_OP_VIEW, a, CK_NONE);
    n.i[0] = offset;
    n.dtype = g->nodes[a].dtype;
    return ck_append(g, n);
}

ck_node ck_reshape(ck_graph *g, ck_node a, ck_shape shape) {
    if (bad(g)) return CK_NONE;
    if (ck_shape_count(&shape) != count_of(g, a)) return misfit(g, CK_OP_VIEW, a, CK_NONE);
    return ck_view(g, a, 0, shape);
}

ck_node ck_detach(ck_graph *g, ck_node a) {
    ck_node n = ck_reshape(g, a, ck_node_shape(g, a));
    if (n != CK_NONE) g->nodes[n].detached = true;
    return n;
}

ck_node ck_permute(ck_graph *g, ck_node a, const int order[]) {
    if (bad(g)) return CK_NONE;
    ck_graph_node n = node_of(CK_OP_PERMUTE, g->nodes[a].shape, a, CK_NONE, CK_NONE);
    int taken = 0;
    for (int i = 0; i < n.shape.rank; i++) {
        if (!has_axis(g, a, order[i]) || taken >> order[i] & 1)
            return misfit(g, CK_OP_PERMUTE, a, CK_NONE);
        taken |= 1 << order[i];
        n.shape.d[i] = g->nodes[a].shape.d[order[i]];
        n.i[i] = order[i];
    }
    return ck_append(g, n);
}

ck_node ck_concat(ck_graph *g, ck_node a, ck_node b, int axis) {
    if (bad(g)) return CK_NONE;
    if (!has_axis(g, a, axis) || !has_axis(g, b, axis)) return misfit(g, CK_OP_CONCAT, a, b);
    ck_shape x = g->nodes[a].shape, y = g->nodes[b].shape;
    int64_t joined = x.d[axis] + y.d[axis];
    y.d[axis] = x.d[axis];
    if (!ck_shape_equal(&x, &y)) return misfit(g, CK_OP_CONCAT, a, b);
    x.d[axis] = joined;
    ck_graph_node n = node_of(CK_OP_CONCAT, x, a, b, CK_NONE);
    n.i[0] = axis;
    return ck_append(g, n);
}

ck_node ck_slice(ck_graph *g, ck_node a, int axis, int64_t begin, int64_t count) {
    if (bad(g)) return CK_NONE;
    ck_graph_node n = node_of(CK_OP_SLICE, g->nodes[a].shape, a, CK_NONE, CK_NONE);
    if (!has_axis(g, a, axis) || begin < 0 || count < 1 || begin + count > n.shape.d[axis])
        return misfit(g, CK_OP_SLICE, a, CK_NONE);
    n.shape.d[axis] = count;
    n.i[0] = axis, n.i[1] = begin;
    return ck_append(g, n);
}

ck_node ck_pad(ck_graph *g, ck_node a, int axis, int64_t begin, int64_t count) {
    if (bad(g)) return CK_NONE;
    ck_graph_node n = node_of(CK_OP_PAD, g->nodes[a].shape, a, CK_NONE, CK_NONE);
    if (!has_axis(g, a, axis) || begin < 0 || begin + n.shape.d[axis] > count)
        return misfit(g, CK_OP_PAD, a, CK_NONE);
    n.shape.d[axis] = count;
    n.i[0] = axis, n.i[1] = begin;
    return ck_append(g, n);
}

ck_node ck_sum_to(ck_graph *g, ck_node a, ck_shape shape) {
    if (bad(g)) return CK_NONE;
    if (ck_shape_equal(&shape, &g->nodes[a].shape)) return a;
    if (!repeats(&g->nodes[a].shape, &shape)) return misfit(g, CK_OP_SUM_TO, a, CK_NONE);
    return ck_append(g, node_of(CK_OP_SUM_TO, shape, a, CK_NONE, CK_NONE));
}

ck_node ck_expand(ck_graph *g, ck_node a, ck_shape shape) {
    if (bad(g)) return CK_NONE;
    if (ck_shape_equal(&shape, &g->nodes[a].shape)) return a;
    if (!repeats(&shape, &g->nodes[a].shape)) return misfit(g, CK_OP_EXPAND, a, CK_NONE);
    return ck_append(g, node_of(CK_OP_EXPAND, shape, a, CK_NONE, CK_NONE));
}

/* ---- Arithmetic ---- */

ck_node ck_unary_op(ck_graph *g, ck_unary f, ck_node a, double parameter) {
    if (bad(g)) return CK_NONE;
    ck_graph_node n = node_of(CK_OP_UNARY, g->nodes[a].shape, a, CK_NONE, CK_NONE);
    n.i[0] = f;
    n.x[0] = parameter;
    return ck_append(g, n);
}

ck_node ck_affine(ck_graph *g, ck_node a, double factor, double offset) {
    if (bad(g)) return CK_NONE;
    ck_graph_node n = node_of(CK_OP_AFFINE, g->nodes[a].shape, a, CK_NONE, CK_NONE);
    n.x[0] = factor, n.x[1] = offset;
    return ck_append(g, n);
}

ck_node ck_inner(ck_graph *g, ck_node a) {
    if (a != CK_NONE) g->nodes[a].inner = true;
    return a;
}

static ck_node binary(ck_graph *g, ck_op op, ck_node a, ck_node b) {
    if (bad(g)) return CK_NONE;
    if (!repeats(&g->nodes[a].shape, &g->nodes[b].shape)) return misfit(g, op, a, b);
    return ck_append(g, node_of(op, g->nodes[a].shape, a, b, CK_NONE));
}

ck_node ck_add(ck_graph *g, ck_node a, ck_node b) {
    return binary(g, CK_OP_ADD, a, b);
}

ck_node ck_mul(ck_graph *g, ck_node a, ck_node b) {
    return binary(g, CK_OP_MUL, a, b);
}

ck_node ck_sub(ck_graph *g, ck_node a, ck_node b) {
    return ck_add(g, a, ck_affine(g, b, -1, 0));
}

ck_node ck_mean(ck_graph *g, ck_node a) {
    if (bad(g)) return CK_NONE;
    int64_t n = count_of(g, a);
    ck_node flat = ck_reshape(g, a, CK_SHAPE(n));
    return ck_affine(g, ck_sum_to(g, flat, CK_SHAPE(1)), 1. / (double)n, 0);
}

/* ---- Layers ---- */

ck_node ck_matmul(ck_graph *g, ck_node a, ck_node b, bool ta, bool tb, ck_node row) {
    if (bad(g)) return CK_NONE;
    ck_shape x = g->nodes[a].shape, y = g->nodes[b].shape;
    if (x.rank != 2 || y.rank != 2 || x.d[!ta] != y.d[tb]) return misfit(g, CK_OP_MATMUL, a, b);
    if (!per_channel(g, row, y.d[!tb])) return misfit(g, CK_OP_MATMUL, b, row);
    ck_graph_node n = node_of(CK_OP_MATMUL, CK_SHAPE(x.d[ta], y.d[!tb]), a, b, row);
    n.i[0] = ta, n.i[1] = tb;
    return ck_append(g, n);
}

ck_node ck_linear(ck_graph *g, ck_node x, ck_node w, ck_node bias) {
    if (bad(g)) return CK_NONE;
    ck_shape shape = g->nodes[x].shape;
    int64_t k = last_of(g, x);
    ck_node flat = shape.rank == 2 ? x : ck_reshape(g, x, CK_SHAPE(count_of(g, x) / k, k));
    ck_node y = ck_matmul(g, flat, w, false, true, bias);
    if (bad(g) || shape.rank == 2) return y;
    shape.d[shape.rank - 1] = last_of(g, y);
    return ck_reshape(g, y, shape);
}

/* Larger ones oneDNN counts wrongly, and dies of it, or writes code without end for. */
static bool is_image_size(int64_t height, int64_t width) {
    return height <= 65536 && width <= 65536 && height * width < (int64_t)1 << 31;
}

ck_node ck_conv(ck_graph *g, ck_node x, ck_node w, ck_node bias, int stride, const int pad[4]) {
    if (bad(g)) return CK_NONE;
    ck_shape s = g->nodes[x].shape, k = g->nodes[w].shape;
    if (s.rank != 4 || k.rank != 4 || s.d[3] != k.d[3]) return misfit(g, CK_OP_CONV, x, w);
    if (!is_image_size(s.d[1], s.d[2]))
        return ck_graph_fail(
            g, CK_USAGE,
            "images of %lld x %lld are too large: convolutions take sides of up to 65536 "
            "and fewer than 2^31 pixels",
            (long long)s.d[2], (long long)s.d[1]);
    if (!per_channel(g, bias, k.d[0])) return misfit(g, CK_OP_CONV, w, bias);
    int64_t below = s.d[1] + pad[0] + pad[2] - k.d[1], right = s.d[2] + pad[1] + pad[3] - k.d[2];
    if (stride < 1 || below < 0 || right < 0) return misfit(g, CK_OP_CONV, x, w);
    ck_shape y = CK_SHAPE(s.d[0], below / stride + 1, right / stride + 1, k.d[0]);
    ck_graph_node n = node_of(CK_OP_CONV, y, x, w, bias);
    n.i[0] = stride, n.i[1] = pad[0], n.i[2] = pad[1];
    return ck_append(g, n);
}

/* Appends a packed node and returns the view of its first part, of the given shape. */
static ck_node first_part(ck_graph *g, ck_graph_node n, ck_shape shape) {
    ck_node packed = ck_append(g, n);
    return packed == CK_NONE ? CK_NONE : ck_view(g, packed, 0, shape);
}

ck_node ck_group_norm(ck_graph *g, ck_node x, ck_node gain, ck_node bias, int groups, double eps,
                      bool silu) {
    if (bad(g)) return CK_NONE;
    ck_shape s = g->nodes[x].shape;
    if (s.rank < 2 || groups < 1 || last_of(g, x) % groups || count_of(g, gain) != last_of(g, x))
        return misfit(g, CK_OP_GROUP_NORM, x, gain);
    if (!per_channel(g, bias, last_of(g, x))) return misfit(g, CK_OP_GROUP_NORM, x, bias);
    int64_t total = count_of(g, x) + 2 * s.d[0] * groups;
    ck_graph_node n = node_of(CK_OP_GROUP_NORM, CK_SHAPE(total), x, gain, bias);
    n.i[0] = groups, n.i[1] = silu;
    n.x[0] = eps;
    return first_part(g, n, s);
}

ck_node ck_layer_norm(ck_graph *g, ck_node x, ck_node gain, ck_node bias, double eps) {
    if (bad(g)) return CK_NONE;
    ck_shape s = g->nodes[x].shape;
    int64_t rows = count_of(g, x) / last_of(g, x);
    if (!per_channel(g, gain, last_of(g, x))) return misfit(g, CK_OP_LAYER_NORM, x, gain);
    if (!per_channel(g, bias, last_of(g, x))) return misfit(g, CK_OP_LAYER_NORM, x, bias);
    ck_graph_node n = node_of(CK_OP_LAYER_NORM, CK_SHAPE(count_of(g, x) + 2 * rows), x, gain, bias);
    n.x[0] = eps;
    return first_part(g, n, s);
}

ck_node ck_geglu(ck_graph *g, ck_node x) {
    if (bad(g)) return CK_NONE;
    ck_shape s = g->nodes[x].shape;
    if (s.d[s.rank - 1] % 2) return misfit(g, CK_OP_GEGLU, x, CK_NONE);
    s.d[s.rank - 1] /= 2;
    return ck_append(g, node_of(CK_OP_GEGLU, s, x, CK_NONE, CK_NONE));
}

ck_node ck_attention(ck_graph *g, ck_node q, ck_node k, ck_node v, int heads, bool causal,
                     double scale) {
    if (bad(g)) return CK_NONE;
    ck_shape s = g->nodes[q].shape, t = g->nodes[k].shape;
    if (s.rank != 3 || t.rank != 3 || s.d[0] != t.d[0] || s.d[2] != t.d[2] || heads < 1 ||
        s.d[2] % heads || !ck_shape_equal(&t, &g->nodes[v].shape) || (causal && s.d[1] != t.d[1]))
        return misfit(g, CK_OP_ATTENTION, q, k);
    if (s.d[2] / heads > CK_MAX_HEAD)
        return ck_graph_fail(g, CK_INPUT, "%s: heads of %lld channels, at most %d are done",
                             ck_op_name(CK_OP_ATTENTION), (long long)(s.d[2] / heads), CK_MAX_HEAD);
    int64_t total = count_of(g, q) + s.d[0] * s.d[1] * heads;
    ck_graph_node n = node_of(CK_OP_ATTENTION, CK_SHAPE(total), q, k, v);
    n.i[0] = heads, n.i[1] = causal;
    n.x[0] = scale;
    return first_part(g, n, s);
}

ck_node ck_softmax(ck_graph *g, ck_node x) {
    if (bad(g)) return CK_NONE;
    return ck_append(g, node_of(CK_OP_SOFTMAX, g->nodes[x].shape, x, CK_NONE, CK_NONE));
}

ck_node ck_upsample(ck_graph *g, ck_node x) {
    if (bad(g)) return CK_NONE;
    ck_shape s = g->nodes[x].shape;
    if (s.rank != 4) return misfit(g, CK_OP_UPSAMPLE, x, CK_NONE);
    s.d[1] *= 2, s.d[2] *= 2;
    return ck_append(g, node_of(CK_OP_UPSAMPLE, s, x, CK_NONE, CK_NONE));
}

ck_node ck_embed(ck_graph *g, ck_node table, ck_node ids) {
    if (bad(g)) return CK_NONE;
    ck_shape s = g->nodes[ids].shape;
    if (s.rank >= CK_MAX_DIMS || g->nodes[table].shape.rank != 2 || g->nodes[ids].dtype != CK_I32)
        return misfit(g, CK_OP_EMBED, table, ids);
    s.d[s.rank++] = last_of(g, table);
    return ck_append(g, node_of(CK_OP_EMBED, s, table, ids, CK_NONE));
}

ck_node ck_timestep(ck_graph *g, ck_node t, int dim, bool flip, double shift, double period) {
    if (bad(g)) return CK_NONE;
    if (dim < 2 || dim % 2 || shift >= dim / 2)
        return ck_graph_fail(g, CK_INPUT, "%s: %d numbers, shifted by %g",
                             ck_op_name(CK_OP_TIMESTEP), dim, shift);
    ck_graph_node n = node_of(CK_OP_TIMESTEP, CK_SHAPE(count_of(g, t), dim), t, CK_NONE, CK_NONE);
    n.i[0] = flip;
    n.x[0] = shift, n.x[1] = period;
    return ck_append(g, n);
}
