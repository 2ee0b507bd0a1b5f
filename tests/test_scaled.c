/* Scaled f8 weights: both conventions, values against the reference, and everything else refused.
 */
#include "io/scaled.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"
#include "tests/program.h"
#include "tests/reference.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static fixture f;
enum { ROWS = 3, COLUMNS = 1000, N = ROWS * COLUMNS };
static unsigned char codes[N];
static const float scales[ROWS] = {0.5f, -3, 1e-4f}, bias[ROWS] = {1, 2, 3};

static int setup(void **state) {
    (void)state;
    fixture_make(&f);
    uint64_t seed = 3;
    for (int i = 0; i < N; i++)
        codes[i] = (unsigned char)(fixture_random(&seed) % 0x7C); /* finite in both types */
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_remove(&f);
    return 0;
}

/* A layer with a weight of this type, a scale of this name and shape, and whatever else is given.
 */
static const char *write_layer(ck_dtype dtype, const char *scale_name, size_t scale_rank,
                               uint64_t scale_n, const fixture_tensor *more, const char *metadata) {
    fixture_tensor t[5] = {
        {.name = "l.weight", .dtype = dtype, .shape = {ROWS, COLUMNS}, .rank = 2, .data = codes},
        {.name = "l.bias", .dtype = CK_F32, .shape = {ROWS}, .rank = 1, .data = bias},
        {.name = scale_name,
         .dtype = CK_F32,
         .shape = {scale_n, 1},
         .rank = scale_rank,
         .data = scales},
    };
    size_t n = 3;
    if (more) t[n++] = *more;
    return fixture_safetensors(&f, "m", t, n, metadata);
}

static ck_status open_scaled(const char *path, ck_reader **file, ck_reader **plain, ck_error *err) {
    size_t count;
    *file = *plain = NULL;
    CK_TRY(ck_reader_open(path, file, err));
    return ck_scaled_open(*file, plain, &count, err);
}

static void check_values(const char *path, ck_dtype dtype, bool per_row) {
    ck_reader *file, *plain;
    ck_error err;
    if (open_scaled(path, &file, &plain, &err) != CK_OK) fail_msg("%s", err.message);
    assert_non_null(plain);
    assert_int_equal(ck_reader_count(plain), 2);
    const ck_tensor *t = ck_reader_find(plain, "l.weight");
    assert_int_equal(t->dtype, CK_F32);
    float *values = malloc(t->nbytes), part[2500];
    assert_int_equal(ck_reader_read(plain, t, 0, values, t->nbytes, &err), CK_OK);
    for (int i = 0; i < N; i++) {
        float want = (float)ref_decode(dtype, &codes[i]) * scales[per_row ? i / COLUMNS : 0];
        assert_memory_equal(&values[i], &want, sizeof want);
    }
    /* From the middle of a row, over more than a strip. */
    assert_int_equal(ck_reader_read(plain, t, 4 * 321, part, sizeof part, &err), CK_OK);
    assert_memory_equal(part, values + 321, sizeof part);
    free(values);
    ck_reader_close(plain);
    ck_reader_close(file);
}

static void test_values(void **state) {
    (void)state;
    const fixture_tensor old = {
        .name = "scaled_fp8", .dtype = CK_F8_E4M3, .shape = {0}, .rank = 1, .data = codes};
    const char *json = "{\"format\":\"float8_e5m2\"}";
    const fixture_tensor mark = {
        .name = "l.comfy_quant", .dtype = CK_U8, .shape = {strlen(json)}, .rank = 1, .data = json};
    check_values(write_layer(CK_F8_E4M3, "l.scale_weight", 0, 1, &old, NULL), CK_F8_E4M3, false);
    check_values(write_layer(CK_F8_E4M3, "l.scale_weight", 1, 1, NULL, NULL), CK_F8_E4M3, false);
    check_values(write_layer(CK_F8_E5M2, "l.weight_scale", 1, ROWS, &mark, NULL), CK_F8_E5M2, true);
    check_values(write_layer(CK_F8_E5M2, "l.weight_scale", 2, ROWS, NULL,
                             "{\"_quantization_metadata\":\"{\\\"layers\\\":{\\\"l\\\":{"
                             "\\\"format\\\":\\\"float8_e5m2\\\"}}}\"}"),
                 CK_F8_E5M2, true);
}

static void refused(const char *path, const char *text) {
    ck_reader *file, *plain;
    ck_error err = {0};
    if (open_scaled(path, &file, &plain, &err) == CK_OK) fail_msg("accepted, want '%s'", text);
    if (!strstr(err.message, text) || !strstr(err.message, path))
        fail_msg("'%s' lacks '%s' or the path", err.message, text);
    ck_reader_close(file);
}

