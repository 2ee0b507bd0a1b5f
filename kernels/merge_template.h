/* The merge kernels, written once. Included by merge_ISA.c after these macros are defined:
 *
 *   SUFFIX      appended to the table's name
 *   TARGET      function attribute that allows the instruction set
 *   VL          f32 elements in a vector
 *   FMA(a,b,c)  a * b + c, rounded once, on vf
 *   MUL_EVEN(a, b)  the products, 64 bits wide, of the lanes 0, 2, 4, ... of two vu, as vu64
 *   PAIR_LOW(a, b)  the lanes 0, 2, ... of two vu64, one of a, one of b; PAIR_HIGH(a, b): 1, 3, ...
 *   F16_DECODE(h), F16_ENCODE(x)   optional: vu16 <-> vf in hardware, to nearest even
 *   LOOKUP16(table, j)  table[j % 16] of a vu j, from 16 floats
 *   ANY(mask)   whether a vi has a lane that is not 0, all being 0 or all ones
 *   ROOT(x, y)  sqrt(x y) of two vf, none negative: the f32 nearest to it
 *   WIDEN8(b)   optional: vu8 to vu in one instruction
 *
 * Vectors are those of GNU C: gcc and clang compile their operators for any instruction set. All
 * conversions are integer arithmetic, comparisons or exact float operations, so that every
 * instantiation gives the same bits. A tail shorter than a vector is copied into a padded vector
 * and goes the same way.
 */
#include "kernels/kernels.h"
#include "kernels/unrolled.h"

#include <stdint.h>
#include <string.h>

typedef float vf __attribute__((vector_size(4 * VL)));
typedef int32_t vi __attribute__((vector_size(4 * VL)));
typedef uint32_t vu __attribute__((vector_size(4 * VL)));
typedef uint64_t vu64 __attribute__((vector_size(4 * VL)));
typedef uint16_t vu16 __attribute__((vector_size(2 * VL)));
typedef uint8_t vu8 __attribute__((vector_size(VL)));

#define INLINE static inline __attribute__((always_inline)) TARGET

INLINE vu as_u(vf x) {
    return (vu)x;
}

INLINE vf as_f(vu x) {
    return (vf)x;
}

INLINE vf splat(float x) {
    return x - (vf){0};
}

INLINE vu all(uint32_t bits) {
    return (vu){0} + bits;
}

/* mask ? a : b, mask being all ones or all zeros in each lane. */
INLINE vu pick(vi mask, vu a, vu b) {
    return (a & (vu)mask) | (b & ~(vu)mask);
}

INLINE vu widen8(vu8 bytes) {
#ifdef WIDEN8
    return WIDEN8(bytes);
#else
    return __builtin_convertvector(__builtin_convertvector(bytes, vu16), vu);
#endif
}

#define CANONICAL_NAN 0x7FC00000
#define MAGNITUDE     0x7FFFFFFF
#define INFINITE      0x7F800000

/* ---- From stored types to f32: all exact ---- */

INLINE vf load_f32(const void *p) {
    vf x;
    memcpy(&x, p, sizeof x);
    return x;
}

INLINE vf load_f16(const void *p) {
    vu16 h;
    memcpy(&h, p, sizeof h);
#ifdef F16_DECODE
    return F16_DECODE(h);
#else
    /* Exponent and mantissa move into f32's places and the bias is corrected. A subnormal counts
     * units of 2^-24: put under the exponent of 2^-14 it is 2^-14 too large. No float here is
     * subnormal, so that the result does not depend on a processor mode that flushes those. */
    vu wide = __builtin_convertvector(h, vu);
    vu magnitude = (wide & 0x7FFF) << 13;
    vi above = (vi)magnitude;
    vu normal = magnitude + (112u << 23);
    vu tiny = as_u(as_f(magnitude + (113u << 23)) - 0x1p-14f);
    vu special = magnitude | INFINITE | ((vu)(above > (0x7C00 << 13)) & 0x00400000u);
    vu bits = pick(above < (0x0400 << 13), tiny, normal);
    bits = pick(above >= (0x7C00 << 13), special, bits);
    return as_f(bits | (wide & 0x8000) << 16);
#endif
}

