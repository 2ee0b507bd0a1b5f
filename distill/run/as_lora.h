/* A student whose whole weights were trained, as a LoRA of its teacher: the difference, layer by
 * layer, by its largest singular values (merge/lora_make.h).
 *
 *   CK_TRY(ck_as_lora(student, teacher, 64, "RUN/student.lora.safetensors", CK_F16, facts, count,
 *                     &made, err));
 *   made.kept      the share of the difference's length that is in it
 */
#ifndef CK_AS_LORA_H
#define CK_AS_LORA_H

#include "distill/engine/params.h"
#include "kernels/dtype.h"
#include "merge/lora_make.h"

/* Weights of one kind of network. Norms and biases are not in a LoRA. Replaces path; metadata as
 * kohya's tools write them, and facts. CK_USAGE: there is no OpenBLAS. */
ck_status ck_as_lora(const ck_params *student, const ck_params *teacher, size_t rank,
                     const char *path, ck_dtype dtype, const ck_meta *facts, size_t count,
                     ck_lora_made *made, ck_error *err);

#endif
