/* Models written as HDF5: what was written is read back, type by type and name by name. */
#include "io/head.h"
#include "io/os.h"
#include "merge/save.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef CK_HAVE_HDF5

static unsigned char bytes[1024];

static ck_reader *opened(const char *path) {
    ck_error err;
    ck_reader *r;
    if (ck_reader_open(path, &r, &err) != CK_OK) fail_msg("%s", err.message);
    return r;
}

static ck_status convert(const char *from, const char *to, ck_error *err) {
    ck_save_options o = {.dtype = CK_DTYPE_COUNT, .replace = true, .quiet = true};
    ck_save_result result;
    ck_reader *r = opened(from);
    ck_status status = ck_save(r, to, &o, &result, err);
    ck_reader_close(r);
    return status;
}

/* Through HDF5 and back, the file must be the same, and HDF5's own bytes must not change from one
 * time to the next. */
static void there_and_back(const fixture *f, const char *in) {
    ck_error err;
    char *first, *second;
    char h5[2][128], back[128];
    snprintf(h5[0], sizeof h5[0], "%s/1.h5", f->folder);
    snprintf(h5[1], sizeof h5[1], "%s/2.hdf5", f->folder);
    snprintf(back, sizeof back, "%s/back.safetensors", f->folder);
    size_t n[2];
    for (int i = 0; i < 2; i++)
        if (convert(in, h5[i], &err) != CK_OK) fail_msg("%s", err.message);
    first = (char *)fixture_read(h5[0], &n[0]);
    second = (char *)fixture_read(h5[1], &n[1]);
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(first, second, n[0]);
    free(first);
    free(second);
    ck_reader *r = opened(h5[0]);
    assert_string_equal(ck_reader_format(r), "HDF5");
    ck_reader_close(r);
    if (convert(h5[0], back, &err) != CK_OK) fail_msg("%s", err.message);
    first = (char *)fixture_read(in, &n[0]);
    second = (char *)fixture_read(back, &n[1]);
    assert_int_equal(n[0], n[1]);
    assert_memory_equal(first, second, n[0]);
    free(first);
    free(second);
}

/* Writes it in the order of the reference, as `back` above will be. */
static const char *in_order(const fixture *f, const fixture_tensor *tensors, size_t n,
                            const char *metadata) {
    static char in[128];
    ck_error err;
    const char *raw = fixture_safetensors(f, "raw.safetensors", tensors, n, metadata);
    snprintf(in, sizeof in, "%s/in.safetensors", f->folder);
    if (convert(raw, in, &err) != CK_OK) fail_msg("%s", err.message);
    return in;
}

static void test_types(void **state) {
    (void)state;
    static const ck_dtype types[] = {
        CK_BOOL,        CK_U8,          CK_I8,  CK_F8_E5M2, CK_F8_E4M3, CK_I16,
        CK_F8_E4M3FNUZ, CK_F8_E5M2FNUZ, CK_U16, CK_F16,     CK_BF16,    CK_F8_E8M0,
        CK_I32,         CK_U32,         CK_F32, CK_F64,     CK_I64,     CK_U64};
    enum { N = sizeof types / sizeof *types };
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)(i * 37 + 11);
    fixture_tensor tensors[N];
    for (size_t i = 0; i < N; i++)
        tensors[i] = (fixture_tensor){ck_dtype_name(types[i]), types[i], {3, 2}, 2, bytes + i};
    fixture f;
    fixture_make(&f);
    there_and_back(&f, in_order(&f, tensors, N, NULL));
    fixture_remove(&f);
}

static void test_names(void **state) {
    (void)state;
    char many[40 * 2 + 2] = "deep";
    for (size_t i = 0; i < 38; i++) strcat(many, ".x");
    const fixture_tensor tensors[] = {
        {"a", CK_F32, {2}, 1, bytes},        {"a.b", CK_F32, {2}, 1, bytes + 1},
        {"a.b.c", CK_F32, {2}, 1, bytes},    {"scalar", CK_F32, {0}, 0, bytes + 2},
        {"empty", CK_F32, {0, 3}, 2, bytes}, {"..", CK_F32, {1}, 1, bytes},
        {".x", CK_F32, {1}, 1, bytes},       {"x.", CK_F32, {1}, 1, bytes},
        {"u..v.w", CK_F32, {1}, 1, bytes},   {"\xc3\xa9.k:0", CK_F32, {1}, 1, bytes},
        {many, CK_F32, {1}, 1, bytes},
    };
    fixture f;
    fixture_make(&f);
    there_and_back(&f, in_order(&f, tensors, sizeof tensors / sizeof *tensors, NULL));
    there_and_back(&f, in_order(&f, tensors, 0, NULL));
    fixture_remove(&f);
}

