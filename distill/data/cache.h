/* Encoded data in a file: made once, read by every run that has the same data and encoders, in any
 * order, with little memory.
 *
 *   CK_TRY(ck_cache_make(&encoding, "photos.h5", CK_F16, err));
 *   ck_cache *c;
 *   CK_TRY(ck_cache_open(&encoding, "photos.h5", &c, err));
 *   CK_TRY(ck_cache_read(c, item, values, err));              items are those of encoding.h
 *   ck_cache_close(c);
 *
 * In the file: dataset /captions (a row a caption), /images/WIDTHxHEIGHT (a row an image), in f16
 * or f32, in chunks with Fletcher-32 checksums; attributes that say what it was made of, as
 * SHA-256: vae, text, data, sizes.
 *
 * While it is made, what is done lies in photos.h5.part, a record an item with a checksum each. Who
 * is killed goes on from there; at the end that becomes the file, which is whole or absent (so that
 * for a while the disk holds both).
 */
#ifndef CK_CACHE_H
#define CK_CACHE_H

#include "distill/data/encoding.h"
#include "kernels/dtype.h"

typedef struct ck_cache ck_cache;

/* dtype: CK_F32 or CK_F16. A file that is there and of the same data is left as it is, another is
 * replaced. CK_INPUT: what ck_encode says; values that do not fit f16. CK_CANCELLED: Ctrl-C, when
 * io/interrupt.h is on; the same call goes on. */
ck_status ck_cache_make(const ck_encoding *e, const char *path, ck_dtype dtype, ck_error *err);

/* CK_INPUT: damaged, or made of other data or by other encoders, and which; CK_IO: not there. e and
 * path are borrowed. */
ck_status ck_cache_open(const ck_encoding *e, const char *path, ck_cache **c, ck_error *err);
void ck_cache_close(ck_cache *c); /* NULL is allowed */

/* From any thread, one at a time. CK_INPUT: a chunk whose checksum is not right, with the file. */
ck_status ck_cache_read(ck_cache *c, size_t item, float *values, ck_error *err);

#endif
