/* Weight matching, see rebasin.h.
 *
 * DESIGN
 * gains[part][i * n + j] is what it adds to the sum when b's channel j stands at place i. Each
 * tensor with an axis along the group adds the products of a's channels and b's, channels of rows
 * being read as they lie, those of columns being turned round a slab of rows at a time. Numbers are
 * multiplied by the kernel for products of matrices, tile by tile; tiles are of sizes that depend
 * on nothing but the tensor, and every element of a tile is made by one thread.
 */
#include "merge/rebasin.h"
#include "io/os.h"
#include "kernels/kernels.h"
#include "merge/assignment.h"

#include <math.h>
#include <omp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_ROUNDS = 100,
    TILE_FLOATS = 1 << 20, /* of each model */
    TILE_ROWS = 1024,
    SLAB_PANELS = 16, /* so many go through the kernel at once */
    THREAD_ROWS = 16,
};

/* An order must be better by this share to count: rounding must not keep the rounds going. */
static const double LEAST_GAIN = 1e-6;

typedef struct matching {
    ck_channels *channels;
    const ck_reader *like;
    const ck_rebasin_options *options;
    const ck_kernels *kernels;
    unsigned threads;
    bool *settled; /* groups that an order was found for */
    bool *open;    /* groups whose order may get better */
    float *gains[CK_CHANNEL_PARTS];
    float *a, *b;    /* tiles: channels of a one after another; b's in panels */
    float *rows;     /* as they are read */
    void *raw;       /* a row of a tensor */
    uint32_t *order; /* of a tensor's rows */
} matching;

/* ---- Reading ---- */

/* Row `row` of a tensor in f32, its columns in this order (NULL: as they are). */
static ck_status read_row(const matching *m, const ck_reader *r, const ck_tensor *t, uint64_t row,
                          const uint32_t *columns, float *out, ck_error *err) {
    size_t length = t->elements / t->shape[0], bytes = t->nbytes / t->shape[0];
    CK_TRY(ck_reader_read(r, t, row * bytes, m->raw, bytes, err));
    if (!columns) {
        m->kernels->decode[t->dtype](out, m->raw, length);
        return CK_OK;
    }
    size_t kernel = length / t->shape[1], size = bytes / t->shape[1];
    for (size_t j = 0; j < t->shape[1]; j++)
        m->kernels->decode[t->dtype](out + j * kernel, (char *)m->raw + columns[j] * size, kernel);
    return CK_OK;
}

/* ---- Products ---- */

/* count channels of k numbers each to panels; what is beyond them is 0. */
static void to_panels(const float *rows, size_t count, size_t k, float *panels) {
    for (size_t p = 0; p * CK_PANEL < count; p++)
        for (size_t x = 0; x < k; x++)
            for (size_t j = 0; j < CK_PANEL; j++) {
                size_t i = p * CK_PANEL + j;
                panels[(p * k + x) * CK_PANEL + j] = i < count ? rows[i * k + x] : 0;
            }
}

/* gains[i, j] += a's channel i times b's channel j, of `height` channels of m->a and `width` of
 * m->b, k numbers each; gains has rows of n. */
static void multiply(const matching *m, float *gains, size_t n, size_t height, size_t width,
                     size_t k) {
    enum { STRIDE = SLAB_PANELS * CK_PANEL };
    for (size_t first = 0; first < width; first += STRIDE) {
        size_t here = width - first < STRIDE ? width - first : STRIDE;
        size_t panels = (here + CK_PANEL - 1) / CK_PANEL;
#pragma omp parallel for num_threads(m->threads) if (height * here * k > 1u << 20)
        for (size_t i = 0; i < height; i += THREAD_ROWS) {
            size_t rows = height - i < THREAD_ROWS ? height - i : THREAD_ROWS;
            float products[THREAD_ROWS * STRIDE];
            m->kernels->panels(products, STRIDE, m->a + i * k, m->b + first * k, rows, k, panels);
            for (size_t r = 0; r < rows; r++)
                for (size_t j = 0; j < here; j++)
                    gains[(i + r) * n + first + j] += products[r * STRIDE + j];
        }
    }
}

