/* Fused attention for heads of up to CK_WIDTH channels, a multiple of 16. Included by attention.c,
 * once for each. Three kernels, each of the same form: a block has 128 rows of its own (queries, or
 * keys), 16 a warp, and goes through the others in tiles, of which the next is on its way while one
 * is worked on. A warp multiplies its rows by the tile's, makes probabilities (or gradients of
 * scores) of the scores where they are, in registers, and multiplies those by the tile. */

#define CK_CAT_(a, b) a##_##b
#define CK_CAT(a, b)  CK_CAT_(a, b)
#define NAMED(name)   CK_CAT(name, CK_WIDTH)
#define LAUNCH(name)  CK_CAT(NAMED(name), launch)

/* Numbers between rows in shared memory: eight more, so that eight rows lie in different banks. */
#define STRIDE (CK_WIDTH + 8)
/* Keys in a tile of the forward pass: as many as memory and registers allow. */
#define KEYS                     (CK_WIDTH > 80 ? 32 : 64)
#define OWN_BYTES(arrays)        ((arrays)*ROWS * STRIDE * 2)
#define TILE_BYTES(rows, arrays) ((arrays) * (rows)*STRIDE * 2)

#define FORWARD_BYTES  (OWN_BYTES(1) + 2 * TILE_BYTES(KEYS, 2))
#define BACKWARD_BYTES (OWN_BYTES(2) + 2 * TILE_BYTES(TILE, 2) + 4 * TILE * 4)

/* Rows first to first + rows - 1 of a head, of which there are `end`, to shared memory; what is not
 * there is zero. By all threads, t is one. */
CK_GPU_FUNCTION void NAMED(fetch)(uint16_t *to, const attention_args *a, const uint16_t *from,
                                  int64_t first, int rows, int64_t end, int t) {
    for (int i = t; i < rows * (CK_WIDTH / 8); i += CK_GPU_BLOCK) {
        int row = i / (CK_WIDTH / 8), column = i % (CK_WIDTH / 8) * 8;
        const uint16_t *x = from + (first + row) * a->channels + column;
        uint16_t *y = to + row * STRIDE + column;
        bool there = first + row < end;
        if (there && a->wide && column < a->width)
            ck_gpu_send(y, x);
        else
            for (int k = 0; k < 8; k++) y[k] = there && column + k < a->width ? x[k] : 0;
    }
}

/* A tile of keys, then one of values. */
CK_GPU_FUNCTION void NAMED(fetch_keys)(uint16_t *to, const attention_args *a, const place *at,
                                       int64_t first, int tile, int t) {
    NAMED(fetch)(to, a, a->k + at->key, first, tile, a->keys, t);
    NAMED(fetch)(to + tile * STRIDE, a, a->v + at->key, first, tile, a->keys, t);
}

/* s: 16 rows of every warp by `tile` rows, their products over the head's channels. */
#define SCORES(s, own, other, tile)                                                                \
    do {                                                                                           \
        CK_GPU_THREADS(t) {                                                                        \
            CK_GPU_UNROLL                                                                          \
            for (int i = 0; i < (tile) / 2; i++) s[CK_GPU_MINE(t)][i] = 0;                         \
        }                                                                                          \
        CK_GPU_UNROLL                                                                              \
        for (int k = 0; k < CK_WIDTH; k += 16) {                                                   \
            CK_GPU_OWN(uint32_t, left, 4);                                                         \
            CK_GPU_THREADS(t) {                                                                    \
                ck_gpu_load(left[CK_GPU_MINE(t)], (own) + t / CK_GPU_WARP * 16 * STRIDE + k,       \
                            STRIDE, CK_GPU_A, t);                                                  \
            }                                                                                      \
            CK_GPU_UNROLL                                                                          \
            for (int j = 0; j < (tile); j += 16) {                                                 \
                CK_GPU_OWN(uint32_t, right, 4);                                                    \
                CK_GPU_THREADS(t) {                                                                \
                    ck_gpu_load(right[CK_GPU_MINE(t)], (other) + j * STRIDE + k, STRIDE,           \
                                CK_GPU_B_BY_COLUMNS, t);                                           \
                }                                                                                  \
                CK_GPU_PRODUCT(s, j / 2, left, right, 0);                                          \
                CK_GPU_PRODUCT(s, j / 2 + 4, left, right, 2);                                      \
            }                                                                                      \
        }                                                                                          \
    } while (0)

