/* Prompts as the numbers that text encoders take.
 *
 *   ck_tokenizer *t;
 *   CK_TRY(ck_tokenizer_open("model", "", &t, err));          "_2": the second text encoder's
 *   int32_t *ids = ck_alloc_array(ck_tokenizer_length(t), sizeof *ids);
 *   CK_TRY(ck_tokenizer_encode(t, "a photo of a cat", ids, &lost, err));
 *   ck_tokenizer_close(t);
 *
 * Two kinds: CLIP's byte-pair encoding (vocab.json and merges.txt, or where they are not
 * there, as in folders of transformers 5, tokenizer.json), with the same numbers as transformers'
 * CLIPTokenizer; and, for models with 32 tokens of vocabulary, one token per letter. One
 * difference: text is taken as it comes, not brought to NFC first. (Keyboards produce NFC.)
 */
#ifndef CK_TOKENIZER_H
#define CK_TOKENIZER_H

#include "io/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ck_tokenizer ck_tokenizer;

/* From FOLDER/tokenizer SUFFIX, as diffusers lays models out, else from FOLDER itself if it has a
 * vocab.json or tokenizer.json. Without one it is the letter tokenizer, if FOLDER/text_encoder
 * SUFFIX/config.json says that 32 tokens are all there are. CK_INPUT, with file and line, for
 * anything malformed. */
ck_status ck_tokenizer_open(const char *folder, const char *suffix, ck_tokenizer **t,
                            ck_error *err);
void ck_tokenizer_close(ck_tokenizer *t); /* NULL is allowed */

size_t ck_tokenizer_length(const ck_tokenizer *t);   /* of every encoded prompt: 77, or 16 */
int32_t ck_tokenizer_end(const ck_tokenizer *t);     /* the end token; the pooled output is at the
                                                        first of them */
int32_t ck_tokenizer_largest(const ck_tokenizer *t); /* of all tokens' numbers */
/* Whether it is known what pads: from the files of FOLDER/tokenizer SUFFIX, not of a folder for all
 * encoders. CLIP's vocabulary is also that of OpenCLIP's encoders, which were trained with "!",
 * its number 0, as padding; OpenAI's with the end token, which is taken unless one says otherwise.
 */
bool ck_tokenizer_knows_padding(const ck_tokenizer *t);
void ck_tokenizer_pad_openclip(ck_tokenizer *t);

/* Start, tokens, end, padding: ck_tokenizer_length() of them. *lost: how many tokens found no
 * place. CK_USAGE: not UTF-8, longer than 16 KiB, or (letters) a character that is none of a-z,
 * space, -. */
ck_status ck_tokenizer_encode(const ck_tokenizer *t, const char *prompt, int32_t *ids, size_t *lost,
                              ck_error *err);

#endif
