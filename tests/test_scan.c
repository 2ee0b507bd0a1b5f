/* The scan: every way of hiding an import that we know of, found; and nothing said against what
 * torch itself writes. */
#include "tests/check.h"

#include "io/scan.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ck_error err;

static const char *made(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "tests/data/ckpt/%s.ckpt", name);
    return path;
}

static const ck_scan_import *find_import(const ck_scan *s, const char *name) {
    for (size_t i = 0; i < s->import_count; i++)
        if (strcmp(s->imports[i].name, name) == 0) return &s->imports[i];
    return NULL;
}

#define MADE_WHEN_LOADED "(a name that is made when the file is loaded)"

/* Files whose dangerous import must be listed, with its place. */
static const struct hidden {
    const char *file, *name, *place;
    uint64_t pickle, offset;
    const char *problem; /* one that must be reported too, or NULL */
} hidden[] = {
    {"run_reduce", "os.system", "a/data.pkl", 1, 2, NULL},
    {"run_in_model", "os.system", "a/data.pkl", 1, 146, NULL},
    {"run_popped", "os.system", "a/data.pkl", 1, 2, NULL},
    {"run_exec", "builtins.exec", "a/data.pkl", 1, 2, NULL},
    {"run_python2", "__builtin__.eval", "a/data.pkl", 1, 2, NULL},
    {"run_inst", "os.system", "a/data.pkl", 1, 12, NULL},
    {"run_obj", "os.system", "a/data.pkl", 1, 3, NULL},
    {"run_stack_global", "os.system", "a/data.pkl", 1, 14, NULL},
    {"run_put_pop_get", "os.system", "a/data.pkl", 1, 24, NULL},
    {"run_strings", "os.system", "a/data.pkl", 1, 24, NULL},
    {"run_unicode", "os.system", "a/data.pkl", 1, 19, NULL},
    {"run_text_memo", "os.system", "a/data.pkl", 1, 33, NULL},
    {"run_memo_minus", "os.system", "", 1, 31, NULL},
    {"run_memo_nul", "os.system", "", 1, 43, NULL},
    {"run_memo_again", "os.system", "a/data.pkl", 1, 29, NULL},
    {"run_memo_counted", "os.system", "a/data.pkl", 1, 27, NULL},
    {"run_protocols", "os.system", "a/data.pkl", 1, 4, NULL},
    {"run_missing_memo", "os.system", "a/data.pkl", 1, 2, "BINGET at offset 26"},
    {"run_number_as_name", MADE_WHEN_LOADED, "a/data.pkl", 1, 12, NULL},
    {"run_made_name", MADE_WHEN_LOADED, "a/data.pkl", 1, 46, NULL},
    {"run_dotted", "torch.serialization.os.system", "a/data.pkl", 1, 34, NULL},
    {"run_nested", "torch.storage._load_from_bytes", "a/data.pkl", 1, 2, NULL},
    {"run_newobj", "subprocess.Popen", "a/data.pkl", 1, 2, NULL},
    {"run_newobj_ex", "subprocess.Popen", "a/data.pkl", 1, 2, NULL},
    {"run_build", "os.system", "a/data.pkl", 1, 38, NULL},
    {"run_frame", "os.system", "a/data.pkl", 1, 11, "GLOBAL at offset 11: it reaches beyond"},
    {"run_frame_lost", MADE_WHEN_LOADED, "a/data.pkl", 1, 11, "beyond the end of its frame"},
    {"run_frame_nested", MADE_WHEN_LOADED, "a/data.pkl", 1, 11, "FRAME at offset 11: it reaches"},
    {"run_nameless", "antigravity.", "a/data.pkl", 1, 17, NULL},
    {"run_persistent", "os.system", "a/data.pkl", 1, 5, NULL},
    {"run_broken", "os.system", "a/data.pkl", 1, 2, "0xff at offset 25"},
    {"run_cut", "os.system", "a/data.pkl", 1, 2, "the pickle ends at offset 25"},
    {"run_second", "os.system", "", 2, 6, NULL},
    {"run_bare", "os.system", "", 1, 2, NULL},
    {"run_bare_text", "os.system", "", 1, 0, NULL},
    {"run_eval_magic", "builtins.eval", "", 1, 2, NULL},
    {"good_after_stop", "os.system", "a/data.pkl", 2, 144, NULL},
    {"hidden_text", "os.system", "a/notes.txt", 1, 2, NULL},
    {"hidden_storage", "os.system", "a/data/0", 1, 2, NULL},
    {"hidden_deflated", "os.system", "a/notes.txt", 1, 2, NULL},
    {"hidden_behind_pickle", "os.system", "a/data.pkl", 1, 2, NULL},
    {"old_run", "os.system", "", 4, 76, NULL},
    {"old_import_in_magic", "os.system", "", 1, 15, NULL},
    {"zip_encrypted", "os.system", "a/data.pkl", 1, 2, "encrypted"},
    {"zip_patched", "os.system", "a/data.pkl", 1, 2, "encrypted or patched"},
    {"zip_strong_encryption", "os.system", "a/data.pkl", 1, 2, "encrypted"},
    {"zip_run_wrong_crc", "os.system", "a/data.pkl", 1, 2, NULL},
    {"zip_appended", "os.system", "a/data.pkl", 1, 2, "it should end at 998"},
    {"zip_prepended", "os.system", "a/data.pkl", 1, 2, "it should end at 998"},
    {"zip_local_name", "os.system", "a/datap.kl", 1, 2, "another name"},
    {"zip_local_method", "os.system", "a/data.pkl", 1, 2, "another compression"},
    {"zip_duplicate", "os.system", "a/data.pkl", 1, 2, "there twice"},
    {"zip_overlap", "os.system", "a/data.pkl", 1, 2, "overlap"},
};

