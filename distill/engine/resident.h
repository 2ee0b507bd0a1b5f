/* Weights of networks in the memory of a backend that has its own: each once, however many graphs
 * use it; as f32, as a copy of bfloat16 for products, or as both.
 *
 *   ck_resident *r;
 *   CK_TRY(ck_resident_new(backend, &r, err));
 *   CK_TRY(ck_exec_share(e, r, err));                    graphs then take their weights from here
 *   size_t bytes = ck_resident_bytes(r);                  of what was asked for so far
 *   CK_TRY(ck_resident_need(r, params, index, false, &w, err));  as the host has it at first
 *   ... w is changed ...
 *   ck_resident_round(r, params, NULL);                   and its copy after it
 *   ck_resident_read(r, params);                          trained ones, back to the host
 *   ck_resident_free(r);
 */
#ifndef CK_RESIDENT_H
#define CK_RESIDENT_H

#include "distill/engine/backend.h"

typedef struct ck_resident ck_resident;

ck_status ck_resident_new(const ck_backend *b, ck_resident **r, ck_error *err);
void ck_resident_free(ck_resident *r); /* NULL is allowed; after the graphs that share it */

/* That a weight, or (half) its copy, will be needed; what all that are wanted take, in bytes. */
ck_status ck_resident_want(ck_resident *r, const ck_params *p, size_t index, bool half,
                           ck_error *err);
size_t ck_resident_bytes(const ck_resident *r);

/* Where the weight, or (half) its copy, lies; it is taken in when first asked for. CK_MEMORY with
 * numbers. */
ck_status ck_resident_need(ck_resident *r, const ck_params *p, size_t index, bool half,
                           void **weight, ck_error *err);
/* Of one that is there as f32; NULL if it is not. */
float *ck_resident_at(const ck_resident *r, const ck_params *p, size_t index);

/* Copies of bfloat16 anew of all weights of p that are there as f32; how: as in ck_updates, the
 * stream is the weight's index. */
void ck_resident_round(const ck_resident *r, const ck_params *p, const ck_rounding *how);

/* All weights of p that are resident: from the host's, copies rounded to the nearest; and those of
 * f32 to them. */
void ck_resident_write(const ck_resident *r, const ck_params *p);
void ck_resident_read(const ck_resident *r, ck_params *p);

#endif
