/* Attention by the processor's matrix unit (AMX): see ck_nn_amx in nn.h.
 *
 * Tokens are brought into one of three orders, each padded with zeros to whole blocks of 32:
 *
 *   rows    token after token, no wider than the head (to an even number): left side, sums over
 *           channels
 *   pairs   two tokens side by side, channel after channel: right side, sums over these tokens
 *   turned  rows or pairs with both dimensions exchanged: the other side of either
 *
 * Scores are powers of two: queries are multiplied by log2(e), too. While the matrix unit is in
 * use, the processor does half as many vector operations on f32, but not on integers: so powers are
 * made of integers, and at once as the bf16 that go into the next products. The unit works in the
 * order in which it is told to: products are stored when the next ones are under way.
 */
#include "kernels/nn.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include "kernels/nn_amx_int.h"

#include <cpuid.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Tokens of a block; queries whose sums are made together; queries that are given together;
 * channels of a head at most. */
enum { BLOCK = DEPTH, QUERIES = 2 * BLOCK, SHARE = 1024, MOST = 256 };
enum { STEPS = MOST / DEPTH, TILES = MOST / TILE };

#define LN2    0.693147181f
#define HIDDEN -1e30f /* a score of which 2^x is 0 */

/* ---- Orders ---- */

/* Of a head. Rows are cut into steps of `depth` channels, pairs of tokens into tiles of 16
 * channels. area: pairs of numbers that 16 tokens have in a step. */
typedef struct sizes {
    size_t depth, steps, area, tiles;
} sizes;

INLINE sizes sizes_of(const ck_nn_attention *a) {
    size_t depth = a->width < DEPTH ? padded(a->width, 2) : DEPTH;
    return (sizes){depth, (a->width + depth - 1) / depth, TILE * depth / 2,
                   (a->width + TILE - 1) / TILE};
}

/* n tokens of a head, the first of which begins at number `at`, times a factor, as rows: for each
 * 16 tokens `steps` tiles. Zeros up to `to` tokens. (Writes up to 32 bytes more.) */
INLINE void make_rows(pair *rows, const void *from, size_t at, const ck_nn_attention *a, sizes z,
                      size_t n, size_t to, float factor) {
    __m512 by = _mm512_set1_ps(factor);
    bool same = a->half && factor == 1;
    /* The last channels first: what is written behind a row's end is written over. */
    for (size_t c = padded(z.steps * z.depth, TILE); c > 0; c -= TILE) {
        size_t first = c - TILE, some = first < a->width ? least(a->width - first, TILE) : 0;
        __mmask16 channels = (__mmask16)((1u << some) - 1);
        pair *row = rows + first / z.depth * z.area + first % z.depth / 2;
        for (size_t t = 0; t < to; t++, row += z.depth / 2) {
            size_t token = at + t * a->channels + first;
            __mmask16 mask = t < n ? channels : 0;
            __m256i x;
            if (same) {
                x = _mm256_maskz_loadu_epi16(mask, (const uint16_t *)from + token);
            } else {
                __m256bh y =
                    _mm512_cvtneps_pbh(_mm512_mul_ps(numbers(from, token, a->half, mask), by));
                memcpy(&x, &y, sizeof x);
            }
            _mm256_storeu_si256((__m256i *)row, x);
            if (t % TILE == TILE - 1) row += (z.steps - 1) * z.area;
        }
    }
}

/* Rows of n tokens turned. (Reads up to 64 bytes more.) */
INLINE void turn_rows(pair *to, const pair *rows, sizes z, size_t n) {
    for (size_t i = 0; i < n / TILE * z.steps * z.area; i += z.area)
        turn_part(to + i, rows + i, z.depth / 2, z.depth / 2);
}

/* In which row of a tile tokens 2 i and 2 i + 1 stand: as packing leaves them. */
INLINE size_t row_of(size_t i) {
    return i % 8 / 2 * 4 + i / 8 * 2 + i % 2;
}

/* A block of rows as pairs: `tiles` tiles. (What stands behind the last channel is anything.) */
INLINE void make_pairs(pair *pairs, const pair *rows, sizes z) {
    for (size_t c = 0; c < z.tiles * TILE; c += TILE)
        for (size_t i = 0; i < TILE; i++) {
            size_t t = 2 * i, tile = t / TILE * z.steps + c / z.depth;
            const pair *from = rows + tile * z.area + (t % TILE * z.depth + c % z.depth) / 2;
            const pair *next = from + z.depth / 2;
            __m512i x = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
            __m512i y = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)next));
            x = _mm512_or_si512(x, _mm512_slli_epi32(y, 16));
            _mm512_storeu_si512(pairs + c / TILE * AREA + row_of(i) * TILE, x);
        }
}

/* Tiles of 16 tokens x 16 channels, as many as a head has, times a factor, to where the first n
 * tokens are. */
