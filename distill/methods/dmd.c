/* Distribution matching distillation (Yin et al., 2024), as in its second version without the
 * adversary: the student's samples are pushed to where the teacher finds them more likely and away
 * from where they are already frequent. How frequent they are a rival knows: a network that begins
 * as the teacher and is trained on nothing but the student's samples.
 *
 *   x = student's x0 of what it meets when it is sampled;  x_t = x with noise
 *   g = (rival's x0 of x_t - teacher's x0 of x_t) / (soft + mean |x - teacher's x0|)
 *   student: loss = v |x - (x - g)|^2 / 2, whose gradient is v g;  every `every` steps
 *   rival:   loss = w |rival's x0 of another x_t - x|^2            every step
 *
 * A student of several steps meets its own samples with noise at the next moment of the grid
 * (backward simulation). Each sample of the batch is at another of its steps, goes on by one with
 * every round of training, and begins anew from pure noise, with a new caption, after the last; so
 * this costs no pass. One student is then good for the number of steps and, as each step is judged
 * by itself, for its divisors. The rival is told which step a sample comes from: knowing only the
 * mixture it would let one step be too sharp where another is too blurred. And a step is judged
 * only at moments with no more noise than it met, what little noise leaves alone being not its
 * doing; but at half of all moments at least. Where there is little noise, x is near the teacher's
 * x0, and what divides g is as small as the errors of both networks: soft keeps these small, too.
 *
 * x is the student's answer times `out` (process.h), which is large where there is much noise:
 * v = out^-even. No data are needed.
 *
 * dmd2 has the adversary too (on the teacher's features, as Sauer et al., 2024: LADD, have it):
 * heads learn, in the rival's turn, to tell data from samples, both with the noise of x_t.
 *
 *   student: loss - adversary * mean answer of the heads on x_t
 *   heads:   mean of max(0, 1 - answer on data) + max(0, 1 + answer on samples)
 */
#include "distill/models/heads.h"
#include "distill/methods/methods.h"

#include <math.h>

enum { EVERY, STEPS, EVEN, SOFT, ADVERSARY };

enum { MOMENTS = 1000 };

typedef struct own {
    ck_point *at, *next, *judged, *learned;
    size_t x, noise1, noise2, noise3, noise4, even, weight;
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
    o->noise4 = ck_distill_feed(d, "noise of the data", d->shape);
    o->even = ck_distill_coefficient(d, "even");
    o->weight = ck_distill_coefficient(d, "weight");
    ck_distill_keep_context(d);
    /* (Not where guidance is what it is told, nor where only factors of it are trained.) */
    if (steps > 1 && !ck_network_guided(&d->teacher) && !d->rival.adapter) {
        if (!ck_network_guided(&d->rival))
            CK_TRY(ck_network_tell(&d->rival, &d->rival_config, err));
        d->told = ck_distill_coefficient(d, "step");
    }
    return ck_graph_check(d->graph, err);
}

/* x, through which only a share of the gradient flows. */
static ck_node held_back(ck_graph *g, ck_node x, ck_node share) {
    ck_node known = ck_detach(g, x);
    return ck_add(g, known, ck_mul(g, ck_sub(g, x, known), share));
}

/* What the teacher's encoder sees in data with noise. */
static void look_at_data(ck_distill *d, ck_taps *taps) {
    const own *o = d->own;
    ck_network judge = d->teacher;
    ck_node caption = d->context == CK_NONE ? CK_NONE : d->feeds[CK_FEED_CONTEXT].node;
    judge.taps = taps;
    ck_node x = ck_distill_noisy(d, o->judged, d->x0, d->feeds[o->noise4].node);
    ck_distill_x0(d, &judge, x, o->judged, caption);
}

/* The heads' loss on data and samples. */
static ck_node learn_to_tell(ck_distill *d, const ck_taps *samples) {
    ck_taps data = {0}, known = *samples;
    look_at_data(d, &data);
    for (size_t i = 0; i < known.count; i++) known.node[i] = ck_detach(d->graph, known.node[i]);
    return ck_add(d->graph, ck_heads_hinge(d->graph, d->heads, &data, -1),
                  ck_heads_hinge(d->graph, d->heads, &known, 1));
}

