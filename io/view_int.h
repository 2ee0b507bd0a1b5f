/* For container formats that are readers over readers (sharded files, folders): their open() makes
 * the reader a view, fills it with the functions of view.h and ck_view_finish(); their read() and
 * close() are these.
 */
#ifndef CK_VIEW_INT_H
#define CK_VIEW_INT_H

#include "io/reader_int.h"
#include "io/view.h"

ck_status ck_view__attach(ck_reader *r, ck_error *err);
ck_status ck_view__read(const ck_reader *r, const ck_tensor *t, uint64_t begin, void *dst, size_t n,
                        ck_error *err);
void ck_view__close(ck_reader *r);

#endif
