/* Spherical interpolation of two models, tensor by tensor. */
#include "merge/method.h"

#include <math.h>

static int same_as(const ck_value *v, size_t inputs) {
    (void)inputs;
    double alpha = v[0].items[0];
    return alpha == 0 ? 0 : alpha == 1 ? 1 : -1;
}

enum { MECHA = 1 };

static void combine(const ck_arguments *args, const double *gram, double *coefficients) {
    double alpha = args->values[0].items[0], a = sqrt(gram[0]), b = sqrt(gram[3]);
    double cosine = a * b > 0 ? fmax(-1, fmin(1, gram[1] / (a * b))) : 1;
    double angle = acos(cosine);
    coefficients[0] = 1 - alpha;
    coefficients[1] = alpha;
    /* Nearly parallel (or one is zero): the arc is a line, and the formula would divide by zero. */
    if (args->compat == MECHA ? sin(angle) == 0 : fabs(cosine) > 0.9995) return;
    coefficients[0] = sin((1 - alpha) * angle) / sin(angle);
    coefficients[1] = sin(alpha * angle) / sin(angle);
    if (args->compat == MECHA) {
        coefficients[0] *= (a + alpha * (b - a)) / a;
        coefficients[1] *= (a + alpha * (b - a)) / b;
    }
}

extern const ck_method ck_slerp;
const ck_method ck_slerp = {
    .name = "slerp",
    .title = "SLERP",
    .formula = "(sin((1 - alpha) w) A + sin(alpha w) B) / sin(w), w the angle between A and B",
    .doc =
        "Each tensor as one vector. Where |cos w| > 0.9995 it is the weighted sum. As mergekit's "
        "slerp, on vectors as long as they are; sd-mecha, and --compat mecha, turn unit vectors "
        "and "
        "give the result the interpolated length. A tensor that B lacks is A's.",
    .min_inputs = 2,
    .max_inputs = 2,
    .parameters = {{.name = "alpha", .fallback = 0.5, .help = "share of B; 0 is A, 1 is B"}},
    .compat = "mecha",
    .same_as = same_as,
    .combine = combine,
};
