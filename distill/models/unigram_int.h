/* A unigram tokenizer as the readers of its two kinds of files fill it; see unigram.h. */
#ifndef CK_UNIGRAM_INT_H
#define CK_UNIGRAM_INT_H

#include "distill/models/charsmap.h"
#include "distill/models/unigram.h"
#include "io/json.h"

#include <stdbool.h>

enum { CK_UNIGRAM__PIECE = 256 }; /* bytes of a piece at most */

typedef struct ck_piece {
    const char *text; /* n bytes, in doc or bytes */
    size_t n;
    double score;
    int32_t id;
} ck_piece;

struct ck_unigram {
    ck_json doc;      /* of tokenizer.json, */
    char *bytes;      /* or spiece.model */
    void *map_bytes;  /* of tokenizer.json's charsmap */
    ck_piece *pieces; /* by text */
    size_t count, longest;
    int32_t largest, unknown, end, pad;
    double unknown_score;
    bool plain_space; /* words end at no other space than U+0020 (spiece.model, whose table makes
                       * most others that) */
    ck_charsmap map;
};

/* Fill u, which is zeroed; what a failure leaves is for ck_unigram_close. name is for messages. */
ck_status ck_unigram__read_json(ck_unigram *u, const char *path, ck_error *err);
ck_status ck_unigram__read_spiece(ck_unigram *u, const char *name, const void *data, size_t n,
                                  ck_error *err);

/* When all pieces are there and `largest` and `unknown` are set. */
ck_status ck_unigram__finish(ck_unigram *u, const char *name, ck_error *err);

#endif
