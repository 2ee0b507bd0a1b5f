/* UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef CK_UTF8_H
#define CK_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* The offset of the first byte that does not belong to valid UTF-8; n if there is none. */
size_t ck_utf8_check(const unsigned char *text, size_t n);

/* Writes a code point (not a surrogate) as 1 to 4 bytes; returns how many. */
size_t ck_utf8_encode(uint32_t code_point, char out[4]);

#endif
