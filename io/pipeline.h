/* What a diffusers folder says of a model besides its weights, made from what is known of its
 * architecture: for models that come out of one file, which says nothing of the kind.
 *
 *   CK_TRY(ck_pipeline_index(reader, &anatomy, &index, err));                 model_index.json
 *   CK_TRY(ck_pipeline_config(reader, &anatomy, component, &config, err));    unet/config.json
 *   CK_TRY(ck_pipeline_scheduler(reader, &anatomy, &config, err));
 *
 * The reader is in diffusers' layout, anatomy is its own. All are released with cJSON_Delete().
 * Only of published sizes: what shapes do not say (heads, groups of norms) is not guessed, but
 * CK_INPUT. Fields that have diffusers' default are left out.
 */
#ifndef CK_PIPELINE_H
#define CK_PIPELINE_H

#include "io/anatomy.h"

#include <cjson/cJSON.h>

/* The library that has the class of a part: "diffusers" or "transformers". */
const char *ck_pipeline_library(ck_part part);

/* The folders of the components that anatomy has, by the names of diffusers; tokenizers, which no
 * file of weights holds, are null. */
ck_status ck_pipeline_index(const ck_reader *r, const ck_anatomy *a, cJSON **index, ck_error *err);

/* The text of the config.json that such a part of this architecture was published with, without
 * what is told from tensors; NULL: not known. */
const char *ck_pipeline_published(const ck_anatomy *a, ck_part part);

/* The config of one component. */
ck_status ck_pipeline_config(const ck_reader *r, const ck_anatomy *a, size_t component,
                             cJSON **config, ck_error *err);

/* Makes a scheduler's config say what the model predicts, as far as markers or metadata tell, and
 * whether it is trained with zero terminal signal-to-noise. *changed: it did not. */
ck_status ck_pipeline_mark(const ck_anatomy *a, cJSON *config, bool *changed, ck_error *err);

/* Marked so. */
ck_status ck_pipeline_scheduler(const ck_reader *r, const ck_anatomy *a, cJSON **config,
                                ck_error *err);

#endif
