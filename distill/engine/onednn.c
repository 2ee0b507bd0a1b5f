/* oneDNN behind the seam of kernels, see onednn.h. */
#include "distill/engine/onednn.h"

#include "io/os.h"
#include "kernels/nn.h"

#include <stdlib.h>
#include <string.h>

#ifndef CK_HAVE_ONEDNN

const char *ck_onednn_version(void) {
    return NULL;
}

ck_status ck_onednn_prepare(const ck_graph *g, ck_node n, const bool *half, bool bf16,
                            ck_kernel *kernel, bool *done, ck_error *err) {
    (void)g, (void)n, (void)half, (void)bf16, (void)kernel, (void)err;
    *done = false;
    return CK_OK;
}

#else

#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>
#include <stdio.h>

enum { RESULT = -1, MAX_OPERANDS = 4, ALIGN = 64 };

/* Weights K R S C as the matrix unit has them: blocks, in each pairs beside each other, 16 of them.
 * For gradients of data, of 32 k and `width` c, pairs of two k; for convolutions of 32 c and
 * `width` k, pairs of two c. oneDNN's own reorder takes three to four times as long as a copy. */
typedef struct paired_weights {
    bool turned, half; /* pairs of c; the engine has them in bf16 */
    int64_t k, area, c, width;
    int64_t k_stride, area_stride, c_stride; /* numbers from one block to the next */
} paired_weights;

/* One array of a primitive: as the engine has it and, where the primitive wants it otherwise, a
 * copy in scratch memory with the reorder between the two. */
typedef struct operand {
    int argument; /* DNNL_ARG_... */
    int source;   /* of the node, or RESULT */
    dnnl_memory_t plain, inner;
    dnnl_primitive_t reorder;
    paired_weights *paired; /* instead of reorder, or NULL */
    size_t scratch;         /* where the copy is */
} operand;

typedef struct product {
    dnnl_primitive_t primitive;
    operand operands[MAX_OPERANDS];
    int count;
    dnnl_memory_t scratchpad;
    size_t scratchpad_at, scratch;
} product;

/* ---- One engine for the process ---- */

static dnnl_engine_t engine;
static dnnl_stream_t stream;
static char version[32];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void start(void) {
    const dnnl_version_t *v = dnnl_version();
    snprintf(version, sizeof version, "%d.%d.%d", v->major, v->minor, v->patch);
    if (dnnl_engine_create(&engine, dnnl_cpu, 0) == dnnl_success)
        dnnl_stream_create(&stream, engine, dnnl_stream_default_flags);
}

const char *ck_onednn_version(void) {
    pthread_once(&once, start);
    return version;
}

/* ---- Building ---- */

static void release(void *state) {
    product *p = state;
    if (!p) return;
    for (int i = 0; i < p->count; i++) {
        dnnl_memory_destroy(p->operands[i].plain);
        dnnl_memory_destroy(p->operands[i].inner);
        dnnl_primitive_destroy(p->operands[i].reorder);
        free(p->operands[i].paired);
    }
    dnnl_memory_destroy(p->scratchpad);
    dnnl_primitive_destroy(p->primitive);
    free(p);
}

static size_t take_scratch(product *p, const_dnnl_memory_desc_t desc) {
    size_t at = p->scratch;
    p->scratch += (dnnl_memory_desc_get_size(desc) + ALIGN - 1) / ALIGN * ALIGN;
    return at;
}

static dnnl_status_t add_reorder(operand *o, const_dnnl_memory_desc_t plain,
                                 const_dnnl_memory_desc_t inner) {
    dnnl_primitive_desc_t desc;
    bool out = o->source == RESULT;
    dnnl_status_t s = dnnl_reorder_primitive_desc_create(&desc, out ? inner : plain, engine,
                                                         out ? plain : inner, engine, NULL);
    if (s != dnnl_success) return s;
    s = dnnl_primitive_create(&o->reorder, desc);
    dnnl_primitive_desc_destroy(desc);
    return s;
}

