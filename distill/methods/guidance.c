/* Guidance distillation (Meng et al., 2022): classifier-free guidance, two passes a step, into one.
 *
 *   loss = w |student's x0 of x_t - teacher's guided x0 of x_t|^2
 *
 * The scale is `guidance`, or drawn for each sample; a student that is told it (guidance_width, as
 * FLUX.1 dev is) then has it as a dial.
 */
#include "distill/methods/methods.h"

enum { LEAST, MOST };

typedef struct own {
    ck_point *at;
    size_t weight;
} own;

static ck_status build(ck_distill *d, ck_error *err) {
    if (d->guidance == 1 && d->setting[MOST] == 0)
        return ck_fail(err, CK_USAGE, "method guidance needs a 'guidance' other than 1");
    CK_TRY(ck_distill_own(d, sizeof(own), err));
    own *o = d->own;
    o->at = ck_distill_point(d, "at");
    o->weight = ck_distill_coefficient(d, "weight");
    ck_distill_ask_guidance(d, MOST);
    CK_TRY(ck_graph_check(d->graph, err));
    ck_node x = ck_distill_noisy(d, o->at, d->x0, d->noise);
    ck_node target = ck_distill_guided(d, &d->teacher, x, o->at);
    ck_node x0 = ck_distill_x0(d, &d->student, x, o->at, d->context);
    ck_node loss = ck_distill_distance(d, x0, target, d->feeds[o->weight].node);
    return ck_distill_part(d, loss, d->student.params, err);
}

static void draw(ck_distill *d) {
    own *o = d->own;
    ck_distill_draw_guidance(d, LEAST, MOST);
    for (size_t i = 0; i < d->batch; i++) {
        ck_moment m = ck_process_draw(d->process, ck_distill_uniform(d, 0, i));
        ck_point_set(d, o->at, i, m);
        d->feeds[o->weight].value[i] = (float)ck_process_weight(d->process, m);
    }
}

const ck_distill_method ck_distill_guidance = {
    .name = "guidance",
    .summary = "guidance inside: one pass instead of two",
    .source = "Meng et al., 2022 (arXiv 2210.03142)",
    .settings = {CK_SETTING_LEAST, CK_SETTING_MOST},
    .loss = CK_LOSS_L2,
    .steps = CK_STEPS_DDIM,
    .teacher = true,
    .follows = true,
    .build = build,
    .draw = draw,
};
