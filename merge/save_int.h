/* What writing files and writing folders share. */
#ifndef CK_SAVE_INT_H
#define CK_SAVE_INT_H

#include "merge/save.h"

/* One model to one file, or to shards; adds to the result. */
ck_status ck_save__file(ck_reader *r, const char *path, const ck_save_options *o,
                        ck_save_result *result, ck_error *err);

/* To a diffusers folder. */
ck_status ck_save__folder(const ck_reader *r, const char *path, const ck_save_options *o,
                          ck_save_result *result, ck_error *err);

#endif
