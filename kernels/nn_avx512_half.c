/* The kernels of nn_avx512.c for arrays of bf16. */
#if defined(__x86_64__)
#include <immintrin.h>

#define SUFFIX avx512_half
#define HALF
#define TARGET       __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")))
#define VL           16
#define FMA(a, b, c) __builtin_fmaf(a, b, c)

#include "kernels/nn_template.h"
#endif
