/* Every operation of the engine: results against values that torch or a pencil gave, gradients
 * against finite differences, backends against each other, and shapes that do not fit.
 *
 *   build/tests/test_ops --bench      measures the backend "cpu" instead
 */
#include "distill/engine/backend.h"
#include "distill/engine/onednn.h"
#include "kernels/cuda/kernels.h"
#include "kernels/half.h"
#include "kernels/nn.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- A network of one operation ---- */

enum { MAX_INPUTS = 6, MAX_PARAMETERS = 12 };

typedef struct net {
    ck_graph *g;
    ck_node in[MAX_INPUTS]; /* what gradients are taken of */
    int count;
    ck_node ids, weight;         /* inputs without gradient, or CK_NONE */
    ck_node one[MAX_INPUTS + 1]; /* identity matrices, see `through` */
    int ones;
    ck_node y, loss, grads[MAX_INPUTS];
} net;

typedef ck_node build(net *n, const int *p);

typedef struct op_case {
    const char *name;
    build *make;
    int p[MAX_PARAMETERS];
} op_case;

/* x by an identity matrix: a product may be stored as bf16, where an input is not. */
static ck_node through(net *n, ck_node x) {
    ck_shape s = ck_node_shape(n->g, x);
    int64_t c = s.d[s.rank - 1];
    ck_node flat = ck_reshape(n->g, x, CK_SHAPE(ck_shape_count(&s) / c, c));
    ck_node one = n->one[n->ones++] = ck_input(n->g, "one", CK_F32, CK_SHAPE(c, c));
    return ck_reshape(n->g, ck_matmul(n->g, flat, one, false, false, CK_NONE), s);
}

static bool between_products; /* before and behind the operation */

static ck_node in(net *n, ck_shape s) {
    ck_node x = ck_input(n->g, "x", CK_F32, s);
    n->in[n->count++] = x;
    return between_products && s.rank > 1 ? through(n, x) : x;
}

static ck_shape four(const int *p) {
    return CK_SHAPE(p[0], p[1], p[2], p[3]);
}

/* p: function, parameter in tenths, elements, whether x must be positive */
static ck_node unary(net *n, const int *p) {
    ck_node x = in(n, CK_SHAPE(p[2]));
    if (p[3]) x = ck_affine(n->g, ck_mul(n->g, x, x), 1, 0.5);
    return ck_unary_op(n->g, (ck_unary)p[0], x, p[1] / 10.);
}

/* p: elements */
static ck_node affine(net *n, const int *p) {
    return ck_affine(n->g, in(n, CK_SHAPE(p[0])), -2.5, 0.5);
}

/* p: shapes of a and b */
static ck_node add(net *n, const int *p) {
    ck_node a = in(n, four(p));
    return ck_add(n->g, a, in(n, four(p + 4)));
}

static ck_node mul(net *n, const int *p) {
    ck_node a = in(n, four(p));
    return ck_mul(n->g, a, in(n, four(p + 4)));
}

static ck_node sub(net *n, const int *p) {
    ck_node a = in(n, four(p));
    return ck_sub(n->g, a, in(n, four(p + 4)));
}

/* p: elements; what is used twice gets the sum of both gradients */
static ck_node twice(net *n, const int *p) {
    ck_node x = in(n, CK_SHAPE(p[0]));
    return ck_add(n->g, ck_mul(n->g, x, x), ck_affine(n->g, x, 3, 0));
}

/* p: shapes before and after */
static ck_node sum_to(net *n, const int *p) {
    return ck_sum_to(n->g, in(n, four(p)), four(p + 4));
}

static ck_node expand(net *n, const int *p) {
    return ck_expand(n->g, in(n, four(p)), four(p + 4));
}

static ck_node mean(net *n, const int *p) {
    return ck_mean(n->g, in(n, four(p)));
}

/* p: shape, order */
static ck_node permute(net *n, const int *p) {
    return ck_permute(n->g, in(n, four(p)), p + 4);
}

/* p: shape of a, axis, length of b along it */
static ck_node concat(net *n, const int *p) {
    ck_shape b = four(p);
    ck_node a = in(n, b);
    b.d[p[4]] = p[5];
    return ck_concat(n->g, a, in(n, b), p[4]);
}

/* p: shape, axis, begin, length */
static ck_node slice(net *n, const int *p) {
    return ck_slice(n->g, in(n, four(p)), p[4], p[5], p[6]);
}

static ck_node pad(net *n, const int *p) {
    return ck_pad(n->g, in(n, four(p)), p[4], p[5], p[6]);
}

/* p: elements, offset, shape of 2 */
static ck_node view(net *n, const int *p) {
    return ck_view(n->g, in(n, CK_SHAPE(p[0])), p[1], CK_SHAPE(p[2], p[3]));
}

/* p: rows, columns, depth, transposed a, transposed b, with row */
static ck_node matmul(net *n, const int *p) {
    ck_node a = in(n, p[3] ? CK_SHAPE(p[2], p[0]) : CK_SHAPE(p[0], p[2]));
    ck_node b = in(n, p[4] ? CK_SHAPE(p[1], p[2]) : CK_SHAPE(p[2], p[1]));
    return ck_matmul(n->g, a, b, p[3], p[4], p[5] ? in(n, CK_SHAPE(p[1])) : CK_NONE);
}

/* p: images, tokens, channels before and after */
static ck_node linear(net *n, const int *p) {
    ck_node x = in(n, CK_SHAPE(p[0], p[1], p[2])), w = in(n, CK_SHAPE(p[3], p[2]));
    return ck_linear(n->g, x, w, in(n, CK_SHAPE(p[3])));
}

/* p: shape of x, channels of y, side of the kernel, stride, padding (4), with bias */
static ck_node conv(net *n, const int *p) {
    ck_node x = in(n, four(p)), w = in(n, CK_SHAPE(p[4], p[5], p[5], p[3]));
    return ck_conv(n->g, x, w, p[11] ? in(n, CK_SHAPE(p[4])) : CK_NONE, p[6], p + 7);
}

/* p: shape, groups, silu, with bias */
static ck_node group_norm(net *n, const int *p) {
    ck_node x = in(n, four(p)), gain = in(n, CK_SHAPE(p[3]));
    ck_node bias = p[6] ? in(n, CK_SHAPE(p[3])) : CK_NONE;
    return ck_group_norm(n->g, x, gain, bias, p[4], 1e-5, p[5]);
}

/* p: images, tokens, channels, with gain, with bias */
static ck_node layer_norm(net *n, const int *p) {
    ck_node x = in(n, CK_SHAPE(p[0], p[1], p[2]));
    ck_node gain = p[3] ? in(n, CK_SHAPE(p[2])) : CK_NONE;
    return ck_layer_norm(n->g, x, gain, p[4] ? in(n, CK_SHAPE(p[2])) : CK_NONE, 1e-5);
}

/* p: rows, channels of the result */
static ck_node geglu(net *n, const int *p) {
    return ck_geglu(n->g, in(n, CK_SHAPE(p[0], 2 * p[1])));
}

/* p: images, queries, keys, channels, heads, causal, scale in hundredths */
static ck_node attention(net *n, const int *p) {
    ck_node q = in(n, CK_SHAPE(p[0], p[1], p[3])), k = in(n, CK_SHAPE(p[0], p[2], p[3]));
    ck_node v = in(n, CK_SHAPE(p[0], p[2], p[3]));
    return ck_attention(n->g, q, k, v, p[4], p[5], p[6] / 100.);
}

static ck_node softmax(net *n, const int *p) {
    return ck_softmax(n->g, in(n, CK_SHAPE(p[0], p[1])));
}

static ck_node upsample(net *n, const int *p) {
    return ck_upsample(n->g, in(n, four(p)));
}

/* p: vocabulary, channels, images, tokens */
static ck_node embed(net *n, const int *p) {
    ck_node table = in(n, CK_SHAPE(p[0], p[1]));
    n->ids = ck_input(n->g, "ids", CK_I32, CK_SHAPE(p[2], p[3]));
    return ck_embed(n->g, table, n->ids);
}

/* p: times, numbers for each, flip, shift */
static ck_node timestep(net *n, const int *p) {
    n->weight = ck_input(n->g, "t", CK_F32, CK_SHAPE(p[0]));
    return ck_timestep(n->g, n->weight, p[1], p[2], p[3], 10000);
}

static ck_node constant(net *n, const int *p) {
    return ck_const(n->g, CK_SHAPE(p[0]), 2.5);
}

/* ---- Running it ---- */

static void make(net *n, build *f, const int *p) {
    *n = (net){.g = ck_graph_new(), .ids = CK_NONE, .weight = CK_NONE};
    assert_non_null(n->g);
    n->y = f(n, p);
    if (between_products) n->y = through(n, n->y);
    ck_error err;
    if (ck_graph_check(n->g, &err) != CK_OK) fail_msg("%s", err.message);
}

/* The sum of y's elements, each times a number of an input: every one's gradient is another. */
static void make_loss(net *n) {
    ck_shape s = ck_node_shape(n->g, n->y);
    n->weight = ck_input(n->g, "weight", CK_F32, s);
    ck_node flat = ck_reshape(n->g, ck_mul(n->g, n->y, n->weight), CK_SHAPE(ck_shape_count(&s)));
    n->loss = ck_sum_to(n->g, flat, CK_SHAPE(1));
    ck_error err;
    if (ck_gradients(n->g, n->loss, n->in, (size_t)n->count, n->grads, &err) != CK_OK)
        fail_msg("%s", err.message);
}

static size_t count_of(const net *n, ck_node x) {
    ck_shape s = ck_node_shape(n->g, x);
    return (size_t)ck_shape_count(&s);
}

static const ck_backend *backend(const char *name) {
    const ck_backend *b;
    ck_error err;
    if (ck_backend_open(name, &b, &err) != CK_OK) fail_msg("%s", err.message);
    return b;
}

static ck_exec *exec_of(const net *n, const char *name, const ck_node *outputs, int count) {
    ck_exec *e;
    ck_error err;
    if (ck_exec_new(backend(name), n->g, outputs, (size_t)count, &e, &err) != CK_OK ||
        ck_exec_allocate(e, 0, &err) != CK_OK)
        fail_msg("%s", err.message);
    return e;
}

static void run(ck_exec *e) {
    ck_error err;
    if (ck_exec_run(e, &err) != CK_OK) fail_msg("%s", err.message);
}

static void write_random(ck_exec *e, const net *n, ck_node x, uint64_t seed) {
    ck_error err;
    size_t count = count_of(n, x);
    float *values = malloc(count * sizeof *values);
    for (size_t i = 0; i < count; i++) values[i] = fixture_random_float(&seed);
    assert_int_equal(ck_exec_write(e, x, values, count, &err), CK_OK);
    free(values);
}

static void write_identity(ck_exec *e, const net *n, ck_node x) {
    ck_error err;
    size_t count = count_of(n, x), c = (size_t)ck_node_shape(n->g, x).d[0];
    float *values = calloc(count, sizeof *values);
    for (size_t i = 0; i < c; i++) values[i * c + i] = 1;
    assert_int_equal(ck_exec_write(e, x, values, count, &err), CK_OK);
    free(values);
}

