/* SentencePiece's unigram tokenizer (Kudo, 2018), as T5 has it: a text is cut into the pieces whose
 * scores add up to most.
 *
 *   ck_unigram *u;
 *   CK_TRY(ck_unigram_open("model", "_2", &u, err));
 *   CK_TRY(ck_unigram_encode(u, "a photo of a cat", 512, ids, &lost, err));
 *   ck_unigram_close(u);
 *
 * The same numbers as SentencePiece itself gives, and transformers' T5Tokenizer. Text is brought
 * into the form that the tokenizer's file says (charsmap.h); runs of spaces are one space.
 */
#ifndef CK_UNIGRAM_H
#define CK_UNIGRAM_H

#include "io/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ck_unigram ck_unigram;

/* From tokenizer.json or, where that is not, SentencePiece's own spiece.model, in FOLDER/tokenizer
 * SUFFIX, as diffusers lays models out, else in FOLDER itself. CK_INPUT, with file and line or
 * byte, for anything malformed, and for kinds of tokenizers that it is not. */
ck_status ck_unigram_open(const char *folder, const char *suffix, ck_unigram **u, ck_error *err);
/* From the bytes of a spiece.model. */
ck_status ck_unigram_parse(const char *name, const void *data, size_t n, ck_unigram **u,
                           ck_error *err);
void ck_unigram_close(ck_unigram *u); /* NULL is allowed */

int32_t ck_unigram_largest(const ck_unigram *u); /* of all ids */

/* length ids: pieces, the end token, padding. *lost: how many pieces found no place. CK_USAGE: not
 * UTF-8, or longer than 16 KiB. */
ck_status ck_unigram_encode(const ck_unigram *u, const char *prompt, size_t length, int32_t *ids,
                            size_t *lost, ck_error *err);

#endif
