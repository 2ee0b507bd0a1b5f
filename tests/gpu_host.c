/* See gpu_host.h. */
#include "tests/gpu_host.h"

#include "distill/cuda/operations.h"
#include "distill/reference.h"
#include "io/os.h"

#include <stdlib.h>
#include <string.h>

static void matmul(const ck_gpu_library *l, const ck_gpu_product *p, const float *a, const float *b,
                   float *c) {
    (void)l;
    for (int64_t i = 0; i < p->batch; i++, a += p->m * p->k, b += p->k * p->n, c += p->m * p->n)
        for (int64_t r = 0; r < p->m; r++)
            for (int64_t s = 0; s < p->n; s++) {
                double sum = 0;
                for (int64_t k = 0; k < p->k; k++)
                    sum += (double)a[p->ta ? k * p->m + r : r * p->k + k] *
                           b[p->tb ? s * p->k + k : k * p->n + s];
                c[r * p->n + s] = (float)sum;
            }
}

static ck_status prepare_convolution(const ck_gpu_library *l, const ck_graph *g, ck_node n,
                                     ck_kernel *kernel, ck_error *err) {
    (void)l, (void)err;
    *kernel = (ck_kernel){.run = ck_reference_f32[g->nodes[n].op]};
    return CK_OK;
}

static const ck_gpu_library library = {NULL, matmul, prepare_convolution};

static ck_status prepare(const ck_backend *b, const ck_graph *g, ck_node n, const bool *half,
                         ck_kernel *kernel, ck_error *err) {
    (void)b, (void)half;
    return ck_gpu_prepare(&library, g, n, kernel, err);
}

static void copy(void *dst, const void *src, size_t bytes) {
    memcpy(dst, src, bytes);
}

const ck_backend ck_gpu_host = {CK_BACKEND_ABI, "gpu-host",     sizeof(float), true, NULL,
                                prepare,        ck_alloc_pages, free,          copy, copy};
