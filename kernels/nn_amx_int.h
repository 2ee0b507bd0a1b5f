/* Tiles of AMX, for the kernels that use them: nn_amx.c and nn_amx_product.c.
 *
 * A tile is 16 rows of 64 bytes. The unit adds to a tile of 16 x 16 f32 the product of one of
 * 16 x 32 bf16 (the left side) and one of 32 x 16 (the right side), in which two rows of numbers
 * lie as one row of pairs: a left side with its pairs transposed.
 */
#ifndef CK_NN_AMX_INT_H
#define CK_NN_AMX_INT_H

#include "kernels/nn.h"
#include "kernels/unrolled.h"

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define TARGET                                                                                     \
    __attribute__((                                                                                \
        target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,amx-tile,amx-bf16,fma")))
#define ALIGNED __attribute__((aligned(64)))
#define INLINE  static inline __attribute__((always_inline)) TARGET

typedef uint32_t pair; /* two bf16 */

enum { TILE = 16, DEPTH = 32, AREA = TILE * TILE };

/* Of the eight tiles, 0 to 3 hold sums, 4 and 5 left, 6 and 7 right sides.
 * (gcc does not know that loading a tile reads memory.) */
#define LOAD_ROWS(tile, from, bytes)                                                               \
    do {                                                                                           \
        __asm__ volatile("" ::: "memory");                                                         \
        _tile_loadd(tile, from, bytes);                                                            \
    } while (0)
#define LOAD(tile, from) LOAD_ROWS(tile, from, 64)
#define STORE(to, tile)  _tile_stored(tile, to, 64)

/* Tiles 4 and 6 hold no more than is multiplied of so many numbers. */
INLINE void open_tiles_of(size_t depth) {
    ALIGNED struct {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int i = 0; i < 8; i++) shape.bytes[i] = 64, shape.rows[i] = TILE;
    shape.bytes[4] = (uint16_t)(depth * 2);
    shape.rows[6] = (uint8_t)(depth / 2);
    __asm__ volatile("" ::"r"(&shape) : "memory"); /* gcc takes it for a pointer's size */
    _tile_loadconfig(&shape);
}

INLINE void open_tiles(void) {
    open_tiles_of(DEPTH);
}

INLINE size_t padded(size_t n, size_t to) {
    return (n + to - 1) / to * to;
}

INLINE size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

/* The first columns of 16 rows, `stride` apart, as rows. */
INLINE void turn_part(pair *to, const pair *from, size_t stride, size_t columns) {
    __m512i x[TILE], y[TILE];
    UNROLLED for (size_t i = 0; i < TILE; i++) x[i] = _mm512_loadu_si512(from + i * stride);
    UNROLLED for (int i = 0; i < TILE; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    UNROLLED for (int i = 0; i < TILE; i += 4) UNROLLED for (int k = 0; k < 2; k++) {
        x[i + 2 * k] = _mm512_unpacklo_epi64(y[i + k], y[i + k + 2]);
        x[i + 2 * k + 1] = _mm512_unpackhi_epi64(y[i + k], y[i + k + 2]);
    }
    UNROLLED for (int i = 0; i < TILE; i += 8) UNROLLED for (int k = 0; k < 4; k++) {
        y[i + k] = _mm512_shuffle_i32x4(x[i + k], x[i + k + 4], 0x88);
        y[i + k + 4] = _mm512_shuffle_i32x4(x[i + k], x[i + k + 4], 0xdd);
    }
    UNROLLED for (int i = 0; i < 8; i++) {
        x[i] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0x88);
        x[i + 8] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0xdd);
    }
    UNROLLED for (size_t i = 0; i < TILE; i++) {
        if (i < columns) _mm512_storeu_si512(to + i * TILE, x[i]);
    }
}

/* A tile with its dimensions exchanged. */
INLINE void turn(pair *to, const pair *from) {
    turn_part(to, from, TILE, TILE);
}

/* Up to 16 numbers of an array, as mask says; half: it is of bf16. */
INLINE __m512 numbers(const void *from, size_t at, bool half, __mmask16 mask) {
    if (!half) return _mm512_maskz_loadu_ps(mask, (const float *)from + at);
    __m256i x = _mm256_maskz_loadu_epi16(mask, (const uint16_t *)from + at);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

INLINE void set_numbers(void *to, size_t at, bool half, __mmask16 mask, __m512 x) {
    if (half) {
        __m256bh y = _mm512_cvtneps_pbh(x);
        __m256i bits;
        memcpy(&bits, &y, sizeof bits);
        _mm256_mask_storeu_epi16((uint16_t *)to + at, mask, bits);
    } else {
        _mm512_mask_storeu_ps((float *)to + at, mask, x);
    }
}

/* Two rows of numbers as one of pairs, rounded half up. */
INLINE __m512i paired(__m512 first, __m512 second) {
    __m512i half = _mm512_set1_epi32(0x8000);
    __m512i x = _mm512_add_epi32(_mm512_castps_si512(first), half);
    __m512i y = _mm512_add_epi32(_mm512_castps_si512(second), half);
    return _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(x, 16), y);
}

/* nn_amx_product.c */
void ck_nn_amx__pair(uint32_t *to, const float *a, const float *b, size_t n);
void ck_nn_amx__pack(uint32_t *to, ck_nn_side x, size_t m, size_t k, bool right);
void ck_nn_amx__gather(uint32_t *to, size_t group, const void *x, bool half, const int64_t *at,
                       size_t m, size_t k, bool right);
void ck_nn_amx__multiply(ck_nn_result c, ck_nn_tiles a, ck_nn_tiles b, size_t m, size_t n, size_t k,
                         const float *bias);

#endif
