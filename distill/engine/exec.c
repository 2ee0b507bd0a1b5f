/* Running a graph: what is needed, where it lies, then one kernel after the other. See backend.h.
 *
 * A view lies where its source does, and the result of work element by element where a source was
 * that is not needed any more. An addition may be made by a product that it alone reads, which is
 * then run in its place (residual.h), and has no memory; nor has what is made by those that read it
 * (fold.h). Everything else that is needed gets a place in one arena that it holds from the node
 * that makes it to the last one that reads it. Inputs and outputs hold theirs for the whole run,
 * and so does a copy of a weight where the backend needs one. Weights in a memory that is not the
 * program's are resident.h's.
 */
#include "distill/engine/backend.h"
#include "distill/engine/cost.h"
#include "distill/engine/fold.h"
#include "distill/engine/half.h"
#include "distill/engine/readers.h"
#include "distill/engine/residual.h"
#include "distill/engine/resident.h"
#include "io/os.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64, ALIGN_SCRATCH = 256 }; /* libraries of cards want more for what they write */

typedef struct slot {
    ck_node root;         /* whose memory it is: itself, or what a view shows */
    size_t shift;         /* bytes into the root's memory */
    size_t bytes, offset; /* in the arena, of a root */
    ck_node first, last;  /* nodes between which a root is alive */
    void *weight;         /* where it lies, of what is read: as f32, or as a copy of bf16 */
} slot;

struct ck_exec {
    const ck_backend *backend;
    const ck_graph *graph;
    size_t count;        /* nodes of the graph when this was planned; it may grow */
    slot *slots;         /* by node, as the next five */
    bool *needed, *half; /* half: stored as bfloat16 */
    ck_node *product;    /* what makes an addition in its place; or CK_NONE (residual.h) */
    bool *moved;         /* a product that is run there */
    bool *folded;        /* made by who reads it, stored nowhere */
    ck_kernel *kernels;
    size_t scratch, arena; /* bytes */
    char *memory;          /* arena, then scratch; NULL before ck_exec_allocate */
    bool borrowed;         /* another's */
    ck_resident *resident; /* where weights are, if the backend's memory is not the program's */
    bool shares;           /* resident is somebody else's */
    void *recording;       /* the backend's, of the run */
    double seconds[CK_OP_COUNT];
};

