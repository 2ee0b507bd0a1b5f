/* Numbers that are copied, of any size: see simd_int.h. */
#include "distill/engine/simd_int.h"

#include <string.h>

enum { ALONE = 1 << 16 }; /* bytes that one thread copies */

/* How an array looks from a dimension: `outer` times `n` times `inner` contiguous bytes. */
typedef struct sliced {
    int64_t outer, n, inner;
} sliced;

static sliced slice_at(const ck_call *call, ck_shape s) {
    const ck_nn *k = call->state;
    int64_t axis = ck_call_node(call)->i[0];
    sliced v = {1, s.d[axis], (int64_t)k->element};
    for (int64_t i = 0; i < axis; i++) v.outer *= s.d[i];
    for (int64_t i = axis + 1; i < s.rank; i++) v.inner *= s.d[i];
    return v;
}

void ck_simd__concat(const ck_call *call) {
    sliced a = slice_at(call, ck_call_shape(call, 0)), b = slice_at(call, ck_call_shape(call, 1));
    int64_t first = a.n * a.inner, second = b.n * b.inner;
    const char *x = call->src[0], *z = call->src[1];
    char *y = call->dst;
#pragma omp parallel for if (a.outer * (first + second) > ALONE)
    for (int64_t o = 0; o < a.outer; o++) {
        char *to = y + o * (first + second);
        memcpy(to, x + o * first, (size_t)first);
        memcpy(to + first, z + o * second, (size_t)second);
    }
}

void ck_simd__slice(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    sliced a = slice_at(call, ck_call_shape(call, 0)), s = slice_at(call, n->shape);
    int64_t taken = s.n * s.inner;
    const char *x = (const char *)call->src[0] + n->i[1] * a.inner;
    char *y = call->dst;
#pragma omp parallel for if (s.outer * taken > ALONE)
    for (int64_t o = 0; o < s.outer; o++)
        memcpy(y + o * taken, x + o * a.n * a.inner, (size_t)taken);
}

void ck_simd__pad(const ck_call *call) {
    const ck_graph_node *n = ck_call_node(call);
    sliced a = slice_at(call, ck_call_shape(call, 0)), s = slice_at(call, n->shape);
    int64_t before = n->i[1] * a.inner, taken = a.n * a.inner, all = s.n * s.inner;
    const char *x = call->src[0];
    char *y = call->dst;
#pragma omp parallel for if (s.outer * all > ALONE)
    for (int64_t o = 0; o < s.outer; o++) {
        char *to = y + o * all;
        memset(to, 0, (size_t)before);
        memcpy(to + before, x + o * taken, (size_t)taken);
        memset(to + before + taken, 0, (size_t)(all - before - taken));
    }
}

void ck_simd__upsample(const ck_call *call) {
    const ck_nn *k = call->state;
    ck_shape s = ck_call_shape(call, 0);
    int64_t rows = s.d[0] * s.d[1], w = s.d[2], pixel = s.d[3] * (int64_t)k->element;
    const char *x = call->src[0];
    char *y = call->dst;
#pragma omp parallel for if (4 * rows * w * pixel > ALONE)
    for (int64_t r = 0; r < rows; r++) {
        char *to = y + 4 * r * w * pixel;
        for (int64_t q = 0; q < 2 * w; q++)
            memcpy(to + q * pixel, x + (r * w + q / 2) * pixel, (size_t)pixel);
        memcpy(to + 2 * w * pixel, to, (size_t)(2 * w * pixel));
    }
}
