/* Sharing the optimiser's work, see shard.h. */
#include "distill/run/shard.h"

#include "io/os.h"

#include <stdlib.h>

ck_status ck_shard_join(const ck_world *world, const ck_backend *backend, ck_error *err) {
    char id[CK_PEERS_ID] = "";
    const ck_peers *peers = backend->peers;
    if (!peers) return CK_OK;
    CK_TRY(ck_world_agree(world, world->rank ? CK_OK : peers->invite(id, err), err));
    CK_TRY(ck_world_send(world, id, sizeof id, err));
    return peers->join(id, world->rank, world->size, err);
}

void ck_shard_leave(const ck_backend *backend) {
    if (backend->peers) backend->peers->leave();
}

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
        if (rank < s->world->rank) s->first++, s->before += sizes[i];
        if (rank == s->world->rank) s->own++;
        at += (double)sizes[i];
    }
    s->elements = s->counts[s->world->rank];
}

ck_status ck_shard_new(const ck_world *world, const ck_backend *backend, const size_t *sizes,
                       size_t count, size_t piece, ck_shard **out, ck_error *err) {
    ck_shard *s = ck_alloc(sizeof *s);
    if (!s) return ck_fail_memory(err, "the optimiser");
    *s = (ck_shard){.world = world, .backend = backend, .piece = piece};
    s->counts = ck_alloc_array(world->size, sizeof *s->counts);
    if (!s->counts) {
        ck_shard_free(s);
        return ck_fail_memory(err, "the optimiser");
    }
    divide(s, sizes, count);
    size_t bytes = world->size * ck_peers_piece(s->elements, 0, piece) * sizeof *s->parts;
    s->parts = backend->alloc(bytes ? bytes : 1);
    *out = s;
    if (s->parts) return CK_OK;
    ck_shard_free(s);
    return ck_backend_fail_memory(backend, "gradients of other processes", bytes, err);
}

void ck_shard_free(ck_shard *s) {
    if (!s) return;
    if (s->parts) s->backend->free(s->parts);
    free(s->counts);
    free(s);
}

static ck_status exchange(ck_shard *s, const float *gradients, size_t at, ck_error *err) {
    const ck_peers *peers = s->backend->peers;
    return peers ? peers->exchange(gradients, s->counts, at, s->piece, s->parts, err)
                 : ck_world_exchange(s->world, gradients, s->counts, at, s->piece, s->parts, err);
}

ck_status ck_shard_reduce(ck_shard *s, float *gradients, ck_error *err) {
    size_t most = 0;
    for (size_t r = 0; r < s->world->size; r++)
        if (s->counts[r] > most) most = s->counts[r];
    for (size_t at = 0; at < most; at += s->piece) {
        size_t n = ck_peers_piece(s->elements, at, s->piece);
        CK_TRY(exchange(s, gradients, at, err));
        if (n == 0) continue;
        float *sum = gradients + s->before + at;
        s->backend->copy(sum, s->parts, n * sizeof *sum);
        for (size_t r = 1; r < s->world->size; r++)
            s->backend->updates->add(&(ck_pair){sum, s->parts + r * n, n}, 1, 1);
    }
    return CK_OK;
}

ck_status ck_shard_share(const ck_shard *s, float *array, ck_error *err) {
    const ck_peers *peers = s->backend->peers;
    return peers ? peers->share(array, s->counts, err)
                 : ck_world_share(s->world, array, s->counts, err);
}
