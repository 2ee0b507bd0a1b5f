/* The seam between graphs and the hardware that runs them: one struct of functions.
 *
 *   const ck_backend *b;
 *   CK_TRY(ck_backend_open("cpu", &b, err));
 *   ck_exec *e;
 *   CK_TRY(ck_exec_new(b, graph, outputs, count, &e, err));
 *   printf("%zu bytes\n", ck_exec_peak(e));
 *   CK_TRY(ck_exec_allocate(e, limit, err));
 *   ck_exec_write(e, x, data); ck_exec_run(e, err); ck_exec_read(e, loss, &value);
 *
 * Backends: "reference" (plain C, f32, always there: what the others are measured against),
 * "reference64" (the same source in f64, for gradients against finite differences), "cpu" (own
 * SIMD kernels and oneDNN where it was found, the reference for what they do not do), and those of
 * the plugin (plugin.h), which compute on a card.
 */
#ifndef CK_BACKEND_H
#define CK_BACKEND_H

#include "distill/engine/graph.h"
#include "distill/engine/update.h"

enum { CK_BACKEND_ABI = 6 };

/* One operation, ready to run: where its result and sources lie. */
typedef struct ck_call {
    const ck_graph *graph;
    ck_node node;
    const bool *half; /* by node: whether its numbers are stored as bfloat16 */
    void *dst;
    const void *src[CK_MAX_SRC];                /* NULL for CK_NONE, and for what is folded */
    const void *folded[CK_MAX_SRC][CK_MAX_SRC]; /* by source that is: where its sources lie */
    const void *residual;                       /* see takes_residual; NULL: nothing */
    void *scratch;                              /* of the size that prepare asked for */
    void *state;                                /* of prepare */
} ck_call;

/* Of the node that is run, and of one of its sources. */
static inline const ck_graph_node *ck_call_node(const ck_call *call) {
    return &call->graph->nodes[call->node];
}

static inline ck_shape ck_call_shape(const ck_call *call, int source) {
    return ck_node_shape(call->graph, ck_call_node(call)->src[source]);
}

/* Whether the result (source -1) or a source is stored as bfloat16. */
static inline bool ck_call_half(const ck_call *call, int source) {
    return call->half[source < 0 ? call->node : ck_call_node(call)->src[source]];
}

/* Bytes of a packed result of n numbers of `element` bytes, up to what lies behind it, which is
 * never stored as bfloat16. */
static inline size_t ck_packed_bytes(int64_t n, size_t element) {
    return ((size_t)n * element + 3) / 4 * 4;
}

static inline void *ck_packed_rest(const void *at, int64_t n, size_t element) {
    return (char *)at + ck_packed_bytes(n, element);
}

typedef struct ck_kernel {
    /* Fills dst. Deterministic at a fixed number of threads. Of what works element by element (add,
     * mul, affine, unary and its gradient), dst may be a source. */
    void (*run)(const ck_call *call);
    size_t scratch; /* bytes that run needs, shared by all nodes */
    void *state;    /* handed to run, released by the backend's release; or NULL */
    void (*release)(void *state);
} ck_kernel;

/* Processes that share a run, each with a card of its own: arrays go from card to card, in the
 * order of the other work there. All processes call the same functions in the same order. counts:
 * floats that belong to each process, one after the other in arrays of the sum of them. */
enum { CK_PEERS_ID = 128 };
typedef struct ck_peers {
    /* CK_PEERS_ID bytes that one process makes up, and all are given to join. CK_USAGE: what
     * carries arrays between cards is not there. */
    ck_status (*invite)(void *id, ck_error *err);
    ck_status (*join)(const void *id, size_t rank, size_t size, ck_error *err);
    void (*leave)(void); /* waits for the others; what was not joined, too */
    /* As ck_world_exchange and ck_world_share (run/world.h). */
    ck_status (*exchange)(const float *array, const size_t *counts, size_t at, size_t n,
                          float *parts, ck_error *err);
    ck_status (*share)(float *array, const size_t *counts, ck_error *err);
} ck_peers;

/* Of a part of `count` elements, how many lie at `at` to at + n - 1. */
static inline size_t ck_peers_piece(size_t count, size_t at, size_t n) {
    return count <= at ? 0 : count - at < n ? count - at : n;
}

/* What is chosen for each kind of work the first time that it is met, and decides about bits: kept
 * with a run (run/plans.h), whose graphs are then computed in the same way when it goes on. */
typedef struct ck_choices {
    /* Who chooses: libraries, their versions, the card. Choices mean nothing to others. */
    const char *(*by)(void);
    /* Number i, in the order in which they were made; false past the last. */
    bool (*at)(size_t i, const char **kind, const char **choice);
    /* One that was made before, by the same. */
    ck_status (*take)(const char *kind, const char *choice, ck_error *err);
} ck_choices;

/* Results that are stored nowhere (fold.h). None of their readers works element by element. */
typedef struct ck_folding {
    /* Whether node n need not be, because each of its readers can make it from n's sources, some of
     * it at a time. half: by node, what is stored as bfloat16; and what of n would be. */
    bool (*folds)(const ck_graph *g, const bool *half, ck_node n, const ck_node *readers,
                  size_t count);
    /* How node n will be run, of whose sources (views of them, ck_shown) some are folded. */
    ck_status (*prepare)(const ck_graph *g, ck_node n, const bool *half, const bool *folded,
                         ck_kernel *kernel, ck_error *err);
} ck_folding;

