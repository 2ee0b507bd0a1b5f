/* The metrics of metrics.h but for the Frechet distance (frechet.c). Work is divided among threads
 * by rows, and the rows' results are added in order. */
#include "distill/judge/metrics.h"
#include "distill/judge/metrics_int.h"
#include "io/os.h"
#include "kernels/philox.h"

#include <math.h>
#include <omp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

ck_status ck_metrics__doubles(ck_points points, double **values, ck_error *err) {
    if (points.dim && points.count > SIZE_MAX / points.dim) return ck_fail_memory(err, "points");
    size_t n = points.count * points.dim;
    double *copy = ck_alloc_array(n, sizeof *copy);
    if (!copy) return ck_fail_memory(err, "points");
    for (size_t i = 0; i < n; i++) {
        copy[i] = points.values[i];
        if (isfinite(copy[i])) continue;
        free(copy);
        return ck_fail(err, CK_INPUT, "number %zu of point %zu is %g", i % points.dim,
                       i / points.dim, points.values[i]);
    }
    *values = copy;
    return CK_OK;
}

/* Two sets of one dimension in f64. */
typedef struct pair {
    double *a, *b;
} pair;

static void free_pair(pair *p) {
    free(p->a);
    free(p->b);
}

static ck_status load_pair(ck_points a, ck_points b, size_t least, pair *p, ck_error *err) {
    *p = (pair){0};
    if (a.dim != b.dim || !a.dim)
        return ck_fail(err, CK_USAGE, "%zu and %zu dimensions", a.dim, b.dim);
    if (a.count < least || b.count < least)
        return ck_fail(err, CK_USAGE, "%zu and %zu points, fewer than %zu", a.count, b.count,
                       least);
    ck_status status = ck_metrics__doubles(a, &p->a, err);
    if (status == CK_OK) status = ck_metrics__doubles(b, &p->b, err);
    if (status != CK_OK) free_pair(p);
    return status;
}

static double squared_distance(const double *a, const double *b, size_t n) {
    double lane[8] = {0}, rest = 0;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
#pragma omp simd
        for (int l = 0; l < 8; l++) {
            double way = a[i + l] - b[i + l];
            lane[l] += way * way;
        }
    }
    for (; i < n; i++) rest += (a[i] - b[i]) * (a[i] - b[i]);
    return ((lane[0] + lane[4]) + (lane[1] + lane[5])) +
           ((lane[2] + lane[6]) + (lane[3] + lane[7])) + rest;
}

static double sum(const double *x, size_t n) {
    double total = 0;
    for (size_t i = 0; i < n; i++) total += x[i];
    return total;
}

/* ---- KID ---- */

/* m of count rows, drawn without replacement (the first m places of Fisher and Yates's shuffle).
 * order is space for count numbers. */
static void draw(const double *values, size_t count, size_t dim, size_t m, uint64_t seed,
                 uint32_t subset, uint32_t stream, uint32_t *order, double *drawn) {
    for (size_t i = 0; i < count; i++) order[i] = (uint32_t)i;
    uint32_t words[4];
    for (size_t i = 0; i < m; i++) {
        if (i % 4 == 0) ck_philox(seed, subset, stream, i / 4, words);
        size_t other = i + (size_t)((uint64_t)words[i % 4] * (count - i) >> 32);
        uint32_t chosen = order[other];
        order[other] = order[i];
        order[i] = chosen;
        memcpy(drawn + i * dim, values + chosen * dim, dim * sizeof *drawn);
    }
}

/* The kernel's sum over all pairs of m rows of x and m of y; without those of equal index if other
 * is set. rows is space for m numbers. */
static double sum_kernel(const double *x, const double *y, size_t m, size_t dim, bool others,
                         double *rows) {
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < m; i++) {
        double total = 0;
        for (size_t j = 0; j < m; j++) {
            if (others && i == j) continue;
            double k = ck_metrics__dot(x + i * dim, y + j * dim, dim) / (double)dim + 1;
            total += k * k * k;
        }
        rows[i] = total;
    }
    return sum(rows, m);
}