/* What describes those weights, if it is they that are wanted. */
static paired_weights *find_paired(const_dnnl_memory_desc_t plain,
                                   const_dnnl_memory_desc_t wanted) {
    int rank = 0, blocks = 0;
    dnnl_data_type_t type, from;
    dnnl_dims_t *dims, *padded, *strides, *sizes, *of;
    if (dnnl_memory_desc_query(wanted, dnnl_query_ndims_s32, &rank) || rank != 4 ||
        dnnl_memory_desc_query(wanted, dnnl_query_data_type, &type) || type != dnnl_bf16 ||
        dnnl_memory_desc_query(plain, dnnl_query_data_type, &from) ||
        dnnl_memory_desc_query(wanted, dnnl_query_inner_nblks_s32, &blocks) || blocks != 3 ||
        dnnl_memory_desc_query(wanted, dnnl_query_dims, &dims) ||
        dnnl_memory_desc_query(wanted, dnnl_query_padded_dims, &padded) ||
        dnnl_memory_desc_query(wanted, dnnl_query_strides, &strides) ||
        dnnl_memory_desc_query(wanted, dnnl_query_inner_blks, &sizes) ||
        dnnl_memory_desc_query(wanted, dnnl_query_inner_idxs, &of))
        return NULL;
    const int64_t *d = *dims, *size = *sizes, *s = *strides;
    bool turned = (*of)[0] == 1, half = from == dnnl_bf16;
    if (!ck_nn_amx_best() || (half && !turned) || (*of)[1] == turned || (*of)[2] != turned ||
        size[0] != 16 || size[2] != 2 || size[1] % 16 ||
        memcmp(*dims, *padded, 4 * sizeof *d) != 0 || s[2] != d[3] * s[3])
        return NULL;
    paired_weights *w = ck_alloc(sizeof *w);
    if (w) *w = (paired_weights){turned, half, d[0], d[2] * d[3], d[1], size[1], s[0], s[3], s[1]};
    return w;
}

static void pair_weights(const paired_weights *w, uint16_t *to, const float *from) {
    const ck_nn_amx *kernels = ck_nn_amx_best();
    int64_t row = w->area * w->c;
#pragma omp parallel for collapse(2)
    for (int64_t c = 0; c < w->c; c += w->width)
        for (int64_t i = 0; i < w->area; i++)
            for (int64_t k = 0; k < w->k; k += 2) {
                uint16_t *block = to + c / w->width * w->c_stride + i * w->area_stride +
                                  k / 32 * w->k_stride + k % 32 * w->width;
                const float *first = from + k * row + i * w->c + c;
                kernels->pair((uint32_t *)block, first, first + row, (size_t)w->width);
            }
}

static void turn_weights(const paired_weights *w, uint16_t *to, const void *from) {
    const ck_nn_amx *kernels = ck_nn_amx_best();
    int64_t row = w->area * w->c;
#pragma omp parallel for collapse(2)
    for (int64_t k = 0; k < w->k; k += 16)
        for (int64_t i = 0; i < w->area; i++)
            for (int64_t c = 0; c < w->c; c += 32) {
                uint32_t tile[16 * 16];
                const char *first =
                    (const char *)from + (k * row + i * w->c + c) * (w->half ? 2 : 4);
                ck_nn_side side = {first, (size_t)row, 1, w->half};
                uint16_t *block = to + k / w->width * w->k_stride + i * w->area_stride +
                                  c / 32 * w->c_stride + k % w->width * 2;
                kernels->pack(tile, side, 16, 32, true);
                for (int64_t t = 0; t < 16; t++)
                    memcpy(block + t * w->width * 2, tile + t * 16, sizeof tile / 16);
            }
}

/* plain: how the engine has it. The primitive tells how it wants it. */
static dnnl_status_t add_operand(product *p, const_dnnl_primitive_desc_t desc, int argument,
                                 int source, const_dnnl_memory_desc_t plain) {
    operand *o = &p->operands[p->count++];
    *o = (operand){.argument = argument, .source = source};
    const_dnnl_memory_desc_t wanted =
        dnnl_primitive_desc_query_md(desc, dnnl_query_exec_arg_md, argument);
    dnnl_status_t s = dnnl_memory_create(&o->plain, plain, engine, DNNL_MEMORY_NONE);
    if (s != dnnl_success || dnnl_memory_desc_equal(plain, wanted)) return s;
    o->scratch = take_scratch(p, wanted);
    s = dnnl_memory_create(&o->inner, wanted, engine, DNNL_MEMORY_NONE);
    if (s == dnnl_success && argument == DNNL_ARG_WEIGHTS) o->paired = find_paired(plain, wanted);
    return s == dnnl_success && !o->paired ? add_reorder(o, plain, wanted) : s;
}

