/* f8 weights that are stored with scales, read as the values they stand for.
 *
 *   ck_reader *plain;
 *   size_t count;
 *   CK_TRY(ck_scaled_open(file, &plain, &count, err));
 *   if (plain) ... read this one instead of file; close it before file ...
 *
 * Known are, for a weight "LAYER.weight" of F8_E4M3 or F8_E5M2,
 *   LAYER.scale_weight, with an empty marker "PREFIX.scaled_fp8"    node-graph tools until 2025
 *   LAYER.weight_scale, with "LAYER.comfy_quant" or metadata        since then
 * each a number, or one for every row. W = f8 * scale, in f32. A weight without a scale is plain f8
 * and stays so. What goes with them (input scales, markers) is left out. Every other quantisation
 * is refused by name.
 */
#ifndef CK_SCALED_H
#define CK_SCALED_H

#include "io/reader.h"

/* *plain: a reader in which scaled weights are F32 tensors, converted while they are read; it
 * borrows source. NULL when source has nothing of the kind. *count: how many weights. CK_INPUT for
 * other quantisations, and for scales that do not fit their weight. */
ck_status ck_scaled_open(const ck_reader *source, ck_reader **plain, size_t *count, ck_error *err);

#endif
