/* What methods share, see distill.h. */
#include "distill/methods/distill.h"

#include "io/os.h"
#include "kernels/philox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Inputs ---- */

static size_t failed(ck_distill *d, const char *name) {
    ck_graph_fail(d->graph, CK_MEMORY, "out of memory: '%s'", name);
    return SIZE_MAX;
}

size_t ck_distill_feed(ck_distill *d, const char *name, ck_shape shape) {
    ck_feed *grown = ck_grow(d->feeds, d->feed_count, &d->feed_capacity, sizeof *grown);
    if (!grown) return failed(d, name);
    d->feeds = grown;
    ck_feed f = {.n = (size_t)ck_shape_count(&shape), .from = CK_NONE, .name = ck_strdup(name)};
    f.value = ck_alloc_array(f.n, sizeof *f.value);
    f.node = ck_input(d->graph, name, CK_F32, shape);
    grown[d->feed_count] = f;
    if (f.name && f.value) return d->feed_count++;
    free(f.name);
    free(f.value);
    return failed(d, name);
}

size_t ck_distill_coefficient(ck_distill *d, const char *name) {
    ck_shape s = d->shape;
    for (int i = 1; i < s.rank; i++) s.d[i] = 1;
    return ck_distill_feed(d, name, s);
}

ck_point *ck_distill_point(ck_distill *d, const char *name) {
    static const char *const parts[CK_AT_COUNT] = {"a",    "s",   "inverse", "in",
                                                   "skip", "out", "time"};
    static ck_point none;
    ck_point *p = ck_alloc(sizeof *p);
    ck_point **grown = ck_grow(d->points, d->point_count, &d->point_capacity, sizeof(ck_point *));
    if (grown) d->points = grown;
    if (!p || !grown) {
        free(p);
        failed(d, name);
        return &none;
    }
    grown[d->point_count++] = p;
    for (int i = 0; i < CK_AT_COUNT; i++) {
        char full[64];
        snprintf(full, sizeof full, "%s.%s", name, parts[i]);
        p->feed[i] = i == CK_AT_TIME ? ck_distill_feed(d, full, CK_SHAPE((int64_t)d->batch))
                                     : ck_distill_coefficient(d, full);
        p->node[i] = p->feed[i] == SIZE_MAX ? CK_NONE : d->feeds[p->feed[i]].node;
    }
    return p;
}

void ck_point_set(ck_distill *d, ck_point *p, size_t sample, ck_moment m) {
    ck_wrap w = ck_process_wrap(d->process, m);
    const double values[CK_AT_COUNT] = {m.a,   m.s,   m.s > 0 ? 1 / m.s : 0, w.in, w.skip,
                                        w.out, m.time};
    for (int i = 0; i < CK_AT_COUNT; i++) d->feeds[p->feed[i]].value[sample] = (float)values[i];
}

void ck_point_keep(ck_distill *d, ck_point *p, size_t sample) {
    d->feeds[p->feed[CK_AT_SKIP]].value[sample] = 1;
    d->feeds[p->feed[CK_AT_OUT]].value[sample] = 0;
}

/* Streams of whole batches lie apart from those of single numbers. */
enum { BATCHES = 1000, NUMBERS = 2000 };

double ck_distill_uniform(const ck_distill *d, uint32_t stream, size_t sample) {
    uint32_t words[4];
    ck_philox(d->seed, (uint32_t)d->round, NUMBERS + stream, d->first + sample, words);
    return (double)(((uint64_t)words[0] << 21) ^ (words[1] >> 11)) * 0x1p-53;
}

double ck_distill_normal(const ck_distill *d, uint32_t stream, size_t sample) {
    float z[4];
    ck_philox_normals(d->seed, (uint32_t)d->round, NUMBERS + 500 + stream, d->first + sample, z);
    return z[0];
}

void ck_distill_draw_training(ck_distill *d, ck_point *p, size_t weight) {
    for (size_t i = 0; i < d->batch; i++) {
        ck_moment m = ck_process_draw(d->process, ck_distill_uniform(d, 0, i));
        double out = ck_process_wrap(d->process, m).out;
        ck_point_set(d, p, i, m);
        d->feeds[weight].value[i] = (float)(1 / (out * out));
    }
}

void ck_distill_noise(const ck_distill *d, uint32_t stream, float *noise) {
    size_t n = d->feeds[CK_FEED_NOISE].n;
    ck_philox_fill_normal(d->seed, (uint32_t)d->round, BATCHES + stream, d->first * (n / d->batch),
                          n, noise);
}

