/* From a config to everything that a run needs in memory. See run.h. */
#include "distill/run/run_int.h"

#include "io/os.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDINGS "nearest|stochastic"
#define LOSSES    "l2|l1|huber|pseudo_huber|smooth"

/* "finetune|pd|...", of the table. */
static char *method_names(void) {
    char *all = ck_strdup("");
    for (size_t i = 0; all && ck_distill_method_at(i); i++) {
        char *longer = ck_sprintf("%s%s%s", all, i ? "|" : "", ck_distill_method_at(i)->name);
        free(all);
        all = longer;
    }
    return all;
}

static ck_status read_method(ck_session *r, ck_error *err) {
    ck_config *c = r->config;
    char *names = method_names();
    if (!names) return ck_fail_memory(err, "methods");
    size_t which;
    ck_status s = ck_config_choice(c, "method.name", names, 0, &which, err);
    free(names);
    if (s != CK_OK) return s;
    r->d.method = ck_distill_method_at(which);
    for (size_t i = 0; r->d.method->settings[i].name; i++) {
        const ck_setting *setting = &r->d.method->settings[i];
        char key[96];
        snprintf(key, sizeof key, "method.%s", setting->name);
        CK_TRY(ck_config_number(c, key, setting->fallback, setting->min, setting->max,
                                &r->d.setting[i], err));
    }
    return CK_OK;
}

static ck_status read_loss(ck_session *r, ck_error *err) {
    ck_config *c = r->config;
    size_t loss;
    CK_TRY(ck_config_choice(c, "loss", LOSSES, r->d.method->loss, &loss, err));
    r->d.loss = (ck_loss)loss;
    CK_TRY(ck_config_number(c, "huber", 0.001, 0, INFINITY, &r->d.huber, err));
    CK_TRY(ck_config_number(c, "guidance", 1, 0, 100, &r->d.guidance, err));
    return ck_config_bool(c, "heun", r->task->teacher_walk == CK_WALK_HEUN, &r->d.heun, err);
}

static ck_status read_optimiser(ck_session *r, ck_error *err) {
    ck_config *c = r->config;
    ck_adamw *a = &r->settings.adamw;
    uint64_t accumulate;
    size_t shape, rounding;
    CK_TRY(ck_config_number(c, "adamw.beta1", 0.9, 0, 1, &a->beta1, err));
    CK_TRY(ck_config_number(c, "adamw.beta2", 0.999, 0, 1, &a->beta2, err));
    CK_TRY(ck_config_number(c, "adamw.eps", 1e-8, 0, 1, &a->eps, err));
    CK_TRY(ck_config_number(c, "adamw.decay", 0, 0, 1, &a->decay, err));
    CK_TRY(ck_config_choice(c, "adamw.rounding", ROUNDINGS, 0, &rounding, err));
    r->settings.by_chance = rounding == 1;
    CK_TRY(ck_config_number(c, "clip", 1, 0, INFINITY, &r->settings.clip, err));
    CK_TRY(ck_config_number(c, "ema", 0.999, 0, 1, &r->settings.ema, err));
    CK_TRY(ck_config_number(c, "target", 0.95, 0, 1, &r->settings.target, err));
    CK_TRY(ck_config_number(c, "rival", 1, 0, 1000, &r->settings.rival, err));
    CK_TRY(ck_config_count(c, "accumulate", 1, 1, 1 << 20, &accumulate, err));
    r->settings.accumulate = accumulate;
    CK_TRY(ck_config_choice(c, "rate.shape", CK_RATE_SHAPES, CK_RATE_COSINE, &shape, err));
    r->rate.shape = (ck_rate_shape)shape;
    CK_TRY(ck_config_number(c, "rate.peak", 1e-4, 0, 1, &r->rate.peak, err));
    CK_TRY(ck_config_count(c, "rate.warmup", 0, 0, UINT32_MAX, &r->rate.warmup, err));
    CK_TRY(ck_config_number(c, "rate.least", 0, 0, 1, &r->rate.least, err));
    r->rate.steps = r->d.steps;
    return CK_OK;
}

