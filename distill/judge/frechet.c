/* The Frechet distance of metrics.h. Its only difficult term is tr (C1 C2)^(1/2), the sum of the
 * square roots of the eigenvalues of C1 C2. With C1 = L L' they are those of L' C2 L, which is
 * symmetric: Householder reflections bring it to three diagonals, and bisection finds their
 * eigenvalues. All loops add in an order that does not depend on the number of threads. */
#include "distill/judge/metrics_int.h"
#include "io/os.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Mean and covariance ---- */

/* So many points are added to a row of the covariance while it is in the cache. */
enum { BLOCK = 256 };

static void add_products(const double *centred, size_t count, size_t dim, double *covariance) {
#pragma omp parallel for schedule(dynamic, 16)
    for (size_t i = 0; i < dim; i++) {
        double *row = covariance + i * dim;
        for (size_t n = 0; n < count; n++) {
            const double *x = centred + n * dim;
            double xi = x[i];
#pragma omp simd
            for (size_t j = i; j < dim; j++) row[j] += xi * x[j];
        }
    }
}

ck_status ck_gaussian_fit(ck_points points, ck_gaussian *g, ck_error *err) {
    size_t dim = points.dim, count = points.count;
    *g = (ck_gaussian){.dim = dim};
    if (count < 2 || !dim)
        return ck_fail(err, CK_USAGE, "mean and covariance need two points at least, not %zu",
                       count);
    double *values = NULL;
    ck_status status = ck_metrics__doubles(points, &values, err);
    if (status != CK_OK) return status;
    g->mean = ck_alloc_array(dim, sizeof *g->mean);
    g->covariance = dim > SIZE_MAX / dim ? NULL : ck_alloc_array(dim * dim, sizeof(double));
    if (!g->mean || !g->covariance) {
        free(values);
        ck_gaussian_free(g);
        return ck_fail_memory(err, "covariance");
    }
    for (size_t n = 0; n < count; n++)
        for (size_t i = 0; i < dim; i++) g->mean[i] += values[n * dim + i];
    for (size_t i = 0; i < dim; i++) g->mean[i] /= (double)count;
    for (size_t n = 0; n < count; n++)
        for (size_t i = 0; i < dim; i++) values[n * dim + i] -= g->mean[i];
    for (size_t n = 0; n < count; n += BLOCK)
        add_products(values + n * dim, count - n < BLOCK ? count - n : BLOCK, dim, g->covariance);
    free(values);
    for (size_t i = 0; i < dim; i++)
        for (size_t j = i; j < dim; j++)
            g->covariance[j * dim + i] = g->covariance[i * dim + j] /= (double)(count - 1);
    return CK_OK;
}

void ck_gaussian_free(ck_gaussian *g) {
    free(g->mean);
    free(g->covariance);
    *g = (ck_gaussian){0};
}

/* ---- Eigenvalues ---- */

static void swap(double *a, double *b) {
    double t = *a;
    *a = *b;
    *b = t;
}

/* Exchanges rows and columns p and q of a symmetric n x n matrix. */
static void exchange(double *a, size_t n, size_t p, size_t q) {
    for (size_t i = 0; i < n; i++) swap(&a[p * n + i], &a[q * n + i]);
    for (size_t i = 0; i < n; i++) swap(&a[i * n + p], &a[i * n + q]);
}

/* a (positive semidefinite up to rounding) = U' U, U upper and in a's place, zeros below: Cholesky,
 * the largest pivot first, until what is left is rounding (Higham, 1990). b's rows and columns go
 * along. */
static void cholesky(double *a, double *b, size_t n) {
    double least = 0;
    for (size_t k = 0; k < n; k++) {
        size_t pivot = k;
        for (size_t i = k + 1; i < n; i++)
            if (a[i * n + i] > a[pivot * n + pivot]) pivot = i;
        double largest = a[pivot * n + pivot];
        if (k == 0) least = largest * (double)n * DBL_EPSILON;
        if (!(largest > least)) {
            memset(a + k * n, 0, (n - k) * n * sizeof *a);
            return;
        }
        if (pivot != k) {
            exchange(a, n, k, pivot);
            exchange(b, n, k, pivot);
        }
        double *row = a + k * n, root = sqrt(largest);
        for (size_t j = k; j < n; j++) row[j] /= root;
#pragma omp parallel for schedule(static)
        for (size_t i = k + 1; i < n; i++) {
            double *to = a + i * n, factor = row[i];
#pragma omp simd
            for (size_t j = k + 1; j < n; j++) to[j] -= factor * row[j];
        }
        for (size_t i = k + 1; i < n; i++) a[i * n + k] = 0;
    }
}

/* out = a b', all n x n: the inner products of their rows. */
static void row_products(const double *a, const double *b, size_t n, double *out) {
    enum { ROWS = 8 }; /* of a, which share a row of b while it is in the cache */
#pragma omp parallel for schedule(dynamic)
    for (size_t first = 0; first < n; first += ROWS) {
        size_t end = first + ROWS < n ? first + ROWS : n;
        for (size_t j = 0; j < n; j++)
            for (size_t i = first; i < end; i++)
                out[i * n + j] = ck_metrics__dot(a + i * n, b + j * n, n);
    }
}

/* to = a x for the symmetric lower right n x n part of a matrix with rows of stride numbers.
 * Threads share to, not the sums. */
