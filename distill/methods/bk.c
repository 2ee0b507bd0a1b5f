/* Knowledge distillation to a smaller student (BK-SDM; Kim et al., 2023): it learns what its
 * teacher answers, block after block, and what is true. The student has fewer blocks
 * (student_layers, student_middle) and as many steps as its teacher.
 *
 *   loss = data |F - truth|^2 + answer |F - teacher's F|^2 + features sum |block - teacher's
 * block|^2
 *
 * where F is the network's own answer (of noise, v, ...), and blocks are compared that both have.
 */
#include "distill/methods/methods.h"

enum { DATA, ANSWER, FEATURES };

typedef struct own {
    ck_point *at;
    size_t weight;
} own;

static ck_node difference(ck_graph *g, ck_node a, ck_node b) {
    ck_node off = ck_sub(g, a, ck_detach(g, b));
    return ck_mean(g, ck_mul(g, off, off));
}

/* The sum over blocks. A student without a middle block has one less on the way down. */
static ck_node features(ck_graph *g, const ck_taps *student, const ck_taps *teacher) {
    size_t down = student->encoder < teacher->encoder ? student->encoder : teacher->encoder;
    ck_node sum = CK_NONE;
    for (size_t i = 0; i < student->count; i++) {
        if (i >= down && i < student->encoder) continue;
        size_t k = i < down ? i : i - student->encoder + teacher->encoder;
        ck_node one = difference(g, student->node[i], teacher->node[k]);
        sum = sum == CK_NONE ? one : ck_add(g, sum, one);
    }
    return sum;
}

static ck_status build(ck_distill *d, ck_error *err) {
    CK_TRY(ck_distill_own(d, sizeof(own), err));
    own *o = d->own;
    o->at = ck_distill_point(d, "at");
    o->weight = ck_distill_coefficient(d, "weight");
    CK_TRY(ck_graph_check(d->graph, err));
    ck_graph *g = d->graph;
    ck_taps ours = {0}, theirs = {0};
    ck_network student = d->student, teacher = d->teacher;
    student.taps = &ours, teacher.taps = &theirs;
    ck_node x = ck_distill_noisy(d, o->at, d->x0, d->noise), weight = d->feeds[o->weight].node;
    ck_node target = ck_distill_guided(d, &teacher, x, o->at);
    ck_node x0 = ck_distill_x0(d, &student, x, o->at, d->context);
    ck_node truth = ck_distill_distance(d, x0, d->x0, weight);
    ck_node answer = ck_distill_distance(d, x0, target, weight);
    ck_node loss = ck_add(g, ck_affine(g, truth, d->setting[DATA], 0),
                          ck_affine(g, answer, d->setting[ANSWER], 0));
    CK_TRY(ck_graph_check(g, err));
    loss = ck_add(g, loss, ck_affine(g, features(g, &ours, &theirs), d->setting[FEATURES], 0));
    return ck_distill_part(d, loss, d->student.params, err);
}

static void draw(ck_distill *d) {
    const own *o = d->own;
    ck_distill_draw_training(d, o->at, o->weight);
}

const ck_distill_method ck_distill_bk = {
    .name = "bk",
    .summary = "a smaller student: answers and features of its teacher",
    .source = "Kim et al., 2023 (arXiv 2305.15798)",
    .settings = {{"data", 1, 0, 100, "weight of the truth"},
                 {"answer", 1, 0, 100, "weight of the teacher's answer"},
                 {"features", 1, 0, 100, "weight of its blocks"}},
    .loss = CK_LOSS_L2,
    .steps = CK_STEPS_DDIM,
    .teacher = true,
    .build = build,
    .draw = draw,
};
