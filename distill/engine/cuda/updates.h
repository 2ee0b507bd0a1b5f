/* The optimiser's work by the kernels of kernels/cuda: what a ck_updates of a card is made of.
 *
 *   static void adamw(const ck_adamw_step *step, const ck_trained *slices, size_t count) {
 *       ck_gpu_adamw_of(stream, step, slices, count);
 *   }
 */
#ifndef CK_GPU_UPDATES_H
#define CK_GPU_UPDATES_H

#include "distill/engine/update.h"
#include "kernels/cuda/kernels.h"

/* partial: CK_GPU_SQUARES floats. */
void ck_gpu_squares_of(ck_gpu_stream stream, const ck_trained *slices, size_t count, double *sums,
                       float *partial);
void ck_gpu_adamw_of(ck_gpu_stream stream, const ck_adamw_step *step, const ck_trained *slices,
                     size_t count);
void ck_gpu_average_of(ck_gpu_stream stream, const ck_pair *pairs, size_t count, float change);
void ck_gpu_add_of(ck_gpu_stream stream, const ck_pair *pairs, size_t count, float factor);
void ck_gpu_round_of(ck_gpu_stream stream, const ck_copied *copies, size_t count,
                     const ck_rounding *how);

#endif
