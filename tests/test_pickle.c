/* The pickle machine: what its nodes say, what it shares, what it refuses and where, and that
 * memory follows the bytes that are there and not what they claim. */
#include "tests/check.h"

#include "io/os.h"
#include "io/pickle.h"
#include "tests/fault.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ck_error err;

typedef struct memory {
    const char *data;
    size_t n, at;
} memory;

static ck_status read_memory(void *context, void *dst, size_t n, size_t *got, ck_error *e) {
    memory *m = context;
    (void)e;
    *got = n < m->n - m->at ? n : m->n - m->at;
    if (*got) memcpy(dst, m->data + m->at, *got);
    m->at += *got;
    return CK_OK;
}

/* The imports seen, one behind the other: "GLOBAL os.system 2; ". */
static char imports[4096];

static ck_status note_import(void *context, const ck_pickle_import *i, ck_error *e) {
    (void)context, (void)e;
    size_t used = strlen(imports);
    snprintf(imports + used, sizeof imports - used, "%s %s.%s %d; ", i->opcode,
             i->module ? i->module : "?", i->name ? i->name : "?", (int)i->offset);
    return CK_OK;
}

static ck_status load(const char *data, size_t n, bool strict, ck_pickle *pickle) {
    memory m = {data, n, 0};
    ck_pickle_input in = {.read = read_memory, .context = &m, .name = "f"};
    ck_pickle_rules rules = {.strict = strict, .import = note_import};
    imports[0] = 0;
    return ck_pickle_load(&in, &rules, pickle, &err);
}

#define LOAD(text, strict, pickle) load(text, sizeof(text) - 1, strict, pickle)

#define GOOD(text, strict)                                                                         \
    ck_pickle pickle;                                                                              \
    if (LOAD(text, strict, &pickle) != CK_OK) fail_msg("%s", err.message);                         \
    const ck_pickle_node *root = pickle.root;

static void assert_text(const ck_pickle_node *n, const char *text) {
    assert_int_equal(n->kind, CK_PICKLE_TEXT);
    assert_int_equal(n->count, strlen(text));
    assert_string_equal(n->text, text);
}

/* ---- Values ---- */

static void test_numbers(void **state) {
    (void)state;
    static const struct {
        const char *data;
        size_t n;
        int64_t value;
    } numbers[] = {
        {"K\xff.", 3, 255},
        {"M\x34\x12.", 4, 0x1234},
        {"J\xfe\xff\xff\xff.", 6, -2},
        {"J\xff\xff\xff\x7f.", 6, INT32_MAX},
        {"\x8a\x00.", 3, 0},
        {"\x8a\x01\xff.", 4, -1},
        {"\x8a\x02\xff\x00.", 5, 255},
        {"\x8a\x05\x00\x00\x00\x00\x01.", 8, INT64_C(1) << 32},
        {"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80.", 11, INT64_MIN},
        {"\x8b\x01\x00\x00\x00\x07.", 7, 7},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        ck_pickle p;
        assert_int_equal(load(numbers[i].data, numbers[i].n, true, &p), CK_OK);
        assert_int_equal(p.root->kind, CK_PICKLE_INT);
        assert_int_equal(p.root->integer, numbers[i].value);
        ck_pickle_free(&p);
    }
}

static void test_values(void **state) {
    (void)state;
    GOOD("\x80\x04\x95\x03\x00\x00\x00\x00\x00\x00\x00"
         "(N\x88\x89G12345678\x8c\x02hiX\x02\x00\x00\x00yoU\x01uT\x01\x00\x00\x00t"
         "\x8d\x01\x00\x00\x00\x00\x00\x00\x00lC\x03"
         "abcB\x01\x00\x00\x00x\x8e\x01\x00\x00\x00\x00\x00\x00\x00y"
         "\x96\x01\x00\x00\x00\x00\x00\x00\x00z\x8f)\x8a\x09"
         "123456789t.",
         true)
    assert_int_equal(root->kind, CK_PICKLE_TUPLE);
    assert_int_equal(root->count, 16);
    ck_pickle_node *const *v = root->items;
    assert_int_equal(v[0]->kind, CK_PICKLE_NONE);
    assert_true(v[1]->kind == CK_PICKLE_BOOL && v[1]->integer == 1);
    assert_true(v[2]->kind == CK_PICKLE_BOOL && v[2]->integer == 0);
    assert_int_equal(v[3]->kind, CK_PICKLE_OTHER);
    assert_text(v[4], "hi");
    assert_text(v[5], "yo");
    assert_text(v[6], "u");
    assert_text(v[7], "t");
    assert_text(v[8], "l");
    for (int i = 9; i <= 13; i++) assert_int_equal(v[i]->kind, CK_PICKLE_OTHER);
    assert_true(v[14]->kind == CK_PICKLE_TUPLE && v[14]->count == 0);
    assert_int_equal(v[15]->kind, CK_PICKLE_OTHER);
    assert_int_equal(v[5]->offset, 28);
    ck_pickle_free(&pickle);
}

