/* Attention to the kernels of ck_nn_amx; see simd.h. Scratch memory: a part for each thread. */
#include "distill/simd.h"

#include "distill/simd_int.h"
#include "io/os.h"
#include "kernels/nn.h"

#include <omp.h>
#include <stdlib.h>

typedef struct attention {
    const ck_nn_amx *kernels;
    size_t room; /* bytes of a thread */
    int threads; /* that there is room for */
} attention;

static void run_attention(const ck_call *call) {
    const attention *s = call->state;
    ck_nn_attention a = ck_simd__attention(call);
    size_t images = (size_t)ck_call_shape(call, 0).d[0];
#pragma omp parallel for collapse(3) schedule(dynamic) num_threads(s->threads)
    for (size_t n = 0; n < images; n++)
        for (size_t h = 0; h < a.heads; h++)
            for (size_t t = 0; t < a.queries; t += CK_NN_AMX_QUERIES)
                s->kernels->attention(
                    &a, n, h, t, (char *)call->scratch + (size_t)omp_get_thread_num() * s->room);
}

static void run_attention_grad(const ck_call *call) {
    const attention *s = call->state;
    ck_nn_attention a = ck_simd__attention(call);
    size_t images = (size_t)ck_call_shape(call, 0).d[0];
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(s->threads)
    for (size_t n = 0; n < images; n++)
        for (size_t h = 0; h < a.heads; h++)
            s->kernels->attention_grad(
                &a, n, h, (char *)call->scratch + (size_t)omp_get_thread_num() * s->room);
}

ck_status ck_simd_prepare_bf16(const ck_graph *g, ck_node id, ck_kernel *kernel, bool *done,
                               ck_error *err) {
    const ck_graph_node *n = &g->nodes[id];
    *done = false;
    const ck_nn_amx *kernels = ck_nn_amx_best();
    if (!kernels || (n->op != CK_OP_ATTENTION && n->op != CK_OP_ATTENTION_GRAD)) return CK_OK;
    ck_shape q = ck_node_shape(g, n->src[0]), k = ck_node_shape(g, n->src[1]);
    ck_nn_attention a = {.keys = (size_t)k.d[1], .width = (size_t)(q.d[2] / n->i[0])};
    if (a.width > CK_NN_AMX_HEAD) return CK_OK;
    attention *state = ck_alloc(sizeof *state);
    if (!state) return ck_fail_memory(err, ck_op_name(n->op));
    *state = (attention){kernels, kernels->attention_room(&a), omp_get_max_threads()};
    *kernel = (ck_kernel){.run = n->op == CK_OP_ATTENTION ? run_attention : run_attention_grad,
                          .scratch = (size_t)state->threads * state->room,
                          .state = state,
                          .release = free};
    *done = true;
    return CK_OK;
}
