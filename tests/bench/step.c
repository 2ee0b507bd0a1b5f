/* Whole steps of training by a distillation method, of UNets with weights of chance, timed: feed,
 * forward, backward, clip, AdamW, averages, as ckdistill run makes them.
 *   step CONFIG.json BACKEND METHOD BATCH TOKENS [PEAK]
 * prints the best and the median of seven after three that make ready; PEAK: TFLOP/s of which a
 * share is said. Of several processes (mpirun) each has such a batch. tests/bench/step.py is
 * "finetune" in torch. */
#include "distill/methods/distill.h"
#include "distill/run/shard.h"
#include "distill/run/trainer.h"
#include "io/os.h"
#include "kernels/philox.h"
#include "tests/bench/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { READY = 3, TIMES = 7 };

/* The same data in every round: making it takes no part of the time. */
static ck_status batch(void *self, const ck_batch *b, ck_error *e) {
    (void)self, (void)b, (void)e;
    return CK_OK;
}

static void fill(ck_distill *d, size_t feed) {
    ck_philox_fill_normal(1, 0, (uint32_t)feed, 0, d->feeds[feed].n, d->feeds[feed].value);
}

static ck_network network(const ck_unet_config *c, uint64_t seed) {
    return (ck_network){.unet = c, .params = ck_params_new(seed)};
}

static void build(ck_distill *d, const ck_world *world, const ck_unet_config *c, const char *method,
                  int64_t n, int64_t tokens) {
    ck_schedule schedule = ck_schedule_sd();
    ck_process *process;
    ok(ck_process_new(&schedule, 0, &process, &err));
    d->method = ck_distill_method_find(method);
    if (!d->method) ok(ck_fail(&err, CK_USAGE, "no method '%s'", method));
    for (size_t i = 0; d->method->settings[i].name; i++)
        d->setting[i] = d->method->settings[i].fallback;
    d->loss = d->method->loss;
    d->huber = 0.001;
    d->guidance = d->method->teacher ? 7.5 : 1;
    d->steps = 1000;
    d->process = process;
    d->batch = (size_t)n;
    d->total = d->batch * world->size;
    d->first = d->batch * world->rank;
    d->shape = CK_SHAPE(n, c->sample_size, c->sample_size, c->in_channels);
    d->student = network(c, 1);
    if (d->method->teacher) d->teacher = network(c, 2);
    if (d->method->average) d->average = network(c, 3);
    if (d->method->rival) d->rival = network(c, 4);
    if (d->method->heads) d->heads = ck_params_new(5);
    ok(ck_distill_build(d, (size_t)tokens, (size_t)c->context, &err));
    fill(d, CK_FEED_X0), fill(d, CK_FEED_CONTEXT), fill(d, CK_FEED_NO_CONTEXT);
}

/* Each step ends with its loss and norm in the program's memory, and the next begins after the
 * update was asked for: as runs do. *waited: the share of it in which a card alone was busy. */
static void time_steps(ck_trainer *t, ck_distill *d, double seconds[TIMES], double *loss,
                       double *waited) {
    const ck_data data = {.batch = batch};
    double start = ck_seconds(), all = 0, before = 0;
    for (int i = -READY; i < TIMES; i++) {
        ck_trainer_report report;
        d->step = (uint64_t)(i + READY);
        ok(ck_trainer_run(t, &data, &report, &err));
        ok(ck_trainer_update(t, 1e-5, &err));
        double end = ck_seconds();
        if (i == -1) before = ck_trainer_waited(t);
        if (i >= 0) all += seconds[i] = end - start;
        start = end;
        *loss = report.loss;
    }
    *waited = (ck_trainer_waited(t) - before) / all;
    sort_times(seconds, TIMES);
}

/* samples/s of all processes, TFLOP/s of each. */
static void tell(char **argv, const ck_trainer *t, const ck_distill *d, const ck_backend *b,
                 const double seconds[TIMES], double loss, double waited) {
    double middle = seconds[TIMES / 2], work = 0;
    for (size_t i = 0; i < d->part_count; i++) work += ck_trainer_operations(t, i);
    double speed = work / middle / 1e12;
    printf("%s, %s, batch %s", argv[2], argv[3], argv[4]);
    if (d->total > d->batch) printf(" x %zu processes", d->total / d->batch);
    printf(": %.1f ms a step (best %.1f), %.2f samples/s, %.2f TFLOP/s", 1e3 * middle,
           1e3 * seconds[0], (double)d->total / middle, speed);
    if (argv[6]) printf(" (%.1f%% of %s)", 100 * speed / atof(argv[6]), argv[6]);
    if (!b->host) printf(", %.0f%% of the time only waiting for the card", 100 * waited);
    printf(", plan %.0f MiB, weights and moments %.0f MiB", (double)ck_trainer_peak(t) / 0x1p20,
           (double)ck_trainer_held(t) / 0x1p20);
    print_taken(b);
    printf(", loss %.4g\n", loss);
}

int main(int argc, char **argv) {
    if (argc < 6) {
        fprintf(stderr, "usage: step CONFIG.json BACKEND METHOD BATCH TOKENS [PEAK]\n");
        return 2;
    }
    ck_unet_config c;
    const ck_backend *b;
    static ck_distill d;
    ck_trainer *t;
    ck_world world;
    double seconds[TIMES], loss, waited;
    ok(ck_world_open(&world, &err));
    ok(ck_unet_read(argv[1], &c, &err));
    ok(ck_backend_open(argv[2], &b, &err));
    build(&d, &world, &c, argv[3], atoll(argv[4]), atoll(argv[5]));
    const ck_trainer_settings how = {.accumulate = 1,
                                     .clip = 1,
                                     .target = 0.95,
                                     .rival = 1,
                                     .adamw = {0.9, 0.999, 1e-8, 0.01},
                                     .world = &world};
    ok(ck_trainer_new(&d, b, &how, &t, &err));
    ok(ck_trainer_allocate(t, 0, &err));
    time_steps(t, &d, seconds, &loss, &waited);
    if (world.rank == 0) tell(argv, t, &d, b, seconds, loss, waited);
    ck_trainer_free(t);
    ck_shard_leave(b);
    ck_world_close(&world);
    return 0;
}
