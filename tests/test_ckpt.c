/* PyTorch checkpoints: files of torch against their values as safetensors, hostile ones against
 * what they must be refused with, whole, in pieces, from several threads and with everything
 * failing. */
#include "tests/check.h"

#include "io/reader.h"
#include "io/os.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ck_error err;

static const char *made(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "tests/data/ckpt/%s.ckpt", name);
    return path;
}

static const char *torch_file(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "tests/data/torch/%s", name);
    return path;
}

static ck_reader *open_file(const char *path) {
    ck_reader *r;
    if (ck_reader_open(path, &r, &err) != CK_OK) fail_msg("%s", err.message);
    return r;
}

/* All data of a tensor, read in pieces of n elements; the caller frees. */
static unsigned char *read_all(const ck_reader *r, const ck_tensor *t, uint64_t n) {
    unsigned char *data = malloc((size_t)t->nbytes + 1);
    size_t step = (size_t)n * (ck_dtype_bits(t->dtype) / 8);
    for (uint64_t at = 0; at < t->nbytes; at += step) {
        uint64_t left = t->nbytes - at;
        if (ck_reader_read(r, t, at, data + at, left < step ? (size_t)left : step, &err) != CK_OK)
            fail_msg("%s", err.message);
    }
    return data;
}

/* ---- Files of torch ---- */

static const struct pair {
    const char *file, *values;
    size_t skipped;
} pairs[] = {
    {"types.pt", "types", 0},
    {"types_legacy.pt", "types", 0},
    {"types_protocol4.pt", "types", 0},
    {"new_types.pt", "new_types", 0},
    {"new_types_legacy.pt", "new_types", 0},
    {"views.pt", "views", 0},
    {"views_legacy.pt", "views", 0},
    {"views_stored.pt", "views", 0},
    {"views_deflated.pt", "views", 0},
    {"big_endian.pt", "big_endian", 0},
    {"training.pt", "training", 7},
    {"training_legacy.pt", "training", 7},
    {"parameters.pt", "parameters", 2},
};

static void test_same_as_torch(void **state) {
    const struct pair *p = *state;
    char values[64];
    snprintf(values, sizeof values, "%s.safetensors", p->values);
    ck_reader *r = open_file(torch_file(p->file)), *want = open_file(torch_file(values));
    assert_string_equal(ck_reader_format(r), "ckpt");
    assert_int_equal(ck_reader_skipped(r), p->skipped);
    assert_int_equal(ck_reader_skipped(want), 0);
    assert_int_equal(ck_reader_count(r), ck_reader_count(want));
    for (size_t i = 0; i < ck_reader_count(want); i++) {
        const ck_tensor *w = ck_reader_tensor(want, i), *t = ck_reader_find(r, w->name);
        if (!t) fail_msg("no %s", w->name);
        assert_int_equal(t->dtype, w->dtype);
        assert_int_equal(t->rank, w->rank);
        if (w->rank) assert_memory_equal(t->shape, w->shape, w->rank * sizeof *w->shape);
        unsigned char *expected = read_all(want, w, 1000000);
        for (uint64_t step = 1; step <= 1000; step = step * 3 + 1) {
            unsigned char *got = read_all(r, t, step);
            assert_memory_equal(got, expected, w->nbytes);
            free(got);
        }
        free(expected);
    }
    ck_reader_close(r);
    ck_reader_close(want);
}

static const struct refusal {
    const char *file, *message;
} refused_torch[] = {
    {"refused_quantized.pt", "tensor 'q': torch._utils._rebuild_qtensor"},
    {"refused_sparse.pt", "tensor 's': torch._utils._rebuild_sparse_tensor"},
    {"refused_complex128.pt", "tensor 'c': torch.ComplexDoubleStorage"},
    {"refused_module.pt", "opcode GLOBAL at offset 2 imports 'torch.nn.modules.linear.Linear'"},
    {"refused_list.pt", "holds no dict of tensors"},
    {"refused_script.pt", "imports '__torch__.torch.nn.modules.linear.Linear'"},
};

static void test_refused_torch(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refused_torch / sizeof *refused_torch; i++) {
        ck_reader *r;
        assert_int_equal(ck_reader_open(torch_file(refused_torch[i].file), &r, &err), CK_INPUT);
        if (!strstr(err.message, refused_torch[i].message)) fail_msg("%s", err.message);
    }
}