static void times_vector(const double *a, size_t stride, size_t n, const double *x, double *to) {
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) to[i] = ck_metrics__dot(a + i * stride, x, n);
}

/* Brings the symmetric a (destroyed) to the diagonals d (n) and e (n - 1) by Householder
 * reflections H = I - v v' / h, h = v.v / 2: each makes zeros in a column below the second
 * diagonal. H A H = A - v w' - w v' with p = A v / h and w = p - v (v.p) / (2 h). */
static void tridiagonalise(double *a, size_t n, double *d, double *e, double *v, double *w) {
    for (size_t k = 0; k + 1 < n; k++) {
        size_t m = n - k - 1;
        double *rest = a + (k + 1) * n + k + 1;
        memcpy(v, a + k * n + k + 1, m * sizeof *v);
        double length = sqrt(ck_metrics__dot(v, v, m));
        d[k] = a[k * n + k];
        e[k] = v[0] > 0 ? -length : length;
        double h = length * (length + fabs(v[0]));
        if (h == 0) continue;
        v[0] -= e[k];
        times_vector(rest, n, m, v, w);
        for (size_t i = 0; i < m; i++) w[i] /= h;
        double half = ck_metrics__dot(v, w, m) / (2 * h);
        for (size_t i = 0; i < m; i++) w[i] -= half * v[i];
#pragma omp parallel for schedule(static)
        for (size_t i = 0; i < m; i++) {
            double *row = rest + i * n, vi = v[i], wi = w[i];
#pragma omp simd
            for (size_t j = 0; j < m; j++) row[j] -= vi * w[j] + wi * v[j];
        }
    }
    d[n - 1] = a[n * n - 1];
}

/* How many eigenvalues are below x: the negative pivots of T - x I (Sturm's sequence). */
static size_t count_below(const double *d, const double *e, size_t n, double x) {
    size_t count = 0;
    double pivot = d[0] - x;
    for (size_t i = 0;; i++) {
        if (pivot == 0) pivot = DBL_MIN;
        count += pivot < 0;
        if (i + 1 == n) return count;
        pivot = d[i + 1] - x - e[i] * e[i] / pivot;
    }
}

/* The sum of the square roots of the eigenvalues of the matrix with the diagonals d and e. None is
 * negative but by rounding; what is no larger than that counts as 0. */
static double sum_of_roots(const double *d, const double *e, size_t n, double *roots) {
    double limit = 0; /* no eigenvalue is larger (Gershgorin) */
    for (size_t i = 0; i < n; i++) {
        double reach = fabs(d[i]) + (i ? fabs(e[i - 1]) : 0) + (i + 1 < n ? fabs(e[i]) : 0);
        if (reach > limit) limit = reach;
    }
    double noise = limit * (double)n * DBL_EPSILON;
    size_t zeros = count_below(d, e, n, noise);
#pragma omp parallel for schedule(static)
    for (size_t k = zeros; k < n; k++) {
        double low = noise, high = limit;
        while (high - low > 2 * DBL_EPSILON * high) {
            double middle = low + (high - low) / 2;
            if (count_below(d, e, n, middle) > k)
                high = middle;
            else
                low = middle;
        }
        roots[k] = sqrt(low + (high - low) / 2);
    }
    double sum = 0;
    for (size_t k = zeros; k < n; k++) sum += roots[k];
    return sum;
}

/* tr (a b)^(1/2) of two covariances. */
static ck_status trace_of_root(const double *a, const double *b, size_t n, double *trace,
                               ck_error *err) {
    double *work = n > SIZE_MAX / sizeof(double) / 3 / (n + 2)
                       ? NULL
                       : ck_alloc_array(3 * n * n + 5 * n, sizeof *work);
    if (!work) return ck_fail_memory(err, "matrix square root");
    double *root = work, *other = root + n * n, *product = other + n * n,
           *vectors = product + n * n;
    memcpy(root, a, n * n * sizeof *root);
    memcpy(other, b, n * n * sizeof *other);
    cholesky(root, other, n);
    row_products(root, other, n, product); /* U b, since b is symmetric */
    row_products(product, root, n, other); /* U b U' */
    tridiagonalise(other, n, vectors, vectors + n, vectors + 2 * n, vectors + 3 * n);
    *trace = sum_of_roots(vectors, vectors + n, n, vectors + 4 * n);
    free(work);
    return CK_OK;
}

/* ---- Distance ---- */

ck_status ck_frechet_gaussians(const ck_gaussian *a, const ck_gaussian *b, double *distance,
                               ck_error *err) {
    size_t n = a->dim;
    if (b->dim != n) return ck_fail(err, CK_USAGE, "%zu and %zu dimensions", n, b->dim);
    double root = 0;
    CK_TRY(trace_of_root(a->covariance, b->covariance, n, &root, err));
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double way = a->mean[i] - b->mean[i];
        sum += way * way + a->covariance[i * n + i] + b->covariance[i * n + i];
    }
    *distance = sum - 2 * root;
    return CK_OK;
}

ck_status ck_frechet(ck_points a, ck_points b, double *distance, ck_error *err) {
    ck_gaussian ga = {0}, gb = {0};
    ck_status status = ck_gaussian_fit(a, &ga, err);
    if (status == CK_OK) status = ck_gaussian_fit(b, &gb, err);
    if (status == CK_OK) status = ck_frechet_gaussians(&ga, &gb, distance, err);
    ck_gaussian_free(&ga);
    ck_gaussian_free(&gb);
    return status;
}