ck_status ck_kid(ck_points a, ck_points b, size_t subsets, size_t subset_size, uint64_t seed,
                 ck_kid_result *result, ck_error *err) {
    size_t m = subset_size, dim = a.dim, larger = a.count > b.count ? a.count : b.count;
    if (!subsets || m < 2 || larger > UINT32_MAX)
        return ck_fail(err, CK_USAGE, "%zu subsets of %zu points, of %zu", subsets, m, larger);
    pair p;
    CK_TRY(load_pair(a, b, m, &p, err));
    double *x = ck_alloc_array(m * dim, sizeof *x), *y = ck_alloc_array(m * dim, sizeof *y);
    double *rows = ck_alloc_array(m, sizeof *rows), *found = ck_alloc_array(subsets, sizeof *found);
    uint32_t *order = ck_alloc_array(larger, sizeof *order);
    ck_status status =
        x && y && rows && found && order ? CK_OK : ck_fail_memory(err, "kernel distance");
    for (size_t s = 0; s < subsets && status == CK_OK; s++) {
        draw(p.a, a.count, dim, m, seed, (uint32_t)s, 0, order, x);
        draw(p.b, b.count, dim, m, seed, (uint32_t)s, 1, order, y);
        double within = sum_kernel(x, x, m, dim, true, rows) + sum_kernel(y, y, m, dim, true, rows);
        double between = sum_kernel(x, y, m, dim, false, rows);
        found[s] = within / ((double)m * (double)(m - 1)) - 2 * between / ((double)m * (double)m);
    }
    if (status == CK_OK) {
        result->mean = sum(found, subsets) / (double)subsets;
        double square = 0;
        for (size_t s = 0; s < subsets; s++)
            square += (found[s] - result->mean) * (found[s] - result->mean);
        result->deviation = sqrt(square / (double)subsets);
    }
    free(x);
    free(y);
    free(rows);
    free(found);
    free(order);
    free_pair(&p);
    return status;
}

/* ---- Sliced Wasserstein ---- */

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void project(const double *values, size_t count, size_t dim, const double *direction,
                    double *to) {
    for (size_t i = 0; i < count; i++) to[i] = ck_metrics__dot(values + i * dim, direction, dim);
    qsort(to, count, sizeof *to, ascending);
}

/* The mean square of the way from n sorted numbers to m: the k-th of n fills k/n to (k+1)/n of the
 * mass, and each bit of it goes to what fills the same place on the other side. */
static double transport(const double *x, size_t n, const double *y, size_t m) {
    double total = 0;
    uint64_t mass = 0; /* of n m */
    for (size_t i = 0, j = 0; i < n && j < m;) {
        uint64_t end_x = (uint64_t)(i + 1) * m, end_y = (uint64_t)(j + 1) * n;
        uint64_t end = end_x < end_y ? end_x : end_y;
        total += (double)(end - mass) * (x[i] - y[j]) * (x[i] - y[j]);
        mass = end;
        i += end == end_x;
        j += end == end_y;
    }
    return total / ((double)n * (double)m);
}

/* A direction of length 1: normals have no preferred one. */
static void direct(uint64_t seed, size_t index, size_t dim, double *direction) {
    double square = 0;
    for (uint64_t block = 0; block * 4 < dim; block++) {
        float z[4];
        ck_philox_normals(seed, 0, (uint32_t)index, block, z);
        for (size_t i = block * 4; i < dim && i < block * 4 + 4; i++) direction[i] = z[i % 4];
    }
    for (size_t i = 0; i < dim; i++) square += direction[i] * direction[i];
    for (size_t i = 0; i < dim; i++) direction[i] /= sqrt(square);
}

