/* Attention by the processor's matrix unit (AMX): see ck_nn_amx in nn.h.
 *
 * Tokens are brought into one of three orders, each padded with zeros to whole tiles:
 *
 *   rows    token after token: left side, sums over channels (or over the other tokens)
 *   pairs   two tokens side by side, channel after channel: right side, sums over these tokens
 *   turned  rows or pairs with both dimensions exchanged: the other side of either
 *
 * Scores are made as in nn_template.h: keys down, queries side by side. They are powers of two:
 * queries are multiplied by log2(e), too.
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

/* Queries and keys of a block, keys of one backward: whole numbers of tiles, such that it all stays
 * in the L1 cache. MOST: channels of a head. SHARE:
 * queries that are given together. */
enum { QUERIES = 64, KEYS = 64, SLICE = 32, COLUMNS = QUERIES / TILE, MOST = 256, SHARE = 512 };
enum { STEPS = MOST / DEPTH, TILES = MOST / TILE };

#define LN2    0.693147181f
#define HIDDEN -1e30f /* a score of which 2^x is 0 */

/* ---- Products of tiles ---- */

/* c (and, of the same left side, d) += the sum of n products: a and b go on by so many pairs. */
INLINE void multiply(float *c, const pair *a, size_t a_step, const pair *b, size_t b_step, size_t n,
                     bool add) {
    if (add)
        LOAD(0, c);
    else
        _tile_zero(0);
    for (size_t i = 0; i < n; i++) {
        LOAD(4, a + i * a_step);
        LOAD(6, b + i * b_step);
        _tile_dpbf16ps(0, 4, 6);
    }
    STORE(c, 0);
}

INLINE void multiply_two(float *c, float *d, const pair *a, size_t a_step, const pair *b,
                         const pair *e, size_t b_step, size_t n, bool add) {
    if (add) {
        LOAD(0, c);
        LOAD(1, d);
    } else {
        _tile_zero(0);
        _tile_zero(1);
    }
    for (size_t i = 0; i < n; i++) {
        LOAD(4, a + i * a_step);
        LOAD(6, b + i * b_step);
        LOAD(7, e + i * b_step);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
    }
    STORE(c, 0);
    STORE(d, 1);
}

/* ---- Orders ---- */

/* Sizes of a head in tiles. */
typedef struct sizes {
    size_t steps, tiles; /* of 32 and of 16 channels */
} sizes;

INLINE sizes sizes_of(const ck_nn_attention *a) {
    return (sizes){(a->width + DEPTH - 1) / DEPTH, (a->width + TILE - 1) / TILE};
}

/* n tokens of a head, the first of which begins at number `at`, times a factor, as rows: for each
 * 16 tokens `steps` tiles. Zeros up to `to` tokens. */
INLINE void make_rows(pair *rows, const void *from, size_t at, const ck_nn_attention *a, size_t n,
                      size_t to, float factor) {
    sizes z = sizes_of(a);
    __m512 by = _mm512_set1_ps(factor);
    for (size_t c = 0; c < z.steps * DEPTH; c += TILE) {
        size_t some = c < a->width ? least(a->width - c, TILE) : 0;
        __mmask16 mask = (__mmask16)((1u << some) - 1);
        pair *tile = rows + c / DEPTH * AREA + c % DEPTH / 2;
        for (size_t t = 0; t < to; t++) {
            __m512 x = numbers(from, at + t * a->channels + c, a->half, t < n ? mask : 0);
            __m256bh y = _mm512_cvtneps_pbh(_mm512_mul_ps(x, by));
            memcpy(tile + t / TILE * z.steps * AREA + t % TILE * TILE, &y, sizeof y);
        }
    }
}

/* Rows of `to` tokens as pairs: for each 32 tokens `tiles` tiles. */
INLINE void make_pairs(pair *pairs, const pair *rows, sizes z, size_t to) {
    for (size_t t = 0; t < to; t += 2)
        for (size_t i = 0; i < z.tiles; i++) {
            size_t tile = t / TILE * z.steps + i / 2;
            const pair *from = rows + (tile * TILE + t % TILE) * TILE + i % 2 * 8;
            __m512i x = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
            __m512i y = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(from + TILE)));
            x = _mm512_or_si512(x, _mm512_slli_epi32(y, 16));
            _mm512_storeu_si512(pairs + (t / DEPTH * z.tiles + i) * AREA + t % DEPTH / 2 * TILE, x);
        }
}

