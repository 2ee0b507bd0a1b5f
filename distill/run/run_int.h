/* What the files of a run share: everything that is open while it goes. */
#ifndef CK_RUN_INT_H
#define CK_RUN_INT_H

#include "distill/run/checkpoint.h"
#include "distill/run/guard.h"
#include "distill/run/plans.h"
#include "distill/run/prefetch.h"
#include "distill/run/rate.h"
#include "distill/run/run.h"
#include "distill/run/runlog.h"
#include "distill/run/task.h"

#include <stdio.h>

enum { CK_RUN_STEPS = 8, CK_RUN_FACTS = 8, CK_RUN_MOMENTS = 16 };

/* A row of an evaluation, and its pictures. */
typedef struct ck_judged {
    ck_row row;
    ck_image pictures[CK_ROW_PICTURES];
} ck_judged;

typedef struct ck_session {
    const char *folder;
    const ck_run_options *options;
    ck_world world; /* only process 0 writes, says and judges anything */
    bool goes_on;   /* as it is in the folder */
    ck_plans plans;
    char change[512]; /* why it is not computed as it was before; "" */
    ck_config *config;
    ck_task *task;
    ck_adapter adapter, rival_adapter; /* rank 0: whole networks are trained */
    ck_params *factors;                /* the student's, with an adapter */
    ck_distill d;
    ck_distill *others; /* of the data's other sizes */
    size_t other_count;
    ck_data data;
    ck_prefetch *prefetch; /* makes data ahead, or NULL */
    ck_trainer *trainer;
    ck_trainer_settings settings;
    size_t memory; /* bytes that training may take; 0: no limit */
    ck_rate rate;
    ck_guard guard;
    ck_keep keep;
    uint64_t save_every, log_every, evaluate_every;
    size_t judged[CK_RUN_STEPS]; /* numbers of steps that are evaluated */
    size_t judged_count;
    double judged_guidance; /* of the student's samples; 1: one pass a step */
    bool judges_teacher;
    ck_judged teacher[CK_RUN_STEPS + 1]; /* the teacher's rows, once they were judged */
    size_t teacher_count;
    ck_walk walk;     /* how the student is sampled */
    ck_dtype dtype;   /* of student.safetensors */
    uint64_t as_lora; /* rank of student.lora.safetensors; 0: none is made */
    uint64_t seed;
    uint64_t done;     /* steps */
    double rollbacks;  /* as a number of the state */
    double loss, norm; /* of the student's last turn */
    ck_runlog *log;
    double began;     /* monotonic seconds */
    double stepping;  /* seconds in the steps since then */
    uint64_t stepped; /* and how many they were */
} ck_session;

/* run_config.c: everything up to the trainer's memory. shut releases it; close also the config. */
ck_status ck_run_open(ck_session *r, ck_opening how, ck_error *err);
void ck_run_shut(ck_session *r);
void ck_run_close(ck_session *r);

/* What the student's metadata say. facts point into text. */
typedef struct ck_run_facts {
    ck_meta facts[CK_RUN_FACTS];
    size_t count;
    char text[CK_RUN_FACTS][256];
} ck_run_facts;

/* run_facts.c */
ck_status ck_run_tell(ck_session *r, ck_run_facts *f, ck_error *err);

/* run_result.c */
ck_status ck_run_judge(ck_session *r, ck_error *err); /* to RUN/metrics.json, a grid and the log */
void ck_run_forget(ck_session *r);                    /* the teacher's rows */
ck_status ck_run_export(ck_session *r, ck_error *err);
ck_status ck_run_describe(const ck_session *r, double seconds, ck_error *err); /* RUN/run.json */

/* run_table.c: the rows of an evaluation as a table. */
void ck_run_show(const ck_session *r, const ck_judged *student, FILE *out);

/* "RUN/name", to be released with free(); NULL when out of memory. */
char *ck_run_path(const ck_session *r, const char *name);

#endif