INLINE void put(void *to, size_t at, const ck_nn_attention *a, const float *tiles, size_t n,
                float factor) {
    for (size_t c = 0; c < a->width; c += TILE, tiles += AREA) {
        __mmask16 mask = (__mmask16)((1u << least(a->width - c, TILE)) - 1);
        for (size_t i = 0; i < n; i++)
            set_numbers(to, at + i * a->channels + c, a->half, mask,
                        _mm512_loadu_ps(tiles + i * TILE) * factor);
    }
}

/* Inner products of 16 tokens' numbers, turned, of which there are z.depth. */
INLINE __m512 inner(const pair *x, const pair *y, sizes z) {
    __m512 sum = _mm512_setzero_ps();
    for (size_t i = 0; i < z.steps * z.area; i += TILE) {
        __m512bh a, b;
        memcpy(&a, x + i, sizeof a);
        memcpy(&b, y + i, sizeof b);
        sum = _mm512_dpbf16_ps(sum, a, b);
    }
    return sum;
}

/* ---- Products of tiles ---- */

/* Inner products of 16 left and a block of right tokens, into tiles A and B, which begin as begin
 * and next say (in rows so many bytes apart); what these held before goes to `last`, unless that is
 * NULL: who stores a product at once waits for it. */
#define SCORE(NAME, A, B)                                                                          \
    INLINE void NAME(float *last, const float *begin, const float *next, size_t bytes,             \
                     const pair *left, const pair *right, sizes z) {                               \
        size_t size = z.steps * z.area;                                                            \
        if (last) STORE(last, A);                                                                  \
        LOAD_ROWS(A, begin, bytes);                                                                \
        for (size_t i = 0; i < size; i += z.area) {                                                \
            LOAD_ROWS(4, left + i, z.depth * 2);                                                   \
            LOAD(6, right + i);                                                                    \
            _tile_dpbf16ps(A, 4, 6);                                                               \
        }                                                                                          \
        if (last) STORE(last + AREA, B);                                                           \
        LOAD_ROWS(B, next, bytes);                                                                 \
        for (size_t i = 0; i < size; i += z.area) {                                                \
            if (z.steps > 1) LOAD_ROWS(4, left + i, z.depth * 2);                                  \
            LOAD(6, right + size + i);                                                             \
            _tile_dpbf16ps(B, 4, 6);                                                               \
        }                                                                                          \
    }
SCORE(score, 0, 1)
SCORE(change, 2, 3)

/* What was not yet stored of those. */
INLINE void store_last(float *last, float *last_changes) {
    STORE(last, 0);
    STORE(last + AREA, 1);
    STORE(last_changes, 2);
    STORE(last_changes + AREA, 3);
}

/* Four sums of n products: the first sides of each; the next ones are `step` further on. */
typedef struct product {
    float *to;
    const pair *left, *right;
} product;

INLINE void add_products(const product c[4], size_t left_step, size_t right_step, size_t n) {
#define ADD(I)                                                                                     \
    LOAD(5, c[I].left + i * left_step);                                                            \
    LOAD(7, c[I].right + i * right_step);                                                          \
    _tile_dpbf16ps(I, 5, 7)
    LOAD(0, c[0].to);
    LOAD(1, c[1].to);
    LOAD(2, c[2].to);
    LOAD(3, c[3].to);
    for (size_t i = 0; i < n; i++) {
        ADD(0);
        ADD(1);
        ADD(2);
        ADD(3);
    }
    STORE(c[0].to, 0);
    STORE(c[1].to, 1);
    STORE(c[2].to, 2);
    STORE(c[3].to, 3);
#undef ADD
}

/* ---- Numbers ---- */

/* What scores are multiplied by: so, and with 127 more, they are bf16, but for the last 7 bits:
 * those of 2^x - 1 instead of x, which is up to 11 less. How much, a table says of each two of them
 * (so that one instruction finds it). A power is off by 0.3% then, and rounded to a bf16. */
enum { UNIT = 128, ONE = 127 * UNIT };

static uint8_t excess[UNIT / 2];

static void make_table(void) {
    for (int i = 0; i < UNIT / 2; i++) {
        double x = (2 * i + 0.5) / UNIT;
        excess[i] = (uint8_t)lrint(UNIT * (x + 1 - exp2(x)));
    }
}

/* 16 scores and 16 more, as bf16: four of these, four of those, ... Too small ones become 0, as NaN
 * does. */
INLINE __m512i powers(const float *first, const float *second) {
    __m512i x = _mm512_packus_epi32(_mm512_cvtps_epi32(_mm512_load_ps(first)),
                                    _mm512_cvtps_epi32(_mm512_load_ps(second)));
    __mmask64 low = 0x5555555555555555;
    __m512i y =
        _mm512_maskz_permutexvar_epi8(low, _mm512_srli_epi16(x, 1), _mm512_loadu_si512(excess));
    return _mm512_sub_epi16(x, y);
}

/* log2 x, off by 2.2e-6: a polynomial for what is left of x, 0.75 to 1.5, by a power of two. */
INLINE __m512 logarithm(__m512 x) {
    __m512 u = _mm512_getmant_ps(x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_src);
    __m512 e = _mm512_getexp_ps(_mm512_div_ps(x, u));
    u = _mm512_sub_ps(u, _mm512_set1_ps(1));
    __m512 p = _mm512_fmadd_ps(u, _mm512_set1_ps(-0.145179361f), _mm512_set1_ps(0.292726785f));
    p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(-0.371069282f));
    p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(0.481645584f));
    p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(-0.721094549f));
    p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(1.44268155f));
    return _mm512_fmadd_ps(p, u, e);
}