/* The same numbers whatever the backend. */
static void write_inputs(ck_exec *e, const net *n) {
    for (int i = 0; i < n->ones; i++) write_identity(e, n, n->one[i]);
    for (int i = 0; i < n->count; i++) write_random(e, n, n->in[i], 100 + (uint64_t)i);
    if (n->weight != CK_NONE) write_random(e, n, n->weight, 99);
    if (n->ids == CK_NONE) return;
    ck_error err;
    ck_shape table = ck_node_shape(n->g, n->in[0]);
    size_t count = count_of(n, n->ids);
    int32_t *ids = malloc(count * sizeof *ids);
    for (size_t i = 0; i < count; i++) ids[i] = (int32_t)(i * i % (size_t)table.d[0]);
    assert_int_equal(ck_exec_write(e, n->ids, ids, count, &err), CK_OK);
    free(ids);
}

/* Results as they are, to be freed: count_of(x) elements of the backend's. */
static void *bits_of(const ck_exec *e, const net *n, ck_node x, size_t element) {
    ck_error err;
    size_t count = count_of(n, x);
    void *copy = malloc(count * element);
    if (element == sizeof(double))
        memcpy(copy, ck_exec_pointer(e, x), count * element);
    else
        assert_int_equal(ck_exec_read(e, x, copy, count, &err), CK_OK);
    return copy;
}

/* The same as doubles. */
static double *values_of(const ck_exec *e, const net *n, ck_node x, size_t element) {
    void *bits = bits_of(e, n, x, element);
    if (element == sizeof(double)) return bits;
    size_t count = count_of(n, x);
    double *values = malloc(count * sizeof *values);
    for (size_t i = 0; i < count; i++) values[i] = (double)((float *)bits)[i];
    free(bits);
    return values;
}

/* ---- Results ---- */

#define NUMBERS(...) ((const double[]){__VA_ARGS__})

typedef struct example {
    op_case op;
    const double *in[4];
    const double *want;
} example;

/* From torch 2.15 in f64 where the numbers are crooked. */
static const example examples[] = {
    {{"const", constant, {3}}, {NULL}, NUMBERS(2.5, 2.5, 2.5)},
    {{"silu", unary, {CK_SILU, 0, 6}},
     {NUMBERS(-3, -1, -0.25, 0, 0.5, 2)},
     NUMBERS(-0.14227762, -0.268941421, -0.109455875, 0, 0.311229666, 1.76159416)},
    {{"gelu", unary, {CK_GELU, 0, 6}},
     {NUMBERS(-3, -1, -0.25, 0, 0.5, 2)},
     NUMBERS(-0.00404969409, -0.158655254, -0.100323419, 0, 0.345731231, 1.95449974)},
    {{"gelu_tanh", unary, {CK_GELU_TANH, 0, 6}},
     {NUMBERS(-3, -1, -0.25, 0, 0.5, 2)},
     NUMBERS(-0.00363739208, -0.158808009, -0.100324649, 0, 0.34571401, 1.95459769)},
    {{"quick_gelu", unary, {CK_QUICK_GELU, 0, 6}},
     {NUMBERS(-3, -1, -0.25, 0, 0.5, 2)},
     NUMBERS(-0.0180713097, -0.154204234, -0.0988003501, 0, 0.350388437, 1.93565862)},
    {{"sqrt", unary, {CK_SQRT, 0, 3}}, {NUMBERS(0, 0.25, 9)}, NUMBERS(0, 0.5, 3)},
    {{"reciprocal", unary, {CK_RECIPROCAL, 0, 3}}, {NUMBERS(-2, 0.5, 8)}, NUMBERS(-0.5, 2, 0.125)},
    {{"exp", unary, {CK_EXP, 0, 3}}, {NUMBERS(-1, 0, 2)}, NUMBERS(0.36787944117, 1, 7.3890560989)},
    {{"huber", unary, {CK_HUBER, 5, 6}},
     {NUMBERS(-3, -1, -0.25, 0, 0.5, 2)},
     NUMBERS(1.375, 0.375, 0.03125, 0, 0.125, 0.875)},
    {{"affine", affine, {3}}, {NUMBERS(-1, 0, 2)}, NUMBERS(3, 0.5, -4.5)},
    {{"add", add, {1, 1, 2, 2, 1, 1, 2, 2}},
     {NUMBERS(1, 2, 3, 4), NUMBERS(10, 20, 30, 40)},
     NUMBERS(11, 22, 33, 44)},
    {{"add a row", add, {1, 1, 2, 2, 1, 1, 1, 2}},
     {NUMBERS(1, 2, 3, 4), NUMBERS(10, 20)},
     NUMBERS(11, 22, 13, 24)},
    {{"add per image", add, {2, 1, 1, 2, 2, 1, 1, 1}},
     {NUMBERS(1, 2, 3, 4), NUMBERS(10, 20)},
     NUMBERS(11, 12, 23, 24)},
    {{"mul a channel", mul, {1, 2, 2, 1, 1, 2, 1, 1}},
     {NUMBERS(1, 2, 3, 4), NUMBERS(10, 20)},
     NUMBERS(10, 20, 60, 80)},
    {{"sub", sub, {1, 1, 2, 2, 1, 1, 1, 1}},
     {NUMBERS(1, 2, 3, 4), NUMBERS(1)},
     NUMBERS(0, 1, 2, 3)},
    {{"sum_to columns", sum_to, {1, 1, 2, 3, 1, 1, 1, 3}},
     {NUMBERS(1, 2, 3, 4, 5, 6)},
     NUMBERS(5, 7, 9)},
    {{"sum_to rows", sum_to, {1, 1, 2, 3, 1, 1, 2, 1}},
     {NUMBERS(1, 2, 3, 4, 5, 6)},
     NUMBERS(6, 15)},
    {{"sum_to the middle", sum_to, {2, 2, 1, 2, 2, 1, 1, 2}},
     {NUMBERS(1, 2, 3, 4, 5, 6, 7, 8)},
     NUMBERS(4, 6, 12, 14)},
    {{"mean", mean, {1, 1, 2, 3}}, {NUMBERS(1, 2, 3, 4, 5, 9)}, NUMBERS(4)},
    {{"expand", expand, {1, 2, 1, 1, 2, 2, 1, 2}},
     {NUMBERS(1, 2)},
     NUMBERS(1, 1, 2, 2, 1, 1, 2, 2)},
    {{"permute", permute, {1, 2, 3, 1, 2, 0, 3, 1}},
     {NUMBERS(1, 2, 3, 4, 5, 6)},
     NUMBERS(1, 4, 2, 5, 3, 6)},
    {{"concat", concat, {1, 1, 2, 2, 3, 1}},
     {NUMBERS(1, 2, 3, 4), NUMBERS(8, 9)},
     NUMBERS(1, 2, 8, 3, 4, 9)},
    {{"slice", slice, {1, 2, 3, 1, 2, 1, 2}}, {NUMBERS(1, 2, 3, 4, 5, 6)}, NUMBERS(2, 3, 5, 6)},
    {{"pad", pad, {1, 2, 1, 2, 2, 1, 3}},
     {NUMBERS(1, 2, 3, 4)},
     NUMBERS(0, 0, 1, 2, 0, 0, 0, 0, 3, 4, 0, 0)},
    {{"view", view, {6, 1, 2, 2}}, {NUMBERS(1, 2, 3, 4, 5, 6)}, NUMBERS(2, 3, 4, 5)},
    {{"matmul", matmul, {2, 2, 3, 0, 0, 0}},
     {NUMBERS(1, 2, 3, 4, 5, 6), NUMBERS(1, 0, 2, 1, 0, -1)},
     NUMBERS(5, -1, 14, -1)},
    {{"matmul, both transposed", matmul, {2, 2, 3, 1, 1, 1}},
     {NUMBERS(1, 4, 2, 5, 3, 6), NUMBERS(1, 2, 0, 0, 1, -1), NUMBERS(100, 200)},
     NUMBERS(105, 199, 114, 199)},
    {{"linear", linear, {1, 2, 2, 1}},
     {NUMBERS(1, 2, 3, 4), NUMBERS(10, 1), NUMBERS(0.5)},
     NUMBERS(12.5, 34.5)},
    {{"conv", conv, {1, 3, 3, 2, 2, 2, 1, 0, 0, 0, 0, 1}},
     {NUMBERS(1, 0, 2, -1, 0, 1, 3, 1, -2, 0, 1, 1, 0, 2, 1, 1, -1, 3),
      NUMBERS(1, 0, 0, 1, 2, -1, 1, 1, -1, 2, 1, 0, 0, 1, 3, -2), NUMBERS(10, 20)},
     NUMBERS(13, 16, 11, 17, 13, 20, 12, 15)},
    {{"conv, stride 2, padded below and right", conv, {1, 3, 3, 2, 2, 2, 2, 0, 0, 1, 1, 1}},
     {NUMBERS(1, 0, 2, -1, 0, 1, 3, 1, -2, 0, 1, 1, 0, 2, 1, 1, -1, 3),
      NUMBERS(1, 0, 0, 1, 2, -1, 1, 1, -1, 2, 1, 0, 0, 1, 3, -2), NUMBERS(10, 20)},
     NUMBERS(13, 16, 11, 23, 11, 25, 9, 27)},
    {{"conv, stride 2, padded above and left", conv, {1, 3, 3, 2, 2, 2, 2, 1, 1, 0, 0, 0}},
     {NUMBERS(1, 0, 2, -1, 0, 1, 3, 1, -2, 0, 1, 1, 0, 2, 1, 1, -1, 3),
      NUMBERS(1, 0, 0, 1, 2, -1, 1, 1, -1, 2, 1, 0, 0, 1, 3, -2)},
     NUMBERS(1, 3, 6, -3, 3, -1, 2, -5)},
    {{"group_norm", group_norm, {2, 1, 2, 4, 2, 0, 1}},
     {NUMBERS(1, 2, 0, -1, 3, -2, 4, 1, 0, 1, 1, 5, 2, 2, -3, 1), NUMBERS(1, 2, -1, 0.5),
      NUMBERS(0, 1, 0.5, -1)},
     NUMBERS(0, 2.06904344, 1.03452172, -1.53452172, 1.06904344, -2.20713032, -1.10356516, -1,
             -1.50754576, 0.396981696, 0.5, -0.292893661, 0.904527455, 2.80905491, 1.91421268, -1)},
    {{"group_norm with silu", group_norm, {2, 1, 2, 4, 2, 1, 1}},
     {NUMBERS(1, 2, 0, -1, 3, -2, 4, 1, 0, 1, 1, 5, 2, 2, -3, 1), NUMBERS(1, 2, -1, 0.5),
      NUMBERS(0, 1, 0.5, -1)},
     NUMBERS(0, 1.83701627, 0.763261421, -0.272121443, 0.795811932, -0.21875312, -0.274867719,
             -0.268941421, -0.273322262, 0.237380074, 0.311229666, -0.125152172, 0.643914107,
             2.64939716, 1.66822043, -0.268941421)},
    {{"layer_norm", layer_norm, {1, 2, 4, 1, 1}},
     {NUMBERS(1, 2, 0, -1, 3, -2, 4, 1), NUMBERS(1, 2, -1, 0.5), NUMBERS(0, 1, 0.5, -1)},
     NUMBERS(0.447211807, 3.68327084, 0.947211807, -1.67081771, 0.654653047, -2.05504755,
             -0.591088412, -1.10910884)},
    {{"layer_norm alone", layer_norm, {1, 2, 4, 0, 0}},
     {NUMBERS(1, 2, 0, -1, 3, -2, 4, 1)},
     NUMBERS(0.447211807, 1.34163542, -0.447211807, -1.34163542, 0.654653047, -1.52752378,
             1.09108841, -0.218217682)},
    {{"geglu", geglu, {2, 2}},
     {NUMBERS(1, 2, -1, 0.5, 3, -2, 2, 1)},
     NUMBERS(-0.158655254, 0.691462461, 5.86349921, -1.68268949)},
    {{"attention, two heads", attention, {1, 2, 3, 4, 2, 0, 50}},
     {NUMBERS(1, 0, 2, -1, 0, 1, 1, 1), NUMBERS(1, 1, 0, -1, 2, 0, 1, 0, -1, 1, 1, 2),
      NUMBERS(1, 2, 3, 4, 5, 6, 7, 8, -1, 0, 1, 2)},
     NUMBERS(2.94229424, 3.94229424, 4.65327412, 5.65327412, 1.16348269, 2.16348269, 2.64843197,
             3.64843197)},
    {{"attention, causal", attention, {1, 2, 2, 4, 1, 1, 100}},
     {NUMBERS(1, 0, 2, -1, 0, 1, 1, 1), NUMBERS(1, 1, 0, -1, 2, 0, 1, 0),
      NUMBERS(1, 2, 3, 4, 5, 6, 7, 8)},
     NUMBERS(1, 2, 3, 4, 3.92423431, 4.92423431, 5.92423431, 6.92423431)},
    {{"softmax", softmax, {2, 3}},
     {NUMBERS(1, 2, 3, -1, 100, 100)},
     NUMBERS(0.0900305732, 0.244728471, 0.665240956, 0, 0.5, 0.5)},
    {{"upsample", upsample, {1, 1, 2, 2}},
     {NUMBERS(1, 2, 3, 4)},
     NUMBERS(1, 2, 1, 2, 3, 4, 3, 4, 1, 2, 1, 2, 3, 4, 3, 4)},
};
enum { EXAMPLES = sizeof examples / sizeof *examples };

