/* Latent consistency distillation (Luo et al., 2023): consistency on a coarse grid of a guided
 * teacher, so that the student needs no guidance.
 *
 *   x_t = a x0 + s noise, t on a grid of n points;  g: guidance, drawn for each sample
 *   x_r = the guided teacher's DDIM step from t to its neighbour r
 *   loss = distance(student's x0 of x_t, average student's x0 of x_r)
 *
 * The last point is the model's least noisy moment, where x0 of x is x: this alone ties the student
 * to data. (Luo's c_skip and c_out do that; at all other points they are 0 and 1 but for 1e-5.)
 * The average follows the student with `target`; 0 for adapters, where it is the student itself.
 */
#include "distill/methods/methods.h"

enum { POINTS, LEAST, MOST };

typedef struct own {
    ck_point *from, *to;
    ck_moment grid[];
} own;

static ck_status build(ck_distill *d, ck_error *err) {
    size_t n = (size_t)d->setting[POINTS];
    CK_TRY(ck_distill_own(d, sizeof(own) + (n + 1) * sizeof(ck_moment), err));
    own *o = d->own;
    ck_process_grid(d->process, n, o->grid);
    o->grid[n] = ck_process_last(d->process);
    o->from = ck_distill_point(d, "from");
    o->to = ck_distill_point(d, "to");
    ck_distill_ask_guidance(d, MOST);
    CK_TRY(ck_graph_check(d->graph, err));
    ck_node x = ck_distill_noisy(d, o->from, d->x0, d->noise);
    ck_node next = ck_distill_solve(d, &d->teacher, x, o->from, o->to);
    ck_node target = ck_distill_x0(d, &d->average, next, o->to, d->context);
    ck_node x0 = ck_distill_x0(d, &d->student, x, o->from, d->context);
    return ck_distill_part(d, ck_distill_distance(d, x0, target, CK_NONE), d->student.params, err);
}

static void draw(ck_distill *d) {
    own *o = d->own;
    size_t n = (size_t)d->setting[POINTS];
    ck_distill_draw_guidance(d, LEAST, MOST);
    for (size_t i = 0; i < d->batch; i++) {
        size_t at = (size_t)(ck_distill_uniform(d, 0, i) * (double)n);
        ck_point_set(d, o->from, i, o->grid[at]);
        ck_point_set(d, o->to, i, o->grid[at + 1]);
        if (at + 1 == n) ck_point_keep(d, o->to, i);
    }
}

const ck_distill_method ck_distill_lcm = {
    .name = "lcm",
    .summary = "latent consistency: few steps with guidance inside",
    .source = "Luo et al., 2023 (arXiv 2310.04378)",
    .settings = {{"points", 50, 2, 1000, "points of the grid"}, CK_SETTING_LEAST, CK_SETTING_MOST},
    .loss = CK_LOSS_HUBER,
    .steps = CK_STEPS_CONSISTENCY,
    .teacher = true,
    .average = true,
    .build = build,
    .draw = draw,
};
