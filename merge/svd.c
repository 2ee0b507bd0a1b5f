/* Singular values through LAPACKE and OpenBLAS. Matrices are row by row here and column by column
 * there, so LAPACK sees each transposed; [count, n] row by row is n by count to it. */
#include "merge/svd.h"

#ifdef CK_HAVE_LAPACK
#include "io/os.h"
#include "kernels/random.h"

#include <cblas.h>
#include <dlfcn.h>
#include <lapacke.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    OVERSAMPLING = 16,   /* vectors more than are wanted */
    SMALL = 4,           /* this many times the vectors: then all are computed */
    MAX_ITERATIONS = 12, /* a pass forth and back each */
    BAND = 1024,         /* columns at a time in ck_svd_sum */
};

/* ---- The library ---- */

static struct {
    __typeof__(cblas_sgemm) *sgemm;
    __typeof__(cblas_dsyrk) *dsyrk;
    __typeof__(LAPACKE_sgeqrf) *sgeqrf;
    __typeof__(LAPACKE_sorgqr) *sorgqr;
    __typeof__(LAPACKE_sgesdd) *sgesdd;
    __typeof__(LAPACKE_dsyevd) *dsyevd;
    char why[256]; /* it could not be loaded; "" if it could */
} lapack;

static pthread_once_t once = PTHREAD_ONCE_INIT;

/* A function of the library; *missing becomes true. (Its address is copied as bytes: ISO C converts
 * no data pointer to a function's.) */
static void find(void *library, const char *name, void *function, bool *missing) {
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol);
    *missing |= symbol == NULL;
}

static void load_library(void) {
    /* OpenBLAS first and for everybody: LAPACKE then calls its functions, whatever the system's
     * choice of a BLAS is. */
    void *blas = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_GLOBAL);
    void *lapacke = blas ? dlopen("liblapacke.so.3", RTLD_NOW | RTLD_LOCAL) : NULL;
    bool missing = false;
    if (lapacke) {
        void (*set_threads)(int);
        find(blas, "cblas_sgemm", &lapack.sgemm, &missing);
        find(blas, "cblas_dsyrk", &lapack.dsyrk, &missing);
        find(blas, "openblas_set_num_threads", &set_threads, &missing);
        find(lapacke, "LAPACKE_sgeqrf", &lapack.sgeqrf, &missing);
        find(lapacke, "LAPACKE_sorgqr", &lapack.sorgqr, &missing);
        find(lapacke, "LAPACKE_sgesdd", &lapack.sgesdd, &missing);
        find(lapacke, "LAPACKE_dsyevd", &lapack.dsyevd, &missing);
        if (!missing) set_threads(1);
    }
    if (!lapacke || missing) {
        const char *reason = dlerror();
        strncpy(lapack.why, reason ? reason : "unknown reason", sizeof lapack.why - 1);
    }
}

static ck_status need_library(ck_error *err) {
    pthread_once(&once, load_library);
    if (!*lapack.why) return CK_OK;
    return ck_fail(err, CK_USAGE,
                   "singular values need OpenBLAS and LAPACKE, which cannot be loaded (%s); on "
                   "Debian: apt-get install libopenblas0 liblapacke",
                   lapack.why);
}

static ck_status check(lapack_int info, const char *function, ck_error *err) {
    if (info == 0) return CK_OK;
    if (info == LAPACK_WORK_MEMORY_ERROR) return ck_fail_memory(err, function);
    return ck_fail(err, CK_INPUT, "%s failed (%d)", function, (int)info);
}

/* ---- Steps ---- */

/* The sum of squares; not finite if an element is not. */
static double sum_squares(const float *a, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)a[i] * (double)a[i];
    return sum;
}

static ck_status check_finite(const float *a, size_t n, double *squares, ck_error *err) {
    *squares = sum_squares(a, n);
    if (isfinite(*squares)) return CK_OK;
    return ck_fail(err, CK_INPUT, "a matrix with NaN or infinity has no singular values");
}

/* Makes the rows of q[count, n] orthonormal, n >= count. */
static ck_status make_orthonormal(float *q, size_t count, size_t n, float *tau, ck_error *err) {
    lapack_int k = (lapack_int)count, length = (lapack_int)n;
    CK_TRY(check(lapack.sgeqrf(LAPACK_COL_MAJOR, length, k, q, length, tau), "sgeqrf", err));
    return check(lapack.sorgqr(LAPACK_COL_MAJOR, length, k, k, q, length, tau), "sorgqr", err);
}