static void test_containers(void **state) {
    (void)state;
    /* ((1,), (1, 2), (1, 2, 3), [1, 2, 3], {'a': 1, 'b': 2, 'a': 3}) */
    GOOD("(K\1\x85K\1K\2\x86K\1K\2K\3\x87](K\1K\2eK\3a}(U\1aK\1U\1bK\2uU\1aK\3st.", true)
    assert_int_equal(root->count, 5);
    for (uint32_t n = 0; n < 4; n++) {
        const ck_pickle_node *c = root->items[n];
        assert_int_equal(c->kind, n < 3 ? CK_PICKLE_TUPLE : CK_PICKLE_LIST);
        assert_int_equal(c->count, n < 3 ? n + 1 : 3);
        for (uint32_t i = 0; i < c->count; i++) assert_int_equal(c->items[i]->integer, i + 1);
    }
    const ck_pickle_node *d = root->items[4];
    assert_int_equal(d->kind, CK_PICKLE_DICT);
    assert_int_equal(d->count, 6);
    assert_text(d->items[4], "a");
    assert_int_equal(d->items[5]->integer, 3);
    ck_pickle_free(&pickle);
}

static void test_calls(void **state) {
    (void)state;
    /* persistent id, REDUCE with what is set in the result, NEWOBJ, NEWOBJ_EX, BUILD */
    GOOD("(U\2idQccollections\nOrderedDict\n)R(U\1kK\5u}b"
         "\x8c\1m\x8c\1n\x93K\1\x85\x81"
         "cm\no\n)}\x92t.",
         true)
    assert_string_equal(imports, "GLOBAL collections.OrderedDict 6; STACK_GLOBAL m.n 48; "
                                 "GLOBAL m.o 53; ");
    assert_int_equal(root->items[0]->kind, CK_PICKLE_PERSISTENT);
    assert_text(root->items[0]->items[0], "id");
    assert_int_equal(pickle.persistent_count, 1);
    assert_ptr_equal(pickle.persistent[0], root->items[0]);
    const ck_pickle_node *call = root->items[1];
    assert_int_equal(call->kind, CK_PICKLE_CALL);
    assert_int_equal(call->count, 4);
    assert_string_equal(call->items[0]->text, "collections.OrderedDict");
    assert_int_equal(call->items[0]->count, 11);
    assert_int_equal(call->items[1]->count, 0);
    assert_text(call->items[2], "k");
    assert_int_equal(call->items[3]->integer, 5);
    assert_int_equal(root->items[2]->items[1]->items[0]->integer, 1);
    assert_string_equal(root->items[3]->items[0]->text, "m.o");
    ck_pickle_free(&pickle);
}

static void test_memo(void **state) {
    (void)state;
    /* Any numbers, up to 2^32 - 1; what is stored is shared, and may hold itself. */
    GOOD("(]r\xff\xff\xff\xffj\xff\xff\xff\xff"
         "aU\1aq\7h\7U\1bq\7h\7U\1c\x94h\2t.",
         true)
    assert_int_equal(root->count, 7);
    assert_ptr_equal(root->items[0]->items[0], root->items[0]);
    assert_ptr_equal(root->items[1], root->items[2]);
    assert_text(root->items[4], "b");
    assert_ptr_equal(root->items[3], root->items[4]);
    assert_ptr_equal(root->items[5], root->items[6]);
    ck_pickle_free(&pickle);
}

static void test_stack(void **state) {
    (void)state;
    GOOD("(K\1K\0020(K\3K\00412(((000t.", true) /* POP, POP_MARK, DUP, POP of marks */
    assert_int_equal(root->count, 2);
    assert_ptr_equal(root->items[0], root->items[1]);
    assert_int_equal(root->items[0]->integer, 1);
    ck_pickle_free(&pickle);
}