static ck_status read_evaluation(ck_session *r, ck_error *err) {
    ck_config *c = r->config;
    static const double usual[] = {1, 2, 4};
    const double *steps;
    size_t walk;
    CK_TRY(ck_config_count(c, "evaluate.every", 0, 0, UINT32_MAX, &r->evaluate_every, err));
    CK_TRY(
        ck_config_numbers(c, "evaluate.steps", usual, 3, 1, 1000, &steps, &r->judged_count, err));
    if (r->judged_count > CK_RUN_STEPS)
        return ck_config_fail(c, "evaluate.steps", err, "more than %d numbers", CK_RUN_STEPS);
    for (size_t i = 0; i < r->judged_count; i++) r->judged[i] = (size_t)steps[i];
    /* The student has guidance inside, and is told the scale if it wants to know. */
    double told = ck_network_guided(&r->task->student) ? r->d.guidance : 1;
    CK_TRY(ck_config_number(c, "evaluate.guidance", told, 0, 100, &r->judged_guidance, err));
    CK_TRY(ck_config_bool(c, "evaluate.teacher", true, &r->judges_teacher, err));
    ck_walk usual_walk = r->d.method->steps == CK_STEPS_DDIM ? CK_WALK_DDIM : CK_WALK_CONSISTENCY;
    CK_TRY(ck_config_choice(c, "evaluate.walk", CK_WALKS, usual_walk, &walk, err));
    r->walk = (ck_walk)walk;
    return CK_OK;
}

/* Whether student and teacher have the same weights, so that one is the other and a difference. */
static bool is_alike(const ck_session *r) {
    const ck_task *t = r->task;
    return t->teacher.params && ck_network_same_blocks(&t->student, &t->teacher) &&
           ck_network_guided(&t->student) == ck_network_guided(&t->teacher);
}

static ck_status read_as_lora(ck_session *r, ck_error *err) {
    CK_TRY(ck_config_count(r->config, "as_lora", 0, 1, 1 << 16, &r->as_lora, err));
    if (r->as_lora && r->adapter.rank)
        return ck_config_fail(r->config, "as_lora", err, "with lora.rank the student is one");
    if (r->as_lora && !is_alike(r))
        return ck_config_fail(r->config, "as_lora", err,
                              "the student has other weights than its teacher (or there is none)");
    return CK_OK;
}

static ck_status read_saving(ck_session *r, ck_error *err) {
    ck_config *c = r->config;
    static const ck_dtype dtypes[] = {CK_F32, CK_F16, CK_BF16};
    size_t dtype;
    CK_TRY(ck_config_count(c, "save_every", r->d.steps, 1, UINT32_MAX, &r->save_every, err));
    CK_TRY(ck_config_count(c, "log_every", 20, 1, UINT32_MAX, &r->log_every, err));
    CK_TRY(ck_config_count(c, "keep.last", 2, 1, 1000, &r->keep.last, err));
    CK_TRY(ck_config_count(c, "keep.best", 1, 0, 1000, &r->keep.best, err));
    CK_TRY(ck_config_count(c, "keep.every", 0, 0, UINT32_MAX, &r->keep.every, err));
    CK_TRY(ck_config_choice(c, "dtype", "f32|f16|bf16", 0, &dtype, err));
    r->dtype = dtypes[dtype];
    return read_as_lora(r, err);
}

/* How the run was computed, before anything is chosen again. */
static ck_status take_plans(ck_session *r, ck_error *err) {
    char *path = ck_run_path(r, "plans.json");
    if (!path) return ck_fail_memory(err, r->folder);
    ck_status s = ck_plans_take(&r->plans, path, r->change, err);
    free(path);
    bool any;
    if (s == CK_OK) s = ck_world_any(&r->world, r->change[0], &any, err);
    if (s == CK_OK && any && !r->change[0])
        snprintf(r->change, sizeof r->change,
                 "another process has another card, or other versions");
    return s;
}

static ck_status read_basics(ck_session *r, const ck_backend **backend, size_t *batch,
                             ck_error *err) {
    ck_config *c = r->config;
    uint64_t threads, size;
    double memory;
    const char *name;
    CK_TRY(ck_config_count(c, "steps", 10000, 1, UINT32_MAX, &r->d.steps, err));
    CK_TRY(ck_config_count(c, "batch", 64, 1, 1 << 20, &size, err));
    CK_TRY(ck_config_count(c, "seed", 0, 0, UINT64_MAX, &r->seed, err));
    CK_TRY(ck_config_count(c, "threads", (uint64_t)omp_get_max_threads(), 1, 4096, &threads, err));
    CK_TRY(ck_config_number(c, "memory", 0, 0, INFINITY, &memory, err));
    CK_TRY(ck_config_text(c, "backend", "cpu", &name, err));
    omp_set_num_threads((int)threads);
    r->memory = (size_t)(memory * 0x1p30);
    *batch = size;
    CK_TRY(ck_backend_open(name, backend, err));
    if ((*backend)->element != sizeof(float))
        return ck_fail(err, CK_USAGE, "backend '%s' does not train: its numbers are not f32", name);
    r->plans.backend = *backend;
    if (r->goes_on) CK_TRY(take_plans(r, err));
    /* (A run goes on where it began, not where there happens to be a card.) */
    return ck_config_decide(c, "backend", (*backend)->name, err);
}

