/* The backends that compute on the processor, see backend.h. */
#include "distill/engine/backend_int.h"

#include "distill/engine/onednn.h"
#include "distill/engine/reference.h"
#include "distill/engine/simd.h"
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
                             bool residual, ck_kernel *kernel, ck_error *err) {
    (void)b, (void)half, (void)residual;
    return prepare_plain(ck_reference_f32, g, n, kernel, err);
}

static ck_status prepare_f64(const ck_backend *b, const ck_graph *g, ck_node n, const bool *half,
                             bool residual, ck_kernel *kernel, ck_error *err) {
    (void)b, (void)half, (void)residual;
    return prepare_plain(ck_reference_f64, g, n, kernel, err);
}

/* The first that can: oneDNN, own kernels in vectors, plain ones. */
static ck_status prepare_cpu(const ck_backend *b, const ck_graph *g, ck_node n, const bool *half,
                             bool residual, ck_kernel *kernel, ck_error *err) {
    bool done;
    CK_TRY(ck_onednn_prepare(g, n, half, false, kernel, &done, err));
    if (!done) CK_TRY(ck_simd_prepare(g, n, half, kernel, &done, err));
    return done ? CK_OK : prepare_f32(b, g, n, half, residual, kernel, err);
}

/* The same, with convolutions, products and attention of numbers rounded to bfloat16 on the way in.
 */
static ck_status prepare_bf16(const ck_backend *b, const ck_graph *g, ck_node n, const bool *half,
                              bool residual, ck_kernel *kernel, ck_error *err) {
    bool done;
    CK_TRY(ck_simd_prepare_bf16(g, n, kernel, &done, err));
    if (!done) CK_TRY(ck_onednn_prepare(g, n, half, true, kernel, &done, err));
    return done ? CK_OK : prepare_cpu(b, g, n, half, residual, kernel, err);
}

static void copy(void *dst, const void *src, size_t bytes) {
    memcpy(dst, src, bytes);
}

static void zero(void *p, size_t bytes) {
    memset(p, 0, bytes);
}

static void memory(size_t *available, size_t *all) {
    static const char path[] = "/proc/meminfo";
    *available = ck_proc_bytes(path, "MemAvailable:") + ck_proc_bytes(path, "SwapFree:");
    *all = ck_proc_bytes(path, "MemTotal:") + ck_proc_bytes(path, "SwapTotal:");
}

#define ON_HOST(backend_name, bytes, prepare_function, ...)                                        \
    {                                                                                              \
        .abi_version = CK_BACKEND_ABI, .name = backend_name, .element = bytes, .host = true,       \
        .prepare = prepare_function, .alloc = ck_alloc_pages, .free = free, .write = copy,         \
        .read = copy, .zero = zero, .copy = copy, .updates = &ck_updates_host, .memory = memory,   \
        __VA_ARGS__                                                                                \
    }

static const ck_backend backends[] = {
    ON_HOST("cpu", sizeof(float), prepare_cpu),
    ON_HOST("cpu-bf16", sizeof(float), prepare_bf16, .takes_half = ck_simd_takes_half,
            .folding = &ck_simd_folding),
    ON_HOST("reference", sizeof(float), prepare_f32),
    ON_HOST("reference64", sizeof(double), prepare_f64),
};

const ck_backend *ck_backend__cpu(const char *name) {
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++)
        if (strcmp(backends[i].name, name) == 0) return &backends[i];
    return NULL;
}
