/* Products of matrices in tiles of AMX, see ck_nn_amx in nn.h. Sides are rounded as they are
 * brought into tiles, so that numbers are read once as they are. */
#if defined(__x86_64__)
#include "kernels/nn_amx_int.h"

INLINE __m512i bits_of(__m512bh x) {
    __m512i bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Numbers of a vector are beside each other: a left side. */
INLINE void pack_rows(pair *to, ck_nn_side x, size_t at, size_t n) {
    for (size_t i = 0; i < TILE; i++, at += x.row) {
        __m512i row;
        if (x.half) {
            row = _mm512_maskz_loadu_epi16(n > TILE ? ~0u : 0xffffu, (const uint16_t *)x.at + at);
        } else {
            __m512 last = n > TILE ? numbers(x.at, at + TILE, false, 0xffff) : _mm512_setzero_ps();
            row = bits_of(_mm512_cvtne2ps_pbh(last, numbers(x.at, at, false, 0xffff)));
        }
        _mm512_storeu_si512(to + i * TILE, row);
    }
}

/* 16 numbers of a and of b side by side. */
INLINE __m512i floats(const float *a, const float *b) {
    return paired(_mm512_loadu_ps(a), _mm512_loadu_ps(b));
}

INLINE __m512i halves(const uint16_t *a, const uint16_t *b) {
    __m512i x = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)a));
    __m512i y = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)b));
    return _mm512_or_si512(x, _mm512_slli_epi32(y, 16));
}

/* The first numbers of vectors are, then the second: a right side. */
INLINE void pack_columns(pair *to, ck_nn_side x, size_t at, size_t n) {
    for (size_t i = 0; i < TILE; i++, at += 2 * x.column) {
        __m512i row = _mm512_setzero_si512();
        const uint16_t *half = (const uint16_t *)x.at + at;
        const float *full = (const float *)x.at + at;
        if (2 * i < n) row = x.half ? halves(half, half + x.column) : floats(full, full + x.column);
        _mm512_storeu_si512(to + i * TILE, row);
    }
}

TARGET void ck_nn_amx__pair(uint32_t *to, const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i += TILE) _mm512_storeu_si512(to + i, floats(a + i, b + i));
}

TARGET void ck_nn_amx__pack(uint32_t *to, ck_nn_side x, size_t m, size_t k, bool right) {
    bool rows = x.column == 1;
    for (size_t i = 0; i < m; i += TILE)
        for (size_t s = 0; s < k; s += DEPTH, to += AREA) {
            size_t at = i * x.row + s * x.column;
            if (rows)
                pack_rows(to, x, at, least(DEPTH, k - s));
            else
                pack_columns(to, x, at, least(DEPTH, k - s));
            if (rows == right) turn(to, to);
        }
}

/* A right side of the numbers at 32 places, or a left one. */
INLINE void gather_tile(pair *to, const void *x, bool half, const int64_t *at, bool right) {
    static const float nothing[TILE];
    UNROLLED for (size_t i = 0; i < TILE; i++) {
        const void *sides[2];
        for (size_t k = 0; k < 2; k++) {
            int64_t place = at[2 * i + k];
            sides[k] = place < 0 ? (const char *)nothing : (const char *)x + place * (half ? 2 : 4);
        }
        _mm512_storeu_si512(to + i * TILE,
                            half ? halves(sides[0], sides[1]) : floats(sides[0], sides[1]));
    }
    if (!right) turn(to, to);
}

/* The numbers at the next 32 places, m of each, are on their way while these are brought into
 * tiles: hardware does not guess where they are. */
INLINE void fetch(const void *x, size_t size, const int64_t *at, size_t m) {
    for (size_t i = 0; i < DEPTH; i++)
        for (size_t b = 0; b < m * size; b += 64)
            _mm_prefetch((const char *)x + at[i] * (int64_t)size + (int64_t)b, _MM_HINT_T0);
}

TARGET void ck_nn_amx__gather(uint32_t *to, size_t group, const void *x, bool half,
                              const int64_t *at, size_t m, size_t k, bool right) {
    for (size_t s = 0; s < k; s += DEPTH, to += AREA) {
        if (s + DEPTH < k) fetch(x, half ? 2 : 4, at + s + DEPTH, m);
        for (size_t i = 0; i < m; i += TILE) {
            pair *tile = to + i / TILE * group / sizeof *to;
            if (half)
                gather_tile(tile, (const uint16_t *)x + i, true, at + s, right);
            else
                gather_tile(tile, (const float *)x + i, false, at + s, right);
        }
    }
}

