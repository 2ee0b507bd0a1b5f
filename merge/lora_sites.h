/* The layers of a model under kohya's names, and their values from any reader that has the model's
 * tensors: where LoRAs are made from models.
 *
 *   ck_lora_sites sites;
 *   CK_TRY(ck_lora_sites_of(base, &sites, err));
 *   for (size_t i = 0; i < sites.count; i++)
 *       if (ck_lora_sites_has(&sites, i, tuned)) {
 *           ... zeroed float change[rows * columns of sites.layers[i]] ...
 *           CK_TRY(ck_lora_sites_add(&sites, i, tuned, 1, change, err));
 *           CK_TRY(ck_lora_sites_add(&sites, i, base, -1, change, err));
 *       }
 *   ck_lora_sites_free(&sites);
 */
#ifndef CK_LORA_SITES_H
#define CK_LORA_SITES_H

#include "merge/lora.h"

typedef struct ck_lora_sites {
    ck_lora_layer *layers; /* names, shapes, whether it is a bias */
    size_t count;
    struct ck_lora_site *sites; /* where each is in the model */
    struct ck_lora_site_names *names;
} ck_lora_sites;

/* The weights, norms and biases of the model's denoiser and text encoders; of a model that is not
 * recognised, all. The model is borrowed. */
ck_status ck_lora_sites_of(const ck_reader *model, ck_lora_sites *sites, ck_error *err);
void ck_lora_sites_free(ck_lora_sites *sites); /* a zeroed one is allowed */

/* Whether r has all tensors of layer i; or any. */
bool ck_lora_sites_has(const ck_lora_sites *sites, size_t i, const ck_reader *r);
bool ck_lora_sites_touches(const ck_lora_sites *sites, size_t i, const ck_reader *r);

/* sum += factor * the layer's values in r, whose tensors have the names and shapes of the model's
 * (CK_INPUT if not); tensors that r lacks count as zero. Thread-safe. */
ck_status ck_lora_sites_add(const ck_lora_sites *sites, size_t i, const ck_reader *r, double factor,
                            float *sum, ck_error *err);

#endif
