/* From nodes to kernels of a GPU, see operations.h. */
#include "distill/engine/cuda/operations.h"

#include "io/os.h"

#include <stdlib.h>
#include <string.h>

typedef struct prepared {
    const ck_gpu_library *library;
} prepared;

static const ck_gpu_library *library_of(const ck_call *call) {
    return ((const prepared *)call->state)->library;
}

static ck_gpu_stream stream_of(const ck_call *call) {
    return library_of(call)->stream;
}

static int64_t count_of(const ck_call *call) {
    return ck_shape_count(&ck_call_node(call)->shape);
}

static int64_t last_of(ck_shape s) {
    return s.d[s.rank - 1];
}

/* ---- Element by element ---- */

static void run_const(const ck_call *call) {
    ck_gpu_fill(stream_of(call), call->dst, (float)ck_call_node(call)->x[0], count_of(call));
}

static ck_gpu_function function_of(const ck_call *call) {
    static const ck_gpu_function functions[] = {
        [CK_SILU] = CK_GPU_SILU,
        [CK_GELU] = CK_GPU_GELU,
        [CK_GELU_TANH] = CK_GPU_GELU_TANH,
        [CK_QUICK_GELU] = CK_GPU_QUICK_GELU,
        [CK_SQRT] = CK_GPU_SQRT,
        [CK_RECIPROCAL] = CK_GPU_RECIPROCAL,
        [CK_EXP] = CK_GPU_EXP,
        [CK_HUBER] = CK_GPU_HUBER,
    };
    return functions[ck_call_node(call)->i[0]];
}

static void run_unary(const ck_call *call) {
    ck_gpu_unary(stream_of(call), function_of(call), call->dst, call->src[0], count_of(call),
                 (float)ck_call_node(call)->x[0]);
}

static void run_unary_grad(const ck_call *call) {
    ck_gpu_unary_grad(stream_of(call), function_of(call), call->dst, call->src[0], call->src[1],
                      count_of(call), (float)ck_call_node(call)->x[0]);
}

static void run_affine(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    ck_gpu_affine(stream_of(call), call->dst, call->src[0], (float)n->x[0], (float)n->x[1],
                  count_of(call));
}

static void run_geglu(const ck_call *call) {
    int64_t c = last_of(ck_call_node(call)->shape);
    ck_gpu_geglu(stream_of(call), call->dst, call->src[0], count_of(call) / c, c);
}

static void run_geglu_grad(const ck_call *call) {
    ck_shape s = ck_call_shape(call, 1);
    int64_t c = last_of(s);
    ck_gpu_geglu_grad(stream_of(call), call->dst, call->src[0], call->src[1],
                      ck_shape_count(&s) / c, c);
}

/* ---- Shapes ---- */

static void contiguous(const ck_shape *s, int64_t *distance) {
    int64_t n = 1;
    for (int i = s->rank; i-- > 0; n *= s->d[i]) distance[i] = n;
}

/* The same, but standing still along dimensions of 1. */
static void repeated(const ck_shape *s, int64_t *distance) {
    contiguous(s, distance);
    for (int i = 0; i < s->rank; i++)
        if (s->d[i] == 1) distance[i] = 0;
}

/* Over the elements of s, which y has one after the other. */
static ck_gpu_walk walk_over(ck_shape s) {
    ck_gpu_walk w = {.rank = s.rank};
    memcpy(w.d, s.d, sizeof w.d);
    contiguous(&s, w.y);
    return w;
}

static void run_binary(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    ck_shape other = ck_call_shape(call, 1);
    ck_gpu_walk w = walk_over(n->shape);
    repeated(&other, w.x);
    ck_gpu_binary(stream_of(call), n->op == CK_OP_ADD, call->dst, call->src[0], call->src[1], &w);
}

static void run_expand(const ck_call *call) {
    ck_shape from = ck_call_shape(call, 0);
    ck_gpu_walk w = walk_over(ck_call_node(call)->shape);
    repeated(&from, w.x);
    ck_gpu_copy(stream_of(call), call->dst, call->src[0], &w);
}

static void run_permute(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    ck_shape from = ck_call_shape(call, 0);
    ck_gpu_walk w = walk_over(n->shape);
    int64_t distance[CK_MAX_DIMS];
    contiguous(&from, distance);
    for (int i = 0; i < n->shape.rank; i++) w.x[i] = distance[n->i[i]];
    ck_gpu_copy(stream_of(call), call->dst, call->src[0], &w);
}

