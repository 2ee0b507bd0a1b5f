/* The network as data: a static graph of operations on arrays, each node assigned once.
 *
 *   ck_graph *g = ck_graph_new();
 *   ck_node x = ck_input(g, "x", CK_F32, CK_SHAPE(8, 64));
 *   ck_node w = ck_param(g, params, "fc.weight", CK_SHAPE(10, 64));
 *   ck_node y = ck_linear(g, x, w, CK_NONE);
 *   ck_node loss = ck_mean(g, ck_mul(g, y, y));
 *   CK_TRY(ck_gradients(g, loss, &w, 1, &dw, err));       appends ordinary nodes
 *   CK_TRY(ck_graph_check(g, err));
 *
 * Building never fails half-way: the first mistake (a shape that does not fit, a weight that is not
 * there, no memory) is kept in the graph, every later call returns CK_NONE, and ck_graph_check
 * tells. So model functions read like the models.
 *
 * Layouts: images are N H W C, tokens N T C, so that one is the other by a reshape. Convolution
 * weights are K R S C (out, height, width, in); linear weights out x in, as checkpoints have them.
 * All arithmetic is on F32 (I32 for ids).
 */
#ifndef CK_GRAPH_H
#define CK_GRAPH_H

#include "distill/engine/params.h"
#include "io/error.h"
#include "kernels/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CK_MAX_DIMS = 5,
    CK_MAX_SRC = 6,
    CK_MAX_ATTR = 6,
    CK_MAX_HEAD = 512, /* channels of an attention head; a VAE's only head has 512 */
    CK_NONE = -1
};

typedef int32_t ck_node; /* index into the graph, or CK_NONE */

typedef struct ck_shape {
    int rank; /* 1 to CK_MAX_DIMS */
    int64_t d[CK_MAX_DIMS];
} ck_shape;

#define CK_SHAPE(...)                                                                              \
    ((ck_shape){(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}})

/* Every operation. `a`, `b`, ... are sources in order, [i] an integer attribute, (x) a real one. */
typedef enum ck_op {
    CK_OP_INPUT,      /* written by the caller before a run */
    CK_OP_PARAM,      /* lives in a ck_params */
    CK_OP_CONST,      /* every element (x) */
    CK_OP_VIEW,       /* a, from element [offset] on, in another shape; no copy */
    CK_OP_UNARY,      /* f(a), f = [ck_unary], parameter (x) */
    CK_OP_UNARY_GRAD, /* b f'(a) */
    CK_OP_AFFINE,     /* (x) a + (y) */
    CK_OP_ADD,        /* a + b; b's dimensions are a's or 1 */
    CK_OP_MUL,        /* a b, the same */
    CK_OP_SUM_TO,     /* a summed along the dimensions that are 1 in the result */
    CK_OP_EXPAND,     /* a repeated along its dimensions of 1 */
    CK_OP_PERMUTE,    /* dimension i of the result is dimension [i] of a */
    CK_OP_CONCAT,     /* a and b one after the other along dimension [axis] */
    CK_OP_SLICE,      /* a from [begin] on along dimension [axis], as many as the result has */
    CK_OP_PAD,        /* a put at [begin] along dimension [axis] of zeros */
    CK_OP_MATMUL, /* op(a) op(b) + c; op transposes if [0] ([1]) is set; c, a row, is optional */
    CK_OP_CONV,   /* a N H W C, b K R S C, c bias of K (optional); [stride, top, left] */
    CK_OP_CONV_DATA_GRAD,   /* a = dy, b = weights */
    CK_OP_CONV_WEIGHT_GRAD, /* a = x, b = dy */
    CK_OP_GROUP_NORM,       /* a N..C, b gain, c bias (optional); [groups, silu] (eps); packed */
    CK_OP_GROUP_NORM_GRAD,  /* a = x, b, c, d = packed, e = dy; packed dx, dgain, dbias */
    CK_OP_LAYER_NORM,       /* a ..C, b gain, c bias (both optional); (eps); packed */
    CK_OP_LAYER_NORM_GRAD,  /* a = x, b = packed, c = dy, d = gain (optional); packed as above */
    CK_OP_GEGLU,            /* a ..2C: first half times gelu of the second */
    CK_OP_GEGLU_GRAD,       /* a, b = dy */
    CK_OP_ATTENTION,        /* a = q, b = k, c = v, N T C; [heads, causal] (scale); packed */
    CK_OP_ATTENTION_GRAD,   /* a, b, c, d = packed, e = dy; packed dq, dk, dv */
    CK_OP_SOFTMAX,          /* of the numbers along the last dimension */
    CK_OP_UPSAMPLE,         /* N H W C, every pixel four times */
    CK_OP_UPSAMPLE_GRAD,    /* sums of 2 x 2 pixels */
    CK_OP_EMBED,            /* rows of a (V C) by ids b; not a number for ids outside 0..V-1 */
    CK_OP_EMBED_GRAD,       /* a = ids, b = dy; V C */
    CK_OP_TIMESTEP,         /* a (N): sines and cosines; [flip] (shift, max period) */
    CK_OP_COUNT
} ck_op;

