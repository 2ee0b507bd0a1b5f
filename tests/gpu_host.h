/* The GPU's operations on the processor: every line of kernels/cuda and distill/cuda/operations.c
 * as a backend that needs no card. Products and convolutions, which a card has from libraries, are
 * plain loops and the reference's. */
#ifndef CK_TESTS_GPU_HOST_H
#define CK_TESTS_GPU_HOST_H

#include "distill/backend.h"

extern const ck_backend ck_gpu_host;

#endif
