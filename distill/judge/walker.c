/* Sampling for evaluation, see walker.h. */
#include "distill/judge/walker.h"

#include "io/os.h"
#include "kernels/philox.h"

#include <stdlib.h>
#include <string.h>

struct ck_walker {
    ck_walker_options options;
    size_t batch, size; /* samples; numbers of one */
    ck_graph *graph;
    ck_exec *exec;
    ck_node x, time, in, skip, out, context, no_context, x0;
    float *result; /* x0 of the batch */
    float *ahead;  /* x at the end of a Heun step */
    float *noise;  /* of one sample */
    float *times;
};

/* ---- Making ---- */

static ck_node one(ck_graph *g, const char *name, int rank) {
    ck_shape s = {.rank = rank};
    for (int i = 0; i < rank; i++) s.d[i] = 1;
    return ck_input(g, name, CK_F32, s);
}

/* x0 = skip x + out F(in x, time), with guidance. All samples are at the same moment. */
static void build(ck_walker *w) {
    const ck_walker_options *o = &w->options;
    ck_graph *g = w->graph;
    ck_shape text = CK_SHAPE((int64_t)w->batch, (int64_t)o->tokens, (int64_t)o->width);
    w->x = ck_input(g, "x", CK_F32, o->shape);
    w->time = ck_input(g, "time", CK_F32, CK_SHAPE((int64_t)w->batch));
    w->in = one(g, "in", o->shape.rank);
    w->skip = one(g, "skip", o->shape.rank);
    w->out = one(g, "out", o->shape.rank);
    w->context = o->tokens ? ck_input(g, "context", CK_F32, text) : CK_NONE;
    w->no_context = CK_NONE;
    ck_node x = ck_mul(g, w->x, w->in);
    ck_node scale = ck_const(g, CK_SHAPE((int64_t)w->batch), o->guidance);
    ck_node answer = ck_network_answer(g, o->network, x, w->time, w->context, scale);
    if (o->guidance != 1 && o->tokens && !ck_network_guided(o->network)) {
        w->no_context = ck_input(g, "no context", CK_F32, text);
        ck_node without = ck_network_answer(g, o->network, x, w->time, w->no_context, scale);
        answer = ck_add(g, without, ck_affine(g, ck_sub(g, answer, without), o->guidance, 0));
    }
    w->x0 = ck_add(g, ck_mul(g, w->x, w->skip), ck_mul(g, answer, w->out));
}

static ck_status make(ck_walker *w, ck_error *err) {
    w->graph = ck_graph_new();
    w->result = ck_alloc_array(w->batch * w->size, sizeof *w->result);
    w->ahead = ck_alloc_array(w->batch * w->size, sizeof *w->ahead);
    w->noise = ck_alloc_array(w->size, sizeof *w->noise);
    w->times = ck_alloc_array(w->batch, sizeof *w->times);
    if (!w->graph || !w->result || !w->ahead || !w->noise || !w->times)
        return ck_fail_memory(err, "sampling");
    build(w);
    CK_TRY(ck_exec_new(w->options.backend, w->graph, &w->x0, 1, &w->exec, err));
    return ck_exec_allocate(w->exec, 0, err);
}

ck_status ck_walker_new(const ck_walker_options *options, ck_walker **out, ck_error *err) {
    ck_walker *w = ck_alloc(sizeof *w);
    if (!w) return ck_fail_memory(err, "sampling");
    w->options = *options;
    w->batch = (size_t)options->shape.d[0];
    w->size = (size_t)ck_shape_count(&options->shape) / w->batch;
    ck_status s = make(w, err);
    if (s != CK_OK)
        ck_walker_free(w);
    else
        *out = w;
    return s;
}

void ck_walker_free(ck_walker *w) {
    if (!w) return;
    ck_exec_free(w->exec);
    ck_graph_free(w->graph);
    free(w->result), free(w->ahead), free(w->noise), free(w->times);
    free(w);
}

/* ---- Walking ---- */

