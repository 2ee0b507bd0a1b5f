/* See products.h. Matrices are row by row here and column by column there, where each is transposed
 * thereby: c = a b is asked for as c' = b' a'. */
#include "distill/engine/cuda/products.h"

#include "distill/engine/cuda/card.h"
#include "distill/engine/cuda/choices.h"
#include "io/os.h"

#include <cublasLt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORKSPACE = 64 << 20 };

/* What an algorithm was chosen for. */
typedef struct kind {
    ck_gpu_product product;
    ck_cuda_precision precision;
    bool has_row, has_more;
    uint32_t aligned; /* bytes that all addresses are multiples of */
} kind;

typedef struct choice {
    kind of;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
} choice;

static struct {
    cublasLtHandle_t handle;
    void *workspace;
    choice **choices;
    size_t count, capacity;
} lt;

#define NOTE(call)                                                                                 \
    do {                                                                                           \
        cublasStatus_t code = (call);                                                              \
        if (code == CUBLAS_STATUS_ALLOC_FAILED)                                                    \
            ck_card_note_full(#call);                                                              \
        else if (code != CUBLAS_STATUS_SUCCESS)                                                    \
            ck_card_note(#call, cublasLtGetStatusString(code));                                    \
    } while (0)

ck_status ck_cuda_products_open(ck_error *err) {
    if (lt.workspace) return CK_OK;
    if (!lt.handle) NOTE(cublasLtCreate(&lt.handle));
    CK_TRY(ck_card_check(err));
    lt.workspace = ck_card_alloc(WORKSPACE);
    return lt.workspace ? CK_OK
                        : ck_fail_full(ck_card_memory, "products of matrices", WORKSPACE, err);
}

/* `rows` numbers beside each other (columns, in the library's words), `columns` times, in each of
 * the batch. */
static cublasLtMatrixLayout_t layout(bool half, int64_t rows, int64_t columns, int64_t batch) {
    cublasLtMatrixLayout_t l = NULL;
    int32_t count = (int32_t)batch;
    int64_t stride = rows * columns;
    NOTE(cublasLtMatrixLayoutCreate(&l, half ? CUDA_R_16BF : CUDA_R_32F, (uint64_t)rows,
                                    (uint64_t)columns, rows));
    if (batch == 1) return l;
    NOTE(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                          sizeof count));
    NOTE(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                          sizeof stride));
    return l;
}

static void set_row(choice *c, const void *row) {
    NOTE(cublasLtMatmulDescSetAttribute(c->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &row,
                                        sizeof row));
}

/* row: is known before an algorithm is chosen, as the choice may depend on it. */
static void describe(choice *c, const void *row) {
    const ck_gpu_product *p = &c->of.product;
    cublasComputeType_t compute =
        c->of.precision == CK_CUDA_TF32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    cublasOperation_t ta = p->ta ? CUBLAS_OP_T : CUBLAS_OP_N,
                      tb = p->tb ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    NOTE(cublasLtMatmulDescCreate(&c->product, compute, CUDA_R_32F));
    NOTE(cublasLtMatmulDescSetAttribute(c->product, CUBLASLT_MATMUL_DESC_TRANSA, &tb, sizeof tb));
    NOTE(cublasLtMatmulDescSetAttribute(c->product, CUBLASLT_MATMUL_DESC_TRANSB, &ta, sizeof ta));
    if (row) {
        NOTE(cublasLtMatmulDescSetAttribute(c->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                            sizeof epilogue));
        set_row(c, row);
    }
    bool half = c->of.precision == CK_CUDA_BF16;
    c->b = p->tb ? layout(half, p->k, p->n, p->batch) : layout(half, p->n, p->k, p->batch);
    c->a = p->ta ? layout(half, p->m, p->k, p->batch) : layout(half, p->k, p->m, p->batch);
    c->c = layout(p->half_c, p->n, p->m, p->batch);
}

/* ---- Algorithms: 64 bytes each, which the library lets keep ---- */

enum { DIGITS = 2 * sizeof(cublasLtMatmulAlgo_t) };

size_t ck_cuda_products_version(void) {
    return cublasLtGetVersion();
}

bool ck_cuda_is_product_choice(const char *text) {
    cublasLtMatmulAlgo_t algorithm;
    return ck_choices_unhex(text, &algorithm, sizeof algorithm);
}