ck_status ck_distill_own(ck_distill *d, size_t size, ck_error *err) {
    d->own = ck_alloc(size);
    return d->own ? CK_OK : ck_fail_memory(err, d->method->name);
}

void ck_distill_keep_context(ck_distill *d) {
    if (d->context == CK_NONE) return;
    d->kept = ck_distill_feed(d, "kept context", ck_node_shape(d->graph, d->context));
    if (d->kept == SIZE_MAX) return;
    ck_feed *kept = &d->feeds[d->kept];
    d->context = kept->from = kept->node; /* (what is carried over is saved) */
}

void ck_distill_take_context(ck_distill *d, size_t sample) {
    if (d->kept == SIZE_MAX) return;
    const ck_feed *drawn = &d->feeds[CK_FEED_CONTEXT];
    size_t n = drawn->n / d->batch;
    memcpy(d->feeds[d->kept].value + sample * n, drawn->value + sample * n, n * sizeof(float));
}

/* ---- Building ---- */

static ck_node feed_node(ck_distill *d, const char *name, ck_shape shape) {
    size_t i = ck_distill_feed(d, name, shape);
    return i == SIZE_MAX ? CK_NONE : d->feeds[i].node;
}

ck_status ck_distill_build(ck_distill *d, size_t tokens, size_t width, ck_error *err) {
    d->graph = ck_graph_new();
    d->scale = d->kept = d->told = SIZE_MAX;
    if (!d->graph) return ck_fail_memory(err, d->method->name);
    ck_shape text = CK_SHAPE((int64_t)d->batch, (int64_t)tokens, (int64_t)width);
    d->x0 = feed_node(d, "x0", d->shape);
    d->noise = feed_node(d, "noise", d->shape);
    d->context = tokens ? feed_node(d, "context", text) : CK_NONE;
    d->no_context = tokens ? feed_node(d, "no context", text) : CK_NONE;
    CK_TRY(d->method->build(d, err));
    return ck_graph_check(d->graph, err);
}

static void forget(ck_distill *d) {
    d->points = NULL, d->feeds = NULL, d->own = NULL, d->graph = NULL;
    d->feed_count = d->feed_capacity = d->point_count = d->point_capacity = d->part_count = 0;
}

ck_distill ck_distill_resized(const ck_distill *d, ck_shape shape, const ck_process *process) {
    ck_distill other = *d;
    forget(&other);
    other.shape = shape;
    other.process = process;
    return other;
}

void ck_distill_clear(ck_distill *d) {
    for (size_t i = 0; i < d->feed_count; i++) {
        free(d->feeds[i].name);
        free(d->feeds[i].value);
    }
    for (size_t i = 0; i < d->point_count; i++) free(d->points[i]);
    free(d->points);
    free(d->feeds);
    free(d->own);
    ck_graph_free(d->graph);
    forget(d);
}

/* ---- Arithmetic of the process ---- */

ck_node ck_distill_noisy(ck_distill *d, const ck_point *p, ck_node x0, ck_node noise) {
    ck_graph *g = d->graph;
    return ck_add(g, ck_mul(g, x0, p->node[CK_AT_A]), ck_mul(g, noise, p->node[CK_AT_S]));
}

size_t ck_distill_scale(ck_distill *d) {
    if (d->scale != SIZE_MAX) return d->scale;
    d->scale = ck_distill_coefficient(d, "guidance");
    for (size_t i = 0; i < d->batch && d->scale != SIZE_MAX; i++)
        d->feeds[d->scale].value[i] = (float)d->guidance;
    return d->scale;
}

static ck_node scale_of(ck_distill *d) {
    size_t feed = ck_distill_scale(d);
    return feed == SIZE_MAX ? CK_NONE : d->feeds[feed].node;
}

ck_node ck_distill_x0(ck_distill *d, const ck_network *n, ck_node x, const ck_point *p,
                      ck_node context) {
    ck_graph *g = d->graph;
    ck_node scale = CK_NONE;
    if (n == &d->rival && d->told != SIZE_MAX)
        scale = d->feeds[d->told].node;
    else if (ck_network_guided(n))
        scale = scale_of(d);
    ck_node answer = ck_network_answer(g, n, ck_mul(g, x, p->node[CK_AT_IN]), p->node[CK_AT_TIME],
                                       context, scale);
    return ck_add(g, ck_mul(g, x, p->node[CK_AT_SKIP]), ck_mul(g, answer, p->node[CK_AT_OUT]));
}

