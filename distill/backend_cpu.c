/* The backends that compute on the processor, see backend.h. */
#include "distill/backend.h"

#include "distill/onednn.h"
#include "distill/reference.h"
#include "distill/simd.h"
#include "io/os.h"

#include <stdlib.h>
#include <string.h>

static ck_status prepare_plain(ck_run *const table[], const ck_graph *g, ck_node n,
                               ck_kernel *kernel, ck_error *err) {
    ck_op op = g->nodes[n].op;
    if (!table[op]) return ck_fail(err, CK_USAGE, "%s: nothing to compute", ck_op_name(op));
    *kernel = (ck_kernel){.run = table[op]};
    return CK_OK;
}

static ck_status prepare_f32(const ck_backend *b, const ck_graph *g, ck_node n, const bool *half,
                             ck_kernel *kernel, ck_error *err) {
    (void)b, (void)half;
    return prepare_plain(ck_reference_f32, g, n, kernel, err);
}

static ck_status prepare_f64(const ck_backend *b, const ck_graph *g, ck_node n, const bool *half,
                             ck_kernel *kernel, ck_error *err) {
    (void)b, (void)half;
    return prepare_plain(ck_reference_f64, g, n, kernel, err);
}

/* The first that can: oneDNN, own kernels in vectors, plain ones. */
static ck_status prepare_cpu(const ck_backend *b, const ck_graph *g, ck_node n, const bool *half,
                             ck_kernel *kernel, ck_error *err) {
    bool done;
    CK_TRY(ck_onednn_prepare(g, n, half, false, kernel, &done, err));
    if (!done) CK_TRY(ck_simd_prepare(g, n, half, kernel, &done, err));
    return done ? CK_OK : prepare_f32(b, g, n, half, kernel, err);
}

/* The same, with convolutions, products and attention of numbers rounded to bfloat16 on the way in.
 */
static ck_status prepare_bf16(const ck_backend *b, const ck_graph *g, ck_node n, const bool *half,
                              ck_kernel *kernel, ck_error *err) {
    bool done;
    CK_TRY(ck_simd_prepare_bf16(g, n, kernel, &done, err));
    if (!done) CK_TRY(ck_onednn_prepare(g, n, half, true, kernel, &done, err));
    return done ? CK_OK : prepare_cpu(b, g, n, half, kernel, err);
}

static void copy(void *dst, const void *src, size_t bytes) {
    memcpy(dst, src, bytes);
}

static const ck_backend backends[] = {
    {CK_BACKEND_ABI, "cpu", sizeof(float), true, NULL, prepare_cpu, ck_alloc_pages, free, copy,
     copy},
    {CK_BACKEND_ABI, "cpu-bf16", sizeof(float), true, ck_simd_takes_half, prepare_bf16,
     ck_alloc_pages, free, copy, copy},
    {CK_BACKEND_ABI, "reference", sizeof(float), true, NULL, prepare_f32, ck_alloc_pages, free,
     copy, copy},
    {CK_BACKEND_ABI, "reference64", sizeof(double), true, NULL, prepare_f64, ck_alloc_pages, free,
     copy, copy},
};

ck_status ck_backend_open(const char *name, const ck_backend **b, ck_error *err) {
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++)
        if (strcmp(backends[i].name, name) == 0) {
            *b = &backends[i];
            return CK_OK;
        }
    return ck_fail(err, CK_USAGE,
                   "no backend '%s'; there are cpu, cpu-bf16, reference, reference64", name);
}