/* sums += p, rounded, times `tile` rows. */
#define ADD_PRODUCT(sums, p, other, tile)                                                          \
    do {                                                                                           \
        CK_GPU_UNROLL                                                                              \
        for (int j = 0; j < (tile); j += 16) {                                                     \
            CK_GPU_OWN(uint32_t, left, 4);                                                         \
            CK_GPU_THREADS(t) {                                                                    \
                CK_GPU_UNROLL                                                                      \
                for (int i = 0; i < 4; i++)                                                        \
                    left[CK_GPU_MINE(t)][i] = ck_gpu_pack(p[CK_GPU_MINE(t)][j / 2 + 2 * i],        \
                                                          p[CK_GPU_MINE(t)][j / 2 + 2 * i + 1]);   \
            }                                                                                      \
            CK_GPU_UNROLL                                                                          \
            for (int k = 0; k < CK_WIDTH; k += 16) {                                               \
                CK_GPU_OWN(uint32_t, right, 4);                                                    \
                CK_GPU_THREADS(t) {                                                                \
                    ck_gpu_load(right[CK_GPU_MINE(t)], (other) + j * STRIDE + k, STRIDE,           \
                                CK_GPU_B_BY_ROWS, t);                                              \
                }                                                                                  \
                CK_GPU_PRODUCT(sums, k / 2, left, right, 0);                                       \
                CK_GPU_PRODUCT(sums, k / 2 + 4, left, right, 2);                                   \
            }                                                                                      \
        }                                                                                          \
    } while (0)

/* Sums of a thread, times factors of its two rows, to rows of y that are there. */
CK_GPU_FUNCTION void NAMED(store)(const attention_args *a, const ck_gpu_array *y, int64_t head,
                                  int64_t first, int64_t end, const float *sums,
                                  const float factors[2], int t) {
    CK_GPU_UNROLL
    for (int i = 0; i < CK_WIDTH / 2; i++) {
        int64_t row = first + row_of(t, i);
        int column = column_of(t, i);
        if (row < end && column < a->width)
            ck_gpu_put(y, head + row * a->channels + column, sums[i] * factors[i / 2 % 2]);
    }
}

/* ---- Forward: a block's own are queries ---- */

