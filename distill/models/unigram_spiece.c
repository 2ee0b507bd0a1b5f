/* spiece.model, the file of SentencePiece itself, a message of Protocol Buffers; see unigram_int.h.
 * Of sentencepiece_model.proto, with numbers of fields:
 *
 *   ModelProto      1 SentencePiece (again and again)  2 TrainerSpec  3 NormalizerSpec
 *   SentencePiece   1 piece  2 score (float)  3 type
 *   TrainerSpec     3 model_type (1: unigram)  24 treat_whitespace_as_suffix  35 byte_fallback
 *   NormalizerSpec  2 precompiled_charsmap  3 add_dummy_prefix  4 remove_extra_whitespaces
 *                   5 escape_whitespaces
 *
 * A field is a varint of 8 * number + kind, and: kind 0, a varint; 1, 8 bytes; 2, a varint n and n
 * bytes; 5, 4 bytes.
 */
#include "distill/models/unigram_int.h"

#include "io/os.h"
#include "io/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VARINT = 0, EIGHT_BYTES = 1, BYTES = 2, FOUR_BYTES = 5 };

/* Types of pieces. */
enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, UNUSED = 5 };

typedef struct cursor {
    const char *name; /* of the file */
    const unsigned char *start, *at, *end;
} cursor;

typedef struct field {
    uint64_t number;
    int kind;
    uint64_t value;             /* of VARINT, FOUR_BYTES, EIGHT_BYTES */
    const unsigned char *bytes; /* of BYTES */
    size_t n;
} field;

/* ---- Fields ---- */

static ck_status broken(const cursor *c, const char *what, ck_error *err) {
    return ck_fail(err, CK_INPUT, "%s: byte %zu: %s", c->name, (size_t)(c->at - c->start), what);
}

static ck_status read_varint(cursor *c, uint64_t *value, ck_error *err) {
    *value = 0;
    for (int shift = 0; c->at < c->end && shift < 64; shift += 7) {
        unsigned char byte = *c->at++;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) return CK_OK;
    }
    return broken(c, "a number that does not end", err);
}

static ck_status read_field(cursor *c, field *f, ck_error *err) {
    uint64_t tag, n = 0;
    CK_TRY(read_varint(c, &tag, err));
    *f = (field){.number = tag >> 3, .kind = (int)(tag & 7)};
    switch (f->kind) {
    case VARINT:
        return read_varint(c, &f->value, err);
    case EIGHT_BYTES:
        n = 8;
        break;
    case FOUR_BYTES:
        n = 4;
        break;
    case BYTES:
        CK_TRY(read_varint(c, &n, err));
        break;
    default:
        return broken(c, "a field of a kind that is not known", err);
    }
    if (n > (uint64_t)(c->end - c->at)) return broken(c, "a field goes beyond the end", err);
    f->bytes = c->at;
    f->n = (size_t)n;
    for (size_t i = 0; f->kind != BYTES && i < n; i++) f->value |= (uint64_t)c->at[i] << 8 * i;
    c->at += n;
    return CK_OK;
}

/* The message that is the value of a field of c. */
static cursor inside(const cursor *c, const field *f) {
    return (cursor){c->name, c->start, f->bytes, f->bytes + f->n};
}

static ck_status expect(const cursor *c, const field *f, int kind, ck_error *err) {
    return f->kind == kind ? CK_OK : broken(c, "a field is of another kind than it should be", err);
}

/* ---- Pieces ---- */