/* Tokens from `first` on that are among the next 32 of a block. */
INLINE uint32_t bits_from(size_t first, size_t block) {
    return first >= block + 32 ? 0 : first <= block ? ~0u : ~0u << (first - block);
}

INLINE void hide(float *scores, size_t row, uint32_t bits) {
    __m512 hidden = _mm512_set1_ps(HIDDEN);
    _mm512_mask_store_ps(scores + row * TILE, (__mmask16)bits, hidden);
    _mm512_mask_store_ps(scores + AREA + row * TILE, (__mmask16)(bits >> 16), hidden);
}

/* ---- Forward: queries down, keys side by side ---- */

/* Scores whose size is at most that are not made smaller before they become powers. */
enum { SAFE = 80 };

/* Blocks of keys whose values are added together. */
enum { TOGETHER = 2 };

/* A head: its keys turned, and pairs of its values, with one channel more, of ones, whose sum is
 * that of the probabilities. longest: the square of the longest key, NaN if one is not finite. */
typedef struct head_keys {
    const pair *keys, *values;
    size_t value_tiles;
    float longest;
} head_keys;

/* Scores of keys that 16 queries are not to see: those after the last and, if it is causal, those
 * after the query. */
INLINE void hide_keys(const ck_nn_attention *a, float *scores, size_t query, size_t key) {
    for (size_t i = 0; i < TILE; i++)
        hide(scores, i, bits_from(a->causal ? least(a->keys, query + i + 1) : a->keys, key));
}

/* Blocks of keys that the queries from `first` on see, and how many of those they see whole. */
INLINE size_t blocks_of(const ck_nn_attention *a, size_t first) {
    return padded(a->causal ? least(a->keys, first + QUERIES) : a->keys, BLOCK) / BLOCK;
}

INLINE size_t whole_blocks(const ck_nn_attention *a, size_t first) {
    return least(a->keys, a->causal ? first + 1 : a->keys) / BLOCK;
}

/* The largest score of each query, where it may be too large for powers, or else 0; NaN where
 * numbers are not finite. */
TARGET static void find_largest(const ck_nn_attention *a, const head_keys *h, sizes z,
                                const pair *rows, size_t first, float *largest) {
    ALIGNED float scores[2 * AREA], begin[TILE] = {0};
    ALIGNED pair turned[4 * STEPS * AREA];
    __m512 most = _mm512_setzero_ps();
    size_t side = z.steps * z.area;
    turn_rows(turned, rows, z, QUERIES);
    for (size_t i = 0; i < QUERIES; i += TILE) {
        const pair *q = turned + i / TILE * side;
        __m512 bound = inner(q, q, z) * _mm512_set1_ps(h->longest);
        /* (0 times what is not finite is NaN.) */
        _mm512_store_ps(largest + i, bound * _mm512_setzero_ps());
        most = _mm512_max_ps(bound, most);
    }
    if (_mm512_reduce_max_ps(most) <= SAFE * SAFE * UNIT * UNIT) return;
    for (size_t i = 0; i < QUERIES; i += TILE) {
        __m512 top[TILE];
        for (size_t j = 0; j < TILE; j++) top[j] = _mm512_set1_ps(HIDDEN);
        for (size_t k = 0; k < blocks_of(a, first); k++) {
            score(NULL, begin, begin, 0, rows + i / TILE * side, h->keys + 2 * k * side, z);
            STORE(scores, 0);
            STORE(scores + AREA, 1);
            if (k >= whole_blocks(a, first)) hide_keys(a, scores, first + i, k * BLOCK);
            for (size_t j = 0; j < TILE; j++)
                top[j] = _mm512_max_ps(_mm512_max_ps(top[j], _mm512_load_ps(scores + j * TILE)),
                                       _mm512_load_ps(scores + AREA + j * TILE));
        }
        for (size_t j = 0; j < TILE; j++) largest[i + j] += _mm512_reduce_max_ps(top[j]);
    }
}