static const char *const backends[] = {"reference64", "reference", "cpu", "cuda"};
enum { BACKENDS = sizeof backends / sizeof *backends };

static void write_numbers(ck_exec *e, const net *n, ck_node x, const double *numbers) {
    ck_error err;
    float values[64];
    size_t count = count_of(n, x);
    assert_true(count <= 64);
    for (size_t i = 0; i < count; i++) values[i] = (float)numbers[i];
    assert_int_equal(ck_exec_write(e, x, values, count, &err), CK_OK);
}

static void expect(const char *name, const ck_exec *e, const net *n, const double *want,
                   size_t element) {
    double *y = values_of(e, n, n->y, element);
    for (size_t i = 0; i < count_of(n, n->y); i++) {
        double off = fabs(y[i] - want[i]), most = element == 8 ? 1e-8 : 1e-6;
        if (y[i] == want[i] || (isnan(y[i]) && isnan(want[i]))) continue; /* infinities too */
        if (!(off <= most * (1 + fabs(want[i]))))
            fail_msg("%s: element %zu is %.9g, want %.9g", name, i, y[i], want[i]);
    }
    free(y);
}

static void test_results(void **state) {
    (void)state;
    for (int k = 0; k < EXAMPLES; k++)
        for (int b = 0; b < BACKENDS; b++) {
            net n;
            make(&n, examples[k].op.make, examples[k].op.p);
            ck_exec *e = exec_of(&n, backends[b], &n.y, 1);
            for (int i = 0; i < n.count; i++) write_numbers(e, &n, n.in[i], examples[k].in[i]);
            run(e);
            expect(examples[k].op.name, e, &n, examples[k].want, backend(backends[b])->element);
            ck_exec_free(e);
            ck_graph_free(n.g);
        }
}

/* Ids that come again, and ids outside the table: seen in the result, not in memory beside it. */
static void test_embed(void **state) {
    (void)state;
    const int32_t ids[] = {2, 0, 2, -1, 3, 0};
    for (int b = 0; b < BACKENDS; b++) {
        net n;
        make(&n, embed, (const int[]){3, 2, 2, 3});
        make_loss(&n);
        ck_exec *e = exec_of(&n, backends[b], (ck_node[]){n.y, n.grads[0]}, 2);
        ck_error err;
        write_numbers(e, &n, n.in[0], NUMBERS(1, 2, 3, 4, 5, 6));
        write_numbers(e, &n, n.weight, NUMBERS(1, 10, 2, 20, 3, 30, 4, 40, 5, 50, 6, 60));
        assert_int_equal(ck_exec_write(e, n.ids, ids, 6, &err), CK_OK);
        run(e);
        size_t element = backend(backends[b])->element;
        expect("embed", e, &n, NUMBERS(5, 6, 1, 2, 5, 6, NAN, NAN, NAN, NAN, 1, 2), element);
        n.y = n.grads[0];
        expect("embed_grad", e, &n, NUMBERS(8, 80, 0, 0, 4, 40), element);
        ck_exec_free(e);
        ck_graph_free(n.g);
    }
}

static void test_timestep(void **state) {
    (void)state;
    const double *want[2] = {
        NUMBERS(0, 0, 1, 1, 0.141120008, 0.000299999995, -0.989992497, 0.999999955, -0.0264607527,
                0.0997339157, 0.999649853, 0.995014144),
        NUMBERS(1, 1, 0, 0, -0.989992497, 0.999550034, 0.141120008, 0.0299955002, 0.999649853,
                -0.844469696, -0.0264607527, -0.535603335)};
    for (int b = 0; b < BACKENDS; b++)
        for (int flip = 0; flip < 2; flip++) {
            net n;
            make(&n, timestep, (const int[]){3, 4, flip, !flip});
            ck_exec *e = exec_of(&n, backends[b], &n.y, 1);
            write_numbers(e, &n, n.weight, NUMBERS(0, 3, 999));
            run(e);
            expect("timestep", e, &n, want[flip], backend(backends[b])->element);
            ck_exec_free(e);
            ck_graph_free(n.g);
        }
}

/* ---- Gradients ---- */

static const op_case small[] = {
    {"silu", unary, {CK_SILU, 0, 9}},
    {"gelu", unary, {CK_GELU, 0, 9}},
    {"gelu_tanh", unary, {CK_GELU_TANH, 0, 9}},
    {"quick_gelu", unary, {CK_QUICK_GELU, 0, 9}},
    {"sqrt", unary, {CK_SQRT, 0, 9, 1}},
    {"reciprocal", unary, {CK_RECIPROCAL, 0, 9, 1}},
    {"exp", unary, {CK_EXP, 0, 9}},
    {"huber", unary, {CK_HUBER, 5, 9}},
    {"affine", affine, {5}},
    {"add", add, {2, 3, 2, 2, 2, 3, 2, 2}},
    {"add a row", add, {2, 3, 2, 2, 1, 1, 1, 2}},
    {"add per image", add, {2, 3, 2, 2, 2, 1, 1, 2}},
    {"mul", mul, {2, 3, 2, 2, 2, 3, 2, 2}},
    {"mul a row", mul, {2, 3, 2, 2, 1, 1, 1, 2}},
    {"mul a column", mul, {2, 3, 2, 2, 2, 1, 2, 1}},
    {"sub", sub, {2, 1, 2, 2, 1, 1, 1, 1}},
    {"twice", twice, {5}},
    {"sum_to", sum_to, {2, 3, 2, 2, 1, 3, 1, 2}},
    {"sum_to, last too", sum_to, {2, 3, 2, 2, 2, 1, 2, 1}},
    {"expand", expand, {1, 3, 1, 2, 2, 3, 2, 2}},
    {"expand, last too", expand, {2, 1, 2, 1, 2, 3, 2, 2}},
    {"mean", mean, {2, 3, 2, 2}},
    {"permute", permute, {2, 3, 4, 2, 0, 3, 1, 2}},
    {"permute, round", permute, {2, 3, 4, 2, 3, 0, 1, 2}},
    {"concat images", concat, {2, 3, 2, 2, 0, 1}},
    {"concat rows", concat, {2, 3, 2, 2, 1, 2}},
    {"concat columns", concat, {2, 3, 2, 2, 2, 3}},
    {"concat channels", concat, {2, 3, 2, 2, 3, 5}},
    {"slice", slice, {2, 4, 3, 2, 1, 1, 2}},
    {"slice channels", slice, {2, 2, 3, 4, 3, 2, 2}},
    {"pad", pad, {2, 2, 3, 2, 1, 1, 4}},
    {"view", view, {11, 3, 2, 3}},
    {"matmul", matmul, {3, 4, 5, 0, 0, 1}},
    {"matmul, a transposed", matmul, {3, 4, 5, 1, 0, 0}},
    {"matmul, b transposed", matmul, {3, 4, 5, 0, 1, 1}},
    {"matmul, both transposed", matmul, {3, 4, 5, 1, 1, 0}},
    {"linear", linear, {2, 3, 4, 5}},
    {"conv 1", conv, {2, 3, 2, 3, 2, 1, 1, 0, 0, 0, 0, 1}},
    {"conv 3", conv, {2, 4, 3, 2, 3, 3, 1, 1, 1, 1, 1, 1}},
    {"conv 3, stride 2", conv, {1, 5, 4, 2, 2, 3, 2, 1, 1, 1, 1, 0}},
    {"conv 3, stride 2, padded below and right", conv, {1, 4, 4, 2, 2, 3, 2, 0, 0, 1, 1, 1}},
    {"conv 3, stride 2, a pixel unread", conv, {1, 6, 4, 2, 1, 3, 2, 0, 0, 0, 0, 0}},
    {"conv 4, stride 2", conv, {1, 4, 6, 1, 2, 4, 2, 1, 1, 1, 1, 1}},
    {"conv 4, one-sided", conv, {1, 3, 3, 2, 2, 4, 1, 2, 1, 1, 2, 0}},
    {"group_norm, 1 group", group_norm, {2, 2, 2, 4, 1, 0, 1}},
    {"group_norm, 2 groups", group_norm, {2, 2, 2, 4, 2, 0, 1}},
    {"group_norm, channels alone", group_norm, {2, 3, 2, 4, 4, 0, 1}},
    {"group_norm, silu", group_norm, {2, 2, 3, 6, 3, 1, 1}},
    {"group_norm, silu, no bias", group_norm, {1, 2, 3, 6, 2, 1, 0}},
    {"group_norm, silu, a pixel in a group", group_norm, {3, 1, 1, 8, 1, 1, 1}},
    {"layer_norm", layer_norm, {2, 2, 5, 1, 1}},
    {"layer_norm, gain", layer_norm, {2, 2, 5, 1, 0}},
    {"layer_norm alone", layer_norm, {2, 2, 5, 0, 0}},
    {"geglu", geglu, {3, 4}},
    {"attention", attention, {2, 3, 4, 4, 1, 0, 60}},
    {"attention, heads", attention, {1, 4, 2, 6, 3, 0, 80}},
    {"attention, causal", attention, {2, 4, 4, 4, 2, 1, 70}},
    {"softmax", softmax, {3, 5}},
    {"upsample", upsample, {2, 2, 3, 2}},
    {"embed", embed, {4, 3, 2, 4}},
};
enum { SMALL = sizeof small / sizeof *small };

/* f(x + h) - f(x - h) over 2 h: off by about h^2 = 1e-9 for the bend and 1e-16 / h for rounding. */
static double difference(ck_exec *e, const net *n, double *x) {
    const double h = 3e-5, old = *x;
    *x = old + h;
    run(e);
    double above = *(double *)ck_exec_pointer(e, n->loss);
    *x = old - h;
    run(e);
    double below = *(double *)ck_exec_pointer(e, n->loss);
    *x = old;
    return (above - below) / (2 * h);
}

