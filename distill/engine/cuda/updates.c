/* See updates.h. */
#include "distill/engine/cuda/updates.h"

/* Some weights at a time, so that the program waits for the card once for all of them. */
double ck_gpu_squares_of(const ck_gpu_memory *g, const ck_trained *slices, size_t count) {
    float sums[CK_GPU_SUMS], *there = g->partial + CK_GPU_SQUARES;
    double total = 0;
    for (size_t first = 0; first < count; first += CK_GPU_SUMS) {
        size_t some = count - first < CK_GPU_SUMS ? count - first : CK_GPU_SUMS;
        for (size_t i = 0; i < some; i++)
            ck_gpu_squares(g->stream, there + i, slices[first + i].gradient,
                           (int64_t)slices[first + i].n, g->partial);
        g->read(sums, there, some * sizeof *sums);
        for (size_t i = 0; i < some; i++) total += sums[i];
    }
    return total;
}

void ck_gpu_adamw_of(const ck_gpu_memory *g, const ck_adamw_step *step, const ck_trained *slices,
                     size_t count) {
    const ck_gpu_adamw with = {.beta1 = step->beta1,
                               .beta2 = step->beta2,
                               .eps = step->eps,
                               .keep = step->keep,
                               .step = step->step,
                               .root = step->root,
                               .scale = step->scale};
    for (size_t i = 0; i < count; i++)
        ck_gpu_adamw_step(g->stream, &with, slices[i].value, slices[i].first, slices[i].second,
                          slices[i].gradient, (int64_t)slices[i].n);
}