/* Names hidden in every way in which Python finds them. */
static void test_hidden_names(void **state) {
    (void)state;
    static const struct {
        const char *data, *imports;
    } hidden[] = {
        {"cos\nsystem\n.", "GLOBAL os.system 0; "},
        {"(K\1ios\nsystem\n.", "INST os.system 3; "},
        {"(cos\nsystem\nK\1o.", "GLOBAL os.system 1; "},
        {"S'os'\nS\"system\"\n\x93.", "STACK_GLOBAL os.system 16; "},
        {"S'\\x6fs'\nS'\\163y\\x73tem'  \n\x93.", "STACK_GLOBAL os.system 27; "},
        {"S'o\\s'\nS'a\\\\b\\'\\18'\n\x93.", "STACK_GLOBAL o\\s.a\\b'\0018 20; "},
        {"V\\u006fs\nV\\U00000073ystem\n\x93.", "STACK_GLOBAL os.system 26; "},
        {"V\\\\u006f\nV\xe9\n\x93.", "STACK_GLOBAL \\\\u006f.\xc3\xa9 12; "},
        {"U\2osp 0_1 \n0U\6systemg+1\n1.", NULL},
        {"U\2osp 0_1 \n0g+1\nU\6system\x93.", "STACK_GLOBAL os.system 24; "},
        {"U\2osp-0\n0g-0\nU\6system\x93.", "STACK_GLOBAL os.system 21; "},
        {"K\3U\6system\x93.", "STACK_GLOBAL ?.? 10; "},
        {"B\2\1\1\1", NULL},
        {"U\2osq\x05\x30U\6systemh\5\x93.", "STACK_GLOBAL system.os 17; "},
        {"Pid\n0I01\n0L7L\n0F1.5\n0K\1\x98", NULL},
    };
    for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++) {
        ck_pickle p;
        ck_status status = load(hidden[i].data, strlen(hidden[i].data), false, &p);
        if (!hidden[i].imports) {
            assert_int_equal(status, CK_INPUT);
            assert_string_equal(imports, "");
            continue;
        }
        if (status != CK_OK) fail_msg("%zu: %s", i, err.message);
        assert_string_equal(imports, hidden[i].imports);
        ck_pickle_free(&p);
    }
}

static void test_in_a_row(void **state) {
    (void)state;
    static const char two[] = "K\1.\x80\2K\2.rest";
    memory m = {two, sizeof two - 1, 0};
    ck_pickle_input in = {.read = read_memory, .context = &m, .name = "f"};
    ck_pickle_rules rules = {.strict = true};
    for (int i = 1; i <= 2; i++) {
        ck_pickle p;
        bool more = false;
        assert_int_equal(ck_pickle_input_more(&in, &more, &err), CK_OK);
        assert_true(more);
        assert_int_equal(ck_pickle_load(&in, &rules, &p, &err), CK_OK);
        assert_int_equal(p.root->integer, i);
        ck_pickle_free(&p);
    }
    assert_int_equal(in.offset, 8);
    ck_pickle p;
    assert_int_equal(ck_pickle_load(&in, &rules, &p, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "offset 8"));
}

/* ---- What is refused ---- */

