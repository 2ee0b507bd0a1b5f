/* The names that a model's tensors have in both layouts, for what refers to layers by name: LoRAs,
 * block weights, tables of other programs.
 *
 *   ck_status see(void *context, const ck_alias *alias, ck_error *err) { ... }
 *   CK_TRY(ck_aliases_of(reader, see, context, err));
 *
 * A matrix that one layout fuses (query, key and value of FLUX, SD3 and OpenCLIP) has three names
 * in the other, each for a part of its rows; a part has the name of the whole, of which it is some
 * rows. Tensors of no known network have only their own name.
 */
#ifndef CK_ALIASES_H
#define CK_ALIASES_H

#include "io/anatomy.h"

typedef struct ck_alias {
    const ck_architecture *architecture; /* of the model */
    ck_part part;
    ck_layout layout;        /* whose name it is; CK_LAYOUT_UNKNOWN: the tensor's own */
    const char *name;        /* within its component: "input_blocks.1.1.proj_in.weight" */
    const ck_tensor *tensor; /* Rows [tensor_row, tensor_row + rows) of it ... */
    uint64_t tensor_row, rows;
    uint64_t name_row; /* ... are the rows from here on of what goes by the name. */
} ck_alias;

/* Shows every name of every tensor; the same name may come twice. `alias` and its name are only
 * valid during the call. Stops at the first status that is not CK_OK. A name under which the data
 * lie transposed (OpenCLIP's text_projection) is left out. */
ck_status ck_aliases_of(const ck_reader *r,
                        ck_status (*see)(void *context, const ck_alias *alias, ck_error *err),
                        void *context, ck_error *err);

#endif