INLINE void turn_all(pair *to, const pair *from, size_t tiles) {
    for (size_t i = 0; i < tiles; i++) turn(to + i * AREA, from + i * AREA);
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

/* Of turned ones; there is a factor for each token. */
INLINE void put_turned(void *to, size_t at, const ck_nn_attention *a, const float *tiles, size_t n,
                       __m512 factors) {
    ALIGNED float tile[AREA], turned[AREA];
    for (size_t c = 0; c < a->width; c += TILE, tiles += AREA) {
        __mmask16 mask = (__mmask16)((1u << least(a->width - c, TILE)) - 1);
        for (size_t i = 0; i < TILE; i++)
            _mm512_store_ps(tile + i * TILE, _mm512_loadu_ps(tiles + i * TILE) * factors);
        turn((pair *)turned, (const pair *)tile);
        for (size_t i = 0; i < n; i++)
            set_numbers(to, at + i * a->channels + c, a->half, mask,
                        _mm512_load_ps(turned + i * TILE));
    }
}

/* ---- Numbers ---- */

/* 2^x, off by 7.5e-5 relative: bf16 are off by 2e-3. */
INLINE __m512 power(__m512 x) {
    __m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF);
    __m512 p = _mm512_fmadd_ps(r, _mm512_set1_ps(0.0780245f), _mm512_set1_ps(0.226067f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.695834f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.999925f));
    return _mm512_scalef_ps(p, x);
}

/* Scores, 16 queries beside each other, that are not to be: of keys after the last (n of `rows` are
 * keys) and, if it is causal, of keys after the query. */
INLINE void hide(const ck_nn_attention *a, float *scores, size_t query, size_t key, size_t n,
                 size_t rows) {
    for (size_t j = n; j < rows; j++) _mm512_store_ps(scores + j * TILE, _mm512_set1_ps(HIDDEN));
    for (size_t j = 0; a->causal && j < n; j++)
        for (size_t i = 0; i < TILE && query + i < key + j; i++) scores[j * TILE + i] = HIDDEN;
}

/* ---- Forward ---- */

/* What is kept of 16 queries: out is turned, `tiles` tiles. */
typedef struct column {
    ALIGNED float out[TILES * AREA], largest[TILE], sum[TILE];
} column;

/* Scores become powers, less the largest of their query, in pairs; what was gathered is scaled. */
INLINE void take_scores(column *c, const float *scores, size_t rows, size_t channels, pair *p) {
    __m512 old = _mm512_load_ps(c->largest), tops[4] = {old, old, old, old};
    for (size_t j = 0; j < rows; j += 4) UNROLLED for (size_t k = 0; k < 4; k++) {
            tops[k] = _mm512_max_ps(_mm512_load_ps(scores + (j + k) * TILE), tops[k]);
        }
    __m512 top = _mm512_max_ps(_mm512_max_ps(tops[0], tops[1]), _mm512_max_ps(tops[2], tops[3]));
    __m512 keep = power(_mm512_sub_ps(old, top)), sum = _mm512_setzero_ps();
    for (size_t j = 0; j < rows; j += 2) {
        __m512 x = power(_mm512_sub_ps(_mm512_load_ps(scores + j * TILE), top));
        __m512 y = power(_mm512_sub_ps(_mm512_load_ps(scores + (j + 1) * TILE), top));
        sum = _mm512_add_ps(sum, _mm512_add_ps(x, y));
        _mm512_store_si512(p + j / 2 * TILE, paired(x, y));
    }
    for (size_t i = 0; i < channels; i++) {
        float *out = c->out + i * TILE;
        _mm512_store_ps(out, _mm512_mul_ps(_mm512_load_ps(out), keep));
    }
    _mm512_store_ps(c->largest, top);
    _mm512_store_ps(c->sum, _mm512_fmadd_ps(_mm512_load_ps(c->sum), keep, sum));
}