/* ---- Files of our own ---- */

/* Those whose tensor 'w' is 1, 2, 3, 4. */
static const char *const good[] = {
    "good",
    "good_zip64",
    "good_deflated",
    "good_wrong_crc",
    "good_trailing",
    "good_memo",
    "good_folder_entry",
    "good_python2",
    "good_full",
    "good_frames",
    "good_first_generation",
    "good_after_stop",
    "good_laughs",
    "good_cycle",
    "old_good",
    "old_module",
    "hidden_text",
    "hidden_deflated",
};

static void test_good(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        ck_reader *r = open_file(made(good[i]));
        const ck_tensor *t = ck_reader_find(r, "w");
        assert_non_null(t);
        assert_int_equal(t->dtype, CK_F32);
        assert_int_equal(t->rank, 2);
        float values[4];
        assert_int_equal(ck_reader_read(r, t, 0, values, sizeof values, &err), CK_OK);
        for (int k = 0; k < 4; k++) assert_true(values[k] == (float)(k + 1));
        ck_reader_close(r);
    }
}

static void test_shared_storage(void **state) {
    (void)state;
    ck_reader *r = open_file(made("good_memo"));
    assert_int_equal(ck_reader_count(r), 2);
    assert_int_equal(ck_reader_find(r, "v")->offset, ck_reader_find(r, "w")->offset);
    ck_reader_close(r);
}

static void test_old_view(void **state) {
    (void)state;
    ck_reader *r = open_file(made("old_view"));
    float values[2];
    assert_int_equal(ck_reader_read(r, ck_reader_find(r, "w"), 0, values, 8, &err), CK_OK);
    assert_true(values[0] == 3 && values[1] == 4);
    ck_reader_close(r);
}

/* A tensor of 4 TiB that is one number over and over. */
static void test_expanded(void **state) {
    (void)state;
    ck_reader *r = open_file(made("good_expanded"));
    const ck_tensor *t = ck_reader_find(r, "w");
    assert_int_equal(t->nbytes, UINT64_C(1) << 42);
    float values[1000];
    assert_int_equal(ck_reader_read(r, t, t->nbytes - sizeof values, values, sizeof values, &err),
                     CK_OK);
    for (int i = 0; i < 1000; i++) assert_true(values[i] == 1);
    ck_reader_close(r);
}

#define IMPORTS(name) " imports '" name "', which can run code: refused"