CK_GPU_LARGE_KERNEL(NAMED(attention), attention_args, FORWARD_BYTES, CK_WIDTH > 80 ? 1 : 2) {
    (void)blocks;
    const place at = place_of(a, block, a->queries);
    uint16_t *own = (uint16_t *)shared, *tiles = own + ROWS * STRIDE;
    const int64_t count = tiles_of(a->causal ? min64(a->keys, at.first + ROWS) : a->keys, KEYS);
    CK_GPU_OWN(float, sums, CK_WIDTH / 2);
    CK_GPU_OWN(float, most, 2);
    CK_GPU_OWN(float, total, 2);
    CK_GPU_THREADS(t) {
        NAMED(fetch)(own, a, a->q + at.query, at.first, ROWS, a->queries, t);
        NAMED(fetch_keys)(tiles, a, &at, 0, KEYS, t);
        CK_GPU_UNROLL
        for (int i = 0; i < CK_WIDTH / 2; i++) sums[CK_GPU_MINE(t)][i] = 0;
        CK_GPU_UNROLL
        for (int i = 0; i < 2; i++)
            most[CK_GPU_MINE(t)][i] = -INFINITY, total[CK_GPU_MINE(t)][i] = 0;
    }
    ck_gpu_sent();
    for (int64_t tile = 0; tile < count; tile++) {
        const uint16_t *keys = tiles + tile % 2 * 2 * KEYS * STRIDE, *values = keys + KEYS * STRIDE;
        uint16_t *next = tiles + (tile + 1) % 2 * 2 * KEYS * STRIDE;
        int64_t key = tile * KEYS;
        if (tile + 1 < count) {
            CK_GPU_THREADS(t) {
                NAMED(fetch_keys)(next, a, &at, key + KEYS, KEYS, t);
            }
        }
        ck_gpu_sent();
        ck_gpu_arrived();
        CK_GPU_BARRIER();
        CK_GPU_OWN(float, s, KEYS / 2);
        CK_GPU_OWN(float, largest, 2);
        SCORES(s, own, keys, KEYS);
        bool edge = key + KEYS > a->keys || (a->causal && key + KEYS > at.first);
        CK_GPU_THREADS(t) {
            float *mine = s[CK_GPU_MINE(t)], *top = largest[CK_GPU_MINE(t)];
            top[0] = top[1] = -INFINITY;
            CK_GPU_UNROLL
            for (int i = 0; i < KEYS / 2; i++) {
                mine[i] *= a->scale;
                if (edge && !is_seen(a, at.first + row_of(t, i), key + column_of(t, i)))
                    mine[i] = -INFINITY;
                top[i / 2 % 2] = fmaxf(top[i / 2 % 2], mine[i]);
            }
        }
        CK_GPU_JOIN_FOURS(largest, 0, true);
        CK_GPU_JOIN_FOURS(largest, 1, true);
        CK_GPU_THREADS(t) {
            float *mine = s[CK_GPU_MINE(t)], factors[2];
            CK_GPU_UNROLL
            for (int i = 0; i < 2; i++) {
                float before = most[CK_GPU_MINE(t)][i];
                float now = fmaxf(before, largest[CK_GPU_MINE(t)][i]);
                factors[i] = exp2f(before - now);
                most[CK_GPU_MINE(t)][i] = now;
                total[CK_GPU_MINE(t)][i] *= factors[i];
            }
            CK_GPU_UNROLL
            for (int i = 0; i < KEYS / 2; i++) {
                mine[i] = exp2f(mine[i] - most[CK_GPU_MINE(t)][i / 2 % 2]);
                total[CK_GPU_MINE(t)][i / 2 % 2] += mine[i];
            }
            CK_GPU_UNROLL
            for (int i = 0; i < CK_WIDTH / 2; i++) sums[CK_GPU_MINE(t)][i] *= factors[i / 2 % 2];
        }
        ADD_PRODUCT(sums, s, values, KEYS);
        CK_GPU_BARRIER();
    }
    CK_GPU_JOIN_FOURS(total, 0, false);
    CK_GPU_JOIN_FOURS(total, 1, false);
    CK_GPU_THREADS(t) {
        float factors[2];
        for (int i = 0; i < 2; i++) {
            int64_t row = at.first + row_of(t, 2 * i);
            factors[i] = 1 / total[CK_GPU_MINE(t)][i];
            if (t % 4 == 0 && row < a->queries)
                a->sums[at.row + row] =
                    LN2 * most[CK_GPU_MINE(t)][i] + logf(total[CK_GPU_MINE(t)][i]);
        }
        NAMED(store)(a, &a->y, at.query, at.first, a->queries, sums[CK_GPU_MINE(t)], factors, t);
    }
}

/* ---- Gradients of queries: a block's own are they, and those of results ---- */

