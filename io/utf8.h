/* UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef CK_UTF8_H
#define CK_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* The offset of the first byte that does not belong to valid UTF-8; n if there is none. */
size_t ck_utf8_check(const unsigned char *text, size_t n);

/* Writes a code point (not a surrogate) as 1 to 4 bytes; returns how many. */
size_t ck_utf8_encode(uint32_t code_point, char out[4]);

/* Replaces control characters, so that text from files cannot command a terminal. */
void ck_make_printable(char *text);

/* A copy like that in buf of size (at least 4) bytes, cut with "..." where it is too long. Returns
 * buf. */
const char *ck_printable(char *buf, size_t size, const char *text);

#endif
