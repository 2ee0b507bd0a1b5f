/* Processes by Open MPI, see world.h. Its functions are found by name, and so are its objects: an
 * MPI_Comm or MPI_Datatype of Open MPI is the address of one. */
#include "distill/run/world.h"

#include "distill/engine/backend.h"
#include "io/os.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 26, TAG = 7 }; /* floats of one message: counts are ints there */

static struct {
    int (*init)(int *argc, char ***argv);
    int (*finalize)(void);
    int (*rank)(void *comm, int *rank);
    int (*size)(void *comm, int *size);
    int (*bcast)(void *data, int count, void *type, int root, void *comm);
    int (*sendrecv)(const void *out, int out_count, void *out_type, int to, int out_tag, void *in,
                    int in_count, void *in_type, int from, int in_tag, void *comm, void *status);
    void *world, *bytes;
} mpi;

static void *find(void *library, const char *name, bool *missing) {
    void *symbol = dlsym(library, name);
    *missing |= symbol == NULL;
    return symbol;
}

/* (By memcpy: C has no cast from a data pointer to a function's.) */
#define FIND(field, name)                                                                          \
    do {                                                                                           \
        void *symbol = find(library, name, &missing);                                              \
        memcpy(&mpi.field, &symbol, sizeof symbol);                                                \
    } while (0)

static ck_status load(ck_error *err) {
    bool missing = false;
    /* Global: its plugins look for its functions there. */
    void *library = dlopen("libmpi.so.40", RTLD_NOW | RTLD_GLOBAL);
    if (library) {
        FIND(init, "MPI_Init");
        FIND(finalize, "MPI_Finalize");
        FIND(rank, "MPI_Comm_rank");
        FIND(size, "MPI_Comm_size");
        FIND(bcast, "MPI_Bcast");
        FIND(sendrecv, "MPI_Sendrecv");
        FIND(world, "ompi_mpi_comm_world");
        FIND(bytes, "ompi_mpi_byte");
    }
    if (library && !missing) return CK_OK;
    const char *reason = dlerror();
    return ck_fail(err, CK_USAGE,
                   "started by mpirun, but Open MPI's library cannot be loaded (%s); on Debian: "
                   "apt-get install openmpi-bin",
                   reason ? reason : "unknown reason");
}

ck_status ck_world_open(ck_world *w, ck_error *err) {
    int rank, size;
    *w = (ck_world){0, 1};
    const char *started = getenv("OMPI_COMM_WORLD_SIZE");
    if (!started || strcmp(started, "1") == 0) return CK_OK;
    CK_TRY(load(err));
    if (mpi.init(NULL, NULL) || mpi.rank(mpi.world, &rank) || mpi.size(mpi.world, &size))
        return ck_fail(err, CK_IO, "Open MPI does not start");
    *w = (ck_world){(size_t)rank, (size_t)size};
    return CK_OK;
}

void ck_world_close(const ck_world *w) {
    if (w->size > 1) mpi.finalize();
}

static ck_status check(int failed, ck_error *err) {
    return failed ? ck_fail(err, CK_IO, "Open MPI: a message failed (%d)", failed) : CK_OK;
}

/* ---- Messages in pieces ---- */

/* From one to everybody. */
static ck_status spread(const ck_world *w, void *bytes, size_t n, size_t from, ck_error *err) {
    for (size_t at = 0; at < n && w->size > 1; at += CHUNK) {
        size_t some = n - at < CHUNK ? n - at : CHUNK;
        CK_TRY(
            check(mpi.bcast((char *)bytes + at, (int)some, mpi.bytes, (int)from, mpi.world), err));
    }
    return CK_OK;
}

static int piece(size_t n, size_t at) {
    return (int)ck_peers_piece(n, at, CHUNK);
}

