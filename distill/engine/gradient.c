/* Reverse mode: one rule per operation, which appends the nodes of its gradient.
 *
 * A rule is given a node and the gradient of its result, and adds to the gradients of its sources.
 * Rules write no arithmetic of their own: gradients are nodes like any other, so they are planned,
 * run and tested like any other.
 *
 * Checkpointing: when the walk enters a block from behind, copies of the block's nodes are appended
 * first, and its rules read those. The copies do the same arithmetic, so the bits stay the same;
 * the originals are needed no longer than the forward pass.
 */
#include "distill/engine/graph.h"
#include "io/os.h"

#include <stdlib.h>

typedef struct walk {
    ck_graph *g;
    ck_node *grad;  /* by node of the forward pass; CK_NONE where there is none yet */
    ck_node *copy;  /* what stands for a node in the backward pass: itself or its recomputation */
    bool *wanted;   /* whether a node leads to something that is asked for */
    bool *restored; /* by block */
    size_t count;   /* nodes of the forward pass */
} walk;

typedef void rule(walk *w, ck_node n, ck_node dy);

static const ck_graph_node *at(const walk *w, ck_node n) {
    return &w->g->nodes[n];
}

static bool wants(const walk *w, ck_node src) {
    return src != CK_NONE && w->wanted[at(w, src)->original];
}

static bool wants_source(const walk *w, ck_node n) {
    for (int s = 0; s < CK_MAX_SRC; s++)
        if (wants(w, at(w, n)->src[s])) return true;
    return false;
}

/* grad[src] += d */
static void give(walk *w, ck_node src, ck_node d) {
    if (!wants(w, src) || d == CK_NONE) return;
    ck_node *sum = &w->grad[at(w, src)->original];
    *sum = *sum == CK_NONE ? d : ck_add(w->g, *sum, d);
}

static ck_node make(walk *w, ck_op op, ck_shape shape, const ck_graph_node *like, ck_node a,
                    ck_node b, ck_node c, ck_node d, ck_node e) {
    ck_graph_node n = {.op = op, .dtype = CK_F32, .shape = shape, .src = {a, b, c, d, e, CK_NONE}};
    for (int i = 0; i < CK_MAX_ATTR; i++) n.i[i] = like->i[i];
    n.x[0] = like->x[0], n.x[1] = like->x[1];
    return ck_append(w->g, n);
}

/* n by value: appending moves the nodes. */
static void view_rule(walk *w, ck_node id, ck_node dy) {
    ck_graph_node n = *at(w, id);
    if (n.detached) return;
    ck_graph_node a = *at(w, n.src[0]);
    int64_t total = ck_shape_count(&a.shape), part = ck_shape_count(&n.shape);
    if (ck_op_packed(a.op)) { /* the rest are statistics that no one differentiates */
        give(w, n.src[0], dy);
        return;
    }
    if (part != total) {
        dy = ck_reshape(w->g, dy, CK_SHAPE(part));
        dy = ck_pad(w->g, dy, 0, n.i[0], total);
    }
    give(w, n.src[0], ck_reshape(w->g, dy, a.shape));
}

static void unary_rule(walk *w, ck_node id, ck_node dy) {
    ck_graph_node n = *at(w, id);
    give(w, n.src[0],
         make(w, CK_OP_UNARY_GRAD, n.shape, &n, n.src[0], dy, CK_NONE, CK_NONE, CK_NONE));
}

static void affine_rule(walk *w, ck_node id, ck_node dy) {
    ck_graph_node n = *at(w, id);
    give(w, n.src[0], ck_affine(w->g, dy, n.x[0], 0));
}

static void add_rule(walk *w, ck_node id, ck_node dy) {
    ck_graph_node n = *at(w, id);
    give(w, n.src[0], dy);
    if (wants(w, n.src[1])) give(w, n.src[1], ck_sum_to(w->g, dy, ck_node_shape(w->g, n.src[1])));
}

static void mul_rule(walk *w, ck_node id, ck_node dy) {
    ck_graph_node n = *at(w, id);
    if (wants(w, n.src[0])) give(w, n.src[0], ck_mul(w->g, dy, n.src[1]));
    if (wants(w, n.src[1]))
        give(w, n.src[1],
             ck_sum_to(w->g, ck_mul(w->g, dy, n.src[0]), ck_node_shape(w->g, n.src[1])));
}

