/* A training run in a folder, from its config to its student, that survives what nights bring.
 *
 *   CK_TRY(ck_run_start("pd.json", sets, set_count, "RUN", &options, err));
 *   CK_TRY(ck_run_resume("RUN", &options, err));
 *
 *   RUN/config.json          everything that was used, defaults included
 *   RUN/log.jsonl            a line per logged step and event, see runlog.h
 *   RUN/checkpoints/         see checkpoint.h
 *   RUN/plans.json           on a card: how its libraries compute, see plans.h
 *   RUN/grids/               pictures of evaluations: step, passes, who
 *   RUN/run.json             machine, threads, seconds, memory
 *   RUN/metrics.json         the last evaluation: teacher and student, side by side
 *   RUN/student.safetensors  the result, when the run is finished
 *                            (with lora.rank: a LoRA, in kohya's names)
 *   RUN/student.lora.safetensors  with as_lora: the same as a LoRA of that rank, of its difference
 *                            to the teacher
 *   RUN/config.unet.json     its config, if it was given an embedding of guidance (guidance_width)
 *
 * The first Ctrl-C (or kill) ends the step, saves and is CK_CANCELLED, with how to resume in the
 * message. A loss or gradient that is no number, or a loss that stays far above what it was, goes
 * back to the last checkpoint, with other random numbers and half the rate; after three times it
 * gives up (CK_INPUT). A run that is resumed gives the same bits as one that was not interrupted,
 * with the same number of threads, and on a card of the same kind by the same libraries; where they
 * are others, it says so.
 */
#ifndef CK_RUN_H
#define CK_RUN_H

#include "io/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

typedef struct ck_run_options {
    bool quiet; /* no progress, no words */
    /* Only say what it takes: memory, seconds a step. Of the model its configs are enough, or a
     * file's header; what fits and is there is tried for three steps. */
    bool dry_run;
    bool force;  /* start anew in a folder that has a run */
    FILE *table; /* where the table of an evaluation is written; NULL: nowhere */
} ck_run_options;

/* sets: "key=value", over the config's. folder is made; one that is not empty is CK_USAGE. */
ck_status ck_run_start(const char *config, const char *const *sets, size_t set_count,
                       const char *folder, const ck_run_options *options, ck_error *err);
ck_status ck_run_resume(const char *folder, const ck_run_options *options, ck_error *err);

/* Judges the student of a finished run (or its last checkpoint) and its teacher again, and writes
 * RUN/metrics.json. With a config (else NULL) the run is a new one, as ck_run_start makes it, whose
 * student is judged as it begins: a model that is already there is the config's "student". */
ck_status ck_run_evaluate(const char *config, const char *const *sets, size_t set_count,
                          const char *folder, const ck_run_options *options, ck_error *err);

#endif
