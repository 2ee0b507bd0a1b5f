/* Distribution matching distillation (Yin et al., 2024), as in its second version without the
 * adversary: the student's samples are pushed to where the teacher finds them more likely and away
 * from where they are already frequent. How frequent they are a rival knows: a network that begins
 * as the teacher and is trained on nothing but the student's samples.
 *
 *   x = student's x0 of what it meets when it is sampled;  x_t = x with noise
 *   g = (rival's x0 of x_t - teacher's x0 of x_t) / mean |x - teacher's x0|
 *   student: loss = v |x - (x - g)|^2 / 2, whose gradient is v g;  every `every` steps
 *   rival:   loss = w |rival's x0 of another x_t - x|^2            every step
 *
 * A student of several steps meets its own samples with noise at the next moment of the grid
 * (backward simulation). Each sample of the batch is at another of its steps, goes on by one with
 * every round of training, and begins anew from pure noise, with a new caption, after the last; so
 * this costs no pass. One student is then good for the number of steps and, as each step is judged
 * by itself, for its divisors. A step is judged only at moments with no more noise than it met:
 * what little noise leaves alone is not its doing, and so where there is much noise the rival knows
 * the samples of the first step alone.
 *
 * x is the student's answer times `out` (process.h), which is large where there is much noise:
 * v = out^-even. No data are needed.
 */
#include "distill/methods.h"

#include <math.h>

enum { EVERY, STEPS, EVEN };

enum { MOMENTS = 1000 };

typedef struct own {
    ck_point *at, *next, *judged, *learned;
    size_t x, noise1, noise2, noise3, even, weight;
    ck_moment moments[MOMENTS + 1];
    ck_moment grid[]; /* of the student's steps */
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

static ck_status prepare(ck_distill *d, ck_error *err) {
    size_t steps = (size_t)d->setting[STEPS];
    CK_TRY(ck_distill_own(d, sizeof(own) + (steps + 1) * sizeof(ck_moment), err));
    own *o = d->own;
    ck_process_grid(d->process, MOMENTS, o->moments);
    ck_process_grid(d->process, steps, o->grid);
    o->at = ck_distill_point(d, "at");
    o->next = ck_distill_point(d, "next");
    o->judged = ck_distill_point(d, "judged");
    o->learned = ck_distill_point(d, "learned");
    o->x = ck_distill_feed(d, "student's x", d->shape);
    o->noise1 = ck_distill_feed(d, "noise of the judged", d->shape);
    o->noise2 = ck_distill_feed(d, "noise of the learned", d->shape);
    o->noise3 = ck_distill_feed(d, "noise of the next", d->shape);
    o->even = ck_distill_coefficient(d, "even");
    o->weight = ck_distill_coefficient(d, "weight");
    ck_distill_keep_context(d);
    return ck_graph_check(d->graph, err);
}

static ck_status build(ck_distill *d, ck_error *err) {
    CK_TRY(prepare(d, err));
    own *o = d->own;
    ck_graph *g = d->graph;
    ck_node x = ck_distill_x0(d, &d->student, d->feeds[o->x].node, o->at, d->context);
    ck_node made = ck_detach(g, x);
    d->feeds[o->x].from = ck_distill_noisy(d, o->next, made, d->feeds[o->noise3].node);

    ck_node noisy = ck_distill_noisy(d, o->judged, made, d->feeds[o->noise1].node);
    ck_node real = ck_distill_guided(d, &d->teacher, noisy, o->judged);
    ck_node frequent = ck_distill_x0(d, &d->rival, noisy, o->judged, d->context);
    ck_node scale = ck_unary_op(g, CK_RECIPROCAL, mean_size(d, ck_sub(g, made, real)), 0);
    ck_node push = ck_mul(g, ck_sub(g, frequent, real), scale);
    ck_node off = ck_sub(g, x, ck_detach(g, ck_sub(g, made, push)));
    ck_node square = ck_mul(g, ck_mul(g, off, off), d->feeds[o->even].node);
    CK_TRY(ck_distill_part(d, ck_affine(g, ck_mean(g, square), 0.5, 0), d->student.params, err));

    noisy = ck_distill_noisy(d, o->learned, made, d->feeds[o->noise2].node);
    ck_node guess = ck_distill_x0(d, &d->rival, noisy, o->learned, d->context);
    ck_node loss = ck_distill_distance(d, guess, made, d->feeds[o->weight].node);
    return ck_distill_part(d, loss, d->rival.params, err);
}

/* The step that a sample is at: in the first rounds all have only begun. */
static size_t step_of(const ck_distill *d, size_t sample) {
    size_t steps = (size_t)d->setting[STEPS], k = (size_t)((d->round + sample) % steps);
    return k < d->round ? k : (size_t)d->round;
}

/* Between the moment of a step and no noise. */
static size_t moment_of(double low, double u) {
    return (size_t)((low + (1 - low) * u) * MOMENTS);
}

static void begin(ck_distill *d, size_t sample) {
    const own *o = d->own;
    const ck_feed *noise = &d->feeds[CK_FEED_NOISE];
    size_t n = noise->n / d->batch;
    float *x = d->feeds[o->x].value + sample * n;
    for (size_t i = 0; i < n; i++) x[i] = (float)o->grid[0].s * noise->value[sample * n + i];
    ck_distill_take_context(d, sample);
}

static void draw(ck_distill *d) {
    own *o = d->own;
    ck_distill_noise(d, 1, d->feeds[o->noise1].value);
    ck_distill_noise(d, 2, d->feeds[o->noise2].value);
    ck_distill_noise(d, 3, d->feeds[o->noise3].value);
    for (size_t i = 0; i < d->batch; i++) {
        size_t k = step_of(d, i);
        double low = (double)k / d->setting[STEPS];
        /* (2% to 98% of the way where it is judged: the ends say little.) */
        size_t judged = moment_of(low, 0.02 + 0.96 * ck_distill_uniform(d, 0, i));
        size_t learned = moment_of(low, ck_distill_uniform(d, 1, i));
        double out = fabs(ck_process_wrap(d->process, o->grid[k]).out);
        if (k == 0) begin(d, i);
        ck_point_set(d, o->at, i, o->grid[k]);
        ck_point_set(d, o->next, i, o->grid[k + 1]);
        ck_point_set(d, o->judged, i, o->moments[judged]);
        ck_point_set(d, o->learned, i, o->moments[learned]);
        d->feeds[o->even].value[i] = (float)pow(out, -d->setting[EVEN]);
        d->feeds[o->weight].value[i] = (float)ck_process_weight(d->process, o->moments[learned]);
    }
}

static unsigned turn(const ck_distill *d) {
    return d->step % (uint64_t)d->setting[EVERY] == 0 ? 3 : 2;
}

const ck_distill_method ck_distill_dmd = {
    .name = "dmd",
    .summary = "distribution matching: one step or a few, without data; three networks",
    .source = "Yin et al., 2024 (arXiv 2405.14867)",
    .settings = {{"every", 5, 1, 100, "steps of the rival for one of the student"},
                 {"steps", 1, 1, 64, "steps of the student"},
                 {"even", 0, 0, 2, "how much noisy moments are held back; 1: all push alike"}},
    .loss = CK_LOSS_L2,
    .steps = CK_STEPS_CONSISTENCY,
    .teacher = true,
    .free = true,
    .rival = true,
    .build = build,
    .draw = draw,
    .turn = turn,
};
