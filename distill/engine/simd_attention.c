/* Attention and its gradient to kernels for heads (ck_nn_attend), of f32 or of bf16; see simd.h. A
 * part of the scratch memory is for each thread. */
#include "distill/engine/simd.h"

#include "distill/engine/simd_int.h"
#include "io/os.h"
#include "kernels/nn.h"

#include <omp.h>
#include <stdlib.h>

_Static_assert((int)CK_MAX_HEAD <= (int)CK_NN_HEAD, "heads that the kernels have no room for");

typedef struct shared {
    const ck_nn_attend *kernels;
    size_t room; /* bytes of a thread */
    int threads; /* that there is room for */
} shared;

static ck_nn_attention attention_of(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    ck_shape q = ck_call_shape(call, 0), k = ck_call_shape(call, 1);
    ck_nn_attention a = {.queries = (size_t)q.d[1],
                         .keys = (size_t)k.d[1],
                         .channels = (size_t)q.d[2],
                         .heads = (size_t)n->i[0],
                         .width = (size_t)(q.d[2] / n->i[0]),
                         .q = call->src[0],
                         .k = call->src[1],
                         .v = call->src[2],
                         .scale = (float)n->x[0],
                         .causal = n->i[1]};
    bool grad = n->op == CK_OP_ATTENTION_GRAD;
    a.half = ck_call_half(call, 0);
    size_t element = a.half ? 2 : 4, bytes = (size_t)ck_shape_count(&q) * element;
    a.y = grad ? (void *)call->src[3] : call->dst;
    a.sums = ck_packed_rest(a.y, ck_shape_count(&q), element);
    if (!grad) return a;
    a.dy = call->src[4];
    a.dq = call->dst;
    a.dk = (char *)a.dq + bytes;
    a.dv = (char *)a.dk + (size_t)ck_shape_count(&k) * element;
    return a;
}

static void *own(const ck_call *call, const shared *s) {
    return (char *)call->scratch + (size_t)omp_get_thread_num() * s->room;
}

static void run_attention(const ck_call *call) {
    const shared *s = call->state;
    ck_nn_attention a = attention_of(call);
    size_t images = (size_t)ck_call_shape(call, 0).d[0];
#pragma omp parallel for collapse(3) schedule(static) num_threads(s->threads)
    for (size_t n = 0; n < images; n++)
        for (size_t h = 0; h < a.heads; h++)
            for (size_t t = 0; t < a.queries; t += s->kernels->queries)
                s->kernels->forward(&a, n, h, t, own(call, s));
}

static void run_attention_grad(const ck_call *call) {
    const shared *s = call->state;
    ck_nn_attention a = attention_of(call);
    size_t images = (size_t)ck_call_shape(call, 0).d[0];
#pragma omp parallel for collapse(2) schedule(static) num_threads(s->threads)
    for (size_t n = 0; n < images; n++)
        for (size_t h = 0; h < a.heads; h++) s->kernels->backward(&a, n, h, own(call, s));
}

bool ck_simd__takes_attention(const ck_nn_attend *kernels, const ck_graph *g, ck_node n) {
    const ck_graph_node *at = &g->nodes[n];
    return (size_t)(ck_node_shape(g, at->src[0]).d[2] / at->i[0]) <= kernels->widest;
}

ck_status ck_simd__attention(const ck_nn_attend *kernels, const ck_graph *g, ck_node id,
                             ck_kernel *kernel, bool *done, ck_error *err) {
    const ck_graph_node *n = &g->nodes[id];
    ck_shape q = ck_node_shape(g, n->src[0]), k = ck_node_shape(g, n->src[1]);
    ck_nn_attention a = {
        .queries = (size_t)q.d[1], .keys = (size_t)k.d[1], .width = (size_t)(q.d[2] / n->i[0])};
    *done = ck_simd__takes_attention(kernels, g, id);
    if (!*done) return CK_OK;
    shared *state = ck_alloc(sizeof *state);
    if (!state) return ck_fail_memory(err, ck_op_name(n->op));
    bool grad = n->op == CK_OP_ATTENTION_GRAD;
    *state = (shared){kernels, kernels->room(&a, grad), omp_get_max_threads()};
    *kernel = (ck_kernel){.run = grad ? run_attention_grad : run_attention,
                          .scratch = (size_t)state->threads * state->room,
                          .state = state,
                          .release = free};
    return CK_OK;
}
