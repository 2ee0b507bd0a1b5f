/* Byte-pair encoding as CLIP has it (Radford et al., 2021), and letters; see tokenizer.h.
 *
 * A word is first one symbol per byte, the last marked as the end of a word; then the pair of
 * neighbours that stands first in merges.txt becomes one symbol, again and again. The files write
 * bytes as printable characters, and the mark as "</w>".
 */
#include "distill/models/tokenizer.h"
#include "distill/models/unicode.h"
#include "io/json.h"
#include "io/os.h"
#include "io/utf8.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    MAX_PROMPT = 16 << 10, /* merging takes the square of a word's length */
    MAX_LENGTH = 4096,
    MAX_MERGES_FILE = 16 << 20,
    LETTER_VOCABULARY = 32,
    LETTER_LENGTH = 16,
};

static const char start_text[] = "<|startoftext|>", end_text[] = "<|endoftext|>";

/* Two neighbours that become one. */
typedef struct merge {
    uint64_t pair; /* first << 32 | second */
    uint32_t line; /* in merges.txt: earlier goes first */
    int32_t id;
} merge;

struct ck_tokenizer {
    bool letters;
    size_t length;
    int32_t start, end, pad, largest;
    bool knows_padding;
    int32_t bytes[2][256]; /* the symbol of a byte within and at the end of a word */
    merge *merges;         /* by pair */
    size_t merge_count;
};

/* ---- vocab.json ---- */

typedef struct word {
    const char *text;
    int32_t id;
} word;

typedef struct vocabulary {
    ck_json doc; /* holds the texts */
    word *words; /* by text */
    size_t count;
} vocabulary;

static int compare_words(const void *a, const void *b) {
    return strcmp(((const word *)a)->text, ((const word *)b)->text);
}

/* Of an object of the document. */
static ck_status list_words(vocabulary *v, const cJSON *object, ck_error *err) {
    if (!cJSON_IsObject(object)) return ck_json_fail(&v->doc, object, err, "must be an object");
    v->words = ck_alloc_array((size_t)cJSON_GetArraySize(object), sizeof *v->words);
    if (!v->words) return ck_fail_memory(err, v->doc.name);
    const cJSON *field;
    cJSON_ArrayForEach(field, object) {
        double id = cJSON_IsNumber(field) ? field->valuedouble : -1;
        if (id < 0 || id > INT32_MAX || id != (double)(int32_t)id)
            return ck_json_fail(&v->doc, field, err, "must be a whole number from 0 to 2^31 - 1");
        v->words[v->count++] = (word){field->string, (int32_t)id};
    }
    qsort(v->words, v->count, sizeof *v->words, compare_words);
    return CK_OK;
}

static ck_status read_vocabulary(const char *path, vocabulary *v, ck_error *err) {
    CK_TRY(ck_json_load(path, &v->doc, err));
    return list_words(v, v->doc.root, err);
}

static void free_vocabulary(vocabulary *v) {
    free(v->words);
    ck_json_free(&v->doc);
}

/* -1 if there is none. */
static int32_t find_word(const vocabulary *v, const char *text) {
    word key = {text, 0};
    const word *found = bsearch(&key, v->words, v->count, sizeof key, compare_words);
    return found ? found->id : -1;
}

static ck_status must_find(const vocabulary *v, const char *text, int32_t *id, ck_error *err) {
    *id = find_word(v, text);
    if (*id >= 0) return CK_OK;
    return ck_fail(err, CK_INPUT, "%s: has no token '%s'", v->doc.name, text);
}

/* Bytes that are visible characters of Latin-1 stand for themselves, the others for those from
 * U+0100 on. */
static void find_bytes(ck_tokenizer *t, const vocabulary *v) {
    uint32_t next = 256;
    for (uint32_t b = 0; b < 256; b++) {
        bool visible = (b > 32 && b < 127) || (b > 160 && b != 173);
        char text[16];
        size_t n = ck_utf8_encode(visible ? b : next++, text);
        text[n] = 0;
        t->bytes[0][b] = find_word(v, text);
        memcpy(text + n, "</w>", 5);
        t->bytes[1][b] = find_word(v, text);
        for (int last = 0; last < 2; last++)
            if (t->bytes[last][b] < 0) t->bytes[last][b] = t->end; /* unknown */
    }
}

/* ---- merges.txt ---- */

static int compare_merges(const void *a, const void *b) {
    const merge *m = a, *n = b;
    if (m->pair != n->pair) return m->pair < n->pair ? -1 : 1;
    return (m->line > n->line) - (m->line < n->line);
}

