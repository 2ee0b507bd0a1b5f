/* A step of training, see trainer.h. */
#include "distill/run/trainer.h"

#include "distill/engine/cost.h"
#include "distill/engine/resident.h"
#include "distill/run/shard.h"

#include "io/os.h"
#include "kernels/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Floats of each process that go around at a time. */
enum { PIECE = 1 << 22 };

/* A part's plan of the graph of one size of samples. */
typedef struct plan {
    ck_node loss;
    ck_node *outputs; /* loss, gradients, what is carried */
    size_t output_count;
    ck_exec *exec;
} plan;

typedef struct sized {
    ck_distill *d;
    plan plans[CK_DISTILL_PARTS];
} sized;

/* A part in training. */
typedef struct work {
    ck_part part;     /* of the first size's graph */
    ck_node *trained; /* its weights, in the order of the gradients */
    size_t weights;
    ck_optimizer *optimizer;
    /* Gradients of several rounds, or on their way to others; NULL where there is one. */
    float *sum;
    size_t elements;
    ck_shard *shard; /* what is this process's of them; NULL: it is alone */
    float *whole;    /* moments for checkpoints where they are elsewhere: at others, on a card */
    size_t told; /* bytes into what a step tells: squares of each gradient, losses of each round */
    double loss, norm;
    bool turn; /* in this step */
} work;

struct ck_trainer {
    ck_distill *d; /* of the first size */
    sized *sizes;
    size_t size_count, size_capacity;
    const ck_backend *backend;
    ck_resident *resident; /* all weights, where the backend's memory is not the program's; NULL */
    ck_trainer_settings settings;
    work works[CK_DISTILL_PARTS];
    /* Of all parts, in the backend's memory, and as the program has read it: once a step. */
    char *told, *heard;
    size_t told_bytes;
    double waited; /* seconds, for a card to tell */
    /* Of what round a size's feeds have data, seed and all, before it is asked for; or NULL. */
    const sized *ahead;
    uint64_t ahead_seed, ahead_round;
    ck_world world;
    ck_params *ema;
    ck_pair *pairs;  /* room for a list of all weights of a part, or of the student */
    float **carried; /* everybody's feeds that are carried, in process 0 */
    size_t *batches; /* floats of such a feed, of each process */
    ck_state_array *arrays;
    ck_state_count counts[CK_DISTILL_PARTS];
};

/* ---- Making ---- */

static bool is_trained(const ck_graph *g, size_t i, const ck_part *part) {
    const ck_graph_node *n = &g->nodes[i];
    return n->op == CK_OP_PARAM &&
           (n->params == part->params || (part->heads && n->params == part->heads)) &&
           ck_graph_trains(g, (ck_node)i);
}

/* In the backend's memory. */
static float *weight_data(const ck_trainer *t, const work *w, size_t i) {
    const ck_graph_node *n = &t->d->graph->nodes[w->trained[i]];
    if (t->resident) return ck_resident_at(t->resident, n->params, n->param);
    return ck_exec_pointer(t->sizes[0].plans[w - t->works].exec, w->trained[i]);
}

static size_t weight_size(const ck_trainer *t, const work *w, size_t i) {
    return (size_t)ck_shape_count(&t->d->graph->nodes[w->trained[i]].shape);
}

/* The weights of a part, in the graph's order: *trained, to be released with free(). */
static ck_status find_trained(const ck_graph *g, const ck_part *part, ck_node **trained,
                              size_t *count, ck_error *err) {
    size_t n = 0;
    for (size_t i = 0; i < g->count; i++) n += is_trained(g, i, part);
    *trained = ck_alloc_array(n, sizeof **trained);
    if (!*trained) return ck_fail_memory(err, "weights");
    *count = 0;
    for (size_t i = 0; i < g->count; i++)
        if (is_trained(g, i, part)) (*trained)[(*count)++] = (ck_node)i;
    return CK_OK;
}

/* The loss, the gradients of all weights that it depends on, and carried feeds. */
static ck_status find_outputs(ck_distill *d, plan *p, const ck_node *trained, size_t count,
                              ck_error *err) {
    p->outputs = ck_alloc_array(count + d->feed_count + 1, sizeof *p->outputs);
    if (!p->outputs) return ck_fail_memory(err, d->method->name);
    p->outputs[0] = p->loss;
    CK_TRY(ck_gradients(d->graph, p->loss, trained, count, p->outputs + 1, err));
    p->output_count = 1 + count;
    for (size_t i = 0; i < d->feed_count; i++)
        if (d->feeds[i].from != CK_NONE) p->outputs[p->output_count++] = d->feeds[i].from;
    return CK_OK;
}

