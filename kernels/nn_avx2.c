/* Neural network kernels for x86-64 with AVX2 and FMA (since 2013). */
#if defined(__x86_64__)
#include <immintrin.h>

#define SUFFIX              avx2
#define TARGET              __attribute__((target("avx2,fma")))
#define VL                  8
#define FMA(a, b, c)        __builtin_fmaf(a, b, c)
#define VECTOR_FMA(a, b, c) ((vf)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))

#include "kernels/nn_template.h"
#endif
