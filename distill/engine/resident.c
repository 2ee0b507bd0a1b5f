/* See resident.h. */
#include "distill/engine/resident.h"

#include "io/os.h"

#include <stdlib.h>

/* The weights of one network, by their index; NULL where nobody asked. */
typedef struct network {
    const ck_params *params;
    float **weights;
    size_t count;
} network;

struct ck_resident {
    const ck_backend *backend;
    network *networks;
    size_t count, capacity;
};

ck_status ck_resident_new(const ck_backend *b, ck_resident **r, ck_error *err) {
    *r = ck_alloc(sizeof **r);
    if (!*r) return ck_fail_memory(err, "weights");
    (*r)->backend = b;
    return CK_OK;
}

void ck_resident_free(ck_resident *r) {
    if (!r) return;
    for (size_t i = 0; i < r->count; i++) {
        for (size_t k = 0; k < r->networks[i].count; k++)
            if (r->networks[i].weights[k]) r->backend->free(r->networks[i].weights[k]);
        free(r->networks[i].weights);
    }
    free(r->networks);
    free(r);
}

static network *find(const ck_resident *r, const ck_params *p) {
    for (size_t i = 0; i < r->count; i++)
        if (r->networks[i].params == p) return &r->networks[i];
    return NULL;
}

/* The network, with room for all weights that were asked for of it so far. */
static network *network_of(ck_resident *r, const ck_params *p) {
    network *n = find(r, p);
    if (!n) {
        network *grown = ck_grow(r->networks, r->count, &r->capacity, sizeof *grown);
        if (!grown) return NULL;
        r->networks = grown;
        n = &grown[r->count++];
        *n = (network){.params = p};
    }
    size_t count = ck_params_count(p);
    if (count == n->count) return n;
    float **weights = ck_alloc_array(count, sizeof *weights);
    if (!weights) return NULL;
    for (size_t i = 0; i < n->count; i++) weights[i] = n->weights[i];
    free(n->weights);
    n->weights = weights;
    n->count = count;
    return n;
}

ck_status ck_resident_need(ck_resident *r, const ck_params *p, size_t index, float **weight,
                           ck_error *err) {
    network *n = network_of(r, p);
    if (!n) return ck_fail_memory(err, ck_params_name(p, index));
    float **place = &n->weights[index];
    size_t bytes = ck_params_elements(p, index) * sizeof(float);
    if (!*place) {
        *place = r->backend->alloc(bytes);
        if (!*place)
            return ck_backend_fail_memory(r->backend, ck_params_name(p, index), bytes, err);
        r->backend->write(*place, ck_params_data(p, index), bytes);
    }
    *weight = *place;
    return CK_OK;
}

float *ck_resident_at(const ck_resident *r, const ck_params *p, size_t index) {
    const network *n = find(r, p);
    return n && index < n->count ? n->weights[index] : NULL;
}

void ck_resident_write(const ck_resident *r, const ck_params *p) {
    const network *n = find(r, p);
    for (size_t i = 0; n && i < n->count; i++)
        if (n->weights[i])
            r->backend->write(n->weights[i], ck_params_data(p, i),
                              ck_params_elements(p, i) * sizeof(float));
}

void ck_resident_read(const ck_resident *r, ck_params *p) {
    const network *n = find(r, p);
    for (size_t i = 0; n && i < n->count; i++)
        if (n->weights[i])
            r->backend->read(ck_params_data(p, i), n->weights[i],
                             ck_params_elements(p, i) * sizeof(float));
}