/* All of `part`, between an array of shape `whole` and one that has nothing else. at: where the
 * part begins along the axis. into: the whole is what is written. */
static void copy_part(const ck_call *call, ck_shape whole, ck_shape part, int64_t axis, int64_t at,
                      bool into, float *y, const float *x) {
    ck_gpu_walk w = walk_over(part);
    int64_t distance[CK_MAX_DIMS];
    contiguous(&whole, distance);
    memcpy(w.x, w.y, sizeof w.x);
    memcpy(into ? w.y : w.x, distance, (size_t)whole.rank * sizeof *distance);
    int64_t begin = at * distance[axis];
    ck_gpu_copy(stream_of(call), y + (into ? begin : 0), x + (into ? 0 : begin), &w);
}

static void run_concat(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    ck_shape a = ck_call_shape(call, 0), b = ck_call_shape(call, 1);
    copy_part(call, n->shape, a, n->i[0], 0, true, call->dst, call->src[0]);
    copy_part(call, n->shape, b, n->i[0], a.d[n->i[0]], true, call->dst, call->src[1]);
}

static void run_slice(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    copy_part(call, ck_call_shape(call, 0), n->shape, n->i[0], n->i[1], false, call->dst,
              call->src[0]);
}

static void run_pad(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    ck_gpu_fill(stream_of(call), call->dst, 0, count_of(call));
    copy_part(call, n->shape, ck_call_shape(call, 0), n->i[0], n->i[1], true, call->dst,
              call->src[0]);
}

/* The dimensions that stay, and those that are summed. */
static void sum_walks(const ck_graph *g, ck_node node, ck_gpu_walk *outer, ck_gpu_walk *inner) {
    const ck_graph_node *n = &g->nodes[node];
    ck_shape from = ck_node_shape(g, n->src[0]);
    int64_t distance[CK_MAX_DIMS];
    contiguous(&from, distance);
    *outer = (ck_gpu_walk){.rank = from.rank};
    *inner = *outer;
    for (int i = 0; i < from.rank; i++) {
        bool summed = n->shape.d[i] == 1;
        outer->d[i] = n->shape.d[i];
        inner->d[i] = summed ? from.d[i] : 1;
        outer->x[i] = inner->x[i] = distance[i];
    }
}

static void run_sum_to(const ck_call *call) {
    ck_gpu_walk outer, inner;
    sum_walks(call->graph, call->node, &outer, &inner);
    ck_gpu_sum(stream_of(call), call->dst, call->src[0], &outer, &inner, call->scratch);
}

static size_t sum_scratch(const ck_graph *g, ck_node node) {
    ck_gpu_walk outer, inner;
    sum_walks(g, node, &outer, &inner);
    return ck_gpu_sum_scratch(&outer, &inner);
}

static void run_upsample(const ck_call *call) {
    ck_shape s = ck_call_shape(call, 0);
    ck_gpu_upsample(stream_of(call), call->dst, call->src[0], s.d[0] * s.d[1], s.d[2], s.d[3]);
}

static void run_upsample_grad(const ck_call *call) {
    ck_shape s = ck_call_node(call)->shape;
    ck_gpu_upsample_grad(stream_of(call), call->dst, call->src[0], s.d[0] * s.d[1], s.d[2], s.d[3]);
}

static void run_embed(const ck_call *call) {
    ck_shape table = ck_call_shape(call, 0), ids = ck_call_shape(call, 1);
    ck_gpu_embed(stream_of(call), call->dst, call->src[0], call->src[1], ck_shape_count(&ids),
                 table.d[0], table.d[1]);
}

static void run_embed_grad(const ck_call *call) {
    ck_shape ids = ck_call_shape(call, 0), table = ck_call_node(call)->shape;
    ck_gpu_embed_grad(stream_of(call), call->dst, call->src[0], call->src[1], ck_shape_count(&ids),
                      table.d[0], table.d[1]);
}

static void run_timestep(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    ck_gpu_timestep(stream_of(call), call->dst, call->src[0], n->shape.d[0], n->shape.d[1] / 2,
                    n->i[0], (float)n->x[0], (float)n->x[1]);
}

/* ---- Norms ---- */

static ck_gpu_norm group_norm_of(const ck_graph *g, ck_node node) {
    const ck_graph_node *n = &g->nodes[node];
    ck_shape s = ck_node_shape(g, n->src[0]);
    int64_t c = last_of(s);
    return (ck_gpu_norm){.n = s.d[0],
                         .pixels = ck_shape_count(&s) / s.d[0] / c,
                         .channels = c,
                         .groups = n->i[0],
                         .silu = n->i[1]};
}

