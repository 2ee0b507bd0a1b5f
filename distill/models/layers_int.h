/* Layers with their weights, named as checkpoints name them: what model functions are written in.
 *
 *   ck_scope s = {g, params, ""};
 *   ck_scope block = ck_scope__child(&s, "down_blocks.%d.", i);
 *   ck_node y = ck_layer__linear(&block, "proj_in", x, 320, true);     down_blocks.0.proj_in.weight
 *
 * The number of inputs is x's; the file's weight has to agree. As in graph.h, after a mistake all
 * return CK_NONE.
 */
#ifndef CK_LAYERS_INT_H
#define CK_LAYERS_INT_H

#include "distill/engine/graph.h"

/* A part of a model: the names of its weights begin with name. */
typedef struct ck_scope {
    ck_graph *g;
    ck_params *params;
    char name[160];
} ck_scope;

ck_scope ck_scope__child(const ck_scope *s, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
ck_node ck_scope__param(const ck_scope *s, const char *name, ck_shape shape);

/* x's size along its last dimension; 0 for CK_NONE. */
int64_t ck_scope__width(const ck_scope *s, ck_node x);

ck_node ck_layer__linear(const ck_scope *s, const char *name, ck_node x, int64_t out, bool bias);
/* Square kernels, with a bias. pad: top, left, bottom, right; NULL: none. */
ck_node ck_layer__conv(const ck_scope *s, const char *name, ck_node x, int64_t out, int kernel,
                       int stride, const int pad[4]);
/* 3 x 3, the image keeping its size. */
ck_node ck_layer__conv3(const ck_scope *s, const char *name, ck_node x, int64_t out);
ck_node ck_layer__group_norm(const ck_scope *s, const char *name, ck_node x, int groups, double eps,
                             bool silu);
ck_node ck_layer__layer_norm(const ck_scope *s, const char *name, ck_node x, double eps);
/* x / sqrt(mean of x^2 + eps) along the last dimension, times a weight. */
ck_node ck_layer__rms_norm(const ck_scope *s, const char *name, ck_node x, double eps);

/* linear_1, SiLU, linear_2, to out numbers both times. */
ck_node ck_layer__embedding(const ck_scope *s, ck_node x, int64_t out);

/* diffusers' ResnetBlock2D. time: silu(embedding of time), N x E, or CK_NONE. */
ck_node ck_layer__resnet(const ck_scope *s, ck_node x, ck_node time, int64_t out, int groups,
                         double eps);

/* N H W C as N HW C tokens, and back to the size of like. */
ck_node ck_layer__tokens(const ck_scope *s, ck_node image);
ck_node ck_layer__image(const ck_scope *s, ck_node tokens, ck_node like);

#endif
