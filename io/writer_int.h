/* What partial.c needs of a writer. */
#ifndef CK_WRITER_INT_H
#define CK_WRITER_INT_H

#include "io/writer.h"

/* As ck_writer_create, but the bytes go to TARGET.partial, which stays when the writer is released
 * without commit; one that is there is opened as it is. Nothing is reserved yet. */
ck_status ck_writer__open_partial(const char *path, uint64_t size, bool replace, ck_writer **w,
                                  ck_error *err);
ck_status ck_writer__reserve(ck_writer *w, ck_error *err);

const char *ck_writer__partial_path(const ck_writer *w);
int ck_writer__fd(const ck_writer *w);

#endif