typedef enum ck_unary {
    CK_SILU,       /* x / (1 + e^-x) */
    CK_GELU,       /* x (1 + erf(x / sqrt 2)) / 2 */
    CK_GELU_TANH,  /* x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2 */
    CK_QUICK_GELU, /* x / (1 + e^(-1.702 x)) */
    CK_SQRT,
    CK_RECIPROCAL,
    CK_EXP,
    CK_HUBER, /* x^2 / 2 up to |x| = p, then p (|x| - p / 2) */
} ck_unary;

typedef struct ck_graph_node {
    ck_op op;
    ck_dtype dtype;
    ck_shape shape; /* of a packed node: one dimension, all parts one after the other */
    ck_node src[CK_MAX_SRC];
    int64_t i[CK_MAX_ATTR];
    double x[2];
    const char *name;  /* of an input or parameter, owned by the graph; or NULL */
    ck_params *params; /* of a parameter ... */
    size_t param;      /* ... and its index */
    int block;         /* checkpointed block, or 0 */
    ck_node original;  /* the node that this one recomputes; itself for all others */
    bool detached;     /* no gradient flows to the source */
    bool inner;        /* of MUL and AFFINE: see ck_inner */
} ck_graph_node;

/* Which node a weight is. */
typedef struct ck_graph_weight {
    const ck_params *params;
    size_t param;
    ck_node node;
} ck_graph_weight;

typedef struct ck_graph {
    ck_graph_node *nodes;
    size_t count, capacity;
    ck_graph_weight *weights; /* all that the graph has, so that none is a second time */
    size_t weight_count, weight_capacity;
    int block, blocks; /* the open block, and how many there were */
    const struct ck_adapting
        *adapting;  /* layers get adapters (distill/models/adapter.h); or NULL */
    ck_error error; /* the first mistake */
} ck_graph;

