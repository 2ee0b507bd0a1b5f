/* Add difference where A and B disagree, average where they agree. */
#include "merge/method.h"
#include "merge/methods/vectors.h"

#include <math.h>

enum { ALPHA, BETA };

CK_VECTORS static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in,
                             float *out, size_t n) {
    const ck_value *v = args->values;
    (void)k;
    float alpha = (float)v[ALPHA].items[0], beta = (float)v[BETA].items[0];
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        float a = in[0][i], b = in[1][i], c = in[2][i];
        float larger = fabsf(a) > fabsf(b) ? fabsf(a) : fabsf(b);
        /* Two zeros agree. */
        float agree = larger == 0 ? beta : beta * ((a / larger * (b / larger) + 1) / 2);
        float added = a + alpha * (b - c), mixed = (1 - alpha / 2) * a + alpha / 2 * b;
        out[i] = (1 - agree) * added + agree * mixed;
    }
}

extern const ck_method ck_similarity;
const ck_method ck_similarity = {
    .name = "similarity",
    .title = "Similarity add difference",
    .formula = "(1 - s) (A + alpha (B - C)) + s ((1 - alpha/2) A + alpha/2 B), "
               "s = beta (A B / max(|A|, |B|)^2 + 1) / 2",
    .doc = "Element by element: where A and B point the same way they are mixed, where they do not "
           "the "
           "difference is added. As meh has it. A tensor that B or C lacks is A's.",
    .min_inputs = 3,
    .max_inputs = 3,
    .parameters = {{.name = "alpha", .fallback = 0.5, .help = "strength of difference and mix"},
                   {.name = "beta", .fallback = 1, .help = "how much similarity counts"}},
    .block = block,
};
