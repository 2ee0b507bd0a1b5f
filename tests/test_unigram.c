/* T5's tokenizer, of both kinds of files: numbers against SentencePiece's and tokenizers' own
 * (tests/interop/make_spiece.py, make_pipelines.py), and files that are not as they should be. */
#include "tests/folder.h"

#include "distill/models/charsmap.h"
#include "distill/models/unigram.h"
#include "io/json.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { LENGTH = 160 };

/* ---- Numbers ---- */

/* length: of what is padded and cut to it; else LENGTH is enough for all. */
static void check_case(const ck_unigram *u, const cJSON *one, size_t length) {
    const char *prompt = cJSON_GetObjectItem(one, "prompt")->valuestring;
    const cJSON *want = cJSON_GetObjectItem(one, "ids")->child;
    int32_t ids[LENGTH];
    size_t lost;
    ok(ck_unigram_encode(u, prompt, length, ids, &lost, &err));
    if (length == LENGTH) assert_int_equal(lost, 0);
    for (size_t i = 0; i < length; i++, want = want ? want->next : NULL) {
        int id = want ? want->valueint : 0;
        if (ids[i] != id) fail_msg("'%s': token %zu is %d, not %d", prompt, i, ids[i], id);
    }
}

/* The texts of a file. */
static void check_cases(const char *folder, const char *suffix, const char *cases, size_t length,
                        int least) {
    ck_json doc;
    ck_unigram *u;
    const cJSON *one;
    ok(ck_json_load(cases, &doc, &err));
    ok(ck_unigram_open(folder, suffix, &u, &err));
    assert_true(cJSON_GetArraySize(doc.root) >= least);
    cJSON_ArrayForEach(one, doc.root) check_case(u, one, length);
    ck_unigram_close(u);
    ck_json_free(&doc);
}

static void test_numbers(void **state) {
    (void)state;
    check_cases("tests/data/pipelines/sd3", "_3", "tests/data/pipelines/t5.json", 64, 10);
    check_cases("tests/data/spiece", "", "tests/data/spiece/cases.json", LENGTH, 100);
    check_cases("tests/data/spiece/json", "", "tests/data/spiece/json/cases.json", LENGTH, 4);
}

static void test_lengths(void **state) {
    (void)state;
    ck_unigram *u;
    int32_t few[4];
    size_t lost;
    ok(ck_unigram_open("tests/data/pipelines/sd3", "_3", &u, &err));
    ok(ck_unigram_encode(u, "a photo of a cat, a dog", 4, few, &lost, &err));
    assert_true(lost > 3 && few[3] == 1);
    assert_int_equal(ck_unigram_encode(u, "\xff", 4, few, &lost, &err), CK_USAGE);
    ck_unigram_close(u);
}

/* Where it lies: in the folder's tokenizer, with tokenizer.json before spiece.model, or beside. */
static void test_places(void **state) {
    (void)state;
    ck_unigram *u;
    size_t n;
    char *model = (char *)fixture_read("tests/data/spiece/spiece.model", &n);
    fixture_file(&f, "spiece.model", model, n);
    ok(ck_unigram_open(f.folder, "_2", &u, &err));
    assert_int_equal(ck_unigram_largest(u), 139);
    ck_unigram_close(u);
    assert_int_equal(mkdir(fixture_path(&f, "tokenizer_2"), 0777), 0);
    fixture_file(&f, "tokenizer_2/spiece.model", model, n);
    fixture_file(&f, "tokenizer_2/tokenizer.json", "[]", 2);
    assert_int_equal(ck_unigram_open(f.folder, "_2", &u, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "tokenizer_2/tokenizer.json"));
    assert_int_equal(ck_unigram_open(fixture_path(&f, "none"), "_2", &u, &err), CK_IO);
    assert_non_null(strstr(err.message, "tokenizer_2/tokenizer.json"));
    free(model);
}

/* ---- Malformed ---- */

#define UNIGRAM(rest) "{\"model\": {\"type\": \"Unigram\", \"vocab\": " rest "}"
#define NORMALIZED(normalizer)                                                                     \
    "{\"normalizer\": " normalizer ", \"model\": {\"vocab\": [[\"a\", 0], [\"</s>\", 0], "         \
    "[\"<pad>\", 0]], \"unk_id\": 0}}"
#define PRECOMPILED(map)                                                                           \
    NORMALIZED("{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"" map "\"}")

