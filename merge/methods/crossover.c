/* Low frequencies of one model, high ones of the other. */
#include "io/os.h"
#include "merge/method.h"
#include "merge/methods/fourier.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ALPHA, TILT };

static ck_status check(const ck_arguments *args, ck_error *err) {
    const ck_value *v = args->values;
    double alpha = v[ALPHA].items[0], tilt = v[TILT].items[0];
    if (!(alpha >= 0 && alpha <= 1 && tilt >= 0 && tilt <= 1))
        return ck_fail(err, CK_USAGE, "crossover: alpha and tilt must be from 0 to 1");
    return CK_OK;
}

static int same_as(const ck_value *v, size_t inputs) {
    (void)inputs;
    double alpha = v[ALPHA].items[0];
    return alpha == 0 ? 0 : alpha == 1 ? 1 : -1;
}

/* B's share of the frequencies at this distance (0 to 1) from zero. */
static double share(const ck_value *v, double distance) {
    double alpha = v[ALPHA].items[0], tilt = v[TILT].items[0];
    if (tilt < 1e-10) return distance > 1 - alpha;
    double slope = 1 / tan(3.14159265358979323846 * tilt / 2);
    return fmax(0, fmin(1, (distance + alpha - 1) * slope + alpha));
}

/* How far frequency number `at` is from zero: over the axes, the root of the mean square of each
 * frequency's part of the highest one. *opposite is the number of the negative frequency. */
static double distance(const ck_arguments *args, uint64_t at, uint64_t *opposite) {
    double squares = 0;
    uint64_t stride = 1;
    *opposite = 0;
    for (size_t axis = args->rank; axis-- > 0; stride *= args->shape[axis]) {
        uint64_t n = args->shape[axis], k = at / stride % n;
        uint64_t negative = k ? n - k : 0, low = k < negative ? k : negative;
        *opposite += negative * stride;
        if (n > 1) squares += (double)(low * low) / (double)(n / 2 * (n / 2));
    }
    return sqrt(squares / (double)args->rank);
}

/* z is the transform of A + iB: takes the parts of A and B out of a frequency and its negative one,
 * and puts what is wanted there instead. */
static void cross(const ck_arguments *args, float *z) {
    for (uint64_t k = 0; k < args->elements; k++) {
        uint64_t o;
        float f = (float)share(args->values, distance(args, k, &o));
        if (o < k) continue;
        float *x = z + 2 * k, *y = z + 2 * o;
        float a_real = (x[0] + y[0]) / 2, a_imaginary = (x[1] - y[1]) / 2;
        float b_real = (x[1] + y[1]) / 2, b_imaginary = (y[0] - x[0]) / 2;
        float real = (1 - f) * a_real + f * b_real;
        float imaginary = (1 - f) * a_imaginary + f * b_imaginary;
        x[0] = y[0] = real;
        x[1] = o == k ? 0 : imaginary;
        y[1] = o == k ? 0 : -imaginary;
    }
}

static void take(void *context, const float *const *in, uint64_t first, size_t n) {
    float *z = context;
    for (size_t e = 0; e < n; e++) {
        z[2 * (first + e)] = in[0][e];
        z[2 * (first + e) + 1] = in[1][e];
    }
}

static ck_status prepare(const ck_arguments *args, const ck_pass *pass, void **found,
                         ck_error *err) {
    size_t n = (size_t)args->elements;
    float *z = ck_alloc_array(2 * n, sizeof *z);
    if (!(*found = z)) return ck_fail_memory(err, "crossover");
    CK_TRY(pass->run(pass, take, z, err));
    CK_TRY(ck_fourier(z, args->shape, args->rank, -1, err));
    cross(args, z);
    CK_TRY(ck_fourier(z, args->shape, args->rank, 1, err));
    for (size_t e = 0; e < n; e++) z[e] = z[2 * e] / (float)n;
    return CK_OK;
}

static uint64_t needs(const ck_arguments *args) {
    return 2 * args->elements * sizeof(float) + ck_fourier_needs(args->shape, args->rank);
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    float alpha = (float)args->values[ALPHA].items[0], tilt = (float)args->values[TILT].items[0];
    if (tilt == 1 || args->rank == 0)
        k->lerp(out, in[0], in[1], tilt == 1 ? alpha : tilt, n);
    else
        memcpy(out, (const float *)args->found + args->first, n * sizeof *out);
}

extern const ck_method ck_crossover;
const ck_method ck_crossover = {
    .name = "crossover",
    .title = "Crossover",
    .formula = "A's low frequencies and B's high ones, B's from 1 - alpha on",
    .doc = "By the Fourier transform over all axes of the tensor; tilt widens the step between the "
           "two to a slope, and at 1 it is the weighted sum. As sd-mecha's crossover, whose tilt "
           "may also go on to 4, back and the other way round. (meh's distribution crossover "
           "transforms the values in the order of a third model's, without regard to axes.) Works "
           "on one tensor at a time, 8 bytes of memory for an element. A tensor that B lacks is "
           "A's.",
    .min_inputs = 2,
    .max_inputs = 2,
    .parameters = {{.name = "alpha", .fallback = 0.5, .help = "share of B; 0 is A, 1 is B"},
                   {.name = "tilt", .fallback = 0, .help = "0: a step; 1: a weighted sum"}},
    .check = check,
    .same_as = same_as,
    .prepare = prepare,
    .needs = needs,
    .block = block,
};
