/* Phased consistency (Wang et al., 2024): the way from noise to data is cut into phases, and the
 * student is consistent within each, to where the phase ends. It is sampled along these ends
 * without new noise, so more steps are better, and its samples are as sharp as its phases are many.
 *
 *   x_t = a x0 + s noise, t on a grid of n points;  e: where the phase of t ends
 *   x_r = the guided teacher's DDIM step from t to its neighbour r
 *   f(x, t) = the student's DDIM step from t to e;  where t is e that is x itself
 *   loss = distance(f of x_t, average student's f of x_r)
 */
#include "distill/methods/methods.h"

enum { POINTS, PHASES, LEAST, MOST };

typedef struct own {
    ck_point *from, *to, *end;
    ck_moment grid[];
} own;

static ck_status build(ck_distill *d, ck_error *err) {
    size_t n = (size_t)d->setting[POINTS], phases = (size_t)d->setting[PHASES];
    if (n % phases)
        return ck_fail(err, CK_USAGE, "method.points %zu must be a multiple of method.phases %zu",
                       n, phases);
    CK_TRY(ck_distill_own(d, sizeof(own) + (n + 1) * sizeof(ck_moment), err));
    own *o = d->own;
    ck_process_grid(d->process, n, o->grid);
    o->grid[n] = ck_process_last(d->process);
    o->from = ck_distill_point(d, "from");
    o->to = ck_distill_point(d, "to");
    o->end = ck_distill_point(d, "end");
    ck_distill_ask_guidance(d, MOST);
    CK_TRY(ck_graph_check(d->graph, err));
    ck_node x = ck_distill_noisy(d, o->from, d->x0, d->noise);
    ck_node next = ck_distill_solve(d, &d->teacher, x, o->from, o->to);
    ck_node known = ck_distill_x0(d, &d->average, next, o->to, d->context);
    ck_node target = ck_distill_move(d, next, known, o->to, o->end);
    ck_node x0 = ck_distill_x0(d, &d->student, x, o->from, d->context);
    ck_node moved = ck_distill_move(d, x, x0, o->from, o->end);
    return ck_distill_part(d, ck_distill_distance(d, moved, target, CK_NONE), d->student.params,
                           err);
}

static void draw(ck_distill *d) {
    own *o = d->own;
    size_t n = (size_t)d->setting[POINTS], phase = n / (size_t)d->setting[PHASES];
    ck_distill_draw_guidance(d, LEAST, MOST);
    for (size_t i = 0; i < d->batch; i++) {
        size_t at = (size_t)(ck_distill_uniform(d, 0, i) * (double)n);
        size_t end = (at / phase + 1) * phase;
        ck_point_set(d, o->from, i, o->grid[at]);
        ck_point_set(d, o->to, i, o->grid[at + 1]);
        ck_point_set(d, o->end, i, o->grid[end]);
    }
}

const ck_distill_method ck_distill_pcm = {
    .name = "pcm",
    .summary = "phased consistency: exactly so many steps, without new noise",
    .source = "Wang et al., 2024 (arXiv 2405.18407)",
    .settings = {{"points", 40, 2, 1000, "points of the grid"},
                 {"phases", 4, 1, 64, "steps of the student"},
                 CK_SETTING_LEAST,
                 CK_SETTING_MOST},
    .loss = CK_LOSS_HUBER,
    .steps = CK_STEPS_DDIM,
    .teacher = true,
    .average = true,
    .build = build,
    .draw = draw,
};