static ck_status read_piece(cursor c, ck_piece *p, uint64_t *type, ck_error *err) {
    field f;
    float score = 0;
    *type = NORMAL;
    while (c.at < c.end) {
        CK_TRY(read_field(&c, &f, err));
        if (f.number == 1) {
            CK_TRY(expect(&c, &f, BYTES, err));
            p->text = (const char *)f.bytes;
            p->n = f.n;
        } else if (f.number == 2) {
            CK_TRY(expect(&c, &f, FOUR_BYTES, err));
            uint32_t bits = (uint32_t)f.value;
            memcpy(&score, &bits, sizeof score);
        } else if (f.number == 3) {
            CK_TRY(expect(&c, &f, VARINT, err));
            *type = f.value;
        }
    }
    if (!p->n || p->n > CK_UNIGRAM__PIECE)
        return broken(&c, "a piece of no or too many bytes", err);
    if (ck_utf8_check((const unsigned char *)p->text, p->n) < p->n)
        return broken(&c, "a piece that is not UTF-8", err);
    if (!isfinite(score)) return broken(&c, "a score that is not finite", err);
    p->score = (double)score;
    return CK_OK;
}

/* Pieces that are not used have a number, but are not found. */
static ck_status add_piece(ck_unigram *u, const cursor *c, ck_error *err) {
    ck_piece p = {.id = u->largest + 1};
    uint64_t type;
    CK_TRY(read_piece(*c, &p, &type, err));
    if (type != NORMAL && type != UNKNOWN && type != CONTROL && type != UNUSED)
        return broken(c, "pieces of users and of single bytes are not implemented", err);
    if (type == UNKNOWN && u->unknown >= 0) return broken(c, "a second unknown piece", err);
    if (type == UNKNOWN) u->unknown = p.id;
    u->largest = p.id;
    if (type != UNUSED) u->pieces[u->count++] = p;
    return CK_OK;
}

/* ---- Settings ---- */

static ck_status read_trainer(cursor c, ck_error *err) {
    field f;
    while (c.at < c.end) {
        CK_TRY(read_field(&c, &f, err));
        if (f.number != 3 && f.number != 24 && f.number != 35) continue;
        CK_TRY(expect(&c, &f, VARINT, err));
        if (f.number == 3 && f.value != 1) return broken(&c, "is no unigram model", err);
        if (f.number != 3 && f.value)
            return broken(&c, "byte_fallback and treat_whitespace_as_suffix are not implemented",
                          err);
    }
    return CK_OK;
}

static ck_status read_normalizer(cursor c, ck_unigram *u, ck_error *err) {
    field f;
    while (c.at < c.end) {
        CK_TRY(read_field(&c, &f, err));
        if (f.number == 2) {
            CK_TRY(expect(&c, &f, BYTES, err));
            CK_TRY(ck_charsmap_parse(c.name, f.bytes, f.n, &u->map, err));
        } else if (f.number >= 3 && f.number <= 5) {
            CK_TRY(expect(&c, &f, VARINT, err));
            if (!f.value)
                return broken(&c, "spaces that are not treated as usual are not implemented", err);
        }
    }
    return CK_OK;
}

static ck_status read_model(ck_unigram *u, cursor c, ck_error *err) {
    field f;
    while (c.at < c.end) {
        CK_TRY(read_field(&c, &f, err));
        if (f.number < 1 || f.number > 3) continue;
        CK_TRY(expect(&c, &f, BYTES, err));
        cursor in = inside(&c, &f);
        CK_TRY(f.number == 1   ? add_piece(u, &in, err)
               : f.number == 2 ? read_trainer(in, err)
                               : read_normalizer(in, u, err));
    }
    return u->unknown >= 0 ? CK_OK : broken(&c, "there is no unknown piece", err);
}

ck_status ck_unigram__read_spiece(ck_unigram *u, const char *name, const void *data, size_t n,
                                  ck_error *err) {
    /* A piece takes two bytes at least. */
    u->bytes = ck_alloc(n + 1);
    u->pieces = ck_alloc_array(n / 2 + 1, sizeof *u->pieces);
    if (!u->bytes || !u->pieces) return ck_fail_memory(err, name);
    memcpy(u->bytes, data, n);
    u->largest = u->unknown = -1;
    u->plain_space = true;
    const unsigned char *start = (const unsigned char *)u->bytes;
    CK_TRY(read_model(u, (cursor){name, start, start, start + n}, err));
    return ck_unigram__finish(u, name, err);
}
