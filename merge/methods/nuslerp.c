/* Spherical interpolation of what two models learned over a base. */
#include "merge/method.h"

#include <math.h>

enum { WEIGHT };

static ck_status check(const ck_arguments *args, ck_error *err) {
    const ck_value *v = args->values;
    if (fabs(v[WEIGHT].items[0] + v[WEIGHT].items[1]) < 1e-6)
        return ck_fail(err, CK_USAGE, "nuslerp: the weights add up to 0");
    return CK_OK;
}

static void combine(const ck_arguments *args, const double *gram, double *c) {
    const ck_value *v = args->values;
    size_t n = args->inputs;
    double t = v[WEIGHT].items[1] / (v[WEIGHT].items[0] + v[WEIGHT].items[1]);
    /* Of a = A - BASE and b = B - BASE; the base is input 0. */
    double aa = gram[n + 1] - 2 * gram[1] + gram[0], bb = gram[2 * n + 2] - 2 * gram[2] + gram[0];
    double ab = gram[n + 2] - gram[1] - gram[2] + gram[0];
    double lengths = sqrt(fmax(aa, 0)) * sqrt(fmax(bb, 0));
    double cosine = lengths > 0 ? fmax(-1, fmin(1, ab / lengths)) : 1, angle = acos(cosine);
    double share_a = 1 - t, share_b = t;
    /* (Parallel, opposite, or one of them did not move: the line.) */
    if (sin(angle) > 1e-8) {
        share_a = sin((1 - t) * angle) / sin(angle);
        share_b = sin(t * angle) / sin(angle);
    }
    c[0] = 1 - share_a - share_b;
    c[1] = share_a;
    c[2] = share_b;
}

extern const ck_method ck_nuslerp;
const ck_method ck_nuslerp = {
    .name = "nuslerp",
    .title = "NuSLERP",
    .formula = "BASE + (sin((1 - t) w) a + sin(t w) b) / sin(w), a = A - BASE, b = B - BASE, w the "
               "angle between them, t = w2 / (w1 + w2)",
    .doc = "The base is the first model (or --base). Each tensor as one vector. As mergekit's "
           "nuslerp with a base and nuslerp_flatten, its default; by rows or columns it is not "
           "done. Without a base it is slerp. For a tensor that a model lacks, the base stands in.",
    .min_inputs = 3,
    .max_inputs = 3,
    .parameters = {{.name = "weight", .fallback = 1, .list = true, .help = "one weight per model"}},
    .has_base = true,
    .first_stands_in = true,
    .check = check,
    .combine = combine,
};
