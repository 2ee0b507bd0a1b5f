/* Weights in memory written as a safetensors file that says where they come from.
 *
 *   ck_meta facts[] = {{"distilled.method", "pd"}, {"distilled.steps", "1"}};
 *   CK_TRY(ck_export(weights, "RUN/student.safetensors", CK_F16, facts, 2, err));
 */
#ifndef CK_EXPORT_H
#define CK_EXPORT_H

#include "distill/engine/params.h"

/* In the layout, the order and with the metadata of the file that the weights came from; facts are
 * added or replace. dtype: of all floats; CK_DTYPE_COUNT keeps F32. Replaces path. */
ck_status ck_export(const ck_params *weights, const char *path, ck_dtype dtype,
                    const ck_meta *facts, size_t count, ck_error *err);
/* The same of a reader. */
ck_status ck_export_reader(const ck_reader *weights, const char *path, ck_dtype dtype,
                           const ck_meta *facts, size_t count, ck_error *err);

#endif