/* The plan of a part for a size; the first size's graph says which weights there are. */
static ck_status prepare(ck_trainer *t, sized *s, size_t part, ck_error *err) {
    work *w = &t->works[part];
    plan *p = &s->plans[part];
    ck_node *trained = NULL;
    size_t count = 0;
    p->loss = s->d->parts[part].loss;
    CK_TRY(find_trained(s->d->graph, &s->d->parts[part], &trained, &count, err));
    ck_status status = find_outputs(s->d, p, trained, count, err);
    if (s->d == t->d)
        w->trained = trained, w->weights = count;
    else
        free(trained);
    CK_TRY(status);
    CK_TRY(ck_exec_new(t->backend, s->d->graph, p->outputs, p->output_count, &p->exec, err));
    return t->resident ? ck_exec_share(p->exec, t->resident, err) : CK_OK;
}

static ck_status add_size(ck_trainer *t, ck_distill *d, ck_error *err) {
    sized *grown = ck_grow(t->sizes, t->size_count, &t->size_capacity, sizeof *grown);
    if (!grown) return ck_fail_memory(err, d->method->name);
    t->sizes = grown;
    sized *s = &grown[t->size_count++];
    *s = (sized){.d = d};
    for (size_t i = 0; i < d->part_count; i++) CK_TRY(prepare(t, s, i, err));
    return CK_OK;
}

ck_status ck_trainer_add(ck_trainer *t, ck_distill *d, ck_error *err) {
    for (size_t i = 0; i < d->feed_count; i++)
        if (d->feeds[i].from != CK_NONE)
            return ck_fail(err, CK_USAGE,
                           "method '%s' carries samples from step to step: they must be of one "
                           "size",
                           d->method->name);
    return add_size(t, d, err);
}

static ck_status make_resident(ck_trainer *t, ck_error *err) {
    if (t->settings.by_chance && (t->backend->host || !t->backend->takes_half))
        return ck_fail(err, CK_USAGE,
                       "adamw.rounding: backend '%s' has no copies of weights to round by chance",
                       t->backend->name);
    return t->backend->host ? CK_OK : ck_resident_new(t->backend, &t->resident, err);
}

/* What training changes is kept as f32, whatever graphs read: now, or wanted for later. */
static ck_status take_in(ck_trainer *t, bool now, ck_error *err) {
    const ck_distill *d = t->d;
    const ck_params *const all[] = {d->student.params, d->average.params, d->rival.params, d->heads,
                                    t->ema};
    void *weight;
    for (size_t k = 0; t->resident && k < sizeof all / sizeof *all; k++)
        for (size_t i = 0; all[k] && i < ck_params_count(all[k]); i++)
            CK_TRY(now ? ck_resident_need(t->resident, all[k], i, false, &weight, err)
                       : ck_resident_want(t->resident, all[k], i, false, err));
    return CK_OK;
}

static ck_status copy_for_ema(ck_trainer *t, ck_error *err) {
    return t->settings.ema > 0 ? ck_params_copy(t->d->student.params, &t->ema, err) : CK_OK;
}

ck_status ck_trainer_new(ck_distill *d, const ck_backend *backend,
                         const ck_trainer_settings *settings, ck_trainer **out, ck_error *err) {
    ck_trainer *t = ck_alloc(sizeof *t);
    if (!t) return ck_fail_memory(err, d->method->name);
    t->d = d;
    t->backend = backend;
    t->settings = *settings;
    t->world = settings->world ? *settings->world : (ck_world){0, 1};
    ck_status s = make_resident(t, err);
    if (s == CK_OK) s = copy_for_ema(t, err);
    for (size_t i = 0; i < d->part_count; i++) t->works[i].part = d->parts[i];
    if (s == CK_OK) s = add_size(t, d, err);
    if (s == CK_OK) s = take_in(t, false, err);
    for (size_t i = 0; i < d->part_count && s == CK_OK; i++) {
        work *w = &t->works[i];
        for (size_t k = 0; k < w->weights; k++) w->elements += weight_size(t, w, k);
    }
    if (s != CK_OK)
        ck_trainer_free(t);
    else
        *out = t;
    return s;
}

