/* libck-cuda.so: backends that compute on a card of NVIDIA's. See distill/engine/plugin.h. */
#include "distill/engine/plugin.h"

#include "distill/engine/cuda/card.h"
#include "distill/engine/cuda/choices.h"
#include "distill/engine/cuda/convolutions.h"
#include "distill/engine/cuda/nccl.h"
#include "distill/engine/cuda/operations.h"
#include "distill/engine/cuda/updates.h"

#include <stdio.h>
#include <string.h>

/* ---- Operations ---- */

enum { SCORES = 32 << 20 };

/* A backend's functions know by their names alone how it computes. */
#define PRECISION(name, halves, precision)                                                         \
    static void product_##name(const ck_gpu_library *l, const ck_gpu_product *p, const void *a,    \
                               const void *b, const void *row, const void *more, void *c) {        \
        (void)l;                                                                                   \
        ck_cuda_product(precision, p, a, b, row, more, c);                                         \
    }                                                                                              \
    static ck_status convolution_##name(const ck_gpu_library *l, const ck_graph *g, ck_node n,     \
                                        ck_gpu_added *added, void **plan, size_t *workspace,       \
                                        ck_error *err) {                                           \
        (void)l;                                                                                   \
        return ck_cuda_convolution(precision, g, n, added, plan, workspace, err);                  \
    }                                                                                              \
    static ck_gpu_library name = {NULL,    halves, SCORES, 0, product_##name, convolution_##name,  \
                                  convolve};                                                       \
    static ck_status prepare_##name(const ck_backend *b, const ck_graph *g, ck_node n,             \
                                    const bool *half, bool residual, ck_kernel *kernel,            \
                                    ck_error *err) {                                               \
        (void)b;                                                                                   \
        return ck_gpu_prepare(&name, g, n, half, residual, kernel, err);                           \
    }

static void convolve(const ck_call *call, const void *plan, const void *first, const void *second,
                     const void *bias, const void *residual, void *dst, void *workspace) {
    (void)call;
    ck_cuda_convolve(plan, first, second, bias, residual, dst, workspace);
}

PRECISION(f32, false, CK_CUDA_F32)
PRECISION(tf32, false, CK_CUDA_TF32)
PRECISION(bf16, true, CK_CUDA_BF16)

/* ---- Weights ---- */

static float *partial; /* sums of squares */

static void squares(const ck_trained *slices, size_t count, double *sums) {
    ck_gpu_squares_of(ck_card_stream(), slices, count, sums, partial);
}

static void adamw(const ck_adamw_step *step, const ck_trained *slices, size_t count) {
    ck_gpu_adamw_of(ck_card_stream(), step, slices, count);
}

static void average(const ck_pair *pairs, size_t count, float change) {
    ck_gpu_average_of(ck_card_stream(), pairs, count, change);
}

static void add(const ck_pair *pairs, size_t count, float factor) {
    ck_gpu_add_of(ck_card_stream(), pairs, count, factor);
}

static void round_weights(const ck_copied *copies, size_t count, const ck_rounding *how) {
    ck_gpu_round_of(ck_card_stream(), copies, count, how);
}

static const ck_updates updates = {squares, adamw, average, add, round_weights};

/* ---- Other processes ---- */

static ck_status exchange(const float *array, const size_t *counts, size_t at, size_t n,
                          float *parts, ck_error *err) {
    return ck_nccl_exchange(ck_card_stream(), array, counts, at, n, parts, err);
}

static ck_status share(float *array, const size_t *counts, ck_error *err) {
    return ck_nccl_share(ck_card_stream(), array, counts, err);
}

static const ck_peers peers = {ck_nccl_invite, ck_nccl_join, ck_nccl_leave, exchange, share};

/* ---- Choices ---- */

static const char *chosen_by(void) {
    static char text[192];
    snprintf(text, sizeof text, "cuBLASLt %zu, cuDNN %zu, %s", ck_cuda_products_version(),
             ck_cuda_convolutions_version(), ck_card_name());
    return text;
}

static ck_status take_choice(const char *kind, const char *choice, ck_error *err) {
    bool good = strncmp(kind, "product ", 8) == 0 ? ck_cuda_is_product_choice(choice)
                                                  : ck_cuda_is_convolution_choice(choice);
    if (!good) return ck_fail(err, CK_INPUT, "'%.64s' is no choice for %.256s", choice, kind);
    return ck_choices_add(kind, choice, err);
}

static const ck_choices choices = {chosen_by, ck_choices_at, take_choice};

/* ---- The table ---- */

#define ON_CARD(backend_name, halves, prepare_function)                                            \
    {                                                                                              \
        .abi_version = CK_BACKEND_ABI, .name = backend_name, .element = sizeof(float),             \
        .takes_half = halves, .takes_residual = ck_gpu_takes_residual,                             \
        .prepare = prepare_function, .alloc = ck_card_alloc, .free = ck_card_free,                 \
        .write = ck_card_write, .read = ck_card_read, .zero = ck_card_zero, .copy = ck_card_copy,  \
        .updates = &updates, .memory = ck_card_memory, .run = ck_card_run,                         \
        .forget = ck_card_forget, .peers = &peers, .choices = &choices                             \
    }

static const ck_backend backends[] = {
    ON_CARD("cuda", NULL, prepare_f32),
    ON_CARD("cuda-tf32", NULL, prepare_tf32),
    ON_CARD("cuda-bf16", ck_gpu_takes_half, prepare_bf16),
};

static ck_status open_all(ck_error *err) {
    CK_TRY(ck_card_open(err));
    CK_TRY(ck_cuda_products_open(err));
    CK_TRY(ck_cuda_convolutions_open(err));
    f32.stream = tf32.stream = bf16.stream = ck_card_stream();
    bf16.shared = ck_card_shared();
    const size_t bytes = CK_GPU_SQUARES * sizeof *partial;
    if (!partial) partial = ck_card_alloc(bytes);
    return partial ? CK_OK : ck_fail_full(ck_card_memory, "sums of squares", bytes, err);
}

static ck_status open_backend(const char *name, const ck_backend **b, ck_error *err) {
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++)
        if (strcmp(backends[i].name, name) == 0) {
            *b = &backends[i];
            return open_all(err);
        }
    return ck_fail(err, CK_USAGE, "no backend '%s'; of cards there are cuda, cuda-tf32, cuda-bf16",
                   name);
}

CK_PLUGIN_EXPORT = {CK_BACKEND_ABI, open_backend};