/* 32 queries, n of them there, against all keys of a head, whose numbers begin at q. */
TARGET static void attend(const ck_nn_attention *a, size_t q, const pair *keys, const pair *values,
                          size_t first, size_t n, float *sums) {
    ALIGNED pair rows[2 * STEPS * AREA], queries[2 * STEPS * AREA], p[2][KEYS / 2 * TILE];
    ALIGNED float scores[2][KEYS * TILE];
    column columns[2];
    sizes z = sizes_of(a);
    make_rows(rows, a->q, q + first * a->channels, a, n, DEPTH, a->scale / LN2);
    turn_all(queries, rows, 2 * z.steps);
    for (int i = 0; i < 2; i++) {
        memset(columns[i].out, 0, z.tiles * AREA * sizeof(float));
        for (int k = 0; k < TILE; k++) columns[i].largest[k] = HIDDEN, columns[i].sum[k] = 0;
    }
    for (size_t key = 0; key < a->keys; key += KEYS) {
        if (a->causal && key >= first + DEPTH) break;
        size_t some = least(KEYS, a->keys - key), to = padded(some, DEPTH);
        for (size_t j = 0; j < to; j += TILE)
            multiply_two(scores[0] + j * TILE, scores[1] + j * TILE,
                         keys + (key + j) / TILE * z.steps * AREA, AREA, queries,
                         queries + z.steps * AREA, AREA, z.steps, false);
        for (size_t i = 0; i < 2; i++) {
            hide(a, scores[i], first + i * TILE, key, some, to);
            take_scores(&columns[i], scores[i], to, a->width, p[i]);
        }
        for (size_t t = 0; t < z.tiles; t++)
            multiply_two(columns[0].out + t * AREA, columns[1].out + t * AREA,
                         values + (key / DEPTH * z.tiles + t) * AREA, z.tiles * AREA, p[0], p[1],
                         AREA, to / DEPTH, true);
    }
    for (size_t i = 0; i < n; i += TILE) {
        const column *c = &columns[i / TILE];
        size_t some = least(TILE, n - i);
        __m512 scale = _mm512_div_ps(_mm512_set1_ps(1), _mm512_load_ps(c->sum));
        put_turned(a->y, q + (first + i) * a->channels, a, c->out, some, scale);
        for (size_t k = 0; k < some; k++)
            sums[first + i + k] = LN2 * c->largest[k] + logf(c->sum[k]);
    }
}

/* Tokens of keys and of values as rows, pairs and turned pairs. */
static size_t room(const ck_nn_attention *a, bool backward) {
    (void)backward;
    size_t keys = (a->keys + KEYS - 1) / KEYS * KEYS, steps = (a->width + DEPTH - 1) / DEPTH;
    size_t tiles = (a->width + TILE - 1) / TILE;
    /* Rows of both, pairs and turned pairs of one; backward gradients, too: more than that. */
    return keys * (2 * steps * DEPTH + 2 * tiles * TILE) * sizeof(pair) / 2 +
           2 * keys * tiles * TILE * sizeof(float);
}

TARGET static void attention(const ck_nn_attention *a, size_t image, size_t head, size_t first,
                             void *memory) {
    size_t q = image * a->queries * a->channels + head * a->width;
    size_t k = image * a->keys * a->channels + head * a->width;
    size_t end = least(a->queries, first + SHARE), to = padded(a->keys, KEYS);
    float *sums = a->sums + (image * a->heads + head) * a->queries;
    sizes z = sizes_of(a);
    pair *keys = memory, *rows = keys + to / TILE * z.steps * AREA;
    pair *pairs = rows + to / TILE * z.steps * AREA;
    pair *values = pairs + to / DEPTH * z.tiles * AREA;
    make_rows(keys, a->k, k, a, a->keys, to, 1);
    make_rows(rows, a->v, k, a, a->keys, to, 1);
    make_pairs(pairs, rows, z, to);
    turn_all(values, pairs, to / DEPTH * z.tiles);
    open_tiles();
    for (; first < end; first += DEPTH)
        attend(a, q, keys, values, first, least(DEPTH, end - first), sums);
    _tile_release();
}

/* ---- Backward ---- */

/* A head: where the numbers of its queries begin, and its keys and values in tiles. */
typedef struct head_grad {
    size_t at;
    const float *sums;
    const pair *keys, *values, *turned; /* turned: pairs of keys */
    float *dk, *dv;                     /* tiles: 16 keys x 16 channels */
} head_grad;

/* A block of queries, 16 beside each other in a column. Turned rows are right sides of scores,
 * pairs of dk and dv. */
