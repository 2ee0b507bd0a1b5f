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

#define ANY(mask) (_mm512_movepi32_mask((__m512i)(mask)) != 0)

#define LOOKUP16(table, j) ((vf)_mm512_permutexvar_ps((__m512i)(j), _mm512_loadu_ps(table)))

#define ROOT(x, y) ((vf)root_avx512((__m512)(x), (__m512)(y)))

/* sqrt(x y), 2^-52 off at most: the processor's reciprocal root (2^-14 off), bettered twice by
 * Newton's method, which takes half the time of its root. The product is exact; it has 48 bits, and
 * the square of what lies halfway between two f32 has two more and is odd: so the root is at least
 * 2^-51 away from there, and this rounds to the same f32 as the root itself. */
__attribute__((target("avx512f,avx512dq"))) static inline __m256 half_root(__m256 x, __m256 y) {
    enum { ZERO_OR_INFINITE = 0x02 | 0x04 | 0x08 };
    const __m512d half = _mm512_set1_pd(0.5);
    __m512d p = _mm512_mul_pd(_mm512_cvtps_pd(x), _mm512_cvtps_pd(y)), r = _mm512_rsqrt14_pd(p);
    __m512d root = _mm512_mul_pd(p, r), h = _mm512_mul_pd(r, half);
    __m512d error = _mm512_fnmadd_pd(root, h, half);
    root = _mm512_fmadd_pd(root, error, root);
    h = _mm512_fmadd_pd(h, error, h);
    root = _mm512_fmadd_pd(root, _mm512_fnmadd_pd(root, h, half), root);
    return _mm512_cvtpd_ps(
        _mm512_mask_blend_pd(_mm512_fpclass_pd_mask(p, ZERO_OR_INFINITE), root, p));
}

__attribute__((target("avx512f,avx512dq"))) static inline __m512 root_avx512(__m512 x, __m512 y) {
    __m256 left = half_root(_mm512_castps512_ps256(x), _mm512_castps512_ps256(y));
    __m256 right = half_root(_mm512_extractf32x8_ps(x, 1), _mm512_extractf32x8_ps(y, 1));
    return _mm512_insertf32x8(_mm512_castps256_ps512(left), right, 1);
}

#include "kernels/merge_template.h"
#endif