static const struct refusal {
    const char *data;
    size_t n;
    const char *message;
} refusals[] = {
#define BAD(data, message)                                                                         \
    { data, sizeof(data) - 1, message }
    BAD("", "f: pickle opcode STOP (missing) at offset 0: the pickle ends at offset 0"),
    BAD("K", "opcode BININT1 at offset 0: the pickle ends at offset 1, 1 bytes too early"),
    BAD(".", "opcode STOP at offset 0: not enough values"),
    BAD("\xff.", "opcode 0xff at offset 0: there is no such opcode"),
    BAD("\x80\6N.", "opcode PROTO at offset 0: a protocol newer than 5"),
    BAD("Nh\1.", "opcode BINGET at offset 1: nothing was stored"),
    BAD("Nj\1\0\0\0.", "opcode LONG_BINGET at offset 1: nothing was stored"),
    BAD("q\1.", "opcode BINPUT at offset 0: not enough values"),
    BAD("\x94.", "opcode MEMOIZE at offset 0: not enough values"),
    BAD("N\x86.", "opcode TUPLE2 at offset 1: not enough values"),
    BAD("NN(\x85.", "opcode TUPLE1 at offset 3: not enough values"),
    BAD("t.", "opcode TUPLE at offset 0: no mark"),
    BAD("(t\x86.", "opcode TUPLE2 at offset 2: not enough values"),
    BAD("1.", "opcode POP_MARK at offset 0: no mark"),
    BAD("0.", "opcode POP at offset 0: not enough values"),
    BAD("2.", "opcode DUP at offset 0: not enough values"),
    BAD("}(Nu.", "opcode SETITEMS at offset 3: a key without a value"),
    BAD("(e.", "opcode APPENDS at offset 1: not enough values"),
    BAD("}Na.", "opcode APPEND at offset 2: what it adds to"),
    BAD("]NNs.", "opcode SETITEM at offset 3: what it adds to"),
    BAD("](N\x90.", "opcode ADDITEMS at offset 3: what it adds to"),
    BAD("]Nb.", "opcode BUILD at offset 2: what it adds to"),
    BAD("N)R.", "opcode REDUCE at offset 2: calls something that was not imported"),
    BAD("cm\nn\nNR.", "opcode REDUCE at offset 6: calls something"),
    BAD("cm\nn\n)R)R.", "opcode REDUCE at offset 8: calls something"),
    BAD("c\nn\n.", "opcode GLOBAL at offset 0: not the name"),
    BAD("cm\nn n\n.", "opcode GLOBAL at offset 0: not the name"),
    BAD("cm\n\xff\n.", "opcode GLOBAL at offset 0: not the name"),
    BAD("U\2m\0U\1n\x93.", "opcode STACK_GLOBAL at offset 7: not the name"),
    BAD("K\1U\1n\x93.", "opcode STACK_GLOBAL at offset 5: module and name must be texts"),
    BAD("X\xff\xff\xff\xff"
        "abc",
        "opcode BINUNICODE at offset 0: the pickle ends at offset 8"),
    BAD("X\xff\xff\0\0abc", "opcode BINUNICODE at offset 0: the pickle ends at offset 8, 65532"),
    BAD("\x8e\xff\xff\xff\xff\xff\xff\xff\xff"
        "abc",
        "opcode BINBYTES8 at offset 0"),
    BAD("\x8b\xff\xff\xff\xff.", "opcode LONG4 at offset 0: the pickle ends"),
    BAD("I1\n.", "opcode INT at offset 0: refused"),
    BAD("L1L\n.", "opcode LONG at offset 0: refused"),
    BAD("F1\n.", "opcode FLOAT at offset 0: refused"),
    BAD("S'a'\n.", "opcode STRING at offset 0: refused"),
    BAD("Va\n.", "opcode UNICODE at offset 0: refused"),
    BAD("(l.", "opcode LIST at offset 1: refused"),
    BAD("(d.", "opcode DICT at offset 1: refused"),
    BAD("Np1\n.", "opcode PUT at offset 1: refused"),
    BAD("Ng1\n.", "opcode GET at offset 1: refused"),
    BAD("(ios\nsystem\n.", "opcode INST at offset 1: refused"),
    BAD("(Np1\no.", "opcode PUT at offset 2: refused"),
    BAD("(o.", "opcode OBJ at offset 1: refused"),
    BAD("P1\n.", "opcode PERSID at offset 0: refused"),
    BAD("\x82\1.", "opcode EXT1 at offset 0: refused"),
    BAD("\x83\1\1.", "opcode EXT2 at offset 0: refused"),
    BAD("\x84\1\1\1\1.", "opcode EXT4 at offset 0: refused"),
    BAD("\x97.", "opcode NEXT_BUFFER at offset 0: refused"),
    BAD("N\x98.", "opcode READONLY_BUFFER at offset 1: refused"),
};

static void test_refusals(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        ck_pickle p;
        assert_int_equal(load(refusals[i].data, refusals[i].n, true, &p), CK_INPUT);
        if (!strstr(err.message, refusals[i].message))
            fail_msg("'%s' is not '%s'", err.message, refusals[i].message);
    }
}

/* The lenient machine is only lenient: what Python itself cannot get past is an error there too. */
static void test_lenient(void **state) {
    (void)state;
    static const char *const bad[] = {
        "\xff.",    "\x80\6N.", "Nh\1.",   "t.",    "S'a\n.",  "S'\\xg'\n.", "V\\u12\n.", "Ng1_\n.",
        "Ng__1\n.", "Ng\n.",    "Np-1\n.", "\x97.", "\x82\1.", "(o.",        "c\nn\n.",   "N\x86."};
    static const char *const good[] = {"}Na.",       "]NNs.",       "]Nb.",    "N)R.",
                                       "cm\nn\nNR.", "(Nl.",        "(NNd.",   "N\x98.",
                                       "(N\x91.",    "\x8f(N\x90.", "N(N\x90."};
    ck_pickle p;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(load(bad[i], strlen(bad[i]), false, &p), CK_INPUT);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        if (load(good[i], strlen(good[i]), false, &p) != CK_OK) fail_msg("%s", err.message);
        ck_pickle_free(&p);
    }
}

