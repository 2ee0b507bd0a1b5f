/* Progressive distillation (Salimans and Ho, 2022): a student learns to go in one step where its
 * teacher needs two; then it is the teacher. From `from` steps down to `to`, halving.
 *
 *   z'' = two DDIM steps of the teacher from z_t, through the middle of the student's step
 *   target = (z'' - (s'' / s) z_t) / (a'' - (s'' / s) a)      the x0 that leads from z_t to z''
 *   loss = w |student's x0 - target|^2
 *
 * Guidance is the first teacher's alone: from the second halving on the teacher has it inside.
 */
#include "distill/methods/methods.h"

enum { FROM, TO };

typedef struct own {
    ck_point *start, *middle, *end;
    size_t weight;
    size_t from;
    ck_moment grid[]; /* of `from` steps */
} own;

static size_t halvings(const ck_distill *d) {
    size_t n = 0;
    for (double steps = d->setting[FROM]; steps > d->setting[TO]; steps /= 2) n++;
    return n ? n : 1;
}

/* All halvings have the same share of the run. */
static size_t halving(const ck_distill *d, uint64_t step) {
    return (size_t)(step * halvings(d) / d->steps);
}

static bool promote(const ck_distill *d) {
    return d->step > 0 && halving(d, d->step) != halving(d, d->step - 1);
}

static ck_status build(ck_distill *d, ck_error *err) {
    size_t from = (size_t)d->setting[FROM], to = (size_t)d->setting[TO];
    if (to << halvings(d) != from)
        return ck_fail(err, CK_USAGE, "method.from %zu must be method.to %zu times a power of two",
                       from, to);
    CK_TRY(ck_distill_own(d, sizeof(own) + (from + 1) * sizeof(ck_moment), err));
    own *o = d->own;
    o->from = from;
    ck_process_grid(d->process, from, o->grid);
    o->start = ck_distill_point(d, "start");
    o->middle = ck_distill_point(d, "middle");
    o->end = ck_distill_point(d, "end");
    o->weight = ck_distill_coefficient(d, "weight");
    CK_TRY(ck_graph_check(d->graph, err));

    ck_graph *g = d->graph;
    ck_node z = ck_distill_noisy(d, o->start, d->x0, d->noise);
    ck_node half =
        ck_distill_move(d, z, ck_distill_guided(d, &d->teacher, z, o->start), o->start, o->middle);
    ck_node full = ck_distill_move(d, half, ck_distill_guided(d, &d->teacher, half, o->middle),
                                   o->middle, o->end);
    ck_node ratio = ck_mul(g, o->end->node[CK_AT_S], o->start->node[CK_AT_INVERSE]);
    ck_node way = ck_sub(g, o->end->node[CK_AT_A], ck_mul(g, ratio, o->start->node[CK_AT_A]));
    ck_node target =
        ck_mul(g, ck_sub(g, full, ck_mul(g, z, ratio)), ck_unary_op(g, CK_RECIPROCAL, way, 0));
    ck_node x0 = ck_distill_x0(d, &d->student, z, o->start, d->context);
    ck_node loss = ck_distill_distance(d, x0, target, d->feeds[o->weight].node);
    return ck_distill_part(d, loss, d->student.params, err);
}

static void draw(ck_distill *d) {
    own *o = d->own;
    bool told = ck_network_guided(&d->teacher);
    size_t now = halving(d, d->step), stride = (size_t)2 << now, steps = o->from / stride;
    for (size_t i = 0; i < d->batch; i++) {
        size_t at = (size_t)(ck_distill_uniform(d, 0, i) * (double)steps) * stride;
        ck_point_set(d, o->start, i, o->grid[at]);
        ck_point_set(d, o->middle, i, o->grid[at + stride / 2]);
        ck_point_set(d, o->end, i, o->grid[at + stride]);
        d->feeds[o->weight].value[i] = (float)ck_process_weight(d->process, o->grid[at]);
        if (d->scale != SIZE_MAX)
            d->feeds[d->scale].value[i] = now && !told ? 1 : (float)d->guidance;
    }
}

const ck_distill_method ck_distill_pd = {
    .name = "pd",
    .summary = "progressive distillation: half as many steps, again and again",
    .source = "Salimans and Ho, 2022 (arXiv 2202.00512)",
    .settings = {{"from", 32, 2, 4096, "steps of the first teacher"},
                 {"to", 1, 1, 2048, "steps of the last student"}},
    .loss = CK_LOSS_L2,
    .steps = CK_STEPS_DDIM,
    .teacher = true,
    .follows = true,
    .build = build,
    .draw = draw,
    .promote = promote,
};