/* The largest multiple of a panel of channels that a tile has room for. */
static size_t tile_rows(size_t k) {
    size_t rows = TILE_FLOATS / k / CK_PANEL * CK_PANEL;
    return rows > TILE_ROWS ? TILE_ROWS : rows < CK_PANEL ? CK_PANEL : rows;
}

/* Channels that are rows `first` to first + n - 1 of a tensor. */
static ck_status add_rows(matching *m, const ck_channel_tensor *t, const ck_tensor *a, size_t first,
                          size_t n, float *gains, ck_error *err) {
    const ck_channels *c = m->channels;
    ck_axis columns = t->columns;
    const uint32_t *order =
        columns.group == CK_NO_GROUP ? NULL : c->groups[columns.group].order[columns.part];
    size_t k = a->elements / a->shape[0], tile = tile_rows(k);
    for (size_t j = 0; j < n; j += tile) {
        size_t width = n - j < tile ? n - j : tile;
        for (size_t r = 0; r < width; r++)
            CK_TRY(read_row(m, c->model, t->tensor, first + j + r, order, m->rows + r * k, err));
        to_panels(m->rows, width, k, m->b);
        for (size_t i = 0; i < n; i += tile) {
            size_t height = n - i < tile ? n - i : tile;
            for (size_t r = 0; r < height; r++)
                CK_TRY(read_row(m, m->like, a, first + i + r, NULL, m->a + r * k, err));
            multiply(m, gains + i * n + j, n, height, width, k);
        }
    }
    return CK_OK;
}

/* n up to a whole panel. */
static size_t padded(size_t n) {
    return (n + CK_PANEL - 1) / CK_PANEL * CK_PANEL;
}

/* How many rows of n channels with so many numbers each are turned round at once. */
static size_t slab_rows(size_t n, size_t kernel) {
    size_t rows = TILE_FLOATS / (padded(n) * kernel);
    return rows ? rows : 1;
}

/* rows[r, i, y] (y: of the kernel) to out[i, r, y]. */
static void turn(const float *rows, size_t count, size_t n, size_t kernel, float *out) {
    for (size_t r = 0; r < count; r++)
        for (size_t i = 0; i < n; i++)
            memcpy(out + (i * count + r) * kernel, rows + (r * n + i) * kernel,
                   kernel * sizeof *out);
}

/* Channels that are the columns of a tensor. */
static ck_status add_columns(matching *m, const ck_channel_tensor *t, const ck_tensor *a,
                             float *gains, ck_error *err) {
    size_t n = a->shape[1], row = a->elements / a->shape[0], kernel = row / n;
    size_t slab = slab_rows(n, kernel);
    ck_channels_rows(m->channels, t, m->order);
    for (size_t first = 0; first < a->shape[0]; first += slab) {
        size_t count = a->shape[0] - first < slab ? a->shape[0] - first : slab;
        for (size_t r = 0; r < count; r++)
            CK_TRY(read_row(m, m->channels->model, t->tensor, m->order[first + r], NULL,
                            m->rows + r * row, err));
        turn(m->rows, count, n, kernel, m->a);
        to_panels(m->a, n, count * kernel, m->b);
        for (size_t r = 0; r < count; r++)
            CK_TRY(read_row(m, m->like, a, first + r, NULL, m->rows + r * row, err));
        turn(m->rows, count, n, kernel, m->a);
        multiply(m, gains, n, n, n, count * kernel);
    }
    return CK_OK;
}

/* ---- One group ---- */

static bool along(ck_axis axis, size_t group) {
    return axis.group == group;
}

static bool has_rows(const ck_channel_tensor *t, size_t group) {
    for (size_t s = 0; s < t->segments; s++)
        if (along(t->rows[s], group)) return true;
    return false;
}

