/* Merge kernels for x86-64 with AVX-512 (F, BW, DQ, VL). */
#if defined(__x86_64__)
#include <immintrin.h>

#define SUFFIX          avx512
#define TARGET          __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define VL              16
#define FMA(a, b, c)    ((vf)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define MUL_EVEN(a, b)  ((vu64)_mm512_mul_epu32((__m512i)(a), (__m512i)(b)))
#define PAIR_LOW(a, b)  ((vu64)_mm512_unpacklo_epi64((__m512i)(a), (__m512i)(b)))
#define PAIR_HIGH(a, b) ((vu64)_mm512_unpackhi_epi64((__m512i)(a), (__m512i)(b)))

#define F16_DECODE(h) ((vf)_mm512_cvtph_ps((__m256i)(h)))
#define F16_ENCODE(x) ((vu16)_mm512_cvtps_ph((__m512)(x), _MM_FROUND_TO_NEAREST_INT))
#define WIDEN8(b)     ((vu)_mm512_cvtepu8_epi32((__m128i)(b)))

#include "kernels/merge_template.h"
#endif