static ck_gpu_norm layer_norm_of(const ck_graph *g, ck_node node) {
    ck_shape s = ck_node_shape(g, g->nodes[node].src[0]);
    int64_t c = last_of(s);
    return (ck_gpu_norm){.n = ck_shape_count(&s) / c, .pixels = 1, .channels = c, .groups = 1};
}

static void forward(const ck_call *call, ck_gpu_norm v) {
    float *y = call->dst;
    v.x = call->src[0], v.gain = call->src[1], v.bias = call->src[2];
    ck_gpu_norm_forward(stream_of(call), &v, (float)ck_call_node(call)->x[0], y,
                        y + v.n * v.pixels * v.channels);
}

static void backward(const ck_call *call, const ck_gpu_norm *v, const float *packed,
                     const float *dy) {
    int64_t n = v->n * v->pixels * v->channels;
    float *dx = call->dst;
    ck_gpu_norm_backward(stream_of(call), v, packed + n, dy, dx, dx + n, dx + n + v->channels,
                         call->scratch);
}

static void run_group_norm(const ck_call *call) {
    forward(call, group_norm_of(call->graph, call->node));
}

static void run_layer_norm(const ck_call *call) {
    forward(call, layer_norm_of(call->graph, call->node));
}

static void run_group_norm_grad(const ck_call *call) {
    ck_gpu_norm v = group_norm_of(call->graph, call->node);
    v.x = call->src[0], v.gain = call->src[1], v.bias = call->src[2];
    backward(call, &v, call->src[3], call->src[4]);
}

static void run_layer_norm_grad(const ck_call *call) {
    ck_gpu_norm v = layer_norm_of(call->graph, call->node);
    v.x = call->src[0], v.gain = call->src[3];
    backward(call, &v, call->src[1], call->src[2]);
}

static size_t group_norm_scratch(const ck_graph *g, ck_node n) {
    ck_gpu_norm v = group_norm_of(g, n);
    return ck_gpu_norm_scratch(&v);
}

static size_t layer_norm_scratch(const ck_graph *g, ck_node n) {
    ck_gpu_norm v = layer_norm_of(g, n);
    return ck_gpu_norm_scratch(&v);
}

/* ---- Products ---- */

static void run_matmul(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    const ck_gpu_library *l = library_of(call);
    ck_shape a = ck_call_shape(call, 0);
    bool ta = n->i[0];
    ck_gpu_product p = {ta, n->i[1], n->shape.d[0], n->shape.d[1], a.d[!ta], 1};
    l->matmul(l, &p, call->src[0], call->src[1], call->src[2], call->dst);
}

static void run_softmax(const ck_call *call) {
    int64_t c = last_of(ck_call_node(call)->shape), rows = count_of(call) / c;
    ck_gpu_affine(stream_of(call), call->dst, call->src[0], 1, 0, rows * c);
    ck_gpu_softmax(stream_of(call), call->dst, call->scratch, rows, rows, c, 1, false);
}

static size_t softmax_scratch(const ck_graph *g, ck_node n) {
    const ck_shape *s = &g->nodes[n].shape;
    return (size_t)(ck_shape_count(s) / last_of(*s));
}

/* ---- Attention: heads one after the other, as many as fit the scratch, scores in between ---- */

enum { MOST_SCORES = 64 << 20 }; /* floats */

typedef struct attention {
    int64_t n, queries, keys, channels, heads, width;
    int64_t some; /* images at once */
    float scale;
    bool causal;
} attention;

static attention attention_of(const ck_graph *g, ck_node node) {
    const ck_graph_node *n = &g->nodes[node];
    ck_shape q = ck_node_shape(g, n->src[0]), k = ck_node_shape(g, n->src[1]);
    attention a = {.n = q.d[0],
                   .queries = q.d[1],
                   .keys = k.d[1],
                   .channels = q.d[2],
                   .heads = n->i[0],
                   .width = q.d[2] / n->i[0],
                   .scale = (float)n->x[0],
                   .causal = n->i[1]};
    int64_t scores = a.heads * a.queries * a.keys;
    a.some = scores < MOST_SCORES ? MOST_SCORES / scores : 1;
    if (a.some > a.n) a.some = a.n;
    return a;
}