static void check_gradients(const op_case *c) {
    net n;
    make(&n, c->make, c->p);
    make_loss(&n);
    ck_exec *all = exec_of(&n, "reference64", n.grads, n.count);
    ck_exec *loss = exec_of(&n, "reference64", &n.loss, 1);
    write_inputs(all, &n);
    write_inputs(loss, &n);
    run(all);
    for (int i = 0; i < n.count; i++) {
        const double *grad = ck_exec_pointer(all, n.grads[i]);
        double *x = ck_exec_pointer(loss, n.in[i]), largest = 0;
        size_t count = count_of(&n, n.in[i]);
        for (size_t k = 0; k < count; k++) largest = fmax(largest, fabs(grad[k]));
        for (size_t k = 0; k < count; k++) {
            double want = difference(loss, &n, &x[k]);
            if (!(fabs(grad[k] - want) <= 1e-6 * (largest + 1e-3)))
                fail_msg("%s: input %d, element %zu: %.9g, the difference is %.9g", c->name, i, k,
                         grad[k], want);
        }
    }
    ck_exec_free(all);
    ck_exec_free(loss);
    ck_graph_free(n.g);
}

static void test_gradients(void **state) {
    (void)state;
    for (int k = 0; k < SMALL; k++) check_gradients(&small[k]);
}

/* ---- Backends against each other ---- */

/* Sizes that are no multiples of vectors, strips and blocks, and enough for two threads. */
static const op_case large[] = {
    {"silu", unary, {CK_SILU, 0, 20011}},
    {"gelu", unary, {CK_GELU, 0, 20011}},
    {"gelu_tanh", unary, {CK_GELU_TANH, 0, 20011}},
    {"quick_gelu", unary, {CK_QUICK_GELU, 0, 20011}},
    {"exp", unary, {CK_EXP, 0, 20011}},
    {"huber", unary, {CK_HUBER, 5, 20011}},
    {"affine", affine, {20011}},
    {"add", add, {2, 31, 17, 19, 2, 31, 17, 19}},
    {"add per image", add, {2, 31, 17, 19, 2, 1, 1, 19}},
    {"mul", mul, {2, 31, 17, 19, 2, 31, 17, 19}},
    {"mul a number", mul, {2, 31, 17, 19, 2, 1, 1, 1}},
    {"sum_to a row", sum_to, {2, 31, 9, 67, 1, 1, 1, 67}},
    {"sum_to a number", sum_to, {2, 31, 17, 19, 1, 1, 1, 1}},
    {"expand", expand, {2, 1, 1, 67, 2, 31, 9, 67}},
    {"permute", permute, {2, 31, 17, 19, 0, 2, 3, 1}},
    {"concat", concat, {2, 31, 9, 17, 3, 33}},
    {"slice", slice, {2, 31, 17, 39, 3, 3, 20}},
    {"pad", pad, {2, 31, 17, 19, 1, 2, 40}},
    {"matmul", matmul, {37, 71, 41, 0, 0, 1}},
    {"matmul, both transposed", matmul, {37, 71, 41, 1, 1, 1}},
    {"linear", linear, {2, 19, 41, 71}},
    {"conv 3", conv, {2, 9, 7, 10, 17, 3, 1, 1, 1, 1, 1, 1}},
    {"conv 3, stride 2", conv, {2, 9, 8, 10, 17, 3, 2, 0, 0, 1, 1, 1}},
    {"group_norm", group_norm, {2, 17, 19, 40, 4, 0, 1}},
    {"group_norm, silu", group_norm, {2, 17, 19, 60, 20, 1, 1}},
    {"group_norm, 1 group", group_norm, {3, 9, 19, 37, 1, 1, 0}},
    {"layer_norm", layer_norm, {2, 150, 77, 1, 1}},
    {"layer_norm alone", layer_norm, {2, 150, 64, 0, 0}},
    {"geglu", geglu, {150, 77}},
    {"attention", attention, {2, 70, 70, 40, 5, 0, 35}},
    {"attention, crossed", attention, {2, 67, 16, 48, 2, 0, 20}},
    {"attention, causal", attention, {2, 77, 77, 20, 1, 1, 22}},
    {"attention, causal, narrow heads", attention, {2, 135, 135, 24, 3, 1, 25}},
    {"attention, a wide head", attention, {1, 35, 33, 100, 1, 0, 10}},
    {"attention, many queries", attention, {1, 530, 140, 24, 3, 0, 25}},
    {"softmax", softmax, {70, 77}},
    {"upsample", upsample, {2, 9, 17, 19}},
    {"embed", embed, {19, 70, 2, 200}},
};
enum { LARGE = sizeof large / sizeof *large };

/* Attention with heads of the sizes that a card has fused kernels for, and one that is larger; rows
 * of more than one block, and of odd sizes. */
static const op_case heads[] = {
    {"attention, heads of 40", attention, {2, 150, 77, 80, 2, 0, 16}},
    {"attention, heads of 21", attention, {1, 131, 70, 42, 2, 0, 22}},
    {"attention, heads of 64, causal", attention, {1, 200, 200, 128, 2, 1, 13}},
    {"attention, heads of 80", attention, {1, 140, 140, 160, 2, 0, 11}},
    {"attention, heads of 128, causal", attention, {1, 150, 150, 128, 1, 1, 9}},
    {"attention, heads of 160", attention, {1, 64, 150, 160, 1, 0, 8}},
    {"attention, a head of 512", attention, {1, 40, 70, 512, 1, 0, 4}},
};
enum { HEADS = sizeof heads / sizeof *heads };

/* What goes into tiles of the processor's matrix unit without a rest: odd numbers of tiles and of
 * half ones, sums of several pieces. */
static const op_case sixteens[] = {
    {"matmul of sixteens", matmul, {80, 48, 112, 0, 0, 1}},
    {"matmul of sixteens, both transposed", matmul, {80, 48, 112, 1, 1, 0}},
    {"linear of sixteens, odd tokens", linear, {2, 77, 48, 80}},
    {"linear of sixteens", linear, {2, 24, 48, 80}},
    {"linear, many tokens", linear, {4, 404, 32, 48}},
    {"linear, more tokens", linear, {2, 2600, 16, 32}},
    {"conv of sixteens", conv, {3, 17, 19, 80, 48, 3, 1, 1, 1, 1, 1, 1}},
    {"conv of sixteens, stride 2", conv, {5, 24, 22, 16, 80, 3, 2, 0, 2, 1, 1, 1}},
    {"conv 1 of sixteens", conv, {2, 17, 19, 48, 32, 1, 1, 0, 0, 0, 0, 1}},
};
enum { SIXTEENS = sizeof sixteens / sizeof *sixteens };

/* y and all gradients. */
static int outputs_of(const net *n, ck_node *out) {
    out[0] = n->y;
    memcpy(out + 1, n->grads, (size_t)n->count * sizeof *out);
    return n->count + 1;
}

/* Fails where results are apart by more than `most` times the largest of them. */
static void compare(const char *name, const op_case *c, const char *other, double most) {
    net n;
    make(&n, c->make, c->p);
    make_loss(&n);
    ck_node out[MAX_INPUTS + 1];
    int count = outputs_of(&n, out);
    ck_exec *a = exec_of(&n, name, out, count), *b = exec_of(&n, other, out, count);
    write_inputs(a, &n);
    write_inputs(b, &n);
    run(a);
    run(b);
    for (int i = 0; i < count; i++) {
        double *x = values_of(a, &n, out[i], backend(name)->element), largest = 0;
        double *want = values_of(b, &n, out[i], backend(other)->element);
        for (size_t k = 0; k < count_of(&n, out[i]); k++) largest = fmax(largest, fabs(want[k]));
        for (size_t k = 0; k < count_of(&n, out[i]); k++)
            if (!(fabs(x[k] - want[k]) <= most * largest))
                fail_msg("%s, %s, %d: element %zu is %.9g, %s has %.9g (of %.3g)", name, c->name, i,
                         k, x[k], other, want[k], largest);
        free(x);
        free(want);
    }
    ck_exec_free(a);
    ck_exec_free(b);
    ck_graph_free(n.g);
}

/* Each operation rounds to f32 once (6e-8), a gradient reads results of two or three. */
static void test_reference_in_f32(void **state) {
    (void)state;
    for (int k = 0; k < SMALL; k++) compare("reference", &small[k], "reference64", 1e-6);
    for (int k = 0; k < LARGE; k++) compare("reference", &large[k], "reference64", 1e-6);
}

static char *saved_isa;

static void force_isa(const char *isa) {
    const char *old = getenv("CK_ISA");
    if (!saved_isa && old) saved_isa = strdup(old);
    setenv("CK_ISA", isa, 1);
}

static void unforce_isa(void) {
    unsetenv("CK_ISA");
    if (saved_isa) setenv("CK_ISA", saved_isa, 1);
    free(saved_isa);
    saved_isa = NULL;
}

/* Sums of up to some thousand products in f32, each rounded: 6e-8 times the square root of that. */
static void test_cpu(void **state) {
    (void)state;
    size_t tables;
    const ck_nn *const *all = ck_nn_all(&tables);
    for (size_t t = 0; t < tables; t++) {
        force_isa(all[t]->isa);
        for (int k = 0; k < SMALL; k++) compare("cpu", &small[k], "reference", 5e-6);
        for (int k = 0; k < LARGE; k++) compare("cpu", &large[k], "reference", 5e-6);
        unforce_isa();
    }
}

/* The plugin beside this program: gpu_host.c's, unless it was put where the real one is. Kernels
 * for GPUs sum in f32, by trees of 256. */
static void test_gpu(void **state) {
    (void)state;
    for (int k = 0; k < SMALL; k++) compare("cuda", &small[k], "reference", 5e-6);
    for (int k = 0; k < LARGE; k++) compare("cuda", &large[k], "reference", 5e-6);
}

/* What is multiplied is rounded to 8 bits, 2e-3 off at most, and so are probabilities and gradients
 * of scores in between; in sums of many that mostly cancels. (In small sums of attention's
 * gradients differences remain of numbers each off by that.) */
static void test_bf16(void **state) {
    (void)state;
    for (int k = 0; k < SMALL; k++) compare("cpu-bf16", &small[k], "reference", 1.5e-2);
    for (int k = 0; k < LARGE; k++) compare("cpu-bf16", &large[k], "reference", 1.5e-2);
    for (int k = 0; k < SIXTEENS; k++) compare("cpu-bf16", &sixteens[k], "reference", 1.5e-2);
    for (int k = 0; k < SMALL; k++) compare("cuda-bf16", &small[k], "reference", 1.5e-2);
    for (int k = 0; k < LARGE; k++) compare("cuda-bf16", &large[k], "reference", 1.5e-2);
}

/* Results of kernels for arrays of bf16 are rounded as ck_half does, ties, infinities and NaN too,
 * in arrays of any length; what lies behind them stays. */
static void test_bf16_rounding(void **state) {
    (void)state;
    if (!ck_nn_amx_best()) return;
    enum { MOST = 530 };
    static uint16_t a[MOST], b[MOST], y[MOST + 1];
    for (size_t n = 0; n <= MOST; n += n < 70 ? 1 : 23) {
        for (size_t i = 0; i < n; i++) { /* exponents of 2^-24 to 2^7 */
            a[i] = (uint16_t)(0x3380 + rand() % 0x1000 + (rand() % 2 ? 0x8000 : 0));
            b[i] = (uint16_t)(0x3380 + rand() % 0x1000);
        }
        if (n > 40) a[3] = 0x7fff, a[n - 1] = 0xffc1, a[40] = 0x7f80, a[5] = b[5] = 0x7f7f;
        y[n] = 0x1234;
        ck_nn_amx_best()->half->add(y, a, b, n);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(y[i], ck_half(ck_half_value(a[i]) + ck_half_value(b[i])));
        assert_int_equal(y[n], 0x1234);
    }
}