/* Up to 64 queries, n of them there, against all keys of a head, whose numbers begin at q. */
TARGET static void attend(const ck_nn_attention *a, size_t q, const head_keys *h, sizes z,
                          size_t first, size_t n, float *sums) {
    ALIGNED pair rows[4 * STEPS * AREA + DEPTH], p[TOGETHER][4 * AREA];
    ALIGNED float scores[2][2 * AREA], out[(TILES + 1) * 4 * AREA], begin[4 * AREA];
    ALIGNED float largest[QUERIES], total[QUERIES];
    size_t steps = 4 * blocks_of(a, first), whole = whole_blocks(a, first);
    size_t side = z.steps * z.area, tiles = h->value_tiles;
    make_rows(rows, a->q, q + first * a->channels, a, z, n, QUERIES, a->scale / LN2 * UNIT);
    find_largest(a, h, z, rows, first, largest);
    for (size_t i = 0; i < QUERIES; i++)
        _mm512_store_ps(begin + i * TILE, _mm512_set1_ps(ONE - largest[i]));
    memset(out, 0, tiles * 4 * AREA * sizeof *out);
    bool added = true; /* there is nothing to store yet */
    for (size_t s = 0; s < steps + 2; s++) {
        size_t i = least(s, steps - 1), row = i % 4;
        if (s <= steps)
            score(added ? NULL : scores[(s + 1) % 2], begin + row * AREA, begin + row * AREA, 64,
                  rows + row * side, h->keys + i / 4 * 2 * side, z);
        added = false;
        if (s < 2) continue;
        size_t k = (s - 2) / 4, member = k % TOGETHER;
        float *now = scores[s % 2];
        row = (s - 2) % 4;
        if (k >= whole) hide_keys(a, now, first + row * TILE, k * BLOCK);
        for (size_t j = 0; j < AREA; j += TILE)
            _mm512_store_si512(p[member] + row * AREA + j, powers(now + j, now + AREA + j));
        added = row == 3 && (member + 1 == TOGETHER || s == steps + 1);
        if (!added) continue;
        STORE(now, 0);
        STORE(now + AREA, 1);
        for (size_t t = 0; t < tiles; t++) {
            const pair *values = h->values + ((k - member) * tiles + t) * AREA;
            float *to = out + 4 * t * AREA;
            add_products((const product[]){{to, p[0], values},
                                           {to + AREA, p[0] + AREA, values},
                                           {to + 2 * AREA, p[0] + 2 * AREA, values},
                                           {to + 3 * AREA, p[0] + 3 * AREA, values}},
                         4 * AREA, tiles * AREA, member + 1);
        }
    }
    const float *totals = out + a->width / TILE * 4 * AREA + a->width % TILE;
    for (size_t i = 0; i < QUERIES; i++) total[i] = totals[i * TILE];
    for (size_t i = 0; i < QUERIES; i += TILE) {
        __m512 log = logarithm(_mm512_load_ps(total + i)) +
                     _mm512_load_ps(largest + i) * _mm512_set1_ps(1.f / UNIT);
        __mmask16 mask = (__mmask16)~bits_from(n, i);
        _mm512_mask_storeu_ps(sums + first + i, mask, log * _mm512_set1_ps(LN2));
    }
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < a->width; c += TILE) {
            __mmask16 mask = (__mmask16)((1u << least(a->width - c, TILE)) - 1);
            set_numbers(a->y, q + (first + i) * a->channels + c, a->half, mask,
                        _mm512_load_ps(out + (4 * c + i) * TILE) * (1 / total[i]));
        }
}

/* Pairs of a block of values, and the ones. */
INLINE void make_values(pair *to, const pair *rows, const ck_nn_attention *a, sizes z) {
    make_pairs(to, rows, z);
    for (size_t i = 0; i < TILE; i++)
        to[a->width / TILE * AREA + i * TILE + a->width % TILE] = 0x3f803f80;
}

/* The square of the longest of n tokens, turned. */
INLINE float longest_of(const pair *turned, sizes z, size_t n) {
    __m512 longest = _mm512_setzero_ps();
    __mmask16 finite = 0xffff;
    for (size_t t = 0; t < n; t += TILE, turned += z.steps * z.area) {
        __m512 square = inner(turned, turned, z);
        finite &= _mm512_cmp_ps_mask(square, _mm512_set1_ps(INFINITY), _CMP_LT_OQ);
        longest = _mm512_max_ps(longest, square);
    }
    return finite == 0xffff ? _mm512_reduce_max_ps(longest) : NAN;
}

TARGET static void forward(const ck_nn_attention *a, size_t image, size_t head, size_t first,
                           void *memory) {
    size_t q = image * a->queries * a->channels + head * a->width;
    size_t k = image * a->keys * a->channels + head * a->width;
    size_t end = least(a->queries, first + SHARE), to = padded(a->keys, BLOCK);
    float *sums = a->sums + (image * a->heads + head) * a->queries;
    sizes z = sizes_of(a);
    size_t block = 2 * z.steps * z.area;
    pair *keys = memory, *values = keys + to / BLOCK * block, *rows;
    head_keys h = {keys, values, a->width / TILE + 1, 0};
    rows = values + to / BLOCK * h.value_tiles * AREA;
    make_rows(rows, a->k, k, a, z, a->keys, to, 1);
    turn_rows(keys, rows, z, to);
    h.longest = longest_of(keys, z, to);
    make_rows(rows, a->v, k, a, z, a->keys, to, 1);
    for (size_t i = 0; i < to / BLOCK; i++)
        make_values(values + i * h.value_tiles * AREA, rows + i * block, a, z);
    open_tiles_of(z.depth);
    for (; first < end; first += QUERIES)
        attend(a, q, &h, z, first, least(QUERIES, end - first), sums);
    _tile_release();
}

/* ---- Backward: keys down, queries side by side ---- */

