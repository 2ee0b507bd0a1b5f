/* Neural network kernels for x86-64 with AVX-512 (F, BW, DQ, VL). */
#if defined(__x86_64__)
#include <immintrin.h>

#define SUFFIX              avx512
#define TARGET              __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define VL                  16
#define FMA(a, b, c)        __builtin_fmaf(a, b, c)
#define VECTOR_FMA(a, b, c) ((vf)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))

#include "kernels/nn_template.h"
#endif