static dnnl_status_t add_primitive(product *p, const_dnnl_primitive_desc_t desc) {
    const_dnnl_memory_desc_t pad = dnnl_primitive_desc_query_md(desc, dnnl_query_scratchpad_md, 0);
    p->scratchpad_at = take_scratch(p, pad);
    dnnl_status_t s = dnnl_memory_create(&p->scratchpad, pad, engine, DNNL_MEMORY_NONE);
    return s == dnnl_success ? dnnl_primitive_create(&p->primitive, desc) : s;
}

/* ---- Running ---- */

static void run(const ck_call *call) {
    product *p = call->state;
    char *scratch = call->scratch;
    dnnl_exec_arg_t arguments[MAX_OPERANDS + 1];
    for (int i = 0; i < p->count; i++) {
        operand *o = &p->operands[i];
        void *at = o->source == RESULT ? call->dst : (void *)call->src[o->source];
        dnnl_memory_set_data_handle(o->plain, at);
        if (o->inner) dnnl_memory_set_data_handle(o->inner, scratch + o->scratch);
        arguments[i] = (dnnl_exec_arg_t){o->argument, o->inner ? o->inner : o->plain};
        dnnl_exec_arg_t move[2] = {{DNNL_ARG_FROM, o->plain}, {DNNL_ARG_TO, o->inner}};
        if (o->paired && o->paired->turned)
            turn_weights(o->paired, (uint16_t *)(scratch + o->scratch), at);
        else if (o->paired)
            pair_weights(o->paired, (uint16_t *)(scratch + o->scratch), at);
        else if (o->inner && o->source != RESULT)
            dnnl_primitive_execute(o->reorder, stream, 2, move);
    }
    dnnl_memory_set_data_handle(p->scratchpad, scratch + p->scratchpad_at);
    arguments[p->count] = (dnnl_exec_arg_t){DNNL_ARG_SCRATCHPAD, p->scratchpad};
    dnnl_primitive_execute(p->primitive, stream, p->count + 1, arguments);
    for (int i = 0; i < p->count; i++) {
        operand *o = &p->operands[i];
        dnnl_exec_arg_t move[2] = {{DNNL_ARG_FROM, o->inner}, {DNNL_ARG_TO, o->plain}};
        if (o->inner && o->source == RESULT) dnnl_primitive_execute(o->reorder, stream, 2, move);
    }
    dnnl_stream_wait(stream);
}

/* ---- Descriptions of arrays ---- */

typedef struct descriptions {
    dnnl_memory_desc_t x, w, bias, y;             /* as the engine has them */
    dnnl_memory_desc_t inner_x, inner_w, inner_y; /* as asked of the primitive */
} descriptions;

static void destroy(descriptions *d) {
    dnnl_memory_desc_destroy(d->x), dnnl_memory_desc_destroy(d->w);
    dnnl_memory_desc_destroy(d->y), dnnl_memory_desc_destroy(d->bias);
    dnnl_memory_desc_destroy(d->inner_x), dnnl_memory_desc_destroy(d->inner_w);
    dnnl_memory_desc_destroy(d->inner_y);
}

static dnnl_memory_desc_t described(int rank, const dnnl_dim_t *dims, dnnl_data_type_t type,
                                    dnnl_format_tag_t tag) {
    dnnl_memory_desc_t desc = NULL;
    dnnl_memory_desc_create_with_tag(&desc, rank, dims, type, tag);
    return desc;
}

/* ---- Convolution ---- */

/* x: N H W C, w: K R S C, y: N P Q K, whichever of the three the node makes. */
typedef struct convolution {
    ck_shape x, w, y;
    dnnl_data_type_t x_type, w_type, y_type;
    dnnl_dims_t stride, dilation, before, after;
    bool bias;
} convolution;

static dnnl_data_type_t type_of(const bool *half, ck_node n) {
    return half[n] ? dnnl_bf16 : dnnl_f32;
}

static convolution convolution_of(const ck_graph *g, ck_node id, const bool *half) {
    const ck_graph_node *n = &g->nodes[id];
    ck_node x = n->src[0], w = n->src[1], y = id;
    if (n->op == CK_OP_CONV_DATA_GRAD) x = id, y = n->src[0];
    if (n->op == CK_OP_CONV_WEIGHT_GRAD) w = id, y = n->src[1];
    convolution c = {.x = ck_node_shape(g, x),
                     .w = ck_node_shape(g, w),
                     .y = ck_node_shape(g, y),
                     .x_type = type_of(half, x),
                     .w_type = type_of(half, w),
                     .y_type = type_of(half, y),
                     .bias = n->op == CK_OP_CONV && n->src[2] != CK_NONE};
    for (int i = 0; i < 2; i++) {
        c.stride[i] = n->i[0];
        c.before[i] = n->i[1 + i];
        c.after[i] = (c.y.d[1 + i] - 1) * n->i[0] + c.w.d[1 + i] - c.x.d[1 + i] - c.before[i];
    }
    return c;
}

