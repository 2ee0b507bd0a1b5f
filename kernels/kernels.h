/* Merge kernels: arithmetic on blocks of elements, one table of functions per instruction set.
 *
 *   const ck_kernels *k = ck_kernels_best();
 *   k->decode[CK_F16](a, raw_a, n);            f16 -> f32, exact
 *   k->decode[CK_F16](b, raw_b, n);
 *   k->lerp(out, a, b, 0.3f, n);               (1-w) a + w b
 *   clipped += k->encode[CK_F16](raw_out, out, n);
 *
 * Callers run these over strips that fit in the L1 cache (CK_STRIP elements), so that convert, mix
 * and convert back touch memory once.
 *
 * The bits are the same in every table: decoding is exact (f64: rounded once), arithmetic is f32
 * with fused multiply-add, encoding rounds to nearest even, and every NaN that is encoded becomes
 * the one canonical positive quiet NaN of its type.
 *
 * Raw elements may have any alignment. Out may equal an input (same start) whose elements are not
 * smaller than its own, but must not partly overlap one.
 */
#ifndef CK_KERNELS_H
#define CK_KERNELS_H

#include "kernels/dtype.h"

#include <stddef.h>
#include <stdint.h>

enum { CK_STRIP = 2048, CK_PANEL = 32, CK_PHILOX_BLOCKS = 16 };

typedef struct ck_kernels {
    const char *isa; /* "portable", "avx2", "avx512" */

    /* n elements of the dtype at src to f32. F64 is rounded to nearest even. NULL for types that
     * ck_dtype_is_float() denies. */
    void (*decode[CK_DTYPE_COUNT])(float *dst, const void *src, size_t n);

    /* n f32 to elements of the dtype at dst, rounded to nearest even. Returns how many finite
     * values did not fit: F16, BF16 become infinity; F8_E4M3 saturates at +-448, F8_E5M2 at
     * +-57344. An infinity stays one where the type has one (F8_E4M3: +-448, and counts). NULL as
     * for decode. */
    size_t (*encode[CK_DTYPE_COUNT])(void *dst, const float *src, size_t n);

    /* out = (1-w) a + w b, computed as |w| < 1/2 ? fma(w, b-a, a) : fma(w-1, b-a, b): exact at
     * w = 0, w = 1 and where a == b. The form of torch.lerp's vector path. */
    void (*lerp)(float *out, const float *a, const float *b, float w, size_t n);

    /* out = a + w (b - c), computed as fma(w, b-c, a). */
    void (*add_difference)(float *out, const float *a, const float *b, const float *c, float w,
                           size_t n);

    /* out = c + sqrt(|a - c| |b - c|), the root rounded once, to f32, and with the sign of
     * (1 - w) a + w b - c. */
    void (*multiply_difference)(float *out, const float *a, const float *b, const float *c, float w,
                                size_t n);

    /* The same with |a - c|^(1-alpha) |b - c|^alpha for the root, 0 <= alpha <= 1, off by less than
     * 0.7 units in its last place, or 1.2 where it is subnormal (0 where a or b is c, also at alpha
     * 0 and 1). */
    void (*geometric_difference)(float *out, const float *a, const float *b, const float *c,
                                 double alpha, float beta, size_t n);

    /* out = w x */
    void (*scale)(float *out, const float *x, float w, size_t n);

    /* acc = fma(w, x, acc) */
    void (*accumulate)(float *acc, const float *x, float w, size_t n);

    /* CK_PANEL columns of a product of matrices, `count` times: out[i * stride + p * CK_PANEL + j]
     * = sum over k < r of a[i * r + k] b[(p * r + k) * CK_PANEL + j], for i < m; made with fused
     * multiply-add from zero on, in the order of k. out overlaps neither a nor b. */
    void (*panels)(float *out, size_t stride, const float *a, const float *b, size_t m, size_t r,
                   size_t count);

    /* Random words: the four of ck_philox(key, 0, stream, first + i, ...) to words[4 * i], for
     * i < count, a multiple of CK_PHILOX_BLOCKS. */
    void (*philox)(uint32_t *words, uint64_t key, uint32_t stream, uint64_t first, size_t count);

    /* out = (x - base) factor, where the factor is `scale` if the random byte drawn[i] is below
     * `sure`, else 0. */
    void (*thin)(float *out, const float *x, const float *base, const uint8_t *drawn, uint32_t sure,
                 float scale, size_t n);
} ck_kernels;

/* The tables this processor can run, slowest ("portable") first; *count of them. */
const ck_kernels *const *ck_kernels_all(size_t *count);

/* The fastest table, or the one that the environment variable CK_ISA names. A name that is unknown
 * or that this processor cannot run gives NULL, and the program must say so. Thread-safe. */
const ck_kernels *ck_kernels_best(void);

#endif
