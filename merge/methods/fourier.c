/* Cooley and Tukey's algorithm for lengths of any factors; a prime takes its square. */
#include "merge/methods/fourier.h"
#include "io/os.h"
#include "merge/methods/exact.h"

#include <complex.h>
#include <stdlib.h>
#include <string.h>

typedef double _Complex complex_number;

/* One line's buffers. */
typedef struct line {
    size_t n;
    complex_number *turns; /* exp(sign 2 pi i k / n) for every k */
    complex_number *in, *out;
    complex_number *sums; /* n more, for the sums of a stage */
} line;

static size_t smallest_factor(size_t n) {
    for (size_t p = 2; p * p <= n; p++)
        if (n % p == 0) return p;
    return n;
}

/* (C's CMPLX, which not every compiler's headers have.) */
static complex_number pair(double real, double imaginary) {
    const double parts[2] = {real, imaginary};
    complex_number z;
    memcpy(&z, parts, sizeof z);
    return z;
}

static complex_number times(complex_number a, complex_number b) {
    return pair(creal(a) * creal(b) - cimag(a) * cimag(b),
                creal(a) * cimag(b) + cimag(a) * creal(b));
}

/* out[n] from every `stride`-th of in; l->n is n * stride. */
static void transform(const line *l, const complex_number *in, size_t stride, complex_number *out,
                      size_t n) {
    if (n == 1) {
        out[0] = in[0];
        return;
    }
    size_t p = smallest_factor(n), m = n / p;
    for (size_t r = 0; r < p; r++) transform(l, in + r * stride, stride * p, out + r * m, m);
    for (size_t k = 0; k < m; k++) {
        complex_number *sums = l->sums;
        for (size_t q = 0; q < p; q++) {
            sums[q] = 0;
            for (size_t r = 0; r < p; r++)
                sums[q] += times(out[r * m + k], l->turns[r * (q * m + k) % n * stride]);
        }
        for (size_t q = 0; q < p; q++) out[q * m + k] = sums[q];
    }
}

/* All lines along one axis. */
static void along(const line *l, float *z, size_t elements, size_t stride) {
    for (size_t block = 0; block < elements; block += l->n * stride)
        for (size_t start = block; start < block + stride; start++) {
            for (size_t i = 0; i < l->n; i++) {
                const float *x = z + 2 * (start + i * stride);
                l->in[i] = pair((double)x[0], (double)x[1]);
            }
            transform(l, l->in, 1, l->out, l->n);
            for (size_t i = 0; i < l->n; i++) {
                float *x = z + 2 * (start + i * stride);
                x[0] = (float)creal(l->out[i]);
                x[1] = (float)cimag(l->out[i]);
            }
        }
}

static void set_length(line *l, size_t n, int sign) {
    l->n = n;
    for (size_t k = 0; k < n; k++) {
        double cosine, sine;
        ck_cos_sin(k, n, &cosine, &sine);
        l->turns[k] = pair(cosine, sign * sine);
    }
}

static uint64_t longest(const uint64_t *shape, size_t rank) {
    uint64_t n = 1;
    for (size_t axis = 0; axis < rank; axis++) n = shape[axis] > n ? shape[axis] : n;
    return n;
}

ck_status ck_fourier(float *z, const uint64_t *shape, size_t rank, int sign, ck_error *err) {
    size_t most = (size_t)longest(shape, rank), elements = 1;
    complex_number *buffer = ck_alloc_array(4 * most, sizeof *buffer);
    if (!buffer) return ck_fail_memory(err, "Fourier transform");
    line l = {0, buffer, buffer + most, buffer + 2 * most, buffer + 3 * most};
    for (size_t axis = 0; axis < rank; axis++) elements *= (size_t)shape[axis];
    for (size_t axis = 0, stride = elements; axis < rank; axis++) {
        stride /= (size_t)shape[axis];
        if (shape[axis] == 1) continue;
        set_length(&l, (size_t)shape[axis], sign);
        along(&l, z, elements, stride);
    }
    free(buffer);
    return CK_OK;
}

uint64_t ck_fourier_needs(const uint64_t *shape, size_t rank) {
    return 4 * longest(shape, rank) * sizeof(complex_number);
}
