/* Plain diffusion training: what a model is made with, and made another with.
 *
 *   loss = w |x0 - student's x0 of (a x0 + s noise)|^2
 *
 * at moments drawn as models are trained, with the weight that makes it the error of the network's
 * own answer (epsilon's of noise, v's of v; EDM: 1 / c_out^2).
 */
#include "distill/methods/methods.h"

#include <math.h>

typedef struct own {
    ck_point *at;
    size_t weight;
} own;

static ck_status build(ck_distill *d, ck_error *err) {
    CK_TRY(ck_distill_own(d, sizeof(own), err));
    own *o = d->own;
    o->at = ck_distill_point(d, "at");
    o->weight = ck_distill_coefficient(d, "weight");
    CK_TRY(ck_graph_check(d->graph, err));
    ck_node x = ck_distill_noisy(d, o->at, d->x0, d->noise);
    ck_node x0 = ck_distill_x0(d, &d->student, x, o->at, d->context);
    ck_node loss = ck_distill_distance(d, x0, d->x0, d->feeds[o->weight].node);
    return ck_distill_part(d, loss, d->student.params, err);
}

static void draw(ck_distill *d) {
    const own *o = d->own;
    ck_distill_draw_training(d, o->at, o->weight);
}

const ck_distill_method ck_distill_finetune = {
    .name = "finetune",
    .summary = "plain diffusion training, without a teacher",
    .source = "Ho et al., 2020; Karras et al., 2022",
    .loss = CK_LOSS_L2,
    .steps = CK_STEPS_DDIM,
    .build = build,
    .draw = draw,
};