void ck_trainer_free(ck_trainer *t) {
    if (!t) return;
    for (size_t i = 0; i < CK_DISTILL_PARTS; i++) {
        work *w = &t->works[i];
        for (size_t k = 0; k < t->size_count; k++) {
            ck_exec_free(t->sizes[k].plans[i].exec);
            free(t->sizes[k].plans[i].outputs);
        }
        ck_optimizer_free(w->optimizer);
        ck_shard_free(w->shard);
        if (w->sum) t->backend->free(w->sum);
        free(w->trained), free(w->whole);
    }
    free(t->sizes);
    if (t->told) t->backend->free(t->told);
    free(t->heard);
    ck_resident_free(t->resident);
    for (size_t i = 0; t->carried && i < t->d->feed_count; i++) free(t->carried[i]);
    free(t->carried), free(t->batches), free(t->pairs);
    ck_params_free(t->ema);
    free(t->arrays);
    free(t);
}

/* ---- Memory ---- */

/* The plan of a part that needs most: one is run at a time, so that the others use its memory. */
static ck_exec *largest(const ck_trainer *t, size_t part) {
    ck_exec *most = t->sizes[0].plans[part].exec;
    for (size_t k = 1; k < t->size_count; k++) {
        ck_exec *e = t->sizes[k].plans[part].exec;
        if (ck_exec_peak(e) > ck_exec_peak(most)) most = e;
    }
    return most;
}

size_t ck_trainer_peak(const ck_trainer *t) {
    size_t bytes = 0;
    for (size_t i = 0; i < t->d->part_count; i++) bytes += ck_exec_peak(largest(t, i));
    return bytes;
}

static size_t weight_bytes(const ck_params *p) {
    size_t n = 0;
    for (size_t i = 0; p && i < ck_params_count(p); i++) n += ck_params_elements(p, i);
    return n * sizeof(float);
}

/* The weights behind factors, each once. */
static size_t base_bytes(const ck_distill *d) {
    const ck_params *base = d->student.adapter ? d->student.adapter->base : NULL;
    const ck_params *rival = d->rival.adapter && d->rival.params ? d->rival.adapter->base : NULL;
    size_t bytes = base != d->teacher.params ? weight_bytes(base) : 0;
    return rival != base && rival != d->teacher.params ? bytes + weight_bytes(rival) : bytes;
}

/* Whether gradients go through an array of their own. */
static bool sums_up(const ck_trainer *t) {
    return t->settings.accumulate > 1 || t->world.size > 1 || t->size_count > 1;
}

static size_t weights_bytes(const ck_trainer *t) {
    const ck_distill *d = t->d;
    if (t->resident) return ck_resident_bytes(t->resident);
    return weight_bytes(d->teacher.params) + weight_bytes(d->student.params) +
           weight_bytes(d->average.params) + weight_bytes(d->rival.params) +
           weight_bytes(d->heads) + weight_bytes(t->ema) + base_bytes(d);
}

size_t ck_trainer_held(const ck_trainer *t) {
    size_t bytes = weights_bytes(t);
    size_t moments = 2, sums = sums_up(t), size = t->world.size;
    for (size_t i = 0; i < t->d->part_count; i++) {
        size_t elements = t->works[i].elements;
        bytes += (moments * elements / size + sums * elements) * sizeof(float);
        /* What others send of a share; process 0 keeps everybody's moments. */
        if (size > 1) bytes += size * ck_peers_piece(elements / size, 0, PIECE) * sizeof(float);
        if (size > 1 && t->world.rank == 0) bytes += moments * elements * sizeof(float);
    }
    return bytes;
}

double ck_trainer_operations(const ck_trainer *t, size_t part) {
    double sum = 0;
    for (size_t k = 0; k < t->size_count; k++)
        sum += ck_exec_operations(t->sizes[k].plans[part].exec);
    return sum / (double)t->size_count;
}

size_t ck_trainer_trained(const ck_trainer *t) {
    size_t n = 0;
    for (size_t i = 0; i < t->d->part_count; i++) n += t->works[i].elements;
    return n;
}

/* The weights of a part, with their gradients where the run leaves them, or in the sum. */
static void list_slices(const ck_trainer *t, work *w, ck_trained *slices) {
    float *next = w->sum;
    const plan *only = &t->sizes[0].plans[w - t->works];
    for (size_t i = 0; i < w->weights; i++) {
        slices[i].value = weight_data(t, w, i);
        slices[i].n = weight_size(t, w, i);
        slices[i].gradient = next ? next : ck_exec_pointer(only->exec, only->outputs[1 + i]);
        if (next) next += slices[i].n;
    }
}

