/* The rows of layers in a model, told from its tensors' names: where gradients run along.
 *
 *   ck_layer *layers = ck_layers_find(names, count, &arena);         one for each name; NULL:
 * memory layers[i].row, layers[i].index of layers[i].length, names[i][0..layers[i].end) its prefix
 *
 * A layer is a number behind a name component that is "layers" or ends in "block" or "blocks"
 * ("double_blocks.7", "text_model.encoder.layers.3"), the first in the name. A UNet's blocks are
 * one row: in, middle, out. Everything else is in no layer.
 */
#ifndef CK_LAYERS_H
#define CK_LAYERS_H

#include "io/arena.h"

#include <stddef.h>

typedef struct ck_layer {
    size_t row;    /* from 0; SIZE_MAX: in no layer */
    size_t index;  /* within its row */
    size_t length; /* layers in the row */
    size_t end;    /* of the part of the name that the tensors of this layer share */
} ck_layer;

ck_layer *ck_layers_find(const char *const *names, size_t count, ck_arena *arena);

#endif