/* On cards whose blocks can share nothing worth speaking of, 99 KiB (enough for some heads, and
 * forward for more), and 227 KiB. */
static const char *const shared[] = {"0", "101376", "232448"};
enum { SHARED = sizeof shared / sizeof *shared };

static void share_most(void) {
    setenv("CK_GPU_HOST_SHARED", shared[SHARED - 1], 1);
}

static void test_fused_attention(void **state) {
    (void)state;
    for (int i = 0; i < SHARED; i++) {
        setenv("CK_GPU_HOST_SHARED", shared[i], 1);
        for (int k = 0; k < HEADS; k++) compare("cuda-bf16", &heads[k], "reference", 1.5e-2);
    }
    unsetenv("CK_GPU_HOST_SHARED");
}

/* What is stored as bf16 between products: all operations that can be there. */
static ck_node gelu_of_rows(net *n, const int *p) {
    return ck_unary_op(n->g, (ck_unary)p[2], in(n, CK_SHAPE(p[0], p[1])), 0);
}

/* What is used twice: gradients are added, and those of the gain, which lie behind a result, too.
 */
static ck_node norm_twice(net *n, const int *p) {
    ck_node x = in(n, CK_SHAPE(p[0], p[1], p[2])), gain = in(n, CK_SHAPE(p[2]));
    ck_node y = ck_layer_norm(n->g, x, gain, CK_NONE, 1e-5);
    return ck_add(n->g, x, ck_layer_norm(n->g, y, gain, CK_NONE, 1e-5));
}

/* Factors that are stored otherwise than what they multiply; a number of every image, of every
 * channel, or of each element, and one that is needed no more. */
static ck_node gated(net *n, const int *p) {
    ck_graph *g = n->g;
    ck_node x = in(n, CK_SHAPE(p[0], p[1], p[2])), gate = in(n, CK_SHAPE(p[0], p[3], p[2]));
    ck_node factor = ck_inner(g, ck_affine(g, gate, 0.5, 1));
    ck_node h = ck_inner(g, ck_mul(g, ck_layer_norm(g, x, CK_NONE, CK_NONE, 1e-5), factor));
    return ck_add(g, x, ck_inner(g, ck_mul(g, h, in(n, CK_SHAPE(p[0], p[1], p[2])))));
}

static const op_case stored[] = {
    {"gated", gated, {2, 31, 48, 1}},
    {"gated, odd", gated, {2, 31, 37, 31}},
    {"gelu", gelu_of_rows, {300, 80, CK_GELU}},
    {"silu", gelu_of_rows, {300, 80, CK_SILU}},
    {"add", add, {2, 31, 17, 32, 2, 31, 17, 32}},
    {"add per image", add, {2, 31, 17, 32, 2, 1, 1, 32}},
    {"add a number", add, {2, 31, 17, 32, 2, 1, 1, 1}},
    {"sum_to a row", sum_to, {2, 31, 9, 64, 1, 1, 1, 64}},
    {"concat", concat, {2, 31, 9, 32, 3, 16}},
    {"slice", slice, {2, 31, 17, 48, 3, 3, 32}},
    {"permute", permute, {2, 31, 16, 16, 0, 2, 1, 3}},
    {"pad", pad, {2, 31, 17, 16, 1, 2, 40}},
    {"group_norm, silu", group_norm, {2, 17, 19, 48, 12, 1, 1}},
    {"group_norm", group_norm, {2, 17, 19, 33, 3, 0, 1}},
    {"layer_norm", layer_norm, {2, 150, 64, 1, 1}},
    {"layer_norm, odd", layer_norm, {1, 151, 77, 0, 1}},
    {"layer_norm twice", norm_twice, {2, 150, 48}},
    {"geglu", geglu, {150, 80}},
    {"attention", attention, {2, 70, 70, 48, 6, 0, 35}},
    {"attention, crossed", attention, {2, 67, 16, 48, 2, 0, 20}},
    {"attention, causal", attention, {2, 77, 77, 32, 1, 1, 22}},
    {"attention, causal, narrow heads", attention, {2, 135, 135, 48, 3, 1, 25}},
    {"attention, many queries", attention, {1, 530, 140, 48, 3, 0, 25}},
    {"upsample", upsample, {2, 9, 17, 16}},
    {"linear", linear, {2, 24, 48, 80}},
    {"linear, many tokens", linear, {4, 404, 32, 48}},
    {"linear, more tokens", linear, {2, 2600, 16, 32}},
    {"linear, odd", linear, {2, 19, 41, 71}},
    {"conv 3", conv, {2, 9, 7, 10, 17, 3, 1, 1, 1, 1, 1, 1}},
    {"conv 3, stride 2", conv, {2, 9, 8, 32, 16, 3, 2, 0, 0, 1, 1, 1}},
    {"conv 3 of blocks", conv, {2, 9, 8, 32, 64, 3, 1, 1, 1, 1, 1, 1}},
    {"conv 3 of half blocks", conv, {3, 17, 19, 48, 16, 3, 1, 1, 1, 1, 1, 1}},
    {"conv 2 without borders", conv, {1, 9, 8, 16, 80, 2, 1, 0, 0, 0, 0, 0}},
    {"conv 1", conv, {2, 5, 6, 48, 32, 1, 1, 0, 0, 0, 0, 1}},
};
enum { STORED = sizeof stored / sizeof *stored };

static void expect_smaller(const char *name, const char *other, const op_case *c) {
    net n;
    make(&n, c->make, c->p);
    make_loss(&n);
    ck_node out[MAX_INPUTS + 1];
    int count = outputs_of(&n, out);
    ck_exec *half = exec_of(&n, name, out, count), *full = exec_of(&n, other, out, count);
    assert_true(ck_exec_peak(half) < ck_exec_peak(full));
    ck_exec_free(half), ck_exec_free(full);
    ck_graph_free(n.g);
}

/* Numbers are rounded once more between operations (2e-3), gradients twice. */
static void test_stored_bf16(void **state) {
    (void)state;
    between_products = true;
    for (int k = 0; k < STORED; k++) compare("cpu-bf16", &stored[k], "reference", 2e-2);
    for (int k = 0; k < STORED; k++) compare("cpu", &stored[k], "reference", 5e-6);
    for (int k = 0; k < STORED; k++) compare("cuda-bf16", &stored[k], "reference", 2e-2);
    share_most();
    for (int k = 0; k < STORED; k++) compare("cuda-bf16", &stored[k], "reference", 2e-2);
    unsetenv("CK_GPU_HOST_SHARED");
    for (int k = 0; k < STORED; k++) compare("cuda", &stored[k], "reference", 5e-6);
    static const op_case norms = {"", norm_twice, {2, 1024, 48}},
                         gates = {"", gated, {2, 1024, 48, 1}};
    if (ck_nn_amx_best()) expect_smaller("cpu-bf16", "cpu", &norms);
    expect_smaller("cuda-bf16", "cuda", &norms);
    expect_smaller("cuda-bf16", "cuda", &gates);
    between_products = false;
}

/* Norms write no further than the scratch memory that they ask for, nor does the sum at their end.
 */
static void test_scratch_of_norms(void **state) {
    (void)state;
    enum { PIXELS = 4096, CHANNELS = 8, NUMBERS = PIXELS * CHANNELS, GUARD = 4096 };
    float *x = malloc(NUMBERS * sizeof *x), *y = malloc(NUMBERS * sizeof *y), dgain[CHANNELS];
    float statistics[2 * PIXELS], dbias[CHANNELS];
    uint64_t seed = 5;
    for (int i = 0; i < NUMBERS; i++) x[i] = fixture_random_float(&seed);
    for (int rows = 0; rows < 2; rows++) {
        const ck_gpu_norm v = {.n = rows ? PIXELS : 1,
                               .pixels = rows ? 1 : PIXELS,
                               .channels = CHANNELS,
                               .groups = rows ? 1 : 2,
                               .x = {x, false}};
        size_t scratch = ck_gpu_norm_scratch(&v);
        float *partial = malloc((scratch + GUARD) * sizeof *partial);
        for (int i = 0; i < GUARD; i++) partial[scratch + i] = 3;
        ck_gpu_norm_forward(NULL, &v, 1e-5f, (ck_gpu_array){y, false}, statistics, partial);
        ck_gpu_norm_backward(NULL, &v, statistics, v.x, (ck_gpu_array){y, false}, dgain, dbias,
                             partial);
        for (int i = 0; i < GUARD; i++) assert_true(partial[scratch + i] == 3);
        free(partial);
    }
    free(x), free(y);
}

/* What is off a large mean is not lost in the squares of it. */
static void test_norm_of_large_numbers(void **state) {
    (void)state;
    enum { PIXELS = 200, CHANNELS = 8, NUMBERS = PIXELS * CHANNELS };
    float x[NUMBERS], y[NUMBERS], statistics[2];
    double mean = 0, squares = 0;
    uint64_t seed = 6;
    for (int i = 0; i < NUMBERS; i++) x[i] = 3000 + fixture_random_float(&seed);
    for (int i = 0; i < NUMBERS; i++) mean += x[i] / (double)NUMBERS;
    for (int i = 0; i < NUMBERS; i++) squares += (x[i] - mean) * (x[i] - mean);
    const ck_gpu_norm v = {
        .n = 1, .pixels = PIXELS, .channels = CHANNELS, .groups = 1, .x = {x, false}};
    float *partial = malloc(ck_gpu_norm_scratch(&v) * sizeof *partial);
    ck_gpu_norm_forward(NULL, &v, 0, (ck_gpu_array){y, false}, statistics, partial);
    for (int i = 0; i < NUMBERS; i++)
        assert_true(fabs(y[i] - (x[i] - mean) / sqrt(squares / NUMBERS)) < 2e-3);
    free(partial);
}

/* ---- Additions that products make (residual.h) ---- */

/* p: shape of x, side of the kernel: x + its convolution */
static ck_node conv_and_source(net *n, const int *p) {
    ck_node x = in(n, four(p)), w = in(n, CK_SHAPE(p[3], p[4], p[4], p[3]));
    const int side = p[4] / 2, pad[] = {side, side, side, side};
    return ck_add(n->g, x, ck_conv(n->g, x, w, in(n, CK_SHAPE(p[3])), 1, pad));
}

/* p: images, tokens, channels: x + W x, of rows with a bias */
static ck_node linear_and_source(net *n, const int *p) {
    ck_node x = in(n, CK_SHAPE(p[0], p[1], p[2])), w = in(n, CK_SHAPE(p[2], p[2]));
    return ck_add(n->g, ck_linear(n->g, x, w, in(n, CK_SHAPE(p[2]))), x);
}

/* p: the same: a product that is read again, and one that is added to itself */
static ck_node products_read_twice(net *n, const int *p) {
    ck_node x = in(n, CK_SHAPE(p[0], p[1], p[2])), w = in(n, CK_SHAPE(p[2], p[2]));
    ck_node h = ck_linear(n->g, x, w, CK_NONE), y = ck_linear(n->g, x, w, CK_NONE);
    h = ck_add(n->g, ck_add(n->g, x, h), ck_unary_op(n->g, CK_GELU, h, 0));
    return ck_add(n->g, h, ck_add(n->g, y, y));
}