/* Sends and receives at the same time, up to `most` bytes: both ends count the same pieces. */
static ck_status swap(const void *out, size_t out_n, size_t to, void *in, size_t in_n, size_t from,
                      size_t most, ck_error *err) {
    for (size_t at = 0; at < most; at += CHUNK)
        CK_TRY(check(mpi.sendrecv((const char *)out + (at < out_n ? at : 0), piece(out_n, at),
                                  mpi.bytes, (int)to, TAG, (char *)in + (at < in_n ? at : 0),
                                  piece(in_n, at), mpi.bytes, (int)from, TAG, mpi.world, NULL),
                     err));
    return CK_OK;
}

/* ---- What is asked for ---- */

ck_status ck_world_gather(const ck_world *w, const double *mine, size_t n, double *all,
                          ck_error *err) {
    memcpy(all + w->rank * n, mine, n * sizeof *all);
    for (size_t r = 0; r < w->size; r++) CK_TRY(spread(w, all + r * n, n * sizeof *all, r, err));
    return CK_OK;
}

ck_status ck_world_send(const ck_world *w, void *bytes, size_t n, ck_error *err) {
    return spread(w, bytes, n, 0, err);
}

ck_status ck_world_agree(const ck_world *w, ck_status status, ck_error *err) {
    ck_error first = status == CK_OK ? (ck_error){0} : *err;
    CK_TRY(spread(w, &status, sizeof status, 0, err));
    CK_TRY(spread(w, &first, sizeof first, 0, err));
    if (status != CK_OK) *err = first;
    return status;
}

ck_status ck_world_any(const ck_world *w, bool mine, bool *any, ck_error *err) {
    *any = false;
    for (size_t r = 0; r < w->size; r++) {
        bool one = mine;
        CK_TRY(spread(w, &one, sizeof one, r, err));
        *any |= one;
    }
    return CK_OK;
}

static size_t offset(const size_t *counts, size_t rank) {
    size_t at = 0;
    for (size_t r = 0; r < rank; r++) at += counts[r];
    return at;
}

ck_status ck_world_exchange(const ck_world *w, const float *array, const size_t *counts, size_t at,
                            size_t n, float *parts, ck_error *err) {
    size_t mine = ck_peers_piece(counts[w->rank], at, n);
    memcpy(parts + w->rank * mine, array + offset(counts, w->rank) + (mine ? at : 0),
           mine * sizeof *parts);
    for (size_t k = 1; k < w->size; k++) {
        size_t to = (w->rank + k) % w->size, from = (w->rank + w->size - k) % w->size;
        size_t theirs = ck_peers_piece(counts[to], at, n);
        CK_TRY(swap(array + offset(counts, to) + (theirs ? at : 0), theirs * sizeof *array, to,
                    parts + from * mine, mine * sizeof *parts, from, n * sizeof *array, err));
    }
    return CK_OK;
}

ck_status ck_world_share(const ck_world *w, float *array, const size_t *counts, ck_error *err) {
    for (size_t r = 0; r < w->size; r++)
        CK_TRY(spread(w, array + offset(counts, r), counts[r] * sizeof *array, r, err));
    return CK_OK;
}

/* Process r and process 0 swap a part; nobody else has anything to do with it. */
ck_status ck_world_collect(const ck_world *w, const float *part, const size_t *counts, float *array,
                           ck_error *err) {
    if (w->rank) {
        size_t n = counts[w->rank] * sizeof *part;
        return swap(part, n, 0, NULL, 0, 0, n, err);
    }
    memcpy(array, part, counts[0] * sizeof *array);
    for (size_t r = 1; r < w->size; r++) {
        size_t n = counts[r] * sizeof *array;
        CK_TRY(swap(NULL, 0, r, array + offset(counts, r), n, r, n, err));
    }
    return CK_OK;
}

ck_status ck_world_deal(const ck_world *w, float *part, const size_t *counts, const float *array,
                        ck_error *err) {
    if (w->rank) {
        size_t n = counts[w->rank] * sizeof *part;
        return swap(NULL, 0, 0, part, n, 0, n, err);
    }
    memcpy(part, array, counts[0] * sizeof *part);
    for (size_t r = 1; r < w->size; r++) {
        size_t n = counts[r] * sizeof *array;
        CK_TRY(swap(array + offset(counts, r), n, r, NULL, 0, r, n, err));
    }
    return CK_OK;
}
