/* See resident.h. */
#include "distill/engine/resident.h"

#include "io/os.h"
#include "kernels/half.h"

#include <stdlib.h>

/* A weight: as f32, and as a copy of bfloat16. */
enum { F32, BF16, KINDS };
typedef struct place {
    void *at[KINDS];
    bool wanted[KINDS];
} place;

/* The weights of one network, by their index. */
typedef struct network {
    const ck_params *params;
    place *places;
    ck_copied *copies; /* room for a list of them */
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
            for (int kind = 0; kind < KINDS; kind++)
                if (r->networks[i].places[k].at[kind])
                    r->backend->free(r->networks[i].places[k].at[kind]);
        free(r->networks[i].places);
        free(r->networks[i].copies);
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
    place *places = ck_alloc_array(count, sizeof *places);
    ck_copied *copies = ck_alloc_array(count, sizeof *copies);
    if (!places || !copies) {
        free(places), free(copies);
        return NULL;
    }
    for (size_t i = 0; i < n->count; i++) places[i] = n->places[i];
    free(n->places), free(n->copies);
    n->places = places, n->copies = copies;
    n->count = count;
    return n;
}

/* ---- What is there ---- */

static size_t bytes_of(const ck_params *p, size_t index, int kind) {
    return ck_params_elements(p, index) * (kind == F32 ? sizeof(float) : sizeof(uint16_t));
}

ck_status ck_resident_want(ck_resident *r, const ck_params *p, size_t index, bool half,
                           ck_error *err) {
    network *n = network_of(r, p);
    if (!n) return ck_fail_memory(err, ck_params_name(p, index));
    n->places[index].wanted[half ? BF16 : F32] = true;
    return CK_OK;
}

size_t ck_resident_bytes(const ck_resident *r) {
    size_t bytes = 0;
    for (size_t i = 0; i < r->count; i++)
        for (size_t k = 0; k < r->networks[i].count; k++)
            for (int kind = 0; kind < KINDS; kind++)
                if (r->networks[i].places[k].wanted[kind])
                    bytes += bytes_of(r->networks[i].params, k, kind);
    return bytes;
}

/* From the host, some at a time. */
static void write_halves(const ck_resident *r, void *at, const float *values, size_t n) {
    enum { SOME = 1 << 14 };
    uint16_t halves[SOME];
    for (size_t i = 0; i < n; i += SOME) {
        size_t some = n - i < SOME ? n - i : SOME;
        for (size_t k = 0; k < some; k++) halves[k] = ck_half(values[i + k]);
        r->backend->write((uint16_t *)at + i, halves, some * sizeof *halves);
    }
}

static void write(const ck_resident *r, const ck_params *p, size_t index, int kind, void *at) {
    if (kind == BF16 && !ck_params_data(p, index))
        r->backend->write(at, ck_params_half(p, index), bytes_of(p, index, kind));
    else if (kind == BF16)
        write_halves(r, at, ck_params_data(p, index), ck_params_elements(p, index));
    else
        r->backend->write(at, ck_params_data(p, index), bytes_of(p, index, kind));
}

ck_status ck_resident_need(ck_resident *r, const ck_params *p, size_t index, bool half,
                           void **weight, ck_error *err) {
    int kind = half ? BF16 : F32;
    CK_TRY(ck_resident_want(r, p, index, half, err));
    void **at = &find(r, p)->places[index].at[kind];
    size_t bytes = bytes_of(p, index, kind);
    if (!*at) {
        *at = r->backend->alloc(bytes);
        if (!*at) return ck_backend_fail_memory(r->backend, ck_params_name(p, index), bytes, err);
        write(r, p, index, kind, *at);
    }
    *weight = *at;
    return CK_OK;
}

float *ck_resident_at(const ck_resident *r, const ck_params *p, size_t index) {
    const network *n = find(r, p);
    return n && index < n->count ? n->places[index].at[F32] : NULL;
}

/* ---- Changes ---- */

void ck_resident_round(const ck_resident *r, const ck_params *p, const ck_rounding *how) {
    const network *n = find(r, p);
    size_t count = 0;
    for (size_t i = 0; n && i < n->count; i++) {
        void *const *at = n->places[i].at;
        if (at[F32] && at[BF16])
            n->copies[count++] =
                (ck_copied){at[BF16], at[F32], ck_params_elements(p, i), (uint32_t)i};
    }
    if (count) r->backend->updates->round(n->copies, count, how);
}

void ck_resident_write(const ck_resident *r, const ck_params *p) {
    const network *n = find(r, p);
    for (size_t i = 0; n && i < n->count; i++)
        for (int kind = 0; kind < KINDS; kind++)
            if (n->places[i].at[kind]) write(r, p, i, kind, n->places[i].at[kind]);
}

void ck_resident_read(const ck_resident *r, ck_params *p) {
    const network *n = find(r, p);
    for (size_t i = 0; n && i < n->count; i++)
        if (n->places[i].at[F32])
            r->backend->read(ck_params_data(p, i), n->places[i].at[F32], bytes_of(p, i, F32));
}