/* A head: its queries and their dy turned and as pairs, block after block; what scores and changes
 * begin as; dq in tiles, turned. */
typedef struct head_grad {
    pair *q, *dy, *q_pairs, *dy_pairs;
    float *dq, *score, *change;
} head_grad;

INLINE bool is_narrow(sizes z) {
    return z.tiles == 1;
}

/* What is made of a block of scores: probabilities and the gradients of scores, as rows, and of
 * those pairs. */
typedef struct differences {
    ALIGNED pair p[2 * AREA], d[2 * AREA], d_pairs[2][AREA];
} differences;

enum { PAIRS = sizeof(differences) / sizeof(pair) };

/* Scores of keys after the last one and, if it is causal, those of queries before them: of 16 keys.
 */
INLINE void hide_queries(const ck_nn_attention *a, float *scores, size_t query, size_t key) {
    for (size_t j = 0; j < TILE; j++)
        hide(scores, j, key + j >= a->keys ? ~0u : a->causal ? ~bits_from(key + j, query) : 0);
}

/* Of two of 16 keys: p = 2^score, d = p change, and a row of the pairs of d. */
INLINE void differentiate(pair *p, pair *d, pair *first_pairs, pair *second_pairs,
                          const float *scores, const float *changes) {
    __m512i zero = _mm512_setzero_si512(), last = _mm512_set1_epi32(0x8000), made[2];
    UNROLLED for (size_t at = 0; at < 2 * TILE; at += TILE) {
        __m512i power = powers(scores + at, scores + AREA + at), x, y;
        x = _mm512_castps_si512(_mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, power)) *
                                _mm512_load_ps(changes + at));
        y = _mm512_castps_si512(_mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, power)) *
                                _mm512_load_ps(changes + AREA + at));
        made[at / TILE] = _mm512_packus_epi32(_mm512_srli_epi32(_mm512_add_epi32(x, last), 16),
                                              _mm512_srli_epi32(_mm512_add_epi32(y, last), 16));
        _mm512_store_si512(p + at, power);
        _mm512_store_si512(d + at, made[at / TILE]);
    }
    _mm512_store_si512(first_pairs, _mm512_unpacklo_epi16(made[0], made[1]));
    _mm512_store_si512(second_pairs, _mm512_unpackhi_epi16(made[0], made[1]));
}

/* The same of 16 keys, the first or the second of a block. */
INLINE void differentiate_all(differences *to, size_t half, const float *scores,
                              const float *changes) {
    for (size_t i = 0; i < TILE / 2; i++) {
        size_t at = 2 * i * TILE, row = (row_of(i) + 2 * half) * TILE;
        differentiate(to->p + half * AREA + at, to->d + half * AREA + at, to->d_pairs[0] + row,
                      to->d_pairs[1] + row, scores + at, changes + at);
    }
}

/* A block of queries, of which n are there; the first one's numbers begin at `at`. */
INLINE void open_block(const head_grad *h, const ck_nn_attention *a, sizes z, size_t at,
                       const float *sums, size_t first, size_t n) {
    ALIGNED pair rows[2 * STEPS * AREA + DEPTH], y[2 * STEPS * AREA];
    size_t side = z.steps * z.area, i = first / BLOCK;
    make_rows(rows, a->q, at, a, z, n, BLOCK, a->scale / LN2 * UNIT);
    turn_rows(h->q + i * 2 * side, rows, z, BLOCK);
    make_pairs(h->q_pairs + i * z.tiles * AREA, rows, z);
    make_rows(rows, a->y, at, a, z, n, BLOCK, 1);
    turn_rows(y, rows, z, BLOCK);
    make_rows(rows, a->dy, at, a, z, n, BLOCK, 1);
    turn_rows(h->dy + i * 2 * side, rows, z, BLOCK);
    make_pairs(h->dy_pairs + i * z.tiles * AREA, rows, z);
    for (size_t t = 0; t < BLOCK; t += TILE) {
        size_t from = t / TILE * side;
        __m512 sum = _mm512_maskz_loadu_ps((__mmask16)~bits_from(n, t), sums + first + t);
        _mm512_store_ps(h->change + first + t, -inner(h->dy + i * 2 * side + from, y + from, z));
        _mm512_store_ps(h->score + first + t,
                        _mm512_set1_ps(ONE) - sum * _mm512_set1_ps(UNIT / LN2));
    }
}

/* Up to two blocks of keys, rows and pairs, turned; their gradients in tiles; and what was made of
 * them with the last two blocks of queries. */
typedef struct key_blocks {
    ALIGNED pair keys[4 * STEPS * AREA + DEPTH], values[4 * STEPS * AREA + DEPTH];
    ALIGNED pair turned[2 * TILES * AREA];
    ALIGNED float dk[4 * TILES * AREA], dv[4 * TILES * AREA];
    ALIGNED float scores[2][2 * AREA], changes[2][2 * AREA];
    differences made[2][2];
    size_t count;
} key_blocks;

