/* See layers_int.h. */
#include "distill/models/layers_int.h"

#include "distill/models/adapter.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

ck_scope ck_scope__child(const ck_scope *s, const char *format, ...) {
    ck_scope child = {s->g, s->params, ""};
    char end[96];
    va_list args;
    va_start(args, format);
    vsnprintf(end, sizeof end, format, args);
    va_end(args);
    int n = snprintf(child.name, sizeof child.name, "%.96s%s", s->name, end);
    if (n < 0 || (size_t)n >= sizeof child.name)
        ck_graph_fail(s->g, CK_USAGE, "'%s...': a name too long for a weight", child.name);
    return child;
}

ck_node ck_scope__param(const ck_scope *s, const char *name, ck_shape shape) {
    char full[256];
    snprintf(full, sizeof full, "%s%s", s->name, name);
    return ck_param(s->g, ck_adapter_owner(s->g, s->params, full), full, shape);
}

static ck_node param_of(const ck_scope *s, const char *layer, const char *kind, ck_shape shape) {
    char name[64];
    snprintf(name, sizeof name, "%s.%s", layer, kind);
    return ck_scope__param(s, name, shape);
}

int64_t ck_scope__width(const ck_scope *s, ck_node x) {
    ck_shape shape = ck_node_shape(s->g, x);
    return shape.d[shape.rank - 1];
}

static ck_node adapted(const ck_scope *s, const char *name, ck_node x, ck_node y,
                       ck_window window) {
    char layer[256];
    snprintf(layer, sizeof layer, "%s%s", s->name, name);
    return ck_adapter_add(s->g, layer, x, y, window);
}

ck_node ck_layer__linear(const ck_scope *s, const char *name, ck_node x, int64_t out, bool bias) {
    ck_node w = param_of(s, name, "weight", CK_SHAPE(out, ck_scope__width(s, x)));
    ck_node b = bias ? param_of(s, name, "bias", CK_SHAPE(out)) : CK_NONE;
    return adapted(s, name, x, ck_linear(s->g, x, w, b), (ck_window){1, 1, {0}});
}

ck_node ck_layer__conv(const ck_scope *s, const char *name, ck_node x, int64_t out, int kernel,
                       int stride, const int pad[4]) {
    ck_window window = {kernel, stride, {0}};
    if (pad) memcpy(window.pad, pad, sizeof window.pad);
    ck_shape shape = CK_SHAPE(out, kernel, kernel, ck_scope__width(s, x));
    ck_node w = param_of(s, name, "weight", shape);
    ck_node b = param_of(s, name, "bias", CK_SHAPE(out));
    return adapted(s, name, x, ck_conv(s->g, x, w, b, stride, window.pad), window);
}

ck_node ck_layer__conv3(const ck_scope *s, const char *name, ck_node x, int64_t out) {
    return ck_layer__conv(s, name, x, out, 3, 1, (int[4]){1, 1, 1, 1});
}

ck_node ck_layer__group_norm(const ck_scope *s, const char *name, ck_node x, int groups, double eps,
                             bool silu) {
    ck_shape shape = CK_SHAPE(ck_scope__width(s, x));
    ck_node gain = param_of(s, name, "weight", shape);
    ck_node bias = param_of(s, name, "bias", shape);
    return ck_group_norm(s->g, x, gain, bias, groups, eps, silu);
}

ck_node ck_layer__layer_norm(const ck_scope *s, const char *name, ck_node x, double eps) {
    ck_shape shape = CK_SHAPE(ck_scope__width(s, x));
    ck_node gain = param_of(s, name, "weight", shape);
    ck_node bias = param_of(s, name, "bias", shape);
    return ck_layer_norm(s->g, x, gain, bias, eps);
}

ck_node ck_layer__rms_norm(const ck_scope *s, const char *name, ck_node x, double eps) {
    ck_shape shape = ck_node_shape(s->g, x), one = shape, row = shape;
    int64_t width = ck_scope__width(s, x);
    one.d[one.rank - 1] = 1;
    for (int i = 0; i < row.rank - 1; i++) row.d[i] = 1;
    ck_node gain = ck_reshape(s->g, param_of(s, name, "weight", CK_SHAPE(width)), row);
    ck_node size = ck_sum_to(s->g, ck_mul(s->g, x, x), one);
    size = ck_unary_op(s->g, CK_SQRT, ck_affine(s->g, size, 1. / (double)width, eps), 0);
    x = ck_mul(s->g, x, ck_unary_op(s->g, CK_RECIPROCAL, size, 0));
    return ck_mul(s->g, x, gain);
}

ck_node ck_layer__embedding(const ck_scope *s, ck_node x, int64_t out) {
    ck_node h = ck_layer__linear(s, "linear_1", x, out, true);
    return ck_layer__linear(s, "linear_2", ck_unary_op(s->g, CK_SILU, h, 0), out, true);
}

ck_node ck_layer__resnet(const ck_scope *s, ck_node x, ck_node time, int64_t out, int groups,
                         double eps) {
    ck_node h = ck_layer__group_norm(s, "norm1", x, groups, eps, true);
    h = ck_layer__conv3(s, "conv1", h, out);
    if (time != CK_NONE) {
        ck_node shift = ck_layer__linear(s, "time_emb_proj", time, out, true);
        int64_t n = ck_node_shape(s->g, shift).d[0];
        h = ck_add(s->g, h, ck_reshape(s->g, shift, CK_SHAPE(n, 1, 1, out)));
    }
    h = ck_layer__group_norm(s, "norm2", h, groups, eps, true);
    h = ck_layer__conv3(s, "conv2", h, out);
    if (ck_scope__width(s, x) != out) x = ck_layer__conv(s, "conv_shortcut", x, out, 1, 1, NULL);
    return ck_add(s->g, x, h);
}

ck_node ck_layer__tokens(const ck_scope *s, ck_node image) {
    ck_shape d = ck_node_shape(s->g, image);
    return ck_reshape(s->g, image, CK_SHAPE(d.d[0], d.d[1] * d.d[2], d.d[3]));
}

ck_node ck_layer__image(const ck_scope *s, ck_node tokens, ck_node like) {
    ck_shape d = ck_node_shape(s->g, like);
    return ck_reshape(s->g, tokens, CK_SHAPE(d.d[0], d.d[1], d.d[2], ck_scope__width(s, tokens)));
}
