/* What a run is about: a process, networks, data, and how good samples are. One file and one row in
 * the table of task.c each.
 *
 *   ck_task *t;
 *   CK_TRY(ck_task_open(config, backend, &t, err));        by the config's "task"
 *   ... t->process, t->teacher, t->student, t->data ...
 *   CK_TRY(t->kind->judge(t, &network, &row, NULL, err));
 *   CK_TRY(t->kind->export(t, weights, "RUN/student.safetensors", CK_F16, facts, count, err));
 *   ck_task_close(t);
 */
#ifndef CK_TASK_H
#define CK_TASK_H

#include "distill/run/config.h"
#include "distill/data/image.h"
#include "distill/run/trainer.h"
#include "distill/judge/walker.h"

/* Numbers about samples that were made one way. */
enum { CK_ROW_VALUES = 12 };
typedef struct ck_row {
    const char *who; /* "teacher" or "student" */
    const char *how; /* "ddim", "heun", "consistency" */
    size_t steps, samples;
    double guidance;
    const char *names[CK_ROW_VALUES]; /* of the metrics */
    double values[CK_ROW_VALUES];
    size_t count;
    bool is_reference; /* the teacher's best: what others that follow are compared with */
    bool follows;      /* the same noise is to give the same sample as the reference */
} ck_row;

enum { CK_ROW_PICTURES = 10 };

/* How much of a task is wanted: all; to see what training takes, without the data that take time to
 * make (they are zeros, and nothing can be judged); or the plan alone: networks are hollow. */
typedef enum ck_opening { CK_OPEN_WHOLE, CK_OPEN_DRY, CK_OPEN_PLAN } ck_opening;

typedef struct ck_task ck_task;

typedef struct ck_task_kind {
    const char *name, *summary;
    /* Fills in the rest of a zeroed task whose kind and backend are set. */
    ck_status (*open)(ck_task *t, ck_config *c, ck_error *err);
    void (*close)(ck_task *t);
    /* Samples of a network, always of the same noise, judged: samples, values and count of the row,
     * whose other fields say how. pictures: of the first CK_ROW_PICTURES, zeroed, to be released by
     * the caller; tasks without pictures leave them so. NULL: none are wanted. */
    ck_status (*judge)(ck_task *t, const ck_network *n, ck_row *row, ck_image *pictures,
                       ck_error *err);
    bool pictures; /* makes them */
    /* Puts what training reads into the file that the config names, of a task that is only made for
     * this. NULL: there is nothing to put. */
    ck_status (*cache)(ck_task *t, ck_config *c, ck_error *err);
    /* The weights as a checkpoint of the teacher's layout, with these metadata added. */
    ck_status (*export)(ck_task *t, const ck_params *weights, const char *path, ck_dtype dtype,
                        const ck_meta *facts, size_t count, ck_error *err);
} ck_task_kind;

/* A batch of samples of a size, and the process that they are on. */
typedef struct ck_size {
    ck_shape shape;
    ck_process *process;
} ck_size;

struct ck_task {
    const ck_task_kind *kind;
    const ck_backend *backend;
    uint64_t seed;
    ck_opening how;
    bool absent; /* planned, of a model whose weights are not there */
    ck_process *process;
    ck_shape shape; /* of a batch */
    /* Where training data have several sizes, those; NULL: all have the shape above. */
    ck_size *sizes;
    size_t size_count;
    size_t tokens, width;
    ck_network teacher; /* without params where the config has none */
    ck_network student; /* begins as the teacher unless the config says otherwise */
    ck_data data;
    bool has_data;        /* not only captions */
    bool from_file;       /* data takes time to read: better ahead */
    size_t teacher_steps; /* "many": those of the teacher's best row */
    ck_walk teacher_walk;
    void *own;
};

ck_status ck_task_open(ck_config *c, const ck_backend *backend, uint64_t seed, size_t batch,
                       ck_opening how, ck_task **t, ck_error *err);
/* `ckdistill cache`: CK_USAGE where the task has no such thing. */
ck_status ck_task_cache(ck_config *c, const ck_backend *backend, ck_error *err);
void ck_task_close(ck_task *t); /* NULL is allowed */

/* Table of tasks; NULL past the last. */
const ck_task_kind *ck_task_kind_at(size_t i);

/* The names of walks as rows and configs have them. */
#define CK_WALKS "ddim|heun|consistency"
const char *ck_walk_name(ck_walk walk);
ck_walk ck_walk_named(const char *name);

#endif
