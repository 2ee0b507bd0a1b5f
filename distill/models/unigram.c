/* Pieces and their scores, see unigram.h. */
#include "distill/models/unigram_int.h"

#include "distill/models/unicode.h"
#include "io/os.h"
#include "io/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_PROMPT = 16 << 10, MAX_FILE = 64 << 20 };

/* ---- Pieces ---- */

static int compare_texts(const char *a, size_t n, const char *b, size_t m) {
    int c = memcmp(a, b, n < m ? n : m);
    return c ? c : (n > m) - (n < m);
}

static int compare_pieces(const void *a, const void *b) {
    const ck_piece *x = a, *y = b;
    return compare_texts(x->text, x->n, y->text, y->n);
}

static const ck_piece *find_piece(const ck_unigram *u, const char *text, size_t n) {
    ck_piece key = {.text = text, .n = n};
    return bsearch(&key, u->pieces, u->count, sizeof key, compare_pieces);
}

static ck_status find_special(const ck_unigram *u, const char *name, const char *text, int32_t *id,
                              ck_error *err) {
    const ck_piece *p = find_piece(u, text, strlen(text));
    if (!p) return ck_fail(err, CK_INPUT, "%s: no piece '%s'", name, text);
    *id = p->id;
    return CK_OK;
}

ck_status ck_unigram__finish(ck_unigram *u, const char *name, ck_error *err) {
    double least = 0;
    for (size_t i = 0; i < u->count; i++) {
        least = fmin(least, u->pieces[i].score);
        if (u->pieces[i].n > u->longest) u->longest = u->pieces[i].n;
    }
    u->unknown_score = least - 10;
    qsort(u->pieces, u->count, sizeof *u->pieces, compare_pieces);
    for (size_t i = 1; i < u->count; i++)
        if (compare_pieces(&u->pieces[i - 1], &u->pieces[i]) == 0)
            return ck_fail(err, CK_INPUT, "%s: piece '%.*s' is there twice", name,
                           (int)u->pieces[i].n, u->pieces[i].text);
    CK_TRY(find_special(u, name, "</s>", &u->end, err));
    return find_special(u, name, "<pad>", &u->pad, err);
}

/* ---- Opening ---- */

/* Of FOLDER/tokenizer SUFFIX/tokenizer.json and spiece.model, then of FOLDER's own, the first that
 * is there, else the first; to be released with free(). */
static char *find_file(const char *folder, const char *suffix) {
    static const char *const names[] = {"tokenizer.json", "spiece.model"};
    char part[32];
    snprintf(part, sizeof part, "tokenizer%s/", suffix);
    for (int i = 0; i < 4; i++) {
        char *path = ck_sprintf("%s/%s%s", folder, i < 2 ? part : "", names[i % 2]);
        if (!path || access(path, F_OK) == 0) return path;
        free(path);
    }
    return ck_sprintf("%s/%s%s", folder, part, names[0]);
}

static ck_status read_spiece(ck_unigram *u, const char *path, ck_error *err) {
    char *data;
    size_t n;
    CK_TRY(ck_read_file(path, MAX_FILE, &data, &n, err));
    ck_status s = ck_unigram__read_spiece(u, path, data, n, err);
    free(data);
    return s;
}

static ck_status end_opening(ck_unigram *u, ck_status s, ck_unigram **out) {
    if (s != CK_OK)
        ck_unigram_close(u);
    else
        *out = u;
    return s;
}

ck_status ck_unigram_open(const char *folder, const char *suffix, ck_unigram **out, ck_error *err) {
    char *path = find_file(folder, suffix);
    ck_unigram *u = path ? ck_alloc(sizeof *u) : NULL;
    ck_status s = u ? CK_OK : ck_fail_memory(err, folder);
    if (s == CK_OK)
        s = strstr(strrchr(path, '/'), "spiece") ? read_spiece(u, path, err)
                                                 : ck_unigram__read_json(u, path, err);
    free(path);
    return end_opening(u, s, out);
}

ck_status ck_unigram_parse(const char *name, const void *data, size_t n, ck_unigram **out,
                           ck_error *err) {
    ck_unigram *u = ck_alloc(sizeof *u);
    ck_status s = u ? ck_unigram__read_spiece(u, name, data, n, err) : ck_fail_memory(err, name);
    return end_opening(u, s, out);
}

void ck_unigram_close(ck_unigram *u) {
    if (!u) return;
    ck_json_free(&u->doc);
    free(u->bytes);
    free(u->map_bytes);
    free(u->pieces);
    free(u);
}

int32_t ck_unigram_largest(const ck_unigram *u) {
    return u->largest;
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
            const ck_piece *p = find_piece(u, text + i, k);
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

static bool ends_word(const ck_unigram *u, uint32_t c) {
    return u->plain_space ? c == ' ' : ck_unicode_is_space(c);
}

/* Words between white space, each with a mark before it. */
static void encode_words(encoding *e, const char *prompt, char *word) {
    static const char mark[] = "\xe2\x96\x81";
    for (size_t at = 0; prompt[at];) {
        size_t n = strlen(mark);
        memcpy(word, mark, n);
        while (prompt[at]) {
            size_t begin = at;
            if (ends_word(e->u, ck_unicode_next(prompt, &at))) break;
            memcpy(word + n, prompt + begin, at - begin);
            n += at - begin;
        }
        word[n] = 0;
        if (n > strlen(mark)) encode_word(e, word, n);
    }
}

/* text: as the tokenizer's map made it. */
static ck_status encode_all(encoding *e, const char *text, ck_error *err) {
    size_t most = strlen(text) + 8;
    char *word = ck_alloc(most);
    e->steps = ck_alloc_array(most, sizeof *e->steps);
    e->word = ck_alloc_array(most, sizeof *e->word);
    ck_status s = e->steps && e->word && word ? CK_OK : ck_fail_memory(err, "prompt");
    if (s == CK_OK) encode_words(e, text, word);
    free(e->steps), free(e->word), free(word);
    return s;
}

ck_status ck_unigram_encode(const ck_unigram *u, const char *prompt, size_t length, int32_t *ids,
                            size_t *lost, ck_error *err) {
    size_t n = strlen(prompt);
    char *text;
    if (n > MAX_PROMPT) return ck_fail(err, CK_USAGE, "prompt: longer than %d bytes", MAX_PROMPT);
    size_t bad = ck_utf8_check((const unsigned char *)prompt, n);
    if (bad < n) return ck_fail(err, CK_USAGE, "prompt: not UTF-8 at byte %zu", bad);
    encoding e = {.u = u, .ids = ids, .length = length};
    CK_TRY(ck_charsmap_apply(&u->map, prompt, n, &text, err));
    ck_status s = encode_all(&e, text, err);
    free(text);
    CK_TRY(s);
    ids[e.count++] = u->end;
    while (e.count < length) ids[e.count++] = u->pad;
    *lost = e.lost;
    return CK_OK;
}
