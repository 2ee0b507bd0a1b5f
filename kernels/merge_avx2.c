/* Merge kernels for x86-64 with AVX2, FMA and F16C (since 2013). */
#if defined(__x86_64__)
#include <immintrin.h>

#define SUFFIX          avx2
#define TARGET          __attribute__((target("avx2,fma,f16c")))
#define VL              8
#define FMA(a, b, c)    ((vf)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define MUL_EVEN(a, b)  ((vu64)_mm256_mul_epu32((__m256i)(a), (__m256i)(b)))
#define PAIR_LOW(a, b)  ((vu64)_mm256_unpacklo_epi64((__m256i)(a), (__m256i)(b)))
#define PAIR_HIGH(a, b) ((vu64)_mm256_unpackhi_epi64((__m256i)(a), (__m256i)(b)))

#define F16_DECODE(h) ((vf)_mm256_cvtph_ps((__m128i)(h)))
#define F16_ENCODE(x) ((vu16)_mm256_cvtps_ph((__m256)(x), _MM_FROUND_TO_NEAREST_INT))
#define WIDEN8(b)     ((vu)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)(b))))

#define ANY(mask)          (_mm256_movemask_ps((__m256)(mask)) != 0)
#define LOOKUP16(table, j) ((vf)lookup16_avx2(table, (__m256i)(j)))

__attribute__((target("avx2"))) static inline __m256 lookup16_avx2(const float *table, __m256i j) {
    __m256 first = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), j);
    __m256 second = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), j);
    return _mm256_blendv_ps(first, second, _mm256_castsi256_ps(_mm256_slli_epi32(j, 28)));
}

#define ROOT(x, y) ((vf)root_avx2((__m256)(x), (__m256)(y)))

/* The product of two f32 is exact in f64, and so far from the square of what lies halfway between
 * two f32 that its root in f64 is on the right side. */
__attribute__((target("avx2"))) static inline __m256 root_avx2(__m256 x, __m256 y) {
    __m256d left = _mm256_mul_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(x)),
                                 _mm256_cvtps_pd(_mm256_castps256_ps128(y)));
    __m256d right = _mm256_mul_pd(_mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)),
                                  _mm256_cvtps_pd(_mm256_extractf128_ps(y, 1)));
    return _mm256_set_m128(_mm256_cvtpd_ps(_mm256_sqrt_pd(right)),
                           _mm256_cvtpd_ps(_mm256_sqrt_pd(left)));
}

#include "kernels/merge_template.h"
#endif
