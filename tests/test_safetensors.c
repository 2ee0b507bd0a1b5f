/* The safetensors reader against every malformed file we know of, and the writer against bytes of
 * the reference serializer. */
#include "io/safetensors.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static fixture folder;

static int setup(void **state) {
    (void)state;
    fixture_make(&folder);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_remove(&folder);
    return 0;
}

/* Opening the file must fail with a message that has its path and this text in it. */
static void refused(const char *path, const char *text, const char *label) {
    ck_reader *r = NULL;
    ck_error err = {0};
    ck_status status = ck_reader_open(path, &r, &err);
    if (status == CK_OK) fail_msg("%s: was accepted, want '%s'", label, text);
    assert_int_equal(status, CK_INPUT);
    assert_int_equal(err.status, CK_INPUT);
    if (!strstr(err.message, text)) fail_msg("%s: '%s' lacks '%s'", label, err.message, text);
    if (!strstr(err.message, path)) fail_msg("%s: '%s' lacks the path", label, err.message);
}

static void accepted(const char *path, size_t tensors, const char *label) {
    ck_reader *r = NULL;
    ck_error err = {0};
    if (ck_reader_open(path, &r, &err) != CK_OK) fail_msg("%s: %s", label, err.message);
    assert_int_equal(ck_reader_count(r), tensors);
    ck_reader_close(r);
}

/* ---- Whole files ---- */

static void raw_refused(const void *bytes, size_t n, const char *text) {
    refused(fixture_file(&folder, "raw.safetensors", bytes, n), text, text);
}

static void test_file_shapes(void **state) {
    (void)state;
    raw_refused("", 0, "too short");
    raw_refused("\x02\0\0\0\0\0\0", 7, "too short");
    raw_refused("\0\0\0\0\0\0\0\0", 8, "must be a JSON object");
    raw_refused("\x01\xE1\xF5\x05\0\0\0\0{}", 10, "more than the 100000000");
    raw_refused("\x00\xE1\xF5\x05\0\0\0\0{}", 10, "cut off");
    raw_refused("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}", 10, "more than the 100000000");
    raw_refused("\x03\0\0\0\0\0\0\0{}", 10, "cut off");
    raw_refused("\x02\0\0\0\0\0\0\0{}x", 11, "1 bytes at offset 10 belong to no tensor");
    accepted(fixture_file(&folder, "raw.safetensors", "\x02\0\0\0\0\0\0\0{}", 10), 0, "empty");
    /* Found by its content, whatever it is called. */
    accepted(fixture_file(&folder, "model.bin", "\x02\0\0\0\0\0\0\0{}", 10), 0, "other name");
}

static void test_other_files(void **state) {
    (void)state;
    const char *lfs = "version https://git-lfs.github.com/spec/v1\n";
    refused(fixture_file(&folder, "x.safetensors", lfs, strlen(lfs)), "git-lfs pointer", "lfs");
    const char *page = "<!DOCTYPE html><html></html>";
    refused(fixture_file(&folder, "y.safetensors", page, strlen(page)), "web page", "page");
    refused(fixture_file(&folder, "empty", "", 0), "empty", "empty");
    refused(fixture_file(&folder, "z", "hello, world", 12), "not a checkpoint", "text");
    refused(folder.folder, "folder", "folder");
    ck_reader *r;
    ck_error err = {0};
    assert_int_equal(ck_reader_open(fixture_path(&folder, "none"), &r, &err), CK_IO);
    assert_non_null(strstr(err.message, "none: No such file"));
}

/* ---- Headers; 16 bytes of data follow each ---- */

