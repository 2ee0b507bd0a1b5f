/* See card.h. */
#include "distill/engine/cuda/card.h"

#include "distill/engine/backend.h"
#include "io/os.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Two pieces of pinned memory: one is filled, by as much as fits, while the other is on its way. So
 * what a step is fed with waits for no step before it. */
enum { STAGES = 2, STAGE_BYTES = 32 << 20, STAGE_ALIGN = 256 };

static struct {
    bool open;
    cudaStream_t stream;
    char *stage[STAGES];
    cudaEvent_t sent[STAGES]; /* what was in the piece has arrived */
    size_t now, filled;       /* the piece that is filled, and how far */
    char failure[512];        /* the first; "" */
    bool full;                /* that it was */
    struct cudaDeviceProp is;
} card;

cudaStream_t ck_card_stream(void) {
    return card.stream;
}

const char *ck_card_name(void) {
    return card.is.name;
}

size_t ck_card_shared(void) {
    return card.is.sharedMemPerBlockOptin;
}

/* ---- What went wrong ---- */

void ck_card_note(const char *what, const char *why) {
    if (!card.failure[0]) snprintf(card.failure, sizeof card.failure, "%s: %s", what, why);
}

void ck_card_note_full(const char *what) {
    card.full |= !card.failure[0];
    ck_card_note(what, "out of memory");
}

/* (A card that failed stays so: cudaGetLastError also says what became of kernels, which the driver
 * loads when they are first used.) */
ck_status ck_card_check(ck_error *err) {
    CK_CARD_NOTE(cudaGetLastError());
    if (card.full) return ck_fail_full(ck_card_memory, card.failure, 0, err);
    return card.failure[0] ? ck_fail(err, CK_IO, "the card: %s", card.failure) : CK_OK;
}

/* ---- Opening ---- */

static ck_status count_cards(int *count, ck_error *err) {
    int driver = 0;
    cudaError_t code = cudaGetDeviceCount(count);
    if (code == cudaSuccess && *count > 0) return CK_OK;
    cudaDriverGetVersion(&driver);
    if (!driver)
        return ck_fail(err, CK_USAGE, "no NVIDIA driver on this machine, so no card to compute on");
    if (code == cudaSuccess || code == cudaErrorNoDevice)
        return ck_fail(err, CK_USAGE, "no NVIDIA card that this process may use");
    return ck_fail(err, CK_USAGE, "NVIDIA's driver (for CUDA %d.%d, this needs %d.%d): %s",
                   driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000,
                   CUDART_VERSION % 1000 / 10, cudaGetErrorString(code));
}

static ck_status choose(int count, ck_error *err) {
    enum { LEAST = 8 }; /* compute capability with bfloat16 */
    const char *place = getenv("OMPI_COMM_WORLD_LOCAL_RANK");
    int which = place ? atoi(place) : 0;
    if (which >= count)
        return ck_fail(err, CK_USAGE,
                       "process %d of this machine has no card of its own: there are %d. Start as "
                       "many processes as there are cards",
                       which, count);
    CK_CARD_NOTE(cudaSetDevice(which));
    CK_CARD_NOTE(cudaGetDeviceProperties(&card.is, which));
    CK_TRY(ck_card_check(err));
    if (card.is.major >= LEAST) return CK_OK;
    return ck_fail(err, CK_USAGE, "%s has compute capability %d.%d; %d.0 is needed", card.is.name,
                   card.is.major, card.is.minor, LEAST);
}

ck_status ck_card_open(ck_error *err) {
    int count = 0;
    if (card.open) return CK_OK;
    CK_TRY(count_cards(&count, err));
    CK_TRY(choose(count, err));
    CK_CARD_NOTE(cudaStreamCreateWithFlags(&card.stream, cudaStreamNonBlocking));
    for (int i = 0; i < STAGES; i++) {
        if (cudaMallocHost((void **)&card.stage[i], STAGE_BYTES) != cudaSuccess)
            return ck_fail_memory(err, "64 MiB of the machine's memory that the card can reach");
        CK_CARD_NOTE(cudaEventCreateWithFlags(&card.sent[i], cudaEventDisableTiming));
    }
    CK_TRY(ck_card_check(err));
    card.open = true;
    return CK_OK;
}