/* This process's share of the weights. */
static ck_status take_share(ck_trainer *t, work *w, const ck_trained *slices, ck_error *err) {
    size_t *sizes = ck_alloc_array(w->weights, sizeof *sizes);
    if (!sizes) return ck_fail_memory(err, "the optimiser");
    for (size_t i = 0; i < w->weights; i++) sizes[i] = slices[i].n;
    ck_status s = ck_shard_new(&t->world, t->backend, sizes, w->weights, PIECE, &w->shard, err);
    free(sizes);
    return s;
}

/* Whether moments must be brought to where a checkpoint is written from. */
static bool gathers(const ck_trainer *t) {
    return t->world.size > 1 || t->resident;
}

static ck_status make_sum(ck_trainer *t, work *w, ck_error *err) {
    size_t bytes = w->elements * sizeof *w->sum;
    if (!sums_up(t)) return CK_OK;
    w->sum = t->backend->alloc(bytes);
    return w->sum ? CK_OK : ck_backend_fail_memory(t->backend, "sums of gradients", bytes, err);
}

static ck_status make_optimizer(ck_trainer *t, work *w, ck_error *err) {
    CK_TRY(make_sum(t, w, err));
    ck_trained *slices = ck_alloc_array(w->weights, sizeof *slices);
    bool wholes = gathers(t) && t->world.rank == 0;
    if (wholes) w->whole = ck_alloc_array(w->elements, 2 * sizeof *w->whole);
    if (!slices || (wholes && !w->whole)) {
        free(slices);
        return ck_fail_memory(err, "the optimiser");
    }
    list_slices(t, w, slices);
    ck_status s = t->world.size > 1 ? take_share(t, w, slices, err) : CK_OK;
    size_t first = w->shard ? w->shard->first : 0, own = w->shard ? w->shard->own : w->weights;
    if (s == CK_OK) {
        w->optimizer = ck_optimizer_new(t->backend, slices + first, own, t->settings.adamw);
        if (!w->optimizer)
            s = ck_backend_fail_memory(t->backend, "the optimiser", 2 * w->elements * sizeof(float),
                                       err);
    }
    free(slices);
    return s;
}

/* What steps tell, which is less than anything else. */
static ck_status make_told(ck_trainer *t, ck_error *err) {
    for (size_t i = 0; i < t->d->part_count; i++) {
        t->works[i].told = t->told_bytes;
        t->told_bytes += (t->works[i].optimizer->count + t->settings.accumulate) * sizeof(double);
    }
    t->told = t->backend->alloc(t->told_bytes);
    t->heard = ck_alloc(t->told_bytes);
    if (!t->told) return ck_backend_fail_memory(t->backend, "losses", t->told_bytes, err);
    return t->heard ? CK_OK : ck_fail_memory(err, "losses");
}

static ck_status make_pairs(ck_trainer *t, ck_error *err) {
    size_t most = ck_params_count(t->d->student.params);
    for (size_t i = 0; i < t->d->part_count; i++)
        if (t->works[i].weights > most) most = t->works[i].weights;
    t->pairs = ck_alloc_array(most, sizeof *t->pairs);
    return t->pairs ? CK_OK : ck_fail_memory(err, "weights");
}

static double *squares_of(char *memory, const work *w) {
    return (double *)(memory + w->told);
}

static float *losses_of(char *memory, const work *w) {
    return (float *)(squares_of(memory, w) + w->optimizer->count);
}

ck_status ck_trainer_allocate(ck_trainer *t, size_t limit, ck_error *err) {
    size_t need = ck_trainer_peak(t) + ck_trainer_held(t);
    if (limit && need > limit)
        return ck_fail(err, CK_MEMORY,
                       "training needs %.1f MiB of memory, %.1f MiB are allowed: use a smaller "
                       "batch (and accumulate), or turn checkpointing on",
                       (double)need / 0x1p20, (double)limit / 0x1p20);
    /* The processor's weights are there already. */
    size_t more = need - (t->backend->host ? weights_bytes(t) : 0);
    CK_TRY(ck_backend_fits(t->backend, "training", more, err));
    if (t->world.size > 1) CK_TRY(ck_shard_join(&t->world, t->backend, err));
    CK_TRY(take_in(t, true, err));
    for (size_t i = 0; i < t->d->part_count; i++) {
        ck_exec *most = largest(t, i);
        CK_TRY(ck_exec_allocate(most, 0, err));
        for (size_t k = 0; k < t->size_count; k++)
            if (t->sizes[k].plans[i].exec != most)
                CK_TRY(ck_exec_borrow(t->sizes[k].plans[i].exec, most, err));
        CK_TRY(make_optimizer(t, &t->works[i], err));
    }
    CK_TRY(make_pairs(t, err));
    return make_told(t, err);
}

