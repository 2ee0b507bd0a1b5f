/* Inner products, and order statistics by counting. */
#include "merge/whole.h"
#include "io/os.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Inner products ---- */

/* The inner product of two strips, in eight lanes and always in the same order. */
static double dot(const float *a, const float *b, size_t n) {
    enum { LANES = 8 };
    double lanes[LANES] = {0}, sum = 0;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++) lanes[l] += (double)a[i + l] * (double)b[i + l];
    for (; i < n; i++) lanes[0] += (double)a[i] * (double)b[i];
    for (size_t l = 0; l < LANES; l++) sum += lanes[l];
    return sum;
}

typedef struct products {
    size_t inputs;
    double *gram;
} products;

static void add_products(void *context, const float *const *in, uint64_t first, size_t n) {
    const products *p = context;
    (void)first;
    for (size_t i = 0; i < p->inputs; i++)
        for (size_t j = 0; j <= i; j++) p->gram[i * p->inputs + j] += dot(in[i], in[j], n);
}

ck_status ck_whole_products(const ck_pass *pass, size_t inputs, double *gram, ck_error *err) {
    products p = {inputs, gram};
    memset(gram, 0, inputs * inputs * sizeof *gram);
    CK_TRY(pass->run(pass, add_products, &p, err));
    for (size_t i = 0; i < inputs; i++)
        for (size_t j = 0; j < i; j++) gram[j * inputs + i] = gram[i * inputs + j];
    return CK_OK;
}

/* ---- Ranks: the bits of floats, a little changed, are in the order of the floats. So a first
 * histogram counts by the upper 16 bits, and a second one, within the bin where the element lies,
 * by the lower 16. ---- */

enum { BINS = 1 << 16 };

typedef struct counting {
    ck_quantity *quantity;
    const void *context;
    size_t quantities, count;
    const ck_rank *ranks;
    const uint32_t *upper; /* the bin of each rank; NULL: it is still to be found */
    uint64_t *bins;        /* BINS for each quantity; then for each rank */
} counting;

static void count_keys(void *context, const float *const *in, uint64_t first, size_t n) {
    const counting *c = context;
    float values[CK_STRIP];
    uint32_t keys[CK_STRIP];
    for (size_t q = 0; q < c->quantities; q++) {
        c->quantity(c->context, q, in, first, n, values);
        memcpy(keys, values, n * sizeof *keys);
        for (size_t e = 0; e < n; e++) keys[e] ^= (uint32_t)((int32_t)keys[e] >> 31) | 0x80000000u;
        if (!c->upper)
            for (size_t e = 0; e < n; e++) c->bins[q * BINS + (keys[e] >> 16)]++;
        for (size_t r = 0; c->upper && r < c->count; r++) {
            if (c->ranks[r].quantity != q) continue;
            uint64_t *bins = c->bins + r * BINS;
            for (size_t e = 0; e < n; e++)
                if (keys[e] >> 16 == c->upper[r]) bins[keys[e] & 0xFFFF]++;
        }
    }
}

/* The bin that holds the element of this rank; what lies below it is taken off the rank. */
static uint32_t find_bin(const uint64_t *bins, uint64_t *rank) {
    uint32_t bin = 0;
    while (bin < BINS - 1 && bins[bin] <= *rank) *rank -= bins[bin++];
    return bin;
}

static ck_status find_ranks(const ck_pass *pass, counting *c, ck_rank *ranks, uint64_t *left,
                            uint32_t *upper, ck_error *err) {
    CK_TRY(pass->run(pass, count_keys, c, err));
    for (size_t r = 0; r < c->count; r++) {
        left[r] = ranks[r].rank;
        upper[r] = find_bin(c->bins + ranks[r].quantity * BINS, &left[r]);
    }
    memset(c->bins, 0, c->count * BINS * sizeof *c->bins);
    c->upper = upper;
    CK_TRY(pass->run(pass, count_keys, c, err));
    for (size_t r = 0; r < c->count; r++) {
        uint32_t key = upper[r] << 16 | find_bin(c->bins + r * BINS, &left[r]);
        key ^= key >> 31 ? 0x80000000u : 0xFFFFFFFFu;
        memcpy(&ranks[r].value, &key, sizeof key);
    }
    return CK_OK;
}

ck_status ck_whole_ranks(const ck_pass *pass, ck_quantity *quantity, const void *context,
                         size_t quantities, ck_rank *ranks, size_t count, ck_error *err) {
    counting c = {.quantity = quantity,
                  .context = context,
                  .quantities = quantities,
                  .count = count,
                  .ranks = ranks};
    if (count == 0) return CK_OK;
    uint64_t *left = ck_alloc_array(count, sizeof *left);
    uint32_t *upper = ck_alloc_array(count, sizeof *upper);
    c.bins = ck_alloc_array((quantities > count ? quantities : count) * BINS, sizeof *c.bins);
    ck_status status = left && upper && c.bins ? find_ranks(pass, &c, ranks, left, upper, err)
                                               : ck_fail_memory(err, "histograms");
    free(c.bins);
    free(upper);
    free(left);
    return status;
}

void ck_whole_changes(const void *context, size_t quantity, const float *const *in, uint64_t first,
                      size_t n, float *out) {
    (void)context, (void)first;
    const float *base = in[0], *input = in[quantity + 1];
    for (size_t e = 0; e < n; e++) out[e] = fabsf(input[e] - base[e]);
}