/* Whether an order was found for all that the group's channels face in this tensor. */
static bool faces_settled(const matching *m, const ck_channel_tensor *t, size_t group) {
    if (!along(t->columns, group))
        return t->columns.group == CK_NO_GROUP || m->settled[t->columns.group];
    for (size_t s = 0; s < t->segments; s++)
        if (t->rows[s].group != CK_NO_GROUP && !m->settled[t->rows[s].group]) return false;
    return true;
}

/* The tensor of the other model; NULL: it lacks it. */
static ck_status find_like(const matching *m, const ck_tensor *t, const ck_tensor **like,
                           ck_error *err) {
    const ck_tensor *a = *like = ck_reader_find(m->like, t->name);
    if (!a) return CK_OK;
    bool same = a->rank == t->rank;
    for (size_t i = 0; i < t->rank && same; i++) same = a->shape[i] == t->shape[i];
    if (same && ck_dtype_is_float(a->dtype)) return CK_OK;
    char mine[128], theirs[128];
    return ck_fail(err, CK_INPUT, "%s: tensor '%s' is %s %s, but %s %s in %s",
                   ck_reader_path(m->channels->model), t->name, ck_dtype_name(t->dtype),
                   ck_tensor_shape_text(t, mine, sizeof mine), ck_dtype_name(a->dtype),
                   ck_tensor_shape_text(a, theirs, sizeof theirs), ck_reader_path(m->like));
}

static ck_status add_tensor(matching *m, const ck_channel_tensor *t, size_t group, ck_error *err) {
    const ck_tensor *a;
    CK_TRY(find_like(m, t->tensor, &a, err));
    if (m->options->progress) ck_progress_add(m->options->progress, t->tensor->nbytes);
    if (m->options->cancel && *m->options->cancel) return ck_fail(err, CK_CANCELLED, "interrupted");
    if (!a) return CK_OK;
    size_t n = m->channels->groups[group].size;
    for (size_t s = 0; s < t->segments; s++)
        if (along(t->rows[s], group))
            CK_TRY(add_rows(m, t, a, s * n, n, m->gains[t->rows[s].part], err));
    return along(t->columns, group) ? add_columns(m, t, a, m->gains[t->columns.part], err) : CK_OK;
}

/* Fills gains for a group; *all: with every tensor that it has. */
static ck_status gather(matching *m, size_t group, bool *all, ck_error *err) {
    const ck_channels *c = m->channels;
    const ck_channel_group *g = &c->groups[group];
    for (size_t p = 0; p < g->parts; p++)
        memset(m->gains[p], 0, g->size * g->size * sizeof *m->gains[p]);
    *all = true;
    for (size_t i = 0; i < c->tensor_count; i++) {
        const ck_channel_tensor *t = &c->tensors[i];
        if (!has_rows(t, group) && !along(t->columns, group)) continue;
        bool counts = m->settled[group] || faces_settled(m, t, group);
        *all &= counts;
        if (counts) CK_TRY(add_tensor(m, t, group, err));
    }
    for (size_t p = 0; p < g->parts; p++)
        for (size_t i = 0; i < g->size * g->size; i++)
            if (!isfinite(m->gains[p][i]))
                return ck_fail(err, CK_INPUT,
                               "%s, %s: weights of '%s' are not finite, or too large to compare",
                               ck_reader_path(c->model), ck_reader_path(m->like), g->name);
    return CK_OK;
}

static double total(const float *gains, size_t n, const uint32_t *order) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += gains[i * n + order[i]];
    return sum;
}

/* Of blocks: what each pair of them gains at best, and then which goes where. within has room for
 * the order within each pair. */
