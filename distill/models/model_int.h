/* Opening whole models: what model.c, model_folder.c and model_file.c share. */
#ifndef CK_MODEL_INT_H
#define CK_MODEL_INT_H

#include "distill/models/model.h"

/* T5's tokens: what pipelines of these models do, unless they are told otherwise. */
enum { CK_MODEL__T5_SD3 = 256, CK_MODEL__T5_FLUX = 512 };

/* Fill m, of which `planned` is set; that its parts fit together is for the caller to check. What
 * was filled before a failure is for him to close. */
ck_status ck_model__open_folder(const char *folder, const ck_model_parts *parts, ck_model *m,
                                ck_error *err);
ck_status ck_model__open_file(const char *path, const ck_model_parts *parts, ck_model *m,
                              ck_error *err);

/* CLIP's tokenizer, of FOLDER/tokenizer SUFFIX or of FOLDER itself, for its encoder's config. */
ck_status ck_model__open_tokenizer(const char *folder, const char *suffix, ck_model_text *t,
                                   ck_error *err);
/* T5's, of FOLDER/tokenizer SUFFIX or of FOLDER itself, for its encoder's config. */
ck_status ck_model__open_unigram(const char *folder, const char *suffix, ck_model_t5 *t,
                                 ck_error *err);

/* After the network's weights came from another file: whether it takes the scale of guidance. */
void ck_model__detect_guidance(ck_model *m);

#endif