static void sum_to_rule(walk *w, ck_node id, ck_node dy) {
    ck_node a = at(w, id)->src[0];
    give(w, a, ck_expand(w->g, dy, ck_node_shape(w->g, a)));
}

static void expand_rule(walk *w, ck_node id, ck_node dy) {
    ck_node a = at(w, id)->src[0];
    give(w, a, ck_sum_to(w->g, dy, ck_node_shape(w->g, a)));
}

static void permute_rule(walk *w, ck_node id, ck_node dy) {
    ck_graph_node n = *at(w, id);
    int back[CK_MAX_DIMS];
    for (int i = 0; i < n.shape.rank; i++) back[n.i[i]] = i;
    give(w, n.src[0], ck_permute(w->g, dy, back));
}

static void concat_rule(walk *w, ck_node id, ck_node dy) {
    ck_graph_node n = *at(w, id);
    int axis = (int)n.i[0];
    int64_t first = ck_node_shape(w->g, n.src[0]).d[axis];
    if (wants(w, n.src[0])) give(w, n.src[0], ck_slice(w->g, dy, axis, 0, first));
    if (wants(w, n.src[1]))
        give(w, n.src[1], ck_slice(w->g, dy, axis, first, n.shape.d[axis] - first));
}

static void slice_rule(walk *w, ck_node id, ck_node dy) {
    ck_graph_node n = *at(w, id);
    int axis = (int)n.i[0];
    give(w, n.src[0], ck_pad(w->g, dy, axis, n.i[1], ck_node_shape(w->g, n.src[0]).d[axis]));
}

static void pad_rule(walk *w, ck_node id, ck_node dy) {
    ck_graph_node n = *at(w, id);
    int axis = (int)n.i[0];
    give(w, n.src[0], ck_slice(w->g, dy, axis, n.i[1], ck_node_shape(w->g, n.src[0]).d[axis]));
}

/* The sum of dy's rows: the gradient of a bias. */
static void row_rule(walk *w, ck_node row, ck_node dy) {
    if (!wants(w, row)) return;
    ck_shape s = ck_node_shape(w->g, dy);
    int64_t c = s.d[s.rank - 1];
    ck_node flat = ck_reshape(w->g, dy, CK_SHAPE(ck_shape_count(&s) / c, c));
    give(w, row, ck_reshape(w->g, ck_sum_to(w->g, flat, CK_SHAPE(1, c)), ck_node_shape(w->g, row)));
}

/* y = op(a) op(b): da = dy op(b)^T, db = op(a)^T dy, transposed again where op transposes. */
static void matmul_rule(walk *w, ck_node id, ck_node dy) {
    ck_graph_node n = *at(w, id);
    ck_node a = n.src[0], b = n.src[1];
    bool ta = n.i[0], tb = n.i[1];
    if (wants(w, a))
        give(w, a,
             ta ? ck_matmul(w->g, b, dy, tb, true, CK_NONE)
                : ck_matmul(w->g, dy, b, false, !tb, CK_NONE));
    if (wants(w, b))
        give(w, b,
             tb ? ck_matmul(w->g, dy, a, true, ta, CK_NONE)
                : ck_matmul(w->g, a, dy, !ta, false, CK_NONE));
    row_rule(w, n.src[2], dy);
}

static void conv_rule(walk *w, ck_node id, ck_node dy) {
    ck_graph_node n = *at(w, id);
    ck_shape x = ck_node_shape(w->g, n.src[0]), k = ck_node_shape(w->g, n.src[1]);
    if (wants(w, n.src[0]))
        give(w, n.src[0],
             make(w, CK_OP_CONV_DATA_GRAD, x, &n, dy, n.src[1], CK_NONE, CK_NONE, CK_NONE));
    if (wants(w, n.src[1]))
        give(w, n.src[1],
             make(w, CK_OP_CONV_WEIGHT_GRAD, k, &n, n.src[0], dy, CK_NONE, CK_NONE, CK_NONE));
    row_rule(w, n.src[2], dy);
}

/* Both norms: a packed gradient of x, gain and bias, taken apart by views; those of gain and bias
 * are copied, so that the whole need not be kept for them. */
