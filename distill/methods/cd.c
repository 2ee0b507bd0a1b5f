/* Consistency distillation (Song et al., 2023): the student gives the same x0 from all points of a
 * trajectory of its teacher.
 *
 *   x_t = a x0 + s noise;  x_r = the teacher's step from t to r, neighbours on a grid of n points
 *   loss = distance(student's x0 of x_t, average student's x0 of x_r)
 *
 * At the clean end x0 of x is x. The average follows the student with `target`.
 */
#include "distill/methods/methods.h"

enum { POINTS };

typedef struct own {
    ck_point *from, *to;
    ck_moment grid[];
} own;

static ck_status build(ck_distill *d, ck_error *err) {
    size_t n = (size_t)d->setting[POINTS];
    CK_TRY(ck_distill_own(d, sizeof(own) + (n + 1) * sizeof(ck_moment), err));
    own *o = d->own;
    ck_process_grid(d->process, n, o->grid);
    o->from = ck_distill_point(d, "from");
    o->to = ck_distill_point(d, "to");
    CK_TRY(ck_graph_check(d->graph, err));
    ck_node x = ck_distill_noisy(d, o->from, d->x0, d->noise);
    ck_node next = ck_distill_solve(d, &d->teacher, x, o->from, o->to);
    ck_node target = ck_distill_x0(d, &d->average, next, o->to, d->context);
    ck_node x0 = ck_distill_x0(d, &d->student, x, o->from, d->context);
    return ck_distill_part(d, ck_distill_distance(d, x0, target, CK_NONE), d->student.params, err);
}

static void draw(ck_distill *d) {
    own *o = d->own;
    for (size_t i = 0; i < d->batch; i++) {
        size_t at = (size_t)(ck_distill_uniform(d, 0, i) * d->setting[POINTS]);
        ck_point_set(d, o->from, i, o->grid[at]);
        ck_point_set(d, o->to, i, o->grid[at + 1]);
    }
}

const ck_distill_method ck_distill_cd = {
    .name = "cd",
    .summary = "consistency distillation on a grid",
    .source = "Song et al., 2023 (arXiv 2303.01469)",
    .settings = {{"points", 18, 2, 1000, "points of the grid"}},
    .loss = CK_LOSS_L2,
    .steps = CK_STEPS_CONSISTENCY,
    .teacher = true,
    .follows = true,
    .average = true,
    .build = build,
    .draw = draw,
};