#define T(name, dtype, shape, offsets)                                                             \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static const struct {
    const char *label, *header;
    const char *text; /* of the error; NULL: accepted */
} headers[] = {
    {"one tensor", "{" T("a", "F32", "[4]", "[0,16]") "}", NULL},
    {"white space everywhere",
     " \t\r\n{ \"a\" : { \"dtype\" : \"F32\" , \"shape\" : [ 2 , 2 ] , "
     "\"data_offsets\" : [ 0 , 16 ] } } \n ",
     NULL},
    {"members in any order", "{\"a\":{\"data_offsets\":[0,16],\"shape\":[4],\"dtype\":\"F32\"}}",
     NULL},
    {"tensors in any order",
     "{" T("b", "F32", "[2]", "[8,16]") "," T("a", "F32", "[2]", "[0,8]") "}", NULL},
    {"scalar", "{" T("s", "F64", "[]", "[0,8]") "," T("t", "I64", "[1]", "[8,16]") "}", NULL},
    {"empty tensors share a place",
     "{" T("e", "F32", "[0]", "[0,0]") "," T("f", "F16", "[3,0]", "[0,0]") "," T(
         "a", "F32", "[4]", "[0,16]") "," T("g", "U8", "[0]", "[16,16]") "}",
     NULL},
    {"odd offset of a wide type",
     "{" T("a", "U8", "[1]", "[0,1]") "," T("b", "F32", "[3]", "[1,13]") "," T("c", "U8", "[3]",
                                                                               "[13,16]") "}",
     NULL},
    {"every small dtype",
     "{" T("a", "F8_E4M3", "[1]", "[0,1]") "," T("b", "F8_E5M2", "[1]", "[1,2]") "," T(
         "c", "F8_E8M0", "[1]",
         "[2,3]") "," T("d", "F4", "[4]",
                        "[3,5]") "," T("e", "F6_E2M3", "[4]",
                                       "[5,8]") "," T("f", "BF16", "[1]",
                                                      "[8,10]") "," T("g", "BOOL", "[2]",
                                                                      "[10,12]") "," T("h",
                                                                                       "F6_E3M2",
                                                                                       "[4]",
                                                                                       "[12,15]") "," T("i",
                                                                                                        "I8",
                                                                                                        "[1]",
                                                                                                        "[15,16]") "}",
     NULL},
    {"zero first stops the product",
     "{" T("a", "F32", "[0,18446744073709551615]", "[0,0]") "," T("b", "F32", "[4]", "[0,16]") "}",
     NULL},
    {"unknown member",
     "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16],\"x\":[1,-2.5e3,{\"y\":null}]"
     "}}",
     NULL},
    {"empty name", "{" T("", "F32", "[4]", "[0,16]") "}", NULL},
    {"escapes in names", "{" T("a\\u0062\\n\\ud83d\\ude00", "F32", "[4]", "[0,16]") "}", NULL},
    {"metadata", "{\"__metadata__\":{\"k\":\"v\"}," T("a", "F32", "[4]", "[0,16]") "}", NULL},
    {"metadata empty", "{\"__metadata__\":{}," T("a", "F32", "[4]", "[0,16]") "}", NULL},
    {"metadata null", "{\"__metadata__\":null," T("a", "F32", "[4]", "[0,16]") "}", NULL},

    {"top is a list", "[]", "must be a JSON object"},
    {"top is null", "null", "must be a JSON object"},
    {"top is text", "\"x\"", "must be a JSON object"},
    {"not closed", "{" T("a", "F32", "[4]", "[0,16]"), "ends too early"},
    {"text not closed", "{\"a", "ends within a string"},
    {"two documents", "{}{}", "something follows"},
    {"trailing comma", "{" T("a", "F32", "[4]", "[0,16]") ",}", "'\"' expected"},
    {"comment", "{/**/}", "'\"' expected"},
    {"single quotes", "{'a':1}", "'\"' expected"},
    {"raw control character", "{\"a\tb\":1}", "control character"},
    {"lone surrogate", "{\"\\ud800\":1}", "surrogate"},
    {"surrogates reversed", "{\"\\udc00\\ud800\":1}", "surrogate"},
    {"NUL in a name", "{" T("a\\u0000b", "F32", "[4]", "[0,16]") "}", "NUL character"},
    {"bad escape", "{\"\\x\":1}", "unknown escape"},
    {"bad hex", "{\"\\u12g4\":1}", "four hex digits"},
    {"not UTF-8", "{\"\xff\":1}", "offset 10: not UTF-8"},
    {"overlong UTF-8", "{\"\xc0\xaf\":1}", "not UTF-8"},
    {"UTF-8 surrogate", "{\"\xed\xa0\x80\":1}", "not UTF-8"},
    {"byte order mark", "\xef\xbb\xbf{}", "byte order mark"},
    {"tensor is a list", "{\"a\":[\"F32\",[4],[0,16]]}", "described by an object"},
    {"tensor is a number", "{\"a\":1}", "described by an object"},
    {"the same name twice",
     "{" T("a", "F32", "[2]", "[0,8]") "," T("a", "F32", "[2]", "[8,16]") "}",
     "'a' is there twice"},
    {"the same name by an escape",
     "{" T("a", "F32", "[2]", "[0,8]") "," T("\\u0061", "F32", "[2]", "[8,16]") "}",
     "'a' is there twice"},
    {"dtype twice",
     "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
     "field is there twice"},
    {"metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}}", "__metadata__ is there twice"},
    {"metadata key twice", "{\"__metadata__\":{\"k\":\"1\",\"j\":\"2\",\"\\u006b\":\"3\"}}",
     "metadata key 'k' is there twice"},
    {"metadata number", "{\"__metadata__\":{\"k\":1}}", "must be a string"},
    {"metadata null value", "{\"__metadata__\":{\"k\":null}}", "must be a string"},
    {"metadata object", "{\"__metadata__\":{\"k\":{}}}", "must be a string"},
    {"metadata list", "{\"__metadata__\":[]}", "object of strings"},
    {"metadata text", "{\"__metadata__\":\"x\"}", "object of strings"},
    {"unknown dtype", "{" T("a", "F33", "[4]", "[0,16]") "}", "unknown dtype"},
    {"lower-case dtype", "{" T("a", "f32", "[4]", "[0,16]") "}", "unknown dtype"},
    {"dtype number", "{\"a\":{\"dtype\":1,\"shape\":[4],\"data_offsets\":[0,16]}}",
     "'\"' expected"},
    {"dtype null", "{\"a\":{\"dtype\":null,\"shape\":[4],\"data_offsets\":[0,16]}}",
     "'\"' expected"},
    {"torch's name of a dtype", "{" T("a", "F8_E4M3FN", "[16]", "[0,16]") "}", "unknown dtype"},
    {"no dtype", "{\"a\":{\"shape\":[4],\"data_offsets\":[0,16]}}",
     "needs dtype, shape and data_offsets"},
    {"no shape", "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,16]}}",
     "needs dtype, shape and data_offsets"},
    {"no offsets", "{\"a\":{\"dtype\":\"F32\",\"shape\":[4]}}",
     "needs dtype, shape and data_offsets"},
    {"nothing", "{\"a\":{}}", "needs dtype, shape and data_offsets"},
    {"negative dimension", "{" T("a", "F32", "[-1]", "[0,16]") "}", "plain unsigned integer"},
    {"negative zero", "{" T("a", "F32", "[-0]", "[0,16]") "}", "plain unsigned integer"},
    {"float dimension", "{" T("a", "F32", "[4.0]", "[0,16]") "}", "plain unsigned integer"},
    {"exponent", "{" T("a", "F32", "[4e0]", "[0,16]") "}", "plain unsigned integer"},
    {"leading zero", "{" T("a", "F32", "[04]", "[0,16]") "}", "plain unsigned integer"},
    {"65 bits", "{" T("a", "F32", "[18446744073709551616]", "[0,16]") "}", "larger than 64 bits"},
    {"product overflows", "{" T("a", "F32", "[4294967296,4294967296,2]", "[0,16]") "}",
     "too large for any file"},
    {"bytes overflow", "{" T("a", "F32", "[18446744073709551615]", "[0,16]") "}",
     "too large for any file"},
    {"overflow before a zero", "{" T("a", "F32", "[18446744073709551615,2,0]", "[0,0]") "}",
     "too large for any file"},
    {"one offset", "{" T("a", "F32", "[4]", "[0]") "}", "',' expected"},
    {"three offsets", "{" T("a", "F32", "[4]", "[0,16,16]") "}", "']' expected"},
    {"negative offset", "{" T("a", "F32", "[4]", "[-1,15]") "}", "plain unsigned integer"},
    {"reversed offsets", "{" T("a", "F32", "[4]", "[16,0]") "}", "before they begin"},
    {"data cut off", "{" T("a", "F32", "[5]", "[0,20]") "}", "cut off"},
    {"hole at the start", "{" T("a", "F32", "[2]", "[8,16]") "}", "there is a hole before it"},
    {"hole in the middle", "{" T("a", "F32", "[1]", "[0,4]") "," T("b", "F32", "[2]", "[8,16]") "}",
     "there is a hole before it"},
    {"hole at the end", "{" T("a", "F32", "[2]", "[0,8]") "}", "8 bytes at offset"},
    {"overlap", "{" T("a", "F32", "[3]", "[0,12]") "," T("b", "F32", "[2]", "[8,16]") "}",
     "overlaps"},
    {"the same range", "{" T("a", "F32", "[4]", "[0,16]") "," T("b", "F32", "[4]", "[0,16]") "}",
     "overlaps"},
    {"an empty tensor inside another",
     "{" T("e", "F32", "[0]", "[4,4]") "," T("a", "F32", "[4]", "[0,16]") "}", "overlaps"},
    {"empty shape with bytes", "{" T("a", "F32", "[0]", "[0,16]") "}",
     "16 bytes, but its shape and type F32 make 0"},
    {"size and shape differ", "{" T("a", "F32", "[3]", "[0,16]") "}",
     "16 bytes, but its shape and type F32 make 12"},
    {"half a byte", "{" T("a", "F4", "[3]", "[0,1]") "}", "not a whole number of bytes"},
    {"three times six bits", "{" T("a", "F6_E2M3", "[3]", "[0,2]") "}",
     "not a whole number of bytes"},
    {"unknown member is bad JSON", "{\"a\":{\"dtype\":\"F32\",\"x\":01}}", "not a JSON number"},
};

