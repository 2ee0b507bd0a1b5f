/* See updates.h. */
#include "distill/engine/cuda/updates.h"

void ck_gpu_squares_of(ck_gpu_stream stream, const ck_trained *slices, size_t count, double *sums,
                       float *partial) {
    for (size_t i = 0; i < count; i++)
        ck_gpu_squares(stream, sums + i, slices[i].gradient, (int64_t)slices[i].n, partial);
}

void ck_gpu_adamw_of(ck_gpu_stream stream, const ck_adamw_step *step, const ck_trained *slices,
                     size_t count) {
    const ck_gpu_adamw with = {.beta1 = step->beta1,
                               .beta2 = step->beta2,
                               .eps = step->eps,
                               .keep = step->keep,
                               .step = step->step,
                               .root = step->root,
                               .scale = step->scale};
    for (size_t i = 0; i < count; i++)
        ck_gpu_adamw_step(stream, &with, slices[i].value, slices[i].first, slices[i].second,
                          slices[i].gradient, (int64_t)slices[i].n);
}

void ck_gpu_round_of(ck_gpu_stream stream, uint16_t *copy, const float *value, size_t n,
                     const ck_rounding *how) {
    ck_gpu_rounding with = {0};
    if (how) with = (ck_gpu_rounding){how->seed, how->step, how->stream};
    ck_gpu_round(stream, copy, value, (int64_t)n, how ? &with : NULL);
}
