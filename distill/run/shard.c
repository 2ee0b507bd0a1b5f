/* Sharing the optimiser's work, see shard.h. */
#include "distill/run/shard.h"

#include "io/os.h"

#include <stdlib.h>
#include <string.h>

/* Whole weights, in their order: each belongs to the process in whose equal share of all elements
 * its middle lies. */
static void divide(ck_shard *s, const size_t *sizes, size_t count) {
    double total = 0, at = 0;
    for (size_t i = 0; i < count; i++) total += (double)sizes[i];
    for (size_t i = 0; i < count; i++) {
        double middle = (at + (double)sizes[i] / 2) / total;
        size_t rank = (size_t)(middle * (double)s->world->size);
        if (rank >= s->world->size) rank = s->world->size - 1;
        s->counts[rank] += sizes[i];
        if (rank < s->world->rank) s->first++;
        if (rank == s->world->rank) s->own++;
        at += (double)sizes[i];
    }
    s->elements = s->counts[s->world->rank];
}

ck_status ck_shard_new(const ck_world *world, const size_t *sizes, size_t count, ck_shard **out,
                       ck_error *err) {
    ck_shard *s = ck_alloc(sizeof *s);
    if (!s) return ck_fail_memory(err, "the optimiser");
    s->world = world;
    s->counts = ck_alloc_array(world->size, sizeof *s->counts);
    if (s->counts) {
        divide(s, sizes, count);
        s->parts = ck_alloc_array(world->size * s->elements, sizeof *s->parts);
        s->gradient = ck_alloc_array(s->elements, sizeof *s->gradient);
    }
    *out = s;
    if (s->counts && s->parts && s->gradient) return CK_OK;
    ck_shard_free(s);
    return ck_fail_memory(err, "the optimiser");
}

void ck_shard_free(ck_shard *s) {
    if (!s) return;
    free(s->counts), free(s->parts), free(s->gradient);
    free(s);
}

ck_status ck_shard_reduce(ck_shard *s, const float *gradients, ck_error *err) {
    CK_TRY(ck_world_exchange(s->world, gradients, s->counts, s->parts, err));
    memcpy(s->gradient, s->parts, s->elements * sizeof *s->gradient);
    for (size_t r = 1; r < s->world->size; r++)
        for (size_t i = 0; i < s->elements; i++) s->gradient[i] += s->parts[r * s->elements + i];
    return CK_OK;
}