/* ---- Running ---- */

static ck_status feed(const ck_distill *d, ck_exec *e, ck_error *err) {
    for (size_t i = 0; i < d->feed_count; i++) {
        const ck_feed *f = &d->feeds[i];
        CK_TRY(ck_exec_write(e, f->node, f->value, f->n, err));
    }
    return CK_OK;
}

/* Gradients of a round into the sum, as the mean over all rounds and processes. */
static void add_gradients(ck_trainer *t, work *w, const plan *p) {
    float share = 1 / (float)(t->settings.accumulate * t->world.size), *sum = w->sum;
    for (size_t i = 0; i < w->weights; i++) {
        t->pairs[i] =
            (ck_pair){sum, ck_exec_pointer(p->exec, p->outputs[1 + i]), weight_size(t, w, i)};
        sum += t->pairs[i].n;
    }
    t->backend->updates->add(t->pairs, w->weights, share);
}

static ck_status run_part(ck_trainer *t, const sized *s, size_t part, size_t round, ck_error *err) {
    work *w = &t->works[part];
    const plan *p = &s->plans[part];
    CK_TRY(feed(s->d, p->exec, err));
    CK_TRY(ck_exec_run(p->exec, err));
    t->backend->copy(losses_of(t->told, w) + round, ck_exec_pointer(p->exec, p->loss),
                     sizeof(float));
    if (w->sum) add_gradients(t, w, p);
    return CK_OK;
}

static ck_status fill(ck_distill *d, const ck_data *data, ck_error *err) {
    bool text = d->context != CK_NONE;
    ck_batch b = {.seed = d->seed,
                  .round = d->round,
                  .total = d->total,
                  .first = d->first,
                  .count = d->batch,
                  .numbers = d->feeds[CK_FEED_X0].n,
                  .x0 = d->feeds[CK_FEED_X0].value,
                  .context = text ? d->feeds[CK_FEED_CONTEXT].value : NULL,
                  .no_context = text ? d->feeds[CK_FEED_NO_CONTEXT].value : NULL};
    ck_distill_noise(d, 0, d->feeds[CK_FEED_NOISE].value);
    CK_TRY(data->batch(data->self, &b, err));
    d->method->draw(d);
    return CK_OK;
}

/* From a part that has been run, what is not as it was. */
static ck_status carry(ck_trainer *t, const sized *s, ck_error *err) {
    size_t part = 0;
    while (!t->works[part].turn) part++;
    for (size_t i = 0; i < s->d->feed_count; i++) {
        ck_feed *f = &s->d->feeds[i];
        if (f->from != CK_NONE && f->from != f->node)
            CK_TRY(ck_exec_read(s->plans[part].exec, f->from, f->value, f->n, err));
    }
    return CK_OK;
}

/* The size of a round's samples, which knows then what time it is. */
static const sized *choose_size(ck_trainer *t, const ck_data *data) {
    const ck_distill *d = t->d;
    const sized *s = t->sizes;
    if (data->size) s += data->size(data->self, d->seed, d->round, d->total);
    s->d->seed = d->seed, s->d->step = d->step, s->d->steps = d->steps, s->d->round = d->round;
    return s;
}

/* The data of the next step, while a card computes this one: they are the same whenever they are
 * made, unless they are carried on from this step. */
static ck_status draw_ahead(ck_trainer *t, const ck_data *data, ck_error *err) {
    ck_distill *d = t->d;
    bool carries = false;
    for (size_t i = 0; i < d->feed_count; i++) carries |= d->feeds[i].from != CK_NONE;
    if (t->backend->host || carries || d->step + 1 >= d->steps) return CK_OK;
    const uint64_t step = d->step, round = d->round;
    d->step = step + 1;
    d->round = d->step * t->settings.accumulate;
    const sized *s = choose_size(t, data);
    ck_status status = fill(s->d, data, err);
    t->ahead = s, t->ahead_seed = d->seed, t->ahead_round = d->round;
    d->step = step, d->round = round;
    return status;
}

