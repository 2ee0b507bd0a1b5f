/* Weights of networks in the memory of a backend that has its own: each once, however many graphs
 * use it.
 *
 *   ck_resident *r;
 *   CK_TRY(ck_resident_new(backend, &r, err));
 *   ck_exec_share(e, r);                                 graphs then take their weights from here
 *   float *w;
 *   CK_TRY(ck_resident_need(r, params, index, &w, err));         as the host has it at first
 *   ck_resident_read(r, params);                         trained ones, back to the host
 *   ck_resident_free(r);
 */
#ifndef CK_RESIDENT_H
#define CK_RESIDENT_H

#include "distill/engine/backend.h"

typedef struct ck_resident ck_resident;

ck_status ck_resident_new(const ck_backend *b, ck_resident **r, ck_error *err);
void ck_resident_free(ck_resident *r); /* NULL is allowed; after the graphs that share it */

/* Where the weight lies; it is taken in when first asked for. CK_MEMORY with numbers. */
ck_status ck_resident_need(ck_resident *r, const ck_params *p, size_t index, float **weight,
                           ck_error *err);
/* The same of one that is there; NULL if it is not. */
float *ck_resident_at(const ck_resident *r, const ck_params *p, size_t index);

/* All weights of p that are resident: from the host's, and to them. */
void ck_resident_write(const ck_resident *r, const ck_params *p);
void ck_resident_read(const ck_resident *r, ck_params *p);

#endif