INLINE void open_keys(key_blocks *b, const ck_nn_attention *a, sizes z, size_t at, size_t n) {
    ALIGNED pair pairs[TILES * AREA];
    size_t tile = z.tiles * AREA;
    b->count = padded(n, BLOCK) / BLOCK;
    make_rows(b->keys, a->k, at, a, z, n, b->count * BLOCK, 1);
    make_rows(b->values, a->v, at, a, z, n, b->count * BLOCK, 1);
    for (size_t i = 0; i < b->count; i++) {
        make_pairs(pairs, b->keys + i * 2 * z.steps * z.area, z);
        for (size_t t = 0; t < tile; t += AREA) turn(b->turned + i * tile + t, pairs + t);
    }
    memset(b->dk, 0, 2 * b->count * tile * sizeof *b->dk);
    memset(b->dv, 0, 2 * b->count * tile * sizeof *b->dv);
}

/* What two blocks of queries, u and the next one, give to the gradients. */
INLINE void add_differences(key_blocks *b, const head_grad *h, sizes z, size_t u) {
    size_t tile = z.tiles * AREA;
    for (size_t t = 0; t < tile; t += AREA) {
        float *dq = h->dq + u * 2 * tile + t;
        const pair *left = b->turned + t;
        add_products((const product[]){{dq, left, b->made[0][0].d_pairs[0]},
                                       {dq + tile, left, b->made[0][0].d_pairs[1]},
                                       {dq + 2 * tile, left, b->made[1][0].d_pairs[0]},
                                       {dq + 3 * tile, left, b->made[1][0].d_pairs[1]}},
                     tile, PAIRS, b->count);
    }
    for (size_t i = 0; i < b->count; i++)
        for (size_t t = 0; t < tile; t += AREA) {
            const differences *made = &b->made[0][i];
            const pair *q = h->q_pairs + u * tile + t, *dy = h->dy_pairs + u * tile + t;
            float *dk = b->dk + i * 2 * tile + t, *dv = b->dv + i * 2 * tile + t;
            add_products((const product[]){{dv, made->p, dy},
                                           {dv + tile, made->p + AREA, dy},
                                           {dk, made->d, q},
                                           {dk + tile, made->d + AREA, q}},
                         2 * PAIRS, tile, 2);
        }
}

/* Up to two blocks of keys, the first of which is number `first` and begins at `at`, against all
 * queries: their dk and dv, and their part of dq. */
TARGET static void attend_back(const ck_nn_attention *a, const head_grad *h, sizes z, size_t first,
                               size_t at) {
    key_blocks b;
    size_t n = least(2 * BLOCK, a->keys - first), side = z.steps * z.area, tile = z.tiles * AREA;
    size_t begin = a->causal ? first / BLOCK : 0, blocks = padded(a->queries, QUERIES) / BLOCK;
    open_keys(&b, a, z, at, n);
    /* (Rows of tiles are 2 or 4: shifts instead of divisions.) */
    size_t shift = b.count, rows = (size_t)1 << shift;
    size_t steps = blocks > begin ? (blocks - begin) << shift : 0;
    for (size_t s = 0; steps && s < steps + 3; s++) {
        size_t i = least(s, steps - 1), u = begin + (i >> shift), row = i & (rows - 1);
        float *late = b.scores[(s + 1) % 2], *late_changes = b.changes[(s + 1) % 2];
        if (s > 2 && ((s - 2) & (2 * rows - 1)) == 0) {
            store_last(late, late_changes);
            late = late_changes = NULL;
            add_differences(&b, h, z, begin + ((s - 2) >> shift) - 2);
        }
        if (s <= steps) {
            score(late, h->score + u * BLOCK, h->score + u * BLOCK + TILE, 0, b.keys + row * side,
                  h->q + u * 2 * side, z);
            change(late_changes, h->change + u * BLOCK, h->change + u * BLOCK + TILE, 0,
                   b.values + row * side, h->dy + u * 2 * side, z);
        }
        if (s < 2 || s == steps + 2) continue;
        u = begin + ((s - 2) >> shift), row = (s - 2) & (rows - 1);
        size_t key = first + row * TILE;
        if (key + TILE > a->keys || (a->causal && key + TILE > u * BLOCK))
            hide_queries(a, b.scores[s % 2], u * BLOCK, key);
        differentiate_all(&b.made[(u - begin) % 2][row / 2], row % 2, b.scores[s % 2],
                          b.changes[s % 2]);
    }
    for (size_t t = 0; t < n; t += TILE) {
        size_t from = t / TILE * tile, some = least(TILE, n - t);
        put(a->dk, at + t * a->channels, a, b.dk + from, some, LN2 / UNIT); /* see make_rows of q */
        put(a->dv, at + t * a->channels, a, b.dv + from, some, 1);
    }
}

/* ---- The same of narrow heads, of a tile of channels ----
 *
 * The processor and the unit have about as much to do, so work of both alternates in small parts.
 * Storing a tile takes as long as 90 instructions of the processor, which does nothing else
 * meanwhile: sums stay in their tiles while they can. All that is used often fits the L1 cache. */