INLINE vf load_bf16(const void *p) {
    vu16 h;
    memcpy(&h, p, sizeof h);
    return as_f(__builtin_convertvector(h, vu) << 16);
}

/* e5m2 is the upper half of f16, e4m3 has f16's exponent shifted by 8: as f16 it is 2^8 too small.
 */
INLINE vf load_f8_e5m2(const void *p) {
    vu8 b;
    memcpy(&b, p, sizeof b);
    vu16 h = __builtin_convertvector(b, vu16) << 8;
    return load_f16(&h);
}

INLINE vf load_f8_e4m3(const void *p) {
    vu8 b;
    memcpy(&b, p, sizeof b);
    vu16 wide = __builtin_convertvector(b, vu16);
    vu16 h = (wide & 0x7F) << 7 | (wide & 0x80) << 8;
    vf x = load_f16(&h) * 256.0f;
    vi nan = (vi)((as_u(x) & MAGNITUDE) == 0x43F00000); /* 480, the encoding of NaN */
    return as_f(pick(nan, all(CANONICAL_NAN), as_u(x)));
}

/* ---- From f32 to stored types ---- */

/* Each store counts in *clipped, lane by lane, the finite values that did not fit. */

/* The bits without the sign; as signed numbers, which x86 compares faster than unsigned ones. */
INLINE vi magnitude_of(vf x) {
    return (vi)(as_u(x) & MAGNITUDE);
}

INLINE void count(vu *clipped, vi lost) {
    *clipped -= (vu)lost; /* all ones is -1 */
}

/* The low half, or quarter, of each lane. In two steps, because gcc makes scalar code of one. */
INLINE vu16 narrow16(vu x) {
    return __builtin_convertvector(x, vu16);
}

INLINE vu8 narrow8(vu x) {
    return __builtin_convertvector(narrow16(x), vu8);
}

INLINE void store_f32(void *p, vf x, vu *clipped) {
    (void)clipped;
    vu bits = pick(x != x, all(CANONICAL_NAN), as_u(x));
    memcpy(p, &bits, sizeof bits);
}

INLINE void store_f16(void *p, vf x, vu *clipped) {
    vi magnitude = magnitude_of(x);
    /* 65520 is halfway between the largest f16 and what would follow it; it rounds up. */
    vi infinite = magnitude >= 0x477FF000;
    count(clipped, infinite & (magnitude < INFINITE));
    vi nan = magnitude > INFINITE;
#ifdef F16_ENCODE
    vu16 out = F16_ENCODE(as_f(pick(nan, all(CANONICAL_NAN), as_u(x))));
#else
    vu m = (vu)magnitude;
    /* Normal: rebias, round to nearest even at bit 13. */
    vu normal = (m + 0xFFF + (m >> 13 & 1) - (112u << 23)) >> 13;
    /* Below 2^-14: adding 1/2 leaves the mantissa in units of 2^-24, rounded by the adder. */
    vu tiny = as_u(as_f(m) + 0.5f) - 0x3F000000u;
    vu code = pick(magnitude < 0x38800000, tiny, normal);
    code = pick(infinite, all(0x7C00), code);
    code = pick(nan, all(0x7E00), code | (as_u(x) >> 16 & 0x8000));
    vu16 out = narrow16(code);
#endif
    memcpy(p, &out, sizeof out);
}

INLINE void store_bf16(void *p, vf x, vu *clipped) {
    vu bits = as_u(x);
    vi magnitude = magnitude_of(x);
    /* From halfway between the largest bf16 and what would follow it on. */
    count(clipped, (magnitude >= 0x7F7F8000) & (magnitude < INFINITE));
    vu code = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    vu16 out = narrow16(pick(magnitude > INFINITE, all(0x7FC0), code));
    memcpy(p, &out, sizeof out);
}