/* The student's part. x: its samples; seen: these with noise, which the teacher's taps are of. */
static ck_status teach_student(ck_distill *d, ck_node x, ck_node noisy, ck_taps *taps,
                               ck_error *err) {
    const own *o = d->own;
    ck_graph *g = d->graph;
    ck_network judge = d->teacher;
    ck_node made = ck_detach(g, x), even = d->feeds[o->even].node;
    judge.taps = taps;
    ck_node real = ck_distill_guided(d, &judge, noisy, o->judged);
    ck_node frequent = ck_distill_x0(d, &d->rival, noisy, o->judged, d->context);
    ck_node size = ck_affine(g, mean_size(d, ck_sub(g, made, real)), 1, d->setting[SOFT]);
    ck_node scale = ck_unary_op(g, CK_RECIPROCAL, size, 0);
    ck_node push = ck_mul(g, ck_sub(g, frequent, real), scale);
    ck_node off = ck_sub(g, x, ck_detach(g, ck_sub(g, made, push)));
    ck_node loss = ck_affine(g, ck_mean(g, ck_mul(g, ck_mul(g, off, off), even)), 0.5, 0);
    if (d->heads)
        loss = ck_add(g, loss,
                      ck_affine(g, ck_heads_mean(g, d->heads, taps), -d->setting[ADVERSARY], 0));
    return ck_distill_part(d, loss, d->student.params, err);
}

static ck_status build(ck_distill *d, ck_error *err) {
    CK_TRY(prepare(d, err));
    own *o = d->own;
    ck_graph *g = d->graph;
    ck_taps taps = {0};
    ck_node x = ck_distill_x0(d, &d->student, d->feeds[o->x].node, o->at, d->context);
    ck_node made = ck_detach(g, x);
    d->feeds[o->x].from = ck_distill_noisy(d, o->next, made, d->feeds[o->noise3].node);

    ck_node judged = d->heads ? held_back(g, x, d->feeds[o->even].node) : made;
    judged = ck_distill_noisy(d, o->judged, judged, d->feeds[o->noise1].node);
    CK_TRY(teach_student(d, x, judged, &taps, err));

    ck_node noisy = ck_distill_noisy(d, o->learned, made, d->feeds[o->noise2].node);
    ck_node guess = ck_distill_x0(d, &d->rival, noisy, o->learned, d->context);
    ck_node loss = ck_distill_distance(d, guess, made, d->feeds[o->weight].node);
    if (d->heads) loss = ck_add(g, loss, learn_to_tell(d, &taps));
    CK_TRY(ck_distill_part(d, loss, d->rival.params, err));
    d->parts[1].heads = d->heads;
    return CK_OK;
}

/* The step that a sample is at: in the first rounds all have only begun. */
static size_t step_of(const ck_distill *d, size_t sample) {
    size_t steps = (size_t)d->setting[STEPS], k = (size_t)((d->round + sample) % steps);
    return k < d->round ? k : (size_t)d->round;
}

/* Of the moments from a share of the way on. */
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
    ck_distill_noise(d, 4, d->feeds[o->noise4].value);
    for (size_t i = 0; i < d->batch; i++) {
        size_t k = step_of(d, i);
        double low = fmin((double)k / d->setting[STEPS], 0.5);
        /* (2% to 98% of the way where it is judged: the ends say little.) */
        size_t judged = moment_of(low, 0.02 + 0.96 * ck_distill_uniform(d, 0, i));
        size_t learned = moment_of(low, ck_distill_uniform(d, 1, i));
        double out = fabs(ck_process_wrap(d->process, o->grid[k]).out);
        if (k == 0) begin(d, i);
        if (d->told != SIZE_MAX) d->feeds[d->told].value[i] = (float)(1 + k);
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

#define EVERY_SETTING                                                                              \
    { "every", 5, 1, 100, "steps of the rival for one of the student" }
#define STEPS_SETTING(usual)                                                                       \
    { "steps", usual, 1, 64, "steps of the student" }
#define EVEN_SETTING                                                                               \
    { "even", 0, 0, 2, "how much noisy moments are held back; 1: all push alike" }
#define SOFT_SETTING                                                                               \
    { "soft", 0, 0, 10, "what is small against this (in x0) pushes less" }

const ck_distill_method ck_distill_dmd = {
    .name = "dmd",
    .summary = "distribution matching: one step or a few, without data; three networks",
    .source = "Yin et al., 2024 (arXiv 2405.14867)",
    .settings = {EVERY_SETTING, STEPS_SETTING(1), EVEN_SETTING, SOFT_SETTING},
    .loss = CK_LOSS_L2,
    .steps = CK_STEPS_CONSISTENCY,
    .teacher = true,
    .rival = true,
    .free = true,
    .build = build,
    .draw = draw,
    .turn = turn,
};

const ck_distill_method ck_distill_dmd2 = {
    .name = "dmd2",
    .summary = "distribution matching with an adversary, who is shown data",
    .source = "Yin et al., 2024 (arXiv 2405.14867); Sauer et al., 2024 (arXiv 2403.12015)",
    .settings = {EVERY_SETTING,
                 STEPS_SETTING(4),
                 EVEN_SETTING,
                 SOFT_SETTING,
                 {"adversary", 0.01, 0, 100, "its share of the student's loss"}},
    .loss = CK_LOSS_L2,
    .steps = CK_STEPS_CONSISTENCY,
    .teacher = true,
    .rival = true,
    .heads = true,
    .build = build,
    .draw = draw,
    .turn = turn,
};
