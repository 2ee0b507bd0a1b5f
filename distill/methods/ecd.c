/* Easy consistency distillation (Geng et al., 2024): consistency without a grid. Two moments of a
 * trajectory begin far apart and come closer while training goes on.
 *
 *   t: ln sigma normal (mean, deviation);  r = t (1 - (1 + k / (1 + e^t)) / q^(stage + 1)), from 0
 *   x_r = the teacher's step from t to r;  target = the student's own x0 of x_r (x_r at r = 0)
 *   loss = |student's x0 of x_t - target| / (t - r)      of the whole sample, not squared
 *
 * Stages are equal shares of the run.
 */
#include "distill/methods/methods.h"

#include <math.h>

enum { MEAN, DEVIATION, Q, K, STAGES };

typedef struct own {
    ck_point *from, *to;
    size_t weight;
} own;

static ck_status build(ck_distill *d, ck_error *err) {
    CK_TRY(ck_distill_own(d, sizeof(own), err));
    own *o = d->own;
    o->from = ck_distill_point(d, "from");
    o->to = ck_distill_point(d, "to");
    o->weight = ck_distill_coefficient(d, "weight");
    CK_TRY(ck_graph_check(d->graph, err));
    ck_node x = ck_distill_noisy(d, o->from, d->x0, d->noise);
    ck_node next = ck_distill_solve(d, &d->teacher, x, o->from, o->to);
    ck_node target = ck_distill_x0(d, &d->student, next, o->to, d->context);
    ck_node x0 = ck_distill_x0(d, &d->student, x, o->from, d->context);
    ck_node loss = ck_distill_distance(d, x0, target, d->feeds[o->weight].node);
    return ck_distill_part(d, loss, d->student.params, err);
}

static double stage_of(const ck_distill *d, uint64_t step) {
    return floor((double)step * d->setting[STAGES] / (double)d->steps);
}

static bool anew(const ck_distill *d) {
    return d->step > 0 && stage_of(d, d->step) != stage_of(d, d->step - 1);
}

static void draw(ck_distill *d) {
    own *o = d->own;
    double stage = stage_of(d, d->step);
    for (size_t i = 0; i < d->batch; i++) {
        double z = ck_distill_normal(d, 0, i);
        ck_moment t = ck_process_at(d->process, exp(d->setting[MEAN] + d->setting[DEVIATION] * z));
        double near = (1 + d->setting[K] / (1 + exp(t.sigma))) / pow(d->setting[Q], stage + 1);
        ck_moment r =
            near < 1 ? ck_process_at(d->process, t.sigma * (1 - near)) : ck_process_clean();
        if (r.sigma >= t.sigma) r = ck_process_clean(); /* the ends of a schedule */
        ck_point_set(d, o->from, i, t);
        ck_point_set(d, o->to, i, r);
        d->feeds[o->weight].value[i] = (float)(1 / (t.sigma - r.sigma));
    }
}

const ck_distill_method ck_distill_ecd = {
    .name = "ecd",
    .summary = "easy consistency distillation: moments that come closer",
    .source = "Geng et al., 2024 (arXiv 2406.14548)",
    .settings = {{"mean", -1.1, -10, 10, "mean of ln sigma"},
                 {"deviation", 2, 0.01, 10, "standard deviation of ln sigma"},
                 {"q", 2, 1.01, 4096, "how much closer the moments come with each stage"},
                 {"k", 8, 0, 100, "how much farther apart they are at little noise"},
                 {"stages", 8, 1, 64, "stages of the run"}},
    .loss = CK_LOSS_PSEUDO_HUBER,
    .steps = CK_STEPS_CONSISTENCY,
    .teacher = true,
    .follows = true,
    .build = build,
    .draw = draw,
    .anew = anew,
};