static void give_norm(walk *w, ck_graph_node n, ck_node packed) {
    ck_shape s = ck_node_shape(w->g, n.src[0]);
    int64_t total = ck_shape_count(&s), c = s.d[s.rank - 1];
    if (wants(w, n.src[0])) give(w, n.src[0], ck_view(w->g, packed, 0, s));
    for (int i = 1; i <= 2; i++)
        if (wants(w, n.src[i])) {
            ck_node sum = ck_view(w->g, packed, total + (i - 1) * c, CK_SHAPE(c));
            sum = ck_slice(w->g, sum, 0, 0, c);
            give(w, n.src[i], ck_reshape(w->g, sum, ck_node_shape(w->g, n.src[i])));
        }
}

static void group_norm_rule(walk *w, ck_node id, ck_node dy) {
    ck_graph_node n = *at(w, id);
    ck_shape s = ck_node_shape(w->g, n.src[0]);
    ck_shape all = CK_SHAPE(ck_shape_count(&s) + 2 * s.d[s.rank - 1]);
    give_norm(w, n, make(w, CK_OP_GROUP_NORM_GRAD, all, &n, n.src[0], n.src[1], n.src[2], id, dy));
}

static void layer_norm_rule(walk *w, ck_node id, ck_node dy) {
    ck_graph_node n = *at(w, id);
    ck_shape s = ck_node_shape(w->g, n.src[0]);
    ck_shape all = CK_SHAPE(ck_shape_count(&s) + 2 * s.d[s.rank - 1]);
    give_norm(w, n, make(w, CK_OP_LAYER_NORM_GRAD, all, &n, n.src[0], id, dy, n.src[1], CK_NONE));
}

static void geglu_rule(walk *w, ck_node id, ck_node dy) {
    ck_graph_node n = *at(w, id);
    give(w, n.src[0],
         make(w, CK_OP_GEGLU_GRAD, ck_node_shape(w->g, n.src[0]), &n, n.src[0], dy, CK_NONE,
              CK_NONE, CK_NONE));
}

static void attention_rule(walk *w, ck_node id, ck_node dy) {
    ck_graph_node n = *at(w, id);
    ck_shape q = ck_node_shape(w->g, n.src[0]), k = ck_node_shape(w->g, n.src[1]);
    int64_t nq = ck_shape_count(&q), nk = ck_shape_count(&k);
    ck_node packed = make(w, CK_OP_ATTENTION_GRAD, CK_SHAPE(nq + 2 * nk), &n, n.src[0], n.src[1],
                          n.src[2], id, dy);
    if (wants(w, n.src[0])) give(w, n.src[0], ck_view(w->g, packed, 0, q));
    if (wants(w, n.src[1])) give(w, n.src[1], ck_view(w->g, packed, nq, k));
    if (wants(w, n.src[2])) give(w, n.src[2], ck_view(w->g, packed, nq + nk, k));
}

/* y (dy - sum of y dy) */
static void softmax_rule(walk *w, ck_node id, ck_node dy) {
    ck_graph_node n = *at(w, id);
    ck_shape one = n.shape;
    one.d[one.rank - 1] = 1;
    ck_node product = ck_mul(w->g, id, dy);
    ck_node sum = ck_sum_to(w->g, product, one);
    give(w, n.src[0], ck_sub(w->g, product, ck_mul(w->g, id, sum)));
}

static void upsample_rule(walk *w, ck_node id, ck_node dy) {
    ck_graph_node n = *at(w, id);
    give(w, n.src[0],
         make(w, CK_OP_UPSAMPLE_GRAD, ck_node_shape(w->g, n.src[0]), &n, dy, CK_NONE, CK_NONE,
              CK_NONE, CK_NONE));
}

static void embed_rule(walk *w, ck_node id, ck_node dy) {
    ck_graph_node n = *at(w, id);
    give(w, n.src[0],
         make(w, CK_OP_EMBED_GRAD, ck_node_shape(w->g, n.src[0]), &n, n.src[1], dy, CK_NONE,
              CK_NONE, CK_NONE));
}

