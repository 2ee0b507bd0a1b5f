/* See nccl.h. The library's functions are found by name, and called as its header (2.x) has them:
 * neither is needed to build this. */
#include "distill/engine/cuda/nccl.h"

#include "distill/engine/backend.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <string.h>

#define LIBRARY "libnccl.so.2"

typedef struct unique_id {
    char bytes[128];
} unique_id;

enum { SUCCESS = 0, FLOAT = 7 };

static struct {
    int (*id)(unique_id *id);
    int (*init)(void **comm, int size, unique_id id, int rank);
    int (*destroy)(void *comm);
    int (*begin)(void);
    int (*end)(void);
    int (*send)(const void *data, size_t count, int type, int to, void *comm, void *stream);
    int (*receive)(void *data, size_t count, int type, int from, void *comm, void *stream);
    int (*broadcast)(const void *from, void *to, size_t count, int type, int root, void *comm,
                     void *stream);
    const char *(*error)(int code);
    const char *(*last_error)(void *comm);
    void *comm; /* NULL: not joined */
    size_t rank, size;
} nccl;

/* (By memcpy: C has no cast from a data pointer to a function's.) */
static void find(void *library, const char *name, void *function, bool *missing) {
    void *symbol = dlsym(library, name);
    *missing |= symbol == NULL;
    memcpy(function, &symbol, sizeof symbol);
}

static ck_status load(ck_error *err) {
    bool missing = false;
    if (nccl.id) return CK_OK;
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library) {
        find(library, "ncclCommInitRank", &nccl.init, &missing);
        find(library, "ncclCommDestroy", &nccl.destroy, &missing);
        find(library, "ncclGroupStart", &nccl.begin, &missing);
        find(library, "ncclGroupEnd", &nccl.end, &missing);
        find(library, "ncclSend", &nccl.send, &missing);
        find(library, "ncclRecv", &nccl.receive, &missing);
        find(library, "ncclBroadcast", &nccl.broadcast, &missing);
        find(library, "ncclGetErrorString", &nccl.error, &missing);
        find(library, "ncclGetLastError", &nccl.last_error, &missing);
        find(library, "ncclGetUniqueId", &nccl.id, &missing);
    }
    if (library && !missing) return CK_OK;
    const char *reason = dlerror();
    nccl.id = NULL;
    return ck_fail(err, CK_USAGE,
                   "several processes on cards need NVIDIA's NCCL, and " LIBRARY
                   " cannot be loaded (%s): Debian's package libnccl2 has it, and PyPI's "
                   "nvidia-nccl-cu13; or start one process, without mpirun",
                   reason ? reason : "unknown reason");
}

static ck_status check(int code, ck_error *err) {
    if (code == SUCCESS) return CK_OK;
    const char *more = nccl.last_error(nccl.comm);
    bool full = more && strstr(more, "out of memory");
    return ck_fail(err, full ? CK_MEMORY : CK_IO, "NCCL: %s%s%s%s", nccl.error(code),
                   more && more[0] ? ": " : "", more ? more : "",
                   full ? "; it needs memory of the card beside what a step takes: use a smaller "
                          "batch or image, or turn gradient checkpointing on"
                        : "");
}

ck_status ck_nccl_invite(void *id, ck_error *err) {
    unique_id made;
    CK_TRY(load(err));
    CK_TRY(check(nccl.id(&made), err));
    memcpy(id, &made, sizeof made);
    return CK_OK;
}

ck_status ck_nccl_join(const void *id, size_t rank, size_t size, ck_error *err) {
    unique_id given;
    CK_TRY(load(err));
    memcpy(&given, id, sizeof given);
    CK_TRY(check(nccl.init(&nccl.comm, (int)size, given, (int)rank), err));
    nccl.rank = rank;
    nccl.size = size;
    return CK_OK;
}

void ck_nccl_leave(void) {
    if (nccl.comm) nccl.destroy(nccl.comm);
    nccl.comm = NULL;
}

/* ---- Groups of messages, which all go at once ---- */

/* The group is ended whatever went wrong in it. */
static ck_status end(int code, ck_error *err) {
    int ended = nccl.end();
    return check(code ? code : ended, err);
}

ck_status ck_nccl_exchange(ck_gpu_stream s, const float *array, const size_t *counts, size_t at,
                           size_t n, float *parts, ck_error *err) {
    size_t mine = ck_peers_piece(counts[nccl.rank], at, n);
    CK_TRY(check(nccl.begin(), err));
    int code = SUCCESS;
    for (size_t r = 0; r < nccl.size; array += counts[r++]) {
        size_t theirs = ck_peers_piece(counts[r], at, n);
        if (theirs && !code) code = nccl.send(array + at, theirs, FLOAT, (int)r, nccl.comm, s);
        if (mine && !code) code = nccl.receive(parts + r * mine, mine, FLOAT, (int)r, nccl.comm, s);
    }
    return end(code, err);
}

ck_status ck_nccl_share(ck_gpu_stream s, float *array, const size_t *counts, ck_error *err) {
    CK_TRY(check(nccl.begin(), err));
    int code = SUCCESS;
    for (size_t r = 0; r < nccl.size; array += counts[r++])
        if (counts[r] && !code)
            code = nccl.broadcast(array, array, counts[r], FLOAT, (int)r, nccl.comm, s);
    return end(code, err);
}