static void test_refusals(void **state) {
    (void)state;
    static const char *const foreign[] = {"l.weight.absmax",
                                          "l.weight.quant_map",
                                          "l.SCB",
                                          "l.weight_scale_2",
                                          "l.weight_scale_inv",
                                          "l.pre_quant_scale",
                                          "l.weight.quant_state.bitsandbytes__nf4"};
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        refused(write_layer(CK_F8_E4M3, foreign[i], 1, 1, NULL, NULL), foreign[i]);
    /* By name, also where another sign of it comes first in the file. */
    const fixture_tensor named = {.name = "l.weight.quant_state.bitsandbytes__nf4",
                                  .dtype = CK_U8,
                                  .shape = {2},
                                  .rank = 1,
                                  .data = "{}"};
    refused(write_layer(CK_F8_E4M3, "l.weight.absmax", 1, 1, &named, NULL), "quantised as nf4");
    refused(write_layer(CK_U8, "l.weight_scale", 1, 1, NULL, NULL), "U8 with a scale");
    refused(write_layer(CK_F8_E4M3FNUZ, "l.weight_scale", 1, 1, NULL, NULL),
            "F8_E4M3FNUZ with a scale");
    refused(write_layer(CK_F8_E4M3, "l.weight_scale", 1, 2, NULL, NULL),
            "of shape [2]: neither one scale");
    refused(write_layer(CK_F8_E4M3, "l.weight_scale", 1, 0, NULL, NULL), "neither one scale");
    const char *json = "{\"format\":\"nvfp4\"}";
    const fixture_tensor mark = {
        .name = "l.comfy_quant", .dtype = CK_U8, .shape = {strlen(json)}, .rank = 1, .data = json};
    refused(write_layer(CK_F8_E4M3, "l.weight_scale", 1, 1, &mark, NULL), "quantised as 'nvfp4'");
    refused(write_layer(CK_F8_E4M3, "l.weight_scale", 1, 1, NULL,
                        "{\"_quantization_metadata\":\"{\\\"layers\\\":{\\\"l\\\":{\\\"format\\\":"
                        "\\\"mxfp8\\\"}}}\"}"),
            "quantised as 'mxfp8'");
    const float bad = NAN;
    const fixture_tensor nan = {.name = "k.weight_scale", .dtype = CK_F32, .rank = 0, .data = &bad};
    const fixture_tensor t[] = {
        {.name = "k.weight", .dtype = CK_F8_E4M3, .shape = {4}, .rank = 1, .data = codes}, nan};
    refused(fixture_safetensors(&f, "n", t, 2, NULL), "scale 0 is not a number");
}

static void test_nothing_scaled(void **state) {
    (void)state;
    ck_reader *file, *plain;
    ck_error err;
    assert_int_equal(
        open_scaled(write_layer(CK_F8_E4M3, "l.other", 1, 1, NULL, NULL), &file, &plain, &err),
        CK_OK);
    assert_null(plain);
    ck_reader_close(file);
}

static void test_faults(void **state) {
    (void)state;
    const char *path = write_layer(CK_F8_E4M3, "l.weight_scale", 1, ROWS, NULL, "{\"k\":\"v\"}");
    const fault_kind kinds[] = {FAULT_CALLOC, FAULT_REALLOC, FAULT_PREAD};
    for (int k = 0; k < 3; k++)
        for (fault_first(kinds[k], EIO); fault_more();) {
            ck_reader *file, *plain;
            ck_error err = {0};
            fault_arm();
            ck_status status = open_scaled(path, &file, &plain, &err);
            fault_disarm();
            assert_int_equal(status != CK_OK, fault_hit());
            if (status != CK_OK) assert_non_null(strstr(err.message, path));
            ck_reader_close(plain);
            ck_reader_close(file);
        }
}

/* Mixed with a plain model, and converted to one. */
static void test_programs(void **state) {
    (void)state;
    write_layer(CK_F8_E4M3, "l.weight_scale", 1, ROWS, NULL, NULL);
    program_expect(
        program_run(f.folder, "cktool convert m plain --dtype f32 -q && cktool ls plain"), 0,
        "F32      [3,1000]             l.weight\n", NULL);
    program_expect(program_run(f.folder, "ckmerge plain m -o mixed && cktool diff mixed plain"), 0,
                   "identical", "1 scaled f8 weights are read as their real values");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_values, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_scaled, setup, teardown),
        cmocka_unit_test_setup_teardown(test_faults, setup, teardown),
        cmocka_unit_test_setup_teardown(test_programs, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