/* One or two by one or two tiles of sums: c = the products + bias, or + what is at `add`, in rows
 * add_stride apart; both may be NULL. */
INLINE void multiply(float *c, size_t stride, ck_nn_tiles a, ck_nn_tiles b, size_t steps, bool two,
                     bool wide, const float *bias, const float *add, size_t add_stride) {
    size_t bytes = stride * sizeof *c, add_bytes = add_stride * sizeof *c;
    float *below = c + TILE * stride;
    if (bias) {
        LOAD_ROWS(0, bias, 0);
        LOAD_ROWS(2, bias, 0);
        if (wide) LOAD_ROWS(1, bias + TILE, 0);
        if (wide) LOAD_ROWS(3, bias + TILE, 0);
    } else if (add) {
        const float *more = add + TILE * add_stride;
        LOAD_ROWS(0, add, add_bytes);
        if (wide) LOAD_ROWS(1, add + TILE, add_bytes);
        if (two) LOAD_ROWS(2, more, add_bytes);
        if (two && wide) LOAD_ROWS(3, more + TILE, add_bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    const char *left = a.at, *right = b.at;
    for (size_t s = 0; s < steps; s++, left += a.step, right += b.step) {
        LOAD_ROWS(4, left, a.row);
        LOAD_ROWS(6, right, b.row);
        _tile_dpbf16ps(0, 4, 6);
        if (wide) LOAD_ROWS(7, right + b.group, b.row);
        if (wide) _tile_dpbf16ps(1, 4, 7);
        if (two) LOAD_ROWS(5, left + a.group, a.row);
        if (two) _tile_dpbf16ps(2, 5, 6);
        if (two && wide) _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, bytes);
    if (wide) _tile_stored(1, c + TILE, bytes);
    if (two) _tile_stored(2, below, bytes);
    if (two && wide) _tile_stored(3, below + TILE, bytes);
}

/* Up to 32 rows of 32 (wide) or 16 numbers, rounded. */
INLINE void round_block(uint16_t *to, size_t stride, const float *from, size_t rows, bool wide) {
    for (size_t i = 0; i < rows; i++, to += stride, from += 2 * TILE) {
        __m512 last = wide ? _mm512_load_ps(from + TILE) : _mm512_setzero_ps();
        __m512i row = bits_of(_mm512_cvtne2ps_pbh(last, _mm512_load_ps(from)));
        _mm512_mask_storeu_epi16(to, wide ? ~0u : 0xffffu, row);
    }
}

/* The same past the caches. */
INLINE void stream_block(float *to, size_t stride, const float *from, size_t rows, bool wide) {
    for (size_t i = 0; i < rows; i++, to += stride, from += 2 * TILE) {
        _mm512_stream_ps(to, _mm512_load_ps(from));
        if (wide) _mm512_stream_ps(to + TILE, _mm512_load_ps(from + TILE));
    }
}

TARGET void ck_nn_amx__multiply(ck_nn_result c, ck_nn_tiles a, ck_nn_tiles b, size_t m, size_t n,
                                size_t k, const float *bias) {
    ALIGNED float block[2 * TILE * 2 * TILE];
    size_t steps = CK_NN_AMX_STEPS(k);
    bool aside = c.half || c.last;
    open_tiles();
    for (size_t i = 0; i < m; i += 2 * TILE, a.at = (const char *)a.at + 2 * a.group)
        for (size_t j = 0; j < n; j += 2 * TILE) {
            size_t at = i * c.stride + j, stride = aside ? 2 * TILE : c.stride;
            float *sums = c.half ? NULL : (float *)c.at + at, *to = aside ? block : sums;
            ck_nn_tiles right = {(const char *)b.at + j / TILE * b.group, b.row, b.step, b.group};
            const float *first = bias ? bias + j : NULL, *add = c.add ? sums : NULL;
            bool two = i + TILE < m, wide = j + TILE < n;
            if (two && wide)
                multiply(to, stride, a, right, steps, true, true, first, add, c.stride);
            else if (two)
                multiply(to, stride, a, right, steps, true, false, first, add, c.stride);
            else
                multiply(to, stride, a, right, steps, false, wide, first, add, c.stride);
            if (c.half)
                round_block((uint16_t *)c.at + at, c.stride, block, least(2 * TILE, m - i), wide);
            else if (c.last)
                stream_block(sums, c.stride, block, least(2 * TILE, m - i), wide);
        }
    _tile_release();
    if (c.last) _mm_sfence();
}

#endif
