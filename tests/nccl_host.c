/* NCCL for cards that are none: the libnccl.so.2 of the tests, which lies beside their plugin
 * (gpu_host.c). The few functions that distill/engine/cuda/nccl.c calls, with the rules of the real
 * ones: what is between GroupStart and GroupEnd goes at once, and calls of the same pair of
 * processes are matched in their order. By MPI, which the program has loaded; alone it needs none.
 * The plugin loads it by its path, so that it is the one of that name. As of the real ones, a
 * communicator's end waits for all. CK_NCCL_HOST_FULL: its cards have no memory left for messages.
 */
#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))

enum { SUCCESS = 0, FAILURE = 3, BAD_CALL = 5, FLOAT = 7, MOST = 1024, TAG = 11 };

typedef struct unique_id {
    char bytes[128];
} unique_id;

typedef struct message {
    void *data;
    size_t bytes;
    int peer;
    bool sends;
} message;

static struct {
    int (*isend)(const void *data, int count, void *type, int to, int tag, void *comm, void **r);
    int (*irecv)(void *data, int count, void *type, int from, int tag, void *comm, void **r);
    int (*wait)(int count, void **requests, void *statuses);
    void *world, *bytes;
    int rank, size;
    bool joined, open; /* a group */
    message queue[MOST];
    int count;
} all;

int ncclGetUniqueId(unique_id *id);
int ncclCommInitRank(void **comm, int size, unique_id id, int rank);
int ncclCommDestroy(void *comm);
int ncclGroupStart(void);
int ncclGroupEnd(void);
int ncclSend(const void *data, size_t count, int type, int to, void *comm, void *stream);
int ncclRecv(void *data, size_t count, int type, int from, void *comm, void *stream);
int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, void *comm,
                  void *stream);
const char *ncclGetErrorString(int code);
const char *ncclGetLastError(void *comm);

EXPORT const char *ncclGetErrorString(int code) {
    return code == BAD_CALL ? "invalid usage" : code ? "internal error" : "no error";
}

EXPORT const char *ncclGetLastError(void *comm) {
    (void)comm;
    return getenv("CK_NCCL_HOST_FULL") ? "Cuda failure 2 'out of memory'" : "";
}

/* Another one each time. */
EXPORT int ncclGetUniqueId(unique_id *id) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    memset(id, 0, sizeof *id);
    snprintf(id->bytes, sizeof id->bytes, "cards that are none %lld.%ld", (long long)now.tv_sec,
             now.tv_nsec);
    return SUCCESS;
}

static bool find_mpi(void) {
    struct {
        const char *name;
        void *to;
    } const symbols[] = {{"MPI_Isend", &all.isend},
                         {"MPI_Irecv", &all.irecv},
                         {"MPI_Waitall", &all.wait},
                         {"ompi_mpi_comm_world", &all.world},
                         {"ompi_mpi_byte", &all.bytes}};
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *symbol = dlsym(RTLD_DEFAULT, symbols[i].name);
        if (!symbol) return false;
        memcpy(symbols[i].to, &symbol, sizeof symbol);
    }
    return true;
}

static int queue(void *data, size_t count, int type, int peer, bool sends) {
    if (!all.joined || !all.open || type != FLOAT || all.count == MOST || peer < 0 ||
        peer >= all.size)
        return BAD_CALL;
    all.queue[all.count++] = (message){data, count * sizeof(float), peer, sends};
    return SUCCESS;
}

/* What a process sends to itself, in order. */
static int deliver_own(void) {
    for (int i = 0, k = 0; i < all.count; i++) {
        const message *out = &all.queue[i], *in;
        if (out->peer != all.rank || !out->sends) continue;
        while (k < all.count && (all.queue[k].peer != all.rank || all.queue[k].sends)) k++;
        if (k == all.count || all.queue[k].bytes != out->bytes) return BAD_CALL;
        in = &all.queue[k++];
        memcpy(in->data, out->data, out->bytes);
    }
    return SUCCESS;
}

EXPORT int ncclGroupStart(void) {
    all.open = true;
    all.count = 0;
    return SUCCESS;
}

EXPORT int ncclGroupEnd(void) {
    void *requests[MOST];
    int waiting = 0, failed = 0;
    all.open = false;
    if (getenv("CK_NCCL_HOST_FULL")) return FAILURE;
    if (deliver_own() != SUCCESS) return BAD_CALL;
    for (int i = 0; i < all.count; i++) {
        const message *m = &all.queue[i];
        if (m->peer == all.rank) continue;
        failed |= m->sends ? all.isend(m->data, (int)m->bytes, all.bytes, m->peer, TAG, all.world,
                                       &requests[waiting])
                           : all.irecv(m->data, (int)m->bytes, all.bytes, m->peer, TAG, all.world,
                                       &requests[waiting]);
        waiting++;
    }
    return failed || (waiting && all.wait(waiting, requests, NULL)) ? FAILURE : SUCCESS;
}

EXPORT int ncclSend(const void *data, size_t count, int type, int to, void *comm, void *stream) {
    (void)comm, (void)stream;
    return queue((void *)(uintptr_t)data, count, type, to, true);
}

EXPORT int ncclRecv(void *data, size_t count, int type, int from, void *comm, void *stream) {
    (void)comm, (void)stream;
    return queue(data, count, type, from, false);
}

EXPORT int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, void *comm,
                         void *stream) {
    (void)comm, (void)stream;
    if (from != to) return BAD_CALL;
    if (root != all.rank) return queue(to, count, type, root, false);
    int code = SUCCESS;
    for (int r = 0; r < all.size && !code; r++)
        if (r != root) code = queue(to, count, type, r, true);
    return code;
}

/* Everybody waits for everybody. */
static void meet(void) {
    float word = 0, words[64];
    ncclGroupStart();
    for (int r = 0; r < all.size && r < 64; r++) {
        queue(&word, 1, FLOAT, r, true);
        queue(&words[r], 1, FLOAT, r, false);
    }
    ncclGroupEnd();
}

/* Everybody must have been given process 0's id. */
static int check_id(unique_id id) {
    unique_id theirs = id;
    ncclGroupStart();
    for (int r = 1; r < all.size && all.rank == 0; r++)
        queue(&id, sizeof id / sizeof(float), FLOAT, r, true);
    if (all.rank) queue(&theirs, sizeof id / sizeof(float), FLOAT, 0, false);
    int code = ncclGroupEnd();
    return code ? code : memcmp(&id, &theirs, sizeof id) ? BAD_CALL : SUCCESS;
}

EXPORT int ncclCommInitRank(void **comm, int size, unique_id id, int rank) {
    if (all.joined || rank < 0 || rank >= size || !id.bytes[0]) return BAD_CALL;
    if (size > 1 && !find_mpi()) return FAILURE;
    all.rank = rank;
    all.size = size;
    all.joined = true;
    *comm = &all;
    return check_id(id);
}

EXPORT int ncclCommDestroy(void *comm) {
    if (comm != &all || !all.joined) return BAD_CALL;
    meet();
    all.joined = false;
    return SUCCESS;
}
