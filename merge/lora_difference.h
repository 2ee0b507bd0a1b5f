/* What a model learned over its base, layer by layer: what extracted LoRAs are made of.
 *
 *   ck_lora_difference d;
 *   CK_TRY(ck_lora_difference_of(tuned, base, &d, err));
 *   CK_TRY(ck_lora_make("tuned - base", d.layers, d.count, ck_lora_difference_read, &d, ...));
 *   ck_lora_difference_free(&d);
 */
#ifndef CK_LORA_DIFFERENCE_H
#define CK_LORA_DIFFERENCE_H

#include "merge/lora_sites.h"

typedef struct ck_lora_difference {
    const ck_reader *tuned, *base;
    ck_lora_sites sites;   /* of the base */
    ck_lora_layer *layers; /* the matrices that both have */
    size_t *site_of;
    size_t count;
} ck_lora_difference;

/* Readers are borrowed and in one layout. CK_INPUT: they have no matrix in common. After an error,
 * too, d is to be freed. */
ck_status ck_lora_difference_of(const ck_reader *tuned, const ck_reader *base,
                                ck_lora_difference *d, ck_error *err);
void ck_lora_difference_free(ck_lora_difference *d); /* a zeroed one is allowed */

/* For ck_lora_make: adds tuned - base of layer i to change. context is a ck_lora_difference. */
ck_status ck_lora_difference_read(void *context, size_t i, float *change, ck_error *err);

#endif