static ck_status read_guard(ck_session *r, ck_error *err) {
    ck_guard_rules *g = &r->guard.rules;
    *g = ck_guard_rules_default();
    CK_TRY(ck_config_number(r->config, "guard.factor", g->factor, 0, INFINITY, &g->factor, err));
    CK_TRY(ck_config_number(r->config, "guard.high", g->high, 1, INFINITY, &g->high, err));
    CK_TRY(ck_config_number(r->config, "guard.warmup", g->warmup, 0, INFINITY, &g->warmup, err));
    return ck_config_number(r->config, "guard.skips", g->skips, 0, INFINITY, &g->skips, err);
}

static ck_status new_params(const ck_session *r, ck_params **p, ck_error *err) {
    *p = ck_params_new(r->seed);
    if (!*p) return ck_fail_memory(err, "weights");
    if (r->task->how == CK_OPEN_PLAN) ck_params_hollow(*p);
    return CK_OK;
}

/* The student as factors beside weights that stay: the teacher's, unless it has a file of its own.
 */
static ck_status read_adapter(ck_session *r, ck_error *err) {
    ck_config *c = r->config;
    ck_adapter *a = &r->adapter;
    size_t count;
    const char *const *targets = ck_adapter_targets(&count);
    CK_TRY(ck_config_count(c, "lora.rank", 0, 1, 1 << 16, &a->rank, err));
    if (!a->rank) return CK_OK;
    CK_TRY(ck_config_number(c, "lora.alpha", (double)a->rank, 1e-6, INFINITY, &a->alpha, err));
    CK_TRY(ck_config_texts(c, "lora.targets", targets, count, &a->targets, &a->target_count, err));
    bool own = ck_config_has(c, "student") || !r->task->teacher.params ||
               !ck_network_same_blocks(&r->task->student, &r->task->teacher);
    if (!own && ck_network_guided(&r->task->student) != ck_network_guided(&r->task->teacher))
        return ck_config_fail(c, "guidance_width", err,
                              "a LoRA has no embedding of guidance; train the whole network");
    a->base = own ? r->task->student.params : r->task->teacher.params;
    return new_params(r, &r->factors, err);
}

/* Which networks there are, as far as they are not copies. */
static ck_status choose_networks(ck_session *r, ck_error *err) {
    ck_distill *d = &r->d;
    d->teacher = r->task->teacher;
    d->student = r->task->student;
    d->rival = d->teacher;
    d->rival.params = NULL;
    if (d->method->teacher && !d->teacher.params)
        return ck_config_fail(r->config, "teacher", err, "method '%s' needs a teacher",
                              d->method->name);
    if (d->method->promote && ck_network_guided(&d->teacher) != ck_network_guided(&d->student))
        return ck_config_fail(r->config, "guidance_width", err,
                              "in method '%s' the student becomes the teacher, so that it cannot "
                              "take what the teacher does not",
                              d->method->name);
    if (!d->method->free && !r->task->has_data)
        return ck_config_fail(r->config, "data.prompts", err,
                              "method '%s' needs images, not only captions", d->method->name);
    if (r->adapter.rank) {
        if (d->method->promote && r->adapter.base != d->teacher.params)
            return ck_config_fail(r->config, "student", err,
                                  "in method '%s' the student becomes the teacher: as a LoRA it "
                                  "must begin as the teacher",
                                  d->method->name);
        r->rival_adapter = r->adapter;
        r->rival_adapter.base = d->teacher.params;
        d->student.params = r->factors;
        d->student.adapter = &r->adapter;
        d->rival.adapter = &r->rival_adapter;
        if (d->method->promote) d->teacher = d->student;
    }
    d->average = d->student;
    d->average.params = NULL;
    return CK_OK;
}

/* Copies where a method asks for more networks than the teacher and the student. */
static ck_status copy_networks(ck_session *r, ck_error *err) {
    ck_distill *d = &r->d;
    const ck_params *rival = d->rival.adapter ? r->factors : r->task->teacher.params;
    /* A teacher that is replaced on the way is a copy: the task's own is what is compared with. */
    if (d->method->promote) CK_TRY(ck_params_copy(d->teacher.params, &d->teacher.params, err));
    if (d->method->average) CK_TRY(ck_params_copy(d->student.params, &d->average.params, err));
    if (d->method->rival) CK_TRY(ck_params_copy(rival, &d->rival.params, err));
    return d->method->heads ? new_params(r, &d->heads, err) : CK_OK;
}