static const struct refusal refusals[] = {
    {"zip_encrypted", "zip entry 'a/data.pkl' is encrypted"},
    {"zip_bomb", "grows from"},
    {"zip_inflate_short", "the archive has no 'a/data/0'"},
    {"zip_inflate_long", "longer than the directory says"},
    {"zip_inflate_damaged", "zip entry 'a/data.pkl': compressed data at offset 46: damaged"},
    {"zip_no_pickle", "a zip archive without 'a/data.pkl'"},
    {"zip_empty", "a zip archive without 'a/data.pkl'"},
    {"zip_no_folder", "a zip archive, but not one that PyTorch or Keras has written"},
    {"zip_no_storage", "tensor 'w': the archive has no 'a/data/0'"},
    {"zip_storage_short", "4 elements of torch.FloatStorage, but 'a/data/0' has 12 bytes"},
    {"zip_storage_long", "but 'a/data/0' has 20 bytes"},
    {"zip_byteorder", "'a/byteorder' is neither"},
    {"other_7z", "not a checkpoint of a known format"},
    {"other_tar", "a tar archive"},
    {"other_tar_unsigned", "not a checkpoint of a known format"},
    {"zip_run_wrong_crc", IMPORTS("os.system")},
    {"zip_appended", "it should end at 998"},
    {"zip_prepended", "it should end at 998"},
    {"hidden_storage", "but 'a/data/0' has 26 bytes"},
    {"run_reduce", "a/data.pkl: pickle opcode GLOBAL at offset 2" IMPORTS("os.system")},
    {"run_in_model", "opcode GLOBAL at offset 146" IMPORTS("os.system")},
    {"run_popped", IMPORTS("os.system")},
    {"run_exec", IMPORTS("builtins.exec")},
    {"run_python2", IMPORTS("__builtin__.eval")},
    {"run_inst", "opcode INST at offset 12: refused"},
    {"run_obj", IMPORTS("os.system")},
    {"run_stack_global", "opcode STACK_GLOBAL at offset 14" IMPORTS("os.system")},
    {"run_put_pop_get", "opcode STACK_GLOBAL at offset 24" IMPORTS("os.system")},
    {"run_strings", "opcode STRING at offset 2: refused"},
    {"run_unicode", "opcode UNICODE at offset 2: refused"},
    {"run_text_memo", "opcode PUT at offset 6: refused"},
    {"run_memo_minus", "not a checkpoint of a known format"},
    {"run_memo_nul", "not a checkpoint of a known format"},
    {"run_memo_again", "opcode STACK_GLOBAL at offset 29" IMPORTS("os.system")},
    {"run_memo_counted", "opcode STACK_GLOBAL at offset 27" IMPORTS("os.system")},
    {"run_protocols", "opcode GLOBAL at offset 4" IMPORTS("os.system")},
    {"run_no_proto", "opcode DICT at offset 1: refused"},
    {"run_missing_memo", IMPORTS("os.system")},
    {"run_number_as_name", "opcode STACK_GLOBAL at offset 12: module and name must be texts"},
    {"run_made_name", "opcode STACK_GLOBAL at offset 46: module and name must be texts"},
    {"run_dotted", IMPORTS("torch.serialization.os.system")},
    {"run_nested", IMPORTS("torch.storage._load_from_bytes")},
    {"run_newobj", IMPORTS("subprocess.Popen")},
    {"run_newobj_ex", IMPORTS("subprocess.Popen")},
    {"run_build", IMPORTS("os.system")},
    {"run_frame", IMPORTS("os.system")},
    {"run_frame_lost", "imports 'mypackage_os.system'"},
    {"run_frame_nested", "opcode FRAME at offset 11: it reaches beyond the end of its frame"},
    {"run_nameless", "opcode STACK_GLOBAL at offset 17: not the name"},
    {"run_persistent", "opcode PERSID at offset 2: refused"},
    {"run_long_line", "opcode STRING at offset 2: refused"},
    {"run_ext", "opcode EXT1 at offset 2: refused"},
    {"run_buffer", "opcode NEXT_BUFFER at offset 2: refused"},
    {"run_broken", IMPORTS("os.system")},
    {"run_cut", IMPORTS("os.system")},
    {"run_second", "a pickle, but not of PyTorch's form"},
    {"run_bare", "a pickle, but not of PyTorch's form"},
    {"run_bare_text", "not a checkpoint of a known format"},
    {"run_eval_magic", "a pickle, but not of PyTorch's form"},
    {"run_gaps", "a pickle, but not of PyTorch's form"},
    {"pickle_unknown_global", "imports 'mypackage.models.Model', which no weights need: refused"},
    {"pickle_unknown_opcode", "opcode 0xc3 at offset 2"},
    {"pickle_protocol", "opcode PROTO at offset 2"},
    {"pickle_text_opcode", "opcode INT at offset 2: refused"},
    {"pickle_long_text", "4294967289 bytes too early"},
    {"pickle_long_text8", "18446744073709551609 bytes too early"},
    {"pickle_memo", "opcode BINGET at offset 2"},
    {"pickle_underflow", "opcode TUPLE2 at offset 3"},
    {"pickle_below_mark", "opcode TUPLE1 at offset 4"},
    {"pickle_no_mark", "opcode TUPLE at offset 2"},
    {"pickle_odd", "opcode SETITEMS at offset 5"},
    {"pickle_append", "opcode APPEND at offset 4"},
    {"pickle_setitem", "opcode SETITEM at offset 5"},
    {"pickle_build", "opcode BUILD at offset 4"},
    {"pickle_call_text", "opcode REDUCE at offset 17"},
    {"pickle_name_space", "opcode GLOBAL at offset 2"},
    {"pickle_empty", "opcode STOP at offset 2"},
    {"pickle_no_stop", "at offset 3: the pickle ends at offset 3"},
    {"pickle_marks", "at offset 1000002: not enough values"},
    {"pickle_list", "holds no dict of tensors"},
    {"pickle_no_tensors", "holds no tensors under names"},
    {"pickle_wrapped_cycle", "holds no tensors under names"},
    {"tensor_twice", "tensor 'w' is there twice"},
    {"tensor_name_nul", "its name is not UTF-8, or contains a NUL"},
    {"tensor_name_bytes", "its name is not UTF-8, or contains a NUL"},
    {"tensor_negative_count", "its storage is not described"},
    {"tensor_huge_count", "4611686018427387904 elements of torch.FloatStorage, but"},
    {"tensor_negative_size", "a bad shape"},
    {"tensor_negative_stride", "bad strides"},
    {"tensor_negative_offset", "a bad offset"},
    {"tensor_offset", "tensor 'w': pickle offset 138: it reaches beyond the end"},
    {"tensor_offset_huge", "beyond the end"},
    {"tensor_stride", "beyond the end"},
    {"tensor_stride_overflow", "beyond the end"},
    {"tensor_shape_overflow", "too large for any file"},
    {"tensor_ranks_differ", "differ in length"},
    {"tensor_rank", "more than 64 dimensions"},
    {"tensor_shape_text", "a bad shape"},
    {"tensor_shape_texts", "a bad shape"},
    {"tensor_few_arguments", "its storage is not described"},
    {"tensor_no_storage", "its storage is not described"},
    {"tensor_storage_id", "its storage is not described"},
    {"tensor_storage_type", "its storage is not described"},
    {"tensor_quantized", "torch.QInt8Storage: elements of this type cannot be read"},
    {"tensor_complex", "torch.ComplexDoubleStorage: elements of this type cannot be read"},
    {"tensor_v3_no_type", "its element type is missing"},
    {"tensor_v3_type", "torch.float4_e2m1fn_x2: elements of this type cannot be read"},
    {"tensor_parameter_nest", "holds no tensors under names"},
    {"tensor_deep", "holds no tensors under names"},
    {"old_run", IMPORTS("os.system")},
    {"old_import_in_magic", "imports 'os.system' where only numbers belong"},
    {"old_view_beyond", "a view that is not within its storage"},
    {"old_big_endian", "big-endian"},
    {"old_no_facts", "big-endian"},
    {"old_protocol", "protocol 1001"},
    {"old_cut", "storage '0' at offset 237: 4 elements"},
    {"old_cut_pickle", "opcode BINUNICODE at offset 27: the pickle ends at offset 40"},
    {"old_count", "3 elements, where the pickle says 4"},
    {"old_count_negative", "where the pickle says 4611686018427387904"},
    {"old_unknown_key", "one that no tensor has, or is there twice"},
    {"old_key_twice", "one that no tensor has, or is there twice"},
    {"old_key_missing", "not in the list at the end"},
    {"old_two_sizes", "storage '0' has two sizes"},
};

