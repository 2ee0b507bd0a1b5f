/* LoRA adapters: a network whose weights stay as they are, with small factors beside them that are
 * trained. Where a layer's name matches, its answer is that of W + alpha / rank up down.
 *
 *   ck_adapter lora = {.base = weights, .rank = 16, .alpha = 16};
 *   lora.targets = ck_adapter_targets(&lora.target_count);
 *   ck_network student = {.params = ck_params_new(seed), .unet = &config, .adapter = &lora};
 *   ... is built, asked and trained like any other; student.params are the factors ...
 *   CK_TRY(ck_adapter_export(&lora, student.params, "lora.safetensors", CK_F16, facts, count,
 * err));
 *
 * Networks that share a base share its memory: a teacher is the same network without adapter. The
 * product is never made: a layer with factors is two more, narrow ones, so that neither memory nor
 * gradients of the size of W are needed. down begins as torch's layers do (kaiming uniform), up
 * with zeros, so that at first nothing is changed.
 */
#ifndef CK_ADAPTER_H
#define CK_ADAPTER_H

#include "distill/engine/graph.h"

typedef struct ck_adapter {
    ck_params *base; /* frozen */
    uint64_t rank;
    double alpha;
    const char *const *targets; /* globs of layers' names, such as "*.to_q" */
    size_t target_count;
} ck_adapter;

/* All linear layers and convolutions of a UNet's blocks (those of LCM-LoRA), of a transformer's all
 * but the modulations. */
const char *const *ck_adapter_targets(size_t *count);

/* A graph's layers are adapted from here on (distill/models/layers_int.h calls ck_adapter_add);
 * NULL: no longer. Factors are made when first asked for, and named as kohya's tools name them. */
typedef struct ck_adapting {
    const ck_adapter *adapter;
    ck_params *factors;
} ck_adapting;
void ck_adapter_use(ck_graph *g, const ck_adapting *adapting);

/* How a layer's window lies: kernel 1 for linear ones. */
typedef struct ck_window {
    int kernel, stride, pad[4];
} ck_window;

/* Who has a weight: what the base lacks (an input that only the adapted network takes) is among the
 * factors. */
ck_params *ck_adapter_owner(const ck_graph *g, ck_params *base, const char *name);

/* y, the answer of a layer to x, with what its factors add; y where there are none. */
ck_node ck_adapter_add(ck_graph *g, const char *layer, ck_node x, ck_node y, ck_window window);

/* The metadata that kohya's tools give a LoRA, for a view that is not finished. */
ck_status ck_adapter_describe(ck_reader *view, size_t rank, double alpha, ck_error *err);
/* The factors as a LoRA with the names of kohya's tools, with alphas and these metadata, as
 * ck_export writes weights. */
ck_status ck_adapter_export(const ck_adapter *a, const ck_params *factors, const char *path,
                            ck_dtype dtype, const ck_meta *facts, size_t count, ck_error *err);

#endif