/* p: the same, two of them; a row and an image of others do not take the place of a residual */
static ck_node product_and_rows(net *n, const int *p) {
    ck_node x = in(n, CK_SHAPE(p[0], p[1], p[2])), row = in(n, CK_SHAPE(1, 1, p[2]));
    ck_node w = in(n, CK_SHAPE(p[2], p[2])), one = in(n, CK_SHAPE(p[0], 1, p[2]));
    ck_node h = ck_add(n->g, ck_linear(n->g, x, w, CK_NONE), row);
    h = ck_add(n->g, h, ck_linear(n->g, one, w, CK_NONE));
    return ck_add(n->g, ck_linear(n->g, h, w, CK_NONE), ck_linear(n->g, x, w, CK_NONE));
}

static const op_case residuals[] = {
    {"conv and source, even", conv_and_source, {2, 5, 6, 16, 3}},
    {"conv and source, odd", conv_and_source, {2, 6, 5, 16, 3}},
    {"conv 1 and source", conv_and_source, {1, 4, 8, 12, 1}},
    {"linear and source", linear_and_source, {2, 31, 48}},
    {"products read twice", products_read_twice, {2, 17, 24}},
    {"product and rows", product_and_rows, {2, 17, 24}},
};
enum { RESIDUALS = sizeof residuals / sizeof *residuals };

static void test_residuals(void **state) {
    (void)state;
    for (int k = 0; k < RESIDUALS; k++) compare("cuda", &residuals[k], "reference", 5e-6);
    for (int k = 0; k < RESIDUALS; k++) compare("cuda-bf16", &residuals[k], "reference", 1.5e-2);
    between_products = true;
    for (int k = 0; k < RESIDUALS; k++) compare("cuda-bf16", &residuals[k], "reference", 2e-2);
    between_products = false;
}

/* 1 + 2^-9 - 1, where bf16 does not have the sum of the first two: what a residual is added to
 * never was an array of bf16. p: pixels in a row, whether by a convolution */
static double residual_of_little(const int *p) {
    net n;
    between_products = true;
    make(&n, p[1] ? conv_and_source : linear_and_source,
         p[1] ? (const int[]){1, 2, p[0], 2, 1} : (const int[]){1, p[0], 2});
    between_products = false;
    ck_exec *e = exec_of(&n, "cuda-bf16", &n.y, 1);
    write_inputs(e, &n);
    double x[64];
    for (size_t i = 0; i < count_of(&n, n.in[0]); i++) x[i] = i % 2 ? 1 : -1;
    write_numbers(e, &n, n.in[0], x);
    write_numbers(e, &n, n.in[1], NUMBERS(0, 1, 0, 1)); /* both channels are the second */
    write_numbers(e, &n, n.in[2], NUMBERS(0x1p-9, 0));
    run(e);
    double *y = values_of(e, &n, n.y, sizeof(float)), first = y[0];
    free(y);
    ck_exec_free(e);
    ck_graph_free(n.g);
    return first;
}

static void test_residual_is_rounded_once(void **state) {
    (void)state;
    assert_true(residual_of_little((const int[]){4, 0}) == 0x1p-9);
    assert_true(residual_of_little((const int[]){4, 1}) == 0x1p-9);
    assert_true(residual_of_little((const int[]){3, 1}) == 0); /* the library does not add it */
}

/* ---- Products that who reads them makes (fold.h) ---- */

/* x (tokens, depth) by a weight and a bias, GEGLU of that, and by another weight. */
static ck_node feed_forward(net *n, const int *p) {
    ck_node x = in(n, CK_SHAPE(2, p[0], p[1])), w = in(n, CK_SHAPE(2 * p[2], p[1]));
    ck_node h = ck_linear(n->g, x, w, in(n, CK_SHAPE(2 * p[2])));
    return ck_linear(n->g, ck_geglu(n->g, h), in(n, CK_SHAPE(p[1], p[2])), CK_NONE);
}

/* Outputs that read the products which GEGLU and its gradient read, so that they are stored. */
static int sums_of_products(net *n, ck_node *out) {
    int count = 0;
    for (ck_node i = 0, end = (ck_node)n->g->count; i < end; i++) {
        ck_op op = n->g->nodes[i].op;
        for (int s = 0; s < 2 && (op == CK_OP_GEGLU || op == CK_OP_GEGLU_GRAD); s++) {
            ck_node source = n->g->nodes[i].src[s];
            if (source == CK_NONE || n->g->nodes[ck_shown(n->g, source)].op != CK_OP_MATMUL)
                continue;
            ck_shape row = ck_node_shape(n->g, source);
            for (int d = 0; d + 1 < row.rank; d++) row.d[d] = 1;
            out[count++] = ck_sum_to(n->g, source, row);
        }
    }
    return count;
}

/* Products that nobody stores have the bits of those that are stored, and take no memory. */
static void test_folded(void **state) {
    (void)state;
    if (!ck_nn_amx_best()) skip();
    int before = omp_get_max_threads();
    static const op_case folded[] = {
        {"", feed_forward, {72, 64, 48}},  /* strips of 64 rows, and a rest */
        {"", feed_forward, {72, 112, 16}}, /* not whole tiles */
        {"", feed_forward, {72, 160, 32}}, /* too deep to be made twice: dy alone */
    };
    for (size_t k = 0; k < sizeof folded / sizeof *folded; k++)
        for (int threads = 1; threads <= 3; threads += 2) {
            net n;
            omp_set_num_threads(threads);
            make(&n, folded[k].make, folded[k].p);
            make_loss(&n);
            ck_node out[2 * MAX_INPUTS];
            int count = outputs_of(&n, out);
            ck_exec *a = exec_of(&n, "cpu-bf16", out, count);
            int more = sums_of_products(&n, out + count);
            assert_int_equal(more, 3); /* twice by the gradient */
            ck_exec *b = exec_of(&n, "cpu-bf16", out, count + more);
            assert_true(ck_exec_peak(a) < ck_exec_peak(b));
            write_inputs(a, &n), write_inputs(b, &n);
            run(a), run(b);
            for (int i = 0; i < count; i++)
                assert_memory_equal(ck_exec_pointer(a, out[i]), ck_exec_pointer(b, out[i]),
                                    count_of(&n, out[i]) * sizeof(float));
            ck_exec_free(a), ck_exec_free(b);
            ck_graph_free(n.g);
        }
    omp_set_num_threads(before);
}

/* Far out functions go to their limits, and a loss that is not a number any more shows. */
static void test_extreme_values(void **state) {
    (void)state;
    static const double x[] = {-1e4, -100, -88, -0.0, 88, 100, 1e4, NAN};
    static const op_case functions[] = {{"silu", unary, {CK_SILU, 0, 8}},
                                        {"gelu", unary, {CK_GELU, 0, 8}},
                                        {"gelu_tanh", unary, {CK_GELU_TANH, 0, 8}},
                                        {"quick_gelu", unary, {CK_QUICK_GELU, 0, 8}},
                                        {"exp", unary, {CK_EXP, 0, 8}}};
    size_t tables;
    const ck_nn *const *all = ck_nn_all(&tables);
    for (size_t t = 0; t < tables; t++)
        for (size_t k = 0; k < sizeof functions / sizeof *functions; k++) {
            force_isa(all[t]->isa);
            net n;
            make(&n, functions[k].make, functions[k].p);
            ck_exec *plain = exec_of(&n, "reference", &n.y, 1), *e = exec_of(&n, "cpu", &n.y, 1);
            write_numbers(plain, &n, n.in[0], x);
            write_numbers(e, &n, n.in[0], x);
            run(plain);
            run(e);
            double *want = values_of(plain, &n, n.y, sizeof(float));
            expect(functions[k].name, e, &n, want, sizeof(float));
            free(want);
            ck_exec_free(plain);
            ck_exec_free(e);
            ck_graph_free(n.g);
            unforce_isa();
        }
}

/* A number that is none in a query, key or value reaches the result. */
static ck_node attention_of_nothing(net *n, const int *p) {
    ck_node q = in(n, CK_SHAPE(1, 5, 8)), k = in(n, CK_SHAPE(1, 70, 8));
    ck_node v = in(n, CK_SHAPE(1, 70, 8)), none = ck_const(n->g, CK_SHAPE(1, 1, 1), NAN);
    ck_node *spoilt[3] = {&q, &k, &v};
    *spoilt[p[0]] = ck_add(n->g, *spoilt[p[0]], none);
    return ck_attention(n->g, q, k, v, 2, false, 0.5);
}

static void test_nan_in_attention(void **state) {
    (void)state;
    static const char *const names[] = {"cpu", "cpu-bf16", "cuda", "cuda-bf16"};
    share_most();
    for (int i = 0; i < 12; i++) {
        net n;
        ck_error err;
        float y[5 * 8];
        make(&n, attention_of_nothing, (const int[]){i / 4});
        ck_exec *e = exec_of(&n, names[i % 4], &n.y, 1);
        write_inputs(e, &n);
        run(e);
        assert_int_equal(ck_exec_read(e, n.y, y, 5 * 8, &err), CK_OK);
        for (size_t k = 0; k < 5 * 8; k++) assert_true(isnan(y[k]));
        ck_exec_free(e);
        ck_graph_free(n.g);
    }
    unsetenv("CK_GPU_HOST_SHARED");
}

/* Scores all so large, or so small, that without the largest taken off no power of e would be a
 * number. */
static ck_node attention_far_out(net *n, const int *p) {
    ck_graph *g = n->g;
    ck_node q = ck_concat(g, in(n, CK_SHAPE(1, 70, 7)), ck_const(g, CK_SHAPE(1, 70, 1), 16), 2);
    ck_node k = ck_concat(g, in(n, CK_SHAPE(1, 67, 7)), ck_const(g, CK_SHAPE(1, 67, 1), p[0]), 2);
    return ck_attention(g, q, k, in(n, CK_SHAPE(1, 67, 8)), 1, false, 0.35);
}

static void test_large_scores(void **state) {
    (void)state;
    static const op_case far[] = {{"large scores", attention_far_out, {64}},
                                  {"small scores", attention_far_out, {-64}}};
    for (int i = 0; i < 2; i++) {
        compare("cpu", &far[i], "reference", 2e-4); /* 358 in f32 is off by 1.5e-5 */
        compare("cpu-bf16", &far[i], "reference", 1.5e-2);
        share_most();
        compare("cuda-bf16", &far[i], "reference", 1.5e-2);
        unsetenv("CK_GPU_HOST_SHARED");
    }
}

static void test_unknown_isa(void **state) {
    (void)state;
    net n;
    ck_exec *e;
    ck_error err;
    make(&n, affine, (const int[]){3});
    force_isa("pentium");
    assert_int_equal(ck_exec_new(backend("cpu"), n.g, &n.y, 1, &e, &err), CK_USAGE);
    assert_non_null(strstr(err.message, "CK_ISA"));
    unforce_isa();
    ck_graph_free(n.g);
}

/* Of convolutions only gradients of weights are compared: oneDNN promises the same bits only for
 * the same number of threads. */