/* All singular values of b[count, n], n >= count: *values[count], right vectors as rows of
 * right[count, n], and turn[count, count] with b = turn diag(values) right. b is destroyed. */
static ck_status decompose(float *b, size_t count, size_t n, float *values, float *right,
                           float *turn, ck_error *err) {
    lapack_int k = (lapack_int)count, length = (lapack_int)n;
    return check(
        lapack.sgesdd(LAPACK_COL_MAJOR, 'S', length, k, b, length, values, right, length, turn, k),
        "sgesdd", err);
}

/* What an iteration works on: k vectors of each side. */
typedef struct work {
    size_t k;
    float *left, *right;        /* [k, rows], [k, columns] */
    float *tau, *values, *turn; /* [k], [k], [k, k] */
    float *turned;              /* [k, columns] */
} work;

static ck_status work_new(work *w, size_t rows, size_t columns, ck_error *err) {
    w->left = ck_alloc_array(w->k, rows * sizeof(float));
    w->right = ck_alloc_array(w->k, columns * sizeof(float));
    w->turned = ck_alloc_array(w->k, columns * sizeof(float));
    w->tau = ck_alloc_array(w->k, sizeof(float));
    w->values = ck_alloc_array(w->k, sizeof(float));
    w->turn = ck_alloc_array(w->k, w->k * sizeof(float));
    return w->left && w->right && w->turned && w->tau && w->values && w->turn
               ? CK_OK
               : ck_fail_memory(err, "singular values");
}

static void work_free(work *w) {
    free(w->left);
    free(w->right);
    free(w->turned);
    free(w->tau);
    free(w->values);
    free(w->turn);
}

/* left = right A^T: [k, columns] to [k, rows]. */
static void go_left(const work *w, const float *a, size_t rows, size_t columns) {
    lapack.sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)w->k, (blasint)rows,
                 (blasint)columns, 1, w->right, (blasint)columns, a, (blasint)columns, 0, w->left,
                 (blasint)rows);
}

/* right = left A. */
static void go_right(const work *w, const float *a, size_t rows, size_t columns) {
    lapack.sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)w->k, (blasint)columns,
                 (blasint)rows, 1, w->left, (blasint)rows, a, (blasint)columns, 0, w->right,
                 (blasint)columns);
}

/* Turns left into an orthonormal basis of the largest left singular vectors, and right into
 * left A. */
static ck_status find_space(work *w, const float *a, size_t rows, size_t columns, double all,
                            ck_error *err) {
    double captured = 0, before;
    for (size_t i = 0; i < w->k * columns; i++)
        w->right[i] = (float)ck_random_24(w->k, i) * 0x1p-23f - 1;
    for (int i = 0; i < MAX_ITERATIONS; i++) {
        go_left(w, a, rows, columns);
        CK_TRY(make_orthonormal(w->left, w->k, rows, w->tau, err));
        go_right(w, a, rows, columns);
        before = captured;
        captured = sum_squares(w->right, w->k * columns);
        bool done = captured - before <= 1e-5 * captured || captured >= (1 - 1e-7) * all;
        if (done || i == MAX_ITERATIONS - 1) return CK_OK;
        CK_TRY(make_orthonormal(w->right, w->k, columns, w->tau, err));
    }
    return CK_OK;
}

static ck_status take_apart(work *w, const float *a, size_t rows, size_t columns, size_t count,
                            ck_svd *svd, ck_error *err) {
    if (w->k == rows) { /* all of it: the basis is that of the rows themselves */
        memcpy(w->right, a, rows * columns * sizeof *a);
        for (size_t i = 0; i < rows; i++) w->left[i * rows + i] = 1;
    } else {
        CK_TRY(find_space(w, a, rows, columns, svd->squares, err));
    }
    CK_TRY(decompose(w->right, w->k, columns, w->values, w->turned, w->turn, err));
    svd->count = count;
    svd->values = ck_alloc_array(count, sizeof(float));
    svd->left = ck_alloc_array(count, rows * sizeof(float));
    svd->right = ck_alloc_array(count, columns * sizeof(float));
    if (!svd->values || !svd->left || !svd->right) return ck_fail_memory(err, "singular values");
    memcpy(svd->values, w->values, count * sizeof(float));
    memcpy(svd->right, w->turned, count * columns * sizeof(float));
    /* turn is, row by row, [k, k] of left vectors in the basis as columns. */
    lapack.sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)count, (blasint)rows,
                 (blasint)w->k, 1, w->turn, (blasint)w->k, w->left, (blasint)rows, 0, svd->left,
                 (blasint)rows);
    return CK_OK;
}

