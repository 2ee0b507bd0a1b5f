/* What training reads in the place of images and captions: all items of an encoding, in memory or
 * in a file that was made before (cache.h).
 *
 *   ck_latents *l;
 *   CK_TRY(ck_latents_encode(&encoding, &l, err));
 *   CK_TRY(ck_latents_read(l, ck_encoding_image(&encoding, bucket, i), x0, err));
 *   ck_latents_close(l);
 */
#ifndef CK_LATENTS_H
#define CK_LATENTS_H

#include "distill/data/encoding.h"

typedef struct ck_latents ck_latents;

/* Encodes everything now. e is borrowed. */
ck_status ck_latents_encode(const ck_encoding *e, ck_latents **l, ck_error *err);
/* Of a cache that was made of the same, see cache.h. */
ck_status ck_latents_open(const ck_encoding *e, const char *cache, ck_latents **l, ck_error *err);
void ck_latents_close(ck_latents *l); /* NULL is allowed */

/* An item's numbers, ck_encoding_size of them. From any thread. */
ck_status ck_latents_read(const ck_latents *l, size_t item, float *values, ck_error *err);

#endif
