/* Add difference, with the difference smoothed by a median and a Gaussian over all axes. */
#include "io/os.h"
#include "merge/method.h"
#include "merge/methods/exact.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RANK = 5, MAX_WINDOW = 243, RADIUS = 4 };

/* Beyond its ends an axis goes on with its mirror image, the first element twice: c b a | a b c. */
static size_t mirror(ptrdiff_t i, size_t n) {
    ptrdiff_t period = 2 * (ptrdiff_t)n;
    i = ((i % period) + period) % period;
    return (size_t)(i < (ptrdiff_t)n ? i : period - 1 - i);
}

/* The element that would be at `rank` if x[n] were sorted; x is left in another order. */
static float select_rank(float *x, int n, int rank) {
    for (int low = 0, high = n - 1; low < high;) {
        float pivot = x[(low + high) / 2];
        int i = low, j = high;
        while (i <= j) {
            while (x[i] < pivot) i++;
            while (pivot < x[j]) j--;
            if (i > j) break;
            float t = x[i];
            x[i++] = x[j];
            x[j--] = t;
        }
        if (rank <= j)
            high = j;
        else if (rank >= i)
            low = i;
        else
            break;
    }
    return x[rank];
}

/* The median of the 3 x 3 x ... window around every element. */
static void median(const ck_arguments *args, const float *in, float *out) {
    size_t strides[MAX_RANK], at[MAX_RANK] = {0}, rank = args->rank;
    int window = 1;
    for (size_t axis = rank, stride = 1; axis-- > 0; stride *= (size_t)args->shape[axis]) {
        strides[axis] = stride;
        window *= 3;
    }
    for (size_t e = 0; e < args->elements; e++) {
        size_t places[MAX_WINDOW] = {0};
        float values[MAX_WINDOW];
        int count = 1;
        for (size_t axis = 0; axis < rank; axis++) {
            /* Before the first element comes the first once more, after the last the last. */
            size_t here = at[axis], last = (size_t)args->shape[axis] - 1, stride = strides[axis];
            size_t steps[3] = {(here > 0 ? here - 1 : 0) * stride, here * stride,
                               (here < last ? here + 1 : last) * stride};
            for (int step = 2; step >= 0; step--)
                for (int p = 0; p < count; p++) places[p + step * count] = places[p] + steps[step];
            count *= 3;
        }
        for (int p = 0; p < window; p++) values[p] = in[places[p]];
        out[e] = select_rank(values, window, window / 2);
        for (size_t axis = rank; axis-- > 0 && ++at[axis] == args->shape[axis];) at[axis] = 0;
    }
}

/* A Gaussian of width 1 along one axis, in place, summed in f64 from the middle's sides inwards. */
static void gaussian(float *x, size_t elements, size_t n, size_t stride, float *line) {
    double weights[RADIUS + 1], sum = 1;
    for (int i = 1; i <= RADIUS; i++) sum += 2 * (weights[i] = ck_exp(-0.5 * i * i));
    weights[0] = 1 / sum;
    for (int i = 1; i <= RADIUS; i++) weights[i] /= sum;
    for (size_t block = 0; block < elements; block += n * stride)
        for (size_t start = block; start < block + stride; start++) {
            for (ptrdiff_t i = -RADIUS; i < (ptrdiff_t)n + RADIUS; i++)
                line[i + RADIUS] = x[start + mirror(i, n) * stride];
            for (size_t i = 0; i < n; i++) {
                const float *middle = line + RADIUS + i;
                double value = weights[0] * (double)middle[0];
                for (int r = RADIUS; r > 0; r--)
                    value += weights[r] * ((double)middle[-r] + (double)middle[r]);
                x[start + i * stride] = (float)value;
            }
        }
}

static void take(void *context, const float *const *in, uint64_t first, size_t n) {
    float *difference = context;
    for (size_t e = 0; e < n; e++) difference[first + e] = in[1][e] - in[2][e];
}

static ck_status smooth(const ck_arguments *args, const ck_pass *pass, float *raw, float *smoothed,
                        float *line, ck_error *err) {
    size_t n = (size_t)args->elements, stride = 1;
    CK_TRY(pass->run(pass, take, raw, err));
    median(args, raw, smoothed);
    for (size_t axis = args->rank; axis-- > 0;) stride *= (size_t)args->shape[axis];
    for (size_t axis = 0; axis < args->rank; axis++) {
        stride /= (size_t)args->shape[axis];
        gaussian(smoothed, n, (size_t)args->shape[axis], stride, line);
    }
    return CK_OK;
}

static size_t longest(const ck_arguments *args) {
    size_t n = 1;
    for (size_t axis = 0; axis < args->rank; axis++)
        if (args->shape[axis] > n) n = (size_t)args->shape[axis];
    return n;
}

static ck_status prepare(const ck_arguments *args, const ck_pass *pass, void **found,
                         ck_error *err) {
    if (args->rank > MAX_RANK)
        return ck_fail(err, CK_INPUT, "smooth-add: a tensor has %zu axes, more than %d", args->rank,
                       MAX_RANK);
    size_t n = (size_t)args->elements;
    float *raw = ck_alloc_array(n, sizeof *raw), *smoothed = ck_alloc_array(n, sizeof *smoothed);
    float *line = ck_alloc_array(longest(args) + 2 * RADIUS, sizeof *line);
    *found = smoothed;
    ck_status status = raw && smoothed && line ? smooth(args, pass, raw, smoothed, line, err)
                                               : ck_fail_memory(err, "smooth-add");
    free(raw);
    free(line);
    return status;
}

static uint64_t needs(const ck_arguments *args) {
    return 2 * args->elements * sizeof(float);
}

static int same_as(const ck_value *v, size_t inputs) {
    (void)inputs;
    return v[0].items[0] == 0 ? 0 : -1;
}

static void block(const ck_kernels *k, const ck_arguments *args, const float *const *in, float *out,
                  size_t n) {
    const float *smoothed = (const float *)args->found + args->first;
    memcpy(out, in[0], n * sizeof *out);
    k->accumulate(out, smoothed, (float)args->values[0].items[0], n);
}

extern const ck_method ck_smooth_add;
const ck_method ck_smooth_add = {
    .name = "smooth-add",
    .title = "Smooth add difference",
    .formula = "A + alpha G(M(B - C)), M the median of the 3 x 3 x ... around each element, G a "
               "Gaussian of width 1",
    .doc = "Both over all axes of the tensor, channels too, which at the edges go on with their "
           "mirror image; as supermerger's smoothAdd, which has them from scipy. Takes minutes: "
           "medians of 81 numbers for a kernel's every weight. Works on one tensor at a time, 8 "
           "bytes of memory for an element. A tensor that B or C lacks is A's.",
    .min_inputs = 3,
    .max_inputs = 3,
    .parameters = {{.name = "alpha", .fallback = 1, .help = "strength of the difference"}},
    .same_as = same_as,
    .prepare = prepare,
    .needs = needs,
    .block = block,
};