static void test_hidden(void **state) {
    const struct hidden *h = *state;
    ck_scan s;
    assert_int_equal(ck_scan_file(made(h->file), &s, &err), CK_OK);
    assert_int_equal(s.worst, CK_DANGEROUS);
    const ck_scan_import *i = find_import(&s, h->name);
    assert_non_null(i);
    assert_int_equal(i->verdict, CK_DANGEROUS);
    assert_string_equal(i->place, h->place);
    assert_int_equal(i->pickle, h->pickle);
    assert_int_equal(i->offset, h->offset);
    assert_int_equal(s.problem_count > 0, h->problem != NULL);
    if (h->problem && !strstr(s.problems[0], h->problem)) {
        assert_true(s.problem_count > 1);
        assert_non_null(strstr(s.problems[1], h->problem));
    }
    ck_scan_free(&s);
}

/* Names that block-lists have missed: every one must be called dangerous. */
static void test_gaps(void **state) {
    (void)state;
    ck_scan s;
    assert_int_equal(ck_scan_file(made("run_gaps"), &s, &err), CK_OK);
    assert_true(s.import_count > 75);
    for (size_t i = 0; i < s.import_count; i++)
        if (s.imports[i].verdict != CK_DANGEROUS) fail_msg("%s", s.imports[i].name);
    ck_scan_free(&s);
}