/* *s: the round's size. */
static ck_status run_round(ck_trainer *t, const ck_data *data, size_t round, const sized **s,
                           ck_error *err) {
    t->d->round = t->d->step * t->settings.accumulate + round;
    *s = choose_size(t, data);
    bool drawn = *s == t->ahead && t->d->seed == t->ahead_seed && t->d->round == t->ahead_round;
    t->ahead = NULL;
    if (!drawn) CK_TRY(fill((*s)->d, data, err));
    for (size_t i = 0; i < t->d->part_count; i++)
        if (t->works[i].turn) CK_TRY(run_part(t, *s, i, round, err));
    return CK_OK;
}

/* The copies that products read of the weights of a part, after these were changed: a function of
 * the weights and the optimiser's steps alone, so that they need not be kept. */
static void round_weights(const ck_trainer *t, const work *w) {
    size_t part = (size_t)(w - t->works);
    const ck_rounding how = {.seed = ck_random_key(t->d->seed, part),
                             .step = (uint32_t)w->optimizer->steps};
    const ck_rounding *chance = t->settings.by_chance && how.step ? &how : NULL;
    if (t->resident) ck_resident_round(t->resident, w->part.params, chance);
    if (t->resident && w->part.heads) ck_resident_round(t->resident, w->part.heads, chance);
}

/* The student so far is the teacher from here on. */
static void promote(ck_trainer *t) {
    ck_params *teacher = t->d->teacher.params, *student = t->d->student.params;
    if (t->resident) ck_resident_read(t->resident, student);
    ck_params_assign(teacher, student);
    if (t->resident) ck_resident_write(t->resident, teacher);
    ck_optimizer_reset(t->works[0].optimizer);
    round_weights(t, &t->works[0]);
}

/* All rounds of the parts that have their turn; and for each process the gradients of its share.
 * What is carried from the last round is read when all has been queued. */
static ck_status run_rounds(ck_trainer *t, const ck_data *data, ck_error *err) {
    size_t rounds = t->settings.accumulate;
    const sized *s = NULL;
    for (size_t k = 0; k < rounds; k++) {
        if (k > 0) CK_TRY(carry(t, s, err));
        CK_TRY(run_round(t, data, k, &s, err));
    }
    for (size_t i = 0; i < t->d->part_count; i++) {
        work *w = &t->works[i];
        if (!w->turn) continue;
        if (w->shard) CK_TRY(ck_shard_reduce(w->shard, w->sum, err));
        ck_optimizer_squares(w->optimizer, squares_of(t->told, w));
    }
    CK_TRY(draw_ahead(t, data, err));
    double start = ck_seconds();
    t->backend->read(t->heard, t->told, t->told_bytes);
    t->waited += ck_seconds() - start;
    return carry(t, s, err);
}

/* Loss and norm of a part, as it was heard; over all processes. */
static ck_status judge(ck_trainer *t, work *w, ck_error *err) {
    const float *losses = losses_of(t->heard, w);
    w->loss = 0;
    for (size_t k = 0; k < t->settings.accumulate; k++)
        w->loss += (double)losses[k] / (double)t->settings.accumulate;
    w->norm = ck_optimizer_norm(w->optimizer, squares_of(t->heard, w));
    if (!w->shard) return CK_OK;
    size_t size = t->world.size;
    double mine[2] = {w->loss, w->norm * w->norm}, squares = 0;
    double *all = ck_alloc_array(2 * size, sizeof *all);
    if (!all) return ck_fail_memory(err, "the loss");
    ck_status s = ck_world_gather(&t->world, mine, 2, all, err);
    w->loss = 0;
    for (size_t r = 0; r < size; r++)
        w->loss += all[2 * r] / (double)size, squares += all[2 * r + 1];
    w->norm = sqrt(squares);
    free(all);
    return s;
}