CK_GPU_LARGE_KERNEL(NAMED(attention_dq), attention_args, BACKWARD_BYTES, CK_WIDTH > 80 ? 1 : 2) {
    (void)blocks;
    const place at = place_of(a, block, a->queries);
    uint16_t *own = (uint16_t *)shared, *dy = own + ROWS * STRIDE, *tiles = dy + ROWS * STRIDE;
    const int64_t count = tiles_of(a->causal ? min64(a->keys, at.first + ROWS) : a->keys, TILE);
    CK_GPU_OWN(float, sums, CK_WIDTH / 2);
    CK_GPU_OWN(float, logs, 2);
    CK_GPU_OWN(float, change, 2);
    CK_GPU_THREADS(t) {
        NAMED(fetch)(own, a, a->q + at.query, at.first, ROWS, a->queries, t);
        NAMED(fetch)(dy, a, a->dy + at.query, at.first, ROWS, a->queries, t);
        NAMED(fetch_keys)(tiles, a, &at, 0, TILE, t);
        CK_GPU_UNROLL
        for (int i = 0; i < CK_WIDTH / 2; i++) sums[CK_GPU_MINE(t)][i] = 0;
        CK_GPU_UNROLL
        for (int i = 0; i < 2; i++) {
            int64_t row = at.first + row_of(t, 2 * i);
            bool there = row < a->queries;
            logs[CK_GPU_MINE(t)][i] = there ? a->sums[at.row + row] * LOG2E : 0;
            change[CK_GPU_MINE(t)][i] = there ? a->change[at.row + row] : 0;
        }
    }
    ck_gpu_sent();
    for (int64_t tile = 0; tile < count; tile++) {
        const uint16_t *keys = tiles + tile % 2 * 2 * TILE * STRIDE, *values = keys + TILE * STRIDE;
        uint16_t *next = tiles + (tile + 1) % 2 * 2 * TILE * STRIDE;
        int64_t key = tile * TILE;
        if (tile + 1 < count) {
            CK_GPU_THREADS(t) {
                NAMED(fetch_keys)(next, a, &at, key + TILE, TILE, t);
            }
        }
        ck_gpu_sent();
        ck_gpu_arrived();
        CK_GPU_BARRIER();
        CK_GPU_OWN(float, p, TILE / 2);
        CK_GPU_OWN(float, dp, TILE / 2);
        SCORES(p, own, keys, TILE);
        SCORES(dp, dy, values, TILE);
        bool edge = key + TILE > a->keys || (a->causal && key + TILE > at.first);
        CK_GPU_THREADS(t) {
            float *mine = p[CK_GPU_MINE(t)];
            CK_GPU_UNROLL
            for (int i = 0; i < TILE / 2; i++) {
                float x = exp2f(mine[i] * a->scale - logs[CK_GPU_MINE(t)][i / 2 % 2]);
                if (edge && !is_seen(a, at.first + row_of(t, i), key + column_of(t, i))) x = 0;
                mine[i] = x * (dp[CK_GPU_MINE(t)][i] - change[CK_GPU_MINE(t)][i / 2 % 2]);
            }
        }
        ADD_PRODUCT(sums, p, keys, TILE);
        CK_GPU_BARRIER();
    }
    CK_GPU_THREADS(t) {
        const float factors[2] = {a->scale * LN2, a->scale * LN2};
        NAMED(store)(a, &a->dq, at.query, at.first, a->queries, sums[CK_GPU_MINE(t)], factors, t);
    }
}

/* ---- Gradients of keys and values: a block's own are they ---- */

/* A tile of queries, gradients of results, and of each row the logarithm and the change. */
CK_GPU_FUNCTION void NAMED(fetch_queries)(uint16_t *to, float *rows, const attention_args *a,
                                          const place *at, int64_t first, int t) {
    NAMED(fetch)(to, a, a->q + at->query, first, TILE, a->queries, t);
    NAMED(fetch)(to + TILE * STRIDE, a, a->dy + at->query, first, TILE, a->queries, t);
    if (t >= 2 * TILE) return;
    int64_t row = first + t % TILE;
    const float *from = t < TILE ? a->sums : a->change;
    if (row < a->queries)
        ck_gpu_send_one(rows + t, from + at->row + row);
    else
        rows[t] = 0;
}

