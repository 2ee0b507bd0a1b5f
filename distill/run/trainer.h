/* One step of training: feed, run, clip, update, average.
 *
 *   ck_trainer *t;
 *   CK_TRY(ck_trainer_new(&d, backend, &settings, &t, err));       d: built, see distill.h
 *   printf("%zu bytes\n", ck_trainer_peak(t));
 *   CK_TRY(ck_trainer_allocate(t, limit, err));
 *   for (d.step = 0; d.step < d.steps; d.step++) {
 *       CK_TRY(ck_trainer_run(t, &data, &report, err));             losses and gradients
 *       CK_TRY(ck_trainer_update(t, rate, err));                    unless they are no good
 *   }
 *
 * The same step gives the same bits, whatever ran before it: all that lasts from step to step are
 * the weights, ck_trainer_state and the checkpoint's step. Where a card computes, the next step's
 * data are made meanwhile, so that batches are asked for one step before they are used.
 */
#ifndef CK_TRAINER_H
#define CK_TRAINER_H

#include "distill/engine/backend.h"
#include "distill/methods/distill.h"
#include "distill/engine/optimizer.h"
#include "distill/run/state.h"
#include "distill/run/world.h"

typedef struct ck_trainer ck_trainer;

typedef struct ck_trainer_settings {
    ck_adamw adamw;
    double clip;       /* the norm of gradients that is not exceeded; 0: none */
    size_t accumulate; /* rounds (batches) of a step, 1 or more */
    double target;     /* how much the average that a method asks keeps in each step */
    double ema;        /* the same of the average that is the result; 0: the student itself is */
    bool by_chance;    /* copies of bf16 of what is trained are rounded so, see ck_rounding */
    double rival;      /* the rival's rate is so many times the student's */
    const ck_world *world; /* the processes that share the work; NULL: this one alone */
} ck_trainer_settings;

/* A part of the samples of a round, and where they go: all of them, unless several processes share
 * the work. */
typedef struct ck_batch {
    uint64_t seed, round;
    size_t total;                /* samples of the round */
    size_t first, count;         /* those that are wanted */
    size_t numbers;              /* in x0 */
    float *x0;                   /* data of d->shape */
    float *context, *no_context; /* of their captions, of the empty one; NULL: none are taken */
} ck_batch;

/* Where batches come from. */
typedef struct ck_data {
    void *self;
    /* The same seed, round and place give the same sample. */
    ck_status (*batch)(void *self, const ck_batch *b, ck_error *err);
    /* Which of the trainer's sizes the round's samples have; NULL: the first. */
    size_t (*size)(void *self, uint64_t seed, uint64_t round, size_t total);
} ck_data;

typedef struct ck_trainer_report {
    double loss, norm;             /* of the first part; NaN if it has no turn */
    double rival_loss, rival_norm; /* of the second; NaN */
} ck_trainer_report;

/* d is borrowed, the part parameters are trained in place. */
ck_status ck_trainer_new(ck_distill *d, const ck_backend *backend,
                         const ck_trainer_settings *settings, ck_trainer **t, ck_error *err);
/* The same training for samples of another size: the next one's number. d: of ck_distill_resized,
 * built. CK_USAGE: the method carries samples over several rounds. */
ck_status ck_trainer_add(ck_trainer *t, ck_distill *d, ck_error *err);
void ck_trainer_free(ck_trainer *t); /* NULL is allowed */

/* Bytes of the arenas, and of everything that lasts: weights, moments, averages. */
size_t ck_trainer_peak(const ck_trainer *t);
size_t ck_trainer_held(const ck_trainer *t);
/* Operations of a round of a part, see cost.h. */
double ck_trainer_operations(const ck_trainer *t, size_t part);
/* How many numbers are trained. */
size_t ck_trainer_trained(const ck_trainer *t);
/* Of several processes on cards the first to have memory joins them (shard.h), which lasts. */
ck_status ck_trainer_allocate(ck_trainer *t, size_t limit, ck_error *err);

/* d->step: changes roles if it is time, runs all rounds. */
ck_status ck_trainer_run(ck_trainer *t, const ck_data *data, ck_trainer_report *report,
                         ck_error *err);
/* Clips and takes the optimiser's step with this rate, then the averages'. */
ck_status ck_trainer_update(ck_trainer *t, double rate, ck_error *err);

/* What is to be saved besides the weights: moments, carried feeds, counters. Points into t. Where
 * several processes share the work these are whole in process 0 alone, after collect; and what was
 * loaded there comes to all by deal. The others' arrays are NULL. Where the backend's memory is not
 * the program's, this goes for weights as well: the params have them after collect. */
ck_status ck_trainer_state(ck_trainer *t, ck_state *state, ck_error *err);
ck_status ck_trainer_collect(ck_trainer *t, ck_error *err);
ck_status ck_trainer_deal(ck_trainer *t, ck_error *err);

/* The weights that are the result: the average, or the student's. Owned by t or d. */
ck_params *ck_trainer_result(const ck_trainer *t);
/* The average alone; NULL if there is none. */
ck_params *ck_trainer_average(const ck_trainer *t);

/* Seconds spent in each operation since the start, by ck_op, to seconds[CK_OP_COUNT]. */
void ck_trainer_seconds(const ck_trainer *t, double *seconds);
/* Seconds since the start in which the program had nothing to do but wait for a card: where they
 * are few, the card waits for the program. */
double ck_trainer_waited(const ck_trainer *t);

#endif