static void test_headers(void **state) {
    (void)state;
    static const unsigned char data[16] = {0};
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        const char *path =
            fixture_raw_safetensors(&folder, "h.safetensors", headers[i].header, data, sizeof data);
        ck_reader *r = NULL;
        ck_error err = {0};
        if (headers[i].text) {
            refused(path, headers[i].text, headers[i].label);
        } else {
            if (ck_reader_open(path, &r, &err) != CK_OK)
                fail_msg("%s: %s", headers[i].label, err.message);
            ck_reader_close(r);
        }
    }
}

/* Documents without data that need no data. */
static void test_nesting(void **state) {
    (void)state;
    enum { DEPTH = 100000 };
    char *text = malloc(2 * DEPTH + 64);
    for (int depth = 100; depth <= DEPTH; depth *= 1000) {
        char *p = text + sprintf(text, "{\"a\":{\"x\":");
        memset(p, '[', (size_t)depth), p += depth;
        memset(p, ']', (size_t)depth), p += depth;
        strcpy(p, ",\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}");
        const char *path = fixture_raw_safetensors(&folder, "n.safetensors", text, NULL, 0);
        if (depth == 100)
            accepted(path, 1, "100 deep");
        else
            refused(path, "nested too deeply", "100000 deep");
    }
    free(text);
}