static void test_refused(void **state) {
    const struct refusal *refusal = *state;
    ck_reader *r;
    assert_int_equal(ck_reader_open(made(refusal->file), &r, &err), CK_INPUT);
    if (!strstr(err.message, refusal->message)) fail_msg("%s", err.message);
    assert_non_null(strstr(err.message, made(refusal->file)));
}

/* Compressed data that turn out to be too short when they are read. */
static void test_refused_when_read(void **state) {
    (void)state;
    ck_reader *r = open_file(made("zip_storage_inflates_short"));
    char data[16];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ck_reader_read(r, ck_reader_find(r, "w"), 0, data, 16, &err), CK_INPUT);
        assert_non_null(strstr(err.message, "tensor 'w'"));
        assert_non_null(strstr(err.message, "shorter than the directory says"));
    }
    ck_reader_close(r);
}

/* ---- Damage, faults, threads ---- */

static void open_and_read(const char *path) {
    ck_reader *r;
    if (ck_reader_open(path, &r, &err) != CK_OK) {
        assert_int_equal(err.status, CK_INPUT);
        return;
    }
    for (size_t i = 0; i < ck_reader_count(r); i++) {
        const ck_tensor *t = ck_reader_tensor(r, i);
        if (t->nbytes < 10000) free(read_all(r, t, 1000));
    }
    ck_reader_close(r);
}

static void test_cut_and_changed(void **state) {
    (void)state;
    static const char *const files[] = {"good_zip64", "old_good"};
    fixture f;
    fixture_make(&f);
    for (int i = 0; i < 2; i++) {
        size_t n;
        ck_reader *r;
        unsigned char *bytes = fixture_read(made(files[i]), &n);
        for (size_t cut = 0; cut < n; cut++)
            assert_int_equal(ck_reader_open(fixture_file(&f, "cut", bytes, cut), &r, &err),
                             CK_INPUT);
        for (size_t at = 0; at < n; at++) {
            bytes[at] ^= (unsigned char)(1u << at % 8);
            open_and_read(fixture_file(&f, "changed", bytes, n));
            bytes[at] ^= (unsigned char)(1u << at % 8);
        }
        free(bytes);
    }
    fixture_remove(&f);
}

