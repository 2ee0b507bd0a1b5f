/* What was chosen for each kind of work on a card, an algorithm or an engine: which one decides
 * about bits, and a library may choose otherwise tomorrow. So choices are texts, which a run keeps
 * (distill/run/plans.h) and makes again when it goes on.
 *
 *   const char *kept = ck_choices_find("product f32 ...");
 *   ... kept ? as it says : of the library's proposals, and then
 *   CK_TRY(ck_choices_add("product f32 ...", "...", err));
 */
#ifndef CK_CUDA_CHOICES_H
#define CK_CUDA_CHOICES_H

#include "io/error.h"

#include <stdbool.h>
#include <stddef.h>

/* NULL: none was made, here or in the run that goes on. */
const char *ck_choices_find(const char *kind);
/* Both are copied; one that is there is replaced. */
ck_status ck_choices_add(const char *kind, const char *choice, ck_error *err);
/* See ck_choices of distill/engine/backend.h. */
bool ck_choices_at(size_t i, const char **kind, const char **choice);

/* n bytes as 2 n hexadecimal digits, and back; false: text is something else. */
void ck_choices_hex(const void *bytes, size_t n, char *text);
bool ck_choices_unhex(const char *text, void *bytes, size_t n);

#endif