typedef struct ck_backend {
    uint32_t abi_version; /* CK_BACKEND_ABI */
    const char *name;
    size_t element; /* bytes of a real number: 4, or 8 for reference64 */
    bool host;      /* its memory is the program's: weights are used where they are */
    /* Whether source number `source` of node n, or its result (-1), may be stored as bfloat16; of a
     * weight, whether there may be a copy of it (where memory is the program's: in its place, of
     * those that are frozen). NULL: none is. */
    bool (*takes_half)(const ck_graph *g, ck_node n, int source);
    /* Whether node n can add an array that is like its result, and does not overlap it, to what it
     * computes, and rounds the sum alone. NULL: none can. */
    bool (*takes_residual)(const ck_graph *g, ck_node n);
    /* How node n will be run; half: by node, what is stored as bfloat16; residual: calls have one.
     * CK_USAGE with the operation's name when it cannot be. */
    ck_status (*prepare)(const struct ck_backend *b, const ck_graph *g, ck_node n, const bool *half,
                         bool residual, ck_kernel *kernel, ck_error *err);
    const ck_folding *folding;    /* NULL: everything is stored */
    void *(*alloc)(size_t bytes); /* aligned to 64 bytes */
    void (*free)(void *p);
    void (*write)(void *dst, const void *src, size_t bytes); /* from host memory */
    void (*read)(void *dst, const void *src, size_t bytes);  /* to host memory */
    void (*zero)(void *p, size_t bytes);
    void (*copy)(void *dst, const void *src, size_t bytes); /* that do not overlap */
    const ck_updates *updates;
    /* Bytes that can be taken now, and that there are; 0 where nobody knows. */
    void (*memory)(size_t *available, size_t *all);
    /* The rest is NULL where memory is the program's. */
    /* Runs nodes(context), or what they did when they were recorded: the same calls each time, on
     * the same memory. *recording is NULL at first. What went wrong since the last time in
     * functions that cannot say so is its error. */
    ck_status (*run)(void (*nodes)(void *context), void *context, void **recording, ck_error *err);
    void (*forget)(void *recording);
    const ck_peers *peers;
    const ck_choices *choices; /* NULL also where there is nothing to choose */
} ck_backend;

/* "cpu", "cpu-bf16" (sources of convolutions and products rounded to bfloat16, and where the
 * processor has AMX, activations and their gradients stored so; sums, statistics and weights f32),
 * "reference", "reference64"; "cuda" of the plugin; "auto": cuda where there is a card, else cpu.
 * Other names are CK_USAGE. Backends live for ever. */
ck_status ck_backend_open(const char *name, const ck_backend **b, ck_error *err);

/* CK_MEMORY: what, how much it takes, how much there is, and what to change. */
ck_status ck_backend_fail_memory(const ck_backend *b, const char *what, size_t bytes,
                                 ck_error *err);
/* That, unless there are so many bytes, or nobody knows. */
ck_status ck_backend_fits(const ck_backend *b, const char *what, size_t bytes, ck_error *err);
/* As ck_backend_fail_memory, by a backend's `memory`; bytes 0: nobody knows. */
ck_status ck_fail_full(void (*memory)(size_t *available, size_t *all), const char *what,
                       size_t bytes, ck_error *err);

/* ---- exec.c: a graph on a backend ---- */

typedef struct ck_exec ck_exec;
struct ck_resident;

/* Plans what the outputs need: liveness, then an offset for every node in one arena, best fit by
 * descending size; views share the bytes of what they show. The graph must outlive it, and
 * may grow. Nodes are run in the graph's order. */
ck_status ck_exec_new(const ck_backend *b, const ck_graph *g, const ck_node *outputs, size_t count,
                      ck_exec **e, ck_error *err);
void ck_exec_free(ck_exec *e);

/* Bytes of the arena, known before anything is allocated. */
size_t ck_exec_peak(const ck_exec *e);

/* Bytes of the weights that it reads, which are not in the arena: f32, or bfloat16. */
size_t ck_exec_weights(const ck_exec *e);

/* CK_MEMORY, with numbers and what to change, unless the arena and the weights that are still to be
 * read fit in what there is now: systems promise more, and end programs that take it. (Cards
 * refuse.) */
ck_status ck_exec_fits(const ck_exec *e, ck_error *err);

/* Before ck_exec_allocate, where the backend's memory is not the program's: weights are used where
 * they are resident (resident.h), which is borrowed. Otherwise the graph gets copies of its own, of
 * the weights as they are when it is given memory. */
ck_status ck_exec_share(ck_exec *e, struct ck_resident *r, ck_error *err);

/* Takes the arena, if it fits. limit 0: none; more than it is CK_MEMORY, too. */
ck_status ck_exec_allocate(ck_exec *e, size_t limit, ck_error *err);

/* Uses the memory of another plan that is never run at the same time and outlives this one; what
 * one leaves there is gone when the other has run. peak(e) is at most that of `from`. */
ck_status ck_exec_borrow(ck_exec *e, const ck_exec *from, ck_error *err);

/* Inputs and outputs in host memory: f32 (converted for reference64), ids int32_t. n elements must
 * be the node's. Inputs keep their values between runs. */
ck_status ck_exec_write(ck_exec *e, ck_node input, const void *data, size_t n, ck_error *err);
ck_status ck_exec_read(const ck_exec *e, ck_node output, void *data, size_t n, ck_error *err);
/* Where an input, output or weight lies, in the backend's memory: of a weight that products alone
 * read, where the backend stores it so, its copy of bfloat16. */
void *ck_exec_pointer(const ck_exec *e, ck_node n);

ck_status ck_exec_run(ck_exec *e, ck_error *err);

/* Seconds spent in each operation since the start, by ck_op: CK_OP_COUNT numbers; zeros where the
 * backend computes on its own time. */
const double *ck_exec_seconds(const ck_exec *e);

#endif
