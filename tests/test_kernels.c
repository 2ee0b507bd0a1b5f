/* Every kernel of every instruction set against the reference: all codes of the small types,
 * special values, random bits, all small sizes, any alignment, and buffers that end at a guard
 * page.
 *
 *   build/tests/test_kernels --bench      measures them instead
 */
#include "kernels/kernels.h"
#include "tests/check.h"
#include "tests/fixture.h"
#include "tests/reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static const ck_dtype dtypes[] = {CK_F16, CK_BF16, CK_F8_E4M3, CK_F8_E5M2, CK_F32, CK_F64};
enum { DTYPES = sizeof dtypes / sizeof *dtypes, GUARDED = 1 << 20 };

/* Memory whose end is the end of the mapping's usable part: one byte further is a crash. */
static unsigned char *guarded(void) {
    unsigned char *p =
        mmap(NULL, GUARDED + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    assert_int_equal(mprotect(p + GUARDED, 4096, PROT_NONE), 0);
    return p;
}

static void unguard(unsigned char *p) {
    munmap(p, GUARDED + 4096);
}

static size_t bytes(ck_dtype d) {
    return ck_dtype_bits(d) / 8;
}

static bool same_float(float a, float b) {
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

static float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Floats that matter: specials, and all around each value and each midpoint of the small types. */
static size_t interesting(float *out, size_t capacity) {
    static const uint32_t special[] = {
        0,          0x80000000, 1,          0x80000001, 0x007FFFFF, 0x00800000, 0x3F800000,
        0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0xFFC00000, 0x7FC00001,
        0x7FFFFFFF, 0x477FE000, 0x477FEFFF, 0x477FF000, 0x477FF001, 0x43E00000, 0x43E7FFFF,
        0x43E80000, 0x43E80001, 0x47600000, 0x476FFFFF, 0x47700000, 0x7F7F7FFF, 0x7F7F8000,
    };
    size_t n = 0;
    for (size_t i = 0; i < sizeof special / sizeof *special; i++) out[n++] = from_bits(special[i]);
    for (int t = 0; t < 4; t++) {
        unsigned codes = 1u << (ck_dtype_bits(dtypes[t]) - 1);
        unsigned stride = dtypes[t] == CK_F16 || dtypes[t] == CK_BF16 ? 7 : 1;
        for (unsigned code = 0; code + 1 < codes && n + 12 < capacity; code += stride) {
            unsigned next = code + 1;
            float low = (float)ref_decode(dtypes[t], &code),
                  high = (float)ref_decode(dtypes[t], &next);
            if (!isfinite(low) || !isfinite(high)) continue;
            float middle = (float)(((double)low + (double)high) / 2);
            const float around[] = {low, middle, nextafterf(middle, -INFINITY),
                                    nextafterf(middle, INFINITY)};
            for (int i = 0; i < 4; i++) {
                out[n++] = around[i];
                out[n++] = -around[i];
            }
        }
    }
    return n;
}

static void check_decode(const ck_kernels *k, ck_dtype d, const unsigned char *src, size_t n) {
    float *out = malloc((n + 1) * sizeof *out);
    memset(out, 0x99, (n + 1) * sizeof *out);
    k->decode[d](out, src, n);
    for (size_t i = 0; i < n; i++) {
        float want = (float)ref_decode(d, src + i * bytes(d));
        if (!same_float(out[i], want))
            fail_msg("%s: decode %s of element %zu: %a, want %a", k->isa, ck_dtype_name(d), i,
                     (double)out[i], (double)want);
    }
    uint32_t poison;
    memcpy(&poison, &out[n], sizeof poison);
    assert_int_equal(poison, 0x99999999u);
    free(out);
}

static void test_decode_all_codes(void **state) {
    (void)state;
    size_t tables;
    const ck_kernels *const *all = ck_kernels_all(&tables);
    for (size_t t = 0; t < tables; t++)
        for (int i = 0; i < 4; i++) {
            ck_dtype d = dtypes[i];
            unsigned codes = 1u << ck_dtype_bits(d);
            unsigned char *src = malloc(codes * bytes(d));
            for (unsigned c = 0; c < codes; c++) memcpy(src + c * bytes(d), &c, bytes(d));
            check_decode(all[t], d, src, codes);
            free(src);
        }
}

static void test_decode_random_wide(void **state) {
    (void)state;
    size_t tables;
    const ck_kernels *const *all = ck_kernels_all(&tables);
    uint64_t seed = 11;
    uint64_t src[1001];
    for (size_t i = 0; i < 1001; i++) src[i] = fixture_random(&seed);
    for (size_t t = 0; t < tables; t++) {
        check_decode(all[t], CK_F32, (unsigned char *)src, 2002);
        check_decode(all[t], CK_F64, (unsigned char *)src, 1001);
    }
}

static void check_encode(const ck_kernels *k, ck_dtype d, const float *src, size_t n) {
    unsigned char *out = malloc((n + 1) * bytes(d)), want[8];
    memset(out, 0x99, (n + 1) * bytes(d));
    size_t lost = 0, counted = k->encode[d](out, src, n);
    for (size_t i = 0; i < n; i++) {
        lost += (size_t)ref_encode(d, src[i], want);
        if (memcmp(out + i * bytes(d), want, bytes(d)) != 0)
            fail_msg("%s: encode %s of %a (element %zu of %zu): first byte %02x, want %02x", k->isa,
                     ck_dtype_name(d), (double)src[i], i, n, out[i * bytes(d)], want[0]);
    }
    if (counted != lost)
        fail_msg("%s: encode %s of %zu: counted %zu, want %zu", k->isa, ck_dtype_name(d), n,
                 counted, lost);
    assert_int_equal(out[n * bytes(d)], 0x99);
    free(out);
}

static void test_encode(void **state) {
    (void)state;
    enum { CAPACITY = 400000, RANDOM = 20000 };
    float *src = malloc((CAPACITY + RANDOM) * sizeof *src);
    size_t n = interesting(src, CAPACITY);
    assert_true(n > 1000);
    uint64_t seed = 22;
    for (size_t i = 0; i < RANDOM; i++) src[n++] = from_bits((uint32_t)fixture_random(&seed));
    size_t tables;
    const ck_kernels *const *all = ck_kernels_all(&tables);
    for (size_t t = 0; t < tables; t++)
        for (int d = 0; d < DTYPES; d++) check_encode(all[t], dtypes[d], src, n);
    free(src);
}

/* Sizes 0..67, source and destination each ending at a guard page or shifted before it. */
static void test_sizes_and_guards(void **state) {
    (void)state;
    size_t tables;
    const ck_kernels *const *all = ck_kernels_all(&tables);
    unsigned char *raw_page = guarded(), *float_page = guarded();
    uint64_t seed = 33;
    for (size_t t = 0; t < tables; t++)
        for (int i = 0; i < DTYPES; i++)
            for (size_t n = 0; n <= 67; n++)
                for (size_t shift = 0; shift < 3; shift++) {
                    ck_dtype d = dtypes[i];
                    unsigned char *raw = raw_page + GUARDED - n * bytes(d) - shift;
                    float *values = (void *)(float_page + GUARDED - n * sizeof(float));
                    for (size_t b = 0; b < n * bytes(d); b++)
                        raw[b] = (unsigned char)fixture_random(&seed);
                    all[t]->decode[d](values, raw, n);
                    for (size_t e = 0; e < n; e++)
                        assert_true(
                            same_float(values[e], (float)ref_decode(d, raw + e * bytes(d))));
                    for (size_t e = 0; e < n; e++) values[e] = fixture_random_float(&seed) * 500;
                    all[t]->encode[d](raw, values, n);
                    for (size_t e = 0; e < n; e++) {
                        unsigned char want[8];
                        ref_encode(d, values[e], want);
                        assert_memory_equal(raw + e * bytes(d), want, bytes(d));
                    }
                }
    unguard(raw_page);
    unguard(float_page);
}

typedef struct arithmetic {
    float *a, *b, *c, *out;
} arithmetic;

static void check_arithmetic(const ck_kernels *k, arithmetic m, size_t n, float w) {
    k->lerp(m.out, m.a, m.b, w, n);
    for (size_t i = 0; i < n; i++)
        assert_true(same_float(m.out[i], ref_weighted_sum(m.a[i], m.b[i], w)));
    k->add_difference(m.out, m.a, m.b, m.c, w, n);
    for (size_t i = 0; i < n; i++)
        assert_true(same_float(m.out[i], ref_add_difference(m.a[i], m.b[i], m.c[i], w)));
    k->scale(m.out, m.a, w, n);
    for (size_t i = 0; i < n; i++) assert_true(same_float(m.out[i], w * m.a[i]));
    /* In place, as the engine accumulates. */
    k->accumulate(m.out, m.b, w, n);
    for (size_t i = 0; i < n; i++) assert_true(same_float(m.out[i], fmaf(w, m.b[i], w * m.a[i])));
}

static void test_arithmetic(void **state) {
    (void)state;
    size_t tables;
    const ck_kernels *const *all = ck_kernels_all(&tables);
    unsigned char *pages[4] = {guarded(), guarded(), guarded(), guarded()};
    const float weights[] = {0, 1, 0.3f, 0.5f, -0.5f, 0.49999997f, 2.5f, -1, 1e-30f};
    uint64_t seed = 44;
    for (size_t t = 0; t < tables; t++)
        for (size_t n = 0; n <= 300; n = n < 70 ? n + 1 : n + 115)
            for (size_t w = 0; w < sizeof weights / sizeof *weights; w++) {
                float *end[4];
                for (int p = 0; p < 4; p++) {
                    end[p] = (void *)(pages[p] + GUARDED - n * sizeof(float));
                    for (size_t i = 0; i < n; i++)
                        end[p][i] = w % 2 ? from_bits((uint32_t)fixture_random(&seed))
                                          : fixture_random_float(&seed);
                }
                check_arithmetic(all[t], (arithmetic){end[0], end[1], end[2], end[3]}, n,
                                 weights[w]);
            }
    for (int p = 0; p < 4; p++) unguard(pages[p]);
}

/* Where the models agree, the result is exactly what both say, for any alpha. */
static void test_lerp_is_exact_where_equal(void **state) {
    (void)state;
    float a[100], out[100];
    uint64_t seed = 55;
    for (int i = 0; i < 100; i++) a[i] = fixture_random_float(&seed);
    for (float w = -1; w < 2; w += 0.0625f) {
        ck_kernels_best()->lerp(out, a, a, w, 100);
        assert_memory_equal(a, out, sizeof a);
    }
}

static void test_forced_isa(void **state) {
    (void)state;
    size_t tables;
    const ck_kernels *const *all = ck_kernels_all(&tables);
    const char *old = getenv("CK_ISA");
    char *saved = old ? strdup(old) : NULL;
    for (size_t t = 0; t < tables; t++) {
        setenv("CK_ISA", all[t]->isa, 1);
        assert_ptr_equal(ck_kernels_best(), all[t]);
    }
    setenv("CK_ISA", "pentium", 1);
    assert_null(ck_kernels_best());
    unsetenv("CK_ISA");
    assert_ptr_equal(ck_kernels_best(), all[tables - 1]);
    if (saved) setenv("CK_ISA", saved, 1);
    free(saved);
}

/* ---- --bench ---- */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

enum { REPEATS = 2000, TRIES = 7 };

/* Elements a nanosecond, the best of a few tries, of what `call` does to a strip. */
#define RATE(call)                                                                                 \
    ({                                                                                             \
        double best = 0;                                                                           \
        for (int try_ = 0; try_ < TRIES; try_++) {                                                 \
            double start = now();                                                                  \
            for (int r_ = 0; r_ < REPEATS; r_++) call;                                             \
            double rate = (double)CK_STRIP * REPEATS / (now() - start) * 1e-9;                     \
            if (rate > best) best = rate;                                                          \
        }                                                                                          \
        best;                                                                                      \
    })

static int bench(void) {
    static float a[CK_STRIP], b[CK_STRIP], c[CK_STRIP], out[CK_STRIP];
    static unsigned char raw[CK_STRIP * 8];
    uint64_t seed = 66;
    for (int i = 0; i < CK_STRIP; i++) {
        a[i] = fixture_random_float(&seed);
        b[i] = fixture_random_float(&seed);
        c[i] = fixture_random_float(&seed);
    }
    size_t tables;
    const ck_kernels *const *all = ck_kernels_all(&tables);
    printf("elements per ns on one core, strips of %d in the L1 cache\n%-10s", CK_STRIP, "");
    for (int d = 0; d < DTYPES; d++) printf("%11s", ck_dtype_name(dtypes[d]));
    printf("%10s%10s%10s%10s\n", "lerp", "adddiff", "scale", "accum");
    for (size_t t = 0; t < tables; t++) {
        const ck_kernels *k = all[t];
        printf("%-10s", k->isa);
        for (int d = 0; d < DTYPES; d++) {
            double out_rate = RATE(k->encode[dtypes[d]](raw, a, CK_STRIP));
            printf("  %4.1f/%4.1f", RATE(k->decode[dtypes[d]](out, raw, CK_STRIP)), out_rate);
        }
        printf("%10.1f", RATE(k->lerp(out, a, b, 0.3f, CK_STRIP)));
        printf("%10.1f", RATE(k->add_difference(out, a, b, c, 0.3f, CK_STRIP)));
        printf("%10.1f", RATE(k->scale(out, a, 0.3f, CK_STRIP)));
        printf("%10.1f\n", RATE(k->accumulate(out, a, 0.3f, CK_STRIP)));
    }
    puts("(types: decode/encode)");
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return bench();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_all_codes), cmocka_unit_test(test_decode_random_wide),
        cmocka_unit_test(test_encode),           cmocka_unit_test(test_sizes_and_guards),
        cmocka_unit_test(test_arithmetic),       cmocka_unit_test(test_lerp_is_exact_where_equal),
        cmocka_unit_test(test_forced_isa),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
