/* Simple and fast distillation (Zhou et al., 2024): the student follows its teacher's trajectory
 * from noise, on the few moments at which it will be sampled, from where it has come to itself.
 *
 *   the teacher walks from one moment to the next in `substeps` steps, the student in one
 *   loss = |student's next x - teacher's next x|, weighted by how far x0 moves x
 *
 * A round of training is one such move of the whole batch; `steps` of them are a trajectory, the
 * next begins with new noise. No data are needed.
 */
#include "distill/methods/methods.h"

#include <math.h>

enum { STEPS, SUBSTEPS };

typedef struct own {
    size_t student, teacher; /* feeds: where they have come to */
    ck_point **points;       /* substeps + 1 of a move; owned by d */
    ck_moment grid[];        /* of steps * substeps steps */
} own;

static ck_status build(ck_distill *d, ck_error *err) {
    size_t steps = (size_t)d->setting[STEPS], substeps = (size_t)d->setting[SUBSTEPS];
    size_t moments = steps * substeps + 1;
    CK_TRY(ck_distill_own(
        d, sizeof(own) + moments * sizeof(ck_moment) + (substeps + 1) * sizeof(ck_point *), err));
    own *o = d->own;
    o->points = (ck_point **)&o->grid[moments];
    ck_process_grid(d->process, steps * substeps, o->grid);
    o->student = ck_distill_feed(d, "student's x", d->shape);
    o->teacher = ck_distill_feed(d, "teacher's x", d->shape);
    for (size_t i = 0; i <= substeps; i++) o->points[i] = ck_distill_point(d, "move");
    ck_distill_keep_context(d);
    CK_TRY(ck_graph_check(d->graph, err));

    const ck_point *from = o->points[0], *to = o->points[substeps];
    ck_node x = d->feeds[o->teacher].node, own_x = d->feeds[o->student].node;
    for (size_t i = 0; i < substeps; i++)
        x = ck_distill_solve(d, &d->teacher, x, o->points[i], o->points[i + 1]);
    ck_node x0 = ck_distill_x0(d, &d->student, own_x, from, d->context);
    ck_node moved = ck_distill_move(d, own_x, x0, from, to);
    d->feeds[o->teacher].from = x;
    d->feeds[o->student].from = moved;
    return ck_distill_part(d, ck_distill_distance(d, moved, x, CK_NONE), d->student.params, err);
}

static void draw(ck_distill *d) {
    own *o = d->own;
    size_t substeps = (size_t)d->setting[SUBSTEPS];
    size_t move = d->round % (uint64_t)d->setting[STEPS];
    for (size_t k = 0; k <= substeps; k++)
        for (size_t i = 0; i < d->batch; i++)
            ck_point_set(d, o->points[k], i, o->grid[move * substeps + k]);
    if (move > 0) return;
    const ck_feed *noise = &d->feeds[CK_FEED_NOISE];
    for (size_t i = 0; i < noise->n; i++) {
        float x = (float)o->grid[0].s * noise->value[i];
        d->feeds[o->student].value[i] = d->feeds[o->teacher].value[i] = x;
    }
    for (size_t i = 0; i < d->batch; i++) ck_distill_take_context(d, i);
}

const ck_distill_method ck_distill_sfd = {
    .name = "sfd",
    .summary = "simple and fast distillation: the teacher's trajectory, step by step, without data",
    .source = "Zhou et al., 2024 (arXiv 2409.19681)",
    .settings = {{"steps", 4, 1, 64, "steps of the student, for which alone it is made"},
                 {"substeps", 4, 1, 64, "steps of the teacher for each of them"}},
    .loss = CK_LOSS_L1,
    .steps = CK_STEPS_DDIM,
    .teacher = true,
    .free = true,
    .follows = true,
    .build = build,
    .draw = draw,
};
