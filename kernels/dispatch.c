/* Which tables this processor can run, and which one is used. */
#include "kernels/kernels.h"
#include "kernels/nn.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

extern const ck_kernels ck_kernels_portable;
extern const ck_nn ck_nn_portable;

#if defined(__x86_64__)
extern const ck_kernels ck_kernels_avx2, ck_kernels_avx512;
extern const ck_nn ck_nn_avx2, ck_nn_avx512;

/* __builtin_cpu_supports does not know this name in clang 14. Processors with AVX2 have it, but a
 * virtual machine may hide it. */
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

/* In this order in both arrays of tables. */
static const char *const names[] = {"portable", "avx2", "avx512"};

static size_t found = 1;

static void find_out(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (has_avx2()) found = has_avx512() ? 3 : 2;
#endif
}

/* (Asked once: virtual machines take long to answer.) */
static size_t usable(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_out);
    return found;
}

/* Which table to use; SIZE_MAX when CK_ISA asks for another. */
static size_t best(void) {
    size_t count = usable();
    const char *forced = getenv("CK_ISA");
    if (!forced || !*forced) return count - 1;
    for (size_t i = 0; i < count; i++)
        if (strcmp(names[i], forced) == 0) return i;
    return SIZE_MAX;
}

const ck_kernels *const *ck_kernels_all(size_t *count) {
    static const ck_kernels *const tables[] = {
        &ck_kernels_portable,
#if defined(__x86_64__)
        &ck_kernels_avx2,
        &ck_kernels_avx512,
#endif
    };
    *count = usable();
    return tables;
}

const ck_nn *const *ck_nn_all(size_t *count) {
    static const ck_nn *const tables[] = {
        &ck_nn_portable,
#if defined(__x86_64__)
        &ck_nn_avx2,
        &ck_nn_avx512,
#endif
    };
    *count = usable();
    return tables;
}

const ck_kernels *ck_kernels_best(void) {
    size_t count, i = best();
    return i == SIZE_MAX ? NULL : ck_kernels_all(&count)[i];
}

const ck_nn *ck_nn_best(void) {
    size_t count, i = best();
    return i == SIZE_MAX ? NULL : ck_nn_all(&count)[i];
}
