/* Tokenizers: numbers against those of transformers (tests/interop/make_tokenizer.py), letters, and
 * files that are refused. */
#include "distill/models/tokenizer.h"
#include "distill/models/unicode.h"
#include "io/json.h"
#include "tests/check.h"
#include "tests/fault.h"
#include "tests/fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define DATA "tests/data/tokenizer"

static ck_tokenizer *must_open(const char *folder, const char *suffix) {
    ck_tokenizer *t;
    ck_error err = {0};
    if (ck_tokenizer_open(folder, suffix, &t, &err) != CK_OK) fail_msg("%s", err.message);
    return t;
}

/* Copies a file of the small vocabulary to folder/name. */
static void copy(const fixture *f, const char *from, const char *name) {
    size_t n;
    unsigned char *data = fixture_read(from, &n);
    fixture_file(f, name, data, n);
    free(data);
}

static void text_file(const fixture *f, const char *name, const char *text) {
    fixture_file(f, name, text, strlen(text));
}

static void check_case(const ck_tokenizer *t, const cJSON *one) {
    const char *prompt = cJSON_GetObjectItem(one, "prompt")->valuestring;
    int pad = cJSON_GetObjectItem(one, "pad")->valueint;
    const cJSON *ids = cJSON_GetObjectItem(one, "ids");
    int32_t got[77];
    size_t lost;
    ck_error err = {0};
    if (ck_tokenizer_encode(t, prompt, got, &lost, &err) != CK_OK) fail_msg("%s", err.message);
    assert_int_equal(lost, cJSON_GetObjectItem(one, "lost")->valueint);
    int n = cJSON_GetArraySize(ids);
    for (int i = 0; i < 77; i++) {
        int expected = i < n ? cJSON_GetArrayItem(ids, i)->valueint : pad;
        if (got[i] != expected)
            fail_msg("'%s': number %d is %d, not %d", prompt, i, got[i], expected);
    }
}

static void test_clip(void **state) {
    (void)state;
    ck_json doc;
    ck_error err;
    fixture f;
    fixture_make(&f);
    if (ck_json_load(DATA "/cases.json", &doc, &err) != CK_OK) fail_msg("%s", err.message);
    copy(&f, DATA "/vocab.json", "vocab.json");
    copy(&f, DATA "/merges.txt", "merges.txt");
    text_file(&f, "tokenizer_config.json", "{\"pad_token\": \"!\", \"model_max_length\": 77}");
    ck_tokenizer *plain = must_open(DATA, ""), *zero = must_open(f.folder, "");
    assert_int_equal(ck_tokenizer_length(plain), 77);
    assert_int_equal(ck_tokenizer_end(plain), 693);
    size_t cases = 0, zeros = 0;
    const cJSON *one;
    cJSON_ArrayForEach(one, doc.root) {
        bool other = cJSON_GetObjectItem(one, "pad")->valueint == 0;
        check_case(other ? zero : plain, one);
        cases++;
        zeros += other;
    }
    assert_int_equal(cases, 84);
    assert_int_equal(zeros, 3);
    ck_tokenizer_close(plain);
    ck_tokenizer_close(zero);
    ck_json_free(&doc);
    fixture_remove(&f);
}

/* tokenizer.json of the small vocabulary, with merges as texts or, as newer versions write them, in
 * pairs. */
static void write_whole(const fixture *f, bool pairs) {
    size_t n;
    char *vocabulary = (char *)fixture_read(DATA "/vocab.json", &n);
    cJSON *words = cJSON_ParseWithLength(vocabulary, n);
    char *merges = (char *)fixture_read(DATA "/merges.txt", &n), *rest = merges, *row;
    cJSON *root = cJSON_CreateObject(), *model = cJSON_AddObjectToObject(root, "model");
    merges[n - 1] = 0;
    cJSON_AddStringToObject(model, "type", "BPE");
    cJSON_AddStringToObject(model, "end_of_word_suffix", "</w>");
    cJSON_AddItemToObject(model, "vocab", words);
    cJSON *list = cJSON_AddArrayToObject(model, "merges");
    while ((row = strsep(&rest, "\n"))) {
        char *space = strchr(row, ' ');
        if (!space || *row == '#') continue;
        if (!pairs) {
            cJSON_AddItemToArray(list, cJSON_CreateString(row));
            continue;
        }
        *space = 0;
        const char *const both[] = {row, space + 1};
        cJSON_AddItemToArray(list, cJSON_CreateStringArray(both, 2));
    }
    char *text = cJSON_Print(root);
    text_file(f, "tokenizer.json", text);
    free(text), free(vocabulary), free(merges);
    cJSON_Delete(root);
}

