/* LoRAs: changes to a model's weights, stored as small factors.
 *
 *   if (ck_lora_is(file)) {
 *       ck_reader *changes;
 *       CK_TRY(ck_lora_changes(file, model, CK_UNMATCHED_ERROR, &changes, &report, err));
 *       ... a tensor of changes has the name and shape of a tensor of model, and is F32 ...
 *   }
 *
 * or layer by layer, without a model:
 *
 *   ck_lora *lora;
 *   CK_TRY(ck_lora_open(file, &lora, err));
 *   const ck_lora_layer *l = ck_lora_layer_of(lora, i);       i < ck_lora_count(lora)
 *   CK_TRY(ck_lora_rows(lora, i, 0, l->rows, 0, l->columns, out, l->columns, err));
 *   ck_lora_close(lora);
 *
 * The change D of a weight W [rows, columns], the columns of a convolution being its input channels
 * times its kernel; s = alpha / rank, 1 where the file has no alpha:
 *   LoRA, LoCon  D = s up down; with lora_mid D[o,i,y,x] = s sum up[o,p] mid[p,q,y,x] down[q,i]
 *   LoHa         D = s (w1_a w1_b) * (w2_a w2_b), element by element; with hada_t1 and _t2 each
 *                factor sum w_a[p,o] t[p,q,y,x] w_b[q,i]
 *   LoKr         D = s kron(w1, w2), either being a product; without any product s is 1
 *   full         D = diff (w_norm); for biases diff_b (b_norm), s lora_B.bias
 *   DoRA         m (W + D) / |W + D| - W with D of any kind: m and the length are those of each
 *                output row, or, where dora_scale is [1, inputs], of each input channel. As PEFT
 * and the paper have it; ComfyUI divides by |W|. The length is that of the model's own weight,
 * whatever other changes are made to it. (LyCORIS and ComfyUI add 1.2e-7 to the length; here a
 * length of zero changes nothing.) Products are made in f32 with fused multiply-add, terms in the
 * order of the rank; the same bits with every instruction set. OFT, BOFT, GLoRA, IA3 and replaced
 * weights are refused by name.
 */
#ifndef CK_LORA_H
#define CK_LORA_H

#include "io/reader.h"

#include <stdbool.h>

typedef struct ck_lora ck_lora;

typedef enum ck_lora_kind {
    CK_LORA_PRODUCT,   /* LoRA, LoCon */
    CK_LORA_HADAMARD,  /* LoHa */
    CK_LORA_KRONECKER, /* LoKr */
    CK_LORA_FULL,
} ck_lora_kind;

enum { CK_LORA_MAX_DIMENSIONS = 5 };

typedef struct ck_lora_layer {
    const char *name; /* as in the file, without what follows the layer's name */
    bool bias;        /* it changes the layer's bias, not its weight */
    ck_lora_kind kind;
    bool magnitude;  /* DoRA: the change depends on the model's weight */
    uint64_t inputs; /* DoRA: how many input channels have a magnitude; 0: the rows do */
    uint64_t rows, columns;
    /* The weight's, as far as the file says: those of LoHa and LoKr may be flattened to a matrix.
     */
    size_t dimensions;
    uint64_t shape[CK_LORA_MAX_DIMENSIONS];
    uint64_t rank; /* of the largest product; 0 without one */
    double scale;  /* s */
} ck_lora_layer;

/* Whether a file holds a LoRA and no model, told from its tensors' names. */
bool ck_lora_is(const ck_reader *file);

/* Pairs the tensors of a file and checks their shapes; file is borrowed. CK_INPUT, naming the
 * tensor, when something is missing, does not fit, or is of a kind that is not read. */
ck_status ck_lora_open(const ck_reader *file, ck_lora **lora, ck_error *err);
void ck_lora_close(ck_lora *lora); /* NULL is allowed */

size_t ck_lora_count(const ck_lora *lora);
/* In the order of their names. */
const ck_lora_layer *ck_lora_layer_of(const ck_lora *lora, size_t i);
/* Tensors that belong to no layer (embeddings in bundles); *count of them. */
const char *const *ck_lora_strangers(const ck_lora *lora, size_t *count);

/* Rows [row, row + rows) and columns [column, column + columns) of layer i's D to out, whose rows
 * begin stride floats apart; without a magnitude's effect. Thread-safe: the factors of the last few
 * layers are kept. */
ck_status ck_lora_rows(const ck_lora *lora, size_t i, uint64_t row, uint64_t rows, uint64_t column,
                       uint64_t columns, float *out, size_t stride, ck_error *err);

/* The command line's form, "FILE:0.8", to a path (released with free()) and a strength, which is 1
 * when not given. A file that has the whole text as its name is that file. */
ck_status ck_lora_argument(const char *text, char **path, double *strength, ck_error *err);

/* What to do with layers for which the model has no tensor. */
typedef enum ck_unmatched { CK_UNMATCHED_ERROR, CK_UNMATCHED_SKIP } ck_unmatched;

typedef struct ck_lora_report {
    size_t layers, skipped;
    const char *first_skipped; /* owned by the changes; NULL: none */
} ck_lora_report;

/* The changes that a LoRA file makes to this model: a reader (format "lora") that borrows both.
 * Layers are found by the names of kohya's tools (lora_unet_, lora_te_, lora_te1_, ...), diffusers
 * and PEFT (unet., transformer., text_encoder., base_model.model.), ComfyUI (diffusion_model.),
 * OneTrainer, SimpleTuner and XLabs, in either layout; what the model fuses or splits is changed
 * row by row. CK_INPUT when shapes differ, when nothing matches, or, unless skipped, when a layer
 * does not. report may be NULL. */
ck_status ck_lora_changes(const ck_reader *file, const ck_reader *model, ck_unmatched unmatched,
                          ck_reader **changes, ck_lora_report *report, ck_error *err);

#endif
