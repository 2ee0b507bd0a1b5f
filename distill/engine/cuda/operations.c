/* From nodes to kernels of a GPU, see operations.h. */
#include "distill/engine/cuda/operations.h"

#include "io/os.h"

#include <stdlib.h>
#include <string.h>

typedef struct prepared {
    const ck_gpu_library *library;
    void *plan;         /* of a convolution */
    ck_gpu_added added; /* by the library */
    size_t workspace;
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

static int64_t count_at(const ck_graph *g, ck_node n) {
    ck_shape s = ck_node_shape(g, n);
    return ck_shape_count(&s);
}

static int64_t last_of(ck_shape s) {
    return s.d[s.rank - 1];
}

/* What scratch memory depends on. */
typedef struct planned {
    const ck_gpu_library *library;
    const ck_graph *graph;
    ck_node node;
    const bool *half;
    size_t workspace; /* of a convolution */
} planned;

/* ---- Arrays of f32 and of bf16 ---- */

static ck_gpu_array result_of(const ck_call *call) {
    return (ck_gpu_array){call->dst, ck_call_half(call, -1)};
}

static ck_gpu_array source_of(const ck_call *call, int source) {
    return (ck_gpu_array){(void *)call->src[source], ck_call_half(call, source)};
}

static size_t element_of(ck_gpu_array x) {
    return x.half ? 2 : 4;
}

/* From its element n on. */
static ck_gpu_array from(ck_gpu_array x, int64_t n) {
    x.at = (char *)x.at + n * (int64_t)element_of(x);
    return x;
}

/* What lies behind a result of n numbers. */
static float *behind(ck_gpu_array x, int64_t n) {
    return ck_packed_rest(x.at, n, element_of(x));
}

static void convert(const ck_call *call, ck_gpu_array y, ck_gpu_array x, int64_t n) {
    ck_gpu_walk w = {.rank = 1, .d = {n}, .y = {1}, .x = {1}};
    ck_gpu_copy(stream_of(call), y, x, &w);
}

static size_t aligned(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

/* Bytes of n numbers of bf16 in scratch memory. */
static size_t half_bytes(int64_t n) {
    return aligned(2 * (size_t)n);
}

/* x, n numbers, as the library takes them, or a copy in scratch memory, which moves on. */
static ck_gpu_array as(const ck_call *call, bool half, ck_gpu_array x, int64_t n, char **scratch) {
    if (x.half == half || !x.at) return x;
    ck_gpu_array y = {*scratch, half};
    *scratch += aligned((size_t)n * element_of(y));
    convert(call, y, x, n);
    return y;
}

/* ---- Element by element ---- */

static void run_const(const ck_call *call) {
    ck_gpu_fill(stream_of(call), result_of(call), (float)ck_call_node(call)->x[0], count_of(call));
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
    ck_gpu_unary(stream_of(call), function_of(call), result_of(call), source_of(call, 0),
                 count_of(call), (float)ck_call_node(call)->x[0]);
}

static void run_unary_grad(const ck_call *call) {
    ck_gpu_unary_grad(stream_of(call), function_of(call), result_of(call), source_of(call, 0),
                      source_of(call, 1), count_of(call), (float)ck_call_node(call)->x[0]);
}

static void run_affine(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    ck_gpu_affine(stream_of(call), result_of(call), source_of(call, 0), (float)n->x[0],
                  (float)n->x[1], count_of(call));
}

static void run_geglu(const ck_call *call) {
    int64_t c = last_of(ck_call_node(call)->shape);
    ck_gpu_geglu(stream_of(call), result_of(call), source_of(call, 0), count_of(call) / c, c);
}

static void run_geglu_grad(const ck_call *call) {
    ck_shape s = ck_call_shape(call, 1);
    int64_t c = last_of(s);
    ck_gpu_geglu_grad(stream_of(call), result_of(call), source_of(call, 0), source_of(call, 1),
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
    ck_gpu_binary(stream_of(call), n->op == CK_OP_ADD, result_of(call), source_of(call, 0),
                  source_of(call, 1), &w);
}

static void run_expand(const ck_call *call) {
    ck_shape from = ck_call_shape(call, 0);
    ck_gpu_walk w = walk_over(ck_call_node(call)->shape);
    repeated(&from, w.x);
    ck_gpu_copy(stream_of(call), result_of(call), source_of(call, 0), &w);
}

static void run_permute(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    ck_shape from = ck_call_shape(call, 0);
    ck_gpu_walk w = walk_over(n->shape);
    int64_t distance[CK_MAX_DIMS];
    contiguous(&from, distance);
    for (int i = 0; i < n->shape.rank; i++) w.x[i] = distance[n->i[i]];
    ck_gpu_copy(stream_of(call), result_of(call), source_of(call, 0), &w);
}

/* All of `part`, between an array of shape `whole` and one that has nothing else. at: where the
 * part begins along the axis. into: the whole is what is written. */
static void copy_part(const ck_call *call, ck_shape whole, ck_shape part, int64_t axis, int64_t at,
                      bool into, int source) {
    ck_gpu_walk w = walk_over(part);
    ck_gpu_array y = result_of(call), x = source_of(call, source);
    int64_t distance[CK_MAX_DIMS];
    contiguous(&whole, distance);
    memcpy(w.x, w.y, sizeof w.x);
    memcpy(into ? w.y : w.x, distance, (size_t)whole.rank * sizeof *distance);
    int64_t begin = at * distance[axis];
    ck_gpu_copy(stream_of(call), from(y, into ? begin : 0), from(x, into ? 0 : begin), &w);
}

static void run_concat(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    ck_shape a = ck_call_shape(call, 0), b = ck_call_shape(call, 1);
    copy_part(call, n->shape, a, n->i[0], 0, true, 0);
    copy_part(call, n->shape, b, n->i[0], a.d[n->i[0]], true, 1);
}

static void run_slice(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    copy_part(call, ck_call_shape(call, 0), n->shape, n->i[0], n->i[1], false, 0);
}

static void run_pad(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    ck_gpu_fill(stream_of(call), result_of(call), 0, count_of(call));
    copy_part(call, n->shape, ck_call_shape(call, 0), n->i[0], n->i[1], true, 0);
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
    ck_gpu_sum(stream_of(call), call->dst, source_of(call, 0), &outer, &inner, call->scratch);
}

static size_t sum_scratch(const planned *p) {
    ck_gpu_walk outer, inner;
    sum_walks(p->graph, p->node, &outer, &inner);
    return ck_gpu_sum_scratch(&outer, &inner) * sizeof(float);
}

static void run_upsample(const ck_call *call) {
    ck_shape s = ck_call_shape(call, 0);
    ck_gpu_upsample(stream_of(call), result_of(call), source_of(call, 0), s.d[0] * s.d[1], s.d[2],
                    s.d[3]);
}

static void run_upsample_grad(const ck_call *call) {
    ck_shape s = ck_call_node(call)->shape;
    ck_gpu_upsample_grad(stream_of(call), result_of(call), source_of(call, 0), s.d[0] * s.d[1],
                         s.d[2], s.d[3]);
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
    ck_gpu_array y = result_of(call);
    v.x = source_of(call, 0), v.gain = call->src[1], v.bias = call->src[2];
    ck_gpu_norm_forward(stream_of(call), &v, (float)ck_call_node(call)->x[0], y,
                        behind(y, v.n * v.pixels * v.channels), call->scratch);
}

/* packed, dy: by the number of their source. */
static void backward(const ck_call *call, const ck_gpu_norm *v, int packed, int dy) {
    int64_t n = v->n * v->pixels * v->channels;
    ck_gpu_array dx = result_of(call);
    float *dgain = behind(dx, n);
    ck_gpu_norm_backward(stream_of(call), v, behind(source_of(call, packed), n),
                         source_of(call, dy), dx, dgain, dgain + v->channels, call->scratch);
}

static void run_group_norm(const ck_call *call) {
    forward(call, group_norm_of(call->graph, call->node));
}

static void run_layer_norm(const ck_call *call) {
    forward(call, layer_norm_of(call->graph, call->node));
}

static void run_group_norm_grad(const ck_call *call) {
    ck_gpu_norm v = group_norm_of(call->graph, call->node);
    v.x = source_of(call, 0), v.gain = call->src[1], v.bias = call->src[2];
    backward(call, &v, 3, 4);
}

static void run_layer_norm_grad(const ck_call *call) {
    ck_gpu_norm v = layer_norm_of(call->graph, call->node);
    v.x = source_of(call, 0), v.gain = call->src[3];
    backward(call, &v, 1, 2);
}

static size_t group_norm_scratch(const planned *p) {
    ck_gpu_norm v = group_norm_of(p->graph, p->node);
    return ck_gpu_norm_scratch(&v) * sizeof(float);
}

static size_t layer_norm_scratch(const planned *p) {
    ck_gpu_norm v = layer_norm_of(p->graph, p->node);
    return ck_gpu_norm_scratch(&v) * sizeof(float);
}

/* ---- Products ---- */

static void run_matmul(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    const ck_gpu_library *l = library_of(call);
    ck_shape a = ck_call_shape(call, 0);
    bool ta = n->i[0];
    ck_gpu_array y = result_of(call);
    ck_gpu_product p = {.ta = ta,
                        .tb = n->i[1],
                        .m = n->shape.d[0],
                        .n = n->shape.d[1],
                        .k = a.d[!ta],
                        .batch = 1,
                        .half_c = y.half};
    char *scratch = call->scratch;
    ck_gpu_array left = as(call, l->half, source_of(call, 0), p.m * p.k, &scratch);
    ck_gpu_array right = as(call, l->half, source_of(call, 1), p.k * p.n, &scratch), row = {0};
    if (call->src[2]) row = as(call, y.half, source_of(call, 2), p.n, &scratch);
    l->matmul(l, &p, left.at, right.at, row.at, call->residual, y.at);
}

/* Copies of the first so many sources that are stored otherwise than the library takes them. */
static size_t sources_scratch(const planned *p, int count) {
    const ck_graph_node *n = &p->graph->nodes[p->node];
    size_t bytes = 0;
    for (int s = 0; s < count && p->library->half; s++)
        if (n->src[s] != CK_NONE && !p->half[n->src[s]])
            bytes += half_bytes(count_at(p->graph, n->src[s]));
    return bytes;
}

static size_t matmul_scratch(const planned *p) {
    const ck_graph_node *n = &p->graph->nodes[p->node];
    size_t bytes = sources_scratch(p, 2);
    if (n->src[2] != CK_NONE && p->half[n->src[2]] != p->half[p->node])
        bytes += aligned((size_t)n->shape.d[1] * sizeof(float));
    return bytes;
}

/* ---- Convolutions ---- */

/* y = made + bias, or + residual, where the library does not add them. */
static void add_rest(const ck_call *call, ck_gpu_array y, ck_gpu_array made) {
    const prepared *p = call->state;
    const ck_graph_node *n = ck_call_node(call);
    int64_t c = last_of(n->shape), pixels = count_of(call) / c;
    ck_gpu_walk walk = {.rank = 2, .d = {pixels, c}, .y = {c, 1}, .x = {0, 1}};
    if (n->op == CK_OP_CONV && call->src[2] && !p->added.bias) {
        ck_gpu_binary(stream_of(call), true, y, made, source_of(call, 2), &walk);
        made = y;
    }
    if (call->residual && !p->added.residual) {
        walk.x[0] = c;
        ck_gpu_array residual = {(void *)call->residual, y.half};
        ck_gpu_binary(stream_of(call), true, y, made, residual, &walk);
        made = y;
    }
    if (made.at != y.at) convert(call, y, made, count_of(call));
}

/* (The libraries' results are of bf16 where their sources are.) */
static void run_convolution(const ck_call *call) {
    const prepared *p = call->state;
    const ck_graph_node *n = ck_call_node(call);
    bool half = p->library->half;
    char *scratch = (char *)call->scratch + aligned(p->workspace);
    ck_gpu_array x[2], bias = {0}, y = result_of(call), made = y;
    for (int i = 0; i < 2; i++)
        x[i] = as(call, half, source_of(call, i), count_at(call->graph, n->src[i]), &scratch);
    if (p->added.bias) bias = as(call, half, source_of(call, 2), last_of(n->shape), &scratch);
    if (y.half != half) made = (ck_gpu_array){scratch, half};
    p->library->convolve(call, p->plan, x[0].at, x[1].at, bias.at,
                         p->added.residual ? call->residual : NULL, made.at, call->scratch);
    add_rest(call, y, made);
}

static size_t convolution_scratch(const planned *p) {
    size_t bytes = aligned(p->workspace) + sources_scratch(p, 3);
    return p->half[p->node] == p->library->half ? bytes
                                                : bytes + half_bytes(count_at(p->graph, p->node));
}

/* ---- Softmax ---- */

static void run_softmax(const ck_call *call) {
    int64_t c = last_of(ck_call_node(call)->shape), rows = count_of(call) / c;
    ck_gpu_softmax(stream_of(call), result_of(call), call->src[0], call->scratch,
                   (ck_gpu_rows){rows, rows, c, 0}, 1, false);
}

static size_t softmax_scratch(const planned *p) {
    const ck_shape *s = &p->graph->nodes[p->node].shape;
    return (size_t)(ck_shape_count(s) / last_of(*s)) * sizeof(float);
}

/* ---- Attention ---- */

typedef struct attention {
    int64_t n, queries, keys, channels, heads, width;
    int64_t images, some, tile; /* images, heads and queries at once */
    float scale;
    bool causal;
} attention;

static int64_t between(int64_t least, int64_t x, int64_t most) {
    return x < least ? least : x > most ? most : x;
}

static attention attention_of(const ck_gpu_library *l, const ck_graph *g, ck_node node) {
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
    int64_t head = a.queries * a.keys;
    a.images = between(1, l->most_scores / (a.heads * head), a.n);
    a.some = between(1, l->most_scores / head, a.heads);
    a.tile = between(1, l->most_scores / a.keys, a.queries);
    return a;
}

/* ---- Fused: of bf16, where there is a kernel for such heads, and the card has room for it ---- */

static bool is_fused(const ck_gpu_library *l, const attention *a, bool gradients) {
    size_t bytes = ck_gpu_attention_shared(a->width, gradients);
    return l->half && bytes > 0 && bytes <= l->shared;
}

static ck_gpu_attention fused_of(const ck_call *call, const attention *a, char **scratch) {
    int64_t queries = a->n * a->queries * a->channels, keys = a->n * a->keys * a->channels;
    return (ck_gpu_attention){.n = a->n,
                              .queries = a->queries,
                              .keys = a->keys,
                              .channels = a->channels,
                              .heads = a->heads,
                              .scale = a->scale,
                              .causal = a->causal,
                              .q = as(call, true, source_of(call, 0), queries, scratch).at,
                              .k = as(call, true, source_of(call, 1), keys, scratch).at,
                              .v = as(call, true, source_of(call, 2), keys, scratch).at};
}

static void run_fused(const ck_call *call, const attention *a) {
    char *scratch = call->scratch;
    ck_gpu_attention v = fused_of(call, a, &scratch);
    ck_gpu_array y = result_of(call);
    ck_gpu_attention_forward(stream_of(call), &v, y, behind(y, a->n * a->queries * a->channels));
}

static void run_fused_grad(const ck_call *call, const attention *a) {
    int64_t queries = a->n * a->queries * a->channels, keys = a->n * a->keys * a->channels;
    char *scratch = call->scratch;
    ck_gpu_attention v = fused_of(call, a, &scratch);
    ck_gpu_array dy = as(call, true, source_of(call, 4), queries, &scratch);
    ck_gpu_array y = source_of(call, 3), dq = result_of(call), dk = from(dq, queries);
    ck_gpu_attention_backward(stream_of(call), &v, y, behind(y, queries), dy.at, dq, dk,
                              from(dk, keys), (float *)scratch);
}

/* Copies of sources that are not of bf16, and (gradients) a number for each row. */
static size_t fused_scratch(const planned *p, const attention *a, bool gradients) {
    const ck_graph_node *n = &p->graph->nodes[p->node];
    size_t bytes = gradients ? aligned((size_t)(a->n * a->heads * a->queries) * sizeof(float)) : 0;
    for (int s = 0; s < CK_MAX_SRC; s++)
        if (n->src[s] != CK_NONE && s != 3 && !p->half[n->src[s]])
            bytes += half_bytes(count_at(p->graph, n->src[s]));
    return bytes;
}

/* ---- In parts ----
 *
 * By products of matrices and softmax in between: of as many images at once as there is room for
 * scores, or else of some heads of one, or else of some queries of one head: so that the memory it
 * takes grows with the length of sequences, and not with its square. */

/* Some heads of some images. */
typedef struct part {
    int64_t image, images, head, heads;
} part;

static bool next_part(const attention *a, part *p) {
    p->head += p->heads;
    if (p->head == a->heads) p->head = 0, p->image += p->images;
    p->images = between(0, a->n - p->image, a->images);
    p->heads = between(0, a->heads - p->head, a->some);
    return p->images > 0;
}

/* Of a part: tokens x channels, as x has them, and heads x tokens x width, as `headed`: from one to
 * the other. */
static void move_heads(const ck_call *call, const attention *a, const part *p, int64_t tokens,
                       bool apart, ck_gpu_array headed, ck_gpu_array x) {
    ck_gpu_walk w = {.rank = 4, .d = {p->images, p->heads, tokens, a->width}};
    int64_t image = tokens * a->channels, size = tokens * a->width;
    const int64_t together[] = {image, a->width, a->channels, 1};
    const int64_t by_heads[] = {p->heads * size, size, a->width, 1};
    memcpy(w.y, apart ? by_heads : together, sizeof together);
    memcpy(w.x, apart ? together : by_heads, sizeof together);
    x = from(x, p->image * image + p->head * a->width);
    ck_gpu_copy(stream_of(call), apart ? headed : x, apart ? x : headed, &w);
}

/* The scratch: scores (then gradients of probabilities), probabilities (then gradients of scores),
 * which lie in the same place where they can, and arrays by heads. */
typedef struct places {
    ck_gpu_array scores, p, q, k, v, dy, dq, dk, dv;
} places;

static size_t places_of(const attention *a, bool gradients, bool half, char *base, places *at) {
    int64_t heads = a->images * a->some, scores = heads * a->tile * a->keys;
    int64_t queries = heads * a->queries * a->width, keys = heads * a->keys * a->width;
    bool apart = half || gradients;
    const struct {
        ck_gpu_array *array;
        int64_t n;
        bool half;
    } list[] = {{&at->scores, scores, false},
                {&at->p, apart ? scores : 0, half},
                {&at->q, queries, half},
                {&at->k, keys, half},
                {&at->v, keys, half},
                {&at->dy, queries, half},
                {&at->dq, gradients ? queries : 0, half},
                {&at->dk, gradients ? keys : 0, false}, /* sums over queries */
                {&at->dv, gradients ? keys : 0, false}};
    size_t bytes = 0;
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        *list[i].array = (ck_gpu_array){base ? base + bytes : NULL, list[i].half};
        bytes += aligned((size_t)list[i].n * element_of(*list[i].array));
    }
    if (!apart) at->p = at->scores;
    return bytes;
}

static void run_attention(const ck_call *call) {
    const ck_gpu_library *l = library_of(call);
    attention a = attention_of(l, call->graph, call->node);
    if (is_fused(l, &a, false)) {
        run_fused(call, &a);
        return;
    }
    places at;
    places_of(&a, false, l->half, call->scratch, &at);
    float *sums = behind(result_of(call), a.n * a.queries * a.channels);
    for (part p = {0}; next_part(&a, &p);) {
        int64_t batch = p.images * p.heads;
        move_heads(call, &a, &p, a.queries, true, at.q, source_of(call, 0));
        move_heads(call, &a, &p, a.keys, true, at.k, source_of(call, 1));
        move_heads(call, &a, &p, a.keys, true, at.v, source_of(call, 2));
        for (int64_t row = 0; row < a.queries; row += a.tile) {
            int64_t some = between(0, a.queries - row, a.tile), query = row * a.width;
            ck_gpu_product scores = {false, true, some, a.keys, a.width, batch, false};
            l->matmul(l, &scores, from(at.q, query).at, at.k.at, NULL, NULL, at.scores.at);
            ck_gpu_softmax(l->stream, at.p, at.scores.at,
                           sums + (p.image * a.heads + p.head) * a.queries + row,
                           (ck_gpu_rows){batch * some, a.queries, a.keys, row}, a.scale, a.causal);
            ck_gpu_product result = {false, false, some, a.width, a.keys, batch, l->half};
            l->matmul(l, &result, at.p.at, at.v.at, NULL, NULL, from(at.dy, query).at);
        }
        move_heads(call, &a, &p, a.queries, false, at.dy, result_of(call));
    }
}

/* Gradients of some queries of a part, and what they add to those of keys and values. */
static void grad_of_queries(const ck_gpu_library *l, const attention *a, const places *at,
                            const float *sums, int64_t batch, int64_t row, int64_t some) {
    float *dk = at->dk.at, *dv = at->dv.at;
    bool first = row == 0;
    ck_gpu_array q = from(at->q, row * a->width), dq = from(at->dq, row * a->width);
    ck_gpu_array dy = from(at->dy, row * a->width);
    ck_gpu_rows rows = {batch * some, a->queries, a->keys, row};
    ck_gpu_product scores = {false, true, some, a->keys, a->width, batch, false};
    ck_gpu_product to_keys = {true, false, a->keys, a->width, some, batch, false};
    ck_gpu_product to_queries = {false, false, some, a->width, a->keys, batch, l->half};
    l->matmul(l, &scores, q.at, at->k.at, NULL, NULL, at->scores.at);
    ck_gpu_softmax_again(l->stream, at->p, at->scores.at, sums + row, rows, a->scale, a->causal);
    l->matmul(l, &to_keys, at->p.at, dy.at, NULL, first ? NULL : dv, dv);
    l->matmul(l, &scores, dy.at, at->v.at, NULL, NULL, at->scores.at);
    ck_gpu_softmax_grad(l->stream, at->p, at->p, at->scores.at, rows, a->scale);
    l->matmul(l, &to_keys, at->p.at, q.at, NULL, first ? NULL : dk, dk);
    l->matmul(l, &to_queries, at->p.at, at->k.at, NULL, NULL, dq.at);
}

static void run_attention_grad(const ck_call *call) {
    const ck_gpu_library *l = library_of(call);
    attention a = attention_of(l, call->graph, call->node);
    if (is_fused(l, &a, true)) {
        run_fused_grad(call, &a);
        return;
    }
    places at;
    places_of(&a, true, l->half, call->scratch, &at);
    int64_t queries = a.n * a.queries * a.channels, keys = a.n * a.keys * a.channels;
    const float *sums = behind(source_of(call, 3), queries);
    ck_gpu_array dq = result_of(call), dk = from(dq, queries), dv = from(dk, keys);
    for (part p = {0}; next_part(&a, &p);) {
        move_heads(call, &a, &p, a.queries, true, at.q, source_of(call, 0));
        move_heads(call, &a, &p, a.keys, true, at.k, source_of(call, 1));
        move_heads(call, &a, &p, a.keys, true, at.v, source_of(call, 2));
        move_heads(call, &a, &p, a.queries, true, at.dy, source_of(call, 4));
        for (int64_t row = 0; row < a.queries; row += a.tile)
            grad_of_queries(l, &a, &at, sums + (p.image * a.heads + p.head) * a.queries,
                            p.images * p.heads, row, between(0, a.queries - row, a.tile));
        move_heads(call, &a, &p, a.queries, false, at.dq, dq);
        move_heads(call, &a, &p, a.keys, false, at.dk, dk);
        move_heads(call, &a, &p, a.keys, false, at.dv, dv);
    }
}

static size_t attention_scratch(const planned *p) {
    attention a = attention_of(p->library, p->graph, p->node);
    bool gradients = p->graph->nodes[p->node].op == CK_OP_ATTENTION_GRAD;
    if (is_fused(p->library, &a, gradients)) return fused_scratch(p, &a, gradients);
    places at;
    return places_of(&a, gradients, p->library->half, NULL, &at);
}

/* ---- The table ---- */

enum { RESULT = 1, A = 2, B = 4, C = 8, D = 16, E = 32 };

typedef struct row {
    void (*run)(const ck_call *call);
    size_t (*scratch)(const planned *p); /* bytes; NULL: none */
    unsigned half;                       /* what may be stored as bf16 */
} row;

/* (Of sums, and of gradients of weights, the result is f32. Weights are bf16 where products of
 * matrices alone read them.) */
static const row rows[CK_OP_COUNT] = {
    [CK_OP_PARAM] = {NULL, NULL, RESULT},
    [CK_OP_CONST] = {run_const, NULL, 0},
    [CK_OP_UNARY] = {run_unary, NULL, RESULT | A},
    [CK_OP_UNARY_GRAD] = {run_unary_grad, NULL, RESULT | A | B},
    [CK_OP_AFFINE] = {run_affine, NULL, RESULT | A},
    [CK_OP_ADD] = {run_binary, NULL, RESULT | A | B},
    [CK_OP_MUL] = {run_binary, NULL, RESULT | A | B},
    [CK_OP_SUM_TO] = {run_sum_to, sum_scratch, A},
    [CK_OP_EXPAND] = {run_expand, NULL, 0},
    [CK_OP_PERMUTE] = {run_permute, NULL, RESULT | A},
    [CK_OP_CONCAT] = {run_concat, NULL, RESULT | A | B},
    [CK_OP_SLICE] = {run_slice, NULL, RESULT | A},
    [CK_OP_PAD] = {run_pad, NULL, RESULT | A},
    [CK_OP_MATMUL] = {run_matmul, matmul_scratch, RESULT | A | B | C},
    [CK_OP_CONV] = {run_convolution, convolution_scratch, RESULT | A | B | C},
    [CK_OP_CONV_DATA_GRAD] = {run_convolution, convolution_scratch, RESULT | A | B},
    [CK_OP_CONV_WEIGHT_GRAD] = {run_convolution, convolution_scratch, A | B},
    [CK_OP_GROUP_NORM] = {run_group_norm, group_norm_scratch, RESULT | A},
    [CK_OP_GROUP_NORM_GRAD] = {run_group_norm_grad, group_norm_scratch, RESULT | A | D | E},
    [CK_OP_LAYER_NORM] = {run_layer_norm, layer_norm_scratch, RESULT | A},
    [CK_OP_LAYER_NORM_GRAD] = {run_layer_norm_grad, layer_norm_scratch, RESULT | A | B | C},
    [CK_OP_GEGLU] = {run_geglu, NULL, RESULT | A},
    [CK_OP_GEGLU_GRAD] = {run_geglu_grad, NULL, RESULT | A | B},
    [CK_OP_ATTENTION] = {run_attention, attention_scratch, RESULT | A | B | C},
    [CK_OP_ATTENTION_GRAD] = {run_attention_grad, attention_scratch, RESULT | A | B | C | D | E},
    [CK_OP_SOFTMAX] = {run_softmax, softmax_scratch, 0},
    [CK_OP_UPSAMPLE] = {run_upsample, NULL, RESULT | A},
    [CK_OP_UPSAMPLE_GRAD] = {run_upsample_grad, NULL, RESULT | A},
    [CK_OP_EMBED] = {run_embed, NULL, 0},
    [CK_OP_EMBED_GRAD] = {run_embed_grad, NULL, 0},
    [CK_OP_TIMESTEP] = {run_timestep, NULL, 0},
};

bool ck_gpu_takes_half(const ck_graph *g, ck_node n, int source) {
    const ck_graph_node *at = &g->nodes[n];
    unsigned half = rows[at->op].half;
    if ((at->op == CK_OP_MUL || at->op == CK_OP_AFFINE) && !at->inner) return false;
    if (at->op == CK_OP_MATMUL && at->i[0] && !at->i[1]) half &= ~(unsigned)RESULT;
    return half >> (source + 1) & 1;
}

bool ck_gpu_takes_residual(const ck_graph *g, ck_node n) {
    return g->nodes[n].op == CK_OP_MATMUL || g->nodes[n].op == CK_OP_CONV;
}

ck_status ck_gpu_prepare(const ck_gpu_library *l, const ck_graph *g, ck_node n, const bool *half,
                         bool residual, ck_kernel *kernel, ck_error *err) {
    const row *r = &rows[g->nodes[n].op];
    const char *name = ck_op_name(g->nodes[n].op);
    planned p = {l, g, n, half, 0};
    if (!r->run) return ck_fail(err, CK_USAGE, "%s cannot be computed on a GPU", name);
    prepared *state = ck_alloc(sizeof *state);
    if (!state) return ck_fail_memory(err, name);
    state->library = l;
    *kernel = (ck_kernel){.run = r->run, .state = state, .release = free};
    state->added.bias = g->nodes[n].op == CK_OP_CONV && g->nodes[n].src[2] != CK_NONE;
    state->added.residual = residual && half[n] == l->half;
    if (r->run == run_convolution)
        CK_TRY(
            l->prepare_convolution(l, g, n, &state->added, &state->plan, &state->workspace, err));
    p.workspace = state->workspace;
    kernel->scratch = r->scratch ? r->scratch(&p) : 0;
    return CK_OK;
}