/* Tokens x heads x width of `images`, and heads x tokens x width: one to the other. */
static void swap_heads(const ck_call *call, const attention *a, int64_t images, int64_t tokens,
                       bool apart, float *y, const float *x) {
    ck_gpu_walk w = {.rank = 4, .d = {images, a->heads, tokens, a->width}};
    int64_t image = tokens * a->channels;
    const int64_t together[] = {image, a->width, a->channels, 1};
    const int64_t headed[] = {image, tokens * a->width, a->width, 1};
    memcpy(w.y, apart ? headed : together, sizeof headed);
    memcpy(w.x, apart ? together : headed, sizeof headed);
    ck_gpu_copy(stream_of(call), y, x, &w);
}

/* The scratch: scores and their gradients, then up to seven arrays of heads. */
typedef struct places {
    float *scores, *change, *q, *k, *v, *dy, *dq, *dk, *dv;
} places;

static size_t attention_floats(const attention *a, bool gradients, float *base, places *p) {
    size_t scores = (size_t)(a->some * a->heads * a->queries * a->keys);
    size_t queries = (size_t)(a->some * a->queries * a->channels);
    size_t keys = (size_t)(a->some * a->keys * a->channels);
    const size_t sizes[] = {scores,
                            gradients ? scores : 0,
                            queries,
                            keys,
                            keys,
                            queries,
                            gradients ? queries : 0,
                            gradients ? keys : 0,
                            gradients ? keys : 0};
    float **at[] = {&p->scores, &p->change, &p->q, &p->k, &p->v, &p->dy, &p->dq, &p->dk, &p->dv};
    size_t n = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        *at[i] = base ? base + n : NULL;
        n += sizes[i];
    }
    return n;
}

static void run_attention(const ck_call *call) {
    attention a = attention_of(call->graph, call->node);
    const ck_gpu_library *l = library_of(call);
    places at;
    attention_floats(&a, false, call->scratch, &at);
    const float *q = call->src[0], *k = call->src[1], *v = call->src[2];
    float *y = call->dst, *sums = y + a.n * a.queries * a.channels;
    for (int64_t first = 0; first < a.n; first += a.some) {
        int64_t images = a.n - first < a.some ? a.n - first : a.some, batch = images * a.heads;
        int64_t query = first * a.queries * a.channels, key = first * a.keys * a.channels;
        swap_heads(call, &a, images, a.queries, true, at.q, q + query);
        swap_heads(call, &a, images, a.keys, true, at.k, k + key);
        swap_heads(call, &a, images, a.keys, true, at.v, v + key);
        ck_gpu_product scores = {false, true, a.queries, a.keys, a.width, batch};
        l->matmul(l, &scores, at.q, at.k, NULL, at.scores);
        ck_gpu_softmax(l->stream, at.scores, sums + first * a.heads * a.queries, batch * a.queries,
                       a.queries, a.keys, a.scale, a.causal);
        ck_gpu_product result = {false, false, a.queries, a.width, a.keys, batch};
        l->matmul(l, &result, at.scores, at.v, NULL, at.dy);
        swap_heads(call, &a, images, a.queries, false, y + query, at.dy);
    }
}

static void run_attention_grad(const ck_call *call) {
    attention a = attention_of(call->graph, call->node);
    const ck_gpu_library *l = library_of(call);
    places at;
    attention_floats(&a, true, call->scratch, &at);
    int64_t queries = a.n * a.queries * a.channels, keys = a.n * a.keys * a.channels;
    const float *q = call->src[0], *k = call->src[1], *v = call->src[2], *dy = call->src[4];
    const float *sums = (const float *)call->src[3] + queries;
    float *dq = call->dst, *dk = dq + queries, *dv = dk + keys;
    for (int64_t first = 0; first < a.n; first += a.some) {
        int64_t images = a.n - first < a.some ? a.n - first : a.some, batch = images * a.heads;
        int64_t query = first * a.queries * a.channels, key = first * a.keys * a.channels;
        swap_heads(call, &a, images, a.queries, true, at.q, q + query);
        swap_heads(call, &a, images, a.keys, true, at.k, k + key);
        swap_heads(call, &a, images, a.keys, true, at.v, v + key);
        swap_heads(call, &a, images, a.queries, true, at.dy, dy + query);
        ck_gpu_product scores = {false, true, a.queries, a.keys, a.width, batch};
        l->matmul(l, &scores, at.q, at.k, NULL, at.scores);
        ck_gpu_softmax_again(l->stream, at.scores, sums + first * a.heads * a.queries,
                             batch * a.queries, a.queries, a.keys, a.scale, a.causal);
        l->matmul(l, &scores, at.dy, at.v, NULL, at.change);
        ck_gpu_product to_keys = {true, false, a.keys, a.width, a.queries, batch};
        l->matmul(l, &to_keys, at.scores, at.dy, NULL, at.dv);
        ck_gpu_softmax_grad(l->stream, at.change, at.scores, batch * a.queries, a.keys, a.scale);
        l->matmul(l, &to_keys, at.change, at.q, NULL, at.dk);
        ck_gpu_product to_queries = {false, false, a.queries, a.width, a.keys, batch};
        l->matmul(l, &to_queries, at.change, at.k, NULL, at.dq);
        swap_heads(call, &a, images, a.queries, false, dq + query, at.dq);
        swap_heads(call, &a, images, a.keys, false, dk + key, at.dk);
        swap_heads(call, &a, images, a.keys, false, dv + key, at.dv);
    }
}

