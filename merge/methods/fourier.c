/* Cooley and Tukey's algorithm for lengths of small factors. What is left of a length without these
 * goes through Bluestein's, which makes a convolution of it and that one of a power of two. */
#include "merge/methods/fourier.h"
#include "io/os.h"
#include "merge/methods/exact.h"

#include <complex.h>
#include <stdlib.h>
#include <string.h>

typedef double _Complex complex_number;

enum { SMALL = 32 }; /* factors up to here take their square */

/* What transforms lines of n numbers. */
typedef struct line {
    size_t n;
    complex_number *turns; /* exp(sign 2 pi i k / n) for every k */
    complex_number *in, *out;
    struct chirp *chirp; /* for the part of n that has no small factors, NULL if that is 1 */
} line;

/* Bluestein: 2 r q = r^2 + q^2 - (q - r)^2, so that the transform is a convolution with a chirp. */
typedef struct chirp {
    size_t n;
    complex_number *turns;  /* exp(sign pi i k^2 / n) for every k < n */
    complex_number *filter; /* the transform of their conjugates, power.n long */
    line power;             /* the power of two that holds the convolution */
} chirp;

/* The smallest factor, or n where it has none that is small. */
static size_t factor(size_t n) {
    for (size_t p = 2; p <= SMALL; p++)
        if (n % p == 0) return p;
    return n;
}

/* What is left of n without its small factors. */
static size_t without_factors(size_t n) {
    while (n > SMALL && factor(n) < n) n /= factor(n);
    return n > SMALL ? n : 1;
}

static size_t power_of_two(size_t least) {
    size_t n = 1;
    while (n < least) n *= 2;
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

/* out[p] from every `stride`-th of t, p small. */
static void direct(const line *l, const complex_number *t, complex_number *out, size_t stride,
                   size_t p) {
    for (size_t q = 0; q < p; q++) {
        complex_number sum = t[0];
        for (size_t r = 1; r < p; r++) sum += times(t[r], l->turns[r * q % p * (l->n / p)]);
        out[q * stride] = sum;
    }
}

static void chirped(const chirp *c, const complex_number *in, size_t stride, complex_number *out);

/* out[n] from every `stride`-th of in; l->n is n * stride. */
static void transform(const line *l, const complex_number *in, size_t stride, complex_number *out,
                      size_t n) {
    if (n == 1) {
        out[0] = in[0];
        return;
    }
    size_t p = factor(n), m = n / p;
    if (p > SMALL) {
        chirped(l->chirp, in, stride, out);
        return;
    }
    for (size_t r = 0; r < p; r++) transform(l, in + r * stride, stride * p, out + r * m, m);
    for (size_t k = 0; k < m; k++) {
        complex_number t[SMALL];
        t[0] = out[k];
        for (size_t r = 1; r < p; r++) t[r] = times(out[r * m + k], l->turns[r * k * stride]);
        if (p > 2) {
            direct(l, t, out + k, m, p);
            continue;
        }
        out[k] = t[0] + t[1];
        out[m + k] = t[0] - t[1];
    }
}

/* out[c->n] from every `stride`-th of in. */
static void chirped(const chirp *c, const complex_number *in, size_t stride, complex_number *out) {
    const line *l = &c->power;
    for (size_t k = 0; k < l->n; k++) l->in[k] = k < c->n ? times(in[k * stride], c->turns[k]) : 0;
    transform(l, l->in, 1, l->out, l->n);
    /* (Conjugated before and after, it is the transform back.) */
    for (size_t k = 0; k < l->n; k++) l->in[k] = conj(times(l->out[k], c->filter[k]));
    transform(l, l->in, 1, l->out, l->n);
    for (size_t k = 0; k < c->n; k++) out[k] = times(conj(l->out[k]), c->turns[k]) / (double)l->n;
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

static void set_turns(complex_number *turns, size_t n, int sign) {
    for (size_t k = 0; k < n; k++) {
        double cosine, sine;
        ck_cos_sin(k, n, &cosine, &sine);
        turns[k] = pair(cosine, sign * sine);
    }
}

/* How many numbers a line's buffers hold. */
static size_t buffer_length(size_t n) {
    size_t left = without_factors(n);
    return 3 * n + (left > 1 ? left + 4 * power_of_two(2 * left - 1) : 0);
}

/* Makes a line, without chirp, in buffer[3 n], and returns what follows that. */
static complex_number *set_line(line *l, size_t n, int sign, complex_number *buffer) {
    *l = (line){n, buffer, buffer + n, buffer + 2 * n, NULL};
    set_turns(l->turns, n, sign);
    return buffer + 3 * n;
}

static void set_chirp(chirp *c, size_t n, int sign, complex_number *buffer) {
    c->n = n;
    c->turns = buffer;
    for (size_t k = 0; k < n; k++) {
        double cosine, sine;
        ck_cos_sin((uint64_t)k * k % (2 * n), 2 * n, &cosine, &sine);
        c->turns[k] = pair(cosine, sign * sine);
    }
    line *l = &c->power;
    c->filter = set_line(l, power_of_two(2 * n - 1), -1, buffer + n);
    for (size_t k = 0; k < l->n; k++) l->in[k] = 0;
    for (size_t k = 0; k < n; k++) l->in[k] = l->in[(l->n - k) % l->n] = conj(c->turns[k]);
    transform(l, l->in, 1, c->filter, l->n);
}

ck_status ck_fourier(float *z, const uint64_t *shape, size_t rank, int sign, ck_error *err) {
    complex_number *buffer = malloc((size_t)ck_fourier_needs(shape, rank));
    if (!buffer) return ck_fail_memory(err, "Fourier transform");
    size_t elements = 1;
    for (size_t axis = 0; axis < rank; axis++) elements *= (size_t)shape[axis];
    for (size_t axis = 0, stride = elements; axis < rank; axis++) {
        size_t n = (size_t)shape[axis], left = without_factors(n);
        line l;
        chirp c;
        stride /= n;
        if (n == 1) continue;
        complex_number *after = set_line(&l, n, sign, buffer);
        if (left > 1) {
            set_chirp(&c, left, sign, after);
            l.chirp = &c;
        }
        along(&l, z, elements, stride);
    }
    free(buffer);
    return CK_OK;
}

uint64_t ck_fourier_needs(const uint64_t *shape, size_t rank) {
    size_t most = 1;
    for (size_t axis = 0; axis < rank; axis++) {
        size_t n = buffer_length((size_t)shape[axis]);
        most = n > most ? n : most;
    }
    return most * sizeof(complex_number);
}