ck_status ck_trainer_run(ck_trainer *t, const ck_data *data, ck_trainer_report *report,
                         ck_error *err) {
    ck_distill *d = t->d;
    unsigned turns = d->method->turn ? d->method->turn(d) : ~0u;
    if (d->method->promote && d->method->promote(d)) promote(t);
    for (size_t i = 0; i < CK_DISTILL_PARTS; i++) {
        work *w = &t->works[i];
        w->loss = w->norm = NAN;
        w->turn = i < d->part_count && (turns >> i & 1);
        if (w->turn && w->sum) t->backend->zero(w->sum, w->elements * sizeof *w->sum);
    }
    CK_TRY(run_rounds(t, data, err));
    for (size_t i = 0; i < d->part_count; i++)
        if (t->works[i].turn) CK_TRY(judge(t, &t->works[i], err));
    const work *first = &t->works[0], *second = &t->works[1];
    *report = (ck_trainer_report){first->loss, first->norm, second->loss, second->norm};
    return CK_OK;
}

static float *place_of(const ck_trainer *t, const ck_params *p, size_t i) {
    return t->resident ? ck_resident_at(t->resident, p, i) : ck_params_data(p, i);
}

static void average(const ck_trainer *t, const ck_params *average, double keep) {
    const ck_params *student = t->d->student.params;
    size_t count = ck_params_count(student);
    for (size_t i = 0; i < count; i++)
        t->pairs[i] = (ck_pair){place_of(t, average, i), place_of(t, student, i),
                                ck_params_elements(student, i)};
    t->backend->updates->average(t->pairs, count, (float)(1 - keep));
    if (t->resident) ck_resident_round(t->resident, average, NULL);
}

/* The weights that each process made a step of, to all. (The sum is of no use any more.) */
static ck_status spread(ck_trainer *t, work *w, ck_error *err) {
    if (!w->shard) return CK_OK;
    size_t first = w->shard->first, end = first + w->shard->own, n;
    float *next = w->sum;
    for (size_t i = 0; i < w->weights; i++, next += n) {
        n = weight_size(t, w, i);
        if (i >= first && i < end) t->backend->copy(next, weight_data(t, w, i), n * sizeof *next);
    }
    CK_TRY(ck_shard_share(w->shard, w->sum, err));
    next = w->sum;
    for (size_t i = 0; i < w->weights; i++, next += n) {
        n = weight_size(t, w, i);
        if (i < first || i >= end) t->backend->copy(weight_data(t, w, i), next, n * sizeof *next);
    }
    return CK_OK;
}

ck_status ck_trainer_update(ck_trainer *t, double rate, ck_error *err) {
    for (size_t i = 0; i < t->d->part_count; i++) {
        work *w = &t->works[i];
        double clip = t->settings.clip, own = i ? rate * t->settings.rival : rate;
        if (!w->turn) continue;
        ck_optimizer_step(w->optimizer, own, clip > 0 && w->norm > clip ? clip / w->norm : 1);
        CK_TRY(spread(t, w, err));
        round_weights(t, w);
    }
    if (!t->works[0].turn) return CK_OK;
    if (t->d->average.params) average(t, t->d->average.params, t->settings.target);
    /* The average begins short, so that the first weights are soon forgotten. */
    double steps = (double)t->d->step + 1, ema = fmin(t->settings.ema, steps / (steps + 9));
    if (t->ema) average(t, t->ema, ema);
    return CK_OK;
}

/* ---- What lasts ---- */

static ck_status make_room(ck_trainer *t, ck_error *err) {
    const ck_distill *d = t->d;
    bool first = t->world.size > 1 && t->world.rank == 0;
    t->arrays = ck_alloc_array(d->part_count + d->feed_count, sizeof *t->arrays);
    t->carried = ck_alloc_array(d->feed_count, sizeof *t->carried);
    t->batches = ck_alloc_array(t->world.size, sizeof *t->batches);
    bool memory = t->arrays && t->carried && t->batches;
    for (size_t i = 0; i < d->feed_count && memory && first; i++)
        if (d->feeds[i].from != CK_NONE) {
            t->carried[i] = ck_alloc_array(d->feeds[i].n, t->world.size * sizeof(float));
            memory = t->carried[i];
        }
    return memory ? CK_OK : ck_fail_memory(err, "a checkpoint");
}