/* "first second", which is cut up. */
static ck_status read_merge(const vocabulary *v, const char *path, size_t line, char *text,
                            merge *m, ck_error *err) {
    char *space = strchr(text, ' ');
    if (!space || space == text || !space[1] || strchr(space + 1, ' '))
        return ck_fail(err, CK_INPUT, "%s:%zu: must be two symbols with a space between", path,
                       line);
    *space = 0;
    int32_t first = find_word(v, text), second = find_word(v, space + 1);
    memmove(space, space + 1, strlen(space + 1) + 1);
    int32_t both = find_word(v, text);
    if (first < 0 || second < 0 || both < 0)
        return ck_fail(err, CK_INPUT, "%s:%zu: a symbol, or both as one, is not in %s", path, line,
                       v->doc.name);
    *m = (merge){(uint64_t)first << 32 | (uint32_t)second, (uint32_t)line, both};
    return CK_OK;
}

static ck_status add_merge(ck_tokenizer *t, const vocabulary *v, const char *path, size_t line,
                           char *text, size_t *capacity, ck_error *err) {
    merge *grown = ck_grow(t->merges, t->merge_count, capacity, sizeof *t->merges);
    if (!grown) return ck_fail_memory(err, path);
    t->merges = grown;
    return read_merge(v, path, line, text, &t->merges[t->merge_count++], err);
}

static ck_status sort_merges(ck_tokenizer *t, const char *path, ck_error *err) {
    if (t->merge_count) qsort(t->merges, t->merge_count, sizeof *t->merges, compare_merges);
    for (size_t i = 1; i < t->merge_count; i++)
        if (t->merges[i].pair == t->merges[i - 1].pair)
            return ck_fail(err, CK_INPUT, "%s:%u: this pair is there before, in line %u", path,
                           t->merges[i].line, t->merges[i - 1].line);
    return CK_OK;
}

static ck_status parse_merges(ck_tokenizer *t, const vocabulary *v, const char *path, char *text,
                              ck_error *err) {
    size_t capacity = 0, line = 0;
    char *rest = text, *row;
    while ((row = strsep(&rest, "\n"))) {
        line++;
        size_t n = strlen(row);
        if (n && row[n - 1] == '\r') row[--n] = 0;
        if (n == 0 || strncmp(row, "#version", 8) == 0) continue;
        CK_TRY(add_merge(t, v, path, line, row, &capacity, err));
    }
    return sort_merges(t, path, err);
}

static ck_status read_merges(ck_tokenizer *t, const vocabulary *v, const char *path,
                             ck_error *err) {
    char *text;
    size_t n;
    CK_TRY(ck_read_file(path, MAX_MERGES_FILE, &text, &n, err));
    ck_status status = strlen(text) == n
                           ? parse_merges(t, v, path, text, err)
                           : ck_fail(err, CK_INPUT, "%s: a NUL at offset %zu", path, strlen(text));
    free(text);
    return status;
}

/* ---- tokenizer.json, which newer folders have in the place of both ---- */

static ck_status read_whole(const char *path, vocabulary *v, ck_error *err) {
    CK_TRY(ck_json_load(path, &v->doc, err));
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(v->doc.root, "model");
    const char *type = "", *end = "";
    if (!cJSON_IsObject(model)) return ck_json_fail(&v->doc, v->doc.root, err, "has no model");
    CK_TRY(ck_json_text(&v->doc, model, "type", &type, err));
    if (strcmp(type, "BPE") == 0)
        CK_TRY(ck_json_text(&v->doc, model, "end_of_word_suffix", &end, err));
    if (strcmp(end, "</w>") != 0)
        return ck_json_fail(&v->doc, model, err,
                            "not CLIP's: that is BPE with \"</w>\" at the ends of words");
    const cJSON *words = cJSON_GetObjectItemCaseSensitive(model, "vocab");
    return list_words(v, words ? words : model, err);
}

/* "first second", which newer versions write as a list of two. */
static bool merge_text(const cJSON *node, char *text, size_t size) {
    const cJSON *first = cJSON_IsArray(node) ? node->child : NULL;
    const cJSON *second = first ? first->next : NULL;
    int n = 0;
    if (cJSON_IsString(node))
        n = snprintf(text, size, "%s", node->valuestring);
    else if (cJSON_IsString(first) && cJSON_IsString(second) && !second->next)
        n = snprintf(text, size, "%s %s", first->valuestring, second->valuestring);
    return n > 0 && (size_t)n < size;
}