static ck_status solve_blocks(const matching *m, const ck_channel_group *g, float *pairs,
                              uint32_t *within, uint32_t *blocks, uint32_t *best, ck_error *err) {
    size_t n = g->size, count = g->blocks, d = n / count;
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < count; j++) {
            double gain = 0;
            for (size_t p = 0; p < g->parts; p++) {
                const float *gains = m->gains[p] + i * d * n + j * d;
                uint32_t *order = within + ((p * count + i) * count + j) * d;
                CK_TRY(ck_assign(gains, d, n, order, err));
                for (size_t x = 0; x < d; x++) gain += gains[x * n + order[x]];
            }
            pairs[i * count + j] = (float)gain;
        }
    CK_TRY(ck_assign(pairs, count, count, blocks, err));
    for (size_t p = 0; p < g->parts; p++)
        for (size_t i = 0; i < count; i++)
            for (size_t x = 0; x < d; x++)
                best[p * n + i * d + x] =
                    (uint32_t)(blocks[i] * d +
                               within[((p * count + i) * count + blocks[i]) * d + x]);
    return CK_OK;
}

/* The best order of a group's channels while all others are as they are. */
static ck_status solve(const matching *m, const ck_channel_group *g, uint32_t *best,
                       ck_error *err) {
    if (g->blocks == 1 && g->parts == 1) return ck_assign(m->gains[0], g->size, g->size, best, err);
    float *pairs = ck_alloc_array(g->blocks * g->blocks, sizeof *pairs);
    uint32_t *within = ck_alloc_array(g->parts * g->blocks * g->size, sizeof *within);
    uint32_t *blocks = ck_alloc_array(g->blocks, sizeof *blocks);
    ck_status status = pairs && within && blocks
                           ? solve_blocks(m, g, pairs, within, blocks, best, err)
                           : ck_fail_memory(err, g->name);
    free(pairs);
    free(within);
    free(blocks);
    return status;
}

/* ---- All groups ---- */

/* What faces a group whose order changed may now get better. */
static void open_facing(matching *m, size_t group) {
    const ck_channels *c = m->channels;
    for (size_t i = 0; i < c->tensor_count; i++) {
        const ck_channel_tensor *t = &c->tensors[i];
        if (along(t->columns, group)) {
            for (size_t s = 0; s < t->segments; s++)
                if (t->rows[s].group != CK_NO_GROUP) m->open[t->rows[s].group] = true;
        } else if (has_rows(t, group) && t->columns.group != CK_NO_GROUP) {
            m->open[t->columns.group] = true;
        }
    }
}

/* Takes the best order for a group, if it is better than the one it has. */
static ck_status match_group(matching *m, size_t group, uint32_t *best, ck_error *err) {
    ck_channel_group *g = &m->channels->groups[group];
    bool all;
    CK_TRY(gather(m, group, &all, err));
    CK_TRY(solve(m, g, best, err));
    double before = 0, after = 0;
    for (size_t p = 0; p < g->parts; p++) {
        before += total(m->gains[p], g->size, g->order[p]);
        after += total(m->gains[p], g->size, best + p * g->size);
    }
    m->settled[group] = true;
    if (after - before > LEAST_GAIN * fabs(after)) {
        for (size_t p = 0; p < g->parts; p++)
            memcpy(g->order[p], best + p * g->size, g->size * sizeof *best);
        open_facing(m, group);
    }
    m->open[group] = !all;
    return CK_OK;
}

static uint64_t group_bytes(const ck_channels *c, size_t group) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < c->tensor_count; i++)
        if (has_rows(&c->tensors[i], group) || along(c->tensors[i].columns, group))
            bytes += c->tensors[i].tensor->nbytes;
    return bytes;
}

static ck_status match_all(matching *m, uint32_t *best, unsigned *rounds, ck_error *err) {
    bool any = true;
    for (*rounds = 0; any && *rounds < MAX_ROUNDS; ++*rounds) {
        any = false;
        for (size_t g = 0; g < m->channels->group_count; g++) {
            if (!m->open[g]) continue;
            if (*rounds && m->options->progress)
                m->options->progress->total += group_bytes(m->channels, g);
            CK_TRY(match_group(m, g, best, err));
            any = true;
        }
    }
    return CK_OK;
}

typedef struct room {
    size_t group[CK_CHANNEL_PARTS]; /* channels of the largest with so many parts */
    size_t tile, row_bytes, rows;
} room;

