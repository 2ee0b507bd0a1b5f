/* Which tables this processor can run, and which one is used. */
#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

extern const ck_kernels ck_kernels_portable;

#if defined(__x86_64__)
extern const ck_kernels ck_kernels_avx2, ck_kernels_avx512;

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

const ck_kernels *const *ck_kernels_all(size_t *count) {
    static const ck_kernels *const tables[] = {
        &ck_kernels_portable,
#if defined(__x86_64__)
        &ck_kernels_avx2,
        &ck_kernels_avx512,
#endif
    };
    *count = 1;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (has_avx2()) *count = has_avx512() ? 3 : 2;
#endif
    return tables;
}

const ck_kernels *ck_kernels_best(void) {
    size_t count;
    const ck_kernels *const *tables = ck_kernels_all(&count);
    const char *forced = getenv("CK_ISA");
    if (!forced || !*forced) return tables[count - 1];
    for (size_t i = 0; i < count; i++)
        if (strcmp(tables[i]->isa, forced) == 0) return tables[i];
    return NULL;
}
