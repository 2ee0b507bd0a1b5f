/* Adds of one model's change only what another's does not have already. */
#include "merge/method.h"

static int same_as(const ck_value *v, size_t inputs) {
    (void)inputs;
    return v[0].items[0] == 0 ? 1 : -1;
}

static void combine(const ck_arguments *args, const double *gram, double *c) {
    const ck_value *v = args->values;
    size_t n = args->inputs;
    double alpha = v[0].items[0];
    /* a = A - BASE, b = B - BASE; the base is input 0. */
    double aa = gram[n + 1] - 2 * gram[1] + gram[0];
    double ab = gram[n + 2] - gram[1] - gram[2] + gram[0];
    double along = aa > 0 ? ab / aa : 0;
    c[0] = -alpha * (1 - along);
    c[1] = 1 - alpha * along;
    c[2] = alpha;
}

extern const ck_method ck_perpendicular;
const ck_method ck_perpendicular = {
    .name = "perpendicular",
    .title = "Add perpendicular",
    .formula = "A + alpha (b - a <a, b> / <a, a>), a = A - BASE, b = B - BASE",
    .doc =
        "The base is the first model (or --base). Each tensor as one vector: the part of B's "
        "change that is at right angles to A's. As sd-mecha's add_perpendicular. Where A did not "
        "change, all of B's change is added. For a tensor that a model lacks, the base stands "
        "in.",
    .min_inputs = 3,
    .max_inputs = 3,
    .parameters = {{.name = "alpha", .fallback = 1, .help = "how much of it is added"}},
    .has_base = true,
    .first_stands_in = true,
    .same_as = same_as,
    .combine = combine,
};
