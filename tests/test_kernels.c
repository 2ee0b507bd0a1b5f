/* Every kernel of every instruction set against the reference: all codes of the small types,
 * special values, random bits, all small sizes, any alignment, and buffers that end at a guard
 * page.
 *
 *   build/tests/test_kernels --bench      measures them instead
 */
#include "kernels/kernels.h"
#include "kernels/philox.h"
#include "tests/check.h"
#include "tests/fixture.h"
#include "tests/reference.h"
#include "io/os.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

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

/* Floats that matter to every type: zeros, subnormals, NaNs, and the largest values of the small
 * types with what is exactly at, below and above the point where they overflow. */
static const uint32_t special[] = {
    0,          0x80000000, 1,          0x80000001, 0x007FFFFF, 0x00800000, 0x3F800000, 0x7F7FFFFF,
    0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0xFFC00000, 0x7FC00001, 0x7FFFFFFF, 0x477FE000,
    0x477FEFFF, 0x477FF000, 0x477FF001, 0xC77FF000, 0x43E00000, 0x43E7FFFF, 0x43E80000, 0x43E80001,
    0xC3E80001, 0x47600000, 0x476FFFFF, 0x47700000, 0xC7700000, 0x7F7F7FFF, 0x7F7F8000, 0xFF7F8000,
};
enum { SPECIAL = sizeof special / sizeof *special };

/* The positive codes of a small type. */
static unsigned half_the_codes(ck_dtype d) {
    return 1u << (ck_dtype_bits(d) - 1);
}

enum { BOUNDARIES = 8 * 32768 };