static void test_control_characters_do_not_reach_the_terminal(void **state) {
    (void)state;
    const char *header = "{" T("\\u001b[31mred", "F32", "[3]", "[0,16]") "}";
    unsigned char data[16] = {0};
    ck_reader *r;
    ck_error err;
    ck_reader_open(fixture_raw_safetensors(&folder, "c.safetensors", header, data, 16), &r, &err);
    assert_null(strchr(err.message, 0x1b));
    assert_non_null(strstr(err.message, "?[31mred"));
}

/* ---- What is read ---- */

static void test_reading(void **state) {
    (void)state;
    const float a[6] = {1, 2, 3, 4, 5, 6};
    const int64_t ids[2] = {-1, 1ll << 40};
    const fixture_tensor tensors[] = {
        {.name = "x.weight", .dtype = CK_F32, .shape = {2, 3}, .rank = 2, .data = a},
        {.name = "ids", .dtype = CK_I64, .shape = {2}, .rank = 1, .data = ids},
    };
    const char *path = fixture_safetensors(&folder, "r.safetensors", tensors, 2,
                                           "{\"format\":\"pt\",\"k\":\"\\u00e9\"}");
    ck_reader *r;
    ck_error err;
    assert_int_equal(ck_reader_open(path, &r, &err), CK_OK);
    assert_string_equal(ck_reader_format(r), "safetensors");
    assert_string_equal(ck_reader_path(r), path);
    size_t count;
    ck_reader_metadata(r, &count);
    assert_int_equal(count, 2);
    assert_string_equal(ck_reader_meta(r, "k"), "\xc3\xa9");
    assert_null(ck_reader_meta(r, "none"));
    assert_null(ck_reader_find(r, "x"));
    const ck_tensor *t = ck_reader_find(r, "x.weight");
    assert_non_null(t);
    assert_int_equal(t->dtype, CK_F32);
    assert_int_equal(t->rank, 2);
    assert_int_equal(t->shape[1], 3);
    assert_int_equal(t->elements, 6);
    assert_int_equal(t->nbytes, 24);
    float part[2];
    assert_int_equal(ck_reader_read(r, t, 8, part, sizeof part, &err), CK_OK);
    assert_memory_equal(part, a + 2, sizeof part);
    ck_reader_close(r);
}