CK_GPU_LARGE_KERNEL(NAMED(attention_dkv), attention_args, BACKWARD_BYTES, CK_WIDTH > 64 ? 1 : 2) {
    (void)blocks;
    const place at = place_of(a, block, a->keys);
    uint16_t *own = (uint16_t *)shared, *values = own + ROWS * STRIDE;
    uint16_t *tiles = values + ROWS * STRIDE;
    float *rows = (float *)(tiles + 4 * TILE * STRIDE);
    const int64_t begin = a->causal ? at.first / TILE : 0, end = tiles_of(a->queries, TILE);
    CK_GPU_OWN(float, dk, CK_WIDTH / 2);
    CK_GPU_OWN(float, dv, CK_WIDTH / 2);
    CK_GPU_THREADS(t) {
        NAMED(fetch)(own, a, a->k + at.key, at.first, ROWS, a->keys, t);
        NAMED(fetch)(values, a, a->v + at.key, at.first, ROWS, a->keys, t);
        NAMED(fetch_queries)
        (tiles + begin % 2 * 2 * TILE * STRIDE, rows + begin % 2 * 2 * TILE, a, &at, begin * TILE,
         t);
        CK_GPU_UNROLL
        for (int i = 0; i < CK_WIDTH / 2; i++) dk[CK_GPU_MINE(t)][i] = dv[CK_GPU_MINE(t)][i] = 0;
    }
    ck_gpu_sent();
    for (int64_t tile = begin; tile < end; tile++) {
        int now = (int)(tile % 2), then = 1 - now;
        const uint16_t *queries = tiles + now * 2 * TILE * STRIDE, *dy = queries + TILE * STRIDE;
        const float *logs = rows + now * 2 * TILE, *change = logs + TILE;
        int64_t query = tile * TILE;
        if (tile + 1 < end) {
            CK_GPU_THREADS(t) {
                NAMED(fetch_queries)
                (tiles + then * 2 * TILE * STRIDE, rows + then * 2 * TILE, a, &at, query + TILE, t);
            }
        }
        ck_gpu_sent();
        ck_gpu_arrived();
        CK_GPU_BARRIER();
        CK_GPU_OWN(float, p, TILE / 2);
        CK_GPU_OWN(float, dp, TILE / 2);
        SCORES(p, own, queries, TILE);
        bool edge = query + TILE > a->queries || (a->causal && query < at.first + ROWS);
        CK_GPU_THREADS(t) {
            float *mine = p[CK_GPU_MINE(t)];
            CK_GPU_UNROLL
            for (int i = 0; i < TILE / 2; i++) {
                int column = column_of(t, i);
                int64_t row = query + column, key = at.first + row_of(t, i);
                mine[i] = exp2f(mine[i] * a->scale - logs[column] * LOG2E);
                if (edge && (row >= a->queries || (a->causal && key > row))) mine[i] = 0;
            }
        }
        ADD_PRODUCT(dv, p, dy, TILE);
        SCORES(dp, values, dy, TILE);
        CK_GPU_THREADS(t) {
            CK_GPU_UNROLL
            for (int i = 0; i < TILE / 2; i++)
                p[CK_GPU_MINE(t)][i] *= dp[CK_GPU_MINE(t)][i] - change[column_of(t, i)];
        }
        ADD_PRODUCT(dk, p, queries, TILE);
        CK_GPU_BARRIER();
    }
    CK_GPU_THREADS(t) {
        const float factors[2] = {a->scale * LN2, a->scale * LN2}, ones[2] = {1, 1};
        NAMED(store)(a, &a->dk, at.key, at.first, a->keys, dk[CK_GPU_MINE(t)], factors, t);
        NAMED(store)(a, &a->dv, at.key, at.first, a->keys, dv[CK_GPU_MINE(t)], ones, t);
    }
}

static const fused NAMED(fused) = {
    CK_WIDTH,
    {FORWARD_BYTES, BACKWARD_BYTES},
    {LAUNCH(attention), LAUNCH(attention_dq), LAUNCH(attention_dkv)}};

#undef CK_CAT_
#undef CK_CAT
#undef NAMED
#undef LAUNCH
#undef STRIDE
#undef KEYS
#undef OWN_BYTES
#undef TILE_BYTES
#undef FORWARD_BYTES
#undef BACKWARD_BYTES
#undef SCORES
#undef ADD_PRODUCT
#undef CK_WIDTH