static void describe_convolution(const convolution *c, bool bf16, descriptions *d) {
    dnnl_dims_t x = {c->x.d[0], c->x.d[3], c->x.d[1], c->x.d[2]};
    dnnl_dims_t w = {c->w.d[0], c->w.d[3], c->w.d[1], c->w.d[2]};
    dnnl_dims_t y = {c->y.d[0], c->y.d[3], c->y.d[1], c->y.d[2]};
    d->x = described(4, x, c->x_type, dnnl_nhwc);
    d->w = described(4, w, c->w_type, dnnl_ohwi);
    d->y = described(4, y, c->y_type, dnnl_nhwc);
    d->bias = c->bias ? described(1, w, dnnl_f32, dnnl_a) : NULL;
    dnnl_data_type_t type = bf16 ? dnnl_bf16 : dnnl_f32;
    d->inner_x = described(4, x, type, dnnl_nhwc);
    d->inner_w = described(4, w, type, dnnl_format_tag_any);
    d->inner_y = described(4, y, type, dnnl_nhwc);
}

static dnnl_status_t make_convolution(product *p, ck_op op, const convolution *c,
                                      const descriptions *d, const_dnnl_primitive_attr_t attr) {
    const dnnl_alg_kind_t direct = dnnl_convolution_direct;
    dnnl_primitive_desc_t forward = NULL, desc = NULL;
    /* Results are as the engine wants them: of the forward pass here, of the gradients below. */
    dnnl_status_t s = dnnl_convolution_forward_primitive_desc_create(
        &forward, engine, dnnl_forward_training, direct, d->inner_x, d->inner_w, d->bias,
        op == CK_OP_CONV ? d->y : d->inner_y, c->stride, c->dilation, c->before, c->after, attr);
    if (s == dnnl_success && op == CK_OP_CONV_DATA_GRAD)
        s = dnnl_convolution_backward_data_primitive_desc_create(
            &desc, engine, direct, d->x, d->inner_w, d->inner_y, c->stride, c->dilation, c->before,
            c->after, forward, attr);
    if (s == dnnl_success && op == CK_OP_CONV_WEIGHT_GRAD) {
        dnnl_memory_desc_t any = NULL;
        dnnl_dims_t w = {c->w.d[0], c->w.d[3], c->w.d[1], c->w.d[2]};
        any = described(4, w, dnnl_f32, dnnl_format_tag_any);
        s = dnnl_convolution_backward_weights_primitive_desc_create(
            &desc, engine, direct, d->inner_x, any, NULL, d->inner_y, c->stride, c->dilation,
            c->before, c->after, forward, attr);
        dnnl_memory_desc_destroy(any);
    }
    const_dnnl_primitive_desc_t used = op == CK_OP_CONV ? forward : desc;
    if (s == dnnl_success && op == CK_OP_CONV) {
        s = add_operand(p, used, DNNL_ARG_SRC, 0, d->x);
        if (s == dnnl_success) s = add_operand(p, used, DNNL_ARG_WEIGHTS, 1, d->w);
        if (s == dnnl_success && d->bias) s = add_operand(p, used, DNNL_ARG_BIAS, 2, d->bias);
        if (s == dnnl_success) s = add_operand(p, used, DNNL_ARG_DST, RESULT, d->y);
    } else if (s == dnnl_success && op == CK_OP_CONV_DATA_GRAD) {
        s = add_operand(p, used, DNNL_ARG_DIFF_DST, 0, d->y);
        if (s == dnnl_success) s = add_operand(p, used, DNNL_ARG_WEIGHTS, 1, d->w);
        if (s == dnnl_success) s = add_operand(p, used, DNNL_ARG_DIFF_SRC, RESULT, d->x);
    } else if (s == dnnl_success) {
        s = add_operand(p, used, DNNL_ARG_SRC, 0, d->x);
        if (s == dnnl_success) s = add_operand(p, used, DNNL_ARG_DIFF_DST, 1, d->y);
        if (s == dnnl_success) s = add_operand(p, used, DNNL_ARG_DIFF_WEIGHTS, RESULT, d->w);
    }
    if (s == dnnl_success) s = add_primitive(p, used);
    dnnl_primitive_desc_destroy(desc);
    dnnl_primitive_desc_destroy(forward);
    return s;
}