static size_t attention_scratch(const ck_graph *g, ck_node n) {
    attention a = attention_of(g, n);
    places at;
    return attention_floats(&a, false, NULL, &at);
}

static size_t attention_grad_scratch(const ck_graph *g, ck_node n) {
    attention a = attention_of(g, n);
    places at;
    return attention_floats(&a, true, NULL, &at);
}

/* ---- The table ---- */

typedef struct row {
    void (*run)(const ck_call *call);
    size_t (*scratch)(const ck_graph *g, ck_node n); /* floats; NULL: none */
} row;

static const row rows[CK_OP_COUNT] = {
    [CK_OP_CONST] = {run_const, NULL},
    [CK_OP_UNARY] = {run_unary, NULL},
    [CK_OP_UNARY_GRAD] = {run_unary_grad, NULL},
    [CK_OP_AFFINE] = {run_affine, NULL},
    [CK_OP_ADD] = {run_binary, NULL},
    [CK_OP_MUL] = {run_binary, NULL},
    [CK_OP_SUM_TO] = {run_sum_to, sum_scratch},
    [CK_OP_EXPAND] = {run_expand, NULL},
    [CK_OP_PERMUTE] = {run_permute, NULL},
    [CK_OP_CONCAT] = {run_concat, NULL},
    [CK_OP_SLICE] = {run_slice, NULL},
    [CK_OP_PAD] = {run_pad, NULL},
    [CK_OP_MATMUL] = {run_matmul, NULL},
    [CK_OP_GROUP_NORM] = {run_group_norm, NULL},
    [CK_OP_GROUP_NORM_GRAD] = {run_group_norm_grad, group_norm_scratch},
    [CK_OP_LAYER_NORM] = {run_layer_norm, NULL},
    [CK_OP_LAYER_NORM_GRAD] = {run_layer_norm_grad, layer_norm_scratch},
    [CK_OP_GEGLU] = {run_geglu, NULL},
    [CK_OP_GEGLU_GRAD] = {run_geglu_grad, NULL},
    [CK_OP_ATTENTION] = {run_attention, attention_scratch},
    [CK_OP_ATTENTION_GRAD] = {run_attention_grad, attention_grad_scratch},
    [CK_OP_SOFTMAX] = {run_softmax, softmax_scratch},
    [CK_OP_UPSAMPLE] = {run_upsample, NULL},
    [CK_OP_UPSAMPLE_GRAD] = {run_upsample_grad, NULL},
    [CK_OP_EMBED] = {run_embed, NULL},
    [CK_OP_EMBED_GRAD] = {run_embed_grad, NULL},
    [CK_OP_TIMESTEP] = {run_timestep, NULL},
};

ck_status ck_gpu_prepare(const ck_gpu_library *l, const ck_graph *g, ck_node n, ck_kernel *kernel,
                         ck_error *err) {
    ck_op op = g->nodes[n].op;
    if (op == CK_OP_CONV || op == CK_OP_CONV_DATA_GRAD || op == CK_OP_CONV_WEIGHT_GRAD)
        return l->prepare_convolution(l, g, n, kernel, err);
    if (!rows[op].run)
        return ck_fail(err, CK_USAGE, "%s cannot be computed on a GPU", ck_op_name(op));
    prepared *p = ck_alloc(sizeof *p);
    if (!p) return ck_fail_memory(err, ck_op_name(op));
    p->library = l;
    size_t scratch = rows[op].scratch ? rows[op].scratch(g, n) * sizeof(float) : 0;
    *kernel = (ck_kernel){.run = rows[op].run, .scratch = scratch, .state = p, .release = free};
    return CK_OK;
}