/* What cannot be vouched for without being known to be dangerous. */
static void test_problems(void **state) {
    (void)state;
    static const struct {
        const char *file, *problem;
    } files[] = {
        {"run_ext", "EXT1 at offset 2"},
        {"run_buffer", "NEXT_BUFFER at offset 2"},
        {"run_long_line", "a line of more than 64 KiB"},
        {"pickle_unknown_opcode", "0xc3 at offset 2"},
        {"pickle_long_text", "BINUNICODE at offset 2"},
        {"pickle_marks", "STOP at offset 1000002"},
        {"other_7z", "a 7z archive"},
        {"other_tar", "a tar archive"},
        {"other_tar_unsigned", "a tar archive"},
        {"other_tar_signed", "a tar archive"},
        {"other_tar_binary", "a tar archive"},
        {"run_no_proto", "GET at offset 5: nothing was stored"},
        {"zip_method", "compression method 12"},
        {"zip_cut", "no directory at its end"},
        {"zip_climbs", "climbs out"},
        {"zip_nul", "contains a NUL"},
        {"zip_bomb", "the pickle ends"},
        {"zip_inflate_short", "shorter"},
        {"zip_inflate_long", "longer"},
        {"zip_inflate_damaged", "damaged"},
        {"zip_size_lie", "cannot come from"},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        ck_scan s;
        assert_int_equal(ck_scan_file(made(files[i].file), &s, &err), CK_OK);
        assert_int_not_equal(s.worst, CK_DANGEROUS);
        assert_true(s.problem_count > 0);
        if (!strstr(s.problems[0], files[i].problem)) fail_msg("%s", s.problems[0]);
        assert_non_null(strstr(s.problems[0], made(files[i].file)));
        ck_scan_free(&s);
    }
}

static void test_harmless(void **state) {
    (void)state;
    static const char *const patterns[] = {
        "tests/data/ckpt/good*",        "tests/data/ckpt/tensor_*",
        "tests/data/torch/[btvnp]*.pt", "tests/data/torch/refused_[cqsl][opup]*.pt",
        "tests/data/*.safetensors",     "tests/data/gguf/*"};
    size_t checked = 0;
    for (size_t p = 0; p < sizeof patterns / sizeof *patterns; p++) {
        glob_t found;
        assert_int_equal(glob(patterns[p], 0, NULL, &found), 0);
        for (size_t i = 0; i < found.gl_pathc; i++) {
            ck_scan s;
            if (strstr(found.gl_pathv[i], "after_stop")) continue;
            assert_int_equal(ck_scan_file(found.gl_pathv[i], &s, &err), CK_OK);
            if (s.worst != CK_HARMLESS || s.problem_count) fail_msg("%s", found.gl_pathv[i]);
            bool pickles =
                strstr(found.gl_pathv[i], "/torch/") || strstr(found.gl_pathv[i], ".ckpt");
            assert_int_equal(s.pickles > 0, pickles);
            ck_scan_free(&s);
            checked++;
        }
        globfree(&found);
    }
    assert_true(checked > 50);
}

/* Headers of 128 bytes make a safetensors file begin as a pickle does. */
static void test_safetensors_is_no_pickle(void **state) {
    (void)state;
    fixture f;
    fixture_make(&f);
    char file[8 + 128 + 4] = "\x80\0\0\0\0\0\0";
    memset(file + 8, ' ', sizeof file - 8);
    static const char header[] = "{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    memcpy(file + 8, header, sizeof header - 1);
    ck_scan s;
    const char *path = fixture_file(&f, "m.safetensors", file, sizeof file);
    assert_int_equal(ck_scan_file(path, &s, &err), CK_OK);
    assert_int_equal(s.problem_count, 0);
    assert_int_equal(s.pickles, 0);
    ck_scan_free(&s);
    fixture_remove(&f);
}

static void test_unknown(void **state) {
    (void)state;
    ck_scan s;
    assert_int_equal(ck_scan_file(made("pickle_unknown_global"), &s, &err), CK_OK);
    assert_int_equal(s.worst, CK_UNKNOWN);
    assert_int_equal(s.problem_count, 0);
    assert_string_equal(s.imports[0].name, "mypackage.models.Model");
    assert_string_equal(s.imports[0].opcode, "GLOBAL");
    ck_scan_free(&s);
}

static void test_old_layout(void **state) {
    (void)state;
    ck_scan s;
    assert_int_equal(ck_scan_file("tests/data/torch/training_legacy.pt", &s, &err), CK_OK);
    assert_int_equal(s.pickles, 5);
    const ck_scan_import *i = find_import(&s, "argparse.Namespace");
    assert_non_null(i);
    assert_int_equal(i->pickle, 4);
    ck_scan_free(&s);
}

