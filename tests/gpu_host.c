/* A card that is none: the plugin libck-cuda.so of the tests, which lies beside them. Every line of
 * kernels/cuda and of distill/engine/cuda's operations and updates runs on the processor, in memory
 * that the program cannot reach: whoever forgets a copy crashes. Products and convolutions, which a
 * card has from libraries, are plain loops and the reference's; for several processes there is
 * nccl_host.c. What tests tell it:
 *
 *   CK_GPU_HOST_MEMORY   bytes that there are
 *   CK_GPU_HOST_FAIL     the number of the one piece of memory that it does not give
 *   CK_GPU_HOST_TASTE    which way it likes to add, 0 or 1
 *   CK_GPU_HOST_NAME     its name
 *   CK_GPU_HOST_WAITS    a file where it writes how often somebody has waited for it
 *   CK_GPU_HOST_SHARED   bytes that a block of its threads can share; by default too few for fused
 *                        attention, which takes long here
 */
#include "distill/engine/plugin.h"

#include "distill/engine/cuda/choices.h"
#include "distill/engine/cuda/nccl.h"
#include "distill/engine/cuda/operations.h"
#include "distill/engine/cuda/updates.h"
#include "distill/engine/reference.h"
#include "kernels/half.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- Waiting: where a card's work is not done yet, as it is here ---- */

static bool busy; /* it was given work since somebody has waited */
static size_t waits;

static void wait_for_it(void) {
    waits += busy;
    busy = false;
}

__attribute__((destructor)) static void write_waits(void) {
    const char *path = getenv("CK_GPU_HOST_WAITS");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    fprintf(file, "%zu\n", waits);
    fclose(file);
}

/* ---- Memory that the program cannot reach, as a card's ---- */

/* Pieces are pages that nobody may touch but while a call of the backend is at work. */
typedef struct piece {
    void *at;
    size_t bytes;
} piece;

enum { MOST_PIECES = 4096 };
static piece pieces[MOST_PIECES];
static size_t piece_count, used, open_calls;

static void protect(int rights) {
    for (size_t i = 0; i < piece_count; i++)
        if (pieces[i].at) mprotect(pieces[i].at, pieces[i].bytes, rights);
}

static void open_memory(void) {
    busy = true;
    if (open_calls++ == 0) protect(PROT_READ | PROT_WRITE);
}

static void close_memory(void) {
    if (--open_calls == 0) protect(PROT_NONE);
}

static size_t most(void) {
    const char *text = getenv("CK_GPU_HOST_MEMORY");
    return text ? strtoull(text, NULL, 10) : (size_t)1 << 40;
}

static bool refuses(void) {
    static unsigned long given;
    const char *which = getenv("CK_GPU_HOST_FAIL");
    return which && ++given == strtoul(which, NULL, 10);
}

/* (What is in it is no number, as on a card whatever was there before.) */
static void *take(size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), i = 0;
    bytes = (bytes + page - 1) / page * page;
    if (used + bytes > most() || refuses()) return NULL;
    while (i < piece_count && pieces[i].at) i++;
    if (i == MOST_PIECES) return NULL;
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return NULL;
    memset(at, 0xff, bytes);
    if (!open_calls) mprotect(at, bytes, PROT_NONE);
    pieces[i] = (piece){at, bytes};
    if (i == piece_count) piece_count++;
    used += bytes;
    return at;
}

static void give(void *at) {
    wait_for_it();
    for (size_t i = 0; i < piece_count; i++)
        if (pieces[i].at == at) {
            munmap(at, pieces[i].bytes);
            used -= pieces[i].bytes;
            pieces[i] = (piece){0};
        }
}

static void copy(void *dst, const void *src, size_t bytes) {
    open_memory();
    memcpy(dst, src, bytes);
    close_memory();
}

static void read_back(void *dst, const void *src, size_t bytes) {
    wait_for_it();
    copy(dst, src, bytes);
    busy = false;
}

static void zero(void *p, size_t bytes) {
    open_memory();
    memset(p, 0, bytes);
    close_memory();
}

static void memory(size_t *available, size_t *all) {
    *all = most();
    *available = *all > used ? *all - used : 0;
}

/* Nothing else looks for leaks there. */
__attribute__((destructor)) static void look_for_leaks(void) {
    if (!used) return;
    fprintf(stderr, "%zu bytes of the card were not given back\n", used);
    _exit(1);
}

/* ---- Choices ---- */

/* As NVIDIA's libraries, it has more than one way to make a product, with other bits each. */
static bool adds_backwards(const ck_gpu_product *p) {
    char kind[128];
    snprintf(kind, sizeof kind, "product %d%d %lld %lld %lld %lld", p->ta, p->tb, (long long)p->m,
             (long long)p->n, (long long)p->k, (long long)p->batch);
    const char *choice = ck_choices_find(kind), *taste = getenv("CK_GPU_HOST_TASTE");
    ck_error err;
    if (!choice) {
        choice = taste && strcmp(taste, "1") == 0 ? "backwards" : "forwards";
        if (ck_choices_add(kind, choice, &err) != CK_OK) abort();
    }
    return strcmp(choice, "backwards") == 0;
}