static ck_status read_whole_merges(ck_tokenizer *t, const vocabulary *v, ck_error *err) {
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(v->doc.root, "model"), *one;
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(model, "merges");
    size_t capacity = 0;
    char text[1024];
    if (!cJSON_IsArray(list))
        return ck_json_fail(&v->doc, list ? list : model, err, "merges must be a list");
    cJSON_ArrayForEach(one, list) {
        if (!merge_text(one, text, sizeof text))
            return ck_json_fail(&v->doc, one, err, "must be two symbols");
        CK_TRY(add_merge(t, v, v->doc.name, t->merge_count + 1, text, &capacity, err));
    }
    return sort_merges(t, v->doc.name, err);
}

/* ---- Opening ---- */

/* The paths of what may lie in a tokenizer's folder. */
enum { VOCABULARY, MERGES, WHOLE, CONFIG, SPECIAL, FILES };
static const char *const file_names[FILES] = {"vocab.json", "merges.txt", "tokenizer.json",
                                              "tokenizer_config.json", "special_tokens_map.json"};

/* What pads, and the length, where the file is there and says so. A token is a text or an object
 * with its text in "content". */
static ck_status read_config(ck_tokenizer *t, const vocabulary *v, const char *path,
                             ck_error *err) {
    if (access(path, F_OK) != 0) return CK_OK;
    ck_json doc;
    CK_TRY(ck_json_load(path, &doc, err));
    const cJSON *pad = cJSON_GetObjectItemCaseSensitive(doc.root, "pad_token");
    const char *text = NULL;
    double length = (double)t->length;
    ck_status status = cJSON_IsObject(pad) ? ck_json_text(&doc, pad, "content", &text, err)
                       : !pad || cJSON_IsNull(pad)
                           ? CK_OK
                           : ck_json_text(&doc, doc.root, "pad_token", &text, err);
    if (status == CK_OK) status = ck_json_number(&doc, doc.root, "model_max_length", &length, err);
    if (status == CK_OK && text) {
        status = must_find(v, text, &t->pad, err);
        t->knows_padding = true;
    }
    /* An absurdly large number means that the file does not know. */
    if (length >= 3 && length <= MAX_LENGTH) t->length = (size_t)length;
    ck_json_free(&doc);
    return status;
}

static ck_status read_clip(ck_tokenizer *t, char *const paths[FILES], ck_error *err) {
    vocabulary v = {0};
    bool whole = access(paths[VOCABULARY], F_OK) != 0;
    t->length = 77;
    ck_status status =
        whole ? read_whole(paths[WHOLE], &v, err) : read_vocabulary(paths[VOCABULARY], &v, err);
    for (size_t i = 0; i < v.count; i++)
        if (v.words[i].id > t->largest) t->largest = v.words[i].id;
    if (status == CK_OK) status = must_find(&v, start_text, &t->start, err);
    if (status == CK_OK) status = must_find(&v, end_text, &t->end, err);
    if (status == CK_OK) {
        t->pad = t->end;
        find_bytes(t, &v);
        status = whole ? read_whole_merges(t, &v, err) : read_merges(t, &v, paths[MERGES], err);
    }
    /* Where they differ, transformers takes the second. */
    if (status == CK_OK) status = read_config(t, &v, paths[CONFIG], err);
    if (status == CK_OK) status = read_config(t, &v, paths[SPECIAL], err);
    free_vocabulary(&v);
    return status;
}

/* Tries one folder; *found says whether it is one of a tokenizer. */
static ck_status try_clip(ck_tokenizer *t, const char *folder, const char *slash,
                          const char *suffix, bool *found, ck_error *err) {
    char *paths[FILES] = {0};
    ck_status status = CK_OK;
    for (int i = 0; i < FILES; i++) {
        paths[i] = ck_sprintf("%s%s%s/%s", folder, slash, suffix, file_names[i]);
        if (!paths[i]) status = ck_fail_memory(err, folder);
    }
    *found = status == CK_OK &&
             (access(paths[VOCABULARY], F_OK) == 0 || access(paths[WHOLE], F_OK) == 0);
    if (*found) status = read_clip(t, paths, err);
    for (int i = 0; i < FILES; i++) free(paths[i]);
    return status;
}