static void test_whole(void **state) {
    (void)state;
    ck_json doc;
    ck_error err;
    fixture f;
    fixture_make(&f);
    if (ck_json_load(DATA "/cases.json", &doc, &err) != CK_OK) fail_msg("%s", err.message);
    for (int pairs = 0; pairs < 2; pairs++) {
        write_whole(&f, pairs);
        ck_tokenizer *t = must_open(f.folder, "");
        size_t cases = 0;
        const cJSON *one;
        cJSON_ArrayForEach(one, doc.root) {
            if (cJSON_GetObjectItem(one, "pad")->valueint == 0) continue;
            check_case(t, one);
            cases++;
        }
        assert_int_equal(cases, 81);
        ck_tokenizer_close(t);
    }
    ck_json_free(&doc);
    fixture_remove(&f);
}

static void test_whole_refused(void **state) {
    (void)state;
#define MODEL "{\"model\": {\"type\": \"BPE\", \"end_of_word_suffix\": \"</w>\", "
#define WORDS                                                                                      \
    "\"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \"<|startoftext|>\": 3, \"<|endoftext|>\": 4}"
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"{}", "tokenizer.json:1: $: has no model"},
        {"{\"model\": {\"type\": \"Unigram\"}}", "$.model: not CLIP's: that is BPE"},
        {"{\"model\": {\"type\": \"BPE\"}}", "$.model: not CLIP's: that is BPE"},
        {MODEL "\"vocab\": []}}", "$.model.vocab: must be an object"},
        {MODEL WORDS "}}", "$.model: merges must be a list"},
        {MODEL WORDS ", \"merges\": [[\"a\"]]}}", "$.model.merges[0]: must be two symbols"},
        {MODEL WORDS ", \"merges\": [1]}}", "$.model.merges[0]: must be two symbols"},
        {MODEL WORDS ", \"merges\": [\"a b\", \"a c\"]}}", "tokenizer.json:2: a symbol, or both"},
        {MODEL WORDS ", \"merges\": [\"a b\", [\"a\", \"b\"]]}}", "this pair is there before"},
    };
    fixture f;
    fixture_make(&f);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        text_file(&f, "tokenizer.json", bad[i].text);
        ck_tokenizer *t;
        ck_error err = {0};
        if (ck_tokenizer_open(f.folder, "", &t, &err) != CK_INPUT ||
            !strstr(err.message, bad[i].message))
            fail_msg("%zu: '%s' lacks '%s'", i, err.message, bad[i].message);
    }
    fixture_remove(&f);
}

/* The folders of a model, and who says what pads. */
static void test_folders(void **state) {
    (void)state;
    fixture f;
    fixture_make(&f);
    char folder[128];
    snprintf(folder, sizeof folder, "%s", fixture_path(&f, "tokenizer_2"));
    assert_int_equal(mkdir(folder, 0777), 0);
    copy(&f, DATA "/vocab.json", "tokenizer_2/vocab.json");
    copy(&f, DATA "/merges.txt", "tokenizer_2/merges.txt");
    text_file(&f, "tokenizer_2/tokenizer_config.json",
              "{\"pad_token\": null, \"model_max_length\": 1000000000000000019884624838656}");
    int32_t ids[77];
    size_t lost;
    ck_error err = {0};
    ck_tokenizer *t = must_open(f.folder, "_2");
    assert_int_equal(ck_tokenizer_encode(t, "", ids, &lost, &err), CK_OK);
    assert_int_equal(ids[76], 693);
    assert_int_equal(ck_tokenizer_length(t), 77);
    ck_tokenizer_close(t);
    text_file(&f, "tokenizer_2/special_tokens_map.json", "{\"pad_token\": {\"content\": \"!\"}}");
    text_file(&f, "tokenizer_2/tokenizer_config.json",
              "{\"pad_token\": \"<|endoftext|>\", \"model_max_length\": 5}");
    t = must_open(f.folder, "_2");
    assert_int_equal(ck_tokenizer_length(t), 5);
    assert_int_equal(ck_tokenizer_encode(t, "", ids, &lost, &err), CK_OK);
    assert_int_equal(ids[4], 0);
    ck_tokenizer_close(t);
    assert_int_equal(ck_tokenizer_open(f.folder, "", &t, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "neither the folder nor its tokenizer has a vocab.json"));
    fixture_remove(&f);
}