static void test_no_file(void **state) {
    (void)state;
    ck_scan s;
    assert_int_equal(ck_scan_file("tests/data/absent.ckpt", &s, &err), CK_IO);
    assert_int_equal(ck_scan_file("tests/data", &s, &err), CK_OK);
    assert_int_equal(s.problem_count, 1);
    ck_scan_free(&s);
}

/* Headers within headers, each of which would have the rest of the file looked through. */
static void test_nested_headers(void **state) {
    (void)state;
    enum { COUNT = 20000 };
    static const unsigned char unit[] =
        "PK\3\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0B";
    enum { UNIT = sizeof unit - 1 + 4 };
    unsigned char *file = calloc(COUNT, UNIT);
    for (int i = 0; i < COUNT; i++) {
        unsigned char *p = file + i * UNIT;
        memcpy(p, unit, sizeof unit - 1);
        uint32_t rest = (uint32_t)((COUNT - i) * UNIT); /* a bytes object of about the rest */
        rest -= UNIT + 2;
        memcpy(p + sizeof unit - 1, &rest, 4);
    }
    fixture f;
    fixture_make(&f);
    ck_scan s;
    const char *path = fixture_file(&f, "nested", file, COUNT * UNIT);
    assert_int_equal(ck_scan_file(path, &s, &err), CK_OK);
    assert_non_null(strstr(s.problems[s.problem_count - 1], "lie in each other"));
    ck_scan_free(&s);
    fixture_remove(&f);
    free(file);
}

/* Names reach reports without what would steer a terminal. */
static void test_printable(void **state) {
    (void)state;
    size_t n;
    fixture f;
    fixture_make(&f);
    unsigned char *bytes = fixture_read(made("hidden_text"), &n), *at = bytes;
    while ((at = memmem(at, n - (size_t)(at - bytes), "notes", 5))) *at = 0x1B;
    ck_scan s;
    assert_int_equal(ck_scan_file(fixture_file(&f, "escape", bytes, n), &s, &err), CK_OK);
    assert_string_equal(find_import(&s, "os.system")->place, "a/?otes.txt");
    ck_scan_free(&s);
    free(bytes);
    fixture_remove(&f);
}

static void test_faults(void **state) {
    (void)state;
    static const char *const files[] = {"hidden_deflated", "run_second", "zip_local_method",
                                        "run_broken"};
    static const fault_kind kinds[] = {FAULT_CALLOC, FAULT_REALLOC, FAULT_OPEN, FAULT_PREAD};
    for (size_t i = 0; i < 4; i++)
        for (size_t k = 0; k < 4; k++)
            for (fault_first(kinds[k], EIO); fault_more();) {
                ck_scan s;
                fault_arm();
                ck_status status = ck_scan_file(made(files[i]), &s, &err);
                fault_disarm();
                assert_int_equal(status, !fault_hit() ? CK_OK : k < 2 ? CK_MEMORY : CK_IO);
                if (status == CK_OK) ck_scan_free(&s);
            }
}

int main(void) {
    enum { HIDDEN = sizeof hidden / sizeof *hidden };
    static struct CMUnitTest tests[10 + HIDDEN] = {
        cmocka_unit_test(test_gaps),           cmocka_unit_test(test_problems),
        cmocka_unit_test(test_harmless),       cmocka_unit_test(test_unknown),
        cmocka_unit_test(test_old_layout),     cmocka_unit_test(test_no_file),
        cmocka_unit_test(test_nested_headers), cmocka_unit_test(test_printable),
        cmocka_unit_test(test_faults),         cmocka_unit_test(test_safetensors_is_no_pickle),
    };
    for (size_t i = 0; i < HIDDEN; i++)
        tests[10 + i] = (struct CMUnitTest){.name = hidden[i].file,
                                            .test_func = test_hidden,
                                            .initial_state = (void *)(uintptr_t)&hidden[i]};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