ck_node ck_distill_guided(ck_distill *d, const ck_network *n, ck_node x, const ck_point *p) {
    ck_node with = ck_distill_x0(d, n, x, p, d->context);
    bool once = ck_network_guided(n) || (d->guidance == 1 && d->scale == SIZE_MAX);
    if (once || d->no_context == CK_NONE) return with;
    ck_graph *g = d->graph;
    ck_node without = ck_distill_x0(d, n, x, p, d->no_context);
    return ck_add(g, without, ck_mul(g, ck_sub(g, with, without), scale_of(d)));
}

/* A stream apart from those of methods. */
enum { GUIDANCE = 100 };

void ck_distill_ask_guidance(ck_distill *d, int most) {
    if (d->setting[most] > 0) ck_distill_scale(d);
}

void ck_distill_draw_guidance(ck_distill *d, int least, int most) {
    if (d->setting[most] == 0) return;
    double low = d->setting[least], high = d->setting[most];
    for (size_t i = 0; i < d->batch; i++)
        d->feeds[d->scale].value[i] =
            (float)(low + (high - low) * ck_distill_uniform(d, GUIDANCE, i));
}

/* The noise in x if x0 is what it came from. */
static ck_node noise_of(ck_distill *d, ck_node x, ck_node x0, const ck_point *p) {
    ck_graph *g = d->graph;
    return ck_mul(g, ck_sub(g, x, ck_mul(g, x0, p->node[CK_AT_A])), p->node[CK_AT_INVERSE]);
}

ck_node ck_distill_move(ck_distill *d, ck_node x, ck_node x0, const ck_point *from,
                        const ck_point *to) {
    return ck_distill_noisy(d, to, x0, noise_of(d, x, x0, from));
}

/* Heun in x / a, where the way is straight: the noise of the step is the mean of what it is at both
 * ends. x' = a' x0 + s' e + (s' - a' s / a) (e' - e) / 2. */
ck_node ck_distill_solve(ck_distill *d, const ck_network *n, ck_node x, const ck_point *from,
                         const ck_point *to) {
    ck_graph *g = d->graph;
    ck_node x0 = ck_distill_guided(d, n, x, from), end = ck_distill_move(d, x, x0, from, to);
    if (!d->heun) return end;
    ck_node there = ck_distill_guided(d, n, end, to);
    ck_node change = ck_sub(g, noise_of(d, end, there, to), noise_of(d, x, x0, from));
    ck_node sigma =
        ck_mul(g, from->node[CK_AT_S], ck_unary_op(g, CK_RECIPROCAL, from->node[CK_AT_A], 0));
    ck_node way = ck_sub(g, to->node[CK_AT_S], ck_mul(g, sigma, to->node[CK_AT_A]));
    /* s' / s' is 0 for clean moments: those stay with Euler. */
    ck_node noisy = ck_mul(g, to->node[CK_AT_S], to->node[CK_AT_INVERSE]);
    return ck_add(g, end, ck_mul(g, change, ck_affine(g, ck_mul(g, way, noisy), 0.5, 0)));
}

/* ---- Losses ---- */

/* sqrt(x + c^2) - c */
static ck_node rooted(ck_graph *g, ck_node x, double c) {
    return ck_affine(g, ck_unary_op(g, CK_SQRT, ck_affine(g, x, 1, c * c), 0), 1, -c);
}

ck_node ck_distill_distance(ck_distill *d, ck_node prediction, ck_node target, ck_node weight) {
    ck_graph *g = d->graph;
    ck_node off = ck_sub(g, prediction, ck_detach(g, target)), square = ck_mul(g, off, off);
    ck_shape each = d->shape;
    for (int i = 1; i < each.rank; i++) each.d[i] = 1;
    ck_node distance = square;
    if (d->loss == CK_LOSS_L1) distance = rooted(g, square, 1e-4);
    if (d->loss == CK_LOSS_HUBER) distance = rooted(g, square, d->huber);
    if (d->loss == CK_LOSS_PSEUDO_HUBER) distance = rooted(g, ck_sum_to(g, square, each), d->huber);
    if (d->loss == CK_LOSS_SMOOTH) distance = ck_unary_op(g, CK_HUBER, off, d->huber);
    return ck_mean(g, weight == CK_NONE ? distance : ck_mul(g, distance, weight));
}

ck_status ck_distill_part(ck_distill *d, ck_node loss, ck_params *params, ck_error *err) {
    CK_TRY(ck_graph_check(d->graph, err));
    d->parts[d->part_count++] = (ck_part){.loss = loss, .params = params};
    return CK_OK;
}