static rule *const rules[CK_OP_COUNT] = {
    [CK_OP_VIEW] = view_rule,
    [CK_OP_UNARY] = unary_rule,
    [CK_OP_AFFINE] = affine_rule,
    [CK_OP_ADD] = add_rule,
    [CK_OP_MUL] = mul_rule,
    [CK_OP_SUM_TO] = sum_to_rule,
    [CK_OP_EXPAND] = expand_rule,
    [CK_OP_PERMUTE] = permute_rule,
    [CK_OP_CONCAT] = concat_rule,
    [CK_OP_SLICE] = slice_rule,
    [CK_OP_PAD] = pad_rule,
    [CK_OP_MATMUL] = matmul_rule,
    [CK_OP_CONV] = conv_rule,
    [CK_OP_GROUP_NORM] = group_norm_rule,
    [CK_OP_LAYER_NORM] = layer_norm_rule,
    [CK_OP_GEGLU] = geglu_rule,
    [CK_OP_ATTENTION] = attention_rule,
    [CK_OP_SOFTMAX] = softmax_rule,
    [CK_OP_UPSAMPLE] = upsample_rule,
    [CK_OP_EMBED] = embed_rule,
};

/* Appends copies of the nodes of n's block that the backward pass may read. */
static void restore(walk *w, ck_node n) {
    int block = at(w, n)->block;
    if (block == 0 || w->restored[block]) return;
    w->restored[block] = true;
    for (size_t i = 0; i < w->count; i++) {
        ck_graph_node copy = w->g->nodes[i];
        if (copy.block != block) continue;
        for (int s = 0; s < CK_MAX_SRC; s++)
            if (copy.src[s] != CK_NONE) copy.src[s] = w->copy[copy.src[s]];
        ck_node made = ck_append(w->g, copy);
        if (made == CK_NONE) return;
        w->g->nodes[made].original = (ck_node)i;
        w->copy[i] = made;
    }
}

static void mark_wanted(walk *w, const ck_node *wrt, size_t count) {
    for (size_t i = 0; i < count; i++) w->wanted[wrt[i]] = true;
    for (size_t i = 0; i < w->count; i++) {
        const ck_graph_node *n = &w->g->nodes[i];
        if (n->detached) continue;
        for (int s = 0; s < CK_MAX_SRC; s++)
            if (n->src[s] != CK_NONE && w->wanted[n->src[s]]) w->wanted[i] = true;
    }
}

static ck_status walk_back(walk *w, ck_node of, const ck_node *wrt, size_t count, ck_node *grads,
                           ck_error *err) {
    mark_wanted(w, wrt, count);
    w->grad[of] = ck_const(w->g, ck_node_shape(w->g, of), 1);
    for (ck_node n = of; n >= 0; n--) {
        if (w->grad[n] == CK_NONE) continue;
        if (!wants_source(w, n)) continue;
        rule *r = rules[at(w, n)->op];
        if (!r)
            return ck_fail(err, CK_USAGE, "%s: no gradient goes through it, detach what it makes",
                           ck_op_name(at(w, n)->op));
        restore(w, n);
        size_t first = w->g->count;
        r(w, w->copy[n], w->grad[n]);
        for (size_t i = first; i < w->g->count; i++) w->g->nodes[i].inner = at(w, n)->inner;
        CK_TRY(ck_graph_check(w->g, err));
    }
    for (size_t i = 0; i < count; i++) {
        grads[i] = w->grad[wrt[i]];
        const char *name = at(w, wrt[i])->name;
        if (grads[i] == CK_NONE)
            return ck_fail(err, CK_USAGE, "%s: the loss does not depend on it",
                           name ? name : "a node");
    }
    return ck_graph_check(w->g, err);
}

ck_status ck_gradients(ck_graph *g, ck_node of, const ck_node *wrt, size_t count, ck_node *grads,
                       ck_error *err) {
    CK_TRY(ck_graph_check(g, err));
    if (ck_shape_count(&g->nodes[of].shape) != 1)
        return ck_fail(err, CK_USAGE, "gradients are taken of one number only");
    walk w = {.g = g, .count = g->count};
    w.grad = ck_alloc_array(g->count, sizeof *w.grad);
    w.copy = ck_alloc_array(g->count, sizeof *w.copy);
    w.wanted = ck_alloc_array(g->count, sizeof *w.wanted);
    w.restored = ck_alloc_array((size_t)g->blocks + 1, sizeof *w.restored);
    ck_status s;
    if (!w.grad || !w.copy || !w.wanted || !w.restored) {
        s = ck_fail_memory(err, "gradients");
    } else {
        for (size_t i = 0; i < g->count; i++) w.grad[i] = CK_NONE, w.copy[i] = (ck_node)i;
        s = walk_back(&w, of, wrt, count, grads, err);
    }
    free(w.grad), free(w.copy), free(w.wanted), free(w.restored);
    return s;
}