static void at_least(size_t *most, size_t n) {
    if (n > *most) *most = n;
}

static room find_room(const ck_channels *c, const ck_reader *like) {
    room r = {.tile = TILE_FLOATS};
    for (size_t g = 0; g < c->group_count; g++)
        for (size_t p = 0; p < c->groups[g].parts; p++) at_least(&r.group[p], c->groups[g].size);
    for (size_t i = 0; i < c->tensor_count; i++) {
        const ck_tensor *t = c->tensors[i].tensor, *a = ck_reader_find(like, t->name);
        size_t row = t->elements / t->shape[0];
        at_least(&r.tile, CK_PANEL * row);
        if (t->rank > 1) at_least(&r.tile, padded(t->shape[1]) * (row / t->shape[1]));
        at_least(&r.row_bytes, t->nbytes / t->shape[0]);
        if (a && a->rank && a->shape[0]) at_least(&r.row_bytes, a->nbytes / a->shape[0]);
        at_least(&r.rows, t->shape[0]);
    }
    return r;
}

uint64_t ck_rebasin_bytes(const ck_channels *c) {
    uint64_t bytes = 0;
    for (size_t g = 0; g < c->group_count; g++) bytes += group_bytes(c, g);
    return bytes;
}

static void count_moved(const ck_channels *c, ck_rebasin_result *result) {
    for (size_t g = 0; g < c->group_count; g++)
        for (size_t p = 0; p < c->groups[g].parts; p++) {
            result->channels += c->groups[g].size;
            for (size_t i = 0; i < c->groups[g].size; i++)
                result->moved += c->groups[g].order[p][i] != i;
        }
}

static ck_status allocate(matching *m, const room *r, uint32_t **best, ck_error *err) {
    size_t groups = m->channels->group_count;
    bool enough = (m->settled = ck_alloc(groups)) != NULL;
    enough &= (m->open = ck_alloc(groups)) != NULL;
    for (size_t p = 0; p < CK_CHANNEL_PARTS; p++)
        enough &= (m->gains[p] = ck_alloc_array(r->group[p], r->group[p] * sizeof(float))) != NULL;
    enough &= (m->a = ck_alloc_array(r->tile, sizeof *m->a)) != NULL;
    enough &= (m->b = ck_alloc_array(r->tile, sizeof *m->b)) != NULL;
    enough &= (m->rows = ck_alloc_array(r->tile, sizeof *m->rows)) != NULL;
    enough &= (m->raw = ck_alloc(r->row_bytes)) != NULL;
    enough &= (m->order = ck_alloc_array(r->rows, sizeof *m->order)) != NULL;
    size_t most = r->group[0] > 2 * r->group[1] ? r->group[0] : 2 * r->group[1];
    enough &= (*best = ck_alloc_array(most, sizeof **best)) != NULL;
    return enough ? CK_OK : ck_fail_memory(err, "re-basin");
}

ck_status ck_rebasin(ck_channels *c, const ck_reader *like, const ck_rebasin_options *o,
                     ck_rebasin_result *result, ck_error *err) {
    matching m = {.channels = c,
                  .like = like,
                  .options = o,
                  .kernels = ck_kernels_best(),
                  .threads = o->threads ? o->threads : (unsigned)omp_get_max_threads()};
    uint32_t *best = NULL;
    *result = (ck_rebasin_result){0};
    if (!m.kernels)
        return ck_fail(err, CK_USAGE, "CK_ISA names no instruction set of this processor");
    room r = find_room(c, like);
    ck_status status = allocate(&m, &r, &best, err);
    if (status == CK_OK) {
        memset(m.open, true, c->group_count);
        status = match_all(&m, best, &result->rounds, err);
    }
    if (status == CK_OK) count_moved(c, result);
    free(best);
    free(m.settled);
    free(m.open);
    for (size_t p = 0; p < CK_CHANNEL_PARTS; p++) free(m.gains[p]);
    free(m.a);
    free(m.b);
    free(m.rows);
    free(m.raw);
    free(m.order);
    return status;
}