typedef struct query_block {
    ALIGNED pair rows[QUERIES / TILE * STEPS * AREA];
    pair q[COLUMNS * STEPS * AREA], dy[COLUMNS * STEPS * AREA];
    pair q_pairs[QUERIES / DEPTH * TILES * AREA], dy_pairs[QUERIES / DEPTH * TILES * AREA];
    float dq[COLUMNS][TILES * AREA]; /* turned */
    float sum[QUERIES], dy_y[QUERIES];
    float scores[COLUMNS][SLICE * TILE], changes[COLUMNS][SLICE * TILE];
    /* Probabilities and the gradients of scores: rows (32 queries) and pairs (of keys). */
    pair p[QUERIES / DEPTH][SLICE * TILE], d[QUERIES / DEPTH][SLICE * TILE];
    pair d_pairs[COLUMNS][SLICE / 2 * TILE];
} query_block;

/* Of two keys and 32 queries: p = 2^(score - sum), d = p (change - dy_y). */
INLINE void differentiate(query_block *b, size_t half, size_t j) {
    __m512 p[2][2], d[2][2];
    UNROLLED for (size_t i = 0; i < 2; i++) {
        size_t at = 2 * half + i;
        __m512 sum = _mm512_load_ps(b->sum + at * TILE);
        __m512 dy_y = _mm512_load_ps(b->dy_y + at * TILE);
        UNROLLED for (size_t k = 0; k < 2; k++) {
            __m512 score = _mm512_load_ps(b->scores[at] + (j + k) * TILE);
            __m512 change = _mm512_load_ps(b->changes[at] + (j + k) * TILE);
            p[k][i] = power(_mm512_sub_ps(score, sum));
            d[k][i] = _mm512_mul_ps(p[k][i], _mm512_sub_ps(change, dy_y));
        }
        _mm512_store_si512(b->d_pairs[at] + j / 2 * TILE, paired(d[0][i], d[1][i]));
    }
    UNROLLED for (size_t k = 0; k < 2; k++) {
        __m512bh x = _mm512_cvtne2ps_pbh(p[k][1], p[k][0]),
                 y = _mm512_cvtne2ps_pbh(d[k][1], d[k][0]);
        memcpy(b->p[half] + (j + k) * TILE, &x, sizeof x);
        memcpy(b->d[half] + (j + k) * TILE, &y, sizeof y);
    }
}

/* dy y of a query. */
INLINE float inner(const ck_nn_attention *a, size_t at) {
    __m512 sum = _mm512_setzero_ps();
    for (size_t c = 0; c < a->width; c += TILE) {
        __mmask16 mask = (__mmask16)((1u << least(a->width - c, TILE)) - 1);
        sum = _mm512_fmadd_ps(numbers(a->y, at + c, a->half, mask),
                              numbers(a->dy, at + c, a->half, mask), sum);
    }
    return _mm512_reduce_add_ps(sum);
}

/* A block of queries, of which n are there. */
INLINE void open_block(query_block *b, const ck_nn_attention *a, const head_grad *h, size_t first,
                       size_t n) {
    sizes z = sizes_of(a);
    make_rows(b->rows, a->q, h->at + first * a->channels, a, n, QUERIES, a->scale / LN2);
    turn_all(b->q, b->rows, COLUMNS * z.steps);
    make_pairs(b->q_pairs, b->rows, z, QUERIES);
    make_rows(b->rows, a->dy, h->at + first * a->channels, a, n, QUERIES, 1);
    turn_all(b->dy, b->rows, COLUMNS * z.steps);
    make_pairs(b->dy_pairs, b->rows, z, QUERIES);
    for (size_t i = 0; i < COLUMNS; i++) memset(b->dq[i], 0, z.tiles * AREA * sizeof(float));
    for (size_t i = 0; i < QUERIES; i++) {
        b->dy_y[i] = i < n ? inner(a, h->at + (first + i) * a->channels) : 0;
        b->sum[i] = i < n ? h->sums[first + i] / LN2 : 0;
    }
}