static ck_status stop_at_import(void *context, const ck_pickle_import *i, ck_error *e) {
    (void)context;
    return ck_fail(e, CK_INPUT, "no %s", i->name);
}

static void test_listener_stops(void **state) {
    (void)state;
    memory m = {"cos\nsystem\n.", 12, 0};
    ck_pickle_input in = {.read = read_memory, .context = &m, .name = "f"};
    ck_pickle_rules rules = {.strict = true, .import = stop_at_import};
    ck_pickle p;
    assert_int_equal(ck_pickle_load(&in, &rules, &p, &err), CK_INPUT);
    assert_string_equal(err.message, "no system");
}

/* ---- Memory and time ---- */

static size_t allocated;

static void *counting_calloc(size_t count, size_t size) {
    allocated += count * size;
    return calloc(count, size);
}

static void *counting_realloc(void *p, size_t size) {
    allocated += size;
    return realloc(p, size);
}

/* The bytes asked for (ever, not at once) by a pickle of n repetitions of a pattern. */
static size_t cost(const char *start, const char *pattern, size_t pattern_size, size_t n) {
    size_t total = strlen(start) + n * pattern_size;
    char *data = malloc(total);
    memcpy(data, start, strlen(start));
    for (size_t i = 0; i < n; i++)
        memcpy(data + strlen(start) + i * pattern_size, pattern, pattern_size);
    struct ck_os real = ck_os;
    ck_os.calloc = counting_calloc;
    ck_os.realloc = counting_realloc;
    allocated = 0;
    ck_pickle p;
    if (load(data, total, false, &p) == CK_OK) ck_pickle_free(&p);
    ck_os = real;
    free(data);
    return allocated;
}

static void test_memory_follows_the_bytes(void **state) {
    (void)state;
    static const struct {
        const char *start, *pattern;
        size_t size;
    } patterns[] = {
        {"", "N", 1},          {"", "]", 1},          {"", "(", 1},        {"", "(t", 2},
        {"N", "\x94", 1},      {"]", "Na", 2},        {"](", "N", 1},      {"N", "2", 1},
        {"N", "Q", 1},         {"N", "\x85", 1},      {"Nq\1", "h\1", 2},  {"", "U\0", 2},
        {"", "X\1\0\0\0a", 6}, {"", "]0", 2},         {"}", "NNs", 3},     {"N", "(\x91", 2},
        {"", "ca\nb\n", 5},    {"(Nq\1", "2\x86", 2}, {"]q\1", "h\1a", 3}, {"", "\x93", 1},
        {"", "Va\n", 3},       {"", "C\0", 2},
    };
    enum { TIMES = 50000 };
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        size_t bytes = TIMES * patterns[i].size;
        size_t used = cost(patterns[i].start, patterns[i].pattern, patterns[i].size, TIMES);
        /* Counted are all blocks ever asked for, also those that a larger one replaced. */
        if (used > 100 * bytes + 400000) fail_msg("pattern %zu: %zu bytes for %zu", i, used, bytes);
    }
}

/* Claims cost nothing: none of these may ask for more than a few blocks. */
static void test_claims_cost_nothing(void **state) {
    (void)state;
    static const struct {
        const char *data;
        size_t n;
    } claims[] = {
        {"X\xff\xff\xff\xff", 5},
        {"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f", 9},
        {"B\xff\xff\xff\xff", 5},
        {"\x96\xff\xff\xff\xff\xff\xff\xff\xff", 9},
        {"Nr\xff\xff\xff\xff", 6},
        {"\x8b\xff\xff\xff\x7f", 5},
        {"\x95\xff\xff\xff\xff\xff\xff\xff\xff", 9},
    };
    for (size_t i = 0; i < sizeof claims / sizeof *claims; i++)
        assert_true(cost("", claims[i].data, claims[i].n, 1) < 200000);
}

/* Each tuple holds the one before twice: 2^5000 leaves, if anybody expanded them. */
static void test_laughs(void **state) {
    (void)state;
    assert_true(cost("N", "2\x86", 2, 5000) < 5000 * 100 + 200000);
}

typedef struct endless {
    unsigned char byte;
    uint64_t left;
} endless;

static ck_status read_endless(void *context, void *dst, size_t n, size_t *got, ck_error *e) {
    endless *s = context;
    (void)e;
    *got = n < s->left ? n : (size_t)s->left;
    memset(dst, s->byte, *got);
    s->left -= *got;
    return CK_OK;
}

