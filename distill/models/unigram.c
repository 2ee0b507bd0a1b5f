/* Pieces and their scores, see unigram.h. */
#include "distill/models/unigram.h"

#include "distill/models/unicode.h"
#include "io/json.h"
#include "io/os.h"
#include "io/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_PROMPT = 16 << 10, MAX_PIECE = 256 };

typedef struct piece {
    const char *text; /* in the document */
    size_t n;
    double score;
    int32_t id;
} piece;

struct ck_unigram {
    ck_json doc;
    piece *pieces; /* by text */
    size_t count, longest;
    int32_t unknown, end, pad;
    double unknown_score;
};

/* ---- tokenizer.json ---- */

static int compare_texts(const char *a, size_t n, const char *b, size_t m) {
    int c = memcmp(a, b, n < m ? n : m);
    return c ? c : (n > m) - (n < m);
}

static int compare_pieces(const void *a, const void *b) {
    const piece *x = a, *y = b;
    return compare_texts(x->text, x->n, y->text, y->n);
}

static const piece *find_piece(const ck_unigram *u, const char *text, size_t n) {
    piece key = {.text = text, .n = n};
    return bsearch(&key, u->pieces, u->count, sizeof key, compare_pieces);
}

static ck_status read_piece(const ck_json *doc, const cJSON *node, int32_t id, piece *p,
                            ck_error *err) {
    const cJSON *text = cJSON_IsArray(node) ? node->child : NULL;
    const cJSON *score = text ? text->next : NULL;
    if (!cJSON_IsString(text) || !cJSON_IsNumber(score) || score->next)
        return ck_json_fail(doc, node, err, "must be a piece and its score");
    *p = (piece){text->valuestring, strlen(text->valuestring), score->valuedouble, id};
    if (p->n > MAX_PIECE) return ck_json_fail(doc, text, err, "a piece of %zu bytes", p->n);
    return CK_OK;
}

static ck_status read_pieces(ck_unigram *u, const cJSON *vocabulary, ck_error *err) {
    double least = 0;
    u->count = (size_t)cJSON_GetArraySize(vocabulary);
    u->pieces = ck_alloc_array(u->count, sizeof *u->pieces);
    if (!u->pieces) return ck_fail_memory(err, u->doc.name);
    const cJSON *node = vocabulary->child;
    for (size_t i = 0; i < u->count; i++, node = node->next) {
        CK_TRY(read_piece(&u->doc, node, (int32_t)i, &u->pieces[i], err));
        least = fmin(least, u->pieces[i].score);
        if (u->pieces[i].n > u->longest) u->longest = u->pieces[i].n;
    }
    u->unknown_score = least - 10;
    qsort(u->pieces, u->count, sizeof *u->pieces, compare_pieces);
    for (size_t i = 1; i < u->count; i++)
        if (compare_pieces(&u->pieces[i - 1], &u->pieces[i]) == 0)
            return ck_json_fail(&u->doc, vocabulary, err, "piece '%s' is there twice",
                                u->pieces[i].text);
    return CK_OK;
}

static ck_status find_special(const ck_unigram *u, const char *text, int32_t *id, ck_error *err) {
    const piece *p = find_piece(u, text, strlen(text));
    if (!p) return ck_json_fail(&u->doc, u->doc.root, err, "no piece '%s'", text);
    *id = p->id;
    return CK_OK;
}

static ck_status read_tokenizer(ck_unigram *u, ck_error *err) {
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(u->doc.root, "model");
    const char *type = NULL;
    uint64_t unknown = UINT64_MAX;
    if (!cJSON_IsObject(model)) return ck_json_fail(&u->doc, u->doc.root, err, "has no model");
    CK_TRY(ck_json_text(&u->doc, model, "type", &type, err));
    CK_TRY(ck_json_count(&u->doc, model, "unk_id", &unknown, err));
    const cJSON *vocabulary = cJSON_GetObjectItemCaseSensitive(model, "vocab");
    if ((type && strcmp(type, "Unigram") != 0) || !cJSON_IsArray(vocabulary))
        return ck_json_fail(&u->doc, model, err, "is no Unigram with a list of pieces");
    CK_TRY(read_pieces(u, vocabulary, err));
    if (unknown >= u->count)
        return ck_json_fail(&u->doc, model, err, "unk_id must be the number of a piece");
    u->unknown = (int32_t)unknown;
    CK_TRY(find_special(u, "</s>", &u->end, err));
    return find_special(u, "<pad>", &u->pad, err);
}

/* FOLDER/tokenizer SUFFIX/tokenizer.json, or FOLDER/tokenizer.json where that is not; to be
 * released with free(). */