typedef struct f8_format {
    int mantissa, bias;
    int lost; /* bits of the smallest f32 that rounds to more than the largest code */
    unsigned largest, infinity, nan;
} f8_format;

INLINE vu8 to_f8(f8_format f, vf x) {
    vi magnitude = magnitude_of(x);
    vu m = (vu)magnitude;
    /* Normal: rebias, round to nearest even at the bit that becomes the lowest. */
    int shift = 23 - f.mantissa;
    unsigned half = (1u << (shift - 1)) - 1, rebias = (unsigned)(127 - f.bias) << 23;
    vu normal = (m + (half - rebias) + (m >> shift & 1)) >> shift;
    /* Subnormal: the adder rounds to the last place of this power of two, which is the smallest
     * code's value, 2^(1 - bias - mantissa). */
    vu power = all((unsigned)(24 - f.bias - f.mantissa + 127) << 23);
    vu tiny = as_u(as_f(m) + as_f(power)) - power;
    vu code = pick(magnitude < (128 - f.bias) << 23, tiny, normal);
    code = pick(magnitude >= f.lost, all(f.largest), code);
    if (f.infinity != f.largest) code = pick(magnitude == INFINITE, all(f.infinity), code);
    return narrow8(pick(magnitude > INFINITE, all(f.nan), code | (as_u(x) >> 24 & 0x80)));
}

/* The largest is 448, there is no infinity; 464, halfway to the 480 that would follow, ties to 448.
 */
INLINE void store_f8_e4m3(void *p, vf x, vu *clipped) {
    const f8_format e4m3 = {.mantissa = 3,
                            .bias = 7,
                            .lost = 0x43E80001,
                            .largest = 0x7E,
                            .infinity = 0x7E,
                            .nan = 0x7F};
    vi magnitude = magnitude_of(x);
    count(clipped, (magnitude >= e4m3.lost) & (magnitude <= INFINITE));
    vu8 out = to_f8(e4m3, x);
    memcpy(p, &out, sizeof out);
}

/* The largest is 57344; 61440, halfway to the 65536 that would follow, ties to that. */
INLINE void store_f8_e5m2(void *p, vf x, vu *clipped) {
    const f8_format e5m2 = {.mantissa = 2,
                            .bias = 15,
                            .lost = 0x47700000,
                            .largest = 0x7B,
                            .infinity = 0x7C,
                            .nan = 0x7E};
    vi magnitude = magnitude_of(x);
    count(clipped, (magnitude >= e5m2.lost) & (magnitude < INFINITE));
    vu8 out = to_f8(e5m2, x);
    memcpy(p, &out, sizeof out);
}

/* ---- Loops ---- */

INLINE size_t sum(vu lanes) {
    size_t total = 0;
    for (int i = 0; i < VL; i++) total += lanes[i];
    return total;
}

/* The lanes' counters are 32 bits wide: far more than the elements of any block per lane. */
#define CONVERT(NAME, SIZE)                                                                        \
    TARGET static void decode_##NAME(float *dst, const void *src, size_t n) {                      \
        const unsigned char *p = src;                                                              \
        size_t i = 0;                                                                              \
        for (; i + VL <= n; i += VL) {                                                             \
            vf x = load_##NAME(p + i * SIZE);                                                      \
            memcpy(dst + i, &x, sizeof x);                                                         \
        }                                                                                          \
        if (i == n) return;                                                                        \
        unsigned char padded[VL * SIZE] = {0};                                                     \
        memcpy(padded, p + i * SIZE, (n - i) * SIZE);                                              \
        vf x = load_##NAME(padded);                                                                \
        memcpy(dst + i, &x, (n - i) * sizeof(float));                                              \
    }                                                                                              \
    TARGET static size_t encode_##NAME(void *dst, const float *src, size_t n) {                    \
        unsigned char *p = dst;                                                                    \
        vu clipped = {0};                                                                          \
        size_t i = 0;                                                                              \
        for (; i + VL <= n; i += VL) store_##NAME(p + i * SIZE, load_f32(src + i), &clipped);      \
        if (i < n) {                                                                               \
            unsigned char padded[VL * SIZE];                                                       \
            vf x = {0};                                                                            \
            memcpy(&x, src + i, (n - i) * sizeof(float));                                          \
            store_##NAME(padded, x, &clipped);                                                     \
            memcpy(p + i * SIZE, padded, (n - i) * SIZE);                                          \
        }                                                                                          \
        return sum(clipped);                                                                       \
    }