/* ck_svd_of for rows <= columns. */
static ck_status svd_of_wide(const float *a, size_t rows, size_t columns, size_t count, ck_svd *svd,
                             ck_error *err) {
    work w = {.k = count + OVERSAMPLING};
    if (count > rows) count = rows;
    if (w.k * SMALL >= rows) w.k = rows;
    ck_status status = work_new(&w, rows, columns, err);
    if (status == CK_OK) status = take_apart(&w, a, rows, columns, count, svd, err);
    work_free(&w);
    return status;
}

static ck_status transposed(const float *a, size_t rows, size_t columns, float **out,
                            ck_error *err) {
    float *t = ck_alloc_array(columns, rows * sizeof *t);
    if (!t) return ck_fail_memory(err, "singular values");
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++) t[j * rows + i] = a[i * columns + j];
    *out = t;
    return CK_OK;
}

/* ---- Public ---- */

ck_status ck_svd_of(const float *a, size_t rows, size_t columns, size_t count, ck_svd *svd,
                    ck_error *err) {
    *svd = (ck_svd){0};
    CK_TRY(need_library(err));
    CK_TRY(check_finite(a, rows * columns, &svd->squares, err));
    float *wide = NULL;
    ck_status status;
    if (rows <= columns) {
        status = svd_of_wide(a, rows, columns, count, svd, err);
    } else {
        status = transposed(a, rows, columns, &wide, err);
        if (status == CK_OK) status = svd_of_wide(wide, columns, rows, count, svd, err);
        free(wide);
        float *left = svd->left;
        svd->left = svd->right;
        svd->right = left;
    }
    if (status != CK_OK) ck_svd_free(svd);
    return status;
}

/* The square roots of the eigenvalues of A A^T, in double; A is the side with fewer rows. */
static ck_status sum_of_wide(const float *a, size_t rows, size_t columns, double *gram,
                             double *band, double *values, double *sum, ck_error *err) {
    for (size_t first = 0; first < columns; first += BAND) {
        size_t n = columns - first < BAND ? columns - first : BAND;
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < n; j++) band[i * n + j] = (double)a[i * columns + first + j];
        lapack.dsyrk(CblasRowMajor, CblasUpper, CblasNoTrans, (blasint)rows, (blasint)n, 1, band,
                     (blasint)n, 1, gram, (blasint)rows);
    }
    /* The upper triangle by rows is the lower one by columns. */
    CK_TRY(check(
        lapack.dsyevd(LAPACK_COL_MAJOR, 'N', 'L', (lapack_int)rows, gram, (lapack_int)rows, values),
        "dsyevd", err));
    *sum = 0;
    for (size_t i = 0; i < rows; i++)
        if (values[i] > 0) *sum += sqrt(values[i]);
    return CK_OK;
}

ck_status ck_svd_sum(const float *a, size_t rows, size_t columns, double *sum, ck_error *err) {
    CK_TRY(need_library(err));
    CK_TRY(check_finite(a, rows * columns, sum, err));
    float *wide = NULL;
    if (rows > columns) {
        CK_TRY(transposed(a, rows, columns, &wide, err));
        size_t swap = rows;
        rows = columns;
        columns = swap;
    }
    double *gram = ck_alloc_array(rows, rows * sizeof *gram);
    double *band = ck_alloc_array(rows, BAND * sizeof *band);
    double *values = ck_alloc_array(rows, sizeof *values);
    ck_status status = gram && band && values ? sum_of_wide(wide ? wide : a, rows, columns, gram,
                                                            band, values, sum, err)
                                              : ck_fail_memory(err, "singular values");
    free(wide);
    free(gram);
    free(band);
    free(values);
    return status;
}

void ck_svd_free(ck_svd *svd) {
    free(svd->values);
    free(svd->left);
    free(svd->right);
    *svd = (ck_svd){0};
}

#else

ck_status ck_svd_of(const float *a, size_t rows, size_t columns, size_t count, ck_svd *svd,
                    ck_error *err) {
    (void)a, (void)rows, (void)columns, (void)count;
    *svd = (ck_svd){0};
    return ck_fail(err, CK_USAGE,
                   "this program was built without LAPACK, which singular values need: install "
                   "libopenblas-dev and liblapacke-dev, and build it again");
}

ck_status ck_svd_sum(const float *a, size_t rows, size_t columns, double *sum, ck_error *err) {
    ck_svd none;
    (void)sum;
    return ck_svd_of(a, rows, columns, 0, &none, err);
}

void ck_svd_free(ck_svd *svd) {
    (void)svd;
}

#endif