static void test_letters(void **state) {
    (void)state;
    static const struct {
        const char *prompt;
        int32_t ids[16];
        size_t lost;
    } cases[] = {
        {"", {1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2}, 0},
        {"t-shirt", {1, 22, 30, 21, 10, 11, 20, 22, 2, 2, 2, 2, 2, 2, 2, 2}, 0},
        {" Ankle \t\nBOOT ", {1, 3, 16, 13, 14, 7, 29, 4, 17, 17, 22, 2, 2, 2, 2, 2}, 0},
        {"abcdefghijklmn", {1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 2}, 0},
        {"abcdefghijklm opz", {1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 29, 2}, 3},
    };
    fixture f;
    fixture_make(&f);
    char folder[128];
    snprintf(folder, sizeof folder, "%s", fixture_path(&f, "text_encoder"));
    assert_int_equal(mkdir(folder, 0777), 0);
    text_file(&f, "text_encoder/config.json",
              "{\"vocab_size\": 32, \"max_position_embeddings\": 16}");
    ck_tokenizer *t = must_open(f.folder, "");
    assert_int_equal(ck_tokenizer_length(t), 16);
    assert_int_equal(ck_tokenizer_end(t), 2);
    int32_t ids[16];
    size_t lost;
    ck_error err = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(ck_tokenizer_encode(t, cases[i].prompt, ids, &lost, &err), CK_OK);
        assert_memory_equal(ids, cases[i].ids, sizeof ids);
        assert_int_equal(lost, cases[i].lost);
    }
    assert_int_equal(ck_tokenizer_encode(t, "bag 7", ids, &lost, &err), CK_USAGE);
    assert_non_null(strstr(err.message, "not '7'"));
    assert_int_equal(ck_tokenizer_encode(t, "b\x1b[2J", ids, &lost, &err), CK_USAGE);
    assert_null(strchr(err.message, 0x1b));
    ck_tokenizer_close(t);
    text_file(&f, "text_encoder/config.json",
              "{\"vocab_size\": 49408, \"max_position_embeddings\": 77}");
    assert_int_equal(ck_tokenizer_open(f.folder, "", &t, &err), CK_INPUT);
    fixture_remove(&f);
}

static void test_prompts_refused(void **state) {
    (void)state;
    ck_tokenizer *t = must_open(DATA, "");
    int32_t ids[77];
    size_t lost, n = (16 << 10) + 1;
    ck_error err = {0};
    assert_int_equal(ck_tokenizer_encode(t, "ab\xff", ids, &lost, &err), CK_USAGE);
    assert_non_null(strstr(err.message, "not UTF-8 at byte 2"));
    char *prompt = malloc(n + 1);
    assert_non_null(prompt);
    memset(prompt, 'a', n);
    prompt[n] = 0;
    assert_int_equal(ck_tokenizer_encode(t, prompt, ids, &lost, &err), CK_USAGE);
    /* One word of the greatest length: the last symbol ends it, all others merge in pairs. */
    prompt[n - 1] = 0;
    assert_int_equal(ck_tokenizer_encode(t, prompt, ids, &lost, &err), CK_OK);
    assert_true(lost > 0);
    free(prompt);
    ck_tokenizer_close(t);
}

static void test_files_refused(void **state) {
    (void)state;
    static const char vocabulary[] =
        "{\"a\": 0, \"b\": 1, \"ab\": 2, \"<|startoftext|>\": 3, \"<|endoftext|>\": 4}";
    static const struct {
        const char *vocabulary, *merges, *config, *message; /* NULL: good ones */
    } bad[] = {
        {"[]", "", "{}", "vocab.json:1: $: must be an object"},
        {"{\"a\": -1}", "", "{}", "$.a: must be a whole number"},
        {"{\"a\": 1.5}", "", "{}", "$.a: must be a whole number"},
        {"{\"a\": 3e9}", "", "{}", "$.a: must be a whole number"},
        {"{\"a\": \"1\"}", "", "{}", "$.a: must be a whole number"},
        {"{\"a\": 1, \"a\": 2}", "", "{}", "there twice"},
        {"{\"<|endoftext|>\": 1}", "", "{}", "has no token '<|startoftext|>'"},
        {"{\"<|startoftext|>\": 1}", "", "{}", "has no token '<|endoftext|>'"},
        {NULL, "#version: 0.2\na b\na", "{}", "merges.txt:3: must be two symbols"},
        {NULL, "a  b", "{}", "merges.txt:1: must be two symbols"},
        {NULL, " b", "{}", "merges.txt:1: must be two symbols"},
        {NULL, "a b c", "{}", "merges.txt:1: must be two symbols"},
        {NULL, "a c", "{}", "merges.txt:1: a symbol, or both as one, is not in"},
        {NULL, "b a", "{}", "merges.txt:1: a symbol, or both as one, is not in"},
        {NULL, "a b\r\n\na b\n", "{}", "merges.txt:3: this pair is there before, in line 1"},
        {NULL, NULL, "{\"pad_token\": \"pad\"}", "has no token 'pad'"},
        {NULL, NULL, "{\"pad_token\": 1}", "must be a text"},
        {NULL, NULL, "{\"model_max_length\": \"77\"}", "must be a number"},
        {NULL, NULL, "{", "tokenizer_config.json:1"},
    };
    fixture f;
    fixture_make(&f);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        text_file(&f, "vocab.json", bad[i].vocabulary ? bad[i].vocabulary : vocabulary);
        text_file(&f, "merges.txt", bad[i].merges ? bad[i].merges : "a b\n");
        text_file(&f, "tokenizer_config.json", bad[i].config);
        ck_tokenizer *t;
        ck_error err = {0};
        if (ck_tokenizer_open(f.folder, "", &t, &err) != CK_INPUT ||
            !strstr(err.message, bad[i].message))
            fail_msg("%zu: '%s' lacks '%s'", i, err.message, bad[i].message);
    }
    ck_tokenizer *t;
    ck_error err = {0};
    text_file(&f, "tokenizer_config.json", "{}");
    fixture_file(&f, "merges.txt", "a b\n\0b", 6);
    assert_int_equal(ck_tokenizer_open(f.folder, "", &t, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "a NUL at offset 4"));
    remove(fixture_path(&f, "merges.txt"));
    assert_int_equal(ck_tokenizer_open(f.folder, "", &t, &err), CK_IO);
    fixture_remove(&f);
}