/* Opens a file and reads all of it; no error may be lost on the way. */
static ck_status use(const char *path) {
    ck_reader *r;
    CK_TRY(ck_reader_open(path, &r, &err));
    ck_status status = CK_OK;
    for (size_t i = 0; i < ck_reader_count(r) && status == CK_OK; i++) {
        const ck_tensor *t = ck_reader_tensor(r, i);
        unsigned char *data = malloc((size_t)t->nbytes + 1);
        status = ck_reader_read(r, t, 0, data, (size_t)t->nbytes, &err);
        free(data);
    }
    ck_reader_close(r);
    return status;
}

static void test_faults(void **state) {
    (void)state;
    static const char *const files[] = {"views.pt", "views_deflated.pt", "training_legacy.pt"};
    static const fault_kind kinds[] = {FAULT_CALLOC, FAULT_REALLOC, FAULT_OPEN, FAULT_PREAD,
                                       FAULT_PWRITE};
    for (size_t i = 0; i < 3; i++)
        for (size_t k = 0; k < 5; k++)
            for (fault_first(kinds[k], EIO); fault_more();) {
                fault_arm();
                ck_status status = use(torch_file(files[i]));
                fault_disarm();
                assert_true(fault_hit() ? status == CK_IO || status == CK_MEMORY : status == CK_OK);
                if (fault_hit()) assert_non_null(strstr(err.message, files[i]));
            }
}

static ck_reader *shared;
static unsigned char *wanted[64];

static void *read_shared(void *argument) {
    size_t start = (size_t)(uintptr_t)argument, count = ck_reader_count(shared);
    for (size_t i = 0; i < count; i++) {
        size_t at = (start + i) % count;
        const ck_tensor *t = ck_reader_tensor(shared, at);
        unsigned char *data = malloc((size_t)t->nbytes + 1);
        ck_error e;
        bool same = ck_reader_read(shared, t, 0, data, (size_t)t->nbytes, &e) == CK_OK &&
                    memcmp(data, wanted[at], (size_t)t->nbytes) == 0;
        free(data);
        if (!same) return argument;
    }
    return NULL;
}

/* Whoever comes first inflates; all see the same. */
static void test_threads(void **state) {
    (void)state;
    enum { THREADS = 4 };
    ck_reader *first = open_file(torch_file("views_deflated.pt"));
    for (size_t i = 0; i < ck_reader_count(first); i++)
        wanted[i] = read_all(first, ck_reader_tensor(first, i), 1000);
    for (int round = 0; round < 5; round++) {
        pthread_t threads[THREADS];
        shared = open_file(torch_file("views_deflated.pt"));
        for (size_t i = 0; i < THREADS; i++)
            pthread_create(&threads[i], NULL, read_shared, (void *)(uintptr_t)(i * 3 + 1));
        for (size_t i = 0; i < THREADS; i++) {
            void *failed;
            pthread_join(threads[i], &failed);
            assert_null(failed);
        }
        ck_reader_close(shared);
    }
    for (size_t i = 0; i < ck_reader_count(first); i++) free(wanted[i]);
    ck_reader_close(first);
}

int main(void) {
    enum { PAIRS = sizeof pairs / sizeof *pairs, REFUSALS = sizeof refusals / sizeof *refusals };
    static struct CMUnitTest tests[9 + PAIRS + REFUSALS] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_shared_storage),
        cmocka_unit_test(test_old_view),
        cmocka_unit_test(test_expanded),
        cmocka_unit_test(test_refused_torch),
        cmocka_unit_test(test_refused_when_read),
        cmocka_unit_test(test_cut_and_changed),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_threads),
    };
    for (size_t i = 0; i < PAIRS; i++)
        tests[9 + i] = (struct CMUnitTest){.name = pairs[i].file,
                                           .test_func = test_same_as_torch,
                                           .initial_state = (void *)(uintptr_t)&pairs[i]};
    for (size_t i = 0; i < REFUSALS; i++)
        tests[9 + PAIRS + i] =
            (struct CMUnitTest){.name = refusals[i].file,
                                .test_func = test_refused,
                                .initial_state = (void *)(uintptr_t)&refusals[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