ck_status ck_sliced_wasserstein(ck_points a, ck_points b, size_t directions, uint64_t seed,
                                double *distance, ck_error *err) {
    if (!directions) return ck_fail(err, CK_USAGE, "no directions to project on");
    pair p;
    CK_TRY(load_pair(a, b, 1, &p, err));
    size_t dim = a.dim, each = dim + a.count + b.count; /* numbers that a thread needs */
    double *squares = ck_alloc_array(directions, sizeof *squares);
    double *space = ck_alloc_array((size_t)omp_get_max_threads(), each * sizeof *space);
    bool memory = squares && space;
    if (memory) {
#pragma omp parallel for schedule(static)
        for (size_t k = 0; k < directions; k++) {
            double *direction = space + (size_t)omp_get_thread_num() * each;
            double *x = direction + dim, *y = x + a.count;
            direct(seed, k, dim, direction);
            project(p.a, a.count, dim, direction, x);
            project(p.b, b.count, dim, direction, y);
            squares[k] = transport(x, a.count, y, b.count);
        }
        *distance = sqrt(sum(squares, directions) / (double)directions);
    }
    free(squares);
    free(space);
    free_pair(&p);
    return memory ? CK_OK : ck_fail_memory(err, "sliced Wasserstein distance");
}

/* ---- Precision, recall, diversity ---- */

/* squares[i]: of the distance from point i to its k-th nearest other point. nearest is space for
 * count x k numbers. */
static void radii(const double *x, size_t count, size_t dim, size_t k, double *nearest,
                  double *squares) {
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < count; i++) {
        double *list = nearest + i * k; /* ascending */
        for (size_t n = 0; n < k; n++) list[n] = INFINITY;
        for (size_t j = 0; j < count; j++) {
            if (j == i) continue;
            double square = squared_distance(x + i * dim, x + j * dim, dim);
            size_t place = k;
            for (; place > 0 && square < list[place - 1]; place--)
                if (place < k) list[place] = list[place - 1];
            if (place < k) list[place] = square;
        }
        squares[i] = list[k - 1];
    }
}

/* The share of points that lie in at least one ball. */
static double share_within(const double *points, size_t count, const double *centres,
                           size_t centre_count, const double *squares, size_t dim) {
    size_t within = 0;
#pragma omp parallel for schedule(dynamic, 16) reduction(+ : within)
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < centre_count; j++)
            if (squared_distance(points + i * dim, centres + j * dim, dim) <= squares[j]) {
                within++;
                break;
            }
    return (double)within / (double)count;
}

ck_status ck_precision_recall(ck_points real, ck_points made, size_t k,
                              ck_precision_recall_result *result, ck_error *err) {
    if (!k) return ck_fail(err, CK_USAGE, "the 0-th nearest point");
    pair p;
    CK_TRY(load_pair(real, made, k + 1, &p, err));
    size_t dim = real.dim, larger = real.count > made.count ? real.count : made.count;
    double *nearest = ck_alloc_array(larger, k * sizeof *nearest);
    double *squares = ck_alloc_array(larger, sizeof *squares);
    bool memory = nearest && squares;
    if (memory) {
        radii(p.a, real.count, dim, k, nearest, squares);
        result->precision = share_within(p.b, made.count, p.a, real.count, squares, dim);
        radii(p.b, made.count, dim, k, nearest, squares);
        result->recall = share_within(p.a, real.count, p.b, made.count, squares, dim);
    }
    free(nearest);
    free(squares);
    free_pair(&p);
    return memory ? CK_OK : ck_fail_memory(err, "precision and recall");
}

ck_status ck_diversity(ck_points points, double *distance, ck_error *err) {
    size_t n = points.count, dim = points.dim;
    if (n < 2) return ck_fail(err, CK_USAGE, "diversity needs two points at least, not %zu", n);
    double *x = NULL, *rows = ck_alloc_array(n, sizeof *rows);
    if (!rows) return ck_fail_memory(err, "diversity");
    ck_status status = ck_metrics__doubles(points, &x, err);
    if (status == CK_OK) {
#pragma omp parallel for schedule(dynamic, 16)
        for (size_t i = 0; i < n; i++)
            for (size_t j = i + 1; j < n; j++)
                rows[i] += sqrt(squared_distance(x + i * dim, x + j * dim, dim));
        *distance = sum(rows, n) / ((double)n * (double)(n - 1) / 2);
    }
    free(rows);
    free(x);
    return status;
}

