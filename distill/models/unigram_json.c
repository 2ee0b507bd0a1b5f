/* tokenizer.json of Hugging Face's tokenizers, as far as T5's has it; see unigram_int.h. */
#include "distill/models/unigram_int.h"

#include "io/os.h"

#include <stdlib.h>
#include <string.h>

/* ---- What text goes through before ---- */

static int value_of(char c) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* The bytes of base64, to be released with free(). */
static ck_status decode(const ck_json *doc, const cJSON *node, void **bytes, size_t *n,
                        ck_error *err) {
    const char *text = node->valuestring;
    size_t length = strlen(text), used = 0;
    unsigned char *to = *bytes = ck_alloc(length / 4 * 3 + 1);
    if (!to) return ck_fail_memory(err, doc->name);
    if (length % 4) return ck_json_fail(doc, node, err, "is no base64");
    for (size_t i = 0; i < length; i += 4) {
        bool last = i + 4 == length;
        size_t given = last && text[i + 3] == '=' ? (text[i + 2] == '=' ? 2 : 3) : 4;
        uint32_t group = 0;
        for (size_t k = 0; k < 4; k++) {
            int v = k < given ? value_of(text[i + k]) : 0;
            if (v < 0) return ck_json_fail(doc, node, err, "is no base64");
            group = group << 6 | (uint32_t)v;
        }
        for (size_t k = 0; k + 1 < given; k++) to[used++] = (unsigned char)(group >> (16 - 8 * k));
    }
    *n = used;
    return CK_OK;
}

static ck_status read_normalizer(ck_unigram *u, const cJSON *node, ck_error *err);

static ck_status read_all(ck_unigram *u, const cJSON *list, ck_error *err) {
    const cJSON *one;
    cJSON_ArrayForEach(one, list) CK_TRY(read_normalizer(u, one, err));
    return CK_OK;
}

/* What is done to spaces alone (Strip, Replace of several by one) changes nothing: words are what
 * is between them. */
static ck_status read_normalizer(ck_unigram *u, const cJSON *node, ck_error *err) {
    const char *type = NULL;
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(node, "precompiled_charsmap");
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(node, "normalizers");
    const cJSON *pattern = cJSON_GetObjectItemCaseSensitive(node, "pattern");
    const cJSON *regex = cJSON_GetObjectItemCaseSensitive(pattern, "Regex");
    size_t n = 0;
    CK_TRY(ck_json_text(&u->doc, node, "type", &type, err));
    if (!type) return ck_json_fail(&u->doc, node, err, "must be an object with a type");
    if (strcmp(type, "Sequence") == 0 && cJSON_IsArray(list)) return read_all(u, list, err);
    if (strcmp(type, "Strip") == 0) return CK_OK;
    if (strcmp(type, "Replace") == 0 && cJSON_IsString(regex) &&
        strcmp(regex->valuestring, " {2,}") == 0)
        return CK_OK;
    if (strcmp(type, "Precompiled") != 0 || !cJSON_IsString(map) || u->map_bytes)
        return ck_json_fail(&u->doc, node, err, "a normalizer that is not implemented");
    CK_TRY(decode(&u->doc, map, &u->map_bytes, &n, err));
    return ck_charsmap_parse(u->doc.name, u->map_bytes, n, &u->map, err);
}

/* ---- Pieces ---- */

static ck_status read_piece(const ck_json *doc, const cJSON *node, int32_t id, ck_piece *p,
                            ck_error *err) {
    const cJSON *text = cJSON_IsArray(node) ? node->child : NULL;
    const cJSON *score = text ? text->next : NULL;
    if (!cJSON_IsString(text) || !cJSON_IsNumber(score) || score->next)
        return ck_json_fail(doc, node, err, "must be a piece and its score");
    *p = (ck_piece){text->valuestring, strlen(text->valuestring), score->valuedouble, id};
    if (p->n > CK_UNIGRAM__PIECE) return ck_json_fail(doc, text, err, "a piece of %zu bytes", p->n);
    return CK_OK;
}

static ck_status read_pieces(ck_unigram *u, const cJSON *vocabulary, ck_error *err) {
    u->count = (size_t)cJSON_GetArraySize(vocabulary);
    u->largest = (int32_t)u->count - 1;
    u->pieces = ck_alloc_array(u->count, sizeof *u->pieces);
    if (!u->pieces) return ck_fail_memory(err, u->doc.name);
    const cJSON *node = vocabulary->child;
    for (size_t i = 0; i < u->count; i++, node = node->next)
        CK_TRY(read_piece(&u->doc, node, (int32_t)i, &u->pieces[i], err));
    return CK_OK;
}

static ck_status read_tokenizer(ck_unigram *u, ck_error *err) {
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(u->doc.root, "model");
    const cJSON *normalizer = cJSON_GetObjectItemCaseSensitive(u->doc.root, "normalizer");
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
    if (normalizer && !cJSON_IsNull(normalizer)) CK_TRY(read_normalizer(u, normalizer, err));
    return ck_unigram__finish(u, u->doc.name, err);
}

ck_status ck_unigram__read_json(ck_unigram *u, const char *path, ck_error *err) {
    CK_TRY(ck_json_load(path, &u->doc, err));
    return read_tokenizer(u, err);
}
