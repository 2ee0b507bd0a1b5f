/* See lora_difference.h. */
#include "merge/lora_difference.h"

#include "io/os.h"

#include <stdlib.h>

ck_status ck_lora_difference_read(void *context, size_t i, float *change, ck_error *err) {
    const ck_lora_difference *d = context;
    CK_TRY(ck_lora_sites_add(&d->sites, d->site_of[i], d->tuned, 1, change, err));
    return ck_lora_sites_add(&d->sites, d->site_of[i], d->base, -1, change, err);
}

ck_status ck_lora_difference_of(const ck_reader *tuned, const ck_reader *base,
                                ck_lora_difference *d, ck_error *err) {
    *d = (ck_lora_difference){.tuned = tuned, .base = base};
    CK_TRY(ck_lora_sites_of(base, &d->sites, err));
    d->layers = ck_alloc_array(d->sites.count, sizeof *d->layers);
    d->site_of = ck_alloc_array(d->sites.count, sizeof *d->site_of);
    if (!d->layers || !d->site_of) return ck_fail_memory(err, ck_reader_path(tuned));
    for (size_t i = 0; i < d->sites.count; i++) {
        const ck_lora_layer *l = &d->sites.layers[i];
        if (l->bias || l->dimensions < 2 || !ck_lora_sites_has(&d->sites, i, tuned)) continue;
        d->layers[d->count] = *l;
        d->site_of[d->count++] = i;
    }
    if (d->count) return CK_OK;
    return ck_fail(err, CK_INPUT, "%s has no weight in common with %s", ck_reader_path(tuned),
                   ck_reader_path(base));
}

void ck_lora_difference_free(ck_lora_difference *d) {
    free(d->layers);
    free(d->site_of);
    ck_lora_sites_free(&d->sites);
}