static const char *chosen_by(void) {
    const char *name = getenv("CK_GPU_HOST_NAME");
    return name ? name : "a card that is none";
}

static ck_status take_choice(const char *kind, const char *choice, ck_error *err) {
    if (strcmp(choice, "forwards") != 0 && strcmp(choice, "backwards") != 0)
        return ck_fail(err, CK_INPUT, "'%s' is no choice for %s", choice, kind);
    return ck_choices_add(kind, choice, err);
}

static const ck_choices choices = {chosen_by, ck_choices_at, take_choice};

/* ---- Operations ---- */

static float get(const void *x, bool half, int64_t i) {
    return half ? ck_half_value(((const uint16_t *)x)[i]) : ((const float *)x)[i];
}

static void put(void *x, bool half, int64_t i, float value) {
    if (half)
        ((uint16_t *)x)[i] = ck_half(value);
    else
        ((float *)x)[i] = value;
}

/* n vectors of k numbers, one after the other, backwards or not; turned: number j of vector i lies
 * at j n + i, else at i k + j. */
static void gather(float *to, const void *x, bool half, int64_t at, int64_t n, int64_t k,
                   bool turned, bool backwards) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < k; j++)
            to[i * k + (backwards ? k - 1 - j : j)] =
                get(x, half, at + (turned ? j * n + i : i * k + j));
}

static double inner(const float *x, const float *y, int64_t k, bool rounds) {
    double sum = 0;
    for (int64_t j = 0; j < k; j++) {
        sum += (double)x[j] * y[j];
        if (rounds) sum = (float)sum;
    }
    return sum;
}

static void matmul(const ck_gpu_library *l, const ck_gpu_product *p, const void *a, const void *b,
                   const void *row, const void *more, void *c) {
    bool backwards = adds_backwards(p);
    int64_t m = p->m, n = p->n, k = p->k;
    float *left = malloc((size_t)((m + n) * k) * sizeof *left), *right = left + m * k;
    for (int64_t i = 0; i < p->batch * m; i++) {
        int64_t r = i % m;
        if (r == 0) {
            gather(left, a, l->half, i * k, m, k, p->ta, backwards);
            gather(right, b, l->half, i / m * k * n, n, k, !p->tb, backwards);
        }
        for (int64_t s = 0; s < n; s++) {
            double sum = inner(left + r * k, right + s * k, k, backwards);
            if (row) sum += get(row, p->half_c, s);
            if (more) sum += get(more, p->half_c, i * n + s);
            put(c, p->half_c, i * n + s, (float)sum);
        }
    }
    free(left);
}

/* (Bias and residual are added at once to images of an even width, as a library has it for some.)
 */
static ck_status prepare_convolution(const ck_gpu_library *l, const ck_graph *g, ck_node n,
                                     ck_gpu_added *added, void **plan, size_t *workspace,
                                     ck_error *err) {
    (void)l, (void)err;
    if (g->nodes[n].shape.d[2] % 2 != 0) *added = (ck_gpu_added){false, false};
    *plan = NULL;
    *workspace = 100; /* no multiple of anything: what lies behind must be aligned all the same */
    return CK_OK;
}

/* The reference's, of f32 copies, which are made here. */
static float *f32_of(const void *x, int64_t n) {
    float *y = malloc((size_t)n * sizeof *y);
    for (int64_t i = 0; i < n; i++) y[i] = get(x, true, i);
    return y;
}

static void convolve(const ck_call *call, const void *plan, const void *first, const void *second,
                     const void *bias, const void *residual, void *dst, void *workspace) {
    (void)plan;
    memset(workspace, 0xff, 100);
    ck_call alone = *call;
    alone.dst = dst, alone.src[0] = first, alone.src[1] = second, alone.src[2] = bias;
    ck_reference_f32[ck_call_node(call)->op](&alone);
    int64_t n = residual ? ck_shape_count(&ck_call_node(call)->shape) : 0;
    for (int64_t i = 0; i < n; i++) ((float *)dst)[i] += ((const float *)residual)[i];
}

static void convolve_halves(const ck_call *call, const void *plan, const void *first,
                            const void *second, const void *bias, const void *residual, void *dst,
                            void *workspace) {
    ck_shape a = ck_call_shape(call, 0), b = ck_call_shape(call, 1);
    int64_t n = ck_shape_count(&ck_call_node(call)->shape);
    float *x = f32_of(first, ck_shape_count(&a)), *w = f32_of(second, ck_shape_count(&b));
    float *y = malloc((size_t)n * sizeof *y);
    float *row = bias ? f32_of(bias, ck_call_node(call)->shape.d[3]) : NULL;
    convolve(call, plan, x, w, row, NULL, y, workspace);
    for (int64_t i = 0; i < n; i++)
        put(dst, true, i, y[i] + (residual ? get(residual, true, i) : 0));
    free(x), free(w), free(y), free(row);
}

