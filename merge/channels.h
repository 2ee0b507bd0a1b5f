/* The channels of a model that can change places without changing what the model computes, and the
 * model with them in another order.
 *
 *   ck_channels *c;
 *   CK_TRY(ck_channels_open(model, NULL, &c, err));
 *   ... fill c->groups[g].order[part] ...
 *   CK_TRY(ck_channels_view(c, &view, err));          computes the same, but for rounding
 *   ck_channels_free(c);
 *
 * A group is the channels between two layers; every tensor with an axis along them has to take the
 * same order. Which tensors those are stands in a table (channels.c), for SD1, SD2 and SDXL:
 *   UNet   the inside of a residual block (between its convolutions), the stream through a spatial
 *          transformer, the heads of each attention, the inside of each feed-forward, the time and
 *          label embeddings and their hidden layers
 *   VAE    the inside of a residual block, the attention
 *   CLIP   the heads of each attention, the inside of each MLP
 * Where a group normalisation looks at the channels, only its groups may change places as a whole,
 * and the channels within each; the same with heads, whose queries and keys are one part and whose
 * values are another, ordered each for itself. All else stays: the streams that skip connections
 * join under normalisations of other group sizes, and what is the model's input, output or text
 * context.
 */
#ifndef CK_CHANNELS_H
#define CK_CHANNELS_H

#include "io/arena.h"
#include "io/reader.h"

enum { CK_CHANNEL_PARTS = 2, CK_CHANNEL_SEGMENTS = 3 };

typedef struct ck_channel_group {
    const char *name; /* "unet.down_blocks.0.resnets.1 inside": as diffusers would call it */
    size_t size;
    size_t blocks; /* of size / blocks channels each: they change places as a whole */
    size_t parts;  /* in the same order of blocks, each with its own order within them */
    /* At place i stands the model's channel order[part][i]; at first i. */
    uint32_t *order[CK_CHANNEL_PARTS];
} ck_channel_group;

/* What an axis is along. */
typedef struct ck_axis {
    size_t group; /* CK_NO_GROUP: it stays as it is */
    size_t part;
} ck_axis;
#define CK_NO_GROUP SIZE_MAX

/* A tensor with such an axis. */
typedef struct ck_channel_tensor {
    const ck_tensor *tensor;
    ck_axis rows[CK_CHANNEL_SEGMENTS]; /* its first axis, of `segments` equal pieces */
    size_t segments;
    ck_axis columns; /* its second axis */
} ck_channel_tensor;

typedef struct ck_channels {
    const ck_reader *model;
    ck_channel_group *groups; /* such that each has an axis facing none or groups before it */
    size_t group_count, group_capacity;
    ck_channel_tensor *tensors; /* in the model's order */
    size_t tensor_count, tensor_capacity;
    ck_arena arena;
} ck_channels;

/* What the weights do not tell. */
typedef struct ck_channel_sizes {
    size_t heads; /* of the UNet's attentions; 0: they have unet_head channels each */
    size_t unet_head;
    size_t clip_head;
    size_t norm_groups; /* of every group normalisation */
} ck_channel_sizes;

/* Finds the groups; the model is borrowed. sizes: those of a model of unusual width; NULL: those of
 * the published models. CK_INPUT, naming it, for a model of an architecture without a table, of a
 * width that is none of the published ones (without sizes), or with a tensor that is not known
 * where channels would move, or does not fit. */
ck_status ck_channels_open(const ck_reader *model, const ck_channel_sizes *sizes,
                           ck_channels **channels, ck_error *err);
void ck_channels_free(ck_channels *c); /* NULL is allowed */

/* The order of all rows of one of the tensors to order[shape[0]]. */
void ck_channels_rows(const ck_channels *c, const ck_channel_tensor *t, uint32_t *order);

/* The model with every group in its order; borrows the model, not the channels. */
ck_status ck_channels_view(const ck_channels *c, ck_reader **view, ck_error *err);

#endif