/* ---- Matrix product ---- */

static void describe_matmul(const ck_graph *g, ck_node id, const bool *half, bool bf16,
                            descriptions *d) {
    const ck_graph_node *n = &g->nodes[id];
    ck_shape a = ck_node_shape(g, n->src[0]), b = ck_node_shape(g, n->src[1]);
    bool ta = n->i[0], tb = n->i[1];
    dnnl_dims_t x = {a.d[ta], a.d[!ta]}, w = {b.d[tb], b.d[!tb]};
    dnnl_dims_t y = {n->shape.d[0], n->shape.d[1]}, row = {1, y[1]};
    dnnl_data_type_t type = bf16 ? dnnl_bf16 : dnnl_f32;
    d->x = described(2, x, type_of(half, n->src[0]), ta ? dnnl_ba : dnnl_ab);
    d->w = described(2, w, type_of(half, n->src[1]), tb ? dnnl_ba : dnnl_ab);
    d->y = described(2, y, type_of(half, id), dnnl_ab);
    d->bias = n->src[2] != CK_NONE ? described(2, row, dnnl_f32, dnnl_ab) : NULL;
    d->inner_x = described(2, x, type, ta ? dnnl_ba : dnnl_ab);
    d->inner_w = described(2, w, type, dnnl_format_tag_any);
}

static dnnl_status_t make_matmul(product *p, const descriptions *d,
                                 const_dnnl_primitive_attr_t attr) {
    dnnl_primitive_desc_t desc = NULL;
    dnnl_status_t s = dnnl_matmul_primitive_desc_create(&desc, engine, d->inner_x, d->inner_w,
                                                        d->bias, d->y, attr);
    if (s == dnnl_success) s = add_operand(p, desc, DNNL_ARG_SRC, 0, d->x);
    if (s == dnnl_success) s = add_operand(p, desc, DNNL_ARG_WEIGHTS, 1, d->w);
    if (s == dnnl_success && d->bias) s = add_operand(p, desc, DNNL_ARG_BIAS, 2, d->bias);
    if (s == dnnl_success) s = add_operand(p, desc, DNNL_ARG_DST, RESULT, d->y);
    if (s == dnnl_success) s = add_primitive(p, desc);
    dnnl_primitive_desc_destroy(desc);
    return s;
}

/* ---- Nodes ---- */

static dnnl_status_t make(product *p, const ck_graph *g, ck_node n, const bool *half, bool bf16) {
    dnnl_primitive_attr_t attr;
    dnnl_status_t s = dnnl_primitive_attr_create(&attr);
    if (s != dnnl_success) return s;
    /* Its working memory is part of the plan, as all memory is. */
    dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    descriptions d = {0};
    if (g->nodes[n].op == CK_OP_MATMUL) {
        describe_matmul(g, n, half, bf16, &d);
        s = make_matmul(p, &d, attr);
    } else {
        convolution c = convolution_of(g, n, half);
        describe_convolution(&c, bf16, &d);
        s = make_convolution(p, g->nodes[n].op, &c, &d, attr);
    }
    destroy(&d);
    dnnl_primitive_attr_destroy(attr);
    return s;
}

ck_status ck_onednn_prepare(const ck_graph *g, ck_node n, const bool *half, bool bf16,
                            ck_kernel *kernel, bool *done, ck_error *err) {
    ck_op op = g->nodes[n].op;
    *done = false;
    if (op != CK_OP_MATMUL && op != CK_OP_CONV && op != CK_OP_CONV_DATA_GRAD &&
        op != CK_OP_CONV_WEIGHT_GRAD)
        return CK_OK;
    pthread_once(&once, start);
    if (!stream) return CK_OK;
    product *p = ck_alloc(sizeof *p);
    if (!p) return ck_fail_memory(err, ck_op_name(op));
    dnnl_status_t s = make(p, g, n, half, bf16);
    if (s == dnnl_success) {
        *kernel = (ck_kernel){.run = run, .scratch = p->scratch, .state = p, .release = release};
        *done = true;
        return CK_OK;
    }
    release(p);
    if (s == dnnl_out_of_memory) return ck_fail_memory(err, ck_op_name(op));
    /* What it does not know the reference does, in f32. */
    if (half[n] || half[g->nodes[n].src[0]] || half[g->nodes[n].src[1]])
        return ck_fail(err, CK_USAGE, "%s: oneDNN does not know it in bfloat16", ck_op_name(op));
    return CK_OK;
}

#endif