static char *find_file(const char *folder, const char *suffix) {
    char *path = ck_sprintf("%s/tokenizer%s/tokenizer.json", folder, suffix);
    char *here = ck_sprintf("%s/tokenizer.json", folder);
    bool other = path && here && access(path, F_OK) != 0 && access(here, F_OK) == 0;
    free(other ? path : here);
    return other ? here : path;
}

ck_status ck_unigram_open(const char *folder, const char *suffix, ck_unigram **out, ck_error *err) {
    char *path = find_file(folder, suffix);
    ck_unigram *u = path ? ck_alloc(sizeof *u) : NULL;
    ck_status s = u ? ck_json_load(path, &u->doc, err) : ck_fail_memory(err, folder);
    if (s == CK_OK) s = read_tokenizer(u, err);
    free(path);
    if (s != CK_OK)
        ck_unigram_close(u);
    else
        *out = u;
    return s;
}

void ck_unigram_close(ck_unigram *u) {
    if (!u) return;
    ck_json_free(&u->doc);
    free(u->pieces);
    free(u);
}

int32_t ck_unigram_largest(const ck_unigram *u) {
    return (int32_t)u->count - 1;
}

/* ---- Encoding ---- */

/* The best way to the end of each prefix of a word. */
typedef struct step {
    double score;
    size_t from; /* where its last piece begins */
    int32_t id;
} step;

typedef struct encoding {
    const ck_unigram *u;
    int32_t *ids;
    size_t length, count, lost;
    step *steps;
    int32_t *word; /* its pieces, the last first */
} encoding;

/* One place is kept for the end token. */
static void emit(encoding *e, int32_t id) {
    if (e->count + 1 < e->length)
        e->ids[e->count++] = id;
    else
        e->lost++;
}

static size_t character(const char *text) {
    size_t at = 0;
    ck_unicode_next(text, &at);
    return at;
}

static void offer(step *s, double score, size_t from, int32_t id) {
    if (score > s->score) *s = (step){score, from, id};
}

static void encode_word(encoding *e, const char *text, size_t n) {
    const ck_unigram *u = e->u;
    for (size_t i = 1; i <= n; i++) e->steps[i].score = -INFINITY;
    e->steps[0].score = 0;
    for (size_t i = 0, one; i < n; i += one) {
        one = character(text + i);
        for (size_t k = one; i + k <= n && k <= u->longest;
             k += i + k < n ? character(text + i + k) : 1) {
            const piece *p = find_piece(u, text + i, k);
            if (p) offer(&e->steps[i + k], e->steps[i].score + p->score, i, p->id);
        }
        /* A character that is no piece. */
        if (!find_piece(u, text + i, one))
            offer(&e->steps[i + one], e->steps[i].score + u->unknown_score, i, u->unknown);
    }
    size_t count = 0;
    for (size_t at = n; at; at = e->steps[at].from) {
        int32_t id = e->steps[at].id;
        /* Unknown characters side by side are one token. */
        if (count && id == u->unknown && e->word[count - 1] == id) continue;
        e->word[count++] = id;
    }
    while (count) emit(e, e->word[--count]);
}

/* Words between white space, each with a mark before it. */
static void encode_words(encoding *e, const char *prompt, char *word) {
    static const char mark[] = "\xe2\x96\x81";
    for (size_t at = 0; prompt[at];) {
        size_t n = strlen(mark);
        memcpy(word, mark, n);
        while (prompt[at]) {
            size_t begin = at;
            if (ck_unicode_is_space(ck_unicode_next(prompt, &at))) break;
            memcpy(word + n, prompt + begin, at - begin);
            n += at - begin;
        }
        word[n] = 0;
        if (n > strlen(mark)) encode_word(e, word, n);
    }
}

ck_status ck_unigram_encode(const ck_unigram *u, const char *prompt, size_t length, int32_t *ids,
                            size_t *lost, ck_error *err) {
    size_t n = strlen(prompt), most = n + 8;
    if (n > MAX_PROMPT) return ck_fail(err, CK_USAGE, "prompt: longer than %d bytes", MAX_PROMPT);
    size_t bad = ck_utf8_check((const unsigned char *)prompt, n);
    if (bad < n) return ck_fail(err, CK_USAGE, "prompt: not UTF-8 at byte %zu", bad);
    encoding e = {.u = u,
                  .ids = ids,
                  .length = length,
                  .steps = ck_alloc_array(most, sizeof *e.steps),
                  .word = ck_alloc_array(most, sizeof *e.word)};
    char *word = ck_alloc(most);
    ck_status s = e.steps && e.word && word ? CK_OK : ck_fail_memory(err, "prompt");
    if (s == CK_OK) {
        encode_words(&e, prompt, word);
        ids[e.count++] = u->end;
        while (e.count < length) ids[e.count++] = u->pad;
        *lost = e.lost;
    }
    free(e.steps), free(e.word), free(word);
    return s;
}