/* Letters are not written down anywhere; that there are 32 tokens and 16 places gives them away. */
static ck_status try_letters(ck_tokenizer *t, const char *folder, const char *suffix, bool *found,
                             ck_error *err) {
    char *path = ck_sprintf("%s/text_encoder%s/config.json", folder, suffix);
    if (!path) return ck_fail_memory(err, folder);
    ck_json doc = {0};
    double tokens = 0, places = 0;
    ck_status status = access(path, F_OK) == 0 ? ck_json_load(path, &doc, err) : CK_OK;
    if (status == CK_OK && doc.root) {
        status = ck_json_number(&doc, doc.root, "vocab_size", &tokens, err);
        if (status == CK_OK)
            status = ck_json_number(&doc, doc.root, "max_position_embeddings", &places, err);
    }
    ck_json_free(&doc);
    free(path);
    *found = tokens == LETTER_VOCABULARY && places == LETTER_LENGTH;
    t->letters = true;
    t->length = LETTER_LENGTH;
    t->start = 1;
    t->end = t->pad = 2;
    t->knows_padding = true;
    t->largest = LETTER_VOCABULARY - 1;
    return status;
}

ck_status ck_tokenizer_open(const char *folder, const char *suffix, ck_tokenizer **out,
                            ck_error *err) {
    ck_tokenizer *t = ck_alloc(sizeof *t);
    if (!t) return ck_fail_memory(err, folder);
    bool found = false;
    ck_status status = try_clip(t, folder, "/tokenizer", suffix, &found, err);
    if (status == CK_OK && !found) {
        status = try_clip(t, folder, "", "", &found, err);
        t->knows_padding = false;
    }
    if (status == CK_OK && !found) status = try_letters(t, folder, suffix, &found, err);
    if (status == CK_OK && !found)
        status = ck_fail(err, CK_INPUT,
                         "%s: neither the folder nor its tokenizer%s has a vocab.json or a "
                         "tokenizer.json: copy the folder tokenizer%s of a model with the same "
                         "text encoder there",
                         folder, suffix, suffix);
    if (status != CK_OK) {
        ck_tokenizer_close(t);
        return status;
    }
    *out = t;
    return CK_OK;
}

void ck_tokenizer_close(ck_tokenizer *t) {
    if (!t) return;
    free(t->merges);
    free(t);
}

size_t ck_tokenizer_length(const ck_tokenizer *t) {
    return t->length;
}

int32_t ck_tokenizer_end(const ck_tokenizer *t) {
    return t->end;
}

int32_t ck_tokenizer_largest(const ck_tokenizer *t) {
    return t->largest;
}

bool ck_tokenizer_knows_padding(const ck_tokenizer *t) {
    return t->knows_padding;
}

void ck_tokenizer_pad_openclip(ck_tokenizer *t) {
    t->pad = 0;
}

/* ---- Encoding ---- */

typedef struct encoding {
    const ck_tokenizer *t;
    int32_t *ids;
    size_t count, lost;
    char *lowered;     /* a piece of the prompt in lower case */
    int32_t *symbols;  /* of a word */
    const merge **can; /* what symbol i and the next can become; NULL: nothing */
} encoding;

/* One place is kept for the end token. */
static void emit(encoding *e, int32_t id) {
    if (e->count + 1 < e->t->length)
        e->ids[e->count++] = id;
    else
        e->lost++;
}

static const merge *find_merge(const ck_tokenizer *t, int32_t first, int32_t second) {
    uint64_t pair = (uint64_t)first << 32 | (uint32_t)second;
    size_t low = 0, high = t->merge_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (t->merges[middle].pair < pair)
            low = middle + 1;
        else
            high = middle;
    }
    return low < t->merge_count && t->merges[low].pair == pair ? &t->merges[low] : NULL;
}

/* Looks again at what symbol i can become with the next. */
static void look(encoding *e, size_t i, size_t n) {
    e->can[i] = i + 1 < n ? find_merge(e->t, e->symbols[i], e->symbols[i + 1]) : NULL;
}

static void encode_word(encoding *e, const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) e->symbols[i] = e->t->bytes[i + 1 == n][(unsigned char)text[i]];
    for (size_t i = 0; i < n; i++) look(e, i, n);
    for (;;) {
        size_t best = n;
        for (size_t i = 0; i < n; i++)
            if (e->can[i] && (best == n || e->can[i]->line < e->can[best]->line)) best = i;
        if (best == n) break;
        e->symbols[best] = e->can[best]->id;
        n--;
        memmove(e->symbols + best + 1, e->symbols + best + 2, (n - best - 1) * sizeof *e->symbols);
        memmove(e->can + best + 1, e->can + best + 2, (n - best - 1) * sizeof *e->can);
        look(e, best, n);
        if (best) look(e, best - 1, n);
    }
    for (size_t i = 0; i < n; i++) emit(e, e->symbols[i]);
}