/* Also text that does not fit into the 64 KiB of an attribute in older files. */
static void test_metadata(void **state) {
    (void)state;
    enum { LONG = 200000 };
    const fixture_tensor tensor = {"a.weight", CK_F32, {2}, 1, bytes};
    char *metadata = malloc(LONG + 100), *text = metadata;
    text += sprintf(text, "{\"empty\":\"\",\"format\":\"pt\",\"long\":\"");
    memset(text, 'x', LONG);
    strcpy(text + LONG, "\",\"title\":\"\xc3\xa9\"}");
    fixture f;
    fixture_make(&f);
    there_and_back(&f, in_order(&f, &tensor, 1, metadata));
    fixture_remove(&f);
    free(metadata);
}

/* More records than there was room for at first. */
static void test_many(void **state) {
    (void)state;
    enum { N = 3000 };
    fixture_tensor *tensors = calloc(N, sizeof *tensors);
    char(*names)[64] = calloc(N, sizeof *names);
    for (size_t i = 0; i < N; i++) {
        sprintf(names[i], "group.%zu.of_blocks.%zu.weight_%zu", i % 7, i % 100, i);
        tensors[i] =
            (fixture_tensor){names[i], i % 2 ? CK_F16 : CK_BF16, {i % 5}, 1, bytes + i % 9};
    }
    fixture f;
    fixture_make(&f);
    there_and_back(&f, in_order(&f, tensors, N, NULL));
    fixture_remove(&f);
    free(names);
    free(tensors);
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        fixture_tensor tensor;
        const char *message;
    } bad[] = {
        {{"a/b", CK_F32, {1}, 1, bytes}, "'a/b': HDF5 cannot have such a name"},
        {{".", CK_F32, {1}, 1, bytes}, "'.': HDF5 cannot have such a name"},
        {{"", CK_F32, {1}, 1, bytes}, "'': HDF5 cannot have such a name"},
        {{"z", CK_C64, {1}, 1, bytes}, "'z': HDF5 has no room for type C64"},
        {{"q", CK_F4, {2}, 1, bytes}, "'q': HDF5 has no room for type F4"},
    };
    fixture f;
    fixture_make(&f);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ck_error err;
        const char *in = fixture_safetensors(&f, "bad.safetensors", &bad[i].tensor, 1, NULL);
        assert_int_equal(convert(in, fixture_path(&f, "bad.h5"), &err), CK_USAGE);
        if (!strstr(err.message, bad[i].message))
            fail_msg("'%s' instead of '%s'", err.message, bad[i].message);
    }
    assert_int_equal(fixture_entries(&f), 1);
    fixture_remove(&f);
}

/* Whatever fails, there is no file. */
static void test_faults(void **state) {
    (void)state;
    static const struct {
        fault_kind kind;
        int error;
    } faults[] = {{FAULT_CALLOC, ENOMEM},
                  {FAULT_PWRITE, ENOSPC},
                  {FAULT_FTRUNCATE, EFBIG},
                  {FAULT_PREAD, EIO},
                  {FAULT_LINK, EACCES}};
    const fixture_tensor tensors[] = {{"a.weight", CK_F32, {100}, 1, bytes},
                                      {"b.weight", CK_BF16, {100}, 1, bytes}};
    fixture f;
    fixture_make(&f);
    char in[128];
    strcpy(in, fixture_safetensors(&f, "in.safetensors", tensors, 2, NULL));
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        for (fault_first(faults[i].kind, faults[i].error); fault_more();) {
            ck_error err;
            ck_save_options o = {.dtype = CK_DTYPE_COUNT, .quiet = true};
            ck_save_result result;
            ck_reader *r = opened(in);
            fault_arm();
            ck_status status = ck_save(r, fixture_path(&f, "out.h5"), &o, &result, &err);
            fault_disarm();
            ck_reader_close(r);
            assert_int_equal(status == CK_OK, !fault_hit());
            if (status == CK_OK) remove(fixture_path(&f, "out.h5"));
            assert_int_equal(fixture_entries(&f), 1);
        }
    fixture_remove(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),    cmocka_unit_test(test_names),
        cmocka_unit_test(test_metadata), cmocka_unit_test(test_many),
        cmocka_unit_test(test_refused),  cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void) {
    puts("skipped: built without HDF5");
    return 0;
}

#endif