static void test_size_limit(void **state) {
    (void)state;
    endless stream = {0x89, (uint64_t)1 << 40}; /* NEWFALSE takes no memory but the stack's */
    ck_pickle_input in = {.read = read_endless, .context = &stream, .name = "f"};
    ck_pickle_rules rules = {.strict = true};
    ck_pickle p;
    assert_int_equal(ck_pickle_load(&in, &rules, &p, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "larger than 32 MiB"));
    assert_int_equal(in.offset, CK_PICKLE_MAX_BYTES + 1);
}

/* A line without an end is given up, not kept. */
static void test_endless_line(void **state) {
    (void)state;
    endless stream = {'S', (uint64_t)1 << 40};
    ck_pickle_input in = {.read = read_endless, .context = &stream, .name = "f"};
    ck_pickle_rules rules = {.strict = false};
    ck_pickle p;
    assert_int_equal(ck_pickle_load(&in, &rules, &p, &err), CK_INPUT);
    assert_non_null(strstr(err.message, "a line of more than 64 KiB"));
}

/* Texts that are too long to keep are skipped and do not count. */
static void test_long_text(void **state) {
    (void)state;
    size_t n = 40u << 20;
    char *data = malloc(n + 6);
    data[0] = 'X';
    for (int i = 0; i < 4; i++) data[1 + i] = (char)(n >> (8 * i));
    memset(data + 5, 'a', n);
    data[n + 5] = '.';
    ck_pickle p;
    assert_int_equal(load(data, n + 6, true, &p), CK_OK);
    assert_int_equal(p.root->kind, CK_PICKLE_OTHER);
    ck_pickle_free(&p);
    free(data);
}

/* ---- Damage ---- */

static const char whole[] = "\x80\2}(U\1aK\1X\2\0\0\0bb](K\1M\2\2eU\1ccm\nn\n(U\1xU\1yQt"
                            "Rq\1h\1U\1d\x8a\1\1G12345678\x87\x94u.";

static void test_cut_everywhere(void **state) {
    (void)state;
    ck_pickle p;
    for (size_t n = 0; n < sizeof whole - 1; n++)
        assert_int_equal(load(whole, n, true, &p), CK_INPUT);
    assert_int_equal(load(whole, sizeof whole - 1, true, &p), CK_OK);
    ck_pickle_free(&p);
}

static void test_every_byte_changed(void **state) {
    (void)state;
    char data[sizeof whole];
    for (size_t at = 0; at < sizeof whole - 1; at++)
        for (int value = 0; value < 256; value++)
            for (int strict = 0; strict < 2; strict++) {
                memcpy(data, whole, sizeof whole);
                data[at] = (char)value;
                ck_pickle p;
                if (load(data, sizeof whole - 1, strict, &p) == CK_OK)
                    ck_pickle_free(&p);
                else
                    assert_int_equal(err.status, CK_INPUT);
            }
}

static void test_faults(void **state) {
    (void)state;
    static const char data[] = "(Va\np1\n0S'b'\nU\1ccm\nn\n(NtR]Na}NNsNQ\x93l.";
    static const fault_kind kinds[] = {FAULT_CALLOC, FAULT_REALLOC};
    for (size_t k = 0; k < 2; k++)
        for (fault_first(kinds[k], ENOMEM); fault_more();) {
            ck_pickle p;
            fault_arm();
            ck_status status = load(data, sizeof data - 1, false, &p);
            fault_disarm();
            if (fault_hit()) {
                assert_int_equal(status, CK_MEMORY);
            } else {
                if (status != CK_OK) fail_msg("%s", err.message);
                ck_pickle_free(&p);
            }
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_containers),
        cmocka_unit_test(test_calls),
        cmocka_unit_test(test_memo),
        cmocka_unit_test(test_stack),
        cmocka_unit_test(test_hidden_names),
        cmocka_unit_test(test_in_a_row),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_lenient),
        cmocka_unit_test(test_listener_stops),
        cmocka_unit_test(test_memory_follows_the_bytes),
        cmocka_unit_test(test_claims_cost_nothing),
        cmocka_unit_test(test_laughs),
        cmocka_unit_test(test_size_limit),
        cmocka_unit_test(test_endless_line),
        cmocka_unit_test(test_long_text),
        cmocka_unit_test(test_cut_everywhere),
        cmocka_unit_test(test_every_byte_changed),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
