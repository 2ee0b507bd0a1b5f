/* B where it is near A. */
#include "merge/method.h"
#include "merge/methods/vectors.h"

#include <math.h>

CK_VECTORS static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in,
                             float *out, size_t n) {
    const ck_value *v = args->values;
    (void)k;
    float t = (float)v[0].items[0];
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        float a = in[0][i], b = in[1][i], apart = fabsf(a - b);
        float w = t / (apart > 1e-6f ? apart : 1e-6f);
        w = w > 1 ? 1 : w < 0 ? 0 : w;
        out[i] = a + w * (b - a);
    }
}

extern const ck_method ck_near_swap;
const ck_method ck_near_swap = {
    .name = "near-swap",
    .title = "Near swap",
    .formula = "(1 - w) A + w B, w = t / |A - B| within 0..1",
    .doc = "Moves A towards B by at most t per element: where they are nearer than that, B is "
           "taken. As "
           "mergekit's nearswap. A tensor that B lacks is A's.",
    .min_inputs = 2,
    .max_inputs = 2,
    .parameters = {{.name = "t", .fallback = 0.0001, .help = "distance within which B is taken"}},
    .block = block,
};
