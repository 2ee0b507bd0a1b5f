/* The network of a model, whatever its kind, with all of its inputs.
 *
 *   ck_model_inputs in;
 *   ck_node out = ck_model_network(g, &model, n, h, w, &in);
 *   ... plan, allocate ...
 *   CK_TRY(ck_model_write(exec, &model, &in, 7, err));       what stays the same from step to step
 *   ... then x, time, context and pooled, with ck_exec_write ...
 */
#ifndef CK_MODEL_NETWORK_H
#define CK_MODEL_NETWORK_H

#include "distill/models/model.h"

typedef struct ck_model_inputs {
    size_t n, h, w;          /* samples; sides of latents */
    ck_node x;               /* n h w C */
    ck_node time;            /* n */
    ck_node context;         /* n ck_model_tokens ck_model_width */
    ck_node pooled;          /* n ck_model_pooled; CK_NONE where the network takes none */
    ck_node guidance, sizes; /* written by ck_model_write */
} ck_model_inputs;

/* Appends inputs and network; its answer, of x's shape. */
ck_node ck_model_network(ck_graph *g, const ck_model *m, size_t n, size_t h, size_t w,
                         ck_model_inputs *in);

/* Scale of guidance, sizes: whatever of them the network takes. Sizes are the image's, not
 * cropped. */
ck_status ck_model_write(ck_exec *e, const ck_model *m, const ck_model_inputs *in, double guidance,
                         ck_error *err);

#endif
