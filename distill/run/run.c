/* The loop of a run, see run.h. */
#include "distill/run/run_int.h"

#include "distill/engine/cost.h"
#include "distill/run/shard.h"
#include "io/interrupt.h"
#include "io/os.h"
#include "io/progress.h"
#include "io/writer.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Words ---- */

static void say(const ck_session *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(const ck_session *r, const char *format, ...) {
    if (r->options->quiet || r->world.rank) return;
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
}

static void describe(const ck_session *r) {
    char arena[32], held[32];
    ck_format_bytes(arena, sizeof arena, ck_trainer_peak(r->trainer));
    ck_format_bytes(held, sizeof held, ck_trainer_held(r->trainer));
    say(r,
        "%s on %s, by %s, batch %zu x %zu, %llu steps; %.2f million parameters trained%s; memory: "
        "%s for a step, %s for weights\n",
        r->d.method->name, r->task->kind->name, r->task->backend->name, r->d.total,
        r->settings.accumulate, (unsigned long long)r->d.steps,
        (double)ck_trainer_trained(r->trainer) / 1e6, r->adapter.rank ? ", of a LoRA" : "", arena,
        held);
}

/* A step's seconds, of those since the start that were steps and nothing else. */
static double seconds_each(const ck_session *r) {
    return r->stepped ? r->stepping / (double)r->stepped : 0;
}

static double samples_each_second(const ck_session *r) {
    return (double)(r->d.total * r->settings.accumulate) / fmax(seconds_each(r), 1e-9);
}

static const char *clock_text(char text[32], double seconds) {
    snprintf(text, 32, "%02d:%02d:%02d", (int)(seconds / 3600), (int)(seconds / 60) % 60,
             (int)seconds % 60);
    return text;
}

/* On a terminal a line that is redrawn, elsewhere one line a log entry. */
static void show(const ck_session *r, const ck_trainer_report *report, double rate, double memory) {
    if (r->options->quiet || r->world.rank) return;
    char left[32], bytes[32];
    bool terminal = isatty(STDERR_FILENO);
    fprintf(stderr,
            "%sstep %llu/%llu  loss %.5g  grad %.3g  rate %.3g  %.0f samples/s  %s  %s left%s",
            terminal ? "\r" : "", (unsigned long long)r->done, (unsigned long long)r->d.steps,
            report->loss, report->norm, rate, samples_each_second(r),
            ck_format_bytes(bytes, sizeof bytes, (uint64_t)memory),
            clock_text(left, seconds_each(r) * (double)(r->d.steps - r->done)),
            terminal ? "\x1b[K" : "\n");
}

static ck_status event(ck_session *r, const char *name, const char *text, ck_error *err) {
    if (r->world.rank) return CK_OK;
    return ck_runlog_append(r->log, &(ck_log_record){.step = r->done, .event = name, .text = text},
                            err);
}

/* What its libraries have chosen since it was asked last; all of it, if anew. */
static ck_status keep_plans(ck_session *r, bool anew, ck_error *err) {
    if (r->world.rank) return CK_OK;
    char *path = ck_run_path(r, "plans.json");
    if (!path) return ck_fail_memory(err, r->folder);
    ck_status s = anew ? ck_plans_begin(&r->plans, path, err) : ck_plans_keep(&r->plans, path, err);
    free(path);
    return s;
}

/* ---- What lasts ---- */

enum { MOST_WEIGHTS = 6 };

typedef struct saved {
    ck_checkpoint_weights weights[MOST_WEIGHTS];
    size_t count;
    ck_state_count counts[8];
    ck_state_number numbers[8];
    ck_checkpoint what;
} saved;

static void add_weights(saved *s, const char *name, ck_params *params) {
    if (params) s->weights[s->count++] = (ck_checkpoint_weights){name, params};
}

/* All that a step depends on. Points into r. */
static ck_status gather(ck_session *r, saved *s, ck_error *err) {
    *s = (saved){0};
    add_weights(s, "student", r->d.student.params);
    add_weights(s, "average", ck_trainer_average(r->trainer));
    add_weights(s, "target", r->d.average.params);
    add_weights(s, "rival", r->d.rival.params);
    add_weights(s, "heads", r->d.heads);
    if (r->d.method->promote) add_weights(s, "teacher", r->d.teacher.params);
    s->what.weights = s->weights;
    s->what.weights_count = s->count;
    ck_state *state = &s->what.state;
    CK_TRY(ck_trainer_state(r->trainer, state, err));
    memcpy(s->counts, state->counts, state->count_count * sizeof *s->counts);
    s->counts[state->count_count++] = (ck_state_count){"steps done", &r->done};
    state->counts = s->counts;
    const ck_state_number numbers[] = {{"guard mean", &r->guard.mean},
                                       {"guard seen", &r->guard.seen},
                                       {"guard skipped", &r->guard.skipped},
                                       {"guard high", &r->guard.high},
                                       {"rollbacks", &r->rollbacks}};
    memcpy(s->numbers, numbers, sizeof numbers);
    state->numbers = s->numbers;
    state->number_count = sizeof numbers / sizeof *numbers;
    return CK_OK;
}

static ck_status write_checkpoint(ck_session *r, const saved *s, ck_error *err) {
    CK_TRY(ck_checkpoint_save(r->folder, r->done, &s->what, err));
    CK_TRY(ck_checkpoint_rotate(r->folder, &r->keep, err));
    return event(r, "saved", NULL, err);
}

static ck_status save(ck_session *r, ck_error *err) {
    saved s;
    CK_TRY(gather(r, &s, err));
    CK_TRY(ck_trainer_collect(r->trainer, err));
    r->rollbacks = r->guard.rollbacks;
    return ck_world_agree(&r->world, r->world.rank ? CK_OK : write_checkpoint(r, &s, err), err);
}

/* After a rollback everything random is drawn anew, and slower. */
static void set_rollbacks(ck_session *r, double rollbacks) {
    r->guard.rollbacks = r->rollbacks = rollbacks;
    r->d.seed = r->seed + (uint64_t)rollbacks * 0x9e3779b97f4a7c15u;
}

static ck_status read_checkpoint(ck_session *r, const saved *s, ck_error *err) {
    ck_checkpoint_found found;
    CK_TRY(ck_checkpoint_load(r->folder, &s->what, &found, err));
    if (found.warning[0]) say(r, "%s\n", found.warning);
    return CK_OK;
}

/* What process 0 has loaded, to all. */
static ck_status send_loaded(ck_session *r, const saved *s, ck_error *err) {
    for (size_t i = 0; i < s->count; i++)
        for (size_t k = 0; k < ck_params_count(s->weights[i].params); k++)
            CK_TRY(ck_world_send(&r->world, ck_params_data(s->weights[i].params, k),
                                 ck_params_elements(s->weights[i].params, k) * sizeof(float), err));
    for (size_t i = 0; i < s->what.state.count_count; i++)
        CK_TRY(ck_world_send(&r->world, s->counts[i].value, sizeof *s->counts[i].value, err));
    for (size_t i = 0; i < s->what.state.number_count; i++)
        CK_TRY(ck_world_send(&r->world, s->numbers[i].value, sizeof *s->numbers[i].value, err));
    return ck_trainer_deal(r->trainer, err);
}

static ck_status load(ck_session *r, ck_error *err) {
    saved s;
    CK_TRY(gather(r, &s, err));
    CK_TRY(ck_world_agree(&r->world, r->world.rank ? CK_OK : read_checkpoint(r, &s, err), err));
    CK_TRY(send_loaded(r, &s, err));
    set_rollbacks(r, r->rollbacks);
    return CK_OK;
}

static ck_status open_log(ck_session *r, ck_error *err) {
    if (r->world.rank) return CK_OK;
    char *path = ck_run_path(r, "log.jsonl");
    if (!path) return ck_fail_memory(err, r->folder);
    ck_status s = ck_runlog_open(path, r->done, &r->log, err);
    free(path);
    return s;
}

static ck_status roll_back(ck_session *r, const char *why, ck_error *err) {
    double rollbacks = r->guard.rollbacks;
    uint64_t from = r->done;
    CK_TRY(event(r, "rollback", why, err));
    CK_TRY(load(r, err));
    set_rollbacks(r, rollbacks);
    say(r, "\nstep %llu: %s; back to step %llu, with other random numbers and half the rate\n",
        (unsigned long long)from, why, (unsigned long long)r->done);
    ck_runlog_close(r->log);
    r->log = NULL;
    return open_log(r, err);
}

/* ---- A step ---- */

static ck_status log_step(ck_session *r, const ck_trainer_report *report, double rate,
                          ck_error *err) {
    double memory = (double)ck_proc_bytes("/proc/self/status", "VmRSS:");
    ck_log_value values[7] = {
        {"loss", report->loss}, {"grad_norm", report->norm},
        {"lr", rate},           {"samples_per_s", samples_each_second(r)},
        {"memory", memory},
    };
    size_t count = 5;
    if (r->d.part_count > 1) {
        values[count++] = (ck_log_value){"rival_loss", report->rival_loss};
        values[count++] = (ck_log_value){"rival_grad_norm", report->rival_norm};
    }
    show(r, report, rate, memory);
    if (r->world.rank) return CK_OK;
    return ck_runlog_append(
        r->log, &(ck_log_record){.step = r->done, .values = values, .count = count}, err);
}

/* The worse of the two parts that have a turn. */
static ck_verdict judge(ck_session *r, const ck_trainer_report *p) {
    bool first = !(isnan(p->loss) && isnan(p->norm)) || r->d.part_count == 1 ||
                 (r->d.method->turn(&r->d) & 1);
    if (r->d.part_count > 1 && !(isfinite(p->rival_loss) && isfinite(p->rival_norm)))
        return ck_guard_judge(&r->guard, NAN, NAN);
    return first ? ck_guard_judge(&r->guard, p->loss, p->norm) : CK_GUARD_OK;
}

static ck_status step(ck_session *r, ck_error *err) {
    ck_trainer_report report;
    r->d.step = r->done;
    const ck_distill_method *m = r->d.method;
    if ((m->promote && m->promote(&r->d)) || (m->anew && m->anew(&r->d)))
        ck_guard_forget(&r->guard);
    double rate = ck_rate_at(&r->rate, r->done) * pow(0.5, r->guard.rollbacks);
    double start = ck_seconds();
    CK_TRY(ck_trainer_run(r->trainer, &r->data, &report, err));
    switch (judge(r, &report)) {
    case CK_GUARD_OK:
        CK_TRY(ck_trainer_update(r->trainer, rate, err));
        break;
    case CK_GUARD_SKIP:
        CK_TRY(event(r, "nan", "the loss or its gradient is no number; step left out", err));
        break;
    case CK_GUARD_ROLLBACK:
        return roll_back(r, "the loss is no number, or far above what it was", err);
    case CK_GUARD_GIVE_UP:
        return ck_fail(err, CK_INPUT,
                       "%s: the loss went astray again after every rollback; the last checkpoint "
                       "is good. Try a lower rate.peak, or more clipping",
                       r->folder);
    }
    r->done++;
    r->stepped++;
    r->stepping += ck_seconds() - start;
    /* Where the student has no turn, its last loss is shown. */
    if (isfinite(report.loss)) r->loss = report.loss, r->norm = report.norm;
    report.loss = r->loss, report.norm = r->norm;
    return r->done % r->log_every == 0 || r->done == r->d.steps ? log_step(r, &report, rate, err)
                                                                : CK_OK;
}

static ck_status stop(ck_session *r, ck_error *err) {
    CK_TRY(save(r, err));
    CK_TRY(event(r, "stopped", "on request", err));
    return ck_fail(err, CK_CANCELLED,
                   "stopped after step %llu, and saved; `ckdistill resume %s` goes on",
                   (unsigned long long)r->done, r->folder);
}

/* Process 0 alone judges; the others wait. */
static ck_status judge_run(ck_session *r, ck_error *err) {
    return ck_world_agree(&r->world, r->world.rank ? CK_OK : ck_run_judge(r, err), err);
}

static ck_status loop(ck_session *r, ck_error *err) {
    r->loss = r->norm = NAN;
    r->began = ck_seconds();
    while (r->done < r->d.steps) {
        uint64_t before = r->done;
        CK_TRY(step(r, err));
        CK_TRY(keep_plans(r, false, err));
        bool asked;
        CK_TRY(ck_world_any(&r->world, ck_interrupt_asked(), &asked, err));
        if (asked) return stop(r, err);
        if (r->done <= before || r->done == r->d.steps) continue;
        bool judged = r->evaluate_every && r->done % r->evaluate_every == 0;
        if (judged || r->done % r->save_every == 0) CK_TRY(save(r, err));
        if (judged) CK_TRY(judge_run(r, err));
    }
    return CK_OK;
}

static ck_status write_results(ck_session *r, ck_error *err) {
    CK_TRY(ck_run_export(r, err));
    CK_TRY(ck_run_describe(r, ck_seconds() - r->began, err));
    CK_TRY(ck_run_judge(r, err));
    CK_TRY(event(r, "finished", NULL, err));
    say(r, "\n%s/student.safetensors is made; `ckdistill report %s` shows how\n", r->folder,
        r->folder);
    return CK_OK;
}

static ck_status finish(ck_session *r, ck_error *err) {
    CK_TRY(save(r, err));
    return ck_world_agree(&r->world, r->world.rank ? CK_OK : write_results(r, err), err);
}

static ck_status go(ck_session *r, ck_error *err) {
    ck_interrupt_begin("\nfinishing this step, then saving; once more stops at once\n");
    ck_status s = loop(r, err);
    ck_interrupt_end();
    return s == CK_OK ? finish(r, err) : s;
}

/* ---- Dry runs ---- */

/* How many steps of a hundred a part has its turn in, over a hundred. */
static double share_of(ck_session *r, size_t part) {
    enum { LOOKED_AT = 100 };
    if (!r->d.method->turn) return 1;
    double turns = 0;
    for (r->d.step = 0; r->d.step < LOOKED_AT; r->d.step++)
        turns += r->d.method->turn(&r->d) >> part & 1;
    return turns / LOOKED_AT;
}

static void say_time(const ck_session *r, const char *about, double each) {
    char text[32];
    say(r, "%s%.3g s a step, %.3g samples/s: %s for all steps, without evaluations\n", about, each,
        (double)(r->d.total * r->settings.accumulate) / each,
        clock_text(text, each * (double)r->d.steps));
}

/* The time of a step whose operations are counted, but not made. */
static ck_status guess_time(ck_session *r, const char *why, ck_error *err) {
    double operations = 0, speed;
    for (size_t i = 0; i < r->d.part_count; i++)
        operations += share_of(r, i) * ck_trainer_operations(r->trainer, i);
    operations *= (double)r->settings.accumulate;
    CK_TRY(ck_cost_speed(r->task->backend, &speed, err));
    say(r, "%s: no step was timed. By its %.3g operations, at this machine's %.0f GFLOP/s:\n", why,
        operations, speed / 1e9);
    say_time(r, "about ", operations / speed);
    return CK_OK;
}

/* The second and third step, on the clock: the first one makes everything ready. */
static ck_status take_time(ck_session *r, ck_error *err) {
    enum { TIMED = 2 };
    double start = 0;
    CK_TRY(ck_trainer_allocate(r->trainer, r->memory, err));
    for (int i = 0; i <= TIMED; i++) {
        ck_trainer_report report;
        if (i == 1) start = ck_seconds();
        r->d.step = (uint64_t)i;
        CK_TRY(ck_trainer_run(r->trainer, &r->data, &report, err));
        CK_TRY(ck_trainer_update(r->trainer, 0, err));
    }
    say_time(r, "", (ck_seconds() - start) / TIMED);
    return CK_OK;
}

/* First the plan, which needs next to nothing; only what fits is opened and tried. */
static ck_status estimate(ck_session *r, ck_error *err) {
    char text[32], why[96];
    CK_TRY(ck_run_open(r, CK_OPEN_PLAN, err));
    describe(r);
    size_t need = ck_trainer_peak(r->trainer) + ck_trainer_held(r->trainer), there, all;
    r->task->backend->memory(&there, &all);
    if (r->task->absent) return guess_time(r, "the model's weights are not there", err);
    if (there > 0 && need > there) {
        ck_format_bytes(text, sizeof text, there);
        snprintf(why, sizeof why, "this machine has %s to give, which is too little", text);
        return guess_time(r, why, err);
    }
    ck_run_shut(r);
    CK_TRY(ck_run_open(r, CK_OPEN_DRY, err));
    return take_time(r, err);
}

/* ---- Starting ---- */

/* After an error the other processes are not waited for: mpirun ends them. */
static ck_status close_session(ck_session *r, ck_status status) {
    const ck_backend *backend = r->plans.backend;
    ck_run_close(r);
    if (status != CK_OK && status != CK_CANCELLED) return status;
    if (backend) ck_shard_leave(backend);
    ck_world_close(&r->world);
    return status;
}

static ck_status make_folder(const char *path, bool force, ck_error *err) {
    if (mkdir(path, 0777) == 0) return CK_OK;
    if (errno != EEXIST) return ck_fail_errno(err, "%s", path);
    DIR *dir = opendir(path);
    if (!dir) return ck_fail_errno(err, "%s", path);
    bool empty = true;
    for (struct dirent *e; (e = readdir(dir));)
        empty &= strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0;
    closedir(dir);
    if (empty || force) return CK_OK;
    return ck_fail(err, CK_USAGE,
                   "%s is not empty: `ckdistill resume %s` goes on with a run, --force starts anew",
                   path, path);
}

static ck_status write_config(const ck_session *r, ck_error *err) {
    char *text = ck_config_print(r->config), *path = ck_run_path(r, "config.json");
    ck_status s = text && path ? ck_write_file(path, text, strlen(text), true, err)
                               : ck_fail_memory(err, r->folder);
    free(text);
    free(path);
    return s;
}

static ck_status make_run(ck_session *r, ck_error *err) {
    CK_TRY(make_folder(r->folder, r->options->force, err));
    CK_TRY(write_config(r, err));
    CK_TRY(keep_plans(r, true, err));
    return open_log(r, err);
}

static ck_status start(ck_session *r, ck_error *err) {
    CK_TRY(ck_world_open(&r->world, err));
    if (r->options->dry_run) return estimate(r, err);
    CK_TRY(ck_run_open(r, CK_OPEN_WHOLE, err));
    describe(r);
    CK_TRY(ck_trainer_allocate(r->trainer, r->memory, err));
    CK_TRY(ck_world_agree(&r->world, r->world.rank ? CK_OK : make_run(r, err), err));
    CK_TRY(event(r, "started", NULL, err));
    /* So that there is something to go back to from the first step on. */
    CK_TRY(save(r, err));
    return go(r, err);
}

ck_status ck_run_start(const char *config, const char *const *sets, size_t set_count,
                       const char *folder, const ck_run_options *options, ck_error *err) {
    ck_session r = {.folder = folder, .options = options};
    CK_TRY(ck_config_load(config, sets, set_count, &r.config, err));
    return close_session(&r, start(&r, err));
}

/* ---- Going on ---- */

static ck_status reopen(ck_session *r, ck_error *err) {
    CK_TRY(ck_world_open(&r->world, err));
    char *path = ck_run_path(r, "config.json");
    if (!path) return ck_fail_memory(err, r->folder);
    ck_status s = ck_config_load(path, NULL, 0, &r->config, err);
    free(path);
    CK_TRY(s);
    if (r->options->dry_run) return estimate(r, err);
    r->goes_on = true;
    CK_TRY(ck_run_open(r, CK_OPEN_WHOLE, err));
    describe(r);
    CK_TRY(ck_trainer_allocate(r->trainer, r->memory, err));
    return load(r, err);
}

/* Nobody is to find out from the bits. */
static ck_status tell_change(ck_session *r, ck_error *err) {
    say(r, "%s: its bits may differ from those of a run that was not interrupted\n", r->change);
    CK_TRY(event(r, "changed", r->change, err));
    return keep_plans(r, true, err);
}

static ck_status resume(ck_session *r, ck_error *err) {
    CK_TRY(reopen(r, err));
    if (r->options->dry_run) return CK_OK;
    CK_TRY(open_log(r, err));
    CK_TRY(event(r, "resumed", NULL, err));
    say(r, "going on after step %llu\n", (unsigned long long)r->done);
    if (r->change[0]) CK_TRY(tell_change(r, err));
    return go(r, err);
}

ck_status ck_run_resume(const char *folder, const ck_run_options *options, ck_error *err) {
    ck_session r = {.folder = folder, .options = options};
    return close_session(&r, resume(&r, err));
}

/* ---- Judging what is there ---- */

static ck_status evaluate_run(ck_session *r, ck_error *err) {
    CK_TRY(reopen(r, err));
    CK_TRY(open_log(r, err));
    return judge_run(r, err);
}

static ck_status evaluate_config(ck_session *r, ck_error *err) {
    CK_TRY(ck_world_open(&r->world, err));
    CK_TRY(ck_run_open(r, CK_OPEN_WHOLE, err));
    CK_TRY(ck_trainer_allocate(r->trainer, r->memory, err));
    CK_TRY(ck_world_agree(&r->world, r->world.rank ? CK_OK : make_run(r, err), err));
    return judge_run(r, err);
}

ck_status ck_run_evaluate(const char *config, const char *const *sets, size_t set_count,
                          const char *folder, const ck_run_options *options, ck_error *err) {
    ck_session r = {.folder = folder, .options = options};
    if (config) CK_TRY(ck_config_load(config, sets, set_count, &r.config, err));
    return close_session(&r, config ? evaluate_config(&r, err) : evaluate_run(&r, err));
}