/* Each finite value of a small type, the midpoint to its successor, and the floats beside that. */
static size_t boundaries(ck_dtype d, float *out) {
    size_t n = 0;
    for (unsigned code = 0; code + 1 < half_the_codes(d); code++) {
        unsigned next = code + 1;
        float low = (float)ref_decode(d, &code), high = (float)ref_decode(d, &next);
        if (!isfinite(low) || !isfinite(high)) continue;
        float middle = (float)(((double)low + (double)high) / 2);
        const float around[] = {low, middle, nextafterf(middle, -INFINITY),
                                nextafterf(middle, INFINITY)};
        for (int i = 0; i < 4; i++) {
            out[n++] = around[i];
            out[n++] = -around[i];
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

/* Ties, overflow, subnormal results, and a NaN whose payload does not fit. */
static void test_decode_f64_special(void **state) {
    (void)state;
    double src[] = {0.0,
                    -0.0,
                    0x1p-150,
                    0x1.8p-149,
                    0x1.000002p-150,
                    0x1p-127,
                    -0x1.555558p-130,
                    0x1.000001p0,
                    0x1.000003p0,
                    0x1.0000011p0,
                    0x1.fffffep127,
                    0x1.ffffffp127,
                    0x1.fffffefp127,
                    -0x1p128,
                    0x1p-1074,
                    INFINITY,
                    -INFINITY,
                    0,
                    0x1p1023};
    enum { COUNT = sizeof src / sizeof *src };
    const uint64_t nan = 0x7FF0000000000001u;
    memcpy(&src[COUNT - 2], &nan, sizeof nan);
    size_t tables;
    const ck_kernels *const *all = ck_kernels_all(&tables);
    for (size_t t = 0; t < tables; t++) check_decode(all[t], CK_F64, (void *)src, COUNT);
}

/* Raw elements as the reference encodes them, and how many values did not fit. The caller frees. */
static unsigned char *reference_encode(ck_dtype d, const float *src, size_t n, size_t *lost) {
    unsigned char *want = malloc(n * bytes(d));
    *lost = 0;
    for (size_t i = 0; i < n; i++) *lost += (size_t)ref_encode(d, src[i], want + i * bytes(d));
    return want;
}

static void check_encode(const ck_kernels *k, ck_dtype d, const float *src, size_t n,
                         const unsigned char *want, size_t lost) {
    unsigned char *out = malloc((n + 1) * bytes(d));
    memset(out, 0x99, (n + 1) * bytes(d));
    size_t counted = k->encode[d](out, src, n);
    for (size_t i = 0; i < n; i++)
        if (memcmp(out + i * bytes(d), want + i * bytes(d), bytes(d)) != 0)
            fail_msg("%s: encode %s of %a (element %zu of %zu): first byte %02x, want %02x", k->isa,
                     ck_dtype_name(d), (double)src[i], i, n, out[i * bytes(d)], want[i * bytes(d)]);
    if (counted != lost)
        fail_msg("%s: encode %s of %zu: counted %zu, want %zu", k->isa, ck_dtype_name(d), n,
                 counted, lost);
    assert_int_equal(out[n * bytes(d)], 0x99);
    free(out);
}

static void test_encode(void **state) {
    (void)state;
    enum { RANDOM = 20000 };
    float *src = malloc((SPECIAL + RANDOM + BOUNDARIES) * sizeof *src);
    memcpy(src, special, sizeof special);
    uint64_t seed = 22;
    for (size_t i = 0; i < RANDOM; i++)
        src[SPECIAL + i] = from_bits((uint32_t)fixture_random(&seed));
    size_t tables;
    const ck_kernels *const *all = ck_kernels_all(&tables);
    for (int i = 0; i < DTYPES; i++) {
        ck_dtype d = dtypes[i];
        size_t n = SPECIAL + RANDOM, lost;
        if (bytes(d) <= 2) n += boundaries(d, src + n);
        unsigned char *want = reference_encode(d, src, n, &lost);
        for (size_t t = 0; t < tables; t++) check_encode(all[t], d, src, n, want, lost);
        free(want);
    }
    free(src);
}

enum { BEFORE = 16 };

static void poison_before(unsigned char *p) {
    memset(p - BEFORE, 0x99, BEFORE);
}

static void check_poison_before(const unsigned char *p) {
    for (int i = 1; i <= BEFORE; i++) assert_int_equal(p[-i], 0x99);
}

/* Sizes 0..67; floats end at a guard page, raw elements there or up to two bytes before it. Nothing
 * may be touched in front of them either. */
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
                    unsigned char *float_bytes = float_page + GUARDED - n * sizeof(float);
                    float *values = (void *)float_bytes;
                    for (size_t b = 0; b < n * bytes(d); b++)
                        raw[b] = (unsigned char)fixture_random(&seed);
                    poison_before(float_bytes);
                    all[t]->decode[d](values, raw, n);
                    check_poison_before(float_bytes);
                    for (size_t e = 0; e < n; e++)
                        assert_true(
                            same_float(values[e], (float)ref_decode(d, raw + e * bytes(d))));
                    for (size_t e = 0; e < n; e++) values[e] = fixture_random_float(&seed) * 1e5f;
                    size_t lost, counted;
                    unsigned char *want = reference_encode(d, values, n, &lost);
                    poison_before(raw);
                    counted = all[t]->encode[d](raw, values, n);
                    check_poison_before(raw);
                    assert_memory_equal(raw, want, n * bytes(d));
                    assert_int_equal(counted, lost);
                    free(want);
                }
    unguard(raw_page);
    unguard(float_page);
}

/* Out is an input: the same bits as when it is not. */
static void test_conversion_in_place(void **state) {
    (void)state;
    enum { N = 77 };
    size_t tables;
    const ck_kernels *const *all = ck_kernels_all(&tables);
    uint64_t seed = 77, random[N];
    for (int i = 0; i < N; i++) random[i] = fixture_random(&seed);
    for (size_t t = 0; t < tables; t++)
        for (int i = 0; i < DTYPES; i++) {
            ck_dtype d = dtypes[i];
            uint64_t apart[N], in_place[N];
            memcpy(in_place, random, sizeof random);
            if (bytes(d) >= sizeof(float)) {
                all[t]->decode[d]((float *)(void *)apart, random, N);
                all[t]->decode[d]((float *)(void *)in_place, in_place, N);
                assert_memory_equal(apart, in_place, N * sizeof(float));
            }
            memcpy(in_place, random, sizeof random);
            if (bytes(d) <= sizeof(float)) {
                size_t lost = all[t]->encode[d](apart, (float *)(void *)random, N);
                assert_int_equal(all[t]->encode[d](in_place, (float *)(void *)in_place, N), lost);
                assert_memory_equal(apart, in_place, N * bytes(d));
            }
        }
}

#if defined(__x86_64__)
/* Libraries compiled for speed switch a mode on in which subnormals become zero. Checkpoints are
 * full of them in f16: no code may be lost on the way to f32 and back. (f64 is left out: its
 * conversion is the processor's.) */
static void test_subnormals_are_never_flushed(void **state) {
    (void)state;
    enum { FLUSH_TO_ZERO = 0x8000, DENORMALS_ARE_ZERO = 0x0040, CODES = 65536 };
    size_t tables;
    const ck_kernels *const *all = ck_kernels_all(&tables);
    uint32_t *codes = calloc(CODES, sizeof *codes), *back = calloc(CODES, sizeof *back);
    float *values = malloc(CODES * sizeof *values);
    for (size_t t = 0; t < tables; t++)
        for (int i = 0; i < DTYPES; i++) {
            ck_dtype d = dtypes[i];
            if (d == CK_F64) continue;
            /* All codes; for f32 as many subnormals. */
            size_t n = bytes(d) == 1 ? 256 : CODES;
            for (unsigned c = 0; c < n; c++) memcpy((char *)codes + c * bytes(d), &c, bytes(d));
            unsigned mode = _mm_getcsr();
            _mm_setcsr(mode | FLUSH_TO_ZERO | DENORMALS_ARE_ZERO);
            all[t]->decode[d](values, codes, n);
            all[t]->encode[d](back, values, n);
            _mm_setcsr(mode);
            for (size_t c = 0; c < n; c++) {
                const char *code = (char *)codes + c * bytes(d);
                assert_true(same_float(values[c], (float)ref_decode(d, code)));
                if (!isnan(values[c]))
                    assert_memory_equal((char *)back + c * bytes(d), code, bytes(d));
            }
        }
    free(codes);
    free(back);
    free(values);
}
#endif

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
    k->multiply_difference(m.out, m.a, m.b, m.c, w, n);
    for (size_t i = 0; i < n; i++)
        assert_true(same_float(m.out[i], ref_multiply_difference(m.a[i], m.b[i], m.c[i], w)));
    k->scale(m.out, m.a, w, n);
    for (size_t i = 0; i < n; i++) assert_true(same_float(m.out[i], w * m.a[i]));
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

static void test_arithmetic_in_place(void **state) {
    (void)state;
    enum { N = 77, SIZE = N * sizeof(float) };
    size_t tables;
    const ck_kernels *const *all = ck_kernels_all(&tables);
    float in[3][N], want[N], out[N];
    uint64_t seed = 88;
    for (int p = 0; p < 3; p++)
        for (int i = 0; i < N; i++) in[p][i] = fixture_random_float(&seed);
    for (size_t t = 0; t < tables; t++) {
        const ck_kernels *k = all[t];
        for (int p = 0; p < 3; p++) {
            const float *x[3] = {in[0], in[1], in[2]};
            x[p] = out;
            memcpy(out, in[p], SIZE);
            k->add_difference(want, in[0], in[1], in[2], 0.7f, N);
            k->add_difference(out, x[0], x[1], x[2], 0.7f, N);
            assert_memory_equal(out, want, SIZE);
            for (float w = 0.3f; p < 2 && w < 1; w += 0.4f) {
                memcpy(out, in[p], SIZE);
                k->lerp(want, in[0], in[1], w, N);
                k->lerp(out, x[0], x[1], w, N);
                assert_memory_equal(out, want, SIZE);
            }
        }
        memcpy(out, in[0], SIZE);
        k->scale(want, in[0], 0.7f, N);
        k->scale(out, out, 0.7f, N);
        assert_memory_equal(out, want, SIZE);
    }
}

/* Roots as near to the middle between two f32 as there are: m (m + 1) is (m + 1/2)^2 - 1/4. And
 * what is special stays what it is. */
static void test_roots(void **state) {
    (void)state;
    enum { N = 1 << 12 };
    static float a[N], b[N], out[N];
    const float zero[3] = {0}, end[3] = {0, INFINITY, 1e-45f};
    size_t tables;
    const ck_kernels *const *all = ck_kernels_all(&tables);
    for (size_t t = 0; t < tables; t++) {
        for (uint32_t i = 0; i < N; i++) {
            a[i] = (float)((1 << 23) + i * 2047);
            b[i] = a[i] + 1;
        }
        float none[N] = {0};
        all[t]->multiply_difference(out, a, b, none, 0.5f, N);
        assert_memory_equal(out, a, sizeof out);
        all[t]->multiply_difference(out, end, end, zero, 0.5f, 3);
        assert_memory_equal(out, end, sizeof end);
    }
}

/* |x|^(1-w) |y|^w, in units of the last place of f32. */
static double off_by(float got, long double want) {
    if (!isfinite(want)) return isnan(want) ? !isnan(got) : !isinf(got);
    if (want == 0) return got != 0;
    int exponent = ilogbl(want);
    return (double)fabsl(
        ldexpl(fabsl((long double)got) - want, 23 - (exponent > -126 ? exponent : -126)));
}

/* Random bits, where subnormals, infinities and NaN come up by themselves, and numbers near each
 * other; every instruction set gives the same bits. */
static void test_geometric_means(void **state) {
    (void)state;
    enum { N = 3001 };
    static float x[N], y[N], out[N], first[N];
    static const float zero[N];
    const double shares[] = {0.3, 0.75, 1e-9, 0.999, 0.1};
    uint64_t seed = 99;
    size_t tables;
    const ck_kernels *const *all = ck_kernels_all(&tables);
    for (int round = 0; round < 10; round++) {
        double w = shares[round % 5];
        for (int i = 0; i < N; i++) {
            x[i] = from_bits((uint32_t)fixture_random(&seed));
            y[i] = from_bits((uint32_t)fixture_random(&seed));
            if (round < 5) { /* (in whole vectors of normal numbers; some of them equal) */
                x[i] = fixture_random_float(&seed);
                y[i] = i % 7 ? fixture_random_float(&seed) : x[i];
            } else if (i % 3 == 0) {
                x[i] = from_bits(special[i / 3 % SPECIAL]);
                y[i] = from_bits(special[i / 3 / SPECIAL % SPECIAL]);
            }
        }
        for (size_t t = 0; t < tables; t++) {
            all[t]->geometric_difference(out, x, y, zero, w, 0.5f, N);
            if (t == 0) memcpy(first, out, sizeof first);
            for (int i = 0; i < N; i++) {
                assert_true(same_float(out[i], first[i]));
                long double want = ref_geometric_mean(x[i], y[i], w);
                assert_true(off_by(out[i], want) < (want < 0x1p-126L ? 1.2 : 0.7));
                if (x[i] == y[i]) assert_true(out[i] == x[i]);
            }
        }
    }
}

/* The smaller of what two models changed, nearly, and its sign. */
static void test_geometric_differences(void **state) {
    (void)state;
    enum { N = 77 };
    float in[3][N], out[N];
    uint64_t seed = 77;
    for (int p = 0; p < 3; p++)
        for (int i = 0; i < N; i++) in[p][i] = fixture_random_float(&seed);
    size_t tables;
    const ck_kernels *const *all = ck_kernels_all(&tables);
    for (size_t t = 0; t < tables; t++)
        for (size_t n = 0; n <= N; n++) {
            memcpy(out, in[2], sizeof out);
            all[t]->geometric_difference(out, in[0], in[1], out, 0.3, 0.6f, n);
            for (size_t i = 0; i < N; i++) {
                float a = in[0][i], b = in[1][i], c = in[2][i];
                double size = (double)ref_geometric_mean(a - c, b - c, 0.3);
                double want = (double)c + copysign(size, (double)((1 - 0.6f) * a + 0.6f * b - c));
                if (i >= n) want = (double)c;
                assert_true(fabs((double)out[i] - want) <= 0x1p-23 * (fabs((double)c) + size));
            }
        }
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

/* Every sum in order, with as many rows, terms and panels as there are kinds of remainders. */
static void test_panels(void **state) {
    (void)state;
    enum { ROWS = 14, TERMS = 35, PANELS = 6, STRIDE = PANELS * CK_PANEL + 5 };
    static float a[ROWS * TERMS], b[PANELS * TERMS * CK_PANEL], out[ROWS * STRIDE];
    uint64_t seed = 77;
    for (size_t i = 0; i < sizeof a / sizeof *a; i++) a[i] = fixture_random_float(&seed);
    for (size_t i = 0; i < sizeof b / sizeof *b; i++) b[i] = fixture_random_float(&seed);
    size_t tables;
    const ck_kernels *const *all = ck_kernels_all(&tables);
    for (size_t n = 0; n < tables * (ROWS + 1) * (PANELS + 1); n++) {
        const ck_kernels *k = all[n / (ROWS + 1) / (PANELS + 1)];
        size_t m = n % (ROWS + 1), count = n / (ROWS + 1) % (PANELS + 1), r = TERMS - n % 8;
        memset(out, 0x99, sizeof out);
        k->panels(out, STRIDE, a, b, m, r, count);
        for (size_t i = 0; i < ROWS; i++)
            for (size_t j = 0; j < STRIDE; j++) {
                float want = 0;
                size_t p = j / CK_PANEL;
                for (size_t t = 0; t < r && p < count; t++)
                    want = fmaf(a[i * r + t], b[(p * r + t) * CK_PANEL + j % CK_PANEL], want);
                if (i >= m || p >= count) memset(&want, 0x99, sizeof want);
                assert_memory_equal(&out[i * STRIDE + j], &want, sizeof want);
            }
    }
}

/* Counters on both sides of 2^32, as the definition has them. */
static void test_philox(void **state) {
    (void)state;
    enum { BLOCKS = 3 * CK_PHILOX_BLOCKS };
    const uint64_t key = 0x123456789abcdef0u, first = ((uint64_t)1 << 32) - 20;
    size_t tables;
    const ck_kernels *const *all = ck_kernels_all(&tables);
    for (size_t t = 0; t < tables; t++) {
        uint32_t words[4 * BLOCKS], want[4];
        all[t]->philox(words, key, 7, first, BLOCKS);
        for (size_t i = 0; i < BLOCKS; i++) {
            ck_philox(key, 0, 7, first + i, want);
            assert_memory_equal(words + 4 * i, want, sizeof want);
        }
    }
}

/* Bytes decide about all elements, also of a tail, and what is infinite or no number is not kept
 * out by a factor of 0. */
static void test_thin(void **state) {
    (void)state;
    enum { N = 100 };
    float x[N], base[N], out[N + 1];
    uint8_t drawn[N];
    uint64_t seed = 5;
    for (size_t i = 0; i < N; i++) {
        x[i] = i < 32 ? from_bits(special[i]) : fixture_random_float(&seed);
        base[i] = fixture_random_float(&seed);
        drawn[i] = i % 3 ? (uint8_t)fixture_random(&seed) : (uint8_t)(99 + i % 2);
    }
    size_t tables;
    const ck_kernels *const *all = ck_kernels_all(&tables);
    for (size_t t = 0; t < tables; t++)
        for (uint32_t sure = 0; sure <= 256; sure += sure == 100 ? 156 : 100)
            for (size_t n = 0; n <= N; n++) {
                out[n] = 7;
                all[t]->thin(out, x, base, drawn, sure, 2.5f, n);
                for (size_t i = 0; i < n; i++) {
                    float want = (x[i] - base[i]) * (drawn[i] < sure ? 2.5f : 0);
                    assert_true(same_float(out[i], want));
                }
                assert_true(out[n] == 7);
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

enum { REPEATS = 2000, TRIES = 7, BENCH_RANK = 32 };

/* Elements a nanosecond, the best of a few tries, of what `call` does to a strip. */
#define RATE(call)                                                                                 \
    ({                                                                                             \
        double best = 0;                                                                           \
        for (int try_ = 0; try_ < TRIES; try_++) {                                                 \
            double start = ck_seconds();                                                           \
            for (int r_ = 0; r_ < REPEATS; r_++) call;                                             \
            double rate = (double)CK_STRIP * REPEATS / (ck_seconds() - start) * 1e-9;              \
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
    printf("%10s%10s%10s%10s%10s\n", "lerp", "adddiff", "scale", "accum", "panels");
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
        printf("%10.1f", RATE(k->accumulate(out, a, 0.3f, CK_STRIP)));
        size_t rows = CK_STRIP / CK_PANEL;
        printf("%10.1f\n", RATE(k->panels(out, CK_PANEL, a, b, rows, BENCH_RANK, 1)) * BENCH_RANK);
    }
    puts("(types: decode/encode; panels: terms of sums)");
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) return bench();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_all_codes),
        cmocka_unit_test(test_decode_random_wide),
        cmocka_unit_test(test_decode_f64_special),
        cmocka_unit_test(test_encode),
        cmocka_unit_test(test_sizes_and_guards),
        cmocka_unit_test(test_conversion_in_place),
#if defined(__x86_64__)
        cmocka_unit_test(test_subnormals_are_never_flushed),
#endif
        cmocka_unit_test(test_arithmetic),
        cmocka_unit_test(test_arithmetic_in_place),
        cmocka_unit_test(test_lerp_is_exact_where_equal),
        cmocka_unit_test(test_panels),
        cmocka_unit_test(test_philox),
        cmocka_unit_test(test_thin),
        cmocka_unit_test(test_roots),
        cmocka_unit_test(test_geometric_means),
        cmocka_unit_test(test_geometric_differences),
        cmocka_unit_test(test_forced_isa),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
