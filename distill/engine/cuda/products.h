/* Products of matrices by cuBLASLt. An algorithm is chosen once for every kind of product, by the
 * library's own judgement, and kept (choices.h): so are the bits.
 */
#ifndef CK_CUDA_PRODUCTS_H
#define CK_CUDA_PRODUCTS_H

#include "distill/engine/cuda/operations.h"

/* How numbers are multiplied; sums are in f32. */
typedef enum ck_cuda_precision {
    CK_CUDA_F32,
    CK_CUDA_TF32, /* factors rounded to 10 bits */
    CK_CUDA_BF16, /* factors are of bf16 */
} ck_cuda_precision;

ck_status ck_cuda_products_open(ck_error *err);
size_t ck_cuda_products_version(void);
/* Whether a text is the choice of an algorithm. */
bool ck_cuda_is_product_choice(const char *text);
/* See ck_gpu_library. */
void ck_cuda_product(ck_cuda_precision precision, const ck_gpu_product *p, const void *a,
                     const void *b, const void *row, const void *more, void *c);

#endif
