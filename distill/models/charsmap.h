/* How SentencePiece brings text into one form before it is cut: a table of strings and what stands
 * for each (full-width letters, ligatures, accents apart from their letters, all kinds of space).
 *
 *   ck_charsmap map;
 *   CK_TRY(ck_charsmap_parse("spiece.model", blob, n, &map, err));
 *   CK_TRY(ck_charsmap_apply(&map, text, strlen(text), &normal, err));
 *   free(normal);
 *
 * The table is the precompiled_charsmap of a spiece.model or tokenizer.json: u32 LE size of a
 * double-array trie (Darts), the trie, texts that end in NUL. A unit of the trie is u32 LE: bit 31
 * and the low 31 bits are a leaf's value; else bits 0-7 are the label, bit 8 says whether a leaf
 * follows, bits 10-31 (times 256 where bit 9 is set) are what leads to the children, by exclusive
 * or.
 */
#ifndef CK_CHARSMAP_H
#define CK_CHARSMAP_H

#include "io/error.h"

#include <stddef.h>

typedef struct ck_charsmap {
    const unsigned char *units; /* of 4 bytes */
    size_t count;               /* 0: text stays as it is */
    const char *texts;
} ck_charsmap;

/* blob is borrowed; n 0: a map that changes nothing. CK_INPUT: anything in it leads outside. */
ck_status ck_charsmap_parse(const char *name, const void *blob, size_t n, ck_charsmap *map,
                            ck_error *err);

/* The longest string of the table that the text begins with is replaced, then what follows it, and
 * so on. *out, NUL-terminated, is to be released with free(). text is UTF-8. CK_INPUT: what comes
 * out is not UTF-8, or 64 times as long. */
ck_status ck_charsmap_apply(const ck_charsmap *map, const char *text, size_t n, char **out,
                            ck_error *err);

#endif