/* As key_blocks. scores to d: of the last two steps; d_pairs: of both blocks of queries. */
typedef struct narrow_keys {
    ALIGNED pair keys[4 * AREA + DEPTH], values[4 * AREA + DEPTH], turned[2 * AREA];
    ALIGNED float dk[4 * AREA], dv[4 * AREA], scores[2][2 * AREA], changes[2][2 * AREA];
    ALIGNED pair p[2][AREA], d[2][AREA], d_pairs[2][2][AREA];
} narrow_keys;

INLINE void open_narrow(narrow_keys *b, const ck_nn_attention *a, sizes z, size_t at, size_t n) {
    ALIGNED pair pairs[AREA];
    size_t to = padded(n, BLOCK);
    make_rows(b->keys, a->k, at, a, z, n, to, 1);
    make_rows(b->values, a->v, at, a, z, n, to, 1);
    for (size_t i = 0; i < to / BLOCK; i++) {
        make_pairs(pairs, b->keys + i * 2 * z.area, z);
        turn(b->turned + i * AREA, pairs);
    }
    memset(b->dk, 0, to * TILE * sizeof *b->dk);
    memset(b->dv, 0, to * TILE * sizeof *b->dv);
}

/* Inner products of 16 keys and a block of queries, in tiles 0 and 1. */
INLINE void score_block(const float *begin, const pair *left, const pair *right, sizes z) {
    LOAD_ROWS(0, begin, 0);
    LOAD_ROWS(1, begin + TILE, 0);
    LOAD_ROWS(4, left, z.depth * 2);
    LOAD(6, right);
    _tile_dpbf16ps(0, 4, 6);
    LOAD(6, right + z.area);
    _tile_dpbf16ps(1, 4, 6);
}

INLINE void store_block(float *to) {
    STORE(to, 0);
    STORE(to + AREA, 1);
}

/* Step s: 16 of the keys and a block of queries; two blocks take turns with the same keys. */
typedef struct place {
    size_t row, turn, block;
} place;

INLINE place place_of(size_t s, size_t begin, size_t shift) {
    return (place){s / 2 & (((size_t)1 << shift) - 1), s % 2, begin + (s / 2 >> shift) * 2 + s % 2};
}

/* What a step gives to dv and dk, which stay in tiles 2 and 3 while blocks take turns. */
INLINE void add_dv(const narrow_keys *b, const head_grad *h, place sum, const pair *p) {
    if (sum.turn == 0) {
        LOAD(2, b->dv + sum.row * AREA);
        LOAD(3, b->dk + sum.row * AREA);
    }
    LOAD(5, p);
    LOAD(7, h->dy_pairs + sum.block * AREA);
    _tile_dpbf16ps(2, 5, 7);
}

INLINE void add_dk(const head_grad *h, place sum, const pair *d) {
    LOAD(5, d);
    LOAD(7, h->q_pairs + sum.block * AREA);
    _tile_dpbf16ps(3, 5, 7);
}

/* What a block of keys gives to two tiles of dq, in tiles 0 and 1; where these belong. */
INLINE float *add_dq(const narrow_keys *b, const head_grad *h, place sum) {
    float *dq = h->dq + sum.block * 2 * AREA;
    LOAD(0, dq);
    LOAD(1, dq + AREA);
    LOAD(5, b->turned + sum.row / 2 * AREA);
    LOAD(7, b->d_pairs[sum.turn][0]);
    _tile_dpbf16ps(0, 5, 7);
    LOAD(7, b->d_pairs[sum.turn][1]);
    _tile_dpbf16ps(1, 5, 7);
    return dq;
}

/* As attend_back. While scores of a step are made, those of the last one are differentiated, and
 * what was made so before is added to the gradients. */