/* A block of queries against all keys: their dq, and their part of dk and dv. */
TARGET static void attend_back(const ck_nn_attention *a, const head_grad *h, size_t first,
                               size_t n) {
    query_block b;
    sizes z = sizes_of(a);
    open_block(&b, a, h, first, n);
    for (size_t key = 0; key < a->keys; key += SLICE) {
        if (a->causal && key >= first + QUERIES) break;
        size_t some = least(SLICE, a->keys - key), to = padded(some, DEPTH);
        for (size_t j = 0; j < to; j += TILE)
            for (size_t i = 0; i < COLUMNS; i += 2) {
                size_t at = (key + j) / TILE * z.steps * AREA, left = i * z.steps * AREA;
                size_t right = left + z.steps * AREA;
                multiply_two(b.scores[i] + j * TILE, b.scores[i + 1] + j * TILE, h->keys + at, AREA,
                             b.q + left, b.q + right, AREA, z.steps, false);
                multiply_two(b.changes[i] + j * TILE, b.changes[i + 1] + j * TILE, h->values + at,
                             AREA, b.dy + left, b.dy + right, AREA, z.steps, false);
            }
        for (size_t i = 0; i < COLUMNS; i++) hide(a, b.scores[i], first + i * TILE, key, some, to);
        for (size_t half = 0; half < QUERIES / DEPTH; half++)
            for (size_t j = 0; j < to; j += 2) differentiate(&b, half, j);
        for (size_t t = 0; t < z.tiles; t++) {
            for (size_t j = 0; j < to; j += TILE) {
                size_t at = ((key + j) / TILE * z.tiles + t) * AREA;
                multiply(h->dv + at, b.p[0] + j * TILE, SLICE * TILE, b.dy_pairs + t * AREA,
                         z.tiles * AREA, QUERIES / DEPTH, true);
                multiply(h->dk + at, b.d[0] + j * TILE, SLICE * TILE, b.q_pairs + t * AREA,
                         z.tiles * AREA, QUERIES / DEPTH, true);
            }
            for (size_t i = 0; i < COLUMNS; i += 2)
                multiply_two(b.dq[i] + t * AREA, b.dq[i + 1] + t * AREA,
                             h->turned + (key / DEPTH * z.tiles + t) * AREA, z.tiles * AREA,
                             b.d_pairs[i], b.d_pairs[i + 1], AREA, to / DEPTH, true);
        }
    }
    for (size_t i = 0; i < n; i += TILE)
        put_turned(a->dq, h->at + (first + i) * a->channels, a, b.dq[i / TILE], least(TILE, n - i),
                   _mm512_set1_ps(a->scale));
}

TARGET static void attention_grad(const ck_nn_attention *a, size_t image, size_t head,
                                  void *memory) {
    size_t q = image * a->queries * a->channels + head * a->width;
    size_t k = image * a->keys * a->channels + head * a->width;
    size_t to = padded(a->keys, KEYS);
    sizes z = sizes_of(a);
    float *dk = memory, *dv = dk + to * z.tiles * TILE;
    pair *keys = (pair *)(dv + to * z.tiles * TILE), *values = keys + to / TILE * z.steps * AREA;
    pair *pairs = values + to / TILE * z.steps * AREA;
    pair *turned = pairs + to / DEPTH * z.tiles * AREA;
    head_grad h = {q, a->sums + (image * a->heads + head) * a->queries, keys, values, turned, dk,
                   dv};
    memset(dk, 0, 2 * to * z.tiles * TILE * sizeof *dk);
    make_rows(keys, a->k, k, a, a->keys, to, 1);
    make_rows(values, a->v, k, a, a->keys, to, 1);
    make_pairs(pairs, keys, z, to);
    turn_all(turned, pairs, to / DEPTH * z.tiles);
    open_tiles();
    for (size_t first = 0; first < a->queries; first += QUERIES)
        attend_back(a, &h, first, least(QUERIES, a->queries - first));
    _tile_release();
    for (size_t t = 0; t < a->keys; t += TILE) {
        size_t from = t * z.tiles * TILE, some = least(TILE, a->keys - t);
        /* queries had been over ln 2 */
        put(a->dk, k + t * a->channels, a, dk + from, some, LN2);
        put(a->dv, k + t * a->channels, a, dv + from, some, 1);
    }
}

/* ---- Whether there is one ---- */

enum { GET_PERMISSION = 0x1023, TILE_DATA = 18 }; /* arch_prctl: ARCH_REQ_XCOMP_PERM */

/* The processor's word, then the system's: it gives room for tiles to who asks. */
static bool usable;

static void find_out(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    bool tiles = d >> 24 & 1, bf16_tiles = d >> 22 & 1;
    if (!tiles || !bf16_tiles || !__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return;
    usable = syscall(SYS_arch_prctl, GET_PERMISSION, TILE_DATA) == 0;
}

extern const ck_nn ck_nn_avx512_half;

const ck_nn_amx *ck_nn_amx_best(void) {
    static const ck_nn_amx table = {
        &ck_nn_avx512_half,  {MOST, SHARE, room, attention, attention_grad},
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
