/* Reading a strided view of an array in a file (a transposed matrix, a slice, an expanded row) as
 * the packed C-order data that everyone else works with.
 *
 *   ck_strided view = {fd, path, offset, 2, 2, (uint64_t[]){3, 4}, (uint64_t[]){1, 3}};
 *   CK_TRY(ck_strided_read(&view, first, count, dst, err));    elements [first, first + count)
 *
 * Elements are fetched in the order in which they lie in the file, as far as the part that is asked
 * for allows: many rows of a transposed matrix at once cost much less than one by one. Needs a page
 * of stack and no other memory.
 */
#ifndef CK_STRIDED_H
#define CK_STRIDED_H

#include "io/error.h"

#include <stddef.h>
#include <stdint.h>

enum { CK_STRIDED_MAX_RANK = 64 };

typedef struct ck_strided {
    int fd;
    const char *path;        /* for messages */
    uint64_t offset;         /* of the first element in the file */
    size_t size;             /* bytes of an element, at most 16 */
    size_t rank;             /* at most CK_STRIDED_MAX_RANK */
    const uint64_t *shape;   /* no overflow: the caller has checked that every element lies in */
    const uint64_t *strides; /* the file. Strides are in elements, and may be 0 */
} ck_strided;

ck_status ck_strided_read(const ck_strided *view, uint64_t first, uint64_t count, void *dst,
                          ck_error *err);

#endif