ck_status ck_trainer_state(ck_trainer *t, ck_state *state, ck_error *err) {
    ck_distill *d = t->d;
    bool several = t->world.size > 1;
    if (!t->arrays) CK_TRY(make_room(t, err));
    static const char *const moments[] = {"moments", "rival moments"};
    static const char *const steps[] = {"optimiser steps", "rival optimiser steps"};
    *state = (ck_state){.arrays = t->arrays, .counts = t->counts};
    for (size_t i = 0; i < d->part_count; i++) {
        ck_optimizer *o = t->works[i].optimizer;
        t->arrays[state->array_count++] = (ck_state_array){
            moments[i], gathers(t) ? t->works[i].whole : o->moments, 2 * t->works[i].elements};
        t->counts[state->count_count++] = (ck_state_count){steps[i], &o->steps};
    }
    for (size_t i = 0; i < d->feed_count; i++)
        if (d->feeds[i].from != CK_NONE)
            t->arrays[state->array_count++] =
                (ck_state_array){d->feeds[i].name, several ? t->carried[i] : d->feeds[i].value,
                                 d->feeds[i].n * t->world.size};
    return CK_OK;
}

static void move_weights(ck_trainer *t, ck_params *p, bool collect) {
    if (p && collect) ck_resident_read(t->resident, p);
    if (p && !collect) ck_resident_write(t->resident, p);
}

/* All that training changes, between the backend's memory and the program's. */
static void move_resident(ck_trainer *t, bool collect) {
    ck_distill *d = t->d;
    ck_params *teacher = d->method->promote ? d->teacher.params : NULL;
    ck_params *const all[] = {d->student.params, teacher,  d->average.params,
                              d->rival.params,   d->heads, t->ema};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) move_weights(t, all[i], collect);
    for (size_t i = 0; i < d->part_count && !collect; i++) round_weights(t, &t->works[i]);
}

/* The moments of one part. (Weights are whole in a share, so that moments lie in the whole as they
 * do in a part of it.) */
static ck_status move_moments(ck_trainer *t, work *w, bool collect, ck_error *err) {
    bool alone = t->world.size == 1;
    size_t n = w->optimizer->moment_count;
    float *moments = w->optimizer->moments, *part = moments;
    if (t->resident) part = alone ? w->whole : ck_alloc_array(n, sizeof *part);
    if (!part) return ck_fail_memory(err, "moments");
    for (size_t r = 0; r < t->world.size && !alone; r++) t->batches[r] = 2 * w->shard->counts[r];
    if (t->resident && collect) t->backend->read(part, moments, n * sizeof *part);
    ck_status s = alone     ? CK_OK
                  : collect ? ck_world_collect(&t->world, part, t->batches, w->whole, err)
                            : ck_world_deal(&t->world, part, t->batches, w->whole, err);
    if (t->resident && !collect) t->backend->write(moments, part, n * sizeof *part);
    if (t->resident && !alone) free(part);
    return s;
}

/* Every array of the state between process 0, where it is whole, and all, one way or the other. */
static ck_status move_state(ck_trainer *t, bool collect, ck_error *err) {
    const ck_world *world = &t->world;
    if (t->resident) move_resident(t, collect);
    if (world->size == 1 && !t->resident) return CK_OK;
    if (!t->arrays) CK_TRY(make_room(t, err));
    for (size_t i = 0; i < t->d->part_count; i++)
        CK_TRY(move_moments(t, &t->works[i], collect, err));
    if (world->size == 1) return CK_OK;
    for (size_t i = 0; i < t->d->feed_count; i++) {
        ck_feed *f = &t->d->feeds[i];
        if (f->from == CK_NONE) continue;
        for (size_t r = 0; r < world->size; r++) t->batches[r] = f->n;
        CK_TRY(collect ? ck_world_collect(world, f->value, t->batches, t->carried[i], err)
                       : ck_world_deal(world, f->value, t->batches, t->carried[i], err));
    }
    return CK_OK;
}

ck_status ck_trainer_collect(ck_trainer *t, ck_error *err) {
    return move_state(t, true, err);
}

ck_status ck_trainer_deal(ck_trainer *t, ck_error *err) {
    return move_state(t, false, err);
}

ck_params *ck_trainer_average(const ck_trainer *t) {
    return t->ema;
}

ck_params *ck_trainer_result(const ck_trainer *t) {
    return t->ema ? t->ema : t->d->student.params;
}

void ck_trainer_seconds(const ck_trainer *t, double *seconds) {
    for (int op = 0; op < CK_OP_COUNT; op++) {
        seconds[op] = 0;
        for (size_t i = 0; i < t->d->part_count; i++)
            for (size_t k = 0; k < t->size_count; k++)
                seconds[op] += ck_exec_seconds(t->sizes[k].plans[i].exec)[op];
    }
}

double ck_trainer_waited(const ck_trainer *t) {
    return t->waited;
}