ck_graph *ck_graph_new(void); /* NULL when out of memory */
void ck_graph_free(ck_graph *g);
/* The first mistake made while building, or CK_OK. */
ck_status ck_graph_check(const ck_graph *g, ck_error *err);
/* Records a mistake, if it is the first; returns CK_NONE. */
ck_node ck_graph_fail(ck_graph *g, ck_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

int64_t ck_shape_count(const ck_shape *s);
bool ck_shape_equal(const ck_shape *a, const ck_shape *b);
const char *ck_shape_text(const ck_shape *s, char *buf, size_t size);
ck_shape ck_node_shape(const ck_graph *g, ck_node n); /* of CK_NONE: rank 1, {0} */
const char *ck_op_name(ck_op op);

/* Leaves. */
ck_node ck_input(ck_graph *g, const char *name, ck_dtype dtype, ck_shape shape);
/* A weight by its name in params. shape is the engine's (K R S C for convolutions). A params that
 * creates (ck_params_new) makes it when it is not there; otherwise that is CK_INPUT. */
ck_node ck_param(ck_graph *g, ck_params *params, const char *name, ck_shape shape);
bool ck_param_exists(const ck_params *params, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Whether a gradient can come to a weight: SD3's table of places is in the file but not trained. */
bool ck_graph_trains(const ck_graph *g, ck_node weight);
ck_node ck_const(ck_graph *g, ck_shape shape, double value);

/* Between ck_block_begin and ck_block_end lies a checkpointed block: what is inside is computed
 * again for the backward pass instead of being kept. Blocks do not nest. */
void ck_block_begin(ck_graph *g);
void ck_block_end(ck_graph *g);

/* Shapes. */
ck_node ck_reshape(ck_graph *g, ck_node a, ck_shape shape);
ck_node ck_view(ck_graph *g, ck_node a, int64_t offset, ck_shape shape);
ck_node ck_detach(ck_graph *g, ck_node a);
ck_node ck_permute(ck_graph *g, ck_node a, const int order[]);
ck_node ck_concat(ck_graph *g, ck_node a, ck_node b, int axis);
ck_node ck_slice(ck_graph *g, ck_node a, int axis, int64_t begin, int64_t n);
ck_node ck_pad(ck_graph *g, ck_node a, int axis, int64_t begin, int64_t n);
ck_node ck_sum_to(ck_graph *g, ck_node a, ck_shape shape);
ck_node ck_expand(ck_graph *g, ck_node a, ck_shape shape);

/* Arithmetic. In ck_add and ck_mul, b is repeated along its dimensions of 1. */
ck_node ck_unary_op(ck_graph *g, ck_unary f, ck_node a, double parameter);
ck_node ck_affine(ck_graph *g, ck_node a, double factor, double offset);
ck_node ck_add(ck_graph *g, ck_node a, ck_node b);
ck_node ck_sub(ck_graph *g, ck_node a, ck_node b);
ck_node ck_mul(ck_graph *g, ck_node a, ck_node b);
ck_node ck_mean(ck_graph *g, ck_node a); /* of all elements, shape 1 */
/* Marks a (just made by ck_mul or ck_affine; returned) as what lies between layers, where backends
 * may round it to bf16. Others are not rounded: losses are made of them, and are small differences
 * of large numbers. */
ck_node ck_inner(ck_graph *g, ck_node a);

/* Layers. */
ck_node ck_matmul(ck_graph *g, ck_node a, ck_node b, bool ta, bool tb, ck_node row);
ck_node ck_linear(ck_graph *g, ck_node x, ck_node w, ck_node bias); /* x ..K, w N K */
/* pad: top, left, bottom, right */
ck_node ck_conv(ck_graph *g, ck_node x, ck_node w, ck_node bias, int stride, const int pad[4]);
ck_node ck_group_norm(ck_graph *g, ck_node x, ck_node gain, ck_node bias, int groups, double eps,
                      bool silu);
ck_node ck_layer_norm(ck_graph *g, ck_node x, ck_node gain, ck_node bias, double eps);
ck_node ck_geglu(ck_graph *g, ck_node x);
ck_node ck_attention(ck_graph *g, ck_node q, ck_node k, ck_node v, int heads, bool causal,
                     double scale);
ck_node ck_softmax(ck_graph *g, ck_node x);
ck_node ck_upsample(ck_graph *g, ck_node x);
ck_node ck_embed(ck_graph *g, ck_node table, ck_node ids);
/* dim numbers per element of t: cosines, then sines (flip) of t f_i, with
 * f_i = period^(-i / (dim/2 - shift)); diffusers' get_timestep_embedding. */
ck_node ck_timestep(ck_graph *g, ck_node t, int dim, bool flip, double shift, double period);

/* d(of)/d(wrt[i]) to grads[i] for a scalar `of`: appended nodes, by the table of rules in
 * gradient.c. A wrt that `of` does not depend on is CK_USAGE. */
ck_status ck_gradients(ck_graph *g, ck_node of, const ck_node *wrt, size_t count, ck_node *grads,
                       ck_error *err);

/* For gradient.c: appends a node as it is; sources must exist. */
ck_node ck_append(ck_graph *g, ck_graph_node node);
/* Whether a node has its result first and then, without a gap, numbers that its gradient reads:
 * GROUP_NORM  mean and 1 / sqrt(variance + eps), side by side, of each group of each image
 * LAYER_NORM  the same of each row
 * ATTENTION   ln of the sum of exp of the scaled scores, for each image, head, query (in this
 * order) */
bool ck_op_packed(ck_op op);
/* How many numbers of a node are its result, or of the gradient of a norm, that of its first
 * source: all but those behind. */
int64_t ck_node_main(const ck_graph *g, ck_node n);

/* What a node shows that is a view, or a view of one; else the node itself. */
ck_node ck_shown(const ck_graph *g, ck_node n);

#endif