CONVERT(f32, 4)
CONVERT(f16, 2)
CONVERT(bf16, 2)
CONVERT(f8_e4m3, 1)
CONVERT(f8_e5m2, 1)

/* f64 is rare in checkpoints: plain loops. Out of f32's range it becomes infinite, as a cast does.
 */
TARGET static void decode_f64(float *dst, const void *src, size_t n) {
    const unsigned char *p = src;
    for (size_t i = 0; i < n; i++) {
        double x;
        memcpy(&x, p + i * sizeof x, sizeof x);
        dst[i] = (float)x;
    }
}

TARGET static size_t encode_f64(void *dst, const float *src, size_t n) {
    unsigned char *p = dst;
    for (size_t i = 0; i < n; i++) {
        uint64_t bits = 0x7FF8000000000000u;
        double x = src[i];
        if (src[i] == src[i]) memcpy(&bits, &x, sizeof bits);
        memcpy(p + i * sizeof bits, &bits, sizeof bits);
    }
    return 0;
}

/* Applies EXPRESSION, which gives the result from vectors a, b, c, to every vector of the inputs.
 * An absent input is passed as one that is there. */
#define EACH(EXPRESSION)                                                                           \
    size_t i = 0;                                                                                  \
    for (; i + VL <= n; i += VL) {                                                                 \
        vf a = load_f32(pa + i), b = load_f32(pb + i), c = load_f32(pc + i);                       \
        (void)b, (void)c;                                                                          \
        vf r = EXPRESSION;                                                                         \
        memcpy(out + i, &r, sizeof r);                                                             \
    }                                                                                              \
    if (i < n) {                                                                                   \
        vf a = {0}, b = {0}, c = {0};                                                              \
        memcpy(&a, pa + i, (n - i) * sizeof(float));                                               \
        memcpy(&b, pb + i, (n - i) * sizeof(float));                                               \
        memcpy(&c, pc + i, (n - i) * sizeof(float));                                               \
        vf r = EXPRESSION;                                                                         \
        memcpy(out + i, &r, (n - i) * sizeof(float));                                              \
    }

TARGET static void lerp(float *out, const float *pa, const float *pb, float w, size_t n) {
    const float *pc = pa;
    if (w > -0.5f && w < 0.5f) {
        vf weight = splat(w);
        EACH(FMA(weight, b - a, a))
    } else {
        vf weight = splat(w - 1.0f);
        EACH(FMA(weight, b - a, b))
    }
}

TARGET static void add_difference(float *out, const float *pa, const float *pb, const float *pc,
                                  float w, size_t n) {
    vf weight = splat(w);
    EACH(FMA(weight, b - c, a))
}

/* c and so much, with the sign of (1 - w) a + w b - c. */
INLINE vf changed(vf a, vf b, vf c, vf w, vf size) {
    vu direction = as_u((1 - w) * a + w * b - c);
    return c + as_f((as_u(size) & MAGNITUDE) | (direction & ~MAGNITUDE));
}

INLINE vf root_of_differences(vf a, vf b, vf c) {
    return ROOT(as_f(as_u(a - c) & MAGNITUDE), as_f(as_u(b - c) & MAGNITUDE));
}

TARGET static void multiply_difference(float *out, const float *pa, const float *pb,
                                       const float *pc, float w, size_t n) {
    vf weight = splat(w);
    EACH(changed(a, b, c, weight, root_of_differences(a, b, c)))
}

#include "kernels/merge_mean.h"

TARGET static void geometric_difference(float *out, const float *pa, const float *pb,
                                        const float *pc, double alpha, float beta, size_t n) {
    vf weight = splat(beta);
    share w = share_of(alpha);
    EACH(changed(a, b, c, weight, mean(a - c, b - c, w)))
}