/* Many tensors: found by hash, read in linear time, in memory in proportion to the header. */
static void test_many_tensors(void **state) {
    (void)state;
    enum { COUNT = 100000 };
    char *header = malloc(COUNT * 80);
    char *p = header;
    *p++ = '{';
    for (int i = 0; i < COUNT; i++)
        p += sprintf(p, "%s" T("t%d", "U8", "[1]", "[%d,%d]"), i ? "," : "", i, i, i + 1);
    strcpy(p, "}");
    unsigned char *data = malloc(COUNT);
    for (int i = 0; i < COUNT; i++) data[i] = (unsigned char)(i * 7);
    const char *path = fixture_raw_safetensors(&folder, "m.safetensors", header, data, COUNT);
    ck_reader *r;
    ck_error err;
    assert_int_equal(ck_reader_open(path, &r, &err), CK_OK);
    for (int i = 0; i < COUNT; i++) {
        char name[16];
        unsigned char byte;
        sprintf(name, "t%d", i);
        const ck_tensor *t = ck_reader_find(r, name);
        assert_non_null(t);
        if (i % 1000) continue;
        assert_int_equal(ck_reader_read(r, t, 0, &byte, 1, &err), CK_OK);
        assert_int_equal(byte, (unsigned char)(i * 7));
    }
    ck_reader_close(r);
    free(header);
    free(data);
}

/* ---- Faults ---- */

static const char *small_file(void) {
    static const float a[4] = {1, 2, 3, 4};
    const fixture_tensor tensor = {
        .name = "a", .dtype = CK_F32, .shape = {4}, .rank = 1, .data = a};
    return fixture_safetensors(&folder, "f.safetensors", &tensor, 1, "{\"k\":\"v\"}");
}

static void test_faults(void **state) {
    (void)state;
    const char *path = small_file();
    const fault_kind kinds[] = {FAULT_CALLOC, FAULT_REALLOC, FAULT_OPEN, FAULT_PREAD};
    for (size_t k = 0; k < 4; k++) {
        int met = 0;
        for (fault_first(kinds[k], EIO); fault_more();) {
            ck_reader *r = NULL;
            ck_error err = {0};
            fault_arm();
            ck_status status = ck_reader_open(path, &r, &err);
            fault_disarm();
            if (!fault_hit()) {
                assert_int_equal(status, CK_OK);
                ck_reader_close(r);
                continue;
            }
            met++;
            assert_int_not_equal(status, CK_OK);
            assert_non_null(strstr(err.message, path));
        }
        if (!met && kinds[k] != FAULT_REALLOC)
            fail_msg("%s was never called", fault_name(kinds[k]));
    }
}

static void test_short_reads(void **state) {
    (void)state;
    const char *path = small_file();
    ck_reader *r = NULL;
    ck_error err;
    float data[4];
    fault_short_io(3);
    fault_arm();
    ck_status status = ck_reader_open(path, &r, &err);
    if (status == CK_OK) status = ck_reader_read(r, ck_reader_find(r, "a"), 0, data, 16, &err);
    fault_disarm();
    fault_short_io(0);
    assert_int_equal(status, CK_OK);
    assert_true(data[0] == 1 && data[3] == 4);
    ck_reader_close(r);
}

