/* The optimiser's work by the kernels of kernels/cuda: what a ck_updates of a card is made of.
 *
 *   static const ck_gpu_memory memory = {stream, partial, room, read};
 *   static double squares(const ck_trained *s, size_t n) { return ck_gpu_squares_of(&memory, s, n);
 * }
 */
#ifndef CK_GPU_UPDATES_H
#define CK_GPU_UPDATES_H

#include "distill/engine/update.h"
#include "kernels/cuda/kernels.h"

/* Where sums are put before the program sees them. */
typedef struct ck_gpu_memory {
    ck_gpu_stream stream;
    float *partial; /* CK_GPU_SQUARES floats, and CK_GPU_SUMS behind */
    void (*read)(void *dst, const void *src, size_t bytes);
} ck_gpu_memory;

enum { CK_GPU_SUMS = 256 };

double ck_gpu_squares_of(const ck_gpu_memory *g, const ck_trained *slices, size_t count);
void ck_gpu_adamw_of(const ck_gpu_memory *g, const ck_adamw_step *step, const ck_trained *slices,
                     size_t count);

#endif