static void name_kind(const kind *k, char text[192]) {
    const ck_gpu_product *p = &k->product;
    snprintf(text, 192,
             "product precision %d m %" PRId64 " n %" PRId64 " k %" PRId64 " batch %" PRId64
             "%s%s%s%s%s aligned %" PRIu32,
             (int)k->precision, p->m, p->n, p->k, p->batch, p->ta ? " ta" : "", p->tb ? " tb" : "",
             k->has_row ? " row" : "", p->half_c ? " half" : "", k->has_more ? " add" : "",
             k->aligned);
}

/* (Checked: one that is kept may be of a library that only calls itself the same.) */
static void use_kept(choice *c, const char *kept) {
    cublasLtMatmulHeuristicResult_t result;
    if (!ck_choices_unhex(kept, &c->algorithm, sizeof c->algorithm) ||
        cublasLtMatmulAlgoCheck(lt.handle, c->product, c->b, c->a, c->c, c->c, &c->algorithm,
                                &result) != CUBLAS_STATUS_SUCCESS ||
        result.workspaceSize > WORKSPACE)
        ck_card_note("a product", "cuBLASLt refuses the algorithm that plans.json keeps for it; "
                                  "without that file another is chosen");
}

/* The library's proposal. */
static void choose(choice *c) {
    cublasLtMatmulPreference_t want = NULL;
    cublasLtMatmulHeuristicResult_t best = {0};
    size_t workspace = WORKSPACE;
    const uint32_t sums = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; /* never of bf16, in parts */
    int found = 0;
    static const cublasLtMatmulPreferenceAttributes_t alignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    NOTE(cublasLtMatmulPreferenceCreate(&want));
    NOTE(cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                              &workspace, sizeof workspace));
    NOTE(cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                              &sums, sizeof sums));
    for (size_t i = 0; i < sizeof alignments / sizeof *alignments; i++)
        NOTE(cublasLtMatmulPreferenceSetAttribute(want, alignments[i], &c->of.aligned,
                                                  sizeof c->of.aligned));
    NOTE(cublasLtMatmulAlgoGetHeuristic(lt.handle, c->product, c->b, c->a, c->c, c->c, want, 1,
                                        &best, &found));
    NOTE(cublasLtMatmulPreferenceDestroy(want));
    if (!found || best.state != CUBLAS_STATUS_SUCCESS)
        ck_card_note("a product", "cuBLASLt has no algorithm for it");
    c->algorithm = best.algo;
}

static void settle(choice *c) {
    char name[192], text[DIGITS + 1];
    ck_error err;
    name_kind(&c->of, name);
    const char *kept = ck_choices_find(name);
    if (kept) {
        use_kept(c, kept);
        return;
    }
    choose(c);
    ck_choices_hex(&c->algorithm, sizeof c->algorithm, text);
    if (ck_choices_add(name, text, &err) != CK_OK) ck_card_note("a product", err.message);
}

/* (Compared as bytes: a kind is made of zeroes first, gaps included.) */
static choice *find(const kind *k, const void *row) {
    for (size_t i = 0; i < lt.count; i++)
        if (memcmp(&lt.choices[i]->of, k, sizeof *k) == 0) return lt.choices[i];
    choice **grown = ck_grow(lt.choices, lt.count, &lt.capacity, sizeof *grown);
    choice *c = grown ? ck_alloc(sizeof *c) : NULL;
    if (grown) lt.choices = grown;
    if (!c) {
        ck_card_note("a product", "out of memory");
        return NULL;
    }
    memcpy(&c->of, k, sizeof *k);
    describe(c, row);
    settle(c);
    return lt.choices[lt.count++] = c;
}

static uint32_t alignment(uintptr_t bits) {
    bits |= 256;
    return (uint32_t)(bits & -bits);
}

void ck_cuda_product(ck_cuda_precision precision, const ck_gpu_product *p, const void *a,
                     const void *b, const void *row, const void *more, void *c) {
    static const float one = 1, zero = 0;
    kind k;
    memset(&k, 0, sizeof k);
    k.product.ta = p->ta, k.product.tb = p->tb;
    k.product.half_c = p->half_c;
    k.product.m = p->m, k.product.n = p->n, k.product.k = p->k, k.product.batch = p->batch;
    k.precision = precision;
    k.has_row = row != NULL, k.has_more = more != NULL;
    k.aligned =
        alignment((uintptr_t)a | (uintptr_t)b | (uintptr_t)row | (uintptr_t)more | (uintptr_t)c);
    choice *with = find(&k, row);
    if (!with) return;
    if (row) set_row(with, row);
    NOTE(cublasLtMatmul(lt.handle, with->product, &one, b, with->b, a, with->a, more ? &one : &zero,
                        more ? more : c, with->c, c, with->c, &with->algorithm, lt.workspace,
                        WORKSPACE, ck_card_stream()));
}