static const struct {
    const char *text, *says;
} jsons[] = {
    {"[]", "has no model"},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": [], \"unk_id\": 0}}", "no Unigram"},
    {UNIGRAM("{}, \"unk_id\": 0}"), "no Unigram"},
    {UNIGRAM("[[\"a\"]], \"unk_id\": 0}"), "score"},
    {UNIGRAM("[[\"a\", 0], [\"a\", 1]], \"unk_id\": 0}"), "twice"},
    {UNIGRAM("[[\"a\", 0]], \"unk_id\": 1}"), "unk_id"},
    {UNIGRAM("[[\"a\", 0]], \"unk_id\": 0}"), "</s>"},
    {NORMALIZED("1"), "with a type"},
    {NORMALIZED("{\"type\": \"Lowercase\"}"), "not implemented"},
    {NORMALIZED("{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFD\"}]}"),
     "not implemented"},
    {NORMALIZED("{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"a\"}}"), "not implemented"},
    {NORMALIZED("{\"type\": \"Precompiled\"}"), "not implemented"},
    {PRECOMPILED("AAA"), "no base64"},
    {PRECOMPILED("AA=A"), "no base64"},
    {PRECOMPILED("A==="), "no base64"},
    {PRECOMPILED("AAA!"), "no base64"},
    {PRECOMPILED("AAAA"), "charsmap's trie"},
};

static void test_malformed_json(void **state) {
    (void)state;
    ck_unigram *u;
    for (size_t i = 0; i < sizeof jsons / sizeof *jsons; i++) {
        fixture_file(&f, "tokenizer.json", jsons[i].text, strlen(jsons[i].text));
        assert_int_equal(ck_unigram_open(f.folder, "", &u, &err), CK_INPUT);
        if (!strstr(err.message, jsons[i].says)) fail_msg("%zu: %s", i, err.message);
    }
    const char *good =
        NORMALIZED("{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Strip\"}]}");
    fixture_file(&f, "tokenizer.json", good, strlen(good));
    ok(ck_unigram_open(f.folder, "", &u, &err));
    ck_unigram_close(u);
}

/* A piece of n bytes in all, of score -1 or as given. */
#define SCORE       "\x15\0\0\x80\xbf"
#define END_AND_PAD "\x0a\x0d\x0a\x04</s>" SCORE "\x18\x03\x0a\x0e\x0a\x05<pad>" SCORE "\x18\x03"
#define UNKNOWN     "\x0a\x0e\x0a\x05<unk>" SCORE "\x18\x02"
#define SPECIAL     END_AND_PAD UNKNOWN
#define SPIECE(s)   s, sizeof(s) - 1