static void check_threads(const char *name, const op_case *c) {
    net n;
    make(&n, c->make, c->p);
    make_loss(&n);
    ck_node out[MAX_INPUTS + 1];
    int count = outputs_of(&n, out), threads = omp_get_max_threads();
    void *first[MAX_INPUTS + 1];
    for (int t = 1; t <= 3; t++) {
        omp_set_num_threads(t);
        ck_exec *e = exec_of(&n, name, out, count);
        write_inputs(e, &n);
        run(e);
        for (int i = 0; i < count; i++) {
            void *bits = bits_of(e, &n, out[i], sizeof(float));
            if (t == 1)
                first[i] = bits;
            else if ((c->make != conv || i == 2) &&
                     memcmp(first[i], bits, count_of(&n, out[i]) * sizeof(float)) != 0)
                fail_msg("%s, %s: %d threads give other bits", name, c->name, t);
            if (t > 1) free(bits);
        }
        ck_exec_free(e);
    }
    omp_set_num_threads(threads);
    for (int i = 0; i < count; i++) free(first[i]);
    ck_graph_free(n.g);
}

static void test_threads(void **state) {
    (void)state;
    for (int k = 0; k < LARGE; k++) check_threads("reference", &large[k]);
    for (int k = 0; k < LARGE; k++) {
        build *f = large[k].make;
        if (ck_onednn_version() && (f == conv || f == matmul || f == linear)) continue;
        check_threads("cpu", &large[k]);
        check_threads("cpu-bf16", &large[k]);
    }
    for (int k = 3; k < SIXTEENS && ck_nn_amx_best(); k++) check_threads("cpu-bf16", &sixteens[k]);
    between_products = true;
    for (int k = 0; k < STORED && ck_nn_amx_best(); k++) {
        const op_case *c = &stored[k];
        if (c->make != conv && !strstr(c->name, "odd")) check_threads("cpu-bf16", c);
    }
    between_products = false;
}

/* ---- Checkpointing ---- */

/* Two blocks, the second with a connection past it, as in a UNet. The product that is added is read
 * twice, but once where a block is computed again. */
static void make_deep(net *n, bool blocks) {
    *n = (net){.g = ck_graph_new(), .ids = CK_NONE, .weight = CK_NONE};
    ck_graph *g = n->g;
    const int around[4] = {1, 1, 1, 1};
    ck_node x = in(n, CK_SHAPE(2, 8, 8, 16)), w = in(n, CK_SHAPE(16, 3, 3, 16));
    ck_node square = in(n, CK_SHAPE(16, 16));
    for (int i = 0; i < 2; i++) {
        if (blocks) ck_block_begin(g);
        ck_node gain = in(n, CK_SHAPE(16)); /* what is given inside a block stays outside it */
        ck_node h = ck_group_norm(g, x, gain, CK_NONE, 4, 1e-5, true);
        h = ck_conv(g, h, w, CK_NONE, 1, around);
        ck_node tokens = ck_reshape(g, h, CK_SHAPE(2, 64, 16));
        h = ck_reshape(g, ck_attention(g, tokens, tokens, tokens, 2, false, 0.35),
                       CK_SHAPE(2, 8, 8, 16));
        x = ck_add(g, x, ck_unary_op(g, CK_GELU, h, 0));
        h = ck_linear(g, x, square, CK_NONE);
        x = ck_unary_op(g, CK_SILU, ck_add(g, x, h), 0);
        x = ck_add(g, x, ck_affine(g, h, 0.5, 0));
        if (blocks) ck_block_end(g);
    }
    n->y = x;
    make_loss(n);
}

static void test_checkpointing(void **state) {
    (void)state;
    static const char *const bf16[] = {"cpu-bf16", "cuda-bf16"};
    for (int b = 1; b < BACKENDS + 2; b++) {
        const char *name = b < BACKENDS ? backends[b] : bf16[b - BACKENDS];
        net plain, blocks;
        make_deep(&plain, false);
        make_deep(&blocks, true);
        ck_exec *p = exec_of(&plain, name, plain.grads, plain.count);
        ck_exec *q = exec_of(&blocks, name, blocks.grads, blocks.count);
        assert_true(ck_exec_peak(q) < ck_exec_peak(p));
        write_inputs(p, &plain);
        write_inputs(q, &blocks);
        run(p);
        run(q);
        for (int i = 0; i < plain.count; i++) {
            void *want = bits_of(p, &plain, plain.grads[i], sizeof(float));
            void *got = bits_of(q, &blocks, blocks.grads[i], sizeof(float));
            assert_memory_equal(got, want, count_of(&plain, plain.grads[i]) * sizeof(float));
            free(want), free(got);
        }
        ck_exec_free(p);
        ck_exec_free(q);
        ck_graph_free(plain.g);
        ck_graph_free(blocks.g);
    }
}

/* ---- Places shared ---- */

/* A result lies where its source was, unless that is an input, an output or read again later. */
/* A result of bf16 does not lie where a factor of f32 was: a card's threads would write what others
 * have yet to read. */
static void test_places_of_mixed_numbers(void **state) {
    (void)state;
    net n = {.g = ck_graph_new(), .ids = CK_NONE, .weight = CK_NONE};
    ck_graph *g = n.g;
    ck_node x = through(&n, in(&n, CK_SHAPE(2, 31, 48)));
    ck_node h = ck_layer_norm(g, x, CK_NONE, CK_NONE, 1e-5);
    ck_node factor = ck_affine(g, in(&n, CK_SHAPE(2, 31, 48)), 2, 1);
    ck_node product = ck_inner(g, ck_mul(g, h, factor));
    n.y = through(&n, ck_add(g, product, h));
    ck_exec *e = exec_of(&n, "cuda-bf16", &n.y, 1);
    assert_ptr_not_equal(ck_exec_pointer(e, product), ck_exec_pointer(e, factor));
    ck_exec_free(e);
    ck_graph_free(g);
}

static void test_places(void **state) {
    (void)state;
    net n = {.g = ck_graph_new(), .ids = CK_NONE, .weight = CK_NONE};
    ck_node x = in(&n, CK_SHAPE(1024));
    ck_node a = ck_affine(n.g, x, 2, 0), b = ck_affine(n.g, a, 1, 1); /* 2x + 1 */
    ck_node row = ck_view(n.g, b, 1, CK_SHAPE(1));
    ck_node c = ck_mul(n.g, b, row), d = ck_unary_op(n.g, CK_EXP, ck_affine(n.g, c, 0.1, 0), 0);
    n.y = ck_add(n.g, ck_affine(n.g, a, 1, 0), d);
    for (int i = 0; i < BACKENDS; i++) {
        ck_exec *e = exec_of(&n, backends[i], (ck_node[]){n.y, c}, 2);
        size_t element = backend(backends[i])->element;
        assert_true(ck_exec_peak(e) <= 4 * 1024 * element + 64); /* x, a, c, and b or d */
        write_inputs(e, &n);
        run(e);
        double *in = values_of(e, &n, x, element), *y = values_of(e, &n, n.y, element);
        double *product = values_of(e, &n, c, element), by = 2 * in[1] + 1;
        for (int k = 0; k < 1024; k++) {
            double want = (2 * in[k] + 1) * by;
            assert_true(fabs(product[k] - want) <= 1e-5 * (1 + fabs(want)));
            want = 2 * in[k] + exp(0.1 * want);
            assert_true(fabs(y[k] - want) <= 1e-5 * (1 + fabs(want)));
        }
        free(in), free(y), free(product);
        ck_exec_free(e);
    }
    ck_graph_free(n.g);
}

/* ---- Mistakes ---- */

static ck_node conv_without_room(net *n, const int *p) {
    (void)p;
    ck_node x = in(n, CK_SHAPE(1, 1, 4, 2));
    return ck_conv(n->g, x, in(n, CK_SHAPE(3, 2, 2, 2)), CK_NONE, 2, (const int[4]){0});
}

static ck_node conv_with_a_long_bias(net *n, const int *p) {
    (void)p;
    ck_node x = in(n, CK_SHAPE(1, 4, 4, 2)), w = in(n, CK_SHAPE(3, 1, 1, 2));
    return ck_conv(n->g, x, w, in(n, CK_SHAPE(4)), 1, (const int[4]){0});
}

static ck_node conv_of_other_channels(net *n, const int *p) {
    (void)p;
    ck_node x = in(n, CK_SHAPE(1, 4, 4, 2));
    return ck_conv(n->g, x, in(n, CK_SHAPE(3, 1, 1, 3)), CK_NONE, 1, (const int[4]){0});
}

static ck_node matmul_of_other_depths(net *n, const int *p) {
    (void)p;
    ck_node a = in(n, CK_SHAPE(2, 3));
    return ck_matmul(n->g, a, in(n, CK_SHAPE(2, 3)), false, false, CK_NONE);
}

static ck_node norm_with_a_short_bias(net *n, const int *p) {
    (void)p;
    ck_node x = in(n, CK_SHAPE(2, 3, 4)), gain = in(n, CK_SHAPE(4));
    return ck_layer_norm(n->g, x, gain, in(n, CK_SHAPE(3)), 1e-5);
}

static ck_node geglu_of_three(net *n, const int *p) {
    (void)p;
    return ck_geglu(n->g, in(n, CK_SHAPE(2, 3)));
}

static ck_node attention_of_other_keys(net *n, const int *p) {
    (void)p;
    ck_node q = in(n, CK_SHAPE(2, 3, 4)), k = in(n, CK_SHAPE(2, 3, 4));
    return ck_attention(n->g, q, k, in(n, CK_SHAPE(2, 2, 4)), 2, false, 1);
}

static ck_node view_before_the_start(net *n, const int *p) {
    (void)p;
    return ck_view(n->g, in(n, CK_SHAPE(8)), -1, CK_SHAPE(2));
}

static ck_node sum_of_ids(net *n, const int *p) {
    (void)p;
    ck_node ids = ck_input(n->g, "ids", CK_I32, CK_SHAPE(4));
    return ck_sum_to(n->g, ids, CK_SHAPE(1));
}

static ck_node too_large_to_count(net *n, const int *p) {
    (void)p;
    return ck_expand(n->g, in(n, CK_SHAPE(1, 1)), CK_SHAPE((int64_t)1 << 40, (int64_t)1 << 40));
}

static const op_case mistakes[] = {
    {"conv", conv_without_room, {0}},
    {"conv", conv_with_a_long_bias, {0}},
    {"conv", conv_of_other_channels, {0}},
    {"conv", conv, {1, 4, 4, 2, 3, 3, 0, 1, 1, 1, 1, 0}},
    {"matmul", matmul_of_other_depths, {0}},
    {"add", add, {2, 3, 2, 2, 2, 3, 2, 3}},
    {"mul", mul, {2, 1, 2, 2, 2, 3, 2, 2}},
    {"sum_to", sum_to, {2, 3, 2, 2, 2, 2, 2, 2}},
    {"sum_to", sum_of_ids, {0}},
    {"expand", expand, {2, 3, 2, 2, 2, 4, 2, 2}},
    {"expand", too_large_to_count, {0}},
    {"permute", permute, {2, 3, 2, 2, 0, 1, 1, 2}},
    {"permute", permute, {2, 3, 2, 2, 0, 1, 2, 4}},
    {"concat", concat, {2, 3, 2, 2, 4, 1}},
    {"slice", slice, {2, 3, 2, 2, 1, 2, 2}},
    {"slice", slice, {2, 3, 2, 2, 1, 1, 0}},
    {"pad", pad, {2, 3, 2, 2, 1, 2, 4}},
    {"view", view, {6, 3, 2, 2}},
    {"view", view_before_the_start, {0}},
    {"group_norm", group_norm, {2, 2, 2, 6, 4, 0, 1}},
    {"layer_norm", norm_with_a_short_bias, {0}},
    {"geglu", geglu_of_three, {0}},
    {"attention", attention, {1, 2, 2, 6, 4, 0, 100}},
    {"attention", attention, {1, 2, 3, 6, 2, 1, 100}},
    {"attention", attention, {1, 2, 2, 513, 1, 0, 100}},
    {"attention", attention_of_other_keys, {0}},
    {"timestep", timestep, {2, 5, 1, 0}},
    {"timestep", timestep, {2, 4, 1, 2}},
};
enum { MISTAKES = sizeof mistakes / sizeof *mistakes };