/* x0 of x at a moment, to w->result. */
static ck_status ask(ck_walker *w, const float *x, ck_moment m, ck_error *err) {
    ck_wrap wrap = ck_process_wrap(w->options.process, m);
    const float in = (float)wrap.in, skip = (float)wrap.skip, out = (float)wrap.out;
    for (size_t i = 0; i < w->batch; i++) w->times[i] = (float)m.time;
    CK_TRY(ck_exec_write(w->exec, w->x, x, w->batch * w->size, err));
    CK_TRY(ck_exec_write(w->exec, w->time, w->times, w->batch, err));
    CK_TRY(ck_exec_write(w->exec, w->in, &in, 1, err));
    CK_TRY(ck_exec_write(w->exec, w->skip, &skip, 1, err));
    CK_TRY(ck_exec_write(w->exec, w->out, &out, 1, err));
    CK_TRY(ck_exec_run(w->exec, err));
    return ck_exec_read(w->exec, w->x0, w->result, w->batch * w->size, err);
}

/* The noise of (seed, sample) in a step: the first is that which a sample begins with. */
static void add_noise(ck_walker *w, uint64_t seed, uint64_t first, uint32_t step, double scale,
                      float *x) {
    for (size_t k = 0; k < w->batch; k++) {
        ck_philox_fill_normal(seed, step, (uint32_t)(first + k), 0, w->size, w->noise);
        for (size_t i = 0; i < w->size; i++) x[k * w->size + i] += (float)scale * w->noise[i];
    }
}

/* x at `to` on the straight way from x at `from` through x0. */
static void move(const ck_walker *w, ck_moment from, ck_moment to, const float *x, float *ahead) {
    double ratio = to.s / from.s, share = to.a - from.a * ratio;
    for (size_t i = 0; i < w->batch * w->size; i++)
        ahead[i] = (float)(ratio * x[i] + share * w->result[i]);
}

static ck_status heun(ck_walker *w, ck_moment from, ck_moment to, float *x, ck_error *err) {
    size_t n = w->batch * w->size;
    move(w, from, to, x, w->ahead);
    if (to.s == 0) {
        memcpy(x, w->ahead, n * sizeof *x);
        return CK_OK;
    }
    for (size_t i = 0; i < n; i++) x[i] = (float)((x[i] - from.a * w->result[i]) / from.s);
    CK_TRY(ask(w, w->ahead, to, err));
    double way = to.s - to.a * from.s / from.a;
    for (size_t i = 0; i < n; i++) {
        double noise = (w->ahead[i] - to.a * w->result[i]) / to.s;
        x[i] = (float)(w->ahead[i] + way * (noise - x[i]) / 2);
    }
    return CK_OK;
}

static ck_status take_step(ck_walker *w, ck_walk walk, const ck_moment *m, uint64_t seed,
                           uint64_t first, uint32_t step, float *x, ck_error *err) {
    size_t n = w->batch * w->size;
    CK_TRY(ask(w, x, m[0], err));
    if (walk == CK_WALK_HEUN) return heun(w, m[0], m[1], x, err);
    if (walk == CK_WALK_DDIM) {
        move(w, m[0], m[1], x, x);
        return CK_OK;
    }
    for (size_t i = 0; i < n; i++) x[i] = (float)(m[1].a * w->result[i]);
    add_noise(w, seed, first, step + 1, m[1].s, x);
    return CK_OK;
}

ck_status ck_walker_sample(ck_walker *w, ck_walk walk, size_t steps, uint64_t seed, uint64_t first,
                           float *x, const float *context, const float *no_context, ck_error *err) {
    size_t text = w->batch * w->options.tokens * w->options.width;
    if (text) CK_TRY(ck_exec_write(w->exec, w->context, context, text, err));
    if (w->no_context != CK_NONE)
        CK_TRY(ck_exec_write(w->exec, w->no_context, no_context, text, err));
    ck_moment *grid = ck_alloc_array(steps + 1, sizeof *grid);
    if (!grid) return ck_fail_memory(err, "sampling");
    ck_process_grid(w->options.process, steps, grid);
    memset(x, 0, w->batch * w->size * sizeof *x);
    add_noise(w, seed, first, 0, grid[0].s, x);
    ck_status s = CK_OK;
    for (size_t i = 0; i < steps && s == CK_OK; i++)
        s = take_step(w, walk, grid + i, seed, first, (uint32_t)i, x, err);
    free(grid);
    return s;
}