typedef enum class { SPACE, LETTER, NUMBER, OTHER } class;

static class class_of(uint32_t c) {
    return ck_unicode_is_space(c)    ? SPACE
           : ck_unicode_is_letter(c) ? LETTER
           : ck_unicode_is_number(c) ? NUMBER
                                     : OTHER;
}

/* The length of an English ending that stands here as a word of its own, or 0. */
static size_t ending(const char *text) {
    static const char *const endings[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (strncmp(text, endings[i], strlen(endings[i])) == 0) return strlen(endings[i]);
    return 0;
}

/* Words are endings, runs of letters, single numbers, runs of anything else but space. */
static void encode_words(encoding *e, const char *text) {
    for (size_t at = 0; text[at];) {
        size_t begin = at, n = ending(text + at);
        class kind = class_of(ck_unicode_next(text, &at));
        if (kind == SPACE) continue;
        while (kind != NUMBER && text[at]) {
            size_t next = at;
            if (class_of(ck_unicode_next(text, &next)) != kind) break;
            at = next;
        }
        if (n) at = begin + n;
        encode_word(e, text + begin, at - begin);
    }
}

/* n bytes of text without special tokens. */
static void encode_piece(encoding *e, const char *text, size_t n) {
    char *to = e->lowered;
    for (size_t at = 0; at < n;) {
        uint32_t c = ck_unicode_next(text, &at);
        if (c == 0x130) { /* the only one whose lower case is two characters */
            memcpy(to, "i\xcc\x87", 3);
            to += 3;
        } else {
            to += ck_utf8_encode(ck_unicode_lower(c), to);
        }
    }
    *to = 0;
    encode_words(e, e->lowered);
}

/* Special tokens may be written out in a prompt. */
static void encode_clip(encoding *e, const char *prompt) {
    while (*prompt) {
        const char *start = strstr(prompt, start_text), *end = strstr(prompt, end_text);
        const char *special = !start || (end && end < start) ? end : start;
        encode_piece(e, prompt, special ? (size_t)(special - prompt) : strlen(prompt));
        if (!special) break;
        emit(e, special == start ? e->t->start : e->t->end);
        prompt = special + (special == start ? strlen(start_text) : strlen(end_text));
    }
}

/* Single spaces between words, none around. */
static ck_status encode_letters(encoding *e, const char *prompt, ck_error *err) {
    bool space = false, any = false;
    for (; *prompt; prompt++) {
        char c = *prompt;
        if (c >= 'A' && c <= 'Z') c = (char)(c - 'A' + 'a');
        if (strchr(" \t\r\n", c)) {
            space = any;
            continue;
        }
        if (!((c >= 'a' && c <= 'z') || c == '-')) {
            char shown[24];
            return ck_fail(err, CK_USAGE,
                           "prompt: this model knows the letters a-z, space and '-' only, not '%s'",
                           ck_printable(shown, sizeof shown, prompt));
        }
        if (space) emit(e, 29);
        emit(e, c == '-' ? 30 : c - 'a' + 3);
        space = false;
        any = true;
    }
    return CK_OK;
}

ck_status ck_tokenizer_encode(const ck_tokenizer *t, const char *prompt, int32_t *ids, size_t *lost,
                              ck_error *err) {
    size_t n = strlen(prompt);
    if (n > MAX_PROMPT) return ck_fail(err, CK_USAGE, "prompt: longer than %d bytes", MAX_PROMPT);
    size_t bad = ck_utf8_check((const unsigned char *)prompt, n);
    if (bad < n) return ck_fail(err, CK_USAGE, "prompt: not UTF-8 at byte %zu", bad);
    /* Lower case takes up to 3 bytes for 2. */
    encoding e = {.t = t,
                  .ids = ids,
                  .lowered = ck_alloc(2 * n + 1),
                  .symbols = ck_alloc_array(2 * n, sizeof *e.symbols),
                  .can = ck_alloc_array(2 * n, sizeof *e.can)};
    ck_status status = CK_OK;
    emit(&e, t->start);
    if (!e.lowered || !e.symbols || !e.can)
        status = ck_fail_memory(err, "prompt");
    else if (t->letters)
        status = encode_letters(&e, prompt, err);
    else
        encode_clip(&e, prompt);
    free(e.lowered);
    free(e.symbols);
    free(e.can);
    if (status != CK_OK) return status;
    ids[e.count++] = t->end;
    while (e.count < t->length) ids[e.count++] = t->pad;
    *lost = e.lost;
    return CK_OK;
}