/* The graphs of the data's other sizes, of the same weights. */
static ck_status add_sizes(ck_session *r, ck_error *err) {
    if (r->task->size_count < 2) return CK_OK;
    r->others = ck_alloc_array(r->task->size_count - 1, sizeof *r->others);
    if (!r->others) return ck_fail_memory(err, "sizes");
    for (size_t i = 1; i < r->task->size_count; i++) {
        ck_distill *d = &r->others[r->other_count++];
        *d = ck_distill_resized(&r->d, r->task->sizes[i].shape, r->task->sizes[i].process);
        CK_TRY(ck_distill_build(d, r->task->tokens, r->task->width, err));
        CK_TRY(ck_trainer_add(r->trainer, d, err));
    }
    return CK_OK;
}

static ck_status open_data(ck_session *r, ck_error *err) {
    const ck_feed *f = r->d.feeds;
    size_t most = f[CK_FEED_X0].n;
    for (size_t i = 0; i < r->other_count; i++)
        if (r->others[i].feeds[CK_FEED_X0].n > most) most = r->others[i].feeds[CK_FEED_X0].n;
    r->data = r->task->data;
    if (!r->task->from_file) return CK_OK;
    size_t context = r->d.context == CK_NONE ? 0 : f[CK_FEED_CONTEXT].n;
    CK_TRY(ck_prefetch_new(&r->task->data, most, context, &r->prefetch, err));
    r->data = ck_prefetch_data(r->prefetch);
    return CK_OK;
}

ck_status ck_run_open(ck_session *r, ck_opening how, ck_error *err) {
    const ck_backend *backend;
    size_t batch;
    r->settings.world = &r->world;
    CK_TRY(read_basics(r, &backend, &batch, err));
    CK_TRY(read_method(r, err));
    if (batch % r->world.size)
        return ck_config_fail(r->config, "batch", err, "cannot be shared by %zu processes evenly",
                              r->world.size);
    size_t part = batch / r->world.size;
    CK_TRY(ck_task_open(r->config, backend, r->seed, part, how, &r->task, err));
    CK_TRY(read_adapter(r, err));
    CK_TRY(read_loss(r, err));
    CK_TRY(read_optimiser(r, err));
    CK_TRY(read_evaluation(r, err));
    CK_TRY(read_saving(r, err));
    CK_TRY(read_guard(r, err));
    CK_TRY(ck_config_check(r->config, err));
    r->d.process = r->task->sizes ? r->task->sizes[0].process : r->task->process;
    r->d.shape = r->task->sizes ? r->task->sizes[0].shape : r->task->shape;
    r->d.batch = part;
    r->d.first = r->world.rank * part;
    r->d.seed = r->seed;
    r->d.total = batch;
    CK_TRY(choose_networks(r, err));
    CK_TRY(copy_networks(r, err));
    CK_TRY(ck_distill_build(&r->d, r->task->tokens, r->task->width, err));
    if (r->adapter.rank && !ck_params_count(r->factors))
        return ck_config_fail(r->config, "lora.targets", err, "no layer has such a name");
    CK_TRY(ck_trainer_new(&r->d, backend, &r->settings, &r->trainer, err));
    CK_TRY(add_sizes(r, err));
    return open_data(r, err);
}

void ck_run_shut(ck_session *r) {
    ck_prefetch_free(r->prefetch);
    ck_runlog_close(r->log);
    ck_trainer_free(r->trainer);
    ck_distill_clear(&r->d);
    for (size_t i = 0; i < r->other_count; i++) ck_distill_clear(&r->others[i]);
    free(r->others);
    ck_params_free(r->d.average.params);
    ck_params_free(r->d.rival.params);
    ck_params_free(r->d.heads);
    if (r->d.method && r->d.method->promote && r->d.teacher.params != r->task->teacher.params &&
        r->d.teacher.params != r->factors)
        ck_params_free(r->d.teacher.params);
    ck_run_forget(r);
    ck_params_free(r->factors);
    ck_task_close(r->task);
    *r = (ck_session){
        .folder = r->folder, .options = r->options, .world = r->world, .config = r->config};
}

void ck_run_close(ck_session *r) {
    ck_run_shut(r);
    ck_config_free(r->config);
}

char *ck_run_path(const ck_session *r, const char *name) {
    return ck_sprintf("%s/%s", r->folder, name);
}
