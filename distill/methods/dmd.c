/* Distribution matching distillation (Yin et al., 2024), as in its second version without the
 * adversary: the student's samples are pushed to where the teacher finds them more likely and away
 * from where they are already frequent. How frequent they are a rival knows: a network that begins
 * as the teacher and is trained on nothing but the student's samples.
 *
 *   x = student's x0 of pure noise;  x_t = x with noise
 *   g = (rival's x0 of x_t - teacher's x0 of x_t) / mean |x - teacher's x0|
 *   student: loss = |x - (x - g)|^2 / 2, whose gradient is g;      every `every` steps
 *   rival:   loss = w |rival's x0 of another x_t - x|^2            every step
 *
 * No data are needed. The student is made for one step.
 */
#include "distill/methods.h"

enum { EVERY };

enum { MOMENTS = 1000 };

typedef struct own {
    ck_point *start, *judged, *learned;
    size_t noise1, noise2, weight;
    ck_moment grid[MOMENTS + 1];
} own;

/* The mean of |x| over all but the first dimension. */
static ck_node mean_size(ck_distill *d, ck_node x) {
    ck_graph *g = d->graph;
    ck_shape each = d->shape;
    double n = 1;
    for (int i = 1; i < each.rank; i++) n *= (double)each.d[i], each.d[i] = 1;
    ck_node size = ck_unary_op(g, CK_SQRT, ck_affine(g, ck_mul(g, x, x), 1, 1e-12), 0);
    return ck_affine(g, ck_sum_to(g, size, each), 1 / n, 0);
}

static ck_status build(ck_distill *d, ck_error *err) {
    CK_TRY(ck_distill_own(d, sizeof(own), err));
    own *o = d->own;
    ck_process_grid(d->process, MOMENTS, o->grid);
    o->start = ck_distill_point(d, "start");
    o->judged = ck_distill_point(d, "judged");
    o->learned = ck_distill_point(d, "learned");
    o->noise1 = ck_distill_feed(d, "noise of the judged", d->shape);
    o->noise2 = ck_distill_feed(d, "noise of the learned", d->shape);
    o->weight = ck_distill_coefficient(d, "weight");
    CK_TRY(ck_graph_check(d->graph, err));
    ck_graph *g = d->graph;
    ck_node z = ck_mul(g, d->noise, o->start->node[CK_AT_S]);
    ck_node x = ck_distill_x0(d, &d->student, z, o->start, d->context), made = ck_detach(g, x);

    ck_node noisy = ck_distill_noisy(d, o->judged, made, d->feeds[o->noise1].node);
    ck_node real = ck_distill_guided(d, &d->teacher, noisy, o->judged);
    ck_node frequent = ck_distill_x0(d, &d->rival, noisy, o->judged, d->context);
    ck_node scale = ck_unary_op(g, CK_RECIPROCAL, mean_size(d, ck_sub(g, made, real)), 0);
    ck_node push = ck_mul(g, ck_sub(g, frequent, real), scale);
    ck_node off = ck_sub(g, x, ck_detach(g, ck_sub(g, made, push)));
    ck_node loss = ck_affine(g, ck_mean(g, ck_mul(g, off, off)), 0.5, 0);
    CK_TRY(ck_distill_part(d, loss, d->student.params, err));

    noisy = ck_distill_noisy(d, o->learned, made, d->feeds[o->noise2].node);
    ck_node guess = ck_distill_x0(d, &d->rival, noisy, o->learned, d->context);
    loss = ck_distill_distance(d, guess, made, d->feeds[o->weight].node);
    return ck_distill_part(d, loss, d->rival.params, err);
}

static void draw(ck_distill *d) {
    own *o = d->own;
    ck_distill_noise(d, 1, d->feeds[o->noise1].value);
    ck_distill_noise(d, 2, d->feeds[o->noise2].value);
    for (size_t i = 0; i < d->batch; i++) {
        /* (2% to 98% of the way where it is judged: the ends say little.) */
        double judged = 0.02 + 0.96 * ck_distill_uniform(d, 0, i);
        size_t learned = (size_t)(ck_distill_uniform(d, 1, i) * MOMENTS);
        ck_point_set(d, o->start, i, o->grid[0]);
        ck_point_set(d, o->judged, i, o->grid[(size_t)(judged * MOMENTS)]);
        ck_point_set(d, o->learned, i, o->grid[learned]);
        d->feeds[o->weight].value[i] = (float)ck_process_weight(d->process, o->grid[learned]);
    }
}

static unsigned turn(const ck_distill *d) {
    return d->step % (uint64_t)d->setting[EVERY] == 0 ? 3 : 2;
}

const ck_distill_method ck_distill_dmd = {
    .name = "dmd",
    .summary = "distribution matching: one step, without data; three networks",
    .source = "Yin et al., 2024 (arXiv 2405.14867)",
    .settings = {{"every", 5, 1, 100, "steps of the rival for one of the student"}},
    .loss = CK_LOSS_L2,
    .steps = CK_STEPS_CONSISTENCY,
    .teacher = true,
    .free = true,
    .rival = true,
    .build = build,
    .draw = draw,
    .turn = turn,
};
