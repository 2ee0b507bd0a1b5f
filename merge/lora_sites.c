/* Groups of places, see lora_names.c. */
#include "merge/lora_sites.h"
#include "io/os.h"
#include "kernels/kernels.h"
#include "merge/lora_int.h"

#include <stdlib.h>
#include <string.h>

struct ck_lora_site {
    const ck_lora_place *places; /* in the order of the layer's rows */
    size_t count;
};

struct ck_lora_site_names {
    ck_lora_places places;
    ck_arena arena;
};

#define BIAS "_bias"

/* What a group of places amounts to. */
static ck_status describe(const struct ck_lora_site *site, ck_arena *arena, ck_lora_layer *l,
                          ck_error *err) {
    const ck_tensor *t = site->places[0].tensor;
    const char *name = site->places[0].name, *end = name + strlen(name) - strlen(BIAS);
    *l = (ck_lora_layer){.kind = CK_LORA_FULL, .dimensions = t->rank, .scale = 1};
    l->bias = end > name && strcmp(end, BIAS) == 0;
    l->name = l->bias ? ck_arena_strndup(arena, name, (size_t)(end - name)) : name;
    if (!l->name) return ck_fail_memory(err, name);
    for (size_t k = 0; k < site->count; k++) l->rows += site->places[k].rows;
    l->columns = t->elements / t->shape[0];
    memcpy(l->shape, t->shape, t->rank * sizeof *l->shape);
    l->shape[0] = l->rows;
    return CK_OK;
}

/* Whether the places follow one another without gap, in tensors of one form. */
static bool is_whole(const struct ck_lora_site *site) {
    uint64_t row = 0;
    for (size_t k = 0; k < site->count; k++) {
        const ck_tensor *first = site->places[0].tensor, *t = site->places[k].tensor;
        if (site->places[k].name_row != row || !ck_dtype_is_float(t->dtype) || t->rank == 0 ||
            t->rank > CK_LORA_MAX_DIMENSIONS || t->rank != first->rank ||
            memcmp(t->shape + 1, first->shape + 1, (t->rank - 1) * sizeof *t->shape) != 0)
            return false;
        row += site->places[k].rows;
    }
    return true;
}

static ck_status group(ck_lora_sites *sites, ck_error *err) {
    const ck_lora_places *p = &sites->names->places;
    sites->layers = ck_alloc_array(p->count, sizeof *sites->layers);
    sites->sites = ck_alloc_array(p->count, sizeof *sites->sites);
    if (!sites->layers || !sites->sites) return ck_fail_memory(err, "layers");
    for (size_t i = 0; i < p->count;) {
        struct ck_lora_site site = {&p->items[i], 0};
        while (i < p->count && strcmp(p->items[i].name, site.places[0].name) == 0)
            site.count++, i++;
        if (!is_whole(&site)) continue;
        sites->sites[sites->count] = site;
        CK_TRY(describe(&site, &sites->names->arena, &sites->layers[sites->count], err));
        sites->count++;
    }
    return CK_OK;
}

ck_status ck_lora_sites_of(const ck_reader *model, ck_lora_sites *sites, ck_error *err) {
    *sites = (ck_lora_sites){0};
    sites->names = ck_alloc(sizeof *sites->names);
    if (!sites->names) return ck_fail_memory(err, ck_reader_path(model));
    ck_status status = ck_lora__kohya_places(model, &sites->names->places, err);
    if (status == CK_OK) status = group(sites, err);
    if (status != CK_OK) ck_lora_sites_free(sites);
    return status;
}

void ck_lora_sites_free(ck_lora_sites *sites) {
    free(sites->layers);
    free(sites->sites);
    if (sites->names) {
        ck_lora__places_free(&sites->names->places);
        ck_arena_free(&sites->names->arena);
    }
    free(sites->names);
    *sites = (ck_lora_sites){0};
}

/* How many of the layer's tensors r has. */
static size_t count_in(const struct ck_lora_site *site, const ck_reader *r) {
    size_t n = 0;
    for (size_t k = 0; k < site->count; k++)
        n += ck_reader_find(r, site->places[k].tensor->name) != NULL;
    return n;
}

bool ck_lora_sites_has(const ck_lora_sites *sites, size_t i, const ck_reader *r) {
    return count_in(&sites->sites[i], r) == sites->sites[i].count;
}

bool ck_lora_sites_touches(const ck_lora_sites *sites, size_t i, const ck_reader *r) {
    return count_in(&sites->sites[i], r) > 0;
}

static ck_status add_rows(const ck_reader *r, const ck_tensor *t, uint64_t first, uint64_t n,
                          double factor, float *sum, ck_error *err) {
    const ck_kernels *k = ck_kernels_best();
    unsigned char raw[CK_STRIP * 8];
    float values[CK_STRIP];
    size_t size = ck_dtype_bits(t->dtype) / 8;
    for (uint64_t done = 0; done < n; done += CK_STRIP) {
        size_t strip = n - done < CK_STRIP ? (size_t)(n - done) : CK_STRIP;
        CK_TRY(ck_reader_read(r, t, (first + done) * size, raw, strip * size, err));
        k->decode[t->dtype](values, raw, strip);
        k->accumulate(sum + done, values, (float)factor, strip);
    }
    return CK_OK;
}

ck_status ck_lora_sites_add(const ck_lora_sites *sites, size_t i, const ck_reader *r, double factor,
                            float *sum, ck_error *err) {
    const struct ck_lora_site *site = &sites->sites[i];
    uint64_t columns = sites->layers[i].columns;
    for (size_t k = 0; k < site->count; k++) {
        const ck_lora_place *p = &site->places[k];
        const ck_tensor *t = ck_reader_find(r, p->tensor->name);
        if (!t) continue;
        if (!ck_dtype_is_float(t->dtype) || t->elements != p->tensor->elements) {
            char mine[128], theirs[128];
            return ck_fail(err, CK_INPUT,
                           "%s: tensor '%s' is %s of shape %s, in the other model %s of shape %s",
                           ck_reader_path(r), t->name, ck_dtype_name(t->dtype),
                           ck_tensor_shape_text(t, mine, sizeof mine),
                           ck_dtype_name(p->tensor->dtype),
                           ck_tensor_shape_text(p->tensor, theirs, sizeof theirs));
        }
        CK_TRY(add_rows(r, t, p->tensor_row * columns, p->rows * columns, factor,
                        sum + p->name_row * columns, err));
    }
    return CK_OK;
}
