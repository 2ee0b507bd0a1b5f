/* Points in the plane on a checkerboard, by a perceptron: every method in seconds, and a number for
 * what it loses. Config: "teacher": weights, or none for training from scratch.
 *
 * Metrics: swd, the sliced Wasserstein distance to the data (0.007 is what two sets of data have);
 * off, the share of points in the empty squares.
 */
#include "distill/judge/metrics.h"
#include "distill/run/tasks.h"
#include "io/os.h"
#include "kernels/philox.h"
#include "distill/models/export.h"

#include <stdlib.h>

enum { POINTS = 20480, BATCH = 1024, DIRECTIONS = 64 };

/* Data have variance 1/3 - and a little, as squares are left out evenly - but the usual setting of
 * preconditioned networks is 0.5, and these numbers are compared. */
static const double DATA = 0.5;

/* Streams of the seed of data apart from those of training. */
enum { DATA_STREAM = 1 };

static ck_status batch(void *self, const ck_batch *b, ck_error *err) {
    (void)self, (void)err;
    uint32_t words[4];
    ck_philox(b->seed, (uint32_t)b->round, DATA_STREAM, 0, words);
    ck_checkerboard_fill((uint64_t)words[0] << 32 | words[1], b->first, b->count, b->x0);
    return CK_OK;
}

static ck_status open_weights(ck_task *t, ck_config *c, ck_error *err) {
    const char *teacher, *student;
    CK_TRY(ck_config_path(c, "teacher", &teacher, err));
    CK_TRY(ck_config_path(c, "student", &student, err));
    if (teacher) CK_TRY(ck_params_open(teacher, "", &t->teacher.params, err));
    if (!student) student = teacher;
    if (student) return ck_params_open(student, "", &t->student.params, err);
    t->student.params = ck_params_new(t->seed);
    return t->student.params ? CK_OK : ck_fail_memory(err, "weights");
}

static ck_status open_task(ck_task *t, ck_config *c, ck_error *err) {
    t->shape = CK_SHAPE(t->shape.d[0], 2);
    t->data.batch = batch;
    t->has_data = true;
    t->teacher_steps = 18;
    t->teacher_walk = CK_WALK_HEUN;
    t->process = ck_process_edm(DATA);
    if (!t->process) return ck_fail_memory(err, "a task");
    return open_weights(t, c, err);
}

static void close_task(ck_task *t) {
    (void)t;
}

static ck_status sample(ck_task *t, const ck_network *n, const ck_row *row, float *points,
                        ck_error *err) {
    ck_walker_options options = {.backend = t->backend,
                                 .process = t->process,
                                 .network = n,
                                 .shape = CK_SHAPE(BATCH, 2),
                                 .guidance = 1};
    ck_walker *w;
    CK_TRY(ck_walker_new(&options, &w, err));
    ck_status s = CK_OK;
    for (size_t i = 0; i < POINTS && s == CK_OK; i += BATCH)
        s = ck_walker_sample(w, ck_walk_named(row->how), row->steps, t->seed, i, points + 2 * i,
                             NULL, NULL, err);
    ck_walker_free(w);
    return s;
}

static ck_status measure(const ck_task *t, const float *points, float *real, ck_row *row,
                         ck_error *err) {
    ck_points made = {points, POINTS, 2}, data = {real, POINTS, 2};
    ck_checkerboard_fill(t->seed ^ 0x5eed, 0, POINTS, real);
    row->names[0] = "swd", row->names[1] = "off";
    row->count = 2;
    row->samples = POINTS;
    CK_TRY(ck_sliced_wasserstein(data, made, DIRECTIONS, t->seed, &row->values[0], err));
    return ck_checkerboard_off(made, &row->values[1], err);
}

static ck_status judge(ck_task *t, const ck_network *n, ck_row *row, ck_image *pictures,
                       ck_error *err) {
    (void)pictures;
    float *points = ck_alloc_array(POINTS * 2, sizeof *points);
    float *real = ck_alloc_array(POINTS * 2, sizeof *real);
    ck_status s = points && real ? sample(t, n, row, points, err) : ck_fail_memory(err, "samples");
    if (s == CK_OK) s = measure(t, points, real, row, err);
    free(points);
    free(real);
    return s;
}

static ck_status export(ck_task *t, const ck_params *weights, const char *path, ck_dtype dtype,
                        const ck_meta *facts, size_t count, ck_error *err) {
    (void)t;
    return ck_export(weights, path, dtype, facts, count, err);
}

const ck_task_kind ck_task_checkerboard = {
    .name = "checkerboard",
    .summary = "points in the plane; every method in seconds",
    .open = open_task,
    .close = close_task,
    .judge = judge,
    .export = export,
};