static size_t aligned(size_t n) {
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

static size_t element_bytes(const ck_exec *e, ck_node n) {
    return e->graph->nodes[n].dtype == CK_I32 ? 4 : e->half[n] ? 2 : e->backend->element;
}

/* From the beginning of a node to its number `at`; behind a result that is stored as bfloat16 they
 * are f32. */
static size_t bytes_to(const ck_exec *e, ck_node n, int64_t at) {
    int64_t result = ck_node_main(e->graph, n);
    if (!e->half[n] || at < result) return (size_t)at * element_bytes(e, n);
    return ck_packed_bytes(result, 2) + (size_t)(at - result) * 4;
}

/* A weight that is used where the params have it, or where it is resident: not one whose copy lies
 * in the arena, as f64 has it. */
static bool is_elsewhere(const ck_exec *e, ck_node n) {
    return e->graph->nodes[n].op == CK_OP_PARAM && e->backend->element == sizeof(float);
}

/* ---- Planning ---- */

static void mark_needed(ck_exec *e, const ck_node *outputs, size_t count) {
    for (size_t i = 0; i < count; i++) e->needed[outputs[i]] = true;
    for (size_t i = e->count; i-- > 0;)
        for (int s = 0; s < CK_MAX_SRC && e->needed[i]; s++)
            if (e->graph->nodes[i].src[s] != CK_NONE) e->needed[e->graph->nodes[i].src[s]] = true;
}

/* Sources of node n live until node `reader`, and so do those of what is folded. */
static void read_sources(ck_exec *e, ck_node n, ck_node reader) {
    for (int k = 0; k < CK_MAX_SRC; k++) {
        ck_node source = e->graph->nodes[n].src[k];
        if (source == CK_NONE) continue;
        ck_node root = e->slots[source].root;
        if (e->slots[root].last < reader) e->slots[root].last = reader;
        if (e->folded[root]) read_sources(e, root, reader);
    }
}

static void find_lifetimes(ck_exec *e, const ck_node *outputs, size_t count) {
    ck_node end = (ck_node)e->count;
    for (ck_node i = 0; i < end; i++) {
        const ck_graph_node *n = &e->graph->nodes[i];
        slot *s = &e->slots[i];
        *s = (slot){.root = i, .first = i, .last = i};
        if (!e->needed[i]) continue;
        if (n->op == CK_OP_VIEW) {
            const slot *from = &e->slots[n->src[0]];
            s->root = from->root;
            s->shift = from->shift + bytes_to(e, n->src[0], n->i[0]);
        } else if (!is_elsewhere(e, i) && !e->moved[i] && !e->folded[i]) {
            s->bytes = aligned(bytes_to(e, i, ck_shape_count(&n->shape)));
        }
        if (n->op == CK_OP_INPUT || n->op == CK_OP_PARAM) s->first = 0, s->last = end;
        read_sources(e, i, i);
        if (e->product[i] != CK_NONE) read_sources(e, e->product[i], i);
    }
    for (size_t i = 0; i < count; i++) e->slots[e->slots[outputs[i]].root].last = end;
}

/* Element by element: the result may lie where a source of as many elements lies. */
static bool is_elementwise(const ck_exec *e, ck_node n) {
    ck_op op = e->graph->nodes[n].op;
    if (e->product[n] != CK_NONE) return false;
    return op == CK_OP_ADD || op == CK_OP_MUL || op == CK_OP_AFFINE || op == CK_OP_UNARY ||
           op == CK_OP_UNARY_GRAD;
}

/* The source in whose place n's result can be: it is needed no more, and no other source lies
 * there. */
static ck_node dying_source(const ck_exec *e, ck_node n) {
    const ck_graph_node *nodes = e->graph->nodes;
    for (int s = 0; s < 2; s++) {
        ck_node a = nodes[n].src[s], other = nodes[n].src[1 - s];
        if (a == CK_NONE) continue;
        ck_node root = e->slots[a].root;
        bool alone = other == CK_NONE || e->slots[other].root != root;
        if (alone && e->half[a] == e->half[n] && e->slots[root].last == n &&
            e->slots[a].shift == 0 && e->slots[root].bytes >= e->slots[n].bytes &&
            ck_shape_count(&nodes[a].shape) == ck_shape_count(&nodes[n].shape))
            return root;
    }
    return CK_NONE;
}

/* Results of element by element work go where a source was: less memory, and less of it touched. */
static void share_places(ck_exec *e) {
    for (ck_node i = 0; i < (ck_node)e->count; i++) {
        slot *s = &e->slots[i];
        s->root = e->slots[s->root].root; /* of a view: where its source went */
        if (!e->needed[i] || !is_elementwise(e, i)) continue;
        ck_node root = dying_source(e, i);
        if (root == CK_NONE) continue;
        e->slots[root].last = s->last;
        s->root = root;
    }
}

typedef struct block {
    size_t bytes, offset;
    ck_node first, last;
    ck_node node;
} block;

static int by_size(const void *a, const void *b) {
    const block *x = a, *y = b;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
    return x->node < y->node ? -1 : x->node > y->node;
}

/* The start of the smallest gap that the block fits in, among those placed (sorted by offset) that
 * live at the same time. */
static size_t best_gap(const block *const *placed, size_t count, const block *b) {
    size_t end = 0, best = 0, best_size = SIZE_MAX;
    for (size_t i = 0; i < count; i++) {
        const block *p = placed[i];
        if (p->first > b->last || p->last < b->first) continue;
        if (p->offset > end && p->offset - end >= b->bytes && p->offset - end < best_size)
            best = end, best_size = p->offset - end;
        if (p->offset + p->bytes > end) end = p->offset + p->bytes;
    }
    return best_size == SIZE_MAX ? end : best;
}

/* Offsets by descending size: within a few percent of the least possible on networks like these. */
static void place(ck_exec *e, block *blocks, const block **placed) {
    size_t count = 0;
    for (size_t i = 0; i < e->count; i++) {
        const slot *s = &e->slots[i];
        if (e->needed[i] && s->root == (ck_node)i && s->bytes)
            blocks[count++] = (block){s->bytes, 0, s->first, s->last, (ck_node)i};
    }
    qsort(blocks, count, sizeof *blocks, by_size);
    for (size_t i = 0; i < count; i++) {
        block *b = &blocks[i];
        b->offset = best_gap(placed, i, b);
        e->slots[b->node].offset = b->offset;
        if (b->offset + b->bytes > e->arena) e->arena = b->offset + b->bytes;
        size_t at = i;
        while (at > 0 && placed[at - 1]->offset > b->offset) placed[at] = placed[at - 1], at--;
        placed[at] = b;
    }
}

static bool is_run(const ck_exec *e, size_t n) {
    ck_op op = e->graph->nodes[n].op;
    return e->needed[n] && op != CK_OP_INPUT && op != CK_OP_PARAM && op != CK_OP_VIEW &&
           !e->moved[n] && !e->folded[n];
}

/* What is run in the place of n: itself, or the product that makes the addition that n is. */
static ck_node made_by(const ck_exec *e, ck_node n) {
    return e->product[n] == CK_NONE ? n : e->product[n];
}

static bool reads_folded(const ck_exec *e, size_t n) {
    const ck_node *src = e->graph->nodes[n].src;
    for (int s = 0; s < CK_MAX_SRC; s++)
        if (src[s] != CK_NONE && e->folded[e->slots[src[s]].root]) return true;
    return false;
}

static ck_status prepare(ck_exec *e, ck_error *err) {
    const ck_backend *b = e->backend;
    for (size_t i = 0; i < e->count; i++) {
        if (!is_run(e, i)) continue;
        ck_kernel *k = &e->kernels[i];
        ck_node made = made_by(e, (ck_node)i);
        if (reads_folded(e, i))
            CK_TRY(b->folding->prepare(e->graph, (ck_node)i, e->half, e->folded, k, err));
        else
            CK_TRY(b->prepare(b, e->graph, made, e->half, made != (ck_node)i, k, err));
        if (aligned(k->scratch) > e->scratch) e->scratch = aligned(k->scratch);
    }
    return CK_OK;
}

static ck_status plan(ck_exec *e, const ck_node *outputs, size_t count, ck_error *err) {
    size_t n = e->count = e->graph->count;
    e->slots = ck_alloc_array(n, sizeof *e->slots);
    e->needed = ck_alloc_array(n, sizeof *e->needed);
    e->half = ck_alloc_array(n, sizeof *e->half);
    e->product = ck_alloc_array(n, sizeof *e->product);
    e->moved = ck_alloc_array(n, sizeof *e->moved);
    e->folded = ck_alloc_array(n, sizeof *e->folded);
    e->kernels = ck_alloc_array(n, sizeof *e->kernels);
    block *blocks = ck_alloc_array(n, sizeof *blocks);
    const block **placed = ck_alloc_array(n, sizeof(block *));
    ck_readers *readers = NULL;
    bool ok = e->slots && e->needed && e->half && e->product && e->moved && e->folded &&
              e->kernels && blocks && placed;
    if (ok) {
        mark_needed(e, outputs, count);
        readers = ck_readers_of(e->graph, e->needed, outputs, count);
        ok = readers != NULL;
    }
    if (ok) {
        ck_half_choose(e->backend, e->graph, e->needed, outputs, count, e->half);
        ck_residual_choose(e->backend, e->graph, e->needed, readers, e->half, e->product);
        ck_fold_choose(e->backend, e->graph, e->needed, readers, e->half, e->folded);
        for (size_t i = 0; i < n; i++)
            if (e->product[i] != CK_NONE) e->moved[e->product[i]] = true;
        find_lifetimes(e, outputs, count);
        share_places(e);
        place(e, blocks, placed);
        e->arena = (e->arena + ALIGN_SCRATCH - 1) / ALIGN_SCRATCH * ALIGN_SCRATCH;
    }
    free(readers);
    free(blocks);
    free(placed);
    return ok ? prepare(e, err) : ck_fail_memory(err, "the plan of a graph");
}

ck_status ck_exec_new(const ck_backend *b, const ck_graph *g, const ck_node *outputs, size_t count,
                      ck_exec **out, ck_error *err) {
    CK_TRY(ck_graph_check(g, err));
    ck_exec *e = ck_alloc(sizeof *e);
    if (!e) return ck_fail_memory(err, "the plan of a graph");
    e->backend = b;
    e->graph = g;
    ck_status s = plan(e, outputs, count, err);
    if (s != CK_OK)
        ck_exec_free(e);
    else
        *out = e;
    return s;
}

void ck_exec_free(ck_exec *e) {
    if (!e) return;
    for (size_t i = 0; e->kernels && i < e->count; i++)
        if (e->kernels[i].release) e->kernels[i].release(e->kernels[i].state);
    if (e->recording) e->backend->forget(e->recording);
    if (e->memory && !e->borrowed) e->backend->free(e->memory);
    if (!e->shares) ck_resident_free(e->resident);
    free(e->kernels);
    free(e->slots);
    free(e->needed);
    free(e->half);
    free(e->product);
    free(e->moved);
    free(e->folded);
    free(e);
}

/* ---- Memory ---- */

double ck_exec_operations(const ck_exec *e) {
    double sum = 0;
    for (size_t i = 0; i < e->count; i++)
        if (e->needed[i]) sum += ck_cost_node(e->graph, (ck_node)i);
    return sum;
}

size_t ck_exec_peak(const ck_exec *e) {
    return e->arena + e->scratch;
}

static bool is_read_weight(const ck_exec *e, size_t n) {
    return e->graph->nodes[n].op == CK_OP_PARAM && e->needed[n];
}

/* Bytes of the weights that are read, or of those that are not there yet. */
static size_t weights_of(const ck_exec *e, bool all) {
    size_t bytes = 0;
    for (size_t i = 0; i < e->count; i++) {
        const ck_graph_node *n = &e->graph->nodes[i];
        if (is_read_weight(e, i) && (all || !ck_params_holds(n->params, n->param, e->half[i])))
            bytes += (size_t)ck_shape_count(&n->shape) * (e->half[i] ? 2 : 4);
    }
    return bytes;
}

size_t ck_exec_weights(const ck_exec *e) {
    return weights_of(e, true);
}

ck_status ck_exec_fits(const ck_exec *e, ck_error *err) {
    if (!e->backend->host) return CK_OK;
    return ck_backend_fits(e->backend, "a graph and its weights",
                           ck_exec_peak(e) + weights_of(e, false), err);
}

ck_status ck_exec_share(ck_exec *e, ck_resident *r, ck_error *err) {
    e->resident = r;
    e->shares = true;
    for (size_t i = 0; i < e->count; i++) {
        const ck_graph_node *n = &e->graph->nodes[i];
        if (is_read_weight(e, i)) CK_TRY(ck_resident_want(r, n->params, n->param, e->half[i], err));
    }
    return CK_OK;
}

static ck_status find_weights(ck_exec *e, ck_error *err) {
    bool host = e->backend->host;
    if (!host && !e->resident) CK_TRY(ck_resident_new(e->backend, &e->resident, err));
    for (size_t i = 0; i < e->count; i++) {
        const ck_graph_node *n = &e->graph->nodes[i];
        void **at = &e->slots[i].weight;
        if (!is_read_weight(e, i)) continue;
        /* (A card takes its bfloat16 from what is trained.) */
        bool half = e->half[i] && (host || ck_params_frozen(n->params));
        CK_TRY(ck_params_fetch(n->params, n->param, half, at, err));
        if (!host) CK_TRY(ck_resident_need(e->resident, n->params, n->param, e->half[i], at, err));
    }
    return CK_OK;
}

ck_status ck_exec_allocate(ck_exec *e, size_t limit, ck_error *err) {
    size_t peak = ck_exec_peak(e);
    if (limit && peak > limit)
        return ck_fail(err, CK_MEMORY,
                       "needs %.1f MiB of memory, %.1f MiB are allowed: use a smaller batch or "
                       "image, or turn gradient checkpointing on",
                       (double)peak / 0x1p20, (double)limit / 0x1p20);
    CK_TRY(ck_exec_fits(e, err));
    CK_TRY(find_weights(e, err));
    e->memory = e->backend->alloc(peak ? peak : 1);
    return e->memory ? CK_OK : ck_backend_fail_memory(e->backend, "a graph", peak, err);
}

ck_status ck_exec_borrow(ck_exec *e, const ck_exec *from, ck_error *err) {
    CK_TRY(find_weights(e, err));
    e->memory = from->memory;
    e->borrowed = true;
    return CK_OK;
}

static void *address(const ck_exec *e, ck_node n) {
    const slot *s = &e->slots[n], *root = &e->slots[s->root];
    char *base = is_elsewhere(e, s->root) ? root->weight : e->memory + root->offset;
    return base + s->shift;
}

void *ck_exec_pointer(const ck_exec *e, ck_node n) {
    return address(e, n);
}

/* ---- Data in and out ---- */

static ck_status check_count(const ck_exec *e, ck_node node, size_t n, ck_error *err) {
    const ck_graph_node *at = &e->graph->nodes[node];
    if (ck_shape_count(&at->shape) == (int64_t)n) return CK_OK;
    char text[96];
    return ck_fail(err, CK_USAGE, "%s has shape %s, %zu numbers were given",
                   at->name ? at->name : ck_op_name(at->op),
                   ck_shape_text(&at->shape, text, sizeof text), n);
}

static void to_real(const ck_exec *e, ck_node node, const void *data, size_t n) {
    void *dst = address(e, node);
    if (element_bytes(e, node) == 4) {
        e->backend->write(dst, data, n * 4);
        return;
    }
    for (size_t i = 0; i < n; i++) ((double *)dst)[i] = ((const float *)data)[i];
}

ck_status ck_exec_write(ck_exec *e, ck_node input, const void *data, size_t n, ck_error *err) {
    CK_TRY(check_count(e, input, n, err));
    if (e->needed[input]) to_real(e, input, data, n);
    return CK_OK;
}

ck_status ck_exec_read(const ck_exec *e, ck_node output, void *data, size_t n, ck_error *err) {
    CK_TRY(check_count(e, output, n, err));
    const void *src = address(e, output);
    if (element_bytes(e, output) == 4) {
        e->backend->read(data, src, n * 4);
        return CK_OK;
    }
    for (size_t i = 0; i < n; i++) ((float *)data)[i] = (float)((const double *)src)[i];
    return CK_OK;
}

/* ---- Running ---- */

/* Where a source lies, or if it is folded its sources. */
static void point(const ck_exec *e, ck_node source, const void **at,
                  const void *folded[CK_MAX_SRC]) {
    ck_node root = e->slots[source].root;
    if (!e->folded[root]) {
        *at = address(e, source);
        return;
    }
    const ck_node *src = e->graph->nodes[root].src;
    for (int s = 0; s < CK_MAX_SRC; s++)
        if (src[s] != CK_NONE) folded[s] = address(e, src[s]);
}

static void run_node(ck_exec *e, ck_node i) {
    ck_node made = made_by(e, i);
    const ck_graph_node *n = &e->graph->nodes[made];
    ck_call call = {.graph = e->graph,
                    .node = made,
                    .half = e->half,
                    .dst = address(e, i),
                    .scratch = e->memory + e->arena,
                    .state = e->kernels[i].state};
    for (int s = 0; s < CK_MAX_SRC; s++)
        if (n->src[s] != CK_NONE) point(e, n->src[s], &call.src[s], call.folded[s]);
    if (made != i) call.residual = address(e, ck_residual_of(e->graph, i, made));
    e->kernels[i].run(&call);
}

/* The copy of a weight that this backend has in the arena, as it is now. */
static void copy_weight(ck_exec *e, ck_node i) {
    const ck_graph_node *n = &e->graph->nodes[i];
    if (n->op == CK_OP_PARAM && e->needed[i] && !is_elsewhere(e, i))
        to_real(e, i, e->slots[i].weight, ck_params_elements(n->params, n->param));
}

static void run_timed(ck_exec *e) {
    double before = ck_seconds();
    for (size_t i = 0; i < e->count; i++) {
        copy_weight(e, (ck_node)i);
        if (!is_run(e, i)) continue;
        run_node(e, (ck_node)i);
        double after = ck_seconds();
        e->seconds[e->graph->nodes[i].op] += after - before;
        before = after;
    }
}

static void run_nodes(void *context) {
    ck_exec *e = context;
    for (size_t i = 0; i < e->count; i++)
        if (is_run(e, i)) run_node(e, (ck_node)i);
}

ck_status ck_exec_run(ck_exec *e, ck_error *err) {
    if (!e->memory) return ck_fail(err, CK_USAGE, "a graph was run before it had memory");
    if (!e->backend->host) return e->backend->run(run_nodes, e, &e->recording, err);
    run_timed(e);
    return CK_OK;
}

const double *ck_exec_seconds(const ck_exec *e) {
    return e->seconds;
}