/* A file that shrinks while it is open: an error, not a crash. */
static void test_truncated_while_open(void **state) {
    (void)state;
    const char *path = small_file();
    ck_reader *r = NULL;
    ck_error err = {0};
    float data[4];
    assert_int_equal(ck_reader_open(path, &r, &err), CK_OK);
    fixture_file(&folder, "f.safetensors", "gone", 4);
    assert_int_equal(ck_reader_read(r, ck_reader_find(r, "a"), 0, data, 16, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "tensor 'a'"));
    ck_reader_close(r);
}

/* ---- Writing ---- */

/* The bytes that safetensors 0.8 writes for these tensors (made once with its Python package). */
static void test_header_is_the_reference_serializers(void **state) {
    (void)state;
    const uint64_t two[] = {2}, square[] = {1, 2}, none[] = {0};
    const ck_tensor tensors[] = {
        {.name = "b", .dtype = CK_F16, .rank = 2, .shape = square, .nbytes = 4},
        {.name = "a", .dtype = CK_F16, .rank = 1, .shape = two, .nbytes = 4},
        {.name = "scalar", .dtype = CK_F32, .rank = 0, .shape = none, .nbytes = 4},
        {.name = "ids", .dtype = CK_I64, .rank = 1, .shape = two, .nbytes = 16},
        {.name = "empty", .dtype = CK_U8, .rank = 1, .shape = none, .nbytes = 0},
        {.name = "quote\"\\\n\x01\xc3\xa9", .dtype = CK_BF16, .rank = 1, .shape = two, .nbytes = 4},
    };
    const char *json = "{\"__metadata__\":{\"format\":\"pt\"},"
                       "\"ids\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[0,16]},"
                       "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[16,20]},"
                       "\"quote\\\"\\\\\\n\\u0001\xc3\xa9\":{\"dtype\":\"BF16\",\"shape\":[2],"
                       "\"data_offsets\":[20,24]},"
                       "\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[24,28]},"
                       "\"b\":{\"dtype\":\"F16\",\"shape\":[1,2],\"data_offsets\":[28,32]},"
                       "\"empty\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[32,32]}}";
    const ck_tensor *order[6];
    for (int i = 0; i < 6; i++) order[i] = &tensors[i];
    ck_safetensors_sort(order, 6);
    const ck_meta meta = {"format", "pt"};
    char *head;
    size_t size;
    uint64_t offsets[6], file_size;
    ck_error err;
    assert_int_equal(
        ck_safetensors_header(order, 6, &meta, 1, &head, &size, offsets, &file_size, &err), CK_OK);
    size_t length = strlen(json), padded = (length + 7) / 8 * 8;
    assert_int_equal(size, 8 + padded);
    assert_int_equal((unsigned char)head[0] | (unsigned char)head[1] << 8, padded);
    assert_memory_equal(head + 8, json, length);
    for (size_t i = length; i < padded; i++) assert_int_equal(head[8 + i], ' ');
    assert_int_equal(offsets[0], size);
    assert_int_equal(offsets[5], size + 32);
    assert_int_equal(file_size, size + 32);
    free(head);
}

static void test_metadata_is_sorted(void **state) {
    (void)state;
    const ck_meta meta[] = {{"z", "1"}, {"a", "2"}, {"m", "3"}};
    char *head;
    size_t size;
    uint64_t file_size;
    ck_error err;
    assert_int_equal(ck_safetensors_header(NULL, 0, meta, 3, &head, &size, NULL, &file_size, &err),
                     CK_OK);
    const char *json = "{\"__metadata__\":{\"a\":\"2\",\"m\":\"3\",\"z\":\"1\"}}";
    assert_memory_equal(head + 8, json, strlen(json));
    free(head);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file_shapes),
        cmocka_unit_test(test_other_files),
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_nesting),
        cmocka_unit_test(test_control_characters_do_not_reach_the_terminal),
        cmocka_unit_test(test_reading),
        cmocka_unit_test(test_many_tensors),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_short_reads),
        cmocka_unit_test(test_truncated_while_open),
        cmocka_unit_test(test_header_is_the_reference_serializers),
        cmocka_unit_test(test_metadata_is_sorted),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