/* (Scores of few queries at once, so that attention is made in pieces.) */
enum { SCORES = 3000 };
static const ck_gpu_library f32 = {NULL, false, SCORES, 0, matmul, prepare_convolution, convolve};
static ck_gpu_library bf16 = {NULL, true, SCORES, 0, matmul, prepare_convolution, convolve_halves};

static ck_status prepare(const ck_backend *b, const ck_graph *g, ck_node n, const bool *half,
                         bool residual, ck_kernel *kernel, ck_error *err) {
    const char *shared = getenv("CK_GPU_HOST_SHARED");
    bf16.shared = shared ? strtoull(shared, NULL, 10) : 0;
    return ck_gpu_prepare(b->takes_half ? &bf16 : &f32, g, n, half, residual, kernel, err);
}

/* What a card records is here only that it was. */
static ck_status run(void (*nodes)(void *context), void *context, void **recording, ck_error *err) {
    (void)err;
    static int recorded;
    *recording = &recorded;
    open_memory();
    nodes(context);
    close_memory();
    return CK_OK;
}

static void forget(void *recording) {
    (void)recording;
}

/* ---- Weights ---- */

static void squares(const ck_trained *slices, size_t count, double *sums) {
    static float partial[CK_GPU_SQUARES];
    open_memory();
    ck_gpu_squares_of(NULL, slices, count, sums, partial);
    close_memory();
}

static void adamw(const ck_adamw_step *step, const ck_trained *slices, size_t count) {
    open_memory();
    ck_gpu_adamw_of(NULL, step, slices, count);
    close_memory();
}

static void average(const ck_pair *pairs, size_t count, float change) {
    open_memory();
    ck_gpu_average_of(NULL, pairs, count, change);
    close_memory();
}

static void add(const ck_pair *pairs, size_t count, float factor) {
    open_memory();
    ck_gpu_add_of(NULL, pairs, count, factor);
    close_memory();
}

static void round_weights(const ck_copied *copies, size_t count, const ck_rounding *how) {
    open_memory();
    ck_gpu_round_of(NULL, copies, count, how);
    close_memory();
}

static const ck_updates updates = {squares, adamw, average, add, round_weights};

/* ---- Other processes ---- */

/* The NCCL that lies beside this is loaded first: whoever asks for the name gets it then.
 * (Sanitizers look for libraries where the program does, not where a plugin says.) */
__attribute__((constructor)) static void load_nccl(void) {
    Dl_info here;
    char path[4096];
    if (!dladdr(&used, &here)) return;
    const char *slash = strrchr(here.dli_fname, '/');
    int folder = slash ? (int)(slash - here.dli_fname) : 0;
    snprintf(path, sizeof path, "%.*s/libnccl.so.2", folder, here.dli_fname);
    dlopen(path, RTLD_NOW | RTLD_LOCAL);
}

static ck_status exchange(const float *array, const size_t *counts, size_t at, size_t n,
                          float *parts, ck_error *err) {
    open_memory();
    ck_status s = ck_nccl_exchange(NULL, array, counts, at, n, parts, err);
    close_memory();
    return s;
}

static ck_status share(float *array, const size_t *counts, ck_error *err) {
    open_memory();
    ck_status s = ck_nccl_share(NULL, array, counts, err);
    close_memory();
    return s;
}

static const ck_peers peers = {ck_nccl_invite, ck_nccl_join, ck_nccl_leave, exchange, share};

#define ON_HOST(backend_name, halves)                                                              \
    {                                                                                              \
        .abi_version = CK_BACKEND_ABI, .name = backend_name, .element = sizeof(float),             \
        .takes_half = halves, .takes_residual = ck_gpu_takes_residual, .prepare = prepare,         \
        .alloc = take, .free = give, .write = copy, .read = read_back, .zero = zero, .copy = copy, \
        .updates = &updates, .memory = memory, .run = run, .forget = forget, .peers = &peers,      \
        .choices = &choices                                                                        \
    }

static const ck_backend backends[] = {
    ON_HOST("cuda", NULL),
    ON_HOST("cuda-tf32", NULL),
    ON_HOST("cuda-bf16", ck_gpu_takes_half),
};

static ck_status open_backend(const char *name, const ck_backend **b, ck_error *err) {
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++)
        if (strcmp(backends[i].name, name) == 0) {
            *b = &backends[i];
            return CK_OK;
        }
    return ck_fail(err, CK_USAGE, "no backend '%s' on this card", name);
}

CK_PLUGIN_EXPORT = {CK_BACKEND_ABI, open_backend};
