/* Continuous-time consistency distillation (sCM; Lu and Song, 2024), with the derivative along the
 * trajectory as a difference of two forward passes instead of a Jacobian-vector product.
 *
 * On the circle x = cos t x0 + sin t z with z of the data's deviation d, F says where x goes:
 * dx/dt = d F, x0 = cos t x - sin t d F. With the teacher's dx/dt, and x' = cos h x - sin h dx/dt:
 *
 *   J = cos t sin t (cos h F(x, t) - F(x', t - h)) / sin h
 *   g = -cos^2 t (d F - dx/dt) - r (cos t sin t x + d J);   r grows from 0 to 1 in the warm-up
 *   g <- g / (root mean square of g + 0.1)
 *   loss = |F - F' - g|^2, where F' is the student's F without gradient
 */
#include "distill/methods/methods.h"

#include <math.h>

enum { MEAN, DEVIATION, WARMUP, H };

typedef struct own {
    ck_point *at, *before;
    size_t cosine, sine;   /* of t */
    size_t cosine1, sine1; /* of t - h */
    size_t trust;          /* r */
} own;

/* The network's x0 of x of the circle: a x / cos t is what the process calls x there. The teacher
 * is guided, the student is to need no guidance. */
static ck_node x0_of(ck_distill *d, const ck_network *n, ck_node x, const ck_point *p,
                     ck_node cosine) {
    ck_graph *g = d->graph;
    ck_node scale = ck_mul(g, p->node[CK_AT_A], ck_unary_op(g, CK_RECIPROCAL, cosine, 0));
    x = ck_mul(g, x, scale);
    return n == &d->teacher ? ck_distill_guided(d, n, x, p) : ck_distill_x0(d, n, x, p, d->context);
}

/* F by that x0. */
static ck_node field(ck_distill *d, const ck_network *n, ck_node x, const ck_point *p,
                     size_t cosine, size_t sine) {
    ck_graph *g = d->graph;
    ck_node c = d->feeds[cosine].node, s = d->feeds[sine].node;
    ck_node way = ck_sub(g, ck_mul(g, x, c), x0_of(d, n, x, p, c));
    double data = ck_process_data(d->process);
    return ck_mul(g, way, ck_unary_op(g, CK_RECIPROCAL, ck_affine(g, s, data, 0), 0));
}

static ck_node normalised(ck_distill *d, ck_node x) {
    ck_graph *g = d->graph;
    ck_shape each = d->shape;
    double n = 1;
    for (int i = 1; i < each.rank; i++) n *= (double)each.d[i], each.d[i] = 1;
    ck_node square = ck_affine(g, ck_sum_to(g, ck_mul(g, x, x), each), 1 / n, 0);
    ck_node size = ck_affine(g, ck_unary_op(g, CK_SQRT, square, 0), 1, 0.1);
    return ck_mul(g, x, ck_unary_op(g, CK_RECIPROCAL, size, 0));
}

static ck_status build(ck_distill *d, ck_error *err) {
    CK_TRY(ck_distill_own(d, sizeof(own), err));
    own *o = d->own;
    o->at = ck_distill_point(d, "at");
    o->before = ck_distill_point(d, "before");
    o->cosine = ck_distill_coefficient(d, "cosine");
    o->sine = ck_distill_coefficient(d, "sine");
    o->cosine1 = ck_distill_coefficient(d, "cosine before");
    o->sine1 = ck_distill_coefficient(d, "sine before");
    o->trust = ck_distill_coefficient(d, "trust");
    CK_TRY(ck_graph_check(d->graph, err));
    ck_graph *g = d->graph;
    double data = ck_process_data(d->process), h = d->setting[H];
    ck_node c = d->feeds[o->cosine].node, s = d->feeds[o->sine].node, both = ck_mul(g, c, s);
    ck_node x = ck_add(g, ck_mul(g, d->x0, c), ck_affine(g, ck_mul(g, d->noise, s), data, 0));

    ck_node motion = ck_affine(g, field(d, &d->teacher, x, o->at, o->cosine, o->sine), data, 0);
    ck_node answer = field(d, &d->student, x, o->at, o->cosine, o->sine);
    ck_node known = ck_detach(g, answer);
    ck_node earlier = ck_sub(g, ck_affine(g, x, cos(h), 0), ck_affine(g, motion, sin(h), 0));
    ck_node there = field(d, &d->student, earlier, o->before, o->cosine1, o->sine1);
    ck_node change =
        ck_affine(g, ck_sub(g, ck_affine(g, known, cos(h), 0), there), data / sin(h), 0);
    ck_node along = ck_mul(g, ck_mul(g, ck_add(g, x, change), both), d->feeds[o->trust].node);
    ck_node wrong = ck_mul(g, ck_sub(g, ck_affine(g, known, data, 0), motion), ck_mul(g, c, c));
    ck_node push = ck_affine(g, ck_add(g, wrong, along), -1, 0);
    ck_node target = ck_add(g, known, normalised(d, push));
    return ck_distill_part(d, ck_distill_distance(d, answer, target, CK_NONE), d->student.params,
                           err);
}

static void draw(ck_distill *d) {
    own *o = d->own;
    double data = ck_process_data(d->process), h = d->setting[H];
    double trust = fmin(1, (double)d->step / fmax(d->setting[WARMUP], 1));
    for (size_t i = 0; i < d->batch; i++) {
        double z = ck_distill_normal(d, 0, i);
        ck_moment m = ck_process_at(d->process, exp(d->setting[MEAN] + d->setting[DEVIATION] * z));
        double t = fmax(atan(m.sigma / data), 2 * h);
        ck_point_set(d, o->at, i, ck_process_at(d->process, data * tan(t)));
        ck_point_set(d, o->before, i, ck_process_at(d->process, data * tan(t - h)));
        d->feeds[o->cosine].value[i] = (float)cos(t);
        d->feeds[o->sine].value[i] = (float)sin(t);
        d->feeds[o->cosine1].value[i] = (float)cos(t - h);
        d->feeds[o->sine1].value[i] = (float)sin(t - h);
        d->feeds[o->trust].value[i] = (float)trust;
    }
}

const ck_distill_method ck_distill_scm = {
    .name = "scm",
    .summary = "continuous-time consistency, by finite differences",
    .source = "Lu and Song, 2024 (arXiv 2410.11081)",
    .settings = {{"mean", -1, -10, 10, "mean of ln sigma"},
                 {"deviation", 1.4, 0.01, 10, "standard deviation of ln sigma"},
                 {"warmup", 1000, 0, 1e9, "steps in which the derivative comes in"},
                 {"h", 1e-3, 1e-5, 0.1, "angle of the difference"}},
    .loss = CK_LOSS_L2,
    .steps = CK_STEPS_CONSISTENCY,
    .teacher = true,
    .follows = true,
    .build = build,
    .draw = draw,
};
