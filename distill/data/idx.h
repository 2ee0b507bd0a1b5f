/* IDX files, the format of MNIST and its relatives: one array of bytes, with its shape.
 *
 *   ck_idx images;
 *   CK_TRY(ck_idx_read("train-images-idx3-ubyte.gz", &images, err));
 *   ... images.shape[0] images of images.shape[1] rows and images.shape[2] columns ...
 *   ck_idx_free(&images);
 *
 * Layout: two zero bytes, the type of elements, the rank, as many sizes (32 bits, big-endian, the
 * outermost first), the elements.
 */
#ifndef CK_IDX_H
#define CK_IDX_H

#include "io/error.h"

#include <stddef.h>
#include <stdint.h>

enum { CK_IDX_RANK = 4 };

typedef struct ck_idx {
    size_t rank; /* 1 to CK_IDX_RANK */
    size_t shape[CK_IDX_RANK];
    size_t count;  /* product of shape; 0 is allowed */
    uint8_t *data; /* count bytes, owned */
} ck_idx;

/* As it is or compressed by gzip, which is found by content. CK_INPUT: malformed, too short, too
 * long, elements that are not unsigned bytes, more than 2^31 of them. */
ck_status ck_idx_read(const char *path, ck_idx *idx, ck_error *err);

/* The same from n bytes of memory; name is for messages. */
ck_status ck_idx_parse(const char *name, const void *data, size_t n, ck_idx *idx, ck_error *err);

void ck_idx_free(ck_idx *idx); /* a zeroed one is allowed */

#endif