TARGET static void scale(float *out, const float *pa, float w, size_t n) {
    const float *pb = pa, *pc = pa;
    vf weight = splat(w);
    EACH(weight * a)
}

TARGET static void accumulate(float *out, const float *pb, float w, size_t n) {
    const float *pa = out, *pc = pb;
    vf weight = splat(w);
    EACH(FMA(weight, b, a))
}

INLINE vf thinned(vf x, vf base, const void *drawn, uint32_t sure, float scale) {
    vu8 bytes;
    memcpy(&bytes, drawn, sizeof bytes);
    vi stays = (vi)widen8(bytes) < (vi)all(sure);
    return (x - base) * as_f(as_u(splat(scale)) & (vu)stays);
}

TARGET static void thin(float *out, const float *pa, const float *pb, const uint8_t *drawn,
                        uint32_t sure, float scale, size_t n) {
    size_t i = 0;
    for (; i + VL <= n; i += VL) {
        vf r = thinned(load_f32(pa + i), load_f32(pb + i), drawn + i, sure, scale);
        memcpy(out + i, &r, sizeof r);
    }
    for (; i < n; i++) out[i] = (pa[i] - pb[i]) * (drawn[i] < sure ? scale : 0);
}

/* NAME: COUNT sums of two vectors, as many as hide the latency of an addition: of rows of a and one
 * panel, or of a row and panels. FROM, PANEL and TO are the distances between the sums in a, b and
 * out. (A macro, because clang unrolls loops before it knows what an inline function is given.) */
#define SUMS(NAME, COUNT, FROM, PANEL, TO)                                                         \
    INLINE void NAME(float *out, size_t stride, const float *a, const float *b, size_t r) {        \
        vf left[COUNT] = {{0}}, right[COUNT] = {{0}};                                              \
        (void)stride;                                                                              \
        for (size_t k = 0; k < r; k++) {                                                           \
            UNROLLED for (size_t i = 0; i < COUNT; i++) {                                          \
                vf weight = splat(a[(FROM)*i + k]);                                                \
                const float *row = b + (PANEL)*i + k * CK_PANEL;                                   \
                left[i] = FMA(weight, load_f32(row), left[i]);                                     \
                right[i] = FMA(weight, load_f32(row + VL), right[i]);                              \
            }                                                                                      \
        }                                                                                          \
        UNROLLED for (size_t i = 0; i < COUNT; i++) {                                              \
            memcpy(out + (TO)*i, &left[i], sizeof left[i]);                                        \
            memcpy(out + (TO)*i + VL, &right[i], sizeof right[i]);                                 \
        }                                                                                          \
    }

SUMS(one_row, 1, 0, 0, 0)
SUMS(four_panels, 4, 0, (r * CK_PANEL), CK_PANEL)
SUMS(four_rows, 4, r, 0, stride)
SUMS(six_rows, 6, r, 0, stride)

/* A vector pair's columns of all panels at a time. The last four rows may begin among those before,
 * which are then made twice. */
TARGET static void panels(float *out, size_t stride, const float *a, const float *b, size_t m,
                          size_t r, size_t count) {
    for (size_t j = 0; j < CK_PANEL; j += 2 * VL) {
        for (size_t p = 0; p < count && m >= 4; p++)
            for (size_t row = 0; row < m;) {
                bool six = row + 6 <= m;
                size_t i = six || row + 4 < m ? row : m - 4;
                float *to = out + i * stride + p * CK_PANEL + j;
                const float *left = a + i * r, *right = b + p * r * CK_PANEL + j;
                if (six)
                    six_rows(to, stride, left, right, r);
                else
                    four_rows(to, stride, left, right, r);
                row = i + (six ? 6 : 4);
            }
        for (size_t i = 0; i < m && m < 4; i++) {
            float *to = out + i * stride + j;
            size_t p = 0;
            for (; p + 4 <= count; p += 4)
                four_panels(to + p * CK_PANEL, stride, a + i * r, b + p * r * CK_PANEL + j, r);
            for (; p < count; p++)
                one_row(to + p * CK_PANEL, stride, a + i * r, b + p * r * CK_PANEL + j, r);
        }
    }
}

