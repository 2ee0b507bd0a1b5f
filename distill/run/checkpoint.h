/* The checkpoints of a run, each whole or not there at all:
 *
 *   RUN/checkpoints/step-00001200/student.safetensors    and other weights
 *                                 state.h5               see distill/run/state.h
 *                                 checkpoint.json        step, sizes and SHA-256 of the files
 *                                 metric                 where one was measured
 *   RUN/checkpoints/latest                               "step-00001200"
 *
 *   ck_checkpoint_weights weights[] = {{"student", student}};
 *   ck_checkpoint what = {weights, 1, state};
 *   CK_TRY(ck_checkpoint_save("RUN", step, &what, err));
 *   CK_TRY(ck_checkpoint_rate("RUN", step, frechet, err));             if it was evaluated
 *   CK_TRY(ck_checkpoint_rotate("RUN", &keep, err));
 *
 *   CK_TRY(ck_checkpoint_load("RUN", &what, &found, err));             to resume, to roll back
 *
 * A checkpoint is made under another name, synced and renamed; `latest` is written last. So a
 * process that dies at any instant leaves the last one or the one before. One process at a time.
 */
#ifndef CK_CHECKPOINT_H
#define CK_CHECKPOINT_H

#include "distill/engine/params.h"
#include "distill/run/state.h"

#include <stdint.h>

typedef struct ck_checkpoint_weights {
    const char *name; /* of the file, without ".safetensors" */
    ck_params *params;
} ck_checkpoint_weights;

/* What is saved and, in the same places of memory, loaded. */
typedef struct ck_checkpoint {
    const ck_checkpoint_weights *weights;
    size_t weights_count;
    ck_state state;
} ck_checkpoint;

/* Saves step; one that is there already is replaced. RUN must be there. Refused (CK_INPUT, naming
 * it): weights or arrays with a value that is not finite; what is saved must be worth going back
 * to. After a failure the checkpoints before it are as they were, `latest` too. */
ck_status ck_checkpoint_save(const char *run, uint64_t step, const ck_checkpoint *what,
                             ck_error *err);

typedef struct ck_checkpoint_found {
    uint64_t step;
    char path[1024];    /* "RUN/checkpoints/step-00001200" */
    char warning[1024]; /* what is wrong with checkpoints that were passed over; "": none was */
} ck_checkpoint_found;

/* Fills in weights and state from the checkpoint that `latest` names or, if it cannot be used, from
 * the newest one that can. The weights are those that were asked for so far: build the graphs
 * first. CK_INPUT: there is none, or each is damaged or of another run (names and sizes differ),
 * and what is wrong with the first; memory may then hold a part of one. */
ck_status ck_checkpoint_load(const char *run, const ck_checkpoint *what, ck_checkpoint_found *found,
                             ck_error *err);

/* Notes what was measured of a checkpoint; smaller is better, what is not finite is not noted. */
ck_status ck_checkpoint_rate(const char *run, uint64_t step, double metric, ck_error *err);

typedef struct ck_keep {
    uint64_t last;  /* so many of the newest; 0 is 1 */
    uint64_t best;  /* so many of those with the smallest metrics */
    uint64_t every; /* steps that are multiples of it; 0: none */
} ck_keep;

/* Removes the checkpoints that no rule keeps. The one that `latest` names always stays. */
ck_status ck_checkpoint_rotate(const char *run, const ck_keep *keep, ck_error *err);

#endif
