/* Products of matrices in tiles of AMX, see ck_nn_amx in nn.h. Sides are rounded as they are
 * brought into tiles, so that numbers are read once as they are. */
#if defined(__x86_64__)
#include "kernels/nn_amx_int.h"

/* Numbers of a vector are beside each other: a left side. */
INLINE void pack_rows(pair *to, const float *from, size_t row, size_t n) {
    for (size_t i = 0; i < TILE; i++, from += row) {
        __m512 last = n > TILE ? _mm512_loadu_ps(from + TILE) : _mm512_setzero_ps();
        __m512bh x = _mm512_cvtne2ps_pbh(last, _mm512_loadu_ps(from));
        memcpy(to + i * TILE, &x, sizeof x);
    }
}

/* The first numbers of vectors are, then the second: a right side. */
INLINE void pack_columns(pair *to, const float *from, size_t column, size_t n) {
    for (size_t i = 0; i < TILE; i++, from += 2 * column) {
        __m512i x = _mm512_setzero_si512();
        if (2 * i < n) x = paired(_mm512_loadu_ps(from), _mm512_loadu_ps(from + column));
        _mm512_storeu_si512(to + i * TILE, x);
    }
}

TARGET void ck_nn_amx__pack(uint32_t *to, ck_nn_matrix x, size_t m, size_t k, bool right) {
    bool rows = x.column == 1;
    for (size_t i = 0; i < m; i += TILE)
        for (size_t s = 0; s < k; s += DEPTH, to += AREA) {
            const float *from = x.at + i * x.row + s * x.column;
            if (rows)
                pack_rows(to, from, x.row, least(DEPTH, k - s));
            else
                pack_columns(to, from, x.column, least(DEPTH, k - s));
            if (rows == right) turn(to, to);
        }
}

/* One or two by one or two tiles of sums. */
INLINE void multiply(float *c, size_t stride, const pair *a, const pair *b, size_t steps, bool two,
                     bool wide, const float *bias, bool add) {
    size_t bytes = stride * sizeof *c;
    float *below = c + TILE * stride;
    if (bias) {
        LOAD_ROWS(0, bias, 0);
        LOAD_ROWS(2, bias, 0);
        if (wide) LOAD_ROWS(1, bias + TILE, 0);
        if (wide) LOAD_ROWS(3, bias + TILE, 0);
    } else if (add) {
        LOAD_ROWS(0, c, bytes);
        if (wide) LOAD_ROWS(1, c + TILE, bytes);
        if (two) LOAD_ROWS(2, below, bytes);
        if (two && wide) LOAD_ROWS(3, below + TILE, bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (size_t s = 0; s < steps; s++, a += AREA, b += AREA) {
        LOAD(4, a);
        LOAD(6, b);
        _tile_dpbf16ps(0, 4, 6);
        if (wide) LOAD(7, b + steps * AREA);
        if (wide) _tile_dpbf16ps(1, 4, 7);
        if (two) LOAD(5, a + steps * AREA);
        if (two) _tile_dpbf16ps(2, 5, 6);
        if (two && wide) _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, bytes);
    if (wide) _tile_stored(1, c + TILE, bytes);
    if (two) _tile_stored(2, below, bytes);
    if (two && wide) _tile_stored(3, below + TILE, bytes);
}

TARGET void ck_nn_amx__multiply(float *c, size_t stride, const uint32_t *a, const uint32_t *b,
                                size_t m, size_t n, size_t k, const float *bias, bool add) {
    size_t steps = CK_NN_AMX_STEPS(k);
    open_tiles();
    for (size_t i = 0; i < m; i += 2 * TILE)
        for (size_t j = 0; j < n; j += 2 * TILE) {
            float *to = c + i * stride + j;
            const pair *left = a + i / TILE * steps * AREA, *right = b + j / TILE * steps * AREA;
            const float *row = bias ? bias + j : NULL;
            bool two = i + TILE < m, wide = j + TILE < n;
            if (two && wide)
                multiply(to, stride, left, right, steps, true, true, row, add);
            else if (two)
                multiply(to, stride, left, right, steps, true, false, row, add);
            else
                multiply(to, stride, left, right, steps, false, wide, row, add);
        }
    _tile_release();
}

#endif