static void test_mistakes(void **state) {
    (void)state;
    for (int k = 0; k < MISTAKES; k++) {
        net n = {.g = ck_graph_new(), .ids = CK_NONE, .weight = CK_NONE};
        ck_error err = {CK_OK, ""};
        ck_node y = mistakes[k].make(&n, mistakes[k].p);
        assert_int_equal(y, CK_NONE);
        if (ck_graph_check(n.g, &err) != CK_INPUT || !strstr(err.message, mistakes[k].name))
            fail_msg("mistake %d: '%s' does not name %s", k, err.message, mistakes[k].name);
        /* What is built upon it neither crashes nor hides it. */
        assert_int_equal(ck_mean(n.g, ck_affine(n.g, y, 2, 0)), CK_NONE);
        ck_error again = {CK_OK, ""};
        ck_graph_check(n.g, &again);
        assert_string_equal(again.message, err.message);
        ck_graph_free(n.g);
    }
}

/* Of which libraries cannot count the pixels. */
static void test_large_images(void **state) {
    (void)state;
    static const struct {
        int64_t height, width;
        bool fits;
    } cases[] = {{65536, 32767, true},
                 {65537, 8, false},
                 {8, 65537, false},
                 {65536, 32768, false},
                 {46341, 46341, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_error err = {CK_OK, ""};
        ck_graph *g = ck_graph_new();
        ck_node x = ck_input(g, "x", CK_F32, CK_SHAPE(1, cases[i].height, cases[i].width, 4));
        ck_node w = ck_input(g, "w", CK_F32, CK_SHAPE(4, 3, 3, 4));
        ck_node y = ck_conv(g, x, w, CK_NONE, 1, (int[4]){1, 1, 1, 1});
        assert_int_equal(y != CK_NONE, cases[i].fits);
        assert_int_equal(ck_graph_check(g, &err), cases[i].fits ? CK_OK : CK_USAGE);
        if (!cases[i].fits) assert_non_null(strstr(err.message, "are too large: convolutions"));
        ck_graph_free(g);
    }
}

static void expect_no_gradient(ck_graph *g, ck_node of, ck_node wrt, const char *why) {
    ck_error err = {CK_OK, ""};
    ck_node grad;
    assert_int_equal(ck_gradients(g, of, &wrt, 1, &grad, &err), CK_USAGE);
    if (!strstr(err.message, why)) fail_msg("'%s' does not say '%s'", err.message, why);
}

static void test_no_gradient(void **state) {
    (void)state;
    ck_graph *g = ck_graph_new();
    ck_error err;
    ck_node x = ck_input(g, "x", CK_F32, CK_SHAPE(3)), z = ck_input(g, "z", CK_F32, CK_SHAPE(3));
    ck_node y = ck_unary_op(g, CK_SILU, x, 0), loss = ck_mean(g, y), dx;
    expect_no_gradient(g, y, x, "one number");
    expect_no_gradient(g, loss, z, "z: the loss does not depend on it");
    expect_no_gradient(g, ck_mean(g, ck_detach(g, y)), x, "x: the loss does not depend on it");
    assert_int_equal(ck_gradients(g, loss, &x, 1, &dx, &err), CK_OK);
    /* Not silently without the part that goes through dx. */
    expect_no_gradient(g, ck_mean(g, ck_mul(g, dx, x)), x, "unary_grad");
    ck_node kept = ck_detach(g, dx);
    assert_int_equal(ck_gradients(g, ck_mean(g, ck_mul(g, kept, x)), &x, 1, &dx, &err), CK_OK);
    ck_graph_free(g);
}

static void test_unknown_backend(void **state) {
    (void)state;
    const ck_backend *b;
    ck_error err;
    assert_int_equal(ck_backend_open("abacus", &b, &err), CK_USAGE);
    assert_non_null(strstr(err.message, "'abacus'"));
}

/* From the empty graph to the result, every allocation failing once. */
static ck_status run_deep(ck_error *err) {
    ck_exec *e = NULL;
    const ck_backend *b;
    ck_graph *g = ck_graph_new();
    if (!g) return ck_fail(err, CK_MEMORY, "graph");
    ck_node x = ck_input(g, "x", CK_F32, CK_SHAPE(2, 6)), dx;
    ck_block_begin(g);
    ck_node y = ck_geglu(g, ck_layer_norm(g, x, CK_NONE, CK_NONE, 1e-5));
    ck_block_end(g);
    ck_status s = ck_gradients(g, ck_mean(g, y), &x, 1, &dx, err);
    if (s == CK_OK) s = ck_backend_open("cpu", &b, err);
    if (s == CK_OK) s = ck_exec_new(b, g, &dx, 1, &e, err);
    if (s == CK_OK) s = ck_exec_allocate(e, 0, err);
    if (s == CK_OK) s = ck_exec_write(e, x, (const float[12]){1, 2}, 12, err);
    if (s == CK_OK) s = ck_exec_run(e, err);
    ck_exec_free(e);
    ck_graph_free(g);
    return s;
}

static void test_out_of_memory(void **state) {
    (void)state;
    const fault_kind kinds[] = {FAULT_CALLOC, FAULT_REALLOC};
    for (int k = 0; k < 2; k++)
        for (fault_first(kinds[k], ENOMEM); fault_more();) {
            ck_error err = {CK_OK, ""};
            fault_arm();
            ck_status s = run_deep(&err);
            fault_disarm();
            assert_int_equal(s, fault_hit() ? CK_MEMORY : CK_OK);
        }
}

/* ---- --bench ---- */

/* As in Stable Diffusion 1.5 at 64 x 64, and in the tiny models in batches of 64. */
static const op_case sizes[] = {
    {"silu", unary, {CK_SILU, 0, 64 * 64 * 320}},
    {"gelu", unary, {CK_GELU, 0, 64 * 64 * 320}},
    {"affine", affine, {64 * 64 * 320}},
    {"add", add, {1, 64, 64, 320, 1, 64, 64, 320}},
    {"add per image", add, {64, 16, 16, 32, 64, 1, 1, 32}},
    {"sum_to a row", sum_to, {64, 16, 16, 32, 1, 1, 1, 32}},
    {"group_norm, silu, SD", group_norm, {1, 64, 64, 320, 32, 1, 1}},
    {"group_norm, silu, tiny", group_norm, {64, 16, 16, 32, 16, 1, 1}},
    {"group_norm, SD", group_norm, {1, 64, 64, 320, 32, 0, 1}},
    {"layer_norm, SD", layer_norm, {1, 4096, 320, 1, 1}},
    {"layer_norm, tiny", layer_norm, {64, 256, 32, 1, 1}},
    {"geglu, SD", geglu, {4096, 1280}},
    {"attention, SD", attention, {1, 4096, 4096, 320, 8, 0, 16}},
    {"attention, SD, middle", attention, {1, 1024, 1024, 640, 8, 0, 11}},
    {"attention, SD, text", attention, {1, 4096, 77, 320, 8, 0, 16}},
    {"attention, VAE", attention, {1, 1024, 1024, 512, 1, 0, 4}},
    {"attention, tiny", attention, {64, 256, 256, 32, 4, 0, 35}},
    {"attention, tiny, text", attention, {64, 256, 16, 32, 4, 0, 35}},
    {"upsample", upsample, {64, 8, 8, 64}},
    {"concat", concat, {64, 16, 16, 32, 3, 32}},
};
enum { SIZES = sizeof sizes / sizeof *sizes };

static double bytes_of(const net *n, const ck_graph_node *node) {
    double bytes = 4. * (double)ck_shape_count(&node->shape);
    for (int i = 0; i < CK_MAX_SRC; i++)
        if (node->src[i] != CK_NONE) bytes += 4. * (double)count_of(n, node->src[i]);
    return bytes;
}

/* Milliseconds of each operation, the best of a few runs, and the rate at which it goes through
 * its arrays; of attention the products of matrices. */
static void bench_case(const op_case *c) {
    enum { TRIES = 5 };
    net n;
    make(&n, c->make, c->p);
    make_loss(&n);
    ck_node out[MAX_INPUTS + 1];
    ck_exec *e = exec_of(&n, "cpu", out, outputs_of(&n, out));
    write_inputs(e, &n);
    double best[CK_OP_COUNT], before[CK_OP_COUNT] = {0};
    for (int i = 0; i < TRIES; i++) {
        run(e);
        for (int op = 0; op < CK_OP_COUNT; op++) {
            double t = ck_exec_seconds(e)[op] - before[op];
            before[op] = ck_exec_seconds(e)[op];
            if (i == 0 || t < best[op]) best[op] = t;
        }
    }
    for (size_t i = 0; i < n.g->count; i++) {
        const ck_graph_node *node = &n.g->nodes[i];
        bool grad = node->op == CK_OP_ATTENTION_GRAD;
        if (node->op == CK_OP_MUL || node->op == CK_OP_CONST || node->op == CK_OP_EXPAND) continue;
        if (best[node->op] == 0) continue;
        double products = grad ? 10 : 4, rate = bytes_of(&n, node);
        if (grad || node->op == CK_OP_ATTENTION)
            rate = products * c->p[0] * c->p[1] * c->p[2] * c->p[3];
        printf("%-24s %-18s %9.3f ms %7.1f %s\n", c->name, ck_op_name(node->op),
               1e3 * best[node->op], 1e-9 * rate / best[node->op],
               grad || node->op == CK_OP_ATTENTION ? "GFLOP/s" : "GB/s");
        best[node->op] = 0; /* once */
    }
    ck_exec_free(e);
    ck_graph_free(n.g);
}

static int bench(void) {
    printf("%s, %d threads\n", ck_nn_best()->isa, omp_get_max_threads());
    for (int k = 0; k < SIZES; k++) bench_case(&sizes[k]);
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return bench();
    omp_set_num_threads(1); /* but where threads are tested: waiting for them takes longer */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_results),
        cmocka_unit_test(test_embed),
        cmocka_unit_test(test_timestep),
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_reference_in_f32),
        cmocka_unit_test(test_cpu),
        cmocka_unit_test(test_gpu),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_bf16_rounding),
        cmocka_unit_test(test_fused_attention),
        cmocka_unit_test(test_stored_bf16),
        cmocka_unit_test(test_folded),
        cmocka_unit_test(test_scratch_of_norms),
        cmocka_unit_test(test_norm_of_large_numbers),
        cmocka_unit_test(test_residuals),
        cmocka_unit_test(test_residual_is_rounded_once),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_checkpointing),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_places_of_mixed_numbers),
        cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_large_images),
        cmocka_unit_test(test_no_gradient),
        cmocka_unit_test(test_unknown_backend),
        cmocka_unit_test(test_extreme_values),
        cmocka_unit_test(test_nan_in_attention),
        cmocka_unit_test(test_large_scores),
        cmocka_unit_test(test_unknown_isa),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