/* ---- Images ---- */

ck_status ck_psnr(const float *a, const float *b, size_t n, double range, double *psnr,
                  ck_error *err) {
    if (!n || !(range > 0)) return ck_fail(err, CK_USAGE, "%zu pixels of range %g", n, range);
    double square = 0;
    for (size_t i = 0; i < n; i++) square += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    if (!isfinite(square)) return ck_fail(err, CK_INPUT, "a pixel is not finite");
    *psnr = 10 * log10(range * range * (double)n / square);
    return CK_OK;
}

/* The variance of the Laplacian of one channel, in a second pass over it once the mean is known. */
static double laplacian_variance(const float *p, size_t height, size_t width) {
    double total = 0, mean = 0, count = (double)(height - 2) * (double)(width - 2);
    for (int pass = 0; pass < 2; pass++) {
        mean = total / count;
        total = 0;
        for (size_t y = 1; y + 1 < height; y++)
            for (size_t x = 1; x + 1 < width; x++) {
                const float *at = p + y * width + x;
                double value = (double)at[-1] + at[1] + *(at - width) + at[width] - 4. * at[0];
                total += pass ? (value - mean) * (value - mean) : value;
            }
    }
    return total / count;
}

ck_status ck_sharpness(ck_images images, double *sharpness, ck_error *err) {
    size_t planes = images.count * images.channels, size = images.height * images.width;
    if (!planes || images.height < 3 || images.width < 3)
        return ck_fail(err, CK_USAGE, "%zu images of %zu x %zu pixels", images.count, images.height,
                       images.width);
    double total = 0;
    for (size_t i = 0; i < planes; i++)
        total += laplacian_variance(images.pixels + i * size, images.height, images.width);
    if (!isfinite(total)) return ck_fail(err, CK_INPUT, "a pixel is not finite");
    *sharpness = total / (double)planes;
    return CK_OK;
}

/* ---- The checkerboard ---- */

enum { SQUARES = 4 }; /* a side */

ck_status ck_checkerboard_off(ck_points points, double *share, ck_error *err) {
    if (points.dim != 2 || !points.count)
        return ck_fail(err, CK_USAGE, "%zu points of %zu dimensions on a checkerboard",
                       points.count, points.dim);
    size_t off = 0;
    for (size_t i = 0; i < points.count; i++) {
        /* Written so that NaN is off. */
        double x = points.values[2 * i] + 1., y = points.values[2 * i + 1] + 1.;
        bool inside = x >= 0 && x < 2 && y >= 0 && y < 2;
        off += !inside || ((int)(x * SQUARES / 2) + (int)(y * SQUARES / 2)) % 2 != 0;
    }
    *share = (double)off / (double)points.count;
    return CK_OK;
}

void ck_checkerboard_fill(uint64_t seed, size_t first, size_t count, float *values) {
    for (size_t i = 0; i < count; i++) {
        uint32_t words[4];
        ck_philox(seed, 0, 0, first + i, words);
        unsigned column = words[2] % SQUARES, half = words[3] % (SQUARES / 2);
        unsigned row = 2 * half + column % 2;
        float side = 2.f / SQUARES;
        /* 20 bits within a square, so that no sum is rounded up into the next one. */
        float x = ck_philox_uniform(words[0] & 0xfffff000u);
        float y = ck_philox_uniform(words[1] & 0xfffff000u);
        values[2 * i] = ((float)column + x) * side - 1;
        values[2 * i + 1] = ((float)row + y) * side - 1;
    }
}