INLINE vu64 all64(uint64_t bits) {
    return (vu64){0} + bits;
}

/* Of VL / 2 blocks of random words, one in each lane; but for the counters to begin with, only the
 * lower halves of the lanes mean something. */
typedef struct blocks {
    vu64 c0, c1, c2, c3;
} blocks;

/* Blocks `first` and so on: number q + j * VL / 4 in lane 2 q + j. */
INLINE blocks counters(uint64_t first, uint32_t stream) {
    blocks b = {.c2 = all64(stream)};
    for (unsigned lane = 0; lane < VL / 2; lane++) b.c0[lane] = lane / 2 + lane % 2 * (VL / 4);
    b.c0 += first;
    b.c1 = b.c0 >> 32;
    return b;
}

INLINE void philox_round(blocks *b, vu64 k0, vu64 k1) {
    vu64 p0 = MUL_EVEN((vu)b->c0, all(0xd2511f53u)), p1 = MUL_EVEN((vu)b->c2, all(0xcd9e8d57u));
    b->c0 = (p1 >> 32) ^ b->c1 ^ k0;
    b->c1 = p1;
    b->c2 = (p0 >> 32) ^ b->c3 ^ k1;
    b->c3 = p0;
}

/* The four words of each block, one block after another. */
INLINE void store_blocks(uint32_t *to, const blocks *b) {
    vu64 lower = all64(0xffffffffu);
    vu64 words01 = (b->c0 & lower) | b->c1 << 32, words23 = (b->c2 & lower) | b->c3 << 32;
    const vu64 rows[2] = {PAIR_LOW(words01, words23), PAIR_HIGH(words01, words23)};
    memcpy(to, rows, sizeof rows);
}

/* (Two at a time, since multiplications take long, but another can begin meanwhile.) */
TARGET static void philox(uint32_t *words, uint64_t key, uint32_t stream, uint64_t first,
                          size_t count) {
    for (size_t i = 0; i < count; i += VL) {
        blocks x = counters(first + i, stream), y = counters(first + i + VL / 2, stream);
        vu64 k0 = all64((uint32_t)key), k1 = all64(key >> 32);
#pragma GCC unroll 10
        for (int round = 0; round < 10; round++) {
            philox_round(&x, k0, k1);
            philox_round(&y, k0, k1);
            k0 += 0x9e3779b9u;
            k1 += 0xbb67ae85u;
        }
        store_blocks(words + 4 * i, &x);
        store_blocks(words + 4 * i + 2 * VL, &y);
    }
}

#define TABLE_NAME_(suffix) ck_kernels_##suffix
#define TABLE_NAME(suffix)  TABLE_NAME_(suffix)
#define STRING_(x)          #x
#define STRING(x)           STRING_(x)

extern const ck_kernels TABLE_NAME(SUFFIX);
const ck_kernels TABLE_NAME(SUFFIX) = {
    .isa = STRING(SUFFIX),
    .decode = {[CK_F8_E4M3] = decode_f8_e4m3,
               [CK_F8_E5M2] = decode_f8_e5m2,
               [CK_F16] = decode_f16,
               [CK_BF16] = decode_bf16,
               [CK_F32] = decode_f32,
               [CK_F64] = decode_f64},
    .encode = {[CK_F8_E4M3] = encode_f8_e4m3,
               [CK_F8_E5M2] = encode_f8_e5m2,
               [CK_F16] = encode_f16,
               [CK_BF16] = encode_bf16,
               [CK_F32] = encode_f32,
               [CK_F64] = encode_f64},
    .lerp = lerp,
    .add_difference = add_difference,
    .multiply_difference = multiply_difference,
    .geometric_difference = geometric_difference,
    .scale = scale,
    .accumulate = accumulate,
    .panels = panels,
    .philox = philox,
    .thin = thin,
};