static const struct {
    const char *bytes;
    size_t n;
    const char *says; /* NULL: it is good */
} spieces[] = {
    {SPIECE(SPECIAL), NULL},
    {SPIECE(SPECIAL "\x0a\x08\x0a\x01"
                    "a" SCORE),
     NULL},
    {SPIECE(SPECIAL "\x0a\x0a\x0a\x01"
                    "a" SCORE "\x18\x05"),
     NULL},
    {SPIECE(SPECIAL "\x7a\x01x\x78\x01\x79"
                    "12345678"
                    "\x7d"
                    "1234"),
     NULL}, /* fields not known */
    {SPIECE(""), "no unknown piece"},
    {SPIECE(END_AND_PAD), "no unknown piece"},
    {SPIECE(UNKNOWN), "no piece '</s>'"},
    {SPIECE(SPECIAL UNKNOWN), "a second unknown"},
    {SPIECE(SPECIAL "\x0a\x08\x0a\x01"
                    "a" SCORE "\x0a\x08\x0a\x01"
                    "a" SCORE),
     "'a' is there twice"},
    {SPIECE(SPECIAL "\x0a"), "does not end"},
    {SPIECE(SPECIAL "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"), "does not end"},
    {SPIECE(SPECIAL "\x0a\x7f"), "beyond the end"},
    {SPIECE(SPECIAL "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "beyond the end"},
    {SPIECE(SPECIAL "\x0a\x03\x0a\x7f"
                    "a"),
     "beyond the end"},
    {SPIECE(SPECIAL "\x0d\x01\x02"), "beyond the end"},
    {SPIECE(SPECIAL "\x0b"), "of a kind that is not known"},
    {SPIECE(SPECIAL "\x08\x01"), "of another kind"},
    {SPIECE(SPECIAL "\x0a\x02\x08\x01"), "of another kind"},
    {SPIECE(SPECIAL "\x0a\x05\x0a\x01"
                    "a"
                    "\x10\x01"),
     "of another kind"},
    {SPIECE(SPECIAL "\x0a\x00"), "no or too many bytes"},
    {SPIECE(SPECIAL "\x0a\x03\x0a\x01\xff"), "not UTF-8"},
    {SPIECE(SPECIAL "\x0a\x08\x0a\x01"
                    "a"
                    "\x15\0\0\x80\x7f"),
     "not finite"},
    {SPIECE(SPECIAL "\x0a\x05\x0a\x01"
                    "a"
                    "\x18\x04"),
     "not implemented"},
    {SPIECE(SPECIAL "\x0a\x05\x0a\x01"
                    "a"
                    "\x18\x06"),
     "not implemented"},
    {SPIECE(SPECIAL "\x12\x02\x18\x02"), "no unigram"},
    {SPIECE(SPECIAL "\x12\x03\x98\x02\x01"), "byte_fallback"},
    {SPIECE(SPECIAL "\x12\x03\xc0\x01\x01"), "byte_fallback"},
    {SPIECE(SPECIAL "\x1a\x02\x20\x00"), "spaces"},
    {SPIECE(SPECIAL "\x1a\x05\x12\x03"
                    "123"),
     "charsmap's trie"},
};

static void test_malformed_spiece(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof spieces / sizeof *spieces; i++) {
        ck_unigram *u;
        ck_status s = ck_unigram_parse("it", spieces[i].bytes, spieces[i].n, &u, &err);
        if (s != (spieces[i].says ? CK_INPUT : CK_OK)) fail_msg("%zu: %d %s", i, s, err.message);
        if (spieces[i].says && !strstr(err.message, spieces[i].says))
            fail_msg("%zu: %s", i, err.message);
        if (!spieces[i].says) ck_unigram_close(u);
    }
}

/* Every beginning of a real one is refused, or read: nothing beyond it is looked at. */
static void test_cut(void **state) {
    (void)state;
    size_t n, read = 0;
    char *model = (char *)fixture_read("tests/data/spiece/spiece.model", &n);
    for (size_t k = 0; k < n; k += k < 4096 ? 1 : 997) {
        ck_unigram *u;
        char *part = malloc(k ? k : 1);
        memcpy(part, model, k);
        ck_status s = ck_unigram_parse("it", part, k, &u, &err);
        free(part);
        assert_true(s == CK_OK || s == CK_INPUT);
        if (s == CK_OK) ck_unigram_close(u), read++;
    }
    assert_true(read > 100);
    free(model);
}

/* ---- The table of characters ---- */

enum { UNITS = 512 };

/* A table in which "a" stands for the text at `value`; units are changed by the tests. */
typedef struct table {
    unsigned char size[4], units[4 * UNITS];
    char texts[16];
} table;

static void put(table *t, size_t at, uint32_t u) {
    for (int i = 0; i < 4; i++) t->units[4 * at + (size_t)i] = (unsigned char)(u >> 8 * i);
}

static table make_table(uint32_t value) {
    table t = {.size = {0, 8}, .texts = "bb\0\xff\0cccccc"};
    put(&t, 0, 256u << 10);                       /* the root's children: from 256 on */
    put(&t, 256 ^ 'a', 'a' | 1u << 8 | 1u << 10); /* one with a leaf, beside it */
    put(&t, 256 ^ 'a' ^ 1, 1u << 31 | value);
    return t;
}

static void test_table(void **state) {
    (void)state;
    ck_charsmap map;
    char *out;
    table t = make_table(0);
    ok(ck_charsmap_parse("it", &t, sizeof t, &map, &err));
    ok(ck_charsmap_apply(&map, "xa\xc3\xa4 aa", 7, &out, &err));
    assert_string_equal(out, "xbb\xc3\xa4 bbbb");
    free(out);
    ok(ck_charsmap_parse("it", "", 0, &map, &err));
    ok(ck_charsmap_apply(&map, "xa", 2, &out, &err));
    assert_string_equal(out, "xa");
    free(out);
    t = make_table(3); /* a text that is not UTF-8 */
    ok(ck_charsmap_parse("it", &t, sizeof t, &map, &err));
    assert_int_equal(ck_charsmap_apply(&map, "a", 1, &out, &err), CK_INPUT);
}

static void refused(const table *t, size_t n) {
    ck_charsmap map;
    assert_int_equal(ck_charsmap_parse("it", t, n, &map, &err), CK_INPUT);
}

static void test_malformed_table(void **state) {
    (void)state;
    table t = make_table(16); /* a text behind the last */
    refused(&t, sizeof t);
    t = make_table(0);
    put(&t, 0, 512u << 10); /* children behind the last unit */
    refused(&t, sizeof t);
    put(&t, 0, 2u << 10 | 1u << 9);
    refused(&t, sizeof t);
    t = make_table(0);
    refused(&t, sizeof t - 16); /* no texts */
    refused(&t, 4 + 4 * UNITS - 1);
    refused(&t, 3);
    t.texts[15] = 'x'; /* a text that does not end */
    refused(&t, sizeof t);
    t.texts[15] = 0;
    t.size[0] = 4; /* no whole blocks */
    refused(&t, sizeof t);
}

/* A table that makes far too much of little. */
static void test_growth(void **state) {
    (void)state;
    struct {
        table t;
        char more[256];
    } big = {make_table(5), ""};
    ck_charsmap map;
    char *out;
    memset(big.t.texts + 5, 'c', sizeof big.t.texts - 5);
    memset(big.more, 'c', sizeof big.more - 1);
    ok(ck_charsmap_parse("it", &big, sizeof big, &map, &err));
    assert_int_equal(ck_charsmap_apply(&map, "aaa", 3, &out, &err), CK_INPUT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test_setup_teardown(test_places, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_malformed_json, set_up, tear_down),
        cmocka_unit_test(test_malformed_spiece),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_malformed_table),
        cmocka_unit_test(test_growth),
    };
    return cmocka_run_group_tests_name("unigram", tests, NULL, NULL);
}
