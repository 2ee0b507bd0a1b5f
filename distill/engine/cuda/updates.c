/* See updates.h. Weights go to the kernels as these list them, as many at once as they take. */
#include "distill/engine/cuda/updates.h"

static size_t some_of(size_t left) {
    return left < CK_GPU_PIECES ? left : CK_GPU_PIECES;
}

void ck_gpu_squares_of(ck_gpu_stream stream, const ck_trained *slices, size_t count, double *sums,
                       float *partial) {
    ck_gpu_piece pieces[CK_GPU_PIECES];
    for (size_t at = 0, n; at < count; at += n) {
        n = some_of(count - at);
        for (size_t i = 0; i < n; i++)
            pieces[i] = (ck_gpu_piece){.to = sums + at + i,
                                       .from = slices[at + i].gradient,
                                       .n = (int64_t)slices[at + i].n};
        ck_gpu_squares(stream, pieces, (int)n, partial);
    }
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
    ck_gpu_piece pieces[CK_GPU_PIECES];
    for (size_t at = 0, n; at < count; at += n) {
        n = some_of(count - at);
        for (size_t i = 0; i < n; i++) {
            const ck_trained *s = &slices[at + i];
            pieces[i] =
                (ck_gpu_piece){s->value, s->gradient, s->first, s->second, (int64_t)s->n, 0};
        }
        ck_gpu_adamw_step(stream, &with, pieces, (int)n);
    }
}

static size_t some_pairs(ck_gpu_piece pieces[CK_GPU_PIECES], const ck_pair *pairs, size_t left) {
    size_t n = some_of(left);
    for (size_t i = 0; i < n; i++)
        pieces[i] =
            (ck_gpu_piece){.to = pairs[i].to, .from = pairs[i].from, .n = (int64_t)pairs[i].n};
    return n;
}

void ck_gpu_average_of(ck_gpu_stream stream, const ck_pair *pairs, size_t count, float change) {
    ck_gpu_piece pieces[CK_GPU_PIECES];
    for (size_t at = 0, n; at < count; at += n) {
        n = some_pairs(pieces, pairs + at, count - at);
        ck_gpu_average(stream, pieces, (int)n, change);
    }
}

void ck_gpu_add_of(ck_gpu_stream stream, const ck_pair *pairs, size_t count, float factor) {
    ck_gpu_piece pieces[CK_GPU_PIECES];
    for (size_t at = 0, n; at < count; at += n) {
        n = some_pairs(pieces, pairs + at, count - at);
        ck_gpu_add_scaled(stream, pieces, (int)n, factor);
    }
}

void ck_gpu_round_of(ck_gpu_stream stream, const ck_copied *copies, size_t count,
                     const ck_rounding *how) {
    const ck_gpu_rounding with =
        how ? (ck_gpu_rounding){how->seed, how->step} : (ck_gpu_rounding){0, 0};
    ck_gpu_piece pieces[CK_GPU_PIECES];
    for (size_t at = 0, n; at < count; at += n) {
        n = some_of(count - at);
        for (size_t i = 0; i < n; i++) {
            const ck_copied *c = &copies[at + i];
            pieces[i] = (ck_gpu_piece){
                .to = c->copy, .from = c->value, .n = (int64_t)c->n, .stream = c->stream};
        }
        ck_gpu_round(stream, pieces, (int)n, how ? &with : NULL);
    }
}