TARGET static void attend_back_narrow(const ck_nn_attention *a, const head_grad *h, sizes z,
                                      size_t first, size_t at) {
    narrow_keys b;
    size_t n = least(2 * BLOCK, a->keys - first), shift = padded(n, BLOCK) / BLOCK;
    size_t begin = a->causal ? first / BLOCK : 0, blocks = padded(a->queries, QUERIES) / BLOCK;
    size_t steps = blocks > begin ? (blocks - begin) << shift : 0;
    float *dq = NULL; /* where tiles 0 and 1 are still to be stored */
    open_narrow(&b, a, z, at, n);
    for (size_t s = 0; steps && s < steps + 2; s++) {
        place now = place_of(s, begin, shift), last = place_of(s - 1, begin, shift);
        place sum = place_of(s - 2, begin, shift);
        bool score = s < steps, differ = s >= 1 && s <= steps, add = s >= 2;
        float *scores = b.scores[s % 2], *changes = b.changes[s % 2];
        float *late = b.scores[(s + 1) % 2], *late_changes = b.changes[(s + 1) % 2];
        pair *p = b.p[(s + 1) % 2], *d = b.d[(s + 1) % 2], (*pairs)[AREA] = b.d_pairs[last.turn];
        size_t key = first + last.row * TILE;
        if (differ && (key + TILE > a->keys || (a->causal && key + TILE > last.block * BLOCK)))
            hide_queries(a, late, last.block * BLOCK, key);
        UNROLLED for (size_t i = 0; i < TILE / 2; i++) {
            size_t rows = 2 * i * TILE, row = (row_of(i) + last.row % 2 * 2) * TILE;
            if (i == 0 && dq) {
                store_block(dq);
                dq = NULL;
            }
            if (i == 0 && score)
                score_block(h->score + now.block * BLOCK, b.keys + now.row * z.area,
                            h->q + now.block * 2 * z.area, z);
            if (i == 2 && score) {
                store_block(scores);
                score_block(h->change + now.block * BLOCK, b.values + now.row * z.area,
                            h->dy + now.block * 2 * z.area, z);
            }
            if (i == 4 && score) store_block(changes);
            if (differ)
                differentiate(p + rows, d + rows, pairs[0] + row, pairs[1] + row, late + rows,
                              late_changes + rows);
            if (i == 1 && add) add_dv(&b, h, sum, b.p[s % 2]);
            if (i == 5 && add) add_dk(h, sum, b.d[s % 2]);
            if (i == 5 && add && sum.row % 2) dq = add_dq(&b, h, sum);
            if (i == 7 && add && sum.turn) {
                STORE(b.dv + sum.row * AREA, 2);
                STORE(b.dk + sum.row * AREA, 3);
            }
        }
    }
    if (dq) store_block(dq);
    for (size_t t = 0; t < n; t += TILE) {
        size_t some = least(TILE, n - t);
        put(a->dk, at + t * a->channels, a, b.dk + t * TILE, some, LN2 / UNIT);
        put(a->dv, at + t * a->channels, a, b.dv + t * TILE, some, 1);
    }
}

TARGET static void backward(const ck_nn_attention *a, size_t image, size_t head, void *memory) {
    size_t q = image * a->queries * a->channels + head * a->width;
    size_t k = image * a->keys * a->channels + head * a->width;
    size_t to = padded(a->queries, QUERIES);
    sizes z = sizes_of(a);
    size_t side = to / TILE * z.steps * z.area, pairs = to / BLOCK * z.tiles * AREA;
    head_grad h = {.q = memory};
    h.dy = h.q + side, h.q_pairs = h.dy + side, h.dy_pairs = h.q_pairs + pairs;
    h.dq = (float *)(h.dy_pairs + pairs), h.score = h.dq + 2 * pairs, h.change = h.score + to;
    memset(h.dq, 0, 2 * pairs * sizeof *h.dq);
    for (size_t t = 0; t < to; t += BLOCK)
        open_block(&h, a, z, q + t * a->channels, a->sums + (image * a->heads + head) * a->queries,
                   t, least(BLOCK, a->queries - least(t, a->queries)));
    open_tiles_of(z.depth);
    for (size_t t = 0; t < a->keys; t += 2 * BLOCK)
        (is_narrow(z) ? attend_back_narrow : attend_back)(a, &h, z, t, k + t * a->channels);
    _tile_release();
    for (size_t t = 0; t < a->queries; t += TILE) {
        ALIGNED float tiles[TILES * AREA];
        for (size_t i = 0; i < z.tiles * AREA; i += AREA)
            turn((pair *)tiles + i, (const pair *)h.dq + t * z.tiles * TILE + i);
        put(a->dq, q + t * a->channels, a, tiles, least(TILE, a->queries - t), a->scale);
    }
}

/* Forward keys and values in their orders and rows, backward what there is of queries. */
static size_t room(const ck_nn_attention *a, bool backward) {
    size_t steps = (a->width + DEPTH - 1) / DEPTH, tiles = a->width / TILE + 1;
    size_t blocks = ((backward ? a->queries : a->keys) + QUERIES - 1) / QUERIES * 2;
    size_t each = 4 * steps + (backward ? 4 * tiles + 1 : tiles);
    return (blocks * each + 1) * AREA * sizeof(pair);
}

/* ---- Whether there is one ---- */

enum { GET_PERMISSION = 0x1023, TILE_DATA = 18 }; /* arch_prctl: ARCH_REQ_XCOMP_PERM */

/* The processor's word, then the system's: it gives room for tiles to who asks. */
static bool usable;

static void find_out(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    bool tiles = d >> 24 & 1, bf16_tiles = d >> 22 & 1, vbmi = c >> 1 & 1;
    if (!tiles || !bf16_tiles || !vbmi || !__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1))
        return;
    make_table();
    usable = syscall(SYS_arch_prctl, GET_PERMISSION, TILE_DATA) == 0;
}

extern const ck_nn ck_nn_avx512_half;

const ck_nn_amx *ck_nn_amx_best(void) {
    static const ck_nn_amx table = {&ck_nn_avx512_half,  {MOST, SHARE, room, forward, backward},
                                    ck_nn_amx__pack,     ck_nn_amx__gather,
                                    ck_nn_amx__multiply, ck_nn_amx__pair};
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_out);
    const ck_nn *k = ck_nn_best();
    return k && strcmp(k->isa, "avx512") == 0 && usable ? &table : NULL;
}

#else

const ck_nn_amx *ck_nn_amx_best(void) {
    return NULL;
}

#endif