/* ---- Memory ---- */

void *ck_card_alloc(size_t bytes) {
    void *p = NULL;
    if (cudaMalloc(&p, bytes) == cudaSuccess) return p;
    cudaGetLastError(); /* being full is the caller's to say, and no failure of the card */
    return NULL;
}

/* (Nothing that is queued uses it any more.) */
void ck_card_free(void *p) {
    CK_CARD_NOTE(cudaStreamSynchronize(card.stream));
    CK_CARD_NOTE(cudaFree(p));
}

void ck_card_memory(size_t *available, size_t *all) {
    *available = *all = 0;
    CK_CARD_NOTE(cudaMemGetInfo(available, all));
}

static void take_next_stage(void) {
    CK_CARD_NOTE(cudaEventRecord(card.sent[card.now], card.stream));
    card.now = (card.now + 1) % STAGES;
    card.filled = 0;
    CK_CARD_NOTE(cudaEventSynchronize(card.sent[card.now]));
}

void ck_card_write(void *dst, const void *src, size_t bytes) {
    for (size_t at = 0, some; at < bytes; at += some) {
        if (card.filled >= STAGE_BYTES) take_next_stage();
        char *stage = card.stage[card.now] + card.filled;
        size_t room = STAGE_BYTES - card.filled;
        some = bytes - at < room ? bytes - at : room;
        card.filled += (some + STAGE_ALIGN - 1) / STAGE_ALIGN * STAGE_ALIGN;
        memcpy(stage, (const char *)src + at, some);
        CK_CARD_NOTE(
            cudaMemcpyAsync((char *)dst + at, stage, some, cudaMemcpyHostToDevice, card.stream));
    }
}

void ck_card_read(void *dst, const void *src, size_t bytes) {
    CK_CARD_NOTE(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, card.stream));
    CK_CARD_NOTE(cudaStreamSynchronize(card.stream));
}

void ck_card_zero(void *p, size_t bytes) {
    CK_CARD_NOTE(cudaMemsetAsync(p, 0, bytes, card.stream));
}

void ck_card_copy(void *dst, const void *src, size_t bytes) {
    CK_CARD_NOTE(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, card.stream));
}

/* ---- Recording ---- */

typedef struct recording {
    cudaGraphExec_t graph; /* NULL while it was run only once */
} recording;

static void record(recording *r, void (*nodes)(void *context), void *context) {
    cudaGraph_t graph = NULL;
    CK_CARD_NOTE(cudaStreamBeginCapture(card.stream, cudaStreamCaptureModeThreadLocal));
    nodes(context);
    CK_CARD_NOTE(cudaStreamEndCapture(card.stream, &graph));
    if (!graph) return;
    CK_CARD_NOTE(cudaGraphInstantiate(&r->graph, graph, 0));
    CK_CARD_NOTE(cudaGraphDestroy(graph));
}

ck_status ck_card_run(void (*nodes)(void *context), void *context, void **slot, ck_error *err) {
    recording *r = *slot;
    if (!r) {
        *slot = ck_alloc(sizeof *r);
        if (!*slot) return ck_fail_memory(err, "a graph");
        nodes(context);
        return ck_card_check(err);
    }
    if (!r->graph) record(r, nodes, context);
    if (r->graph) CK_CARD_NOTE(cudaGraphLaunch(r->graph, card.stream));
    return ck_card_check(err);
}

void ck_card_forget(void *slot) {
    recording *r = slot;
    if (r->graph) CK_CARD_NOTE(cudaGraphExecDestroy(r->graph));
    free(r);
}