static void test_faults(void **state) {
    (void)state;
    static const fault_kind kinds[] = {FAULT_CALLOC, FAULT_REALLOC, FAULT_OPEN, FAULT_PREAD};
    fixture f;
    fixture_make(&f);
    text_file(&f, "vocab.json",
              "{\"a\": 0, \"b\": 1, \"ab\": 2, \"<|startoftext|>\": 3, \"<|endoftext|>\": 4}");
    text_file(&f, "merges.txt", "a b\n");
    text_file(&f, "tokenizer_config.json", "{\"pad_token\": \"a\"}");
    for (int k = 0; k < 4; k++) {
        size_t faults = 0;
        for (fault_first(kinds[k], k < 2 ? ENOMEM : EIO); fault_more();) {
            ck_tokenizer *t = NULL;
            ck_error err = {0};
            int32_t ids[77];
            size_t lost;
            fault_arm();
            ck_status status = ck_tokenizer_open(f.folder, "", &t, &err);
            if (status == CK_OK) status = ck_tokenizer_encode(t, "a b ab", ids, &lost, &err);
            fault_disarm();
            faults += fault_hit();
            assert_int_equal(status, !fault_hit() ? CK_OK : k < 2 ? CK_MEMORY : CK_IO);
            ck_tokenizer_close(t);
        }
        assert_true(faults > 0);
    }
    fixture_remove(&f);
}

static void test_unicode(void **state) {
    (void)state;
    assert_int_equal(ck_unicode_lower('A'), 'a');
    assert_int_equal(ck_unicode_lower('['), '[');
    assert_int_equal(ck_unicode_lower(0x178), 0xff);      /* Y with diaeresis, far away */
    assert_int_equal(ck_unicode_lower(0x100), 0x101);     /* rows of step 2 ... */
    assert_int_equal(ck_unicode_lower(0x101), 0x101);     /* ... and what lies between */
    assert_int_equal(ck_unicode_lower(0x1e921), 0x1e943); /* the last row */
    assert_int_equal(ck_unicode_lower(0x10ffff), 0x10ffff);
    assert_true(ck_unicode_is_letter('z') && !ck_unicode_is_letter('{'));
    assert_true(ck_unicode_is_letter(0x3134a) && !ck_unicode_is_letter(0x10ffff));
    assert_true(ck_unicode_is_number(0xbd) && !ck_unicode_is_number('a'));
    size_t at = 0;
    static const char text[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x90\x88";
    assert_int_equal(ck_unicode_next(text, &at), 'a');
    assert_int_equal(ck_unicode_next(text, &at), 0xe9);
    assert_int_equal(ck_unicode_next(text, &at), 0x20ac);
    assert_int_equal(ck_unicode_next(text, &at), 0x1f408);
    assert_int_equal(at, sizeof text - 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clip),          cmocka_unit_test(test_folders),
        cmocka_unit_test(test_letters),       cmocka_unit_test(test_prompts_refused),
        cmocka_unit_test(test_whole),         cmocka_unit_test(test_whole_refused),
        cmocka_unit_test(test_files_refused), cmocka_unit_test(test_faults),
        cmocka_unit_test(test_unicode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
